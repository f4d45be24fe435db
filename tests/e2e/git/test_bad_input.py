"""What is wrong is refused in one line, and costs nothing else: no partial object, no temporary file, the next file."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable

import pytest
import torch

from tests.e2e.git.conftest import Model, leftovers, objects
from tests.support import models
from tests.support.repository import Repository


def header(entries: object, data: bytes = b"") -> bytes:
    """Return a safetensors file with this header, right or wrong."""
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, object]:
    """Return an entry of a safetensors header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def zipped(**records: bytes) -> bytes:
    """Return a zip file that is no checkpoint."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def pickled(data: bytes) -> bytes:
    """Return a torch file whose data.pkl is `data`."""
    buffer = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(buffer)
    writer.write_record("data.pkl", data, len(data))
    writer.write_record("byteorder", b"little", 6)
    writer.write_end_of_file()
    return buffer.getvalue()


TORCH = models.torch_bytes(models.state_dict(1))
SAFE = models.safetensors_bytes(models.state_dict(1))
REAL = models.torch_bytes({"w": torch.zeros(4)})

# name -> (content, what the line must say)
BAD: dict[str, tuple[bytes, str]] = {
    "text.pt": (b"no checkpoint at all\n", "not a checkpoint"),
    "image.pt": (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a checkpoint"),
    "pointer.pt": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1\n",
        "LFS pointer",
    ),
    "cut.pt": (TORCH[:-100], "ends"),
    "cut-in-data.pt": (TORCH[:5000], "layers."),
    "padded.pt": (TORCH + bytes(200_000), "follow the end"),
    "archive.pt": (zipped(hello=b"world"), "not a torch checkpoint"),
    "bomb.pt": (pickled(b"\x80\x02]q\x00" + b"(h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00tq\x00" * 3000), "pickle"),
    "huge-int.pt": (pickled(b"\x80\x02\x8b\xff\xff\xff\x7f."), "pickle"),
    "cut.safetensors": (SAFE[:-10], "layers."),
    "padded.safetensors": (SAFE + b"garbage", "7 bytes follow"),
    "gap.safetensors": (header({"a": tensor(4, 8, [1])}, bytes(8)), "begin"),
    "overlap.safetensors": (header({"a": tensor(0, 8, [2]), "b": tensor(4, 12, [2])}, bytes(12)), "'b'"),
    "long.safetensors": (header({"a": tensor(0, 4000, [1000])}, bytes(12)), "'a'"),
    "wrong-size.safetensors": (header({"a": tensor(0, 8, [3])}, bytes(8)), "'a'"),
    "duplicate.safetensors": (header(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{}}', b"x"), "twice"),
    "huge-header.safetensors": (struct.pack("<Q", 200_000_000) + b"{" + bytes(50), "200000000"),
    "huge-tensor.safetensors": (header({"a": tensor(0, 1 << 42, [1 << 40])}, bytes(12)), "'a'"),
    "deep.safetensors": (header(b'{"a":' * 100_000), "nested"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_in_one_line(tracked: Repository, name: str) -> None:
    content, says = BAD[name]
    before = tracked.git("ls-files", "--stage")
    tracked.write(name, content)
    said = tracked.git_fails("add", name)
    ours = [line for line in said.splitlines() if line.startswith("theta-daemon:")]
    assert len(ours) == 1, said
    assert name in ours[0]
    assert says in ours[0]
    assert "internal error" not in said
    assert "Traceback" not in said
    assert tracked.git("ls-files", "--stage") == before
    assert leftovers(tracked) == []


def test_the_process_serves_the_next_file(tracked: Repository, model: Model) -> None:
    """Without `required` git goes on after an error, in the same filter process."""
    tracked.git("config", "--local", "filter.theta.required", "false")
    tracked.git("config", "--local", "--unset", "filter.theta.clean")
    tracked.write(f"a-{model.path}", b"no checkpoint")
    tracked.write(f"b-{model.path}", model.version(1))
    trace = tracked.path.parent / "trace"
    tracked.in_environment(GIT_TRACE=str(trace)).git("add", f"a-{model.path}", f"b-{model.path}")
    assert trace.read_text().count("run_command: theta-daemon") == 1
    assert tracked.git_bytes("cat-file", "blob", f":a-{model.path}") == b"no checkpoint"
    assert b"lfs_metadata" in tracked.git_bytes("cat-file", "blob", f":b-{model.path}")


def damage(file: os.PathLike[str], change: Callable[[bytes], bytes | None]) -> None:
    """Replace a read-only object by what `change` makes of it; None removes it."""
    with open(file, "rb") as stream:
        changed = change(stream.read())
    os.unlink(file)
    if changed is not None:
        with open(file, "wb") as stream:
            stream.write(changed)


def flip(data: bytes) -> bytes:
    """Return `data` with one bit of its last third changed."""
    at = len(data) * 2 // 3
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("change", "says"),
    [(lambda _: None, "missing"), (flip, "object"), (lambda data: data[:-1], "object"), (lambda _: b"", "object")],
    ids=["missing", "flipped", "truncated", "emptied"],
)
def test_a_bad_object_fails_its_file_and_names_the_parameter(
    tracked: Repository, model: Model, change: Callable[[bytes], bytes | None], says: str
) -> None:
    tracked.write(model.path, model.version(1))
    tracked.write(f"good-{model.path}", model.version(2))
    tracked.commit("two")
    metadata = json.loads(tracked.git("cat-file", "blob", f"HEAD:{model.path}"))
    oid = metadata["layers.1.weight"]["lfs_metadata"]["oid"]
    for root in ("lfs", "theta"):
        damage(tracked.path / ".git" / root / "objects" / oid[:2] / oid[2:4] / oid, change)
    (tracked.path / model.path).unlink()
    (tracked.path / f"good-{model.path}").unlink()
    tracked.git("checkout", "--", f"good-{model.path}")
    assert tracked.read(f"good-{model.path}") == model.version(2)
    said = tracked.git_fails("checkout", "--", model.path)
    ours = [line for line in said.splitlines() if line.startswith("theta-daemon:")]
    assert len(ours) == 1, said
    assert model.path in ours[0]
    assert "layers.1.weight" in ours[0]
    assert says in ours[0]
    assert not (tracked.path / model.path).exists()
    assert leftovers(tracked) == []


def test_conflict_markers_pass_smudge_and_are_refused_by_clean(tracked: Repository, model: Model) -> None:
    tracked.write(model.path, model.version(1))
    tracked.commit("first")
    metadata = tracked.git_bytes("cat-file", "blob", f"HEAD:{model.path}")
    lines = metadata.split(b"\n")
    torn = b"\n".join([*lines[:5], b"<<<<<<< HEAD", lines[5], b"=======", lines[5], b">>>>>>> side", *lines[6:]])
    done = tracked.run("theta-daemon", "smudge", model.path, stdin=torn)
    assert (done.returncode, done.stdout) == (0, torn)
    assert b"conflict markers" in done.stderr
    assert b"--ours" in done.stderr
    tracked.write(model.path, torn)
    said = tracked.git_fails("add", model.path)
    assert "conflict markers" in said


def test_a_raw_file_from_before_tracking_passes_smudge(tracked: Repository, model: Model) -> None:
    tracked.write(model.path, model.version(1))
    raw = tracked.git("hash-object", "-w", "--no-filters", model.path)
    tracked.git("update-index", "--add", "--cacheinfo", f"100644,{raw},{model.path}")
    tracked.git("commit", "--quiet", "--message", "raw")
    (tracked.path / model.path).unlink()
    done = tracked.run("git", "checkout", "--", model.path)
    assert done.returncode == 0
    assert b"--renormalize" in done.stderr
    assert tracked.read(model.path) == model.version(1)


def test_damaged_metadata_is_an_error(tracked: Repository, model: Model) -> None:
    tracked.write(model.path, model.version(1))
    tracked.commit("first")
    metadata = tracked.git_bytes("cat-file", "blob", f"HEAD:{model.path}")
    for wrong in (
        metadata[:-20],
        metadata.replace(b'"oid": "', b'"oid": "../', 1),
        metadata.replace(b"float32", b"flaot32"),
    ):
        done = tracked.run("theta-daemon", "smudge", model.path, stdin=wrong)
        assert done.returncode != 0
        assert done.stderr.count(b"\n") == 1
        assert model.path.encode() in done.stderr


class Payload:
    """An object whose unpickling would run a command."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch /tmp/theta-daemon-was-here",)


