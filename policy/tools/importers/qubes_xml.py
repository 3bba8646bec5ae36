"""``qubes.xml``, the store of a Qubes system: its qubes, labels and tags.

Only elements that are needed are kept.  A document type, and with it every
entity, is refused before anything is expanded; depth and size have limits.

Source: QubesOS/qubes-core-admin, ``qubes/app.py`` and ``qubes/vm/__init__.py``
(the elements ``labels``, ``domains``, ``properties`` and ``tags``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.parsers import expat

from policy.tools import limits as tool_limits
from policy.tools.importers import ImportFileError

_DEEPEST = 16
_COLOUR = re.compile(r"(?:0x|#)([0-9a-fA-F]{6})")


@dataclass
class Element:
    """One element; ``text`` is its direct content."""

    name: str
    attributes: Mapping[str, str]
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def all(self, name: str) -> list[Element]:
        """The children of this name."""
        return [child for child in self.children if child.name == name]


@dataclass(frozen=True)
class Qube:
    """One domain.  ``netvm`` is None if it is the default one, "" for none."""

    name: str
    kind: str
    """Its class: ``AppVM``, ``TemplateVM``, ``StandaloneVM``, ``DispVM``, …"""
    colour: str
    """``#rrggbb``, or "" for a label that the file does not define."""
    tags: tuple[str, ...]
    netvm: str | None
    default_dispvm: str | None
    """None: the system's default; "": none."""
    template_for_dispvms: bool
    provides_network: bool


@dataclass(frozen=True)
class QubesSystem:
    """The qubes of a store without dom0, and the default for ``@dispvm``."""

    qubes: tuple[Qube, ...]
    default_dispvm: str


def parse_xml(data: bytes) -> Element:
    """Return the root element.  Raises ImportFileError with line and column."""
    top = Element("", {})
    stack = [top]
    parser = expat.ParserCreate()

    def refuse(*_: object) -> None:
        position = f"{parser.CurrentLineNumber}:{parser.CurrentColumnNumber + 1}"
        raise ImportFileError(f"{position}: a document type declaration is not allowed")

    def start(name: str, attributes: dict[str, str]) -> None:
        if len(stack) > _DEEPEST:
            raise ImportFileError(
                f"{parser.CurrentLineNumber}:1: elements are nested too deeply"
            )
        made = Element(name, attributes)
        stack[-1].children.append(made)
        stack.append(made)

    def data_of(text: str) -> None:
        stack[-1].text += text

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: stack.pop()
    parser.CharacterDataHandler = data_of
    parser.buffer_text = True
    try:
        parser.Parse(data, True)  # noqa: FBT003 -- positional in expat
    except expat.ExpatError as error:
        position = f"{error.lineno}:{error.offset + 1}"
        raise ImportFileError(f"{position}: {expat.ErrorString(error.code)}") from error
    return top.children[0]


def read_qubes_xml(data: bytes) -> QubesSystem:
    """Return the qubes that a store describes.  Raises ImportFileError."""
    if len(data) > tool_limits.IMPORT_BYTES:
        raise ImportFileError(f"1:1: more than {tool_limits.IMPORT_BYTES} bytes")
    root = parse_xml(data)
    if root.name != "qubes":
        raise ImportFileError(f"1:1: expected <qubes>, found <{root.name}>")
    labels = _labels(root)
    domains = [one for group in root.all("domains") for one in group.all("domain")]
    names = {
        one.attributes.get("id", ""): _properties(one).get("name") for one in domains
    }
    own = _properties(root, names)
    qubes = (_qube(one, labels, names) for one in domains)
    return QubesSystem(
        tuple(qube for qube in qubes if qube.name and qube.kind != "AdminVM"),
        own.get("default_dispvm") or "",
    )


def _labels(root: Element) -> dict[str, str]:
    """Return the colours of the labels, by their ids and names."""
    found: dict[str, str] = {}
    for group in root.all("labels"):
        for label in group.all("label"):
            colour = _COLOUR.fullmatch(label.attributes.get("color", ""))
            value = f"#{colour[1].lower()}" if colour else ""
            # A property names a label by its id or by its name.
            found[label.attributes.get("id", "")] = value
            found[label.text.strip()] = value
    return found


def _properties(
    element: Element, names: Mapping[str, str | None] | None = None
) -> dict[str, str]:
    """Return an element's properties; references become the names they mean."""
    found: dict[str, str] = {}
    for group in element.all("properties"):
        for one in group.all("property"):
            ref = one.attributes.get("ref")
            value = one.text.strip() if ref is None else (names or {}).get(ref) or ref
            found[one.attributes.get("name", "")] = value
    return found


def _qube(
    domain: Element, labels: Mapping[str, str], names: Mapping[str, str | None]
) -> Qube:
    """Convert a domain's element to a qube."""
    found = _properties(domain, names)
    tags = [tag for group in domain.all("tags") for tag in group.all("tag")]
    return Qube(
        found.get("name", "dom0" if domain.attributes.get("id") == "domain-0" else ""),
        domain.attributes.get("class", ""),
        labels.get(found.get("label", ""), ""),
        tuple(sorted(tag.attributes.get("name", "") for tag in tags)),
        found.get("netvm"),
        found.get("default_dispvm"),
        found.get("template_for_dispvms") == "True",
        found.get("provides_network") == "True",
    )
