"""Plugins: found without importing them, loaded by name, and refused in words."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from xmbench import _io
from xmbench.cli import main
from xmbench.errors import InvalidParameter, MissingData, PluginError, UnknownName, UsageError
from xmbench.registry import NAME, PAPER, Plugin, Registry, parse_spec, parse_value, split_specs

ROOT = Path(__file__).parents[1]

METHOD_CODE = '''
"""A method for tests."""

from xmbench import Method, MethodInfo


class Toy(Method):
    """Returns features as they are."""

    info = MethodInfo(title="Toy", paper="none", year=2000, supervised=False)

    def _fit(self, train, validation, context):
        pass

    def _encode_image(self, images):
        return images

    def _encode_text(self, texts):
        return texts


METHOD = Toy
'''

DATASET_CODE = """
from xmbench import Dataset, DatasetCard


def halves(corpus, seed):
    raise NotImplementedError


class Toy(Dataset):
    card = DatasetCard("Toy", "none", "none", "none", (), 2, "none", embedded=True)
    features = "raw+tfidf"
    splits = {"halves": halves}

    def load(self, data_dir, image, text):
        raise NotImplementedError


DATASET = Toy
"""


def plugin_file(folder: Path, code: str, name: str = "toy") -> Path:
    path = folder / f"{name}.py"
    path.write_text(textwrap.dedent(code), encoding="utf-8")
    return path


# -- built-in plugins -------------------------------------------------------------------------------


def test_every_file_in_the_plugin_folders_is_found():
    registry = Registry()
    for known, folder in ((registry.methods, "methods"), (registry.datasets, "datasets")):
        files = {path.stem for path in (ROOT / folder).glob("*.py") if not path.stem.startswith("_")}
        assert files == {name for name, plugin in known.items() if plugin.origin == "built-in"}
        assert files
        assert all(NAME.fullmatch(name) for name in files)


def test_every_built_in_plugin_loads():
    registry = Registry()
    for name in registry.methods:
        assert registry.method(name).info.title
    for name in registry.datasets:
        assert registry.dataset(name).card.title


LISTING = """
import sys
from xmbench.registry import Registry
registry = Registry(sys.argv[1:])
assert {"cca", "toy"} <= set(registry.methods), registry.methods
heavy = {"numpy", "torch", "pandas", "sklearn", "scipy", "gensim", "matplotlib"}
plugins = [name for name in sys.modules if name.startswith(("xmbench.methods.", "xmbench.datasets."))]
print(sorted(heavy & set(sys.modules)), plugins)
"""


def test_listing_imports_no_plugin_and_no_numerical_library(tmp_path):
    path = plugin_file(tmp_path, "raise RuntimeError('imported')\nMETHOD = None")
    command = [sys.executable, "-c", LISTING, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[] []", "")


def test_importing_the_package_costs_no_numerical_library(tmp_path):
    code = (
        "import sys, xmbench; print([m for m in ('numpy', 'torch', 'scipy', 'pandas') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"


def test_unknown_names_come_with_close_ones():
    registry = Registry()
    with pytest.raises(UnknownName, match="unknown method 'ccaa'; did you mean cca"):
        registry.method("ccaa")
    with pytest.raises(UnknownName, match="unknown dataset 'wikipedya'; did you mean wikipedia"):
        registry.dataset("wikipedya")
    with pytest.raises(UnknownName, match=r"unknown method 'zzz'; known: .*cca, .*cfa"):
        registry.method("zzz")


# -- plugin files -----------------------------------------------------------------------------------


def test_a_plugin_file_is_a_method_under_its_own_name(tmp_path):
    path = plugin_file(tmp_path, METHOD_CODE)
    registry = Registry([str(path)])
    assert registry.method("toy").__name__ == "Toy"
    assert registry.method("toy") is registry.method("toy")
    assert registry.methods["toy"].origin == "file toy.py"
    assert "toy" not in Registry().methods


def test_a_plugin_file_may_bring_a_method_and_a_dataset(tmp_path):
    path = plugin_file(tmp_path, METHOD_CODE + DATASET_CODE.replace("Toy", "ToyData"))
    registry = Registry([path])
    assert registry.method("toy").__name__ == "Toy"
    assert type(registry.dataset("toy")).__name__ == "ToyData"


def test_two_plugin_files_of_different_folders_do_not_share_a_module(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        plugin_file(tmp_path / folder, METHOD_CODE.replace("Toy", f"Toy{folder.upper()}"))
    classes = [Registry([tmp_path / folder / "toy.py"]).method("toy").__name__ for folder in ("a", "b")]
    assert classes == ["ToyA", "ToyB"]


def test_the_same_file_given_twice_is_one_plugin(tmp_path):
    path = plugin_file(tmp_path, METHOD_CODE)
    assert [name for name in Registry([path, path]).methods if name.startswith("toy")] == ["toy"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_library\nMETHOD = None", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("METHOD = 1 / 0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)\nMETHOD = None", "SystemExit: 3"),
        ("METHOD = 3", r"METHOD is not a subclass of xmbench\.Method"),
        ("METHOD = int", r"METHOD is not a subclass of xmbench\.Method"),
        ("METHOD = None\ndel METHOD", "AttributeError: .*METHOD"),
        ("def broken(:\n    pass\nMETHOD = None", r"SyntaxError: .* \(line 1\)"),
        ("METHOD = None\n\0", "SyntaxError"),
    ],
    ids=["import", "error", "exit", "number", "class", "gone", "syntax", "null byte"],
)
def test_a_broken_plugin_file_is_listed_and_fails_when_loaded(tmp_path, code, reason):
    registry = Registry([plugin_file(tmp_path, code)])
    assert "toy" in registry.methods
    for _ in range(2):  # a failed import leaves nothing behind that would make a second one pass
        with pytest.raises(PluginError, match=rf"method 'toy' \(file toy\.py\).*{reason}"):
            registry.method("toy")
    assert registry.method("cca").__name__ == "Cca"


def test_an_interrupt_while_a_plugin_is_imported_is_not_swallowed(tmp_path):
    registry = Registry([plugin_file(tmp_path, "raise KeyboardInterrupt\nMETHOD = None")])
    with pytest.raises(KeyboardInterrupt):
        registry.method("toy")


def test_a_file_without_a_plugin_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"plugin file toy\.py: expected a line METHOD = YourClass"):
        Registry([plugin_file(tmp_path, "class Toy: pass")])


@pytest.mark.parametrize("name", ["my-method", "_toy", "Toy", "2d", "a b"])
def test_a_file_whose_name_cannot_be_a_plugins_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match="its name becomes the plugin's"):
        Registry([plugin_file(tmp_path, METHOD_CODE, name)])


def test_a_file_that_is_missing_is_reported(tmp_path):
    with pytest.raises(MissingData, match=r"toy\.py does not exist"):
        Registry([tmp_path / "toy.py"])


def test_a_name_that_is_taken_is_listed_as_a_problem(tmp_path):
    registry = Registry([plugin_file(tmp_path, METHOD_CODE, "cca")])
    assert registry.method("cca").__name__ == "Cca"
    problem = r"method 'cca' \(file cca\.py\): the name 'cca' is taken by built-in; rename the file"
    with pytest.raises(PluginError, match=problem):
        registry.method("cca#2")
    with pytest.raises(UsageError, match=problem):
        registry.check_files()


@pytest.mark.parametrize(("code", "name"), [(METHOD_CODE, "toy"), (DATASET_CODE, "toy")])
def test_files_of_free_names_pass_the_check_even_if_given_twice(tmp_path, code, name):
    path = plugin_file(tmp_path, code, name)
    Registry([path, path]).check_files()


def test_a_dataset_of_a_built_in_name_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"dataset 'emoji' \(file emoji\.py\).*rename the file"):
        Registry([plugin_file(tmp_path, DATASET_CODE, "emoji")]).check_files()


def test_three_plugins_of_one_name_are_all_listed(tmp_path):
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
    registry = Registry([plugin_file(tmp_path / folder, METHOD_CODE) for folder in ("a", "b", "c")])
    assert [name for name in registry.methods if name.startswith("toy")] == ["toy", "toy#2", "toy#3"]
    assert [bool(registry.methods[name].problem) for name in ("toy", "toy#2", "toy#3")] == [False, True, True]
    with pytest.raises(UsageError, match=r"'toy' is taken by file toy\.py"):
        registry.check_files()


# -- entry points -----------------------------------------------------------------------------------


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a distribution with one module and one entry point on the path; returns the module's name."""

    def install(
        name: str, target: str = "{module}:Toy", code: str = METHOD_CODE, kind: str = "methods"
    ) -> str:
        module = "module_" + re.sub(r"\W", "_", tmp_path.name)
        plugin_file(tmp_path, code, module)
        info = tmp_path / "toy_plugins-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-plugins\nVersion: 1.2\n")
        entry = f"[xmbench.{kind}]\n{name} = {target.format(module=module)}\n"
        (info / "entry_points.txt").write_text(entry)
        monkeypatch.syspath_prepend(tmp_path)
        return module

    return install


