"""Encoders as plugins: found without importing them, named once, known by their source; and their commands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from test_parts import CORPUS, PLUGIN, SPLIT, Toy

from xmbench import cli
from xmbench.errors import (
    InvalidInput,
    InvalidParameter,
    MissingDependency,
    PluginError,
    UnknownName,
    UsageError,
)
from xmbench.features import Encoder, Extractor, Resources, encoder, known_encoders, source
from xmbench.registry import Registry
from xmbench.scaling import SCALINGS

CODE = '''
"""Counts letters."""

import numpy as np

from xmbench.features import Encoder


class Letters(Encoder):
    """How often each of some letters occurs.

    Args:
        letters: which.
    """

    modality = "text"
    learns = False
    scaling = "none"
    licence = "none needed"

    def __init__(self, letters: str = "abc") -> None:
        self.letters = letters

    def provenance(self):
        return {"name": "letters", "letters": self.letters}

    def transform(self, rows, resources):
        return np.array([[row.count(letter) for letter in self.letters] for row in rows], dtype=np.float32)


ENCODER = Letters
'''
COUNTS = np.array([[text.count(letter) for letter in "abc"] for text in CORPUS.texts], dtype=np.float32)


def write(folder: Path, code: str = CODE, name: str = "letters") -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / f"{name}.py"
    path.write_text(code)
    return path


def extracted(registry: Registry, cache: Path, spec: str = "letters", modality="text"):
    return Extractor(
        Toy(), CORPUS, SPLIT, modality, spec, cache_dir=cache, resources=Resources(), registry=registry
    ).items()


# -- the registry -----------------------------------------------------------------------------------


def test_every_file_among_the_features_is_an_encoder():
    folder = Path(cli.__file__).parent / "features"
    files = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")}
    registry = Registry()
    assert files == {name for name, plugin in registry.encoders.items() if plugin.origin == "built-in"}
    for name, plugin in registry.encoders.items():
        found = registry.encoder(name)
        assert issubclass(found, Encoder) and found.modality == plugin.modality
        assert found.scaling in SCALINGS and found.__doc__
        assert found.extra is None or found.requires
    image, text = (set(known_encoders(modality, registry)) for modality in ("image", "text"))
    assert "lite0" in image and "tfidf" in text and not image & text
    assert image | text == set(registry.encoders)


def test_an_encoder_of_a_file_is_known_without_running_it(tmp_path):
    path = write(tmp_path, CODE + "\nraise RuntimeError('imported')\n")
    registry = Registry([path])
    assert registry.encoders["letters"].modality == "text"
    assert "letters" in known_encoders("text", registry) and "letters" not in known_encoders(
        "image", registry
    )
    assert source(Toy(), "text", "letters", registry) == "raw"
    with pytest.raises(
        PluginError, match=r"encoder 'letters' \(file letters\.py\) cannot be imported: Runtime"
    ):
        encoder("text", "letters", registry)


@pytest.mark.parametrize(
    "line", ['modality: str = "text"', "modality = 'te' + 'xt'", "locals()['modality'] = 'text'"]
)
def test_a_modality_that_is_not_plain_is_found_by_importing(tmp_path, line):
    registry = Registry([write(tmp_path, CODE.replace('modality = "text"', line))])
    assert registry.encoders["letters"].modality in ("text", None)
    assert "letters" in known_encoders("text", registry)
    assert_array_equal(encoder("text", "letters", registry).transform(CORPUS.texts, Resources()), COUNTS)


def test_names_are_of_one_encoder_whatever_its_modality(tmp_path):
    registry = Registry([write(tmp_path, name="lite0")])
    with pytest.raises(UsageError, match=r"encoder 'lite0' \(file lite0\.py\): the name 'lite0' is taken by"):
        registry.check_files()
    assert registry.encoder("lite0").modality == "image"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("modality = ", "medium = ", r"Letters\.modality must be image or text"),
        ('"text"\n', '"sound"\n', r"Letters\.modality must be image or text"),
        ("    learns = False\n", "", "Letters has no learns"),
        ('    scaling = "none"\n', "", "Letters has no scaling"),
        ("ENCODER = Letters", "ENCODER = int", r"ENCODER is not a subclass of xmbench\.Encoder"),
        ("import numpy as np", "import no_such_module_at_all", "no_such_module_at_all"),
        (
            "def transform",
            "def change",
            r"Letters has no transform; it needs transform\(self, rows, resources\)",
        ),
        (
            "    def prov",
            "    @property\n    def prov",
            r"Letters\.provenance must be a method, .*, not property",
        ),
        ("rows, resources", "rows", r"Letters\.transform must be transform\(self, rows, resources\), not"),
        ("self.letters = letters", "raise KeyError(3)", "its constructor raised KeyError: 3"),
    ],
)
def test_a_broken_encoder_is_refused_in_words(tmp_path, old, new, words):
    assert CODE.count(old) >= 1
    registry = Registry([write(tmp_path, CODE.replace(old, new, 1))])
    with pytest.raises(PluginError, match=words):
        registry.encoder("letters")
        encoder("text", "letters", registry)


@pytest.mark.parametrize(
    ("old", "new", "error", "words"),
    [
        (
            "return np.array([[",
            "raise ZeroDivisionError('no')\n        np.array([[",
            PluginError,
            "transform raised Z",
        ),
        ("for row in rows]", "for row in rows[1:]]", InvalidInput, "the encoder made 5 rows of 6"),
        ("row.count(letter) for", "float('nan') for", InvalidInput, "row 0, column 0 is nan"),
        (
            "[row.count(letter) for letter in self.letters] for",
            "row.count('a') for",
            InvalidInput,
            "2 dimensions",
        ),
        ('return {"name"', 'return {1: {2}, "name"', PluginError, "its provenance is no JSON dictionary"),
        (
            'return {"name"',
            'raise OSError("gone")\n        return {"name"',
            PluginError,
            "provenance raised OSError",
        ),
    ],
)
def test_what_an_encoder_makes_is_checked_and_nothing_kept(tmp_path, old, new, error, words):
    assert old in CODE
    registry = Registry([write(tmp_path, CODE.replace(old, new))])
    with pytest.raises(error, match=words):
        extracted(registry, tmp_path / "cache")
    assert not list(tmp_path.rglob("*.npy*"))


def test_a_value_in_a_later_chunk_is_named_by_its_row(tmp_path, monkeypatch):
    monkeypatch.setattr("xmbench.features.CHUNK", {"text": 2})
    code = CODE.replace("return np.array([[", "return np.array([[np.inf if row == 'zebra' else ")
    texts = replace(CORPUS, texts=["bear"] * 5 + ["zebra"])
    made = Extractor(
        Toy(),
        texts,
        SPLIT,
        "text",
        "letters",
        cache_dir=tmp_path / "cache",
        resources=Resources(),
        registry=Registry([write(tmp_path, code)]),
    )
    with pytest.raises(InvalidInput, match="row 5, column 0 is inf"):
        made.items()


def test_the_source_of_a_third_partys_encoder_is_in_its_provenance(tmp_path):
    variants = {
        "as it is": CODE,
        "comment": CODE.replace("import numpy", "# words\nimport numpy"),
        "docstring": CODE.replace("How often each", "How many times each"),
        "code": CODE.replace('"abc"', '"abd"'),
        "other code": CODE.replace("row.count(letter)", "row.lower().count(letter)"),
    }
    paths = {}
    for name, code in variants.items():
        found = extracted(Registry([write(tmp_path / name, code)]), tmp_path / "cache")
        assert found.features.provenance["name"] == "letters"
        paths[name] = found.path
    assert paths["as it is"] == paths["comment"] == paths["docstring"]
    assert len(set(paths.values())) == 3
    assert "source" not in extracted(Registry(), tmp_path / "cache", "tfidf").features.provenance


def test_an_encoder_comes_from_a_plugin_and_takes_parameters(tmp_path):
    registry = Registry([write(tmp_path)])
    assert_array_equal(extracted(registry, tmp_path / "cache").features.matrix, COUNTS)
    assert extracted(registry, tmp_path / "cache", "letters[letters=xyzq]").features.matrix.shape == (6, 4)
    with pytest.raises(
        UnknownName, match="unknown parameter of text encoder 'letters' 'letter'; did you mean"
    ):
        extracted(registry, tmp_path / "cache", "letters[letter=a]")
    with pytest.raises(UnknownName, match="unknown image features 'letters'"):
        extracted(registry, tmp_path / "cache", modality="image")
    with pytest.raises(InvalidParameter):
        extracted(registry, tmp_path / "cache", "letters[")


def test_an_entry_point_brings_an_encoder(tmp_path, monkeypatch):
    write(tmp_path, name="module_of_letters")
    info = tmp_path / "letters-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: letters\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text("[xmbench.encoders]\nletters = module_of_letters:Letters\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry()
    plugin = registry.encoders["letters"]
    assert plugin.origin == "package letters 1.5" and plugin.modality is None
    assert "module_of_letters" not in sys.modules
    found = extracted(registry, tmp_path / "cache")
    assert_array_equal(found.features.matrix, COUNTS)
    assert len(found.features.provenance["source"]) == 16


@pytest.mark.parametrize(
    ("extra", "words"),
    [("", "install them$"), ('; extra = "letters"', r"install them with: pip install 'xmbench\[letters\]'$")],
)
def test_a_package_that_is_missing_is_named_before_anything_is_encoded(tmp_path, extra, words):
    code = CODE.replace('licence = "none needed"', f'requires = ("json", "no_such_module"){extra}')
    with pytest.raises(MissingDependency, match=f"text features letters need no_such_module; {words}"):
        extracted(Registry([write(tmp_path, code)]), tmp_path / "cache")


SUPERVISED = (
    CODE.replace("learns = False", "learns = True\n    supervised = SUPERVISED")
    + """
    def fit(self, rows, labels, resources):
        assert rows == ["a bear eats apple pie", "bear bear plum cake", "plum", "apple cake"], rows
        assert (labels.tolist() == [0, 1, 0, 1]) if self.supervised else labels is None, labels
        self.letters += "z"
