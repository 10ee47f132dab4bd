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
        for question in questions:
            yield from _argilla(row, question)
    else:
        yield row


def _argilla(row: Row, question: str) -> Iterator[Row]:
    """One answer for each user; drafts and discarded ones are left out."""
    said = _listed(row.get(f"{question}{RESPONSES}"))
    users = _listed(row.get(f"{question}{RESPONSES}.users")) + [None] * len(said)
    status = _listed(row.get(f"{question}{RESPONSES}.status")) + [None] * len(said)
    for value, user, state in zip(said, users, status, strict=False):
        if state in (None, "submitted"):
            yield {**_pictures(row), "answer": _meaning(value), "labeller": user, "time": row.get("updated_at")}


def _label_studio(data: Row, annotations: list[Any]) -> Iterator[Row]:
    """One answer for each annotation that was not cancelled."""
    for one in annotations:
        if not isinstance(one, dict) or one.get("was_cancelled"):
            continue
        for result in _listed(one.get("result")):
            value = result.get("value") if isinstance(result, dict) else None
            if isinstance(value, dict) and ("selected" in value or "choices" in value):
                said = value.get("selected") or next(iter(_listed(value.get("choices"))), None)
                who, when = one.get("completed_by"), one.get("created_at")
                yield {**_pictures(data), "answer": _meaning(said), "labeller": _name(who), "time": when}


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
    return MEANING.get(str(said).strip().lower(), said)


def _name(who: Any) -> str | None:
    """A labeller's name: Label Studio has numbers, or objects with an e-mail address."""
    if isinstance(who, dict):
        who = who.get("email") or who.get("username") or who.get("id")
    return None if who is None else str(who)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
