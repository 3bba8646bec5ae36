"""``brokerctl open --check``, as a person and a script run it."""

from __future__ import annotations

import json
import sys

import trio

from broker.helpers.process.spawn import PIPE, spawn
from tests.kit.brokerctl import brokerctl, called


def test_arguments_are_addresses_or_names(env):
    answer = called("open", "--check", "https://A.b", "a b.txt", env=env)
    assert answer.code == 0
    assert [one["canonical"] for one in answer.objects] == ["https://a.b/", "a b.txt"]


def test_what_would_be_refused_is_the_exit_code(env):
    answer = called("open", "--check", "a.txt", "javascript:x", env=env)
    assert answer.code == 1
    assert [one["ok"] for one in answer.objects] == [True, False]


def test_schemes_can_be_chosen(env):
    words = ("open", "--check", "--scheme", "FTP")
    assert called(*words, "ftp://a.b/", env=env).code == 0
    assert called(*words, "https://a.b/", env=env).code == 1


async def test_a_call_without_a_question_is_wrong(env):
    assert (await brokerctl("open", "--check", env=env)).code == 2
    assert (await brokerctl("open", "--check", "--batch", "x", env=env)).code == 2


async def test_a_batch_has_one_answer_a_line_at_once(env):
    """Also where a script asks the next only when it has the last answer."""
    argv = [sys.executable, "-m", "broker.cli.app", "open", "--check", "--batch"]
    child = spawn(argv, env=env, stdin=PIPE, stdout=PIPE)
    asking, answers = child.popen.stdin, child.popen.stdout
    assert asking is not None
    assert answers is not None
    with asking, answers:

        async def ask(line: bytes) -> dict:
            await trio.to_thread.run_sync(asking.write, line + b"\n")
            await trio.to_thread.run_sync(asking.flush)
            return json.loads(await trio.to_thread.run_sync(answers.readline))

        with trio.fail_after(60):
            assert (await ask(b'{"kind":"url","text":"https://a.b"}'))["ok"]
            assert not (await ask(b"x" * (3 << 20)))["ok"]
            assert not (await ask(b""))["ok"]
            last = await ask(b'{"kind":"name","bytes_hex":"e280ae"}')
            assert last["display"] == "_"
            asking.close()
            assert await child.wait() == 0
