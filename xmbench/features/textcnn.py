"""The sentence CNN of Kim 2014, trained on training labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from xmbench._io import ID_LENGTH
from xmbench.errors import InvalidParameter, NotFittedError, RunError, Unsupported
from xmbench.features import Encoder, Resources

from ._parameters import flag, seed, share, whole
from ._words import (
    GLOVE_SHA256,
    TRAINING,
    WordVectors,
    glove_vectors,
    read_vectors,
    train_vectors,
    vector_file,
    vector_file_digest,
)

WIDTHS = (3, 4, 5)
MARGIN = max(WIDTHS) - 1
"""Zero vectors on either side of a text, so that every window width fits the shortest."""
LARGEST_NORM = 3.0
"""Of the weights of a class, after each step."""
HELD_OUT = 0.1


class TextCnn(Encoder):
    """The 300 max-pooled maps of a sentence CNN that learned the classes of the training texts.

    Over the vectors of a text's words run filters of widths 3, 4 and 5, ``n_maps`` of each, with ReLU; the
    maximum of each over the text is a feature (the penultimate layer, without dropout). Above it, while
    training, stand dropout and a linear classifier: cross-entropy for one class a text, binary cross-entropy
    for several. Training takes Adadelta in batches, the norm of a class's weights held at 3 at most, and
    ends when the loss on a tenth of the training texts, held out by class, has not improved for
    ``patience`` epochs; the best epoch counts. On a CPU a seed gives the same features in every process.

    Args:
        vectors: ``corpus`` (word2vec trained on the training texts) or ``glove`` (extra ``glove``).
        path: a file in the word2vec format, in place of both.
        vector_size: length of the vectors trained on the corpus.
        static: keep the vectors as they are; else they learn too, those of the training texts' words.
        n_maps: feature maps a width; features are (n, 3 ``n_maps``), at least 0.
        dropout: share of the penultimate layer that a training step drops.
        max_words: known words that are read of a text, from its start.
        batch_size: texts a step.
        epochs: passes over the training texts at the most.
        patience: epochs without improvement that end the training.
        random_state: seed of vectors, weights, hold-out, order and dropout.

    Source: Kim, "Convolutional neural networks for sentence classification", EMNLP 2014 (CNN-non-static,
    CNN-static). Differs: vectors come from the corpus unless a file is given, where the paper takes 300-d
    Google News vectors; words without a vector are left out, where the paper draws them at random; texts
    are cut at ``max_words``; weights start as torch draws them.
    """

    modality: ClassVar = "text"
    learns: ClassVar = True
    supervised: ClassVar = True
    scaling: ClassVar = "zscore"

    def __init__(
        self,
        vectors: str = "corpus",
        path: str | Path | None = None,
        vector_size: int = 100,
        static: bool = False,
        n_maps: int = 100,
        dropout: float = 0.5,
        max_words: int = 200,
        batch_size: int = 50,
        epochs: int = 50,
        patience: int = 5,
        random_state: int = 0,
    ) -> None:
        if vectors not in ("corpus", "glove"):
            raise InvalidParameter(
                f"textcnn: vectors must be corpus or glove, got {vectors!r}; name a file with path"
            )
        self.path = vector_file("textcnn", path)
        if self.path is not None and vectors != "corpus":
            raise InvalidParameter(f"textcnn: vectors={vectors} and path exclude each other; leave one out")
        self.vectors = "file" if self.path is not None else vectors
        self.vector_size = whole("textcnn: vector_size", vector_size, below=10_000)
        if self.vectors != "corpus" and vector_size != 100:
            raise InvalidParameter(
                "textcnn: vector_size is that of vectors trained on the corpus; leave it out"
            )
        self.static = flag("textcnn: static", static)
        self.n_maps = whole("textcnn: n_maps", n_maps)
        self.dropout = share("textcnn: dropout", dropout, below=1)
        self.max_words = whole("textcnn: max_words", max_words)
        self.batch_size = whole("textcnn: batch_size", batch_size)
        self.epochs = whole("textcnn: epochs", epochs)
        self.patience = whole("textcnn: patience", patience)
        self.random_state = seed("textcnn: random_state", random_state)
        self._digest: str | None = None
        self._known: WordVectors | None = None
        self._parts: Any = None

    def provenance(self) -> dict[str, object]:
        """Name, version, where the vectors come from, and the parameters of network and training."""
        source: dict[str, object] = {"vectors": self.vectors}
        if self.vectors == "corpus":
            source |= {f"word2vec_{name}": value for name, value in self._word2vec().items()}
        elif self.path is not None:
            self._digest = self._digest or vector_file_digest(self.path)
            source["file"] = self._digest[:ID_LENGTH]
        else:
            source["weights"] = GLOVE_SHA256[:ID_LENGTH]
        named = (
            "static",
            "n_maps",
            "dropout",
            "max_words",
            "batch_size",
            "epochs",
            "patience",
            "random_state",
        )
        return {"name": "textcnn", "version": 1, **source, **{name: getattr(self, name) for name in named}}

    def _word2vec(self) -> dict[str, Any]:
        return {**TRAINING, "vector_size": self.vector_size, "random_state": self.random_state}

    def _start(self, rows: Sequence[Any], resources: Resources) -> WordVectors:
        """The word vectors that training starts from."""
        if self.path is not None:
            return read_vectors(self.path)
        if self.vectors == "glove":
            return glove_vectors("textcnn")
        resources.progress("training the word vectors of textcnn", None)
        try:
            return train_vectors(rows, **self._word2vec())
        except Unsupported as error:
            raise Unsupported(f"textcnn: {error}") from error

    def fit(self, rows: Sequence[Any], labels: NDArray[Any] | None, resources: Resources) -> None:
        """Train the network on training rows and their labels.

        Raises:
            Unsupported: there are no labels, or one class alone, or no class has two texts.
            RunError: the training diverged.
        """
        targets = _targets(labels)
        generator = np.random.default_rng(self.random_state)
        held, kept = _hold_out(targets, generator)
        start = self._start(rows, resources)
        texts = [start.rows(text)[: self.max_words] for text in rows]
        used = np.unique([word for text in texts for word in text]).astype(np.int64)
        own = [np.searchsorted(used, text) + 1 for text in texts]  # 0 is the margin
        table = np.zeros((len(used) + 1, start.matrix.shape[1]), dtype=np.float32)
        table[1:] = start.matrix[used]
        with _torch(resources, self.random_state):
            parts = self._network(table, targets)
            self._train(parts, own, targets, held, kept, generator, resources)
            if not self.static:
                matrix = start.matrix.copy()
                matrix[used] = parts["words"].weight[1:].detach().cpu().numpy()
                start = WordVectors(start.index, matrix)
            del parts["words"]
        self._known, self._parts = start, parts.eval()

    def _network(self, table: NDArray[np.float32], targets: NDArray[Any]) -> Any:
        import torch
        from torch import nn

        d, n_classes = table.shape[1], targets.shape[1] if targets.ndim == 2 else int(targets.max()) + 1
        return nn.ModuleDict(
            {
                "words": nn.Embedding.from_pretrained(
                    torch.from_numpy(table), freeze=self.static, padding_idx=0
                ),
                "maps": nn.ModuleList([nn.Conv1d(d, self.n_maps, width) for width in WIDTHS]),
                "dropout": nn.Dropout(self.dropout),
                "classes": nn.Linear(len(WIDTHS) * self.n_maps, n_classes),
            }
        )

    def _train(
        self,
        parts: Any,
        texts: list[NDArray[np.int64]],
        targets: NDArray[Any],
        held: NDArray[np.int64],
        kept: NDArray[np.int64],
        generator: np.random.Generator,
        resources: Resources,
    ) -> None:
        import torch
        from torch.nn import functional

        parts.to(resources.device)
        one_class = targets.ndim == 1
        loss_of = functional.cross_entropy if one_class else functional.binary_cross_entropy_with_logits
        goal = torch.from_numpy(targets if one_class else targets.astype(np.float32)).to(resources.device)

        def loss(batch: NDArray[np.int64]) -> Any:
            tokens, lengths = _padded([texts[row] for row in batch])
            vectors = parts["words"](tokens.to(resources.device))
            pooled = parts["dropout"](_pooled(parts, vectors, lengths.to(resources.device)))
            return loss_of(parts["classes"](pooled), goal[batch])

        optimiser = torch.optim.Adadelta(
            [weight for weight in parts.parameters() if weight.requires_grad], lr=1.0, rho=0.95
        )
        best, best_parts, since = float("inf"), None, 0
        for epoch in range(self.epochs):
            resources.progress("training textcnn", epoch / self.epochs)
            parts.train()
            for batch in _batches(generator.permutation(kept), self.batch_size):
                optimiser.zero_grad()
                loss(batch).backward()
                optimiser.step()
                with torch.no_grad():
                    weight = parts["classes"].weight
                    weight.copy_(torch.renorm(weight, 2, 0, LARGEST_NORM))
            parts.eval()
            with torch.no_grad():
                total = sum(float(loss(batch)) * len(batch) for batch in _batches(held, self.batch_size))
            since += 1
            if total < best:
                best, since = total, 0
                best_parts = {name: value.clone() for name, value in parts.state_dict().items()}
            if since == self.patience:
                break
        if best_parts is None:
            raise RunError("textcnn: the training diverged; give it other vectors or another random_state")
        parts.load_state_dict(best_parts)

    def transform(self, rows: Sequence[Any], resources: Resources) -> NDArray[np.float32]:
        """(n, 3 ``n_maps``) features, at least 0; one text at a time, so that no other has a say in them."""
        if self._known is None:
            raise NotFittedError("textcnn: fit it on training texts and labels first")
        import torch

        matrix = self._known.matrix
        features = np.empty((len(rows), len(WIDTHS) * self.n_maps), dtype=np.float32)
        with _torch(resources, self.random_state), torch.inference_mode():
            self._parts.to(resources.device)
            for row, text in enumerate(rows):
                known = self._known.rows(text)[: self.max_words]
                vectors = np.zeros((1, len(known) + 2 * MARGIN, matrix.shape[1]), dtype=np.float32)
                vectors[0, MARGIN : MARGIN + len(known)] = matrix[known]
                length = torch.tensor([len(known)], device=resources.device)
                pooled = _pooled(self._parts, torch.from_numpy(vectors).to(resources.device), length)
                features[row] = pooled[0].cpu().numpy()
                if (row + 1) % 100 == 0 or row + 1 == len(rows):
                    resources.progress("extracting textcnn text features", (row + 1) / len(rows))
        return features


def _targets(labels: NDArray[Any] | None) -> NDArray[np.int64]:
    """(n,) numbers of classes from 0 on, or (n, c) of 0 and 1."""
    if labels is None:
        raise Unsupported("textcnn learns from labels, and these data have none; try word2vec or glove")
    targets = np.asarray(labels)
    if targets.ndim == 1:
        classes, numbers = np.unique(targets, return_inverse=True)
        several = len(classes) > 1
        targets = numbers
    else:
        several = bool((targets != targets[:1]).any())
    if not several:
        raise Unsupported("textcnn: the training texts are all of one class, which teaches nothing")
    return targets.astype(np.int64)


def _hold_out(
    targets: NDArray[np.int64], generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A tenth of the rows of each class, at least one of two, and the other rows.

    A row with several classes counts as one of its rarest; rows without any are a class of their own.
    """
    classes = targets
    if targets.ndim == 2:
        rare = np.where(targets > 0, targets.sum(axis=0), len(targets) + 1)
        classes = np.where(targets.any(axis=1), rare.argmin(axis=1), -1)
    held: list[int] = []
    for label in np.unique(classes):
        rows = generator.permutation(np.flatnonzero(classes == label))
        held += rows[: max(round(HELD_OUT * len(rows)), int(len(rows) > 1))].tolist()
    if not held:
        raise Unsupported("textcnn: no class has two training texts, so that none can be held out")
    return np.sort(held), np.setdiff1d(np.arange(len(targets)), held)


