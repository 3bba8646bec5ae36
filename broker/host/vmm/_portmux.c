/* One machine's connections over one virtio-serial port.
 *
 * The program that takes vhost-device-vsock's place for a machine which shares
 * its parent's memory (port_mux.py has the wire and the reasons).  One end is
 * a socket that QEMU carries to the guest's port, the others are connections to
 * the broker's sockets, <uds>_<port>, each made when the guest opens a stream.
 *
 * The guest writes every byte that comes from QEMU, so every number in it is
 * checked here and a wrong one ends the program, and the machine with it.
 * Nothing waits for one stream: what the broker does not take yet is held, at
 * most WINDOW bytes of each stream, and the broker is not read beyond what the
 * guest has asked for.  Frames of ours are not queued: what a stream owes the
 * guest is a number or a flag in it until there is room.
 *
 *     _portmux FD UDS
 *
 * It ends with code 0 when QEMU closes its end, and with 1 and one line on
 * standard error when the guest breaks the protocol or the system fails it.
 */
#define _GNU_SOURCE
/* A machine's port is divided by a program without Python. Each machine that shares
   memory has a process on the host that divides its port into connections (frames).
   * It is a program in C, linked as one, and not a module that a small Python process
     loads: idle it has 0.14 MiB (Pss) instead of 3, and such machines exist to be many.
     It needs no file but libc, so its jail shows it none of our files.
   * Only the guest opens streams, and chooses their numbers: what a stream owes (an
     answer, credit, its end) is a field of one of 300 entries, so frames for a guest
     that reads nothing are never queued.
   * OPEN is answered, though a UNIX socket in the guest has accepted the program long
     before: without the answer the agent took a refused connection for one that had
     ended, sent output that waited into it, and lost it. So the first byte that a
     program reads at these sockets is the answer. Before the host's HELLO it is ENODEV,
     at once: a connection that waited in a parent would be opened by each of its copies.
   * A CLOSE delivers all data that was sent before it, and is answered by one. A number
     is free when both ends have sent theirs; no frame can then be of an earlier stream.
   * In the guest the other end is forked from the agent, not started: an emulated
     processor takes half a second for Python's start, and the pages are the agent's. */

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* As in port_mux.py; a test compares them. */
enum {
	VERSION = 1,
	HEADER_BYTES = 8,
	FRAME_BYTES = 65536,    /* with its header */
	STREAMS = 300,
	WINDOW_BYTES = 262144,  /* of each stream and direction, at its begin */
	LARGE_BYTES = 1048576,  /* of one whose reader keeps up */
};

enum type { HELLO = 1, OPEN, ACCEPT, DATA, SHUTDOWN, CREDIT, CLOSE };

enum {
	IN_BYTES = 262144,
	OUT_BYTES = 131072,
	PIECE_BYTES = FRAME_BYTES - HEADER_BYTES,  /* of one read from the broker */
	LEAST_BYTES = 4096,     /* less room than this is none, or frames become crumbs */
	LARGE_STREAMS = 16,     /* with so large a window for the guest's bytes */
	SPARE_RINGS = 4,
	CONNECT_MS = 5000,      /* while the broker's backlog is full */
	RETRY_MS = 20,
	DRAIN_MS = 10000,       /* from the guest's CLOSE to the broker's last read */
};

enum state {
	FREE,                   /* the guest may open it */
	CONNECTING,             /* the broker's backlog is full */
	LIVE,                   /* fd is a connection to the broker */
	GONE,                   /* waits for a CLOSE, or to send one */
};

struct stream {
	enum state state;
	int fd;
	uint32_t port;
	int64_t deadline;       /* of CONNECTING or of guest_closed, in ms */
	/* broker to guest */
	bool owe_accept;
	uint32_t may_send;      /* the credit that the guest has given */
	bool broker_ended;      /* nothing more to read */
	bool owe_shutdown;
	/* guest to broker; may_take + held + taken is at most the window */
	uint32_t window;        /* WINDOW_BYTES or LARGE_BYTES */
	uint32_t may_take;      /* what the guest may still send */
	uint32_t held, first;   /* in the ring */
	uint32_t taken;         /* by the broker, and not yet given back as credit */
	unsigned char *ring;    /* as large as the window, or none */
	bool broken;            /* the broker takes no more: discard */
	bool guest_ended;       /* SHUTDOWN came */
	bool passed_end;        /* and was passed on */
	/* both */
	bool guest_closed, owe_close, sent_close;
	uint32_t why;           /* errno of our CLOSE */
};

