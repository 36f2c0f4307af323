"""The one training loop: a method brings its architecture, its losses and one step.

The loop seeds, shuffles, moves batches, asks for the validation score, keeps the best state, stops early, keeps the
history, and ends at the deadline or where a loss is no longer finite. It knows no method.
"""

from __future__ import annotations

import copy
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from xmbench.data import Pairs
from xmbench.errors import InvalidInput, InvalidParameter, RunError, Unsupported
from xmbench.method import FitContext, Method
from xmbench.nn import LayerArrays, Tensor, check_positive, forward

VALIDATION_MAP = "validation_map"
"""Column of the history: mean of both directions' MAP on the validation pairs, default protocol."""


@dataclass(frozen=True)
class Batch:
    """Rows of pairs as tensors on the device.

    Args:
        images: (b, d_image) float32.
        texts: (b, d_text) float32.
        targets: (b, c) float32 of 0 and 1, one or several classes an item.
        rows: (b,) int64, where the rows stand among the pairs.
    """

    images: Tensor
    texts: Tensor
    targets: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)


class Session:
    """Where a fit computes, and its independent random streams.

    What one stream is used for does not shift the others: an ablation that draws no negatives starts and shuffles
    as the full model does.

    Args:
        random_state: seed of all streams.
        device: where tensors live.
        branch: of several trainings in one fit, which one; each has streams of its own.

    Attributes:
        start: torch.Generator on the CPU for initial weights.
        noise: torch.Generator on the device for dropout and masks.
        shuffle: numpy generator for the order of the rows.
        negatives: numpy generator for sampled mismatches.
        probe: torch.Generator on the CPU for initial weights of what watches or opposes the networks.
    """

    def __init__(self, random_state: int, device: str = "cpu", branch: int = 0) -> None:
        import torch

        self.device = torch.device(device)
        words = np.random.SeedSequence(entropy=random_state, spawn_key=(branch,)).spawn(5)
        seeds = [int(word.generate_state(1, np.uint64)[0] >> np.uint64(1)) for word in words]
        self.start = torch.Generator().manual_seed(seeds[0])
        self.noise = torch.Generator(device=self.device).manual_seed(seeds[1])
        self.shuffle = np.random.default_rng(seeds[2])
        self.negatives = np.random.default_rng(seeds[3])
        self.probe = torch.Generator().manual_seed(seeds[4])

    def batch(self, pairs: Pairs) -> Batch:
        """All rows of ``pairs``; on the CPU they share its memory."""
        import torch

        return Batch(
            self._tensor(pairs.images),
            self._tensor(pairs.texts),
            self._tensor(pairs.one_hot().astype(np.float32)),
            torch.arange(len(pairs), device=self.device),
        )

    def _tensor(self, rows: NDArray[np.float32]) -> Tensor:
        import torch

        return torch.from_numpy(rows if rows.flags.writeable else rows.copy()).to(self.device)


class Learner(ABC):
    """What is trained: networks, their optimisers, and one step."""

    learning_rate: float

    def begin_epoch(self, epoch: int, max_epochs: int) -> None:  # noqa: B027 (most have no schedule)
        """Told before each epoch, the first being 1; for schedules."""

    @abstractmethod
    def step(self, batch: Batch) -> Mapping[str, Tensor | float]:
        """One update from a batch; numbers (tensors of one, detached) whose means the history gets."""

    def examine(self, batch: Batch) -> Mapping[str, float]:
        """Numbers on the validation pairs for the history, where a method has more than its retrieval score."""
        return {}

    @abstractmethod
    def learned(self) -> Mapping[str, Any]:
        """Attribute of the method -> what it would learn if training ended now; arrays may share memory."""


