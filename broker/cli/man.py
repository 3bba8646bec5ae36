"""``brokerctl man``: show the manual pages, even if no package installed them.

``pipx`` puts no page where man(1) looks; a wheel has the pages' text in its data, and a
checkout in ``docs/``.
"""

from __future__ import annotations

import re
from pathlib import Path

import rich_click as click
from rich.console import Console
from rich.markdown import Markdown

import broker
from broker.core.errors import RefusedError

_PACKAGE = Path(broker.__file__).parent
_FOLDERS = (_PACKAGE / "data" / "man", _PACKAGE.parent / "docs")
_PAGES = {
    "brokerctl": "brokerctl.1.md",
    "vitrail-local": "vitrail-local.1.md",
    "vitrail-host": "vitrail-local.1.md",
    "vitrail-viewer": "vitrail-local.1.md",
    "vitrail-devices": "vitrail-local.1.md",
}
_COMMENT = re.compile(r"<!--.*?-->\n*", re.DOTALL)
_LINK = re.compile(r"\[([^\]]+)\]\([^)\s]+\)")


@click.command("man")
@click.argument("words", metavar="[VERB…]", nargs=-1)
def command(words: tuple[str, ...]) -> None:
    """Show the manual page, or its section about VERB.

    Exit code: 0 done, 1 there is no such section.
    """
    page = _PAGES["brokerctl"]
    if words and words[0] in _PAGES:
        page, words = _PAGES[words[0]], words[1:]
    text = _LINK.sub(r"\1", _COMMENT.sub("", _text(page)))
    if words:
        text = _section(text, " ".join(words))
    console = Console()
    with console.capture() as shown:
        console.print(Markdown(text))
    click.echo_via_pager(shown.get())


def _text(page: str) -> str:
    for folder in _FOLDERS:
        if (folder / page).is_file():
            return (folder / page).read_text(encoding="utf-8")
    raise RefusedError(
        "the manual pages are not installed",
        hint="to see the options of a verb, run 'brokerctl VERB --help'",
    )


def _section(text: str, verb: str) -> str:
    """Return the sections about a verb; its first word alone has all of a group."""
    parts = re.split(r"(?m)^(?=##)", text)
    found = [part for part in parts if _is_about(part.partition("\n")[0], verb)]
    if not found:
        raise RefusedError(
            f"the manual does not have a section about '{verb}'",
            hint="to read the whole manual, run 'brokerctl man'",
        )
    return "".join(found)


def _is_about(heading: str, verb: str) -> bool:
    """Return whether a heading as '### device list|attach PORT' is about a verb."""
    if not heading.startswith("### "):
        return False
    first, _, rest = verb.partition(" ")
    for form in heading.removeprefix("### ").split(", "):
        name, *words = form.split()
        if name == first and (not rest or (words and rest in words[0].split("|"))):
            return True
    return False
