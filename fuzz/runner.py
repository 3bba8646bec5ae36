"""What all fuzz targets share: coverage, the loop, the command line, the report.

A target states its invariant, and is one of two kinds:

* ``Admission``: an input's first byte picks a function, which is given the rest
  and returns an outcome in words; ``deep`` at its beginning says that the
  input got past the framing.  The mutator keeps inputs with new outcomes.
  With ``--atheris`` libFuzzer takes the mutator's place.
* ``play``: a function draws a session, mutates it, plays it to its end and
  returns how many of its parts were taken and how it ended.

Whatever they raise is a finding, printed with the played input.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class Meter:
    """Branch coverage, which has to begin before what is measured is imported.

    ``parts`` are patterns below the project's directory.  It measures only in
    the target that was started as a program, and not beside atheris.
    """

    def __init__(self, module: str, *parts: str) -> None:
        self.main = module == "__main__"
        self.atheris = self.main and "--atheris" in sys.argv
        self._meter = None
        if not self.main or self.atheris:
            return
        try:
            import coverage
        except ImportError:
            return
        include = [str(ROOT / part) for part in parts]
        self._meter = coverage.Coverage(branch=True, data_file=None, include=include)
        self._meter.start()

    def imports(self, *packages: str):
        """The context in which a target imports the tested code."""
        if not self.atheris:
            return nullcontext()
        import atheris

        return atheris.instrument_imports(include=list(packages))

    def report(self, *, missing: bool) -> None:
        """Print the table; ``missing`` with the lines that were not reached."""
        if self._meter is None:
            print("branch coverage: not measured ('coverage' is not installed)")
            return
        self._meter.stop()
        self._meter.report(file=sys.stdout, show_missing=missing)


# -- sessions --------------------------------------------------------------------------

One = Callable[[random.Random], tuple[int, str]]
"""Plays one session: how many parts of it were taken, and how it ended."""


def play(
    one: One, unit: str, *, seconds: float, seed: int, limit: int, of: str = ""
) -> Counter[str]:
    """Play until either is reached; counts ``unit``, ``connections``, each end.

    ``limit`` is one of units, or of what ``of`` names.  Every session has a
    generator of its own, so that it can be played again alone.  Counts also
    by how many KiB the process grew after the first tenth.
    """
    ends: Counter[str] = Counter()
    start, settled = time.monotonic(), 0
    while (past := time.monotonic() - start) < seconds and ends[of or unit] < limit:
        if not settled and max(past / seconds, ends[of or unit] / limit) > 0.1:
            settled = peak_kib()
        number = ends["connections"]
        try:
            count, ended = one(random.Random(f"{seed}/{number}"))
        except BaseException:
            print(f"FOUND by random.Random('{seed}/{number}')", file=sys.stderr)
            raise
        ends[unit] += count
        ends["connections"] += 1
        ends[f"end: {ended}"] += 1
    if settled:
        ends[GROWN] = peak_kib() - settled
    return ends


GROWN = "KiB that the process grew after the first tenth"


def peak_kib() -> int:
    """The most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def arguments(doc: str, *units: str, seconds: float = 60) -> argparse.Namespace:
    """The command line of a target that plays sessions."""
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=seconds)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    for unit in units:
        parser.add_argument(f"--{unit}", type=int, default=1 << 60)
    return parser.parse_args()


def show(ends: Counter[str], meter: Meter, *, seed: int, most: int = 40) -> None:
    """The number of runs, their ends, the reached code."""
    print(f"seed {seed}")
    if GROWN in ends:
        print(f"{ends.pop(GROWN):10} {GROWN}")
    for name, count in ends.most_common(most):
        print(f"{count:10} {name}")
    meter.report(missing=False)


# -- doors -----------------------------------------------------------------------------


class Admission:
    """A target of functions that take bytes."""

    def __init__(
        self,
        name: str,
        doors: Sequence[Callable[[bytes], str]],
        seeds: Callable[[], list[bytes]],
        mutate: Callable[[random.Random, bytes, list[bytes]], bytes],
        room: int = 1 << 20,
    ) -> None:
        """``room`` is how many bytes of an input count."""
        self.name, self.doors, self.room = name, doors, room
        self._seeds, self._mutate = seeds, mutate

    def run_one(self, data: bytes) -> str:
        """Run one input; return its outcome.  Anything raised is a finding."""
        if not data:
            return "empty"
        door = self.doors[data[0] % len(self.doors)]
        return f"{door.__name__}: {door(data[1 : self.room])}"

    def fuzz(
        self,
        seconds: float,
        seed: int,
        corpus_dir: Path | None,
        inputs: int = 1 << 60,
    ) -> Counter[str]:
        """Mutate until either is reached; return how often each outcome came."""
        rng = random.Random(seed)
        corpus = self._seeds()
        if corpus_dir is not None:
            corpus += [
                p.read_bytes() for p in sorted(corpus_dir.iterdir()) if p.is_file()
            ]
        outcomes: Counter[str] = Counter(self.run_one(data) for data in corpus)
        by_door: list[list[bytes]] = [[] for _ in self.doors]
        for data in corpus:
            if data:
                by_door[data[0] % len(self.doors)].append(data)
        end, played = time.monotonic() + seconds, 0
        while time.monotonic() < end and played < inputs:
            played += 1
            # A door first: the one with the most outcomes must not get all the time.
            number = rng.randrange(len(self.doors))
            data = self._mutate(rng, rng.choice(by_door[number]), corpus)
            try:
                outcome = self.run_one(data)
            except BaseException:
                print(f"FOUND by seed {seed}: {data!r}", file=sys.stderr)
                raise
            outcomes[outcome] += 1
            if outcomes[outcome] == 1:
                corpus.append(data)
                by_door[data[0] % len(self.doors)].append(data)
        return outcomes

    def report(self, outcomes: Counter[str], seconds: float) -> None:
        """Executions, deep ones, and both by door."""
        total = outcomes.total()
        deep = sum(n for outcome, n in outcomes.items() if ": deep" in outcome)
        print(
            f"{self.name}: {total} executions in {seconds:.0f} s, "
            f"{deep} passed the framing"
        )
        for door in self.doors:
            mine = [o for o in outcomes if o.startswith(f"{door.__name__}:")]
            runs = sum(outcomes[o] for o in mine)
            good = sum(outcomes[o] for o in mine if ": deep" in o)
            print(
                f"  {door.__name__:16} {runs:8} runs {good:8} deep {len(mine):6} outcomes"
            )

    def main(self, doc: str, meter: Meter) -> None:
        """The plain mutator, or atheris when asked for."""
        if meter.atheris:
            import atheris

            sys.argv.remove("--atheris")
            atheris.Setup(sys.argv, lambda data: self.run_one(data) and None)
            atheris.Fuzz()
            return
        parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
        parser.add_argument("--seconds", type=float, default=20.0)
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--inputs", type=int, default=1 << 60)
        parser.add_argument("--write-seeds", type=Path, help="write the seeds and end")
        parser.add_argument("corpus", nargs="?", type=Path)
        args = parser.parse_args()
        if args.write_seeds:
            args.write_seeds.mkdir(parents=True, exist_ok=True)
            for n, data in enumerate(self._seeds()):
                (args.write_seeds / f"{n:02}").write_bytes(data)
            return
        began = time.monotonic()
        outcomes = self.fuzz(args.seconds, args.seed, args.corpus, args.inputs)
        self.report(outcomes, time.monotonic() - began)
        meter.report(missing=True)
