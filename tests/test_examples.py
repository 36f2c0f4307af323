"""Retrieval examples: lists as a slow oracle ranks them, and pages that show hostile text as text."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import pytest

from xmbench import cli, gallery
from xmbench._io import atomic_write, npz_bytes, read_npz
from xmbench.data import fingerprint
from xmbench.errors import CorruptData, InvalidParameter, InvalidRecord, MissingDependency, UsageError
from xmbench.evaluation import TASKS, evaluate
from xmbench.examples import collect, show, snippet
from xmbench.plan import read_corpus
from xmbench.protocol import DEFAULT, Protocol, protocol
from xmbench.record import Results, decode, encode
from xmbench.registry import Registry
from xmbench.rescore import find_kept

Image = pytest.importorskip("PIL.Image", reason="needs the extra `features`")

INNER = Protocol(name="inner", summary="for tests", similarity="inner")
HOSTILE = "</p><script>alert('x')</script> \"&amp; [bold]$x_1$ \x1b[31mred\x07 \u202eabc"
N = 30

TINY = '''
from pathlib import Path

import numpy as np

from xmbench.data import Corpus, Dataset, DatasetCard, Split
from xmbench.errors import Unsupported
from xmbench._io import files_digest


def _halves(corpus, seed):
    """Even rows for training, odd rows for testing."""
    rows = np.arange(len(corpus))
    return Split("halves", None, rows[::2], rows[:0], rows[1::2])


class Tiny(Dataset):
    card = DatasetCard(title="Tiny", source="none", licence="none", citation="none", layout=("tiny/*",), pairs=60,
                       image_text="for tests")
    folders = ("tiny",)
    required = ("labels.txt",)
    stored = {"image": {"px": "colours"}, "text": {"length": "of the text"}}
    features = "px+length"
    splits = {"halves": _halves}

    def load(self, data_dir, image, text):
        root = self.folder(data_dir)
        labels = np.loadtxt(root / "labels.txt", dtype=int, ndmin=2)
        paths = [root / f"{row:03}.png" for row in range(len(labels))]
        texts = (root / "texts.txt").read_text(encoding="utf-8").split("\\x00")
        return Corpus(
            name="tiny",
            images=np.ones((len(labels), 2)) if image == "px" else paths,
            texts=np.array([[len(line)] for line in texts]) if text == "length" else texts,
            labels=labels.astype(bool),
            class_names=("<b>&amp;</b>\\x1b[1m", "two words", "c"),
            ids=tuple(f"<i>{row}" for row in range(len(labels))),
            groups=tuple(map(str, range(len(labels)))),
            digest=files_digest(root, [root / "labels.txt", root / "texts.txt"]),
        )


DATASET = Tiny
'''


@pytest.fixture
def tiny(tmp_path):
    """A data directory with a dataset of image files and hostile texts, and a registry that knows it."""
    root = tmp_path / "data" / "tiny"
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    labels = np.eye(3, dtype=int)[rng.integers(0, 3, 2 * N)] | (rng.random((2 * N, 3)) < 0.2)
    np.savetxt(root / "labels.txt", labels, fmt="%d")
    (root / "texts.txt").write_text("\x00".join(f"{HOSTILE} {row}" for row in range(2 * N)), encoding="utf-8")
    for row in range(2 * N):
        mode, size = ("RGBA", (400, 10)) if row % 4 == 1 else ("P", (20, 30))
        Image.new(mode, size).save(root / f"{row:03}.png")
    (tmp_path / "tiny.py").write_text(TINY)
    return tmp_path / "data", Registry([tmp_path / "tiny.py"])


def embeddings(labels, ties, seed=0):
    """Paired embeddings that know a little of the labels; with ties, few distinct scores."""
    rng = np.random.default_rng(seed)
    shape = (2, len(labels), 3)
    noise = rng.integers(-1, 2, shape).astype(float) if ties else rng.normal(size=shape)
    classes = labels if labels.ndim == 2 else np.eye(3)[labels % 3]
    return noise + classes[:, :3]


def record_on(keep_run, results, registry, data_dir, name, image="raw", text="raw", rules=DEFAULT, **row):
    """The record of made-up embeddings on a dataset's first split, as a run on it would have left it."""
    dataset, adapter = registry.dataset(name), registry.plugin("dataset", name)
    corpus = read_corpus(adapter, dataset, data_dir, image, text)
    split = dataset.split(corpus, next(iter(dataset.splits)), 0)
    labels = np.asarray(corpus.labels)[split.test]
    provenance = {"image": {"name": "i"}, "text": {"name": "t", "n": 1.5}}
    return keep_run(
        results,
        *embeddings(labels, ties=False),
        labels,
        ids=tuple(corpus.ids[item] for item in split.test),
        class_names=corpus.class_names,
        protocol=rules,
        name=name,
        title=dataset.card.title,
        features=row.get("features", dataset.features),
        provenance=provenance,
        split=split.name,
        split_seed=split.seed,
        fingerprint=fingerprint(corpus, split, provenance, ("none", "none")),
    )


