"""``brokerctl sandbox unlock`` and ``lock``: passphrases of encrypted homes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import rich_click as click
import trio

from broker.cli.completion import sandboxes
from broker.cli.run.connect import offline_paths
from broker.cli.transfer.named_path import NamedPath
from broker.core import limits
from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.core.names import SandboxName, take_sandbox_name
from broker.helpers.process.spawn import run_tool
from broker.helpers.process.tool_jail import jail_words
from broker.host.homes import keyring
from broker.host.homes.encrypted import (
    IO,
    image_options,
    passphrase_pipe,
    secret_args,
    tool,
)
from broker.host.homes.store import HomeStore

_NAME = click.argument("name", shell_complete=sandboxes)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")

_SHOWN_DISK = Path("/home.luks")


@click.command()
@_NAME
@click.option(
    "--for",
    "minutes",
    type=click.IntRange(1, 7 * 24 * 60),
    help="Minutes until the kernel removes the passphrase [default: the end of the session].",
)
@click.option(
    "--passphrase-file",
    type=NamedPath(exists=True, dir_okay=False, path_type=Path),
    help="Read the passphrase from the first line of this file.",
)
@_JSON
def unlock(
    name: str, *, minutes: int | None, passphrase_file: Path | None, as_json: bool
) -> None:
    """Load the passphrase of an encrypted home into the kernel's keyring.

    If the sandbox has no home yet, the passphrase will encrypt its new home.
    """
    sandbox = take_sandbox_name(name)
    home = HomeStore(offline_paths().homes).find(sandbox)
    if home is not None and not home.meta.encrypted:
        raise RefusedError(f"the home of '{sandbox}' is not encrypted")
    passphrase = _passphrase(sandbox, passphrase_file, new=home is None)
    # guard: a wrong passphrase is not kept
    if home is not None and not trio.run(opens, home.disk, passphrase):
        raise RefusedError(f"cannot unlock the home of '{sandbox}': wrong passphrase")
    keyring.store(sandbox, passphrase, 60 * (minutes or 0))
    _done(
        f"the home of '{sandbox}' is unlocked",
        sandbox,
        as_json=as_json,
        is_open=True,
    )


@click.command()
@_NAME
@_JSON
def lock(name: str, *, as_json: bool) -> None:
    """Remove the passphrase of a home from the keyring; running sandboxes continue."""
    sandbox = take_sandbox_name(name)
    if not keyring.forget(sandbox):
        raise RefusedError(
            f"cannot lock the home of '{sandbox}': the keyring does not contain its "
            "passphrase",
            hint="it is locked already, or not encrypted: run 'brokerctl sandbox list'",
        )
    _done(
        f"the home of '{sandbox}' is locked",
        sandbox,
        as_json=as_json,
        is_open=False,
    )


def _passphrase(sandbox: SandboxName, file: Path | None, *, new: bool) -> bytes:
    """Read a passphrase from a file or the terminal.  Raises RefusedError."""
    if file is not None:
        with file.open("rb") as opened:
            data = opened.read(keyring.PASSPHRASE_BYTES[-1] + 2)
        passphrase = data.partition(b"\n")[0]
    elif not sys.stdin.isatty():
        # getpass(3) would say that it echoes, which nothing here does.
        line = sys.stdin.readline(2 * keyring.PASSPHRASE_BYTES[-1])
        if not line:
            raise SetupError(
                f"there is no terminal to ask for the passphrase of '{sandbox}'",
                hint="specify the passphrase with --passphrase-file FILE",
            )
        passphrase = line.partition("\n")[0].encode()
    else:
        question = f"passphrase of the home of '{sandbox}'"
        asked = click.prompt(
            question, hide_input=True, confirmation_prompt=new, err=True
        )
        passphrase = str(asked).encode()
    if len(passphrase) not in keyring.PASSPHRASE_BYTES:
        low, high = keyring.PASSPHRASE_BYTES[0], keyring.PASSPHRASE_BYTES[-1]
        raise RefusedError(f"the passphrase must have {low} to {high} bytes")
    return passphrase


def _done(text: str, sandbox: SandboxName, *, as_json: bool, is_open: bool) -> None:
    if as_json:
        click.echo(json.dumps({"name": sandbox, "unlocked": is_open}))
    else:
        click.echo(text)


async def opens(disk: Path, passphrase: bytes) -> bool:
    """Return whether a passphrase opens an encrypted disk; write nothing.

    Runs qemu-io in a jail, which reads the disk's header.
    Raises SetupError without the program, UpstreamError when it fails otherwise.
    """
    tool(IO[0])
    key = passphrase_pipe(passphrase)
    try:
        asked = [
            "-r",
            *secret_args(key),
            "--image-opts",
            image_options(_SHOWN_DISK),
            "-c",
        ]
        words = [*IO, *asked, "length"]
        # The machine's QEMU, which its guest may have taken over, writes to this file, and
        # a backup's comes from elsewhere: its header is a parser's input.
        # guard: the header of an encrypted home is read in a jail
        words = [*jail_words(None, {disk: str(_SHOWN_DISK)}, proc=True), *words]
        await run_tool(
            words,
            pass_fds=(key,),
            deadline=limits.HOME_ENCRYPT_SECONDS,
        )
    except UpstreamError as error:
        if "Invalid password" not in error.message:
            raise
        return False
    finally:
        os.close(key)
    return True
