/* Workers: processes that ldcorn started, and servers that somebody else runs. Each is a small state
   machine behind its listener; what it does with one request stands in the request's plan. */

typedef struct wconn wconn;

enum { P_FORKED, P_STARTING, P_RUNNING, P_ZOMBIE, P_REAPED };

struct proc {
    pid_t pid; /* 0: a server */
    int state, group, index, generation, version, status;
    int server; /* which one of the group */
    uint32_t alive; /* moves when what was planned for it is void */
    char key[128];
    file *out[2], *fd3; /* stdout and stderr; the listener it was given */
    listener *l;
    file *held; /* what keeps the listener open */
    wconn *conns;
    int open, inside, inside_most;
    uint64_t born, ready_at, asked_at, died_at, sick_from;
    uint64_t last_check, refused_checks;
    bool asked, dying, helper;
    /* what it is like: */
    uint64_t start_delay, term_delay, idle_close, accept_delay, crash_at;
    bool never_ready, exits_early, ignores_term, grandchild, one_thread, sick;
    uint64_t held_at; /* drained since then, 0: not */
    int backlog;
    proc *next;
};

/* A connection from ldcorn. It is looked at as its bytes arrive (the tap), and worked on later. */
struct wconn {
    proc *p;
    end *e;
    reader rd;
    uint64_t tapped; /* bytes that the tap has seen */
    int limit; /* when it began */
    bool accepted, inside, whole, answering, done_reading, dead, tunnel, ended, check, broke;
    bool writing; /* its next piece is on its way */
    bool close_after;
    req *q;
    char *out;
    size_t out_n, out_at, piece, real_n; /* real_n: without surplus */
    uint64_t gap, idle_since;
    uint32_t alive; /* of its events */
    wconn *next, **prev;
};

static proc *procs;
static proc *servers[GROUPS][SERVERS];

static void wconn_take(void *who);
static void wconn_write(void *who);
static void wconn_writes(wconn *w, uint64_t at);
static void wconn_close(wconn *w, bool hard);
static void proc_accept_soon(proc *p);

static bool program_exists(const char *path) { return strcmp(path, "/bin/simw") == 0; }

static const char *proc_name(const proc *p) {
    static char out[4][48];
    static int i;
    i = (i + 1) & 3;
    if (p->pid)
        snprintf(out[i], sizeof out[i], "g%d.%d(%d)", p->group, p->index, (int)p->pid);
    else
        snprintf(out[i], sizeof out[i], "g%d server %d", p->group, p->server);
    return out[i];
}

/* --- inside --- */

static void wconn_begin(wconn *w) { /* the first byte of a request is here */
    w->inside = true;
    w->p->inside++;
    w->limit = limit_of(w->p->group);
    say("%s: the first byte of a request, %d inside", proc_name(w->p), w->p->inside);
}

static void wconn_count(wconn *w) { /* its head is whole */
    proc *p = w->p;
    int limit = limit_of(p->group);
    if (w->limit == 0 || w->limit > limit) limit = w->limit; /* it was let in by that one */
    if (limit == 0 || !w->inside || p->inside <= limit) return;
    fail(w->check ? "check beyond the limit" : "limit", "%s has %d requests inside, its limit is %d",
         proc_name(p), p->inside, limit);
}

static void wconn_finish(wconn *w) { /* the worker is done with it */
    if (!w->inside) return;
    w->inside = false;
    w->p->inside--;
    say("%s is done with request %d, %d inside", proc_name(w->p), w->q ? (int)w->q->id : -1, w->p->inside);
}

/* Did the operator write that closing is good enough? Then what still runs does not count. */
static bool wconn_may_close(const wconn *w) {
    const group_model *g = group_now(w->p->group), *n = T.has_next ? &T.next.g[w->p->group] : g;
    return (!model_own(g) && model_on_timeout(g) == T_CLOSE) || model_abort_closes(g) ||
           (!model_own(n) && model_on_timeout(n) == T_CLOSE) || model_abort_closes(n);
}

