/* load: many clients of every kind, well-behaved and not, that check each byte they get.

       load [-c CLIENTS] [-n REQUESTS] [-s SEED] PORT GROUP...

   Behind the port stands a proxy with tools/upstream.c as its workers; GROUP is a path prefix. Each
   client takes a connection, sends one to thirty batches on it and takes the next. A batch is one
   request or a few pipelined ones, GET, HEAD, POST by length or in chunks, HTTP/1.0, an upgrade
   with an echo, or something malformed that has to be refused; it may be sent and read slowly, or
   abandoned at any point by FIN or RST. In a GROUP whose name begins with /late workers take up to
   30 ms, and 504 is a right answer too.

   stdout: `at DONE` now and then, `fail MS KIND STATUS GROUP TEXT` for each failure (MS: monotonic
   clock; KIND: status, cut, wrong, stall, connect), and at the end `end OK FAILED ABANDONED`. Linux. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PATTERN = 251 * 1024, EXPECT_MAX = 6, HEAD_MAX = 16384, STALL_MS = 60000 };

typedef enum { BYTES, SUM, NOTHING, REFUSED, ECHOED } kind;
typedef enum { R_HEAD, R_LENGTH, R_EOF, R_SIZE, R_DATA, R_DATA_END, R_TRAILER, R_ECHO } read_phase;

typedef struct { kind kind; int status; int64_t size; uint64_t hash; } expectation;

typedef struct {
    int fd, batches_left;
    const char *group;
    /* what is sent */
    char *out;
    size_t out_len, out_off, out_room;
    /* what has to come back, and how far it has */
    expectation expect[EXPECT_MAX];
    int expect_n, expect_at;
    read_phase phase;
    int status;
    bool close_after, refused, http10;
    int64_t left, pos;
    char head[HEAD_MAX];
    size_t head_len, line_at;
    /* manners */
    bool slow, rst;
    int64_t abandon_sent, abandon_got, abandon_at; /* bytes, bytes, ms; -1: never */
    int64_t got, pause_until, progress;
    unsigned interest;
} client;

static unsigned char pattern[PATTERN];
static int ep, port, clients_n = 64, group_n;
static char **groups;
static client *clients;
static int64_t wanted = 50000, started, ok, failed, abandoned, reported;
static uint64_t seed = 1;

static uint64_t rnd(void) {
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return seed * 2685821657736338717u >> 16;
}
static int64_t below(int64_t n) { return (int64_t)(rnd() % (uint64_t)n); }
static bool one_in(int n) { return below(n) == 0; }

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* --- writing a batch --- */

static bool late(const client *c) { return strncmp(c->group, "/late", 5) == 0; }

static int some_ms(const client *c) { return late(c) ? one_in(8) ? (int)below(30) : 0 : one_in(3) ? (int)below(4) : 0; }

static char *room(client *c, size_t n) {
    if (c->out_len + n > c->out_room) {
        c->out_room = (c->out_len + n) * 2;
        c->out = realloc(c->out, c->out_room);
        if (!c->out) abort();
    }
    return c->out + c->out_len;
}

__attribute__((format(printf, 2, 3))) static void put(client *c, const char *format, ...) {
    va_list args;
    va_start(args, format);
    c->out_len += (size_t)vsnprintf(room(c, 2048), 2048, format, args);
    va_end(args);
}

static void put_pattern(client *c, int64_t from, int64_t n) {
    char *p = room(c, (size_t)n);
    for (int64_t i = 0; i < n; i++) p[i] = (char)((from + i) % 251);
    c->out_len += (size_t)n;
}

/* In a late group an answer is one write of the worker: between two its time-out might strike, and
   rightly so, when the machine is busy. */
static int64_t some_size(const client *c) {
    int64_t dice = late(c) ? 1000 : below(1000);
    if (dice < 4) return below(3 << 20);
    if (dice < 100) return below(100000);
    return below(2000);
}

static void add(client *c, kind k, int status, int64_t size) {
    c->expect[c->expect_n++] = (expectation){.kind = k, .status = status, .size = size};
    started++;
}

static void get(client *c, const char *method, int64_t size) {
    static const char *const shapes[] = {"", "", "", "", "&close", "&chunked", "&eof", "&chunked&close"};
    put(c, "%s %s/b/%lld?ms=%d%s HTTP/1.1\r\nHost: load\r\n", method, c->group, (long long)size,
        some_ms(c), shapes[below(late(c) ? 5 : 8)]);
    if (one_in(4)) put(c, "User-Agent: load\r\nAccept: */*\r\nCookie: a=%llu\r\n", (unsigned long long)rnd());
    if (one_in(50)) put(c, "X-Long: %0*d\r\n", (int)below(1800), 1);
    put(c, "\r\n");
    add(c, method[0] == 'H' ? NOTHING : BYTES, 200, size);
}

