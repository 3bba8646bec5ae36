"""A menu entry in the place of an application's own: its command, its inherited keys."""

from __future__ import annotations

import pytest

from broker.cli.sandboxes.desktop_entry import quoted
from broker.core.errors import UpstreamError
from broker.host.launchers.flatpak.key_file import parse
from broker.host.launchers.flatpak.menu import MARK, entry, is_ours

APP = "org.example.Foot"
COMMAND = ("/usr/bin/brokerctl", "run", "--quiet", "--flatpak", APP)
TEXT = f"""\
[Desktop Entry]
Type=Application
Name=Foot
Name[de]=Fuß
Icon={APP}
Exec=/usr/bin/flatpak run --branch=1 --arch=x86_64 --command=foot --file-forwarding {APP} @@u %U @@
MimeType=text/plain;
DBusActivatable=true
Terminal=true
X-Other=yes
Actions=new;

[Desktop Action new]
Name=New
Exec=/usr/bin/flatpak run --command=sh {APP}
"""


def made(text, default="foot"):
    return parse(entry(text, APP, default, COMMAND, quoted))["Desktop Entry"]


def test_the_entry_starts_the_application_by_vitrail():
    values = made(TEXT)
    assert values["Exec"] == f"/usr/bin/brokerctl run --quiet --flatpak {APP} -- %F"
    assert (values["Name"], values["Name[de]"]) == ("Foot", "Fuß")


def test_other_keys_are_not_taken_over():
    values = made(TEXT)
    assert set(values) == {
        *("Type", "Name", "Name[de]", "Icon", "MimeType", "Exec", MARK)
    }
    assert "[Desktop Action" not in entry(TEXT, APP, "foot", COMMAND, quoted)


@pytest.mark.parametrize("space", [" ", "\t", "\v", "\x1c", "\x85", "\xa0", "\u2003"])
def test_an_indented_line_brings_no_other_key(space):
    """GKeyFile, by which Flatpak writes entries, keeps the last five of them."""
    hidden = f"Name=Foot\n{space}X-KDE-SubstituteUID=true\n{space}[Desktop Action a]"
    text = TEXT.replace("Name=Foot", f"{hidden}\n{space}TryExec=/bin/sh", 1)
    try:
        found = entry(text, APP, "foot", COMMAND, quoted)
    except UpstreamError:
        return
    for line in (found or "").split("\n"):
        assert not line.startswith(("X-KDE", "TryExec", "[Desktop Action")), line


@pytest.mark.parametrize("char", ["\r", "\x0b", "\x85", "\u2028", "\x1b", "\0"])
def test_a_value_with_a_control_character_is_left_out(char):
    """Some readers of an entry take it for the end of the line."""
    values = made(TEXT.replace("Name=Foot", f"Name=Foot{char}Exec=sh", 1))
    assert "Name" not in values
    assert values["Name[de]"] == "Fuß"


def test_a_handler_of_addresses_gets_them():
    text = TEXT.replace("text/plain;", "text/html;x-scheme-handler/https;")
    assert made(text)["Exec"].endswith(" -- %U")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--writer @@u %U @@", "-- --writer %F"),
        ("--bwrap", "-- --bwrap"),
        ('"a b" 100%% %i %c', '-- "a b" "100%%"'),
        ("'$(id)' ';' %f", '-- "\\\\$(id)" ";" %f'),
    ],
)
def test_its_words_are_arguments_of_the_application(words, expected):
    """They are never options of brokerctl, and no shell reads them."""
    text = TEXT.replace("@@u %U @@", words)
    assert made(text)["Exec"].partition(f"{APP} ")[2] == expected


def test_an_entry_of_another_program_is_not_replaced():
    assert entry(TEXT, APP, "other", COMMAND, quoted) is None
    assert entry(TEXT.replace(APP, "org.other"), APP, "foot", COMMAND, quoted) is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "no key file", "[Desktop Entry]\nType=Link\nURL=file:///\n"),
        f"[Desktop Entry]\nType=Application\nExec=flatpak run {APP} 'open\n",
    ],
)
def test_what_is_not_an_entry_is_refused(text):
    with pytest.raises(UpstreamError):
        entry(text, APP, "foot", COMMAND, quoted)


def test_only_our_entries_are_ours():
    assert is_ours(entry(TEXT, APP, "foot", COMMAND, quoted), APP)
    assert not is_ours(TEXT, APP)
    assert not is_ours(entry(TEXT, APP, "foot", COMMAND, quoted), f"{APP}.Two")
    assert not is_ours("no key file", APP)
