"""Mistakes in the settings files beside records and rules, with line and caret.

The readers are those of the broker, so that a file without a problem here keeps no
broker from starting.  Their messages name a key; its place is looked up in the file.

A session child runs this for the viewer when such a file has changed; ``brokerctl
policy check`` and ``doctor`` run it themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from broker.authority.audit.settings import load_settings
from broker.core.clipboard.chord_settings import load_choice
from broker.core.errors import SetupError
from broker.core.paths import Paths, read_config
from broker.helpers.shipper.config import load_config
from broker.net.link.wire_types import Role
from broker.net.link_service.config import declared_role, load_link_config
from policy.errors import WHOLE_FILE, Problem, Span
from policy.records.document import read_document
from policy.services.desktop import FOLDER, parse_service

_PATH = re.compile(r" - at `\$\.?([^`]*)`")
_UNKNOWN = re.compile(r"unknown field `([^`]+)`")
_PLACE = re.compile(r" \(at line (\d+), column (\d+)\)")


def _audit(paths: Paths) -> None:
    load_settings(paths.config)


def _ship(paths: Paths) -> None:
    load_config(paths.config[0] / "ship.toml")


def _clipboard(paths: Paths) -> None:
    choice = load_choice(paths)
    if choice.problem:
        text = choice.problem.removeprefix(f"{choice.file}: ")
        raise SetupError(text, where=choice.file)


def _link(paths: Paths) -> None:
    role = declared_role(paths)
    load_link_config(paths, Role.VIEWER if role is None else role)


READERS: Mapping[str, Callable[[Paths], None]] = MappingProxyType(
    {
        "audit.toml": _audit,
        "clipboard.toml": _clipboard,
        "link.toml": _link,
        "ship.toml": _ship,
    }
)


def settings_problems(paths: Paths) -> list[Problem]:
    """Return a problem for each settings file and service that its reader refuses.

    Of files with one name in several directories only the first is read, as by the
    broker.
    """
    problems: list[Problem] = []
    for name, reader in READERS.items():
        folder = next((d for d in paths.config if (d / name).exists()), None)
        if folder is None:
            continue
        try:
            reader(replace(paths, config=(folder,)))
        except SetupError as error:
            problems.append(_placed(folder / name, error))
        except OSError as error:
            problems.append(Problem(str(folder / name), WHOLE_FILE, str(error)))
    # The user's own directory alone: no package offers a service of the desktop.
    for file in sorted((paths.config[0] / FOLDER).glob("*.toml")):
        try:
            problems += parse_service(file, read_config(file))[1]
        except (SetupError, OSError) as error:
            problems.append(Problem(str(file), WHOLE_FILE, str(error)))
    return problems


def _placed(file: Path, error: SetupError) -> Problem:
    """Convert a reader's message to a problem at the key that it is about."""
    message = error.message
    try:
        text = read_config(file).decode()
    except (OSError, UnicodeDecodeError):
        return Problem(str(file), WHOLE_FILE, message, hint=error.hint)
    span = _span(text, message)
    for pattern in (_PLACE, _PATH):
        message = pattern.sub("", message)
    lines = text.split("\n")
    line = lines[span.line - 1] if span is not WHOLE_FILE else ""
    return Problem(str(file), span, message, hint=error.hint, source_line=line)


def _span(text: str, message: str) -> Span:
    """Return the place in a settings file that a reader's message names."""
    place = _PLACE.search(message)
    if place is not None:
        line, column = int(place[1]), int(place[2])
        return Span(line, column, line, column + 1)
    path, unknown = _PATH.search(message), _UNKNOWN.search(message)
    if path is None and unknown is None:
        return WHOLE_FILE
    words = re.findall(r"[^.\[\]]+", path[1]) if path else []
    keys: tuple[str | int, ...] = tuple(int(w) if w.isdigit() else w for w in words)
    document = read_document(text, lambda *_problem: None)
    if unknown is not None:
        return document.key((*keys, unknown[1]))
    return document.span(keys)
