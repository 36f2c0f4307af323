"""The record of a run: one immutable, self-describing JSON file, and the arrays that go with it.

A table can be made from records alone, years later, without the code that ran them. A record holds no host
name, user name or path.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

import xmbench
from xmbench._io import atomic_write, npz_bytes, read_npz, short_id, source_digest
from xmbench.errors import InvalidParameter, InvalidRecord
from xmbench.evaluation import TASKS, Scores
from xmbench.protocol import DEFAULT, Protocol
from xmbench.tuning import Tuning

SCHEMA = 1
REPORTED_SCOPES = (1, 10, 50, 100)
"""K at which precision stands in the record itself; the whole curve is in the arrays."""


class MethodRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The method of a run, with resolved parameters."""

    name: str
    label: str
    """The name as it was asked for, such as ``cca[ridge=0.1]``."""
    title: str
    params: dict[str, Any]
    source: str
    """Digest of the method's source."""
    supervised: bool
    transductive: bool
    control: bool
    trained: bool
    departures: list[str]

    @property
    def ablation(self) -> str | None:
        """Name of the ablation that the label asks for; None for a full model."""
        return None if "ablation" in self.params else _ablation(self.label)[1]

    @property
    def full(self) -> str:
        """Label of the full model: that of an ablation with all else that is in its brackets."""
        return self.label if self.ablation is None else _ablation(self.label)[0]


def _ablation(label: str) -> tuple[str, str | None]:
    """A label without its ``ablation=``, and what that names, if it is there."""
    match = re.fullmatch(r"([^\[\]]+)\[([^\[\]]*)\]", label, flags=re.DOTALL)
    items = match[2].split(",") if match else []
    named = [item.partition("=")[2] for item in items if item.startswith("ablation=")]
    if not (match and named):
        return label, None
    rest = ",".join(item for item in items if not item.startswith("ablation="))
    return (f"{match[1]}[{rest}]" if rest else match[1]), named[0]


class DatasetRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The data of a run."""

    name: str
    title: str
    features: str
    """``IMAGE+TEXT``."""
    scaling: str
    """``IMAGE+TEXT``."""
    provenance: dict[str, Any]
    split: str
    split_seed: int | None
    sizes: dict[str, int]
    n_classes: int
    fingerprint: str
    test_fingerprint: str = ""
    """Hash of the ids of the test rows: equal on splits that differ in the other rows alone."""
    synthetic: bool = False
    """Whether the data is made up; such runs are kept out of leaderboards."""
    complete: bool = True
    """Whether all of the dataset was there (0.95 of its pairs at least), rather than a piece of it."""
    findings: list[str] = []
    """What stands on both sides of the split, in words; see ``xmbench data audit``."""

    @property
    def parts(self) -> str:
        """``IMAGE+TEXT``: how images and texts were cut into parts beside them; ``none+none`` without parts."""
        cuts = self.provenance.get("parts")
        found = [cuts.get(modality) for modality in ("image", "text")] if isinstance(cuts, dict) else []
        named = [str(one.get("cut")) if isinstance(one, dict) else "none" for one in found]
        return "+".join(named or ["none", "none"])

    @property
    def inputs(self) -> str:
        """Features in words, with the parts if there are any."""
        return self.features if self.parts == "none+none" else f"{self.features} with parts {self.parts}"


class TaskRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Scores of one task; None where no query had a relevant item."""

    mean_average_precision: float | None
    chance: float | None
    precision: dict[str, float]
    """K -> mean precision among the first K, for the K of ``REPORTED_SCOPES`` that the gallery allows."""
    recall: dict[str, float] = {}
    """K -> mean recall among the first K; as ``precision``."""
    ndcg: dict[str, float] = {}
    """K -> mean nDCG of the first K; as ``precision``."""
    r_precision: float | None = None
    mean_reciprocal_rank: float | None = None
    per_class: dict[str, float]
    n_queries: int
    n_unanswerable: int
    n_zero_norm: int = 0
    """Rows of length 0, of queries and gallery together; under cosine they are similar to nothing."""
    gallery: int


class Cost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a fit took, and on what."""

    fit_seconds: float
    encode_seconds: float
    peak_memory_bytes: int | None
    """Growth of the process's memory over its start; None where the system does not tell."""
    n_parameters: int
    device: str
    threads: int
    versions: dict[str, str]


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One run under one protocol.

    ``fit_id`` names what was fitted (method source, numerics, parameters, data, seeds, selection rule),
    ``score_id`` what was scored (the fit, the protocol, the evaluator). Equal ids are equal numbers.
    """

    schema: Literal[1] = 1
    fit_id: str
    score_id: str
    status: Literal["ok", "failed", "timeout", "killed"]
    reason: str | None = None
    """Why a run is not ok."""
    method: MethodRow
    dataset: DatasetRow
    protocol: dict[str, Any]
    seed: int
    metrics: dict[str, TaskRow] = {}
    evaluate_seconds: float | None = None
    cost: Cost | None = None
    engine: str | None = None
    tuning: Tuning | None = None
    """How the parameters were chosen, where ``method.params`` are but the first that were tried. Ids are made from
    all of it but scores, seconds and reasons; the choice has to be that of the scores."""
    numerics: str
    evaluator: str
    git: dict[str, Any] | None = None
    xmbench: str = xmbench.__version__

    @property
    def identity(self) -> tuple[object, ...]:
        """What a run is a run *of*; a newer record of the same identity replaces an older one."""
        data = self.dataset
        variant = (data.name, data.inputs, data.scaling, data.split, data.split_seed)
        tuned = (self.tuning.mode, self.tuning.budget) if self.tuning else ()
        return (self.method.label, *variant, self.seed, self.protocol["name"], *tuned)

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of the fitted method."""
        if self.tuning is None or self.tuning.chosen is None:
            return self.method.params
        return self.tuning.trials[self.tuning.chosen].params


