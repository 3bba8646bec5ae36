"""What a sandbox is for: short records, and the rules that go with each.

A record says what a sandbox can have, a rule what it may do; a preset has both, so that
a user does not meet ten refusals on the first day.  What harms nobody is allowed; what
crosses to the user or to another sandbox asks.  ``docs/presets.md`` has the widest harm
of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import tomlkit

from broker.cli.policy.records import EXAMPLES
from broker.core.errors import RefusedError
from broker.core.escape import printable
from broker.core.paths import Paths
from policy.rules.rulefiles import FOLDER as RULES
from policy.rules.ruleset import SUFFIX as RULE

FOLDER: Final = EXAMPLES.parent / "presets"
RULES_HEAD: Final = "# Written by 'brokerctl new --for'; it is yours to edit."
_LOOKS = "vitrail.Settings      +      {name} @adminvm allow"
_NOTICES = "vitrail.Notification  +      {name} @adminvm allow"
_TRAY = "vitrail.Tray          +      {name} @adminvm allow"
_OPENS = "vitrail.FileDialog    +open  {name} @adminvm allow"
_SAVES = "vitrail.FileDialog    +save  {name} @adminvm ask"
_PRINTS = "vitrail.Print         +      {name} @adminvm ask"
_MICROPHONE = "vitrail.AudioInput    *      {name} @adminvm ask ttl=2h remember=stream"
_CAMERA = "vitrail.Camera        +      {name} @adminvm ask ttl=2h"
_SCREEN = "vitrail.ScreenShare   +      {name} @adminvm ask ttl=2h"
_LINKS = "vitrail.OpenURL       *      {name} @default ask target=@dispvm:web scheme=http,https rate=10/min"
_FILES = "vitrail.OpenFile      *      {name} @default ask target=@dispvm:viewer max-size=100M"


@dataclass(frozen=True, slots=True)
class Preset:
    """A purpose: ``rules`` are lines with ``{name}`` for the sandbox."""

    help: str
    rules: tuple[str, ...]

    def lines(self, name: str) -> list[str]:
        """Return its rules for a record of this name, which are of its disposables too."""
        return [rule.format(name=name) for rule in self.rules]


PRESETS: Final[Mapping[str, Preset]] = MappingProxyType(
    {
        "browser": Preset(
            "a fresh browser each time, with sound",
            (_LOOKS, _NOTICES, _OPENS, _SAVES, _PRINTS, _MICROPHONE, _CAMERA),
        ),
        "mail": Preset(
            "mail that stays; links and attachments open elsewhere",
            (_LOOKS, _NOTICES, _TRAY, _OPENS, _SAVES, _PRINTS, _LINKS, _FILES),
        ),
        "office": Preset(
            "documents of your own, without a network",
            (_LOOKS, _OPENS, _SAVES, _PRINTS),
        ),
        "media": Preset("films and music, without a network", (_LOOKS, _OPENS)),
        "chat": Preset(
            "messages and calls: microphone, camera and screen ask",
            (
                *(_LOOKS, _NOTICES, _TRAY, _OPENS, _SAVES),
                *(_MICROPHONE, _CAMERA, _SCREEN, _LINKS),
            ),
        ),
        "development": Preset(
            "compilers and a home that stays", (_LOOKS, _NOTICES, _LINKS)
        ),
        "untrusted": Preset("fresh, no network, no sound, no rules", ()),
        "offline": Preset("a home that stays, without a network", (_LOOKS,)),
    }
)
"""By the word of ``brokerctl new --for``."""


@dataclass(frozen=True, slots=True)
class PresetRunner:
    """What starts a sandbox in place of a micro VM; ``title`` says it to a user.

    ``what``: the key for the image or application.  ``kept``: keys of a micro VM with the
    same meaning.  ``network``: a switch in place of the key of that name.
    """

    title: str
    kind: str
    what: str = ""
    kept: tuple[str, ...] = ("network", "command")
    network: str = ""


RUNNERS: Final[Mapping[str, PresetRunner]] = MappingProxyType(
    {
        "box": PresetRunner("Box of this machine's programs", "bwrap"),
        "podman": PresetRunner(
            "Container of an OCI image",
            "podman",
            "container_image",
            ("network", "command", "memory"),
        ),
        "flatpak": PresetRunner(
            "Flatpak application", "flatpak", "app", (), "share_network"
        ),
    }
)
"""By the word of ``brokerctl new --in``."""


def record_text(preset: str, runner: str | None = None) -> str:
    """Return the text of a preset's record.

    ``runner``: 'box', 'podman=IMAGE' or 'flatpak=APPLICATION' in place of a micro VM.
    Raises RefusedError for another one.
    """
    text = Path(FOLDER, f"{preset}.toml").read_text(encoding="utf-8")
    if runner is None:
        return text
    word, _, what = runner.partition("=")
    found = RUNNERS.get(word)
    if found is None or bool(what) != bool(found.what):
        raise RefusedError(
            f"'{printable(runner, 80)}' starts no sandbox",
            hint="use box, podman=IMAGE or flatpak=APPLICATION, or leave --in out "
            "for a micro VM",
        )
    document = tomlkit.parse(text)
    old = document["launch"].unwrap()
    launch = tomlkit.table()
    launch["kind"] = found.kind
    if found.what:
        launch[found.what] = what
    for key in (key for key in old if key in found.kept):
        launch[key] = old[key]
    if found.network and old["network"] == "user":
        launch[found.network] = True
    document["launch"] = launch
    return tomlkit.dumps(document).rstrip() + "\n"


def rules_file(paths: Paths, name: str) -> Path:
    """Return the file with the rules of a sandbox's purpose."""
    return paths.config[0] / RULES / f"40-{name}{RULE}"


def rules_text(lines: list[str], head: str) -> bytes:
    """Return a file of rules."""
    return "".join(f"{line}\n" for line in [head, *lines]).encode()


def is_unchanged(file: Path, name: str) -> bool:
    """Return whether a file has rules of a purpose as ``brokerctl new`` wrote them."""
    text = file.read_text(encoding="utf-8", errors="replace")
    lines = text.removeprefix(f"{RULES_HEAD}\n").splitlines()
    # Not all of them were written, if a target was not there.
    purposes = (preset.lines(name) for preset in PRESETS.values())
    written = any(set(lines) <= set(purpose) for purpose in purposes)
    return text.startswith(RULES_HEAD) and bool(lines) and written
