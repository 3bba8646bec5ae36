"""Rules for ``vitrail.Network``: names, addresses, ports, and what none of them opens."""

from __future__ import annotations

import pytest

from policy.destinations import destination_of
from policy.rules.engine import Engine, PolicyCall
from policy.rules.last_good import written
from policy.rules.world import Domain, World
from policy.tools.files_in_memory import rules_of_map

WORLD = World({"dom0": Domain("dom0"), "work": Domain("work"), "web": Domain("web")})


def _engine(text):
    rules = rules_of_map({"10-a.policy": text})
    assert rules.problems == ()
    return Engine(rules)


def _ask(text, host, port=443, protocol="tcp", source="work", **told):
    call = PolicyCall(
        "vitrail.Network", f"+{host}", source, "@net", protocol=protocol, port=port
    )
    return _engine(text).answer(call._replace(**told), WORLD)


def _verdict(text, host, *args, **told):
    return _ask(text, host, *args, **told).verdict


RULE = "vitrail.Network +{} work @net allow {}\n"


@pytest.mark.parametrize(
    ("rule", "host", "verdict"),
    [
        ("www.example.org", "www.example.org", "allow"),
        ("WWW.Example.ORG.", "www.example.org", "allow"),
        ("www.example.org", "example.org", "deny"),
        ("www.example.org", "www.example.org.evil.test", "deny"),
        ("www.example.org", "evilwww.example.org", "deny"),
        ("*.example.org", "a.example.org", "allow"),
        ("*.example.org", "a.b.example.org", "allow"),
        ("*.example.org", "example.org", "deny"),
        ("*.example.org", "evilexample.org", "deny"),
        ("192.0.2.7", "192.0.2.7", "allow"),
        ("192.0.2.7", "192.0.2.8", "deny"),
        ("10.1.0.0/16", "10.1.255.255", "allow"),
        ("10.1.0.0/16", "10.2.0.0", "deny"),
        ("0.0.0.0/0", "8.8.8.8", "allow"),
        ("2001:db8::/32", "2001:db8::1", "allow"),
        ("2001:db8::/32", "2001:db9::1", "deny"),
        ("0.0.0.0/0", "2001:db8::1", "deny"),
    ],
)
def test_a_destination_is_matched_by_name_or_by_prefix(rule, host, verdict):
    """Whole labels of names, whole prefixes of addresses."""
    assert _verdict(RULE.format(rule, ""), host) == verdict


@pytest.mark.parametrize(
    ("told", "port", "protocol", "verdict"),
    [
        ("port=443", 443, "tcp", "allow"),
        ("port=443", 80, "tcp", "deny"),
        ("port=80,8000-8010", 8010, "udp", "allow"),
        ("port=80,8000-8010", 8011, "udp", "deny"),
        ("port=443 protocol=tcp", 443, "udp", "deny"),
        ("protocol=icmp", None, "icmp", "allow"),
        ("port=443", None, "icmp", "deny"),
        ("port=443", None, None, "deny"),
        ("", None, None, "allow"),
        ("port=443 protocol=tcp", None, "dns", "allow"),
    ],
)
def test_ports_and_protocols_narrow_a_grant(told, port, protocol, verdict):
    """A fact that is not known does not meet the condition of a grant."""
    assert _verdict(RULE.format("a.test", told), "a.test", port, protocol) == verdict


def test_a_denial_of_ports_leaves_the_name():
    """The addresses may be asked for, and the denied port stays closed."""
    text = "vitrail.Network +a.test work @net deny port=25\n" + RULE.format(
        "*.test", ""
    )
    assert _verdict(text, "a.test", 25) == "deny"
    assert _verdict(text, "a.test", 26) == "allow"
    assert _verdict(text, "a.test", None, "dns") == "allow"
    # It may be the denied one, where it is not known.
    assert _verdict(text, "a.test", None, None) == "deny"
    assert _verdict(text, "a.test", None, "tcp") == "deny"


def test_a_denial_of_the_name_is_about_its_addresses_too():
    """What nothing may reach is not looked up."""
    text = "vitrail.Network +a.test work @net deny\n" + RULE.format("*.test", "")
    assert _verdict(text, "a.test", None, "dns") == "deny"
    assert _verdict(text, "b.test", None, "dns") == "allow"


@pytest.mark.parametrize(
    "inner",
    [
        *("10.0.0.1", "192.168.1.1", "100.64.0.1", "fd00::1", "::ffff:10.0.0.1"),
        *("64:ff9b::a00:1", "2002:a00:1::1", "64:ff9b:1::1", "2001::1"),
    ],
)
def test_any_host_is_no_inner_address(inner):
    """``*`` opens the internet; a network at home is named."""
    assert _verdict("vitrail.Network * work @net allow\n", "8.8.8.8") == "allow"
    assert _verdict("vitrail.Network * work @net allow\n", inner) == "deny"
    assert _verdict("* * work * allow\n", inner) == "deny"
    assert _verdict(RULE.format(inner, ""), inner) == "allow"
    text = "vitrail.Network * work @net deny\n" + RULE.format(inner, "")
    assert _verdict(text, inner) == "deny"


