"""Each tool of ``brokerctl policy`` answers a call as the broker decides it.

Random settings and calls: sandboxes, running disposables, the user, words that name
nothing, facts, records with mistakes.  The broker's answer is that of a real decider on
the same files; the tools are called as a person calls them.  A tool takes the name of a
disposable for one that runs, because it asks no broker; so all that are named here run.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from contextlib import suppress
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from broker.authority.permit import Request
from broker.cli.policy.verbs import command
from broker.core.errors import RefusedError
from broker.core.lease import Lease
from broker.core.names import LeaseId, SandboxName
from broker.ipc.audit.schema import LeaseBegin
from policy.names import ADMIN_NAMES
from policy.rules.engine import PolicyCall
from policy.tools.calls import canonical_target
from policy.tools.files_in_memory import rules_of_map
from tests.kit.rulebook import no, rulebook
from tests.kit.world import record

SETTINGS, CALLS = 25, 200
PERSISTENT, DISPOSABLE = ("work", "vault", "bank"), ("web", "view")
RUNNING = {"work": "work", "vault": "vault", "web-1234": "web", "view-7700": "view"}
SERVICES = ("vitrail.FileCopy", "vitrail.OpenURL", "vitrail.Audio", "vitrail.AudioOutput",
            "vitrail.AudioInput", "vitrail.Display", "vitrail.ClipboardPaste")  # fmt: skip
OF_RECORDS = ("vitrail.Audio", "vitrail.AudioOutput", "vitrail.AudioInput", "vitrail.Display")  # fmt: skip
SOURCES = (
    "*",
    "@anyvm",
    "@adminvm",
    "work",
    "bank",
    "web",
    "@tag:red",
    "@type:disposable",
)
TARGETS = ("*", "@anyvm", "@adminvm", "@default", "@dispvm", "@dispvm:web", "vault",
           "work", "web", "@tag:red", "@tag:blue", "nobody")  # fmt: skip
CALLED = ("you", "@adminvm", "", "@default", "@dispvm", "@dispvm:web", "work", "vault",
          "bank", "web", "web-1234", "view-7700", "nobody")  # fmt: skip


def random_record(pick, name):
    if pick.random() < 0.08:
        return "class = nonsense\n"
    top = [f'tags = ["{pick.choice(["red", "blue"])}"]'] if pick.random() < 0.6 else []
    if pick.random() < 0.5:
        top.append('default_disposable = "web"')
    top.append("[audio]")
    top.append(f'playback = "{pick.choice(["none", "allow"])}"')
    top.append(f'microphone = "{pick.choice(["deny", "ask", "allow"])}"')
    return record(
        "disposable" if name in DISPOSABLE else "persistent",
        display=pick.choice(["allow", "none"]),
        top="\n".join(top),
    )


def random_rule(pick):
    action = pick.choice(["allow", "ask", "deny"])
    words = [
        pick.choice([*SERVICES, "*"]),
        "*",
        pick.choice(SOURCES),
        pick.choice(TARGETS),
        action,
    ]
    if action != "deny" and pick.random() < 0.2:
        words.append(f"target={pick.choice(['vault', '@dispvm:web', '@adminvm'])}")
    if pick.random() < 0.25:
        words.append(pick.choice(["scheme=https", "mime=text/*", "host=*.example.org"]))
    if action != "deny" and pick.random() < 0.2:
        words.append("max-size=1K")
    line = " ".join(words)
    # A set with a mistake is not taken by the broker, which then denies everything.
    wrong = rules_of_map({"1.policy": line + "\n"}).problems
    return random_rule(pick) if wrong else line


def random_call(pick):
    call = {
        "service": pick.choice([*SERVICES, "vitrail.Nothing"]),
        "source": pick.choice([*RUNNING, "@adminvm", "you"]),
        "target": pick.choice(CALLED),
    }
    facts = {
        "scheme": ("https", "http"),
        "mime": ("text/plain", "image/png"),
        "host": ("a.example.org", "example.net"),
        "size": (10, 100_000),
    }
    for fact, values in facts.items():
        if pick.random() < 0.3:
            call[fact] = pick.choice(values)
    return call


def in_force(book):
    """The engine and the world of the decider in the broker."""
    return book.decider._rules.engine, book.decider._judge.world()


def brokers_answer(book, call):
    """The decision of the decider in the broker; nothing is recorded or asked."""
    target = canonical_target(call["target"])
    facts = [call.get(key) for key in ("mime", "scheme", "host", "size")]
    if canonical_target(call["source"]) in ADMIN_NAMES:
        engine, world = in_force(book)
        return engine.answer(
            PolicyCall(call["service"], "+", "@adminvm", target, *facts), world
        )
    return book.decider._judge.decide(request_of(book, call)).answer


def request_of(book, call):
    """A sandbox's request, or that of what the user gives to a sandbox."""
    person = canonical_target(call["source"]) == "@adminvm"
    # What the user gives belongs to the lease of who receives it.
    name = "work" if person else call["source"]
    record_of = RUNNING.get(name, name)
    lease = Lease(LeaseId("0" * 16), SandboxName(name), SandboxName(record_of), 1)
    running = (one for one in book.leases if one.sandbox == name)
    return Request(
        lease=next(running, lease),
        service=call["service"],
        target=canonical_target(call["target"]),
        source="@adminvm" if person else "",
        **{key: call.get(key) for key in ("mime", "scheme", "host", "size")},
    )


