"""Signed distance fields on hash grids and Fourier filter banks, rendered by NeuS or IDR, and their meshes."""
