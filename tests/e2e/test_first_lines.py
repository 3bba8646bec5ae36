"""The first line of each verb that changes or ends something, and the state afterwards.

The verbs are read from the program: one that is in no table here fails.  Each is run in a
sandbox of each kind.  What it prints must be true of the state afterwards, and a verb that
fails must have changed nothing.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio

from broker.cli.sandboxes.presets import PRESETS, RULES_HEAD, rules_text
from broker.core.limits import sound
from broker.viewer.sound.levels import load_level
from tests.kit.every_verb import commands
from tests.kit.first_lines import Scene, State
from tests.kit.needs import PID_NAMESPACES
from tests.kit.own_command import (
    RECORD,
    Flatpak,
    MicroVm,
    Nspawn,
    Podman,
    RecordedBox,
    RecordedPodman,
    UnrecordedBox,
)
from tests.kit.world import world

pytestmark = [PID_NAMESPACES, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
_SECONDS = 60
_STAYS_SECONDS = 20


@dataclass(frozen=True)
class Look:
    """What was called, and the state previous and afterwards; groups of the sentence."""

    scene: Scene
    previous: State
    after: State
    match: re.Match[str]

    def __getitem__(self, group: str) -> str:
        return self.match[group]

    @property
    def unchanged(self) -> bool:
        return self.previous == self.after


Claims = dict[str, Callable[[Look], object]]


@dataclass(frozen=True)
class Step:
    """A call of a verb; ``runs``: whether the sandbox runs then."""

    words: str
    claims: Claims
    runs: bool = True
    stays: str = ""
    """Why it may go on until it is interrupted; it is not compared then."""


def _level(look: Look, volume: int | None = None, *, muted: bool | None = None) -> bool:
    level = load_level(look.scene.w.paths.state / "audio", look["record"])
    percent = round(level.volume * 100 / sound.PULSE_VOLUME)
    return volume in {None, percent} and muted in {None, level.muted}


def _set(look: Look) -> bool:
    file = str(Path(look["file"]).relative_to(look.scene.w.base))
    return look.previous.files.get(file) != look.after.files[file]


def _keeps(look: Look) -> bool:
    """Each that is named runs, since the time of the change."""
    return all(map(look.after.sandboxes.get, look["names"].split()))


def _renamed(look: Look) -> bool:
    files = look.after.files
    old, new = look["old"], look["new"]
    return (
        any(file.endswith(f"sandboxes.d/{new}.toml") for file in files)
        and not any(file.endswith(f"sandboxes.d/{old}.toml") for file in files)
        and not look.after.having(f"/homes/{old}/")
        and not look.after.having(f"policy.d/40-{old}.policy")
        and not look.after.sandboxes
    )


def _lockdown(*expected: bool) -> Callable[[Look], bool]:
    return lambda look: look.after.lockdown == expected


_SAME: Claims = {".*": lambda look: look.unchanged}
_LEVEL = r"'(?P<name>\S+)' has no sound connection; the next sandbox of '(?P<record>\S+)' starts with: "
_FILES = (
    Step(
        "share {name} {folder}",
        {
            r"shared (?P<path>\S+) with (?P<n>\S+) as .*, read-only": lambda look: (
                f"{look['n']}:{look['path']}" in look.after.folders
            )
        },
    ),
    Step(
        "unshare {name} {folder}",
        {
            r"(?P<n>\S+) can no longer access (?P<path>\S+)": lambda look: (
                f"{look['n']}:{look['path']}" not in look.after.folders
            )
        },
    ),
    Step(
        "cp {folder}/file {name}:",
        {r".*": lambda look: look.after.sandboxes == look.previous.sandboxes},
    ),
)
STEPS = (
    Step("run -q {record} -- echo said", {"said": lambda look: look.unchanged}),
    Step("exec {name} -- echo said", {"said": lambda look: look.unchanged}),
    Step("call {name} none", {}),
    Step(
        "suspend {name}",
        {
            r"suspended (?P<n>\S+)": lambda look: (
                look.after.sandboxes[look["n"]] == "suspended"
            )
        },
    ),
    Step(
        "suspend {name}",
        {
            r"(?P<n>\S+) was already suspended": lambda look: (
                look.previous.sandboxes[look["n"]] == "suspended" and look.unchanged
            )
        },
    ),
    # As what is suspended, where that is possible.
    Step("exec {name} -- echo said", {"said": lambda look: look.unchanged}),
    *_FILES,
    Step(
        "resume {name}",
        {
            r"resumed (?P<n>\S+)": lambda look: (
                "suspended"
                == look.previous.sandboxes[look["n"]]
                != look.after.sandboxes[look["n"]]
            ),
            r"(?P<n>\S+) was not suspended": lambda look: (
                "suspended"
                not in {
                    look.previous.sandboxes[look["n"]],
                    look.after.sandboxes[look["n"]],
                }
            ),
        },
    ),
    *(
        Step(
            f"set {{record}} {change}",
            {
                "--- before": lambda look: not look.unchanged,
                r"changed (?P<file>\S+)": _set,
                r"(?P<names>.+) runs with the old value of .*": _keeps,
                ".*nothing was changed": lambda look: look.unchanged,
            },
            runs=runs,
        )
        for runs in (True, False)
        for change in ("network user", "colour red", "sound off")
    ),
    *(
        Step(
            f"audio {change} {{{which}}}{value}",
            {_LEVEL + said: effect},
            runs=runs,
        )
        for runs in (True, False)
        for which in ("name", "record")
        for change, value, said, effect in (
            ("volume", " 40", ".*40 %.*", lambda look: _level(look, 40)),
            ("mute", "", ".*muted", lambda look: _level(look, muted=True)),
            ("unmute", "", "[^,]*", lambda look: _level(look, muted=False)),
        )
    ),
    Step("audio microphone {name} deny", {}),
    *_FILES,
    Step("open --in {name} {folder}/file", {}),
    # No program of it listens, or serves calls.
    Step("forward {name} 8080 --stdio", {}),
    Step(
        "lockdown",
        {
            "a lockdown is in force: microphones, cameras, copies and new starts are "
            "denied until the lockdown is lifted": _lockdown(True, False)
        },
    ),
    Step(
        "lockdown --networks",
        {"a lockdown is in force(:|, but) .*networks.*": _lockdown(True, True)},
    ),
    Step(
        "lockdown --lift",
        {"no lockdown is in force any more: .*": _lockdown(False, False)},
    ),
    Step("clipboard clear", {"cleared the clipboard between sandboxes": bool}),
    Step("device attach 1-1 {name}", {}),
    Step("device detach 1-1", {}),
    Step(
        "grants revoke --all",
        {
            "no grants are in force": lambda look: (
                not (look.previous.grants or look.after.grants)
            )
        },
    ),
    Step("kill-window {name} 1", {}),
    Step("sandbox reset {record} --yes", {}),
    Step(
        "sandbox snapshot {record} first",
        {
            r"saved the home of '(?P<n>\S+)' as snapshot '(?P<s>[^']+)'.*": lambda look: (
                look.after.having(f"homes/{look['n']}/snapshots/{look['s']}/")
            )
        },
    ),
    Step("sandbox rename {record} other", {}),
    Step(
        "sandbox clone {record} copy",
        {
            r"wrote (?P<file>\S+)": lambda look: Path(look["file"]).is_file(),
            r"created the home of '(?P<n>\S+)' .*": lambda look: look.after.having(
                f"homes/{look['n']}/"
            ),
        },
    ),
    Step("sandbox remove {record} --yes", {}),
    Step(
        "menu start {record}",
        {r"Starting (?P<n>\S+): .*": lambda look: look["n"] in look.after.sandboxes},
        stays="it is the sandbox's terminal",
    ),
    Step(
        "menu stop {record}",
        {r"(?P<n>\S+) has stopped": lambda look: not look.after.sandboxes},
    ),
    Step(
        "restart --yes",
        {
            "these windows will be closed:": bool,
            "restarted the broker": bool,
            r"(?P<n>\S+) is still running.*": lambda look: (
                look["n"] in look.after.sandboxes
            ),
            r"(?P<n>\S+) has ended": lambda look: look["n"] not in look.after.sandboxes,
        },
    ),
    Step(
        "stop {name}",
        {r"stopped (?P<n>\S+)": lambda look: look["n"] not in look.after.sandboxes},
    ),
    Step(
        "sandbox snapshot {record} second",
        {
            r"saved the home of '(?P<n>\S+)' as snapshot '(?P<s>[^']+)'.*": lambda look: (
                look.after.having(f"homes/{look['n']}/snapshots/{look['s']}/")
            )
        },
        runs=False,
    ),
    Step(
        "sandbox restore {record} second --yes",
        {r"restored the home of '(?P<n>\S+)' from snapshot .*": bool},
        runs=False,
    ),
    Step(
        "sandbox snapshot {record} second --remove",
        {
            r"removed snapshot '(?P<s>[^']+)' of '(?P<n>\S+)'": lambda look: (
                not look.after.having(f"homes/{look['n']}/snapshots/{look['s']}/")
            )
        },
        runs=False,
    ),
    Step(
        "sandbox reset {record} --yes",
        {r"emptied the home of '(?P<n>\S+)'": lambda look: not look.unchanged},
        runs=False,
    ),
    Step(
        "sandbox rename {record} other",
        {
            r"renamed '(?P<old>\S+)' to '(?P<new>\S+)'": _renamed,
            r"wrote (?P<file>\S+)": lambda look: Path(look["file"]).is_file(),
        },
        runs=False,
    ),
    Step(
        "sandbox remove other --yes",
        {
            r"removed (?P<goes>.*)": lambda look: (
                not (
                    look.after.having("other.toml")
                    or look.after.having("homes/other/")
                    or look.after.having("40-other.policy")
                )
            )
        },
        runs=False,
    ),
)
"""In order: what ends a sandbox or moves its record comes last."""
CHANGES_NOTHING = frozenset(
    {
        *("audio list", "audit", "audit connections", "audit fleet gaps"),
        *("audit fleet machines", "audit fleet policies", "audit prove"),
        *("audit stats", "audit trace", "audit verify", "clipboard status"),
        *("completion", "device explain", "device list", "device match"),
        *("device watch", "df", "doctor", "get", "grants", "grants list"),
        *("image list", "labels", "launcher exec", "lease list", "link key"),
        *("link list", "list", "logs", "machine arguments", "man", "manager"),
        *("network", "notifications", "pending"),
        *("policy check", "policy diff"),
        *("policy effective", "policy eval", "policy explain", "policy graph"),
        *("policy lint", "policy schema", "policy show", "policy simulate"),
        *("policy suggest", "policy test", "sandbox list", "services"),
        *("ssh-config", "status", "top", "tray", "windows"),
    }
)
"""Their answer is what they print."""
ELSEWHERE = {
    "adopt": "tests/integration/test_adopt.py",
    "allow": "tests/integration/test_allow_notified.py",
    "answer": "tests/integration/test_brokerctl_questions.py",
    "audit checkpoint": "tests/integration/test_audit_verify.py",
    "audit export": "tests/integration/test_audit_asking.py",
    "audit fleet enrol": "tests/attack/test_fleet_ingest.py",
    "audit fleet init": "tests/integration/test_fleet_verbs.py",
    "audit fleet upkeep": "tests/integration/test_fleet_verbs.py",
    "audit gc": "tests/integration/test_audit_modes.py",
    "audit report": "tests/integration/test_audit_report.py",
    "audit ship": "tests/integration/test_ship_journald.py",
    "clipboard chords": "tests/integration/test_brokerctl_clipboard.py",
    "demo": "tests/e2e/test_demo.py",
    "guest install": "tests/integration/test_guest_install.py",
    "image build": "tests/broker/cli/test_image.py",
    "image export": "tests/broker/cli/images/foreign_images/test_signed.py",
    "image fetch": "tests/broker/cli/images/foreign_images/test_download.py",
    "image import": "tests/e2e/test_foreign_images.py",
    "image rebuild": "tests/broker/cli/test_image.py",
    "image remove": "tests/integration/test_newcomer.py",
    "image rollback": "tests/broker/cli/test_image.py",
    "image timer": "tests/broker/cli/images/building/test_rebuild_timer.py",
    "launcher install": "tests/e2e/test_podman_hook.py",
    "launcher prepare": "tests/conformance/launchers/test_own_command.py",
    "launcher remove": "tests/e2e/test_flatpak.py",
    "lease acquire": "tests/integration/test_brokerctl_verbs.py",
    "lease release": "tests/integration/test_brokerctl_verbs.py",
    "link forget": "tests/integration/test_pair.py",
    "link vsock": "tests/e2e/test_kernel_vsock.py",
    "menu file-managers": "tests/integration/test_file_managers.py",
    "menu files": "tests/integration/test_menu.py",
    "menu open": "tests/integration/test_menu.py",
    "menu refresh": "tests/integration/test_menu.py",
    "menu sanitize": "tests/integration/test_sanitize.py",
    "menu terminal": "tests/integration/test_menu.py",
    "new": "tests/integration/test_new_sandbox.py",
    "pair": "tests/integration/test_pair.py",
    "policy edit": "tests/broker/cli/policy/test_edit.py",
    "policy fmt": "tests/broker/cli/policy",
    "policy import flatpak": "tests/policy/tools/test_import_flatpak.py",
    "policy import qubes": "tests/policy/tools/test_import_qubes.py",
    "policy starter": "tests/broker/cli/policy",
    "prompt phrase": "tests/integration/test_prompt.py",
    "proxy relay": "tests/integration/test_relay_proxy.py",
    "prune": "tests/broker/cli/sandboxes/test_df.py",
    "sandbox backup": "tests/broker/cli/sandboxes/test_backup.py",
    "sandbox import": "tests/attack/test_backup_record.py",
    "sandbox lock": "tests/broker/cli/test_unlock.py",
    "sandbox unlock": "tests/broker/cli/test_unlock.py",
    "sanitize": "tests/integration/test_sanitize.py",
    "shell": "tests/e2e/test_first_hour.py",
    "uninstall": "tests/broker/cli/test_uninstall.py",
    "x11": "tests/e2e/test_box_x11.py",
}
"""Verbs that need more than a sandbox, or a terminal, with the test of their effect."""
RULES = """\
vitrail.Folder * @anyvm @adminvm allow
vitrail.Tcp * @adminvm work allow
"""
OWN_RULES = rules_text([PRESETS["office"].lines("work")[0]], RULES_HEAD).decode()


class _Disposable(RecordedBox):
    def write_record(self, launch: str = "") -> None:
        text = RECORD.format(kind=self.kind, launch=launch)
        self.w.write_record("work", text.replace('"persistent"', '"disposable"'))


class _Application(Flatpak):
    """Its session bus would start the desktop's notification server: there is none."""

    @asynccontextmanager
    async def prepared(self) -> AsyncIterator[None]:
        command = self.w.base / "bin" / "notify-send"
        command.parent.mkdir()
        command.write_text("#!/bin/sh\nexit 1\n")
        command.chmod(0o755)
        async with super().prepared():
            path = self.w.environ["PATH"]
            self.w.environ["PATH"] = f"{command.parent}:{path}"
            yield


