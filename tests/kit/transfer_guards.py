"""The guards of addresses, file names and files, as ``guards`` describes them.

``python -m tests.kit.transfer_guards [NAME…]`` turns each off in a copy.
"""

from __future__ import annotations

from tests.kit.guards import Guard, main

_T = "tests/broker/transfer/"


def _n(name: str, source: str, without: str) -> Guard:
    """One of file names."""
    file = "broker/transfer/file_names.py"
    return Guard(name, file, source, without, f"{_T}test_file_names.py")


def _u(name: str, file: str, source: str, without: str) -> Guard:
    """One of addresses."""
    file = f"broker/transfer/{file}.py"
    return Guard(name, file, source, without, f"{_T}test_urls.py")


GUARDS = (
    _n("length of a name", "    if len(untrusted_name) > limits.FILE_NAME_BYTES:", "    if False:"),
    _n("names that walk", "    if text == \".\" or text.startswith(\"..\"):", "    if False:"),
    _n("names that are options", "    if text.startswith(\"-\"):", "    if False:"),
    _n("spaces at an end of a name", "    if text != text.strip(\" \"):", "    if False:"),
    _n("names of devices", "    if _WINDOWS.fullmatch(text):", "    if False:"),
    _n("separators in a name", "    if char in \"/\\\\\":", "    if False:"),
    _n("categories of characters", "    if category not in _CATEGORIES:", "    if False:"),
    _n("blank letters", "    if char in _BLANK:", "    if False:"),
    _n("names from right to left", "    if unicodedata.bidirectional(char) not in _DIRECTIONS:", "    if False:"),
    _n("scripts of names", "\"\" if found in _SCRIPTS else", "\"\" if found else"),
    _u("length of an address", "urls", "    if len(untrusted_text) > limits.URL_CHARS:", "    if False:"),
    _u("length of an encoded address", "urls", "    if len(url.canonical) > limits.URL_CHARS:", "    if False:"),
    _u("hidden characters of an address", "urls", "unicodedata.category(char) in _HIDDEN", "False"),
    _u("backslash and quotes in an address", "urls", "char in _REFUSED or ", ""),
    _u("percent signs that encode nothing", "urls", "    if found := _PERCENT.search(untrusted_text):", "    if found := None:"),
    _u("schemes that are never opened", "urls", "    if scheme in NEVER or scheme.startswith(\"ms-\"):", "    if False:"),
    _u("schemes of a rule", "urls", "    if schemes is not None and scheme not in schemes:", "    if False:"),
    _u("encoded control characters", "urls", "_ENCODED_CONTROL.search(path) or ", ""),
    _u("encoded zero in a query", "urls", " or \"%00\" in query + fragment", ""),
    _u("encoded control characters of opaque addresses", "urls", "    if _ENCODED_CONTROL.search(untrusted_rest):", "    if False:"),
    _u("opaque addresses that are paths or options", "urls", "untrusted_rest.startswith((\"/\", \"-\"))", "False"),
    _u("slashes after the scheme", "urls", "    if scheme in PORTS:\n        raise", "    if False:\n        raise"),
    _u("user names", "urls", "    if \"@\" in untrusted_authority:", "    if False:"),
    _u("range of a port", "urls", " and int(number) < 1 << 16)", ")"),
    _u("encoded hosts", "hosts", "    if \"%\" in untrusted_host:", "    if False:"),
    _u("numbers as hosts", "hosts", "    if not _DOTTED.fullmatch(untrusted_host):", "    if False:"),
    _u("empty labels", "hosts", " or \"\" in labels", ""),
    _u("names that would be mapped", "hosts", "        same = untrusted_label in {shown, coded} and", "        same ="),
    _u("the Kelvin sign", "hosts", "return char if lowered.isascii() and not char.isascii() else lowered", "return lowered"),
    _u("mixed scripts", "hosts", "    if mixed_scripts(shown):", "    if False:"),
    _u("imitated Latin", "hosts", "    if any(imitates_latin(label, labels[-1]) for label in labels):", "    if False:"),
    _u("headers of a mail address", "mailto", "    if name not in _RECIPIENTS | _TEXTS:", "    if False:"),
    _u("a header twice", "mailto", "    if name in seen:", "    if False:"),
    _u("control characters of a header", "mailto", "    if any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in plain):", "    if False:"),
    _u("line breaks only in the body", "mailto", " if name == \"body\" else text", ""),
    _u("recipients that are options", "mailto", "(?![-/])", ""),
    _u("number of recipients", "mailto", "    if named > limits.MAIL_ADDRESSES:", "    if False:"),
    _u("machines as recipients", "mailto", "    if \":\" in host.ascii or host.ascii[-1].isdigit():", "    if False:"),
)  # fmt: skip


if __name__ == "__main__":
    main(GUARDS)
