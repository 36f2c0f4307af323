"""Canonical correlation analysis: its constraints, its invariances, and what other solvers say."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.io import loadmat
from scipy.linalg import eigh, svd
from sklearn.cross_decomposition import CCA as SklearnCCA

import xmbench
from xmbench import Pairs
from xmbench.errors import InvalidParameter, Unsupported
from xmbench.method import FitContext
from xmbench.registry import Registry
from xmbench.reuse import Pieces
from xmbench.scaling import Scaling
from xmbench.testing import synthetic_data, synthetic_pairs

Cca = Registry().method("cca")


def pairs_of(images, texts, n_classes: int = 3) -> Pairs:
    n = len(images)
    return Pairs(
        images=images,
        texts=texts,
        labels=np.arange(n) % n_classes,
        ids=tuple(str(i) for i in range(n)),
        n_classes=n_classes,
    )


def correlated(
    n: int = 80, d_image: int = 7, d_text: int = 5, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Full-rank views that share two directions, far from the origin and of unequal scales."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((n, 2))
    X = shared @ rng.standard_normal((2, d_image)) + rng.standard_normal((n, d_image)) + 3.0
    T = shared @ rng.standard_normal((2, d_text)) + rng.standard_normal((n, d_text)) - 1.0
    return X * rng.uniform(0.5, 4.0, d_image), T


def centred(rows) -> np.ndarray:
    rows = np.float32(rows).astype(np.float64)  # features are stored in float32
    return rows - rows.mean(axis=0)


def fit(images, texts, k: int | None = None, ridge: float = 0.0):
    return Cca(n_components=k, ridge=ridge).fit(pairs_of(images, texts))


# -- without a ridge --------------------------------------------------------------------------------


def test_variates_are_white_and_cross_correlated_on_the_diagonal_alone():
    X, T = correlated()
    method = fit(X, T, k=5)
    F, G, n = method.encode_image(X), method.encode_text(T), len(X)
    assert_allclose(F.T @ F / (n - 1), np.eye(5), atol=1e-10)
    assert_allclose(G.T @ G / (n - 1), np.eye(5), atol=1e-10)
    assert_allclose(F.T @ G / (n - 1), np.diag(method.correlations_), atol=1e-10)


def test_correlations_fall_from_at_most_one_to_at_least_zero():
    correlations = fit(*correlated(), k=5).correlations_
    assert (np.diff(correlations) <= 0).all()
    assert correlations[0] <= 1 + 1e-12
    assert correlations[-1] >= 0


def test_squared_correlations_solve_the_one_view_eigenproblem():
    X, T = correlated()
    correlations = fit(X, T, k=5).correlations_
    X, T = centred(X), centred(T)
    product = np.linalg.solve(T.T @ T, T.T @ X) @ np.linalg.solve(X.T @ X, X.T @ T)
    eigenvalues = np.sort(np.linalg.eigvals(product).real)[::-1]
    assert_allclose(correlations**2, eigenvalues, atol=1e-10)


@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_one_plus_correlations_solve_the_two_view_eigenproblem(ridge):
    X, T = correlated()
    correlations = fit(X, T, k=5, ridge=ridge).correlations_
    X, T = centred(X), centred(T)
    Sx = X.T @ X + ridge * np.trace(X.T @ X) / 7 * np.eye(7)
    St = T.T @ T + ridge * np.trace(T.T @ T) / 5 * np.eye(5)
    within = np.block([[Sx, np.zeros((7, 5))], [np.zeros((5, 7)), St]])
    between = np.block([[Sx, X.T @ T], [T.T @ X, St]])
    eigenvalues = eigh(between, within, eigvals_only=True)[::-1]
    assert_allclose(eigenvalues[:5], 1 + correlations, atol=1e-10)


def test_sklearn_finds_the_same_correlations():
    X, T = correlated()
    reference = SklearnCCA(n_components=4, scale=False, max_iter=5000, tol=1e-12)
    F, G = reference.fit_transform(np.float32(X).astype(float), np.float32(T).astype(float))
    expected = [np.corrcoef(F[:, j], G[:, j])[0, 1] for j in range(4)]
    assert_allclose(fit(X, T, k=4).correlations_, expected, atol=1e-8)


def test_correlations_survive_invertible_maps_and_shifts_of_a_modality():
    X, T = correlated()
    rng = np.random.default_rng(1)
    maps = rng.standard_normal((7, 7)), rng.standard_normal((5, 5))
    mapped = fit(X @ maps[0] + 5.0, T @ maps[1] - 2.0, k=5)
    assert_allclose(mapped.correlations_, fit(X, T, k=5).correlations_, atol=1e-6)


def test_scores_survive_invertible_maps_up_to_sign():
    X, T = correlated()
    shear = np.eye(7) + np.triu(np.full((7, 7), 0.5), 1)
    plain, mapped = fit(X, T, k=2), fit(X @ shear, T, k=2)
    F, G = plain.encode_image(X), mapped.encode_image(X @ shear)
    assert_allclose(np.abs((F * G).sum(axis=0)), (F**2).sum(axis=0), rtol=1e-5)


def test_identical_views_correlate_perfectly_and_coincide():
    X, _ = correlated()
    method = fit(X, X, k=7)
    assert_allclose(method.correlations_, 1.0, atol=1e-10)
    assert_allclose(method.encode_image(X), method.encode_text(X), atol=1e-6)


def test_exchanging_the_modalities_exchanges_the_projections():
    X, T = correlated()
    one, other = fit(X, T, k=5), fit(T, X, k=5)
    assert_allclose(one.correlations_, other.correlations_, atol=1e-10)
    F, G = one.encode_image(X), other.encode_text(X)
    assert_allclose(np.abs((F * G).sum(axis=0)), (F**2).sum(axis=0), rtol=1e-8)


def test_each_column_of_image_weights_has_its_largest_element_positive():
    weights = fit(*correlated(), k=5).image_weights_
    assert (weights[np.abs(weights).argmax(axis=0), np.arange(5)] > 0).all()


# -- with a ridge -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d_image"), [(80, 7), (20, 30)])
def test_the_regularised_constraint_holds(n, d_image):
    X, T = correlated(n, d_image)
    method = fit(X, T, k=5, ridge=0.5)
    X, T = centred(X), centred(T)
    P, Q = method.image_weights_, method.text_weights_
    r_x, r_t = 0.5 * (X**2).sum() / X.shape[1], 0.5 * (T**2).sum() / T.shape[1]
    assert_allclose(P.T @ X.T @ X @ P + r_x * P.T @ P, (n - 1) * np.eye(5), atol=1e-8)
    assert_allclose(Q.T @ T.T @ T @ Q + r_t * Q.T @ Q, (n - 1) * np.eye(5), atol=1e-8)
    assert_allclose(P.T @ X.T @ T @ Q, (n - 1) * np.diag(method.correlations_), atol=1e-8)


def test_no_other_projections_that_keep_the_constraint_do_better():
    X, T = correlated()
    method = fit(X, T, k=2, ridge=0.5)
    X, T = centred(X), centred(T)
    best = np.trace(method.image_weights_.T @ X.T @ T @ method.text_weights_)
    Lx = np.linalg.cholesky(X.T @ X + 0.5 * (X**2).sum() / 7 * np.eye(7))
    Lt = np.linalg.cholesky(T.T @ T + 0.5 * (T**2).sum() / 5 * np.eye(5))
    rng = np.random.default_rng(2)
    for _ in range(200):
        A, B = (np.linalg.qr(rng.standard_normal((d, 2)))[0] for d in (7, 5))
        P, Q = np.linalg.solve(Lx.T, A), np.linalg.solve(Lt.T, B)
        assert (len(X) - 1) * np.trace(P.T @ X.T @ T @ Q) < best


def test_a_larger_ridge_shrinks_every_regularised_correlation():
    X, T = correlated()
    paths = np.array([fit(X, T, k=5, ridge=ridge).correlations_ for ridge in (0.0, 0.01, 0.1, 1.0, 10.0)])
    assert (np.diff(paths, axis=0) < 0).all()


def test_the_ridge_is_relative_to_the_scale_of_the_features():
    X, T = correlated()
    assert_allclose(
        fit(1024 * X, T / 512, k=5, ridge=0.3).correlations_,
        fit(X, T, k=5, ridge=0.3).correlations_,
        atol=1e-12,
    )


@pytest.mark.parametrize("ridge", [-0.1, float("nan"), float("inf")])
def test_a_ridge_that_is_no_finite_number_of_at_least_zero_is_refused(ridge):
    with pytest.raises(InvalidParameter, match=r"Cca\.ridge"):
        fit(*correlated(), ridge=ridge)


# -- data with too few rows, too low a rank, or nothing in it ---------------------------------------


def test_with_fewer_rows_than_columns_and_no_ridge_every_correlation_is_one():
    rng = np.random.default_rng(0)
    X, T = rng.standard_normal((20, 40)), rng.standard_normal((20, 30))
    assert_allclose(fit(X, T, k=19).correlations_, 1.0, atol=1e-10)


def test_the_preset_is_the_method_without_a_ridge_and_at_chance_when_rows_are_few():
    unregularised, regularised = Cca.resolve({"preset": "unregularised"}), Cca()
    assert unregularised.ridge == 0.0
    scores, chance = {}, 0.0
    for method in (unregularised, regularised):
        results = []
        for seed in range(3):
            data = synthetic_data(60, 0, 100, d_image=80, d_text=70, n_classes=10, noise=1.0, seed=seed)
            method.fit(data.train)
            F, G = method.encode_image(data.test.images), method.encode_text(data.test.texts)
            found = xmbench.evaluate(F, G, data.test.labels)
            results.append(found.main)
            chance = found.tasks["image->text"].chance
        scores[method] = np.mean(results)
    assert scores[unregularised] < chance + 0.05
    assert scores[regularised] > chance + 0.4


def test_dependent_columns_add_no_direction():
    X, T = correlated()
    X5 = np.float32(X[:, :5])
    wide = np.hstack([X5, X5[:, :3] + X5[:, 1:4]])
    method = fit(wide, T)
    assert np.linalg.matrix_rank(method.image_weights_) == 3
    assert_allclose(fit(wide, T, k=5).correlations_, fit(X5, T, k=5).correlations_, atol=1e-5)
    with pytest.raises(InvalidParameter, match=r"n_components: expected 1\.\.5, the rank"):
        fit(wide[:, [0, 1, 2, 3, 4, 5]], T, k=6)
    assert np.abs(method.image_weights_).max() < 1e3


def test_constant_columns_get_no_weight_and_change_nothing():
    X, T = correlated()
    padded = np.hstack([X, np.full((80, 1), 0.1), np.zeros((80, 1))])
    method = fit(padded, T, k=5)
    assert_allclose(method.image_weights_[7:], 0.0, atol=1e-12)
    assert_allclose(method.correlations_, fit(X, T, k=5).correlations_, atol=1e-10)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6 / 3])
@pytest.mark.parametrize("side", [0, 1])
def test_a_modality_whose_rows_are_all_the_same_is_refused(constant, side):
    views = list(correlated())
    views[side] = np.full_like(views[side], constant)
    with pytest.raises(Unsupported, match="all the same"):
        fit(*views)


def test_a_single_pair_is_refused():
    with pytest.raises(Unsupported, match="all the same"):
        Cca().fit(synthetic_pairs(1))


def test_the_common_space_has_as_many_dimensions_as_classes_or_as_the_rank_allows():
    X, T = correlated()
    for n_classes, expected in ((2, 2), (4, 4), (9, 5)):
        method = Cca().fit(pairs_of(X, T, n_classes))
        assert method.encode_image(X).shape == (80, expected)


@pytest.mark.parametrize("k", [0, -1, 6])
def test_the_number_of_components_lies_within_the_rank(k):
    with pytest.raises(InvalidParameter, match=rf"expected 1\.\.5, the rank of the training data, got {k}"):
        fit(*correlated(), k=k, ridge=1.0)


def test_encoding_the_training_rows_is_centring_and_projecting():
    X, T = correlated()
    method = fit(X, T, k=3, ridge=0.1)
    assert_allclose(method.encode_image(X), centred(X) @ method.image_weights_, atol=1e-10)
    assert_allclose(method.encode_text(T), centred(T) @ method.text_weights_, atol=1e-10)


def test_the_rank_of_features_whose_rows_sum_to_one_is_found(data_dir):
    """128 visual words and 10 topic proportions: sums of 1 leave ranks of 127 and 9, noise notwithstanding."""
    stored = loadmat(data_dir / "wikipedia" / "wikipedia_dataset" / "raw_features.mat")
    for scaling in ("center", "zscore"):
        images, texts = (Scaling(scaling).fit_transform(stored[name][:800]) for name in ("I_tr", "T_tr"))
        assert Cca(ridge=0.0).fit(pairs_of(images, texts, n_classes=10)).encode_text(texts).shape == (800, 9)
        with pytest.raises(InvalidParameter, match=r"expected 1\.\.9, the rank"):
            Cca(n_components=10).fit(pairs_of(images, texts))
        with pytest.raises(InvalidParameter, match=r"expected 1\.\.127, the rank"):
            Cca(n_components=128, ridge=0.0).fit(pairs_of(images, images))


# -- routes -----------------------------------------------------------------------------------------


def by_svd(X, T, k: int, ridge: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Correlations and training scores through the thin SVD of both modalities."""
    sides = []
    for rows in (centred(X), centred(T)):
        U, s, _ = svd(rows, full_matrices=False)
        U, s = U[:, s > 1e-6 * s[0]], s[s > 1e-6 * s[0]]
        r = ridge * (rows**2).sum() / rows.shape[1]
        sides.append((U * (s / np.sqrt(s**2 + r)), U * (s**2 / (s**2 + r))))
    A, R, Bt = svd(sides[0][0].T @ sides[1][0], full_matrices=False)
    scale = np.sqrt(len(X) - 1)
    return R[:k], scale * sides[0][0] @ A[:, :k], scale * sides[1][0] @ Bt[:k].T


