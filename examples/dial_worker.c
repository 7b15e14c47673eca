/* dial_worker: a runner for groups with `dial_in`. It connects to the hub and hands each request
   that comes down the connection to a server on this machine, or to a C function in this file.
   cc examples/dial_worker.c -o dial_worker && ./dial_worker hub:7000 --to 127.0.0.1:9000

   Each slot is a process with one connection: what it waits for or dies of is its own affair. The
   first process only starts them, and ends them by closing a pipe, which its own death does too.
   So a slot is never interrupted: it looks at the pipe between two requests. */
#define LDCORN_STATIC
#define LDCORN_IMPLEMENTATION
#include "../ldcorn.h"

static const char usage[] =
    "usage: dial_worker HUB --to ADDRESS     requests go to the HTTP server at ADDRESS\n"
    "       dial_worker HUB --demo           requests go to a C function of examples/dial_worker.c\n"
    "HUB, ADDRESS: host:port, [v6]:port or unix:path; HUB is the `dial_in` of a group\n"
    "  --slots N      N connections, so N requests at once (default 1)\n"
    "  --idle-cpus X  take a request only while X processors of this machine are idle (1.5)\n"
    "  --stat FILE    where to read that, in the form of /proc/stat\n"
    "  -v | -h        version, this text\n"
    "TERM and INT end it when the running requests are answered, a second one at once.\n";

enum {
    SLOTS = 1024,
    LOOK = 200,     /* ms over which idle processors are measured, and between two looks */
    GRACE = 500,    /* ms in which a request may still come that the hub had already sent */
    LINGER = 2000,  /* ms in which the hub may read the end of an answer */
    CONNECT = 5000, /* ms */
    BACKOFF = 100,  /* ms before the second try, doubling */
    BACKOFF_MAX = 10000,
    HEAD = 2 << 20, /* bytes of a head, more than any `max_header` of a hub */
    PIECE = 65536   /* bytes read at once: what is ahead of a slow reader */
};

static struct {
    const char *hub, *to, *stat;
    double idle; /* below 0: not asked for */
    long slots;
} opt = {NULL, NULL, "/proc/stat", -1, 1};

/* Of one slot, which is one process. */
static int number, life, lock; /* life: the pipe that ends; lock: who dials next */
static bool last;              /* the answer under way is the last one on its connection */
static bool unused;            /* the hub closed the connection before a request came */
static ldc_mem mem;
static ldc_head head;
static char piece[PIECE], heads[2][HEAD];

typedef enum ending { NEXT, OVER, FAILED } ending; /* FAILED: wait before dialling again */

static void say(const char *format, ...) LDC_PRINTF(1, 2);
static void say(const char *format, ...) {
    char text[512]; /* in one write, so that lines of several slots stay whole */
    va_list list;
    int n = snprintf(text, sizeof text, number ? "dial_worker %d: " : "dial_worker: ", number);
    va_start(list, format);
    n += vsnprintf(text + n, sizeof text - (size_t)n - 1, format, list);
    va_end(list);
    if (n > (int)sizeof text - 2) n = (int)sizeof text - 2;
    text[n++] = '\n';
    if (write(2, text, (size_t)n) < 0) return; /* nobody to tell */
}

/* --- waiting and connecting --- */

/* False when nothing happens on that descriptor for so long (-1: for ever). */
static bool ready(int fd, short events, int ms) {
    struct pollfd p = {0};
    int r;
    p.fd = fd;
    p.events = events;
    do r = poll(&p, 1, ms);
    while (r < 0 && errno == EINTR);
    return r > 0;
}

/* Sleeps, and is true at once when the first process has ended or wants us to. */
static bool stopped(int ms) { return ready(life, POLLIN, ms); }

static bool connected(int fd, const struct sockaddr *to, socklen_t size) {
    socklen_t n = sizeof errno;
    int e = 0;
    if (connect(fd, to, size) == 0) return true;
    if (errno != EINPROGRESS) return false;
    if (!ready(fd, POLLOUT, CONNECT)) {
        errno = ETIMEDOUT;
        return false;
    }
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &n) == 0 && e == 0) return true;
    if (e) errno = e;
    return false;
}