/* ldcorn has ended a connection with a request inside: in a limited group that needs a reason. */
static void wconn_abandoned(wconn *w) {
    proc *p = w->p;
    if (limit_of(p->group) == 0 || !w->inside || w->broke || w->check || S.lossy || T.stopping)
        return;
    if (p->asked || p->dying || p->state != P_RUNNING || T.has_next) return;
    if (wconn_may_close(w)) return;
    if (w->q == NULL || w->q->upgrade || w->q->hurt) return;
    if (!w->whole) return; /* it could not be completed */
    fail("closed over a request", "%s: request %u is inside, and ldcorn closed its connection",
         proc_name(p), w->q->id);
}

/* --- the tap --- */

static void tap_head(wconn *w) {
    reader *r = &w->rd;
    unsigned group, id;
    req *q;
    if (strcmp(r->target, "/health") == 0 || strcmp(r->target, "/") == 0) {
        w->check = true;
        w->p->last_check = S.now;
        return;
    }
    if (sscanf(r->target, "/g%u/%u", &group, &id) != 2 || (q = req_find(id)) == NULL)
        fail("request from nowhere", "%s got %s %s", proc_name(w->p), r->method, r->target);
    w->q = q;
    q->seen++;
    q->at = w->p;
    q->moved_at = S.now;
    if (q->started_at == 0) {
        q->started_at = S.now;
        q->started_turn = S.turns;
    }
    say("%s gets %s %u%s", proc_name(w->p), r->method, id, q->seen > 1 ? " again" : "");
    if (q->group != (int)group || q->group != w->p->group)
        fail("wrong group", "request %u of g%d came to %s", id, q->group, proc_name(w->p));
    if (strcmp(r->method, q->method) != 0) fail("wrong request", "request %u as %s", id, r->method);
    if (q->unsafe && q->seen > 1)
        fail("worked on twice", "%s request %u came to a second worker", q->method, id);
    if (q->seen > 2) fail("worked on often", "request %u came to %d workers", id, q->seen);
    if (q->ours && q->answered && q->status != 502 && q->status != 504)
        fail("refused and worked on", "request %u had its %d", id, q->status);
    oracle_started(q, w->p);
}

static void tap(wconn *w) {
    const ring *in = &w->e->in;
    size_t fresh = (size_t)(w->e->in_all - w->tapped), used;
    const char *p = in->p + in->off + (in->n - fresh);
    w->tapped = w->e->in_all;
    while (fresh && !w->tunnel) {
        if (w->whole) {
            if (w->q && w->q->upgrade) return; /* bytes of another protocol */
            if (w->q && w->q->plan.broken == B_SURPLUS) return; /* it came too soon to know */
            fail("two at once", "%s got bytes behind request %u", proc_name(w->p),
                 w->q ? w->q->id : 0);
        }
        if (!w->inside && !w->e->peer->closed) wconn_begin(w);
        used = reader_feed(&w->rd, p, fresh, w->q ? w->q->id + 1000000 : 0);
        if (w->rd.broken)
            fail("request broken", "%s: %s: %s", proc_name(w->p), w->rd.broken, w->rd.what);
        p += used;
        fresh -= used;
        if (w->rd.state != H_HEAD && w->q == NULL && !w->check) {
            tap_head(w);
            wconn_count(w);
        }
        if (w->rd.state == H_DONE) w->whole = true;
    }
    if (w->whole && w->q && w->rd.body != w->q->size)
        fail("request body", "request %u has %llu bytes of body, not %u", w->q->id,
             (unsigned long long)w->rd.body, w->q->size);
}

static void wconn_dead(wconn *w) {
    if (w->dead) return;
    w->dead = true;
    w->alive++;
    wconn_finish(w);
    w->p->open--;
    *w->prev = w->next;
    if (w->next) w->next->prev = w->prev;
    proc_accept_soon(w->p);
}

static void wconn_close(wconn *w, bool hard) {
    if (w->dead) return;
    end_close(w->e, hard);
    wconn_dead(w);
}

/* A worker that breaks off while its request is still on the way, in the very moment its client's next
   piece comes: ldcorn finds both at once. */
