"""Updates, drop-in both ways with git-theta 0.2.0: its chains here, our chains there, and what a mixed team has."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.interop.conftest import Pair
from tests.interop.stories import ATTRIBUTES, NESTED, Story, noise, sparse
from tests.interop.test_git_theta import assert_equal, checked_out
from tests.support import environment, models, peer
from tests.support.repository import Repository
from theta_daemon.metadata import text
from theta_daemon.metadata.entries import Entry, Metadata

pytestmark = [pytest.mark.needs_git_lfs, pytest.mark.needs_git_theta, pytest.mark.timeout(300)]

Clone = Callable[..., Repository]

OTHER_CPU = {"OPENBLAS_CORETYPE": "Prescott"}  # what OpenBLAS, which NumPy has, does on a processor of 2004


def entries(repository: Repository, path: str, revision: str = "HEAD") -> dict[str, Entry]:
    """Return the entries of a path by the names of their groups."""
    found = text.parse(repository.blob(path, revision))
    assert isinstance(found, Metadata)
    return {"/".join(name): entry for name, entry in found.entries.items()}


def types(repository: Repository, path: str, revision: str = "HEAD") -> dict[str, str]:
    """Return the update types of a path by the names of the groups."""
    return {name: entry.update_type for name, entry in entries(repository, path, revision).items()}


def narrowed(tensors: models.StateDict, like: models.StateDict) -> models.StateDict:
    """Return `tensors` in the dtypes of `like`: git-theta's own dtypes follow the update, not its metadata."""
    return {name: value.to(like[name].dtype) for name, value in tensors.items()}


def touch(repository: Repository) -> None:
    """Make git look into every file again."""
    for name in repository.git_bytes("ls-files", "-z").split(b"\0")[:-1]:
        os.utime(repository.path / os.fsdecode(name), (1, 1))


# What git-theta made


def test_a_every_commit_checks_out_with_git_thetas_bits(story: Story, clone: Clone) -> None:
    suffix = story.path.removeprefix("model")
    ours = clone(story.repository)
    assert set(types(story.repository, story.path).values()) == {"dense", "sparse", "low-rank", "ia3"}
    seen = set()
    for label, told in reversed(list(story.commits.items())):
        ours.git("checkout", "--quiet", "--force", told.commit)
        assert set(told.files) == {story.path, NESTED + suffix, f"second{suffix}"}
        for path, theirs in told.files.items():
            by_ours, by_theirs = peer.load(ours.read(path)), peer.load(theirs)
            assert_equal(by_ours, narrowed(by_theirs, by_ours))
            if label != "float64":
                assert_equal(by_ours, by_theirs)
        assert ours.status() == "", label
        touch(ours)
        assert ours.status() == "", label
        seen |= set(types(ours, story.path).items())
    assert {("w", "ia3"), ("w", "sparse"), ("w", "low-rank"), ("bias", "low-rank"), ("ids", "sparse")} <= seen


def test_a_a_work_tree_of_git_theta_is_clean_here(story: Story, clone: Clone) -> None:
    ours = clone(story.repository)
    for label, told in story.commits.items():
        ours.git("update-ref", "--no-deref", "HEAD", told.commit)
        ours.git("read-tree", told.commit)
        ours.write(".gitattributes", ATTRIBUTES)
        for path, content in told.files.items():
            ours.write(path, content)
        # git-theta's file then has a dtype that its own metadata does not name; git-theta adds it anew itself.
        assert ours.status() == (f" M {story.path}" if label == "float64" else ""), label


def test_a_a_plain_git_checkout_with_git_theta_gives_the_same(story: Story, clone: Clone) -> None:
    ours = clone(story.repository)
    ours.git("checkout", "--quiet", "--force", "HEAD")
    kind = "pytorch" if story.path.endswith(".pt") else "safetensors"
    by_ours = peer.load(ours.read(story.path))
    ours.git("config", "--remove-section", "filter.theta")
    ours.git("read-tree", "--empty")  # and so git looks at no other file
    (ours.path / story.path).unlink()
    theirs = Pair.view(ours).in_environment(GIT_THETA_CHECKPOINT_TYPE=kind)
    theirs.git("checkout", "HEAD", "--", story.path)
    assert_equal(peer.load(ours.read(story.path)), by_ours)


def test_a_sparse_updates_turn_every_negative_zero_into_zero(story: Story, clone: Clone) -> None:
    ours = clone(story.repository)
    signs = []
    for label in ("dense", "sparse"):
        ours.git("checkout", "--quiet", "--force", story.commits[label].commit)
        zeros = peer.load(ours.read(story.path))["zeros"]
        assert zeros[0, 0] == 0
        signs.append(bool(torch.signbit(zeros[0, 0])))
    assert signs == [True, False]


# The last bits