@pytest.mark.parametrize("target", ["{module}:Toy", "{module}", "{module}:METHOD"])
def test_an_entry_point_names_a_class_or_a_module(install, target):
    module = install("toy", target)
    registry = Registry()
    plugin = registry.methods["toy"]
    assert plugin.origin == "package toy-plugins 1.2"
    assert plugin.package == "toy-plugins 1.2"
    assert module not in sys.modules
    assert registry.method("toy").__name__ == "Toy"


def test_an_entry_point_may_bring_a_dataset(install):
    install("toy", code=DATASET_CODE, kind="datasets")
    assert Registry().datasets["toy"].load().__name__ == "Toy"


def test_an_entry_point_cannot_take_a_built_in_name(install):
    install("cca")
    registry = Registry()
    assert registry.methods["cca"].origin == "built-in"
    registry.check_files()  # a package that is installed is not asked for
    with pytest.raises(
        PluginError, match=r"'cca#2' .*|'cca' \(package toy-plugins 1\.2\).* taken by built-in"
    ):
        registry.method("cca#2")


@pytest.mark.parametrize(
    ("name", "target", "reason"),
    [
        ("toy", "{module}:NoSuchClass", "AttributeError"),
        ("toy", "no_such_module_of_toys:Toy", "ModuleNotFoundError"),
        ("Toy-Method", "{module}:Toy", "a name must match"),
        ("toy", "not a module!", ""),
    ],
    ids=["class", "module", "name", "malformed"],
)
def test_a_broken_entry_point_fails_alone(install, name, target, reason):
    install(name, target)
    registry = Registry()
    assert registry.method("cca").__name__ == "Cca"
    with pytest.raises(PluginError, match=rf"{name}.*toy-plugins 1\.2.*{reason}"):
        registry.method(name)


