"""A client for programs as labellers, with the requests of the page.

answer_all("http://127.0.0.1:8421/?token=...", "my model", prefers)

def prefers(prompt, first, second): ...   # two pictures (row, column, rgb): "first", "second" or "tie"
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

import numpy as np

from ..errors import LabelError, short
from ..labels.answers import FIRST, SECOND, TIE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]

Prefers = Callable[[str, "Picture", "Picture"], str]
CLOSE = 0.05  # nats: a smaller difference of log-probabilities is a tie
_open = build_opener(ProxyHandler({})).open  # no proxy: the server is on this machine


def answer_all(address: str, labeller: str, prefers: Prefers, most: int | None = None) -> int:
    """Answer until there are enough, or ``most`` answers; returns their number. address: as printed by the command."""
    parts = urlsplit(address)
    base, token = f"http://{parts.netloc}", parse_qs(parts.query)["token"][0]
    seen: dict[str, Picture] = {}
    state, given = _post(f"{base}/next", token, {"labeller": labeller}), 0
    while (question := state["question"]) is not None and given != most:
        pair = []
        for name in question["pictures"]:
            if name not in seen:
                seen[name] = _picture(f"{base}/picture/{name}", token)
            pair.append(seen[name])
        state = _post(
            f"{base}/answer",
            token,
            {
                "labeller": labeller,
                "id": question["id"],
                "pictures": question["pictures"],
                "answer": prefers(question["prompt"], *pair),
            },
        )
        given += 1
    return given


def oracle() -> Prefers:
    """The micro-world's oracle as a labeller: it prefers the picture that shows the prompt with higher probability.

    The returned function raises LabelError for other pictures and prompts.
    """
    from ..models.builtin import judge_pictures

    def prefers(prompt: str, first: Picture, second: Picture) -> str:
        try:
            _, log_prob = judge_pictures(np.stack([first, second]), [prompt, prompt])
        except (KeyError, ValueError, RuntimeError) as error:
            raise LabelError(
                f"--labeller oracle: it knows the micro-world only, and no picture of {first.shape[1]} x "
                f"{first.shape[0]} for '{short(prompt)}'.",
                "Leave --labeller out: then people are asked.",
            ) from error
        lead = float(log_prob[0] - log_prob[1])
        return TIE if abs(lead) < CLOSE else FIRST if lead > 0 else SECOND

    return prefers


def careless(prefers: Prefers, wrong: float, seed: int = 0) -> Prefers:
    """``prefers`` with a random share of its answers reversed."""
    lot = Random(seed)

    def turned(prompt: str, first: Picture, second: Picture) -> str:
        said = prefers(prompt, first, second)
        return {FIRST: SECOND, SECOND: FIRST}.get(said, said) if lot.random() < wrong else said

    return turned


def _post(url: str, token: str, body: dict[str, Any]) -> dict[str, Any]:
    headers = {"Content-Type": "application/json", "X-Token": token}
    with _open(Request(url, json.dumps(body).encode(), headers), timeout=60) as answer:
        found: dict[str, Any] = json.loads(answer.read())
    return found


def _picture(url: str, token: str) -> Picture:
    from PIL import Image

    with _open(Request(url, headers={"X-Token": token}), timeout=60) as answer:
        return np.asarray(Image.open(io.BytesIO(answer.read())).convert("RGB"))
