"""A CUPS scheduler of an ordinary user, whose printers keep the printed files.

It is cupsd(8) with programs of its own for the last step alone: those of Debian belong
to root.  Source: cupsd.conf(5), cups-files.conf(5), backend(7).
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from broker.helpers.process.spawn import DEVNULL, run_tool, spawn
from tests.kit.eventually import eventually
from tests.kit.listening import takes_connections

_PROGRAMS = Path("/usr/lib/cups")
_CONF = """\
Listen {run}/sock
WebInterface No
Browsing Off
<Location />
  Order allow,deny
  Allow all
</Location>
<Policy default>
  <Limit All>
    Order deny,allow
  </Limit>
</Policy>
"""
_FILES = """\
ServerRoot {top}
ServerBin {top}/bin
StateDir {run}
CacheDir {top}/cache
RequestRoot {top}/spool
TempDir {top}/tmp
AccessLog {top}/access
ErrorLog {top}/error
PageLog {top}/page
Sandboxing Off
"""
# backend(7): job, user, title, copies, options, file.
_BACKEND = """\
#!/bin/sh
[ $# -gt 0 ] || exit 0
printf '%s\\n' "$PRINTER" "$3" "$4" "$5" > "{out}/.$1"
cat ${{6:+"$6"}} > "{out}/$1.pdf" && mv "{out}/.$1" "{out}/$1.words"
"""


@dataclass(frozen=True)
class Job:
    """The printed files."""

    printer: str
    title: str
    copies: str
    options: str
    content: bytes


class Printers:
    """The scheduler's printers."""

    def __init__(self, out: Path, env: dict[str, str]) -> None:
        self._out = out
        self.env = env
        """For lp(1) and its siblings."""

    def jobs(self) -> list[Job]:
        """The files printed so far."""
        found = sorted(self._out.glob("*.words"), key=lambda one: int(one.stem))
        return [
            Job(*one.read_text().split("\n")[:4], one.with_suffix(".pdf").read_bytes())
            for one in found
        ]


@asynccontextmanager
async def printers(top: Path, *names: str):
    """Serve printers of these names; the first is the usual one."""
    run, out = top / "run", top / "out"
    for folder in (run, out, top / "bin/backend", top / "cache", top / "tmp"):
        folder.mkdir(parents=True)
    for folder in _PROGRAMS.iterdir():
        if folder.name != "backend":
            (top / "bin" / folder.name).symlink_to(folder)
    backend = top / "bin/backend/keep"
    backend.write_text(_BACKEND.format(out=out))
    backend.chmod(0o755)
    for name, text in (("cupsd.conf", _CONF), ("cups-files.conf", _FILES)):
        (top / name).write_text(text.format(top=top, run=run))
    files = ["-c", str(top / "cupsd.conf"), "-s", str(top / "cups-files.conf")]
    child = spawn(["/usr/sbin/cupsd", "-f", *files], stdout=DEVNULL, stderr=DEVNULL)
    env = {"CUPS_SERVER": str(run / "sock")}
    try:
        await eventually(lambda: takes_connections(run / "sock"))
        full = {**os.environ, **env}
        for name in names:
            words = ["-p", name, "-E", "-v", f"keep:/{name}", "-m", "raw"]
            await run_tool(["/usr/sbin/lpadmin", *words], env=full)
        if names:
            await run_tool(["/usr/sbin/lpadmin", "-d", names[0]], env=full)
        yield Printers(out, env)
    finally:
        with trio.CancelScope(shield=True):
            await child.stop()
