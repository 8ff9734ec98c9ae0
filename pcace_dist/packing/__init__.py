"""`pcace pack`: image folders, CSV, idx, WebDataset and Parquet into shards. Without Ray."""
