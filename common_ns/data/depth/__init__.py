"""Depth maps: what their numbers mean, one view's depth in another view, and whether the images agree with it."""
