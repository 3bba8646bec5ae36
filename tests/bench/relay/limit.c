/* The limit that relays are held against: accept, connect, splice; nothing else.
 *
 * One thread, one epoll set, level-triggered.  A direction has a 64 KiB pipe of
 * its own; a connection ends when both directions have, or at the first error.
 * No deadlines, no statistics, no limits: what a relay could be at best.
 *
 *   limit LISTEN_PATH CONNECT_PATH
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { FLOWING, BLOCKED, ENDED };
enum { PIPE = 65536, ROUNDS = 8, EVENTS = 256 };

struct end {
	int fd, state, pipe[2];       /* the direction that begins here */
	size_t held;
	unsigned mask;
	struct end *other;
	struct end *dead_next;
	int dead;
};

static int loop;
static struct end *dead;

static void die(const char *what) { perror(what); exit(1); }

static struct sockaddr_un address(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	strncpy(a.sun_path, path, sizeof a.sun_path - 1);
	return a;
}

static void watch(struct end *e)
{
	unsigned mask = (e->state == FLOWING ? EPOLLIN : 0)
	              | (e->other->state == BLOCKED ? EPOLLOUT : 0);
	struct epoll_event ev = { .events = mask, .data.ptr = e };
	if (mask == e->mask)
		return;
	int op = !mask ? EPOLL_CTL_DEL : e->mask ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
	if (epoll_ctl(loop, op, e->fd, &ev) < 0)
		die("epoll_ctl");
	e->mask = mask;
}

static void finish(struct end *e)
{
	struct end *both[2] = { e, e->other };
	for (int i = 0; i < 2; i++) {
		close(both[i]->fd);
		if (both[i]->pipe[0] >= 0) {
			close(both[i]->pipe[0]);
			close(both[i]->pipe[1]);
		}
		both[i]->dead = 1;
		both[i]->dead_next = dead;
		dead = both[i];
	}
}

/* Returns 0 when the connection is over because of an error. */
static int move(struct end *e)
{
	const unsigned flags = SPLICE_F_NONBLOCK | SPLICE_F_MOVE;
	if (e->pipe[0] < 0 && pipe2(e->pipe, O_NONBLOCK | O_CLOEXEC) < 0)
		return 0;
	for (int round = 0; round < ROUNDS; round++) {
		if (!e->held) {
			ssize_t n = splice(e->fd, 0, e->pipe[1], 0, PIPE, flags);
			if (n < 0) {
				e->state = FLOWING;
				return errno == EAGAIN;
			}
			if (n == 0) {
				shutdown(e->other->fd, SHUT_WR);
				e->state = ENDED;
				return 1;
			}
			e->held = n;
		}
		size_t filled = e->held;
		while (e->held) {
			ssize_t n = splice(e->pipe[0], 0, e->other->fd, 0, e->held, flags);
			if (n < 0) {
				e->state = BLOCKED;
				return errno == EAGAIN;
			}
			e->held -= n;
		}
		e->state = FLOWING;
		if (filled < PIPE / 4)
			break;
	}
	return 1;
}

static void turn(struct end *e, unsigned events)
{
	struct end *o = e->other;
	int fine = 1;
	if (events & ~EPOLLOUT && e->state == FLOWING)
		fine = move(e);
	if (fine && events & ~EPOLLIN && o->state == BLOCKED)
		fine = move(o);
	if (!fine || (e->state == ENDED && o->state == ENDED)) {
		finish(e);
		return;
	}
	watch(e);
	watch(o);
}

static void begin(int listener, const struct sockaddr_un *to)
{
	int a = accept4(listener, 0, 0, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (a < 0)
		return;
	int b = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (b < 0 || connect(b, (const void *)to, sizeof *to) < 0)
		die("connect");
	fcntl(b, F_SETFL, O_NONBLOCK);
	struct end *one = calloc(1, sizeof *one), *two = calloc(1, sizeof *two);
	if (!one || !two)
		die("calloc");
	*one = (struct end){ .fd = a, .pipe = { -1, -1 }, .other = two };
	*two = (struct end){ .fd = b, .pipe = { -1, -1 }, .other = one };
	watch(one);
	watch(two);
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	signal(SIGPIPE, SIG_IGN);
	struct rlimit files;
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	struct sockaddr_un from = address(argv[1]), to = address(argv[2]);
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	unlink(argv[1]);
	if (bind(listener, (void *)&from, sizeof from) < 0 || listen(listener, 4096) < 0)
		die("listen");
	loop = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event ev = { .events = EPOLLIN };
	epoll_ctl(loop, EPOLL_CTL_ADD, listener, &ev);
	for (;;) {
		struct epoll_event events[EVENTS];
		int n = epoll_wait(loop, events, EVENTS, -1);
		for (int i = 0; i < n; i++) {
			struct end *e = events[i].data.ptr;
			if (!e)
				begin(listener, &to);
			else if (!e->dead)
				turn(e, events[i].events);
		}
		/* Freed only now: an event of this batch may still name them. */
		while (dead) {
			struct end *e = dead;
			dead = e->dead_next;
			free(e);
		}
	}
}
