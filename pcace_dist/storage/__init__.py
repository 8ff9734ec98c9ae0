"""Objects on disk, S3 and gs://: how they are read and written, and when a failure is repeated."""
