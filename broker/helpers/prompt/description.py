"""A dialog's texts, for its picture and for screen readers.

Sans-IO.  The user's phrase is not in it: it is for the eyes at the screen, and
the accessibility bus passes words to every program of the session.

The prompt agent runs it.
"""

from __future__ import annotations

from broker.core.prompt_words import VIEWER_NAMES
from broker.helpers.prompt.dialog import (
    Dialog,
    claims,
    keep_words,
    request_words,
)
from broker.helpers.prompt.phrases import machine_words
from broker.helpers.prompt.translation import tr, trn
from broker.ipc.prompt import Described, DescribedRow

_CHARACTERS = 400
"""Most characters of one line: more than a host with its name."""
_NAMED = 6
"""Most targets that are read out with the request."""


def plain(words: str) -> str:
    """One line: escaped where it entered; no remaining character may break it."""
    return "".join(c if c.isprintable() else "·" for c in words[:_CHARACTERS])


def title_words(dialog: Dialog) -> str:
    """Return the title of the dialog's window."""
    name = machine_words(dialog.question.sandbox)
    return tr("Vitrail asks about {name}", name=name)


def kind(dialog: Dialog) -> str:
    """The label of the sandbox, and its record."""
    question = dialog.question
    label = machine_words(question.label)
    if not question.record:
        return label
    return f"{label} · {tr('record {name}', name=question.record)}"


def target_words(target: str) -> str:
    """Return a target sandbox in the words of the prompt dialog."""
    if target in VIEWER_NAMES:
        return tr("you, at this screen")
    if target.startswith("@dispvm:"):
        return tr("a new {name} sandbox", name=target.removeprefix("@dispvm:"))
    return target


def reach(dialog: Dialog) -> str:
    """Return which sandbox a yes reaches, or that the user must choose one."""
    targets = dialog.question.targets
    if len(targets) > 1:
        return tr("Choose the target of the request:")
    return tr("Target: {name}.", name=target_words(targets[0]))


def hint(dialog: Dialog, *, armed: bool, waits: bool) -> str:
    """Return the text that explains how the dialog can be answered now.

    ``waits``: the pointer or finger has not rested on the dialog yet.
    """
    if dialog.early and not (armed and not waits):
        return tr(
            "Too early: that press does not count.  Wait a second, then press again."
        )
    if waits and armed:
        return tr("Wait a moment before you press: the pointer has just come here.")
    if not armed:
        return tr(
            "Wait: input is ignored until this has been in front, untouched, for a second."
        )
    if not dialog.target:
        return tr("Choose a target first.  To deny, press Esc or Deny.")
    if dialog.early:
        return tr("The last press came too early.  Press Allow or Deny again now.")
    return tr(
        "Press Allow, or type the word {word}.  To deny, press Esc or Deny.",
        word=dialog.yes_word,
    )


def behind(dialog: Dialog) -> str:
    """Return how many questions wait after this one; empty: none."""
    number = dialog.behind
    return trn("{number} more waits", "{number} more wait", number) if number else ""


def choices(dialog: Dialog) -> list[str]:
    """Return what can be chosen and by which keys, a line for each choice.

    Screen readers read a dialog's labels when it opens, and not the rows of its lists.
    """
    question, lines = dialog.question, []
    if len(question.targets) > 1:
        named = [target_words(target) for target in question.targets[:_NAMED]]
        more = len(question.targets) - len(named)
        names = ", ".join(
            [*named, *([trn("{number} more", "{number} more", more)] if more else [])]
        )
        lines.append(tr("The keys Up and Down choose: {names}.", names=names))
    if len(question.keeps) > 1:
        words = ", ".join(keep_words(question, keep) for keep in question.keeps)
        lines.append(
            tr(
                "The keys Left and Right choose how long a yes lasts: {words}.",
                words=words,
            )
        )
    return lines


def next_step(dialog: Dialog, *, armed: bool, waits: bool) -> str:
    """Return the choice, and how the question is answered now."""
    question, chosen = dialog.question, []
    if len(question.targets) > 1 and dialog.target:
        chosen.append(target_words(dialog.target))
    if len(question.keeps) > 1:
        chosen.append(keep_words(question, dialog.keep))
    said = tr("{choices}: chosen.", choices=", ".join(chosen))
    return (f"{said}  " if chosen else "") + hint(dialog, armed=armed, waits=waits)


def _read_out(line: str) -> str:
    """Return a line as it is spoken: Orca leaves out a label of one or two words."""
    # guard: a screen reader reads what a yes is for
    return (
        line if len(line.split()) > 2 else tr("The answer is for the {line}", line=line)
    )


def describe(dialog: Dialog, now: float) -> Described:
    """Return all of the dialog's text but the phrase and the time that is left."""
    question = dialog.question
    armed, waits = bool(dialog.guard.rest(now)), dialog.hand_waits(now)
    several = question.targets if len(question.targets) > 1 else ()
    keeps = question.keeps if len(question.keeps) > 1 else ()
    return Described(
        title=plain(title_words(dialog)),
        lines=tuple(
            map(
                plain,
                [
                    f"{machine_words(question.sandbox)} {request_words(question)}",
                    kind(dialog),
                    *map(_read_out, claims(question)),
                    reach(dialog),
                    *choices(dialog),
                    *filter(None, [behind(dialog)]),
                ],
            )
        ),
        targets=tuple(
            DescribedRow(plain(target_words(target)), target == dialog.target)
            for target in several
        ),
        keeps=tuple(
            DescribedRow(keep_words(question, keep), dialog.keep is keep)
            for keep in keeps
        ),
        hint=plain(next_step(dialog, armed=armed, waits=waits)),
        yes_word=dialog.yes_word,
        armed=armed,
    )
