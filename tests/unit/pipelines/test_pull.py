"""Pull, with a folder for a remote, and nobody's index."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support import models
from tests.support.pipelines import Bench
from tests.unit.pipelines.test_arriving import Remote
from theta_daemon.errors import MissingObject, ThetaError
from theta_daemon.history import refresh
from theta_daemon.history.tracked import Tracked
from theta_daemon.pipelines import pull, smudge
from theta_daemon.pipelines.worktree import WorkTree, blob_id
from theta_daemon.progress import SILENT

CONTENTS = {name: models.torch_bytes(models.state_dict(seed)) for seed, name in enumerate(("a.pt", "b.pt", "sub/c.pt"))}


class Pulled:
    """A work tree of metadata, and what became of a pull."""

    def __init__(self, bench: Bench, directory: Path) -> None:
        self.bench = bench
        self.top = directory / "tree"
        self.remote = Remote(bench.services.store.lfs_objects, directory / "remote")
        bench.services = bench.services.replace(fetcher=self.remote)
        self.files: list[Tracked] = []
        self.errors: list[str] = []
        self.written: list[str] = []
        for name, content in CONTENTS.items():
            metadata = bench.clean(content, name.encode())
            path = self.top / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(metadata)
            self.files.append(Tracked(name.encode(), blob_id(metadata, "0" * 40), False, False))

    def objects_of(self, name: str) -> set[str]:
        with closing(WorkTree(self.top)) as tree:
            (target,) = pull.targets(
                self.bench.services, tree, [file for file in self.files if file.path == name.encode()], self.tell
            )
            plan = smudge.plan(self.bench.services, target.file.path, target.held)
        assert isinstance(plan, smudge.Plan)
        found = {group.entry.oid for group in plan.groups}
        assert plan.metadata.file is not None
        return found | {plan.metadata.file.layout.oid}

    def take_away(self, oids: set[str]) -> None:
        store = self.bench.services.store
        for oid in oids:
            for place in (store.lfs_objects, store.theta_objects):
                path = place / oid[:2] / oid[2:4] / oid
                if place == store.lfs_objects:
                    self.remote.folder.mkdir(exist_ok=True)
                    shutil.copy(path, self.remote.folder / oid)
                path.unlink()

    def tell(self, error: ThetaError) -> None:
        self.errors.append(str(error))

    def run(self) -> None:
        with closing(WorkTree(self.top)) as tree:
            targets = list(pull.targets(self.bench.services, tree, self.files, self.tell))
            with closing(pull.Pull(self.bench.services, tree, SILENT, self.tell).files(targets)) as files:
                self.written.extend(each.target.file.path.decode() for each in files)

    def content(self, name: str) -> bytes:
        return (self.top / name).read_bytes()


@pytest.fixture
def pulled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pulled]:
    monkeypatch.setattr(refresh, "mark", lambda settings, files: None)
    bench = Bench.at(tmp_path)
    with closing(bench):
        yield Pulled(bench, tmp_path)


def test_what_is_here_is_written_before_what_must_come(pulled: Pulled) -> None:
    pulled.take_away(pulled.objects_of("a.pt") - pulled.objects_of("b.pt"))  # they have one layout
    pulled.run()
    assert pulled.errors == []
    assert pulled.written == ["b.pt", "sub/c.pt", "a.pt"]
    assert {name: pulled.content(name) for name in CONTENTS} == CONTENTS


def test_nothing_is_asked_for_that_is_here(pulled: Pulled) -> None:
    pulled.run()
    assert pulled.written == list(CONTENTS)
    assert pulled.remote.asked == []


def test_an_object_that_does_not_come_is_an_error_of_its_file(pulled: Pulled) -> None:
    own = pulled.objects_of("b.pt") - pulled.objects_of("a.pt") - pulled.objects_of("sub/c.pt")
    pulled.take_away(own | pulled.objects_of("a.pt"))
    refused = min(own)
    pulled.remote.refused[refused] = MissingObject(f"object {refused} is not on the server", hint="push it")
    pulled.run()
    assert sorted(pulled.written) == ["a.pt", "sub/c.pt"]
    assert len(pulled.errors) == 1
    assert pulled.errors[0].startswith("b.pt: parameter '")
    assert f"object {refused} is not on the server" in pulled.errors[0]
    assert pulled.content("b.pt").startswith(b"{")


def test_a_pull_that_is_given_up_leaves_metadata(pulled: Pulled) -> None:
    with closing(WorkTree(pulled.top)) as tree:
        targets = list(pull.targets(pulled.bench.services, tree, pulled.files, pulled.tell))
        files = pull.Pull(pulled.bench.services, tree, SILENT, pulled.tell).files(targets)
        first = next(files)
        files.close()
    assert first.target.file.path == b"a.pt"
    assert pulled.content("a.pt") == CONTENTS["a.pt"]
    assert all(pulled.content(name).startswith(b"{") for name in ("b.pt", "sub/c.pt"))
    assert sorted(path.name for path in pulled.top.rglob("*") if path.is_file()) == ["a.pt", "b.pt", "c.pt"]
