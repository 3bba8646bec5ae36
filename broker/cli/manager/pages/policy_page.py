"""The page of the policy: what is permitted as a picture, and what a call would meet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from broker.cli.manager.pages.policy_graph import YOU, GraphFlow, PolicyGraph
from broker.cli.manager.sandbox_actions import SandboxActions
from broker.cli.manager.toolkit import Adw, Gtk
from broker.cli.manager.verb_calls import VerbResult
from broker.cli.manager.verb_runner import VerbRunner
from broker.cli.manager.widgets import (
    action_row,
    button,
    copy_text,
    entry_row,
    group,
    name_control,
    page_of,
    show_page,
    tell,
)
from broker.cli.manager.words import ManagerText, joined, known, tr, trn
from broker.core.escape import printable
from policy.rules.checks import SERVICES

DESKTOP: Final = "you"
NO_TARGET: Final = "@default"
_ANSWERS: Final = {
    "allow": tr("It is allowed"),
    "ask": tr("You are asked each time"),
    "deny": tr("It is denied"),
    "error": tr("It is denied: the rules have an error"),
}
_DECIDED: Final = (0, 1, 3)
"""Exit codes of ``policy explain`` that answer: permitted, denied, rules with an error."""
_FACTS: Final = ("mime", "scheme", "host", "size", "protocol", "port", "key")
_ROWS: Final = 100
# By XML: PyGObject has no expressions of GTK.
_SEARCHED: Final = """\
<interface><object class="GtkDropDown" id="choice">
<property name="enable-search">1</property>
<property name="expression"><lookup type="GtkStringObject" name="string"/></property>
</object></interface>"""


def options_of(facts: str) -> list[str]:
    """Return the options of ``policy explain`` for facts of a call, ``scheme=https``.

    Raises ValueError for a word that is no fact.
    """
    options = []
    for word in facts.split():
        name, equals, value = word.partition("=")
        if name not in _FACTS or not equals:
            raise ValueError(
                tr(
                    "'{word}' is not a fact of a call; write NAME=VALUE with one of the "
                    "names {names}",
                    word=printable(word, 60),
                    names=", ".join(_FACTS),
                )
            )
        options.append(f"--{name}={value}")
    return options


class PolicyPage:
    """The page; ``colours`` has the colour of each sandbox by its name."""

    def __init__(
        self,
        parent: Any,
        verbs: VerbRunner,
        actions: SandboxActions,
        colours: Mapping[str, str],
    ) -> None:
        self._parent = parent
        self._verbs = verbs
        self._actions = actions
        self._colours = colours
        self._flows: list[GraphFlow] = []
        sandboxes = sorted(colours)
        self._services = [*SERVICES]
        self._sources = sandboxes
        self._targets = [DESKTOP, NO_TARGET, *sandboxes]
        self._service = _choice(self._services, tr("Service"))
        self._source = _choice(self._sources, tr("Source"))
        self._target = _choice([_target_words(t) for t in self._targets], tr("Target"))
        self._argument, argument = entry_row(
            tr("Argument"),
            tr("Of the service, such as +open; empty: none."),
            tr("Argument"),
        )
        self._facts, facts = entry_row(
            tr("Facts"),
            tr("Of the call, such as scheme=https; empty: unknown."),
            tr("Facts"),
        )
        self._answer = Adw.Bin()
        self._picture = Adw.Bin()
        self._calls = Adw.Bin()
        decide = button(tr("Decide"), self._decide, "suggested-action")
        form = group(
            tr("What if?"),
            [
                action_row(tr("A sandbox"), "", self._source),
                action_row(tr("asks for the service"), "", self._service),
                argument,
                facts,
                action_row(tr("of"), "", self._target),
                action_row("", tr("No call is made: the rules are asked."), decide),
            ],
        )
        self.widget = page_of(
            [
                form,
                _group_of(self._answer),
                _group_of(self._picture),
                _group_of(self._calls),
            ]
        )
        verbs.look("policy", "graph", "--json", done=self._show_graph)

    # -- what if ------------------------------------------------------------------

    def _decide(self) -> None:
        if not self._sources:
            self._answer.set_child(group(tr("There is no sandbox yet"), []))
            return
        self._explain(
            self._show_answer,
            self._services[self._service.get_selected()],
            self._argument.get_text().strip(),
            self._sources[self._source.get_selected()],
            self._targets[self._target.get_selected()],
            facts=self._facts.get_text(),
        )

    def _explain(
        self,
        show: Callable[[Any], None],
        service: str,
        argument: str,
        *sides: str,
        facts: str,
    ) -> None:
        """Ask the policy about a call of a source to a target; ``show`` gets a widget."""
        if argument and argument[:1] not in {"+", "*"}:
            argument = f"+{argument}"
        try:
            options = options_of(facts)
        except ValueError as error:
            tell(self._parent, tr("This was not done"), error.args[0])
            return
        call = (f"{service}{argument}", *sides)
        words = ("policy", "explain", "--json", *options, "--", *call)

        def answer(result: VerbResult) -> None:
            show(group(tr("The answer"), self._answer_rows(result.json())))

        self._verbs.look(*words, codes=_DECIDED, done=answer)

    def _show_answer(self, answer: Any) -> None:
        self._answer.set_child(answer)

    def _show_why(self, answer: Any) -> None:
        """Show an answer in a window: its button may be far below the form."""
        show_page(self._parent, tr("Why"), page_of([answer]))

    def _answer_rows(self, found: Mapping[str, Any]) -> list[Any]:
        call = found["call"]
        asked = arrow(call["source"], _named(call.get("target", "")))
        words = f"{call['service']}{call.get('argument', '')}"
        rows = [
            action_row(
                tr(
                    "{answer}: {call}, {sides}",
                    answer=_ANSWERS.get(found["decision"], found["decision"]),
                    call=words,
                    sides=asked,
                ),
                str(found["reason"] or ""),
            )
        ]
        record = found.get("record")
        if record:
            rows.append(
                self._line(tr("The record's line"), record["where"], record["reason"])
            )
        if found["file"]:
            place = f"{found['file']}:{found['line']}"
            rows.append(self._line(tr("The deciding line"), place, ""))
        rows += [
            action_row(tr("An error in the rules"), str(problem.get("message")))
            for problem in found["problems"]
        ]
        if found["flip"]:
            rows.append(_flip(found["flip"]))
        elif found["decision"] != "deny" or not record:
            rows.append(action_row(tr("No single line reverses it"), ""))
        misses = [one for one in found["misses"] if one["column"] != "service"]
        for miss in misses[:_ROWS]:
            title = tr(
                "Does not match: {column}: {why}",
                column=miss["column"],
                why=miss["why"],
            )
            place = f"{miss['file']}:{miss['line']}"
            rows.append(self._line(title, place, str(miss["rule"])))
        return rows

    def _line(self, title: str, where: str, text: str) -> Any:
        """Return a row of a line of a file, with a button if the file is the user's."""
        row = action_row(
            title, "\n".join(filter(None, (where, " ".join(text.split()))))
        )
        place = Path(where.split(":", 1)[0])
        if place.is_absolute() and place.is_file() and self._actions.may_edit(place):
            edit = partial(self._actions.open_file, place)
            row.add_suffix(button(tr("Edit"), edit, about=place.name))
        return row

    # -- the picture --------------------------------------------------------------

    def _show_graph(self, result: VerbResult) -> None:
        flows = result.json()["flows"]
        self._flows = msgspec.convert(flows, list[GraphFlow])
        graph = PolicyGraph(self._flows, self._colours, self._show_calls)
        boxes = {name for flow in self._flows for name in (flow.source, flow.box)}
        title = tr("What is permitted")
        if len(boxes) > graph.count:
            title = tr(
                "What is permitted: {shown} of {all} sandboxes, with the most arrows",
                shown=graph.count,
                all=len(boxes),
            )
        made = group(title, [])
        made.set_description(
            tr(
                "Solid: some calls are allowed. Dashed: you are asked about all. "
                "Choose a box or an arrow."
            )
        )
        made.add(graph.widget)
        self._picture.set_child(made)

    def _show_calls(self, source: str, target: str) -> None:
        """Show the calls of a box, or of an arrow, as rows."""
        if target:
            found = [f for f in self._flows if (f.source, f.box) == (source, target)]
            title = arrow(_named(source), _named(target))
        else:
            found = [f for f in self._flows if source in {f.source, f.box}]
            title = tr("Calls of {name}, and to it", name=_named(source))
        rows = [self._flow_row(flow) for flow in found[:_ROWS]]
        if len(found) > _ROWS:
            rows.append(
                action_row(
                    trn("and {number} more", "and {number} more", len(found) - _ROWS),
                    "",
                )
            )
        self._calls.set_child(group(title, rows, tr("No call is permitted.")))

    def _flow_row(self, flow: GraphFlow) -> Any:
        about = joined(" · ", (_named(flow.verdict), flow.told, flow.where))
        title = joined(": ", (arrow(flow.source, _named(flow.target)), flow.service))
        row = action_row(title, about)
        if flow.service.startswith("vitrail."):
            service, _, argument = flow.service.partition("+")
            target = NO_TARGET if flow.unnamed else flow.target
            asked = (service, argument, flow.source, _word(target))
            row.add_suffix(
                button(
                    tr("Why?"),
                    partial(self._explain, self._show_why, *asked, facts=flow.told),
                    about=title,
                )
            )
        return row


