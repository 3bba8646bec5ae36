"""The catalogues fit the sources: complete, with the same values, and with no markup."""

from __future__ import annotations

import gettext
import io
import string

import pytest

from broker.core.escape import hidden
from broker.core.language.catalogue import FOLDER, Catalogue, languages
from broker.core.language.notices import in_users_language
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


def test_each_language_has_all_domains():
    found = {(domain, path.stem) for domain, path in print_catalogues.catalogues()}
    languages = {language for _, language in found}
    assert languages == {"de", "fr", "es"}
    assert len(found) == len(languages) * len(print_catalogues.DOMAINS)


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
