"""Sample-level ACE with Friedman's supersmoother, for all channels of a layer at once. Pure: no I/O, no Ray.

The paper's own estimator, for samples of up to MAX_ROWS rows: transforms theta(y), phi_1(x_1) ... phi_p(x_p) by
alternating conditional expectations (Breiman & Friedman 1985). Each expectation is a running-line smoother, whose span
is chosen at every point by its cross-validated residual (Friedman 1984, "A variable span smoother"). The estimator is
not additive over rows, and has neither bias correction nor interval. Its values agree with those of R's acepack
(alpha = 5, the default) and of the Python package `ace` (alpha = 0).

Arrays are (channels, rows), with the rows of every component in ascending order. So all channels share the same
windows, and a running sum is a difference of two slices of a cumulative sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pcace_dist.errors import StatisticsError

Floats: TypeAlias = npt.NDArray[np.float64]
Index: TypeAlias = npt.NDArray[np.int64]

MIN_ROWS = 20
MAX_ROWS = 10_000
SPANS = (0.05, 0.2, 0.5)  # shares of the rows in the windows of the three running lines
TOLERANCE = 0.01  # of r^2, for convergence
SETTLED = 3  # iterations over which r^2 must stay within the tolerance
MAX_ITERATIONS = 20
BASS = 5.0  # the value in acepack's smoother, although the comments of its ACE part say 0
_TINY = 1e-3  # of the quartile distance: in narrower windows, the line has no slope
_BLOCK_FLOATS = 32_768  # channels x rows at a time: fits the CPU's cache


@dataclass(frozen=True, eq=False)
class Ace:
    """ACE of C channels: score and first_component (C,), theta (C, n), phi (C, p, n).

    score: correlation of theta(y) with the sum of the phi; first_component: |correlation| of phi_1(x_1) with theta(y),
    as the paper's published code reports; both 0 where a transform has no variance. theta has mean 0 and variance 1.
    """

    score: Floats
    first_component: Floats
    theta: Floats
    phi: Floats


def ace(components: npt.NDArray[np.floating], target: npt.NDArray[np.floating], *, alpha: float = BASS) -> Ace:
    """ACE of every channel's components (n, C, p) with the target (n,), both finite.

    alpha: Friedman's bass control, 0 (none) to 10: how strongly wide spans are preferred where this costs little. The
    start, the order of updates and the stopping rule are those of the original program. A component without variance
    gets phi = 0. StatisticsError for shapes that do not fit, for NaN, and for fewer than MIN_ROWS or more than MAX_ROWS
    rows.
    """
    x = np.asarray(components, dtype=np.float64)
    y = np.asarray(target, dtype=np.float64)
    _check(x, y)
    rows, channels, count = x.shape
    response = _Sorted(_standardised(y[None, :]), alpha)
    step = max(1, _BLOCK_FLOATS // rows)
    score, first_component = np.zeros(channels), np.zeros(channels)
    theta, phi = np.empty((channels, rows)), np.empty((channels, count, rows))
    for start in range(0, channels, step):
        block = slice(start, start + step)
        solved = _Block([_standardised(np.ascontiguousarray(x[:, block, i].T)) for i in range(count)], response)
        solved.solve()
        solved.phi[~solved.live] = 0.0
        theta[block], phi[block] = solved.theta, solved.phi.transpose(1, 0, 2)
        score[block] = _correlation(solved.theta, solved.phi.sum(axis=0))
        first_component[block] = np.abs(_correlation(solved.theta, solved.phi[0]))
    return Ace(score, first_component, theta, phi)


def _check(x: Floats, y: Floats) -> None:
    if x.ndim != 3 or y.shape != x.shape[:1]:
        raise StatisticsError(f"ACE: components {x.shape} and target {y.shape} where (n, C, p) and (n,) are due")
    if not MIN_ROWS <= len(y) <= MAX_ROWS:
        raise StatisticsError(
            f"ACE: {len(y)} images; the sample-level estimator takes {MIN_ROWS} to {MAX_ROWS}; "
            "use dataset.filter, group_by or estimator: gram"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise StatisticsError("ACE: components or target hold NaN or infinite values; set such rows aside before")


def _standardised(values: Floats) -> Floats:
    """Rows with mean 0 and variance 1; rows that do not vary are 0."""
    centred = values - values.mean(axis=1, keepdims=True)
    scale = np.sqrt(np.square(centred).mean(axis=1, keepdims=True))
    moving = scale > 1e-12 * np.abs(values).max(axis=1, keepdims=True)
    return np.where(moving, centred / np.where(moving, scale, 1.0), 0.0)


def _correlation(left: Floats, right: Floats) -> Floats:
    a, b = left - left.mean(axis=1, keepdims=True), right - right.mean(axis=1, keepdims=True)
    norms = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    moving = norms > 1e-12 * left.shape[1]
    return np.asarray(np.where(moving, (a * b).sum(axis=1) / np.where(moving, norms, 1.0), 0.0))


class _Line:
    """The running straight line for one span: everything that does not depend on the ordinates."""

    def __init__(self, x: Floats, span: float, narrow: Floats) -> None:
        rows = x.shape[1]
        self.half = min(max(2, int(0.5 * span * rows + 0.5)), (rows - 1) // 2)
        self.width = 2 * self.half + 1
        self.mean = self.window(x) / self.width
        deviation = x - self.mean
        variance = self.window(x * x) - self.width * self.mean**2
        steep = variance > narrow
        inverse = np.where(steep, 1.0 / np.where(steep, variance, 1.0), 0.0)
        self.gain = deviation * inverse
        leverage = 1.0 / self.width + deviation * self.gain
        self.inflation = 1.0 / np.maximum(1.0 - leverage, 1e-10)

    def window(self, values: Floats) -> Floats:
        """Sums over the window around every row; near the ends, the window stays inside the rows."""
        rows, half, width = values.shape[1], self.half, self.width
        total = np.cumsum(values, axis=1)
        result = np.empty_like(values)
        result[:, half + 1 : rows - half] = total[:, width:] - total[:, :-width]
        result[:, : half + 1] = total[:, width - 1 : width]
        result[:, rows - half :] = result[:, rows - half - 1 : rows - half]
        return result

    def fit(self, y: Floats, x_y: Floats) -> Floats:
        """The line's value at every row, for ordinates y and their products with x."""
        sums = self.window(y)
        result = self.window(x_y)
        result -= self.mean * sums
        result *= self.gain
        sums /= self.width
        result += sums
        return result

    def take(self, channels: Index) -> _Line:
        line = object.__new__(_Line)
        line.half, line.width = self.half, self.width
        line.mean, line.gain, line.inflation = self.mean[channels], self.gain[channels], self.inflation[channels]
        return line


