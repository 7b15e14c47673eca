/* What must hold. Each function is called by whoever sees its moment; `fail` ends the run. */

static uint64_t least_of(int64_t a, int64_t b) { /* ms, where NEVER is long */
    uint64_t x = a < 0 ? UINT64_MAX / 4 : (uint64_t)a * MS, y = b < 0 ? UINT64_MAX / 4 : (uint64_t)b * MS;
    return x < y ? x : y;
}

static const group_model *group_next(int g) {
    return T.has_next && T.next.g[g].present ? &T.next.g[g] : &T.now.g[g];
}

/* How long its worker needs for it by its plan. */
static uint64_t plan_time(const req *q) {
    const plan *a = &q->plan;
    return a->delay + a->gap * ((a->size + 200) / a->piece + a->size / (K.sock_room < 100 ? 1 : 100) + 4);
}

/* Things of this run for which a worker may be missing or fail at any time. */
static bool excusable(void) {
    return W.crash || W.exits || W.never_ready || W.sick || W.silent || S.lossy;
}

/* --- order of arrival --- */

static bool orderly(const req *q) {
    const group_model *g = group_now(q->group);
    if (!q->read_call || !q->first || q->upgrade || q->seen > 1 || q->left || q->answered)
        return false;
    if (S.now >= q->read_at + oracle_wait(q->group)) return false; /* it has been refused by now */
    if (q->asker && q->asker->in.n) return false; /* an answer is on its way: it does not wait */
    if (q->size == 0) return true;
    return g->limit > 0 && g->request_buffer == UNSET && !q->slow;
}

/* Part of a head is in a worker: nobody knows yet whose. */
static bool head_under_way(int group) {
    for (const proc *p = procs; p; p = p->next) {
        for (const wconn *w = p->group == group ? p->conns : NULL; w; w = w->next)
            if (w->inside && w->q == NULL && !w->check) return true;
    }
    return false;
}

static void oracle_order(const req *q) {
    const group_model *g = group_now(q->group);
    if (!orderly(q) || S.lossy || T.has_next || g->limit == 0 || g->balance == 3) return;
    if (T.reload_at && S.now - T.reload_at < 60 * SEC) return; /* the limit came or went */
    if (S.now < K.connect_waits + 6 * SEC || head_under_way(q->group)) return; /* one may have begun, and waits for its connect */
    for (int i = q->id > 300 ? (int)q->id - 300 : 0; i < T.requests; i++) {
        const req *o = T.reqs[i];
        if (o == q || o->group != q->group || o->started_at || !orderly(o)) continue;
        if (o->read_turn + 1 < q->read_turn)
            fail("order of arrival", "request %u came in turn %llu and waits, %u in turn %llu began",
                 o->id, (unsigned long long)o->read_turn, q->id, (unsigned long long)q->read_turn);
    }
}

/* --- sick workers --- */

static void oracle_sick(const req *q, const proc *p) {
    const group_model *g = group_now(p->group);
    uint64_t since = p->sick_from > p->ready_at ? p->sick_from : p->ready_at, bound;
    if (!p->sick || S.now < p->sick_from || !g->health || T.has_next || limit_of(p->group)) return;
    if (T.reload_at && S.now - T.reload_at < 120 * SEC) return;
    if (p->one_thread) return; /* it may have been in its backlog for long */
    bound = (uint64_t)(g->health_fails + 2) * (uint64_t)(g->health_interval + g->health_timeout) * MS;
    if (p->pid) /* its predecessor may still be on its way out */
        bound += 60 * SEC + (uint64_t)or_else(g->stop_timeout, 30000) * MS;
    if (S.now > since + bound + 3 * SEC)
        fail("sick worker gets requests", "%s says no to checks for %.1fs and gets request %u",
             proc_name(p), (double)(S.now - since) / SEC, q->id);
}

static void oracle_overrun(void *who);

static void oracle_started(req *q, proc *p) {
    oracle_order(q);
    oracle_sick(q, p);
    if (p->held_at && q->begun_at > p->held_at)
        fail("drained worker gets requests", "%s is drained for %.1fs and gets request %u",
             proc_name(p), (double)(S.now - p->held_at) / SEC, q->id);
    if (q->seen == 1 && group_now(q->group)->run_timeout != UNSET && !q->upgrade)
        in((uint64_t)group_now(q->group)->run_timeout * MS + 10 * SEC, oracle_overrun, q);
}

