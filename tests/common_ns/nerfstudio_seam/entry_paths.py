"""What is loaded of nerfstudio, described, and what its own methods do: a script for a process of its own.

    python entry_paths.py with|without DATA OUTPUT

`with` or `without` this suite's methods. OUTPUT, a JSON file, gets: descriptions of all that nerfstudio's modules and
classes hold and of what else could be changed for all of the process, after the method list is loaded ("loaded") and
after nerfstudio's own methods have been used ("used"); what became of these ("results"); and, with this suite's
methods, descriptions after a run of this suite has been set up ("ours") and what then becomes of
nerfstudio's ("results_beside").
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib
import importlib.metadata
import inspect
import io
import json
import os
import re
import sys
import threading
import warnings
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np

PACKAGES = ("common_ns", "miner_ns", "mipnerf_ns", "depthnerf_ns", "hashnffb_sdf_ns", "method_configs")
METHOD_LISTS = {
    "configs.method_configs": {"all_methods", "all_descriptions", "AnnotatedBaseConfigUnion"},
    "configs.dataparser_configs": {"external_dataparsers", "_", "all_dataparsers", "DataParserUnion"},
    "plugins.registry": {"entry_points"},
    "utils.writer": {"GLOBAL_BUFFER", "EVENT_STORAGE", "EVENT_WRITERS"},
    "utils.profiler": {"PROFILER"},
}
"""What grows by the suite's methods, and is to; what hides them; and where nerfstudio keeps times, which differ from
run to run: by module. The same objects are left out in modules that import them."""


def hide_the_suite() -> None:
    """Let nerfstudio find no method and no dataparser of this suite."""
    original = importlib.metadata.entry_points

    def entry_points(**params: Any) -> Any:
        found = original(**params)
        if not params.get("group", "").startswith("nerfstudio."):
            return found
        return importlib.metadata.EntryPoints(each for each in found if each.value.split(".")[0] not in PACKAGES)

    importlib.metadata.entry_points = entry_points  # type: ignore[assignment]


def code_words(code: CodeType) -> list[str]:
    """What a function's code does, and where it stands."""
    inner = [word for each in code.co_consts if isinstance(each, CodeType) for word in code_words(each)]
    plain = [repr(each) for each in code.co_consts if not isinstance(each, (CodeType, frozenset))]
    return [code.co_filename, str(code.co_firstlineno), code.co_code.hex(), *code.co_names, *plain, *inner]


def described(value: Any, depth: int = 0) -> str:
    """A value in words that are the same in each process that holds the same."""
    if isinstance(value, (staticmethod, classmethod)):
        return f"{type(value).__name__} {described(value.__func__, depth)}"
    if isinstance(value, property):
        return f"property {[described(each, depth) for each in (value.fget, value.fset, value.fdel)]}"
    if isinstance(value, MethodType):
        return f"method of {type(value.__self__).__name__} {described(value.__func__, depth)}"
    if isinstance(value, FunctionType):
        words = code_words(value.__code__)
        for cell in value.__closure__ or () if depth < 4 else ():
            with contextlib.suppress(ValueError):  # an empty cell
                words.append(described(cell.cell_contents, depth + 1))
        digest = hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]
        return f"function {value.__module__}.{value.__qualname__} {digest}"
    if isinstance(value, type):
        return f"class {value.__module__}.{value.__qualname__}"
    if isinstance(value, ModuleType):
        return f"module {value.__name__}"
    text = re.sub(r"0x[0-9a-f]+|id=\d+", "", repr(value))
    text = text if len(text) < 200 else hashlib.sha256(text.encode()).hexdigest()
    return f"{type(value).__module__}.{type(value).__qualname__} {text}"


