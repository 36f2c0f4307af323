"""Ranked lists for trec_eval: read by pytrec_eval, they give the average precision of a slow oracle."""

from __future__ import annotations

import sys
from itertools import groupby

import numpy as np
import pytest
import pytrec_eval

from xmbench import cli, trec
from xmbench.errors import InvalidInput, InvalidParameter, UnknownName, UsageError
from xmbench.evaluation import TASKS
from xmbench.plan import Places, Plan, Request
from xmbench.protocol import DEFAULT, Protocol, protocol
from xmbench.record import Results
from xmbench.registry import Registry
from xmbench.rescore import find_kept, named_tasks

INNER = Protocol(name="inner", summary="for tests", similarity="inner")


def embeddings(ties: bool, multi: bool = False, n: int = 23, seed: int = 0):
    """Paired embeddings and labels; with ties, small whole numbers with few distinct scores and a zero row."""
    rng = np.random.default_rng(seed)
    shape = (2, n, 2 if ties else 5)
    images, texts = rng.integers(-1, 2, shape).astype(float) if ties else rng.normal(size=shape)
    texts[3] = 0
    labels = rng.integers(0, 4, n)
    if multi:
        labels = np.eye(4, dtype=bool)[labels] | (rng.random((n, 4)) < 0.2)
    return images, texts, labels


def similarities(queries, gallery, similarity):
    """All scores, in float64; equal ones may differ by rounding."""
    if similarity == "l2":
        return -((queries[:, None] - gallery[None]) ** 2).sum(axis=2)
    if similarity == "cosine":
        queries, gallery = (
            rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
            for rows in (queries, gallery)
        )
    return queries @ gallery.T


def oracle(images, texts, labels, task, rules, top=None):
    """Row of a query -> its average precision with ties in descending order of rows; None without relevant items."""
    source, target = task.split("->")
    n, rows = len(labels), {"image": images, "text": texts}
    gallery = np.concatenate([images, texts]) if target == "all" else rows[target]
    classes = np.concatenate([labels, labels]) if target == "all" else labels
    scores = np.round(similarities(rows[source], gallery, rules.similarity), 9)
    found = {}
    for query in range(n):
        own = query + (n if source == "text" else 0) if target == "all" and rules.exclude_query else None
        items = [item for item in range(len(gallery)) if item != own]
        items.sort(key=lambda item: (-scores[query, item], -item))
        if labels.ndim == 2:
            hits = [bool((classes[item] & labels[query]).any()) for item in items]
        else:
            hits = [classes[item] == labels[query] for item in items]
        precisions = [sum(hits[: k + 1]) / (k + 1) for k in range(len(hits)) if hits[k]]
        kept = precisions[: sum(hits[:top])]
        found[query] = sum(kept) / sum(hits) if any(hits) else None
    return found


def read(folder, task):
    """Run and qrels of a task, as pytrec_eval reads them."""
    name = task.replace("->", "-")
    with (folder / f"{name}.run").open() as run, (folder / f"{name}.qrels").open() as qrels:
        return pytrec_eval.parse_run(run), pytrec_eval.parse_qrel(qrels)


def judged(folder, task):
    """Row of a query -> average precision by trec_eval; queries without relevant items are left out."""
    run, qrels = read(folder, task)
    found = pytrec_eval.RelevanceEvaluator(qrels, {"map"}).evaluate(run)
    return {int(name[1:]): row["map"] for name, row in found.items()}


def agree(folder, data, task, rules, top=None):
    expected = {row: value for row, value in oracle(*data, task, rules, top).items() if value is not None}
    found = judged(folder, task)
    assert found.keys() == expected.keys()
    assert all(
        abs(found[row] - expected[row]) < 1e-6 for row in expected
    )  # trec_eval prints single precision


@pytest.mark.parametrize("multi", [False, True])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("rules", [DEFAULT, INNER, protocol("l2"), protocol("all-modal-with-query")])
def test_trec_eval_finds_the_average_precision_of_the_oracle(tmp_path, rules, ties, multi):
    data = embeddings(ties, multi)
    written = trec.export(*data, rules, tmp_path, tasks=TASKS, label="x", top=None)
    assert sorted(written) == sorted(tmp_path.iterdir()) and len(written) == 8
    for task in TASKS:
        agree(tmp_path, data, task, rules)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("top", [1, 2, 7, 46, 1000])
