"""Parts of items: cut as asked for, encoded as whole items are, kept, fingerprinted, seen by those that want them."""

from __future__ import annotations

import json
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from test_features import needs_lite0

from xmbench import Corpus, Dataset, FitContext, Method, MethodInfo, Ragged, Split
from xmbench.data import Region
from xmbench.errors import ConformanceError, CorruptData, InvalidInput, Unsupported, UsageError
from xmbench.features import Extractor, Resources, encoder, grid, split_parts
from xmbench.features.tfidf import TfIdf
from xmbench.leaderboard import tables
from xmbench.plan import Places, Plan, Request
from xmbench.record import DatasetRow
from xmbench.registry import Registry
from xmbench.run import read_bundle, write_bundle
from xmbench.testing import check_method, synthetic_data, synthetic_pairs

QUIET = Resources()


# -- what can be asked for --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "cuts"),
    [
        ("none", ("none", "none")),
        ("none+none", ("none", "none")),
        ("grid2+sentences", ("grid2", "sentences")),
        (" regions + none ", ("regions", "none")),
        ("grid16+none", ("grid16", "none")),
        ("none+sentences", ("none", "sentences")),
    ],
)
def test_parts_are_asked_for_in_one_text(text, cuts):
    assert split_parts(text) == cuts


@pytest.mark.parametrize(
    "text",
    [
        "",
        "grid2",
        "sentences",
        "sentences+grid2",
        "grid+none",
        "grid0+none",
        "grid17+none",
        "grid-1+none",
        "grid2.5+none",
        "none+words",
        "grid2+sentences+none",
        "Grid2+none",
        "grid²+none",
        "+",
        "tiles+none",
    ],
)
def test_other_parts_are_refused(text):
    with pytest.raises(UsageError, match="parts"):
        split_parts(text)


@pytest.mark.parametrize("n", range(1, 17))
def test_the_cells_of_a_grid_tile_the_image(n):
    cells = np.array([region.box for region in grid(Path("a.jpg"), n)])
    assert len(cells) == n * n
    assert_allclose(np.sum((cells[:, 2] - cells[:, 0]) * (cells[:, 3] - cells[:, 1])), 1)
    points = np.random.default_rng(n).uniform(0, 1, (50, 2))
    inside = (cells[:, None, :2] <= points) & (points < cells[:, None, 2:])
    assert_array_equal(inside.all(axis=2).sum(axis=0), 1)
    assert cells.min() == 0 and cells.max() == 1
    rows = np.lexsort((cells[:, 0], cells[:, 1]))
    assert_array_equal(rows, np.arange(n * n))  # row by row


# -- a corpus without files -------------------------------------------------------------------------

SENTENCES = [
    ["a bear eats", "apple pie"],
    ["bear bear", "plum", "cake"],
    [],
    ["apple cake"],
    ["zebra bear"],
    ["zebra", "a bear"],
]
CORPUS = Corpus(
    name="toy",
    images=np.arange(24, dtype=np.float64).reshape(6, 4) % 7,
    texts=[" ".join(parts) or "plum" for parts in SENTENCES],
    labels=np.array([0, 1, 0, 1, 0, 1]),
    class_names=("even", "odd"),
    ids=tuple("abcdef"),
    groups=tuple("abcdef"),
    digest="0" * 64,
    text_parts=SENTENCES,
)
SPLIT = Split("toy", 0, train=np.arange(4), validation=np.array([4]), test=np.array([5]))


class Toy(Dataset):
    card = Registry().dataset("pascal").card
    stored = {"image": {"pixels": "four numbers"}}  # noqa: RUF012
    features = "pixels+tfidf"
    splits = {"toy": lambda corpus, seed: SPLIT}  # noqa: RUF012

    def load(self, data_dir: Path, image: str, text: str) -> Corpus:
        return CORPUS


def extractor(cache: Path, modality="text", spec="tfidf", corpus=CORPUS, split=SPLIT) -> Extractor:
    return Extractor(Toy(), corpus, split, modality, spec, cache_dir=cache, resources=QUIET)


def test_sentences_are_encoded_by_the_encoder_of_the_whole_texts(tmp_path):
    found = extractor(tmp_path).parts("sentences")
    made = TfIdf()
    made.fit(list(CORPUS.texts[:4]), None, QUIET)
    parts = found.ragged
    assert len(parts) == 6 and [len(parts[item]) for item in range(6)] == [2, 3, 0, 1, 1, 2]
    for item, sentences in enumerate(SENTENCES):
        if sentences:
            assert_array_equal(parts[item], made.transform(sentences, QUIET))
    assert not parts[5][0].any()  # no training text has a zebra
    assert found.features.provenance == {
        **made.provenance(),
        "fitted_on": "training rows",
        "cut": "sentences",
    }
    assert (found.encoded, found.learned_from) == (9, 4)


