"""Engines: who computes distances and ranks, where, and in how much memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from xmbench.errors import InvalidParameter, MissingDependency
from xmbench.evaluation.ranks import Groups, Task, index_groups, numba_groups, numpy_groups, tie_groups

ENGINES = ("auto", "numpy", "numba", "torch")

TILE_BYTES = 16 * 2**20
"""Products that one thread computes at a time, at most."""

SMALL = 2**22
"""Pairs up to which threads are not worth their start."""

COMPILED_FROM = 10**8
"""Pairs from which loading the compiled kernels is worth its time."""

Result = TypeVar("Result")


class Engine(Protocol):
    """Computes distances, sorts and counts."""

    name: str

    def run(
        self, task: Task, measure: Callable[[slice, Groups], Result], collect: Callable[[Result], None]
    ) -> None:
        """Hand ``measure(queries, groups)`` of every block of queries to ``collect``, in order, one at a time."""


class CpuEngine:
    """Tiles of distances by the BLAS, then blocks of them, small enough for a core's cache, one by one.

    Args:
        compiled: whether kernels are compiled by numba; the results are the same.
        threads: each takes tiles of its own; None for as many as the BLAS may use.
        tile_bytes: memory for the tiles of all threads.
    """

    def __init__(self, compiled: bool, threads: int | None, tile_bytes: int) -> None:
        if compiled:
            try:
                import xmbench.evaluation.compiled  # noqa: F401 - compiled once, and asked for here if it cannot be
            except Exception as error:  # a numba that does not fit the numpy it finds raises anything
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise MissingDependency(
                    f"numba is installed and cannot be used ({reason}); mend or uninstall it, or take --engine numpy"
                ) from error
        self.name = "numba" if compiled else "numpy"
        self._groups = numba_groups if compiled else numpy_groups
        self.threads, self.tile_bytes = threads, tile_bytes

    def run(
        self, task: Task, measure: Callable[[slice, Groups], Result], collect: Callable[[Result], None]
    ) -> None:
        """See :class:`Engine`."""
        comparison, local = task.comparison, threading.local()
        threads = 1 if comparison.n * comparison.size < SMALL else self.threads or _blas_threads()
        row = comparison.size * comparison.dtype.itemsize
        blocks = max(1, min(self.tile_bytes // threads, TILE_BYTES) // (row * task.block))
        step = min(blocks * task.block, max(1, self.tile_bytes // (threads * row)))
        groups_of = self._groups if task.ties == "groups" else index_groups

        def tile(start: int) -> list[Result]:
            stop = min(start + step, comparison.n)
            if not hasattr(local, "tile"):
                local.tile = np.empty((step, comparison.size), comparison.dtype)
                local.scratch = np.empty(
                    (min(step, task.block), comparison.size), f"i{comparison.dtype.itemsize}"
                )
            queries = comparison.queries(slice(start, stop))
            distances = local.tile[: stop - start]
            comparison.products(queries, distances)
            results = []
            for first in range(start, stop, task.block):
                at = slice(first, min(first + task.block, stop))
                inside = slice(at.start - start, at.stop - start)
                comparison.finish(distances[inside], queries[inside])
                groups = groups_of(distances[inside], local.scratch[: at.stop - at.start], at, task)
                results.append(measure(at, groups))
            return results

        starts = range(0, comparison.n, step)
        if threads == 1 or len(starts) == 1:
            with _limited(self.threads):
                for start in starts:
                    for result in tile(start):
                        collect(result)
            return
        with _limited(1), ThreadPoolExecutor(threads) as pool:
            for results in pool.map(tile, starts):
                for result in results:
                    collect(result)


@cache
def _blas() -> Any:
    """The controller of the loaded BLAS libraries' threads."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


_limits = threading.Lock()
_limiters: list[Any] = []


@contextmanager
def _limited(threads: int | None) -> Iterator[None]:
    """At most so many threads of the BLAS; None leaves them as they are.

    The limit is the process's: of evaluations that overlap, the first sets it and the last one gives it back.
    """
    with _limits:
        _limiters.append(_limiters[0] if _limiters else _blas().limit(limits=threads and int(threads)))
    try:
        yield
    finally:
        with _limits:
            limiter = _limiters.pop()
            if not _limiters:
                limiter.restore_original_limits()


def _blas_threads() -> int:
    pools = [library for library in _blas().lib_controllers if library.user_api == "blas"]
    return max([1, *(int(library.num_threads) for library in pools)])