@pytest.fixture
def made(tiny, tmp_path, keep_run):
    """Results with a record on the tiny dataset."""
    data_dir, registry = tiny
    flagged = protocol("all-modal-with-query")
    record = record_on(
        keep_run, tmp_path / "results", registry, data_dir, "tiny", "px", "length", rules=flagged
    )
    return Results(tmp_path / "results"), record


def report_of(results, record, registry, data_dir, **options):
    options.setdefault("tasks", TASKS)
    return collect(*find_kept(results, record.score_id), registry, data_dir, **options)


# -- what is shown ----------------------------------------------------------------------------------


@pytest.fixture
def scattered(tmp_path, tiny, keep_run):
    """Embeddings on the tiny dataset, whose files are then taken away: reports without it."""

    def make(ties, rules):
        rng = np.random.default_rng(2)
        labels = np.eye(4, dtype=bool)[rng.integers(0, 4, N)] | (rng.random((N, 4)) < 0.1)
        labels[7] = [0, 0, 0, 1]
        images, texts = embeddings(labels[:, :3], ties)
        folder = tmp_path / f"{ties}-{rules.name}"
        return keep_run(
            folder, images, texts, labels, protocol=rules, name="tiny", features="px+length"
        ), folder

    return make, tiny[1], tmp_path / "empty"


@pytest.mark.parametrize("rules", [DEFAULT, INNER, protocol("l2"), protocol("all-modal-with-query")])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("top", [1, 4, 1000])
def test_lists_are_those_of_a_slow_oracle(scattered, top, ties, rules):
    make, registry, data_dir = scattered
    record, folder = make(ties, rules)
    kept = find_kept(Results(folder), record.score_id)[1]
    found = report_of(Results(folder), record, registry, data_dir, n_queries=N, top=top)
    scores = evaluate(kept.images, kept.texts, kept.labels, rules)
    rows = {"image": kept.images, "text": kept.texts}
    for task in TASKS:
        source, target = task.split("->")
        places = [
            (kind, row) for kind in (("image", "text") if target == "all" else (target,)) for row in range(N)
        ]
        assert [example.query.id for example in found.tasks[task]] == list(kept.ids)
        for query, example in enumerate(found.tasks[task]):
            mine = rows[source][query]
            near = {}
            for kind, row in places:
                other = rows[kind][row]
                if target == "all" and rules.exclude_query and (kind, row) == (source, query):
                    continue
                value = -((mine - other) ** 2).sum() if rules.similarity == "l2" else mine @ other
                length = np.linalg.norm(mine) * np.linalg.norm(other) if rules.similarity == "cosine" else 1.0
                near[kind, row] = value / length if length else 0.0
            rounded = {place: round(value, 9) for place, value in near.items()}
            expected = sorted(near, key=lambda place: (-rounded[place], places.index(place)))[:top]
            assert found.galleries[task] == len(near)
            shown = [(result.item.modality, kept.ids.index(result.item.id)) for result in example.results]
            assert shown == expected
            for place, result in zip(expected, example.results, strict=True):
                above = sum(value > rounded[place] for value in rounded.values())
                tied = sum(value == rounded[place] for value in rounded.values()) > 1
                assert result.rank == f"{above + 1}{'=' if tied else ''}"
                assert result.score == pytest.approx(near[place], abs=1e-9)
                assert result.relevant == (kept.labels[query] & kept.labels[place[1]]).any()
            assert example.average_precision == scores.tasks[task].average_precision[query]


def test_items_are_those_of_the_dataset(made, tiny):
    results, record = made
    data_dir, registry = tiny
    report = report_of(results, record, registry, data_dir, n_queries=N, top=5)
    corpus = registry.dataset("tiny").load(data_dir, "raw", "raw")
    assert not report.notes and report.warnings == ("Warning: the query left in its all-modal gallery",)
    for example in (example for examples in report.tasks.values() for example in examples):
        for item in [example.query, *(result.item for result in example.results)]:
            row = corpus.ids.index(item.id)
            assert (item.image, item.text) == (corpus.images[row], corpus.texts[row])
            assert item.classes == tuple(np.array(corpus.class_names)[corpus.labels[row]])


