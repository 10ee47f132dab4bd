"""Each stage in a clone of its own, as on a node of its own: another path, another user, another host, no network.

A node gets the code through git and the declared inputs through DVC, here from S3 (moto's server, on this machine), and
gives back its outputs and dvc.lock. In the end dvc.lock is the one that `dvc repro` makes in one go elsewhere.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from clones import STAGES, as_nobody, call, commit, declared, give, host, locked, without_network

from dfusion_core.store import verify

pytestmark = pytest.mark.slow
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
BUCKET = "runs"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of an S3 server with one empty bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    client = boto3.client(
        "s3", endpoint_url=address, aws_access_key_id="key", aws_secret_access_key="secret", region_name="us-east-1"
    )
    client.create_bucket(Bucket=BUCKET)
    yield address
    server.stop()


@pytest.fixture(scope="module")
def origin(program: Path, place: Path, s3: str) -> Path:
    """What all clones are clones of: a bare repository whose DVC remote is the S3 server."""
    call(place, "git", "clone", "-q", str(program), "first")
    first = place / "first"
    call(first, "dvc", "remote", "add", "--default", "store", f"s3://{BUCKET}/dvc")
    call(first, "dvc", "remote", "modify", "store", "endpointurl", s3)
    commit(first, "a remote")
    call(place, "git", "clone", "-q", "--bare", "first", "origin.git")
    return give(place / "origin.git")


@pytest.fixture(scope="module")
def nodes(origin: Path, place: Path) -> Path:
    """A folder with a clone for each stage, in which that stage alone was run."""
    folder = place / "nodes"
    folder.mkdir()
    give(folder)
    beside = ["evaluate_base", "sample@r00"]
    for together in [["code"], ["prompts"], ["init"], beside, *([stage] for stage in STAGES[5:])]:
        for stage in together:
            run_on_a_node(stage, origin, folder)
        for stage in together:
            hand_over(stage, folder)
    return folder


def run_on_a_node(stage: str, origin: Path, folder: Path) -> None:
    """Clone, fetch what the stage declares, run it."""
    user, clone = as_nobody(), folder / stage.replace("@", "-")
    call(folder, "git", "clone", "-q", str(origin), clone.name, prefix=user)
    inputs = declared(stage)
    if inputs:
        call(clone, "dvc", "pull", "-q", *inputs, prefix=user, env=KEYS)
    assert present(clone) == set(inputs)
    said = call(clone, "dvc", "repro", "-s", stage, prefix=[*without_network(), *user])
    assert re.findall(r"Running stage '(.*?)'", said) == [stage]


def present(clone: Path) -> set[str]:
    """Outputs of stages that are in a clone."""
    found = [*clone.glob("r*/*/*"), *clone.glob("results/*.json")]
    return {path.relative_to(clone).as_posix() for path in found}


def hand_over(stage: str, folder: Path) -> None:
    """Outputs through DVC, dvc.lock through git; where another node was first, on top of what it recorded."""
    user, clone = as_nobody(), folder / stage.replace("@", "-")
    call(clone, "dvc", "push", "-q", stage, prefix=user, env=KEYS)
    commit(clone, stage, prefix=user)
    call(clone, "git", "fetch", "-q", prefix=user)
    if call(clone, "git", "log", "..origin/main", prefix=user):
        assert stage == "sample@r00"
        call(clone, "git", "reset", "-q", "--keep", "origin/main", prefix=user)
        call(clone, "dvc", "commit", "-q", "-f", stage, prefix=user)
        commit(clone, stage, prefix=user)
    call(clone, "git", "push", "-q", prefix=user)


def test_nodes_make_what_one_machine_makes(nodes: Path, whole: Path) -> None:
    """Equal hashes of every output: bit for bit the same, in other folders, as another user, on another host."""
    assert locked(nodes / "summary") == locked(whole)
    for clone in nodes.iterdir():
        made = list(clone.glob("runs"))
        assert not made or verify(clone / "runs") == []


def test_the_nodes_were_as_unlike_as_they_should_be() -> None:
    """Where the machine forbids it, the clones ran as this user or with a network, and the tests here show less."""
    forbidden = {"another user": not as_nobody(), "no network and another host": not without_network()}
    if any(forbidden.values()):
        pytest.skip(f"not allowed here: {', '.join(name for name, so in forbidden.items() if so)}")


def test_nothing_says_where_or_when_it_was_made(nodes: Path, whole: Path) -> None:
    """No path, host, user or day in any published file or in dvc.lock."""
    today = [
        time.strftime(form, when(time.time()))
        for form in ("%Y-%m-%d", "%Y%m%d", "%d/%b/%Y", "%b %d")
        for when in (time.gmtime, time.localtime)
    ]
    words = [whole.parent.name, host(), "t@localhost", "nobody", *today]
    pattern = re.compile("|".join(re.escape(word) for word in words).encode())
    files = [path for clone in (whole, *nodes.iterdir()) for path in (clone / "dvc.lock", *clone.glob("r*/**/*"))]
    assert len(files) > 100
    found = {path: match[0] for path in files if path.is_file() and (match := pattern.search(path.read_bytes()))}
    assert found == {}


def test_the_run_can_be_fetched_by_anybody(nodes: Path, origin: Path, place: Path) -> None:
    """`dvc pull` in a fresh clone gives the whole run, and there is nothing left to do."""
    call(place, "git", "clone", "-q", str(origin), "reader")
    call(place / "reader", "dvc", "pull", "-q", env=KEYS)
    assert verify(place / "reader" / "runs") == []
    assert "up to date" in call(place / "reader", "dvc", "status")


def test_one_command_on_a_node_with_a_folder_as_remote(nodes: Path, origin: Path, place: Path) -> None:
    """`dvc repro -s --pull` fetches what the stage declares and no more; here the remote is a folder."""
    clone = place / "one"
    call(place, "git", "clone", "-q", str(origin), clone.name)
    call(clone, "dvc", "pull", "-q", env=KEYS)
    call(clone, "dvc", "remote", "add", "-q", "--default", "shared", str(place / "shared"))
    call(clone, "dvc", "push", "-q")
    for area in ("runs", "results"):
        shutil.rmtree(clone / area)
    shutil.rmtree(clone / ".dvc" / "cache")
    stages = locked(clone)
    without = {name: one for name, one in stages.items() if name != "fuse@r00"}  # as before it was ever run
    (clone / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": without}))
    said = call(clone, "dvc", "repro", "-s", "--pull", "fuse@r00")
    assert "Running stage 'fuse@r00'" in said
    assert present(clone) == {*declared("fuse@r00"), "runs/r00/fuse"}
    assert locked(clone) == stages
