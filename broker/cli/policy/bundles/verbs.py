"""``brokerctl policy bundle``: rules and records signed elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path

import rich_click as click
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.cli import render
from broker.cli.policy.bundles.fetch import (
    BundleServer,
    choose,
    fetch,
    remember,
    trusted_for,
)
from broker.cli.policy.bundles.files import (
    BROKEN,
    KEYS,
    applied_in,
    content_of,
    install,
    one_at_a_time,
    private_key,
    record_of,
    refuse_changed,
    refuse_problems,
    text_of,
    tree,
    trusted_by,
    verified,
    wanted_in,
)
from broker.cli.policy.bundles.rollout import KEY, index_command, watch_command
from broker.cli.policy.install import new_problems, put, sets_with, show_changes
from broker.cli.policy.load import JSON
from broker.cli.policy.records import print_problems
from broker.cli.run.connect import offline_paths
from broker.cli.texts import tr
from broker.cli.transfer.named_path import NamedPath
from broker.core.errors import RefusedError
from broker.core.escape import printable
from broker.core.files.replace_file import whole_file
from policy import limits
from policy.rules.applied import FOLDER as STATE
from policy.tools import limits as tool_limits
from policy.tools.bundles.bundle import (
    Bundle,
    BundleError,
    Signer,
    newer,
    sign,
    verify,
    written_key,
)
from policy.tools.linting.finding import problem_json

_FILE = click.argument(
    "file", type=NamedPath(exists=True, dir_okay=False, path_type=Path)
)
_TRUST = click.option(
    "--trust", multiple=True, help=f"Public key to trust, instead of those in {KEYS}."
)
_TO = click.option(
    "--to",
    type=NamedPath(file_okay=False, path_type=Path),
    help="Directory with policy.d and sandboxes.d, such as /etc/vitrail "
    "[default: your own].",
)
_REPLACE = click.option(
    "--replace",
    is_flag=True,
    help="Also replace files that were changed or created on this machine.",
)


@click.group()
def bundle() -> None:
    """Sign, verify, apply and fetch bundles of rules and records."""


@bundle.command()
@click.argument("file", type=NamedPath(dir_okay=False, path_type=Path))
@JSON
def key(file: Path, *, as_json: bool) -> None:
    """Create a private signing key in FILE (mode 0600), and print its public key.

    Exit code: 0 done, 1 the file exists or cannot be written.
    """
    private = Ed25519PrivateKey.generate()
    content = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    try:
        # guard: a key is written whole or not at all
        with whole_file(file, replace=False) as opened:
            opened.write(content)
    except OSError as error:
        raise RefusedError(
            tr("cannot create {file}: {strerror}", file=file, strerror=error.strerror),
            hint=tr("specify another file"),
        ) from error
    public = written_key(private.public_key())
    if as_json:
        render.json_line({"file": str(file), "public": public})
    else:
        sys.stdout.write(f"{public}\n")
    render.note(
        tr(
            "to trust this key on a machine, add 'NAME KEY' to /etc/vitrail/{keys}",
            keys=KEYS,
        )
    )


@bundle.command("sign")
@click.argument(
    "directory", type=NamedPath(exists=True, file_okay=False, path_type=Path)
)
@KEY
@click.option("--name", required=True, help="Name of the bundle, such as acme.")
@click.option(
    "--version",
    required=True,
    type=click.IntRange(1, tool_limits.BUNDLE_VERSION),
    help="Version of the bundle, higher than every earlier one of this name.",
)
@click.option(
    "-o",
    "--output",
    required=True,
    type=NamedPath(dir_okay=False, path_type=Path),
    help="Write the bundle to this file.",
)
@click.option(
    "--signer",
    "signers",
    multiple=True,
    metavar="KEY",
    help="Public key that may sign this name from now on, instead of earlier ones; "
    "'index KEY': only indexes.",
)
@JSON
def sign_bundle(
    directory: Path,
    *,
    key_file: Path,
    name: str,
    version: int,
    output: Path,
    signers: tuple[str, ...],
    as_json: bool,
) -> None:
    """Sign the policy.d and sandboxes.d in DIRECTORY.

    With --signer, replace the trusted keys: a machine that has applied the bundle accepts
    bundles of this name only from these keys, so all other keys are revoked.

    Exit code: 0 done, 1 refused, 3 rules or records have an error.
    """
    files = {path: text_of(file) for path, file in tree(directory)}
    if not files:
        raise RefusedError(
            tr(
                "{directory} contains neither policy.d/*.policy nor sandboxes.d/*.toml",
                directory=directory,
            ),
            hint=tr("specify the directory that contains policy.d and sandboxes.d"),
        )
    try:
        made = sign(private_key(key_file), name, version, files, signers)
        public = made.split(b"\n", 2)[1].decode().removeprefix("key ")
        taken = verify(made, {public: Signer("yours", None)})
    except BundleError as error:
        raise RefusedError(tr("cannot sign the bundle: {error}", error=error), hint=tr("to see the options, run 'brokerctl policy bundle sign --help'")) from error  # fmt: skip
    refuse_problems(taken.problems())
    put(output, made)
    number = render.count(len(files), "file")
    render.note(
        tr(
            "{number}, version {version} of '{name}', in {output}",
            number=number,
            version=version,
            name=name,
            output=output,
        )
    )
    if as_json:
        _say(taken, key=taken.key, to=str(output), files=sorted(files))


def _say(found: Bundle, **more: render.Json) -> None:
    """Print a bundle as JSON."""
    whole: dict[str, render.Json] = {"name": found.name, "version": found.version}
    render.json_line({**whole, "digest": found.digest, **more})


@bundle.command("verify")
@_FILE
@_TRUST
@JSON
def verify_bundle(file: Path, *, trust: tuple[str, ...], as_json: bool) -> None:
    """Print the signer and the contents of FILE; write nothing.

    Exit code: 0 valid, 1 the bundle was changed or is not trusted, 3 its rules or records
    have an error.
    """
    trusted = trusted_by(trust, *offline_paths().config)
    found = verified(content_of(file, limits.BUNDLE_BYTES), str(file), trusted)
    problems = found.problems()
    if as_json:
        _say(
            found,
            key=found.key,
            signer=trusted[found.key].name,
            files=sorted(found.files),
            problems=[problem_json(problem) for problem in problems],
        )
    else:
        signer = printable(trusted[found.key].name, 100)
        render.note(
            tr(
                "version {version} of '{name}', signed by {signer}",
                version=found.version,
                name=found.name,
                signer=signer,
            )
        )
        sys.stdout.write("".join(f"{path}\n" for path in sorted(found.files)))
        print_problems(problems)
    if problems:
        sys.exit(BROKEN)


@bundle.command("apply")
@_FILE
@_TRUST
@_TO
@_REPLACE
@click.option("--dry-run", is_flag=True, help="List the changes; write nothing.")
@JSON
def apply_bundle(
    file: Path,
    *,
    trust: tuple[str, ...],
    to: Path | None,
    replace: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Install the files of FILE, and remove files that only its previous version contained.

    The bundle is refused if its signature is not trusted, its version is not higher than
    the last applied version of this name, a file was changed on this machine since, or
    the resulting files have an error.  A running broker applies the files automatically.

    Exit code: 0 done (also if the bundle was applied before), 1 refused, 3 rules or
    records would have an error.
    """
    server = BundleServer(Path.cwd() / (to or offline_paths().config[0]), "", "", trust)
    content = content_of(file, limits.BUNDLE_BYTES)
    _apply(
        server, content, str(file), replace=replace, dry_run=dry_run, as_json=as_json
    )


