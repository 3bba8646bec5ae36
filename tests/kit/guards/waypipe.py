"""The guards of our end of waypipe's wire, as ``guards`` describes them.

``python -m tests.kit.guards.waypipe [NAME…]`` turns each off in a copy.
"""

from __future__ import annotations

from tests.kit.guards.mutation import Guard, main

GUARDS = (
    Guard("a stream of waypipe's", "if False:", "tests/broker/jail/wayland/waypipe/test_header.py", "refusal_names"),
    Guard("no reconnection", "if False:", "tests/broker/jail/wayland/waypipe/test_header.py", "refusal_names"),
    Guard("no GPU buffers", "if False:", "tests/broker/jail/wayland/waypipe/test_header.py", "refusal_names"),
    Guard("no compression", "if False:", "tests/broker/jail/wayland/waypipe/test_header.py", "refusal_names"),
    Guard("no video", "if False:", "tests/broker/jail/wayland/waypipe/test_header.py", "refusal_names"),
    Guard("kinds that are known", "known = (BlockKind(number), 4, waypipe_limits.WAYPIPE_BLOCK_BYTES)", "tests/broker/jail/wayland/waypipe/test_channel.py", "every_kind or nonsense"),
    Guard("blocks have their size", "if False:", "tests/broker/jail/wayland/waypipe/test_channel.py", "too_long or too_short"),
    Guard("ids of its side", "if False:", "tests/broker/jail/wayland/waypipe/test_channel.py", "lies or nonsense"),
    Guard("no id twice", "if False:", "tests/broker/jail/wayland/waypipe/test_channel.py", "lies or nonsense"),
    Guard("ids near the last", "if False:", "tests/broker/jail/wayland/waypipe/test_channel.py", "id_window"),
    Guard("number of files", "if False:", "tests/broker/jail/wayland/waypipe/test_channel.py", "files_are_counted"),
    Guard("a file's size", "if False:", "tests/broker/jail/wayland/waypipe/test_channel.py", "lies_about"),
    Guard("sizes together", "if False:", "tests/broker/jail/wayland/waypipe/test_channel.py", "declared_bytes"),
    Guard("files only grow", "if False:", "tests/broker/jail/wayland/waypipe/test_channel.py", "lies_about"),
    Guard("a file for one message", "", "tests/broker/jail/wayland/waypipe/test_channel.py", "lies_about"),
    Guard("fills inside their file", "if False:", "tests/broker/jail/wayland/waypipe/test_channel.py", "lies_about"),
    Guard("diffs inside their block", "if False:", "tests/broker/jail/wayland/waypipe/test_channel.py", "lies_about"),
    Guard("spans inside file and block", "if False:", "tests/broker/jail/wayland/waypipe/test_channel.py", "lies_about"),
    Guard("a diff ends with a span", "if False:", "tests/broker/jail/wayland/waypipe/test_channel.py", "lies_about"),
    Guard("an arena that was announced", "if False:", "tests/broker/jail/wayland/waypipe/test_arena.py", "no_other_stream"),
    Guard("no arena for an end that does not know it", "if self._arena is not None:", "tests/broker/jail/wayland/waypipe/test_arena.py", "no_other_stream"),
    Guard("copies are short", "if False:", "tests/broker/jail/wayland/waypipe/test_arena.py", "mebibyte or lies_about"),
    Guard("copies have few rows", "if False:", "tests/broker/jail/wayland/waypipe/test_arena.py", "few_rows"),
    Guard("an error keeps no part of a file", "pass", "tests/attack/test_pixel_arena.py", "before_it_is_counted"),
    Guard("copies inside their arena", "if False:", "tests/broker/jail/wayland/waypipe/test_arena.py", "lies_about"),
    Guard("copies inside their file", "if False:", "tests/broker/jail/wayland/waypipe/test_arena.py", "lies_about"),
    Guard("an arena is sealed", "if False:", "tests/broker/jail/worker/wayland/test_waypipe_memory.py", "no_arena"),
    Guard("an arena is opened once", "self._places = ArenaPlaces(self._memory)", "tests/attack/test_pixel_arena.py", "announcements"),
    Guard("files that were opened", "if False:", "tests/broker/jail/wayland/waypipe/test_channel.py", "nonsense"),
    Guard("memory inside a long diff", "", "tests/broker/jail/wayland/waypipe/test_channel.py", "inside_a_long_diff"),
    Guard("whole messages", "if size < 8:", "tests/broker/jail/wayland/waypipe/test_channel.py", "nonsense"),
    Guard("descriptors as counted", "if False:", "tests/broker/jail/wayland/waypipe/test_channel.py", "lies_about"),
    Guard("whole ids", "if False:", "tests/broker/jail/wayland/waypipe/test_channel.py", "nonsense or any_blocks"),
    Guard("descriptors of one block", "if False:", "tests/broker/jail/wayland/waypipe/test_channel.py", "descriptors_of_one_block"),
    Guard("descriptors that exist", "if False:", "tests/broker/jail/wayland/waypipe/test_channel.py", "nonsense"),
    Guard("number of pipes", "if False:", "tests/broker/jail/wayland/waypipe/test_channel.py", "pipes"),
    Guard("pipes that were opened", "if False:", "tests/broker/jail/wayland/waypipe/test_channel.py", "nonsense"),
    Guard("acknowledgements of sent blocks", "if False:", "tests/broker/jail/wayland/waypipe/test_channel.py", "lie"),
    Guard("we acknowledge in time", "if False:", "tests/broker/jail/wayland/waypipe/test_channel.py", "not_acknowledged"),
    Guard("spans of a second", "pass", "tests/broker/jail/worker/wayland/test_waypipe_connection.py", "too_fast"),
    Guard("a stream's turn ends", "if False:", "tests/broker/jail/worker/wayland/test_waypipe_connection.py", "after_its_time"),
    Guard("a stream waits for room", "if self._over.is_set():", "tests/broker/jail/worker/wayland/test_waypipe_connection.py", "too_much_waits"),
    Guard("nothing after the end", "if self._waits():", "tests/broker/jail/worker/wayland/test_waypipe_connection.py", "end_the_application"),
    Guard("descriptors that a message takes", "if False:", "tests/attack/test_waypipe_streams.py", "bad_stream"),
    Guard("a header in time", "with trio.move_on_after(100):", "tests/attack/test_waypipe_streams.py", "deadline"),
    Guard("slow pastes are dropped", "if False:", "tests/attack/test_waypipe_streams.py", "an_unread_pipe_does_not_stop_the_stream"),
    Guard("memory of a paste's pieces", "cost = len(data)", "tests/broker/jail/worker/wayland/test_waypipe_connection.py", "slow_reader"),
    Guard("memory of a paste", "if False:", "tests/broker/jail/worker/wayland/test_waypipe_connection.py", "slow_reader"),
    Guard("files that are sent", "if False:", "tests/broker/jail/worker/wayland/test_waypipe_connection.py", "a_size_that_is_sent"),
    Guard("pipes that are sent", "if False:", "tests/broker/jail/worker/wayland/test_waypipe_connection.py", "pipes_of_ours"),
    Guard("memory of a sandbox", "if False:", "tests/broker/jail/worker/wayland/test_waypipe_memory.py", "counted_once"),
    Guard("pools cannot shrink", "pass", "tests/broker/jail/worker/wayland/test_waypipe_memory.py", "neither_shrink"),
    Guard("pools are files of the stream", "if False:", "tests/broker/jail/worker/wayland/test_waypipe_memory.py", "no_pool"),
    Guard("pools grow with their files", "return", "tests/broker/jail/worker/wayland/test_waypipe_memory.py", "has_grown"),
    Guard("pools have their size", "if False:", "tests/broker/jail/worker/wayland/test_waypipe_memory.py", "no_larger"),
    Guard("holes that are shown are filled", "", "tests/broker/jail/worker/wayland/test_waypipe_memory.py", "holes"),
    Guard("a shared pipe cannot block the worker", "done = os.write(self._fd, os.read(self._out, self.staged))", "tests/attack/test_shared_pipes.py", "made_blocking"),
)  # fmt: skip


if __name__ == "__main__":
    main(GUARDS)
