"""``brokerctl new``: create a sandbox from an example."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import rich_click as click
import tomlkit

from broker.cli import render
from broker.cli.completion import colours, examples
from broker.cli.policy.install import put
from broker.cli.policy.records import (
    EXAMPLES,
    SCHEMA,
    print_problems,
    read_records,
    temporary_records,
)
from broker.cli.policy.starter import NAME as STARTER
from broker.cli.policy.starter import offer_starter
from broker.cli.run.connect import offline_paths
from broker.cli.sandboxes.desktop_entry import write_entry
from broker.cli.sandboxes.look_alikes import alike, unlike
from broker.cli.sandboxes.presets import (
    PRESETS,
    RULES_HEAD,
    Preset,
    record_text,
    rules_file,
    rules_text,
)
from broker.cli.sandboxes.settings import Value, with_value
from broker.core.errors import RefusedError, SetupError
from broker.core.escape import printable
from broker.core.files.replace_file import whole_file
from broker.core.names import take_new_name
from broker.core.paths import Paths
from policy.records.loader import FOLDER
from policy.records.model import Record
from policy.rules.rulefiles import FOLDER as RULES
from policy.rules.world import DISPOSABLE
from policy.suggestions import did_you_mean
from policy.tools.record_files import parse_record

_DEFAULT = "demo"
_PROGRAMS = {
    "firefox-esr": "firefox-esr",
    "chromium": "chromium",
    "libreoffice-writer": "libreoffice",
    "libreoffice-calc": "libreoffice",
    "libreoffice": "libreoffice",
    "thunderbird": "thunderbird",
    "evince": "evince",
    "mpv": "mpv",
    "vlc": "vlc",
    "gimp": "gimp",
    "nautilus": "nautilus",
    "foot": "foot",
}
"""Packages whose program has another name, or that are known to be programs."""
_CLASSES = {
    "disposable": "each run starts a new one, whose data and logs are deleted at its end; the audit log is kept",
    "persistent": "its home is kept when it stops",
    "template": "a template for other sandboxes",
}
_NEED_NETWORK = frozenset({"firefox-esr", "chromium", "thunderbird"})
_ROOM = {"firefox-esr": "2G", "chromium": "2G", "libreoffice": "1536M"}


@dataclass(frozen=True)
class _Wishes:
    """The requested values, where they differ from the example."""

    packages: tuple[str, ...]
    label: str | None
    command: tuple[str, ...]
    network: str | None
    memory: str | None
    persistent: bool
    timezone: str | None
    host_files: tuple[str, ...]


@click.command("new")
@click.argument("name")
@click.option(
    "--from",
    "example",
    default=None,
    shell_complete=examples,
    help="Copy this example, or one of your records.",
)
@click.option(
    "--for",
    "preset",
    type=click.Choice(list(PRESETS)),
    help="What the sandbox is for: its record and its rules are those of the purpose.",
)
@click.option(
    "--in",
    "runner",
    default=None,
    metavar="box|podman=IMAGE|flatpak=APP",
    help="With --for: a box of this machine's programs, a container or a Flatpak application in place of a micro VM.",
)
@click.option(
    "--no-rules", is_flag=True, help="Write the record of --for without its rules."
)
@click.option(
    "-p",
    "--package",
    "packages",
    multiple=True,
    help="Debian package that the sandbox needs; may be repeated.",
)
@click.option(
    "--label",
    default=None,
    shell_complete=colours,
    help="Colour of the label: a name or #rrggbb.",
)
@click.option("--command", "words", default=None, help="Program to start.")
@click.option(
    "--network",
    type=click.Choice(["none", "user"]),
    default=None,
    help="Network of the sandbox.",
)
@click.option("--memory", default=None, help="Memory of the machine, such as 2G.")
@click.option(
    "--persistent",
    is_flag=True,
    help="Keep the sandbox's home instead of starting a new sandbox for each run.",
)
@click.option(
    "--timezone",
    type=click.Choice(["utc", "desktop"]),
    help="Time zone of the sandbox's programs.",
)
@click.option(
    "--host-files",
    multiple=True,
    type=click.Choice(["fonts", "locale", "certificates"]),
    help="Share these files of this machine with the sandbox, read-only; may be repeated.",
)
@click.option(
    "--no-menu", is_flag=True, help="Do not add an entry to the application menu."
)
@click.option(
    "--build", is_flag=True, help="Build the image that the sandbox needs now."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    name: str,
    *,
    example: str | None,
    preset: str | None,
    runner: str | None,
    no_rules: bool,
    packages: tuple[str, ...],
    label: str | None,
    words: str | None,
    network: str | None,
    memory: str | None,
    persistent: bool,
    timezone: str | None,
    host_files: tuple[str, ...],
    no_menu: bool,
    build: bool,
    as_json: bool,
) -> None:
    """Create the sandbox NAME: its record, and an entry in the application menu.

    --for chooses a purpose; its rules are shown before they are written.  At a terminal,
    'brokerctl new NAME' alone asks for it.

    Without --for and --from, the record is a copy of the example of that name, of 'web' if a package
    needs the network, or else of 'demo'.  Where another record has its colour, or one that
    looks like it, the record gets a free one.  Nothing is built or started without --build;
    'brokerctl run NAME' builds the image and starts the sandbox.

    Exit code: 0 done, 1 the record exists already or a value is invalid.
    """
    sandbox = take_new_name(name)
    wishes = _Wishes(
        packages,
        label,
        tuple((words or "").split()),
        network,
        memory,
        persistent,
        timezone,
        host_files,
    )
    _refuse_mixed(example, preset, runner)
    paths = offline_paths()
    if preset is None and example is None and not any(vars(wishes).values()):
        preset = _asked_for(sandbox)
    base = preset or example or _base(sandbox, packages)
    target = paths.config[0] / FOLDER / f"{sandbox}.toml"
    begin = record_text(preset, runner) if preset else _example_text(base, paths.config)
    text = _changed(begin, sandbox, wishes)
    record = checked_record(target, text)
    disposable = record.viewer.default_disposable
    records = read_records(paths).records
    if preset and disposable not in records.keys() - _boxes(records):
        text = _without(text, "default_disposable")
    others = other_records(paths, sandbox)
    colour = None if label else unlike(record, others)
    if colour is not None:
        text = with_value(text, "label.colour", colour)
        record = checked_record(target, text)
    write_record(target, text)
    files = [target]
    if not no_menu:
        files += write_entry(record)
    if preset is not None and not no_rules:
        files += _with_rules(paths, record, PRESETS[preset], quiet=as_json)
    if as_json:
        render.json_line({"name": sandbox, "files": [str(file) for file in files]})
        return
    what = record.host.sandbox_class
    render.note(f"created from '{base}', {what}: {_kept_of(record)}")
    for file in files:
        render.note(f"wrote {file}")
    for text in alike(record, others):
        render.note(text)
    _tell_missing(record, runner)
    if build:
        _build(paths, record)
    render.note(f"to start the sandbox, run: brokerctl run {sandbox}")
    offer_starter(paths)


def _kept_of(record: Record) -> str:
    """Return what is kept of a record's sandboxes, as a user reads it."""
    if record.host.sandbox_class == DISPOSABLE and record.host.keep_logs:
        return "each run starts a new one, whose data is deleted at its end; its logs and the audit log are kept"
    return _CLASSES[record.host.sandbox_class]


