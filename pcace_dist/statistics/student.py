"""Quantiles of Student's t, which intervals over jackknife folds go by. Pure: no I/O, no Ray."""

from __future__ import annotations


def t_quantile(folds: int, probability: float) -> float:
    """The quantile of Student's t with folds - 1 degrees of freedom.

    scipy is imported here, 0.15 s: workers and commands that end before there are scores do without.
    """
    from scipy.special import stdtrit

    return float(stdtrit(folds - 1, probability))
