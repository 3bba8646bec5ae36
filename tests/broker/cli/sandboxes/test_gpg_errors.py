"""What gpg and age say is translated, or quoted with what to do."""

from __future__ import annotations

import pytest

from broker.cli.homes.backups.gpg_errors import failed
from broker.core.errors import RefusedError, SetupError, UpstreamError


@pytest.mark.parametrize(
    ("said", "kind", "text", "hint"),
    [
        (
            "gpg: decryption failed: Bad session key",
            RefusedError,
            "the passphrase is wrong",
            "--passphrase-file",
        ),
        (
            "gpg: no valid OpenPGP data found.",
            RefusedError,
            "the file is not a backup: neither gpg nor age has encrypted it",
            "brokerctl sandbox backup",
        ),
        (
            "gpg: decryption failed: No secret key",
            SetupError,
            "the backup is encrypted to a key that your keyring lacks",
            "gpg --import",
        ),
        (
            (
                "gpg: problem with the agent: Timeout; gpg: error creating passphrase: "
                "Operation cancelled; gpg: symmetric encryption of '[stdin]' failed: "
                "Operation cancelled"
            ),
            RefusedError,
            "gpg got no passphrase: its dialog was closed, or waited for too long",
            "--passphrase-file",
        ),
        (
            "gpg: something new",
            UpstreamError,
            "gpg failed; it said: gpg: something new",
            "the program's own",
        ),
    ],
)
def test_words_of_gpg(said, kind, text, hint):
    error = failed("gpg", said)
    assert type(error) is kind
    assert error.message == text
    assert hint in error.hint
