"""Lines that are refused: where, why, and what would be right."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy import limits
from policy.rules.engine import Engine, PolicyCall
from policy.tools.files_in_memory import rules_of_map
from policy.tools.qubes.world_json import world_from_json


def _problems(text, **more):
    return rules_of_map({"10-a.policy": text, **more}).problems


@pytest.mark.parametrize(
    ("line", "column", "message", "hint"),
    [
        ("a * work vault", 1, "4 fields", ""),
        ("a * work vault alow", 16, "'alow' is not an action", "did you mean 'allow'?"),
        ("a * work vault DENY", 16, "'DENY' is not an action", "did you mean 'deny'?"),
        ("a+x * work vault deny", 2, "'+' is not allowed in a service", "next column"),
        ("a/b * work vault deny", 2, "'/' is not allowed in a service", ""),
        ("a x work vault deny", 3, "must begin with '+'", ""),
        ("a +x/y work vault deny", 5, "'/' is not allowed in an argument", ""),
        ("* +x work vault deny", 3, "only argument *", ""),
        ("a * @default vault deny", 5, "not allowed as a source", "another column"),
        ("a * @anyVM vault deny", 5, "not allowed as a source", "did you mean '@anyvm'?"),
        ("a * @tags:x vault deny", 5, "not allowed as a source", "did you mean '@tag:x'?"),
        ("a * @tag: vault deny", 5, "incomplete", ""),
        ("a * wo;rk vault deny", 5, "not a name", ""),
        ("a * work vault allow target=*", 29, "not allowed as a redirect", ""),
        ("a * work vault allow target=", 29, "redirect is empty", ""),
        ("a * work @default allow", 10, "needs the parameter target=", ""),
        ("a * work vault allow # why", 22, "cannot follow a rule", "a separate line"),
        ("a * work vault allow notify=ja", 29, "yes or no", ""),
        ("a * work vault allow notify=no notify=no", 32, "set twice", ""),
        ("a * work vault deny target=web", 21, "'deny' does not support 'target'", ""),
        ("a * work vault allow targt=web", 22, "unknown key 'targt'", "did you mean 'target'?"),
        ("a * work vault allow mime=image", 27, "invalid value of 'mime'", ""),
        ("a * work vault allow max-size=10X", 31, "invalid value of 'max-size'", ""),
        ("a * work vault allow rate=0/min", 27, "invalid value of 'rate'", ""),
        ("a * work vault allow host=*", 27, "invalid value of 'host'", ""),
        ("a * work vault allow scheme=https:", 29, "invalid value of 'scheme'", ""),
        ("a * work vault allow remember=session", 22, "'allow' does not support 'remember'", ""),
        ("a * work vault ask remember=ever", 29, "invalid value of 'remember'", ""),
        ("a * work vault deny mime=image/png", 21, "claims itself", "deny the rest"),
        ("a * work vault deny mode=watch", 26, "invalid value of 'mode'", ""),
        ("a\u00a0* work vault deny", 2, "hidden character U+00A0", "remove it"),
        ("# see\u202e", 6, "hidden character U+202E", "remove it"),
        ("# see\u2800", 6, "hidden character U+2800", "remove it"),
        ("# see\ufe01", 6, "hidden character U+FE01", "remove it"),
        ("!includ x", 1, "unknown directive", "did you mean '!include'?"),
        ("!include", 1, "takes PATH", ""),
        ("!include nothing", 1, "no such file", ""),
        ("!include-dir nothing", 1, "no such directory", ""),
        ("!include-service a x more", 20, "must begin with '+'", ""),
        ("!include 10-a.policy", 1, "includes itself", ""),
        ("!compat-4.0", 1, "not supported", "!include-service"),
    ],
)  # fmt: skip
def test_a_line_is_refused(line, column, message, hint):
    """At its column, with the reason, and a hint where there is one."""
    problems = _problems(f"# one\n{line}\n")
    assert len(problems) == 1, [p.message for p in problems]
    problem = problems[0]
    assert (problem.file, problem.span.line, problem.span.column) == (
        "10-a.policy",
        2,
        column,
    )
    assert message in problem.message
    assert hint in problem.hint
    assert problem.source_line == line


@pytest.mark.parametrize(
    ("more", "hint"),
    [
        ("max-size=10MB", "write 10M"),
        ("max-size=10MiB", "write 10M"),
        ("rate=3/minute", "write 3/m"),
        ("ttl=5min", "write 5m"),
        ("gesture=5sec", "write 5s"),
        ("max-size=lots", ""),
        ("rate=3/fortnight", ""),
    ],
)
def test_habits_of_writing(more, hint):
    """What others would write, as it is written here."""
    rules = rules_of_map({"1.policy": f"a * b c allow {more}\n"})
    assert [problem.hint for problem in rules.problems] == [hint]


@pytest.mark.parametrize("size", ["100k", "100K"])
def test_a_size_in_either_case(size):
    rules = rules_of_map({"1.policy": f"a * b c allow max-size={size}\n"})
    assert (rules.problems, rules.rules[0].limits.max_size) == ((), 102400)


def test_commas_between_columns():
    """As Qubes had them long ago."""
    (first, *_) = rules_of_map({"1.policy": "a, *, b, c, allow\n"}).problems
    assert first.hint == "separate the columns with blanks, not with commas"


def test_every_error_of_the_set_at_once():
    """Several on a line, in several files, also after an error."""
    files = {
        "20-b.policy": "x x @x @x maybe a=\n",
        "10-a.policy": "!include more\na * b c allow\n",
        "more": "a\n",
    }
    found = [(p.file, p.span.line, p.span.column) for p in rules_of_map(files).problems]
    assert found == [
        ("more", 1, 1),
        ("20-b.policy", 1, 3),
        ("20-b.policy", 1, 5),
        ("20-b.policy", 1, 8),
        ("20-b.policy", 1, 11),
    ]


def test_the_old_form():
    """!include-service: source, target, action, with $ and commas."""
    rules = rules_of_map(
        {"10-a.policy": "!include-service a +x old\n", "old": "$anyvm $adminvm ask,default_target=dom0\n$include:older\n", "older": "work vault deny\n"}
    )  # fmt: skip
    assert rules.problems == ()
    first, second = rules.rules
    assert (first.service, first.argument, first.source.text, first.target.text) == (
        "a",
        "+x",
        "@anyvm",
        "@adminvm",
    )
    assert (first.action, first.default_target.text, first.where) == (
        "ask",
        "dom0",
        "old:1",
    )
    assert (second.service, second.argument, second.where) == ("a", "+x", "older:1")


def test_files_in_c_order_and_others_left_alone():
    """Only *.policy, no dot-files; a name with other characters is an error."""
    line = "a * work vault deny\n"
    names = [
        "9-z.policy",
        "10-b.policy",
        "10-a.policy",
        ".x.policy",
        "y.policy~",
        "readme",
    ]
    rules = rules_of_map(dict.fromkeys(names, line))
    assert [r.file for r in rules.rules] == ["10-a.policy", "10-b.policy", "9-z.policy"]
    bad = rules_of_map(
        {"10-a.policy": line, "30-User.policy": line, "90-z.policy": line}
    )
    assert [p.file for p in bad.problems] == ["30-User.policy"]
    assert [bool(r.broken) for r in bad.rules] == [False, True, False]


@pytest.mark.parametrize(
    ("depth", "good"), [(limits.INCLUDE_DEPTH, True), (limits.INCLUDE_DEPTH + 1, False)]
)
def test_depth_of_inclusion(depth, good):
    """16 files below the first one, not 17."""
    files = {f"f{n}": f"!include f{n + 1}\n" for n in range(1, depth)}
    files |= {"10-a.policy": "!include f1\n", f"f{depth}": "a * b c deny\n"}
    assert (rules_of_map(files).problems == ()) == good


def test_a_cycle_of_two():
    """It is named, once, and the rest after it is still read."""
    rules = rules_of_map(
        {"10-a.policy": "!include b\nc * a b deny\n", "b": "!include 10-a.policy\n"}
    )
    assert [(p.file, p.span.line) for p in rules.problems] == [("b", 1)]
    assert rules.rules[-1].service == "c"


def test_files_that_double_with_every_level_end():
    """2**16 inclusions are refused after the first thousand."""
    files = {f"f{n}": f"!include f{n + 1}\n" * 2 for n in range(16)} | {
        "f16": "a * b c deny\n"
    }
    rules = rules_of_map({"10-a.policy": "!include f1\n", **files})
    assert f"more than {limits.RULE_FILES} rule files" in rules.problems[-1].message
    assert len(rules.problems) == 1


@pytest.mark.parametrize(
    ("number", "good"), [(limits.RULES, True), (limits.RULES + 1, False)]
)
def test_number_of_rules(number, good):
    """A hundred thousand, not one more."""
    assert (_problems("a * b c deny\n" * number) == ()) == good


@pytest.mark.parametrize(
    ("length", "good"),
    [(limits.LINE_CHARS, True), (limits.LINE_CHARS + 1, False), (1 << 20, False)],
)
def test_length_of_a_line(length, good):
    """4096 characters."""
    line = "a * b c deny" + " " * (length - 12)
    assert (_problems(line) == ()) == good


def test_the_digest_is_of_the_meaning():
    """Comments, blanks and file names do not change it; rules and order do."""
    one = rules_of_map({"10-a.policy": "a * b c deny\na * b dom0 allow\n"}).digest
    assert (
        rules_of_map(
            {"20-b.policy": "# x\n  a  *  b c deny\n\na * b @adminvm allow\n"}
        ).digest
        == one
    )
    assert (
        rules_of_map({"10-a.policy": "a * b dom0 allow\na * b c deny\n"}).digest != one
    )
    assert rules_of_map({"10-a.policy": "a * b c deny\n"}).digest != one


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.text(max_size=30)
        | st.sampled_from(["!include b", "!include-dir .", "a * b c allow"])
    ).map("\n".join),
    st.text(max_size=60),
    st.booleans(),
)
def test_any_text_gives_rules_or_problems(text, other, compat):
    """Never an exception; a barrier for each line that could not be read."""
    rules = rules_of_map({"10-a.policy": text, "b": other}, compat=compat)
    assert bool(rules.problems) == any(rule.broken for rule in rules.rules)


@pytest.mark.parametrize(
    "line",
    [
        "vitrail.OpenURL * work @anyvm alow",
        "vitrail.OpenURL * work allow",
        "vitrail.OpenURL work vault allow max-size=1K",
        "vitrail.OpenURL * work vault\u200b deny",
    ],
)
def test_a_line_that_cannot_be_read_denies_its_own_service(line):
    """The first word names the service, whatever follows; other services still work."""
    world = world_from_json(
        {"domains": {"work": {"type": "x"}, "vault": {"type": "x"}}}
    )
    text = f"{line}\nvitrail.FileCopy * work vault allow\nvitrail.OpenURL * * * allow\n"
    engine = Engine(rules_of_map({"10-a.policy": text}))
    answers = [
        engine.answer(PolicyCall(service, "+", "work", "vault"), world)
        for service in ("vitrail.FileCopy", "vitrail.OpenURL")
    ]
    assert [answer.verdict for answer in answers] == ["allow", "deny"]


@pytest.mark.parametrize(
    "line",
    [
        "* work vault allow",
        "work vault deny",
        "vitrail.OpenUrl * work vault alow",
        "vitrail.OpenURL * work vault allow\u2028vitrail.FileCopy * work vault deny",
        "\u200bvitrail.OpenURL * work vault deny",
    ],
)
def test_a_line_that_may_be_about_any_service_denies_all(line):
    """The service is missing or unknown, or a reader sees two lines."""
    world = world_from_json(
        {"domains": {"work": {"type": "x"}, "vault": {"type": "x"}}}
    )
    text = f"{line}\nvitrail.FileCopy * work vault allow\n"
    engine = Engine(rules_of_map({"10-a.policy": text}))
    call = PolicyCall("vitrail.FileCopy", "+", "work", "vault")
    assert engine.answer(call, world).verdict == "deny"
