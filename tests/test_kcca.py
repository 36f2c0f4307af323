"""Kernel canonical correlation analysis: its constraints, its limits, and that its routes agree."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.io import loadmat
from scipy.linalg import eigh
from scipy.spatial.distance import cdist, pdist

from xmbench import FitContext, Pairs
from xmbench.errors import DeadlineExceeded, InvalidParameter, Unsupported
from xmbench.kernels import Kernel, centre_gram, distance_blocks, landmark_map, median_distance, pivots
from xmbench.registry import Registry
from xmbench.reuse import Pieces
from xmbench.scaling import Scaling

Kcca, Cca = Registry().method("kcca"), Registry().method("cca")
ROUTES = ("exact", "nystrom", "cholesky")


def pairs_of(images, texts, n_classes: int = 3) -> Pairs:
    n = len(images)
    ids = tuple(map(str, range(n)))
    return Pairs(images=images, texts=texts, labels=np.arange(n) % n_classes, ids=ids, n_classes=n_classes)


def correlated(n: int = 90, d_image: int = 7, d_text: int = 5, seed: int = 0):
    """Views that share two directions, one of them bent, far from the origin."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((n, 2))
    X = shared @ rng.standard_normal((2, d_image)) + 0.5 * rng.standard_normal((n, d_image)) + 3.0
    T = shared**2 @ rng.standard_normal((2, d_text)) + 0.5 * rng.standard_normal((n, d_text)) - 1.0
    return np.float32(X), np.float32(T)


@pytest.fixture(scope="module")
def wikipedia(data_dir):
    """250 pairs of visual words and topics, z-scored; rank 127 and 9."""
    stored = loadmat(data_dir / "wikipedia" / "wikipedia_dataset" / "raw_features.mat")
    rows = np.random.default_rng(0).permutation(2173)[:250]
    return tuple(Scaling("zscore").fit_transform(stored[name][rows]) for name in ("I_tr", "T_tr"))


@pytest.fixture(params=["random", "wikipedia"])
def views(request):
    return correlated() if request.param == "random" else request.getfixturevalue("wikipedia")


def fit(images, texts, k: int | None = 3, **parameters):
    return Kcca(n_components=k, **parameters).fit(pairs_of(images, texts))


def gaussian(rows, others, sigma) -> np.ndarray:
    return np.exp(-cdist(np.float64(rows), np.float64(others), "sqeuclidean") / (2 * sigma**2))


def centred_kernel(rows, sigma) -> np.ndarray:
    H = np.eye(len(rows)) - 1 / len(rows)
    return H @ gaussian(rows, rows, sigma) @ H


def reference(Kx, Kt, kappas, k: int):
    """Correlations as the definition has them: a generalised eigenproblem of 2n, in the kernels' eigenvectors."""
    parts = []
    for K, kappa in zip((Kx, Kt), kappas, strict=True):
        values, vectors = eigh(K)
        values = np.maximum(values, 0.0)
        parts.append(vectors * np.sqrt(values / (values + kappa)) @ vectors.T)
    return np.linalg.svd(parts[0] @ parts[1], compute_uv=False)[:k]


# -- the definition ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kappa", [0.1, 10.0])
def test_correlations_are_those_of_the_definition(views, kappa):
    method = fit(*views, kappa=kappa, bandwidth=2.0)
    for rows, sigma in zip(views, method.bandwidths_, strict=True):
        distances = pdist(np.float64(rows))
        assert sigma == pytest.approx(2.0 * np.median(distances[distances > 0]))
    grams = [centred_kernel(rows, sigma) for rows, sigma in zip(views, method.bandwidths_, strict=True)]
    kappas = [kappa * np.trace(K) / len(K) for K in grams]
    assert_allclose(method.correlations_, reference(*grams, kappas, 3), atol=1e-10)


