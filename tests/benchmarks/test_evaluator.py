"""CPU time of the evaluator on one thread against other ways to the same average precision.

Run ``pytest tests/benchmarks --benchmark-only``; each size is one group, so that ratios stand side by side.
Nothing is asserted of times, only that the contenders agree. The floor is what any exact evaluator pays:
the scores in float32 and one sort of their values.
"""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from threadpoolctl import threadpool_limits

from xmbench.evaluation import retrieve

SIZES = {"693x693 d10": (693, 693, 10, 10), "2000x4000 d256": (2000, 4000, 256, 20)}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=SIZES)
def case(request):
    """Name, unit rows of queries and gallery in float32, and their labels."""
    q, g, d, classes = SIZES[request.param]
    generator = np.random.default_rng(0)
    means = generator.normal(size=(classes, d))
    sides = []
    for n in (q, g):
        labels = generator.integers(classes, size=n)
        rows = means[labels] + 2 * generator.normal(size=(n, d))
        sides += [(rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels]
    queries, query_labels, gallery, gallery_labels = sides
    return request.param, queries, gallery, query_labels, gallery_labels


@pytest.fixture(scope="module")
def expected(case):
    return naive(*case[1:])


def naive(queries, gallery, query_labels, gallery_labels):
    """Per-query average precision by one argsort of the whole matrix; ties in the order of the gallery."""
    order = np.argsort(-(queries @ gallery.T), axis=1, kind="stable")
    hits = gallery_labels[order] == query_labels[:, None]
    precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    return (precision * hits).sum(axis=1) / hits.sum(axis=1)


def by_scikit_learn(queries, gallery, query_labels, gallery_labels):
    scores = queries @ gallery.T
    pairs = zip(query_labels, scores, strict=True)
    return np.array([average_precision_score(gallery_labels == label, row) for label, row in pairs])


def floor(queries, gallery):
    scores = queries @ gallery.T
    scores.sort(axis=1)
    return scores


def timed(benchmark, case, function, *arguments):
    benchmark.group = case[0]
    benchmark._timer = time.process_time
    return benchmark.pedantic(function, arguments, rounds=5, iterations=1, warmup_rounds=1)


@pytest.mark.parametrize("engine", ["numpy", "torch"])
def test_xmbench(benchmark, case, expected, engine):
    found = timed(benchmark, case, lambda: retrieve(*case[1:], engine=engine))
    np.testing.assert_allclose(found.average_precision, expected, rtol=0, atol=2e-3)
    assert found.mean_average_precision == pytest.approx(expected.mean(), abs=1e-5)


def test_naive_argsort(benchmark, case, expected):
    np.testing.assert_array_equal(timed(benchmark, case, naive, *case[1:]), expected)


def test_scikit_learn_per_query(benchmark, case, expected):
    found = timed(benchmark, case, by_scikit_learn, *case[1:])
    assert found.mean() == pytest.approx(expected.mean(), abs=1e-5)


def test_floor_scores_and_sorted_values(benchmark, case):
    scores = timed(benchmark, case, floor, case[1], case[2])
    np.testing.assert_allclose(scores[:, -1], (case[1] @ case[2].T).max(axis=1), rtol=1e-5)