struct mux {
	int qemu;
	const char *uds;
	uint32_t nonce;
	bool greeted;
	int64_t now;            /* CLOCK_MONOTONIC, in ms */
	unsigned turn;          /* which stream is read first */
	int top;                /* one more than the highest number in use */
	/* the frame that is being read */
	unsigned char header[HEADER_BYTES];
	size_t has;
	struct stream *current;
	uint32_t left;          /* of its DATA */
	/* frames for the guest */
	unsigned char out[OUT_BYTES];
	size_t out_first, out_end;
	unsigned char in[IN_BYTES];
	unsigned char *spare[SPARE_RINGS];
	int spares;
	int large;              /* streams whose window is LARGE_BYTES */
	char reason[200];
	struct stream streams[STREAMS];
};

/* -- the system; the fuzz target brings its own ------------------------------- */

static int far_connect(const char *uds, uint32_t port);
static ssize_t far_read(int fd, void *data, size_t size);
static ssize_t far_write(int fd, struct iovec *parts, int count);
static void far_end(int fd);
static void far_close(int fd);

#ifndef PORTMUX_FUZZ
static int64_t clock_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* A connection to the broker, or -1 and errno; EAGAIN: its backlog is full. */
static int far_connect(const char *uds, uint32_t port)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	const int flags = SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK;
	const size_t room = sizeof address.sun_path;

	if ((size_t)snprintf(address.sun_path, room, "%s_%u", uds, port) >= room) {
		errno = ENAMETOOLONG;
		return -1;
	}
	int fd = socket(AF_UNIX, flags, 0);
	if (fd < 0)
		return -1;
	if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
		int error = errno;
		close(fd);
		errno = error;
		return -1;
	}
	return fd;
}

static ssize_t far_read(int fd, void *data, size_t size)
{
	return recv(fd, data, size, MSG_DONTWAIT);
}

static ssize_t far_write(int fd, struct iovec *parts, int count)
{
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = (size_t)count };
	return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void far_end(int fd)
{
	shutdown(fd, SHUT_WR);
}

static void far_close(int fd)
{
	close(fd);
}
#endif

/* -- the end of everything ------------------------------------------------------ */

__attribute__((format(printf, 2, 3)))
static bool refuse(struct mux *m, const char *format, ...)
{
	va_list words;
	va_start(words, format);
	vsnprintf(m->reason, sizeof m->reason, format, words);
	va_end(words);
	return false;
}

static const char *name_of(unsigned type)
{
	static const char *const names[] = {
		"?", "HELLO", "OPEN", "ACCEPT", "DATA", "SHUTDOWN", "CREDIT", "CLOSE"
	};
	return type < sizeof names / sizeof *names ? names[type] : names[0];
}

/* -- frames for the guest --------------------------------------------------------- */

static size_t room(struct mux *m)
{
	if (m->out_first == m->out_end)
		m->out_first = m->out_end = 0;
	if (OUT_BYTES - m->out_end < HEADER_BYTES + LEAST_BYTES && m->out_first) {
		memmove(m->out, m->out + m->out_first, m->out_end - m->out_first);
		m->out_end -= m->out_first;
		m->out_first = 0;
	}
	return OUT_BYTES - m->out_end;
}

static void put_header(unsigned char *p, enum type type, int stream, uint32_t value)
{
	p[0] = (unsigned char)type;
	p[1] = 0;
	p[2] = (unsigned char)stream;
	p[3] = (unsigned char)(stream >> 8);
	for (int i = 0; i < 4; i++)
		p[4 + i] = (unsigned char)(value >> 8 * i);
}

static bool put(struct mux *m, enum type type, int stream, uint32_t value)
{
	if (room(m) < HEADER_BYTES)
		return false;
	put_header(m->out + m->out_end, type, stream, value);
	m->out_end += HEADER_BYTES;
	return true;
}