def describe() -> dict[str, str]:
    """All that nerfstudio's modules and classes hold, and what else could be changed for all of the process."""
    import torch

    modules = {module: vars(sys.modules[f"nerfstudio.{module}"]) for module in METHOD_LISTS}
    lists = [modules[module][name] for module, names in METHOD_LISTS.items() for name in names]
    lists.append(modules["configs.dataparser_configs"]["AnnotatedDataParserUnion"])
    result: dict[str, str] = {}
    for module_name, module in sorted(sys.modules.items()):
        if module_name.split(".")[0] != "nerfstudio":
            continue
        for name, value in list(vars(module).items()):
            full = f"{module_name}.{name}"
            submodule = isinstance(value, ModuleType) and value.__name__ == full
            if submodule or any(value is each for each in lists) or name.startswith("__"):
                continue
            result[full] = described(value)
            if inspect.isclass(value) and value.__module__ == module_name:
                for attribute, inner in list(vars(value).items()):
                    if attribute not in ("__dict__", "__weakref__", "__doc__", "_abc_impl", "__annotations__"):
                        result[f"{full}.{attribute}"] = described(inner)
    result["sys.excepthook"] = described(sys.excepthook)
    result["threading.excepthook"] = described(threading.excepthook)
    result["sys.gettrace()"] = described(sys.gettrace())
    result["sys.argv"] = described(sys.argv[1:2])
    result["PATH"] = os.environ["PATH"]
    result["warnings.filters"] = described([str(each) for each in warnings.filters])
    result["warnings.showwarning"] = described(warnings.showwarning)
    result["torch.load"] = described(torch.load)
    result["safe globals"] = described(sorted(map(str, torch.serialization.get_safe_globals())))
    return result


def refusal(config: Any, pipeline: Any) -> str:
    """How the interpreter ends where ns-export refuses a run by an assertion, as it does those without an SDF."""
    from nerfstudio.scripts import exporter

    said, load = io.StringIO(), exporter.eval_setup
    exporter.eval_setup = lambda *_, **__: (config, pipeline, None, 0)
    try:
        exporter.ExportMarchingCubesMesh(load_config=Path("config.yml"), output_dir=Path("mesh")).main()
    except AssertionError:
        with contextlib.redirect_stderr(said):
            sys.excepthook(*sys.exc_info())
    exporter.eval_setup = load
    lines = said.getvalue().strip().splitlines()
    return lines[-1] if len(lines) == 1 else f"{lines[0]} … {lines[-1]}"


