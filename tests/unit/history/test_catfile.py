"""The `git cat-file` child with a scripted git: what it may answer, and how it may end."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from theta_daemon.errors import RepositoryError
from theta_daemon.history import catfile
from theta_daemon.history.catfile import Blob, CatFile, Look, looks
from theta_daemon.settings import Settings

A, B = "a" * 40, "b" * 64
GOOD = f"{B} blob 2\\n{{}}\\n"

Script = Callable[[str], Settings]
Start = Callable[[str], CatFile]


@pytest.fixture
def scripted(tmp_path: Path) -> Script:
    """Return a function that makes settings whose git is a shell script; each start is a line in `tmp_path/starts`."""

    def scripted(script: str) -> Settings:
        program = tmp_path / "git"
        program.write_text(f'#!/bin/sh\necho "$*" >> "{tmp_path}/starts"\n{script}\n')
        program.chmod(0o755)
        return Settings(
            directory=tmp_path,
            git_dir=tmp_path,
            common_dir=tmp_path,
            work_tree=None,
            index_file=tmp_path / "index",
            lfs_storage=tmp_path,
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
            workers=1,
            memory_limit=1 << 30,
            cache_size=0,
            child_environment={"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        )

    return scripted


@pytest.fixture
def start(scripted: Script) -> Start:
    """Return a function that makes a CatFile of such settings."""
    return lambda script: CatFile(scripted(script))


def starts(tmp_path: Path) -> int:
    return len((tmp_path / "starts").read_text().splitlines())


def always(answer: str) -> str:
    return f"while read -r name; do printf '{answer}'; done"


@pytest.mark.parametrize("blob", [A, B])
def test_a_blob(start: Start, tmp_path: Path, blob: str) -> None:
    cat_file = start(always(f"{blob} blob 3\\n{{}}\\n\\n"))
    assert cat_file.metadata(b"HEAD:x") == Blob(blob, b"{}\n")
    assert cat_file.metadata(b"HEAD:x") == Blob(blob, b"{}\n")
    assert starts(tmp_path) == 1
    cat_file.forget()


@pytest.mark.parametrize(
    "answer",
    [
        "$name missing\\n",
        "$name ambiguous\\n",
        f"{A} submodule\\n",
        f"{A} tree 3\\n{{}}\\n\\n",
        f"{A} commit 3\\n{{}}\\n\\n",
        f"{A} blob 0\\n\\n",
        f"{A} blob 3\\nPK3\\n",
        f"{A} blob 3\\n <{{\\n",
    ],
)
def test_what_is_no_metadata_is_absent_and_the_child_goes_on(start: Start, tmp_path: Path, answer: str) -> None:
    script = answer.replace("$name", "HEAD:x")
    cat_file = start(f"read -r name; printf '{script}'; {always(GOOD)}")
    assert cat_file.metadata(b"HEAD:x") is None
    assert cat_file.metadata(b"HEAD:y") == Blob(B, b"{}")
    assert starts(tmp_path) == 1
    cat_file.forget()


def test_an_id_is_found_without_reading(start: Start, tmp_path: Path) -> None:
    answers = (f"{A} blob 5368709120", f"{A} tree 3", f"{A} submodule", "HEAD:x missing", f"{B} blob 2")
    cat_file = start(f"printf '%s\\n' {shlex.join(answers)}; cat")
    assert [cat_file.identify(b"HEAD:x") for _ in answers] == [A, None, None, None, B]
    assert (tmp_path / "starts").read_text() == "cat-file --batch-check\n"
    cat_file.forget()


def test_a_blob_that_was_seen_is_not_read_again(start: Start, tmp_path: Path) -> None:
    cat_file = start(always(GOOD))
    seen: set[str] = set()
    assert cat_file.metadata(b":0:x", seen) == Blob(B, b"{}")
    assert cat_file.metadata(b"HEAD:x", seen) is None
    assert seen == {B}
    assert starts(tmp_path) == 1
    cat_file.forget()


@pytest.mark.parametrize("size", [catfile.LIMIT + 1, 5 << 30])
def test_a_blob_that_is_too_large_is_not_waited_for(start: Start, tmp_path: Path, size: int) -> None:
    # The script promises bytes and sends none.
    cat_file = start(f"read -r name; [ $name = big ] && printf '{A} blob {size}\\n' || printf '{GOOD}'; cat")
    assert cat_file.metadata(b"big") is None
    assert cat_file.metadata(b"small") == Blob(B, b"{}")
    assert starts(tmp_path) == 2
    cat_file.forget()


def test_a_raw_checkpoint_is_not_read_to_its_end(start: Start, tmp_path: Path) -> None:
    cat_file = start(f"read -r name; printf '{A} blob 100000000\\n%064d' 0; cat")
    assert cat_file.metadata(b"raw") is None
    cat_file.forget()


@pytest.mark.parametrize(
    "answer",
    [
        "garbage\\n",
        "other missing\\n",
        "\\n",
        f"{A} blob -1\\n",
        f"{A} blob 9999999999999999999\\n",
        f"{A[1:]} blob 3\\n",
        f"{A.upper()} blob 2\\n{{}}\\n",
    ],
)
def test_garbage_is_an_error_and_ends_the_child(start: Start, tmp_path: Path, answer: str) -> None:
    cat_file = start(always(answer))
    for count in (1, 2):
        with pytest.raises(RepositoryError, match=r"git cat-file answered '.*' to 'HEAD:x'"):
            cat_file.metadata(b"HEAD:x")
        assert starts(tmp_path) == count


@pytest.mark.parametrize(
    "answer", ["", "HEAD:x mis", f"{A} blob 3\\n", f"{A} blob 3\\n{{}}\\n", f"{A} blob 100\\n%064d{{"]
)
def test_a_child_that_ends_early_is_an_error_in_its_own_words(start: Start, answer: str) -> None:
    cat_file = start(f"read -r name; printf '{answer}'; echo 'fatal: loose object is corrupt' >&2; exit 128")
    with pytest.raises(RepositoryError) as caught:
        cat_file.metadata(b"HEAD:x")
    assert str(caught.value) == "git cat-file failed (exit 128): fatal: loose object is corrupt"


def test_a_child_that_is_gone_before_it_is_asked_is_an_error(start: Start) -> None:
    cat_file = start("echo 'fatal: not a git repository' >&2; exec <&-; exit 128")
    with pytest.raises(RepositoryError, match="fatal: not a git repository"):
        cat_file.metadata(b"HEAD:x" * 100_000)


def test_a_child_that_was_killed_is_an_error(start: Start) -> None:
    cat_file = start("read -r name; kill -9 $$")
    with pytest.raises(RepositoryError, match=r"git cat-file failed \(signal 9\)"):
        cat_file.metadata(b"HEAD:x")


def test_what_may_not_be_fetched_is_absent_and_the_next_question_starts_anew(start: Start, tmp_path: Path) -> None:
    cat_file = start(
        f"read -r name; [ $name != promised ] && printf '{GOOD}' && cat\n"
        f"echo 'fatal: could not fetch {A} from promisor remote' >&2; exit 128"
    )
    assert cat_file.metadata(b"promised") is None
    assert cat_file.metadata(b"here") == Blob(B, b"{}")
    assert starts(tmp_path) == 2
    cat_file.forget()


def test_the_child_may_fetch_nothing(start: Start) -> None:
    cat_file = start(
        'read -r name; printf "%s {%s}{%s}\\n" "$name" "$GIT_NO_LAZY_FETCH" "${GIT_ALLOW_PROTOCOL-unset}" >&2'
    )
    with pytest.raises(RepositoryError, match=r"x \{1\}\{\}$"):
        cat_file.metadata(b"x")


def test_complaints_of_a_child_that_goes_on_never_block_it(start: Start) -> None:
    noise = "head -c 1000000 /dev/zero | tr '\\0' x >&2"
    cat_file = start(f"while read -r name; do {noise}; printf '{GOOD}'; done")
    assert cat_file.metadata(b"x") == Blob(B, b"{}")
    cat_file.forget()


def test_nothing_is_left_running(start: Start, tmp_path: Path) -> None:
    cat_file = start(f"echo $$ > {tmp_path}/pid; {always(GOOD)}")
    cat_file.metadata(b"x")
    cat_file.forget()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    cat_file.forget()


def test_looks_in_the_order_of_the_question(scripted: Script, tmp_path: Path) -> None:
    settings = scripted("while read -r id; do printf '%s blob 4\\n{%.2s}\\n' $id $id; done")
    blobs = [f"{number:040x}"[::-1] for number in range(1000)]
    assert list(looks(settings, blobs)) == [Look(blob, 4, b"{" + blob[:2].encode() + b"}") for blob in blobs]
    assert (tmp_path / "starts").read_text() == "cat-file --batch --buffer\n"
    assert list(looks(settings, [])) == []
    assert starts(tmp_path) == 1


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (f"{A} missing\\n", None),
        (f"{A} tree 3\\n{{}}\\n\\n", None),
        (f"{A} blob 3\\nPK3\\n", Look(A, 3, None)),
        (f"{A} blob 0\\n\\n", Look(A, 0, None)),
        (f"{A} blob 6\\n{{    }}\\n", Look(A, 6, None)),  # over the limit
    ],
)
def test_a_look_at_what_is_no_metadata(scripted: Script, tmp_path: Path, answer: str, found: Look | None) -> None:
    settings = scripted(f"read -r id; printf '{answer}'; {always(GOOD)}")
    assert list(looks(settings, [A, B, B], limit=5)) == [found, Look(B, 2, b"{}"), Look(B, 2, b"{}")]
    assert starts(tmp_path) == 1


@pytest.mark.parametrize("head", ["%064d", ""])
def test_a_look_at_a_raw_checkpoint_takes_its_head_at_most(scripted: Script, tmp_path: Path, head: str) -> None:
    # The script promises bytes and sends none, or their head; who waits for the rest waits forever.
    size = (100 << 20) if head else catfile.LIMIT + 1
    settings = scripted(
        f"while read -r id; do [ $id = {A} ] && printf '{A} blob {size}\\n{head}' 0 && exec tail -f /dev/null\n"
        f"printf '{GOOD}'; done"
    )
    assert list(looks(settings, [B, A, B, A])) == [Look(B, 2, b"{}"), Look(A, size, None)] * 2
    assert starts(tmp_path) == 2


def test_a_look_at_what_may_not_be_fetched(scripted: Script, tmp_path: Path) -> None:
    settings = scripted(
        f"while read -r id; do [ $id = {B} ] && printf '{GOOD}' && continue\n"
        f"echo 'fatal: could not fetch {A} from promisor remote' >&2; exit 128; done"
    )
    assert list(looks(settings, [A, B, A])) == [None, Look(B, 2, b"{}"), None]
    assert starts(tmp_path) == 2


def test_a_look_that_fails_is_an_error(scripted: Script) -> None:
    settings = scripted("echo 'fatal: loose object is corrupt' >&2; exit 128")
    with pytest.raises(RepositoryError, match=r"^git cat-file failed \(exit 128\): fatal: loose object is corrupt$"):
        list(looks(settings, [A]))


def test_looks_that_are_left_early_leave_nothing_running(scripted: Script, tmp_path: Path) -> None:
    found = looks(scripted(f"echo $$ > {tmp_path}/pid; {always(GOOD)}; exec tail -f /dev/null"), [B] * 5)
    next(found)
    del found
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