def test_queries_are_chosen_by_id_or_drawn(made, tiny):
    results, record = made
    data_dir, registry = tiny

    def chosen(**options):
        report = report_of(results, record, registry, data_dir, top=1, **options)
        found = {tuple(example.query.id for example in examples) for examples in report.tasks.values()}
        assert len(found) == 1  # the same for every task
        return found.pop()

    assert chosen(ids=["<i>7", "<i>3", "<i>7"]) == ("<i>7", "<i>3")
    assert len(chosen()) == len(set(chosen())) == 5 and chosen() == chosen()
    assert len({chosen(random_state=state) for state in range(10)}) > 5
    assert len(chosen(n_queries=N)) == N
    for options, message in (
        ({"ids": ["<i>2"]}, "no test item has the id.*did you mean"),  # a training item
        ({"ids": ["nothing"]}, "the first one is called '<i>1'"),
        ({"ids": ["<i>1"], "n_queries": 1}, "not both"),
        ({"n_queries": N + 1}, f"1 to {N} queries"),
        ({"n_queries": 0}, f"1 to {N} queries"),
    ):
        with pytest.raises(UsageError, match=message):
            chosen(**options)
    with pytest.raises(InvalidParameter, match="top"):
        report_of(results, record, registry, data_dir, top=0)


# -- what does not fit together ---------------------------------------------------------------------


@pytest.mark.parametrize("change", ["labels", "texts", "adapter"])
def test_a_changed_dataset_is_refused(made, tiny, tmp_path, change):
    results, record = made
    data_dir, registry = tiny
    if change == "adapter":
        folder = tmp_path / "other"
        folder.mkdir()
        (folder / "tiny.py").write_text(TINY.replace('"c")', '"d")'))
        registry = Registry([folder / "tiny.py"])
    else:
        path = data_dir / "tiny" / f"{change}.txt"
        content = path.read_text(encoding="utf-8")
        swapped = content.splitlines(keepends=True)[::-1] if change == "labels" else [content + "!"]
        path.write_text("".join(swapped), encoding="utf-8")
    with pytest.raises(CorruptData, match=f"not those of this run.*{record.dataset.fingerprint}"):
        report_of(results, record, registry, data_dir)


def test_a_record_that_is_not_of_its_embeddings_is_refused(made, tiny):
    results, record = made
    path = results.embeddings_path(record.fit_id)
    arrays = read_npz(path)
    shifted = {**arrays, "images": np.roll(arrays["images"], 1, axis=0)}
    atomic_write(path, npz_bytes(shifted))
    with pytest.raises(InvalidRecord, match="its kept embeddings give"):
        report_of(results, record, tiny[1], tiny[0])
    header = json.loads(arrays["header"].tobytes())
    header["ids"] = header["ids"][::-1]
    atomic_write(path, npz_bytes({**arrays, "header": np.frombuffer(json.dumps(header).encode(), np.uint8)}))
    with pytest.raises(InvalidRecord, match="of other test items"):
        report_of(results, record, tiny[1], tiny[0])


def test_a_record_whose_ids_are_not_its_own_is_refused(made, tmp_path):
    results, record = made
    path = tmp_path / "other.json"
    path.write_bytes(encode(msgspec.structs.replace(record, seed=5)))
    assert decode(path.read_bytes(), "other").seed == 5
    with pytest.raises(InvalidRecord, match="not those that its ids were made from"):
        find_kept(results, str(path))


# -- the terminal ------------------------------------------------------------------------------------


class Stream(io.TextIOWrapper):
    """A stream of an encoding that keeps what is written."""

    def __init__(self, encoding, terminal=False):
        super().__init__(io.BytesIO(), encoding=encoding, errors="replace")
        self.terminal = terminal

    def isatty(self):
        return self.terminal

    def text(self):
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)


