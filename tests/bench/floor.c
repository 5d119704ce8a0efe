/* floor: the least that any server can do: a C loop that calls send() once a client for the same bytes.
 *
 *   floor PORT CLIENTS EVENTS_PER_S SECONDS [SIZE [TOPICS]]
 *
 * Waits for CLIENTS connections, answers each request, then sends one frame of SIZE bytes of data to every client
 * EVENTS_PER_S times a second (0 = as fast as it goes), or with TOPICS to the CLIENTS / TOPICS of the next topic. Prints one line of JSON: deliveries, seconds, cpu_us (a delivery).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ns(void) { struct timespec t; clock_gettime(CLOCK_REALTIME, &t); return t.tv_sec * 1000000000ull + t.tv_nsec; }
static double cpu_s(void) { struct rusage u; getrusage(RUSAGE_SELF, &u); return u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6; }

int main(int argc, char **argv) {
    if (argc < 5) { fprintf(stderr, "usage: floor PORT CLIENTS EVENTS_PER_S SECONDS [SIZE [TOPICS]]\n"); return 2; }
    int port = atoi(argv[1]), n = atoi(argv[2]), rate = atoi(argv[3]), size = argc > 5 ? atoi(argv[5]) : 200, topics = argc > 6 ? atoi(argv[6]) : 1;
    double seconds = atof(argv[4]);
    struct rlimit rl = { 200000, 200000 }; setrlimit(RLIMIT_NOFILE, &rl);
    int one = 1, server = socket(AF_INET, SOCK_STREAM, 0), *fds = calloc(n, sizeof *fds);
    setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port) };
    if (bind(server, (void *)&at, sizeof at) || listen(server, 4096)) { perror("listen"); return 1; }
    const char *head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n";
    char request[8192], pad[65536], block[70000], frame[70100];
    for (int i = 0; i < n; i++) {
        fds[i] = accept(server, 0, 0); setsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (read(fds[i], request, sizeof request) <= 0 || write(fds[i], head, strlen(head)) < 0) { perror("client"); return 1; }
    }
    usleep(200000);
    memset(pad, 'x', sizeof pad);
    uint64_t began = now_ns(), sent = 0, full = 0, number = 0; double cpu = cpu_s();
    while (now_ns() - began < seconds * 1e9) {
        if (rate) {
            uint64_t due = began + number * 1000000000ull / rate, now = now_ns();
            if (due > now) { struct timespec t = { (due - now) / 1000000000, (due - now) % 1000000000 }; nanosleep(&t, 0); }
        }
        int len = snprintf(block, sizeof block, "id: 1764000000000-%lu\nevent: github_sync_progress\ndata: {\"operationId\":\"op-1\",\"projectId\":\"p-1\",\"percent\":45,\"sent\":%lu,\"message\":\"%.*s\"}\n\n",
                           number, now_ns(), size > 80 ? size - 80 : 0, pad);
        len = snprintf(frame, sizeof frame, "%x\r\n%s\r\n", len, block);
        for (int i = number % topics; i < n; i += topics) { if (send(fds[i], frame, len, MSG_DONTWAIT | MSG_NOSIGNAL) == len) sent++; else full++; }
        number++;
    }
    cpu = cpu_s() - cpu;
    printf("{\"deliveries\":%lu,\"dropped\":%lu,\"seconds\":%.3f,\"cpu_us\":%.3f}\n", sent, full, (now_ns() - began) / 1e9, cpu * 1e6 / sent);
    return 0;
}
