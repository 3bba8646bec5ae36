/* vsockl PORT PROGRAM [ARGUMENT...]: accept connections at a vsock port; each is the
 * standard input and output of a program. */
#include <linux/vm_sockets.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    struct sockaddr_vm at;
    memset(&at, 0, sizeof at);
    at.svm_family = AF_VSOCK;
    at.svm_cid = VMADDR_CID_ANY;
    at.svm_port = (unsigned)strtoul(argv[1], NULL, 10);
    int listener = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&at, sizeof at) != 0 ||
        listen(listener, 16) != 0)
        return 1;
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0)
            continue;
        if (fork() == 0) {
            dup2(fd, 0);
            dup2(fd, 1);
            execv(argv[2], argv + 2);
            _exit(127);
        }
        close(fd);
    }
}
