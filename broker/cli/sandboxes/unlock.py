"""``brokerctl sandbox unlock`` and ``lock``: passphrases of encrypted homes."""

from __future__ import annotations

import json
from pathlib import Path

import rich_click as click
import trio

from broker.cli.completion import sandboxes
from broker.cli.run.connect import offline_paths
from broker.core.errors import RefusedError
from broker.core.names import SandboxName, take_sandbox_name
from broker.host.homes import keyring
from broker.host.homes.encrypted import opens
from broker.host.homes.store import HomeStore

_NAME = click.argument("name", shell_complete=sandboxes)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.command()
@_NAME
@click.option(
    "--for",
    "minutes",
    type=click.IntRange(1, 7 * 24 * 60),
    help="Minutes after which the kernel forgets it; else at the end of the session.",
)
@click.option(
    "--passphrase-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file with the passphrase in its first line, instead of a question.",
)
@_JSON
def unlock(
    name: str, *, minutes: int | None, passphrase_file: Path | None, as_json: bool
) -> None:
    """Put the passphrase of an encrypted home into the kernel's keyring.

    For a sandbox that has no home yet, it is the passphrase that its home gets.
    """
    sandbox = take_sandbox_name(name)
    home = HomeStore(offline_paths().homes).find(sandbox)
    if home is not None and not home.meta.encrypted:
        raise RefusedError(f"the home of '{sandbox}' is not encrypted")
    passphrase = _passphrase(sandbox, passphrase_file, new=home is None)
    # guard: a wrong passphrase is not kept
    if home is not None and not trio.run(opens, home.disk, passphrase):
        raise RefusedError(f"this is not the passphrase of the home of '{sandbox}'")
    keyring.store(sandbox, passphrase, 60 * (minutes or 0))
    _done(
        f"the home of '{sandbox}' is unlocked", sandbox, as_json=as_json, is_open=True
    )


@click.command()
@_NAME
@_JSON
def lock(name: str, *, as_json: bool) -> None:
    """Remove the passphrase of a home from the keyring; what runs goes on."""
    sandbox = take_sandbox_name(name)
    if not keyring.forget(sandbox):
        raise RefusedError(f"no passphrase of '{sandbox}' is in the keyring")
    _done(f"the home of '{sandbox}' is locked", sandbox, as_json=as_json, is_open=False)


def _passphrase(sandbox: SandboxName, file: Path | None, *, new: bool) -> bytes:
    if file is not None:
        data = file.read_bytes()[: keyring.PASSPHRASE_BYTES[-1] + 2]
        passphrase = data.partition(b"\n")[0]
    else:
        question = f"passphrase of the home of '{sandbox}'"
        asked = click.prompt(
            question, hide_input=True, confirmation_prompt=new, err=True
        )
        passphrase = str(asked).encode()
    if len(passphrase) not in keyring.PASSPHRASE_BYTES:
        low, high = keyring.PASSPHRASE_BYTES[0], keyring.PASSPHRASE_BYTES[-1]
        raise RefusedError(f"a passphrase has {low} to {high} bytes")
    return passphrase


def _done(text: str, sandbox: SandboxName, *, as_json: bool, is_open: bool) -> None:
    if as_json:
        click.echo(json.dumps({"name": sandbox, "unlocked": is_open}))
    else:
        click.echo(text)
