/* What the operator has written: a configuration as a struct, drawn, edited, and rendered to text.
   Numbers that are UNSET are not written; what they then mean stands in the model_ functions. */

enum { GROUPS = 4, SERVERS = 3, UNSET = -100, NEVER = -1 };
enum { BY_SOCKET, BY_PORT, BY_FD, BY_LIST };
enum { R_SWAP, R_ROLLING, R_REPLACE, R_OFF };
enum { T_WAIT, T_RESTART, T_CLOSE };

typedef struct group_model {
    bool present, limited_set;
    int kind, workers, limit, queue, retries, health_fails, max_restarts, recycle_requests;
    int reload, on_timeout, client_abort, balance, tunnels;
    int64_t queue_timeout, response_timeout, run_timeout, connect_timeout, worker_keepalive;
    int64_t health_interval, health_timeout, start_timeout, backoff_max, recycle_after;
    int64_t stop_timeout, drain_timeout, tunnel_drain, tunnel_timeout;
    int64_t request_buffer, response_buffer;
    bool health, listed[SERVERS];
    int version; /* of the code: an edit of cmd */
} group_model;

typedef struct model {
    group_model g[GROUPS];
    int64_t header_timeout, body_timeout, send_timeout, keepalive_timeout, shutdown_timeout;
    int64_t lame_duck, min_rate;
    int max_conns;
    int number;    /* of the edit */
    int broken;    /* 0: not; else how */
    bool bad_program;
    int bad_group; /* whose program does not exist, ends early, or never becomes ready */
} model;

static const char *const group_names[GROUPS] = {"g0", "g1", "g2", "g3"};

/* Of `of_thousand` one of these, else UNSET. */
#define SOMETIMES(of_thousand, array) (chance(of_thousand) ? (int64_t)PICK(array) : UNSET)

static int64_t or_else(int64_t v, int64_t other) { return v == UNSET ? other : v; }

static bool model_own(const group_model *g) { return g->kind != BY_LIST; }
static int64_t model_response(const group_model *g) {
    return or_else(g->response_timeout, g->run_timeout > 0 ? g->run_timeout : 60000);
}
static int64_t model_queue_timeout(const group_model *g) {
    return or_else(g->queue_timeout, g->run_timeout > 30000 ? g->run_timeout : 30000);
}
static int64_t model_drain(const group_model *g) {
    int64_t d = model_response(g) > 30000 ? model_response(g) : 30000;
    if (g->run_timeout > d) d = g->run_timeout;
    return or_else(g->drain_timeout, d);
}
static int model_on_timeout(const group_model *g) {
    return g->on_timeout == UNSET ? (g->limit > 0 ? T_WAIT : T_CLOSE) : g->on_timeout;
}
static bool model_abort_closes(const group_model *g) {
    return g->client_abort == UNSET ? g->limit <= 0 : g->client_abort == T_CLOSE;
}

static int model_listed(const group_model *g) {
    int n = 0;
    for (int i = 0; i < SERVERS; i++) n += g->listed[i];
    return n;
}

static void server_address(int group, int i, char out[64]) {
    if ((group + i) & 1)
        snprintf(out, 64, "unix:/up/%d-%d", group, i);
    else
        snprintf(out, 64, "10.0.%d.%d:80", group, i + 1);
}

/* --- drawn --- */

/* What there is in this run at all, of a thousand each: groups, clients, workers, operators. */
#define SWARM(X)                                                                                   \
    X(limits) X(lists) X(ports) X(fds) X(health) X(recycle) X(timeouts) X(restart_on_timeout)      \
    X(reload_kinds) X(buffers) X(balances) X(tunnels) X(small_queue) X(globals)                    \
    X(pipelining) X(stray) X(leave) X(slow) X(garbage) X(post) X(chunked) X(http10) X(expect)      \
    X(head) X(big) X(upgrade)                                                                      \
    X(silent) X(late) X(broken) X(early) X(quits) X(interim) X(odd) X(crash) X(ignores_term)       \
    X(never_ready) X(exits) X(sick) X(closes_idle) X(grandchild) X(one_thread) X(eof_answers)      \
    X(slow_start)                                                                                  \
    X(reload) X(bad_files) X(scale) X(pause) X(drain) X(restart) X(join) X(status) X(remove)

typedef struct swarm {
#define X(name) unsigned name;
    SWARM(X)
#undef X
} swarm;

static swarm W;

/* Half of all features do not exist in a run; the others have a weight that is drawn. */
static unsigned weight(unsigned present, unsigned most) {
    return chance(present) ? (unsigned)span(1, most) : 0;
}

