"""The catalogues fit the sources: complete, with the same values, and with no markup."""

from __future__ import annotations

import gettext
import io
import re
import string

import click
import pytest

from broker.cli import texts
from broker.cli.overview import FIRST, first_verbs
from broker.cli.verbs import app
from broker.core.escape import hidden
from broker.core.language.catalogue import FOLDER, Catalogue, languages
from broker.core.language.po_file import compiled, parse
from broker.core.parts.table import part_of_file
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


def test_the_managers_catalogues_are_in_its_package():
    assert part_of_file("broker/data/locale/manager/de.mo") == "manager"
    assert part_of_file("broker/data/locale/dialog/de.mo") is None


# -- brokerctl ---------------------------------------------------------------------

VERBS = sorted(path.stem for path in (FOLDER / "verbs").glob("*.po"))


@pytest.fixture
def speak(monkeypatch):
    def choose(language):
        monkeypatch.setattr(texts, "_catalogue", Catalogue("verbs", [language]))

    return choose


@pytest.mark.parametrize("language", VERBS)
def test_the_short_help_fits_a_small_terminal(speak, language):
    english = first_verbs()
    speak(language)
    lines = first_verbs().splitlines()
    assert first_verbs() != english
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("language", VERBS)
def test_the_columns_of_list_are_as_many_as_in_english(speak, language):
    columns = "NAME,LABEL,CLASS,NETWORK,PROGRAM,RUNNING"
    speak(language)
    found = texts.tr(columns).split(",")
    assert len(found) == len({*found}) == len(columns.split(","))


def test_the_help_of_a_verb_is_in_the_users_language(speak):
    @click.command(help="Do not ask for confirmation.\n\nPrint JSON.")
    @click.option("--json", help="Print JSON.", is_flag=True)
    def verb(**_values):
        pass

    texts.translate_help(verb)
    assert verb.help == "Do not ask for confirmation.\n\nPrint JSON."
    speak("de")
    texts.translate_help(verb)
    assert verb.help == "Nicht um Bestätigung bitten.\n\nJSON ausgeben."
    assert verb.params[0].help == "JSON ausgeben."


@pytest.mark.parametrize("verb", FIRST)
def test_options_and_values_stay_as_they_are_typed(speak, verb):
    """A translated help names the same options, and the same words in capitals."""
    command = app.get_command(click.Context(app), verb)
    wanted = [*texts.help_texts(command)]
    for language in VERBS:
        speak(language)
        for text in wanted:
            words = set(re.findall(r"--[a-z0-9-]+|\b[A-Z]{4,}\b", text)) - {"JSON"}
            told = texts.tr(text)
            assert {word for word in words if word not in told} == set(), told
