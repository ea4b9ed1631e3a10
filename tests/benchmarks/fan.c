// fan: the load client of the fan-out benchmarks. One thread opens many WebSocket or SSE subscribers, counts every
// marker `TS=<19 digits: CLOCK_REALTIME in ns>;` in what they receive, and prints one line of JSON at the end.
//
//   fan -w|-s -p PORT -u PATH -n COUNT [-c CHANNELS] [-H HEADER]... [-t TOKENS] [-m TEXT -r TEXT]... [-x STOPPED]
//       [-e EXPECTED] [-l SECONDS] [-o OPENING]
//
// -w WebSocket, -s SSE; -m a text frame to send next; -r the text that must arrive before the next step (for SSE only the
// first -r counts); -x so many subscribers stop reading once all are ready; -e ends after so many deliveries, -l after so
// many seconds; -o so many handshakes at a time. In PATH, HEADER and -m texts `%i` is the subscriber's channel (its number
// modulo CHANNELS) and `%t` its line of the file TOKENS. Prints READY on stderr when every subscriber is; SIGTERM ends it.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ROOM = 64, BUFFER = 1 << 18, STEPS = 4, HEADERS = 4, TEXT = 8192, MARKER = 23, PER_ADDRESS = 20000 };
enum { CONNECTING, SHAKING, STEPPING, READY, GONE };

typedef struct {
    int fd, state, step, matched;
    size_t carried;
    char carry[ROOM];
    long got;
} Subscriber;

static int websocket, port, count, channels = 1, headers, steps, stopped, opening = 64;
static long expected;
static double limit = 120;
static const char *path = "/", *header[HEADERS], *message[STEPS], *reply[STEPS];
static char **tokens;
static Subscriber *all;
static int poller, opened, pending, ready, closed;
static unsigned *latency;
static size_t seen, room;
static long long bytes, first_sent, last_seen;
static volatile sig_atomic_t stop;