/* -- streams ---------------------------------------------------------------------- */

static void give_ring(struct mux *m, struct stream *s)
{
	if (s->ring && s->window == WINDOW_BYTES && m->spares < SPARE_RINGS)
		m->spare[m->spares++] = s->ring;
	else
		free(s->ring);
	s->ring = NULL;
	s->held = s->first = 0;
}

/* Let the broker's connection go; the number waits until both have sent CLOSE. */
static void leave(struct mux *m, struct stream *s, int why)
{
	if (s->fd >= 0)
		far_close(s->fd);
	s->fd = -1;
	give_ring(m, s);
	if (s->window == LARGE_BYTES)
		m->large--;
	s->window = WINDOW_BYTES;
	s->state = GONE;
	s->owe_accept = s->owe_shutdown = false;
	s->owe_close = true;
	s->why = (uint32_t)why;
}

static void give_number(struct mux *m, struct stream *s)
{
	memset(s, 0, sizeof *s);
	s->fd = -1;
	while (m->top && m->streams[m->top - 1].state == FREE)
		m->top--;
}

static bool hold(struct mux *m, struct stream *s, const unsigned char *p, size_t n)
{
	if (!s->ring && s->window == WINDOW_BYTES && m->spares)
		s->ring = m->spare[--m->spares];
	if (!s->ring)
		s->ring = malloc(s->window);
	if (!s->ring)
		return refuse(m, "there is no memory for a stream");
	/* take_data() has seen to it. */
	if (n > s->window - s->held)
		return refuse(m, "a stream holds more than its window");
	size_t at = (s->first + s->held) % s->window;
	size_t part = n < s->window - at ? n : s->window - at;
	memcpy(s->ring + at, p, part);
	memcpy(s->ring, p + part, n - part);
	s->held += (uint32_t)n;
	return true;
}

/* The broker reads no more.  What it wrote before is still the guest's. */
static void discard(struct mux *m, struct stream *s)
{
	s->broken = true;
	give_ring(m, s);
}

/* What follows once the broker has taken everything that is held. */
static void settle(struct mux *m, struct stream *s)
{
	if (s->state != LIVE || s->held)
		return;
	if (s->guest_closed || (s->broker_ended && s->broken)) {
		leave(m, s, 0);
		return;
	}
	if (s->guest_ended && !s->passed_end) {
		s->passed_end = true;
		far_end(s->fd);
	}
	if (s->passed_end && s->broker_ended)
		leave(m, s, 0);
}

static void drain(struct mux *m, struct stream *s)
{
	while (s->held) {
		size_t to_end = s->window - s->first;
		struct iovec parts[2] = {
			{ s->ring + s->first, s->held < to_end ? s->held : to_end },
			{ s->ring, s->held < to_end ? 0 : s->held - to_end },
		};
		ssize_t n = far_write(s->fd, parts, parts[1].iov_len ? 2 : 1);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n < 0) {
			discard(m, s);
			break;
		}
		s->first = (uint32_t)((s->first + (size_t)n) % s->window);
		s->held -= (uint32_t)n;
		s->taken += (uint32_t)n;
	}
	if (!s->held)
		give_ring(m, s);
	settle(m, s);
}

/* Bytes of the guest's for the broker, within the window. */
static bool deliver(struct mux *m, struct stream *s, const unsigned char *p, size_t n)
{
	if (s->state == GONE || s->broken)
		return true;
	if (s->state == LIVE && !s->held) {
		struct iovec part = { (void *)(uintptr_t)p, n };
		ssize_t done = far_write(s->fd, &part, 1);
		if (done < 0 && errno != EAGAIN && errno != EINTR) {
			discard(m, s);
			settle(m, s);
			return true;
		}
		if (done > 0) {
			s->taken += (uint32_t)done;
			p += done;
			n -= (size_t)done;
		}
	}
	return !n || hold(m, s, p, n);
}

static void try_connect(struct mux *m, struct stream *s)
{
	s->fd = far_connect(m->uds, s->port);
	if (s->fd >= 0) {
		s->state = LIVE;
		s->owe_accept = true;
		drain(m, s);
	} else if (errno != EAGAIN || m->now >= s->deadline) {
		leave(m, s, errno);
	} else {
		s->state = CONNECTING;
	}
}

