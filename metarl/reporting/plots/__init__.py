"""Plots of runs, drawn without pyplot, which would keep global state."""
