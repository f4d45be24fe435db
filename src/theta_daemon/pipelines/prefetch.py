"""Objects of files that git has not asked for yet: where it asks for one at a time, and says which tree it takes.

`git archive` is such a command: each of its files would wait for a conversation with the server of its own. A checkout
is not: there git asks for all files before it wants the first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from theta_daemon.errors import ThetaError
from theta_daemon.history import trees
from theta_daemon.metadata import objects, packs, text
from theta_daemon.metadata.entries import Metadata, ObjectRef

if TYPE_CHECKING:
    from collections.abc import Iterator

    from theta_daemon.pipelines.services import Services


class Prefetch:
    """What was asked for ahead of time."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._trees: set[str] = set()

    def tree(self, treeish: str | None) -> None:
        """Ask for everything that the metadata in a tree needs and that is not here; once for each tree.

        Never waits for the network, and raises nothing: what does not come is told where it is needed.
        """
        if treeish is None or treeish in self._trees:
            return
        self._trees.add(treeish)
        try:
            for metadata, missing in self._missing(treeish):
                # Whatever smudge builds of them is verified.
                self._services.fetcher.want(missing, packs.worthwhile(packs.of(metadata), set(missing)), hashed=False)
        except ThetaError as error:
            self._services.trace.event("prefetch failed", error=str(error))

    def _missing(self, treeish: str) -> Iterator[tuple[Metadata, list[ObjectRef]]]:
        store, selection = self._services.store, self._services.selection
        for found in trees.metadata(self._services.settings, treeish):
            metadata = text.read(found.data)
            if isinstance(metadata, Metadata) and not selection.leaves(found.path):
                refs = (ObjectRef(each.oid, each.size) for each in objects.of(metadata))
                yield metadata, [ref for ref in refs if not store.contains(ref.oid, ref.size)]
