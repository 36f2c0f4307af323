"""Small networks: layers against numpy, the optimiser against torch's own, and losses against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from xmbench import nn
from xmbench.errors import InvalidParameter

WIDTHS = (7, 5, 3)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dense(activation: nn.Activation = "tanh", *, seed: int = 0, **rest) -> nn.Dense:
    return nn.Dense(WIDTHS, (activation, activation), generator(seed), **rest)


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    rows = scale * np.random.default_rng(seed).standard_normal(shape)
    return torch.from_numpy(rows).requires_grad_()


def number(tensor: torch.Tensor) -> float:
    return float(tensor.detach())


def one_hot(n: int, c: int, *, multi_label: bool, seed: int = 0) -> torch.Tensor:
    """Each row has a class, of several classes some have two or more."""
    rng = np.random.default_rng(seed)
    targets = np.eye(c)[rng.integers(0, c, n)]
    if multi_label:
        targets = np.maximum(targets, rng.random((n, c)) < 0.3)
    return torch.from_numpy(targets)


def assert_slope(function, *inputs: torch.Tensor, step: float = 1e-6, atol: float = 1e-7) -> None:
    """The gradients that torch gives are the differences of the function, number by number."""
    gradients = torch.autograd.grad(function(*inputs), inputs)
    for rows, gradient in zip(inputs, gradients, strict=True):
        for index in np.ndindex(*rows.shape):
            ends = []
            for sign in (1, -1):
                moved = rows.detach().clone()
                moved[index] += sign * step
                ends.append(number(function(*(moved if one is rows else one for one in inputs))))
            assert float(gradient[index]) == pytest.approx(
                (ends[0] - ends[1]) / (2 * step), abs=atol, rel=1e-5
            )


# -- layers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("activation", nn.ACTIVATIONS)
def test_arrays_encode_as_the_tensors_do(activation, scale):
    network, rows = dense(activation), normal(20, 7, scale=scale).float()
    expected = network(rows, training=False).detach().numpy()
    found = nn.forward(network.arrays(), rows.detach().numpy())
    assert found.dtype == np.float32
    assert_allclose(found, expected, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("activation", nn.ACTIVATIONS)
def test_the_forward_pass_is_that_of_a_loop(activation):
    formulas = {
        "linear": lambda x: x,
        "relu": lambda x: x * (x > 0),
        "leaky_relu": lambda x: np.where(x < 0, 0.2 * x, x),
        "tanh": lambda x: 1 - 2 / (np.exp(2 * x) + 1),
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "softmax": lambda x: np.exp(x) / np.exp(x).sum(),
    }
    layers, rows = dense(activation).arrays(), np.random.default_rng(1).standard_normal((6, 7))
    for row, found in zip(rows, nn.forward(layers, rows), strict=True):
        for layer in layers:
            total = layer["bias"].astype(float)
            for value, weights in zip(row, layer["weights"], strict=True):
                total = total + value * weights
            row = formulas[activation](total)
        assert_allclose(found, row, atol=1e-5)


def test_encoding_leaves_the_rows_and_the_layers_as_they_were():
    network, rows = dense("relu"), np.random.default_rng(0).standard_normal((4, 7)).astype(np.float32)
    kept, before = rows.copy(), [layer["weights"].copy() for layer in network.arrays()]
    nn.forward(network.arrays(), rows)
    assert_array_equal(rows, kept)
    for layer, weights in zip(network.arrays(), before, strict=True):
        assert_array_equal(layer["weights"], weights)
    assert_array_equal(nn.forward([], rows), rows)


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "softmax", "tanh"])
def test_huge_rows_encode_to_finite_numbers_without_a_warning(activation):
    rows = np.float32(1e30) * np.random.default_rng(0).standard_normal((4, 7)).astype(np.float32)
    assert np.isfinite(nn.forward(dense(activation).arrays()[:1], rows)).all()


def test_layers_start_uniform_within_one_over_the_root_of_their_inputs():
    network = nn.Dense((400, 100, 9), ("relu", "linear"), generator())
    for (weights, bias), d in zip(network.layers, (400, 100), strict=True):
        bound = d**-0.5
        assert weights.shape[0] == d and bias.shape == weights.shape[1:]
        for tensor in (weights, bias):
            assert tensor.requires_grad and tensor.dtype == torch.float32
            assert tensor.abs().max() <= bound
        assert weights.abs().max() > 0.98 * bound
        assert abs(number(weights.mean())) < 0.1 * bound
        assert number(weights.std()) == pytest.approx(bound / 3**0.5, rel=0.1)


def test_equal_seeds_start_equally_and_others_do_not():
    one, same, other = (nn.Dense(WIDTHS, ("tanh", "tanh"), generator(seed)) for seed in (3, 3, 4))
    for first, second, third in zip(one.parameters, same.parameters, other.parameters, strict=True):
        assert torch.equal(first, second) and not torch.equal(first, third)


def test_nothing_is_drawn_from_global_generators():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    network = dense(dropout=0.5, noise=generator(1))
    loss = nn.label_loss(network(normal(4, 7).float()), torch.eye(3)[[0, 1, 2, 0]])
    nn.Adam(network.parameters, 0.1).step(loss)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def test_arrays_share_the_memory_of_the_tensors():
    network = dense()
    arrays = network.arrays()
    assert [layer["activation"] for layer in arrays] == ["tanh", "tanh"]
    with torch.no_grad():
        for tensor in network.parameters:
            tensor += 1
    for layer, (weights, bias) in zip(arrays, network.layers, strict=True):
        assert_array_equal(layer["weights"], weights.detach().numpy())
        assert_array_equal(layer["bias"], bias.detach().numpy())


def test_parameters_and_weights_are_listed_layer_by_layer():
    network = dense()
    assert [tuple(one.shape) for one in network.parameters] == [(7, 5), (5,), (5, 3), (3,)]
    assert [id(one) for one in network.weights] == [id(network.parameters[i]) for i in (0, 2)]


def test_as_many_activations_as_layers_are_needed():
    network = nn.Dense(WIDTHS, ("tanh",), generator())
    with pytest.raises(ValueError, match="zip"):
        network(normal(2, 7).float())


# -- dropout ----------------------------------------------------------------------------------------


def test_dropout_acts_in_training_alone():
    plain, dropping = dense(), dense(dropout=0.5, noise=generator(1))
    rows = normal(50, 7).float()
    assert torch.equal(dropping(rows, training=False), plain(rows))
    assert not torch.allclose(dropping(rows), plain(rows), atol=1e-3)


def test_dropout_has_streams_and_equal_ones_drop_equally():
    rows = normal(50, 7).float()
    one, same, other = (dense(dropout=0.5, noise=generator(seed)) for seed in (1, 1, 2))
    first = one(rows)
    assert torch.equal(first, same(rows))
    assert not torch.equal(first, other(rows))
    assert not torch.equal(first, one(rows))  # the stream goes on


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_dropout_drops_its_share_and_keeps_the_mean(share):
    network = nn.Dense((3, 3), ("linear",), generator(), dropout=share, noise=generator(5))
    with torch.no_grad():
        network.layers[0][0].copy_(torch.eye(3))
        network.layers[0][1].zero_()
    found = network(torch.full((20000, 3), 2.0)).detach()
    assert float(found.mean()) == pytest.approx(2.0, rel=0.05)
    assert float((found == 0).float().mean()) == pytest.approx(share, abs=0.02)
    assert set(np.round(np.unique(found.numpy()), 4)) == {0.0, round(float(np.float32(2 / (1 - share))), 4)}


def test_a_mask_is_of_zeros_and_ones_and_lets_gradients_through_where_it_is_one():
    rows = normal(40, 7)
    found = nn.masked(rows, 0.3, generator())
    kept = found != 0
    assert torch.equal(found[kept], rows[kept])
    found.sum().backward()
    assert torch.equal(rows.grad, kept.double())


# -- Adam -------------------------------------------------------------------------------------------


def quadratics(tensors: list[torch.Tensor], seed: int) -> torch.Tensor:
    """A loss that uses all but the last tensor, another one each step."""
    rng = np.random.default_rng(seed)
    total = torch.zeros(())
    for tensor in tensors[:-1]:
        aim = torch.from_numpy(rng.standard_normal(tensor.shape).astype(np.float32))
        total = total + ((tensor - aim) ** 2).sum() * float(rng.lognormal(0, 2))
    return total


def both_run(*, beta1: float, decay: float, scheduled: bool) -> tuple[list, list]:
    """Our parameters and torch's after 60 steps; the last tensor is out of the loss, one only at times."""
    shapes = [(4, 3), (3,), (1, 1), (5,)]
    starts = [
        np.random.default_rng(i).standard_normal(shape).astype(np.float32) for i, shape in enumerate(shapes)
    ]
    ours, theirs = ([torch.tensor(start, requires_grad=True) for start in starts] for _ in range(2))
    adam = nn.Adam(ours, 0.05, beta1=beta1, weight_decay=decay)
    groups = [{"params": [tensor], "weight_decay": decay} for tensor in theirs]
    reference = torch.optim.Adam(groups, lr=0.05, betas=(beta1, 0.999), eps=1e-8, foreach=False, fused=False)
    for number in range(60):
        if scheduled:
            adam.learning_rate = 0.05 / (1 + number % 7)
            adam.weight_decays[:] = [0.0, 0.1 * (number % 3), 0.3, 0.3]
            for group, weight_decay in zip(reference.param_groups, adam.weight_decays, strict=True):
                group |= {"lr": adam.learning_rate, "weight_decay": weight_decay}
        used = (
            slice(0, None) if number % 4 else slice(1, None)
        )  # every fourth step, the first has no gradient
        adam.step(quadratics(ours[used], number))
        reference.zero_grad()
        quadratics(theirs[used], number).backward()
        reference.step()
    assert adam.steps == 60
    assert torch.equal(ours[-1], torch.tensor(starts[-1]))
    return ours, theirs