@pytest.fixture
def shown(made, tiny, monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    results, record = made
    report = report_of(results, record, tiny[1], tiny[0], top=6)

    def print_it(*arguments):
        stream = Stream(*arguments)
        show(report, stream)
        return stream.text()

    return print_it, report


def test_the_text_has_it_all_and_marks_need_no_colour(shown):
    print_it, report = shown
    text = print_it("utf-8")
    assert "\x1b" not in text and "\x07" not in text and "\u202e" not in text
    assert not re.search(r" $", text, flags=re.MULTILINE)
    for word in (
        "Made on Tiny",
        "made",
        "halves",
        "px+length",
        "all-modal-with-query:",
        "Warning: the query",
    ):
        assert word in text
    results = [
        result for examples in report.tasks.values() for example in examples for result in example.results
    ]
    lines = [line for line in text.splitlines() if re.match(r"  +\d+=? [✓✗] ", line)]
    assert len(lines) == len(results) == 4 * 5 * 6
    for line, result in zip(lines, results, strict=True):
        rank, mark, score, modality, *_ = line.split()
        assert (rank, mark == "✓", modality) == (result.rank, result.relevant, result.item.modality)
        assert float(score) == pytest.approx(result.score, abs=6e-4) and result.item.id in line
        assert ("<script>" if modality == "text" else result.item.image.name) in line
    assert len(re.findall(r"average precision \d\.\d{3}", text)) == 20
    assert "[bold]$x_1$" in text  # no markup of ours


def test_a_stream_without_the_marks_gets_letters(shown):
    text = shown[0]("ascii")
    assert re.search(r"^  +\d+=? \+ ", text, re.MULTILINE) and re.search(r"^  +\d+=? x ", text, re.MULTILINE)
    assert "?" not in text


def test_a_terminal_gets_colour_unless_it_is_declined(shown, monkeypatch):
    assert "\x1b[32m" in shown[0]("utf-8", True) and "\x1b[31mred" not in shown[0]("utf-8", True)
    monkeypatch.setenv("COLUMNS", "60")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown[0]("utf-8", True))
    assert all(len(line) <= 60 for line in plain.splitlines() if re.match(r"  +\d+=? [✓✗] ", line))
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in shown[0]("utf-8", True)


def test_snippets_are_short_and_end_at_a_word():
    for text in ("a b", "word " * 50, "x" * 500, "", " \n ", "a" * 9 + " " + "b" * 500):
        for length in (10, 40):
            found = snippet(text, length)
            assert len(found) <= length + 4 and (
                found.endswith(" ...") == (len(text.split()) > 0 < 40 < len(text))
            )
            assert text.replace("\n", " ").strip().startswith(found.removesuffix(" ..."))


# -- the page ----------------------------------------------------------------------------------------

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Checks that tags nest, and collects them and the text between them."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.open, self.texts = [], [], []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def page(made, tiny):
    results, record = made
    report = report_of(results, record, tiny[1], tiny[0], top=6)
    source = gallery.page(report)
    return Page(source), report, source


def test_the_page_is_whole_and_loads_and_runs_nothing(page):
    found, _, source = page
    assert source.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert {"html", "head", "title", "style", "body", "main", "h1", "h2", "h3"} <= {
        tag for tag, _ in found.tags
    }
    assert not {"script", "link", "iframe", "object", "embed", "form", "base", "b-"} & {
        tag for tag, _ in found.tags
    }
    addresses = [
        value
        for _, attributes in found.tags
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "data", "style") or name.startswith("on")
    ]
    assert addresses and all(value.startswith("data:image/jpeg;base64,") for value in addresses)
    assert (
        "url(" not in source and "@import" not in source and "http:" not in source and "https:" not in source
    )
    assert "prefers-color-scheme: dark" in source and "color-scheme: light dark" in source
    assert not any(ord(character) < 32 and character != "\n" for character in source)


def test_hostile_text_stands_on_the_page_as_text(page):
    found, _, source = page
    text = "".join(found.texts)
    assert "</p><script>alert('x')</script> \"&amp; [bold]$x_1$" in text and "<b>&amp;</b>" in text
    assert "<script" not in source and "\u202e" not in source and "<i>" not in source


def test_every_result_has_frame_mark_and_rank(page):
    found, report, _ = page
    results = [
        result for examples in report.tasks.values() for example in examples for result in example.results
    ]
    cards = [attributes["class"].split()[1] for attributes in found.all("li")]
    assert cards == ["right" if result.relevant else "wrong" for result in results]
    marks = [attributes["aria-label"] for attributes in found.all("span") if "aria-label" in attributes]
    assert marks == ["relevant" if result.relevant else "not relevant" for result in results]
    text = "".join(found.texts)
    assert text.count("✓") == sum(result.relevant for result in results) + 1  # and once in the legend
    for word in ("Made on Tiny", "halves", "px+length", "Warning: the query left", "all-modal-with-query"):
        assert word in text
    assert len(re.findall(r"average precision \d\.\d{3}", text)) == 20


