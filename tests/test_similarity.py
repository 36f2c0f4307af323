"""Distances: ties that must hold, numbers of any size, any layout of memory, galleries larger than memory."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from evaluation_oracles import (
    INSTALLED,
    SIMILARITIES,
    assert_is,
    assert_same,
    every_engine,
    every_precision,
    every_similarity,
    exact_rows,
    expected_average_precision,
    labels_of,
    loop_average_precision,
    loop_relevant,
    loop_scores,
    pairs,
    task_oracle,
    under,
)

from xmbench.errors import InvalidInput
from xmbench.evaluation import TASKS, evaluate, ranks, retrieve
from xmbench.evaluation import similarity as similarity_module
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


# ---- numbers of any size and type


@every_engine
@pytest.mark.parametrize("similarity", ["l2", "inner"])
@pytest.mark.parametrize("factor", [1.0, 1e-12, 1e-20, 1e-200, 1e-300, 1e300])
def test_a_zero_row_among_small_ones_blurs_nothing(engine, similarity, factor):
    images, texts, labels = pairs()
    texts[3], images[5] = 0, 0
    expected = retrieve(images, texts, labels, labels, under(similarity), engine=engine)
    found = retrieve(images * factor, texts * factor, labels, labels, under(similarity), engine=engine)
    assert_same(found, expected)
    assert abs(found.mean_average_precision - found.chance) > 0.02


@every_engine
@pytest.mark.parametrize("similarity", ["l2", "inner"])
@pytest.mark.parametrize("factor", [2.0**-100, 2.0**-60, 2.0**100])
def test_a_zero_row_among_small_ones_blurs_nothing_in_float32(engine, similarity, factor):
    images, texts = (exact_rows(30, similarity, seed).astype(np.float32) for seed in (1, 2))
    labels = labels_of(30, False, 3)
    expected = retrieve(images, texts, labels, labels, under(similarity), engine=engine)
    small = [(rows * factor).astype(np.float32) for rows in (images, texts)]
    assert_same(retrieve(*small, labels, labels, under(similarity), engine=engine), expected)


@every_engine
def test_cosine_takes_rows_of_any_length_in_float32(engine):
    rows, labels = [exact_rows(30, "cosine", seed) for seed in (4, 5)], labels_of(30, False, 6)
    sizes = 2.0 ** np.random.default_rng(7).integers(-140, 120, size=(2, 30, 1))
    stretched = [(side * size).astype(np.float32) for side, size in zip(rows, sizes, strict=True)]
    plain = [side.astype(np.float32) for side in rows]
    expected = retrieve(*plain, labels, labels, engine=engine)
    assert_same(retrieve(*stretched, labels, labels, engine=engine), expected)
    assert expected.n_zero_norm > 0


@every_engine
@every_similarity
@pytest.mark.parametrize("factor", [1e-300, 1e-38, 1e38, 1e300])
def test_float64_beyond_float32_may_be_compared_in_float32(engine, similarity, factor):
    images, texts, labels = pairs()
    options = {"engine": engine, "precision": "float32"}
    expected = retrieve(images, texts, labels, labels, under(similarity), **options)
    found = retrieve(images * factor, texts * factor, labels, labels, under(similarity), **options)
    assert_same(found, expected, tolerance=1e-3)  # a factor that is no power of two moves the last bits


@every_engine
@pytest.mark.parametrize("offset", [1e2, 1e5])
def test_l2_in_float32_does_not_see_a_common_offset(engine, offset):
    images, texts, labels = pairs()
    left, right = ((rows + offset).astype(np.float32) for rows in (images, texts))
    exact = (left.astype(np.float64), right.astype(np.float64))
    expected = retrieve(*exact, labels, labels, under("l2"), engine=engine)
    assert_same(retrieve(left, right, labels, labels, under("l2"), engine=engine), expected, tolerance=1e-2)


@every_engine
@every_precision
@every_similarity
@pytest.mark.parametrize("bits", [16, 100])
def test_binary_codes_stay_tied(engine, precision, similarity, bits):
    """Hamming distances: l2, inner product and cosine of codes of +-1 order alike, with many ties."""
    generator = np.random.default_rng(bits)
    codes = generator.choice([-1.0, 1.0], size=(2, 40, bits))
    labels = generator.integers(3, size=40)
    relevant = loop_relevant(labels, labels)
    expected = task_oracle(codes[0] @ codes[1].T, relevant)
    if similarity == "cosine" and precision == "float32" and bits == 100:
        return  # of length 10: no power of two
    found = retrieve(*codes.astype(precision), labels, labels, under(similarity), engine=engine)
    assert_is(found, expected)
    whole = codes.astype(np.int8) * np.int8(3)
    assert_is(retrieve(*whole, labels, labels, under(similarity), engine=engine), expected)


@every_engine
@every_similarity
def test_the_type_of_the_numbers_does_not_matter(engine, similarity):
    images, texts = (np.abs(exact_rows(20, similarity, seed)) for seed in (1, 2))
    labels = labels_of(20, False, 3)
    if similarity == "cosine":
        images, texts = (np.sign(rows) for rows in (images, texts))
    plain = evaluate(images, texts, labels, under(similarity), engine=engine)
    types = (np.float16, np.float32, np.longdouble, np.int8, np.uint8, np.int64, bool)
    for left, right in [*zip(types, types, strict=True), (np.int8, np.float32), (bool, np.float64)]:
        found = evaluate(images.astype(left), texts.astype(right), labels, under(similarity), engine=engine)
        for task in TASKS:
            assert_same(found.tasks[task], plain.tasks[task])
    for dtype in (np.int8, np.uint8, np.int32, np.uint64):
        found = evaluate(images, texts, labels.astype(dtype), under(similarity), engine=engine)
        assert found.tasks["image->text"].per_class == plain.tasks["image->text"].per_class


@every_similarity
def test_a_value_beyond_float64_is_refused_with_its_row(similarity):
    images, texts, labels = pairs()
    wide = images.astype(np.longdouble)
    wide[4, 1] = np.longdouble(2) ** 5000
    if not np.isfinite(wide[4, 1]):
        pytest.skip("long double is double here")
    with pytest.raises(InvalidInput, match=r"image embeddings: row 4\b"):
        evaluate(wide, texts, labels, under(similarity))


# ---- zero rows


@every_engine
@every_precision
def test_zero_rows_are_counted_under_cosine_alone(engine, precision):
    images, texts, labels = pairs(n=9)
    images[[1, 4]], texts[[0, 1, 8]] = 0, 0
    images[4] = -0.0
    counts = {"image->text": 2 + 3, "text->image": 3 + 2, "image->all": 2 + 5, "text->all": 3 + 5}
    for similarity in SIMILARITIES:
        found = evaluate(images, texts, labels, under(similarity), engine=engine, precision=precision)
        expected = counts if similarity == "cosine" else dict.fromkeys(counts, 0)
        assert {task: scores.n_zero_norm for task, scores in found.tasks.items()} == expected


# ---- rotations, and pieces


@every_engine
@every_similarity
def test_turning_the_axes_changes_nothing(engine, similarity):
    images, texts, labels = pairs()
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(5, 5)))[0]
    plain = evaluate(images, texts, labels, under(similarity), engine=engine)
    turned = evaluate(images @ turn, texts @ turn, labels, under(similarity), engine=engine)
    for task in TASKS:
        assert_same(turned.tasks[task], plain.tasks[task])


@every_engine
@every_similarity
@pytest.mark.parametrize("post", ["none", "test_zscore"])
def test_pieces_change_nothing(engine, similarity, post, monkeypatch):
    images, texts, labels = pairs()
    protocol = under(similarity, post=post)
    whole = evaluate(images, texts, labels, protocol, engine=engine)
    monkeypatch.setattr(similarity_module, "PIECE_BYTES", 8 * 5 * 7)
    for working_bytes in (100 * 2**20, 1):  # a gallery prepared once, and one that never fits
        found = evaluate(images, texts, labels, protocol, engine=engine, working_bytes=working_bytes)
        for task in TASKS:
            assert_same(found.tasks[task], whole.tasks[task])


@every_engine
@every_similarity
def test_a_memory_map_is_as_good_as_an_array(engine, similarity, tmp_path):
    images, texts, labels = pairs()
    plain = evaluate(images, texts, labels, under(similarity), engine=engine)
    for name, array in (("images", images), ("texts", texts)):
        np.save(tmp_path / f"{name}.npy", array)
    maps = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("images", "texts")]
    found = evaluate(*maps, labels, under(similarity), engine=engine)
    for task in TASKS:
        assert_same(found.tasks[task], plain.tasks[task])


def test_a_value_that_is_not_finite_is_found_in_later_pieces(monkeypatch):
    images, texts, labels = pairs()
    monkeypatch.setattr(similarity_module, "PIECE_BYTES", 8 * 5 * 7)
    for row in (0, 6, 7, 29):
        broken = texts.astype(np.float32)
        broken[row, 4] = np.inf
        with pytest.raises(InvalidInput, match=rf"text embeddings: row {row}\b"):
            evaluate(images, broken, labels)


# ---- memory

GROWTH = """
import resource, sys
import numpy as np
from xmbench.evaluation import retrieve
from xmbench.protocol import PROTOCOLS

