"""Where effects are taken from in a model (places.py), and gradients there (gradients.py)."""
