"""Moments: exact integer sums over rows of products of fixed-point values, by fold, and their covariances.

Pure tensors: no I/O, no Ray. The state is a function of the multiset of rows alone, as with the Gram.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pcace_dist.errors import StatisticsError

Floats: TypeAlias = npt.NDArray[np.float64]

_VALUES_AT_A_TIME = 1 << 22  # that become floats at the same time; a sum of so many products is exact


class Moments:
    """Sums for V variables over F folds.

    rows: int64 (F,). sums: int64 (F, V). products: int64 (F, V, V), symmetric. units: float64 (V,), what a step of each
    variable's grid is worth: covariances are in them.
    """

    def __init__(self, variables: int, folds: int, units: npt.ArrayLike = 1.0) -> None:
        self.units = np.broadcast_to(np.asarray(units, np.float64), (variables,))
        self.rows = torch.zeros(folds, dtype=torch.int64)
        self.sums = torch.zeros(folds, variables, dtype=torch.int64)
        self.products = torch.zeros(folds, variables, variables, dtype=torch.int64)

    @staticmethod
    def nbytes_of(variables: int, folds: int) -> int:
        """Bytes of such sums."""
        return 8 * folds * (variables + 1) * variables

    def update(self, values: Tensor, folds: Tensor) -> Moments:
        """Add rows: values int16 (n, V), folds integers (n,). Products are exact in float64: below 2^30 each."""
        if values.shape[1:] != self.sums.shape[1:]:
            raise StatisticsError(f"moments: values of shape {tuple(values.shape)} for {self.sums.shape[1]} variables")
        step = max(1, _VALUES_AT_A_TIME // max(1, values.shape[1]))
        for fold in range(len(self.rows)):
            own = values[folds == fold]
            self.rows[fold] += len(own)
            for part in torch.split(own, step):
                exact = part.double()
                self.sums[fold] += exact.sum(0).to(torch.int64)
                self.products[fold] += (exact.T @ exact).to(torch.int64)
        return self

    def merge(self, others: Iterable[Moments]) -> Moments:
        """Add the rows of others, which stay as they are."""
        for other in others:
            if other.products.shape != self.products.shape:
                raise StatisticsError("moments of different sizes")
            self.rows += other.rows
            self.sums += other.sums
            self.products += other.products
        return self

    def covariance(self) -> Floats:
        """Covariance (V, V) of all rows."""
        return self._covariance(self.rows.sum(), self.sums.sum(0), self.products.sum(0))

    def folds(self) -> Iterator[tuple[Floats, Floats]]:
        """For each fold that has rows: the covariance (V, V) of all other rows, and the fold's part of the covariance
        of all rows. These parts add up to it."""
        rows, sums, products = self.rows.sum(), self.sums.sum(0), self.products.sum(0)
        for fold in self.rows.nonzero().flatten().tolist():
            own_rows, own_sums, own_products = self.rows[fold], self.sums[fold], self.products[fold]
            rest = self._covariance(rows - own_rows, sums - own_sums, products - own_products)
            yield rest, self._part(own_rows, own_sums, own_products)

    def _covariance(self, rows: Tensor, sums: Tensor, products: Tensor) -> Floats:
        n = max(1, int(rows))
        mean = sums.double().numpy() / n
        return self._in_units(products.double().numpy() / n - np.outer(mean, mean))

    def _part(self, own_rows: Tensor, own_sums: Tensor, own_products: Tensor) -> Floats:
        """Mean over all rows of the products of some rows' deviations from the mean of all."""
        n = int(self.rows.sum())
        mean = self.sums.sum(0).double().numpy() / n
        crossed = np.outer(own_sums.double().numpy(), mean)
        squares = own_products.double().numpy() - crossed - crossed.T + int(own_rows) * np.outer(mean, mean)
        return self._in_units(squares / n)

    def _in_units(self, matrix: Floats) -> Floats:
        return np.asarray(matrix * np.outer(self.units, self.units))
