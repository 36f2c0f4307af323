"""Plugins by name, found without importing any of them.

A method, dataset or encoder is registered by lying in ``methods/``, ``datasets/`` or ``xmbench/features/`` (the
file name is its name), by an entry point of the group ``xmbench.methods``, ``xmbench.datasets`` or
``xmbench.encoders``, or by ``--plugin path.py``. A built-in module ends in ``METHOD = Class``,
``DATASET = Class`` or ``ENCODER = Class``, and so does a plugin file; an entry point names the class itself
(``package.module:Class``) or such a module.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from xmbench._io import digest, imported_siblings, shared_source, source_digest
from xmbench.errors import (
    InvalidParameter,
    MissingData,
    PluginError,
    UnknownName,
    UsageError,
    XmbenchError,
)

if TYPE_CHECKING:
    from xmbench.data import Corpus, Dataset, Split
    from xmbench.features import Encoder
    from xmbench.method import Method

Kind = Literal["method", "dataset", "encoder"]

KINDS: tuple[tuple[Kind, str, str, str], ...] = (
    ("method", "methods", "METHOD", "xmbench.methods"),
    ("dataset", "datasets", "DATASET", "xmbench.datasets"),
    ("encoder", "features", "ENCODER", "xmbench.encoders"),
)
"""Kind, folder, what a module calls its class, group of entry points."""

MODALITIES = ("image", "text")

PAPER = (
    "cca",
    "kcca",
    "cfa",
    "jrl",
    "lgcfl",
    "corr_ae",
    "dcca",
    "cmdn",
    "deep_sm",
    "ccl",
    "cm_gans",
    "acmr",
)
"""The twelve methods that ``--methods paper`` stands for."""

NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Plugin:
    """Where a method, dataset or encoder is to be had.

    Args:
        kind: ``method``, ``dataset`` or ``encoder``.
        name: the name it is registered under.
        origin: who brings it, in words.
        module: module to import, or None for a plugin file.
        attribute: the class in that module.
        path: its source file, where known without importing.
        package: "name version" of the distribution that brings it, for third parties.
        problem: why it cannot be used, where that is known without importing.
    """

    kind: Kind
    name: str
    origin: str
    module: str | None
    attribute: str
    path: Path | None = None
    package: str | None = None
    problem: str | None = None

    def load(self) -> type[Any]:
        """Import the plugin and return its class.

        Raises:
            PluginError: the import failed, or what came is not of that kind; the message has the reason.
        """
        if self.problem:
            raise PluginError(f"{self.kind} {self.name!r} ({self.origin}): {self.problem}")
        try:
            module = import_module(self.module) if self.module else _import_file(cast(Path, self.path))
            found = getattr(module, self.attribute)
        except (Exception, SystemExit) as error:  # a plugin may raise anything while it is imported
            reason = f"{type(error).__name__}: {error}"
            raise PluginError(
                f"{self.kind} {self.name!r} ({self.origin}) cannot be imported: {reason}"
            ) from error
        base = _base(self.kind)
        if not (isinstance(found, type) and issubclass(found, base)):
            raise PluginError(
                f"{self.kind} {self.name!r} ({self.origin}): {self.attribute} is not a subclass of "
                f"xmbench.{base.__name__}"
            )
        fault = {"method": _method_fault, "dataset": _dataset_fault, "encoder": _encoder_fault}[self.kind](
            found
        )
        if fault:
            raise PluginError(f"{self.kind} {self.name!r} ({self.origin}): {found.__name__}{fault}")
        return found

    @property
    def modality(self) -> str | None:
        """Of an encoder: ``image`` or ``text``; None where only importing it would tell."""
        try:
            return _modality(self.path, self.attribute) if self.path and not self.problem else None
        except (OSError, SyntaxError, ValueError):
            return None

    def source_digest(self) -> str:
        """Digest of the plugin's source, of the sibling modules it imports, and of what it trains with.

        Comments do not count; of ``xmbench.nn`` and ``xmbench.training``, only what is imported from them does.
        """
        path = self.path
        if path is None and self.module is not None:
            from importlib.util import find_spec

            spec = find_spec(self.module)
            path = Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None
        if path is None:
            return digest([self.package, self.module])
        files = imported_siblings(path)
        code = source_digest(files)
        if shared := shared_source(files):
            code = digest([code, shared])
        return digest([self.package, code]) if self.package else code


class Registry:
    """The plugins of this installation, and of the files given.

    Args:
        plugin_files: Python files that define METHOD, DATASET or ENCODER (or several of them); TOML files and folders
            that are data of the user's own.

    Raises:
        MissingData: a plugin file does not exist.
        UsageError: it defines none of them.
    """

    def __init__(self, plugin_files: Iterable[str | Path] = ()) -> None:
        self.methods: dict[str, Plugin] = {}
        self.datasets: dict[str, Plugin] = {}
        self.encoders: dict[str, Plugin] = {}
        self._refused: list[Plugin] = []
        for plugin in [*_built_in(), *_from_entry_points()]:
            self._add(plugin)
        for path in map(Path, plugin_files):
            own = path.is_dir() or path.suffix == ".toml"
            for plugin in [self.plugin("dataset", str(path.absolute()))] if own else _from_file(path):
                self._add(plugin)

    def _add(self, plugin: Plugin) -> None:
        known = self._of(plugin.kind)
        if plugin.name in known:
            other = known[plugin.name]
            if plugin.path is not None and other.path == plugin.path:
                return
            from_file = plugin.module is None and plugin.path is not None
            remedy = "rename the file" if from_file else "register it under another name"
            problem = f"the name {plugin.name!r} is taken by {other.origin}; {remedy}"
            number = 2
            while f"{plugin.name}#{number}" in known:
                number += 1
            known[f"{plugin.name}#{number}"] = refused = replace(plugin, problem=problem)
            if from_file:
                self._refused.append(refused)
        else:
            known[plugin.name] = plugin

    def _of(self, kind: Kind) -> dict[str, Plugin]:
        return {"method": self.methods, "dataset": self.datasets, "encoder": self.encoders}[kind]

    def check_files(self) -> None:
        """Refuse plugin files that could not be registered: their name would stand for something else.

        Raises:
            UsageError: the name of a file is that of another plugin; the message says whose.
        """
        for plugin in self._refused:
            raise UsageError(f"{plugin.kind} {plugin.name!r} ({plugin.origin}): {plugin.problem}")

    def method(self, name: str) -> type[Method]:
        """The class of method ``name``.

        Raises:
            UnknownName: there is none; close names are in the message.
            PluginError: it cannot be imported.
        """
        return self.plugin("method", name).load()

    def dataset(self, name: str) -> Dataset:
        """An instance of the dataset of a spec, such as ``emoji`` or ``synthetic[n=500]``.

        Raises:
            UnknownName: there is no such dataset, or it has no such parameter.
            InvalidParameter: it has no parameters, or not with that value.
            PluginError: it cannot be imported or made. So do ``load`` and ``split`` of a dataset that xmbench does
                not bring, whatever they raise.
        """
        plugin = self.plugin("dataset", name)
        found = plugin.load()
        if "[" not in name:
            with blaming("dataset", plugin.name, "its constructor"):
                return _guarded(plugin, found())
        short, parameters = parse_spec(name)
        accepted = inspect.signature(found).parameters
        if not accepted:
            raise InvalidParameter(f"dataset {short!r} has no parameters; ask for it as --dataset {short}")
        for parameter in parameters:
            if parameter not in accepted:
                raise UnknownName(f"parameter of dataset {short!r}", parameter, accepted)
        with blaming("dataset", plugin.name, "its constructor"):
            dataset = _guarded(plugin, found(**parameters))
        dataset.parameters = parameters
        return dataset

    def encoder(self, name: str) -> type[Encoder]:
        """The class of encoder ``name``; raises as :meth:`method` does."""
        return self.plugin("encoder", name).load()

    def plugin(self, kind: Kind, name: str) -> Plugin:
        """The plugin ``name``, not imported; raises UnknownName. Of a dataset's spec, brackets do not count.

        A path in place of a dataset's name stands for data of the user's own, and raises as
        :func:`xmbench.own_data.own_plugin` does.
        """
        known = self._of(kind)
        if kind == "dataset" and name not in known and _is_path(name):
            from xmbench.own_data import own_plugin

            return own_plugin(Path(name), known)
        if kind == "dataset":
            name = name.partition("[")[0].strip()
        if name not in known:
            raise UnknownName(kind, name, known)
        return known[name]

    def expand(self, methods: str) -> list[str]:
        """Method specs of a ``--methods`` value: ``all``, ``paper``, or specs separated by commas.

        >>> Registry().expand("cca,cca[ridge=0.1]")
        ['cca', 'cca[ridge=0.1]']
        """
        specs: list[str] = []
        for item in split_specs(methods):
            if item == "all":
                specs += sorted(self.methods)
            elif item == "paper":
                specs += PAPER
            else:
                specs.append(item)
        if not specs:
            raise UsageError("no method given; try --methods all")
        return list(dict.fromkeys(specs))


def _is_path(name: str) -> bool:
    try:
        return "/" in name or "\\" in name or name.endswith(".toml") or Path(name).is_dir()
    except OSError:  # too long for one
        return False


def split_specs(text: str) -> list[str]:
    """Split at commas outside brackets: ``"a,b[x=1,y=2]"`` -> ``["a", "b[x=1,y=2]"]``."""
    return [item.strip() for item in re.split(r",(?![^\[]*\])", text) if item.strip()]


def parse_spec(spec: str) -> tuple[str, dict[str, object]]:
    """Name and parameters of ``name[parameter=value,...]``.

    >>> parse_spec("cca[ridge=0.1,n_components=5]")
    ('cca', {'ridge': 0.1, 'n_components': 5})

    Raises:
        InvalidParameter: the text is not of that form.
    """
    match = re.fullmatch(r"([^\[\]]+)(?:\[([^\[\]]*)\])?", spec.strip(), flags=re.DOTALL)
    if not match:
        raise InvalidParameter(f"cannot read {spec!r}; expected name or name[parameter=value,...]")
    parameters: dict[str, object] = {}
    for item in (match[2] or "").split(",") if match[2] else ():
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise InvalidParameter(f"cannot read {item!r} in {spec!r}; expected parameter=value")
        if key.strip() in parameters:
            raise InvalidParameter(f"cannot read {spec!r}; {key.strip()} is given twice")
        parameters[key.strip()] = parse_value(value)
    return match[1].strip(), parameters


def label_of(name: str, parameters: Mapping[str, object]) -> str:
    """The canonical spec, which :func:`parse_spec` reads: ``cca``, ``cca[n_components=5,ridge=0.1]``."""
    if not parameters:
        return name
    return f"{name}[{','.join(f'{key}={_value_text(value)}' for key, value in sorted(parameters.items()))}]"


def _value_text(value: object) -> str:
    words = {"True": "true", "False": "false", "None": "none"}
    return words.get(str(value), str(value))


def parse_value(text: str) -> object:
    """A parameter's value: a number, true, false, none, or else the text itself."""
    text = text.strip()
    if text.lower() in ("none", "null"):
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, int | float) and abs(value) < float("inf") else text


