"""Updates and rewritten history, with real git: every file comes back byte for byte, whatever became of its commits.

What was HEAD when an update was worked out may be amended, dropped, squashed or pruned: the entry itself names all that
its value is made of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.e2e.updates.conftest import (
    KINDS,
    LARGE,
    Story,
    base_model,
    clone,
    copy_of,
    entries,
    increments,
    is_here,
    prune,
    touched,
    tracking,
)
from tests.support import models
from tests.support.checkouts import repository_below
from tests.support.repository import Repository


@dataclass(frozen=True, slots=True)
class Line:
    """Four commits on main: after the first nothing but updates, of all groups, of one, and of the two others."""

    story: Story
    models: tuple[models.StateDict, ...]
    commits: tuple[str, ...]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Line:
    """Return the line that each test gets a copy of."""
    repository = tracking(repository_below(tmp_path_factory.mktemp("template")))
    repository.git("config", "theta.updateType", "auto")
    story = Story(repository)
    versions = [base_model()]
    commits = [story.commit(versions[0], "0")]
    for number, names in enumerate([(), ("a.weight",), ("b.weight", "c.weight")], 1):
        versions.append(touched(versions[-1], number, *names))
        commits.append(story.commit(versions[-1], str(number)))
        assert story.increments() == LARGE
    return Line(story, tuple(versions), tuple(commits))


@pytest.fixture
def line(template: Line, tmp_path: Path, git_environment: dict[str, str]) -> Line:
    """Return the line in a repository of the test's own."""
    repository = copy_of(template.story.repository, tmp_path / "repository", git_environment)
    return Line(Story(repository), template.models, template.commits)


def test_every_commit_checks_out(line: Line) -> None:
    for number in (0, 2, 1):
        line.story.repository.git("checkout", "--quiet", line.commits[number])
        line.story.assert_is(line.models[number])


def test_amend(line: Line) -> None:
    story, repository = line.story, line.story.repository
    for names in ((), ("a.weight",)):
        amended = touched(line.models[3], 10, *names)
        story.write(amended)
        repository.git("commit", "--quiet", "--all", "--amend", "--message", "amended")
        assert story.increments() == LARGE
    prune(repository)
    assert not is_here(repository, line.commits[3])
    story.assert_is(amended)


def test_amend_back_to_what_was_there_before(line: Line) -> None:
    story, repository = line.story, line.story.repository
    story.write(line.models[2])
    repository.git("commit", "--quiet", "--all", "--amend", "--allow-empty", "--message", "nothing")
    story.assert_is(line.models[2])


def side_branch(line: Line, number: int) -> None:
    """Begin the branch `side` at a commit of the line, with another file."""
    repository = line.story.repository
    repository.git("checkout", "--quiet", "-b", "side", line.commits[number])
    repository.write("notes.txt", b"side\n")
    repository.commit("notes", "notes.txt")


def test_rebase_of_another_file(line: Line) -> None:
    story, repository = line.story, line.story.repository
    side_branch(line, 0)
    repository.git("rebase", "--quiet", "side", "main")
    assert repository.git("rev-parse", "HEAD") != line.commits[3]
    prune(repository)
    assert not is_here(repository, line.commits[3])
    assert story.increments() == LARGE
    story.assert_is(line.models[3])
    repository.git("checkout", "--quiet", "HEAD~1")
    story.assert_is(line.models[2])


@pytest.mark.parametrize("side", ["--ours", "--theirs"])
def test_rebase_with_conflicts(line: Line, side: str) -> None:
    story, repository = line.story, line.story.repository
    repository.git("checkout", "--quiet", "-b", "side", line.commits[0])
    mine = touched(line.models[0], 20, "a.weight")
    story.commit(mine, "mine")
    repository.git_fails("rebase", "main")
    expected = line.models[3] if side == "--ours" else mine  # ours is what the commits are put upon
    story.take(side)
    story.assert_holds(expected)
    repository.in_environment(GIT_EDITOR="true").git("rebase", "--continue")
    prune(repository)
    assert story.increments() == (LARGE if side == "--ours" else {"a.weight"})
    story.assert_is(expected)


def test_rebase_that_is_aborted(line: Line) -> None:
    story, repository = line.story, line.story.repository
    side_branch(line, 0)
    mine = touched(line.models[0], 21)
    story.commit(mine, "mine")
    repository.git_fails("rebase", "main")
    repository.git("rebase", "--abort")
    story.assert_is(mine)