static void worker_quits(req *q) {
    for (proc *p = q->plan.broken == B_QUITS ? procs : NULL; p; p = p->next) {
        for (wconn *w = p->conns; w; w = w->next) {
            if (w->q != q || w->whole || w->answering) continue;
            q->hurt = w->broke = true;
            trouble(p->group, 1500 * MS);
            say("%s quits request %u", proc_name(p), q->id);
            wconn_close(w, coin());
            return;
        }
    }
}

static void wconn_echoes(wconn *w);

static void wconn_left(void *who) { /* ldcorn has ended its side, and the worker sees it */
    wconn *w = (wconn *)who;
    if (w->dead) return;
    if (w->tunnel) {
        wconn_echoes(w);
        return;
    }
    if (!w->inside) {
        wconn_close(w, false);
        return;
    }
    if (!w->whole && !w->answering) wconn_close(w, false); /* half a request: dropped */
    /* else it goes on: a worker does not stop when its connection ends */
}

static void wconn_notify(end *e, int what) {
    wconn *w = (wconn *)e->actor;
    if (w->dead) return;
    if (what & GOT_BYTES) {
        tap(w);
        if (w->accepted) at_if(S.now + below(300), wconn_take, w, &w->alive);
    }
    if (what & (GOT_END | GOT_RESET)) {
        bool gone = (what & GOT_RESET) || e->peer->closed || e->peer->shut_rd;
        if (gone) wconn_abandoned(w);
        if (gone && (w->check || wconn_may_close(w))) wconn_finish(w); /* given up */
        w->ended = w->ended || gone;
        if (w->accepted) at_if(S.now + below(2000), wconn_left, w, &w->alive);
    }
    if ((what & GOT_ROOM) && w->tunnel && w->accepted)
        at_if(S.now + below(300), wconn_take, w, &w->alive);
    if ((what & GOT_ROOM) && w->answering && w->out_at < w->out_n)
        wconn_writes(w, S.now + below(200));
}

/* --- answers --- */

typedef struct text {
    char *p;
    size_t n, cap;
} text;

static void text_put(text *t, const char *p, size_t n) {
    if (t->n + n > t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 512;
        char *q;
        while (cap < t->n + n) cap *= 2;
        q = (char *)take(cap);
        if (t->n) memcpy(q, t->p, t->n);
        t->p = q;
        t->cap = cap;
    }
    memcpy(t->p + t->n, p, n);
    t->n += n;
}

static void text_fmt(text *t, const char *format, ...) SIM_PRINTF(2, 3);
static void text_fmt(text *t, const char *format, ...) {
    char line[512];
    va_list list;
    int n;
    va_start(list, format);
    n = vsnprintf(line, sizeof line, format, list);
    va_end(list);
    text_put(t, line, (size_t)n);
}

static void text_pattern(text *t, uint32_t number, uint64_t from, size_t n) {
    while (n) {
        char block[4096];
        size_t k = n < sizeof block ? n : sizeof block;
        pattern_copy(number, from, block, k);
        text_put(t, block, k);
        from += k;
        n -= k;
    }
}

static bool has_body(const req *q, int status) {
    return !q->head && status != 204 && status != 304 && status >= 200;
}

static void answer_body(text *t, const req *q, uint32_t size) {
    const plan *a = &q->plan;
    uint32_t at_byte = 0;
    if (a->frame != F_CHUNKED) {
        text_pattern(t, q->id, 0, size);
        return;
    }
    while (at_byte < size) {
        uint32_t k = 1 + (uint32_t)below(size - at_byte);
        if (a->broken == B_CHUNK && at_byte + k == size) {
            text_fmt(t, "%xZ\r\n", k);
            return;
        }
        text_fmt(t, coin() ? "%x\r\n" : "%X;a=b\r\n", k);
        text_pattern(t, q->id, at_byte, k);
        text_put(t, "\r\n", 2);
        at_byte += k;
    }
    if (a->broken != B_SHORT) text_fmt(t, "0\r\n\r\n");
}

