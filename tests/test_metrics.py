"""Closed forms against enumeration of all orders of tied items, plain loops, and trec_eval."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import pytrec_eval
from evaluation_oracles import (
    CURVES,
    CUTOFFS,
    INNER,
    PRECISIONS,
    TIES,
    assert_is,
    average_precision_of,
    both_labels,
    enumerated,
    every_cutoff,
    every_engine,
    every_precision,
    exact_rows,
    expected_average_precision,
    groups_of,
    interpolated,
    labels_of,
    list_average_precision,
    loop_relevant,
    measures,
    orders,
    score_matrix,
    task_oracle,
    tied_pairs,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import loadmat

from xmbench.evaluation import retrieve
from xmbench.evaluation.metrics import harmonic
from xmbench.protocol import PROTOCOLS


@every_engine
@every_cutoff
def test_ties_are_the_mean_over_all_orders(engine, cutoff, denominator):
    protocol = replace(INNER, cutoff=cutoff, denominator=denominator)
    hits = list(itertools.product([0, 1], repeat=5))[1:]
    for scores in ([3, 2, 2, 2, 1], [2, 2, 1, 1, 1], [3, 3, 2, 1, 1], [-1, 0, -1, 5, 0], [1, 1, 1, 1, 0]):
        averages, curves = zip(*(enumerated(scores, row, cutoff, denominator) for row in hits), strict=True)
        found = score_matrix([scores] * len(hits), hits, protocol, engine=engine)
        np.testing.assert_allclose(found.average_precision, averages, rtol=0, atol=1e-14)
        np.testing.assert_allclose(found.precision, np.mean(curves, axis=0), rtol=0, atol=1e-14)


@every_engine
@every_cutoff
def test_all_tied_is_chance(engine, cutoff, denominator):
    protocol = replace(INNER, cutoff=cutoff, denominator=denominator)
    hits = list(itertools.product([0, 1], repeat=6))[1:]
    found = score_matrix(np.ones((len(hits), 6)), hits, protocol, engine=engine)
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
    assert score_matrix(scores, hits, protocol, engine=engine).chance == pytest.approx(
        np.mean(expected), abs=1e-14
    )


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
    found = score_matrix([scores], [hits], protocol, engine=engine).average_precision
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


def test_harmonic_numbers():
    np.testing.assert_allclose(harmonic(4), [0, 1, 3 / 2, 11 / 6, 25 / 12], rtol=1e-15)
    assert harmonic(100_000)[-1] == pytest.approx(math.fsum(1 / k for k in range(1, 100_001)), rel=1e-13)


@every_engine
def test_max_scope_cuts_the_precision_curve_and_nothing_else(engine):
    images, texts, labels = tied_pairs()
    whole = retrieve(images, texts, labels, labels, INNER, engine=engine)
    cut = retrieve(images, texts, labels, labels, replace(INNER, max_scope=7), engine=engine)
    np.testing.assert_array_equal(cut.precision, whole.precision[:7])
    assert cut.mean_average_precision == whole.mean_average_precision


@every_engine
def test_hand_computed_list(engine):
    found = score_matrix([[0.9, 0.5, 0.1]], [[1, 0, 1]], engine=engine)
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
    found = score_matrix([[5, 4, 3, 2, 1]], [[1, 0, 1, 1, 0]], protocol, engine=engine)
    assert found.mean_average_precision == pytest.approx(expected)


@every_engine
def test_hand_computed_tie(engine):
    # Two items share rank 2 and 3, one of them relevant: half the time 1/2, half the time 1/3.
    found = score_matrix([[3, 2, 2, 1]], [[0, 1, 0, 0]], engine=engine)
    assert found.average_precision == pytest.approx([(1 / 2 + 1 / 3) / 2])
    assert found.precision == pytest.approx([0, 1 / 4, 1 / 3, 1 / 4])


@every_engine
def test_a_perfect_ranking_is_1_and_the_worst_is_known(engine):
    relevant = np.arange(10) < 4
    found = score_matrix([np.arange(10, 0, -1.0)], [relevant], engine=engine)
    assert found.mean_average_precision == pytest.approx(1, abs=1e-14)
    assert found.precision == pytest.approx([1] * 4 + [4 / k for k in range(5, 11)])
    worst = score_matrix([np.arange(10.0)], [relevant], engine=engine)
    assert worst.mean_average_precision == pytest.approx(sum(k / (6 + k) for k in range(1, 5)) / 4)


# ---- every metric, every tie rule


FEW = [[3, 2, 2, 2, 1], [2, 2, 1, 1, 1], [-1, 0, -1, 5, 0], [1, 1, 1, 1, 0], [7, 7, 7, 7, 7]]
SINGLE = ("precision", "recall", "ndcg", "r_precision", "mean_reciprocal_rank")


def lists_of(scores, hits):
    """All ranked lists of 0/1 that the scores allow, and in how many orders of the items each."""
    return Counter(tuple(hits[item] for item in order) for order in orders(scores))


@cache
def over_all_orders():
    """(scores, hits, lists, weights, metric -> values, one a list) of all small cases."""
    found = []
    for scores in FEW:
        for hits in list(itertools.product([0, 1], repeat=5))[1:]:
            lists = lists_of(scores, hits)
            each = [measures([[hit] for hit in ranked], 5) for ranked in lists]
            values = {name: np.array([one[name] for one in each]) for name in each[0]}
            values["average_precision"] = np.array([list_average_precision(ranked) for ranked in lists])
            found.append((scores, hits, list(lists.values()), values))
    return found


def test_the_oracle_of_tied_groups_is_the_mean_over_all_orders():
    for scores, hits, weights, values in over_all_orders():
        found = measures(groups_of(scores, hits), 5)
        found["average_precision"] = average_precision_of(groups_of(scores, hits))
        for name in (*SINGLE, "average_precision"):
            expected = np.average(values[name], axis=0, weights=weights)
            np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-14, err_msg=name)


@every_engine
@every_precision
def test_every_metric_is_the_mean_over_all_orders(engine, precision):
    for scores, hits, weights, values in over_all_orders():
        found = score_matrix([scores], [hits], engine=engine, precision=precision)
        for name in (*SINGLE, "average_precision"):
            expected = np.average(values[name], axis=0, weights=weights)
            np.testing.assert_allclose(
                np.squeeze(getattr(found, name)), expected, rtol=0, atol=1e-14, err_msg=name
            )


@every_engine
@pytest.mark.parametrize(("ties", "choose"), [("optimistic", np.max), ("pessimistic", np.min)])
def test_optimistic_and_pessimistic_are_the_best_and_the_worst_order(engine, ties, choose):
    # Of every metric: to move a relevant item up past an irrelevant one lowers none of them.
    for scores, hits, _, values in over_all_orders():
        found = score_matrix([scores], [hits], replace(INNER, ties=ties), engine=engine)
        for name, each in values.items():
            expected = choose(each, axis=0)
            np.testing.assert_allclose(
                np.squeeze(getattr(found, name)), expected, rtol=0, atol=1e-14, err_msg=name
            )


@every_engine
@every_cutoff
def test_optimistic_and_pessimistic_with_a_cutoff(engine, cutoff, denominator):
    # With "hits" a lower-ranked hit may raise the ratio's divisor: there the order is what the rule says it is.
    for scores in ([3, 2, 2, 2, 1], [2, 2, 1, 1, 1], [7, 7, 7, 7, 7]):
        hits = list(itertools.product([0, 1], repeat=5))[1:]
        for ties, choose in (("optimistic", max), ("pessimistic", min)):
            protocol = replace(INNER, ties=ties, cutoff=cutoff, denominator=denominator)
            found = score_matrix([scores] * len(hits), hits, protocol, engine=engine).average_precision
            ruled = [[group[0] for group in groups_of(scores, row, ties)] for row in hits]
            expected = [list_average_precision(row, cutoff, denominator) for row in ruled]
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
            if denominator != "hits":
                best = [
                    choose(list_average_precision(row, cutoff, denominator) for row in lists_of(scores, each))
                    for each in hits
                ]
                np.testing.assert_allclose(found, best, rtol=0, atol=1e-14)


@every_engine
@pytest.mark.parametrize("ties", ["index", "reverse_index"])
@every_cutoff
def test_order_of_the_gallery_is_a_stable_argsort(engine, ties, cutoff, denominator):
    generator = np.random.default_rng(12)
    scores, relevant = generator.integers(-2, 3, size=(25, 18)), generator.random((25, 18)) < 0.3
    expected = []
    for row, hits in zip(scores, relevant, strict=True):
        if ties == "reverse_index":
            row, hits = row[::-1], hits[::-1]
        ranked = hits[np.argsort(-row, kind="stable")].astype(int).tolist()
        expected.append(list_average_precision(ranked, cutoff, denominator))
    protocol = replace(INNER, ties=ties, cutoff=cutoff, denominator=denominator)
    found = score_matrix(scores, relevant, protocol, engine=engine).average_precision
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


@every_engine
@pytest.mark.parametrize("ties", TIES)
@settings(deadline=None, max_examples=30, derandomize=True, database=None)
@given(data=st.data())
def test_any_list_has_the_metrics_of_the_oracle(engine, ties, data):
    size = data.draw(st.integers(1, 14))
    scores = data.draw(st.lists(st.integers(-2, 2), min_size=size, max_size=size))
    hits = data.draw(st.lists(st.integers(0, 1), min_size=size, max_size=size).filter(any))
    scope, precision = data.draw(st.integers(1, 16)), data.draw(st.sampled_from(PRECISIONS))
    protocol = replace(INNER, ties=ties, max_scope=scope)
    found = score_matrix([scores], [hits], protocol, engine=engine, precision=precision)
    assert_is(found, task_oracle([scores], np.array([hits], bool), ties, scope))


@every_engine
@pytest.mark.parametrize("level_of", [1, 3, 7, 10, 29, 100, 101])
def test_interpolated_precision_is_its_definition_at_every_level(engine, level_of):
    """R relevant items, so that recall levels fall on hits and between them; with ties and without."""
    generator = np.random.default_rng(level_of)
    size = 2 * level_of + 5
    hits = np.zeros((6, size), bool)
    for row in hits:
        row[generator.permutation(size)[:level_of]] = True
    for scores in (
        generator.integers(0, 6, size=hits.shape),
        generator.permuted(np.tile(np.arange(size), (6, 1)), axis=1),
    ):
        found = score_matrix(scores, hits, engine=engine).interpolated_precision
        expected = [
            interpolated(groups_of(*pair))
            for pair in zip(scores.tolist(), hits.astype(int).tolist(), strict=True)
        ]
        np.testing.assert_allclose(found, np.mean(expected, axis=0), rtol=0, atol=1e-13)
        assert (np.diff(found) <= 1e-15).all()


@every_engine
def test_bounds_that_always_hold(engine):
    generator = np.random.default_rng(13)
    scores, relevant = generator.integers(-3, 4, size=(40, 30)), generator.random((40, 30)) < 0.2
    found = {ties: score_matrix(scores, relevant, replace(INNER, ties=ties), engine=engine) for ties in TIES}
    low, middle, high = (found[ties].average_precision for ties in ("pessimistic", "expected", "optimistic"))
    answered = np.isfinite(middle)
    assert (low <= middle + 1e-15)[answered].all() and (middle <= high + 1e-15)[answered].all()
    for ties in ("index", "reverse_index"):
        one = found[ties].average_precision
        assert (low <= one + 1e-15)[answered].all() and (one <= high + 1e-15)[answered].all()
    for scores_of in found.values():
        assert (np.diff(scores_of.recall) >= -1e-15).all()
        assert scores_of.recall[-1] == pytest.approx(1, abs=1e-14)
        assert (np.diff(scores_of.interpolated_precision) <= 1e-15).all()
        for name in CURVES:
            curve = getattr(scores_of, name)
            assert (curve >= 0).all() and (curve <= 1 + 1e-14).all(), name
        assert scores_of.mean_average_precision <= scores_of.interpolated_precision.max() + 1e-14
        assert scores_of.precision[0] <= scores_of.mean_reciprocal_rank + 1e-15 <= 1 + 2e-15
        assert scores_of.ndcg[0] == pytest.approx(scores_of.precision[0], abs=1e-15)


@every_engine
@pytest.mark.parametrize("ties", TIES)
def test_recall_is_precision_times_scope_over_r_when_all_queries_have_the_same_r(engine, ties):
    generator = np.random.default_rng(14)
    scores, relevant = generator.integers(-3, 4, size=(20, 26)), np.tile(np.arange(26) < 7, (20, 1))
    found = score_matrix(scores, relevant, replace(INNER, ties=ties), engine=engine)
    ranks = np.arange(1, 27)
    np.testing.assert_allclose(found.precision * ranks / 7, found.recall, rtol=0, atol=1e-14)
    assert found.r_precision == pytest.approx(found.precision[6], abs=1e-14)


# ---- trec_eval


def pytrec(scores, relevant, wanted):
    """Per-query results of trec_eval, documents numbered in the order of the gallery; queries need a hit."""
    truth = {f"q{i}": {f"d{j:05d}": int(hit) for j, hit in enumerate(row)} for i, row in enumerate(relevant)}
    runs = {
        f"q{i}": {f"d{j:05d}": float(score) for j, score in enumerate(row)} for i, row in enumerate(scores)
    }
    results = pytrec_eval.RelevanceEvaluator(truth, wanted).evaluate(runs)
    return [results[f"q{i}"] for i in range(len(scores))]


def assert_agrees_with_trec_eval(found, scores, relevant):
    """Every metric that trec_eval has; ``found`` under ``reverse_index``, or without ties."""
    scopes = (1, 5, 20, scores.shape[1])
    cuts = ",".join(map(str, scopes))
    wanted = {
        "map",
        "recip_rank",
        "Rprec",
        "iprec_at_recall",
        f"P.{cuts}",
        f"recall.{cuts}",
        f"ndcg_cut.{cuts}",
    }
    rows = pytrec(scores, relevant, wanted)

    def mean(name):
        return pytest.approx(np.mean([row[name] for row in rows]), abs=1e-12)

    np.testing.assert_allclose(found.average_precision, [row["map"] for row in rows], rtol=0, atol=1e-12)
    assert found.mean_reciprocal_rank == mean("recip_rank")
    assert found.r_precision == mean("Rprec")
    for k in scopes:
        assert found.precision[k - 1] == mean(f"P_{k}")
        assert found.recall[k - 1] == mean(f"recall_{k}")
        assert found.ndcg[k - 1] == mean(f"ndcg_cut_{k}")
    counts = relevant.sum(axis=1)
    for level in range(0, 101, 10):
        theirs = (level / 100 * counts + 0.9).astype(int)  # trec_eval's rounding up, in floating point
        assert (theirs == -(-level * counts // 100)).all(), (
            "choose numbers of relevant items that it rounds right"
        )
        assert found.interpolated_precision[level] == mean(f"iprec_at_recall_{level / 100:.2f}")


def some_relevant(q, g, seed):
    """(q, g) relevance with 1, 2, 4, 5, 8, 10 or 20 relevant items a query, of which every tenth is exact."""
    generator = np.random.default_rng(seed)
    relevant = np.zeros((q, g), bool)
    for row in relevant:
        row[generator.permutation(g)[: generator.choice([1, 2, 4, 5, 8, 10, 20])]] = True
    return relevant


@every_engine
@every_precision
def test_agrees_with_trec_eval(engine, precision):
    generator, relevant = np.random.default_rng(3), some_relevant(40, 150, 4)
    distinct = generator.permuted(np.tile(np.arange(150.0), (40, 1)), axis=1)
    options = {"engine": engine, "precision": precision}
    for ties in TIES:  # without ties, no rule matters
        found = score_matrix(distinct, relevant, replace(INNER, ties=ties), **options)
        assert_agrees_with_trec_eval(found, distinct, relevant)
    for levels in (2, 5, 40):
        tied = generator.integers(levels, size=(40, 150)) - 1.0
        found = score_matrix(tied, relevant, replace(INNER, ties="reverse_index"), **options)
        assert_agrees_with_trec_eval(found, tied, relevant)
    assert PROTOCOLS["trec"].ties == "reverse_index"


@every_engine
@every_cutoff
def test_agrees_with_trec_eval_on_a_cutoff(engine, cutoff, denominator):
    if cutoff is None or denominator != "relevant":
        return  # trec_eval has no other
    scores, relevant = np.random.default_rng(5).integers(4, size=(30, 60)), some_relevant(30, 60, 6)
    protocol = replace(INNER, ties="reverse_index", cutoff=cutoff)
    rows = pytrec(scores, relevant, {f"map_cut.{cutoff}"})
    found = score_matrix(scores, relevant, protocol, engine=engine).average_precision
    np.testing.assert_allclose(found, [row[f"map_cut_{cutoff}"] for row in rows], rtol=0, atol=1e-12)


@every_engine
@every_precision
@both_labels
def test_the_trec_protocol_agrees_with_trec_eval_on_embeddings(engine, precision, multi):
    queries, gallery = exact_rows(30, "cosine", 7), exact_rows(80, "cosine", 8)
    left, right = labels_of(30, multi, 9), labels_of(80, multi, 10)
    lengths = np.linalg.norm(gallery, axis=1)
    scores = queries @ gallery.T / np.where(lengths, lengths, 1)  # the query's own length orders nothing
    found = retrieve(queries, gallery, left, right, PROTOCOLS["trec"], engine=engine, precision=precision)
    rows = pytrec(scores, loop_relevant(left, right), {"map", "P.10", "ndcg_cut.10", "recip_rank", "Rprec"})
    assert len(np.unique(scores[0])) < 20
    np.testing.assert_allclose(found.average_precision, [row["map"] for row in rows], rtol=0, atol=1e-12)
    means = {name: np.mean([row[name] for row in rows]) for name in rows[0]}
    assert found.precision[9] == pytest.approx(means["P_10"], abs=1e-12)
    assert found.ndcg[9] == pytest.approx(means["ndcg_cut_10"], abs=1e-12)
    assert found.mean_reciprocal_rank == pytest.approx(means["recip_rank"], abs=1e-12)
    assert found.r_precision == pytest.approx(means["Rprec"], abs=1e-12)