def listing(repository: Repository, tmp_path: Path, *todo: str) -> Repository:
    """Return the repository with an editor that replaces the list of `git rebase --interactive`."""
    (tmp_path / "todo").write_text("".join(f"{each}\n" for each in todo))
    return repository.in_environment(GIT_SEQUENCE_EDITOR=f"cp '{tmp_path / 'todo'}'", GIT_EDITOR="true")


def test_rebase_interactive_with_a_dropped_commit(line: Line, tmp_path: Path) -> None:
    """Of metadata git can only take one side's, whole: the commit that is picked keeps its values."""
    story, repository = line.story, line.story.repository
    editing = listing(repository, tmp_path, f"pick {line.commits[1]}", f"pick {line.commits[3]}")
    editing.git_fails("rebase", "--interactive", line.commits[0])
    story.take("--theirs")
    editing.git("rebase", "--continue")
    assert story.increments() == LARGE
    prune(repository)
    assert not is_here(repository, line.commits[2])
    story.assert_is(line.models[3])
    repository.git("checkout", "--quiet", "HEAD~1")
    story.assert_is(line.models[1])


def test_rebase_interactive_with_reordered_commits(line: Line, tmp_path: Path) -> None:
    story, repository = line.story, line.story.repository
    editing = listing(repository, tmp_path, *(f"pick {line.commits[number]}" for number in (1, 3, 2)))
    editing.git_fails("rebase", "--interactive", line.commits[0])
    story.take("--theirs")
    story.assert_holds(line.models[3])
    editing.git_fails("rebase", "--continue")
    story.take("--theirs")
    story.assert_holds(line.models[2])
    editing.git("rebase", "--continue")
    prune(repository)
    assert not is_here(repository, line.commits[3])
    story.assert_is(line.models[2])
    repository.git("checkout", "--quiet", "main~1")
    story.assert_is(line.models[3])


def test_rebase_interactive_with_an_edited_and_squashed_commits(line: Line, tmp_path: Path) -> None:
    story, repository = line.story, line.story.repository
    first, second, third = line.commits[1:]
    editing = listing(repository, tmp_path, f"edit {first}", f"squash {second}", f"fixup {third}")
    editing.git("rebase", "--interactive", line.commits[0])
    story.assert_holds(line.models[1])
    repository.write("notes.txt", b"edited\n")
    repository.git("add", "notes.txt")
    repository.git("commit", "--quiet", "--amend", "--no-edit")
    editing.git("rebase", "--continue")
    assert repository.git("rev-list", "--count", f"{line.commits[0]}..HEAD") == "1"
    prune(repository)
    assert story.increments() == LARGE
    story.assert_is(line.models[3])


def test_cherry_pick_to_another_branch(line: Line) -> None:
    story, repository = line.story, line.story.repository
    side_branch(line, 0)
    repository.git("cherry-pick", line.commits[1])
    assert story.increments() == LARGE
    story.assert_is(line.models[1])
    repository.git_fails("cherry-pick", line.commits[3])
    story.take("--theirs")
    repository.in_environment(GIT_EDITOR="true").git("cherry-pick", "--continue")
    repository.git("branch", "--quiet", "--delete", "--force", "main")
    prune(repository)
    assert not is_here(repository, line.commits[3])
    story.assert_is(line.models[3])


def test_revert(line: Line) -> None:
    story, repository = line.story, line.story.repository
    repository.git("revert", "--no-edit", "HEAD")
    story.assert_is(line.models[2])
    new = touched(line.models[2], 30)
    story.commit(new, "after the revert")
    assert story.increments() == LARGE
    repository.git("revert", "--no-edit", "HEAD", "HEAD~1")
    story.assert_is(line.models[3])


def test_merge_squash(line: Line) -> None:
    story, repository = line.story, line.story.repository
    repository.git("checkout", "--quiet", "-b", "release", line.commits[0])
    repository.git("merge", "--quiet", "--squash", "main")
    repository.git("commit", "--quiet", "--message", "squashed")
    assert story.depth("a.weight") == 2
    repository.git("branch", "--quiet", "--delete", "--force", "main")
    prune(repository)
    assert not is_here(repository, line.commits[1])
    story.assert_is(line.models[3])


