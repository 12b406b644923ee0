"""The surface as it is now, as a mesh in the viewer's scene, on a button."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from nerfstudio.viewer.viewer_elements import ViewerButton

from common_ns.errors import InputError
from common_ns.meshing.extraction import extract_mesh
from common_ns.meshing.iso_field import IsoField
from common_ns.meshing.mesh_io import Mesh
from common_ns.viewer_preview.unlit import linear_from_srgb

NODE = "/surface"
"""Name of the mesh among the scene's nodes."""


class MeshSnapshot(ViewerButton):
    """Shows the present surface in the viewer's scene, in place of the snapshot before; a second button hides it.

    nerfstudio calls the hook of a model's control while training and rendering wait, so that the mesh is of one state
    of the field. Without a viewer nothing is installed, and the button does nothing.

    Args:
        iso_field: gives the field when it is asked for.
        resolution: voxels along the longest side of its box, at first; a slider changes it.
    """

    def __init__(self, iso_field: Callable[[], IsoField], resolution: int = 96) -> None:
        super().__init__("Show mesh", self._show)
        self.iso_field, self.resolution = iso_field, resolution
        self._server: Any = None
        self._slider: Any = None
        self._hide_button: Any = None
        self._shown: Any = None

    def install(self, viser_server: Any) -> None:
        """Add the controls to the panel."""
        super().install(viser_server)
        self._server = viser_server
        self._hide_button = viser_server.gui.add_button("Hide mesh", visible=False)
        self._hide_button.on_click(lambda _: self._hide())
        hint = "Voxels along a side of the mesh. To see the mesh alone, switch Composite depth off."
        self._slider = viser_server.gui.add_slider("Mesh: resolution", 32, 256, 32, self.resolution, hint=hint)

    def _show(self, button: ViewerButton) -> None:
        from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO

        if self._server is None:
            return
        self.set_disabled(True)
        try:
            mesh = extract_mesh(self.iso_field(), resolution=int(self._slider.value))
        except InputError as error:  # such as: there is no surface yet
            for client in self._server.get_clients().values():
                client.add_notification("No mesh", f"{error.problem}.", auto_close=10000)
            return
        finally:
            self.set_disabled(False)
        # A node of the same name is replaced.
        self._shown = self._server.scene.add_glb(NODE, glb_of(mesh), scale=VISER_NERFSTUDIO_SCALE_RATIO)
        self._hide_button.visible = True

    def _hide(self) -> None:
        if self._shown is not None:
            self._shown.remove()
            self._shown = None
        self._hide_button.visible = False


def glb_of(mesh: Mesh) -> bytes:
    """The mesh as a binary glTF file whose surface is matte and seen from both sides; glTF's own is of metal.

    glTF's vertex colors are linear, a mesh's are sRGB.
    """
    from trimesh.exchange.gltf import export_glb

    def matte(tree: dict[str, Any]) -> None:
        tree["materials"] = [
            {"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0}, "doubleSided": True}
        ]
        for part in tree["meshes"]:
            for primitive in part["primitives"]:
                primitive["material"] = 0

    if mesh.colors is not None:
        mesh = replace(mesh, colors=linear_from_srgb(mesh.colors))
    scene = mesh.to_trimesh().scene()
    content = export_glb(scene, include_normals=mesh.normals is not None, tree_postprocessor=matte)
    assert isinstance(content, bytes)
    return content
