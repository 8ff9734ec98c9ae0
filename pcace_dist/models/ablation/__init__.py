"""Channels that are replaced by constants (replacement.py, optimal.py), and simple scores of channels (profile.py)."""