def test_b_what_another_processor_made_is_no_change(story: Story, clone: Clone) -> None:
    ours = clone(story.repository)
    elsewhere = ours.in_environment(**OTHER_CPU)
    differed = 0
    for label in ("low-rank loaded", "sparse loaded", "low-rank again"):
        elsewhere.git("checkout", "--quiet", "--force", story.commits[label].commit)
        there = peer.load(ours.read(story.path))
        shutil.rmtree(ours.git_directory / "theta", ignore_errors=True)
        touch(ours)
        assert ours.status() == "", label
        here = peer.load(checked_out(ours, story.path))
        differed += int((here["w"] != there["w"]).sum())
        elsewhere.git("checkout", "--quiet", "--force", story.commits["dense"].commit)
    assert differed or not is_x86(), "both processors multiply matrices alike, so this shows nothing"


def is_x86() -> bool:
    """Whether OpenBLAS has the kernels of OTHER_CPU here."""
    return os.uname().machine == "x86_64"


def test_b_what_git_theta_rounded_when_it_inferred_is_no_change(clone: Clone, theirs: peer.Filter, pair: Pair) -> None:
    rng = np.random.default_rng(1)
    base = {"w": noise(rng, 40, 30), "b": noise(rng, 7)}
    new = {"w": noise(rng, 40, 30), "b": base["b"]}
    path = "model.safetensors"
    for tensors, kind in ((base, "dense"), (new, "low-rank")):
        metadata = theirs.clean(pair.ours, path, peer.save(path, tensors), kind)
        peer.commit(pair.ours, {path: metadata}, kind)
    ours = clone(pair.ours)
    ours.git("checkout", "--quiet", "HEAD")
    replayed = peer.load(ours.read(path))["w"]
    assert (replayed != new["w"]).any(), "nothing was rounded, so this shows nothing"
    ours.write(path, peer.save(path, new))
    assert ours.status() == ""


def test_b_a_small_change_of_ones_own_is_a_change(story: Story, clone: Clone) -> None:
    ours = clone(story.repository)
    ours.git("checkout", "--quiet", "--force", story.commits["low-rank loaded"].commit)
    tensors = peer.load(ours.read(story.path))
    metadata = ours.blob(story.path)
    for name, at, factor in (("w", (3, 3), 1 + 1e-5), ("zeros", (2, 1), 1 + 2e-7), ("bias", (4,), 1 + 2e-7)):
        changed = dict(tensors)
        changed[name] = tensors[name].clone()
        changed[name][at] *= factor
        assert changed[name][at] != tensors[name][at]
        ours.write(story.path, peer.save(story.path, changed))
        assert ours.status() == f" M {story.path}", name
        ours.git("add", story.path)
        assert_equal(peer.load(checked_out(ours, story.path)), changed)
        ours.git("reset", "--quiet", "--hard")
        assert ours.blob(story.path) == metadata


def test_b_another_previous_value_is_refused(clone: Clone, theirs: peer.Filter, pair: Pair) -> None:
    rng = np.random.default_rng(2)
    path = "model.safetensors"
    base = {"w": noise(rng, 40, 30)}
    wrong = {"w": base["w"].clone()}
    wrong["w"][1, 1] += 1e-3
    new = {"w": base["w"] + noise(rng, 40, 1) @ noise(rng, 1, 30)}
    first = peer.commit(pair.ours, {path: theirs.clean(pair.ours, path, peer.save(path, base), "dense")}, "base")
    update = theirs.clean(pair.ours, path, peer.save(path, new), "low-rank")
    pair.ours.git("reset", "--quiet", "--soft", "HEAD~1")
    other = peer.commit(pair.ours, {path: theirs.clean(pair.ours, path, peer.save(path, wrong), "dense")}, "other")
    peer.commit(pair.ours, {path: update.replace(first.encode(), other.encode())}, "built on another")
    complaint = clone(pair.ours).git_fails("checkout", "HEAD")
    assert "makes another value than git-theta recorded" in complaint
    assert "w" in complaint
    assert path in complaint


# What we made


def base_model(rng: np.random.Generator) -> models.StateDict:
    """Return groups that are large enough for updates, and a small one."""
    return {"w": noise(rng, 60, 50), "long": noise(rng, 3000), "bias": noise(rng, 9)}


