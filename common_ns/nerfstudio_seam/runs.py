"""What ns-train leaves in a run's folder, read back with errors that say what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from common_ns.errors import InputError

if TYPE_CHECKING:
    from nerfstudio.engine.trainer import TrainerConfig


def read_run_config(load_config: Path) -> TrainerConfig:
    """The config of a run.

    Args:
        load_config: the run's config.yml.
    Raises: InputError if it is missing, cannot be read, or is not the config of a run.
    """
    if not load_config.is_file():
        raise InputError("no such file", "Give the config.yml that ns-train wrote into the run's folder", load_config)

    import yaml
    from nerfstudio.engine.trainer import TrainerConfig

    try:
        config = yaml.load(load_config.read_text(encoding="utf-8"), Loader=yaml.Loader)
    except (yaml.YAMLError, ImportError, AttributeError, UnicodeDecodeError) as error:
        remedy = "Give the config.yml that ns-train wrote, with the method's package installed"
        raise InputError(f"cannot be read as a nerfstudio config ({error})", remedy, load_config) from error
    if not isinstance(config, TrainerConfig):
        remedy = "Give the config.yml that ns-train wrote into the run's folder"
        raise InputError(f"holds a {type(config).__name__}, not the config of a run", remedy, load_config)
    return config
