"""Restricted Boltzmann machines: probabilities and gradients against enumeration, what training does with them."""

from __future__ import annotations

import itertools
import math
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from networks import over_after, slope
from numpy.testing import assert_allclose, assert_array_equal

from xmbench import FitContext
from xmbench.errors import DeadlineExceeded
from xmbench.nn import forward
from xmbench.registry import Registry
from xmbench.testing import synthetic_data, synthetic_pairs
from xmbench.training import Session

torch = pytest.importorskip("torch")

MultimodalDbn = Registry().method("multimodal_dbn")
module = sys.modules[MultimodalDbn.__module__.replace("multimodal_dbn", "_rbm")]

UNITS = ("binary", "gaussian", "softmax")
D, K = 4, 3
every_unit = pytest.mark.parametrize("units", UNITS)


def machine_of(units: str, seed: int = 0, d: int = D, k: int = K):
    """A machine in float64 with weights and biases of about 1."""
    machine = module.Rbm(d, k, units, torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed)
    for name in ("weights", "visible_bias", "hidden_bias"):
        shape = getattr(machine, name).shape
        setattr(machine, name, torch.randn(shape, generator=generator, dtype=torch.float64))
    return machine


def rows_of(units: str, n: int = 6, d: int = D):
    rng = np.random.default_rng(1)
    if units == "gaussian":
        return torch.from_numpy(rng.standard_normal((n, d)))
    return torch.from_numpy(rng.integers(0, 2 if units == "binary" else 4, (n, d)).astype(np.float64))


def states(size: int) -> list[tuple[float, ...]]:
    return list(itertools.product((0.0, 1.0), repeat=size))


def energy(machine, v, h) -> float:
    """E(v, h), one product at a time."""
    W, b, c = (tensor.numpy() for tensor in machine.parameters)
    total = sum(v[i] * W[i, j] * h[j] for i in range(len(v)) for j in range(len(h)))
    words = sum(v) if machine.units == "softmax" else 1.0
    total += words * sum(c[j] * h[j] for j in range(len(h)))
    if machine.units == "gaussian":
        return -total + sum((v[i] - b[i]) ** 2 for i in range(len(v))) / 2
    return -total - sum(b[i] * v[i] for i in range(len(v)))


# -- probabilities ----------------------------------------------------------------------------------


@every_unit
def test_the_free_energy_is_the_sum_over_all_hidden_states(units):
    machine, rows = machine_of(units), rows_of(units)
    for v, found in zip(rows.numpy(), machine.free_energy(rows), strict=True):
        total = sum(math.exp(-energy(machine, v, h)) for h in states(K))
        assert float(found) == pytest.approx(-math.log(total), rel=1e-12)


@every_unit
def test_hidden_probabilities_are_those_of_the_energies(units):
    machine, rows = machine_of(units), rows_of(units)
    for v, found in zip(rows.numpy(), machine.hidden(rows), strict=True):
        weights = np.array([math.exp(-energy(machine, v, h)) for h in states(K)])
        assert_allclose(found, weights @ np.array(states(K)) / weights.sum(), rtol=1e-12)


def test_the_mean_of_binary_units_is_that_of_the_energies():
    machine = machine_of("binary")
    for h in states(K):
        weights = np.array([math.exp(-energy(machine, v, h)) for v in states(D)])
        found = machine.visible(torch.tensor([h], dtype=torch.float64))[0]
        assert_allclose(found, weights @ np.array(states(D)) / weights.sum(), rtol=1e-12)


def test_the_mean_of_gaussian_units_is_where_the_energy_is_least():
    machine = machine_of("gaussian")
    for h in states(K):
        mean = machine.visible(torch.tensor([h], dtype=torch.float64))[0].numpy()
        least = energy(machine, mean, h)
        for i in range(D):
            for step in (-1e-3, 1e-3):
                moved = mean + step * np.eye(D)[i]
                assert energy(machine, moved, h) - least == pytest.approx(step**2 / 2, rel=1e-6)


def test_words_of_softmax_units_are_drawn_with_the_probabilities_of_the_energies():
    """Of one word: the states are the unit vectors; N words have N times its mean."""
    machine = machine_of("softmax")
    for h in states(K):
        weights = np.array([math.exp(-energy(machine, v, h)) for v in np.eye(D)])
        hidden = torch.tensor([h], dtype=torch.float64)
        assert_allclose(machine.visible(hidden)[0], weights / weights.sum(), rtol=1e-12)
        many = machine.visible(hidden, torch.tensor([[5.0]], dtype=torch.float64))
        assert_allclose(many[0], 5 * weights / weights.sum(), rtol=1e-12)


