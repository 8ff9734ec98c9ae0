"""Data sets: list shards, divide them into units, filter rows, read and decode them. No Ray, no models."""
