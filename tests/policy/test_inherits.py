"""``inherits``: keys that come from another record, and those that cannot."""

from __future__ import annotations

import pytest

from policy import limits
from policy.records.loader import load_records
from policy.tools.record_files import load_files

BASE = """class = "template"
display = "allow"
tags = ["net"]
audio = "allow"
[label]
name = "The base"
colour = "red"
[window]
border = 9
title_prefix = "base"
[launch]
image = "web"
memory = "2G"
"""


def _load(tmp_path, **files):
    for name, text in files.items():
        (tmp_path / f"{name}.toml").write_text(text)
        (tmp_path / f"{name}.toml").chmod(0o644)
    tmp_path.chmod(0o755)
    return load_records([tmp_path])


def test_unset_keys_come_from_the_inherited_record(tmp_path):
    """Values and their places; the record's own keys win."""
    found = _load(
        tmp_path,
        base=BASE,
        web='class = "disposable"\ninherits = "base"\n[window]\nborder = 2\n',
    )
    assert found.problems == ()
    web = found.records["web"]
    assert web.inherits == ("base",)
    assert web.viewer.display == "allow"
    assert web.viewer.tags == {"net"}
    assert web.viewer.audio.playback == "allow"
    assert web.viewer.label.colour == "#d55e00"
    assert web.viewer.window.border == 2
    assert web.host.launch.image == "web"
    assert web.where("display").endswith("base.toml:2:1")
    assert web.where("window.border").endswith("web.toml:4:1")


def test_a_sandbox_s_own_keys_are_not_inherited(tmp_path):
    """Class, names and peer are the record's own, or their defaults."""
    found = _load(
        tmp_path,
        base=BASE,
        far='class = "persistent"\ninherits = "base"\nlaunch.kind = "external"\npeer.cid = 9\n',
        near='class = "persistent"\ninherits = "far"\n',
    )
    far = found.records["far"]
    assert far.viewer.label.name == far.viewer.window.title_prefix == "far"
    assert far.viewer.sandbox_class == "persistent"
    assert far.host.launch.image == "web"  # its script may start it from that image
    assert "near" in found.broken, "its kind is inherited, its peer is not"
    problem = found.broken["near"]
    assert problem.message == "no key of [peer] identifies this sandbox"
    assert problem.where.endswith("near.toml:2:1")


def test_a_child_may_unset_an_inherited_key(tmp_path):
    """Each key is replaced as a whole, tags too."""
    found = _load(
        tmp_path,
        base=BASE,
        quiet='class = "disposable"\ninherits = "base"\naudio = "none"\ntags = []\n',
    )
    view = found.records["quiet"].viewer
    assert view.audio.playback == "none"
    assert view.tags == frozenset()


def test_the_digest_follows_inherited_keys(tmp_path):
    """A change in the other record is a change of this one."""
    child = 'class = "disposable"\ninherits = "base"\n'
    one = _load(tmp_path, base=BASE, web=child)
    two = _load(tmp_path, base=BASE.replace('"red"', '"blue"'), web=child)
    assert one.records["web"].digest != two.records["web"].digest
    assert one.digest != two.digest


@pytest.mark.parametrize(
    ("files", "where", "message"),
    [
        (
            {"a": 'class = "disposable"\ninherits = "bse"\n', "base": BASE},
            "a",
            "no record is named 'bse'",
        ),
        (
            {
                "a": 'class = "disposable"\ninherits = "b"\n',
                "b": 'class = "disposable"\ninherits = "a"\n',
            },
            "a",
            "the record inherits from itself: a → b → a",
        ),
        (
            {
                "a": 'class = "disposable"\ninherits = "base"\n',
                "base": BASE + "cpus = 0\n",
            },
            "a",
            "the record 'base' has an error: ",
        ),
    ],
)
def test_what_cannot_be_inherited_breaks_the_record(tmp_path, files, where, message):
    """A record whose other half is not known denies."""
    found = _load(tmp_path, **files)
    assert where not in found.records
    assert found.broken[where].message.startswith(message)
    assert found.broken[where].span[:2] == (2, 12)


@pytest.mark.parametrize("more", [0, 1])
def test_how_deep(tmp_path, more):
    """At the limit it is a record, beyond it is not."""
    files = {"r0": 'class = "disposable"\ndisplay = "allow"\n'}
    for number in range(1, limits.INHERITS + 1 + more):
        files[f"r{number}"] = f'class = "disposable"\ninherits = "r{number - 1}"\n'
    found = _load(tmp_path, **files)
    last = f"r{limits.INHERITS + more}"
    assert (last in found.records) == (not more)
    if more:
        assert "more than 4 records" in found.broken[last].message


def test_a_thousand_in_a_circle(tmp_path):
    """Long circles end, and every member is refused."""
    files = {
        f"r{n}": f'class = "disposable"\ninherits = "r{(n + 1) % 1000}"\n'
        for n in range(1000)
    }
    found = _load(tmp_path, **files)
    assert not found.records
    assert len(found.broken) == 1000


def test_a_single_file_finds_its_base_beside_it(tmp_path):
    """``brokerctl policy check FILE`` looks around the file, and reports only it."""
    _load(tmp_path, base=BASE + "cpus = 0\n", other=BASE)
    child = tmp_path / "child.toml"
    child.write_text('class = "disposable"\ninherits = "other"\n')
    found = load_files([child], around=[tmp_path])
    assert set(found.records) == {"child"}
    assert found.problems == ()
    assert set(load_files([child]).broken) == {"child"}


def test_a_broken_base_in_front_shadows_a_good_one(tmp_path):
    """As with any record: a typo never brings an older file back."""
    for folder, text in (("a", BASE + "cpus = 0\n"), ("b", BASE)):
        (tmp_path / folder).mkdir()
        _load(tmp_path / folder, base=text)
    _load(tmp_path / "b", web='class = "disposable"\ninherits = "base"\n')
    found = load_records([tmp_path / "a", tmp_path / "b"])
    assert set(found.broken) == {"base", "web"}
