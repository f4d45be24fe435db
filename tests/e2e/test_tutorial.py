"""The documents that show commands run as they are written: their `sh` blocks, in order, in one shell."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.environment import ROOT


def run_as_written(document: str, directory: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Run the `sh` blocks of a document and return how many there are and what they print."""
    text = (ROOT / "docs" / document).read_text("utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    done = subprocess.run(
        ["sh", "-e", "-x", "-c", "".join(blocks)],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return len(blocks), done.stdout


def test_the_tutorial_runs_as_written(tmp_path: Path, git_environment: dict[str, str]) -> None:
    number, said = run_as_written("tutorial.md", tmp_path, git_environment)
    assert number >= 8
    # Shown beside the commands: the size of the store before and after, and the models that are the same.
    assert "git-theta is installed" in said
    assert said.count("model.safetensors: OK") == 2


@pytest.mark.timeout(300)  # PEFT and transformers are slow to import, three times
def test_the_how_to_of_lora_runs_as_written(tmp_path: Path, git_environment: dict[str, str]) -> None:
    number, said = run_as_written("lora.md", tmp_path, git_environment | {"HF_HUB_OFFLINE": "1"})
    assert number >= 9
    difference = re.search(r"^largest difference: (.+)$", said, re.MULTILINE)
    assert difference is not None
    assert 0 <= float(difference[1]) < 1e-6
    assert said.count("model.safetensors: OK") == 4


@pytest.mark.needs_git_lfs
def test_ci_clones_run_as_written(tmp_path: Path, git_environment: dict[str, str]) -> None:
    number, said = run_as_written("ci.md", tmp_path, git_environment)
    assert number >= 4
    assert said.count("base.safetensors: OK") == 2
    assert said.count("small.safetensors: OK") == 3
    status = next(line for line in said.splitlines() if line.endswith("\tbase.safetensors"))
    assert status.startswith("metadata\t")


def test_the_snippets_for_ci_are_yaml() -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```$", (ROOT / "docs" / "ci.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    github, gitlab = (yaml.safe_load(block) for block in blocks)
    commands = [step.get("run", "") for step in github["jobs"]["test"]["steps"]]
    assert any("git theta pull" in command for command in commands)
    assert "git theta pull" in gitlab["test"]["before_script"]