class _Sorted:
    """One component of every channel (or the target: one row for all channels) in ascending order, and its smoother."""

    def __init__(self, values: Floats, alpha: float) -> None:
        self.alpha = alpha
        self.order = np.argsort(values, axis=1, kind="stable")
        self.x = np.take_along_axis(values, self.order, axis=1)
        narrow = (_TINY * _quartile_distance(self.x)) ** 2
        self.lines = [_Line(self.x, span, narrow[:, None]) for span in SPANS]
        self.ties = _Ties.of(self.x)

    def take(self, channels: Index) -> _Sorted:
        """The same object for some of the channels."""
        if len(self.x) == 1:
            return self
        selected = object.__new__(_Sorted)
        selected.alpha, selected.order, selected.x = self.alpha, self.order[channels], self.x[channels]
        selected.lines = [line.take(channels) for line in self.lines]
        selected.ties = self.ties.take(channels) if self.ties else None
        return selected

    def sort(self, values: Floats) -> Floats:
        """Values (C, n) in the order of the component."""
        if len(self.order) == 1:
            return values[:, self.order[0]]
        return np.take_along_axis(values, self.order, axis=1)

    def unsort(self, values: Floats) -> Floats:
        """Undoes `sort`."""
        result = np.empty_like(values)
        if len(self.order) == 1:
            result[:, self.order[0]] = values
        else:
            np.put_along_axis(result, self.order, values, axis=1)
        return result

    def smooth(self, y: Floats) -> Floats:
        """Supersmoother of sorted ordinates (C, n)."""
        fits, residuals = [], []
        x_y = self.x * y
        for line in self.lines:
            fit = self._level(line.fit(y, x_y))
            fits.append(fit)
            residual = np.abs(y - fit)
            residual *= line.inflation
            residuals.append(self._running(residual, 1))
        span = self._running(self._best_span(residuals), 1)
        return self._running(_blend(fits, span), 0)

    def _running(self, values: Floats, line: int) -> Floats:
        return self._level(self.lines[line].fit(values, self.x * values))

    def _level(self, values: Floats) -> Floats:
        """The mean value for rows with equal x."""
        return self.ties.level(values) if self.ties else values

    def _best_span(self, residuals: list[Floats]) -> Floats:
        low, middle, high = residuals
        span = np.where(middle < low, SPANS[1], SPANS[0])
        smallest = np.minimum(low, middle)
        span[high < smallest] = SPANS[2]
        if 0.0 < self.alpha <= 10.0:
            np.minimum(smallest, high, out=smallest)
            ratio = np.clip(smallest / np.maximum(high, 1e-300), 1e-7, None) ** (10.0 - self.alpha)
            span += np.where(smallest < high, (SPANS[2] - span) * ratio, 0.0)
        return span