/* --- answers in time --- */

static client *client_of(const req *q) {
    for (client *c = clients; c; c = c->next) {
        for (int i = 0; i < c->made; i++) {
            if (c->list[i] == q) return c;
        }
    }
    return NULL;
}

/* run_timeout, and more than a standstill, is over: who asked has been told so. */
static void oracle_overrun(void *who) {
    const req *q = (const req *)who;
    const client *c = client_of(q);
    if (q->answered || q->left || q->finished || q->hurt || q->seen > 1 || T.stopping || T.has_next) return;
    if (c == NULL || c->closed || c->read_gap || c->list[c->answers] != q || q->slow) return;
    if (T.reload_at > q->started_at || group_now(q->group)->run_timeout == UNSET) return;
    fail("run_timeout does not end it", "request %u is inside for %.1fs, run_timeout is %.1fs", q->id,
         (double)(S.now - q->started_at) / SEC, (double)group_now(q->group)->run_timeout / 1000);
}

/* How long nothing may be heard of a request: its wait in the queue, a few connects, its gap. */
static uint64_t patience(const req *q) {
    const group_model *a = group_now(q->group), *b = group_next(q->group);
    int64_t wait = model_queue_timeout(a) > model_queue_timeout(b) ? model_queue_timeout(a)
                                                                   : model_queue_timeout(b);
    int64_t gap = model_response(a) > model_response(b) ? model_response(a) : model_response(b);
    if (model_queue_timeout(a) < 0 || model_queue_timeout(b) < 0) wait = 3600 * 1000;
    if (gap < 60000) gap = 60000;
    return (uint64_t)(wait + gap + 3 * 6000 + 40000) * MS;
}

static void oracle_late(void *who) {
    req *q = (req *)who;
    client *c = client_of(q);
    uint64_t from = q->sent_at, due;
    if (q->answered || q->left || c == NULL || c->closed || T.stopping) return;
    if (q->moved_at > from) from = q->moved_at;
    if (q->read_at > from) from = q->read_at; /* before, it waited in the backlog */
    if (c->moved_at > from) from = c->moved_at;
    if (T.paused[q->group] || !T.now.g[q->group].present || c->list[c->answers] != q ||
        c->e->peer->accepted_at == 0) /* it waits for something else */
        from = S.now;
    due = from + patience(q);
    if (due <= S.now)
        fail("no answer", "request %u was sent %.1fs ago, and nothing has come", q->id,
             (double)(S.now - q->sent_at) / SEC);
    at(due + 1, oracle_late, q);
}

/* How long the queue holds what comes now. */
static uint64_t oracle_wait(int group) {
    return least_of(model_queue_timeout(group_now(group)), model_queue_timeout(group_next(group)));
}

static void oracle_sent(req *q) {
    uint64_t wait = oracle_wait(q->group);
    if (wait < q->patience) q->patience = wait;
    in(patience(q), oracle_late, q);
}

static void oracle_head(req *q, int status) {
    if (q->plan.broken == B_STATUS || q->plan.broken == B_GARBAGE) return;
    if (status != q->plan.status && !(q->upgrade))
        fail("status changed", "request %u: the worker said %d, the client got %d", q->id,
             q->plan.status, status);
}

/* --- refusals --- */

static void oracle_502(const req *q) {
    if (q->hurt || q->plan.broken || q->plan.crash || troubled(q->group) || excusable()) return;
    if (T.stopping || q->plan.closes || W.closes_idle) return;
    if (q->seen == 0 && K.connect_waits >= q->read_at) return; /* a full backlog, for longer than connect_timeout */
    if (q->seen == 0 && W.broken) return; /* sent behind an answer that had more bytes than it said */
    if (T.reloads_asked > 2 && q->started_at < T.reload_at) return; /* a third old generation is ended at once */
    if (T.reload_at && plan_time(q) > least_of(model_drain(group_now(q->group)),
                                              model_drain(group_next(q->group))))
        return;
    fail("502 without a cause", "%s request %u: its worker is well: status %d, %s", q->method, q->id,
         q->plan.status, q->plan.odd_framing ? "odd framing" : "plain");
}