"""
)


@pytest.mark.parametrize("supervised", [True, False])
def test_an_encoder_learns_from_training_rows_and_their_labels_if_it_asks_for_them(tmp_path, supervised):
    code = SUPERVISED.replace("SUPERVISED", str(supervised)).replace("\nENCODER = Letters\n", "", 1)
    registry = Registry([write(tmp_path, code + "\nENCODER = Letters\n")])
    found = extracted(registry, tmp_path / "cache")
    assert_array_equal(found.features.matrix[:, 3], [text.count("z") for text in CORPUS.texts])
    assert found.features.provenance["fitted_on"] == "training rows" and found.learned_from == 4


def test_device_and_threads_reach_the_encoder_and_no_id(tmp_path):
    code = CODE.replace(
        "return np.array([[", "assert resources.threads == 3, resources\n        return np.array([["
    )
    code = code.replace("in self.letters]", "in self.letters] + [float(resources.device == 'cuda:1')]")
    registry = Registry([write(tmp_path, code)])
    paths = set()
    for device in ("cpu", "cuda:1"):
        made = Extractor(
            Toy(),
            CORPUS,
            SPLIT,
            "text",
            "letters",
            cache_dir=tmp_path / device,
            resources=Resources(device=device, threads=3),
            registry=registry,
        ).items()
        assert made.features.matrix[:, -1].tolist() == [float(device == "cuda:1")] * 6
        paths.add((made.path.name, json.dumps(made.features.provenance, sort_keys=True)))
    assert len(paths) == 1


# -- the commands -----------------------------------------------------------------------------------


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """A command in this process, in a folder with two plugins."""
    write(tmp_path)
    write(tmp_path, textwrap.dedent(PLUGIN), "seer")
    for name in [name for name in os.environ if name.startswith("XMBENCH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XMBENCH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["xmbench", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return caught.value.code, *capsys.readouterr()

    return run


PLUGINS = ("--plugin", "letters.py", "--plugin", "seer.py")


def test_features_are_extracted_once_and_said_to_be_there(call, tmp_path):
    command = (
        "features",
        "seer",
        "--text",
        "letters",
        "--parts",
        "none+sentences",
        "--device",
        "cpu",
        *PLUGINS,
    )
    code, out, err = call(*command)
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0] == "image pixels: 30 x 4, stored with the dataset; nothing to extract"
    assert re.fullmatch(r"text letters: 30 x 3, 30 rows extracted in \d+\.\d s \([\d,]+ a second\)", lines[1])
    assert re.match("text sentences letters: 45 x 3, 45 rows extracted", lines[3])
    for line in (lines[2], lines[4]):
        assert Path(line.strip()).is_file() and Path(line.strip()).is_relative_to(tmp_path / "cache")
    assert "extracting letters text features 100%" in err
    code, again, err = call(*command, "-q")
    assert (code, err) == (0, "")
    assert again.count("there already, read and checked in") == 2
    assert [line for line in again.splitlines() if line.startswith("  ")] == [lines[2], lines[4]]


def test_features_say_what_was_fitted_on_which_rows(call):
    command = ("features", "seer", "--parts", "none+sentences", "--device", "cpu", "--json", *PLUGINS)
    code, out, _ = call(*command)
    rows = {row["what"]: row for row in json.loads(out)}
    assert code == 0 and set(rows) == {"image", "text", "text sentences"}
    assert [rows[what]["learned_from"] for what in rows] == [0, 20, 0]
    assert rows["text sentences"]["encoded"] == rows["text sentences"]["rows"] == 45
    again = {row["what"]: row for row in json.loads(call(*command)[1])}
    assert [row["encoded"] for row in again.values()] == [0, 0, 0]
    assert "fitted on 20 training rows in" in call(*command[:2], "--text", "tfidf[n_words=3]", *PLUGINS)[1]


@pytest.mark.parametrize("waits", [0, 2])
def test_features_say_that_they_waited_or_from_where_they_go_on(call, monkeypatch, waits):
    def obtained(path, n, encode, *, waiting, resuming, **options):
        for _ in range(waits):
            waiting()
        if waits:
            return np.zeros((n, 3), np.float32), 0
        resuming(10)
        return np.zeros((n, 3), np.float32), n - 10

    monkeypatch.setattr("xmbench.features.obtain", obtained)
    code, out, err = call("features", "seer", "--text", "letters", "--device", "cpu", *PLUGINS)
    assert code == 0
    if waits:
        assert "made by another process, waited for 0.0 s" in out and "there already" not in out
    else:
        assert "20 rows extracted in" in out and "10 were there" in out
        assert "letters text features: going on from row 10 of 30" in err


def test_a_run_takes_features_and_parts_that_were_extracted(call):
    parts = ("--parts", "none+sentences", "--device", "cpu", *PLUGINS)
    assert call("features", "seer", "--text", "letters", *parts)[0] == 0
    command = ("run", "-m", "cca,seer", "-d", "seer", "--features", "pixels+letters", *parts)
    code, out, err = call(*command)
    assert code == 1 and "extracting" not in err  # letters are 3 columns, that method wants 4
    assert "features pixels+letters with parts none+sentences" in out
    cca, seer = json.loads(call(*command, "--json")[1])
    assert (cca["status"], seer["status"]) == ("ok", "failed")
    assert cca["dataset"]["provenance"]["parts"]["text"]["cut"] == "sentences"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nothing"], 2, "unknown dataset 'nothing'"),
        (["emoji", "--image", "lite1"], 2, "unknown image features 'lite1'; did you mean lite0?"),
        (["emoji", "--text", "lite0"], 2, "unknown text features 'lite0'"),
        (["emoji", "--text", "tfidf[words=3]"], 2, "unknown parameter of text encoder 'tfidf' 'words'"),
        (["emoji", "--parts", "grid2"], 2, "parts: expected IMAGE+TEXT"),
        (["emoji", "--parts", "grid99+none"], 2, "grid1 to grid16"),
        (
            ["emoji", "--parts", "none+sentences"],
            1,
            "emoji does not hand over sentences of its texts; take none",
        ),
        (["emoji", "--parts", "grid2+none"], 1, "for whole items alone"),
        (["emoji", "--split", "nowhere"], 2, "unknown split 'nowhere'"),
        (["emoji", "--seeds", "x"], 2, "--seeds: expected"),
        (["pascal", "--data-dir", "nowhere"], 3, "expected there:"),
        (["emoji", "--plugin", "gone.py"], 3, "does not exist"),
        ([], 2, "DATASET"),
    ],
)
def test_features_that_cannot_be_had_are_refused(call, arguments, code, words):
    found = call("features", *arguments, *(() if "--device" in arguments else ("--device", "cpu")))
    assert (found[0], found[1]) == (code, ""), found
    assert words in found[2] and "Traceback" not in found[2]


def test_encoders_are_listed_with_their_modality(call):
    code, out, _ = call("list", "encoders", *PLUGINS)
    assert code == 0 and out.startswith("encoders:\n")
    assert re.search(r"^  lite0 +image, built-in$", out, re.MULTILINE)
    assert re.search(r"^  letters +text, file letters\.py$", out, re.MULTILINE)
    assert "cca" not in out and "emoji" not in out
    rows = {row["name"]: row for row in json.loads(call("list", "--json", *PLUGINS)[1])}
    assert rows["tfidf"]["kind"] == "encoders" and rows["tfidf"]["modality"] == "text"
    assert "encoders:\n" in call("list")[1]


def test_the_check_of_a_list_names_broken_encoders(call, tmp_path):
    write(tmp_path, CODE.replace('scaling = "none"', "pass"), "lame")
    write(tmp_path, CODE.replace('licence = "none needed"', 'requires = ("no_such_module",)'), "needy")
    code, out, _ = call("list", "encoders", "--check", "--plugin", "lame.py", "--plugin", "needy.py")
    assert code == 1
    assert re.search(r"^  lame +broken: encoder 'lame' .*Letters has no scaling$", out, re.MULTILINE)
    assert re.search(r"^  needy +text, needs no_such_module$", out, re.MULTILINE)


def test_info_of_an_encoder(call, tmp_path):
    write(tmp_path, CODE.replace('licence = "none needed"', 'requires = ("no_such_module", "json")'), "needy")
    code, out, _ = call("info", "tfidf")
    assert code == 0 and out.startswith("tfidf: encoder of texts (built-in)\n")
    for words in (
        "Salton",
        "learns:      from training rows",
        "n_words = 1000",
        "provenance:  name tfidf, version 1",
    ):
        assert words in out
    found = json.loads(call("info", "letters", "--json", *PLUGINS)[1])
    assert found["parameters"] == {"letters": "abc"} and found["licence"] == "none needed"
    assert found["provenance"] == {"name": "letters", "letters": "abc"}
    assert (
        "needs:       no_such_module, json; not installed: no_such_module"
        in call("info", "needy", "--plugin", "needy.py")[1]
    )
    assert "pip install 'xmbench[features]'" in call("info", "lite0")[1]
    code, _, err = call("info", "lite9")
    assert code == 2 and "unknown method, dataset or encoder 'lite9'; did you mean lite0" in err


def test_text_of_an_encoder_cannot_steer_the_terminal(call, tmp_path):
    write(
        tmp_path,
        CODE.replace("How often each", "How \x1b[2J often each").replace("none needed", "\x1b[31mred"),
    )
    out = call("info", "letters", *PLUGINS)[1]
    assert "often each" in out and "red" in out and "\x1b" not in out


def test_an_interrupted_command_goes_on_where_it_stopped(tmp_path):
    """Killed between two chunks; rows that were encoded are not encoded again."""
    slow = CODE.replace(
        "return np.array([[",
        "import os, signal\n"
        "        log = open('log', 'a'); log.write(f'{len(rows)}\\n'); log.close()\n"
        "        if len(open('log').readlines()) == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return np.array([[",
    )
    write(tmp_path, slow)
    write(tmp_path, textwrap.dedent(PLUGIN), "seer")
    code = "import xmbench.features as f; f.CHUNK = {'image': 9, 'text': 9}; from xmbench.cli import main; main()"
    command = [
        sys.executable,
        "-c",
        code,
        "features",
        "seer",
        "--text",
        "letters",
        "--device",
        "cpu",
        *PLUGINS,
    ]
    environment = {**os.environ, "XMBENCH_CACHE_DIR": str(tmp_path / "cache")}
    runs = [
        subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        for _ in range(2)
    ]
    assert [run.returncode for run in runs] == [-9, 0], runs
    assert (tmp_path / "log").read_text().split() == ["9", "9", "9", "9", "3"]
    assert "12 rows extracted" in runs[1].stdout and "18 were there" in runs[1].stdout