def fit_id(
    method: MethodRow,
    dataset: DatasetRow,
    seed: int,
    numerics: str,
    selection: str,
    tuned: tuple[str, int, Sequence[Mapping[str, Any]]] | None = None,
) -> str:
    """Hash of all that can change a fitted model, and of nothing else.

    ``tuned`` are mode, budget and candidates of tuning: a record says all three, and equal ids are equal records.
    """
    return short_id(
        {
            **({} if tuned is None else {"tuning": list(tuned[:2]), "tried": list(tuned[2])}),
            "method": method.source,
            "numerics": numerics,
            "params": method.params,
            "transductive": method.transductive,
            "data": dataset.fingerprint,
            "split_seed": dataset.split_seed,
            "seed": seed,
            "selection": [selection, DEFAULT.identity()],
        }
    )


def score_id(fit: str, label: str, protocol: Protocol, evaluator: str) -> str:
    """Hash of a fit, the label it goes by, the protocol and the evaluator."""
    return short_id([fit, label, {"name": protocol.name, **protocol.identity()}, evaluator])


def check_ids(record: Record) -> None:
    """Raise InvalidRecord unless the ids of a record are those of what it says it is a record of."""
    protocol = Protocol(**record.protocol)
    tuning = record.tuning
    tuned = None
    if tuning is not None:
        tuned = (tuning.mode, tuning.budget, [trial.params for trial in tuning.trials])
    fit = fit_id(record.method, record.dataset, record.seed, record.numerics, protocol.selection, tuned)
    score = score_id(fit, record.method.label, protocol, record.evaluator)
    if (record.fit_id, record.score_id) != (fit, score):
        raise InvalidRecord(
            f"record {record.score_id} of {record.method.label}, seed {record.seed}: its parameters, data, seeds "
            "or protocol are not those that its ids were made from"
        )


def encode(record: Record) -> bytes:
    """The record as one line of JSON with sorted keys."""
    return msgspec.json.encode(record, order="sorted")


def decode(data: bytes | str, where: str) -> Record:
    """Read a record strictly.

    Raises:
        InvalidRecord: not JSON, a field missing, unknown or of the wrong type, another schema version, or
            a finished run without its scores.
    """
    try:
        record = msgspec.json.decode(data, type=Record)
        Protocol(**record.protocol)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRecord(f"{where}: {error}") from error
    except (TypeError, InvalidParameter) as error:
        raise InvalidRecord(f"{where}: the protocol cannot be read: {error}") from error
    missing = [task for task in TASKS if task not in record.metrics]
    if record.status == "ok" and missing:
        raise InvalidRecord(f"{where}: a finished run without scores of {', '.join(missing)}")
    if record.tuning is not None and (record.status == "ok") != (record.tuning.chosen is not None):
        raise InvalidRecord(f"{where}: a finished run has a chosen trial, and no other has")
    return record


def json_schema() -> dict[str, Any]:
    """JSON Schema of :class:`Record`."""
    return msgspec.json.schema(Record)


def task_rows(scores: Scores, class_names: Sequence[str] | Mapping[int, str]) -> dict[str, TaskRow]:
    """The part of scores that stands in the record."""
    return {
        name: TaskRow(
            mean_average_precision=_number(task.mean_average_precision),
            chance=_number(task.chance),
            precision=_at_scopes(task.precision),
            recall=_at_scopes(task.recall),
            ndcg=_at_scopes(task.ndcg),
            r_precision=_number(task.r_precision),
            mean_reciprocal_rank=_number(task.mean_reciprocal_rank),
            per_class={class_names[label]: value for label, value in task.per_class.items()},
            n_queries=task.n_queries,
            n_unanswerable=task.n_unanswerable,
            n_zero_norm=task.n_zero_norm,
            gallery=task.gallery,
        )
        for name, task in scores.tasks.items()
    }


