"""Texts in another language: what a sandbox sends stays what it is in English."""

from __future__ import annotations

import re
import string
from dataclasses import dataclass

import pytest

from broker.cli.manager import words as manager_words
from broker.cli.manager.words import ManagerText, joined, shown, tr
from broker.core.escape import escape_markup, printable
from broker.core.language.catalogue import Catalogue
from broker.core.language.notices import translated
from broker.core.question import Keep
from broker.core.streams.wayland_rules import WindowRules
from broker.helpers.prompt import paint, translation
from broker.helpers.prompt.description import describe, hint
from broker.helpers.prompt.dialog import (
    LINE_CHARACTERS,
    Dialog,
    claims,
    keep_words,
    lay_out,
    text_rows,
)
from broker.helpers.prompt.phrases import PHRASES, REMEMBERED, TITLES, request_of
from broker.helpers.prompt.translation import trn
from broker.ipc.authority import QuestionWaits
from broker.jail.wayland.scene.label import GLYPHS
from broker.viewer.notifications.question_notice import notice
from broker.viewer.uses.use_signs import KINDS
from docs.print_catalogues import DOMAINS, catalogues
from policy.rules import wording
from policy.rules.engine import PolicyCall
from tests.kit.prompting import MANY, WORD, question

ISOLATE, END = "\u2068", "\u2069"
LEFT = "\u200e"
LANGUAGES = sorted(path.stem for domain, path in catalogues() if domain == "dialog")
REORDER = "\u202eevil\u2069\u2066"


@pytest.fixture
def speak(monkeypatch):
    """Have the dialog and the manager speak a language."""

    def choose(language):
        translation.catalogue.choose([language])
        manager = Catalogue("manager", [language])
        monkeypatch.setattr(manager_words, "catalogue", manager)

    yield choose
    translation.catalogue.choose([])


# -- the manager ------------------------------------------------------------------


@pytest.mark.parametrize("language", ["en", "de"])
@pytest.mark.parametrize("name", ["work", "\u05d0\u05d1\u05d2", REORDER, "a\u061cb"])
def test_no_name_reorders_the_sentence_that_it_stands_in(speak, language, name):
    speak(language)
    text = shown(tr("Remove {name}?", name=name))
    found = re.search(f"{ISOLATE}(.*?){END}", text)
    if "\u05d0" in name:
        assert found is not None
        inside = found[1]
        assert text.count(ISOLATE) == text.count(END) == 1
    else:
        inside = text
        assert ISOLATE not in text
    assert not set(inside) & {ISOLATE, END, "\u2066", "\u202e", "\u061c"}


def test_a_text_that_was_made_otherwise_is_escaped_with_its_isolates(speak):
    speak("de")
    text = tr("Remove {name}?", name="\u05d0\u05d1")
    assert shown(f"{text} now").count("\\u2068") == 1
    assert shown(REORDER) == "\\u202eevil\\u2069\\u2066"


def test_parts_that_are_joined_are_isolated_from_each_other(speak):
    speak("de")
    name = "\u05d0\u05d1"
    text = shown(joined(" · ", (name, "", f"{name}{REORDER}")))
    evil = f"{ISOLATE}{name}\\u202eevil\\u2069\\u2066{END}"
    assert text == f"{LEFT}{ISOLATE}{name}{END} · {evil}"


def test_no_name_at_the_beginning_of_a_sentence_turns_it_around(speak):
    """Pango takes the direction of a line from its first letter, in an isolate, too."""
    speak("de")
    name = "\u05d0\u05d1"
    for text in (
        tr("{name} wants {request}", name=name, request="x\ny"),
        joined(" · ", (name, "stopped")),
        joined("\n", (name, "stopped", name)),
    ):
        assert all(line.startswith(LEFT) for line in shown(text).split("\n"))
    assert LEFT not in shown(name)


def test_what_gtk_gets_is_a_plain_string():
    """PyGObject makes no value of a property from a subclass."""
    assert type(shown(ManagerText("x"))) is str


# -- the dialog -------------------------------------------------------------------


