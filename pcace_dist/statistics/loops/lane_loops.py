"""Linear algebra of many small problems side by side, in compiled loops: one problem in each lane, the last axis.

Pure arrays: no I/O, no Ray. Every operation is done lane by lane in one order and rounded by itself (no FMA). So the
bits of a lane depend neither on the other lanes nor on the processor. Products of matrices are summed over tiles, two
rows by four columns of lanes, which stay in registers.

M: size of a matrix, p K. Q: columns of a whitened target. L: WIDTH. Imports Numba: only lanes.py imports this module,
where the loops are needed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pcace_dist.statistics.loops.vectors import LANES, absolute, any_greater, every, load, root, store, where_greater

WIDTH = LANES
_SWEEPS = 16  # at most; seven are enough for matrices of 8 x 8
_NOTHING = 2.0**-56  # of the trace: what lies beside the diagonal and is as small is 0


def solve(
    sums: np.ndarray,
    total: np.ndarray,
    products: np.ndarray,
    product_total: np.ndarray,
    left_out: np.ndarray,
    rows: np.ndarray,
    lamda: np.ndarray,
    of_channels: np.ndarray,
    of_replicates: np.ndarray,
    places: np.ndarray,
    knots: int,
    columns: int,
    scale: int,
    least: float,
    share: float,
    squared: np.ndarray,
    phi: np.ndarray,
    best: np.ndarray,
) -> None:
    """All channels in all replicates, for all targets: into squared (T, C, R) r^2, and of the first replicate into phi
    (T, C, M) and best (T, C, Q); into total (C, XX) and product_total (T, C, M K) the totals over folds.

    sums: of hats' products, packed, (C, F, XX); products: with the targets' hats, (T, C, F, M K). left_out: the fold
    that each replicate is without, -1 for none, (R,); rows, lamda: its rows and penalty (R,). of_channels: (C, p (3 K +
    3 (K - 2))), bands of the penalty's matrices, then left, right and weight of the knots' curvature. of_replicates:
    (T, R, K + K Q + Q Q), means, white and variance of a target.
    """
    count, size = squared.shape[1] * len(rows), places.shape[0]
    components, inner = size // knots, knots - 2
    lane_entries, lane_products = np.empty((sums.shape[2], WIDTH)), np.empty((products.shape[3], WIDTH))
    own, factor, half = np.empty((3, size, WIDTH)), np.empty((size, size, WIDTH)), np.empty((size, columns, WIDTH))
    ridge, inverse, x = np.empty((size, WIDTH)), np.empty((size, WIDTH)), np.empty((size, WIDTH))
    square, chosen = np.empty((columns, columns, WIDTH)), np.empty((columns, WIDTH))
    lane_rows, lane_lamda, top, result = np.empty(WIDTH), np.empty(WIDTH), np.empty(WIDTH), np.empty(WIDTH)
    channel, replicate, fold = np.empty(WIDTH, np.int64), np.empty(WIDTH, np.int64), np.empty(WIDTH, np.int64)
    of_channel, of_replicate = np.empty((of_channels.shape[1], WIDTH)), np.empty((of_replicates.shape[2], WIDTH))
    bands = of_channel[: 3 * size].reshape((components, knots, 3, WIDTH))
    bends = of_channel[3 * size :].reshape((components, inner, 3, WIDTH))
    means = of_replicate[:knots]
    white = of_replicate[knots : knots + knots * columns].reshape((knots, columns, WIDTH))
    variance = of_replicate[knots + knots * columns :].reshape((columns, columns, WIDTH))
    totals(sums, total)
    for target in range(len(products)):
        totals(products[target], product_total[target])
    for first in range(0, count, WIDTH):
        for lane in range(WIDTH):
            number = min(first + lane, count - 1)
            channel[lane], replicate[lane] = number // len(rows), number % len(rows)
            fold[lane] = left_out[replicate[lane]]
            lane_rows[lane], lane_lamda[lane] = rows[replicate[lane]], lamda[replicate[lane]]
        gather(of_channels, channel, of_channel)
        spread(sums, total, channel, fold, lane_entries)
        hats(lane_entries, lane_rows, knots, scale, least, own)
        centre(lane_entries, places, own, factor)
        penalise(factor, bands, lane_lamda, share, ridge)
        factorise(factor, inverse)
        for target in range(len(products)):
            gather(of_replicates[target], replicate, of_replicate)
            spread(products[target], product_total[target], channel, fold, lane_products)
            whiten(lane_products, own, means, white, half)
            forward(factor, inverse, half)
            squares(half, square)
            largest(square, top, chosen)
            backward(factor, inverse, half, chosen, x)
            correlate(x, ridge, bends, lane_lamda, top, variance, chosen, result)
            for lane in range(min(WIDTH, count - first)):
                squared[target, channel[lane], replicate[lane]] = result[lane]
                if replicate[lane] == 0:
                    phi[target, channel[lane]] = x[:, lane]
                    best[target, channel[lane]] = chosen[:, lane]


def totals(sums: np.ndarray, out: np.ndarray) -> None:
    """Into out (C, X): the totals over folds of sums (C, F, X)."""
    for channel in range(sums.shape[0]):
        out[channel] = 0.0
        for fold in range(sums.shape[1]):
            for entry in range(sums.shape[2]):
                out[channel, entry] += sums[channel, fold, entry]


def spread(sums: np.ndarray, total: np.ndarray, channel: np.ndarray, fold: np.ndarray, out: np.ndarray) -> None:
    """Into out (X, L): a channel's total (C, X) less one fold's sums (C, F, X); less nothing where fold is -1."""
    entries = sums.shape[2]
    rows = np.empty((WIDTH, entries))
    for lane in range(WIDTH):
        c, f = channel[lane], fold[lane]
        row = rows[lane]
        if f < 0:
            for entry in range(entries):
                row[entry] = total[c, entry]
        else:
            for entry in range(entries):
                row[entry] = total[c, entry] - sums[c, f, entry]
    for entry in range(entries):
        for lane in range(WIDTH):
            out[entry, lane] = rows[lane, entry]


def gather(values: np.ndarray, index: np.ndarray, out: np.ndarray) -> None:
    """Into out (X, L): values (N, X) of each lane's index (L,)."""
    for lane in range(WIDTH):
        for entry in range(values.shape[1]):
            out[entry, lane] = values[index[lane], entry]


