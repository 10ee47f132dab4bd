"""`dfusion export --push`: what a server that speaks the Hub's protocol gets, and what goes wrong on the way."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dfusion_core.commands.export.pushing import push
from dfusion_core.errors import ExportError

ROOT = Path(__file__).parents[2]


class Hub(BaseHTTPRequestHandler):
    """Creating a repository, and a commit with small files in it and large ones stored beside, as git-lfs does."""

    protocol_version = "HTTP/1.1"
    created: list[dict[str, Any]]
    stored: dict[str, bytes]  # large files by their sha256
    commits: list[list[dict[str, Any]]]
    cards: list[str]
    status = 200

    def log_message(self, *_: Any) -> None:
        pass

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def do_PUT(self) -> None:  # noqa: N802 - the name is http.server's
        self.stored[self.path.rpartition("/")[2]] = self.body()
        self.answer({})

    def do_POST(self) -> None:  # noqa: N802
        body, path = self.body(), self.path.partition("?")[0]
        if self.headers.get("Authorization") != "Bearer hf_test" or self.status != 200:
            self.answer({"error": "no"}, 401 if self.status == 200 else self.status)
        elif path == "/api/repos/create":
            self.created.append(json.loads(body))
            self.answer({"url": f"http://{self.headers['Host']}/someone/cats", "name": "someone/cats", "id": "1"})
        elif path == "/api/validate-yaml":
            self.cards.append(json.loads(body)["content"])
            self.answer({"errors": [], "warnings": []})
        elif path == "/api/models/someone/cats/preupload/main":
            self.answer({"files": [self.mode(file) for file in json.loads(body)["files"]]})
        elif path == "/someone/cats.git/info/lfs/objects/batch":
            objects = json.loads(body)["objects"]
            self.answer({"transfer": "basic", "objects": [self.place(one) for one in objects]})
        elif path == "/api/models/someone/cats/commit/main":
            self.commits.append([json.loads(line) for line in body.splitlines()])
            address = f"http://{self.headers['Host']}/someone/cats/commit/{'1' * 40}"
            self.answer({"success": True, "commitOid": "1" * 40, "commitUrl": address})
        else:
            self.answer({"error": f"no such address: {path}"}, 404)

    @staticmethod
    def mode(file: dict[str, Any]) -> dict[str, Any]:
        large = file["path"].endswith((".safetensors", ".png"))
        return {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}

    def place(self, one: dict[str, Any]) -> dict[str, Any]:
        return {**one, "actions": {"upload": {"href": f"http://{self.headers['Host']}/storage/{one['oid']}"}}}

    def answer(self, found: dict[str, Any], status: int = 200) -> None:
        content = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def hub() -> Iterator[tuple[str, type[Hub]]]:
    handler = type("Handler", (Hub,), {"created": [], "stored": {}, "commits": [], "cards": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()


def export(address: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: the Hub's library reads its settings when it is imported."""
    own = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_test"}
    return subprocess.run(
        [sys.executable, "-m", "dfusion_core.commands.cli", "export", "--no-check", "--out", "out", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(Path.cwd() / "hf"), **own, **more},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_one_commit_with_the_files_that_were_written(project: Path, hub: tuple[str, type[Hub]]) -> None:
    address, server = hub
    Path("out").mkdir()
    Path("out/notes.txt").write_text("mine")
    done = export(address, "r01", "--push", "someone/cats")
    assert done.returncode == 0, done.stderr
    assert f"{address}/someone/cats/commit/{'1' * 40}" in done.stdout
    (made,) = server.created
    assert (made["organization"], made["name"]) == ("someone", "cats")
    assert made.get("visibility", "private") == "private" and made.get("private", True)
    (commit,) = server.commits
    found = {}
    for line in commit[1:]:
        value = line["value"]
        large = line["key"] == "lfsFile"
        found[value["path"]] = server.stored[value["oid"]] if large else base64.b64decode(value["content"])
    written = {p.relative_to("out").as_posix(): p.read_bytes() for p in Path("out").rglob("*") if p.is_file()}
    assert written.pop("notes.txt") == b"mine" and found == written
    assert server.cards == [written["README.md"].decode()]
    card = written["README.md"].decode()
    assert '"someone/cats", weight_name' in card and "--push someone/cats" in card and "model-index" in card


@pytest.mark.slow
def test_what_goes_wrong_is_one_line_and_the_folder_stays(project: Path, hub: tuple[str, type[Hub]]) -> None:
    address, server = hub
    done = export(address, "r01", "--push", "someone/cats", HF_TOKEN="hf_other")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "out is written" in done.stderr and "hf auth login" in done.stderr and "--force" in done.stderr
    assert Path("out/README.md").is_file() and not server.commits
    again = export(address, "r01", "--push", "someone/cats", "--public", "--force")
    assert again.returncode == 0 and server.created[-1].get("visibility", "public") == "public"


@pytest.mark.parametrize(("status", "expected"), [(403, "may not write there"), (404, "HF_ENDPOINT")])
def test_refusals(
    workspace: Path, hub: tuple[str, type[Hub]], monkeypatch: pytest.MonkeyPatch, status: int, expected: str
) -> None:
    import huggingface_hub

    address, server = hub
    server.status = status
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    Path("README.md").write_text("---\ntags: []\n---\n")
    with pytest.raises(ExportError, match=re.escape(expected)):
        push(Path("."), ["README.md"], "someone/cats", public=False)


def test_a_repository_needs_an_owner(project: Path) -> None:
    done = export("http://127.0.0.1:9", "--push", "cats")
    assert done.returncode == 2 and "OWNER/NAME" in done.stderr
    assert not Path("out").exists()
