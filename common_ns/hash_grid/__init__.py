"""The multi-resolution hash grid (arXiv 2201.05989), with first and second derivatives on every device."""

from common_ns.hash_grid.dispatch import Implementation, Resolution, resolve
from common_ns.hash_grid.grid import HashGrid, HashGridOptions

__all__ = ["HashGrid", "HashGridOptions", "Implementation", "Resolution", "resolve"]
