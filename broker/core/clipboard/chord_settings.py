"""``clipboard.toml``: the chords of the user's choice.

    preset = "vitrail"            # or "qubes", "input-method" (``TEXTS``)
    copy = "Super+Shift+C"        # both of these instead of a preset
    paste = "Super+Shift+V"

The first ``clipboard.toml`` of the configuration directories holds.  A session child reads
it for the viewer, and brokerctl, which also writes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from broker.core.clipboard.chords import PRESETS, Chord, ChordPair
from broker.core.decoding import UNREADABLE
from broker.core.errors import SetupError
from broker.core.files.replace_file import replace_file
from broker.core.paths import Paths, read_config

FILE = "clipboard.toml"
TEXTS = {
    "vitrail": ("Super+Shift+C", "Super+Shift+V"),
    "qubes": ("Ctrl+Shift+C", "Ctrl+Shift+V"),
    "input-method": ("Super+Ctrl+C", "Super+Ctrl+V"),
}
"""The presets, as a user writes them."""


class _File(msgspec.Struct, forbid_unknown_fields=True):
    preset: str = ""
    copy: str = ""
    paste: str = ""


@dataclass(frozen=True)
class ChordChoice:
    """Two chords, as ``Chord.parse`` reads them, and where they come from."""

    copy: str
    paste: str
    preset: str = ""
    """Empty: the user's own."""
    file: str = ""
    """Empty: there is no choice yet."""
    problem: str = ""
    """Why the file does not hold."""


def chosen(preset: str = "", copy: str = "", paste: str = "") -> ChordChoice:
    """Validate a choice of chords and return it.  Raises SetupError."""
    if preset and (copy or paste):
        raise SetupError(
            "a preset and chords are both given",
            hint="give either a preset or the chords copy and paste",
        )
    if not preset and not (copy and paste):
        missing = " and ".join(["copy"] * (not copy) + ["paste"] * (not paste))
        raise SetupError(
            f"no chord is given for {missing}", hint="give both copy and paste"
        )
    if preset and preset not in PRESETS:
        raise SetupError(
            f"no preset is named '{preset}'", hint=f"use one of: {', '.join(PRESETS)}"
        )
    if preset:
        copy, paste = TEXTS[preset]
    ChordPair(Chord.parse(copy), Chord.parse(paste))
    return ChordChoice(copy, paste, preset)


DEFAULT = chosen("vitrail")


def load_choice(paths: Paths) -> ChordChoice:
    """Return the chords in force; of a file with a mistake the default, and ``problem``."""
    for directory in paths.config:
        path = directory / FILE
        try:
            file = msgspec.toml.decode(read_config(path), type=_File)
            found = chosen(file.preset, file.copy, file.paste)
        except FileNotFoundError:
            continue
        except UNREADABLE as error:
            return _default(path, str(error))
        except SetupError as error:
            return _default(path, error.message)
        return ChordChoice(found.copy, found.paste, found.preset, str(path))
    return DEFAULT


def _default(path: Path, problem: str) -> ChordChoice:
    text = f"{path}: {problem}; the default chords apply"
    return ChordChoice(DEFAULT.copy, DEFAULT.paste, DEFAULT.preset, str(path), text)


def save_choice(paths: Paths, choice: ChordChoice) -> Path:
    """Write the choice to this user's settings.  Raises OSError."""
    if choice.preset:
        text = f'preset = "{choice.preset}"\n'
    else:
        text = f'copy = "{choice.copy}"\npaste = "{choice.paste}"\n'
    path = paths.config[0] / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    text = f"# The chords for copy and paste between sandboxes.\n{text}"
    replace_file(path, text.encode(), mode=0o644)
    return path
