"""Records: strict reading, whole writing, and nothing of the machine in what is written."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from xmbench import record as record_module
from xmbench._io import npz_bytes
from xmbench.errors import InvalidRecord
from xmbench.evaluation import TASKS, Scores, TaskScores, evaluate
from xmbench.protocol import DEFAULT
from xmbench.record import (
    SCHEMA,
    Cost,
    DatasetRow,
    MethodRow,
    Record,
    Results,
    TaskRow,
    decode,
    encode,
    git_state,
    json_schema,
    pack_header,
    score_arrays,
    scrub,
    task_rows,
    unpack_header,
    versions,
)

fixed = settings(derandomize=True, database=None, deadline=None, max_examples=100)


def make(**changes) -> Record:
    """A record of a run that was fine."""
    tasks = {
        name: TaskRow(
            mean_average_precision=0.25 + i / 8,
            chance=0.1,
            precision={"1": 0.5, "10": 0.25},
            per_class={"birds": 0.5, "ships": 0.125},
            n_queries=20,
            n_unanswerable=0,
            gallery=20,
        )
        for i, name in enumerate(TASKS)
    }
    values = {
        "fit_id": "f" * 16,
        "score_id": "5" * 16,
        "status": "ok",
        "method": MethodRow(
            name="cca",
            label="cca[ridge=0.1]",
            title="CCA",
            params={"ridge": 0.1, "n_components": None},
            source="abc",
            supervised=False,
            transductive=False,
            control=False,
            trained=False,
            departures=["a ridge is added"],
        ),
        "dataset": DatasetRow(
            name="toys",
            title="Toys",
            features="pixels+words",
            scaling="none+none",
            provenance={"image": {"name": "pixels"}, "text": {"name": "words"}},
            split="random",
            split_seed=0,
            sizes={"train": 80, "validation": 10, "test": 20},
            n_classes=2,
            fingerprint="0123456789abcdef",
        ),
        "protocol": DEFAULT.to_dict(),
        "seed": 0,
        "metrics": tasks,
        "evaluate_seconds": 0.5,
        "cost": Cost(
            fit_seconds=1.5,
            encode_seconds=0.25,
            peak_memory_bytes=None,
            n_parameters=12,
            device="cpu",
            threads=1,
            versions={"python": "3.11.0"},
        ),
        "engine": "numpy",
        "numerics": "n" * 16,
        "evaluator": "e" * 16,
    }
    return Record(**{**values, **changes})


def as_dict(record: Record) -> dict:
    return json.loads(encode(record))


def reached(tree: dict, path: tuple[str, ...]) -> dict:
    """The dictionary that holds the last key of ``path``."""
    for key in path[:-1]:
        tree = tree[key]
    return tree


# -- one record as JSON -----------------------------------------------------------------------------


def test_a_record_comes_back_as_it_was():
    record = make()
    assert decode(encode(record), "here") == record
    assert encode(decode(encode(record), "here")) == encode(record)


def test_a_failed_record_comes_back_as_it_was():
    record = make(status="failed", reason="ValueError: no", metrics={}, cost=None, engine=None)
    assert decode(encode(record), "here") == record


def test_the_bytes_are_one_line_with_sorted_keys():
    record = make(status="failed", reason="two\nlines\r\n")
    line = encode(record)
    assert b"\n" not in line and b"\r" not in line
    keys = list(json.loads(line))
    assert keys == sorted(keys)
    rows = as_dict(record)["method"]
    assert list(rows) == sorted(rows)
    assert rows["params"] == record.method.params


def test_the_order_of_a_dictionary_does_not_change_the_bytes():
    record = make()
    turned = msgspec.structs.replace(record, metrics=dict(reversed(record.metrics.items())))
    assert encode(turned) == encode(record)


@given(st.binary(max_size=60))
@fixed
def test_bytes_that_are_no_record_are_refused(data):
    with pytest.raises(InvalidRecord, match=r"^here: "):
        decode(data, "here")


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"{}", b"\xff\xfe", b"not JSON", b'{"schema": 1'])
def test_what_is_not_a_json_record_is_refused_with_its_place(data):
    with pytest.raises(InvalidRecord, match=r"^line 3: ") as caught:
        decode(data, "line 3")
    assert caught.value.exit_code == 4


def test_a_record_cut_short_anywhere_is_refused():
    whole = encode(make())
    for length in range(len(whole)):
        with pytest.raises(InvalidRecord):
            decode(whole[:length], "here")
    with pytest.raises(InvalidRecord):
        decode(whole + b"}", "here")


@pytest.mark.parametrize(
    "path",
    [
        ("fit_id",),
        ("score_id",),
        ("status",),
        ("method",),
        ("method", "label"),
        ("method", "params"),
        ("method", "departures"),
        ("dataset",),
        ("dataset", "split_seed"),
        ("dataset", "fingerprint"),
        ("protocol",),
        ("seed",),
        ("metrics", "image->text", "mean_average_precision"),
        ("metrics", "image->text", "gallery"),
        ("cost", "fit_seconds"),
        ("cost", "versions"),
        ("numerics",),
        ("evaluator",),
    ],
)
def test_a_missing_field_is_refused_by_name(path):
    tree = as_dict(make())
    del reached(tree, path)[path[-1]]
    with pytest.raises(InvalidRecord, match=path[-1]):
        decode(json.dumps(tree), "here")


@pytest.mark.parametrize(
    "path", [(), ("method",), ("dataset",), ("metrics", "image->text"), ("cost",)], ids="/".join
)
def test_an_unknown_field_is_refused_by_name(path):
    tree = as_dict(make())
    reached(tree, (*path, "host"))["host"] = "tower"
    with pytest.raises(InvalidRecord, match="host"):
        decode(json.dumps(tree), "here")


WRONG = [
    (("schema",), 2),
    (("schema",), 0),
    (("schema",), "1"),
    (("fit_id",), 5),
    (("status",), "fine"),
    (("seed",), "0"),
    (("seed",), 0.5),
    (("seed",), None),
    (("method",), None),
    (("method", "supervised"), 1),
    (("method", "departures"), "one"),
    (("method", "departures"), [1]),
    (("dataset", "sizes"), {"train": "many"}),
    (("dataset", "split_seed"), "0"),
    (("metrics",), []),
    (("metrics", "image->text"), 0.5),
    (("metrics", "image->text", "mean_average_precision"), "0.5"),
    (("metrics", "image->text", "precision"), {"1": None}),
    (("cost", "threads"), 1.5),
    (("git",), "abc"),
]


@pytest.mark.parametrize(("path", "value"), WRONG)
def test_a_wrong_type_or_schema_version_is_refused(path, value):
    tree = as_dict(make())
    reached(tree, path)[path[-1]] = value
    with pytest.raises(InvalidRecord, match=re.escape(path[0])):
        decode(json.dumps(tree), "here")


@pytest.mark.parametrize("protocol", [{}, {"name": "default"}, {**DEFAULT.to_dict(), "temperature": 1}])
def test_a_protocol_that_is_none_is_refused(protocol):
    tree = as_dict(make())
    tree["protocol"] = protocol
    with pytest.raises(InvalidRecord, match="protocol"):
        decode(json.dumps(tree), "here")


def test_a_finished_record_without_its_scores_is_refused():
    tree = as_dict(make())
    del tree["metrics"]["text->image"]
    with pytest.raises(InvalidRecord, match="text->image"):
        decode(json.dumps(tree), "here")


def test_an_undefined_score_is_null_in_json_and_none_in_python():
    undefined = TaskScores(
        mean_average_precision=float("nan"),
        average_precision=np.full(3, np.nan),
        chance=float("nan"),
        precision=np.full(3, np.nan),
        recall=np.full(3, np.nan),
        ndcg=np.full(3, np.nan),
        interpolated_precision=np.full(101, np.nan),
        r_precision=float("nan"),
        mean_reciprocal_rank=float("nan"),
        per_class={},
        n_queries=3,
        n_unanswerable=3,
        n_zero_norm=0,
        gallery=3,
    )
    rows = task_rows(Scores(DEFAULT, "numpy", dict.fromkeys(TASKS, undefined)), ("a", "b"))
    line = encode(make(metrics=rows))
    assert b"NaN" not in line
    assert json.loads(line)["metrics"]["image->text"]["mean_average_precision"] is None
    found = decode(line, "here").metrics["image->text"]
    assert found.mean_average_precision is None and found.chance is None
    assert found.r_precision is None and found.mean_reciprocal_rank is None
    assert found.precision == found.recall == found.ndcg == {}


def test_the_identity_tells_apart_what_a_run_is_a_run_of():
    replace = msgspec.structs.replace
    record = make()
    others = [
        replace(record, seed=1),
        replace(record, protocol={**record.protocol, "name": "l2"}),
        replace(record, method=replace(record.method, label="cca")),
        *(
            replace(record, dataset=replace(record.dataset, **{key: value}))
            for key, value in (
                ("name", "x"),
                ("features", "a+b"),
                ("scaling", "l2+l2"),
                ("split", "x"),
                ("split_seed", None),
            )
        ),
    ]
    assert len({record.identity, *(other.identity for other in others)}) == 1 + len(others)
    same = [
        replace(record, fit_id="0", score_id="0", evaluator="0", numerics="0", git={"commit": "x"}),
        replace(record, method=replace(record.method, source="other", params={"ridge": 0.5})),
        replace(record, dataset=replace(record.dataset, fingerprint="other")),
    ]
    assert {other.identity for other in same} == {record.identity}


# -- JSON Schema ------------------------------------------------------------------------------------

TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


def breaches(value: object, schema: dict, root: dict, where: str = "") -> list[str]:
    """Where ``value`` breaks ``schema``, for the words of JSON Schema that ours uses."""
    known = {
        *("$ref", "$defs", "anyOf", "enum", "const", "type", "properties", "required", "items"),
        *("additionalProperties", "title", "description", "default"),
    }
    assert set(schema) <= known, set(schema) - known
    if "$ref" in schema:
        return breaches(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, where)
    if "anyOf" in schema:
        found = [breaches(value, choice, root, where) for choice in schema["anyOf"]]
        return [] if [] in found else list(itertools.chain(*found))
    if "enum" in schema:
        return [] if value in schema["enum"] else [f"{where}: {value!r}"]
    if "const" in schema:
        return [] if value == schema["const"] else [f"{where}: {value!r}"]
    if "type" not in schema:
        return []
    kind = TYPES[schema["type"]]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        return [f"{where}: {value!r}"]
    found = []
    if isinstance(value, list) and "items" in schema:
        for item in value:
            found += breaches(item, schema["items"], root, where)
    if isinstance(value, dict):
        found += [f"{where}: lacks {key}" for key in schema.get("required", ()) if key not in value]
        rest = schema.get("additionalProperties", True)
        for key, item in value.items():
            if key in schema.get("properties", {}):
                found += breaches(item, schema["properties"][key], root, f"{where}.{key}")
            elif isinstance(rest, dict):
                found += breaches(item, rest, root, f"{where}.{key}")
            elif not rest:
                found.append(f"{where}: unknown {key}")
    return found


def test_the_schema_accepts_what_is_written():
    schema = json_schema()
    for record in (make(), make(status="timeout", reason="too long", metrics={}, cost=None)):
        assert breaches(as_dict(record), schema, schema) == []


def test_the_schema_lists_every_field_and_no_other():
    schema = json_schema()
    body = schema["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    assert set(body["properties"]) == set(as_dict(make()))
    assert body["additionalProperties"] is False
    assert {"fit_id", "score_id", "status", "method", "dataset", "protocol", "seed"} <= set(body["required"])
    assert body["properties"]["schema"]["enum"] == [SCHEMA]


@pytest.mark.parametrize(("path", "value"), WRONG)
def test_the_schema_refuses_what_reading_refuses(path, value):
    schema = json_schema()
    tree = as_dict(make())
    reached(tree, path)[path[-1]] = value
    assert breaches(tree, schema, schema)


def test_the_schema_is_json():
    assert json.loads(json.dumps(json_schema(), allow_nan=False)) == json_schema()


# -- what goes into a record ------------------------------------------------------------------------


def scored(n: int) -> Scores:
    rng = np.random.default_rng(0)
    return evaluate(rng.standard_normal((n, 3)), rng.standard_normal((n, 3)), np.arange(n) % 2)


def test_task_rows_hold_the_scores_under_the_names_of_the_classes():
    scores = scored(12)
    rows = task_rows(scores, ("birds", "ships"))
    assert list(rows) == list(TASKS)
    for name, row in rows.items():
        task = scores.tasks[name]
        assert row.mean_average_precision == pytest.approx(np.mean(task.average_precision))
        assert row.per_class == {"birds": task.per_class[0], "ships": task.per_class[1]}
        for curve in ("precision", "recall", "ndcg"):
            found, whole = getattr(row, curve), getattr(task, curve)
            assert found == {"1": whole[0], "10": whole[9]}
        assert row.r_precision == task.r_precision
        assert row.mean_reciprocal_rank == task.mean_reciprocal_rank
        assert (row.n_queries, row.n_unanswerable) == (12, 0)
    assert (rows["image->text"].gallery, rows["image->all"].gallery) == (12, 23)


def test_rows_of_length_0_are_in_the_record():
    images, texts = np.eye(4), np.eye(4)
    images[2], texts[[0, 1]] = 0, 0
    rows = task_rows(evaluate(images, texts, np.array([0, 1, 0, 1])), ("a", "b"))
    counts = {"image->text": 3, "text->image": 3, "image->all": 4, "text->all": 5}
    assert {name: row.n_zero_norm for name, row in rows.items()} == counts
    found = decode(encode(make(metrics=rows)), "here").metrics
    assert {name: row.n_zero_norm for name, row in found.items()} == counts


@pytest.mark.parametrize(
    ("n", "kept"), [(9, ["1"]), (10, ["1", "10"]), (50, ["1", "10", "50"]), (100, ["1", "10", "50", "100"])]
)
def test_precision_is_reported_for_scopes_that_the_gallery_allows(n, kept):
    assert list(task_rows(scored(n), ("a", "b"))["image->text"].precision) == kept


def test_score_arrays_hold_every_query_and_every_scope():
    scores = scored(12)
    arrays = score_arrays(scores)
    kinds = ("average_precision", "precision", "recall", "ndcg", "scopes", "interpolated_precision")
    assert set(arrays) == {f"{kind}/{task}" for kind in kinds for task in TASKS}
    for name, task in scores.tasks.items():
        for kind in set(kinds) - {"scopes"}:
            assert_array_equal(arrays[f"{kind}/{name}"], getattr(task, kind))
        assert_array_equal(arrays[f"scopes/{name}"], np.arange(1, len(task.precision) + 1))


def test_versions_name_what_is_loaded():
    found = versions()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["numpy"] == np.__version__
    assert all(name in ("python", "xmbench") or name in sys.modules for name in found)


def test_a_header_comes_back_from_among_arrays():
    header = {"b": [1, None, "ü"], "a": {"x": 0.1}}
    packed = pack_header(header)
    assert packed.dtype == np.uint8 and packed.ndim == 1
    assert unpack_header(packed) == header


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_state_is_that_of_the_checkout_and_none_elsewhere(tmp_path, monkeypatch):
    package = tmp_path / "xmbench"
    package.mkdir()
    file = package / "record.py"
    file.write_text("1\n")
    monkeypatch.setattr(record_module, "__file__", str(file))
    assert git_state.__wrapped__() is None

    def git(*words):
        who = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    assert git_state.__wrapped__() is None  # a repository without a commit
    git("add", ".")
    git("commit", "-m", "first")
    clean = git_state.__wrapped__()
    assert re.fullmatch("[0-9a-f]{40}", clean["commit"]) and clean["dirty"] is False
    file.write_text("2\n")
    assert git_state.__wrapped__() == {"commit": clean["commit"], "dirty": True}


# -- scrub: no folder of this machine ---------------------------------------------------------------

FOLDERS = [
    ("/srv/quux/data/x.npy is missing", "x.npy is missing"),
    ("[Errno 2] No such file: '/srv/quux/data/x.npy'", "[Errno 2] No such file: 'x.npy'"),
    ('File "/srv/quux/lib/x.py", line 3', 'File "x.py", line 3'),
    ("PosixPath('/srv/quux/x')", "PosixPath('x')"),
    ("(/srv/quux/x), /srv/quux/y: both", "(x), y: both"),
    ("path=/srv/quux/x", "path=x"),
    ("~/quux/x.npy", "x.npy"),
    (r"C:\Users\quux\x.npy is missing", "x.npy is missing"),
    ("C:/Users/quux/x.npy", "x.npy"),
    (repr(r"C:\Users\quux\x.npy"), "'x.npy'"),
    ("cannot open:/srv/quux/x", "cannot open:x"),
    ("PATH is /usr/bin:/srv/quux/bin", "PATH is bin:bin"),
    ("file:///srv/quux/x", "x"),
    ("sqlite:////srv/quux/x", "sqlite:x"),
    ("~quux/data/x", "x"),
    (r"\\tower\quux\x", "x"),
]


@pytest.mark.parametrize(("text", "expected"), FOLDERS)
def test_folders_are_cut_from_messages(text, expected):
    found = scrub(text)
    assert "quux" not in found
    assert found == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "image/text and a/b or 1/2, n/d",
        "either / or",
        "trained on 10/20 items (km/h)",
        "see https://example.org/a/b.html?from=/c",
        "./a/b and ../c/d",
        "an option starts with /, as in /help",
        repr("a\n\t\x00b"),
        "images: expected shape (4, 3), got (3, 4)",
        "first line\nsecond line",
        "features: expected IMAGE+TEXT, got 'lite0'",
    ],
)
def test_ordinary_messages_are_left_alone(text):
    assert scrub(text) == text


words = st.text(alphabet="abcxyz019_-.é", min_size=3, max_size=8).filter(lambda word: word.strip("."))


@given(
    st.lists(words.map("quux".__add__), min_size=1, max_size=4),
    words.map("last".__add__),
    st.sampled_from(["", "~", "C:"]),
    st.sampled_from(["{}", "no {} here", "'{}'", '"{}",', "({})", "x={}", "`{}`", "<{}>", "[{}]", "a\n{}"]),
)
@fixed
def test_no_folder_of_an_absolute_path_survives(folders, name, root, around):
    for separator in "/\\":
        path = root + separator + separator.join([*folders, name])
        found = scrub(around.format(path))
        assert "quux" not in found
        assert found == around.format(name)


@given(st.text(st.characters(exclude_characters="/\\", exclude_categories=("Cs",)), max_size=100))
@fixed
def test_text_without_separators_is_left_alone(text):
    assert scrub(text) == text


def test_the_home_folder_itself_is_cut_out(monkeypatch):
    monkeypatch.setenv("HOME", "/srv/homes/quux")
    for text in ("cannot write to {}", "'{}' is full", "{}/", "{}: permission denied"):
        assert "quux" not in scrub(text.format(Path.home()))


def test_long_messages_are_cut():
    assert scrub("x" * 2000) == "x" * 2000
    assert scrub("x" * 50_000) == "x" * 2000 + " ..."


def test_a_scrubbed_message_can_be_written():
    reason = scrub("cannot open 'caf\udce9.npy'")  # a file name that is not UTF-8, as Python hands it out
    assert decode(encode(make(status="failed", reason=reason)), "here").reason == reason


# -- the folder of results --------------------------------------------------------------------------


def test_what_is_put_can_be_got(tmp_path):
    results = Results(tmp_path / "deep" / "results")
    record, arrays = make(), {"average_precision/image->text": np.array([0.5, np.nan])}
    assert results.get(record.score_id) is None
    assert list(results) == []
    assert not results.folder.exists()
    results.put(record, arrays)
    assert results.get(record.score_id) == record
    found = results.arrays(record.score_id)
    assert found.keys() == arrays.keys()
    assert_array_equal(found["average_precision/image->text"], [0.5, np.nan])
    assert sorted(path.name for path in (results.folder / "records").iterdir()) == [
        f"{record.score_id}.json",
        f"{record.score_id}.npz",
    ]


def test_a_later_put_replaces_an_earlier_one(tmp_path):
    results = Results(tmp_path)
    results.put(make(status="failed", reason="no", metrics={}, cost=None))
    results.put(make(), {})
    assert results.get(make().score_id) == make()
    assert list(results) == [make()]


def test_iteration_goes_by_file_name(tmp_path):
    results = Results(tmp_path)
    records = [make(score_id=name) for name in ("bb", "aa", "cc")]
    for record in records:
        results.put(record)
    assert [record.score_id for record in results] == ["aa", "bb", "cc"]


def test_a_record_under_a_wrong_name_is_refused(tmp_path):
    results = Results(tmp_path)
    results.put(make(score_id="a"))
    results.record_path("a").rename(results.record_path("b"))
    assert results.get("a") is None
    with pytest.raises(InvalidRecord, match=r"b\.json.*record of a"):
        results.get("b")


@pytest.mark.parametrize("content", [b"", b"{", b"\x00\xff", b"{}"])
def test_a_damaged_record_is_refused_by_file_name_and_without_folder(tmp_path, content):
    results = Results(tmp_path)
    path = results.record_path("a")
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    for read in (lambda: results.get("a"), lambda: list(results)):
        with pytest.raises(InvalidRecord, match=r"^a\.json") as caught:
            read()
        assert str(tmp_path) not in str(caught.value)


def test_temporary_and_foreign_files_are_not_read(tmp_path):
    results = Results(tmp_path)
    results.put(make(), {})
    folder = results.folder / "records"
    (folder / f".{make().score_id}.json.123.tmp").write_text("half of a rec")
    (folder / "notes.txt").write_text("mine")
    assert list(results) == [make()]


def test_missing_arrays_are_named(tmp_path):
    with pytest.raises(InvalidRecord, match="abc"):
        Results(tmp_path).arrays("abc")


def test_damaged_arrays_are_refused(tmp_path):
    """Each byte of the file turned over in turn: refused, or read as the same arrays."""
    results = Results(tmp_path)
    arrays = {"average_precision/image->text": np.random.default_rng(0).random(40)}
    whole = npz_bytes(arrays)
    path = results.record_path("a").with_suffix(".npz")
    path.parent.mkdir(parents=True)
    refused = 0
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 0xFF]) + whole[i + 1 :])
        try:
            values = list(results.arrays("a").values())
        except InvalidRecord:
            refused += 1
            continue
        assert all(np.array_equal(value, *arrays.values()) for value in values)
    assert refused > len(whole) / 2


class Crash(BaseException):
    """The end of the process, for all that a finally clause can tell."""


@pytest.fixture(params=["replace", "fsync"])
def crash(request, monkeypatch):
    """Let the n-th rename, or the n-th flush to disk, from now on be the last thing that happens."""

    def install(n: int) -> None:
        owner, name = (Path, "replace") if request.param == "replace" else (os, "fsync")
        real, calls = getattr(owner, name), itertools.count(1)

        def dying(*arguments):
            if next(calls) == n:
                raise Crash
            return real(*arguments)

        monkeypatch.setattr(owner, name, dying)

    yield install
    monkeypatch.undo()


@pytest.mark.parametrize("n", [1, 2])
def test_an_interrupted_first_put_leaves_no_record(tmp_path, crash, n):
    results = Results(tmp_path)
    crash(n)
    with pytest.raises(Crash):
        results.put(make(), {"a": np.arange(3)})
    assert results.get(make().score_id) is None
    assert list(results) == []
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]


@pytest.mark.parametrize("n", [1, 2])
def test_an_interrupted_second_put_leaves_the_old_record(tmp_path, crash, n):
    results = Results(tmp_path)
    old = make(status="failed", reason="no", metrics={}, cost=None)
    results.put(old)
    crash(n)
    with pytest.raises(Crash):
        results.put(make(), {"a": np.arange(3)})
    assert results.get(old.score_id) == old
    assert list(results) == [old]


# -- a real run -------------------------------------------------------------------------------------

LEAKY = '''
"""Fails with a message that names the home folder."""
from pathlib import Path

from xmbench import Method, MethodInfo


class Leaky(Method):
    info = MethodInfo(title="Leaky", paper="none: for tests", year=2000, supervised=False)

    def __init__(self):
        pass

    def _fit(self, train, validation, context):
        (Path.home() / "private" / "weights.npz").read_bytes()

    def _encode_image(self, images):
        return images

    def _encode_text(self, texts):
        return texts


METHOD = Leaky
'''


def test_records_of_a_real_run_hold_nothing_of_the_machine(tmp_path):
    home = tmp_path / "quuxalice"
    home.mkdir()
    plugin = home / "leaky.py"
    plugin.write_text(LEAKY)
    names = {"HOME": str(home), "USER": "quuxalice", "LOGNAME": "quuxalice"}
    finished = subprocess.run(
        [sys.executable, "-m", "xmbench", "run", "-m", "random,leaky", "--plugin", plugin, "--device", "cpu"],
        cwd=home,
        env={**os.environ, **names, "XMBENCH_CACHE_DIR": str(home / "cache")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.returncode == 1, finished.stderr
    records = {record.method.name: record for record in Results(home / "results")}
    assert records["random"].status == "ok" and records["leaky"].status == "failed"
    assert records["leaky"].reason.endswith("No such file or directory: 'weights.npz'")
    files = [path for path in (home / "results").rglob("*") if path.is_file()]
    assert len(files) == 4  # two records, one with arrays and embeddings
    for path in files:
        content = path.read_bytes()
        for secret in ("quuxalice", str(Path.home()), str(Path.cwd()), sys.prefix):
            assert secret.encode() not in content, path.name
    host = re.compile(rf"\b{re.escape(socket.gethostname())}\b")
    for record in records.values():
        assert not host.search(encode(record).decode())
        for text in strings(as_dict(record)):
            assert not re.search(r"(?<![\w.:/])[/\\]\w|\b[A-Za-z]:\\", text), text


def strings(tree: object) -> list[str]:
    """All keys and values of a JSON tree that are text."""
    if isinstance(tree, dict):
        return [text for key, value in tree.items() for text in [key, *strings(value)]]
    if isinstance(tree, list):
        return [text for value in tree for text in strings(value)]
    return [tree] if isinstance(tree, str) else []
