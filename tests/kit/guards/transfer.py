"""The guards of addresses, file names and files, as ``guards`` describes them.

``python -m tests.kit.guards.transfer [NAME…]`` turns each off in a copy.
"""

from __future__ import annotations

from tests.kit.guards.mutation import Guard, main

GUARDS = (
    Guard("length of a name", "if False:", "tests/broker/transfer/test_file_names.py"),
    Guard("names that walk", "if False:", "tests/broker/transfer/test_file_names.py"),
    Guard("names that are options", "if False:", "tests/broker/transfer/test_file_names.py"),
    Guard("spaces at an end of a name", "if False:", "tests/broker/transfer/test_file_names.py"),
    Guard("names of devices", "if False:", "tests/broker/transfer/test_file_names.py"),
    Guard("separators in a name", "if False:", "tests/broker/transfer/test_file_names.py"),
    Guard("categories of characters", "if False:", "tests/broker/transfer/test_file_names.py"),
    Guard("blank letters", "if False:", "tests/broker/transfer/test_file_names.py"),
    Guard("names from right to left", "if False:", "tests/broker/transfer/test_file_names.py"),
    Guard("scripts of names", "return '' if found else f'the script {found} is not in the allow-list'", "tests/broker/transfer/test_file_names.py"),
    Guard("length of an address", "if False:", "tests/broker/transfer/test_urls.py"),
    Guard("length of an encoded address", "if False:", "tests/broker/transfer/test_urls.py"),
    Guard("hidden characters of an address", "if char in _REFUSED or False:", "tests/broker/transfer/test_urls.py"),
    Guard("backslash and quotes in an address", "if unicodedata.category(char) in _HIDDEN:", "tests/broker/transfer/test_urls.py"),
    Guard("percent signs that encode nothing", "if (found := None):", "tests/broker/transfer/test_urls.py"),
    Guard("schemes that are never opened", "if False:", "tests/broker/transfer/test_urls.py"),
    Guard("schemes of a rule", "if False:", "tests/broker/transfer/test_urls.py"),
    Guard("encoded control characters", "if '%00' in query + fragment:", "tests/broker/transfer/test_urls.py"),
    Guard("encoded zero in a query", "if _ENCODED_CONTROL.search(path):", "tests/broker/transfer/test_urls.py"),
    Guard("encoded control characters of opaque addresses", "if False:", "tests/broker/transfer/test_urls.py"),
    Guard("opaque addresses that are paths or options", "if not untrusted_rest or False:", "tests/broker/transfer/test_urls.py"),
    Guard("slashes after the scheme", "if False:", "tests/broker/transfer/test_urls.py"),
    Guard("user names", "if False:", "tests/broker/transfer/test_urls.py"),
    Guard("range of a port", "if colon and (not _PORT.fullmatch(number)):", "tests/broker/transfer/test_urls.py"),
    Guard("encoded hosts", "if False:", "tests/broker/transfer/test_urls.py"),
    Guard("numbers as hosts", "if False:", "tests/broker/transfer/test_urls.py"),
    Guard("empty labels", "if len(untrusted_host) > limits.URL_HOST_CHARS + 1:", "tests/broker/transfer/test_urls.py"),
    Guard("names that would be mapped", "same = coded.startswith('xn--')", "tests/broker/transfer/test_urls.py"),
    Guard("the Kelvin sign", "return lowered", "tests/broker/transfer/test_urls.py"),
    Guard("mixed scripts", "if False:", "tests/broker/transfer/test_urls.py"),
    Guard("imitated Latin", "if False:", "tests/broker/transfer/test_urls.py"),
    Guard("headers of a mail address", "if False:", "tests/broker/transfer/test_urls.py"),
    Guard("a header twice", "if False:", "tests/broker/transfer/test_urls.py"),
    Guard("control characters of a header", "if False:", "tests/broker/transfer/test_urls.py"),
    Guard("line breaks only in the body", "plain = text.replace('\\r\\n', '')", "tests/broker/transfer/test_urls.py"),
    Guard("recipients that are options", "_LOCAL = re.compile(f'{_ATOM}(?:\\\\.{_ATOM})*')", "tests/broker/transfer/test_urls.py"),
    Guard("number of recipients", "if False:", "tests/broker/transfer/test_urls.py"),
    Guard("machines as recipients", "if False:", "tests/broker/transfer/test_urls.py"),
)  # fmt: skip


if __name__ == "__main__":
    main(GUARDS)
