"""Key files as Flatpak writes them (Desktop Entry Specification, GLib's GKeyFile).

Only brokerctl runs this.

Groups of ``key=value``; a list is its items, each followed by ``;``.
Pure: text in, text out.
"""

from __future__ import annotations

import configparser
import re

from broker.core.errors import UpstreamError

Groups = dict[str, dict[str, str]]
"""Values by group and key, in the order of the file."""


def parse(text: str) -> Groups:
    """Return the groups of a key file.  Raises UpstreamError for another text."""
    parser = configparser.RawConfigParser(
        delimiters=("=",), comment_prefixes=("#",), strict=False, default_section=""
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    # GKeyFile takes an indented line for a separate one, configparser for more of the
    # value before, and what counts as a space differs, too.
    # guard: a value of a key file is one line
    text = "\n".join(line.strip() for line in text.split("\n"))
    try:
        parser.read_string(text)
    except configparser.Error as error:
        raise UpstreamError(f"invalid key file: {error.message}") from error
    return {group: dict(parser.items(group)) for group in parser.sections()}


def write(groups: Groups) -> str:
    """Return the text of a key file; groups without a key are left out."""
    made = []
    for group, values in groups.items():
        if values:
            lines = [f"{key}={value}\n" for key, value in values.items()]
            made.append(f"[{group}]\n{''.join(lines)}")
    return "\n".join(made)


def items(value: str) -> list[str]:
    """Return the items of a list, as they are written."""
    return [item for item in re.split(r"(?<!\\);", value) if item]


def listed(values: list[str]) -> str:
    """Return a list as it is written."""
    return "".join(f"{item};" for item in values)
