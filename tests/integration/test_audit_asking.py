"""``brokerctl audit`` as people and scripts call it."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import sqlite3
import struct
import sys
import termios
import unicodedata
from contextlib import aclosing
from fcntl import ioctl
from pathlib import Path

import pytest
import trio

from broker.authority.audit.store import open_store
from broker.helpers.process.spawn import spawn
from broker.ipc.audit.schema import (
    BrokerStart,
    Decision,
    EventVerdict,
    LeaseBegin,
    StreamRefused,
)
from broker.ipc.audit.tree import leaf_hash
from tests.kit.audit.shipping import bodies
from tests.kit.brokerctl import (
    Answer,
    brokerctl,
    called,
    harmless,
    lines_of,
    paths_of,
    running,
)

# What terminals obey, in every form that text can bring it in.
EVIL = (
    "\x1b[31m \x1b]0;title\x07 \x9b2J \x90q\x9c \r\n \x08 \x7f \x00 \u202e \u200b "
    "\u2028 \U000e0001 \x1b[?1049h `id` \\x41 "
)


async def _fill(env: dict[str, str], count: int = 30) -> None:
    async with open_store(paths_of(env).audit) as store:
        await store.record(BrokerStart(software="0.1.0", pid=1))
        for number in range(count):
            await store.record(
                Decision(
                    sandbox=("web", "mail")[number % 2],
                    lease=f"l{number % 3}",
                    service=("vitrail.Display", "vitrail.Audio")[number % 4 > 1],
                    peer=f"cid {number}",
                    verdict=EventVerdict.DENY
                    if number % 5 == 0
                    else EventVerdict.ALLOW,
                    rule=f"/etc/vitrail/policy.d/30-user.policy:{number % 4}:1",
                    reason=f"number {number}",
                    outcome="ok" if number % 2 else "",
                )
            )


async def ask(env: dict[str, str], *words: str) -> Answer:
    return called("audit", *words, env=env)


async def sequences(
    env: dict[str, str], *words: str, changed: bool = False
) -> list[int]:
    """The numbers shown; ``changed``: of a log that the test has written into."""
    answer = await ask(env, "--json", *words)
    assert answer.code in ({3} if changed else {0, 1}), answer.err
    return [event["sequence"] for event in answer.objects]


async def test_which_and_in_which_order(env: dict[str, str]) -> None:
    await _fill(env, 30)
    everything = [*range(1, 32)]
    for words, expected in [
        ((), everything),
        (("-r",), everything[::-1]),
        (("-n", "3"), [29, 30, 31]),
        (("-n3", "-r"), [31, 30, 29]),
        (("-n",), everything[-10:]),
        (("-n", "all"), everything),
        (("-n", "+3"), [1, 2, 3]),
        (("-n", "+3", "-r"), [3, 2, 1]),
        (("-n", "0"), []),
        (("--sandbox", "web", "--sandbox", "mail", "-n", "2"), [30, 31]),
        (("--sandbox", "w*", "--verdict", "deny"), [2, 12, 22]),
        (("--service", "Audio", "--lease", "l0", "--lease", "l1", "-n", "+2"), [5, 8]),
        (("--rule", "30-user.policy:3", "--outcome", "ok", "-n", "1"), [29]),
        (("--rule", "/etc/vitrail/policy.d/30-user.policy:3:1", "-n", "1"), [29]),
        (("--peer", "cid 7", "--peer", "cid 9"), [9, 11]),
        (("-g", "NUMBER 2[0-3]"), []),
        (("-g", "number 2[0-3]"), [22, 23, 24, 25]),
        (("-g", "number 2[0-3]", "-n", "1"), [25]),
        (("-g", "number 2[0-3]", "-r", "-n", "2"), [25, 24]),
        (("-g", "broker\\.start"), [1]),
        (("-S", "-1h", "-U", "now", "-n", "1"), [31]),
        (("-S", "+1h",), []),
        (("-U", "yesterday"), []),
        (("-b",), everything),
        (("-b", "0", "-n", "1"), [31]),
        (("-b", "-1"), []),
        (("-b", "1", "-n", "1"), [31]),
        (("-b", "all", "-n", "1"), [31]),
        (("-b", "-n", "1"), [31]),
        (("-b", Path("/proc/sys/kernel/random/boot_id").read_text().strip(), "-n1"), [31]),
        (("-b", "0" * 32), []),
    ]:  # fmt: skip
        assert await sequences(env, *words) == expected, words


async def test_earlier_boots_by_their_number(env: dict[str, str]) -> None:
    await _fill(env, 4)
    path = paths_of(env).audit
    with sqlite3.connect(path) as db:
        db.execute("UPDATE event SET body = json_set(body, '$.boot', ?)", ["a" * 32])
    db.close()
    async with open_store(path) as store:
        await store.record(BrokerStart(software="0.1.0", pid=2))
    assert await sequences(env, "-b", "-1", changed=True) == [1, 2, 3, 4, 5]
    assert await sequences(env, "-b", changed=True) == [6]
    assert await sequences(env, "--boot=-1", "-n", "1", changed=True) == [5]
    assert await sequences(env, "-b", "1", "-n", "1", changed=True) == [5]
    assert await sequences(env, "-b", "2", changed=True) == [6]
    assert await sequences(env, "-b", "3", changed=True) == []
    # A copy of the log has no running boot.
    other = path.with_name("copy.sqlite")
    with sqlite3.connect(path) as db:
        db.execute("VACUUM INTO ?", [str(other)])
    db.close()
    with sqlite3.connect(other) as db:
        db.execute("DELETE FROM event WHERE sequence = 6")
    db.close()
    assert await sequences(env, "-b", "--store", str(other)) == [1, 2, 3, 4, 5]
    assert await sequences(env, "-b", "--store", f"sqlite:{other}", "-n1") == [5]


@pytest.mark.parametrize(
    "words",
    [
        ["--nonsense"],
        ["--verdict", "maybe"],
        ["--kind", "steam"],
        ["-S", "soon"],
        ["-U", "later than never"],
        ["-g", "("],
        ["-n", "-5"],
        ["-n", "1e3"],
        ["-o", "xml"],
        ["--json", "-o", "csv"],
        ["-f", "-r"],
        ["-f", "-o", "json"],
        ["-f", "-o", "csv"],
        ["-f", "--show-cursor"],
        ["--after-cursor", "x"],
        ["--after-cursor", "i=1;h=" + "0" * 32, "--cursor-file", "/tmp/none"],
        ["--machine", "desk"],
        ["--store", "postgresql:///x", "-b", "-1"],
        ["-n", "3", "stats"],
        ["stats", "-g", "x"],
        ["moon"],
        ["export"],
    ],
)
async def test_wrong_calls(env: dict[str, str], words: list[str]) -> None:
    await _fill(env, 2)
    answer = await ask(env, *words)
    assert answer.code == 2, (answer.code, answer.out, answer.err)
    assert answer.out == ""
    assert answer.err


async def test_formats(env: dict[str, str]) -> None:
    await _fill(env, 5)
    array = await ask(env, "-o", "json")
    lines = await ask(env, "-o", "jsonl")
    assert json.loads(array.out) == lines.objects
    assert json.loads((await ask(env, "-o", "json", "--sandbox", "x")).out) == []
    rows = [*csv.DictReader(io.StringIO((await ask(env, "-o", "csv")).out))]
    assert [int(row["sequence"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[1]["rule"].endswith("30-user.policy:0:1")
    assert rows[1]["time"] == lines.objects[1]["time"]
    short = (await ask(env, "--utc", "-n1")).lines[0]
    cat = (await ask(env, "-o", "cat", "-n1")).lines[0]
    assert short.endswith(cat)
    assert re.match(r"\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}  ", short)


async def test_times_in_utc_or_here(env: dict[str, str]) -> None:
    await _fill(env, 1)
    there = await brokerctl("audit", "-n1", env=env | {"TZ": "Asia/Kolkata"})
    utc = await brokerctl("audit", "-n1", "--utc", env=env | {"TZ": "Asia/Kolkata"})

    def minutes(answer: Answer) -> int:
        hour, minute = answer.out[6:11].split(":")
        return int(hour) * 60 + int(minute)

    assert (minutes(there) - minutes(utc)) % 1440 == 330


async def test_cursors(env: dict[str, str]) -> None:
    await _fill(env, 5)
    shown = await ask(env, "-n", "+2", "--show-cursor")
    cursor = shown.lines[-1].removeprefix("-- cursor: ")
    assert await sequences(env, "--after-cursor", cursor) == [3, 4, 5, 6]
    asked = await ask(env, "--json", "-n", "+2", "--show-cursor")
    assert cursor in asked.err
    assert len(asked.objects) == 2
    file = f"{env['HOME']}/seen"
    assert await sequences(env, "--cursor-file", file) == [1, 2, 3, 4, 5, 6]
    assert await sequences(env, "--cursor-file", file) == []
    async with open_store(paths_of(env).audit) as store:
        await store.record(LeaseBegin(sandbox="web"))
    assert await sequences(env, "--cursor-file", file) == [7]
    assert (await ask(env, "--cursor-file", f"{env['HOME']}/no/such")).code == 1


@pytest.mark.parametrize("gone", ["a full disk", "a reader that has left"])
async def test_a_cursor_is_not_kept_for_events_that_were_not_written(
    env: dict[str, str], gone: str
) -> None:
    """A script that collects events would never see them."""
    await _fill(env, 5)
    file = Path(env["HOME"], "seen")
    read, out = os.pipe()
    os.close(read)
    if gone == "a full disk":
        out = os.dup2(os.open("/dev/full", os.O_WRONLY), out)
    words = ["audit", "--json", "--cursor-file", str(file)]
    child = spawn([sys.executable, "-m", "broker.cli.app", *words], env=env, stdout=out)
    os.close(out)
    assert await child.wait() != 0
    assert not file.exists()


async def test_a_log_that_was_changed_behind_a_cursor_is_exit_code_3(
    env: dict[str, str],
) -> None:
    await _fill(env, 5)
    cursor = (await ask(env, "--show-cursor")).lines[-1].removeprefix("-- cursor: ")
    path = paths_of(env).audit
    with sqlite3.connect(path) as db:
        db.execute("UPDATE event SET body = replace(body, 'number 4', 'number 5')")
    db.close()
    changed = await ask(env, "--after-cursor", cursor)
    assert (changed.code, changed.out) == (3, "")
    assert "verify" in changed.err
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM event WHERE sequence > 3")
    db.close()
    cut = await ask(env, "--after-cursor", cursor)
    assert cut.code == 3
    assert "ends at event 3" in cut.err


async def test_a_body_that_no_broker_wrote_and_a_damaged_file(
    env: dict[str, str],
) -> None:
    await _fill(env, 400)
    path = paths_of(env).audit
    with sqlite3.connect(path) as db:
        db.execute("UPDATE event SET body = 'x' WHERE sequence = 3")
    db.close()
    assert (await ask(env)).code == 3
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(os.urandom(60000))
    damaged = await ask(env)
    assert damaged.code == 3, damaged.err
    assert "Traceback" not in damaged.err


async def _evil(env: dict[str, str]) -> None:
    async with open_store(paths_of(env).audit) as store:
        await store.record(StreamRefused(peer=EVIL, reason=EVIL, service=EVIL, count=3))
        for field in ("sandbox", "lease", "peer", "service", "outcome", "reason"):
            await store.record(
                Decision(
                    verdict=EventVerdict.DENY, rule=EVIL, target=EVIL, **{field: EVIL}
                )
            )


@pytest.mark.parametrize("output", ["short", "json", "jsonl", "csv", "cat"])
async def test_nothing_that_comes_out_can_drive_a_terminal(
    env: dict[str, str], output: str
) -> None:
    await _evil(env)
    answer = await ask(env, "-o", output)
    assert answer.code == 0
    assert harmless(answer.out.replace("\n", "")), repr(answer.out)
    assert len(answer.lines) == 7 + (output == "csv")
    stats = await ask(env, "stats")
    assert harmless(stats.out.replace("\n", ""))
    report = await ask(env, "report", "--to", "-")
    assert harmless(report.out.replace("\n", ""))


async def _on_a_terminal(env: dict[str, str], *words: str) -> str:
    """What a terminal of 24 lines is sent."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))
    code = "from broker.cli.app import main; main()"
    argv = ["setsid", "--ctty", sys.executable, "-c", code, "audit", *words]
    said = bytearray()
    with os.fdopen(theirs, "rb", buffering=0) as end:
        child = spawn(
            argv,
            env={**env, "TERM": "xterm-256color", "COLUMNS": "200"},
            stdin=end.fileno(),
            stdout=end.fileno(),
            stderr=end.fileno(),
        )
    async with trio.lowlevel.FdStream(ours) as stream:
        with trio.move_on_after(30):
            try:
                async for data in stream:
                    said += data
                    if said.rstrip().endswith((b":", b"\x1b[K")):
                        await stream.send_all(b"q")  # the pager waits
            except trio.BrokenResourceError:
                pass  # Linux says EIO when the last one has closed the other end
        child.kill()
        await child.wait()
    return said.decode()


