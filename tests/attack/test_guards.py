"""Each guard is marked in the source, has a row, and is missed when it is gone."""

from __future__ import annotations

import builtins
import dis
import importlib
import json
import keyword
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import CodeType

import pytest

from tests.kit.guards import mutation
from tests.kit.guards.mutation import (
    FORKS,
    ROOT,
    Guard,
    MarkError,
    compile_with,
    compile_without,
    marks,
    missed,
    turned_off,
)
from tests.kit.suite.forks import HUNG, NONE_PASSED

TABLES = {
    path.stem: importlib.import_module(f"tests.kit.guards.{path.stem}").GUARDS
    for path in sorted(Path(mutation.__file__).parent.glob("*.py"))
    if path.stem not in {"__init__", "mutation"}
}
ROWS = [guard for table in TABLES.values() for guard in table]
_text = cache(Path.read_text)
_marks = cache(marks)  # not while collecting: every worker does that


@pytest.mark.parametrize(
    "guard",
    [
        pytest.param(guard, id=f"{name}: {guard.name}")
        for name, table in TABLES.items()
        for guard in table
    ],
)
def test_guard_is_marked_and_its_source_changes_without_it(guard):
    assert guard.name in _marks(), "no comment '# guard: NAME' has this row's name"
    text = _text(_marks()[guard.name])
    assert lost_names(guard, text) == set()
    assert unknown_names(guard, text) == set()
    assert (ROOT / guard.test).is_file()
    assert not guard.word.startswith("-"), "a -k expression without its option"
    # Parts of names and of parameters; a renamed test would no longer match them.
    text = (guard.test + _text(ROOT / guard.test)).lower()
    words = re.findall(r"[^ ()]+", guard.word.lower())
    assert [w for w in words if w not in text and w not in {"and", "or", "not"}] == []


def unknown_names(guard, text):
    """Names of a row that are neither in its file nor its own: a NameError, no hole."""
    code = re.sub(r"""(?:\b[bfr])?("[^"]*"|'[^']*')""", " 0 ", guard.becomes)
    made = re.findall(r"\bfor (.+?) in\b|\b(?:as|import) (\w+)|\b(\w+) *:?=[^=]", code)
    known = {*re.findall(r"\w+", str(made)), *dir(builtins)}
    known |= {*keyword.kwlist, *keyword.softkwlist, *re.findall(r"\w+", text)}
    return set(re.findall(r"(?<![.\w])[A-Za-z_]\w*", code)) - known


def lost_names(guard, text):
    """Names that are still read where the row has taken them away: a NameError, too."""
    before = set(functions_of(compile_with(text, guard)))
    changed = set(functions_of(compile_without(text, guard))) - before
    lost = {name for code in changed for name in reads(code)} - {*dir(builtins)}
    lost -= {name for code in before for name in reads(code)}
    return lost - set(compile(text, "", "exec").co_names) if lost else lost


def functions_of(code):
    """Code and that of all functions and classes in it, without their line numbers."""
    yield code.replace(co_firstlineno=1, co_linetable=b"", co_consts=(), co_filename="")
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from functions_of(inner)


def reads(code):
    """Names of the module or of builtins that it reads; a class binds some itself."""
    found = {"LOAD_GLOBAL": set(), "LOAD_NAME": set(), "STORE_NAME": set()}
    for step in dis.get_instructions(code.replace(co_consts=(None,) * 999)):
        found.get(step.opname, set()).add(step.argval)
    return found["LOAD_GLOBAL"] | (found["LOAD_NAME"] - found["STORE_NAME"])


@pytest.mark.parametrize(
    ("name", "becomes", "lost"),
    [
        ("one", "", {"small"}),
        ("one", "small = True", set()),
        ("two", "if False:", {"size"}),
        ("two", "return data", set()),  # what follows is never run
    ],
)
def test_a_row_that_takes_away_what_is_read_is_found(name, becomes, lost):
    assert lost_names(Guard(name, becomes, "tests/none.py"), READS) == lost


READS = """\
import os
class Door:
    most = 5
    def enter(self, data):
        # guard: one
        small = len(data) < Door.most
        # guard: two
        if (size := len(data)) and not small:
            raise ValueError(os.name)
        return size
"""


def test_a_row_that_names_what_is_not_there_is_found():
    guard = Guard("x", "if gone(untrusted_size) and x == 'no':", "tests/none.py")
    assert unknown_names(guard, SOURCE) == {"gone", "x"}


def test_guard_markers_each_have_a_row():
    assert sorted(_marks().keys() - {guard.name for guard in ROWS}) == []


def test_guard_names_are_used_once():
    assert sorted({guard.name for guard in ROWS}) == sorted(
        guard.name for guard in ROWS
    )


