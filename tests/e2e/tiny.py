"""Options that make a command's work small, and leave what it does as it is: words to put beside documented ones."""

from __future__ import annotations

from typing import Any

from nerfstudio.configs.method_configs import all_methods

GRID = {"num-levels": 4, "log2-table-size": 12, "base-resolution": 8, "max-resolution": 64}
SAMPLE_SCENE = {"num-train": 12, "num-val": 2, "num-test": 4, "resolution": 40, "supersample": 2}

FAMILIES: dict[str, dict[str, Any]] = {
    "mip-nerf-360": {
        "num-proposal-samples": (16, 12),
        "num-nerf-samples": 12,
        "proposal-num-layers": 2,
        "proposal-hidden-dim": 24,
        "num-layers": 3,
        "hidden-dim": 48,
        "bottleneck-dim": 16,
        "color-hidden-dim": 16,
        "num-frequencies": 6,
    },
    "mip-nerf": {
        "num-coarse-samples": 24,
        "num-importance-samples": 24,
        "num-layers": 3,
        "hidden-dim": 48,
        "color-hidden-dim": 48,
        "num-frequencies": 8,
    },
    "zip-nerf": {
        "num-proposal-samples": (16, 12),
        "num-nerf-samples": 12,
        **{
            f"{grid}.{name}": value
            for grid in ("grid", "proposal-grids.0", "proposal-grids.1")
            for name, value in GRID.items()
        },
        "hidden-dim": 32,
        "proposal-hidden-dim": 16,
        "bottleneck-dim": 16,
        "color-hidden-dim": 16,
    },
    "mip-splat": {"num-start": 2000, "max-gaussians": 3000, "start-from": "photographs", "sh-degree-interval": 20},
    "depth-splat": {"num-start": 2000, "max-gaussians": 3000, "sh-degree-interval": 20},
    "depth-mip-nerf": {
        "num-proposal-samples": (12,),
        "num-nerf-samples": 10,
        "proposal-num-layers": 2,
        "proposal-hidden-dim": 16,
        "num-layers": 2,
        "hidden-dim": 32,
        "bottleneck-dim": 8,
        "color-hidden-dim": 8,
        "num-frequencies": 5,
    },
    "depth-hash": {
        "num-proposal-samples": (16,),
        "num-nerf-samples": 12,
        **{f"{grid}.{name}": value for grid in ("grid", "proposal-grid") for name, value in GRID.items()},
        "hidden-dim": 32,
        "color-hidden-dim": 16,
    },
    "neus": {"num-samples": 16, "num-upsamples": (8,), "cos-anneal-steps": 10, "coarse-to-fine-steps": 0},
    "idr": {"tracing.num-bracket-samples": 32, "tracing.num-mask-samples": 32},
    "miner-image": {
        "fit.epochs": (25, 25, 50),
        "fit.num-levels": 2,
        "fit.block-size": 8,
        "fit.batch-points": 16,
        "fit.threshold": 1e-3,
        "fit.implementation": "torch",
    },
    "miner-occupancy": {
        "fit.epochs": (25, 50),
        "fit.num-levels": 2,
        "fit.block-size": 8,
        "fit.num-frequencies": 3,
        "fit.threshold": 1e-3,
        "fit.implementation": "torch",
    },
}
"""Options of the model, by family: large variants of a method become as small as small ones."""

SURFACE = {
    **{f"sdf-field.options.{grid}.{name}": n for grid in ("hash", "nffb.grid") for name, n in GRID.items()},
    "sdf-field.options.nffb.width": 8,
    "sdf-field.options.nffb.num-features": 8,
    "sdf-field.hidden-dim": 32,
    "sdf-field.color-hidden-dim": 32,
}
STEPS = {
    "mip-nerf-360": 150,
    "mip-nerf": 150,
    "zip-nerf": 100,
    "mip-splat": 60,
    "depth-splat": 60,
    "depth-mip-nerf": 120,
    "depth-hash": 100,
    "neus": 30,
    "idr": 30,
}
"""After so many, the model is opaque where something is, so that clouds and meshes can be made of it."""
RATES = {"fields": 5e-3, "grids": 2e-2, "camera_opt": 1e-4}
"""Learning rates of so short a run."""