def test_an_encoder_learns_once_for_items_and_parts(tmp_path, monkeypatch):
    fits = []
    fit = TfIdf.fit
    monkeypatch.setattr(TfIdf, "fit", lambda self, *rest: (fits.append(1), fit(self, *rest)))
    both = extractor(tmp_path)
    items, parts = both.items(), both.parts("sentences")
    assert len(fits) == 1 and (items.learned_from, parts.learned_from) == (4, 0)
    again = extractor(tmp_path)
    assert again.items().encoded == again.parts("sentences").encoded == 0 and len(fits) == 1
    assert_array_equal(again.parts("sentences").ragged.values, parts.ragged.values)
    assert extractor(tmp_path, split=replace(SPLIT, train=np.arange(3))).parts("sentences").encoded == 9


def test_a_cache_of_parts_knows_how_items_are_cut(tmp_path):
    first = extractor(tmp_path).parts("sentences")
    shifted = [["a bear eats", "apple pie", "bear bear"], ["plum", "cake"], *SENTENCES[2:]]
    other = extractor(tmp_path, corpus=replace(CORPUS, text_parts=shifted)).parts("sentences")
    assert other.path != first.path and other.encoded == 9
    assert_array_equal(other.offsets, [0, 3, 5, 5, 6, 7, 9])


@pytest.mark.parametrize(
    ("modality", "spec", "cut", "changes", "words"),
    [
        ("text", "tfidf", "sentences", {"text_parts": None}, "toy does not hand over sentences of its texts"),
        ("text", "tfidf", "sentences", {"text_parts": [[]] * 6}, "no text of toy has sentences"),
        ("image", "pixels", "grid2", {}, "toy stores its image features 'pixels' for whole items alone"),
        ("image", "pixels", "regions", {}, "for whole items alone"),
        (
            "image",
            "lite0",
            "regions",
            {"images": [Path(f"{i}.jpg") for i in range(6)]},
            "toy does not hand over regions of its images; take a grid, or none",
        ),
    ],
)
def test_parts_that_are_not_there_are_refused_in_words(tmp_path, modality, spec, cut, changes, words):
    with pytest.raises(Unsupported, match=words):
        extractor(tmp_path, modality, spec, replace(CORPUS, **changes)).parts(cut)
    assert not list(tmp_path.rglob("*.npy"))


def test_parts_of_another_number_of_items_are_refused():
    with pytest.raises(CorruptData, match="text parts of 5 items, ids of 6"):
        replace(CORPUS, text_parts=SENTENCES[:5])
    with pytest.raises(CorruptData, match="image parts of 1 items"):
        replace(CORPUS, image_parts=[[]])


# -- real data --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pascal(data_dir) -> Corpus:
    return Registry().dataset("pascal").load(data_dir, "raw", "raw")


def test_the_sentences_of_pascal_are_ragged(pascal, tmp_path):
    dataset = Registry().dataset("pascal")
    split = dataset.split(pascal, "cmgans", 0)
    made = Extractor(dataset, pascal, split, "text", "tfidf", cache_dir=tmp_path, resources=QUIET)
    parts, items = made.parts("sentences").ragged, made.items().features.matrix
    counts = np.diff(parts.offsets)
    assert len(parts) == 1000 and parts.values.shape[1] == items.shape[1]
    assert sorted(counts[counts != 5]) == [4, 4, 4, 6]
    assert len(parts.values) == 4998
    for item in (0, 500, *map(int, np.flatnonzero(counts != 5))):
        used = np.flatnonzero(parts[item].any(axis=0))
        assert set(used) <= set(np.flatnonzero(items[item]))  # a sentence has no word that its text lacks
        assert len(parts[item]) == len(pascal.text_parts[item])