static void oracle_503(const req *q) {
    const group_model *g = group_now(q->group), *n = group_next(q->group);
    uint64_t wait = oracle_wait(q->group);
    if (q->patience < wait) wait = q->patience; /* what holds is what held when it came */
    if (T.stopping || excusable() || troubled(q->group)) return;
    if (g->queue != UNSET || n->queue != UNSET) return;
    if (T.now.bad_program || T.next.bad_program) return; /* `replace` may be left with it */
    if (!model_own(g) && (model_listed(g) == 0 || model_listed(n) == 0)) return; /* nobody is in it */
    if (S.now + 10 * MS >= q->begun_at + wait) return;
    if (!g->present || !n->present || W.closes_idle || W.broken) return;
    fail("503 without a cause", "request %u was refused after %.3fs", q->id,
         (double)(S.now - q->read_at) / SEC);
}

static void oracle_504(const req *q) {
    const group_model *g = group_now(q->group), *n = group_next(q->group);
    uint64_t a = least_of(model_response(g), g->run_timeout == UNSET ? NEVER : g->run_timeout);
    uint64_t b = least_of(model_response(n), n->run_timeout == UNSET ? NEVER : n->run_timeout);
    if (b < a) a = b;
    if (excusable() || q->slow || q->plan.early || (q->at && q->at->one_thread)) return;
    if (plan_time(q) + 100 * MS >= a || q->plan.broken || q->plan.crash || W.slow) return;
    if (K.sock_room < 1000 || !q->sent) return; /* the client itself was still at it */
    /* ldcorn got no processor before its head was whole in the worker, or before its body was */
    if (K.stood_at > q->started_at && (q->seen == 0 || q->sent_at > q->started_at)) return;
    fail("504 without a cause", "request %u, %u bytes, takes %.3fs by plan; sockets of %u", q->id,
         q->size, (double)plan_time(q) / SEC, (unsigned)K.sock_room);
}

static void oracle_refused(const req *q) {
    if (q->plan.broken && q->status < 400 && q->head) return; /* no body, so nothing is in doubt */
    if (q->status != 502 && q->status != 504 && q->status != 408 && q->seen > 0 && !q->plan.early &&
        q->status != 413 && !S.lossy && !(q->hurt && !q->unsafe)) /* it came back to the line */
        fail("refused and worked on", "request %u had %d and was in a worker", q->id, q->status);
    switch (q->status) {
    case 404:
        if (!T.now.g[q->group].present || (T.has_next && !T.next.g[q->group].present)) return;
        if (T.reload_at && S.now - T.reload_at < 120 * SEC) return;
        fail("404 without a cause", "request %u", q->id);
    case 408:
        if (q->slow) return;
        if (S.bad.late_turn && K.sock_room < q->size + 1000) return; /* the rest had no room meanwhile */
        fail("408 without a cause", "request %u", q->id);
    case 502: oracle_502(q); return;
    case 503: oracle_503(q); return;
    case 504: oracle_504(q); return;
    default: fail("good request refused", "request %u got %d", q->id, q->status);
    }
}

/* Nothing but an orderly end for a request that was read and no worker has got: there are words for
   whatever kept it from one, unless the answer before announced the end. */
static void oracle_silent_end(const client *c, const req *q) {
    if (!q->sent || !q->read_call || q->seen || c->owes_close || T.stopping || S.lossy || S.bad.memory) return;
    if (c->answers > 0 && c->list[c->answers - 1]->cut) return;
    fail("request swallowed", "request %u was read, and its connection ended without a word", q->id);
}

static void oracle_cut(const req *q) {
    const client *c = client_of(q);
    if (!q->sent || !q->read_call) return; /* its connection was idle for too long, or refused */
    if (q->hurt || q->plan.broken || q->plan.crash || T.stopping || S.lossy || excusable()) return;
    if (K.stood_at > q->started_at && K.sock_room < q->plan.size + 1000) return; /* there was no room for it meanwhile */
    if (q->slow || W.slow || (c && (c->owes_close || c->slow_reader || q->plan.early))) return;
    if (troubled(q->group)) return;
    if (T.reload_at && plan_time(q) > least_of(model_drain(group_now(q->group)),
                                              model_drain(group_next(q->group))))
        return;
    if (plan_time(q) + 100 * MS > least_of(model_response(group_now(q->group)),
                                           group_now(q->group)->run_timeout == UNSET
                                               ? NEVER
                                               : group_now(q->group)->run_timeout))
        return;
    fail("answer lost", "request %u was cut after %d", q->id, q->status);
}

