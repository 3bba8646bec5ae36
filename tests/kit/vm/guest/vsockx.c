/* vsockx CID PORT PROGRAM [ARGUMENT...]: run a program whose standard input,
 * output and error are a connection to a vsock port. */
#include <errno.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    if (argc < 4)
        return 2;
    struct sockaddr_vm to;
    memset(&to, 0, sizeof to);
    to.svm_family = AF_VSOCK;
    to.svm_cid = (unsigned)strtoul(argv[1], NULL, 10);
    to.svm_port = (unsigned)strtoul(argv[2], NULL, 10);
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) != 0) {
        printf("vsockx: %s\n", strerror(errno));
        return 1;
    }
    dup2(fd, 0);
    dup2(fd, 1);
    dup2(fd, 2);
    execv(argv[3], argv + 3);
    return 127;
}
