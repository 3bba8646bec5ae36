"""The guards of the audit log, as ``guards`` describes them.

``python -m tests.kit.audit_guards [NAME…]`` turns each off in a copy.
"""

from __future__ import annotations

from tests.kit.guards import Guard, main

_TAIL = "tests/attack/test_audit_tail.py"


def _t(name: str, file: str, source: str, without: str, word: str = "") -> Guard:
    return Guard(name, f"broker/audit/{file}", source, without, _TAIL, word)


GUARDS = (
    _t("a head is no checkpoint, at the start", "seal.py", "    return note.checkpoint.head or key.newest is None\n", "    return True\n", "any_note or first_note"),
    _t("a head is no checkpoint, in verify", "verify.py", "            if all(says_end(head, key) for key in current):\n                return\n", "            return\n", "any_note or first_note"),
    _t("the key knows the newest size, at the start", "seal.py", "    if tree.size < (seal.key.newest or 0):\n", "    if False:\n", "older_copy and killed"),
    _t("the key knows the newest size, in verify", "verify.py", "    if report.size < had:\n", "    if False:\n", "older_copy and killed"),
    _t("the newest size follows each commit", "seal.py", "        self._file.record_newest(self._head)\n", "", "older_copy and killed"),
    _t("a new key at each start", "seal.py", "        seal.evolve(tree)\n", "        pass\n", "own_key"),
)  # fmt: skip


if __name__ == "__main__":
    main(GUARDS)
