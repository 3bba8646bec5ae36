"""``brokerctl policy bundle index|watch``: a bundle reaches its machines in stages."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import rich_click as click

from broker.cli import render
from broker.cli.audit.query.times import parse_time
from broker.cli.policy.bundles.files import content_of, one_at_a_time, private_key
from broker.cli.policy.install import put
from broker.cli.policy.load import JSON
from broker.cli.texts import tr
from broker.cli.transfer.named_path import NamedPath
from broker.core.errors import RefusedError, SetupError
from broker.core.escape import printable
from policy import limits
from policy.tools.bundles.bundle import Bundle, BundleError, Signer, verify
from policy.tools.bundles.index import (
    RingEntry,
    RolloutIndex,
    entry_of,
    sign_index,
    verify_index,
)

KEY = click.option(
    "--key",
    "key_file",
    required=True,
    type=NamedPath(exists=True, dir_okay=False, path_type=Path),
    help="Private key, from 'bundle key', that signs the bundles or only their index.",
)
_BEFORE_DAYS = 7
"""The days before a bundle that show how many denials are usual on a machine."""
_HOUR = 1 / 24


def _whoever(content: bytes) -> dict[str, Signer]:
    """Trust the key that a file names, because only its contents are read."""
    line = content[:400].decode("ascii", "replace").split("\n")[1:2]
    return {text.removeprefix("key "): Signer("it", None) for text in line}


def _bundle_in(file: Path) -> Bundle:
    content = content_of(file, limits.BUNDLE_BYTES)
    return verify(content, _whoever(content))


def _index_in(file: Path) -> RolloutIndex:
    content = content_of(file, limits.BUNDLE_BYTES)
    return verify_index(content, _whoever(content))


def _pairs(words: Sequence[str], option: str) -> dict[str, str]:
    """Parse options of the form ``RING=VALUE``.  Raises UsageError."""
    found: dict[str, str] = {}
    for word in words:
        ring, sign, value = word.partition("=")
        if not sign or ring in found:
            raise click.UsageError(
                tr("{option} requires RING=VALUE, once for each ring", option=option)
            )
        found[ring] = value
    return found


def _time(text: str) -> int:
    try:
        return parse_time(text, datetime.now().astimezone()) // 1_000_000_000
    except SetupError as error:
        raise click.UsageError(f"{error.message}; {error.hint}") from error


@click.command("index")
@KEY
@click.option(
    "--ring",
    "rings",
    multiple=True,
    required=True,
    metavar="RING=FILE",
    help="Bundle of a ring of machines, such as canary=site-43.bundle; may be repeated.",
)
@click.option(
    "--not-before",
    "begins",
    multiple=True,
    metavar="RING=TIME",
    help="Time from which a ring applies the bundle, such as 'all=2026-12-01 06:00'.",
)
@click.option(
    "--expires",
    default="",
    metavar="TIME",
    help="Expiry, such as +30d; after it, machines assume that a newer index was withheld.",
)
@click.option(
    "-o",
    "--output",
    required=True,
    type=NamedPath(dir_okay=False, path_type=Path),
    help="Write the index to this file, in the directory of the bundles.",
)
@JSON
def index_command(
    *,
    key_file: Path,
    rings: tuple[str, ...],
    begins: tuple[str, ...],
    expires: str,
    output: Path,
    as_json: bool,
) -> None:
    """Sign an index that assigns a bundle to each ring of machines.

    The number of the index is the current time, or one more than the number of the index
    that --output replaces.

    Exit code: 0 done, 1 refused.
    """
    times = {ring: _time(text) for ring, text in _pairs(begins, "--not-before").items()}
    files = _pairs(rings, "--ring")
    if times.keys() - files.keys():
        raise click.UsageError(tr("--not-before must name a ring that --ring defines"))
    try:
        found = {ring: _bundle_in(Path(file)) for ring, file in files.items()}
        entries = {
            ring: entry_of(one, Path(files[ring]).name, times.get(ring, 0))
            for ring, one in found.items()
        }
        ends = _time(expires) if expires else 0
        made = RolloutIndex(_one_name(found), int(time.time()), entries, ends)
        with one_at_a_time(output.parent, doing="sign the index"):
            if output.exists():
                newer = max(made.serial, _index_in(output).serial + 1)
                made = replace(made, serial=newer)
            put(output, sign_index(private_key(key_file), made))
    except (BundleError, OSError) as error:
        raise RefusedError(tr("cannot sign the index: {error}", error=printable(str(error), 300)), hint=tr("to see the options, run 'brokerctl policy bundle index --help'")) from error  # fmt: skip
    _say(made, as_json=as_json)


def _one_name(bundles: dict[str, Bundle]) -> str:
    names = sorted({one.name for one in bundles.values()})
    if len(names) != 1:
        raise BundleError(
            tr("the bundles have different names: {names}", names=", ".join(names))
        )
    return names[0]


def _say(index: RolloutIndex, *, as_json: bool) -> None:
    """Print the bundle version of each ring of a new index, or the index as JSON."""
    if as_json:
        render.json_line(
            {
                "name": index.name,
                "serial": index.serial,
                "rings": {name: one.version for name, one in index.rings.items()},
            }
        )
        return
    for name, one in sorted(index.rings.items()):
        begins = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(one.not_before))
        later = f", from {begins} on" if one.not_before else ""
        sys.stdout.write(
            tr(
                "{name}: version {version} of '{name2}'{later}\n",
                name=name,
                version=one.version,
                name2=index.name,
                later=later,
            )
        )


# -- a canary's denials ----------------------------------------------------------------


@dataclass(frozen=True)
class Denials:
    """Denials of one machine before and since a bundle."""

    machine: str
    days: float
    """Since it was loaded there."""
    since: int
    usual: float
    """A day, in the week before."""

    def jumped(self, factor: float, least: int) -> bool:
        """Return whether the denials increased by the factor, and are not only a few."""
        expected = self.usual * max(self.days, _HOUR)
        return self.since >= least and self.since > factor * expected


# A machine counts once, however often it is denied: one sandbox that asks all the
# time is one machine's.
_QUERY = f"""
SELECT machine, extract(epoch FROM now() - loaded)::float8 / 86400, coalesce(denied, 0),
    coalesce((SELECT sum(usual.denied) FROM vitrail.count usual
        WHERE usual.log = head.log AND field = ''
            AND day >= (loaded AT TIME ZONE 'UTC')::date - {_BEFORE_DAYS}
            AND day < (loaded AT TIME ZONE 'UTC')::date), 0)::float8 / {_BEFORE_DAYS}
