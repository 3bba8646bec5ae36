/* One attempt to get out of a jail: probe WHAT [ARGUMENT].
 * Writes 0 to standard output when the attempt worked, else its errno.
 * Built twice: as a static program (for the waypipe client's jail) and as a
 * library whose run() is called inside a worker's jail. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static int worked(long result) { return result < 0 ? errno : 0; }

static int list(const char *path) {
    DIR *dir = opendir(path);
    struct dirent *entry;
    if (!dir) return errno;
    while ((entry = readdir(dir)))
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..")) return 0;
    return ENOENT;
}

static int unix_socket(const char *name, int abstract) {
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0) return errno;
    strncpy(to.sun_path + abstract, name, sizeof to.sun_path - 2);
    return worked(connect(fd, (struct sockaddr *)&to,
                          sizeof(sa_family_t) + abstract + strlen(name)));
}

static int binds(const char *name) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0), result;
    if (fd < 0) return errno;
    strncpy(at.sun_path, name, sizeof at.sun_path - 1);
    result = worked(bind(fd, (struct sockaddr *)&at, sizeof at));
    close(fd);
    return result;
}

/* A waypipe client that was taken over: listens at PATH, and makes NAMES of
 * sockets when it is sent a byte. Answers with the number that it could make. */
static int fills(const char *path, char **names) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0), conn;
    char byte, made;
    strncpy(at.sun_path, path, sizeof at.sun_path - 1);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 8)) return errno;
    while ((conn = accept(fd, 0, 0)) >= 0) {
        if (read(conn, &byte, 1) == 1) {
            for (made = 0; *names; names++) made += !binds(*names);
            if (write(conn, &made, 1) != 1) return errno;
        }
        close(conn);
    }
    return errno;
}

static int inet(int kind, int port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, kind, 0);
    if (fd < 0) return errno;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (kind == SOCK_DGRAM)
        return worked(sendto(fd, "x", 1, 0, (struct sockaddr *)&to, sizeof to));
    return worked(connect(fd, (struct sockaddr *)&to, sizeof to));
}

static int vm_read(pid_t pid) {
    char here[8];
    struct iovec mine = {here, sizeof here}, its = {(void *)4096, sizeof here};
    process_vm_readv(pid, &mine, 1, &its, 1, 0);
    return errno == EFAULT ? 0 : errno; /* allowed, only nothing is mapped there */
}

static int get_fd(pid_t pid) {
    int pidfd = syscall(SYS_pidfd_open, pid, 0);
    return pidfd < 0 ? errno : worked(syscall(SYS_pidfd_getfd, pidfd, 0, 0));
}

static int forks(void) {
    pid_t pid = fork();
    if (pid == 0) _exit(0);
    return pid < 0 ? errno : worked(waitpid(pid, 0, 0));
}

static int raw_fork(void) {
    pid_t pid = syscall(SYS_fork);
    if (pid == 0) _exit(0);
    return pid < 0 ? errno : worked(waitpid(pid, 0, 0));
}

static int ends(void *unused) { return 0; }

static int thread(void) {
    static char stack[65536];
    int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD;
    return worked(clone(ends, stack + sizeof stack, flags, 0));
}

static int queue(void) {
    if (syscall(SYS_mq_open, "probe", O_RDWR | O_CREAT, 0600, 0) < 0) return errno;
    return worked(syscall(SYS_mq_unlink, "probe"));
}

static int many_files(int count) {
    while (count--)
        if (dup(2) < 0) return errno;
    return 0;
}

static int shell(void) {
    execl("/bin/sh", "sh", "-c", "echo 0", (char *)0);
    return errno;
}

