"""Calls between two real micro VMs: as the guest's user, as root, by a rule's user."""

from __future__ import annotations

import pytest

from tests.kit.world import record, world

RULES = """\
vitrail.Call +as-root  work vault  allow user=nobody
vitrail.Call *         work vault  allow
"""
SERVICES = """\
[services.echo]
command = ["cat"]
[services.as-user]
command = ["id", "-un"]
[services.by-record]
command = ["sh", "-c", 'id -un; pwd; echo "$HOME"']
user = "root"
working_directory = "/usr"
[services.as-root]
command = ["id", "-un"]
user = "root"
"""


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_calls_between_two_machines():
    records = {
        "work": record("persistent", colour="blue"),
        "vault": record("persistent", colour="green", top=SERVICES),
    }
    async with world(records, rules=RULES) as w:

        async def shell(text):
            return await w.output("work", "sh", "-c", text)

        # The first one starts the target.
        call = "vitrail-call -t vault"
        code, said = await shell(f"echo hello | {call} echo 2>/dev/null")
        assert (code, said) == (0, b"hello\n")
        code, said = await shell(f"head -c 20000000 /dev/zero | {call} echo | wc -c")
        assert (code, said) == (0, b"20000000\n")
        code, said = await shell(f"{call} as-user </dev/null")
        assert (code, said) == (0, b"user\n")
        code, said = await shell(f"{call} by-record </dev/null")
        assert (code, said) == (0, b"root\n/usr\n/root\n")
        # The rule's user precedes the record's.
        code, said = await shell(f"{call} as-root </dev/null")
        assert (code, said) == (0, b"nobody\n")
        code, said = await shell("echo by qubes | qrexec-client-vm vault echo")
        assert (code, said) == (0, b"by qubes\n")
