/* Loaded into vhost-device-vsock (LD_PRELOAD): four mends for version 0.3, which is the
 * newest one and its repository's current state.  Optional: without them the program does
 * what it always did (vsock_backend.py).  A level-triggered loop of any version survives
 * them.
 *
 * 1. A connection that may be written to hears of it also while there is something to
 * read from it.  The program keeps what a guest sent and the other end did not take yet,
 * and writes it on when epoll says EPOLLOUT and nothing else; with EPOLLIN beside it, it
 * only reads.  When both ways are full, there is always something to read, the guest has
 * no room for it, and what would make room is never written: the connection stands still
 * for ever, with the processor busy (16 MiB through an echo now and then, and with socat
 * alone in the guest every time).  So every other time that both are reported, only
 * EPOLLOUT is; EPOLLIN comes again.  No rule of ours for a stream's bytes could prevent
 * it, except a window on every stream, which would end splicing on every transport.
 *
 * 2. A write to a connection whose other end has closed reports success.  The program
 * unwraps the write of the line "OK PORT", which follows when a guest accepts: if the
 * broker has given the connection up meanwhile, because the guest was stopped, EPIPE ends
 * the program's worker with a lock held, and the guest has no vsock until it is started
 * again.  The end is reported as for every connection, by EPOLLHUP; for that the
 * descriptor is watched again, because the program has unregistered it then.
 *
 * 3. A read of a connection that was closed with unread bytes reports the end.  The
 * program tells the guest of a read of 0 bytes, but not of ECONNRESET: the guest would
 * write to nobody for ever.
 *
 * 4. While QEMU has stopped the guest (QMP "stop", a full disk, a reset), no event of a
 * connection reaches the worker, the thread that serves the guest's two queues.  QEMU
 * takes the queues back by GET_VRING_BASE; an event that comes then finds a queue that is
 * not ready, for which the program ends the worker.  So a message that changes a queue is
 * handled while the worker is idle, and the worker watches its connections only while
 * both queues have their events.
 *
 * It is C in a process that already holds the guest's memory, but it looks at no byte of
 * a connection, and at the first word of QEMU's messages only.
 */
#undef _FORTIFY_SOURCE /* its headers define some of these functions */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { BOTH = EPOLLIN | EPOLLOUT, DESCRIPTORS = 65536 };

/* By the number that the program gave with the descriptor, which is the
 * descriptor itself; each belongs to one thread. */
static unsigned char told_alone[DESCRIPTORS];

/* The epoll set that a descriptor was added to last, plus 1, and with which number. */
static atomic_int set_of[DESCRIPTORS];
static atomic_uint number_of[DESCRIPTORS];

/* Numbers with which the program adds descriptors to a worker's set: the events of its two
 * queues, and from FIRST_OTHER those of connections. */
enum { LAST_QUEUE = 1, FIRST_OTHER = 4 };

/* By a worker's set: whether it is one, and a bit for each queue that has its event. */
enum { WORKER = 4, QUEUES = 3 };
static atomic_uchar worker_of[DESCRIPTORS];

/* Read-locked by workers while they handle events, write-locked to change a queue. */
static pthread_rwlock_t gate = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;
static _Thread_local enum { NO_LOCK, READ_LOCK, WRITE_LOCK } lock;

static void leave_gate(void)
{
	if (lock != NO_LOCK)
		pthread_rwlock_unlock(&gate);
	lock = NO_LOCK;
}

