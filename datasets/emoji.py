"""Emoji: 1,249 drawings with their names and keywords in seven classes; shipped with xmbench."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from xmbench._io import file_digest, read_npz
from xmbench.data import Corpus, Dataset, DatasetCard, Split, draw
from xmbench.errors import CorruptData, MissingData, Unsupported

FILE = Path(__file__).with_suffix(".npz")


def _grouped(corpus: Corpus, seed: int) -> Split:
    """80 % training, 10 % validation, 10 % test, by class; near-duplicates stay on one side."""
    test, validation, train = draw(corpus, np.arange(len(corpus)), seed, [0.1, 0.1], grouped=True)
    return Split("grouped", seed, train, validation, test)


class Emoji(Dataset):
    """Reads ``emoji.npz`` beside this module; ``scripts/build_emoji.py`` makes that file and says how."""

    card = DatasetCard(
        title="Emoji",
        source="shipped with xmbench; made from the npm packages emoji-datasource-google 16.0.0 "
        "(https://www.npmjs.com/package/emoji-datasource-google/v/16.0.0) and cldr-annotations-full 48.2.0 "
        "(https://www.npmjs.com/package/cldr-annotations-full/v/48.2.0)",
        licence="drawings Apache-2.0 (Noto Emoji, by Google and contributors); list and categories MIT "
        "(Cal Henderson); names and keywords Unicode-3.0 (Unicode, Inc.); full notices in LICENSES/",
        citation="Noto Emoji v2.048, https://github.com/googlefonts/noto-emoji; Unicode CLDR 48.2 annotations, "
        "https://cldr.unicode.org; emoji-data 16.0.0, https://github.com/iamcal/emoji-data",
        layout=(),
        pairs=1249,
        image_text="64-pixel drawings of emoji (shipped as features only), each with its English name and "
        "keywords, 7 words in the median",
        defects=(
            "drawings with keywords: no substitute for photographs with sentences, and no paper's data",
            "classes are Unicode's own categories, made for a keyboard: hearts and speech bubbles are Smileys & "
            "Emotion, umbrella, watch and fire are Travel & Places, a baby bottle is Food & Drink",
            "flags (all of one look and one word), symbols (signs and letters) and components are left out, and "
            "so are skin tones, spellings with a female or male sign and emoji without a name of their own",
            "words that name a class are cut from all texts; words that merely suggest one (smile, hand, "
            "building) are not",
            "near-duplicates (clock faces, moon phases, man and woman) stay in the data and in one group; yellow "
            "faces of different groups are still much alike",
            "classes are uneven, from 85 (Activities) to 264 (Objects)",
            "texts are short: about one in fifteen has none of the 1,000 words of tfidf and is a zero row",
        ),
        embedded=True,
    )
    stored: ClassVar = {
        "image": {
            "lite0": "1280 pooled outputs of EfficientNet-lite0 for the 64-pixel drawing on white, in half precision"
        }
    }
    features = "lite0+tfidf"
    scalings: ClassVar = {"lite0": "l2_center_scale"}
    splits: ClassVar = {"grouped": _grouped}

    def load(self, data_dir: Path, image: str, text: str) -> Corpus:
        """Read the embedded file, whatever ``data_dir`` is; see :meth:`xmbench.data.Dataset.load`."""
        if image != "lite0":
            raise Unsupported(
                f"emoji ships its drawings as lite0 features only, no image files; got {image!r}"
            )
        if text != "raw":
            raise Unsupported(f"emoji stores no text features, only texts; got {text!r}")
        try:
            arrays = read_npz(FILE)
            lines = {name: _lines(arrays[name]) for name in ("texts", "class_names", "ids", "groups")}
            images, labels = arrays["lite0"], arrays["labels"].astype(np.int64)
        except FileNotFoundError as error:
            raise MissingData(
                f"{FILE.name} is missing from the installation; install xmbench again"
            ) from error
        except (ValueError, KeyError) as error:
            raise CorruptData(f"{FILE.name} is damaged ({error}); install xmbench again") from error
        groups = lines["groups"]
        return Corpus(
            name="emoji",
            images=images,
            texts=lines["texts"],
            labels=labels,
            class_names=lines["class_names"],
            ids=lines["ids"],
            groups=groups,
            digest=file_digest(FILE),
            notes=(f"{len(set(groups))} groups, the largest of {max(map(groups.count, set(groups)))}",),
        )


def _lines(array: NDArray[Any]) -> tuple[str, ...]:
    """The strings of an array of UTF-8 bytes with a newline between them."""
    return tuple(array.tobytes().decode().split("\n"))


DATASET = Emoji