def test_weights_keep_the_constraint_and_cross_on_the_diagonal_alone(views):
    method = fit(*views, kappa=1.0)
    n, (a, b) = len(views[0]), (method.image_weights_, method.text_weights_)
    Kx, Kt = (centred_kernel(rows, sigma) for rows, sigma in zip(views, method.bandwidths_, strict=True))
    for K, weights in ((Kx, a), (Kt, b)):
        assert_allclose(weights.sum(axis=0), 0.0, atol=1e-8)
        inner = weights.T @ (K @ K + np.trace(K) / n * K) @ weights
        assert_allclose(inner, (n - 1) * np.eye(3), atol=1e-7 * n)
    assert_allclose(a.T @ Kx @ Kt @ b, (n - 1) * np.diag(method.correlations_), atol=1e-7 * n)


def test_no_other_weights_that_keep_the_constraint_do_better():
    X, T = correlated()
    method = fit(X, T, k=2, kappa=1.0)
    n = len(X)
    Kx, Kt = (centred_kernel(rows, sigma) for rows, sigma in zip((X, T), method.bandwidths_, strict=True))
    best = np.trace(method.image_weights_.T @ Kx @ Kt @ method.text_weights_)
    rng = np.random.default_rng(1)
    for _ in range(100):
        sides = []
        for K in (Kx, Kt):
            a = rng.standard_normal((n, 2))
            inner = a.T @ (K @ K + np.trace(K) / n * K) @ a
            sides.append(a @ np.linalg.inv(np.linalg.cholesky(inner)).T * np.sqrt(n - 1))
        assert np.trace(sides[0].T @ Kx @ Kt @ sides[1]) < best


def test_correlations_are_at_most_one_and_fall_with_kappa(views):
    paths = np.array([fit(*views, kappa=kappa).correlations_ for kappa in (0.01, 0.1, 1.0, 10.0, 100.0)])
    assert (paths <= 1 + 1e-12).all()
    assert (paths >= 0).all()
    assert (np.diff(paths, axis=0) < 0).all()
    assert (np.diff(paths, axis=1) <= 1e-12).all()


def test_a_kernel_finds_what_no_line_does():
    """The texts depend on the squares of what the images depend on."""
    X, T = correlated(400)
    bent, straight = fit(X, T, k=2, kappa=1.0), Cca(n_components=2, ridge=0.1).fit(pairs_of(X, T))
    X, T = correlated(700)
    for method, low, high in ((bent, 0.5, 1.0), (straight, -0.4, 0.4)):
        F, G = method.encode_image(X[400:]), method.encode_text(T[400:])
        assert low < np.corrcoef(F[:, 0], G[:, 0])[0, 1] < high


# -- linear kernel ----------------------------------------------------------------------------------


@pytest.mark.parametrize("approximation", ROUTES)
def test_with_a_linear_kernel_it_is_ridge_cca(views, approximation):
    X, T = views
    n, k, ratio = len(X), 3, 0.7
    # kappa in units of tr(XX') / n, the ridge of tr(X'X) / d: equal widths give equal units
    width = min(X.shape[1], T.shape[1])
    X = X[:, :width]
    cca = Cca(n_components=k, ridge=ratio * width / n).fit(pairs_of(X, T))
    kcca = fit(X, T, kappa=ratio, kernel="linear", approximation=approximation)
    tolerance = 1e-10 if approximation != "cholesky" else 2e-2  # it stops at 1e-3 of the trace
    assert_allclose(kcca.correlations_, cca.correlations_, atol=tolerance)
    if approximation != "cholesky":
        for F, G in (
            (kcca.encode_image(X), cca.encode_image(X)),
            (kcca.encode_text(T), cca.encode_text(T)),
        ):
            assert_allclose(F * np.sign((F * G).sum(axis=0)), G, atol=1e-6)


def test_with_a_linear_kernel_and_a_vanishing_kappa_it_is_cca():
    X, T = correlated()
    plain = Cca(n_components=5, ridge=0.0).fit(pairs_of(X, T))
    assert_allclose(fit(X, T, k=5, kappa=1e-9, kernel="linear").correlations_, plain.correlations_, atol=1e-6)


def test_a_linear_kernel_has_no_more_directions_than_columns():
    X, T = correlated()
    with pytest.raises(InvalidParameter, match=r"expected 1\.\.5, the rank of the training data, got 6"):
        fit(X, T, k=6, kernel="linear")


# -- routes -----------------------------------------------------------------------------------------


