"""Settings from what git prints, with a scripted git. What real repositories give is tested in tests/e2e/history."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from theta_daemon import machine, settings
from theta_daemon.errors import RepositoryError, UnsupportedError
from theta_daemon.gitconfig import Value
from theta_daemon.settings import Settings

READABLE = "an octal number that lets the owner read and write"
A_NUMBER = "a number, with k, m or g behind it if you like"
PLACES = "false\n.git\n.git\n.git/index\n.git/objects\n{top}\n"

Load = Callable[..., Settings]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Return a function that loads settings from what git is to print and what the environment holds."""

    def load(
        *config: str, environ: Mapping[str, str] | None = None, places: str = PLACES, git: str = "exit 0"
    ) -> Settings:
        top = tmp_path / "top"
        top.mkdir(exist_ok=True)
        (tmp_path / "places").write_text(places.format(top=top))
        (tmp_path / "config").write_bytes(b"".join(b"file:.git/config\0" + os.fsencode(it) + b"\0" for it in config))
        program = tmp_path / "git"
        program.write_text(
            "#!/bin/sh\n"
            f'case "$1" in rev-parse) cat "{tmp_path}/places"; {git};; config) cat "{tmp_path}/config";; esac\n'
        )
        program.chmod(0o755)
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        return settings.load({"PATH": path, **(environ or {})}, top)

    return load


def test_defaults(load: Load, tmp_path: Path) -> None:
    top = tmp_path / "top"
    found = load()
    assert found.replace(child_environment={}) == Settings(
        directory=top,
        git_dir=top / ".git",
        common_dir=top / ".git",
        work_tree=top,
        index_file=top / ".git" / "index",
        lfs_storage=top / ".git" / "lfs",
        alternates=(),
        compatible="auto",
        fsync=False,
        file_mode=None,
        checkpoint_type=None,
        compression=None,
        update_type="dense",
        max_chain=32,
        fetch_history=True,
        skip_smudge=False,
        fetch_include=(),
        fetch_exclude=(),
        transfer_timeout=120,
        transfer_retries=3,
        packs=True,
        progress=True,
        workers=machine.usable_cores(),
        memory_limit=machine.default_memory(),
        cache_size=machine.default_memory() // 4,
        child_environment={},
    )
    assert found.theta_dir == top / ".git" / "theta"
    assert found.lfs_objects == top / ".git" / "lfs" / "objects"
    assert found.checkpoint_format is None


def test_everything_set(load: Load) -> None:
    found = load(
        "theta.compatible\nfalse",
        "theta.workers\n3",
        "theta.memorylimit\n2g",
        "theta.cachesize\n3m",
        "theta.compression\nnone",
        "theta.updatetype\nauto",
        "theta.maxchain\n64",
        "theta.fetchhistory\nno",
        "core.fsync\nall",
        "theta.from-the-future\nx",
        environ={"GIT_THETA_CHECKPOINT_TYPE": "safetensors"},
    )
    assert (found.compatible, found.workers, found.memory_limit, found.cache_size) == ("false", 3, 2 << 30, 3 << 20)
    assert (found.fsync, found.checkpoint_format) == (True, "safetensors")
    assert found.compression == Value("none", "theta.compression, file:.git/config")
    assert (found.update_type, found.max_chain, found.fetch_history) == ("auto", 64, False)


@pytest.mark.parametrize(
    ("entry", "means"),
    [
        ("theta.compatible", "true"),
        ("theta.compatible\nAuto", "auto"),
        ("theta.compatible\non", "true"),
        ("theta.compatible\n0", "false"),
    ],
)
def test_compatible(load: Load, entry: str, means: str) -> None:
    assert load(entry).compatible == means


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("theta.compatible\nsome", "theta.compatible is 'some' (file:.git/config); it must be auto, true or false"),
        ("theta.workers\n0", "theta.workers is '0' (file:.git/config); it must be a number from 1 to 1024"),
        ("theta.workers\n2k", "theta.workers is '2k' (file:.git/config); it must be a number from 1 to 1024"),
        ("theta.workers\nmany", f"theta.workers is 'many' (file:.git/config); it must be {A_NUMBER}"),
        (
            "theta.memorylimit\n1m",
            f"theta.memoryLimit is '1m' (file:.git/config); it must be a number from {64 << 20} to {1 << 62}",
        ),
        ("theta.cachesize\n-1", f"theta.cacheSize is '-1' (file:.git/config); it must be {A_NUMBER}"),
        ("theta.cachesize", f"theta.cacheSize is without a value (file:.git/config); it must be {A_NUMBER}"),
        ("theta.cachesize\n10%", f"theta.cacheSize is '10%' (file:.git/config); it must be {A_NUMBER}"),
        (
            "theta.cachesize\n9999999999g",
            f"theta.cacheSize is '9999999999g' (file:.git/config); it must be a number from 0 to {1 << 62}",
        ),
        ("theta.maxchain\n0", "theta.maxChain is '0' (file:.git/config); it must be a number from 1 to 1024"),
        ("theta.maxchain\n2k", "theta.maxChain is '2k' (file:.git/config); it must be a number from 1 to 1024"),
        ("theta.maxchain\n-1", f"theta.maxChain is '-1' (file:.git/config); it must be {A_NUMBER}"),
        ("theta.fetchhistory\nx", "theta.fetchHistory is 'x' (file:.git/config); it must be true or false"),
        (
            "core.sharedrepository\n0440",
            f"core.sharedRepository is '0440' (file:.git/config); it must be {READABLE}",
        ),
        ("core.fsyncobjectfiles\nx", "core.fsyncObjectFiles is 'x' (file:.git/config); it must be true or false"),
    ],
)
def test_a_value_that_cannot_be_understood(load: Load, entry: str, message: str) -> None:
    with pytest.raises(RepositoryError) as caught:
        load(entry)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("memory", "cache", "size"),
    [
        ("256m", None, 64 << 20),
        ("256m", "0", 0),
        ("256m", "100k", 100 << 10),
        ("256m", "128m", 128 << 20),
        ("256m", "1g", 128 << 20),  # half of the memory is for what is worked on
        ("64m", "1000000000g", 32 << 20),
    ],
)
def test_the_cache_is_a_part_of_the_memory(load: Load, memory: str, cache: str | None, size: int) -> None:
    found = load(f"theta.memorylimit\n{memory}", *([] if cache is None else [f"theta.cachesize\n{cache}"]))
    assert found.cache_size == size


