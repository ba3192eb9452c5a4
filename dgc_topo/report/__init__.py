"""Report of what came out: tables, sentences, plots, drawings, and one HTML page."""
