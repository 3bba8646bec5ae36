"""Programs in sandboxes: started, reported, ended."""

from __future__ import annotations

from broker.ipc.control.types.base import ApiAnswer, ApiRequest


class RunRequest(ApiRequest, frozen=True, kw_only=True):
    """Run a program in the sandbox of a record, starting it where needed."""

    record: str
    argv: list[str] | None = None
    """None: the record's own command."""
    service: str | None = None
    """Instead of ``argv``: a service of the sandbox, as other sandboxes call it."""
    argument: str | None = None
    """Of the service."""
    env: dict[str, str] | None = None
    window: bool | None = None
    """False: the program is not expected to open one."""
    wait: bool | None = None
    """Stay until the program has ended, and pass on its output."""
    display: bool | None = None
    """Whether it gets a Wayland display; None: as ``window``."""
    stdin: bool | None = None
    """Its standard input comes by RunInput; otherwise it is empty."""
    tty: bool | None = None
    """It gets a terminal, of ``rows`` and ``columns``; input comes by RunInput."""
    rows: int | None = None
    columns: int | None = None
    stderr: bool | None = None
    """Send its standard error separately, as ``RunItem.stderr``."""
    memory_mib: int | None = None
    """Of the machine that this starts: at most the record's; so are the next three."""
    cpus: int | None = None
    network: str | None = None
    image: str | None = None


class RunInputRequest(ApiRequest, frozen=True, kw_only=True):
    """Bytes for the standard input of a program of Run; ``end``: the last ones."""

    sandbox: str
    program: int
    data: bytes | None = None
    end: bool | None = None


class RunResizeRequest(ApiRequest, frozen=True, kw_only=True):
    """The size of the terminal of a program of Run, in characters."""

    sandbox: str
    program: int
    rows: int
    columns: int


class SuspendRequest(ApiRequest, frozen=True, kw_only=True):
    """Stop the programs of a sandbox, or of all of a record; or let them run again."""

    sandbox: str
    suspended: bool
    """False: they run again."""


class SuspendAnswer(ApiAnswer, frozen=True, kw_only=True):
    """The sandboxes that are in the wanted state now."""

    sandboxes: list[str]
    unchanged: list[str] = []
    """Sandboxes that were in this state already."""


class Progress(ApiAnswer, frozen=True, kw_only=True):
    """A step on the way to a window."""

    step: str
    state: str
    """``begun``, ``done`` or ``failed``."""
    detail: str = ""
    seconds: float = 0.0
    """Since the step began."""


class Started(ApiAnswer, frozen=True, kw_only=True):
    """The program runs."""

    sandbox: str
    program: int


class Exited(ApiAnswer, frozen=True, kw_only=True):
    """The program ended: exit code, or minus the signal's number."""

    sandbox: str
    program: int
    code: int


class RunItem(ApiAnswer, frozen=True, kw_only=True):
    """One of the five; the last one of a call is ``started`` or ``exited``.

    With ``wait``, ``started`` comes when the program runs and is not the last.
    """

    progress: Progress | None = None
    started: Started | None = None
    output: bytes | None = None
    """The program's output, hostile; base64 on the wire."""
    stderr: bytes | None = None
    """As ``output``, where the request wants its standard error apart."""
    exited: Exited | None = None
