"""A run's config is read as ns-train wrote it; what is not one is named in one line."""

from __future__ import annotations

import pytest
import yaml
from nerfstudio.engine.trainer import TrainerConfig

from common_ns.errors import InputError
from common_ns.nerfstudio_seam.runs import read_run_config


def test_a_config_is_read_as_it_was_written(tmp_path):
    config = TrainerConfig(method_name="some-method", load_step=7)
    (tmp_path / "config.yml").write_text(yaml.dump(config))
    assert read_run_config(tmp_path / "config.yml") == config


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"[1, 2]", "holds a list, not the config of a run"),
        (b"a: 1", "holds a dict, not the config of a run"),
        (b"a: [", "cannot be read as a nerfstudio config"),
        (b"!!python/object:no_such_package.Config {}", "cannot be read as a nerfstudio config"),
        (b"\xff\xfe\xfa", "cannot be read as a nerfstudio config"),
    ],
)
def test_a_missing_or_foreign_config_is_named(tmp_path, content, message):
    file = tmp_path / "config.yml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=rf"config\.yml: {message}") as error:
        read_run_config(file)
    assert "\n" not in str(error.value)
