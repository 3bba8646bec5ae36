"""The viewer's half of ``brokerctl doctor``: compositor, sound, rules, log."""

from __future__ import annotations

import os
import shutil
import socket
import struct
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

import trio
from jeepney import MessageType
from jeepney.auth import AuthenticationError
from jeepney.bus import get_connectable_addresses
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import open_dbus_connection
from pywayland.client import Display

from broker.authority.audit.proof.keys import KeyFile
from broker.cli import render
from broker.cli.audit.proof.sealed_log import open_sealed
from broker.cli.audit.proof.verify import verify, verify_end
from broker.cli.doctor.finding import Context, Finding, fail, ok, warn
from broker.cli.run.connect import how_to_start
from broker.cli.run.force import silent_broker
from broker.cli.sound import connect_server
from broker.core.distribution import install_command
from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.core.escape import printable
from broker.core.paths import find_paths
from broker.helpers.compositor_socket import accepts, find_compositor
from broker.helpers.prompt.keys import Keys
from broker.ipc.audit.query import open_log
from broker.ipc.control import client
from broker.ipc.control.api import Nothing
from broker.ipc.control.methods import GET_VERSION
from broker.ipc.in_thread import in_thread
from broker.net.listeners import has_listener
from broker.session.settings_files import settings_problems
from broker.session.sound import find_sound
from policy.records.loader import load_records, search_path
from policy.rules.rulefiles import SHIPPED, load_rules, rule_path

_PORTAL, _BACKENDS = (
    "org.freedesktop.portal.Desktop",
    "org.freedesktop.impl.portal.desktop.",
)
_BUS_SECONDS = 5.0
NEEDED: Mapping[str, int] = MappingProxyType(
    {
        "wl_compositor": 4,
        "wl_subcompositor": 1,
        "wl_shm": 1,
        "wl_seat": 5,
        "wp_viewporter": 1,
        "xdg_wm_base": 1,
    }
)
"""Globals, and the lowest version of each, that windows in frames need."""

WANTED: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "wp_security_context_manager_v1": (
            (
                "only the filter marks and confines the windows of a sandbox; the "
                "compositor cannot distinguish them from yours"
            ),
            "use a newer compositor",
        ),
        # No version of GNOME has it, so there is nothing that its user could do.
        "zwlr_layer_shell_v1": (
            (
                "Vitrail's questions are ordinary windows, which other windows can "
                "cover; a notification tells of one that is covered"
            ),
            "",
        ),
    }
)
"""Globals that make it safer, and the effect of their absence."""

_VERIFIED_EVENTS = 20_000
"""Larger logs take more than a second, and have a verb of their own."""
_COMPOSITOR_SECONDS = 5.0
_SOUND_SECONDS = 5.0
_BROKER_SECONDS = 10.0


async def check_compositor(context: Context) -> Sequence[Finding]:
    """Check the compositor's globals, as an application does."""
    path = find_compositor(context.environ)
    if path is None:
        display = context.environ.get("WAYLAND_DISPLAY", "")
        text = (
            f"no compositor answers at {display}"
            if display
            else "no compositor is running"
        )
        mend = (
            "log in to a Wayland session, or set WAYLAND_DISPLAY to its socket; to "
            "start a headless compositor, run 'brokerctl demo'"
        )
        return [warn("compositor", printable(text), mend)]
    with trio.move_on_after(_COMPOSITOR_SECONDS):
        # libwayland waits inside; a compositor that hangs must not hang us.
        globals_ = await in_thread(list_globals, path, abandon_on_cancel=True)
        return judge_globals(path, globals_)
    text = f"{path} accepts connections but did not answer in {_COMPOSITOR_SECONDS:g} s"
    return [
        fail("compositor", text, "check whether the compositor is stopped or blocked")
    ]


def list_globals(path: Path) -> dict[str, int]:
    """Connect to the compositor; return its globals and their versions.

    Raises SetupError when it hangs up.  Waits as long as the compositor does.
    """
    versions: dict[str, int] = {}

    def announce(registry: object, name: int, interface: str, version: int) -> None:
        del registry, name
        versions[interface] = max(version, versions.get(interface, 0))

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as conn:
        conn.connect(os.fspath(path))
        # The display owns the descriptor from here on.
        display = Display(conn.detach())
    try:
        display.connect()
        registry = display.get_registry()
        registry.dispatcher["global"] = announce
        if display.roundtrip() < 0:
            raise SetupError(
                f"the compositor at {path} closed the connection before it listed "
                "its globals",
                hint="read the log of the compositor, or use another one",
            )
    finally:
        display.disconnect()
    return versions


def judge_globals(path: Path, found: Mapping[str, int]) -> list[Finding]:
    """Return findings on missing globals of ``NEEDED`` and ``WANTED``."""
    missing = [
        f"{name} {version}" for name, version in NEEDED.items()
        if found.get(name, 0) < version
    ]  # fmt: skip
    if missing:
        text = f"{path} lacks required globals: {', '.join(missing)}"
        return [fail("compositor", text, "use a newer compositor, or another one")]
    findings = [
        ok(
            "compositor",
            f"{path}: {len(found)} globals, including all required ones",
        )
    ]
    findings += [
        warn(
            "compositor",
            f"{name} is missing: {without}",
            mend,
        )
        for name, (without, mend) in WANTED.items()
        if name not in found
    ]
    return findings