def test_a_list_is_cut_where_trec_eval_would_cut_it(tmp_path, top, ties):
    data = embeddings(ties, seed=1)
    trec.export(*data, INNER, tmp_path, tasks=TASKS, label="x", top=top)
    for task in TASKS:
        size = 45 if task.endswith("all") else 23
        assert {len(items) for items in read(tmp_path, task)[0].values()} == {min(top, size)}
        agree(tmp_path, data, task, INNER, top)


@pytest.mark.parametrize("task", TASKS)
def test_lines_are_in_the_order_that_trec_eval_makes_of_them(tmp_path, task):
    trec.export(*embeddings(True), DEFAULT, tmp_path, tasks=[task], label="x", top=None)
    lines = [
        line.split(" ") for line in (tmp_path / f"{task.replace('->', '-')}.run").read_text().splitlines()
    ]
    assert {len(line) for line in lines} == {6} and {(line[1], line[5]) for line in lines} == {("Q0", "x")}
    for _, found in groupby(lines, key=lambda line: line[0]):
        rows = list(found)
        assert [int(row[3]) for row in rows] == list(range(1, len(rows) + 1))
        keys = [(np.float32(row[4]), row[2]) for row in rows]
        assert keys == sorted(keys, reverse=True)
        assert all(float(np.float32(row[4])) == int(row[4]) >= 1 for row in rows)
        assert len({row[4] for row in rows}) < len(rows)  # the ties are still there


def test_the_query_is_in_no_file_where_the_protocol_leaves_it_out(tmp_path):
    for rules, there in ((DEFAULT, False), (protocol("all-modal-with-query"), True)):
        trec.export(*embeddings(False), rules, tmp_path, tasks=TASKS[2:], label="x", top=None)
        for task in TASKS[2:]:
            for lists in read(tmp_path, task):
                assert all((name in items) == there for name, items in lists.items())


@pytest.mark.parametrize("n", [1, 2, 10, 1_000_000, 1_000_001])
def test_names_sort_as_the_gallery_does(n):
    names = trec.item_names("i", n) + trec.item_names("t", n)
    assert names == sorted(names) and len(set(names)) == 2 * n
    assert names[0] == "i" + "0" * (len(names[0]) - 1)


def test_a_gallery_that_single_precision_cannot_order_is_refused():
    trec.check_gallery(2**24)
    with pytest.raises(InvalidInput, match="16,777,217 items"):
        trec.check_gallery(2**24 + 1)
    assert np.float32(2**24) == np.float32(2**24 + 1) and np.float32(2**24 - 1) != np.float32(2**24)


@pytest.mark.parametrize("label", ["cca[ridge=0.1,x=a b]", "ü\t\n", "a b\u2028c", "-"])
def test_the_tag_is_one_word(tmp_path, label):
    trec.export(*embeddings(True), DEFAULT, tmp_path, tasks=TASKS[:1], label=label)
    content = (tmp_path / "image-text.run").read_text(encoding="ascii")
    assert {len(line.split()) for line in content.splitlines()} == {6}
    assert "cca[ridge=0.1,x=a-b]" in content or not label.startswith("cca")


def test_a_failure_on_the_way_leaves_the_former_files(tmp_path, monkeypatch):
    data = embeddings(False)
    trec.export(*data, DEFAULT, tmp_path, tasks=TASKS[:1], label="first")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    blocks = trec.rank

    def breaks(*arguments, **options):
        yield from blocks(*arguments, **options)
        raise InvalidInput("no more")

    monkeypatch.setattr(trec, "rank", breaks)
    with pytest.raises(InvalidInput, match="no more"):
        trec.export(*data, DEFAULT, tmp_path, tasks=TASKS[:2], label="second")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_bad_input_is_refused(tmp_path):
    data = embeddings(False)
    with pytest.raises(InvalidParameter, match="at least 1"):
        trec.export(*data, DEFAULT, tmp_path, tasks=TASKS, label="x", top=0)
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match=r"cannot be written.*--output"):
            trec.export(*data, DEFAULT, folder, tasks=TASKS, label="x")
    for text in ("0", "-1", "", "ten", "1.5", "9" * 12, "²"):
        with pytest.raises(UsageError, match="--top"):
            trec.depth(text)
    assert (trec.depth("all"), trec.depth("7")) == (None, 7)


