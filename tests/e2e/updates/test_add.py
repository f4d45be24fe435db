"""`git theta add` with updates: what is stored, what the work tree holds afterwards, and that errors change nothing."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.e2e.git.conftest import leftovers
from tests.e2e.updates.conftest import KINDS, base_model, copy_of, entries, increments, noise, touched, tracking
from tests.support import models
from tests.support.checkouts import repository_below
from tests.support.repository import Repository

PATH = "model.safetensors"
UPDATES = "../updates.safetensors"
SIDE_LOAD = ("theta", "add", PATH, "--update-type", "low-rank", "--update-path", UPDATES)
WEIGHT = torch.from_numpy(np.random.default_rng(5).integers(-(2**20), 2**20, (60, 50)).astype(np.float32))


def low_rank(tensors: models.StateDict, *names: str) -> models.StateDict:
    """Return low-rank updates of these groups, named as git-theta names them."""
    found: models.StateDict = {}
    for number, name in enumerate(names):
        rows, columns = tensors[name].shape
        found[f"{name}/R"] = noise(rows, 2, seed=10 + number)
        found[f"{name}/C"] = noise(2, columns, seed=20 + number)
    return found


def updated(tensors: models.StateDict, updates: models.StateDict) -> models.StateDict:
    """Return the model with low-rank updates applied, in the order that the specification says."""
    new = dict(tensors)
    for name in {key.rpartition("/")[0] for key in updates}:
        left, right = updates[f"{name}/R"].double(), updates[f"{name}/C"].double()
        added = torch.zeros(tensors[name].shape, dtype=torch.float64)
        for rank in range(left.shape[1]):
            added = added + left[:, rank : rank + 1] * right[rank : rank + 1]
        new[name] = (added.to(torch.float32) + tensors[name].to(torch.float32)).to(tensors[name].dtype)
    return new


def snapshot(repository: Repository) -> tuple[str, dict[str, tuple[bytes, int]]]:
    """Return the index as a list, and the content and mode of every file of the work tree."""
    files = [file for file in repository.path.rglob("*") if ".git" not in file.relative_to(repository.path).parts]
    held = {str(file): (file.read_bytes(), file.lstat().st_mode) for file in files if file.is_file()}
    return repository.git("ls-files", "--stage"), held


def assert_refused(repository: Repository, *arguments: str, cwd: Path | None = None) -> str:
    """Fail unless `git theta add` says in one line why not, and changes nothing; return the line."""
    before = snapshot(repository)
    error = repository.git_fails("theta", "add", *arguments, cwd=cwd)
    assert error.startswith("git-theta: error: ")
    assert error.count("\n") == 1
    assert snapshot(repository) == before
    assert leftovers(repository) == []
    return error


def assert_staged(repository: Repository, path: str, content: bytes) -> None:
    """Fail unless the file has this content, alone is staged, and nothing is left to do for it."""
    assert repository.read(path) == content
    assert repository.git("status", "--porcelain", "-z") == f"M  {path}\0"
    assert repository.git("diff", "--name-only") == ""
    staged = repository.git("ls-files", "--stage")
    (repository.path / path).touch()
    assert repository.git("status", "--porcelain", "-z") == f"M  {path}\0"
    repository.git("add", "--all")
    assert repository.git("ls-files", "--stage") == staged
    (repository.path / path).unlink()
    repository.git("--literal-pathspecs", "checkout", "--", path)
    assert repository.read(path) == content


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Return the repository that each test gets a copy of: a model is committed."""
    repository = tracking(repository_below(tmp_path_factory.mktemp("template")))
    repository.write(PATH, KINDS[PATH](base_model()))
    repository.commit("base")
    return repository


@pytest.fixture
def plain(template: Repository, tmp_path: Path, git_environment: dict[str, str]) -> Repository:
    """Return it, with low-rank updates beside it."""
    copied = copy_of(template, tmp_path / "repository", git_environment)
    copied.write(UPDATES, models.safetensors_bytes(low_rank(base_model(), "a.weight", "b.weight")))
    return copied


