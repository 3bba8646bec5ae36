"""What the first run offers for a purpose, and which programs a box can start."""

from __future__ import annotations

import warnings

import pytest

from broker.core.errors import SetupError

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyGObject's importer is of an older kind
        from broker.cli.manager.pages.first_run import missing_program, preset_program
except SetupError as error:
    pytest.skip(str(error), allow_module_level=True)

from broker.cli.sandboxes.presets import PRESETS


def test_each_purpose_has_a_program():
    assert {name: preset_program(name) for name in ("media", "offline")} == {
        "media": "mpv --player-operation-mode=pseudo-gui",
        "offline": "foot",
    }
    assert all(preset_program(name) for name in PRESETS)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "Enter a program"),
        ("no-such-program --flag", "no-such-program is not installed"),
        ("sh -c 'true", "has no other end"),
        ("sh -c 'true'", ""),
    ],
)
def test_a_program_that_is_not_on_this_machine_is_said(line, said):
    found = missing_program(line)
    assert said in found
    assert bool(found) is bool(said)
