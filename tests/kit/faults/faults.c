/* Loaded into a broker and what it starts (LD_PRELOAD): one call of one process fails.

   A file that all of them map counts each call by the process's role and the function,
   and has the order: the nth call of that function in that role fails once, with errno.
   An interposed function fails before the kernel hears of it, as where a table is full.
   The role is the module of broker/ that the process runs, until it names itself. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#define ROWS 1024
#define NAME 24

/* As faults.py has it. */
struct row {
    _Atomic unsigned int taken;
    char role[NAME], call[NAME];
    _Atomic unsigned int count;
};
struct plan {
    _Atomic unsigned int armed;
    char role[NAME], call[NAME];
    int error;
    _Atomic int left;
    _Atomic int hit; /* the pid */
    struct row rows[ROWS];
};

static struct plan *plan;
static char role[NAME];

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("VITRAIL_FAULTS");
    int fd = path ? syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    char *map = (char *)syscall(SYS_mmap, 0, sizeof *plan, PROT_READ | PROT_WRITE,
                                MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (map == MAP_FAILED)
        return;
    char words[4096];
    fd = syscall(SYS_openat, AT_FDCWD, "/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    long size = fd < 0 ? 0 : syscall(SYS_read, fd, words, sizeof words - 1);
    if (fd >= 0)
        syscall(SYS_close, fd);
    for (long at = 0; at < size; at += strlen(words + at) + 1) {
        words[size] = 0;
        const char *word = words + at;
        if (strncmp(word, "broker.", 7) == 0 || strncmp(word, "tests.kit.faults.", 17) == 0)
            strncpy(role, strrchr(word, '.') + 1, NAME - 1);
    }
    /* Programs that only start it have its words, too: setpriv, sh. */
    char file[256] = "";
    if (syscall(SYS_readlinkat, AT_FDCWD, "/proc/self/exe", file, sizeof file - 1) < 0 ||
        !strstr(file, "python"))
        memset(role, 0, sizeof role);
    plan = (struct plan *)map;
}

static int counted(const char *call)
{
    unsigned hash = 5381;
    for (const char *c = role; *c; c++)
        hash = hash * 33 + *c;
    for (const char *c = call; *c; c++)
        hash = hash * 33 + *c;
    for (unsigned i = 0; i < ROWS; i++) {
        struct row *row = &plan->rows[(hash + i) % ROWS];
        unsigned none = 0;
        if (atomic_compare_exchange_strong(&row->taken, &none, 1)) {
            strncpy(row->role, role, NAME - 1);
            strncpy(row->call, call, NAME - 1);
            atomic_store(&row->taken, 2);
        }
        while (atomic_load(&row->taken) == 1)
            ;
        if (!strcmp(row->role, role) && !strcmp(row->call, call))
            return atomic_fetch_add(&row->count, 1);
    }
    return 0;
}

/* Whether this call fails; errno is set then. */
static int fails(const char *call)
{
    if (!plan || !*role)
        return 0;
    counted(call);
    if (!atomic_load(&plan->armed) || strcmp(plan->call, call) || strcmp(plan->role, role))
        return 0;
    if (atomic_fetch_sub(&plan->left, 1) != 1)
        return 0;
    atomic_store(&plan->hit, (int)syscall(SYS_getpid));
    atomic_store(&plan->armed, 0);
    errno = plan->error;
    return 1;
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) \
        real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define CALL(result, name, parameters, arguments) \
    result name parameters \
    { \
        REAL(name); \
        if (fails(#name)) \
            return (result)-1; \
        return real arguments; \
    }

CALL(int, socket, (int a, int b, int c), (a, b, c))
CALL(int, socketpair, (int a, int b, int c, int d[2]), (a, b, c, d))
CALL(int, accept4, (int a, struct sockaddr *b, socklen_t *c, int d), (a, b, c, d))
CALL(int, connect, (int a, const struct sockaddr *b, socklen_t c), (a, b, c))
CALL(int, bind, (int a, const struct sockaddr *b, socklen_t c), (a, b, c))
CALL(int, pipe2, (int a[2], int b), (a, b))
CALL(int, dup, (int a), (a))
CALL(int, dup2, (int a, int b), (a, b))
CALL(int, dup3, (int a, int b, int c), (a, b, c))
CALL(int, epoll_create1, (int a), (a))
CALL(int, eventfd, (unsigned a, int b), (a, b))
CALL(int, memfd_create, (const char *a, unsigned b), (a, b))
CALL(int, poll, (struct pollfd *a, nfds_t b, int c), (a, b, c))
CALL(ssize_t, sendmsg, (int a, const struct msghdr *b, int c), (a, b, c))
CALL(ssize_t, recvmsg, (int a, struct msghdr *b, int c), (a, b, c))
CALL(ssize_t, splice, (int a, off64_t *b, int c, off64_t *d, size_t e, unsigned f),
     (a, b, c, d, e, f))
CALL(ssize_t, write, (int a, const void *b, size_t c), (a, b, c))
CALL(ssize_t, pwrite64, (int a, const void *b, size_t c, off64_t d), (a, b, c, d))
CALL(int, ftruncate64, (int a, off64_t b), (a, b))
CALL(int, fsync, (int a), (a))
CALL(int, fdatasync, (int a), (a))
CALL(int, mkdir, (const char *a, mode_t b), (a, b))
CALL(int, rename, (const char *a, const char *b), (a, b))
CALL(int, symlink, (const char *a, const char *b), (a, b))
CALL(pid_t, fork, (void), ())
CALL(int, unshare, (int a), (a))

/* A byte alone wakes an event loop: trio's, which has no second way to do that. */
ssize_t send(int fd, const void *data, size_t size, int flags)
{
    REAL(send);
    return size > 1 && fails("send") ? -1 : real(fd, data, size, flags);
}

/* What wakes an event loop is zero bytes; and where nothing waits, nothing can fail. */
ssize_t recv(int fd, void *data, size_t size, int flags)
{
    REAL(recv);
    char first[8] = "";
    ssize_t seen = real(fd, first, sizeof first, MSG_PEEK | MSG_DONTWAIT);
    int speaks = seen == 0;
    for (ssize_t i = 0; i < seen; i++)
        speaks |= first[i] != 0;
    if (speaks && fails("recv"))
        return -1;
    return real(fd, data, size, flags);
}

/* An entry that exists is changed and removed without room for another. */
int epoll_ctl(int set, int order, int fd, struct epoll_event *event)
{
    REAL(epoll_ctl);
    return order == EPOLL_CTL_ADD && fails("epoll_ctl") ? -1 : real(set, order, fd, event);
}

/* The caller's frame would be gone in a wrapper of vfork(2). */
pid_t vfork(void)
{
    static __typeof__(&fork) real;
    if (!real)
        real = (__typeof__(&fork))dlsym(RTLD_NEXT, "fork");
    return fails("fork") ? -1 : real();
}

/* A fork server that was ordered has few variables; here it keeps those of the faults. */
int execve(const char *path, char *const argv[], char *const envp[])
{
    REAL(execve);
    char *kept[32], **at = kept;
    if (!plan || strcmp(role, "vitrail-session"))
        return real(path, argv, envp);
    for (int i = 0; envp[i] && i < 29; i++)
        *at++ = envp[i];
    for (char **own = environ; *own; own++)
        if (!strncmp(*own, "LD_PRELOAD=", 11) || !strncmp(*own, "VITRAIL_FAULTS=", 15))
            if (at < kept + 31)
                *at++ = *own;
    *at = 0;
    return real(path, argv, kept);
}

int pthread_create(pthread_t *a, const pthread_attr_t *b, void *(*c)(void *), void *d)
{
    REAL(pthread_create);
    return fails("pthread_create") ? errno : real(a, b, c, d);
}

/* These have a last argument that may be missing; passing a word on harms nothing. */
#define OPEN(name) \
    int name(const char *path, int flags, ...) \
    { \
        REAL(name); \
        va_list more; \
        va_start(more, flags); \
        mode_t mode = va_arg(more, mode_t); \
        va_end(more); \
        return fails("open") ? -1 : real(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int at, const char *path, int flags, ...) \
    { \
        REAL(name); \
        va_list more; \
        va_start(more, flags); \
        mode_t mode = va_arg(more, mode_t); \
        va_end(more); \
        return fails("open") ? -1 : real(at, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)

#define FCNTL(name) \
    int name(int fd, int command, ...) \
    { \
        REAL(name); \
        va_list more; \
        va_start(more, command); \
        void *last = va_arg(more, void *); \
        va_end(more); \
        int duplicates = command == F_DUPFD || command == F_DUPFD_CLOEXEC; \
        return duplicates && fails("dupfd") ? -1 : real(fd, command, last); \
    }
FCNTL(fcntl)
FCNTL(fcntl64)

long syscall(long number, ...)
{
    static long (*real)(long, ...);
    if (!real)
        real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    va_list more;
    va_start(more, number);
    long a[6];
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(more, long);
    va_end(more);
    if (number == SYS_pidfd_open && fails("pidfd_open"))
        return -1;
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* A memory map of a file or of much: what malloc(3) maps is libc's own and not seen. */
#define MMAP(name) \
    void *name(void *a, size_t b, int c, int d, int e, off64_t f) \
    { \
        REAL(name); \
        return fails("mmap") ? MAP_FAILED : real(a, b, c, d, e, f); \
    }
MMAP(mmap)
MMAP(mmap64)

int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)
{
    static int (*real)(int, unsigned long, unsigned long, unsigned long, unsigned long);
    if (!real)
        real = dlsym(RTLD_NEXT, "prctl");
    if (option == 15 && *role) {
        memset(role, 0, sizeof role);
        strncpy(role, (const char *)a, NAME - 1);
    }
    return real(option, a, b, c, d);
}
