"""Files of rules put together: order, shadowing, inclusion.

A set holds every rule in the order in which it is asked.  Files come from a
``Tree``: a directory (``rulefiles``), or files in memory (``tools.files_in_memory``).

The authority and brokerctl run this when they read rules.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from policy import limits
from policy.errors import WHOLE_FILE, Problem, Span, visible
from policy.rules.grammar import Directive, Form, parse_lines
from policy.rules.rule import Rule, barrier

SUFFIX = ".policy"
_FILE_NAME = re.compile(r"[0-9a-z_.-]+")
MAIN = "__main__"
"""A map with this name holds one file; the others are there to be included."""


class ReadError(Exception):
    """A file or directory cannot be read; the text says why."""


class Tree(Protocol):
    """A directory of rule files.  Paths are relative to it, or absolute."""

    def show(self, path: str) -> str:
        """Return the path as people should see it."""
        ...

    def read(self, path: str) -> bytes:
        """Return a file's content; raises ReadError."""
        ...

    def entries(self, path: str) -> list[str]:
        """Return the names of the files in a directory; raises ReadError."""
        ...


@dataclass(frozen=True)
class RuleSet:
    """All rules in order, and all problems in the order of the files.

    ``digest`` is the SHA-256, in hex, of what the rules mean.
    """

    rules: tuple[Rule, ...]
    problems: tuple[Problem, ...]
    digest: str
    files: tuple[str, ...]


def is_rule_file(name: str) -> bool:
    """Editors leave NAME.policy~ and .NAME.policy.swp about; those are not rules."""
    return name.endswith(SUFFIX) and not name.startswith(".")


def assemble(
    sources: Iterable[tuple[Tree, str]],
    *,
    compat: bool = False,
    ahead: Sequence[Problem] = (),
) -> RuleSet:
    """Build the set of rules from these files; they are sorted here, in C order.

    ``ahead`` are problems that may hide any rule (a directory that cannot be
    read): each is a barrier before all rules.
    """
    made = _Assembly(Form(compat))
    for problem in ahead:
        made.fail(problem)
    for tree, name in sorted(sources, key=lambda source: source[1]):
        made.add(tree, name)
    return made.finish()


class _Assembly:
    """Rules gathered so far."""

    def __init__(self, form: Form) -> None:
        """Set up an empty assembly; ``form`` is the files' grammar."""
        self._form = form
        self._rules: list[Rule] = []
        self._problems: list[Problem] = []
        self._files: list[str] = []
        self._stack: list[tuple[Tree, str]] = []
        self._full = False

    def fail(self, problem: Problem) -> None:
        """A problem after which the rules in force are unknown."""
        self._problems.append(problem)
        self._rules.append(barrier(problem))

    def add(self, tree: Tree, name: str) -> None:
        """Parse a file of the policy directory; report an invalid file name."""
        if name != MAIN and not _FILE_NAME.fullmatch(name):
            self.fail(
                Problem(
                    tree.show(name),
                    WHOLE_FILE,
                    f"'{visible(name)}' is not a valid name of a rule file",
                    "0-9, a-z, '_', '.' and '-', with .policy at the end",
                    "rename it",
                )
            )
            return
        self._file(tree, name, self._form, None)

    def _file(self, tree: Tree, path: str, form: Form, cause: Problem | None) -> None:
        """Add a file's lines; ``cause`` is where it was included, None at the top."""
        shown = tree.show(path)
        where = cause or Problem(shown, WHOLE_FILE, "")
        if self._refused(tree, path, where):
            return
        try:
            content = tree.read(path)
        except ReadError as error:
            text = f"'{visible(path)}' cannot be included: " if cause else ""
            self.fail(_with(where, f"{text}{error}"))
            return
        self._files.append(shown)
        self._stack.append((tree, path))
        for item in parse_lines(shown, content, form, self._problems.append):
            if len(self._rules) >= limits.RULES:
                span = Span(item.line, 1, item.line, 2)
                most = f"more than {limits.RULES} rules"
                self._stop(Problem(shown, span, most, "", "", item.text))
            if self._full:
                break
            if isinstance(item, Rule):
                self._rules.append(item)
            else:
                self._directive(tree, shown, item, form)
        self._stack.pop()

    def _refused(self, tree: Tree, path: str, where: Problem) -> bool:
        """Return whether an include is a cycle, too deep or one too many.

        Note a problem.
        """
        reason = ""
        if (tree, path) in self._stack:
            reason = f"'{visible(path)}' includes itself"
        elif len(self._stack) > limits.INCLUDE_DEPTH:
            reason = f"includes are nested deeper than {limits.INCLUDE_DEPTH}"
        if reason:
            self.fail(_with(where, reason))
            return True
        if len(self._files) >= limits.RULE_FILES:
            self._stop(_with(where, f"more than {limits.RULE_FILES} rule files"))
        return self._full

    def _stop(self, problem: Problem) -> None:
        if not self._full:
            self._full = True
            self.fail(problem)

    def _directive(self, tree: Tree, shown: str, item: Directive, form: Form) -> None:
        """Carry out an include directive at its place."""
        if item.name == "!compat-4.0":
            return  # with compat, and without an old directory: nothing is in it
        span = Span(item.line, 1, item.line, len(item.text) + 1)
        cause = Problem(shown, span, "", source_line=item.text)
        path = posixpath.normpath(item.parameters[-1])
        if item.name == "!include-dir":
            self._directory(tree, path, form, cause)
            return
        if item.name == "!include-service":
            form = Form(form.compat, (item.parameters[0], item.parameters[1]))
        self._file(tree, path, form, cause)

    def _directory(self, tree: Tree, path: str, form: Form, cause: Problem) -> None:
        """Add the files of an included directory, in the order of their names."""
        try:
            names = sorted(filter(is_rule_file, tree.entries(path)))
        except ReadError as error:
            self.fail(_with(cause, f"'{visible(path)}' cannot be included: {error}"))
            return
        for name in names:
            if not _FILE_NAME.fullmatch(name):
                text = f"'{visible(name)}' is not a valid name of a rule file"
                self.fail(_with(cause, text))
            else:
                self._file(tree, posixpath.normpath(f"{path}/{name}"), form, cause)

    def finish(self) -> RuleSet:
        """Return the set of the rules and problems so far."""
        problems = self._problems
        beyond = len(problems) - limits.RULE_PROBLEMS
        if beyond > 0:
            last = problems[limits.RULE_PROBLEMS]
            problems = problems[: limits.RULE_PROBLEMS]
            problems.append(Problem(last.file, last.span, f"{beyond} more problems"))
        rules = tuple(self._rules)
        return RuleSet(rules, tuple(problems), digest_of(rules), tuple(self._files))


def digest_of(rules: Iterable[Rule]) -> str:
    """Return the SHA-256, in hex, of what rules mean, in their order."""
    meaning = hashlib.sha256(b"vitrail rules 1\n")
    for rule in rules:
        meaning.update(f"{rule.meaning()!r}\n".encode("utf-8", "backslashreplace"))
    return meaning.hexdigest()


def _with(cause: Problem, message: str) -> Problem:
    return Problem(cause.file, cause.span, message, source_line=cause.source_line)