COMMANDS: dict[str, dict[str, Any]] = {
    "ns-export pointcloud": {"num-points": 500, "num-rays-per-batch": 1024},
    "ns-export tsdf": {"downscale-factor": 1, "resolution": 24, "target-num-faces": 100, "num-pixels-per-side": 32},
    "ns-export poisson": {
        "num-points": 1000,
        "num-rays-per-batch": 1024,
        "target-num-faces": 100,
        "num-pixels-per-side": 32,
    },
    "ns-export marching-cubes": {"resolution": 512, "target-num-faces": 100, "num-pixels-per-side": 32},
    "ns-render interpolate": {"interpolation-steps": 1, "frame-rate": 4},
    "ns-render spiral": {"seconds": 0.5, "frame-rate": 4},
    "ns-mesh": {"resolution": 24},
    "ns-splat": {"num-gaussians": 2000, "refine": 0.5},
    "ns-turntable": {"frames": 2, "size": 32},
    "ns-orbit-path": {"frames": 2, "seconds": 0.5},
    "ns-zoom-path": {"seconds": 0.1, "resolution": (48, 48), "target": (12, 22)},
    "ns-depth-rays": {"pixel": (20, 20)},
    "ns-voxelize": {"resolution": 24},
    "ns-sample-scene": SAMPLE_SCENE,
    "ns-eval-mesh": {"samples": 2000},
}
"""Options of other commands; those that are not here are small as they are."""


def words_of(options: dict[str, Any], prefix: str = "") -> list[str]:
    """Options as words of a command line."""
    words = []
    for name, value in options.items():
        values = value if isinstance(value, tuple) else (value,)
        words += [f"--{prefix}{name}", *map(str, values)]
    return words


def family_of(method: str) -> str:
    """The family of FAMILIES that a method belongs to."""
    return next(name for name in sorted(FAMILIES, key=len, reverse=True) if name in method)


def train_words(method: str, steps: int | None = None) -> list[str]:
    """What goes between the method and its documented options, so that training takes a second or a few.

    Args:
        method: one of the suite's.
        steps: steps to train; None: as many as the family needs. MINER ends by itself.
    """
    family = family_of(method)
    options: dict[str, Any] = {"viewer.quit-on-train-completion": True}
    if family in STEPS:
        steps = STEPS[family] if steps is None else steps
        whole_images = family.endswith("splat")
        rays = {} if whole_images else {"train-num-rays-per-batch": 128, "eval-num-rays-per-batch": 128}
        options |= {"max-num-iterations": steps, "steps-per-save": steps}
        options |= {f"pipeline.datamanager.{name}": value for name, value in rays.items()}
        for group in () if whole_images else all_methods[method].optimizers:
            schedule = {"lr-final": 0.1 * RATES[group], "max-steps": steps, "warmup-steps": min(10, steps)}
            options |= {f"optimizers.{group}.scheduler.{name}": value for name, value in schedule.items()}
            options[f"optimizers.{group}.optimizer.lr"] = RATES[group]
    model = {**FAMILIES[family], **(SURFACE if family in ("neus", "idr") else {})}
    return words_of({**{f"pipeline.model.{name}": value for name, value in model.items()}, **options})


def parser_words(words: list[str]) -> list[str]:
    """What goes at the end of a line of ns-train, so that what it reads is small."""
    if words[1] != "miner-occupancy":
        return []
    parser = "miner-occupancy-data"
    return [*([] if parser in words else [parser]), "--resolution", "24"]


def command_words(command: str, method: str = "", level: str = "1") -> list[str]:
    """What goes at the end of another command's line.

    Args:
        command: its name, and its subcommand if it has any.
        method: of the run that it is given.
        level: of the density that ns-mesh takes for a surface; after so few steps, there may be none at its own.
    """
    distances = ("neus", "idr", "miner-occupancy", "mip-splat", "depth-splat")
    radiance = command == "ns-mesh" and method and family_of(method) not in distances
    options = dict(COMMANDS.get(command, {}))
    if command == "ns-splat" and method and family_of(method).endswith("splat"):
        del options["num-gaussians"]  # the run's own are all there are
    return words_of(options) + (["--level", level] if radiance else [])
