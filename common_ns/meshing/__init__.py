"""From a field to a triangle mesh: values on a grid, marching cubes, culling, files and pictures."""
