"""Parts of the sample scene: solids, textures, shading, rendering, cameras, sensors and the layouts' writers."""
