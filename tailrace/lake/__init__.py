"""The warehouse: DuckDB lives in this package only. It knows nothing of AWS's APIs."""
