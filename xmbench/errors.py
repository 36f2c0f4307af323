"""Every error that xmbench raises on purpose.

XmbenchError                    exit code
|- RunError                     1   a run could not be finished
|  |- PluginError               1   a plugin cannot be imported or is not one
|  |- NotFittedError            1   encode before fit
|  |- Unsupported               1   the method refuses this data, in words
|  `- DeadlineExceeded          1   the run's time is up
|- UsageError                   2   the request itself is off
|  |- UnknownName               2   no such method, dataset, split, ...; carries close matches
|  |- InvalidParameter          2   a parameter's name, type or value
|  |- InvalidInput              2   an array of the wrong shape, or with NaN
|  `- MissingDependency         2   an extra is not installed
|- DataError                    3
|  |- MissingData               3   files are not where they are expected
|  `- CorruptData               3   files are there but do not hold what they should
|- LeaderboardError             4
|  |- LeaderboardDrift          4   a table, or a re-run, differs from its records
|  `- InvalidRecord             4   a record cannot be read
`- ConformanceError             5   a plugin breaks the contract
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class XmbenchError(Exception):
    """Base of all errors of xmbench; ``exit_code`` is what the command line returns for it."""

    exit_code = 1


class RunError(XmbenchError):
    """A run could not be finished."""


class PluginError(RunError):
    """A plugin cannot be imported, or its module does not define what a plugin must."""


class NotFittedError(RunError):
    """A method was asked to encode before it was fitted."""


class Unsupported(RunError):
    """A method refuses this data; the message says why and what would work."""


class DeadlineExceeded(RunError):
    """The time given to a run is over."""


class UsageError(XmbenchError):
    """The request cannot be understood or met as it stands."""

    exit_code = 2


class UnknownName(UsageError):
    """A name that nothing is registered under.

    Args:
        kind: what was looked for, in words: "method", "split".
        name: the name that was given.
        known: the names that exist.
        listing: what exists, in words, where more than ``known`` is to be told.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], listing: str = "") -> None:
        self.kind, self.name, self.known, self.listing = kind, name, sorted(set(known)), listing
        close = difflib.get_close_matches(name, self.known, n=3, cutoff=0.5)
        hints = [f"did you mean {' or '.join(close)}?"] if close else []
        if listing or not close:
            hints.append(listing or f"known: {', '.join(self.known) or 'none'}")
        super().__init__(f"unknown {kind} {name!r}; {' '.join(hints)}")

    def __reduce__(self) -> tuple[type[UnknownName], tuple[str, str, list[str], str]]:
        return type(self), (self.kind, self.name, self.known, self.listing)


class InvalidParameter(UsageError):
    """A parameter has a name, a type or a value that is not accepted."""


class InvalidInput(UsageError):
    """An array has the wrong shape or type, or holds values that are not finite."""


class MissingDependency(UsageError):
    """An optional dependency is not installed; the message names the extra."""


class DataError(XmbenchError):
    """A dataset cannot be used."""

    exit_code = 3


class MissingData(DataError):
    """The files of a dataset are not where they are expected."""


class CorruptData(DataError):
    """The files of a dataset do not hold what they should."""


class LeaderboardError(XmbenchError):
    """A leaderboard cannot be trusted."""

    exit_code = 4


class LeaderboardDrift(LeaderboardError):
    """A leaderboard differs from what its records, or a new run, give."""


class InvalidRecord(LeaderboardError):
    """A record cannot be read, or contradicts itself."""


class ConformanceError(XmbenchError):
    """A plugin breaks the contract that its base class states."""

    exit_code = 5
