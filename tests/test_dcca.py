"""DCCA: its loss and gradient in closed form, the final linear CCA, and what it may not look at."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from networks import scored, slope
from numpy.testing import assert_allclose, assert_array_equal
from scipy.linalg import eigh, sqrtm

from xmbench import FitContext, Pairs
from xmbench.errors import InvalidParameter, RunError, Unsupported
from xmbench.registry import Registry
from xmbench.testing import synthetic_data, synthetic_pairs

torch = pytest.importorskip("torch")

Dcca = Registry().method("dcca")
module = sys.modules[Dcca.__module__]


def outputs(n: int = 60, o: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated outputs away from the origin, columns of unequal scale."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((n, o))
    H1 = shared @ rng.standard_normal((o, o)) + 0.5 * rng.standard_normal((n, o)) + 2.0
    H2 = shared @ rng.standard_normal((o, o)) + 0.5 * rng.standard_normal((n, o)) - 1.0
    return H1 * rng.uniform(0.5, 3.0, o), H2


def corr(H1, H2, ridge: float) -> float:
    return float(module.correlation(torch.from_numpy(H1), torch.from_numpy(H2), ridge))


def covariances(H1, H2, ridge: float):
    n, o = H1.shape
    H1, H2 = H1 - H1.mean(axis=0), H2 - H2.mean(axis=0)
    r = ridge * np.eye(o)
    return H1.T @ H1 / (n - 1) + r, H1.T @ H2 / (n - 1), H2.T @ H2 / (n - 1) + r


def eigenproblem(H1, H2, ridge: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Canonical correlations and directions from the two-view generalised eigenproblem, another way."""
    S11, S12, S22 = covariances(H1, H2, ridge)
    o, zero = len(S11), np.zeros_like(S11)
    values, vectors = eigh(np.block([[zero, S12], [S12.T, zero]]), np.block([[S11, zero], [zero, S22]]))
    top = vectors[:, ::-1][:, :o] * np.sqrt(2)
    return values[::-1][:o], top[:o], top[o:]


def gradients(H1, H2, ridge: float) -> list[np.ndarray]:
    tensors = [torch.from_numpy(H).requires_grad_() for H in (H1, H2)]
    module.correlation(*tensors, ridge).backward()
    return [tensor.grad.numpy() for tensor in tensors]


def hadamard() -> np.ndarray:
    """(16, 15) orthogonal columns of 1 and -1 that sum to exactly 0."""
    H = np.ones((1, 1))
    for _ in range(4):
        H = np.block([[H, H], [H, -H]])
    return H[:, 1:]


def pairs_of(images, texts, n_classes: int = 3) -> Pairs:
    names = tuple(map(str, range(len(images))))
    return Pairs(images, texts, np.arange(len(images)) % n_classes, names, n_classes)


def noise_pairs(n: int, seed: int) -> Pairs:
    rng = np.random.default_rng(seed)
    return pairs_of(rng.standard_normal((n, 12)), rng.standard_normal((n, 9)))


# -- the loss ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ridge", [1e-4, 0.1, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_the_sum_of_the_canonical_correlations_of_the_eigenproblem(ridge, seed):
    H1, H2 = outputs(seed=seed)
    assert corr(H1, H2, ridge) == pytest.approx(eigenproblem(H1, H2, ridge)[0].sum(), abs=1e-10)


@pytest.mark.parametrize("ridge", [1e-3, 0.5])
def test_the_gradient_is_that_of_the_closed_form(ridge):
    """Section 3 of the paper, with symmetric square roots where the code has Cholesky factors."""
    H1, H2 = outputs()
    for (first, second), found in zip(((H1, H2), (H2, H1)), gradients(H1, H2, ridge), strict=True):
        S11, S12, S22 = covariances(first, second, ridge)
        R1, R2 = np.linalg.inv(sqrtm(S11).real), np.linalg.inv(sqrtm(S22).real)
        U, D, Vt = np.linalg.svd(R1 @ S12 @ R2)
        G12, G11 = R1 @ U @ Vt @ R2, -0.5 * R1 @ U @ np.diag(D) @ U.T @ R1
        first, second = first - first.mean(axis=0), second - second.mean(axis=0)
        assert_allclose(found, (2 * first @ G11 + second @ G12.T) / (len(first) - 1), atol=1e-8)


