/* Clients: each has one connection, a list of requests, and a character. */

enum { LIST = 6 };
enum { STAY, LEAVE, SLAM, HALF }; /* how it ends: waits for ldcorn's end, FIN, RST, shutdown */

typedef struct client {
    int number;
    end *e;
    reader rd;
    req *list[LIST];
    uint64_t ends[LIST]; /* bytes of the connection up to the end of each request */
    int n, made, answers;
    char *out;
    size_t out_n, out_at, piece;
    req *tunnel; /* the request that has become one */
    uint64_t tunnel_from, echoed;
    uint64_t gap, sent_all; /* sent_all: bytes written on this connection */
    uint64_t think, read_gap, idle_from, moved_at;
    size_t read_piece;
    bool pipelines, garbage, unix_family, reading, closed, waits_100, admin, head_seen, dull;
    bool sending; /* its next piece is on its way */
    bool slow_reader, owes_close;
    const char *stray;
    int how;
    uint64_t born, leave_at;
    uint32_t alive;
    struct client *next;
} client;

static client *clients;
static int clients_made, clients_open;

static void client_send(void *who);
static void client_sends(client *c, uint64_t at);
static void client_read(void *who);
static void client_go_on(client *c);
static void client_over(void *who);
static void client_tunnel(client *c, req *q);
static void client_load(client *c, text *t);
static void admin_answered(client *c, int status);

static void client_close(client *c, int how) {
    if (c->closed) return;
    for (int i = c->answers; i < c->made; i++) {
        c->list[i]->left = true;
        c->list[i]->slammed = how == SLAM;
    }
    say("client %d %s", c->number, how == SLAM ? "resets" : "closes");
    c->closed = true;
    c->alive++;
    clients_open--;
    if (c->e) end_close(c->e, how == SLAM);
}

/* --- requests --- */

static const char *draw_method(bool *unsafe, bool *head) {
    *head = chance(W.head);
    *unsafe = !*head && chance(W.post);
    if (*head) return "HEAD";
    if (*unsafe) return coin() ? "POST" : "PUT";
    return chance(100) ? "OPTIONS" : "GET";
}

static uint32_t draw_size(void) {
    uint64_t most = chance(W.big) ? 150000 : chance(300) ? 6000 : 200;
    if (K.sock_room < 200 && most > 3000) most = 3000;
    return coin() ? 0 : (uint32_t)span(1, most);
}

static void draw_trouble(req *q) {
    plan *a = &q->plan;
    if (S.healed) return;
    a->silent = chance(W.silent);
    if (chance(W.broken)) a->broken = 1 + (int)below(B_KINDS - 2);
    if (q->size && chance(W.quits)) a->broken = B_QUITS;
    if (chance(W.crash)) a->crash = 1 + (uint32_t)below(300);
    if (a->broken == B_SURPLUS && !has_body(q, a->status)) a->broken = B_NONE;
    if (a->broken == B_SHORT && (!has_body(q, a->status) || a->frame == F_END)) a->broken = B_NONE;
    if (a->broken == B_CHUNK &&
        (!has_body(q, a->status) || a->frame != F_CHUNKED || a->size == 0))
        a->broken = B_NONE;
    if (a->broken == B_101 && q->upgrade) a->broken = B_NONE;
    if (a->broken == B_SURPLUS && a->frame == F_END) a->broken = B_NONE;
}

static void draw_plan(req *q) {
    static const int statuses[] = {200, 200, 200, 200, 201, 204, 304, 404, 500, 503, 299};
    plan *a = &q->plan;
    a->delay = coin() ? below(2000) : chance(W.late) ? span(1 * MS, 20 * SEC) : span(1, 100 * MS);
    a->status = PICK(statuses);
    a->frame = chance(W.eof_answers) ? F_END : coin() ? F_CHUNKED : F_LENGTH;
    a->size = draw_size();
    a->piece = coin() ? 1000000 : (size_t)span(1, 5000);
    if (a->piece * 60 < a->size) a->piece = a->size / 60 + 1;
    a->gap = coin() ? 0 : chance(W.late) ? span(1, 500 * MS) : span(1, 2 * MS);
    if (chance(W.interim)) a->interims = (int)between(1, 3);
    a->odd_interim = chance(W.odd);
    a->odd_framing = chance(W.odd);
    a->says_close = chance(100);
    a->closes = chance(30);
    a->no_date = chance(200);
    a->early = chance(W.early);
    if (q->upgrade) a->status = coin() ? 101 : 400;
    draw_trouble(q);
    if (a->status == 101) a->broken = B_NONE, a->crash = 0;
}