static void draw_timeouts(group_model *g) {
    static const int64_t runs[] = {300, 1000, 3000, 10000}, gaps[] = {500, 2000, 5000, 20000};
    static const int64_t waits[] = {200, 1000, 5000, 20000, NEVER};
    if (chance(W.timeouts)) g->run_timeout = PICK(runs);
    g->response_timeout = SOMETIMES(W.timeouts, gaps);
    g->queue_timeout = SOMETIMES(W.timeouts, waits);
    if (model_own(g) && chance(W.restart_on_timeout)) {
        g->on_timeout = T_RESTART;
        if (g->run_timeout == UNSET && coin()) g->run_timeout = PICK(runs);
    } else if (chance(200)) {
        g->on_timeout = g->limit > 0 && model_own(g) ? T_WAIT : coin() ? T_WAIT : T_CLOSE;
    }
}

static void draw_life(group_model *g) {
    static const int64_t stops[] = {200, 1000, 5000, 20000}, drains[] = {500, 3000, 10000, 40000};
    static const int64_t starts[] = {3000, 10000, 30000}, tops[] = {500, 2000, 10000};
    static const int64_t lives[] = {3000, 10000, 60000}, intervals[] = {500, 2000, 5000, 10000};
    static const int64_t answers[] = {300, 1000, 5000};
    g->stop_timeout = SOMETIMES(500, stops);
    g->drain_timeout = SOMETIMES(400, drains);
    g->tunnel_drain = PICK(drains);
    g->start_timeout = PICK(starts);
    g->backoff_max = SOMETIMES(500, tops);
    g->reload = chance(W.reload_kinds) ? (int)below(4) : R_SWAP;
    if (model_own(g) && chance(W.recycle)) g->recycle_requests = (int)between(1, 12);
    if (model_own(g) && chance(W.recycle / 2)) g->recycle_after = PICK(lives);
    g->health = chance(W.health);
    if (g->health || chance(W.health / 2)) {
        g->health_interval = PICK(intervals);
        g->health_timeout = PICK(answers);
        g->health_fails = (int)between(1, 3);
    }
}

static void draw_group(group_model *g) {
    static const int64_t keeps[] = {0, 10, 300, 1000, 5000}, buffers[] = {0, 1, 500, 4096, 65536};
    memset(g, 0, sizeof *g);
    g->present = true;
    g->queue = g->retries = g->health_fails = g->max_restarts = UNSET;
    g->recycle_requests = g->on_timeout = g->client_abort = g->balance = g->tunnels = UNSET;
    g->queue_timeout = g->response_timeout = g->run_timeout = g->connect_timeout = UNSET;
    g->health_interval = g->health_timeout = g->recycle_after = UNSET;
    g->kind = chance(W.lists) ? BY_LIST
              : chance(W.ports) ? BY_PORT
              : chance(W.fds)   ? BY_FD
                                : BY_SOCKET;
    g->workers = (int)between(1, coin() ? 1 : 3);
    for (int i = 0; i < SERVERS; i++) g->listed[i] = i == 0 || coin();
    g->limit = chance(W.limits) ? (int)between(1, coin() ? 1 : 3) : 0;
    if (chance(W.small_queue)) g->queue = (int)below(6);
    g->worker_keepalive = SOMETIMES(500, keeps);
    g->request_buffer = SOMETIMES(W.buffers, buffers);
    g->response_buffer = SOMETIMES(W.buffers, buffers);
    if (chance(W.balances)) g->balance = (int)below(3);
    if (chance(150)) g->retries = (int)below(3);
    if (g->limit == 0 && chance(200)) g->client_abort = coin() ? T_WAIT : T_CLOSE;
    if (W.tunnels && g->limit && coin()) g->tunnels = (int)between(1, 2);
    g->tunnel_timeout = (int64_t)(1000 * between(1, 40));
    draw_timeouts(g);
    draw_life(g);
}

static void draw_model(model *m) {
    static const int64_t heads[] = {500, 2000, 10000}, bodies[] = {500, 3000, 30000};
    static const int64_t keeps[] = {0, 200, 2000, 10000, 75000}, ends[] = {2000, 8000, 25000};
    int n = (int)between(1, coin() ? 1 : 3);
    memset(m, 0, sizeof *m);
    for (int i = 0; i < n; i++) draw_group(&m->g[i]);
    m->header_timeout = SOMETIMES(W.globals, heads);
    m->body_timeout = SOMETIMES(W.globals, bodies);
    m->send_timeout = SOMETIMES(W.globals, bodies);
    m->keepalive_timeout = SOMETIMES(W.globals, keeps);
    m->shutdown_timeout = PICK(ends);
    m->lame_duck = chance(100) ? (int64_t)between(1, 1500) : UNSET;
    m->min_rate = UNSET;
    m->max_conns = chance(W.globals / 2) ? (int)between(2, 12) : UNSET;
}

/* --- rendered --- */