def score_arrays(scores: Scores) -> dict[str, NDArray[Any]]:
    """The part of scores that stands beside the record: per-query AP, and the curves."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, task in scores.tasks.items():
        arrays[f"average_precision/{name}"] = task.average_precision
        arrays[f"precision/{name}"] = task.precision
        arrays[f"recall/{name}"] = task.recall
        arrays[f"ndcg/{name}"] = task.ndcg
        arrays[f"scopes/{name}"] = np.arange(1, len(task.precision) + 1)
        arrays[f"interpolated_precision/{name}"] = task.interpolated_precision
    return arrays


def _at_scopes(curve: NDArray[np.float64]) -> dict[str, float]:
    return {
        str(k): float(curve[k - 1]) for k in REPORTED_SCOPES if k <= len(curve) and np.isfinite(curve[k - 1])
    }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


_NAME = r"[^\s/\\:'\"<>|]"
_FOLDERS = re.compile(
    r"(https?://\S+)|"
    rf"(?<![\w./\\])(?:(?:file:|~\w*|[A-Za-z]:)(?:[/\\]+{_NAME}+)*|(?:[/\\]+{_NAME}+)+)[/\\]+(?={_NAME})"
)


def scrub(text: str) -> str:
    """A message without the folders of this machine, cut to a sensible length, that UTF-8 can hold.

    Of an absolute path the last name stays, of the home folder a tilde. Web addresses and relative paths
    are left alone.
    """
    text = text.encode("utf-8", "replace").decode()
    home = str(Path.home())
    if home != Path.home().anchor:
        text = re.sub(rf"(?<![\w/\\]){re.escape(home)}(?!\w)", "~", text)
    text = _FOLDERS.sub(lambda found: found[1] or "", text)
    return text if len(text) <= 2000 else text[:2000] + " ..."


class Results:
    """A folder of records and embeddings. Whatever is in it was written whole.

    Args:
        folder: made when something is first written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def record_path(self, score_id: str) -> Path:
        """Where the record of ``score_id`` is, or would be."""
        return self.folder / "records" / f"{score_id}.json"

    def embeddings_path(self, fit_id: str) -> Path:
        """Where the test embeddings of ``fit_id`` are, or would be."""
        return self.folder / "embeddings" / f"{fit_id}.npz"

    def get(self, score_id: str) -> Record | None:
        """The record of ``score_id``, or None.

        Raises:
            InvalidRecord: the file does not hold that record.
        """
        path = self.record_path(score_id)
        if not path.is_file():
            return None
        record = decode(path.read_bytes(), f"{path.name} (delete it, or use --fresh)")
        if record.score_id != score_id:
            raise InvalidRecord(
                f"{path.name} holds the record of {record.score_id}; delete it, or use --fresh"
            )
        return record

    def written(self, record: Record) -> tuple[int, str]:
        """Sorts records of this folder by when they were written."""
        return self.record_path(record.score_id).stat().st_mtime_ns, record.score_id

    def put(self, record: Record, arrays: dict[str, NDArray[Any]] | None = None) -> None:
        """Write arrays first and the record last: a record that can be read is complete."""
        path = self.record_path(record.score_id)
        if arrays is not None:
            atomic_write(path.with_suffix(".npz"), npz_bytes(arrays))
        atomic_write(path, encode(record) + b"\n")

    def arrays(self, score_id: str) -> dict[str, NDArray[Any]]:
        """Per-query AP and curves of ``score_id``; raises InvalidRecord."""
        path = self.record_path(score_id).with_suffix(".npz")
        try:
            return read_npz(path)
        except (FileNotFoundError, ValueError) as error:
            raise InvalidRecord(f"the arrays of record {score_id} cannot be read: {error}") from error

    def newest(self) -> list[Record]:
        """Finished records; of several of the same method, data, seed and protocol the one written last."""
        finished = sorted((record for record in self if record.status == "ok"), key=self.written)
        return list({record.identity: record for record in finished}.values())

    def __iter__(self) -> Iterator[Record]:
        """All records, by file name."""
        for path in sorted((self.folder / "records").glob("*.json")):
            yield decode(path.read_bytes(), path.name)


@cache
def numerics_digest() -> str:
    """Digest of the source of the numerical code that methods share.

    What trained methods share besides is part of their own source: see :func:`xmbench._io.shared_source`.
    """
    folder = Path(__file__).parent
    names = ("linalg", "kernels", "graphs", "reweighting", "reuse", "scaling")
    return source_digest(folder / f"{name}.py" for name in names)[:16]


@cache
def git_state() -> dict[str, Any] | None:
    """Commit and cleanliness of the checkout that xmbench runs from; None when it is installed."""
    package = Path(__file__).resolve().parent
    if not (package.parent / ".git").exists():
        return None

    def git(*words: str) -> str:
        command = ["git", "-C", str(package.parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return None


def versions() -> dict[str, str]:
    """Versions of Python, of xmbench, and of the numerical libraries that this process has loaded."""
    found = {"python": ".".join(map(str, sys.version_info[:3])), "xmbench": xmbench.__version__}
    for name in ("numpy", "scipy", "sklearn", "torch", "gensim"):
        if name in sys.modules:
            found[name] = str(sys.modules[name].__version__)
    return found


def pack_header(header: dict[str, Any]) -> NDArray[np.uint8]:
    """JSON as bytes, to lie among arrays."""
    return np.frombuffer(json.dumps(header, sort_keys=True).encode(), dtype=np.uint8)


def unpack_header(array: NDArray[np.uint8]) -> dict[str, Any]:
    """What :func:`pack_header` packed."""
    header: dict[str, Any] = json.loads(array.tobytes())
    return header
