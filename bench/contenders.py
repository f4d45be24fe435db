"""Who takes part: how each filter is set up in a repository, and what its checkout may be held to."""

from __future__ import annotations

import compileall
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.cases import ADD, AGAIN, CHECKOUT, COMPATIBLE, FLOOR, LFS, PEER, SPLICED, STATUS, VARIANTS

ROOT = Path(__file__).resolve().parents[1]
EVERY_STEP = frozenset({ADD, CHECKOUT, AGAIN, STATUS})
PEER_BIN = ROOT / ".venv-git-theta" / "bin"


@dataclass(frozen=True, slots=True)
class Contender:
    """A filter, and the configuration and environment that its own documentation gives it.

    `configuration` may say `{originals}`: the folder of the files as they are.
    """

    name: str
    filter: str
    process: str | None
    configuration: Mapping[str, str]
    environment: Mapping[str, str] = field(default_factory=dict)
    bin: Path | None = None
    steps: frozenset[str] = EVERY_STEP
    same_bytes: bool = True
    most_runs: int | None = None
    missing: str | None = None


def contenders(tools: Path) -> dict[str, Contender]:
    """Return everyone, by name; `tools` holds what `build_tools` made. `missing` says who cannot take part, and why."""
    ours = Path(sys.executable).parent
    peer = "git-theta-filter"
    everyone = (
        *(
            Contender(
                name,
                "theta",
                "theta-daemon",
                configuration,
                bin=ours,
                # Compatible mode makes a difference where something is hashed for the first time.
                steps=frozenset({ADD}) if name == COMPATIBLE else EVERY_STEP,
            )
            for name, configuration in VARIANTS.items()
        ),
        Contender(FLOOR, "floor", f"{tools / 'floor'} {{originals}}", {}),
        Contender(
            SPLICED,
            "floor",
            f"{tools / 'floor'} --splice {{originals}}",
            {},
            steps=frozenset({ADD, CHECKOUT}),  # an add is the floor's
        ),
        Contender(
            LFS,
            "lfs",
            "git-lfs filter-process",
            {"filter.lfs.clean": "git-lfs clean -- %f", "filter.lfs.smudge": "git-lfs smudge -- %f"},
            steps=EVERY_STEP - {STATUS},  # an add again
            missing=None if shutil.which("git-lfs") else "git-lfs is not installed",
        ),
        Contender(
            PEER,
            "theta",
            None,
            {"filter.theta.clean": f"{peer} clean %f", "filter.theta.smudge": f"{peer} smudge %f"},
            bin=PEER_BIN,
            steps=frozenset({ADD, CHECKOUT}),  # a minute each
            same_bytes=False,
            most_runs=1,
            missing=None if (PEER_BIN / peer).exists() else "scripts/setup git-theta .venv-git-theta",
        ),
    )
    return {contender.name: contender for contender in everyone}


def build_tools(folder: Path) -> None:
    """Compile the C programs of this folder into `folder`, and our modules to bytecode, as pip does."""
    compileall.compile_dir(ROOT / "src", quiet=1)
    folder.mkdir()
    for name in ("floor", "peak"):
        compiler = os.environ.get("CC", "cc")
        source = ROOT / "bench" / f"{name}.c"
        subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-o", str(folder / name), str(source)], check=True)


def environment(contender: Contender, home: Path, checkpoint_type: str) -> dict[str, str]:
    """Return the environment of a contender's git commands: nobody's own configuration but the contender's."""
    path = [str(contender.bin)] if contender.bin else []
    kept = {name: os.environ[name] for name in ("TMPDIR", "LD_LIBRARY_PATH") if name in os.environ}
    return {
        **kept,
        "PATH": os.pathsep.join([*path, os.environ["PATH"]]),
        "HOME": str(home),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_AUTHOR_NAME": "bench",
        "GIT_AUTHOR_EMAIL": "bench@example.invalid",
        "GIT_COMMITTER_NAME": "bench",
        "GIT_COMMITTER_EMAIL": "bench@example.invalid",
        "GIT_THETA_CHECKPOINT_TYPE": checkpoint_type,
        "LC_ALL": "C.UTF-8",
        **contender.environment,
    }