def assert_same_scores(found, expected, atol: float) -> None:
    assert_allclose(found * np.sign((found * expected).sum(axis=0)), expected, atol=atol)


@pytest.mark.parametrize("ridge", [1e-9, 1e-3, 0.1, 10.0])
@pytest.mark.parametrize(
    ("shape", "routes"),
    [
        ((80, 7, 5), ("eigh", "eigh")),
        ((620, 540, 515), ("cholesky", "cholesky")),
        ((620, 540, 20), ("cholesky", "eigh")),
        ((60, 90, 200), ("dual", "dual")),
        ((60, 90, 20), ("dual", "eigh")),
    ],
    ids=str,
)
def test_every_route_gives_what_the_svd_gives(shape, routes, ridge):
    X, T = correlated(*shape)
    method = fit(X, T, k=4, ridge=ridge)
    if ridge > 1e-6:
        assert tuple(method.route_.values()) == routes
    R, F, G = by_svd(X, T, 4, ridge)
    assert_allclose(method.correlations_, R, atol=1e-10)
    if np.diff(-R).min() > 1e-6:  # equal correlations leave the projections undetermined
        assert_same_scores(method.encode_image(X), F, 1e-6)
        assert_same_scores(method.encode_text(T), G, 1e-6)


def test_a_ridge_that_squaring_the_rows_would_drown_takes_the_svd():
    X, T = correlated(200, 30, 20)
    X[:, 0] *= 1e4
    method = fit(X, T, k=4, ridge=1e-8)
    assert method.route_["image"] == "svd"
    assert_allclose(method.correlations_, by_svd(X, T, 4, 1e-8)[0], atol=1e-10)