def _batches(rows: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _padded(texts: Sequence[NDArray[np.int64]]) -> tuple[Any, Any]:
    """(n, longest + margins) numbers of words, 0 where there is none, and (n,) lengths."""
    import torch

    lengths = [len(text) for text in texts]
    tokens = np.zeros((len(texts), max(lengths) + 2 * MARGIN), dtype=np.int64)
    for row, text in enumerate(texts):
        tokens[row, MARGIN : MARGIN + len(text)] = text
    return torch.from_numpy(tokens), torch.tensor(lengths)


def _pooled(parts: Any, vectors: Any, lengths: Any) -> Any:
    """(n, maps) maxima over each text's own windows; (n, l, d) vectors, zeros around and after the words."""
    import torch

    columns = []
    for width, layer in zip(WIDTHS, parts["maps"], strict=True):
        maps = torch.relu(layer(vectors.transpose(1, 2)))
        windows = torch.arange(maps.shape[2], device=maps.device)
        beyond = windows[None] >= (lengths + 2 * MARGIN - width + 1)[:, None]
        columns.append(maps.masked_fill(beyond[:, None], 0.0).max(dim=2).values)
    return torch.cat(columns, dim=1)


@contextmanager
def _torch(resources: Resources, random_state: int) -> Iterator[None]:
    """The threads given and a seed; torch's own of both come back at the end."""
    import torch

    threads = torch.get_num_threads()
    devices = [resources.device] if resources.device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(random_state)
        torch.set_num_threads(resources.threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


ENCODER = TextCnn
