"""CCL: its loss against a loop, which gradients flow, parts and what stands for them, its stages."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from networks import by_hand, copied, in_float64, over_after, scored, slope
from numpy.testing import assert_allclose, assert_array_equal

from xmbench import Pairs, Ragged
from xmbench.errors import DeadlineExceeded, InvalidInput, InvalidParameter, RunError, Unsupported
from xmbench.nn import forward
from xmbench.registry import Registry
from xmbench.testing import synthetic_data, synthetic_pairs
from xmbench.training import Batch, Session

torch = pytest.importorskip("torch")

Ccl = Registry().method("ccl")
module = sys.modules[Ccl.__module__]
stages = sys.modules[module.Staged.__module__]

PAIRS = synthetic_pairs(7, d_image=5, d_text=4, n_classes=3)
SEVERAL = synthetic_pairs(7, d_image=5, d_text=4, n_classes=3, multi_label=True)
GLOBAL_ONLY = "global only: no parts were given, so there is no fine-grained branch"
COARSE = ["coarse 1", "coarse 2", "coarse correspondence"]
FINE = ["fine 1", "fine 2", "fine correspondence"]
LAST = ["fusion", "labels", "tasks"]


def small(**parameters) -> Ccl:
    """Narrow layers and two epochs a stage."""
    narrow = {"hidden": 8, "n_components": 6, "pretrain_epochs": 2, "max_epochs": 2}
    return Ccl(**narrow | parameters)


def learner_of(pairs: Pairs = PAIRS, **parameters):
    """Stage 2 in float64, on features as they are, with 3 units a layer."""
    learner = module.CclLearner(Ccl(**parameters), pairs, ([], []), 3, Session(0))
    in_float64(*learner.trunks, *learner.intra)
    return learner


def batch_of(pairs: Pairs = PAIRS) -> Batch:
    batch = Session(0).batch(pairs)
    return Batch(batch.images.double(), batch.texts.double(), batch.targets.double(), batch.rows)


def wholes(rows: np.ndarray) -> Ragged:
    """Each item as its own only part."""
    return Ragged(rows, np.arange(len(rows) + 1))


def stages_of(method: Ccl) -> list[str]:
    return list(dict.fromkeys(line["stage"] for line in method.history_))


def assert_same(one: Ccl, two: Ccl, pairs: Pairs, other: Pairs | None = None) -> None:
    for first, second in zip(one.encode_pairs(pairs), two.encode_pairs(other or pairs), strict=True):
        assert_array_equal(first, second)


# -- losses and gradients of stage 2 ----------------------------------------------------------------


@pytest.mark.parametrize("pairs", [PAIRS, SEVERAL], ids=["one class", "several"])
@pytest.mark.parametrize("margin", [0.3, 1.0])
def test_the_contrastive_loss_is_that_of_a_double_loop(pairs, margin):
    rng = np.random.default_rng(0)
    v, t = rng.random((2, 7, 3))
    labels = pairs.one_hot()
    total, active = 0.0, 0
    for i in range(7):
        for j in range(7):
            d = np.sqrt(sum((a - b) ** 2 for a, b in zip(v[i], t[j], strict=True)))
            if any(a and b for a, b in zip(labels[i], labels[j], strict=True)):
                total += d**2
            else:
                total += max(0.0, margin - d) ** 2
                active += d < margin
    targets = torch.from_numpy(labels)
    found = module.contrastive_loss(
        torch.from_numpy(v), torch.from_numpy(t), module.matching(targets, targets), margin
    )
    assert active
    assert float(found) == pytest.approx(total / 14, abs=1e-6)


@pytest.mark.parametrize("relevant", [0.0, 1.0])
def test_the_gradient_of_equal_codes_is_finite(relevant):
    codes = torch.full((3, 4), 0.5, requires_grad=True)
    loss = module.contrastive_loss(codes, torch.full((3, 4), 0.5), torch.full((3, 3), relevant), 1.0)
    (gradient,) = torch.autograd.grad(loss, codes)
    assert float(loss.detach()) == pytest.approx(1.5 * (1 - relevant), abs=1e-4)  # nine hinges of 1, over 2 N
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("w_inter", [1.0, 2.0])
def test_the_loss_is_the_weighted_sum_of_both_tasks(w_inter):
    learner = learner_of(w_inter=w_inter)
    losses = {name: float(loss.detach()) for name, loss in learner.losses(batch_of()).items()}
    labels = PAIRS.one_hot()
    expected = {}
    for i, name in enumerate(("image", "text")):
        rows = by_hand(
            [*learner.trunks[i].arrays(), *learner.intra[i].arrays()], (PAIRS.images, PAIRS.texts)[i]
        )
        shares = np.exp(rows) / np.exp(rows).sum(axis=1, keepdims=True)
        expected[f"{name}_label_loss"] = -np.mean(np.log((shares * labels).sum(axis=1)))
    for name, value in expected.items():
        assert losses[name] == pytest.approx(value, rel=1e-9)
    total = w_inter * losses["inter_loss"] + sum(expected.values())
    assert losses["loss"] == pytest.approx(total, rel=1e-9)


def test_both_heads_read_one_layer_whose_gradient_is_the_sum_of_theirs():
    learner = learner_of(w_inter=2.0)
    losses = learner.losses(batch_of())
    fused = [trunk.layers[-1][0] for trunk in learner.trunks]

    def gradient(loss):
        found = torch.autograd.grad(loss, fused, allow_unused=True, retain_graph=True)
        return [torch.zeros_like(e) if one is None else one for e, one in zip(fused, found, strict=True)]

    inter = gradient(losses["inter_loss"])
    own = [gradient(losses[f"{name}_label_loss"]) for name in ("image", "text")]
    for i, whole in enumerate(gradient(losses["loss"])):
        assert inter[i].abs().max() > 0 and own[i][i].abs().max() > 0
        assert own[1 - i][i].abs().max() == 0
        assert_allclose(whole, 2 * inter[i] + own[i][i], atol=1e-12)


def test_gradients_are_those_of_finite_differences():
    learner, batch = learner_of(margin=0.5), batch_of()
    for network in (*learner.trunks, *learner.intra):
        for place, (weights, bias) in enumerate(list(network.layers)):
            (found,) = torch.autograd.grad(learner.losses(batch)["loss"], weights)

            def moved(values, network=network, place=place, bias=bias):
                network.layers[place] = (values, bias)
                return learner.losses(batch)["loss"].detach()

            assert_allclose(found, slope(moved, weights), atol=1e-7)
            network.layers[place] = (weights, bias)


def test_without_the_intra_task_label_heads_have_no_gradient_and_stay():
    learner = learner_of(intra=False)
    before = [copied(head.arrays()) for head in learner.intra]
    assert set(learner.losses(batch_of())) == {"loss", "inter_loss"}
    learner = module.CclLearner(Ccl(intra=False), PAIRS, ([], []), 3, Session(0))
    learner.step(Session(0).batch(PAIRS))
    for head, (layer,) in zip(learner.intra, before, strict=True):
        assert all(tensor.grad is None for tensor in head.parameters)
        assert_array_equal(head.arrays()[0]["weights"], layer["weights"])


def test_without_the_inter_task_nothing_ties_the_modalities():
    losses = learner_of(inter=False).losses(batch_of())
    assert set(losses) == {"loss", "image_label_loss", "text_label_loss"}
    batch = batch_of()
    learner, other = learner_of(inter=False), replace(batch, texts=batch.texts.flip(0))
    found = [learner.losses(one)["image_label_loss"].detach() for one in (batch, other)]
    assert found[0] == found[1]


# -- parts ------------------------------------------------------------------------------------------


def test_items_without_parts_are_their_own_only_part():
    rows = np.arange(8.0, dtype=np.float32).reshape(4, 2)
    parts = Ragged(100 + np.arange(6.0).reshape(3, 2), np.array([0, 0, 2, 2, 3]))
    found = module.parts_of(rows, parts, "fine")
    assert found.offsets.tolist() == [0, 1, 3, 4, 5]
    expected = [rows[0], parts.values[0], parts.values[1], rows[2], parts.values[2]]
    assert_array_equal(found.values, expected)
    means = [rows[0], parts.values[:2].mean(axis=0), rows[2], parts.values[2]]
    assert_allclose(module.averaged(found), means)
    for given, grain in ((parts, "coarse"), (None, "fine")):
        assert_array_equal(module.parts_of(rows, given, grain).values, rows)


def test_a_batch_of_items_is_read_as_the_parts_of_these_items():
    pairs = synthetic_pairs(20, parts=True)
    sources = tuple(
        module.parts_of(rows, parts, "fine")
        for rows, parts in ((pairs.images, pairs.image_parts), (pairs.texts, pairs.text_parts))
    )
    rows = np.array([7, 0, 19])
    batch = Session(0).batch(pairs)
    batch = Batch(batch.images[rows], batch.texts[rows], batch.targets[rows], torch.from_numpy(rows))
    for source, found in zip(sources, module.PartRows(sources, "cpu")(batch), strict=True):
        assert_array_equal(found, np.concatenate([source[7], source[0], source[19]]))


def test_the_order_of_an_items_parts_makes_no_difference():
    data = synthetic_data(parts=True)
    method = small().fit(data.train, data.validation)
    rng = np.random.default_rng(0)

    def stirred(parts: Ragged) -> Ragged:
        order = [start + rng.permutation(end - start) for start, end in pairwise(parts.offsets)]
        return Ragged(parts.values[np.concatenate(order).astype(int)], parts.offsets)

    test = data.test
    other = replace(test, image_parts=stirred(test.image_parts), text_parts=stirred(test.text_parts))
    assert (other.image_parts.values != test.image_parts.values).any()
    for first, second in zip(method.encode_pairs(test), method.encode_pairs(other), strict=True):
        assert_allclose(first, second, atol=1e-5)


def test_one_part_that_is_the_whole_item_makes_the_fine_grain_the_coarse_one():
    pairs = synthetic_pairs(40)
    whole = replace(pairs, image_parts=wholes(pairs.images), text_parts=wholes(pairs.texts))
    coarse, fine = small(grains="coarse").fit(whole), small(grains="fine").fit(whole)
    assert_same(coarse, fine, whole)
    grain = coarse.image_grains_["coarse"]
    shared = module.coded({"coarse": grain, "fine": grain}, whole.images, whole.image_parts)
    assert_array_equal(*np.split(shared, 2, axis=1))


def test_a_whole_item_given_as_its_part_is_what_a_missing_part_stands_for():
    pairs = synthetic_pairs(40, parts=True)
    assert (np.diff(pairs.image_parts.offsets) == 0).any()
    filled = replace(
        pairs,
        image_parts=module.parts_of(pairs.images, pairs.image_parts, "fine"),
        text_parts=module.parts_of(pairs.texts, pairs.text_parts, "fine"),
    )
    assert_same(small().fit(pairs), small().fit(filled), pairs, filled)


@pytest.mark.parametrize("modality", ["image", "text"])
def test_parts_of_one_modality_alone_make_a_fine_grain_of_both(modality):
    data = synthetic_data(parts=True)
    other = {"image": "text", "text": "image"}[modality]

    def one(pairs: Pairs) -> Pairs:
        return replace(pairs, **{f"{other}_parts": None})

    method = small().fit(one(data.train), one(data.validation), context=scored(one(data.validation)))
    assert method.fine_grained_ is True
    assert GLOBAL_ONLY not in method.departures
    assert f"{other}s have no parts: whole items stand for them" in method.departures
    assert f"{modality}s have no parts: whole items stand for them" not in method.departures
    assert stages_of(method) == COARSE + FINE + LAST

    def with_wholes(pairs: Pairs) -> Pairs:
        return replace(pairs, **{f"{other}_parts": wholes(getattr(pairs, f"{other}s"))})

    same = small().fit(with_wholes(data.train), with_wholes(data.validation))
    alone = small().fit(one(data.train), one(data.validation))
    assert_same(alone, same, one(data.test), with_wholes(data.test))


def test_pairs_without_parts_have_the_coarse_grain_alone_and_are_marked():
    data = synthetic_data()
    method = small()
    assert GLOBAL_ONLY not in method.departures
    method.fit(data.train, data.validation)
    assert method.fine_grained_ is False
    assert GLOBAL_ONLY in method.departures
    assert stages_of(method) == COARSE + LAST
    coarse = small(grains="coarse").fit(data.train, data.validation)
    assert GLOBAL_ONLY not in coarse.departures
    assert_same(method, coarse, data.test)
    parts = synthetic_data(parts=True)
    assert GLOBAL_ONLY not in method.fit(parts.train, parts.validation).departures
    assert method.fine_grained_ is True


def test_the_fine_grain_alone_of_pairs_without_parts_is_refused():
    with pytest.raises(Unsupported, match="grains=fine learns from parts"):
        small(grains="fine").fit(synthetic_pairs())


def test_parts_of_another_width_than_whole_items_are_refused():
    pairs = synthetic_pairs(parts=True)
    parts = Ragged(pairs.text_parts.values[:, :4], pairs.text_parts.offsets)
    with pytest.raises(Unsupported, match="texts have 9 columns, their parts 4"):
        small().fit(replace(pairs, text_parts=parts))


def test_validation_pairs_that_lack_the_parts_of_training_are_refused():
    data = synthetic_data(parts=True)
    with pytest.raises(InvalidInput, match="text parts"):
        small().fit(data.train, replace(data.validation, text_parts=None))


@pytest.mark.parametrize("stage1", ["corr_ae", "ae", "none"])
def test_rows_are_encoded_one_by_one(stage1):
    pairs = synthetic_pairs(40, parts=True)
    method = small(stage1=stage1).fit(pairs)
    every = method.encode_pairs(pairs)
    for rows in (np.array([3]), np.array([17, 0, 5])):
        for few, all_of_them in zip(method.encode_pairs(pairs.take(rows)), every, strict=True):
            assert_allclose(few, all_of_them[rows], atol=1e-5)


# -- stages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, COARSE + FINE + LAST),
        ({"grains": "coarse"}, COARSE + LAST),
        ({"grains": "fine"}, FINE + LAST),
        ({"stage1": "ae"}, COARSE[:2] + FINE[:2] + LAST),
        ({"stage1": "none"}, LAST[1:]),
    ],
)
def test_the_history_has_the_stages_that_are_switched_on(parameters, expected):
    data = synthetic_data(parts=True)
    method = small(max_epochs=3, **parameters).fit(
        data.train, data.validation, context=scored(data.validation)
    )
    epochs = [(line["stage"], line["epoch"]) for line in method.history_]
    assert epochs == [
        (stage, epoch) for stage in expected for epoch in range(1, 4 if stage in ("labels", "tasks") else 3)
    ]
    for line in method.history_:
        assert ("validation_map" in line) == (line["stage"] == "tasks")
        assert ("validation_loss" in line) == (line["stage"] == "labels")


@pytest.mark.parametrize("stage", COARSE + FINE + LAST)
def test_the_deadline_is_kept_in_every_stage(stage):
    method = small()
    with pytest.raises(DeadlineExceeded):
        method.fit(synthetic_pairs(parts=True), context=over_after(stage))
    assert not [name for name in vars(method) if name.endswith("_")]


def test_layers_are_those_of_the_stages():
    pairs = synthetic_pairs(40, parts=True)
    method = small(label_layers=2).fit(pairs)
    for name, d in (("image", 12), ("text", 9)):
        grains, layers = getattr(method, f"{name}_grains_"), getattr(method, f"{name}_layers_")
        for grain in ("coarse", "fine"):
            shapes = [layer["weights"].shape for layer in grains[grain]["parts"]]
            assert shapes == [(d, 8), (8, 8), (8, 8), (8, 8)]
            kinds = [layer["activation"] for layer in grains[grain]["parts"]]
            assert kinds == ["sigmoid", "linear"] * 2
            assert [layer["weights"].shape for layer in grains[grain]["items"]] == [(8, 6), (6, 6)]
        assert [layer["weights"].shape for layer in layers] == [
            *[(12, 8), (8, 8)],  # fusion
            *[(8, 8)] * 3,  # labels
            *[(8, 6), (6, 6)],  # tasks
        ]
        assert [layer["activation"] for layer in layers] == [
            *["sigmoid", "linear"],
            *["relu", "relu", "linear"],
            *["sigmoid", "sigmoid"],
        ]


def test_widths_follow_the_features_unless_they_are_given():
    """d = 12 and 9: 64 units, as 4 d is less than that; 20 columns: 80."""
    method = Ccl(pretrain_epochs=1, max_epochs=1).fit(synthetic_pairs(40, d_image=20))
    widths = [layer["weights"].shape[1] for layer in method.image_layers_]
    assert widths == [*[80] * 6, 64, 64]
    wide = Ccl(pretrain_epochs=1, max_epochs=1, hidden=100, n_components=90).fit(synthetic_pairs(40))
    assert [layer["weights"].shape[1] for layer in wide.text_layers_] == [*[100] * 6, 90, 90]


@pytest.mark.parametrize(
    ("parameters", "rate"),
    [
        ({"hidden": 8}, 1e-2),
        ({}, 0.512 / 80),  # the wider modality has 20 columns
        ({"hidden": 1024}, 0.512 / 1024),
        ({"pretrain_rate": 0.3}, 0.3),
    ],
)
def test_wider_layers_are_pretrained_in_smaller_steps_unless_a_rate_is_given(parameters, rate):
    method = Ccl(pretrain_epochs=1, max_epochs=1, **parameters).fit(synthetic_pairs(20, d_image=20))
    rates = {line["stage"]: line["learning_rate"] for line in method.history_}
    assert rates == {stage: pytest.approx(rate) for stage in [*COARSE, "fusion"]} | {
        "labels": 1e-3,
        "tasks": 1e-3,
    }


def test_codes_of_the_training_rows_have_mean_zero_if_they_are_to_be_centred():
    data = synthetic_data()
    centred, raw = (small(center=center).fit(data.train, data.validation) for center in (True, False))
    for one, two in zip(centred.encode_pairs(data.train), raw.encode_pairs(data.train), strict=True):
        assert_allclose(one.mean(axis=0), 0.0, atol=1e-6)
        assert ((two > 0) & (two < 1)).all()
        assert_allclose(one, two - two.mean(axis=0), atol=1e-6)


def test_the_correspondence_loss_is_the_weighted_sum_of_a_loop():
    method = small(correlation=0.3)
    pairs = synthetic_pairs(5, d_image=8, d_text=8)
    method.n_features_in_ = [8, 8]
    learner = module.Correspondence(method, 3, Session(0))
    codes, parts = [], []
    for i, rows in enumerate((pairs.images, pairs.texts)):
        codes.append(by_hand(learner.encoders[i].arrays(), rows))
        parts.append(np.mean((by_hand(learner.decoders[i].arrays(), codes[i]) - rows) ** 2))
    code = np.mean((codes[0] - codes[1]) ** 2)
    found = {name: float(loss.detach()) for name, loss in learner.losses(Session(0).batch(pairs)).items()}
    expected = {"image_loss": parts[0], "text_loss": parts[1], "code_loss": code}
    assert found == pytest.approx(expected | {"loss": 0.7 * sum(parts) + 0.3 * code}, rel=1e-5)


def test_stages_that_learn_nothing_of_labels_come_out_alike_whatever_these_are():
    pairs = synthetic_pairs(40, parts=True)
    other = replace(pairs, labels=pairs.labels[::-1].copy())
    one, two = small().fit(pairs), small().fit(other)
    for name in ("coarse", "fine"):
        for key in ("parts", "items"):
            layers = one.image_grains_[name][key], two.image_grains_[name][key]
            for first, second in zip(*layers, strict=True):
                assert_array_equal(first["weights"], second["weights"])


# -- what stages share ------------------------------------------------------------------------------


def test_standardised_training_codes_have_mean_zero_and_standard_deviation_one():
    rng = np.random.default_rng(0)
    rows = (50 + 1e-3 * rng.standard_normal((30, 4)) * [1, 10, 100, 0]).astype(np.float32)
    rows = np.hstack([rows, 50 + 1e-7 * rng.standard_normal((30, 1)).astype(np.float32)])
    layer = stages.standardising(rows)
    found = forward([layer], rows)
    assert_allclose(found.mean(axis=0), 0.0, atol=0.05)
    assert_allclose(found.std(axis=0)[1:3], 1.0, atol=0.05)
    assert_allclose(found[:, 3:], 0.0, atol=1e-4)  # constant, and constant but for rounding
    assert_array_equal(np.diag(layer["weights"])[3:], 1.0)


def test_denoising_hides_a_fifth_of_its_inputs_and_asks_for_all_of_them(monkeypatch):
    pairs = synthetic_pairs(400)
    hidden, wanted = [], []
    masked, mean_square = stages.masked, stages.mean_square

    def spy(rows, *arguments):
        found = masked(rows, *arguments)
        hidden.append(float((found == 0).float().mean()))
        return found

    def spy_loss(target, found):
        wanted.append(float((target == 0).float().mean()))
        return mean_square(target, found)

    monkeypatch.setattr(stages, "masked", spy)
    monkeypatch.setattr(stages, "mean_square", spy_loss)
    learner = stages.Denoising((12, 9), (8, 8), "sigmoid", 1e-2, Session(0))
    losses = [learner.step(Session(0).batch(pairs)) for _ in range(100)]
    assert np.mean(hidden) == pytest.approx(0.2, abs=0.01)
    assert max(wanted) == 0
    for name in ("image_loss", "text_loss"):
        assert losses[-1][name] < 0.7 * losses[0][name]


def test_label_fine_tuning_learns_each_modality_by_itself_and_gives_its_hidden_layers():
    pairs = synthetic_pairs(60)
    batch = Session(0).batch(pairs)
    learner = stages.LabelFineTuning((12, 9), ((7, 6), (5, 4)), 5, "soft", 0.0, 0.0, 1e-2, Session(0))
    image, text = learner.losses(batch)
    assert learner.examine(batch) == pytest.approx({"validation_loss": float((image + text).detach())})
    for loss, other in ((image, learner.networks[1]), (text, learner.networks[0])):
        assert torch.autograd.grad(loss, other.parameters, allow_unused=True) == (None,) * 6
    for _ in range(200):
        found = learner.step(batch)
    assert found["image_label_loss"] < 0.1 * image.detach()
    assert found["text_label_loss"] < 0.1 * text.detach()
    layers = learner.learned()
    assert [layer["activation"] for layer in layers["image_layers_"]] == ["relu", "relu"]
    assert [layer["weights"].shape for layer in layers["text_layers_"]] == [(9, 5), (5, 4)]
    (*_, head) = learner.networks[0].arrays()
    rows = forward([*layers["image_layers_"], head], pairs.images)
    assert (rows.argmax(axis=1) == pairs.labels).all()


def test_the_epoch_of_label_fine_tuning_is_that_of_the_least_validation_loss():
    data = synthetic_data(60, 40, 10, noise=1.0)
    method = Ccl(pretrain_epochs=1, max_epochs=40, learning_rate=1e-2, patience=2)
    method.fit(data.train, data.validation, context=scored(data.validation))
    lines = [line for line in method.history_ if line["stage"] == "labels"]
    losses = [line["validation_loss"] for line in lines]
    best = int(np.argmin(losses))
    assert [line["kept"] for line in lines] == [float(i == best) for i in range(len(lines))]
    assert len(losses) == min(40, best + 3)


# -- refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters",
    [
        {"correlation": 1.0},
        {"correlation": -0.1},
        {"w_inter": -1.0},
        {"margin": 0.0},
        {"label_layers": 0},
        {"hidden": 0},
        {"n_components": 0},
        {"dropout": 1.0},
        {"weight_decay": -1.0},
        {"pretrain_epochs": 0},
        {"pretrain_rate": 0.0},
        {"batch_size": 0},
        {"inter": False, "intra": False},
    ],
)
def test_parameters_out_of_range_are_refused_by_name(parameters):
    with pytest.raises(InvalidParameter, match=rf"Ccl\.{next(iter(parameters))}"):
        small(**parameters).fit(synthetic_pairs())


@pytest.mark.parametrize("epochs", [1, 3])
def test_pretraining_that_diverges_says_so(epochs):
    with pytest.raises(RunError, match=r"Ccl diverged in epoch \d of stage coarse 1"):
        small(pretrain_rate=1e38, pretrain_epochs=epochs).fit(synthetic_pairs())
