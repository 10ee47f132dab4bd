"""Records of Argilla and tasks of Label Studio as plain rows: two pictures, an answer, labeller and time.

Argilla       `dataset.records.to_list(flatten=True)`, as JSON: fields `image_0` and `image_1`; a question's answers
              stand in `NAME.responses` with `NAME.responses.users` and `NAME.responses.status`
Label Studio  the export called JSON: `data` with `image_0` and `image_1`, and `annotations` with results of the tag
              Pairwise (`selected`: left or right) or Choices
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ...labels.answers import FIRST, SECOND, TIE

Row = Mapping[str, Any]
WORDS = {
    FIRST: (FIRST, "left", "image_0"),
    SECOND: (SECOND, "right", "image_1"),
    TIE: (TIE, "equal", "no difference"),
}
MEANING = {word: answer for answer, words in WORDS.items() for word in words}
RESPONSES = ".responses"


def plain_rows(row: Row) -> Iterator[Row]:
    """The answers in one record, one row each; other rows are returned unchanged."""
    if isinstance(row.get("annotations"), list) and isinstance(row.get("data"), dict):
        yield from _label_studio(row["data"], row["annotations"])
    elif questions := [key.removesuffix(RESPONSES) for key in row if str(key).endswith(RESPONSES)]:
        yield from _argilla(row, questions)
    else:
        yield row


def _argilla(row: Row, questions: list[str]) -> Iterator[Row]:
    """One answer for each user; drafts and discarded ones are left out.

    Of several questions that one is meant whose answers say which picture is better.
    """
    asked = [one for one in questions if any(_is_known(said) for said in _listed(row.get(f"{one}{RESPONSES}")))]
    for question in asked or questions[:1]:
        said = _listed(row.get(f"{question}{RESPONSES}"))
        users, status = (_as_many(row.get(f"{question}{RESPONSES}.{key}"), len(said)) for key in ("users", "status"))
        for value, user, state in zip(said, users, status, strict=False):
            if state in (None, "submitted"):
                answer = _meaning(value) if len(asked) < 2 else asked  # two questions have two answers: refused
                yield {**_pictures(row), "answer": answer, "labeller": user}


def _label_studio(data: Row, annotations: list[Any]) -> Iterator[Row]:
    """One answer for each annotation that was not cancelled."""
    for one in annotations:
        if not isinstance(one, dict) or one.get("was_cancelled"):
            continue
        values = [result.get("value") for result in _listed(one.get("result")) if isinstance(result, dict)]
        said = [
            _selected(value) for value in values if isinstance(value, dict) and {"selected", "choices"} & value.keys()
        ]
        known = [answer for answer in said if _is_known(answer)] or said
        if known:
            answer = _meaning(known[0]) if len(known) == 1 else known
            who, when = one.get("completed_by"), one.get("created_at")
            yield {**_pictures(data), "answer": answer, "labeller": _name(who), "time": when}


def _selected(value: Row) -> Any:
    """What a result of Pairwise or Choices says; of several choices all of them, which no row may have."""
    if "selected" in value:
        return value["selected"]
    choices = _listed(value["choices"])
    return choices[0] if len(choices) == 1 else choices


def _pictures(fields: Row) -> dict[str, Any]:
    """The two paths, without what Label Studio puts before the path of a local file."""
    paths = (fields.get(f"image_{side}") or fields.get(f"image{side + 1}") for side in (0, 1))
    return {f"image_{side}": _local(path) for side, path in enumerate(paths)}


def _local(path: Any) -> Any:
    if isinstance(path, str) and path.startswith("/data/local-files/"):
        return (parse_qs(urlsplit(path).query).get("d") or [path])[0]
    return path


def _meaning(said: Any) -> Any:
    """The answer of a word; unknown words are returned, and refused later with their row."""
    return MEANING[_word(said)] if _is_known(said) else said


def _is_known(said: Any) -> bool:
    return _word(said) in MEANING


def _word(said: Any) -> str:
    return said.strip().lower() if isinstance(said, str) else ""


def _name(who: Any) -> str | None:
    """A labeller's name: Label Studio has numbers, or objects with an e-mail address."""
    if isinstance(who, dict):
        who = who.get("email") or who.get("username") or who.get("id")
    return None if who is None else str(who)


def _listed(value: Any) -> list[Any]:
    """A list; of one value a list of it."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _as_many(value: Any, count: int) -> list[Any]:
    """What stands beside ``count`` answers; a single value stands beside each."""
    return value + [None] * count if isinstance(value, list) else [value] * count
