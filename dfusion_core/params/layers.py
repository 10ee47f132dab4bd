"""Names of layers in parameters; `attention.layers` has those of a network."""

from typing import Annotated, Literal

from pydantic import Field

UNetLayer = Literal["down_0", "down_1", "down_2", "down_3", "mid", "up_0", "up_1", "up_2", "up_3"]
Block = Annotated[str, Field(pattern=r"^(block|single)_(0|[1-9]\d?)$")]  # of a transformer (docs/transformers.md)
Layer = UNetLayer | Block