@pytest.mark.parametrize("lacking", [False, True], ids=["fused", "without the fused function"])
@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize(("beta1", "decay"), [(0.9, 0.0), (0.5, 0.0), (0.9, 0.1), (0.0, 1.0)])
def test_adam_takes_the_steps_of_torch(beta1, decay, scheduled, lacking, monkeypatch):
    if lacking:
        monkeypatch.delattr(torch, "_fused_adam_")
    for one, other in zip(*both_run(beta1=beta1, decay=decay, scheduled=scheduled), strict=True):
        assert_allclose(one.detach(), other.detach(), rtol=1e-5, atol=2e-6)


def test_adam_is_the_algorithm_of_the_paper():
    """Kingma and Ba, algorithm 1, in plain numbers."""
    tensor = torch.tensor([0.5, -2.0], requires_grad=True)
    adam = nn.Adam([tensor], 0.1, beta1=0.8, weight_decay=0.05)
    x, m, v = np.array([0.5, -2.0]), np.zeros(2), np.zeros(2)
    for t in range(1, 31):
        adam.step((tensor**4).sum())
        g = 4 * x**3 + 0.05 * x
        m, v = 0.8 * m + 0.2 * g, 0.999 * v + 0.001 * g**2
        x = x - 0.1 * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    assert_allclose(tensor.detach(), x, rtol=1e-5, atol=1e-6)


