"""mip-NeRF: cone tracing with integrated positional encoding (arXiv 2103.13415)."""