def _blend(fits: list[Floats], span: Floats) -> Floats:
    """Interpolates the three fits at the smoothed span."""
    low, middle, high = fits
    span = np.clip(span, SPANS[0], SPANS[2])
    up = np.clip((span - SPANS[1]) / (SPANS[2] - SPANS[1]), 0.0, None)
    down = np.clip((SPANS[1] - span) / (SPANS[1] - SPANS[0]), 0.0, None)
    result = middle + up * (high - middle)
    result += down * (low - middle)
    return result


def _quartile_distance(x: Floats) -> Floats:
    """Distance (C,) between the quartiles of sorted rows; where it is 0, both move outwards until it is positive."""
    rows = x.shape[1]
    low = rows // 4 - 1
    high = 3 * (rows // 4) - 1
    distance = x[:, high] - x[:, low]
    flat = np.flatnonzero(distance <= 0)
    if len(flat):
        steps = np.arange(rows)
        distances = x[flat][:, np.minimum(high + steps, rows - 1)] - x[flat][:, np.maximum(low - steps, 0)]
        distance[flat] = distances[np.arange(len(flat)), np.argmax(distances > 0, axis=1)]
    return np.asarray(distance)


@dataclass(frozen=True, eq=False)
class _Ties:
    """For each row, the first and last row (C, n) with the same abscissa."""

    first: Index
    last: Index

    @staticmethod
    def of(x: Floats) -> _Ties | None:
        rows = x.shape[1]
        begins = np.ones(x.shape, dtype=bool)
        begins[:, 1:] = x[:, 1:] > x[:, :-1]
        if begins.all():
            return None
        positions = np.arange(rows)
        first = np.maximum.accumulate(np.where(begins, positions, 0), axis=1)
        is_last = np.ones_like(begins)
        is_last[:, :-1] = begins[:, 1:]
        last = np.minimum.accumulate(np.where(is_last, positions, rows)[:, ::-1], axis=1)[:, ::-1]
        return _Ties(first, np.ascontiguousarray(last))

    def take(self, channels: Index) -> _Ties:
        return _Ties(self.first[channels], self.last[channels])

    def level(self, values: Floats) -> Floats:
        total = np.zeros((values.shape[0], values.shape[1] + 1))
        np.cumsum(values, axis=1, out=total[:, 1:])
        first, last = np.broadcast_to(self.first, values.shape), np.broadcast_to(self.last, values.shape)
        sums = np.take_along_axis(total, last + 1, axis=1) - np.take_along_axis(total, first, axis=1)
        return np.asarray(np.where(last > first, sums / (last + 1 - first), values))


class _Block:
    """ACE of some channels together; channels that have converged are dropped."""

    def __init__(self, components: list[Floats], response: _Sorted) -> None:
        channels, rows = components[0].shape
        self.x = [_Sorted(values, response.alpha) for values in components]
        self.live = np.stack([values.any(axis=1) for values in components])
        self.y = response
        self.theta = np.repeat(response.unsort(response.x), channels, axis=0)
        self.phi = _regression(np.stack(components), self.theta)
        self.squared = np.zeros(channels)
        self.rows = rows

    def solve(self) -> None:
        active = np.arange(len(self.theta))
        recent = np.full((len(active), SETTLED), 100.0)
        x = self.x
        for number in range(MAX_ITERATIONS):
            phi, squared = self._backfit(x, self.theta[active], self.phi[:, active], self.squared[active])
            theta, moving = self._respond(phi)
            self.phi[:, active] = phi
            self.theta[active[moving]] = theta[moving]
            squared = np.where(moving, 1.0 - np.square(theta - phi.sum(axis=0)).mean(axis=1), squared)
            self.squared[active] = squared
            recent[:, number % SETTLED] = squared
            unsettled = moving & (recent.max(axis=1) - recent.min(axis=1) > TOLERANCE)
            if not unsettled.any():
                return
            remaining = np.flatnonzero(unsettled)
            if len(remaining) < len(active):
                active, recent, x = active[remaining], recent[remaining], [component.take(remaining) for component in x]

    def _backfit(self, x: list[_Sorted], theta: Floats, phi: Floats, squared: Floats) -> tuple[Floats, Floats]:
        """Updates each phi in turn, for fixed theta, until a round improves r^2 by no more than the tolerance."""
        phi, squared = phi.copy(), squared.copy()
        active = np.arange(len(theta))
        residual = theta - phi.sum(axis=0)
        for _ in range(MAX_ITERATIONS):
            previous = squared[active]
            for index, component in enumerate(x):
                aim = component.sort(residual[active] + phi[index, active])
                fit = component.smooth(aim)
                fit -= fit.mean(axis=1, keepdims=True)
                fit_residual = aim - fit
                r_squared = 1.0 - np.square(fit_residual).mean(axis=1)
                better = r_squared > squared[active]
                changed = active[better]
                squared[changed] = r_squared[better]
                phi[index, changed] = component.unsort(fit)[better]
                residual[changed] = component.unsort(fit_residual)[better]
            improving = squared[active] - previous > TOLERANCE
            if len(x) == 1 or not improving.any():
                break
            remaining = np.flatnonzero(improving)
            if len(remaining) < len(active):
                active, x = active[remaining], [component.take(remaining) for component in x]
        return phi, squared

    def _respond(self, phi: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """theta: the sum of the phi, smoothed over y and standardised; and whether it varies."""
        fit = self.y.smooth(self.y.sort(phi.sum(axis=0)))
        fit -= fit.mean(axis=1, keepdims=True)
        variance = np.square(fit).mean(axis=1, keepdims=True)
        moving = variance > 1e-24
        theta = self.y.unsort(fit / np.sqrt(np.where(moving, variance, 1.0)))
        return theta, moving[:, 0]


def _regression(x: Floats, y: Floats) -> Floats:
    """The start: the terms (p, C, n) of the linear regression of y (C, n) on x (p, C, n)."""
    by_channel = x.transpose(1, 0, 2)
    products = by_channel @ by_channel.transpose(0, 2, 1)
    slopes = np.linalg.pinv(products, rcond=1e-10, hermitian=True) @ (by_channel @ y[:, :, None])
    return np.asarray(x * slopes[:, :, 0].T[:, :, None])
