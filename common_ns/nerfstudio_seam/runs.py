"""What ns-train leaves in a run's folder, found and read back with errors that say what is wrong.

A run may lie elsewhere than where it was written: its checkpoints are looked for beside its config.yml first. Of a
checkpoint nothing is run (`weights_only`), whatever torch's version or the environment say.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import torch

from common_ns.data.files import is_there, refusal, require_file, require_writable
from common_ns.errors import InputError
from common_ns.nerfstudio_seam import compat
from common_ns.nerfstudio_seam.renames import SuiteConfig
from common_ns.nerfstudio_seam.safe_configs import REMEDY, config_of

if TYPE_CHECKING:
    from nerfstudio.engine.trainer import TrainerConfig
    from nerfstudio.pipelines.base_pipeline import Pipeline

CHECKPOINT = re.compile(r"step-(\d+)\.ckpt")
"""Names of checkpoints; other files beside them, such as .DS_Store, are left alone."""
PARTS = {"step": int, "pipeline": dict, "optimizers": dict, "scalers": dict}
"""What a checkpoint holds."""


def read_run_config(load_config: Path) -> TrainerConfig:
    """The config of a run.

    Args:
        load_config: the run's config.yml.
    Raises: InputError if it is missing, cannot be read, or is not the config of a run.
    """
    if not is_there(load_config, "config"):
        raise InputError("no such file", "Give the config.yml that ns-train wrote into the run's folder", load_config)
    try:
        text = require_file(load_config, "config").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read as a nerfstudio config ({error})", REMEDY, load_config) from error
    return config_of(text, load_config)


def load_run(load_config: Path, test_mode: Literal["test", "val", "inference"] = "inference") -> Pipeline:
    """The pipeline of a run of any method, with the parameters of its last checkpoint, in evaluation mode: what
    nerfstudio's `eval_setup` gives, which would end in an assertion, an index error or a silent exit.

    Raises: InputError if config, data or checkpoint are missing or cannot be used.
    """
    from nerfstudio.configs.method_configs import all_methods

    config = read_run_config(load_config)
    if config.method_name not in all_methods:
        raise InputError(f"there is no method {config.method_name!r}", "Install its package", load_config)
    config.pipeline.datamanager._target = all_methods[config.method_name].pipeline.datamanager._target
    file = checkpoint_of(config, load_config)
    require_data(config, load_config)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipeline = config.pipeline.setup(device=torch.device(device), test_mode=test_mode)
    pipeline.eval()
    load_into(pipeline, file, config)
    return pipeline


def checkpoint_of(config: TrainerConfig, load_config: Path) -> Path:
    """The checkpoint that commands on a run use: the latest, or that of the config's `load_step`.

    Args:
        config: of the run.
        load_config: where it was read. Checkpoints beside it go before those at the place that it names, which may be
            another run's by now.
    Raises: InputError if there is none.
    """
    beside = load_config.parent / config.relative_model_dir
    folder = beside if beside.is_dir() else config.get_checkpoint_dir()
    if not folder.exists():
        problem = f"the run has no checkpoint: there is neither {beside} nor {folder}"
        remedy = "Put its nerfstudio_models beside this file, run from the folder that ns-train ran in, or train it"
        raise InputError(problem, remedy, load_config)
    step = config.load_step
    if step is not None and config.load_dir is not None and step not in _steps(folder):
        step = None  # the run was resumed from that step of another one
    return find_checkpoint(folder, step)


def require_data(config: TrainerConfig, load_config: Path, data: Path | None = None) -> None:
    """Raises: InputError if the data set that a run was trained on is not there any more.

    Args:
        config: of the run.
        load_config: where it was read.
        data: where the command says that the data set is.
    """
    datamanager: Any = config.pipeline.datamanager
    # The datamanager's own data path goes first, as it does in training.
    path = data or getattr(datamanager, "data", None) or getattr(getattr(datamanager, "dataparser", None), "data", None)
    if path is not None and not (is_there(path, "data set") and Path(path).exists()):
        problem = f"the run's data set {str(path)!r} does not exist"
        link = f"ln -s WHERE_IT_IS_NOW {shlex.quote(str(Path(path).absolute()))}"
        remedy = f"Run from the folder that ns-train ran in, or if the data has moved, put a link there: {link}"
        raise InputError(problem, remedy, load_config)


def _steps(folder: Path) -> dict[int, Path]:
    """Checkpoints by step, in order."""
    found = [(CHECKPOINT.fullmatch(path.name), path) for path in folder.iterdir()]
    return dict(sorted((int(match[1]), path) for match, path in found if match is not None))


def find_checkpoint(folder: Path, step: int | None = None) -> Path:
    """The checkpoint of a step in a folder, or the latest.

    Raises: InputError if there is none, with what there is.
    """
    try:
        if not folder.exists():
            raise InputError("the checkpoint folder does not exist", "Give a run's nerfstudio_models folder", folder)
        if not folder.is_dir():
            raise InputError("is no folder of checkpoints", "Give a single one as --load-checkpoint", folder)
        steps = _steps(folder)
        others = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise refusal(error, folder, "folder of checkpoints") from error
    if not steps:
        inside = folder / "nerfstudio_models"
        if inside.is_dir():
            raise InputError("the folder holds no checkpoint itself", f"Give {inside}", folder)
        named = f" of the name step-NUMBER.ckpt, but {', '.join(others[:4])}" if others else ""
        remedy = "Train until one is saved; a file of another name can be given to ns-train as --load-checkpoint"
        raise InputError(f"the folder holds no checkpoint{named}", remedy, folder)
    if step is not None and step not in steps:
        there = ", ".join(str(each) for each in steps)
        raise InputError(f"there is no checkpoint of step {step}", f"Choose from those that are there: {there}", folder)
    return require_file(steps[max(steps) if step is None else step], "checkpoint")


def checkpoint_to_resume(config: TrainerConfig) -> Path | None:
    """The checkpoint that ns-train is to resume from; None to begin anew.

    Raises: InputError if there is none where one is asked for.
    """
    if config.load_dir is not None:
        return find_checkpoint(Path(config.load_dir), config.load_step)
    if config.load_checkpoint is not None:
        return require_file(config.load_checkpoint, "checkpoint")
    if config.load_step is not None:
        raise InputError(f"--load-step is {config.load_step}, without --load-dir", "Give the folder of checkpoints")
    return None


def read_checkpoint(file: Path) -> dict[str, Any]:
    """A checkpoint of nerfstudio's format. Nothing that it names is run.

    Raises: InputError if it cannot be read; it then names the one before, if that is whole.
    """
    if require_file(file, "checkpoint").stat().st_size == 0:
        _refuse_checkpoint(file, "the checkpoint is empty")
    try:
        with compat.numpy_scalars_allowed():
            state = torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # by what it raises, torch says nothing about the kind of damage
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named is not None:
            _refuse_checkpoint(file, f"the checkpoint names {named[1]}, which none needs, and was not read")
        reason = str(error).strip().partition("\n")[0].split(". ")[0][:120] or type(error).__name__
        _refuse_checkpoint(file, f"the checkpoint cannot be read, as if cut off ({reason})", error)
    if not isinstance(state, dict) or not all(isinstance(state.get(name), kind) for name, kind in PARTS.items()):
        held = ", ".join(str(name) for name in list(state)[:4]) if isinstance(state, dict) else type(state).__name__
        _refuse_checkpoint(file, f"the file is no checkpoint of a run (it holds {held or 'nothing'})")
    return state


def _refuse_checkpoint(file: Path, problem: str, error: Exception | None = None) -> NoReturn:
    """Raises: InputError with the latest whole checkpoint before this one."""
    match = CHECKPOINT.fullmatch(file.name)
    earlier = [path for step, path in _steps(file.parent).items() if match is not None and step < int(match[1])]
    for path in reversed(earlier):
        try:
            with compat.numpy_scalars_allowed():
                torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception:
            continue
        raise InputError(problem, f"Move it away; the one before it, {path.name}, is whole", file) from error
    raise InputError(problem, "Give another one; no earlier one lies beside it", file) from error


@contextmanager
def fitting(file: Path, config: Any) -> Iterator[None]:
    """Within it, what a checkpoint holds is put into a run.

    Args:
        file: the checkpoint.
        config: of the run.
    Raises: InputError if they do not belong together.
    """
    try:
        yield
    except InputError:
        raise
    except (RuntimeError, KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        text = str(error)
        sizes = re.search(
            r"size mismatch for (\S+): copying a param with shape torch.Size\(\[(.*?)\]\) from checkpoint, "
            r"the shape in current model is torch.Size\(\[(.*?)\]\)",
            text,
        )
        names = {
            kind: re.findall(r'"([^"]+)"', (re.search(rf"{kind} key\(s\) in state_dict: (.*)", text) or [""] * 2)[1])
            for kind in ("Missing", "Unexpected")
        }
        from_method = _method_of(file)
        said = f" of {from_method}" if from_method not in (None, config.method_name) else ""
        run = f"a run of {config.method_name}"
        if said or any(names.values()):
            counts = [f"{len(names['Missing'])} parameters are missing" if names["Missing"] else ""]
            counts += [f"{len(names['Unexpected'])} are not of this run" if names["Unexpected"] else ""]
            examples = ", ".join((names["Missing"][:1] + names["Unexpected"])[:2])
            details = " and ".join(filter(None, counts)) + f", such as {examples}" if examples else "other contents"
        elif sizes is not None:
            there, here = (each.replace(", ", "×") or "1" for each in sizes.groups()[1:])
            details = f"{sizes[1]} has {there} numbers there and {here} here"
        else:
            details = f"{type(error).__name__}: {text.partition(chr(10))[0][:120]}"
        remedy = "Give the method and the options that it was trained with, which are in the config.yml of its run"
        raise InputError(f"the checkpoint{said} does not fit {run} ({details})", remedy, file) from error


def _method_of(file: Path) -> str | None:
    """The method of the run in whose folder a checkpoint lies, as its config.yml says."""
    try:
        text = require_file(file.parent.parent / "config.yml").read_text(encoding="utf-8")
    except (InputError, OSError, UnicodeDecodeError):
        return None
    found = re.search(r"^method_name: (\S+)$", text, re.MULTILINE)
    return None if found is None else found[1]


def load_into(pipeline: Pipeline, file: Path, config: TrainerConfig) -> int:
    """Give a pipeline the parameters of a checkpoint. Returns: its step."""
    state = read_checkpoint(file)
    with fitting(file, config):
        pipeline.load_pipeline(state["pipeline"], state["step"])
    return state["step"]


def load_checkpoints_here() -> None:
    """Let nerfstudio's commands load checkpoints of this suite's runs as `load_into` does."""

    def load(original: Callable[..., Any], config: TrainerConfig, pipeline: Pipeline) -> tuple[Path, int]:
        if not isinstance(config, SuiteConfig):
            return original(config, pipeline)
        assert config.load_dir is not None
        from nerfstudio.utils.rich_utils import CONSOLE

        file = find_checkpoint(config.load_dir, config.load_step)
        step = load_into(pipeline, file, config)
        CONSOLE.print(f":white_check_mark: Done loading checkpoint from {file}")
        return file, step

    compat.wrap("nerfstudio.utils.eval_utils", "eval_load_checkpoint", load)


def prepare_command(config: Any, load_config: Path, command: Any) -> None:
    """Look at what one of nerfstudio's commands needs, as soon as it has read the config of a run of this suite.

    Args:
        config: of the run. Its folder becomes the one that its checkpoints lie in.
        load_config: where it was read.
        command: with its options as attributes. Of others than nerfstudio's, nothing is known.
    Raises: InputError if checkpoint or data are missing, or what the command writes cannot be written.
    """
    known = type(command).__module__.startswith("nerfstudio.scripts.")
    if known:
        require_outputs(command)
    file = checkpoint_of(config, load_config)
    found = CHECKPOINT.fullmatch(file.name)
    assert found is not None
    config.load_step = int(found[1])
    if file.parent == load_config.parent / config.relative_model_dir:
        config.folder = load_config.parent
    require_data(config, load_config, getattr(command, "data", None) if known else None)


def require_outputs(command: Any) -> None:
    """Raises: InputError if a file or folder that a command of nerfstudio writes cannot be written."""
    kind, images = type(command).__name__, getattr(command, "output_format", None) == "images"
    for name in ("output_path", "output_dir", "render_output_path"):
        path = getattr(command, name, None)
        if path is None:
            continue
        option = f"--{name.replace('_', '-')}"
        if kind == "ComputePSNR" and name == "output_path" and path.suffix != ".json":
            raise InputError("the file for the figures is JSON", f"Give {option} the suffix .json", path)
        if name == "output_path" and images:
            path = path.parent / path.stem
        require_writable(path, option, folder=name != "output_path" or images or kind == "DatasetRender")
