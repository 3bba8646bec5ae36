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
