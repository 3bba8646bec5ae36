/* The fuzz target of _portmux.c; fuzz/port_mux.py compiles and runs it.
 *
 * A guest, a broker and a clock play with the program's core.  Each session is
 * drawn from its own number.  An honest session must never be refused, and each
 * byte of it must arrive once and in order; a hostile one breaks the protocol
 * somewhere and is watched by the invariants and the sanitizers from there on.
 *
 *     port_mux SECONDS SEED STEPS
 */
#define PORTMUX_FUZZ
#include <stddef.h>
#include "../broker/host/vmm/_portmux.c"

enum { FDS = 512, FIRST_FD = 1000 };

static uint64_t state;

static uint32_t rnd(uint32_t below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return below ? (uint32_t)(state >> 32) % below : 0;
}

static uint64_t session;

static void found(const char *what)
{
	fprintf(stderr, "FOUND in session %llu: %s\n", (unsigned long long)session, what);
	abort();
}

/* The n-th byte of a stream; of no period that a ring's size hides. */
static unsigned char nth(uint32_t n)
{
	return (unsigned char)(n + (n >> 8) * 7 + (n >> 16) * 13);
}

#define must(truth) ((truth) ? (void)0 : found(#truth))

/* -- the broker's connections -------------------------------------------------- */

static struct connection {
	bool open, ended, broken;
	uint32_t read, written;
} fds[FDS];
static int open_fds;
static bool honest;
/* Drawn for each session: how many streams, and a broker that takes little of much. */
static uint32_t few;
static bool bulk;

static int far_connect(const char *uds, uint32_t port)
{
	(void)uds;
	if (port % 7 == 0) {
		errno = rnd(2) ? EAGAIN : ENOENT;
		return -1;
	}
	for (int i = 0; i < FDS; i++)
		if (!fds[i].open) {
			fds[i] = (struct connection){ .open = true };
			open_fds++;
			return FIRST_FD + i;
		}
	found("more connections than streams");
	return -1;
}

static struct connection *at(int fd)
{
	must(fd >= FIRST_FD && fd < FIRST_FD + FDS && fds[fd - FIRST_FD].open);
	return &fds[fd - FIRST_FD];
}

static ssize_t far_read(int fd, void *data, size_t size)
{
	struct connection *c = at(fd);
	unsigned char *p = data;

	must(size > 0 && !c->ended);
	switch (rnd(bulk ? 800 : 12)) {
	case 0:
		errno = EAGAIN;
		return -1;
	case 1:
		c->ended = true;
		return 0;
	case 2:
		c->ended = true;
		errno = ECONNRESET;
		return -1;
	}
	size_t n = 1 + rnd(rnd(4) ? 200 : (uint32_t)size);
	n = n < size ? n : size;
	for (size_t i = 0; i < n; i++)
		p[i] = nth(c->read++);
	return (ssize_t)n;
}

static ssize_t far_write(int fd, struct iovec *parts, int count)
{
	struct connection *c = at(fd);
	ssize_t done = 0;

	must(!c->broken);
	if (rnd(bulk ? 2 : 6) == 0) {
		errno = EAGAIN;
		return -1;
	}
	if (rnd(bulk ? 4000 : 200) == 0) {
		c->broken = true;
		errno = EPIPE;
		return -1;
	}
	bool all = !bulk && rnd(2);
	for (int k = 0; k < count; k++) {
		size_t n = all ? parts[k].iov_len : rnd((uint32_t)parts[k].iov_len + 1);
		const unsigned char *p = parts[k].iov_base;
		for (size_t i = 0; i < n; i++, c->written++)
			if (honest)
				must(p[i] == nth(c->written));
		done += (ssize_t)n;
		if (n < parts[k].iov_len)
			break;
	}
	if (!done) {
		errno = EAGAIN;
		return -1;
	}
	return done;
}

static void far_end(int fd)
{
	at(fd);
}

static void far_close(int fd)
{
	at(fd)->open = false;
	open_fds--;
}

/* -- the guest ---------------------------------------------------------------- */

static struct mux m;

static struct guest_stream {
	bool open, accepted, sent_end, got_end, sent_close, got_close, grown;
	uint32_t may_send, owes, sent, got;
} guest[STREAMS];

static unsigned char to_host[1 << 20];
static size_t pending;
static uint64_t steps, frames, refusals, bytes, wrapped, grown;

static void queue(unsigned type, int number, uint32_t value)
{
	if (pending + HEADER_BYTES > sizeof to_host)
		return;
	put_header(to_host + pending, (enum type)type, number, value);
	pending += HEADER_BYTES;
	frames++;
}