def tripled(views):
    """Rows enough for Krylov steps."""
    return [np.vstack([rows, rows + 0.01, rows - 0.02]) for rows in views]


@pytest.mark.parametrize("kappa", [0.1, 10.0])
def test_krylov_and_eigenvectors_agree(views, kappa, monkeypatch):
    X, T = tripled(views)
    eigen = fit(X, T, kappa=kappa)
    monkeypatch.setattr(sys.modules[Kcca.__module__], "LARGEST_EIGH", 10)
    krylov = fit(X, T, kappa=kappa)
    assert (eigen.route_, krylov.route_) == ("eigh", "krylov")
    assert_allclose(krylov.correlations_, eigen.correlations_, atol=1e-10)
    assert_allclose(krylov.encode_image(X), eigen.encode_image(X), atol=1e-6)
    assert_allclose(krylov.encode_text(T), eigen.encode_text(T), atol=1e-6)


def test_eigenvectors_are_taken_where_krylov_steps_do_not_converge(monkeypatch):
    X, T = correlated(300)
    expected = fit(X, T, kappa=0.5)
    module = sys.modules[Kcca.__module__]
    monkeypatch.setattr(module, "LARGEST_EIGH", 10)
    monkeypatch.setattr(module, "krylov_correlations", lambda *args, **settings: None)
    method = fit(X, T, kappa=0.5)
    assert method.route_ == "eigh"
    assert_array_equal(method.correlations_, expected.correlations_)


def test_landmarks_everywhere_are_exact(views):
    X, T = views
    exact, nystrom = fit(X, T, kappa=1.0), fit(X, T, kappa=1.0, approximation="nystrom")
    assert nystrom.route_ == "nystrom"
    assert_allclose(nystrom.correlations_, exact.correlations_, atol=1e-9)
    for F, G in (
        (nystrom.encode_image(X), exact.encode_image(X)),
        (nystrom.encode_text(T), exact.encode_text(T)),
    ):
        assert_allclose(F * np.sign((F * G).sum(axis=0)), G, atol=1e-5)


@pytest.mark.parametrize("approximation", ["nystrom", "cholesky"])
def test_few_landmarks_come_near_on_held_out_rows(approximation):
    X, T = correlated(900)
    train, rest = slice(0, 600), slice(600, 900)
    sums = {}
    for name, landmarks in (("exact", 1), (approximation, 200)):
        method = fit(X[train], T[train], kappa=1.0, approximation=name, n_landmarks=landmarks)
        F, G = method.encode_image(X[rest]), method.encode_text(T[rest])
        sums[name] = sum(np.corrcoef(F[:, j], G[:, j])[0, 1] for j in range(2))
    assert method.image_points_.shape[0] <= 200
    assert sums[approximation] == pytest.approx(sums["exact"], rel=0.05)


def test_auto_is_exact_up_to_the_documented_size(monkeypatch):
    X, T = correlated()
    module = sys.modules[Kcca.__module__]
    assert module.LARGEST_EXACT == 10_000
    assert fit(X, T).route_ == "eigh"
    monkeypatch.setattr(module, "LARGEST_EXACT", 89)
    assert fit(X, T).route_ == "nystrom"
    assert fit(X, T, approximation="exact").route_ == "eigh"


def test_tens_of_thousands_of_rows_take_landmarks_by_themselves():
    X, T = correlated(20_000)
    method = fit(X, T, k=2, n_landmarks=100, kappa=0.1)
    assert method.route_ == "nystrom"
    assert method.image_points_.shape == (100, 7)
    assert_allclose(method.encode_image(X).mean(axis=0), 0.0, atol=1e-8)
    near = fit(X, T, k=2, n_landmarks=300, kappa=0.1)
    assert method.correlations_[0] == pytest.approx(near.correlations_[0], rel=0.02)


def test_the_random_state_draws_the_landmarks_and_nothing_else():
    X, T = correlated()
    few = {"approximation": "nystrom", "n_landmarks": 20}
    one, same, other = (fit(X, T, random_state=seed, **few) for seed in (0, 0, 1))
    assert_array_equal(one.image_weights_, same.image_weights_)
    assert not np.array_equal(one.image_points_, other.image_points_)
    assert_array_equal(fit(X, T, random_state=0).encode_image(X), fit(X, T, random_state=1).encode_image(X))