/* -- frames of the guest's -------------------------------------------------------- */

static bool take_open(struct mux *m, int number, uint32_t port)
{
	struct stream *s = &m->streams[number];

	/* guard: a stream's number is free before it is opened again */
	if (s->state != FREE)
		return refuse(m, "the guest opened stream %d twice", number);
	s->port = port;
	s->may_send = s->may_take = s->window = WINDOW_BYTES;
	s->deadline = m->now + CONNECT_MS;
	if (m->top <= number)
		m->top = number + 1;
	try_connect(m, s);
	return true;
}

static bool take_data(struct mux *m, struct stream *s, int number, uint32_t size)
{
	/* guard: a frame of the guest has a bounded length */
	if (!size || size > FRAME_BYTES - HEADER_BYTES)
		return refuse(m, "the guest sent DATA of %u bytes", size);
	/* guard: a guest sends no more than its window */
	if (size > s->may_take)
		return refuse(m, "the guest sent %u bytes in stream %d, where %u were allowed",
		              size, number, s->may_take);
	/* guard: a guest sends nothing behind its end */
	if (s->guest_ended)
		return refuse(m, "the guest sent DATA behind the end of stream %d", number);
	s->may_take -= size;
	m->current = s;
	m->left = size;
	return true;
}

static bool take_shutdown(struct mux *m, struct stream *s, int number)
{
	/* guard: a guest ends a stream once */
	if (s->guest_ended)
		return refuse(m, "the guest ended stream %d twice", number);
	s->guest_ended = true;
	settle(m, s);
	return true;
}

static bool take_credit(struct mux *m, struct stream *s, int number, uint32_t value)
{
	/* guard: a guest gives no more credit than the largest window */
	if (!value || value > LARGE_BYTES - s->may_send)
		return refuse(m, "the guest gave a credit of %u bytes for stream %d, "
		              "whose window has %u left", value, number, s->may_send);
	s->may_send += value;
	return true;
}

static void take_close(struct mux *m, struct stream *s)
{
	s->guest_closed = true;
	s->owe_accept = s->owe_shutdown = false;
	if (s->sent_close)
		give_number(m, s);
	else if (s->state == CONNECTING && !s->held)
		leave(m, s, 0);
	else if (s->state != GONE) {
		s->deadline = m->now + DRAIN_MS;
		settle(m, s);
	}
}

static bool take_hello(struct mux *m, unsigned type, int version, uint32_t nonce)
{
	/* guard: a guest's first frame answers this program's */
	if (type != HELLO || version != VERSION || nonce != m->nonce)
		return refuse(m, "the guest's first frame does not answer our HELLO");
	m->greeted = true;
	return true;
}

static bool take_frame(struct mux *m)
{
	const unsigned char *h = m->header;
	const unsigned type = h[0];
	const int number = h[2] | h[3] << 8;
	const uint32_t value = (uint32_t)h[4] | (uint32_t)h[5] << 8
	                     | (uint32_t)h[6] << 16 | (uint32_t)h[7] << 24;

	/* guard: a frame's unused byte is zero */
	if (h[1])
		return refuse(m, "the guest sent a frame whose second byte is %u", h[1]);
	if (!m->greeted)
		return take_hello(m, type, number, value);
	/* guard: a type of frame that the guest may not send ends it */
	if (type < OPEN || type == ACCEPT || type > CLOSE)
		return refuse(m, "the guest sent a frame of type %u", type);
	/* guard: a stream's number is within the table */
	if (number >= STREAMS)
		return refuse(m, "the guest sent %s for stream %d of %d",
		              name_of(type), number, STREAMS);
	if (type == OPEN)
		return take_open(m, number, value);

	struct stream *s = &m->streams[number];
	/* guard: a frame is for a stream that is open */
	if (s->state == FREE || s->guest_closed)
		return refuse(m, "the guest sent %s for stream %d, which is not open",
		              name_of(type), number);
	switch (type) {
	case DATA:
		return take_data(m, s, number, value);
	case SHUTDOWN:
		return take_shutdown(m, s, number);
	case CREDIT:
		return take_credit(m, s, number, value);
	default:
		take_close(m, s);
		return true;
	}
}

