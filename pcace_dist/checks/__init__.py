"""What rows of the data say about a job: accuracy, values, near-duplicates, groups. Pure; no files, no Ray."""
