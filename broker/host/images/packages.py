"""The machine's own package archive: where it is and how it is reached.

No address of an archive is in our source.  What the machine uses is what
apt says: its mirror, its security archive, its proxies and its checks.

brokerctl asks apt by this when it builds an image, the host's launch tools for a
program that they fetch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from broker.core.distribution import parse_os_release
from broker.core.errors import SetupError
from broker.helpers.process.spawn import run_tool

ROLLING = frozenset({"sid", "unstable", "experimental"})
"""Suites without security and update suites."""

_FIELDS = "$(CREATED_BY)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)"
# The settings of apt that affect how an archive is reached.
_OPTIONS = re.compile(
    r"Acquire::(?:https?::(?:Proxy|Proxy-Auto-Detect)(?:::\S*)?"
    r"|Check-Valid-Until|Check-Date|Retries)"
)
_SETTING = re.compile(r'(\S+) "(.*)";')


@dataclass(frozen=True)
class Archive:
    """The machine's Debian archive.

    ``options`` are settings of apt (``Acquire::…``) that every use must keep.
    """

    mirror: str
    security: str
    components: tuple[str, ...]
    options: Mapping[str, str] = field(default_factory=dict)

    def lines(self, suite: str) -> list[str]:
        """Return one-line sources (sources.list(5)) for a suite and its updates."""
        end = " ".join(self.components)
        lines = [f"deb {self.mirror} {suite} {end}"]
        if suite not in ROLLING:
            lines.append(f"deb {self.mirror} {suite}-updates {end}")
            if self.security:
                lines.append(f"deb {self.security} {suite}-security {end}")
        return lines


def read_archive(targets: str, config: str, codename: str) -> Archive:
    """Parse what apt-get and apt-config print into the machine's package archive.

    ``targets`` are lines of ``_FIELDS``; the mirror is the one for the
    machine's own release.  Raises SetupError when none has.
    """
    mirror, security = "", ""
    components: dict[str, None] = {}
    for line in targets.splitlines():
        kind, uri, suite, component = (*line.split("|"), "", "", "", "")[:4]
        if kind != "Packages":
            continue
        if suite in (codename, "stable", "oldstable", "testing", "sid", "unstable"):
            mirror = mirror or uri.rstrip("/")
            if uri.rstrip("/") == mirror:
                components[component] = None
        elif suite.endswith("-security"):
            security = security or uri.rstrip("/")
    if not mirror:
        raise SetupError(
            f"apt has no source for the release of this machine ({codename or 'unknown'})",
            hint="run 'brokerctl image build --mirror URL' with the URL of a Debian archive",
        )
    return Archive(mirror, security, tuple(components) or ("main",), _options(config))


def _options(config: str) -> dict[str, str]:
    """Return the options of apt's configuration that are copied."""
    found = {}
    for line in config.splitlines():
        setting = _SETTING.fullmatch(line)
        if setting and _OPTIONS.fullmatch(setting[1]) and setting[2]:
            found[setting[1]] = setting[2]
    return found


async def find_archive(mirror: str = "", prefix: Sequence[str] = ()) -> Archive:
    """Ask apt for this machine's archive; ``mirror`` overrides where it is.

    ``prefix`` is the begin of a command line that runs the rest in a container.
    Raises SetupError when apt is missing or knows no Debian archive.  Runs
    apt-config(8) and apt-get(8), which only read here.
    """
    config = (await run_tool([*prefix, "apt-config", "dump"])).decode(errors="replace")
    if mirror:
        return Archive(mirror.rstrip("/"), "", ("main",), _options(config))
    query = [*prefix, "apt-get", "indextargets", "--format", _FIELDS]
    targets = await run_tool(query)
    release = await run_tool([*prefix, "cat", "/etc/os-release"])
    variables = parse_os_release(release.decode(errors="replace"))
    codename = variables.get("VERSION_CODENAME", "")
    return read_archive(targets.decode(errors="replace"), config, codename)
