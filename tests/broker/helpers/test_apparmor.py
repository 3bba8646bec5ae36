"""AppArmor's profiles and what uses them: hints, doctor, the profile of a role."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib

import pytest

from broker.cli.doctor import host
from broker.core.errors import SetupError
from broker.helpers import apparmor
from debian.install_profile import PROFILES, profiles
from tests.kit.ratchets.tree import ROOT

TEXT = PROFILES.read_text()


def test_profiles_are_valid():
    parser = shutil.which("apparmor_parser", path="/usr/sbin:/sbin:/usr/bin")
    if parser is None:
        pytest.skip("apparmor_parser is not installed")
    version = subprocess.run(
        [parser, "--version"], capture_output=True, text=True, check=True
    )
    if re.search(r"version [0-3]\.", version.stdout):
        pytest.skip("this apparmor_parser does not know the permission userns")
    argv = [parser, "-Q", "-K", "-S", "-o", "/dev/null", str(PROFILES)]
    subprocess.run(argv, check=True)


def test_each_installed_program_has_the_profile():
    """A program without it makes no jail where namespaces need a profile."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())
    attached = re.search(
        r"^profile vitrail /usr/lib/vitrail/bin/\{(.*?)\}", TEXT, re.MULTILINE
    )
    assert attached
    assert set(attached[1].split(",")) == set(table["tool"]["vitrail"]["programs"])


def test_package_writes_its_interpreter():
    assert "\n@{vitrail_python} = /usr/bin/python3.14\n" in profiles(14)


@pytest.mark.parametrize("role", ["authority", "viewer", "worker"])
def test_role_may_be_added_and_makes_no_namespace(role):
    assert f"change_profile -> &vitrail_{role},\n" in TEXT
    profile = re.search(
        rf"^profile vitrail_{role} .*?^}}", TEXT, re.MULTILINE | re.DOTALL
    )
    assert profile
    for right in ("userns", "capability", "mount", "change_profile"):
        assert not re.search(rf"^  {right}\b", profile[0], re.MULTILINE)
    # No path may be executed.
    assert not re.search(
        r"^  (owner |file )?.*/.* [a-z]*x( ->|,)", profile[0], re.MULTILINE
    )


def _settings(monkeypatch, tmp_path, label="unconfined", *, installed=True, **values):
    for name, value in values.items():
        path = tmp_path / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    file = tmp_path / "profile"
    if installed:
        file.touch()
    monkeypatch.setattr(apparmor, "_SYSCTL", tmp_path)
    monkeypatch.setattr(apparmor, "FILE", file)
    monkeypatch.setattr(apparmor, "own_label", lambda: label)


_UBUNTU = {"kernel__apparmor_restrict_unprivileged_userns": 1}


@pytest.mark.parametrize(
    ("label", "settings", "installed", "hint"),
    [
        ("unconfined", _UBUNTU, True, f"load our profile: {apparmor.LOAD_COMMAND}"),
        (
            "restricted (enforce)",
            {},
            True,
            f"load our profile: {apparmor.LOAD_COMMAND}",
        ),
        ("unconfined", _UBUNTU, False, "install Vitrail's package"),
        (
            "",
            {"kernel__unprivileged_userns_clone": 0, "user__max_user_namespaces": 0},
            False,
            "sudo sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000",
        ),
        ("", {"user__max_user_namespaces": 5}, False, "ask whoever configured"),
    ],
)
def test_hint_keeps_the_rule(monkeypatch, tmp_path, label, settings, installed, hint):
    _settings(monkeypatch, tmp_path, label, installed=installed, **settings)
    text = apparmor.namespaces_hint()
    assert text.startswith(hint)
    assert "apparmor_restrict" not in text


@pytest.mark.parametrize(
    ("label", "installed", "state", "text"),
    [
        ("vitrail (enforce)", True, "ok", "our profile is loaded"),
        ("unconfined", True, "warn", apparmor.LOAD_COMMAND),
        ("unconfined", False, "ok", "Vitrail's package has one for each"),
    ],
)
def test_doctor_reports_the_profile(
    monkeypatch, tmp_path, label, installed, state, text
):
    _settings(monkeypatch, tmp_path, label, installed=installed)
    [finding] = host._check_profile()
    assert text in f"{finding.text} {finding.mend}"
    assert finding.state == state


def test_doctor_is_silent_without_apparmor(monkeypatch):
    monkeypatch.setattr(apparmor, "own_label", lambda: "")
    assert host._check_profile() == []


class _Libc:
    def __init__(self, result):
        self.result = result
        self.calls = []

    def syscall(self, *arguments):
        self.calls.append(arguments)
        return self.result


def test_process_with_our_profile_that_cannot_enter_its_own_ends(monkeypatch):
    monkeypatch.setattr(apparmor, "own_label", lambda: "vitrail (enforce)")
    monkeypatch.setattr(apparmor, "_libc", _Libc(-1))
    with pytest.raises(SetupError, match="vitrail_worker") as refused:
        apparmor.add_profile("worker")
    assert refused.value.hint == apparmor.LOAD_COMMAND


@pytest.mark.parametrize("label", ["", "unconfined", "restricted (enforce)"])
def test_process_without_our_profile_stays_as_it_is(monkeypatch, label):
    libc = _Libc(-1)
    monkeypatch.setattr(apparmor, "own_label", lambda: label)
    monkeypatch.setattr(apparmor, "_libc", libc)
    apparmor.add_profile("worker")
    assert libc.calls == []


def test_no_text_says_to_switch_the_rule_off():
    paths = [ROOT / "README.md", ROOT / "SECURITY.md"]
    for folder, pattern in (("docs", "*.md"), ("broker", "*.py"), ("shims", "*.py")):
        paths += (ROOT / folder).rglob(pattern)
    for path in paths:
        assert "restrict_unprivileged_userns=0" not in path.read_text(), path