def test_a_step_takes_the_gradients_of_its_own_loss_alone():
    tensor, other = (torch.tensor([1.0], requires_grad=True) for _ in range(2))
    (100 * tensor).sum().backward()
    adam, reference = nn.Adam([tensor], 0.1), nn.Adam([other], 0.1)
    for _ in range(3):
        adam.step((tensor**2).sum())
        reference.step((other**2).sum())
    assert torch.equal(tensor, other)


# -- losses -----------------------------------------------------------------------------------------


def slow_label_loss(logits: np.ndarray, targets: np.ndarray, kind: str) -> float:
    total = 0.0
    for row, target in zip(logits, targets, strict=True):
        powers = [np.exp(value) for value in row]
        for value, power, y in zip(row, powers, target, strict=True):
            share, probability = y / sum(target), power / sum(powers)
            if kind == "soft":
                total -= share * np.log(probability)
            elif kind == "squared":
                total += (probability - share) ** 2
            else:
                sigmoid = 1 / (1 + np.exp(-value))
                total -= y * np.log(sigmoid) + (1 - y) * np.log(1 - sigmoid)
    return total / len(logits)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("kind", ["soft", "squared", "bce"])
def test_label_losses_are_those_of_a_loop_and_slope_as_their_differences(kind, multi_label):
    logits, targets = normal(5, 4, scale=2.0), one_hot(5, 4, multi_label=multi_label)
    expected = slow_label_loss(logits.detach().numpy(), targets.numpy(), kind)
    assert number(nn.label_loss(logits, targets, kind)) == pytest.approx(expected, rel=1e-12)
    assert_slope(lambda rows: nn.label_loss(rows, targets, kind), logits)


