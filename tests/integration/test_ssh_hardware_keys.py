"""ssh keys that are in hardware: a token by PKCS#11, and a security key that is touched.

OpenSSH itself uses both: its helper for PKCS#11 with SoftHSM in the token's place, and its
helper for security keys with our key (``tests/kit/ssh_token.c``).
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.integration.test_ssh_keys import (
    HOST,
    USER,
    login,
    sandboxes,
    script,
    uses,
)
from tests.kit.eventually import eventually
from tests.kit.needs import requires
from tests.kit.ssh import agent, made_key

SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")
TOKEN_SOURCE = Path(__file__).parents[1] / "kit/ssh_token.c"
pytestmark = requires("waypipe", "/usr/sbin/sshd")
PIN = "1234"
RULES = f"""\
vitrail.SshAgent +list         work @adminvm allow
vitrail.SshAgent +login.{USER} work @adminvm allow key=work@desk host={HOST}
vitrail.SshAgent +sign.git     work @adminvm allow key=home@desk
"""
TOUCHED = "vitrail.SshAgent * work @adminvm allow key=work@desk\n"


def run(*words, **more):
    subprocess.run(words, check=True, timeout=60, stdout=subprocess.DEVNULL, **more)


# -- a token ---------------------------------------------------------------------------


def variables(folder):
    return {
        **os.environ,
        "SOFTHSM2_CONF": str(folder / "conf"),
        "SSH_ASKPASS": str(folder / "pin"),
        "SSH_ASKPASS_REQUIRE": "force",
    }


def keys_in_a_token(folder):
    """One of RSA and one of ECDSA; their files have the public halves only."""
    (folder / "tokens").mkdir(parents=True)
    (folder / "conf").write_text(f"directories.tokendir = {folder}/tokens\n")
    (folder / "pin").write_text(f"#!/bin/sh\necho {PIN}\n")
    (folder / "pin").chmod(0o700)
    env, tool = variables(folder), "softhsm2-util"
    pins = ("--so-pin", PIN, "--pin", PIN)
    run(tool, "--init-token", "--free", "--label", "desk", *pins, env=env)
    keys = []
    for number, (name, kind) in enumerate((("work", "rsa"), ("home", "ecdsa")), 1):
        # A token's key has a label in place of the comment.
        key = made_key(folder / name, f"{name}@desk", kind, "-m", "PKCS8")
        of = ("--label", f"{name}@desk", "--id", f"{number:02}")
        to = ("--token", "desk", "--pin", PIN)
        run(tool, "--import", str(key), *to, *of, env=env)
        key.unlink()
        keys.append(key)
    return keys


@asynccontextmanager
async def agent_with_the_token(folder, key, *_keys):
    more = variables(key.parent)
    async with agent(folder, SOFTHSM, options=("-s",), more=more) as sock:
        yield sock


@pytest.mark.skipif(not SOFTHSM.exists(), reason="needs softhsm2")
async def test_keys_in_a_token():
    """A login with one that has rules by its label, a signature with another."""
    async with sandboxes(
        RULES, make=keys_in_a_token, start=agent_with_the_token
    ) as made:
        w, guests, there, keys = made
        work = guests["work"]
        code, said = await work.script(script(work, "ssh-add -l"))
        assert (code, "(RSA)" in said, "(ECDSA)" in said) == (0, True, True), said
        code, said = await work.script(script(work, login(work, there)))
        assert (code, "authorized" in said) == (0, True), said
        shutil.copy(f"{keys[1]}.pub", work.home / "home.pub")
        sign = f"echo x >x; ssh-keygen -Y sign -n git -f {work.home}/home.pub x"
        code, said = await work.script(script(work, sign))
        assert code == 0, said
        assert uses(w) == [
            (f"+login.{USER}", HOST, "work@desk", "dom0"),
            ("+sign.git", "", "home@desk", "dom0"),
        ]
        # Neither the other key's use, nor a change of the token.
        only = f"IdentityFile={work.home}/home.pub", "IdentitiesOnly=yes"
        code, said = await work.script(script(work, login(work, there, *only)))
        assert code == 255, said
        code, said = await work.script(script(work, f"ssh-add -e {SOFTHSM}"))
        assert code != 0, said
        code, said = await work.script(script(work, "ssh-add -l"))
        assert said.count("desk") == 2, said


# -- a security key --------------------------------------------------------------------


def keys_that_are_touched(folder):
    folder.mkdir()
    token = folder / "token.so"
    words = ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(token)]
    run(*words, str(TOKEN_SOURCE), "-l:libcrypto.so.3")
    os.mkfifo(folder / "touch")
    return [made_key(folder / "work", "work@desk", "ed25519-sk", "-w", str(token))]


@asynccontextmanager
async def agent_with_a_security_key(folder, key):
    places = key.parent
    more = {"SSH_TOKEN_TOUCH": str(places / "touch"), "SSH_ASKPASS_REQUIRE": "never"}
    options = ("-S", str(places / "token.so"))
    async with agent(folder, key, options=options, more=more) as sock:
        yield sock


def touching(key):
    """Return a descriptor by which the key is touched; -1: it does not wait for it."""
    try:
        return os.open(key.parent / "touch", os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return -1


async def waits_for_touch(key):
    return await eventually(lambda: (fd := touching(key)) >= 0 and fd)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
async def test_a_security_key_waits_for_its_touch():
    async with sandboxes(
        TOUCHED, make=keys_that_are_touched, start=agent_with_a_security_key
    ) as made:
        w, guests, there, (key,) = made
        work = guests["work"]
        answers = []

        async def log_in():
            answers.append(await work.script(script(work, login(work, there))))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(log_in)
            fd = await waits_for_touch(key)
            # The decision is on record, and nothing is signed before the touch.
            assert uses(w) == [(f"+login.{USER}", HOST, "work@desk", "dom0")]
            assert answers == []
            os.write(fd, b"x")
            os.close(fd)
        ((code, said),) = answers
        assert (code, "authorized" in said) == (0, True), said
        await _a_touch_after_the_revocation(w, key, log_in, answers)


async def _a_touch_after_the_revocation(w, key, log_in, answers):
    """The rule goes while the key waits: its late signature reaches nobody."""
    answers.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log_in)
        fd = await waits_for_touch(key)
        rules = w.paths.config[0] / "policy.d/30-mine.policy"
        rules.write_text("vitrail.SshAgent * work @adminvm deny\n")
        await eventually(lambda: answers)
        os.write(fd, b"x")
        os.close(fd)
    ((code, said),) = answers
    assert code == 255, said
    assert len(uses(w)) == 2