# -- datasets that lack something, or raise ----------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("    card = ", "    cart = ", r"Toy has no card; it needs card = an xmbench\.DatasetCard"),
        ("    features = ", "    feature = ", "Toy has no features; it needs features = "),
        ("    splits = ", "    parts = ", r"Toy has no splits; it needs splits = \{name: rule\}"),
        ('{"halves": halves}', '["halves"]', r"Toy\.splits must be \{name: rule\}"),
        ('{"halves": halves}', "{}", r"Toy\.splits is empty"),
        ("(corpus, seed)", "(corpus)", r"'halves' must be a function of \(corpus, seed\)"),
        ("def load", "def read", r"Toy has no load; it needs load\(self, data_dir, image, text\)"),
        (
            "data_dir, image, text",
            "data_dir",
            r"Toy\.load must be load\(self, data_dir, image, text\), not load\(",
        ),
        ("    def load", "    @property\n    def load", r"Toy\.load must be a method, .*, not property"),
        ('features = "raw+tfidf"', "features = 3", r"Toy\.features must be the default features"),
    ],
)
def test_a_dataset_that_lacks_something_is_refused_and_listed_in_one_line(
    tmp_path, monkeypatch, capsys, old, new, words
):
    assert old in DATASET_CODE
    path = plugin_file(tmp_path, DATASET_CODE.replace(old, new, 1))
    with pytest.raises(PluginError, match=words) as caught:
        Registry([path]).dataset("toy")
    assert str(caught.value).startswith("dataset 'toy' (file toy.py): ") and "\n" not in str(caught.value)
    monkeypatch.setattr(sys, "argv", ["xmbench", "list", "datasets", "--check", "--plugin", str(path)])
    with pytest.raises(SystemExit):
        main()
    assert re.search(words, capsys.readouterr().out)


