/* Both ends of the benchmark: a server, and clients that measure.
 *
 *   load serve PATH                        what the relays connect to
 *   load bulk PATH BYTES WRITE_SIZE        prints seconds
 *   load ping PATH COUNT                   prints p50 p99 p99.9 in us
 *   load many PATH STREAMS SECONDS         prints messages/s, p99 us, bulk bytes/s
 *   load setup PATH CLIENTS SECONDS        prints connections/s
 *   load idle PATH COUNT                   opens them, prints a line, waits for EOF
 *
 * A connection's first byte says what the server does with it: 'e' echoes
 * 64-byte messages, 's' swallows as many bytes as the next 8 say and answers
 * one byte, 'c' closes.  Nothing depends on half-close, which not every relay
 * keeps.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { MESSAGE = 64, BLOCK = 262144, WARM = 500 };

static const char *path;
static volatile int stop;

static void die(const char *what) { perror(what); exit(1); }

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static struct sockaddr_un address(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	strncpy(a.sun_path, path, sizeof a.sun_path - 1);
	return a;
}

static int reach(char purpose)
{
	struct sockaddr_un a = address();
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (void *)&a, sizeof a) < 0)
		die("connect");
	if (write(fd, &purpose, 1) != 1)
		die("write");
	return fd;
}

static void put(int fd, const void *data, size_t size)
{
	const char *p = data;
	while (size) {
		ssize_t n = write(fd, p, size);
		if (n <= 0)
			die("write");
		p += n, size -= n;
	}
}

static void get(int fd, void *data, size_t size)
{
	char *p = data;
	while (size) {
		ssize_t n = read(fd, p, size);
		if (n <= 0) {
			fprintf(stderr, "the stream ended early\n");
			exit(1);
		}
		p += n, size -= n;
	}
}

/* -- server -------------------------------------------------------------- */

static void *swallow(void *arg)
{
	int fd = (int)(intptr_t)arg;
	char *block = malloc(BLOCK);
	uint64_t left;
	fcntl(fd, F_SETFL, 0);
	get(fd, &left, sizeof left);
	while (left) {
		ssize_t n = read(fd, block, BLOCK);
		if (n <= 0)
			break;
		left -= n;
	}
	if (!left && write(fd, "k", 1) != 1)
		perror("answer");
	while (read(fd, block, BLOCK) > 0)
		;
	close(fd);
	free(block);
	return 0;
}

static char purpose_of[1 << 20];

static void serve_one(int loop, int fd)
{
	char data[4096];
	if (!purpose_of[fd]) {
		ssize_t n = read(fd, purpose_of + fd, 1);
		if (n < 0 && errno == EAGAIN)
			return;
		if (n == 1 && purpose_of[fd] == 's') {
			pthread_t thread;
			epoll_ctl(loop, EPOLL_CTL_DEL, fd, 0);
			purpose_of[fd] = 0;
			if (pthread_create(&thread, 0, swallow, (void *)(intptr_t)fd))
				die("thread");
			pthread_detach(thread);
			return;
		}
		if (n == 1 && purpose_of[fd] == 'e')
			return;
	} else {
		ssize_t n = read(fd, data, sizeof data);
		/* A client that has just gone must not take the server along. */
		if (n > 0 && write(fd, data, n) == n)
			return;
		if (n < 0 && errno == EAGAIN)
			return;
	}
	purpose_of[fd] = 0;
	close(fd);
}

