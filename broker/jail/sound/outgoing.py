"""Bytes that wait for one side, in which a microphone can still be silenced."""

from __future__ import annotations

from collections import deque


class PulseOutgoing:
    """A queue of bytes that remembers which of them come from the microphone."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._sent = 0
        self._heard: deque[tuple[int, int, int]] = deque()

    def add(self, data: bytes) -> None:
        """Queue some bytes."""
        self.data += data

    def add_heard(self, head: bytes, data: bytes, fill: int) -> None:
        """Queue samples of a real source; ``fill`` is what silences them."""
        start = self._sent + len(self.data) + len(head)
        self._heard.append((start, start + len(data), fill))
        self.data += head
        self.data += data

    def sent(self, count: int) -> None:
        """So many bytes have left."""
        del self.data[:count]
        self._sent += count
        while self._heard and self._heard[0][1] <= self._sent:
            self._heard.popleft()

    def silence(self) -> None:
        """Overwrite samples of a real source that are not sent yet."""
        for start, end, fill in self._heard:
            first = max(0, start - self._sent)
            last = end - self._sent
            # guard: samples that have not left
            self.data[first:last] = bytes([fill]) * (last - first)
        self._heard.clear()
