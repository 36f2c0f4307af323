"""The floors of the house: what may import what, and where the plugins' folders lie."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import xmbench
from xmbench.registry import Registry

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "xmbench"
PLUGINS = ("methods", "datasets")

FLOORS = {
    "errors": 1,
    "linalg": 1,
    "kernels": 1,
    "graphs": 1,
    "reuse": 1,
    "reweighting": 1,
    "scaling": 1,
    "nn": 1,
    "_io": 1,
    "_preload": 1,
    "data": 2,
    "matrices": 2,
    "protocol": 2,
    "registry": 2,
    "columns": 3,
    "method": 3,
    "features": 3,
    "evaluation": 3,
    "description": 4,
    "training": 4,
    "methods": 5,
    "datasets": 5,
    "own_data": 5,
    "record": 6,
    "run": 6,
    "tuning": 6,
    "plan": 7,
    "executor": 7,
    "leaderboard": 7,
    "packing": 7,
    "data_check": 7,
    "plot": 7,
    "diagnostics": 7,
    "drawing": 7,
    "published": 7,
    "report": 7,
    "stats": 7,
    "differences": 7,
    "ablation": 7,
    "audit": 7,
    "describe": 7,
    "fetch": 7,
    "examples": 7,
    "gallery": 7,
    "trec": 7,
    "rescore": 7,
    "cli": 8,
    "progress": 8,
    "testing": 8,
    "__main__": 8,
}
"""Room -> floor. A room imports from floors below its own, and from itself."""

SHARED = {1, 6, 7, 8}
"""Floors whose rooms may import each other, as long as that leads to no circle."""

ALLOWED = {
    "methods": {
        "errors",
        "data",
        "method",
        "linalg",
        "kernels",
        "graphs",
        "reuse",
        "reweighting",
        "scaling",
        "nn",
        "training",
    },
    "datasets": {"errors", "data", "matrices", "_io"},
}
"""What plugins may import, where that is less than the floors below."""

LATE = {"registry": {"data", "features", "method", "own_data"}}
"""What a room may import inside functions, or for type checkers, though it lies no lower."""

HEAVY = {"torch", "pandas", "sklearn", "gensim", "matplotlib", "pyarrow", "h5py"}


@dataclass(frozen=True)
class Import:
    """One imported module, absolute; ``late`` inside a function, ``typing`` under ``if TYPE_CHECKING``."""

    target: str
    line: int
    late: bool = False
    typing: bool = False
    relative: bool = False


def imports_of(source: str, module: str, *, is_package: bool = False) -> list[Import]:
    """Every import of a module's source, at any depth; ``from xmbench import name`` gives the name's home."""
    found: list[Import] = []
    base = module.split(".") if is_package else module.split(".")[:-1]

    def targets(node: ast.AST) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = base[: len(base) - node.level + 1] if node.level else []
            origin = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                home = xmbench._HOMES.get(alias.name, alias.name) if origin == "xmbench" else None
                if home and home != "__version__":
                    yield f"xmbench.{home}", bool(node.level)
                elif node.level and not node.module:
                    yield f"{origin}.{alias.name}", True
                else:
                    yield origin, bool(node.level)

    def walk(node: ast.AST, late: bool, typing: bool) -> None:
        found.extend(Import(name, node.lineno, late, typing, relative) for name, relative in targets(node))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            late = True
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.body:
                walk(child, late, True)
            for child in node.orelse:
                walk(child, late, typing)
            return
        for child in ast.iter_child_nodes(node):
            walk(child, late, typing)

    walk(ast.parse(source), False, False)
    return found


def breaches(module: str, imports: list[Import]) -> list[str]:
    """What is wrong with the imports of ``module`` (``xmbench.room`` or ``xmbench.room.part``), in words."""
    room = module.split(".")[1]
    if room not in FLOORS:
        return [f"{room}: give it a floor"]
    wrong = []
    for item in imports:
        where = f"{module}, line {item.line}: "
        parts = item.target.split(".")
        if parts[0] in PLUGINS:
            wrong.append(f"{where}{item.target} would be a second copy of xmbench.{item.target}")
        if parts[0] != "xmbench" or len(parts) == 1:
            continue
        other = parts[1]
        if other not in FLOORS:
            wrong.append(f"{where}{other}: give it a floor")
        elif room in PLUGINS:
            helper = item.relative and len(parts) == 3 and parts[2].startswith("_")
            if other == room and not helper:
                wrong.append(
                    f"{where}plugins import helpers as ``from ._name import ...`` and not each other"
                )
            elif other != room and other not in ALLOWED[room]:
                wrong.append(f"{where}{room} may not import {other}")
        elif other == room or (other in LATE.get(room, ()) and (item.late or item.typing)):
            continue
        elif other in PLUGINS:
            wrong.append(f"{where}plugins are imported by name, through the registry")
        elif FLOORS[other] > FLOORS[room] or (FLOORS[other] == FLOORS[room] and FLOORS[room] not in SHARED):
            wrong.append(
                f"{where}{room} (floor {FLOORS[room]}) may not import {other} (floor {FLOORS[other]})"
            )
    return wrong


def modules() -> dict[str, Path]:
    """Module name -> file, for everything in the package but its ``__init__``."""
    found = {}
    for path in sorted(PACKAGE.glob("*.py")):
        if path.stem != "__init__":
            found[f"xmbench.{path.stem}"] = path
    for folder in sorted(path for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(PACKAGE).with_suffix("").parts
            found[".".join(["xmbench", *(parts[:-1] if parts[-1] == "__init__" else parts)])] = path
    return found


MODULES = modules()
IMPORTS = {
    module: imports_of(path.read_text(encoding="utf-8"), module, is_package=path.stem == "__init__")
    for module, path in MODULES.items()
}


# -- the house as it stands -------------------------------------------------------------------------


def test_the_walk_finds_the_rooms():
    assert {"xmbench.data", "xmbench.evaluation", "xmbench.evaluation.ranks", "xmbench.methods.cca"} <= set(
        MODULES
    )
    targets = {item.target for item in IMPORTS["xmbench.methods.cca"]}
    assert {"xmbench.data", "xmbench.linalg", "xmbench.method"} <= targets


@pytest.mark.parametrize("module", MODULES)
def test_every_module_imports_from_below(module):
    assert not breaches(module, IMPORTS[module])


def test_no_imports_run_in_circles():
    graph = {
        module: {
            item.target for item in imports if not item.late and not item.typing and item.target in MODULES
        }
        for module, imports in IMPORTS.items()
    }
    for module, targets in graph.items():
        targets.discard(module)
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"modules import each other: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("module", MODULES)
def test_heavy_libraries_are_imported_where_they_are_needed(module):
    """Inside functions; at the top only in methods that declare them, and in helpers of such methods."""
    heavy = {
        item.target.split(".")[0]
        for item in IMPORTS[module]
        if not (item.late or item.typing) and item.target.split(".")[0] in HEAVY
    }
    if heavy and module.startswith("xmbench.methods."):
        for user in users(module):
            heavy -= set(Registry().method(user).info.requires)
    assert not heavy, f"{module} imports {sorted(heavy)} at the top"


def users(module: str) -> list[str]:
    """Methods that a module of the methods' folder is for: itself, or those that import the helper."""
    name = module.split(".")[2]
    if not name.startswith("_"):
        return [name]
    return [
        user.split(".")[2]
        for user, imports in IMPORTS.items()
        if user.startswith("xmbench.methods.") and any(item.target == module for item in imports)
        if not user.split(".")[2].startswith("_")
    ]


