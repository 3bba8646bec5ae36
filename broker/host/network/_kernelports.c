/* Loaded into passt (LD_PRELOAD): the kernel chooses its ports of UDP.
 *
 * passt binds the socket of a guest's UDP port, or echo identifier, to the same number on
 * this machine.  Here bind(2) of such a socket succeeds and does nothing.  When it sends,
 * the kernel gives it a free number, which no other socket gets; passt maps answers back
 * by their socket.  A TCP socket is bound: older passt asks so whether a target is its
 * own, and a filter of system calls sees no difference between the two.
 *
 * No byte of a guest passes here.  If it is not loaded (a static passt, a security module
 * that clears the environment), passt fails to bind, and there is no UDP: its address
 * of origin, --outbound, is no machine's (passt.py).
 */
#define _GNU_SOURCE

#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

int bind(int fd, const struct sockaddr *address, socklen_t size)
{
	int type = 0;
	socklen_t room = sizeof(type);

	if (size > sizeof(address->sa_family) &&
	    (address->sa_family == AF_INET || address->sa_family == AF_INET6) &&
	    getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &room) == 0 &&
	    type == SOCK_DGRAM)
		return 0;
	return (int)syscall(SYS_bind, fd, address, size);
}