LOADS = """
import numpy as np
from xmbench import Corpus, Split
ids = ("a", "b", "c")
return Corpus("toy", np.eye(3), ["x", "y", "z"], np.array([0, 1, 0]), ("u", "v"), ids, ids, "0")
"""


@pytest.mark.parametrize("command", ["run -q -m random -d", "data info", "data check -q", "data audit"])
@pytest.mark.parametrize(
    ("load", "words"),
    [
        ("raise KeyError('a\\nb')", "load raised KeyError: "),
        ("return [1]", "load must return an xmbench.Corpus, not list"),
        (LOADS.replace(', ids, "0"', ""), "load raised TypeError: Corpus.__init__() missing 2 required"),
        (LOADS, "split 'halves' raised NotImplementedError"),
    ],
)
def test_a_dataset_that_raises_is_named_in_one_line(tmp_path, monkeypatch, capsys, command, load, words):
    body = textwrap.indent(load.strip(), "        ")
    code = DATASET_CODE.replace("        raise NotImplementedError\n", body + "\n")
    assert code != DATASET_CODE
    code = code.replace("raw+tfidf", "numbers+tfidf").replace(
        "    features", '    stored = {"image": {"numbers": "three"}}\n    features', 1
    )
    path = plugin_file(tmp_path, code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["xmbench", *command.split(), "toy", "--plugin", str(path)])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert ended.value.code
    (line,) = [line for line in (out + err).splitlines() if words in line]
    assert "dataset 'toy'" in line and "Traceback" not in out + err


def test_a_dataset_whose_constructor_raises_is_named(tmp_path):
    code = DATASET_CODE.replace("    def load", "    def __init__(self, n=1):\n        1 / 0\n\n    def load")
    registry = Registry([plugin_file(tmp_path, code)])
    for spec in ("toy", "toy[n=2]"):
        with pytest.raises(PluginError, match="dataset 'toy': its constructor raised ZeroDivisionError"):
            registry.dataset(spec)


# -- source digests ---------------------------------------------------------------------------------


def digest_of(path: Path) -> str:
    return Plugin("method", path.stem, "file", None, "METHOD", path).source_digest()


BASE = '''
"""A method."""
from ._family import shared

WIDTH = 1.5

def fit(x):
    """Fit it."""
    y = shared(x)  # the family's part
    return y * WIDTH
'''


