"""The page's server: what it answers, what it stores, and whom it refuses."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dfusion_core.errors import LabelError
from dfusion_core.labelling.client import answer_all, careless, oracle
from dfusion_core.labelling.pictures import png
from dfusion_core.labelling.server import LabelServer
from dfusion_core.labelling.serving import served
from dfusion_core.labelling.session import GUESS, Session, pace
from dfusion_core.labels.answers import read_answers
from dfusion_core.labels.asking import Informative, enough
from dfusion_core.labels.content import content_hash
from dfusion_core.models.builtin import draw_prompt

HOSTILE = '<img src=x onerror=alert(1)> & "heart"'
LEVELS = {prompt: [40 * n + 10 * p for n in range(4)] for p, prompt in enumerate(["a heart", HOSTILE])}
PICTURES = {
    content_hash(one): one
    for levels in LEVELS.values()
    for one in (np.full((8, 8, 3), level, np.uint8) for level in levels)
}
GROUPS = {
    prompt: [content_hash(np.full((8, 8, 3), level, np.uint8)) for level in levels] for prompt, levels in LEVELS.items()
}


def make_session(file: Path) -> Session:
    prompts = {name: prompt for prompt, names in GROUPS.items() for name in names}
    return Session(file, Informative(GROUPS, seed=0), prompts, "test session", orders=True)


@pytest.fixture
def server(workspace: Path) -> Iterator[LabelServer]:
    with served(
        make_session(workspace / "labels/r00.csv"), lambda name: png(PICTURES[name]) if name in PICTURES else None
    ) as found:
        yield found


def ask(server: LabelServer, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes, Any]:
    """Status, body and headers of one request, with the token unless another one is given."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"X-Token": server.token, "Content-Type": "application/json"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, data, sent)
    answer = connection.getresponse()
    return answer.status, answer.read(), answer.headers


def post(server: LabelServer, path: str, **body: Any) -> dict[str, Any]:
    status, data, _ = ask(server, "POST", path, {"labeller": "ann"} | body)
    assert status == 200, data
    found: dict[str, Any] = json.loads(data)
    return found


def reply(server: LabelServer, question: dict[str, Any], said: str = "first", **more: Any) -> dict[str, Any]:
    return post(server, "/answer", id=question["id"], pictures=question["pictures"], answer=said, **more)


def brighter(prompt: str, first: np.ndarray, second: np.ndarray) -> str:
    return "first" if first.mean() > second.mean() else "second"


def test_an_answer_is_on_disk_before_the_next_is_shown(server: LabelServer) -> None:
    question = post(server, "/next")["question"]
    assert len(question["pictures"]) == 2 and question["prompt"] in GROUPS
    state = reply(server, question, "tie")
    stored = read_answers(server.session.file)[0]
    assert (stored.labeller, stored.answer, stored.prompt) == ("ann", "tie", question["prompt"])
    assert [stored.first, stored.second] == question["pictures"]
    assert state["done"] == 1 and state["question"]["id"] != question["id"]


def test_the_same_answer_twice_counts_once(server: LabelServer) -> None:
    question = post(server, "/next")["question"]
    reply(server, question)
    assert reply(server, question, "second")["done"] == 1
    assert [one.answer for one in read_answers(server.session.file)] == ["first"]


def test_undo_asks_again(server: LabelServer) -> None:
    question = post(server, "/next")["question"]
    reply(server, question)
    state = post(server, "/undo")
    assert state["question"]["pictures"] == question["pictures"] and state["done"] == 0
    assert reply(server, state["question"], "second")["done"] == 1
    assert [one.answer for one in read_answers(server.session.file)] == ["second"]
    assert post(server, "/undo", labeller="bob")["done"] == 1  # nobody takes back what another one said


