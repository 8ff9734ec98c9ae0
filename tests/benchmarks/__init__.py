"""Benchmarks: ratios taken side by side in one run, never absolute claims. `make bench` prints a table and writes
JSON."""
