"""Analysis of finished runs: what moved between two of them, and what ablation says of a ranking. No Ray."""