def hats(entries: np.ndarray, rows: np.ndarray, knots: int, scale: int, least: float, out: np.ndarray) -> None:
    """Into out (3, M, L): sums of hats, their means over the rows (L,), and 1 for hats that move, else 0; from packed
    products (XX, L). A hat moves where its variance is more than `least` of its mean square."""
    width, count, unit = 2 * knots - 1, load(rows, ()), every(float(scale))
    for i in range(out.shape[1]):
        place, knot = i // knots * width + i % knots, i % knots
        square = load(entries, (place,))
        total = square
        if knot > 0:
            total = total + load(entries, (place + knots - 1,))
        if knot < knots - 1:
            total = total + load(entries, (place + knots,))
        total = total / unit
        mean = total / count
        store(out, (0, i), total)
        store(out, (1, i), mean)
        store(out, (2, i), where_greater(square - total * mean, every(least) * square, every(1.0), every(0.0)))


def centre(entries: np.ndarray, places: np.ndarray, own: np.ndarray, out: np.ndarray) -> None:
    """Into the upper half of out (M, M, L): products (XX, L) at places (M, M), 0 beyond XX, less sums x means; 0 for
    hats that do not move. own: from `hats`."""
    size = places.shape[0]
    for i in range(size):
        total, moving = load(own, (0, i)), load(own, (2, i))
        for j in range(i, size):
            value = total * load(own, (1, j))
            place = places[i, j]
            value = load(entries, (place,)) - value if place < entries.shape[0] else every(-1.0) * value
            store(out, (i, j), value * (moving * load(own, (2, j))))


