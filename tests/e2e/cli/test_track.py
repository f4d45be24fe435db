from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.cli.written import metadata
from tests.support.repository import Repository

ALL = "filter=theta merge=theta diff=theta -text"


def effective(repository: Repository, path: str | bytes) -> list[bytes]:
    """Return the values of filter, merge, diff and text for a path."""
    fields = repository.git_bytes("check-attr", "-z", "filter", "merge", "diff", "text", "--", path).split(b"\0")
    return fields[2::3]


OURS = [b"theta", b"theta", b"theta", b"unset"]


def attributes(repository: Repository) -> str:
    return repository.read(".gitattributes").decode("utf-8", "surrogateescape")


def test_track_writes_stages_and_tells(repository: Repository) -> None:
    said = repository.git("theta", "track", "*.pt", "*.safetensors")
    assert attributes(repository) == f"*.pt {ALL}\n*.safetensors {ALL}\n"
    assert repository.git("diff", "--cached", "--name-only") == ".gitattributes"
    assert said.splitlines() == [
        f"the pre-push hook sends objects: {repository.path}/.git/hooks/pre-push",
        f"tracked: *.pt {ALL}",
        f"tracked: *.safetensors {ALL}",
        ".gitattributes is written and staged.",
    ]
    assert effective(repository, "deep/down/a.pt") == OURS


def test_track_again_says_so_and_writes_nothing(repository: Repository) -> None:
    repository.git("theta", "track", "*.pt")
    before = (repository.path / ".gitattributes").stat()
    assert repository.git("theta", "track", "*.pt") == f"already tracked: *.pt {ALL}"
    assert (repository.path / ".gitattributes").stat() == before


def test_git_thetas_own_line_gets_what_it_lacks(repository: Repository) -> None:
    repository.write(".gitattributes", b"# models\r\nmodel.pt filter=theta merge=theta diff=theta\r\n*.md text\r\n")
    repository.git("theta", "track", "model.pt")
    assert attributes(repository) == f"# models\r\nmodel.pt {ALL}\r\n*.md text\r\n"
    assert effective(repository, "model.pt") == OURS


def test_every_other_byte_stays(repository: Repository) -> None:
    other = b'[attr]big -diff\n"with space.pt" big\n\xff\xfe eol=lf\n# \xe9\n\n   \t\n!x y\n*.py text'
    repository.write(".gitattributes", other)
    repository.git("theta", "track", "*.bin")
    assert repository.read(".gitattributes") == other + f"\n*.bin {ALL}\n".encode()
    repository.git("theta", "untrack", "*.bin")
    assert repository.read(".gitattributes") == other + b"\n"


def test_the_file_keeps_its_permissions(repository: Repository) -> None:
    repository.write(".gitattributes", b"").chmod(0o640)
    repository.git("theta", "track", "*.pt")
    assert (repository.path / ".gitattributes").stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in repository.path.iterdir()) == [".git", ".gitattributes"]


def test_patterns_are_relative_to_the_current_directory(repository: Repository) -> None:
    typed = ["*.pt", "./a.pt", "../a.pt", "../../a.pt", "**/*.pt", "/b.pt"]
    patterns = ["models/v1/*.pt", "models/v1/a.pt", "models/a.pt", "a.pt", "models/v1/**/*.pt", "models/v1/b.pt"]
    repository.write("models/v1/readme", b"")
    repository.git("theta", "track", *typed, cwd=repository.path / "models" / "v1")
    assert attributes(repository) == "".join(f"{pattern} {ALL}\n" for pattern in patterns)
    assert effective(repository, "models/v1/x/x.pt") == OURS
    assert effective(repository, "models/x.pt")[0] == b"unspecified"
    repository.git("theta", "untrack", *typed, cwd=repository.path / "models" / "v1")
    assert attributes(repository) == ""


def test_a_git_directory_that_is_named_from_here(repository: Repository) -> None:
    below = repository.path / "models"
    below.mkdir()
    repository.git("--git-dir=../.git", "--work-tree=..", "theta", "track", "*.pt", cwd=below)
    assert attributes(repository) == f"models/*.pt {ALL}\n"


def test_an_absolute_path_is_that_file(repository: Repository) -> None:
    path = repository.write("models/a.pt", b"")
    repository.git("theta", "track", str(path), cwd=repository.path / "models")
    assert attributes(repository) == f"models/a.pt {ALL}\n"


def test_a_directory_with_glob_characters_is_taken_literally(repository: Repository) -> None:
    repository.write("v[1]*/readme", b"")
    repository.git("theta", "track", "*.pt", cwd=repository.path / "v[1]*")
    assert attributes(repository) == f"v\\[1]\\*/*.pt {ALL}\n"
    assert effective(repository, "v[1]*/a.pt") == OURS
    assert effective(repository, "v1x/a.pt")[0] == b"unspecified"