@every_unit
def test_the_layers_of_a_machine_give_what_the_machine_gives(units):
    machine, rows = machine_of(units), rows_of(units)
    hidden = machine.hidden(rows)
    assert_allclose(forward([machine.layer()], rows.numpy()), hidden, atol=1e-6)
    assert_allclose(forward([machine.down()], hidden.numpy()), machine.visible(hidden), atol=1e-5)


def test_layers_of_some_visible_units_count_the_others_as_0():
    machine, rows = machine_of("binary"), rows_of("binary")
    for block in (slice(None, 1), slice(1, None)):
        some = torch.zeros_like(rows)
        some[:, block] = rows[:, block]
        assert_allclose(forward([machine.layer(block)], rows[:, block]), machine.hidden(some), atol=1e-6)
        found = forward([machine.down(block)], machine.hidden(rows))
        assert_allclose(found, machine.visible(machine.hidden(rows))[:, block], atol=1e-6)


# -- gradients --------------------------------------------------------------------------------------


def log_likelihood(machine, rows):
    """Mean log p(v) up to a constant, with the partition function summed up over all states."""
    if machine.units == "binary":
        everything = torch.tensor(states(D), dtype=torch.float64)
        return -machine.free_energy(rows).mean() - (-machine.free_energy(everything)).logsumexp(dim=0)
    hidden = torch.tensor(states(K), dtype=torch.float64)
    inputs = hidden @ machine.weights.T  # integrated over v: exp(c h + |b + W h|^2 / 2 - |b|^2 / 2)
    exponents = hidden @ machine.hidden_bias + inputs @ machine.visible_bias + (inputs**2).sum(dim=1) / 2
    return -machine.free_energy(rows).mean() - exponents.logsumexp(dim=0)


def of_the_model(machine) -> list:
    """The statistics' means under the machine's own distribution, by enumeration."""
    if machine.units == "binary":
        every = torch.tensor(states(D), dtype=torch.float64)
        shares = (-machine.free_energy(every)).softmax(dim=0)
        parts = [machine.statistics(v[None], machine.hidden(v[None])) for v in every]
    else:
        every = torch.tensor(states(K), dtype=torch.float64)
        inputs = every @ machine.weights.T
        shares = (
            every @ machine.hidden_bias + inputs @ machine.visible_bias + (inputs**2).sum(dim=1) / 2
        ).softmax(dim=0)
        parts = [machine.statistics(machine.visible(h[None]), h[None]) for h in every]
    return [
        sum(share * part[i] for share, part in zip(shares, parts, strict=True))
        for i in range(len(machine.parameters))
    ]


@pytest.mark.parametrize("units", ["binary", "gaussian"])
def test_data_minus_model_statistics_are_the_slope_of_the_likelihood(units):
    """By finite differences of the exact likelihood of a machine of 4 x 3 units."""
    machine, rows = machine_of(units), rows_of(units)
    data, model = machine.statistics(rows, machine.hidden(rows)), of_the_model(machine)
    for i, name in enumerate(("weights", "visible_bias", "hidden_bias")):
        tensor = getattr(machine, name)

        def moved(value, name=name):
            changed = machine_of(units)
            setattr(changed, name, value)
            return log_likelihood(changed, rows)

        assert_allclose(data[i] - model[i], slope(moved, tensor), atol=1e-7)


@every_unit
def test_contrastive_divergence_is_data_minus_reconstruction(units):
    """By loops; the hidden states are those that the generator draws."""
    machine, rows = machine_of(units), rows_of(units)
    found, reconstructed, hidden = machine.gradient(rows, torch.Generator().manual_seed(3))
    uniform = torch.empty_like(hidden).uniform_(generator=torch.Generator().manual_seed(3))
    expected = [np.zeros(tuple(tensor.shape)) for tensor in machine.parameters]
    for row, drawn, model in zip(rows, uniform, reconstructed, strict=True):
        h = machine.hidden(row[None])
        back = machine.visible((drawn < h[0]).double()[None], row.sum()[None, None])[0]
        assert_allclose(model, back, rtol=1e-12)
        for sign, v in ((1, row), (-1, back)):
            p = machine.hidden(v[None])[0]
            words = float(v.sum()) if units == "softmax" else 1.0
            expected[0] += sign * np.outer(v, p) / len(rows)
            expected[1] += sign * v.numpy() / len(rows)
            expected[2] += sign * words * p.numpy() / len(rows)
    for one, other in zip(found, expected, strict=True):
        assert_allclose(one, other, atol=1e-12)


