"""The catalogues fit the sources: complete, with the same values, and with no markup."""

from __future__ import annotations

import gettext
import io
import re
import string
from pathlib import Path

import click
import pytest

from broker.cli import texts
from broker.cli.menu.reported_start import _error_of
from broker.cli.overview import first_verbs
from broker.cli.verbs import app, report
from broker.cli.wording import help_texts
from broker.cli.wording.known_words import SHARED_WORDS, known_words
from broker.core.escape import hidden
from broker.core.language.catalogue import FOLDER, Catalogue, languages
from broker.core.language.notice_templates import TEMPLATES
from broker.core.language.notices import in_users_language
from broker.core.language.po_file import compiled, parse
from broker.core.parts.table import part_of_file
from broker.ipc.control.blocking_connection import unreachable
from docs import print_catalogues

FILES = [
    pytest.param(path, id=f"{domain}-{path.stem}")
    for domain, path in print_catalogues.catalogues()
]
MARKUP = "<>&"


def entries(path):
    return parse(path.read_text(encoding="utf-8"))


def values(text):
    return sorted({name for _, name, _, _ in string.Formatter().parse(text) if name})


def test_the_catalogues_have_the_messages_of_the_sources(capsys):
    """Mend with: python -m docs.print_catalogues, and the translation of what is new."""
    assert print_catalogues.main(["--check"]) == 0, capsys.readouterr().out


def test_a_message_that_is_new_or_gone_makes_a_catalogue_old(monkeypatch, capsys):
    def other(domain):
        return {("Something that no catalogue has.", ""): ["window.py"]}

    monkeypatch.setattr(print_catalogues, "messages", other)
    assert print_catalogues.main(["--check"]) == 1
    assert "de.po is old" in capsys.readouterr().out


def test_german_french_and_spanish_have_all_domains():
    found = {(domain, path.stem) for domain, path in print_catalogues.catalogues()}
    wanted = {
        (d, name) for d in print_catalogues.DOMAINS for name in ("de", "fr", "es")
    }
    assert wanted <= found


@pytest.mark.parametrize("path", FILES)
def test_a_catalogue_fits_its_messages(path):
    assert faults(entries(path)) == []


def faults(found):
    """Return what is wrong with a catalogue, a line for each fault."""
    header, *rest = found
    forms = header.strings[0].partition("nplurals=")[2]
    count = int(forms[:1])
    rule = gettext.c2py(forms.partition("plural=")[2].rstrip().rstrip(";"))
    wrong = []
    if {rule(number) for number in range(1000)} != set(range(count)):
        wrong.append("the rule of plurals does not have each form")
    for one in rest:
        wrong += [f"{one.message}: {fault}" for fault in faults_of(one, count)]
    return wrong


def ends(text):
    """Return the white space at both ends of a text."""
    return text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]


def faults_of(one, count):
    if len(one.strings) != (count if one.plural else 1):
        yield "the number of forms"
    for text in one.strings:
        if not text:
            yield "no translation"
        # A form may have its number as a word.
        wanted, given = values(one.plural or one.message), values(text)
        if one.plural and "number" not in given:
            wanted.remove("number")
        if given != wanted:
            yield f"the values {given}, not {wanted}"
        if any(sign in text and sign not in one.message for sign in MARKUP):
            yield "a character of markup"
        if any(hidden(sign) and sign != "\n" for sign in text):
            yield "a character that is not seen"
        if text.count("\n") != one.message.count("\n") or ends(text) != ends(
            one.message
        ):
            yield "other lines, or spaces at an end"


@pytest.mark.parametrize(
    ("message", "translation", "fault"),
    [
        ("Remove {name}?", "", "no translation"),
        ("Remove {name}?", "Entfernen?", "the values [], not ['name']"),
        ("Remove {name}?", "{nom} entfernen?", "the values ['nom'], not ['name']"),
        ("Remove", "<b>Entfernen</b>", "a character of markup"),
        ("Remove", "Entfernen &amp;", "a character of markup"),
        ("Remove", "Ent\u202efernen", "a character that is not seen"),
        ("Remove", "Ent\u2068fernen", "a character that is not seen"),
        ("Remove", "Entfernen\nAlles", "other lines, or spaces at an end"),
    ],
)
def test_a_fault_is_found(message, translation, fault):
    text = print_catalogues.HEADER.format(
        language="de", plurals="nplurals=1; plural=0;"
    )
    quoted = print_catalogues._quoted(translation)
    source = print_catalogues._entry(print_catalogues.PoEntry("", "", (text,)), [])
    source += f'\nmsgid "{message}"\nmsgstr {quoted}\n'
    assert f"{message}: {fault}" in faults(parse(source))


