"""What all families share: host remedies, input checks, metrics, meshing and the sample scene.

Importing this package imports nothing heavy: every ns-* command loads the plugins that build on it.
"""