@needs_lite0
def test_cells_of_a_photograph_are_encoded_as_the_saved_crops(pascal, tmp_path):
    from PIL import Image, ImageOps

    dataset, chosen = Registry().dataset("pascal"), []
    for path in pascal.images:
        with Image.open(path) as image:
            if not any(side % 2 for side in image.size):
                chosen.append(path)
        if len(chosen) == 2:
            break
    keep = [pascal.images.index(path) for path in chosen]
    few = replace(
        pascal,
        images=chosen,
        texts=[pascal.texts[row] for row in keep],
        labels=pascal.labels[keep],
        ids=("a", "b"),
        groups=("a", "b"),
        text_parts=None,
    )
    split = Split("two", None, train=[0], validation=[], test=[1])
    made = Extractor(dataset, few, split, "image", "lite0", cache_dir=tmp_path / "cache", resources=QUIET)
    found = made.parts("grid2").ragged
    crops = []
    for number, path in enumerate(chosen):
        with Image.open(path) as opened:
            upright = ImageOps.exif_transpose(opened).convert("RGB")
        width, height = upright.size
        for cell in range(4):
            left, top = cell % 2 * width // 2, cell // 2 * height // 2
            crop = tmp_path / f"{number}-{cell}.png"
            upright.crop((left, top, left + width // 2, top + height // 2)).save(crop)
            crops.append(crop)
    expected = encoder("image", "lite0").transform(crops, QUIET)
    assert_allclose(found.values, expected, rtol=1e-3, atol=1e-5)
    assert_array_equal(found.offsets, [0, 4, 8])
    whole = made.items().features.matrix
    assert np.abs(found[0] - whole[0]).max(axis=1).min() > 0.01
    one = made.parts("grid1").ragged
    assert_allclose(one.values, whole, rtol=1e-3, atol=1e-5)
    by_hand = replace(few, image_parts=[[Region(chosen[0], (0, 0, 0.5, 0.5))], grid(chosen[1], 2)])
    regions = Extractor(
        dataset, by_hand, split, "image", "lite0", cache_dir=tmp_path / "cache", resources=QUIET
    ).parts("regions")
    assert_array_equal(regions.offsets, [0, 1, 5])
    assert_allclose(regions.ragged.values, expected[[0, 4, 5, 6, 7]], rtol=1e-3, atol=1e-5)


def test_a_dataset_without_sentences_or_images_says_so(tmp_path):
    places = Places(data=tmp_path, cache=tmp_path / "cache", results=tmp_path / "results")
    for parts, words in (
        ("none+sentences", "does not hand over sentences"),
        ("grid2+none", "stores its image features 'lite0' for whole items alone"),
    ):
        plan = Plan(Request(methods=[], dataset="emoji", parts=parts), Registry(), places, lambda *news: None)
        with pytest.raises(Unsupported, match=words):
            plan.data(0)


# -- through a run ----------------------------------------------------------------------------------

PLUGIN = """
    from pathlib import Path

    import numpy as np

    from xmbench import Corpus, Dataset, DatasetCard, Method, MethodInfo, Split


    def rule(corpus, seed):
        '''Fixed.'''
        return Split("rule", None, train=range(20), validation=range(20, 25), test=range(25, 30))


    class Sentences(Dataset):
        card = DatasetCard("Sentences", "none", "none", "none", (), 30, "numbers and words", embedded=True)
        stored = {"image": {"pixels": "four numbers"}}
        features = "pixels+tfidf"
        splits = {"rule": rule}

        def load(self, data_dir, image, text):
            words = "apple bear cake dog elk fox".split()
            parts = [[words[i % 6], words[i % 5] + " " + words[i % 3]][: 1 + i % 2] for i in range(30)]
            labels = np.arange(30) % 3
            images = np.eye(4)[labels] + np.arange(120).reshape(30, 4) % 7 / 10
            ids = tuple(f"item {i}" for i in range(30))
            texts = [" ".join(part) for part in parts]
            return Corpus("s", images, texts, labels, ("a", "b", "c"), ids, ids, "0" * 64, text_parts=parts)


    class Seer(Method):
        info = MethodInfo(title="Seer", paper="none: for tests", year=2000, supervised=False, parts=True)

        def _fit(self, train, validation, context):
            assert train.image_parts is None
            seen = train.text_parts is not None
            if seen:
                counts = [len(train.text_parts[i]) for i in range(len(train))]
                assert counts == [1 + i % 2 for i in range(20)]
                assert len(validation.text_parts) == 5
            self.seen_ = float(seen)
            self.score_ = context.validation_score(self)

        def _encode_image(self, images, parts=None):
            assert parts is None
            return images

        def _encode_text(self, texts, parts=None):
            if not self.seen_:
                assert parts is None
                return texts[:, :4]
            assert len(parts) == len(texts) == 5
            return np.stack([parts[i].mean(axis=0)[:4] for i in range(len(parts))])


    DATASET = Sentences
    METHOD = Seer
"""

BLIND = """
    from xmbench import Method, MethodInfo


    class Blind(Method):
        info = MethodInfo(title="Blind", paper="none: for tests", year=2000, supervised=False)

        def _fit(self, train, validation, context):
            context.validation_score(self)

        def _encode_image(self, *given):
            (images,) = given
            return images

        def _encode_text(self, *given):
            (texts,) = given
            return texts[:, :4]


    METHOD = Blind
"""


@pytest.fixture
def toys(tmp_path) -> tuple[Registry, Places]:
    for name, code in (("seer", PLUGIN), ("blind", BLIND)):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))
    places = Places(data=tmp_path, cache=tmp_path / "cache", results=tmp_path / "results")
    return Registry([tmp_path / "seer.py", tmp_path / "blind.py"]), places


