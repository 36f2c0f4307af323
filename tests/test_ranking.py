"""Ranked lists against a stable argsort, and against the scores that are made of the same distances."""

from __future__ import annotations

import math

import numpy as np
import pytest
from evaluation_oracles import (
    both_labels,
    every_precision,
    every_similarity,
    exact_rows,
    labels_of,
    list_average_precision,
    loop_relevant,
    loop_scores,
    pairs,
    tied_pairs,
    under,
)

from xmbench.errors import InvalidInput, InvalidParameter, UsageError
from xmbench.evaluation import TASKS, evaluate, rank

N = 13
ROUNDED = {
    "float32": 2.0**-22,
    "float64": 2.0**-35,
}  # of the scale: distances are rounded, so that ties stay ties


def ranked(*arguments, **options):
    """All blocks of ``rank`` put together: (query, items, above, similarity, relevant)."""
    blocks = list(rank(*arguments, **options))
    names = ("query", "items", "above", "similarity", "relevant")
    return [np.concatenate([getattr(block, name) for block in blocks]) for name in names]


def side(task, images, texts):
    """Queries, gallery, and the gallery row of each query, of a task."""
    queries = images if task.startswith("image") else texts
    gallery = {"text": texts, "image": images, "all": np.concatenate([images, texts])}[task.split(">")[1]]
    own = np.arange(len(queries)) + (0 if task.startswith("image") else len(queries))
    return queries, gallery, own if task.endswith("all") else None


def exact_scores(queries, gallery, similarity):
    """Scores of ``exact_rows``: each is a whole number of 1/16 in float64, whatever the order of summation."""
    if similarity == "cosine":
        queries, gallery = (
            rows / np.where(lengths := np.linalg.norm(rows, axis=1, keepdims=True), lengths, 1)
            for rows in (queries, gallery)
        )
    if similarity == "l2":
        return -np.square(queries[:, None] - gallery).sum(axis=2)
    return queries @ gallery.T


@every_similarity
@every_precision
@both_labels
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("exclude", [True, False])
def test_lists_are_a_stable_argsort(similarity, precision, multi, task, exclude):
    images, texts = exact_rows(N, similarity, 1), exact_rows(N, similarity, 2)
    labels = labels_of(N, multi, 3)
    queries, gallery, own = side(task, images, texts)
    scores = exact_scores(queries, gallery, similarity)
    both = labels if own is None else np.concatenate([labels, labels])
    relevant = loop_relevant(labels, both)
    protocol = under(similarity, exclude_query=exclude)
    query, items, above, found, hits = ranked(images, texts, labels, task, protocol, precision=precision)
    left_out = own is not None and exclude
    assert items.shape == (N, len(gallery) - left_out)
    np.testing.assert_array_equal(query, np.arange(N))
    for i in range(N):
        order = np.argsort(-scores[i], kind="stable")
        order = order[order != own[i]] if left_out else order
        np.testing.assert_array_equal(items[i], order)
        np.testing.assert_array_equal(above[i], [(scores[i, order] > scores[i, j]).sum() for j in order])
        np.testing.assert_allclose(found[i], scores[i, order], rtol=0, atol=ROUNDED[precision] * 16)
        np.testing.assert_array_equal(hits[i], relevant[i, order])


@every_similarity
@pytest.mark.parametrize("post", ["none", "test_zscore", "query_zscore"])
@pytest.mark.parametrize("task", TASKS)
def test_average_precision_of_the_lists_is_the_score(similarity, post, task):
    for make in (pairs, tied_pairs):
        images, texts, labels = make()
        protocol = under(similarity, post=post, ties="index")
        *_, hits = ranked(images, texts, labels, task, protocol)
        expected = [list_average_precision(row.astype(int).tolist()) for row in hits]
        found = evaluate(images, texts, labels, protocol, tasks=(task,)).tasks[task].average_precision
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@every_similarity
@pytest.mark.parametrize("task", TASKS)
def test_some_queries_are_rows_of_the_full_ranking_and_top_is_its_head(similarity, task):
    images, texts, labels = pairs()
    whole = ranked(images, texts, labels, task, under(similarity, post="query_zscore"))
    for queries in ([7], [29, 0, 7, 7], np.array([3, 4], np.uint8), range(30)):
        for top in (None, 1, 5, 10**6):
            some = ranked(
                images, texts, labels, task, under(similarity, post="query_zscore"), queries=queries, top=top
            )
            rows = np.asarray(queries, np.int64)
            np.testing.assert_array_equal(some[0], rows)
            for name, left, right in zip(
                ("items", "above", "relevant"), some[1:3] + some[4:], whole[1:3] + whole[4:], strict=True
            ):
                np.testing.assert_array_equal(left, right[rows, :top], name)
            np.testing.assert_allclose(some[3], whole[3][rows, :top], rtol=0, atol=1e-9)


