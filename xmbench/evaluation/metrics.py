"""Closed forms: from the four integers of each tie group to every metric.

In a group of t tied items, r of them relevant, with a items and m relevant ones above, a random order puts
a relevant item on the j-th place of the group with probability r/t, and then (j-1)(r-1)/(t-1) further
relevant ones before it. Summing the expected precision there over j gives the formulas below
(McSherry and Najork, "Computing information retrieval performance measures efficiently in the presence of
tied scores", ECIR 2008).

All metrics are expected values over the orders of tied items, but for the interpolated precision-recall curve:
the maximum in it has no such form, and the curve is that of the expected ranking.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xmbench.evaluation.ranks import Groups
from xmbench.protocol import Protocol

RECALL_LEVELS: NDArray[np.float64] = np.arange(101) / 100
"""Recall at which precision is interpolated; trec_eval's eleven levels are every tenth."""


@dataclass(frozen=True)
class BlockScores:
    """Scores of a block of b queries; curves are sums over the queries that have a relevant item.

    Args:
        average_precision: (b,); NaN for a query without a relevant item, here and below.
        chance: (b,) average precision of a random order of the gallery.
        r_precision: (b,) precision among the first R, the number of relevant items.
        reciprocal_rank: (b,) one over the rank of the first relevant item.
        precision: (s,) among the first K = 1..s.
        recall: (s,) among the first K.
        ndcg: (s,) discounted cumulative gain of the first K, binary gains, discount log2(1 + rank), over the
            best possible one.
        interpolated: (101,) highest precision at a recall of at least :data:`RECALL_LEVELS`.
    """

    average_precision: NDArray[np.float64]
    chance: NDArray[np.float64]
    r_precision: NDArray[np.float64]
    reciprocal_rank: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    ndcg: NDArray[np.float64]
    interpolated: NDArray[np.float64]


class Measures:
    """What is computed from the groups of a block of queries.

    Args:
        protocol: cut-off, denominator and tie rule.
        size: items that a query is compared with.
        curves: whether all metrics are wanted, or average precision alone.
    """

    def __init__(self, protocol: Protocol, size: int, curves: bool) -> None:
        self.protocol, self.size, self.curves = protocol, size, curves
        self.scopes = min(protocol.max_scope, size) if curves else 0
        self.H = harmonic(size)
        self.gains = np.concatenate([[0.0], np.cumsum(discounts(size))]) if curves else np.zeros(1)

    def __call__(self, groups: Groups, n: int) -> BlockScores:
        """Scores of the n queries of a block."""
        groups = settle(groups, self.protocol.ties)
        R = relevant_counts(groups, n)
        zeros = np.zeros(n, dtype=np.int64)
        at_random = Groups(np.arange(n), zeros, zeros + self.size, zeros, R)
        found = [self._average_precision(some, R) for some in (groups, _only(at_random, R > 0))]
        if not self.curves:
            nothing = np.zeros(0)
            return BlockScores(found[0], found[1], *[nothing] * 6)
        answered = R > 0
        ranks = np.arange(1, self.scopes + 1)
        chance = rank_relevance(groups, n, self.scopes)[answered]
        hits = np.cumsum(chance, axis=1)
        total = R[answered, None]
        gain = np.cumsum(chance * discounts(self.scopes), axis=1)
        best = np.minimum(self.gains[total], self.gains[ranks])
        missing = np.where(answered, 1.0, np.nan)
        return BlockScores(
            average_precision=found[0],
            chance=found[1],
            r_precision=missing * r_precision(groups, R),
            reciprocal_rank=missing * reciprocal_rank(groups, n),
            precision=hits.sum(axis=0) / ranks,
            recall=(hits / total).sum(axis=0),
            ndcg=(gain / best).sum(axis=0),
            interpolated=interpolated_precision(groups, R)[answered].sum(axis=0),
        )

    def _average_precision(self, groups: Groups, R: NDArray[np.int64]) -> NDArray[np.float64]:
        cutoff, n = self.protocol.cutoff, len(R)
        divisor = np.where(R > 0, R, np.nan)
        if cutoff is not None and self.protocol.denominator == "hits":
            return precision_over_hits(groups, n, self.H, cutoff) * np.where(R > 0, 1.0, np.nan)
        if cutoff is not None and self.protocol.denominator == "min":
            divisor = np.minimum(divisor, cutoff)
        return precision_sums(groups, n, self.H, cutoff) / divisor


def settle(groups: Groups, ties: str) -> Groups:
    """Groups with the relevant items first (``optimistic``) or last (``pessimistic``) among the tied ones."""
    query, a, t, m, r = groups
    if ties == "optimistic":
        return Groups(query, a, r, m, r)
    if ties == "pessimistic":
        return Groups(query, a + t - r, r, m, r)
    return groups


def harmonic(n: int) -> NDArray[np.float64]:
    """H[k] = 1 + 1/2 + ... + 1/k for k = 0..n."""
    return np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, n + 1))])


def discounts(n: int) -> NDArray[np.float64]:
    """1 / log2(1 + rank) for ranks 1..n."""
    return np.asarray(1.0 / np.log2(np.arange(2, n + 2)))


