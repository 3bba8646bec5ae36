"""The sentences of notifications and errors: as the sources write them, and recognised."""

from __future__ import annotations

import ast
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import broker
from broker.authority.decisions.decision_events import notice
from broker.core.errors import PeerError, RefusedError, SetupError, UpstreamError
from broker.core.language.catalogue import Catalogue
from broker.core.language.notice_templates import TEMPLATES
from broker.core.language.notices import VALUES, in_users_language, translated
from broker.host.images.store import find_image
from broker.session.transfer import chosen_files
from broker.viewer.clipboard.exchange import messages as w
from broker.viewer.clipboard.exchange import reasons
from broker.viewer.clipboard.outcomes import Telling
from broker.viewer.exchange.failures import DESKTOP, shareable
from broker.viewer.printing import _Document
from broker.viewer.sandboxes.launch_steps import TEXTS
from docs.print_catalogues import catalogues
from tests.kit.rulebook import WORK

LANGUAGES = sorted(path.stem for domain, path in catalogues() if domain == "notices")
FORMS = [
    form
    for template in TEMPLATES
    for form in ((template,) if isinstance(template, str) else template)
]
FREE = {name for name, pattern in VALUES.items() if pattern == ".+"}
SAMPLES = {
    "name": "work-2",
    "target": "@dispvm:web",
    "number": "3",
    "most": "1000",
    "seconds": "2.5",
    "where": "30-own.policy:12",
    "place": "work.toml:3:5",
    "service": "vitrail.OpenURL",
    "port": "1-2.3",
    "program": "vitrail-local",
    "socket": "/run/user/1000/vitrail/control",
    "package": "gcc python3-dev",
    "command": "sudo dnf install gcc python3-devel",
    "chord": "Super+V",
    "scheme": "magnet",
    "value": "rules",
    "mime": "text/html",
    "party": "work",
    "source": "work",
    "destination": "your own programs",
    "way": "work → mail",
    "size": "1.5 kB",
    "what": "12 kB of text",
    "step": "show a window",
    "reason": "the user said no",
    "text": "x\\x1b, it says",
    "path": "~/Incoming/a b",
    "device": "A device",
    "list": "work, mail",
}
COMPOSED = {
    # decision_events.notice; tests.broker.authority.test_decider compares its titles.
    "Vitrail: a request of {name} was refused",
    "Vitrail: a request of {name} was allowed",
    "Vitrail: a request of {name} was cut",
    "{service} to {target}, by {where}",
    "{service}: {reason}",
    # viewer.exchange.failures
    "{party} closed the connection",
    # viewer.clipboard.outcomes, and who adds a rule's place
    "by {where}; paste it there as usual",
    "by {where}; paste it there as usual, the clipboard is cleared",
    "Not copied to your own programs: {way}",
    "Not copied: {way}",
    "Not pasted: {way}",
    "Not dropped: {way}",
    "Clipboard wiped: {way}",
    "{what}: {source} → {destination}",
    "text and a picture ({size})",
    "a picture and text ({size})",
    "a picture ({size})",
    "{mime} ({size})",
    "{reason} ({where})",
    "{number} file",
    "{number} byte",
    "{name} prints {number} page on {text}",
    "{name} prints {number} pages on {text}",
    # brokerctl.render
    "error: {reason}",
    # viewer.exchange.failures
    "{party} rejected the request",
    "{party} could not be started",
    "{party} could not be reached",
    # viewer.sandboxes.run_progress, with the titles of its steps
    "no window: could not {step}: {reason}",
    "could not {step}: {reason}",
    # session.transfer.chosen_files
    "{name}: open files",
    "{name}: open a folder",
    "{name}: save a file",
    "{name}: save files",
    # host.images.store
    "there is no guest image '{name}'",
}
"""Put together of parts; a test of this file makes each by the code that does."""


def without_names(text):
    return re.sub(r"\{\w+\}", "{}", text)


