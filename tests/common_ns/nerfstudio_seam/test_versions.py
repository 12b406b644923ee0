"""What differs between nerfstudio 1.1.5 and its main branch is told apart, on whichever of them is installed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig

from common_ns.nerfstudio_seam import versions
from common_ns.nerfstudio_seam.versions import all_images, in_training, set_training, steps_of_a_resume


def test_all_images_in_either_spelling():
    assert all_images(-1) and all_images(float("inf"))
    assert not all_images(1) and not all_images(40.0)
    assert all_images(VanillaDataManagerConfig().train_num_images_to_sample_from)


def test_datamanagers_of_either_kind_are_told_whether_they_train():
    plain, module = SimpleNamespace(), torch.nn.Linear(1, 1)
    assert in_training(plain) and in_training(module)
    set_training(plain, False)
    set_training(module, False)
    assert not in_training(plain) and not in_training(module)
    set_training(plain, True)
    assert in_training(plain) and not in_training(module)
    set_training(None, False)


@pytest.mark.parametrize(("counted", "rest"), [("config.max_num_iterations", 40), ("-", 100)])
def test_a_resume_is_as_long_as_the_trainer_counts(counted, rest, monkeypatch):
    text = "n = self.config.max_num_iterations" + (" - self._start_step" if counted == "-" else "")
    monkeypatch.setattr(versions.inspect, "getsource", lambda function: text)
    assert steps_of_a_resume(100, 60) == rest
