"""Directories: files that are not read, and who may replace them."""

from __future__ import annotations

import pytest

from policy.tools.permissions import look_at


def _folder(tmp_path, name, *files):
    folder = tmp_path / name
    folder.mkdir()
    folder.chmod(0o755)
    for file in files:
        (folder / file).touch()
    return folder


@pytest.mark.parametrize(
    ("folder", "file", "found"),
    [
        ("policy.d", "30-a.policy", False),
        ("policy.d", "30-a.policytest", False),
        ("policy.d", "world.json", False),
        ("policy.d", "README", False),
        ("policy.d", ".30-a.policy.swp", False),
        ("policy.d", "30-a.polcy", True),
        ("policy.d", "30-a.policy.bak", True),
        ("policy.d", "work.toml", True),
        ("sandboxes.d", "work.toml", False),
        ("sandboxes.d", "work.tml", True),
        ("sandboxes.d", "30-a.policy", True),
    ],
)
def test_a_slip_in_a_name(tmp_path, folder, file, found):
    """A file that looks as if it said something, and is not read."""
    tmp_path.chmod(0o755)
    folder = _folder(tmp_path, folder, file)
    checks = [one.check for one in look_at([folder])]
    assert checks == ["unread-file"] * found


def test_included_files_are_read(tmp_path):
    """Whatever its name."""
    folder = _folder(tmp_path, "policy.d", "common")
    assert len(look_at([folder])) == 1
    assert look_at([folder], [str(folder / "common")]) == []


def test_a_missing_directory_is_no_finding(tmp_path):
    """It is empty."""
    assert look_at([tmp_path / "policy.d"]) == []


@pytest.mark.parametrize(
    ("mode", "found"), [(0o755, False), (0o775, True), (0o757, True), (0o1777, False)]
)
def test_who_may_replace_the_directory(tmp_path, mode, found):
    """Users who may write above it, but for a directory like /tmp."""
    above = tmp_path / "vitrail"
    above.mkdir()
    folder = _folder(above, "policy.d")
    above.chmod(mode)
    checks = [(one.check, one.problem.file) for one in look_at([folder])]
    assert checks == [("open-to-others", str(above))] * found


def test_a_link_leads_somewhere_else(tmp_path):
    """The lines above its target count as well."""
    away = tmp_path / "away"
    away.mkdir()
    _folder(away, "policy.d")
    away.chmod(0o777)
    link = tmp_path / "policy.d"
    link.symlink_to(away / "policy.d")
    assert [one.problem.file for one in look_at([link])] == [str(away)]
