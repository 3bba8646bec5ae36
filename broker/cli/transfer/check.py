"""``open --check``: print whether addresses and names would be accepted."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from broker.core.decoding import UNREADABLE
from broker.core.errors import RefusedError
from broker.core.limits import transfer as limits
from broker.core.transfer.file_names import display_name, take_file_name
from broker.core.transfer.urls import DEFAULT_SCHEMES, take_url


class NameQuestion(msgspec.Struct):
    """One line: ``text`` or ``bytes_hex`` of a URL or of a file name."""

    kind: str
    text: str | None = None
    bytes_hex: str | None = None


_decoder = msgspec.json.Decoder(NameQuestion)


def check_line(
    untrusted_line: bytes, schemes: Collection[str] = DEFAULT_SCHEMES
) -> dict[str, Any]:
    """Return the answer to one line of ``--batch``; raises nothing."""
    if len(untrusted_line) > limits.CHECK_LINE_BYTES:
        return _no(f"the line is longer than {limits.CHECK_LINE_BYTES} bytes")
    try:
        question = _decoder.decode(untrusted_line)
    except UNREADABLE as error:
        return _no(f"the line is malformed: {error}")
    return _answer(question, schemes)


def check_url(
    untrusted_text: str, schemes: Collection[str] = DEFAULT_SCHEMES
) -> dict[str, Any]:
    """Check an address as ``open`` would; return its canonical form or the refusal."""
    try:
        url = take_url(untrusted_text, schemes)
    except RefusedError as error:
        return _no(str(error))
    answer = {
        "ok": True,
        "canonical": url.canonical,
        "host": url.host,
        "scheme": url.scheme,
    }
    if url.port is not None:
        answer["port"] = url.port
    if url.shown_host != url.host:
        answer["host_unicode"] = url.shown_host
    return answer


def check_name(untrusted_name: bytes) -> dict[str, Any]:
    """Check a file name as ``open`` would; return its canonical form or the refusal."""
    try:
        name = take_file_name(untrusted_name)
    except RefusedError as error:
        return {**_no(str(error)), "display": display_name(untrusted_name)}
    return {"ok": True, "canonical": name}


def _answer(question: NameQuestion, schemes: Collection[str]) -> dict[str, Any]:
    """Return the answer about one name or address."""
    if (question.text is None) == (question.bytes_hex is None):
        return _no("the line must have either 'text' or 'bytes_hex'")
    try:
        content = bytes.fromhex(question.bytes_hex or "")
    except ValueError:
        return _no("bytes_hex is not an even number of hex digits")
    if question.kind == "name":
        text = question.text
        return check_name(content if text is None else text.encode("utf-8"))
    if question.kind != "url":
        return _no("the kind is neither 'url' nor 'name'")
    if question.text is not None:
        return check_url(question.text, schemes)
    try:
        return check_url(content.decode("utf-8"), schemes)
    except UnicodeDecodeError:
        return _no("the address is not UTF-8")


def _no(reason: str) -> dict[str, Any]:
    return {"ok": False, "reason": reason}