@pytest.mark.parametrize(("noise", "route"), [(1e-1, "eigh"), (1e-2, "eigh"), (1e-5, "svd")])
def test_without_a_ridge_ill_conditioned_rows_lose_no_digit(noise, route):
    """Columns that differ by little: squared, the differences are a share of noise^2 of the whole."""
    X, T = correlated(200, 12, 8)
    X[:, 6:] = X[:, :6] + noise * X[:, 6:]
    method = fit(X, T, k=8)
    assert method.route_["image"] == route
    assert_allclose(method.correlations_, by_svd(X, T, 8, 0.0)[0], atol=1e-10)


def test_wide_views_of_low_rank_are_not_taken_for_full_ones():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((900, 12)) @ rng.standard_normal((12, 600))
    method = fit(X, X[:, :550], ridge=1.0, k=5)
    assert method.route_ == {"image": "cholesky", "text": "cholesky"}
    with pytest.raises(InvalidParameter, match=r"expected 1\.\.12, the rank of the training data, got 13"):
        fit(X, X[:, :550], ridge=1.0, k=13)


def test_sums_over_many_blocks_are_those_over_one(monkeypatch):
    X, T = correlated(800, 30, 20)
    whole = fit(X, T, k=4, ridge=0.1)
    monkeypatch.setattr("xmbench.linalg.BLOCK", 30 * 7)
    assert_allclose(fit(X, T, k=4, ridge=0.1).image_weights_, whole.image_weights_, atol=1e-10)


