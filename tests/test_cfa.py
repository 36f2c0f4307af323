"""Cross-modal factor analysis: its constraint, its optimality, and what other solvers say."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.io import loadmat
from sklearn.cross_decomposition import PLSSVD

from xmbench import Pairs
from xmbench.errors import InvalidParameter, Unsupported
from xmbench.method import FitContext
from xmbench.registry import Registry
from xmbench.reuse import Pieces
from xmbench.scaling import Scaling
from xmbench.testing import synthetic_pairs

Cca, Cfa = Registry().method("cca"), Registry().method("cfa")


def views(n: int = 60, d_image: int = 7, d_text: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((n, 3))
    X = shared @ rng.standard_normal((3, d_image)) + 0.3 * rng.standard_normal((n, d_image)) + 2.0
    T = shared @ rng.standard_normal((3, d_text)) + 0.3 * rng.standard_normal((n, d_text)) - 4.0
    return np.float32(X), np.float32(T)


def pairs_of(images, texts, n_classes: int = 3) -> Pairs:
    n = len(images)
    ids = tuple(str(i) for i in range(n))
    return Pairs(images=images, texts=texts, labels=np.arange(n) % n_classes, ids=ids, n_classes=n_classes)


def fit(images, texts, k: int | None = None, n_classes: int = 3):
    return Cfa(n_components=k).fit(pairs_of(images, texts, n_classes))


def centred(rows) -> np.ndarray:
    rows = np.asarray(rows, dtype=np.float64)
    return rows - rows.mean(axis=0)


def test_projections_are_orthonormal_and_diagonalise_the_cross_product():
    X, T = views()
    method = fit(X, T, k=4)
    A, B = method.image_weights_, method.text_weights_
    assert_allclose(A.T @ A, np.eye(4), atol=1e-12)
    assert_allclose(B.T @ B, np.eye(4), atol=1e-12)
    assert_allclose(A.T @ centred(X).T @ centred(T) @ B, np.diag(method.singular_values_), atol=1e-10)
    assert (np.diff(method.singular_values_) <= 0).all()


def test_with_all_components_the_distance_is_the_closed_form_minimum():
    """||XA - TB||^2 = ||X||^2 + ||T||^2 - 2 (sum of singular values of X'T), and no rotation is better."""
    X, T = views(d_image=5)
    method = fit(X, T, k=5)
    X, T = centred(X), centred(T)
    reached = ((X @ method.image_weights_ - T @ method.text_weights_) ** 2).sum()
    nuclear = np.linalg.norm(X.T @ T, ord="nuc")
    assert_allclose(reached, (X**2).sum() + (T**2).sum() - 2 * nuclear, rtol=1e-10)
    rng = np.random.default_rng(1)
    for _ in range(200):
        A, B = (np.linalg.qr(rng.standard_normal((5, 5)))[0] for _ in range(2))
        assert ((X @ A - T @ B) ** 2).sum() > reached


def test_no_other_orthonormal_pair_captures_more_of_the_cross_product():
    X, T = views()
    best = fit(X, T, k=2).singular_values_.sum()
    cross = centred(X).T @ centred(T)
    rng = np.random.default_rng(2)
    for _ in range(500):
        A, B = (np.linalg.qr(rng.standard_normal((d, 2)))[0] for d in cross.shape)
        assert np.trace(A.T @ cross @ B) < best


def test_sklearn_finds_the_same_projections():
    X, T = views()
    method = fit(X, T, k=4)
    reference = PLSSVD(n_components=4, scale=False).fit(X.astype(float), T.astype(float))
    signs = np.sign((reference.x_weights_ * method.image_weights_).sum(axis=0))
    assert_allclose(reference.x_weights_ * signs, method.image_weights_, atol=1e-10)
    assert_allclose(reference.y_weights_ * signs, method.text_weights_, atol=1e-10)


def test_on_white_features_it_is_canonical_correlation_analysis():
    X, T = views()
    white = []
    for rows in (X, T):
        left, _, _ = np.linalg.svd(centred(rows), full_matrices=False)
        white.append(left * np.sqrt(len(rows) - 1))
    X, T = white
    cca = Cca(n_components=4, ridge=0.0).fit(pairs_of(X, T))
    cfa = fit(X, T, k=4)
    assert_allclose(cfa.singular_values_ / (len(X) - 1), cca.correlations_, atol=1e-6)
    assert_allclose(cfa.encode_image(X), cca.encode_image(X), atol=1e-5)
    assert_allclose(cfa.encode_text(T), cca.encode_text(T), atol=1e-5)


def test_fewer_components_are_the_first_of_more():
    X, T = views()
    two, four = fit(X, T, k=2), fit(X, T, k=4)
    assert_allclose(two.image_weights_, four.image_weights_[:, :2], atol=1e-12)
    assert_allclose(two.encode_text(T), four.encode_text(T)[:, :2], atol=1e-12)


def test_rotating_a_modality_rotates_its_projection_only():
    X, T = views()
    R, _ = np.linalg.qr(np.random.default_rng(3).standard_normal((7, 7)))
    plain, turned = fit(X, T, k=3), fit(X @ R, T, k=3)
    assert_allclose(turned.singular_values_, plain.singular_values_, rtol=1e-5)
    F, G = plain.encode_image(X), turned.encode_image(X @ R)
    assert_allclose(np.abs((F * G).sum(axis=0)), (F**2).sum(axis=0), rtol=1e-4)


def test_scaling_one_modality_scales_the_singular_values():
    X, T = views()
    assert_allclose(fit(8 * X, T, k=3).singular_values_, 8 * fit(X, T, k=3).singular_values_, rtol=1e-12)


def test_the_lanczos_route_finds_what_a_full_decomposition_finds():
    X, T = views(n=120, d_image=90, d_text=70, seed=4)
    method = fit(X, T, k=6)
    left, values, right = np.linalg.svd(centred(X).T @ centred(T))
    assert_allclose(method.singular_values_, values[:6], rtol=1e-10)
    signs = np.sign((left[:, :6] * method.image_weights_).sum(axis=0))
    assert_allclose(left[:, :6] * signs, method.image_weights_, atol=1e-7)
    assert_allclose(right[:6].T * signs, method.text_weights_, atol=1e-7)


def test_encoding_the_training_rows_is_centring_and_projecting():
    X, T = views()
    method = fit(X, T, k=3)
    assert_allclose(method.encode_image(X), centred(X) @ method.image_weights_, atol=1e-10)
    assert_allclose(method.encode_text(T), centred(T) @ method.text_weights_, atol=1e-10)


@pytest.mark.parametrize(("n_classes", "expected"), [(2, 2), (4, 4), (9, 5)])
def test_the_common_space_has_as_many_dimensions_as_classes_or_as_the_rank_allows(n_classes, expected):
    X, T = views()
    assert fit(X, T, n_classes=n_classes).encode_text(T).shape == (60, expected)


@pytest.mark.parametrize("k", [0, -1, 6])
def test_the_number_of_components_lies_within_the_rank(k):
    with pytest.raises(InvalidParameter, match=rf"expected 1\.\.5, the rank of the training data, got {k}"):
        fit(*views(), k=k)


def test_no_component_is_made_of_rounding_noise():
    """X'T of rank 2 in 7 x 5: a third direction would be noise."""
    X, T = views()
    X = np.float32(X[:, :2] @ np.random.default_rng(5).integers(-3, 4, (2, 7)))
    assert fit(X, T, n_classes=6).singular_values_.shape == (2,)
    with pytest.raises(InvalidParameter, match=r"expected 1\.\.2, the rank"):
        fit(X, T, k=3)


def test_fewer_rows_than_columns_are_no_obstacle():
    X, T = views(n=10, d_image=40, d_text=30)
    method = fit(X, T, k=9)
    assert_allclose(method.image_weights_.T @ method.image_weights_, np.eye(9), atol=1e-10)
    with pytest.raises(InvalidParameter, match=r"expected 1\.\.9"):
        fit(X, T, k=10)


@pytest.mark.parametrize("shape", [(7, 5), (90, 70)], ids=["full", "lanczos"])
@pytest.mark.parametrize("constant", [0.0, 0.1])
@pytest.mark.parametrize("side", [0, 1])
def test_a_modality_whose_rows_are_all_the_same_is_refused(shape, constant, side):
    rows = list(views(60, *shape))
    rows[side] = np.full_like(rows[side], constant)
    with pytest.raises(Unsupported, match="all the same"):
        fit(*rows)


def test_a_single_pair_is_refused():
    with pytest.raises(Unsupported, match="all the same"):
        Cfa().fit(synthetic_pairs(1))


def test_sums_over_many_blocks_are_those_over_one(monkeypatch):
    X, T = views(300, 30, 20)
    whole = fit(X, T, k=4)
    monkeypatch.setattr("xmbench.linalg.BLOCK", 30 * 7)
    blocks = fit(X, T, k=4)
    assert_allclose(blocks.image_weights_, whole.image_weights_, atol=1e-10)
    assert_allclose(blocks.singular_values_, whole.singular_values_, rtol=1e-12)


def test_a_shared_fit_is_a_fresh_one():
    pairs = pairs_of(*views(120, 90, 70))
    context = FitContext(pieces=Pieces(pairs))
    for k in (3, 5, 20, 4):
        method, fresh = Cfa(n_components=k).fit(pairs, context=context), Cfa(n_components=k).fit(pairs)
        assert_array_equal(method.image_weights_, fresh.image_weights_)
        assert_array_equal(method.text_weights_, fresh.text_weights_)
        assert set(vars(method)) == set(vars(fresh))


def test_on_wikipedia_it_is_the_nuclear_norm_and_scikit_learns(data_dir):
    stored = loadmat(data_dir / "wikipedia" / "wikipedia_dataset" / "raw_features.mat")
    X, T = (Scaling("zscore").fit_transform(stored[name]) for name in ("I_tr", "T_tr"))
    method = fit(X, T, k=9)
    A, B, cross = method.image_weights_, method.text_weights_, centred(X).T @ centred(T)
    assert_allclose(method.singular_values_.sum(), np.linalg.norm(cross, ord="nuc"), rtol=1e-6)
    assert_allclose(A.T @ A, np.eye(9), atol=1e-12)
    assert_allclose(A.T @ cross @ B, np.diag(method.singular_values_), atol=1e-7)
    reference = PLSSVD(n_components=9, scale=False).fit(X.astype(float), T.astype(float))
    signs = np.sign((reference.x_weights_ * A).sum(axis=0))
    assert_allclose(reference.x_weights_ * signs, A, atol=1e-8)
    assert_allclose(reference.y_weights_ * signs, B, atol=1e-8)