FROM vitrail.head JOIN vitrail.log ON id = head.log LEFT JOIN (
    SELECT event.log, count(*) AS denied FROM vitrail.event JOIN vitrail.head there
        ON there.log = event.log
    WHERE verdict = 'deny' AND %s = ANY(string_to_array(there.bundle, ', '))
        AND place_ns >= (extract(epoch FROM there.loaded) * 1000000000)::bigint
    GROUP BY event.log) AS new ON new.log = head.log
WHERE %s = ANY(string_to_array(bundle, ', ')) AND loaded IS NOT NULL
ORDER BY machine
"""  # noqa: S608 -- one of our numbers


def _denials(store: str, bundle: str) -> list[Denials]:
    """Query the denials on machines of a bundle."""
    # Only here, so that the package is needed only by those who have a database.
    from broker.cli.fleet.fleet_database import open_fleet

    with open_fleet(store) as fleet:
        rows = fleet.rows(_QUERY, [bundle, bundle])
    return [
        Denials(str(machine), float(str(days)), int(str(since)), float(str(usual)))
        for machine, days, since, usual in rows
    ]


@click.command("watch")
@click.argument(
    "index_file",
    metavar="INDEX",
    type=NamedPath(exists=True, dir_okay=False, path_type=Path),
)
@KEY
@click.option("--store", required=True, metavar="ADDRESS", help="The fleet's database.")
@click.option(
    "--ring",
    default="canary",
    show_default=True,
    help="Ring in which denials are counted.",
)
@click.option(
    "--back-to",
    default="all",
    show_default=True,
    help="Ring to whose version this ring returns.",
)
@click.option(
    "--machines",
    type=click.IntRange(1, 100_000),
    default=2,
    show_default=True,
    help="Count only calls seen on at least this many machines: a compromised machine can cause any number of denials.",
)
@click.option(
    "--factor",
    type=click.FloatRange(1, 1000),
    default=4.0,
    show_default=True,
    help="Report if denials exceed those of the previous week by this factor.",
)
@click.option(
    "--least",
    type=click.IntRange(1, 1_000_000),
    default=10,
    show_default=True,
    help="Report only machines with at least this many denials.",
)
@JSON
def watch_command(
    index_file: Path,
    *,
    key_file: Path,
    store: str,
    ring: str,
    back_to: str,
    machines: int,
    factor: float,
    least: int,
    as_json: bool,
) -> None:
    """Return a ring to the bundle of another ring if its denials increased sharply.

    This command is for a timer on the machine that signs the index.  It compares the
    denials of each machine in the ring with the machine's own past, and signs INDEX again
    if enough machines have far more denials than before.  A bundle that removes
    permissions causes denials: do not watch it, or increase --machines.

    Exit code: 0 no sharp increase, 1 the ring returns, or refused.
    """
    try:
        index = _index_in(index_file)
        now = time.time()
        new, old = index.ring(ring, now), index.ring(back_to, now)
    except BundleError as error:
        raise RefusedError(tr("cannot use {index_file}: {error}", index_file=index_file, error=printable(str(error), 300)), hint=tr("to sign a new index, run 'brokerctl policy bundle index'")) from error  # fmt: skip
    # guard: a ring does not return to what another one does not have yet
    if old.not_before > now:
        raise RefusedError(
            tr(
                "cannot watch ring '{ring}': ring '{back_to}', to which it would "
                "return, does not have version {version} yet",
                ring=printable(ring, 60),
                back_to=printable(back_to, 60),
                version=old.version,
            ),
            hint=tr(
                "sign the index with the bundle that this ring has now, or "
                "specify another --back-to"
            ),
        )
    denials: list[Denials] = []
    if new.version != old.version:
        denials = _denials(store, f"{index.name} {new.version}")
    high = [one for one in denials if one.jumped(factor, least)]
    back = len(high) >= machines
    if back:
        _sign_back(index, index_file, key_file, {ring: replace(old, not_before=0)})
    if as_json:
        render.json_line(
            {
                "name": index.name,
                "version": new.version,
                "machines": len(denials),
                "jumped": [one.machine for one in high],
                "back_to": old.version if back else None,
            }
        )
    names = ", ".join(printable(one.machine, 60) for one in high[:5])
    render.note(
        f"version {new.version} of '{index.name}': denials increased on {len(high)} "
        f"of {render.count(len(denials), 'machine')}" + (f": {names}" if names else "")
    )
    if back:
        render.note(
            tr("{ring} returns to version {version}", ring=ring, version=old.version)
        )
        sys.exit(1)


def _sign_back(
    index: RolloutIndex, file: Path, key_file: Path, rings: dict[str, RingEntry]
) -> None:
    """Sign the index with these rings, and replace its file."""
    with one_at_a_time(file.parent, doing="sign the index"):
        # guard: an index that was signed meanwhile is not signed over
        if _index_in(file) != index:
            raise RefusedError(
                tr(
                    "cannot sign {file}: another process has signed it in the meantime",
                    file=file,
                ),
                hint=tr("run the command again"),
            )
        serial = max(int(time.time()), index.serial + 1)
        made = replace(index, serial=serial, rings={**index.rings, **rings})
        put(file, sign_index(private_key(key_file), made))
