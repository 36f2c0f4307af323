"""Many runs: from what was asked for to a list of run specs, and from that to records.

Records that exist are re-used; the rest run in processes of their own.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from xmbench._io import digest, scratch_folder, short_id
from xmbench.audit import complete, findings
from xmbench.data import (
    Corpus,
    Dataset,
    PairedData,
    Ragged,
    Split,
    Store,
    check_split,
    fingerprint,
    in_memory,
    prepare,
)
from xmbench.errors import PluginError, UsageError
from xmbench.evaluation import evaluator_digest
from xmbench.executor import Event, Job, execute
from xmbench.features import (
    Extraction,
    Extractor,
    Modality,
    Resources,
    default_scaling,
    shown,
    source,
    split_features,
    split_parts,
)
from xmbench.method import Method
from xmbench.protocol import DEFAULT, Protocol
from xmbench.record import DatasetRow, MethodRow, Record, Results, numerics_digest, scrub
from xmbench.registry import Plugin, Registry, label_of, parse_spec
from xmbench.run import RunSpec, bundle_store, run_one, write_bundle
from xmbench.scaling import Scaling
from xmbench.tuning import Mode, candidates

PRELOAD = ("numpy", "scipy.linalg", "threadpoolctl", "msgspec", "xmbench.run")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asks for.

    Args:
        methods: method specs, such as ``cca`` or ``cca[ridge=0.1]``.
        dataset: spec of the dataset, such as ``emoji`` or ``synthetic[n=500]``.
        features: ``IMAGE+TEXT``; None for the dataset's default.
        scaling: ``IMAGE+TEXT``; None for what the features want.
        parts: ``IMAGE+TEXT``, how images and texts are cut into parts beside them, such as ``grid2+sentences``.
        split: name of a split; None for the dataset's default.
        seeds: (random state of the method, split seed) of each repetition.
        protocol: how to score.
        settings: method name -> parameters for those of its specs that do not set them in brackets.
        transductive: whether methods may learn from the features of test rows, if they ask for them.
        device: where to compute.
        threads: threads of each run.
        tuning: how parameters that are not set by hand are chosen on validation rows, and how many trials a
            method has; None for as they are.
    """

    methods: Sequence[str]
    dataset: str
    features: str | None = None
    scaling: str | None = None
    parts: str = "none+none"
    split: str | None = None
    seeds: Sequence[tuple[int, int]] = ((0, 0),)
    protocol: Protocol = DEFAULT
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    transductive: bool = False
    device: str = "cpu"
    threads: int = 1
    tuning: tuple[Mode, int] | None = None


@dataclass(frozen=True)
class Places:
    """Where files are.

    Args:
        data: the data directory.
        cache: extracted features.
        results: records and embeddings.
    """

    data: Path
    cache: Path
    results: Path


@dataclass(frozen=True)
class Reuse:
    """Which existing records stand.

    Args:
        fresh: none does; everything is fitted anew.
        retry_failed: failed ones do not.
        keep_embeddings: whether test embeddings are kept for other protocols.
    """

    fresh: bool = False
    retry_failed: bool = False
    keep_embeddings: bool = True


Progress = Callable[[str, "float | None"], None]
Tried = tuple[dict[str, object], ...] | None


@dataclass
class _Choice:
    """A method as asked for, resolved as far as that can be done without data."""

    plugin: Plugin
    label: str
    method: Method | None
    problem: str | None = None
    fixed: tuple[str, ...] = ()

    def tried(self, params: dict[str, object], tuning: tuple[Mode, int] | None, seed: int) -> Tried:
        """The candidates of tuning, None without it."""
        if tuning is None or self.method is None:
            return None
        try:
            return tuple(candidates(params, type(self.method).grid, self.fixed, *tuning, seed))
        except UsageError as error:
            raise UsageError(f"{self.label}: {error}") from error

    def row(self, seed: int) -> MethodRow:
        if self.method is None:
            return MethodRow(
                name=self.plugin.name,
                label=self.label,
                title=self.plugin.name,
                params={},
                source="unknown",
                supervised=False,
                transductive=False,
                control=False,
                trained=False,
                departures=[],
            )
        info = self.method.info
        params = self.method.get_params()
        if "random_state" in params and "random_state" not in parse_spec(self.label)[1]:
            params["random_state"] = seed
        return MethodRow(
            name=self.plugin.name,
            label=self.label,
            title=info.title,
            params=params,
            source=self.plugin.source_digest()[:16],
            supervised=info.supervised,
            transductive=self.method.transductive,
            control=info.control,
            trained=info.trained,
            departures=list(self.method.departures),
        )


