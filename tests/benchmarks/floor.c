// floor: what fan-out costs at least. Accepts subscribers, answers their handshake, and sends every message with one
// send() per subscriber and nothing else: no protocol, no reading, no history.
//
//   floor PORT BYTES CHANNELS
//
// Each line `RATE COUNT` on stdin sends COUNT messages of BYTES bytes, RATE per second (0: as fast as it goes), to the
// channels in turn; a subscriber's channel is its number modulo CHANNELS. A message holds `TS=<ns>;`, see fan.c.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int *subscriber, subscribers, room, channels;
static char *message;
static size_t size;

static void die(const char *why) {
    perror(why);
    exit(1);
}

static void send_one(int fd) {
    for (size_t sent = 0; sent < size;) {
        ssize_t part = send(fd, message + sent, size - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (part >= 0) {
            sent += part;
        } else if (errno == EAGAIN) { // the whole floor waits for it: a slow reader is not its subject
            struct pollfd writable = {.fd = fd, .events = POLLOUT};
            poll(&writable, 1, 1000);
        } else {
            return;
        }
    }
}

static void publish(double rate, long count) {
    struct timespec now, due;
    clock_gettime(CLOCK_MONOTONIC, &due);
    for (long i = 0; i < count; i++) {
        if (rate > 0) {
            due.tv_nsec += (long)(1e9 / rate);
            for (; due.tv_nsec >= 1000000000; due.tv_nsec -= 1000000000) due.tv_sec++;
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
        }
        clock_gettime(CLOCK_REALTIME, &now);
        char marker[32];
        snprintf(marker, sizeof marker, "TS=%lld;", now.tv_sec * 1000000000LL + now.tv_nsec);
        memcpy(message + size / 2, marker, 23);
        for (int at = (int)(i % channels); at < subscribers; at += channels) send_one(subscriber[at]);
    }
}

static void greet(int poller, int fd) {
    char request[16384] = "";
    if (recv(fd, request, sizeof request - 1, 0) <= 0) { // a whole small request: the client writes it at once
        epoll_ctl(poller, EPOLL_CTL_DEL, fd, NULL);
        close(fd);
        return;
    }
    const char *answer = strstr(request, "pgrade: websocket")
                             ? "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
                             : "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
    send(fd, answer, strlen(answer), MSG_NOSIGNAL);
    epoll_ctl(poller, EPOLL_CTL_DEL, fd, NULL);
    if (subscribers == room) {
        room = room ? room * 2 : 1024;
        subscriber = realloc(subscriber, room * sizeof *subscriber);
    }
    subscriber[subscribers++] = fd;
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    size = strtoul(argv[2], NULL, 10);
    channels = atoi(argv[3]);
    if (size < 64 || channels < 1) return 2;
    message = malloc(size);
    memset(message, 'x', size);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1, poller = epoll_create1(0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listener, (void *)&at, sizeof at) < 0 || listen(listener, 4096) < 0) die("listen");
    if (puts("LISTENING") < 0 || fflush(stdout)) die("stdout");
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[256];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    event.data.fd = 0;
    epoll_ctl(poller, EPOLL_CTL_ADD, 0, &event);
    setvbuf(stdin, NULL, _IONBF, 0);
    for (;;) {
        int many = epoll_wait(poller, events, 256, -1);
        for (int i = 0; i < many; i++) {
            int fd = events[i].data.fd;
            double rate;
            long count;
            if (fd == listener) {
                event.data.fd = accept(listener, NULL, NULL);
                if (event.data.fd >= 0) epoll_ctl(poller, EPOLL_CTL_ADD, event.data.fd, &event);
            } else if (fd) {
                greet(poller, fd);
            } else if (scanf("%lf %ld", &rate, &count) == 2) {
                publish(rate, count);
            } else {
                return 0; // whoever started us has gone
            }
        }
    }
}
