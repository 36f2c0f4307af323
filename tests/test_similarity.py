"""Distances: ties that must hold, numbers of any size, any layout of memory, galleries larger than memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from evaluation_oracles import *

from xmbench.errors import InvalidInput
from xmbench.evaluation import TASKS, evaluate, retrieve
from xmbench.protocol import DEFAULT


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
