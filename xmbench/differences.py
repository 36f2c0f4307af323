"""Claims of the kind "a is above b", held against paired scores over splits."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from xmbench.errors import InvalidRecord, MissingData, UnknownName, Unsupported, UsageError
from xmbench.evaluation import TASKS
from xmbench.record import Record
from xmbench.stats import Difference, Verdict, holm, paired_difference, verdict

SCORE = "average of image→text and text→image MAP"


@dataclass(frozen=True)
class Claim:
    """One row of a table of differences.

    Args:
        above: label of the method that is claimed to be better.
        below: label of the other.
        difference: above less below, over the splits that both were run on.
        p_value: of no difference, adjusted for the number of claims.
        verdict: ``holds``, ``fails`` or ``not resolved``.
    """

    above: str
    below: str
    difference: Difference
    p_value: float
    verdict: Verdict

    def cells(self) -> tuple[str, ...]:
        """For a table: the claim, difference, interval, splits, p value, verdict."""
        d = self.difference
        interval = f"{d.low:+.3f} to {d.high:+.3f}"
        p = f"{self.p_value:.3f}" if self.p_value >= 0.001 else "< 0.001"
        return (f"{self.above} > {self.below}", f"{d.mean:+.3f}", interval, str(d.n_splits), p, self.verdict)


COLUMNS = ("claim", "difference", "95 % interval", "splits", "p (Holm)", "verdict")

EXPLANATION = (
    f"Differences are of the {SCORE}, paired by split. Intervals are corrected resampled t intervals (Nadeau and "
    "Bengio 2003: splits share rows), p values are adjusted for the number of claims in the table (Holm 1979); a "
    "claim holds or fails at 0.05, and is not resolved otherwise. Intervals are not adjusted and verdicts are, so an "
    "interval without 0 is no verdict. Neighbouring rows stand in the order of the means observed here: such a claim "
    "can hold or stay unresolved, but never fail."
)


def same_test(records: Iterable[Record]) -> bool:
    """Whether seeded splits have the same test rows; a test row is then no new evidence on another split."""
    known = {
        record.dataset.split_seed: record.dataset.test_fingerprint
        for record in records
        if record.dataset.split_seed is not None
    }
    return len(known) > 1 and len(set(known.values())) == 1 and "" not in known.values()


def by_split(records: Iterable[Record]) -> dict[str, dict[int, float]]:
    """Label -> split seed -> score, the mean over method seeds; runs on a fixed split are left out."""
    found: dict[str, dict[int, list[float]]] = {}
    for record in records:
        scores = [record.metrics[task].mean_average_precision for task in TASKS[:2] if task in record.metrics]
        known = [score for score in scores if score is not None]
        if record.status == "ok" and record.dataset.split_seed is not None and len(known) == 2:
            mine = found.setdefault(record.method.label, {})
            mine.setdefault(record.dataset.split_seed, []).append(sum(known) / 2)
    return {
        label: {seed: float(np.mean(scores)) for seed, scores in mine.items()}
        for label, mine in found.items()
    }


def examine(records: Sequence[Record], claims: Sequence[tuple[str, str]]) -> list[Claim]:
    """Hold claims (above, below) against records of one table.

    Raises:
        Unsupported: the splits have the same test rows.
        UnknownName: there is no run of such a label over seeded splits.
        MissingData: two methods have fewer than two splits in common.
        InvalidRecord: a record does not say how many rows it is of.
    """
    if same_test(records):
        raise Unsupported(
            "these splits have the same test rows: differences over them say nothing of other test rows"
        )
    scores = by_split(records)
    sizes = {record.dataset.split_seed: _rows(record) for record in records}
    found = []
    for above, below in claims:
        for label in (above, below):
            if label not in scores:
                raise UnknownName("method among these runs over seeded splits", label, scores)
        seeds = sorted(scores[above].keys() & scores[below].keys())
        if len(seeds) < 2:
            raise MissingData(
                f"{above} and {below} have {len(seeds)} split{'s' * (len(seeds) != 1)} in common, a difference needs "
                "at least 2 (5 or more tell something): run them with --seeds 0-4"
            )
        found.append(
            paired_difference(
                [scores[above][seed] for seed in seeds],
                [scores[below][seed] for seed in seeds],
                n_train=float(np.mean([sizes[seed][0] for seed in seeds])),
                n_test=float(np.mean([sizes[seed][1] for seed in seeds])),
            )
        )
    adjusted = holm([difference.p_value for difference in found])
    return [
        Claim(above, below, difference, p, verdict(difference, p))
        for (above, below), difference, p in zip(claims, found, adjusted, strict=True)
    ]


def _rows(record: Record) -> tuple[int, int]:
    """Training and test rows of a run."""
    sizes = record.dataset.sizes
    if not (sizes.get("train", 0) > 0 and sizes.get("test", 0) > 0):
        raise InvalidRecord(f"record {record.score_id} does not say of how many training and test rows it is")
    return sizes["train"], sizes["test"]


def comparable(records: Sequence[Record]) -> tuple[list[str], list[Record]]:
    """Methods with several splits, by falling mean over the splits that all of them share, and their runs on these.

    Methods with a single split are left out, and so are ablations, which are held against their full models alone.
    None are comparable with fewer than two shared splits, or where splits are the same in their test rows.
    """
    records = [record for record in records if record.method.ablation is None]
    scores = {label: mine for label, mine in by_split(records).items() if len(mine) > 1}
    common = set.intersection(*(set(mine) for mine in scores.values())) if scores else set()
    if len(common) < 2 or same_test(records):
        return [], []
    means = {label: float(np.mean([mine[seed] for seed in common])) for label, mine in scores.items()}
    kept = [
        record for record in records if record.dataset.split_seed in common and record.method.label in scores
    ]
    return sorted(means, key=lambda label: (-means[label], label)), kept


def neighbours(records: Sequence[Record]) -> list[Claim]:
    """Each of the :func:`comparable` methods against the next one below it."""
    order, kept = comparable(records)
    return examine(kept, list(itertools.pairwise(order)))


def summary(claims: Sequence[Claim]) -> str:
    """How many claims hold, fail and are not resolved, in one sentence."""
    verdicts = [claim.verdict for claim in claims]
    counts = (f"{word} {verdicts.count(verdict)}" for word, verdict in _COUNTED)
    return f"Of {len(verdicts)} claims: {', '.join(counts)}."


_COUNTED: tuple[tuple[str, Verdict], ...] = (
    ("hold", "holds"),
    ("fail", "fails"),
    ("not resolved", "not resolved"),
)


def parse_claims(texts: Sequence[str]) -> list[tuple[str, str]]:
    """``cca<kcca<cfa`` -> (kcca, cca), (cfa, kcca); ``>`` is the other way round; each claim once.

    Raises:
        UsageError: no such chain.
    """
    claims: list[tuple[str, str]] = []
    for text in texts:
        sign = "<" if "<" in text else ">"
        labels = [label.strip() for label in text.split(sign)]
        if len(labels) < 2 or not all(labels) or ">" in text.replace(sign, ""):
            raise UsageError(f"--claim: expected a chain such as 'cca<kcca<jrl' or 'jrl>cca', got {text!r}")
        if any(a == b for a, b in itertools.pairwise(labels)):
            raise UsageError(f"--claim: {text!r} holds a method against itself")
        pairs = list(itertools.pairwise(labels))
        claims += [(b, a) for a, b in pairs] if sign == "<" else pairs
    return list(dict.fromkeys(claims))