static int maps(int protection) {
    void *at = mmap(0, 4096, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return at == MAP_FAILED ? errno : 0;
}

/* A memory file as the Wayland filter makes them (MFD_CLOEXEC |
 * MFD_ALLOW_SEALING), or with other flags. */
static int memory_file(unsigned flags) {
    return syscall(SYS_memfd_create, "probe", flags);
}

static int seals(int which) {
    int fd = memory_file(3);
    return fd < 0 ? errno : worked(fcntl(fd, F_ADD_SEALS, which));
}

static int grows(off_t size) {
    int fd = memory_file(3);
    return fd < 0 ? errno : worked(ftruncate(fd, size));
}

static int maps_memory_file(int protection) {
    int fd = memory_file(3);
    void *at;
    if (fd < 0 || ftruncate(fd, 4096) < 0) return errno;
    at = mmap(0, 4096, protection, MAP_SHARED, fd, 0);
    return at == MAP_FAILED ? errno : 0;
}

/* A script in a memory file, run by its descriptor alone. */
static int runs_memory_file(void) {
    char text[] = "#!/bin/sh\necho 0\n", *words[] = {"x", 0};
    int fd = memory_file(2);
    if (fd < 0) fd = memory_file(3);
    if (fd < 0 || pwrite(fd, text, sizeof text - 1, 0) < 0) return errno;
    syscall(SYS_execveat, fd, "", words, environ, AT_EMPTY_PATH);
    return errno;
}

static int attempt(const char *what, const char *with) {
    int number = atoi(with);
    char block[512] = {0};
    if (!strcmp(what, "open")) return worked(open(with, O_RDONLY));
    if (!strcmp(what, "create")) return worked(open(with, O_CREAT | O_WRONLY, 0600));
    if (!strcmp(what, "mkdir")) return worked(mkdirat(AT_FDCWD, with, 0700));
    if (!strcmp(what, "list")) return list(with);
    if (!strcmp(what, "bind")) return binds(with);
    if (!strcmp(what, "unix")) return unix_socket(with, 0);
    if (!strcmp(what, "abstract")) return unix_socket(with, 1);
    if (!strcmp(what, "tcp")) return inet(SOCK_STREAM, number);
    if (!strcmp(what, "udp")) return inet(SOCK_DGRAM, number);
    if (!strcmp(what, "vsock")) return worked(socket(AF_VSOCK, SOCK_STREAM, 0));
    if (!strcmp(what, "netlink")) return worked(socket(AF_NETLINK, SOCK_RAW, 0));
    if (!strcmp(what, "ptrace")) return worked(ptrace(PTRACE_SEIZE, number, 0, 0));
    if (!strcmp(what, "vmread")) return vm_read(number);
    if (!strcmp(what, "getfd")) return get_fd(number);
    if (!strcmp(what, "kill")) return worked(kill(number, 0));
    if (!strcmp(what, "fork")) return forks();
    if (!strcmp(what, "raw-fork")) return raw_fork();
    if (!strcmp(what, "thread")) return thread();
    if (!strcmp(what, "inotify")) return worked(inotify_init1(0));
    if (!strcmp(what, "queue")) return queue();
    if (!strcmp(what, "many-files")) return many_files(number);
    if (!strcmp(what, "shell")) return shell();
    if (!strcmp(what, "unshare")) return worked(unshare(CLONE_NEWUSER));
    if (!strcmp(what, "clone"))
        return worked(syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0));
    if (!strcmp(what, "mount")) return worked(mount("t", "/", "tmpfs", 0, 0));
    if (!strcmp(what, "exec-memory")) return maps(PROT_READ | PROT_EXEC);
    if (!strcmp(what, "write-exec-memory"))
        return maps(PROT_READ | PROT_WRITE | PROT_EXEC);
    if (!strcmp(what, "bpf")) return worked(syscall(SYS_bpf, 0, block, sizeof block));
    if (!strcmp(what, "io_uring")) return worked(syscall(SYS_io_uring_setup, 8, block));
    if (!strcmp(what, "keyctl")) return worked(syscall(SYS_keyctl, 0, -3, 0));
    if (!strcmp(what, "userfaultfd")) return worked(syscall(SYS_userfaultfd, 1));
    if (!strcmp(what, "perf"))
        return worked(syscall(SYS_perf_event_open, block, 0, -1, -1, 0));
    if (!strcmp(what, "memory-file")) return seals(F_SEAL_SHRINK);
    if (!strcmp(what, "other-seal")) return seals(F_SEAL_GROW);
    if (!strcmp(what, "unsealable")) return worked(memory_file(1));
    if (!strcmp(what, "grow")) return grows(atoll(with));
    if (!strcmp(what, "map-file")) return maps_memory_file(PROT_READ | PROT_WRITE);
    if (!strcmp(what, "map-exec")) return maps_memory_file(PROT_READ | PROT_EXEC);
    if (!strcmp(what, "run-file")) return runs_memory_file();
    if (!strcmp(what, "owner")) return worked(fcntl(0, F_SETOWN, getpid()));
    if (!strcmp(what, "fallocate")) return worked(fallocate(memory_file(3), 0, 0, 1));
    if (!strcmp(what, "nothing")) return 0;
    return EINVAL;
}

void run(const char *what, const char *with) {
    char text[16];
    int size = snprintf(text, sizeof text, "%d\n", attempt(what, with));
    if (write(1, text, size) != size) _exit(1);
}

int main(int count, char **words) {
    char *names[] = {"/s/client/one", "/s/client/two", "/s/three", 0};
    if (count > 5 && !strcmp(words[1], "--compress")) /* as waypipe is started */
        return fills(words[5], names);
    run(words[1], count > 2 ? words[2] : "");
    return 0;
}