KINDS = {
    "a box without a record": UnrecordedBox,
    "a box": RecordedBox,
    "a disposable box": _Disposable,
    "a container": RecordedPodman,
    "a container of podman run": Podman,
    "a container of systemd": Nspawn,
    "an application of Flatpak": _Application,
    "a micro VM": MicroVm,
}


@pytest.mark.timeout(500)
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.long if way_type.image else ())
        for kind, way_type in KINDS.items()
    ],
)
async def test_first_lines_true_in_kind(kind):
    way_type = KINDS[kind]
    async with (
        way_type.settings() as settings,
        world({}, image=way_type.image, extra=settings, rules=RULES) as w,
    ):
        folder = w.base / "folder"
        folder.mkdir()
        (folder / "file").write_text("text")
        w.write_rules(OWN_RULES, "40-work")
        launcher = way_type(w, folder)
        async with launcher.prepared():
            scene = Scene(w, launcher, "work", folder=folder)
            wrong = [text for step in STEPS async for text in _wrong(scene, step)]
            await scene.ensure(runs=False)
    assert not wrong, "\n".join(wrong)


async def _wrong(scene, step):
    """Yield what is wrong with a step's sentences."""
    await scene.ensure(runs=step.runs)
    values = {"name": scene.last, "record": scene.record, "folder": scene.folder}
    if isinstance(scene.launcher, UnrecordedBox):
        values["record"] = scene.last
    argv = step.words.format(**values).split()
    previous = await scene.state()
    seconds = _STAYS_SECONDS if step.stays else _SECONDS
    with trio.move_on_after(seconds) as scope:
        answer = await scene.call(*argv)
    after = await scene.state()
    if scope.cancelled_caught:
        if not step.stays:
            yield f"{argv}: does not end"
        return
    lines = (answer.err or answer.out).splitlines()
    called = f"{' '.join(argv)} (exit code {answer.code})\n  {answer.err or answer.out}"
    if "did not answer" in answer.err:
        yield f"{called}  waited for what cannot answer"
    if answer.code:
        if _without_ends(previous, previous) != _without_ends(after, previous):
            yield f"{called}  failed, but {_difference(previous, after)}"
        return
    if not lines:
        yield f"{called}  says nothing, and {_difference(previous, after)}"
    for number, line in enumerate(lines):
        checks = [
            check(Look(scene, previous, after, match))
            for pattern, check in step.claims.items()
            if (match := re.fullmatch(pattern, line))
        ]
        if not all(checks) or (number == 0 and not checks):
            yield f"{called}  '{line}' is not so: {_difference(previous, after)}"


