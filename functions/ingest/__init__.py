"""The ingest function: files in, rows out."""
