"""``brokerctl``: the table of verbs and how an error reaches a person."""

from __future__ import annotations

import importlib
import os
import sys
from types import MappingProxyType

import rich_click as click
from click.exceptions import Exit
from typing_extensions import override

from broker import __version__
from broker.cli import render
from broker.core.errors import InternalError, VitrailError

# Verb -> module of broker.cli that has it as ``command``.  Modules are loaded
# when the verb is used, so that 'brokerctl status' need not wait for a TOML
# parser, and 'brokerctl policy check' works where trio is broken.
VERBS = MappingProxyType(
    {
        "audit": "audit",
        "demo": "demo",
        "doctor": "doctor",
        "image": "image",
        "lease": "lease",
        "logs": "logs",
        "policy": "policy",
        "proxy": "proxy",
        "run": "run",
        "status": "status",
        "stop": "stop",
    }
)


class _Verbs(click.RichGroup):
    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(VERBS)

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = VERBS.get(cmd_name)
        if module is None:
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
    try:
        app(prog_name="brokerctl", standalone_mode=False)
    except Exit as leave:
        sys.exit(leave.exit_code)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except VitrailError as error:
        if isinstance(error, InternalError) or os.environ.get("VITRAIL_DEBUG"):
            raise
        render.error(error)
        sys.exit(1)
    except BrokenPipeError:
        # The reader (head, less) has gone; that is not our error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


if __name__ == "__main__":
    main()
