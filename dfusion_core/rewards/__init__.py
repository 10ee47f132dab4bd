"""The reward R(x_0, c): CLIPScore, plug-ins and people's preferences."""
