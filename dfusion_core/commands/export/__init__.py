"""`dfusion export`: a round's adapter as a folder for a model hub, diffusers, ComfyUI and A1111."""