static void answer_head(text *t, const req *q, uint32_t size) {
    const plan *a = &q->plan;
    bool body = has_body(q, a->status);
    text_fmt(t, "HTTP/1.1 %d %s\r\nX-Sim: %u\r\n", a->status, coin() ? "So it is" : "", q->id);
    if (!a->no_date) text_fmt(t, "Date: Mon, 30 Nov 2026 12:00:00 GMT\r\n");
    if (body && a->frame == F_LENGTH)
        text_fmt(t, "Content-Length: %u\r\n", a->broken == B_SHORT ? size + 7 : size);
    if (body && a->frame == F_CHUNKED) text_fmt(t, "Transfer-Encoding: chunked\r\n");
    if (!body && a->odd_framing)
        text_fmt(t, a->frame == F_CHUNKED ? "Transfer-Encoding: chunked\r\n"
                                          : "Content-Length: 5\r\n");
    if (a->says_close) text_fmt(t, "Connection: close\r\n");
    text_fmt(t, "\r\n");
}

static void answer_interims(text *t, const req *q) {
    for (int i = 0; i < q->plan.interims; i++) {
        text_fmt(t, "HTTP/1.1 %d Wait\r\n", coin() ? 102 : 103);
        if (q->plan.odd_interim) {
            if (coin())
                text_fmt(t, "Content-Length: 0\r\n");
            else
                text_fmt(t, "Transfer-Encoding: chunked\r\n");
        }
        text_fmt(t, "Link: </a>\r\n\r\n");
    }
}

/* The whole answer, and whether the connection can stay. */
static bool answer(text *t, const req *q, bool expect) {
    static const char *const garbage[] = {"HTTP/1.1 20x No\r\n\r\n", "SSH-2.0-x\r\n",
                                          "HTTP/1.1 200 OK\nX: y\n\n", "\r\n\r\n",
                                          "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n"
                                          "Content-Length: 4\r\n\r\nabc"};
    const plan *a = &q->plan;
    if (expect && coin()) text_fmt(t, "HTTP/1.1 100 Continue\r\n\r\n");
    if (q->upgrade && a->status == 101) {
        text_fmt(t, "HTTP/1.1 101 Yes\r\nX-Sim: %u\r\nUpgrade: sim\r\nConnection: Upgrade\r\n\r\n",
                 q->id);
        return true;
    }
    answer_interims(t, q);
    if (a->broken == B_GARBAGE || a->broken == B_STATUS) {
        text_fmt(t, "%s", PICK(garbage));
        return false;
    }
    if (a->broken == B_101) {
        text_fmt(t, "HTTP/1.1 101 What\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n");
        return false;
    }
    answer_head(t, q, a->size);
    if (has_body(q, a->status)) answer_body(t, q, a->size);
    if (a->broken == B_SURPLUS) text_fmt(t, "surplus");
    if (a->broken == B_RESET) t->n = (size_t)below(t->n);
    return !(a->says_close || a->closes || a->broken || (has_body(q, a->status) && a->frame == F_END));
}

static void wconn_again(wconn *w) { /* for the next request */
    w->q = NULL;
    w->check = w->whole = w->answering = w->done_reading = w->broke = false;
    w->out = NULL;
    w->out_n = w->out_at = 0;
    w->idle_since = S.now;
    reader_next(&w->rd);
}

static void wconn_idle(void *who) { /* an idle connection is closed by the worker */
    wconn *w = (wconn *)who;
    if (w->dead || w->inside || w->p->idle_close == 0) return;
    if (w->idle_since + w->p->idle_close > S.now) return;
    wconn_close(w, false);
    trouble(w->p->group, 500 * MS);
}

static void proc_die(proc *p, int status);
static void server_falls(void *who);

/* The last byte is written. */
static void wconn_written(wconn *w) {
    req *q = w->q;
    bool cut = q && (q->plan.broken == B_SHORT || q->plan.broken == B_RESET);
    if (q && q->plan.broken == B_NONE) q->finished = true;
    if (q && q->upgrade && q->plan.status == 101 && !w->ended) {
        w->tunnel = true;
        wconn_finish(w);
        oracle_tunnel(w->p);
        return;
    }
    if (!w->close_after && !cut && w->whole && !w->ended) {
        wconn_finish(w);
        wconn_again(w);
        if (w->p->idle_close)
            at_if(S.now + w->p->idle_close, wconn_idle, w, &w->alive);
        proc_accept_soon(w->p);
        return;
    }
    if (q && q->plan.broken == B_SURPLUS) w->broke = true;
    wconn_close(w, q && q->plan.broken == B_RESET);
}

