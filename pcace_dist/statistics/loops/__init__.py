"""Loops that PyTorch has no operation for, compiled by Numba. Pure: tensors in, tensors out."""