async def check_sound(context: Context) -> Sequence[Finding]:
    """Ask the sound server for its name and its outputs, as a mixer does."""
    name = "sound"
    try:
        path = find_sound(context.environ)
        (await connect_server(path)).close()
    except (SetupError, UpstreamError) as error:
        text = f"{error.message}: sandboxes have no sound"
        mend = "start pipewire-pulse or pulseaudio, or set PULSE_SERVER to its socket"
        return [warn(name, printable(text), mend)]
    with trio.move_on_after(_SOUND_SECONDS):
        # libpulse waits inside, as libwayland does.
        return [await in_thread(_ask_sound, path, abandon_on_cancel=True)]
    text = f"{path} accepts connections but did not answer in {_SOUND_SECONDS:g} s"
    return [
        fail(
            name,
            printable(text),
            "systemctl --user restart pipewire-pulse (or pulseaudio, if this is the server)",
        )
    ]


def _ask_sound(path: Path) -> Finding:
    """Check the sound server by libpulse."""
    try:
        # Late: it loads libpulse, which is needed for this alone.
        import pulsectl
    except OSError:
        text = "libpulse is not installed: 'brokerctl audio' cannot show levels"
        return warn("sound", text, install_command("libpulse0"))
    try:
        with pulsectl.Pulse("brokerctl-doctor", server=f"unix:{path}") as pulse:
            told, outputs = pulse.server_info(), len(pulse.sink_list())
    except pulsectl.PulseError as error:
        text = f"the sound server at {path} refused a request: {error}"
        mend = "to see its log, run 'journalctl --user -u pipewire-pulse -u pulseaudio'"
        return fail("sound", printable(text), mend)
    text = f"{path}: {told.server_name}, {render.count(outputs, 'output')}"
    if not outputs:
        return warn("sound", printable(text), "to list sound cards, run 'wpctl status'")
    return ok("sound", printable(text))


async def check_policy(context: Context) -> Sequence[Finding]:
    """Read records, rules and settings files as the broker does."""
    folders = search_path(context.paths.runtime, context.paths.config)
    found = load_records(folders)
    rules = load_rules(
        rule_path(context.paths.runtime, context.paths.config), shipped=SHIPPED
    )
    settings = settings_problems(context.paths)
    problems = [*rules.problems, *found.problems, *settings]
    if problems:
        first = problems[0]
        text = f"{printable(str(first.where))}: {printable(first.message)}"
        if len(problems) > 1:
            text += f" (the first of {len(problems)} problems)"
        return [fail("policy", text, "brokerctl policy check")]
    if not found.records:
        text = f"there are no records (searched in {', '.join(map(str, folders))})"
        return [warn("policy", text, "brokerctl new demo --from demo")]
    names = ", ".join(sorted(found.records))
    records = render.count(len(found.records), "record")
    text = f"{records}, {render.count(len(rules.rules), 'rule')}: {printable(names)}"
    return [ok("policy", text)]


async def check_questions(context: Context) -> Sequence[Finding]:
    """Check the libraries of the dialog, and whether notifications can be shown."""
    missing: list[Finding] = []
    try:
        Keys().close()
    except SetupError as error:
        missing.append(fail("questions", error.message, error.hint))
    if shutil.which("notify-send", path=context.environ.get("PATH")) is None:
        text = (
            "notify-send is not installed: warnings appear only in 'brokerctl status' "
            "and the log"
        )
        missing.append(warn("questions", text, install_command("libnotify-bin")))
    if shutil.which("xdg-dbus-proxy", path=context.environ.get("PATH")) is None:
        text = (
            "xdg-dbus-proxy is not installed: sandboxes have no notifications, no "
            "icons and no screen sharing, and no icon shows an open microphone"
        )
        missing.append(warn("questions", text, install_command("xdg-dbus-proxy")))
    bus = _session_bus(context.environ)
    if bus is not None and not accepts(bus):
        text = (
            f"no session bus answers at {printable(str(bus), 200)}: nothing notifies "
            "you, and dialogs alone ask"
        )
        mend = "log in to a desktop, or run the session in 'dbus-run-session'"
        missing.append(warn("questions", text, mend))
    elif bus is not None:
        missing += await _portal(context.environ)
    return missing or [ok("questions", "dialogs and notifications can be shown")]


