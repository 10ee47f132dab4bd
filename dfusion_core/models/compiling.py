"""The U-Net as one compiled graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..errors import ModelError, one_line


def compile_unet(unet: Any, backend: str = "inductor") -> None:
    """Compile the U-Net's forward pass to one graph by torch.compile; a graph break is an error.

    Each batch size has its own graph. Between steps, attention control changes values and
    not objects (`attention.fusing`), so that all steps share a graph. torch caches compiled code in
    $TORCHINDUCTOR_CACHE_DIR for later stages and rounds. Raises ModelError at the first forward pass if the backend
    fails, mostly because there is no compiler.
    """
    forward: Callable[..., Any] = torch.compile(unet.forward, fullgraph=True, dynamic=False, backend=backend)

    def checked(*args: Any, **kwargs: Any) -> Any:
        try:
            return forward(*args, **kwargs)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise ModelError(
                f"model.compile: the U-Net cannot be compiled here: {one_line(error)}.",
                "Set model.compile to false; a compiler is needed, g++ for a CPU.",
            ) from error

    unet.forward = checked