static req *draw_request(client *c, int group) {
    req *q;
    if (T.requests == MOST_REQUESTS) return NULL;
    q = (req *)take(sizeof *q);
    q->id = (uint32_t)T.requests;
    T.reqs[T.requests++] = q;
    S.requests++;
    q->group = group;
    q->method = draw_method(&q->unsafe, &q->head);
    q->http10 = chance(W.http10);
    if (q->unsafe) q->size = draw_size();
    q->chunked = q->size && !q->http10 && chance(W.chunked);
    q->expect = q->size && !q->http10 && chance(W.expect);
    q->close = chance(60);
    q->keep_asked = q->http10 && coin();
    q->upgrade = strcmp(q->method, "GET") == 0 && !q->http10 && !q->close && chance(W.upgrade);
    /* a head and a body that take a good part of the shortest time-out, or a few bytes in each turn */
    q->slow = c->gap > 20 * MS || K.sock_room < 100 ||
              c->gap * ((600 + q->size * (q->chunked ? 6 : 1)) / c->piece + 1) > 100 * MS;
    draw_plan(q);
    return q;
}

static void write_chunks(text *t, const req *q) {
    uint32_t i = 0;
    while (i < q->size) {
        uint32_t k = 1 + (uint32_t)below(q->size - i);
        text_fmt(t, "%x\r\n", k);
        text_pattern(t, q->id + 1000000, i, k);
        text_put(t, "\r\n", 2);
        i += k;
    }
    text_fmt(t, chance(100) ? "0\r\nT: x\r\n\r\n" : "0\r\n\r\n");
}

static void write_request(text *t, const req *q) {
    text_fmt(t, "%s /g%d/%u HTTP/1.%d\r\nHost: sim\r\nX-Request-Id: sim%u\r\n", q->method, q->group,
             q->id, q->http10 ? 0 : 1, q->id);
    if (chance(100)) text_fmt(t, "Cookie: %0*d\r\n", (int)between(1, 300), 7);
    if (q->keep_asked) text_fmt(t, "Connection: keep-alive\r\n");
    if (q->close) text_fmt(t, "Connection: close\r\n");
    if (q->expect) text_fmt(t, "Expect: 100-continue\r\n");
    if (q->upgrade) text_fmt(t, "Connection: Upgrade\r\nUpgrade: sim\r\n");
    if (q->chunked)
        text_fmt(t, "Transfer-Encoding: chunked\r\n");
    else if (q->size || q->unsafe)
        text_fmt(t, "Content-Length: %u\r\n", q->size);
    text_fmt(t, "\r\n");
    if (q->chunked)
        write_chunks(t, q);
    else
        text_pattern(t, q->id + 1000000, 0, q->size);
}

/* --- sending --- */

static bool req_persists(const req *q) {
    return !q->close && !q->upgrade && (!q->http10 || q->keep_asked);
}

static void client_load(client *c, text *t) {
    size_t least = (size_t)(c->gap * t->n / (300 * SEC)); /* slow, but not for hours */
    if (c->piece <= least) c->piece = least + 1;
    c->out = t->p;
    c->out_n = t->n;
    c->out_at = 0;
    client_sends(c, S.now + c->think / 2 + below(c->think / 2 + 1));
}

static void client_make(client *c) { /* the next request, or all of them */
    text t = {0};
    do {
        req *q = c->list[c->made];
        if (c->stray && (c->made == 0 || coin())) text_put(&t, "\r\n", 2);
        q->first = c->made == c->answers;
        q->begun_at = S.now;
        q->asker = c->e;
        q->patience = oracle_wait(q->group);
        write_request(&t, q);
        c->ends[c->made++] = c->sent_all + t.n;
        if (!req_persists(q)) c->n = c->made;
    } while (c->pipelines && c->made < c->n);
    client_load(c, &t);
}

static void client_sent(client *c) { /* which requests are out? */
    for (int i = c->answers; i < c->made; i++) {
        req *q = c->list[i];
        if (q->sent || c->sent_all < c->ends[i]) continue;
        q->sent = true;
        q->sent_at = S.now;
        say("client %d has sent request %u: %s g%d, %u bytes", c->number, q->id, q->method,
            q->group, q->size);
        oracle_sent(q);
    }
}

/* Its next piece, once, whoever asks for it. */
static void client_sends(client *c, uint64_t at) {
    if (c->sending) return;
    c->sending = true;
    at_if(at, client_send, c, &c->alive);
}

