"""What libraries of ordinary programs ask of a machine, in a box with default settings.

A box of a record without files of the user's runs its program under a subordinate user
id: what bubblewrap makes beside its mounts belongs to another one.
"""

from __future__ import annotations

import re
import ssl
from pathlib import Path

import pytest

from tests.kit.boxes import said
from tests.kit.needs import requires

pytestmark = requires("bwrap", "/usr/bin/python3")
CLOSED = """
import json, os
closed, seen = [], 0
for place, folders, _ in os.walk("/", onerror=lambda error: closed.append(error.filename)):
    seen += 1
    if place in ("/usr", "/proc"):
        folders.clear()
    closed += [place] if not os.access(place, os.R_OK | os.X_OK) else []
print(json.dumps({"closed": closed, "seen": seen}))
"""
SEMAPHORES = """
import json, multiprocessing, multiprocessing.shared_memory
memory = multiprocessing.shared_memory.SharedMemory(create=True, size=1 << 20)
memory.unlink()
queue = multiprocessing.Queue()
child = multiprocessing.Process(target=queue.put, args=("from a child",))
child.start()
print(json.dumps(queue.get(timeout=60)))
"""
NAMES = """
import json, socket
print(json.dumps({
    "own": socket.gethostbyname(socket.gethostname()),
    "full": socket.getfqdn(),
    "https": socket.getservbyname("https"),
    "tcp": socket.getprotobyname("tcp"),
    "id": open("/etc/machine-id").read(),
    "dbus": open("/var/lib/dbus/machine-id").read(),
}))
"""
STORE = """
import json, ssl
print(json.dumps(ssl.create_default_context().cert_store_stats()["x509_ca"]))
"""


@pytest.mark.parametrize("x11", [False, True])
async def test_a_program_enters_every_directory_of_its_box(tmp_path, x11):
    found = await said(tmp_path, CLOSED, x11=x11)
    assert found["seen"] > 20
    assert not found["closed"]


async def test_a_program_has_semaphores_and_shared_memory(tmp_path):
    assert await said(tmp_path, SEMAPHORES) == "from a child"


async def test_the_names_that_libraries_ask_for_are_there(tmp_path):
    found = await said(tmp_path, NAMES)
    assert found["own"].startswith("127.")
    assert (found["https"], found["tcp"]) == (443, 6)
    assert found["dbus"] == found["id"]


async def two_ids(tmp_path, **box):
    """The machine-id that each of two runs sees."""
    found = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        found.append((await said(tmp_path / name, NAMES, **box))["id"])
    return found


async def test_a_box_has_a_machine_id_of_its_own(tmp_path):
    first, second = await two_ids(tmp_path)
    assert re.fullmatch(r"[0-9a-f]{32}\n", first)
    assert len({first, second, Path("/etc/machine-id").read_text()}) == 3


async def test_a_kept_home_keeps_its_machine_id(tmp_path):
    (tmp_path / "home").mkdir()
    first, second = await two_ids(tmp_path, home=tmp_path / "home")
    assert re.fullmatch(r"[0-9a-f]{32}\n", first)
    assert first == second != Path("/etc/machine-id").read_text()


async def test_certificates_of_the_machine_are_in_its_boxes(tmp_path):
    there = ssl.create_default_context().cert_store_stats()["x509_ca"]
    assert await said(tmp_path, STORE) == there
