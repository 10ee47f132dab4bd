"""Records of other labelling programs, in the form in which they export them."""

from __future__ import annotations

from typing import Any

import pytest

from dfusion_core.commands.label.foreign import plain_rows

PICTURES = {"prompt": "a fox", "image_0": "p/a.png", "image_1": "p/b.png"}
ARGILLA = {
    **PICTURES,
    "id": "1",
    "status": "completed",
    "_server_id": None,
    "better.responses": ["first", "second", "tie", "first"],
    "better.responses.users": ["ann", "bob", "eve", "joe"],
    "better.responses.status": ["submitted", "draft", "submitted", "discarded"],
    "better.suggestion": "second",
}


def annotation(value: dict[str, Any], **more: Any) -> dict[str, Any]:
    result = {"from_name": "better", "to_name": "left,right", "type": "pairwise", "value": value}
    return {"id": 1, "result": [result], "was_cancelled": False, "completed_by": 7, "created_at": "2026-01-01"} | more


def said(row: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [(one["image_0"], one["image_1"], one["answer"], one["labeller"]) for one in plain_rows(row)]


def test_argilla_has_an_answer_of_each_user_who_submitted_one() -> None:
    assert said(ARGILLA) == [("p/a.png", "p/b.png", "first", "ann"), ("p/a.png", "p/b.png", "tie", "eve")]


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ({"selected": "left"}, "first"),
        ({"selected": "right"}, "second"),
        ({"choices": ["tie"]}, "tie"),
        ({"choices": ["blue"]}, "blue"),
    ],
)
def test_label_studio(value: dict[str, Any], answer: str) -> None:
    """A word that means no answer is left as it is, and refused where rows are read."""
    local = {name: f"/data/local-files/?d={path}" for name, path in PICTURES.items() if name != "prompt"}
    task = {
        "id": 1,
        "data": PICTURES | local,
        "annotations": [annotation(value), annotation(value, was_cancelled=True)],
    }
    assert said(task) == [("p/a.png", "p/b.png", answer, "7")]


def test_label_studio_with_names_of_its_templates_and_of_people() -> None:
    data = {"image1": "a.png", "image2": "b.png"}
    task = {"data": data, "annotations": [annotation({"selected": "left"}, completed_by={"id": 1, "email": "a@b.c"})]}
    assert said(task) == [("a.png", "b.png", "first", "a@b.c")]
    assert said({"data": data, "annotations": [{"result": [{"type": "rating", "value": {"rating": 3}}]}, 3]}) == []


def test_a_row_of_ones_own_is_left_alone() -> None:
    row = {**PICTURES, "answer": "first", "labeller": "ann"}
    assert list(plain_rows(row)) == [row]