static int reach_unix(const char *path) {
    struct sockaddr_un to;
    int fd = ldc_net_socket(AF_UNIX);
    memset(&to, 0, sizeof to);
    to.sun_family = AF_UNIX;
    memcpy(to.sun_path, path, strlen(path));
    if (fd >= 0 && !connected(fd, (struct sockaddr *)&to, sizeof to)) {
        close(fd);
        fd = -1;
    }
    return fd;
}

/* A connection to an address that `addressed` has seen. -1, and why. */
static int reach(const char *where, const char **why) {
    struct addrinfo hints, *all = NULL;
    const char *port = strrchr(where, ':') + 1;
    char host[256];
    int fd = -1, r;
    if (strncmp(where, "unix:", 5) == 0) {
        fd = reach_unix(where + 5);
    } else {
        bool v6 = where[0] == '[';
        snprintf(host, sizeof host, "%.*s", (int)(port - where - 1 - 2 * v6), where + v6);
        memset(&hints, 0, sizeof hints);
        hints.ai_socktype = SOCK_STREAM;
        r = getaddrinfo(host, port, &hints, &all); /* each time: the hub may have moved */
        if (r) {
            *why = gai_strerror(r);
            return -1;
        }
        for (struct addrinfo *a = all; a && fd < 0; a = a->ai_next) {
            fd = ldc_net_socket(a->ai_family);
            if (fd < 0 || connected(fd, a->ai_addr, a->ai_addrlen)) continue;
            close(fd);
            fd = -1;
        }
    }
    *why = strerror(errno);
    if (all) freeaddrinfo(all);
    return fd;
}

/* Ends a connection on which an answer went out. Closing while bytes are unread would be a reset,
   which can overtake the answer, so what the hub still sends is read away. */
static void linger(int fd) {
    shutdown(fd, SHUT_WR);
    while (ready(fd, POLLIN, LINGER)) {
        ssize_t n = recv(fd, piece, sizeof piece, 0);
        if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN)) break;
    }
}

/* --- one request to a server: two flows between the same two descriptors --- */

typedef struct flow {
    int from, to;
    char *in;          /* heads that are not complete, in `heads` */
    size_t have, line; /* bytes there; where ldc_http_end looks on */
    ldc_buf out;       /* what `to` has not taken; only while this is empty more is read */
    ldc_frame frame;   /* of the body; bytes of it are passed on as they are */
    uint64_t left;
    ldc_chunk chunk;
    bool begun, done; /* its head is through; its last byte was read */
} flow;

static bool flow_waits(const flow *f) { return ldc_buf_size(&f->out) > 0; }

/* Where `to` is gone (-1) the bytes are too. */
static bool flow_flush(flow *f) {
    if (f->to < 0) ldc_buf_free(&mem, &f->out);
    while (flow_waits(f)) {
        ssize_t w = send(f->to, ldc_buf_at(&f->out), ldc_buf_size(&f->out), LDC_SENDFLAGS);
        if (w < 0 && errno == EINTR) continue;
        if (w < 0) return errno == EAGAIN || errno == EWOULDBLOCK;
        ldc_buf_drop(&mem, &f->out, (size_t)w);
    }
    return true;
}

/* Passes on the bytes of the body among these. The chunk decoder works in place, so it comes
   behind the copy; here it only has to find the end. */
static bool flow_body(flow *f, char *p, size_t n) {
    ptrdiff_t used = (ptrdiff_t)n;
    size_t body;
    if (f->frame == LDC_FRAME_NONE) used = 0;
    if (f->frame == LDC_FRAME_LENGTH && n > f->left) used = (ptrdiff_t)f->left;
    if (!ldc_buf_add(&mem, &f->out, p, (size_t)used)) return false;
    if (f->frame == LDC_FRAME_CHUNKED) {
        used = ldc_chunk_decode(&f->chunk, p, n, &body);
        if (used < 0) return false;
        f->out.len -= (uint32_t)(n - (size_t)used);
        f->done = f->chunk.state == LDC_CHUNK_DONE;
    }
    if (f->frame == LDC_FRAME_LENGTH) f->done = (f->left -= (uint64_t)used) == 0;
    return true;
}

static void flow_begin(flow *f, const ldc_head *h) {
    f->begun = true;
    f->frame = h->frame;
    f->left = h->length;
    f->done = h->frame == LDC_FRAME_NONE || (h->frame == LDC_FRAME_LENGTH && h->length == 0);
}

