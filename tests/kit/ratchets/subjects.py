"""Check subjects of commits: ``component: imperative verb and object``, 72 characters.

``python -m tests.kit.ratchets.subjects`` checks all commits since the ratchet began;
``--message FILE`` checks one message, for a commit-msg hook.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.kit.ratchets.tree import git

SINCE = "4c697a17e"
"""The last commit that is not checked."""
LENGTH = 72
VERBS = frozenset(
    """add allow answer apply avoid ask bind block bound build bump cache call change
    check choose clean clear close compare compute convert correct count cover create cut
    declare deny describe detect disable do document draw drop enable end ensure explain
    export expire extend fix follow forward generate give group handle hide hold ignore
    implement import improve include install join keep kill label limit link list load
    lock log lower make map mark measure mention merge mount move name notify offer open
    parse pass pin point prefer prepare prevent print probe raise read receive record
    reduce refactor refuse register reject release remove rename repair replace report
    require reserve reset resolve restart restore retry return reuse revert rewrite round
    run select send separate serve set share shorten show simplify skip sort split
    start state step stop store support suspend switch synchronize test track translate
    try unify update use validate verify wait warn watch write""".split()  # noqa: SIM905 - read as text
)
_SUBJECT = re.compile(r"(?P<component>[^:]{1,45}): (?P<verb>[A-Za-z]+)\b")


def problem_of(subject: str) -> str | None:
    """Return what is wrong with a subject, or None."""
    match = _SUBJECT.match(subject)
    if match is None:
        return "not 'component: verb object'"
    if match["verb"] not in VERBS:
        return f"{match['verb']!r} is not one of the verbs in tests/kit/ratchets/subjects.py"
    if len(subject) > LENGTH:
        return f"{len(subject)} characters; at most {LENGTH}"
    if ";" in subject:
        return "two changes: make two commits"
    return None


def main(arguments: list[str]) -> int:
    """Check one message, or all subjects since ``SINCE``; return the exit code."""
    match arguments:
        case ["--message", file]:
            subjects = [Path(file).read_text().partition("\n")[0]]
        case _:
            try:
                log = git("log", "--no-merges", "--format=%s", f"{SINCE}..HEAD")
            except subprocess.CalledProcessError as error:
                reason = error.stderr.strip()
                print(f"subjects: skipped, the history is not here: {reason}")
                return 0
            subjects = log.splitlines()
    problems = [(subject, problem_of(subject)) for subject in subjects]
    for subject, problem in problems:
        if problem:
            print(f"subjects: {subject!r}: {problem}", file=sys.stderr)
    print(f"{len(subjects):8,} subjects of commits checked")
    return int(any(problem for _, problem in problems))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
