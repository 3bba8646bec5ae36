/* Loaded into vhost-device-vsock (LD_PRELOAD): a connection that may be written
 * to hears of it also while there is something to read from it.
 *
 * Version 0.3 keeps what a guest sent and the other end did not take yet, and
 * writes it on when epoll says EPOLLOUT and nothing else; with EPOLLIN beside
 * it, it only reads.  When both ways are full, there is always something to
 * read, the guest has no room for it, and what would make room is never
 * written: the connection stands still for ever, with the processor busy.
 * So every other time that both are reported, only EPOLLOUT is.  The set is
 * level-triggered there, so EPOLLIN comes again.
 *
 * No byte of a guest passes here.  Optional: without it the program does what
 * it always did (vsock_backend.py).
 */
#define _GNU_SOURCE
/* vhost-device-vsock is made to write. Version 0.3 of it (the newest, and its
   repository's current state) flushes a guest's bytes that it keeps only on EPOLLOUT
   without EPOLLIN. With both ways of a stream full there is always something to read and
   never room for it, so nothing ever moves again: 16 MiB through an echo stood still for
   good now and then, and with socat alone in the guest and a test's program outside they
   do so every time. None of our rules for a stream's bytes could prevent that but a
   window of our own on every stream, which would end splicing and cost every transport
   for the fault of one. So a library with one function, `epoll_wait`, is loaded into the
   program: where both are reported it reports every other time EPOLLOUT alone, which a
   level-triggered loop of any version survives. It is C in a process that already holds
   the guest's memory, but it sees no byte; without a compiler it is not there, and the
   fault is. */

#include <dlfcn.h>
#include <errno.h>
#include <sys/epoll.h>

enum { BOTH = EPOLLIN | EPOLLOUT, DESCRIPTORS = 65536 };

/* By the number that the program gave with the descriptor, which is the
 * descriptor itself; each belongs to one thread. */
static unsigned char told_alone[DESCRIPTORS];

typedef int wait_t(int, struct epoll_event *, int, int);

int epoll_wait(int set, struct epoll_event *events, int most, int timeout)
{
	static wait_t *kernels;
	wait_t *wait = kernels;

	if (!wait) {
		wait = kernels = (wait_t *)dlsym(RTLD_NEXT, "epoll_wait");
		if (!wait) {
			errno = ENOSYS;
			return -1;
		}
	}
	int n = wait(set, events, most, timeout);
	for (int i = 0; i < n; i++) {
		if (events[i].events != BOTH || events[i].data.u32 >= DESCRIPTORS)
			continue;
		unsigned char *told = &told_alone[events[i].data.u32];
		*told = !*told;
		if (*told)
			events[i].events = EPOLLOUT;
	}
	return n;
}