/* Its next piece, once, whoever asks for it. */
static void wconn_writes(wconn *w, uint64_t at) {
    if (w->writing) return;
    w->writing = true;
    at_if(at, wconn_write, w, &w->alive);
}

static void wconn_write(void *who) {
    wconn *w = (wconn *)who;
    size_t n = w->out_n - w->out_at;
    ssize_t k;
    w->writing = false;
    if (w->dead || !w->answering) return;
    if (w->q && w->q->plan.crash && w->out_at + 1 >= w->q->plan.crash) {
        if (w->p->pid)
            proc_die(w->p, 9);
        else if (S.healed)
            wconn_close(w, true);
        else
            server_falls(w->p);
        return;
    }
    if (n > w->piece) n = w->piece;
    if (w->q && w->q->plan.crash && w->out_at + n >= w->q->plan.crash)
        n = w->q->plan.crash - w->out_at - 1;
    k = n ? end_write(w->e, w->out + w->out_at, n) : 0;
    if (k < 0 && errno == EAGAIN) return; /* GOT_ROOM comes */
    if (k < 0) { /* nobody reads it any more */
        wconn_close(w, false);
        return;
    }
    w->out_at += (size_t)k;
    if (w->q) w->q->moved_at = S.now;
    if (w->out_at >= w->real_n && w->whole && w->q && w->q->plan.broken == B_SURPLUS)
        wconn_finish(w); /* the rest is nobody's */
    if (w->out_at == w->out_n) {
        wconn_written(w);
        return;
    }
    wconn_writes(w, S.now + (w->gap ? 1 + below(w->gap) : 0));
}

static void check_answer(wconn *w, text *t) {
    bool sick = w->p->sick && S.now >= w->p->sick_from;
    w->close_after = true;
    if (sick) w->p->refused_checks++;
    text_fmt(t, "HTTP/1.1 %d Check\r\nContent-Length: 2\r\nConnection: close\r\n\r\n%s",
             sick ? 503 : 200, w->rd.method[0] == 'H' ? "" : "ok");
}

static void wconn_answer(void *who) {
    wconn *w = (wconn *)who;
    text t = {0};
    if (w->dead || w->answering) return;
    if (w->q && w->q->plan.silent && !S.healed) { /* looked at again when all is well */
        at_if((T.heal_at > S.now ? T.heal_at : S.now + SEC) + below(2 * SEC), wconn_answer, w,
              &w->alive);
        return;
    }
    if (w->q && w->q->plan.broken == B_QUITS) w->q->plan.broken = B_NONE; /* it had no occasion */
    w->answering = true;
    w->piece = w->q ? w->q->plan.piece : 100000;
    w->gap = w->q ? w->q->plan.gap : 0;
    w->close_after = false;
    if (w->check)
        check_answer(w, &t);
    else
        w->close_after = !answer(&t, w->q, w->rd.expect);
    if (w->q && w->q->plan.broken) {
        w->broke = w->q->hurt = true;
        trouble(w->p->group, 1500 * MS);
    }
    if (w->q && w->q->plan.crash) w->q->hurt = true;
    w->out = t.p;
    w->out_n = w->real_n = t.n;
    if (w->q && w->q->plan.broken == B_SURPLUS) w->real_n -= 7;
    wconn_write(w);
}

/* What came goes back, as far as there is room; the rest waits where it is. */
static void wconn_echoes(wconn *w) {
    char block[3000];
    size_t room = w->e->peer ? ring_room(&w->e->peer->in) : 0;
    ssize_t n;
    if (room == 0 && w->e->in.n && !w->ended && !w->e->peer->closed) {
        at_if(S.now + SEC, wconn_take, w, &w->alive);
        return;
    }
    n = end_read(w->e, block, room < sizeof block && room ? room : sizeof block, false);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0 || end_write(w->e, block, (size_t)n) != n) {
        wconn_close(w, false);
        return;
    }
    at_if(S.now + below(300), wconn_take, w, &w->alive);
}