@pytest.fixture
def base() -> models.StateDict:
    """Return the model that is committed."""
    return base_model()


def restored(base: models.StateDict, path: str = PATH) -> bytes:
    """Return the file with the updates of `base` applied."""
    return KINDS[path](updated(base, low_rank(base, "a.weight", "b.weight")))


SPELLINGS = {
    "ours": (("--update-type", "low-rank", "--update-path", UPDATES), {}),
    "with an equals sign": (("--update-type=low-rank", f"--update-path={UPDATES}"), {}),
    "git-theta's": (("--update-type", "low-rank", "--update-data", UPDATES), {}),
    "git-theta's variables": ((), {"GIT_THETA_UPDATE_TYPE": "low-rank", "GIT_THETA_UPDATE_DATA_PATH": UPDATES}),
    "options before variables": (
        ("--update-type=low-rank", f"--update-path={UPDATES}"),
        {"GIT_THETA_UPDATE_TYPE": "ia3", "GIT_THETA_UPDATE_DATA_PATH": "nowhere"},
    ),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_side_loaded(plain: Repository, base: models.StateDict, spelling: str) -> None:
    options, variables = SPELLINGS[spelling]
    plain.in_environment(**variables).git("theta", "add", PATH, *options)
    assert increments(plain, PATH, "") == {"a.weight", "b.weight"}
    assert {entry.update_type for entry in entries(plain, PATH, "").values()} == {"low-rank", "dense"}
    assert_staged(plain, PATH, restored(base))
    plain.git("commit", "--quiet", "--message", "adapter")
    assert plain.status() == ""


@pytest.mark.parametrize("updates", ["updates.pt", "updates.safetensors"])
@pytest.mark.parametrize("path", KINDS)
def test_formats(plain: Repository, base: models.StateDict, path: str, updates: str) -> None:
    plain.write(path, KINDS[path](base))
    plain.run("git", "add", "--all")
    plain.run("git", "commit", "--quiet", "--message", "both")
    dump = models.torch_bytes if updates.endswith(".pt") else models.safetensors_bytes
    plain.write(f"../{updates}", dump(low_rank(base, "a.weight", "b.weight")))
    plain.git("theta", "add", path, "--update-type", "low-rank", "--update-path", f"../{updates}")
    assert_staged(plain, path, restored(base, path))


def test_updates_of_a_nested_torch_file(plain: Repository, base: models.StateDict) -> None:
    nested: dict[str, models.StateDict] = {}
    for key, value in low_rank(base, "a.weight", "b.weight").items():
        name, _, part = key.rpartition("/")
        nested.setdefault(name, {})[part] = value
    plain.write("../updates.pt", models.torch_bytes(nested))
    plain.git("theta", "add", PATH, "--update-type", "low-rank", "--update-path", "../updates.pt")
    assert_staged(plain, PATH, restored(base))


@pytest.mark.parametrize("update_type", ["sparse", "ia3"])
def test_other_types(plain: Repository, base: models.StateDict, update_type: str) -> None:
    weight = base["a.weight"]
    new = weight.clone()
    updates: models.StateDict
    if update_type == "sparse":
        indices = torch.tensor([7, 100, 2999])
        data = torch.tensor([0.5, -1.0, 2.0])
        updates = {
            "a.weight/data": data,
            "a.weight/indices": indices,
            "a.weight/indptr": torch.tensor([0, 3]),
            "a.weight/shape": torch.tensor([60, 50]),
        }
        new.view(-1)[indices] += data
        new += 0.0
    else:
        updates = {"a.weight/ia3": torch.arange(50.0)[None]}
        new *= torch.arange(50.0)
    plain.write(UPDATES, models.safetensors_bytes(updates))
    plain.git("theta", "add", PATH, "--update-type", update_type, "--update-path", UPDATES)
    assert entries(plain, PATH, "")["a.weight"].update_type == update_type
    assert_staged(plain, PATH, KINDS[PATH](base | {"a.weight": new}))


def test_from_a_sub_directory(plain: Repository, base: models.StateDict) -> None:
    plain.write(f"models/deep/{PATH}", KINDS[PATH](base))
    plain.commit("deep")
    plain.write("models/updates.safetensors", plain.read(UPDATES))
    inside = plain.path / "models" / "deep"
    command = ("theta", "add", "--update-type", "low-rank", "--update-path")
    plain.git(*command, "../updates.safetensors", PATH, cwd=inside)
    plain.git(*command, "../updates.safetensors", f"../../{PATH}", cwd=inside)
    for path in (PATH, f"models/deep/{PATH}"):
        assert increments(plain, path, "") == {"a.weight", "b.weight"}
        assert plain.read(path) == restored(base)
    assert plain.git("diff", "--name-only") == ""


def test_odd_names(plain: Repository, base: models.StateDict) -> None:
    names = ["with space", "ünïcode ✓", "-dash", "[a]*?", ":(top)x", "new\nline", "quote'\"$x"]
    paths = [f"{name}.safetensors" for name in names]
    for path in (*paths, "a.safetensors"):  # the last could be meant by a pattern
        plain.write(path, KINDS[PATH](base))
    plain.commit("odd")
    plain.write("a.safetensors", KINDS[PATH](touched(base, 1)))
    plain.write("../-updates é.safetensors", plain.read(UPDATES))
    for path in paths:
        plain.git("theta", "add", "--update-type", "low-rank", "--update-path", "../-updates é.safetensors", "--", path)
        assert plain.read(path) == restored(base)
    assert plain.git("diff", "--name-only", "-z") == "a.safetensors\0"
    assert set(plain.git("diff", "--cached", "--name-only", "-z").split("\0")) == {*paths, ""}


def test_pathspecs_are_taken_literally(plain: Repository, base: models.StateDict) -> None:
    for variable in ("GIT_LITERAL_PATHSPECS", "GIT_ICASE_PATHSPECS"):
        plain.git("reset", "--quiet", "--hard")
        plain.in_environment(**{variable: "1"}).git(*SIDE_LOAD)
        assert plain.read(PATH) == restored(base)


def test_the_mode_is_kept(plain: Repository, base: models.StateDict) -> None:
    (plain.path / PATH).chmod(0o755)
    plain.commit("executable")
    plain.git(*SIDE_LOAD)
    assert (plain.path / PATH).stat().st_mode & 0o777 == 0o755
    assert plain.git("ls-files", "--stage", PATH).startswith("100755 ")
    assert_staged(plain, PATH, restored(base))


def test_other_files_stay_as_they_are(plain: Repository, base: models.StateDict) -> None:
    plain.write("staged.txt", b"1\n")
    plain.write("model.pt", KINDS["model.pt"](base))
    plain.commit("others")
    plain.write("staged.txt", b"2\n")
    plain.git("add", "staged.txt")
    plain.write("staged.txt", b"3\n")
    plain.write("model.pt", KINDS["model.pt"](touched(base, 1)))
    plain.git(*SIDE_LOAD)
    assert plain.git("status", "--porcelain") == f" M model.pt\nM  {PATH}\nMM staged.txt"
    assert plain.read("model.pt") == KINDS["model.pt"](touched(base, 1))


def test_in_a_linked_worktree_and_with_git_dir_in_the_environment(
    plain: Repository, base: models.StateDict, tmp_path: Path
) -> None:
    linked = plain.at(tmp_path / "linked")
    plain.git("worktree", "add", "--quiet", "-b", "linked", str(linked.path))
    linked.git(*SIDE_LOAD)
    assert_staged(linked, PATH, restored(base))
    assert plain.git("status", "--porcelain") == ""
    apart = plain.in_environment(GIT_DIR=str(plain.path / ".git"), GIT_WORK_TREE=str(plain.path))
    apart.git(*SIDE_LOAD)
    assert plain.read(PATH) == restored(base)
    assert plain.git("status", "--porcelain") == f"M  {PATH}"


def test_one_after_the_other_before_the_commit(plain: Repository, base: models.StateDict) -> None:
    """Updates for other groups may follow; the same group has one update a commit."""
    plain.write(UPDATES, models.safetensors_bytes(low_rank(base, "a.weight")))
    plain.git(*SIDE_LOAD)
    plain.write(UPDATES, models.safetensors_bytes(low_rank(base, "b.weight")))
    plain.git(*SIDE_LOAD)
    both = updated(updated(base, low_rank(base, "a.weight")), low_rank(base, "b.weight"))
    assert increments(plain, PATH, "") == {"a.weight", "b.weight"}
    assert "b.weight" in assert_refused(plain, *SIDE_LOAD[2:])
    assert_staged(plain, PATH, KINDS[PATH](both))
    plain.git("commit", "--quiet", "--message", "both")
    plain.git(*SIDE_LOAD)
    assert len(entries(plain, PATH, "")["b.weight"].replay) == 2


def test_a_chain_is_cut(plain: Repository, base: models.StateDict) -> None:
    plain.git("config", "theta.maxChain", "2")
    plain.write(UPDATES, models.safetensors_bytes(low_rank(base, "a.weight")))
    content, depths = base, []
    for _ in range(4):
        plain.git(*SIDE_LOAD)
        plain.git("commit", "--quiet", "--message", "more")
        content = updated(content, low_rank(base, "a.weight"))
        assert plain.read(PATH) == KINDS[PATH](content)
        depths.append(len(entries(plain, PATH)["a.weight"].replay))
    assert depths == [1, 2, 0, 1]
    plain.checkout_again()
    assert plain.read(PATH) == KINDS[PATH](content)


@pytest.mark.parametrize("chain", ["32", "1"])
def test_groups_that_are_larger_than_memory(plain: Repository, chain: str) -> None:
    base = {"a.weight": noise(4501, 1001, seed=1), "b.weight": noise(40, 70, seed=2)}
    plain.write(PATH, KINDS[PATH](base))
    plain.commit("large")
    plain.git("config", "theta.memoryLimit", "64m")
    plain.git("config", "theta.maxChain", chain)
    plain.write(UPDATES, models.safetensors_bytes(low_rank(base, "a.weight", "b.weight")))
    plain.git(*SIDE_LOAD)
    assert increments(plain, PATH, "") == {"a.weight", "b.weight"}
    assert_staged(plain, PATH, restored(base))
    plain.git("commit", "--quiet", "--message", "adapter")
    plain.git(*SIDE_LOAD)
    assert increments(plain, PATH, "") == ({"a.weight", "b.weight"} if chain == "32" else set())
    assert_staged(plain, PATH, restored(updated(base, low_rank(base, "a.weight", "b.weight"))))
    assert leftovers(plain) == []


def test_tied_tensors(plain: Repository) -> None:
    tied = {"head": noise(60, 50), "other": noise(9000, seed=2)}
    tied["wte"] = tied["head"]
    plain.write("tied.pt", models.torch_bytes(tied))
    plain.commit("tied")
    updates = low_rank(tied, "wte")
    plain.write(UPDATES, models.safetensors_bytes(updates))
    plain.git("theta", "add", "tied.pt", "--update-type", "low-rank", "--update-path", UPDATES)
    new = updated(tied, updates)["wte"]
    assert increments(plain, "tied.pt", "") == {"head", "wte"}
    assert_staged(plain, "tied.pt", models.torch_bytes({"head": new, "other": tied["other"], "wte": new}))


def broken(base: models.StateDict, kind: str) -> models.StateDict:
    """Return updates with one thing wrong."""
    updates = low_rank(base, "a.weight", "b.weight")
    if kind == "a name that matches nothing":
        return updates | {"z.weight/R": noise(3, 1), "z.weight/C": noise(1, 3)}
    if kind == "a wrong shape":
        return updates | {"b.weight/R": noise(41, 2)}
    if kind == "ranks that differ":
        return updates | {"b.weight/R": noise(40, 3)}
    if kind == "a part is missing":
        del updates["b.weight/C"]
        return updates
    if kind == "a part too many":
        return updates | {"b.weight/X": noise(3)}
    if kind == "of another type":
        return updates | {"b.weight/ia3": noise(1, 70)}
    if kind == "whole numbers":
        return updates | {"b.weight/R": torch.ones(40, 2, dtype=torch.bool), "b.weight/C": torch.ones(2, 70).bool()}
    return {}


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("a name that matches nothing", "z.weight"),
        ("a wrong shape", "b.weight"),
        ("ranks that differ", "b.weight"),
        ("a part is missing", "b.weight"),
        ("a part too many", "b.weight/X"),
        ("of another type", "b.weight/ia3"),
        ("nothing", "the file holds no low-rank updates"),
    ],
)
def test_updates_that_do_not_fit(plain: Repository, base: models.StateDict, kind: str, said: str) -> None:
    plain.write(UPDATES, models.safetensors_bytes(broken(base, kind)))
    assert said in assert_refused(plain, *SIDE_LOAD[2:])


