"""Clones of every kind fetch what they need, and no more: real git, real git-lfs, a real server that counts."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.support import ssh_server
from tests.support.lfs_server import Kind
from tests.support.repository import Repository
from tests.support.transfers import Published, upload, versions, wrong_files
from theta_daemon.metadata import objects, text

pytestmark = [pytest.mark.needs_git_lfs, pytest.mark.needs_lfs_server]


def needed(published: Published, revision: str) -> dict[str, int]:
    """Return the objects that a commit's files name, and their sizes in bytes."""
    return {
        named.oid: named.size
        for path in published.tip
        for named in objects.of(text.parse(published.source.blob(path, revision)))
    }


def check(repository: Repository, published: Published, version: int = -1) -> None:
    """Fail unless every file is right, and git sees it so, also when it looks into them."""
    assert wrong_files(repository, published.versions[version]) == {}
    for path in published.tip:
        (repository.path / path).touch()
    assert repository.git("status", "--porcelain") == ""


def add_file(published: Published, name: str, data: bytes) -> None:
    """Commit one more file, and push the commit."""
    published.source.write(name, data)
    published.source.commit(f"add {name}", name)
    published.source.git("push", "--quiet", "--no-verify", str(published.remote), "main")


def test_a_clone_fetches_what_the_tip_needs_once(published: Published) -> None:
    clone = published.cloned()
    check(clone, published)
    tip = needed(published, "v1")
    assert clone.objects() == set(tip)
    assert published.hosted.sent() == sum(tip.values()) < sum(published.hosted.objects().values())
    assert len(published.hosted.requests(Kind.BATCH)) <= len(published.tip)  # one, where the machine is not busy
    clone.checkout_again()
    assert published.hosted.sent() == sum(tip.values())


def test_a_shallow_clone_moves_only_what_the_tip_needs(published: Published) -> None:
    clone = published.cloned("--depth=1", url=published.remote.as_uri())
    assert clone.git("rev-list", "--count", "HEAD") == "1"
    check(clone, published)
    assert published.hosted.sent() == sum(needed(published, "v1").values())


def test_a_partial_clone_works(published: Published) -> None:
    Repository(published.remote, published.source.environment).git("config", "uploadpack.allowFilter", "true")
    clone = published.cloned("--filter=blob:none", url=published.remote.as_uri())
    check(clone, published)
    clone.git("checkout", "--quiet", "v0")
    check(clone, published, 0)


def test_nothing_is_fetched_before_the_checkout(published: Published) -> None:
    clone = published.cloned("--no-checkout")
    assert published.hosted.requests() == []
    clone.git("checkout", "--quiet", "main")
    check(clone, published)


def test_a_switch_fetches_only_what_is_new(published: Published) -> None:
    clone = published.cloned()
    before = published.hosted.sent()
    clone.git("checkout", "--quiet", "v0")
    check(clone, published, 0)
    tip = needed(published, "v1")
    new = {oid: size for oid, size in needed(published, "v0").items() if oid not in tip}
    assert published.hosted.sent() - before == sum(new.values()) > 0
    clone.git("checkout", "--quiet", "main")
    check(clone, published)
    assert published.hosted.sent() - before == sum(new.values())


def test_one_file_fetches_its_own_objects(published: Published) -> None:
    clone = published.cloned("--no-checkout")
    clone.git("checkout", "main", "--", ".gitattributes", "model.pt")
    assert clone.read("model.pt") == published.tip["model.pt"]
    named = objects.of(text.parse(published.source.blob("model.pt", "v1")))
    assert clone.objects() == {one.oid for one in named}


def test_a_linked_worktree_fetches_and_shares(published: Published) -> None:
    clone = published.cloned("--no-checkout")
    clone.git("worktree", "add", "--quiet", "../linked", "v1")
    check(clone.at(clone.path.parent / "linked"), published)
    sent = published.hosted.sent()
    clone.git("checkout", "--quiet", "--detach", "main")
    check(clone, published)
    assert published.hosted.sent() == sent


def test_fetch_and_merge_bring_the_new_objects(published: Published) -> None:
    clone = published.cloned()
    sent, source = published.hosted.sent(), published.source
    more = versions(3)[-1]
    for path, data in more.items():
        source.write(path, data)
    source.commit("version 2")
    source.git("tag", "v2")
    source.git("push", "--quiet", "--no-verify", str(published.remote), "main")
    published.hosted.remove()
    upload(source, published.hosted)
    clone.git("fetch", "--quiet", "origin")
    assert published.hosted.sent() == sent
    clone.git("merge", "--quiet", "origin/main")
    assert wrong_files(clone, more) == {}
    assert clone.status() == ""
    tip = needed(published, "v1")
    assert published.hosted.sent() - sent == sum(
        size for oid, size in needed(published, "v2").items() if oid not in tip
    )


def test_submodules_are_fetched(published: Published) -> None:
    add_file(published, ".lfsconfig", f"[lfs]\n\turl = {published.address}\n".encode())
    source = published.source
    outer = Repository.init(source.path.parent / "outer", source.environment)
    allow = ("-c", "protocol.file.allow=always")
    outer.git(*allow, "submodule", "--quiet", "add", str(published.remote), "models")
    outer.commit("models")
    source.git(*allow, "clone", "--quiet", "--recurse-submodules", str(outer.path), "../whole")
    check(source.at(source.path.parent / "whole" / "models"), published)