def test_contrastive_divergence_points_where_the_likelihood_grows():
    """Summed over many draws, it and the exact gradient make an acute angle."""
    machine, rows = machine_of("binary"), rows_of("binary")
    noise = torch.Generator().manual_seed(0)
    mean = sum(machine.gradient(rows, noise)[0][0] for _ in range(200)) / 200
    data, model = machine.statistics(rows, machine.hidden(rows)), of_the_model(machine)
    assert float((mean * (data[0] - model[0])).sum()) > 0


def test_hidden_states_are_drawn_with_their_probabilities():
    """Binary units with W = b = 0 but one large weight: the reconstruction shows the states."""
    machine = machine_of("binary", d=1, k=1)
    machine.weights, machine.visible_bias = (
        torch.full((1, 1), 60.0).double(),
        torch.full((1,), -30.0).double(),
    )
    machine.hidden_bias = torch.full((1,), math.log(0.3 / 0.7)).double()
    _, found, _ = machine.gradient(torch.zeros(4000, 1).double(), torch.Generator().manual_seed(0))
    assert float(found.mean()) == pytest.approx(0.3, abs=0.03)


# -- training ---------------------------------------------------------------------------------------


def trained(pairs, units=("gaussian", "gaussian"), epochs: int = 30, k: int = 16, seed: int = 0, **settings):
    """Two machines, trained on all pairs in batches of 20."""
    session = Session(seed)
    d = pairs.images.shape[1], pairs.texts.shape[1]
    machines = [module.Rbm(width, k, kind, session.start) for width, kind in zip(d, units, strict=True)]
    learner = module.RbmLearner(machines, session, **settings)
    history = []
    for epoch in range(1, epochs + 1):
        learner.begin_epoch(epoch, epochs)
        order = session.shuffle.permutation(len(pairs))
        lines = [learner.step(session.batch(pairs.take(order[i : i + 20]))) for i in range(0, len(pairs), 20)]
        history.append({name: float(np.mean([line[name] for line in lines])) for name in lines[0]})
    return machines, history, learner


def binary(pairs):
    return replace(
        pairs,
        images=(pairs.images > 0).astype(np.float32),
        texts=(pairs.texts > 0).astype(np.float32),
    )


def counts(pairs):
    return replace(pairs, texts=np.floor(np.exp(pairs.texts)).astype(np.float32))


@pytest.mark.parametrize(
    ("units", "changed"),
    [
        (("gaussian", "gaussian"), lambda pairs: pairs),
        (("binary", "binary"), binary),
        (("gaussian", "softmax"), counts),
    ],
    ids=["gaussian", "binary", "softmax"],
)
def test_the_reconstruction_error_falls_in_training(units, changed):
    pairs = changed(synthetic_pairs())
    rate = 0.01 if "softmax" in units else 0.1
    _, history, learner = trained(pairs, units, learning_rate=rate)
    for name in ("image_loss", "text_loss"):
        assert history[-1][name] < 0.9 * history[0][name]
    found = learner.examine(Session(0).batch(pairs))
    assert sorted(found) == ["validation_image_loss", "validation_text_loss"]


def test_held_out_pairs_have_about_the_free_energy_of_training_pairs():
    """The gap is small beside what separates both from rows that have nothing to do with them."""
    data = synthetic_data()
    machines, _, _ = trained(data.train)
    rng = np.random.default_rng(0)
    for machine, name in zip(machines, ("images", "texts"), strict=True):
        train, held = (torch.from_numpy(getattr(part, name)) for part in (data.train, data.validation))
        noise = torch.from_numpy(rng.permuted(getattr(data.train, name), axis=0))
        means = [float(machine.free_energy(rows).mean()) for rows in (train, held, noise)]
        assert means[0] < means[2]
        assert abs(means[1] - means[0]) < 0.5 * (means[2] - means[0])


def test_machines_of_one_seed_are_the_same():
    pairs = synthetic_pairs()
    found = [trained(pairs, epochs=3, seed=seed)[0] for seed in (0, 0, 1)]
    for one, same, other in zip(*found, strict=True):
        for first, second, third in zip(one.parameters, same.parameters, other.parameters, strict=True):
            assert_array_equal(first, second)
            assert (first != third).any()


