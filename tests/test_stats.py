"""Statistics of differences: by hand, against scipy, by simulation, and against slow definitions."""

from __future__ import annotations

import math
from statistics import mean, variance

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from xmbench.errors import InvalidInput
from xmbench.stats import Difference, holm, paired_difference, verdict

fixed = settings(derandomize=True, database=None, deadline=None, max_examples=100)

scores = st.integers(0, 1000).map(lambda score: score / 1000)
pairs = st.lists(st.tuples(scores, scores), min_size=2, max_size=12)
sizes = st.integers(1, 5000)


def apart(pairs):
    """The two methods' scores, where their differences are not all the same."""
    a, b = zip(*pairs, strict=True)
    assume(len({round(x - y, 6) for x, y in pairs}) > 1)
    return a, b


# -- paired differences -----------------------------------------------------------------------------


def test_a_difference_by_hand():
    """d = .1, .2, .3: mean .2, variance .01; factor 1/3 + 100/300; t(.975, 2) = 4.302653."""
    found = paired_difference([0.4, 0.5, 0.6], [0.3, 0.3, 0.3], n_train=300, n_test=100)
    error = math.sqrt(0.01 * 2 / 3)
    assert found.mean == pytest.approx(0.2) and found.n_splits == 3
    assert found.low == pytest.approx(0.2 - 4.302652729911275 * error)
    assert found.high == pytest.approx(0.2 + 4.302652729911275 * error)
    t = 0.2 / error
    assert found.p_value == pytest.approx(1 - t / math.sqrt(2 + t * t))  # two-sided, 2 degrees of freedom


@fixed
@given(pairs, sizes, sizes)
def test_the_interval_is_the_corrected_resampled_one(pairs, n_train, n_test):
    a, b = apart(pairs)
    found = paired_difference(a, b, n_train=n_train, n_test=n_test)
    d = [x - y for x, y in pairs]
    error = math.sqrt((1 / len(d) + n_test / n_train) * variance(d))
    expected = stats.t.interval(0.95, len(d) - 1, mean(d), error)
    assert (found.low, found.high) == pytest.approx(expected)
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(mean(d)) / error, len(d) - 1))


@fixed
@given(pairs)
def test_without_test_rows_to_speak_of_it_is_the_ordinary_paired_test(pairs):
    a, b = apart(pairs)
    found = paired_difference(a, b, n_train=math.inf, n_test=1)
    expected = stats.ttest_rel(a, b)
    assert found.p_value == pytest.approx(expected.pvalue, abs=1e-12)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-12)


@fixed
@given(pairs, sizes, sizes)
def test_the_other_way_round_it_is_the_other_sign(pairs, n_train, n_test):
    a, b = zip(*pairs, strict=True)
    one, two = (paired_difference(*both, n_train=n_train, n_test=n_test) for both in ((a, b), (b, a)))
    assert (two.mean, two.low, two.high) == pytest.approx((-one.mean, -one.high, -one.low))
    assert two.p_value == pytest.approx(one.p_value)
    assert one.low <= one.mean <= one.high and 0 <= one.p_value <= 1


@fixed
@given(pairs, sizes, sizes, st.floats(1.01, 100))
def test_more_test_rows_to_a_training_row_widen_it(pairs, n_train, n_test, factor):
    a, b = apart(pairs)
    narrow = paired_difference(a, b, n_train=n_train, n_test=n_test)
    wide = paired_difference(a, b, n_train=n_train, n_test=n_test * factor)
    assert wide.high - wide.low > narrow.high - narrow.low
    assert wide.p_value >= narrow.p_value and wide.mean == narrow.mean


@fixed
@given(pairs, sizes, sizes)
def test_more_confidence_widens_it_and_it_leaves_out_zero_exactly_if_p_is_below(pairs, n_train, n_test):
    a, b = apart(pairs)
    widths = []
    for confidence in (0.5, 0.9, 0.95, 0.99):
        found = paired_difference(a, b, n_train=n_train, n_test=n_test, confidence=confidence)
        widths.append(found.high - found.low)
        assume(abs(found.p_value - (1 - confidence)) > 1e-9)
        assert (found.low > 0 or found.high < 0) == (found.p_value < 1 - confidence)
    assert widths == sorted(widths)


@fixed
@given(st.lists(scores, min_size=2, max_size=9), st.sampled_from([0.0, 0.125, -0.25]))
def test_the_same_difference_on_every_split_has_no_width(second, shift):
    found = paired_difference([score + shift for score in second], second, n_train=80, n_test=20)
    assert found.low == found.mean == found.high == pytest.approx(shift, abs=1e-15)
    assert found.p_value == (0.0 if shift else 1.0)


