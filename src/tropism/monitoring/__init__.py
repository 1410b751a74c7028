"""Watching a run: over-optimisation of the proxy, drift of reward model and lengths, and where the time goes.

Left out: alerts and dashboards (metrics go to the study's own file; the report reads them).
"""
