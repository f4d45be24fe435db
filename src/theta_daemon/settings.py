"""Settings: what the environment and git's configuration say, read once and frozen.

The only reader of either. A program hands in its environment and its directory (`begin`, or `load` for both steps
at once); everything below takes what it needs from the frozen `Settings`. git itself says where the repository is
(`git rev-parse`) and what its configuration holds (`git config`), so that GIT_DIR, linked worktrees, submodules,
includes and `git -c` mean here what they mean to git. A value that cannot be understood is a RepositoryError that names
it and the place where it stands; keys of ours that are not known are ignored, as git ignores keys of newer versions.

Environment read here:
    GIT_THETA_CHECKPOINT_TYPE          git-theta's name of the format of files that have no layout; see below
    GIT_THETA_UPDATE_TYPE              how changed parameter groups are stored; see below
    GIT_THETA_SKIP_SMUDGE              leave metadata in the work tree; see below
    GIT_LFS_SKIP_SMUDGE                the same, where the former is not set
    GIT_INDEX_FILE                     by way of `git rev-parse --git-path index`
    GIT_ALTERNATE_OBJECT_DIRECTORIES   as git reads it
and by git for us: GIT_DIR, GIT_WORK_TREE, GIT_COMMON_DIR, GIT_OBJECT_DIRECTORY, GIT_CONFIG_*, HOME, ...

Git configuration read here: theta.compatible, theta.workers, theta.memoryLimit, theta.cacheSize, theta.compression,
theta.checkpointType (before the variable GIT_THETA_CHECKPOINT_TYPE), theta.updateType (before the variable
GIT_THETA_UPDATE_TYPE), theta.maxChain, theta.fetchHistory, theta.skipSmudge (after the two variables),
theta.fetchInclude, theta.fetchExclude, theta.transferTimeout, theta.transferRetries, theta.packs, theta.progress,
lfs.storage, core.fsync, core.fsyncObjectFiles, core.sharedRepository.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, get_args

from theta_daemon import alternates, gitcmd, gitconfig, machine
from theta_daemon.errors import RepositoryError, UnsupportedError
from theta_daemon.frozen import Frozen
from theta_daemon.gitconfig import Config, Value

if TYPE_CHECKING:
    from collections.abc import Mapping

Compatible = Literal["auto", "true", "false"]
UpdateType = Literal["dense", "sparse", "low-rank", "ia3", "auto"]

UPDATE_TYPES: Final[tuple[UpdateType, ...]] = get_args(UpdateType)

MAX_WORKERS = 1024
MAX_CHAIN = 1024
MAX_MEMORY = 1 << 62
MAX_TIMEOUT = 24 * 3600
MAX_RETRIES = 100

# git-theta 0.2.0's entry points (group git_theta.plugins.checkpoints) that name a format of ours.
_FORMATS = {
    "pytorch": "torch-zip",
    "pickled-dict": "torch-zip",
    "safetensors": "safetensors",
    "safetensors-checkpoint": "safetensors",
}

# Variables that change what a child git means by its arguments, or make it refuse to run.
_NOT_FOR_CHILDREN = (
    "GIT_CONFIG",  # `git config` alone would read another file
    "GIT_LITERAL_PATHSPECS",
    "GIT_GLOB_PATHSPECS",
    "GIT_NOGLOB_PATHSPECS",
    "GIT_ICASE_PATHSPECS",
    "GIT_INTERNAL_SUPER_PREFIX",  # set below `git checkout --recurse-submodules`; most commands die of it
)


class Settings(Frozen):
    """Everything that depends on the environment, the directory, and git's configuration.

    All paths are absolute. `directory` is where child git processes run, with `child_environment` and nothing else.
    `alternates` are existing directories that hold objects of other repositories, Git LFS's and ours, nearest first,
    each once: they are only ever read.
    `memory_limit` is in bytes, and so is `cache_size`, which is a part of it: at most half, and 0 for no cache.
    `fsync` tells whether git would flush a loose object to disk before it is there. `file_mode` are the permission bits
    of new files in the git directory (core.sharedRepository), None where the umask alone decides.
    `checkpoint_type` is a name of git-theta's, and `compression` the name of a codec, each known here or not, and
    where it stands. `update_type` is what changed groups are to be stored as, `max_chain` the most updates that may
    build on one another, and `fetch_history` whether a commit that is not here may be fetched.
    With `skip_smudge` metadata stays in the work tree, and so it does for paths that `fetch_include`, where it is not
    empty, does not match, or that `fetch_exclude` matches (patterns as in .gitignore). `transfer_timeout` are the
    seconds without a byte after which a transfer has stalled, `transfer_retries` how often it is tried again.
    `packs` tells whether metadata names packs, `progress` whether a terminal may be shown how far long work has come.
    """

    directory: Path
    git_dir: Path
    common_dir: Path
    work_tree: Path | None
    index_file: Path
    lfs_storage: Path
    alternates: tuple[Path, ...]
    compatible: Compatible
    fsync: bool
    file_mode: int | None
    checkpoint_type: Value | None
    compression: Value | None
    update_type: UpdateType
    max_chain: int
    fetch_history: bool
    skip_smudge: bool
    fetch_include: tuple[str, ...]
    fetch_exclude: tuple[str, ...]
    transfer_timeout: int
    transfer_retries: int
    packs: bool
    progress: bool
    workers: int
    memory_limit: int
    cache_size: int
    child_environment: Mapping[str, str]

    @property
    def largest_in_memory(self) -> int:
        """Bytes up to which a value is held in memory whole: cache, spare buffers and other values have parts too."""
        return self.memory_limit // 4

    @property
    def theta_dir(self) -> Path:
        """The directory of everything that is ours in this repository, all its worktrees together."""
        return self.common_dir / "theta"

    @property
    def temporary(self) -> Path:
        """The directory of files that are not whole yet, and of spooled content; made when it is needed."""
        return self.theta_dir / "tmp"

    @property
    def lfs_objects(self) -> Path:
        """The directory of this repository's own LFS objects (`ab/cd/<sha256>` below it)."""
        return self.lfs_storage / "objects"

    @property
    def checkpoint_format(self) -> str | None:
        """The format of checkpoints without a layout, None where none is named; see `format_named`."""
        named = self.checkpoint_type
        return None if named is None else format_named(named.text or "", named.origin)


