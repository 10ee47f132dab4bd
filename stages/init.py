"""Init: pin the base model and write an adapter with zero effect.

reads   the model   writes  runs/init/train: adapter/, pin.json, reward_history.csv (empty)
"""

from __future__ import annotations

import json

from dfusion_core.models.source import model_inputs
from dfusion_core.params import load_params
from dfusion_core.runtime.entry import run_stage
from dfusion_core.store import open_stage


def init(round: str = "init") -> None:
    """Write the zero adapter from which the first round starts."""
    params = load_params("model", "lora", "seed")
    with open_stage("init", round=round, params=params, inputs=model_inputs(params.model)) as run:
        if run.done:
            return
        import pandas as pd

        from dfusion_core.models.layers import check_layers
        from dfusion_core.models.loading import load_pipeline
        from dfusion_core.models.lora import add_lora, save_lora
        from dfusion_core.models.mmdit import network_of
        from dfusion_core.models.pins import FILE, pin
        from dfusion_core.models.source import locate
        from dfusion_core.training.advantages import COLUMNS

        source = locate(params.model)
        unet = network_of(load_pipeline(params.model, source))
        check_layers(unet)
        unet.requires_grad_(False)
        add_lora(unet, params.lora, params.seed)
        save_lora(unet, run.path("adapter"))
        run.write_table("reward_history", pd.DataFrame(columns=list(COLUMNS)))
        run.path(FILE).write_text(json.dumps(pin(params.model, source), indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    run_stage(init)