def test_files_that_cannot_be_read(plain: Repository, base: models.StateDict) -> None:
    assert "nowhere.pt" in assert_refused(plain, PATH, "--update-type", "low-rank", "--update-path", "nowhere.pt")
    plain.write("../adapter/other", b"")
    assert "adapter_model.safetensors" in assert_refused(
        plain, PATH, "--update-type", "low-rank", "--update-path", "../adapter"
    )
    for content in (b"", b"no checkpoint", plain.read(UPDATES)[:-1], plain.blob(PATH)):
        plain.write(UPDATES, content)
        assert_refused(plain, *SIDE_LOAD[2:])


def test_types_that_are_wrong(plain: Repository, base: models.StateDict) -> None:
    for options in ((), ("--update-type=dense",), ("--update-type=auto",)):
        assert "of which type" in assert_refused(plain, PATH, "--update-path", UPDATES, *options)
    assert "'fancy'" in assert_refused(plain, PATH, "--update-path", UPDATES, "--update-type", "fancy")
    assert "ia3" in assert_refused(plain, PATH, "--update-path", UPDATES, "--update-type", "ia3")


def test_it_takes_files_and_nothing_else(plain: Repository, base: models.StateDict) -> None:
    plain.write("model.pt", KINDS["model.pt"](base))
    plain.commit("two")
    options = SIDE_LOAD[3:]
    for left in ((), ("--all",), (PATH, "--force"), (PATH, "model.pt", "-f")):
        assert "FILE" in assert_refused(plain, *left, *options)
    error = assert_refused(plain, PATH, "model.pt", *options)
    assert "more than one of the files has what is to be updated: a.weight, b.weight" in error
    assert "git does not track it" in assert_refused(plain, "*.pt", *options)
    assert_refused(plain, ".", *options)
    assert_refused(plain, str(plain.path.parent), *options)