SOURCE = """\
class Door:
    def enter(self, untrusted_size):
        # guard: sizes
        if untrusted_size > LIMIT and not (
            self.large
        ):
            raise TooLarge("# guard: not a marker")
        # guard: counted
        self.count += 1
        # guard: every kind
        # guard: no third kind
        match untrusted_size:
            # guard: small ones
            case 1 | 2 if self.small:
                return 1
            case _:
                return 0

    # guard: decorated
    @once
    def leave(self):
        try:
            self.end()
        # guard: ends that fail
        except OSError:
            raise
"""


def _off(name, becomes, source=SOURCE, **more):
    return turned_off(source, Guard(name, becomes, "tests/none.py", **more))


def test_turned_off_replaces_the_head_and_keeps_the_body():
    text = _off("sizes", "if False:")
    assert "if False:\n            raise TooLarge" in text
    assert "LIMIT" not in text


def test_turned_off_replaces_and_removes_statements():
    assert "self.count += 2" in _off("counted", "self.count += 2")
    assert "count" not in _off("counted", "")
    assert "match" not in _off("counted", "", spans=2)
    assert "return None" in _off("every kind", "return None")
    assert "pass" in _off("x", "", "if a:\n    # guard: x\n    stop()\n")


def test_turned_off_replaces_clauses_and_decorated_functions():
    assert "case _ if True:\n                return 1" in _off(
        "small ones", "case _ if True:"
    )
    assert "except ValueError:\n            raise" in _off(
        "ends that fail", "except ValueError:"
    )
    assert "@once" not in _off("decorated", "def leave(self):")


def test_turned_off_finds_a_guard_that_was_formatted_and_moved():
    moved = SOURCE.replace("(\n            self.large\n        )", "self.large")
    moved = "\n".join(f"    {line}" for line in moved.splitlines())
    moved = f"if True:\n{moved}\n"
    assert "if False:\n                raise TooLarge" in _off(
        "sizes", "if False:", moved
    )


@pytest.mark.parametrize(
    ("name", "becomes", "more"),
    [
        ("none", "", {}),
        ("not a marker", "", {}),
        ("counted", "self.count  +=  1", {}),
        ("sizes", "if untrusted_size > LIMIT and not self.large:", {}),
        ("counted", "", {"spans": 3}),
    ],
)
def test_turned_off_refuses_what_would_change_nothing(name, becomes, more):
    with pytest.raises(MarkError):
        _off(name, becomes, **more)


def test_turned_off_refuses_a_marker_without_a_statement():
    with pytest.raises(MarkError, match="below"):
        _off("x", "", "stop()\n# guard: x\n")


def test_turned_off_refuses_a_marker_inside_of_a_call():
    """The statement after it would be what is replaced."""
    with pytest.raises(MarkError, match="inside"):
        _off("x", "b=2,", "stop(\n    a=1,\n    # guard: x\n    b=1,\n)\nend()\n")


STRINGS = r"""
a = QQQ \QQQ "
# guard: in a string
QQQ, "# guard: in a line", '"', "\"", "'"  # it's "a comment QQQ
# guard: real
pass
b = "a \
# guard: in a line that is continued"
"""


@pytest.mark.parametrize("quotes", ['"' * 3, "'" * 3])
def test_marks_in_strings_mark_nothing(quotes):
    text = STRINGS.replace("QQQ", quotes)
    for name in ("in a string", "in a line", "in a line that is continued"):
        with pytest.raises(MarkError, match="no guard is marked"):
            _off(name, "stop()", text)
    assert "stop()" in _off("real", "stop()", text)


def test_marks_refuse_a_name_that_occurs_twice(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "broker" / name).mkdir(parents=True)
        (tmp_path / "broker" / name / "m.py").write_text("# guard: x\npass\n")
    with pytest.raises(MarkError, match="two guards are named 'x'"):
        marks(tmp_path)


TESTS = """\
import subprocess
import pytest
def test_good(): pass
def test_bad(): assert False
def test_skipped(): pytest.skip()
def test_hung():
    import time
    time.sleep(1000)
def test_left():
    subprocess.Popen(["sleep", "1000"], start_new_session=True)
"""


def test_a_fork_tells_passed_failed_skipped_hung_and_none(tmp_path):
    (tmp_path / "test_it.py").write_text(TESTS)
    words = ["good", "bad", "skipped", "hung", "other", "left", "good or skipped"]
    runs = [(["-q", "test_it.py", "-k", word], 30) for word in words]
    runs[3] = (runs[3][0], 0.5)
    done = subprocess.run(
        [sys.executable, "-P", ROOT / FORKS],
        input="".join(f"{json.dumps(run)}\n" for run in runs),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    found = [int(line) for line in done.stdout.split()]
    assert found == [0, 1, NONE_PASSED, HUNG, 5, 0, 0]


@pytest.mark.long
@pytest.mark.skipif(
    not os.environ.get("VITRAIL_MUTATE"),
    reason="an hour alone: 'make mutate' runs it",
)
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("table", TABLES)
async def test_no_guard_can_go_unnoticed(table):
    assert await missed([], TABLES[table]) == []