path, engine, protocol, map_it = sys.argv[1:]
gallery = np.load(path, mmap_mode="r" if map_it == "map" else None)
queries, labels = np.array(gallery[:64]), np.arange(len(gallery)) % 20
retrieve(queries[:2], queries, labels[:2], labels[:64], PROTOCOLS[protocol], engine=engine)  # imports
kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
retrieve(queries, gallery, labels[:64], labels, PROTOCOLS[protocol], engine=engine)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - kilobytes) * 1024)
"""


@pytest.fixture(scope="module")
def large_gallery(tmp_path_factory):
    """50,000 x 256 in float32, in a file."""
    path = tmp_path_factory.mktemp("gallery") / "gallery.npy"
    np.save(path, np.random.default_rng(0).normal(size=(50_000, 256)).astype(np.float32))
    return path


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in kilobytes on Linux")
@pytest.mark.parametrize("engine", [name for name in INSTALLED if name != "torch"])
@pytest.mark.parametrize("protocol", ["default", "l2", "trec"])
@pytest.mark.parametrize("how", ["map", "array"])
def test_memory_above_the_inputs_is_bounded(engine, protocol, how, large_gallery):
    words = [sys.executable, "-c", GROWTH, large_gallery, engine, protocol, how]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    inputs = large_gallery.stat().st_size if how == "map" else 0  # an array was there before the count began
    assert int(done.stdout) <= 110e6 + inputs


@every_similarity
@pytest.mark.parametrize(("classes", "multi"), [(20, False), (20, True), (1, False)])
def test_memory_stays_near_working_bytes(similarity, classes, multi):
    q, g, working_bytes = 200, 4000, 3 * 2**20
    generator = np.random.default_rng(11)
    queries, gallery = generator.normal(size=(q, 8)), generator.normal(size=(g, 8))
    left, right = generator.integers(classes, size=q), generator.integers(classes, size=g)
    if multi:
        left, right = np.eye(classes, dtype=bool)[left], np.eye(classes, dtype=bool)[right]
    retrieve(queries[:2], gallery, left[:2], right, under(similarity), engine="numpy")  # imports
    tracemalloc.start()
    try:
        retrieve(
            queries, gallery, left, right, under(similarity), engine="numpy", working_bytes=working_bytes
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # a block of queries that goes through a cache has at most BLOCK_BYTES of distances, and every one of them
    # may be relevant: then its groups take several times as much
    assert peak < working_bytes + 16 * ranks.BLOCK_BYTES


@every_engine
def test_distances_that_are_equal_stay_tied_for_a_query_in_the_middle_of_its_gallery(engine):
    generator = np.random.default_rng(0)
    row = generator.normal(size=12)
    gallery = np.stack([generator.permutation(row) for _ in range(200)])
    gallery = np.concatenate([gallery, -gallery]) @ np.linalg.qr(generator.normal(size=(12, 12)))[0]
    labels = generator.integers(4, size=400)
    found = retrieve(np.zeros((1, 12)), gallery, labels[:1], labels, under("l2"), engine=engine)
    assert found.mean_average_precision == pytest.approx(found.chance, abs=1e-12)


@pytest.mark.parametrize("post", ["test_zscore", "query_zscore"])
@pytest.mark.parametrize("power", [-660, -300, 300, 660])
def test_z_scores_do_not_depend_on_the_unit(post, power):
    images, texts, labels = pairs()
    expected = evaluate(images, texts, labels, replace(DEFAULT, post=post))
    units = 2.0 ** np.array([0, power, 0, power // 2, 0])
    queries_only = units if post == "test_zscore" else 1.0
    found = evaluate(images * queries_only, texts * queries_only, labels, replace(DEFAULT, post=post))
    for task in TASKS:
        assert_same(found.tasks[task], expected.tasks[task], 1e-9)