def test_merge_of_two_branches(line: Line) -> None:
    """Each holds updates of its own; a value that neither has builds on HEAD's."""
    story, repository = line.story, line.story.repository
    repository.git("checkout", "--quiet", "-b", "side", line.commits[2])
    story.commit(touched(line.models[2], 40), "side")
    repository.git_fails("merge", "main")
    repository.git("checkout", "--theirs", "--", *KINDS)
    story.assert_holds(line.models[3])
    mixed = touched(line.models[3], 41, "b.weight")
    story.write(mixed)
    repository.git("add", *KINDS)
    repository.git("commit", "--quiet", "--no-edit")
    assert story.increments() == LARGE
    story.assert_is(mixed)


def test_stash_push_and_pop(line: Line) -> None:
    story, repository = line.story, line.story.repository
    staged, later = touched(line.models[3], 50), touched(line.models[3], 51, "a.weight")
    story.write(staged)
    repository.git("add", *KINDS)
    story.write(later)
    repository.git("stash", "push", "--quiet")
    assert story.increments("stash@{0}") == LARGE
    story.assert_is(line.models[3])
    repository.git("stash", "pop", "--quiet", "--index")
    story.assert_holds(later)
    assert story.increments("") == LARGE
    repository.git("checkout", "--", *KINDS)
    story.assert_holds(staged)


def test_stash_becomes_a_branch(line: Line) -> None:
    story, repository = line.story, line.story.repository
    changed = touched(line.models[3], 52)
    story.write(changed)
    repository.git("stash", "push", "--quiet")
    repository.git("reset", "--quiet", "--hard", line.commits[0])
    repository.git("stash", "branch", "stashed")
    repository.git("commit", "--quiet", "--all", "--message", "what was stashed")
    assert story.increments() == LARGE
    story.assert_is(changed)


def test_reset_soft_and_commit_again(line: Line) -> None:
    story, repository = line.story, line.story.repository
    staged = [repository.blob(path) for path in KINDS]
    repository.git("reset", "--quiet", "--soft", line.commits[0])
    repository.git("commit", "--quiet", "--message", "all in one")
    assert [repository.blob(path, "HEAD") for path in KINDS] == staged
    prune(repository)
    assert not is_here(repository, line.commits[2])
    story.assert_is(line.models[3])
    new = touched(line.models[3], 60)
    story.commit(new, "and on")
    assert story.depth("a.weight") == 3
    story.assert_is(new)


@pytest.mark.parametrize("option", ["--mixed", "--hard"])
def test_reset_and_the_next_change(line: Line, option: str) -> None:
    story, repository = line.story, line.story.repository
    repository.git("reset", "--quiet", option, line.commits[1])
    story.assert_holds(line.models[3 if option == "--mixed" else 1])
    prune(repository)
    new = touched(line.models[3], 61)
    story.commit(new, "elsewhere")
    assert story.increments() == LARGE
    assert story.depth("c.weight") == 2
    story.assert_is(new)


@pytest.mark.parametrize("option", ["--depth=1", "--filter=blob:none", "--filter=tree:0"])
def test_clone_that_is_not_whole(line: Line, tmp_path: Path, option: str) -> None:
    cloned = line.story.at(clone(line.story.repository, tmp_path / "clone", option))
    cloned.repository.git("checkout", "--quiet", "main")
    cloned.assert_is(line.models[3])
    new = touched(line.models[3], 70)
    cloned.commit(new, "from the clone")
    assert cloned.increments() == LARGE
    cloned.assert_is(new)
    if option != "--depth=1":
        cloned.repository.git("checkout", "--quiet", line.commits[1])
        cloned.assert_is(line.models[1])


def test_linked_worktree(line: Line) -> None:
    story, repository = line.story, line.story.repository
    linked = story.at(repository.at(repository.path.parent / "linked"))
    repository.git("worktree", "add", "--quiet", "-b", "linked", str(linked.repository.path), line.commits[2])
    linked.assert_is(line.models[2])
    new = touched(line.models[2], 80)
    linked.commit(new, "in the linked worktree")
    assert {entries(linked.repository, path)["a.weight"].last_commit for path in KINDS} == {line.commits[2]}
    linked.assert_is(new)
    story.assert_is(line.models[3])
    repository.git("checkout", "--quiet", "--detach", "linked")
    story.assert_is(new)


