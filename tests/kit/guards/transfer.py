"""The guards of addresses, file names and files, as ``guards`` describes them.

``python -m tests.kit.guards.transfer [NAME…]`` turns each off in a copy.
"""

from __future__ import annotations

from tests.kit.guards.mutation import Guard, main

GUARDS = (
    Guard("length of a name", "broker/transfer/file_names.py", "    if len(untrusted_name) > limits.FILE_NAME_BYTES:", "    if False:", "tests/broker/transfer/test_file_names.py"),
    Guard("names that walk", "broker/transfer/file_names.py", '    if text == "." or text.startswith(".."):', "    if False:", "tests/broker/transfer/test_file_names.py"),
    Guard("names that are options", "broker/transfer/file_names.py", '    if text.startswith("-"):', "    if False:", "tests/broker/transfer/test_file_names.py"),
    Guard("spaces at an end of a name", "broker/transfer/file_names.py", '    if text != text.strip(" "):', "    if False:", "tests/broker/transfer/test_file_names.py"),
    Guard("names of devices", "broker/transfer/file_names.py", "    if _WINDOWS.fullmatch(text):", "    if False:", "tests/broker/transfer/test_file_names.py"),
    Guard("separators in a name", "broker/transfer/file_names.py", '    if char in "/\\\\":', "    if False:", "tests/broker/transfer/test_file_names.py"),
    Guard("categories of characters", "broker/transfer/file_names.py", "    if category not in _CATEGORIES:", "    if False:", "tests/broker/transfer/test_file_names.py"),
    Guard("blank letters", "broker/transfer/file_names.py", "    if char in _BLANK:", "    if False:", "tests/broker/transfer/test_file_names.py"),
    Guard("names from right to left", "broker/transfer/file_names.py", "    if unicodedata.bidirectional(char) not in _DIRECTIONS:", "    if False:", "tests/broker/transfer/test_file_names.py"),
    Guard("scripts of names", "broker/transfer/file_names.py", '"" if found in _SCRIPTS else', '"" if found else', "tests/broker/transfer/test_file_names.py"),
    Guard("length of an address", "broker/transfer/urls.py", "    if len(untrusted_text) > limits.URL_CHARS:", "    if False:", "tests/broker/transfer/test_urls.py"),
    Guard("length of an encoded address", "broker/transfer/urls.py", "    if len(url.canonical) > limits.URL_CHARS:", "    if False:", "tests/broker/transfer/test_urls.py"),
    Guard("hidden characters of an address", "broker/transfer/urls.py", "unicodedata.category(char) in _HIDDEN", "False", "tests/broker/transfer/test_urls.py"),
    Guard("backslash and quotes in an address", "broker/transfer/urls.py", "char in _REFUSED or ", "", "tests/broker/transfer/test_urls.py"),
    Guard("percent signs that encode nothing", "broker/transfer/urls.py", "    if found := _PERCENT.search(untrusted_text):", "    if found := None:", "tests/broker/transfer/test_urls.py"),
    Guard("schemes that are never opened", "broker/transfer/urls.py", '    if scheme in NEVER or scheme.startswith("ms-"):', "    if False:", "tests/broker/transfer/test_urls.py"),
    Guard("schemes of a rule", "broker/transfer/urls.py", "    if schemes is not None and scheme not in schemes:", "    if False:", "tests/broker/transfer/test_urls.py"),
    Guard("encoded control characters", "broker/transfer/urls.py", "_ENCODED_CONTROL.search(path) or ", "", "tests/broker/transfer/test_urls.py"),
    Guard("encoded zero in a query", "broker/transfer/urls.py", ' or "%00" in query + fragment', "", "tests/broker/transfer/test_urls.py"),
    Guard("encoded control characters of opaque addresses", "broker/transfer/urls.py", "    if _ENCODED_CONTROL.search(untrusted_rest):", "    if False:", "tests/broker/transfer/test_urls.py"),
    Guard("opaque addresses that are paths or options", "broker/transfer/urls.py", 'untrusted_rest.startswith(("/", "-"))', "False", "tests/broker/transfer/test_urls.py"),
    Guard("slashes after the scheme", "broker/transfer/urls.py", "    if scheme in PORTS:\n        raise", "    if False:\n        raise", "tests/broker/transfer/test_urls.py"),
    Guard("user names", "broker/transfer/urls.py", '    if "@" in untrusted_authority:', "    if False:", "tests/broker/transfer/test_urls.py"),
    Guard("range of a port", "broker/transfer/urls.py", " and int(number) < 1 << 16)", ")", "tests/broker/transfer/test_urls.py"),
    Guard("encoded hosts", "broker/transfer/hosts.py", '    if "%" in untrusted_host:', "    if False:", "tests/broker/transfer/test_urls.py"),
    Guard("numbers as hosts", "broker/transfer/hosts.py", "    if not _DOTTED.fullmatch(untrusted_host):", "    if False:", "tests/broker/transfer/test_urls.py"),
    Guard("empty labels", "broker/transfer/hosts.py", ' or "" in labels', "", "tests/broker/transfer/test_urls.py"),
    Guard("the Kelvin sign", "broker/transfer/hosts.py", "return char if lowered.isascii() and not char.isascii() else lowered", "return lowered", "tests/broker/transfer/test_urls.py"),
    Guard("mixed scripts", "broker/transfer/hosts.py", "    if mixed_scripts(shown):", "    if False:", "tests/broker/transfer/test_urls.py"),
    Guard("imitated Latin", "broker/transfer/hosts.py", "    if any(imitates_latin(label, labels[-1]) for label in labels):", "    if False:", "tests/broker/transfer/test_urls.py"),
    Guard("headers of a mail address", "broker/transfer/mailto.py", "    if name not in _RECIPIENTS | _TEXTS:", "    if False:", "tests/broker/transfer/test_urls.py"),
    Guard("a header twice", "broker/transfer/mailto.py", "    if name in seen:", "    if False:", "tests/broker/transfer/test_urls.py"),
    Guard("control characters of a header", "broker/transfer/mailto.py", "    if any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in plain):", "    if False:", "tests/broker/transfer/test_urls.py"),
    Guard("line breaks only in the body", "broker/transfer/mailto.py", ' if name == "body" else text', "", "tests/broker/transfer/test_urls.py"),
    Guard("recipients that are options", "broker/transfer/mailto.py", "(?![-/])", "", "tests/broker/transfer/test_urls.py"),
    Guard("number of recipients", "broker/transfer/mailto.py", "    if named > limits.MAIL_ADDRESSES:", "    if False:", "tests/broker/transfer/test_urls.py"),
    Guard("machines as recipients", "broker/transfer/mailto.py", '    if ":" in host.ascii or host.ascii[-1].isdigit():', "    if False:", "tests/broker/transfer/test_urls.py"),
    Guard("entries in order", "broker/transfer/entries.py", "        if path[:-1] not in self._directories:", "        if False:", "tests/broker/transfer/test_entries.py"),
    Guard("a name twice in a transfer", "broker/transfer/entries.py", "        if hash(path) in self._paths:", "        if False:", "tests/broker/transfer/test_entries.py"),
    Guard("number of entries", "broker/transfer/entries.py", "        if self.files > (1 if self._quota.single else self._quota.files):", "        if False:", "tests/broker/transfer/test_entries.py"),
    Guard("directories to be opened", "broker/transfer/entries.py", "            if self._quota.single:\n", "            if False:\n", "tests/broker/transfer/test_entries.py"),
    Guard("size of a file", "broker/transfer/entries.py", "        if untrusted_size > self._quota.file_size:", "        if False:", "tests/broker/transfer/test_entries.py"),
    Guard("size of a transfer", "broker/transfer/entries.py", "        if self.size > self._quota.size:", "        if False:", "tests/broker/transfer/test_entries.py"),
    Guard("length of an entry", "broker/transfer/entries.py", "        if not 0 < untrusted_length <= limits.TRANSFER_FRAME_BYTES:", "        if False:", "tests/broker/transfer/test_entries.py"),
    Guard("bytes after the end", "broker/transfer/entries.py", "            if self.ended:\n", "            if False:\n", "tests/broker/transfer/test_entries.py"),
    Guard("programs are not opened", "broker/transfer/contents.py", "    if found in _RUNS or ending in _RUN_NAMES:", "    if False:", "tests/broker/transfer/test_contents.py"),
    Guard("content against name", "broker/transfer/contents.py", "    if found and found not in _CONTAINERS and said and found != said:", "    if False:", "tests/broker/transfer/test_contents.py"),
    Guard("address checked in the worker", "broker/worker/transfer.py", "return OpenUrl(take_url(untrusted_url, None).canonical, target)", "return OpenUrl(untrusted_url, target)", "tests/broker/worker/test_transfer.py", "address"),
    Guard("name checked in the worker", "broker/worker/transfer.py", "            take_file_name(untrusted_name.encode())", "            pass", "tests/broker/worker/test_transfer.py", "no_request"),
    Guard("one request", "broker/worker/transfer.py", "            if frames and (len(frames) > 1 or reader.in_frame):", "            if False:", "tests/broker/worker/test_transfer.py", "no_request"),
    Guard("content looked at first", "broker/worker/transfer.py", "            refuse_contents(self._file.path[-1], self._head)", "            pass", "tests/broker/worker/test_transfer.py", "looked_at"),
    Guard("silence before the answer", "broker/worker/transfer.py", '            raise PeerError("it hung up, or spoke before the answer")', "            await trio.sleep_forever()", "tests/broker/worker/test_transfer.py", "hangs_up"),
    Guard("paths of the receiver", "shims/vitrail_files.py", '        good = good and isinstance(name, str) and name not in ("", ".", "..")', "        good = good and isinstance(name, str)", "tests/attack/test_transfer_store.py", "checked_by"),
    Guard("nothing is replaced", "shims/vitrail_files.py", "if self._libc.renameat2(stage, name.encode(), top, new.encode(), 1) != 0:", "if self._libc.renameat2(stage, name.encode(), top, new.encode(), 0) != 0:", "tests/attack/test_transfer_store.py", "replaced or in_the_way"),
    Guard("no link below", "shims/vitrail_files.py", "RESOLVE = 0x08 | 0x04 | 0x02", "RESOLVE = 0x00 and 0x02", "tests/attack/test_transfer_store.py", "becomes_a_link"),
    Guard("room before bytes", "shims/vitrail_files.py", "        if facts.f_bavail * facts.f_frsize < size + self._keep_free:", "        if False:", "tests/attack/test_transfer_store.py", "endless"),
    Guard("left-overs of the killed", "shims/vitrail_files.py", "                self._remove(name)\n            except BlockingIOError:", "                pass\n            except BlockingIOError:", "tests/attack/test_transfer_store.py", "killed"),
)  # fmt: skip


if __name__ == "__main__":
    main(GUARDS)
