"""Packed average precision: exact means, values within a step, and nothing read that was not packed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as any_array

from xmbench._io import npz_bytes
from xmbench.packing import MEAN_ERROR, pack, unpack

fixed = settings(derandomize=True, database=None, deadline=None, max_examples=200)
precision = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0, 0.5, 1 / 3, np.nan]))
values = st.integers(0, 300).flatmap(lambda n: any_array(np.float64, n, elements=precision))


@given(values)
@fixed
def test_means_are_exact_and_values_within_a_step(given_values):
    found = unpack(pack(given_values))
    known = ~np.isnan(given_values)
    assert found.shape == given_values.shape
    assert (np.isnan(found) == ~known).all()
    if known.any():
        step = 1e-6 * known.sum()
        np.testing.assert_array_less(np.abs(found - given_values)[known], step + 1e-7)
        assert abs(found[known].mean() - given_values[known].mean()) <= MEAN_ERROR + 1e-9
        assert (found[known] >= 0).all() and (found[known] <= 1).all()


@given(values)
@fixed
def test_packing_again_changes_nothing(given_values):
    packed = pack(given_values)
    again = pack(unpack(packed))
    assert again.dtype == packed.dtype
    np.testing.assert_array_equal(again, packed)


@pytest.mark.parametrize("n", [0, 1, 15])
def test_few_values_are_kept_as_they_are(n):
    given_values = np.random.default_rng(0).uniform(size=n)
    assert pack(given_values).dtype == np.float32
    np.testing.assert_array_equal(unpack(pack(given_values)), given_values.astype(np.float32))


def test_many_values_take_less_than_half_of_what_they_took():
    given_values = np.random.default_rng(0).beta(2, 6, size=1566)
    before, after = (
        len(npz_bytes({"a": array})) for array in (given_values.astype(np.float32), pack(given_values))
    )
    assert after < before / 2


@pytest.mark.parametrize("wrong", [1.0000001, -1e-9, np.inf, -np.inf])
@pytest.mark.parametrize("n", [3, 50])
def test_what_is_no_precision_is_refused(wrong, n):
    with pytest.raises(ValueError, match="not between 0 and 1"):
        pack(np.append(np.full(n, 0.5), wrong))


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (np.zeros(50, np.uint8), "two rows"),
        (np.zeros((3, 50), np.uint8), "two rows"),
        (np.zeros((2, 5, 5), np.uint8), "two rows"),
        (np.full((2, 50), 0xFE, np.uint8), "above 1"),
        (np.zeros((2, 15), np.uint8), "above 1"),  # so few are never packed
    ],
)
def test_bytes_that_were_not_packed_here_are_refused(stored, words):
    with pytest.raises(ValueError, match=words):
        unpack(stored)
