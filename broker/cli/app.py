"""``brokerctl``: the table of verbs and how an error reaches a person."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from types import MappingProxyType

import rich_click as click
from click.exceptions import Exit
from typing_extensions import override

from broker import __version__
from broker.cli import render
from broker.cli.interrupts import is_interrupt, received
from broker.cli.run.pipes import reader_may_leave
from broker.core.errors import IntegrityError, InternalError, VitrailError, sole
from broker.core.escape import printable

# Verb -> module of broker.cli that has it as ``command``.  Modules are loaded
# when the verb is used, so that 'brokerctl status' need not wait for a TOML
# parser, and 'brokerctl policy check' works where trio is broken.
VERBS = MappingProxyType(
    {
        "answer": "answer",
        "audio": "audio",
        "audit": "audit",
        "clipboard": "clipboard",
        "demo": "demo",
        "device": "device",
        "doctor": "doctor",
        "grants": "grants",
        "image": "image",
        "kill-window": "kill_window",
        "lease": "lease",
        "link": "link",
        "logs": "logs",
        "open": "open_in",
        "pair": "pair",
        "pending": "pending",
        "policy": "policy",
        "prompt": "prompt",
        "proxy": "proxy",
        "run": "run",
        "status": "status",
        "stop": "stop",
        "windows": "windows",
    }
)


_INTERRUPTED = 130


class _Verbs(click.RichGroup):
    @override
    def invoke(self, ctx: click.Context) -> object:
        # Inside click, which would answer a closed pipe with exit code 1.
        with reader_may_leave():
            return super().invoke(ctx)

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(VERBS)

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = VERBS.get(cmd_name)
        if module is None:
            near = difflib.get_close_matches(cmd_name, VERBS, n=1)
            if near:
                raise click.UsageError(
                    f"No such command '{printable(cmd_name, 60)}': did you mean "
                    f"'{near[0]}'?",
                    ctx=ctx,
                )
            return None
        loaded = importlib.import_module(f"broker.cli.{module}")
        command: click.Command = loaded.command
        return command


@click.command(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="brokerctl")
def app() -> None:
    """Run, explain and audit what Vitrail's brokers do."""


def main() -> None:
    """Entry point: run a verb; exit codes are those of brokerctl(1)."""
    with received() as interrupts:
        try:
            app(prog_name="brokerctl", standalone_mode=False)
        except Exception as error:  # noqa: BLE001 -- what is not known is raised again
            code = _report(sole(error))
        except BaseException as error:
            if not is_interrupt(error):
                raise
            code = _INTERRUPTED
        else:
            return
        if code == _INTERRUPTED:
            render.note("brokerctl: interrupted")
            code = interrupts.exit_code
    sys.exit(code)


def _report(error: Exception) -> int:
    """Show an error as people read it, and return the exit code."""
    match error:
        case Exit():
            return error.exit_code
        case click.Abort():
            return _INTERRUPTED
        case click.ClickException():
            error.show()
            return 2
        case InternalError():
            raise error
        case VitrailError() if not os.environ.get("VITRAIL_DEBUG"):
            render.error(error)
            return 3 if isinstance(error, IntegrityError) else 1
        case BrokenPipeError():
            # The reader (head, less) has gone; that is not our error.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        case _:
            raise error


if __name__ == "__main__":
    main()
