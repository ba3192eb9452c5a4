"""What came out: records, results folders, tables, plots, drawings and the report."""