class TorchEngine:
    """The engine for accelerators, in operations that every device of torch has; it runs on the CPU too.

    Counts are made on the device, closed forms on the CPU. TF32 and autocast are off meanwhile.

    Args:
        device: a torch device.
        tile_bytes: working memory on the CPU; on other devices half of what is free is taken.

    Raises:
        InvalidParameter: torch does not know the device, or it is not there.
    """

    name = "torch"

    def __init__(self, device: str, tile_bytes: int) -> None:
        import torch

        try:
            self.device = torch.device(device)
            torch.zeros(1, device=self.device).cpu()
        except (RuntimeError, AssertionError, TypeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InvalidParameter(f"device {device!r} cannot be used: {reason}; try --device cpu") from error
        self.tile_bytes = tile_bytes

    def run(
        self, task: Task, measure: Callable[[slice, Groups], Result], collect: Callable[[Result], None]
    ) -> None:
        """See :class:`Engine`."""
        import torch

        comparison = task.comparison
        if self.device.type == "mps" and comparison.dtype == np.float64:
            raise InvalidParameter("device 'mps' has no float64; take --precision float32, or --device cpu")
        with _exact_products(self.device.type), torch.inference_mode():
            gallery = torch.cat([self._put(block) for _, block in comparison.gallery()])
            squares = self._put(comparison.squares)
            codes = self._codes(task)
            per_score = 16 * comparison.dtype.itemsize + 96  # measured, when every item is relevant
            step = max(1, self._free() // (per_score * comparison.size))
            for start in range(0, comparison.n, step):
                at = slice(start, min(start + step, comparison.n))
                columns = self._groups(task, at, gallery, squares, codes)
                query = columns[0]
                for first in range(at.start, at.stop, task.block):
                    stop = min(first + task.block, at.stop)
                    low, high = np.searchsorted(query, [first - start, stop - start])
                    block = [column[low:high] for column in columns]
                    collect(measure(slice(first, stop), Groups(block[0] - (first - start), *block[1:])))

    def _groups(
        self, task: Task, at: slice, gallery: Any, squares: Any, codes: Any
    ) -> list[NDArray[np.int64]]:
        import torch

        comparison = task.comparison
        queries = comparison.queries(at)
        distances = self._put(queries) @ gallery.T
        if comparison.similarity == "l2":
            distances += squares
        if comparison.dtype == np.float64:
            guard = comparison.guard(queries)
            guard = guard if isinstance(guard, float) else self._put(guard)
            distances += guard
            distances -= guard
        distances += 0.0
        integers, top = (torch.int32, 31) if comparison.dtype == np.float32 else (torch.int64, 63)
        keys = distances.view(integers)
        keys ^= (keys >> top) & torch.iinfo(integers).max
        keys = keys << 1 if top == 31 else keys & -2
        relevant = self._relevant(task, at, codes)
        if task.excluded is not None:
            rows, items = torch.arange(len(keys), device=self.device), self._put(task.excluded[at])
            keys[rows, items] = torch.iinfo(integers).max - 1
            relevant[rows, items] = False
        rows = torch.arange(len(keys), device=self.device)
        if task.ties == "groups":
            flat = torch.sort(keys | relevant, dim=1).values.reshape(-1)
            positions = (flat & 1).nonzero().reshape(-1)
            found = tie_groups(flat, positions, keys.shape[1], rows, torch)
        else:
            if task.ties == "reverse_index":
                keys, relevant = keys.flip(1), relevant.flip(1)
            order = torch.sort(keys, dim=1, stable=True).indices
            query, above = relevant.gather(1, order).nonzero(as_tuple=True)
            number = torch.arange(len(query), device=self.device) - torch.searchsorted(query, query)
            found = (query, above, torch.ones_like(query), number, torch.ones_like(query))
        return [column.cpu().numpy() for column in found]

    def _codes(self, task: Task) -> Any:
        import torch

        parts = task.relevance.gallery_labels
        if parts[0].ndim == 1:
            return torch.cat([self._put(part) for part in parts])
        return torch.cat([self._put(part.astype(np.float32)) for part in parts])

    def _relevant(self, task: Task, at: slice, codes: Any) -> Any:
        labels = task.relevance.labels[at]
        if labels.ndim == 1:
            return self._put(labels)[:, None] == codes
        return self._put(labels.astype(np.float32)) @ codes.T > 0

    def _free(self) -> int:
        import torch

        if self.device.type == "cuda":
            return int(torch.cuda.mem_get_info(self.device)[0] // 2)
        if self.device.type == "mps":
            return int((torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()) // 2)
        return self.tile_bytes

    def _put(self, array: NDArray[Any]) -> Any:
        import torch

        return torch.as_tensor(array, device=self.device)


@contextmanager
def _exact_products(device: str) -> Iterator[None]:
    """No TF32, no bfloat16: one AP would move by up to 5e-3 and 1e-2."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def choose_engine(engine: str, device: str, threads: int | None, tile_bytes: int, pairs: int) -> Engine:
    """The engine to use.

    Args:
        engine: one of :data:`ENGINES`. ``auto`` takes torch for any device but the CPU; there numba, if it is
            installed and there are many pairs, and numpy otherwise.
        device: where the torch engine computes.
        threads: of the engines on the CPU; None for as many as the BLAS may use.
        tile_bytes: working memory.
        pairs: queries times gallery.

    Raises:
        InvalidParameter: no such engine, the device cannot be used, or a number is below 1.
        MissingDependency: the engine's package is not installed.
    """
    for name, value in (("tile_bytes", tile_bytes), ("threads", 1 if threads is None else threads)):
        if value < 1:
            raise InvalidParameter(f"{name} must be at least 1, got {value}")
    if engine not in ENGINES:
        raise InvalidParameter(f"unknown engine {engine!r}; known: {', '.join(ENGINES)}")
    if engine == "auto":
        compiled = device == "cpu" and pairs >= COMPILED_FROM and find_spec("numba") is not None
        engine = "torch" if device != "cpu" else "numba" if compiled else "numpy"
    if engine == "torch":
        try:
            return TorchEngine(device, tile_bytes)
        except ImportError as error:
            raise MissingDependency("the torch engine needs torch; pip install torch") from error
    if device != "cpu":
        raise InvalidParameter(f"the {engine} engine computes on the cpu, not on {device!r}")
    if engine == "numba" and find_spec("numba") is None:
        raise MissingDependency("the numba engine needs numba; pip install 'xmbench[fast]'")
    return CpuEngine(engine == "numba", threads, tile_bytes)