static void oracle_answered(req *q) {
    const client *c = client_of(q);
    bool tells = !(q->http10 && c && c->unix_family); /* no reset there, and no other way */
    if (q->left) return;
    if (q->cut) {
        oracle_cut(q);
        return;
    }
    if (q->ours) {
        oracle_refused(q);
        return;
    }
    if (q->plan.crash && q->plan.frame == F_END) return; /* a process that ends, ends it */
    if (tells && q->plan.broken && q->plan.broken != B_SURPLUS &&
        !(q->plan.broken == B_SHORT && !has_body(q, q->plan.status)))
        fail("broken answer looks whole", "request %u, kind %d", q->id, q->plan.broken);
    if (!tells || (q->hurt && q->plan.frame == F_END)) return; /* nobody can tell */
    if (has_body(q, q->status) && c && c->rd.body != q->plan.size)
        fail("wrong length", "request %u: %llu of %u bytes", q->id,
             (unsigned long long)c->rd.body, q->plan.size);
}

/* --- tunnels --- */

static void oracle_tunnel(const proc *p) {
    int64_t now = group_now(p->group)->tunnels, next = group_next(p->group)->tunnels;
    int n = 0;
    if (now == UNSET || next == UNSET || S.lossy) return;
    if (T.reload_at && S.now - T.reload_at < 60 * SEC) return; /* there were more before */
    for (const wconn *w = p->conns; w; w = w->next) n += w->tunnel && !w->e->peer->closed;
    if (n > (now > next ? now : next)) fail("too many tunnels", "%s has %d", proc_name(p), n);
}

/* Both sides wanted to go on. */
static void oracle_tunnel_ended(const client *c, const req *q) {
    const group_model *g = group_now(q->group);
    if (T.stopping || S.lossy || excusable() || troubled(q->group) || T.touched || T.reload_at) return;
    if (g->tunnel_timeout != UNSET || g->recycle_requests > 0 || g->recycle_after > 0 || g->health ||
        g->on_timeout != UNSET || c->leave_at <= S.now)
        return;
    fail("tunnel lost", "request %u, after %.3fs", q->id, (double)(S.now - c->tunnel_from) / SEC);
}

/* --- a worker is asked to end --- */

static void oracle_asked(const proc *p) {
    uint64_t drain = least_of(model_drain(group_now(p->group)), model_drain(group_next(p->group)));
    if (T.stopping || T.reloads_asked > 2 || p->state != P_RUNNING || excusable() || W.one_thread)
        return;
    for (const wconn *w = p->conns; w; w = w->next) {
        const req *q = w->q;
        if (!w->inside || q == NULL || q->left || q->answered || q->upgrade || !w->whole) continue;
        if (S.now + SEC < q->started_at + drain && q->finished == false)
            fail("asked to end over a request",
                 "%s gets its stop signal with request %u inside since %.1fs, drain_timeout is %.1fs",
                 proc_name(p), q->id, (double)(S.now - q->started_at) / SEC, (double)drain / SEC);
    }
}

/* --- nobody waits while a slot is free --- */

static uint64_t free_since[GROUPS];

/* What came back to the line may stand there beside what fills it; else it holds what was written. */
static void oracle_queue(int g, int queued) {
    int64_t most = group_now(g)->queue;
    if (most == UNSET || T.has_next || troubled(g) || excusable() || W.broken || W.quits) return;
    if (T.reload_at && S.now - T.reload_at < 120 * SEC) return;
    if (queued > most)
        fail("more wait than may", "g%d: %d, queue = %d", g, queued, (int)most);
}

static void oracle_sample(void *who) {
    ldcorn_group_info info;
    bool waits[GROUPS] = {false};
    (void)who;
    if (L == NULL) return;
    for (int i = 0; ldcorn_group_at(L, i, &info); i++) {
        int g = info.name[1] - '0';
        bool present = T.now.g[g].present; /* until a reload that drops it is over, it may be paused */
        if (g < 0 || g >= GROUPS || info.queued == 0 || info.ready == 0) continue;
        if (T.now.g[g].tunnels != UNSET || T.now.g[g].balance == 3) continue;
        if ((T.paused[g] || T.pausing[g] || T.crossed[g]) && present) continue;
        if (T.stopping) continue;
        waits[g] = waits[g] || info.slots == 0 || info.slots > info.inside;
        oracle_queue(g, info.queued);
    }
    for (int g = 0; g < GROUPS; g++) {
        if (!waits[g]) {
            free_since[g] = 0;
            continue;
        }
        if (free_since[g] == 0) free_since[g] = S.now;
        if (S.now - free_since[g] > 4 * SEC && !S.lossy)
            fail("waits while a slot is free", "g%d%s", g,
                 T.now.g[g].present ? "" : ", which was removed");
    }
    in(500 * MS, oracle_sample, NULL);
}