def test_bisect(line: Line) -> None:
    story, repository = line.story, line.story.repository
    path = next(iter(KINDS))
    repository.write("../wanted", KINDS[path](line.models[2]))
    repository.git("bisect", "start", line.commits[3], line.commits[0])
    said = repository.git("bisect", "run", "sh", "-c", f"! cmp -s {path} ../wanted")
    assert f"{line.commits[2]} is the first bad commit" in said
    repository.git("bisect", "reset")
    story.assert_is(line.models[3])


def test_gc_with_the_old_commits_unreachable(line: Line) -> None:
    """The history is one commit now, as a squashed import makes it."""
    story, repository = line.story, line.story.repository
    orphan = repository.git("commit-tree", repository.git("rev-parse", "HEAD^{tree}"), "-m", "no parents")
    repository.git("reset", "--quiet", "--soft", orphan)
    prune(repository)
    assert not any(is_here(repository, commit) for commit in line.commits)
    assert story.increments() == LARGE
    story.assert_is(line.models[3])
    new = touched(line.models[3], 90)
    story.commit(new, "and on")
    assert story.increments() == LARGE
    story.assert_is(new)


def test_renamed(line: Line) -> None:
    """What is committed under the new name builds on what HEAD holds there; before that, nothing does."""
    repository = line.story.repository
    repository.git("mv", "model.pt", "moved.pt")
    repository.write("moved.pt", models.torch_bytes(touched(line.models[3], 94)))
    repository.commit("moved and changed")
    assert increments(repository, "moved.pt") == set()
    new = models.torch_bytes(touched(line.models[3], 95))
    repository.write("moved.pt", new)
    repository.commit("changed there")
    assert increments(repository, "moved.pt") == LARGE
    repository.checkout_again()
    assert repository.read("moved.pt") == new
    assert repository.status() == ""


WEIGHT = torch.from_numpy(np.random.default_rng(5).integers(-(2**20), 2**20, (60, 50)).astype(np.float32))
NAMED: dict[str, Callable[[int], torch.Tensor]] = {
    "sparse": lambda number: WEIGHT + WEIGHT.gt(2**20 - 9000 * number) * 4,
    "low-rank": lambda number: WEIGHT + torch.ones(60, 1) @ torch.arange(50.0)[None] * number,
    "ia3": lambda number: WEIGHT * torch.tensor([2.0, 4.0] * 25) ** number,
}


@pytest.mark.parametrize("update_type", NAMED)
def test_types_that_were_named(updating: Repository, tmp_path: Path, update_type: str) -> None:
    """Those of git-theta: amended, picked onto another commit, and pruned."""
    path = "model.safetensors"
    updating.write(path, models.safetensors_bytes({"w": WEIGHT}))
    updating.commit("0")
    for number, options in ((1, ()), (2, ("--amend",))):
        content = models.safetensors_bytes({"w": NAMED[update_type](number)})
        updating.write(path, content)
        updating.git("theta", "add", "--update-type", update_type, path)
        updating.git("commit", "--quiet", "--message", str(number), *options)
        assert entries(updating, path)["w"].update_type == update_type
        assert len(entries(updating, path)["w"].replay) == number
    picked = updating.git("rev-parse", "HEAD")
    updating.git("checkout", "--quiet", "-b", "side", "HEAD~1")
    updating.write("notes.txt", b"side\n")
    updating.commit("notes")
    updating.git("cherry-pick", picked)
    updating.git("branch", "--quiet", "--delete", "--force", "main")
    prune(updating)
    cloned = clone(updating, tmp_path / "clone", "--depth", "1")
    cloned.git("checkout", "--quiet", "side")
    for repository in (updating, cloned):
        repository.checkout_again()
        assert repository.read(path) == content
        (repository.path / path).touch()
        assert repository.status() == ""


def adapter(tensors: models.StateDict, *names: str, seed: int = 0) -> bytes:
    """Return low-rank updates, named as git-theta names them."""
    found: models.StateDict = {}
    for number, name in enumerate(names):
        rows, columns = tensors[name].shape
        rng = np.random.default_rng(seed + number)
        found[f"{name}/R"] = torch.from_numpy(rng.normal(0, 1, (rows, 2)).astype(np.float32))
        found[f"{name}/C"] = torch.from_numpy(rng.normal(0, 1, (2, columns)).astype(np.float32))
    return models.safetensors_bytes(found)


def side_load(repository: Repository, path: str, updates: str = "../updates.safetensors") -> str:
    """Apply low-rank updates, and return what the command said."""
    done = repository.run("git", "theta", "add", path, "--update-type", "low-rank", "--update-path", updates)
    assert done.returncode == 0, done.stderr
    return done.stderr.decode()


