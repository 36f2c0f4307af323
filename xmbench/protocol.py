"""Evaluation protocols: frozen, named, and stored with every number they made."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal, get_args, get_origin, get_type_hints

from xmbench.errors import InvalidParameter, UnknownName

_TIES = {
    "index": "in the order of the gallery",
    "reverse_index": "against the order of the gallery",
    "optimistic": "with relevant ones first",
    "pessimistic": "with relevant ones last",
}


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How embeddings become scores. Metrics take one of these and no loose switches.

    Args:
        name: what the protocol is called.
        summary: one sentence for tables and lists: what it does, who used it.
        similarity: ``cosine`` (a zero row has similarity 0 to everything), ``l2`` (negated squared
            Euclidean distance) or ``inner``.
        cutoff: length K of the ranked list that average precision looks at; None for the full list.
        denominator: what the precisions at relevant ranks are divided by: ``relevant`` (R, as in
            trec_eval), ``min`` (min(R, K)) or ``hits`` (the relevant items among the first K; 0 / 0 is 0).
            They differ only with a cut-off, by up to R / hits.
        ties: how items with equal scores are ordered. ``expected``: the expected value under a random order
            (McSherry and Najork, ECIR 2008); ``index`` and ``reverse_index``: in the order of the gallery, or
            against it; ``optimistic`` and ``pessimistic``: relevant ones first, or last.
        exclude_query: whether the query item itself is taken out of the image->all and text->all galleries.
        post: what happens to embeddings before they are compared: ``none``; ``test_zscore``: each modality
            loses its mean and is divided by its deviation, dimension by dimension, both taken from the test
            items themselves; ``query_zscore``: the queries alone are treated so.
        selection: which data may choose hyper-parameters and epochs: ``validation``, by the mean of
            image->text and text->image MAP, inside each seed's own split.
        max_scope: precision-scope is computed for K = 1..min(max_scope, gallery).
    """

    name: str
    summary: str
    similarity: Literal["cosine", "l2", "inner"] = "cosine"
    cutoff: int | None = None
    denominator: Literal["relevant", "min", "hits"] = "relevant"
    ties: Literal["expected", "index", "reverse_index", "optimistic", "pessimistic"] = "expected"
    exclude_query: bool = True
    post: Literal["none", "test_zscore", "query_zscore"] = "none"
    selection: Literal["validation"] = "validation"
    max_scope: int = 1000

    def __post_init__(self) -> None:
        for field, annotation in get_type_hints(type(self)).items():
            value, allowed = getattr(self, field), get_args(annotation)
            if get_origin(annotation) is Literal:
                valid = value in allowed
            else:
                valid = type(value) in (allowed or (annotation,))  # exact: True is no cut-off
            if not valid:
                expected = ", ".join(
                    getattr(kind, "__name__", str(kind)) for kind in allowed or (annotation,)
                )
                raise InvalidParameter(
                    f"protocol {self.name!r}: {field} must be of {expected}; got {value!r}"
                )
        if self.cutoff is not None and self.cutoff < 1:
            raise InvalidParameter(f"protocol {self.name!r}: cutoff must be at least 1, got {self.cutoff}")
        if self.max_scope < 1:
            raise InvalidParameter(
                f"protocol {self.name!r}: max_scope must be at least 1, got {self.max_scope}"
            )

    @property
    def flags(self) -> tuple[str, ...]:
        """What a reader must be warned of wherever a number of this protocol is shown."""
        marks = [] if self.exclude_query else ["the query left in its all-modal gallery"]
        if self.post != "none":
            marks.append("embeddings changed by statistics of the test set")
        if self.ties != "expected":
            marks.append(f"tied items {_TIES[self.ties]}")
        return tuple(marks)

    def to_dict(self) -> dict[str, object]:
        """All fields as JSON values."""
        return asdict(self)

    def identity(self) -> dict[str, object]:
        """The fields that can change a number; name and summary cannot."""
        return {key: value for key, value in asdict(self).items() if key not in ("name", "summary")}

    def describe(self, selection: bool = True) -> str:
        """The protocol in one line, for footers; without ``selection`` for embeddings from elsewhere."""
        ranked = (
            "full ranked list" if self.cutoff is None else f"top {self.cutoff}, divided by {self.denominator}"
        )
        gallery = "query excluded from" if self.exclude_query else "query left in"
        ties = "expected value over ties" if self.ties == "expected" else f"tied items {_TIES[self.ties]}"
        post = "" if self.post == "none" else f"{self.post.replace('_', ' ')} before comparison, "
        return (
            f"{self.name}: {post}MAP over the {ranked}, {self.similarity} similarity, {ties}, "
            f"{gallery} all-modal galleries"
        ) + (f"; selection on {self.selection} only" if selection else "")


DEFAULT = Protocol(
    name="default",
    summary="MAP over the full ranked list, cosine; the protocol of the leaderboards.",
)

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        DEFAULT,
        Protocol(
            name="l2",
            summary="As the default, with Euclidean distance.",
            similarity="l2",
        ),
        Protocol(
            name="inner",
            summary="As the default, with the inner product: JRL's own similarity, where embeddings are class "
            "posteriors.",
            similarity="inner",
        ),
        Protocol(
            name="map@50-hits-l2",
            summary="MAP over the first 50 divided by the hits among them, Euclidean distance: what the code "
            "released with ACMR computes; not the full-list figure that its tables may be read as.",
            similarity="l2",
            cutoff=50,
            denominator="hits",
        ),
        Protocol(
            name="map@50-r",
            summary="MAP over the first 50 divided by all relevant items, as trec_eval defines a cut-off.",
            cutoff=50,
        ),
        Protocol(
            name="test-zscore",
            summary="As the default, after z-scoring each modality with statistics of the test items: the "
            "evaluation code released with CMDN and CCL. It aligns the modalities with test data.",
            post="test_zscore",
        ),
        Protocol(
            name="query-zscore",
            summary="As the default, after z-scoring the queries alone with statistics of the test items: the "
            "bi-modal evaluation code released with CM-GANs.",
            post="query_zscore",
        ),
        Protocol(
            name="all-modal-with-query",
            summary="As the default, with the query item left in the all-modal galleries, as in the public "
            "evaluation code of CM-GANs and JRL.",
            exclude_query=False,
        ),
        Protocol(
            name="trec",
            summary="As the default, with tied items against the order of the gallery: what trec_eval makes of "
            "a run whose document numbers follow the gallery (it sorts ties by descending number).",
            ties="reverse_index",
        ),
    )
}


def protocol(name: str) -> Protocol:
    """The protocol called ``name``.

    Raises:
        UnknownName: there is none.
    """
    if name not in PROTOCOLS:
        raise UnknownName("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]