def test_the_server_named_in_lfsconfig(published: Published) -> None:
    add_file(published, ".lfsconfig", f"[lfs]\n\turl = {published.address}\n".encode())
    clone = published.at("").cloned()
    check(clone, published)


@pytest.mark.parametrize("as_url", [True, False], ids=["file-url", "plain-path"])
def test_a_remote_that_is_a_folder(published: Published, as_url: bool) -> None:
    shutil.copytree(published.source.git_directory / "lfs" / "objects", published.remote / "lfs" / "objects")
    url = published.remote.as_uri() if as_url else str(published.remote)
    clone = published.at("").cloned(url=url)
    check(clone, published)
    assert published.hosted.requests() == []


def test_credentials_come_from_gits_helper(published: Published, tmp_path: Path) -> None:
    server = published.hosted.server
    private = server.repository(published.hosted.name, organisation="private")
    shutil.copytree(published.hosted.folder, private.folder)
    helper = tmp_path / "helper"
    helper.write_text(f"#!/bin/sh\necho username=_jwt\necho password={server.token}\n")
    helper.chmod(0o755)
    clone, done = published.at(private.url).clone(name="refused")
    assert done.returncode != 0
    assert set(wrong_files(clone, published.tip).values()) == {"missing"}
    clone, done = published.at(private.url).clone("--config", f"credential.helper={helper}")
    assert done.returncode == 0, done.stderr.decode()
    check(clone, published)
    assert server.token not in done.stderr.decode()


@pytest.mark.needs_sshd
def test_a_remote_over_ssh(published: Published, tmp_path: Path) -> None:
    server = published.hosted.server
    private = server.repository(published.hosted.name, organisation="private")
    shutil.copytree(published.hosted.folder, private.folder)
    sshd = ssh_server.made(tmp_path / "sshd", published.source.environment)
    answer = {"href": private.url, "header": {"Authorization": f"Bearer {server.token}"}}
    sshd.install("git-lfs-authenticate", f"#!/bin/sh\necho '{json.dumps(answer)}'\n")
    clone = published.at("").cloned(url=sshd.url(published.remote), **sshd.client)
    check(clone, published)
    assert private.sent() == sum(needed(published, "v1").values())


def test_skip_smudge_of_git_lfs_leaves_metadata(published: Published) -> None:
    clone = published.cloned(GIT_LFS_SKIP_SMUDGE="1")
    for path in published.tip:
        assert clone.read(path) == published.source.blob(path, "v1")
    assert clone.git("status", "--porcelain") == ""
    assert published.hosted.requests() == []


@pytest.mark.parametrize(
    "setting",
    ["lfs.fetchexclude=*", "lfs.fetchinclude=nothing", "lfs.skipdownloaderrors=true", "lfs.concurrenttransfers=1"],
)
def test_settings_of_git_lfs_do_not_hinder_us(published: Published, setting: str) -> None:
    check(published.cloned("--config", setting), published)


def test_filters_of_lfsconfig_do_not_hinder_us(published: Published) -> None:
    add_file(published, ".lfsconfig", b"[lfs]\n\tfetchexclude = *\n")
    check(published.cloned(), published)


def test_a_fetch_leaves_no_hooks_behind(published: Published) -> None:
    clone = published.cloned()
    hooks = clone.git_directory / "hooks"
    assert [file.name for file in hooks.iterdir() if file.suffix != ".sample"] == []


@pytest.mark.parametrize("how", ["--shared", "--reference"])
def test_objects_of_an_alternate_are_read(published: Published, how: str) -> None:
    source = str(published.source.path)
    clone = published.cloned(how, url=source) if how == "--shared" else published.cloned(how, source)
    check(clone, published)
    assert published.hosted.sent() == 0


def test_a_storage_elsewhere(published: Published, tmp_path: Path) -> None:
    clone = published.cloned("--config", f"lfs.storage={tmp_path / 'storage'}")
    check(clone, published)
    assert not (clone.git_directory / "lfs").exists()
    assert {file.name for file in (tmp_path / "storage" / "objects").glob("??/??/*")} == set(needed(published, "v1"))


@pytest.fixture
def without_git_lfs(tmp_path: Path) -> dict[str, str]:
    """Return a PATH with git and our programs, and no git-lfs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("git", "sh"):
        found = shutil.which(name)
        assert found is not None
        (folder / name).symlink_to(found)
    return {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{folder}"}


def test_without_git_lfs_objects_that_are_here_are_enough(
    published: Published, without_git_lfs: dict[str, str]
) -> None:
    clone = published.cloned().in_environment(**without_git_lfs)
    clone.checkout_again()
    check(clone, published)


def test_without_git_lfs_the_error_says_what_to_do(published: Published, without_git_lfs: dict[str, str]) -> None:
    clone, done = published.clone(**without_git_lfs)
    said = done.stderr.decode()
    assert done.returncode != 0
    errors = [line for line in said.splitlines() if line.startswith("theta-daemon: error: ")]
    assert len(errors) == 1
    assert any(oid in errors[0] for oid in needed(published, "v1"))
    assert "git-lfs" in errors[0]
    assert "install" in errors[0]
    assert "origin" in errors[0]
    assert set(wrong_files(clone, published.tip).values()) == {"missing"}
    clone = clone.in_environment(PATH=published.source.environment["PATH"])
    clone.git("checkout", "--quiet", "--force", "HEAD")  # git gave up before it wrote the index
    check(clone, published)