SHARDS = ("model-1-of-3.safetensors", "model-2-of-3.safetensors", "model-3-of-3.safetensors")


def sharded(repository: Repository, base: models.StateDict) -> list[models.StateDict]:
    """Commit the model in shards, one of them without anything to update."""
    parts = [{"a.weight": base["a.weight"]}, {"c.weight": base["c.weight"]}, {"b.weight": base["b.weight"]}]
    for path, part in zip(SHARDS, parts, strict=True):
        repository.write(path, models.safetensors_bytes(part))
    repository.commit("shards")
    return parts


def test_shards_of_a_model(plain: Repository, base: models.StateDict) -> None:
    parts = sharded(plain, base)
    parts[1] = {"c.weight": base["c.weight"] + 1}
    plain.write(SHARDS[1], models.safetensors_bytes(parts[1]))
    plain.git("theta", "add", *SHARDS, "./" + SHARDS[0], *SIDE_LOAD[3:])
    new = updated(base, low_rank(base, "a.weight", "b.weight"))
    for path, part in zip(SHARDS, parts, strict=True):
        content = models.safetensors_bytes({name: new[name] if path != SHARDS[1] else part[name] for name in part})
        assert plain.read(path) == content
        assert increments(plain, path, "") == ({"a.weight", "b.weight"} & part.keys())
        (plain.path / path).touch()
    assert plain.git("status", "--porcelain").splitlines() == [f"M  {path}" for path in SHARDS]
    plain.git("commit", "--quiet", "--message", "adapter")
    assert plain.status() == ""


