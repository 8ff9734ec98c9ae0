"""Linear algebra of many small problems side by side, in compiled loops: one problem in each lane, the last axis.

Pure arrays: no I/O, no Ray. The innermost loop runs over WIDTH lanes and becomes vector instructions. Every operation
is done lane by lane in one order and rounded by itself (no FMA). So the bits of a lane depend neither on the other
lanes nor on the processor.

M: size of a matrix, p K. Q: columns of a whitened target. L: WIDTH.
"""

from __future__ import annotations

import numpy as np

WIDTH = 64  # a factor of 45 x 45 in so many lanes, its upper half, stays in an L2 cache of 1 MiB
_TILE = 8  # lanes that are turned at a time: a cache line
_SWEEPS = 16  # at most; seven are enough for matrices of 8 x 8
_NOTHING = 2.0**-56  # of the trace: what lies beside the diagonal and is as small is 0


def prepare(
    sums: np.ndarray,
    total: np.ndarray,
    channel: np.ndarray,
    fold: np.ndarray,
    rows: np.ndarray,
    knots: int,
    scale: int,
    least: float,
    places: np.ndarray,
    penalty: np.ndarray,
    lamda: np.ndarray,
    share: float,
    entries: np.ndarray,
    own: np.ndarray,
    factor: np.ndarray,
    ridge: np.ndarray,
    inverse: np.ndarray,
) -> None:
    """All that is the same for every target; arguments and results are those of the functions that it calls."""
    spread(sums, total, channel, fold, entries)
    hats(entries, rows, knots, scale, least, own)
    centre(entries, places, own, factor)
    penalise(factor, penalty, channel, lamda, share, ridge)
    factorise(factor, inverse)


def answer(
    sums: np.ndarray,
    total: np.ndarray,
    channel: np.ndarray,
    fold: np.ndarray,
    own: np.ndarray,
    means: np.ndarray,
    white: np.ndarray,
    variance: np.ndarray,
    factor: np.ndarray,
    inverse: np.ndarray,
    ridge: np.ndarray,
    bends: np.ndarray,
    lamda: np.ndarray,
    products: np.ndarray,
    half: np.ndarray,
    inner: np.ndarray,
    top: np.ndarray,
    x: np.ndarray,
    best: np.ndarray,
    squared: np.ndarray,
) -> None:
    """For one target, after `prepare`: transforms x and best, and r^2 into squared (L,)."""
    spread(sums, total, channel, fold, products)
    whiten(products, own, means, white, half)
    forward(factor, inverse, half)
    squares(half, inner)
    largest(inner, top, best)
    backward(factor, inverse, half, best, x)
    correlate(x, ridge, bends, lamda, top, variance, best, squared)


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
    rows = np.empty((_TILE, entries))
    for first in range(0, WIDTH, _TILE):
        for number in range(_TILE):
            c, f = channel[first + number], fold[first + number]
            row = rows[number]
            if f < 0:
                for entry in range(entries):
                    row[entry] = total[c, entry]
            else:
                for entry in range(entries):
                    row[entry] = total[c, entry] - sums[c, f, entry]
        for entry in range(entries):
            for number in range(_TILE):
                out[entry, first + number] = rows[number, entry]


def gather(values: np.ndarray, index: np.ndarray, out: np.ndarray) -> None:
    """Into out (X, L): values (N, X) of each lane's index (L,)."""
    for lane in range(WIDTH):
        for entry in range(values.shape[1]):
            out[entry, lane] = values[index[lane], entry]


def hats(entries: np.ndarray, rows: np.ndarray, knots: int, scale: int, least: float, out: np.ndarray) -> None:
    """Into out (3, M, L): sums of hats, their means over the rows (L,), and 1 for hats that move, else 0; from packed
    products (XX, L). A hat moves where its variance is more than `least` of its mean square."""
    width = 2 * knots - 1
    for i in range(out.shape[1]):
        place, knot = i // knots * width + i % knots, i % knots
        for lane in range(WIDTH):
            total = entries[place, lane]
            if knot > 0:
                total += entries[place + knots - 1, lane]
            if knot < knots - 1:
                total += entries[place + knots, lane]
            total = total / scale
            mean = total / rows[lane]
            out[0, i, lane] = total
            out[1, i, lane] = mean
            out[2, i, lane] = 1.0 if entries[place, lane] - total * mean > least * entries[place, lane] else 0.0


