"""Models: load one, choose its layers, tap their activation maps, read its targets. No Ray, no Parquet."""
