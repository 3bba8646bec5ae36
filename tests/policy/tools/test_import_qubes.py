"""A Qubes system as rules and records: the same answers, or a note."""

from __future__ import annotations

from itertools import product

import pytest

from policy.records.loader import load_records
from policy.rules.engine import Engine, PolicyCall
from policy.rules.world import world_of
from policy.tools import limits as tool_limits
from policy.tools.files_in_memory import rules_of_map
from policy.tools.importers import ImportFileError
from policy.tools.importers.qubes import QubesNames, import_qubes
from policy.tools.importers.qubes_xml import read_qubes_xml
from policy.tools.qubes import compat
from policy.tools.qubes.world_json import world_from_json

STORE = """<?xml version="1.0" encoding="utf-8" ?>
<qubes version="3.0">
<properties><property name="default_dispvm" ref="domain-3"/></properties>
<labels>
<label id="label-1" color="0xcc0000">red</label>
<label id="label-4" color="#00cc00">green</label>
</labels>
<domains>
<domain id="domain-0" class="AdminVM"><properties/></domain>
<domain id="domain-1" class="AppVM"><properties><property name="name">work</property>
<property name="label" ref="label-1"/></properties>
<tags><tag name="office"/><tag name="Created_by"/></tags></domain>
<domain id="domain-2" class="AppVM"><properties><property name="name">vault</property>
<property name="label">green</property><property name="netvm"></property></properties>
</domain>
<domain id="domain-3" class="AppVM"><properties><property name="name">fresh</property>
<property name="label" ref="label-1"/>
<property name="template_for_dispvms">True</property></properties></domain>
<domain id="domain-4" class="StandaloneVM"><properties>
<property name="name">Private_Mail</property></properties><tags><tag name="office"/></tags>
</domain>
<domain id="domain-5" class="AppVM"><properties><property name="name">private-mail</property>
</properties></domain>
</domains></qubes>
"""
RULES = """# a comment stays
qubes.Filecopy    *   work          vault      deny
qubes.Filecopy    *   work          @anyvm     ask default_target=Private_Mail
qubes.Filecopy    *   @tag:office   private-mail  allow
qubes.Filecopy    *   @type:AppVM   @type:StandaloneVM  allow
qubes.OpenURL     *   @anyvm        @dispvm    allow
qubes.OpenURL     *   @tag:Created_by  @dispvm:fresh  deny
qubes.ClipboardPaste  +  vault      @anyvm     allow target=work
qubes.ClipboardPaste  *  @anyvm     @anyvm     deny
qubes.GetDate     *   @anyvm        dom0       allow
"""


def imported(rules=RULES, store=STORE):
    return import_qubes({"30-user.policy": rules}, read_qubes_xml(store.encode()))


def load(found, tmp_path):
    for name, text in found.files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    records = load_records([tmp_path / "sandboxes.d"])
    assert records.problems == ()
    return records


def test_each_call_is_answered_as_qubes_answers_it(tmp_path):
    found = imported()
    records = load(found, tmp_path)
    mine = rules_of_map({"r.policy": found.files["policy.d/30-user.policy"]})
    assert mine.problems == ()
    theirs = rules_of_map({"r.policy": RULES}, compat=True)
    old, new = _their_world(), world_of(records)
    names = {"work": "work", "vault": "vault", "fresh": "fresh"}
    names |= {"Private_Mail": "private-mail-2", "private-mail": "private-mail"}
    names |= {
        "@dispvm": "@dispvm",
        "@dispvm:fresh": "@dispvm:fresh",
        "@default": "@default",
    }
    engine = Engine(mine)
    services = {
        "qubes.Filecopy": "vitrail.FileCopy",
        "qubes.OpenURL": "vitrail.OpenURL",
        "qubes.ClipboardPaste": "vitrail.ClipboardPaste",
    }
    compared = 0
    sources = [name for name in names if not name.startswith("@")]
    for source, target, service in product(sources, names, services):
        if source == target:
            continue  # row "itself" of docs/policy-qubes.md
        before = compat.answer(theirs, PolicyCall(service, "+", source, target), old)
        after = engine.answer(
            PolicyCall(services[service], "+", names[source], names[target]), new
        )
        assert after.verdict == before.verdict, (source, target, service, before, after)
        compared += 1
    assert compared == 5 * 7 * 3


