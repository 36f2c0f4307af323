"""What the tests of the evaluator share: slow oracles, one query at a time, and data whose scores are exact."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from fractions import Fraction
from functools import cache
from importlib.util import find_spec

import numpy as np
import pytest

from xmbench.evaluation import retrieve
from xmbench.protocol import Protocol

NO_NUMBA = find_spec("numba") is None and os.environ.get("CI") != "true"  # under CI its absence fails
INSTALLED = ("numpy", "torch") if NO_NUMBA else ("numpy", "torch", "numba")
_PARAMS = (
    "numpy",
    "torch",
    pytest.param("numba", marks=pytest.mark.skipif(NO_NUMBA, reason="numba is not installed")),
)
SIMILARITIES = ("cosine", "l2", "inner")
PRECISIONS = ("float32", "float64")
TIES = ("expected", "index", "reverse_index", "optimistic", "pessimistic")
INNER = Protocol(name="inner", summary="Inner product.", similarity="inner")
CUTOFFS = [(None, "relevant")] + [(k, rule) for k in (1, 2, 3, 5, 50) for rule in ("relevant", "min", "hits")]
CURVES = ("precision", "recall", "ndcg", "interpolated_precision")

every_engine = pytest.mark.parametrize("engine", _PARAMS)
every_similarity = pytest.mark.parametrize("similarity", SIMILARITIES)
every_precision = pytest.mark.parametrize("precision", PRECISIONS)
every_cutoff = pytest.mark.parametrize(("cutoff", "denominator"), CUTOFFS)
both_labels = pytest.mark.parametrize("multi", [False, True], ids=["single", "multi"])


def under(similarity="cosine", **changes):
    return Protocol(name="test", summary="A test.", similarity=similarity, **changes)


def score_matrix(scores, relevant, protocol=INNER, **options):
    """The evaluator on given scores (q, g) and relevance (q, g): the gallery is a basis with a class an item.

    A further class belongs to every query and to no item, so that a query may have nothing relevant.
    """
    scores, relevant = np.asarray(scores, dtype=np.float64), np.asarray(relevant, dtype=bool)
    size = scores.shape[1]
    classes = np.column_stack([relevant, np.ones(len(relevant), dtype=bool)])
    return retrieve(scores, np.eye(size), classes, np.eye(size, size + 1, dtype=bool), protocol, **options)


def loop_scores(queries, gallery, similarity):
    """(q, g) scores in float64, one pair at a time, from the definitions."""
    scores = np.zeros((len(queries), len(gallery)))
    for i, a in enumerate(queries.tolist()):
        for j, b in enumerate(gallery.tolist()):
            if similarity == "l2":
                scores[i, j] = -sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
                continue
            inner = sum(x * y for x, y in zip(a, b, strict=True))
            norms = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b))
            scores[i, j] = inner if similarity == "inner" else inner / norms if norms else 0.0
    return scores


def loop_relevant(query_labels, gallery_labels):
    """(q, g): whether the two share a class."""
    relevant = np.zeros((len(query_labels), len(gallery_labels)), dtype=bool)
    for i, a in enumerate(query_labels.tolist()):
        for j, b in enumerate(gallery_labels.tolist()):
            relevant[i, j] = (
                any(x and y for x, y in zip(a, b, strict=True)) if isinstance(a, list) else a == b
            )
    return relevant


def list_average_precision(hits, cutoff=None, denominator="relevant"):
    """Average precision of one ranked list of 0/1; NaN without a relevant item."""
    total, seen, everything = 0.0, 0, sum(hits)
    for position, hit in enumerate(hits, start=1):
        if cutoff is not None and position > cutoff:
            break
        seen += hit
        if hit:
            total += seen / position
    if not everything:
        return math.nan
    if denominator == "hits" and cutoff:
        return total / max(seen, 1)
    return total / (min(everything, cutoff) if denominator == "min" and cutoff else everything)


def loop_average_precision(scores, relevant, cutoff=None, denominator="relevant"):
    """Per-query average precision of scores without ties."""
    values = []
    for row, hits in zip(scores.tolist(), relevant.tolist(), strict=True):
        assert len(set(row)) == len(row)
        ranked = sorted(zip(row, hits, strict=True), reverse=True)
        values.append(list_average_precision([hit for _, hit in ranked], cutoff, denominator))
    return np.array(values)


def loop_precision(scores, relevant, longest):
    """Mean precision among the first K = 1..longest, over queries with a relevant item; no ties."""
    curves = []
    for row, hits in zip(scores.tolist(), relevant.tolist(), strict=True):
        ranked = [hit for _, hit in sorted(zip(row, hits, strict=True), reverse=True)]
        if any(hits):
            curves.append([sum(ranked[:k]) / k for k in range(1, longest + 1)])
    return np.mean(curves, axis=0)


def orders(scores):
    """Every ranked list that the scores allow, as item numbers: groups of equal scores in each order."""
    levels = sorted(set(scores), reverse=True)
    groups = [[item for item, score in enumerate(scores) if score == level] for level in levels]
    for choice in itertools.product(*map(itertools.permutations, groups)):
        yield [item for group in choice for item in group]


def enumerated(scores, hits, cutoff=None, denominator="relevant"):
    """Average precision and precision curve of one query, averaged over all orders of the tied items."""
    return _enumerated(tuple(scores), tuple(hits), cutoff, denominator)


@cache
def _enumerated(scores, hits, cutoff, denominator):
    lists = [[hits[item] for item in order] for order in orders(scores)]
    values = [list_average_precision(ranked, cutoff, denominator) for ranked in lists]
    return math.fsum(values) / len(values), np.cumsum(lists, axis=1).mean(axis=0) / np.arange(
        1, len(hits) + 1
    )


def expected_average_precision(scores, hits, cutoff=None, denominator="relevant"):
    """As ``enumerated``, by linearity: chance of a hit at each place times the hits expected up to there."""
    total, above, relevant_above = 0.0, 0, 0
    for level in sorted(set(scores), reverse=True):
        group = [hit for score, hit in zip(scores, hits, strict=True) if score == level]
        tied, relevant = len(group), sum(group)
        for place in range(1, tied + 1):
            if cutoff is not None and above + place > cutoff:
                break
            earlier = (place - 1) * (relevant - 1) / (tied - 1) if tied > 1 else 0.0
            total += relevant / tied * (relevant_above + 1 + earlier) / (above + place)
        above, relevant_above = above + tied, relevant_above + relevant
    everything = sum(hits)
    if not everything:
        return math.nan
    return total / (min(everything, cutoff) if denominator == "min" and cutoff else everything)


def pairs(n=30, d=5, classes=4, seed=0, multi=False):
    """Random paired embeddings that carry some class information, and labels."""
    generator = np.random.default_rng(seed)
    if multi:
        labels = generator.random((n, classes)) < 0.3
        labels[np.arange(n), generator.integers(classes, size=n)] = True
        means = labels @ generator.normal(size=(classes, d))
    else:
        labels = generator.integers(classes, size=n)
        means = generator.normal(size=(classes, d))[labels]
    return means + generator.normal(size=(n, d)), means + generator.normal(size=(n, d)), labels


def tied_pairs(n=24, d=3, classes=3, seed=1):
    """Paired embeddings with small whole numbers: inner products and distances are exact and often equal."""
    generator = np.random.default_rng(seed)
    return (
        generator.integers(-2, 3, size=(n, d)).astype(np.float64),
        generator.integers(-2, 3, size=(n, d)).astype(np.float64),
        generator.integers(classes, size=n),
    )


# ---- every metric of one query


def groups_of(scores, hits, ties="expected"):
    """The ranked list as groups of 0/1, each to be read in random order; single items if a rule orders them."""
    if ties == "expected":
        levels = sorted(set(scores), reverse=True)
        return [[hit for score, hit in zip(scores, hits, strict=True) if score == level] for level in levels]
    second = {
        "index": lambda item: item,
        "reverse_index": lambda item: -item,
        "optimistic": lambda item: -hits[item],
        "pessimistic": lambda item: hits[item],
    }[ties]
    return [[hits[item]] for item in sorted(range(len(hits)), key=lambda item: (-scores[item], second(item)))]


def hit_chances(groups):
    """The probability that the item at each rank is relevant, as fractions."""
    return [Fraction(sum(group), len(group)) for group in groups for _ in group]


def interpolated(groups):
    """Highest E[hits(K)] / K over the K with E[hits(K)] >= level * R, for the levels 0, 1/100, ..., 1."""
    found = list(itertools.accumulate(hit_chances(groups)))
    precision = [float(hits / k) for k, hits in enumerate(found, start=1)]
    reached = [math.floor(100 * hits / found[-1]) for hits in found]  # the highest level at each rank
    best = [0.0] * 101
    for level, value in zip(reached, precision, strict=True):
        best[level] = max(best[level], value)
    return list(itertools.accumulate(reversed(best), max))[::-1]


def first_hit(groups):
    """Expected reciprocal rank of the first relevant item."""
    above = 0
    for group in groups:
        tied, relevant = len(group), sum(group)
        if relevant:
            ways = [math.comb(tied - place, relevant - 1) for place in range(1, tied + 1)]
            return math.fsum(
                way / math.comb(tied, relevant) / (above + place) for place, way in enumerate(ways, start=1)
            )
        above += tied
    return math.nan


def measures(groups, scopes):
    """Every metric of one query but average precision, from its groups."""
    chances = [float(chance) for chance in hit_chances(groups)]
    relevant = sum(map(sum, groups))
    hits = list(itertools.accumulate(chances))
    gain = list(itertools.accumulate(p / math.log2(1 + k) for k, p in enumerate(chances, start=1)))
    best = list(itertools.accumulate((k <= relevant) / math.log2(1 + k) for k in range(1, len(chances) + 1)))
    return {
        "precision": [hits[k] / (k + 1) for k in range(scopes)],
        "recall": [hits[k] / relevant for k in range(scopes)],
        "ndcg": [gain[k] / best[k] for k in range(scopes)],
        "interpolated_precision": interpolated(groups),
        "r_precision": hits[relevant - 1] / relevant,
        "mean_reciprocal_rank": first_hit(groups),
    }


def average_precision_of(groups):
    """Expected average precision of the full list."""
    total, above, relevant_above, everything = 0.0, 0, 0, sum(map(sum, groups))
    for group in groups:
        tied, relevant = len(group), sum(group)
        for place in range(1, tied + 1 if relevant else 1):
            earlier = (place - 1) * (relevant - 1) / (tied - 1) if tied > 1 else 0.0
            total += relevant / tied * (relevant_above + 1 + earlier) / (above + place)
        above, relevant_above = above + tied, relevant_above + relevant
    return total / everything if everything else math.nan


def task_oracle(scores, relevant, ties="expected", max_scope=1000, excluded=None):
    """All of a task's numbers but ``per_class`` and ``n_zero_norm``, over the full list."""
    average, chance, others = [], [], []
    for query, (row, hits) in enumerate(zip(np.asarray(scores).tolist(), relevant.tolist(), strict=True)):
        if excluded is not None:
            row, hits = (values[: excluded[query]] + values[excluded[query] + 1 :] for values in (row, hits))
        groups = groups_of(row, [int(hit) for hit in hits], ties)
        average.append(average_precision_of(groups))
        if any(hits):
            chance.append(average_precision_of([[int(hit) for hit in hits]]))
            others.append(measures(groups, min(max_scope, len(row))))
        gallery = len(row)
    answered = ~np.isnan(average)
    return {
        "average_precision": np.array(average),
        "mean_average_precision": np.mean(np.array(average)[answered]),
        "chance": np.mean(chance),
        "n_queries": len(average),
        "n_unanswerable": int((~answered).sum()),
        "gallery": gallery,
        **{name: np.mean([one[name] for one in others], axis=0) for name in others[0]},
    }