def test_the_gradient_is_that_of_finite_differences():
    H1, H2 = outputs(n=12, o=3)
    other = torch.from_numpy(H2)
    expected = slope(lambda H: module.correlation(H, other, 0.1), torch.from_numpy(H1))
    assert_allclose(gradients(H1, H2, 0.1)[0], expected, atol=1e-7)


ORTHOGONAL = hadamard()
DEGENERATE = {
    "equal views with all singular values the same": (ORTHOGONAL[:, :4], ORTHOGONAL[:, :4]),
    "equal views": (outputs()[0], outputs()[0]),
    "independent views": (ORTHOGONAL[:, :4], ORTHOGONAL[:, 4:8]),
    "dead units": (outputs()[0] * [1, 0, 1, 0], outputs()[1] * [0, 0, 1, 1]),
    "nothing but dead units": (np.zeros((10, 3)), np.ones((10, 3))),
    "two units that are one": (outputs()[0][:, [0, 0, 1]], outputs()[1][:, :3]),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("views", DEGENERATE.values(), ids=DEGENERATE)
def test_the_gradient_is_finite_where_eigenvalues_repeat_or_vanish(views, dtype):
    H1, H2 = (view.astype(dtype) for view in views)
    assert 0 <= corr(H1, H2, 1e-3) <= H1.shape[1]
    for found in gradients(H1, H2, 1e-3):
        assert found.dtype == dtype
        assert np.isfinite(found).all()


def test_outputs_in_float32_lose_nothing_more_in_the_loss():
    """It is computed in float64, whatever the networks are in."""
    H1, H2 = (H.astype(np.float32) for H in outputs())
    assert corr(H1, H2, 1e-4) == corr(H1.astype(np.float64), H2.astype(np.float64), 1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_the_sum_lies_between_none_and_all_of_the_components_and_ignores_which_view_is_first(seed):
    rng = np.random.default_rng(seed)
    o = int(rng.integers(1, 8))
    H1, H2 = (scale * rng.standard_normal((o + 2, o)) for scale in (100.0, 0.01))
    for ridge in (1e-6, 1.0):
        assert 0 <= corr(H1, H2, ridge) <= o
        assert corr(H1, H2, ridge) == pytest.approx(corr(H2, H1, ridge), abs=1e-10)


def test_invertible_maps_and_shifts_make_no_difference_where_the_ridge_is_tiny():
    H1, H2 = outputs()
    A = np.random.default_rng(1).standard_normal((4, 4)) + 3 * np.eye(4)
    assert corr(H1 @ A + 7.0, H2, 1e-12) == pytest.approx(corr(H1, H2, 1e-12), abs=1e-8)


def test_equal_views_correlate_fully_as_the_ridge_falls():
    H1, _ = outputs()
    found = [corr(H1, H1, ridge) for ridge in (1.0, 1e-2, 1e-4, 1e-10)]
    assert found == sorted(found)
    assert found[-1] == pytest.approx(4.0, abs=1e-8)


def test_noise_correlates_in_batches_of_hardly_more_rows_than_components():
    """Why batches have at least ten rows a component."""
    rng = np.random.default_rng(0)
    small, large = ([rng.standard_normal((n, 8)) for _ in range(2)] for n in (10, 2000))
    assert corr(*small, 1e-4) > 6
    assert corr(*large, 1e-4) < 1


# -- linear CCA of the outputs ----------------------------------------------------------------------


@pytest.mark.parametrize("ridge", [1e-4, 0.5])
def test_canonical_directions_whiten_and_correlate_on_the_diagonal_alone(ridge):
    H1, H2 = outputs()
    found = module.canonical(H1, H2, ridge)
    A1, A2, correlations = (
        found[f"{name}_"] for name in ("image_directions", "text_directions", "correlations")
    )
    S11, S12, S22 = covariances(H1, H2, ridge)
    assert_allclose(A1.T @ S11 @ A1, np.eye(4), atol=1e-10)
    assert_allclose(A2.T @ S22 @ A2, np.eye(4), atol=1e-10)
    assert_allclose(A1.T @ S12 @ A2, np.diag(correlations), atol=1e-10)
    assert correlations.sum() == pytest.approx(corr(H1, H2, ridge), abs=1e-10)
    assert_allclose(found["image_mean_"], H1.mean(axis=0))


def test_networks_that_are_not_trained_encode_as_linear_cca_of_their_outputs():
    """A step of 1e-30 leaves float32 weights as they are."""
    pairs = synthetic_pairs(noise=1.0)
    method = Dcca(n_components=4, n_hidden_layers=0, ridge=0.2, learning_rate=1e-30, max_epochs=1).fit(pairs)
    other = Dcca(n_components=4, n_hidden_layers=0, ridge=0.2, learning_rate=1e-30, max_epochs=3).fit(pairs)
    assert_array_equal(method.image_layers_[0]["weights"], other.image_layers_[0]["weights"])
    (image,), (text,) = method.image_layers_, method.text_layers_
    assert image["activation"] == text["activation"] == "linear"
    H1 = pairs.images.astype(np.float64) @ image["weights"] + image["bias"]
    H2 = pairs.texts.astype(np.float64) @ text["weights"] + text["bias"]
    correlations, A1, A2 = eigenproblem(H1, H2, 0.2)
    assert_allclose(method.correlations_, correlations, atol=1e-6)
    U, V = method.encode_image(pairs.images), method.encode_text(pairs.texts)
    signs = np.sign((A1 * method.image_directions_).sum(axis=0))
    assert_allclose(U, (H1 - H1.mean(axis=0)) @ A1 * signs, atol=1e-4)
    assert_allclose(V, (H2 - H2.mean(axis=0)) @ A2 * signs, atol=1e-4)


def test_trained_linear_networks_approach_linear_cca_from_below():
    """Two directions of the inputs are the best that linear outputs can find, whatever their scale."""
    pairs = synthetic_pairs(noise=1.0)
    X, T = (rows.astype(np.float64) for rows in (pairs.images, pairs.texts))
    X, T = X - X.mean(axis=0), T - T.mean(axis=0)
    Q, R = np.linalg.qr(X)[0], np.linalg.qr(T)[0]
    best = np.linalg.svd(Q.T @ R, compute_uv=False)[:2].sum()
    method = Dcca(
        n_components=2, n_hidden_layers=0, ridge=1e-4, learning_rate=1e-2, weight_decay=0.0, max_epochs=300
    ).fit(pairs)
    found = [line["correlation"] for line in method.history_]
    assert max(found) <= best + 1e-6
    assert method.correlations_.sum() <= best + 1e-6
    assert found[0] < 0.9 * best
    assert method.correlations_.sum() > 0.995 * best


def test_noise_correlates_in_training_and_not_beyond():
    """Which of the two numbers a report takes makes the method or breaks it."""
    method = Dcca(n_components=4, hidden=64, ridge=1e-3, max_epochs=30, learning_rate=1e-2)
    method.fit(noise_pairs(60, seed=0), noise_pairs(3000, seed=1))
    assert method.history_[-1]["correlation"] > 2.5
    assert all(abs(line["validation_correlation"]) < 0.25 for line in method.history_)


def test_the_validation_correlation_is_that_of_the_encoded_validation_pairs():
    data = synthetic_data(noise=1.0)
    method = Dcca(n_components=3, max_epochs=4).fit(data.train, data.validation)
    U, V = method.encode_pairs(data.validation)
    expected = sum(np.corrcoef(U[:, j], V[:, j])[0, 1] for j in range(3))
    lines = [line for line in method.history_ if line["kept"]]
    assert [line["epoch"] for line in lines] == [method.best_epoch_]
    assert lines[0]["validation_correlation"] == pytest.approx(expected, abs=1e-5)
    assert lines[0]["validation_correlation"] == max(
        line["validation_correlation"] for line in method.history_
    )


# -- what training looks at -------------------------------------------------------------------------


def test_labels_make_no_difference_unless_the_epoch_is_chosen_by_map():
    data = synthetic_data(noise=1.0)
    order = np.random.default_rng(0).permutation(len(data.train))
    held = np.random.default_rng(0).permutation(len(data.validation))
    train = replace(data.train, labels=data.train.labels[order])
    validation = replace(data.validation, labels=data.validation.labels[held])
    one = Dcca(max_epochs=6, patience=2).fit(data.train, data.validation, context=scored(data.validation))
    two = Dcca(max_epochs=6, patience=2).fit(train, validation, context=scored(validation))
    assert one.best_epoch_ == two.best_epoch_
    for first, second in zip(one.encode_pairs(data.test), two.encode_pairs(data.test), strict=True):
        assert_array_equal(first, second)


def test_choosing_by_map_takes_the_epoch_of_the_best_score_and_the_last_where_there_is_no_score():
    data = synthetic_data()
    scores = iter([0.1, 0.9, 0.3, 0.2])
    context = FitContext(validation_score=lambda method: next(scores))
    method = Dcca(select_by="map", max_epochs=4).fit(data.train, data.validation, context=context)
    assert method.best_epoch_ == 2
    assert Dcca(select_by="map", max_epochs=4).fit(data.train, data.validation).best_epoch_ == 4


@pytest.mark.parametrize(("n", "sizes"), [(130, [100]), (145, [100, 45]), (30, [30])])
def test_a_last_batch_of_fewer_than_ten_rows_a_component_is_left_out(monkeypatch, n, sizes):
    seen, step = [], module.DccaLearner.step

    def spy(learner, batch):
        seen.append(len(batch))
        return step(learner, batch)

    monkeypatch.setattr(module.DccaLearner, "step", spy)
    Dcca(n_components=4, batch_size=100, hidden=8, max_epochs=1).fit(synthetic_pairs(n))
    assert seen == sizes


@pytest.mark.parametrize("batch_size", [8, 9])
def test_batches_of_no_more_rows_than_components_are_refused(batch_size):
    with pytest.raises(InvalidParameter, match=r"Dcca\.batch_size: expected more than n_components \(9\)"):
        Dcca(n_components=9, batch_size=batch_size).fit(synthetic_pairs())


@pytest.mark.parametrize("n", [8, 9])
def test_no_more_pairs_than_components_are_refused_in_words(n):
    with pytest.raises(Unsupported, match=f"more than 9 training pairs, got {n}"):
        Dcca(n_components=9).fit(synthetic_pairs(n))
    Dcca(n_components=9, hidden=8, max_epochs=1).fit(synthetic_pairs(10))


@pytest.mark.parametrize(
    "parameters",
    [
        {"ridge": 0.0},
        {"ridge": -1.0},
        {"hidden": 0},
        {"n_hidden_layers": -1},
        {"n_components": 0},
        {"dropout": 1.0},
    ],
)
def test_parameters_that_make_no_sense_are_refused_by_name(parameters):
    with pytest.raises(InvalidParameter, match=rf"Dcca\.{next(iter(parameters))}"):
        Dcca(**parameters).fit(synthetic_pairs())


# -- hard data --------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
def test_constant_columns_and_a_constant_modality_give_finite_rows(activation):
    pairs = synthetic_pairs()
    images, texts = pairs.images.copy(), np.ones_like(pairs.texts)
    images[:, :5] = 0.0
    given = replace(pairs, images=images, texts=texts)
    method = Dcca(max_epochs=3, activation=activation, hidden=32).fit(given, given.take(np.arange(40)))
    for rows in method.encode_pairs(given):
        assert np.isfinite(rows).all()


def test_a_learning_rate_under_which_training_diverges_is_an_error_with_the_epoch():
    """In float64 the loss itself stands a lot: 1e6 still trains."""
    data = synthetic_data()
    with pytest.raises(
        RunError, match=r"Dcca diverged in epoch \d+: .*correlation.* not finite; a learning_rate"
    ):
        Dcca(learning_rate=1e30, max_epochs=9).fit(data.train, data.validation)
    method = Dcca(learning_rate=1e6, max_epochs=9).fit(data.train, data.validation)
    assert all(np.isfinite(rows).all() for rows in method.encode_pairs(data.test))


def test_rank_deficient_texts_of_wikipedia_are_learned_from(wikipedia_pairs):
    """Ten topic shares sum to 1, so that nine directions are all there are; a third of 725 pairs is held out."""
    train, held = (wikipedia_pairs.take(np.flatnonzero(np.arange(725) % 3 // 2 == part)) for part in (0, 1))
    assert np.linalg.matrix_rank(train.texts.astype(np.float64) - train.texts.mean(axis=0), tol=1e-2) == 9
    method = Dcca(max_epochs=8, hidden=128).fit(train, held)
    assert method.correlations_.shape == (10,)
    assert method.history_[method.best_epoch_ - 1]["validation_correlation"] > 0.3
    assert all(np.isfinite(rows).all() for rows in method.encode_pairs(held))


# -- outputs out of bounds ---------------------------------------------------------------------------


def test_outputs_too_large_for_the_ridge_have_no_directions():
    """Of rank 1, at a scale where rounding outweighs the ridge: NaN, which ends a fit in words, and no traceback."""
    rng = np.random.default_rng(0)
    H = 1e12 * np.outer(rng.standard_normal(50), np.ones(3))
    found = module.canonical(H, H + rng.standard_normal((50, 3)), 1e-6)
    assert np.isnan(found["image_directions_"]).all() and np.isnan(found["correlations_"]).all()


def test_outputs_that_overflow_are_an_error_in_words_and_no_warning():
    method = Dcca(activation="relu", learning_rate=1e30, max_epochs=9)
    with pytest.raises(RunError, match=r"Dcca diverged in epoch \d+"):
        method.fit(synthetic_pairs())


def test_the_power_weighs_directions_by_their_correlations():
    rng = np.random.default_rng(3)
    H1, H2 = rng.standard_normal((60, 4)), rng.standard_normal((60, 4))
    plain, weighed = module.canonical(H1, H2, 0.1), module.canonical(H1, H2, 0.1, 4.0)
    for name in ("image_directions_", "text_directions_"):
        assert_allclose(weighed[name], plain[name] * plain["correlations_"] ** 4)
    assert_allclose(weighed["correlations_"], plain["correlations_"])


def test_without_the_final_cca_outputs_are_only_centred():
    pairs = synthetic_pairs()
    method = Dcca(final_cca=False, max_epochs=2).fit(pairs)
    assert_allclose(method.encode_image(pairs.images).mean(axis=0), 0, atol=1e-5)
    assert_allclose(method.image_directions_, np.eye(9))


@pytest.mark.parametrize(("n", "sizes"), [(800, [800]), (1023, [1023]), (1100, [512, 512])])
def test_fewer_than_two_batches_of_pairs_are_one(n, sizes, monkeypatch):
    seen = []
    step = module.DccaLearner.step

    def noted(self, batch):
        seen.append(len(batch))
        return step(self, batch)

    monkeypatch.setattr(module.DccaLearner, "step", noted)
    Dcca(max_epochs=1, n_hidden_layers=1, hidden=8).fit(synthetic_pairs(n))
    assert seen == sizes
