/* The simulation: many lives of ldcorn.h, each from a seed. See README.md. */
#include "sim.h"

#include "kernel.c"
#include "seam.h"
#define LDCORN_IMPLEMENTATION
#define LDCORN_STATIC
#ifndef LDCORN_AUDIT
#define LDCORN_AUDIT
#endif
#ifndef SIM_HEADER
#define SIM_HEADER "../../ldcorn.h"
#endif
#include SIM_HEADER
#include "unseam.h"

#include "http.c"
#include "model.c"
#include "truth.c"
#include "oracle.h"
#include "worker.c"
#include "client.c"
#include "operator.c"
#include "oracle.c"
#include <execinfo.h>
#include <malloc.h>
#include <sys/mman.h>

/* --- memory of ldcorn --- */

typedef struct chunk {
    struct chunk *next, **prev;
    size_t n, pad;
} chunk;

static chunk *chunks;

/* Each piece is known, so that what is lost is noticed and what a failed run leaves is freed. */
static void *resize(void *user, void *memory, size_t old, size_t n) {
    chunk *c = memory ? (chunk *)memory - 1 : NULL, *d;
    (void)user;
    if (c && c->n != old) fail("wrong size given back", "%zu, it had %zu", old, c->n);
    if (n > old && S.now && bad(S.bad.memory, ENOMEM)) return NULL;
    if (n == 0) {
        if (c == NULL) return NULL;
        *c->prev = c->next;
        if (c->next) c->next->prev = c->prev;
        S.memory -= c->n;
        free(c);
        return NULL;
    }
    d = (chunk *)realloc(c, sizeof *d + n);
    if (d == NULL) abort();
    if (c == NULL) {
        d->next = chunks;
        d->prev = &chunks;
    }
    *d->prev = d;
    if (d->next) d->next->prev = &d->next;
    if (c == NULL) chunks = d;
    S.memory += n - old;
    if (n > old) memset((char *)(d + 1) + old, 0xA5, n - old < 256 ? n - old : 256);
    d->n = n;
    return d + 1;
}

static void free_chunks(void) {
    while (chunks) {
        chunk *c = chunks;
        chunks = c->next;
        free(c);
    }
}

/* --- a world from a seed --- */

/* Half of the runs are about something: what belongs together is there together, the rest as drawn. */
static void draw_theme(void) {
    switch (below(12)) {
    case 0: /* addresses that come and go, under a limit */
        W.lists = W.limits = 1000;
        W.join = 500;
        W.remove = 300;
        W.reload = coin() ? 300 : 0;
        W.late = 300;
        W.crash = W.leave = 0;
        break;
    case 1: /* successors */
        W.lists = 0;
        W.restart_on_timeout = 700;
        W.recycle = coin() ? 500 : 0;
        W.restart = coin() ? 500 : 0;
        W.reload_kinds = 1000;
        W.reload = 300;
        W.late = W.silent = 200;
        W.slow_start = 700;
        break;
    case 2: /* health */
        W.health = 1000;
        W.sick = 600;
        W.reload = W.remove = W.crash = W.restart = W.drain = W.pause = 0;
        break;
    case 3: /* groups that wait */
        W.pause = 600;
        W.drain = coin() ? 300 : 0;
        W.remove = W.reload = 300;
        W.limits = 800;
        break;
    case 4: /* HTTP */
        W.odd = W.interim = W.head = 400;
        W.pipelining = W.stray = 300;
        break;
    case 5: /* who leaves, and the stop */
        W.leave = 600;
        W.silent = 200;
        W.late = 400;
        W.limits = 1000;
        break;
    case 6: /* bodies, requests behind them, and workers that do not take them */
        W.post = 700;
        W.pipelining = 900;
        W.quits = 400;
        W.early = coin() ? 300 : 0;
        W.limits = coin() ? 300 : 0;
        W.slow = W.crash = W.leave = W.garbage = W.sick = 0;
        break;
    default: break;
    }
}