def penalise(matrices: np.ndarray, bands: np.ndarray, lamda: np.ndarray, share: float, ridge: np.ndarray) -> None:
    """Adds lamda (L,) x the penalty to the upper half of matrices (M, M, L), then to the diagonal its ridge (M, L),
    `share` of it. bands: (p, K, 3, L), of each knot the penalty's entries with itself and the next two."""
    knots, weight, zero, one = bands.shape[1], load(lamda, ()), every(0.0), every(1.0)
    for i in range(matrices.shape[0]):
        component, knot = i // knots, i % knots
        for beside in range(min(3, knots - knot)):
            place = (i, i + beside)
            store(matrices, place, load(matrices, place) + weight * load(bands, (component, knot, beside)))
        diagonal = load(matrices, (i, i))
        own = diagonal * every(share)
        store(ridge, (i,), own)
        store(matrices, (i, i), where_greater(diagonal, zero, diagonal + own, one))


def factorise(matrices: np.ndarray, inverse: np.ndarray) -> None:
    """The upper Cholesky factors of matrices (M, M, L) in place, and 1 / their diagonal (M, L): 0 where a pivot is not
    positive."""
    size = matrices.shape[0]
    for i in range(0, size - 1, 2):
        one, beside, two = load(matrices, (i, i)), load(matrices, (i, i + 1)), load(matrices, (i + 1, i + 1))
        for k in range(i):
            first, second = load(matrices, (k, i)), load(matrices, (k, i + 1))
            one, beside, two = one - first * first, beside - first * second, two - second * second
        over = over_root(one)
        beside = beside * over
        two = two - beside * beside
        below = over_root(two)
        store(inverse, (i,), over)
        store(inverse, (i + 1,), below)
        store(matrices, (i, i), one * over)
        store(matrices, (i, i + 1), beside)
        store(matrices, (i + 1, i + 1), two * below)
        two_rows(matrices, inverse, i, matrices, i + 2)
    if size % 2:
        one = load(matrices, (size - 1, size - 1))
        for k in range(size - 1):
            first = load(matrices, (k, size - 1))
            one = one - first * first
        over = over_root(one)
        store(inverse, (size - 1,), over)
        store(matrices, (size - 1, size - 1), one * over)


def over_root(pivot: Any) -> Any:
    """1 / the root of a pivot, a vector; 0 where it is not positive."""
    zero, one = every(0.0), every(1.0)
    return where_greater(pivot, zero, one / root(pivot), zero)


def two_rows(factor: np.ndarray, inverse: np.ndarray, i: int, sides: np.ndarray, first: int) -> None:
    """Rows i and i + 1 of the solution of factor' x = sides (M, N, L), in place, from column `first` on; the rows above
    are solved already."""
    over, below, beside = load(inverse, (i,)), load(inverse, (i + 1,)), load(factor, (i, i + 1))
    j = first
    while j + 4 <= sides.shape[1]:
        a, b, c, d = load(sides, (i, j)), load(sides, (i, j + 1)), load(sides, (i, j + 2)), load(sides, (i, j + 3))
        e, f = load(sides, (i + 1, j)), load(sides, (i + 1, j + 1))
        g, h = load(sides, (i + 1, j + 2)), load(sides, (i + 1, j + 3))
        for k in range(i):
            one, two = load(factor, (k, i)), load(factor, (k, i + 1))
            side = load(sides, (k, j))
            a, e = a - one * side, e - two * side
            side = load(sides, (k, j + 1))
            b, f = b - one * side, f - two * side
            side = load(sides, (k, j + 2))
            c, g = c - one * side, g - two * side
            side = load(sides, (k, j + 3))
            d, h = d - one * side, h - two * side
        a, b, c, d = a * over, b * over, c * over, d * over
        store(sides, (i, j), a)
        store(sides, (i, j + 1), b)
        store(sides, (i, j + 2), c)
        store(sides, (i, j + 3), d)
        store(sides, (i + 1, j), (e - beside * a) * below)
        store(sides, (i + 1, j + 1), (f - beside * b) * below)
        store(sides, (i + 1, j + 2), (g - beside * c) * below)
        store(sides, (i + 1, j + 3), (h - beside * d) * below)
        j += 4
    while j < sides.shape[1]:
        a, e = load(sides, (i, j)), load(sides, (i + 1, j))
        for k in range(i):
            side = load(sides, (k, j))
            a, e = a - load(factor, (k, i)) * side, e - load(factor, (k, i + 1)) * side
        a = a * over
        store(sides, (i, j), a)
        store(sides, (i + 1, j), (e - beside * a) * below)
        j += 1