@pytest.mark.parametrize("route", ["eigh", "krylov", "nystrom", "cholesky"])
@pytest.mark.parametrize("kept", [0, 1000])
def test_a_shared_fit_is_a_fresh_one(views, monkeypatch, route, kept):
    module = sys.modules[Kcca.__module__]
    monkeypatch.setattr(module, "LARGEST_KEPT", kept)
    if route == "krylov":
        monkeypatch.setattr(module, "LARGEST_EIGH", 10)
    settings = {"n_components": 2, "n_landmarks": 40}
    settings["approximation"] = route if route in ("nystrom", "cholesky") else "exact"
    views = tripled(views)
    pairs = pairs_of(*views)
    context = FitContext(pieces=Pieces(pairs))
    for changed in (
        {"kappa": 1.0},
        {"kappa": 10.0},
        {"bandwidth": 2.0},
        {"kernel": "linear"},
        {"kappa": 1.0},
    ):
        method = Kcca(**settings | changed).fit(pairs, context=context)
        fresh = Kcca(**settings | changed).fit(pairs)
        assert method.route_ == route or "kernel" in changed
        assert_array_equal(method.image_weights_, fresh.image_weights_)
        assert_array_equal(method.encode_text(views[1]), fresh.encode_text(views[1]))
        assert set(vars(method)) == set(vars(fresh))


# -- out of sample ----------------------------------------------------------------------------------


@pytest.mark.parametrize("approximation", ROUTES)
def test_training_scores_are_centred(views, approximation):
    method = fit(*views, approximation=approximation)
    assert_allclose(method.encode_image(views[0]).mean(axis=0), 0.0, atol=1e-8)
    assert_allclose(method.encode_text(views[1]).mean(axis=0), 0.0, atol=1e-8)


def test_new_rows_are_centred_as_the_formula_has_it(views):
    X = views[0]
    method = fit(*views)
    new = X[:20] + np.float32(0.3)
    K, k = gaussian(X, X, method.bandwidths_[0]), gaussian(new, X, method.bandwidths_[0])
    centred = k - k.mean(axis=1, keepdims=True) - K.mean(axis=0) + K.mean()
    assert_allclose(method.encode_image(new), centred @ method.image_weights_, atol=1e-7)
    own = centred_kernel(X, method.bandwidths_[0]) @ method.image_weights_
    assert_allclose(method.encode_image(X), own, atol=1e-7)


def test_many_rows_are_encoded_as_few_are():
    X, T = correlated()
    method = fit(X, T)
    module = sys.modules[Kcca.__module__]
    whole = method.encode_image(X)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", 500)
        assert_allclose(method.encode_image(X), whole, atol=1e-12)


# -- awkward data -----------------------------------------------------------------------------------


@pytest.mark.parametrize("approximation", ROUTES)
def test_fewer_rows_than_columns_constant_columns_and_duplicates(approximation):
    X, T = correlated(40, 60, 50)
    X[:, 3] = 7.0
    T[:, :2] = 0.1
    X, T = np.vstack([X, X[:30]]), np.vstack([T, T[:30]])
    method = fit(X, T, k=None, approximation=approximation)
    assert method.encode_image(X).shape == (70, 3)
    for scores in (method.encode_image(X), method.encode_text(T)):
        assert np.isfinite(scores).all()
        assert_allclose(scores[:30], scores[40:], atol=1e-8)


@pytest.mark.parametrize("approximation", ROUTES)
@pytest.mark.parametrize("side", [0, 1])
def test_a_modality_whose_rows_are_all_the_same_is_refused(side, approximation):
    views = list(correlated())
    views[side] = np.full_like(views[side], 0.1)
    with pytest.raises(Unsupported, match="all the same"):
        fit(*views, approximation=approximation)


def test_most_rows_may_be_the_same():
    X, T = correlated()
    X[:80] = X[0]
    method = fit(X, T, k=2)
    assert np.isfinite(method.encode_image(X)).all()


