/* complete INTERFACE: have the kernel finish its frames, as the agent of an image does. */
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
    struct ethtool_value off = {ETHTOOL_STXCSUM, 0};
    struct ifreq request;
    memset(&request, 0, sizeof request);
    if (argc != 2)
        return 2;
    strncpy(request.ifr_name, argv[1], IFNAMSIZ - 1);
    request.ifr_data = (void *)&off;
    if (ioctl(socket(AF_INET, SOCK_DGRAM, 0), SIOCETHTOOL, &request) != 0) {
        perror("SIOCETHTOOL");
        return 1;
    }
    return 0;
}
