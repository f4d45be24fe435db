"""`python -m bench.publish FILE`: writes docs/performance.* from the stored results of one whole run.

`make bench` does it at its end. So every number in the documentation's tables and plot comes from one run, which the
tables name by commit and date: docs/performance.json is that run, docs/performance.svg its plot, and in
docs/performance.md the lines between the two marks are rewritten.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report import Document, number, spread, verdict

DOCS = Path(__file__).resolve().parents[1] / "docs"
BEGIN, END = "<!-- written by make bench -->", "<!-- end of what make bench writes -->"
_GOOD, _BAD, _MARK = "#1b7837", "#b2182b", "#222222"


def publish(document: Document, docs: Path = DOCS) -> None:
    """Write the plot, the tables and the data of a run below `docs`."""
    page = docs / "performance.md"
    before, begin, rest = page.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"bench: {page.name} has lost the marks between which the tables go")
    (docs / "performance.json").write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    plot(document, docs / "performance.svg")
    page.write_text("\n".join([before + BEGIN, *tables(document), END + after]), "utf-8")


def tables(document: Document) -> Iterator[str]:
    """Yield the lines of the page: what must be reached, then the seconds and peaks behind it."""
    machine = document["machine"]
    commit = machine["commit"][:10] + (" and uncommitted changes" if machine["uncommitted"] else "")
    yield ""
    yield f"One run on {document['time'][:10]} at commit {commit}, in {document['minutes']:.0f} minutes:"
    yield f"{machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB of memory, Linux {machine['kernel']},"
    yield f"Python {machine['python']}, {machine['git']}, {machine['git_lfs'] or 'no git-lfs'}."
    yield ""
    yield "![measured, with what must be reached](performance.svg)"
    yield ""
    yield from _row("case", "what", "median (min .. max)", "must, aim: at most")
    yield from _row(*["---"] * 4)
    for case in document["cases"]:
        for target in case["targets"]:
            if target["must"] is not None:
                yield from _row(case["name"], target["title"], spread(target["values"]), verdict(target))
    for case in document["cases"]:
        yield from _details(case)
    yield ""


def _details(case: Document) -> Iterator[str]:
    yield ""
    yield f"### {case['name']}"
    yield ""
    yield "; ".join(f"{name} ({size / 1e6:.4g} MB)" for name, size in case["bytes"].items()) + ". "
    noise = ", ".join(f"{step} {value:.0%}" for step, value in case["noise"].items())
    load = " to ".join(f"{value:.1f}" for value in case["load_average"])
    yield f"Load average {load}" + (f"; the floor's own runs lie apart by {noise}." if noise else ".")
    for unit, table in (("seconds", case["seconds"]), ("peak of the filter, MiB", case["peak_mebibytes"])):
        if not table:
            continue
        yield ""
        yield from _row(unit, "runs", *case["steps"])
        yield from _row(*["---"] * (2 + len(case["steps"])))
        for series, steps in table.items():
            runs = max(map(len, steps.values()))
            yield from _row(series, str(runs), *(spread(steps.get(step, [])) for step in case["steps"]))
    shown = [target for target in case["targets"] if target["must"] is None]
    if shown:
        yield ""
        yield from _row("to compare", "median (min .. max)")
        yield from _row("---", "---")
        for target in shown:
            yield from _row(target["title"], spread(target["values"]))


def _row(*cells: str) -> Iterator[str]:
    yield "| " + " | ".join(cells) + " |"


def plot(document: Document, path: Path) -> None:
    """Draw every number that has a must: against the floor, against git-lfs, and the rest as a part of its must."""
    panels: dict[str, list[tuple[str, Document]]] = {
        "seconds, git's own pipe = 1": [],
        "seconds, git-lfs = 1": [],
        "everything else, what must be reached = 1": [],
    }
    against_floor, against_lfs, rest = panels.values()
    for case in document["cases"]:
        for target in case["targets"]:
            if target["must"] is None or not target["values"]:
                continue
            plain = target["kind"] == "ratio"
            panel = {"floor": against_floor, "git-lfs": against_lfs}.get(target["against"], rest) if plain else rest
            panel.append((case["name"], target))
    used = {title: rows for title, rows in panels.items() if rows}
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "theta-daemon", "font.size": 8})
    figure = Figure(figsize=(9, 0.6 * len(used) + 0.24 * sum(map(len, used.values()))), layout="constrained")
    axes = figure.subplots(len(used), 1, squeeze=False, height_ratios=[len(rows) + 2 for rows in used.values()])
    for panel_axes, (title, rows) in zip(axes[:, 0], used.items(), strict=True):
        _panel(panel_axes, title, rows, as_part=rows is rest)
    figure.supxlabel("dot: median, line: min to max, thick mark: must, thin mark: aim", fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def _panel(axes: Axes, title: str, rows: list[tuple[str, Document]], *, as_part: bool) -> None:
    labels = []
    for place, (case, target) in enumerate(rows):
        unit = target["must"] if as_part else 1.0
        low, middle, high = (choose(target["values"]) / unit for choose in (min, median, max))
        color = _GOOD if median(target["values"]) <= target["must"] else _BAD
        axes.plot([low, high], [place, place], color=color, linewidth=2, alpha=0.5, solid_capstyle="butt")
        axes.plot(middle, place, "o", color=color, markersize=4)
        axes.plot(target["must"] / unit, place, "|", color=_MARK, markersize=11, markeredgewidth=2)
        if target["aim"] is not None:
            axes.plot(target["aim"] / unit, place, "|", color=_MARK, markersize=7, markeredgewidth=1, alpha=0.6)
        labels.append(f"{case}, {target['title']}: {number(median(target['values']))}")
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_title(title, fontsize=9, loc="left")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    publish(json.loads(Path(sys.argv[1]).read_text("utf-8")))
