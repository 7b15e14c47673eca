/* The whole proxy with both of its ends in our hands: an input is a script of what clients and
   workers send and when they leave. Time is ours too, so nothing waits and every run is the same.

   An input is cut into steps by the byte 0xFF. The first one may begin with `o`: options, one letter
   each (see `options`). A step is a letter, for most a digit that says which connection, and text:
     c0TEXT  client 0 sends TEXT (it connects first; 0 to 3, 9 is one of admin)
     C0      client 0 ends its side          k0  and closes
     g0      client 0 stops reading, or reads again
     f0N     client 0 sends N * 1000 bytes of filler
     w0TEXT  the worker sends TEXT on its connection 0 (in the order in which they were accepted,
             `*` is the youngest one)        W v h F as C k g f
     tN      N milliseconds pass             s   a turn without anything
     pN      what follows is sent in pieces of N bytes, 0: whole, a turn after each
     PN      ldcorn's sendmsg() takes N bytes at most, 0: any number
     mN      the N-th allocation from here fails
     R       reload                          Q   graceful stop
   After each step ldcorn makes a turn; with `+` in front of the letter it does not. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static int fuzz_clock(clockid_t which, struct timespec *t);
static ssize_t fuzz_sendmsg(int fd, const struct msghdr *m, int flags);
static ssize_t fuzz_write(int fd, const void *p, size_t n);
#define clock_gettime fuzz_clock
#define sendmsg fuzz_sendmsg
#define write fuzz_write
#include "fuzz.h"
#undef clock_gettime
#undef sendmsg
#undef write

enum { CLIENTS = 5, ADMIN = 4, WORKERS = 24, KEPT = 1 << 18 };

typedef struct peer { /* our end of a connection */
    int fd;           /* -1: none */
    bool stalled, eof, broken, ours; /* ours: we ended our side */
    bool free;        /* what comes is not looked at any more */
    char *in;         /* what has come and was not looked at */
    size_t n, got;
    size_t line;
    ldc_chunk chunk;
    ldc_frame frame;  /* of the message under way */
    uint64_t left;
    bool inside;      /* behind a head */
    int heads;
} peer;

static struct {
    uint64_t now; /* microseconds */
    size_t most;  /* of a sendmsg() */
    size_t piece;
    ldcorn *l;
    bool over, dispatch, json;
    int limit;
    peer client[CLIENTS], worker[WORKERS];
    int accepted;
    int listener[2];
} fuzz;

static char folder[64], path_main[96], path_admin[96], path_up[2][96], path_listen[2][104];

/* --- what ldcorn gets from the system --- */

static int fuzz_clock(clockid_t which, struct timespec *t) {
    uint64_t us = fuzz.now + (which == CLOCK_REALTIME ? 1700000000000000ULL : 0);
    t->tv_sec = (time_t)(us / 1000000);
    t->tv_nsec = (long)(us % 1000000) * 1000;
    return 0;
}

static ssize_t fuzz_sendmsg(int fd, const struct msghdr *m, int flags) {
    struct msghdr less = *m;
    struct iovec v[8];
    size_t left = fuzz.most;
    if (left == 0) return sendmsg(fd, m, flags);
    CHECK(m->msg_iovlen <= 8);
    less.msg_iov = v;
    less.msg_iovlen = 0;
    for (size_t i = 0; i < m->msg_iovlen && left; i++) {
        v[i] = m->msg_iov[i];
        if (v[i].iov_len > left) v[i].iov_len = left;
        left -= v[i].iov_len;
        less.msg_iovlen++;
    }
    return sendmsg(fd, &less, flags);
}

/* A line of the access log is one line, whatever the request said. */
static void check_record(const char *p, size_t n) {
    static const char note[] = "ldcorn: "; /* of lines that were dropped */
    int quotes = 0;
    size_t start = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)p[i];
        CHECK(c >= 0x20 || c == '\n' || c == '\t');
        CHECK(c != 0x7f);
        quotes += c == '"';
        if (c != '\n') continue;
        if (fuzz.json)
            CHECK(p[start] == '{' && p[i - 1] == '}');
        else
            CHECK(quotes == 8 || memcmp(p + start, note, sizeof note - 1) == 0);
        quotes = 0;
        start = i + 1;
    }
}

