"""Streamlit runs this script for each view of a browser."""

from registry.dashboard.pages.menu import draw

draw()
