"""docs/reference/configuration.md names whatever settings.py and trace.py read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from theta_daemon import settings, trace

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = (ROOT / "docs" / "reference" / "configuration.md").read_text("utf-8")
SOURCE = Path(settings.__file__).read_text("utf-8")

KEYS = sorted(set(re.findall(r"\b(?:theta|lfs|core)\.[a-z]+[A-Za-z]*\b", settings.__doc__ or "")))
VARIABLES = re.findall(r"^    ([A-Z_]+) ", settings.__doc__ or "", re.MULTILINE)
READ = set(re.findall(r'"((?:theta|lfs|core)\.[A-Za-z]+|(?:GIT|THETA)_[A-Z_]+)"', SOURCE))


@pytest.mark.parametrize("name", [*KEYS, *VARIABLES, trace.VARIABLE])
def test_it_has_a_row(name: str) -> None:
    assert re.search(rf"^\| `{re.escape(name)}` \| [^|]+ \| [^|]+ \|$", REFERENCE, re.MULTILINE)


def test_the_module_names_what_it_reads() -> None:
    named = {*KEYS, *VARIABLES}
    assert {"theta.compatible", "theta.memoryLimit"} <= named
    assert READ - named - {*settings._NOT_FOR_CHILDREN} == {"GIT_OPTIONAL_LOCKS", "GIT_PAGER"}  # set for children