def test_images_are_small_named_and_inside(page):
    found, report, _ = page
    items = [
        item
        for examples in report.tasks.values()
        for example in examples
        for item in [example.query, *(result.item for result in example.results)]
        if item.modality == "image"
    ]
    images = found.all("img")
    assert len(images) == len(items) > 0
    for attributes, item in zip(images, items, strict=True):
        assert item.id in attributes["alt"] and "red abc" in attributes["alt"]
        assert ("two words" in attributes["alt"]) == ("two words" in item.classes)
        content = base64.b64decode(attributes["src"].partition(",")[2], validate=True)
        with Image.open(io.BytesIO(content)) as image, Image.open(item.image) as original:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            assert max(image.size) == min(gallery.SIDE, max(original.size))
            if original.mode == "RGBA":  # transparent on the disk
                assert min(np.asarray(image).ravel()) > 250


def test_what_keeps_a_page_from_being_made_is_said(made, tiny, tmp_path, monkeypatch):
    results, record = made
    data_dir, registry = tiny
    report = report_of(results, record, registry, data_dir)
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "page.html"):
        with pytest.raises(UsageError, match=r"cannot be written.*--html"):
            gallery.write_page(path, report)
    with monkeypatch.context() as patch:
        patch.setattr(gallery, "find_spec", lambda name: None)
        with pytest.raises(MissingDependency, match=r"pip install 'xmbench\[features\]'"):
            gallery.page(report)
    shown = next(result.item for result in report.tasks["text->image"][0].results)
    for content in (b"", b"no image", shown.image.read_bytes()[:60]):
        shown.image.write_bytes(content)
        with pytest.raises(CorruptData, match=f"tiny/{shown.image.name} is not a readable image"):
            gallery.write_page(tmp_path / "page.html", report)
    assert not (tmp_path / "page.html").exists()


# -- real data -----------------------------------------------------------------------------------------


def test_pascal_has_photographs_and_sentences(data_dir, tmp_path, keep_run):
    registry = Registry()
    record = record_on(keep_run, tmp_path, registry, data_dir, "pascal")
    report = report_of(Results(tmp_path), record, registry, data_dir, tasks=TASKS[:2], n_queries=3, top=4)
    assert not report.notes
    found = Page(gallery.page(report))
    assert len(found.all("img")) == 3 + 3 * 4 and len(found.all("li")) == 2 * 3 * 4
    for example in report.tasks["text->image"]:
        assert example.query.text and "." in example.query.text
        for item in (result.item for result in example.results):
            assert item.image.stem == item.id and item.image.parent.name == item.classes[0]


def test_wikipedia_has_texts_but_no_images(data_dir, tmp_path, keep_run):
    registry = Registry()
    record = record_on(keep_run, tmp_path, registry, data_dir, "wikipedia", "sift", "lda")
    report = report_of(Results(tmp_path), record, registry, data_dir, tasks=TASKS[:2], top=3)
    assert report.notes == ("Note: wikipedia has no image files to show; its images stand by id and class",)
    found = Page(gallery.page(report))
    assert not found.all("img") and "wikipedia has no image files" in "".join(found.texts)
    assert all(len(example.query.text) > 100 for example in report.tasks["text->image"])
    without = tmp_path / "data" / "wikipedia" / "wikipedia_dataset"
    shutil.copytree(
        data_dir / "wikipedia" / "wikipedia_dataset", without, ignore=shutil.ignore_patterns("texts")
    )
    report = report_of(Results(tmp_path), record, registry, tmp_path / "data", tasks=TASKS[:1])
    assert len(report.notes) == 2 and re.search(r"no texts to show: .*is missing", report.notes[1])
    assert "no text to show" in "".join(Page(gallery.page(report)).texts)


# -- the command ---------------------------------------------------------------------------------------


@pytest.fixture
def call(made, tiny, tmp_path, monkeypatch, capsys):
    def run(*arguments, data_dir=tiny[0]):
        always = ("--results", made[0].folder, "--data-dir", data_dir, "--plugin", tmp_path / "tiny.py")
        monkeypatch.setattr(sys, "argv", ["xmbench", "examples", *map(str, [*arguments, *always])])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return run


