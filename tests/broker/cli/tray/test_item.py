"""The panel's item: what its menu shows, and that a click means what its row said."""

from __future__ import annotations

import io

import pytest
from jeepney import DBusAddress, new_method_call, new_method_return, new_signal
from PIL import Image

from broker.cli.tray.item import (
    ITEM,
    ITEM_PATH,
    MENU,
    MENU_PATH,
    TrayItem,
)
from broker.cli.tray.menu_rows import Leave, TrayState, rows, summary
from broker.cli.tray.picture import pixmaps, square
from broker.helpers.prompt import translation
from broker.ipc.control.api import (
    DeviceDetachRequest,
    FolderStatus,
    FolderUnshareRequest,
    LimitStatus,
    LockdownAnswer,
    LockdownRequest,
    NetworkTraffic,
    PendingQuestion,
    QuestionAnswerRequest,
    SandboxStatus,
    SoundRequest,
    SoundStatus,
    StopRequest,
)
from broker.net.session_bus import PROPERTIES, UnknownCallError

CALL = new_method_call(DBusAddress("/", "a.b", "a.b"), "Call")
CALL.header.serial = 1


def sandbox(name, **more):
    words = {"sandbox_class": "persistent", "label": name, "state": "running"}
    return SandboxStatus(name=name, record=name, since=0.0, **{**words, **more})


def question(number, words="open a link"):
    return PendingQuestion(
        id=number, sandbox="work", record="work", label="Work", color="#0000ff",
        service="vitrail.OpenURL", argument="", words=words, targets=[],
        default_target="", keeps=["once"], seconds=0, rule="a:1", left=10.0, shown=True,
    )  # fmt: skip


def hears(name):
    return SoundStatus(
        name, 65536, muted=False, streams=1, idle=0, rule="allow", active=True
    )


def test_who_keeps_the_screen_on_is_shown():
    one = sandbox(
        "film", limits=[LimitStatus(what="inhibitors", now=1, most=9, refused=0)]
    )
    quiet = sandbox(
        "bank", limits=[LimitStatus(what="inhibitors", now=0, most=9, refused=0)]
    )
    now = TrayState(reachable=True, sandboxes=(one, quiet))
    assert "film: keeps the screen on" in [row.label for row in rows(now)]
    assert "bank" in [row.label for row in rows(now)]
    assert "film keeps the screen on" in summary(now).split("\n")


BUSY = TrayState(
    reachable=True,
    sandboxes=(
        sandbox(
            "work",
            color="#0000ff",
            devices=["1-2  0781:5567  Disk_one"],
            network=NetworkTraffic(flows=3, rate_from_sandbox=2048.0, rate_to_sandbox=0.0),
        ),
        sandbox("bank", color="#00ff00"),
    ),
    questions=(question(7),),
    sound=(hears("work"),),
    folders=(
        FolderStatus(path="/home/ann/Papers", sandbox="work", inside="/x", write=True, since=0.0),
    ),
)  # fmt: skip


def layout(item, parent=0, depth=-1):
    ((signature, values), click) = item.call(
        MENU_PATH, MENU, "GetLayout", (parent, depth, [])
    )
    assert click is None
    # It has the form that its signature says.
    new_method_return(CALL, signature, values).serialise(1)
    return values[1]


def labels(node):
    number, shown, children = node
    text = shown.get("label", ("s", ""))[1]
    return {text: (number, {k: v for c in children for k, v in labels(c[1]).items()})}


def find(item, *path):
    number, below = next(iter(labels(layout(item)).values()))
    for word in path:
        number, below = next(v for k, v in below.items() if k.startswith(word))
    return number


def click(item, number, event="clicked"):
    return item.call(MENU_PATH, MENU, "Event", (number, event, ("s", ""), 0))[1]