@pytest.mark.parametrize("path", KINDS)
def test_side_loaded_in_the_first_commit_after_the_base(updating: Repository, path: str) -> None:
    base = base_model()
    updating.write(path, KINDS[path](base))
    updating.commit("the very first model")
    updating.write("../updates.safetensors", adapter(base, "a.weight", "b.weight"))
    side_load(updating, path)
    assert updating.git("status", "--porcelain") == f"M  {path}"
    content = updating.read(path)
    assert content != KINDS[path](base)
    updating.git("commit", "--quiet", "--message", "adapter")
    assert increments(updating, path) == {"a.weight", "b.weight"}
    updating.git("commit", "--quiet", "--amend", "--message", "amended")
    orphan = updating.git("commit-tree", updating.git("rev-parse", "HEAD^{tree}"), "-m", "no parents")
    updating.git("reset", "--quiet", "--hard", orphan)
    prune(updating)
    updating.checkout_again()
    assert updating.read(path) == content
    assert updating.status() == ""


def snapshot(repository: Repository) -> tuple[str, dict[str, bytes]]:
    """Return the index as a list, and every file of the work tree."""
    files = {
        str(file.relative_to(repository.path)): file.read_bytes()
        for file in sorted(repository.path.rglob("*"))
        if file.is_file() and ".git" not in file.relative_to(repository.path).parts
    }
    return repository.git("ls-files", "--stage"), files


def assert_refused(repository: Repository, path: str, *said: str) -> None:
    """Fail unless the updates are refused with one line that says all of this, and nothing is changed."""
    before = snapshot(repository)
    error = repository.git_fails(
        "theta", "add", path, "--update-type", "low-rank", "--update-path", "../updates.safetensors"
    )
    assert len(error.splitlines()) == 1
    for each in said:
        assert each in error
    assert snapshot(repository) == before


def test_side_loaded_where_there_is_no_commit_yet(updating: Repository) -> None:
    """On a branch that is not born, staged or not, and on a root commit that does not hold the file."""
    path = "model.safetensors"
    base = base_model()
    updating.write("../updates.safetensors", adapter(base, "a.weight"))
    updating.git("checkout", "--quiet", "--orphan", "unborn")
    updating.write(path, KINDS[path](base))
    assert_refused(updating, path, path, "git does not track it yet", "add and commit")
    updating.git("add", path)
    assert_refused(updating, path, path, "HEAD does not hold it", "commit it first")
    updating.git("commit", "--quiet", "--message", "a root commit without it", ".gitattributes")
    assert_refused(updating, path, path, "HEAD does not hold it", "commit it first")
    updating.git("commit", "--quiet", "--all", "--message", "now it is there")
    side_load(updating, path)
    assert increments(updating, path, "") == {"a.weight"}


@pytest.mark.parametrize("path", KINDS)
def test_side_loaded_on_a_file_that_was_changed(updating: Repository, path: str) -> None:
    base = base_model()
    updating.write(path, KINDS[path](base))
    updating.commit("base")
    updating.write("../updates.safetensors", adapter(base, "a.weight", "b.weight"))
    updating.write(path, KINDS[path](touched(base, 1, "b.weight", "c.weight")))
    assert_refused(updating, path, path, "b.weight", "the work tree has changed what is to be updated")
    others = touched(base, 2, "c.weight") | {"bias": torch.ones(9)}
    updating.write(path, KINDS[path](others))
    side_load(updating, path)
    loaded = models.safetensors_loaded if path.endswith("safetensors") else models.torch_loaded
    got = loaded(updating.read(path))
    for name in ("c.weight", "bias"):
        assert torch.equal(got[name].view(torch.int32), others[name].view(torch.int32))
    assert not torch.equal(got["a.weight"], base["a.weight"])
    content = updating.read(path)
    assert updating.git("status", "--porcelain") == f"M  {path}"
    updating.git("commit", "--quiet", "--message", "both")
    assert increments(updating, path) == {"a.weight", "b.weight", "c.weight"}
    updating.checkout_again()
    assert updating.read(path) == content
    updating.write("../updates.safetensors", adapter(base, "a.weight", seed=7))
    side_load(updating, path)
    assert_refused(updating, path, "a.weight")  # not twice: HEAD still holds what it built on