@pytest.fixture
def family(tmp_path):
    plugin_file(tmp_path, "from . import _deeper\n\ndef shared(x):\n    return x + _deeper.ONE\n", "_family")
    plugin_file(tmp_path, "ONE = 1\n", "_deeper")
    plugin_file(tmp_path, "UNUSED = 1\n", "_other")
    return plugin_file(tmp_path, BASE, "toy")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  # the family's part", ""),
        ('"""Fit it."""', '"""Fit it, in other words."""'),
        ('    """Fit it."""\n', ""),
        ('"""A method."""', '"""Another text."""'),
        ("y * WIDTH", "(y\n        * WIDTH)"),
        ("WIDTH = 1.5\n", 'WIDTH = 1.5\n"""Width of the method."""\n'),
    ],
    ids=["comment", "docstring", "no docstring", "module docstring", "layout", "attribute docstring"],
)
def test_what_python_does_not_run_does_not_count(family, old, new):
    before = digest_of(family)
    assert BASE.count(old) == 1
    family.write_text(BASE.replace(old, new))
    assert digest_of(family) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("y * WIDTH", "y + WIDTH"),
        ("1.5", "1.25"),
        ("1.5", "15"),
        ("1.5", '"1.5"'),
        ("1.5", "b'1.5'"),
        ("1.5", "None"),
        ("return y * WIDTH", "y * WIDTH"),
        ("WIDTH = 1.5", "WIDTH: float = 1.5"),
        ("def fit(x)", "def fit(x, z=0)"),
        ("def fit(x)", "def fit(*, x)"),
        ("def fit(x)", "async def fit(x)"),
    ],
)
def test_what_python_runs_counts(family, old, new):
    before = digest_of(family)
    assert old in BASE
    family.write_text(BASE.replace(old, new))
    assert digest_of(family) != before


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1.5", "x = '1.5'"),
        ("x = b'a'", "x = \"b'a'\""),
        ("x = ...", "x = 'Ellipsis'"),
        ("x = 1", "x = True"),
    ],
)
def test_constants_of_different_types_are_different_code(tmp_path, one, other):
    assert digest_of(plugin_file(tmp_path, one)) != digest_of(plugin_file(tmp_path, other))


def test_helpers_count_and_so_do_their_helpers_but_nothing_else(family, tmp_path):
    before = digest_of(family)
    plugin_file(tmp_path, "UNUSED = 2\n", "_other")
    assert digest_of(family) == before
    plugin_file(tmp_path, "ONE = 2  # two\n", "_deeper")
    deeper = digest_of(family)
    assert deeper != before
    plugin_file(tmp_path, "def shared(x):\n    return x\n", "_family")
    assert digest_of(family) not in (before, deeper)


def test_helpers_that_import_each_other_are_read_once(tmp_path):
    plugin_file(tmp_path, "from ._b import b\n", "_a")
    plugin_file(tmp_path, "from ._a import a\n", "_b")
    assert digest_of(plugin_file(tmp_path, "from ._a import a\n"))


NN = '''
"""Shared layers."""
from functools import cache
from xmbench.errors import InvalidParameter

LEAST = 1e-12
DECAY: float = 0.5

def distances(x):
    """Between rows."""
    return root(x) + LEAST

def root(x):
    return x ** 0.5  # not squared

class Adam:
    """Moves."""
    def step(self, x):
        return DECAY * x

def spare(x):
    return distances(x)
'''

TRAINING = """
from xmbench.nn import Adam
from xmbench.data import Pairs

class Trained:
    def train(self, x):
        return loop(self, Adam)

def loop(method, x):
    return method.step(x)

def _aside():
    return 1
"""


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """Writes shared modules in place of the real ones, the text given exchanged for another."""
    folder = tmp_path / "package"
    folder.mkdir()
    monkeypatch.setattr(_io, "__file__", str(folder / "_io.py"))

    def write(old: str = "", new: str = "") -> None:
        assert not old or (NN + TRAINING).count(old) == 1
        for name, text in (("nn", NN), ("training", TRAINING)):
            (folder / f"{name}.py").write_text(text.replace(old, new) if old else text)

    write()
    return write


