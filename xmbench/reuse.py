"""What a fit may hand to the next one on the same training pairs: Gram matrices, graphs, decompositions."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class Pieces:
    """What candidates of a tuning grid have in common, each piece computed by the first that needs it.

    A piece is what the training pairs, and the unlabelled rows beside them, make of its key: the key names every
    parameter that it depends on. Without ``owner``, as in a fit on its own, nothing is kept.

    Args:
        owner: the training pairs that all fits are to; fits to others get an empty collection instead.
    """

    def __init__(self, owner: object = None) -> None:
        self.owner = owner
        self.made: dict[Hashable, Any] = {}

    @property
    def kept(self) -> bool:
        """Whether a piece outlives its first use, so that it must not be overwritten."""
        return self.owner is not None

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` gives; what it gave, where it was called before under ``key`` and pieces are kept."""
        if not self.kept:
            return make()
        if key not in self.made:
            self.made[key] = make()
        found: T = self.made[key]
        return found