def whiten(products: np.ndarray, own: np.ndarray, means: np.ndarray, white: np.ndarray, out: np.ndarray) -> None:
    """Into out (M, Q, L): products with the target's hats (M K, L), less sums x means (K, L), times white (K, Q, L)."""
    knots, columns = white.shape[0], white.shape[1]
    cross = np.empty((knots, WIDTH))
    for i in range(out.shape[0]):
        total, moving = load(own, (0, i)), load(own, (2, i))
        for k in range(knots):
            store(cross, (k,), (load(products, (i * knots + k,)) - total * load(means, (k,))) * moving)
        q = 0
        while q + 4 <= columns:
            a, b, c, d = every(0.0), every(0.0), every(0.0), every(0.0)
            for k in range(knots):
                one = load(cross, (k,))
                a, b = a + one * load(white, (k, q)), b + one * load(white, (k, q + 1))
                c, d = c + one * load(white, (k, q + 2)), d + one * load(white, (k, q + 3))
            store(out, (i, q), a)
            store(out, (i, q + 1), b)
            store(out, (i, q + 2), c)
            store(out, (i, q + 3), d)
            q += 4
        while q < columns:
            a = every(0.0)
            for k in range(knots):
                a = a + load(cross, (k,)) * load(white, (k, q))
            store(out, (i, q), a)
            q += 1


def forward(factor: np.ndarray, inverse: np.ndarray, sides: np.ndarray) -> None:
    """Solves factor' x = sides (M, Q, L) in place."""
    size = sides.shape[0]
    for i in range(0, size - 1, 2):
        two_rows(factor, inverse, i, sides, 0)
    if size % 2:
        last = size - 1
        for q in range(sides.shape[1]):
            value = load(sides, (last, q))
            for k in range(last):
                value = value - load(factor, (k, last)) * load(sides, (k, q))
            store(sides, (last, q), value * load(inverse, (last,)))


def squares(half: np.ndarray, out: np.ndarray) -> None:
    """Into the upper half of out (Q, Q, L): half' half, for half (M, Q, L)."""
    columns = half.shape[1]
    for q in range(columns):
        r = q
        while r + 4 <= columns:
            a, b, c, d = every(0.0), every(0.0), every(0.0), every(0.0)
            for i in range(half.shape[0]):
                one = load(half, (i, q))
                a, b = a + one * load(half, (i, r)), b + one * load(half, (i, r + 1))
                c, d = c + one * load(half, (i, r + 2)), d + one * load(half, (i, r + 3))
            store(out, (q, r), a)
            store(out, (q, r + 1), b)
            store(out, (q, r + 2), c)
            store(out, (q, r + 3), d)
            r += 4
        while r < columns:
            a = every(0.0)
            for i in range(half.shape[0]):
                a = a + load(half, (i, q)) * load(half, (i, r))
            store(out, (q, r), a)
            r += 1