def test_the_package_itself_imports_its_rooms_only_on_demand():
    imports = imports_of((PACKAGE / "__init__.py").read_text(encoding="utf-8"), "xmbench", is_package=True)
    assert [item for item in imports if item.target.startswith("xmbench.") and not item.typing] == []


# -- the rules themselves ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        ("method", "from xmbench.evaluation import evaluate", "method (floor 3) may not import evaluation"),
        ("method", "from xmbench import evaluate", "may not import evaluation"),
        ("method", "def f():\n    from xmbench.evaluation import evaluate", "may not import evaluation"),
        ("method", "from .evaluation.ranks import Engine", "may not import evaluation"),
        ("method", "import xmbench.evaluation as scores", "may not import evaluation"),
        (
            "evaluation.ranks",
            "from xmbench.method import Method",
            "evaluation (floor 3) may not import method",
        ),
        ("evaluation.ranks", "from ..method import Method", "evaluation (floor 3) may not import method"),
        ("features", "from xmbench.method import Method", "features (floor 3) may not import method"),
        ("errors", "from xmbench.data import Pairs", "errors (floor 1) may not import data"),
        ("data", "from xmbench.protocol import DEFAULT", "data (floor 2) may not import protocol"),
        ("registry", "from xmbench.method import Method", "registry (floor 2) may not import method"),
        ("registry", "def f():\n    import xmbench.run", "registry (floor 2) may not import run"),
        ("training", "from xmbench.methods.cca import Cca", "through the registry"),
        ("record", "from xmbench.leaderboard import tables", "may not import leaderboard"),
        ("stats", "from xmbench.cli import main", "may not import cli"),
        ("methods.a", "from xmbench.registry import Registry", "methods may not import registry"),
        ("methods.a", "from xmbench.evaluation import evaluate", "methods may not import evaluation"),
        ("methods.a", "from xmbench import evaluate", "methods may not import evaluation"),
        ("methods.a", "from xmbench._io import digest", "methods may not import _io"),
        ("methods.a", "from xmbench.datasets.pascal import Pascal", "methods may not import datasets"),
        ("methods.a", "from .b import B", "not each other"),
        ("methods.a", "from . import b", "not each other"),
        ("methods.a", "from xmbench.methods.b import B", "not each other"),
        ("methods.a", "from xmbench.methods._family import f", "from ._name import"),
        ("methods.a", "from methods._family import f", "second copy of xmbench.methods._family"),
        ("datasets.a", "from xmbench.features import encoder", "datasets may not import features"),
        ("datasets.a", "from xmbench.scaling import Scaling", "datasets may not import scaling"),
        ("datasets.a", "import datasets", "second copy"),
        ("attic", "", "attic: give it a floor"),
        ("attic.old", "", "attic: give it a floor"),
        ("cli", "from xmbench.attic import old", "attic: give it a floor"),
    ],
)
def test_a_breach_is_noticed(module, source, message):
    (found,) = breaches(f"xmbench.{module}", imports_of(source, f"xmbench.{module}"))
    assert message in found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("method", "import numpy as np\nfrom xmbench.data import Pairs\nfrom xmbench.errors import RunError"),
        ("linalg", "from xmbench.errors import Unsupported"),
        ("features.tfidf", "from xmbench.features import Encoder\nfrom xmbench import Corpus"),
        ("registry", "def f():\n    from xmbench.method import Method"),
        (
            "registry",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from xmbench.data import Dataset",
        ),
        ("methods.a", "from xmbench import Method, Pairs\nfrom ._family import f\nfrom . import _other"),
        ("methods.a", "from xmbench.nn import layer\nfrom xmbench.training import train"),
        ("datasets.a", "from xmbench._io import digest\nfrom xmbench.data import Dataset"),
        ("record", "import xmbench\nfrom xmbench import __version__"),
        ("run", "from xmbench.record import Record"),
        ("cli", "from xmbench import leaderboard\nfrom xmbench.plan import Plan"),
        ("testing", "from xmbench import Method, evaluate"),
    ],
)
def test_what_is_allowed_passes(module, source):
    assert not breaches(f"xmbench.{module}", imports_of(source, f"xmbench.{module}"))


