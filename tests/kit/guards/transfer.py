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
    Guard("entries in order", "if False:", "tests/broker/transfer/test_entries.py"),
    Guard("a name twice in a transfer", "if False:", "tests/broker/transfer/test_entries.py"),
    Guard("number of entries", "if False:", "tests/broker/transfer/test_entries.py"),
    Guard("directories to be opened", "if False:", "tests/broker/transfer/test_entries.py"),
    Guard("size of a file", "if False:", "tests/broker/transfer/test_entries.py"),
    Guard("size of a transfer", "if False:", "tests/broker/transfer/test_entries.py"),
    Guard("length of an entry of a transfer", "if False:", "tests/broker/transfer/test_entries.py"),
    Guard("bytes after the end of a transfer", "if False:", "tests/broker/transfer/test_entries.py"),
    Guard("programs are not opened", "if False:", "tests/broker/transfer/test_contents.py"),
    Guard("content against name", "if False:", "tests/broker/transfer/test_contents.py"),
    Guard("address checked in the worker", "return OpenUrl(untrusted_url, target)", "tests/broker/worker/test_transfer.py", "address"),
    Guard("name checked in the worker", "", "tests/broker/worker/test_transfer.py", "no_request"),
    Guard("one request of a transfer", "if False:", "tests/broker/worker/test_transfer.py", "no_request"),
    Guard("content looked at first", "", "tests/broker/worker/test_transfer.py", "looked_at"),
    Guard("silence before the answer", "await trio.sleep_forever()", "tests/broker/worker/test_transfer.py", "hangs_up"),
    Guard("paths of the receiver", "good = good and isinstance(name, str)", "tests/attack/test_transfer_store.py", "checked_by"),
    Guard("nothing is replaced", "if self._libc.renameat2(stage, name.encode(), top, new.encode(), 0) != 0:", "tests/attack/test_transfer_store.py", "replaced or in_the_way"),
    Guard("no link below", "RESOLVE = 0", "tests/attack/test_transfer_store.py", "becomes_a_link"),
    Guard("room before bytes", "if False:", "tests/attack/test_transfer_store.py", "endless"),
    Guard("left-overs of the killed", "", "tests/attack/test_transfer_store.py", "killed"),
    Guard("what was asked about is what comes", "", "tests/attack/test_transfer_bait.py", "first_name"),
    Guard("no more than was asked about", "size = most", "tests/attack/test_transfer_bait.py", "what_is_sent"),
)  # fmt: skip


if __name__ == "__main__":
    main(GUARDS)
