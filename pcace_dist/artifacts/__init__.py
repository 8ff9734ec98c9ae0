"""Every file of a run: its schema, its writer and its reader."""
