/* reach ADDRESS PORT: connect by TCP within 3 s and print what is said first.
 * Exit code 0: something was said; 1: refused or unreachable; 2: silence. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    struct sockaddr_storage to;
    memset(&to, 0, sizeof to);
    struct sockaddr_in *v4 = (struct sockaddr_in *)&to;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&to;
    socklen_t size;
    if (inet_pton(AF_INET, argv[1], &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((unsigned short)atoi(argv[2]));
        size = sizeof *v4;
    } else if (inet_pton(AF_INET6, argv[1], &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((unsigned short)atoi(argv[2]));
        size = sizeof *v6;
    } else {
        return 2;
    }
    int fd = socket(to.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        printf("socket: %s\n", strerror(errno));
        return 1;
    }
    struct pollfd wait = {fd, POLLOUT, 0};
    int error = 0;
    socklen_t error_size = sizeof error;
    if (connect(fd, (struct sockaddr *)&to, size) != 0 && errno != EINPROGRESS) {
        printf("connect: %s\n", strerror(errno));
        return 1;
    }
    if (poll(&wait, 1, 3000) < 1) {
        printf("no answer\n");
        return 2;
    }
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &error_size);
    if (error) {
        printf("connect: %s\n", strerror(error));
        return 1;
    }
    wait.events = POLLIN;
    if (poll(&wait, 1, 3000) < 1) {
        printf("connected, but silent\n");
        return 2;
    }
    char said[200];
    ssize_t got = read(fd, said, sizeof said - 1);
    if (got <= 0) {
        printf("connected, then closed\n");
        return 1;
    }
    said[got] = 0;
    printf("said %s\n", said);
    return 0;
}
