/* The kernel's calls, for a program without libc: x86-64 and AArch64.
 *
 * Only calls that both have, and no struct that differs between them.  Each returns the
 * kernel's answer, a negative errno after an error.
 */
#include <asm/unistd.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/stat.h>
#include <linux/un.h>
#include <linux/vm_sockets.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	AF_VSOCK_ = 40, STREAM = 1, SHUT_WRITE = 1, SOL_SOCKET_ = 1, SEND_TIMEOUT = 20,
	NOSIGNAL = 0x4000, CLOEXEC = 02000000, NONBLOCK = 04000,
	IN = 1, OUT = 4, GONE = 8 | 16 | 32, NOHANG = 1, AT_CWD = -100,
	TERM = 15, KILL_ = 9, PIPE_ = 13, CHLD = 17,
	NO_REPLACE = 1, SET_SIZE = 0x5414, SET_TTY = 0x540e, UNLOCK_TTY = 0x40045431,
	PEER_TTY = 0x5441, KIND_MASK = 0170000, PLAIN_FILE = 0100000,
};

struct poll_entry { int fd; short events, found; };
struct pause_time { long seconds, nanoseconds; };
struct kernel_names { char words[6][65]; };
struct terminal_size { unsigned short rows, columns, x, y; };

#if defined(MOCKED)
static long call6(long n, long a, long b, long c, long d, long e, long f);
#elif defined(__x86_64__)
static inline long call6(long n, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
	long result;
	__asm__ volatile("syscall" : "=a"(result)
		: "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
		: "rcx", "r11", "memory");
	return result;
}
#elif defined(__aarch64__)
static inline long call6(long n, long a, long b, long c, long d, long e, long f)
{
	register long x8 __asm__("x8") = n, x0 __asm__("x0") = a, x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c, x3 __asm__("x3") = d, x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;
	__asm__ volatile("svc 0" : "+r"(x0)
		: "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
	return x0;
}
#else
#error "the guest's agent in C knows x86-64 and AArch64"
#endif

#define CALL(n, ...) CALL_(n, __VA_ARGS__, 0, 0, 0, 0, 0, 0)
#define CALL_(n, a, b, c, d, e, f, ...) call6(__NR_##n, (long)(a), (long)(b), \
	(long)(c), (long)(d), (long)(e), (long)(f))

#ifndef HOSTED
/* gcc calls these by itself. */
void *memcpy(void *to, const void *from, size_t size)
{
	char *t = to;
	const char *f = from;
	while (size--)
		*t++ = *f++;
	return to;
}

void *memmove(void *to, const void *from, size_t size)
{
	char *t = to;
	const char *f = from;
	if (t <= f)
		return memcpy(to, from, size);
	while (size--)
		t[size] = f[size];
	return to;
}

void *memset(void *to, int byte, size_t size)
{
	char *t = to;
	while (size--)
		*t++ = (char)byte;
	return to;
}

size_t strlen(const char *text)
{
	size_t size = 0;
	while (text[size])
		size++;
	return size;
}
#else
#include <string.h>
#endif

static bool same(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

static bool starts(const char *text, const char *with)
{
	while (*with && *text == *with)
		text++, with++;
	return !*with;
}

static const char *base_name(const char *path)
{
	const char *last = path;
	for (; *path; path++)
		if (*path == '/' && path[1])
			last = path + 1;
	return last;
}

/* Text that grows in a buffer of fixed size: what does not fit sets ``full``. */
struct text { char *data; size_t size, used; bool full; };

#define TEXT(buffer) { buffer, sizeof(buffer), 0, false }

static void put(struct text *t, const char *data, size_t size)
{
	if (t->full || size >= t->size - t->used) {
		t->full = true;
		return;
	}
	memcpy(t->data + t->used, data, size);
	t->used += size;
	t->data[t->used] = 0;
}

static void put_text(struct text *t, const char *text) { put(t, text, strlen(text)); }

static void put_number(struct text *t, long long number)
{
	char digits[24];
	size_t at = sizeof digits;
	unsigned long long left = number < 0 ? -(unsigned long long)number : (unsigned long long)number;
	do
		digits[--at] = (char)('0' + left % 10);
	while (left /= 10);
	if (number < 0)
		digits[--at] = '-';
	put(t, digits + at, sizeof digits - at);
}

static bool write_all(int fd, const char *data, size_t size)
{
	while (size) {
		long done = CALL(write, fd, data, size);
		if (done == -EINTR)
			continue;
		if (done <= 0)
			return false;
		data += done;
		size -= (size_t)done;
	}
	return true;
}

static void say(const char *a, const char *b, const char *c)
{
	char line[600];
	struct text t = TEXT(line);
	put_text(&t, "vitrail: ");
	put_text(&t, a);
	put_text(&t, b);
	put_text(&t, c);
	put_text(&t, "\n");
	write_all(2, line, t.used);
}