def text_of(node):
    """Return a literal with {} for each value; None: the node is none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            part.value if isinstance(part, ast.Constant) else "{}"
            for part in node.values
        )
    return None


WRITERS = [
    "authority",
    "viewer",
    "host",
    "host_and_viewer",
    "session",
    "ipc",
    "core",
    "jail/clipboard",
    "jail/wayland/handlers",
    "cli/menu",
    "cli/run",
]


def sources():
    """Return the literals of all that writes such sentences."""
    root = Path(broker.__file__).parent
    folders = [*(root / name for name in WRITERS), root.parent / "policy"]
    return frozenset(
        without_names(text)
        for folder in folders
        for file in folder.rglob("*.py")
        if file.parent.name != "language"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if (text := text_of(node)) is not None
    )


def made(form, values=SAMPLES):
    return form.format_map(values)


def test_each_sentence_is_one_that_the_sources_write():
    """Else it is not recognised any more: change the template with the message."""
    lines = {line for text in sources() for line in text.split("\n")}
    gone = {form for form in {*FORMS} - COMPOSED if without_names(form) not in lines}
    assert gone == set()


# -- what is put together of parts -------------------------------------------------


def crossings():
    """Yield the notifications about copies, pastes and drags."""
    telling = Telling(None, lambda _name: WORK, print, lambda: "Super+V")
    kinds = [
        ("text/plain",),
        ("image/png",),
        ("text/plain", "image/png"),
        ("image/png", "text/plain"),
        ("text/html",),
        ("text/uri-list",),
        (),
    ]
    for outcome in w.Outcome:
        for one in kinds:
            for selection in ("", "drag"):
                for source, target in (
                    ("work", "mail"),
                    (w.VIEWER, "work"),
                    ("work", w.VIEWER),
                    ("work", ""),
                ):
                    if not target and outcome in {w.Outcome.PASTED, w.Outcome.EXPORTED}:
                        continue
                    record = w.RecordCrossing(
                        outcome,
                        source,
                        target,
                        one,
                        2,
                        reasons.SLOW,
                        rule="30-own.policy:3",
                        selection=selection,
                    )
                    if told := telling.words(record):
                        yield from told


def composed():
    """Yield sentences that the sources put together, as they do."""
    request = WORK_REQUEST
    for outcome, how in (
        ("refused", ": the user said no"),
        ("allowed", " to dom0, by 30-own.policy:3"),
        ("cut", ": a lockdown is in force"),
    ):
        yield from notice(request, outcome, how)
    yield "denied by 30-own.policy:3 (30-own.policy:3)"
    for kind in (RefusedError, PeerError, SetupError, UpstreamError):
        for target in ("work", DESKTOP):
            told = shareable(kind("x"), target)
            yield from (told.message, told.hint)
    for step in TEXTS.values():
        yield f"no window: could not {step.title}: the user said no"
        yield f"could not {step.title}: the user said no"
    for title in (*chosen_files._TITLES.values(), "save files"):
        yield f"work: {title}"
    for pages in (1, 2):
        document = SimpleNamespace(kept=SimpleNamespace(pages=pages), printer="A b")
        yield f"work prints {_Document.words.fget(document)}"


WORK_REQUEST = SimpleNamespace(lease=WORK, service="vitrail.OpenURL")


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_put_together_of_parts_is_translated_as_a_whole(language):
    catalogue = Catalogue("notices", [language])
    for text in {*crossings(), *composed()}:
        shown = translated(text, catalogue)
        left = [word for word in ENGLISH if re.search(rf"\b{word}\b", shown)]
        assert left == [], text
        assert shown != text or " → " in text, text


ENGLISH = ("the", "was", "not", "of", "by", "your", "asks", "user", "request", "files")


def test_an_image_that_is_missing(tmp_path):
    paths = SimpleNamespace(images=tmp_path)
    with pytest.raises(SetupError) as caught:
        find_image(paths, "default")
    german = Catalogue("notices", ["de"])
    assert translated(caught.value.message, german) == "es gibt kein Abbild „default“"


# -- the table ---------------------------------------------------------------------


def test_each_sentence_is_recognised_with_its_values():
    """And no earlier template takes it."""
    for template in TEMPLATES:
        shown = translated(made(forms_of(template)[-1]), Marked("xx"))
        assert shown.startswith(f"<{forms_of(template)[0]}>")


def forms_of(template):
    return (template,) if isinstance(template, str) else template


class Marked(Catalogue):
    """Translates a message into itself between angle brackets, with its values."""

    def __init__(self, language):
        self.language = language

    def text(self, message, /, **values):
        return f"<{message}>{sorted(values.items())}"

    def plural(self, one, many, number, /, **values):
        return f"<{one}>{number}{sorted(values.items())}"


def test_a_sentence_has_one_value_that_may_be_anything():
    """Else what a sandbox sends would say where the one ends and the other begins."""
    for form in FORMS:
        names = re.findall(r"\{(\w+)\}", form)
        open_ended = [name for name in names if name in FREE]
        assert len(open_ended) <= 1, form
        assert {*names} <= {*VALUES}, form


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_command_stays_as_it_is_typed(language):
    """In quotes of ASCII, from which 'brokerctl menu' takes the command of a button."""
    catalogue = Catalogue("notices", [language])
    for form in FORMS:
        text = made(form)
        for command in re.findall(r"'(?:brokerctl|sudo) [^']+'", text):
            assert command in translated(text, catalogue), form
        for word in re.findall(r"--[a-z-]+|\[\w+\]|\w+=\w*", text):
            assert word in translated(text, catalogue), form


def test_the_english_of_other_users_is_untouched(monkeypatch):
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANGUAGE", "de")
    for form in FORMS:
        assert in_users_language(made(form)) == made(form)
    monkeypatch.setenv("LANG", "en_GB.UTF-8")
    monkeypatch.setenv("LANGUAGE", "")
    assert in_users_language("the sandbox ended") == "the sandbox ended"
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    assert in_users_language("the sandbox ended") == "die Sandbox wurde beendet"


def test_a_catalogue_that_cannot_be_read_leaves_the_english(
    monkeypatch, capsys, tmp_path
):
    monkeypatch.setattr("broker.core.language.catalogue.FOLDER", tmp_path)
    (tmp_path / "notices").mkdir()
    (tmp_path / "notices" / "de.po").write_text("nonsense")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    assert in_users_language("the sandbox ended") == "the sandbox ended"
    assert "cannot read the catalogue of notifications" in capsys.readouterr().err


def test_reasons_within_reasons_have_an_end():
    """Attack: a reason that nests as often as it has room."""
    german = Catalogue("notices", ["de"])
    text = "denied: " * 20000 + "the sandbox ended"
    assert translated(text, german).startswith("verweigert: verweigert: ")


def test_a_number_of_any_length():
    """int() refuses one of 4301 digits."""
    german = Catalogue("notices", ["de"])
    for digits in ("9" * 5000, "\u0663", "12"):
        text = f"{digits} files"
        known = digits == "12"
        assert translated(text, german) == (f"{digits} Dateien" if known else text)


def test_a_long_text_of_a_sandbox_is_compared_once():
    """Each point in it was a place where the name of a service might end."""
    german = Catalogue("notices", ["de"])
    text = "a." * 15_000
    began = time.process_time()
    for hostile in (text, f"denied: {text}!", f"{text} (a)"):
        assert translated(hostile, german).endswith(hostile[-100:])
    # Some 20 ms; compared for each point it was 20 s.
    assert time.process_time() - began < 4


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    "text",
    [
        "Copied a file from {}",
        "Not pasted: {} → {}",
        "Clipboard wiped: {}",
        "a file: {} → {}",
    ],
)
def test_a_sandbox_keeps_its_name_if_that_is_a_word_of_the_table(language, text):
    catalogue = Catalogue("notices", [language])
    shown = translated(text.format(*["something"] * 2), catalogue)
    assert shown == translated(text.format(*["work"] * 2), catalogue).replace(
        "work", "something"
    )