def test_a_row_in_order_is_a_line_for_each_two_neighbours(server: LabelServer) -> None:
    question = post(server, "/next", kind="order")["question"]
    best_first = sorted(question["pictures"], key=lambda name: -PICTURES[name].mean())
    state = reply(server, question | {"pictures": best_first}, kind="order")
    lines = read_answers(server.session.file)
    assert [(one.first, one.second) for one in lines] == list(zip(best_first, best_first[1:], strict=False))
    assert state["done"] == len(best_first) - 1
    assert post(server, "/undo", kind="order")["question"]["pictures"] == best_first
    assert read_answers(server.session.file) == []


def test_two_tabs_are_shown_different_pairs(server: LabelServer) -> None:
    first, second = (post(server, "/next")["question"]["pictures"] for _ in range(2))
    assert set(first) != set(second)


def test_many_labellers_at_once_lose_nothing(server: LabelServer) -> None:
    given: list[int] = []
    threads = [
        threading.Thread(target=lambda who=who: given.append(answer_all(server.address, who, brighter)))
        for who in ("ann", "bob", "eve")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers = read_answers(server.session.file)
    assert len(answers) == sum(given) >= sum(enough(len(names)) for names in GROUPS.values())
    assert all(brighter("", PICTURES[one.first], PICTURES[one.second]) == one.answer for one in answers)


def test_a_new_server_goes_on_under_the_same_address(workspace: Path) -> None:
    file = workspace / "labels/r00.csv"
    with served(make_session(file), lambda name: None) as before:
        question = post(before, "/next")["question"]
        token = before.token
    with served(make_session(file), lambda name: None) as after:
        assert after.token == token
        assert reply(after, question)["done"] == 1  # asked by the one, answered to the other


@pytest.mark.parametrize(
    "headers, status",
    [
        ({"X_Token": "wrong"}, 403),
        ({"X_Token": ""}, 403),
        ({"X_Token": "ü"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:80@127.0.0.1"}, 200),
        ({"Host": "["}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Content_Type": "text/plain"}, 411),
        ({"Content_Length": "-1"}, 411),
        ({}, 200),
    ],
)
def test_who_is_refused(server: LabelServer, headers: dict[str, str], status: int) -> None:
    if headers.get("X_Token") == "ü":
        headers = {"X_Token": "ü".encode().decode("latin-1")}
    found, _, answer = ask(server, "POST", "/next", {"labeller": "ann"}, **headers)
    assert found == status
    assert "default-src 'none'" in answer["Content-Security-Policy"]
    assert not server.session.file.exists()


def test_through_a_tunnel_the_port_is_another_one(server: LabelServer) -> None:
    tunnel = {"Host": "localhost:9000", "Origin": "http://localhost:9000"}
    assert ask(server, "POST", "/next", {"labeller": "ann"}, **tunnel)[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/picture/../../params.yaml",
        "/picture/%2e%2e%2fparams.yaml",
        "/picture/" + "0" * 32,
        "/picture//etc/passwd",
        "/labels/r00.csv",
        "/picture/" + "a" * 32 + "/../x",
    ],
)
def test_there_is_no_way_to_a_file(server: LabelServer, path: str) -> None:
    assert ask(server, "GET", path)[0] == 404


def test_pictures_are_had_by_their_hash(server: LabelServer) -> None:
    name = next(iter(PICTURES))
    status, data, headers = ask(server, "GET", f"/picture/{name}?token={server.token}", X_Token="")
    assert status == 200 and data[:4] == b"\x89PNG" and headers["Content-Type"] == "image/png"
    assert ask(server, "GET", f"/picture/{name}", X_Token="")[0] == 403


def test_the_page_loads_nothing_and_holds_no_prompt(server: LabelServer) -> None:
    status, data, headers = ask(server, "GET", f"/?token={server.token}", X_Token="")
    page = data.decode()
    assert status == 200 and "@" not in page.split("<style", 1)[0]
    assert 'src="http' not in page and 'href="http' not in page and "onclick" not in page
    nonce = page.split('<script nonce="')[1].split('"')[0]
    assert f"script-src 'nonce-{nonce}'" in headers["Content-Security-Policy"]
    assert ask(server, "GET", "/")[1] != data  # each has a nonce of its own
    question = post(server, "/next", kind="pair")
    assert json.dumps(question).count("<img") == (question["question"]["prompt"] == HOSTILE)  # as JSON, never as HTML


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b"[]",
        b"[" * 60_000,
        {"labeller": ""},
        {"labeller": "x" * 41},
        {"labeller": 7},
        {"labeller": "a\x1b[31m"},
    ],
)
def test_nonsense_is_refused(server: LabelServer, body: Any) -> None:
    assert ask(server, "POST", "/next", body)[0] == 400


@pytest.mark.parametrize(
    "change",
    [
        {"pictures": ["0" * 32, "1" * 32]},
        {"pictures": "ab"},
        {"pictures": []},
        {"answer": "undo"},
        {"answer": "maybe"},
        {"id": "../x"},
        {"id": 5},
        {"pictures": [GROUPS["a heart"][0]] * 2},
        {"pictures": [{}, []]},
        {"pictures": [GROUPS["a heart"][0], GROUPS[HOSTILE][0]]},
    ],
)
def test_an_answer_to_no_question_is_refused(server: LabelServer, change: dict[str, Any]) -> None:
    body = {"labeller": "ann", "id": "0123456789abcdef", "pictures": GROUPS["a heart"][:2], "answer": "first"}
    assert ask(server, "POST", "/answer", body | change)[0] == 400
    assert not server.session.file.exists()
    assert ask(server, "POST", "/answer", body)[0] == 200


def test_ten_megabytes_of_junk_are_not_read(server: LabelServer) -> None:
    with socket.create_connection(server.server_address[:2], timeout=10) as raw:
        raw.sendall(
            f"POST /answer HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Token: {server.token}\r\n"
            "Content-Type: application/json\r\nContent-Length: 10485760\r\n\r\n".encode()
        )
        assert b" 413 " in raw.recv(1000)  # before a byte of it was sent
    assert post(server, "/next")["question"]


def test_a_damaged_file_of_answers_is_said_and_nothing_is_written(server: LabelServer) -> None:
    question = post(server, "/next")["question"]
    server.session.file.parent.mkdir()
    server.session.file.write_text("no answers\n")
    status, said, _ = ask(
        server,
        "POST",
        "/answer",
        {"labeller": "ann", "id": question["id"], "pictures": question["pictures"], "answer": "first"},
    )
    assert status == 500 and server.session.file.name.encode() in said
    assert server.session.file.read_text() == "no answers\n"


def test_the_oracle_prefers_what_the_prompt_says() -> None:
    prefers, prompt = oracle(), "a red and striped heart"
    right, wrong = draw_prompt(prompt), draw_prompt("a blue and dotted square")
    assert [prefers(prompt, right, wrong), prefers(prompt, wrong, right), prefers(prompt, right, right)] == [
        "first",
        "second",
        "tie",
    ]
    for stranger in (("a man on the moon", right), (prompt, right[:16, :16])):
        with pytest.raises(LabelError, match="micro-world"):
            prefers(stranger[0], stranger[1], stranger[1])


def test_a_careless_labeller_turns_a_share_of_the_answers_round() -> None:
    picture = np.zeros((2, 2, 3), np.uint8)
    prefers = careless(lambda *_: "first", 0.15)
    answers = [prefers("", picture, picture) for _ in range(2000)]
    assert set(answers) == {"first", "second"} and 0.12 < answers.count("second") / 2000 < 0.18
    assert {careless(lambda *_: "tie", 1.0)("", picture, picture)} == {"tie"}


def test_a_port_that_is_taken(server: LabelServer) -> None:
    with pytest.raises(LabelError, match="--port"):
        LabelServer(server.session, lambda name: None, "t", "127.0.0.1", server.server_address[1])


def test_the_pace_leaves_pauses_out() -> None:
    times = [f"2026-01-01T10:00:{second:02}+00:00" for second in (0, 3, 6, 9)] + ["2026-01-01T12:00:00+00:00"]
    assert pace(times) == 3.0
    assert pace(times[:1]) == pace([]) == GUESS