@pytest.mark.parametrize("entry", ["theta.compression", "theta.compression\n"])
def test_no_name_of_a_codec_means_the_default(load: Load, entry: str) -> None:
    assert load(entry).compression is None


def test_a_codec_is_kept_as_it_is_named_known_or_not(load: Load) -> None:
    found = load("theta.compression\nof-the-future:9")
    assert found.compression == Value("of-the-future:9", "theta.compression, file:.git/config")


@pytest.mark.parametrize(
    ("name", "checkpoint_format"),
    [
        ("", None),
        ("pytorch", "torch-zip"),
        ("pickled-dict", "torch-zip"),
        ("safetensors", "safetensors"),
        ("safetensors-checkpoint", "safetensors"),
    ],
)
def test_the_checkpoint_types_of_git_theta(load: Load, name: str, checkpoint_format: str | None) -> None:
    assert load(environ={"GIT_THETA_CHECKPOINT_TYPE": name}).checkpoint_format == checkpoint_format


@pytest.mark.parametrize(
    ("entry", "variable", "checkpoint_format"),
    [
        ("theta.checkpointtype\nsafetensors", "pytorch", "safetensors"),
        ("theta.checkpointtype\npytorch", "of-a-plugin", "torch-zip"),
        ("theta.checkpointtype\n", "pytorch", None),
        ("theta.checkpointtype", "pytorch", None),
    ],
)
def test_the_configured_type_wins_over_the_environment(
    load: Load, entry: str, variable: str, checkpoint_format: str | None
) -> None:
    found = load(entry, environ={"GIT_THETA_CHECKPOINT_TYPE": variable})
    assert found.checkpoint_format == checkpoint_format


def test_another_configured_type_is_an_error_where_it_is_needed(load: Load) -> None:
    found = load("theta.checkpointtype\nflax")
    with pytest.raises(UnsupportedError) as caught:
        _ = found.checkpoint_format
    assert str(caught.value) == (
        "checkpoints of type 'flax' (theta.checkpointType, file:.git/config) are not supported; "
        "use one of pytorch, pickled-dict, safetensors, safetensors-checkpoint"
    )


@pytest.mark.parametrize("name", ["flax", "tensorflow-savedmodel", "PyTorch", "of-a-plugin"])
def test_another_checkpoint_type_is_an_error_where_it_is_needed(load: Load, name: str) -> None:
    found = load(environ={"GIT_THETA_CHECKPOINT_TYPE": name})
    with pytest.raises(UnsupportedError, match=f"'{name}' .GIT_THETA_CHECKPOINT_TYPE.* use one of pytorch, "):
        _ = found.checkpoint_format


@pytest.mark.parametrize("name", settings.UPDATE_TYPES)
def test_update_types(load: Load, name: str) -> None:
    assert load(f"theta.updatetype\n{name}").update_type == name
    assert load(environ={"GIT_THETA_UPDATE_TYPE": name}).update_type == name


@pytest.mark.parametrize(
    ("entry", "variable", "means"),
    [
        ("theta.updatetype\nsparse", "ia3", "sparse"),
        ("theta.updatetype\nsparse", "of-a-plugin", "sparse"),
        ("theta.updatetype\n", "ia3", "dense"),
        ("theta.updatetype", "ia3", "dense"),
        ("theta.updatetype", "", "dense"),
    ],
)
def test_the_configured_update_type_wins_over_the_environment(
    load: Load, entry: str, variable: str, means: str
) -> None:
    assert load(entry, environ={"GIT_THETA_UPDATE_TYPE": variable}).update_type == means


