/* upstream: the worker that benchmarks and soaks put behind a proxy.

       upstream [-l LIMIT] ADDRESS      ADDRESS: a port on 127.0.0.1, or a unix socket's path

   The target says what to answer: `.../b/N` is N bytes (byte i is i % 251, so that a client can
   check each one wherever the answer was cut and joined); its query adds `ms=N` (answer after N
   ms), `chunked`, `eof` (no length, the end is the close), `close` (answer, then close). A request
   with a body is answered with "LENGTH SUM\n" of that body, an upgrade with a 101 and an echo.

   It counts what is inside: a request is from its complete head until just before the write that
   can finish its answer, and goes on being inside when the peer has gone, as in a real server that
   computes on. More than LIMIT inside is said on stderr: a proxy that promises a limit never
   causes that line. One thread; Linux. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { PATTERN = 251 * 1024, CHUNK = 8000, IN_MAX = 65536 };

typedef enum { HEAD, BODY, DELAY, ANSWER, ECHO } phase;
typedef enum { CK_SIZE, CK_DATA, CK_DATA_END, CK_TRAILER } chunk_phase;

typedef struct conn {
    int fd;
    phase phase;
    bool inside, close_after, gone, want_out;
    bool chunked_in, chunked_out, head_only, sum;
    chunk_phase ck;
    int64_t body_left, due;      /* due: ns */
    uint64_t got, hash;          /* the request's body: its length and sum */
    int64_t left, seg_left, pos; /* the answer: bytes left, left in this segment, position */
    char head[512];              /* what is to be written before the segment */
    size_t head_len, head_off;
    size_t in_len;
    char protocol[32];           /* that an upgrade asks for */
    struct conn *next, *prev;    /* while it waits for its time */
    char in[IN_MAX];
} conn;

static unsigned char pattern[PATTERN];
static int ep, timer, limit, inside;
static conn *waiting;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void enter(conn *c) {
    c->inside = true;
    if (++inside > limit && limit > 0)
        fprintf(stderr, "upstream: over the limit, %d inside, %d allowed\n", inside, limit);
}

static void leave(conn *c) {
    if (c->inside) inside--;
    c->inside = false;
}

static void drop(conn *c) {
    leave(c);
    close(c->fd);
    free(c);
}

/* The value of `name` in the query, its default when the name stands alone, -1 without it. */
static int64_t query(const char *target, const char *name, int64_t alone) {
    size_t n = strlen(name);
    for (const char *p = strchr(target, '?'); p; p = strpbrk(p, "&")) {
        p++;
        if (strncmp(p, name, n) == 0) return p[n] == '=' ? atoll(p + n + 1) : alone;
    }
    return -1;
}

static void arm(void) {
    int64_t first = 0;
    for (conn *c = waiting; c; c = c->next)
        if (!first || c->due < first) first = c->due;
    struct itimerspec t = {.it_value = {first / 1000000000, first % 1000000000}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &t, NULL);
}

/* Sets up the next piece of a chunked answer, or the end of it. */
static void next_segment(conn *c) {
    const char *end = c->pos ? "\r\n" : "";
    c->seg_left = c->left < CHUNK ? c->left : CHUNK;
    c->head_off = 0;
    c->head_len = (size_t)(c->left ? sprintf(c->head, "%s%x\r\n", end, (unsigned)c->seg_left)
                                   : sprintf(c->head, "%s0\r\n\r\n", end));
    if (!c->left) c->chunked_out = false;
}