static long long clock_ns(clockid_t which) {
    struct timespec now;
    clock_gettime(which, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void die(const char *why) {
    perror(why);
    exit(1);
}

static void on_signal(int number) {
    (void)number;
    stop = 1;
}

static int compare(const void *a, const void *b) {
    unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;
    return x < y ? -1 : x > y;
}

// Put the subscriber's channel and token into a text.
static int expand(char *out, size_t size, const char *text, int number) {
    size_t used = 0;
    for (; *text; text++) {
        char small[16];
        const char *part = small;
        if (text[0] == '%' && text[1] == 'i') {
            snprintf(small, sizeof small, "%d", number % channels);
            text++;
        } else if (text[0] == '%' && text[1] == 't' && tokens) {
            part = tokens[number];
            text++;
        } else {
            small[0] = *text, small[1] = 0;
        }
        size_t length = strlen(part);
        if (used + length + 1 > size) exit((fprintf(stderr, "a text is too long\n"), 1));
        memcpy(out + used, part, length);
        used += length;
    }
    out[used] = 0;
    return (int)used;
}

static void send_all(Subscriber *s, const void *data, size_t size) {
    if (write(s->fd, data, size) != (ssize_t)size) die("write"); // small, to an empty socket buffer
}

static void frame(Subscriber *s, int opcode, const char *data, size_t size) {
    unsigned char out[TEXT + 16]; // masked with zeros, so that the payload goes as it is
    size_t at = 0;
    out[at++] = 0x80 | opcode;
    if (size < 126) out[at++] = 0x80 | size;
    else out[at++] = 0x80 | 126, out[at++] = size >> 8, out[at++] = size & 255;
    memset(out + at, 0, 4);
    memcpy(out + at + 4, data, size);
    send_all(s, out, at + 4 + size);
}

static void handshake(Subscriber *s, int number) {
    char target[TEXT], line[TEXT], out[2 * TEXT];
    expand(target, sizeof target, path, number);
    int used = snprintf(out, sizeof out, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%s", target, port,
                        websocket ? "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                                    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                                  : "Accept: text/event-stream\r\n");
    for (int i = 0; i < headers; i++) {
        expand(line, sizeof line, header[i], number);
        used += snprintf(out + used, sizeof out - used, "%s\r\n", line);
    }
    used += snprintf(out + used, sizeof out - used, "\r\n");
    send_all(s, out, used);
}

static void watch(Subscriber *s, int how, unsigned events) {
    struct epoll_event event = {.events = events, .data.ptr = s};
    if (epoll_ctl(poller, how, s->fd, &event) < 0) die("epoll_ctl");
}

static void open_one(void) {
    Subscriber *s = &all[opened];
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (s->fd < 0) die("socket");
    if (opened < stopped) { // so that what is not read soon fills the sender's side
        int small = 4096;
        setsockopt(s->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    }
    if (count > PER_ADDRESS) { // one address has some 28,000 ports
        struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK + opened / PER_ADDRESS)};
        bind(s->fd, (void *)&from, sizeof from);
    }
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (connect(s->fd, (void *)&to, sizeof to) < 0 && errno != EINPROGRESS) die("connect");
    watch(s, EPOLL_CTL_ADD, EPOLLOUT);
    opened++, pending++;
}

// Send the step's message; a step without a reply to wait for is done at once.
static void next_step(Subscriber *s) {
    char text[TEXT];
    s->state = STEPPING;
    s->matched = 0;
    if (s->step < steps && message[s->step] && websocket) frame(s, 1, text, expand(text, sizeof text, message[s->step], (int)(s - all)));
    if (s->step >= steps || !reply[s->step]) {
        s->state = READY;
        pending--, ready++;
    }
}

// Look for the step's reply in bytes that come in pieces; a text that overlaps itself is not looked for.
static void match(Subscriber *s, const char *data, size_t size) {
    for (size_t i = 0; i < size && s->state == STEPPING; i++) {
        const char *wanted = reply[s->step];
        s->matched = data[i] == wanted[s->matched] ? s->matched + 1 : data[i] == wanted[0];
        if (!wanted[s->matched]) s->step++, next_step(s);
    }
}

static void record(Subscriber *s, const char *digits, long long now) {
    long long sent = 0;
    for (int i = 0; i < 19; i++) sent = sent * 10 + (digits[i] - '0');
    if (seen == room) {
        room = room ? room * 2 : 1 << 20;
        latency = realloc(latency, room * sizeof *latency);
        if (!latency) die("realloc");
    }
    latency[seen++] = now > sent ? (unsigned)((now - sent) / 1000) : 0;
    if (!first_sent || sent < first_sent) first_sent = sent;
    last_seen = now;
    s->got++;
}

// Count markers; `data` has ROOM bytes before it, for what was left of the last piece.
static void feed(Subscriber *s, char *data, size_t size) {
    bytes += size;
    memcpy(data - s->carried, s->carry, s->carried);
    data -= s->carried, size += s->carried;
    char *end = data + size;
    long long now = clock_ns(CLOCK_REALTIME);
    for (;;) {
        char *found = memmem(data, end - data, "TS=", 3);
        if (!found || found + MARKER > end) {
            size_t rest = end - data;
            s->carried = found ? (size_t)(end - found) : rest < 2 ? rest : 2;
            memcpy(s->carry, end - s->carried, s->carried);
            return;
        }
        if (found[MARKER - 1] == ';') record(s, found + 3, now);
        data = found + 3;
    }
}

static void lose(Subscriber *s) {
    if (s->state != READY) fprintf(stderr, "closed before it was ready\n"), pending--;
    s->state = GONE;
    close(s->fd);
    closed++;
}

static void answer_pings(Subscriber *s, const char *data, size_t size) {
    if (size >= 2 && (unsigned char)data[0] == 0x89 && (unsigned char)data[1] < 126) frame(s, 10, "", 0);
    if (size >= 4 && !memcmp(data, "\x81\x02{}", 4)) frame(s, 1, "{}", 2); // the Centrifuge protocol's own
}

static void on_readable(Subscriber *s) {
    static char buffer[ROOM + BUFFER + 1];
    char *data = buffer + ROOM;
    ssize_t size = read(s->fd, data, BUFFER);
    if (size < 0 && errno == EAGAIN) return;
    if (size <= 0) {
        lose(s);
        return;
    }
    if (s->state == SHAKING) {
        data[size] = 0;
        char *body = strstr(data, "\r\n\r\n");
        if (!body || strncmp(data, websocket ? "HTTP/1.1 101" : "HTTP/1.1 200", 12)) exit((fprintf(stderr, "bad handshake: %.300s\n", data), 1));
        next_step(s);
        size -= body + 4 - data;
        data = memmove(data, body + 4, size);
    }
    if (s->state == STEPPING) match(s, data, size);
    else if (size) {
        if (websocket) answer_pings(s, data, size);
        feed(s, data, size);
    }
}

static void on_event(Subscriber *s) {
    if (s->state == CONNECTING) {
        handshake(s, (int)(s - all));
        s->state = SHAKING;
        watch(s, EPOLL_CTL_MOD, EPOLLIN);
    } else if (s->state != GONE) {
        on_readable(s);
    }
}

static void read_tokens(const char *file) {
    FILE *in = fopen(file, "r");
    if (!in) die(file);
    tokens = calloc(count, sizeof *tokens);
    for (int i = 0; i < count; i++) {
        size_t size = 0;
        ssize_t length = getline(&tokens[i], &size, in);
        if (length < 1) exit((fprintf(stderr, "too few tokens\n"), 1));
        tokens[i][length - 1] = 0;
    }
    fclose(in);
}

static void report(double opening_seconds) {
    long least = LONG_MAX, most = 0;
    for (int i = stopped; i < count; i++) {
        if (all[i].got < least) least = all[i].got;
        if (all[i].got > most) most = all[i].got;
    }
    qsort(latency, seen, sizeof *latency, compare);
#define AT(part) (seen ? latency[(size_t)((seen - 1) * (part))] : 0)
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    printf("{\"connections\":%d,\"ready_s\":%.3f,\"deliveries\":%zu,\"least\":%ld,\"most\":%ld,\"closed\":%d,\"p50_us\":%u,"
           "\"p95_us\":%u,\"p99_us\":%u,\"max_us\":%u,\"mb\":%.1f,\"span_s\":%.4f,\"client_cpu_s\":%.2f}\n",
           count, opening_seconds, seen, least, most, closed, AT(.5), AT(.95), AT(.99), AT(1.0), bytes / 1e6,
           seen ? (last_seen - first_sent) / 1e9 : 0,
           used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6);
}

static void options(int argc, char **argv) {
    const char *token_file = NULL;
    int at = -1;
    for (int option; (option = getopt(argc, argv, "wsp:u:n:c:H:t:m:r:x:e:l:o:")) != -1;) {
        switch (option) {
        case 'w': websocket = 1; break;
        case 's': websocket = 0; break;
        case 'p': port = atoi(optarg); break;
        case 'u': path = optarg; break;
        case 'n': count = atoi(optarg); break;
        case 'c': channels = atoi(optarg); break;
        case 'H': if (headers < HEADERS) header[headers++] = optarg; break;
        case 't': token_file = optarg; break;
        case 'm': if (at + 1 < STEPS) message[++at] = optarg; break;
        case 'r': if (at < 0) at = 0; reply[at] = optarg; break;
        case 'x': stopped = atoi(optarg); break;
        case 'e': expected = atol(optarg); break;
        case 'l': limit = atof(optarg); break;
        case 'o': opening = atoi(optarg); break;
        default: exit(2);
        }
    }
    steps = at + 1;
    if (!port || !count) exit((fprintf(stderr, "-p and -n are needed\n"), 2));
    if (token_file) read_tokens(token_file);
}

int main(int argc, char **argv) {
    options(argc, argv);
    signal(SIGTERM, on_signal), signal(SIGINT, on_signal), signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    all = calloc(count, sizeof *all);
    poller = epoll_create1(0);
    long long began = clock_ns(CLOCK_MONOTONIC), ends = 0;
    double took = 0;
    struct epoll_event events[1024];
    while (!stop) {
        while (opened < count && pending < opening) open_one();
        int many = epoll_wait(poller, events, 1024, 50);
        for (int i = 0; i < many; i++) on_event(events[i].data.ptr);
        long long now = clock_ns(CLOCK_MONOTONIC);
        if (!ends && ready == count) {
            took = (now - began) / 1e9, ends = now + (long long)(limit * 1e9);
            for (int i = 0; i < stopped; i++) epoll_ctl(poller, EPOLL_CTL_DEL, all[i].fd, NULL);
            fprintf(stderr, "READY\n");
        }
        if (!ends && (closed || now - began > 120000000000LL)) exit((fprintf(stderr, "only %d of %d ready\n", ready, count), 1));
        if (ends && (now > ends || (expected && (long)seen >= expected))) break;
    }
    report(took);
    return 0;
}