/* Bytes of the guest's, in whatever pieces; false: m->reason ends the program. */
static bool take(struct mux *m, const unsigned char *p, size_t n)
{
	while (n) {
		size_t part;
		if (m->left) {
			part = n < m->left ? n : m->left;
			m->left -= (uint32_t)part;
			if (!deliver(m, m->current, p, part))
				return false;
		} else {
			part = HEADER_BYTES - m->has;
			part = n < part ? n : part;
			memcpy(m->header + m->has, p, part);
			m->has += part;
			if (m->has == HEADER_BYTES) {
				m->has = 0;
				if (!take_frame(m))
					return false;
			}
		}
		p += part;
		n -= part;
	}
	return true;
}

/* -- from the broker to the guest ------------------------------------------------- */

static bool wants_read(struct mux *m, const struct stream *s)
{
	return s->state == LIVE && !s->owe_accept && !s->broker_ended && !s->guest_closed
	    && s->may_send && room(m) >= HEADER_BYTES + LEAST_BYTES;
}

/* Read once; closed: the broker has closed the connection, and not only its half. */
static void read_broker(struct mux *m, struct stream *s, bool closed)
{
	size_t most = room(m) - HEADER_BYTES;
	if (most > PIECE_BYTES)
		most = PIECE_BYTES;
	if (most > s->may_send)
		most = s->may_send;
	unsigned char *at = m->out + m->out_end;
	ssize_t n = far_read(s->fd, at + HEADER_BYTES, most);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0) {
		leave(m, s, errno);
	} else if (n == 0 && closed) {
		leave(m, s, 0);
	} else if (n == 0) {
		s->broker_ended = s->owe_shutdown = true;
		settle(m, s);
	} else {
		put_header(at, DATA, (int)(s - m->streams), (uint32_t)n);
		m->out_end += HEADER_BYTES + (size_t)n;
		s->may_send -= (uint32_t)n;
	}
}

/* Give back what the broker took, and a larger window where it keeps up.
 *
 * With a small one the guest waits for the credit of each half of it, and where it is
 * emulated that is a change of process each time.
 */
static void give_credit(struct mux *m, struct stream *s, int number)
{
	/* Where nothing is held there is no ring of the former size. */
	const bool grows = s->window == WINDOW_BYTES && !s->held && m->large < LARGE_STREAMS;
	const uint32_t credit = s->taken + (grows ? LARGE_BYTES - WINDOW_BYTES : 0);

	if (!put(m, CREDIT, number, credit))
		return;
	s->may_take += credit;
	s->taken = 0;
	if (grows) {
		s->window = LARGE_BYTES;
		m->large++;
	}
}

/* Send what a stream owes the guest, as far as there is room. */
static void answer(struct mux *m, int number)
{
	struct stream *s = &m->streams[number];

	if (s->owe_accept && put(m, ACCEPT, number, 0))
		s->owe_accept = false;
	if (s->state == LIVE && s->taken >= s->window / 2 && !s->guest_ended
	    && !s->guest_closed)
		give_credit(m, s, number);
	if (s->owe_shutdown && !s->owe_accept && put(m, SHUTDOWN, number, 0))
		s->owe_shutdown = false;
	if (s->owe_close && put(m, CLOSE, number, s->why)) {
		s->owe_close = false;
		s->sent_close = true;
		if (s->guest_closed)
			give_number(m, s);
	}
}

static void serve_stream(struct mux *m, struct stream *s, short seen)
{
	const bool closed = seen & (POLLHUP | POLLERR);

	if (s->held && seen & (POLLOUT | POLLHUP | POLLERR))
		drain(m, s);
	if (wants_read(m, s) && seen & (POLLIN | POLLHUP | POLLERR))
		read_broker(m, s, closed);
	else if (s->state == LIVE && s->broker_ended && closed)
		leave(m, s, 0);
}