/* Reads once. Bytes, 0 for none at present, -1 at the end, -2 after a reset. */
static ssize_t flow_read(const flow *f) {
    ssize_t n = recv(f->from, piece, sizeof piece, 0);
    if (n > 0) return n;
    if (n == 0) return -1;
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? 0 : -2;
}

/* Its source has ended: nothing waits then. A tunnel may go on the other way. */
static ending flow_end(flow *f) {
    f->done = true;
    if (f->frame == LDC_FRAME_TUNNEL) shutdown(f->to, SHUT_WR);
    return NEXT;
}

/* The head that the server gets: the hub's, but for the connection, which is for this request
   alone. So nothing of one request can be taken for a part of the next one. */
static bool request_write(ldc_buf *b) {
    if (!ldc_buf_room(&mem, b, head.size + 256 + LDC_FIELDS)) return false;
    ldc_http_put(b, head.method.p, head.method.n);
    ldc_http_line(b, " ", ldc_util_str(head.target.p, head.target.n));
    b->len -= 2; /* the line goes on */
    ldc_http_put(b, " HTTP/1.1\r\n", 11);
    ldc_http_copy(b, &head);
    if (head.frame == LDC_FRAME_LENGTH) ldc_http_length(b, head.length);
    if (head.frame == LDC_FRAME_CHUNKED) ldc_http_put(b, "Transfer-Encoding: chunked\r\n", 28);
    if (ldc_http_upgrades(&head)) {
        ldc_http_put(b, "Connection: upgrade\r\n", 21);
        ldc_http_line(b, "Upgrade: ", ldc_http_value(&head, LDC_FIELD_UPGRADE));
    } else {
        ldc_http_put(b, "Connection: close\r\n", 19);
    }
    ldc_http_put(b, "\r\n", 2);
    return true;
}

/* Looks for a head in what has come and these bytes. Its size, LDC_MORE or LDC_BAD. */
static ptrdiff_t flow_head(flow *f, const char *p, size_t n) {
    size_t room = (size_t)(heads[f->in < heads[1] ? 0 : 1] + HEAD - f->in);
    if (n > room - f->have) return LDC_BAD;
    memcpy(f->in + f->have, p, n);
    f->have += n;
    return ldc_http_end(f->in, f->have, &f->line);
}

static void flow_behind(flow *f, ptrdiff_t head_size) {
    f->in += head_size;
    f->have -= (size_t)head_size;
    f->line = 0;
}

/* Reads the hub's request up to the end of its head, and what came with it of the body. */
static bool request_read(flow *req, bool *head_only, bool *upgrade) {
    ptrdiff_t n = LDC_MORE;
    while (n == LDC_MORE) {
        ssize_t r = ready(req->from, POLLIN, CONNECT) ? flow_read(req) : -1;
        if (r < 0) return false;
        n = flow_head(req, piece, (size_t)r);
    }
    if (n < 0 || ldc_http_request(&head, req->in, (size_t)n)) return false;
    *head_only = ldc_util_is(head.method, "HEAD");
    *upgrade = ldc_http_upgrades(&head);
    flow_begin(req, &head);
    if (!request_write(&req->out)) return false;
    flow_behind(req, n);
    return flow_body(req, req->in, req->have);
}

/* Heads of the answer, 1xx before the last one. False: not a proper answer. */
static bool answer_heads(flow *ans, flow *req, size_t got, bool head_only, bool upgrade) {
    while (!ans->begun) {
        ptrdiff_t n = flow_head(ans, piece, got);
        got = 0;
        if (n == LDC_MORE) return true;
        if (n < 0 || !ldc_http_response(&head, ans->in, (size_t)n, head_only) ||
            (head.status == 101 && !upgrade))
            return false;
        if (head.status >= 200 || head.status == 101) {
            flow_begin(ans, &head);
            /* what the hub cannot know to be whole or answered ends the connection */
            last = opt.idle >= 0 || stopped(0) || head.frame == LDC_FRAME_EOF || !req->done ||
                   flow_waits(req);
        }
        if (head.status == 101) {
            req->frame = ans->frame = LDC_FRAME_TUNNEL;
            req->done = ans->done = false;
        }
        if (!ldc_http_write_response(&mem, &ans->out, &head, head.frame,
                                     last && ans->begun ? "close" : NULL, LDC_S("")))
            return false;
        flow_behind(ans, n);
    }
    return flow_body(ans, ans->in, ans->have);
}

