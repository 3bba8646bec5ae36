"""The guards of our end of waypipe's wire, as ``guards`` describes them.

``python -m tests.kit.waypipe_guards [NAME…]`` turns each off in a copy.
"""

from __future__ import annotations

from tests.kit.guards import Guard, main

_T = "tests/broker/waypipe/"


def _g(
    name: str, file: str, source: str, without: str, test: str, word: str = ""
) -> Guard:
    return Guard(name, f"broker/waypipe/{file}", source, without, f"{_T}{test}", word)


_C, _H = "test_channel.py", "test_header.py"
_SHELL = "broker/session/waypipe_shell.py"
_SHELL_TEST = "tests/broker/session/test_waypipe_shell.py"
_MEMORY = "broker/session/waypipe_memory.py"
_MEMORY_TEST = "tests/broker/session/test_waypipe_memory.py"
_ATTACK = "tests/attack/test_waypipe_streams.py"
GUARDS = (
    # what the guest's waypipe was started with
    _g("a stream of waypipe's", "header.py", "    if not word & _ALWAYS or word & _NEVER or version < _LEAST_VERSION:\n", "    if False:\n", _H, "refusal_names"),
    _g("no reconnection", "header.py", "    if word & (_RECONNECTS | _RECONNECTION):\n", "    if False:\n", _H, "refusal_names"),
    _g("no GPU buffers", "header.py", "    if not word & _NO_GPU:\n", "    if False:\n", _H, "refusal_names"),
    _g("no compression", "header.py", "    if compression != _NONE:\n", "    if False:\n", _H, "refusal_names"),
    _g("no video", "header.py", "    if video != _NONE:\n", "    if False:\n", _H, "refusal_names"),
    # blocks
    _g("kinds that are known", "blocks.py", "    if known is None:\n        raise _refusal(number)\n", "    if known is None:\n        known = (Kind(number), 4, limits.WAYPIPE_BLOCK_BYTES)\n", _C, "every_kind or nonsense"),
    _g("blocks have their size", "blocks.py", "    if not least <= size <= most:\n", "    if False:\n", _C, "too_long or too_short"),
    # ids
    _g("ids of its side", "ids.py", "        if rid < 1:\n", "        if False:\n", _C, "lies or nonsense"),
    _g("no id twice", "ids.py", "        if self.known(rid):\n            raise", "        if False:\n            raise", _C, "lies or nonsense"),
    _g("ids near the last", "ids.py", "        if rid >= self._lowest + limits.WAYPIPE_ID_WINDOW:\n", "        if False:\n", _C, "id_window"),
    # files
    _g("number of files", "files.py", "            if len(self._open) >= limits.WAYPIPE_FILES:\n                raise", "            if False:\n                raise", _C, "files_are_counted"),
    _g("a file's size", "files.py", "        if more > limits.WAYPIPE_POOL_BYTES:\n", "        if False:\n", _C, "lies_about"),
    _g("sizes together", "files.py", "            if self._declared() + more > limits.WAYPIPE_DECLARED_BYTES:\n                raise", "            if False:\n                raise", _C, "declared_bytes"),
    _g("files only grow", "files.py", "        if size < len(file.view):\n", "        if False:\n", _C, "lies_about"),
    _g("a file for one message", "files.py", "        self._waiting.discard(rid)\n        return self._open[rid]\n", "        return self._open[rid]\n", _C, "lies_about"),
    _g("fills inside their file", "files.py", "        if not start <= end <= len(view) or end - start != len(data):\n", "        if False:\n", _C, "lies_about"),
    _g("diffs inside their block", "files.py", "        if size & 3 or size + trailing != len(body) - 12 or trailing > len(view):\n", "        if False:\n", _C, "lies_about"),
    _g("spans inside file and block", "files.py", "            if not start < end <= words or stop > size:\n", "            if False:\n", _C, "lies_about"),
    _g("a diff ends with a span", "files.py", "        if position != size:\n            raise", "        if False:\n            raise", _C, "lies_about"),
    _g("files that were opened", "files.py", "        elif not self._ids.known(rid):\n", "        elif False:\n", _C, "nonsense"),
    _g("memory inside a long diff", "files.py", "            if position < size:\n                _account(file)\n", "", _C, "inside_a_long_diff"),
    # messages and their descriptors
    _g("whole messages", "channel.py", "            if size < 8 or size & 3 or position + size > len(data):\n", "            if size < 8:\n", _C, "nonsense"),
    _g("descriptors as counted", "channel.py", "        if expected != len(fds):\n", "        if False:\n", _C, "lies_about"),
    _g("whole ids", "channel.py", "        if len(body) % 4:\n", "        if False:\n", _C, "nonsense or any_blocks"),
    _g("descriptors of one block", "channel.py", "        if len(self._injected) + len(body) // 4 > limits.WAYPIPE_FDS_PER_BLOCK:\n", "        if False:\n", _C, "descriptors_of_one_block"),
    _g("descriptors that exist", "channel.py", "            if fd is None:\n                raise", "            if False:\n                raise", _C, "nonsense"),
    # pipes and acknowledgements
    _g("number of pipes", "channel.py", "        if self.pipes >= limits.WAYPIPE_PIPES:\n", "        if False:\n", _C, "pipes"),
    _g("pipes that were opened", "channel.py", "        if not self._ids.known(rid) and not self._own.known(rid):\n", "        if False:\n", _C, "nonsense"),
    _g("acknowledgements of what was sent", "channel.py", "        if not 0 < more <= self._sent - self._heard:\n", "        if False:\n", _C, "lie"),
    _g("we acknowledge in time", "channel.py", "            if self.unacknowledged > limits.WAYPIPE_UNACKNOWLEDGED_BYTES:\n", "            if False:\n", _C, "not_acknowledged"),
    # the shell
    Guard("spans of a second", _SHELL, "            await trio.sleep(pause)\n", "            pass\n", _SHELL_TEST, "too_fast"),
    Guard("a stream's turn ends", _SHELL, "            if perf_counter() > end:\n", "            if False:\n", _SHELL_TEST, "after_its_time"),
    Guard("a stream waits for room", _SHELL, "        if self._over.is_set() or self._waits():\n", "        if self._over.is_set():\n", _SHELL_TEST, "too_much_waits"),
    Guard("nothing after the end", _SHELL, "        if self._over.is_set() or self._waits():\n", "        if self._waits():\n", _SHELL_TEST, "end_the_application"),
    Guard("descriptors that a message takes", _SHELL, "        if core.fault is None and core.unclaimed:\n", "        if False:\n", _ATTACK, "bad_stream"),
    Guard("a header in time", _SHELL, "        with trio.move_on_after(limits.WAYPIPE_HEADER_SECONDS):\n", "        with trio.move_on_after(100):\n", _ATTACK, "deadline"),
    Guard("slow pastes are dropped", _SHELL, "            if patience.cancelled_caught:\n                self.core.sandbox.refused[\"slow pipes\"] += 1\n", "            if False:\n                self.core.sandbox.refused[\"slow pipes\"] += 1\n", _ATTACK, "nobody_reads"),
    Guard("what a paste may hold", _SHELL, "        if self.size + len(data) > limits.WAYPIPE_PIPE_QUEUE_BYTES:\n", "        if False:\n", _SHELL_TEST, "slow_reader"),
    Guard("files that are sent", _SHELL, "            if status.st_size > limits.WAYPIPE_SENT_FILE_BYTES:\n", "            if False:\n", _SHELL_TEST, "a_size_that_is_sent"),
    Guard("pipes that are sent", _SHELL, "        if self.channel.pipes >= limits.WAYPIPE_PIPES:\n", "        if False:\n", _SHELL_TEST, "pipes_of_ours"),
    # memory
    Guard("memory of a sandbox", _MEMORY, "        if size > 0 and self.touched + size > limits.WAYPIPE_TOUCHED_BYTES:\n", "        if False:\n", _MEMORY_TEST, "counted_once"),
    Guard("pools cannot shrink", _MEMORY, "            fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, _SEALS)\n", "            pass\n", _MEMORY_TEST, "neither_shrink"),
    Guard("pools are files of the stream", _MEMORY, "        if not isinstance(untrusted_fd, StreamFile):\n", "        if False:\n", _MEMORY_TEST, "no_pool"),
    Guard("pools grow with their files", _MEMORY, "            raise ValueError(\"the file has not grown\")\n", "            return\n", _MEMORY_TEST, "has_grown"),
    Guard("pools have their size", _MEMORY, "        if len(untrusted_fd.view) < size:\n", "        if False:\n", _MEMORY_TEST, "no_larger"),
)  # fmt: skip


if __name__ == "__main__":
    main(GUARDS)
