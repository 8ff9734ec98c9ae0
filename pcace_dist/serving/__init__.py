"""`pcace serve`: a local, read-only page over the runs and schedules below a folder or an s3:// prefix."""
