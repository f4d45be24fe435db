"""What data.pkl says about the records of a torch zip: which are storages, how long they are, who owns their bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from theta_daemon.formats.pickle_reader import read_pickle
from theta_daemon.formats.torch_ownership import Ownership, assign_owners
from theta_daemon.formats.torch_storages import parse_storages
from theta_daemon.formats.torch_walk import find_tensors, parameter_text
from theta_daemon.formats.zip_records import damaged

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from theta_daemon.formats.parts import Tensor
    from theta_daemon.formats.torch_ownership import Range
    from theta_daemon.formats.torch_storages import Storage
    from theta_daemon.formats.torch_walk import Found
    from theta_daemon.formats.zip_records import CentralHeader


class Contents:
    """The storages of one file by the names of their records, and what the tensors own of those not yet read."""

    def __init__(self, archive: bytes, storages: Mapping[str, Storage], found: Sequence[Found]) -> None:
        self._storages = {archive + b"data/" + key.encode(): storage for key, storage in storages.items()}
        self._found = found
        self._assign()

    @classmethod
    def read(cls, pickle: bytes, archive: bytes) -> Contents:
        """Return what `pickle` says.

        Raises CheckpointError where it is damaged, or a tensor does not fit its storage.
        """
        root = read_pickle(pickle)
        # the names first: an error in a storage then says whose it is
        found = find_tensors(root.value, len(pickle))
        return cls(archive, parse_storages(root.persistent), found)

    @classmethod
    def unread(cls) -> Contents:
        """Return the contents of a file whose pickle is compressed: no tensors, every record is bytes of the file."""
        return cls(b"", {}, ())

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor of the file."""
        return self._tensors

    def forget(self) -> None:
        """List no tensor: the storages do not hold little-endian values."""
        self._found = ()
        self._assign()

    def keep_plain(self, entries: Mapping[bytes, CentralHeader]) -> None:
        """List only the tensors whose storage the file holds as it is, not compressed."""
        hidden = {
            storage.key
            for name, storage in self._storages.items()
            if (entry := entries.get(name)) is not None and not entry.is_plain
        }
        if hidden:
            self._found = [one for one in self._found if one.claim.key not in hidden]
            self._assign()

    def is_storage(self, name: bytes) -> bool:
        """Whether record `name` is a storage of the pickle."""
        return name in self._storages

    def storage_size(self, name: bytes) -> int | None:
        """Return the bytes of record `name`, None where the pickle does not say."""
        storage = self._storages.get(name)
        return None if storage is None else storage.nbytes

    def take(self, name: bytes, size: int, *, is_plain: bool) -> list[Range]:
        """Return what tensors own of record `name`, which comes now and has `size` bytes in the file.

        Raises CheckpointError, naming the parameter, where that is not what the pickle says.
        """
        ranges = self._owned.pop(name, [])
        expected = self.storage_size(name)
        if not is_plain:
            if ranges:
                raise damaged("its storage is compressed or encrypted, but the pickle is not", self.parameter_in(name))
        elif expected is not None and size != expected:
            raise damaged(
                f"its storage has {size} bytes in the file but {expected} in the pickle", self.parameter_in(name)
            )
        return ranges

    def check_complete(self) -> None:
        """Raise CheckpointError, naming the parameter, where the file lacks the storage of a listed tensor."""
        for name in self._owned:
            raise damaged("the file lacks its storage", self.parameter_in(name))

    def parameter_in(self, name: bytes) -> str | None:
        """Return the first tensor in record `name`, for people."""
        storage = self._storages.get(name)
        keys = (one.keys for one in self._found if storage is not None and one.claim.key == storage.key)
        return next((parameter_text(one) for one in keys), None)

    def _assign(self) -> None:
        ownership: Ownership = assign_owners(self._found)
        self._tensors = ownership.tensors
        self._owned = {
            name: ranges for name, storage in self._storages.items() if (ranges := ownership.owned.get(storage.key))
        }
