"""Secrets of the user's: prompts of a locked keyring, one at a time and few."""

from __future__ import annotations

import os

import pytest
import trio

from broker.core.errors import RefusedError
from broker.core.services import SECRET
from broker.viewer import secrets as user_secrets
from broker.viewer.exchange.failures import ShareableError
from broker.viewer.secrets import UserSecrets
from broker.viewer.transfer.meter import DECLINED_PER_MINUTE
from tests.kit.eventually import eventually
from tests.kit.session import starter_of_orders

TOOL = """\
#!/bin/sh
echo $$ >>{folder}/prompts
read answer <{folder}/answer
[ "$answer" = yes ] && echo secret
"""


@pytest.fixture(name="desktop")
def _desktop(tmp_path):
    """A directory with a secret-tool whose prompts the test answers."""
    folder = tmp_path / "bin"
    folder.mkdir()
    tool = folder / "secret-tool"
    tool.write_text(TOOL.format(folder=tmp_path))
    tool.chmod(0o755)
    os.mkfifo(tmp_path / "answer")
    return tmp_path


def starter(desktop):
    return starter_of_orders(
        dict(os.environ, PATH=f"{desktop / 'bin'}:{os.environ['PATH']}")
    )


def prompts(desktop):
    """Return how many prompts were shown."""
    path = desktop / "prompts"
    return len(path.read_text().splitlines()) if path.exists() else 0


async def answer(desktop, text):
    """Answer the next prompt, once it is there."""
    await trio.to_thread.run_sync((desktop / "answer").write_text, f"{text}\n")


async def read(secrets, session, record="work"):
    warrant = session.permit(SECRET, argument="+key", record=record)
    async with secrets.reading(record, warrant, "key") as near:
        return near.recv(4096)


async def test_prompts_of_a_record_come_one_at_a_time_and_end(desktop, monkeypatch):
    """64 at once, and the next after each that was dismissed: 214 in 20 seconds."""
    monkeypatch.setattr(user_secrets, "_DISMISSED_SECONDS", 0)
    refused = []
    with starter(desktop) as session, trio.fail_after(60):
        secrets = UserSecrets(session)

        async def flood():
            with pytest.raises(ShareableError) as error:
                await read(secrets, session)
            refused.append("too many" in str(error.value))

        async with trio.open_nursery() as nursery:
            for _ in range(3 * DECLINED_PER_MINUTE):
                nursery.start_soon(flood)
            for number in range(1, DECLINED_PER_MINUTE + 1):
                await eventually(lambda n=number: prompts(desktop) >= n)
                assert prompts(desktop) == number
                await answer(desktop, "no")
        assert prompts(desktop) == DECLINED_PER_MINUTE
        assert sum(refused) == 2 * DECLINED_PER_MINUTE
        # Another record does not pay for it.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer, desktop, "yes")
            assert b"secret" in await read(secrets, session, "other")
        assert not secrets._turns


async def test_a_prompt_whose_program_hangs_up_was_dismissed(desktop):
    with starter(desktop) as session, trio.fail_after(60):
        secrets = UserSecrets(session)
        for number in range(1, DECLINED_PER_MINUTE + 1):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, secrets, session)
                await eventually(lambda n=number: prompts(desktop) == n)
                nursery.cancel_scope.cancel()
        with pytest.raises(ShareableError, match="too many"):
            await read(secrets, session)


async def test_a_secret_that_is_not_there_was_not_dismissed(desktop, monkeypatch):
    """It is known at once; nor is a refusal, before which no prompt is shown."""
    monkeypatch.setattr(user_secrets, "_DISMISSED_SECONDS", 1000)
    with starter(desktop) as session, trio.fail_after(60):
        secrets = UserSecrets(session)
        for _ in range(DECLINED_PER_MINUTE + 1):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(answer, desktop, "no")
                with pytest.raises(ShareableError, match="has no secret"):
                    await read(secrets, session)
        for _ in range(DECLINED_PER_MINUTE + 1):
            with pytest.raises(RefusedError, match="permission"):
                async with secrets.reading("work", b"", "key"):
                    raise AssertionError
