/* The floor of a sweep: sends COUNT ARP requests from INTERFACE for the addresses from FIRST on, as fast as it can. */
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    unsigned long count = strtoul(argv[2], 0, 10);
    unsigned int first = ntohl(inet_addr(argv[3])), target;
    unsigned char frame[42] = {255, 255, 255, 255, 255, 255, 2, 0x5e, 1, 2, 3, 4, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0x5e, 1, 2, 3, 4};
    struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_protocol = 0, .sll_ifindex = if_nametoindex(argv[1])};
    int fd = socket(AF_PACKET, SOCK_RAW, 0);
    struct timespec start, end;
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof at)) return 1;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (unsigned long n = 0; n < count; n++) {
        target = htonl(first + n % 65536);
        memcpy(frame + 38, &target, 4);
        while (send(fd, frame, sizeof frame, 0) < 0) ;
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%.9f\n", end.tv_sec - start.tv_sec + (end.tv_nsec - start.tv_nsec) / 1e9);
    return 0;
}