def test_shards_are_staged_together_or_not_at_all(plain: Repository, base: models.StateDict) -> None:
    sharded(plain, base)
    assert "no parameter: 'b.weight'" in assert_refused(plain, *SHARDS[:2], *SIDE_LOAD[3:])
    plain.write(SHARDS[2], models.safetensors_bytes({"b.weight": base["b.weight"] + 1}))
    error = assert_refused(plain, *SHARDS, *SIDE_LOAD[3:])
    assert "the work tree has changed what is to be updated: b.weight" in error
    (plain.path / SHARDS[2]).unlink()
    assert_refused(plain, *SHARDS, *SIDE_LOAD[3:])


def test_files_that_updates_are_not_for(plain: Repository, base: models.StateDict) -> None:
    options = SIDE_LOAD[3:]
    plain.write("new.safetensors", KINDS[PATH](base))
    assert "git does not track it" in assert_refused(plain, "new.safetensors", *options)
    plain.git("add", "new.safetensors")
    assert "HEAD does not hold it" in assert_refused(plain, "new.safetensors", *options)
    plain.write("notes.txt", b"text\n")
    (plain.path / "link.safetensors").symlink_to(PATH)
    plain.commit("others")
    assert "not tracked by theta" in assert_refused(plain, "notes.txt", *options)
    assert "regular file" in assert_refused(plain, "link.safetensors", *options)
    assert "git does not track it" in assert_refused(plain, "nowhere.safetensors", *options)
    (plain.path / "new.safetensors").unlink()
    assert "new.safetensors" in assert_refused(plain, "new.safetensors", *options)
    (plain.path / "new.safetensors").symlink_to(PATH)
    assert "regular file" in assert_refused(plain, "new.safetensors", *options)
    (plain.path / "new.safetensors").unlink()
    plain.write("new.safetensors", b"")
    assert "checkpoint in the work tree" in assert_refused(plain, "new.safetensors", *options)