def test_the_phrases_are_those_of_the_policy():
    wanted = {words.partition(" | ")[0] for words in wording._WORDS.values()}
    assert set(PHRASES) == wanted
    titles = {
        title
        for words in wording._WORDS.values()
        for title in words.partition(" | ")[2].split(", ")
    } - {"", "none"}
    titles |= {*wording._STATED.split(", ")}
    titles |= {title for _, claims in wording._TOLD.values() for title in claims}
    assert set(TITLES) == titles
    kept = {wording.remembered(PolicyCall(s, "+x", "a", "b")) for s in SERVICES}
    kept |= {
        wording.remembered(PolicyCall("vitrail.OpenURL", "+", "a", "b", host="h")),
        wording.remembered(PolicyCall("vitrail.OpenFile", "+", "a", "b", mime="m/n")),
        wording.remembered(PolicyCall("vitrail.ClipboardPaste", "+", "a", "b"), "drag"),
    }
    assert set(REMEMBERED) == kept - {""}


SERVICES = {form.partition(" ")[0] for form in wording._WORDS}


@dataclass
class Values(dict):
    """A value for each name of a phrase."""

    value: str

    def __missing__(self, name):
        return self.value


HASHED = f"a service known only by its hash ({'0a' * 8}...)"


@pytest.mark.parametrize(
    "value", ["git.example.test", "to", "+x{name}%s\\x20in", "a.b"]
)
@pytest.mark.parametrize("phrase", PHRASES)
def test_each_request_is_said_in_each_language_with_its_value(speak, phrase, value):
    words = phrase.format_map(Values(value))
    speak("en")
    assert request_of(words) == words
    fields = [name for _, name, _, _ in string.Formatter().parse(phrase) if name]
    for language in LANGUAGES:
        speak(language)
        told = request_of(words)
        assert told != words
        assert told.count(value) >= len(fields)


def test_a_party_without_a_name_and_a_key_of_another_sandbox(speak):
    for words in (
        f"to sign in to {HASHED} with your security key",
        "to use an ssh key of vault",
    ):
        speak("en")
        assert request_of(words) == words
    speak("de")
    assert request_of("to use an ssh key of vault").endswith("von vault")
    told = request_of(f"to sign in to {HASHED} with your security key")
    assert "0a0a" in told
    assert "hash (" not in told


@pytest.mark.parametrize(
    "words", ["to play sound, and more", "to print on a b", "x to play sound", "", "to"]
)
def test_words_that_are_no_phrase_are_shown_as_they_are(speak, words):
    speak("de")
    assert request_of(words) == words


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_claim_is_marked_as_one(speak, language):
    speak(language)
    lines = claims(question(details=(("size", "4"), ("size, it says", "4"))))
    known, claimed = lines[-2:]
    assert claimed.startswith(known.partition(":")[0] + ",")
    assert claimed != known


@pytest.mark.parametrize("language", LANGUAGES)
def test_word_is_typed_as_it_is_in_each_language(speak, language):
    """Every layout of keys can type it, and the button's own text is not a yes."""
    speak(language)
    dialog = Dialog(question(), WORD)
    assert f" {WORD}" in hint(dialog, armed=True, waits=False)
    dialog.guard.visible(0.0)
    dialog.guard.focus(0.0, held=True)
    dialog.shown(dialog.rests(5.0))
    for code, char in enumerate(translation.tr("Allow").lower()):
        dialog.key(code, char, char, 5.0)
        dialog.key_up(code, 5.0)
    assert dialog.shown(dialog.rests(9.0)) is None