def _refuse_mixed(example: str | None, preset: str | None, runner: str | None) -> None:
    """Raise RefusedError for options that do not go together."""
    if preset is not None and example is not None:
        raise RefusedError(
            "--for and --from are two beginnings of one record",
            hint="use one of them",
        )
    if runner is not None and preset is None:
        raise RefusedError(
            "--in belongs to --for",
            hint="add --for with what the sandbox is for",
        )


def _tell_missing(record: Record, runner: str | None) -> None:
    """Say that a box's program is not on this machine."""
    command = record.values.get("launch.command")
    program = str(command[0]) if isinstance(command, (list, tuple)) and command else ""
    if runner == "box" and program and shutil.which(program) is None:
        render.note(
            f"{printable(program, 60)} is not installed on this machine, whose "
            "programs a box has; install it, or name another one: brokerctl set "
            f"{record.name} command PROGRAM"
        )


def _asked_for(name: str) -> str | None:
    """Ask what a sandbox is for, at a terminal; None: as without a purpose."""
    if (EXAMPLES / f"{name}.toml").is_file() or not sys.stdin.isatty():
        return None
    render.note(f"what is '{name}' for?")
    for word, preset in PRESETS.items():
        render.note(f"  {word:12} {preset.help}")
    render.note(f"a word of these, or nothing for a copy of '{_DEFAULT}':")
    while line := sys.stdin.readline().strip().lower():
        if line in PRESETS:
            return line
        render.note(did_you_mean(line, PRESETS) or "use one of the words")
    return None