def planned(toys, parts: str = "none+none", methods=("seer", "blind")) -> Plan:
    registry, places = toys
    return Plan(
        Request(methods=list(methods), dataset="seer", parts=parts), registry, places, lambda *news: None
    )


def test_methods_that_want_parts_see_them_in_fit_and_encode_and_others_never(toys):
    without, with_parts = planned(toys).run(), planned(toys, "none+sentences").run()
    for records in (without, with_parts):
        assert [(record.status, record.reason) for record in records] == [("ok", None)] * 2
    seer, blind = without
    assert [record.dataset.parts for record in (*without, *with_parts)] == ["none+none"] * 2 + [
        "none+sentences"
    ] * 2
    assert with_parts[0].metrics != seer.metrics
    assert with_parts[1].metrics == blind.metrics
    assert {record.fit_id for record in without}.isdisjoint(record.fit_id for record in with_parts)
    assert {record.identity for record in without}.isdisjoint(record.identity for record in with_parts)
    assert planned(toys, "none+sentences").run() == with_parts


def test_parts_that_no_method_uses_are_refused_before_anything_is_read(toys):
    with pytest.raises(UsageError, match=r"^none of blind, random uses parts; leave --parts out"):
        planned(toys, "none+sentences", ("blind", "random"))
    with pytest.raises(UsageError, match=r"such as grid2\+sentences, got 'grid2'"):
        planned(toys, "grid2")
    assert not toys[1].cache.exists()


def test_tables_name_the_parts_in_words(toys):
    (table,) = tables(planned(toys, "none+sentences").run())
    assert "features pixels+tfidf with parts none+sentences," in table.heading
    (line,) = [line for line in table.footer if line.startswith("Features ")]
    assert "text parts: cut sentences, fitted_on training rows" in line and "{" not in line
    assert "parts" not in tables(planned(toys).run())[0].heading


@pytest.mark.parametrize(
    ("provenance", "parts"),
    [
        ({}, "none+none"),
        ({"parts": {"text": {"cut": "sentences"}}}, "none+sentences"),
        ({"parts": {"image": {"cut": "grid2"}, "text": {"cut": "sentences"}}}, "grid2+sentences"),
        ({"parts": 3}, "none+none"),
        ({"parts": {"image": "grid2"}}, "none+none"),
    ],
)
def test_parts_of_a_record_are_read_off_its_provenance(provenance, parts):
    row = DatasetRow("a", "A", "b+c", "none+none", provenance, "s", 0, {}, 2, "0")
    assert row.parts == parts
    assert row.inputs == ("b+c" if parts == "none+none" else f"b+c with parts {parts}")


def test_the_fingerprint_knows_the_parts_and_is_the_old_one_without(toys):
    prints = [planned(toys, parts).data(0).fingerprint for parts in ("none", "none+none", "none+sentences")]
    assert prints[0] == prints[1] != prints[2]
    provenance = planned(toys, "none+sentences").data(0).features["parts"]
    assert set(provenance) == {"text"} and provenance["text"]["cut"] == "sentences"
    assert "parts" not in planned(toys).data(0).features


def test_parts_are_scaled_as_whole_items_are(toys):
    plan = planned(toys, "none+sentences")
    plan.scaling = ("zscore", "zscore")
    found, data = plan.extract(0), plan.data(0)
    items, parts = found["text"].features.matrix, found["text parts"].ragged
    train = np.asarray(items[:20], dtype=np.float64)
    deviation = np.where(train.std(axis=0) > 0, train.std(axis=0), 1)
    for item in range(20):
        expected = (parts[item] - train.mean(axis=0)) / deviation
        assert_allclose(data.train.text_parts[item], expected, rtol=1e-5, atol=1e-5)