@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_the_texts_have_room_in_the_dialog(speak, language):
    """With the font that the package depends on; a longer text would be cut."""
    speak(language)
    layout = lay_out(MANY)
    allow, time, phrase = layout.allow.width, 150, layout.phrase.width - 150
    for words, size, bold, room in (
        (translation.tr("Allow"), 16, True, allow),
        (translation.tr("Deny"), 16, True, allow),
        (translation.tr("denied in {seconds} s", seconds=120), 13, False, time),
        (translation.tr("keys: Left, Right"), 13, False, 120),
        (trn("{number} more: scroll", "{number} more: scroll", 99), 13, False, 180),
        (translation.tr("No phrase: brokerctl prompt phrase"), 15, True, phrase),
    ):
        assert paint.font(size, bold=bold).getlength(words) <= room, words
    dialog = Dialog(MANY, WORD)
    for armed in (True, False):
        for waits in (True, False):
            for early in (True, False):
                dialog.early = early
                words = hint(dialog, armed=armed, waits=waits)
                # Drawn smaller where it is longer than in English.
                assert paint.fitting(words, 13, layout.hint.width) >= 11, words
    for keep in Keep:
        assert len(keep_words(MANY, keep)) < 2 * LINE_CHARACTERS


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("phrase", PHRASES)
def test_a_request_takes_few_rows(speak, language, phrase):
    speak(language)
    asked = question(words=phrase.format_map(Values("x")))
    assert sum(is_request for _, is_request in text_rows(asked)) <= 2


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("language", ["ar", "fa", "he", "ur"])
def test_no_language_is_written_from_right_to_left(domain, language):
    """The dialog's drawing does not order such texts; these users read English."""
    assert Catalogue(domain, [language]).language == "en"


@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_the_notification_about_a_question_looks_like_no_sandboxs(speak, language):
    """Those begin with the sandbox's name and a colon."""
    speak(language)
    waits = QuestionWaits(
        question=1,
        lease="0" * 16,
        sandbox="work",
        words="to play sound",
        covered=True,
    )
    made = notice(waits)
    assert re.match(r"[a-z0-9-]+: ", made.title) is None
    assert "work" in made.body
    assert ("to play sound" in made.body) == (language == "en")


@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_the_word_of_frames_has_letters_of_their_strip(speak, language):
    """Drawn in the worker, which has 38; and no word ends the title's brackets."""
    speak(language)
    for text in (
        *map(translation.tr, ("asks", "frozen")),
        *(translation.tr(kind.mark) for kind in KINDS),
    ):
        rules = WindowRules("work", marks=(text,))
        assert rules.strip_words == f"work {text}"
        assert {*text} <= {*GLYPHS}


@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_a_label_that_is_no_boundary_is_said_to_be_none(speak, language):
    speak(language)
    text = translation.tr("{name}: label, not boundary", name="box-1 {name}")
    assert text.startswith("box-1 {name}")
    assert len(text) > len("box-1 {name}: ")
    assert "]" not in text


def test_a_screen_reader_reads_what_is_drawn(speak):
    speak("de")
    words = describe(Dialog(question(), WORD), 0.0)
    assert words.title == "Vitrail fragt wegen work"
    assert words.lines[0] == "work möchte Ihr Mikrofon abhören."
    assert words.hint.startswith("Warten Sie")


# -- the broker's notifications, and errors that brokerctl prints -----------------------

HOSTILE = (
    "{name}",
    "{0.__class__.__mro__}",
    "{seconds:>999999999}",
    "%s %(name)s %n",
    "{}",
    "}{",
    "\\g<name>\\1",
    "a' on b",
    "x\nVitrail: a request of bank was allowed",
    "denied by 30-own.policy:3",
    REORDER,
)


@pytest.mark.parametrize("language", ["de", "es", "fr"])
@pytest.mark.parametrize("title", HOSTILE)
def test_a_title_from_a_sandbox_is_no_template(language, title):
    """Attack: braces, percents and groups in what a translation has as its value."""
    catalogue = Catalogue("notices", [language])
    shown = escape_markup(printable(title, 100))
    text = translated(f"document, it says: {shown}", catalogue)
    assert text.endswith(f": {shown}")
    assert text.count("\n") == 0
    assert "document, it says" not in text


@pytest.mark.parametrize("language", ["de", "es", "fr"])
def test_a_device_whose_name_has_another_sandboxs_stays_that_of_the_first(language):
    """Attack: what a USB device is called comes from the device."""
    catalogue = Catalogue("notices", [language])
    for title in ("Stick to bank", "{name} to", "x to y to z"):
        text = translated(f"Vitrail: cannot attach {title} to work", catalogue)
        assert text.count(title) == 1
        assert "work" in text.replace(title, "")