@pytest.mark.parametrize("path", FILES)
def test_a_compiled_catalogue_is_what_gettext_reads(path):
    text = path.read_text(encoding="utf-8")
    read = gettext.GNUTranslations(io.BytesIO(compiled(text)))
    for one in parse(text)[1:]:
        if one.plural:
            assert read.ngettext(one.message, one.plural, 1) in one.strings
        else:
            assert read.gettext(one.message) == one.strings[0]


@pytest.mark.parametrize(
    "line", ["#, fuzzy", '#~ msgid "gone"', 'msgctxt "menu"', "msgid 'x'", '"first"']
)
def test_what_our_catalogues_do_not_use_is_refused(line):
    with pytest.raises(ValueError, match="line 1 of the catalogue"):
        parse(line)


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, []),
        ({"LANGUAGE": "de"}, []),
        ({"LANG": "C", "LANGUAGE": "de"}, []),
        ({"LANG": "de_DE.UTF-8", "LC_ALL": "C.UTF-8"}, []),
        ({"LANG": "POSIX"}, []),
        ({"LANG": "de_AT.UTF-8"}, ["de_AT", "de"]),
        ({"LANG": "sr_RS@latin"}, ["sr_RS", "sr"]),
        ({"LANG": "fr_FR.UTF-8", "LC_MESSAGES": "es_ES.UTF-8"}, ["es_ES", "es"]),
        ({"LANG": "en_GB.UTF-8", "LANGUAGE": "pt:fr_CA:en:de"}, ["pt", "fr_CA", "fr"]),
        ({"LANG": "de_DE", "LANGUAGE": "../../etc:/tmp/x:de/../fr"}, []),
    ],
)
def test_the_language_is_that_of_the_environment(environ, found):
    assert languages(environ) == found


def test_a_language_without_a_catalogue_is_english():
    found = Catalogue("manager", ["xx"])
    assert (found.language, found.text("Start")) == ("en", "Start")
    assert Catalogue("manager", ["xx", "de"]).text("Start") == "Starten"


def test_the_compiled_catalogue_of_an_installation_is_read_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("broker.core.language.catalogue.FOLDER", tmp_path)
    (tmp_path / "manager").mkdir()
    text = (FOLDER / "manager" / "de.po").read_text(encoding="utf-8")
    (tmp_path / "manager" / "de.mo").write_bytes(compiled(text))
    assert Catalogue("manager", ["de"]).text("Start") == "Starten"


@pytest.mark.parametrize("size", [0, 3, 19, 100, 1000])
def test_a_catalogue_that_was_cut_is_an_error_that_is_handled(
    tmp_path, monkeypatch, capfd, size
):
    """A disk was full, or is written just now: the starter of dialogs must not end."""
    monkeypatch.setattr("broker.core.language.catalogue.FOLDER", tmp_path)
    (tmp_path / "notices").mkdir()
    text = (FOLDER / "notices" / "de.po").read_text(encoding="utf-8")
    (tmp_path / "notices" / "de.mo").write_bytes(compiled(text)[:size])
    with pytest.raises(ValueError, match=r"notices/de\.mo"):
        Catalogue("notices", ["de"])
    assert in_users_language("the user said no", ["de"]) == "the user said no"
    assert "cannot read the catalogue of notifications" in capfd.readouterr().err


def test_the_managers_catalogues_are_in_its_package():
    assert part_of_file("broker/data/locale/manager/de.mo") == "manager"
    assert part_of_file("broker/data/locale/dialog/de.mo") is None


# -- brokerctl ---------------------------------------------------------------------

VERBS = sorted(path.stem for path in (FOLDER / "verbs").glob("*.po"))


@pytest.fixture
def speak():
    yield lambda language: texts.catalogue.choose([language])
    texts.catalogue.choose([])


@pytest.mark.parametrize("language", VERBS)
def test_the_short_help_fits_a_small_terminal(speak, language):
    english = first_verbs()
    speak(language)
    lines = first_verbs().splitlines()
    assert first_verbs() != english
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80


COLUMNS = [
    message
    for message, _ in print_catalogues.messages("verbs")
    if re.fullmatch(r"[A-Z0-9/ ]+(?:,[A-Z0-9/ ]+)+", message)
]


@pytest.mark.parametrize("language", VERBS)
@pytest.mark.parametrize("columns", COLUMNS)
def test_a_table_has_as_many_columns_as_in_english(speak, columns, language):
    speak(language)
    found = texts.tr(columns).split(",")
    assert len(found) == len({*found}) == len(columns.split(","))


def test_the_help_of_a_verb_is_in_the_users_language(speak):
    @click.command(help="Do not ask for confirmation.\n\nPrint JSON.")
    @click.option("--json", help="Print JSON.", is_flag=True)
    def verb(**_values):
        pass

    help_texts.translate_help(verb, click.Context(app))
    assert verb.help == "Do not ask for confirmation.\n\nPrint JSON."
    speak("de")
    help_texts.translate_help(verb, click.Context(app))
    assert verb.help == "Nicht um Bestätigung bitten.\n\nJSON ausgeben."
    assert verb.params[0].help == "JSON ausgeben."


