/* faulty: a worker that breaks off where each request tells it to, and writes down what it saw.

       faulty ADDRESS      ADDRESS: a port on 127.0.0.1, or a unix socket's path

   The target is `...?id=ID&f=FAULT`: WHERE, or WHERE-HOW. WHERE it ends, in the order of time:

       before    the first bytes are there, nothing was read    (a closing connection is met)
       head      the head was read
       body      half of the body was read
       ran       all was read: the request has run
       part      half of the answer's head was sent
       cut       half of the answer's body was sent
       after     the answer was sent; no `Connection: close` has told so
       soon      the same, up to 2 ms later

   HOW: fin (the default), rst, kill (SIGKILL to itself), exit. Others: `plain` has no fault, `late`
   answers after 250 ms, `broken` is not HTTP, `twice` answers twice, `early` answers after the head and
   ends. `stale` and `mute` are GETs: the first one on a connection is served; at the next one it is closed
   unread, or read and then closed.

   In the file that $FAULTY_LOG names each request is a line `saw ID FAULT NTH` when its first bytes are
   seen, NTH counting on its connection from 1, and `ran ID FAULT NTH` when all of it was read. One thread;
   Linux. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { CONNS = 256, HEAD_MAX = 8192, BODY_MAX = 1 << 20 };

typedef struct conn {
    int fd, nth;
    bool seen, answers;          /* answers: at `due`, else it ends then; nothing is read until then */
    int64_t due;                 /* us; 0: never */
    char id[32], where[16], how[16];
    size_t len, head;            /* what was read; the head's length, 0: not there yet */
    char in[HEAD_MAX + BODY_MAX + 1];
} conn;

static conn *conns[CONNS];
static int log_fd = -1;

static int64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static bool is(const conn *c, const char *where) { return strcmp(c->where, where) == 0; }

static void note(const conn *c, const char *word) {
    char line[128];
    int n = snprintf(line, sizeof line, "%s %s %s%s%s %d\n", word, c->id, c->where, c->how[0] ? "-" : "",
                     c->how, c->nth);
    if (write(log_fd, line, (size_t)n) != n) _exit(3); /* one write is never torn */
}

/* Ends as the request said. */
static void end(conn *c) {
    struct linger off = {1, 0};
    if (strcmp(c->how, "kill") == 0) kill(getpid(), SIGKILL);
    if (strcmp(c->how, "exit") == 0) _exit(0);
    if (strcmp(c->how, "rst") == 0) setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &off, sizeof off);
    close(c->fd);
    c->fd = -1;
}

static void value(const char *line, const char *name, char *out, size_t room) {
    const char *p = strstr(line, name);
    size_t n = p ? strcspn(p + strlen(name), "& -") : 0;
    snprintf(out, room, "%.*s", (int)n, p ? p + strlen(name) : "");
}

/* The request line is at p. False: it ended there. */
static bool saw(conn *c, const char *p) {
    char line[512];
    const char *dash;
    snprintf(line, sizeof line, "%.*s", (int)strcspn(p, "\r"), p);
    value(line, "id=", c->id, sizeof c->id);
    value(line, "f=", c->where, sizeof c->where);
    dash = strstr(line, "f=") ? strchr(strstr(line, "f="), '-') : NULL;
    snprintf(c->how, sizeof c->how, "%.*s", dash ? (int)strcspn(dash + 1, "& ") : 0, dash ? dash + 1 : "");
    if (c->id[0] == 0) return true; /* a check by the proxy */
    c->seen = true;
    c->nth++;
    note(c, "saw");
    if (!is(c, "before") && !(is(c, "stale") && c->nth > 1)) return true;
    end(c);
    return false;
}

static void put(conn *c, const char *p, size_t n) {
    while (n) {
        struct pollfd ready = {c->fd, POLLOUT, 0};
        ssize_t w = send(c->fd, p, n, MSG_NOSIGNAL);
        if (w < 0 && errno == EAGAIN && poll(&ready, 1, 5000) > 0) continue;
        if (w < 0) return;
        p += w, n -= (size_t)w;
    }
}

