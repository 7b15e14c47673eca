/* The simulated world that ldcorn.h lives in: base, in the order in which everything else uses it.
   One unit: main.c includes all files of this directory. See README.md for the tour. */
#ifndef SIM_H
#define SIM_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pwd.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SIM_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define SIM_PRINTF(f, a) __attribute__((format(printf, f, a)))
#define SIM_UNUSED __attribute__((unused))

enum { MS = 1000, SEC = 1000000 }; /* microseconds, the unit of all times in here */

/* --- chance: everything that is not said is drawn from the seed, with integers of 64 bits only,
   so that the same seed lives the same life on every machine --- */

typedef struct rng {
    uint64_t s;
} rng;

static uint64_t rng_next(rng *r) { /* splitmix64 */
    uint64_t z = (r->s += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* --- one run --- */

typedef struct end end;
typedef struct proc proc;
typedef struct req req;

typedef void (*event_fn)(void *who);

typedef struct event {
    uint64_t at, order; /* order is drawn: what happens at one time happens in any order */
    event_fn run;
    void *who;
    uint32_t *alive, mark; /* the event is void once *alive differs from mark */
} event;

/* What can go wrong in this run, of a thousand calls each; 0: it does not exist in it. */
#define FAULTS(X)                                                                                  \
    X(eintr) X(shorts) X(full) X(spurious) X(aborted) X(files) X(memory) X(forks) X(late_turn)

typedef struct faults {
#define X(name) unsigned name;
    FAULTS(X)
#undef X
} faults;

typedef struct sim {
    uint64_t seed;
    rng r;
    uint64_t now, born; /* of the monotonic clock */
    uint64_t wall; /* what the other clock has beyond it */
    event *heap;
    size_t events, event_cap;
    faults bad;
    bool healed;    /* the moment after which nothing new goes wrong */
    bool blind;    /* assertions do not count, as in a build without them */
    bool lossy;     /* memory, descriptors or forks may fail: requests may be lost for it */
    uint64_t turns; /* calls of poll() by ldcorn */
    uint64_t calls, calls_max; /* system calls in this turn; most of any */
    uint64_t happened;         /* events of the world */
    uint64_t idle_polls;       /* turns since then that did not wait */
    bool trace;
    uint64_t hash;       /* of all trace lines */
    jmp_buf out;         /* a failure leaves by here */
    const char *failure; /* its kind, NULL: none yet */
    char story[2000];
    char stack[4000];
    void *arena; /* all objects of this run: one list of blocks */
    size_t memory;       /* bytes that ldcorn has */
    uint64_t requests;   /* sent by clients so far */
    uint32_t cold; /* what LDCORN_COLD is in this run */
    bool tick_seen; /* of the alarm */
    uint64_t tick_turn;
} sim;

static sim S;

static uint64_t below(uint64_t n) { return n ? rng_next(&S.r) % n : 0; }
static uint64_t between(uint64_t a, uint64_t b) { return a + below(b - a + 1); }
static bool chance(unsigned of_thousand) { return of_thousand && below(1000) < of_thousand; }
static bool coin(void) { return rng_next(&S.r) >> 63; }
#define PICK(array) ((array)[below(SIM_LEN(array))])

/* A span of time whose order of magnitude is drawn first. */
static uint64_t span(uint64_t least, uint64_t most) {
    uint64_t lo = least ? least : 1, hi = lo;
    int steps = 0;
    while (hi < most) hi *= 2, steps++;
    lo <<= below((uint64_t)steps + 1);
    lo += below(lo);
    return lo > most ? most : lo;
}

/* --- what happened, to read and to compare --- */

static void say(const char *format, ...) SIM_PRINTF(1, 2);
static void say(const char *format, ...) {
    char line[600];
    va_list list;
    int n;
    va_start(list, format);
    n = vsnprintf(line, sizeof line, format, list);
    va_end(list);
    if (n > (int)sizeof line - 1) n = (int)sizeof line - 1;
    S.hash = (S.hash ^ S.now) * 1099511628211u;
    for (int i = 0; i < n; i++) S.hash = (S.hash ^ (unsigned char)line[i]) * 1099511628211u;
    if (S.trace)
        fprintf(stdout, "%6llu.%06llu %s\n", (unsigned long long)(S.now / SEC),
                (unsigned long long)(S.now % SEC), line);
}

/* A broken promise: the run ends here. `kind` is a few words, the same for the same promise. */
static void fail(const char *kind, const char *format, ...)
    __attribute__((format(printf, 2, 3), noreturn));
static void fail(const char *kind, const char *format, ...) {
    va_list list;
    if (S.failure) longjmp(S.out, 1);
    S.failure = kind;
    va_start(list, format);
    vsnprintf(S.story, sizeof S.story, format, list);
    va_end(list);
    say("FAILED %s: %s", kind, S.story);
    longjmp(S.out, 1);
}

/* --- memory of the world itself: given back all at once --- */

typedef struct block {
    struct block *next;
    size_t used, size;
} block;

static block *spare_blocks; /* kept between runs */

static void *take(size_t n) {
    block *b = (block *)S.arena;
    size_t head = (sizeof(block) + 15) & ~(size_t)15;
    void *p;
    n = (n + 15) & ~(size_t)15;
    if (b == NULL || b->size - b->used < n) {
        size_t size = n + head > 65536 ? n + head : 65536;
        if (size == 65536 && spare_blocks) {
            b = spare_blocks;
            spare_blocks = b->next;
        } else {
            b = (block *)malloc(size);
            if (b == NULL) abort();
            b->size = size;
        }
        b->used = head;
        b->next = (block *)S.arena;
        S.arena = b;
    }
    p = (char *)b + b->used;
    b->used += n;
    return memset(p, 0, n);
}

static char *take_text(const char *format, ...) SIM_PRINTF(1, 2);
static char *take_text(const char *format, ...) {
    char line[1024], *z;
    va_list list;
    int n;
    va_start(list, format);
    n = vsnprintf(line, sizeof line, format, list);
    va_end(list);
    if (n >= (int)sizeof line) n = (int)sizeof line - 1;
    z = (char *)take((size_t)n + 1);
    memcpy(z, line, (size_t)n);
    return z;
}

static void give_all(void) {
    block *b = (block *)S.arena;
    while (b) {
        block *next = b->next;
        if (b->size == 65536) {
            b->next = spare_blocks;
            spare_blocks = b;
        } else {
            free(b);
        }
        b = next;
    }
    S.arena = NULL;
}

/* --- what is to happen, and when --- */

static bool sooner(const event *a, const event *b) {
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

static void at_if(uint64_t when, event_fn run, void *who, uint32_t *alive) {
    size_t i = S.events++;
    event e;
    e.at = when < S.now ? S.now : when;
    e.order = rng_next(&S.r);
    e.run = run;
    e.who = who;
    e.alive = alive;
    e.mark = alive ? *alive : 0;
    if (i == S.event_cap) {
        S.event_cap = S.event_cap ? S.event_cap * 2 : 1024;
        S.heap = (event *)realloc(S.heap, S.event_cap * sizeof *S.heap);
        if (S.heap == NULL) abort();
    }
    while (i && sooner(&e, &S.heap[(i - 1) / 2])) {
        S.heap[i] = S.heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    S.heap[i] = e;
}

static void at(uint64_t when, event_fn run, void *who) { at_if(when, run, who, NULL); }
static void in(uint64_t later, event_fn run, void *who) { at_if(S.now + later, run, who, NULL); }

static event pop_event(void) {
    event first = S.heap[0], last = S.heap[--S.events];
    size_t i = 0;
    for (;;) {
        size_t c = 2 * i + 1;
        if (c >= S.events) break;
        if (c + 1 < S.events && sooner(&S.heap[c + 1], &S.heap[c])) c++;
        if (!sooner(&S.heap[c], &last)) break;
        S.heap[i] = S.heap[c];
        i = c;
    }
    if (S.events) S.heap[i] = last;
    return first;
}

/* The next thing happens; false: it is void. */
static bool happen(void) {
    event e = pop_event();
    if (e.at > S.now) S.now = e.at;
    if (e.alive && *e.alive != e.mark) return false;
    S.happened++;
    S.idle_polls = 0;
    e.run(e.who);
    return true;
}

#endif
