"""JRL: its objective by loops, its limits and symmetries, its graph, its posteriors."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from xmbench import FitContext, graphs, reweighting
from xmbench.errors import DeadlineExceeded, InvalidParameter, Unsupported
from xmbench.registry import Registry
from xmbench.reuse import Pieces
from xmbench.testing import synthetic_data, synthetic_pairs

Jrl = Registry().method("jrl")
EXACT = {"tol": 0.0, "max_iter": 400}


@pytest.fixture(params=["random", "multi_label", "wide", "wikipedia"])
def pairs(request):
    if request.param == "wikipedia":
        return request.getfixturevalue("wikipedia_pairs")
    width = 200 if request.param == "wide" else 12
    return synthetic_pairs(60, d_image=width, multi_label=request.param == "multi_label", noise=1.0)


def centred(rows) -> np.ndarray:
    return rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)


def slow_laplacian(rows: np.ndarray, method) -> np.ndarray:
    n = len(rows)
    distances = np.array([[np.linalg.norm(a - b) for b in rows] for a in rows])
    order = [[j for j in np.argsort(distances[i], kind="stable") if j != i] for i in range(n)]
    similarity = 1 / (1 + np.exp(distances))
    binary = np.zeros((n, n))
    for i in range(n):
        binary[i, order[i][: method.neighbours]] = 1
    if method.graph == "author":
        degrees = ((binary + binary.T) > 0).sum(axis=1)
        return np.eye(n) - similarity / np.sqrt(np.outer(degrees, degrees))
    weights = binary if method.graph == "binary" else binary * similarity
    weights = (weights + weights.T) / 2
    degrees = weights.sum(axis=1)
    return np.eye(n) - weights / np.sqrt(np.outer(degrees, degrees))


def slow_objective(method, pairs, more=None) -> float:
    """J as the docstring has it, term by term and item by item."""
    X, T, Y = centred(pairs.images), centred(pairs.texts), pairs.one_hot()
    P, Q = method.image_weights_, method.text_weights_
    total = 0.0
    for i in range(len(X)):
        f, g = X[i] @ P, T[i] @ Q
        total += method.mu * (((f - Y[i]) ** 2).sum() + ((g - Y[i]) ** 2).sum())
        total += method.lam * ((f - g) ** 2).sum()
    for rows, extra, W in (
        (pairs.images, more and more[0], P),
        (pairs.texts, more and more[1], Q),
    ):
        total += method.gamma * sum(np.sqrt(row @ row + method.smoothing) for row in W)
        every = rows if extra is None else np.vstack([rows, extra])
        every = every - rows.mean(axis=0, dtype=np.float64)
        scores = every @ W
        total += method.sigma * np.trace(scores.T @ slow_laplacian(every, method) @ scores)
    return float(total)


@pytest.mark.parametrize("graph", ["knn", "binary", "author"])
def test_the_objective_is_that_of_a_loop(graph):
    pairs = synthetic_pairs(40, noise=1.0)
    method = Jrl(gamma=3.0, sigma=2.0, lam=0.7, mu=1.3, graph=graph, neighbours=5).fit(pairs)
    assert method.objective_history_[-1] == pytest.approx(slow_objective(method, pairs), rel=1e-9)


def test_the_objective_of_a_transductive_fit_has_the_unlabelled_rows_in_its_graph():
    data = synthetic_data(40, 0, 20, noise=1.0)
    more = data.test.images, data.test.texts
    context = FitContext(unlabelled_images=more[0], unlabelled_texts=more[1])
    method = Jrl(gamma=3.0, sigma=2.0, neighbours=5, unlabeled="test").fit(data.train, context=context)
    assert method.objective_history_[-1] == pytest.approx(slow_objective(method, data.train, more), rel=1e-9)


def test_no_update_raises_the_objective(pairs):
    rng = np.random.default_rng(0)
    for _ in range(8):
        gamma, sigma, lam, mu = 10 ** rng.uniform(-2, 3, 4)
        settings = {
            "gamma": gamma,
            "sigma": sigma,
            "lam": lam,
            "mu": mu,
            "neighbours": int(rng.integers(2, 30)),
        }
        settings |= {"graph": str(rng.choice(["knn", "binary"]))}
        settings |= {"init": str(rng.choice(["ridge", "uniform"]))}
        history = Jrl(**settings, max_iter=12, tol=0.0).fit(pairs).objective_history_
        assert (np.diff(history) <= 1e-9 * history[:-1]).all(), settings


def test_the_dense_graph_of_near_rows_is_refused_where_it_leaves_no_minimum(wikipedia_pairs):
    """Its degrees count neighbours, while its similarities are those of all rows: it need not be semidefinite."""
    assert np.isfinite(Jrl(graph="author", neighbours=100).fit(wikipedia_pairs).objective_history_).all()
    with pytest.raises(Unsupported, match="more neighbours"):
        Jrl(graph="author", neighbours=2, sigma=100.0).fit(wikipedia_pairs)


def test_the_solution_is_stationary(pairs):
    method = Jrl(gamma=5.0, sigma=0.5, lam=2.0, smoothing=1e-4, neighbours=5, **EXACT).fit(pairs)
    X, T, Y = centred(pairs.images), centred(pairs.texts), pairs.one_hot()
    P, Q = method.image_weights_, method.text_weights_
    for X, P, G in ((X, P, T @ Q), (T, Q, X @ P)):  # noqa: B020
        indices, distances = graphs.nearest(X, 5)
        L = graphs.normalised_laplacian(graphs.affinity(indices, graphs.sigmoid_weights(distances)))
        gradient = X.T @ ((X @ P - Y) + 2.0 * (X @ P - G) + 0.5 * (L @ (X @ P)))
        gradient += 5.0 * P / (2 * np.sqrt((P**2).sum(axis=1, keepdims=True) + 1e-4))
        assert np.abs(gradient).max() < 1e-5 * np.abs(X.T @ Y).max()


def test_without_penalties_it_is_least_squares():
    pairs = synthetic_pairs(noise=1.0)
    method = Jrl(gamma=1e-9, sigma=1e-9, lam=1e-9).fit(pairs)
    for rows, weights in ((pairs.images, method.image_weights_), (pairs.texts, method.text_weights_)):
        assert_allclose(weights, np.linalg.lstsq(centred(rows), pairs.one_hot())[0], atol=1e-9)


def test_without_the_pair_term_the_modalities_are_fitted_apart(pairs):
    order = np.random.default_rng(0).permutation(len(pairs))
    other = replace(pairs, texts=pairs.texts[order])
    for lam, alike in ((0.0, True), (1.0, False)):
        one, two = (Jrl(lam=lam, gamma=10.0, max_iter=5, tol=0.0).fit(each) for each in (pairs, other))
        same = np.allclose(one.image_weights_, two.image_weights_, atol=1e-12)
        assert same == alike


def test_exchanging_the_modalities_exchanges_the_projections():
    pairs = synthetic_pairs(noise=1.0)
    settings = {"gamma": 5.0, "lam": 3.0, **EXACT}
    one = Jrl(**settings).fit(pairs)
    other = Jrl(**settings).fit(replace(pairs, images=pairs.texts, texts=pairs.images))
    assert_allclose(other.text_weights_, one.image_weights_, atol=1e-6)
    assert_allclose(other.image_weights_, one.text_weights_, atol=1e-6)


def test_both_schemes_and_both_starts_end_at_the_one_minimum():
    pairs = synthetic_pairs(noise=1.0)
    found = [
        Jrl(gamma=5.0, scheme=scheme, init=init, **EXACT).fit(pairs)
        for scheme in ("gauss_seidel", "jacobi")
        for init in ("ridge", "uniform")
    ]
    for method in found[1:]:
        assert_allclose(method.image_weights_, found[0].image_weights_, atol=1e-6)


def test_a_larger_gamma_leaves_fewer_rows():
    pairs = synthetic_pairs(d_image=30, noise=1.0)
    kept = []
    for gamma in (1.0, 10.0, 30.0, 100.0):
        weights = Jrl(gamma=gamma, max_iter=200, tol=0.0).fit(pairs).image_weights_
        norms = np.linalg.norm(weights, axis=1)
        kept.append(int((norms > 1e-4).sum()))
    assert kept == sorted(kept, reverse=True)
    assert kept[0] > kept[-1]


def test_the_small_system_gives_what_the_large_one_gives(monkeypatch):
    pairs = synthetic_pairs(40, d_image=200, d_text=150, noise=1.0)
    small = Jrl(neighbours=5, gamma=1.0).fit(pairs)
    monkeypatch.setattr(reweighting, "dual_is_cheaper", lambda n, d: False)
    large = Jrl(neighbours=5, gamma=1.0).fit(pairs)
    assert_allclose(small.image_weights_, large.image_weights_, atol=1e-9)
    assert_allclose(small.objective_history_, large.objective_history_, rtol=1e-9)


@pytest.mark.parametrize("d_image", [12, 300])
def test_a_fit_that_shares_is_a_fresh_fit(d_image):
    data = synthetic_data(60, 0, 30, d_image=d_image)
    more = {"unlabelled_images": data.test.images, "unlabelled_texts": data.test.texts}
    shared = FitContext(pieces=Pieces(data.train), **more)
    for changed in ({}, {"gamma": 3.0}, {"neighbours": 7}, {"graph": "binary"}, {"sigma": 0.0}, {"lam": 0.5}):
        for unlabeled in ("none", "test"):
            method = Jrl(unlabeled=unlabeled, **changed).fit(data.train, context=shared)
            fresh = Jrl(unlabeled=unlabeled, **changed).fit(data.train, context=FitContext(**more))
            assert_array_equal(method.image_weights_, fresh.image_weights_)


def test_unlabelled_rows_count_through_the_graph_alone():
    data = synthetic_data(60, 0, 30)
    context = FitContext(unlabelled_images=data.test.images, unlabelled_texts=data.test.texts)
    for sigma, alike in ((0.0, True), (10.0, False)):
        with_test = Jrl(sigma=sigma, unlabeled="test").fit(data.train, context=context)
        without = Jrl(sigma=sigma).fit(data.train, context=context)
        assert np.allclose(with_test.image_weights_, without.image_weights_, atol=1e-10) == alike


def test_it_is_transductive_only_when_asked_for():
    assert not Jrl().transductive
    assert not Jrl.resolve({"preset": "author"}).transductive
    method = Jrl.resolve({"preset": "author_transductive"})
    assert method.transductive
    with pytest.raises(Unsupported, match="--transductive"):
        method.fit(synthetic_pairs())


@pytest.mark.parametrize("preset", ["author", "author_transductive"])
def test_the_author_preset_makes_two_updates_and_more_would_collapse(wikipedia_pairs, preset):
    context = FitContext(
        unlabelled_images=wikipedia_pairs.images[:300] + np.float32(0.1),
        unlabelled_texts=wikipedia_pairs.texts[:300] + np.float32(0.1),
    )
    author, late = (
        Jrl.resolve({"preset": preset, **more}).fit(wikipedia_pairs, context=context)
        for more in ({}, {"max_iter": 30})
    )
    assert len(author.objective_history_) == 3
    assert np.linalg.norm(late.image_weights_) < 0.2 * np.linalg.norm(author.image_weights_)


@pytest.mark.parametrize("multi_label", [False, True])
def test_posteriors_are_weighted_votes(multi_label):
    data = synthetic_data(30, 0, 20, multi_label=multi_label, noise=1.0)
    settings = {"gamma": 1.0, "neighbours": 5, "posterior_neighbours": 7}
    method = Jrl(**settings, output="posterior").fit(data.train)
    plain = Jrl(**settings).fit(data.train)
    train = [*plain.encode_image(data.train.images), *plain.encode_text(data.train.texts)]
    Y = np.vstack([data.train.one_hot()] * 2)
    for rows, encode, project in (
        (data.test.images, method.encode_image, plain.encode_image),
        (data.test.texts, method.encode_text, plain.encode_text),
    ):
        for posterior, z in zip(encode(rows), project(rows), strict=True):
            distances = np.array([np.linalg.norm(z - other) for other in train])
            nearest = np.argsort(distances)[:7]
            weights = 1 / (1 + np.exp(distances[nearest]))
            assert_allclose(posterior, weights @ Y[nearest] / weights.sum(), atol=1e-7)
        if not multi_label:
            assert_allclose(encode(rows).sum(axis=1), 1.0, atol=1e-12)


def test_the_number_of_voters_is_checked():
    with pytest.raises(InvalidParameter, match=r"posterior_neighbours: expected 1\.\.80.* got 100"):
        Jrl(output="posterior").fit(synthetic_pairs(40))


def test_constant_columns_get_no_weight_and_duplicates_share_theirs():
    pairs = synthetic_pairs()
    more = np.hstack([pairs.images, pairs.images[:, :1], np.full((120, 1), 0.1, dtype=np.float32)])
    weights = Jrl(gamma=1.0).fit(replace(pairs, images=more)).image_weights_
    assert_allclose(weights[13], 0.0, atol=1e-6)
    assert_allclose(weights[12], weights[0], atol=1e-8)


@pytest.mark.parametrize("graph", ["knn", "author"])
def test_classes_of_one_item_and_of_none_are_borne(graph):
    pairs = synthetic_pairs(60, n_classes=4)
    labels = np.where(np.arange(60) == 0, 5, np.minimum(pairs.labels, 1))
    method = Jrl(graph=graph).fit(replace(pairs, labels=labels, n_classes=7))
    assert np.isfinite(method.encode_image(pairs.images)).all()


def test_features_that_are_far_apart_leave_a_graph():
    pairs = synthetic_pairs()
    far = replace(pairs, images=pairs.images * np.float32(1000.0))  # similarities of exp(-1000) and less
    history = Jrl(sigma=10.0).fit(far).objective_history_
    assert np.isfinite(history).all()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"gamma": 0.0}, "Jrl.gamma: expected more than 0"),
        ({"mu": 0.0}, "Jrl.mu: expected more than 0"),
        ({"smoothing": 0.0}, "Jrl.smoothing: expected more than 0"),
        ({"sigma": -1.0}, "Jrl.sigma: expected at least 0"),
        ({"lam": float("nan")}, "Jrl.lam: expected at least 0"),
        ({"tol": -1.0}, "Jrl.tol: expected at least 0"),
        ({"max_iter": 0}, "Jrl.max_iter: expected at least 1"),
        ({"neighbours": 120}, "neighbours: expected 1..119"),
    ],
)
def test_parameters_out_of_range_are_refused(parameters, message):
    with pytest.raises(InvalidParameter, match=message):
        Jrl(**parameters).fit(synthetic_pairs())


def test_the_deadline_is_kept():
    with pytest.raises(DeadlineExceeded):
        Jrl().fit(synthetic_pairs(), context=FitContext(deadline=time.monotonic()))


def test_departures_follow_the_parameters():
    def of(**parameters) -> str:
        return "; ".join(Jrl.resolve(parameters).departures)

    assert of(preset="author_transductive") == ""
    assert of(preset="author") == (
        "learns from training rows alone; the published protocol adds the test features"
    )
    assert "sparse neighbour graph" in of()
    assert "inner product" in of(preset="author", output="posterior")
    assert "(preset=author): gamma" in of(preset="author", gamma=7.0)
