"""`pcace explain`: what the ranked channels do with one image."""
