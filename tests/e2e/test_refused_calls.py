"""Filters of system calls match the code that runs under them.

A filter that is tightened after the code denies a call that the code needs, and the
feature ends without a word.  So each feature acts once in a real broker with real
confined processes, under strace, and no system call may be denied that is not listed.
"""

from __future__ import annotations

import re
from collections import Counter

from tests.e2e.test_sound_panel import AUDIO
from tests.kit.brokerctl import running
from tests.kit.eventually import eventually
from tests.kit.needs import PID_NAMESPACES, requires
from tests.kit.notified import notification_server
from tests.kit.records import shown_record
from tests.kit.refused_calls import TRACE
from tests.kit.sound.servers import microphone, sound_server
from tests.kit.wayland.compositor import wait_window
from tests.kit.world import world

pytestmark = [
    PID_NAMESPACES,
    requires(
        "strace", "mako", "dbus-daemon", "pactl", "parec", "paplay", "notify-send"
    ),
]
EXPECTED = (
    # A process's memory; the kernel shows it of traceable ones, the status has "-".
    ("vitrail-session", r"openat\(.*/proc/\d+/smaps_rollup"),
    # The parent of a namespace that is above our own: it ends the list.
    ("vitrail-host", r"ioctl\(\d+, NS_GET_PARENT"),
    # Python's socket module asks while it takes a descriptor over, and works without.
    ("vitrail-accept", r"getpeername\("),
    # Changes of settings files: the viewer looks every few seconds instead.
    ("python", r"inotify_init1\("),
    # SQLite opens /dev/urandom, and takes time and process id for the salt of its log.
    (
        "_open from __ma|vitrail-author",
        r"openat\(AT_FDCWD, 0x\w+, O_RDONLY\|O_CLOEXEC\)",
    ),
    # It drops capabilities and groups that it does not have.
    (r"passt.*", r"prctl\(PR_CAPBSET_DROP|setgroups\("),
)
"""Denied calls that are expected: the process's name, and the call."""
RULES = """\
vitrail.AudioInput * talk @adminvm ask
vitrail.Notification * talk @adminvm allow
vitrail.ClipboardPaste * talk @adminvm allow
"""
TALK = shown_record('kind = "bwrap"', 'network = "rules"', colour="green", tables=AUDIO)
PROGRAM = """\
notify-send hello
paplay --raw /dev/zero &
parec > /dev/null &
exec foot -T here sleep 1000
"""
VERBS = (
    *("status", "list", "windows", "network talk", "notifications", "grants", "audit"),
    *("clipboard clear", "policy check", "share"),
    *("audio list", "audio volume talk 30", "audio mute talk"),
    *("audio microphone talk deny", "lockdown --networks", "lockdown --lift"),
)


def denied(trace: str) -> Counter[str]:
    """The denied calls of our processes that are not expected, counted."""
    calls: Counter[str] = Counter()
    for line in trace.splitlines():
        match = re.match(r"\d+<([^>]*)> (.*(?: E(?:PERM|ACCES) | SIGSYS ).*)", line)
        if match is None:
            continue
        name, call = match.groups()
        if not any(
            re.fullmatch(process, name) and re.match(pattern, call)
            for process, pattern in EXPECTED
        ):
            calls[f"{name}: {call}"] += 1
    return calls


def test_denied_calls_are_found_in_a_trace():
    """As strace prints them; an expected one of another process is a fault."""
    getsockopt = "getsockopt(35, SOL_SOCKET, SO_PEERPIDFD, 0x7ffd, [4])"
    lines = (
        f"12<python> {getsockopt} = -1 EPERM (Operation not permitted)",
        "13<vitrail-accept> getpeername(9, 0x7f, [110]) = -1 EPERM (Operation not permitted)",
        "14<vitrail-host> getpeername(9, 0x7f, [110]) = -1 EPERM (Operation not permitted)",
        "15<python> read(3, 0x7f, 5) = -1 EAGAIN (Resource temporarily unavailable)",
        "16<vitrail-pump> +++ killed by SIGSYS +++",
    )
    assert [call.partition("(")[0] for call in denied("\n".join(lines))] == [
        "python: getsockopt",
        "vitrail-host: getpeername",
        "vitrail-pump: +++ killed by SIGSYS +++",
    ]


async def test_no_feature_of_a_box_meets_its_filter():
    context = world(
        {"talk": TALK}, start=False, image=False, program="tests.kit.refused_calls"
    )
    async with sound_server("pipewire") as server, context as w:
        trace = w.base / "trace"
        w.environ[TRACE] = str(trace)
        # Landlock denies a confined process the directory of compiled modules.
        w.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        w.environ["PULSE_SERVER"] = f"unix:{server.socket}"
        await microphone(server)
        w.write_rules(RULES)
        async with notification_server(w.comp, w.environ) as screen:
            w.environ.update(screen.env)
            await w.start()
            box = ("run", "-q", "talk", "--", "sh", "-c", PROGRAM)
            async with running(*box, env=w.environ):
                await wait_window(w.comp, title="here")

                async def has_question():
                    return "microphone" in await w.said("pending")

                await eventually(has_question)
                await w.said("answer", "1", "allow")
                await w.wait_event("microphone.on")
                for verb in VERBS:
                    await w.said(*verb.split())
                await w.said("kill-window", "talk", "1")
            await w.wait_event("lease.end", sandbox="talk")
        await w.shutdown()
        calls = denied(trace.read_text())
        assert not calls, "\n".join(calls)
