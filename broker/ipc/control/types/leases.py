"""Leases: who is what sandbox, until when."""

from __future__ import annotations

from broker.ipc.control.types.base import ApiAnswer, ApiRequest


class HeldDescriptor(ApiRequest, frozen=True, kw_only=True):
    """A descriptor that a process has."""

    pid: int
    number: int


class LeaseRequest(ApiRequest, frozen=True, kw_only=True):
    """Register a machine or container that another program starts.

    Exactly one of ``hybrid``, ``cid`` and ``unix`` says how it is recognised.
    """

    record: str
    sandbox: str | None = None
    """Its name while it runs; None: the record's, or a fresh one if disposable."""
    hybrid: str | None = None
    """The path of the VMM's hybrid-vsock socket."""
    cid: int | None = None
    unix: str | None = None
    """The directory of a container's sockets."""
    leader: int | None = None
    """The pid whose end is the lease's end."""
    connectors: list[int] | None = None
    """Other pids that may connect for a hybrid socket (a vhost-user backend)."""
    folder_servers: list[int] | None = None
    """Pids of its virtiofsd, in the order of the folders' places."""
    arena: HeldDescriptor | None = None
    """Its arena, as a descriptor of a process."""


class CutNetworksRequest(ApiRequest, frozen=True, kw_only=True):
    """Cut the networks of all sandboxes, or restore them."""

    cut: bool


class CutNetworksAnswer(ApiAnswer, frozen=True, kw_only=True):
    """The effect."""

    open: list[str]
    """Sandboxes whose network still works, or may: others gave it to them."""


class LeaseStatus(ApiAnswer, frozen=True, kw_only=True):
    """A live lease."""

    id: str
    sandbox: str
    record: str
    generation: int
    peer: str
    """How it is recognised, as ``cid 42``."""
    pid: int | None = None
    """Of the process that it lives as long as; None: a control connection."""
    since: float
    """Seconds since 1970."""
    pending: bool = False
    """Granted, and its machine has not been seen running yet."""


class LeaseItem(ApiAnswer, frozen=True, kw_only=True):
    """First the lease; when the call was to hold it, at last why it ended."""

    lease: LeaseStatus | None = None
    ended: str | None = None


class LeaseListAnswer(ApiAnswer, frozen=True, kw_only=True):
    """All live leases, oldest first."""

    leases: list[LeaseStatus]


class MachineEventRequest(ApiRequest, frozen=True, kw_only=True):
    """A launcher hook's report about a machine of that launcher.

    ``prepare`` comes before the machine runs and makes its sockets ready;
    ``started`` gives it its lease (again, after a restart of the launcher);
    ``release`` is its end.
    """

    launcher: str
    """``libvirt``."""
    event: str
    name: str
    uuid: str
    record: str | None = None
    """The record that the machine's own description names."""
    cid: int | None = None
    vhost_user: str | None = None
    """The path of the vhost-user-vsock socket that the VMM connects to."""
    leader: int | None = None
    """The VMM's pid; with ``started``."""
    virtiofs: dict[str, str] | None = None
    """The sockets of its virtiofs devices, by their tags."""


class MachineEventAnswer(ApiAnswer, frozen=True, kw_only=True):
    """The sandbox that the machine is; None: no record is about it."""

    sandbox: str | None = None


class LeaseReleaseRequest(ApiRequest, frozen=True, kw_only=True):
    """End a lease and cut its streams; the machine is left alone."""

    id: str