/* --- idle clients go --- */

static void oracle_idle_clients(void) {
    int64_t keep = or_else(T.now.keepalive_timeout, 75000), head = or_else(T.now.header_timeout, 10000);
    for (client *c = clients; c; c = c->next) {
        if (c->closed || c->e == NULL || c->admin || c->answers < c->made || c->made < c->n) continue;
        if (c->out_at < c->out_n || c->tunnel || (c->garbage && c->moved_at == 0)) continue;
        if (T.has_next || (T.reload_at && S.now - T.reload_at < 200 * SEC)) continue;
        if (c->read_gap > SEC) continue;
        uint64_t from = c->moved_at > c->idle_from ? c->moved_at : c->idle_from;
        if (c->e->peer->accepted_at == 0) continue; /* it waits in the backlog */
        if (c->e->peer->accepted_at > from) from = c->e->peer->accepted_at;
        if (S.now > from + (uint64_t)(keep + head + 5000) * MS + 4 * SEC)
            fail("idle client stays", "client %d is idle for %.1fs", c->number,
                 (double)(S.now - from) / SEC);
    }
}

/* --- after quiet, everything is at rest --- */

static const char *rest_groups(char *why, size_t n) {
    ldcorn_group_info info;
    int named = 0, present = 0;
    for (int g = 0; g < GROUPS; g++) present += T.now.g[g].present;
    for (int i = 0; ldcorn_group_at(L, i, &info); i++) {
        int g = info.name[1] - '0', alive[16] = {0};
        named++;
        if (!T.now.g[g].present) return "a removed group is still there";
        if (info.queued) return "requests wait";
        if (info.inside) return "slots are taken";
        if (info.ready != info.workers) {
            snprintf(why, n, "%d of %d workers ready", info.ready, info.workers);
            return "workers are not ready";
        }
        if (!model_own(&T.now.g[g])) continue;
        if (T.scaled[g] && T.scaled_at[g] > T.reload_at && info.workers != T.scaled[g]) {
            snprintf(why, n, "%d workers, not %d", info.workers, T.scaled[g]);
            return "not as many as it was scaled to";
        }
        for (proc *p = procs; p; p = p->next) {
            if (p->pid == 0 || p->group != g || p->state >= P_ZOMBIE) continue;
            if (T.now.g[g].recycle_after > 0 && (p->asked || p->ready_at == 0))
                continue; /* there is always one on its way in or out */
            if (p->index > 15 || p->index >= info.workers) return "a worker too many";
            if (++alive[p->index] > 1) return "two workers of one index";
        }
        for (int k = 0; k < info.workers && k < 16; k++)
            if (alive[k] != 1) return "a worker is missing";
    }
    for (proc *p = procs; p; p = p->next) {
        if (p->pid && p->state < P_ZOMBIE && p->group >= 0 && !T.now.g[p->group].present)
            return "a worker of a removed group lives";
        if (p->pid && p->state == P_ZOMBIE) return "a zombie";
    }
    return named == present ? NULL : "a group is missing";
}

static const char *not_at_rest(char *why, size_t n) {
    const char *what;
    int streams = 0, pipes = 0, live = 0;
    why[0] = 0;
    if (T.has_next) return "a reload is under way";
    if (admins_open) return "an admin request has no answer";
    for (client *c = clients; c; c = c->next) {
        if (!c->closed) {
            snprintf(why, n, "client %d, %d of %d answered", c->number, c->answers, c->made);
            return "a client is there";
        }
    }
    if ((what = rest_groups(why, n)) != NULL) return what;
    for (proc *p = procs; p; p = p->next) live += p->pid && p->state < P_ZOMBIE;
    for (int i = 0; i < K.self.top; i++) {
        const file *f = K.self.fd[i].f;
        streams += f && (f->type == STREAM || (f->type == FRESH_SOCKET && !f->reserved));
        pipes += f && (f->type == PIPE_READ || f->type == PIPE_WRITE);
    }
    if (streams) return "connections are open";
    if (pipes > 2 * live + 4) return "pipes are open";
    return NULL;
}

