/* What a compiled loop would take for a diff's spans: a peer of the benchmark.
 *
 * The broker does not use it: FIGURES.md says what it would gain.  Checks are those of
 * broker/jail/wayland/waypipe/files.py.  Returns the number of spans, -1 for a bad diff.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

long copy_spans(uint8_t *into, size_t size, const uint8_t *diff, size_t length)
{
    const size_t words = size / 4;
    size_t at = 0;
    long spans = 0;

    while (at < length) {
        uint32_t start, end;
        size_t bytes;

        if (length - at < 8)
            return -1;
        memcpy(&start, diff + at, 4);
        memcpy(&end, diff + at + 4, 4);
        at += 8;
        if (start >= end || end > words)
            return -1;
        bytes = (size_t)(end - start) * 4;
        if (bytes > length - at)
            return -1;
        memcpy(into + (size_t)start * 4, diff + at, bytes);
        at += bytes;
        spans++;
    }
    return spans;
}
