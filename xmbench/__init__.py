"""Cross-modal retrieval methods, run and scored under one honest, named protocol.

The names below are the public interface. They load on first use, so that ``import xmbench`` (and with
it the command line's ``--help``) costs no numerical library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOMES = {
    "Corpus": "data",
    "Dataset": "data",
    "DatasetCard": "data",
    "Encoder": "features",
    "FitContext": "method",
    "Method": "method",
    "MethodInfo": "method",
    "PairedData": "data",
    "Pairs": "data",
    "Protocol": "protocol",
    "Ragged": "data",
    "Region": "data",
    "Scores": "evaluation",
    "Split": "data",
    "XmbenchError": "errors",
    "evaluate": "evaluation",
}

__all__ = [
    "Corpus",
    "Dataset",
    "DatasetCard",
    "Encoder",
    "FitContext",
    "Method",
    "MethodInfo",
    "PairedData",
    "Pairs",
    "Protocol",
    "Ragged",
    "Region",
    "Scores",
    "Split",
    "XmbenchError",
    "__version__",
    "evaluate",
]

if TYPE_CHECKING:
    from xmbench.data import Corpus, Dataset, DatasetCard, PairedData, Pairs, Ragged, Region, Split
    from xmbench.errors import XmbenchError
    from xmbench.evaluation import Scores, evaluate
    from xmbench.features import Encoder
    from xmbench.method import FitContext, Method, MethodInfo
    from xmbench.protocol import Protocol


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"xmbench.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'xmbench' has no attribute {name!r}")
