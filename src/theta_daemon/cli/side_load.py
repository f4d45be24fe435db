"""`git theta add FILE... --update-path UPDATES`: the files get the updates, in the work tree and in the index.

Several files are the shards of a model: each gets the updates of what it holds. All is worked out and written beside
the files before anything is replaced. Then the index gets the metadata of all of them at once, each file its new
content, and git looks at them once, so that nothing is left to do for `git status`.
"""

from __future__ import annotations

import io
import json
import os
import stat
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, cast

from theta_daemon import durable, gitcmd
from theta_daemon.cli.terminal import shown, warn
from theta_daemon.errors import RepositoryError, UsageError, reason
from theta_daemon.frozen import Frozen
from theta_daemon.progress import meter
from theta_daemon.updates.kinds import DENSE, IA3, LOW_RANK, SPARSE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from theta_daemon.cli.verb import Place
    from theta_daemon.metadata.entries import Name
    from theta_daemon.pipelines.services import Services
    from theta_daemon.pipelines.sideload import Parameters, Updates
    from theta_daemon.progress import Meter
    from theta_daemon.updates.array import Array

_TYPES = (SPARSE, LOW_RANK, IA3)
_ADAPTER, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
_MOST_CONFIG = 16 << 20
_REGULAR = ("100644", "100755")


class _Target(Frozen):
    """A file as it was named, as git names it from the top of the work tree, and its mode in the index."""

    name: str
    path: bytes
    mode: str


class _Read:
    """A file that tells a meter how much of it was read."""

    def __init__(self, file: io.FileIO, meter: Meter) -> None:
        self._file = cast("io.RawIOBase", file)
        self._meter = meter

    def readinto(self, view: memoryview, /) -> int:
        """Read on; see formats.source.Readable."""
        size = self._file.readinto(view)
        self._meter.advance(size=size)
        return size


def side_load(place: Place, left: Sequence[str], updates: str, update_type: str | None) -> int:
    """Do it. Raises UsageError, and whatever makes it impossible; then nothing was staged."""
    from theta_daemon.pipelines.services import open_services
    from theta_daemon.pipelines.sideload import sideload

    staged = [_staged(place, file) for file in _files(left)]
    targets = list({target.path: target for target in staged}.values())
    find = _finder(place.directory / updates, update_type)
    here = place.settings()
    services = open_services(here, lambda path, text: warn(f"{shown(path)}: {text}"))
    try:
        with ExitStack() as opened:
            files = [opened.enter_context(_opened(place.directory / target.name)) for target in targets]
            read = [_version(os.fstat(file.fileno())) for file in files]
            size = sum(os.fstat(file.fileno()).st_size for file in files)
            told = opened.enter_context(meter("Storing updates", 0, size, shown=here.progress))
            contents = [(target.path, _Read(file, told)) for target, file in zip(targets, files, strict=True)]
            metadata = sideload(services, contents, find)
        _replace(services, place, targets, read, metadata)
    finally:
        services.close()
    names = [target.name for target in targets]
    return gitcmd.hand_over(["--literal-pathspecs", "add", "--", *names], place.git.environment, place.directory)


def _files(left: Sequence[str]) -> list[str]:
    files = list(dict.fromkeys(argument for argument in left if argument != "--"))
    if not files or ("--" not in left and any(file.startswith("-") for file in files)):
        raise UsageError(
            "updates from a file of their own are for checkpoints that are named, without options of git add",
            hint="git theta add FILE... --update-type TYPE --update-path UPDATES",
        )
    return files


def _staged(place: Place, file: str) -> _Target:
    """Return a tracked file, as the index has it."""
    rows = place.git.items("ls-files", "-z", "--stage", "--full-name", "--", f":(literal){file}")
    if len(rows) != 1:
        what = "git does not track it yet" if not rows else "it is in conflict, or a directory"
        raise UsageError(f"{shown(os.fsencode(file))}: {what}", hint="add and commit the checkpoint first")
    facts, _, path = rows[0].partition(b"\t")
    mode = facts.split(b" ")[0].decode("ascii")
    if mode not in _REGULAR or (place.directory / file).is_symlink():
        raise UsageError(f"{shown(os.fsencode(file))} is no regular file")
    answer = place.git.items("check-attr", "-z", "filter", "--", file)
    if answer[2] != b"theta":
        raise UsageError(f"{shown(os.fsencode(file))} is not tracked by theta", hint="git theta track it first")
    return _Target(file, path, mode)