@cache
def _here(folder: str) -> list[Path]:
    return sorted(path for path in (Path(__file__).parent / folder).glob("*.py") if NAME.fullmatch(path.stem))


def _built_in() -> list[Plugin]:
    return [
        Plugin(kind, path.stem, "built-in", f"xmbench.{folder}.{path.stem}", attribute, path)
        for kind, folder, attribute, _ in KINDS
        for path in _here(folder)
    ]


def _from_entry_points() -> list[Plugin]:
    from importlib.metadata import EntryPoint, entry_points

    found = []
    for kind, _, attribute, group in KINDS:
        for entry in sorted(entry_points(group=group), key=lambda entry: (entry.name, entry.value)):
            package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else None
            name_problem = None if NAME.fullmatch(entry.name) else f"a name must match {NAME.pattern}"
            target = EntryPoint.pattern.match(entry.value)
            if target is None:
                name_problem = f"{entry.value!r} is no module or module:Class"
            found.append(
                Plugin(
                    kind,
                    entry.name,
                    f"package {package}" if package else "an entry point",
                    entry.module if target else None,
                    (entry.attr if target else None) or attribute,
                    package=package,
                    problem=name_problem,
                )
            )
    return found


def _from_file(path: Path) -> list[Plugin]:
    if not path.is_file():
        raise MissingData(f"plugin file {path} does not exist")
    if not NAME.fullmatch(path.stem):
        raise UsageError(
            f"plugin file {path.name}: its name becomes the plugin's and must match {NAME.pattern}.py"
        )
    try:
        defined = _assigned(path)
    except SyntaxError as error:
        problem = f"SyntaxError: {error.msg} (line {error.lineno})"
        return [
            Plugin("method", path.stem, f"file {path.name}", None, "METHOD", path.resolve(), problem=problem)
        ]
    plugins: list[Plugin] = []
    for kind, _, attribute, _ in KINDS:
        if attribute in defined:
            plugins.append(Plugin(kind, path.stem, f"file {path.name}", None, attribute, path.resolve()))
    if not plugins:
        raise UsageError(
            f"plugin file {path.name}: expected a line METHOD = YourClass, DATASET = YourClass or "
            "ENCODER = YourClass"
        )
    return plugins


