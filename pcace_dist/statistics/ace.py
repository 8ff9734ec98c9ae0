"""Sample-level ACE with Friedman's supersmoother, for all channels of a layer at once. Pure: no I/O, no Ray.

The paper's own estimator, for samples of up to MAX_ROWS rows: transforms theta(y), phi_1(x_1) ... phi_p(x_p) by
alternating conditional expectations (Breiman & Friedman 1985), each expectation a running-line smoother whose span is
chosen at every point by its cross-validated residual (Friedman 1984, "A variable span smoother"). It is not additive
over rows, knows no bias correction and gives no interval; the values agree with those of R's
acepack (alpha = 5, the default) and of the Python package `ace` (alpha = 0).

Arrays are (channels, rows) with the rows of every component in ascending order, so that all channels share the same
windows: a running sum is a difference of two slices of a cumulative sum.
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
TOLERANCE = 0.01  # of r^2: when an iteration counts as settled
SETTLED = 3  # iterations over which r^2 must stay within the tolerance
MAX_ITERATIONS = 20
BASS = 5.0  # what acepack's smoother works with, though the comments of its ACE part say 0
_TINY = 1e-3  # of the quartile distance: windows narrower than this have no slope
_BLOCK_FLOATS = 32_768  # channels x rows worked on at a time: fits the processor's cache


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

    alpha: Friedman's bass control, 0 (none) to 10: how far spans are drawn to the widest where that costs little.
    Start, order of the updates, and the rule to stop are those of the original program. A component without variance
    gets phi = 0. StatisticsError for shapes that do not fit, NaN, and for fewer than MIN_ROWS or more than MAX_ROWS
    rows.
    """
    x = np.asarray(components, dtype=np.float64)
    y = np.asarray(target, dtype=np.float64)
    _check(x, y)
    rows, channels, count = x.shape
    response = _Sorted(_standardised(y[None, :]), alpha)
    step = max(1, _BLOCK_FLOATS // rows)
    score, first = np.zeros(channels), np.zeros(channels)
    theta, phi = np.empty((channels, rows)), np.empty((channels, count, rows))
    for start in range(0, channels, step):
        block = slice(start, start + step)
        part = _Block([_standardised(np.ascontiguousarray(x[:, block, i].T)) for i in range(count)], response)
        part.solve()
        part.phi[~part.live] = 0.0
        theta[block], phi[block] = part.theta, part.phi.transpose(1, 0, 2)
        score[block] = _correlation(part.theta, part.phi.sum(axis=0))
        first[block] = np.abs(_correlation(part.theta, part.phi[0]))
    return Ace(score, first, theta, phi)


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


def _correlation(one: Floats, other: Floats) -> Floats:
    a, b = one - one.mean(axis=1, keepdims=True), other - other.mean(axis=1, keepdims=True)
    norms = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    moving = norms > 1e-12 * one.shape[1]
    return np.asarray(np.where(moving, (a * b).sum(axis=1) / np.where(moving, norms, 1.0), 0.0))


class _Line:
    """The running straight line of one span: everything that does not depend on the ordinates."""

    def __init__(self, x: Floats, span: float, narrow: Floats) -> None:
        rows = x.shape[1]
        self.half = min(max(2, int(0.5 * span * rows + 0.5)), (rows - 1) // 2)
        self.width = 2 * self.half + 1
        self.mean = self.window(x) / self.width
        apart = x - self.mean
        variance = self.window(x * x) - self.width * self.mean**2
        steep = variance > narrow
        inverse = np.where(steep, 1.0 / np.where(steep, variance, 1.0), 0.0)
        self.gain = apart * inverse
        leverage = 1.0 / self.width + apart * self.gain
        self.inflation = 1.0 / np.maximum(1.0 - leverage, 1e-10)

    def window(self, values: Floats) -> Floats:
        """Sums over the window about every row; near the ends the window stays inside."""
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

    def take(self, kept: Index) -> _Line:
        line = object.__new__(_Line)
        line.half, line.width = self.half, self.width
        line.mean, line.gain, line.inflation = self.mean[kept], self.gain[kept], self.inflation[kept]
        return line


class _Sorted:
    """One component of every channel in ascending order (or the target: one row for all channels), and its smoother."""

    def __init__(self, values: Floats, alpha: float) -> None:
        self.alpha = alpha
        self.order = np.argsort(values, axis=1, kind="stable")
        self.x = np.take_along_axis(values, self.order, axis=1)
        narrow = (_TINY * _quartile_distance(self.x)) ** 2
        self.lines = [_Line(self.x, span, narrow[:, None]) for span in SPANS]
        self.ties = _Ties.of(self.x)

    def take(self, kept: Index) -> _Sorted:
        """The same for some of the channels."""
        if len(self.x) == 1:
            return self
        taken = object.__new__(_Sorted)
        taken.alpha, taken.order, taken.x = self.alpha, self.order[kept], self.x[kept]
        taken.lines = [line.take(kept) for line in self.lines]
        taken.ties = self.ties.take(kept) if self.ties else None
        return taken

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
        """One value for rows that tie in x."""
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
    """Distance (C,) of the quartiles of sorted rows, moved outwards together until it is positive."""
    rows = x.shape[1]
    low = rows // 4 - 1
    high = 3 * (rows // 4) - 1
    distance = x[:, high] - x[:, low]
    flat = np.flatnonzero(distance <= 0)
    if len(flat):
        steps = np.arange(rows)
        apart = x[flat][:, np.minimum(high + steps, rows - 1)] - x[flat][:, np.maximum(low - steps, 0)]
        distance[flat] = apart[np.arange(len(flat)), np.argmax(apart > 0, axis=1)]
    return np.asarray(distance)


@dataclass(frozen=True, eq=False)
class _Ties:
    """First and last row (C, n) of the run of equal abscissae that each row belongs to."""

    first: Index
    last: Index

    @staticmethod
    def of(x: Floats) -> _Ties | None:
        rows = x.shape[1]
        new = np.ones(x.shape, dtype=bool)
        new[:, 1:] = x[:, 1:] > x[:, :-1]
        if new.all():
            return None
        places = np.arange(rows)
        first = np.maximum.accumulate(np.where(new, places, 0), axis=1)
        ends = np.ones_like(new)
        ends[:, :-1] = new[:, 1:]
        last = np.minimum.accumulate(np.where(ends, places, rows)[:, ::-1], axis=1)[:, ::-1]
        return _Ties(first, np.ascontiguousarray(last))

    def take(self, kept: Index) -> _Ties:
        return _Ties(self.first[kept], self.last[kept])

    def level(self, values: Floats) -> Floats:
        total = np.zeros((values.shape[0], values.shape[1] + 1))
        np.cumsum(values, axis=1, out=total[:, 1:])
        first, last = np.broadcast_to(self.first, values.shape), np.broadcast_to(self.last, values.shape)
        sums = np.take_along_axis(total, last + 1, axis=1) - np.take_along_axis(total, first, axis=1)
        return np.asarray(np.where(last > first, sums / (last + 1 - first), values))


class _Block:
    """ACE of some channels in step; channels that have settled leave."""

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
            going = moving & (recent.max(axis=1) - recent.min(axis=1) > TOLERANCE)
            if not going.any():
                return
            kept = np.flatnonzero(going)
            if len(kept) < len(active):
                active, recent, x = active[kept], recent[kept], [one.take(kept) for one in x]

    def _backfit(self, x: list[_Sorted], theta: Floats, phi: Floats, squared: Floats) -> tuple[Floats, Floats]:
        """Updates the phi in turn, for fixed theta, until r^2 gains no more than the tolerance in a round."""
        phi, squared = phi.copy(), squared.copy()
        active = np.arange(len(theta))
        rest = theta - phi.sum(axis=0)
        for _ in range(MAX_ITERATIONS):
            before = squared[active]
            for index, component in enumerate(x):
                aim = component.sort(rest[active] + phi[index, active])
                fit = component.smooth(aim)
                fit -= fit.mean(axis=1, keepdims=True)
                left = aim - fit
                r_squared = 1.0 - np.square(left).mean(axis=1)
                better = r_squared > squared[active]
                changed = active[better]
                squared[changed] = r_squared[better]
                phi[index, changed] = component.unsort(fit)[better]
                rest[changed] = component.unsort(left)[better]
            going = squared[active] - before > TOLERANCE
            if len(x) == 1 or not going.any():
                break
            kept = np.flatnonzero(going)
            if len(kept) < len(active):
                active, x = active[kept], [component.take(kept) for component in x]
        return phi, squared

    def _respond(self, phi: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """theta as the standardised smooth of the sum of the phi over y, and whether it varies."""
        fit = self.y.smooth(self.y.sort(phi.sum(axis=0)))
        fit -= fit.mean(axis=1, keepdims=True)
        variance = np.square(fit).mean(axis=1, keepdims=True)
        moving = variance > 1e-24
        theta = self.y.unsort(fit / np.sqrt(np.where(moving, variance, 1.0)))
        return theta, moving[:, 0]


def _regression(x: Floats, y: Floats) -> Floats:
    """Start: the linear regression of y (C, n) on x (p, C, n), as its terms (p, C, n)."""
    by_channel = x.transpose(1, 0, 2)
    products = by_channel @ by_channel.transpose(0, 2, 1)
    slopes = np.linalg.pinv(products, rcond=1e-10, hermitian=True) @ (by_channel @ y[:, :, None])
    return np.asarray(x * slopes[:, :, 0].T[:, :, None])
