"""Depth-supervised fields: statistical weight bounds and other depth losses (after AlexSheldrick/mipnerf_pl)."""
