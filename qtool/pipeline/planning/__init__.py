"""Decides which tensors are quantised and on which grids: graph and statistics in, a `Plan` out."""
