"""Evaluation without a model: intervals, win rates, Bradley-Terry ratings, diversity. numpy and scipy only.

Left out: what to sample and how to judge it (domains do that).
"""