def test_a_bundle_carries_parts(toys, tmp_path):
    data = planned(toys, "none+sentences").data(0)
    write_bundle(tmp_path / "bundle.npz", data)
    for part in ("train", "validation", "test"):
        read, given = read_bundle(tmp_path / "bundle.npz", part), getattr(data, part)
        assert read.image_parts is None
        assert_array_equal(read.text_parts.values, given.text_parts.values)
        assert_array_equal(read.text_parts.offsets, given.text_parts.offsets)


# -- the contract of methods ------------------------------------------------------------------------


class Averager(Method):
    """Singular directions of averages of parts, where there are parts."""

    info = MethodInfo(title="Averager", paper="none: for tests", year=2000, supervised=False, parts=True)

    def _mix(self, rows: np.ndarray, parts: Ragged | None) -> np.ndarray:
        if parts is None:
            return rows
        means = [parts[i].mean(axis=0) if len(parts[i]) else 0 * rows[i] for i in range(len(parts))]
        return rows + np.array(means)

    def _fit(self, train, validation, context):
        images, texts = self._mix(train.images, train.image_parts), self._mix(train.texts, train.text_parts)
        left, _, right = np.linalg.svd(images.T @ texts)
        self.image_weights_, self.text_weights_ = left[:, :3], right[:3].T

    def _encode_image(self, images, parts=None):
        return self._mix(images, parts) @ self.image_weights_

    def _encode_text(self, texts, parts=None):
        return self._mix(texts, parts) @ self.text_weights_


class Demanding(Averager):
    """Does nothing without parts."""

    def _fit(self, train, validation, context):
        if train.image_parts is None:
            raise Unsupported("Demanding learns from parts: name some with --parts grid2+sentences")
        super()._fit(train, validation, context)


class Careless(Averager):
    """Forgets that there may be no parts."""

    def _encode_text(self, texts, parts=None):
        return self._mix(texts, replace(parts)) @ self.text_weights_


class Neighbourly(Averager):
    """Looks at the parts of the item before."""

    def _encode_image(self, images, parts=None):
        turned = parts and parts.take(np.roll(np.arange(len(parts)), 1))
        return self._mix(images, turned) @ self.image_weights_


class Idle(Averager):
    """Declares parts and uses none."""

    def _mix(self, rows, parts):
        return rows


class Spoiler(Averager):
    """Writes into the parts."""

    def _encode_image(self, images, parts=None):
        if parts is not None:
            parts.values[:] = 0
        return super()._encode_image(images, parts)


@pytest.mark.parametrize("cls", [Averager, Demanding])
def test_methods_that_use_parts_keep_the_contract(cls):
    check_method(cls)


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        (Careless, "fit on easy data raised|encode raised|encode_text raised"),
        (Neighbourly, "come out differently"),
        (Idle, "the parts make no difference"),
        (Spoiler, "changes the rows it was given|another result"),
    ],
)
def test_the_kit_notices_what_is_wrong_with_parts(cls, words):
    with pytest.raises(ConformanceError, match=words):
        check_method(cls)


def test_a_method_that_learned_from_parts_is_given_the_right_ones():
    data = synthetic_data(parts=True)
    method = Averager().fit(data.train, data.validation, context=FitContext())
    test = data.test
    images, texts = method.encode_pairs(test)
    assert_array_equal(images, method.encode_image(test.images, test.image_parts))
    assert_array_equal(texts, method.encode_text(test.texts, test.text_parts))
    with pytest.raises(InvalidInput, match=r"image parts: .* was fitted with them, and has to be given them"):
        method.encode_image(test.images)
    with pytest.raises(InvalidInput, match="text parts: expected 9 columns, got 12"):
        method.encode_text(test.texts, test.image_parts)
    with pytest.raises(InvalidInput, match="text parts: of 30 items, expected 7"):
        method.encode_text(test.texts[:7], test.text_parts)
    bare = synthetic_data()
    method.fit(bare.train)
    with pytest.raises(InvalidInput, match="was fitted without them, and has to be given none"):
        method.encode_image(test.images, test.image_parts)


def test_synthetic_parts_change_nothing_else():
    plain, cut = synthetic_pairs(40), synthetic_pairs(40, parts=True)
    for name in ("images", "texts", "labels"):
        assert_array_equal(getattr(plain, name), getattr(cut, name))
    assert plain.image_parts is None
    for parts in (cut.image_parts, cut.text_parts):
        assert set(np.diff(parts.offsets)) == {0, 1, 2, 3}
    data = synthetic_data(20, 5, 5, parts=True)
    assert len(data.test.text_parts) == 5 and data.fingerprint != synthetic_data(20, 5, 5).fingerprint
    json.dumps({key: dict(value) for key, value in data.features.items()})
