"""Texts of records of sandboxes that may show windows; micro VMs' are ``world.record``."""

from __future__ import annotations


def shown_record(
    *launch: str, colour: str = "", of: str = "persistent", tables: str = ""
) -> str:
    """The record of a sandbox of class ``of``, with these lines of its launch.

    ``tables`` is the text of further tables.
    """
    label = f'[label]\ncolour = "{colour}"\n' if colour else ""
    lines = "".join(f"{line}\n" for line in launch)
    return f'class = "{of}"\ndisplay = "allow"\n{label}{tables}[launch]\n{lines}'


def external_record(peer: str, *, colour: str = "") -> str:
    """The record of a sandbox that a program of the user's starts; ``peer``: its line."""
    return shown_record('kind = "external"', "[peer]", peer, colour=colour)