def _their_world():
    def one(name, kind, *tags, **more):
        return {
            "type": kind,
            "tags": list(tags),
            "default_dispvm": "fresh",
            "template_for_dispvms": False,
            "power_state": "Running",
            "uuid": f"00000000-0000-0000-0000-{abs(hash(name)) % 10**12:012}",
        } | more

    return world_from_json(
        {
            "domains": {
                "dom0": one("dom0", "AdminVM"),
                "work": one("work", "AppVM", "office", "Created_by"),
                "vault": one("vault", "AppVM"),
                "fresh": one("fresh", "AppVM", template_for_dispvms=True),
                "Private_Mail": one("Private_Mail", "StandaloneVM", "office"),
                "private-mail": one("private-mail", "AppVM"),
            }
        }
    )


def test_a_record_has_the_qubes_colour_class_tags_and_network(tmp_path):
    records = load(imported(), tmp_path).records
    assert set(records) == {"work", "vault", "fresh", "private-mail", "private-mail-2"}
    work, vault, fresh = (records[name] for name in ("work", "vault", "fresh"))
    assert work.viewer.label.colour == "#cc0000"
    assert work.viewer.tags == {"office", "created-by", "qubes-appvm"}
    assert work.viewer.default_disposable == "fresh"
    assert (work.host.launch.network, vault.host.launch.network) == ("user", "none")
    assert vault.viewer.label.colour == "#00cc00"
    assert fresh.viewer.sandbox_class == "disposable"


def test_each_line_that_means_something_else_is_reported():
    rules = (
        RULES + "* * @anyvm @anyvm deny\n"
        "qubes.USB * @type:DispVM sys-usb allow user=root\n"
        "qubes.Filecopy * work gone allow\n"
    )
    found = {(note.where, note.row) for note in imported(rules).notes}
    assert found >= {
        ("30-user.policy:5:23", "type"),
        ("30-user.policy:10:37", "dom0"),
        ("30-user.policy:10:1", "service"),
        ("30-user.policy:11:1", "all-services"),
        ("30-user.policy:12:1", "service"),
        ("30-user.policy:12:13", "type"),
        ("30-user.policy:12:40", "user"),
        ("30-user.policy:13:23", "unknown"),
        ("qubes.xml", "name"),
    }


def test_comments_and_columns_stay():
    text = imported().files["policy.d/30-user.policy"]
    assert text.startswith("# a comment stays\nvitrail.FileCopy    *   work  ")


@pytest.mark.parametrize(
    ("store", "message"),
    [
        ("<!DOCTYPE q [<!ENTITY a 'b'>]><qubes>&a;</qubes>", "document type"),
        ("<qubes>" + "<a>" * 40, "nested too deeply"),
        ("<qubes>", "no element found"),
        ("<domain/>", "expected <qubes>"),
        ("<qubes>&undefined;</qubes>", "undefined entity"),
        (" " * (tool_limits.IMPORT_BYTES + 1), "more than"),
    ],
)
def test_a_hostile_store_is_refused_with_its_place(store, message):
    with pytest.raises(ImportFileError, match=message) as caught:
        read_qubes_xml(store.encode())
    assert str(caught.value)[0].isdigit()


def test_names_of_a_store_become_names_here_and_stay_apart(tmp_path):
    names = QubesNames()
    wild = [
        "Work",
        "work",
        "work.",
        'x"\n[launch]',
        "../../etc",
        "9lives",
        "ä" * 40,
        "",
    ]
    made = [names.take(name) for name in wild]
    assert len(set(made)) == len(wild)
    domains = "".join(
        f'<domain class="AppVM"><properties><property name="name">{name}</property>'
        "</properties></domain>"
        for name in wild
        if name
    )
    found = imported("", f"<qubes><domains>{domains}</domains></qubes>")
    assert all(".." not in name for name in found.files)
    assert len(load(found, tmp_path).records) == len(wild) - 1
