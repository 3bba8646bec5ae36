"""systemd-tmpfiles, which removes what is old: below /tmp and where it is told."""

from __future__ import annotations

import trio

from tests.kit.needs import requires

NEEDS_CLEANER = requires("systemd-tmpfiles")


async def sweep(base, directory):
    """Have systemd-tmpfiles remove from below it whatever it takes for left over."""
    other = directory / "other"
    other.mkdir()
    (other / "old").touch()
    rules = base / "clean.conf"
    rules.write_text(f"e {directory} - - - 0\n")
    words = ("systemd-tmpfiles", "--user", "--clean", str(rules))
    await trio.run_process(words, check=False)
    assert not other.exists(), "it removes what is old"
