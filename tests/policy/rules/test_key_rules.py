"""Rules for ``vitrail.SshAgent``: ``key=``, hosts by their keys, and a list of keys."""

from __future__ import annotations

import pytest

from policy.names import ANY_KEY
from policy.rules.engine import HOST_KEY, Engine, PolicyCall
from policy.rules.last_good import written
from policy.rules.world import Domain, World
from policy.tools.files_in_memory import rules_of_map

WORLD = World({"dom0": Domain("dom0"), "work": Domain("work")})
FINGERPRINT = "SHA256:" + "aB+/" * 10 + "abc"
KEY = f"{FINGERPRINT} me@desk"


def _rules(told):
    action, _, rest = told.partition(" ")
    tail = " vitrail.SshAgent * work @adminvm allow\n" if action == "deny" else ""
    text = f"vitrail.SshAgent * work @adminvm {action} {rest}\n{tail.strip()}\n"
    rules = rules_of_map({"10-a.policy": text})
    assert rules.problems == ()
    return rules


def _verdict(told, key=KEY, host="git.test"):
    call = PolicyCall("vitrail.SshAgent", "+login.git", "work", "@adminvm")
    call = call._replace(key=key, host=host)
    return Engine(_rules(told)).answer(call, WORLD).verdict


@pytest.mark.parametrize(
    ("told", "key", "host", "verdict"),
    [
        (f"allow key={FINGERPRINT}", KEY, "git.test", "allow"),
        ("allow key=me@desk", KEY, "git.test", "allow"),
        ("allow key=other,me@desk", KEY, "git.test", "allow"),
        ("allow key=ME@desk", KEY, "git.test", "deny"),
        ("allow key=me", KEY, "git.test", "deny"),
        (f"allow key={FINGERPRINT}", KEY.swapcase(), "git.test", "deny"),
        # A comment that has the form of a fingerprint is still a comment.
        (f"allow key={FINGERPRINT}", f"SHA256:x {FINGERPRINT} x", "git.test", "deny"),
        # A certificate has the names of its key.
        ("deny key=me@desk", f"{KEY} (certificate)", "git.test", "deny"),
        (f"deny key={FINGERPRINT}", f"{KEY} (certificate)", "git.test", "deny"),
        ("allow key=me@desk", f"{KEY} (certificate)", "git.test", "allow"),
        ("allow key=me@desk", None, "git.test", "deny"),
        ("deny key=me@desk", KEY, "git.test", "deny"),
        ("deny key=me@desk", "SHA256:x other", "git.test", "allow"),
        ("deny key=me@desk", None, "git.test", "deny"),
        # A host without a name is none that a rule names, and may be a denied one.
        ("allow host=git.test", KEY, f"{HOST_KEY}abc", "deny"),
        ("deny host=git.test", KEY, f"{HOST_KEY}abc", "deny"),
        ("deny host=git.test", KEY, None, "deny"),
        ("deny host=git.test", KEY, "other.test", "allow"),
        # Another port is another server; a denied host is denied at each of its ports.
        ("allow host=git.test", KEY, "[git.test]:2222", "deny"),
        ("allow host=[git.test]:2222", KEY, "[git.test]:2222", "allow"),
        ("allow host=[git.test]:2222", KEY, "[git.test]:22222", "deny"),
        ("allow host=[git.test]:2222", KEY, "git.test", "deny"),
        ("allow host=*.test", KEY, "[git.test]:2222", "deny"),
        ("deny host=git.test", KEY, "[git.test]:2222", "deny"),
        ("deny host=*.test", KEY, "[git.test]:2222", "deny"),
        ("deny host=[git.test]:2222", KEY, "git.test", "allow"),
        ("deny host=[git.test]:2222", KEY, "[git.test]:2222", "deny"),
        # A list is within every grant, and within no denial of one key or host.
        ("allow key=me@desk host=git.test", ANY_KEY, None, "allow"),
        ("deny key=me@desk", ANY_KEY, None, "allow"),
        ("deny host=git.test", ANY_KEY, None, "allow"),
        ("deny notify=no", ANY_KEY, None, "deny"),
    ],
)
def test_a_key_is_chosen_by_fingerprint_or_comment(told, key, host, verdict):
    assert _verdict(told, key, host) == verdict


@pytest.mark.parametrize("told", ["key=", "key=a,", "key=SHA256:short", "key=a/b"])
def test_what_is_no_key_is_an_error(told):
    text = f"vitrail.SshAgent * work @adminvm allow {told}\n"
    assert rules_of_map({"10-a.policy": text}).problems


def test_a_rule_is_kept_with_its_keys():
    told = f"allow key={FINGERPRINT},me@desk"
    (rule,) = _rules(told).rules
    assert f"key={FINGERPRINT},me@desk" in written(rule)


@pytest.mark.parametrize(
    "host", ["[git.test]", "[git.test]:", "git.test:22", "[*.test]:22", "[a]:022"]
)
def test_a_port_is_written_as_ssh_does(host):
    text = f"vitrail.SshAgent * work @adminvm allow host={host}\n"
    assert rules_of_map({"10-a.policy": text}).problems