def use_nerfstudio(data: Path, output: Path) -> dict[str, Any]:
    """What becomes of nerfacto and splatfacto, as far as a CPU goes."""
    import torch
    import tyro
    import yaml
    from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion, all_methods
    from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
    from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
    from nerfstudio.models.base_model import Model
    from nerfstudio.models.splatfacto import SplatfactoModel
    from nerfstudio.scripts import train
    from nerfstudio.scripts.viewer import run_viewer
    from nerfstudio.utils import eval_utils
    from nerfstudio.viewer.render_state_machine import RenderStateMachine
    from nerfstudio.viewer.viewer import Viewer
    from nerfstudio.viewer_legacy.server.viewer_utils import IOChangeException, SetTrace

    results: dict[str, Any] = {"configs read again": {}}
    for name in ("nerfacto", "splatfacto"):
        text = yaml.dump(all_methods[name])
        for reader in (train, eval_utils):
            again = reader.yaml.load(text, Loader=yaml.Loader)
            same = again == all_methods[name] and yaml.dump(again) == text
            results["configs read again"][f"{name} by {reader.__name__}"] = same
    words = ["nerfacto", "--machine.device-type", "cpu", "--max-num-iterations", "2", "--vis", "tensorboard"]
    words += ["--pipeline.model.implementation", "torch", "--pipeline.model.num-levels", "4"]
    words += ["--pipeline.model.log2-hashmap-size", "10", "--output-dir", str(output), "--timestamp", "run"]
    config = tyro.cli(AnnotatedBaseConfigUnion, args=words)
    results["nerfacto's command line"] = [config.method_name, str(config.pipeline.model), str(config.viewer)]
    config.pipeline.datamanager = VanillaDataManagerConfig(
        dataparser=BlenderDataParserConfig(data=data), data=data, train_num_rays_per_batch=64
    )
    config.save_config()
    train._set_random_seed(config.machine.seed)
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    trainer.train()
    trainer.pipeline.eval()
    trainer.pipeline.model.field.eval()
    parameters = torch.cat([each.detach().flatten() for each in trainer.pipeline.model.parameters()])
    results["nerfacto's parameters"] = hashlib.sha256(parameters.numpy().tobytes()).hexdigest()

    results["nerfacto's refusal"] = refusal(config, trainer.pipeline)

    def start(config: Any, **_: Any) -> None:
        raise InterruptedError(config.websocket_host)

    before = run_viewer.ViewerState, run_viewer.eval_setup
    run_viewer.ViewerState, run_viewer.eval_setup = start, lambda *_, **__: (config, trainer.pipeline, None, 0)
    try:
        run_viewer.RunViewer(load_config=Path("config.yml")).main()
    except InterruptedError as error:
        results["ns-viewer's address"] = str(error)
    run_viewer.ViewerState, run_viewer.eval_setup = before

    splats = all_methods["splatfacto"].pipeline.model
    splats.num_random = 10
    model = splats.setup(scene_box=trainer.pipeline.model.scene_box, num_train_data=4, device="cpu")
    assert isinstance(model, SplatfactoModel)
    viewer: Any = SimpleNamespace(
        render_statemachines={}, ready=False, get_model=lambda: model, control_panel=SimpleNamespace(max_res=1)
    )
    client: Any = SimpleNamespace(client_id=1, camera=SimpleNamespace(on_update=lambda function: function))
    Viewer.handle_new_client(viewer, client)
    renders = viewer.render_statemachines[1]
    renders.running = False
    renders.join()
    results["splatfacto's renders"] = [type(viewer.render_statemachines).__name__, described(type(renders))]
    results["an image of one pixel"] = renders._calculate_image_res(3.0)
    lines = []

    def render() -> None:
        lines.append(1)
        renders.interrupt_render_flag = True
        lines.append(2)

    try:
        with SetTrace(renders.check_interrupt):
            render()
    except IOChangeException:
        lines.append(0)
    results["lines until a render is given up"] = lines
    assert isinstance(renders, RenderStateMachine) and Model.forward is not None
    return results


def use_ours(data: Path, output: Path) -> str:
    """Set up a run of this suite as ns-train does; returns how ns-export refuses it."""
    from nerfstudio.configs.method_configs import all_methods

    config = copy.deepcopy(all_methods["mip-nerf-small"])
    config.data = config.pipeline.datamanager.data = data
    config.output_dir, config.vis, config.timestamp = output, "tensorboard", "run"
    config.save_config()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    return refusal(config, trainer.pipeline)


def main(suite: str, data: Path, output: Path) -> None:
    os.environ["PATH"] = str(Path(sys.executable).parent)  # no ffmpeg there
    sys.argv = ["ns-train", "nerfacto"]
    if suite == "without":
        hide_the_suite()
    for script in ("train", "eval", "render", "exporter", "viewer.run_viewer"):
        importlib.import_module(f"nerfstudio.scripts.{script}")
    import torch
    import torchmetrics.image.lpip

    class NoLpips(torch.nn.Module):
        """In place of a network that would be downloaded."""

        def __init__(self, **_: Any) -> None:
            super().__init__()

    torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity = NoLpips  # type: ignore[assignment]
    datasets = importlib.import_module("nerfstudio.data.datasets.base_dataset")
    if hasattr(datasets, "pil_to_numpy"):  # of nerfstudio's main branch, which fails with Pillow 13
        datasets.pil_to_numpy = np.asarray
    torch.set_num_threads(1)
    runs = output.with_suffix(".runs")
    found: dict[str, Any] = {"loaded": describe()}
    found["results"] = use_nerfstudio(data, runs)
    found["used"] = describe()
    found["methods"] = sorted(sys.modules["nerfstudio.configs.method_configs"].all_methods)
    if suite == "with":
        found["our_refusal"] = use_ours(data, runs)
        found["ours"] = describe()
        found["results_beside"] = use_nerfstudio(data, runs)
    output.write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