static void guest_frees(struct guest_stream *g)
{
	if (g->sent_close && g->got_close)
		*g = (struct guest_stream){ 0 };
}

static void guest_sends(void)
{
	int number = (int)rnd(rnd(3) || bulk ? few : STREAMS);
	struct guest_stream *g = &guest[number];

	if (!g->open) {
		*g = (struct guest_stream){ .open = true, .may_send = WINDOW_BYTES };
		queue(OPEN, number, rnd(50));
		return;
	}
	if (g->sent_close)
		return;
	switch (rnd(8)) {
	case 0:
		if (rnd(bulk ? 400 : 2) == 0 && !g->sent_end) {
			g->sent_end = true;
			queue(SHUTDOWN, number, 0);
		}
		break;
	case 1:
		if (rnd(bulk ? 400 : 2) == 0) {
			g->sent_close = true;
			queue(CLOSE, number, 0);
			guest_frees(g);
		}
		break;
	case 2:
		if (g->owes) {
			uint32_t credit = 1 + rnd(g->owes);
			g->owes -= credit;
			if (!g->grown && rnd(4) == 0) {
				g->grown = true;
				credit += LARGE_BYTES - WINDOW_BYTES;
			}
			queue(CREDIT, number, credit);
		}
		break;
	default: {
		uint32_t n = 1 + rnd(!bulk && rnd(5) ? 300 : FRAME_BYTES - HEADER_BYTES);
		n = n < g->may_send ? n : g->may_send;
		if (g->sent_end || !n || pending + HEADER_BYTES + n > sizeof to_host)
			break;
		g->may_send -= n;
		queue(DATA, number, n);
		for (uint32_t i = 0; i < n; i++)
			to_host[pending++] = nth(g->sent++);
		bytes += n;
	}
	}
}

static void guest_breaks(void)
{
	honest = false;
	if (rnd(4) == 0) {
		for (int i = 0; i < 64 && pending < sizeof to_host; i++)
			to_host[pending++] = (unsigned char)rnd(256);
		return;
	}
	static const uint32_t values[] = {
		0, 1, 100, FRAME_BYTES - HEADER_BYTES, FRAME_BYTES, WINDOW_BYTES,
		LARGE_BYTES + 1, 0x7fffffff, 0x80000000, 0xffffffff
	};
	queue(rnd(10), (int)rnd(rnd(2) ? 4 : 65536), values[rnd(10)]);
	if (rnd(20) == 0)
		to_host[pending - 7] = 1;
}

/* Read frames of the program's, and hold it to the protocol. */
static void guest_reads(void)
{
	static unsigned char from[4 * FRAME_BYTES + OUT_BYTES];
	static size_t held;
	size_t n = m.out_end - m.out_first;
	if (rnd(3))
		n = rnd((uint32_t)n + 1);
	if (!honest) {
		m.out_first += n;
		held = 0;
		return;
	}
	must(held + n <= sizeof from);
	memcpy(from + held, m.out + m.out_first, n);
	m.out_first += n;
	held += n;
	size_t p = 0;
	while (held - p >= HEADER_BYTES) {
		const unsigned char *h = from + p;
		int number = h[2] | h[3] << 8;
		uint32_t value = (uint32_t)h[4] | (uint32_t)h[5] << 8 | (uint32_t)h[6] << 16
		               | (uint32_t)h[7] << 24;
		if (h[0] == DATA && held - p < HEADER_BYTES + value)
			break;
		p += HEADER_BYTES;
		must(h[1] == 0);
		if (h[0] == HELLO) {
			queue(HELLO, VERSION, value);
			continue;
		}
		must(number < STREAMS && guest[number].open && !guest[number].got_close);
		struct guest_stream *g = &guest[number];
		switch (h[0]) {
		case ACCEPT:
			must(!g->accepted);
			g->accepted = true;
			break;
		case DATA:
			must(g->accepted && !g->got_end && value > 0);
			must(value <= FRAME_BYTES - HEADER_BYTES);
			for (uint32_t i = 0; i < value; i++)
				must(from[p + i] == nth(g->got++));
			p += value;
			g->owes += value;
			must(g->owes <= (g->grown ? LARGE_BYTES : WINDOW_BYTES));
			bytes += value;
			break;
		case SHUTDOWN:
			must(g->accepted && !g->got_end);
			g->got_end = true;
			break;
		case CREDIT:
			must(value > 0);
			g->may_send += value;
			must(g->may_send <= LARGE_BYTES);
			break;
		case CLOSE:
			g->got_close = true;
			guest_frees(g);
			break;
		default:
			found("a frame of no known type");
		}
	}
	memmove(from, from + p, held - p);
	held -= p;
}