static void draw_swarm(void) {
    unsigned *w = (unsigned *)(void *)&W;
    for (size_t i = 0; i < sizeof W / sizeof *w; i++) w[i] = weight(500, 1000);
    /* what is strong in small doses */
    W.silent = weight(250, 200);
    W.broken = weight(300, 300);
    W.crash = weight(250, 60);
    W.never_ready = weight(150, 300);
    W.exits = weight(150, 300);
    W.ignores_term = weight(200, 500);
    W.sick = weight(200, 600);
    W.late = weight(400, 400);
    W.garbage = weight(400, 200);
    W.slow = weight(300, 200);
    W.leave = weight(400, 300);
    W.big = weight(300, 100);
    W.early = weight(200, 200);
    W.quits = weight(200, 300);
    W.grandchild = weight(200, 500);
    W.one_thread = weight(250, 1000);
    W.closes_idle = weight(250, 500);
    W.upgrade = weight(200, 300);
    draw_theme();
}

static void draw_faults(void) {
    faults *f = &S.bad;
    memset(f, 0, sizeof *f);
    if (coin()) return;
    f->eintr = weight(400, 100);
    f->shorts = weight(400, 600);
    f->full = weight(300, 200);
    f->spurious = weight(300, 100);
    f->aborted = weight(300, 200);
    f->late_turn = weight(150, 20);
    f->files = weight(120, 60);
    f->forks = weight(120, 200);
    f->memory = weight(100, 20);
    S.lossy = f->files || f->forks || f->memory;
}

/* --- what a life is shortened by --- */

static const char *const habits[] = {
#define X(name) #name,
    SWARM(X) FAULTS(X)
#undef X
};
enum { HABITS = sizeof habits / sizeof *habits };

static struct {
    bool dropped[HABITS];
    int clients, acts; /* at most */
} shorter = {{false}, 1000, 1000};

static unsigned *habit(int i) {
    int of_actors = (int)(sizeof W / sizeof(unsigned));
    return i < of_actors ? (unsigned *)(void *)&W + i : (unsigned *)(void *)&S.bad + (i - of_actors);
}

static void drop(void) {
    for (int i = 0; i < HABITS; i++)
        if (shorter.dropped[i]) *habit(i) = 0;
}

static void draw_kernel(void) {
    static const size_t rooms[] = {65536, 65536, 200000, 8192, 1000, 100, 7};
    static const uint32_t colds[] = {0, 0, 1, 5, 64};
    memset(&K, 0, sizeof K);
    K.cur = &K.self;
    K.self.pid = 100;
    K.next_pid = 101;
    K.uid = coin() ? 0 : 1000;
    K.fd_limit = chance(150) ? (int)between(40, 90) : 500;
    if (K.fd_limit < 100) S.lossy = true;
    K.sock_room = PICK(rooms);
    K.pipe_room = 65536;
    K.tcp_at_once = coin();
    K.no_deep = chance(300);
    K.no_splice = chance(300);
    K.cost = coin() ? 0 : span(1, 500);
    S.cold = PICK(colds);
    for (int i = 0; i < 3; i++) fd_take(file_new(NOWHERE), false);
    node_make("/sim", DIRECTORY, 0755);
    node_make("/up", DIRECTORY, 0755);
}

static void world_begin(uint64_t seed) {
    bool trace = S.trace;
    event *heap = S.heap;
    size_t cap = S.event_cap;
    memset(&S, 0, sizeof S);
    S.trace = trace;
    S.heap = heap;
    S.event_cap = cap;
    S.seed = seed;
    S.r.s = seed * 0x9E3779B97F4A7C15u + 12345;
    S.now = 1000 * (uint64_t)SEC + below(1000 * SEC);
    S.born = S.now;
    S.wall = 1700000000u * (uint64_t)SEC;
    S.hash = 14695981039346656037u;
    memset(&T, 0, sizeof T);
    memset(&C, 0, sizeof C);
    memset(free_since, 0, sizeof free_since);
    procs = NULL;
    clients = NULL;
    clients_made = clients_open = admins_open = 0;
    waited_until = 0;
    L = NULL;
    S.blind = chance(400);
    draw_swarm();
    draw_faults();
    drop();
    draw_kernel();
}

/* --- the course of a life --- */

static bool stop_busy;