def largest(matrices: np.ndarray, top: np.ndarray, best: np.ndarray) -> None:
    """Into top (L,) and best (Q, L): the largest eigenvalue of matrices (Q, Q, L), of which the upper half is read and
    lost, and its vector. Jacobi's rotations (Golub & Van Loan, Matrix Computations, 8.5); lanes that are done turn no
    more, so that others may go on."""
    size, zero, one, two = matrices.shape[0], every(0.0), every(1.0), every(2.0)
    vectors = np.zeros((size, size, WIDTH))
    trace = zero
    for i in range(size):
        store(vectors, (i, i), one)
        trace = trace + load(matrices, (i, i))
    nothing = absolute(trace) * every(_NOTHING)
    turned = one
    for _ in range(_SWEEPS):
        if not any_greater(turned, zero):
            break
        turned = zero
        for p in range(size - 1):
            for r in range(p + 1, size):
                beside = load(matrices, (p, r))
                much = absolute(beside)
                mine, others = load(matrices, (p, p)), load(matrices, (r, r))
                apart = (others - mine) / where_greater(much, nothing, two * beside, one)
                tangent = one / (absolute(apart) + root(apart * apart + one))
                tangent = where_greater(zero, apart, zero - tangent, tangent)
                tangent = where_greater(much, nothing, tangent, zero)
                turned = where_greater(much, nothing, one, turned)
                cosine = one / root(tangent * tangent + one)
                sine = tangent * cosine
                store(matrices, (p, p), mine - tangent * beside)
                store(matrices, (r, r), others + tangent * beside)
                store(matrices, (p, r), zero)
                for j in range(size):
                    if j != p and j != r:
                        here, there = (min(p, j), max(p, j)), (min(r, j), max(r, j))
                        first, second = load(matrices, here), load(matrices, there)
                        store(matrices, here, cosine * first - sine * second)
                        store(matrices, there, sine * first + cosine * second)
                    first, second = load(vectors, (p, j)), load(vectors, (r, j))
                    store(vectors, (p, j), cosine * first - sine * second)
                    store(vectors, (r, j), sine * first + cosine * second)
    for lane in range(WIDTH):
        place = 0
        for i in range(1, size):
            if matrices[i, i, lane] > matrices[place, place, lane]:
                place = i
        top[lane] = max(matrices[place, place, lane], 0.0)
        for j in range(size):
            best[j, lane] = vectors[place, j, lane]


def backward(factor: np.ndarray, inverse: np.ndarray, half: np.ndarray, best: np.ndarray, out: np.ndarray) -> None:
    """Into out (M, L): the solution of factor x = half best, for half (M, Q, L) and best (Q, L)."""
    size = out.shape[0]
    for i in range(size):
        value = every(0.0)
        for q in range(half.shape[1]):
            value = value + load(half, (i, q)) * load(best, (q,))
        store(out, (i,), value)
    for k in range(size - 1, -1, -1):
        value = load(out, (k,)) * load(inverse, (k,))
        store(out, (k,), value)
        for i in range(k):
            store(out, (i,), load(out, (i,)) - load(factor, (i, k)) * value)


def correlate(
    x: np.ndarray,
    ridge: np.ndarray,
    bends: np.ndarray,
    lamda: np.ndarray,
    top: np.ndarray,
    variance: np.ndarray,
    best: np.ndarray,
    out: np.ndarray,
) -> None:
    """Into out (L,): r^2 of the transforms x (M, L) with the target's, without penalty and ridge (M, L).

    bends: (p, K - 2, 3, L), left, right and weight of the knots' curvature; variance: (Q, Q, L), of the whitened
    target; top: (L,), variance of x with penalty and ridge, and its covariance with the target's best (Q, L)."""
    inner, zero, one, weight = bends.shape[1], every(0.0), every(1.0), load(lamda, ())
    covariance = load(top, ())
    x_variance, y_variance = covariance, zero
    for component in range(bends.shape[0]):
        for knot in range(inner):
            at = component * (inner + 2) + knot
            left = load(x, (at,)) * load(bends, (component, knot, 0))
            bent = left + load(x, (at + 1,)) + load(x, (at + 2,)) * load(bends, (component, knot, 1))
            x_variance = x_variance - weight * load(bends, (component, knot, 2)) * bent * bent
    for i in range(x.shape[0]):
        x_variance = x_variance - load(x, (i,)) * load(x, (i,)) * load(ridge, (i,))
    for q in range(best.shape[0]):
        along = zero
        for r in range(best.shape[0]):
            along = along + load(variance, (q, r)) * load(best, (r,))
        y_variance = y_variance + along * load(best, (q,))
    product = x_variance * y_variance
    squared = covariance * covariance / where_greater(product, zero, product, one)
    squared = where_greater(squared, one, one, squared)
    squared = where_greater(product, zero, squared, zero)
    squared = where_greater(x_variance, zero, squared, zero)
    store(out, (), where_greater(y_variance, zero, squared, zero))