def test_a_pickle_that_would_run_code_is_only_stored(tracked: Repository) -> None:
    import pickle

    marker = tracked.path.parent / "ran"
    harmless = pickle.dumps({"w": Payload()}, protocol=2).replace(
        b"/tmp/theta-daemon-was-here", str(marker).encode()[:26].ljust(26, b"_")
    )
    unknown = b"\x80\x02cno_such_module\nNoSuchClass\nq\x00)\x81q\x01}q\x02X\x01\x00\x00\x00wK\x01sb."
    for name, data in (("attack.pt", harmless), ("unknown.pt", unknown)):
        content = pickled(data)
        tracked.write(name, content)
        tracked.commit(name)
        tracked.checkout_again()
        assert tracked.read(name) == content
    assert not marker.exists()
    assert sorted(file.name for file in tracked.path.parent.iterdir()) == ["home", "repository"]


def test_required_filters_fail_when_the_program_is_missing(tracked: Repository, model: Model) -> None:
    tracked.write(model.path, model.version(1))
    before = objects(tracked)
    said = tracked.git_fails(
        "-c", "filter.theta.process=no-such-theta-daemon", "-c", "filter.theta.clean=", "add", model.path
    )
    assert model.path in said or "no-such-theta-daemon" in said
    assert objects(tracked) == before