def _without_ends(state, previous):
    """Return a state without sandboxes that were stopping before the verb."""
    sandboxes = {
        name: value
        for name, value in state.sandboxes.items()
        if previous.sandboxes.get(name) != "stopping"
    }
    return replace(state, sandboxes=sandboxes)


def _difference(previous, after):
    if previous == after:
        return "nothing has changed"
    files = sorted(
        name
        for name in {*previous.files, *after.files}
        if previous.files.get(name) != after.files.get(name)
    )
    return (
        f"{previous.sandboxes} became {after.sandboxes}, {previous.folders} {after.folders}, "
        f"{previous.lockdown} {after.lockdown}, files {files}"
    )


def test_every_verb_is_in_a_table():
    """A new verb that changes something needs a row, with the sentences that it prints."""
    verbs = {verb for verb, _ in commands()}
    tried = {
        max((v for v in verbs if f"{step.words} ".startswith(f"{v} ")), key=len)
        for step in STEPS
    }
    assert verbs - tried - CHANGES_NOTHING - ELSEWHERE.keys() == set()
    assert not (tried | CHANGES_NOTHING | ELSEWHERE.keys()) - verbs
    assert not CHANGES_NOTHING & (tried | ELSEWHERE.keys())
    for verb, path in ELSEWHERE.items():
        files = [ROOT / path, *(ROOT / path).glob("**/*.py")]
        texts = [file.read_text() for file in files if file.is_file()]
        name = verb.split()[-1].replace("-", ".")
        assert any(re.search(name, text) for text in texts), (
            f"{path} has no test of '{verb}'"
        )
