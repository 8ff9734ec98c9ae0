"""What there is to rank in a model: its layers, the globs that select them, and a transformer's tokens and heads."""
