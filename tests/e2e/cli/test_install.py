from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.repository import Repository

WRITTEN = {
    "filter.theta.process": "theta-daemon",
    "filter.theta.clean": "theta-daemon clean %f",
    "filter.theta.smudge": "theta-daemon smudge %f",
    "filter.theta.required": "true",
    "merge.theta.name": "Keep our side of a checkpoint and report a conflict",
    "merge.theta.driver": "git theta merge-driver %O %A %B %P",
    "merge.theta.recursive": "binary",
}
OF_GIT_THETA = {
    "filter.theta.clean": "git-theta-filter clean %f",
    "filter.theta.smudge": "git-theta-filter smudge %f",
    "filter.theta.required": "true",
    "merge.theta.name": "Merge Models with Git-Theta",
    "merge.theta.driver": "git-theta-merge %O %A %B %P",
}


@pytest.fixture
def bare_of_config(new_repository: Callable[[str], Repository]) -> Repository:
    return new_repository("plain")


def configuration(repository: Repository, scope: str) -> dict[str, str]:
    done = repository.run("git", "config", f"--{scope}", "--list", "--null")
    rows = done.stdout.decode().split("\0")[:-1]
    return dict(row.split("\n", 1) for row in rows)


def theta(repository: Repository, scope: str) -> dict[str, str]:
    return {key: value for key, value in configuration(repository, scope).items() if ".theta." in key}


def home_file(repository: Repository) -> Path:
    return Path(repository.environment["GIT_CONFIG_GLOBAL"])


@pytest.mark.parametrize(("options", "scope"), [((), "global"), (("--global",), "global"), (("--local",), "local")])
def test_install_writes_the_filter_and_the_merge_driver(
    bare_of_config: Repository, options: tuple[str, ...], scope: str
) -> None:
    before = configuration(bare_of_config, scope)
    said = bare_of_config.git("theta", "install", *options)
    assert f"installed ({scope} configuration)" in said
    assert theta(bare_of_config, scope) == WRITTEN
    assert configuration(bare_of_config, scope) == before | WRITTEN


def test_install_for_the_machine(bare_of_config: Repository, tmp_path: Path) -> None:
    system = bare_of_config.in_environment(GIT_CONFIG_NOSYSTEM="0", GIT_CONFIG_SYSTEM=str(tmp_path / "gitconfig"))
    system.git("theta", "install", "--system")
    assert theta(system, "system") == WRITTEN
    system.git("theta", "uninstall", "--system")
    assert theta(system, "system") == {}


def test_install_for_one_work_tree(bare_of_config: Repository) -> None:
    bare_of_config.git("commit", "--quiet", "--allow-empty", "--message", "first")
    bare_of_config.git("config", "extensions.worktreeConfig", "true")
    bare_of_config.git("worktree", "add", "--quiet", "../linked")
    linked = bare_of_config.at(bare_of_config.path.parent / "linked")
    linked.git("theta", "install", "--worktree")
    assert theta(linked, "worktree") == WRITTEN
    assert theta(bare_of_config, "local") == {}
    assert theta(bare_of_config, "worktree") == {}


def test_installing_again_changes_no_byte(bare_of_config: Repository) -> None:
    bare_of_config.git("theta", "install")
    before = home_file(bare_of_config).read_bytes()
    assert "already installed" in bare_of_config.git("theta", "install")
    assert home_file(bare_of_config).read_bytes() == before


def test_the_rest_of_the_configuration_keeps_its_bytes(bare_of_config: Repository) -> None:
    file = home_file(bare_of_config)
    mine = '# mine\n[user]\n\tname = "A # B"\n[filter "lfs"]\n\tclean = git-lfs clean -- %f ; comment\n'
    file.write_text(mine)
    bare_of_config.git("theta", "install")
    assert file.read_text().startswith(mine)
    bare_of_config.git("theta", "uninstall")
    assert file.read_text() == mine


def test_git_thetas_values_are_replaced_and_named(bare_of_config: Repository) -> None:
    for key, value in OF_GIT_THETA.items():
        bare_of_config.git("config", "--global", key, value)
    bare_of_config.git("config", "--global", "diff.theta.command", "git-theta-diff")
    done = bare_of_config.run("git", "theta", "install")
    said = done.stderr.decode()
    assert done.returncode == 0
    assert "replaced filter.theta.clean = git-theta-filter clean %f" in said
    assert "replaced merge.theta.driver = git-theta-merge %O %A %B %P" in said
    assert "replaced filter.theta.required" not in said
    assert theta(bare_of_config, "global") == WRITTEN | {"diff.theta.command": "git-theta-diff"}
    # git-theta's program is not there, so `git diff` would die of it.
    assert "warning: diff.theta.command = git-theta-diff names a program that is not on PATH" in said