static void put(char **p, const char *format, ...) SIM_PRINTF(2, 3);
static void put(char **p, const char *format, ...) {
    va_list list;
    va_start(list, format);
    *p += vsprintf(*p, format, list);
    va_end(list);
}

static void put_time(char **p, const char *key, int64_t ms) {
    if (ms == UNSET) return;
    if (ms == NEVER)
        put(p, "%s = none\n", key);
    else
        put(p, "%s = %lldms\n", key, (long long)ms);
}

static void put_number(char **p, const char *key, int64_t n) {
    if (n != UNSET) put(p, "%s = %lld\n", key, (long long)n);
}

static void put_word(char **p, const char *key, int which, const char *const *words) {
    if (which != UNSET) put(p, "%s = %s\n", key, words[which]);
}

static void put_runs(char **p, const model *m, int i) {
    static const char *const ways[] = {"{socket}", "{port}", "{fd}"};
    const group_model *g = &m->g[i];
    char address[64];
    if (g->kind == BY_LIST) {
        if (model_listed(g) == 0) put(p, "upstream = dynamic\n");
        for (int k = 0; k < SERVERS; k++) {
            server_address(i, k, address);
            if (g->listed[k]) put(p, "upstream = %s\n", address);
        }
        return;
    }
    put(p, "cmd = %s %d %d %s\n", m->bad_program && m->bad_group == i ? "nosuch" : "simw", i,
        g->version, ways[g->kind]);
    put(p, "workers = %d\n", g->workers);
}

static void put_group(char **p, const model *m, int i) {
    static const char *const reloads[] = {"swap", "rolling", "replace", "off"};
    static const char *const timeouts[] = {"wait", "restart", "close"};
    static const char *const balances[] = {"least", "lifo", "round", "hash"};
    const group_model *g = &m->g[i];
    put(p, "[%s]\nroutes = /%s\n", group_names[i], group_names[i]);
    put_runs(p, m, i);
    if (g->limit) put_number(p, "max_req_per_worker", g->limit);
    put_number(p, "max_tunnels_per_worker", g->tunnels);
    put_number(p, "queue", g->queue);
    put_number(p, "retries", g->retries);
    put_time(p, "queue_timeout", g->queue_timeout);
    put_time(p, "response_timeout", g->response_timeout);
    put_time(p, "run_timeout", g->run_timeout);
    put_word(p, "on_timeout", g->on_timeout, timeouts);
    put_word(p, "client_abort", g->client_abort, timeouts);
    put_word(p, "balance", g->balance, balances);
    put_time(p, "worker_keepalive", g->worker_keepalive);
    put_number(p, "request_buffer", g->request_buffer);
    put_number(p, "response_buffer", g->response_buffer);
    if (g->health) put(p, "health_path = /health\n");
    put_time(p, "health_interval", g->health_interval);
    put_time(p, "health_timeout", g->health_timeout);
    put_number(p, "health_fails", g->health_fails);
    put_time(p, "tunnel_timeout", g->tunnel_timeout);
    put_time(p, "drain_timeout", g->drain_timeout);
    put_time(p, "tunnel_drain", g->tunnel_drain);
    put_word(p, "reload", g->reload, reloads);
    if (!model_own(g)) return;
    put_time(p, "start_timeout", g->start_timeout);
    put_time(p, "stop_timeout", g->stop_timeout);
    put_time(p, "backoff_max", g->backoff_max);
    put_number(p, "recycle_requests", g->recycle_requests);
    put_time(p, "recycle_after", g->recycle_after);
}

static char *model_text(const model *m) {
    static char text[16384];
    char *p = text, *copy;
    put(&p, "# %d\nlisten = 127.0.0.1:8000\nlisten = unix:/sim/front\n", m->number);
    put(&p, "admin = unix:/sim/admin\nruntime_dir = /sim/run\n");
    put_time(&p, "header_timeout", m->header_timeout);
    put_time(&p, "body_timeout", m->body_timeout);
    put_time(&p, "send_timeout", m->send_timeout);
    put_time(&p, "keepalive_timeout", m->keepalive_timeout);
    put_time(&p, "shutdown_timeout", m->shutdown_timeout);
    put_time(&p, "lame_duck", m->lame_duck);
    put_number(&p, "min_rate", m->min_rate);
    put_number(&p, "max_conns", m->max_conns);
    for (int i = 0; i < GROUPS; i++) {
        if (m->g[i].present) put_group(&p, m, i);
    }
    if (m->broken == 1) put(&p, "queue_timout = 5s\n");
    if (m->broken == 2) put(&p, "run_timeout = 30\nqueue = many\n");
    if (m->broken == 3) put(&p, "[g9]\nroutes = /g9\n");
    copy = (char *)take((size_t)(p - text) + 1);
    memcpy(copy, text, (size_t)(p - text));
    return copy;
}
