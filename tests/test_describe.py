"""Words for the command line: cards, methods, scores, and the reading of a user's own arrays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from xmbench.describe import (
    card_text,
    dataset_present,
    describe_dataset,
    describe_method,
    method_text,
    read_matrix,
    scores_text,
)
from xmbench.errors import InvalidInput, MissingData, PluginError
from xmbench.evaluation import TASKS, evaluate
from xmbench.protocol import PROTOCOLS
from xmbench.registry import Registry

REGISTRY = Registry()

# -- methods ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(REGISTRY.methods))
def test_a_method_is_described_by_its_own_class(name):
    cls = REGISTRY.method(name)
    found = describe_method(name, REGISTRY.plugin("method", name))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["title"] == cls.info.title and found["paper"] == cls.info.paper
    assert found["parameters"] == cls.defaults()
    assert found["departures"] == list(cls.info.departures)
    written = method_text(found)
    assert written.startswith(f"{name}: {cls.info.title} (built-in)")
    for words in (cls.info.paper, *cls.info.departures, *cls.defaults(), *cls.presets, *cls.ablations):
        assert words in written


def test_values_are_written_as_the_command_line_takes_them():
    written = method_text(describe_method("cca", REGISTRY.plugin("method", "cca")))
    assert "parameter:   n_components = none" in written
    assert "cca[preset=unregularised] stands for ridge=0.0" in written


def test_a_broken_plugin_cannot_be_described(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("import no_such_module_at_all\nMETHOD = None\n")
    with pytest.raises(PluginError, match="no_such_module_at_all"):
        describe_method("broken", Registry([file]).plugin("method", "broken"))


# -- datasets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(REGISTRY.datasets))
def test_a_card_can_be_read_without_the_data(name, tmp_path):
    dataset = REGISTRY.dataset(name)
    found = describe_dataset(name, dataset, tmp_path)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["present"] == dataset.card.embedded
    assert ("read" in found) == found["present"]
    written = card_text(found)
    card = dataset.card
    for words in (card.title, card.source, card.licence, card.citation, *card.defects, *card.layout):
        assert words in written
    assert all(split in written for split in dataset.splits)
    assert ("--data-dir" in written) == (not card.embedded)


def test_the_card_of_present_data_tells_what_was_read(tmp_path):
    dataset = REGISTRY.dataset("emoji")
    found = describe_dataset("emoji", dataset, tmp_path)
    corpus = dataset.load(tmp_path, "lite0", "raw")
    read = found["read"]
    assert read["pairs"] == len(corpus) == dataset.card.pairs
    assert read["classes"] == {
        name: int((corpus.labels == i).sum()) for i, name in enumerate(corpus.class_names)
    }
    assert sum(read["classes"].values()) == read["pairs"]
    assert read["groups"] == len(set(corpus.groups))
    for sizes in read["split_sizes"].values():
        assert sum(sizes.values()) <= read["pairs"]
    written = card_text(found)
    assert f"{read['pairs']:,} pairs" in written and read["digest"] in written
    assert all(f"{name} {count}" in written for name, count in read["classes"].items())


def test_presence_is_that_of_the_required_files(tmp_path):
    dataset = REGISTRY.dataset("pascal")
    assert not dataset_present(dataset, tmp_path)
    assert not dataset_present(dataset, tmp_path / "nowhere")
    for path in dataset.required:
        (tmp_path / dataset.folders[0] / path).mkdir(parents=True)
    assert dataset_present(dataset, tmp_path)


# -- scores -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=lambda protocol: protocol.name)
def test_scores_are_written_to_four_digits(protocol):
    rng = np.random.default_rng(0)
    images, texts = rng.standard_normal((2, 12, 3))
    scores = evaluate(images, texts, np.arange(12) % 3, protocol)
    written = scores_text(scores)
    lines = {line.split()[0]: line.split() for line in written.splitlines() if "->" in line}
    assert list(lines) == list(TASKS)
    for name, task in scores.tasks.items():
        _, average, chance, first, tenth, fiftieth, hundredth, queries, unanswerable, gallery = lines[name]
        assert (average, chance) == (f"{task.mean_average_precision:.4f}", f"{task.chance:.4f}")
        assert (first, tenth) == (f"{task.precision[0]:.4f}", f"{task.precision[9]:.4f}")
        assert (fiftieth, hundredth) == ("–", "–")
        assert (int(queries), int(unanswerable), int(gallery)) == (12, 0, task.gallery)
    assert protocol.describe() in written


# -- a user's arrays --------------------------------------------------------------------------------

ROWS = np.array([[0.5, -1.25], [3.0, 1e-3], [0.0, 2.0]])


def write(path: Path, array: np.ndarray) -> Path:
    """``array`` in the format that the suffix names."""
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez_compressed(path, anything=array)
    else:
        delimiter = {".csv": ",", ".tsv": "\t", ".txt": " "}[path.suffix]
        np.savetxt(path, array, delimiter=delimiter, fmt="%d" if array.dtype.kind in "ib" else "%.18e")
    return path


SUFFIXES = (".npy", ".npz", ".csv", ".tsv", ".txt")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_matrix_comes_back_from_each_format(tmp_path, suffix):
    path = write(tmp_path / f"rows{suffix}", ROWS)
    assert_array_equal(read_matrix(path), ROWS)
    one_column = write(tmp_path / f"column{suffix}", ROWS[:, :1])
    assert_array_equal(read_matrix(one_column), ROWS[:, :1])


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "labels", [np.array([0, 2, 1]), np.eye(4, dtype=int)[[0, 3, 3]]], ids=["single", "hot"]
)
def test_labels_come_back_as_whole_numbers(tmp_path, suffix, labels):
    found = read_matrix(write(tmp_path / f"labels{suffix}", labels), labels=True)
    assert found.dtype.kind == "i"
    assert_array_equal(found, labels)


def test_labels_in_a_row_or_a_column_are_one_list(tmp_path):
    (tmp_path / "row.csv").write_text("0,2,1\n")
    (tmp_path / "column.csv").write_text("0\n2\n1\n")
    np.save(tmp_path / "column.npy", [[0.0], [2.0], [1.0]])
    for name in ("row.csv", "column.csv", "column.npy"):
        found = read_matrix(tmp_path / name, labels=True)
        assert found.dtype == np.int64
        assert_array_equal(found, [0, 2, 1])


@pytest.mark.parametrize("wrong", [0.5, np.nan, np.inf])
def test_labels_that_are_no_whole_numbers_are_not_rounded(tmp_path, wrong):
    path = write(tmp_path / "labels.npy", np.array([0.0, 1.0, wrong]))
    assert_array_equal(read_matrix(path, labels=True), [0.0, 1.0, wrong])


def test_a_missing_file_is_missing_data(tmp_path):
    with pytest.raises(MissingData, match=r"nothing\.npy"):
        read_matrix(tmp_path / "nothing.npy")


def test_objects_are_never_unpickled(tmp_path):
    boxed = np.array([{"a": 1}, None], dtype=object)
    np.save(tmp_path / "boxed.npy", boxed, allow_pickle=True)
    np.savez(tmp_path / "boxed.npz", boxed=boxed)
    (tmp_path / "pickle.npy").write_bytes(b"\x80\x04N.")
    for name in ("boxed.npy", "boxed.npz", "pickle.npy"):
        with pytest.raises(InvalidInput, match=name):
            read_matrix(tmp_path / name)


def test_an_archive_of_several_arrays_is_refused(tmp_path):
    np.savez(tmp_path / "two.npz", a=ROWS, b=ROWS)
    with pytest.raises(InvalidInput, match="2 arrays"):
        read_matrix(tmp_path / "two.npz")
    np.savez(tmp_path / "none.npz")
    with pytest.raises(InvalidInput, match="0 arrays"):
        read_matrix(tmp_path / "none.npz")


DAMAGED = {
    "empty.npy": b"",
    "empty.npz": b"",
    "empty.csv": b"",
    "blank.txt": b"\n\n",
    "words.csv": b"a,b\n1,2\n",
    "ragged.csv": b"1,2\n3\n",
    "latin.csv": b"\xe9,1\n",
    "text.npy": b"1,2\n",
    "text.npz": b"1,2\n",
    "rows.json": b"[[1, 2]]",
    "rows": b"1 2\n",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_holds_no_array_is_refused_by_name(tmp_path, name):
    (tmp_path / name).write_bytes(DAMAGED[name])
    with pytest.raises(InvalidInput, match=name):
        read_matrix(tmp_path / name)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_file_cut_short_or_under_a_wrong_suffix_is_refused(tmp_path, suffix):
    whole = write(tmp_path / f"whole{suffix}", np.arange(200.0)).read_bytes()
    (tmp_path / f"cut{suffix}").write_bytes(whole[: len(whole) // 2])
    other = {".npy": ".npz", ".npz": ".npy"}[suffix]
    (tmp_path / f"other{other}").write_bytes(whole)
    for name in (f"cut{suffix}", f"other{other}"):
        with pytest.raises(InvalidInput, match=name):
            read_matrix(tmp_path / name)
