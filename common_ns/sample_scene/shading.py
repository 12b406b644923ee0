"""What surfaces look like: lights, shadows, highlights and one mirror reflection. Colors are linear, [3, n]."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from common_ns.sample_scene.layout import FLOOR
from common_ns.sample_scene.lights import LIGHTS, LightName, linear, unit
from common_ns.sample_scene.textures import color, mix
from common_ns.sample_scene.tracing import Crossings, Tracer
from common_ns.sample_scene.vectors import dot, norm, put, take


class Shader:
    """A key light with hard shadows, a weak fill light, and a sky with an analytic occlusion term.

    Args:
        tracer: all parts.
        lights: which of `LIGHTS`.
    """

    def __init__(self, tracer: Tracer, lights: LightName = "day") -> None:
        self._tracer, self._lights = tracer, LIGHTS[lights]
        # Balls that darken what is near them, each with the part that it stands for: (part, center, radius).
        self._darkeners: list[tuple[int, Float[ndarray, "3 1"], float]] = []
        for k, part in enumerate(tracer.parts):
            for lift, share in part.darkeners:
                center = np.asarray(part.solids[0].center)
                radius = float(np.linalg.norm(part.solids[0].mesh().vertices - center, axis=1).max())
                self._darkeners.append((k, linear(*(center + np.array([0.0, 0.0, lift]))), share * radius))

    def radiance(self, hits: Crossings, mirrors: bool = True) -> Float[ndarray, "3 m"]:
        """Color that surfaces send back along the rays that hit them.

        Highlights are Blinn–Phong's; the mirror reflection has Schlick's Fresnel factor and shows no further mirrors.
        """
        p, n, d, lights = hits.point, hits.normal, hits.direction, self._lights
        lifted = p + 1e-4 * n
        key = np.maximum(dot(lights.key, n), 0.0)
        facing = np.nonzero(key > 0)[0]
        key[facing] *= self._tracer.reaches(take(lifted, facing), lights.key)
        fill = np.maximum(dot(lights.fill, n), 0.0)
        ambient = mix(lights.bounce, lights.sky, 0.5 + 0.5 * n[2]) * self._openness(hits)
        out = ambient + key * lights.key_color + fill * lights.fill_color
        half = lights.key - d
        cosine = np.maximum(dot(n, half) / norm(half), 1e-6)
        for k, run in hits.by_part():
            part = self._tracer.parts[k]
            albedo = part.texture(part.solids[0].local(p[:, run]))
            if part.emissive:
                out[:, run] = albedo * lights.emission
                continue
            out[:, run] *= albedo
            if part.gloss > 0:
                highlight = np.exp(part.shininess * np.log(cosine[run])) * (key[run] > 0)
                out[:, run] += part.gloss * highlight * lights.key_color
            if part.mirror > 0 and mirrors:
                facing_eye = np.clip(-dot(d[:, run], n[:, run]), 0.0, 1.0)
                fresnel = part.mirror + (1 - part.mirror) * (1 - facing_eye) ** 5
                shown = self._mirrored(lifted[:, run], d[:, run] + 2 * facing_eye * n[:, run])
                out[:, run] = mix(out[:, run], shown, fresnel)
        return out

    def _mirrored(self, o: Float[ndarray, "3 n"], d: Float[ndarray, "3 n"]) -> Float[ndarray, "3 n"]:
        """What mirrors show: the scene, or the studio where there is no scene."""
        out, hits = _studio(d), self._tracer.first(o, d)
        put(out, hits.ray, self.radiance(hits, mirrors=False))
        return out

    def _openness(self, hits: Crossings) -> Float[ndarray, "m"]:
        """Share of the sky that nearby objects leave: closed-form occlusion by balls, and by the base from below."""
        # Occlusion fades with the squared distance: the surroundings are too far to notice.
        close = np.nonzero(dot(hits.point, hits.point) < 9.0)[0]
        q, m, own = take(hits.point, close), take(hits.normal, close), hits.part[close]
        left = np.ones(own.shape, dtype=np.float32)
        for k, center, radius in self._darkeners:
            v = center - q
            vv = np.maximum(dot(v, v), radius**2)
            shade = np.maximum(dot(m, v), 0.0) * (0.9 * radius**2) / (vv * np.sqrt(vv))
            shade[own == k] = 0.0
            left *= 1.0 - shade
        above = np.clip((q[2] - FLOOR) / 0.3, 0.0, 1.0)
        left *= 1.0 - 0.55 * (1.0 - above) * np.clip(0.7 - 0.7 * m[2], 0.0, 1.0) * (q[2] > FLOOR + 1e-4)
        openness = np.ones(hits.part.shape, dtype=np.float32)
        openness[close] = left
        return openness


def _studio(d: Float[ndarray, "3 n"]) -> Float[ndarray, "3 n"]:
    """Surroundings that mirrors show where there is no background: a room with a window and a strip light."""
    low, high = color(60, 56, 54), color(150, 164, 184)
    out = mix(low, high, np.clip(0.35 + 0.9 * d[2], 0.0, 1.0))
    for towards, right, size, panes, strength in (
        (unit(0.62, -0.50, 0.62), unit(0.50, 0.62, 0.0), (0.34, 0.30), True, 4.0),
        (unit(-0.80, -0.30, 0.50), unit(-0.30, 0.80, 0.0), (0.10, 0.55), False, 2.4),
    ):
        up = np.cross(towards[:, 0], right[:, 0])[:, None]
        facing = dot(towards, d)
        depth = np.maximum(facing, 1e-3)
        a, b = np.abs(dot(right, d)) / depth / size[0], np.abs(dot(up, d)) / depth / size[1]
        inside = (facing > 0) & (a < 1) & (b < 1)
        if panes:
            inside &= (a > 0.07) & (b > 0.07)
        out[:, inside] = strength
    return out