def test_a_file_in_conflict(plain: Repository, base: models.StateDict) -> None:
    plain.git("checkout", "--quiet", "-b", "side")
    plain.write(PATH, KINDS[PATH](touched(base, 1)))
    plain.commit("side")
    plain.git("checkout", "--quiet", "main")
    plain.write(PATH, KINDS[PATH](touched(base, 2)))
    plain.commit("main")
    plain.git_fails("merge", "side")
    assert "conflict" in assert_refused(plain, *SIDE_LOAD[2:])


def test_a_group_that_was_changed(plain: Repository, base: models.StateDict) -> None:
    plain.write(PATH, KINDS[PATH](touched(base, 1, "a.weight", "b.weight")))
    error = assert_refused(plain, *SIDE_LOAD[2:])
    assert "a.weight, b.weight" in error
    plain.git("add", PATH)  # staged: no better
    assert assert_refused(plain, *SIDE_LOAD[2:]) == error
    plain.write(PATH, KINDS[PATH]({name: tensor for name, tensor in base.items() if name != "a.weight"}))
    assert "a.weight" in assert_refused(plain, *SIDE_LOAD[2:])


def test_an_object_of_the_previous_value_is_missing(plain: Repository, base: models.StateDict) -> None:
    oid = entries(plain, PATH)["b.weight"].oid
    for store in ("lfs", "theta"):
        (plain.git_directory / store / "objects" / oid[:2] / oid[2:4] / oid).unlink()
    # Cleaning the work tree heals it.
    plain.git(*SIDE_LOAD)
    assert_staged(plain, PATH, restored(base))


