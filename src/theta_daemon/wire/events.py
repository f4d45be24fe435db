"""What the two sides of a filter session say to each other, as values.

The session turns git's bytes into these and these into the filter's bytes; the client, which plays git, does it the
other way round with the same classes. Every event names the `step` that it is in the conversation (see `states`).
"""

from __future__ import annotations

import enum
from typing import ClassVar, Final, Literal

from theta_daemon.frozen import Frozen
from theta_daemon.wire.states import Step


class NeedData(enum.Enum):
    """The type of NEED_DATA."""

    NEED_DATA = "need data"


NEED_DATA: Final[Literal[NeedData.NEED_DATA]] = NeedData.NEED_DATA
"""Returned instead of an event: send what is due, then feed more bytes."""


class Outcome(enum.Enum):
    """The values of a `status=` line."""

    SUCCESS = "success"
    ERROR = "error"  # this file failed
    ABORT = "abort"  # this file failed, and so will every other: do not ask for this command again
    DELAYED = "delayed"  # ask again when `list_available_blobs` names the path


class Agreed(Frozen):
    """The handshake is over; both sides can do `capabilities` (the client's event: our side needs none)."""

    capabilities: frozenset[str]
    step: ClassVar = Step.AGREE


class Request(Frozen):
    """git asks for one file.

    `pathname` is relative to the top of the work tree, in raw bytes; it may name nothing on disk, or something else
    than the content that follows. `ref`, `treeish` and `blob` come with most smudge requests and never with clean;
    each may be absent. An unknown `command` comes without content if it came without `pathname`.
    """

    command: str
    pathname: bytes = b""
    ref: str | None = None
    treeish: str | None = None
    blob: str | None = None
    can_delay: bool = False

    @property
    def step(self) -> Step:
        """Whether content follows."""
        return Step.REQUEST if self.pathname else Step.BARE_REQUEST


class ListAvailable(Frozen):
    """git asks which of the delayed paths can be had now (`command=list_available_blobs`)."""

    step: ClassVar = Step.LIST_AVAILABLE


class Content(Frozen):
    """Bytes of the file, never empty when received: a slice of the fed bytes, valid until more is fed."""

    data: bytes | bytearray | memoryview
    step: ClassVar = Step.CONTENT


class ContentEnd(Frozen):
    """The file is complete."""

    step: ClassVar = Step.CONTENT_END


class Status(Frozen):
    """The filter's answer to a request; content follows only after success."""

    outcome: Outcome

    @property
    def step(self) -> Step:
        """The step of the outcome: each leads elsewhere."""
        return _STATUS_STEPS[self.outcome]


_STATUS_STEPS = {
    Outcome.SUCCESS: Step.SUCCESS,
    Outcome.ERROR: Step.ERROR,
    Outcome.ABORT: Step.ABORT,
    Outcome.DELAYED: Step.DELAYED,
}


class FinalStatus(Frozen):
    """The filter's last word after the content; None keeps the success, an error takes the content back."""

    outcome: Literal[Outcome.ERROR, Outcome.ABORT] | None = None
    step: ClassVar = Step.FINAL


class Available(Frozen):
    """The filter's answer to `ListAvailable`: delayed paths to ask for again; none says that none is left."""

    paths: tuple[bytes, ...]
    step: ClassVar = Step.AVAILABLE


class Closed(Frozen):
    """git closed the pipe between two requests: it needs the filter no more."""

    step: ClassVar = Step.END


FilterEvent = Request | ListAvailable | Content | ContentEnd | Closed
"""What the filter receives."""

Reply = Status | Content | ContentEnd | FinalStatus | Available
"""What the filter sends."""

ClientEvent = Agreed | Status | Content | ContentEnd | FinalStatus | Available
"""What git receives."""

Question = Request | ListAvailable | Content | ContentEnd
"""What git sends."""
