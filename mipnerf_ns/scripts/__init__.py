"""Console commands of the mip-NeRF family."""