@pytest.mark.parametrize("shape", [(80, 7, 5), (620, 540, 20), (60, 90, 20)], ids=str)
@pytest.mark.parametrize("ridge", [0.0, 1e-9, 1e-3, 1.0, 100.0])
def test_empirical_correlations_are_those_of_the_scores(shape, ridge):
    X, T = correlated(*shape)
    method = fit(X, T, k=4, ridge=ridge)
    F, G = method.encode_image(X), method.encode_text(T)
    expected = [np.corrcoef(F[:, j], G[:, j])[0, 1] for j in range(4)]
    assert_allclose(method.empirical_correlations_, expected, atol=1e-9)
    assert (method.empirical_correlations_ >= method.correlations_ - 1e-12).all()


@pytest.mark.parametrize("shape", [(80, 7, 5), (620, 540, 20), (60, 90, 20)], ids=str)
def test_a_shared_fit_is_a_fresh_one(shape):
    X, T = correlated(*shape)
    pairs = pairs_of(X, T)
    context = FitContext(pieces=Pieces(pairs))
    for ridge in (10.0, 1.0, 0.1, 0.0, 1e-9, 1.0):
        method, fresh = Cca(ridge=ridge).fit(pairs, context=context), Cca(ridge=ridge).fit(pairs)
        assert_array_equal(method.image_weights_, fresh.image_weights_)
        assert_array_equal(method.encode_text(T), fresh.encode_text(T))
        assert set(vars(method)) == set(vars(fresh))