def precision_sums(
    groups: Groups, n_queries: int, H: NDArray[np.float64], cutoff: int | None
) -> NDArray[np.float64]:
    """Expected sum of the precisions at the relevant ranks of each query, within the first ``cutoff`` ranks.

    Returns:
        (n_queries,) float64; 0 for a query without relevant items.
    """
    if cutoff is not None:
        groups = _only(groups, groups.above < cutoff)
    sums = (groups.relevant_above + 1) / (groups.above + 1)
    together = np.flatnonzero(groups.tied > 1)
    if together.size:
        _, a, t, m, r = (column[together] for column in groups)
        w = t if cutoff is None else np.minimum(cutoff - a, t)
        slope = (r - 1) / (t - 1)
        sums[together] = r / t * (slope * w + (m + 1 - slope * (a + 1)) * (H[a + w] - H[a]))
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
    a, t, m, r = (x[:, None] for x in cut[1:])
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
    return groups if kept.all() else Groups(*(column[kept] for column in groups))


def relevant_counts(groups: Groups, n_queries: int) -> NDArray[np.int64]:
    """(n_queries,) number of relevant items of each query."""
    return np.bincount(groups.query, weights=groups.relevant_tied, minlength=n_queries).astype(np.int64)


def rank_relevance(groups: Groups, n_queries: int, longest: int) -> NDArray[np.float64]:
    """(n_queries, longest) probability that the item at rank 1..longest is relevant: r/t within a group."""
    groups = _only(groups, groups.above < longest)
    first = groups.query * (longest + 1) + groups.above
    last = groups.query * (longest + 1) + np.minimum(groups.above + groups.tied, longest)
    slope, size = groups.relevant_tied / groups.tied, n_queries * (longest + 1)
    changes = np.bincount(first, weights=slope, minlength=size) - np.bincount(
        last, weights=slope, minlength=size
    )
    return np.asarray(np.cumsum(changes.reshape(n_queries, longest + 1), axis=1)[:, :longest])


def r_precision(groups: Groups, R: NDArray[np.int64]) -> NDArray[np.float64]:
    """Expected precision among the first R of each query, its number of relevant items; 0 where R is 0."""
    groups = _only(groups, groups.above < R[groups.query])
    within = np.minimum(R[groups.query] - groups.above, groups.tied)
    hits = np.bincount(groups.query, weights=within * groups.relevant_tied / groups.tied, minlength=len(R))
    return np.asarray(hits / np.maximum(R, 1))


def reciprocal_rank(groups: Groups, n_queries: int) -> NDArray[np.float64]:
    """Expected 1 / (rank of the first relevant item) of each query; 0 for a query without one.

    The first of r relevant items among t is at place j with probability C(t - j, r - 1) / C(t, r).
    """
    first = _only(groups, groups.relevant_above == 0)
    found = np.zeros(n_queries)
    found[first.query] = 1.0 / (first.above + 1)
    together = np.flatnonzero(first.tied > first.relevant_tied)
    if together.size:
        kinds = np.stack([first.above[together], first.tied[together], first.relevant_tied[together]])
        kinds, which = np.unique(kinds, axis=1, return_inverse=True)
        values = np.array([_first_hit(*map(int, kind)) for kind in kinds.T])
        found[first.query[together]] = values[which.reshape(-1)]
    return found


def _first_hit(a: int, t: int, r: int) -> float:
    places = np.arange(1, t - r + 2)
    none_before = np.concatenate([[1.0], np.cumprod(1.0 - r / (t - places[:-1] + 1))])
    return float((none_before * r / (t - places + 1) / (a + places)).sum())


def interpolated_precision(groups: Groups, R: NDArray[np.int64]) -> NDArray[np.float64]:
    """Interpolated precision of the expected ranking: its highest precision at a recall of at least each level.

    After x of the t items of a group, the expected ranking holds m + x r / t relevant ones among a + x. That
    precision is monotone in x, so its highest value from a recall on is at the first rank that reaches the
    recall, or at the end of a later group.

    Returns:
        (n_queries, 101) float64, for :data:`RECALL_LEVELS`; 0 for a query without relevant items.
    """
    query, a, t, m, r = groups
    found = np.zeros((len(R), len(RECALL_LEVELS)))
    answered = np.flatnonzero(R)
    if not answered.size:
        return found
    percent = np.arange(len(RECALL_LEVELS)) * R[answered, None]  # relevant items wanted, times 100
    wanted = np.maximum(1, -(-percent // 100))
    of_hit = np.repeat(np.arange(len(query)), r)  # the group of a query's h-th relevant item
    offsets = np.cumsum(R)[answered] - R[answered]
    at = of_hit[offsets[:, None] + wanted - 1]
    steps = np.maximum(
        1, -((100 * m[at] - percent) * t[at] // (100 * r[at]))
    )  # places in the group until then
    reached = (m[at] + steps * r[at] / t[at]) / (a[at] + steps)
    ends = (m + r) / (a + t)
    highest = np.maximum.reduceat(ends, at.reshape(-1)).reshape(at.shape)  # from one level to before the next
    later = np.maximum.accumulate(highest[:, ::-1], axis=1)[:, ::-1]
    found[answered] = np.maximum(reached, later)
    return found