def test_outside_of_a_repository(new_repository: object, tmp_path: Path, git_environment: dict[str, str]) -> None:
    nowhere = Repository(tmp_path, git_environment)
    assert nowhere.git_fails(*SIDE_LOAD).count("\n") == 1


@pytest.mark.parametrize(
    ("update_type", "stored"),
    [
        ("dense", {"dense"}),
        ("sparse", {"sparse", "dense"}),
        ("low-rank", {"low-rank", "dense"}),
        ("ia3", {"ia3", "dense"}),
        ("auto", {"exact-sparse", "dense"}),
    ],
)
def test_a_type_that_was_asked_for(plain: Repository, update_type: str, stored: set[str]) -> None:
    news = {
        "dense": WEIGHT + 1,
        "sparse": WEIGHT + (torch.arange(3000).reshape(60, 50) % 1000 == 3) * 4,
        "low-rank": WEIGHT + torch.ones(60, 1) @ torch.arange(50.0)[None],
        "ia3": WEIGHT * torch.tensor([2.0, 4.0] * 25),
        "auto": WEIGHT + (torch.arange(3000).reshape(60, 50) % 1000 == 3) * 4,
    }
    plain.write(PATH, models.safetensors_bytes({"w": WEIGHT, "same": noise(9)}))
    plain.commit("base")
    plain.git("config", "theta.updateType", "ia3" if update_type == "dense" else "dense")
    content = models.safetensors_bytes({"w": news[update_type], "same": noise(9)})
    plain.write(PATH, content)
    plain.in_environment(GIT_THETA_UPDATE_TYPE="dense").git("theta", "add", PATH, f"--update-type={update_type}")
    assert {entry.update_type for entry in entries(plain, PATH, "").values()} == stored
    assert_staged(plain, PATH, content)
    plain.git("commit", "--quiet", "--message", "new")
    plain.checkout_again()
    assert plain.read(PATH) == content


def test_a_type_that_cannot_make_the_bits(plain: Repository, base: models.StateDict) -> None:
    content = KINDS[PATH](touched(base, 1))
    plain.write(PATH, content)
    done = plain.run("git", "theta", "add", "--update-type", "low-rank", PATH)
    assert done.returncode == 0
    assert b"cannot be low-rank updates" in done.stderr
    assert_staged(plain, PATH, content)


def test_the_variable_is_for_git_add_too(plain: Repository, base: models.StateDict) -> None:
    plain.write(PATH, KINDS[PATH](touched(base, 1)))
    plain.in_environment(GIT_THETA_UPDATE_TYPE="auto").git("add", PATH)
    assert increments(plain, PATH, "") == {"a.weight", "b.weight", "c.weight"}


SAVES_MEANWHILE = """#!/bin/sh
case "$*" in *hash-object*) printf more >> "$VICTIM" ;; esac
PATH=${PATH#*:} exec git "$@"
"""