def test_the_command_prints_or_writes_a_page(made, call, tmp_path):
    record = made[1]
    code, out, err = call(record.score_id[:8], "--query", "<i>1", "--top", "3")
    assert (code, err) == (0, "") and len(re.findall(r"^  +\d+=? [✓✗] ", out, re.MULTILINE)) == 6
    path = str(made[0].record_path(record.score_id))
    assert call(path, "--query", "<i>1", "--top", "3") == (code, out, err)
    page = tmp_path / "sub" / "page.html"
    code, out, err = call(record.score_id, "--html", page, "--task", "image-all", "--queries", "2")
    assert code == 0 and out == f"wrote {page}\n" and "Warning: the query left" in err
    assert len(Page(page.read_text(encoding="utf-8")).all("li")) == 20


def test_without_the_dataset_ids_and_classes_are_shown_and_a_note_says_so(made, call, tmp_path):
    empty = tmp_path / "empty"
    code, out, _ = call(made[1].score_id, data_dir=empty)
    assert code == 0 and "Note: the files of tiny are not there" in out and "XMBENCH_DATA_DIR" in out
    assert "<i>1" in out and "two words" in out and "script" not in out and str(empty) not in out
    code, _, err = call(made[1].score_id, "--html", tmp_path / "page.html", data_dir=empty)
    found = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert code == 0 and "the files of tiny are not there" in err
    assert "the files of tiny are not there" in "".join(found.texts) and not found.all("img")


def test_the_command_refuses_bad_input(made, call, tmp_path):
    name = made[1].score_id
    bad = {
        ("zz",): (3, "no record"),
        ("nowhere.json",): (3, "does not exist"),
        (name, "--query", "<i>0"): (2, "no test item has the id '<i>0'"),
        (name, "--query", "<i>1", "--queries", "2"): (2, "not both"),
        (name, "--queries", "31"): (2, "1 to 30 queries"),
        (name, "--queries", "0"): (2, "--queries"),
        (name, "--top", "0"): (2, "--top"),
        (name, "--task", "text-audio"): (2, "unknown task"),
        (name, "--html", str(tmp_path)): (2, "is a directory"),
    }
    for arguments, (expected, message) in bad.items():
        code, out, err = call(*arguments)
        assert (code, out) == (expected, "") and message in err and "Traceback" not in err, arguments


@pytest.mark.parametrize("state", ["discarded", "of an older version", "with too few ids"])
def test_embeddings_that_are_not_kept_with_ids_have_to_be_made_again(made, call, state):
    path = made[0].embeddings_path(made[1].fit_id)
    if state == "discarded":
        path.unlink()
    else:
        arrays = read_npz(path)
        header = json.loads(arrays["header"].tobytes())
        header = {**header, "ids": header["ids"][1:]} if "few" in state else {**header, "ids": None}
        header = {key: value for key, value in header.items() if value is not None}
        atomic_write(
            path, npz_bytes({**arrays, "header": np.frombuffer(json.dumps(header).encode(), np.uint8)})
        )
    code, out, err = call(made[1].score_id)
    assert (code, out) == (3, "") and re.search(r"embeddings of made, seed 0.*--fresh", err)


def test_a_dataset_that_is_not_registered_is_named(made, monkeypatch, capsys):
    arguments = ["examples", made[1].score_id, "--results", str(made[0].folder)]
    monkeypatch.setattr(sys, "argv", ["xmbench", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2 and "unknown dataset 'tiny'" in capsys.readouterr().err


def test_ids_of_test_items_come_from_a_run(tmp_path):
    """A real run keeps the ids in the order of its embeddings."""
    from xmbench.plan import Places, Plan, Request

    places = Places(data=tmp_path, cache=tmp_path / "cache", results=tmp_path / "results")
    plan = Plan(
        Request(methods=["random"], dataset="emoji"), Registry(), places, lambda message, fraction: None
    )
    (record,) = plan.run()
    _, kept = find_kept(Results(places.results), record.score_id)
    assert kept.ids == plan.data(0).test.ids
    assert np.array_equal(kept.labels, plan.data(0).test.labels)
    report = collect(record, kept, Registry(), tmp_path, tasks=TASKS, top=3)
    corpus = Registry().dataset("emoji").load(Path(), "lite0", "raw")
    for example in report.tasks["text->image"]:
        assert example.query.text == corpus.texts[corpus.ids.index(example.query.id)]