/* Connections that wait for the broker, at most for so long. */
static void look_at_clock(struct mux *m, struct stream *s)
{
	if (s->state == CONNECTING)
		try_connect(m, s);
	else if (s->state == LIVE && s->guest_closed && m->now >= s->deadline)
		/* The broker reads it no more; the guest waits for the number. */
		leave(m, s, ETIMEDOUT);
}

static void start(struct mux *m, const char *uds, uint32_t nonce)
{
	m->uds = uds;
	m->nonce = nonce;
	for (int i = 0; i < STREAMS; i++)
		m->streams[i].fd = -1;
	put(m, HELLO, VERSION, nonce);
}

#ifndef PORTMUX_FUZZ
/* -- the loop ----------------------------------------------------------------------- */

struct watched {
	int count, timeout;
	struct pollfd fds[1 + STREAMS];
	int stream[1 + STREAMS];
};

static void watch(struct mux *m, struct watched *w)
{
	w->timeout = -1;
	w->count = 1;
	w->fds[0] = (struct pollfd){ .fd = m->qemu, .events = POLLIN };
	if (m->out_first < m->out_end)
		w->fds[0].events |= POLLOUT;
	/* The order in which streams are read moves on, so that none is always last. */
	m->turn++;
	for (int i = 0; i < m->top; i++) {
		int number = (int)((m->turn + (unsigned)i) % (unsigned)m->top);
		struct stream *s = &m->streams[number];
		if (s->state == CONNECTING)
			w->timeout = RETRY_MS;
		if (s->state != LIVE)
			continue;
		if (s->guest_closed && w->timeout < 0)
			w->timeout = DRAIN_MS / 10;
		short events = (short)((wants_read(m, s) ? POLLIN : 0)
		                     | (s->held ? POLLOUT : 0));
		/* A hang-up cannot be masked: what waits for nothing is not watched, but
		 * for one whose other half has ended and which may close at any time. */
		if (!events && !s->broker_ended)
			continue;
		w->fds[w->count] = (struct pollfd){ .fd = s->fd, .events = events };
		w->stream[w->count++] = number;
	}
}

static bool send_out(struct mux *m)
{
	while (m->out_first < m->out_end) {
		ssize_t n = send(m->qemu, m->out + m->out_first, m->out_end - m->out_first,
		                 MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return true;
		if (n < 0)
			return false;
		m->out_first += (size_t)n;
	}
	return true;
}

/* 1: goes on; 0: QEMU has closed; -1: m->reason. */
static int turn(struct mux *m)
{
	struct watched w;

	for (int i = m->top - 1; i >= 0; i--)
		answer(m, i);
	if (!send_out(m))
		return 0;
	watch(m, &w);
	if (poll(w.fds, (nfds_t)w.count, w.timeout) < 0 && errno != EINTR)
		return refuse(m, "poll: %s", strerror(errno)), -1;
	m->now = clock_ms();
	for (int i = 1; i < w.count; i++) {
		struct stream *s = &m->streams[w.stream[i]];
		if (w.fds[i].revents && s->fd == w.fds[i].fd)
			serve_stream(m, s, w.fds[i].revents);
	}
	if (w.timeout >= 0)
		for (int i = 0; i < m->top; i++)
			look_at_clock(m, &m->streams[i]);
	if (w.fds[0].revents & ~POLLOUT) {
		ssize_t n = recv(m->qemu, m->in, sizeof m->in, MSG_DONTWAIT);
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
			return 0;
		if (n > 0 && !take(m, m->in, (size_t)n))
			return -1;
	}
	return 1;
}

int main(int argc, char **argv)
{
	static struct mux m;
	uint32_t nonce;
	char *end = NULL;
	long fd = argc == 3 ? strtol(argv[1], &end, 10) : -1;

	if (fd < 0 || fd > INT32_MAX || *end) {
		fputs("usage: _portmux FD UDS\n", stderr);
		return 2;
	}
	if (getrandom(&nonce, sizeof nonce, 0) != sizeof nonce) {
		perror("getrandom");
		return 1;
	}
	m.qemu = (int)fd;
	m.now = clock_ms();
	start(&m, argv[2], nonce);
	int going;
	do
		going = turn(&m);
	while (going > 0);
	if (going < 0)
		fprintf(stderr, "%s\n", m.reason);
	return going < 0;
}
#endif
