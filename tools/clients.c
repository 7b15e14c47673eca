/* clients: the connections of tools/bench that wrk does not make.

       clients pace CONNS PORT TARGET RATE SECONDS    requests at a fixed rate
       clients echo CONNS PORT TARGET BYTES SECONDS   messages through upgraded connections
       clients hold CONNS PORT TARGET                 one answer each, then silence
       clients ask CONNS PORT TARGET                  one request each, whether answered or not

   `pace` is an open loop: RATE requests a second fall due whatever becomes of those before. Latency
   counts from the moment at which a request was due, so it holds the wait for a free connection too.
   A request that failed, or has no answer PATIENCE after the end, counts as failed and with the time
   until then. 503 is an answer, counted apart. `echo` sends the next message on a connection when
   the last one is back. Both print a line of JSON, times in microseconds.

   `hold` and `ask` print a line when all have their answer, or have sent their request, and stay
   until they are killed. One thread; Linux. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_MAX = 1024, READ = 65536 };
#define SECOND INT64_C(1000000000)
#define PATIENCE (10 * SECOND)

typedef struct conn {
    int fd; /* -1: to be opened */
    int64_t due;
    size_t head_len;
    int64_t left; /* of the answer, behind its head; -1: in the head */
    int status;
    bool close, busy;
    char head[HEAD_MAX];
    struct conn *next; /* free ones */
} conn;

static int port, conns_n, ep;
static char request[2048], *message;
static size_t request_len, message_len;
static conn *conns, *spare;
static uint32_t *times; /* of what was answered, microseconds */
static int64_t times_n, times_room, bad, refused;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * SECOND + t.tv_nsec;
}

static void die(const char *what) {
    fprintf(stderr, "clients: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void *need(void *p) {
    if (!p) die("memory");
    return p;
}

static void took(int64_t ns) {
    if (times_n == times_room) {
        times_room = times_room ? times_room * 2 : 65536;
        times = need(realloc(times, (size_t)times_room * sizeof *times));
    }
    times[times_n++] = (uint32_t)(ns / 1000 < UINT32_MAX ? ns / 1000 : UINT32_MAX);
}

/* Blocks until it is connected: what falls due meanwhile is as late as that makes it. */
static bool open_conn(conn *c) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval patience = {PATIENCE / SECOND, 0};
    int one = 1;
    a.sin_port = htons((uint16_t)port);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0) die("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    c->head_len = 0, c->left = -1;
    if (connect(c->fd, (struct sockaddr *)&a, sizeof a) == 0) return true;
    close(c->fd);
    c->fd = -1;
    return false;
}

static void close_conn(conn *c) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
}

static void watch(conn *c) {
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    fcntl(c->fd, F_SETFL, fcntl(c->fd, F_GETFL) | O_NONBLOCK);
    epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
}

/* What is sent is small and the connection was empty: it goes in one piece or not at all. */
static bool send_all(conn *c, const char *p, size_t n) {
    return send(c->fd, p, n, MSG_NOSIGNAL) == (ssize_t)n;
}

/* Takes p[0..n) of an answer. 1: it is whole, 0: more to come, -1: not an answer we can read. */
static int take(conn *c, const char *p, size_t n) {
    if (c->left < 0) {
        size_t k = n < HEAD_MAX - 1 - c->head_len ? n : HEAD_MAX - 1 - c->head_len;
        memcpy(c->head + c->head_len, p, k);
        c->head_len += k;
        c->head[c->head_len] = 0;
        char *end = strstr(c->head, "\r\n\r\n"), *length = strcasestr(c->head, "\r\ncontent-length:");
        if (!end) return c->head_len < HEAD_MAX - 1 ? 0 : -1;
        if (strncmp(c->head, "HTTP/1.", 7) != 0) return -1;
        c->status = atoi(c->head + 9);
        if (c->status != 101 && !(length && length < end)) return -1;
        c->close = strcasestr(c->head, "\r\nconnection: close") != NULL;
        c->left = c->status == 101 ? 0 : atoll(length + 17);
        n -= (size_t)(end + 4 - c->head) - (c->head_len - k);
    }
    if ((int64_t)n > c->left) return -1;
    c->left -= (int64_t)n;
    if (c->left) return 0;
    c->head_len = 0, c->left = -1;
    return 1;
}