DISTANCES = {"root(x) + LEAST": "root(x) - LEAST", "LEAST = 1e-12": "LEAST = 1e-6", "x ** 0.5": "x ** 0.25"}
ADAM = {"DECAY * x": "DECAY + x", "DECAY: float = 0.5": "DECAY: float = 0.9"}
LOOP = {"loop(self, Adam)": "loop(Adam, self)", "method.step(x)": "method.step(x, x)"}
SPARE = {"return distances(x)": "return 2 * distances(x)", "return 1": "return 2"}
NOTHING = {
    "  # not squared": "",
    '    """Between rows."""\n': "",
    '"""Moves."""': '"""Moves on."""',
    '"""Shared layers."""': "",
    "def spare": "def more(x):\n    return LEAST\n\ndef spare",
    "class Trained": "class Another:\n    pass\n\nclass Trained",
    "from functools import cache\n": "",
}
USERS = {
    "from xmbench.nn import distances": DISTANCES,
    "from xmbench.nn import distances as d": DISTANCES,
    "def fit(x):\n    from xmbench.nn import distances\n": DISTANCES,
    "from xmbench.nn import root": {"x ** 0.5": DISTANCES["x ** 0.5"]},
    "from xmbench.nn import Adam": ADAM,
    "from xmbench.training import Adam": ADAM,
    "from xmbench.training import Trained": ADAM | LOOP,
    "from xmbench.nn import spare": {"return distances(x)": SPARE["return distances(x)"]} | DISTANCES,
    "from xmbench.nn import distances\nfrom xmbench.training import Trained": DISTANCES | ADAM | LOOP,
    "from xmbench.errors import RunError": {},
    "from xmbench.nn import no_such_name": {},
}


@pytest.mark.parametrize("code", USERS)
def test_of_the_shared_code_what_a_plugin_reaches_counts_and_nothing_else(tmp_path, shared, code):
    path = plugin_file(tmp_path, f"{code}\n")
    before = digest_of(path)
    for old, new in (DISTANCES | ADAM | LOOP | SPARE | NOTHING).items():
        shared(old, new)
        assert (digest_of(path) != before) == (old in USERS[code]), old
    shared()
    assert digest_of(path) == before


@pytest.mark.parametrize(
    "code",
    [
        "from xmbench import nn\n\ndef fit(x):\n    return nn.distances(x)\n",
        "import xmbench.nn\n\ndef fit(x):\n    return xmbench.nn.distances(x)\n",
        "import xmbench.nn as layers\n\ndef fit(x):\n    return layers.distances(x)\n",
        "from xmbench.nn import *\n\ndef fit(x):\n    return distances(x)\n",
    ],
)
def test_shared_code_counts_however_it_is_imported(tmp_path, shared, code):
    path = plugin_file(tmp_path, code)
    before = digest_of(path)
    shared("x ** 0.5", "x ** 0.25")
    assert digest_of(path) != before


def test_each_change_of_the_shared_code_is_another_digest(tmp_path, shared):
    path = plugin_file(tmp_path, "from xmbench.nn import distances\nfrom xmbench.training import Trained\n")
    found = [digest_of(path)]
    for old, new in (DISTANCES | ADAM | LOOP).items():
        shared(old, new)
        found.append(digest_of(path))
    assert len(set(found)) == 1 + len(DISTANCES | ADAM | LOOP)


def test_shared_code_counts_through_helpers_and_imports_of_unused_names_count_too(tmp_path, shared):
    plugin_file(tmp_path, "from xmbench.nn import distances\n", "_helper")
    path = plugin_file(tmp_path, "from ._helper import distances\n")
    before = digest_of(path)
    shared("x ** 0.5", "x ** 0.25")
    assert digest_of(path) != before


def test_the_order_of_the_shared_definitions_does_not_count(tmp_path, shared):
    path = plugin_file(tmp_path, "from xmbench.nn import distances\n")
    before = digest_of(path)
    root = "def root(x):\n    return x ** 0.5  # not squared\n"
    shared(root, "")
    moved = digest_of(path)
    nn = tmp_path / "package" / "nn.py"
    nn.write_text(nn.read_text() + root)
    assert digest_of(path) == before != moved


def test_plugins_without_shared_code_have_the_digest_of_their_files_alone(tmp_path, shared):
    path = plugin_file(tmp_path, "from xmbench.linalg import thin_svd\nimport numpy\n")
    assert _io.shared_source([path]) == []
    assert digest_of(path) == _io.source_digest([path])


