"""What a worker does for `pcace evaluate`: rank without some folds, profile channels, ablate them. No Ray."""
