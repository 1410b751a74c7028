"""The command line: one file per command group, thin. Imports that cost time happen inside the commands."""
