"""Words for the command line: cards, methods and scores."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from xmbench.describe import (
    card_text,
    dataset_present,
    describe_dataset,
    describe_method,
    method_text,
    methods_table,
    scores_text,
)
from xmbench.errors import PluginError
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
    assert found["departures"] == list(cls().departures)
    written = method_text(found)
    assert written.startswith(f"{name}: {cls.info.title} (built-in)")
    for words in (cls.info.paper, *cls().departures, *cls.defaults(), *cls.presets, *cls.ablations):
        assert words in written


def test_values_are_written_as_the_command_line_takes_them():
    written = method_text(describe_method("cca", REGISTRY.plugin("method", "cca")))
    assert "parameter:   n_components = none" in written
    assert "cca[preset=unregularised] stands for ridge=0.0" in written
    written = method_text(describe_method("lgcfl", REGISTRY.plugin("method", "lgcfl")))
    assert "lgcfl[ablation=unpaired] stands for mu=0.0" in written


def test_the_table_of_methods_has_each_once_and_escapes_what_they_say(tmp_path):
    file = tmp_path / "sly.py"
    info = "MethodInfo(title='a|b', paper='<i>', year=1999, supervised=True, departures=('_x_',))"
    file.write_text(
        f"from xmbench import Method, MethodInfo\n\n\nclass Sly(Method):\n    info = {info}\n\n"
        "    _fit = _encode_image = _encode_text = None\n\n\nMETHOD = Sly\n"
    )
    registry = Registry([file])
    lines = methods_table(registry).splitlines()
    assert len(lines) == 2 + len(registry.methods)
    assert "| `sly` | a\\|b | 1999 | yes | \\_x\\_ |  | &lt;i\\> |" in lines
    years = [int(year) for year in (line.split(" | ")[2] for line in lines[2:]) if year.strip()]
    assert years == sorted(years)
    assert all("(control)" in line for line in lines[2 + len(years) :])


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


def test_the_card_names_the_ids_of_each_part_by_a_hash_that_anyone_can_make(tmp_path):
    dataset = REGISTRY.dataset("emoji")
    found = describe_dataset("emoji", dataset, tmp_path)
    corpus = dataset.load(tmp_path, "lite0", "raw")
    split = dataset.split(corpus, "grouped", 0)
    hashes = found["read"]["split_hashes"]["grouped"]
    assert set(hashes) == {"train", "validation", "test"}
    for part, value in hashes.items():
        lines = sorted(f"{corpus.ids[row]}\n".encode() for row in getattr(split, part))
        assert value == hashlib.sha256(b"".join(lines)).hexdigest()
        assert f"{part} {value[:16]}" in card_text(found)


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
    images, texts = rng.standard_normal((2, 60, 3))
    texts[0] = 0
    scores = evaluate(images, texts, np.arange(60) % 3, protocol)
    written = scores_text(scores)
    warned = [line for line in written.splitlines() if line.startswith("Warning: ")]
    assert warned == [f"Warning: {flag}." for flag in protocol.flags]
    lines = [line.split() for line in written.splitlines() if "->" in line]
    assert list(dict.fromkeys(line[0] for line in lines)) == list(TASKS)
    for name, task in scores.tasks.items():
        first, *curves = [line[1:] for line in lines if line[0] == name]
        means = (task.mean_average_precision, task.chance, task.r_precision, task.mean_reciprocal_rank)
        assert first[:4] == [f"{value:.4f}" for value in means]
        assert list(map(int, first[4:])) == [60, 0, task.n_zero_norm, task.gallery]
        for kind, curve in (("precision", task.precision), ("recall", task.recall), ("nDCG", task.ndcg)):
            (found,) = [line for line in curves if line[0] == kind]
            hundredth = [f"{curve[99]:.4f}"] if len(curve) >= 100 else ["–"]
            assert found[1:] == [f"{curve[k - 1]:.4f}" for k in (1, 10, 50)] + hundredth
    assert protocol.describe(selection=False) in written and "selection" not in written


def test_a_card_tells_what_stands_on_both_sides_of_a_split(data_dir):
    found = describe_dataset("wikipedia", Registry().dataset("wikipedia"), data_dir)
    told = found["read"]["split_findings"]
    assert any("groups stand on both sides" in text for text in told["official"])
    assert not any("groups" in text for text in told["grouped"])
    assert all(text in card_text(found) for texts in told.values() for text in texts)
