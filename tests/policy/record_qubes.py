"""Records what Qubes' own policy parser answers, for test_compat.

Nothing of that parser is kept here: give a checkout of qubes-core-qrexec, and
the answers to made-up policies, worlds and calls are written as JSON lines.

    python tests/policy/record_qubes.py CHECKOUT [--policies N] [--seed N] |
        gzip -9n > tests/corpus/policy/qubes.jsonl.gz

The first line names the commit; each further one has a policy (file name to
text), the number of its world, and calls with their answers.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import subprocess
import sys
import tempfile
from pathlib import Path

NAMES = ["work", "vault", "web", "net", "tmpl", "off", "hid", "dom0"]
TAGS = ["red", "blue", "trusted"]
TYPES = ["AppVM", "TemplateVM", "AdminVM", "DispVM"]
SERVICES = ["a.Open", "b.Paste"]
ARGUMENTS = ["+", "+x", "+x+y"]
UUIDS = {name: f"{n:08x}-1111-2222-3333-444444444444" for n, name in enumerate(NAMES)}
UUIDS["dom0"] = "00000000-0000-0000-0000-000000000000"


def world(dice: random.Random) -> dict:
    """A system as Qubes describes it."""
    domains = {}
    for name in NAMES:
        domains[name] = {
            "tags": sorted(dice.sample(TAGS, dice.randint(0, 2))),
            "type": "AdminVM" if name == "dom0" else dice.choice(TYPES[:2]),
            "default_dispvm": dice.choice([None, "tmpl", "tmpl", "web", "work"]),
            "template_for_dispvms": name == "tmpl" or dice.random() < 0.25,
            "power_state": dice.choice(["Running", "Halted"]),
            "icon": "x",
            "label": "0xcc0000",
            "guivm": None,
            "uuid": UUIDS[name],
            "name": name,
            "internal": name == "hid",
        }
    if dice.random() < 0.6:
        domains |= {f"uuid:{entry['uuid']}": entry for entry in [*domains.values()]}
    return {"domains": domains}


def token(dice: random.Random, place: str) -> str:
    """A word for a column; now and then one that is not allowed there."""
    name = dice.choice([*NAMES, "nobody", f"uuid:{UUIDS[dice.choice(NAMES)]}"])
    every = ["@adminvm", "@dispvm:tmpl", f"@dispvm:{name}", name, name, name]
    some = {
        "source": ["*", "@anyvm", "@anyvm", "@anyvm", "@anyvm", f"@tag:{dice.choice(TAGS)}",
                   f"@type:{dice.choice(TYPES)}", "@dispvm:@tag:red"],
        "target": ["*", "@anyvm", "@anyvm", "@default", "@dispvm", f"@tag:{dice.choice(TAGS)}",
                   f"@type:{dice.choice(TYPES)}", f"@dispvm:@tag:{dice.choice(TAGS)}"],
        "redirect": ["@dispvm", "dom0"],
        "call": ["", "@default", "@dispvm", "dom0"],
    }  # fmt: skip
    wrong = ["@bad", "@tag:", "@dispvm:", "@dispvm:@tag:", "@", "@anyvm:", "@type:@x",
             "*x", "@default", "@dispvm", "@anyvm", "*", "$anyvm", "wo;rk", "@tag:red"]  # fmt: skip
    if dice.random() < 0.004:
        return dice.choice(wrong)
    return dice.choice([*every, *some[place]])


def action(dice: random.Random) -> str:
    """An action with parameters."""
    word = dice.choice(["allow", "allow", "ask", "ask", "deny"])
    words = [word]
    if word != "deny" and dice.random() < 0.3:
        words.append(f"target={token(dice, 'redirect')}")
    if word == "ask" and dice.random() < 0.5:
        words.append(f"default_target={token(dice, 'redirect')}")
    if dice.random() < 0.2:
        words.append(f"notify={dice.choice(['yes', 'no'])}")
    if word != "deny" and dice.random() < 0.2:
        words.append(f"autostart={dice.choice(['yes', 'no'])}")
    if word != "deny" and dice.random() < 0.1:
        words.append(f"user={dice.choice(['root', '', 'a=b'])}")
    if dice.random() < 0.004:
        words.append(dice.choice(["#", "notify=maybe", "target=", "x=1", "notify=yes notify=no",
                                  "default_target=web", "target=web", "mime=image/png", "=", "user"]))  # fmt: skip
    if dice.random() < 0.003:
        words[0] = dice.choice(["DENY", "alow", "permit"])
    return " ".join(words)


def rule(dice: random.Random) -> str:
    """A line."""
    service = dice.choice([*SERVICES, SERVICES[0], "*"])
    argument = "*" if service == "*" or dice.random() < 0.6 else dice.choice(ARGUMENTS)
    if dice.random() < 0.003:
        service, argument = dice.choice([("a+b", "*"), ("*", "+x"), ("a", "x"), ("a", "+\u00e9"), ("a/b", "*")])  # fmt: skip
    target, act = token(dice, "target"), action(dice)
    if target == "@default" and act.startswith("allow") and " target=" not in act:
        act = act.replace("allow", "ask") if dice.random() < 0.95 else act
    words = [service, argument, token(dice, "source"), target, act]
    if dice.random() < 0.003:
        del words[dice.randrange(5)]
    blank = dice.choice([" ", " ", " ", "\t", "   ", " \t "])
    if dice.random() < 0.004:
        blank = dice.choice(["\u00a0", "\u2003", "\x0b", "\x1f", "\x85"])
    return dice.choice(["", "", "", "  "]) + blank.join(words)


def old_rule(dice: random.Random) -> str:
    """A line in the form of !include-service."""
    target, act = (
        token(dice, "target"),
        action(dice).replace(" ", dice.choice([" ", ","])),
    )
    line = f"{token(dice, 'source')} {target} {act}"
    return line.replace("@", "$") if dice.random() < 0.5 else line


def policy(dice: random.Random) -> dict[str, str]:
    """Files, some of which include others."""
    files = {}
    lines = [rule(dice) for _ in range(dice.randint(3, 24))]
    if dice.random() < 0.5:
        lines.append(
            f"* * {dice.choice(['*', '@anyvm'])} {dice.choice(['*', '@anyvm'])} {action(dice)}"
        )
    extra = dice.random()
    if extra < 0.15:
        files["include/more"] = "".join(rule(dice) + "\n" for _ in range(3))
        lines.insert(dice.randrange(len(lines) + 1), "!include include/more")
    elif extra < 0.3:
        files["include/old"] = "".join(old_rule(dice) + "\n" for _ in range(3))
        pair = dice.choice(
            ["a.Open *", "a.Open +x", "* *", "* +x"] + ["b.Paste *"] * 20
        )
        lines.insert(
            dice.randrange(len(lines) + 1), f"!include-service {pair} include/old"
        )
    elif extra < 0.36:
        files["sub/20-b.policy"] = rule(dice) + "\n"
        files["sub/10-a.policy"] = rule(dice)
        lines.insert(dice.randrange(len(lines) + 1), "!include-dir sub")
    elif extra < 0.38:
        lines.append(dice.choice(["!include nothing", "!include 30-user.policy", "!includes x",
                                  "!include", "!include a b", "!include-dir nothing", "!"]))  # fmt: skip
    for _ in range(dice.choice([0, 0, 1, 2])):
        lines.insert(
            dice.randrange(len(lines) + 1),
            dice.choice(["", "# words", "   ", "\t# x y"]),
        )
    end = dice.choice(["\n", "\n", "\n", "\r\n"])
    cut = dice.randrange(len(lines) + 1)
    files["30-user.policy"] = "".join(line + end for line in lines[:cut])
    if dice.random() < 0.5:
        files["90-default.policy"] = end.join(lines[cut:])
    else:
        files["30-user.policy"] += end.join(lines[cut:])
    if dice.random() < 0.02:
        files[
            dice.choice(["30-User.policy", ".hidden.policy", "x.policy~", "a b.policy"])
        ] = "* * * * deny"
    return files


class Oracle:
    """The other parser."""

    def __init__(self, checkout: Path) -> None:
        sys.path.insert(0, str(checkout))
        logging.disable(logging.CRITICAL)
        from qrexec import exc
        from qrexec.policy import parser

        self.exc, self.parser = exc, parser

    def load(self, files: dict[str, str], folder: Path):
        """The policy, or an answer that says why not."""
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(text.encode())
        try:
            return self.parser.FilePolicy(policy_path=folder)
        except self.exc.PolicySyntaxError as error:
            place = str(error).rsplit(": ", 1)[0]
            for name in sorted(files, key=len, reverse=True):
                mark = f"{name}:"
                if mark in str(error):
                    line = str(error).split(mark, 1)[1].split(":")[0]
                    return {"decision": "error", "file": name, "line": int(line)}
            raise AssertionError(place) from error
        except (self.exc.AccessDenied, RecursionError):
            return {"decision": "error", "file": None, "line": None}

    def ask(self, rules, call: list[str], info: dict, folder: Path) -> dict:
        """The answer to a call, in our words."""
        service, argument, source, target = call
        answer: dict = {"file": None, "line": None}
        try:
            request = self.parser.Request(
                service, argument, source, target, system_info=info
            )
            found = rules.find_matching_rule(request)
            name = Path(str(found.filepath)).relative_to(folder.resolve())
            answer |= {"file": str(name), "line": found.lineno}
            made = rules.evaluate(request)
        except self.exc.PolicySyntaxError:
            return answer | {"decision": "error"}
        except self.exc.AccessDenied as error:
            return answer | {"decision": "deny", "notify": error.notify}
        except Exception:  # it fails, and its caller denies
            return answer | {"decision": "error"}
        answer |= {
            "user": made.user,
            "notify": made.notify,
            "autostart": made.autostart,
        }
        if isinstance(made, self.parser.AllowResolution):
            return answer | {"decision": "allow", "target": str(made.target)}
        targets = sorted(map(str, made.targets_for_ask))
        default = made.default_target
        return answer | {
            "decision": "ask", "targets": targets,
            "default_target": None if default is None else str(default),
        }  # fmt: skip


def calls(dice: random.Random, number: int) -> list[list[str]]:
    """Calls; most are about something that rules speak of."""
    made = []
    for _ in range(number):
        source = dice.choice(NAMES)
        if dice.random() < 0.05:
            source = dice.choice(["nobody", f"uuid:{UUIDS['work']}"])
        made.append(
            [dice.choice(SERVICES), dice.choice(ARGUMENTS), source, token(dice, "call")]
        )
    return made


def main() -> None:
    """See the module."""
    options = argparse.ArgumentParser()
    options.add_argument("checkout", type=Path)
    options.add_argument("--policies", type=int, default=700)
    options.add_argument("--calls", type=int, default=14)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--commit", default="")
    given = options.parse_args()
    dice = random.Random(given.seed)
    oracle = Oracle(given.checkout)
    commit = (
        given.commit
        or subprocess.check_output(
            ["git", "-C", given.checkout, "rev-parse", "HEAD"], text=True
        ).strip()
    )
    worlds = [world(dice) for _ in range(12)]
    head = {"source": "QubesOS/qubes-core-qrexec", "commit": commit, "worlds": worlds}
    print(json.dumps(head))
    for _ in range(given.policies):
        number = dice.randrange(len(worlds))
        files = policy(dice)
        with tempfile.TemporaryDirectory() as folder:
            rules = oracle.load(files, Path(folder))
            asked = calls(dice, 1 if isinstance(rules, dict) else given.calls)
            answers = [
                rules
                if isinstance(rules, dict)
                else oracle.ask(rules, call, worlds[number], Path(folder))
                for call in asked
            ]
        line = {
            "policy": files,
            "world": number,
            "calls": [
                [*call, answer] for call, answer in zip(asked, answers, strict=True)
            ],
        }
        print(json.dumps(line))


if __name__ == "__main__":
    main()
