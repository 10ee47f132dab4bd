"""Models from the Hub, through a server on this machine that answers as the Hub does; and when nobody answers."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dfusion_core.testing import tiny_model, tiny_params

FIRST, SECOND = "1" * 40, "2" * 40  # commits


class Hub(BaseHTTPRequestHandler):
    """One repository, someone/model, with two commits: what model_info and the downloads ask for."""

    commits: dict[str, Path]
    newest = FIRST
    gone = False
    asked: list[str]

    def do_HEAD(self) -> None:  # noqa: N802 - the name is http.server's
        self.answer(body=False)

    def do_GET(self) -> None:  # noqa: N802
        self.answer(body=True)

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, *, body: bool) -> None:
        type(self).asked.append(f"{self.command} {self.path}")
        if self.gone:
            self.send(b"{}", body, {"X-Error-Code": "RepoNotFound"}, status=404)
            return
        info = re.fullmatch(r"/api/models/someone/model(?:/revision/([\w]+))?", self.path.split("?")[0])
        tree = re.fullmatch(r"/api/models/someone/model/tree/(\w+)", self.path.split("?")[0])
        file = re.fullmatch(r"/someone/model/resolve/(\w+)/(.+)", self.path)
        if info or tree:
            commit = self.commit((info or tree)[1] or "main")
            names = sorted(
                p.relative_to(self.commits[commit]).as_posix() for p in self.commits[commit].rglob("*") if p.is_file()
            )
            found = {
                "id": "someone/model",
                "sha": commit,
                "siblings": [{"rfilename": name} for name in names],
                "private": False,
                "downloads": 0,
                "likes": 0,
                "tags": [],
            }
            entries = [
                {"type": "file", "path": n, "size": (self.commits[commit] / n).stat().st_size, "oid": "0"}
                for n in names
            ]
            self.send(json.dumps(found if info else entries).encode(), body, {"Content-Type": "application/json"})
        elif file and (self.commits[self.commit(file[1])] / file[2]).is_file():
            content = (self.commits[self.commit(file[1])] / file[2]).read_bytes()
            self.send(
                content,
                body,
                {"X-Repo-Commit": self.commit(file[1]), "ETag": f'"{hashlib.sha256(content).hexdigest()}"'},
            )
        else:
            self.send(
                b'{"error": "Repository not found"}',
                body,
                {"X-Error-Code": "EntryNotFound" if file else "RepoNotFound"},
                status=404,
            )

    def commit(self, name: str) -> str:
        return self.newest if name == "main" else name

    def send(self, content: bytes, body: bool, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, type[Hub]]]:
    """The server's address; commit 1 and commit 2 have other weights."""
    commits = {commit: tiny_model(tmp_path / commit, seed) for seed, commit in enumerate((FIRST, SECOND))}
    for folder in commits.values():
        (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"a pickle that nobody may fetch")
    handler = type("Handler", (Hub,), {"commits": commits, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()


def stage(folder: Path, name: str, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A stage as a process of its own: huggingface_hub reads its settings when it is imported."""
    own = {
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    return subprocess.run(
        [sys.executable, "-m", f"stages.{name}", *args],
        cwd=folder,
        check=False,
        timeout=120,
        env=os.environ | own | environment,
        capture_output=True,
        text=True,
    )


def project(folder: Path, **model: Any) -> Path:
    folder.mkdir(exist_ok=True)
    tiny_params(folder, model={"id": "someone/model", **model})
    return folder


@pytest.mark.slow
def test_a_model_of_the_hub_is_fetched_and_pinned(tmp_path: Path, hub: tuple[str, type[Hub]]) -> None:
    """init writes down the commit; a later round takes it although the repository went on, also without a network."""
    address, handler = hub
    folder = project(tmp_path / "project")
    done = stage(folder, "init", HF_ENDPOINT=address)
    assert done.returncode == 0, done.stderr
    pin = json.loads((folder / "runs/init/train/pin.json").read_text())
    assert (pin["id"], pin["revision"]) == ("someone/model", FIRST)
    weights = handler.commits[FIRST] / "unet/diffusion_pytorch_model.safetensors"
    assert pin["files"]["unet/diffusion_pytorch_model.safetensors"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert not [line for line in handler.asked if line.endswith(".bin")]

    handler.newest = SECOND
    done = stage(folder, "sample", "r00", HF_ENDPOINT=address)
    assert done.returncode == 0, done.stderr
    handler.gone = True  # as Stable Diffusion 2.1 left the Hub
    done = stage(folder, "score", "r00", HF_ENDPOINT=address)
    assert done.returncode == 0, done.stderr
    done = stage(folder, "extract", "r00", HF_ENDPOINT=address)
    assert done.returncode == 0, done.stderr
    done = stage(folder, "evaluate", "init", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr


def test_a_name_that_the_hub_does_not_know(tmp_path: Path, hub: tuple[str, type[Hub]]) -> None:
    folder = project(tmp_path / "project", id="someone/gone")
    done = stage(folder, "init", HF_ENDPOINT=hub[0])
    assert done.returncode == 1 and "model.id: the Hub does not give 'someone/gone'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_variant_of_the_hub(tmp_path: Path, hub: tuple[str, type[Hub]]) -> None:
    done = stage(project(tmp_path / "project", variant="fp16"), "init", HF_ENDPOINT=hub[0])
    assert done.returncode == 1 and "model.variant: text_encoder" not in done.stdout
    assert "has no safetensors of the variant fp16: there is unet/diffusion_pytorch_model.bin" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("offline", ["0", "1"])
def test_nobody_answers(tmp_path: Path, offline: str) -> None:
    """A port that is closed, or offline mode: a message within seconds that says what to do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    done = stage(project(tmp_path / "project"), "init", HF_ENDPOINT=address, HF_HUB_OFFLINE=offline)
    assert done.returncode == 1, done.stderr
    assert "model.id: 'someone/model' is not in the Hub's cache, and the Hub cannot be reached" in done.stderr
    assert "set model.id to a local folder or file" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_server_that_never_answers(tmp_path: Path) -> None:
    """It takes the connection and is silent, as behind some firewalls: no hang."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        started = time.monotonic()
        done = stage(project(tmp_path / "project"), "init", HF_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert done.returncode == 1 and "cannot be reached" in done.stderr, done.stderr
    assert time.monotonic() - started < 60


@pytest.mark.slow
def test_an_autoencoder_of_the_hub(tmp_path: Path, hub: tuple[str, type[Hub]]) -> None:
    """init writes down its commit, and later stages take that one although the repository went on."""
    address, handler = hub
    folder = project(tmp_path / "project", id="model", vae="someone/model")
    done = stage(folder, "init", HF_ENDPOINT=address)
    assert done.returncode == 0, done.stderr
    pin = json.loads((folder / "runs/init/train/pin.json").read_text())
    weights = handler.commits[FIRST] / "vae/diffusion_pytorch_model.safetensors"
    assert (pin["id"], pin["revision"], pin["vae_revision"]) == ("model", None, FIRST)
    assert pin["files"][f"model.vae/{weights.name}"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    handler.newest = SECOND
    done = stage(folder, "sample", "r00", HF_ENDPOINT=address)
    assert done.returncode == 0, done.stderr
    assert not [line for line in handler.asked if "/unet/" in line]
