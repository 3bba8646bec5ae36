"""A client's copy of the records is the set that the authority has in force."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

from broker.authority.channel.sent_records import SentRecords
from broker.core.errors import InternalError
from broker.host_and_viewer.log_client import LogClient
from broker.host_and_viewer.record_copy import RecordCopy
from broker.ipc.audit.log_rows import RecordChanged
from policy.records.loader import load_records
from tests.kit.threads import no_threads
from tests.kit.world import record

KINDS = {
    "cid": '[launch]\nkind = "external"\n[peer]\ncid = 7\n',
    "hybrid": '[launch]\nkind = "external"\n[peer]\nhybrid = "/x/y"\n',
    "domain": '[launch]\nkind = "external"\n[peer]\nlibvirt = "domain"\n',
    "machine": '[launch]\nkind = "external"\n[peer]\nmachine = "m"\n',
    "unix": '[launch]\nkind = "external"\n[peer]\nunix = "/x/u"\n',
    "box": '[launch]\nkind = "bwrap"\ncommand = ["foot"]\nbind_read_only = ["/usr/share"]\n',
    "container": '[launch]\nkind = "podman"\n',
    "nspawn": '[launch]\nkind = "nspawn"\nrootfs = "/r"\ncommand = ["foot"]\n',
    "flatpak": '[launch]\nkind = "flatpak"\napp = "org.a.B"\n',
    "shared": '[launch]\nkind = "shared-box"\n',
    "domains": '[launch]\nkind = "libvirt-qemu"\nimage = "i"\ncommand = ["foot"]\n',
    "micro": '[state]\nkeep = ["home"]\n[launch]\nkind = "microvm"\nimage = "i"\n'
    'command = ["foot"]\n[clipboard]\ntypes = ["text/plain"]\n',
}


def through(sent, copy, records):
    """Send what differs, as messages are sent; return the messages."""
    changes = list(sent.update(records))
    for change in changes:
        copy.take(change)
    copy.follow(records.digest)
    return changes


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "work.toml").write_text(record("persistent"))
    return tmp_path


def read(folder):
    return load_records([folder])


def test_records_of_each_kind_arrive_whole(tmp_path):
    for name, text in KINDS.items():
        (tmp_path / f"{name}.toml").write_text(f'class = "persistent"\n{text}')
    records = read(tmp_path)
    assert not records.problems
    copy = RecordCopy()
    through(SentRecords(), copy, records)
    assert copy.now.digest == records.digest
    assert copy.now.records.keys() == KINDS.keys()
    for name, got in copy.now.records.items():
        assert got == replace(records.records[name], values={})
        assert type(got.host.launch) is type(records.records[name].host.launch)


def test_only_changes_are_sent(folder):
    sent, copy = SentRecords(), RecordCopy()
    assert len(through(sent, copy, read(folder))) == 1
    assert not through(sent, copy, read(folder))
    (folder / "vault.toml").write_text(record("disposable"))
    (change,) = through(sent, copy, read(folder))
    assert change.name == "vault"
    assert set(copy.now.records) == {"work", "vault"}
    (folder / "work.toml").unlink()
    assert through(sent, copy, read(folder)) == [RecordChanged("work", None)]
    assert set(copy.now.records) == {"vault"}


def test_a_record_that_moved_in_its_file_is_sent(folder):
    """Its meaning is the same; where its keys are is shown in refusals."""
    sent, copy = SentRecords(), RecordCopy()
    through(sent, copy, read(folder))
    (folder / "work.toml").write_text("# A comment.\n" + record("persistent"))
    through(sent, copy, read(folder))
    assert copy.now.records["work"].where("class").endswith("work.toml:2:1")


def test_a_record_with_a_mistake_arrives_as_its_problem(folder):
    (folder / "bad.toml").write_text('clas = "persistent"\n')
    records, copy = read(folder), RecordCopy()
    through(SentRecords(), copy, records)
    assert copy.now.broken == records.broken
    assert set(copy.now.records) == {"work"}


def test_a_record_and_the_mistake_in_its_file_are_both_known(folder):
    """As a running sandbox keeps its last good record."""
    good = read(folder)
    (folder / "work.toml").write_text('clas = "persistent"\n')
    records = replace(read(folder), records=good.records)
    copy = RecordCopy()
    through(SentRecords(), copy, records)
    assert copy.now.broken.keys() == copy.now.records.keys() == {"work"}


def test_a_path_that_is_not_utf_8_arrives(tmp_path):
    folder = Path(str(tmp_path) + "/\udcff")
    folder.mkdir()
    (folder / "work.toml").write_text(record("persistent"))
    copy = RecordCopy()
    through(SentRecords(), copy, read(folder))
    assert copy.now.records["work"].source == folder / "work.toml"


def test_a_record_that_cannot_be_read_is_our_mistake():
    copy = RecordCopy()
    copy.take(RecordChanged("work", b'{"record": 1, "problem": null}'))
    with pytest.raises(InternalError, match="an invalid record"):
        copy.follow("")


async def test_records_are_followed_where_there_is_no_thread():
    followed = []
    client = LogClient.__new__(LogClient)
    client._records = SimpleNamespace(follow=followed.append)
    client._changed = trio.Event()
    client._started = trio.Event()
    with no_threads():
        await client._follow(None, SimpleNamespace(records="records"))
    assert followed == ["records"]
    assert client._changed.is_set()