# -- Wikipedia --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def topics(data_dir):
    """2,173 pairs of visual words and topics; both views lack a direction, and hold rounding noise instead."""
    stored = loadmat(data_dir / "wikipedia" / "wikipedia_dataset" / "raw_features.mat")
    return tuple(Scaling("zscore").fit_transform(stored[name]) for name in ("I_tr", "T_tr"))


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 0.1, 10.0])
def test_on_rank_deficient_features_the_route_makes_no_difference(topics, ridge):
    method = fit(*topics, k=9, ridge=ridge)
    assert method.route_ == {"image": "eigh", "text": "eigh"}
    R, F, G = by_svd(*topics, 9, ridge)
    assert_allclose(method.correlations_, R, atol=1e-10)
    assert_same_scores(method.encode_image(topics[0]), F, 1e-6)
    assert_same_scores(method.encode_text(topics[1]), G, 1e-6)


def test_projected_to_their_rank_scikit_learn_agrees_on_them(topics):
    """On the raw columns its iterations end elsewhere: .5458 for .5577."""
    full = []
    for rows in topics:
        U, s, _ = svd(centred(rows), full_matrices=False)
        full.append(U[:, s > 1e-6 * s[0]] * s[s > 1e-6 * s[0]])
    assert [rows.shape[1] for rows in full] == [127, 9]
    reference = SklearnCCA(n_components=3, scale=False, max_iter=5000, tol=1e-12)
    F, G = reference.fit_transform(*full)
    expected = [np.corrcoef(F[:, j], G[:, j])[0, 1] for j in range(3)]
    found = fit(*topics, k=9).correlations_
    assert_allclose(found[:3], expected, atol=1e-6)
    assert found[0] == pytest.approx(0.5577, abs=5e-5)


def test_on_them_variates_are_white(topics):
    method = fit(*topics, k=9)
    F, G, n = method.encode_image(topics[0]), method.encode_text(topics[1]), len(topics[0])
    assert_allclose(F.T @ F / (n - 1), np.eye(9), atol=1e-9)
    assert_allclose(G.T @ G / (n - 1), np.eye(9), atol=1e-9)
    assert_allclose(F.T @ G / (n - 1), np.diag(method.correlations_), atol=1e-9)


# -- solvers that the tests do not bring (extra peers) ----------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_statsmodels_finds_the_same_correlations():
    cancorr = pytest.importorskip("statsmodels.multivariate.cancorr")
    X, T = correlated()
    reference = cancorr.CanCorr(np.float32(X).astype(float), np.float32(T).astype(float))
    assert_allclose(fit(X, T, k=5).correlations_, reference.cancorr[:5], atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_cca_zoo_finds_the_same_correlations(ridge):
    linear = pytest.importorskip("cca_zoo.linear")
    X, T = (rows / rows.std(axis=0) for rows in map(centred, correlated()))
    shrinkage = []  # (1 - c) S + c I with S over n - 1, so that r = c / (1 - c) (n - 1)
    for rows in (X, T):
        r = ridge * float((rows**2).sum()) / rows.shape[1]
        shrinkage.append(r / (r + len(rows) - 1))
    reference = linear.RidgeCCA(n_components=4, shrinkage=shrinkage).fit([X, T])
    ours = fit(X, T, k=4, ridge=ridge)
    scores = zip(reference.transform([X, T]), (ours.encode_image(X), ours.encode_text(T)), strict=True)
    for theirs, mine in scores:
        for j in range(4):
            assert abs(np.corrcoef(theirs[:, j], mine[:, j])[0, 1]) == pytest.approx(1.0, abs=1e-6)