static void check(void)
{
	int live = 0, large = 0;
	for (int i = 0; i < STREAMS; i++) {
		const struct stream *s = &m.streams[i];
		must(s->state == FREE || i < m.top);
		must((s->state == LIVE) == (s->fd >= 0));
		must(s->held <= s->window && s->first <= s->window);
		must(!s->held || s->ring);
		wrapped += s->first + s->held > s->window;
		must(s->may_send <= LARGE_BYTES);
		must(s->state == GONE || s->may_take + s->held + s->taken <= s->window);
		large += s->window == LARGE_BYTES;
		live += s->fd >= 0;
	}
	must(live == open_fds);
	must(large == m.large && large <= LARGE_STREAMS);
	grown += large;
	must(m.out_first <= m.out_end && m.out_end <= OUT_BYTES);
}

static bool step(bool may_break)
{
	switch (rnd(9)) {
	case 0: case 1: case 2:
		if (may_break && rnd(10) == 0)
			guest_breaks();
		else if (m.greeted || !honest)
			guest_sends();
		break;
	case 3: case 4: {
		size_t n = pending ? 1 + rnd((uint32_t)pending) : 0;
		bool whole = rnd(2);
		n = whole ? pending : n;
		if (!take(&m, to_host, n)) {
			must(m.reason[0]);
			if (honest)
				found(m.reason);
			return false;
		}
		memmove(to_host, to_host + n, pending - n);
		pending -= n;
		break;
	}
	case 5:
		for (int i = m.top - 1; i >= 0; i--)
			answer(&m, i);
		break;
	case 6:
		guest_reads();
		break;
	case 7:
		m.now += rnd(3000);
		for (int i = 0; i < m.top; i++)
			look_at_clock(&m, &m.streams[i]);
		break;
	default:
		for (int i = 0; i < m.top; i++)
			if (rnd(2) && m.streams[i].state == LIVE) {
				static const short seen[] = {
					POLLIN, POLLOUT, POLLIN | POLLOUT, POLLIN | POLLHUP
				};
				serve_stream(&m, &m.streams[i], seen[rnd(4)]);
			}
	}
	steps++;
	return true;
}

static void forget_all(void)
{
	for (int i = 0; i < STREAMS; i++)
		if (m.streams[i].fd >= 0)
			far_close(m.streams[i].fd);
	for (int i = 0; i < STREAMS; i++)
		free(m.streams[i].ring);
	while (m.spares)
		free(m.spare[--m.spares]);
	must(!open_fds);
	memset(&m, 0, offsetof(struct mux, out));
	memset((char *)&m + offsetof(struct mux, spare), 0,
	       sizeof m - offsetof(struct mux, spare));
	m.out_first = m.out_end = 0;
	memset(guest, 0, sizeof guest);
	pending = 0;
}

int main(int argc, char **argv)
{
	if (argc != 4)
		return 2;
	double seconds = strtod(argv[1], NULL);
	uint64_t seed = strtoull(argv[2], NULL, 10);
	uint64_t most = strtoull(argv[3], NULL, 10);
	time_t until = time(NULL) + (time_t)seconds;
	uint64_t sessions = 0;

	for (; steps < most && time(NULL) < until; sessions++) {
		session = seed + sessions;
		state = (session + 1) * 0x9e3779b97f4a7c15u;
		rnd(0);
		honest = true;
		bool may_break = rnd(3) == 0;
		bulk = rnd(3) == 0;
		few = bulk ? 1 : 4;
		uint32_t length = 1 + rnd(rnd(20) ? 400 : 8000);
		start(&m, "/nowhere", (uint32_t)session);
		for (uint32_t i = 0; i < length && step(may_break); i++)
			if (i % 16 == 0)
				check();
		check();
		refusals += m.reason[0] != 0;
		/* Drops what the reader holds of this session. */
		honest = false;
		guest_reads();
		forget_all();
	}
	printf("{\"sessions\": %llu, \"steps\": %llu, \"frames\": %llu, \"bytes\": %llu, "
	       "\"wrapped\": %llu, \"grown\": %llu, \"refused\": %llu}\n", (unsigned long long)sessions,
	       (unsigned long long)steps, (unsigned long long)frames,
	       (unsigned long long)bytes, (unsigned long long)wrapped,
	       (unsigned long long)grown,
	       (unsigned long long)refusals);
	return 0;
}
