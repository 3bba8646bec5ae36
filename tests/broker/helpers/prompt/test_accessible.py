"""The dialog's accessible objects: answers to a screen reader, and its requests."""

from __future__ import annotations

import pytest

from broker.helpers.prompt.accessible import (
    ACCESSIBLE,
    ACTION,
    PROPERTIES,
    ROOT,
    Accessible,
    UnknownError,
)
from broker.helpers.prompt.description import describe
from broker.ipc.prompt import Described, DescribedRow, decode_described, encode
from tests.broker.helpers.prompt.test_dialog import armed
from tests.kit.prompting import MANY, PHRASE

SHOWN = describe(armed(MANY), 10.0)


def tree(words=SHOWN):
    """The objects of a question, and the signals of its coming."""
    made = Accessible(":1.5")
    made.embedded((":1.0", "/desktop"))
    return made, made.update(words)


def walk(made, path=ROOT):
    yield path
    for _, child in made.call(path, ACCESSIBLE, "GetChildren", ())[1][0]:
        yield from walk(made, child)


def get(made, path, name, interface=ACCESSIBLE):
    return made.call(path, PROPERTIES, "Get", (interface, name))[1][0][1]


def buttons(made):
    """Paths by name."""
    paths = [
        p for p in walk(made) if made.call(p, ACCESSIBLE, "GetRole", ())[1] == (43,)
    ]
    return {get(made, path, "Name"): path for path in paths}


def test_every_object_answers_all_of_its_interfaces():
    made, _ = tree()
    for path in walk(made):
        own = made.call(path, ACCESSIBLE, "GetInterfaces", ())[1][0]
        for interface in own:
            assert made.call(path, PROPERTIES, "GetAll", (interface,))[0] == "a{sv}"
        for member in ("GetRoleName", "GetState", "GetRelationSet", "GetAttributes"):
            made.call(path, ACCESSIBLE, member, ())
        index = made.call(path, ACCESSIBLE, "GetIndexInParent", ())[1][0]
        _, parent = get(made, path, "Parent")
        if path != ROOT:
            child = made.call(parent, ACCESSIBLE, "GetChildAtIndex", (index,))[1]
            assert child == ((":1.5", path),)


def test_everything_but_the_phrase_is_told():
    made, _ = tree()
    names = [get(made, path, "Name") for path in walk(made)]
    assert names[0] == "Vitrail"
    assert names[1] == "Vitrail asks about untrusted"
    assert "untrusted wants to open an address." in names
    assert "The answer is for the host: www.example.org" in names
    assert "a new web sandbox" in names
    assert {"once", "for 10 minutes"} <= set(names)
    first = "banking, personal, work, a new web sandbox, t0, t1"
    assert f"The keys Up and Down choose: {first}, 6 more." in names
    holds = "The keys Left and Right choose how long a yes lasts: once, for 10 minutes."
    assert holds in names
    chosen = "a new web sandbox, once: chosen.  "
    assert (
        f"{chosen}Press Allow, or type the word allow.  To deny, press Esc or Deny."
        in names
    )
    assert PHRASE not in " ".join(names)


def test_no_action_is_taken():
    made, _ = tree()
    for path in buttons(made).values():
        assert get(made, path, "NActions", ACTION) == 1
        assert made.call(path, ACTION, "DoAction", (0,)) == ("b", (False,))


@pytest.mark.parametrize(
    ("path", "interface", "member", "body"),
    [
        (ROOT, ACTION, "DoAction", (0,)),
        ("/nothing", ACCESSIBLE, "GetRole", ()),
        (ROOT, ACCESSIBLE, "GrabFocus", ()),
        (ROOT, PROPERTIES, "Get", (ACCESSIBLE, "Password")),
        (ROOT, PROPERTIES, "Get", ()),
        (ROOT, PROPERTIES, "Get", (ACCESSIBLE, ["Name"])),
        (ROOT, "", "", ()),
    ],
)
def test_other_calls_are_unknown(path, interface, member, body):
    made, _ = tree()
    with pytest.raises(UnknownError):
        made.call(path, interface, member, body)


@pytest.mark.parametrize("index", [-1, 99, "first", None])
def test_a_child_that_is_not_there_is_null(index):
    made, _ = tree()
    child = made.call(ROOT, ACCESSIBLE, "GetChildAtIndex", (index,))
    assert child == ("(so)", (("", "/org/a11y/atspi/null"),))


def test_a_question_comes_changes_and_goes():
    waits = Described(
        "asks",
        ("wants",),
        (DescribedRow("a", True), DescribedRow("b", False)),
        hint="Wait",
    )
    made, came = tree(waits)
    assert [s.member for s in came[:2]] == ["ChildrenChanged", "Activate"]
    assert made.update(waits) == []
    ready = Described(
        "asks",
        ("wants",),
        (DescribedRow("a", False), DescribedRow("b", True)),
        hint="Type",
        armed=True,
    )
    signals = made.update(ready)
    changed = [(s.member, s.detail, s.first, s.value[1]) for s in signals]
    assert ("StateChanged", "selected", 1, 0) in changed
    assert changed.count(("StateChanged", "sensitive", 1, 0)) == 2
    assert ("PropertyChange", "accessible-name", 0, "Type") in changed
    assert made.update(ready) == []
    gone = made.update(Described())
    assert gone[-1].detail == "remove"
    assert [*walk(made)] == [ROOT]


def test_another_question_replaces_the_first():
    made, _ = tree()
    signals = [s.detail for s in made.update(Described("another", hint="Wait"))]
    assert signals.index("remove") < signals.index("add")
    assert "another" in [get(made, path, "Name") for path in walk(made)]


def test_words_travel_as_they_are():
    assert decode_described(encode(SHOWN)) == SHOWN