def test_foreign_values_stop_the_command_before_it_writes(bare_of_config: Repository) -> None:
    bare_of_config.git("config", "--global", "filter.theta.smudge", "my-own smudge")
    before = home_file(bare_of_config).read_bytes()
    error = bare_of_config.git_fails("theta", "install")
    assert error.startswith("git-theta: error: the global configuration has filter.theta.smudge = my-own smudge")
    assert "--force" in error
    assert home_file(bare_of_config).read_bytes() == before
    bare_of_config.git("theta", "install", "--force")
    assert theta(bare_of_config, "global") == WRITTEN


def test_several_values_of_a_key_become_one(bare_of_config: Repository) -> None:
    for value in ("theta-daemon", "theta-daemon"):
        bare_of_config.git("config", "--global", "--add", "filter.theta.process", value)
    bare_of_config.git("theta", "install")
    assert bare_of_config.git("config", "--global", "--get-all", "filter.theta.process") == "theta-daemon"


@pytest.mark.parametrize("spelled", ["required = yes", "required"])
def test_other_spellings_of_true_are_true(bare_of_config: Repository, spelled: str) -> None:
    home_file(bare_of_config).write_text(f'[filter "theta"]\n\t{spelled}\n')
    bare_of_config.git("theta", "install")
    assert home_file(bare_of_config).read_text().startswith(f'[filter "theta"]\n\t{spelled}\n')
    bare_of_config.git("theta", "uninstall")
    assert home_file(bare_of_config).read_text() == ""


def test_a_stronger_configuration_file_is_warned_of(bare_of_config: Repository) -> None:
    bare_of_config.git("config", "filter.theta.process", "another")
    done = bare_of_config.run("git", "theta", "install")
    assert b"overrides this one: filter.theta.process = another" in done.stderr


def test_what_is_not_on_path_is_warned_of(bare_of_config: Repository, tmp_path: Path) -> None:
    # Only git and the program under test.
    own = Path(bare_of_config.environment["PATH"].split(":", 1)[0])
    done = bare_of_config.in_environment(PATH="/nowhere").run(
        *(str(own / "python"), "-c", "import sys; from theta_daemon.cli.main import main; sys.exit(main(['install']))")
    )
    assert done.returncode == 1
    assert (
        b"git-theta: error: git cannot be run: No such file or directory; install it, or put it on PATH" in done.stderr
    )
    only_git = tmp_path / "bin"
    only_git.mkdir()
    # A git that knows no `git lfs`.
    (only_git / "git").write_text('#!/bin/sh\n[ "$1" = lfs ] && exit 1\nexec env PATH="$REAL_PATH" git "$@"\n')
    (only_git / "git").chmod(0o755)
    done = bare_of_config.in_environment(
        PATH=f"{only_git}:/usr/bin:/bin", REAL_PATH=bare_of_config.environment["PATH"]
    ).run(
        *(str(own / "python"), "-c", "import sys; from theta_daemon.cli.main import main; sys.exit(main(['install']))")
    )
    assert done.returncode == 0
    assert b"warning: theta-daemon is not on PATH" in done.stderr
    assert b"warning: git-lfs is not installed" in done.stderr


def test_uninstall_takes_back_what_install_wrote_and_nothing_else(bare_of_config: Repository) -> None:
    bare_of_config.git("theta", "install")
    bare_of_config.git("config", "--global", "diff.theta.textconv", "mine")
    bare_of_config.git("config", "--global", "theta.compatible", "true")
    assert "uninstalled (global configuration)" in bare_of_config.git("theta", "uninstall")
    assert configuration(bare_of_config, "global") == {"diff.theta.textconv": "mine", "theta.compatible": "true"}
    assert "[filter" not in home_file(bare_of_config).read_text()
    assert "not installed" in bare_of_config.git("theta", "uninstall")


def test_uninstall_leaves_other_values_and_then_required_too(bare_of_config: Repository) -> None:
    bare_of_config.git("theta", "install")
    bare_of_config.git("config", "--global", "filter.theta.clean", "git-theta-filter clean %f")
    done = bare_of_config.run("git", "theta", "uninstall")
    assert b"left as it is: filter.theta.clean = git-theta-filter clean %f" in done.stderr
    assert theta(bare_of_config, "global") == {
        "filter.theta.clean": "git-theta-filter clean %f",
        "filter.theta.required": "true",
    }


def test_uninstall_touches_one_scope(bare_of_config: Repository) -> None:
    bare_of_config.git("theta", "install")
    bare_of_config.git("theta", "install", "--local")
    bare_of_config.git("theta", "uninstall", "--local")
    assert theta(bare_of_config, "local") == {}
    assert theta(bare_of_config, "global") == WRITTEN


def test_a_local_install_needs_a_repository_and_says_so_in_gits_words(bare_of_config: Repository) -> None:
    outside = bare_of_config.at(bare_of_config.path.parent)
    error = outside.git_fails("theta", "install", "--local")
    assert error == "git-theta: error: --local can only be used inside a git repository\n"
    outside.git("theta", "install")


def test_two_scopes_at_once_are_refused(bare_of_config: Repository) -> None:
    done = bare_of_config.run("git", "theta", "install", "--local", "--global")
    assert done.returncode == 2
    assert b"git-theta: error: argument" in done.stderr
