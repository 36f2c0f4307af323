"""Checks of the parameters that encoders share."""

from __future__ import annotations

from xmbench.errors import InvalidParameter

SEEDS = 2**32
"""A seed lies below: gensim and numpy take no larger one."""


def whole(name: str, value: object, least: int = 1, below: float = float("inf")) -> int:
    """``value`` as a whole number of at least ``least`` and less than ``below``.

    Raises:
        InvalidParameter: it is none; the message starts with ``name``.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < below:
        limit = "" if below == float("inf") else f" and below {below}"
        raise InvalidParameter(f"{name} must be a whole number of at least {least}{limit}, got {value!r}")
    return value


def seed(name: str, value: object) -> int:
    """``value`` as a seed; raises as :func:`whole` does."""
    return whole(name, value, 0, SEEDS)


def flag(name: str, value: object) -> bool:
    """``value`` as true or false, 0 and 1 included.

    Raises:
        InvalidParameter: it is neither.
    """
    if value not in (True, False):
        raise InvalidParameter(f"{name} must be true or false, got {value!r}")
    return bool(value)


def share(name: str, value: object, *, below: float = float("inf"), most: float = 1.0) -> float:
    """``value`` as a number of at least 0, at most ``most`` and less than ``below``.

    Raises:
        InvalidParameter: it is none; the message starts with ``name``.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (0 <= value <= most and value < below):  # type: ignore[operator]
        limit = f"below {below:g}" if below <= most else f"to {most:g}"
        raise InvalidParameter(f"{name} must be a number from 0 {limit}, got {value!r}")
    return float(value)  # type: ignore[arg-type]
