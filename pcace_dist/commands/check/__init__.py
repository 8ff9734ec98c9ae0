"""`pcace check`: everything that can be wrong with a job, in one go and in seconds."""