def test_a_file_of_any_name_is_tracked_by_its_name(repository: Repository) -> None:
    names = [
        b"a b.pt",
        b'"a".pt',
        b"#a.pt",
        b"!a.pt",
        b"a[1].pt",
        b"a*?.pt",
        b"a\\b.pt",
        b"\xff\xfe.pt",
        "é.pt".encode(),
    ]
    names += [b"a\nb.pt", b"\ta.pt", b"[attr]a.pt", b"-a.pt", b"a.pt ", b"a\r.pt"]
    for name in names:
        with open(bytes(repository.path) + b"/" + name, "wb"):
            pass
    repository.git("theta", "track", "--", *names)
    assert [effective(repository, name) for name in names] == [OURS] * len(names)
    assert {effective(repository, b"x" + name)[0] for name in names} == {b"unspecified"}
    repository.git("theta", "untrack", "--", *names)
    assert repository.read(".gitattributes") == b""


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("*.pt filter=lfs diff=lfs merge=lfs -text", "*.pt"),
        ("*.pt filter=lfs diff=lfs merge=lfs -text", "model.pt"),  # another pattern, the same file
        ("model.* -filter", "model.pt"),
        ("*.pt filter", "models/*.pt"),
    ],
)
def test_another_filter_is_an_error_that_names_the_line(repository: Repository, line: str, path: str) -> None:
    before = f"# first\n{line}\n*.py text\n".encode()
    repository.write(".gitattributes", before)
    error = repository.git_fails("theta", "track", "*.bin", path)
    assert error.startswith("git-theta: error: ")
    assert ".gitattributes:2" in error
    assert error.count("\n") == 1
    assert repository.read(".gitattributes") == before
    assert repository.status() == ""


def test_another_filter_on_a_file_that_exists_is_found_below_too(repository: Repository) -> None:
    repository.write("models/.gitattributes", b"\n*.pt filter=lfs\n")
    repository.write("models/a.pt", b"")
    error = repository.git_fails("theta", "track", "*.pt")
    assert "models/a.pt" in error
    assert "models/.gitattributes:2" in error


def test_the_repositorys_private_attributes_count_most(repository: Repository) -> None:
    info = repository.git_directory / "info" / "attributes"
    info.parent.mkdir(exist_ok=True)
    info.write_text("*.pt filter=other\n")
    assert "info/attributes:1" in repository.git_fails("theta", "track", "*.pt")


def test_the_users_own_attribute_file_is_no_conflict(repository: Repository) -> None:
    everywhere = repository.path.parent / "attributes"
    everywhere.write_text("*.pt filter=lfs\n")
    repository.git("config", "core.attributesFile", str(everywhere))
    repository.git("theta", "track", "*.pt")
    assert effective(repository, "a.pt") == OURS


def test_untracked_and_ignored_look_different(repository: Repository) -> None:
    repository.write(".gitignore", b"*.tmp\n")
    repository.write(".gitattributes", b"scratch.tmp filter=other\n")
    repository.write("scratch.tmp", b"")
    repository.git("theta", "track", "*.tmp")  # an ignored file cannot be in conflict


@pytest.mark.parametrize("pattern", ["*", "**", ".git*"])
def test_a_pattern_that_takes_gitattributes_itself_is_refused(repository: Repository, pattern: str) -> None:
    assert "also matches .gitattributes" in repository.git_fails("theta", "track", pattern)


def test_a_directory_is_no_pattern(repository: Repository) -> None:
    repository.write("models/a.pt", b"")
    error = repository.git_fails("theta", "track", "models/")
    assert "'models/**'" in error
    repository.git("theta", "track", "models/**")
    assert effective(repository, "models/x/a.pt") == OURS


@pytest.mark.parametrize("pattern", ["", "a/"])
def test_what_matches_no_file_is_refused(repository: Repository, pattern: str) -> None:
    done = repository.run("git", "theta", "track", pattern)
    assert done.returncode == 2
    assert b"not a pattern for files" in done.stderr


def test_a_linked_gitattributes_is_left_alone(repository: Repository) -> None:
    target = repository.path.parent / "elsewhere"
    target.write_text("*.py text\n")
    (repository.path / ".gitattributes").symlink_to(target)
    assert "not a regular file" in repository.git_fails("theta", "track", "*.pt")
    assert target.read_text() == "*.py text\n"