def _with_rules(
    paths: Paths, record: Record, preset: Preset, *, quiet: bool
) -> list[Path]:
    """Show a purpose's rules and write them, at a terminal after a question."""
    kept = usable_rules(paths, record.name, preset, quiet=quiet)
    target = rules_file(paths, record.name)
    if not kept:
        return []
    if target.exists():
        render.note(f"{target} exists already and stays as it is")
        return []
    if not quiet:
        render.note(f"rules of '{record.name}':")
        for line in kept:
            render.note(f"  {line}")
        if sys.stdin.isatty() and not click.confirm(
            "write them?", default=True, err=True
        ):
            return []
    put(target, rules_text(kept, RULES_HEAD))
    return [target]


def usable_rules(paths: Paths, name: str, preset: Preset, *, quiet: bool) -> list[str]:
    """Return a purpose's rules whose targets are there; print that others are not."""
    lines = preset.lines(name)
    records = read_records(paths).records
    boxes = _boxes(records)
    known = records.keys() - boxes
    kept = [line for line in lines if _targets(line) <= known]
    targets = set().union(*map(_targets, lines))
    unable = sorted(targets & boxes)
    if unable and not quiet:
        render.note(
            "links or files of '{name}' cannot be opened in {boxes}: a box or "
            "container does not start for them".format(
                name=name, boxes=", ".join(f"'{record}'" for record in unable)
            )
        )
    missing = sorted(targets - records.keys())
    if missing and not quiet:
        written = (paths.config[0] / RULES / STARTER).exists()
        render.note(
            "links and files of '{name}' cannot be opened elsewhere, because no "
            "record is named {missing}; to change that, run '{command}'".format(
                name=name,
                missing=" or ".join(f"'{record}'" for record in missing),
                command=f"brokerctl new {missing[0]}"
                if written
                else "brokerctl policy starter",
            )
        )
    return kept


def _boxes(records: Mapping[str, Record]) -> set[str]:
    """Return the records of boxes and containers, which open no links and files."""
    return {name for name, record in records.items() if record.host.launch.kind.box}


def _targets(line: str) -> set[str]:
    """Return the records whose disposables a rule opens something in."""
    return {found[1] for found in re.finditer(r"target=@dispvm:(\S+)", line)}


def other_records(paths: Paths, name: str) -> list[Record]:
    """Return the user's other records; those of boxes that run are not for long."""
    made = temporary_records(paths)
    found = read_records(paths).records.values()
    return [one for one in found if one.source.parent != made and one.name != name]


def _base(name: str, packages: tuple[str, ...]) -> str:
    """Return the default example."""
    if (EXAMPLES / f"{name}.toml").is_file():
        return name
    return "web" if _NEED_NETWORK & {*packages} else _DEFAULT


