"""What has happened in a run, record by record, and who holds it."""
