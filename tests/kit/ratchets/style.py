"""Count what CONTRIBUTING.md ("Language") rules out; no commit may raise a count.

``python -m tests.kit.ratchets.style FILE...`` prints each hit; ``--check`` compares the
counts of all files with tests/style.tsv, in which a new file has none; ``--write``
records counts that have become smaller, and refuses others.  A file that git sees as
moved keeps its counts.  It counts occurrences, never lengths: nothing is gained by
cutting a text.  ``style: REASON`` in a comment of the line is an exception.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.kit.ratchets.tree import ROOT, git, read_rows, tracked_files, write_rows

RECORD = ROOT / "tests/style.tsv"
HEADING = (
    "hits of the style check by file; printed by 'make style WRITE=1'; do not edit"
)
GENERATED = frozenset(
    {
        "docs/features.md",
        "docs/messages.md",
        "docs/modules.md",
        "docs/wayland-messages.md",
    }
)
"""Pages that are checked at their sources."""
NAMES = frozenset(
    """found made held told said asked kept wanted shown named given taken known heard
    seen begun gone lost meant left words word one ones ours theirs mine own most whole
    rest what where why over at before place places room way party gift errand desk
    telling hearing hands patience news""".split()  # noqa: SIM905 - read as text
)
"""Names of locals and parameters that say how a value was obtained, not what it is."""
CLASS_HEADS = frozenset(
    """Told Said Held Heard Seen Found Given Kept Asked Wanted Known Shown Place Places
    Room Way Party Gift Errand Desk Telling Hearing Hands Words Word Vouched Attended
    Teller Arrival""".split()  # noqa: SIM905 - read as text
)
"""Last parts of class names that are not nouns of the field."""
_FUNCTION = re.compile(
    r"_(words?|places?|told|said|held|kept|wanted|asked|gone|given)$|^(tell|say|hear|let)_"
)
_CLASS_PART = re.compile(r"[A-Z][a-z0-9]*")
_FRAGMENT = re.compile(
    r"(Of|With|Without|By|For|To|From|Not|Also|And|As|Else|Then|But|Until|It|None|One"
    r"|Where|That|There|If|Its|No|Those|Whose|So)\b"
)
_PROSE = {
    "fragment 'Of ...'": r"^Of (a|an|the|one|each|all|two|its|this|those|every|what)\b",
    "possessive as noun": (
        r"\b(ours|theirs)\b|\bof (a|an|the) [a-z]+'s(?=[,.;:)]|$| (in|is|are|has|have|that"
        r"|which|who|and|or|at|by|as|on|with|for|to|from|of|it)\b)"
    ),
    "preposition and which": r"\b(by|of|with|from|after|under|through) (which|whom)\b",
    "where for if": r"\bwhere (a|an|no|none|nobody|both|they) ",
    "none as predicate": r"(?<!there )\b(is|are|was|to) none\b|\bnone (is|are)\b",
    "is no NOUN": (
        r"(?<!there )\b(is|are|was) no (?!longer|more|such|one\b|need)[a-z]"
    ),
    "people verbs": (
        r"\b(is|are|was|were|been|be) (not )?(told|said|heard|believed)\b"
        r"|\b(hears?|learns?) (of|from|its|the)\b"
    ),
    "as for like": (
        r"\bas (that|those|the other|the others) (of|has|have|had|is|are)\b"
        r"|, as (that|those) "
    ),
    "but for except": (
        r"\b(all|any|every|each|everything|nothing|none|nobody) but\b|\bbut for\b"
    ),
    "old adverb": r"\b(anew|beside|whence|thereby)\b",
    "stands, lies or goes by": (
        r"\b(stands?|lies|goes|lives) (in|at|by|with|beside|where|once|on)\b"
    ),
    "two semicolons": r";[^;]*;",
}
PROSE = {rule: re.compile(pattern) for rule, pattern in _PROSE.items()}
_EXCEPTION = re.compile(r"(#|<!--) style: \S")


@dataclass(frozen=True, slots=True)
class Hit:
    """A line, the rule that it breaks, and the name or text that does."""

    line: int
    rule: str
    text: str


def hits_in(name: str, text: str) -> Iterator[Hit]:
    """Yield the hits of a Python or Markdown file without its marked exceptions.

    Raises SyntaxError for Python that cannot be parsed.
    """
    lines = text.splitlines()
    for hit in _hits_in(name, text):
        if not _EXCEPTION.search(lines[hit.line - 1]):
            yield hit


def _hits_in(name: str, text: str) -> Iterator[Hit]:
    prose: Iterator[tuple[int, str]]
    if name.endswith(".py"):
        nodes = list(ast.walk(ast.parse(text)))
        for node in nodes:
            match node:
                case ast.ClassDef():
                    yield from _class_hits(node)
                    yield from _attribute_hits(node.body)
                case ast.Module():
                    yield from _attribute_hits(node.body)
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    yield from _function_hits(node)
                case _:
                    pass
        prose = _python_prose(text, nodes)
    else:
        prose = enumerate(text.splitlines(), 1)
    for number, line in prose:
        for rule, pattern in PROSE.items():
            if pattern.search(line):
                yield Hit(number, rule, line.strip())


def _class_hits(node: ast.ClassDef) -> Iterator[Hit]:
    if (_CLASS_PART.findall(node.name) or [""])[-1] in CLASS_HEADS:
        yield Hit(node.lineno, "class name", node.name)


def _function_hits(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Hit]:
    bare = node.name.lstrip("_")
    if bare in NAMES or _FUNCTION.search(bare):
        yield Hit(node.lineno, "function name", node.name)
    arguments = node.args
    names = {
        argument.arg
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    }
    for child in ast.walk(node):
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            names.add(child.id)
    for name in sorted(names & NAMES):
        yield Hit(node.lineno, "local or parameter", name)


def _attribute_hits(body: list[ast.stmt]) -> Iterator[Hit]:
    for statement, following in pairwise(body):
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            match following:
                case ast.Expr(ast.Constant(str() as docstring)) if _FRAGMENT.match(
                    docstring
                ):
                    yield Hit(following.lineno, "attribute docstring", docstring)
                case _:
                    pass


def _python_prose(text: str, nodes: list[ast.AST]) -> Iterator[tuple[int, str]]:
    for node in nodes:
        match node:
            case ast.Expr(ast.Constant(str() as docstring)):
                for number, line in enumerate(docstring.split("\n"), node.lineno):
                    yield number, line.strip()
            case _:
                pass
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("# ")


def measure() -> Counter[tuple[str, str]]:
    """Return the number of hits by file, apart for names and for prose."""
    counts: Counter[tuple[str, str]] = Counter()
    for name, text in tracked_files(".py", ".md"):
        if name not in GENERATED:
            counts.update(
                (name, "prose" if hit.rule in PROSE else "names")
                for hit in hits_in(name, text)
            )
    return counts


def raised(
    counts: dict[tuple[str, str], int],
    record: dict[tuple[str, str], int],
    moved: dict[str, str],
) -> list[str]:
    """Return a sentence for each file with more hits than are recorded.

    ``moved``: the previous path of each file that was moved.
    """
    previous: Counter[str] = Counter()
    now: Counter[str] = Counter()
    for (name, _), count in record.items():
        previous[name] += count
    for (name, _), count in counts.items():
        now[name] += count
    # A moved file has a row of its new name once this move is recorded.
    allowed = {name: previous[name] or previous[moved.get(name, name)] for name in now}
    return [
        f"{name}: {now[name]} hits, and {allowed[name]} are recorded"
        for name in sorted(now)
        if now[name] > allowed[name]
    ]


def _moved_files() -> dict[str, str]:
    """Return the recorded path of each file that was moved since the record's commit."""
    commit = git(
        "log", "-1", "--format=%H", "--", str(RECORD.relative_to(ROOT))
    ).strip()
    if not commit:
        return {}
    listing = git("diff", "--find-renames", "--diff-filter=R", "--name-status", commit)
    rows = [line.split("\t") for line in listing.splitlines()]
    return {after: previous for _, previous, after in rows}


def main(arguments: list[str]) -> int:
    """Print the hits of some files, or check or record all counts."""
    if files := [argument for argument in arguments if not argument.startswith("--")]:
        for file in files:
            for hit in hits_in(file, Path(file).read_text()):
                print(f"{file}:{hit.line}: {hit.rule}: {hit.text}")
        return 0
    counts = measure()
    problems: list[str] = []
    if RECORD.exists():
        problems = raised(counts, read_rows(RECORD), _moved_files())
    print(f"{sum(counts.values()):8,}  hits of the style check")
    if problems:
        print("\n".join(f"style: {problem}" for problem in problems), file=sys.stderr)
        print(
            "style: 'python -m tests.kit.ratchets.style FILE' prints them;"
            ' CONTRIBUTING.md, "Language", says what to write instead',
            file=sys.stderr,
        )
        return 1
    if "--write" in arguments:
        write_rows(RECORD, HEADING, counts)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
