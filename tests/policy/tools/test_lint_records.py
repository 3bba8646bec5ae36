"""Findings about records: check, key and the sentence; and silence on good ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from policy.records.globals import OPTIONS
from policy.records.loader import load_records
from policy.rules.checks import CHECKS
from policy.rules.world import world_of
from policy.tools.files_in_memory import rules_of_map
from policy.tools.linting.lint_records import lint_records, unasked_flows

EXAMPLES = (
    Path(__file__).parent.parent.parent.parent / "broker" / "data" / "sandboxes.d"
)


def _find(tmp_path, rules="", **files):
    for name, text in files.items():
        file = tmp_path / f"{name}.toml"
        file.write_text('class = "persistent"\ndisplay = "allow"\n' + text)
        file.chmod(0o644)
    tmp_path.chmod(0o755)
    records = load_records([tmp_path])
    assert records.problems == ()
    found = lint_records(records, rules_of_map({"1.policy": rules}), world_of(records))
    for one in found:
        assert one.level == CHECKS[one.check][0]
    return [
        (one.check, Path(one.problem.file).stem, *one.problem.span[:2]) for one in found
    ]


def test_the_examples_need_no_second_look():
    """Nothing but that the household's microphone waits for the household's rule."""
    records = load_records((), shipped=EXAMPLES)
    found = lint_records(records, rules_of_map({}), world_of(records))
    assert [one.check for one in found] == ["rules-deny"]


@pytest.mark.parametrize(
    ("text", "check", "line", "column"),
    [
        ('[window]\nallow = ["zwp_idle_inhibit_manager_v1"]', "dangerous-global", 4, 9),
        ('[launch]\nkind = "bwrap"\ngpu = "buffers"', "dangerous-global", 5, 7),
        ('[window]\nfullscreen = "real"', "unframed", 4, 14),
        ("[window]\ntranslucent = true", "translucent", 4, 15),
        ('audio = "raw"', "unfiltered-sound", 3, 9),
        ('[label]\ncolour = "#fffff0"', "colour-faint", 4, 10),
        ('[label]\ncolour = "#000000"', "colour-faint", 4, 10),
        ('[label]\nname = "pаypal"', "mixed-scripts", 4, 8),
        ('[window]\ntitle_prefix = "pаypal"', "mixed-scripts", 4, 16),
        ('default_disposable = "nobody"', "no-disposable", 3, 22),
        ('default_disposable = "a"', "no-disposable", 3, 22),
        ('[launch]\nkind = "bwrap"\nnetwork = "through:nobody"', "no-provider", 5, 11),
        ('[launch]\nkind = "bwrap"\nnetwork = "through:a"', "no-provider", 5, 11),
        ('[audio]\nplayback = "allow"\nmicrophone = "ask"', "rules-deny", 5, 14),
    ],
)  # fmt: skip
def test_one_record(tmp_path, text, check, line, column):
    """The check and the place of the value."""
    assert _find(tmp_path, a=text) == [(check, "a", line, column)]


def test_a_network_through_another_sandbox(tmp_path):
    """One that provides a network is none of the findings."""
    text = '[launch]\nkind = "bwrap"\nnetwork = "{}"'
    networks = {"a": "through:b", "b": "through:c", "c": "user", "d": "through:e"}
    records = {name: text.format(network) for name, network in networks.items()}
    for name in ("b", "c"):
        records[name] += "\nprovides_network = true"
    records["e"] = text.format("user")
    found = [one for one in _find(tmp_path, **records) if one[0] == "no-provider"]
    assert found == [("no-provider", "a", 5, 11), ("no-provider", "d", 5, 11)]


@pytest.mark.parametrize(
    "text",
    [
        '[window]\nallow = ["zwp_idle_inhibit_manager_v1"]',
    ],
)
def test_a_dangerous_global_is_named_with_its_sentence(tmp_path, text):
    """As the filter's own table has it."""
    (tmp_path / "a.toml").write_text('class = "persistent"\n' + text)
    (tmp_path / "a.toml").chmod(0o644)
    records = load_records([tmp_path])
    (one,) = lint_records(records, rules_of_map({}), world_of(records))
    (name,) = records.records["a"].viewer.window.allow
    assert one.problem.message == f"{name} is allowed: {OPTIONS[name]}"


def test_a_flatpak_with_a_gpu_has_what_shows_pictures_too(tmp_path):
    """Its device 'dri' is the whole directory, whatever the window may show."""
    text = '[launch]\nkind = "flatpak"\napp = "org.test.App"\ngpu = "buffers"'
    found = _find(tmp_path, a=text)
    assert sorted(one[0] for one in found) == ["dangerous-global", "whole-gpu"]
    denied = '[window]\ndeny = ["zwp_linux_dmabuf_v1"]\n'
    assert ("whole-gpu", "a", 8, 7) in _find(tmp_path, a=denied + text)