def test_a_gitattributes_in_conflict_is_left_alone(repository: Repository) -> None:
    repository.write(".gitattributes", b"base\n")
    repository.commit("base")
    repository.git("branch", "other")
    repository.write(".gitattributes", b"ours\n")
    repository.commit("ours")
    repository.git("checkout", "--quiet", "other")
    repository.write(".gitattributes", b"theirs\n")
    repository.commit("theirs")
    repository.git_fails("merge", "main")
    before = repository.read(".gitattributes")
    assert "has conflicts" in repository.git_fails("theta", "track", "*.pt")
    assert repository.read(".gitattributes") == before


def test_a_deleted_gitattributes_is_not_written_anew(repository: Repository) -> None:
    repository.write(".gitattributes", b"*.py text\n")
    repository.commit("attributes")
    (repository.path / ".gitattributes").unlink()
    assert "git checkout -- .gitattributes" in repository.git_fails("theta", "track", "*.pt")


def test_track_installs_when_the_user_forgot_to(new_repository: Callable[[str], Repository]) -> None:
    forgotten = new_repository("forgotten")
    done = forgotten.run("git", "theta", "track", "*.pt")
    assert done.returncode == 0
    assert b"git does not run theta-daemon here yet" in done.stderr
    assert b"installed (local configuration)" in done.stdout
    assert forgotten.git("config", "--local", "filter.theta.process") == "theta-daemon"


def test_track_is_content_with_any_install_of_theta_daemon(new_repository: Callable[[str], Repository]) -> None:
    repository = new_repository("own")
    repository.git("config", "--global", "filter.theta.process", "/opt/venv/bin/theta-daemon --flag")
    repository.git("theta", "track", "*.pt")
    assert repository.run("git", "config", "--local", "filter.theta.process").returncode == 1


def test_files_that_git_holds_raw_are_named(repository: Repository) -> None:
    repository.write("a.pt", b"raw")
    repository.write("b b.pt", b"raw too")
    repository.write("c.pt", metadata({"w": b"x"}))
    repository.write("d.py", b"raw")
    repository.commit("before it was tracked")
    said = repository.git("theta", "track", "*.pt")
    assert said.endswith("git add --renormalize -- a.pt 'b b.pt'")


def test_raw_files_are_named_as_seen_from_here(repository: Repository) -> None:
    repository.write("models/a.pt", b"raw")
    repository.write("other/b.pt", b"raw")
    repository.commit("before it was tracked")
    said = repository.git("theta", "track", "/*/*.pt", "../*/*.pt", cwd=repository.path / "models")
    assert said.endswith(("git add --renormalize -- ../other/b.pt a.pt", "-- a.pt ../other/b.pt"))


def test_what_is_tracked_is_listed(repository: Repository) -> None:
    repository.git("theta", "track", "*.pt", "a b")
    repository.write("models/.gitattributes", b"# no\n*.bin filter=theta\n*.py text\n*.x filter=lfs\n")
    expected = "*.pt\t.gitattributes:1\na b\t.gitattributes:2\n*.bin\tmodels/.gitattributes:2"
    assert repository.git("theta", "track") == expected
    assert repository.git("theta", "track", cwd=repository.path / "models") == expected


def test_outside_of_a_repository_git_speaks(repository: Repository) -> None:
    outside = repository.at(repository.path.parent)
    error = outside.git_fails("theta", "track", "*.pt")
    assert error == "git-theta: error: not a git repository (or any of the parent directories): .git\n"


def test_a_bare_repository_has_no_attributes_to_write(repository: Repository) -> None:
    bare = Repository.init(repository.path.parent / "bare.git", repository.environment, "--bare")
    assert "must be run in a work tree" in bare.git_fails("theta", "track", "*.pt")


def test_untrack_leaves_the_rest_of_the_line(repository: Repository) -> None:
    repository.write(".gitattributes", b"*.pt lockable\n*.bin text\n")
    repository.git("theta", "track", "*.pt")
    said = repository.git("theta", "untrack", "*.pt")
    assert repository.read(".gitattributes") == b"*.pt lockable\n*.bin text\n"
    assert said.startswith("no longer tracked: '*.pt'\n")
    assert repository.git("diff", "--cached", "--name-only") == ".gitattributes"
    assert effective(repository, "a.pt")[0] == b"unspecified"


def test_untrack_is_all_or_nothing(repository: Repository) -> None:
    repository.git("theta", "track", "*.pt")
    before = repository.read(".gitattributes")
    error = repository.git_fails("theta", "untrack", "*.pt", "*.bin")
    assert "*.bin: is not tracked" in error
    assert repository.read(".gitattributes") == before


def test_untrack_takes_a_listed_pattern_from_anywhere(repository: Repository) -> None:
    repository.git("theta", "track", "*.pt")
    repository.write("models/readme", b"")
    repository.git("theta", "untrack", "*.pt", cwd=repository.path / "models")
    assert repository.read(".gitattributes") == b""