def test_built_in_methods_rest_on_the_real_shared_code_if_and_only_if_they_import_it():
    resting = set()
    for name, plugin in Registry().methods.items():
        if plugin.path is None:
            continue
        files = _io.imported_siblings(plugin.path)
        if reached := {(home, name) for home, name, _ in _io.shared_source(files)}:
            resting.add(name)
            assert ("training", "_epoch") in reached or ("training", "Trained") not in reached
        else:
            assert plugin.source_digest() == _io.source_digest(files)
        text = "".join(path.read_text(encoding="utf-8") for path in files)
        assert bool(reached) == bool(re.search(r"xmbench\.(nn|training)\b", text)), name
    assert {"acmr", "corr_ae", "dcca"} <= resting and not {"cca", "random", "deep_sm"} & resting


def test_the_digest_of_a_package_knows_its_version(install):
    module = install("toy")
    plugin = Registry().methods["toy"]
    other = Plugin("method", "toy", "package", module, "Toy", package="toy-plugins 1.3")
    assert plugin.source_digest() != other.source_digest()
    assert module not in sys.modules


# -- specs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "specs"),
    [
        ("a", ["a"]),
        ("a,b", ["a", "b"]),
        (" a , b ", ["a", "b"]),
        ("a,,b,", ["a", "b"]),
        ("a,b[x=1,y=2],c", ["a", "b[x=1,y=2]", "c"]),
        ("a[x=1],b[y=2,z=3]", ["a[x=1]", "b[y=2,z=3]"]),
        ("", []),
    ],
)
def test_specs_are_separated_by_commas_outside_brackets(text, specs):
    assert split_specs(text) == specs


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-3", -3),
        ("0.5", 0.5),
        ("1e-3", 1e-3),
        (" 7 ", 7),
        ("true", True),
        ("False", False),
        ("none", None),
        ("null", None),
        ("l2", "l2"),
        ("", ""),
        ("[1]", "[1]"),
        ("1,5", "1,5"),
        ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ("-Infinity", "-Infinity"),
        ("1e999", "1e999"),
        ("9" * 5000, "9" * 5000),
    ],
    ids=lambda value: str(value)[:12],
)
def test_values_are_finite_numbers_truth_values_none_or_texts(text, value):
    parsed = parse_value(text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("spec", "name", "parameters"),
    [
        ("cca", "cca", {}),
        (" cca ", "cca", {}),
        ("cca[]", "cca", {}),
        ("cca[ridge=0.1]", "cca", {"ridge": 0.1}),
        ("cca[ ridge = 0.1 , n_components = none ]", "cca", {"ridge": 0.1, "n_components": None}),
        ("m[preset=a=b]", "m", {"preset": "a=b"}),
    ],
)
def test_a_spec_is_a_name_with_parameters(spec, name, parameters):
    assert parse_spec(spec) == (name, parameters)


@pytest.mark.parametrize(
    "spec",
    [
        "",
        " ",
        "[ridge=1]",
        "cca[",
        "cca]",
        "cca[ridge]",
        "cca[=1]",
        "cca[ridge=1]x",
        "cca[ridge=1,]",
        "cca[ridge=1][n_components=2]",
        "cca[ridge=[1]]",
        "cca[ridge=1,ridge=2]",
    ],
)
def test_other_specs_are_refused(spec):
    with pytest.raises(InvalidParameter, match=re.escape(repr(spec))):
        parse_spec(spec)


def test_all_and_paper_stand_for_lists_and_nothing_comes_twice():
    registry = Registry()
    assert registry.expand("all") == sorted(registry.methods)
    paper = registry.expand("paper")
    assert paper == [name for name in PAPER if name in registry.methods]
    assert {"cca", "cfa", "deep_sm"} <= set(paper)
    assert "random" not in paper
    assert registry.expand("cfa,cca[ridge=1],cfa,cca") == ["cfa", "cca[ridge=1]", "cca"]
    assert registry.expand("cca,all") == [
        "cca",
        *[name for name in sorted(registry.methods) if name != "cca"],
    ]


@pytest.mark.parametrize("text", ["", " , "])
def test_no_method_is_an_error(text):
    with pytest.raises(UsageError, match="no method given"):
        Registry().expand(text)