class Trained(Method):
    """A method that is trained in epochs.

    Args, of every subclass:
        learning_rate: of Adam.
        batch_size: pairs a step; all of them where there are fewer.
        max_epochs: passes over the training pairs at the most.
        patience: epochs without a better validation score that end the training.
        random_state: seed of initial weights, order, noise and negatives.

    Which epoch is kept is decided on the validation pairs. A method that selects by its retrieval score gets that from
    the context (a run has one): without a context, ``fit(train, validation)`` keeps its last epoch, as without
    validation pairs.

    Learned, by every subclass: ``history_``, one dictionary an epoch, ``kept`` being 1 in that of the epoch that
    counts; ``best_epoch_``, that epoch, the first being 1 (of several stages, the last one's). The networks of the
    simple case are ``image_layers_`` and ``text_layers_``.
    """

    learning_rate: float
    batch_size: int | None
    max_epochs: int
    patience: int
    random_state: int
    history_: list[dict[str, Any]]
    best_epoch_: int
    image_layers_: list[LayerArrays]
    text_layers_: list[LayerArrays]

    def fit(
        self, train: Pairs, validation: Pairs | None = None, *, context: FitContext | None = None
    ) -> Self:
        """As :meth:`xmbench.Method.fit`; what the last step made of the networks is looked at too.

        Raises:
            RunError: the training diverged.
        """
        super().fit(train, validation, context=context)
        rows = self.encode_pairs(train.take(np.arange(min(len(train), 64))))
        if not all(np.isfinite(encoded).all() for encoded in rows):
            error = self._diverged(self.history_[-1], ["what training rows are encoded to"])
            self._forget()
            raise error
        return self

    def _encode_image(self, images: NDArray[np.float32]) -> NDArray[Any]:
        return forward(self.image_layers_, images)

    def _encode_text(self, texts: NDArray[np.float32]) -> NDArray[Any]:
        return forward(self.text_layers_, texts)

    @property
    def n_parameters(self) -> int:
        """How many numbers the fitted model consists of."""
        return sum(_count(value) for name, value in vars(self).items() if name.endswith("_"))

    def _check_training(self, *, smallest_batch: int = 2) -> None:
        """Raise InvalidParameter where a parameter of the loop is off."""
        name = type(self).__name__
        check_positive(name, learning_rate=self.learning_rate)
        for parameter, least in (("max_epochs", 1), ("patience", 1), ("random_state", 0)):
            if getattr(self, parameter) < least:
                raise InvalidParameter(
                    f"{name}.{parameter}: expected at least {least}, got {getattr(self, parameter)}"
                )
        if self.batch_size is not None and self.batch_size < smallest_batch:
            raise InvalidParameter(
                f"{name}.batch_size: expected at least {smallest_batch}, got {self.batch_size}"
            )

    def _train(
        self,
        learner: Learner,
        train: Pairs,
        validation: Pairs | None,
        context: FitContext,
        session: Session,
        *,
        batch_size: int | None = None,
        max_epochs: int | None = None,
        smallest_batch: int = 2,
        select_by: str | None = VALIDATION_MAP,
        lower_is_better: bool = False,
        stage: str | None = None,
        scored: bool = True,
    ) -> None:
        """Train ``learner`` and learn its best state; may be called once for each stage of a fit.

        Args:
            learner: what is trained.
            train: training pairs.
            validation: validation pairs; they are examined and scored, and never trained on.
            context: validation score, deadline, threads, progress.
            session: device and random streams.
            batch_size: pairs a step; None for the parameter, and where that is None too, for all pairs.
            max_epochs: None for the parameter.
            smallest_batch: the last batch of an epoch is left out if it has fewer rows (the next epoch has other
                rows last), unless it is the only one.
            select_by: column of the history whose best epoch is kept, the first of equal ones; None, or a column
                that the validation pairs and the context do not give, keeps the last epoch.
            lower_is_better: the sense of that column.
            stage: name of a stage, for history and progress.
            scored: whether the method can encode in this stage, so that the history gets its validation score.

        Raises:
            RunError: a loss is not finite; the message has the epoch and the terms.
            Unsupported: no validation row has a relevant one, so that no epoch can be chosen.
            DeadlineExceeded: the run's time is over.
        """
        batch_size, max_epochs = batch_size or self.batch_size or len(train), max_epochs or self.max_epochs
        history: list[dict[str, Any]] = vars(self).setdefault("history_", [])
        best: tuple[float, int, dict[str, Any]] | None = None  # how good, epoch, state
        with _settings(context.threads):
            everything = session.batch(train)
            held = None if validation is None else session.batch(validation)
            score = context.validation_score if scored and validation is not None else None
            for epoch in range(1, max_epochs + 1):
                began = time.perf_counter()
                learner.begin_epoch(epoch, max_epochs)
                line: dict[str, Any] = {} if stage is None else {"stage": stage}
                line |= {"epoch": epoch, "seconds": 0.0, "learning_rate": learner.learning_rate}
                line |= _epoch(learner, everything, batch_size, smallest_batch, session, context)
                vars(self).update(learner.learned())
                if held is not None:
                    line |= {name: float(value) for name, value in learner.examine(held).items()}
                terms = [name for name, value in line.items() if _not_finite(value)]
                if terms:
                    raise self._diverged(line, terms)
                if score is not None:
                    line |= self._scores(score, context.validation_tasks, line)
                line["seconds"] = time.perf_counter() - began
                history.append(line)
                value = line.get(select_by) if select_by else None
                if value is not None:
                    rank = -value if lower_is_better else value
                    if best is None or rank > best[0]:
                        best = (rank, epoch, copy.deepcopy(dict(learner.learned())))
                news = f"{'' if stage is None else stage + ', '}epoch {epoch} of {max_epochs}"
                if value is not None and best is not None:
                    top = -best[0] if lower_is_better else best[0]
                    news += f", {select_by} {value:.3f} (best {top:.3f} in epoch {best[1]})"
                context.progress(news, epoch / max_epochs)
                if best is not None and epoch - best[1] >= self.patience:
                    break
        kept = best or (0.0, epoch, copy.deepcopy(dict(learner.learned())))
        self.best_epoch_ = kept[1]
        for line in history[len(history) - epoch :]:
            line["kept"] = float(line["epoch"] == kept[1])
        vars(self).update(kept[2])

    def _scores(
        self,
        score: Callable[[Method], float],
        tasks: Callable[[Method], Mapping[str, float]] | None,
        line: Mapping[str, Any],
    ) -> dict[str, float]:
        """Validation scores of the present state: of each task, where the context has them, and their mean."""
        try:
            each = {} if tasks is None else {name: float(value) for name, value in tasks(self).items()}
            found = sum(each.values()) / len(each) if each else float(score(self))
        except InvalidInput as error:  # of the evaluator: embeddings
            raise self._diverged(line, ["what validation rows are encoded to"]) from error
        if math.isnan(found):
            raise Unsupported(
                "no validation row has a relevant one among the others, so that no epoch can be chosen; take a "
                "split with more validation rows"
            )
        names = {name: f"{VALIDATION_MAP}_{name.replace('->', '_to_')}" for name in each}
        return {**{names[name]: value for name, value in each.items()}, VALIDATION_MAP: found}

    def _diverged(self, line: Mapping[str, Any], terms: Sequence[str]) -> RunError:
        where = f" of stage {line['stage']}" if "stage" in line else ""
        return RunError(
            f"{type(self).__name__} diverged in epoch {line['epoch']}{where}: {', '.join(terms)} "
            f"{'is' if len(terms) == 1 else 'are'} not finite; a learning_rate below {line['learning_rate']:g} "
            "may help"
        )


