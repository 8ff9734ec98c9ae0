"""The ablation study of docs/comparison.md: which order of channels finds what a model needs?

protocol.yaml is what was fixed before the confirming run. `python -m tests.benchmarks.ablation` follows it.
"""