def _flip(flip: Mapping[str, Any]) -> Any:
    line = str(flip["rule"])
    where = (
        tr("Add it before {place}.", place=str(flip["before"]))
        if flip["before"]
        else tr("Add it to any file of rules.")
    )
    return action_row(
        tr("This line would reverse it ({decision})", decision=known(flip["decision"])),
        joined("\n", (line, where)),
        button(tr("Copy"), partial(copy_text, line), about=tr("the line")),
    )


def _named(name: str) -> str:
    """Return a target, or a verdict, in words."""
    if name in {YOU, "@adminvm"}:
        return tr("you")
    words = {
        "allow": tr("allowed"),
        "ask": tr("asks you"),
        "": tr("no target"),
        NO_TARGET: tr("no target"),
    }
    if name.startswith("@dispvm:"):
        return tr("a new {name}", name=name.removeprefix("@dispvm:"))
    return words.get(name, name)


def arrow(source: str, target: str) -> ManagerText:
    """Return the two sides of a call."""
    return tr("{source} → {target}", source=source, target=target)


def _target_words(target: str) -> str:
    return tr("you") if target == DESKTOP else target


def _word(target: str) -> str:
    return DESKTOP if target == YOU else target


def _choice(words: Sequence[str], name: str) -> Any:
    """Return a list of words with a search, as there may be hundreds."""
    builder = Gtk.Builder.new_from_string(_SEARCHED, -1)
    found = builder.get_object("choice")
    found.set_model(Gtk.StringList.new(list(words) or [tr("no sandbox")]))
    found.set_valign(Gtk.Align.CENTER)
    name_control(found, name)
    return found


def _group_of(content: Any) -> Any:
    made = Adw.PreferencesGroup()
    made.add(content)
    return made
