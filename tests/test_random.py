"""The random control: chance level, and a vector that depends on the item and the seed alone."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import xmbench
from xmbench.errors import InvalidParameter
from xmbench.registry import Registry
from xmbench.testing import synthetic_pairs

Random = Registry().method("random")


def test_it_is_marked_as_a_control():
    assert Random.info.control
    assert not Random.info.supervised


def test_it_retrieves_at_chance():
    results = []
    for seed in range(5):
        pairs = synthetic_pairs(200, seed=seed)
        method = Random(random_state=seed).fit(pairs)
        scores = xmbench.evaluate(
            method.encode_image(pairs.images), method.encode_text(pairs.texts), pairs.labels
        )
        results.append(scores.main - scores.tasks["image->text"].chance)
    assert np.mean(results) == pytest.approx(0.0, abs=0.01)


def test_vectors_are_standard_normal():
    pairs = synthetic_pairs(500)
    rows = Random(n_components=20).fit(pairs).encode_image(pairs.images)
    assert rows.shape == (500, 20)
    assert rows.mean() == pytest.approx(0.0, abs=4 / np.sqrt(rows.size))
    assert rows.var() == pytest.approx(1.0, abs=4 * np.sqrt(2 / rows.size))


def test_a_row_depends_on_its_features_alone():
    pairs = synthetic_pairs(30)
    method = Random().fit(pairs)
    rows = method.encode_image(pairs.images)
    assert_array_equal(method.encode_image(pairs.images[[7, 7, 3]]), rows[[7, 7, 3]])
    assert len(np.unique(rows[:, 0])) == 30


def test_modalities_and_seeds_are_independent_of_each_other():
    pairs = synthetic_pairs(200, d_image=6, d_text=6)
    zero, one = (Random(random_state=seed).fit(pairs) for seed in (0, 1))
    columns = [
        zero.encode_image(pairs.images),
        zero.encode_text(pairs.images),  # the same bytes as another modality
        one.encode_image(pairs.images),
    ]
    correlations = np.corrcoef([column.ravel() for column in columns])
    assert np.abs(correlations - np.eye(3)).max() < 4 / np.sqrt(columns[0].size)


@pytest.mark.parametrize("n_components", [0, -1])
def test_vectors_have_at_least_one_dimension(n_components):
    with pytest.raises(InvalidParameter, match="n_components"):
        Random(n_components=n_components).fit(synthetic_pairs(10))
