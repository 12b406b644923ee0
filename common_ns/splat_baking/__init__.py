"""Gaussian splats of a trained field: baked from what its rays see, refined on photographs, written as a PLY file."""