def with_ablations(spec: str, settings: Mapping[str, Mapping[str, object]], registry: Registry) -> list[str]:
    """The spec of a full model, then those of the ablations that its method declares, in the same brackets.

    Args:
        spec: of the full model, such as ``acmr`` or ``acmr[preset=paper]``.
        settings: as in :class:`Request`.
        registry: where methods are to be had.

    Raises:
        UsageError: the method declares no ablation, or the spec is that of one.
        PluginError: the method cannot be imported.
    """
    name, parameters = parse_spec(spec)
    method = registry.method(name)
    if not _ablations(method):
        others = {other for other in registry.methods if _declares_ablations(registry, other)}
        raise UsageError(
            f"{name} declares no ablations; these methods do: {', '.join(sorted(others)) or 'none'}"
        )
    if "ablation" in {**settings.get(name, {}), **parameters}:
        raise UsageError(
            f"{spec}: name the full model, without an ablation; its ablations ({', '.join(_ablations(method))}) "
            "are all run beside it"
        )
    return [spec, *(label_of(name, {**parameters, "ablation": ablation}) for ablation in _ablations(method))]


def _ablations(method: type[Method]) -> Mapping[str, Mapping[str, object]]:
    """Those that can be asked for: a parameter of the name goes before them."""
    return {} if "ablation" in method.defaults() else method.ablations


def _declares_ablations(registry: Registry, name: str) -> bool:
    try:
        return bool(_ablations(registry.method(name)))
    except PluginError:  # a broken one declares nothing that could be run
        return False


def choose(request: Request, registry: Registry) -> list[_Choice]:
    """Resolve the methods of a request.

    A method whose plugin is broken, or that wants test features without leave, stays in the list with its
    problem; it becomes a failed row.

    Raises:
        UsageError: an unknown method, an unknown or ill-typed parameter, one that the ablation sets itself, or a grid
            that the budget does not allow.
    """
    chosen: dict[str, _Choice] = {}
    known = {parse_spec(spec)[0] for spec in request.methods}
    for name in request.settings:
        if name not in known:
            raise UsageError(
                f"--set {name}...: {name!r} is not among the methods of this run: {', '.join(known)}"
            )
    for spec in request.methods:
        name, parameters = parse_spec(spec)
        parameters = {**request.settings.get(name, {}), **parameters}
        plugin = registry.plugin("method", name)
        label = label_of(name, parameters)
        try:
            method = plugin.load().resolve(parameters)
            sets = {"preset": method.presets, "ablation": method.ablations}
            named = {
                kind: set(sets[kind][str(parameters[kind])])
                for kind in sets
                if kind in parameters and kind not in method.defaults()
            }
            if twice := sorted(named.get("ablation", set()) & set(parameters)):
                raise UsageError(
                    f"{label}: the ablation itself sets {', '.join(twice)}, and with another value it would be "
                    "another model under its name; leave that out of the brackets and of --set"
                )
            fixed = set(parameters).union(*named.values())
            choice = _Choice(plugin, label, method, fixed=tuple(sorted(fixed)))
            choice.tried(
                method.get_params(), request.tuning, 0
            )  # what is wrong with it is told before any run
        except UsageError:
            raise
        except Exception as error:  # a constructor may raise anything
            reason = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
            chosen[label] = _Choice(plugin, label, None, reason)
            continue
        if method.transductive and not request.transductive:
            choice.problem = (
                "is transductive (learns from features of test rows): allow it with --transductive"
            )
        chosen[label] = choice
    return list(chosen.values())


