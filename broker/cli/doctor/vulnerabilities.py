"""Vulnerabilities of the installed programs that Vitrail relies on.

``broker/data/advisories.toml`` has them, with the versions that are affected.
"""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from broker.cli.doctor.finding import Context, Finding, ok, warn
from broker.core.distribution import read_system
from broker.core.errors import SetupError, UpstreamError
from broker.helpers.process.spawn import run_tool

_TABLE = Path(__file__).parents[2] / "data" / "advisories.toml"
_NAME = "vulnerabilities"


class Advisory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A vulnerability of one program."""

    id: str
    affected: tuple[tuple[str, str], ...]
    """Pairs of the first affected version and the first fixed one."""
    meaning: str
    """What it means for a user of Vitrail: one clause."""
    source: str
    debian: dict[str, str] = {}
    """The fixed version of the Debian package, by Debian release."""
    observed: bool = False
    """Seen by Vitrail's tests; it is unknown whether a later version is fixed."""


class AffectedProgram(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A program and its vulnerabilities."""

    name: str
    package: str
    """Name of the Debian package."""
    files: tuple[str, ...]
    """Names in PATH or absolute paths; the first that is installed is asked."""
    advisory: tuple[Advisory, ...]
    version_of: str = ""
    """Program of the same release that prints the version; by default the program."""


class AdvisoryTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole table and the day of its last change."""

    date: str
    program: tuple[AffectedProgram, ...]


def load_table() -> AdvisoryTable:
    """Return the table that is installed with Vitrail."""
    return msgspec.convert(tomllib.loads(_TABLE.read_text("utf-8")), AdvisoryTable)


def version_key(version: str) -> tuple[int, ...]:
    """Return a key that orders upstream versions: "0.12" equals "0.12.0"."""
    numbers = [int(number) for number in version.split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def fixed_version(advisory: Advisory, version: str) -> str | None:
    """Return the first fixed version after an affected one; None if not affected."""
    key = version_key(version)
    for first, fixed in advisory.affected:
        if version_key(first) <= key < version_key(fixed):
            return fixed
    return None


def parse_version(output: str) -> str | None:
    """Return the upstream version in a program's ``--version``; None without one."""
    match = re.search(r"\b\d+(?:\.\d+)+\b", output.partition("\n")[0])
    return match[0] if match else None


async def check_vulnerabilities(context: Context) -> Sequence[Finding]:
    """Compare the versions of installed programs with the table.

    Runs each program with ``--version``, and on Debian dpkg-query(1) and dpkg(1).
    """
    table = load_table()
    release = _debian_release()
    findings: list[Finding] = []
    versions: list[str] = []
    for program in table.program:
        path = _find_program(program.files, context.environ.get("PATH"))
        if path is None:
            continue
        command = program.version_of or path
        try:
            output = (await run_tool([command, "--version"])).decode(errors="replace")
        except (UpstreamError, SetupError, OSError) as error:
            output, reason = "", f"failed: {error}"
        else:
            reason = "prints no version"
        version = parse_version(output)
        if version is None:
            text = (
                f"'{command} --version' {reason}; known vulnerabilities of "
                f"{program.name} were not looked up"
            )
            findings.append(warn(_NAME, text))
            continue
        versions.append(f"{program.name} {version}")
        package = await _package_version(program.package, path) if release else ""
        if finding := await _judge(program, version, package, release):
            findings.append(finding)
    if findings:
        return findings
    programs = ", ".join(versions) or "none of its programs is installed"
    return [ok(_NAME, f"no entry of the table of {table.date} applies: {programs}")]


def _find_program(files: Sequence[str], search_path: str | None) -> str | None:
    paths = (shutil.which(name, path=search_path) for name in files)
    return next((path for path in paths if path), None)


def _debian_release() -> str:
    """Return the number of this Debian release; "" on other systems."""
    release = read_system().os_release
    return release.get("VERSION_ID", "") if release.get("ID") == "debian" else ""


async def _package_version(package: str, path: str) -> str:
    """Return the version of the Debian package that has a program; "" if it has not.

    A program in /usr/local or a home is not fixed by the package.
    """
    search = ["dpkg-query", "--search", str(Path(path).resolve())]
    argv = ["dpkg-query", "--show", "--showformat=${Version}", package]
    try:
        owners = (await run_tool(search)).decode().rpartition(": ")[0].split(", ")
        if package not in [owner.partition(":")[0] for owner in owners]:
            return ""
        return (await run_tool(argv)).decode()
    except (UpstreamError, SetupError):
        return ""


async def _is_at_least(version: str, fixed: str) -> bool:
    """Compare versions of Debian packages; an error of dpkg counts as older."""
    try:
        await run_tool(["dpkg", "--compare-versions", version, "ge", fixed])
    except (UpstreamError, SetupError):
        return False
    return True


async def _judge(
    program: AffectedProgram, version: str, package: str, release: str
) -> Finding | None:
    """Return the warning about a program, or None if no advisory applies."""
    entries = []
    for advisory in program.advisory:
        fixed = fixed_version(advisory, version)
        if fixed is None:
            continue
        fixed_package = advisory.debian.get(release, "") if package else ""
        if fixed_package and await _is_at_least(package, fixed_package):
            continue
        if advisory.observed:
            state = f"has {advisory.id} (seen; later versions were not tried)"
        elif fixed_package:
            state = f"has {advisory.id} (fixed in package {fixed_package})"
        else:
            state = f"may have {advisory.id} (fixed in {program.name} {fixed})"
        entries.append(f"{state}: {advisory.meaning}")
    if not entries:
        return None
    mend = f"install the updates of {program.name}"
    if all(entry.startswith("has crashes") for entry in entries):
        mend = f"use a newer release of {program.name}"
    elif any(entry.startswith("may") for entry in entries):
        mend += (
            "; your distribution may have fixed a version with an older number, "
            "and its changelog names the identifier then"
        )
    installed = f"{version} (package {package})" if package else version
    return warn(_NAME, f"{program.name} {installed} {'; '.join(entries)}", mend)
