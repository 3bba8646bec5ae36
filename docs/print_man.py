"""Print the manual pages from the pages of this directory.

``python docs/print_man.py DIRECTORY`` writes ``man1/brokerctl.1`` and the others,
roff made by lowdown(1).  A page is named in ``PAGES`` with the headings that it
consists of, so that the text has one source; a heading that is gone is an error.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parent
_INSTALLED = "/usr/share/doc/vitrail"
_HEADING = re.compile(r"^(#{1,5}) (.+)$")
_LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")
_REFERENCE = "brokerctl.1.md"


@dataclass(frozen=True)
class Page:
    """A manual page: headings of one or more files of this directory, in order.

    ``parts`` are pairs of a file and the beginnings of its headings; no heading
    means the whole file, but its title.
    """

    name: str
    section: int
    title: str
    parts: tuple[tuple[str, tuple[str, ...]], ...]
    verbs: tuple[str, ...] = ()
    """Verbs that have this page as ``brokerctl-VERB``."""
    others: tuple[str, ...] = ()
    """Other names of the page."""


def _verbs(name: str, title: str, *headings: str) -> Page:
    """The page of a group of verbs: their sections of the reference."""
    verbs = tuple(dict.fromkeys(heading.split()[0] for heading in headings))
    parts = ((_REFERENCE, (*headings, "Exit codes")),)
    return Page(f"brokerctl-{name}", 1, title, parts, verbs)


PAGES = (
    Page("brokerctl", 1, "", ((_REFERENCE, ()),)),
    Page(
        "vitrail-local",
        1,
        "",
        (("vitrail-local.1.md", ()),),
        others=("vitrail-host", "vitrail-viewer", "vitrail-devices"),
    ),
    _verbs(
        *("run", "make sandboxes, run programs in them, end them"),
        *(
            "new",
            "get",
            "set",
            "list",
            "run",
            "shell",
            "exec",
            "call",
            "services",
            "stop",
            "suspend",
            "resume",
            "restart",
            "demo",
            "open",
            "cp",
            "sanitize",
            "share",
            "unshare",
            "sandbox",
            "df",
            "prune",
        ),
    ),
    _verbs(
        *("status", "what runs, its windows, output and sound"),
        *(
            "status",
            "top",
            "tray",
            "manager",
            "windows",
            "network",
            "forward",
            "ssh-config",
            "kill-window",
            "logs",
            "x11",
            "audio",
        ),
        "notifications",
    ),
    _verbs(
        *("answer", "questions that wait, and permissions granted for a time"),
        *("pending", "answer", "allow", "grants", "lockdown", "prompt"),
    ),
    _verbs("clipboard", "the clipboard between sandboxes", "clipboard"),
    _verbs("device", "USB devices for sandboxes", "device"),
    _verbs("policy", "check, explain and test records and rules", "policy"),
    _verbs(
        *("audit", "the log of decisions: ask, verify, ship, clean up", "audit"),
        *(
            "audit connections",
            "audit trace",
            "audit stats",
            "audit report",
            "audit export",
        ),
        *("audit ship", "audit verify", "audit prove", "audit checkpoint", "audit gc"),
    ),
    _verbs(
        *("setup", "images, diagnosis, labels for bars, completion"),
        *("doctor", "image", "labels", "menu", "man", "uninstall", "completion"),
    ),
    _verbs(
        *("launcher", "set up Podman, libvirt, boxes and guests of other origin"),
        *("launcher install", "launcher prepare", "adopt", "launcher exec"),
        "guest install",
    ),
    _verbs(
        *("lease", "leases for machines that others start"),
        *("machine arguments", "lease acquire", "lease list"),
    ),
    _verbs("link", "host and viewer on two machines", "pair", "link"),
    _verbs(
        *("proxy", "a relay without sandboxes"),
        *("proxy relay",),
    ),
    Page(
        "vitrail-manager",
        1,
        "manage sandboxes in a window",
        (("manager.md", ("Pages",)),),
    ),
    Page(
        "vitrail-ingest",
        1,
        "accept the signed audit events of a fleet's machines over HTTPS",
        (("audit.md", ("A fleet's database",)),),
    ),
    Page(
        "vitrail-sandbox",
        5,
        "the record of a sandbox, sandboxes.d/NAME.toml",
        (("policy.md", ("Records", "How records are written", "Reference")),),
    ),
    Page(
        "vitrail-policy",
        5,
        "rules, policy.d/NAME.policy: which sandbox may ask which service of which",
        (
            ("policy.md", ("Rules", "Decisions", "While the broker runs")),
            ("policy-qubes.md", ("Different names",)),
        ),
    ),
    Page(
        "vitrail-link",
        5,
        "link.toml: where host and viewer meet",
        (("two-machines.md", ("1. Configure the link", "2. Pair")),),
    ),
    Page(
        "vitrail-audit",
        5,
        "audit.toml, ship.toml and the events of the audit log",
        (("audit.md", ("Keeping it", "Shipping", "Events")),),
    ),
    Page(
        "vitrail-devices",
        5,
        "devices.toml: which USB devices may leave a machine",
        (("devices.md", ("Setup", "Rules")),),
    ),
)


def sections(text: str) -> list[tuple[int, str, list[str]]]:
    """Level, heading and lines of each section; '#' inside a code block is text."""
    found: list[tuple[int, str, list[str]]] = []
    fenced = False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        heading = None if fenced else _HEADING.match(line)
        if heading:
            found.append((len(heading[1]), heading[2], []))
        elif found:
            found[-1][2].append(line)
    return found


def chosen(file: str, headings: tuple[str, ...]) -> list[tuple[int, str, list[str]]]:
    """Those sections of ``file``, each with its subsections; level 1 is the highest.

    Raises LookupError for a heading that the file does not have.
    """
    everything = sections((DOCS / file).read_text())
    if not headings:
        return [(level - 1, name, body) for level, name, body in everything[1:]]
    result: list[tuple[int, str, list[str]]] = []
    for heading in headings:
        at = [
            i
            for i, (_, name, _) in enumerate(everything)
            if re.match(re.escape(heading) + r"(?!\w)", name)
        ]
        if not at:
            raise LookupError(f"docs/{file} has no heading '{heading}'")
        top = everything[at[0]][0]
        for level, name, body in everything[at[0] :]:
            if result and level <= top and name != everything[at[0]][1]:
                break
            result.append((level - top + 1, name, body))
    return result


def _target(match: re.Match[str]) -> str:
    """A link without its address, where that is a page of this directory."""
    text, address = match.groups()
    if "://" in address:
        return f"{text} ({address})"
    page = address.partition("#")[0]
    known = {"brokerctl.1.md": "brokerctl(1)", "vitrail-local.1.md": "vitrail-local(1)"}
    if not page or page in known or page.endswith(".py"):
        return known.get(page, text)
    return f"{text} ({_INSTALLED}/{page.removeprefix('../')})"


def markdown(page: Page, version: str) -> str:
    """The page's text with lowdown's metadata at its head."""
    out = [
        f"title: {page.name}",
        f"section: {page.section}",
        f"source: vitrail {version}",
    ]
    out += ["volume: Vitrail", ""]
    if page.title:
        out += ["# Name", "", f"{page.name} - {page.title}", ""]
    for file, headings in page.parts:
        for level, name, body in chosen(file, headings):
            if level == 1 and page.verbs and name != "Exit codes":
                name = f"brokerctl {name}"  # noqa: PLW2901
            out += ["", f"{'#' * level} {name}", *body]
    if page.name != "brokerctl":
        out += ["", "# See also", "", f"brokerctl(1), {_INSTALLED}/index.md"]
    return _LINK.sub(_target, "\n".join(out)) + "\n"


def roff(text: str) -> str:
    """The manual page, by lowdown.  Raises CalledProcessError when that fails."""
    words = ["lowdown", "-s", "-Tman", "--nroff-nolinks"]
    page = subprocess.run(
        words, input=text, text=True, capture_output=True, check=True
    ).stdout
    # man(7): the first line names the preprocessor that the tables need.
    return f"'\\\" t\n{page}" if "\n.TS" in page else page


def write(directory: Path, version: str) -> list[Path]:
    """Write all pages below ``directory``; their paths."""
    paths = []
    for page in PAGES:
        place = directory / f"man{page.section}"
        place.mkdir(parents=True, exist_ok=True)
        own = place / f"{page.name}.{page.section}"
        own.write_text(roff(markdown(page, version)))
        paths.append(own)
        for name in (*page.others, *(f"brokerctl-{verb}" for verb in page.verbs)):
            alias = place / f"{name}.{page.section}"
            if alias != own:
                alias.write_text(f".so man1/{own.name}\n")
                paths.append(alias)
    return paths


def main(argv: list[str]) -> int:
    """Entry point: the directory to write to."""
    if len(argv) != 2:
        print(f"usage: {argv[0]} DIRECTORY", file=sys.stderr)
        return 2
    project = (DOCS.parent / "pyproject.toml").read_text()
    version = re.search(r'^version = "(.+)"$', project, re.MULTILINE)
    assert version is not None
    for path in write(Path(argv[1]), version[1]):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