/* Define `next`: the C library's function of that name. */
#define NEXT(name)                                                 \
	static __typeof__(&name) next;                             \
	if (!next && !(next = (__typeof__(&name))dlsym(RTLD_NEXT, #name))) { \
		errno = ENOSYS;                                    \
		return -1;                                         \
	}

static int is_descriptor(int fd)
{
	return fd >= 0 && fd < DESCRIPTORS;
}

int epoll_wait(int set, struct epoll_event *events, int most, int timeout)
{
	NEXT(epoll_wait)
	int worker = is_descriptor(set) && atomic_load(&worker_of[set]);
	if (worker)
		leave_gate();
	int n = next(set, events, most, timeout);
	if (worker) {
		int error = errno;
		pthread_rwlock_rdlock(&gate);
		lock = READ_LOCK;
		errno = error;
	}
	int kept = 0;
	for (int i = 0; i < n; i++) {
		struct epoll_event *event = &events[i];
		uint32_t number = event->data.u32;
		if (worker && atomic_load(&worker_of[set]) != (WORKER | QUEUES) &&
		    (number <= LAST_QUEUE || number >= FIRST_OTHER))
			continue;
		if (event->events & EPOLLHUP && event->events & EPOLLIN)
			event->events = EPOLLIN;
		if (event->events == BOTH && number < DESCRIPTORS) {
			told_alone[number] = !told_alone[number];
			if (told_alone[number])
				event->events = EPOLLOUT;
		}
		events[kept++] = *event;
	}
	return n < 0 ? n : kept;
}

static int change_set(int set, int op, int fd, struct epoll_event *event)
{
	NEXT(epoll_ctl)
	return next(set, op, fd, event);
}

/* Watch the connections of a worker, or do not. */
static void watch_others(int set, uint32_t events)
{
	for (int fd = 0; fd < DESCRIPTORS; fd++) {
		uint32_t number = atomic_load(&number_of[fd]);
		if (atomic_load(&set_of[fd]) != set + 1 || number < FIRST_OTHER)
			continue;
		/* EPOLLHUP and EPOLLERR are always reported, and are dropped then: by edge, or
		   the worker would spin (epoll_ctl(2)). */
		struct epoll_event event = {
			.events = events ? events : EPOLLET, .data.u64 = number};
		change_set(set, EPOLL_CTL_MOD, fd, &event);
	}
}

int epoll_ctl(int set, int op, int fd, struct epoll_event *event)
{
	int result = change_set(set, op, fd, event);
	if (result < 0 || !is_descriptor(fd) || !is_descriptor(set))
		return result;
	if (op == EPOLL_CTL_ADD) {
		atomic_store(&set_of[fd], set + 1);
		atomic_store(&number_of[fd], event->data.u32);
	}
	uint32_t number = atomic_load(&number_of[fd]);
	if (number > LAST_QUEUE || op == EPOLL_CTL_MOD)
		return result;
	unsigned char bit = (unsigned char)(1u << number);
	if (op == EPOLL_CTL_ADD)
		atomic_fetch_or(&worker_of[set], bit | WORKER);
	else
		atomic_fetch_and(&worker_of[set], (unsigned char)~bit);
	watch_others(set, atomic_load(&worker_of[set]) == (WORKER | QUEUES) ? EPOLLIN : 0);
	return result;
}

/* A message of vhost-user begins with its number, flags and size (32 bits each). */
enum { HEADER = 12, VERSION = 1, VERSION_AND_REPLY = 7 };
enum { GET_VRING_BASE = 11, SET_VRING_KICK = 12, SET_VRING_CALL = 13 };

ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
	NEXT(recvmsg)
	leave_gate(); /* the message before has been handled */
	ssize_t result = next(fd, message, flags);
	uint32_t header[2] = {0};
	if (result == HEADER && message->msg_iov[0].iov_len >= HEADER)
		memcpy(header, message->msg_iov[0].iov_base, sizeof header);
	if (header[0] >= GET_VRING_BASE && header[0] <= SET_VRING_CALL &&
	    (header[1] & VERSION_AND_REPLY) == VERSION) {
		pthread_rwlock_wrlock(&gate);
		lock = WRITE_LOCK;
	}
	return result;
}

static int is_closed(ssize_t result)
{
	return result < 0 && (errno == EPIPE || errno == ECONNRESET);
}

/* Return the result of a write of `size` bytes, or `size` if the other end has closed. */
static ssize_t written(int fd, ssize_t result, size_t size)
{
	if (!is_closed(result) || !is_descriptor(fd) || !atomic_load(&set_of[fd]))
		return result;
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = (unsigned)fd};
	int saved = errno;
	/* EEXIST: it is watched still. */
	if (change_set(atomic_load(&set_of[fd]) - 1, EPOLL_CTL_ADD, fd, &event) < 0 &&
	    errno != EEXIST) {
		errno = saved;
		return result;
	}
	return (ssize_t)size;
}

ssize_t write(int fd, const void *data, size_t size)
{
	NEXT(write)
	if (lock == WRITE_LOCK)
		leave_gate(); /* the worker is told to exit */
	return written(fd, next(fd, data, size), size);
}

ssize_t send(int fd, const void *data, size_t size, int flags)
{
	NEXT(send)
	return written(fd, next(fd, data, size, flags), size);
}

ssize_t sendto(int fd, const void *data, size_t size, int flags,
	       const struct sockaddr *to, socklen_t length)
{
	NEXT(sendto)
	return written(fd, next(fd, data, size, flags, to, length), size);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
	NEXT(writev)
	size_t size = 0;
	for (int i = 0; i < count; i++)
		size += parts[i].iov_len;
	return written(fd, next(fd, parts, count), size);
}

ssize_t read(int fd, void *data, size_t size)
{
	NEXT(read)
	ssize_t result = next(fd, data, size);
	return is_closed(result) ? 0 : result;
}

ssize_t recv(int fd, void *data, size_t size, int flags)
{
	NEXT(recv)
	ssize_t result = next(fd, data, size, flags);
	return is_closed(result) ? 0 : result;
}