@pytest.mark.parametrize("name", ["Sparse", "lora", "exact-sparse", "dense "])
def test_another_update_type(load: Load, name: str) -> None:
    known = "use one of dense, sparse, low-rank, ia3, auto"
    with pytest.raises(RepositoryError) as caught:
        load(f"theta.updatetype\n{name}")
    assert str(caught.value) == f"there is no update type {name!r} (theta.updateType, file:.git/config); {known}"
    with pytest.raises(RepositoryError) as caught:
        load(environ={"GIT_THETA_UPDATE_TYPE": name})
    assert str(caught.value) == f"there is no update type {name!r} (GIT_THETA_UPDATE_TYPE); {known}"


@pytest.mark.parametrize(("entry", "means"), [("", True), ("\n", False), ("\nfalse", False), ("\n1", True)])
def test_fetching_of_history(load: Load, entry: str, means: bool) -> None:
    assert load(f"theta.fetchhistory{entry}").fetch_history is means


@pytest.mark.parametrize(
    ("storage", "below_git_dir"),
    [("", "lfs"), ("\n", "lfs"), ("\nst", "st"), ("\n../st", "../st"), ("\n~/st", "~/st"), ("\n$HOME/x/", "$HOME/x")],
)
def test_lfs_storage(load: Load, tmp_path: Path, storage: str, below_git_dir: str) -> None:
    expected = Path(os.path.normpath(tmp_path / "top" / ".git" / below_git_dir))
    assert load(f"lfs.storage{storage}").lfs_storage == expected


def test_lfs_storage_elsewhere(load: Load) -> None:
    assert load("lfs.storage\n/srv/lfs").lfs_objects == Path("/srv/lfs/objects")


def test_no_work_tree(load: Load) -> None:
    found = load(
        places="true\n.\n.\nindex\nobjects\n", git='echo "fatal: this must be run in a work tree" >&2; exit 128'
    )
    assert found.work_tree is None


def test_what_git_says_where_there_is_no_repository(load: Load) -> None:
    said = "fatal: detected dubious ownership in repository at '/x'"
    with pytest.raises(RepositoryError) as caught:
        load(places="", git=f'echo "{said}" >&2; echo "To add an exception, call:" >&2; exit 128')
    assert str(caught.value) == said.removeprefix("fatal: ")


@pytest.mark.parametrize(
    ("places", "code"),
    [
        ("false\n/a\nb\n/a\nb\n/a\nb/index\n/a\nb/objects\n/a\nb\n", 0),
        ("true\n/a\nb\n/a\nb\n/a\nb/index\n/a\nb/objects\n", 128),
        ("perhaps\n.git\n.git\n.git/index\n.git/objects\n/top\n", 0),
        ("false\n.git\n.git\n.git/index\n.git/objects\n", 0),
        ("false\n.git\n.git\n.git/index\n.git/objects\n/top\n", 1),
    ],
)
def test_places_that_cannot_be_told_apart(load: Load, places: str, code: int) -> None:
    with pytest.raises(RepositoryError, match="its path holds a line break"):
        load(places=places, git=f"exit {code}")


def test_the_environment_of_children(load: Load) -> None:
    found = load(
        environ={
            "GIT_DIR": "/kept",
            "GIT_CONFIG_PARAMETERS": "'a.b=c'",
            "LC_ALL": "de_DE.UTF-8",
            "GIT_LITERAL_PATHSPECS": "1",
            "GIT_INTERNAL_SUPER_PREFIX": "sub/",
            "GIT_CONFIG": "/other",
        }
    )
    child = dict(found.child_environment)
    assert child.pop("PATH")
    assert child == {
        "GIT_DIR": "/kept",
        "GIT_CONFIG_PARAMETERS": "'a.b=c'",
        "LC_ALL": "C",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_PAGER": "cat",
    }


def test_the_environment_of_children_cannot_be_changed(load: Load) -> None:
    found = load()
    with pytest.raises(TypeError):
        found.child_environment["X"] = "y"  # type: ignore[index]


def test_both_children_run_before_the_result_is_asked_for(tmp_path: Path) -> None:
    # Each child waits for a mark of the other: one after the other they would wait for ever.
    program = tmp_path / "git"
    program.write_text(
        "#!/bin/sh\n"
        f'cd "{tmp_path}"; touch "$1"\n'
        "until [ -e rev-parse ] && [ -e config ]; do :; done\n"
        "[ $1 = config ] || printf 'true\\n.\\n.\\nindex\\nobjects\\n'; [ $1 = config ]\n"
    )
    program.chmod(0o755)
    pending = settings.begin({"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}, tmp_path)
    assert pending.result().git_dir == tmp_path