class PendingSettings:
    """Settings whose git processes are running; `result` waits for them. Import what is heavy in between."""

    def __init__(self, environ: Mapping[str, str], directory: Path) -> None:
        self._environ = environ
        self._directory = directory.absolute()
        self._child_environment = MappingProxyType(for_children(environ))
        self._where = self._start(
            *("rev-parse", "--is-bare-repository", "--git-dir", "--git-common-dir"),
            # Dies where there is no work tree, after the others have been printed.
            *("--git-path", "index", "--git-path", "objects", "--show-toplevel"),
        )
        self._config = self._start("config", "--list", "--null", "--show-origin")

    def _start(self, *arguments: str) -> gitcmd.Child:
        return gitcmd.start(arguments, self._child_environment, self._directory)

    def result(self) -> Settings:
        """Return the settings; call it once.

        Raises RepositoryError where there is no repository, where git refuses to work in it, and for values
        that cannot be understood.
        """
        where = gitcmd.collect(self._where)
        code, listing, said = gitcmd.collect(self._config)
        git_dir, common_dir, index_file, objects, work_tree = self._places(*where)
        if code != 0:
            raise gitcmd.failure("git config", code, said)
        config = Config(listing)
        storage = _lfs_storage(common_dir, config)
        memory_limit = config.parsed("theta.memoryLimit", _memory, machine.default_memory)
        return Settings(
            directory=self._directory,
            git_dir=git_dir,
            common_dir=common_dir,
            work_tree=work_tree,
            index_file=index_file,
            lfs_storage=storage,
            alternates=_lent_stores(
                objects, self._environ, self._directory, (storage / "objects", common_dir / "theta" / "objects")
            ),
            compatible=config.parsed("theta.compatible", _compatible, lambda: "auto"),
            fsync=gitconfig.flushes_loose_objects(config),
            file_mode=config.parsed("core.sharedRepository", _permissions, lambda: None),
            checkpoint_type=_checkpoint_type(config, self._environ),
            compression=_named(config, "theta.compression"),
            update_type=_update_type(config, self._environ),
            max_chain=config.parsed("theta.maxChain", _chain, lambda: 32),
            fetch_history=config.parsed("theta.fetchHistory", gitconfig.boolean, lambda: True),
            skip_smudge=_skip_smudge(config, self._environ),
            fetch_include=_patterns(config, "theta.fetchInclude"),
            fetch_exclude=_patterns(config, "theta.fetchExclude"),
            transfer_timeout=config.parsed("theta.transferTimeout", _timeout, lambda: 120),
            transfer_retries=config.parsed("theta.transferRetries", _retries, lambda: 3),
            packs=config.parsed("theta.packs", gitconfig.boolean, lambda: True),
            progress=config.parsed("theta.progress", gitconfig.boolean, lambda: True),
            workers=config.parsed("theta.workers", _workers, machine.usable_cores),
            memory_limit=memory_limit,
            cache_size=min(config.parsed("theta.cacheSize", _cache, lambda: memory_limit // 4), memory_limit // 2),
            child_environment=self._child_environment,
        )

    def _places(self, code: int, out: bytes, err: bytes) -> tuple[Path, Path, Path, Path, Path | None]:
        lines = out.split(b"\n")
        if len(lines) < 6:
            raise RepositoryError(gitcmd.plain_complaint(err) or f"git rev-parse failed (exit {code})")
        # The empty piece after the last newline; one line less where there is no work tree.
        if len(lines) > 7 or lines[0] not in {b"true", b"false"} or (code == 0) != (len(lines) == 7):
            raise RepositoryError("the repository cannot be used: its path holds a line break")
        git_dir, common_dir, index_file, objects, *rest = (
            Path(os.path.join(self._directory, os.fsdecode(line))) for line in lines[1:-1]
        )
        return git_dir.resolve(), common_dir.resolve(), index_file, objects, rest[0] if rest else None


def begin(environ: Mapping[str, str], directory: Path) -> PendingSettings:
    """Start to find the settings for `directory` (for a filter: its working directory) and return at once.

    Raises RepositoryError when git cannot be run.
    """
    return PendingSettings(environ, directory)


def load(environ: Mapping[str, str], directory: Path) -> Settings:
    """Return the settings for `directory`; see `begin` and `PendingSettings.result` for the errors."""
    return begin(environ, directory).result()


def for_children(environ: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` as child git processes should have it: nothing in it changes what their arguments mean."""
    kept = {name: value for name, value in environ.items() if name not in _NOT_FOR_CHILDREN}
    return kept | {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_PAGER": "cat"}


def format_named(name: str, origin: str) -> str:
    """Return the format that git-theta calls `name`, in our words; `origin` says where the name stands.

    Raises UnsupportedError for a type of git-theta's, or of a plugin of its, that is not known here.
    """
    found = _FORMATS.get(name)
    if found is None:
        raise UnsupportedError(
            f"checkpoints of type {name!r} ({origin}) are not supported",
            hint=f"use one of {', '.join(_FORMATS)}",
        )
    return found


def _checkpoint_type(config: Config, environ: Mapping[str, str]) -> Value | None:
    return _named_or_variable(config, "theta.checkpointType", environ, "GIT_THETA_CHECKPOINT_TYPE")


def _update_type(config: Config, environ: Mapping[str, str]) -> UpdateType:
    found = _named_or_variable(config, "theta.updateType", environ, "GIT_THETA_UPDATE_TYPE")
    if found is None:
        return "dense"
    for known in UPDATE_TYPES:
        if found.text == known:
            return known
    raise RepositoryError(
        f"there is no update type {found.text!r} ({found.origin})", hint=f"use one of {', '.join(UPDATE_TYPES)}"
    )


def _skip_smudge(config: Config, environ: Mapping[str, str]) -> bool:
    text = environ.get("GIT_THETA_SKIP_SMUDGE")
    if text:
        try:
            return gitconfig.boolean(text)
        except ValueError:
            what = f"GIT_THETA_SKIP_SMUDGE={text!r:.80} is neither true nor false"
            raise RepositoryError(what, hint="set it to 1 or 0") from None
    of_git_lfs = environ.get("GIT_LFS_SKIP_SMUDGE", "").lower()
    if of_git_lfs:
        return of_git_lfs in {"1", "t", "true", "y", "yes", "on"}  # as git-lfs reads it; all else is false
    return config.parsed("theta.skipSmudge", gitconfig.boolean, lambda: False)


def _patterns(config: Config, key: str) -> tuple[str, ...]:
    # As git-lfs's lfs.fetchinclude: one value, patterns between commas.
    return tuple(filter(None, (pattern.strip() for pattern in (config.text(key) or "").split(","))))


def _named_or_variable(config: Config, key: str, environ: Mapping[str, str], variable: str) -> Value | None:
    if config.get(key):
        return _named(config, key)  # where the key is empty, it hides the variable
    text = environ.get(variable)
    return Value(text, variable) if text else None


def _named(config: Config, key: str) -> Value | None:
    found = config.get(key)
    return Value(found.text, f"{key}, {found.origin}") if found and found.text else None


def _lfs_storage(common_dir: Path, config: Config) -> Path:
    # As git-lfs 3.3 (tried): "" is the default, "~" and "$HOME" stand for themselves, and what is relative
    # lies below the common git directory. Never from .lfsconfig, which anyone may commit.
    return Path(os.path.normpath(common_dir / (config.text("lfs.storage") or "lfs")))


def _lent_stores(objects: Path, environ: Mapping[str, str], directory: Path, own: tuple[Path, ...]) -> tuple[Path, ...]:
    # git-lfs's rule (tried, 3.3): beside the alternate `<git dir>/objects` lie its LFS objects, in `<git dir>/lfs`,
    # whatever lfs.storage is there. Beside them lie ours, which no `git lfs prune` in that repository takes.
    listed = os.fsencode(environ.get("GIT_ALTERNATE_OBJECT_DIRECTORIES", ""))
    lenders = dict.fromkeys(found.parent for found in alternates.of(objects, listed, directory))
    stores = [lender / name / "objects" for lender in lenders for name in ("lfs", "theta")]
    mine = {os.path.realpath(store) for store in own} if stores else set()
    return tuple(store for store in stores if os.path.isdir(store) and os.path.realpath(store) not in mine)


def _compatible(text: str | None) -> Compatible:
    if text is not None and text.lower() == "auto":
        return "auto"
    try:
        return "true" if gitconfig.boolean(text) else "false"
    except ValueError:
        raise ValueError("auto, true or false") from None


def _permissions(text: str | None) -> int | None:
    return gitconfig.shared_permissions(text, machine.umask())


def _workers(text: str | None) -> int:
    return _within(text, 1, MAX_WORKERS)


def _chain(text: str | None) -> int:
    return _within(text, 1, MAX_CHAIN)


def _timeout(text: str | None) -> int:
    return _within(text, 1, MAX_TIMEOUT)


def _retries(text: str | None) -> int:
    return _within(text, 0, MAX_RETRIES)


def _memory(text: str | None) -> int:
    return _within(text, machine.LEAST_MEMORY, MAX_MEMORY)


def _cache(text: str | None) -> int:
    return _within(text, 0, MAX_MEMORY)


def _within(text: str | None, least: int, most: int) -> int:
    value = gitconfig.number(text)
    if not least <= value <= most:
        raise ValueError(f"a number from {least} to {most}")
    return value