def answer_of(verdict, target, targets):
    """The compared part; a tool does not know which other disposables run."""
    offered = {one for one in targets or () if RUNNING.get(one, one) == one}
    return (verdict, target or "", offered)


@pytest.fixture(autouse=True)
def _home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))


def run_tool(words, given=None):
    done = CliRunner().invoke(command, [str(word) for word in words], input=given)
    assert isinstance(done.exception, SystemExit | RefusedError | None), done.exception
    return done


def lines_of(call):
    words = [call["service"], call["source"], call["target"] or "@default"]
    told = [
        f"{key}={call[key]}"
        for key in ("mime", "scheme", "host", "size")
        if key in call
    ]
    return " ".join([*words, *told])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SETTINGS))
async def test_tools_answer_as_the_broker_decides(seed, tmp_path, monkeypatch):
    pick = random.Random(seed)
    rules = "\n".join(random_rule(pick) for _ in range(pick.randint(3, 25))) + "\n"
    async with rulebook(rules, start=False) as book:
        for name in (*PERSISTENT, *DISPOSABLE):
            book.write_record(name, random_record(pick, name))
        await start_with_running(book)
        calls = [random_call(pick) for _ in range(CALLS)]
        wanted = [brokers_answer(book, call) for call in calls]
        expected = [answer_of(a.verdict, a.target, a.targets) for a in wanted]
        site = ("--policy", book.paths.config[0])

        assert evaluated(site, calls) == expected

        cases = tmp_path / "all.policytest"
        cases.write_text(
            "".join(
                f"{lines_of(call)} -> {answer.verdict}\n"
                for call, answer in zip(calls, wanted, strict=True)
            )
        )
        tried = json.loads(run_tool(["test", cases, *site, "--json"]).stdout)
        assert [case for case in tried["cases"] if case["wrong"]] == []

        for call, answer in list(zip(calls, expected, strict=True))[:20]:
            told = [f"--{key}={call[key]}" for key in ("mime", "scheme", "host", "size") if key in call]  # fmt: skip
            words = (call["service"], call["source"], call["target"], *told, *site)
            said = json.loads(run_tool(["explain", *words, "--json"]).stdout)
            assert answer_of(said["decision"], said["target"], said["targets"]) == answer, call  # fmt: skip
        check_effective(site, book, calls)
        check_graph(site, book)
        await check_simulate(site, book, calls, monkeypatch, pick)


def evaluated(site, calls):
    given = "\n".join(json.dumps(call) for call in calls)
    batch = run_tool(["eval", "--batch", *site], given).stdout.splitlines()
    found = [json.loads(line) for line in batch]
    return [answer_of(one["decision"], one["target"], one["targets"]) for one in found]


async def check_changed(site, book, calls):
    """Records and rules were read again; then rules with a mistake are not."""
    answers = [brokers_answer(book, call) for call in calls]
    expected = [answer_of(a.verdict, a.target, a.targets) for a in answers]
    assert evaluated(site, calls) == expected
    book.write("60-more.policy", "vitrail.FileCopy * work vault alow\n")
    await book.reload()
    assert [brokers_answer(book, call) for call in calls] == answers
    # No tool has an answer, then: they do not know the rules in force.
    assert {verdict for verdict, *_ in evaluated(site, calls)} == {"error"}
    for words in (["effective", "work"], ["graph", "--json"], ["explain", "FileCopy", "work"]):  # fmt: skip
        assert run_tool([*words, *site]).exit_code == 3, words
    assert run_tool(["simulate", book.paths.config[0]]).exit_code == 3


async def start_with_running(book):
    book.leases = [
        Lease(LeaseId(f"{number:016x}"), SandboxName(name), SandboxName(of), 1)
        for number, (name, of) in enumerate(RUNNING.items(), 1)
    ]
    await book.start()