# What we and the pager may send: colours; erase the line; keypad modes; at the
# end of a long line a blank and a step back.
_OURS = re.compile(r" \x08|\x1b\[[0-9;]*m|\x1b\[K|\x1b\[[?]1[hl]|\x1b[=>]|\r")


async def test_on_a_terminal_it_is_paged_and_coloured_and_nothing_else(
    env: dict[str, str],
) -> None:
    await _evil(env)
    whole = await _on_a_terminal(env)
    assert "\x1b[31m" in whole or "\x1b[2m" in whole  # colours of ours
    rest = _OURS.sub("", whole)
    hidden = {c for c in rest if unicodedata.category(c)[0] == "C"} - {"\n"}
    assert not hidden, (hidden, rest)
    assert "\\x1b]0;title\\x07" in whole
    plain = await _on_a_terminal({**env, "NO_COLOR": "1"}, "--no-pager")
    assert "\x1b" not in plain
    await _fill(env, 300)
    paged = await _on_a_terminal(env)
    # Only the first screen came, as with a pager.
    assert paged.count("number") < 60
    all_of_it = await _on_a_terminal(env, "--no-pager")
    assert all_of_it.count("number") == 300


async def test_piped_it_is_neither_paged_nor_coloured(env: dict[str, str]) -> None:
    await _fill(env, 300)
    answer = await brokerctl(
        "audit", env=env | {"PAGER": "false", "TERM": "xterm-256color"}
    )
    assert len(answer.lines) == 301
    assert "\x1b" not in answer.out


