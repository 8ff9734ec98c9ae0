"""Data sets: list shards into units, read and decode them, filter rows, pack new shards. No Ray, no models."""