/* --- the stop --- */

/* Under `wait` nobody looks whether a client whose request is inside a worker has left. */
static bool may_still_read(void) {
    for (int i = T.requests > 300 ? T.requests - 300 : 0; i < T.requests; i++) {
        const req *q = T.reqs[i];
        if (q->left && !q->answered && q->seen && !q->finished && q->at && (!q->hurt || q->seen > 1) &&
            !model_abort_closes(group_now(q->group)))
            return true;
    }
    return false;
}

static bool someone_waits(void) {
    for (client *c = clients; c; c = c->next) {
        if (c->closed || c->e == NULL) continue;
        if (c->answers < c->made || (c->admin && !c->dull) || c->head_seen || c->rd.n) return true;
    }
    return may_still_read();
}

static uint64_t waited_until;

static void oracle_stop(void *who) {
    uint64_t all = (uint64_t)(T.now.shutdown_timeout > T.next.shutdown_timeout || !T.has_next
                                  ? T.now.shutdown_timeout
                                  : T.next.shutdown_timeout) * MS;
    uint64_t grace = 0, lame = (uint64_t)(T.now.lame_duck > 0 ? T.now.lame_duck : 0) * MS;
    bool own = false;
    (void)who;
    if (L == NULL) return;
    if (S.now > T.stop_at + all + (S.bad.late_turn ? 6 : 2) * SEC)
        fail("stop takes too long", "%.1fs, shutdown_timeout is %.1fs",
             (double)(S.now - T.stop_at) / SEC, (double)all / SEC);
    if (someone_waits() || S.now < T.stop_at + lame) waited_until = S.now;
    for (proc *p = procs; p; p = p->next) {
        if (p->pid == 0 || p->state >= P_ZOMBIE) continue;
        own = true;
        if (p->ignores_term) waited_until = S.now; /* it has until stop_timeout */
    }
    if (own && grace < 2 * SEC) grace = 2 * SEC;
    if (!W.upgrade && S.now > waited_until + grace + 4 * SEC)
        fail("stop waits for nobody", "nobody waits for %.1fs, and it goes on",
             (double)(S.now - waited_until) / SEC);
    in(200 * MS, oracle_stop, NULL);
}

/* --- the configuration in force --- */

static void world_config_read(void) {
    T.next = T.file;
    T.has_next = true;
    say("the file is read, edit %d%s", T.file.number, T.file.broken ? ", broken" : "");
}

static void keep_limits(const model *was, const model *is) {
    for (int g = 0; g < GROUPS; g++) {
        if (was->g[g].present && !is->g[g].present) T.limit_kept[g] = was->g[g].limit;
        if (was->g[g].workers != is->g[g].workers) T.scaled[g] = 0;
        if (!was->g[g].present && is->g[g].present) T.paused[g] = false;
    }
}

static void oracle_reloaded(const char *result) {
    bool must_fail = T.next.broken || T.next.bad_program;
    T.reloads_done++;
    say("reload: %s, edit %d", result, T.next.number);
    if (!T.has_next) return;
    T.has_next = false;
    if (strcmp(result, "failed") == 0) {
        T.reloads_failed++;
        return;
    }
    if (T.next.broken && T.next.broken != 3)
        fail("broken file accepted", "edit %d, kind %d", T.next.number, T.next.broken);
    (void)must_fail;
    keep_limits(&T.now, &T.next);
    T.now = T.next;
}

static void on_event(void *user, const ldcorn_event *v) {
    (void)user;
    if (v->kind == LDCORN_RELOADED && v->group[0] == 0) oracle_reloaded(v->text);
}

static void on_line(void *user, ldcorn_level level, const char *p, size_t n) {
    (void)user;
    say("  log %d: %.*s", (int)level, (int)(n > 300 ? 300 : n), p);
    if (n > 30 && memmem(p, n, "times without progress", 22) && !S.bad.spurious)
        fail("ready without progress", "%.*s", (int)(n > 300 ? 300 : n), p);
}