def assert_is(found, expected, tolerance=1e-12):
    """A TaskScores has the numbers of ``task_oracle``."""
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=0, atol=tolerance, err_msg=name)


def assert_same(found, expected, tolerance=1e-12):
    """Two TaskScores agree in every number."""
    for field in dataclasses.fields(expected):
        left, right = getattr(found, field.name), getattr(expected, field.name)
        if field.name == "per_class":
            assert left == pytest.approx(right, abs=tolerance)
        else:
            np.testing.assert_allclose(left, right, rtol=0, atol=tolerance, err_msg=field.name)


# ---- data whose scores are the same in float32 and in float64


def exact_rows(n, similarity, seed, d=16):
    """Rows with heavy ties, as float64.

    Small whole numbers for l2 and inner product, -0.0 and zero rows among them; rows of length 1, 2 or 4
    with entries 0 and +-1 for cosine, each times a power of two of its own, and zero rows.
    """
    generator = np.random.default_rng(seed)
    if similarity != "cosine":
        rows = generator.integers(-1, 2, size=(n, d)) * (generator.random((n, d)) < 0.3)
        rows = rows * generator.choice([-1.0, 1.0], size=(n, 1))
    else:
        rows = np.zeros((n, d))
        for row in rows:
            row[generator.permutation(d)[: generator.choice([1, 4, 16])]] = 1.0
        rows *= generator.choice([-1.0, 1.0], size=(n, d)) * 2.0 ** generator.integers(-3, 4, size=(n, 1))
    rows[generator.integers(n, size=2)] = 0.0
    return rows


def labels_of(n, multi, seed, classes=4):
    """Random labels: single, or multi-hot with a class in every row."""
    generator = np.random.default_rng(seed)
    single = generator.integers(classes, size=n)
    return (generator.random((n, classes)) < 0.2) | np.eye(classes, dtype=bool)[single] if multi else single
