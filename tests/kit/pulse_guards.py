"""The guards of the sound filter, as ``guards`` describes them.

``python -m tests.kit.pulse_guards [NAME…]`` turns each off in a copy.
"""

from __future__ import annotations

from tests.kit.guards import Guard, main

_U = "tests/broker/pulse/"


def _g(
    name: str, file: str, source: str, without: str, test: str, word: str = ""
) -> Guard:
    return Guard(name, f"broker/pulse/{file}", source, without, f"{_U}{test}", word)


_SHELL = "broker/session/pulse_shell.py"
_SHELL_TEST = "tests/broker/session/test_pulse_shell.py"
_F, _P, _R = "test_filter.py", "test_playback.py", "test_recording.py"
_L, _Y = "test_latency.py", "test_playing.py"
_GUEST, _GUEST_TEST = (
    "broker/session/guest_sound.py",
    "tests/broker/session/test_guest_sound.py",
)
GUARDS = (
    _g("unknown is denied", "filter.py", '            raise SoundRefusedError(Error.ACCESS, "not allowed")\n', "            return self.relay(tag, number, reader.rest())\n", _F, "refused_commands"),
    _g("servers' commands", "filter.py", "        if number in NOT_FROM_CLIENTS:\n", "        if False:\n", _F, "only_servers_say"),
    _g("nothing behind the last field", "filter.py", "        fields = reader.fields(signature)\n        reader.end()\n        if request", "        fields = reader.fields(signature)\n        if request", _F, "behind_the_last"),
    _g("no shared memory for the client", "filter.py", "            theirs = reader.fields(\"L\").number(0) & _VERSION_BITS\n", "            theirs = reader.fields(\"L\").number(0)\n            self.down.add(frames.command(Command.REPLY, tag, encode(\"L\", [theirs])))\n", _F, "shares_no_memory"),
    _g("no shared memory for the server", "filter.py", "version = min(fields.number(0) & _VERSION_BITS, VERSION)", "version = fields.number(0)", _F, "shares_no_memory"),
    _g("our own cookie", "filter.py", "encode(\"Lx\", [version, self._cookie])", "encode(\"Lx\", [version, fields[1]])", _F, "shares_no_memory"),
    _g("tags of our own", "filter.py", "        tag = self._next_tag\n", "        tag = 7\n", _F, "one_tag"),
    _g("handshake deadline", "filter.py", "        if not self.ready and now >= self._give_up:\n", "        if False:\n", _F, "deadline"),
    _g("outstanding commands", "filter.py", "            len(self._pending) >= limits.PULSE_OUTSTANDING\n            or len", "            len", _F, "outstanding"),
    _g("who does not read", "filter.py", "            or len(self.down.data) > limits.PULSE_QUEUE_BYTES\n", "", _F, "does_not_read"),
    _g("pace of commands", "filter.py", "            self.slow_down(self._pace.take(self.now))\n", "", _F, "come_no_faster"),
    _g("connections", "filter.py", "        if sandbox.connections > limits.PULSE_CONNECTIONS:\n", "        if False:\n", _F, "connections_of_a_sandbox"),
    _g("titles", "filter.py", "        if self.sandbox.titles.take(self.now) > 0:\n", "        if False:\n", _F, "titles"),
    _g("own streams by index", "filter.py", "        stream = self.sandbox.playbacks.get(index)\n        if stream is None:\n", "        stream = self.sandbox.playbacks.get(index) or next(iter(self.sandbox.playbacks.values()), None)\n        if stream is None:\n", _F, "foreign_indexes"),
    _g("shared memory frames", "frames.py", "        elif flags > _SEEKS:\n", "        elif False:\n", "test_frames.py", "shared_memory"),
    _g("own inputs only", "looking.py", "        if stream is not None:\n            found", "        stream = stream or next(iter(f.sandbox.playbacks.values()), None)\n        if stream is not None:\n            found", _F, "become_anothers"),
    _g("others' changes", "serverside.py", "        and stream is not None\n", "", _F, "others_not"),
    _g("where it moved to", "serverside.py", "    fields[1], fields[2] = view.DEVICE, view.SINK_NAME\n", "    fields[2] = fields.text(2) or \"\"\n", _F, "rewritten"),
    _g("property list", "properties.py", "key: clean_text(untrusted[key]) for key in sorted(ALLOWED) if key in untrusted", "key: clean_text(untrusted[key]) for key in sorted(untrusted)", _F, "nothing_else"),
    _g("hidden characters", "properties.py", '"_" if unicodedata.category(c) in _HIDDEN else c', "c", _F, "nothing_else"),
    _g("the label", "properties.py", 'f"{self._prefix} {text}".rstrip() if key in LABELLED else text', "text", _F, "label"),
    _g("coded sound", "properties.py", "        if form.encoding in {_ENCODING_ANY, PCM}\n", "", _P, "coded"),
    _g("our device", "playing.py", "    fields[_SINK], fields[_SINK_NAME] = INVALID, rules.sink\n", "", _P, "our_terms"),
    _g("largest buffer", "latency.py", "max(min(asked.buffer, most), ", "max(asked.buffer, ", _P, "our_terms or buffers"),
    _g("sizes of a new stream", "playing.py", "    _set_sizes(f, fields)\n", "", _L, "asked_for"),
    _g("sizes of a stream that runs", "playing.py", "    fields[1], fields[2], fields[4] = held.buffer, held.target, held.request\n", "", _L, "no_shorter"),
    _g("the least buffer", "latency.py", "max(min(asked.buffer, most), _PIECES * least)", "min(asked.buffer, most)", _L, "at_the_limits"),
    _g("the least target", "latency.py", "        target = max(asked.target, _PIECES * least)\n", "        target = asked.target\n", _L, "at_the_limits"),
    _g("the least request", "latency.py", "        request = max(request, least)\n", "", _L, "at_the_limits"),
    _g("a device between two requests", "latency.py", "        if times * request + device > target:\n", "        if False:\n", _L, "at_the_limits"),
    _g("the least fragment", "recording.py", "    return max(least_fragment(spec), most)\n", "    return max(one, most)\n", _R, "fragments_at"),
    _g("one way for orders", "playing.py", "    if stream.owner is f:\n", "    if True:\n", _Y, "take_one_way"),
    _g("orders on another's connection", "playing.py", "    if stream.owner is not f and stream.owner.is_crowded:\n", "    if False:\n", _Y, "wait_for_no_end"),
    _g("the person is faster", "playing.py", "        if (f.sandbox.rules.volume, f.sandbox.level) != (most, level):\n", "        if False:\n", _Y, "person_is_heard"),
    _g("last words are silent", "filter.py", "        self.down.silence()  # no revoke finds what still leaves\n", "", _R, "connections_end"),
    _g("commands behind what is thrown away", "playback.py", "        self._held.clear()\n        self._send()\n", "        self._held.clear()\n", _Y, "a_drain"),
    _g("commands of a stream that is ended", "playback.py", "        self.flush()\n        self.end()\n", "        self.end()\n", _Y, "a_drain"),
    _g("commands of a stream that the server ends", "serverside.py", "    stream.flush()\n", "", _Y, "a_drain"),
    _g("commands behind the end of a stream", "playing.py", "        stream.flush()  # what was said behind it, too, is answered\n", "", _Y, "a_drain"),
    _g("what the server made of it", "playing.py", "    if not _within(f, spec):\n        f.ask", "    if False:\n        f.ask", _P, "taken_back"),
    _g("streams", "filter.py", "        if own >= limits.PULSE_STREAMS_PER_CONNECTION or not self.sandbox.has_room():\n", "        if False:\n", _P, "at_the_limit"),
    _g("streams on their way", "sandbox.py", "        return there + coming < self.rules.streams\n", "        return there < self.rules.streams\n", _P, "being_made"),
    _g("at most 100 %", "sandbox.py", "min(one, most) * gain", "one * gain", _P, "louder"),
    _g("the person's mute", "playback.py", "        return self.muted or self.owner.sandbox.level.muted\n", "        return self.muted\n", _P, "unmute"),
    _g("credit", "playback.py", "        count = min(len(self._held), max(0, self.credit))\n", "        count = len(self._held)\n", _P, "held_at_the_limit or stops_in"),
    _g("credit of whole frames", "playback.py", "            count > self.credit\n            or self._held\n", "            self._held\n", _P, "short_way"),
    _g("nothing overtakes", "playback.py", "            or self._held\n", "", _P, "short_way"),
    _g("whole sample frames", "playback.py", "            if size % self._frame_bytes:\n", "            if False:\n", _P, "short_way"),
    _g("a frame inside a frame", "filter.py", "if plain is None or not self._client.between or", "if plain is None or", _P, "short_way"),
    _g("no command as samples", "frames.py", "        if channel == INVALID or (sizes and", "        if (sizes and", _P, "short_way"),
    _g("plain samples only", "frames.py", " or high or low or flags:", ":", _P, "short_way"),
    _g("what is held", "playback.py", "        kept = part.data[: max(0, room)]\n", "        kept = part.data\n", _P, "held_at_the_limit"),
    _g("a flood ends", "playback.py", "        if self._excess > limits.PULSE_EXCESS_BYTES:\n", "        if False:\n", _P, "flood"),
    _g("rewinding", "playback.py", "        if self._rewound > limits.PULSE_REWIND_BURST:\n", "        if False:\n", _P, "rewinding"),
    _g("pace of a sandbox", "filter.py", "            self.slow_down(self.sandbox.pace.take(self.now))\n", "", _F, "through_many"),
    _g("pace of streams", "playing.py", "    f.creating += 1\n    f.slow_down(f.sandbox.births.take(f.now))\n", "    f.creating += 1\n", _F, "opened_no_faster"),
    _g("pace of sizes", "playing.py", "a new stream does.\n    f.slow_down(f.sandbox.births.take(f.now))\n", "a new stream does.\n", _L, "changed_no_faster"),
    _g("news that nobody reads", "filter.py", "            if len(self.down.data) > 2 * limits.PULSE_QUEUE_BYTES:\n", "            if False:\n", _F, "pile_up"),
    _g("names of applications", "properties.py", "            if len(self._names) < limits.PULSE_NAMES:\n", "            if True:\n", _F, "names_of_applications"),
    _g("whole samples to seek to", "playback.py", "        if part.offset % self._frame_bytes or not", "        if not", _P, "seek_goes"),
    _g("how far a seek goes", "playback.py", " or not least <= part.offset <= most:", ":", _P, "seek_goes"),
    _g("seeks of little", "playback.py", "max(part.size, limits.PULSE_REWIND_LEAST_BYTES)", "part.size", _P, "seeks_of_little"),
    _g("small frames", "playback.py", "            if not self._small:\n                return False\n            self._small -= 1\n        return True", "            pass\n        return True", _P, "small_frames_at"),
    _g("small frames on the short way", "playback.py", "                if not small:\n", "                if False:\n", _P, "small_frames_at"),
    _g("what formats leave open", "playing.py", "    fields[_SPEC], fields[_FORMATS] = spec, []\n", "    fields[_SPEC] = spec\n", _P, "leaves_open"),
    _g("places of loudspeakers", "samples.py", "        one < limits.PULSE_POSITIONS for one in positions\n", "        True for one in positions\n", _P, "loudspeakers"),
    _g("streams that belong together", "playing.py", "    fields[_SYNC] = f.new_sync()\n", "", _P, "belong_together"),
    _g("the least rate", "playing.py", "    return least <= spec.rate <=", "    return spec.rate <=", _P, "rates_at"),
    _g("rates that change", "playing.py", "    if not stream.variable:", "    if False:", _P, "rates_at"),
    _g("how far rates change", "playing.py", "    drift = made * limits.PULSE_RATE_DRIFT_PERCENT // 100\n", "    drift = made\n", _P, "rates_at"),
    _g("denied microphone", "recording.py", "    if rules.microphone is Microphone.DENY or f.sandbox.hidden:\n", "    if f.sandbox.hidden and rules.microphone is not Microphone.DENY:\n", _R, "denied"),
    _g("not before it is allowed", "recording.py", "not self.owner.sandbox.allowed or self.corked", "self.corked", _R, "granted_and_revoked or right_pace"),
    _g("no monitor", "recording.py", "            if fields.number(8) != INVALID:\n", "            if False:\n", _R, "monitor_is_never"),
    _g("the source asked for", "recording.py", "fields.text(7) != name or fields.spec(4) != self.spec", "False", _R, "another_source"),
    _g("moved to a monitor", "recording.py", "            if name is not None and not name.endswith(\".monitor\"):\n", "            if True:\n", _R, "moved_to"),
    _g("a revoke on its way", "recording.py", "            if self._opening is not token:\n                f.ask", "            if False:\n                f.ask", _R, "being_opened"),
    _g("a revoke closes", "sandbox.py", "                recording.deafen(now)\n        for member in self.members.values():\n            member.down.silence()\n\n    def rest", "                pass\n        for member in self.members.values():\n            member.down.silence()\n\n    def rest", _R, "granted_and_revoked"),
    _g("what has not left", "outgoing.py", "            self.data[first:last] = bytes([fill]) * (last - first)\n", "", _R, "not_left"),
    _g("recordings that nobody reads", "recording.py", "            if len(self.owner.down.data) <= limits.PULSE_QUEUE_BYTES:\n                self.owner.down.add(", "            if True:\n                self.owner.down.add(", _R, "does_not_read"),
    Guard("samples wait for the server", _SHELL, "            return Turn.MINE if turn is Turn.PERHAPS and core.stalled else turn\n", "            return turn\n", _SHELL_TEST, "reads_late"),
    Guard("requests wait for the client", _SHELL, "        if len(core.down.data) > limits.PULSE_QUEUE_BYTES:\n            return Turn.MINE\n", "", _SHELL_TEST, "reads_late"),
    Guard("clients at one time", _SHELL, "            held.enter_context(service.places.one())\n", "", _SHELL_TEST, "no_more_connections"),
    Guard("pace of clients", "broker/session/accepting.py", "                await trio.sleep(pace.take(trio.current_time()))\n", "                pace.take(trio.current_time())\n", "tests/broker/session/test_accepting.py", "beyond_a_pace"),
    Guard("streams of sound at one time", "broker/session/sound_places.py", "        if self._taken >= most:\n", "        if False:\n", _GUEST_TEST, "beyond_the_limit"),
    Guard("pace of streams of sound", _GUEST, "            await trio.sleep(self.places.pace.take(trio.current_time()))\n", "", _GUEST_TEST, "at_a_pace"),
    Guard("nobody is read behind a close", "broker/session/readiness.py", "        self._unregister(watch)\n        del", "        del", "tests/broker/session/test_readiness.py", "whatever_other"),
    Guard("windows beside sound", "broker/session/readiness.py", "            if ready or timeout <= 0:\n", "            if timeout <= 0:\n", "tests/broker/session/test_readiness.py", "without_end"),
)  # fmt: skip


if __name__ == "__main__":
    main(GUARDS)