def test_one_machine_of_both_is_one_of_their_columns_side_by_side():
    pairs = binary(synthetic_pairs(20))
    both = replace(pairs, images=np.hstack([pairs.images, pairs.texts]))
    found = []
    for given, d in ((pairs, 21), (both, None)):
        session = Session(0)
        machines = [module.Rbm(21, 5, "binary", session.start)]
        if d is None:
            machines.append(module.Rbm(9, 5, "binary", session.start))
        learner = module.RbmLearner(machines, session)
        line = learner.step(session.batch(given))
        found.append((machines[0], line))
    (one, first), (two, second) = found
    for tensor, other in zip(one.parameters, two.parameters, strict=True):
        assert_array_equal(tensor, other)
    total = 12 * float(first["image_loss"]) + 9 * float(first["text_loss"])
    assert total / 21 == pytest.approx(float(second["image_loss"]), rel=1e-5)


def test_steps_have_momentum_weight_decay_and_the_rate_of_the_units():
    pairs = synthetic_pairs(20)
    session = Session(0)
    machines = [module.Rbm(12, 5, "gaussian", session.start), module.Rbm(9, 5, "gaussian", session.start)]
    learner = module.RbmLearner(machines, session, learning_rate=0.5, weight_decay=0.1)
    batch, noise = session.batch(pairs), Session(0).noise
    rows, velocity = (batch.images, batch.texts), [0.0, 0.0]
    for epoch in (1, 2):
        learner.begin_epoch(epoch, 4)
        assert learner.momentum == pytest.approx({1: 0.5, 2: 0.7}[epoch])
        expected = []
        for i, machine in enumerate(machines):
            gradient, _, _ = machine.gradient(rows[i], noise)
            step = learner.momentum * velocity[i] + 0.05 * (gradient[0] - 0.1 * machine.weights)
            velocity[i] = step
            expected.append(machine.weights + step)
        learner.step(batch)
        for machine, wanted in zip(machines, expected, strict=True):
            assert_allclose(machine.weights, wanted, atol=1e-6)
    learner.begin_epoch(4, 4)
    assert learner.momentum == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("units", "d", "rate"),
    [("binary", 500, 1.0), ("softmax", 500, 1.0), ("gaussian", 10, 0.1), ("gaussian", 1280, 0.01)],
)
def test_wide_gaussian_units_learn_slowly(units, d, rate):
    assert module.Rbm(d, 1, units, torch.Generator()).rate == pytest.approx(rate)


def test_a_sparsity_target_makes_hidden_units_rarer():
    pairs = synthetic_pairs()
    batch = Session(0).batch(pairs)
    means = []
    for target in (None, 0.1):
        machines, _, _ = trained(pairs, sparsity=target, sparsity_weight=1.0)
        means.append(float(machines[0].hidden(batch.images).mean()))
    assert abs(means[1] - 0.1) < 0.5 * abs(means[0] - 0.1)


# -- stacks -----------------------------------------------------------------------------------------


def stacked(pairs, context=None):
    method = MultimodalDbn(batch_size=20, pretrain_epochs=2)
    stacks = module.pretrained(
        method, pairs, context or FitContext(), Session(0), ((7, 5), (4, 3)), learning_rate=0.1
    )
    return method, stacks


def test_levels_of_a_stack_are_stages_and_each_reads_the_one_below():
    pairs = synthetic_pairs(40)
    method, stacks = stacked(pairs)
    stages = [(line["stage"], line["epoch"]) for line in method.history_]
    assert stages == [("rbm 1", 1), ("rbm 1", 2), ("rbm 2", 1), ("rbm 2", 2)]
    shapes = [[layer["weights"].shape for layer in layers] for layers in stacks]
    assert shapes == [[(12, 7), (7, 4)], [(9, 5), (5, 3)]]
    found = method._transformed(pairs, stacks)
    assert found.images.shape == (40, 4)
    assert found.texts.shape == (40, 3)
    assert ((found.images > 0) & (found.images < 1)).all()


@pytest.mark.parametrize("level", ["rbm 1", "rbm 2"])
def test_the_deadline_ends_every_level(level):
    with pytest.raises(DeadlineExceeded):
        stacked(synthetic_pairs(40), over_after(level))
    with pytest.raises(DeadlineExceeded):
        stacked(synthetic_pairs(40), FitContext(deadline=time.monotonic()))
