"""What git's configuration means: the rules of git-config(1)."""

from __future__ import annotations

import pytest

from theta_daemon import gitconfig
from theta_daemon.errors import RepositoryError
from theta_daemon.gitconfig import Config, Value


def listing(*entries: str) -> bytes:
    """Return what `git config --list --null --show-origin` prints for entries of one file."""
    return b"".join(b"file:.git/config\0" + entry.encode() + b"\0" for entry in entries)


def test_no_configuration_at_all() -> None:
    assert Config(b"").get("theta.workers") is None


def test_keys_are_found_as_they_are_documented() -> None:
    assert Config(listing("theta.memorylimit\n1g")).text("theta.memoryLimit") == "1g"


def test_the_last_value_counts() -> None:
    listed = b"file:/home/u/.gitconfig\0lfs.storage\na\0command line:\0lfs.storage\nb\0"
    assert Config(listed).get("lfs.storage") == Value("b", "command line:")


def test_a_value_may_hold_line_breaks_and_any_bytes() -> None:
    assert Config(b"file:x\0lfs.storage\na\nb=\xff\0").text("lfs.storage") == "a\nb=\udcff"


def test_a_key_without_a_value_is_not_an_empty_value() -> None:
    config = Config(listing("a.valueless", "a.empty\n"))
    assert config.parsed("a.valueless", gitconfig.boolean, lambda: False) is True
    assert config.parsed("a.empty", gitconfig.boolean, lambda: True) is False


@pytest.mark.parametrize("listed", [b"x", b"file:x\0", b"file:x\0a.b\nc", b"\0a.b\0x"])
def test_a_listing_that_git_does_not_print_is_an_error(listed: bytes) -> None:
    with pytest.raises(RepositoryError):
        Config(listed)


def test_an_error_names_key_value_place_and_what_to_write() -> None:
    with pytest.raises(RepositoryError) as caught:
        Config(listing("theta.trace\nmaybe")).parsed("theta.trace", gitconfig.boolean, lambda: True)
    assert str(caught.value) == "theta.trace is 'maybe' (file:.git/config); it must be true or false"


def test_an_error_for_a_key_without_a_value() -> None:
    with pytest.raises(RepositoryError, match=r"^theta.workers is without a value \(file:.git/config\);"):
        Config(listing("theta.workers")).parsed("theta.workers", gitconfig.number, lambda: 1)


@pytest.mark.parametrize("text", [None, "true", "TRUE", "yes", "on", "1", "2", "1k"])
def test_true(text: str | None) -> None:
    assert gitconfig.boolean(text) is True


@pytest.mark.parametrize("text", ["", "false", "No", "off", "0", "0k"])
def test_false(text: str) -> None:
    assert gitconfig.boolean(text) is False


@pytest.mark.parametrize("text", ["maybe", "truee", "y", " ", "1.5"])
def test_not_a_boolean(text: str) -> None:
    with pytest.raises(ValueError, match="true or false"):
        gitconfig.boolean(text)


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0), ("17", 17), (" 17", 17), ("2k", 2048), ("3M", 3 << 20), ("4g", 4 << 30)]
)
def test_numbers(text: str, value: int) -> None:
    assert gitconfig.number(text) == value


@pytest.mark.parametrize("text", [None, "", "k", "1kb", "1 k", "-1", "1.5g", "1t", "٣", "1\n", "9" * 19])
def test_not_a_number(text: str | None) -> None:
    with pytest.raises(ValueError, match="a number"):
        gitconfig.number(text)


@pytest.mark.parametrize(
    ("entries", "flushes"),
    [
        ([], False),  # git's default on most platforms: committed,-loose-object
        (["core.fsync\n"], False),
        (["core.fsync"], False),
        (["core.fsync\nall"], True),
        (["core.fsync\nadded"], True),
        (["core.fsync\ncommitted"], True),
        (["core.fsync\nobjects"], True),
        (["core.fsync\nloose-object"], True),
        (["core.fsync\npack, index ,loose-object"], True),
        (["core.fsync\nindex,pack,reference,derived-metadata"], False),
        (["core.fsync\ncommitted,-loose-object"], True),  # names that are added win, in any order
        (["core.fsync\n-loose-object"], False),
        (["core.fsync\nnone"], False),
        (["core.fsync\nloose-object,none"], True),  # none empties what the platform sets, nothing else
        (["core.fsync\nfrom-the-future"], False),
        (["core.fsync\nall", "core.fsync\nindex"], False),
        (["core.fsyncobjectfiles\ntrue"], True),
        (["core.fsyncobjectfiles"], True),
        (["core.fsync\nnone", "core.fsyncobjectfiles\ntrue"], True),
        (["core.fsync\nall", "core.fsyncobjectfiles\nfalse"], True),
    ],
)
def test_what_is_flushed(entries: list[str], flushes: bool) -> None:
    assert gitconfig.flushes_loose_objects(Config(listing(*entries))) is flushes


@pytest.mark.parametrize(
    ("text", "umask", "mode"),
    [
        ("umask", 0o022, None),
        ("false", 0o022, None),
        ("0", 0o022, None),
        ("", 0o022, None),
        (None, 0o077, 0o660),
        ("group", 0o022, 0o664),
        ("TRUE", 0o077, 0o660),
        ("1", 0o077, 0o660),
        ("all", 0o077, 0o664),
        ("world", 0o002, 0o664),
        ("everybody", 0o077, 0o664),
        ("2", 0o077, 0o664),
        ("0660", 0o022, 0o660),
        ("0777", 0o077, 0o666),
        ("600", 0o000, 0o600),
    ],
)
def test_permissions_that_users_share(text: str | None, umask: int, mode: int | None) -> None:
    assert gitconfig.shared_permissions(text, umask) == mode


@pytest.mark.parametrize("text", ["0440", "3", "all of them"])
def test_permissions_that_make_no_sense(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(true or false|an octal number )"):
        gitconfig.shared_permissions(text, 0o022)