static void begin_answer(conn *c) {
    char body[64] = "", length[64] = "";
    if (c->sum) {
        c->left = 0; /* the sum rides in the head's buffer */
        sprintf(body, "%llu %016llx\n", (unsigned long long)c->got, (unsigned long long)c->hash);
        sprintf(length, "Content-Length: %zu\r\n", strlen(body));
    } else if (c->chunked_out) {
        strcpy(length, "Transfer-Encoding: chunked\r\n");
    } else if (c->seg_left >= 0) {
        sprintf(length, "Content-Length: %lld\r\n", (long long)c->left);
    }
    if (c->head_only) c->left = 0, c->chunked_out = false, body[0] = 0;
    c->head_off = 0;
    c->head_len = (size_t)sprintf(c->head,
        "HTTP/1.1 200 OK\r\nServer: upstream\r\nContent-Type: application/octet-stream\r\n%s%s\r\n%s",
        length, c->close_after ? "Connection: close\r\n" : "", body);
    c->seg_left = c->chunked_out ? 0 : c->left;
    c->pos = 0;
    c->phase = ANSWER;
}

static bool answer(conn *c);

static void want(conn *c, bool out) {
    if (c->want_out == out) return;
    c->want_out = out;
    struct epoll_event e = {.events = out ? EPOLLOUT : EPOLLIN, .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
}

/* All of the request is here. False: the connection is gone. */
static bool complete(conn *c) {
    if (c->phase == DELAY) {
        c->next = waiting, c->prev = NULL;
        if (waiting) waiting->prev = c;
        waiting = c;
        arm();
        return true;
    }
    begin_answer(c);
    return answer(c);
}

static void body_bytes(conn *c, const char *p, size_t n) {
    uint64_t h = c->hash;
    for (size_t i = 0; i < n; i++) h = h * 31 + (unsigned char)p[i];
    c->hash = h, c->got += n;
}

/* Eats the body from `p`; says how much was eaten and whether the body is over. */
static size_t eat(conn *c, char *p, size_t n, bool *over) {
    size_t at = 0;
    *over = false;
    if (!c->chunked_in) {
        at = (int64_t)n < c->body_left ? n : (size_t)c->body_left;
        if (c->sum) body_bytes(c, p, at);
        c->body_left -= (int64_t)at;
        *over = c->body_left == 0;
        return at;
    }
    while (at < n) {
        if (c->ck == CK_DATA) {
            size_t k = n - at < (size_t)c->body_left ? n - at : (size_t)c->body_left;
            body_bytes(c, p + at, k);
            at += k, c->body_left -= (int64_t)k;
            if (c->body_left == 0) c->ck = CK_DATA_END;
            continue;
        }
        char *nl = memchr(p + at, '\n', n - at);
        if (!nl) return at;
        bool empty = nl - (p + at) <= 1;
        if (c->ck == CK_SIZE) {
            c->body_left = strtoll(p + at, NULL, 16);
            c->ck = c->body_left ? CK_DATA : CK_TRAILER;
        } else if (c->ck == CK_DATA_END) {
            c->ck = CK_SIZE;
        } else if (empty) {
            *over = true;
        }
        at = (size_t)(nl + 1 - p);
        if (*over) break;
    }
    return at;
}

/* The value of a field, or NULL. `head` ends with a NUL in place of its empty line. */
static const char *field(const char *head, const char *name) {
    size_t n = strlen(name);
    for (const char *p = strstr(head, "\r\n"); p; p = strstr(p, "\r\n")) {
        p += 2;
        if (strncasecmp(p, name, n) == 0 && p[n] == ':') return p + n + 1 + strspn(p + n + 1, " ");
    }
    return NULL;
}

static void parse_head(conn *c) {
    const char *v = field(c->in, "content-length");
    const char *upgrade = field(c->in, "upgrade");
    if (upgrade) snprintf(c->protocol, sizeof c->protocol, "%.*s", (int)strcspn(upgrade, "\r"), upgrade);
    c->body_left = v ? atoll(v) : 0;
    c->chunked_in = (v = field(c->in, "transfer-encoding")) && strncasecmp(v, "chunked", 7) == 0;
    c->close_after = (v = field(c->in, "connection")) && strncasecmp(v, "close", 5) == 0;
    c->head_only = strncmp(c->in, "HEAD ", 5) == 0;
    c->sum = c->chunked_in || c->body_left > 0;
    c->got = c->hash = 0;
    c->ck = CK_SIZE;
    char *target = strchr(c->in, ' '), *end = target ? strpbrk(target + 1, " \r") : NULL;
    if (end) *end = 0;
    else target = c->in;
    const char *b = strstr(target, "/b/");
    c->left = b ? atoll(b + 3) : 128;
    c->seg_left = 0;
    c->chunked_out = query(target, "chunked", 1) >= 0;
    if (query(target, "eof", 1) >= 0) c->close_after = true, c->seg_left = -1;
    if (query(target, "close", 1) >= 0) c->close_after = true;
    int64_t ms = query(target, "ms", 0);
    c->due = ms > 0 ? now_ns() + ms * 1000000 : 0;
    c->phase = upgrade ? ECHO : BODY;
}

static void shift(conn *c, size_t n) {
    c->in_len -= n;
    if (c->in_len) memmove(c->in, c->in + n, c->in_len);
}

/* Echo: what came in is what goes out, through the same buffer. */
static bool echo(conn *c) {
    while (c->head_off < c->head_len) {
        ssize_t n = send(c->fd, c->head + c->head_off, c->head_len - c->head_off, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) return want(c, true), true;
        if (n < 0) return drop(c), false;
        c->head_off += (size_t)n;
    }
    while (c->in_len) {
        ssize_t n = send(c->fd, c->in, c->in_len, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) return want(c, true), true;
        if (n < 0) return drop(c), false;
        shift(c, (size_t)n);
    }
    if (c->gone) return drop(c), false;
    want(c, false);
    return true;
}

/* Takes requests out of the buffer for as long as there are whole ones. */
static bool work(conn *c) {
    for (;;) {
        if (c->phase == ECHO) return echo(c);
        if (c->phase == HEAD) {
            char *end = memmem(c->in, c->in_len, "\r\n\r\n", 4);
            if (!end) return c->in_len < IN_MAX - 1 ? true : (drop(c), false);
            end[2] = 0;
            size_t n = (size_t)(end + 4 - c->in);
            enter(c);
            parse_head(c);
            shift(c, n);
            if (c->phase == ECHO) {
                leave(c);
                c->head_off = 0;
                c->head_len = (size_t)sprintf(c->head, "HTTP/1.1 101 Switching Protocols\r\n"
                    "Upgrade: %s\r\nConnection: Upgrade\r\n\r\n", c->protocol);
                continue;
            }
        }
        if (c->phase != BODY) return true; /* what came early waits its turn */
        bool over;
        shift(c, eat(c, c->in, c->in_len, &over));
        if (!over) return true;
        if (c->due) c->phase = DELAY;
        if (!complete(c)) return false;
        if (c->phase != HEAD) return true;
    }
}

/* Writes the answer. False: the connection is gone. Once it is written the phase is HEAD. */
static bool answer(conn *c) {
    for (;;) {
        if (c->head_off == c->head_len && c->seg_left == 0) {
            if (!c->chunked_out) break;
            next_segment(c);
        }
        size_t at = (size_t)(c->pos % 251), n = (size_t)c->seg_left;
        if (n > PATTERN - at) n = PATTERN - at;
        struct iovec v[2] = {{c->head + c->head_off, c->head_len - c->head_off}, {pattern + at, n}};
        if (!c->chunked_out && (int64_t)n == c->seg_left) leave(c);
        struct msghdr m = {.msg_iov = v, .msg_iovlen = 2};
        ssize_t w = sendmsg(c->fd, &m, MSG_NOSIGNAL);
        if (w < 0 && errno == EAGAIN) return want(c, true), true;
        if (w < 0) return drop(c), false;
        size_t h = (size_t)w < v[0].iov_len ? (size_t)w : v[0].iov_len;
        c->head_off += h;
        c->pos += w - (ssize_t)h, c->seg_left -= w - (ssize_t)h, c->left -= w - (ssize_t)h;
    }
    if (c->close_after) return drop(c), false;
    want(c, false);
    c->phase = HEAD;
    return true;
}

static void readable(conn *c) {
    for (;;) {
        size_t room = IN_MAX - 1 - c->in_len;
        if (!room) break; /* comes again when the buffer has been worked on */
        ssize_t n = recv(c->fd, c->in + c->in_len, room, 0);
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) {
            /* In DELAY the work goes on, as in a real server; the answer will not be read. */
            c->gone = true;
            if (c->phase == DELAY) epoll_ctl(ep, EPOLL_CTL_DEL, c->fd, NULL);
            else if (c->phase == ECHO && n == 0 && c->in_len) return;
            else drop(c);
            return;
        }
        c->in_len += (size_t)n;
        if (!work(c)) return;
        if ((size_t)n < room) return;
        if (c->phase == ANSWER || c->phase == DELAY || c->want_out) return;
    }
}