def test_for_one_class_an_item_the_soft_loss_is_the_cross_entropy_of_torch():
    logits, targets = normal(9, 4), one_hot(9, 4, multi_label=False)
    expected = torch.nn.functional.cross_entropy(logits, targets.argmax(dim=1))
    assert number(nn.label_loss(logits, targets)) == pytest.approx(number(expected), rel=1e-12)


@pytest.mark.parametrize("size", [1e2, 1e4, 1e30])
@pytest.mark.parametrize("kind", ["soft", "squared", "bce"])
def test_huge_logits_have_finite_losses_and_gradients(kind, size):
    logits = torch.tensor(
        [[size, -size, 0.0], [-size, size, size], [-size, -size, -size]], requires_grad=True
    )
    loss = nn.label_loss(logits, torch.tensor([[0.0, 1, 0], [1, 1, 0], [0, 0, 1]]), kind)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()


def test_logits_of_zero_have_the_losses_of_a_guess():
    logits, targets = torch.zeros(6, 4), one_hot(6, 4, multi_label=False).float()
    assert number(nn.label_loss(logits, targets, "soft")) == pytest.approx(np.log(4))
    assert number(nn.label_loss(logits, targets, "squared")) == pytest.approx(0.75**2 + 3 * 0.25**2)
    assert number(nn.label_loss(logits, targets, "bce")) == pytest.approx(4 * np.log(2))


def test_distances_are_those_of_a_loop_and_slope_as_their_differences():
    first, second = normal(5, 3), normal(4, 3, seed=1)
    expected = [[sum((a - b) ** 2) ** 0.5 for b in second.detach().numpy()] for a in first.detach().numpy()]
    assert_allclose(nn.distances(first, second).detach(), expected, rtol=1e-9)
    weights = normal(5, 4, seed=2).detach()
    assert_slope(lambda a, b: (weights * nn.distances(a, b)).sum(), first, second)


def test_real_rows_encode_alike_and_their_distances_are_right_in_single_precision(wikipedia_pairs):
    images = torch.from_numpy(wikipedia_pairs.images.copy())
    network = nn.Dense((images.shape[1], 60, 20), ("relu", "tanh"), generator())
    encoded = network(images, training=False).detach()
    assert_allclose(nn.forward(network.arrays(), wikipedia_pairs.images), encoded, atol=1e-5)
    for rows in (images, encoded):
        exact = torch.cdist(rows.double(), rows.double(), compute_mode="donot_use_mm_for_euclid_dist")
        apart = ~torch.eye(len(rows), dtype=torch.bool)
        assert_allclose(nn.distances(rows, rows)[apart], exact[apart], rtol=1e-3, atol=2e-3)


def test_the_distance_of_equal_rows_has_a_finite_slope():
    rows = normal(4, 3).float().detach().requires_grad_()
    found = nn.distances(rows, rows.detach())
    assert number(found.diagonal().max()) < 2e-3
    found.sum().backward()
    assert torch.isfinite(rows.grad).all()
    zeros = torch.zeros(3, 2, requires_grad=True)
    nn.distances(zeros, zeros).sum().backward()
    assert_array_equal(zeros.grad, 0)


