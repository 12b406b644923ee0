"""Which photographs can be brought into a pinhole camera's form: others cannot be drawn as pictures of Gaussians."""

from __future__ import annotations

from nerfstudio.cameras.cameras import Cameras, CameraType

from common_ns.errors import InputError

KNOWN = (CameraType.PERSPECTIVE, CameraType.FISHEYE)
"""Camera models whose photographs can."""


def pinhole_cameras(cameras: Cameras) -> bool:
    """Whether all photographs can."""
    return not _others(cameras)


def require_pinhole(cameras: Cameras, remedy: str) -> None:
    """Raises: InputError with the remedy if a photograph cannot."""
    if others := _others(cameras):
        problem = f"the photographs are of the camera model {', '.join(others)}, which Gaussians are not drawn in"
        raise InputError(problem, remedy)


def _others(cameras: Cameras) -> list[str]:
    return sorted(
        {CameraType(int(kind)).name for kind in cameras.camera_type.flatten()} - {each.name for each in KNOWN}
    )