def centre(entries: np.ndarray, places: np.ndarray, own: np.ndarray, out: np.ndarray) -> None:
    """Into the upper half of out (M, M, L): products (XX, L) at places (M, M), 0 beyond XX, less sums x means; 0 for
    hats that do not move. own: from `hats`."""
    sums, means, moving = own[0], own[1], own[2]
    size = places.shape[0]
    for i in range(size):
        for j in range(i, size):
            if places[i, j] < entries.shape[0]:
                row = entries[places[i, j]]
                for lane in range(WIDTH):
                    out[i, j, lane] = row[lane] - sums[i, lane] * means[j, lane]
            else:
                for lane in range(WIDTH):
                    out[i, j, lane] = -(sums[i, lane] * means[j, lane])
            for lane in range(WIDTH):
                out[i, j, lane] *= moving[i, lane] * moving[j, lane]


def penalise(
    matrices: np.ndarray,
    penalty: np.ndarray,
    channel: np.ndarray,
    lamda: np.ndarray,
    share: float,
    ridge: np.ndarray,
) -> None:
    """Adds lamda (L,) x penalty (C, p, K, K) to the upper half of matrices (M, M, L), then to the diagonal its ridge
    (M, L), `share` of it."""
    knots = penalty.shape[2]
    for component in range(penalty.shape[1]):
        start = component * knots
        for i in range(knots):
            for j in range(i, min(knots, i + 3)):
                for lane in range(WIDTH):
                    matrices[start + i, start + j, lane] += lamda[lane] * penalty[channel[lane], component, i, j]
    for i in range(matrices.shape[0]):
        for lane in range(WIDTH):
            diagonal = matrices[i, i, lane]
            ridge[i, lane] = diagonal * share
            matrices[i, i, lane] = diagonal + ridge[i, lane] if diagonal > 0.0 else 1.0


def factorise(matrices: np.ndarray, inverse: np.ndarray) -> None:
    """The upper Cholesky factors of matrices (M, M, L) in place, and 1 / their diagonal (M, L): 0 where a pivot is not
    positive. Row by row, four rows above it at a time."""
    size = matrices.shape[0]
    for i in range(size):
        row = matrices[i]
        k = 0
        while k + 4 <= i:
            one, two, three, four = matrices[k], matrices[k + 1], matrices[k + 2], matrices[k + 3]
            for j in range(i, size):
                for lane in range(WIDTH):
                    value = row[j, lane] - one[i, lane] * one[j, lane]
                    value = value - two[i, lane] * two[j, lane]
                    value = value - three[i, lane] * three[j, lane]
                    row[j, lane] = value - four[i, lane] * four[j, lane]
            k += 4
        while k < i:
            one = matrices[k]
            for j in range(i, size):
                for lane in range(WIDTH):
                    row[j, lane] = row[j, lane] - one[i, lane] * one[j, lane]
            k += 1
        for lane in range(WIDTH):
            pivot = row[i, lane]
            inverse[i, lane] = 1.0 / np.sqrt(pivot) if pivot > 0.0 else 0.0
        for j in range(i, size):
            for lane in range(WIDTH):
                row[j, lane] = row[j, lane] * inverse[i, lane]


def whiten(products: np.ndarray, own: np.ndarray, means: np.ndarray, white: np.ndarray, out: np.ndarray) -> None:
    """Into out (M, Q, L): products with the target's hats (M K, L), less sums x means (K, L), times white (K, Q, L)."""
    knots, columns = white.shape[0], white.shape[1]
    sums, moving = own[0], own[2]
    cross = np.empty((knots, WIDTH))
    for i in range(out.shape[0]):
        row = out[i]
        for k in range(knots):
            for lane in range(WIDTH):
                value = products[i * knots + k, lane] - sums[i, lane] * means[k, lane]
                cross[k, lane] = value * moving[i, lane]
        for q in range(columns):
            for lane in range(WIDTH):
                row[q, lane] = 0.0
        for k in range(knots):
            for q in range(columns):
                for lane in range(WIDTH):
                    row[q, lane] = row[q, lane] + cross[k, lane] * white[k, q, lane]


def forward(factor: np.ndarray, inverse: np.ndarray, sides: np.ndarray) -> None:
    """Solves factor' x = sides (M, Q, L) in place."""
    columns = sides.shape[1]
    for i in range(sides.shape[0]):
        row = sides[i]
        k = 0
        while k + 4 <= i:
            one, two, three, four = sides[k], sides[k + 1], sides[k + 2], sides[k + 3]
            for q in range(columns):
                for lane in range(WIDTH):
                    value = row[q, lane] - factor[k, i, lane] * one[q, lane]
                    value = value - factor[k + 1, i, lane] * two[q, lane]
                    value = value - factor[k + 2, i, lane] * three[q, lane]
                    row[q, lane] = value - factor[k + 3, i, lane] * four[q, lane]
            k += 4
        while k < i:
            for q in range(columns):
                for lane in range(WIDTH):
                    row[q, lane] = row[q, lane] - factor[k, i, lane] * sides[k, q, lane]
            k += 1
        for q in range(columns):
            for lane in range(WIDTH):
                row[q, lane] = row[q, lane] * inverse[i, lane]