/* An answer of our own. The hub sees `Connection: close`, so it sends nothing more down here. */
static ending refuse(flow *ans, const char *status, const char *text) {
    char out[512];
    int n = snprintf(out, sizeof out,
                     "HTTP/1.1 %s\r\nContent-Type: text/plain; charset=utf-8\r\n"
                     "Content-Length: %zu\r\nConnection: close\r\n\r\n%s",
                     status, strlen(text), text);
    if (send(ans->to, out, (size_t)n, LDC_SENDFLAGS) == n) linger(ans->to);
    return FAILED;
}

/* The server's bytes. NEXT: go on. */
static ending answer_read(flow *ans, flow *req, bool head_only, bool upgrade) {
    ssize_t n = flow_read(ans);
    if (n == 0) return NEXT;
    if (n < 0 && !ans->begun) {
        say("%s ended its connection without an answer", opt.to);
        return refuse(ans, "502 Bad Gateway", "the worker's server gave no answer\n");
    }
    if (n == -1 && (ans->frame == LDC_FRAME_EOF || ans->frame == LDC_FRAME_TUNNEL))
        return flow_end(ans);
    if (n < 0) return FAILED; /* cut: the hub must see that too */
    if (ans->begun) return flow_body(ans, piece, (size_t)n) ? NEXT : FAILED;
    if (answer_heads(ans, req, (size_t)n, head_only, upgrade)) return NEXT;
    if (ans->begun) return FAILED;
    say("%s sent what is not HTTP", opt.to);
    return refuse(ans, "502 Bad Gateway", "the worker's server gave no proper answer\n");
}

/* The hub's bytes. Before its answer is complete the end of the connection means that nobody waits
   for that any more; ours to the server ends then, which is all that HTTP/1 can say. */
static ending request_more(flow *req) {
    ssize_t n = flow_read(req);
    if (n == 0) return NEXT;
    if (n == -1 && req->frame == LDC_FRAME_TUNNEL) return flow_end(req);
    if (n < 0 || req->done) return OVER;
    return flow_body(req, piece, (size_t)n) ? NEXT : FAILED;
}

/* One turn. The server may stop reading the request before its end, and answer all the same. */
static ending relay_turn(flow *req, flow *ans, bool head_only, bool upgrade) {
    bool tunnel = ans->frame == LDC_FRAME_TUNNEL;
    struct pollfd p[3] = {{0}};
    ending r = NEXT;
    p[0].events = (short)((!flow_waits(req) && !(tunnel && req->done) ? POLLIN : 0) |
                          (flow_waits(ans) ? POLLOUT : 0));
    p[1].events =
        (short)((!flow_waits(ans) && !ans->done ? POLLIN : 0) | (flow_waits(req) ? POLLOUT : 0));
    p[2].events = POLLIN;
    p[0].fd = p[0].events ? req->from : -1; /* a hang-up that nobody can act upon would not wait */
    p[1].fd = p[1].events ? ans->from : -1;
    p[2].fd = tunnel ? life : -1; /* tunnels are not waited for */
    if (poll(p, 3, -1) < 0) return errno == EINTR ? NEXT : FAILED;
    if (p[2].revents) return OVER;
    if (p[1].revents && (p[1].events & POLLIN)) r = answer_read(ans, req, head_only, upgrade);
    if (r == NEXT && p[0].revents && (p[0].events & POLLIN)) r = request_more(req);
    if (r != NEXT) return r;
    if (!flow_flush(req)) req->to = -1;
    return flow_flush(req) && flow_flush(ans) ? NEXT : OVER;
}

static ending relay(flow *req, flow *ans) {
    bool head_only, upgrade;
    const char *why;
    ending r = NEXT;
    if (!request_read(req, &head_only, &upgrade))
        return refuse(ans, "400 Bad Request", "the worker cannot read this request\n");
    req->to = ans->from = reach(opt.to, &why);
    if (req->to < 0) {
        say("%s: %s", opt.to, why);
        return refuse(ans, "502 Bad Gateway", "the worker cannot reach its server\n");
    }
    while (r == NEXT &&
           (!ans->done || flow_waits(ans) || (ans->frame == LDC_FRAME_TUNNEL && !req->done)))
        r = relay_turn(req, ans, head_only, upgrade);
    close(ans->from);
    return r == NEXT && (last || !req->done) ? OVER : r;
}

/* --- one request to a C function --- */

