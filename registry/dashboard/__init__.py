"""`ulora dashboard`: what the store says of a model, as pages in a browser. MLflow is never asked.

What a page needs is read by a module of its subject (`now`, `versions`, …), which returns frozen dataclasses and knows
no browser. `figures` makes plots of these, and `pages` draws both with Streamlit.
"""