def _finder(updates: Path, update_type: str | None) -> partial[Updates]:
    """Return what makes updates of the file's tensors, once the parameters are known."""
    from theta_daemon.formats.source import Source
    from theta_daemon.pipelines.loose import arrays

    file = updates / _ADAPTER if updates.is_dir() else updates
    config = _config(file.with_name(_CONFIG))
    if config is None and update_type not in _TYPES:
        raise UsageError("say of which type the updates are", hint=f"--update-type {'|'.join(_TYPES)}")
    with _opened(file) as content:
        found = arrays(Source(cast("io.RawIOBase", content)))
    if config is None:
        return partial(_named, update_type or "", found)
    return partial(_adapter, config, update_type, {"/".join(name): array for name, array in found.items()})


def _named(
    update_type: str, arrays: Mapping[Name, Array], parameters: Parameters, _holds: Callable[[Name, Array], bool]
) -> Updates:
    from theta_daemon.updates.named import named

    return {name: (update_type, found) for name, found in named(update_type, arrays, parameters).items()}


def _adapter(
    config: Mapping[str, object],
    update_type: str | None,
    arrays: Mapping[str, Array],
    parameters: Parameters,
    holds: Callable[[Name, Array], bool],
) -> Updates:
    from theta_daemon.updates.peft import adapter

    found = adapter(config, arrays, parameters, holds)
    types = {each for each, _ in found.values()} - {DENSE}
    if update_type is not None and types - {update_type}:
        raise UsageError(f"the adapter holds {', '.join(sorted(types))} updates, not {update_type}")
    return found


def _config(file: Path) -> Mapping[str, object] | None:
    """Return what an adapter's configuration says; None where the updates are no adapter."""
    if not file.exists():
        return None
    with _opened(file) as content:
        data = content.read(_MOST_CONFIG + 1)
    try:
        config = json.loads(data) if len(data) <= _MOST_CONFIG else None
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise UsageError(f"{shown(os.fsencode(file))} is no adapter configuration")
    return config


def _opened(file: Path) -> io.FileIO:
    try:
        return io.FileIO(os.fspath(file), "rb")
    except OSError as error:
        raise UsageError(f"cannot read updates or checkpoint: {reason(error)}") from error


def _version(status: os.stat_result) -> tuple[int, int, int]:
    """Return what another version of a file has not all in common."""
    return status.st_ino, status.st_size, status.st_mtime_ns


def _replace(
    services: Services,
    place: Place,
    targets: Sequence[_Target],
    read: Sequence[tuple[int, int, int]],
    metadata: Sequence[bytes],
) -> None:
    """Give the index the metadata, and the files, of which `read` were the versions, the content that it describes."""
    from theta_daemon.pipelines.smudge import smudge

    written: list[tuple[str, Path]] = []
    rows = []
    file = place.directory
    try:
        for target, data in zip(targets, metadata, strict=True):
            file = place.directory / target.name
            temporary = durable.temporary_name(_beside(file, services.settings.temporary))
            written.append((temporary, file))
            with open(temporary, "xb") as new:
                os.fchmod(new.fileno(), stat.S_IMODE(file.stat().st_mode))
                new.writelines(smudge(services, target.path, io.BytesIO(data)))
            blob = place.git.output("hash-object", "-w", "--stdin", stdin=data).strip()
            rows.append(target.mode.encode("ascii") + b" " + blob + b"\t" + target.path + b"\0")
        for target, version in zip(targets, read, strict=True):
            if _version((place.directory / target.name).stat()) != version:  # a training run saves
                raise RepositoryError(
                    f"{shown(os.fsencode(target.name))} was changed while updates were worked out; nothing was staged",
                    hint="run the command again",
                )
        place.git.at_top().output("update-index", "-z", "--index-info", stdin=b"".join(rows))
        for temporary, file in written:
            os.replace(temporary, file)
    except OSError as error:
        raise RepositoryError(f"cannot write {shown(os.fsencode(file))}: {reason(error)}", hint="make room") from error
    finally:
        for temporary, _ in written:
            with suppress(FileNotFoundError):
                os.unlink(temporary)


def _beside(file: Path, preferred: Path) -> Path:
    """Return a directory on the file system of `file`: `preferred`, which is swept, or its own."""
    preferred.mkdir(parents=True, exist_ok=True)
    return preferred if preferred.stat().st_dev == file.parent.stat().st_dev else file.parent
