"""Warnings of ``brokerctl doctor`` about vulnerable versions of other programs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from broker.cli.doctor import vulnerabilities
from broker.cli.doctor.finding import Context, Finding, FindingState
from broker.core.distribution import System
from broker.core.paths import find_paths
from docs.tables.advisories import print_table

TABLE = vulnerabilities.load_table()
ADVISORIES = [
    (program, advisory) for program in TABLE.program for advisory in program.advisory
]
OLD = {"bwrap": "bubblewrap 0.11.1", "xdg-dbus-proxy": "xdg-dbus-proxy 0.1.4"}


async def _findings(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    programs: dict[str, str],
    system: dict[str, str],
) -> list[Finding]:
    for name, output in programs.items():
        (folder / name).write_text(f'#!/bin/sh\necho "{output}"\n')
        (folder / name).chmod(0o755)
    if real := shutil.which("dpkg"):
        (folder / "dpkg").symlink_to(real)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(vulnerabilities, "_TABLE", folder / "advisories.toml")
    text = Path(vulnerabilities.__file__).parents[2] / "data" / "advisories.toml"
    # The test's machine has a QEMU of its own.
    text = text.read_text().replace('"/usr/lib/qemu/virtiofsd"', '"no-virtiofsd"')
    (folder / "advisories.toml").write_text(text)
    monkeypatch.setattr(vulnerabilities, "read_system", lambda: System(system))
    environ = {"XDG_RUNTIME_DIR": "/run/user/1", "HOME": "/", "PATH": str(folder)}
    context = Context(find_paths(environ), environ)
    return list(await vulnerabilities.check_vulnerabilities(context))


@pytest.mark.parametrize(("program", "advisory"), ADVISORIES)
def test_each_entry_has_ranges_in_order_and_a_source(program, advisory):
    limits = [version for pair in advisory.affected for version in pair]
    keys = [vulnerabilities.version_key(version) for version in limits]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)
    assert advisory.observed or re.fullmatch(r"CVE-\d{4}-\d{4,}", advisory.id)
    assert advisory.source
    assert not advisory.meaning.endswith(".")
    assert program.files
    for version in advisory.debian.values():
        assert re.search(r"deb\d\du\d+(\+b\d+)?$|~deb13u\d+$", version), version


def test_versions_are_compared_by_number():
    key = vulnerabilities.version_key
    assert key("0.12") == key("0.12.0")
    assert key("0.9.0") < key("0.12.0") < key("1.0")


@pytest.mark.parametrize(
    ("output", "version"),
    [
        ("bubblewrap 0.8.0\n", "0.8.0"),
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\n", "7.2.22"),
        ("sway version 1.7\n", "1.7"),
        ("passt unknown version\n", None),
        ("", None),
    ],
)
def test_version_is_read_from_the_first_line(output, version):
    assert vulnerabilities.parse_version(output) == version


def test_range_ends_with_the_fixed_version():
    advisory = vulnerabilities.Advisory(
        "CVE-1", (("0", "1.16.4"), ("1.17", "1.17.4")), "", ""
    )
    expected = {
        "1.14.10": "1.16.4",
        "1.16.4": None,
        "1.16.9": None,
        "1.17": "1.17.4",
        "1.17.3": "1.17.4",
        "1.17.4": None,
    }
    for version, fixed in expected.items():
        assert vulnerabilities.fixed_version(advisory, version) == fixed, version


async def test_affected_programs_are_named_one_row_each(tmp_path, monkeypatch):
    findings = await _findings(monkeypatch, tmp_path, OLD, {"ID": "arch"})
    assert [finding.state for finding in findings] == [FindingState.WARN] * 2
    assert "bubblewrap 0.11.1 may have CVE-2026-87766 (fixed in bubblewrap" in (
        findings[0].text
    )
    assert "; may have CVE-2026-41163 " in findings[0].text
    assert "CVE-2026-94422" in findings[1].text
    assert "CVE-2026-93676" not in findings[1].text, "0.1.6 has it first"
    assert "older number" in findings[1].mend


async def test_fixed_versions_are_listed_without_a_warning(tmp_path, monkeypatch):
    new = {"bwrap": "bubblewrap 0.13.1", "flatpak": "Flatpak 1.20.0"}
    (finding,) = await _findings(monkeypatch, tmp_path, new, {"ID": "arch"})
    assert finding.state is FindingState.OK
    assert finding.text == (
        f"no entry of the table of {TABLE.date} applies: "
        "bubblewrap 0.13.1, Flatpak 1.20.0"
    )


BOOKWORM = {"ID": "debian", "VERSION_ID": "12"}


async def test_program_outside_of_the_package_is_judged_by_its_own_version(
    tmp_path, monkeypatch
):
    """The package has the fix, but PATH has an older program elsewhere first."""
    programs = {
        "xdg-dbus-proxy": OLD["xdg-dbus-proxy"],
        "dpkg-query": "0.1.4-3+deb12u2",
    }
    (finding,) = await _findings(monkeypatch, tmp_path, programs, BOOKWORM)
    assert finding.state is FindingState.WARN
    assert "may have CVE-2026-94422" in finding.text


@pytest.mark.skipif(not shutil.which("dpkg"), reason="dpkg is missing")
@pytest.mark.parametrize(
    ("package", "expected"),
    [
        ("0.1.4-3+deb12u2", None),
        ("0.1.4-3+deb12u1", {"CVE-2026-94422"}),
        ("0.1.4-3", {"CVE-2026-94422", "CVE-2026-34080"}),
    ],
)
async def test_debian_package_with_the_fix_is_not_named(
    tmp_path, monkeypatch, package, expected
):
    owner = f"xdg-dbus-proxy: {tmp_path}/xdg-dbus-proxy"
    query = f"$([ $1 = --search ] && echo '{owner}' || echo '{package}')"
    programs = {"xdg-dbus-proxy": OLD["xdg-dbus-proxy"], "dpkg-query": query}
    (finding,) = await _findings(monkeypatch, tmp_path, programs, BOOKWORM)
    if expected is None:
        assert finding.state is FindingState.OK
        return
    assert set(re.findall(r"CVE-[\d-]+\d", finding.text)) == expected
    assert "may have" not in finding.text
    assert "has CVE-2026-94422 (fixed in package 0.1.4-3+deb12u2)" in finding.text


async def test_program_without_a_version_is_named(tmp_path, monkeypatch):
    (finding,) = await _findings(monkeypatch, tmp_path, {"bwrap": "?"}, {})
    assert finding.state is FindingState.WARN
    assert "prints no version" in finding.text


async def test_observed_crash_is_not_called_fixed(tmp_path, monkeypatch):
    sway = {"sway": "sway version 1.7"}
    (finding,) = await _findings(monkeypatch, tmp_path, sway, {"ID": "arch"})
    assert "later versions were not tried" in finding.text
    assert "fixed in" not in finding.text
    assert finding.mend == "use a newer release of sway"


def test_security_page_has_the_table():
    page = Path(__file__).parents[3] / "SECURITY.md"
    assert print_table() in page.read_text()
