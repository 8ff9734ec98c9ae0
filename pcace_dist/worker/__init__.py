"""What a worker computes: pilot, units, reduce, evaluation. Without Ray."""