@pytest.mark.parametrize(
    ("path", "meaning"),
    [
        (("Deny: work wants open",), QuestionAnswerRequest(id=7, allow=False)),
        (("work", "Stop"), StopRequest(sandbox="work")),
        (("bank", "Stop"), StopRequest(sandbox="bank")),
        (
            ("work", "Turn off the microphone"),
            SoundRequest(sandbox="work", microphone=False),
        ),
        (("work", "Revoke 1-2"), DeviceDetachRequest("1-2")),
        (
            ("work", "Revoke /home"),
            FolderUnshareRequest(folder="/home/ann/Papers", sandbox="work"),
        ),
        (("work", "End all networks"), LockdownRequest(begin=True, networks=True)),
        (("Lockdown",), LockdownRequest(begin=True)),
        (("Remove from",), Leave()),
    ],
)
def test_a_click_means_its_row(path, meaning):
    item = TrayItem()
    item.update(BUSY)
    assert click(item, find(item, *path)) == meaning
    assert click(item, find(item, *path), "hovered") is None


@pytest.mark.parametrize(
    ("device", "shown", "ends", "words"),
    [
        (
            "camera:work  uses  Web cam",
            "CAMERA",
            "Turn off the camera",
            "uses your camera",
        ),
        ("screen:work  sees  x", "SCREEN", "End screen sharing", "sees your screen"),
    ],
)
def test_a_camera_or_screen_is_shown_and_ended_by_its_row(device, shown, ends, words):
    item = TrayItem()
    item.update(TrayState(reachable=True, sandboxes=(sandbox("work"),)))
    assert item._status() == "Active"
    plain = item._pictures()
    state = TrayState(reachable=True, sandboxes=(sandbox("work", devices=[device]),))
    item.update(state)
    row = find(item, f"work: {shown}", ends)
    assert click(item, row) == DeviceDetachRequest(device.split()[0])
    assert item._status() == "NeedsAttention"
    assert item._pictures() != plain
    assert f"work {words}" in summary(state)


def test_a_menu_that_changes_under_the_pointer_gives_no_click_to_another_row():
    """The panel shows an old menu: its numbers are those of gone rows, or the same."""
    item = TrayItem()
    item.update(BUSY)
    old = find(item, "work", "Stop")
    deny = find(item, "Deny")
    bank = find(item, "bank", "Stop")
    item.update(
        TrayState(
            reachable=True, sandboxes=BUSY.sandboxes[1:], questions=(question(8),)
        )
    )
    assert click(item, old) is None
    assert click(item, deny) is None
    assert click(item, bank) == StopRequest(sandbox="bank")
    item.update(BUSY)
    assert click(item, find(item, "Deny")) == QuestionAnswerRequest(id=7, allow=False)


def test_rows_with_equal_words_keep_their_own_meaning():
    item = TrayItem()
    item.update(TrayState(reachable=True, questions=(question(1), question(2))))
    (_, shown, children) = layout(item)
    assert shown == {"children-display": ("s", "submenu")}
    first, second = (child[1][0] for child in children[:2])
    assert click(item, first) == QuestionAnswerRequest(id=1, allow=False)
    assert click(item, second) == QuestionAnswerRequest(id=2, allow=False)


def test_words_of_a_sandbox_are_escaped_and_bounded():
    hostile = question(1, "open \x1b[31m\u202e" + "x" * 5000)
    (row, *_) = rows(TrayState(reachable=True, questions=(hostile,)))
    assert "\x1b" not in row.label
    assert "\u202e" not in row.label
    assert len(row.label) <= 120
    many = tuple(question(n) for n in range(500))
    crowd = tuple(sandbox(f"s{n}") for n in range(500))
    found = rows(TrayState(reachable=True, questions=many, sandboxes=crowd))
    assert len(found) < 70
    assert "490 more questions; run 'brokerctl pending'" in [row.label for row in found]


def test_an_underscore_is_not_the_key_of_a_row():
    item = TrayItem()
    item.update(BUSY)
    assert find(item, "work", "Revoke 1-2  0781:5567  Disk__one")


