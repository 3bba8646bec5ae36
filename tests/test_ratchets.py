"""A ratchet fails if a count grows, and only then."""

from __future__ import annotations

import pytest

from tests.kit.ratchets import calls, figures, style, subjects, tree

CLEAN = '''"""Return records."""


def find_record(names):
    """Return the first record."""
    record = names[0]
    return record
'''


def test_hits_none_in_plain_module():
    assert list(style.hits_in("module.py", CLEAN)) == []


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("record = names", "found = names", "local or parameter"),
        ("def find_record(names)", "def find_record(words)", "local or parameter"),
        ("def find_record", "def tell_record", "function name"),
        (
            "def find_record",
            "class Room:\n    x = 1\n\n\ndef find_record",
            "class name",
        ),
        ("def find_record", 'A = 1\n"""Of one."""\n\n\ndef find_record', "attribute"),
        ("the first record", "what is kept anew", "old adverb"),
        ("record = names[0]", "record = names[0]  # by which", "preposition and which"),
    ],
)
def test_hit_for_each_kind_of_name_and_text(old, new, rule):
    assert CLEAN.count(old) >= 1
    hits = list(style.hits_in("module.py", CLEAN.replace(old, new, 1)))
    assert [hit.rule for hit in hits if hit.rule.startswith(rule)]


def test_hit_on_page_and_none_with_reason():
    page = "It is built anew.\n"
    assert [hit.rule for hit in style.hits_in("page.md", page)] == ["old adverb"]
    excepted = page.replace(".\n", ". <!-- style: a quotation -->\n")
    assert not list(style.hits_in("page.md", excepted))


def test_style_refused_for_new_hits_and_new_files():
    record = {("a.py", "names"): 2, ("b.py", "prose"): 1}
    assert not style.raised(record, record, {})
    assert not style.raised({("a.py", "prose"): 2}, record, {})
    [problem] = style.raised({("a.py", "names"): 2, ("a.py", "prose"): 1}, record, {})
    assert problem == "a.py: 3 hits, and 2 are recorded"
    assert style.raised({("new.py", "names"): 1}, record, {})
    assert not style.raised({("new.py", "names"): 1}, record, {"new.py": "b.py"})


def test_growth_reported_for_code_only():
    record = {("broker/core", figures.CODE): 10, ("docs", figures.WORDS): 5}
    assert not figures.growth(record, record)
    assert not figures.growth({**record, ("docs", figures.WORDS): 6}, record)
    moved = {("policy", figures.CODE): 10, ("docs", figures.WORDS): 5}
    assert not figures.growth(moved, record)
    [problem] = figures.growth({**record, ("tests/kit", figures.CODE): 1}, record)
    assert problem == "tests and fuzz, lines of code: 1, and 0 are recorded"


def test_recorded_rows_read_as_written(tmp_path):
    path = tmp_path / "rows.tsv"
    rows = {("a.py", "names"): 2, ("docs", "words"): 7}
    tree.write_rows(path, "a heading", rows)
    assert tree.read_rows(path) == rows


@pytest.mark.parametrize(
    ("subject", "problem"),
    [
        ("menu open: retry the failed file, not the last one", None),
        ("menu: what is tried again is what has failed", "not one of the verbs"),
        ("retry the failed file", "not 'component"),
        ("menu: fix one; add another", "two changes"),
        ("menu: add " + "x" * 72, "at most 72"),
    ],
)
def test_subject_judged_by_form_verb_and_length(subject, problem):
    answer = subjects.problem_of(subject)
    assert (answer is None) if problem is None else (problem in answer)


def test_growth_of_calls_reported():
    record = {(figures.CALLS, calls.ARMS): 10}
    assert not figures.growth({(figures.CALLS, calls.ARMS): 9}, record)
    [problem] = figures.growth({(figures.CALLS, calls.ARMS): 11}, record)
    assert problem.startswith(f"{calls.ARMS}: 11")