static void answer(conn *c) {
    char body[64], all[512];
    int b = snprintf(body, sizeof body, "%s\n", c->id);
    int n = snprintf(all, sizeof all, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", b, body);
    if (is(c, "twice")) /* in one write: what comes later anybody would take for the next answer */
        memcpy(all + n, all, (size_t)n), n *= 2;
    if (is(c, "broken"))
        put(c, "HTTP/1.1 2OO OK\r\n\r\n", 19);
    else
        put(c, all, (size_t)(is(c, "part") ? 20 : is(c, "cut") ? n - b / 2 : n));
    if (is(c, "soon"))
        c->due = now_us() + 1 + rand() % 2000;
    else if (!is(c, "plain") && !is(c, "late") && !is(c, "twice") && !is(c, "stale") && !is(c, "mute"))
        end(c);
}

static size_t body_length(const conn *c) {
    const char *p = strcasestr(c->in, "\r\ncontent-length:");
    return p && p < c->in + c->head ? (size_t)atoll(p + 17) : 0;
}

static bool chunked(const conn *c) {
    const char *p = strcasestr(c->in, "\r\ntransfer-encoding: chunked");
    return p && p < c->in + c->head;
}

/* Bytes of the chunked body up to its end, 0: not there yet. */
static size_t chunks(const conn *c) {
    const char *p = c->in + c->head, *stop = c->in + c->len;
    for (;;) {
        const char *line = strstr(p, "\r\n");
        size_t n = strtoul(p, NULL, 16);
        if (line == NULL || (size_t)(stop - line) < n + 4) return 0;
        p = line + 2 + n + 2;
        if (n == 0) return (size_t)(p - c->in) - c->head;
    }
}

/* Looks at what has come. */
static void work(conn *c) {
    size_t need;
    c->in[c->len] = 0;
    if (!c->seen && strchr(c->in, '\r') && !saw(c, c->in)) return;
    if (c->head == 0) {
        const char *stop = strstr(c->in, "\r\n\r\n");
        if (stop == NULL) return;
        c->head = (size_t)(stop + 4 - c->in);
        if (!c->seen) { /* a check by the proxy */
            put(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 38);
            c->len = c->head = 0;
            return;
        }
        if (is(c, "early")) answer(c);
        else if (is(c, "head")) end(c);
        if (c->fd < 0) return;
    }
    if (is(c, "body") && c->len >= c->head + (chunked(c) ? 2000 : body_length(c) / 2)) {
        end(c);
        return;
    }
    need = chunked(c) ? chunks(c) : body_length(c);
    if ((chunked(c) && need == 0) || c->len < c->head + need) return;
    note(c, "ran");
    c->len -= c->head + need;
    memmove(c->in, c->in + c->head + need, c->len);
    c->head = 0;
    c->seen = false;
    if (is(c, "ran") || is(c, "body") || (is(c, "mute") && c->nth > 1)) end(c);
    else if (is(c, "late")) c->due = now_us() + 250000, c->answers = true;
    else answer(c);
}

/* How much to read at once: not much behind the place where it is to end. */
static size_t room(const conn *c) {
    size_t left = HEAD_MAX + BODY_MAX - c->len;
    return (c->head == 0 || is(c, "body")) && left > 4096 ? 4096 : left;
}

/* Looks at what has not been read. False: it ended there. */
static bool peek(conn *c) {
    ssize_t n = recv(c->fd, c->in, 512, MSG_PEEK);
    c->in[n > 0 ? n : 0] = 0;
    return n <= 0 || strstr(c->in, "\r\n") == NULL || saw(c, c->in);
}

static void due(conn *c) {
    char how[sizeof c->how];
    c->due = 0;
    if (c->answers) {
        c->answers = false;
        answer(c);
        return;
    }
    memcpy(how, c->how, sizeof how); /* what came meanwhile is met by the end of this one */
    if (!peek(c)) return;
    memcpy(c->how, how, sizeof how);
    end(c);
}

static void readable(conn *c) {
    ssize_t n;
    if (!c->seen && c->len == 0 && !peek(c)) return;
    n = recv(c->fd, c->in + c->len, room(c), 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        close(c->fd);
        c->fd = -1;
        return;
    }
    c->len += (size_t)n;
    work(c);
}

static int listen_on(const char *address) {
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    bool unix_socket = strchr(address, '/') != NULL;
    int one = 1, fd = socket(unix_socket ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    snprintf(un.sun_path, sizeof un.sun_path, "%s", address);
    in.sin_port = htons((uint16_t)atoi(address));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (!unix_socket) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* accepted ones inherit it */
    if (bind(fd, unix_socket ? (struct sockaddr *)&un : (struct sockaddr *)&in,
             unix_socket ? sizeof un : sizeof in) < 0 || listen(fd, 1024) < 0) {
        fprintf(stderr, "faulty: %s: %s\n", address, strerror(errno));
        exit(1);
    }
    return fd;
}

static void accept_one(int listener) {
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK), i = 0;
    if (fd < 0) return;
    while (i < CONNS && conns[i]) i++;
    if (i == CONNS || (conns[i] = malloc(sizeof(conn))) == NULL) exit(4);
    memset(conns[i], 0, offsetof(conn, in));
    conns[i]->fd = fd;
}

int main(int argc, char **argv) {
    int listener;
    if (argc != 2) {
        fprintf(stderr, "usage: faulty PORT|PATH\n");
        return 2;
    }
    srand((unsigned)getpid());
    if (getenv("FAULTY_LOG")) log_fd = open(getenv("FAULTY_LOG"), O_WRONLY | O_APPEND | O_CREAT, 0600);
    listener = listen_on(argv[1]);
    for (;;) {
        struct pollfd set[CONNS + 1] = {{listener, POLLIN, 0}};
        int wait = -1;
        int64_t now = now_us();
        for (int i = 0; i < CONNS; i++) {
            conn *c = conns[i];
            int64_t left = c && c->due ? (c->due - now + 999) / 1000 : -1;
            set[i + 1].fd = c && !c->due ? c->fd : -1;
            set[i + 1].events = POLLIN;
            if (c && c->due && left < 0) left = 0;
            if (left >= 0 && (wait < 0 || left < wait)) wait = (int)left;
        }
        poll(set, CONNS + 1, wait);
        for (int i = 0; i < CONNS; i++) {
            conn *c = conns[i];
            if (c == NULL) continue;
            if (c->due && c->due <= now_us()) due(c);
            else if (!c->due && set[i + 1].revents) readable(c);
            if (c->fd >= 0) continue;
            free(c);
            conns[i] = NULL;
        }
        if (set[0].revents) accept_one(listener);
    }
}
