"""Faults of values that may be a name or a list: told once, at the place where the user wrote them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from search.spec import JobSpec
from search.spec_faults import SpecFault, explain_validation

SMALLEST: dict[str, Any] = {"teachers": [{"model": "a"}], "student": {"model": "b"}}


def faults(**space: Any) -> list[SpecFault]:
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate({**SMALLEST, "search": {"space": space}})
    return explain_validation(caught.value)


@pytest.mark.parametrize(
    ("connections", "place", "message", "remedy"),
    [
        (["same_dpth"], "0", "must not be 'same_dpth'", "did you mean 'same_depth'"),
        (["last", "al"], "1", "must not be 'al'", "did you mean 'all'"),
        ([[[0, 1]], 7], "1", "must not be 7", "'same_or_deeper' or 'all', or a list"),
        ([None], "0", "must not be null", "use 'none'"),
        ([{"a": 1}], "0", "must not be an object", "or a list"),
        ([[]], "0", "must have at least 1 item", "at least 1"),
        ([[[0, 1, 2]]], "0.0", "must have at most 2 items", "at most 2"),
        ([[["a", 1]]], "0.0.0", "must be a whole number, found the text 'a'", "a whole number"),
        ([[[0, -1]]], "0.0.1", "must be at least 0, found -1", "at least 0"),
        ("all", "", "must be a list, found the text 'all'", 'give a list, such as ["all"]: Which teacher'),
    ],
)
def test_a_wrong_connection_is_one_fault_where_it_was_written(
    connections: Any, place: str, message: str, remedy: str
) -> None:
    (fault,) = faults(connections=connections)
    assert fault.field == f"search.space.connections.{place}".rstrip(".")
    assert fault.message.startswith(message)
    assert remedy in fault.remedy


def test_a_forgotten_bracket_is_told_what_a_list_holds() -> None:
    """Pairs are given where lists of pairs are to be."""
    found = faults(connections=[[0, 1]])
    assert [fault.field for fault in found] == [f"search.space.connections.0.{place}" for place in (0, 1)]
    assert all("a list of pairs [teacher stage, student stage]" in fault.remedy for fault in found)


def test_several_faults_of_one_list_are_all_told() -> None:
    found = faults(connections=["al", [[0, "b"]], "last"])
    assert [fault.field for fault in found] == [
        "search.space.connections.0",
        "search.space.connections.1.0.1",
    ]


def test_a_name_where_a_set_is_expected() -> None:
    (fault,) = faults(distances=["mse"])
    assert fault.field == "search.space.distances.0"
    assert 'such as ["mse"]: Each choice is a set of distances' in fault.remedy