def test_imports_are_told_apart_by_where_they_stand():
    source = """
import torch
try:
    import pandas
except ImportError:
    import sklearn
class A:
    import gensim
    def f(self):
        import matplotlib
if TYPE_CHECKING:
    import scipy
else:
    import numpy
"""
    found = {item.target: (item.late, item.typing) for item in imports_of(source, "xmbench.data")}
    top = (False, False)
    assert found == {
        "torch": top,
        "pandas": top,
        "sklearn": top,
        "gensim": top,
        "matplotlib": (True, False),
        "scipy": (False, True),
        "numpy": top,
    }


# -- the plugins' folders, and the public names -----------------------------------------------------


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="a source distribution holds copies, not links")
@pytest.mark.parametrize("folder", PLUGINS)
def test_the_plugin_folders_are_relative_links(folder):
    link = PACKAGE / folder
    assert link.is_symlink()
    assert link.readlink() == Path("..") / folder
    assert link.resolve() == (ROOT / folder).resolve()
    assert link.is_dir()


@pytest.mark.parametrize("folder", PLUGINS)
def test_the_plugin_folders_are_no_regular_packages(folder):
    """A ``datasets/__init__.py`` would hide another project's package of that name from who works here."""
    assert not list((ROOT / folder).rglob("__init__.py"))
    assert import_module(f"xmbench.{folder}").__file__ is None


def test_the_public_names_are_sorted_and_lead_somewhere():
    assert xmbench.__all__ == sorted(xmbench.__all__)
    assert set(xmbench.__all__) == {*xmbench._HOMES, "__version__"}
    for name, home in xmbench._HOMES.items():
        assert getattr(xmbench, name) is getattr(import_module(f"xmbench.{home}"), name)


def test_type_checkers_see_the_public_names():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.name: str(node.module).removeprefix("xmbench.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == xmbench._HOMES


def test_other_names_are_not_there():
    with pytest.raises(AttributeError, match="'xmbench' has no attribute 'no_such_name'"):
        _ = xmbench.no_such_name
