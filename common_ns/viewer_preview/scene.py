"""A proxy in the scene of one browser."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from common_ns.viewer_preview.proxies import MeshProxy, PictureProxy, PointProxy, Proxy, SplatProxy, Tile, TileProxy
from common_ns.viewer_preview.thinning import size_groups
from common_ns.viewer_preview.unlit import unlit_glb

NODE = "/preview"
"""Name of the proxy among the scene's nodes, all of whose parts are below it."""


class ProxyNode:
    """The proxy among a browser's own nodes, hidden until it is shown.

    Args:
        scene: viser's, of the client.
        ratio: viewer's units for each scene unit.
    """

    def __init__(self, scene: Any, ratio: float) -> None:
        self.scene, self.ratio = scene, ratio
        self._root: Any = None

    @property
    def present(self) -> bool:
        """Whether there is a proxy."""
        return self._root is not None

    def put(self, layers: tuple[Proxy, ...], visible: bool) -> None:
        """Put proxies in place of those before."""
        self.remove()
        self._root = self.scene.add_frame(NODE, show_axes=False, visible=visible)
        for index, layer in enumerate(layers):
            name = f"{NODE}/{index}"
            match layer:
                case PointProxy():
                    self._put_points(name, layer)
                case SplatProxy():
                    self._put_splats(name, layer)
                case MeshProxy() | PictureProxy():
                    self.scene.add_glb(name, unlit_glb(layer), scale=self.ratio)
                case TileProxy():
                    for number, tile in enumerate(layer.tiles):
                        self._put_tile(f"{name}/tile{number}", tile)

    def _put_splats(self, name: str, proxy: SplatProxy) -> None:
        means, covariances = proxy.means * self.ratio, proxy.covariances * self.ratio**2
        self.scene._add_gaussian_splats(name, means, covariances, proxy.colors, proxy.opacities[:, None])

    def _put_points(self, name: str, proxy: PointProxy) -> None:
        groups = size_groups(proxy.radii * self.ratio)
        for number, (radius, places) in enumerate(groups.items()):
            points, colors = proxy.points[places] * self.ratio, proxy.colors[places]
            # viser's size is a radius: its shader makes the point twice as wide.
            self.scene.add_point_cloud(
                f"{name}/points{number}", points, colors, point_size=radius, point_shape="circle"
            )

    def _put_tile(self, name: str, tile: Tile) -> None:
        from viser.transforms import SO3

        width, height = (float(np.linalg.norm(side)) for side in (tile.right, tile.up))
        # viser's pictures have x to the right and y down.
        axes = np.stack([tile.right / width, -tile.up / height], axis=-1)
        rotation = np.concatenate([axes, np.cross(axes[:, 0], axes[:, 1])[:, None]], axis=1)
        self.scene.add_image(
            name,
            tile.picture,
            render_width=width * self.ratio,
            render_height=height * self.ratio,
            format="jpeg",
            jpeg_quality=90,
            wxyz=SO3.from_matrix(rotation).wxyz,
            position=tile.center * self.ratio,
        )

    def show(self, background: Float[NDArray, "h w 3"]) -> None:
        """Show the proxy, before a background in place of the picture, which would hide it.

        Args:
            background: a small picture, in [0, 1].
        """
        self._root.visible = True
        picture = np.round(255.0 * np.clip(background, 0.0, 1.0)).astype(np.uint8)
        self.scene.set_background_image(picture, format="png")

    def hide(self) -> None:
        """Hide it."""
        if self._root is not None:
            self._root.visible = False

    def remove(self) -> None:
        """Take it out of the scene."""
        if self._root is not None:
            self._root.remove()
            self._root = None