static _Noreturn void serve(void)
{
	struct sockaddr_un a = address();
	struct epoll_event ev = { .events = EPOLLIN };
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	unlink(path);
	if (bind(listener, (void *)&a, sizeof a) < 0 || listen(listener, 4096) < 0)
		die("listen");
	int loop = epoll_create1(EPOLL_CLOEXEC);
	ev.data.fd = listener;
	epoll_ctl(loop, EPOLL_CTL_ADD, listener, &ev);
	for (;;) {
		struct epoll_event events[256];
		int n = epoll_wait(loop, events, 256, -1);
		for (int i = 0; i < n; i++) {
			int fd = events[i].data.fd;
			if (fd != listener) {
				serve_one(loop, fd);
				continue;
			}
			while ((fd = accept4(listener, 0, 0, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
				ev.data.fd = fd;
				epoll_ctl(loop, EPOLL_CTL_ADD, fd, &ev);
			}
		}
	}
}

/* -- clients --------------------------------------------------------------- */

static int bulk(uint64_t total, size_t size)
{
	char *block = calloc(1, size), answer;
	int fd = reach('s');
	put(fd, &total, sizeof total);
	double began = now();
	for (uint64_t left = total; left;) {
		size_t n = left < size ? left : size;
		put(fd, block, n);
		left -= n;
	}
	get(fd, &answer, 1);
	printf("%.6f\n", now() - began);
	return 0;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double percentile(double *sorted, size_t count, double p)
{
	size_t i = (size_t)(p * count);
	return sorted[i < count ? i : count - 1] * 1e6;
}

static int ping(size_t count)
{
	char message[MESSAGE] = { 0 };
	double *took = malloc(count * sizeof *took);
	int fd = reach('e');
	for (size_t i = 0; i < WARM + count; i++) {
		double began = now();
		put(fd, message, MESSAGE);
		get(fd, message, MESSAGE);
		if (i >= WARM)
			took[i - WARM] = now() - began;
	}
	qsort(took, count, sizeof *took, compare);
	printf("%.3f %.3f %.3f\n", percentile(took, count, .5),
	       percentile(took, count, .99), percentile(took, count, .999));
	return 0;
}

static void *pour(void *arg)
{
	uint64_t *sent = arg, for_ever = UINT64_MAX;
	char *block = calloc(1, 65536);
	int fd = reach('s');
	put(fd, &for_ever, sizeof for_ever);
	while (!stop) {
		put(fd, block, 65536);
		*sent += 65536;
	}
	close(fd);
	return 0;
}

static int many(int streams, double seconds)
{
	char message[MESSAGE] = { 0 };
	double *began = calloc(streams, sizeof *began);
	int *fds = calloc(streams, sizeof *fds);
	size_t count = 0, room = 1 << 22;
	double *took = malloc(room * sizeof *took);
	uint64_t sent = 0;
	pthread_t thread;
	int loop = epoll_create1(0);
	for (int i = 0; i < streams; i++) {
		struct epoll_event ev = { .events = EPOLLIN, .data.u32 = i };
		fds[i] = reach('e');
		put(fds[i], message, MESSAGE);
		get(fds[i], message, MESSAGE);
		epoll_ctl(loop, EPOLL_CTL_ADD, fds[i], &ev);
	}
	pthread_create(&thread, 0, pour, &sent);
	double start = now(), end = start + seconds;
	for (int i = 0; i < streams; i++) {
		began[i] = now();
		put(fds[i], message, MESSAGE);
	}
	while (now() < end) {
		struct epoll_event events[64];
		int n = epoll_wait(loop, events, 64, 1000);
		for (int k = 0; k < n; k++) {
			int i = events[k].data.u32;
			get(fds[i], message, MESSAGE);
			double t = now();
			if (count < room)
				took[count++] = t - began[i];
			began[i] = t;
			put(fds[i], message, MESSAGE);
		}
	}
	double lasted = now() - start;
	uint64_t poured = sent;
	stop = 1;
	/* Leave nothing unread: closing would be a reset, which is another story. */
	for (int i = 0; i < streams; i++)
		get(fds[i], message, MESSAGE);
	pthread_join(thread, 0);
	qsort(took, count, sizeof *took, compare);
	printf("%.1f %.3f %.0f\n", count / lasted, percentile(took, count, .99),
	       poured / lasted);
	return 0;
}

static void *dial(void *arg)
{
	uint64_t *count = arg;
	char answer;
	while (!stop) {
		int fd = reach('c');
		if (read(fd, &answer, 1) > 0)
			die("not closed");
		close(fd);
		++*count;
	}
	return 0;
}

static int setup(int clients, double seconds)
{
	pthread_t threads[64];
	uint64_t counts[64][8] = { 0 }, total = 0; /* a cache line each */
	double began = now();
	for (int i = 0; i < clients && i < 64; i++)
		pthread_create(threads + i, 0, dial, counts[i]);
	usleep(seconds * 1e6);
	stop = 1;
	for (int i = 0; i < clients && i < 64; i++) {
		pthread_join(threads[i], 0);
		total += counts[i][0];
	}
	printf("%.1f\n", total / (now() - began));
	return 0;
}

static int idle(int count)
{
	char message[MESSAGE] = { 0 };
	for (int i = 0; i < count; i++) {
		int fd = reach('e');
		put(fd, message, MESSAGE);
		get(fd, message, MESSAGE);
	}
	printf("%d\n", count);
	fflush(stdout);
	while (read(0, message, MESSAGE) > 0)
		;
	return 0;
}

int main(int argc, char **argv)
{
	struct rlimit files;
	if (argc < 3)
		return 2;
	signal(SIGPIPE, SIG_IGN);
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	path = argv[2];
	const char *what = argv[1];
	double x = argc > 3 ? atof(argv[3]) : 0, y = argc > 4 ? atof(argv[4]) : 0;
	if (!strcmp(what, "serve"))
		serve();
	if (!strcmp(what, "bulk"))
		return bulk(x, y);
	if (!strcmp(what, "ping"))
		return ping(x);
	if (!strcmp(what, "many"))
		return many(x, y);
	if (!strcmp(what, "setup"))
		return setup(x, y);
	if (!strcmp(what, "idle"))
		return idle(x);
	return 2;
}