@pytest.mark.parametrize(
    "body",
    [(), (0,), ("x", -1, []), (0, "x", []), (99, -1, []), (0, -1, [], 1), ([], -1, [])],
)
def test_a_call_of_another_form_is_an_error_of_that_call(body):
    item = TrayItem()
    with pytest.raises(UnknownCallError):
        item.call(MENU_PATH, MENU, "GetLayout", body)
    with pytest.raises(UnknownCallError):
        item.call(ITEM_PATH, ITEM, "GetLayout", body)
    with pytest.raises(UnknownCallError):
        item.call("/", MENU, "GetLayout", body)


def test_all_replies_and_signals_have_the_form_of_their_signature():
    item = TrayItem()
    told = item.update(BUSY)
    assert {one.member for one in told} == {
        "NewIcon",
        "NewAttentionIcon",
        "NewStatus",
        "NewToolTip",
        "LayoutUpdated",
    }
    for one in told:
        emitter = DBusAddress(one.path, interface=one.interface)
        new_signal(emitter, one.member, one.signature or None, one.values).serialise(1)
    number = find(item, "work")
    for path, interface, member, body in (
        (ITEM_PATH, PROPERTIES, "GetAll", (ITEM,)),
        (ITEM_PATH, PROPERTIES, "Get", (ITEM, "IconPixmap")),
        (ITEM_PATH, ITEM, "Activate", (0, 0)),
        (MENU_PATH, PROPERTIES, "GetAll", (MENU,)),
        (MENU_PATH, MENU, "GetGroupProperties", ([], [])),
        (MENU_PATH, MENU, "GetGroupProperties", ([number, 10**9 % 2**31], ["label"])),
        (MENU_PATH, MENU, "GetProperty", (number, "label")),
        (MENU_PATH, MENU, "EventGroup", ([(number, "opened", ("s", ""), 0), (9999, "clicked", ("s", ""), 0)],)),
        (MENU_PATH, MENU, "AboutToShow", (0,)),
        (MENU_PATH, MENU, "AboutToShowGroup", ([0],)),
    ):  # fmt: skip
        (signature, values), clicked = item.call(path, interface, member, body)
        new_method_return(CALL, signature or None, values).serialise(1)
        assert clicked is None
    assert item.update(BUSY) == []


def test_nothing_is_told_for_what_does_not_show():
    item = TrayItem()
    item.update(BUSY)
    told = item.update(
        TrayState(**{**{f: getattr(BUSY, f) for f in BUSY.__dataclass_fields__}, "warnings": 2})
    )  # fmt: skip
    assert [one.member for one in told] == ["LayoutUpdated"]


def test_the_picture_has_the_colours_of_what_runs_and_marks():
    def points(now):
        width, height, data = pixmaps(now)[1]
        assert (width, height, len(data)) == (48, 48, 48 * 48 * 4)
        return {data[i : i + 4] for i in range(0, len(data), 4)}

    blue, green = b"\xff\x00\x00\xff", b"\xff\x00\xff\x00"
    red, yellow = b"\xff\xe0\x1b\x24", b"\xff\xf6\xd3\x2d"
    assert {blue, green, red, yellow} <= points(BUSY)
    quiet = TrayState(reachable=True, sandboxes=BUSY.sandboxes)
    assert not {red, yellow} & points(quiet)
    locked = LockdownAnswer(locked=True, networks=False)
    assert red in points(TrayState(reachable=True, lockdown=locked))
    assert Image.open(io.BytesIO(square("#0000ff"))).getpixel((8, 8)) == (0, 0, 255)


def test_summary_says_what_matters_first():
    assert summary(TrayState()) == "no broker is running"
    assert summary(BUSY).split("\n") == [
        "1 question is pending",
        "work records your microphone",
        "2 sandboxes",
    ]


def test_summary_is_in_the_users_language(monkeypatch):
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    choose = translation.catalogue.choose
    choose(["de"])
    try:
        locked = LockdownAnswer(True, True, "", ["dev", "web"])
        text = summary(TrayState(reachable=True, lockdown=locked))
    finally:
        choose([])
    assert text.startswith("Sperre in Kraft, aber diese Sandboxen können noch ein Netz")
    assert "dev, web; andere Netze" in text
    assert text.endswith("\nkeine Sandbox")
