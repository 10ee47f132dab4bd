"""Nothing that is read runs: no unpickling, no evaluation of texts, no shell, and one module that talks to a network.

The syntax tree is looked at, not the text, so that a comment hides nothing and a new name for a module helps nobody.
"""

from __future__ import annotations

import ast
import configparser
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = sorted([*(ROOT / "dfusion_core").rglob("*.py"), *(ROOT / "stages").rglob("*.py")])
EVERYTHING = sorted([*PROGRAM, *(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "docs").rglob("*.py")])

UNPICKLERS = {
    "pickle",
    "_pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "jsonpickle",
    "code",
}
NETWORK = {
    "requests",
    "urllib",
    "urllib3",
    "http",
    "httpx",
    "aiohttp",
    "socket",
    "ssl",
    "ftplib",
    "smtplib",
    "boto3",
    "huggingface_hub",
    "webbrowser",
}
TRACKERS = {"wandb", "mlflow", "comet_ml", "neptune", "sentry_sdk", "posthog", "segment"}
ASKED_FOR = {"dfusion_core/training/following.py": ["imports wandb"]}  # where tracking.to names it, and only there
MAY_TALK = {  # and to whom
    "dfusion_core/commands/export/card.py": {"huggingface_hub"},  # its model card, written to this disk
    "dfusion_core/commands/export/front_matter.py": {"huggingface_hub"},  # the same
    "dfusion_core/commands/export/pushing.py": {"huggingface_hub"},  # uploads, where --push names a repository
    "dfusion_core/commands/label/foreign.py": {"urllib"},  # takes addresses apart
    "dfusion_core/models/source.py": {"huggingface_hub"},  # downloads the model that model.id names
    "dfusion_core/commands/plan/lookup.py": {"huggingface_hub"},  # looks into the Hub's cache on this disk
    "dfusion_core/labelling/server.py": {"http", "urllib"},  # listens on this machine for the labeller's browser
    "dfusion_core/labelling/guard.py": {"urllib"},  # takes addresses apart
    "dfusion_core/labelling/client.py": {"urllib"},  # gives answers to that server in place of a browser
    "dfusion_core/store/lock.py": {"socket"},  # the name of this machine
}
CALLS = {  # what a dotted call must not be, unless a keyword makes it harmless
    "torch.load": ("weights_only", True),
    "eval": None,
    "exec": None,
    "compile": None,
    "__import__": None,
    "os.system": None,
    "os.popen": None,
    "os.execv": None,
    "os.spawnv": None,
    "subprocess.getoutput": None,
    "subprocess.getstatusoutput": None,
    "yaml.load": None,
    "yaml.full_load": None,
    "yaml.unsafe_load": None,
    "yaml.load_all": None,
    "torch.hub.load": None,
    "torch.jit.load": None,
    "torch.package.PackageImporter": None,
    "pandas.read_pickle": None,
    "pandas.eval": None,
    "torch.save": None,
}
SUBPROCESS = {
    "subprocess.run",
    "subprocess.Popen",
    "subprocess.call",
    "subprocess.check_call",
    "subprocess.check_output",
}


