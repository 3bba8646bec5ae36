"""The guards of our end of waypipe's wire, as ``guards`` describes them.

``python -m tests.kit.guards.waypipe [NAME…]`` turns each off in a copy.
"""

from __future__ import annotations

from tests.kit.guards.mutation import Guard, main

GUARDS = (
    Guard("a stream of waypipe's", "broker/waypipe/header.py", "    if not word & _ALWAYS or word & _NEVER or version < _LEAST_VERSION:\n", "    if False:\n", "tests/broker/waypipe/test_header.py", "refusal_names"),
    Guard("no reconnection", "broker/waypipe/header.py", "    if word & (_RECONNECTS | _RECONNECTION):\n", "    if False:\n", "tests/broker/waypipe/test_header.py", "refusal_names"),
    Guard("no GPU buffers", "broker/waypipe/header.py", "    if not word & _NO_GPU:\n", "    if False:\n", "tests/broker/waypipe/test_header.py", "refusal_names"),
    Guard("no compression", "broker/waypipe/header.py", "    if compression != _NONE:\n", "    if False:\n", "tests/broker/waypipe/test_header.py", "refusal_names"),
    Guard("no video", "broker/waypipe/header.py", "    if video != _NONE:\n", "    if False:\n", "tests/broker/waypipe/test_header.py", "refusal_names"),
    Guard("kinds that are known", "broker/waypipe/blocks.py", "    if known is None:\n        raise _refusal(number)\n", "    if known is None:\n        known = (Kind(number), 4, limits.WAYPIPE_BLOCK_BYTES)\n", "tests/broker/waypipe/test_channel.py", "every_kind or nonsense"),
    Guard("blocks have their size", "broker/waypipe/blocks.py", "    if not least <= size <= most:\n", "    if False:\n", "tests/broker/waypipe/test_channel.py", "too_long or too_short"),
    Guard("ids of its side", "broker/waypipe/ids.py", "        if rid < 1:\n", "        if False:\n", "tests/broker/waypipe/test_channel.py", "lies or nonsense"),
    Guard("no id twice", "broker/waypipe/ids.py", "        if self.known(rid):\n            raise", "        if False:\n            raise", "tests/broker/waypipe/test_channel.py", "lies or nonsense"),
    Guard("ids near the last", "broker/waypipe/ids.py", "        if rid >= self._lowest + limits.WAYPIPE_ID_WINDOW:\n", "        if False:\n", "tests/broker/waypipe/test_channel.py", "id_window"),
    Guard("number of files", "broker/waypipe/files.py", "            if len(self._open) >= limits.WAYPIPE_FILES:\n                raise", "            if False:\n                raise", "tests/broker/waypipe/test_channel.py", "files_are_counted"),
    Guard("a file's size", "broker/waypipe/files.py", "        if more > limits.WAYPIPE_POOL_BYTES:\n", "        if False:\n", "tests/broker/waypipe/test_channel.py", "lies_about"),
    Guard("sizes together", "broker/waypipe/files.py", "            if self._declared() + more > limits.WAYPIPE_DECLARED_BYTES:\n                raise", "            if False:\n                raise", "tests/broker/waypipe/test_channel.py", "declared_bytes"),
    Guard("files only grow", "broker/waypipe/files.py", "        if size < len(file.view):\n", "        if False:\n", "tests/broker/waypipe/test_channel.py", "lies_about"),
    Guard("a file for one message", "broker/waypipe/files.py", "        self._waiting.discard(rid)\n        return self._open[rid]\n", "        return self._open[rid]\n", "tests/broker/waypipe/test_channel.py", "lies_about"),
    Guard("fills inside their file", "broker/waypipe/files.py", "        if not start <= end <= len(view) or end - start != len(data):\n", "        if False:\n", "tests/broker/waypipe/test_channel.py", "lies_about"),
    Guard("diffs inside their block", "broker/waypipe/files.py", "        if size & 3 or size + trailing != len(body) - 12 or trailing > len(view):\n", "        if False:\n", "tests/broker/waypipe/test_channel.py", "lies_about"),
    Guard("spans inside file and block", "broker/waypipe/files.py", "            if not start < end <= words or stop > size:\n", "            if False:\n", "tests/broker/waypipe/test_channel.py", "lies_about"),
    Guard("a diff ends with a span", "broker/waypipe/files.py", "        if position != size:\n            raise", "        if False:\n            raise", "tests/broker/waypipe/test_channel.py", "lies_about"),
    Guard("files that were opened", "broker/waypipe/files.py", "        elif not self._ids.known(rid):\n", "        elif False:\n", "tests/broker/waypipe/test_channel.py", "nonsense"),
    Guard("memory inside a long diff", "broker/waypipe/files.py", "            if position < size:\n                _account(file)\n", "", "tests/broker/waypipe/test_channel.py", "inside_a_long_diff"),
    Guard("whole messages", "broker/waypipe/channel.py", "            if size < 8 or size & 3 or position + size > len(data):\n", "            if size < 8:\n", "tests/broker/waypipe/test_channel.py", "nonsense"),
    Guard("descriptors as counted", "broker/waypipe/channel.py", "        if expected != len(fds):\n", "        if False:\n", "tests/broker/waypipe/test_channel.py", "lies_about"),
    Guard("whole ids", "broker/waypipe/channel.py", "        if len(body) % 4:\n", "        if False:\n", "tests/broker/waypipe/test_channel.py", "nonsense or any_blocks"),
    Guard("descriptors of one block", "broker/waypipe/channel.py", "        if len(self._injected) + len(body) // 4 > limits.WAYPIPE_FDS_PER_BLOCK:\n", "        if False:\n", "tests/broker/waypipe/test_channel.py", "descriptors_of_one_block"),
    Guard("descriptors that exist", "broker/waypipe/channel.py", "            if fd is None:\n                raise", "            if False:\n                raise", "tests/broker/waypipe/test_channel.py", "nonsense"),
    Guard("number of pipes", "broker/waypipe/channel.py", "        if self.pipes >= limits.WAYPIPE_PIPES:\n", "        if False:\n", "tests/broker/waypipe/test_channel.py", "pipes"),
    Guard("pipes that were opened", "broker/waypipe/channel.py", "        if not self._ids.known(rid) and not self._own.known(rid):\n", "        if False:\n", "tests/broker/waypipe/test_channel.py", "nonsense"),
    Guard("acknowledgements of what was sent", "broker/waypipe/channel.py", "        if not 0 < more <= self._sent - self._heard:\n", "        if False:\n", "tests/broker/waypipe/test_channel.py", "lie"),
    Guard("we acknowledge in time", "broker/waypipe/channel.py", "            if self.unacknowledged > limits.WAYPIPE_UNACKNOWLEDGED_BYTES:\n", "            if False:\n", "tests/broker/waypipe/test_channel.py", "not_acknowledged"),
    Guard("spans of a second", "broker/worker/wayland/waypipe_connection.py", "            await trio.sleep(pause)\n", "            pass\n", "tests/broker/worker/wayland/test_waypipe_connection.py", "too_fast"),
    Guard("a stream's turn ends", "broker/worker/wayland/waypipe_connection.py", "            if perf_counter() > end:\n", "            if False:\n", "tests/broker/worker/wayland/test_waypipe_connection.py", "after_its_time"),
    Guard("a stream waits for room", "broker/worker/wayland/waypipe_connection.py", "        if self._over.is_set() or self._waits():\n", "        if self._over.is_set():\n", "tests/broker/worker/wayland/test_waypipe_connection.py", "too_much_waits"),
    Guard("nothing after the end", "broker/worker/wayland/waypipe_connection.py", "        if self._over.is_set() or self._waits():\n", "        if self._waits():\n", "tests/broker/worker/wayland/test_waypipe_connection.py", "end_the_application"),
    Guard("descriptors that a message takes", "broker/worker/wayland/waypipe_connection.py", "        if core.fault is None and core.unclaimed:\n", "        if False:\n", "tests/attack/test_waypipe_streams.py", "bad_stream"),
    Guard("a header in time", "broker/worker/wayland/waypipe_connection.py", "        with trio.move_on_after(limits.WAYPIPE_HEADER_SECONDS):\n", "        with trio.move_on_after(100):\n", "tests/attack/test_waypipe_streams.py", "deadline"),
    Guard("slow pastes are dropped", "broker/worker/wayland/waypipe_connection.py", "            if patience.cancelled_caught:\n                self.core.sandbox.refused[\"slow pipes\"] += 1\n", "            if False:\n                self.core.sandbox.refused[\"slow pipes\"] += 1\n", "tests/attack/test_waypipe_streams.py", "nobody_reads"),
    Guard("what a paste may hold", "broker/worker/wayland/waypipe_connection.py", "        if self.size + len(data) > limits.WAYPIPE_PIPE_QUEUE_BYTES:\n", "        if False:\n", "tests/broker/worker/wayland/test_waypipe_connection.py", "slow_reader"),
    Guard("files that are sent", "broker/worker/wayland/waypipe_connection.py", "            if status.st_size > limits.WAYPIPE_SENT_FILE_BYTES:\n", "            if False:\n", "tests/broker/worker/wayland/test_waypipe_connection.py", "a_size_that_is_sent"),
    Guard("pipes that are sent", "broker/worker/wayland/waypipe_connection.py", "        if self.channel.pipes >= limits.WAYPIPE_PIPES:\n", "        if False:\n", "tests/broker/worker/wayland/test_waypipe_connection.py", "pipes_of_ours"),
    Guard("memory of a sandbox", "broker/worker/wayland/waypipe_memory.py", "        if size > 0 and self.touched + size > limits.WAYPIPE_TOUCHED_BYTES:\n", "        if False:\n", "tests/broker/worker/wayland/test_waypipe_memory.py", "counted_once"),
    Guard("pools cannot shrink", "broker/worker/wayland/waypipe_memory.py", "            fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, _SEALS)\n", "            pass\n", "tests/broker/worker/wayland/test_waypipe_memory.py", "neither_shrink"),
    Guard("pools are files of the stream", "broker/worker/wayland/waypipe_memory.py", "        if not isinstance(untrusted_fd, StreamFile):\n", "        if False:\n", "tests/broker/worker/wayland/test_waypipe_memory.py", "no_pool"),
    Guard("pools grow with their files", "broker/worker/wayland/waypipe_memory.py", "            raise ValueError(\"the file has not grown\")\n", "            return\n", "tests/broker/worker/wayland/test_waypipe_memory.py", "has_grown"),
    Guard("pools have their size", "broker/worker/wayland/waypipe_memory.py", "        if len(untrusted_fd.view) < size:\n", "        if False:\n", "tests/broker/worker/wayland/test_waypipe_memory.py", "no_larger"),
)  # fmt: skip


if __name__ == "__main__":
    main(GUARDS)