/* The worker reads what is there, and when the request is whole it begins to work. */
static void wconn_take(void *who) {
    wconn *w = (wconn *)who;
    char block[65536];
    ssize_t n;
    bool head_in;
    if (w->dead || !w->accepted) return;
    if (w->tunnel) {
        wconn_echoes(w);
        return;
    }
    do n = end_read(w->e, block, sizeof block, false);
    while (n > 0);
    head_in = w->q || w->check;
    if (!head_in || w->done_reading) return;
    if (w->q && w->q->expect && w->rd.expect && !w->whole && !w->q->plan.early && !w->answering) {
        if (w->e->peer && ring_room(&w->e->peer->in) >= 25) {
            end_write(w->e, "HTTP/1.1 100 Continue\r\n\r\n", 25);
            w->rd.expect = false;
        }
    }
    if (!w->whole && !(w->q && w->q->plan.early)) return;
    w->done_reading = true;
    at_if(S.now + (w->check ? below(3000) : w->q->plan.delay), wconn_answer, w, &w->alive);
}

/* --- accepting --- */

static void wconn_new(proc *p, end *e) {
    wconn *w = (wconn *)take(sizeof *w);
    w->p = p;
    w->e = e;
    w->idle_since = S.now;
    e->notify = wconn_notify;
    e->actor = w;
    w->next = p->conns;
    w->prev = &p->conns;
    if (p->conns) p->conns->prev = &w->next;
    p->conns = w;
    p->open++;
}

static void proc_accept(void *who) {
    proc *p = (proc *)who;
    while (p->state == P_RUNNING && p->l && !p->l->closed && p->l->waiting) {
        end *e;
        wconn *w;
        if (p->one_thread) { /* one connection at a time, until it is closed */
            bool busy = false;
            for (wconn *o = p->conns; o; o = o->next) busy = busy || (o->accepted && o->inside);
            if (busy) return;
        }
        e = listener_accept(p->l);
        w = (wconn *)e->actor;
        w->accepted = true;
        if (e->in.n) at_if(S.now, wconn_take, w, &w->alive);
        if (e->fin_in || e->reset) at_if(S.now + below(100), wconn_left, w, &w->alive);
    }
}

static void proc_accept_soon(proc *p) {
    if (p->state == P_RUNNING && p->l && p->l->waiting)
        at_if(S.now + below(p->accept_delay + 1), proc_accept, p, &p->alive);
}

static void proc_arrived(listener *l) {
    proc *p = (proc *)l->actor;
    wconn_new(p, l->queue[l->waiting - 1]);
    proc_accept_soon(p);
}

/* --- life --- */

static void draw_nature(proc *p) {
    p->start_delay = chance(W.slow_start) ? span(100 * MS, 4 * SEC) : span(100, 300 * MS);
    p->term_delay = span(10, 300 * MS);
    p->accept_delay = span(1, 2000);
    p->backlog = (int)between(1, 128);
    p->one_thread = chance(W.one_thread);
    if (p->one_thread) p->backlog = 128;
    if (chance(W.closes_idle)) p->idle_close = span(5 * MS, 2 * SEC);
    p->grandchild = chance(W.grandchild);
    if (S.healed) return;
    p->never_ready = p->pid && chance(W.never_ready);
    p->exits_early = p->pid && chance(W.exits);
    p->ignores_term = p->pid && chance(W.ignores_term);
    if (chance(W.crash)) p->crash_at = S.now + span(10 * MS, 20 * SEC);
    if (chance(W.sick) && T.now.g[p->group].health) {
        p->sick = true;
        p->sick_from = S.now + p->start_delay + span(100 * MS, 20 * SEC);
    }
}

static void proc_conns_gone(proc *p) {
    for (wconn *w = p->conns, *next; w; w = next) {
        next = w->next;
        if (w->q) w->q->hurt = true;
        wconn_close(w, false);
    }
}

static void proc_listener_gone(proc *p) {
    if (p->l) {
        p->l->arrived = NULL;
        if (p->fd3 == NULL) listener_close(p->l);
    }
    p->l = NULL;
    for (int i = 0; i < 2; i++) {
        if (p->out[i]) file_drop(p->out[i]);
        p->out[i] = NULL;
    }
    if (p->fd3) file_drop(p->fd3);
    p->fd3 = NULL;
}