static int by_size(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void print_result(int64_t elapsed, int64_t bytes) {
    if (times_n == 0) took(0), bad++;
    qsort(times, (size_t)times_n, sizeof *times, by_size);
    printf("{\"requests\":%lld,\"us\":%lld,\"bytes\":%lld,\"bad\":%lld,\"refused\":%lld,"
           "\"p50\":%u,\"p99\":%u,\"most\":%u}\n",
           (long long)times_n, (long long)(elapsed / 1000), (long long)bytes, (long long)bad,
           (long long)refused, times[times_n / 2], times[times_n * 99 / 100], times[times_n - 1]);
}

/* --- a fixed rate --- */

static void give_back(conn *c) {
    c->busy = false;
    c->next = spare;
    spare = c;
}

/* Its request is over, well or not. */
static void over(conn *c, bool well) {
    took(now_ns() - c->due);
    if (!well) bad++;
    else if (c->status == 503) refused++;
    else if (c->status != 200) bad++;
    if (!well || c->close) close_conn(c);
    give_back(c);
}

static void send_due(int64_t due) {
    conn *c = spare;
    spare = c->next;
    c->busy = true;
    c->due = due;
    if (c->fd < 0) {
        if (!open_conn(c)) {
            over(c, false);
            return;
        }
        watch(c);
    }
    if (!send_all(c, request, request_len)) over(c, false);
}

static void pace_readable(conn *c) {
    static char in[READ];
    ssize_t n = recv(c->fd, in, sizeof in, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (!c->busy) {
        close_conn(c); /* an idle one has ended */
        return;
    }
    int r = n > 0 ? take(c, in, (size_t)n) : -1;
    if (r) over(c, r > 0);
}

static void pace(int64_t rate, int64_t seconds) {
    int64_t total = rate * seconds, sent = 0, start = now_ns() + SECOND / 100;
    int64_t end = start + seconds * SECOND;
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN}, events[64];
    epoll_ctl(ep, EPOLL_CTL_ADD, timer, &e);
    for (int i = 0; i < conns_n; i++) give_back(&conns[i]);
    while (times_n < total) {
        uint64_t ticks;
        while (spare && sent < total && start + sent * SECOND / rate <= now_ns())
            send_due(start + sent * SECOND / rate), sent++;
        if (now_ns() > end + PATIENCE) break;
        if (spare && sent < total) {
            int64_t next = start + sent * SECOND / rate;
            struct itimerspec t = {.it_value = {next / SECOND, next % SECOND}};
            timerfd_settime(timer, TFD_TIMER_ABSTIME, &t, NULL);
        }
        int n = epoll_wait(ep, events, 64, 1000);
        for (int i = 0; i < n; i++) {
            conn *c = events[i].data.ptr;
            if (c) pace_readable(c);
            else if (read(timer, &ticks, sizeof ticks) < 0) continue;
        }
    }
    for (int64_t i = times_n; i < total; i++) /* never answered, or never even sent */
        took(end + PATIENCE - (start + i * SECOND / rate)), bad++;
    print_result(seconds * SECOND, 0);
}

/* --- echoes --- */

static void upgrade(conn *c) {
    char in[HEAD_MAX];
    int r = 0;
    if (!open_conn(c) || !send_all(c, request, request_len)) die("connect");
    while (r == 0) {
        ssize_t n = recv(c->fd, in, sizeof in, 0);
        r = n > 0 ? take(c, in, (size_t)n) : -1;
    }
    if (r < 0 || c->status != 101) {
        fprintf(stderr, "clients: not upgraded: %s\n", c->head);
        exit(1);
    }
    watch(c);
}

static void send_message(conn *c) {
    c->due = now_ns();
    c->left = (int64_t)message_len;
    if (!send_all(c, message, message_len)) bad++, close_conn(c);
}

static void echo(int64_t seconds) {
    static char in[READ];
    for (int i = 0; i < conns_n; i++) upgrade(&conns[i]);
    int64_t start = now_ns(), end = start + seconds * SECOND;
    for (int i = 0; i < conns_n; i++) send_message(&conns[i]);
    while (now_ns() < end) {
        struct epoll_event events[64];
        int n = epoll_wait(ep, events, 64, 100);
        for (int i = 0; i < n; i++) {
            conn *c = events[i].data.ptr;
            ssize_t k = recv(c->fd, in, sizeof in, 0);
            if (k < 0 && errno == EAGAIN) continue;
            if (k <= 0 || k > c->left || memcmp(in, message + message_len - c->left, (size_t)k) != 0) {
                bad++;
                close_conn(c);
                continue;
            }
            c->left -= k;
            if (c->left) continue;
            took(now_ns() - c->due);
            send_message(c);
        }
    }
    print_result(now_ns() - start, times_n * (int64_t)message_len);
}

/* --- silence --- */

static void hold(bool answers) {
    static char in[READ];
    for (int i = 0; i < conns_n; i++) {
        int r = 0;
        if (!open_conn(&conns[i]) || !send_all(&conns[i], request, request_len)) die("connect");
        while (answers && r == 0) {
            ssize_t n = recv(conns[i].fd, in, sizeof in, 0);
            r = n > 0 ? take(&conns[i], in, (size_t)n) : -1;
        }
        if (r < 0) die("no answer");
    }
    printf("holding %d\n", conns_n);
    fflush(stdout);
    for (;;) pause();
}

int main(int argc, char **argv) {
    const char *mode = argc > 4 ? argv[1] : "";
    bool paced = strcmp(mode, "pace") == 0, echoes = strcmp(mode, "echo") == 0;
    bool holds = strcmp(mode, "hold") == 0 || strcmp(mode, "ask") == 0;
    if (!(argc == 7 && (paced || echoes)) && !(argc == 5 && holds)) {
        fprintf(stderr, "usage: clients pace|echo|hold|ask CONNS PORT TARGET [RATE|BYTES SECONDS]\n");
        return 2;
    }
    conns_n = atoi(argv[2]), port = atoi(argv[3]);
    conns = need(calloc((size_t)conns_n, sizeof *conns));
    for (int i = 0; i < conns_n; i++) conns[i].fd = -1;
    ep = epoll_create1(EPOLL_CLOEXEC);
    request_len = (size_t)snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: bench\r\n%s\r\n",
        argv[4], echoes ? "Connection: Upgrade\r\nUpgrade: echo\r\n" : "");
    if (paced) pace(atoll(argv[5]), atoll(argv[6]));
    if (echoes) {
        message_len = (size_t)atoll(argv[5]);
        message = need(malloc(message_len));
        for (size_t i = 0; i < message_len; i++) message[i] = (char)(i % 251);
        echo(atoll(argv[6]));
    }
    if (holds) hold(mode[0] == 'h');
    return 0;
}