static void event(conn *c, unsigned events) {
    if (c->want_out) {
        bool lives = c->phase == ECHO ? echo(c) : answer(c);
        if (!lives || c->want_out) return;
        if (!work(c)) return;
    }
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(c);
}

static void timers(void) {
    uint64_t ticks;
    if (read(timer, &ticks, sizeof ticks) < 0) return;
    int64_t now = now_ns();
    for (conn *c = waiting, *next; c; c = next) {
        next = c->next;
        if (c->due > now) continue;
        *(c->prev ? &c->prev->next : &waiting) = c->next;
        if (c->next) c->next->prev = c->prev;
        begin_answer(c);
        if (c->gone) drop(c);
        else if (answer(c) && c->phase == HEAD) work(c);
    }
    arm();
}

static int listen_on(const char *address) {
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    bool unix_socket = strchr(address, '/') != NULL;
    int one = 1, fd = socket(unix_socket ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (unix_socket) {
        snprintf(un.sun_path, sizeof un.sun_path, "%s", address);
        unlink(address);
    } else {
        in.sin_port = htons((uint16_t)atoi(address));
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* accepted ones inherit it */
    }
    struct sockaddr *sa = unix_socket ? (struct sockaddr *)&un : (struct sockaddr *)&in;
    if (bind(fd, sa, unix_socket ? sizeof un : sizeof in) < 0 || listen(fd, 4096) < 0) {
        fprintf(stderr, "upstream: %s: %s\n", address, strerror(errno));
        exit(1);
    }
    return fd;
}

int main(int argc, char **argv) {
    int opt;
    while ((opt = getopt(argc, argv, "l:")) == 'l') limit = atoi(optarg);
    if (opt != -1 || optind + 1 != argc) {
        fprintf(stderr, "usage: upstream [-l LIMIT] PORT|PATH\n");
        return 2;
    }
    for (int i = 0; i < PATTERN; i++) pattern[i] = (unsigned char)(i % 251);
    ep = epoll_create1(0);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    int listener = listen_on(argv[optind]);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = &listener};
    epoll_ctl(ep, EPOLL_CTL_ADD, listener, &e);
    e.data.ptr = &timer;
    epoll_ctl(ep, EPOLL_CTL_ADD, timer, &e);
    for (;;) {
        struct epoll_event events[64];
        int n = epoll_wait(ep, events, 64, -1);
        bool due = false;
        for (int i = 0; i < n; i++) {
            void *who = events[i].data.ptr;
            if (who == &timer) {
                due = true; /* last: it may free a connection that has an event here */
            } else if (who == &listener) {
                int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
                conn *c = fd < 0 ? NULL : malloc(sizeof *c);
                if (!c) continue;
                memset(c, 0, offsetof(conn, in));
                c->fd = fd;
                e.events = EPOLLIN, e.data.ptr = c;
                epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
            } else {
                event(who, events[i].events);
            }
        }
        if (due) timers();
    }
}
