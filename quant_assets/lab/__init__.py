"""The lab: look at what is stored, and start runs, in a browser. The only package that imports Streamlit."""