def inferred(rng: np.random.Generator, now: models.StateDict, update_type: str) -> models.StateDict:
    """Return a model that differs by what `update_type` can express."""
    new = dict(now)
    if update_type == "sparse":
        for name in ("w", "long"):
            new[name] = now[name].clone()
            # By less than a half: a larger change may have no sum that gives it.
            new[name].view(-1)[rng.choice(3000, 3, replace=False)] *= 1.3
    elif update_type == "ia3":
        new["w"] = now["w"] * torch.tensor([2.0, 0.5] * 25)
    return new


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("mode", ["true", "auto"])
def test_c_what_we_infer_checks_out_with_git_theta(pair: Pair, theirs: peer.Filter, suffix: str, mode: str) -> None:
    rng = np.random.default_rng(3)
    path = f"model{suffix}"
    ours = pair.ours
    now = base_model(rng)
    if mode == "auto":  # the record says that git-theta works here
        peer.commit(ours, {path: theirs.clean(ours, path, peer.save(path, now), "dense")}, "by git-theta")
        ours.git("checkout", "--", path)
    else:
        ours.git("config", "theta.compatible", "true")
        ours.write(path, peer.save(path, now))
        ours.commit("base", path)
    ours.git("config", "theta.updateType", "auto")
    for update_type in ("sparse", "ia3", "sparse"):
        now = inferred(rng, now, update_type)
        ours.write(path, peer.save(path, now))
        ours.commit(update_type, path)
        assert types(ours, path)["w"] == update_type
        assert_equal(peer.load(checked_out(ours, path)), now)
        assert_equal(peer.load(theirs.smudge(ours, path, ours.blob(path))), now)
    assert len(entries(ours, path)["w"].replay) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_c_what_we_load_checks_out_with_git_theta(pair: Pair, theirs: peer.Filter, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(4)
    path = "model.safetensors"
    ours = pair.ours
    ours.git("config", "theta.compatible", "true")
    now = base_model(rng)
    ours.write(path, peer.save(path, now))
    ours.commit("base", path)
    updates: dict[str, models.StateDict] = {
        "low-rank": {"w/R": noise(rng, 60, 4).to(dtype), "w/C": noise(rng, 4, 50).to(dtype)},
        "ia3": {"w/ia3": 1 + noise(rng, 1, 50), "bias/ia3": 1 + noise(rng, 9)},
        "sparse": {f"w/{name}": value for name, value in sparse([0, 2999], noise(rng, 2), (60, 50)).items()},
    }
    for update_type, arrays in updates.items():
        adapter = pair.ours.path.parent / "updates.safetensors"
        adapter.write_bytes(peer.save(path, arrays))
        ours.git("theta", "add", path, "--update-type", update_type, "--update-path", str(adapter))
        assert types(ours, path, "")["w"] == update_type
        ours.git("commit", "--quiet", "--message", update_type)
        assert ours.status() == ""
        mine = peer.load(ours.read(path))
        yours = peer.load(theirs.smudge(ours, path, ours.blob(path)))
        assert (mine["w"] - now["w"]).any()
        torch.testing.assert_close(yours["w"], mine["w"], rtol=1e-6, atol=1e-8)
        assert_equal(mine | {"w": now["w"]}, yours | {"w": now["w"]})
        now = mine
    before = entries(ours, path)
    again = theirs.clean(ours, path, ours.read(path), "dense")
    peer.commit(ours, {path: again}, "by git-theta, which sees no change but drops what it does not know")
    after = entries(ours, path)
    assert {name: entry.oid for name, entry in after.items()} == {name: entry.oid for name, entry in before.items()}
    assert {(entry.digest, entry.replay) for entry in after.values()} == {(None, ())}
    assert ours.status() == ""
    now = peer.load(checked_out(ours, path))
    torch.testing.assert_close(now["w"], mine["w"], rtol=1e-6, atol=1e-8)
    assert_equal(now, peer.load(theirs.smudge(ours, path, again)))
    assert ours.status() == ""


def test_c_git_theta_finds_no_previous_value_below_a_directory(pair: Pair, theirs: peer.Filter) -> None:
    """Its own bug: what it writes there is dense, and it can apply no update that it finds there; so we make none."""
    rng = np.random.default_rng(8)
    path = "below/model.safetensors"
    now = base_model(rng)
    peer.commit(pair.ours, {path: theirs.clean(pair.ours, path, peer.save(path, now), "dense")}, "by git-theta")
    new = inferred(rng, now, "sparse")
    with pytest.raises(peer.PeerError, match="theta_metadata"):
        theirs.clean(pair.ours, path, peer.save(path, new), "sparse")
    pair.ours.git("checkout", "--", path)
    pair.ours.write(path, peer.save(path, new))
    pair.ours.git("theta", "add", "--update-type", "sparse", path)
    assert types(pair.ours, path, "")["w"] == "dense"
    pair.ours.git("commit", "--quiet", "--message", "by us")
    assert_equal(peer.load(checked_out(pair.ours, path)), new)
    assert_equal(peer.load(theirs.smudge(pair.ours, path, pair.ours.blob(path))), new)


def test_c_git_theta_on_ours_and_we_on_top(pair: Pair, theirs: peer.Filter, tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    path = "model.safetensors"
    ours = pair.ours
    ours.git("config", "theta.compatible", "true")
    ours.git("config", "theta.updateType", "auto")
    now = base_model(rng)
    for update_type in ("dense", "sparse", "sparse"):
        now = inferred(rng, now, update_type)
        ours.write(path, peer.save(path, now))
        ours.commit(update_type, path)
    assert len(entries(ours, path)["w"].replay) == 2

    now |= {"bias": noise(rng, 9)}
    peer.commit(ours, {path: theirs.clean(ours, path, peer.save(path, now), "dense")}, "by git-theta")
    dropped = entries(ours, path)["w"]
    assert (dropped.update_type, dropped.replay, dropped.digest) == ("sparse", (), None)
    assert_equal(peer.load(checked_out(ours, path)), now)
    assert ours.status() == ""

    now = inferred(rng, now, "sparse")
    ours.write(path, peer.save(path, now))
    ours.commit("by us again", path)
    again = entries(ours, path)["w"]
    assert [step.update_type for step in again.replay] == ["dense", "sparse", "sparse"]
    assert again.digest is not None
    assert_equal(peer.load(theirs.smudge(ours, path, ours.blob(path))), now)

    # Our commit needs no history any more, git-theta's does.
    content = checked_out(ours, path)
    made = shallow(ours, tmp_path, dict(ours.environment))
    assert made.git("rev-list", "--all", "--count") == "1"
    made.git("-c", "theta.fetchHistory=false", "checkout", "--quiet")
    assert made.read(path) == content


# A commit that is gone


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory, start_theirs: Callable[[], peer.Filter]) -> Repository:
    """Return a repository of git-theta whose tip builds on two earlier commits, and lets anybody fetch any of them."""
    directory = tmp_path_factory.mktemp("remote")
    (directory / "home").mkdir()
    repository = Repository.init(directory / "remote", environment.isolated(directory / "home"))
    repository.write(".gitattributes", ATTRIBUTES)
    repository.commit("track")
    repository.git("config", "uploadpack.allowAnySHA1InWant", "true")
    rng = np.random.default_rng(7)
    now = {"w": noise(rng, 12, 10), "b": noise(rng, 5)}
    for update_type in ("dense", "sparse", "low-rank"):
        metadata = start_theirs().clean(repository, PATH, peer.save(PATH, now), update_type)
        peer.commit(repository, {PATH: metadata}, update_type)
        now = {name: value * 1.25 for name, value in now.items()}
    return repository


PATH = "model.safetensors"
REFERENCES = ["refs/heads/main", "refs/remotes/origin/HEAD", "refs/remotes/origin/main"]


def shallow(remote: Repository, directory: Path, settings: dict[str, str]) -> Repository:
    """Return a clone of the last commit, with all objects, and nothing checked out."""
    made = Repository(directory / "shallow", settings)
    command = ["git", "clone", "--quiet", "--depth=1", "--no-checkout", remote.path.as_uri(), str(made.path)]
    subprocess.run(command, env=settings, check=True, capture_output=True)
    made.git("theta", "install", "--local")
    shutil.copytree(remote.git_directory / "lfs" / "objects", made.git_directory / "lfs" / "objects")
    return made


def expected(remote: Repository, theirs: peer.Filter) -> models.StateDict:
    """Return what git-theta makes of the last commit, where all of them are."""
    return peer.load(theirs.smudge(remote, PATH, remote.blob(PATH, "HEAD")))


def test_d_a_shallow_clone_fetches_the_commits_that_updates_build_on(
    remote: Repository, theirs: peer.Filter, tmp_path: Path, git_environment: dict[str, str]
) -> None:
    made = shallow(remote, tmp_path, git_environment)
    assert made.git("rev-list", "--count", "HEAD") == "1"
    made.git("checkout", "--quiet", "main")
    assert_equal(peer.load(made.read(PATH)), expected(remote, theirs))
    touch(made)
    assert made.status() == ""
    assert made.git("rev-list", "--count", "HEAD") == "1"
    assert made.git("for-each-ref", "--format=%(refname)").split() == REFERENCES


def test_d_without_fetching_the_error_says_what_mends_it(
    remote: Repository, theirs: peer.Filter, tmp_path: Path, git_environment: dict[str, str]
) -> None:
    made = shallow(remote, tmp_path, git_environment)
    made.git("config", "theta.fetchHistory", "false")
    complaint = made.git_fails("checkout", "--force", "main")
    for part in (remote.git("rev-parse", "HEAD~1"), PATH, "theta.fetchHistory"):
        assert part in complaint
    assert re.search(r"\b[wb]\b", complaint)
    command = re.search(r"run '([^']*)'", complaint)
    assert command is not None, complaint
    made.git(*command[1].replace("REMOTE", "origin").split()[1:])
    made.git("checkout", "--quiet", "--force", "main")
    assert_equal(peer.load(made.read(PATH)), expected(remote, theirs))
    assert made.status() == ""
