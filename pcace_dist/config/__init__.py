"""The job file: its keys with types and defaults, and where its paths lead."""
