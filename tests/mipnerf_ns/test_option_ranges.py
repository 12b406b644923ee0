"""Numbers that mean nothing end in one line that names the option, whichever the method is."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from common_ns.errors import InputError
from common_ns.option_ranges import ABOVE_0, ANY, BELOW_1, FROM_0, FROM_1, check_ranges
from mipnerf_ns.model import MipNerfModelConfig
from mipnerf_ns.model360 import MipNerf360ModelConfig
from mipnerf_ns.option_ranges import RANGES
from mipnerf_ns.zip_model import ZipNerfModelConfig
from tests.mipnerf_ns import test_model, test_zip_model, tiny360

FIELDS: dict[type, Callable] = {
    MipNerfModelConfig: test_model.build,
    MipNerf360ModelConfig: tiny360.build,
    ZipNerfModelConfig: test_zip_model.build,
}
NO_NUMBER_OF_THE_SUITES = {"collider_params"}


def has_numbers(value: dataclasses.Field) -> bool:
    return re.search(r"\b(int|float)\b", str(value.type)) is not None


@pytest.mark.parametrize("config", FIELDS)
def test_every_number_of_a_field_has_a_range(config):
    names = {value.name for value in dataclasses.fields(config) if has_numbers(value)} - NO_NUMBER_OF_THE_SUITES
    assert names and names <= RANGES.keys()


def test_every_range_is_of_an_option():
    assert set(RANGES) <= {value.name for config in FIELDS for value in dataclasses.fields(config)}


def wrong() -> list:
    cases = []
    for config, build in FIELDS.items():
        defaults = config()
        for name, allowed in RANGES.items():
            if not hasattr(defaults, name):
                continue
            values = {ANY: [], ABOVE_0: [0.0, -0.5], FROM_0: [-1], FROM_1: [0, -3], BELOW_1: [-0.1, 1.0]}[allowed]
            usual = getattr(defaults, name)
            for value in [*values, math.nan, math.inf]:
                given = value
                if isinstance(usual, tuple):
                    given = (*usual[:-1], value)
                elif isinstance(usual, dict):
                    given = {**usual, "rgb_loss_fine": value}
                cases.append(pytest.param(build, name, given, value, id=f"{config.__name__}-{name}-{value}"))
    return cases


@pytest.mark.parametrize(("build", "name", "given", "value"), wrong())
def test_wrong_numbers_are_one_line(build, name, given, value):
    option = name.replace("_", "-")
    with pytest.raises(InputError) as caught:
        build(**{name: given})
    assert str(caught.value).startswith(f"{option} is {value:g}. Give ")
    assert str(caught.value).endswith(f" to --pipeline.model.{option}.") and "\n" not in str(caught.value)


def test_what_is_not_given_is_not_looked_at():
    options = SimpleNamespace(none=None, empty=(), several=(0.0, 3), by_name={"a": 0.0})
    check_ranges(options, {"none": ABOVE_0, "empty": ABOVE_0, "several": FROM_0, "by_name": FROM_0, "absent": FROM_1})
    for name in ("several", "by_name"):
        with pytest.raises(InputError, match=r"is 0\. Give a number above 0"):
            check_ranges(options, {name: ABOVE_0})
