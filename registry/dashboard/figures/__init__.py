"""Plots: pure functions from what was read to plotly's figures."""