@pytest.mark.parametrize("way", ["64:ff9b::c612:1", "2002:c612:1::5"])
def test_an_ipv4_address_through_a_translator_is_the_same_host(way):
    """Attack: a denied network is reached by an address of IPv6 that leads there."""
    denied = "vitrail.Network +198.18.0.0/16 work @net deny\n"
    assert _verdict(denied + "vitrail.Network * work @net allow\n", way) == "deny"
    assert _verdict(RULE.format("198.18.0.0/16", ""), way) == "allow"
    assert _verdict(RULE.format("198.19.0.0/16", ""), way) == "deny"
    assert (
        _verdict("vitrail.Network * work @net allow\n", "64:ff9b::808:808") == "allow"
    )


def test_the_first_rule_of_all_patterns_decides():
    """Order counts, not how exact a pattern is."""
    first = RULE.format("*.test", "") + "vitrail.Network +a.test work @net deny\n"
    assert _verdict(first, "a.test") == "allow"
    wide = "vitrail.Network * work @net deny\n" + first
    assert _verdict(wide, "a.test") == "deny"


def test_a_rule_for_one_sandbox_opens_nothing_for_another():
    """Columns are columns."""
    assert _verdict(RULE.format("a.test", ""), "a.test", source="web") == "deny"


def test_only_the_network_has_this_target():
    """No service leads a file or an address outside by the word ``@net``."""
    text = "vitrail.OpenFile * work * allow\nvitrail.Network * work * allow\n"
    engine = _engine(text)
    opened = engine.answer(PolicyCall("vitrail.OpenFile", "+", "work", "@net"), WORLD)
    assert opened.verdict == "deny"
    flow = PolicyCall("vitrail.Network", "+a.test", "work", "web", None)
    assert engine.answer(flow, WORLD).verdict == "deny"


def test_an_ask_offers_the_network_only():
    """There is nothing to choose."""
    answer = _ask("vitrail.Network +a.test work @net ask ttl=1h\n", "a.test")
    assert (answer.verdict, answer.targets) == ("ask", ("@net",))


def test_what_is_observed_is_reported():
    """``mode=observe`` decides nothing."""
    answer = _ask(
        RULE.format("*.test", "mode=observe") + RULE.format("*", "").replace("+*", "*"),
        "a.test",
    )
    assert answer.verdict == "allow"
    assert [rule.line for rule in answer.observed] == [1]


@pytest.mark.parametrize(
    ("argument", "word"),
    [
        ("+a*.example.org", "first label"),
        ("+10.0.0.1/8", "host bits"),
        ("+1.2.3", "does not appear"),
        ("+fe80::1%eth0", "zone"),
        ("+2001:db8::1/32", "host bits"),
        ("+a..b", "does not appear"),
        ("+https://a.test", "does not appear"),
        ("a.test", "must begin with '+'"),
    ],
)
def test_a_wrong_destination_says_so(argument, word):
    """And its line denies, as every line with a mistake."""
    rules = rules_of_map({"a.policy": f"vitrail.Network {argument} work @net allow\n"})
    (problem,) = rules.problems
    assert word in problem.message


@pytest.mark.parametrize("told", ["port=0", "port=65536", "port=9-8", "protocol=sctp"])
def test_a_wrong_condition_says_so(told):
    """Ports are 1 to 65535."""
    rules = rules_of_map({"a.policy": RULE.format("a.test", told)})
    assert len(rules.problems) == 1


def test_a_port_of_a_device_is_another_key():
    """The name of the key is in both; the service says which one is meant."""
    text = "vitrail.Device * work @adminvm allow port=1-2\n"
    (rule,) = _engine(text).rules
    assert rule.match.port == ()
    assert rule.match.device.conditions


def test_a_rule_is_kept_as_it_was_written():
    """The last good policy means the same."""
    line = "vitrail.Network +*.example.org work @net allow port=80,443 protocol=tcp,udp"
    (rule,) = _engine(line + "\n").rules
    assert written(rule) == line


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("A.test.", "a.test"),
        ("192.0.2.1", "192.0.2.1"),
        ("::FFFF", "::ffff"),
        ("1.2.3.4.5", None),
        ("fe80::1%eth0", None),
        ("a b", None),
        ("*.test", None),
        ("", None),
        ("a" * 64 + ".test", None),
        ("a." * 127 + "a", None if len("a." * 127 + "a") > 253 else "a." * 127 + "a"),
    ],
)
def test_what_a_sandbox_names_is_made_canonical(text, made):
    """One form for each host, nothing else."""
    assert destination_of(text) == made