def squares(half: np.ndarray, out: np.ndarray) -> None:
    """Into the upper half of out (Q, Q, L): half' half, for half (M, Q, L)."""
    columns = half.shape[1]
    for q in range(columns):
        for r in range(q, columns):
            for lane in range(WIDTH):
                out[q, r, lane] = 0.0
            for i in range(half.shape[0]):
                for lane in range(WIDTH):
                    out[q, r, lane] += half[i, q, lane] * half[i, r, lane]


def largest(matrices: np.ndarray, top: np.ndarray, best: np.ndarray) -> None:
    """Into top (L,) and best (Q, L): the largest eigenvalue of matrices (Q, Q, L), of which the upper half is read and
    lost, and its vector. Jacobi's rotations (Golub & Van Loan, Matrix Computations, 8.5); lanes that are done turn no
    more, so that others may go on."""
    size = matrices.shape[0]
    vectors = np.zeros((size, size, WIDTH))
    cosine, sine = np.empty(WIDTH), np.empty(WIDTH)
    nothing, turned = np.zeros(WIDTH), np.ones(WIDTH)
    for i in range(size):
        vectors[i, i] = 1.0
        for lane in range(WIDTH):
            nothing[lane] += matrices[i, i, lane]
    for lane in range(WIDTH):
        nothing[lane] = abs(nothing[lane]) * _NOTHING
    for _ in range(_SWEEPS):
        if turned.max() == 0.0:
            break
        turned[:] = 0.0
        for p in range(size - 1):
            for r in range(p + 1, size):
                for lane in range(WIDTH):
                    beside = matrices[p, r, lane]
                    turns = abs(beside) > nothing[lane]
                    apart = (matrices[r, r, lane] - matrices[p, p, lane]) / (2.0 * beside if turns else 1.0)
                    tangent = 1.0 / (abs(apart) + np.sqrt(apart * apart + 1.0))
                    tangent = tangent if apart >= 0.0 else -tangent
                    tangent = tangent if turns else 0.0
                    turned[lane] = 1.0 if turns else turned[lane]
                    cosine[lane] = 1.0 / np.sqrt(tangent * tangent + 1.0)
                    sine[lane] = tangent * cosine[lane]
                    matrices[p, p, lane] -= tangent * beside
                    matrices[r, r, lane] += tangent * beside
                    matrices[p, r, lane] = 0.0
                for j in range(size):
                    if j != p and j != r:
                        one, other = matrices[min(p, j), max(p, j)], matrices[min(r, j), max(r, j)]
                        for lane in range(WIDTH):
                            first, second = one[lane], other[lane]
                            one[lane] = cosine[lane] * first - sine[lane] * second
                            other[lane] = sine[lane] * first + cosine[lane] * second
                    for lane in range(WIDTH):
                        first, second = vectors[p, j, lane], vectors[r, j, lane]
                        vectors[p, j, lane] = cosine[lane] * first - sine[lane] * second
                        vectors[r, j, lane] = sine[lane] * first + cosine[lane] * second
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
        for lane in range(WIDTH):
            out[i, lane] = 0.0
        for q in range(half.shape[1]):
            for lane in range(WIDTH):
                out[i, lane] += half[i, q, lane] * best[q, lane]
    for k in range(size - 1, -1, -1):
        for lane in range(WIDTH):
            out[k, lane] *= inverse[k, lane]
        for i in range(k):
            for lane in range(WIDTH):
                out[i, lane] -= factor[i, k, lane] * out[k, lane]


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
    inner = bends.shape[1]
    x_variance, y_variance, along = top.copy(), np.zeros(WIDTH), np.empty(WIDTH)
    for component in range(bends.shape[0]):
        for knot in range(inner):
            at = component * (inner + 2) + knot
            left, right, weight = bends[component, knot, 0], bends[component, knot, 1], bends[component, knot, 2]
            for lane in range(WIDTH):
                bent = x[at, lane] * left[lane] + x[at + 1, lane] + x[at + 2, lane] * right[lane]
                x_variance[lane] -= lamda[lane] * weight[lane] * bent * bent
    for i in range(x.shape[0]):
        for lane in range(WIDTH):
            x_variance[lane] -= x[i, lane] * x[i, lane] * ridge[i, lane]
    for q in range(best.shape[0]):
        along[:] = 0.0
        for r in range(best.shape[0]):
            for lane in range(WIDTH):
                along[lane] += variance[q, r, lane] * best[r, lane]
        for lane in range(WIDTH):
            y_variance[lane] += along[lane] * best[q, lane]
    for lane in range(WIDTH):
        product = x_variance[lane] * y_variance[lane]
        moves = x_variance[lane] > 0.0 and y_variance[lane] > 0.0 and product > 0.0
        out[lane] = min(top[lane] * top[lane] / product, 1.0) if moves else 0.0
