"""The base scene of the tables, once per process."""

from __future__ import annotations

import pytest

from tests.odd_inputs.kit import BaseScene


@pytest.fixture(scope="session")
def base_scene(tmp_path_factory) -> BaseScene:
    return BaseScene(tmp_path_factory.mktemp("base"))