static void client_send(void *who) {
    client *c = (client *)who;
    size_t n = c->out_n - c->out_at;
    ssize_t k;
    c->sending = false;
    if (c->closed || c->out_at == c->out_n) return;
    if (n > c->piece) n = c->piece;
    k = end_write(c->e, c->out + c->out_at, n);
    if (k < 0 && errno == EAGAIN) return; /* GOT_ROOM comes */
    if (k < 0) {                          /* they do not listen any more; what they said counts */
        c->out_at = c->out_n;
        if (c->admin) admin_answered(c, 599); /* it was not heard to its end */
        if (!c->e->in.n) client_close(c, LEAVE);
        return;
    }
    c->moved_at = S.now;
    c->out_at += (size_t)k;
    c->sent_all += (uint64_t)k;
    client_sent(c);
    if (c->answers < c->made && (c->sent_all >= c->ends[c->answers] || chance(100)))
        worker_quits(c->list[c->answers]);
    if (c->out_at < c->out_n)
        client_sends(c, S.now + (c->gap ? 1 + below(c->gap) : 0));
}

/* ldcorn has read some: whole requests are now known to it, in this order. */
static void client_was_read(client *c) {
    for (int i = c->answers; i < c->made; i++) {
        req *q = c->list[i];
        if (q->read_call || c->e->peer->read < c->ends[i]) continue;
        q->read_call = K.call;
        q->read_at = S.now;
        q->read_turn = S.turns;
    }
}

/* --- answers --- */

static void client_done(client *c) { /* no request is left */
    text t = {0};
    c->idle_from = S.now;
    if (c->stray) {
        text_put(&t, c->stray, strlen(c->stray));
        client_load(c, &t);
    }
    if (c->how == STAY) return;
    c->leave_at = S.now + span(1, 2 * SEC);
}

static void client_over(void *who) {
    client *c = (client *)who;
    if (c->closed) return;
    if (c->leave_at > S.now) {
        at_if(c->leave_at, client_over, c, &c->alive);
        return;
    }
    client_close(c, c->how == SLAM ? SLAM : LEAVE);
}

static void client_go_on(client *c) {
    if (c->closed) return;
    if (c->made < c->n) {
        client_make(c);
        return;
    }
    if (c->answers < c->made) return;
    client_done(c);
    if (c->leave_at) at_if(c->leave_at, client_over, c, &c->alive);
}

/* An answer has come to its end, or the connection has. */
static void client_answered(client *c, bool cut) {
    req *q = c->answers < c->made ? c->list[c->answers] : NULL;
    reader *r = &c->rd;
    if (q && q->upgrade && r->status == 101) return;
    if (c->admin) {
        admin_answered(c, r->status);
    } else if (q) {
        q->answered = true;
        q->complete = !cut;
        q->cut = cut;
        q->ours = !r->has_tag;
        q->status = r->status;
        q->answered_at = S.now;
        c->answers++;
        say("client %d: request %u has %s%d%s", c->number, q->id, q->ours ? "our " : "", q->status,
            cut ? ", cut" : "");
        oracle_answered(q);
    } else if (!cut) {
        say("client %d is told %d", c->number, r->status);
        if (r->has_tag) fail("answer to nobody", "client %d got the answer %u", c->number, r->tag);
        if (r->status < 400) fail("answer to nobody", "client %d got %d", c->number, r->status);
        r->close = true;
    }
    c->head_seen = false;
    if (cut) return;
    if (r->close || (q && q->close)) {
        c->owes_close = true;
        c->n = c->made;
    }
    if (c->owes_close) return; /* its end comes */
    if (q || c->admin) client_go_on(c);
}

/* A head is in: whose is it, and is it right so far? */
static void client_head(client *c) {
    reader *r = &c->rd;
    req *q = c->answers < c->made ? c->list[c->answers] : NULL;
    c->head_seen = true;
    r->any = !r->has_tag || c->admin;
    if (r->status < 200 && r->status != 101) {
        if (q == NULL) fail("answer to nobody", "client %d got %d", c->number, r->status);
        return;
    }
    if (!r->has_tag) return;
    if (q == NULL || r->tag != q->id)
        fail("answer of another", "client %d: request %d got the answer of %u", c->number,
             q ? (int)q->id : -1, r->tag);
    if (!r->has_date && r->status >= 200) fail("no Date", "request %u", q->id);
    oracle_head(q, r->status);
    if (r->status == 101) client_tunnel(c, q);
}

/* Refused before its first word was in: nobody knew that it would be a HEAD. */
static bool late_head(const req *q) { return q->head && q->status == 408; }

/* --- tunnels: what is sent comes back --- */