async def test_following_with_filters_and_a_search(env: dict[str, str]) -> None:
    await _fill(env, 3)
    words = ("audit", "-f", "--json", "--sandbox", "web", "-g", "needle")
    async with (
        open_store(paths_of(env).audit) as store,
        running(*words, "-n", "all", env=env) as child,
    ):
        with trio.fail_after(60):
            async with aclosing(lines_of(child)) as lines:
                await store.record(LeaseBegin(sandbox="web", reason="a needle"))
                assert json.loads(await anext(lines))["sequence"] == 5
                await store.record(LeaseBegin(sandbox="web", reason="hay"))
                await store.record(LeaseBegin(sandbox="mail", reason="needle"))
                await store.record(LeaseBegin(sandbox="web", reason="needles"))
                assert json.loads(await anext(lines))["sequence"] == 8


async def test_stats(env: dict[str, str]) -> None:
    await _fill(env, 20)
    (counts,) = (await ask(env, "stats", "--json")).objects
    assert counts["events"] == 21
    assert counts["verdict"] == {"allow": 16, "deny": 4}
    assert counts["sandbox"] == {"mail": 10, "web": 10}
    (few,) = (
        await ask(env, "stats", "--json", "--sandbox", "web", "--top", "1")
    ).objects
    assert few["events"] == 10
    assert few["denied"] == {"web": 2}
    assert len(few["rule"]) == 1
    shown = await ask(env, "stats")
    assert "21 events" in shown.lines[0]
    assert (await ask(env, "stats", "--sandbox", "none")).code == 1