def _apply(
    server: BundleServer,
    content: bytes,
    where: str,
    *,
    replace: bool,
    dry_run: bool,
    as_json: bool,
    back: bool = False,
) -> None:
    """Apply a bundle; ``back``: an index returns to the one before."""
    base = server.base
    with one_at_a_time(base / STATE):
        # The one before it may have revoked its key while this one waited.
        found = verified(content, where, trusted_for(server, back=back))
        refuse_problems(found.problems())
        state = applied_in(base, found.name)
        overlay, record = wanted_in(base, found, state), record_of(base, found, state)
        try:
            back_to = state.before if back else (0, "")
            fresh = newer(found, state.version, state.digest, back_to=back_to)
        except BundleError as error:
            raise RefusedError(
                tr(
                    "cannot apply bundle '{name}' from {where}: {error}",
                    name=found.name,
                    where=where,
                    error=error,
                ),
                hint=tr("ask the signer for a newer bundle"),
            ) from error
        if not overlay:
            if fresh and not dry_run:
                install(record)
            _report(found, base, [], as_json=as_json, result="is already applied")
            return
        if not replace:
            refuse_changed(base, found, state, overlay)
        old, new = sets_with(base, {}), sets_with(base, overlay)
        refuse_problems(new_problems(old, new))
        show_changes(old, new)
        files = sorted(overlay)
        if dry_run:
            _report(found, base, files, as_json=as_json, result="would be applied")
            return
        if not replace:
            # guard: an edit while the changes are shown is not written over
            refuse_changed(base, found, state, overlay)
        install({**overlay, **record})
    result = f"was restored in {base}" if back else f"was applied in {base}"
    _report(found, base, files, as_json=as_json, result=result)


def _report(
    found: Bundle, base: Path, files: list[str], *, as_json: bool, result: str
) -> None:
    """Print what happened to the bundle (stderr), and as JSON its files."""
    render.note(
        tr(
            "version {version} of '{name}' {result}",
            version=found.version,
            name=found.name,
            result=result,
        )
    )
    if as_json:
        _say(found, to=str(base), files=files)


@bundle.command("fetch")
@click.argument("url")
@_TRUST
@_TO
@click.option(
    "--ca",
    type=NamedPath(exists=True, dir_okay=False),
    metavar="FILE",
    help="File of certificates to trust instead of the system's.",
)
@click.option(
    "--jitter",
    type=click.IntRange(0, 86400),
    default=0,
    metavar="SECONDS",
    help="First wait for a random time up to this limit (for timers).",
)
@click.option(
    "--ring",
    default="all",
    show_default=True,
    metavar="NAME",
    help="Ring of this machine, if URL names an index.",
)
@_REPLACE
@JSON
def fetch_bundle(
    url: str,
    *,
    trust: tuple[str, ...],
    to: Path | None,
    ca: str | None,
    jitter: int,
    ring: str,
    replace: bool,
    as_json: bool,
) -> None:
    """Fetch the bundle at URL (https), and apply it if it is new.

    If URL names an index ('bundle index'), fetch the bundle of this machine's ring once
    its time has come.  The server is not trusted: the index and the bundle are verified
    as by 'bundle apply'.

    Exit code: 0 done (also if there is nothing new), 1 refused or not available, 3 rules
    or records would have an error.
    """
    base = Path.cwd() / (to or offline_paths().config[0])
    server = BundleServer(base, url, ca or "", trust)
    fetched = fetch(server, jitter)
    if fetched is None:
        render.note(tr("already up to date"))
        return
    chosen = choose(server, fetched, ring)
    if chosen is None:
        return
    content, back = chosen
    _apply(
        server, content, url, replace=replace, dry_run=False, as_json=as_json, back=back
    )
    if content is fetched.content:
        remember(server, fetched.tag)


bundle.add_command(index_command)
bundle.add_command(watch_command)
