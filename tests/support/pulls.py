"""Work trees that hold metadata, as `git theta pull` finds them."""

from __future__ import annotations

from pathlib import Path

from tests.support.repository import Repository

NO_FILTER = tuple(
    part
    for setting in ("process=", "clean=", "smudge=", "required=false")
    for part in ("-c", f"filter.theta.{setting}")
)


def to_metadata(repository: Repository, *paths: str) -> None:
    """Put metadata in the place of tracked files (without any: all), as a clone without the filter does."""
    listed = repository.git_bytes("ls-files", "-z", "--", *paths).split(b"\0")[:-1]
    for name in listed:
        (repository.path / name.decode("utf-8", "surrogateescape")).unlink(missing_ok=True)
    repository.git(*NO_FILTER, "-c", "core.splitIndex=false", "checkout", "--force", "--", *(paths or (".",)))


def clean_without_reading(repository: Repository) -> bool:
    """Tell whether git takes the work tree for clean, and asks no filter before it does."""
    settings = ("-c", "filter.theta.process=false", "-c", "filter.theta.clean=false")
    done = repository.run("git", *settings, "status", "--porcelain", "--untracked-files=no")
    return done.returncode == 0 and done.stdout == b""


def litter(repository: Repository) -> list[Path]:
    """Return the temporary files in the work tree and in the theta directory."""
    return [path for path in repository.path.rglob("theta-*.tmp") if path.is_file()]
