"""Errors of the kernel about a path: whatever its name is, they are answered and shown."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from broker.core.files.path_errors import path_error
from broker.session.child import failed_operation
from broker.wire.call_messages import ErrorMessage, encode_message

DENIED = os.strerror(errno.EACCES)
BYTES = b"a\xff\n  hint: x\x1b[2J"


def of_file(name, code=errno.EACCES):
    return OSError(code, os.strerror(code), name)


@pytest.mark.parametrize("name", [BYTES, os.fsdecode(BYTES)])
def test_a_path_of_any_bytes_can_be_sent_and_shown(name):
    error = path_error(of_file(name))
    assert error is not None
    assert encode_message(ErrorMessage.of(1, error))
    assert error.message == f"a\\udcff\\x0a  hint: x\\x1b[2J: {DENIED}"


@pytest.mark.parametrize("name", [BYTES, os.fsdecode(BYTES), 9, None])
def test_an_operation_of_the_session_is_answered_whatever_its_file_is_called(name):
    """It may be of a directory that a sandbox made, or a descriptor's number."""
    error = failed_operation(of_file(name))
    assert encode_message(ErrorMessage.of(1, error))
    assert error.message.isprintable()
    assert error.message.endswith(DENIED)


def test_a_descriptor_without_a_file_is_one_sentence():
    """os.statvfs() and others have the number in place of the name."""
    with pytest.raises(OSError, match="9999") as caught:
        os.statvfs(9999)
    assert caught.value.filename == 9999
    code = (
        "import os\nfrom broker.cli.verbs import report\n"
        "try: os.statvfs(9999)\nexcept OSError as error: raise SystemExit(report(error))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith("error: cannot write")