static void stop(void *who) {
    (void)who;
    if (T.stopping || L == NULL) return;
    T.stopping = true;
    T.stop_at = waited_until = S.now;
    say("the stop begins");
    if (step_mode)
        ldcorn_stop(L);
    else
        signal_ldcorn(coin() ? SIGTERM : SIGINT);
    in(200 * MS, oracle_stop, NULL);
}

static void rest(void *who) {
    char why[200];
    const char *what = not_at_rest(why, sizeof why);
    (void)who;
    if (T.stopping || L == NULL) return;
    oracle_idle_clients();
    if (what == NULL && S.now > T.heal_at + 20 * SEC) {
        say("at rest");
        stop(NULL);
        return;
    }
    if (S.now > T.heal_at + 900 * (uint64_t)SEC)
        fail("not at rest", "%s%s%s", what ? what : "?", why[0] ? ": " : "", why);
    in(SEC + below(5 * SEC), rest, NULL);
}

static void world_turn(void) {
    if (K.cur != &K.self) fail("child polls", "a child came back");
}

static void plan_life(void) {
    uint64_t life = span(2 * SEC, 300 * SEC);
    T.heal_at = S.now + life;
    T.end_at = T.heal_at;
    C.most = (int)span(1, 24);
    C.left = (int)span(5, 80);
    if (C.left > shorter.clients) C.left = shorter.clients;
    C.pause = life / (uint64_t)(C.left + 1) + 1;
    if (coin()) C.pause = span(1 * MS, C.pause);
    next_op = span(50 * MS, life / 2 + 1);
    ops_left = (int)span(2, 60);
    if (ops_left > shorter.acts) ops_left = shorter.acts;
    in(coin() ? 0 : below(SEC), crowd_next, NULL);
    if (W.reload || W.scale || W.restart || W.pause || W.drain || W.join || W.status)
        in(below(next_op), operators, NULL);
    at(T.heal_at, heal, NULL);
    in(500 * MS, oracle_sample, NULL);
    stop_busy = chance(300);
    if (stop_busy)
        at(S.now + below(life), stop, NULL);
    else
        at(T.heal_at + 5 * SEC, rest, NULL);
}

static bool never_began;

static void live(void) {
    ldcorn_desc desc;
    ldcorn_error error;
    int r;
    draw_model(&T.now);
    T.file = T.now;
    write_file();
    servers_begin();
    memset(&desc, 0, sizeof desc);
    desc.file = "/sim/groups.ini";
    desc.allocator.resize = resize;
    desc.logger.line = on_line;
    desc.event = on_event;
    step_mode = chance(150);
    error.text[0] = 0;
    L = ldcorn_open(&desc, &error);
    never_began = L == NULL;
    T.has_next = false;
    if (L == NULL) {
        if (!S.lossy && !S.bad.eintr) fail("cannot start", "%s", error.text);
        return;
    }
    plan_life();
    if (step_mode)
        while ((r = ldcorn_step(L, -1)) > 0) continue;
    else
        r = ldcorn_run(L);
    if (r != 0) fail("ended", "result %d", r);
    if (!T.stopping) fail("ended", "nobody has asked for it");
    ldcorn_close(L);
    L = NULL;
}

static void world_end(void) {
    for (int i = 3; i < K.self.top; i++) {
        if (K.self.fd[i].f)
            fail("descriptor lost", "descriptor %d of type %d is open at the end", i,
                 K.self.fd[i].f->type);
    }
    if (S.memory) fail("memory lost", "%zu bytes at the end", S.memory);
    for (proc *p = procs; p; p = p->next) {
        if (p->pid && p->state < P_ZOMBIE) fail("worker left", "%s lives on", proc_name(p));
        if (p->pid && p->state == P_ZOMBIE) fail("zombie left", "%s", proc_name(p));
    }
    for (node *n = never_began ? NULL : K.nodes; n; n = n->next) {
        if (!n->gone && strncmp(n->path, "/sim/run", 8) == 0) fail("file left", "%s", n->path);
    }
}

/* True: the life of this seed broke no promise. */
static bool run(uint64_t seed) {
    bool ok;
    world_begin(seed);
    if (setjmp(S.out) == 0) {
        live();
        world_end();
    }
    ok = S.failure == NULL;
    kernel_free();
    free_chunks();
    give_all();
    return ok;
}

