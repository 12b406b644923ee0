"""What nerfstudio's viewer finds in the model: controls in order, a first view of everything, a redraw at the end."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.engine.callbacks import TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.viewer.utils import parse_object
from nerfstudio.viewer.viewer_elements import ViewerElement

from common_ns.cameras.first_view import MARGIN
from common_ns.cameras.geometry import look_at
from miner_ns.model import MinerModel, MinerModelConfig
from miner_ns.options import FitOptions
from miner_ns.signal import Signal
from miner_ns.whole_view import WholeView, whole_position


def untrained(shape: tuple[int, ...], samples: np.ndarray | None = None) -> MinerModel:
    grid_to_world = torch.cat([torch.eye(3)[:, : len(shape)], torch.zeros(3, 1)], dim=1)
    half = torch.ones(3)
    samples = np.zeros(shape, np.uint8) if samples is None else samples
    options = FitOptions(num_levels=2, block_size=8, epochs=(25,), implementation="torch")
    return MinerModelConfig(fit=options).setup(
        scene_box=SceneBox(aabb=torch.stack([-half, half])),
        num_train_data=1,
        metadata={"signal": Signal(samples, len(shape)), "grid_to_world": grid_to_world},
    )


@pytest.mark.parametrize("shape", [(16, 16), (8, 8, 8)])
def test_the_viewer_finds_the_controls_of_an_untrained_model(shape):
    """It reads all attributes of a model, whatever it is of and before anything is trained."""
    found = parse_object(untrained(shape), ViewerElement, "model")
    names = ["Level of detail", "Level bias", "Real-time preview", "Show blocks", "Show all"]
    assert [element.name for _, element in found] == names


def test_the_viewer_redraws_when_training_has_ended():
    model, seen = untrained((16, 16)), []
    trainer = SimpleNamespace(viewer_state=SimpleNamespace(update_step=seen.append), stop_training=False)
    callbacks = model.get_training_callbacks(TrainingCallbackAttributes(None, None, None, trainer))
    model.show_blocks.cb_hook = lambda element: seen.append("redraw")
    for callback in callbacks:
        callback.run_callback_at_location(7, TrainingCallbackLocation.AFTER_TRAIN)
    assert seen == [7, "redraw"] and not trainer.stop_training
    trainer.viewer_state = None  # without a viewer
    for callback in callbacks:
        callback.run_callback_at_location(7, TrainingCallbackLocation.AFTER_TRAIN)


def test_a_fit_that_is_watched_goes_on_in_small_portions_and_is_the_same(monkeypatch):
    monkeypatch.setattr("miner_ns.model.WATCHED_SECONDS", 0.0)  # of one epoch each
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16), dtype=np.uint8)
    alone, watched = untrained((16, 16), pixels), untrained((16, 16), pixels)
    watched.viewer_adapter.viewer = SimpleNamespace(render_statemachines={0: None})
    portions = [0, 0]
    for number, model in enumerate((alone, watched)):
        while model.train_portion() is not None:
            portions[number] += 1
    assert portions[1] > 5 * portions[0]
    for level, trained in alone.fit.hierarchy.levels.items():
        assert torch.equal(trained.theta, watched.fit.hierarchy.levels[level].theta)


@pytest.mark.parametrize("half_size", [(1.0, 0.3, 0.0), (0.2, 1.0, 0.0), (1.0, 1.0, 1.0), (0.1, 1.0, 0.4)])
@pytest.mark.parametrize("aspect", [0.5, 1.4, 3.0])
def test_all_of_the_signal_is_in_the_first_view(half_size, aspect):
    fov = math.radians(75.0)
    position = whole_position(half_size, fov, aspect)
    pose = look_at(position[None], np.zeros(3), np.array([0.0, 1.0, 0.0]))[0]
    corners = np.array(list(itertools.product((-1, 1), repeat=3))) * half_size
    local = (corners - pose[:, 3]) @ pose[:, :3]
    assert (local[:, 2] < 0).all()
    share = np.abs(local[:, :2] / -local[:, 2:]) / (math.tan(fov / 2) * np.array([aspect, 1.0]))
    assert 0.8 / MARGIN < share.max() <= 1.0


def test_each_browser_begins_with_that_view_and_the_button_returns_to_it():
    class Camera:
        fov, aspect = 1.0, 1.5
        position = look_at = up_direction = None

    clients = [SimpleNamespace(camera=Camera(), atomic=lambda: _Nothing()) for _ in range(2)]
    button = WholeView((1.0, 0.5, 0.0))
    button._server = SimpleNamespace(get_clients=lambda: dict(enumerate(clients)))
    button._place(clients[0])
    assert clients[0].camera.position[2] > 0 and clients[1].camera.position is None
    button.cb_hook(button)
    for client in clients:
        assert np.allclose(client.camera.look_at, 0.0) and np.allclose(client.camera.up_direction, (0.0, 1.0, 0.0))


class _Nothing:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None