def read_corpus(adapter: Plugin, dataset: Dataset, data_dir: Path, image: str, text: str) -> Corpus:
    """A dataset's corpus under the name it is registered by, with the parameters it was asked for with.

    What the adapter makes of the files is part of the data: its source goes into the digest.
    """
    corpus = dataset.load(data_dir, image, text)
    parts: list[object] = [corpus.digest, adapter.source_digest()]
    if dataset.parameters:
        parts.append(dict(dataset.parameters))
    return replace(corpus, name=label_of(adapter.name, dataset.parameters), digest=digest(parts))


def _scaled(parts: Extraction, items: Extraction, split: Split, name: str) -> Ragged:
    """Parts, scaled with the statistics of the whole training items."""
    assert parts.offsets is not None
    scaling = Scaling(name)
    scaling.fit(items.features.matrix, split.train)
    return Ragged(scaling.transform(parts.features.matrix), parts.offsets)


class Plan:
    """The runs of a request, and how to do them.

    Args:
        request: what is asked for.
        registry: where methods and datasets are to be had.
        places: where files are.
        progress: told of loading and feature extraction.
    """

    def __init__(self, request: Request, registry: Registry, places: Places, progress: Progress) -> None:
        self.request, self.registry, self.places, self.progress = request, registry, places, progress
        self.choices = choose(request, registry)
        self.adapter = registry.plugin("dataset", request.dataset)
        self.dataset: Dataset = registry.dataset(request.dataset)
        self.features = request.features or self.dataset.features
        self.image, self.text = split_features(self.features)
        if request.scaling:
            self.scaling = split_features(request.scaling, "scaling")
        else:
            self.scaling = (
                default_scaling(self.dataset, "image", self.image, registry),
                default_scaling(self.dataset, "text", self.text, registry),
            )
        self.parts = split_parts(request.parts)
        able = [choice.method for choice in self.choices if choice.method is not None]
        if set(self.parts) != {"none"} and able and not any(method.info.parts for method in able):
            raise UsageError(
                f"none of {', '.join(choice.label for choice in self.choices)} uses parts; leave --parts out, "
                "or add a method whose info has parts=True"
            )
        self.wanted: tuple[tuple[Modality, str], ...] = (("image", self.image), ("text", self.text))
        self.split = request.split or next(iter(self.dataset.splits))
        self._corpus: Corpus | None = None
        self._drawn: tuple[int, Split] | None = None
        self._extracted: tuple[int, dict[str, Extraction]] | None = None

    def extract(self, split_seed: int) -> dict[str, Extraction]:
        """Features of one split seed: of ``image``, ``text`` and, if asked for, ``image parts`` and ``text parts``.

        The last ones are remembered.
        """
        if self._extracted is None or self._extracted[0] != split_seed:
            corpus, split = self.corpus(), self.drawn(split_seed)
            device, threads = self.request.device, self.request.threads
            resources = Resources(device=device, threads=threads, progress=self.progress)
            found: dict[str, Extraction] = {}
            for (modality, spec), cut in zip(self.wanted, self.parts, strict=True):
                extractor = Extractor(
                    self.dataset,
                    corpus,
                    split,
                    modality,
                    spec,
                    cache_dir=self.places.cache,
                    resources=resources,
                    registry=self.registry,
                )
                found[modality] = extractor.items()
                if cut != "none":
                    found[f"{modality} parts"] = extractor.parts(cut)
            self._extracted = (split_seed, found)
        return self._extracted[1]

    def corpus(self) -> Corpus:
        """The dataset as it is on disk, read once."""
        if self._corpus is None:
            self.progress(f"reading {self.request.dataset}", None)
            image, text = (
                source(self.dataset, modality, spec, self.registry) for modality, spec in self.wanted
            )
            self._corpus = read_corpus(self.adapter, self.dataset, self.places.data, image, text)
        return self._corpus

    def drawn(self, split_seed: int) -> Split:
        """The split of one split seed, the last one remembered; refused if it names a row that is not there."""
        if self._drawn is None or self._drawn[0] != split_seed:
            split = self.dataset.split(self.corpus(), self.split, split_seed)
            check_split(self.corpus(), split)
            self._drawn = (split_seed, split)
        return self._drawn[1]

    def provenance(self, split_seed: int) -> dict[str, dict[str, object]]:
        """Where the features of one split seed come from: of ``image``, ``text`` and, if asked for, ``parts``."""
        found = self.extract(split_seed)
        made: dict[str, dict[str, object]] = {
            name: dict(found[name].features.provenance) for name in ("image", "text")
        }
        parts = {
            modality: dict(found[f"{modality} parts"].features.provenance)
            for modality in ("image", "text")
            if f"{modality} parts" in found
        }
        return {**made, "parts": dict(parts)} if parts else made

    def data(self, split_seed: int, store: Store = in_memory) -> PairedData:
        """The prepared data of one split seed, its matrices where ``store`` puts them."""
        found, split = self.extract(split_seed), self.drawn(split_seed)
        parts = {
            f"{modality}_parts": _scaled(found[f"{modality} parts"], found[modality], split, scaling)
            for modality, scaling in zip(("image", "text"), self.scaling, strict=True)
            if f"{modality} parts" in found
        }
        return prepare(
            self.corpus(),
            split,
            found["image"].features,
            found["text"].features,
            self.scaling,
            **parts,
            parts_provenance=self.provenance(split_seed).get("parts"),
            store=store,
        )

    @property
    def n_runs(self) -> int:
        """How many runs there are to be."""
        return len(set(self.request.seeds)) * len(self.choices)

    def specs(self) -> Iterator[tuple[RunSpec, int, str | None]]:
        """Each run of the plan, its split seed, and why it cannot be done where that is known."""
        for seed, split_seed in dict.fromkeys(self.request.seeds):
            corpus, split, provenance = self.corpus(), self.drawn(split_seed), self.provenance(split_seed)
            row = DatasetRow(
                name=corpus.name,
                title=label_of(self.dataset.card.title, self.dataset.parameters),
                features=f"{shown(self.image)}+{shown(self.text)}",
                scaling="+".join(self.scaling),
                provenance=provenance,
                split=split.name,
                split_seed=split.seed,
                sizes=split.sizes,
                n_classes=len(corpus.class_names),
                fingerprint=fingerprint(corpus, split, provenance, self.scaling),
                test_fingerprint=short_id([corpus.ids[item] for item in split.test]),
                synthetic=self.dataset.card.synthetic,
                findings=findings(corpus, split, self.dataset.card),
                complete=complete(corpus, self.dataset.card),
            )
            tuning = self.request.tuning
            for choice in self.choices:
                method, problem = choice.row(seed), choice.problem
                if tuning and not len(split.validation) and problem is None:
                    problem = (
                        f"split {split.name} has no validation rows for --tune; name one that has with --split, or "
                        "mark rows as validation in data of your own"
                    )
                yield (
                    RunSpec(
                        plugin=choice.plugin,
                        method=method,
                        dataset=row,
                        class_names=corpus.class_names,
                        protocol=self.request.protocol,
                        seed=seed,
                        numerics=numerics_digest(),
                        evaluator=evaluator_digest()[:16],
                        device=self.request.device,
                        threads=self.request.threads,
                        tuning=tuning,
                        tried=choice.tried(method.params, tuning, seed),
                    ),
                    split_seed,
                    problem,
                )

    def preload(self) -> list[str]:
        """Modules that the runs' processes start with."""
        wanted = {name for choice in self.choices if choice.method for name in choice.method.info.requires}
        return [*PRELOAD, *sorted(wanted)]

    def run(
        self,
        *,
        n_jobs: int = 1,
        timeout: float | None = None,
        reuse: Reuse = Reuse(),
        on_event: Callable[[RunSpec, Event], None] = lambda spec, event: None,
    ) -> list[Record]:
        """Do what is not done yet, and return the records of all runs, failed ones included.

        Args:
            n_jobs: runs at a time.
            timeout: seconds after which a run is ended.
            reuse: which existing records stand.
            on_event: told of every run that is re-used, starts, gets on or ends.
        """
        results = Results(self.places.results)
        records: dict[str, Record] = {}
        order: list[RunSpec] = []

        def settle(spec: RunSpec, record: Record, event: Event) -> None:
            records[spec.score_id] = record
            on_event(spec, event)

        with scratch_folder() as scratch:
            at_work: Counter[str] = Counter()  # runs that read the bundle of a fingerprint

            def bundle_of(spec: RunSpec, split_seed: int) -> Path:
                wanted = spec.dataset.fingerprint
                bundle = scratch / wanted
                if not bundle.exists():
                    for name in [name for name, runs in at_work.items() if not runs]:
                        shutil.rmtree(scratch / name, ignore_errors=True)
                        del at_work[name]
                    bundle.mkdir()
                    write_bundle(bundle, self.data(split_seed, bundle_store(bundle)), stored=True)
                at_work[wanted] += 1
                return bundle

            def jobs() -> Iterator[Job]:
                for spec, split_seed, problem in self.specs():
                    order.append(spec)
                    if problem is not None:
                        record = spec.record(status="failed", reason=scrub(problem))
                        settle(spec, record, Event("ended", spec, problem, None, "failed"))
                        continue
                    old = None if reuse.fresh else results.get(spec.score_id)
                    if old is not None and (old.status == "ok" or not reuse.retry_failed):
                        settle(spec, old, Event("ended", spec, "re-used", None, old.status))
                        continue
                    arguments = (
                        spec,
                        bundle_of(spec, split_seed),
                        self.places.results.resolve(),
                        reuse.keep_embeddings,
                        reuse.fresh,
                    )
                    yield Job(spec, run_one, arguments)

            for event in execute(jobs(), n_jobs=n_jobs, timeout=timeout, preload=self.preload()):
                spec = event.key
                if event.kind != "ended":
                    on_event(spec, event)
                    continue
                at_work[spec.dataset.fingerprint] -= 1
                record = results.get(spec.score_id) if event.status == "ok" else None
                if record is None:
                    status = "failed" if event.status == "ok" else event.status
                    reason = scrub(event.message) or "the run ended without a record"
                    record = spec.record(status=status, reason=reason)
                    results.put(record)
                settle(spec, record, event)
        return [records[spec.score_id] for spec in order]


def extract_features(plan: Plan) -> list[dict[str, object]]:
    """Extract the features of every split seed of a plan, and say what was there and what it took."""
    rows: list[dict[str, object]] = []
    names = dict(plan.wanted)
    seen: set[Path] = set()
    for split_seed in dict.fromkeys(seed for _, seed in plan.request.seeds):
        for what, found in plan.extract(split_seed).items():
            if found.path is not None and found.path in seen:
                continue  # nothing in it depends on the split
            seen |= {found.path} if found.path else set()
            modality, _, part = what.partition(" ")
            split = plan.drawn(split_seed)
            provenance = found.features.provenance
            rows.append(
                {
                    "what": modality if not part else f"{modality} {provenance['cut']}",
                    "features": names["image" if modality == "image" else "text"],
                    "split": plan.split,
                    "split_seed": split.seed if "fitted_on" in provenance else None,
                    "rows": len(found.features.matrix),
                    "columns": found.features.matrix.shape[1],
                    "path": None if found.path is None else str(found.path),
                    "encoded": found.encoded,
                    "seconds": found.seconds,
                    "waited": found.waited,
                    "learned_from": found.learned_from,
                    "fit_seconds": found.fit_seconds,
                    "provenance": dict(provenance),
                }
            )
    return rows