@every_similarity
@every_precision
def test_similarities_are_those_of_the_definition(similarity, precision):
    images, texts, labels = pairs()
    for left, right in ((images, texts), (images.astype(np.float32), texts.astype(np.float16))):
        _, items, _, found, _ = ranked(
            left, right, labels, "image->text", under(similarity), precision=precision
        )
        expected = loop_scores(left.astype(np.float64), right.astype(np.float64), similarity)
        tolerance = 8 * ROUNDED[precision] * np.abs(expected).max()
        np.testing.assert_allclose(found, np.take_along_axis(expected, items, axis=1), rtol=0, atol=tolerance)


@every_similarity
def test_lists_do_not_depend_on_the_block(similarity, monkeypatch):
    from xmbench.evaluation import ranks

    images, texts, labels = pairs()
    whole = ranked(images, texts, labels, "text->all", under(similarity))
    monkeypatch.setattr(ranks, "BLOCK_BYTES", 1500)
    assert len(list(rank(images, texts, labels, "text->all", under(similarity)))) > 5
    for left, right in zip(ranked(images, texts, labels, "text->all", under(similarity)), whole, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("exponent", [-1060, -600, 600, 1015])
def test_cosines_of_rows_of_any_length_are_numbers(exponent):
    rows, labels = exact_rows(N, "cosine", 4), labels_of(N, False, 5)
    expected = ranked(rows, rows, labels, "image->all")
    size = 2.0 ** (exponent - 8)
    found = ranked(np.ldexp(rows, exponent), rows * size * 2.0**8, labels, "image->all")
    assert math.isfinite(size)
    for left, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-12)


def test_a_zero_row_is_similar_to_nothing():
    images, texts, labels = pairs(n=6)
    images[2], texts[4] = 0, 0
    _, items, above, found, _ = ranked(images, texts, labels, "image->text")
    assert (found[2] == 0).all() and (above[2] == 0).all()
    np.testing.assert_array_equal(items[2], np.arange(6))
    assert (found[items == 4] == 0).all()


def test_galleries_of_one_item_and_lists_without_any():
    one, label = np.ones((1, 2)), np.array([0])
    _, items, above, found, hits = ranked(one, one, label, "image->all")
    assert (items.tolist(), above.tolist(), hits.tolist()) == ([[1]], [[0]], [[True]])
    np.testing.assert_allclose(found, 1, rtol=0, atol=1e-15)
    assert list(rank(one, one, label, "image->text", queries=[])) == []


@pytest.mark.parametrize("top", [0, -3])
def test_lists_shorter_than_one_are_refused(top):
    images, texts, labels = pairs()
    with pytest.raises(InvalidParameter, match=f"top must be at least 1, got {top}"):
        list(rank(images, texts, labels, "image->text", top=top))


@pytest.mark.parametrize(
    "queries",
    [[30], [-1], [0, 99], [1.5], [1.0], ["1"], [True, False], np.zeros(30, bool), [[0, 1], [2, 3]]],
    ids=repr,
)
def test_queries_that_are_no_rows_are_refused(queries):
    images, texts, labels = pairs()
    with pytest.raises(InvalidInput, match="queries: expected rows from 0 to 29"):
        list(rank(images, texts, labels, "image->text", queries=queries))


def test_bad_embeddings_tasks_and_precisions_are_refused():
    images, texts, labels = pairs()
    with pytest.raises(InvalidInput, match="equal numbers of rows"):
        list(rank(images, texts[1:], labels, "image->text"))
    with pytest.raises(UsageError, match="image->audio"):
        list(rank(images, texts, labels, "image->audio"))
    with pytest.raises(InvalidParameter, match="unknown precision 'half'"):
        list(rank(images, texts, labels, "image->text", precision="half"))
