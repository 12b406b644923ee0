"""What ns-train leaves in a run's folder, read back with errors that say what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from common_ns.data.files import require_file
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.safe_configs import REMEDY, config_of

if TYPE_CHECKING:
    from nerfstudio.engine.trainer import TrainerConfig


def read_run_config(load_config: Path) -> TrainerConfig:
    """The config of a run.

    Args:
        load_config: the run's config.yml.
    Raises: InputError if it is missing, cannot be read, or is not the config of a run.
    """
    if not load_config.exists() and not load_config.is_symlink():
        raise InputError("no such file", "Give the config.yml that ns-train wrote into the run's folder", load_config)
    try:
        text = require_file(load_config, "config").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read as a nerfstudio config ({error})", REMEDY, load_config) from error
    return config_of(text, load_config)
