"""CMDN: its stages and their order, what each of them sees, widths, and what labels may do."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from networks import over_after, scored
from numpy.testing import assert_allclose, assert_array_equal

from xmbench.errors import DeadlineExceeded, InvalidParameter
from xmbench.nn import forward
from xmbench.registry import Registry
from xmbench.testing import synthetic_data, synthetic_pairs

pytest.importorskip("torch")

Cmdn = Registry().method("cmdn")
module = sys.modules[Cmdn.__module__]

QUICK = {"hidden": 16, "pretrain_epochs": 2, "max_epochs": 2}
DATA = synthetic_data()

INTRA = ["intra 1", "intra 2"]
INTER = {"ae": ["inter"], "rbm": ["rbm 1", "rbm 2", "joint"]}
STAGE_2 = ["labels", "bimodal 1", "bimodal 2", "bimodal 3"]


def stages(method) -> list[str]:
    """Names of the stages of the history, in order."""
    return list(dict.fromkeys(line["stage"] for line in method.history_))


def fitted(**parameters):
    return Cmdn(**QUICK | parameters).fit(DATA.train, DATA.validation, context=scored(DATA.validation))


# -- stages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["ae", "rbm"])
@pytest.mark.parametrize("stage1", ["both", "intra", "inter"])
def test_the_history_has_the_stages_in_order(backend, stage1):
    intra, inter = INTRA * (stage1 != "inter"), INTER[backend] * (stage1 != "intra")
    method = fitted(backend=backend, stage1=stage1)
    assert stages(method) == [*intra, *inter, "combination", *STAGE_2]
    for line in method.history_:
        scores = line["stage"].startswith("bimodal")
        assert ("validation_map" in line) == scores  # before that there is no common space to retrieve in
    branches = {"both": 2}.get(stage1, 1)
    assert len(method.image_branches_) == len(method.text_branches_) == branches


def test_without_a_backend_the_features_are_fine_tuned_at_once():
    assert stages(fitted(backend="none")) == STAGE_2


@pytest.mark.parametrize("backend", ["ae", "rbm"])
def test_the_deadline_is_seen_in_every_stage(backend):
    for stage in [*INTRA, *INTER[backend], "combination", *STAGE_2]:
        method = Cmdn(**QUICK | {"backend": backend})
        with pytest.raises(DeadlineExceeded):
            method.fit(DATA.train, context=over_after(stage))
        assert not [key for key in vars(method) if key.endswith("_")]


# -- widths and layers ------------------------------------------------------------------------------


@pytest.mark.parametrize(("levels", "width"), [(0, 16), (1, 8), (2, 4), (3, 2), (4, 1)])
def test_each_bimodal_autoencoder_halves_the_width(levels, width):
    method = fitted(bae_levels=levels)
    images, texts = method.encode_pairs(DATA.test)
    assert images.shape[1] == texts.shape[1] == width
    if levels:
        ends = method.image_layers_[-levels:], method.text_layers_[-levels:]
        for rows in ends:
            assert [layer["weights"].shape[1] for layer in rows] == [16 >> i for i in range(1, levels + 1)]


def test_without_bimodal_autoencoders_the_last_hidden_layers_are_the_codes():
    method = fitted(bae_levels=0)
    rows = module.beside(method.image_branches_, DATA.test.images)
    h = forward(method.image_layers_, rows)
    assert method.image_layers_[-1]["activation"] == "relu" and (h >= 0).all()
    assert_array_equal(method.encode_image(DATA.test.images), h - method.image_mean_)
    assert stages(method)[-1] == "labels"


def test_last_hidden_layers_of_modalities_of_different_widths_are_equally_wide():
    pairs = synthetic_pairs(40, d_image=20, d_text=9)
    method = Cmdn(bae_levels=0, pretrain_epochs=1, max_epochs=1).fit(pairs)
    assert [rows.shape for rows in method.encode_pairs(pairs)] == [(40, 64), (40, 64)]


def test_the_classifier_reads_standardised_codes():
    method = fitted(bae_levels=0)
    rows = module.beside(method.image_branches_, DATA.train.images)
    codes = forward(method.image_layers_[:-3], rows)  # below the three layers of the classifier
    assert np.abs(codes.mean(axis=0)).max() < 1e-4
    spread = codes.std(axis=0)
    assert (np.isclose(spread, 1, atol=1e-3) | np.isclose(spread, 0)).all()


@pytest.mark.parametrize("center", [True, False])
def test_codes_are_centred_by_training_rows(center):
    method = fitted(center=center)
    for rows in method.encode_pairs(DATA.train):
        assert (np.abs(rows.mean(axis=0)).max() < 1e-5) == center


def test_default_widths_follow_the_features_of_each_modality():
    pairs = synthetic_pairs(40, d_image=20, d_text=9)
    method = Cmdn(pretrain_epochs=1, max_epochs=1).fit(pairs)
    image, text = (
        [layer["weights"].shape[1] for layer in branches[0]]
        for branches in (method.image_branches_, method.text_branches_)
    )
    assert image == [80, 80] and text == [64, 64]
    assert method.image_branches_[1][-1]["weights"].shape == (20, 80)  # b: of the wider modality
    assert method.text_branches_[1][-1]["weights"].shape == (9, 80)
    assert method.encode_text(pairs.texts).shape[1] == 10


def test_the_representation_from_both_modalities_is_one_layer_read_with_one_of_them():
    """b of an image and b of a text have the same bias, and learned from one another."""
    method = fitted(stage1="inter")
    (image,), (text,) = method.image_branches_[0], method.text_branches_[0]
    assert_array_equal(image["bias"], text["bias"])
    other = replace(DATA.train, texts=DATA.train.texts[::-1])
    changed = Cmdn(**QUICK, stage1="inter").fit(other)
    assert not np.array_equal(changed.image_branches_[0][0]["weights"], image["weights"])
    alone = [
        Cmdn(**QUICK, stage1="intra").fit(pairs).image_branches_[0][1]["weights"]
        for pairs in (DATA.train, other)
    ]
    assert_array_equal(*alone)  # a never sees the other modality


def test_stages_pass_on_what_encoding_passes_on():
    """h and the codes of training rows are what encode_image makes of their features."""
    method = fitted(bae_levels=1)
    rows = module.beside(method.text_branches_, DATA.test.texts)
    *below, joint = method.text_layers_
    by_hand = 1 / (1 + np.exp(-(forward(below, rows) @ joint["weights"] + joint["bias"])))
    assert_allclose(method.encode_text(DATA.test.texts), by_hand - method.text_mean_, atol=1e-5)


# -- labels -----------------------------------------------------------------------------------------


def test_without_labels_their_order_does_not_matter():
    turned = [
        replace(pairs, labels=np.random.default_rng(0).permutation(pairs.labels))
        for pairs in (DATA.train, DATA.validation)
    ]
    found = [
        Cmdn(**QUICK, labels="none").fit(train, held, context=scored(held)).encode_pairs(DATA.test)
        for train, held in ((DATA.train, DATA.validation), turned)
    ]
    for first, second in zip(*found, strict=True):
        assert_array_equal(first, second)
    assert not np.array_equal(fitted().encode_image(DATA.test.images), found[0][0])


@pytest.mark.parametrize(
    ("labels", "stage_1", "stage_2"), [("both", 1, 1), ("finetune_only", 1, 0), ("none", 0, 0)]
)
def test_label_losses_stand_where_labels_act(labels, stage_1, stage_2):
    lines = fitted(labels=labels).history_
    assert any("image_label_loss" in line for line in lines) == bool(stage_1)
    assert any("label_loss" in line for line in lines if line["stage"].startswith("bimodal")) == bool(stage_2)


# -- bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"bae_levels": 5},
            r"Cmdn\.bae_levels: each halves the width, expected at least 32 for 5 levels, got 16",
        ),
        ({"bae_levels": -1}, r"Cmdn\.bae_levels: expected at least 0"),
        ({"backend": "none", "labels": "none", "bae_levels": 0}, "Cmdn: nothing to learn"),
        ({"hidden": 0}, r"Cmdn\.hidden: expected more than 0"),
        ({"pretrain_epochs": 0}, r"Cmdn\.pretrain_epochs: expected more than 0"),
        ({"pretrain_rate": 0.0}, r"Cmdn\.pretrain_rate: expected more than 0"),
        ({"dropout": 1.0}, r"Cmdn\.dropout: expected at least 0 and less than 1"),
        ({"label_weight": -1.0}, r"Cmdn\.label_weight: expected at least 0"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(parameters, message):
    with pytest.raises(InvalidParameter, match=message):
        Cmdn(**QUICK | parameters).fit(DATA.train)


def test_departures_name_the_backend():
    texts = {backend: " ".join(Cmdn(backend=backend).departures) for backend in ("ae", "rbm", "none")}
    assert "autoencoders in place of Boltzmann machines" in texts["ae"]
    assert "Gaussian units" in texts["rbm"] and "no pretraining" in texts["none"]
    assert "narrower" in texts["ae"] and "narrower" not in " ".join(Cmdn(hidden=2048).departures)
