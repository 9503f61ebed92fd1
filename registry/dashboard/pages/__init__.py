"""The pages, drawn with Streamlit. Only this package and `server` import it."""
