"""Files that git-theta wrote have no layout: their format is named by attribute, configuration or environment."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.git.conftest import assert_clean
from tests.support import models
from tests.support.repository import Repository
from theta_daemon.formats.registry import HEAD, SAFETENSORS, TORCH_ZIP, format_of
from theta_daemon.metadata import text
from theta_daemon.metadata.entries import Metadata

PATHS = ("m.ckpt", "d/m.safetensors")


@pytest.fixture
def without_layout(repository: Repository) -> Repository:
    """Return a repository whose metadata says nothing of files as a whole, as git-theta writes it."""
    repository.git("theta", "track", "*.ckpt", "*.safetensors")
    for path in PATHS:
        repository.write(path, models.safetensors_bytes(models.state_dict(1)))
    repository.git("add", "--all")
    for path in PATHS:
        repository.write(path, text.serialize(Metadata(text.parse(repository.blob(path)).entries, None)))
    repository.commit("as git-theta would write it")
    return repository


def formats(repository: Repository) -> list[str | None]:
    """Check both files out again and return what they are."""
    repository.checkout_again()
    assert_clean(repository)
    return [format_of(repository.read(path)[:HEAD]) for path in PATHS]


def test_the_extension_counts_where_nothing_is_named(without_layout: Repository) -> None:
    assert formats(without_layout) == [TORCH_ZIP, SAFETENSORS]


def test_the_environment_the_configuration_the_attribute(without_layout: Repository) -> None:
    named = without_layout.in_environment(GIT_THETA_CHECKPOINT_TYPE="safetensors")
    assert formats(named) == [SAFETENSORS, SAFETENSORS]
    named.git("config", "theta.checkpointType", "pytorch")
    assert formats(named) == [TORCH_ZIP, TORCH_ZIP]
    named.write("d/.gitattributes", b"*.safetensors theta-format=safetensors\n")
    named.commit("one directory is different", "d/.gitattributes")
    assert formats(named) == [TORCH_ZIP, SAFETENSORS]
    named.git("config", "theta.checkpointType", "")
    named.write("d/.gitattributes", b"*.safetensors theta-format=pytorch\n")
    named.commit("and now another", "d/.gitattributes")
    assert formats(named) == [TORCH_ZIP, TORCH_ZIP]


def test_a_clone_finds_the_attribute_that_comes_with_it(
    without_layout: Repository, new_repository: Callable[[str], Repository]
) -> None:
    lines = b"*.ckpt filter=theta theta-format=safetensors\n*.safetensors filter=theta theta-format=pytorch\n"
    without_layout.write(".gitattributes", lines)
    without_layout.commit("say it")
    clone = new_repository("clone")
    clone.git("theta", "install", "--local")
    (clone.git_directory / "lfs").symlink_to(without_layout.git_directory / "lfs")
    clone.git("pull", "--quiet", str(without_layout.path), "main")
    assert [format_of(clone.read(path)[:HEAD]) for path in PATHS] == [SAFETENSORS, TORCH_ZIP]
    assert_clean(clone)


def test_an_attribute_that_cannot_be_followed_stops_the_checkout_of_its_file(without_layout: Repository) -> None:
    without_layout.write("d/.gitattributes", b"*.safetensors theta-format=flax\n")
    (without_layout.path / "d" / "m.safetensors").unlink()
    error = without_layout.git_fails("checkout", "--", "d/m.safetensors")
    expected = (
        "theta-daemon: error: d/m.safetensors: checkpoints of type 'flax' (attribute theta-format) are not supported"
    )
    assert f"{expected}; use one of pytorch, " in error
    (without_layout.path / "m.ckpt").unlink()
    without_layout.git("checkout", "--", "m.ckpt")


def test_a_layout_counts_for_more(repository: Repository) -> None:
    repository.git("theta", "track", "*.ckpt")
    content = models.safetensors_bytes(models.state_dict(1))
    repository.write("m.ckpt", content)
    repository.write(".gitattributes", b"*.ckpt filter=theta theta-format=pytorch\n")
    repository.commit("it has one")
    repository.checkout_again()
    assert repository.read("m.ckpt") == content
    assert_clean(repository)