def _epoch(
    learner: Learner,
    pairs: Batch,
    batch_size: int,
    smallest_batch: int,
    session: Session,
    context: FitContext,
) -> dict[str, float]:
    """One pass over the pairs in a new order; means of what the steps told, weighted by their rows."""
    import torch

    order = torch.from_numpy(session.shuffle.permutation(len(pairs))).to(session.device)
    totals: dict[str, Any] = {}
    n = 0
    for rows in order.split(batch_size):
        if len(rows) < smallest_batch and n:
            break
        context.check_deadline()
        batch = Batch(pairs.images[rows], pairs.texts[rows], pairs.targets[rows], rows)
        for name, value in learner.step(batch).items():
            totals[name] = totals.get(name, 0.0) + value * len(rows)
        n += len(rows)
    return {name: float(total) / n for name, total in totals.items()}


def _not_finite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _count(value: object) -> int:
    """Numbers in arrays of floats, through lists and dictionaries."""
    if isinstance(value, np.ndarray):
        return value.size if value.dtype.kind == "f" else 0
    if isinstance(value, Mapping):
        return sum(map(_count, value.values()))
    return sum(map(_count, value)) if isinstance(value, list) else 0


@contextmanager
def _settings(threads: int) -> Iterator[None]:
    """The threads given and deterministic kernels; torch's own settings come back at the end.

    What deterministic products on CUDA need of the environment stays there.
    """
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic products on CUDA need
    threads_before, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads_before)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
