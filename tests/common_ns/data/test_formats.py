"""The table of formats: the documentation shows it as it is, and its commands name what there is."""

from __future__ import annotations

import re
from pathlib import Path

from nerfstudio.configs.dataparser_configs import all_dataparsers
from nerfstudio.configs.method_configs import all_methods

from common_ns.data.formats import FORMATS, as_table

PAGE = Path(__file__).parents[3] / "docs" / "data.md"


def test_the_page_shows_the_table():
    assert as_table() in PAGE.read_text(encoding="utf-8"), "write it again: print(common_ns.data.formats.as_table())"


def test_commands_name_dataparsers_and_methods_that_exist():
    for each in FORMATS:
        assert each.dataparser is None or each.dataparser in all_dataparsers, each.name
        method = re.search(r"ns-train (\S+)", each.command)
        assert method is not None and (method[1] == "METHOD" or method[1] in all_methods), each.command
        named = re.search(r"--data \S+ (\S+)$", each.command)
        if named is not None and "(" not in each.command:
            assert named[1] in all_dataparsers, each.command
