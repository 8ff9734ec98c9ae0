"""`make bench`: how fast it is, in ratios of the same run."""