async def test_export(env: dict[str, str], tmp_path: Path) -> None:
    await _fill(env, 20)
    file = tmp_path / "out"
    done = await ask(env, "export", str(file), "--sandbox", "web")
    assert done.code == 0, done.err
    assert file.stat().st_mode & 0o777 == 0o600
    lines = file.read_text().splitlines()
    whole = bodies(paths_of(env).state)
    assert lines == [body for body in whole if '"sandbox":"web"' in body]
    # A line is what the tree's leaf is over.
    with sqlite3.connect(paths_of(env).audit) as db:
        (leaf,) = db.execute("SELECT leaf FROM event WHERE sequence = 2").fetchone()
    db.close()
    assert leaf_hash(lines[0].encode()) == leaf
    again = await ask(env, "export", str(file))
    assert again.code == 2
    assert "--force" in again.err
    assert (await ask(env, "export", str(file), "--force", "-o", "csv")).code == 0
    assert len([*csv.reader(file.read_text().splitlines())]) == 22
    out = await ask(env, "export", "-")
    assert out.lines == whole
    assert (await ask(env, "export", str(tmp_path / "no/such"))).code == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


async def test_report(env: dict[str, str], tmp_path: Path) -> None:
    await _fill(env, 20)
    file = tmp_path / "r.html"
    done = await ask(env, "report", "--to", str(file), "--title", "Week 47 <b>")
    assert done.code == 0, done.err
    text = file.read_text()
    assert "Week 47 &lt;b&gt;" in text
    assert "number 5" in text
    assert (await ask(env, "report", "--to", str(file))).code == 2
    only = await ask(env, "report", "--to", "-", "--sandbox", "mail", "-g", "number 1")
    assert "only sandbox mail" in only.out
    assert "<b>web</b>" not in only.out