def test_tasks_are_named_with_and_without_the_arrow():
    assert named_tasks(["image-text", "text->all", "image->text"]) == ("image->text", "text->all")
    with pytest.raises(UnknownName, match="did you mean image-text"):
        named_tasks(["image-txt"])


# -- the command -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Results of two methods on emoji."""
    folder = tmp_path_factory.mktemp("trec")
    places = Places(data=folder, cache=folder / "cache", results=folder / "results")
    request = Request(methods=["cca", "random"], dataset="emoji")
    records = Plan(request, Registry(), places, lambda message, fraction: None).run()
    assert [record.status for record in records] == ["ok", "ok"]
    return Results(folder / "results")


@pytest.fixture
def call(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["xmbench", "export-trec", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return run


def test_a_real_run_is_judged_as_in_its_record(results, call, tmp_path):
    for record in results:
        _, kept = find_kept(results, record.score_id)
        output = tmp_path / record.method.name
        code, out, err = call(
            record.score_id, "--results", results.folder, "--output", output, "--top", "all"
        )
        assert (code, err) == (0, "") and out.count("wrote ") == 8
        for task in TASKS:
            agree(output, (kept.images, kept.texts, kept.labels), task, DEFAULT)
            found = judged(output, task)
            assert len(found) == record.metrics[task].n_queries - record.metrics[task].n_unanswerable
            # only the order of ties differs between the two
            assert abs(np.mean(list(found.values())) - record.metrics[task].mean_average_precision) < 0.01


def test_the_protocol_of_the_record_counts_unless_another_is_asked_for(results, call, tmp_path, keep_run):
    data = embeddings(False)
    flagged = protocol("all-modal-with-query")
    record = keep_run(tmp_path, *data, protocol=flagged)
    code, _, err = call(record.score_id, "--results", tmp_path, "--output", tmp_path / "a")
    assert code == 0 and "Warning: the query left in its all-modal gallery" in err
    arguments = ("--results", tmp_path, "--output", tmp_path / "b", "--protocol", "l2", "--task", "text-all")
    code, out, err = call(record.score_id, *arguments)
    assert (code, err, out.count("wrote ")) == (0, "", 2)
    agree(tmp_path / "a", data, "text->all", flagged)
    agree(tmp_path / "b", data, "text->all", protocol("l2"))


def test_the_command_refuses_bad_input(results, call, tmp_path):
    record = next(iter(results))
    (tmp_path / "file").write_text("")
    where = ("--results", results.folder, "--output", tmp_path / "out")
    bad = {
        ("zz", *where): (3, "no record"),
        (record.score_id, *where, "--top", "0"): (2, "--top"),
        (record.score_id, *where, "--task", "image"): (2, "unknown task"),
        (record.score_id, *where, "--protocol", "l3"): (2, "unknown protocol"),
        (record.score_id, "--results", results.folder): (2, "--output"),
        (record.score_id, *where[:2], "--output", tmp_path / "file"): (2, "cannot be written"),
    }
    for arguments, (expected, message) in bad.items():
        code, out, err = call(*arguments)
        assert (code, out) == (expected, "") and message in err and "Traceback" not in err, arguments
    assert not (tmp_path / "out").exists()


def test_discarded_embeddings_are_named(call, tmp_path, keep_run):
    record = keep_run(tmp_path, *embeddings(False))
    Results(tmp_path).embeddings_path(record.fit_id).unlink()
    code, _, err = call(record.score_id, "--results", tmp_path, "--output", tmp_path / "out")
    assert code == 3 and "--fresh" in err and not (tmp_path / "out").exists()
