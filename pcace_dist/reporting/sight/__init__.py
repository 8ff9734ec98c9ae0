"""What a channel sees: receptive fields and pixels that excite it (stages, attribution), and images that are drawn to
excite it (synthesis)."""