static void client_tunnel(client *c, req *q) {
    text t = {0};
    q->answered = q->complete = true;
    q->status = 101;
    q->answered_at = c->tunnel_from = S.now;
    c->answers++;
    c->n = c->made;
    c->tunnel = q;
    c->leave_at = S.now + span(1, 5 * SEC);
    say("client %d has a tunnel, request %u", c->number, q->id);
    text_pattern(&t, q->id + 2000000, 0, (size_t)below(3000));
    client_load(c, &t);
    at_if(c->leave_at, client_over, c, &c->alive);
}

static void client_echo(client *c, const char *p, size_t n) {
    if (!pattern_is(c->tunnel->id + 2000000, c->echoed, p, n) || c->echoed + n > c->out_n)
        fail("tunnel garbled", "client %d: %u bytes at %u", c->number, (unsigned)n,
             (unsigned)c->echoed);
    c->echoed += n;
}

static void client_ended(client *c, bool reset) {
    reader *r = &c->rd;
    if (c->closed) return;
    if (c->tunnel) {
        oracle_tunnel_ended(c, c->tunnel);
        client_close(c, LEAVE);
        return;
    }
    if (r->state == H_BODY && r->frame == F_END && !reset && c->head_seen) {
        r->close = true;
        client_answered(c, false);
    } else if (c->head_seen || r->n) {
        client_answered(c, true);
    }
    for (int i = c->answers, first = i; i < c->made; i++) {
        req *q = c->list[i];
        if (q->answered) continue;
        if (i == first && !reset) oracle_silent_end(c, q);
        q->answered = q->cut = true;
        if (first > 0 || i > first) q->hurt = q->hurt || i > first || c->list[first - 1]->cut;
        q->answered_at = S.now;
        c->answers++;
        say("client %d: request %u: nothing but the end", c->number, q->id);
        oracle_answered(q);
    }
    if (c->admin) admin_answered(c, 0);
    client_close(c, LEAVE);
}

static void client_feed(client *c, const char *p, size_t n) {
    reader *r = &c->rd;
    while (n && !c->closed) {
        req *q = c->answers < c->made ? c->list[c->answers] : NULL;
        size_t used;
        if (r->state == H_TUNNEL) {
            client_echo(c, p, n);
            return;
        }
        r->head_only = q && q->head && q->sent; /* before, nobody knows what it will be */
        r->http10_peer = q && q->http10;
        if (c->owes_close && r->state == H_HEAD && c->answers > 0 && late_head(c->list[c->answers - 1]))
            return;
        if (c->owes_close && r->state == H_HEAD)
            fail("bytes behind the last answer", "client %d: %.*s", c->number, (int)(n < 60 ? n : 60),
                 p);
        used = reader_feed(r, p, n, q ? q->id : 0);
        if (r->broken)
            fail("answer broken", "client %d, request %d: %s: %s", c->number, q ? (int)q->id : -1,
                 r->broken, r->what);
        p += used;
        n -= used;
        if (r->state == H_HEAD) return;
        if (!c->head_seen) client_head(c);
        if (r->state != H_DONE) continue;
        if (r->status < 200 && r->status != 101) {
            if (r->status == 100 && c->waits_100) {
                c->waits_100 = false;
                client_sends(c, S.now);
            }
            c->head_seen = false;
        } else {
            client_answered(c, false);
        }
        reader_next(r);
    }
}

static void client_read(void *who) {
    client *c = (client *)who;
    char block[65536];
    size_t most = c->read_piece < sizeof block ? c->read_piece : sizeof block;
    ssize_t n;
    c->reading = false;
    if (c->closed) return;
    n = end_read(c->e, block, most, false);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        client_ended(c, n < 0);
        return;
    }
    c->moved_at = S.now;
    client_feed(c, block, (size_t)n);
    if (c->closed) return;
    c->reading = true;
    at_if(S.now + (c->read_gap ? 1 + below(c->read_gap) : 0), client_read, c, &c->alive);
}

static void client_notify(end *e, int what) {
    client *c = (client *)e->actor;
    if (c->closed) return;
    if ((what & GOT_ROOM) && c->e->peer) {
        client_was_read(c);
        if (c->out_at < c->out_n && !c->gap) client_sends(c, S.now);
        if (c->out_at < c->out_n && c->gap)
            client_sends(c, S.now + below(c->gap));
    }
    if ((what & (GOT_BYTES | GOT_END | GOT_RESET)) && !c->reading) {
        c->reading = true;
        at_if(S.now + below(c->read_gap + 100), client_read, c, &c->alive);
    }
}

/* --- coming and going --- */

