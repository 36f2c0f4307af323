"""Three-view canonical correlation analysis: the eigenproblem as its authors wrote it, and its limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.io import loadmat
from scipy.linalg import block_diag, eigh

from xmbench import Pairs
from xmbench.errors import InvalidParameter, Unsupported
from xmbench.linalg import multiview_directions, whiten_views
from xmbench.method import FitContext
from xmbench.registry import Registry
from xmbench.reuse import Pieces
from xmbench.scaling import Scaling
from xmbench.testing import synthetic_pairs

Cca3v, Cca = Registry().method("cca_3v"), Registry().method("cca")


@pytest.fixture(scope="module")
def wikipedia(data_dir) -> Pairs:
    """400 pairs of visual words and topics, z-scored; rank 127 and 9."""
    stored = loadmat(data_dir / "wikipedia" / "wikipedia_dataset" / "raw_features.mat")
    rows = np.random.default_rng(0).permutation(2173)[:400]
    images, texts = (Scaling("zscore").fit_transform(stored[name][rows]) for name in ("I_tr", "T_tr"))
    folder = data_dir / "wikipedia" / "wikipedia_dataset"
    classes = [
        int(line.split("\t")[2]) for line in (folder / "trainset_txt_img_cat.list").read_text().splitlines()
    ]
    ids = tuple(map(str, rows))
    return Pairs(images=images, texts=texts, labels=np.array(classes)[rows] - 1, ids=ids, n_classes=10)


@pytest.fixture(params=["random", "multi-label", "few rows", "wikipedia"])
def pairs(request) -> Pairs:
    if request.param == "wikipedia":
        return request.getfixturevalue("wikipedia")
    n, d = (40, 60) if request.param == "few rows" else (120, 12)
    return synthetic_pairs(n, d_image=d, multi_label=request.param == "multi-label", noise=1.0)


def views_of(pairs: Pairs) -> list[np.ndarray]:
    views = [pairs.images, pairs.texts, pairs.one_hot()]
    return [view - view.mean(axis=0, dtype=np.float64) for view in views]


def eigenproblem(pairs: Pairs, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """S_all and S_diag, the ridge on every within-view block of both."""
    views = views_of(pairs)
    n = len(pairs) - 1
    within = [
        (view.T @ view + ridge * (view**2).sum() / view.shape[1] * np.eye(view.shape[1])) / n
        for view in views
    ]
    whole = np.hstack(views).T @ np.hstack(views) / n
    between = whole - block_diag(*(view.T @ view / n for view in views))
    return between + block_diag(*within), block_diag(*within)


def stacked(method) -> np.ndarray:
    return np.vstack([method.image_weights_, method.text_weights_, method.label_weights_])


@pytest.mark.parametrize("ridge", [1e-3, 1.0])
def test_it_solves_the_generalised_eigenproblem(pairs, ridge):
    method = Cca3v(n_components=5, ridge=ridge, power=0.0).fit(pairs)
    whole, within = eigenproblem(pairs, ridge)
    W = stacked(method)
    assert_allclose(method.eigenvalues_, eigh(whole, within, eigvals_only=True)[::-1][:5], atol=1e-8)
    assert_allclose(W.T @ within @ W, np.eye(5), atol=1e-8)
    assert_allclose(whole @ W, within @ W * method.eigenvalues_, atol=1e-6 * np.abs(whole @ W).max())
    assert (np.diff(method.eigenvalues_) <= 1e-12).all()


def test_eigenvalues_lie_between_one_and_the_number_of_views(pairs):
    values = Cca3v(n_components=5, ridge=1e-3).fit(pairs).eigenvalues_
    assert (values > 1).all()
    assert (values <= 3 + 1e-10).all()


@pytest.mark.parametrize("ridge", [1e-3, 1.0])
def test_with_two_views_eigenvalues_are_one_plus_the_correlations(pairs, ridge):
    white = whiten_views((pairs.images, pairs.texts), ridge, 5)
    values, (A, B) = multiview_directions(white.between, [Z.rank for Z in white.maps], 5)
    cca = Cca(n_components=5, ridge=ridge).fit(pairs)
    assert_allclose(values, 1 + cca.correlations_, atol=1e-10)
    F = pairs.images - cca.image_mean_
    for side, ours, theirs in ((0, A, cca.image_weights_), (1, B, cca.text_weights_)):
        P = white.maps[side].weights(ours) * np.sqrt(2 * (len(F) - 1))
        assert_allclose(P * np.sign((P * theirs).sum(axis=0)), theirs, atol=1e-6 * np.abs(theirs).max())


def test_the_power_rescales_columns_and_nothing_else(pairs):
    plain, powered = (Cca3v(n_components=5, power=power).fit(pairs) for power in (0.0, 4.0))
    assert_array_equal(powered.eigenvalues_, plain.eigenvalues_)
    scale = plain.eigenvalues_**4
    assert_allclose(
        powered.encode_image(pairs.images), plain.encode_image(pairs.images) * scale, rtol=1e-9, atol=1e-9
    )
    assert_allclose(
        powered.encode_text(pairs.texts), plain.encode_text(pairs.texts) * scale, rtol=1e-9, atol=1e-9
    )


def test_labels_bring_the_items_of_a_class_together():
    train, test = (
        synthetic_pairs(150, noise=1.5, seed=0).take(rows) for rows in np.split(np.arange(150), [100])
    )
    spread = {}
    for name, method in (("cca", Cca(ridge=1.0)), ("cca_3v", Cca3v(ridge=1.0))):
        F = method.fit(train).encode_image(test.images)
        F = F / np.linalg.norm(F, axis=1, keepdims=True)
        same = test.labels[:, None] == test.labels
        spread[name] = (F @ F.T)[same].mean() - (F @ F.T)[~same].mean()
    assert spread["cca_3v"] > spread["cca"]


def test_lanczos_finds_what_a_full_decomposition_finds():
    pairs = synthetic_pairs(900, d_image=500, d_text=300, noise=1.0)
    method = Cca3v(n_components=5, ridge=0.1).fit(pairs)
    whole, within = eigenproblem(pairs, 0.1)
    size = len(whole)
    expected = eigh(whole, within, eigvals_only=True, subset_by_index=(size - 5, size - 1))[::-1]
    assert_allclose(method.eigenvalues_, expected, atol=1e-10)
    assert_array_equal(Cca3v(n_components=5, ridge=0.1).fit(pairs).image_weights_, method.image_weights_)


def test_constant_columns_and_classes_without_items_change_nothing():
    pairs = synthetic_pairs(120, noise=1.0)
    padded = Pairs(
        images=np.hstack([pairs.images, np.full((120, 2), 0.1, np.float32)]),
        texts=pairs.texts,
        labels=pairs.labels,
        ids=pairs.ids,
        n_classes=7,
    )
    # the same absolute ridges: two of fourteen columns, two of seven classes add nothing to the mean
    plain = Cca3v(n_components=5, ridge=1e-9).fit(pairs)
    wide = Cca3v(n_components=5, ridge=1e-9).fit(padded)
    assert_allclose(wide.eigenvalues_, plain.eigenvalues_, atol=1e-6)
    assert_allclose(wide.image_weights_[-2:], 0.0, atol=1e-12)


def test_a_shared_fit_is_a_fresh_one(pairs):
    context = FitContext(pieces=Pieces(pairs))
    for parameters in ({"ridge": 1.0}, {"ridge": 0.1}, {"ridge": 0.1, "power": 1.0}, {"n_components": 3}):
        method, fresh = Cca3v(**parameters).fit(pairs, context=context), Cca3v(**parameters).fit(pairs)
        assert_array_equal(stacked(method), stacked(fresh))
        assert set(vars(method)) == set(vars(fresh))


def test_the_common_space_has_as_many_dimensions_as_classes_or_as_the_rank_allows(wikipedia):
    assert Cca3v().fit(wikipedia).encode_text(wikipedia.texts).shape == (400, 9)
    assert Cca3v().fit(synthetic_pairs()).image_weights_.shape == (12, 5)
    with pytest.raises(InvalidParameter, match=r"n_components: expected 1\.\.9, the rank"):
        Cca3v(n_components=10).fit(wikipedia)


@pytest.mark.parametrize("ridge", [0.0, -1.0, float("nan"), float("inf")])
def test_the_ridge_is_positive(ridge):
    with pytest.raises(InvalidParameter, match=r"Cca3v\.ridge"):
        Cca3v(ridge=ridge).fit(synthetic_pairs())


@pytest.mark.parametrize("power", [-1.0, float("nan"), float("inf")])
def test_the_power_is_at_least_zero(power):
    with pytest.raises(InvalidParameter, match=r"Cca3v\.power"):
        Cca3v(power=power).fit(synthetic_pairs())


@pytest.mark.parametrize("side", ["images", "texts"])
def test_a_modality_whose_rows_are_all_the_same_is_refused(side):
    pairs = synthetic_pairs()
    with pytest.raises(Unsupported, match="all the same"):
        Cca3v().fit(replace(pairs, **{side: np.full_like(getattr(pairs, side), 0.1)}))