def check_effective(site, book, calls):
    """A call without facts is granted if and only if ``effective`` has it."""
    plain = [call for call in calls if set(call) == {"service", "source", "target"}]
    shown = {}
    for call in plain:
        source, target = (canonical_target(call[key]) for key in ("source", "target"))
        named = source not in RUNNING or RUNNING[source] == source
        if not named or target in {"", "web-1234", "view-7700", "nobody"}:
            continue  # 'effective' is about records
        name = "you" if source == "@adminvm" else source
        if name not in shown:
            answer = run_tool(["effective", name, *site, "--json"])
            if answer.exit_code:
                continue  # the record has a mistake
            shown[name] = json.loads(answer.stdout)["from"]
        granted = [
            grant
            for grant in shown[name]
            if grant["call"]["service"] == in_classes(book, call["service"])
            and target in grant["called"]
            and not {"scheme", "mime", "host"} & grant["call"].keys()
        ]
        verdicts = {grant["decision"] for grant in granted}
        wanted = brokers_answer(book, call).verdict
        assert (wanted == "deny") == (not verdicts), (call, wanted, granted)
        assert wanted == "deny" or wanted in verdicts, (call, wanted, granted)


def in_classes(book, service):
    """The name under which 'effective' lists a service: one that no rule names is any."""
    engine, _ = in_force(book)
    named = {rule.service for rule in engine.rules}
    return service if service in named else "(any other service)"


def check_graph(site, book):
    """The arrows are what the broker allows or asks about, each in both directions."""
    shown = json.loads(run_tool(["graph", *site, "--json"]).stdout)["flows"]
    found = {
        (flow["source"], flow["target"], flow["service"], flow["verdict"])
        for flow in shown
        if not flow["told"]
    }
    named = {rule.service for rule in in_force(book)[0].rules}
    wanted = set()
    for source in ("dom0", *PERSISTENT):
        for service in {*SERVICES, "vitrail.Nothing", *named} - {None}:
            for target in {*CALLED, "@dispvm:view", "view"} - set(RUNNING) | {
                *PERSISTENT
            }:
                call = {"service": service, "source": source, "target": target}
                answer = brokers_answer(book, call)
                reached = {
                    "allow": {answer.target},
                    "ask": answer_of("", "", answer.targets)[2],
                    "deny": set(),
                }[answer.verdict]
                shown_as = service if service in named else "anything else"
                wanted |= {
                    (source, one, shown_as, answer.verdict)
                    for one in reached - {source}
                }
    mine = {flow for flow in found if flow[0] in {"dom0", *PERSISTENT}}
    assert mine == wanted


async def check_simulate(site, book, calls, monkeypatch, pick):
    """Decisions of the broker, asked again of other rules and records."""
    book.person.says = no
    for lease in book.leases:
        begun = LeaseBegin(sandbox=lease.sandbox, lease=lease.id, record=lease.record)
        await book.log.note(begun)
    before = []
    once = {}
    for call in calls:
        # Equal refusals within a second are one event, so each is asked for once.
        sandbox = call["source"] if call["source"] in RUNNING else "work"
        once.setdefault((sandbox, call["service"]), call)
    for call in once.values():
        if (
            canonical_target(call["source"]) == "@adminvm"
            and call["service"] in OF_RECORDS
        ):
            continue  # a lease's record is asked about these, and the user has none
        request = request_of(book, call)
        decided = book.decider._judge.decide(request)
        before.append((call, request, decided))
        with suppress(RefusedError):
            async with book.decider.permit(request):
                pass
    # Other rules, another record, and one that can be read no more.
    book.write("50-test.policy", "\n".join(random_rule(pick) for _ in range(10)) + "\n")
    book.write_record("vault", random_record(pick, "vault"))
    await book.reload()
    await check_simulated(site, book, before, monkeypatch)
    await check_changed(site, book, calls)


async def check_simulated(site, book, before, monkeypatch):
    log = SimpleNamespace(audit=book.path / "audit.sqlite")
    monkeypatch.setattr("broker.cli.policy.replay.offline_paths", lambda: log)
    told = json.loads(run_tool(["simulate", book.paths.config[0], "--json"]).stdout)
    wanted = Counter()
    same = 0
    for call, request, then in before:
        if not replayable(book, call, then):
            continue
        now = brokers_answer(book, call)
        was, will = short(then.answer), short(now)
        if was == will:
            same += 1
            continue
        wanted[
            canonical_target(call["source"]), call["service"], request.target, was, will
        ] += 1
    changes = Counter()
    for one in told["changes"]:
        key = tuple(
            one[name] for name in ("source", "service", "target", "then", "now")
        )
        changes[key] += one["count"]
    assert changes == wanted, told
    assert told["same"] == same, told


def short(answer):
    return f"allow to {answer.target}" if answer.verdict == "allow" else answer.verdict


def replayable(book, call, then):
    """Whether rules decided then, and the sandboxes of the call are known now."""
    _, world = in_force(book)
    target = canonical_target(call["target"]).removeprefix("@dispvm:")
    named = target and not target.startswith("@") and target != "dom0"
    source = canonical_target(call["source"])
    known = source == "@adminvm" or source in world.domains
    return (
        not then.refused_by_record and known and (not named or target in world.domains)
    )