static ssize_t fuzz_write(int fd, const void *p, size_t n) {
    if (fuzz.l && fd >= 0 && fd == fuzz.l->log.access.fd) {
        check_record((const char *)p, n);
        return (ssize_t)n;
    }
    return write(fd, p, n);
}

/* Nor can anybody write lines into ldcorn's own log. */
static void say(void *user, ldcorn_level level, const char *text, size_t n) {
    (void)user, (void)level;
    if (fuzz.l == NULL) return; /* the warnings of ldcorn_open are several lines */
    for (size_t i = 0; i < n; i++) {
        CHECK((unsigned char)text[i] >= 0x20 || text[i] == '\t' ||
              (text[i] == '\n' && i + 1 < n && text[i + 1] == ' '));
    }
}

/* --- our ends --- */

static int unix_socket(const char *path, struct sockaddr_un *a) {
    memset(a, 0, sizeof *a);
    a->sun_family = AF_UNIX;
    strcpy(a->sun_path, path);
    return socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

static void leave_folder(void) {
    char name[128];
    unlink(path_up[0]);
    unlink(path_up[1]);
    unlink(path_main + 5);
    unlink(path_admin + 5);
    snprintf(name, sizeof name, "%s/run/lock", folder);
    unlink(name);
    snprintf(name, sizeof name, "%s/run", folder);
    rmdir(name);
    rmdir(folder);
}

static void set_up(void) {
    const char *tmp = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
    if (folder[0]) return;
    if (snprintf(folder, sizeof folder, "%s/ldcorn-fuzz-XXXXXX", tmp) >= (int)sizeof folder ||
        mkdtemp(folder) == NULL) {
        perror("a temporary folder");
        exit(1);
    }
    atexit(leave_folder);
    snprintf(path_main, sizeof path_main, "unix:%s/main", folder);
    snprintf(path_admin, sizeof path_admin, "unix:%s/admin", folder);
    for (int i = 0; i < 2; i++) {
        struct sockaddr_un a;
        snprintf(path_up[i], sizeof path_up[i], "%s/up%d", folder, i);
        snprintf(path_listen[i], sizeof path_listen[i], "unix:%s", path_up[i]);
        fuzz.listener[i] = unix_socket(path_up[i], &a);
        if (bind(fuzz.listener[i], (struct sockaddr *)&a, sizeof a) < 0 ||
            listen(fuzz.listener[i], 16) < 0) {
            perror(path_up[i]);
            exit(1);
        }
    }
    for (int i = 0; i < CLIENTS; i++) fuzz.client[i].fd = -1;
    for (int i = 0; i < WORKERS; i++) fuzz.worker[i].fd = -1;
}

static void leave(peer *p) {
    if (p->fd >= 0) close(p->fd);
    free(p->in);
    memset(p, 0, sizeof *p);
    p->fd = -1;
}

static void connect_client(peer *p, bool admin) {
    struct sockaddr_un a;
    p->fd = unix_socket((admin ? path_admin : path_main) + 5, &a);
    if (connect(p->fd, (struct sockaddr *)&a, sizeof a) == 0) return;
    leave(p);
}

static void accept_workers(void) {
    for (int i = 0; i < 2; i++) {
        for (;;) {
            struct pollfd look = {accept4(fuzz.listener[i], NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC),
                                  POLLIN, 0};
            peer *p = &fuzz.worker[fuzz.accepted % WORKERS];
            if (look.fd < 0) break;
            poll(&look, 1, 0);
            if ((look.revents & POLLHUP) || p->fd >= 0) { /* a mere look, or one too many */
                close(look.fd);
                continue;
            }
            p->fd = look.fd;
            fuzz.accepted++;
        }
    }
}

/* --- what comes out of ldcorn is well formed --- */

static ldc_head head;

/* Body bytes at p->in; how many belong to the message. Sets p->inside when it is over. */
static size_t body(peer *p) {
    size_t m = p->n, out;
    ptrdiff_t used;
    if (p->frame == LDC_FRAME_LENGTH) {
        if (m > p->left) m = (size_t)p->left;
        p->left -= m;
        p->inside = p->left > 0;
    } else if (p->frame == LDC_FRAME_CHUNKED) {
        used = ldc_chunk_decode(&p->chunk, p->in, p->n, &out);
        CHECK(used >= 0);
        m = (size_t)used;
        p->inside = p->chunk.state != LDC_CHUNK_DONE;
    } else {
        p->inside = p->frame == LDC_FRAME_EOF;
        if (!p->inside) m = 0;
    }
    return m;
}

static int fields(const char *text, size_t n) {
    int lines = -2; /* the first line and the empty one */
    for (size_t i = 0; i < n; i++) lines += text[i] == '\n';
    return lines;
}

/* One head at p->in, from a client's request or for it. False: not there yet, or the rest is free. */
static bool one_head(peer *p, bool worker) {
    ptrdiff_t size = ldc_http_end(p->in, p->n, &p->line);
    ldc_why why = LDC_WHY_NONE;
    CHECK(size != LDC_BAD);
    if (size == LDC_MORE) return false;
    p->line = 0;
    p->heads++;
    memset(&p->chunk, 0, sizeof p->chunk);
    if (worker)
        why = ldc_http_request(&head, p->in, (size_t)size);
    else if (!ldc_http_response(&head, p->in, (size_t)size, false))
        CHECK(fields(p->in, (size_t)size) >= LDC_FIELDS && (p->free = true));
    if (p->free) return false;
    if (why == LDC_WHY_MAX_HEADER) p->free = true; /* 100 fields and ours */
    CHECK(why == LDC_WHY_NONE || p->free);
    if (worker && head.upgrade) p->free = true; /* maybe a tunnel */
    if (!worker && (head.status == 101 || head.status >= 200)) p->free = true;
    p->frame = head.frame;
    p->left = head.length;
    p->inside = worker && (head.frame == LDC_FRAME_CHUNKED || (head.frame == LDC_FRAME_LENGTH && p->left));
    p->n -= (size_t)size;
    memmove(p->in, p->in + size, p->n);
    return !p->free;
}

static void look_at(peer *p, bool worker) {
    while (!p->free && p->n) {
        size_t m;
        if (!p->inside) {
            if (!one_head(p, worker)) break;
            continue;
        }
        m = body(p);
        p->n -= m;
        memmove(p->in, p->in + m, p->n);
    }
    if (p->free) p->n = 0;
}

static void read_all(peer *p, bool worker) {
    while (p->fd >= 0 && !p->stalled && !p->eof && !p->broken) {
        ssize_t n;
        if (p->in == NULL) p->in = (char *)malloc(KEPT);
        if (p->in == NULL) exit(1);
        CHECK(p->n < KEPT); /* a head longer than any that may come */
        n = recv(p->fd, p->in + p->n, KEPT - p->n, 0);
        if (n < 0 && errno == EAGAIN) break;
        if (n <= 0) {
            p->eof = n == 0;
            p->broken = n < 0;
            break;
        }
        p->n += (size_t)n;
        p->got += (size_t)n;
        look_at(p, worker);
    }
}

/* Seen from outside: the connections of a limited worker that ldcorn has not ended are within its
   limit. Tunnels do not count, nor does the other of two workers. */
static void check_limit(void) {
    ldcorn_group_info info;
    CHECK(ldcorn_group_at(fuzz.l, 0, &info));
    CHECK(info.queued >= 0 && info.inside >= 0);
    for (ldc_group *g = fuzz.l->groups; g; g = g->next) {
        for (ldc_worker *w = g->workers; w; w = w->next) {
            int open = 0;
            for (ldc_up *u = w->ups; u; u = u->next) open += !u->probe && !u->tunnel_slot;
            CHECK(fuzz.limit == 0 || w->in_flight <= fuzz.limit);
            CHECK(fuzz.limit == 0 || open <= fuzz.limit);
        }
    }
}

static int step(void) {
    struct pollfd set[128];
    int n;
    if (!fuzz.dispatch) return ldcorn_step(fuzz.l, 0);
    n = ldcorn_collect(fuzz.l, set, 128);
    CHECK(n <= 128 && ldcorn_timeout(fuzz.l) >= -1);
    CHECK(poll(set, (nfds_t)n, 0) >= 0);
    return ldcorn_dispatch(fuzz.l, set, n);
}

static void turn(void) {
    if (fuzz.over) return;
    fuzz.now += 10;
    fuzz.over = step() == 0;
    accept_workers();
    for (int i = 0; i < CLIENTS; i++) read_all(&fuzz.client[i], false);
    for (int i = 0; i < WORKERS; i++) read_all(&fuzz.worker[i], true);
    if (!fuzz.over) check_limit();
}

/* --- the script --- */

static void transmit(peer *p, const char *text, size_t n) {
    size_t at = 0;
    while (p->fd >= 0 && !p->ours && at < n) {
        size_t m = fuzz.piece && n - at > fuzz.piece ? fuzz.piece : n - at;
        ssize_t w = send(p->fd, text + at, m, MSG_NOSIGNAL);
        if (w <= 0) break;
        at += (size_t)w;
        if (at < n) turn();
    }
}

static void filler(peer *p, size_t thousands) {
    static char text[1000];
    if (text[0] == 0) memset(text, 'x', sizeof text);
    for (size_t i = 0; i < thousands && i < 400 && p->fd >= 0 && !p->ours; i++) {
        if (send(p->fd, text, sizeof text, MSG_NOSIGNAL) < (ssize_t)sizeof text) turn();
    }
}

static size_t number(const char *p, size_t n) {
    size_t v = 0;
    for (size_t i = 0; i < n && i < 7 && isdigit((unsigned char)p[i]); i++) v = v * 10 + (size_t)(p[i] - '0');
    return v;
}

static peer *which(char op, char digit) {
    int i = digit >= '0' && digit <= '9' ? digit - '0' : digit >= 'a' && digit <= 'n' ? digit - 'a' + 10 : 0;
    if (op == 'c' || op == 'C' || op == 'k' || op == 'g' || op == 'f')
        return &fuzz.client[i == 9 ? ADMIN : i % ADMIN];
    if (digit == '*') i = (fuzz.accepted + WORKERS - 1) % WORKERS;
    return &fuzz.worker[i % WORKERS];
}

static void act(const char *p, size_t n) {
    char op = p[0], small = op;
    peer *who = n > 1 ? which(op, p[1]) : NULL;
    size_t v = n > 1 ? number(p + 1, n - 1) : 0;
    switch (op) {
    case 't': fuzz.now += v * 1000; return;
    case 'p': fuzz.piece = v; return;
    case 'P': fuzz.most = v; return;
    case 'm': fuzz_fail = (long)v; return;
    case 'R': ldcorn_reload(fuzz.l, &(ldcorn_error){0}); return;
    case 'Q': ldcorn_stop(fuzz.l); return;
    default: break;
    }
    if (who == NULL) return;
    if ((op == 'c' || op == 'f') && who->fd < 0) connect_client(who, who == &fuzz.client[ADMIN]);
    if (op == 'w' || op == 'c') transmit(who, p + 2, n - 2);
    if (op == 'F' || op == 'f') filler(who, number(p + 2, n - 2));
    if (op == 'W') small = 'C';
    if (small == 'C' && who->fd >= 0 && !who->ours) {
        shutdown(who->fd, SHUT_WR);
        who->ours = true;
    }
    if (op == 'k' || op == 'v') leave(who);
    if (op == 'g' || op == 'h') who->stalled = !who->stalled;
}

static void play(const char *p, size_t n) {
    int steps = 0;
    while (n && steps++ < 200 && !fuzz.over) {
        const char *end = (const char *)memchr(p, 0xFF, n);
        size_t m = end ? (size_t)(end - p) : n;
        bool quiet = m > 0 && p[0] == '+';
        if (m > (size_t)quiet) act(p + quiet, m - quiet);
        if (!quiet) turn();
        n -= end ? m + 1 : m;
        p += end ? m + 1 : m;
    }
}

/* --- an instance --- */

static void options(ldcorn_desc *d, ldcorn_group_desc *g, const char *p, size_t n) {
    static const char *const both[] = {path_listen[0], path_listen[1], NULL};
    static const char *const health[] = {"/health", NULL}, *const nobody[] = {"none", NULL};
    static const char *const deep[] = {"/a", "=/b", "/c*", NULL};
    for (size_t i = 0; i < n; i++) {
        switch (p[i]) {
        case '1': fuzz.limit = 1, g->max_req_per_worker = 1; break;
        case '2': fuzz.limit = 2, g->max_req_per_worker = 2; break;
        case '5': g->upstream = both; break;
        case 'q': g->queue = 1; break;
        case 'Q': g->queue = LDCORN_ZERO; break;
        case 'w': g->client_abort = "wait"; break;
        case 'x': g->client_abort = "close"; break;
        case 'W': g->on_timeout = "wait"; break;
        case 'X': g->on_timeout = "close"; break;
        case 'h': g->health_path = health; break;
        case 'k': g->worker_keepalive = LDCORN_ZERO; break;
        case 'b': g->max_body = 10; break;
        case 'r': g->retries = LDCORN_NONE; break;
        case 'n': g->routes = deep; break;
        case 't': g->run_timeout = 2000; break;
        case 'T': g->response_timeout = 1000; break;
        case 'K': d->keepalive_timeout = LDCORN_ZERO; break;
        case 'u': d->trusted_proxies = nobody; break;
        case 'j': d->log_format = "json", fuzz.json = true; break;
        case 'm': d->max_header = 32768; break;
        case 'M': d->max_conns = 2; break;
        case 'd': fuzz.dispatch = true; break;
        default: break;
        }
    }
}

static bool start(const char *p, size_t n) {
    static const char *const all[] = {"*", NULL};
    static const char *const one[] = {path_listen[0], NULL}, *const at[] = {path_main, NULL};
    static char run[80];
    static ldcorn_error error;
    ldcorn_desc d;
    ldcorn_group_desc g;
    memset(&d, 0, sizeof d);
    memset(&g, 0, sizeof g);
    snprintf(run, sizeof run, "%s/run", folder);
    g.name = "app";
    g.routes = all;
    g.upstream = one;
    g.queue = 2;
    d.groups = &g;
    d.group_count = 1;
    d.listen = at;
    d.admin = (const char *const[]){path_admin, NULL};
    d.runtime_dir = run;
    d.max_header = 1024;
    d.access_log = "/dev/null";
    d.log_level = "debug";
    d.logger.line = say;
    d.allocator.resize = fuzz_resize;
    fuzz.now = 1000000000;
    fuzz.most = fuzz.piece = 0;
    fuzz.over = fuzz.dispatch = fuzz.json = false;
    fuzz.limit = fuzz.accepted = 0;
    fuzz_fail = -1;
    options(&d, &g, p, n);
    fuzz.l = NULL;
    fuzz.l = ldcorn_open(&d, &error);
    if (fuzz.l == NULL) CHECK(fuzz.limit && strstr(error.text, "on_timeout") != NULL);
    if (fuzz.l) fuzz.l->id_seed = 1;
    return fuzz.l != NULL;
}

/* Everybody has left: within the longest of all deadlines everything is given back. */
static void all_gone(void) {
    fuzz_fail = -1;
    fuzz.most = 0;
    for (int i = 0; i < CLIENTS; i++) leave(&fuzz.client[i]);
    for (int i = 0; i < 40 && !fuzz.over; i++) {
        for (int k = 0; k < WORKERS; k++) leave(&fuzz.worker[k]);
        if (i > 10) fuzz.now += 4000000; /* what waits for a time waits no longer than this */
        turn();
    }
    for (int k = 0; k < WORKERS; k++) leave(&fuzz.worker[k]);
    if (fuzz.over) return;
    CHECK(fuzz.l->clients == NULL && fuzz.l->clients_count == 0 && fuzz.l->exchanges == NULL);
    for (ldc_group *g = fuzz.l->groups; g; g = g->next) {
        CHECK(g->queued == 0 && g->orphans == 0 && g->head == NULL);
        for (ldc_worker *w = g->workers; w; w = w->next)
            CHECK(w->in_flight == 0 && w->tunnels == 0 && w->parked_count == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *p = (const char *)data, *end = (const char *)memchr(p ? p : "", 0xFF, size);
    size_t n = 0;
    set_up();
    if (size && p[0] == 'o') n = end ? (size_t)(end - p) : size;
    if (!start(p, n)) return 0;
    turn();
    turn();
    play(p + n, size - n);
    all_gone();
    ldcorn_close(fuzz.l);
    fuzz.l = NULL;
    accept_workers();
    for (int i = 0; i < WORKERS; i++) leave(&fuzz.worker[i]);
    CHECK(fuzz_blocks == 0);
    return 0;
}
