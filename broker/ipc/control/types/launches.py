"""Launches: containers and boxes that the caller starts, leased by their launchers."""

from __future__ import annotations

from broker.ipc.control.types.base import ApiAnswer, ApiRequest


class LaunchPrepareRequest(ApiRequest, frozen=True, kw_only=True):
    """Give a sandbox that the caller is about to start its name and directory."""

    record: str
    sandbox: str | None = None
    """Its name while it runs; None: the record's, or a fresh one if disposable."""
    ours: bool | None = None
    """Whether 'brokerctl stop' is to end its first process, too."""
    by_file: bool | None = None
    """Whether a file that Podman plays has named the record."""
    text: str | None = None
    """The record itself, of a program without one; it is removed with the launch."""


class LaunchAnswer(ApiAnswer, frozen=True, kw_only=True):
    """A launch that waits for its first process."""

    id: str
    sandbox: str
    directory: str
    """Of its sockets, to be mounted into the sandbox read-only."""
    open_files: int | None = None
    """That each of its programs may have open; None: the record has no such key."""
    close_namespaces: bool | None = None
    """Whether its launcher is to keep its programs from making namespaces."""


class LaunchBoxRequest(ApiRequest, frozen=True, kw_only=True):
    """How a box of a record is started."""

    record: str


class LaunchBoxAnswer(ApiAnswer, frozen=True, kw_only=True):
    """A box of bubblewrap; no class: no such record exists."""

    sandbox_class: str | None = None
    command: list[str] | None = None
    read_only: list[str] | None = None
    read_write: list[str] | None = None
    open_files: int | None = None
    user_namespaces: bool | None = None
    network: str | None = None
    x11: bool | None = None
    """Whether an X server is in it, for programs that need one."""
    folders: bool | None = None
    """Whether directories of the user's may be mounted into it."""
    gpu: bool | None = None
    """Whether it has this machine's render nodes."""
    memory_mounts: dict[str, int] | None = None
    """Paths of its further file systems in memory, and their sizes in bytes."""


class PortalUseRequest(ApiRequest, frozen=True, kw_only=True):
    """Whether programs of a record are to use the sandbox's portal."""

    record: str


class PortalUseAnswer(ApiAnswer, frozen=True, kw_only=True):
    """By the records and rules in force; calls are decided one by one all the same."""

    uses: bool
    prints: bool = False
    """Whether a rule may allow to print; an earlier broker does not say it."""
    schemes: list[str] = []
    """The schemes of addresses that a rule may open elsewhere, of whatever host."""


class LaunchBindRequest(ApiRequest, frozen=True, kw_only=True):
    """Lease a prepared launch to its first process, which has run nothing yet."""

    id: str
    leader: int


class LaunchEndRequest(ApiRequest, frozen=True, kw_only=True):
    """End a launch, bound or not."""

    id: str