def _assigned(path: Path) -> set[str]:
    """Names assigned or imported at the top level of a file, read without running it."""
    import ast

    names: set[str] = set()
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def _modality(path: Path, attribute: str) -> str | None:
    """The literal ``modality`` of the class that a file calls ``attribute``, read without running it."""
    import ast

    classes: dict[str, ast.ClassDef] = {}
    named: str | None = None
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.ClassDef):
            classes[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
            targets = [target.id for target in node.targets if isinstance(target, ast.Name)]
            named = node.value.id if attribute in targets else named
    for statement in classes[named].body if named in classes else ():
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            assigned = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            ours = any(isinstance(target, ast.Name) and target.id == "modality" for target in assigned)
            if ours and isinstance(statement.value, ast.Constant) and statement.value.value in MODALITIES:
                return str(statement.value.value)
    return None


def _import_file(path: Path) -> object:
    from importlib.util import module_from_spec, spec_from_file_location

    name = f"xmbench_plugin_{path.stem}_{digest(str(path))[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path.name} cannot be loaded as a Python module")
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def blaming(kind: Kind, name: str, what: str) -> Iterator[None]:
    """Name the plugin when its code raises, whatever it raises."""
    try:
        yield
    except XmbenchError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise PluginError(f"{kind} {name!r}: {what} raised {reason}") from error


