"""Analysis of finished runs: what moved between two runs, and how a ranking compares with ablations. No Ray."""
