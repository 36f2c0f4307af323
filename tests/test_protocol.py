"""Protocols: immutable, told apart by what can change a number, and strict about their values."""

from __future__ import annotations

import dataclasses
import json

import pytest

from xmbench.errors import InvalidParameter, UnknownName
from xmbench.protocol import DEFAULT, PROTOCOLS, Protocol, protocol

# Another valid value for every field that has one.
OTHER = {
    "name": "other",
    "summary": "Another sentence.",
    "similarity": "inner",
    "cutoff": 50,
    "denominator": "min",
    "ties": "index",
    "post": "test_zscore",
    "exclude_query": False,
    "max_scope": 10,
}


def test_a_protocol_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        DEFAULT.cutoff = 5
    assert len({DEFAULT, dataclasses.replace(DEFAULT)}) == 1


def test_names_are_unique_and_equal_the_keys():
    assert {known.name for known in PROTOCOLS.values()} == set(PROTOCOLS)
    assert all(key == known.name for key, known in PROTOCOLS.items())
    assert PROTOCOLS["default"] is DEFAULT


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_is_found_by_its_name(name):
    assert protocol(name) is PROTOCOLS[name]


def test_an_unknown_name_comes_with_a_suggestion():
    with pytest.raises(UnknownName, match=r"unknown protocol 'defualt'; did you mean default\?"):
        protocol("defualt")
    with pytest.raises(UnknownName, match=r"known: all-modal-with-query, default, inner, l2"):
        protocol("zzz")


@pytest.mark.parametrize("field", OTHER)
def test_identity_ignores_name_and_summary_and_nothing_else(field):
    changed = dataclasses.replace(DEFAULT, **{field: OTHER[field]})
    assert changed != DEFAULT
    assert (changed.identity() == DEFAULT.identity()) == (field in ("name", "summary"))


def test_identity_has_every_other_field():
    fields = {field.name for field in dataclasses.fields(Protocol)}
    assert set(DEFAULT.identity()) == fields - {"name", "summary"}


def test_registered_protocols_differ_in_more_than_their_names():
    identities = [json.dumps(known.identity(), sort_keys=True) for known in PROTOCOLS.values()]
    assert len(set(identities)) == len(PROTOCOLS)


@pytest.mark.parametrize("known", PROTOCOLS.values(), ids=PROTOCOLS)
def test_a_protocol_survives_json(known):
    assert Protocol(**json.loads(json.dumps(known.to_dict()))) == known


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("similarity", "euclid"),
        ("similarity", None),
        ("denominator", "found"),
        ("ties", "random"),
        ("ties", None),
        ("post", "center"),
        ("selection", "test"),
        ("cutoff", 0),
        ("cutoff", -1),
        ("cutoff", 2.5),
        ("cutoff", True),
        ("cutoff", "5"),
        ("max_scope", 0),
        ("max_scope", 2.5),
        ("max_scope", None),
        ("exclude_query", "no"),
    ],
)
def test_bad_values_are_refused_with_the_field_and_the_value(field, value):
    with pytest.raises(InvalidParameter, match=field) as caught:
        dataclasses.replace(DEFAULT, **{field: value})
    assert str(value) in str(caught.value)


def test_describe_is_one_line_with_the_name():
    for known in PROTOCOLS.values():
        assert known.name in known.describe()
        assert "\n" not in known.describe()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ["full ranked list", "cosine", "query excluded"]),
        ({"similarity": "l2"}, ["l2"]),
        ({"similarity": "inner"}, ["inner"]),
        ({"cutoff": 50}, ["50", "relevant"]),
        ({"cutoff": 50, "denominator": "min"}, ["50", "min"]),
        ({"exclude_query": False}, ["query left in"]),
        ({"ties": "index"}, ["tied items in the order of the gallery"]),
        ({"ties": "reverse_index"}, ["tied items against the order of the gallery"]),
        ({"ties": "optimistic"}, ["tied items with relevant ones first"]),
        ({"ties": "pessimistic"}, ["tied items with relevant ones last"]),
    ],
)
def test_describe_names_what_differs(changes, words):
    line = dataclasses.replace(DEFAULT, **changes).describe()
    assert all(word in line for word in words)
    assert (line == DEFAULT.describe()) == (not changes)


def test_what_a_reader_must_be_warned_of_is_flagged():
    for known in PROTOCOLS.values():
        assert any("query" in flag for flag in known.flags) == (not known.exclude_query)
        assert any("test set" in flag for flag in known.flags) == (known.post != "none")
        assert any("tied items" in flag for flag in known.flags) == (known.ties != "expected")