def _guarded(plugin: Plugin, dataset: Dataset) -> Dataset:
    """The dataset, which is named when the code of a third party fails in ``load`` or ``split``."""
    if plugin.origin == "built-in" or not plugin.attribute:  # xmbench itself reads data of the user's own
        return dataset
    load, split = dataset.load, dataset.split

    def guarded_load(data_dir: Path, image: str, text: str) -> Corpus:
        from xmbench.data import Corpus

        with blaming("dataset", plugin.name, "load"):
            corpus = load(data_dir, image, text)
        if not isinstance(corpus, Corpus):
            raise PluginError(
                f"dataset {plugin.name!r}: load must return an xmbench.Corpus, not {type(corpus).__name__}"
            )
        return corpus

    def guarded_split(corpus: Corpus, name: str, seed: int) -> Split:
        from xmbench.data import Split

        with blaming("dataset", plugin.name, f"split {name!r}"):
            drawn = split(corpus, name, seed)
        if not isinstance(drawn, Split):
            raise PluginError(
                f"dataset {plugin.name!r}: split {name!r} must return an xmbench.Split, not {type(drawn).__name__}"
            )
        return drawn

    vars(dataset).update(load=guarded_load, split=guarded_split)
    return dataset


def _method_fault(found: type[Any]) -> str:
    """What a class lacks to be a method, in words that follow its name; likewise for the other kinds."""
    return "" if hasattr(found, "info") else " has no info"


def _encoder_fault(found: type[Any]) -> str:
    if getattr(found, "modality", None) not in MODALITIES:
        return ".modality must be image or text"
    for name in ("learns", "scaling"):
        if not hasattr(found, name):
            return f" has no {name}"
    for signature in ("provenance(self)", "transform(self, rows, resources)"):
        if fault := _method_of(found, signature):
            return fault
    return ""


def _dataset_fault(found: type[Any]) -> str:
    from xmbench.data import DatasetCard

    for name, kind, wanted in (
        ("card", DatasetCard, "an xmbench.DatasetCard"),
        ("features", str, "the default features, such as lite0+tfidf"),
        ("splits", Mapping, "{name: rule}, with rule(corpus, seed) -> Split"),
    ):
        if not hasattr(found, name):
            return f" has no {name}; it needs {name} = {wanted}"
        if not isinstance(getattr(found, name), kind):
            return f".{name} must be {wanted}"
    if not found.splits:
        return ".splits is empty; it needs at least one split"
    for name, rule in found.splits.items():
        if not _takes(rule, 2):
            return f".splits: {name!r} must be a function of (corpus, seed) that returns a Split"
    return _method_of(found, "load(self, data_dir, image, text)")


def _method_of(found: type[Any], signature: str) -> str:
    """What is wrong with a method of a class that must have it, empty if nothing is."""
    name, arguments = signature.partition("(")[0], signature.count(",") + 1
    method = inspect.getattr_static(found, name)
    if getattr(method, "__isabstractmethod__", False):
        return f" has no {name}; it needs {signature}"
    if isinstance(method, property) or not callable(getattr(found, name)):
        return f".{name} must be a method, {signature}, not {type(method).__name__}"
    if inspect.isfunction(method) and not _takes(method, arguments):
        return f".{name} must be {signature}, not {name}{inspect.signature(method)}"
    return ""


def _takes(function: Callable[..., object], arguments: int) -> bool:
    """Whether a function can be called with so many arguments by position."""
    try:
        inspect.signature(function).bind(*range(arguments))
    except TypeError:
        return False
    except ValueError:  # written in C, without a signature
        pass
    return True


def _base(kind: Kind) -> type[Any]:
    if kind == "method":
        from xmbench.method import Method

        return Method
    if kind == "encoder":
        from xmbench.features import Encoder

        return Encoder
    from xmbench.data import Dataset

    return Dataset
