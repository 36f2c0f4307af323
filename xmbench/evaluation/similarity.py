"""From embeddings to distances: any exact order of the gallery is all that the ranks need.

Everything becomes a *distance*, smaller is nearer, from one matrix product: the negated cosine, the negated
inner product, or the squared Euclidean distance less the query's squared length. Factors that are powers of two
(free of rounding) keep every distance within (-1.5, 1.5), on which the packing of ``ranks.py`` relies.

Embeddings are read in pieces, so that a gallery may be a memory map larger than memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmbench.errors import InvalidInput

PIECE_BYTES = 4 * 2**20
"""Size of a piece of embeddings in float64."""

CACHE_BYTES = 32 * 2**20
"""A gallery up to this size is prepared once."""


@dataclass(frozen=True)
class Rows:
    """Embeddings (n, d) that are read in pieces.

    Args:
        array: real numbers; never copied as a whole.
        mean: (d,) float64, taken off each row; None for nothing.
        factor: (d,) float64, multiplied after that.
    """

    array: NDArray[Any]
    mean: NDArray[np.float64] | None = None
    factor: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.array)

    @property
    def width(self) -> int:
        """Dimensions."""
        return int(self.array.shape[1])

    @property
    def own(self) -> type[np.float32] | type[np.float64]:
        """The type that holds the rows without loss: float32 for float32, else float64."""
        return np.float32 if self.array.dtype == np.float32 and self.mean is None else np.float64

    def read(self, at: slice, dtype: Any = np.float64) -> NDArray[Any]:
        """A fresh copy of some rows."""
        block = np.array(self.array[at], dtype=dtype)
        if self.mean is not None and self.factor is not None:
            block -= self.mean
            block *= self.factor
        return block

    def pieces(self) -> Iterator[slice]:
        """Slices that together are all rows."""
        step = max(1, PIECE_BYTES // (8 * self.width))
        for start in range(0, len(self), step):
            yield slice(start, min(start + step, len(self)))


def check_rows(rows: object, name: str) -> Rows:
    """Embeddings as :class:`Rows`.

    Raises:
        InvalidInput: not a matrix of real numbers with at least one row, or a value is not finite; the message
            names the row.
    """
    try:
        array = rows if isinstance(rows, np.ndarray) else np.asarray(rows)
    except ValueError as error:
        raise InvalidInput(f"{name}: rows differ in length ({error})") from error
    if array.ndim != 2 or not array.shape[1] or array.dtype.kind not in "fiub":
        raise InvalidInput(
            f"{name}: expected real numbers (rows, dimensions), got {array.dtype} {array.shape}"
        )
    if not len(array):
        raise InvalidInput(f"{name}: expected at least one row, got none")
    found = Rows(array)
    if array.dtype.kind == "f":
        for at in found.pieces():
            with np.errstate(over="ignore"):  # of a type wider than float64
                finite = np.isfinite(array[at].astype(np.float64) if array.itemsize > 8 else array[at])
            if not finite.all():
                row = at.start + int(np.flatnonzero(~finite.all(axis=1))[0])
                raise InvalidInput(f"{name}: row {row} has values that are not finite")
    return found


def zscored(rows: Rows) -> Rows:
    """Columns with mean 0 and deviation 1 (ddof 0; a constant column is left at 0), by their own statistics."""
    largest, total, squares = np.zeros(rows.width), np.zeros(rows.width), np.zeros(rows.width)
    for at in rows.pieces():
        np.maximum(largest, np.abs(rows.read(at)).max(axis=0), out=largest)
    scale = np.ldexp(1.0, -np.minimum(np.frexp(largest)[1], 1022))  # squares stay within float64
    for at in rows.pieces():
        total += (rows.read(at) * scale).sum(axis=0)
    mean = total / len(rows)
    for at in rows.pieces():
        squares += np.square(rows.read(at) * scale - mean).sum(axis=0)
    deviation = np.sqrt(squares / len(rows))
    constant = deviation <= 1e-12 * largest * scale
    return Rows(rows.array, mean / scale, np.where(constant, 0.0, scale / np.where(constant, 1.0, deviation)))


@dataclass(frozen=True)
class _Scaled:
    """Rows times powers or lengths, less the centre."""

    rows: Rows
    factors: tuple[NDArray[np.float64], ...]  # one for each row, or one for all
    centre: NDArray[np.float64] | None = None

    def read(self, at: slice, dtype: Any) -> NDArray[Any]:
        block = self.rows.read(at, max(np.dtype(dtype), np.dtype(self.rows.own)))  # scaled first, cast last
        for factor in self.factors:
            block *= factor[at, None] if factor.ndim else factor
        if self.centre is not None:
            block -= self.centre
        return block.astype(dtype, copy=False)


class Comparison:
    """Distances between queries and a gallery.

    Args:
        queries: (q, d).
        gallery: (g, d), in one part or more.
        similarity: ``cosine`` (a zero row has similarity 0 to everything), ``l2`` or ``inner``.
        dtype: float32 or float64, for the products. In float64, distances are rounded to multiples of 2^-36
            of their scale: those that are equal in exact arithmetic differ by the order of summation, about
            2^-52, and rounded they are tied. Of float32 nothing can be spared: such ties may break.
        cache_bytes: a gallery that fits is prepared once, others piece by piece for every block of queries.

    Attributes:
        n_zero_norm: rows of length 0 under cosine, of queries and gallery together.
    """

    def __init__(
        self,
        queries: Rows,
        gallery: Sequence[Rows],
        similarity: str,
        dtype: type[np.float32] | type[np.float64],
        cache_bytes: int,
    ) -> None:
        self.similarity, self.dtype = similarity, np.dtype(dtype)
        self.n, self.size, self.width = len(queries), sum(map(len, gallery)), queries.width
        self.n_zero_norm = 0
        self.scale = 1.0
        everything = [queries, *gallery]
        if similarity == "cosine":
            sides = [self._unit(rows) for rows in everything]
        elif similarity == "inner":
            down = int(np.ceil(np.log2(self.width)))  # |inner product| <= d * largest * largest
            self.scale = 2.0**-down
            highest = _exponent(gallery) + down
            sides = [_Scaled(queries, _powers(_exponents(queries)))]
            sides += [_Scaled(rows, _powers(np.array(highest))) for rows in gallery]
        else:
            down = int(np.ceil(np.log2(4 * np.sqrt(self.width))))  # every centred length < 5/8
            highest = _exponent(everything) + down
            powers = _powers(np.array(highest))
            parts = [_Scaled(rows, powers) for rows in gallery]
            centre = _centre(parts)
            sides = [_Scaled(rows, powers, centre) for rows in everything]
        self._queries, self._parts = sides[0], sides[1:]
        self._kept: NDArray[Any] | None = None
        if self.size * self.width * self.dtype.itemsize <= cache_bytes:
            kept = np.empty((self.size, self.width), self.dtype)
            for at, block in self.gallery():
                kept[at] = block
            self._kept = kept
        self.squares = np.zeros(self.size if similarity == "l2" else 0, self.dtype)
        if similarity == "l2":
            for at, block in self.gallery():
                self.squares[at] = np.einsum("ij,ij->i", block, block, dtype=np.float64)
            self.scale = float(np.median(self.squares))

    def _unit(self, rows: Rows) -> _Scaled:
        """Rows of length 1; a zero row stays zero."""
        powers: tuple[NDArray[np.float64], ...] = ()
        squares = _squares(rows, powers)
        if not ((squares > 1e-280) & (squares < 1e280)).all():  # zero, or squared out of the range of float64
            powers = _powers(_exponents(rows))
            squares = _squares(rows, powers)
        zero = squares == 0
        self.n_zero_norm += int(zero.sum())
        lengths = np.sqrt(np.where(zero, 1.0, squares))
        return _Scaled(rows, (1.0 / lengths,) if not powers else (powers[0] / lengths, *powers[1:]))

    def queries(self, at: slice) -> NDArray[Any]:
        """Some queries, (b, d), ready for the product with :meth:`gallery`: negated, for l2 doubled too."""
        block = self._queries.read(at, self.dtype)
        block *= -2.0 if self.similarity == "l2" else -1.0
        return block

    def gallery(self) -> Iterator[tuple[slice, NDArray[Any]]]:
        """The gallery, ready for the product, in pieces (rows, (rows, d))."""
        if self._kept is not None:
            yield slice(0, self.size), self._kept
            return
        start = 0
        for part in self._parts:
            for at in part.rows.pieces():
                yield slice(start + at.start, start + at.stop), part.read(at, self.dtype)
            start += len(part.rows)

    def products(self, queries: NDArray[Any], out: NDArray[Any]) -> None:
        """Write products of ``queries`` with the whole gallery to ``out`` (b, g)."""
        for at, block in self.gallery():
            np.matmul(queries, block.T, out=out[:, at])

    def guard(self, queries: NDArray[Any]) -> Any:
        """What to add to float64 distances and take off again to round them to the grid; (b, 1) or a number.

        The grid is 2^-36 of the scale of a query's distances: 1, or for l2 its own squared length and the
        median one of the gallery (a distance much longer than that has lost no digits).
        """
        if self.similarity != "l2":
            return 1.5 * 2.0**16 * self.scale
        return 1.5 * 2.0**16 * (np.square(queries / 2).sum(axis=1)[:, None] + self.scale)  # they are doubled

    def finish(self, distances: NDArray[Any], queries: NDArray[Any]) -> None:
        """Turn products into distances, in place."""
        if self.similarity == "l2":
            distances += self.squares
        if self.dtype == np.float64:
            guard = self.guard(queries)
            distances += guard
            distances -= guard

    def similarities(self, distances: NDArray[Any], at: slice) -> NDArray[np.float64]:
        """What a reader calls similarity: cosine, inner product, or the negated squared distance; (b, g)."""
        found = distances.astype(np.float64)
        if self.similarity == "l2":
            found += np.square(self._queries.read(at, np.float64)).sum(axis=1)[:, None]
            np.maximum(found, 0.0, out=found)
        for side in (self._queries, self._parts[0]) if self.similarity != "cosine" else ():
            for factor in side.factors:
                found /= factor[at, None] if factor.ndim else factor
        return 0.0 - found


def _centre(parts: Sequence[_Scaled]) -> NDArray[np.float64]:
    """(d,) the mean of all rows, to a power of two of an eighth to a quarter of their spread.

    So whole numbers, codes of +-1 too, keep few digits, their distances are exact, and ties stay ties.
    """
    pieces = [(part, at) for part in parts for at in part.rows.pieces()]
    width = parts[0].rows.width
    total, low, high = np.zeros(width), np.full(width, np.inf), np.full(width, -np.inf)
    for part, at in pieces:
        block = part.read(at, np.float64)
        total += block.sum(axis=0)
        np.minimum(low, block.min(axis=0), out=low)
        np.maximum(high, block.max(axis=0), out=high)
    spread = float((high - low).max())
    if not spread:
        return low
    step = 2.0 ** (np.frexp(spread)[1] - 3)
    return np.asarray(np.round(total / sum(len(part.rows) for part in parts) / step) * step)


def _exponent(parts: Sequence[Rows]) -> int:
    """e, such that the largest value of all rows is 2^e times 0.5..1; 0 if all are zeros."""
    blocks = (rows.read(at, rows.own) for rows in parts for at in rows.pieces())
    return int(np.frexp(max(max(block.max(), -block.min()) for block in blocks))[1])


def _exponents(rows: Rows) -> NDArray[np.int64]:
    """(n,) e, such that the largest value of the row is 2^e times 0.5..1; 0 for zeros."""
    found = np.empty(len(rows), np.int64)
    for at in rows.pieces():
        found[at] = np.frexp(np.abs(rows.read(at, rows.own)).max(axis=1))[1]
    return found


def _squares(rows: Rows, powers: tuple[NDArray[np.float64], ...]) -> NDArray[np.float64]:
    """(n,) squared lengths of the rows times their powers."""
    found = np.empty(len(rows))
    with np.errstate(over="ignore", under="ignore"):
        for at in rows.pieces():
            block = rows.read(at)
            for power in powers:
                block *= power[at, None]
            found[at] = np.einsum("ij,ij->i", block, block)
    return found


def _powers(exponents: NDArray[np.int64]) -> tuple[NDArray[np.float64], ...]:
    """Factors that together are 2^-e; two of them where one would leave float64."""
    if np.abs(exponents).max() < 500:
        return (np.ldexp(1.0, -exponents),)
    half = exponents // 2
    return np.ldexp(1.0, -half), np.ldexp(1.0, half - exponents)
