"""One run, from prepared data to a record. Nothing here knows of other runs."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from xmbench._io import atomic_write, npz_bytes, read_npz
from xmbench.data import PairedData, Pairs, Ragged, Store
from xmbench.errors import ConformanceError
from xmbench.evaluation import Scores, evaluate
from xmbench.method import FitContext, Method
from xmbench.protocol import Protocol
from xmbench.record import (
    Cost,
    DatasetRow,
    MethodRow,
    Record,
    Results,
    fit_id,
    git_state,
    pack_header,
    score_arrays,
    score_id,
    scrub,
    task_rows,
    unpack_header,
    versions,
)
from xmbench.registry import Plugin
from xmbench.tuning import Mode, Trial, Tuning, tune

BIMODAL = ("image->text", "text->image")
"""The tasks whose mean average precision chooses on validation rows."""

HISTORY = "history/"
"""What the names of the arrays of :func:`history_arrays` begin with."""


@dataclass(frozen=True)
class RunSpec:
    """Everything that decides the numbers of one run, and where to compute them.

    Args:
        plugin: where the method is to be had.
        method: the method's row of the record, parameters resolved.
        dataset: the data's row of the record.
        class_names: names of the classes, for per-class scores.
        protocol: how to score.
        seed: random state of the method.
        numerics: digest of the shared numerical source.
        evaluator: digest of the evaluator's source.
        device: where to compute.
        threads: threads that the run may use.
        tuning: how parameters are chosen on the validation rows, and the budget; None for as they are.
        tried: the parameters of each candidate.
    """

    plugin: Plugin
    method: MethodRow
    dataset: DatasetRow
    class_names: tuple[str, ...]
    protocol: Protocol
    seed: int
    numerics: str
    evaluator: str
    device: str = "cpu"
    threads: int = 1
    tuning: tuple[Mode, int] | None = None
    tried: tuple[dict[str, Any], ...] | None = None

    @property
    def fit_id(self) -> str:
        """Hash of all that can change the fitted model, and of nothing else."""
        selection = self.protocol.selection
        tuned = self.tuning and (*self.tuning, self.tried or ())
        return fit_id(self.method, self.dataset, self.seed, self.numerics, selection, tuned)

    @property
    def score_id(self) -> str:
        """Hash of the fit, the label it goes by, the protocol and the evaluator."""
        return score_id(self.fit_id, self.method.label, self.protocol, self.evaluator)

    def record(self, **fields: Any) -> Record:
        """A record of this run with ``fields`` filled in; without a ledger it says what there was to try."""
        untried = [Trial(dict(params), None, 0.0) for params in self.tried or ()]
        tuning = self.tuning and Tuning(*self.tuning, untried, None)
        return Record(
            fit_id=self.fit_id,
            score_id=self.score_id,
            dataset=self.dataset,
            protocol=self.protocol.to_dict(),
            seed=self.seed,
            numerics=self.numerics,
            evaluator=self.evaluator,
            git=git_state(),
            **{"method": self.method, "tuning": tuning, **fields},
        )


@dataclass(frozen=True)
class Embeddings:
    """Test embeddings of a fit, with all that scoring them under another protocol, or showing them, needs.

    Args:
        images: (n, k) test images in the common space.
        texts: (n, k) test texts.
        labels: (n,) int or (n, c) multi-hot, of the test items.
        ids: n names of the test items, unique.
        class_names: names of the c classes.
        cost: what the fit cost, with all trials.
        tuning: how the parameters were chosen, if they were.
        departures: where the fitted method departs from its paper.
        history: of a method trained by epochs, the arrays of :func:`history_arrays`; else empty.
    """

    images: NDArray[Any]
    texts: NDArray[Any]
    labels: NDArray[Any]
    ids: tuple[str, ...]
    class_names: tuple[str, ...]
    cost: Cost
    tuning: Tuning | None = None
    departures: tuple[str, ...] = ()
    history: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def run_one(
    spec: RunSpec,
    bundle: Path,
    folder: Path,
    keep: bool,
    fresh: bool,
    deadline: float | None,
    progress: Callable[[str, float | None], None],
) -> None:
    """Fit, encode, score and write the record of ``spec``; kept embeddings of the same fit are scored anew.

    Args:
        spec: the run.
        bundle: folder of :func:`write_bundle`.
        folder: the results folder.
        keep: whether to keep the test embeddings.
        fresh: whether to fit even if embeddings of the same fit are kept.
        deadline: monotonic time at which the run will be ended.
        progress: told what happens.
    """
    results = Results(folder)
    _limit_threads(spec.threads)
    path = results.embeddings_path(spec.fit_id)
    embeddings = None if fresh else read_embeddings(path)
    if embeddings is None:
        embeddings = _fit_and_encode(spec, bundle, deadline, progress)
        if keep:
            write_embeddings(path, embeddings)
    progress("scoring", None)
    start = time.perf_counter()
    scores = _evaluate(embeddings, spec.protocol, spec.device)
    seconds = time.perf_counter() - start
    record = spec.record(
        status="ok",
        method=msgspec.structs.replace(spec.method, departures=list(embeddings.departures)),
        tuning=embeddings.tuning,
        metrics=task_rows(scores, spec.class_names),
        evaluate_seconds=seconds,
        cost=embeddings.cost,
        engine=scores.engine,
    )
    results.put(record, {**score_arrays(scores), **embeddings.history})


def _fit_and_encode(
    spec: RunSpec, bundle: Path, deadline: float | None, progress: Callable[[str, float | None], None]
) -> Embeddings:
    before = _memory()
    train = read_bundle(bundle, "train")
    validation = read_bundle(bundle, "validation") if spec.dataset.sizes.get("validation") else None

    def validation_tasks(fitted: Method) -> dict[str, float]:
        assert validation is not None
        images, texts = fitted.encode_pairs(validation)
        scores = evaluate(
            images, texts, validation.labels, tasks=BIMODAL, curves=False, **_resources(spec.device)
        )
        return {name: task.mean_average_precision for name, task in scores.tasks.items()}

    def validation_score(fitted: Method) -> float:
        return float(np.mean(list(validation_tasks(fitted).values())))

    context = FitContext(
        validation_score=validation_score if validation is not None else None,
        validation_tasks=validation_tasks if validation is not None else None,
        device=spec.device,
        threads=spec.threads,
        deadline=deadline,
        progress=progress,
    )
    if spec.method.transductive:  # as recorded, and marked in every table; plan.py has seen to the option
        test = read_bundle(bundle, "test")
        context = replace(context, unlabelled_images=test.images, unlabelled_texts=test.texts)
    start = time.perf_counter()
    tuning = None
    if spec.tuning is None or spec.tried is None:
        progress("fitting", None)
        method = spec.plugin.load().resolve(spec.method.params)
        method.fit(train, validation, context=context)
    else:
        assert validation is not None
        method, trials, chosen = tune(spec.plugin.load().resolve, spec.tried, train, validation, context)
        trials = [
            msgspec.structs.replace(trial, reason=trial.reason and scrub(trial.reason)) for trial in trials
        ]
        tuning = Tuning(*spec.tuning, trials, chosen)
    fitted = time.perf_counter()
    progress("encoding", None)
    test = read_bundle(bundle, "test")
    began = time.perf_counter()
    images, texts = method.encode_pairs(test)
    encoded = time.perf_counter()
    peak = _peak_memory()
    cost = Cost(
        fit_seconds=fitted - start,
        encode_seconds=encoded - began,
        peak_memory_bytes=None if before is None or peak is None else max(0, peak - before),
        n_parameters=method.n_parameters,
        device=spec.device,
        threads=spec.threads,
        versions=versions(),
    )
    return Embeddings(
        images=images,
        texts=texts,
        labels=test.labels,
        ids=test.ids,
        class_names=spec.class_names,
        cost=cost,
        tuning=tuning,
        departures=method.departures,
        history=history_arrays(method),
    )


def history_arrays(method: Method) -> dict[str, NDArray[Any]]:
    """What a fitted method tells of its epochs, as it lies beside a record; empty if it tells nothing.

    ``history/<column>`` has one value for each line of ``history_``: float64, NaN where the line lacks the column,
    or text, empty where it does. ``history/best_epoch`` is ``best_epoch_``.

    Raises:
        ConformanceError: ``history_`` or ``best_epoch_`` is not what :class:`xmbench.method.Method` says of them.
    """
    lines = getattr(method, "history_", None)
    if lines is None:
        return {}
    if not isinstance(lines, list) or not all(isinstance(line, dict) for line in lines):
        raise ConformanceError(f"{method!r}: history_ has to be a list of dictionaries, one an epoch")
    arrays: dict[str, NDArray[Any]] = {}
    for column in dict.fromkeys(column for line in lines for column in line):
        if not isinstance(column, str) or not column.isidentifier() or column == "best_epoch":
            raise ConformanceError(
                f"{method!r}: {column!r} cannot be a column of history_; take a name such as embedding_loss"
            )
        values = [line[column] for line in lines if column in line]
        text = all(isinstance(value, str) for value in values)
        if not text and not all(isinstance(value, int | float | np.number) for value in values):
            raise ConformanceError(
                f"{method!r}: history_ column {column} has to hold numbers alone, or text alone"
            )
        gap = "" if text else np.nan
        arrays[f"{HISTORY}{column}"] = np.array(
            [line.get(column, gap) for line in lines], dtype=np.str_ if text else np.float64
        )
    best = getattr(method, "best_epoch_", None)
    if best is not None:
        if not isinstance(best, int | np.integer) or best < 1:
            raise ConformanceError(f"{method!r}: best_epoch_ has to be an epoch, 1 or more, got {best!r}")
        arrays[f"{HISTORY}best_epoch"] = np.array(best, dtype=np.int64)
    return arrays


def rescore(
    record: Record, embeddings: Embeddings, protocol: Protocol, evaluator: str
) -> tuple[Record, Scores]:
    """The record of the same fit under another protocol, by the present evaluator; nothing is fitted.

    Args:
        record: a finished run.
        embeddings: its kept test embeddings.
        protocol: how to score them.
        evaluator: digest of the evaluator's source.
    """
    start = time.perf_counter()
    scores = _evaluate(embeddings, protocol, "cpu")
    anew = msgspec.structs.replace(
        record,
        score_id=score_id(record.fit_id, record.method.label, protocol, evaluator),
        protocol=protocol.to_dict(),
        metrics=task_rows(scores, embeddings.class_names),
        evaluate_seconds=time.perf_counter() - start,
        engine=scores.engine,
        evaluator=evaluator,
    )
    return anew, scores


def _evaluate(embeddings: Embeddings, protocol: Protocol, device: str) -> Scores:
    return evaluate(embeddings.images, embeddings.texts, embeddings.labels, protocol, **_resources(device))


def _resources(device: str) -> dict[str, Any]:
    """Numbers for a record are computed in float64, whatever the method made: ties stay ties."""
    return {"precision": "float64", "device": "cpu" if device.startswith("mps") else device}


def write_embeddings(path: Path, embeddings: Embeddings) -> None:
    """Keep test embeddings as one ``.npz``."""
    header = {
        "cost": msgspec.to_builtins(embeddings.cost),
        "class_names": embeddings.class_names,
        "ids": embeddings.ids,
        "tuning": msgspec.to_builtins(embeddings.tuning),
        "departures": embeddings.departures,
    }
    arrays = {name: getattr(embeddings, name) for name in ("images", "texts", "labels")}
    atomic_write(path, npz_bytes({**arrays, **embeddings.history, "header": pack_header(header)}))


def read_embeddings(path: Path) -> Embeddings | None:
    """Kept test embeddings; None if there are none, or the file lacks something and has to be made again.

    A file without a history is whole: it was made by a method that has none.
    """
    try:
        arrays = read_npz(path)
        header = unpack_header(arrays["header"])
        embeddings = Embeddings(
            images=arrays["images"],
            texts=arrays["texts"],
            labels=arrays["labels"],
            ids=tuple(msgspec.convert(header["ids"], list[str])),
            class_names=tuple(header["class_names"]),
            cost=msgspec.convert(header["cost"], Cost),
            tuning=msgspec.convert(header["tuning"], Tuning | None),
            departures=tuple(header["departures"]),
            history={name: array for name, array in arrays.items() if name.startswith(HISTORY)},
        )
        return embeddings if len(embeddings.ids) == len(embeddings.labels) else None
    except (FileNotFoundError, ValueError, KeyError, msgspec.ValidationError):
        return None


def bundle_store(folder: Path) -> Store:
    """Where :func:`xmbench.data.prepare` puts matrices, so that they lie in the bundle ``folder`` at once."""

    def store(
        name: str, shape: tuple[int, int], blocks: Iterator[NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        path = folder / f"{name}.npy"
        with path.open("wb") as stream:
            descr = np.lib.format.dtype_to_descr(np.dtype(np.float32))
            header = {"descr": descr, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(stream, header)
            for block in blocks:
                stream.write(block.data)
        return _mapped(path)

    return store


def write_bundle(folder: Path, data: PairedData, *, stored: bool = False) -> None:
    """Put prepared data into a folder of ``.npy`` files, of which a run maps what it may see into its memory.

    Args:
        folder: a new one.
        data: what to write.
        stored: the folder is there, with the features that ``prepare(..., store=bundle_store(folder))`` put there
            for this data.
    """
    if not stored:
        folder.mkdir()
    for part in ("train", "validation", "test"):
        pairs: Pairs | None = getattr(data, part)
        if pairs is None:
            continue
        arrays: dict[str, NDArray[Any]] = {}
        if not stored:
            arrays = {"images": pairs.images, "texts": pairs.texts}
        arrays["labels"] = pairs.labels
        arrays["ids"] = pack_header({"ids": pairs.ids, "n_classes": pairs.n_classes})
        for name in ("image_parts", "text_parts"):
            if (ragged := getattr(pairs, name)) is not None:
                arrays |= {f"{name}-values": ragged.values, f"{name}-offsets": ragged.offsets}
        for name, array in arrays.items():
            np.save(folder / f"{part}-{name}.npy", array, allow_pickle=False)


def read_bundle(folder: Path, part: str) -> Pairs:
    """The pairs of one part of a bundle, as memory maps; other parts are not read.

    What is written to the arrays stays in this process.
    """
    arrays = {path.stem.removeprefix(f"{part}-"): _mapped(path) for path in folder.glob(f"{part}-*.npy")}
    header = unpack_header(arrays["ids"])
    ragged = {
        name: Ragged(arrays[f"{name}-values"], arrays[f"{name}-offsets"])
        for name in ("image_parts", "text_parts")
        if f"{name}-values" in arrays
    }
    return Pairs(
        images=arrays["images"],
        texts=arrays["texts"],
        labels=arrays["labels"],
        ids=tuple(header["ids"]),
        n_classes=header["n_classes"],
        image_parts=ragged.get("image_parts"),
        text_parts=ragged.get("text_parts"),
    )


def _mapped(path: Path) -> NDArray[Any]:
    return np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))


def _limit_threads(threads: int) -> None:
    from threadpoolctl import threadpool_limits

    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)  # for what is loaded later, torch above all
    threadpool_limits(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def _memory() -> int | None:
    """Memory of this process now, in bytes; None where /proc does not tell."""
    return _proc("VmRSS:")


def _peak_memory() -> int | None:
    """Largest memory of this process since it began, in bytes."""
    return _proc("VmHWM:")


def _proc(field: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return None
