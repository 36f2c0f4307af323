"""The evaluator against hand-computed cases, slow oracles and enumeration of all orders of tied items."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import pytrec_eval
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import loadmat

from xmbench.errors import InvalidInput, InvalidParameter, UsageError
from xmbench.evaluation import TASKS, evaluate, evaluator_digest, retrieve
from xmbench.evaluation.counts import NumpyEngine, TorchEngine, choose_engine, count_groups
from xmbench.evaluation.metrics import harmonic
from xmbench.protocol import DEFAULT, Protocol

ENGINES = ("numpy", "torch")
SIMILARITIES = ("cosine", "l2", "inner")
INNER = Protocol(name="inner", summary="Inner product.", similarity="inner")
CUTOFFS = [(None, "relevant")] + [(k, rule) for k in (1, 2, 3, 5, 50) for rule in ("relevant", "min", "hits")]

every_engine = pytest.mark.parametrize("engine", ENGINES)
every_similarity = pytest.mark.parametrize("similarity", SIMILARITIES)
every_cutoff = pytest.mark.parametrize(("cutoff", "denominator"), CUTOFFS)


def under(similarity="cosine", **changes):
    return Protocol(name="test", summary="A test.", similarity=similarity, **changes)


def rank(scores, relevant, protocol=INNER, **options):
    """The evaluator on given scores (q, g) and relevance (q, g): the gallery is a basis with a class an item.

    A further class belongs to every query and to no item, so that a query may have nothing relevant.
    """
    scores, relevant = np.asarray(scores, dtype=np.float64), np.asarray(relevant, dtype=bool)
    size = scores.shape[1]
    classes = np.column_stack([relevant, np.ones(len(relevant), dtype=bool)])
    return retrieve(scores, np.eye(size), classes, np.eye(size, size + 1, dtype=bool), protocol, **options)


# ---- oracles: plain loops, one query at a time


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


# ---- data


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


def assert_same(found, expected, tolerance=1e-12):
    """Two TaskScores agree in every number."""
    np.testing.assert_allclose(found.average_precision, expected.average_precision, rtol=0, atol=tolerance)
    np.testing.assert_allclose(found.precision, expected.precision, rtol=0, atol=tolerance)
    assert found.mean_average_precision == pytest.approx(expected.mean_average_precision, abs=tolerance)
    assert found.chance == pytest.approx(expected.chance, abs=tolerance)
    assert found.per_class == pytest.approx(expected.per_class, abs=tolerance)
    assert found.n_queries == expected.n_queries
    assert found.n_unanswerable == expected.n_unanswerable
    assert found.gallery == expected.gallery


# ---- by hand


@every_engine
def test_hand_computed_list(engine):
    found = rank([[0.9, 0.5, 0.1]], [[1, 0, 1]], engine=engine)
    assert found.average_precision == pytest.approx([(1 + 2 / 3) / 2])
    assert found.precision == pytest.approx([1, 1 / 2, 2 / 3])
    # Relevant items at ranks {1, 2}, {1, 3} or {2, 3}, each with probability 1/3.
    assert found.chance == pytest.approx((1 + (1 + 2 / 3) / 2 + (1 / 2 + 2 / 3) / 2) / 3)
    assert (found.n_queries, found.n_unanswerable, found.gallery) == (1, 0, 3)


@every_engine
@pytest.mark.parametrize(
    ("cutoff", "denominator", "expected"),
    [
        (None, "relevant", (1 + 2 / 3 + 3 / 4) / 3),
        (1, "relevant", 1 / 3),
        (1, "min", 1),
        (2, "relevant", 1 / 3),
        (2, "min", 1 / 2),
        (3, "relevant", (1 + 2 / 3) / 3),
        (9, "min", (1 + 2 / 3 + 3 / 4) / 3),
        (2, "hits", 1),
        (3, "hits", (1 + 2 / 3) / 2),
    ],
)
def test_hand_computed_cutoffs(engine, cutoff, denominator, expected):
    protocol = replace(INNER, cutoff=cutoff, denominator=denominator)
    found = rank([[5, 4, 3, 2, 1]], [[1, 0, 1, 1, 0]], protocol, engine=engine)
    assert found.mean_average_precision == pytest.approx(expected)


@every_engine
def test_hand_computed_tie(engine):
    # Two items share rank 2 and 3, one of them relevant: half the time 1/2, half the time 1/3.
    found = rank([[3, 2, 2, 1]], [[0, 1, 0, 0]], engine=engine)
    assert found.average_precision == pytest.approx([(1 / 2 + 1 / 3) / 2])
    assert found.precision == pytest.approx([0, 1 / 4, 1 / 3, 1 / 4])


@every_engine
def test_hand_computed_pairs(engine):
    images = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    texts = np.array([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0]])
    found = evaluate(images, texts, np.array([0, 1, 0]), engine=engine)
    # image 0 sees texts 1, 0, 2; image 1 sees 2, 0, 1; image 2 sees 0, then 1 and 2 tied.
    by_image = [(1 / 2 + 2 / 3) / 2, 1 / 3, (1 + (2 / 2 + 2 / 3) / 2) / 2]
    # text 0 sees images 0, 2, 1; text 1 sees 0, 2, 1; text 2 sees 1, 2, 0.
    by_text = [1, 1 / 3, (1 / 2 + 2 / 3) / 2]
    assert found.tasks["image->text"].average_precision == pytest.approx(by_image)
    assert found.tasks["text->image"].average_precision == pytest.approx(by_text)
    assert found.main == pytest.approx((sum(by_image) + sum(by_text)) / 6)
    assert found.tasks["image->text"].per_class == pytest.approx(
        {0: (by_image[0] + by_image[2]) / 2, 1: by_image[1]}
    )
    assert {task: scores.gallery for task, scores in found.tasks.items()} == dict(
        zip(TASKS, [3, 3, 5, 5], strict=True)
    )


@every_engine
def test_hand_computed_similarities_disagree(engine):
    # One query at 1; a far item ahead, a near one and a zero one. Cosine ties the first two.
    query, gallery, labels = np.array([[1.0]]), np.array([[4.0], [1.5], [0.0]]), np.array([0, 1, 2])
    by_similarity = {"cosine": (1 + 1 / 2) / 2, "l2": 1 / 3, "inner": 1}
    for similarity, expected in by_similarity.items():
        found = retrieve(query, gallery, labels[:1], labels, under(similarity), engine=engine)
        assert found.mean_average_precision == pytest.approx(expected), similarity


# ---- slow oracles


@every_engine
@every_similarity
@pytest.mark.parametrize("multi", [False, True], ids=["single", "multi"])
def test_agrees_with_double_loops(engine, similarity, multi):
    images, texts, labels = pairs(multi=multi)
    scores, relevant = loop_scores(images, texts, similarity), loop_relevant(labels, labels)
    for cutoff, denominator in CUTOFFS:
        protocol = under(similarity, cutoff=cutoff, denominator=denominator)
        found = retrieve(images, texts, labels, labels, protocol, engine=engine)
        expected = loop_average_precision(scores, relevant, cutoff, denominator)
        np.testing.assert_allclose(found.average_precision, expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(found.precision, loop_precision(scores, relevant, 30), rtol=0, atol=1e-12)
        assert found.mean_average_precision == pytest.approx(expected.mean(), abs=1e-12)


@every_engine
@every_cutoff
def test_ties_are_the_mean_over_all_orders(engine, cutoff, denominator):
    protocol = replace(INNER, cutoff=cutoff, denominator=denominator)
    hits = list(itertools.product([0, 1], repeat=5))[1:]
    for scores in ([3, 2, 2, 2, 1], [2, 2, 1, 1, 1], [3, 3, 2, 1, 1], [-1, 0, -1, 5, 0], [1, 1, 1, 1, 0]):
        averages, curves = zip(*(enumerated(scores, row, cutoff, denominator) for row in hits), strict=True)
        found = rank([scores] * len(hits), hits, protocol, engine=engine)
        np.testing.assert_allclose(found.average_precision, averages, rtol=0, atol=1e-14)
        np.testing.assert_allclose(found.precision, np.mean(curves, axis=0), rtol=0, atol=1e-14)


@every_engine
@every_cutoff
def test_all_tied_is_chance(engine, cutoff, denominator):
    protocol = replace(INNER, cutoff=cutoff, denominator=denominator)
    hits = list(itertools.product([0, 1], repeat=6))[1:]
    found = rank(np.ones((len(hits), 6)), hits, protocol, engine=engine)
    assert found.mean_average_precision == found.chance
    by_count = [enumerated([1] * 6, [1] * k + [0] * (6 - k), cutoff, denominator)[0] for k in range(1, 7)]
    expected = [by_count[sum(row) - 1] for row in hits]
    np.testing.assert_allclose(found.average_precision, expected, rtol=0, atol=1e-14)


@every_engine
@every_cutoff
def test_chance_is_the_mean_over_all_orders_whatever_the_scores(engine, cutoff, denominator):
    protocol = replace(INNER, cutoff=cutoff, denominator=denominator)
    scores, hits = [[4, 4, 3, 9, 1], [5, 4, 3, 2, 1]], [[1, 0, 1, 0, 0], [0, 1, 1, 1, 0]]
    expected = [enumerated([0] * 5, row, cutoff, denominator)[0] for row in hits]
    assert rank(scores, hits, protocol, engine=engine).chance == pytest.approx(np.mean(expected), abs=1e-14)


@every_engine
@settings(deadline=None, max_examples=40, derandomize=True, database=None)
@given(data=st.data())
def test_any_ties_agree_with_the_expected_value_place_by_place(engine, data):
    size = data.draw(st.integers(1, 12))
    scores = data.draw(st.lists(st.integers(-2, 2), min_size=size, max_size=size))
    hits = data.draw(st.lists(st.integers(0, 1), min_size=size, max_size=size))
    cutoff = data.draw(st.none() | st.integers(1, 15))
    denominator = data.draw(st.sampled_from(["relevant", "min"]))
    protocol = replace(INNER, cutoff=cutoff, denominator=denominator)
    found = rank([scores], [hits], protocol, engine=engine).average_precision
    expected = expected_average_precision(scores, hits, cutoff, denominator)
    np.testing.assert_allclose(found, [expected], rtol=0, atol=1e-12)


def test_the_place_by_place_oracle_agrees_with_enumeration():
    for scores in ([1, 1, 1, 0, 0], [2, 1, 1, 1, 1]):
        for hits in list(itertools.product([0, 1], repeat=5))[1:]:
            for cutoff, denominator in CUTOFFS:
                if denominator == "hits":
                    continue  # a ratio of two random numbers: its mean is no sum over places
                slow = enumerated(scores, hits, cutoff, denominator)[0]
                assert expected_average_precision(scores, hits, cutoff, denominator) == pytest.approx(
                    slow, abs=1e-14
                )


def pytrec(scores, relevant, measures):
    """Per-query results of trec_eval; every query needs a relevant item."""
    truth = {f"q{i}": {f"d{j}": int(hit) for j, hit in enumerate(row)} for i, row in enumerate(relevant)}
    runs = {f"q{i}": {f"d{j}": float(score) for j, score in enumerate(row)} for i, row in enumerate(scores)}
    results = pytrec_eval.RelevanceEvaluator(truth, measures).evaluate(runs)
    return [results[f"q{i}"] for i in range(len(scores))]


def distinct_scores(q, g, seed):
    """Scores that stay distinct in float32."""
    return np.random.default_rng(seed).permuted(np.tile(np.arange(g) / g - 0.5, (q, 1)), axis=1)


@every_engine
def test_agrees_with_trec_eval(engine):
    scores, relevant = distinct_scores(40, 150, 3), np.random.default_rng(4).random((40, 150)) < 0.1
    relevant[:, 0] = True
    results = pytrec(scores, relevant, {"map", "P.1,5,20,150", "map_cut.10"})
    found = rank(scores, relevant, engine=engine)
    np.testing.assert_allclose(found.average_precision, [row["map"] for row in results], rtol=0, atol=1e-12)
    for k in (1, 5, 20, 150):
        assert found.precision[k - 1] == pytest.approx(np.mean([row[f"P_{k}"] for row in results]), abs=1e-12)
    found = rank(scores, relevant, replace(INNER, cutoff=10), engine=engine)
    np.testing.assert_allclose(
        found.average_precision, [row["map_cut_10"] for row in results], rtol=0, atol=1e-12
    )


@pytest.fixture(scope="module")
def wikipedia(data_dir):
    """Test pairs of Wikipedia in a common space of topics: images by least squares, texts as they are."""
    folder = data_dir / "wikipedia" / "wikipedia_dataset"
    features = loadmat(folder / "raw_features.mat")
    lines = (folder / "testset_txt_img_cat.list").read_text().splitlines()
    labels = np.array([int(line.split()[2]) for line in lines if line.strip()])
    weights = np.linalg.lstsq(features["I_tr"], features["T_tr"])[0]
    return features["I_te"] @ weights, features["T_te"].astype(np.float64), labels


@every_engine
def test_agrees_with_trec_eval_on_wikipedia(engine, wikipedia):
    images, texts, labels = wikipedia
    assert images.shape == texts.shape == (693, 10)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (images, texts)]
    scores = (unit[0] @ unit[1].T).astype(np.float32)
    alone = np.array([len(np.unique(row)) == len(row) for row in scores])
    assert alone.sum() > 300  # trec_eval orders ties by name: compare the queries that have none
    results = pytrec(scores[alone], labels[alone, None] == labels, {"map", "P.50"})
    found = retrieve(images[alone], texts, labels[alone], labels, engine=engine)
    np.testing.assert_allclose(found.average_precision, [row["map"] for row in results], rtol=0, atol=1e-9)
    assert found.precision[49] == pytest.approx(np.mean([row["P_50"] for row in results]), abs=1e-9)
    assert found.mean_average_precision > found.chance + 0.03


# ---- known answers


@every_engine
def test_a_perfect_ranking_is_1_and_the_worst_is_known(engine):
    relevant = np.arange(10) < 4
    found = rank([np.arange(10, 0, -1.0)], [relevant], engine=engine)
    assert found.mean_average_precision == pytest.approx(1, abs=1e-14)
    assert found.precision == pytest.approx([1] * 4 + [4 / k for k in range(5, 11)])
    worst = rank([np.arange(10.0)], [relevant], engine=engine)
    assert worst.mean_average_precision == pytest.approx(sum(k / (6 + k) for k in range(1, 5)) / 4)


@every_engine
@every_similarity
def test_separated_classes_are_ranked_perfectly(engine, similarity):
    labels = np.repeat([0, 1, 2], 4)
    images = np.eye(3)[labels] * 5 + np.random.default_rng(0).normal(size=(12, 3)) * 0.01
    found = evaluate(images, images + 0.01, labels, under(similarity), engine=engine)
    for scores in found.tasks.values():
        assert scores.mean_average_precision == pytest.approx(1, abs=1e-12)


@every_engine
@every_similarity
def test_one_class_gives_1_whatever_the_embeddings(engine, similarity):
    images, texts, labels = pairs()
    for scores in evaluate(images, texts, labels * 0, under(similarity), engine=engine).tasks.values():
        assert scores.mean_average_precision == pytest.approx(1, abs=1e-12)
        assert scores.chance == pytest.approx(1, abs=1e-12)
        assert scores.precision == pytest.approx(np.ones(len(scores.precision)))


@every_engine
@every_similarity
def test_collapsed_embeddings_get_chance(engine, similarity):
    images, _, labels = pairs(n=53, d=7)
    same = np.repeat(images[:1], 53, axis=0)
    for scores in evaluate(same, same, labels, under(similarity), engine=engine).tasks.values():
        np.testing.assert_allclose(scores.mean_average_precision, scores.chance, rtol=0, atol=1e-14)


@every_engine
@every_similarity
def test_precision_at_full_scope_is_the_share_of_relevant_items(engine, similarity):
    images, texts, labels = pairs(n=25)
    found = evaluate(images, texts, labels, under(similarity), engine=engine)
    counts = np.bincount(labels)[labels]
    assert found.tasks["image->text"].precision[-1] == pytest.approx(np.mean(counts / 25), abs=1e-12)
    assert found.tasks["text->all"].precision[-1] == pytest.approx(np.mean((2 * counts - 1) / 49), abs=1e-12)
    assert [len(found.tasks[task].precision) for task in TASKS] == [25, 25, 49, 49]


@every_engine
def test_max_scope_cuts_the_precision_curve_and_nothing_else(engine):
    images, texts, labels = tied_pairs()
    whole = retrieve(images, texts, labels, labels, INNER, engine=engine)
    cut = retrieve(images, texts, labels, labels, replace(INNER, max_scope=7), engine=engine)
    np.testing.assert_array_equal(cut.precision, whole.precision[:7])
    assert cut.mean_average_precision == whole.mean_average_precision


@every_engine
def test_a_query_without_relevant_items_is_in_no_mean(engine):
    scores = [[3, 2, 1], [1, 1, 1], [1, 2, 3]]
    hits = [[1, 0, 0], [0, 0, 0], [1, 0, 0]]
    found = rank(scores, hits, engine=engine)
    np.testing.assert_allclose(found.average_precision, [1, np.nan, 1 / 3])
    assert found.mean_average_precision == pytest.approx(2 / 3)
    assert (found.n_queries, found.n_unanswerable) == (3, 1)
    answerable = rank([scores[0], scores[2]], [hits[0], hits[2]], engine=engine)
    assert found.chance == pytest.approx(answerable.chance)
    np.testing.assert_allclose(found.precision, answerable.precision)


@every_engine
def test_without_any_answerable_query_every_mean_is_nan(engine):
    found = rank([[2, 1]], [[0, 0]], engine=engine)
    assert found.n_unanswerable == 1
    assert math.isnan(found.mean_average_precision)
    assert math.isnan(found.chance)
    assert np.isnan(found.precision).all()
    assert found.per_class == {}


@every_engine
def test_a_gallery_of_one_item(engine):
    one = np.array([[1.0, 2.0]])
    for scores in evaluate(one, one, np.array([0]), engine=engine).tasks.values():
        assert (scores.mean_average_precision, scores.chance, scores.gallery) == (1, 1, 1)
    found = retrieve(np.ones((3, 2)), one, np.array([0, 1, 0]), np.array([0]), engine=engine)
    np.testing.assert_array_equal(found.average_precision, [1, np.nan, 1])


@every_engine
@pytest.mark.parametrize("similarity", ["cosine", "inner"])
def test_a_zero_row_has_similarity_0(engine, similarity):
    gallery, labels = np.array([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]), np.array([0, 1, 2])
    # The zero item ranks second for queries of any direction; a zero query ties everything.
    found = retrieve(
        np.array([[2.0, 0.0], [-3.0, 0.0]]), gallery, [1, 1], labels, under(similarity), engine=engine
    )
    assert found.average_precision == pytest.approx([1 / 2, 1 / 2])
    found = retrieve(np.zeros((3, 2)), gallery, labels, labels, under(similarity), engine=engine)
    assert found.average_precision == pytest.approx([(1 + 1 / 2 + 1 / 3) / 3] * 3)


# ---- the query in the gallery


@every_engine
@every_similarity
@pytest.mark.parametrize("make", [pairs, tied_pairs], ids=["distinct", "tied"])
def test_excluding_the_query_equals_deleting_it(engine, similarity, make):
    images, texts, labels = make(n=14)
    if make is tied_pairs and similarity == "cosine":
        images, texts = np.sign(images), np.zeros_like(texts) + np.eye(3)[labels]
    everything, both = np.concatenate([images, texts]), np.concatenate([labels, labels])
    found = evaluate(images, texts, labels, under(similarity), engine=engine)
    for task, first in (("image->all", 0), ("text->all", len(images))):
        for i in range(len(images)):
            query, without = everything[first + i], np.delete(everything, first + i, axis=0)
            alone = retrieve(
                query[None],
                without,
                labels[i : i + 1],
                np.delete(both, first + i),
                under(similarity),
                engine=engine,
            )
            scores = found.tasks[task]
            assert scores.average_precision[i] == pytest.approx(alone.mean_average_precision, abs=1e-12)
            assert scores.gallery == alone.gallery == 2 * len(images) - 1


@every_engine
@every_similarity
def test_chance_without_the_query_is_that_of_the_smaller_gallery(engine, similarity):
    images, texts, _ = pairs(n=3)
    found = evaluate(images, texts, np.array([0, 1, 0]), under(similarity), engine=engine)
    per_query = {0: enumerated([0] * 5, [1, 1, 1, 0, 0])[0], 1: enumerated([0] * 5, [1, 0, 0, 0, 0])[0]}
    assert found.tasks["image->all"].chance == pytest.approx((2 * per_query[0] + per_query[1]) / 3)


@every_engine
@every_similarity
def test_a_query_left_in_is_an_item_like_any_other(engine, similarity):
    images, texts, labels = pairs(n=20)
    protocol = under(similarity, exclude_query=False)
    found = evaluate(images, texts, labels, protocol, engine=engine)
    everything, both = np.concatenate([images, texts]), np.concatenate([labels, labels])
    for task, queries in (("image->all", images), ("text->all", texts)):
        assert_same(found.tasks[task], retrieve(queries, everything, labels, both, protocol, engine=engine))
    excluded = evaluate(images, texts, labels, under(similarity), engine=engine)
    assert_same(excluded.tasks["image->text"], found.tasks["image->text"])
    if similarity != "inner":  # the query is its own nearest item
        assert (
            found.tasks["image->all"].mean_average_precision
            > excluded.tasks["image->all"].mean_average_precision
        )


# ---- invariances


@every_engine
@pytest.mark.parametrize("similarity", ["l2", "inner"])
def test_the_order_of_the_gallery_does_not_matter(engine, similarity):
    images, texts, labels = tied_pairs(n=37)
    order = np.random.default_rng(5).permutation(37)
    straight = retrieve(images, texts, labels, labels, under(similarity), engine=engine)
    shuffled = retrieve(images, texts[order], labels, labels[order], under(similarity), engine=engine)
    assert_same(shuffled, straight)
    turned = retrieve(images[order], texts, labels[order], labels, under(similarity), engine=engine)
    np.testing.assert_allclose(
        turned.average_precision, straight.average_precision[order], rtol=0, atol=1e-12
    )


@every_engine
@every_similarity
@pytest.mark.parametrize("factor", [0.25, 3.7, 1e5, 1e-5])
def test_positive_scaling_changes_nothing(engine, similarity, factor):
    images, texts, labels = pairs()
    plain = evaluate(images, texts, labels, under(similarity), engine=engine)
    scaled = evaluate(images * factor, texts * factor, labels, under(similarity), engine=engine)
    for task in TASKS:
        assert_same(scaled.tasks[task], plain.tasks[task])


@every_engine
@pytest.mark.parametrize("similarity", ["l2", "inner"])
@pytest.mark.parametrize("factor", [1e20, 1e-25, 1e100, 1e-100, 1e200, 1e-200])
def test_scores_beyond_float32_are_never_tied_in_silence(engine, similarity, factor):
    images, texts, labels = pairs()
    plain = evaluate(images, texts, labels, under(similarity), engine=engine)
    try:
        scaled = evaluate(images * factor, texts * factor, labels, under(similarity), engine=engine)
    except InvalidInput:
        return  # a refusal is not silent
    for task in TASKS:
        assert_same(scaled.tasks[task], plain.tasks[task])


@every_engine
def test_cosine_takes_rows_of_any_length(engine):
    images, texts, labels = pairs()
    sizes = 2.0 ** np.random.default_rng(6).integers(-1000, 1000, size=(2, len(images), 1))
    plain = evaluate(images, texts, labels, engine=engine)
    stretched = evaluate(images * sizes[0], texts * sizes[1], labels, engine=engine)
    for task in TASKS:
        assert_same(stretched.tasks[task], plain.tasks[task])


@every_engine
@pytest.mark.parametrize("offset", [3.0, 2.0**12, 2.0**30])
def test_l2_does_not_see_a_common_offset(engine, offset):
    images, texts, labels = pairs()
    images, texts = (np.round(rows * 2**10) / 2**10 for rows in (images, texts))  # the sums below are exact
    plain = evaluate(images, texts, labels, under("l2"), engine=engine)
    moved = evaluate(images + offset, texts + offset, labels, under("l2"), engine=engine)
    for task in TASKS:
        assert_same(moved.tasks[task], plain.tasks[task])


@every_engine
@every_similarity
def test_equal_scores_stay_tied_when_the_axes_are_turned(engine, similarity):
    # Few distinct directions at right angles: most scores are equal, many of them 0. A rotation leaves every
    # score as it is, up to rounding, which must not decide the order.
    generator = np.random.default_rng(7)
    kinds, labels = generator.integers(8, size=203), generator.integers(3, size=203)
    plain, turned = np.eye(8)[kinds], np.linalg.qr(generator.normal(size=(8, 8)))[0][kinds]
    scores = (kinds[:, None] == kinds).tolist()
    relevant = (labels[:, None] == labels).tolist()
    expected = [expected_average_precision(row, hits) for row, hits in zip(scores, relevant, strict=True)]
    for rows in (plain, turned):
        found = retrieve(rows, rows, labels, labels, under(similarity), engine=engine)
        np.testing.assert_allclose(found.average_precision, expected, rtol=0, atol=1e-12)


@every_engine
@every_similarity
def test_copies_of_an_item_stay_tied(engine, similarity):
    generator = np.random.default_rng(8)
    items = generator.normal(size=(11, 50))
    which, labels = np.repeat(np.arange(11), 9), generator.integers(3, size=99)
    scores = loop_scores(items, items, similarity)[:, which]
    relevant = np.arange(11)[:, None] % 3 == labels
    expected = [
        expected_average_precision(row, hits) for row, hits in zip(scores.tolist(), relevant, strict=True)
    ]
    found = retrieve(items, items[which], np.arange(11) % 3, labels, under(similarity), engine=engine)
    np.testing.assert_allclose(found.average_precision, expected, rtol=0, atol=1e-12)


@every_engine
def test_cosine_sees_past_a_common_offset(engine):
    # Far from the origin all cosines are near 1, but they differ, and so do those of rows kept as float32.
    images, texts, labels = pairs(n=60)
    for offset, tolerance in ((1e2, 1e-4), (1e4, 5e-3)):
        left, right = ((rows + offset).astype(np.float32).astype(np.float64) for rows in (images, texts))
        expected = loop_average_precision(
            loop_scores(left, right, "cosine"), loop_relevant(labels, labels)
        ).mean()
        found = retrieve(left, right, labels, labels, engine=engine)
        assert found.mean_average_precision == pytest.approx(expected, abs=tolerance)
        assert expected > found.chance + 0.05


@every_engine
@every_similarity
@pytest.mark.parametrize("size", [1e-4, 1e4])
def test_one_item_of_unlike_size_does_not_blur_the_others(engine, similarity, size):
    images, texts, labels = pairs()
    texts[4] *= size
    scores, relevant = loop_scores(images, texts, similarity), loop_relevant(labels, labels)
    found = retrieve(images, texts, labels, labels, under(similarity), engine=engine)
    expected = loop_average_precision(scores, relevant)
    np.testing.assert_allclose(found.average_precision, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("similarity", ["l2", "inner"])
@every_engine
def test_small_differences_count_beside_large_ones(engine, similarity):
    images, texts, clusters = pairs()
    centres = np.eye(5)[clusters] * 10
    labels = np.arange(30) % 2  # classes cut across the clusters: only the small differences tell items apart
    images, texts = centres + 1e-3 * images, centres + 1e-3 * texts
    expected = loop_average_precision(loop_scores(images, texts, similarity), loop_relevant(labels, labels))
    found = retrieve(images, texts, labels, labels, under(similarity), engine=engine)
    np.testing.assert_allclose(found.average_precision, expected, rtol=0, atol=1e-3)


@every_engine
@every_similarity
@pytest.mark.parametrize("multi", [False, True], ids=["single", "multi"])
def test_tiles_change_nothing(engine, similarity, multi):
    images, texts, labels = pairs(n=41, multi=multi)
    whole = evaluate(images, texts, labels, under(similarity), engine=engine)
    for tile_bytes in (1, 5000, 20000):
        tiled = evaluate(images, texts, labels, under(similarity), engine=engine, tile_bytes=tile_bytes)
        for task in TASKS:
            assert_same(tiled.tasks[task], whole.tasks[task])


@every_engine
def test_a_multi_hot_matrix_with_one_class_a_row_equals_single_labels(engine):
    images, texts, labels = pairs()
    single = evaluate(images, texts, labels, engine=engine)
    for dtype in (bool, np.int64, np.float32):
        multi = evaluate(images, texts, np.eye(4, dtype=dtype)[labels], engine=engine)
        for task in TASKS:
            assert_same(multi.tasks[task], single.tasks[task])


@pytest.mark.parametrize("seed", range(3))
def test_engines_agree_when_they_are_given_the_same_scores(seed):
    generator = np.random.default_rng(seed)
    relevant = generator.random((60, 90)) < 0.2
    for scores in (generator.normal(size=(60, 90)), generator.integers(-3, 4, size=(60, 90))):
        for cutoff, denominator in CUTOFFS:
            protocol = replace(INNER, cutoff=cutoff, denominator=denominator)
            found = [rank(scores, relevant, protocol, engine=engine) for engine in ENGINES]
            assert_same(found[0], found[1])


@every_similarity
def test_engines_agree_on_embeddings(similarity):
    images, texts, labels = pairs(n=120, d=32, classes=6)
    found = [evaluate(images, texts, labels, under(similarity), engine=engine) for engine in ENGINES]
    for task in TASKS:
        assert_same(found[0].tasks[task], found[1].tasks[task])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@every_similarity
@pytest.mark.parametrize("multi", [False, True], ids=["single", "multi"])
def test_a_gpu_agrees_with_the_cpu(similarity, multi):
    images, texts, labels = pairs(n=700, d=64, classes=10, multi=multi)
    expected = evaluate(images, texts, labels, under(similarity), engine="numpy")
    found = evaluate(images, texts, labels, under(similarity), device="cuda")
    assert found.engine == "torch"
    for task in TASKS:
        assert_same(found.tasks[task], expected.tasks[task], tolerance=1e-6)


# ---- labels


@every_engine
def test_labels_may_have_gaps_and_classes_without_queries(engine):
    images, texts, labels = pairs(classes=2)
    gaps = np.array([3, 7])[labels]
    plain = evaluate(images, texts, labels, engine=engine)
    found = evaluate(images, texts, gaps, engine=engine)
    for task in TASKS:
        assert found.tasks[task].per_class == {
            3: plain.tasks[task].per_class[0],
            7: plain.tasks[task].per_class[1],
        }
        np.testing.assert_array_equal(
            found.tasks[task].average_precision, plain.tasks[task].average_precision
        )
    threes = gaps == 3
    alone = retrieve(images[threes], texts, gaps[threes], gaps, engine=engine)
    assert set(alone.per_class) == {3}
    assert alone.per_class[3] == pytest.approx(alone.mean_average_precision)
    assert alone.per_class[3] == pytest.approx(plain.tasks["image->text"].per_class[0])


@every_engine
def test_per_class_is_the_mean_over_the_queries_of_a_class(engine):
    images, texts, labels = pairs(multi=True)
    labels = np.column_stack([labels, np.zeros(len(labels), dtype=bool)])  # a class that nothing has
    found = retrieve(images, texts, labels, labels, engine=engine)
    assert set(found.per_class) == {0, 1, 2, 3}
    for label, value in found.per_class.items():
        assert value == pytest.approx(found.average_precision[labels[:, label]].mean())


@every_engine
def test_a_class_of_unanswerable_queries_is_left_out(engine):
    found = retrieve(np.eye(3), np.eye(3), np.array([0, 5, 0]), np.array([0, 0, 1]), engine=engine)
    assert set(found.per_class) == {0}
    assert found.n_unanswerable == 1


# ---- input


@every_engine
@every_similarity
def test_the_type_of_the_numbers_does_not_matter(engine, similarity):
    generator = np.random.default_rng(9)
    images, texts = generator.integers(0, 2, size=(2, 20, 4)).astype(np.float64)
    labels = generator.integers(3, size=20)
    plain = evaluate(images, texts, labels, under(similarity), engine=engine)
    for dtype in (np.float16, np.float32, np.longdouble, np.int8, np.uint8, np.int64, bool):
        found = evaluate(images.astype(dtype), texts.astype(dtype), labels, under(similarity), engine=engine)
        for task in TASKS:
            assert_same(found.tasks[task], plain.tasks[task])
    for dtype in (np.int8, np.uint8, np.int32, np.uint64):
        found = evaluate(images, texts, labels.astype(dtype), under(similarity), engine=engine)
        assert found.tasks["image->text"].per_class == plain.tasks["image->text"].per_class


@every_engine
@every_similarity
def test_memory_layout_does_not_matter_and_inputs_are_left_alone(engine, similarity):
    images, texts, labels = pairs()
    plain = evaluate(images, texts, labels, under(similarity), engine=engine)
    spread = np.repeat(np.repeat(images, 2, axis=0), 3, axis=1)[::2, ::3]
    backwards = np.ascontiguousarray(texts[::-1, ::-1])[::-1, ::-1]
    locked = np.repeat(labels, 2)
    for array in (spread, backwards, locked):
        array.flags.writeable = False
    for left, right in ((spread, backwards), (np.asfortranarray(images), np.asfortranarray(texts))):
        before = left.copy(), right.copy(), labels.copy()
        found = evaluate(left, right, locked[::2], under(similarity), engine=engine)
        for task in TASKS:
            assert_same(found.tasks[task], plain.tasks[task])
        for array, copy in zip((left, right, labels), before, strict=True):
            np.testing.assert_array_equal(array, copy)


@every_engine
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_with_their_row(engine, bad):
    images, texts, labels = pairs()
    broken = images.copy()
    broken[17, 2] = bad
    with pytest.raises(InvalidInput, match=r"image embeddings: row 17\b"):
        evaluate(broken, texts, labels, engine=engine)
    with pytest.raises(InvalidInput, match=r"text embeddings: row 17\b"):
        evaluate(images, broken, labels, engine=engine)
    with pytest.raises(InvalidInput, match=r"queries: row 17\b"):
        retrieve(broken, texts, labels, labels, engine=engine)
    with pytest.raises(InvalidInput, match=r"gallery: row 17\b"):
        retrieve(images, broken, labels, labels, engine=engine)


@pytest.mark.parametrize(
    ("images", "texts", "labels", "words"),
    [
        (np.ones((3, 2)), np.ones((4, 2)), [0, 1, 2], "equal numbers of rows.*'text embeddings': 4"),
        (np.ones((3, 2)), np.ones((3, 2)), [0, 1], "equal numbers of rows.*'labels': 2"),
        (np.ones((3, 2)), np.ones((3, 5)), [0, 1, 2], "equal width, got 2 and 5"),
        (np.ones(3), np.ones(3), [0, 1, 2], r"image embeddings: .*\(3,\)"),
        (np.ones((3, 0)), np.ones((3, 0)), [0, 1, 2], r"image embeddings: .*\(3, 0\)"),
        (np.ones((3, 2, 1)), np.ones((3, 2, 1)), [0, 1, 2], r"image embeddings: .*\(3, 2, 1\)"),
        (np.ones((0, 2)), np.ones((0, 2)), np.zeros(0, dtype=int), "at least one row"),
        (np.ones((3, 2), dtype=complex), np.ones((3, 2)), [0, 1, 2], "real numbers.*complex"),
        (np.full((3, 2), "a"), np.ones((3, 2)), [0, 1, 2], "real numbers"),
        (np.ones((3, 2), dtype=object), np.ones((3, 2)), [0, 1, 2], "real numbers.*object"),
        (np.ones((3, 2)), np.ones((3, 2)), [0.0, 1.0, 2.0], "labels: expected integers"),
        (np.ones((3, 2)), np.ones((3, 2)), [0, -1, 2], "labels: row 1"),
        (np.ones((3, 2)), np.ones((3, 2)), [[1, 0], [0, 0], [1, 1]], "labels: row 1 has no class"),
        (np.ones((3, 2)), np.ones((3, 2)), [[1, 0], [2, 0], [1, 1]], "only 0 and 1"),
    ],
)
def test_wrong_shapes_and_types_are_refused_in_words(images, texts, labels, words):
    with pytest.raises(InvalidInput, match=words):
        evaluate(images, texts, np.asarray(labels))


def test_a_refused_label_is_not_compared_with_an_unknown_number_of_classes():
    with pytest.raises(InvalidInput, match="label -1") as caught:
        evaluate(np.ones((2, 2)), np.ones((2, 2)), np.array([0, -1]))
    assert "None" not in str(caught.value)


@pytest.mark.parametrize(
    ("queries", "gallery", "left", "right"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), [0, 1], [0, 1]),
        (np.ones((2, 3)), np.ones((2, 3)), [0, 1], [[1, 0], [0, 1]]),
        (np.ones((2, 3)), np.ones((2, 3)), [[1, 0], [0, 1]], [[1, 0, 0], [0, 1, 0]]),
        (np.ones((2, 3)), np.ones((2, 3)), [0, 1, 2], [0, 1]),
        (np.ones((2, 3)), np.ones((2, 3)), [0, 1], [0]),
        (np.ones((0, 3)), np.ones((2, 3)), np.zeros(0, dtype=int), [0, 1]),
        (np.ones((2, 3)), np.ones((0, 3)), [0, 1], np.zeros(0, dtype=int)),
    ],
)
def test_retrieve_refuses_what_does_not_fit_together(queries, gallery, left, right):
    with pytest.raises(InvalidInput):
        retrieve(queries, gallery, np.asarray(left), np.asarray(right))


@pytest.mark.parametrize("task", ["image->audio", "audio->image", "image", "text->text "])
def test_an_unknown_task_is_refused(task):
    images, texts, labels = pairs()
    with pytest.raises(UsageError, match=task):
        evaluate(images, texts, labels, tasks=(task,))


@pytest.mark.parametrize("tile_bytes", [0, -1])
def test_a_tile_without_memory_is_refused(tile_bytes):
    images, texts, labels = pairs()
    with pytest.raises(UsageError, match="tile_bytes"):
        evaluate(images, texts, labels, tile_bytes=tile_bytes)


def test_only_the_wanted_tasks_are_computed():
    images, texts, labels = pairs()
    found = evaluate(images, texts, labels, tasks=("text->image",))
    assert set(found.tasks) == {"text->image"}
    assert_same(found.tasks["text->image"], evaluate(images, texts, labels).tasks["text->image"])


# ---- engines


def test_unknown_engines_and_devices_are_refused():
    with pytest.raises(InvalidParameter, match="unknown engine 'jax'; known: auto, numpy, torch"):
        choose_engine("jax", "cpu")
    with pytest.raises(InvalidParameter, match="numpy engine computes on the cpu, not on 'cuda'"):
        choose_engine("numpy", "cuda")
    for engine in ("auto", "torch"):
        for device in ("banana", "", "cuda:4095"):
            with pytest.raises(InvalidParameter, match=f"device '{device}' cannot be used"):
                choose_engine(engine, device)


def test_a_device_that_holds_no_numbers_is_refused():
    with pytest.raises(InvalidParameter, match="device 'meta' cannot be used"):
        choose_engine("torch", "meta")


def test_auto_takes_numpy_for_the_cpu():
    assert isinstance(choose_engine("auto", "cpu"), NumpyEngine)
    assert isinstance(choose_engine("torch", "cpu"), TorchEngine)
    images, texts, labels = pairs()
    assert evaluate(images, texts, labels).engine == "numpy"
    assert evaluate(images, texts, labels, engine="torch").engine == "torch"
    assert evaluate(images, texts, labels).protocol is DEFAULT


def test_count_groups_counts():
    generator = np.random.default_rng(10)
    scores = generator.integers(-2, 3, size=(15, 12)) * 0.5
    relevant = generator.random((15, 12)) < 0.4
    excluded = generator.integers(12, size=15)
    scores[scores == 0] *= generator.choice([-1, 1], size=(scores == 0).sum())  # 0.0 and -0.0 are equal
    for left_out in (None, excluded):
        expected = []
        for i in range(15):
            items = [j for j in range(12) if left_out is None or j != left_out[i]]
            for level in sorted({float(scores[i, j]) for j in items if relevant[i, j]}, reverse=True):
                above = [j for j in items if scores[i, j] > level]
                tied = [j for j in items if scores[i, j] == level]
                hits = [sum(map(bool, relevant[i, group])) for group in (above, tied)]
                expected.append((i, len(above), len(tied), *hits))
        found = count_groups(scores.copy(), relevant.copy(), left_out)
        columns = (found.query, found.above, found.tied, found.relevant_above, found.relevant_tied)
        assert list(zip(*(column.tolist() for column in columns), strict=True)) == expected


def test_harmonic_numbers():
    np.testing.assert_allclose(harmonic(4), [0, 1, 3 / 2, 11 / 6, 25 / 12], rtol=1e-15)
    assert harmonic(100_000)[-1] == pytest.approx(math.fsum(1 / k for k in range(1, 100_001)), rel=1e-13)


@every_similarity
@pytest.mark.parametrize(("classes", "multi"), [(20, False), (20, True), (1, False)])
def test_memory_stays_near_the_tile(similarity, classes, multi):
    q, g, tile_bytes = 200, 4000, 3 * 2**20
    generator = np.random.default_rng(11)
    queries, gallery = generator.normal(size=(q, 8)), generator.normal(size=(g, 8))
    left, right = generator.integers(classes, size=q), generator.integers(classes, size=g)
    if multi:
        left, right = np.eye(classes, dtype=bool)[left], np.eye(classes, dtype=bool)[right]
    inputs = queries.nbytes + gallery.nbytes + left.nbytes + right.nbytes
    peaks = []
    for tile in (tile_bytes, 100 * tile_bytes):
        tracemalloc.start()
        try:
            retrieve(queries, gallery, left, right, under(similarity), engine="numpy", tile_bytes=tile)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    limit = 2 * tile_bytes + 4 * inputs
    assert peaks[0] < limit < peaks[1]  # the second: without tiles it would not fit


def test_the_digest_is_stable_and_short():
    assert evaluator_digest() == evaluator_digest()
    assert len(evaluator_digest()) >= 16


# -- embeddings changed before comparison ----------------------------------------------------------------------


def columns_standardised(rows):
    return (rows - rows.mean(axis=0)) / rows.std(axis=0)


@every_engine
def test_post_processing_is_what_it_would_be_by_hand(engine):
    rng = np.random.default_rng(5)
    images, texts = rng.normal(size=(40, 6)) + 3, 2 * rng.normal(size=(40, 6)) - 1
    labels = rng.integers(0, 4, size=40)
    plain = replace(DEFAULT, name="plain")
    both = evaluate(images, texts, labels, replace(plain, post="test_zscore"), engine=engine)
    by_hand = evaluate(
        columns_standardised(images), columns_standardised(texts), labels, plain, engine=engine
    )
    one = evaluate(images, texts, labels, replace(plain, post="query_zscore"), engine=engine)
    for task, scores in both.tasks.items():
        np.testing.assert_allclose(
            scores.average_precision, by_hand.tasks[task].average_precision, rtol=0, atol=1e-12
        )
    for task, query, gallery in (("image->text", images, texts), ("text->image", texts, images)):
        expected = retrieve(columns_standardised(query), gallery, labels, labels, plain, engine=engine)
        np.testing.assert_allclose(
            one.tasks[task].average_precision, expected.average_precision, rtol=0, atol=1e-12
        )


def test_standardising_ignores_location_and_scale_and_survives_constant_columns():
    rng = np.random.default_rng(6)
    images, texts = rng.normal(size=(30, 5)), rng.normal(size=(30, 5))
    images[:, 2] = 7.0
    labels = rng.integers(0, 3, size=30)
    protocol = replace(DEFAULT, post="test_zscore")
    first = evaluate(images, texts, labels, protocol)
    second = evaluate(images * [1, 2, 3, 4, 5] + 10, texts * 0.1 - 4, labels, protocol)
    for task in first.tasks:
        np.testing.assert_allclose(
            first.tasks[task].average_precision, second.tasks[task].average_precision, rtol=0, atol=1e-12
        )