def test_a_file_that_is_saved_meanwhile(plain: Repository, base: models.StateDict, tmp_path: Path) -> None:
    """What a training run has just saved is not written over."""
    wrapper = tmp_path / "first" / "git"
    wrapper.parent.mkdir()
    wrapper.write_text(SAVES_MEANWHILE)
    wrapper.chmod(0o755)
    path = f"{wrapper.parent}:{plain.environment['PATH']}"
    saving = plain.in_environment(PATH=path, VICTIM=str(plain.path / PATH))
    done = saving.run("git-theta", "add", PATH, "--update-type", "low-rank", "--update-path", UPDATES)
    assert done.returncode == 1
    assert done.stderr.decode() == (
        f"git-theta: error: {PATH} was changed while updates were worked out; nothing was staged;"
        " run the command again\n"
    )
    assert plain.read(PATH) == KINDS[PATH](base) + b"more"
    assert plain.git("diff", "--cached", "--name-only") == ""
    assert leftovers(plain) == []


# Runs the program in this process; just before call number $KILL_CALL of the operating system it is killed, with the
# git that it may have started.
_KILLED = """
import os, signal, sys
from theta_daemon.cli import main, side_load
from theta_daemon import gitcmd

chosen = int(os.environ["KILL_CALL"])
calls = 0

def counted(call):
    def wrapped(*arguments, **options):
        global calls
        calls += 1
        if calls == chosen:
            os.kill(0, signal.SIGKILL)
        return call(*arguments, **options)
    return wrapped

for owner, name in ((gitcmd, "start"), (gitcmd, "collect"), (gitcmd, "hand_over"), (os, "replace"), (os, "fchmod"),
                    (os, "link"), (os, "unlink"), (os, "mkdir"), (os, "writev")):
    setattr(owner, name, counted(getattr(owner, name)))
code = main.main(sys.argv[1:])
with open(os.environ["KILL_CALLS"], "w") as file:
    file.write(str(calls))
sys.exit(code)
"""


def killed_at(repository: Repository, call: int) -> int:
    """Run the side-loading command, killed at a call (0: not at all); return how it ended."""
    environment = dict(repository.environment) | {
        "KILL_CALL": str(call),
        "KILL_CALLS": str(repository.path / "../calls"),
    }
    command = [sys.executable, "-c", _KILLED, *SIDE_LOAD[1:]]
    done = subprocess.run(
        command,
        cwd=repository.path,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
        start_new_session=True,
    )
    return done.returncode


def assert_survives_kills(plain: Repository, base: models.StateDict, most: int) -> None:
    old, new = KINDS[PATH](base), restored(base)
    for _ in range(2):  # the second time the objects are there already, as for all others
        plain.git("reset", "--quiet", "--hard")
        assert killed_at(plain, 0) == 0
    moments = int((plain.path / "../calls").read_text())
    chosen = sorted(random.Random(3).sample(range(1, moments + 1), min(most, moments)))
    ends = set()
    for call in chosen:
        plain.git("reset", "--quiet", "--hard")
        assert killed_at(plain, call) == -signal.SIGKILL
        (plain.git_directory / "index.lock").unlink(missing_ok=True)
        staged = plain.git_bytes("cat-file", "--filters", f":{PATH}")
        ends.add((staged == new, plain.read(PATH) == new))
        assert staged in (old, new)
        assert plain.read(PATH) in (old, new)
        plain.git("fsck", "--strict", "--no-dangling")
        plain.git("checkout", "--quiet", "--", PATH)
        assert plain.read(PATH) == staged
        for file in plain.path.glob(f".{PATH}.*"):
            file.unlink()
        if staged == old:
            plain.git(*SIDE_LOAD)
        assert plain.read(PATH) == new
        assert plain.git("status", "--porcelain") == f"M  {PATH}"
    assert (False, False) in ends
    assert (True, True) in ends or most < moments


def test_killed(plain: Repository, base: models.StateDict) -> None:
    assert_survives_kills(plain, base, 6)


@pytest.mark.heavy
def test_killed_at_every_moment(plain: Repository, base: models.StateDict) -> None:
    assert_survives_kills(plain, base, 1000)