static void client_connect(void *who) {
    client *c = (client *)who;
    end *e;
    int err;
    if (c->closed) return;
    e = end_new(c->unix_family || c->admin);
    e->notify = client_notify;
    e->actor = c;
    if (!e->unix_family) {
        struct sockaddr_in from;
        memset(&from, 0, sizeof from);
        from.sin_family = AF_INET;
        from.sin_addr.s_addr = htonl(0x7f000001u + (uint32_t)(c->number % 5));
        from.sin_port = htons((uint16_t)(1024 + c->number % 60000));
        memcpy(&e->me, &from, sizeof from);
        e->me_len = sizeof from;
        from.sin_port = htons(8000);
        memcpy(&e->you, &from, sizeof from);
        e->you_len = sizeof from;
    }
    err = listener_connect(c->admin         ? "unix:/sim/admin"
                           : c->unix_family ? "unix:/sim/front"
                                            : "127.0.0.1:8000",
                           e);
    if (err == EAGAIN) {
        at_if(S.now + span(1 * MS, 1 * SEC), client_connect, c, &c->alive);
        return;
    }
    if (err) {
        if (!T.stopping) fail("connection refused", "client %d: %s", c->number, strerror(err));
        client_close(c, LEAVE);
        return;
    }
    c->e = e;
    c->born = S.now;
    if (c->garbage || c->dull) {
        if (c->out_n) client_sends(c, S.now + below(c->think + 1));
        return;
    }
    client_go_on(c);
}

static void client_leaves(void *who) { /* in the middle of whatever it is */
    client *c = (client *)who;
    if (!c->closed && c->e) client_close(c, coin() ? LEAVE : SLAM);
}

static void draw_garbage(client *c) {
    static const char *const words[] = {
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET /g0/x HTTP/1.1\r\n\r\n", "\r", "\r\n", "\r\n\r\n\r\n\r\n", "GET /g0/", "\n", "\r\r",
        "SSH-2.0-x\r\n", "POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc",
        "GET /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HEAD /g0/x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", " "};
    const char *w = PICK(words);
    c->garbage = true;
    c->n = 0;
    c->out = take_text("%s", w);
    c->out_n = strlen(w);
    c->out_at = 0;
}

static int draw_group_index(void) {
    for (int i = 0; i < 20; i++) {
        int g = (int)below(GROUPS);
        if (T.now.g[g].present || chance(30)) return g;
    }
    return 0;
}

static const char *draw_stray(void) {
    static const char *const strays[] = {"\r\n", "\r", "\r\n\r\n", "\r\n\r", "\r\n\r\n\r\n"};
    return PICK(strays);
}

static void client_new(void) {
    client *c = (client *)take(sizeof *c);
    int group = draw_group_index();
    c->number = clients_made++;
    c->next = clients;
    clients = c;
    clients_open++;
    c->rd.response = true;
    c->unix_family = coin();
    c->n = (int)between(1, coin() ? 1 : LIST);
    c->think = span(1, 300 * MS);
    c->piece = coin() ? 1000000 : (size_t)span(1, 3000);
    if (c->piece < 1000000 && coin()) c->gap = span(1, 500);
    c->read_piece = coin() ? 1000000 : (size_t)span(200, 20000);
    if (chance(W.slow)) {
        c->gap = span(1 * MS, 3 * SEC);
        c->slow_reader = coin();
        if (c->slow_reader) c->read_gap = span(1 * MS, 2 * SEC), c->read_piece = 1 + below(3000);
        c->piece = (size_t)span(1, 200);
    }
    c->pipelines = chance(W.pipelining);
    if (chance(W.stray)) c->stray = draw_stray();
    c->how = (int)below(3);
    for (int i = 0; i < c->n; i++) {
        c->list[i] = draw_request(c, coin() ? group : draw_group_index());
        if (c->list[i] == NULL) c->n = i;
    }
    if (chance(W.garbage)) draw_garbage(c);
    if (c->n == 0 && !c->garbage) c->dull = true;
    if (chance(W.leave)) at_if(S.now + span(1, 10 * SEC), client_leaves, c, &c->alive);
    client_connect(c);
}

/* --- the crowd: so many at a time, each new one a while after the last --- */

typedef struct crowd {
    int most;
    uint64_t pause;
    int left;
} crowd;

static crowd C;

static void crowd_next(void *who) {
    (void)who;
    if (C.left <= 0 || S.now >= T.end_at || T.stopping) return;
    if (clients_open < C.most) {
        C.left--;
        client_new();
    }
    in(1 + below(C.pause), crowd_next, NULL);
}