/* What one writes oneself: the same kind of function that `function = name` in a group runs. Here
   it gets a body's length, or takes a second. */
static void demo(ldcorn_call *call, void *user) {
    char text[160];
    int n;
    (void)user;
    if (strcmp(call->target, "/slow") == 0) stopped(1000);
    n = snprintf(text, sizeof text, "%s %s with %zu bytes, from slot %d, pid %ld\n", call->method,
                 call->target, call->body_size, number, (long)getpid());
    ldcorn_reply(call, 200, NULL, text, (size_t)n);
}

static int demo_answers; /* on this connection */

static void demo_call(ldcorn_call *call, void *user) {
    last = opt.idle >= 0 || stopped(0);
    ((ldc_serve_call *)(uintptr_t)call->internal)->close |= last;
    demo(call, user);
    demo_answers++;
}

/* What ldcorn_serve does with a connection that it accepted, up to the end of one answer. */
static ending demo_serve(ldc_serve_conn *c) {
    int before = demo_answers;
    while (demo_answers == before || c->out.n) {
        bool writing = c->out.n > 0;
        ready(c->fd, writing ? POLLOUT : POLLIN, -1);
        if (!(writing ? ldc_serve_flush(c) : ldc_serve_read(&mem, c, &head, demo_call, NULL)) &&
            !(c->close && c->out.n))
            return demo_answers > before ? OVER : FAILED;
    }
    return c->close ? OVER : NEXT;
}

/* --- a slot --- */

/* Processors that did nothing since the last call; the first figure is worth nothing. */
static double idle_cpus(void) {
    static double all_before, idle_before;
    double v[8] = {0}, all = 0, idle, cpus = -1, load = 0, part;
    char line[1024];
    FILE *f = fopen(opt.stat, "r");
    while (f && fgets(line, sizeof line, f) && strncmp(line, "cpu", 3) == 0) {
        if (++cpus > 0) continue; /* the first line is the sum; the last figures are in it twice */
        sscanf(line, "cpu %lf %lf %lf %lf %lf %lf %lf %lf", v, v + 1, v + 2, v + 3, v + 4, v + 5,
               v + 6, v + 7);
    }
    if (f) fclose(f);
    if (cpus < 1) /* not Linux: coarse, over a minute */
        return getloadavg(&load, 1) == 1 ? (double)sysconf(_SC_NPROCESSORS_ONLN) - load : 0;
    for (int i = 0; i < 8; i++) all += v[i];
    idle = v[3] + v[4];
    part = all > all_before ? (idle - idle_before) / (all - all_before) : 0;
    all_before = all;
    idle_before = idle;
    return part * cpus;
}

static bool locked(short type) {
    struct flock l;
    memset(&l, 0, sizeof l);
    l.l_type = type;
    l.l_whence = SEEK_SET;
    return fcntl(lock, F_SETLK, &l) == 0;
}

/* With --idle-cpus one slot at a time is connected and free, and it looks anew after it has become
   the one: what the slot before it now runs is in its figure. Otherwise a moment of idleness would
   draw requests into all slots at once. Says once that it waits, or a runner that asks for more
   than there are would never do anything, in silence. False: asked to stop. */
static bool allowed(void) {
    static bool told;
    double idle;
    if (opt.idle < 0) return !stopped(0);
    while (!locked(F_WRLCK)) {
        if (stopped(LOOK)) return false;
    }
    for (;;) {
        idle_cpus();
        if (stopped(LOOK)) return false;
        idle = idle_cpus();
        if (idle >= opt.idle) return true;
        if (!told) say("waits until %g processors are idle, now %.1f are", opt.idle, idle);
        told = true;
    }
}

/* Until a request begins on a free connection. False: it ended, or shall not be used any more. */
static bool awaited(int hub) {
    for (;;) {
        struct pollfd p[2] = {{0}};
        char c;
        p[0].fd = hub;
        p[1].fd = life;
        p[0].events = p[1].events = POLLIN;
        if (poll(p, 2, opt.idle < 0 ? -1 : LOOK) < 0 && errno != EINTR) return false;
        if (p[0].revents) return recv(hub, &c, 1, MSG_PEEK) > 0;
        if (p[1].revents || (opt.idle >= 0 && idle_cpus() < opt.idle)) return false;
    }
}