/* --- a loop without a call is caught by an alarm --- */

static uint64_t alarm_call = UINT64_MAX, alarm_seed;

static void on_alarm(int sig) {
    void *frames[40];
    (void)sig;
    if (alarm_call == K.call && alarm_seed == S.seed && S.failure == NULL) {
        int n = backtrace(frames, 40);
        char **names = backtrace_symbols(frames, n);
        size_t at_byte = 0;
        for (int i = 2; names && i < n && i < 12; i++) {
            const char *open = strchr(names[i], '(');
            int k = snprintf(S.stack + at_byte, sizeof S.stack - at_byte, " %.40s", open ? open : names[i]);
            if (k > 0 && at_byte + (size_t)k < sizeof S.stack) at_byte += (size_t)k;
        }
        fail("loop without end", "no system call for a second:%s", S.stack);
    }
    alarm_call = K.call;
    alarm_seed = S.seed;
}

static void watch_for_loops(void) {
    struct sigaction a;
    struct itimerval every;
    memset(&a, 0, sizeof a);
    a.sa_handler = on_alarm;
    a.sa_flags = SA_NODEFER;
    sigaction(SIGVTALRM, &a, NULL);
    memset(&every, 0, sizeof every);
    every.it_interval.tv_usec = every.it_value.tv_usec = 200000;
    setitimer(ITIMER_VIRTUAL, &every, NULL);
}

/* --- the command line --- */

