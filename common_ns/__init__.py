"""What all families share: the seam with nerfstudio, input checks, metrics, meshing and the sample scene.

Importing this package imports nothing heavy: every ns-* command loads the plugins that build on it.
"""