def test_normalised_rows_have_length_one_and_a_row_of_zeros_stays():
    rows = normal(6, 4, scale=100.0)
    found = nn.normalised(rows)
    assert_allclose((found**2).sum(dim=1).detach(), 1.0, rtol=1e-12)
    for row, one in zip(rows.detach().numpy(), found.detach().numpy(), strict=True):
        assert_allclose(one, row / np.linalg.norm(row), rtol=1e-12)
    weights = normal(6, 4, seed=1).detach()
    assert_slope(lambda rows: (weights * nn.normalised(rows)).sum(), normal(6, 4))
    zeros = torch.zeros(2, 4, requires_grad=True)
    nn.normalised(zeros).sum().backward()
    assert_array_equal(nn.normalised(zeros).detach(), 0)
    assert torch.isfinite(zeros.grad).all()


@pytest.mark.parametrize("multi_label", [False, True])
def test_items_match_where_they_share_a_class(multi_label):
    first, second = one_hot(9, 5, multi_label=multi_label), one_hot(7, 5, multi_label=multi_label, seed=1)
    found = nn.matching(first, second)
    assert found.dtype == first.dtype
    for i, a in enumerate(first.tolist()):
        for j, b in enumerate(second.tolist()):
            assert found[i, j] == any(x == 1 and y == 1 for x, y in zip(a, b, strict=True))


# -- gradients turned round and held back -----------------------------------------------------------


@pytest.mark.parametrize("strength", [0.0, 0.25, 1.0, 3.7])
def test_reversed_gradients_are_exactly_minus_the_strength_times_the_plain_ones(strength):
    rows, weights = normal(6, 4), normal(6, 4, seed=1).detach()
    turned = nn.reverse_gradient(rows, strength)
    assert torch.equal(turned, rows)

    def loss(rows):
        return (weights * rows.tanh()).sum()

    plain = torch.autograd.grad(loss(rows), rows)[0]
    assert torch.equal(torch.autograd.grad(loss(turned), rows)[0], -strength * plain)


def test_frozen_parameters_get_no_gradient_and_let_it_through():
    network, rows = dense(), normal(4, 7).float().detach().requires_grad_()
    with nn.frozen(network.parameters):
        assert not any(tensor.requires_grad for tensor in network.parameters)
        network(rows).sum().backward()
    assert all(tensor.grad is None and tensor.requires_grad for tensor in network.parameters)
    assert rows.grad.abs().max() > 0


def test_frozen_parameters_thaw_after_an_error_and_from_any_iterable():
    network = dense()
    with pytest.raises(RuntimeError, match="inside"), nn.frozen(iter(network.parameters)):
        raise RuntimeError("inside")
    assert all(tensor.requires_grad for tensor in network.parameters)


@pytest.mark.parametrize(
    ("kind", "activation"), [("soft", "softmax"), ("squared", "softmax"), ("bce", "sigmoid")]
)
def test_probabilities_are_those_that_the_loss_is_of(kind, activation):
    network = nn.Dense(WIDTHS, ("relu", "linear"), generator())
    layers = network.arrays()
    found = nn.probabilities(layers, kind)
    assert [layer["activation"] for layer in found] == ["relu", activation]
    assert [layer["activation"] for layer in layers] == ["relu", "linear"]
    rows = normal(5, 7).float().detach().numpy()
    assert np.shares_memory(found[1]["weights"], layers[1]["weights"])
    logits, shares = nn.forward(layers, rows), nn.forward(found, rows)
    expected = 1 / (1 + np.exp(-logits)) if kind == "bce" else np.exp(logits) / np.exp(logits).sum(1)[:, None]
    assert_allclose(shares, expected, rtol=1e-5)


# -- parameters -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (nn.check_positive, (1e-9, 1, float("inf")), (0, -1, float("nan"))),
        (nn.check_share, (0, 0.5, 0.999), (1, -0.1, float("nan"))),
        (nn.check_not_negative, (0, 1e9), (-1e-9, float("nan"))),
    ],
)
def test_values_out_of_range_are_refused_with_class_parameter_and_value(check, good, bad):
    for value in good:
        check("Toy", speed=value, other=0.5)
    for value in bad:
        with pytest.raises(InvalidParameter, match=rf"Toy\.speed: expected .*, got {value}"):
            check("Toy", other=0.5, speed=value)
