"""The door of the data: what it lets in, how rows are drawn, and what a fingerprint stands for."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array

import xmbench.data as data_module
from xmbench import Corpus, Dataset, DatasetCard, Pairs, Ragged, Split
from xmbench.data import Features, check_labels, check_matrix, draw, hash_order, prepare
from xmbench.errors import CorruptData, InvalidInput, MissingData, UnknownName

# -- matrices ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "matrix", [[[1, 2], [3, 4]], np.eye(2, dtype=bool), np.eye(2, dtype=np.uint8), np.eye(2)]
)
def test_matrices_of_real_numbers_become_float32(matrix):
    rows = check_matrix(matrix, "images", width=2)
    assert rows.dtype == np.float32
    assert rows.flags.c_contiguous
    assert_array_equal(rows, np.asarray(matrix, dtype=np.float32))


def test_a_matrix_without_rows_is_a_matrix():
    assert check_matrix(np.zeros((0, 3)), "images", width=3).shape == (0, 3)


def broken(row: int, column: int, value: float) -> np.ndarray:
    matrix = np.zeros((6, 4))
    matrix[row, column] = value
    return matrix


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (broken(4, 2, np.nan), "images: row 4, column 2 is nan, not a finite float32"),
        (broken(0, 3, -np.inf), "images: row 0, column 3 is -inf"),
        (broken(5, 0, 1e39), r"images: row 5, column 0 is 1e\+39"),
        (np.float32(broken(1, 1, np.nan)), "images: row 1, column 1 is nan"),
        (np.zeros(6), r"expected 2 dimensions \(rows, features\), got shape \(6,\)"),
        (np.zeros((6, 2, 2)), r"got shape \(6, 2, 2\)"),
        (None, r"images: expected 2 dimensions"),
        (3.0, r"images: expected 2 dimensions"),
        (np.zeros((6, 0)), r"images: expected at least one column, got shape \(6, 0\)"),
        (np.zeros((6, 5)), "images: expected 4 columns, got 5"),
        (np.zeros((6, 4), dtype=complex), "images: expected real numbers, got dtype complex128"),
        ([["a", "b", "c", "d"]], "images: expected real numbers, got dtype <U1"),
        (np.zeros((6, 4), dtype=object), "images: expected real numbers, got dtype object"),
        (
            csr_array(np.eye(4)),
            r"images: expected a dense array, got a sparse matrix; pass matrix\.toarray\(\)",
        ),
        ([[1.0, 2.0, 3.0, 4.0], [1.0]], "images: "),
    ],
)
def test_other_matrices_are_refused_in_one_sentence(matrix, message):
    with pytest.raises(InvalidInput, match=message):
        check_matrix(matrix, "images", width=4)


@pytest.mark.parametrize("row", [0, 6, 7, 19])
def test_values_are_checked_block_by_block(monkeypatch, row):
    monkeypatch.setattr(data_module, "BLOCK", 28)
    matrix = np.zeros((20, 4), np.float32)
    assert check_matrix(matrix, "images") is matrix
    matrix[row, 2] = np.inf
    matrix[19, 3] = np.nan
    with pytest.raises(InvalidInput, match=f"images: row {row}, column 2 is inf"):
        check_matrix(matrix, "images")


def test_a_memory_map_is_not_copied(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((5, 3), np.float32))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert np.shares_memory(check_matrix(mapped, "images"), mapped)


# -- labels -----------------------------------------------------------------------------------------


def test_labels_become_int64_and_multi_hot_matrices_bool():
    labels = check_labels(np.uint8([0, 2, 1]), 3)
    assert labels.dtype == np.int64
    assert labels.tolist() == [0, 2, 1]
    for kind in (bool, int, float):
        assert_array_equal(check_labels(np.eye(3, dtype=kind), 3), np.eye(3, dtype=bool))


@pytest.mark.parametrize(
    ("labels", "n_classes", "message"),
    [
        ([0, 1, 3], 3, r"labels: row 2 has label 3, expected 0\.\.2"),
        ([0, -1, 1], 3, r"labels: row 1 has label -1, expected 0\.\.2"),
        ([0, -1, 1], None, "labels: row 1 has label -1, expected at least 0"),
        (np.uint64([0, 2**63]), None, r"labels: row 1 has label 9223372036854775808, expected .* 2\*\*63"),
        ([0.0, 1.0], 3, r"got float64 \(2,\); pass labels\.astype\(int\)"),
        ([0.0, 1.0, 2.5], 3, "labels must be whole numbers, row 2 has 2.5"),
        ([0.0, np.nan, 2.5], None, "labels must be whole numbers, row 1 has nan"),
        ([0.0, -np.inf], None, "labels must be whole numbers, row 1 has -inf"),
        ([True, False], 3, r"got bool \(2,\)"),
        (["cat", "dog"], 3, r"expected integers.*np\.unique\(labels, return_inverse=True\)\[1\]"),
        (np.array(["cat", None], dtype=object), 3, r"expected integers.*np\.unique\("),
        (2, 3, "expected integers"),
        (np.zeros((2, 2, 2)), 3, r"got float64 \(2, 2, 2\)"),
        (np.eye(4), 3, "labels: expected 3 columns, got 4"),
        (2 * np.eye(3), 3, "a multi-hot matrix holds only 0 and 1; row 0, column 0 has 2"),
        (np.where(np.eye(3), np.nan, 0), 3, "a multi-hot matrix holds only 0 and 1; row 0, column 0 has nan"),
        (np.full((2, 3), "1"), 3, "a multi-hot matrix holds only 0 and 1, got dtype <U1"),
        ([[1, 0, 0], [0, 0, 0]], 3, "labels: row 1 has no class"),
        ([[1, 0, 0], [1]], 3, "labels: "),
    ],
)
def test_other_labels_are_refused_in_one_sentence(labels, n_classes, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        check_labels(labels, n_classes)
    assert "None" not in str(caught.value) and f"{2**63 - 1}" not in str(caught.value)


def test_how_unlabelled_items_are_passed_is_told_where_they_may_be():
    with pytest.raises(InvalidInput, match=r"row 1 has label -1.*a row of zeros in a multi-hot matrix"):
        check_labels([0, -1], None, unlabelled=True)
    with pytest.raises(InvalidInput, match="row 1 has label -1") as caught:
        check_labels([0, -1], 2)
    assert "zeros" not in str(caught.value)
    assert not check_labels([[1, 0], [0, 0]], None, unlabelled=True)[1].any()


# -- parts ------------------------------------------------------------------------------------------


def ragged() -> Ragged:
    return Ragged(np.arange(12.0).reshape(6, 2), np.array([0, 2, 2, 5, 6]))


def test_items_own_the_rows_between_their_offsets():
    parts = ragged()
    assert len(parts) == 4
    assert [len(parts[item]) for item in range(4)] == [2, 0, 3, 1]
    assert_array_equal(np.concatenate([parts[item] for item in range(4)]), parts.values)
    assert parts.values.dtype == np.float32
    assert parts.offsets.dtype == np.int64


def test_taken_items_keep_their_rows():
    parts = ragged()
    rows = np.array([3, 0, 1, 0])
    taken = parts.take(rows)
    assert len(taken) == 4
    for item, row in enumerate(rows):
        assert_array_equal(taken[item], parts[int(row)])
    assert len(parts.take(np.array([], dtype=np.int64))) == 0


@pytest.mark.parametrize("item", [4, -1])
def test_items_outside_are_not_found(item):
    with pytest.raises(IndexError, match=f"item {item} of 4"):
        ragged()[item]


@pytest.mark.parametrize(
    "offsets",
    [
        [1, 3, 6],
        [0, 3, 5],
        [0, 3, 7],
        [0, 4, 2, 6],
        [],
        [[0, 6]],
        [0.0, 6.0],
        np.array([0, 4, 2, 6], dtype=np.uint64),
    ],
    ids=str,
)
def test_offsets_rise_from_zero_to_the_number_of_rows(offsets):
    with pytest.raises(InvalidInput, match="offsets must rise from 0 to 6"):
        Ragged(np.zeros((6, 2)), np.asarray(offsets))


# -- pairs ------------------------------------------------------------------------------------------


def make_pairs(**changes) -> Pairs:
    rng = np.random.default_rng(0)
    fields = {
        "images": rng.standard_normal((4, 3)),
        "texts": rng.standard_normal((4, 2)),
        "labels": [0, 1, 2, 1],
        "ids": ("a", "b", "c", "d"),
        "n_classes": 3,
    }
    return Pairs(**{**fields, **changes})


def test_pairs_are_checked_and_converted():
    pairs = make_pairs()
    assert len(pairs) == 4
    assert pairs.images.dtype == pairs.texts.dtype == np.float32
    assert not pairs.multi_label
    assert_array_equal(pairs.one_hot(), np.eye(3)[[0, 1, 2, 1]])


def test_one_hot_of_multi_hot_labels_is_the_matrix_itself():
    matrix = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 1], [0, 0, 1]])
    pairs = make_pairs(labels=matrix)
    assert pairs.multi_label
    assert_array_equal(pairs.one_hot(), matrix)
    assert pairs.one_hot().dtype == np.float64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((5, 3))}, "expected equal numbers of rows, got {'images': 5, 'texts': 4"),
        ({"texts": np.zeros((3, 3))}, "'texts': 3"),
        ({"labels": [0, 1]}, "'labels': 2"),
        ({"ids": ("a", "b")}, "'ids': 2"),
        ({"text_parts": Ragged(np.zeros((1, 2)), np.array([0, 1]))}, "'text_parts': 1"),
        ({"ids": ("a", "b", "a", "d")}, "ids are not unique"),
        ({"texts": [[0, 0], [0, np.nan], [0, 0], [0, 0]]}, "texts: row 1, column 1 is nan"),
        ({"labels": [0, 1, 2, 3]}, "labels: row 3 has label 3"),
        (
            {"images": np.zeros((0, 3)), "texts": np.zeros((0, 2)), "labels": np.zeros(0, int), "ids": ()},
            "got none",
        ),
    ],
)
def test_pairs_that_do_not_fit_together_are_refused(changes, message):
    with pytest.raises(InvalidInput, match=message):
        make_pairs(**changes)


def test_taken_pairs_are_the_rows_in_that_order():
    pairs = make_pairs(image_parts=Ragged(np.eye(5), np.array([0, 2, 3, 3, 5])))
    taken = pairs.take(np.array([3, 1]))
    assert taken.ids == ("d", "b")
    assert taken.labels.tolist() == [1, 1]
    assert_array_equal(taken.images, pairs.images[[3, 1]])
    assert_array_equal(taken.texts, pairs.texts[[3, 1]])
    assert_array_equal(taken.image_parts[0], np.eye(5)[3:])
    assert taken.text_parts is None
    assert taken.n_classes == 3


# -- splits -----------------------------------------------------------------------------------------


def test_rows_of_a_split_are_sorted_and_counted():
    split = Split("s", 3, train=[5, 0, 2], validation=[], test=[4, 1])
    assert split.train.tolist() == [0, 2, 5]
    assert split.test.tolist() == [1, 4]
    assert split.sizes == {"train": 3, "validation": 0, "test": 2}


@pytest.mark.parametrize(
    ("train", "validation", "test", "message"),
    [
        ([0, 1], [1], [2], "two of train, validation and test"),
        ([0, 1], [], [1], "two of train, validation and test"),
        ([0, 0], [], [1], "'s'"),
        ([], [0], [1], "train or test is empty"),
        ([0], [1], [], "train or test is empty"),
        ([-1, 0], [], [1], "'s'"),
        ([0.5, 1.5], [], [3], "'s'"),
    ],
)
def test_rows_in_two_parts_or_in_none_at_all_are_refused(train, validation, test, message):
    with pytest.raises(InvalidInput, match=message):
        Split("s", None, train=train, validation=validation, test=test)


# -- drawing ----------------------------------------------------------------------------------------


def make_corpus(labels, ids=None, groups=None, **changes) -> Corpus:
    n = len(labels)
    ids = tuple(ids) if ids is not None else tuple(f"item-{i}" for i in range(n))
    fields = {
        "name": "toy",
        "images": np.random.default_rng(1).standard_normal((n, 3)),
        "texts": np.random.default_rng(2).standard_normal((n, 2)),
        "labels": np.asarray(labels),
        "class_names": tuple(f"class-{label}" for label in range(int(np.max(labels)) + 1)),
        "ids": ids,
        "groups": tuple(groups) if groups is not None else ids,
        "digest": "raw",
    }
    return Corpus(**{**fields, **changes})


def problems(count: int):
    """Random class sizes with counts that can be met: (labels, counts)."""
    for seed in range(count):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(4, 60))
        labels = rng.integers(0, rng.integers(1, 6), n)
        first = int(rng.integers(0, n))
        yield labels, [first, int(rng.integers(0, n - first + 1))]


def test_counts_are_met_exactly():
    for seed, (labels, counts) in enumerate(problems(500)):
        subsets = draw(make_corpus(labels), np.arange(len(labels)), seed, counts)
        assert [len(rows) for rows in subsets] == [*counts, len(labels) - sum(counts)]


def test_fractions_are_met_exactly():
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    subsets = draw(make_corpus(labels), np.arange(100), 0, [0.8, 0.1])
    assert [np.bincount(labels[rows]).tolist() for rows in subsets] == [[40, 24, 16], [5, 3, 2], [5, 3, 2]]


def test_subsets_are_disjoint_sorted_and_exhaust_the_rows():
    for seed, (labels, counts) in enumerate(problems(100)):
        rows = np.random.default_rng(seed).permutation(len(labels))[: len(labels) // 2 + 1]
        counts = [count // 3 for count in counts]
        subsets = draw(make_corpus(labels), rows, seed, counts)
        assert sorted(np.concatenate(subsets)) == sorted(rows)
        assert all((np.diff(subset) > 0).all() for subset in subsets)


def test_every_class_gives_its_share():
    for seed, (labels, counts) in enumerate(problems(200)):
        subsets = draw(make_corpus(labels), np.arange(len(labels)), seed, counts)
        sizes = np.bincount(labels)
        for slack, count, rows in zip((1, 2), counts, subsets, strict=False):
            given = np.bincount(labels[rows], minlength=len(sizes))
            assert (np.abs(given - count * sizes / len(labels)) < slack).all()


def test_remainders_go_to_the_classes_with_the_largest_and_then_to_the_first():
    labels = np.repeat([0, 1, 2], [5, 5, 10])  # shares of 7: 1.75, 1.75, 3.5
    (rows, _) = draw(make_corpus(labels), np.arange(20), 0, [7])
    assert np.bincount(labels[rows]).tolist() == [2, 2, 3]
    (rows, _) = draw(make_corpus(labels), np.arange(20), 0, [6])  # 1.5, 1.5, 3
    assert np.bincount(labels[rows]).tolist() == [2, 1, 3]


def drawn_ids(order, *, grouped: bool, groups, labels, quotas=(30, 10)) -> list[frozenset[str]]:
    ids = [f"item-{i}" for i in range(len(labels))]
    corpus = make_corpus(
        [labels[i] for i in order], ids=[ids[i] for i in order], groups=[groups[i] for i in order]
    )
    subsets = draw(corpus, np.arange(len(labels)), 5, quotas, grouped=grouped)
    return [frozenset(corpus.ids[row] for row in rows) for rows in subsets]


@pytest.mark.parametrize("kind", ["items", "groups", "groups of several classes"])
def test_a_draw_does_not_depend_on_the_order_of_the_rows(kind):
    rng = np.random.default_rng(0)
    members = rng.integers(0, 20, 60)
    labels = rng.integers(0, 3, 60) if kind == "groups of several classes" else members % 3
    arguments = {
        "grouped": kind != "items",
        "groups": [f"group-{member}" for member in members],
        "labels": labels,
    }
    expected = drawn_ids(np.arange(60), **arguments)
    for _ in range(5):
        assert drawn_ids(rng.permutation(60), **arguments) == expected


def test_a_draw_does_not_depend_on_the_order_in_which_rows_are_named():
    corpus, rows = make_corpus(np.arange(40) % 4), np.arange(5, 35)
    one, two = draw(corpus, rows, 0, [0.5]), draw(corpus, rows[::-1], 0, [0.5])
    for first, second in zip(one, two, strict=True):
        assert_array_equal(first, second)


def test_a_draw_can_be_repeated_and_seeds_differ():
    corpus = make_corpus(np.arange(100) % 5)
    one, same, other = (draw(corpus, np.arange(100), seed, [50])[0] for seed in (1, 1, 2))
    assert_array_equal(one, same)
    assert 15 <= len(np.intersect1d(one, other)) <= 35  # 25 on average


def test_every_item_is_drawn_equally_often():
    corpus = make_corpus(np.arange(40) % 4)
    times = np.zeros(40)
    for seed in range(400):
        times[draw(corpus, np.arange(40), seed, [0.25])[0]] += 1
    assert np.abs(times - 100).max() < 5 * np.sqrt(400 * 0.25 * 0.75)


def test_groups_are_never_split():
    rng = np.random.default_rng(3)
    members = rng.integers(0, 40, 200)
    labels = members % 4
    groups = np.array([f"group-{member}" for member in members])
    corpus = make_corpus(labels, groups=groups)
    largest = np.bincount(members).max()
    for seed in range(20):
        subsets = draw(corpus, np.arange(200), seed, [0.6, 0.2], grouped=True)
        seen = [set(groups[rows]) for rows in subsets]
        assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
        assert sum(len(rows) for rows in subsets) == 200
        for wanted, rows in zip((120, 40), subsets, strict=False):  # half a group off in each class at most
            assert abs(len(rows) - wanted) <= 4 * largest / 2


def several(n: int, seed: int) -> np.ndarray:
    """Labels of n items in eight classes, from one in two items to one in fifty, at least one an item."""
    rng = np.random.default_rng(seed)
    labels = rng.random((n, 8)) < np.array([0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02])
    labels[~labels.any(axis=1), 0] = True
    return labels


def several_corpus(labels: np.ndarray, **changes) -> Corpus:
    names = tuple(f"class-{i}" for i in range(labels.shape[1]))
    corpus = make_corpus(np.zeros(len(labels), dtype=int), **changes)
    return replace(corpus, labels=labels, class_names=names)


def test_items_of_several_classes_count_for_the_rarest():
    labels = several(1000, 0)
    sizes = labels.sum(axis=0)
    strata = np.array([min(np.flatnonzero(row), key=lambda i: (sizes[i], i)) for row in labels])
    subsets = draw(several_corpus(labels), np.arange(1000), 3, [200, 0.1])
    expected = draw(make_corpus(strata), np.arange(1000), 3, [200, 0.1])
    for rows, same in zip(subsets, expected, strict=True):
        assert_array_equal(rows, same)


def test_rare_classes_get_their_shares_where_items_have_several():
    """Of the rarest class nothing is left to chance; of no class a draw is worse than one without labels."""
    errors: dict[str, list[np.ndarray]] = {"by class": [], "by chance": []}
    for seed in range(40):
        labels = several(500, seed)
        for kind, corpus in (
            ("by class", several_corpus(labels)),
            ("by chance", make_corpus(np.zeros(500, dtype=int))),
        ):
            rows, _ = draw(corpus, np.arange(500), seed, [0.2])
            assert len(rows) == 100
            errors[kind].append(np.abs(labels[rows].sum(axis=0) - 0.2 * labels.sum(axis=0)))
    by_class, by_chance = (np.mean(errors[kind], axis=0) for kind in ("by class", "by chance"))
    assert (np.array(errors["by class"])[:, 7] < 1).all()
    assert (by_class[4:] < 0.75 * by_chance[4:]).all()
    assert (by_class < 1.1 * by_chance).all()


def test_the_rarest_class_is_that_of_the_rows_drawn_from():
    labels = np.zeros((60, 2), dtype=bool)
    labels[:40, 0] = labels[20:, 1] = True  # 20 of one, 20 of both, 20 of the other
    rows = np.arange(10, 60)  # here class 0 is the rarer one
    subset, _ = draw(several_corpus(labels), rows, 0, [0.5])
    assert int(labels[subset, 0].sum()) == 15


def test_one_hot_labels_draw_what_numbers_draw():
    numbers = np.random.default_rng(0).integers(0, 5, 200)
    for grouped in (False, True):
        groups = [f"group-{i // 3}" for i in range(200)]
        one = draw(make_corpus(numbers, groups=groups), np.arange(200), 1, [0.3, 20], grouped=grouped)
        two = draw(
            several_corpus(np.eye(5, dtype=bool)[numbers], groups=groups),
            np.arange(200),
            1,
            [0.3, 20],
            grouped=grouped,
        )
        for first, second in zip(one, two, strict=True):
            assert_array_equal(first, second)


def test_items_of_no_class_count_for_a_class_of_their_own():
    labels = several(100, 0)
    labels[:20] = False
    subset, _ = draw(several_corpus(labels), np.arange(100), 0, [0.25])
    assert (subset < 20).sum() == 5


def test_the_order_by_hash_is_the_same_everywhere():
    names = [f"item-{i}" for i in range(50)]
    order = hash_order(names, 7)
    assert sorted(order) == list(range(50))
    keys = [hashlib.sha256(f"7/{names[i]}".encode()).hexdigest() for i in order]
    assert keys == sorted(keys)


@pytest.mark.parametrize("quotas", [[101], [60, 41], [0.7, 0.4], [-1], [-0.1], [float("nan")]], ids=str)
def test_quotas_that_cannot_be_met_are_refused(quotas):
    with pytest.raises(InvalidInput, match="split"):
        draw(make_corpus(np.arange(100) % 5), np.arange(100), 0, quotas)


# -- the corpus and its adapter ---------------------------------------------------------------------


@pytest.mark.parametrize("field", ["texts", "labels", "ids", "groups"])
def test_a_corpus_of_unequal_lengths_is_corrupt(field):
    corpus = make_corpus([0, 1, 0])
    with pytest.raises(CorruptData, match="differ in length"):
        replace(corpus, **{field: getattr(corpus, field)[:2]})


def test_a_corpus_with_an_id_twice_is_corrupt():
    with pytest.raises(CorruptData, match="ids are not unique"):
        make_corpus([0, 1, 0], ids=("a", "b", "a"))


class Toy(Dataset):
    card = DatasetCard(
        title="Toy pairs",
        source="example.org/toy",
        licence="none",
        citation="none",
        layout=("toy/pairs.txt",),
        pairs=4,
        image_text="numbers and words",
    )
    folders = ("toy", "old_toy")
    required = ("pairs.txt",)
    features = "numbers+words"
    splits = {"halves": lambda corpus, seed: Split("halves", seed, train=[0, 1], validation=[], test=[2, 3])}  # noqa: RUF012

    def load(self, data_dir: Path, image: str, text: str) -> Corpus:
        return make_corpus([0, 1, 0, 1])


def test_the_folder_of_a_dataset_is_the_first_that_holds_what_is_required(tmp_path):
    (tmp_path / "old_toy").mkdir()
    (tmp_path / "old_toy" / "pairs.txt").touch()
    assert Toy().folder(tmp_path) == tmp_path / "old_toy"
    (tmp_path / "toy").mkdir(exist_ok=True)
    (tmp_path / "toy" / "pairs.txt").touch()
    assert Toy().folder(tmp_path) == tmp_path / "toy"


def test_missing_data_are_reported_with_the_layout_and_the_source(tmp_path):
    (tmp_path / "toy").mkdir()
    with pytest.raises(
        MissingData, match=r"Toy pairs[\s\S]*toy/pairs\.txt[\s\S]*--data-dir[\s\S]*example\.org/toy"
    ):
        Toy().folder(tmp_path)


def test_splits_go_by_name():
    toy = Toy()
    corpus = toy.load(Path(), "numbers", "words")
    assert toy.split(corpus, "halves", 7).seed == 7
    with pytest.raises(UnknownName, match="unknown split 'half'; did you mean halves"):
        toy.split(corpus, "half", 0)


# -- prepare ----------------------------------------------------------------------------------------

SPLIT = Split("thirds", 0, train=range(0, 10), validation=range(10, 13), test=range(13, 20))


def prepared(
    *,
    corpus: Corpus | None = None,
    split: Split = SPLIT,
    images: np.ndarray | None = None,
    image_provenance: object = "pixels",
    text_provenance: object = "words",
    scaling: tuple[str, str] = ("zscore", "l2_center_scale"),
    **parts,
):
    corpus = corpus or make_corpus(np.arange(20) % 3)
    matrix = np.asarray(corpus.images if images is None else images)
    return prepare(
        corpus,
        split,
        Features(matrix, {"name": image_provenance}),
        Features(np.asarray(corpus.texts), {"name": text_provenance}),
        scaling,
        **parts,
    )


def test_every_part_gets_its_rows():
    corpus = make_corpus(np.arange(20) % 3)
    data = prepared(corpus=corpus, scaling=("none", "none"))
    for part in ("train", "validation", "test"):
        pairs, rows = getattr(data, part), getattr(SPLIT, part)
        assert pairs.ids == tuple(corpus.ids[row] for row in rows)
        assert_array_equal(pairs.labels, corpus.labels[rows])
        assert_array_equal(pairs.images, np.float32(corpus.images[rows]))
        assert_array_equal(pairs.texts, np.float32(corpus.texts[rows]))
        assert pairs.n_classes == 3
    assert data.sizes == {"train": 10, "validation": 3, "test": 7}


def test_without_validation_rows_there_are_no_validation_pairs():
    data = prepared(split=Split("halves", None, train=range(10), validation=[], test=range(10, 20)))
    assert data.validation is None
    assert data.split_seed is None


def test_scaling_looks_at_training_rows_alone():
    """Other test rows change nothing in training and validation; other training rows change them all."""
    corpus = make_corpus(np.arange(20) % 3)
    images = np.array(corpus.images)
    images[SPLIT.test] = 100 + 50 * images[SPLIT.test]
    one, two = prepared(corpus=corpus), prepared(corpus=corpus, images=images)
    assert_array_equal(one.train.images, two.train.images)
    assert_array_equal(one.validation.images, two.validation.images)
    assert not np.allclose(one.test.images, two.test.images)
    assert_allclose(one.train.images.mean(axis=0), 0.0, atol=1e-6)
    assert_allclose(one.train.images.std(axis=0), 1.0, atol=1e-5)
    images = np.array(corpus.images)
    images[SPLIT.train[0]] += 1.0
    three = prepared(corpus=corpus, images=images)
    assert not np.allclose(one.validation.images, three.validation.images)
    assert not np.allclose(one.test.images, three.test.images)


@pytest.mark.parametrize("scaling", [("none", "l2"), ("zscore", "l2_center_scale")])
def test_where_matrices_are_put_changes_nothing(scaling):
    """Each matrix goes to the store once, in blocks, under a name of its own; what comes back is used."""
    seen = {}

    def store(name, shape, blocks):
        assert name not in seen
        seen[name] = np.concatenate(list(blocks))
        assert seen[name].shape == shape and seen[name].dtype == np.float32
        return seen[name]

    kept, stored = prepared(scaling=scaling), prepared(scaling=scaling, store=store)
    assert kept.fingerprint == stored.fingerprint
    for part in ("train", "validation", "test"):
        for name in ("images", "texts"):
            assert getattr(getattr(stored, part), name) is seen.pop(f"{part}-{name}")
            assert_array_equal(getattr(getattr(stored, part), name), getattr(getattr(kept, part), name))
    assert not seen


def test_the_scalings_of_the_modalities_are_independent():
    one, two = prepared(scaling=("none", "zscore")), prepared(scaling=("center", "zscore"))
    assert_array_equal(one.test.texts, two.test.texts)
    assert not np.allclose(one.test.images, two.test.images)
    assert one.scaling == {"image": "none", "text": "zscore"}


@pytest.mark.parametrize(
    "changes",
    [
        {"split": Split("thirds", 0, train=range(0, 9), validation=range(9, 13), test=range(13, 20))},
        {"split": Split("thirds", 0, train=range(0, 10), validation=range(10, 12), test=range(13, 20))},
        {"split": Split("thirds", 0, train=range(0, 10), validation=range(13, 20), test=range(10, 13))},
        {"scaling": ("none", "l2_center_scale")},
        {"scaling": ("zscore", "none")},
        {"scaling": ("l2_center_scale", "zscore")},
        {"image_provenance": "pixels, version 2"},
        {"text_provenance": "words, version 2"},
        {"image_provenance": "words", "text_provenance": "pixels"},
        {"corpus": make_corpus(np.arange(20) % 3, digest="other raw files")},
        {"corpus": make_corpus(np.arange(20) % 3, ids=[f"renamed-{i}" for i in range(20)])},
    ],
    ids=[
        "train",
        "validation",
        "validation and test",
        "image scaling",
        "text scaling",
        "scalings exchanged",
        "image encoder",
        "text encoder",
        "encoders exchanged",
        "raw files",
        "ids",
    ],
)
def test_the_fingerprint_changes_with_all_that_can_change_a_number(changes):
    assert prepared(**changes).fingerprint != prepared().fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"images": np.asarray(make_corpus(np.arange(20) % 3).images) * (1 + 1e-6)},
        {"split": replace(SPLIT, name="other", seed=3)},
    ],
    ids=["last bits of the features", "name of the split"],
)
def test_the_fingerprint_does_not_change_with_what_differs_between_machines_or_in_name(changes):
    assert prepared(**changes).fingerprint == prepared().fingerprint


def test_the_fingerprint_is_the_same_in_every_session():
    assert prepared().fingerprint == prepared().fingerprint
    assert len(prepared().fingerprint) == 16
    int(prepared().fingerprint, 16)


def test_parts_ride_along_with_their_items():
    parts = Ragged(np.arange(40.0)[:, None], np.arange(0, 42, 2))
    data = prepared(text_parts=parts, parts_provenance={"name": "sentences"})
    assert_array_equal(data.validation.text_parts[1], parts[11])
    assert data.test.image_parts is None
    assert data.fingerprint != prepared().fingerprint
    other = prepared(text_parts=parts, parts_provenance={"name": "clauses"})
    assert data.fingerprint != other.fingerprint


def test_parts_without_a_provenance_are_refused():
    """They would change numbers, and no fingerprint would know of them."""
    with pytest.raises(InvalidInput, match="provenance"):
        prepared(text_parts=Ragged(np.zeros((20, 1)), np.arange(21)))


def test_features_for_another_number_of_rows_are_refused():
    with pytest.raises(InvalidInput, match="'images': 19"):
        prepared(images=np.zeros((19, 3)))


def test_features_that_are_not_finite_are_refused_by_row_and_column():
    images = np.zeros((20, 3))
    images[14, 1] = np.inf
    with pytest.raises(InvalidInput, match="images: row 14, column 1 is inf"):
        prepared(images=images)


def test_a_split_of_rows_that_are_not_there_is_refused():
    with pytest.raises(InvalidInput, match="20"):
        prepared(split=Split("wrong", None, train=range(10), validation=[], test=[15, 20]))


def test_an_unknown_scaling_is_named():
    with pytest.raises(UnknownName, match="unknown scaling 'z-score'"):
        prepared(scaling=("z-score", "none"))
