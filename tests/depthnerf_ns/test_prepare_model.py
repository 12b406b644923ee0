"""Models of the transformers library: loaded as users' models are, from a folder with small random weights."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from common_ns.checks import InputError
from depthnerf_ns.prepare.model import ModelPredictions, kind_of_model
from depthnerf_ns.prepare.options import PrepareOptions
from depthnerf_ns.prepare.run import prepare


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with three models of different families, each of a few thousand random weights."""
    transformers = pytest.importorskip("transformers")
    import torch

    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    backbone = transformers.Dinov2Config(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=56,
        patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
    )
    anything = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=16,
        patch_size=14,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=8,
    )
    transformers.DepthAnythingForDepthEstimation(anything).save_pretrained(folder / "depth_anything")
    size = {"height": 56, "width": 56}
    processor = transformers.DPTImageProcessor(size=size, ensure_multiple_of=14, keep_aspect_ratio=True)
    processor.save_pretrained(folder / "depth_anything")
    dpt = transformers.DPTConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=64,
        patch_size=16,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        is_hybrid=False,
        use_auxiliary_head=False,
    )
    transformers.DPTForDepthEstimation(dpt).save_pretrained(folder / "dpt")
    transformers.DPTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder / "dpt")
    glpn = transformers.GLPNConfig(
        hidden_sizes=[8, 8, 8, 8],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 1, 1],
        decoder_hidden_size=8,
    )
    transformers.GLPNForDepthEstimation(glpn).save_pretrained(folder / "glpn")
    transformers.GLPNImageProcessor(size_divisor=32).save_pretrained(folder / "glpn")
    return folder


@pytest.mark.parametrize(
    ("name", "kind"), [("depth_anything", "inverse-depth"), ("dpt", "inverse-depth"), ("glpn", "metric")]
)
def test_predictions_have_the_images_size_and_the_models_kind(models, tmp_path, name, kind):
    picture = np.random.default_rng(0).integers(0, 256, (72, 100, 4), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    predictor = ModelPredictions(str(models / name))
    assert predictor.kind == kind
    values = predictor({"file_path": str(tmp_path / "a.png")}, (50, 36))
    assert values.shape == (36, 50) and values.dtype == np.float32
    assert np.nanstd(values) > 0
    again = ModelPredictions(str(models / name), kind="depth")
    assert again.kind == "depth", "what the user says counts"


def test_a_random_model_is_reported_as_such(models, depth_scene, tmp_path):
    """The whole command with a model: it runs, and says that the prediction is worth nothing."""
    options = PrepareOptions(
        data=depth_scene,
        source="mono",
        reference="sensor",
        model=str(models / "depth_anything"),
        output_path=tmp_path / "out",
    )
    try:
        report = prepare(options)
    except InputError as error:
        assert "falls where the reference grows" in str(error)
        return
    assert not report.of("ok")
    assert any("training may do better without this depth" in line for line in report.lines())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no-such-organization/no-such-model", r"neither a folder nor in the local cache. .*--download"),
        ("./nowhere", r"\./nowhere: the folder of the model does not exist"),
        ("/no/where", "the folder of the model does not exist"),
    ],
)
def test_models_that_are_not_there(name, message):
    pytest.importorskip("transformers")
    with pytest.raises(InputError, match=message) as caught:
        ModelPredictions(name)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_model(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(InputError, match="cannot be loaded as a depth-estimation model"):
        ModelPredictions(str(tmp_path))


def test_the_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"transformers is not installed .*pip install 'fieldsuite\[mono\]'"):
        ModelPredictions("any")


def test_kinds_that_the_configuration_tells():
    def config(name: str, **more: object) -> SimpleNamespace:
        return SimpleNamespace(model_type=name, **more)

    assert kind_of_model(config("depth_anything", depth_estimation_type="metric")) == "metric"
    assert kind_of_model(config("depth_anything", depth_estimation_type="relative")) == "inverse-depth"
    assert kind_of_model(config("zoedepth")) == kind_of_model(config("depth_pro")) == "metric"
    assert kind_of_model(config("dpt", backbone_config=config("bit"))) == "inverse-depth"
    assert kind_of_model(config("dpt", backbone_config=config("dinov2"))) is None, "trained on metric depth"
    assert kind_of_model(config("something new")) is None