class Module:
    """One file: what its names stand for, and its calls by their full name."""

    def __init__(self, source: str) -> None:
        self.tree = ast.parse(source)
        self.names: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                self.names |= {
                    (one.asname or one.name.split(".")[0]): (one.name if one.asname else one.name.split(".")[0])
                    for one in node.names
                }
            elif isinstance(node, ast.ImportFrom) and not node.level:
                self.names |= {(one.asname or one.name): f"{node.module}.{one.name}" for one in node.names}

    def imports(self) -> set[str]:
        """The first part of every module that is imported, wherever."""
        found = {name.split(".")[0] for name in self.names.values()}
        literal = [
            call.args[0]
            for name, call in self.calls()
            if name in ("importlib.import_module", "__import__") and call.args
        ]
        return found | {str(one.value).split(".")[0] for one in literal if isinstance(one, ast.Constant)}

    def calls(self) -> Iterator[tuple[str, ast.Call]]:
        """Every call whose function is a name or an attribute of one."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call) and (name := self.full_name(node.func)):
                yield name, node

    def full_name(self, node: ast.expr) -> str:
        if isinstance(node, ast.Attribute):
            before = self.full_name(node.value)
            return f"{before}.{node.attr}" if before else ""
        return self.names.get(node.id, node.id) if isinstance(node, ast.Name) else ""


def breaches(source: str) -> list[str]:
    """What a source does that it must not, in words."""
    module = Module(source)
    found = [f"imports {name}" for name in sorted(module.imports() & (UNPICKLERS | TRACKERS))]
    for name, call in module.calls():
        keywords = {one.arg: one.value for one in call.keywords}
        if name in CALLS:
            harmless = CALLS[name]
            value = keywords.get(harmless[0]) if harmless else None
            if not (harmless and isinstance(value, ast.Constant) and value.value is harmless[1]):
                found.append(f"line {call.lineno}: calls {name}")
        if "shell" in keywords or "trust_remote_code" in keywords:
            found.append(f"line {call.lineno}: {name} with shell or trust_remote_code")
        pickles = keywords.get("allow_pickle", ast.Constant(False))  # numpy's default since 1.16
        if not isinstance(pickles, ast.Constant) or pickles.value is not False:
            found.append(f"line {call.lineno}: {name} with allow_pickle")
        if name in SUBPROCESS and call.args and isinstance(call.args[0], ast.Constant | ast.JoinedStr | ast.BinOp):
            found.append(f"line {call.lineno}: {name} with a text")
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from dill import loads",
        "import numpy\nnumpy.load(f, allow_pickle=True)",
        "import torch as t\nt.load(f)",
        "from torch import load as l\nl(f, weights_only=False)",
        "eval(x)",
        "exec('1')",
        "compile(x, '', 'exec')",
        "import os as o\no.system(x)",
        "import yaml\nyaml.load(x, Loader=yaml.Loader)",
        "from subprocess import run\nrun(f'ls {x}')",
        "import subprocess as s\ns.run(x, shell=True)",
        "import subprocess\nsubprocess.run('ls ' + x)",
        "import importlib\nimportlib.import_module('pickle')",
        "def f():\n    import wandb",
        "import pandas as pd\npd.read_pickle(f)",
        "M.from_pretrained(x, trust_remote_code=True)",
    ],
)
def test_a_breach_is_seen(source: str) -> None:
    assert breaches(source)


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(f, weights_only=True)",
        "import subprocess\nsubprocess.run(['ls', x])",
        "model.eval()",
        "import re\nre.compile(x)",
        "import numpy\nnumpy.load(f, allow_pickle=False)",
        "# eval(x)",
        "'pickle.load'",
    ],
)
def test_harmless_code_is_left_alone(source: str) -> None:
    assert breaches(source) == []


def test_no_file_loads_code_from_data() -> None:
    found = {path.relative_to(ROOT).as_posix(): breaches(path.read_text()) for path in EVERYTHING}
    assert {name: wrong for name, wrong in found.items() if wrong} == ASKED_FOR


def test_who_talks_to_a_network() -> None:
    found = {path.relative_to(ROOT).as_posix(): Module(path.read_text()).imports() & NETWORK for path in PROGRAM}
    assert {name: modules for name, modules in found.items() if modules} == MAY_TALK


def test_no_command_reports_its_use() -> None:
    """DVC counts its calls for its makers and asks for updates, the libraries of the Hub tell it what runs here."""
    for file in (".dvc/config", "dfusion_core/microworld/pretrain/.dvc/config"):
        config = configparser.ConfigParser()
        config.read_string("\n".join(line.strip() for line in (ROOT / file).read_text().splitlines()))
        assert not config.getboolean("core", "analytics") and not config.getboolean("core", "check_update"), file
    assert "DVC's usage analytics are switched off in `.dvc/config`" in (ROOT / "README.md").read_text()
    code = "import dfusion_core.commands.cli, huggingface_hub.constants as c; assert c.HF_HUB_DISABLE_TELEMETRY"
    free = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=free, check=True)


def test_curves_are_posted_nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """dvclive would send them to DVC Studio where a token is set, as it is for those who use that service.

    The token and the call are real; the call is stopped where it would leave this machine.
    """
    import dvc_studio_client.post_live_metrics as client
    import pandas as pd

    from dfusion_core.training.tracking import write_live

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was about to be sent")

    import dfusion_core.runtime.entry  # noqa: F401 - every command begins with it

    monkeypatch.setenv("DVC_STUDIO_TOKEN", "x")
    monkeypatch.setenv("DVC_STUDIO_REPO_URL", "git@example.com:x/y.git")
    monkeypatch.setenv("DVC_STUDIO_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(client.requests, "post", refuse)  # type: ignore[attr-defined]
    monkeypatch.chdir(tmp_path)
    write_live(pd.DataFrame({"update": [0, 1], "loss": [0.7, 0.6]}), tmp_path / "live")
    assert (tmp_path / "live/plots/metrics/loss.tsv").is_file()