static void post(client *c, bool chunked) {
    int64_t n = some_size(c) + 1, at = 0;
    put(c, "POST %s/sum?ms=%d HTTP/1.1\r\nHost: load\r\n%s", c->group, some_ms(c),
        one_in(10) ? "Expect: 100-continue\r\n" : "");
    if (chunked) put(c, "Transfer-Encoding: chunked\r\n\r\n");
    else put(c, "Content-Length: %lld\r\n\r\n", (long long)n);
    if (!chunked) put_pattern(c, 0, n);
    while (chunked && at < n) {
        int64_t k = 1 + below(n / 4 + 20);
        if (k > n - at) k = n - at;
        put(c, "%llx%s\r\n", (unsigned long long)k, one_in(5) ? ";e=\"x y\"" : "");
        put_pattern(c, at, k);
        put(c, "\r\n");
        at += k;
    }
    if (chunked) put(c, "0\r\n%s\r\n", one_in(5) ? "Trailer-Field: x\r\n" : "");
    add(c, SUM, 200, n);
    uint64_t h = 0;
    for (int64_t i = 0; i < n; i++) h = h * 31 + (uint64_t)(i % 251);
    c->expect[c->expect_n - 1].hash = h;
}

static void malformed(client *c) {
    static const struct { int status; const char *text; } bad[] = {
        {400, "GET %s/b/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx"},
        {400, "POST %s/b/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
        {400, "GET  %s/b/1 HTTP/1.1\r\nHost: x\r\n\r\n"},
        {400, "GET %s/b/1 HTTP/1.1\r\n\r\n"},
        {400, "GET %s/b/1 HTTP/1.1\nHost: x\n\n"},
        {400, "GET %s/%%2e%%2e/%%2e%%2e/%%2e%%2e/b/1 HTTP/1.1\r\nHost: x\r\n\r\n"},
        {400, "GET %s/b/1 HTTP/1.1\r\nHost: x\r\nName : x\r\n\r\n"},
        {400, "POST %s/b/1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n"},
        {501, "POST %s/b/1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n"},
        {405, "TRACE %s/b/1 HTTP/1.1\r\nHost: x\r\n\r\n"},
        {505, "GET %s/b/1 HTTP/2.0\r\nHost: x\r\n\r\n"},
    };
    int i = (int)below(sizeof bad / sizeof *bad);
    char *p = room(c, 2048);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    c->out_len += (size_t)snprintf(p, 2048, bad[i].text, c->group);
#pragma GCC diagnostic pop
    add(c, REFUSED, bad[i].status, 0);
    c->refused = true;
}

static void fill_batch(client *c) {
    c->out_len = c->out_off = 0;
    c->expect_n = c->expect_at = 0;
    c->refused = c->http10 = false;
    c->group = groups[below(group_n)];
    int64_t dice = below(100);
    if (dice < 50) {
        get(c, "GET", some_size(c));
    } else if (dice < 55) {
        get(c, "HEAD", some_size(c));
    } else if (dice < 68) {
        post(c, false);
    } else if (dice < 80) {
        post(c, true);
    } else if (dice < 90) {
        for (int n = 2 + (int)below(EXPECT_MAX - 1); n > 0; n--) {
            if (one_in(6)) post(c, one_in(2));
            else get(c, one_in(8) ? "HEAD" : "GET", some_size(c));
        }
    } else if (dice < 94) {
        int64_t n = some_size(c);
        put(c, "GET %s/b/%lld?%s HTTP/1.0\r\n\r\n", c->group, (long long)n, one_in(2) && !late(c) ? "chunked" : "x");
        add(c, BYTES, 200, n);
        c->http10 = true;
    } else if (dice < 97) {
        int64_t n = below(60000);
        put(c, "GET %s/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", c->group);
        put_pattern(c, 0, n);
        add(c, ECHOED, 101, n);
    } else {
        malformed(c);
    }
}

static void manners(client *c) {
    c->slow = one_in(40);
    c->rst = one_in(2);
    c->abandon_sent = c->abandon_got = c->abandon_at = -1;
    if (!one_in(12)) return;
    switch (below(3)) {
    case 0: c->abandon_sent = 1 + below((int64_t)c->out_len); break;
    case 1: c->abandon_got = 1 + below(one_in(2) ? 300 : 50000); break;
    case 2: c->abandon_at = now_ms() + below(6); break;
    }
}

/* --- ends --- */

static void end_connection(client *c, bool rst) {
    struct linger hard = {1, 0};
    if (c->fd < 0) return;
    if (rst) setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    close(c->fd);
    c->fd = -1;
}

static void count(client *c, int64_t *what) {
    *what += c->expect_n - c->expect_at;
    c->expect_at = c->expect_n;
}

static void fail(client *c, const char *why, int status) {
    expectation *e = &c->expect[c->expect_at];
    printf("fail %lld %s %d %s wanted %d and %lld bytes, got %lld, %d of %d, sent %zu of %zu: %.*s\n",
           (long long)now_ms(), why, status, c->group, e->status, (long long)e->size, (long long)c->pos,
           c->expect_at + 1, c->expect_n, c->out_off, c->out_len, (int)strcspn(c->out, "\r\n"), c->out);
    failed++, c->expect_at++;
}

static void fail_all(client *c, const char *why) {
    while (c->expect_at < c->expect_n) fail(c, why, c->status);
    end_connection(c, false);
}

/* --- reading --- */

static bool body_is_right(client *c, const char *p, size_t n) {
    expectation *e = &c->expect[c->expect_at];
    if (c->status != e->status || e->kind == REFUSED) return c->pos += (int64_t)n, true;
    if (e->kind == SUM) { /* collected behind the head */
        if (c->head_len + n >= HEAD_MAX) return false;
        memcpy(c->head + c->head_len, p, n);
        c->head_len += n, c->pos += (int64_t)n;
        return true;
    }
    while (n) {
        size_t at = (size_t)(c->pos % 251), k = n < PATTERN - at ? n : PATTERN - at;
        if (memcmp(p, pattern + at, k) != 0) return false;
        p += k, n -= k, c->pos += (int64_t)k;
    }
    return true;
}

/* One answer is over. */
static void answer_over(client *c) {
    expectation *e = &c->expect[c->expect_at];
    bool right = true;
    if (c->status == e->status && e->kind == SUM) {
        char want[64];
        int n = sprintf(want, "%lld %016llx\n", (long long)e->size, (unsigned long long)e->hash);
        right = c->pos == n && memcmp(c->head + c->head_len - n, want, (size_t)n) == 0;
    }
    if (e->kind == BYTES || e->kind == ECHOED) right = c->status != e->status || c->pos == e->size;
    if (!right) fail(c, "wrong", c->status);
    else if (c->status == 504 && late(c)) ok++, c->expect_at++;
    else if (c->status != e->status) fail(c, "status", c->status);
    else ok++, c->expect_at++;
    c->phase = R_HEAD;
    c->head_len = 0;
}

static const char *field(const char *head, const char *name) {
    size_t n = strlen(name);
    for (const char *p = strstr(head, "\r\n"); p; p = strstr(p, "\r\n")) {
        p += 2;
        if (strncasecmp(p, name, n) == 0 && p[n] == ':') return p + n + 1 + strspn(p + n + 1, " ");
    }
    return NULL;
}

/* The head lies in c->head. False: this is not HTTP. */
static bool head_over(client *c) {
    expectation *e = &c->expect[c->expect_at];
    c->head[c->head_len - 2] = 0;
    if (sscanf(c->head, "HTTP/1.1 %3d ", &c->status) != 1) return false;
    if (c->status < 200 && c->status != 101) return c->head_len = 0, true;
    const char *length = field(c->head, "content-length"), *coding = field(c->head, "transfer-encoding");
    const char *connection = field(c->head, "connection");
    c->close_after = connection && strncasecmp(connection, "close", 5) == 0;
    c->pos = 0;
    c->line_at = c->head_len;
    c->left = length ? atoll(length) : 0;
    if ((length && coding) || (coding && c->http10)) return false;
    if (c->status == 101) return c->phase = R_ECHO, e->kind == ECHOED;
    if (e->kind == NOTHING) return answer_over(c), true;
    c->phase = coding ? R_SIZE : length ? R_LENGTH : R_EOF;
    if (c->phase == R_LENGTH && !c->left) answer_over(c);
    return true;
}

/* Collects one line into `head` behind what is there; true when it is whole. */
static bool line_over(client *c, const char *p, size_t n, size_t *at) {
    while (*at < n && c->head_len < HEAD_MAX - 1) {
        c->head[c->head_len++] = p[*at];
        if (p[(*at)++] == '\n') return true;
    }
    return false;
}

/* The line that line_over() completed, cut off `head` again: a sum that comes in chunks stays. */
static const char *take_line(client *c) {
    c->head[c->head_len - 1] = 0;
    c->head_len = c->line_at;
    return c->head + c->line_at;
}

/* Takes what came. False: it is wrong. */
static bool take(client *c, const char *p, size_t n) {
    for (size_t at = 0; at < n;) {
        size_t k = n - at;
        if (c->expect_at == c->expect_n) return false; /* nobody asked */
        switch (c->phase) {
        case R_HEAD:
            if (c->head_len >= HEAD_MAX - 1) return false;
            if (!line_over(c, p, n, &at)) break;
            if (c->head_len >= 4 && memcmp(c->head + c->head_len - 4, "\r\n\r\n", 4) == 0 && !head_over(c))
                return false;
            break;
        case R_LENGTH:
        case R_DATA:
            if ((int64_t)k > c->left) k = (size_t)c->left;
            if (!body_is_right(c, p + at, k)) return false;
            at += k, c->left -= (int64_t)k;
            if (c->left) break;
            if (c->phase == R_LENGTH) answer_over(c);
            else c->phase = R_DATA_END, c->line_at = c->head_len;
            break;
        case R_EOF:
        case R_ECHO:
            if (!body_is_right(c, p + at, k)) return false;
            at += k;
            break;
        case R_SIZE:
            if (!line_over(c, p, n, &at)) break;
            c->left = strtoll(take_line(c), NULL, 16);
            c->phase = c->left ? R_DATA : R_TRAILER;
            break;
        case R_DATA_END:
            if (!line_over(c, p, n, &at)) break;
            if (take_line(c)[0] != '\r') return false;
            c->phase = R_SIZE;
            break;
        case R_TRAILER:
            if (!line_over(c, p, n, &at)) break;
            if (take_line(c)[0] == '\r') answer_over(c);
            break;
        }
    }
    return true;
}

/* --- a client's life --- */

static void interest(client *c, unsigned events) {
    if (c->interest == events) return;
    c->interest = events;
    struct epoll_event e = {.events = events, .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
}

static void begin_batch(client *c) {
    fill_batch(c);
    manners(c);
    c->phase = R_HEAD;
    c->head_len = 0;
    c->status = 0;
    c->close_after = false;
    c->got = 0;
    c->progress = now_ms();
    c->batches_left--;
    interest(c, EPOLLIN | EPOLLOUT);
}

static void connect_client(client *c) {
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    c->group = "-";
    c->out_len = c->out_off = 0;
    *room(c, 1) = 0;
    if (connect(c->fd, (struct sockaddr *)&in, sizeof in) < 0) { /* loopback: at once */
        c->expect_n = 1, c->expect_at = 0, started++;
        fail_all(c, "connect");
        c->pause_until = now_ms() + 100;
        return;
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->batches_left = one_in(4) ? 1 : 1 + (int)below(30);
    c->interest = EPOLLIN;
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
    begin_batch(c);
}

/* What comes after a batch, or after an end of whatever kind. */
static void next(client *c) {
    if (c->fd >= 0 && (c->close_after || c->refused || c->http10 || c->batches_left <= 0 ||
                       c->expect[c->expect_n - 1].kind == ECHOED || started >= wanted))
        end_connection(c, false);
    if (started >= wanted) return;
    if (c->fd < 0) connect_client(c);
    else begin_batch(c);
    if (c->fd < 0 || !one_in(30)) return;
    c->pause_until = now_ms() + below(40);
    interest(c, 0);
}

static bool abandon_now(client *c, int64_t now) {
    return (c->abandon_sent >= 0 && (int64_t)c->out_off >= c->abandon_sent) ||
           (c->abandon_got >= 0 && c->got >= c->abandon_got) || (c->abandon_at >= 0 && now >= c->abandon_at);
}

/* False: the connection is gone, everything is counted. */
static bool send_some(client *c) {
    size_t n = c->out_len - c->out_off;
    if (c->slow && n > 4000) n = 1 + (size_t)below(4000);
    if (c->abandon_sent >= 0 && n > (size_t)c->abandon_sent - c->out_off) n = (size_t)c->abandon_sent - c->out_off;
    ssize_t w = send(c->fd, c->out + c->out_off, n, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (w < 0 && errno == EAGAIN) return true;
    if (w < 0) { /* the answer may be there all the same: a refusal does not wait for the body */
        c->out_off = c->out_len;
        return true;
    }
    c->out_off += (size_t)w;
    c->progress = now_ms();
    if (c->slow) c->pause_until = c->progress + 1;
    return true;
}

/* Of an answer that the end of the connection ends, a reset says that it is not whole. */
static bool at_end(client *c, bool reset) {
    if (c->phase == R_EOF && !reset && c->expect_at < c->expect_n) answer_over(c);
    if (c->status == 504 && late(c) && c->close_after && c->phase == R_HEAD) count(c, &abandoned);
    if (c->expect_at < c->expect_n) return fail_all(c, "cut"), false;
    end_connection(c, false);
    return false;
}

static bool receive(client *c) {
    static char buffer[65536];
    for (;;) {
        size_t room = c->slow ? 1 + (size_t)below(4000) : sizeof buffer;
        ssize_t n = recv(c->fd, buffer, room, MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN) return true;
        if (n <= 0) return at_end(c, n < 0);
        c->got += n;
        c->progress = now_ms();
        if (!take(c, buffer, (size_t)n)) return fail_all(c, "wrong"), false;
        expectation *e = &c->expect[c->expect_n - 1];
        if (c->phase == R_ECHO && c->pos == e->size) answer_over(c);
        if (c->slow) return c->pause_until = c->progress + 1, true;
        if ((size_t)n < room || c->expect_at == c->expect_n) return true;
    }
}

static void turn(client *c, unsigned events, int64_t now) {
    bool lives = true;
    if (events & (EPOLLOUT | EPOLLERR | EPOLLHUP) && c->out_off < c->out_len) lives = send_some(c);
    if (lives && !abandon_now(c, now) && events & (EPOLLIN | EPOLLERR | EPOLLHUP)) lives = receive(c);
    if (lives && c->expect_at < c->expect_n && abandon_now(c, now)) {
        count(c, &abandoned);
        end_connection(c, c->rst);
    } else if (lives && c->expect_at < c->expect_n && c->close_after && c->phase == R_HEAD) {
        return interest(c, EPOLLIN); /* answered short of what was asked: the end comes */
    }
    if (c->expect_at == c->expect_n) return next(c);
    if (c->pause_until > now) return interest(c, 0);
    interest(c, c->out_off < c->out_len ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

static void timers(int64_t now) {
    for (client *c = clients; c < clients + clients_n; c++) {
        if (c->fd < 0) {
            if (started < wanted && now >= c->pause_until) connect_client(c);
            continue;
        }
        if (c->pause_until && now >= c->pause_until) {
            c->pause_until = 0;
            interest(c, c->out_off < c->out_len ? EPOLLIN | EPOLLOUT : EPOLLIN);
        }
        if (c->abandon_at >= 0 && now >= c->abandon_at) turn(c, 0, now);
        else if (now - c->progress > STALL_MS) fail_all(c, "stall");
    }
}

static bool all_gone(void) {
    for (int i = 0; i < clients_n; i++)
        if (clients[i].fd >= 0) return false;
    return started >= wanted;
}

int main(int argc, char **argv) {
    for (int opt; (opt = getopt(argc, argv, "c:n:s:")) != -1;) {
        if (opt == 'c') clients_n = atoi(optarg);
        else if (opt == 'n') wanted = atoll(optarg);
        else if (opt == 's') seed = strtoull(optarg, NULL, 10) * 2654435761u + 88172645463325252u;
        else return 2;
    }
    if (argc - optind < 2) return fprintf(stderr, "usage: load [-c N] [-n N] [-s SEED] PORT GROUP...\n"), 2;
    port = atoi(argv[optind]);
    groups = argv + optind + 1;
    group_n = argc - optind - 1;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 0; i < PATTERN; i++) pattern[i] = (unsigned char)(i % 251);
    ep = epoll_create1(0);
    clients = calloc((size_t)clients_n, sizeof *clients);
    if (!clients) return 1;
    for (int i = 0; i < clients_n; i++) clients[i].fd = -1;
    while (!all_gone()) {
        struct epoll_event events[64];
        int n = epoll_wait(ep, events, 64, 1);
        int64_t now = now_ms();
        for (int i = 0; i < n; i++) { /* a client has one descriptor, so no event is stale */
            client *c = events[i].data.ptr;
            if (c->pause_until <= now || events[i].events & (EPOLLERR | EPOLLHUP)) turn(c, events[i].events, now);
        }
        timers(now);
        int64_t done = ok + failed + abandoned;
        if (done >= reported + wanted / 200) printf("at %lld\n", (long long)(reported = done));
    }
    printf("end %lld %lld %lld\n", (long long)ok, (long long)failed, (long long)abandoned);
    return 0;
}