def _build(paths: Paths, record: Record) -> None:
    """Build the guest image of a record, and print the progress."""
    # Late: it needs an event loop, and the other things of this verb do not.
    import trio

    from broker.cli.run.image import ensure_image
    from broker.cli.run.progress import Steps

    async def build() -> None:
        steps = Steps()
        async with steps.shown():
            await ensure_image(paths, record, steps)

    trio.run(build)


def _example_text(name: str, config: tuple[Path, ...]) -> str:
    """Return the text of the user's record of that name, or of an example.

    Raises SetupError when there is neither.
    """
    own = [folder / FOLDER / f"{name}.toml" for folder in config]
    for path in (*own, EXAMPLES / f"{name}.toml"):
        if path.is_file():
            try:
                return path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise RefusedError(
                    f"{path} is not UTF-8 text",
                    hint="correct the file, or name an example with --from",
                ) from error
    known = sorted(path.stem for path in EXAMPLES.glob("*.toml"))
    raise SetupError(
        f"no example and no record is named '{printable(name, 60)}'",
        hint=did_you_mean(name, known)
        or f"use one of the examples: {', '.join(known)}",
    )


def _changed(text: str, name: str, wishes: _Wishes) -> str:
    """Return the example with the requested values in their lines."""
    head = f"# The sandbox '{name}', created by 'brokerctl new'."
    body = text.split("\n\n", 1)[1] if text.startswith("#") else text
    text = f"#:schema {SCHEMA}\n{head}\n\n{body}"
    program = wishes.command or _program(wishes.packages)
    memory = _ROOM.get(program[0] if program else "", "")
    # A box and an application have no memory of their own.
    sized = "memory" in tomlkit.parse(text).get("launch", {})
    values: list[tuple[str, Value]] = [
        ("label.name", name),
        ("label.colour", wishes.label or ""),
        ("class", "persistent" if wishes.persistent else ""),
        ("timezone", wishes.timezone or ""),
        ("launch.host_files", list(dict.fromkeys(wishes.host_files))),
        ("launch.image", name if wishes.packages else ""),
        ("launch.packages", list(wishes.packages)),
        ("launch.command", list(program)),
        (
            "launch.memory",
            wishes.memory or (memory if sized else ""),
        ),
        ("launch.network", wishes.network or ""),
    ]
    for key, value in values:
        text = with_value(text, key, value) if value else text
    return text


def _without(text: str, key: str) -> str:
    """Return a record's text without a key at its top."""
    document = tomlkit.parse(text)
    document.pop(key, None)
    return tomlkit.dumps(document)


def _program(packages: tuple[str, ...]) -> tuple[str, ...]:
    """The program of the first package that is known to have one."""
    known = [_PROGRAMS[package] for package in packages if package in _PROGRAMS]
    return tuple(known[:1]) or packages[:1]


def checked_record(target: Path, text: str) -> Record:
    """Parse the text as a record.  Raises RefusedError if it is invalid."""
    record, problems = parse_record(target.stem, target, text.encode())
    if record is None or problems:
        print_problems(problems, stderr=True)
        raise RefusedError(
            "the record would not be valid, so nothing was written",
            hint="to see all keys and values, run 'brokerctl policy schema --markdown'",
        )
    return record


def write_record(target: Path, text: str) -> None:
    """Write a new record's file whole.  Raises RefusedError if it exists."""
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        # guard: a new record is written whole
        with whole_file(target, mode=0o644, replace=False) as file:
            file.write(text.encode())
    except FileExistsError as error:
        raise RefusedError(
            f"a record named '{target.stem}' already exists: {target}",
            hint=f"to change a setting, run 'brokerctl set {target.stem}'; to change "
            f"the whole record, 'brokerctl policy edit {target.stem}'",
        ) from error