static double wall_clock(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

typedef struct options {
    uint64_t seed, base, runs; /* runs: so many, else for `seconds` */
    double seconds;
    int jobs;
    bool one, all; /* one seed; go on after failures and count their kinds */
    bool shorten;
    const char *repeat;
} options;

/* What a searching process tells, in memory that it shares with the one that waits for it: a run
   that broke something leaves nothing behind but this, not even a static of the header. */
typedef struct report {
    pid_t pid;
    uint64_t next, runs, virtual_time, seed;
    char kind[80], story[400];
} report;

typedef struct kind {
    char name[80], story[400];
    uint64_t n, first, seed;
} kind;

enum { MOST_KINDS = 64, MOST_JOBS = 64 };

static kind kinds[MOST_KINDS];

static void count_kind(const report *r, uint64_t runs) {
    for (int i = 0; i < MOST_KINDS; i++) {
        kind *k = &kinds[i];
        if (k->name[0] && strcmp(k->name, r->kind) != 0) continue;
        if (k->n++ > 0) return;
        snprintf(k->name, sizeof k->name, "%s", r->kind);
        snprintf(k->story, sizeof k->story, "%s", r->story);
        k->first = runs;
        k->seed = r->seed;
        return;
    }
}

#ifdef SIM_COVERAGE
void __gcov_dump(void);
#else
static void __gcov_dump(void) {}
#endif

static void child_exit(int status) {
    __gcov_dump();
    _exit(status);
}

static void search_child(report *r, const options *o, double until, int jobs) {
    watch_for_loops();
    while (o->runs ? r->next < o->base + o->runs : wall_clock() < until) {
        bool ok;
        r->seed = r->next;
        r->next += (uint64_t)jobs;
        ok = run(r->seed);
        r->runs++;
        r->virtual_time += S.now - S.born;
        if (ok) continue;
        snprintf(r->kind, sizeof r->kind, "%s", S.failure);
        snprintf(r->story, sizeof r->story, "%.399s", S.story);
        child_exit(1);
    }
    child_exit(0);
}

static void search_start(report *r, const options *o, double until, int jobs) {
    pid_t pid;
    r->kind[0] = r->story[0] = 0;
    pid = fork();
    if (pid == 0) search_child(r, o, until, jobs);
    if (pid < 0) perror("fork");
    r->pid = pid;
}

static uint64_t all_runs(const report *r, int jobs) {
    uint64_t n = 0;
    for (int i = 0; i < jobs; i++) n += r[i].runs;
    return n;
}

/* A child has ended: true if it found something. */
static bool search_found(report *r, int status) {
    r->pid = 0;
    if (WIFSIGNALED(status)) {
        snprintf(r->kind, sizeof r->kind, "crash");
        snprintf(r->story, sizeof r->story, "signal %d", WTERMSIG(status));
        r->runs++;
        return true;
    }
    if (WEXITSTATUS(status) > 1) {
        snprintf(r->kind, sizeof r->kind, "sanitizer");
        snprintf(r->story, sizeof r->story, "exit %d", WEXITSTATUS(status));
        return true;
    }
    return WEXITSTATUS(status) == 1;
}

static void tell_failure(const options *o, const report *r, uint64_t runs) {
    printf("FAILED after %llu runs, seed %llu: %s: %s\n  again: %s --seed %llu --trace\n",
           (unsigned long long)runs, (unsigned long long)r->seed, r->kind, r->story, o->repeat,
           (unsigned long long)r->seed);
    fflush(stdout);
}

/* --- a failing life, shortened: what can go while it still fails in the same way goes --- */

static bool fails_as(report *r, uint64_t seed, const char *as) {
    pid_t pid;
    int status;
    fflush(stdout);
    r->kind[0] = 0;
    if ((pid = fork()) == 0) {
        S.trace = false;
        watch_for_loops();
        if (!run(seed)) snprintf(r->kind, sizeof r->kind, "%s", S.failure);
        _exit(0);
    }
    if (pid < 0 || waitpid(pid, &status, 0) < 0) return false;
    if (WIFSIGNALED(status)) snprintf(r->kind, sizeof r->kind, "crash");
    return as[0] ? strcmp(r->kind, as) == 0 : r->kind[0] != 0;
}

static bool shorten_number(report *r, uint64_t seed, const char *as, int *most) {
    bool less = false;
    for (int by = *most; by > 0; by /= 2) {
        while (*most >= by) {
            *most -= by;
            if (fails_as(r, seed, as)) {
                less = true;
                continue;
            }
            *most += by;
            break;
        }
    }
    return less;
}

static int shorten(const options *o, uint64_t seed) {
    char as[80] = "", left[1000] = "";
    bool less = true;
    report *r = (report *)mmap(NULL, sizeof *r, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (r == MAP_FAILED) return 1;
    if (!fails_as(r, seed, "")) return printf("seed %llu: ok\n", (unsigned long long)seed), 0;
    snprintf(as, sizeof as, "%s", r->kind);
    shorter.clients = shorter.acts = 127;
    for (int round = 0; less && round < 4; round++) {
        less = false;
        for (int i = 0; i < HABITS; i++) {
            if (shorter.dropped[i]) continue;
            shorter.dropped[i] = true;
            if (fails_as(r, seed, as)) less = true;
            else shorter.dropped[i] = false;
        }
        if (shorten_number(r, seed, as, &shorter.clients)) less = true;
        if (shorten_number(r, seed, as, &shorter.acts)) less = true;
    }
    for (int i = 0; i < HABITS; i++) {
        if (!shorter.dropped[i]) continue;
        snprintf(left + strlen(left), sizeof left - strlen(left), "%s%s", left[0] ? "," : "", habits[i]);
    }
    printf("the same, shortened: %s --seed %llu --clients %d --acts %d --without %s --trace\n", o->repeat,
           (unsigned long long)seed, shorter.clients, shorter.acts, left);
    S.trace = true;
    run(seed);
    return 1;
}

static void without(const char *names) {
    for (int i = 0; i < HABITS; i++) {
        size_t n = strlen(habits[i]);
        for (const char *p = names; (p = strstr(p, habits[i])) != NULL; p += n)
            if ((p == names || p[-1] == ',') && (p[n] == ',' || p[n] == 0)) shorter.dropped[i] = true;
    }
}

static void tell_kinds(void) {
    for (int i = 0; i < MOST_KINDS && kinds[i].n; i++)
        printf("%7llu x %-28s first after %llu runs, seed %llu: %s\n",
               (unsigned long long)kinds[i].n, kinds[i].name, (unsigned long long)kinds[i].first,
               (unsigned long long)kinds[i].seed, kinds[i].story);
}

static int search(const options *o) {
    double begin = wall_clock(), took, hours = 0;
    uint64_t runs, failed = 0;
    size_t size = MOST_JOBS * sizeof(report);
    int jobs = o->jobs < 1 ? 1 : o->jobs > MOST_JOBS ? MOST_JOBS : o->jobs, status, alive = 0;
    report *r = (report *)mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (r == MAP_FAILED) return 1;
    printf("seeds from %llu, %d at a time\n", (unsigned long long)o->base, jobs);
    fflush(stdout);
    for (int i = 0; i < jobs; i++, alive++) {
        r[i].next = o->base + (uint64_t)i;
        search_start(&r[i], o, begin + o->seconds, jobs);
    }
    while (alive > 0) {
        pid_t pid = wait(&status);
        if (pid < 0) break;
        for (int i = 0; i < jobs; i++) {
            if (r[i].pid != pid) continue;
            alive--;
            if (!search_found(&r[i], status)) continue;
            failed++;
            count_kind(&r[i], all_runs(r, jobs));
            if (!o->all) tell_failure(o, &r[i], all_runs(r, jobs));
            if (!o->all)
                for (int k = 0; k < jobs; k++)
                    if (r[k].pid > 0) kill(r[k].pid, SIGKILL);
            if (!o->all || (o->runs == 0 && wall_clock() >= begin + o->seconds)) continue;
            search_start(&r[i], o, begin + o->seconds, jobs);
            alive++;
        }
        if (!o->all && failed) break;
    }
    while (wait(NULL) > 0) continue;
    for (int i = 0; i < jobs && !o->all; i++)
        if (r[i].kind[0]) shorten(o, r[i].seed);
    runs = all_runs(r, jobs);
    for (int i = 0; i < jobs; i++) hours += (double)r[i].virtual_time / SEC / 3600;
    took = wall_clock() - begin;
    if (o->all) tell_kinds();
    printf("%llu runs, %llu failed, %.1fs: %.0f runs and %.1f virtual hours a second\n",
           (unsigned long long)runs, (unsigned long long)failed, took, (double)runs / took,
           hours / took);
    return failed ? 1 : 0;
}

int main(int argc, char **argv) {
    options o = {0};
    o.seconds = 10;
    o.base = (uint64_t)time(NULL) * 100000;
    o.repeat = "tests/sim/run";
    for (int i = 1; i < argc; i++) {
        const char *v = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--trace") == 0) S.trace = true;
        if (strcmp(argv[i], "--all") == 0) o.all = true;
        if (strcmp(argv[i], "--seed") == 0) o.one = true, o.seed = strtoull(v, NULL, 10);
        if (strcmp(argv[i], "--base") == 0) o.base = strtoull(v, NULL, 10);
        if (strcmp(argv[i], "--seconds") == 0) o.seconds = strtod(v, NULL);
        if (strcmp(argv[i], "--runs") == 0) o.runs = strtoull(v, NULL, 10);
        if (strcmp(argv[i], "--jobs") == 0) o.jobs = atoi(v);
        if (strcmp(argv[i], "--shorten") == 0) o.shorten = true;
        if (strcmp(argv[i], "--clients") == 0) shorter.clients = atoi(v);
        if (strcmp(argv[i], "--acts") == 0) shorter.acts = atoi(v);
        if (strcmp(argv[i], "--without") == 0) without(v);
        if (strcmp(argv[i], "--repeat") == 0) o.repeat = v;
    }
    setenv("TZ", "UTC", 1);
    tzset();
    mallopt(M_MMAP_THRESHOLD, 1 << 30); /* the same memory for each run, no new pages */
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
    pattern_init();
    if (!o.one) return search(&o);
    if (o.shorten) return shorten(&o, o.seed);
    watch_for_loops();
    if (run(o.seed)) {
        printf("seed %llu: ok, %llu turns, %llu requests, trace %016llx\n",
               (unsigned long long)o.seed, (unsigned long long)S.turns,
               (unsigned long long)S.requests, (unsigned long long)S.hash);
        return 0;
    }
    printf("seed %llu: %s: %s\n", (unsigned long long)o.seed, S.failure, S.story);
    return 1;
}
