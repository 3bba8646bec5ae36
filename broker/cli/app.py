"""``brokerctl``: the command.

A box is started by ``quick.box``, which imports little, and the short status is shown
without click; every other verb is one of click's (``cli.verbs``).
"""

from __future__ import annotations

import io
import os
import sys

from broker.cli.interrupts import INTERRUPTED, is_interrupt, received
from broker.helpers.process.core_files import forbid_core_files

_QUIET = {"-q", "--quiet"}
_BOX_OPTIONS = {"--bwrap", *_QUIET}


def main() -> None:
    """Run a verb of brokerctl and exit with its code (brokerctl(1))."""
    forbid_core_files()
    _open_standard_files()
    _show_all_characters()
    with received() as interrupts:
        try:
            code = _flushed(sys.argv[1:])
        except Exception as error:  # noqa: BLE001 -- unknown errors are raised again
            from broker.cli.verbs import report
            from broker.core.errors import sole

            code = report(sole(error))
        except BaseException as error:
            if not is_interrupt(error):
                raise
            code = INTERRUPTED
        if code == INTERRUPTED:
            from broker.cli import render

            if not interrupts.is_silent:
                render.note("brokerctl: interrupted")
            code = interrupts.exit_code
    if code:
        sys.exit(code)


def _open_standard_files() -> None:
    """Open those of files 0, 1 and 2 that are closed, so that no other file gets a number.

    Reading and writing fail then (the other direction of /dev/null), as on a closed file.
    """
    for number, how in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(number)
        except OSError:
            # guard: a closed standard file becomes no other file's
            os.open(os.devnull, how)  # the smallest free number
            os.set_inheritable(number, True)  # noqa: FBT003 -- os has no name for it
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115, PTH123


def _show_all_characters() -> None:
    """Escape characters that the terminal's encoding cannot represent, as in window titles."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # guard: a title that cannot be encoded ends no verb
            stream.reconfigure(errors="backslashreplace")


def _flushed(words: list[str]) -> int:
    """Run a verb until all that it printed is written; return its exit code.

    What is left in a buffer fails without a word when Python ends.
    """
    try:
        code = _run(words)
    except SystemExit as end:
        if isinstance(end.code, str):
            raise
        code = end.code or 0
    sys.stdout.flush()
    return code


def _run(words: list[str]) -> int:
    box, code = box_of(words), None
    if box is not None:
        # Imported late: other verbs do not need these modules.
        from broker.cli.quick.box import run

        code = run(box)
    elif (named := record_of(words)) is not None:
        from broker.cli.quick.box import run_record

        code = run_record(*named)
    elif words == ["status"]:
        from broker.cli.quick.status import run as run_status

        code = run_status()
    if code is None:
        from broker.cli.verbs import run_verb

        run_verb()
        code = 0
    return code


def box_of(words: list[str]) -> tuple[str, ...] | None:
    """Return the program's words of a command line that ``quick.box`` serves."""
    if words[:1] != ["run"]:
        return None
    end = 1
    while end < len(words) and words[end] in _BOX_OPTIONS:
        end += 1
    plain = words[end : end + 1] == ["--"] and len(words) > end + 1
    return tuple(words[end + 1 :]) if plain and "--bwrap" in words[:end] else None


def record_of(words: list[str]) -> tuple[str, tuple[str, ...]] | None:
    """Return sandbox and program's words of a command line that may run a box.

    No words: the record's own program.
    """
    if words[:1] != ["run"]:
        return None
    rest = words[1:]
    while rest and rest[0] in _QUIET:
        rest = rest[1:]
    if not rest or rest[0].startswith("-"):
        return None
    name, *program = rest
    if program[:1] == ["--"]:
        return name, tuple(program[1:])
    # Another option is in the wrong place, which run's own parser explains.
    mistaken = bool(program) and program[0].startswith("-")
    return None if mistaken else (name, tuple(program))


if __name__ == "__main__":
    main()
