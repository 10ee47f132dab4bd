"""R(x_0, c): CLIPScore and what a user adds."""
