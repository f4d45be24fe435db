from __future__ import annotations

import json
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import report
from bench.cases import ADD, CHECKOUT, FLOOR, LFS, OURS, Case, Target
from bench.data import DataSet
from bench.measure import Run
from bench.publish import BEGIN, END, publish
from bench.report import Document, Result


@pytest.fixture
def document() -> Document:
    targets = (
        Target(CHECKOUT, OURS, FLOOR, must=2.0, aim=1.4),
        Target(ADD, OURS, LFS, must=0.4),
        Target(CHECKOUT, OURS, FLOOR, must=0.5, kind="more"),
        Target(ADD, OURS, FLOOR),
    )
    result = Result(Case("case", (DataSet("a file", 1, 1, 100),), targets=targets), load=[0.5, 1.5])
    for ours in (2.0, 3.0):
        result.add(OURS, Run({ADD: ours, CHECKOUT: ours}, {ADD: 70.0}))
        result.add(FLOOR, Run({ADD: 1.0, CHECKOUT: 1.0}))
        result.add(LFS, Run({ADD: 4.0}))
    return report.document([result], time.gmtime(0), time.monotonic())


def page(folder: Path, text: str) -> Path:
    path = folder / "performance.md"
    path.write_text(text, "utf-8")
    return path


def test_only_what_is_between_the_marks_is_written(tmp_path: Path, document: Document) -> None:
    path = page(tmp_path, f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n")
    publish(document, tmp_path)
    written = path.read_text("utf-8")
    assert written.startswith(f"before\n\n{BEGIN}\n")
    assert written.endswith(f"\n{END}\n\nafter\n")
    assert "old" not in written
    assert "| case | checkout: theta-daemon / floor | 2.5 (2 .. 3) | must 2 missed, aim 1.4 missed |" in written
    assert "| case | add: theta-daemon / git-lfs | 0.625 (0.5 .. 0.75) | must 0.4 missed |" in written
    assert "| add: theta-daemon / floor | 2.5 (2 .. 3) |" in written
    assert json.loads((tmp_path / "performance.json").read_text("utf-8")) == json.loads(json.dumps(document))


def test_publishing_again_changes_nothing(tmp_path: Path, document: Document) -> None:
    page(tmp_path, f"{BEGIN}\n{END}\n")
    publish(document, tmp_path)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    publish(document, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first


def test_the_plot_shows_every_must(tmp_path: Path, document: Document) -> None:
    page(tmp_path, f"{BEGIN}\n{END}\n")
    publish(document, tmp_path)
    plot = "".join(ElementTree.parse(tmp_path / "performance.svg").getroot().itertext())  # noqa: S314 - our own file
    for label in (
        "case, checkout: theta-daemon / floor: 2.5",
        "case, add: theta-daemon / git-lfs: 0.625",
        "case, checkout: theta-daemon less floor, seconds: 1.5",
    ):
        assert label in plot
    assert "add: theta-daemon / floor" not in plot


def test_a_page_without_the_marks_is_left_alone(tmp_path: Path, document: Document) -> None:
    path = page(tmp_path, f"{BEGIN}\nnothing ends here\n")
    with pytest.raises(SystemExit, match="marks"):
        publish(document, tmp_path)
    assert path.read_text("utf-8") == f"{BEGIN}\nnothing ends here\n"