static void proc_zombie(void *who) {
    proc *p = (proc *)who;
    if (p->state >= P_ZOMBIE) return;
    p->state = P_ZOMBIE;
    say("%s is dead, status %x", proc_name(p), (unsigned)p->status);
    if (p->pid) signal_ldcorn(SIGCHLD);
}

static void proc_died_listener(void *who) {
    proc *p = (proc *)who;
    if (!p->grandchild) proc_listener_gone(p);
    in(below(2000), proc_zombie, p);
}

/* Connections go first, then the listener, then we hear of it: as a dying process does it. */
static void proc_die(proc *p, int status) {
    if (p->dying || p->state >= P_ZOMBIE) return;
    say("%s dies", proc_name(p));
    p->dying = true;
    p->died_at = S.now;
    p->status = status;
    p->alive++;
    if (!p->asked) trouble(p->group, 3 * SEC);
    if (!p->grandchild || coin()) proc_conns_gone(p);
    in(below(1500), proc_died_listener, p);
}

static void proc_crash(void *who) {
    proc *p = (proc *)who;
    if (S.healed || p->state != P_RUNNING) return;
    proc_die(p, 11);
}

static void proc_listens(void *who) {
    proc *p = (proc *)who;
    if (p->state != P_STARTING) return;
    if (p->exits_early) {
        static const char words[] = "Traceback: no such module\n";
        if (p->out[1]) tube_write(p->out[1]->u.t, words, sizeof words - 1);
        proc_die(p, 1 << 8);
        return;
    }
    if (p->never_ready) return;
    p->state = P_RUNNING;
    p->ready_at = S.now;
    if (p->fd3) {
        p->l = p->fd3->u.l;
    } else {
        if (listener_find(p->key)) fail("address taken", "%s: %s", proc_name(p), p->key);
        if (strncmp(p->key, "unix:", 5) == 0 && !node_find(p->key + 5))
            node_make(p->key + 5, SOCKET_FILE, 0700);
        p->l = listener_new(p->key, p->backlog);
        p->l->listening = true;
    }
    p->l->arrived = proc_arrived;
    p->l->actor = p;
    for (int i = 0; i < p->l->waiting; i++) wconn_new(p, p->l->queue[i]);
    for (wconn *w = p->conns; w; w = w->next) {
        if (w->e->in_all > w->tapped) tap(w);
    }
    changed();
    proc_accept_soon(p);
    if (p->crash_at) at_if(p->crash_at, proc_crash, p, &p->alive);
    say("%s listens at %s", proc_name(p), p->key);
}

static proc *proc_new(void) {
    proc *p = (proc *)take(sizeof *p);
    p->next = procs;
    procs = p;
    p->born = S.now;
    return p;
}

static proc *proc_born(pid_t pid) {
    proc *p = proc_new();
    p->pid = pid;
    p->group = -1;
    p->state = P_FORKED;
    return p;
}

static file *inherit(int fd) {
    file *f = K.child.fd[fd].f;
    if (f) f->refs++;
    return f;
}

/* The program begins: what it knows it has from its arguments and its environment. */
static int proc_exec(proc *p, const char *program, char *const *argv, char *const *env) {
    if (!program_exists(program)) return ENOENT;
    p->group = (int)strtol(argv[1], NULL, 10);
    p->version = (int)strtol(argv[2], NULL, 10);
    for (; *env; env++) {
        if (strncmp(*env, "LDCORN_INDEX=", 13) == 0) p->index = atoi(*env + 13);
        if (strncmp(*env, "LDCORN_GENERATION=", 18) == 0) p->generation = atoi(*env + 18);
    }
    p->out[0] = inherit(1);
    p->out[1] = inherit(2);
    p->fd3 = inherit(3);
    for (int i = 4; i < K.child.top; i++) {
        if (K.child.fd[i].f && !K.child.fd[i].cloexec)
            fail("descriptor leaked", "descriptor %d is open in a worker", i);
    }
    if (argv[3][0] == '/')
        snprintf(p->key, sizeof p->key, "unix:%s", argv[3]);
    else if (p->fd3)
        snprintf(p->key, sizeof p->key, "%s", p->fd3->u.l->key);
    else
        snprintf(p->key, sizeof p->key, "127.0.0.1:%s", argv[3]);
    p->state = P_STARTING;
    draw_nature(p);
    say("%s starts, generation %d", proc_name(p), p->generation);
    at_if(S.now + p->start_delay, proc_listens, p, &p->alive);
    return 0;
}

