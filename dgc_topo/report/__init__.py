"""Reports of results: tables, sentences, plots, drawings, and one HTML page."""
