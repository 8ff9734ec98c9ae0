"""What a channel sees: maps (probe, tokens), receptive fields and pixels that excite it (stages, attribution), images
that are drawn to excite it (synthesis), and class evidence (cam)."""