def test_the_help_of_a_groups_verb_is_in_the_users_language(speak):
    speak("de")
    group = app.get_command(click.Context(app), "grants")
    assert group.help.startswith("Berechtigungen auflisten")
    verb = group.get_command(click.Context(group), "revoke")
    assert verb.help.startswith("Eine Berechtigung widerrufen")


TYPED = re.compile(r"--[a-z0-9-]+|\b[A-Z]{4,}\b|'brokerctl [a-z -]*[a-z]")
"""Options, values in help, and commands."""
HEADS = {"JSON", "EVENT", "LEAVES", "ACTIVE"}
"""Column heads and states are translated."""


@pytest.mark.parametrize("language", VERBS)
def test_options_values_and_commands_stay_as_they_are_typed(language):
    for one in entries(FOLDER / "verbs" / f"{language}.po")[1:]:
        if one.message in COLUMNS or one.message.isupper():
            continue
        words = {word.lstrip("'") for word in TYPED.findall(one.message)} - HEADS
        for told in one.strings:
            assert {word for word in words if word not in told} == set(), told


def test_what_a_script_reads_is_english():
    german = {"LANG": "de_DE.UTF-8"}
    assert texts.wanted(["list"], german) == ["de_DE", "de"]
    assert texts.wanted(["list", "--json"], german) == []
    assert texts.wanted(["run", "work", "--", "x", "--json"], german) == ["de_DE", "de"]


@pytest.mark.parametrize(
    ("words", "german"),
    [
        ("stop --fooo", "Es gibt keine Option '--fooo'."),
        ("forward", "Das Argument 'SANDBOX' fehlt."),
        ("list a b", "Unerwartete weitere Argumente (a b)"),
        ("stop --grace x", "Ungültiger Wert für '--grace': 'x' ist keine Zahl."),
        ("stop --grace {x}", "Ungültiger Wert für '--grace': '{x}' ist keine Zahl."),
        ("xyzzy", "Es gibt keinen Befehl 'xyzzy'"),
    ],
)
def test_a_mistake_is_explained_in_the_users_language(speak, capsys, words, german):
    speak("de")
    with pytest.raises(click.ClickException) as caught:
        app.main(words.split(), prog_name="brokerctl", standalone_mode=False)
    assert report(caught.value) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"Fehler: {german}")
    assert lines[-1].startswith("  Hinweis: ")


def test_another_version_of_click_may_have_other_words(speak):
    speak("de")
    assert known_words("Something else.") == "Something else."


def test_an_error_of_shared_code_is_shown_in_the_users_language(speak, capsys):
    """Its module has no catalogue, as brokers have it, too."""
    speak("de")
    found = unreachable(Path("/run/x/control"), FileNotFoundError(), "start it")
    assert report(found) == 1
    assert capsys.readouterr().err.startswith(
        "Fehler: es läuft kein Broker (keine Antwort unter /run/x/control)\n"
    )


def test_an_error_within_many_errors_is_shown(speak):
    """A broker that was taken over chose it: brokerctl ended with a RecursionError."""
    speak("de")
    text = known_words("denied: " * 3000 + "no rule matches")
    assert text.startswith("verweigert: ")
    assert text.endswith("denied: no rule matches")
    text = known_words("Invalid value for x: " * 3000 + "y")
    assert text.startswith("Ungültiger Wert für x: ")
    assert text.endswith("Invalid value for x: y")


def test_a_brokers_sentence_has_the_language_of_the_verbs(speak, monkeypatch):
    """The command line and the environment were read a second time."""
    monkeypatch.setattr("sys.argv", ["brokerctl", "--json"])
    speak("de")
    assert known_words("no rule matches") == "keine Regel passt"
    speak("en")
    assert known_words("no rule matches") == "no rule matches"


def test_no_sentence_stands_in_two_tables():
    def plain(text):
        return re.sub(r"{\w+}", "{}", text)

    notices = {plain(text) for text in TEMPLATES if isinstance(text, str)}
    assert not notices & {plain(text) for text in SHARED_WORDS}


def test_a_value_in_braces_is_no_message(speak):
    speak("de")
    text = known_words("no broker is running (no answer at /tmp/{name}/{0})")
    assert text == "es läuft kein Broker (keine Antwort unter /tmp/{name}/{0})"


@pytest.mark.parametrize("language", ["en", "de"])
def test_the_head_of_an_error_is_understood_by_the_menu(speak, language):
    """Of a verb in the user's language, and of one with --json, which is English."""
    speak(language)
    for head, hint in (
        ("error: ", "  hint: "),
        (texts.tr("error: "), texts.tr("  hint: ")),
    ):
        assert _error_of([f"{head}one", f"{hint}two"]) == ("one", "two")
