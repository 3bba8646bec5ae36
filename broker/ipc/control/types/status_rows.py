"""What ``brokerctl status`` shows of a sandbox and of a process."""

from __future__ import annotations

from broker.ipc.control.types.base import ApiAnswer


class ProgramStatus(ApiAnswer, frozen=True, kw_only=True):
    """A program that runs in a sandbox."""

    program: int
    name: str
    since: float


class LimitStatus(ApiAnswer, frozen=True, kw_only=True):
    """Something that is limited for a sandbox's windows."""

    what: str
    now: int
    most: int
    """0 for a rate: then only ``refused`` says something."""
    refused: int
    """How often it wanted more."""


class NetworkTraffic(ApiAnswer, frozen=True, kw_only=True):
    """The open flows of a sandbox with ``network = "rules"``, together."""

    flows: int
    rate_from_sandbox: float
    """Bytes a second."""
    rate_to_sandbox: float


class SandboxStatus(ApiAnswer, frozen=True, kw_only=True):
    """A sandbox that has a lease or is being started or stopped."""

    name: str
    record: str
    sandbox_class: str
    """``persistent``, ``disposable`` or ``template``."""
    label: str
    color: str = ""
    state: str
    """``starting``, ``running``, ``stopping`` or ``failed``; ``no agent yet``: it runs, and
    its agent has never connected."""
    pid: int | None = None
    cid: int | None = None
    since: float
    """Seconds since 1970."""
    accel: str = ""
    image: str = ""
    image_age: float | None = None
    """Seconds since the image was built."""
    programs: list[ProgramStatus] = []
    limits: list[LimitStatus] = []
    """Of its windows, as its worker counts them; empty without one."""
    devices: list[str] = []
    """The devices that it holds: port, vendor and product number, its name."""
    folders: list[str] = []
    """Your directories that it has; escaped, with ``(writable)`` where it is."""
    network: NetworkTraffic | None = None
    """Null: its flows are not decided."""


class ProcessStatus(ApiAnswer, frozen=True, kw_only=True):
    """A process of this broker, or a child of it."""

    role: str
    """``broker``, ``pump``, ``fork server``, ``worker``, ``vmm``…"""
    pid: int
    sandbox: str = ""
    memory: int = 0
    """Bytes of memory that are this process's alone, with its share of others'.

    Of the role ``programs``: of the programs of a box or container that descend from its
    first one, without memory that is of a file or shared.
    """
    jail: str = ""
    """How it is confined; empty: not at all."""
