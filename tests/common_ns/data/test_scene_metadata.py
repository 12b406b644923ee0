"""Every key of a scene's and of rays' metadata is declared, and every declared key is used."""

from __future__ import annotations

import re
from pathlib import Path

from common_ns.data.scene_metadata import RayMetadata, SceneMetadata

ROOT = Path(__file__).parents[3]
PACKAGES = ("common_ns", "miner_ns", "mipnerf_ns", "depthnerf_ns", "hashnffb_sdf_ns")
KEY = re.compile(r"""metadata(?:\.get\(|\.setdefault\(|\.pop\(|\[)["'](\w+)["']""")


def test_keys_are_declared_and_used():
    declared = set(SceneMetadata.__annotations__) | set(RayMetadata.__annotations__)
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    sources = {file: file.read_text() for file in files if file.name != "scene_metadata.py"}
    used = {key: file for file, source in sources.items() for key in KEY.findall(source)}
    unknown = {key: str(file.relative_to(ROOT)) for key, file in used.items() if key not in declared}
    assert not unknown, "declare them in common_ns/data/scene_metadata.py"
    everything = "\n".join(sources.values())
    assert not [key for key in declared if f'"{key}"' not in everything]