def test_a_machine_that_others_network_leads_through_is_not_drawn_for(tmp_path):
    """Its QEMU trusts what draws for it."""
    text = '[launch]\nkind = "microvm"\nimage = "x"\n'
    provides, gpu = 'network = "user"\nprovides_network = true\n', 'gpu = "render"\n'
    found = _find(tmp_path, a=text + provides + gpu)
    assert found == [("drawn-provider", "a", 8, 7)]
    assert _find(tmp_path, a=text + provides) == []
    assert _find(tmp_path, a=text + gpu) == []


def test_a_microphone_takes_a_line_in_both(tmp_path):
    """The record opens it and a rule grants it: nothing to say."""
    open_ = '[audio]\nplayback = "allow"\nmicrophone = "ask"'
    rule = "vitrail.AudioInput * a @adminvm ask\n"
    assert _find(tmp_path, rule, a=open_) == []
    assert _find(tmp_path, rule, a="") == [("record-denies", "1", 1, 1)]


def test_colours_that_look_alike(tmp_path):
    """Said of both; equal ones too, but not where one line sets both."""
    red, near = '[label]\ncolour = "#d55e00"', '[label]\ncolour = "#d65f01"'
    found = _find(tmp_path, a=red, b=near)
    assert found == [("colours-close", "a", 4, 10), ("colours-close", "b", 4, 10)]
    assert len(_find(tmp_path, a=red, b=red)) == 2
    assert _find(tmp_path, a=red, b='inherits = "a"') == []
    assert _find(tmp_path, a=red, b='[label]\ncolour = "blue"') == []


def test_colours_that_some_take_for_each_other(tmp_path):
    """Named with the kind of sight."""
    for name, colour in (("a", "#b04a4a"), ("b", "#6a6a42")):
        file = tmp_path / f"{name}.toml"
        file.write_text(
            f'class = "persistent"\ndisplay = "allow"\n[label]\ncolour = "{colour}"\n'
        )
        file.chmod(0o644)
    records = load_records([tmp_path])
    found = lint_records(records, rules_of_map({}), world_of(records))
    assert [one.check for one in found] == ["colours-close"] * 2
    assert "for people with" in found[0].problem.message


def test_a_sandbox_without_windows_has_no_colour_to_confuse(tmp_path):
    """Only frames are compared."""
    for name, display in (("a", "allow"), ("b", "none")):
        file = tmp_path / f"{name}.toml"
        file.write_text(f'class = "persistent"\ndisplay = "{display}"\n')
        file.chmod(0o644)
    records = load_records([tmp_path])
    assert lint_records(records, rules_of_map({}), world_of(records)) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("w0rk", '[label]\ncolour = "red"'),
        ("other", '[label]\ncolour = "red"\nname = "Work"'),
        ("other", '[label]\ncolour = "red"\n[window]\ntitle_prefix = "wоrk"'),
    ],
)
def test_names_that_look_alike(tmp_path, name, text):
    """A record's name, its label and its prefix, against each other record's."""
    found = _find(tmp_path, work="", **{name: text})
    assert "look-alike" in {one[0] for one in found}


def test_a_finding_in_an_inherited_key_is_reported_once(tmp_path):
    """At the line that sets it."""
    found = _find(
        tmp_path,
        a='[window]\nfullscreen = "real"\n[label]\ncolour = "red"',
        b='inherits = "a"',
        c='inherits = "a"',
    )
    assert found == [("unframed", "a", 4, 14)]


@pytest.mark.parametrize(
    ("network", "action", "unasked"),
    [
        *(("user", "allow", True), ("user", "deny", True)),
        *(("none", "allow", True), ("none", "deny", False)),
        *(("rules", "allow", False), ("rules", "deny", False)),
    ],
)
def test_a_rule_about_flows_that_no_rule_decides(tmp_path, network, action, unasked):
    """With network = "user" a deny reads like one, and denies nothing."""
    text = f'[launch]\nkind = "bwrap"\nnetwork = "{network}"\n'
    findings = _find(tmp_path, f"vitrail.Network * a @net {action}\n", a=text)
    assert findings == ([("network-unasked", "1", 1, 1)] if unasked else [])
    assert _find(tmp_path, f"vitrail.Network * @anyvm @net {action}\n", a=text) == []


def test_hint_about_unasked_flows_can_be_followed(tmp_path):
    """A domain of libvirt has no such key."""
    rules = rules_of_map({"1.policy": "vitrail.Network * a @net allow\n"})
    for text, settable in (
        ('[launch]\nkind = "bwrap"\nnetwork = "user"\n', True),
        ('[launch]\nkind = "external"\n[peer]\ncid = 9\n', False),
    ):
        (tmp_path / "a.toml").write_text(f'class = "persistent"\n{text}')
        (finding,) = unasked_flows(load_records([tmp_path]), rules)
        hint = "to let rules decide, run 'brokerctl set a network rules'"
        assert finding.problem.hint == (hint if settable else "")
