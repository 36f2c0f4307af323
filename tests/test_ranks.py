"""Packing and tie groups: integers order as floats do, and every kernel counts what a plain loop counts."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_oracles import (
    NO_NUMBA,
    both_labels,
    labels_of,
    loop_relevant,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from xmbench.evaluation.ranks import (
    Relevance,
    Task,
    index_groups,
    numba_groups,
    numpy_groups,
    order_bits,
)

EDGE = float(np.nextafter(np.float32(1.5), np.float32(0)))
SMALLEST = float(np.float32(1e-45))
KERNELS = [
    numpy_groups,
    pytest.param(numba_groups, marks=pytest.mark.skipif(NO_NUMBA, reason="numba is not installed")),
]


def packed(values, dtype):
    distances = np.array([values], dtype)
    return order_bits(distances, np.empty(distances.shape, f"i{distances.itemsize}"))[0]


def assert_orders_alike(values, keys):
    order = np.argsort(values, kind="stable")
    values, keys = np.asarray(values)[order], keys[order]
    assert (keys[1:] >= keys[:-1]).all()
    np.testing.assert_array_equal(keys[1:] == keys[:-1], values[1:] == values[:-1])
    assert not (keys & 1).any()


floats = st.floats(-EDGE, EDGE, width=32)


@settings(deadline=None, max_examples=300, derandomize=True, database=None)
@given(st.lists(floats, min_size=1, max_size=12))
def test_packed_float32_order_as_the_floats_do(drawn):
    values = np.array(drawn, np.float32)
    near = np.concatenate([values, np.nextafter(values, np.float32(2)), np.nextafter(values, np.float32(-2))])
    values = np.concatenate([values, near[np.abs(near) < 1.5], -values])
    assert_orders_alike(values, packed(values, np.float32))


def test_packed_float32_at_the_ends_of_their_range():
    ends = [EDGE, 1.0, 2.0**-126, 2.0**-126 - SMALLEST, 2 * SMALLEST, SMALLEST, 0.0]
    values = np.array([*ends, *(-np.array(ends)), 0.0, -0.0], np.float32)
    keys = packed(values, np.float32)
    assert_orders_alike(values, keys)
    assert keys.max() < np.iinfo(np.int32).max - 1  # the place of an excluded item


@settings(deadline=None, max_examples=300, derandomize=True, database=None)
@given(
    st.lists(st.integers(-3 * 2**35, 3 * 2**35), min_size=1, max_size=12),
    st.lists(st.integers(-40, 40), min_size=1, max_size=12),
    st.integers(0, 60),
)
def test_packed_float64_of_the_grid_order_as_the_floats_do(steps, near_zero, down):
    steps = np.array([*steps, *near_zero, *(np.array(steps) + 1), *(np.array(steps) - 1)])
    values = steps * 2.0 ** -(36 + down)
    keys = packed(values, np.float64)
    assert_orders_alike(values, keys)
    assert keys.max() < np.iinfo(np.int64).max - 1


@pytest.mark.skipif(NO_NUMBA, reason="numba is not installed")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_compiled_packing_orders_as_the_floats_do(dtype):
    from xmbench.evaluation.compiled import pack

    generator = np.random.default_rng(0)
    distances = generator.integers(-3 * 2**22, 3 * 2**22, size=(7, 50)) * 2.0**-23
    distances[:, :9] *= 2.0 ** -generator.integers(0, 150, size=9)
    distances[:, 9:14] = [EDGE, -EDGE, 0.0, -0.0, 2 * SMALLEST]
    distances = distances.astype(dtype)
    relevance = Relevance(np.eye(7, 8, dtype=bool), [np.eye(8, dtype=bool)[np.full(50, 7)]])
    keys = distances.copy().view(f"i{distances.itemsize}")
    assert pack(keys, 8 * distances.itemsize - 1, *relevance.postings(slice(0, 7))) == 0
    for values, row in zip(distances, keys, strict=True):
        assert_orders_alike(values, row)


def task_of(relevant, excluded, ties):
    """A task with the relevance (q, g) given, and no distances."""
    classes = np.column_stack([relevant, np.ones(len(relevant), bool)])
    size = relevant.shape[1]
    half = np.eye(size, size + 1, dtype=bool)
    return Task(None, Relevance(classes, [half[: size // 2], half[size // 2 :]]), excluded, ties)


def counted(kernel, distances, at, task):
    block = np.array(distances[at], copy=True)
    found = kernel(block, np.empty(block.shape, f"i{block.itemsize}"), at, task)
    return list(zip(*(np.asarray(column).tolist() for column in found), strict=True))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("leave_out", [False, True])
@pytest.mark.parametrize("levels", [1, 2, 7, 10**6])
def test_groups_are_what_a_loop_counts(dtype, kernel, leave_out, levels):
    generator = np.random.default_rng(levels)
    q, g = 15, 12
    distances = ((generator.integers(levels, size=(q, g)) - levels // 2) / levels).astype(dtype)
    relevant = generator.random((q, g)) < 0.4
    relevant[3], relevant[4] = False, True
    excluded = generator.integers(g, size=q) if leave_out else None
    task = task_of(relevant, excluded, "groups")
    for at in (slice(0, q), slice(2, 6), slice(14, 15)):
        expected = []
        for i in range(at.start, at.stop):
            items = [j for j in range(g) if excluded is None or j != excluded[i]]
            for level in sorted({float(distances[i, j]) for j in items if relevant[i, j]}):
                above = [j for j in items if distances[i, j] < level]
                tied = [j for j in items if distances[i, j] == level]
                hits = [int(relevant[i, group].sum()) for group in (above, tied)]
                expected.append((i - at.start, len(above), len(tied), *hits))
        assert counted(kernel, distances, at, task) == expected


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ties", ["index", "reverse_index"])
@pytest.mark.parametrize("leave_out", [False, True])
def test_single_items_in_the_order_of_the_gallery(dtype, ties, leave_out):
    generator = np.random.default_rng(1)
    q, g = 15, 12
    distances = (generator.integers(-2, 3, size=(q, g)) / 4).astype(dtype)
    relevant = generator.random((q, g)) < 0.4
    excluded = generator.integers(g, size=q) if leave_out else None
    expected = []
    for i in range(q):
        items = np.delete(np.arange(g), [] if excluded is None else excluded[i])
        items = items if ties == "index" else items[::-1]
        ranked = items[np.argsort(distances[i, items], kind="stable")]
        places = np.flatnonzero(relevant[i, ranked]).tolist()
        expected += [(i, place, 1, number, 1) for number, place in enumerate(places)]
    assert counted(index_groups, distances, slice(0, q), task_of(relevant, excluded, ties)) == expected


@both_labels
def test_relevance_is_what_a_loop_finds(multi):
    queries, gallery = labels_of(20, multi, 2), [labels_of(n, multi, n) for n in (9, 1, 14)]
    if not multi:
        queries, gallery[2] = queries * 2**61, gallery[2] * 2**61 + 7  # classes that no query has, huge ones
        queries[0], gallery[0][:3] = 5, [5, 9, 2**62]
    relevance, everything = Relevance(queries, gallery), np.concatenate(gallery)
    expected = loop_relevant(queries, everything)
    for i in range(20):
        assert set(relevance.of(i).tolist()) == set(np.flatnonzero(expected[i]).tolist())
    offsets, classes, starts, items = relevance.postings(slice(4, 9))
    for i in range(5):
        mine = classes[offsets[i] : offsets[i + 1]]
        found = {int(item) for c in mine for item in items[starts[c] : starts[c + 1]]}
        assert found == set(np.flatnonzero(expected[4 + i]).tolist())
