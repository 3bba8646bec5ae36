"""Write the line of an offer to a file of rules."""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path

from broker.cli.allow.offer import ONCE_SECONDS, RuleOffer, once_file
from broker.cli.policy.install import open_lock, put
from broker.cli.policy.undo import take_back
from broker.core.errors import RefusedError
from broker.core.paths import find_paths, require_private
from broker.helpers.process.popen import our_program
from broker.helpers.process.spawn import DEVNULL, spawn


def always(offer: RuleOffer, line: str) -> Path:
    """Add a line to the user's rules, under the lock of edits; return the file.

    Removes the rule that ``once`` has added.
    """
    fd = open_lock(offer.base / ".edit.lock", doing="add the rule")
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RefusedError(
                f"cannot edit the settings in {offer.base}: another 'brokerctl "
                "policy edit' or 'brokerctl allow' is editing them",
                hint="wait until the other command has ended, and run this one again",
            ) from error
        put(offer.file, offer.content(line))
        once_file().unlink(missing_ok=True)  # it would come first, used up or not
    finally:
        os.close(fd)
    return offer.file


def once(offer: RuleOffer) -> Path:
    """Put the line in force for one call, for at most ONCE_SECONDS.

    It is in the runtime directory; a separate process removes it.
    """
    paths = find_paths()
    require_private(paths)
    file = once_file()
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    content = (
        f"# Written by 'brokerctl allow'; valid for a minute.\n{offer.once}\n".encode()
    )
    digest = hashlib.sha256(content).hexdigest()
    words = our_program("broker.cli.policy.undo", str(file), digest, str(ONCE_SECONDS))
    put(file, content)
    try:
        # A pipe would be open as long as it runs.
        spawn(
            words,
            name="policy-undo",
            stdout=DEVNULL,
            stderr=DEVNULL,
            outlive_us=True,
        ).abandon()
    except BaseException:
        take_back(file, digest)
        raise
    return file
