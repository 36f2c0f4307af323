"""Evaluation protocols: frozen, named, and stored with every number they made."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal, get_args, get_origin, get_type_hints

from xmbench.errors import InvalidParameter, UnknownName


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
            trec_eval) or ``min`` (min(R, K)). They differ only with a cut-off.
        ties: ``expected``: the expected value under a random order of items with equal scores (McSherry
            and Najork, ECIR 2008).
        exclude_query: whether the query item itself is taken out of the image->all and text->all galleries.
        post: what happens to embeddings before they are compared; ``none``.
        selection: which data may choose hyper-parameters and epochs: ``validation``, by the mean of
            image->text and text->image MAP, inside each seed's own split.
        max_scope: precision-scope is computed for K = 1..min(max_scope, gallery).
    """

    name: str
    summary: str
    similarity: Literal["cosine", "l2", "inner"] = "cosine"
    cutoff: int | None = None
    denominator: Literal["relevant", "min"] = "relevant"
    ties: Literal["expected"] = "expected"
    exclude_query: bool = True
    post: Literal["none"] = "none"
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
        return () if self.exclude_query else ("query in gallery",)

    def to_dict(self) -> dict[str, object]:
        """All fields as JSON values."""
        return asdict(self)

    def identity(self) -> dict[str, object]:
        """The fields that can change a number; name and summary cannot."""
        return {key: value for key, value in asdict(self).items() if key not in ("name", "summary")}

    def describe(self) -> str:
        """The protocol in one line, for footers."""
        ranked = (
            "full ranked list" if self.cutoff is None else f"top {self.cutoff}, divided by {self.denominator}"
        )
        gallery = "query excluded from" if self.exclude_query else "query left in"
        return (
            f"{self.name}: MAP over the {ranked}, {self.similarity} similarity, expected value over ties, "
            f"{gallery} all-modal galleries; selection on {self.selection} only"
        )


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
            name="all-modal-with-query",
            summary="As the default, with the query item left in the all-modal galleries, as in the public "
            "evaluation code of CM-GANs and JRL.",
            exclude_query=False,
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