async def _portal(environ: Mapping[str, str]) -> list[Finding]:
    """Return what is missing of the desktop's portal, by the names that its bus knows."""
    address = environ.get("DBUS_SESSION_BUS_ADDRESS", "")
    names: set[str] | None = None
    why = f"not within {_BUS_SECONDS:g} s"
    # A library's greeting of a bus has no deadline.
    with trio.move_on_after(_BUS_SECONDS):
        try:
            bus = address or f"unix:path={_session_bus(environ)}"
            names = await in_thread(_bus_names, bus, abandon_on_cancel=True)
        except (AuthenticationError, OSError, EOFError) as error:
            why = printable(str(error) or type(error).__name__, 200)
        # What jeepney raises for a message that is none.
        # guard: a bus that answers nonsense ends no other check
        except (ValueError, LookupError, struct.error) as error:
            why = printable(f"{type(error).__name__}: {error}", 200)
    if names is None:
        text = f"the session bus takes connections and does not answer: {why}"
        return [warn("questions", text, "log out and log in again")]
    if any(name.startswith(_BACKENDS) for name in names) and _PORTAL in names:
        return []
    if _PORTAL in names:
        text = (
            "the desktop has no backend for its portal: sandboxes have no file "
            "dialogs, no shared screen and not the desktop's dark or light theme"
        )
        mend = "install your desktop's backend, such as xdg-desktop-portal-gtk"
    else:
        text = (
            f"the desktop has no portal ({_PORTAL}): sandboxes have no file dialogs, "
            "no shared screen and not the desktop's dark or light theme"
        )
        mend = (
            "install xdg-desktop-portal and your desktop's backend, such as "
            "xdg-desktop-portal-gtk"
        )
    return [warn("questions", text, mend)]


def _bus_names(address: str) -> set[str]:
    """Return the names on a bus, and those that it can start."""
    names: set[str] = set()
    with open_dbus_connection(address) as bus:
        for call in (message_bus.ListNames(), message_bus.ListActivatableNames()):
            reply = bus.send_and_get_reply(call, timeout=_BUS_SECONDS)
            if reply.header.message_type is MessageType.method_return:
                names.update(reply.body[0])
    return names


def _session_bus(environ: Mapping[str, str]) -> Path | None:
    """Return the socket of the session's bus; None for an address of another kind."""
    if not (address := environ.get("DBUS_SESSION_BUS_ADDRESS", "")):
        runtime = environ.get("XDG_RUNTIME_DIR", "")
        return Path(runtime, "bus") if runtime else None
    try:
        place = next(iter(get_connectable_addresses(address)))
    except (RuntimeError, ValueError):
        return None
    return None if place.startswith("\0") else Path(place)  # an abstract name


async def check_broker(context: Context) -> Sequence[Finding]:
    """Check whether a broker is running and answers."""
    try:
        find_paths(context.environ)
    except SetupError:
        text = "unknown: without a runtime directory, no broker can be found"
        return [warn("broker", text)]
    path = context.paths.control
    served = path.exists() and has_listener(path)
    if not served and (named := silent_broker(context.paths)):
        text = f"a broker runs, and nothing answers at {path}"
        return [fail("broker", text, named)]
    if not path.exists():
        return [
            ok(
                "broker",
                f"no broker is running; {how_to_start(context.paths)}",
            )
        ]
    try:
        with trio.fail_after(_BROKER_SECONDS):
            async with client.open_client(path) as connection:
                version = await connection.call(GET_VERSION, Nothing())
    except SetupError as error:
        if not isinstance(error.__cause__, FileNotFoundError | ConnectionRefusedError):
            return [warn("broker", error.message, error.hint)]
        text = (
            f"no broker is running; the next start of a broker removes {path}, which a "
            "killed broker left"
        )
        return [ok("broker", text)]
    except (UpstreamError, RefusedError) as error:
        mend = error.hint if isinstance(error, RefusedError) else ""
        return [fail("broker", error.message, mend or silent_broker(context.paths))]
    except trio.TooSlowError:
        text = f"the broker at {path} did not answer within {_BROKER_SECONDS:g} s"
        return [fail("broker", text, silent_broker(context.paths))]
    text = f"version {version.version} ({version.role}) is running, pid {version.pid}"
    return [ok("broker", printable(text))]


async def check_audit(context: Context) -> Sequence[Finding]:
    """Check that the audit log can be read and is intact."""
    path = context.paths.audit
    if not path.exists():
        return [
            ok(
                "audit",
                "there is no log yet; the first start of a broker creates it",
            )
        ]
    with open_log(path) as log:
        state = await in_thread(log.check)
    if state != "ok":
        mend = (
            f"to begin a new log, move audit.sqlite and audit.key in {path.parent} to "
            "another place, then start the broker"
        )
        return [fail("audit", f"{path} is damaged: {state}", mend)]
    keys = KeyFile(path).any()
    with open_sealed(path) as db:
        report = verify_end(db, keys)
        if each := report.good and report.size <= _VERIFIED_EVENTS:
            report = await in_thread(partial(verify, db, keys=keys))
    if not report.good:
        first = report.problems[0]
        what = f"event {first.first}: {first.what}" if first.first else first.what
        mend = (
            "to see details, run 'brokerctl audit verify'; to begin a new log, move "
            f"audit.sqlite and audit.key in {path.parent} to another place"
        )
        return [
            fail(
                "audit",
                f"{path} does not match its signatures: {what}",
                mend,
            )
        ]
    if each:
        text = f"{report.size} events in {path}, each verified"
    else:
        text = (
            f"{report.size} events in {path}, signed to the end; to check each one, "
            "run 'brokerctl audit verify'"
        )
    return [ok("audit", text)]