static ending request_run(int hub, ldc_serve_conn *demo_conn) {
    flow req, ans;
    ending r;
    last = false;
    if (opt.to == NULL) return demo_serve(demo_conn);
    memset(&req, 0, sizeof req);
    memset(&ans, 0, sizeof ans);
    req.from = ans.to = hub;
    req.in = heads[0];
    ans.in = heads[1];
    r = relay(&req, &ans);
    ldc_buf_free(&mem, &req.out);
    ldc_buf_free(&mem, &ans.out);
    return r;
}

/* One connection from its first request to its end. An answer that was cut is ended by a reset,
   or one that runs until the connection ends would look whole. */
static ending connection_run(int hub) {
    struct linger at_once = {1, 0};
    ldc_serve_conn conn;
    ending r = FAILED; /* closed before a request came: turned away, or the hub has ended */
    bool more = awaited(hub);
    memset(&conn, 0, sizeof conn);
    conn.fd = hub;
    ldc_text_init(&conn.out, &mem);
    if (!more && (opt.idle >= 0 || stopped(0))) r = OVER;
    unused = !more && r == FAILED;
    while (more) {
        if (opt.idle >= 0) locked(F_UNLCK);
        r = request_run(hub, &conn);
        /* asked to stop after the head of the answer was out: the hub may have sent one more */
        more = r == NEXT && (stopped(0) ? ready(hub, POLLIN, GRACE) && awaited(hub) : awaited(hub));
    }
    if (r == FAILED) setsockopt(hub, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    if (r == OVER && last) linger(hub);
    ldc_serve_end(&mem, &conn);
    return r;
}

static int backoff(unsigned failures) {
    int full = failures > 7 ? BACKOFF_MAX : BACKOFF << (failures - 1);
    if (full > BACKOFF_MAX) full = BACKOFF_MAX;
    return full / 2 + rand() % (full / 2 + 1); /* or all runners of a hub would come at once */
}

static int slot_run(unsigned failures) {
    const ldcorn_desc none = {0};
    bool told = false, lost = false;
    ldc_public_mem(&mem, &none);
    srand((unsigned)getpid() ^ (unsigned)time(NULL));
    while (!(failures && stopped(backoff(failures))) && allowed()) {
        const char *why;
        int hub = reach(opt.hub, &why);
        if (hub < 0) {
            if (!told) say("%s: %s; trying again", opt.hub, why);
            told = true;
            failures++;
        } else {
            if (told) say("%s: connected", opt.hub);
            told = false;
            ldc_net_keepalive(hub);
            unused = false;
            failures = connection_run(hub) == FAILED ? failures + 1 : 0;
            if (unused && !lost) say("%s: closed before a request came; see its log", opt.hub);
            lost = unused;
        }
        if (opt.idle >= 0) locked(F_UNLCK);
    }
    ldc_mem_done(&mem);
    return 0;
}

/* --- the first process --- */

static pid_t pids[SLOTS];
static time_t since[SLOTS];
static unsigned crashes[SLOTS];

/* Slots catch TERM and INT too: a supervisor may signal all of its processes. Caught and not
   ignored, so that programs which a C function starts have the default again. */
static void nothing(int sig) { (void)sig; }

static bool slot_start(int i, const int ends[2], const sigset_t *mask) {
    pids[i] = fork();
    since[i] = time(NULL);
    if (pids[i] == 0) {
        number = i + 1;
        close(ends[1]);
        sigprocmask(SIG_SETMASK, mask, NULL);
        exit(slot_run(crashes[i]));
    }
    return pids[i] > 0;
}

/* Slots that are left. One that ended unasked is started again, and waits first if that is often. */
static int slots_reap(const int ends[2], const sigset_t *mask, bool stopping) {
    int status, left = 0;
    for (int i = 0; i < opt.slots; i++) {
        if (pids[i] > 0 && waitpid(pids[i], &status, WNOHANG) == pids[i]) {
            pids[i] = 0;
            if (WIFSIGNALED(status))
                say("slot %d ended by signal %d", i + 1, WTERMSIG(status));
            else if (WEXITSTATUS(status))
                say("slot %d ended with status %d", i + 1, WEXITSTATUS(status));
            crashes[i] = time(NULL) - since[i] > 60 ? 1 : crashes[i] + 1;
            if (!stopping && !slot_start(i, ends, mask)) say("fork: %s", strerror(errno));
        }
        left += pids[i] > 0;
    }
    return left;
}

/* Signals are only ever waited for in the first process: nothing is interrupted, none is lost. */
static void signals_block(sigset_t *set, sigset_t *before) {
    static const int all[] = {SIGTERM, SIGINT, SIGCHLD, SIGQUIT};
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_handler = nothing;
    sigemptyset(set);
    for (size_t i = 0; i < LDC_LEN(all); i++) {
        sigaddset(set, all[i]);
        if (all[i] != SIGQUIT) sigaction(all[i], &a, NULL);
    }
    sigprocmask(SIG_BLOCK, set, before);
    signal(SIGPIPE, SIG_IGN);
}

static int run(void) {
    FILE *file = tmpfile();
    sigset_t set, before;
    int ends[2], sig;
    bool stopping = false, at_once = false;
    if (file == NULL || !ldc_net_pipe(ends)) {
        say("%s", strerror(errno));
        return 1;
    }
    lock = fileno(file);
    life = ends[0];
    signals_block(&set, &before);
    for (int i = 0; i < opt.slots; i++) {
        if (!slot_start(i, ends, &before)) say("fork: %s", strerror(errno));
    }
    while (slots_reap(ends, &before, stopping) > 0) {
        if (sigwait(&set, &sig) || sig == SIGCHLD) continue;
        at_once = stopping || sig == SIGQUIT;
        for (int i = 0; i < opt.slots && at_once; i++) {
            if (pids[i] > 0) kill(pids[i], SIGKILL);
        }
        if (!stopping) close(ends[1]);
        stopping = true;
    }
    return !stopping || at_once;
}

/* --- the command line --- */

static bool addressed(const char *s) {
    const char *colon = strrchr(s, ':');
    uint64_t port;
    if (strncmp(s, "unix:", 5) == 0)
        return s[5] && strlen(s + 5) < sizeof((struct sockaddr_un *)NULL)->sun_path;
    return colon && colon > s && colon - s < 256 && (s[0] == '[') == (colon[-1] == ']') &&
           ldc_util_number(ldc_util_z(colon + 1), 65535, &port) && port > 0;
}

static bool numbered(const char *s, double least, double most, double *out) {
    char *end;
    *out = strtod(s, &end);
    return end > s && *end == 0 && *out >= least && *out <= most;
}

static int wrong(const char *what, const char *word) {
    fprintf(stderr, "dial_worker: %s: `%s`\n%s", what, word, usage);
    return 2;
}

/* One option with its value. NULL, or what is wrong. */
static const char *option(const char *name, const char *value) {
    double d = 0;
    if (strcmp(name, "--to") == 0) {
        opt.to = value;
        return addressed(value) ? NULL : "not host:port or unix:path";
    }
    if (strcmp(name, "--slots") == 0) {
        bool good = numbered(value, 1, SLOTS, &d);
        opt.slots = (long)d;
        return good && d == (double)opt.slots ? NULL : "--slots takes 1 to 1024";
    }
    if (strcmp(name, "--idle-cpus") == 0)
        return numbered(value, 0, 4096, &opt.idle) ? NULL : "--idle-cpus takes a number";
    if (strcmp(name, "--stat") != 0) return "unknown option";
    opt.stat = value;
    return NULL;
}

int main(int argc, char **argv) {
    bool with_demo = false;
    for (int i = 1; i < argc; i++) {
        const char *bad;
        if (strcmp(argv[i], "-h") == 0) return fputs(usage, stdout) < 0;
        if (strcmp(argv[i], "-v") == 0) return printf("dial_worker %s\n", ldcorn_version()) < 0;
        if (strcmp(argv[i], "--demo") == 0) {
            with_demo = true;
        } else if (argv[i][0] != '-') {
            if (opt.hub) return wrong("more than one HUB", argv[i]);
            opt.hub = argv[i];
            if (!addressed(opt.hub)) return wrong("not host:port or unix:path", opt.hub);
        } else if (i + 1 == argc) {
            return wrong("unknown, or without its value", argv[i]);
        } else {
            bad = option(argv[i], argv[i + 1]);
            if (bad) return wrong(bad, argv[strcmp(bad, "unknown option") ? i + 1 : i]);
            i++;
        }
    }
    if (opt.hub == NULL) return wrong("HUB is missing", "host:port or unix:path");
    if ((opt.to != NULL) == with_demo) return wrong("one of these is needed", "--to, --demo");
    return run();
}
