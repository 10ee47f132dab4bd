"""Tables of answers from elsewhere: each answer once, as it was given, or nothing of the table and a line about why."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mutations import as_json, by_bytes, by_nodes, by_words, from_nothing
from outcomes import INPUTS, outcome
from PIL import Image

from dfusion_core.commands.label.exchange import import_answers
from dfusion_core.errors import LabelError
from dfusion_core.labelling.pictures import Pictures
from dfusion_core.labelling.session import Session, pace
from dfusion_core.labels.answers import read_answers
from dfusion_core.labels.asking import Question
from dfusion_core.labels.content import content_hash
from dfusion_core.labels.listed import Listed

ROW = {"image_0": "a.png", "image_1": "b.png", "answer": "first", "labeller": "ann", "time": "2026-01-02T03:04:05"}
PICTURES = {"image_0": "a.png", "image_1": "b.png"}
ARGILLA = PICTURES | {"b.responses": ["first", "tie"], "b.responses.users": ["u", "v"]}


def annotation(*values: Any, **more: Any) -> dict[str, Any]:
    return {"result": [{"value": value} for value in values], "completed_by": 7, "created_at": "2026-01-02"} | more


def studio(*annotations: Any) -> list[dict[str, Any]]:
    return [{"data": PICTURES, "annotations": list(annotations)}]


def pickapic(first: Any, second: Any, **more: Any) -> list[dict[str, Any]]:
    return [{"caption": "", "jpg_0": "a.png", "jpg_1": "b.png", "label_0": first, "label_1": second} | more]


def table(*rows: dict[str, Any]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


class Place:
    """A session about two pictures of one prompt, with their files beside the table."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.names = []
        for file in ("a.png", "b.png"):
            pixels = random.integers(0, 255, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(file)
            self.names.append(content_hash(pixels))
        asked = Listed([Question("a fox", (self.names[0], self.names[1]))], everybody=False)
        self.session = Session(Path("labels/r00.csv"), asked, dict.fromkeys(self.names, "a fox"), "")

    def take(self, content: Any, name: str = "t.json") -> list[tuple[str, str]]:
        """Import a table; the answers that are in the file then, with who gave them."""
        data = content if isinstance(content, str | bytes) else json.dumps(content)
        Path(name).write_bytes(data if isinstance(data, bytes) else data.encode())
        import_answers(Path(name), self.session, Pictures())
        return self.answers()

    def answers(self) -> list[tuple[str, str]]:
        return [
            (one.answer if one.first == self.names[0] else f"swapped {one.answer}", one.labeller)
            for one in read_answers(self.session.file)
        ]


@pytest.fixture
def place(workspace: Path) -> Place:
    return Place()


TAKEN: dict[str, tuple[Any, str, list[tuple[str, str]]]] = {
    "a BOM": ("\ufeff" + table(ROW), "t.csv", [("first", "ann")]),
    "CRLF": (table(ROW).replace("\n", "\r\n"), "t.CSV", [("first", "ann")]),
    "a line separator of Unicode in a text": (
        json.dumps(ROW | {"prompt": "a\u2028b"}, ensure_ascii=False),
        "t.jsonl",
        [("first", "ann")],
    ),
    "shares": (pickapic(0.2, 0.8), "t.json", [("second", "t")]),
    "a tie": (pickapic("0.5", "0.5"), "t.json", [("tie", "t")]),
    "never answered": (pickapic(0.5, 0.5, has_label=False), "t.json", []),
    "two who are not named": ([PICTURES | {"b.responses": ["first", "first"]}], "t.json", [("first", "t")] * 2),
    "a remark beside the answer": (
        [ARGILLA | {"why.responses": ["nicer\r\n", "so"], "why.responses.users": ["u", "v"]}],
        "t.json",
        [("first", "u"), ("tie", "v")],
    ),
    "one status for all": ([ARGILLA | {"b.responses.status": "draft"}], "t.json", []),
    "a quality beside the answer": (
        studio(annotation({"selected": "right"}, {"choices": ["sharp"]})),
        "t.json",
        [("second", "7")],
    ),
    "an escape code in a name": ([ROW | {"labeller": "\x1b[2Jann"}], "t.json", [("first", "[2Jann")]),
}


@pytest.mark.parametrize("case", TAKEN)
def test_what_a_table_says_is_taken(place: Place, case: str) -> None:
    content, name, answers = TAKEN[case]
    assert place.take(content, name) == answers


REFUSED: dict[str, tuple[Any, str, str]] = {
    "a list for an answer": ([ROW | {"answer": ["first"]}], "t.json", "row 1.*'first'"),
    "an object for an answer": ([ROW | {"answer": {}}], "t.json", "row 1"),
    "another word": ([ROW | {"answer": "left side"}], "t.json", "row 1.*left side"),
    "no answer": ([ROW | {"answer": None}], "t.json", "row 1.*no answer"),
    "labels that both lose": (pickapic(0, 0), "t.json", r"row 1.*\(0, 0\)"),
    "grades": (pickapic(5, 3), "t.json", r"row 1.*\(5, 3\)"),
    "a label that is NaN": (pickapic("nan", "0"), "t.json", "row 1.*nan"),
    "NaN of JSON": (pickapic(float("nan"), 0), "t.json", "NaN"),
    "a label beyond numbers": (pickapic(10**400, 0), "t.json", "row 1"),
    "an answer and other labels": ([ROW | {"label_0": 0, "label_1": 1}], "t.json", "row 1.*second"),
    "two questions": ([ARGILLA | {"c.responses": ["second"]}], "t.json", "row 1.*'b', 'c'"),
    "several choices": (studio(annotation({"choices": ["left", "right"]})), "t.json", "row 1.*'left', 'right'"),
    "two results": (studio(annotation({"selected": "left"}, {"choices": ["second"]})), "t.json", "row 1"),
    "a key twice": (
        '[{"image_0": "a.png", "image_1": "b.png", "answer": "first", "answer": "tie"}]',
        "t.json",
        "twice",
    ),
    "a column twice": ("image_0,image_1,answer,answer\na.png,b.png,first,tie\n", "t.csv", "line 1.*twice"),
    "a cell too many": (table(ROW) + "a.png,b.png,tie,ann,2026-01-02,more\n", "t.csv", "line 3"),
    "semicolons": (table(ROW).replace(",", ";"), "t.csv", "row 1.*paths"),
    "another encoding": (table(ROW).encode("utf-16"), "t.csv", "utf-8"),
    "depth": ("[" * 100_000, "t.json", "deep"),
    "a device": ([ROW | {"image_0": "/dev/zero"}], "t.json", "row 1.*/dev/zero"),
    "half a character in a path": ('[{"image_0": "\\ud800", "image_1": "b.png", "answer": "tie"}]', "t.json", "row 1"),
    "no time": ([ROW | {"time": "yesterday"}], "t.json", "row 1.*yesterday"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_clear_is_refused_and_nothing_is_taken(place: Place, case: str) -> None:
    content, name, said = REFUSED[case]
    with pytest.raises(LabelError, match=f"(?s)--import: .*{said}"):
        place.take(content, name)
    with pytest.raises(LabelError):  # also behind a row that is good
        place.take([ROW, ROW | {"answer": "?"}])
    assert place.answers() == []


def test_an_answer_is_taken_once_however_often_it_is_exported(place: Place) -> None:
    """In a later export it stands in another row, beside new ones."""
    old = ROW | {"labeller": "bob", "time": ""}
    assert place.take([ROW, old]) == [("first", "ann"), ("first", "bob")]
    new = ROW | {"answer": "second", "labeller": "eve"}
    assert place.take([new, old, ROW]) == [("first", "ann"), ("first", "bob"), ("second", "eve")]
    assert place.take([ARGILLA]) == place.take([ARGILLA | {"updated_at": "2027-01-01"}])


def test_long_names_stay_different(place: Place) -> None:
    long = "x" * 50
    (_, first), (_, second) = place.take([ROW | {"labeller": f"{long}1"}, ROW | {"labeller": f"{long}2"}])
    assert first != second and max(len(first), len(second)) <= 40


def test_times_with_and_without_a_zone_have_a_pace(place: Place) -> None:
    place.take([ROW, ROW | {"time": "2026-01-02T03:04:15Z"}])
    assert pace([one.time for one in read_answers(place.session.file)]) == 10
    assert pace(["2026-01-02T03:04:05", "by hand", "2026-01-02T03:04:09+00:00"]) == 4


VALID: dict[str, tuple[bytes, list[Callable[..., bytes]]]] = {
    "t.csv": (table(ROW, ROW | {"answer": "tie"}).encode(), [by_bytes, by_words, from_nothing]),
    "t.jsonl": (json.dumps(ROW).encode(), [by_bytes, by_words, from_nothing, by_nodes(as_json)]),
    "argilla.json": (json.dumps([ARGILLA]).encode(), [by_bytes, by_words, *[by_nodes(as_json)] * 3]),
    "studio.json": (
        json.dumps(studio(annotation({"selected": "left"}))).encode(),
        [by_bytes, *[by_nodes(as_json)] * 3],
    ),
    "pickapic.json": (json.dumps(pickapic(1, 0)).encode(), [by_bytes, *[by_nodes(as_json)] * 3]),
}


@pytest.mark.few(2)
@pytest.mark.parametrize("name", VALID)
def test_broken_tables(place: Place, name: str) -> None:
    valid, ways = VALID[name]
    counts = {"read": 0, "refused": 0}
    wrong = []
    for number in range(INPUTS):
        rng = random.Random(f"{name} {number}")
        broken = rng.choice(ways)(rng, valid)
        Path(name).write_bytes(broken)
        found = outcome(lambda: import_answers(Path(name), place.session, Pictures()), r"^--import: ")
        if found in counts:
            counts[found] += 1
        else:
            wrong.append(f"{number}: {found}\n    {broken[:300]!r}")
    assert not wrong, "\n".join(wrong[:20])
    assert counts["refused"] > INPUTS / 8
    assert all(answer.removeprefix("swapped ") in ("first", "second", "tie") for answer, _ in place.answers())