static void proc_exit(proc *p, int status) { /* before exec */
    p->status = status;
    p->dying = true;
    in(1 + below(500), proc_zombie, p);
}

static void proc_term(void *who) {
    proc *p = (proc *)who;
    if (p->dying) return;
    proc_die(p, 15);
}

static proc *proc_find(pid_t pid) {
    for (proc *p = procs; p; p = p->next) {
        if (p->pid == pid && p->state != P_REAPED) return p;
    }
    return NULL;
}

static bool proc_signal(pid_t pid, int sig) {
    proc *p = proc_find(pid < 0 ? -pid : pid);
    if (p == NULL) return false;
    say("%s gets signal %d%s", proc_name(p), sig, pid < 0 ? " with its group" : "");
    if (pid < 0 && p->state == P_ZOMBIE) { /* what the leader left behind */
        proc_conns_gone(p);
        proc_listener_gone(p);
        return true;
    }
    if (p->state >= P_ZOMBIE) return true;
    p->asked = true;
    if (p->asked_at == 0) p->asked_at = S.now;
    if (p->state == P_STARTING) trouble(p->group, 35 * SEC); /* its start_timeout: the next one comes after a pause */
    if (sig == SIGKILL) {
        if (pid < 0) p->grandchild = false;
        proc_die(p, 9);
    } else if (!p->ignores_term) {
        if (p->state == P_STARTING) p->alive++;
        at_if(S.now + p->term_delay, proc_term, p, &p->alive);
    }
    return true;
}

static pid_t proc_wait(pid_t pid, int *status, int flags) {
    proc *p = proc_find(pid);
    if (p == NULL) {
        errno = ECHILD;
        return -1;
    }
    while (p->state < P_ZOMBIE) { /* a wait in earnest: the world goes on meanwhile */
        if (flags & WNOHANG) return 0;
        if (S.events == 0) fail("asleep for ever", "waitpid() for a process that does not end");
        happen();
    }
    if (status) *status = p->status;
    if (!(flags & WNOWAIT)) {
        p->state = P_REAPED;
        proc_listener_gone(p);
    }
    return pid;
}

/* --- servers that somebody else runs --- */

static void server_up(void *who) {
    proc *p = (proc *)who;
    uint64_t crash;
    if (p->state == P_RUNNING) return;
    p->state = P_STARTING;
    p->dying = p->asked = p->never_ready = p->exits_early = false;
    p->sick = false;
    draw_nature(p);
    p->grandchild = false;
    crash = p->crash_at;
    p->crash_at = 0;
    if (strncmp(p->key, "unix:", 5) == 0 && node_find(p->key + 5)) sys_unlink(p->key + 5);
    p->start_delay = 0;
    proc_listens(p);
    if (crash) at_if(crash, server_falls, p, &p->alive);
}

static void server_falls(void *who) {
    proc *p = (proc *)who;
    if (S.healed || p->state != P_RUNNING) return;
    trouble(p->group, 20 * SEC);
    proc_conns_gone(p);
    proc_listener_gone(p);
    p->alive++;
    p->state = P_STARTING;
    say("%s falls", proc_name(p));
    in(span(10 * MS, 10 * SEC), server_up, p);
}

static void servers_begin(void) {
    for (int g = 0; g < GROUPS; g++) {
        for (int i = 0; i < SERVERS; i++) {
            proc *p = proc_new();
            char address[64];
            server_address(g, i, address);
            snprintf(p->key, sizeof p->key, "%s", address);
            p->group = g;
            p->server = i;
            servers[g][i] = p;
            p->state = P_STARTING;
            server_up(p);
        }
    }
}