@pytest.mark.parametrize("name", ["kappa", "bandwidth"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_what_must_be_positive_is(name, value):
    with pytest.raises(InvalidParameter, match=rf"Kcca\.{name}"):
        fit(*correlated(), **{name: value})


def test_bad_dimensions_and_landmarks_are_refused():
    for k in (0, -2):
        with pytest.raises(InvalidParameter, match=rf"n_components: .* got {k}"):
            fit(*correlated(), k=k)
    with pytest.raises(InvalidParameter, match=r"expected 1\.\.\d+, the rank of the training data, got 90"):
        fit(*correlated(), k=90)
    with pytest.raises(InvalidParameter, match=r"Kcca\.n_landmarks"):
        fit(*correlated(), n_landmarks=0)


def test_the_deadline_ends_a_fit(monkeypatch):
    monkeypatch.setattr(sys.modules[Kcca.__module__], "LARGEST_EIGH", 10)
    pairs = pairs_of(*correlated(400))
    with pytest.raises(DeadlineExceeded):
        Kcca().fit(pairs, context=FitContext(deadline=0.0))
    with pytest.raises(DeadlineExceeded):
        Kcca(approximation="nystrom").fit(pairs, context=FitContext(deadline=0.0))


def test_incomplete_cholesky_is_no_departure():
    assert len(Kcca.resolve({"preset": "incomplete"}).departures) < 1 + len(Kcca().departures)
    assert Kcca.resolve({"preset": "incomplete"}).departures != Kcca().departures


# -- kernels ----------------------------------------------------------------------------------------


def test_grams_hold_the_lower_triangle_of_the_kernel(monkeypatch):
    X, _ = correlated()
    monkeypatch.setattr("xmbench.kernels.BLOCK", 700)
    X, kernel = X - X.mean(axis=0, dtype=np.float64), Kernel(2.0)
    gram = kernel.gram(X)
    assert_array_equal(kernel.gram(X, list(distance_blocks(X))), gram)
    assert_allclose(np.tril(gram), np.tril(gaussian(X, X, 2.0)), atol=1e-12)
    centred, means = centre_gram(gram.copy(order="F"))
    assert_allclose(np.tril(centred), np.tril(centred_kernel(X, 2.0)), atol=1e-12)
    assert_allclose(means, gaussian(X, X, 2.0).mean(axis=0), atol=1e-12)
    assert_allclose(kernel(X[:7], X), gaussian(X[:7], X, 2.0), atol=1e-10)
    full = np.tril(centred) + np.tril(centred, -1).T
    assert_allclose(full.sum(axis=0), 0.0, atol=1e-10)


@pytest.mark.parametrize("bandwidth", [2.0, None])
def test_pivots_are_those_of_a_pivoted_cholesky_decomposition(bandwidth):
    X, _ = correlated()
    X, kernel = X - X.mean(axis=0, dtype=np.float64), Kernel(bandwidth)
    K = kernel(X, X)
    residual, expected = K.copy(), []
    while np.trace(residual) > 1e-3 * np.trace(K):
        pivot = int(np.diag(residual).argmax())
        column = residual[:, pivot] / np.sqrt(residual[pivot, pivot])
        residual = residual - np.outer(column, column)
        expected.append(pivot)
    found = pivots(kernel, X, 90)
    assert_array_equal(found, expected)
    assert_array_equal(pivots(kernel, X, 4), expected[:4])
    features = kernel(X, X[found]) @ landmark_map(kernel, X[found])
    assert np.trace(K - features @ features.T) <= 1.001e-3 * np.trace(K)


def test_pivots_end_with_the_different_rows():
    rows = np.repeat(np.float64(correlated(6)[0]), 5, axis=0)
    found = pivots(Kernel(0.5), rows, 30, tolerance=0.0)
    assert len(found) == 6
    assert len(np.unique(rows[found], axis=0)) == 6


def test_the_median_distance_is_of_a_fixed_draw_of_many_rows():
    rows = np.random.default_rng(0).standard_normal((500, 4))
    whole, drawn = np.median(pdist(rows)), median_distance(rows, most=200)
    assert drawn == median_distance(rows, most=200)
    assert drawn == pytest.approx(whole, rel=0.1)
    assert median_distance(rows) == pytest.approx(whole)
