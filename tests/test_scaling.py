"""Input scaling: what each step does, and that only training rows are looked at."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import xmbench.scaling as scaling_module
from xmbench.errors import InvalidInput, NotFittedError, UnknownName
from xmbench.scaling import SCALINGS, Scaling


def rows(n: int = 40, d: int = 6, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) * rng.uniform(0.1, 10, d) + rng.uniform(-5, 5, d)


def test_the_scalings_of_the_suite_are_there():
    assert {"none", "center", "zscore", "l2", "l2_center", "l2_center_scale"} <= set(SCALINGS)


def by_hand(name: str, train: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The definition of each scaling, written as one would say it."""
    unit = [matrix / np.sqrt((matrix**2).sum(axis=1, keepdims=True)) for matrix in (train, other)]
    mean, unit_mean = train.mean(axis=0), unit[0].mean(axis=0)
    rms = np.sqrt(((unit[0] - unit_mean) ** 2).sum() / train.size)
    return {
        "none": other,
        "center": other - mean,
        "zscore": (other - mean) / np.sqrt(((train - mean) ** 2).mean(axis=0)),
        "l2": unit[1],
        "l2_center": unit[1] - unit_mean,
        "l2_center_scale": (unit[1] - unit_mean) / rms,
    }[name]


@pytest.mark.parametrize("name", sorted(SCALINGS))
def test_each_scaling_does_what_its_name_says(name):
    train, other = rows(), rows(10, seed=1)
    scaling = Scaling(name)
    assert_allclose(scaling.fit_transform(train), by_hand(name, train, train), rtol=1e-5, atol=1e-6)
    assert_allclose(scaling.transform(other), by_hand(name, train, other), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted(SCALINGS))
def test_rows_are_scaled_one_by_one(name):
    train, other = rows(), rows(10, seed=1)
    scaling = Scaling(name)
    fitted = scaling.fit_transform(train)
    assert_array_equal(scaling.transform(train), fitted)
    whole = scaling.transform(other)
    assert_array_equal(scaling.transform(other[3:5]), whole[3:5])
    assert_array_equal(scaling.transform(other[::-1]), whole[::-1])
    assert_array_equal(scaling.transform(other), whole)


@pytest.mark.parametrize("name", sorted(SCALINGS))
def test_scaling_leaves_its_input_alone_and_returns_float32(name):
    train = rows().astype(np.float32)
    before = train.copy()
    scaled = Scaling(name).fit_transform(train)
    assert scaled.dtype == np.float32
    assert_array_equal(train, before)
    scaled[:] = 0
    assert_array_equal(train, before)


@pytest.mark.parametrize("name", sorted(SCALINGS))
def test_a_second_fit_forgets_the_first(name):
    used, fresh = Scaling(name), Scaling(name)
    used.fit_transform(100 + rows(seed=2))
    assert_array_equal(used.fit_transform(rows()), fresh.fit_transform(rows()))
    assert_array_equal(used.transform(rows(5, seed=3)), fresh.transform(rows(5, seed=3)))


@pytest.mark.parametrize("name", sorted(SCALINGS))
def test_degenerate_rows_stay_finite(name):
    """Zero rows, a constant column that float cannot hold exactly, and a single row."""
    train = rows()
    train[3] = 0.0
    train[:, 2] = 0.1
    for matrix in (train, np.zeros((4, 3)), train[:1]):
        assert np.isfinite(Scaling(name).fit_transform(matrix)).all()


@pytest.mark.parametrize("value", [0.1, 1e7, -3e-5])
def test_a_constant_column_becomes_zero_under_zscore_and_is_not_blown_up(value):
    train = rows()
    train[:, 2] = value
    scaling = Scaling("zscore")
    assert_allclose(scaling.fit_transform(train)[:, 2], 0.0, atol=1e-6)
    other = train.copy()
    other[:, 2] = value + 1
    assert_allclose(scaling.transform(other)[:, 2], 1.0, rtol=1e-5)


