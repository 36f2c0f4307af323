"""The evaluator as a whole: hand-computed cases, slow oracles, invariances, bad input."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from evaluation_oracles import (
    CUTOFFS,
    INNER,
    SIMILARITIES,
    TIES,
    assert_is,
    assert_same,
    both_labels,
    enumerated,
    every_engine,
    every_precision,
    every_similarity,
    exact_rows,
    labels_of,
    loop_average_precision,
    loop_precision,
    loop_relevant,
    loop_scores,
    pairs,
    score_matrix,
    task_oracle,
    tied_pairs,
    under,
)

from xmbench.datasets import emoji
from xmbench.errors import InvalidInput, UsageError
from xmbench.evaluation import TASKS, evaluate, evaluator_digest, retrieve


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
def test_a_query_without_relevant_items_is_in_no_mean(engine):
    scores = [[3, 2, 1], [1, 1, 1], [1, 2, 3]]
    hits = [[1, 0, 0], [0, 0, 0], [1, 0, 0]]
    found = score_matrix(scores, hits, engine=engine)
    np.testing.assert_allclose(found.average_precision, [1, np.nan, 1 / 3])
    assert found.mean_average_precision == pytest.approx(2 / 3)
    assert (found.n_queries, found.n_unanswerable) == (3, 1)
    answerable = score_matrix([scores[0], scores[2]], [hits[0], hits[2]], engine=engine)
    assert found.chance == pytest.approx(answerable.chance)
    np.testing.assert_allclose(found.precision, answerable.precision)


@every_engine
def test_without_any_answerable_query_every_mean_is_nan(engine):
    found = score_matrix([[2, 1]], [[0, 0]], engine=engine)
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
def test_a_multi_hot_matrix_with_one_class_a_row_equals_single_labels(engine):
    images, texts, labels = pairs()
    single = evaluate(images, texts, labels, engine=engine)
    for dtype in (bool, np.int64, np.float32):
        multi = evaluate(images, texts, np.eye(4, dtype=dtype)[labels], engine=engine)
        for task in TASKS:
            assert_same(multi.tasks[task], single.tasks[task])


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
        (
            np.ones((3, 2)),
            np.ones((3, 2)),
            np.array([0, 1, 2**63], np.uint64),
            "labels: row 2.*9223372036854775808",
        ),
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


def test_only_the_wanted_tasks_are_computed():
    images, texts, labels = pairs()
    found = evaluate(images, texts, labels, tasks=("text->image",))
    assert set(found.tasks) == {"text->image"}
    assert_same(found.tasks["text->image"], evaluate(images, texts, labels).tasks["text->image"])


def test_the_digest_is_stable_and_short():
    assert evaluator_digest() == evaluator_digest()
    assert len(evaluator_digest()) >= 16


# ---- exact scores against the oracle of every metric


@cache
def exact_case(similarity, multi, ties, exclude):
    """Embeddings and labels with heavy ties, and what every task's numbers have to be."""
    n = 14
    images, texts = exact_rows(n, similarity, 20), exact_rows(n, similarity, 21)
    labels = labels_of(n, multi, 22, classes=7)
    labels[0] = np.eye(7, dtype=bool)[6] if multi else 6  # alone in its class, or nearly so
    protocol = under(similarity, ties=ties, exclude_query=exclude, max_scope=9)
    unit = [
        rows / np.where(lengths := np.linalg.norm(rows, axis=1, keepdims=True), lengths, 1)
        if similarity == "cosine"
        else rows
        for rows in (images, texts)
    ]
    by_task = {}
    for task in TASKS:
        queries = unit[task.startswith("text")]
        gallery = {"image": unit[0], "text": unit[1], "all": np.concatenate(unit)}[task.split(">")[1]]
        both = np.concatenate([labels, labels]) if task.endswith("all") else labels
        own = np.arange(n) + n * task.startswith("text") if task.endswith("all") and exclude else None
        squares = -np.square(queries[:, None] - gallery).sum(axis=2)
        scores = squares if similarity == "l2" else queries @ gallery.T
        by_task[task] = task_oracle(scores, loop_relevant(labels, both), ties, 9, own)
    return images, texts, labels, protocol, by_task


@every_engine
@every_precision
@every_similarity
@both_labels
@pytest.mark.parametrize("ties", TIES)
def test_every_number_of_exact_embeddings(engine, precision, similarity, multi, ties):
    for exclude in (True, False):
        images, texts, labels, protocol, expected = exact_case(similarity, multi, ties, exclude)
        for dtype in (np.float64, np.float32):
            found = evaluate(
                images.astype(dtype),
                texts.astype(dtype),
                labels,
                protocol,
                engine=engine,
                precision=precision,
            )
            for task in TASKS:
                assert_is(found.tasks[task], expected[task])


@every_engine
@every_precision
@both_labels
def test_queries_and_items_of_no_class_or_of_one_that_the_other_side_has_not(engine, precision, multi):
    queries, gallery = exact_rows(15, "inner", 23), exact_rows(25, "inner", 24)
    left, right = labels_of(15, multi, 25), labels_of(25, multi, 26)
    if multi:
        left[[0, 4]], right[[1, 7, 8]] = False, False
    else:
        left[[0, 4]], right[[1, 7, 8]] = [99, 2**62], [98, 2**62 + 1, 2**61]
    found = retrieve(queries, gallery, left, right, INNER, engine=engine, precision=precision)
    assert_is(found, task_oracle(queries @ gallery.T, loop_relevant(left, right)))
    assert found.n_unanswerable >= 2


@every_engine
def test_each_item_in_a_class_of_its_own(engine):
    generator = np.random.default_rng(27)
    images, texts = generator.normal(size=(2, 400, 4))
    labels = generator.permutation(400) * 10**15
    found = evaluate(images, texts, labels, under("inner"), engine=engine, tasks=("image->text",))
    scores = found.tasks["image->text"]
    products = images @ texts.T
    ranks = (products >= np.diagonal(products)[:, None]).sum(axis=1)
    np.testing.assert_allclose(scores.average_precision, 1 / ranks, rtol=0, atol=1e-12)
    assert scores.mean_reciprocal_rank == pytest.approx(scores.mean_average_precision, abs=1e-12)
    assert scores.per_class == dict(zip(labels.tolist(), scores.average_precision.tolist(), strict=True))
    assert scores.recall[9] == pytest.approx(np.mean(ranks <= 10))


@every_engine
@every_precision
def test_real_codes_have_the_numbers_of_the_oracle(engine, precision):
    """Image features of the emoji data as codes of +-1, by their signs around the median: many ties."""
    corpus = emoji.DATASET().load(Path("nowhere"), "lite0", "raw")
    some = np.random.default_rng(28).permutation(len(corpus.labels))[:60]
    rows = corpus.images[some][:, :64]
    codes, labels = np.where(rows > np.median(corpus.images[:, :64], axis=0), 1.0, -1.0), corpus.labels[some]
    products = codes[:30] @ codes.T
    for similarity in SIMILARITIES:  # of codes of +-1 with length 8 all three order alike
        for ties in TIES:
            found = retrieve(
                codes[:30],
                codes,
                labels[:30],
                labels,
                under(similarity, ties=ties),
                engine=engine,
                precision=precision,
            )
            assert_is(found, code_oracle(products.tobytes(), tuple(labels.tolist()), ties))


@cache
def code_oracle(products, labels, ties):
    labels = np.array(labels)
    return task_oracle(np.frombuffer(products).reshape(30, 60), loop_relevant(labels[:30], labels), ties)
