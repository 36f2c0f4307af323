"""Closed forms: from the four integers of each tie group to average precision and precision at K.

In a group of t tied items, r of them relevant, with a items and m relevant ones above, a random order puts
a relevant item on the j-th place of the group with probability r/t, and then (j-1)(r-1)/(t-1) further
relevant ones before it. Summing the expected precision there over j gives every formula below
(McSherry and Najork, "Computing information retrieval performance measures efficiently in the presence of
tied scores", ECIR 2008).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xmbench.evaluation.counts import Groups


def harmonic(n: int) -> NDArray[np.float64]:
    """H[k] = 1 + 1/2 + ... + 1/k for k = 0..n."""
    return np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, n + 1))])


def precision_sums(
    groups: Groups, n_queries: int, H: NDArray[np.float64], cutoff: int | None
) -> NDArray[np.float64]:
    """Expected sum of the precisions at the relevant ranks of each query, within the first ``cutoff`` ranks.

    Returns:
        (n_queries,) float64; 0 for a query without relevant items.
    """
    a, t = groups.above, groups.tied
    m, r = groups.relevant_above, groups.relevant_tied
    w = t if cutoff is None else np.clip(cutoff - a, 0, t)
    slope = (r - 1) / np.maximum(t - 1, 1)
    sums = r / t * (slope * w + (m + 1 - slope * (a + 1)) * (H[a + w] - H[a]))
    return np.asarray(np.bincount(groups.query, weights=sums, minlength=n_queries), dtype=np.float64)


def precision_over_hits(
    groups: Groups, n_queries: int, H: NDArray[np.float64], cutoff: int
) -> NDArray[np.float64]:
    """Expected sum of precisions within the first ``cutoff`` ranks, divided by the hits there.

    At most one group of a query straddles the cut. Among its w ranks within, the number of hits h is
    hypergeometric, and given h their places are uniform; so the expectation of the ratio is the mean over h of
    (the sum above the group + the sum for h hits among w) / (hits above + h). A query without a hit counts 0.

    Returns:
        (n_queries,) float64.
    """
    from scipy.special import gammaln

    whole = groups.above + groups.tied <= cutoff
    sums = precision_sums(_only(groups, whole), n_queries, H, None)
    hits = np.bincount(groups.query[whole], weights=groups.relevant_tied[whole], minlength=n_queries)
    found = sums / np.maximum(hits, 1)
    cut = _only(groups, ~whole & (groups.above < cutoff))
    if not len(cut.query):
        return np.asarray(found)
    a, t, m, r = (x[:, None] for x in (cut.above, cut.tied, cut.relevant_above, cut.relevant_tied))
    w = cutoff - a
    h = np.arange(int(np.minimum(r, w).max()) + 1)[None, :]
    possible = (h <= r) & (h <= w) & (w - h <= t - r)

    def log_choose(n: NDArray[np.int64], k: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(gammaln(n + 1) - gammaln(np.maximum(k, 0) + 1) - gammaln(np.maximum(n - k, 0) + 1))

    chance = np.where(possible, np.exp(log_choose(r, h) + log_choose(t - r, w - h) - log_choose(t, w)), 0.0)
    slope = (h - 1) / np.maximum(w - 1, 1)
    inside = h / w * (slope * w + (m + 1 - slope * (a + 1)) * (H[a + w] - H[a]))
    ratio = (sums[cut.query][:, None] + inside) / np.maximum(m + h, 1)
    found[cut.query] = (chance * ratio).sum(axis=1) / chance.sum(axis=1)
    return np.asarray(found)


def _only(groups: Groups, kept: NDArray[np.bool_]) -> Groups:
    """The groups that ``kept`` marks."""
    return Groups(*(column[kept] for column in vars(groups).values()))


def relevant_counts(groups: Groups, n_queries: int) -> NDArray[np.int64]:
    """(n_queries,) number of relevant items of each query."""
    return np.bincount(groups.query, weights=groups.relevant_tied, minlength=n_queries).astype(np.int64)


def hit_slopes(groups: Groups, longest: int) -> NDArray[np.float64]:
    """Second difference of the expected number of relevant items among the first K, summed over queries.

    A tie group raises the number of hits by r/t at each of its ranks a+1..a+t. Adding up the slopes twice
    gives hits(K) for every K; blocks of queries add.

    Returns:
        (longest + 1,) float64, zero-based on ranks; ranks beyond ``longest`` are dropped.
    """
    slope = groups.relevant_tied / groups.tied
    first = np.minimum(groups.above, longest)
    last = np.minimum(groups.above + groups.tied, longest)
    changes = np.bincount(first, weights=slope, minlength=longest + 1)
    return np.asarray(changes - np.bincount(last, weights=slope, minlength=longest + 1))