def test_zscore_does_not_depend_on_the_units_of_a_column():
    train = rows()
    units = np.array([1e-3, 1, 1e4, 7, 0.5, 1e-2])
    assert_allclose(
        Scaling("zscore").fit_transform(train * units + 2), Scaling("zscore").fit_transform(train), atol=1e-5
    )


def test_l2_rows_have_length_one_and_zero_rows_none():
    train = rows()
    train[4] = 0.0
    lengths = np.linalg.norm(Scaling("l2").fit_transform(train), axis=1)
    assert_allclose(np.delete(lengths, 4), 1.0, rtol=1e-6)
    assert lengths[4] == 0


def test_one_global_scale_leaves_the_shape_of_the_data():
    train = rows()
    ratio = Scaling("l2_center_scale").fit_transform(train) / Scaling("l2_center").fit_transform(train)
    assert_allclose(ratio, ratio[0, 0], rtol=1e-3)
    assert np.sqrt((Scaling("l2_center_scale").fit_transform(train) ** 2).mean()) == pytest.approx(
        1.0, rel=1e-5
    )


def test_an_unknown_scaling_is_named_with_a_near_one():
    with pytest.raises(UnknownName, match="unknown scaling 'z-score'; did you mean zscore"):
        Scaling("z-score")


@pytest.mark.parametrize("name", ["center", "zscore", "l2_center_scale"])
def test_a_scaling_that_learns_refuses_to_scale_before_it_has(name):
    with pytest.raises(NotFittedError):
        Scaling(name).transform(rows())


@pytest.mark.parametrize("width", [1, 5])
def test_a_matrix_of_another_width_is_refused(width):
    scaling = Scaling("zscore")
    scaling.fit_transform(rows())
    with pytest.raises(InvalidInput, match=f"expected 6 columns.* got {width}"):
        scaling.transform(rows()[:, :width])


@pytest.mark.parametrize("name", sorted(SCALINGS))
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (400, 1), (90, 3), (301, 17), (40, 200)], ids=str)
def test_blocks_change_no_bit(monkeypatch, name, shape):
    """One block holds all by default; numpy adds long columns and long arrays in the same order as blocks do."""
    train, other = np.float32(rows(*shape)), np.float32(rows(9, shape[1], seed=1))
    whole = Scaling(name)
    expected, statistics = whole.fit_transform(train), dict(whole._values)
    mean = np.float64(train).mean(axis=0)
    if name == "zscore":
        assert_array_equal(statistics["center"], mean)
        assert_array_equal(statistics["column_scale"], _deviation(train - mean))
    elif name == "l2_center_scale":
        unit = train / np.maximum(np.linalg.norm(np.float64(train), axis=1, keepdims=True), 1e-300)
        centred = unit - unit.mean(axis=0)
        assert statistics["global_scale"] == (np.sqrt(np.mean(centred**2)) or 1.0)
    monkeypatch.setattr(scaling_module, "BLOCK", 128)
    pieces = Scaling(name)
    assert_array_equal(pieces.fit_transform(train), expected)
    for step, value in statistics.items():
        assert_array_equal(pieces._values[step], value)
    assert_array_equal(pieces.transform(other), whole.transform(other))


def _deviation(matrix: np.ndarray) -> np.ndarray:
    deviation = matrix.std(axis=0)
    return np.where(deviation > 1e-12 * np.maximum(np.abs(matrix).max(axis=0), 1), deviation, 1.0)


@pytest.mark.parametrize("name", sorted(SCALINGS))
def test_chosen_rows_are_scaled_as_if_there_were_no_others(monkeypatch, name):
    matrix = np.float32(rows(60))
    train, other = np.arange(0, 60, 2), np.arange(1, 60, 6)
    apart = Scaling(name)
    expected = apart.fit_transform(matrix[train]), apart.transform(matrix[other])
    monkeypatch.setattr(scaling_module, "BLOCK", 128)
    chosen = Scaling(name).fit(matrix, train)
    assert_array_equal(np.concatenate(list(chosen.blocks(matrix, train))), expected[0])
    assert_array_equal(np.concatenate(list(chosen.blocks(matrix, other))), expected[1])