@pytest.mark.parametrize("moved", [(0,), (3,), (0, 1, 2, 3, 4), (1, 4)])
@pytest.mark.parametrize("score", [1e-9, 0.3, 0.9, 1.0])
def test_rounding_is_no_difference(moved, score):
    """Two ways of computing one number must not be told apart by its last bit, on one split or on all."""
    a = [score] * 5
    b = [np.nextafter(score, 2) if i in moved else score for i in range(5)]
    found = paired_difference(a, b, n_train=80, n_test=20)
    assert found.p_value == 1.0 and verdict(found, found.p_value) == "not resolved"


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([], []),
        ([0.5], [0.4]),
        ([0.5, math.nan], [0.4, 0.4]),
        ([0.5, 0.5], [0.4, math.inf]),
        ([math.inf, 0.5], [math.inf, 0.4]),
        ([0.5, 0.6, 0.7], [0.4]),
        ([0.5, 0.6, 0.7], [0.4, 0.5]),
        ([[0.5, 0.6]], [[0.4, 0.5]]),
    ],
)
def test_scores_that_cannot_be_compared_are_refused(a, b):
    with pytest.raises(InvalidInput, match="at least two common splits"):
        paired_difference(a, b, n_train=80, n_test=20)


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_train": 0},
        {"n_test": 0},
        {"n_train": -80},
        {"n_train": math.nan},
        {"n_test": math.nan},
        {"n_test": math.inf},
        {"confidence": 0},
        {"confidence": 1},
        {"confidence": math.nan},
    ],
    ids=str,
)
def test_sizes_and_levels_that_mean_nothing_are_refused(wrong):
    with pytest.raises(InvalidInput, match="positive n_train"):
        paired_difference([0.5, 0.6], [0.4, 0.4], **{"n_train": 80, "n_test": 20, **wrong})


def test_the_interval_covers_where_splits_share_rows_and_the_ordinary_one_does_not():
    """Differences of J = 5 random splits, correlated as Nadeau and Bengio assume: n_test / (n_test + n_train)."""
    rng = np.random.default_rng(0)
    J, n_train, n_test, true, draws = 5, 80, 20, 0.03, 1000
    rho = n_test / (n_test + n_train)
    noise = math.sqrt(rho) * rng.standard_normal((draws, 1)) + math.sqrt(1 - rho) * rng.standard_normal(
        (draws, J)
    )
    d = true + 0.02 * noise
    covered = {}
    for name, train in (("corrected", float(n_train)), ("ordinary", math.inf)):
        found = [paired_difference(row, np.zeros(J), n_train=train, n_test=n_test) for row in d]
        covered[name] = np.mean([each.low <= true <= each.high for each in found])
    assert 0.93 < covered["corrected"] < 0.97
    assert covered["ordinary"] < 0.90


# -- several claims ---------------------------------------------------------------------------------

p_values = st.lists(st.floats(0, 1), max_size=8)


def slow_holm(p_values):
    """Smallest level at which the step-down procedure rejects, from its definition: p_(j) <= level / (m - j)."""

    def rejected(level):
        found = set()
        for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
            if p_values[i] * (len(p_values) - rank) > level:
                break
            found.add(i)
        return found

    levels = sorted({0.0, 1.0, *(p * k for p in p_values for k in range(1, len(p_values) + 1))})
    return [
        min([level for level in levels if level <= 1 and i in rejected(level)], default=1.0)
        for i in range(len(p_values))
    ]


@fixed
@given(p_values)
def test_holm_is_the_step_down_procedure(p_values):
    assert holm(p_values) == pytest.approx(slow_holm(p_values))


@pytest.mark.parametrize(
    ("given_p", "expected"),
    [
        ([], []),
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.005, 0.011, 0.02, 0.04], [0.02, 0.033, 0.04, 0.04]),
        ([0.6, 0.7], [1.0, 1.0]),
        ([0.0, 0.0, 1.0], [0.0, 0.0, 1.0]),
    ],
)
def test_holm_by_hand(given_p, expected):
    assert holm(given_p) == pytest.approx(expected)


@fixed
@given(p_values, st.randoms(use_true_random=False))
def test_holm_keeps_the_order_and_never_makes_a_claim_surer(p_values, random):
    adjusted = holm(p_values)
    assert all(raw <= after <= 1 for raw, after in zip(p_values, adjusted, strict=True))
    bonferroni = [min(1.0, raw * len(p_values)) for raw in p_values]
    assert all(after <= most + 1e-15 for after, most in zip(adjusted, bonferroni, strict=True))
    ranked = [after for _, after in sorted(zip(p_values, adjusted, strict=True))]
    assert ranked == sorted(ranked)
    order = list(range(len(p_values)))
    random.shuffle(order)
    assert holm([p_values[i] for i in order]) == [adjusted[i] for i in order]


@pytest.mark.parametrize(
    ("difference", "p", "expected"),
    [
        (0.1, 0.049, "holds"),
        (-0.1, 0.049, "fails"),
        (0.1, 0.05, "not resolved"),
        (-0.1, 0.2, "not resolved"),
        (0.0, 0.0, "not resolved"),
    ],
)
def test_verdicts(difference, p, expected):
    assert verdict(Difference(difference, difference, difference, p, 5), p) == expected
    assert verdict(Difference(difference, difference, difference, p, 5), p, level=1e-9) in (
        expected,
        "not resolved",
    )
