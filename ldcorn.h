/* ldcorn.h - v0.2.0 - an HTTP/1.1 front door that owns its workers, in one file

   Each group of paths gets its own worker processes, its own queue and an exact limit of
   requests inside one worker. What crashes is restarted, what is new is swapped in with no
   request lost. libc and POSIX only.

   Do this in ONE C file to create the implementation:

       #define LDCORN_IMPLEMENTATION
       #include "ldcorn.h"

   and include it without the define wherever else the declarations are wanted. Define it before
   the first system header where you can: the file then asks for what Linux has beyond POSIX.
   examples/main.c is the whole program:  cc examples/main.c -o ldcorn && ./ldcorn groups.ini

   @guide =====================================================================================

   1. What it is for
     One application has fast endpoints and slow ones: inference, reports, websockets, state in
     memory. Workers that take requests in turn let one blocking endpoint freeze all of them.
     ldcorn routes by path prefix to a *group*, queues first come first served per group, and
     never lets more than `max_req_per_worker` requests into one worker, so that a full group is
     full alone.

   2. Use
     As a program: a file of groups (README has the reference of every key).

         listen = 0.0.0.0:8000
         app = main:app
         [web]
         routes = *
         workers = 4
         [ml]
         routes = /predict /embed
         workers = 2
         max_req_per_worker = 1

     As a library: fill ldcorn_desc (zero is the good default everywhere), then

         ldcorn_error error;
         ldcorn *l = ldcorn_open(&desc, &error);
         if (l == NULL) { fputs(error.text, stderr); return error.status; }
         int failed = ldcorn_run(l);       or ldcorn_step() / ldcorn_collect() in your own loop
         ldcorn_close(l);

     A group's workers are a command line (`cmd`), servers that somebody else runs (`upstream`),
     workers that connect to us and serve on that connection (`dial_in`), or a C function of yours
     (`function`) that runs in a forked child; ldcorn_serve() is a small server for such a function.
     Hooks of the desc: a filter that sees each request before it is routed, an event callback, the
     logger, the allocator.

     Every key with its type, default and a line of help stands in the table LDC_KEYS (@conf);
     `ldcorn -T FILE` prints what is in force and where it was said. Signals reach each instance
     that is in ldcorn_run: TERM and INT stop gracefully, a second one (a second or more later) or
     QUIT at once, HUP reloads the file, USR1 reopens logs. The admin address answers GET / (a page
     to look at) /status /requests /server /metrics /healthz /readyz /route, POST
     /reload[?processes=keep] /stop, POST /groups/G/... to scale, restart, pause, join. Reason words
     of refusals: LDC_REASONS (@log).

   3. A request's way, each step in the section that its name promises
         accept (@client) -> head parsed (@http) -> routed (@route) -> slot free? else queue
         (@group) -> connection reused or opened (@up) -> request sent, answer's head parsed,
         body relayed (@relay) -> slot given back, next in the queue started (@group)
         -> logged, counted (@log) -> keep-alive or close (@client)
     On Linux a body of 32 KiB and more goes from socket to socket through a pipe (@relay).
     One process, one thread, one poll() loop (@loop, @turn): nothing to synchronise, which is
     why limits are exact, order is strict and a reload is one switch of a pointer. Where idle
     connections are many, one epoll or kqueue descriptor stands for them in the poll set.

   4. Objects (@types, all structs and state tables together)
     ldcorn holds everything. ldc_conf is one immutable parsed configuration. ldc_group is found
     by name and lives across reloads: queue, counters, workers. ldc_worker is a process or an
     address, its slots, and its own copy of what it was started with. ldc_up is one connection
     to a worker. ldc_client is one accepted connection; it holds at most one ldc_exchange, the
     request in flight with its two flows. ldc_flow moves bytes one way. The state says who owns
     the exchange; the flow says which bytes remain.
     An exchange outlives its client when the client leaves while a worker works on it: closing
     does not stop a worker, so the slot stays taken until the worker has answered. Such an
     orphan belongs to the worker connection; its answer is read and thrown away.

   5. Rules that hold everywhere
     - Closing only marks; ldc_turn_bury() closes and frees, at the end of the turn. So a pointer
       is good for a whole turn, and no descriptor number is used twice in one.
     - A state has one writer: ldc_client_set, ldc_up_set, ldc_proc_set, ldc_reload_set.
     - A slot is taken in ldc_group_take and given back in ldc_group_give, nowhere else. Those of
       an address belong to the address: whoever comes back to it finds its requests inside.
     - A worker has at most one successor; a roll waits for those that it has started itself.
     - A byte that is kept has a deadline, and no loop looks twice at the same head of a list.
     - What a turn and a request do depends on what has changed, not on how many groups, routes,
       workers or idle clients there are (but a new key of balance = hash is compared with each
       worker). What admin wants of all of them is made in pieces.
     - Bytes from outside never meet an assert; asserts are for our own mistakes.
     - Code calls upward in the file; the few back-calls stand declared in one block.

   6. Limits
     No TLS and no HTTP/2 (put a terminator in front), no regular expressions, no rewriting, no
     caching, no static files, no shell around a command. A request has at most 100 fields, an
     answer 256. 64 instances in one process; bodies to ldcorn_serve up to 1 MiB.

   7. Sections, in order; search for the mark to get there
         @guide @api                     what you read, what you call
         @base @util @mem                platform, integers, text, time, memory
         @log @http @conf @route         sinks and reasons; parser; keys; no sockets in here
         @types                          all objects, all state tables
         @net @loop @relay               descriptors, poll set, timers, flows
         @group @up @client              slots and queue; the two ends
         @proc @reload                   workers as processes; generations
         @admin @turn @serve @public     to see; one turn; C workers; thin shells
         @licence

   History
     0.1.0  the whole path once: routing, queues with exact limits, supervision, reload, admin
     0.2.0  combinations: bytes with a deadline, one successor, slots of addresses; stops, checks
            and logs that say what they wait for; several instances, threads and forks of a host;
            no walk over all groups, routes or addresses for a request. Keys: admin is a list,
            admin_hosts, min_rate, keep_fds and reap_orphans of the desc
*/

/* @api -------------------------------------------------------------------------------------
   Everything a host program can call. Declarations are valid C99 and C++98. */
#ifndef LDCORN_H
#define LDCORN_H

/* glibc hides accept4, POLLRDHUP and SO_REUSEPORT under -std=c99 unless this stands before the
   first system header. Where the host came first, what is missing is found by #ifdef. */
#if defined(LDCORN_IMPLEMENTATION) && defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE 1
#endif

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define LDCORN_VERSION "0.2.0"

#ifdef LDCORN_STATIC
#if defined(__GNUC__) || defined(__clang__)
#define LDCORN_DEF static __attribute__((unused))
#else
#define LDCORN_DEF static
#endif
#else
#define LDCORN_DEF extern
#endif

#ifdef __cplusplus
extern "C" {
#endif

struct pollfd;

/* In a number of a desc zero means the default that its comment names. */
#define LDCORN_NONE (-1) /* switched off, no limit: `none` in a file */
#define LDCORN_ZERO (-2) /* the number 0 itself */
#define LDCORN_AUTO (-3) /* workers: processors that this process may use (affinity, quota) */

/* Why a call failed. Written only on failure; the caller owns it. */
typedef struct ldcorn_error {
    int status;      /* fit for exit(): 1 cannot start or serve, 2 configuration or usage */
    int line;        /* of the first error in `file`, from 1; 0 = not about a file */
    int column;      /* from 1, in bytes */
    char file[256];  /* path of that file, cut if longer */
    char text[8192]; /* every error found, in lines that end in '\n'; cut if longer */
} ldcorn_error;

/* What a C function worker is told. Valid in the child until it ends. */
typedef struct ldcorn_worker_info {
    const char *group; /* name of its group */
    int index;         /* 0 .. workers - 1 */
    int generation;    /* number of the reload that started it, from 1 */
} ldcorn_worker_info;

/* Runs in a forked child and serves HTTP on listen_fd (a unix socket); its result is the child's
   exit status. */
typedef int (*ldcorn_function)(int listen_fd, const ldcorn_worker_info *, void *user);

typedef struct ldcorn_function_desc {
    const char *name; /* what `function = name` in a group means */
    ldcorn_function function;
    void *user; /* passed through */
} ldcorn_function_desc;

/* One group. Each field is the key of the same name; the README's reference has the rules.
   Durations are milliseconds, sizes bytes, lists NULL-terminated arrays of words. Strings are
   copied by ldcorn_open. Exactly one of cmd, app, function, upstream, dial_in says what to run; app
   may stand beside cmd. */
typedef struct ldcorn_group_desc {
    const char *name; /* letters, digits, - and _ ; required */
    const char *cmd;  /* split like a shell does; {socket}, {port} or {fd} choose the transport */
    const char *app;  /* fills {app}; alone: uvicorn on {socket} */
    const char *function;        /* name of an entry of ldcorn_desc.functions */
    const char *const *upstream; /* host:port, [v6]:port, unix:path or dynamic (admin joins) */
    const char *const *dial_in;  /* address where workers connect: unix:path [mode=0600], or TCP */
    const char *const *dial_allow; /* CIDR words: who may dial in, default loopback and unix */
    int64_t workers;               /* processes, default 1; LDCORN_AUTO: as many as processors;
                                       with dial_in the most connections, default 1024 */
    const char *dir;               /* working directory, default: inherited */
    const char *const *env; /* K=V words over the inherited environment; {socket}, {port} and {fd}
                               are filled in */
    const char *user;       /* name[:group] of its processes, default ours; needs root */
    const char *umask;      /* octal, default inherited */
    const char *const *worker_log; /* stderr (default) stdout inherit off or a path, and raw */
    const char *const *watch;      /* files and directories: a change restarts the group */
    const char *const *routes;     /* /a prefix, /a* string prefix, =/a exact, * fallback */
    const char *const *hosts;      /* a.com or *.a.com; default any */
    const char *const *match;   /* header:N[=V] cookie:N[=V] query:N[=V] method:M; all must hold */
    bool strip_prefix;          /* the worker sees the path behind the matched prefix */
    const char *const *allow;   /* CIDR words or unix: who may ask, default anybody; else 403 */
    const char *const *deny;    /* CIDR words or unix: who may not; wins over allow */
    int64_t max_req_per_worker; /* requests inside one worker, default none */
    int64_t max_tunnels_per_worker; /* upgraded connections, default none */
    int64_t queue;                  /* waiting requests, default 1024; full is 503 */
    int64_t queue_timeout;          /* default 30s, or run_timeout if longer; over is 503 */
    int64_t max_req_per_client;     /* in flight and waiting per address, default none; 429 */
    const char *const *rate;        /* N/s or N/m [burst=N] [key=addr or key=header:NAME]; 429 */
    int64_t max_body;               /* default 64M, none = no limit; over is 413 */
    int64_t request_buffer;         /* with a limit: body collected before a slot is taken,
                                      default 1M, ZERO = none */
    int64_t response_buffer; /* with a limit: answer taken ahead of a slow client, default 1M */
    const char *balance;     /* least (default), lifo, round, hash */
    /* addr (default) header:N cookie:N query:N path:N; the first one present */
    const char *const *hash_key;
    int64_t retries;          /* default 2; only while no byte can have reached a worker */
    const char *client_abort; /* wait, close; default wait if limited, else close */
    int64_t connect_timeout;  /* default 1500, 5000 for TCP upstream */
    int64_t response_timeout; /* default 60s, or run_timeout if set; over is 504 */
    int64_t run_timeout;      /* whole time inside the worker, default none; over is 504 */
    const char *on_timeout;   /* wait, restart, close; default wait if limited, else close */
    int64_t tunnel_timeout;   /* idle upgraded connection, default 1h */
    int64_t worker_keepalive; /* idle worker connection, default 1s; ZERO = one request each */
    const char *const *health_path; /* path [host=NAME]; ready when it answers 2xx or 3xx */
    int64_t health_interval;        /* between checks, default 10s, none = only at start */
    int64_t health_timeout;         /* for the answer to a check, default 5s */
    int64_t health_fails;     /* failed checks in a row until it is replaced or down, default 3 */
    int64_t start_timeout;    /* until ready, default 5m */
    bool optional;            /* /readyz does not wait for this group */
    int64_t backoff_max;      /* restarts after 100 ms, doubling up to this, default 30s */
    int64_t max_restarts;     /* consecutive failed starts, default none = never give up */
    int64_t recycle_requests; /* replace the worker after so many, give or take a tenth */
    int64_t recycle_after;    /* or after this time; default none */
    const char *stop_signal;  /* default TERM */
    int64_t stop_timeout;     /* then KILL to the process group, default 30s, at a stop of ldcorn
                                      until shutdown_timeout is over */
    const char *reload;       /* swap (default), rolling, replace, off */
    int64_t drain_timeout;    /* requests in old workers, default the longest of 30s,
                                      response_timeout and run_timeout */
    int64_t tunnel_drain;     /* tunnels in old workers, default 5m */
} ldcorn_group_desc;

typedef enum ldcorn_level {
    LDCORN_LOG_ERROR,
    LDCORN_LOG_WARN,
    LDCORN_LOG_INFO,
    LDCORN_LOG_DEBUG
} ldcorn_level;

/* resize(user, NULL, 0, n) allocates, (user, p, old, n) grows or shrinks, (user, p, old, 0)
   frees and returns NULL. NULL on failure: one connection ends, never the process. */
typedef struct ldcorn_allocator {
    void *(*resize)(void *user, void *memory, size_t old_size, size_t new_size);
    void *user;
} ldcorn_allocator;

/* Gets each line of ldcorn's own log, one a call, without time and newline, instead of `log`. */
typedef struct ldcorn_logger {
    void (*line)(void *user, ldcorn_level, const char *text, size_t length);
    void *user;
} ldcorn_logger;

/* One request, for a handler (ldcorn_serve) or a filter. Valid while that runs. */
typedef struct ldcorn_call {
    const char *method; /* zero-terminated, as all below */
    const char *target; /* path and query as sent */
    const char *body;   /* body_size bytes and a zero; a filter sees none of it */
    size_t body_size;
    const char *client; /* address as trusted; empty for a unix peer */
    const char *group; /* filter: NULL; set to a group's name it is taken whatever the routes say */
    const void *internal; /* for ldcorn_header, ldcorn_reply, ldcorn_add_header */
} ldcorn_call;
typedef void (*ldcorn_handler)(ldcorn_call *, void *user);

/* What has happened. Valid during the call; the strings are never NULL. */
typedef enum ldcorn_event_kind {
    LDCORN_WORKER_READY,
    LDCORN_WORKER_EXITED, /* text: how */
    LDCORN_RELOADED,      /* text: ok, partial or failed */
    LDCORN_REQUEST_DONE   /* text: the reason of an answer of our own, else empty */
} ldcorn_event_kind;
typedef struct ldcorn_event {
    ldcorn_event_kind kind;
    const char *group; /* empty: a reload of all, or a request that none was found for */
    const char *text;
    const char *id;                        /* request: X-Request-Id */
    const char *client;                    /* request: address */
    long pid;                              /* worker; 0: not a process of ours */
    int worker;                            /* index, -1: none */
    int status;                            /* request: of the answer */
    int generation;                        /* the one in force */
    int64_t total_ms, queue_ms, worker_ms; /* request, from its whole head on; -1: not reached */
} ldcorn_event;

/* The whole service. Zero-initialise it, set what differs. Keys of a file win over fields, `set`
   wins over both. */
typedef struct ldcorn_desc {
    const char *file;                /* configuration file; NULL: only the fields below */
    const char *const *set;          /* "[group.]key=value" words, each over the file */
    const char *const *command;      /* argv of one group named `app` with routes = * */
    const ldcorn_group_desc *groups; /* group_count of them, beside those of the file */
    int group_count;
    const ldcorn_function_desc *functions; /* function_count of them; kept by reference */
    int function_count;

    /* host:port, [v6]:port, :port, unix:path [mode=0660], fd:N (inherited), systemd[:NAME] (its
       sockets); behind one of them the words `proxy` (PROXY v1 or v2 comes first) and `https` (TLS
       ends before us); default 127.0.0.1:8000 */
    const char *const *listen;
    const char *const *admin; /* such addresses, or off; default admin.sock in runtime_dir */
    /* names in Host that admin answers to over TCP, beside addresses and localhost */
    const char *const *admin_hosts;
    const char *admin_token;   /* bearer token for admin, default none; never printed */
    const char *ready_path;    /* answered 200 or 503 by ldcorn on public listeners, default none */
    const char *runtime_dir;   /* for worker and admin sockets, 0700; 0711 if a group has `user` */
    int64_t max_conns;         /* client connections, default 2/3 of the descriptors left */
    int64_t backlog;           /* listen backlog, default 1024 */
    int64_t header_timeout;    /* ms for a whole request head, default 10s */
    int64_t body_timeout;      /* ms between body bytes, default 30s */
    int64_t send_timeout;      /* ms in which the client takes nothing, default 30s */
    int64_t min_rate;          /* bytes per second that a client must send or take, averaged over
                                  ten seconds, default 512, ZERO = off; else 408 or a cut */
    int64_t keepalive_timeout; /* ms of an idle client connection, default 75s */
    int64_t max_header;        /* bytes of request line and fields, default 32K, 1K .. 1M */
    int64_t buffer_memory;     /* bytes of all request and response buffers, default 256M, >= 1M */
    const char *const *trusted_proxies; /* CIDR words or unix: whose X-Forwarded-* is believed */
    const char *log;                    /* stderr (default) or a path */
    const char *access_log;             /* off (default) stdout stderr or a path */
    const char *log_format;             /* text (default) or json */
    const char *log_level;              /* error warn info (default) debug */
    const char *run_as;       /* name[:group]: what we become once all is bound; needs root */
    int64_t lame_duck;        /* ms after TERM in which we are not ready but serve, default none */
    int64_t shutdown_timeout; /* ms for a whole graceful stop, lame_duck included, default 25s */
    const char *pid_file;     /* path; written when all listeners are bound, default none */

    /* keep_fd_count of the host's descriptors that workers which are C functions keep; all others
       lead to /dev/null there. Kept by reference */
    const int *keep_fds;
    int keep_fd_count;
    bool no_signals;   /* ldcorn_run installs no handlers, but ignores SIGPIPE */
    bool reap_orphans; /* ldcorn_run as process 1 waits for every child: for a program that has none
                          of its own. Else only for its workers and for orphans in their process
                          groups */
    void (*after_fork)(void *user, const ldcorn_worker_info *); /* first in a function's child */
    void *after_fork_user;
    /* Both run inside a turn: they must not wait, nor call this instance. */
    void (*event)(void *user, const ldcorn_event *);
    void *event_user;
    ldcorn_handler filter; /* each public request before it is routed: may answer, choose, add */
    void *filter_user;
    ldcorn_allocator allocator; /* default realloc and free */
    ldcorn_logger logger;       /* default: to `log` */
} ldcorn_desc;

typedef struct ldcorn ldcorn; /* one instance, up to 64 in a process; each one thread at a time */

/* Reads the configuration, binds listeners (an address in use is tried for 1 s), prepares workers
   (forked by the first turns). NULL on failure, and `error` says why with file and line. Free with
   ldcorn_close. */
LDCORN_DEF ldcorn *ldcorn_open(const ldcorn_desc *, ldcorn_error *error);
/* Turns until stopped. 0 stopped as asked, else 1. Handles TERM INT QUIT HUP USR1 CHLD unless
   no_signals, until ldcorn_close puts back what stood there. */
LDCORN_DEF int ldcorn_run(ldcorn *);
/* One turn, waiting at most timeout_ms (-1: as long as nothing is due). 1 goes on, 0 stopped,
   -1 poll() failed (errno). */
LDCORN_DEF int ldcorn_step(ldcorn *, int timeout_ms);
/* For the caller's own poll loop: fills up to `room` entries, returns how many are needed. */
LDCORN_DEF int ldcorn_collect(ldcorn *, struct pollfd *, int room);
/* Milliseconds until something is due, 0 now, -1 nothing. */
LDCORN_DEF int ldcorn_timeout(ldcorn *);
/* Serves what the caller's poll() found in the entries of the last ldcorn_collect. As
   ldcorn_step. */
LDCORN_DEF int ldcorn_dispatch(ldcorn *, const struct pollfd *, int n);
/* For hosts that reap everything themselves: true if pid was a worker of ours. */
LDCORN_DEF bool ldcorn_child(ldcorn *, pid_t pid, int status);
/* Ends workers at once if any are left, closes and frees everything. NULL is allowed. */
LDCORN_DEF void ldcorn_close(ldcorn *);
/* Asks for a graceful stop; once more, a second or more later, for one at once. Safe in a signal
   handler. */
LDCORN_DEF void ldcorn_stop(ldcorn *);
/* Starts a reload of the file; 0, or -1 and error if it cannot be started. The result is in the
   log and in /status. */
LDCORN_DEF int ldcorn_reload(ldcorn *, ldcorn_error *error);
/* As the admin requests of these names; worker -1: the whole group. 0, or -1 and error: no such
   group or worker, no process of ours, a reload is under way. What comes of it: log and events. */
LDCORN_DEF int ldcorn_scale(ldcorn *, const char *group, int workers, ldcorn_error *error);
LDCORN_DEF int ldcorn_restart(ldcorn *, const char *group, int worker, ldcorn_error *error);
LDCORN_DEF int ldcorn_pause(ldcorn *, const char *group, int worker, ldcorn_error *error);
LDCORN_DEF int ldcorn_resume(ldcorn *, const char *group, int worker, ldcorn_error *error);
/* Reads and checks as ldcorn_open would, also programs and directories; binds and starts
   nothing. 0, or -1 and error. `warnings` (may be NULL) gets lines; owned by the caller. */
LDCORN_DEF int ldcorn_check(const ldcorn_desc *, ldcorn_error *error, ldcorn_error *warnings);
/* Writes the effective configuration with defaults and origins to descriptor fd. As check. */
LDCORN_DEF int ldcorn_dump(const ldcorn_desc *, int fd, ldcorn_error *error);

/* Figures of one group. Strings belong to the instance and are good until the next turn. */
typedef struct ldcorn_group_info {
    const char *name;
    int workers;       /* wanted */
    int ready;         /* taking requests */
    int inside;        /* requests inside its workers, orphans included */
    int slots;         /* ready x limit; 0 = no limit */
    int queued;        /* waiting */
    uint64_t requests; /* answered, whatever the status */
    uint64_t refused;  /* answered by ldcorn because of limits or missing workers */
    uint64_t restarts; /* starts after a crash or a failed start */
} ldcorn_group_info;
/* False when index is not below the number of groups. */
LDCORN_DEF bool ldcorn_group_at(const ldcorn *, int index, ldcorn_group_info *);

/* A small HTTP/1.1 server for C workers, from the same parser: one thread, keep-alive, bodies up
   to 1 MiB. Each complete request goes to the handler, which answers with ldcorn_reply once. */
/* Serves until accept() fails for good: then 1 and errno. Sets listen_fd non-blocking. */
LDCORN_DEF int ldcorn_serve(int listen_fd, ldcorn_handler, void *user);
/* Answers; status 200 to 599, type NULL is text/plain, 204, 205 and 304 have no body. 0, or -1
   without memory, when already answered, or if status or type are none. */
LDCORN_DEF int ldcorn_reply(ldcorn_call *, int status, const char *type, const void *body,
                            size_t size);
/* In a filter: one more field for the worker, in place of the client's own of this name. 0, or -1
   without memory, or if name or value may not stand in a head, or are ldcorn's to write. */
LDCORN_DEF int ldcorn_add_header(ldcorn_call *, const char *name, const char *value);
/* Copies the first field of that name, zero-terminated, cut to room; its whole length, or -1: there is
   none. */
LDCORN_DEF int ldcorn_header(const ldcorn_call *, const char *name, char *out, size_t room);

/* LDCORN_VERSION as the implementation was compiled. */
LDCORN_DEF const char *ldcorn_version(void);

#ifdef __cplusplus
}
#endif
#endif /* LDCORN_H */

#ifdef LDCORN_IMPLEMENTATION
#ifndef LDCORN_IMPLEMENTED
#define LDCORN_IMPLEMENTED

#ifdef __cplusplus
#error "ldcorn.h: the implementation is C; compile it in a .c file (the declarations are C++ too)"
#endif

/* @base -------------------------------------------------------------------------------------
   Platform, limits of our own, asserts. LDCORN_PORTABLE switches every extension off, so that
   the portable path can be tested where the extensions exist. */

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
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/ioctl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

/* What looks at idle connections in poll()'s place. LDCORN_KQUEUE chooses kqueue by hand. */
#if defined(LDCORN_PORTABLE) || defined(LDCORN_POLL_ONLY)
/* nothing: poll() does, now and then */
#elif defined(__APPLE__) || defined(__FreeBSD__) || defined(__NetBSD__) || defined(__OpenBSD__) || \
    defined(__DragonFly__) || defined(LDCORN_KQUEUE)
#include <sys/event.h>
#define LDC_KQUEUE 1
#elif defined(__linux__)
#include <sys/epoll.h>
#define LDC_EPOLL 1
#endif

#ifndef SA_RESTART
#error "ldcorn.h: sigaction is hidden; define _GNU_SOURCE before the first system header"
#endif

#if defined(__APPLE__)
typedef int ldc_gid; /* what getgrouplist() fills; of one size with gid_t */
#else
typedef gid_t ldc_gid;
#endif

#ifndef LDCORN_ASSERT
#ifdef LDCORN_AUDIT
#define LDCORN_ASSERT(x) ldc_base_assert((x), #x, __LINE__)
#else
#define LDCORN_ASSERT(x) ((void)0)
#endif
#endif

#if defined(__GLIBC__) && !defined(__USE_MISC) && !defined(__USE_XOPEN_EXTENDED)
extern char *realpath(const char *path, char *real); /* hidden by the host's feature macro */
#endif
#if defined(__GLIBC__) && !defined(__USE_MISC)
extern int setgroups(size_t n, const gid_t *list);
extern int getgrouplist(const char *name, gid_t group, gid_t *list, int *n);
#endif

#if defined(__GNUC__) || defined(__clang__)
#define LDC_PRINTF(f, a) __attribute__((format(printf, f, a), unused))
#define LDC_UNUSED __attribute__((unused))
#else
#define LDC_PRINTF(f, a)
#define LDC_UNUSED
#endif

#if defined(POLLRDHUP) && !defined(LDCORN_PORTABLE)
#define LDC_RDHUP POLLRDHUP
#else
#define LDC_RDHUP 0 /* a client's FIN is then seen by reading into a bounded buffer */
#endif
#ifdef MSG_NOSIGNAL
#define LDC_SENDFLAGS MSG_NOSIGNAL
#else
#define LDC_SENDFLAGS 0 /* SO_NOSIGPIPE, or SIGPIPE ignored */
#endif

enum {
    LDC_SCRATCH = 131072, /* one read; more than 64 KiB and a head, a usual size of answers */
    LDC_AHEAD = 65536,    /* bytes kept for a peer that is slower than the other side */
    LDC_LONG = 32768,     /* bytes still to come that make splice() worth it */
    LDC_GLANCE = 4096,    /* a read where a head with a long body behind it is to be expected */
    LDC_PIPE = 1048576,   /* for splice(): bytes, of which a piece of a page takes a whole page */
    LDC_PIPELINE = 16384, /* bytes kept of a client that sends ahead */
    LDC_ADMINS = 128,     /* connections to admin at a time */
    LDC_COLLECT = 65536,  /* a body up to this is small: a quarter of the memory is for those */
    LDC_ONCE = 262144,    /* of a body that waits, written in one turn */
    LDC_SLICE = 500,      /* us of a turn that a long answer may take */
    LDC_INHERITED = 64,   /* listening sockets from systemd */
    LDC_INHERITED_MOST = 1024, /* numbers of inherited descriptors are below */
    LDC_USER_GROUPS = 256,     /* of one user */
    LDC_FIELDS = 100,          /* fields in the head of a request */
    LDC_ANSWER_FIELDS = 256,   /* and of an answer */
    LDC_INTERIM = 16,          /* 1xx answers before the final one (RFC 9110 15.2) */
    LDC_SAYS = 10,             /* lines about failed requests per group and second */
    LDC_ACCEPTS = 64,          /* accepts per listener and turn */
    LDC_SPIN = 100,            /* turns ready without progress before we give up on a peer */
    LDC_TRAILER = 8192,        /* bytes of trailers, read and dropped */
    LDC_EXTENSION = 256,       /* bytes of chunk extensions in one line */
    LDC_EXTENSIONS = 16384,    /* and in one body: an amplifier otherwise */
    LDC_LOG_LINE = 8192,       /* a worker's line, longer ones are split */
    LDC_LOG_RING = 262144,     /* bytes waiting for a slow log target, then whole lines drop */
    LDC_PRINTS = 8192,         /* bytes of a worker's output that are read in a turn */
    LDC_TAIL = 2048,           /* a worker's last words, for the log and /status */
    LDC_TAIL_TIME = 8,         /* digits before each of its lines */
    LDC_BUCKETS = 15           /* of a histogram, the last one is +Inf */
};

/* Internal results: 0 or a count, else one of these. */
enum { LDC_MORE = -1, LDC_BAD = -2, LDC_NOMEM = -3, LDC_GONE = -4 };

static void ldc_base_assert(bool ok, const char *what, int line) LDC_UNUSED;
static void ldc_base_assert(bool ok, const char *what, int line) {
    if (ok) return;
    fprintf(stderr, "ldcorn.h:%d: assert failed: %s\n", line, what);
    abort();
}

/* @util -------------------------------------------------------------------------------------
   Texts as pointer and length, checked integers, time. Owns nothing. */

typedef struct ldc_str {
    const char *p;
    size_t n;
} ldc_str;

#define LDC_S(literal) ldc_util_str(literal, sizeof(literal) - 1)
#define LDC_LEN(array) (sizeof(array) / sizeof((array)[0]))
#define LDC_STR_ARG(s) (int)((s).n > 4096 ? 4096 : (s).n), ((s).p ? (s).p : "")

static ldc_str ldc_util_str(const char *p, size_t n) {
    ldc_str s;
    s.p = p;
    s.n = n;
    return s;
}

static ldc_str ldc_util_z(const char *z) { return ldc_util_str(z ? z : "", z ? strlen(z) : 0); }

static bool ldc_util_same(ldc_str a, ldc_str b) {
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

static bool ldc_util_is(ldc_str a, const char *z) { return ldc_util_same(a, ldc_util_z(z)); }

static unsigned char ldc_util_lower(char c) {
    unsigned char u = (unsigned char)c;
    return u >= 'A' && u <= 'Z' ? (unsigned char)(u | 0x20) : u;
}

static bool ldc_util_isnocase(ldc_str a, const char *z) {
    for (size_t i = 0; i < a.n; i++) {
        if (z[i] == 0 || ldc_util_lower(a.p[i]) != ldc_util_lower(z[i])) return false;
    }
    return z[a.n] == 0;
}

static bool ldc_util_starts(ldc_str a, const char *z) {
    size_t n = strlen(z);
    return a.n >= n && memcmp(a.p, z, n) == 0;
}

static ldc_str ldc_util_cut(ldc_str a, size_t from) { return ldc_util_str(a.p + from, a.n - from); }

static ldc_str ldc_util_trim(ldc_str a) {
    while (a.n && (a.p[0] == ' ' || a.p[0] == '\t')) a = ldc_util_cut(a, 1);
    while (a.n && (a.p[a.n - 1] == ' ' || a.p[a.n - 1] == '\t')) a.n--;
    return a;
}

/* Takes the next element of a comma list (RFC 9110 5.6.1); false at the end. */
static bool ldc_util_element(ldc_str *list, ldc_str *element) {
    while (list->n) {
        const char *comma = memchr(list->p, ',', list->n);
        size_t n = comma ? (size_t)(comma - list->p) : list->n;
        *element = ldc_util_trim(ldc_util_str(list->p, n));
        *list = ldc_util_cut(*list, comma ? n + 1 : n);
        if (element->n) return true;
    }
    return false;
}

/* Decimal digits only, at most max. False on anything else. */
static bool ldc_util_number(ldc_str a, uint64_t max, uint64_t *out) {
    uint64_t v = 0;
    if (a.n == 0 || a.n > 19) return false;
    for (size_t i = 0; i < a.n; i++) {
        if (a.p[i] < '0' || a.p[i] > '9') return false;
        v = v * 10 + (uint64_t)(a.p[i] - '0');
    }
    *out = v;
    return v <= max;
}

static int ldc_util_hex(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* Writes v in decimal without terminator; returns the number of digits, at most 20. */
static size_t ldc_util_decimal(uint64_t v, char *out) {
    char t[20];
    size_t n = 0;
    do t[n++] = (char)('0' + v % 10);
    while (v /= 10);
    for (size_t i = 0; i < n; i++) out[i] = t[n - 1 - i];
    return n;
}

static size_t ldc_util_hexadecimal(uint64_t v, char *out) {
    char t[16];
    size_t n = 0;
    do t[n++] = "0123456789abcdef"[v & 15];
    while (v >>= 4);
    for (size_t i = 0; i < n; i++) out[i] = t[n - 1 - i];
    return n;
}

/* Spreads what lies in few bits over all of them. */
static uint64_t ldc_util_mix(uint64_t h) {
    h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9ULL;
    h = (h ^ (h >> 27)) * 0x94D049BB133111EBULL;
    return h ^ (h >> 31);
}

#define LDC_UTIL_FNV_PRIME 1099511628211ULL

static uint64_t ldc_util_fnv(const void *data, size_t n, uint64_t h) {
    const unsigned char *p = (const unsigned char *)data;
    for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * LDC_UTIL_FNV_PRIME;
    return h;
}

/* Microseconds of a clock that never goes back. */
static uint64_t ldc_util_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* Milliseconds since 1970. */
static uint64_t ldc_util_wall(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* Edit distance of two short words, for "did you mean". */
static int ldc_util_distance(ldc_str a, ldc_str b) {
    int row[64];
    if (a.n > 60 || b.n > 60) return 99;
    for (size_t j = 0; j <= b.n; j++) row[j] = (int)j;
    for (size_t i = 1; i <= a.n; i++) {
        int diagonal = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= b.n; j++) {
            int up = row[j], change = diagonal + (a.p[i - 1] != b.p[j - 1]);
            int best = up < row[j - 1] ? up + 1 : row[j - 1] + 1;
            row[j] = change < best ? change : best;
            diagonal = up;
        }
    }
    return row[b.n];
}

/* Duration as a person writes it: 250ms, 1.5s, 2m, 3h, 4d. */
static const char *ldc_util_span(uint64_t ms, char out[24]) {
    if (ms < 1000)
        snprintf(out, 24, "%dms", (int)ms);
    else if (ms < 60000 && ms % 1000)
        snprintf(out, 24, "%.1fs", (double)ms / 1000);
    else if (ms < 60000)
        snprintf(out, 24, "%ds", (int)(ms / 1000));
    else if (ms % 86400000 == 0)
        snprintf(out, 24, "%dd", (int)(ms / 86400000));
    else if (ms % 3600000 == 0)
        snprintf(out, 24, "%dh", (int)(ms / 3600000));
    else if (ms % 60000 == 0)
        snprintf(out, 24, "%dm", (int)(ms / 60000));
    else
        snprintf(out, 24, "%ds", (int)(ms / 1000));
    return out;
}

static const char *ldc_util_size(uint64_t n, char out[24]) {
    const char *unit = "";
    if (n && n % (1 << 30) == 0)
        n >>= 30, unit = "G";
    else if (n && n % (1 << 20) == 0)
        n >>= 20, unit = "M";
    else if (n && n % (1 << 10) == 0)
        n >>= 10, unit = "K";
    snprintf(out, 24, "%llu%s", (unsigned long long)n, unit);
    return out;
}

static const char *ldc_util_signame(int sig) {
    static const struct {
        int number;
        const char *name;
    } names[] = {{SIGTERM, "TERM"}, {SIGINT, "INT"},   {SIGQUIT, "QUIT"}, {SIGHUP, "HUP"},
                 {SIGKILL, "KILL"}, {SIGUSR1, "USR1"}, {SIGUSR2, "USR2"}, {SIGABRT, "ABRT"},
                 {SIGSEGV, "SEGV"}, {SIGBUS, "BUS"},   {SIGFPE, "FPE"},   {SIGILL, "ILL"},
                 {SIGPIPE, "PIPE"}, {SIGALRM, "ALRM"}, {SIGTRAP, "TRAP"}, {SIGSYS, "SYS"},
                 {SIGXCPU, "XCPU"}, {SIGXFSZ, "XFSZ"}};
    for (size_t i = 0; i < LDC_LEN(names); i++) {
        if (names[i].number == sig) return names[i].name;
    }
    return "";
}

static int ldc_util_signal(ldc_str name) {
    static const int numbers[] = {SIGTERM, SIGINT,  SIGQUIT, SIGHUP,
                                  SIGKILL, SIGUSR1, SIGUSR2, SIGABRT};
    if (ldc_util_starts(name, "SIG")) name = ldc_util_cut(name, 3);
    for (size_t i = 0; i < LDC_LEN(numbers); i++) {
        if (ldc_util_is(name, ldc_util_signame(numbers[i]))) return numbers[i];
    }
    return 0;
}

/* RFC 3339, in UTC with milliseconds; `ms` since 1970. */
static void ldc_util_stamp(uint64_t ms, char out[40]) {
    time_t seconds = (time_t)(ms / 1000);
    struct tm tm;
    size_t n;
    gmtime_r(&seconds, &tm);
    n = strftime(out, 32, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out + n, 40 - n, ".%03dZ", (int)(ms % 1000));
}

/* As HTTP writes it (RFC 9110 5.6.7): in English whatever the host's locale is. */
static ldc_str ldc_util_date(time_t now, char out[40]) {
    static const char days[] = "SunMonTueWedThuFriSat",
                      months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    struct tm t;
    gmtime_r(&now, &t);
    snprintf(out, 40, "%.3s, %02d %.3s %04d %02d:%02d:%02d GMT", days + 3 * (t.tm_wday % 7),
             t.tm_mday % 100, months + 3 * (t.tm_mon % 12), (t.tm_year + 1900) % 10000,
             t.tm_hour % 100, t.tm_min % 100, t.tm_sec % 100);
    return ldc_util_z(out);
}

/* The first bytes of what somebody sent, printable; zero-terminated. */
static const char *ldc_util_show(ldc_str s, char *out, size_t room) {
    size_t o = 0, i = 0;
    for (; i < s.n && i < 48 && o + 8 < room; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c > 0x1f && c < 0x7f && c != '"' && c != '\\')
            out[o++] = (char)c;
        else
            o += (size_t)snprintf(out + o, room - o, "\\x%02x", (unsigned)c);
    }
    snprintf(out + o, room - o, "%s", i < s.n ? "..." : "");
    return out;
}

/* --- calls that a signal may interrupt: a host's handlers may come without SA_RESTART --- */

static int ldc_util_open(const char *path, int flags, mode_t mode) {
    int fd;
    do fd = open(path, flags, mode);
    while (fd < 0 && errno == EINTR);
    return fd;
}

static ssize_t ldc_util_read(int fd, void *p, size_t n) {
    ssize_t r;
    do r = read(fd, p, n);
    while (r < 0 && errno == EINTR);
    return r;
}

static ssize_t ldc_util_write(int fd, const void *p, size_t n) {
    ssize_t w;
    do w = write(fd, p, n);
    while (w < 0 && errno == EINTR);
    return w;
}

static ssize_t ldc_util_recv(int fd, void *p, size_t n, int flags) {
    ssize_t r;
    do r = recv(fd, p, n, flags);
    while (r < 0 && errno == EINTR);
    return r;
}

static pid_t ldc_util_wait(pid_t pid, int *status, int flags) {
    pid_t r;
    do r = waitpid(pid, status, flags);
    while (r < 0 && errno == EINTR);
    return r;
}

static bool ldc_util_dup(int from, int to) {
    int fd;
    do fd = dup2(from, to);
    while (fd < 0 && errno == EINTR);
    return fd >= 0;
}

static bool ldc_util_again(void) { /* errno: nothing there now, or no room */
    return errno == EAGAIN || errno == EWOULDBLOCK;
}

/* --- processors --- */

/* What a small file of the kernel's says, zero-terminated; 0: nothing, or there is none. */
static size_t ldc_util_small(const char *path, char *text, size_t room) {
    int fd = ldc_util_open(path, O_RDONLY | O_CLOEXEC, 0);
    ssize_t n = fd < 0 ? 0 : ldc_util_read(fd, text, room - 1);
    if (fd >= 0) close(fd);
    text[n > 0 ? n : 0] = 0;
    return n > 0 ? (size_t)n : 0;
}

/* Whole processors of a cgroup's quota ("200000 100000"), 0: no limit or no such file. */
static int64_t ldc_util_quota(const char *folder) {
    char path[PATH_MAX + 16], text[64];
    unsigned long long quota = 0, period = 0;
    snprintf(path, sizeof path, "%s/cpu.max", folder);
    if (ldc_util_small(path, text, sizeof text) == 0) return 0;
    if (sscanf(text, "%llu %llu", &quota, &period) != 2 || period == 0) return 0;
    return (int64_t)((quota + period - 1) / period);
}

/* What this process may use: online, by affinity, by the quota of its container. */
static int64_t ldc_util_processors(void) {
    int64_t n = sysconf(_SC_NPROCESSORS_ONLN), quota;
#if defined(__linux__) && defined(CPU_COUNT)
    cpu_set_t set;
    char line[PATH_MAX - 32], folder[PATH_MAX];
    FILE *f;
    if (sched_getaffinity(0, sizeof set, &set) == 0) n = CPU_COUNT(&set);
    f = fopen("/proc/self/cgroup", "re");
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, "0::", 3) != 0) continue;
        line[strcspn(line, "\n")] = 0;
        for (char *end = line + strlen(line); end > line + 2; *end = 0) { /* it and those above */
            snprintf(folder, sizeof folder, "/sys/fs/cgroup%s", line + 3);
            quota = ldc_util_quota(folder);
            if (quota > 0 && quota < n) n = quota;
            while (end > line + 2 && *end != '/') end--;
        }
    }
    if (f) fclose(f);
#endif
    quota = ldc_util_quota("/sys/fs/cgroup");
    if (quota > 0 && quota < n) n = quota;
    return n < 1 ? 1 : n > 4096 ? 4096 : n;
}

/* @mem --------------------------------------------------------------------------------------
   One resize hook, an arena for what lives as long as a configuration, buffers from free lists.
   A buffer holds memory only while bytes are in it. Owns the pools. */

enum { LDC_MEM_CLASSES = 4, LDC_MEM_KEEP = 64 };

typedef struct ldc_mem {
    ldcorn_allocator hook;
    void *pool[LDC_MEM_CLASSES]; /* free buffers of 2K, 8K, 32K, 128K, linked by their first word */
    int pooled[LDC_MEM_CLASSES];
    uint64_t in_buffers; /* bytes of buffers handed out */
} ldc_mem;

typedef struct ldc_buf { /* bytes off .. len - 1 are waiting; p is NULL while there are none */
    char *p;
    uint32_t off, len, cap;
} ldc_buf;

typedef struct ldc_text { /* a growing text; a failed allocation is seen once, at the end */
    ldc_mem *mem;
    char *p;
    size_t n, cap;
    bool failed;
} ldc_text;

typedef struct ldc_arena_block {
    struct ldc_arena_block *next;
    size_t used, cap;
} ldc_arena_block;

typedef struct ldc_arena {
    ldc_mem *mem;
    ldc_arena_block *head;
} ldc_arena;

static void *ldc_mem_default(void *user, void *memory, size_t old_size, size_t new_size) {
    (void)user;
    (void)old_size;
    if (new_size == 0) {
        free(memory);
        return NULL;
    }
    return realloc(memory, new_size);
}

static void *ldc_mem_resize(ldc_mem *m, void *memory, size_t old_size, size_t new_size) {
    return m->hook.resize(m->hook.user, memory, old_size, new_size);
}

static void *ldc_mem_zero(ldc_mem *m, size_t size) {
    void *p = ldc_mem_resize(m, NULL, 0, size);
    if (p) memset(p, 0, size);
    return p;
}

static void ldc_mem_free(ldc_mem *m, void *p, size_t size) {
    if (p) ldc_mem_resize(m, p, size, 0);
}

static size_t ldc_mem_class_size(int c) { return (size_t)2048 << (2 * c); }

static int ldc_mem_class(size_t n) {
    for (int c = 0; c < LDC_MEM_CLASSES; c++) {
        if (n <= ldc_mem_class_size(c)) return c;
    }
    return -1;
}

static void *ldc_mem_take(ldc_mem *m, size_t need, uint32_t *cap) {
    int c = ldc_mem_class(need);
    size_t size = c < 0 ? (need + 65535) & ~(size_t)65535 : ldc_mem_class_size(c);
    void *p = NULL;
    if (need > UINT32_MAX / 2) return NULL;
    if (c >= 0 && m->pool[c]) {
        p = m->pool[c];
        memcpy(&m->pool[c], p, sizeof(void *));
        m->pooled[c]--;
    } else {
        p = ldc_mem_resize(m, NULL, 0, size);
    }
    if (p == NULL) return NULL;
    *cap = (uint32_t)size;
    m->in_buffers += size;
    return p;
}

static void ldc_mem_give(ldc_mem *m, void *p, uint32_t cap) {
    int c = ldc_mem_class(cap);
    m->in_buffers -= cap;
    if (c >= 0 && ldc_mem_class_size(c) == cap && m->pooled[c] < LDC_MEM_KEEP) {
        memcpy(p, &m->pool[c], sizeof(void *));
        m->pool[c] = p;
        m->pooled[c]++;
        return;
    }
    ldc_mem_free(m, p, cap);
}

static void ldc_mem_done(ldc_mem *m) {
    for (int c = 0; c < LDC_MEM_CLASSES; c++) {
        while (m->pool[c]) {
            void *p = m->pool[c];
            memcpy(&m->pool[c], p, sizeof(void *));
            ldc_mem_free(m, p, ldc_mem_class_size(c));
        }
        m->pooled[c] = 0;
    }
}

static size_t ldc_buf_size(const ldc_buf *b) { return b->len - b->off; }
static char *ldc_buf_at(const ldc_buf *b) { return b->p + b->off; }

/* Grows a buffer that no free list has room for by half, in place where the allocator can: what it
   takes beyond its bytes is memory that nobody has counted. */
static bool ldc_buf_grow(ldc_mem *m, ldc_buf *b, size_t n) {
    size_t cap = (size_t)b->cap + b->cap / 2;
    char *p;
    if (cap - b->len < n) cap = b->len + n;
    if (cap > UINT32_MAX / 2 || (p = (char *)ldc_mem_resize(m, b->p, b->cap, cap)) == NULL)
        return false;
    m->in_buffers += cap - b->cap;
    b->p = p;
    b->cap = (uint32_t)cap;
    return true;
}

static void ldc_buf_free(ldc_mem *m, ldc_buf *b) {
    if (b->p) ldc_mem_give(m, b->p, b->cap);
    memset(b, 0, sizeof *b);
}

/* Makes room for n more bytes behind the last one. Bytes move to the front only where at least as
   many have gone, so that a long buffer costs each byte one move. */
static bool ldc_buf_room(ldc_mem *m, ldc_buf *b, size_t n) {
    size_t live = ldc_buf_size(b);
    uint32_t cap = 0;
    char *p;
    if (b->p && b->cap - b->len >= n) return true;
    if (b->p && b->cap - live >= n && b->off >= live) {
        memmove(b->p, b->p + b->off, live);
    } else if (b->cap > ldc_mem_class_size(LDC_MEM_CLASSES - 1)) {
        return ldc_buf_grow(m, b, n);
    } else {
        p = (char *)ldc_mem_take(m, live + n, &cap);
        if (p == NULL) return false;
        if (live) memcpy(p, b->p + b->off, live);
        if (b->p) ldc_mem_give(m, b->p, b->cap);
        b->p = p;
        b->cap = cap;
    }
    b->off = 0;
    b->len = (uint32_t)live;
    return true;
}

static bool ldc_buf_add(ldc_mem *m, ldc_buf *b, const void *data, size_t n) {
    if (n == 0) return true;
    if (!ldc_buf_room(m, b, n)) return false;
    memcpy(b->p + b->len, data, n);
    b->len += (uint32_t)n;
    return true;
}

static void ldc_buf_drop(ldc_mem *m, ldc_buf *b, size_t n) {
    b->off += (uint32_t)n;
    if (b->off == b->len) ldc_buf_free(m, b);
}

static void ldc_text_init(ldc_text *t, ldc_mem *m) {
    memset(t, 0, sizeof *t);
    t->mem = m;
}

static void ldc_text_free(ldc_text *t) {
    ldc_mem_free(t->mem, t->p, t->cap);
    ldc_text_init(t, t->mem);
}

/* What a text holds from `off` on, behind what a buffer holds: without a copy where that is empty. */
static bool ldc_buf_take(ldc_mem *m, ldc_buf *b, ldc_text *t, size_t off) {
    bool ok = !t->failed && t->cap <= UINT32_MAX / 2;
    if (ok && b->p) {
        ok = ldc_buf_add(m, b, t->p + off, t->n - off);
    } else if (ok && t->p) {
        b->p = t->p;
        b->off = (uint32_t)off;
        b->len = (uint32_t)t->n;
        b->cap = (uint32_t)t->cap;
        m->in_buffers += b->cap;
        ldc_text_init(t, m);
    }
    ldc_text_free(t);
    return ok;
}

static bool ldc_text_room(ldc_text *t, size_t n) {
    size_t cap = t->cap ? t->cap : 512;
    char *p;
    if (t->failed) return false;
    if (t->cap - t->n > n) return true;
    while (cap - t->n <= n) cap *= 2;
    p = (char *)ldc_mem_resize(t->mem, t->p, t->cap, cap);
    if (p == NULL) {
        t->failed = true;
        return false;
    }
    t->p = p;
    t->cap = cap;
    return true;
}

static void ldc_text_put(ldc_text *t, const char *p, size_t n) {
    if (n == 0 || !ldc_text_room(t, n)) return;
    memcpy(t->p + t->n, p, n);
    t->n += n;
    t->p[t->n] = 0;
}

static void ldc_text_add(ldc_text *t, const char *z) { ldc_text_put(t, z, strlen(z)); }

static void ldc_text_fmt(ldc_text *t, const char *format, ...) LDC_PRINTF(2, 3);
static void ldc_text_fmtv(ldc_text *t, const char *format, va_list list) {
    va_list again;
    int n;
    va_copy(again, list);
    n = vsnprintf(NULL, 0, format, again);
    va_end(again);
    if (n < 0 || !ldc_text_room(t, (size_t)n + 1)) return;
    vsnprintf(t->p + t->n, (size_t)n + 1, format, list);
    t->n += (size_t)n;
}

static void ldc_text_fmt(ldc_text *t, const char *format, ...) {
    va_list list;
    va_start(list, format);
    ldc_text_fmtv(t, format, list);
    va_end(list);
}

/* Length of the valid UTF-8 sequence at s, 0 if there is none. */
static size_t ldc_text_utf8(const unsigned char *s, size_t n) {
    size_t want = s[0] >= 0xF0 ? 4 : s[0] >= 0xE0 ? 3 : 2;
    if (s[0] < 0xC2 || s[0] > 0xF4 || n < want) return 0;
    for (size_t i = 1; i < want; i++) {
        if ((s[i] & 0xC0) != 0x80) return 0;
    }
    if ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F)) return 0;
    if ((s[0] == 0xF0 && s[1] < 0x90) || (s[0] == 0xF4 && s[1] > 0x8F)) return 0;
    return want;
}

/* A JSON string (RFC 8259 7); bytes that are not UTF-8 become U+FFFD. */
static void ldc_text_json_part(ldc_text *t, ldc_str s) {
    for (size_t i = 0; i < s.n;) {
        unsigned char c = (unsigned char)s.p[i];
        size_t n = 1;
        if (c >= 0x80) {
            n = ldc_text_utf8((const unsigned char *)s.p + i, s.n - i);
            if (n == 2 && c == 0xC2 && (unsigned char)s.p[i + 1] < 0xA0)
                ldc_text_fmt(t, "\\u00%02x", (unsigned)(unsigned char)s.p[i + 1]);
            else if (n == 3 && (memcmp(s.p + i, "\xE2\x80\xA8", 3) == 0 ||
                                memcmp(s.p + i, "\xE2\x80\xA9", 3) == 0))
                ldc_text_add(t, s.p[i + 2] == '\xA8'
                                    ? "\\u2028"
                                    : "\\u2029"); /* some readers end lines there */
            else if (n)
                ldc_text_put(t, s.p + i, n);
            else
                ldc_text_add(t, "\\ufffd"), n = 1;
        } else if (c == '"' || c == '\\') {
            ldc_text_fmt(t, "\\%c", c);
        } else if (c == '\n') {
            ldc_text_add(t, "\\n");
        } else if (c < 0x20 || c == 0x7f) {
            ldc_text_fmt(t, "\\u%04x", (unsigned)c);
        } else {
            ldc_text_put(t, s.p + i, 1);
        }
        i += n;
    }
}

static void ldc_text_json(ldc_text *t, ldc_str s) {
    ldc_text_put(t, "\"", 1);
    ldc_text_json_part(t, s);
    ldc_text_put(t, "\"", 1);
}

/* Printable text for a log line: control bytes, those behind 0x7f too (U+0080 to U+009F, and bytes
   that are not UTF-8), and quotes where asked, as \xHH: no value can end a line, a field, or speak to
   a terminal. */
static void ldc_text_escape(ldc_text *t, ldc_str s, bool quotes) {
    for (size_t i = 0, plain; i < s.n;) {
        for (plain = i; plain < s.n && (unsigned char)s.p[plain] >= 0x20 && s.p[plain] > 0 &&
                        s.p[plain] != 0x7f && s.p[plain] != '"' && s.p[plain] != '\\';)
            plain++;
        ldc_text_put(t, s.p + i, plain - i); /* most of it, in one piece */
        i = plain;
        if (i == s.n) break;
        unsigned char c = (unsigned char)s.p[i];
        size_t n = c < 0x80 ? 1 : ldc_text_utf8((const unsigned char *)s.p + i, s.n - i);
        bool control = (c < 0x20 && c != '\t') || c == 0x7f || n == 0 ||
                       (c == 0xC2 && (unsigned char)s.p[i + 1] < 0xA0);
        if (!control && !(quotes && (c == '"' || c == '\\'))) {
            ldc_text_put(t, s.p + i, n);
            i += n;
            continue;
        }
        for (n = n ? n : 1; n; n--) ldc_text_fmt(t, "\\x%02x", (unsigned)(unsigned char)s.p[i++]);
    }
}

static void *ldc_arena_take(ldc_arena *a, size_t size) {
    ldc_arena_block *b = a->head;
    size = (size + 15) & ~(size_t)15;
    if (b == NULL || b->cap - b->used < size) {
        size_t head = (sizeof *b + 15) & ~(size_t)15;
        size_t cap = head + (size > 4096 ? size : 4096);
        b = (ldc_arena_block *)ldc_mem_resize(a->mem, NULL, 0, cap);
        if (b == NULL) return NULL;
        b->next = a->head;
        b->cap = cap;
        b->used = head;
        a->head = b;
    }
    b->used += size;
    return memset((char *)b + b->used - size, 0, size);
}

static char *ldc_arena_copy(ldc_arena *a, const char *p, size_t n) {
    char *z = (char *)ldc_arena_take(a, n + 1);
    if (z && n) memcpy(z, p, n);
    return z;
}

static void ldc_arena_free(ldc_arena *a) {
    while (a->head) {
        ldc_arena_block *b = a->head;
        a->head = b->next;
        ldc_mem_free(a->mem, b, b->cap);
    }
}

/* @log --------------------------------------------------------------------------------------
   Where lines go, and the one table of reasons. A target is never waited for: what does not fit
   the ring is dropped in whole lines and counted. Owns the sinks' descriptors and rings. */

/* name, word in log and metrics, status we answer with (0: cut without an answer), text */
#define LDC_REASONS(X)                                                            \
    X(NONE, "", 200, "")                                                          \
    X(REQUEST, "request", 400, "malformed request")                               \
    X(HOST, "host", 400, "missing, repeated or invalid Host")                     \
    X(FRAMING, "framing", 400, "message framing in doubt")                        \
    X(PROXY, "proxy", 400, "this address wants the PROXY protocol first")         \
    X(PATH, "path", 400, "path that two parsers could read differently")          \
    X(ESCAPE, "path", 400, "malformed path")                                      \
    X(METHOD, "method", 405, "method not allowed")                                \
    X(HEADER_TIMEOUT, "header_timeout", 408, "request head took too long")        \
    X(BODY_TIMEOUT, "body_timeout", 408, "request body stalled")                  \
    X(SLOW, "slow", 408, "request too slow")                                      \
    X(MAX_BODY, "max_body", 413, "request body too large")                        \
    X(TARGET, "target", 414, "request target too long")                           \
    X(EXPECT, "expect", 417, "expectation not supported")                         \
    X(MAX_HEADER, "max_header", 431, "request header fields too large")           \
    X(CLIENT_GONE, "client_gone", 499, "client left")                             \
    X(CODING, "coding", 501, "transfer coding not implemented")                   \
    X(LOOP, "loop", 508, "this request has been here before")                     \
    X(VERSION, "version", 505, "HTTP version not supported")                      \
    X(ROUTE, "route", 404, "no group serves this path")                           \
    X(DENIED, "denied", 403, "not allowed")                                       \
    X(RATE, "rate", 429, "too many requests in this time")                        \
    X(CLIENT_LIMIT, "client_limit", 429, "too many requests at once")             \
    X(TOKEN, "token", 401, "admin_token needed")                                  \
    X(FULL, "full", 503, "queue full")                                            \
    X(TIMEOUT, "timeout", 503, "waited too long in the queue")                    \
    X(NO_WORKER, "no_worker", 503, "no worker ready")                             \
    X(STOPPING, "stopping", 503, "shutting down")                                 \
    X(MEMORY, "memory", 503, "out of buffer memory")                              \
    X(CONNECT, "connect", 502, "worker cannot be reached")                        \
    X(RESET, "reset", 502, "worker ended the connection")                         \
    X(PROTOCOL, "protocol", 502, "worker sent an invalid answer")                 \
    X(RESPONSE_TIMEOUT, "response_timeout", 504, "worker did not answer in time") \
    X(RUN_TIMEOUT, "run_timeout", 504, "worker took too long")                    \
    X(SEND_TIMEOUT, "send_timeout", 0, "client takes nothing")                    \
    X(TUNNEL_TIMEOUT, "tunnel_timeout", 0, "tunnel idle")                         \
    X(SPIN, "spin", 0, "ready without progress")

#define LDC_REASON_ENUM(name, word, status, text) LDC_WHY_##name,
typedef enum ldc_why { LDC_REASONS(LDC_REASON_ENUM) LDC_WHYS } ldc_why;

typedef struct ldc_reason {
    const char *word;
    int status;
    const char *text;
} ldc_reason;

#define LDC_REASON_ROW(name, word, status, text) {word, status, text},
static const ldc_reason ldc_log_reasons[LDC_WHYS + 1] = {LDC_REASONS(LDC_REASON_ROW){0, 0, 0}};

typedef enum ldc_stamps { LDC_STAMP_FULL, LDC_STAMP_CLOCK, LDC_STAMP_JOURNAL } ldc_stamps;

typedef struct ldc_sink {
    int fd;         /* -1: off */
    uint8_t stamps; /* how its lines begin: ldc_stamps */
    int error;      /* errno of what could not be written; 0: the target was too slow */
    bool owned;     /* we opened it, we close it */
    bool file;      /* regular file: a write does not wait for a reader */
    char *path;     /* a copy: configurations go; NULL for stderr and stdout */
    char *ring;     /* waiting bytes, moved to the front as they go */
    size_t used;
    bool torn;        /* part of a line was written */
    uint64_t dropped; /* lines */
    uint64_t noted;   /* of them in a note that waits in the ring */
    uint64_t counted; /* of them in the log's sum */
    bool wet;         /* in the log's list of those that have something to write or to tell */
    struct ldc_sink *next_wet;
} ldc_sink;

typedef struct ldc_log {
    ldc_mem *mem;
    ldcorn_logger hook;
    ldc_sink own, access;
    ldc_sink err, out; /* of workers, where our own logs go elsewhere */
    ldc_sink *wet;
    ldcorn_level level;
    bool json;
    uint64_t dropped; /* lines, of all targets since the start */
    int error;        /* why, the last time: as in a sink */
    uint64_t told_at; /* ms since 1970, when another log was told of it */
} ldc_log;

static void ldc_log_lost(ldc_sink *s) { /* full disk, closed pipe: the service goes on */
    char *lf = s->torn ? (char *)memchr(s->ring, '\n', s->used) : NULL;
    size_t keep = lf ? (size_t)(lf - s->ring) + 1 : 0; /* the rest of a line that was begun */
    for (size_t i = keep; i < s->used; i++) s->dropped += s->ring[i] == '\n';
    if (s->noted) s->dropped += s->noted - 1;
    s->noted = 0;
    s->used = keep;
    s->error = errno;
}

/* Writes what the target takes now. poll() asks first, because an inherited pipe may block and
   O_NONBLOCK on it would change it for everybody who shares it; PIPE_BUF is what POSIX says a
   writable pipe takes without waiting. */
static void ldc_log_flush(ldc_sink *s) {
    while (s->fd >= 0 && s->used) {
        size_t n = s->used;
        ssize_t w;
        if (!s->file) {
            struct pollfd p;
            p.fd = s->fd;
            p.events = POLLOUT;
            p.revents = 0;
            if (poll(&p, 1, 0) <= 0 || !(p.revents & POLLOUT)) break;
            if (n > 512) n = n > 4096 ? 4096 : n;
        }
        w = ldc_util_write(s->fd, s->ring, n);
        if (w < 0 && ldc_util_again()) break;
        if (w < 0) {
            ldc_log_lost(s);
            break;
        }
        s->torn = w ? s->ring[w - 1] != '\n' : s->torn;
        s->used -= (size_t)w;
        if (s->used == 0) s->noted = 0;
        memmove(s->ring, s->ring + w, s->used);
    }
}

/* Is there room for a line of n bytes, at once or because the target takes some now? */
static bool ldc_log_room(ldc_sink *s, size_t n) {
    if (s->fd < 0) return false;
    if (s->ring == NULL || LDC_LOG_RING - s->used >= n) return true;
    ldc_log_flush(s);
    return LDC_LOG_RING - s->used >= n;
}

static void ldc_log_wet(ldc_log *g, ldc_sink *s) {
    if (s->wet) return;
    s->wet = true;
    s->next_wet = g->wet;
    g->wet = s;
}

static void ldc_log_write(ldc_log *g, ldc_sink *s, const char *p, size_t n) {
    if (s->fd < 0) return;
    ldc_log_wet(g, s);
    if (s->ring == NULL) s->ring = (char *)ldc_mem_resize(g->mem, NULL, 0, LDC_LOG_RING);
    if (s->ring && LDC_LOG_RING - s->used < n) ldc_log_flush(s);
    if (s->ring == NULL || LDC_LOG_RING - s->used < n) {
        s->dropped++;
        s->error = 0;
        return;
    }
    memcpy(s->ring + s->used, p, n);
    s->used += n;
}

static const char *const ldc_log_names[] = {"error", "warn", "info", "debug"};

/* What a line begins with: a file is read on another day, in another place; a terminal is not;
   journald has the time, and takes the level from a prefix (sd-daemon(3)). */
static void ldc_log_stamp(const ldc_sink *s, ldcorn_level level, char out[48]) {
    static const int priorities[] = {3, 4, 6, 7};
    uint64_t wall = ldc_util_wall();
    time_t now = (time_t)(wall / 1000);
    struct tm tm;
    char zone[8];
    localtime_r(&now, &tm);
    if (s->stamps == LDC_STAMP_JOURNAL) {
        snprintf(out, 48, "<%d>", priorities[level]);
    } else if (s->stamps == LDC_STAMP_CLOCK) {
        snprintf(out, 48, "%02d:%02d:%02d ", tm.tm_hour % 100, tm.tm_min % 100, tm.tm_sec % 100);
    } else {
        strftime(out, 32, "%Y-%m-%d %H:%M:%S", &tm);
        strftime(zone, sizeof zone, "%z", &tm);
        snprintf(out + 19, 29, ".%03d%s ", (int)(wall % 1000), zone);
    }
}

/* A hook gets each line in a call of its own, zero-terminated. */
static void ldc_log_hook(const ldc_log *g, ldcorn_level level, ldc_str text) {
    ldc_text t;
    ldc_text_init(&t, g->mem);
    while (text.n) {
        const char *lf = (const char *)memchr(text.p, '\n', text.n);
        size_t n = lf ? (size_t)(lf - text.p) : text.n;
        t.n = 0;
        ldc_text_put(&t, text.p, n);
        g->hook.line(g->hook.user, level, t.n ? t.p : "", t.n);
        text = ldc_util_cut(text, lf ? n + 1 : n);
    }
    ldc_text_free(&t);
}

static void ldc_log_line_to(ldc_log *g, ldc_sink *s, ldcorn_level level, ldc_str text) {
    ldc_text t;
    char stamp[48];
    ldc_text_init(&t, g->mem);
    if (g->json && (s == &g->own || s == &g->access)) {
        ldc_util_stamp(ldc_util_wall(), stamp);
        ldc_text_fmt(&t, "{\"time\":\"%s\",\"level\":\"%s\",\"message\":", stamp,
                     ldc_log_names[level]);
        ldc_text_json(&t, text);
        ldc_text_add(&t, "}\n");
    } else {
        bool journal = s->stamps == LDC_STAMP_JOURNAL;
        ldc_log_stamp(s, level, stamp);
        ldc_text_fmt(&t, journal ? "%s" : "%s%-5s ", stamp, ldc_log_names[level]);
        for (size_t i = 0; i < text.n; i++) { /* each line of a block is one to journald */
            ldc_text_put(&t, text.p + i, 1);
            if (journal && text.p[i] == '\n') ldc_text_add(&t, stamp);
        }
        ldc_text_add(&t, "\n");
    }
    if (!t.failed) ldc_log_write(g, s, t.p, t.n);
    ldc_text_free(&t);
}

static void ldc_log_line(ldc_log *g, ldcorn_level level, ldc_str text) {
    if (level > g->level) return;
    if (g->hook.line)
        ldc_log_hook(g, level, text);
    else
        ldc_log_line_to(g, &g->own, level, text);
}

/* Lines that were dropped are told in the target itself, once it takes some again; what cannot be
   written there, every ten seconds in a log that works. */
static void ldc_log_note_dropped(ldc_log *g, ldc_sink *s) {
    ldc_sink *other = s == &g->own ? &g->err : &g->own;
    uint64_t dropped = s->dropped, wall;
    char text[280], why[200];
    bool stuck;
    if (dropped == 0) return;
    if (dropped > s->counted) g->dropped += dropped - s->counted, g->error = s->error;
    s->counted = dropped;
    wall = ldc_util_wall();
    snprintf(why, sizeof why, "%s%s%.100s%s%s",
             s->error ? "they cannot be written" : "the target was too slow", s->path ? ": " : "",
             s->path ? s->path : "", s->error ? ": " : "", s->error ? strerror(s->error) : "");
    stuck = s->noted || s->used > LDC_LOG_RING / 2;
    if ((s->error || stuck) && (g->hook.line || (other->fd >= 0 && other->fd != s->fd)) &&
        wall - g->told_at >= 10000) {
        char elsewhere[240]; /* how many is told once, by the target itself */
        snprintf(elsewhere, sizeof elsewhere, "lines are dropped: %s", why);
        g->told_at = wall;
        if (other == &g->own || g->hook.line)
            ldc_log_line(g, LDCORN_LOG_WARN, ldc_util_z(elsewhere));
        else
            ldc_log_line_to(g, other, LDCORN_LOG_WARN, ldc_util_z(elsewhere));
    }
    if (stuck) return;
    s->dropped = s->counted = 0;
    s->noted = dropped;
    snprintf(text, sizeof text, "%llu log lines dropped, %s", (unsigned long long)dropped, why);
    ldc_log_line_to(g, s, LDCORN_LOG_WARN, ldc_util_z(text));
}

static void ldc_log_say(ldc_log *g, ldcorn_level level, const char *format, ...) LDC_PRINTF(3, 4);
static void ldc_log_say(ldc_log *g, ldcorn_level level, const char *format, ...) {
    va_list list;
    ldc_text t;
    if (level > g->level) return;
    ldc_text_init(&t, g->mem);
    va_start(list, format);
    ldc_text_fmtv(&t, format, list);
    va_end(list);
    if (!t.failed) ldc_log_line(g, level, ldc_util_str(t.p, t.n));
    ldc_text_free(&t);
}

/* At the end of a turn: only of the targets that have something, however many there are. */
static void ldc_log_settle(ldc_log *g) {
    ldc_sink *list = g->wet;
    g->wet = NULL;
    while (list) {
        ldc_sink *s = list;
        list = s->next_wet;
        s->wet = false;
        ldc_log_flush(s);
        ldc_log_note_dropped(g, s);
        if (s->used || s->dropped) ldc_log_wet(g, s);
    }
}

static void ldc_log_close(ldc_log *g, ldc_sink *s) {
    ldc_sink **at = &g->wet;
    ldc_log_flush(s);
    while (*at && *at != s) at = &(*at)->next_wet;
    if (*at) *at = s->next_wet;
    if (s->owned && s->fd >= 0) close(s->fd);
    ldc_mem_free(g->mem, s->ring, LDC_LOG_RING);
    if (s->path) ldc_mem_free(g->mem, s->path, strlen(s->path) + 1);
    memset(s, 0, sizeof *s);
    s->fd = -1;
}

/* Could somebody else have put there what it is, or put something else there later? */
static bool ldc_log_foreign(int dir, const char *name) {
    struct stat link, folder;
    return fstatat(dir, name, &link, AT_SYMLINK_NOFOLLOW) < 0 || link.st_uid != 0 ||
           fstat(dir, &folder) < 0 || folder.st_uid != 0 ||
           ((folder.st_mode & 022) && !(folder.st_mode & 01000));
}

/* One step of a path as root: a link is followed only if nobody but root can have made it. */
static int ldc_log_step(int dir, const char *name, int flags) {
    int fd;
    do fd = openat(dir, name, flags | O_NOFOLLOW, 0640);
    while (fd < 0 && errno == EINTR);
    if (fd >= 0 || (errno != ELOOP && errno != EMLINK && errno != ENOTDIR)) return fd;
    errno = ELOOP;
    if (ldc_log_foreign(dir, name)) return -1;
    do fd = openat(dir, name, flags, 0640);
    while (fd < 0 && errno == EINTR);
    return fd;
}

/* open() for a log. Root goes step by step: a path may lead through directories of others. */
static int ldc_log_path(const char *path, int flags) {
    char part[PATH_MAX];
    int dir, next, error;
    if (geteuid() != 0) return ldc_util_open(path, flags, 0640);
    dir = ldc_util_open(path[0] == '/' ? "/" : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    while (dir >= 0) {
        size_t n;
        while (*path == '/') path++;
        n = strcspn(path, "/");
        snprintf(part, sizeof part, "%.*s", (int)n, path);
        path += n;
        if (*path == 0) break;
        next = ldc_log_step(dir, part, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        close(dir);
        dir = next;
    }
    if (dir < 0) return -1;
    next = ldc_log_step(dir, part, flags);
    error = errno;
    close(dir);
    errno = error;
    return next;
}

/* Where a descriptor leads, and how lines begin there. */
static void ldc_log_look(ldc_sink *s) {
    const char *journal = getenv("JOURNAL_STREAM"); /* device:inode of what journald reads */
    struct stat st;
    unsigned long long device = 0, inode = 0;
    bool known = s->fd >= 0 && fstat(s->fd, &st) == 0;
    s->file = known && S_ISREG(st.st_mode);
    s->stamps = known && isatty(s->fd) ? LDC_STAMP_CLOCK : LDC_STAMP_FULL;
    if (known && journal && sscanf(journal, "%llu:%llu", &device, &inode) == 2 &&
        device == (unsigned long long)st.st_dev && inode == (unsigned long long)st.st_ino)
        s->stamps = LDC_STAMP_JOURNAL;
}

/* `where` is off, stderr, stdout or a path that must outlive the sink. 0 or an errno. */
static int ldc_log_open(ldc_log *g, ldc_sink *s, const char *where) {
    int fd = -1;
    bool owned = false;
    char *path = NULL;
    if (strcmp(where, "stderr") == 0)
        fd = 2;
    else if (strcmp(where, "stdout") == 0)
        fd = 1;
    else if (strcmp(where, "off") != 0) {
        int how = O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
        fd = ldc_log_path(where, O_WRONLY | how);
        if (fd < 0 && errno == ENXIO)
            fd = ldc_log_path(where, O_RDWR | how); /* a fifo without reader */
        if (fd < 0) return errno;
        owned = true;
        path = (char *)ldc_mem_resize(g->mem, NULL, 0, strlen(where) + 1);
        if (path == NULL) {
            close(fd);
            return ENOMEM;
        }
        memcpy(path, where, strlen(where) + 1);
    }
    ldc_log_close(g, s);
    s->fd = fd;
    s->owned = owned;
    s->path = path;
    ldc_log_look(s);
    return 0;
}

/* @http -------------------------------------------------------------------------------------
   Strict HTTP/1 parser for both roles, the chunk decoder, the writers of heads. Nothing is
   copied: an ldc_head points into the caller's bytes. What two parsers could read differently
   is refused (RFC 9112 11.2), so framing is never copied but written anew. */

typedef enum ldc_frame {
    LDC_FRAME_NONE,
    LDC_FRAME_LENGTH,
    LDC_FRAME_CHUNKED,
    LDC_FRAME_EOF,
    LDC_FRAME_TUNNEL
} ldc_frame;

/* Fields that ldcorn itself looks at or writes. */
#define LDC_FIELD_NAMES(X)                    \
    X(HOST, "host")                           \
    X(CONNECTION, "connection")               \
    X(CONTENT_LENGTH, "content-length")       \
    X(TRANSFER_ENCODING, "transfer-encoding") \
    X(EXPECT, "expect")                       \
    X(UPGRADE, "upgrade")                     \
    X(TE, "te")                               \
    X(TRAILER, "trailer")                     \
    X(KEEP_ALIVE, "keep-alive")               \
    X(HTTP2_SETTINGS, "http2-settings")       \
    X(MAX_FORWARDS, "max-forwards")           \
    X(PROXY, "proxy")                         \
    X(FORWARDED, "forwarded")                 \
    X(XFF, "x-forwarded-for")                 \
    X(XFP, "x-forwarded-proto")               \
    X(XFH, "x-forwarded-host")                \
    X(XFX, "x-forwarded-prefix")              \
    X(REAL_IP, "x-real-ip")                   \
    X(REQUEST_ID, "x-request-id")             \
    X(REQUEST_START, "x-request-start")       \
    X(ORIGINAL_URL, "x-original-url")         \
    X(REWRITE_URL, "x-rewrite-url")           \
    X(VIA, "via")                             \
    X(USER_AGENT, "user-agent")               \
    X(DATE, "date")                           \
    X(REFERER, "referer") X(ORIGIN, "origin") X(AUTHORIZATION, "authorization")

#define LDC_FIELD_ENUM(name, text) LDC_FIELD_##name,
typedef enum ldc_field_id {
    LDC_FIELD_OTHER,
    LDC_FIELD_NAMES(LDC_FIELD_ENUM) LDC_FIELD_IDS
} ldc_field_id;

typedef struct ldc_field {
    ldc_str name, value; /* the line runs from name.p to two bytes behind `end` */
    const char *end;     /* its CR */
    uint8_t id;
    bool drop; /* hop-by-hop (RFC 9110 7.6.1) */
} ldc_field;

typedef struct ldc_head {
    ldc_str method, target; /* request; target in origin form or * */
    ldc_str host;           /* request; may be empty in HTTP/1.0 */
    ldc_str prefix;         /* taken off the target */
    int minor;              /* HTTP/1.minor, 0 or 1 */
    int status;             /* response */
    ldc_str reason;
    size_t size;       /* bytes of the head */
    const char *fault; /* what is wrong with a refused one, */
    ldc_str wrong;     /* and where: what to show the beginning of */
    uint64_t length;   /* of the body, where frame is LENGTH */
    ldc_frame frame;
    bool close, keep_alive, upgrade; /* tokens of Connection */
    bool has_length;
    int16_t at[LDC_FIELD_IDS]; /* index of the first such field, -1 if none */
    int count;
    ldc_field field[LDC_ANSWER_FIELDS];
} ldc_head;

enum { LDC_CHAR_TOKEN = 1, LDC_CHAR_TARGET = 2, LDC_CHAR_VALUE = 4, LDC_CHAR_HOST = 8 };

/* What a byte may stand in: token (RFC 9110 5.6.2), request target, field value, host. Constant, since
   instances in several threads share it. */
#define LDC_IS_ALNUM(c) \
    (((c) >= '0' && (c) <= '9') || ((c) >= 'A' && (c) <= 'Z') || ((c) >= 'a' && (c) <= 'z'))
#define LDC_IS_TOKEN(c)                                                                          \
    (LDC_IS_ALNUM(c) || (c) == '!' || ((c) >= '#' && (c) <= '\'') || (c) == '*' || (c) == '+' || \
     (c) == '-' || (c) == '.' || ((c) >= '^' && (c) <= '`') || (c) == '|' || (c) == '~')
#define LDC_IS_HOST(c)                                                                          \
    (LDC_IS_ALNUM(c) || (c) == '!' || ((c) >= '$' && (c) <= '.') || (c) == ';' || (c) == '=' || \
     (c) == '_' || (c) == '~')
#define LDC_CLASS(c)                                                                     \
    (((c) >= 0x80 || (c) == '\t' || ((c) >= 0x20 && (c) != 0x7f) ? LDC_CHAR_VALUE : 0) | \
     ((c) > 0x20 && (c) < 0x7f && (c) != '#' ? LDC_CHAR_TARGET : 0) |                    \
     (LDC_IS_TOKEN(c) ? LDC_CHAR_TOKEN : 0) | (LDC_IS_HOST(c) ? LDC_CHAR_HOST : 0))
#define LDC_CLASS_4(c) LDC_CLASS(c), LDC_CLASS((c) + 1), LDC_CLASS((c) + 2), LDC_CLASS((c) + 3)
#define LDC_CLASS_16(c) \
    LDC_CLASS_4(c), LDC_CLASS_4((c) + 4), LDC_CLASS_4((c) + 8), LDC_CLASS_4((c) + 12)
#define LDC_CLASS_64(c) \
    LDC_CLASS_16(c), LDC_CLASS_16((c) + 16), LDC_CLASS_16((c) + 32), LDC_CLASS_16((c) + 48)

static const unsigned char ldc_http_table[256] = {LDC_CLASS_64(0), LDC_CLASS_64(64),
                                                  LDC_CLASS_64(128), LDC_CLASS_64(192)};

#define LDC_FIELD_TEXT(id, text) {text, sizeof(text) - 1},
static const struct {
    const char *text;
    size_t n;
} ldc_http_known[] = {LDC_FIELD_NAMES(LDC_FIELD_TEXT)};

/* Those of each length, a bit for each: most names of others meet no comparison. Checked by the unit
   tests against the names. */
#define LDC_FIELD_MASK(id) (uint32_t)1 << (LDC_FIELD_##id - 1)
static const uint32_t ldc_http_lengths[] = {
    /*  0 */ 0,
    /*  1 */ 0,
    /*  2 */ LDC_FIELD_MASK(TE),
    /*  3 */ LDC_FIELD_MASK(VIA),
    /*  4 */ LDC_FIELD_MASK(HOST) | LDC_FIELD_MASK(DATE),
    /*  5 */ LDC_FIELD_MASK(PROXY),
    /*  6 */ LDC_FIELD_MASK(EXPECT) | LDC_FIELD_MASK(ORIGIN),
    /*  7 */ LDC_FIELD_MASK(UPGRADE) | LDC_FIELD_MASK(TRAILER) | LDC_FIELD_MASK(REFERER),
    /*  8 */ 0,
    /*  9 */ LDC_FIELD_MASK(FORWARDED) | LDC_FIELD_MASK(REAL_IP),
    /* 10 */ LDC_FIELD_MASK(CONNECTION) | LDC_FIELD_MASK(KEEP_ALIVE) | LDC_FIELD_MASK(USER_AGENT),
    /* 11 */ 0,
    /* 12 */ LDC_FIELD_MASK(MAX_FORWARDS) | LDC_FIELD_MASK(REQUEST_ID),
    /* 13 */ LDC_FIELD_MASK(REWRITE_URL) | LDC_FIELD_MASK(AUTHORIZATION),
    /* 14 */ LDC_FIELD_MASK(CONTENT_LENGTH) | LDC_FIELD_MASK(HTTP2_SETTINGS) |
        LDC_FIELD_MASK(ORIGINAL_URL),
    /* 15 */ LDC_FIELD_MASK(XFF) | LDC_FIELD_MASK(REQUEST_START),
    /* 16 */ LDC_FIELD_MASK(XFH),
    /* 17 */ LDC_FIELD_MASK(TRANSFER_ENCODING) | LDC_FIELD_MASK(XFP),
    /* 18 */ LDC_FIELD_MASK(XFX),
};

static bool ldc_http_all(ldc_str s, unsigned what) {
    for (size_t i = 0; i < s.n; i++) {
        if (!(ldc_http_table[(unsigned char)s.p[i]] & what)) return false;
    }
    return true;
}

/* No control characters but tabs. Eight bytes at a time: most of a head is values. */
static bool ldc_http_text(ldc_str s) {
    const uint64_t ones = (uint64_t)-1 / 255, high = ones << 7;
    uint64_t w, del;
    for (; s.n >= 8; s = ldc_util_cut(s, 8)) {
        memcpy(&w, s.p, 8);
        del = w ^ ones * 0x7f; /* a byte below n makes (w - ones * n) & ~w & high something */
        if ((((w - ones * 0x20) & ~w) | ((del - ones) & ~del)) & high &&
            !ldc_http_all(ldc_util_str(s.p, 8), LDC_CHAR_VALUE))
            return false;
    }
    return ldc_http_all(s, LDC_CHAR_VALUE);
}

static bool ldc_http_token(ldc_str s) { return s.n > 0 && ldc_http_all(s, LDC_CHAR_TOKEN); }

/* --- what a balancer may send first: the PROXY protocol, v1 a line, v2 binary --- */

typedef struct ldc_proxied {
    int family; /* AF_INET, AF_INET6, AF_UNIX; AF_UNSPEC: it speaks for itself */
    unsigned char ip[16];
} ldc_proxied;

enum {
    LDC_PROXY_LINE = 107,
    LDC_PROXY_MOST = 4096
}; /* v1: with CRLF; v2: what may follow its 16 */

/* "PROXY TCP4 source destination port port" without CRLF. */
static bool ldc_http_proxy_line(ldc_str s, ldc_proxied *who) {
    ldc_str word[5];
    char address[INET6_ADDRSTRLEN];
    unsigned char there[16];
    uint64_t port;
    int n = 0;
    for (s = ldc_util_cut(s, 6);; s = ldc_util_cut(s, word[n++].n + 1)) {
        const char *blank = (const char *)memchr(s.p, ' ', s.n);
        if (n == 0 && ldc_util_starts(s, "UNKNOWN")) return s.n == 7 || s.p[7] == ' ';
        if (n == 4 || blank == NULL) break;
        word[n] = ldc_util_str(s.p, (size_t)(blank - s.p));
    }
    word[4] = s;
    if (n != 4) return false;
    who->family = ldc_util_is(word[0], "TCP4")   ? AF_INET
                  : ldc_util_is(word[0], "TCP6") ? AF_INET6
                                                 : AF_UNSPEC;
    for (int i = 1; i < 3; i++) {
        if (word[i].n >= sizeof address) return false;
        snprintf(address, sizeof address, "%.*s", LDC_STR_ARG(word[i]));
        if (who->family == AF_UNSPEC || strlen(address) != word[i].n ||
            inet_pton(who->family, address, i == 1 ? who->ip : there) != 1)
            return false;
    }
    return ldc_util_number(word[3], 65535, &port) && ldc_util_number(word[4], 65535, &port);
}

/* Bytes of it, LDC_MORE, or LDC_BAD. */
static ptrdiff_t ldc_http_proxy(const char *p, size_t n, ldc_proxied *who) {
    static const char mark[] = "\r\n\r\n\0\r\nQUIT\n"; /* and 0 */
    const unsigned char *u = (const unsigned char *)p;
    size_t size, known = n < 12 ? n : 12;
    memset(who, 0, sizeof *who);
    who->family = AF_UNSPEC;
    if (n && *p == 'P') {
        const char *lf = (const char *)memchr(p, '\n', n < LDC_PROXY_LINE ? n : LDC_PROXY_LINE);
        if (memcmp(p, "PROXY ", n < 6 ? n : 6) != 0) return LDC_BAD;
        if (lf == NULL) return n < LDC_PROXY_LINE ? LDC_MORE : LDC_BAD;
        if (lf - p < 7 || lf[-1] != '\r') return LDC_BAD;
        size = (size_t)(lf - p) + 1;
        return ldc_http_proxy_line(ldc_util_str(p, size - 2), who) ? (ptrdiff_t)size : LDC_BAD;
    }
    if (memcmp(p, mark, known) != 0) return LDC_BAD;
    if (n < 16) return LDC_MORE;
    size = (size_t)u[14] << 8 | u[15];
    if (u[12] >> 4 != 2 || (u[12] & 15) > 1 || size > LDC_PROXY_MOST) return LDC_BAD;
    if (n < 16 + size) return LDC_MORE;
    if ((u[12] & 15) == 0 || u[13] >> 4 == 0) return (ptrdiff_t)(16 + size); /* LOCAL, UNSPEC */
    who->family = u[13] >> 4 == 1 ? AF_INET : u[13] >> 4 == 2 ? AF_INET6 : AF_UNIX;
    if (u[13] >> 4 > 3 || (u[13] & 15) != 1) return LDC_BAD; /* not a stream */
    if (size < (who->family == AF_INET ? 12u : who->family == AF_INET6 ? 36u : 216u))
        return LDC_BAD;
    if (who->family != AF_UNIX) memcpy(who->ip, u + 16, who->family == AF_INET ? 4 : 16);
    return (ptrdiff_t)(16 + size);
}

/* --- heads --- */

/* Looks for the empty line. `*line` is where the line under way begins: kept between calls, so
   that a slow sender costs no second look. Bytes of the head, LDC_MORE, or LDC_BAD for a LF
   without CR (RFC 9112 2.2 lets us refuse it). */
static ptrdiff_t ldc_http_end(const char *p, size_t n, size_t *line) {
    size_t from = *line;
    for (;;) {
        const char *lf = n > from ? (const char *)memchr(p + from, '\n', n - from) : NULL;
        size_t at;
        if (lf == NULL) return LDC_MORE;
        at = (size_t)(lf - p);
        if (at == from || p[at - 1] != '\r') return LDC_BAD;
        if (at == from + 1) return (ptrdiff_t)at + 1;
        *line = from = at + 1;
    }
}

/* `name` is a token: of those only a letter in the other case differs by 0x20 from our names. */
static bool ldc_http_named(ldc_str name, const char *lower) {
    for (size_t i = 0; i < name.n; i++) {
        if ((name.p[i] | 0x20) != lower[i]) return false;
    }
    return true;
}

static uint8_t ldc_http_field_id(ldc_str name) {
    uint32_t same = name.n < LDC_LEN(ldc_http_lengths) ? ldc_http_lengths[name.n] : 0;
    for (unsigned i = 0; same; i++, same >>= 1) {
        if ((same & 1) && ldc_http_named(name, ldc_http_known[i].text)) return (uint8_t)(i + 1);
    }
    return LDC_FIELD_OTHER;
}

static const ldc_field *ldc_http_get(const ldc_head *h, ldc_field_id id) {
    return h->at[id] < 0 ? NULL : &h->field[h->at[id]];
}

static ldc_str ldc_http_value(const ldc_head *h, ldc_field_id id) {
    const ldc_field *f = ldc_http_get(h, id);
    return f ? f->value : ldc_util_str("", 0);
}

static int ldc_http_times(const ldc_head *h, ldc_field_id id) {
    int n = 0;
    for (int i = 0; i < h->count; i++) n += h->field[i].id == id;
    return n;
}

/* What is wrong with a refused head, with its first bytes. */
static const char *ldc_http_describe(const ldc_head *h, char *out, size_t room) {
    char bytes[208];
    if (h->fault)
        snprintf(out, room, "%s: \"%s\"", h->fault, ldc_util_show(h->wrong, bytes, sizeof bytes));
    else
        out[0] = 0;
    return out;
}

static int ldc_http_fault(ldc_head *h, const char *fault, const char *p, size_t n) {
    h->fault = fault;
    h->wrong = ldc_util_str(p, n);
    return LDC_BAD;
}

/* One field line up to its CR. Obs-fold and a blank before the colon are none (RFC 9112 5). */
static bool ldc_http_field(const char *p, const char *cr, ldc_field *f) {
    const char *colon = p;
    while (ldc_http_table[(unsigned char)*colon] & LDC_CHAR_TOKEN) colon++;
    if (colon == p || *colon != ':') return false;
    f->name = ldc_util_str(p, (size_t)(colon - p));
    f->value = ldc_util_trim(ldc_util_str(colon + 1, (size_t)(cr - colon - 1)));
    return ldc_http_text(f->value);
}

/* The lines between `p` and the empty line; each ends in CRLF (ldc_http_end saw to that).
   0, LDC_BAD, or LDC_MORE for more than `most`. */
static int ldc_http_fields(ldc_head *h, const char *p, const char *end, int most) {
    for (int i = 0; i < LDC_FIELD_IDS; i++) h->at[i] = -1;
    h->count = 0;
    while (p < end) {
        ldc_field *f = &h->field[h->count];
        const char *cr = (const char *)memchr(p, '\n', (size_t)(end - p)) - 1;
        if (h->count == most) {
            ldc_http_fault(h, most == LDC_FIELDS ? "more than 100 fields" : "more than 256 fields",
                           p, (size_t)(cr - p));
            return LDC_MORE;
        }
        if (!ldc_http_field(p, cr, f))
            return ldc_http_fault(h, "a malformed field line", p, (size_t)(cr - p));
        f->end = cr;
        f->drop = false;
        f->id = ldc_http_field_id(f->name);
        if (f->id && h->at[f->id] < 0) h->at[f->id] = (int16_t)h->count;
        h->count++;
        p = cr + 2;
    }
    return 0;
}

static bool ldc_http_protected(uint8_t id) {
    return id == LDC_FIELD_HOST || id == LDC_FIELD_CONTENT_LENGTH ||
           id == LDC_FIELD_TRANSFER_ENCODING || id == LDC_FIELD_EXPECT ||
           (id >= LDC_FIELD_FORWARDED && id <= LDC_FIELD_VIA);
}

/* Marks what belongs to one hop only: Connection, what it names, and the old set. */
static int ldc_http_hops(ldc_head *h) {
    for (int i = 0; i < h->count; i++) {
        ldc_field *f = &h->field[i];
        ldc_str list = f->value, one;
        if (f->id == LDC_FIELD_KEEP_ALIVE || f->id == LDC_FIELD_TE || f->id == LDC_FIELD_TRAILER ||
            f->id == LDC_FIELD_UPGRADE || f->id == LDC_FIELD_CONTENT_LENGTH ||
            f->id == LDC_FIELD_CONNECTION || f->id == LDC_FIELD_TRANSFER_ENCODING ||
            f->id == LDC_FIELD_HTTP2_SETTINGS || f->id == LDC_FIELD_PROXY ||
            (f->name.n > 6 && ldc_util_lower(f->name.p[0]) == 'p' &&
             ldc_util_isnocase(ldc_util_str(f->name.p, 6), "proxy-") &&
             !ldc_util_isnocase(f->name, "proxy-status")))
            f->drop = true;
        if (f->id != LDC_FIELD_CONNECTION) continue;
        while (ldc_util_element(&list, &one)) {
            if (!ldc_http_token(one))
                return ldc_http_fault(h, "Connection names no field", one.p, one.n);
            if (ldc_util_isnocase(one, "close"))
                h->close = true;
            else if (ldc_util_isnocase(one, "keep-alive"))
                h->keep_alive = true;
            else if (ldc_util_isnocase(one, "upgrade"))
                h->upgrade = true;
            for (int j = 0; j < h->count; j++) {
                ldc_field *g = &h->field[j];
                if (g->name.n == one.n && !ldc_http_protected(g->id) &&
                    strncasecmp(g->name.p, one.p, one.n) == 0)
                    g->drop = true;
            }
        }
    }
    return 0;
}

/* Content-Length and Transfer-Encoding of either role (RFC 9112 6.1 to 6.3), refusing what
   could be read twice. LDC_WHY_NONE, FRAMING or CODING. */
static ldc_why ldc_http_framing(ldc_head *h) {
    const ldc_field *te = ldc_http_get(h, LDC_FIELD_TRANSFER_ENCODING);
    const ldc_field *length = ldc_http_get(h, LDC_FIELD_CONTENT_LENGTH);
    h->frame = LDC_FRAME_NONE;
    h->length = 0;
    h->has_length = length != NULL;
    if (te && (length || h->minor == 0)) return LDC_WHY_FRAMING;
    if (te) {
        if (ldc_http_times(h, LDC_FIELD_TRANSFER_ENCODING) > 1) return LDC_WHY_FRAMING;
        if (ldc_util_isnocase(te->value, "chunked")) {
            h->frame = LDC_FRAME_CHUNKED;
            return LDC_WHY_NONE;
        }
        return ldc_http_token(te->value) ? LDC_WHY_CODING : LDC_WHY_FRAMING;
    }
    if (length) {
        if (ldc_http_times(h, LDC_FIELD_CONTENT_LENGTH) > 1 ||
            !ldc_util_number(length->value, INT64_MAX, &h->length))
            return LDC_WHY_FRAMING;
        h->frame = LDC_FRAME_LENGTH;
    }
    return LDC_WHY_NONE;
}

/* What stands in brackets: an IPv6 address, maybe with a zone (RFC 6874), as curl sends it. */
static bool ldc_http_address(ldc_str s) {
    char text[INET6_ADDRSTRLEN];
    unsigned char address[16];
    const char *zone = s.n ? (const char *)memchr(s.p, '%', s.n) : NULL;
    size_t n = zone ? (size_t)(zone - s.p) : s.n;
    if (n >= sizeof text || (zone && n + 1 == s.n)) return false;
    for (size_t i = n + 1; zone && i < s.n; i++) {
        if (!isalnum((unsigned char)s.p[i]) && !strchr("-._~%", s.p[i])) return false;
    }
    memcpy(text, s.p, n);
    text[n] = 0;
    return strlen(text) == n && inet_pton(AF_INET6, text, address) == 1;
}

/* host or host:port as in RFC 9110 7.2, an address in brackets included. */
static bool ldc_http_host(ldc_str s) {
    ldc_str name = s, port = ldc_util_str("", 0);
    uint64_t number;
    if (s.n && s.p[0] == '[') {
        const char *close = (const char *)memchr(s.p, ']', s.n);
        if (close == NULL || close == s.p + 1) return false;
        name = ldc_util_str(s.p + 1, (size_t)(close - s.p - 1));
        if (!ldc_http_address(name)) return false;
        port = ldc_util_cut(s, name.n + 2);
        if (port.n && port.p[0] != ':') return false;
        if (port.n) port = ldc_util_cut(port, 1);
    } else {
        const char *colon = s.n ? (const char *)memchr(s.p, ':', s.n) : NULL;
        if (colon) {
            name.n = (size_t)(colon - s.p);
            port = ldc_util_cut(s, name.n + 1);
        }
        if (!ldc_http_all(name, LDC_CHAR_HOST)) return false;
        for (size_t i = 0; i < name.n; i++) { /* RFC 3986 2.1 */
            if (name.p[i] == '%' && (name.n - i < 3 || ldc_util_hex(name.p[i + 1]) < 0 ||
                                     ldc_util_hex(name.p[i + 2]) < 0))
                return false;
        }
    }
    return name.n > 0 && name.n < 256 && (port.n == 0 || ldc_util_number(port, 65535, &number));
}

static ldc_why ldc_http_version(ldc_str s, int *minor) {
    if (s.n != 8 || memcmp(s.p, "HTTP/", 5) != 0 || s.p[6] != '.' ||
        !isdigit((unsigned char)s.p[5]) || !isdigit((unsigned char)s.p[7]))
        return LDC_WHY_REQUEST;
    if (s.p[5] != '1') return LDC_WHY_VERSION;
    *minor = s.p[7] == '0' ? 0 : 1; /* a higher minor version is ours (RFC 9110 2.5) */
    return LDC_WHY_NONE;
}

/* Brings the target into origin form; an absolute one gives the Host (RFC 9112 3.2.2). */
static ldc_why ldc_http_target(ldc_head *h, ldc_str *authority) {
    ldc_str t = h->target;
    size_t scheme = 0, n;
    if (!ldc_http_all(t, LDC_CHAR_TARGET)) return LDC_WHY_REQUEST;
    if (t.p[0] == '/') return LDC_WHY_NONE;
    if (ldc_util_is(t, "*"))
        return ldc_util_is(h->method, "OPTIONS") ? LDC_WHY_NONE : LDC_WHY_REQUEST;
    if (t.n > 7 && strncasecmp(t.p, "http://", 7) == 0) scheme = 7;
    if (t.n > 8 && strncasecmp(t.p, "https://", 8) == 0) scheme = 8;
    if (scheme == 0) return LDC_WHY_REQUEST;
    t = ldc_util_cut(t, scheme);
    for (n = 0; n < t.n && t.p[n] != '/' && t.p[n] != '?'; n++) {}
    *authority = ldc_util_str(t.p, n);
    if (!ldc_http_host(*authority)) return LDC_WHY_REQUEST; /* userinfo fails here too */
    h->target = ldc_util_cut(t, n);
    if (h->target.n == 0) h->target = ldc_util_is(h->method, "OPTIONS") ? LDC_S("*") : LDC_S("/");
    return LDC_WHY_NONE;
}

/* Methods are case-sensitive (RFC 9110 9.1), but some servers take `head` for HEAD: they would send
   no body where one is waited for. */
static bool ldc_http_disguised(ldc_str method) {
    static const char *const known[] = {"GET", "HEAD",  "POST",   "CONNECT", "TRACE",
                                        "PUT", "PATCH", "DELETE", "OPTIONS"};
    for (size_t i = 0; i < LDC_LEN(known); i++) {
        if (ldc_util_is(method, known[i])) return false;
        if (ldc_util_isnocase(method, known[i])) return true;
    }
    return false;
}

static ldc_why ldc_http_request_line(ldc_head *h, ldc_str line, ldc_str *authority) {
    const char *a = (const char *)memchr(line.p, ' ', line.n), *b;
    ldc_why why;
    ldc_http_fault(h, "a malformed request line", line.p, line.n);
    if (a == NULL) return LDC_WHY_REQUEST;
    h->method = ldc_util_str(line.p, (size_t)(a - line.p));
    line = ldc_util_cut(line, h->method.n + 1);
    b = (const char *)memchr(line.p, ' ', line.n);
    if (b == NULL || b == line.p || !ldc_http_token(h->method)) return LDC_WHY_REQUEST;
    h->target = ldc_util_str(line.p, (size_t)(b - line.p));
    why = ldc_http_version(ldc_util_cut(line, h->target.n + 1), &h->minor);
    if (why) return why;
    if (ldc_util_is(h->method, "CONNECT") || ldc_util_is(h->method, "TRACE")) return LDC_WHY_METHOD;
    if (ldc_http_disguised(h->method)) return LDC_WHY_REQUEST;
    return ldc_http_target(h, authority);
}

/* Can p[0..n), part of a head from its first byte on, still become one? Its lines from `*seen` to
   `line`, where the one under way begins, are whole and looked at once; of the first one even its
   beginning says something: TLS, SSH and JSON do not begin with a method. */
static ldc_why ldc_http_doubt(ldc_head *h, const char *p, size_t n, size_t seen, size_t line) {
    ldc_str authority = ldc_util_str("", 0);
    ldc_field f;
    size_t i = 0, first = n < 2048 ? n : 2048;
    if (line == 0) {
        while (i < first && (ldc_http_table[(unsigned char)p[i]] & LDC_CHAR_TOKEN)) i++;
        if (i && i < first && p[i] == ' ')
            while (i < first && p[i] > 0x1f && p[i] < 0x7f) i++;
        if (i == first || (i + 1 == n && p[i] == '\r')) return LDC_WHY_NONE;
        ldc_http_fault(h, "this is no request line of HTTP/1", p, n);
        return LDC_WHY_REQUEST;
    }
    while (seen < line) {
        const char *at = p + seen, *lf = (const char *)memchr(at, '\n', line - seen);
        ldc_why why = LDC_WHY_NONE;
        if (seen == 0) {
            why = ldc_http_request_line(h, ldc_util_str(p, (size_t)(lf - p) - 1), &authority);
        } else if (!ldc_http_field(at, lf - 1, &f)) {
            ldc_http_fault(h, "a malformed field line", at, (size_t)(lf - at) - 1);
            why = LDC_WHY_REQUEST;
        }
        if (why) return why;
        seen += (size_t)(lf - at) + 1;
    }
    return LDC_WHY_NONE;
}

/* One request head of exactly `n` bytes as found by ldc_http_end, in one pass. `hostless`: it may be
   HTTP/1.1 and yet have no Host, as some probes. */
static ldc_why ldc_http_request_head(ldc_head *h, const char *p, size_t n, bool hostless) {
    const char *lf = (const char *)memchr(p, '\n', n);
    ldc_str authority = ldc_util_str("", 0);
    ldc_why why;
    int r;
    h->size = n;
    h->close = h->keep_alive = h->upgrade = false;
    h->prefix = ldc_util_str("", 0);
    h->status = 0;
    why = ldc_http_request_line(h, ldc_util_str(p, (size_t)(lf - p) - 1), &authority);
    if (why) return why;
    h->fault = NULL;
    r = ldc_http_fields(h, lf + 1, p + n - 2, LDC_FIELDS);
    if (r == LDC_MORE) return LDC_WHY_MAX_HEADER;
    if (r == LDC_BAD || ldc_http_hops(h) < 0) return LDC_WHY_REQUEST;
    if (ldc_http_times(h, LDC_FIELD_HOST) > 1) return LDC_WHY_HOST;
    h->host = ldc_http_value(h, LDC_FIELD_HOST);
    if (ldc_http_get(h, LDC_FIELD_HOST) ? !ldc_http_host(h->host) : h->minor == 1 && !hostless)
        return LDC_WHY_HOST;
    if (authority.n) h->host = authority;
    why = ldc_http_framing(h);
    if (why) return why;
    if (h->minor == 1 && ldc_http_get(h, LDC_FIELD_EXPECT) &&
        (ldc_http_times(h, LDC_FIELD_EXPECT) > 1 ||
         !ldc_util_isnocase(ldc_http_value(h, LDC_FIELD_EXPECT), "100-continue")))
        return LDC_WHY_EXPECT;
    return LDC_WHY_NONE;
}

static ldc_why ldc_http_request(ldc_head *h, const char *p, size_t n) {
    return ldc_http_request_head(h, p, n, false);
}

static bool ldc_http_status_line(ldc_head *h, ldc_str line) {
    int v = 0;
    if (line.n < 12 || ldc_http_version(ldc_util_str(line.p, 8), &h->minor) || line.p[8] != ' ')
        return false;
    for (int i = 9; i < 12; i++) {
        if (!isdigit((unsigned char)line.p[i])) return false;
        v = v * 10 + (line.p[i] - '0');
    }
    h->status = v;
    h->reason = ldc_util_str("", 0);
    if (line.n > 12 && line.p[12] != ' ') return false;
    if (line.n > 13) h->reason = ldc_util_cut(line, 13); /* hypercorn sends an empty phrase */
    return v >= 100 && ldc_http_all(h->reason, LDC_CHAR_VALUE); /* 600 and more are sent, too */
}

/* One response head of exactly `n` bytes; `head_only`: the request was HEAD. */
static bool ldc_http_response(ldc_head *h, const char *p, size_t n, bool head_only) {
    const char *lf = (const char *)memchr(p, '\n', n);
    const ldc_field *f;
    bool doubt, bodiless;
    h->size = n;
    h->close = h->keep_alive = h->upgrade = false;
    h->method = h->target = h->host = ldc_util_str("", 0);
    ldc_http_fault(h, "a malformed status line", p, (size_t)(lf - p) - 1);
    if (!ldc_http_status_line(h, ldc_util_str(p, (size_t)(lf - p) - 1))) return false;
    if (ldc_http_fields(h, lf + 1, p + n - 2, LDC_ANSWER_FIELDS) < 0 || ldc_http_hops(h) < 0)
        return false;
    doubt = ldc_http_framing(h) != LDC_WHY_NONE;
    f = ldc_http_get(h, LDC_FIELD_TRANSFER_ENCODING);
    bodiless = h->status < 200 || h->status == 204 || h->status == 304 || head_only;
    if (bodiless && f && h->status != 101)
        doubt = h->has_length = false; /* it says nothing there */
    if (h->status < 200 || h->status == 204) doubt = h->has_length = false;
    if (h->status == 101 && (f || ldc_http_get(h, LDC_FIELD_CONTENT_LENGTH))) doubt = true;
    if (f == NULL) f = ldc_http_get(h, LDC_FIELD_CONTENT_LENGTH);
    if (doubt && f) {
        ldc_http_fault(h, "its framing is in doubt", f->name.p, (size_t)(f->end - f->name.p));
        return false;
    }
    h->fault = NULL;
    if (bodiless) { /* RFC 9112 6.3: it ends at the empty line, whatever its fields say */
        h->frame = LDC_FRAME_NONE;
    } else if (h->frame == LDC_FRAME_NONE) {
        h->frame = LDC_FRAME_EOF; /* RFC 9112 6.3: until close */
    }
    if (h->frame == LDC_FRAME_LENGTH && h->length == 0) h->frame = LDC_FRAME_NONE;
    return true;
}

/* --- the chunk decoder (RFC 9112 7.1) --- */

typedef enum ldc_chunk_state {
    LDC_CHUNK_SIZE,
    LDC_CHUNK_DIGITS,
    LDC_CHUNK_BLANK,
    LDC_CHUNK_EXTENSION,
    LDC_CHUNK_QUOTED,
    LDC_CHUNK_ESCAPED,
    LDC_CHUNK_SIZE_LF,
    LDC_CHUNK_DATA,
    LDC_CHUNK_DATA_CR,
    LDC_CHUNK_DATA_LF,
    LDC_CHUNK_TRAILER,
    LDC_CHUNK_NAME,
    LDC_CHUNK_VALUE,
    LDC_CHUNK_VALUE_LF,
    LDC_CHUNK_LAST_LF,
    LDC_CHUNK_DONE
} ldc_chunk_state;

typedef struct ldc_chunk { /* zero is a fresh one */
    uint64_t left;         /* of the chunk under way */
    uint32_t line, extra;  /* bytes of extensions in this line, in this body */
    uint16_t trailer;      /* bytes of trailers */
    uint8_t state, digits;
} ldc_chunk;

/* After the size digits: CR ends the line, ; begins extensions. Blanks may stand before that one
   (RFC 9112 7.1.1), and nowhere else. */
static bool ldc_chunk_size(ldc_chunk *k, char c) {
    int v = ldc_util_hex(c);
    if (k->state == LDC_CHUNK_BLANK) {
        if (c == ';') k->state = LDC_CHUNK_EXTENSION;
        return (c == ';' || c == ' ' || c == '\t') && ++k->line <= LDC_EXTENSION &&
               ++k->extra <= LDC_EXTENSIONS;
    }
    if (v >= 0) {
        if (++k->digits > 16 || k->left > (uint64_t)INT64_MAX >> 4) return false;
        k->left = k->left << 4 | (uint64_t)v;
        k->state = LDC_CHUNK_DIGITS;
        return true;
    }
    if (k->state == LDC_CHUNK_SIZE) return false;
    k->line = c == ' ' || c == '\t';
    k->extra += k->line;
    k->state = c == '\r' ? LDC_CHUNK_SIZE_LF : c == ';' ? LDC_CHUNK_EXTENSION : LDC_CHUNK_BLANK;
    return (c == '\r' || c == ';' || k->line > 0) && k->extra <= LDC_EXTENSIONS;
}

static bool ldc_chunk_extension(ldc_chunk *k, char c) {
    unsigned char u = (unsigned char)c;
    if (++k->line > LDC_EXTENSION || ++k->extra > LDC_EXTENSIONS) return false;
    if (k->state == LDC_CHUNK_ESCAPED) {
        k->state = LDC_CHUNK_QUOTED;
        return ldc_http_table[u] & LDC_CHAR_VALUE;
    }
    if (k->state == LDC_CHUNK_QUOTED) {
        if (c == '"') k->state = LDC_CHUNK_EXTENSION;
        if (c == '\\') k->state = LDC_CHUNK_ESCAPED;
        return ldc_http_table[u] & LDC_CHAR_VALUE;
    }
    if (c == '"')
        k->state = LDC_CHUNK_QUOTED;
    else if (c == '\r')
        k->state = LDC_CHUNK_SIZE_LF;
    else
        return (ldc_http_table[u] & LDC_CHAR_TOKEN) || c == '=' || c == ';' || c == ' ' ||
               c == '\t';
    return true;
}

static bool ldc_chunk_trailer(ldc_chunk *k, char c) {
    unsigned char u = (unsigned char)c;
    if (++k->trailer > LDC_TRAILER) return false;
    switch (k->state) {
    case LDC_CHUNK_TRAILER:
        k->state = c == '\r' ? LDC_CHUNK_LAST_LF : LDC_CHUNK_NAME;
        return c == '\r' || (ldc_http_table[u] & LDC_CHAR_TOKEN);
    case LDC_CHUNK_NAME:
        if (c == ':') k->state = LDC_CHUNK_VALUE;
        return c == ':' || (ldc_http_table[u] & LDC_CHAR_TOKEN);
    case LDC_CHUNK_VALUE:
        if (c == '\r') k->state = LDC_CHUNK_VALUE_LF;
        return c == '\r' || (ldc_http_table[u] & LDC_CHAR_VALUE);
    default: k->state = LDC_CHUNK_TRAILER; return c == '\n';
    }
}

static bool ldc_chunk_byte(ldc_chunk *k, char c) {
    switch (k->state) {
    case LDC_CHUNK_SIZE:
    case LDC_CHUNK_DIGITS:
    case LDC_CHUNK_BLANK: return ldc_chunk_size(k, c);
    case LDC_CHUNK_EXTENSION:
    case LDC_CHUNK_QUOTED:
    case LDC_CHUNK_ESCAPED: return ldc_chunk_extension(k, c);
    case LDC_CHUNK_SIZE_LF:
        k->digits = 0;
        k->state = k->left ? LDC_CHUNK_DATA : LDC_CHUNK_TRAILER;
        return c == '\n';
    case LDC_CHUNK_DATA_CR: k->state = LDC_CHUNK_DATA_LF; return c == '\r';
    case LDC_CHUNK_DATA_LF: k->state = LDC_CHUNK_SIZE; return c == '\n';
    case LDC_CHUNK_LAST_LF: k->state = LDC_CHUNK_DONE; return c == '\n';
    default: return ldc_chunk_trailer(k, c);
    }
}

/* Decodes in place: the body bytes of p[0..n) move together at p, *out of them. Returns the
   bytes used up (less than n only when the body has ended), or LDC_BAD. */
static ptrdiff_t ldc_chunk_decode(ldc_chunk *k, char *p, size_t n, size_t *out) {
    size_t i = 0, o = 0;
    while (i < n && k->state != LDC_CHUNK_DONE) {
        if (k->state == LDC_CHUNK_DATA) {
            size_t m = n - i < k->left ? n - i : (size_t)k->left;
            memmove(p + o, p + i, m);
            i += m;
            o += m;
            k->left -= m;
            if (k->left == 0) k->state = LDC_CHUNK_DATA_CR;
        } else if (!ldc_chunk_byte(k, p[i++])) {
            return LDC_BAD;
        }
    }
    *out = o;
    return (ptrdiff_t)i;
}

/* --- writers --- */

typedef struct ldc_forward { /* what the head to a worker needs beside the request itself */
    ldc_str client;          /* address, empty for a unix peer */
    ldc_str proto;           /* http or https */
    ldc_str host;            /* for a request without one */
    ldc_str id;
    ldc_str via;      /* our pseudonym (RFC 9110 7.6.3) */
    uint64_t arrived; /* ms since 1970 */
    bool trusted;     /* the peer's own X-Forwarded-* count */
    bool keep;        /* ask the worker for keep-alive, else close */
    bool collects;    /* we answer Expect ourselves */
    ldc_str more;     /* lines of a filter */
} ldc_forward;

static void ldc_http_put(ldc_buf *b, const char *p, size_t n) {
    if (n) memcpy(b->p + b->len, p, n);
    b->len += (uint32_t)n;
}

static void ldc_http_line(ldc_buf *b, const char *name, ldc_str value) {
    ldc_http_put(b, name, strlen(name));
    ldc_http_put(b, value.p, value.n);
    ldc_http_put(b, "\r\n", 2);
}

static void ldc_http_length(ldc_buf *b, uint64_t length) {
    char digits[20];
    ldc_http_line(b, "Content-Length: ", ldc_util_str(digits, ldc_util_decimal(length, digits)));
}

/* "Name: value", nothing around the value but that one blank. */
static bool ldc_http_canonical(const ldc_field *f) {
    const char *colon = f->name.p + f->name.n;
    return f->value.n
               ? f->value.p == colon + 2 && colon[1] == ' ' && f->value.p + f->value.n == f->end
               : f->end - colon <= 2 && (f->end - colon < 2 || colon[1] == ' ');
}

/* Copies the lines that pass, neighbours in one run; what is not canonical is written anew, at most
   one byte longer. */
static void ldc_http_copy(ldc_buf *b, const ldc_head *h) {
    const char *from = NULL, *to = NULL;
    for (int i = 0; i < h->count; i++) {
        const ldc_field *f = &h->field[i];
        bool canonical = !f->drop && ldc_http_canonical(f);
        if (from && (!canonical || f->name.p != to)) {
            ldc_http_put(b, from, (size_t)(to - from));
            from = NULL;
        }
        if (f->drop) continue;
        if (!canonical) {
            ldc_http_put(b, f->name.p, f->name.n);
            ldc_http_line(b, ": ", f->value);
            continue;
        }
        if (from == NULL) from = f->name.p;
        to = f->end + 2;
    }
    if (from) ldc_http_put(b, from, (size_t)(to - from));
}

static bool ldc_http_upgrades(const ldc_head *h) {
    ldc_str u = ldc_http_value(h, LDC_FIELD_UPGRADE);
    return h->upgrade && u.n && h->minor == 1 && ldc_util_is(h->method, "GET") &&
           (h->frame == LDC_FRAME_NONE || (h->frame == LDC_FRAME_LENGTH && h->length == 0)) &&
           ldc_http_times(h, LDC_FIELD_UPGRADE) == 1 && !ldc_util_isnocase(u, "h2c") &&
           ldc_http_token(u);
}

/* Which request fields stay behind: what we write ourselves, what only a trusted peer may say,
   and names that WSGI and CGI cannot tell from others. */
static void ldc_http_strip(ldc_head *h, const ldc_forward *w) {
    for (int i = 0; i < h->count; i++) {
        ldc_field *f = &h->field[i];
        if (f->id == LDC_FIELD_HOST || f->id == LDC_FIELD_XFF || f->id == LDC_FIELD_REAL_IP ||
            f->id == LDC_FIELD_VIA || (f->id == LDC_FIELD_XFX && h->prefix.n) ||
            (f->id == LDC_FIELD_MAX_FORWARDS && ldc_util_is(h->method, "OPTIONS")))
            f->drop = true;
        if (f->id == LDC_FIELD_REQUEST_ID)
            f->drop = true; /* ours says the same, if it is believed */
        if (f->id == LDC_FIELD_EXPECT && (h->minor == 0 || w->collects)) f->drop = true;
        if (!w->trusted && ((f->id >= LDC_FIELD_FORWARDED && f->id <= LDC_FIELD_REAL_IP) ||
                            (f->id >= LDC_FIELD_REQUEST_START && f->id <= LDC_FIELD_REWRITE_URL)))
            f->drop = true;
        if (!w->trusted && f->name.n > 12 && ldc_util_lower(f->name.p[0]) == 'x' &&
            ldc_util_isnocase(ldc_util_str(f->name.p, 12), "x-forwarded-"))
            f->drop = true;
        if (memchr(f->name.p, '_', f->name.n)) f->drop = true;
    }
}

/* Is `pseudonym` the received-by of an element of Via (RFC 9110 7.6.3)? */
static bool ldc_http_passed(const ldc_head *h, ldc_str pseudonym) {
    for (int i = 0; i < h->count; i++) {
        ldc_str rest = h->field[i].value, one;
        if (h->field[i].id != LDC_FIELD_VIA) continue;
        while (ldc_util_element(&rest, &one)) {
            size_t n = 0;
            while (n < one.n && one.p[n] != ' ' && one.p[n] != '\t') n++; /* the protocol */
            one = ldc_util_trim(ldc_util_cut(one, n));
            if (one.n >= pseudonym.n && memcmp(one.p, pseudonym.p, pseudonym.n) == 0 &&
                (one.n == pseudonym.n || one.p[pseudonym.n] == ' '))
                return true;
        }
    }
    return false;
}

/* Lines of one name joined by commas, then our own element (RFC 9110 5.3). */
static void ldc_http_joined(ldc_buf *b, const ldc_head *h, ldc_field_id id, const char *name,
                            bool keep, ldc_str last) {
    bool any = false;
    ldc_http_put(b, name, strlen(name));
    for (int i = 0; keep && i < h->count; i++) {
        if (h->field[i].id != id || h->field[i].value.n == 0) continue;
        if (any) ldc_http_put(b, ", ", 2);
        ldc_http_put(b, h->field[i].value.p, h->field[i].value.n);
        any = true;
    }
    if (any && last.n) ldc_http_put(b, ", ", 2);
    ldc_http_put(b, last.p, last.n);
    ldc_http_put(b, "\r\n", 2);
}

static void ldc_http_trust_lines(ldc_buf *b, const ldc_head *h, const ldc_forward *w,
                                 ldc_str peer) {
    char digits[32];
    bool t = w->trusted;
    if (peer.n || t) ldc_http_joined(b, h, LDC_FIELD_XFF, "X-Forwarded-For: ", t, peer);
    if (!t || !ldc_http_get(h, LDC_FIELD_XFP)) ldc_http_line(b, "X-Forwarded-Proto: ", w->proto);
    if ((!t || !ldc_http_get(h, LDC_FIELD_XFH)) && h->host.n)
        ldc_http_line(b, "X-Forwarded-Host: ", h->host);
    if (h->prefix.n) { /* a proxy in front may have taken one off before */
        ldc_http_put(b, "X-Forwarded-Prefix: ", 20);
        if (t)
            ldc_http_put(b, ldc_http_value(h, LDC_FIELD_XFX).p, ldc_http_value(h, LDC_FIELD_XFX).n);
        ldc_http_line(b, "", h->prefix);
    }
    if (w->client.n) ldc_http_line(b, "X-Real-IP: ", w->client);
    ldc_http_line(b, "X-Request-Id: ", w->id);
    if (!t || !ldc_http_get(h, LDC_FIELD_REQUEST_START)) {
        ldc_http_put(b, "X-Request-Start: t=", 19);
        ldc_http_put(b, digits, ldc_util_decimal(w->arrived, digits));
        ldc_http_put(b, "\r\n", 2);
    }
    memcpy(digits, h->minor ? "1.1 " : "1.0 ", 4);
    if (w->via.n) memcpy(digits + 4, w->via.p, w->via.n);
    ldc_http_joined(b, h, LDC_FIELD_VIA, "Via: ", true, ldc_util_str(digits, 4 + w->via.n));
}

/* The head that a worker gets: one reading for every parser behind us. `peer` is the address
   that X-Forwarded-For is extended by. */
static bool ldc_http_write_request(ldc_mem *m, ldc_buf *b, ldc_head *h, const ldc_forward *w,
                                   ldc_str peer) {
    ldc_str host = h->host.n ? h->host : w->host;
    uint64_t hops;
    if (!ldc_buf_room(m, b,
                      h->size + host.n * 2 + h->prefix.n + w->id.n + w->client.n + peer.n +
                          w->more.n + 512 + (size_t)h->count))
        return false;
    ldc_http_strip(h, w);
    ldc_http_put(b, h->method.p, h->method.n);
    ldc_http_put(b, " ", 1);
    if (h->target.n == 0 || (h->target.p[0] != '/' && h->target.p[0] != '*'))
        ldc_http_put(b, "/", 1); /* http://a?b (RFC 9112 3.2.1), or a prefix was taken off */
    ldc_http_put(b, h->target.p, h->target.n);
    ldc_http_put(b, " HTTP/1.1\r\n", 11);
    ldc_http_line(b, "Host: ", host);
    ldc_http_copy(b, h);
    if (ldc_util_is(h->method, "OPTIONS") &&
        ldc_util_number(ldc_http_value(h, LDC_FIELD_MAX_FORWARDS), INT64_MAX, &hops)) {
        char digits[20]; /* RFC 9110 7.6.2; 0 was answered by us */
        ldc_http_line(b, "Max-Forwards: ",
                      ldc_util_str(digits, ldc_util_decimal(hops ? hops - 1 : 0, digits)));
    }
    ldc_http_trust_lines(b, h, w, peer);
    ldc_http_put(b, w->more.p, w->more.n);
    if (h->frame == LDC_FRAME_LENGTH) ldc_http_length(b, h->length);
    if (h->frame == LDC_FRAME_CHUNKED) ldc_http_put(b, "Transfer-Encoding: chunked\r\n", 28);
    if (ldc_http_upgrades(h)) {
        ldc_http_put(b, "Connection: upgrade\r\n", 21);
        ldc_http_line(b, "Upgrade: ", ldc_http_value(h, LDC_FIELD_UPGRADE));
    } else if (!w->keep) {
        ldc_http_put(b, "Connection: close\r\n", 19);
    }
    ldc_http_put(b, "\r\n", 2);
    return true;
}

/* The head of a chunked request whose whole body was collected: it goes by its length. */
static bool ldc_http_relength(ldc_mem *m, ldc_buf *b, uint64_t length) {
    static const char last[] = "Transfer-Encoding: chunked\r\n\r\n";
    size_t n = sizeof last - 1;
    LDCORN_ASSERT(ldc_buf_size(b) > n && memcmp(b->p + b->len - n, last, n) == 0);
    if (!ldc_buf_room(m, b, 40)) return false;
    b->len -= (uint32_t)n;
    ldc_http_length(b, length);
    ldc_http_put(b, "\r\n", 2);
    return true;
}

/* The head that a client gets. `frame` is how the body goes out: a worker's until-close answer
   becomes chunked for an HTTP/1.1 client. `date`, where there is one, goes to an answer that has
   none: whoever forwards a final answer has to add it (RFC 9110 6.6.1). */
static bool ldc_http_write_response(ldc_mem *m, ldc_buf *b, const ldc_head *h, ldc_frame frame,
                                    const char *connection, ldc_str date) {
    char status[4];
    ldc_str upgrade = ldc_http_value(h, LDC_FIELD_UPGRADE);
    const ldc_field *stamp = ldc_http_get(h, LDC_FIELD_DATE);
    if (!ldc_buf_room(m, b, h->size + 256 + (size_t)h->count)) return false;
    status[0] = (char)('0' + h->status / 100);
    status[1] = (char)('0' + h->status / 10 % 10);
    status[2] = (char)('0' + h->status % 10);
    status[3] = ' ';
    ldc_http_put(b, "HTTP/1.1 ", 9);
    ldc_http_put(b, status, 4);
    ldc_http_put(b, h->reason.p, h->reason.n);
    ldc_http_put(b, "\r\n", 2);
    ldc_http_copy(b, h);
    if (date.n && (stamp == NULL || stamp->drop)) ldc_http_line(b, "Date: ", date);
    if (frame == LDC_FRAME_CHUNKED)
        ldc_http_put(b, "Transfer-Encoding: chunked\r\n", 28);
    else if (h->has_length)
        ldc_http_length(b, h->length);
    if (h->status == 101) {
        ldc_http_put(b, "Connection: upgrade\r\n", 21);
        ldc_http_line(b, "Upgrade: ", upgrade);
    } else if (connection) {
        ldc_http_line(b, "Connection: ", ldc_util_z(connection));
    }
    ldc_http_put(b, "\r\n", 2);
    return true;
}

/* Removes dot segments in place (RFC 3986 5.2.4); the length, or LDC_BAD above the root. */
static ptrdiff_t ldc_http_resolve(char *p, size_t n) {
    size_t o = 0, i = 0;
    while (i < n) {
        size_t end = i + 1, length;
        while (end < n && p[end] != '/') end++;
        length = end - i; /* "/segment" */
        if (length == 2 && p[i + 1] == '.') {
            if (end == n) p[o++] = '/';
        } else if (length == 3 && p[i + 1] == '.' && p[i + 2] == '.') {
            if (o == 0) return LDC_BAD;
            while (o && p[--o] != '/') {}
            if (end == n) p[o++] = '/';
        } else {
            memmove(p + o, p + i, length);
            o += length;
        }
        i = end;
    }
    if (o == 0) p[o++] = '/';
    return (ptrdiff_t)o;
}

/* @conf -------------------------------------------------------------------------------------
   The INI reader, the one table of keys, the checks. An ldc_conf is immutable once built; all of
   it lies in one arena and is freed when the last holder lets go. Every error found is reported,
   with file, line, column, the line itself and what to write instead. */

/* scope, key, type, default ("" = none, or said by the code), formerly (blank-separated), help */
#define LDC_KEYS(X)                                                                                \
    X(GLOBAL, listen, WORDS, "127.0.0.1:8000", "bind host port uds", "addresses for clients")      \
    X(GLOBAL, admin, WORDS, "", "stats control stats_socket stub_status",                          \
      "addresses for control and status, or off")                                                  \
    X(GLOBAL, admin_hosts, WORDS, "", "", "names under which admin may be reached over TCP")       \
    X(GLOBAL, admin_token, TEXT, "", "", "bearer token for admin")                                 \
    X(GLOBAL, ready_path, TEXT, "", "monitor_uri healthcheck_path", "our own 200 or 503")          \
    X(GLOBAL, runtime_dir, TEXT, "", "runtimedirectory", "directory for worker and admin sockets") \
    X(GLOBAL, max_conns, INT, "", "maxconn worker_connections", "client connections")              \
    X(GLOBAL, backlog, INT, "1024", "listen_backlog", "listen backlog")                            \
    X(GLOBAL, header_timeout, DURATION, "10s", "client_header_timeout timeout_http_request",       \
      "whole request head")                                                                        \
    X(GLOBAL, body_timeout, DURATION, "30s", "client_body_timeout timeout_client",                 \
      "gap between body bytes")                                                                    \
    X(GLOBAL, send_timeout, DURATION, "30s", "", "gap in which the client takes nothing")          \
    X(GLOBAL, min_rate, SIZE, "512", "", "bytes per second of a client, over ten seconds")         \
    X(GLOBAL, keepalive_timeout, DURATION, "75s",                                                  \
      "keepalive timeout_keep_alive keep_alive timeout_http_keep_alive", "idle client connection") \
    X(GLOBAL, max_header, SIZE, "32K",                                                             \
      "large_client_header_buffers limit_request_line limit_request_fields",                       \
      "request line and fields")                                                                   \
    X(GLOBAL, buffer_memory, SIZE, "256M", "", "all request and response buffers")                 \
    X(GLOBAL, trusted_proxies, WORDS, "", "forwarded_allow_ips set_real_ip_from proxy_allow_ips",  \
      "whose X-Forwarded-* counts")                                                                \
    X(GLOBAL, log, TEXT, "stderr", "errorlog error_log logfile log_file", "ldcorn's own log")      \
    X(GLOBAL, access_log, TEXT, "off", "accesslog access_logfile", "a line per request")           \
    X(GLOBAL, log_format, TEXT, "text", "access_log_format", "text or json")                       \
    X(GLOBAL, log_level, TEXT, "info", "loglevel", "error warn info debug")                        \
    X(GLOBAL, run_as, TEXT, "", "setuid setgid uid gid", "name[:group] once all is bound")         \
    X(GLOBAL, lame_duck, DURATION, "none", "", "not ready after TERM, but serving")                \
    X(GLOBAL, shutdown_timeout, DURATION, "25s",                                                   \
      "graceful_timeout timeout_graceful_shutdown hard_stop_after", "whole graceful stop")         \
    X(GLOBAL, pid_file, TEXT, "", "pidfile pid", "our process number, once all is bound")          \
    X(GROUP, cmd, COMMAND, "", "command execstart program", "command line of a worker")            \
    X(GROUP, app, TEXT, "", "application wsgi_app", "fills {app}; alone: uvicorn")                 \
    X(GROUP, function, TEXT, "", "", "registered C function")                                      \
    X(GROUP, upstream, WORDS, "", "server servers proxy_pass backend",                             \
      "addresses of workers run by others")                                                        \
    X(GROUP, dial_in, WORDS, "", "", "address where workers connect")                              \
    X(GROUP, dial_allow, WORDS, "", "", "who may dial in")                                         \
    X(GROUP, workers, INT, "1", "instances processes numprocs web_concurrency", "processes")       \
    X(GROUP, dir, TEXT, "", "chdir cwd directory workingdirectory app_dir", "working directory")   \
    X(GROUP, env, WORDS, "", "environment raw_env", "K=V words")                                   \
    X(GROUP, user, TEXT, "", "uid user_group", "name[:group] of a worker")                         \
    X(GROUP, umask, TEXT, "", "", "octal, of a worker")                                            \
    X(GROUP, worker_log, WORDS, "stderr", "stdout_logfile stderr_logfile capture_output",          \
      "where worker output goes")                                                                  \
    X(GROUP, watch, WORDS, "", "reload_dirs reload_dir reload_extra_files",                        \
      "files whose change restarts the group")                                                     \
    X(GROUP, routes, WORDS, "", "route paths prefix location path use_backend",                    \
      "paths of this group")                                                                       \
    X(GROUP, hosts, WORDS, "", "server_name domains", "hosts of this group")                       \
    X(GROUP, match, WORDS, "", "acl", "header:N[=V] cookie:N[=V] query:N[=V] method:M")            \
    X(GROUP, strip_prefix, BOOL, "off", "root_path", "the worker does not see the prefix")         \
    X(GROUP, allow, WORDS, "", "", "who may ask")                                                  \
    X(GROUP, deny, WORDS, "", "", "who may not")                                                   \
    X(GROUP, max_req_per_worker, INT, "none",                                                      \
      "max_conns_per_worker concurrency max_concurrency limit_concurrency threads",                \
      "requests in a worker")                                                                      \
    X(GROUP, max_tunnels_per_worker, INT, "none", "", "upgraded connections in a worker")          \
    X(GROUP, queue, INT, "1024", "maxqueue queue_size max_queue", "waiting requests")              \
    X(GROUP, queue_timeout, DURATION, "", "timeout_queue wait_timeout", "longest wait")            \
    X(GROUP, max_req_per_client, INT, "none", "limit_conn", "in flight and waiting per address")   \
    X(GROUP, rate, WORDS, "", "limit_req limit_req_zone rate_limit",                               \
      "N/s or N/m [burst=N] [key=...]")                                                            \
    X(GROUP, max_body, SIZE, "64M", "client_max_body_size limit_request_body max_body_size",       \
      "request body")                                                                              \
    X(GROUP, request_buffer, SIZE, "1M", "client_body_buffer_size proxy_request_buffering",        \
      "body kept before a slot")                                                                   \
    X(GROUP, response_buffer, SIZE, "1M", "proxy_buffers proxy_buffering proxy_buffer_size",       \
      "answer taken ahead of the client")                                                          \
    X(GROUP, balance, TEXT, "least", "lb_policy least_conn",                                       \
      "which worker: least lifo round hash")                                                       \
    X(GROUP, hash_key, WORDS, "addr", "", "what balance = hash goes by")                           \
    X(GROUP, retries, INT, "2", "proxy_next_upstream_tries",                                       \
      "while no byte can have reached a worker")                                                   \
    X(GROUP, client_abort, TEXT, "", "abortonclose proxy_ignore_client_abort", "wait or close")    \
    X(GROUP, connect_timeout, DURATION, "", "timeout_connect", "connection to a worker")           \
    X(GROUP, response_timeout, DURATION, "", "timeout_server proxy_read_timeout read_timeout",     \
      "gap between answer bytes")                                                                  \
    X(GROUP, run_timeout, DURATION, "none", "timeout harakiri request_timeout",                    \
      "whole time inside a worker")                                                                \
    X(GROUP, on_timeout, TEXT, "", "", "wait, restart or close")                                   \
    X(GROUP, tunnel_timeout, DURATION, "1h", "timeout_tunnel", "idle upgraded connection")         \
    X(GROUP, worker_keepalive, DURATION, "1s", "pool_purge_delay", "idle worker connection")       \
    X(GROUP, health_path, WORDS, "", "health httpchk health_check",                                \
      "readiness check: path [host=NAME]")                                                         \
    X(GROUP, health_interval, DURATION, "10s", "inter interval fail_timeout",                      \
      "between checks, none = only at start")                                                      \
    X(GROUP, health_timeout, DURATION, "5s", "timeout_check", "for the answer to a check")         \
    X(GROUP, health_fails, INT, "3", "fall max_fails", "failed checks in a row that count")        \
    X(GROUP, start_timeout, DURATION, "5m", "timeoutstartsec", "until a worker is ready")          \
    X(GROUP, optional, BOOL, "off", "", "readyz does not wait for this group")                     \
    X(GROUP, backoff_max, DURATION, "30s", "restart_backoff_on_crash restartsec",                  \
      "longest restart pause")                                                                     \
    X(GROUP, max_restarts, INT, "none", "max_restarts_on_crash startretries startlimitburst",      \
      "consecutive failed starts")                                                                 \
    X(GROUP, recycle_requests, INT, "none", "max_requests limit_max_requests max_requests_jitter", \
      "replace the worker after so many")                                                          \
    X(GROUP, recycle_after, DURATION, "none", "max_worker_lifetime runtimemaxsec",                 \
      "replace it after this time")                                                                \
    X(GROUP, stop_signal, TEXT, "TERM", "stopsignal killsignal", "asks a worker to end")           \
    X(GROUP, stop_timeout, DURATION, "", "stopwaitsecs timeoutstopsec",                            \
      "then KILL to its process group")                                                            \
    X(GROUP, reload, TEXT, "swap", "reload_on_sighup", "swap, rolling, replace or off")            \
    X(GROUP, drain_timeout, DURATION, "", "", "requests in old workers")                           \
    X(GROUP, tunnel_drain, DURATION, "5m", "", "tunnels in old workers")

/* Keys of others that are none here: names, blank-separated, and what to do. */
#define LDC_ELSEWHERE(X)                                                                           \
    X("tls ssl ssl_certificate ssl_certificate_key ssl_protocols certfile keyfile ca_certs crt",   \
      "left out: TLS; put a terminator in front and write `listen = ADDRESS https`")               \
    X("gzip compression brotli",                                                                   \
      "left out: compression; the application or the terminator does it")                          \
    X("root alias static index try_files", "left out: static files; the terminator serves them")   \
    X("http2 http3 h2 alpn", "left out: HTTP/2 and 3; the terminator in front speaks them")        \
    X("basic_auth auth_basic auth_basic_user_file auth",                                           \
      "left out: passwords; the application or the terminator asks for them")                      \
    X("error_page errorfile", "left out: rewriting the application's error pages")                 \
    X("cors add_header proxy_set_header header",                                                   \
      "left out: header editing; let the application set it")                                      \
    X("redirect return rewrite http_request",                                                      \
      "left out: redirects and rewrites; see strip_prefix")                                        \
    X("ip_hash hash sticky stick_table cookie session_affinity",                                   \
      "write `balance = hash`, and `hash_key` for what it goes by")                                \
    X("venv virtualenv home pythonhome",                                                           \
      "write the path of its program: cmd = venv/bin/uvicorn ...")                                 \
    X("preload preload_app lazy_apps", "left out: forking loaded code; each worker loads its own") \
    X("startsecs", "a worker is ready when it answers: see health_path and start_timeout")         \
    X("option", "options of HAProxy have keys of their own here: see the reference in the README") \
    X("weight server_weight", "left out: weights; balance = least goes by what is free")           \
    X("daemon daemonize background", "left out: it stays in the foreground; systemd keeps it")

typedef enum ldc_type {
    LDC_INT,
    LDC_DURATION,
    LDC_SIZE,
    LDC_BOOL,
    LDC_TEXT,
    LDC_WORDS,
    LDC_COMMAND
} ldc_type;
enum { LDC_SCOPE_GLOBAL, LDC_SCOPE_GROUP };

#define LDC_KEY_ENUM(scope, key, type, def, formerly, help) LDC_KEY_##key,
typedef enum ldc_key_id { LDC_KEYS(LDC_KEY_ENUM) LDC_KEY_COUNT } ldc_key_id;

typedef struct ldc_key {
    const char *name;
    uint8_t scope, type;
    uint16_t offset; /* in ldcorn_desc or ldcorn_group_desc */
    const char *def, *formerly, *help;
} ldc_key;

#define LDC_DESC_GLOBAL ldcorn_desc
#define LDC_DESC_GROUP ldcorn_group_desc
#define LDC_KEY_ROW(scope, key, type, def, formerly, help) \
    {#key, LDC_SCOPE_##scope, LDC_##type, offsetof(LDC_DESC_##scope, key), def, formerly, help},
static const ldc_key ldc_conf_keys[] = {LDC_KEYS(LDC_KEY_ROW)};

typedef struct ldc_file {
    const char *name;
    const char *text; /* whole, zero-terminated */
    size_t n;
} ldc_file;

typedef struct ldc_origin { /* where a value was written */
    const ldc_file *file;   /* NULL: default, or a field of the desc */
    int line, column, length;
} ldc_origin;

typedef struct ldc_setting { /* what was said of one key in one section */
    bool set;
    ldc_origin at, key_at; /* of the value, of the key */
    const char *raw;       /* as said, for ldcorn_dump */
    const char **word;     /* lists: NULL-terminated, and where each stood */
    ldc_origin *word_at;
    int words, room;
} ldc_setting;

typedef struct ldc_section {
    const char *name; /* NULL: above the first section */
    ldc_origin at;
    ldcorn_desc *global; /* both are written through the table of keys */
    ldcorn_group_desc *group;
    ldc_setting *said; /* LDC_KEY_COUNT */
    struct ldc_section *next;
} ldc_section;

typedef struct ldc_addr {
    socklen_t len;
    int mode;     /* of a unix socket, 0: as umask says */
    bool grouped; /* its file belongs to `gid` */
    gid_t gid;
    int inherited;     /* a listening descriptor that somebody gave us, 0: none, -1: not there */
    bool proxy, https; /* what stands before us: PROXY v1 or v2 comes first; TLS ends there */
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct sockaddr_un un;
    } u;
    const char *text;
    ldc_origin at;
} ldc_addr;

typedef struct ldc_cidr {
    int family; /* AF_INET, AF_INET6, AF_UNIX */
    int bits;
    unsigned char bytes[16];
} ldc_cidr;

typedef enum ldc_source { LDC_FROM_PROCESSES, LDC_FROM_LIST, LDC_FROM_DIAL } ldc_source;
typedef enum ldc_transport { LDC_BY_SOCKET, LDC_BY_PORT, LDC_BY_FD } ldc_transport;
typedef enum ldc_choice {
    LDC_WAIT,
    LDC_RESTART,
    LDC_CLOSE,
    LDC_SWAP,
    LDC_ROLLING,
    LDC_REPLACE,
    LDC_OFF,
    LDC_LEAST,
    LDC_LIFO,
    LDC_ROUND,
    LDC_HASH
} ldc_choice;

typedef enum ldc_by {
    LDC_BY_ADDR,
    LDC_BY_HEADER,
    LDC_BY_COOKIE,
    LDC_BY_QUERY,
    LDC_BY_METHOD,
    LDC_BY_PATH
} ldc_by;

typedef struct ldc_term { /* a part of a request: for `match` and `hash_key` */
    ldc_by by;
    ldc_str name, value;
    bool any; /* no value is asked for */
    int n;    /* of LDC_BY_PATH: which segment, from 1 */
} ldc_term;

typedef struct ldc_terms {
    ldc_term *p;
    int n;
} ldc_terms;

typedef struct ldc_when { /* beside its path: all of it must hold */
    const char *const *hosts;
    ldc_terms match;
} ldc_when;

typedef struct ldc_cidrs {
    ldc_cidr *p;
    int n;
} ldc_cidrs;

typedef struct ldc_rate {
    uint64_t each;      /* microseconds per request, 0: no limit */
    uint64_t burst;     /* requests at once */
    const char *header; /* whose value is the key; NULL: the address */
} ldc_rate;

typedef struct ldc_user { /* whom a process becomes */
    bool set;
    uid_t uid;
    gid_t gid, *groups;
    int n;
    const char *name, *home;
} ldc_user;

typedef struct ldc_gconf { /* one group as configured; all limits final */
    ldcorn_group_desc s;   /* numbers in force: -1 is none, 0 is 0 */
    const char *name;
    ldc_origin at, cmd_at, dir_at, log_at;
    char **argv; /* placeholders still inside; NULL for upstream and function */
    const ldcorn_function_desc *function;
    ldc_transport transport;
    ldc_source source;
    ldc_addr *addr; /* upstream; of names, once they are resolved */
    int addrs;
    int names;     /* of them, not resolved yet: family AF_UNSPEC */
    bool dynamic;  /* upstream: filled by join and quit */
    ldc_addr dial; /* dial_in */
    ldc_cidrs dial_allow;
    ldc_choice client_abort, on_timeout, reload;
    int stop_signal;
    bool stop_said; /* `stop_timeout` was: it holds at a stop of ldcorn, too */
    int umask;      /* -1: inherited */
    ldc_user user;
    const char *health_path, *health_host;
    const char *log_path; /* stderr, stdout, inherit, off or a path */
    bool log_raw;
    bool limited;
    ldc_cidrs allow, deny;
    ldc_rate rate;
    ldc_when when;
    ldc_choice balance;
    ldc_terms hash;
} ldc_gconf;

typedef enum ldc_match {
    LDC_MATCH_EXACT,
    LDC_MATCH_PREFIX,
    LDC_MATCH_STRING,
    LDC_MATCH_ALL
} ldc_match;

typedef struct ldc_route {
    ldc_str text; /* without the marks */
    ldc_match kind;
    const ldc_when *when; /* NULL: nothing but the path */
    int group;            /* index in ldc_conf.group */
    int order;            /* among the words of its group */
    ldc_origin at;
    const char *said;
} ldc_route;

typedef struct ldc_size { /* routes of one size: these of by_text */
    size_t n;
    int first, end;
} ldc_size;

typedef struct ldc_conf {
    const char
        *secret; /* the variables that admin_token was made of, each with a blank behind it */
    ldc_arena arena;
    int refs;
    ldcorn_desc s;    /* resolved */
    const char *file; /* as named by the user, or NULL */
    ldc_gconf *group;
    int groups;
    ldc_route *route; /* in the order in which they are tried */
    int routes;
    int *by_text;   /* their numbers, by size, then text: those of one size stand together */
    ldc_size *size; /* the sizes that there are, the longest first */
    int sizes;
    ldc_addr *listen;
    int listens;
    ldc_addr *admin;
    int admins; /* 0: off */
    ldc_user run_as;
    ldc_cidr *trusted;
    int trusteds;
    ldc_section *globals, *defaults, *sections;
    int group_lines;
} ldc_conf;

typedef struct ldc_home { /* what is found out once, at the start, and holds for all readings */
    const char *here;     /* the working directory as its user names it: $PWD, where that is it */
    const char *base;     /* that, if links lie in it; relative names follow them. NULL: none do */
    const char
        *runtime_dir; /* in force, because nobody wrote another; NULL: at the first reading */
} ldc_home;

typedef struct ldc_reader { /* one reading; lives on the stack of ldc_conf_read */
    ldc_conf *conf;
    const ldc_home *home;
    ldc_arena *arena;
    ldc_text errors, warnings;
    int error_count;
    struct {
        ldc_origin at;
        size_t from; /* in `errors` */
        size_t n;
    } note[64];  /* in the order of the file; what is found behind these comes last */
    bool memory; /* an allocation failed */
    bool include;
    bool filter;  /* of the host, which may choose any group */
    bool *quoted; /* words of the command line that was split last: with quotes */
} ldc_reader;

static void *ldc_conf_take(ldc_reader *r, size_t n) {
    static char spare[8192]; /* after a failure we only finish; r->memory ends the reading */
    void *p = ldc_arena_take(r->arena, n);
    if (p) return p;
    r->memory = true;
    return n <= sizeof spare ? memset(spare, 0, sizeof spare) : NULL;
}

static const char *ldc_conf_z(ldc_reader *r, ldc_str s) {
    char *z = ldc_arena_copy(r->arena, s.p, s.n);
    if (z) return z;
    r->memory = true;
    return "";
}

static ldc_str ldc_conf_line(const ldc_origin *at) {
    const char *p = at->file->text, *end;
    for (int i = 1; i < at->line && p; i++) {
        p = strchr(p, '\n');
        if (p) p++;
    }
    if (p == NULL) return ldc_util_str("", 0);
    end = strchr(p, '\n');
    if (end == NULL) end = p + strlen(p);
    if (end > p && end[-1] == '\r') end--;
    return ldc_util_str(p, (size_t)(end - p));
}

/* file:line:col: text, the line, a caret and what to do. */
static const char ldc_conf_option[] = "-o"; /* stands for the file's name */

static bool ldc_conf_by_option(const ldc_file *f) { return strcmp(f->name, ldc_conf_option) == 0; }

static void ldc_conf_note(ldc_text *t, const ldc_origin *at, const char *text, const char *hint) {
    ldc_str line;
    size_t column = at->column > 0 ? (size_t)at->column - 1 : 0;
    if (at->file == NULL) {
        ldc_text_fmt(t, "%s%s%s\n", text, hint[0] ? ": " : "", hint);
        return;
    }
    if (at->line == 0) {
        bool option = ldc_conf_by_option(at->file);
        ldc_text_fmt(t, "%s%s%s: %s%s%s\n", at->file->name, option ? " " : "",
                     option ? at->file->text : "", text, hint[0] ? ": " : "", hint);
        return;
    }
    line = ldc_conf_line(at);
    ldc_text_fmt(t, "%s:%d:%d: %s\n%4d | ", at->file->name, at->line, at->column, text, at->line);
    ldc_text_escape(t, line, false);
    ldc_text_add(t, "\n     | ");
    for (size_t i = 0; i < column; i++)
        ldc_text_add(t, i < line.n && line.p[i] == '\t' ? "\t" : " ");
    ldc_text_add(t, "^");
    for (int i = 1; i < at->length && i < 200; i++) ldc_text_add(t, "~");
    ldc_text_fmt(t, "%s%s\n", hint[0] ? " " : "", hint);
}

/* Syntax, values and what does not fit together are found one after the other; whoever mends a file
   goes through it once. */
static void ldc_conf_place(ldc_reader *r, const ldc_origin *at, size_t from) {
    int n = r->error_count++, to = 0;
    if (n >= (int)LDC_LEN(r->note)) return;
    while (to < n && !(r->note[to].at.file == at->file && r->note[to].at.line > at->line)) to++;
    memmove(&r->note[to + 1], &r->note[to], (size_t)(n - to) * sizeof r->note[0]);
    r->note[to].at = *at;
    r->note[to].from = from;
    r->note[to].n = r->errors.n - from;
}

static void ldc_conf_in_order(const ldc_reader *r, ldc_text *t) {
    size_t placed = 0;
    for (int i = 0; i < r->error_count && i < (int)LDC_LEN(r->note); i++) {
        ldc_text_put(t, r->errors.p + r->note[i].from, r->note[i].n);
        placed += r->note[i].n;
    }
    ldc_text_put(t, r->errors.p + placed, r->errors.n - placed);
}

static void ldc_conf_fail(ldc_reader *r, const ldc_origin *at, const char *hint, const char *format,
                          ...) LDC_PRINTF(4, 5);
static void ldc_conf_fail(ldc_reader *r, const ldc_origin *at, const char *hint, const char *format,
                          ...) {
    char text[512];
    size_t from = r->errors.n;
    va_list list;
    for (int i = 0; i < r->error_count && i < (int)LDC_LEN(r->note); i++) {
        const ldc_origin *o = &r->note[i].at; /* one error of a value: more follow from it */
        if (at->column > 1 && o->file == at->file && o->line == at->line && o->column == at->column)
            return;
    }
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    ldc_conf_note(&r->errors, at, text, hint);
    ldc_conf_place(r, at, from);
}

static void ldc_conf_warn(ldc_reader *r, const ldc_origin *at, const char *hint, const char *format,
                          ...) LDC_PRINTF(4, 5);
static void ldc_conf_warn(ldc_reader *r, const ldc_origin *at, const char *hint, const char *format,
                          ...) {
    char text[512] = "warning: ";
    va_list list;
    va_start(list, format);
    vsnprintf(text + 9, sizeof text - 9, format, list);
    va_end(list);
    ldc_conf_note(&r->warnings, at, text, hint);
}

static const ldc_key *ldc_conf_key(ldc_str name, int *id) {
    for (int i = 0; i < LDC_KEY_COUNT; i++) {
        if (!ldc_util_is(name, ldc_conf_keys[i].name)) continue;
        *id = i;
        return &ldc_conf_keys[i];
    }
    return NULL;
}

/* Is `name`, as somebody writes it elsewhere (keep-alive, KillSignal), the older name? */
static bool ldc_conf_was(ldc_str older, ldc_str name) {
    if (older.n != name.n) return false;
    for (size_t i = 0; i < name.n; i++) {
        char c = name.p[i] == '-' || name.p[i] == ' ' ? '_' : (char)ldc_util_lower(name.p[i]);
        if (c != older.p[i]) return false;
    }
    return true;
}

/* Is `name` one of the blank-separated words? */
static bool ldc_conf_among(const char *words, ldc_str name) {
    ldc_str rest = ldc_util_z(words);
    while (rest.n) {
        const char *blank = (const char *)memchr(rest.p, ' ', rest.n);
        size_t n = blank ? (size_t)(blank - rest.p) : rest.n;
        if (ldc_conf_was(ldc_util_str(rest.p, n), name)) return true;
        rest = ldc_util_cut(rest, blank ? n + 1 : n);
    }
    return false;
}

#define LDC_ELSEWHERE_ROW(names, hint) {names, hint},
static const struct {
    const char *names, *hint;
} ldc_conf_elsewhere[] = {LDC_ELSEWHERE(LDC_ELSEWHERE_ROW)};

/* What to write instead of an unknown key: its present name, the nearest one, or another way. */
static void ldc_conf_suggest(ldc_str name, char *out, size_t room) {
    int best = 99, found = -1;
    for (size_t i = 0; i < LDC_LEN(ldc_conf_elsewhere); i++) {
        if (!ldc_conf_among(ldc_conf_elsewhere[i].names, name)) continue;
        snprintf(out, room, "%s", ldc_conf_elsewhere[i].hint);
        return;
    }
    for (int i = 0; i < LDC_KEY_COUNT; i++) {
        int d = ldc_util_distance(name, ldc_util_z(ldc_conf_keys[i].name));
        if (d < best) best = d, found = i;
        if (!ldc_conf_among(ldc_conf_keys[i].formerly, name)) continue;
        snprintf(out, room, "here it is called `%s`", ldc_conf_keys[i].name);
        return;
    }
    if (found >= 0 && (best <= 2 || best <= (int)(name.n / 3)))
        snprintf(out, room, "did you mean `%s`?", ldc_conf_keys[found].name);
    else
        snprintf(out, room, "there is no such key");
}

/* No worker gets to see what admin_token is made of. */
static void ldc_conf_secret(ldc_reader *r, const char *variable) {
    char names[512];
    snprintf(names, sizeof names, "%s%s ", r->conf->secret ? r->conf->secret : "", variable);
    r->conf->secret = ldc_conf_z(r, ldc_util_z(names));
}

static const char *ldc_conf_expanded(ldc_reader *r, ldc_str s, const ldc_origin *at, bool secret);

static const char *ldc_conf_expand(ldc_reader *r, ldc_str s, const ldc_origin *at) {
    return ldc_conf_expanded(r, s, at, false);
}

/* ${VAR}, ${VAR:-text}, $${ for a literal ${ . */
static const char *ldc_conf_expanded(ldc_reader *r, ldc_str s, const ldc_origin *at, bool secret) {
    ldc_text t;
    const char *z;
    ldc_text_init(&t, r->arena->mem);
    while (s.n) {
        const char *close;
        ldc_str name, other = ldc_util_str(NULL, 0);
        char variable[128];
        if (ldc_util_starts(s, "$${")) {
            ldc_text_add(&t, "${");
            s = ldc_util_cut(s, 3);
            continue;
        }
        close = ldc_util_starts(s, "${") ? (const char *)memchr(s.p, '}', s.n) : NULL;
        if (close == NULL) {
            ldc_text_put(&t, s.p, 1);
            s = ldc_util_cut(s, 1);
            continue;
        }
        name = ldc_util_str(s.p + 2, (size_t)(close - s.p) - 2);
        for (size_t i = 0; i + 1 < name.n; i++) {
            if (name.p[i] != ':' || name.p[i + 1] != '-') continue;
            other = ldc_util_cut(name, i + 2);
            name.n = i;
            break;
        }
        snprintf(variable, sizeof variable, "%.*s", LDC_STR_ARG(name));
        z = getenv(variable);
        if (secret && z) ldc_conf_secret(r, variable);
        if (z)
            ldc_text_add(&t, z);
        else if (other.p)
            ldc_text_put(&t, other.p, other.n);
        else
            ldc_conf_fail(r, at, "set it, or write ${NAME:-default}",
                          "`%s` is not set in the environment", variable);
        s = ldc_util_cut(s, (size_t)(close - s.p) + 1);
    }
    if (t.failed) r->memory = true; /* a value cut short is none */
    z = ldc_conf_z(r, ldc_util_str(t.p, t.n));
    ldc_text_free(&t);
    return z;
}

/* --- values by type --- */

static bool ldc_conf_unit(ldc_str unit, ldc_type type, int64_t *scale) {
    static const struct {
        const char *name;
        int type;
        int64_t scale;
    } units[] = {{"ms", LDC_DURATION, 1},       {"s", LDC_DURATION, 1000},
                 {"m", LDC_DURATION, 60000},    {"h", LDC_DURATION, 3600000},
                 {"d", LDC_DURATION, 86400000}, {"K", LDC_SIZE, 1024},
                 {"M", LDC_SIZE, 1024 * 1024},  {"G", LDC_SIZE, 1024 * 1024 * 1024}};
    for (size_t i = 0; i < LDC_LEN(units); i++) {
        if (units[i].type == (int)type && ldc_util_is(unit, units[i].name)) {
            *scale = units[i].scale;
            return true;
        }
    }
    return false;
}

/* int, duration or size. Zero becomes LDCORN_ZERO, because 0 in a desc means the default. */
static void ldc_conf_number(ldc_reader *r, const ldc_key *k, ldc_str v, const ldc_origin *at,
                            int64_t *out) {
    size_t n = 0;
    int64_t scale = 1;
    uint64_t number = 0;
    char hint[96];
    ldc_str unit;
    if (ldc_util_is(v, "none")) {
        *out = LDCORN_NONE;
        return;
    }
    if (k == &ldc_conf_keys[LDC_KEY_workers] && ldc_util_is(v, "auto")) {
        *out = LDCORN_AUTO;
        return;
    }
    *out = LDCORN_ZERO; /* what is said here is not said again by those who look at its range */
    while (n < v.n && isdigit((unsigned char)v.p[n])) n++;
    unit = ldc_util_cut(v, n);
    if (n == 0 || !ldc_util_number(ldc_util_str(v.p, n), (uint64_t)1 << 50, &number)) {
        const char *like = k->type == LDC_DURATION ? "like 30s (ms, s, m, h, d)"
                           : k->type == LDC_SIZE   ? "like 64K (K, M, G)"
                                                   : "like 4";
        snprintf(hint, sizeof hint, "write a number %s, or none", like);
        ldc_conf_fail(r, at, hint, "`%s` is not a number: `%.*s`", k->name, LDC_STR_ARG(v));
        return;
    }
    if (k->type == LDC_DURATION && unit.n == 0 && number) {
        snprintf(hint, sizeof hint, "write %llus (ms, s, m, h, d)", (unsigned long long)number);
        ldc_conf_fail(r, at, hint, "`%s` needs a unit", k->name);
        return;
    }
    if (unit.n && !ldc_conf_unit(unit, (ldc_type)k->type, &scale)) {
        const char *units = k->type == LDC_DURATION ? "ms, s, m, h or d"
                            : k->type == LDC_SIZE   ? "K, M or G"
                                                    : "a number alone";
        if (memchr(unit.p, '#', unit.n)) units = "a comment has a line of its own";
        ldc_conf_fail(r, at, units, "`%s` has an unknown unit: `%.*s`", k->name, LDC_STR_ARG(unit));
        return;
    }
    if (number > (uint64_t)(((int64_t)1 << 50) / scale)) {
        ldc_conf_fail(r, at, "write a smaller one", "`%s` is too large", k->name);
        return;
    }
    *out = number ? (int64_t)number * scale : LDCORN_ZERO;
}

/* Splits as a shell does: blanks, '...', "...", backslash. NULL after an error. */
static char **ldc_conf_split(ldc_reader *r, const char *s, const ldc_origin *at) {
    size_t n = strlen(s), count = 0, o = 0;
    char **argv = (char **)ldc_conf_take(r, (n / 2 + 2) * sizeof *argv);
    char *word = (char *)ldc_conf_take(r, n + 1), quote = 0;
    bool in = false;
    r->quoted = (bool *)ldc_conf_take(r, n / 2 + 2);
    if (r->memory) return NULL;
    for (size_t i = 0; i <= n; i++) {
        char c = s[i];
        bool end = c == 0 || (!quote && (c == ' ' || c == '\t'));
        if (end && in) {
            argv[count++] = (char *)(uintptr_t)ldc_conf_expand(r, ldc_util_str(word, o), at);
            o = 0;
            in = false;
        }
        if (end) continue;
        in = true;
        if (quote ? c == quote : c == '\'' || c == '"')
            quote = quote ? 0 : c, r->quoted[count] = true;
        else if (c == '\\' && quote != '\'' && s[i + 1])
            word[o++] = s[++i], r->quoted[count] = true;
        else
            word[o++] = c;
    }
    if (quote) {
        ldc_conf_fail(r, at, "close it", "the quote %c is not closed", quote);
        return NULL;
    }
    argv[count] = NULL;
    return argv;
}

static void ldc_conf_bool(ldc_reader *r, const ldc_key *k, ldc_str v, const ldc_origin *at,
                          bool *out) {
    if (ldc_util_is(v, "on") || ldc_util_is(v, "off"))
        *out = v.n == 2;
    else
        ldc_conf_fail(r, at, "write on or off", "`%s` is on or off, not `%.*s`", k->name,
                      LDC_STR_ARG(v));
}

typedef struct ldc_value { /* the text of a value with the source of each byte */
    char *p;
    ldc_origin *at; /* one per byte and one for the end */
    size_t n;
} ldc_value;

/* Takes the quotes out, in place: they only hold blanks together. */
static ldc_str ldc_conf_unquote(char *p, size_t n) {
    size_t o = 0;
    char quote = 0;
    for (size_t i = 0; i < n; i++) {
        if (p[i] == quote)
            quote = 0;
        else if (!quote && (p[i] == '"' || p[i] == '\''))
            quote = p[i];
        else
            p[o++] = p[i];
    }
    return ldc_util_str(p, o);
}

/* Lists in which no word ends in a comma. */
static bool ldc_conf_commas(int id) {
    return id != LDC_KEY_env && id != LDC_KEY_worker_log && id != LDC_KEY_watch;
}

static void ldc_conf_words(ldc_reader *r, ldc_setting *s, int id, const ldc_value *v) {
    size_t i = 0;
    char quote;
    while (i < v->n) {
        size_t from;
        const char **word;
        ldc_origin *at;
        while (i < v->n && (v->p[i] == ' ' || v->p[i] == '\t')) i++;
        from = i;
        for (quote = 0; i < v->n && (quote || (v->p[i] != ' ' && v->p[i] != '\t')); i++) {
            if (v->p[i] == quote)
                quote = 0;
            else if (!quote && (v->p[i] == '"' || v->p[i] == '\''))
                quote = v->p[i];
        }
        if (i == from) break;
        if (quote) ldc_conf_fail(r, &v->at[from], "close it", "the quote %c is not closed", quote);
        word = s->word;
        at = s->word_at;
        if (s->words == s->room) {
            s->room = s->room ? s->room * 2 : 4;
            word = (const char **)ldc_conf_take(r, ((size_t)s->room + 1) * sizeof *word);
            at = (ldc_origin *)ldc_conf_take(r, ((size_t)s->room + 1) * sizeof *at);
            if (r->memory) return;
            if (s->words) {
                memcpy(word, s->word, (size_t)s->words * sizeof *word);
                memcpy(at, s->word_at, (size_t)s->words * sizeof *at);
            }
        }
        at[s->words] = v->at[from];
        at[s->words].length = (int)(i - from);
        if (v->p[i - 1] == ',' && ldc_conf_commas(id))
            ldc_conf_fail(r, &at[s->words], "write blanks alone between the words",
                          "`%s` is a list of words: the comma would be part of one",
                          ldc_conf_keys[id].name);
        word[s->words] = ldc_conf_expand(r, ldc_conf_unquote(v->p + from, i - from), &at[s->words]);
        s->word = word;
        s->word_at = at;
        s->word[++s->words] = NULL;
    }
}

static void *ldc_conf_field(ldc_section *section, const ldc_key *k) {
    char *base = k->scope == LDC_SCOPE_GLOBAL ? (char *)section->global : (char *)section->group;
    return base + k->offset;
}

/* Writes one value through the table of keys. */
static void ldc_conf_assign(ldc_reader *r, ldc_section *section, int id, const ldc_value *v) {
    const ldc_key *k = &ldc_conf_keys[id];
    ldc_setting *s = &section->said[id];
    void *field = ldc_conf_field(section, k);
    ldc_origin at = v->at[0];
    ldc_str text = ldc_util_str(v->p, v->n);
    const char *z;
    at.length = (int)(v->n ? v->n : 1);
    if (k->type == LDC_WORDS) {
        ldc_conf_words(r, s, id, v);
        memcpy(field, &s->word, sizeof s->word);
    } else if (k->type ==
               LDC_COMMAND) { /* expanded after the split, so that values stay one word */
        z = ldc_conf_z(r, text);
        memcpy(field, &z, sizeof z);
    } else {
        z = ldc_conf_expanded(r, text, &at, id == LDC_KEY_admin_token);
        text = ldc_util_z(z);
        if (k->type == LDC_TEXT)
            memcpy(field, &z, sizeof z);
        else if (k->type == LDC_BOOL)
            ldc_conf_bool(r, k, text, &at, (bool *)field);
        else
            ldc_conf_number(r, k, text, &at, (int64_t *)field);
    }
    if (v->n == 0)
        ldc_conf_fail(r, &at, "give it a value or remove the line", "`%s` has no value", k->name);
    if (!s->set) s->raw = ldc_conf_z(r, ldc_util_str(v->p, v->n));
    s->set = true;
    s->at = at;
}

/* --- the file --- */

static ldc_section *ldc_conf_section(ldc_reader *r, const char *name, const ldc_origin *at) {
    ldc_section *s = (ldc_section *)ldc_arena_take(r->arena, sizeof *s);
    if (s == NULL) goto failed;
    s->name = name;
    s->at = *at;
    s->global = (ldcorn_desc *)ldc_arena_take(r->arena, sizeof *s->global);
    s->group = (ldcorn_group_desc *)ldc_arena_take(r->arena, sizeof *s->group);
    s->said = (ldc_setting *)ldc_arena_take(r->arena, LDC_KEY_COUNT * sizeof *s->said);
    if (s->global == NULL || s->group == NULL || s->said == NULL) goto failed;
    s->group->name = name;
    return s;
failed:
    r->memory = true;
    return NULL;
}

static ldc_section *ldc_conf_find(const ldc_conf *c, ldc_str name) {
    for (ldc_section *s = c->sections; s; s = s->next) {
        if (ldc_util_is(name, s->name)) return s;
    }
    return NULL;
}

static bool ldc_conf_name(ldc_str s) {
    for (size_t i = 0; i < s.n; i++) {
        if (!isalnum((unsigned char)s.p[i]) && s.p[i] != '-' && s.p[i] != '_') return false;
    }
    return s.n > 0 && s.n < 64;
}

static ldc_section *ldc_conf_add(ldc_reader *r, ldc_str name, const ldc_origin *at) {
    ldc_section *s = ldc_conf_find(r->conf, name), **end = &r->conf->sections;
    if (s) {
        ldc_conf_fail(r, at, "give it another name, or join the two",
                      "group [%.*s] stands twice, first in line %d", LDC_STR_ARG(name), s->at.line);
        return s;
    }
    s = ldc_conf_section(r, ldc_conf_z(r, name), at);
    if (s == NULL) return NULL;
    while (*end) end = &(*end)->next;
    *end = s;
    r->conf->groups++;
    return s;
}

/* Only in groups: as a default they would give every group the same. */
static bool ldc_conf_own_only(int id) {
    return id == LDC_KEY_routes || id == LDC_KEY_hosts || id == LDC_KEY_match ||
           id == LDC_KEY_dial_in;
}

static void ldc_conf_pair(ldc_reader *r, ldc_section *section, ldc_str name, const ldc_origin *at,
                          const ldc_value *v) {
    int id = -1;
    const ldc_key *k = ldc_conf_key(name, &id);
    char hint[128];
    if (k == NULL) {
        ldc_conf_suggest(name, hint, sizeof hint);
        if (section->name)
            ldc_conf_fail(r, at, hint, "unknown key `%.*s` in [%s]", LDC_STR_ARG(name),
                          section->name);
        else
            ldc_conf_fail(r, at, hint, "unknown key `%.*s`", LDC_STR_ARG(name));
        return;
    }
    if (k->scope == LDC_SCOPE_GLOBAL && section->name) {
        ldc_conf_fail(r, at, "move it above the first section",
                      "`%s` is a global key, not one of group [%s]", k->name, section->name);
        return;
    }
    if (section->name == NULL && ldc_conf_own_only(id)) {
        ldc_conf_fail(r, at, "move it into a group", "`%s` cannot be a default for all groups",
                      k->name);
        return;
    }
    if (section->said[id].set && k->type != LDC_WORDS) {
        ldc_conf_fail(r, at, "keep one", "`%s` is set twice, first in line %d", k->name,
                      section->said[id].at.line);
        return;
    }
    ldc_conf_assign(r, section, id, v);
    section->said[id].key_at = *at;
}

/* A regular file of a sane size: a reload must not wait for a fifo or read a device for ever. */
static FILE *ldc_conf_open(const char *path) {
    struct stat st;
    int fd = ldc_util_open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0);
    FILE *in;
    if (fd < 0) return NULL;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > (16 << 20)) {
        errno = S_ISDIR(st.st_mode) ? EISDIR : S_ISREG(st.st_mode) ? EFBIG : EINVAL;
        close(fd);
        return NULL;
    }
    in = fdopen(fd, "rb");
    if (in == NULL) close(fd);
    return in;
}

/* --- where names begin: a release that is swapped by a link is what a reload loads --- */

static ldc_home ldc_conf_home(ldc_arena *a) {
    const char *pwd = getenv("PWD");
    char cwd[PATH_MAX];
    struct stat named, real;
    ldc_home h;
    memset(&h, 0, sizeof h);
    if (getcwd(cwd, sizeof cwd) == NULL) return h;
    if (pwd && pwd[0] == '/' && stat(pwd, &named) == 0 && stat(".", &real) == 0 &&
        named.st_dev == real.st_dev && named.st_ino == real.st_ino)
        h.here = ldc_arena_copy(a, pwd, strlen(pwd));
    if (h.here && strcmp(h.here, cwd) != 0) h.base = h.here;
    if (h.here == NULL) h.here = ldc_arena_copy(a, cwd, strlen(cwd));
    return h;
}

/* A path as it is written, seen from there. */
static const char *ldc_conf_based(ldc_reader *r, const char *path) {
    char full[PATH_MAX * 2];
    if (path == NULL || path[0] == '/' || r->home->base == NULL) return path;
    snprintf(full, sizeof full, "%s/%s", r->home->base, path);
    return ldc_conf_z(r, ldc_util_z(full));
}

/* The same for a log, which may be a word. */
static const char *ldc_conf_based_log(ldc_reader *r, const char *log) {
    static const char *const words[] = {"stderr", "stdout", "off", "inherit"};
    for (size_t i = 0; i < LDC_LEN(words); i++) {
        if (log && strcmp(log, words[i]) == 0) return log;
    }
    return ldc_conf_based(r, log);
}

static const ldc_file *ldc_conf_load(ldc_reader *r, const char *path, const ldc_origin *at) {
    ldc_file *f = (ldc_file *)ldc_conf_take(r, sizeof *f);
    char block[4096];
    ldc_text t;
    size_t n;
    FILE *in = ldc_conf_open(ldc_conf_based(r, path));
    if (in == NULL || r->memory) {
        ldc_conf_fail(r, at, at->file ? "check the name" : "", "cannot read %s: %s", path,
                      strerror(errno));
        if (in) fclose(in);
        return NULL;
    }
    ldc_text_init(&t, r->arena->mem);
    while ((n = fread(block, 1, sizeof block, in)) > 0) ldc_text_put(&t, block, n);
    if (ferror(in)) ldc_conf_fail(r, at, "", "cannot read %s: %s", path, strerror(errno));
    fclose(in);
    f->name = ldc_conf_z(r, ldc_util_z(path));
    f->n = t.n;
    f->text = ldc_conf_z(r, ldc_util_str(t.p, t.n));
    ldc_text_free(&t);
    if (f->n != strlen(f->text)) {
        ldc_origin whole = {0};
        whole.file = f;
        ldc_conf_fail(r, &whole, "is it a text file?", "a NUL byte");
        return NULL;
    }
    return f;
}

typedef struct ldc_cursor { /* reading one file */
    const ldc_file *file;
    size_t at;
    int line;
    ldc_section *section;
} ldc_cursor;

/* The next logical line with the place of every byte; false at the end of the file. */
static bool ldc_conf_logical(ldc_reader *r, ldc_cursor *c, ldc_value *v) {
    size_t room = 0;
    if (c->at >= c->file->n) return false;
    for (size_t i = c->at; i < c->file->n; i++) { /* how long can it get */
        room++;
        if (c->file->text[i] == '\n' &&
            !(i > 0 && (c->file->text[i - 1] == '\\' ||
                        (i > 1 && c->file->text[i - 1] == '\r' && c->file->text[i - 2] == '\\'))))
            break;
    }
    v->p = (char *)ldc_conf_take(r, room + 1);
    v->at = (ldc_origin *)ldc_conf_take(r, (room + 2) * sizeof *v->at);
    v->n = 0;
    if (r->memory) return false;
    for (bool more = true; more && c->at < c->file->n;) {
        const char *p = c->file->text + c->at, *lf = strchr(p, '\n');
        size_t n = lf ? (size_t)(lf - p) : strlen(p), length = n;
        c->at += n + (lf ? 1 : 0);
        c->line++;
        if (length && p[length - 1] == '\r') length--;
        more = length > 0 && p[length - 1] == '\\' && p[0] != '#' && p[0] != ';';
        if (more) length--;
        for (size_t i = 0; i < length; i++) {
            v->at[v->n].file = c->file;
            v->at[v->n].line = c->line;
            v->at[v->n].column = (int)i + 1;
            v->at[v->n].length = 1;
            v->p[v->n++] = p[i];
        }
        v->at[v->n].file = c->file;
        v->at[v->n].line = c->line;
        v->at[v->n].column = (int)length + 1;
    }
    return true;
}

static ldc_value ldc_conf_part(const ldc_value *v, size_t from, size_t to) {
    ldc_value part;
    while (from < to && (v->p[from] == ' ' || v->p[from] == '\t')) from++;
    while (to > from && (v->p[to - 1] == ' ' || v->p[to - 1] == '\t')) to--;
    part.p = v->p + from;
    part.at = v->at + from;
    part.n = to - from;
    return part;
}

static void ldc_conf_file(ldc_reader *r, const char *path, const ldc_origin *at);

static void ldc_conf_include(ldc_reader *r, ldc_cursor *c, const ldc_value *v) {
    char path[PATH_MAX];
    const char *slash = strrchr(c->file->name, '/'), *z;
    ldc_origin at = v->at[0];
    at.length = (int)v->n;
    if (c->section->name || r->include) {
        ldc_conf_fail(r, &at,
                      r->include ? "one level is enough" : "move it above the first section",
                      "`include` is not allowed here");
        return;
    }
    z = ldc_conf_expand(r, ldc_util_str(v->p, v->n), &at);
    if (z[0] == '/' || slash == NULL)
        snprintf(path, sizeof path, "%s", z);
    else
        snprintf(path, sizeof path, "%.*s/%s", (int)(slash - c->file->name), c->file->name, z);
    r->include = true;
    ldc_conf_file(r, path, &at);
    r->include = false;
}

static void ldc_conf_head(ldc_reader *r, ldc_cursor *c, const ldc_value *v) {
    ldc_origin at = v->at[0];
    ldc_str name = ldc_util_str(v->p + 1, v->n - 2);
    ldc_section *s;
    at.length = (int)v->n;
    if (v->n < 3 || v->p[v->n - 1] != ']' || !ldc_conf_name(name)) {
        ldc_conf_fail(r, &at, "write [name] with letters, digits, - and _", "not a group name");
        return;
    }
    s = ldc_conf_add(r, name, &at);
    if (s) c->section = s;
}

static void ldc_conf_statement(ldc_reader *r, ldc_cursor *c, const ldc_value *v) {
    const char *equals = (const char *)memchr(v->p, '=', v->n);
    ldc_value name, value;
    ldc_origin at = v->at[0];
    if (v->n == 0 || v->p[0] == '#' || v->p[0] == ';') return;
    if (v->p[0] == '[') {
        ldc_conf_head(r, c, v);
        return;
    }
    at.length = (int)v->n;
    if (equals == NULL) {
        ldc_conf_fail(r, &at, "write key = value", "not a setting");
        return;
    }
    name = ldc_conf_part(v, 0, (size_t)(equals - v->p));
    value = ldc_conf_part(v, (size_t)(equals - v->p) + 1, v->n);
    at.length = (int)(name.n ? name.n : 1);
    for (size_t i = 0; i + 1 < value.n; i++) {
        ldc_origin sharp = value.at[i + 1];
        if (value.p[i] != ' ' || (value.p[i + 1] != '#' && value.p[i + 1] != ';')) continue;
        if (value.p[i + 1] == ';' && ldc_util_is(ldc_util_str(name.p, name.n), "cmd")) break;
        ldc_conf_warn(r, &sharp, "a comment stands on a line of its own",
                      "this is part of the value");
        break;
    }
    if (ldc_util_is(ldc_util_str(name.p, name.n), "include"))
        ldc_conf_include(r, c, &value);
    else
        ldc_conf_pair(r, c->section, ldc_util_str(name.p, name.n), &at, &value);
}

static void ldc_conf_file(ldc_reader *r, const char *path, const ldc_origin *at) {
    ldc_cursor c;
    ldc_value v;
    memset(&c, 0, sizeof c);
    c.file = ldc_conf_load(r, path, at);
    c.section = r->conf->globals;
    if (c.file == NULL) return;
    if (c.file->n >= 3 && memcmp(c.file->text, "\xEF\xBB\xBF", 3) == 0) c.at = 3; /* BOM */
    while (!r->memory && ldc_conf_logical(r, &c, &v)) {
        ldc_value line = ldc_conf_part(&v, 0, v.n);
        ldc_conf_statement(r, &c, &line);
    }
}

/* --- fields of a desc, -o words --- */

static size_t ldc_conf_width(const ldc_key *k) {
    return k->type == LDC_BOOL   ? sizeof(bool)
           : k->type <= LDC_SIZE ? sizeof(int64_t)
                                 : sizeof(char *);
}

/* A value given as plain text from outside a file. */
static void ldc_conf_text(ldc_reader *r, ldc_section *s, int id, ldc_str text,
                          const ldc_origin *at) {
    ldc_value v;
    v.n = text.n;
    v.p = (char *)(uintptr_t)ldc_conf_z(r, text);
    v.at = (ldc_origin *)ldc_conf_take(r, (text.n + 1) * sizeof *v.at);
    if (r->memory) return;
    for (size_t i = 0; i <= text.n; i++) v.at[i] = *at;
    ldc_conf_assign(r, s, id, &v);
}

static bool ldc_conf_what(int id) {
    return id == LDC_KEY_cmd || id == LDC_KEY_app || id == LDC_KEY_function ||
           id == LDC_KEY_upstream || id == LDC_KEY_dial_in;
}

/* Fields of a desc that the file did not set. */
static void ldc_conf_from_desc(ldc_reader *r, ldc_section *s, const void *desc, int scope) {
    ldc_file *f = (ldc_file *)ldc_conf_take(r, sizeof *f);
    ldc_origin at = {0};
    bool runs = false;
    char name[96];
    if (r->memory) return;
    snprintf(name, sizeof name, s->name ? "group \"%s\"" : "ldcorn_desc", s->name);
    f->name = ldc_conf_z(r, ldc_util_z(name));
    at.file = f; /* without a text: its fields */
    if (s->at.file == NULL) s->at = at;
    for (int id = 0; id < LDC_KEY_COUNT; id++)
        runs = runs || (ldc_conf_what(id) && s->said[id].set);
    for (int id = 0; id < LDC_KEY_COUNT; id++) {
        const ldc_key *k = &ldc_conf_keys[id];
        const char *from = (const char *)desc + k->offset;
        if (runs && ldc_conf_what(id)) continue; /* the file says what to run */
        const char *const *list = NULL;
        const char *z = NULL;
        char zero[8] = {0};
        if (k->scope != scope || s->said[id].set || memcmp(from, zero, ldc_conf_width(k)) == 0)
            continue;
        if (k->type == LDC_WORDS) {
            memcpy(&list, from, sizeof list);
            for (; list && *list; list++) ldc_conf_text(r, s, id, ldc_util_z(*list), &at);
        } else if (k->type == LDC_TEXT || k->type == LDC_COMMAND) {
            memcpy(&z, from, sizeof z);
            ldc_conf_text(r, s, id, ldc_util_z(z), &at);
        } else {
            memcpy(ldc_conf_field(s, k), from, ldc_conf_width(k));
            s->said[id].set = true;
            s->said[id].at = at;
            s->said[id].raw = NULL;
        }
    }
}

/* argv of one group without a file: quoted again, because cmd is a command line. */
static void ldc_conf_command(ldc_reader *r, const char *const *argv) {
    ldc_origin none = {0};
    ldc_section *s = ldc_conf_add(r, LDC_S("app"), &none);
    ldc_text t;
    if (s == NULL) return;
    ldc_text_init(&t, r->arena->mem);
    for (; *argv; argv++) {
        ldc_text_add(&t, t.n ? " '" : "'");
        for (const char *p = *argv; *p; p++) {
            if (*p == '\'')
                ldc_text_add(&t, "'\\''");
            else if (p[0] == '$' && p[1] == '{')
                ldc_text_add(&t, "$$"); /* the shell expanded already */
            else
                ldc_text_put(&t, p, 1);
        }
        ldc_text_add(&t, "'");
    }
    ldc_conf_text(r, s, LDC_KEY_cmd, ldc_util_str(t.p, t.n), &none);
    ldc_conf_text(r, s, LDC_KEY_routes, LDC_S("*"), &none);
    ldc_text_free(&t);
}

/* "[group.]key=value" over everything; without a group a group key is a default for all, and
   replaces what the groups say. */
static void ldc_conf_override(ldc_reader *r, const char *word) {
    ldc_file *f = (ldc_file *)ldc_conf_take(r, sizeof *f);
    ldc_origin at = {0};
    ldc_str s = ldc_util_z(word), name, value;
    const char *equals = strchr(word, '='), *dot;
    ldc_section *section = r->conf->globals;
    char hint[128];
    int id = -1;
    if (r->memory) return;
    f->name = ldc_conf_option;
    f->text = word;
    f->n = s.n;
    at.file = f;
    if (equals == NULL) {
        ldc_conf_fail(r, &at, "write -o [group.]key=value", "no value in `%s`", word);
        return;
    }
    name = ldc_util_trim(ldc_util_str(word, (size_t)(equals - word)));
    value = ldc_util_trim(ldc_util_z(equals + 1));
    dot = (const char *)memchr(name.p, '.', name.n);
    if (dot) {
        ldc_str group = ldc_util_str(name.p, (size_t)(dot - name.p));
        section = ldc_conf_find(r->conf, group);
        if (section == NULL) {
            ldc_conf_fail(r, &at, "name a group of the file", "no group [%.*s]",
                          LDC_STR_ARG(group));
            return;
        }
        name = ldc_util_cut(name, group.n + 1);
    }
    if (ldc_conf_key(name, &id) == NULL) {
        ldc_conf_suggest(name, hint, sizeof hint);
        ldc_conf_fail(r, &at, hint, "unknown key `%.*s`", LDC_STR_ARG(name));
        return;
    }
    if ((dot != NULL) != (ldc_conf_keys[id].scope == LDC_SCOPE_GROUP) &&
        (dot || ldc_conf_own_only(id))) {
        ldc_conf_fail(r, &at, dot ? "drop the group" : "name its group: -o group.key=value",
                      "`%.*s` does not belong there", LDC_STR_ARG(name));
        return;
    }
    memset(&section->said[id], 0, sizeof section->said[id]);
    for (ldc_section *g = r->conf->sections;
         g && dot == NULL && ldc_conf_keys[id].scope == LDC_SCOPE_GROUP; g = g->next)
        memset(&g->said[id], 0, sizeof g->said[id]);
    ldc_conf_text(r, section, id, value, &at);
}

/* --- checks: from sections to an ldc_conf --- */

static bool ldc_conf_same_name(const char *a, const char *b) {
    size_t n = strcspn(a, "=");
    return n == strcspn(b, "=") && memcmp(a, b, n) == 0;
}

/* env of the defaults joins that of the group, but for the names that the group sets itself. */
static void ldc_conf_merge(ldc_reader *r, ldc_section *g, const ldc_setting *above) {
    ldc_setting *s = &g->said[LDC_KEY_env], own = *s;
    const char **word =
        (const char **)ldc_conf_take(r, (size_t)(own.words + above->words + 1) * sizeof *word);
    ldc_origin *at =
        (ldc_origin *)ldc_conf_take(r, (size_t)(own.words + above->words + 1) * sizeof *at);
    if (r->memory) return;
    s->words = 0;
    for (int i = 0; i < above->words + own.words; i++) {
        const ldc_setting *from = i < above->words ? above : &own;
        int k = i < above->words ? i : i - above->words;
        bool again = false;
        for (int j = 0; from == above && j < own.words; j++)
            again = again || ldc_conf_same_name(own.word[j], above->word[k]);
        if (again) continue;
        word[s->words] = from->word[k];
        at[s->words++] = from->word_at[k];
    }
    s->word = word;
    s->word_at = at;
    memcpy(ldc_conf_field(g, &ldc_conf_keys[LDC_KEY_env]), &word, sizeof word);
}

static bool ldc_conf_off(const ldc_setting *s) { /* a list that is not there, or `none` */
    return s->words == 0 || (s->words == 1 && strcmp(s->word[0], "none") == 0);
}

/* Why workers of such a source cannot have what `s` says of the key; NULL: they can. In a group it is
   an error, and a default for all groups is none for this one. */
static const char *ldc_conf_apart(const ldc_section *s, int id, bool dial, bool own) {
    static const char one[] = "does not go with `dial_in`: each connection takes one request";
    const ldcorn_group_desc *d = s->group;
    if (id == LDC_KEY_max_req_per_worker) return dial && d->max_req_per_worker > 0 ? one : NULL;
    if (id == LDC_KEY_max_tunnels_per_worker)
        return dial && d->max_tunnels_per_worker > 0 ? one : NULL;
    if (id == LDC_KEY_health_path) return dial && !ldc_conf_off(&s->said[id]) ? one : NULL;
    if (id == LDC_KEY_balance && dial && ldc_util_is(ldc_util_z(d->balance), "hash"))
        return "of hash does not go with `dial_in`: its workers have no index";
    if (id == LDC_KEY_on_timeout && !own && ldc_util_is(ldc_util_z(d->on_timeout), "restart"))
        return "of restart needs processes of our own";
    if (id == LDC_KEY_watch && !own && !ldc_conf_off(&s->said[id]))
        return "restarts processes of our own, and the group has none";
    return NULL;
}

/* A group takes over from above what it does not say; of "what to run" all or nothing, but a
   cmd keeps the app of the defaults. */
static void ldc_conf_inherit(ldc_reader *r, ldc_section *g) {
    const ldc_section *d = r->conf->globals;
    bool runs = false, dial = g->said[LDC_KEY_dial_in].set, own;
    for (int id = 0; id < LDC_KEY_COUNT; id++)
        runs = runs || (ldc_conf_what(id) && g->said[id].set);
    own = !dial && !(runs ? g : d)->said[LDC_KEY_upstream].set;
    for (int id = 0; id < LDC_KEY_COUNT; id++) {
        const ldc_key *k = &ldc_conf_keys[id];
        bool templ = id == LDC_KEY_cmd && g->said[LDC_KEY_app].set &&
                     !g->said[LDC_KEY_upstream].set && !g->said[LDC_KEY_function].set &&
                     !g->said[LDC_KEY_dial_in].set && d->group->cmd &&
                     strstr(d->group->cmd, "{app}");
        if (k->scope != LDC_SCOPE_GROUP || !d->said[id].set) continue;
        if (ldc_conf_what(id) && runs && !(id == LDC_KEY_app && g->said[LDC_KEY_cmd].set) && !templ)
            continue;
        if (id == LDC_KEY_env && g->said[id].set) ldc_conf_merge(r, g, &d->said[id]);
        if (g->said[id].set || ldc_conf_apart(d, id, dial, own)) continue;
        g->said[id] = d->said[id];
        memcpy(ldc_conf_field(g, k), (const char *)d->group + k->offset, ldc_conf_width(k));
    }
}

/* Puts the default of the table where nothing was said, and numbers into force. */
static void ldc_conf_defaults(ldc_reader *r, ldc_section *s, int scope) {
    for (int id = 0; id < LDC_KEY_COUNT; id++) {
        const ldc_key *k = &ldc_conf_keys[id];
        int64_t *number = (int64_t *)ldc_conf_field(s, k);
        if (k->scope != scope) continue;
        if (!s->said[id].set && k->def[0]) {
            ldc_origin none = {0};
            ldc_conf_text(r, s, id, ldc_util_z(k->def), &none);
            s->said[id].set = false;
        }
        if (k->type <= LDC_SIZE && *number == LDCORN_ZERO)
            *number = 0;
        else if (k->type <= LDC_SIZE && *number == 0)
            *number = LDCORN_ZERO; /* computed below */
    }
}

static void ldc_conf_sane(ldc_reader *r, ldc_section *s, int scope);

static const ldc_origin *ldc_conf_at(const ldc_section *s, int id) {
    return s->said[id].set ? &s->said[id].at : &s->at;
}

static void ldc_conf_range(ldc_reader *r, ldc_section *s, int id, int64_t low, int64_t high) {
    const ldc_key *k = &ldc_conf_keys[id];
    int64_t v;
    char hint[96];
    memcpy(&v, ldc_conf_field(s, k), sizeof v);
    if (v == LDCORN_ZERO || (v >= low && v <= high)) return;
    snprintf(hint, sizeof hint, "write %lld to %lld", (long long)low, (long long)high);
    if (v == LDCORN_NONE)
        ldc_conf_fail(r, ldc_conf_at(s, id), hint, "`%s` cannot be none", k->name);
    else
        ldc_conf_fail(r, ldc_conf_at(s, id), hint, "`%s` is out of range", k->name);
}

/* Numbers that no key may have, from a desc above all, whose fields come as they are. Ten years are
   enough for anything, and a sum of them with the time fits. */
static void ldc_conf_sane(ldc_reader *r, ldc_section *s, int scope) {
    for (int id = 0; id < LDC_KEY_COUNT; id++) {
        const ldc_key *k = &ldc_conf_keys[id];
        int64_t v, most = k->type == LDC_DURATION ? (int64_t)3650 * 86400000
                          : k->type == LDC_SIZE   ? (int64_t)1 << 50
                                                  : (int64_t)1 << 31;
        if (k->scope != scope || k->type > LDC_SIZE || !s->said[id].set) continue;
        memcpy(&v, ldc_conf_field(s, k), sizeof v);
        if ((v >= LDCORN_NONE && v <= most) || (id == LDC_KEY_workers && v == LDCORN_AUTO))
            continue;
        ldc_conf_fail(r, ldc_conf_at(s, id),
                      k->type == LDC_DURATION ? "write 0 to 3650 days, or none" : "write less",
                      "`%s` is out of range", k->name);
        v = LDCORN_ZERO; /* said once */
        memcpy(ldc_conf_field(s, k), &v, sizeof v);
    }
}

/* The place of `value` in `known`. */
static int ldc_conf_choose(ldc_reader *r, ldc_section *s, int id, const char *value,
                           const char *known) {
    ldc_str rest = ldc_util_z(known), one;
    for (int n = 0; ldc_util_element(&rest, &one); n++) {
        if (ldc_util_is(one, value)) return n;
    }
    ldc_conf_fail(r, ldc_conf_at(s, id), known, "`%s` cannot be `%s`", ldc_conf_keys[id].name,
                  value);
    return 0;
}

/* host:port, [v6]:port, :port, unix:path into a socket address. NULL or what to do. */
static const char *ldc_conf_address(ldc_addr *a, const char *text) {
    ldc_str s = ldc_util_z(text), host;
    const char *colon = strrchr(text, ':');
    char name[64];
    uint64_t port;
    memset(&a->u, 0, sizeof a->u);
    a->text = text;
    if (ldc_util_starts(s, "unix:")) {
        s = ldc_util_cut(s, 5);
        if (s.n == 0 || s.n >= sizeof a->u.un.sun_path)
            return "a unix socket path has 1 to 107 bytes";
        a->u.un.sun_family = AF_UNIX;
        memcpy(a->u.un.sun_path, s.p, s.n);
        a->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + s.n + 1);
        return NULL;
    }
    if (colon == NULL) return "write host:port, [v6]:port, :port or unix:path";
    host = ldc_util_str(text, (size_t)(colon - text));
    if (!ldc_util_number(ldc_util_z(colon + 1), 65535, &port))
        return "a port is a number up to 65535";
    if (host.n >= sizeof name) return "write an address, not a name";
    if (host.n > 1 && host.p[0] == '[' && host.p[host.n - 1] == ']') {
        host = ldc_util_str(host.p + 1, host.n - 2);
        a->u.v6.sin6_family = AF_INET6;
        a->u.v6.sin6_port = htons((uint16_t)port);
        a->len = sizeof a->u.v6;
    } else {
        if (host.n == 0) host = LDC_S("0.0.0.0");
        if (ldc_util_is(host, "localhost")) host = LDC_S("127.0.0.1");
        a->u.v4.sin_family = AF_INET;
        a->u.v4.sin_port = htons((uint16_t)port);
        a->len = sizeof a->u.v4;
    }
    snprintf(name, sizeof name, "%.*s", LDC_STR_ARG(host));
    if (inet_pton(a->u.any.sa_family, name,
                  a->u.any.sa_family == AF_INET ? (void *)&a->u.v4.sin_addr
                                                : (void *)&a->u.v6.sin6_addr) == 1)
        return NULL;
    return "write a numeric address";
}

static bool ldc_conf_port_0(const ldc_addr *a) {
    return (a->u.any.sa_family == AF_INET && a->u.v4.sin_port == 0) ||
           (a->u.any.sa_family == AF_INET6 && a->u.v6.sin6_port == 0);
}

/* host.name:port, for getaddrinfo. All digits and dots would be a mistyped address. */
static bool ldc_conf_named(ldc_addr *a, const char *text) {
    const char *colon = strrchr(text, ':');
    ldc_str host = ldc_util_str(text, colon ? (size_t)(colon - text) : 0);
    uint64_t port;
    bool letter = false;
    for (size_t i = 0; i < host.n; i++) {
        char c = host.p[i];
        letter = letter || isalpha((unsigned char)c);
        if (!isalnum((unsigned char)c) && c != '.' && c != '-' && c != '_') return false;
    }
    memset(&a->u, 0, sizeof a->u);
    a->u.any.sa_family = AF_UNSPEC;
    a->text = text;
    return letter && host.n < 254 && ldc_util_number(ldc_util_z(colon + 1), 65535, &port) && port;
}

static const char *ldc_conf_mode(const char *word, int *mode) {
    char *end;
    long v = strtol(word + 5, &end, 8);
    if (*end || end == word + 5 || v < 0 || v > 0777) return "write mode=0660";
    *mode = (int)v;
    return NULL;
}

/* The group that a socket's file belongs to. */
static const char *ldc_conf_gid(const char *name, ldc_addr *a) {
    const struct group *of = getgrnam(name);
    uint64_t n = 0;
    if (of == NULL && !ldc_util_number(ldc_util_z(name), UINT32_MAX - 1, &n))
        return "there is no such group";
    a->gid = of ? of->gr_gid : (gid_t)n;
    a->grouped = true;
    return NULL;
}

/* --- listening sockets that somebody gave us --- */

/* Its address, as far as the descriptor is there: for the defaults that go by it. */
static void ldc_conf_inherited(ldc_addr *a, const char *text, int fd) {
    int listens = 0;
    socklen_t n = sizeof listens;
    memset(a, 0, sizeof *a);
    a->text = text;
    a->inherited = -1;
    a->len = sizeof a->u;
    if (fd < 3 || getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &n) < 0 || !listens) return;
    if (getsockname(fd, &a->u.any, &a->len) == 0) a->inherited = fd;
}

/* systemd gives descriptors from 3 on: LISTEN_FDS of them to process LISTEN_PID, with names. Those
   with our name, all without one, go to list[]. How many, at least one. */
static int ldc_conf_systemd(ldc_addr *list, const char *text) {
    const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS"),
               *names = getenv("LISTEN_FDNAMES"), *want = text[7] ? text + 8 : NULL;
    uint64_t n = 0, who = 0;
    int found = 0;
    if (!pid || !fds || !ldc_util_number(ldc_util_z(pid), INT32_MAX, &who) ||
        who != (uint64_t)getpid() || !ldc_util_number(ldc_util_z(fds), LDC_INHERITED, &n))
        n = 0;
    for (int fd = 3; fd < 3 + (int)n; fd++) {
        ldc_str name = ldc_util_str(names, names ? strcspn(names, ":") : 0);
        if (names) names = names[name.n] ? names + name.n + 1 : NULL;
        if (want == NULL || ldc_util_is(name, want)) ldc_conf_inherited(&list[found++], text, fd);
    }
    if (found == 0) ldc_conf_inherited(&list[found++], text, -1);
    return found;
}

/* What only `listen` takes: words behind an address, and inherited sockets. False: none of them. */
static bool ldc_conf_listen_word(const char *word, ldc_addr *list, int *count, const char **hint) {
    uint64_t fd = 0;
    bool proxy = strcmp(word, "proxy") == 0;
    if (proxy || strcmp(word, "https") == 0) {
        if (*count == 0) *hint = "write it behind an address";
        for (int i = *count; i-- > 0 && list[i].text == list[*count - 1].text;)
            *(proxy ? &list[i].proxy : &list[i].https) =
                true; /* all that one `systemd` stood for */
        return true;
    }
    if (strncmp(word, "fd:", 3) == 0) {
        if (!ldc_util_number(ldc_util_z(word + 3), LDC_INHERITED_MOST - 1, &fd) || fd < 3)
            *hint = "write fd:3, the number of an open listening socket, 3 to 1023";
        else
            ldc_conf_inherited(&list[(*count)++], word, (int)fd);
        return true;
    }
    if (strcmp(word, "systemd") != 0 && strncmp(word, "systemd:", 8) != 0) return false;
    if (word[7] && word[8] == 0)
        *hint = "write systemd, or systemd:NAME with FileDescriptorName= of the socket unit";
    else
        *count += ldc_conf_systemd(&list[*count], word);
    return true;
}

/* Address words, each with an optional mode= behind a unix one; names and the word `dynamic` where
   there is somebody to count them. */
static ldc_addr *ldc_conf_addresses(ldc_reader *r, const ldc_setting *s, const char *key,
                                    bool modes, int *count, int *names, bool *dynamic) {
    bool listen = strcmp(key, "listen") == 0;
    size_t room = (size_t)s->words * (listen ? LDC_INHERITED : 1) + 1;
    ldc_addr *list = (ldc_addr *)ldc_conf_take(r, room * sizeof *list);
    *count = 0;
    if (r->memory) return NULL;
    for (int i = 0; i < s->words; i++) {
        const char *word = s->word[i], *hint = NULL;
        char room_for[160];
        ldc_addr *a = &list[*count];
        if (dynamic && strcmp(word, "dynamic") == 0) {
            *dynamic = true;
            continue;
        }
        if (modes && *count && strncmp(word, "mode=", 5) == 0 &&
            list[*count - 1].u.any.sa_family == AF_UNIX)
            hint = ldc_conf_mode(word, &list[*count - 1].mode);
        else if (modes && *count && strncmp(word, "group=", 6) == 0 &&
                 list[*count - 1].u.any.sa_family == AF_UNIX)
            hint = ldc_conf_gid(word + 6, &list[*count - 1]);
        else if (!listen || !ldc_conf_listen_word(word, list, count, &hint)) {
            hint = ldc_conf_address(a, word);
            if (hint && names && ldc_conf_named(a, word)) hint = NULL, (*names)++;
            if (hint == NULL && names && ldc_conf_port_0(a)) hint = "a worker has a port from 1 on";
            if (hint == NULL) (*count)++;
        }
        for (; a < list + *count; a++) a->at = s->word_at[i];
        if (hint && strstr(word, "://")) {
            snprintf(room_for, sizeof room_for, "leave the scheme out: write %.*s",
                     (int)strcspn(strstr(word, "://") + 3, "/"), strstr(word, "://") + 3);
            hint = room_for;
        }
        if (hint) ldc_conf_fail(r, &s->word_at[i], hint, "`%s` does not take `%s`", key, word);
    }
    return list;
}

/* ::ffff:a.b.c.d is a.b.c.d, wherever it comes from. */
static int ldc_conf_unmapped(int family, const unsigned char **ip) {
    static const unsigned char v4[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    if (family != AF_INET6 || memcmp(*ip, v4, 12) != 0) return family;
    *ip += 12;
    return AF_INET;
}

static bool ldc_conf_cidr(const char *text, ldc_cidr *c) {
    char name[64];
    const char *slash = strchr(text, '/');
    uint64_t bits;
    size_t n = slash ? (size_t)(slash - text) : strlen(text);
    memset(c, 0, sizeof *c);
    if (strcmp(text, "unix") == 0) {
        c->family = AF_UNIX;
        return true;
    }
    if (n == 0 || n >= sizeof name) return false;
    snprintf(name, sizeof name, "%.*s", (int)n, text);
    c->family = strchr(name, ':') ? AF_INET6 : AF_INET;
    c->bits = c->family == AF_INET ? 32 : 128;
    if (inet_pton(c->family, name, c->bytes) != 1) return false;
    if (slash && !ldc_util_number(ldc_util_z(slash + 1), (uint64_t)c->bits, &bits)) return false;
    if (slash) c->bits = (int)bits;
    if (c->family == AF_INET6 && c->bits >= 96) {
        const unsigned char *ip = c->bytes;
        c->family = ldc_conf_unmapped(AF_INET6, &ip);
        if (c->family == AF_INET) c->bits -= 96;
        if (c->family == AF_INET) memmove(c->bytes, ip, 4);
    }
    return true;
}

static bool ldc_conf_within(const ldc_cidr *c, int family, const unsigned char *bytes) {
    if (c->family != family) return false;
    for (int i = 0; i < c->bits; i++) {
        unsigned bit = 0x80u >> (i & 7);
        if ((c->bytes[i >> 3] ^ bytes[i >> 3]) & bit) return false;
    }
    return true;
}

static bool ldc_conf_listed(const ldc_cidr *list, int n, int family, const unsigned char *ip) {
    family = ldc_conf_unmapped(family, &ip);
    for (int i = 0; i < n; i++) {
        if (ldc_conf_within(&list[i], family, ip)) return true;
    }
    return false;
}

static bool ldc_conf_same_addr(const ldc_addr *a, const ldc_addr *b) {
    if (a->inherited || b->inherited) return a->inherited == b->inherited;
    return a->len == b->len && memcmp(&a->u, &b->u, a->len) == 0;
}

static bool ldc_conf_loopback(const ldc_addr *a) {
    if (a->u.any.sa_family == AF_UNSPEC) return false;
    if (a->u.any.sa_family == AF_UNIX) return true;
    if (a->u.any.sa_family == AF_INET) return (ntohl(a->u.v4.sin_addr.s_addr) >> 24) == 127;
    return IN6_IS_ADDR_LOOPBACK(&a->u.v6.sin6_addr);
}

static void ldc_conf_trust(ldc_reader *r, ldc_section *s) {
    static const char *local[] = {"127.0.0.0/8", "::1", "unix"}, *nobody[] = {"none"};
    ldc_setting *said = &s->said[LDC_KEY_trusted_proxies];
    ldc_conf *c = r->conf;
    bool loopback = true;
    for (int i = 0; i < c->listens; i++) loopback = loopback && ldc_conf_loopback(&c->listen[i]);
    if (!said->set) {
        said->word = loopback ? local : nobody;
        said->words = loopback ? 3 : 1;
    }
    c->trusted = (ldc_cidr *)ldc_conf_take(r, (size_t)said->words * sizeof *c->trusted);
    if (r->memory) return;
    for (int i = 0; i < said->words; i++) {
        if (strcmp(said->word[i], "none") == 0) continue;
        if (ldc_conf_cidr(said->word[i], &c->trusted[c->trusteds]))
            c->trusteds++;
        else
            ldc_conf_fail(r, &said->word_at[i], "write 10.0.0.0/8, an address, unix or none",
                          "`trusted_proxies`: not a network: `%s`", said->word[i]);
    }
}

/* The hash of a file's path as it is written, made absolute, without . and empty parts; ldcornctl
   computes the same. */
static uint64_t ldc_conf_path_hash(const char *here, const char *file) {
    uint64_t h = 14695981039346656037ULL;
    for (int part = file[0] == '/'; part < 2; part++) {
        ldc_str rest = ldc_util_z(part ? file : here), one;
        while (rest.n) {
            const char *slash = (const char *)memchr(rest.p, '/', rest.n);
            one = ldc_util_str(rest.p, slash ? (size_t)(slash - rest.p) : rest.n);
            rest = ldc_util_cut(rest, slash ? one.n + 1 : one.n);
            if (one.n == 0 || ldc_util_is(one, ".")) continue;
            h = (h ^ '/') * LDC_UTIL_FNV_PRIME;
            h = ldc_util_fnv(one.p, one.n, h);
        }
    }
    return h;
}

/* Computed once: what nobody wrote and nobody changed stays as it is, wherever a link to the file
   may lead by now. */
static void ldc_conf_runtime_dir(ldc_reader *r, ldc_section *s) {
    char path[PATH_MAX + 64];
    const char *given = getenv("RUNTIME_DIRECTORY"), *xdg = getenv("XDG_RUNTIME_DIR");
    uint64_t h;
    if (s->global->runtime_dir) return;
    if (r->home->runtime_dir) {
        s->global->runtime_dir = ldc_conf_z(r, ldc_util_z(r->home->runtime_dir));
        return;
    }
    if (r->conf->file) {
        h = ldc_conf_path_hash(r->home->here ? r->home->here : "", r->conf->file);
    } else {
        uint64_t own[3]; /* two instances without a file may live in one process */
        own[0] = (uint64_t)getpid();
        own[1] = (uint64_t)(uintptr_t)r->home;
        own[2] = ldc_util_now();
        h = ldc_util_fnv(own, sizeof own, 14695981039346656037ULL);
    }
    if (given && given[0])
        snprintf(path, sizeof path, "%s", given);
    else if (geteuid() == 0)
        snprintf(path, sizeof path, "/run/ldcorn-%012llx", (unsigned long long)(h >> 16));
    else if (xdg && xdg[0])
        snprintf(path, sizeof path, "%s/ldcorn-%012llx", xdg, (unsigned long long)(h >> 16));
    else
        snprintf(path, sizeof path, "/tmp/ldcorn-%ld-%012llx", (long)geteuid(),
                 (unsigned long long)(h >> 16));
    s->global->runtime_dir = ldc_conf_z(r, ldc_util_z(path));
}

static void ldc_conf_admin(ldc_reader *r, ldc_section *s) {
    ldc_conf *c = r->conf;
    char text[PATH_MAX + 32];
    ldc_setting *said = &s->said[LDC_KEY_admin];
    if (said->words == 1 && strcmp(said->word[0], "off") == 0) return;
    if (said->words == 0) {
        ldc_origin none = {0};
        snprintf(text, sizeof text, "unix:%s/admin.sock", s->global->runtime_dir);
        ldc_conf_text(r, s, LDC_KEY_admin, ldc_util_z(text), &none);
        said->set = false;
    }
    c->admin = ldc_conf_addresses(r, said, "admin", true, &c->admins, NULL, NULL);
    for (int i = 0; i < c->admins; i++) {
        if (c->admin[i].mode == 0) c->admin[i].mode = 0600;
        for (int j = 0; j < i; j++) {
            if (ldc_conf_same_addr(&c->admin[i], &c->admin[j]))
                ldc_conf_fail(r, &c->admin[i].at, "keep one", "`admin` says `%s` twice",
                              c->admin[i].text);
        }
    }
}

/* name[:group] or numbers, with all groups of that name. Only root can become somebody else. */
static void ldc_conf_user(ldc_reader *r, ldc_user *u, ldc_key_id id, const ldc_origin *at,
                          const char *text) {
    ldc_str name = ldc_util_str(text, strcspn(text, ":")),
            group = ldc_util_cut(ldc_util_z(text), name.n);
    const struct passwd *who;
    const struct group *of;
    uint64_t n = 0;
    bool numeric;
    const char *z = ldc_conf_z(r, name);
    memset(u, 0, sizeof *u);
    if (group.n) group = ldc_util_cut(group, 1);
    who = getpwnam(z);
    numeric = ldc_util_number(name, UINT32_MAX - 1, &n);
    if (who == NULL && numeric) who = getpwuid((uid_t)n);
    u->set = true;
    u->uid = who ? who->pw_uid : (uid_t)n;
    u->gid = who ? who->pw_gid : (gid_t)n;
    u->name = ldc_conf_z(r, who ? ldc_util_z(who->pw_name) : name);
    u->home = ldc_conf_z(r, who ? ldc_util_z(who->pw_dir) : LDC_S("/"));
    if (who == NULL && (!numeric || group.n == 0)) { /* a number without a name needs a group */
        ldc_conf_fail(r, at, "write name, name:group or 1000:1000", "`%s`: there is no user `%s`",
                      ldc_conf_keys[id].name, z);
        return;
    }
    of = group.n ? getgrnam(group.p) : NULL;
    if (of)
        u->gid = of->gr_gid;
    else if (group.n && ldc_util_number(group, UINT32_MAX - 1, &n))
        u->gid = (gid_t)n;
    else if (group.n || text[name.n])
        ldc_conf_fail(r, at, "write name, name:group or 1000:1000", "`%s`: there is no group `%s`",
                      ldc_conf_keys[id].name, group.p);
    u->groups = (gid_t *)ldc_conf_take(r, LDC_USER_GROUPS * sizeof *u->groups);
    u->n = LDC_USER_GROUPS;
    if (who == NULL || getgrouplist(u->name, (ldc_gid)u->gid, (ldc_gid *)u->groups, &u->n) < 0)
        u->n = 1;
    if (u->n == 1) u->groups[0] = u->gid;
    if (geteuid() != 0 && (u->uid != geteuid() || u->gid != getegid()))
        ldc_conf_fail(r, at, "start ldcorn as root, or remove it",
                      "`%s = %s` needs root, and this is uid %ld%s", ldc_conf_keys[id].name, text,
                      (long)geteuid(),
                      id == LDC_KEY_run_as ? "; it cannot change at a reload" : "");
    else if (geteuid() != 0)
        u->set = false; /* that is who we are */
}

static void ldc_conf_globals(ldc_reader *r) {
    ldc_section *s = r->conf->globals;
    ldcorn_desc *d = s->global;
    ldc_conf_defaults(r, s, LDC_SCOPE_GLOBAL);
    if (r->memory) return;
    ldc_conf_sane(r, s, LDC_SCOPE_GLOBAL);
    ldc_conf_range(r, s, LDC_KEY_backlog, 1, 65535);
    ldc_conf_range(r, s, LDC_KEY_max_header, 1024, 1 << 20);
    ldc_conf_range(r, s, LDC_KEY_max_conns, 1, 1 << 24);
    ldc_conf_range(r, s, LDC_KEY_buffer_memory, 1 << 20, INT64_MAX);
    ldc_conf_range(r, s, LDC_KEY_min_rate, -1, 1 << 30);
    if (s->global->ready_path &&
        (s->global->ready_path[0] != '/' || strchr(s->global->ready_path, '?') ||
         !ldc_http_all(ldc_util_z(s->global->ready_path), LDC_CHAR_TARGET)))
        ldc_conf_fail(r, ldc_conf_at(s, LDC_KEY_ready_path), "write /path",
                      "`ready_path` does not take `%s`", s->global->ready_path);
    ldc_conf_choose(r, s, LDC_KEY_log_format, d->log_format, "text, json");
    ldc_conf_choose(r, s, LDC_KEY_log_level, d->log_level, "error, warn, info, debug");
    if (d->run_as)
        ldc_conf_user(r, &r->conf->run_as, LDC_KEY_run_as, ldc_conf_at(s, LDC_KEY_run_as),
                      d->run_as);
    if (r->memory) return;
    if (d->lame_duck > 0 && d->shutdown_timeout >= 0 && d->lame_duck >= d->shutdown_timeout)
        ldc_conf_fail(r, ldc_conf_at(s, LDC_KEY_lame_duck), "make shutdown_timeout longer",
                      "`lame_duck` leaves nothing of `shutdown_timeout`, which contains it");
    r->conf->listen = ldc_conf_addresses(r, &s->said[LDC_KEY_listen], "listen", true,
                                         &r->conf->listens, NULL, NULL);
    if (r->memory) return;
    for (int i = 1; i < r->conf->listens; i++) {
        const ldc_addr *a = &r->conf->listen[i];
        for (int j = 0; j < i && a->inherited >= 0; j++) {
            if (!ldc_conf_same_addr(&r->conf->listen[j], a) || a->text == a[-1].text) continue;
            ldc_conf_fail(r, &a->at, "keep one, with all its words", "`listen` says `%s` twice",
                          a->text);
            break;
        }
    }
    d->runtime_dir = ldc_conf_based(r, d->runtime_dir);
    d->pid_file = ldc_conf_based(r, d->pid_file);
    d->log = ldc_conf_based_log(r, d->log);
    d->access_log = ldc_conf_based_log(r, d->access_log);
    ldc_conf_runtime_dir(r, s);
    ldc_conf_admin(r, s);
    ldc_conf_trust(r, s);
    r->conf->s = *d;
}

/* What stands in braces in a command line, or in a value of `env`: its number, -1: none of these. */
static int ldc_conf_placeholder(const char *p) {
    static const char *const names[] = {"{socket}", "{port}",  "{fd}",        "{app}",
                                        "{group}",  "{index}", "{generation}"};
    for (size_t i = 0; i < LDC_LEN(names); i++) {
        if (strncmp(p, names[i], strlen(names[i])) == 0) return (int)i;
    }
    return -1;
}

/* The bits of {socket}, {port} and {fd} that a word has. In `env`, where JSON may stand, other braces
   are only braces. */
static int ldc_conf_says(ldc_reader *r, const ldc_gconf *g, const char *word, const ldc_origin *at,
                         bool env) {
    int seen = 0;
    for (const char *p = strchr(word, '{'); p; p = strchr(p, '{')) {
        int i = ldc_conf_placeholder(p);
        if (p[1] == '{' && (!env || ldc_conf_placeholder(p + 1) >= 0)) {
            p += 2;
            continue;
        }
        if (i < 0 && !env) {
            ldc_conf_fail(r, at,
                          "{socket} {port} {fd} {app} {group} {index} {generation}; a brace is {{",
                          "unknown placeholder in `%s`", word);
            return seen;
        }
        if (i >= 0 && i < 3) seen |= 1 << i;
        if (i == 3 && g->s.app == NULL)
            ldc_conf_fail(r, at, "add `app = ...`", "{app} has no value");
        p++;
    }
    return seen;
}

static void ldc_conf_transport(ldc_reader *r, ldc_section *s, ldc_gconf *g) {
    const ldc_setting *env = &s->said[LDC_KEY_env];
    int seen = 0;
    const ldc_origin *at = ldc_conf_at(s, s->said[LDC_KEY_cmd].set ? LDC_KEY_cmd : LDC_KEY_app);
    for (char **word = g->argv; *word; word++) seen |= ldc_conf_says(r, g, *word, at, false);
    for (int i = 0; i < env->words; i++)
        seen |= ldc_conf_says(r, g, env->word[i], &env->word_at[i], true);
    g->transport = seen & 1 ? LDC_BY_SOCKET : seen & 2 ? LDC_BY_PORT : LDC_BY_FD;
    if (seen != 1 && seen != 2 && seen != 4)
        ldc_conf_fail(r, at,
                      "write one of {socket}, {port}, {fd} where the server is told to listen, or "
                      "env = PORT={port}",
                      seen ? "more than one transport in the command"
                           : "the command of [%s] does not say where to listen",
                      g->name);
}

/* Whoever dials in sees requests: only our own machine unless dial_allow says so. */
static void ldc_conf_dial(ldc_reader *r, ldc_section *s, ldc_gconf *g) {
    const ldc_setting *said = &s->said[LDC_KEY_dial_in];
    int n = 0;
    ldc_addr *a = ldc_conf_addresses(r, said, "dial_in", true, &n, NULL, NULL);
    g->source = LDC_FROM_DIAL;
    if (r->memory || n == 0) return;
    if (n > 1) ldc_conf_fail(r, &a[1].at, "keep one", "`dial_in` takes one address");
    g->dial = a[0];
    if (g->dial.mode == 0) g->dial.mode = 0600;
    if (!s->said[LDC_KEY_workers].set) g->s.workers = s->group->workers = 1024;
    if (!ldc_conf_loopback(&g->dial) && s->said[LDC_KEY_dial_allow].words == 0)
        ldc_conf_fail(r, &g->dial.at, "write dial_allow = 10.0.0.0/8, the networks of the workers",
                      "`dial_in = %s` needs `dial_allow`: whoever dials in sees requests",
                      g->dial.text);
}

/* Two groups cannot wait for workers at one address. */
static void ldc_conf_dials(ldc_reader *r) {
    for (int i = 0; i < r->conf->groups; i++) {
        const ldc_gconf *a = &r->conf->group[i];
        for (int j = 0; j < i && a->source == LDC_FROM_DIAL; j++) {
            const ldc_gconf *b = &r->conf->group[j];
            if (b->source == LDC_FROM_DIAL && ldc_conf_same_addr(&a->dial, &b->dial))
                ldc_conf_fail(r, &a->dial.at, "give each group its own",
                              "[%s] dials in at `%s` too", b->name, a->dial.text);
        }
    }
}

/* Two kinds of workers in one group: the second one written is too much. */
static void ldc_conf_twofold(ldc_reader *r, const ldc_section *s) {
    int first = -1, second = -1;
    for (int id = 0; id < LDC_KEY_COUNT; id++) {
        if (!ldc_conf_what(id) || !s->said[id].set || (id == LDC_KEY_app && s->group->cmd))
            continue;
        if (first < 0 || s->said[id].at.line < s->said[first].at.line)
            second = first, first = id;
        else if (second < 0 || s->said[id].at.line < s->said[second].at.line)
            second = id;
    }
    if (second < 0) second = first;
    if (s->said[first].at.line)
        ldc_conf_fail(r, &s->said[second].key_at, "keep one of the two, or make two groups",
                      "[%s] says twice what to run: first `%s` in line %d", s->name,
                      ldc_conf_keys[first].name, s->said[first].at.line);
    else
        ldc_conf_fail(r, &s->said[second].at, "keep one of the two, or make two groups",
                      "[%s] says twice what to run: `%s` and `%s`", s->name,
                      ldc_conf_keys[first].name, ldc_conf_keys[second].name);
}

/* What only a shell would understand, and what to write here, maybe in `room`. NULL: it may stand. */
static const char *ldc_conf_habit(const char *word, bool program, char room[160]) {
    static const struct {
        const char *word, *hint;
        bool program;
    } habits[] = {{"cd", "write dir = PATH", true},
                  {"source", "write the path of the program: venv/bin/uvicorn ...", true},
                  {".", "write the path of the program: venv/bin/uvicorn ...", true},
                  {"exec", "leave it out: there is no shell to be replaced", true},
                  {"export", "write env = NAME=value", true},
                  {"ulimit", "write prlimit in front of the program", true},
                  {"2>&1", "leave it out: both are in worker_log", false},
                  {"|", "write sh -c '...' if it has to be", false},
                  {"&", "leave it out: workers stay in the foreground", false},
                  {"&&", "write sh -c '... && exec ...'", false},
                  {"||", "write sh -c '...'", false},
                  {";", "write sh -c '...; exec ...'", false}};
    for (size_t i = 0; i < LDC_LEN(habits); i++) {
        if (strcmp(word, habits[i].word) == 0 && (program || !habits[i].program))
            return habits[i].hint;
    }
    if (word[0] == '>' || (word[0] == '2' && word[1] == '>')) return "write worker_log = PATH";
    if (word[0] == '<') return "write sh -c 'exec ... < FILE'";
    if (strstr(word, "$(") || strchr(word, '`')) return "write sh -c 'exec ...'";
    if (word[0] && word[strlen(word) - 1] == ';') return "write sh -c '...; exec ...'";
    if (word[0] == '~' && (program || word[1] == 0 || word[1] == '/'))
        return "write the whole path, or ${HOME}/...";
    if (word[0] == '$' && isalpha((unsigned char)word[1])) {
        size_t n = 1;
        while (isalnum((unsigned char)word[n]) || word[n] == '_') n++;
        snprintf(room, 160, "write ${%.*s}%.60s", (int)n - 1, word + 1, word + n);
        return room;
    }
    if (program && (isalpha((unsigned char)word[0]) || word[0] == '_')) {
        size_t n = 1;
        while (isalnum((unsigned char)word[n]) || word[n] == '_') n++;
        if (word[n] == '=') return "write env = NAME=value, a line of its own";
    }
    return NULL;
}

/* A command line is split as a shell does it, but no shell runs it. True: it cannot work. */
static bool ldc_conf_shell(ldc_reader *r, char *const *argv, const ldc_origin *at) {
    bool script = argv[0] && argv[1] && strcmp(argv[1], "-c") == 0;
    char room[160];
    for (int i = 0; argv[i] && !script; i++) {
        const char *hint = r->quoted[i] ? NULL : ldc_conf_habit(argv[i], i == 0, room);
        if (hint == NULL) continue;
        if (i == 0) {
            ldc_conf_fail(r, at, hint, "no shell runs `cmd`, and `%s` is no program", argv[i]);
            return true;
        }
        ldc_conf_warn(r, at, hint, "no shell runs `cmd`: the program gets `%s` as it stands",
                      argv[i]);
    }
    return false;
}

static void ldc_conf_runs(ldc_reader *r, ldc_section *s, ldc_gconf *g, const ldcorn_desc *desc) {
    int n = (s->group->cmd || s->group->app) + (s->group->function != NULL) +
            (s->said[LDC_KEY_upstream].words > 0) + (s->said[LDC_KEY_dial_in].words > 0);
    if (n > 1) {
        ldc_conf_twofold(r, s);
        return;
    }
    if (n == 0) {
        ldc_conf_fail(r, &s->at, "one of cmd, app, function, upstream, dial_in",
                      "[%s] does not say what to run", g->name);
        return;
    }
    if (s->said[LDC_KEY_dial_in].words) {
        ldc_conf_dial(r, s, g);
        return;
    }
    if (s->said[LDC_KEY_upstream].words) {
        g->source = LDC_FROM_LIST;
        g->addr = ldc_conf_addresses(r, &s->said[LDC_KEY_upstream], "upstream", false, &g->addrs,
                                     &g->names, &g->dynamic);
        return;
    }
    if (s->group->function) {
        for (int i = 0; i < desc->function_count; i++) {
            if (strcmp(desc->functions[i].name, s->group->function) == 0)
                g->function = &desc->functions[i];
        }
        g->transport = LDC_BY_FD;
        if (g->function == NULL)
            ldc_conf_fail(r, ldc_conf_at(s, LDC_KEY_function),
                          "the program registers functions by name", "there is no function `%s`",
                          s->group->function);
        return;
    }
    g->argv = ldc_conf_split(
        r, s->group->cmd ? s->group->cmd : "uvicorn {app} --uds {socket} --log-level warning",
        ldc_conf_at(s, LDC_KEY_cmd));
    if (g->argv && g->argv[0] == NULL)
        ldc_conf_fail(r, ldc_conf_at(s, LDC_KEY_cmd), "write the program and its arguments",
                      "`cmd` is empty");
    else if (g->argv && s->group->cmd && ldc_conf_shell(r, g->argv, ldc_conf_at(s, LDC_KEY_cmd)))
        return;
    else if (g->argv)
        ldc_conf_transport(r, s, g);
}

static void ldc_conf_networks(ldc_reader *r, ldc_section *s, int id, ldc_cidrs *out) {
    const ldc_setting *said = &s->said[id];
    if (said->words == 0) return;
    out->p = (ldc_cidr *)ldc_conf_take(r, (size_t)said->words * sizeof *out->p);
    for (int i = 0; i < said->words && out->p; i++) {
        if (strcmp(said->word[i], "any") == 0 || strcmp(said->word[i], "none") == 0) continue;
        if (ldc_conf_cidr(said->word[i], &out->p[out->n]))
            out->n++;
        else
            ldc_conf_fail(r, &said->word_at[i], "write 10.0.0.0/8, an address or unix",
                          "`%s`: not a network: `%s`", ldc_conf_keys[id].name, said->word[i]);
    }
}

/* 10/s burst=20 key=header:X-Api-Key */
static void ldc_conf_rate(ldc_reader *r, const ldc_setting *said, ldc_rate *rate) {
    for (int i = 0; i < said->words; i++) {
        const char *word = said->word[i], *slash = strchr(word, '/');
        bool ok = true;
        uint64_t n = 0;
        if (strncmp(word, "burst=", 6) == 0) {
            ok = ldc_util_number(ldc_util_z(word + 6), 1000000, &rate->burst) && rate->burst > 0;
        } else if (strncmp(word, "key=header:", 11) == 0) {
            rate->header = word + 11;
            ok = ldc_http_token(ldc_util_z(word + 11));
        } else if (slash &&
                   ldc_util_number(ldc_util_str(word, (size_t)(slash - word)), 1000000, &n)) {
            ok = n > 0 && rate->each == 0 && (strcmp(slash, "/s") == 0 || strcmp(slash, "/m") == 0);
            if (ok) rate->each = (slash[1] == 's' ? 1000000 : 60000000) / n;
        } else {
            ok = strcmp(word, "key=addr") == 0 || strcmp(word, "none") == 0;
        }
        if (!ok)
            ldc_conf_fail(r, &said->word_at[i],
                          "write 10/s or 600/m, burst=N, key=addr or key=header:NAME",
                          "`rate` does not take `%s`", word);
    }
    if (said->words && rate->each == 0 && (rate->burst || rate->header))
        ldc_conf_fail(r, &said->at, "write 10/s or 600/m first", "`rate` without a rate");
    if (rate->each && rate->burst == 0)
        rate->burst = rate->each < 1000000 ? 1000000 / rate->each : 1;
}

/* a.com or *.a.com, without a port: which port a client used says nothing. */
static void ldc_conf_hosts(ldc_reader *r, const ldc_setting *said) {
    for (int i = 0; i < said->words; i++) {
        ldc_str name = ldc_util_z(said->word[i]);
        if (ldc_util_starts(name, "*.")) name = ldc_util_cut(name, 2);
        if (name.n && !strchr(name.p, '*') && (name.p[0] == '[' || !strchr(name.p, ':')) &&
            ldc_http_host(name))
            continue;
        ldc_conf_fail(r, &said->word_at[i], "write a.com or *.a.com, without a port",
                      "`hosts` does not take `%s`", said->word[i]);
    }
}

/* header:N[=V] and its kin. Of the two keys only `match` compares with a value. */
static bool ldc_conf_term(ldc_str word, bool match, ldc_term *t) {
    static const char *const kinds[] = {"addr", "header:", "cookie:", "query:", "method:", "path:"};
    const char *equals;
    uint64_t n;
    size_t k = 0;
    memset(t, 0, sizeof *t);
    if (!match && ldc_util_is(word, kinds[0])) return true;
    for (k = 1; k < LDC_LEN(kinds) && !ldc_util_starts(word, kinds[k]); k++) continue;
    if (k == LDC_LEN(kinds)) return false;
    t->by = (ldc_by)k;
    word = ldc_util_cut(word, strlen(kinds[k]));
    equals = t->by == LDC_BY_METHOD ? NULL : (const char *)memchr(word.p, '=', word.n);
    t->any = equals == NULL && t->by != LDC_BY_METHOD;
    t->name = equals ? ldc_util_str(word.p, (size_t)(equals - word.p)) : word;
    if (equals) t->value = ldc_util_cut(word, t->name.n + 1);
    if (t->by == LDC_BY_METHOD) t->value = word;
    if (t->by == LDC_BY_PATH) {
        if (!ldc_util_number(t->name, 100, &n) || n == 0) return false;
        t->n = (int)n;
    }
    if (match ? t->by == LDC_BY_PATH : t->by == LDC_BY_METHOD || equals) return false;
    return t->by == LDC_BY_QUERY || t->by == LDC_BY_PATH ? t->name.n > 0 : ldc_http_token(t->name);
}

static void ldc_conf_terms(ldc_reader *r, const ldc_setting *said, const char *key, bool match,
                           ldc_terms *out) {
    if (said->words == 0) return;
    out->p = (ldc_term *)ldc_conf_take(r, (size_t)said->words * sizeof *out->p);
    for (int i = 0; i < said->words && out->p; i++) {
        if (ldc_conf_term(ldc_util_z(said->word[i]), match, &out->p[out->n]))
            out->n++;
        else
            ldc_conf_fail(r, &said->word_at[i],
                          match ? "write header:N[=V], cookie:N[=V], query:N[=V] or method:M"
                                : "write addr, header:N, cookie:N, query:N or path:N",
                          "`%s` does not take `%s`", key, said->word[i]);
    }
}

/* All conditions must hold, and a request has one method, in upper case. */
static void ldc_conf_methods(ldc_reader *r, const ldc_setting *said, const ldc_terms *terms) {
    const ldc_term *first = NULL;
    for (int i = 0; i < terms->n && terms->n == said->words; i++) {
        const ldc_term *t = &terms->p[i];
        if (t->by != LDC_BY_METHOD) continue;
        if (first && !ldc_util_same(first->value, t->value))
            ldc_conf_fail(r, &said->word_at[i], "make a group for each",
                          "`match`: no request has two methods");
        for (size_t k = 0; k < t->value.n; k++) {
            if (t->value.p[k] < 'a' || t->value.p[k] > 'z') continue;
            ldc_conf_warn(r, &said->word_at[i], "write it in upper case",
                          "`match`: methods are case-sensitive");
            break;
        }
        first = t;
    }
}

static void ldc_conf_words_of(ldc_reader *r, ldc_section *s, ldc_gconf *g) {
    const ldc_setting *health = &s->said[LDC_KEY_health_path], *log = &s->said[LDC_KEY_worker_log],
                      *env = &s->said[LDC_KEY_env];
    for (int i = 0; i < health->words; i++) {
        ldc_str word = ldc_util_z(health->word[i]);
        if (word.p[0] == '/' && word.n <= 512 && ldc_http_all(word, LDC_CHAR_TARGET))
            g->health_path = health->word[i];
        else if (ldc_util_starts(word, "host=") && ldc_http_host(ldc_util_cut(word, 5)))
            g->health_host = health->word[i] + 5;
        else if (strcmp(health->word[i], "none") != 0)
            ldc_conf_fail(r, &health->word_at[i], "write /path [host=NAME]",
                          "`health_path` does not take `%s`", health->word[i]);
    }
    if (ldc_conf_off(&s->said[LDC_KEY_watch])) {
        g->s.watch = NULL;
        s->said[LDC_KEY_watch].words = 0;
    }
    ldc_conf_networks(r, s, LDC_KEY_dial_allow, &g->dial_allow);
    ldc_conf_networks(r, s, LDC_KEY_allow, &g->allow);
    ldc_conf_networks(r, s, LDC_KEY_deny, &g->deny);
    ldc_conf_rate(r, &s->said[LDC_KEY_rate], &g->rate);
    ldc_conf_hosts(r, &s->said[LDC_KEY_hosts]);
    g->when.hosts = s->group->hosts;
    ldc_conf_terms(r, &s->said[LDC_KEY_match], "match", true, &g->when.match);
    ldc_conf_methods(r, &s->said[LDC_KEY_match], &g->when.match);
    ldc_conf_terms(r, &s->said[LDC_KEY_hash_key], "hash_key", false, &g->hash);
    g->log_path = "stderr";
    for (int i = 0; i < log->words; i++) {
        if (strcmp(log->word[i], "raw") == 0)
            g->log_raw = true;
        else
            g->log_path = ldc_conf_based_log(r, log->word[i]);
    }
    for (int i = 0; i < env->words; i++) {
        if (strchr(env->word[i], '=') == NULL || env->word[i][0] == '=')
            ldc_conf_fail(r, &env->word_at[i], "write NAME=value", "`env` does not take `%s`",
                          env->word[i]);
    }
}

/* Limits that follow from others. */
static void ldc_conf_derive(ldc_gconf *g) {
    ldcorn_group_desc *d = &g->s;
    int64_t thirty = 30000;
    bool tcp = false;
    if (d->max_req_per_worker == 0) d->max_req_per_worker = LDCORN_NONE;
    if (d->max_tunnels_per_worker == 0) d->max_tunnels_per_worker = LDCORN_NONE;
    if (d->max_req_per_client == 0) d->max_req_per_client = LDCORN_NONE;
    if (d->max_body == 0) d->max_body = LDCORN_NONE;
    if (d->run_timeout == 0) d->run_timeout = LDCORN_NONE;
    if (d->recycle_requests == 0) d->recycle_requests = LDCORN_NONE;
    if (d->recycle_after == 0) d->recycle_after = LDCORN_NONE;
    g->limited = d->max_req_per_worker != LDCORN_NONE || g->source == LDC_FROM_DIAL;
    for (int i = 0; i < g->addrs; i++) tcp = tcp || g->addr[i].u.any.sa_family != AF_UNIX;
    if (d->queue_timeout == LDCORN_ZERO)
        d->queue_timeout = d->run_timeout > thirty ? d->run_timeout : thirty;
    if (d->connect_timeout == LDCORN_ZERO) d->connect_timeout = tcp ? 5000 : 1500;
    if (d->response_timeout == LDCORN_ZERO)
        d->response_timeout = d->run_timeout > 0 ? d->run_timeout : 60000;
    if (d->drain_timeout == LDCORN_ZERO) {
        d->drain_timeout = d->response_timeout > thirty ? d->response_timeout : thirty;
        if (d->run_timeout > d->drain_timeout) d->drain_timeout = d->run_timeout;
    }
    g->stop_said = d->stop_timeout != LDCORN_ZERO;
    if (!g->stop_said) d->stop_timeout = thirty;
    if (d->queue == LDCORN_NONE) d->queue = INT32_MAX;
    if (d->retries == LDCORN_NONE) d->retries = 0;
}

static void ldc_conf_ranges(ldc_reader *r, ldc_section *s) {
    static const struct {
        int id;
        int64_t low, high;
    } ranges[] = {{LDC_KEY_workers, 1, 4096},
                  {LDC_KEY_backoff_max, 1, INT64_MAX},
                  {LDC_KEY_max_restarts, -1, 1 << 30},
                  {LDC_KEY_stop_timeout, 0, INT64_MAX},
                  {LDC_KEY_max_req_per_worker, -1, 1 << 30},
                  {LDC_KEY_max_req_per_client, -1, 1 << 30},
                  {LDC_KEY_max_tunnels_per_worker, -1, 1 << 30},
                  {LDC_KEY_recycle_requests, -1, INT64_MAX},
                  {LDC_KEY_recycle_after, -1, INT64_MAX},
                  {LDC_KEY_health_fails, 1, 1000},
                  {LDC_KEY_health_timeout, 1, INT64_MAX},
                  {LDC_KEY_queue, -1, 1 << 30},
                  {LDC_KEY_retries, -1, 100},
                  {LDC_KEY_request_buffer, 0, 1 << 29},
                  {LDC_KEY_response_buffer, 0, 1 << 29}};
    if (s->group->workers == LDCORN_AUTO) s->group->workers = ldc_util_processors();
    for (size_t i = 0; i < LDC_LEN(ranges); i++)
        ldc_conf_range(r, s, ranges[i].id, ranges[i].low, ranges[i].high);
}

/* Words that stand for one of a few ways; some defaults follow from the limit. */
static void ldc_conf_choices(ldc_reader *r, ldc_section *s, ldc_gconf *g) {
    static const ldc_choice timeouts[] = {LDC_WAIT, LDC_RESTART, LDC_CLOSE};
    static const ldc_choice aborts[] = {LDC_WAIT, LDC_CLOSE};
    static const ldc_choice reloads[] = {LDC_SWAP, LDC_ROLLING, LDC_REPLACE, LDC_OFF};
    static const ldc_choice balances[] = {LDC_LEAST, LDC_LIFO, LDC_ROUND, LDC_HASH};
    const char *usual = g->limited ? "wait" : "close";
    if (g->s.client_abort == NULL) g->s.client_abort = usual;
    if (g->s.on_timeout == NULL) g->s.on_timeout = usual;
    g->balance =
        balances[ldc_conf_choose(r, s, LDC_KEY_balance, g->s.balance, "least, lifo, round, hash")];
    g->reload =
        reloads[ldc_conf_choose(r, s, LDC_KEY_reload, g->s.reload, "swap, rolling, replace, off")];
    g->client_abort =
        aborts[ldc_conf_choose(r, s, LDC_KEY_client_abort, g->s.client_abort, "wait, close")];
    g->on_timeout = timeouts[ldc_conf_choose(r, s, LDC_KEY_on_timeout, g->s.on_timeout,
                                             "wait, restart, close")];
    if (g->s.user)
        ldc_conf_user(r, &g->user, LDC_KEY_user, ldc_conf_at(s, LDC_KEY_user), g->s.user);
#ifndef SO_PEERCRED
    if (g->user.set && g->argv && g->transport == LDC_BY_SOCKET)
        ldc_conf_fail(r, ldc_conf_at(s, LDC_KEY_user), "write {fd} or {port} in cmd",
                      "with `user` a {socket} cannot be checked on this system");
#endif
    if (g->user.set && r->conf->run_as.set)
        ldc_conf_fail(r, ldc_conf_at(s, LDC_KEY_user), "keep one of the two",
                      "`user` needs root, which `run_as` gives up");
    g->umask = -1;
    if (g->s.umask) {
        char *end;
        long v = strtol(g->s.umask, &end, 8);
        g->umask = (int)v;
        if (*end || end == g->s.umask || v < 0 || v > 0777)
            ldc_conf_fail(r, ldc_conf_at(s, LDC_KEY_umask), "write an octal number, as 027",
                          "`umask` does not take `%s`", g->s.umask);
    }
    g->stop_signal = ldc_util_signal(ldc_util_z(g->s.stop_signal));
    if (g->stop_signal == 0)
        ldc_conf_fail(r, ldc_conf_at(s, LDC_KEY_stop_signal),
                      "TERM INT QUIT HUP KILL USR1 USR2 ABRT", "`stop_signal` does not know `%s`",
                      g->s.stop_signal);
}

/* Keys that contradict each other. */
static void ldc_conf_contradictions(ldc_reader *r, ldc_section *s, const ldc_gconf *g) {
    bool own = g->source == LDC_FROM_PROCESSES, dial = g->source == LDC_FROM_DIAL;
    for (int id = 0; id < LDC_KEY_COUNT; id++) {
        const char *why = s->said[id].set ? ldc_conf_apart(s, id, dial, own) : NULL;
        const char *hint = id == LDC_KEY_on_timeout ? "write wait or close" : "remove it";
        if (why) ldc_conf_fail(r, ldc_conf_at(s, id), hint, "`%s` %s", ldc_conf_keys[id].name, why);
    }
    if (g->on_timeout == LDC_CLOSE && g->limited && own)
        ldc_conf_fail(
            r, ldc_conf_at(s, LDC_KEY_on_timeout), "write wait or restart",
            "`on_timeout = close` would break `max_req_per_worker`: a worker does not stop when its connection closes");
}

/* A key of the group itself, not of the defaults for all. */
static bool ldc_conf_own(const ldc_reader *r, const ldc_section *s, int id) {
    const ldc_setting *own = &s->said[id], *all = &r->conf->globals->said[id];
    return own->set && !(all->set && own->at.file == all->at.file && own->at.line == all->at.line);
}

/* Keys that do nothing here. */
static void ldc_conf_idle_keys(ldc_reader *r, ldc_section *s, const ldc_gconf *g) {
    static const ldc_key_id ours[] = {
        LDC_KEY_dir,         LDC_KEY_env,          LDC_KEY_user,
        LDC_KEY_umask,       LDC_KEY_worker_log,   LDC_KEY_start_timeout,
        LDC_KEY_stop_signal, LDC_KEY_stop_timeout, LDC_KEY_max_restarts};
    if (g->source == LDC_FROM_LIST && ldc_conf_own(r, s, LDC_KEY_workers))
        ldc_conf_warn(r, ldc_conf_at(s, LDC_KEY_workers), "remove it",
                      "`workers` does nothing here: each address of [%s] is one", g->name);
    for (size_t i = 0; i < LDC_LEN(ours) && g->source != LDC_FROM_PROCESSES; i++) {
        if (ldc_conf_own(r, s, (int)ours[i]))
            ldc_conf_warn(r, ldc_conf_at(s, (int)ours[i]), "remove it",
                          "`%s` is for processes of our own, and [%s] has none",
                          ldc_conf_keys[ours[i]].name, g->name);
    }
    if (!g->limited && ldc_conf_own(r, s, LDC_KEY_request_buffer))
        ldc_conf_warn(r, ldc_conf_at(s, LDC_KEY_request_buffer), "set max_req_per_worker too",
                      "`request_buffer` does nothing without `max_req_per_worker`: bodies of [%s] "
                      "stream, and servers that know no chunks (uwsgi, wsgiref) see chunked ones "
                      "as empty",
                      g->name);
    if (!g->limited && ldc_conf_own(r, s, LDC_KEY_response_buffer))
        ldc_conf_warn(r, ldc_conf_at(s, LDC_KEY_response_buffer), "set max_req_per_worker too",
                      "`response_buffer` of [%s] does nothing without `max_req_per_worker`",
                      g->name);
    if (ldc_conf_own(r, s, LDC_KEY_app) && strpbrk(g->s.app, " \t"))
        ldc_conf_warn(r, ldc_conf_at(s, LDC_KEY_app),
                      "write cmd = uvicorn {app} --uds {socket} ... for options",
                      "`app` of [%s] is one word of the command, with its blanks", g->name);
    if (ldc_conf_own(r, s, LDC_KEY_app) && g->s.cmd && !strstr(g->s.cmd, "{app}"))
        ldc_conf_warn(r, ldc_conf_at(s, LDC_KEY_app), "write {app} in cmd, or remove it",
                      "`app` of [%s] is not used: its `cmd` has no {app}", g->name);
    if (s->said[LDC_KEY_dial_allow].words && g->source != LDC_FROM_DIAL &&
        ldc_conf_own(r, s, LDC_KEY_dial_allow))
        ldc_conf_warn(r, ldc_conf_at(s, LDC_KEY_dial_allow), "remove it, or write dial_in",
                      "`dial_allow` of [%s] does nothing without `dial_in`", g->name);
}

/* Options by which servers start processes of their own, or leave the foreground. */
static void ldc_conf_server_options(ldc_reader *r, ldc_section *s, const ldc_gconf *g) {
    const char *name = g->s.cmd && g->argv ? strrchr(g->argv[0], '/') : NULL;
    char hint[96];
    bool unicorn;
    if (g->s.cmd == NULL || g->argv == NULL) return;
    name = name ? name + 1 : g->argv[0];
    unicorn = strcmp(name, "gunicorn") == 0 || strcmp(name, "hypercorn") == 0;
    for (char **word = g->argv; *word; word++) {
        const char *n = strncmp(*word, "--workers=", 10) == 0 ? *word + 10
                        : strcmp(*word, "--workers") == 0 || strcmp(*word, "--processes") == 0 ||
                                (unicorn && strcmp(*word, "-w") == 0)
                            ? word[1]
                            : NULL;
        if (strcmp(*word, "--daemon") == 0 || strcmp(*word, "--daemonize") == 0 ||
            (unicorn && strcmp(*word, "-D") == 0))
            ldc_conf_warn(r, ldc_conf_at(s, LDC_KEY_cmd),
                          "leave it out: workers stay in the foreground",
                          "`%s` in `cmd`: what goes into the background is taken for ended", *word);
        if (n == NULL || strcmp(n, "1") == 0) continue;
        snprintf(hint, sizeof hint, "write workers = %.20s, a line of its own, and none in cmd", n);
        ldc_conf_warn(r, ldc_conf_at(s, LDC_KEY_cmd), hint,
                      "`%s` in `cmd`: limits hold for each process that ldcorn starts, so let "
                      "ldcorn start them",
                      *word);
    }
}

/* Keys that do less than they seem to. */
static void ldc_conf_doubts(ldc_reader *r, ldc_section *s, const ldc_gconf *g) {
    ldc_conf_idle_keys(r, s, g);
    ldc_conf_server_options(r, s, g);
    if (s->said[LDC_KEY_hash_key].words && g->balance != LDC_HASH &&
        strcmp(s->said[LDC_KEY_hash_key].word[0], "addr") != 0)
        ldc_conf_warn(r, ldc_conf_at(s, LDC_KEY_hash_key), "write balance = hash too",
                      "`hash_key` of [%s] changes nothing", g->name);
    if (s->said[LDC_KEY_queue].set && !g->limited && s->said[LDC_KEY_queue].at.line >= 0 &&
        g->s.queue != 1024)
        ldc_conf_warn(r, ldc_conf_at(s, LDC_KEY_queue), "set max_req_per_worker too",
                      "without `max_req_per_worker` [%s] queues only while no worker is ready",
                      g->name);
    if (g->client_abort == LDC_CLOSE && g->limited)
        ldc_conf_warn(
            r, ldc_conf_at(s, LDC_KEY_client_abort), "wait is exact",
            "with `client_abort = close` the limit of [%s] is exact only if the application stops when its connection ends",
            g->name);
    if (g->source != LDC_FROM_PROCESSES && (g->s.recycle_requests > 0 || g->s.recycle_after > 0))
        ldc_conf_warn(r,
                      ldc_conf_at(s, g->s.recycle_requests > 0 ? LDC_KEY_recycle_requests
                                                               : LDC_KEY_recycle_after),
                      "remove it", "recycling restarts processes of our own, and [%s] has none",
                      g->name);
    for (int i = 0; i < s->said[LDC_KEY_watch].words; i++) {
        struct stat st;
        if (stat(s->said[LDC_KEY_watch].word[i], &st) < 0)
            ldc_conf_warn(r, &s->said[LDC_KEY_watch].word_at[i], "see where ldcorn is started",
                          "`watch`: %s: %s", s->said[LDC_KEY_watch].word[i], strerror(errno));
    }
    if (s->said[LDC_KEY_routes].words == 0 && !r->filter)
        ldc_conf_warn(r, &s->at, "add routes", "[%s] has no routes and gets no requests", g->name);
}

/* Paths of a group as they are seen from where we were started. */
static void ldc_conf_rebase(ldc_reader *r, ldc_section *s) {
    ldc_setting *watch = &s->said[LDC_KEY_watch];
    const char **word = (const char **)ldc_conf_take(r, (size_t)(watch->words + 1) * sizeof *word);
    s->group->dir = s->group->dir ? ldc_conf_based(r, s->group->dir) : r->home->base;
    if (watch->words == 0 || r->memory) return;
    for (int i = 0; i < watch->words; i++)
        word[i] = strcmp(watch->word[i], "none") == 0 ? "none" : ldc_conf_based(r, watch->word[i]);
    watch->word = word;
    s->group->watch = word;
}

static void ldc_conf_group(ldc_reader *r, ldc_section *s, ldc_gconf *g, const ldcorn_desc *desc) {
    ldc_conf_inherit(r, s);
    ldc_conf_defaults(r, s, LDC_SCOPE_GROUP);
    if (r->memory) return;
    ldc_conf_sane(r, s, LDC_SCOPE_GROUP);
    ldc_conf_ranges(r, s);
    if (r->home->base) ldc_conf_rebase(r, s);
    g->s = *s->group;
    g->name = s->name;
    g->at = s->at;
    g->cmd_at = *ldc_conf_at(s, s->said[LDC_KEY_cmd].set ? LDC_KEY_cmd : LDC_KEY_app);
    g->dir_at = *ldc_conf_at(s, LDC_KEY_dir);
    g->log_at = *ldc_conf_at(s, LDC_KEY_worker_log);
    ldc_conf_runs(r, s, g, desc);
    ldc_conf_words_of(r, s, g);
    ldc_conf_derive(g);
    ldc_conf_choices(r, s, g);
    ldc_conf_contradictions(r, s, g);
    ldc_conf_doubts(r, s, g);
}

/* --- routes --- */

static bool ldc_conf_route(ldc_route *t, const char *word) {
    size_t n = strlen(word);
    t->said = word;
    if (strcmp(word, "*") == 0) {
        t->kind = LDC_MATCH_ALL;
        t->text = ldc_util_str(word, 0);
        return true;
    }
    t->kind = word[0] == '='                ? LDC_MATCH_EXACT
              : n > 1 && word[n - 1] == '*' ? LDC_MATCH_STRING
                                            : LDC_MATCH_PREFIX;
    t->text = ldc_util_str(word + (t->kind == LDC_MATCH_EXACT), n - (t->kind != LDC_MATCH_PREFIX));
    if (t->kind == LDC_MATCH_PREFIX && t->text.n > 1 && t->text.p[t->text.n - 1] == '/')
        t->text.n--; /* /a/ is /a */
    for (size_t i = 0; i < t->text.n; i++) {
        if (t->text.p[i] == '*' || t->text.p[i] == '?' || t->text.p[i] == '#') return false;
        if (t->text.p[i] == '/' && i + 1 < t->text.n && t->text.p[i + 1] == '/') return false;
    }
    return t->text.n > 0 && t->text.p[0] == '/';
}

/* The route without encodings and dot segments, as it is matched; its mark stays. False: it has none. */
static bool ldc_conf_plain(const char *word, char *out, size_t room) {
    size_t mark = word[0] == '=', n = strlen(word), o = 0;
    bool star = n > 1 && word[n - 1] == '*', odd = false;
    ptrdiff_t size;
    if (n + 4 > room || word[mark] != '/') return false;
    for (size_t i = mark; i < n - star; i++) {
        int high = word[i] == '%' ? ldc_util_hex(word[i + 1]) : -1;
        int low = high >= 0 ? ldc_util_hex(word[i + 2]) : -1;
        if (low >= 0) i += 2, odd = true;
        out[mark + o++] = low >= 0 ? (char)(high * 16 + low) : word[i];
    }
    size = ldc_http_resolve(out + mark, o);
    odd = odd || size != (ptrdiff_t)o;
    if (mark) out[0] = '=';
    if (size < 0) size = 2, memcpy(out + mark, "/x", 2);
    snprintf(out + mark + (size_t)size, room - mark - (size_t)size, "%s", star ? "*" : "");
    return odd;
}

/* What to write for a route in the manner of another system, which no request would find; NULL: it is
   one. *never: it cannot fit at all, because the decoded path is matched, and servers resolve dots. */
static const char *ldc_conf_instead(const char *word, char room[300], bool *never) {
    const char *query = strchr(word, '?'), *pattern = strpbrk(word, "{<"),
               *comma = strchr(word, ',');
    char plain[256];
    size_t n = strlen(word);
    while (pattern && pattern > word && pattern[-1] == '$') /* written as $${: it is meant */
        pattern = strpbrk(pattern + 1, "{<");
    if (pattern == NULL && (pattern = strstr(word, "/:")) != NULL) pattern++;
    if (pattern == NULL && n > 2 && strcmp(word + n - 2, ".*") == 0) pattern = word + n - 2;
    if (pattern == NULL && (pattern = strstr(word, "*/")) != NULL) *never = true;
    if (strstr(word, "://")) return "write the path alone; the host goes to `hosts`";
    if (query) {
        snprintf(room, 300, "write %.*s, and match = query:%.*s", (int)(query - word), word,
                 (int)strcspn(query + 1, "&"), query + 1);
    } else if (comma && comma[1] == '/') {
        snprintf(room, 300, "write %.*s %.100s, with a blank", (int)(comma - word), word,
                 comma + 1);
    } else if (pattern && pattern > word + 1) {
        size_t end = (size_t)(pattern - word);
        while (end > 1 && (word[end - 1] == '/' || word[end - 1] == '*')) end--;
        snprintf(room, 300, "write %.*s: a prefix takes what is below it", (int)end, word);
    } else if (n > 2 && word[n - 1] == '$') {
        size_t from = word[0] == '^';
        snprintf(room, 300, "there are no regular expressions: write =%.*s", (int)(n - 1 - from),
                 word + from);
    } else if (n > 2 && strcmp(word + n - 2, "**") == 0) {
        snprintf(room, 300, "write %.*s", (int)n - 1, word);
    } else if (ldc_conf_plain(word, plain, sizeof plain)) {
        *never = true;
        snprintf(room, 300, "write %.200s: the decoded path is matched, without dot segments",
                 plain);
    } else {
        return NULL;
    }
    return room;
}

static int ldc_conf_conditions(const ldc_route *t) {
    return t->when ? (t->when->hosts != NULL) + t->when->match.n : 0;
}

/* The order in which routes are tried: the longest first, exact before prefix, more conditions
   before fewer, then the file. */
static int ldc_conf_route_order(const void *x, const void *y) {
    const ldc_route *a = (const ldc_route *)x, *b = (const ldc_route *)y;
    if (a->text.n != b->text.n) return a->text.n > b->text.n ? -1 : 1;
    if (a->kind != b->kind) return a->kind < b->kind ? -1 : 1;
    if (ldc_conf_conditions(a) != ldc_conf_conditions(b))
        return ldc_conf_conditions(a) > ldc_conf_conditions(b) ? -1 : 1;
    if (a->group != b->group) return a->group < b->group ? -1 : 1;
    return a->order < b->order ? -1 : a->order > b->order;
}

/* Sorted here, because qsort() hands over nothing that says whose numbers they are. Merging keeps
   the order of what says the same. */
static void ldc_conf_by_text(const ldc_route *route, int *v, int *room, int n) {
    int half = n / 2, a = 0, b = half;
    if (n < 2) return;
    ldc_conf_by_text(route, v, room, half);
    ldc_conf_by_text(route, v + half, room, n - half);
    for (int i = 0; i < n; i++) {
        bool left = b == n || (a < half && memcmp(route[v[a]].text.p, route[v[b]].text.p,
                                                  route[v[a]].text.n) <= 0);
        room[i] = left ? v[a++] : v[b++];
    }
    memcpy(v, room, (size_t)n * sizeof *v);
}

/* How a route is found: their numbers by size and text. `room` has as many. */
static void ldc_conf_route_index(ldc_conf *c, int *room) {
    c->sizes = 0;
    for (int i = 0; i < c->routes; i++) {
        ldc_size *last = &c->size[c->sizes - (c->sizes > 0)];
        if (c->sizes == 0 || last->n != c->route[i].text.n) {
            last = &c->size[c->sizes++];
            last->n = c->route[i].text.n;
            last->first = i;
        }
        last->end = i + 1;
        c->by_text[i] = i;
    }
    for (int i = 0; i < c->sizes; i++)
        ldc_conf_by_text(c->route, c->by_text + c->size[i].first, room,
                         c->size[i].end - c->size[i].first);
}

typedef struct ldc_seen { /* routes by the hash of their text: numbers from 1, 0 is free */
    int *slot;
    uint64_t mask;
} ldc_seen;

static void ldc_conf_twice(ldc_reader *r, const ldc_seen *seen, const ldc_route *t) {
    const ldc_conf *c = r->conf;
    uint64_t at = ldc_util_mix(ldc_util_fnv(t->text.p, t->text.n, (uint64_t)t->kind));
    for (; seen->slot[at & seen->mask]; at++) {
        const ldc_route *o = &c->route[seen->slot[at & seen->mask] - 1];
        bool same = ldc_conf_conditions(o) == 0 && ldc_conf_conditions(t) == 0;
        if (o->kind != t->kind || !ldc_util_same(o->text, t->text) ||
            !(same || o->group == t->group))
            continue;
        ldc_conf_warn(r, &t->at, "the first one gets its requests",
                      "route `%s` stands twice, first in line %d for [%s]", t->said, o->at.line,
                      c->group[o->group].name);
        return;
    }
    seen->slot[at & seen->mask] = c->routes + 1;
}

static void ldc_conf_routes(ldc_reader *r) {
    ldc_conf *c = r->conf;
    ldc_seen seen;
    const char *hint;
    char room[300];
    bool never;
    int n = 0, group = 0, *room_for;
    for (ldc_section *s = c->sections; s; s = s->next) n += s->said[LDC_KEY_routes].words;
    c->route = (ldc_route *)ldc_conf_take(r, (size_t)(n + 1) * sizeof *c->route);
    for (seen.mask = 1; seen.mask < (uint64_t)n * 2; seen.mask = seen.mask * 2 + 1) continue;
    seen.slot = (int *)ldc_conf_take(r, (size_t)(seen.mask + 1) * sizeof *seen.slot);
    if (r->memory) return;
    for (ldc_section *s = c->sections; s; s = s->next, group++) {
        const ldc_setting *said = &s->said[LDC_KEY_routes];
        for (int i = 0; i < said->words; i++) {
            ldc_route *t = &c->route[c->routes];
            t->group = group;
            t->order = i;
            t->at = said->word_at[i];
            never = !ldc_conf_route(t, said->word[i]);
            hint = ldc_conf_instead(said->word[i], room, &never);
            if (never) {
                ldc_conf_fail(r, &t->at, hint ? hint : "write /a, /a*, =/a or *",
                              "`routes` has what is not a route: `%s`", said->word[i]);
                continue;
            }
            if (hint) ldc_conf_warn(r, &t->at, hint, "`%s` matches these very characters", t->said);
            if (c->group[group].when.hosts || c->group[group].when.match.n)
                t->when = &c->group[group].when;
            if (s->group->strip_prefix && t->kind == LDC_MATCH_STRING)
                ldc_conf_fail(r, &t->at, "write it without the *",
                              "`strip_prefix` cannot take `%s` off a path", t->said);
            ldc_conf_twice(r, &seen, t);
            c->routes++;
        }
    }
    qsort(c->route, (size_t)c->routes, sizeof *c->route, ldc_conf_route_order);
    room_for = (int *)ldc_conf_take(r, ((size_t)c->routes + 1) * sizeof *room_for);
    c->by_text = (int *)ldc_conf_take(r, ((size_t)c->routes + 1) * sizeof *c->by_text);
    c->size = (ldc_size *)ldc_conf_take(r, ((size_t)c->routes + 1) * sizeof *c->size);
    if (!r->memory) ldc_conf_route_index(c, room_for);
}

static void ldc_conf_free(ldc_conf *c) {
    ldc_arena arena;
    if (c == NULL || --c->refs > 0) return;
    arena = c->arena; /* the conf lies in it */
    ldc_arena_free(&arena);
}

static void ldc_conf_report(ldc_reader *r, ldcorn_error *error) {
    const char *name = "ldcorn";
    const ldc_origin *first = &r->note[0].at;
    char last[512];
    size_t n, room;
    ldc_text t;
    ldc_text_init(&t, r->errors.mem);
    for (int i = 0; i < r->error_count && i < (int)LDC_LEN(r->note) && r->conf->file; i++) {
        const ldc_file *at = r->note[i].at.file; /* what -o or a desc says is no fault of a file */
        if (at == NULL || (at->text && !ldc_conf_by_option(at))) name = r->conf->file;
    }
    if (r->error_count == 0 && r->conf->file) name = r->conf->file;
    if (r->errors.failed)
        ldc_text_put(&t, r->errors.p, r->errors.n); /* as far as it came */
    else if (r->errors.n)
        ldc_conf_in_order(r, &t);
    if (t.failed || r->errors.failed) r->memory = true;
    n = t.n;
    memset(error, 0, sizeof *error);
    snprintf(last, sizeof last, "%.200s%s%.200s: %d error%s, nothing started\n",
             r->memory ? name : "", r->memory ? ": out of memory\n" : "", name, r->error_count,
             r->error_count == 1 ? "" : "s");
    room = sizeof error->text - 64 - strlen(last);
    if (n > room) { /* whole errors, as many as fit */
        for (n = room; n && (t.p[n - 1] != '\n' || t.p[n] == ' ');) n--;
        snprintf(error->text, sizeof error->text, "%.*s... and more, which do not fit here\n%s",
                 (int)n, t.p, last);
    } else {
        snprintf(error->text, sizeof error->text, "%.*s%s", (int)n, n ? t.p : "", last);
    }
    error->status = 2;
    error->line = first->line;
    error->column = first->column;
    snprintf(error->file, sizeof error->file, "%s",
             first->file && first->file->text ? first->file->name : "");
    ldc_text_free(&t);
}

/* Is there an earlier group of that name? */
static bool ldc_conf_again(const ldcorn_desc *desc, int i) {
    for (int j = 0; j < i; j++) {
        if (desc->groups[j].name && strcmp(desc->groups[j].name, desc->groups[i].name) == 0)
            return true;
    }
    return false;
}

/* Are the lists of a desc there that it counts? */
static bool ldc_conf_complete(ldc_reader *r, const ldcorn_desc *desc) {
    ldc_origin none = {0};
    bool ok = desc->group_count <= 0 || desc->groups != NULL;
    if (!ok) ldc_conf_fail(r, &none, "set it, or group_count = 0", "ldcorn_desc: `groups` is NULL");
    for (int i = 0; i < desc->function_count; i++) {
        const ldcorn_function_desc *f = desc->functions ? &desc->functions[i] : NULL;
        if (f && f->name && f->function) continue;
        ldc_conf_fail(r, &none, "each has a name and a function",
                      "ldcorn_desc: `functions` lacks number %d", i);
        return false;
    }
    return ok;
}

static void ldc_conf_sources(ldc_reader *r, const ldcorn_desc *desc) {
    ldc_origin none = {0};
    r->conf->globals = ldc_conf_section(r, NULL, &none);
    if (r->memory || !ldc_conf_complete(r, desc)) return;
    if (desc->file) ldc_conf_file(r, desc->file, &none);
    if (desc->command) ldc_conf_command(r, desc->command);
    for (int i = 0; i < desc->group_count && !r->memory; i++) {
        ldc_str name = ldc_util_z(desc->groups[i].name);
        ldc_section *s = NULL;
        if (!ldc_conf_name(name))
            ldc_conf_fail(r, &none, "letters, digits, - and _", "group %d has no valid name", i);
        else if (ldc_conf_again(desc, i))
            ldc_conf_fail(r, &none, "give it another name, or join the two",
                          "group \"%s\" stands twice in the desc", desc->groups[i].name);
        else if ((s = ldc_conf_find(r->conf, name)) == NULL) /* keys of a file win one by one */
            s = ldc_conf_add(r, name, &none);
        if (s) ldc_conf_from_desc(r, s, &desc->groups[i], LDC_SCOPE_GROUP);
    }
    if (!r->memory) ldc_conf_from_desc(r, r->conf->globals, desc, LDC_SCOPE_GLOBAL);
    for (const char *const *word = desc->set; word && *word && !r->memory; word++)
        ldc_conf_override(r, *word);
}

/* Reads everything that `desc` names. The conf with one reference, or NULL and *error. */
static ldc_conf *ldc_conf_read(ldc_mem *m, const ldcorn_desc *desc, const ldc_home *home,
                               ldcorn_error *error, ldc_text *warnings) {
    ldc_reader r;
    ldc_arena arena;
    int i = 0;
    ldc_conf fallback;
    memset(&r, 0, sizeof r);
    memset(&fallback, 0, sizeof fallback);
    arena.mem = m;
    arena.head = NULL;
    ldc_text_init(&r.errors, m);
    ldc_text_init(&r.warnings, m);
    r.conf = (ldc_conf *)ldc_arena_take(&arena, sizeof *r.conf);
    if (r.conf == NULL) {
        r.conf = &fallback;
        r.memory = true;
    }
    r.conf->arena = arena;
    r.conf->refs = 1;
    r.arena = &r.conf->arena;
    r.home = home;
    r.filter = desc->filter != NULL;
    if (!r.memory) r.conf->file = desc->file ? ldc_conf_z(&r, ldc_util_z(desc->file)) : NULL;
    if (!r.memory) ldc_conf_sources(&r, desc);
    if (!r.memory && r.conf->groups == 0 && r.error_count == 0) {
        ldc_origin at = {0};
        ldc_conf_fail(&r, &at, "add [name] with routes and what to run", "%s has no group",
                      desc->file ? desc->file : "the configuration");
    }
    if (!r.memory) ldc_conf_globals(&r);
    if (!r.memory)
        r.conf->group =
            (ldc_gconf *)ldc_conf_take(&r, (size_t)(r.conf->groups + 1) * sizeof *r.conf->group);
    for (ldc_section *s = r.conf->sections; s && !r.memory; s = s->next)
        ldc_conf_group(&r, s, &r.conf->group[i++], desc);
    if (!r.memory) ldc_conf_routes(&r);
    if (!r.memory) ldc_conf_dials(&r);
    if (r.error_count || r.memory) {
        ldc_conf_report(&r, error);
        ldc_conf_free(r.conf == &fallback ? NULL : r.conf);
        r.conf = NULL;
    } else if (warnings && r.warnings.n) {
        ldc_text_put(warnings, r.warnings.p, r.warnings.n);
    }
    ldc_text_free(&r.errors);
    ldc_text_free(&r.warnings);
    return r.conf;
}

/* --- the effective configuration, itself a valid file --- */

static void ldc_conf_dump_value(ldc_text *t, const ldc_key *k, const ldc_section *s,
                                const ldc_setting *said) {
    const char *base =
        k->scope == LDC_SCOPE_GLOBAL ? (const char *)s->global : (const char *)s->group;
    int64_t v = 0;
    const char *z = NULL;
    char text[24];
    if (k->type == LDC_WORDS) {
        for (int i = 0; i < said->words; i++) ldc_text_fmt(t, "%s%s", i ? " " : "", said->word[i]);
    } else if (k->type == LDC_TEXT || k->type == LDC_COMMAND) {
        memcpy(&z, base + k->offset, sizeof z);
        if (z)
            ldc_text_escape(
                t, strcmp(k->name, "admin_token") == 0 ? LDC_S("(hidden)") : ldc_util_z(z), false);
    } else if (k->type == LDC_BOOL) {
        ldc_text_add(t, *(const bool *)(base + k->offset) ? "on" : "off");
    } else {
        memcpy(&v, base + k->offset, sizeof v);
        if (v == LDCORN_NONE)
            ldc_text_add(t, "none");
        else if (v == LDCORN_ZERO || v == 0)
            ldc_text_add(t, "0");
        else if (k->type == LDC_DURATION && v < 60000 && v % 1000)
            ldc_text_fmt(t, "%dms", (int)v);
        else if (k->type == LDC_DURATION)
            ldc_text_add(t, ldc_util_span((uint64_t)v, text));
        else if (k->type == LDC_SIZE)
            ldc_text_add(t, ldc_util_size((uint64_t)v, text));
        else
            ldc_text_fmt(t, "%lld", (long long)v);
    }
}

static void ldc_conf_dump_keys(ldc_text *t, ldc_section *s, int scope) {
    for (int id = 0; id < LDC_KEY_COUNT; id++) {
        const ldc_key *k = &ldc_conf_keys[id];
        ldc_setting *said = &s->said[id];
        ldc_text v;
        if (k->scope != scope) continue;
        ldc_text_init(&v, t->mem);
        ldc_conf_dump_value(&v, k, s, said);
        if (said->at.file && said->at.line)
            ldc_text_fmt(t, "# %s:%d\n", said->at.file->name, said->at.line);
        else if (said->at.file && said->at.file->text)
            ldc_text_fmt(t, "# %s\n", said->at.file->name);
        else if (said->set)
            ldc_text_add(t, "# given by the program\n");
        else
            ldc_text_add(t, "# default\n");
        if (v.n && !(id == LDC_KEY_max_conns && !said->set))
            ldc_text_fmt(t, "%s = %s\n", k->name, v.p);
        else
            ldc_text_fmt(t, "# %s: not set%s\n", k->name,
                         id == LDC_KEY_max_conns ? ", as many as descriptors allow" : "");
        ldc_text_free(&v);
    }
}

static void ldc_conf_dump(ldc_conf *c, ldc_text *t) {
    int i = 0;
    ldc_conf_dump_keys(t, c->globals, LDC_SCOPE_GLOBAL);
    for (ldc_section *s = c->sections; s; s = s->next, i++) {
        ldc_text_fmt(t, "\n[%s]\n", s->name);
        *s->group = c->group[i].s; /* what follows from other limits too */
        ldc_conf_dump_keys(t, s, LDC_SCOPE_GROUP);
    }
}

/* @route ------------------------------------------------------------------------------------
   Which group a path belongs to. Workers differ in what they decode, whether they resolve dots,
   merge slashes before that, or take a backslash for a slash, so the match is made on a decoded
   copy in each of these readings, and the path is refused if two of them choose different groups.
   Owns nothing. */

typedef struct ldc_reading {
    bool runs_stay, backslash; /* runs of slashes are kept; a backslash is a slash */
    bool dots, runs, back;     /* seen: maybe dot segments, runs of slashes, a backslash */
} ldc_reading;

/* Decoded copy of the path in `out` (as long as the target); its length or LDC_BAD. Of the control
   bytes only NUL is refused: names and texts of more than one line stand in paths, too. */
static ptrdiff_t ldc_route_decode(ldc_str target, char *out, ldc_reading *r) {
    size_t o = 0;
    for (size_t i = 0; i < target.n && target.p[i] != '?'; i++) {
        char c = target.p[i];
        if (c == '%') {
            int a = i + 2 < target.n ? ldc_util_hex(target.p[i + 1]) : -1;
            int b = i + 2 < target.n ? ldc_util_hex(target.p[i + 2]) : -1;
            if (a < 0 || b < 0) return LDC_BAD;
            c = (char)(a * 16 + b);
            i += 2;
        }
        if (c == 0) return LDC_BAD;
        if (c == '\\') r->back = true;
        if (c == '\\' && r->backslash) c = '/';
        if (c == '/' && o && out[o - 1] == '/') {
            r->runs = true;
            if (!r->runs_stay) continue;
        }
        if (c == '.' && o && out[o - 1] == '/') r->dots = true;
        out[o++] = c;
    }
    return (ptrdiff_t)o;
}

static size_t ldc_route_merge(char *p, size_t n) {
    size_t o = 0;
    for (size_t i = 0; i < n; i++) {
        if (p[i] != '/' || o == 0 || p[o - 1] != '/') p[o++] = p[i];
    }
    return o;
}

static bool ldc_route_fits(const ldc_route *t, ldc_str path) {
    size_t n = t->text.n;
    if (t->kind == LDC_MATCH_ALL) return true;
    if (path.n < n || memcmp(path.p, t->text.p, n) != 0) return false;
    if (t->kind == LDC_MATCH_EXACT) return path.n == n;
    return t->kind == LDC_MATCH_STRING || path.n == n || path.p[n] == '/' || n == 1;
}

/* --- what else a request is known by --- */

/* The byte at *i of a query or path, %XX decoded and, in a query, + as a blank. */
static unsigned char ldc_route_byte(ldc_str s, size_t *i, bool query) {
    char c = s.p[(*i)++];
    if (c == '+' && query) return ' ';
    if (c == '%' && *i + 1 < s.n && ldc_util_hex(s.p[*i]) >= 0 && ldc_util_hex(s.p[*i + 1]) >= 0) {
        c = (char)(ldc_util_hex(s.p[*i]) * 16 + ldc_util_hex(s.p[*i + 1]));
        *i += 2;
    }
    return (unsigned char)c;
}

static bool ldc_route_spells(ldc_str raw, ldc_str text) {
    size_t i = 0, k = 0;
    while (i < raw.n && k < text.n) {
        if (ldc_route_byte(raw, &i, true) != (unsigned char)text.p[k++]) return false;
    }
    return i == raw.n && k == text.n;
}

/* The next piece of *rest up to `mark`; false at its end. */
static bool ldc_route_piece(ldc_str *rest, char mark, ldc_str *piece) {
    const char *at = rest->n ? (const char *)memchr(rest->p, mark, rest->n) : NULL;
    if (rest->n == 0) return false;
    *piece = at ? ldc_util_str(rest->p, (size_t)(at - rest->p)) : *rest;
    *rest = ldc_util_cut(*rest, at ? piece->n + 1 : piece->n);
    return true;
}

/* name=value among the pieces of `list`: the first, or for a match any with the right value. */
static bool ldc_route_pair(ldc_str list, const ldc_term *t, ldc_str *value) {
    bool query = t->by == LDC_BY_QUERY;
    ldc_str piece;
    while (ldc_route_piece(&list, query ? '&' : ';', &piece)) {
        const char *equals;
        ldc_str name = query ? piece : ldc_util_trim(piece), v = ldc_util_str("", 0);
        equals = name.n ? (const char *)memchr(name.p, '=', name.n) : NULL;
        if (equals) {
            v = ldc_util_cut(name, (size_t)(equals - name.p) + 1);
            name.n = (size_t)(equals - name.p);
        }
        if (query ? !ldc_route_spells(name, t->name) : !ldc_util_same(name, t->name)) continue;
        *value = v;
        if (t->any || (query ? ldc_route_spells(v, t->value) : ldc_util_same(v, t->value)))
            return true;
    }
    return false;
}

static bool ldc_route_segment(ldc_str path, int n, ldc_str *value) {
    while (ldc_route_piece(&path, '/', value)) {
        if (value->n && --n == 0) return true;
    }
    return false;
}

/* Does the request have it, and what is its value as written? */
static bool ldc_route_term(const ldc_head *h, const ldc_term *t, ldc_str *value) {
    const char *mark = (const char *)memchr(h->target.p, '?', h->target.n);
    ldc_str path = h->target, query = ldc_util_str("", 0);
    if (mark) {
        path.n = (size_t)(mark - path.p);
        query = ldc_util_cut(h->target, path.n + 1);
    }
    if (t->by == LDC_BY_METHOD) return ldc_util_same(h->method, t->value);
    if (t->by == LDC_BY_PATH) return ldc_route_segment(path, t->n, value);
    if (t->by == LDC_BY_QUERY) return ldc_route_pair(query, t, value);
    for (int i = 0; i < h->count; i++) {
        ldc_str name = h->field[i].name;
        if (t->by == LDC_BY_COOKIE && ldc_util_isnocase(name, "cookie") &&
            ldc_route_pair(h->field[i].value, t, value))
            return true;
        if (t->by != LDC_BY_HEADER || name.n != t->name.n ||
            strncasecmp(name.p, t->name.p, name.n) != 0)
            continue;
        *value = h->field[i].value;
        if (t->any || ldc_util_same(*value, t->value)) return true;
    }
    return false;
}

static bool ldc_route_host(const char *const *hosts, ldc_str host) {
    size_t n = 0;
    if (host.n && host.p[0] == '[')
        while (n < host.n && host.p[n++] != ']') continue;
    else
        while (n < host.n && host.p[n] != ':') n++;
    host.n = n;
    if (n && host.p[n - 1] == '.') host.n--; /* a.com. is a.com */
    for (; *hosts; hosts++) {
        ldc_str want = ldc_util_z(*hosts), tail = host;
        if (want.p[0] == '*') {
            want = ldc_util_cut(want, 1);
            if (host.n <= want.n) continue;
            tail = ldc_util_cut(host, host.n - want.n);
        }
        if (tail.n == want.n && strncasecmp(tail.p, want.p, want.n) == 0) return true;
    }
    return false;
}

static bool ldc_route_holds(const ldc_route *t, const ldc_head *h) {
    ldc_str value;
    if (t->when == NULL) return true;
    if (h == NULL || (t->when->hosts && !ldc_route_host(t->when->hosts, h->host))) return false;
    for (int i = 0; i < t->when->match.n; i++) {
        if (!ldc_route_term(h, &t->when->match.p[i], &value)) return false;
    }
    return true;
}

/* The value that `hash_key` goes by: the first one present, not its name, so that an id in a query
   and the same id in a path meet. False: none. */
static bool ldc_route_hash(const ldc_head *h, const ldc_terms *keys, ldc_str address,
                           uint64_t *hash) {
    for (int k = 0; k < keys->n; k++) {
        const ldc_term *t = &keys->p[k];
        ldc_str v = address;
        *hash = 14695981039346656037ULL;
        if (t->by == LDC_BY_ADDR ? address.n == 0 : !ldc_route_term(h, t, &v)) continue;
        for (size_t i = 0; i < v.n;) {
            unsigned char c = t->by == LDC_BY_QUERY || t->by == LDC_BY_PATH
                                  ? ldc_route_byte(v, &i, t->by == LDC_BY_QUERY)
                                  : (unsigned char)v.p[i++];
            *hash = ldc_util_fnv(&c, 1, *hash);
        }
        return true;
    }
    return false;
}

/* The target without the prefix of `t`: its bytes are counted as the match counted them, decoded
   and with runs of slashes as one. What is left begins with / once it is written. */
static ldc_str ldc_route_strip(const ldc_route *t, ldc_str target) {
    size_t i = 0, n = 0;
    bool slash = false;
    if (t->kind == LDC_MATCH_ALL || t->text.n <= 1) return target;
    while (i < target.n && target.p[i] != '?' && n < t->text.n) {
        unsigned char c = ldc_route_byte(target, &i, false);
        if (c == '/' && slash) continue;
        if (c != (unsigned char)t->text.p[n++]) return target;
        slash = c == '/';
    }
    if (n != t->text.n) return target;
    for (size_t next = i; next < target.n; i = next) { /* //host would be somebody else's */
        unsigned char c = target.p[next] == '?' ? 0 : ldc_route_byte(target, &next, false);
        if (c != '/' && c != '\\') break;
    }
    return ldc_util_cut(target, i);
}

/* Longer routes are tried before shorter ones, and of one size only those can fit that say what the
   path says so far: they are found by halving. */
static const ldc_route *ldc_route_first(const ldc_conf *c, ldc_str path, const ldc_head *h) {
    for (int i = 0; i < c->sizes; i++) {
        size_t n = c->size[i].n;
        int low = c->size[i].first, high = c->size[i].end;
        if (n > path.n) continue;
        while (low < high) {
            int middle = low + (high - low) / 2;
            if (memcmp(c->route[c->by_text[middle]].text.p, path.p, n) < 0)
                low = middle + 1;
            else
                high = middle;
        }
        for (; low < c->size[i].end; low++) {
            const ldc_route *t = &c->route[c->by_text[low]];
            if (memcmp(t->text.p, path.p, n) != 0) break;
            if (ldc_route_fits(t, path) && ldc_route_holds(t, h)) return t;
        }
    }
    return NULL;
}

/* Matches one reading, as it stands and with its dots resolved. LDC_WHY_NONE; ESCAPE: it is none, or
   climbs above the root; PATH: two readings choose different groups. */
static ldc_why ldc_route_read(const ldc_conf *c, const ldc_head *h, ldc_str target, char *room,
                              ldc_reading *r, const ldc_route **found, bool first) {
    ptrdiff_t n = ldc_route_decode(target, room, r);
    const ldc_route *other;
    if (n < 0) return LDC_WHY_ESCAPE;
    if (first) *found = ldc_route_first(c, ldc_util_str(room, (size_t)n), h);
    if (n > 1 && room[n - 1] == '\n') { /* patterns that end in $ match in front of it, too */
        other = ldc_route_first(c, ldc_util_str(room, (size_t)n - 1), h);
        if ((other ? other->group : -1) != (*found ? (*found)->group : -1)) return LDC_WHY_PATH;
    }
    for (int resolved = 0; resolved <= (r->dots ? 1 : 0); resolved++) {
        if (resolved && (n = ldc_http_resolve(room, (size_t)n)) < 0) return LDC_WHY_ESCAPE;
        if (r->runs_stay && !resolved) continue;
        if (r->runs_stay) n = (ptrdiff_t)ldc_route_merge(room, (size_t)n);
        other = ldc_route_first(c, ldc_util_str(room, (size_t)n), h);
        if ((other ? other->group : -1) != (*found ? (*found)->group : -1)) return LDC_WHY_PATH;
    }
    return LDC_WHY_NONE;
}

/* Does it climb above the root in any reading? `room` has as many bytes as it, and one more. */
static bool ldc_route_climbs(ldc_str target, char *room) {
    for (int i = 0; i < 4; i++) {
        ldc_reading r;
        ptrdiff_t n;
        memset(&r, 0, sizeof r);
        r.runs_stay = i & 1;
        r.backslash = i & 2;
        room[0] = '/'; /* as it is written */
        n = ldc_route_decode(target, room + 1, &r);
        if (n < 0 || ldc_http_resolve(room, (size_t)n + 1) < 0) return true;
    }
    return false;
}

static const ldc_route *ldc_route_server(const ldc_conf *c, const ldc_head *h) { /* OPTIONS * */
    for (int i = 0; i < c->routes; i++) {
        if (c->route[i].kind == LDC_MATCH_ALL && ldc_route_holds(&c->route[i], h))
            return &c->route[i];
    }
    return NULL;
}

/* The route of a request; `h` (NULL: no condition holds) has what conditions look at, `room` as
   many bytes as the target. LDC_WHY_NONE, PATH, ESCAPE or ROUTE. */
static ldc_why ldc_route_find(const ldc_conf *c, const ldc_head *h, ldc_str target, char *room,
                              const ldc_route **found) {
    ldc_reading r, seen;
    ldc_why why;
    memset(&r, 0, sizeof r);
    if (target.p[0] == '?') target = LDC_S("/"); /* http://a?b */
    if (target.n == 1 && target.p[0] == '*') {
        *found = ldc_route_server(c, h);
        return *found ? LDC_WHY_NONE : LDC_WHY_ROUTE;
    }
    if ((why = ldc_route_read(c, h, target, room, &r, found, true)) != LDC_WHY_NONE) return why;
    seen = r;
    for (int i = 1; i < 4; i++) {
        memset(&r, 0, sizeof r);
        r.runs_stay = i & 1;
        r.backslash = i & 2;
        if (r.backslash && !seen.back) continue;
        if (r.runs_stay && !seen.back && !(seen.runs && seen.dots)) continue;
        if ((why = ldc_route_read(c, h, target, room, &r, found, false)) != LDC_WHY_NONE)
            return why;
    }
    return *found ? LDC_WHY_NONE : LDC_WHY_ROUTE;
}

/* @types ------------------------------------------------------------------------------------
   All objects and all state tables. Read this before the steps. Each table row: name, what the
   state waits for, its timer, the states that may follow. One setter per machine asserts it. */

#define LDC_TO(machine, name) (1u << LDC_##machine##_##name)

/* A client connection. BY_FLOW: interest follows the two flows of the exchange. */
#define LDC_CLIENT_STATES(X)                                                        \
    X(IDLE, POLLIN, keepalive_timeout, LDC_TO(CLIENT, HEAD) | LDC_TO(CLIENT, DEAD)) \
    X(HEAD, POLLIN, header_timeout,                                                 \
      LDC_TO(CLIENT, IDLE) | LDC_TO(CLIENT, BODY) | LDC_TO(CLIENT, QUEUED) |        \
          LDC_TO(CLIENT, ACTIVE) | LDC_TO(CLIENT, REPLY) | LDC_TO(CLIENT, WAIT) |   \
          LDC_TO(CLIENT, DEAD))                                                     \
    X(BODY, POLLIN, body_timeout and min_rate,                                      \
      LDC_TO(CLIENT, QUEUED) | LDC_TO(CLIENT, ACTIVE) | LDC_TO(CLIENT, REPLY) |     \
          LDC_TO(CLIENT, DEAD))                                                     \
    X(QUEUED, LDC_LEAVE, queue_timeout,                                             \
      LDC_TO(CLIENT, ACTIVE) | LDC_TO(CLIENT, REPLY) | LDC_TO(CLIENT, DEAD))        \
    X(ACTIVE, LDC_BY_FLOW, body_timeout send_timeout and min_rate,                  \
      LDC_TO(CLIENT, IDLE) | LDC_TO(CLIENT, QUEUED) | LDC_TO(CLIENT, REPLY) |       \
          LDC_TO(CLIENT, TUNNEL) | LDC_TO(CLIENT, LINGER) | LDC_TO(CLIENT, DEAD))   \
    X(REPLY, POLLOUT, send_timeout,                                                 \
      LDC_TO(CLIENT, IDLE) | LDC_TO(CLIENT, LINGER) | LDC_TO(CLIENT, DEAD))         \
    X(WAIT, LDC_LEAVE, start_timeout, LDC_TO(CLIENT, REPLY) | LDC_TO(CLIENT, DEAD)) \
    X(TUNNEL, LDC_BY_FLOW, tunnel_timeout, LDC_TO(CLIENT, DEAD))                    \
    X(LINGER, POLLIN, two seconds, LDC_TO(CLIENT, DEAD))                            \
    X(DEAD, 0, none, 0)

/* A connection to a worker. */
#define LDC_UP_STATES(X)                                                      \
    X(CONNECT, POLLOUT, connect_timeout, LDC_TO(UP, BUSY) | LDC_TO(UP, DEAD)) \
    X(BUSY, LDC_BY_FLOW, response_timeout and run_timeout,                    \
      LDC_TO(UP, PARKED) | LDC_TO(UP, TUNNEL) | LDC_TO(UP, DEAD))             \
    X(PARKED, POLLIN, worker_keepalive, LDC_TO(UP, BUSY) | LDC_TO(UP, DEAD))  \
    X(TUNNEL, LDC_BY_FLOW, as its client, LDC_TO(UP, DEAD))                   \
    X(DEAD, 0, none, 0)

/* A worker: a process of ours, or an address. Only READY takes requests. */
#define LDC_PROC_STATES(X)                                                                      \
    X(STARTING, 0, next probe and start_timeout,                                                \
      LDC_TO(PROC, READY) | LDC_TO(PROC, BACKOFF) | LDC_TO(PROC, STOPPING) |                    \
          LDC_TO(PROC, FAILED) | LDC_TO(PROC, DOWN) | LDC_TO(PROC, GONE))                       \
    X(READY, 0, none,                                                                           \
      LDC_TO(PROC, DOWN) | LDC_TO(PROC, DRAINING) | LDC_TO(PROC, STOPPING) |                    \
          LDC_TO(PROC, BACKOFF) | LDC_TO(PROC, FAILED) | LDC_TO(PROC, GONE))                    \
    X(DOWN, 0, next probe,                                                                      \
      LDC_TO(PROC, READY) | LDC_TO(PROC, DRAINING) | LDC_TO(PROC, STOPPING) |                   \
          LDC_TO(PROC, BACKOFF) | LDC_TO(PROC, FAILED) | LDC_TO(PROC, GONE))                    \
    X(DRAINING, 0, drain_timeout and tunnel_drain, LDC_TO(PROC, STOPPING) | LDC_TO(PROC, GONE)) \
    X(STOPPING, 0, stop_timeout,                                                                \
      LDC_TO(PROC, GONE) | LDC_TO(PROC, BACKOFF) | LDC_TO(PROC, FAILED))                        \
    X(BACKOFF, 0, the next start,                                                               \
      LDC_TO(PROC, STARTING) | LDC_TO(PROC, FAILED) | LDC_TO(PROC, GONE))                       \
    X(FAILED, 0, none, LDC_TO(PROC, BACKOFF) | LDC_TO(PROC, GONE))                              \
    X(GONE, 0, none, 0)

/* A reload. LOADING is one call; the switch is one assignment. */
#define LDC_RELOAD_STATES(X)                                                         \
    X(NONE, 0, none, LDC_TO(RELOAD, LOADING))                                        \
    X(LOADING, 0, none, LDC_TO(RELOAD, STARTING) | LDC_TO(RELOAD, UNDONE))           \
    X(STARTING, 0, start_timeout, LDC_TO(RELOAD, SWITCHED) | LDC_TO(RELOAD, UNDONE)) \
    X(SWITCHED, 0, the rest of rolling and replace groups, LDC_TO(RELOAD, DONE))     \
    X(DONE, 0, none, LDC_TO(RELOAD, LOADING))                                        \
    X(UNDONE, 0, none, LDC_TO(RELOAD, LOADING))

#define LDC_LEAVE LDC_RDHUP /* a client that only waits: readable means it left */
#define LDC_BY_FLOW 0

#define LDC_ENUM_CLIENT(name, wait, timer, next) LDC_CLIENT_##name,
#define LDC_ENUM_UP(name, wait, timer, next) LDC_UP_##name,
#define LDC_ENUM_PROC(name, wait, timer, next) LDC_PROC_##name,
#define LDC_ENUM_RELOAD(name, wait, timer, next) LDC_RELOAD_##name,
typedef enum ldc_client_state {
    LDC_CLIENT_STATES(LDC_ENUM_CLIENT) LDC_CLIENT_COUNT
} ldc_client_state;
typedef enum ldc_up_state { LDC_UP_STATES(LDC_ENUM_UP) LDC_UP_COUNT } ldc_up_state;
typedef enum ldc_proc_state { LDC_PROC_STATES(LDC_ENUM_PROC) LDC_PROC_COUNT } ldc_proc_state;
typedef enum ldc_reload_state {
    LDC_RELOAD_STATES(LDC_ENUM_RELOAD) LDC_RELOAD_COUNT
} ldc_reload_state;

typedef struct ldc_state_row {
    const char *name;
    short wait;
    const char *timer;
    unsigned next;
} ldc_state_row;

#define LDC_STATE_ROW(name, wait, timer, next) {#name, wait, #timer, next},
static const ldc_state_row ldc_client_rows[] = {LDC_CLIENT_STATES(LDC_STATE_ROW)};
static const ldc_state_row ldc_up_rows[] = {LDC_UP_STATES(LDC_STATE_ROW)};
static const ldc_state_row ldc_proc_rows[] = {LDC_PROC_STATES(LDC_STATE_ROW)};
static const ldc_state_row ldc_reload_rows[] = {LDC_RELOAD_STATES(LDC_STATE_ROW)};
static const char *const ldc_proc_words[] = {"starting", "ready",   "down",   "draining",
                                             "stopping", "backoff", "failed", "gone"};

typedef struct ldc_client ldc_client;
typedef struct ldc_exchange ldc_exchange;
typedef struct ldc_up ldc_up;
typedef struct ldc_worker ldc_worker;
typedef struct ldc_group ldc_group;

typedef enum ldc_kind {
    LDC_KIND_SIGNAL,
    LDC_KIND_LISTENER,
    LDC_KIND_CLIENT,
    LDC_KIND_UP,
    LDC_KIND_PIPE,
    LDC_KIND_EXEC,
    LDC_KIND_NAMES,
    LDC_KIND_WATCHER,
    LDC_KIND_DEEP
} ldc_kind;

/* One descriptor in the poll set; stands first in its owner. */
typedef struct ldc_watch {
    int fd;
    short want; /* 0: out of the set, its entry is negated */
    uint8_t kind;
    bool hot, listed, dirty, dead;
    bool deep;     /* cold, and epoll or kqueue looks at it */
    bool deep_out; /* kqueue: waits to write */
    short asked;   /* want, as epoll or kqueue know it */
    uint32_t at;   /* index in the poll set */
    uint32_t spin; /* turns ready without progress */
    uint64_t busy; /* when it was last ready */
} ldc_watch;

typedef enum ldc_timer_kind {
    LDC_TIMER_CLIENT,
    LDC_TIMER_UP,
    LDC_TIMER_WORKER,
    LDC_TIMER_LIFE
} ldc_timer_kind;

typedef struct ldc_timer {
    uint64_t due; /* microseconds, 0: not armed */
    uint32_t at;  /* place in the heap + 1, 0: not in it */
    uint8_t kind;
} ldc_timer;

typedef struct ldc_due { /* an entry of the heap; `key` may be earlier than the timer's due */
    uint64_t key;
    ldc_timer *timer;
} ldc_due;

typedef struct ldc_loop {
    struct pollfd *set; /* set[0 .. hot) is polled every turn, set[0 .. n) now and then */
    ldc_watch **who;
    uint32_t n, hot, cap, who_cap, watches;
    uint32_t polled;   /* how far the last poll() looked */
    ldc_watch **dirty; /* to be added, moved or removed at the end of the turn */
    uint32_t dirties, dirty_cap;
    ldc_due *heap;
    uint32_t due, due_cap, timers;
    uint64_t full_at, full_cost, swept; /* when the whole set was polled, and what it cost */
    bool quiet;
    ldc_watch deep; /* the epoll or kqueue descriptor: always hot, stands for the cold ones */
    bool deep_on, deep_tried;
} ldc_loop;

/* Bytes one way. Invariant: what is in `head` from `sent` on goes out before `buf`. */
typedef struct ldc_flow {
    ldc_buf head;   /* the message's head as we write it; the request's one is kept for a replay */
    uint32_t sent;  /* of it */
    ldc_buf buf;    /* encoded bytes that the sink did not take yet */
    uint64_t left;  /* of a body by length */
    uint64_t bytes; /* of body passed */
    ldc_chunk chunk;
    uint8_t in, out; /* ldc_frame at the source and towards the sink */
    bool end;        /* the last byte has come */
    bool discard;    /* nobody wants it */
    bool shut;       /* tunnel: the end was passed on */
} ldc_flow;

typedef struct ldc_listener {
    ldc_watch watch;
    ldc_addr addr;
    bool admin, dial; /* neither: for clients */
    bool fresh, keep; /* fresh: of a reload under way; keep: mark of the switch */
    char *path;       /* of a unix socket that we made */
    dev_t device;
    ino_t inode;
    struct ldc_listener *next;
} ldc_listener;

typedef struct ldc_client_line {
    ldc_client *old, *young;
} ldc_client_line;

struct ldc_client {
    ldc_watch watch;
    ldc_timer timer;
    uint8_t state;
    bool admin, runnable, first; /* `first`: no request yet */
    bool eof;                    /* its FIN was read */
    bool proxy;                  /* the PROXY protocol is still to come */
    bool https;                  /* TLS ended before us */
    bool local;                  /* it came by an address that only this machine reaches */
    uint8_t blanks;              /* empty lines before this request */
    uint8_t family;
    unsigned char ip[16];
    char peer[INET6_ADDRSTRLEN]; /* empty for a unix peer */
    uint64_t since;              /* of the state; in ACTIVE of the last progress */
    ldc_buf in;                  /* read and not used yet */
    size_t line;                 /* where the head's line under way begins */
    ldc_exchange *exchange;
    ldc_client *next, **prev;  /* of all */
    ldc_client *older, *newer; /* of the idle ones or of the unfinished heads, oldest first */
    uint32_t head_bytes;       /* its part of the heads' memory; not 0: it is in their line */
    ldc_client *next_runnable;
};

/* What a client owes one way: the next bytes within a gap, and a rate over ten seconds. */
typedef struct ldc_pace {
    uint64_t gap, from; /* since when; 0: it owes nothing now */
    uint64_t bytes;     /* since `from` */
    int64_t queue;      /* in the kernel's hands at `from` */
    int64_t taken;      /* by the peer when it was last looked at */
    int64_t slow;       /* bytes of the last ten seconds + 1, if those were too few; else 0 */
} ldc_pace;

/* What one client of a group has: requests at once, or a token bucket. */
typedef struct ldc_share ldc_share;
struct ldc_share {
    uint64_t key;
    int64_t inside;
    uint64_t full_at; /* bucket: when all its tokens are back */
    ldc_share *next;  /* of the same slot */
    ldc_share *older, *newer;
};

enum { LDC_SHARES = 16384, LDC_SHARE_SLOTS = 4096, LDC_NAMES = 1024 };

#ifdef LDCORN_AUDIT
enum { LDC_FEW = 1 }; /* workers that are looked through, without a rank */
#else
enum { LDC_FEW = 16 };
#endif

typedef struct ldc_shares { /* bounded; made when the first client comes */
    ldc_share **slot;
    ldc_share *old, *young;
    int n;
} ldc_shares;

struct ldc_exchange {             /* one request, from its head to its log line */
    ldc_exchange *next, **prev;   /* of all */
    ldc_exchange *ahead, *behind; /* in the queue */
    ldc_client *client;           /* NULL: an orphan */
    ldc_up *up;                   /* while inside a worker */
    ldc_group *group;
    ldc_conf *conf; /* under which its head was parsed */
    ldc_flow req, res;
    uint64_t received, arrived, queued, started, connected, sent,
        first;             /* microseconds, 0: not yet */
    uint64_t answered;     /* the worker's part was over */
    uint64_t wall;         /* ms since 1970, at arrival */
    uint64_t queue_by;     /* deadline of the wait */
    uint64_t collect;      /* bytes of body to collect before the line, 0: none; */
    uint64_t collect_most; /* of a chunked one that turns out not to be small */
    uint64_t held;         /* of buffer_memory */
    ldc_pace in, out;
    ldc_share *share; /* of max_req_per_client: counted in it */
    int retry_after;  /* seconds, of a 429 */
    ldc_why why;
    int status;
    int tries, interim;
    uint8_t asks;    /* of admin: what is made in pieces for it, 0: nothing */
    uint32_t awaits; /* of admin: the number of the reload whose result is the answer */
    int worker_index;
    int chosen; /* by a filter: the group's index + 1, -1: one that is not there, 0: nothing */
    pid_t worker_pid;
    char id[129];                   /* ours, or a trusted peer's */
    char address[INET6_ADDRSTRLEN]; /* of the client, as trusted */
    bool waiting;                   /* in the queue */
    bool collecting, memory;        /* its body is collected; it waits for memory to do so */
    bool http10, head_only, keep, safe, upgrade, expects;
    bool last; /* so its client says: nothing comes behind it */
    bool replayed, fresh, got_head, logged;
    bool failed;             /* told and counted as refused or cut */
    bool trusted;            /* the peer's own X-Forwarded-* count */
    bool hashed;             /* balance = hash, and `hash` is the key's */
    bool stripped;           /* of a prefix, which stands in X-Forwarded-Prefix */
    uint64_t hash, owner_at; /* `owner` was found at that epoch of the group */
    ldc_worker *owner;
};

struct ldc_up {
    ldc_watch watch;
    ldc_timer timer;
    uint8_t state;
    bool slot; /* counted in worker->in_flight */
    bool tunnel_slot;
    bool upgrade;    /* counted in worker->upgrades */
    bool reused;     /* carried an exchange before */
    bool probe;      /* a readiness check, no exchange */
    uint16_t asked;  /* of that: bytes of its request that were sent */
    uint8_t interim; /* of that: 1xx answers */
    bool passed;     /* of that: the head was right, the rest is read and thrown away */
    bool chunked;    /* of that: by `chunk` */
    ldc_chunk chunk;
    uint64_t rest; /* so much of it, UINT64_MAX: up to its end */
    bool half;     /* we ended our direction: the slot waits for the worker's end */
    bool deaf;     /* its answer broke the protocol: bytes are only thrown away */
    bool connected;
    bool keep;        /* its answer allows another request behind it */
    bool reading;     /* waiting for bytes: the gap counts */
    bool pushing;     /* waiting until it takes some: the gap counts too */
    ldc_why orphaned; /* why its exchange lost the client: what the timer then does */
    uint64_t opened, parked, quiet, gap, by; /* `quiet`: turn in which it was known to be empty */
    ldc_worker *worker;
    ldc_exchange *exchange;
    ldc_buf in;
    size_t line;
    ldc_up *next, **prev; /* of the worker's */
    ldc_up *next_parked, **prev_parked;
};

typedef struct ldc_place { /* an address, for all workers that stand for it */
    ldc_addr addr;
    int workers; /* that hold it, those on their way out included */
    int inside;  /* slots taken in all of them */
    int tunnels; /* upgraded connections, and requests that may become one */
    int checks;  /* workers whose first check waits for a slot: they have the next one */
    ldc_worker *first;
    bool ranked; /* a rank has one of them */
    struct ldc_place *next;
} ldc_place;

/* Who is the best of a group's workers that take requests: a tournament, so that one change costs
   one look per round. leaf[0..n) are the workers; node[room + i] is leaf i, or NULL while it takes
   nothing, and each node below is the better one of its two. */
typedef struct ldc_rank {
    ldc_worker **leaf, **node;
    int n, room;
    uint64_t epoch; /* the group's, of which it is */
} ldc_rank;

/* Of balance = hash: workers that keep their keys, side by side because a new key is compared with
   all of them, and whose the last keys were, by their hash. */
enum { LDC_SEEN = 1024 };
typedef struct ldc_keeper {
    uint64_t hash;
    ldc_worker *worker;
} ldc_keeper;

typedef struct ldc_keepers {
    uint64_t *hash; /* of n workers' identities; the same block holds the other two */
    ldc_worker **worker;
    ldc_keeper *seen; /* seen[hash % LDC_SEEN] */
    int n, room;
    uint64_t epoch; /* the group's, of which they are */
} ldc_keepers;

typedef struct ldc_pipe { /* a worker's stdout or stderr */
    ldc_watch watch;
    ldc_worker *worker;
    bool open;
    char *line;
    size_t n;
    bool split;
} ldc_pipe;

typedef struct ldc_exec { /* brings back why exec failed */
    ldc_watch watch;
    ldc_worker *worker;
    bool open;
} ldc_exec;

struct ldc_worker {
    ldc_group *group;
    ldc_conf *conf; /* what it was started with; a reference */
    const ldc_gconf *as;
    int index, generation;
    int retired; /* the generation that took its place; 0: it is in force, or goes alone */
    int rolled;  /* the generation whose roll replaces it, 0: none */
    uint8_t state;
    bool candidate; /* of a reload under way: takes nothing yet */
    bool wants;     /* its first check waits for a slot of its place */
    bool replaced;  /* by reload, scale or time-out: does not come back */
    bool paused;    /* drained by admin: takes nothing until it is resumed */
    int leaf;       /* of the group's rank */
    ldc_worker *next_placed;
    ldc_worker *relieves; /* when this one is ready, that one is retired */
    ldc_worker *after;    /* this one starts when that one is gone */
    uint64_t identity;    /* for balance = hash: of the index, or of the address */
    bool held, refused;   /* it may be dying, see ldc_proc_hold; refused: a connect */
    bool was_ready, asked, killed, respawn;
    bool foreign; /* upstream and dial_in: no process */
    bool dial;    /* its connections come to us; each is a slot */
    bool joined;  /* by admin */
    char *text;   /* of that: its address */
    ldc_addr addr;
    ldc_place *place; /* of an `upstream` worker: what counts its slots; else NULL */
    ldc_timer timer;
    pid_t pid, noted; /* noted: in runtime_dir */
    int port_fd;      /* keeps {port} reserved */
    char *path;       /* of its socket */
    int in_flight, tunnels, conns, parked_count;
    int upgrades; /* inside: each may become a tunnel */
    bool longs;   /* its last answer was long: the next head is read with little of what follows */
    bool due;     /* to be recycled */
    const char *why_due;
    uint64_t due_served, due_at; /* when it will be; 0: never */
    uint64_t served, booked;     /* booked: what of it stands in the group's sums already */
    uint64_t since, started, idle_since, drain_by, tunnel_by, probe_at, start_by;
    uint64_t pause; /* back-off or probe interval, ms */
    int failures;   /* consecutive failed starts, or failed probes while DOWN */
    int restarts;
    ldc_up *ups, *parked, **parked_end, *probe;
    ldc_pipe pipe[2];
    ldc_exec exec;
    ldc_sink out; /* worker_log = path */
    uint64_t ready_at, hold_again;
    uint64_t check_at, answered_at; /* the next health check; the last answer */
    int probe_fails;
    char tail[LDC_TAIL];
    size_t tail_n, tail_old, tail_before; /* from where on it is this process, the one before */
    char last_exit[96];
    char inside[200]; /* what was, when it ended: two of them, */
    int lost;         /* of so many, */
    uint64_t lost_at; /* the last one then */
    uint64_t last_exit_at;
    char awaited[64];     /* why it is not ready yet: what its last probe found */
    uint64_t say_at;      /* when that is to be told */
    const char *why_stop; /* label of ldcorn_worker_exits_total */
    ldc_worker *next;
};

#define LDC_EXIT_REASONS(X) \
    X(crash) X(recycle) X(lifetime) X(timeout) X(health) X(reload) X(scale) X(stop)
#define LDC_EXIT_NAME(name) #name,
static const char *const ldc_exit_names[] = {LDC_EXIT_REASONS(LDC_EXIT_NAME)};

typedef struct
    ldc_failures { /* lines about single requests: so many a second, the rest is summed */
    uint64_t since;
    int said, mores;
    uint32_t more[LDC_WHYS];
} ldc_failures;

typedef struct ldc_histogram {
    uint64_t bucket[LDC_BUCKETS];
    uint64_t sum; /* microseconds */
    uint64_t count;
} ldc_histogram;

typedef struct ldc_told { /* a failure of a worker that was told */
    uint64_t what, at;    /* its hash, 0: none; when */
    int more;             /* how often it has come again since */
    int times;            /* how often it was told in the minute from then on */
    bool early, over;     /* before it was ready; some worker of the group was ready since */
} ldc_told;

struct ldc_group {
    char *name;
    ldc_rank rank;
    ldc_keepers keepers;
    ldc_group *alike;      /* the next of its slot in the table of names */
    ldc_conf *owner;       /* the conf that `conf` lies in; a reference */
    const ldc_gconf *conf; /* of the conf in force */
    bool removed, hidden;  /* hidden: of a reload under way */
    bool lacks;            /* workers that there was no memory for */
    bool starting;         /* ldc_group_next is at work */
    bool paused;           /* by admin: requests wait */
    bool changed;          /* restart when that can be */
    uint32_t ticket;       /* of that, if somebody waits for it; 0: nobody */
    bool rolls, rolling;   /* its old workers are (to be) replaced one after the other */
    ldc_worker *newcomer;  /* of that: the one whose start is awaited */
    int scaled;            /* workers by admin, 0: as configured */
    ldc_addr *quit;        /* addresses of the list that admin took out */
    int quits;
    uint64_t dial_said; /* when a caller was turned away and it was logged */
    ldc_told told[4];   /* failures that were told, by turns */
    unsigned tells;     /* how many were */
    int turn;           /* balance = round: index of the worker that got the last one */
    uint64_t epoch;     /* moves when a worker comes, goes or changes state */
    ldc_worker *workers;
    ldc_exchange *head, *tail; /* the queue, oldest first */
    ldc_shares shares;
    ldc_exchange *lack, *lack_end; /* who waits for buffer memory, oldest first */
    int queued, upgrades;          /* upgrades: of them, those that ask for one */
    uint64_t held;                 /* of buffer_memory */
    int orphans;
    uint64_t mean;        /* service time, microseconds, moving by 1/8 */
    uint64_t requests[6]; /* by class of status */
    uint64_t refused[LDC_WHYS], refused_said[LDC_WHYS], said_at;
    ldc_failures failures;
    uint64_t retries, forced, errors[4], exits[8];
    ldc_histogram total, worker, wait;
    uint64_t restarts;
    uint64_t *served; /* per index, by workers that are gone or have another one now */
    int indexes;      /* most workers ever */
    bool said_ready;
    ldc_group *next;
};
enum { LDC_ERROR_CONNECT, LDC_ERROR_RESET, LDC_ERROR_TIMEOUT, LDC_ERROR_PROTOCOL };

typedef struct ldc_reload {
    uint8_t state;
    bool keep, again, again_keep;
    ldc_group *only;                        /* new workers for this group alone, nothing is read */
    bool partial;                           /* a group's roll failed */
    uint32_t tickets, ticket, again_ticket; /* given; of the one under way; of the one after it */
    ldc_watch names; /* of the child that resolves names, what it says and its number */
    ldc_text said;
    pid_t resolver;
    bool asking;
    pid_t watcher; /* started before the candidates: what changes from then on counts */
    int watch_fd;
    ldc_conf *conf;
    uint64_t began;
    char result[8]; /* ok, failed, partial, or empty before the first one */
    ldc_text error;
    uint64_t at, took; /* ms since 1970, ms */
    uint64_t ok, failed, partials;
} ldc_reload;

typedef enum ldc_life {
    LDC_LIFE_RUN,
    LDC_LIFE_LAME,
    LDC_LIFE_DRAIN,
    LDC_LIFE_STOP,
    LDC_LIFE_OVER
} ldc_life;

typedef struct ldc_serve_call { /* what `internal` of a call points to */
    ldc_mem *mem;
    const ldc_head *head;
    ldc_text *out;
    bool answered, head_only, close, http10;
    struct ldc_filtered *filtered; /* of a filter; NULL: of a handler */
} ldc_serve_call;

struct ldc_filtered { /* what a filter wants */
    ldc_head *head;
    int status; /* its own answer, 0: none */
    ldc_text type, body, lines;
};

enum { LDC_REPLY_FRONT = 1024 }; /* room for the head of a long answer */

typedef struct ldc_report { /* an answer of admin that is made in pieces between turns */
    ldc_exchange *e;        /* who gets it; NULL: there is none */
    ldc_text text;
    const ldc_group *group; /* the next one */
    int part;
    bool begun; /* this part */
} ldc_report;

struct ldcorn {
    ldc_mem mem;
    ldc_log log;
    ldc_loop loop;
    ldcorn_desc desc; /* strings of the host, copied */
    ldc_arena host;   /* where they lie */
    ldc_home home;    /* its strings, too */
    ldc_conf *conf;
    ldc_group *groups, *named[LDC_NAMES]; /* in the order of the file; by hash of the name */
    ldc_report report;                    /* of admin, under way */
    int reports;                          /* exchanges that wait for one */
    int waiting;                          /* exchanges in line, of all groups */
    uint64_t beyond, beyond_own;          /* bytes that groups hold beyond this guarantee */
    ldc_listener *listeners;
    ldc_client *clients, *runnable, **runnable_end;
    ldc_client_line admin_idle;  /* admin connections that ask nothing now */
    ldc_client_line idle, heads; /* keep-alive clients; clients with part of a head */
    uint64_t heads_bytes;
    ldc_exchange *exchanges;
    ldc_client *dead_clients;
    ldc_up *dead_ups;
    void *spare_client, *spare_exchange, *spare_up; /* free lists */
    ldc_reload reload;
    int generation;
    uint64_t now, turn, began, wall;
    char date[40]; /* `dated` as an answer has it */
    uint64_t dated;
    char *scratch;                                   /* one read; LDC_SCRATCH bytes */
    unsigned char inherited[LDC_INHERITED_MOST / 8]; /* bits: it listened before we began */
    int pipe[2];                                     /* for splice(); empty between its uses */
    bool unspliced;  /* splice() is not to be had with these sockets */
    char *path_room; /* for @route; max_header bytes */
    size_t path_cap;
    ldc_head head;    /* the one under the parser */
    ldc_str more;     /* lines that a filter added to it */
    ldc_watch signal; /* read end of the self-pipe */
    int signal_out, reserve, lock, pid_fd;
    volatile sig_atomic_t stop_asked; /* by a call or a request; looked at once a turn */
    int stops, stops_seen;            /* 0, 1 gracefully, 2 at once */
    uint64_t stop_at;                 /* when it was asked for first */
    uint64_t stop_say;                /* when it is told what a stop waits for */
    ldc_life life;
    uint64_t stop_by, lame_by;
    ldc_timer timer;
    int clients_count, conns_max, admins, forks;
    bool admin_full; /* its listener waits until one of them is gone */
    bool untrusted_said;
    uint64_t report_at; /* when groups that have refused something are looked at; 0: none has */
    bool paused, ready_said, running, init, child_noted, made_dir, lean;
    uint64_t seen; /* poll() has looked at that time, or later */
    uint64_t accepted, bytes_in, bytes_out, id_seed, id_next, refusals_at;
    char what[224];        /* what just went wrong with a worker, for the line about its request */
    ldc_failures failures; /* of requests that no group was found for */
    uint64_t refusals[LDC_WHYS];
    char via[16];          /* our name in Via and for our processes: ldcorn- and eight digits */
    uint64_t tls_said[16]; /* peers that were told to come without TLS */
    unsigned tls_next;
    bool handlers; /* of ldcorn_run, until ldcorn_close */
    int pipe_at;   /* place of our pipe among those that signals are written to, 0: none */

    sigset_t old_mask;
    struct rlimit files; /* the limit that workers get back */
    pid_t owner;         /* who opened it; a fork of that has only copies */
    bool locked;         /* the lock in runtime_dir is ours */
    bool raised;         /* the limit of descriptors */
    int dir_at;          /* place of runtime_dir among those of this process, 0: none */
    bool group_said;     /* a filter named a group that is not there */
    ldc_text warned;     /* what the first reading warned of */

    uint32_t serial; /* of worker sockets */
    ldc_place *places;
    uint64_t retry_at; /* when starved groups try again */
    bool upset;        /* some worker changed state: look at reload, readiness, stop */
    bool look;         /* somebody may wait for what came free, see ldc_turn_lines */
    bool freed;        /* buffer memory was given back: look at who waits for it */
    int lacking;       /* how many wait for it */
    uint64_t shed_at;  /* when a full house was last looked through for a slow client */
    bool recycle;      /* some worker is due */
    ldc_watch watcher; /* of the child that looks after `watch` */
    pid_t left[16];    /* process groups of workers that have ended, while we are process 1 */
    int left_n;
    pid_t guard_pid;
    int guard_fd;                     /* the pipe that ends with us, where there is a guard */
    pid_t watcher_pid, dismissed[16]; /* killed helpers that are not reaped yet */
    int dismissed_n;
    int dials, dials_max;           /* connections of workers that dial in, and the most */
    bool watching, watch_due;       /* due: the paths may be others now */
    uint64_t alive_every, alive_at; /* systemd's watchdog */
    char untold[224];               /* what systemd had no room for, and when to say it again */
    char state[200];                /* what it was told last */
    uint64_t tell_at;
};

/* Back-calls: an event travels down to where it belongs, its consequence upward again. */
static void ldc_group_next(ldcorn *l, ldc_group *g);         /* a slot is free */
static void ldc_client_answered(ldcorn *l, ldc_exchange *e); /* the worker's part is over */
static void ldc_client_refuse(ldcorn *l, ldc_exchange *e, ldc_why why); /* our own answer */
static void ldc_client_update(ldcorn *l, ldc_client *c);   /* a flow changed: new interest */
static void ldc_client_tunnel(ldcorn *l, ldc_exchange *e); /* 101 */
static void ldc_client_accept_failed(ldcorn *l, ldc_listener *s);
static ldc_str ldc_client_field(const ldc_exchange *e, const char *name);
static void ldc_client_dead(ldcorn *l, ldc_client *c);
static void ldc_turn_event(const ldcorn *l, ldcorn_event *v, ldcorn_event_kind kind,
                           const char *group);
static ldc_exchange *ldc_client_split(ldcorn *l, ldc_exchange *e); /* an answer of its own */
static void ldc_admin_report_gone(ldcorn *l, const ldc_exchange *e);
static void ldc_client_exchange_free(ldcorn *l, ldc_exchange *e);
static void ldc_proc_probe_send(ldcorn *l, ldc_up *u);
static void ldc_proc_probe_readable(ldcorn *l, ldc_up *u);
static void ldc_proc_event_down(ldcorn *l, ldc_worker *w);                  /* a connect failed */
static void ldc_proc_hold(ldcorn *l, ldc_worker *w);                        /* it may be dying */
static void ldc_proc_lost(ldcorn *l, ldc_worker *w, const ldc_exchange *e); /* with this inside */
static void ldc_proc_probed(ldcorn *l, ldc_up *u, bool passed, const char *why);
static void ldc_proc_check_late(ldcorn *l, ldc_worker *w, ldc_up *u);
static void ldc_proc_idle(ldcorn *l, ldc_worker *w); /* nothing inside any more */
static void ldc_proc_replace(ldcorn *l, ldc_worker *w, const char *why);

/* @net --------------------------------------------------------------------------------------
   Sockets: close-on-exec, non-blocking, listen, accept, connect, addresses. Owns nothing. */

static bool ldc_net_flags(int fd) {
    int f = fcntl(fd, F_GETFL);
    return fcntl(fd, F_SETFD, FD_CLOEXEC) == 0 && f >= 0 && fcntl(fd, F_SETFL, f | O_NONBLOCK) == 0;
}

static int ldc_net_checked(int fd) LDC_UNUSED; /* only without accept4 and SOCK_CLOEXEC */
static int ldc_net_checked(int fd) {
    if (fd < 0) return -1;
    if (ldc_net_flags(fd)) return fd;
    close(fd);
    return -1;
}

static int ldc_net_socket(int family) {
    int fd, on = 1;
#if defined(SOCK_CLOEXEC) && defined(SOCK_NONBLOCK) && !defined(LDCORN_PORTABLE)
    fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
#else
    fd = ldc_net_checked(socket(family, SOCK_STREAM, 0));
#endif
#ifdef SO_NOSIGPIPE
    if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
    if (fd >= 0 && family != AF_UNIX) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

static int ldc_net_accept(int listener, struct sockaddr_storage *from, socklen_t *n) {
    int fd;
    *n = sizeof *from;
#if defined(SOCK_CLOEXEC) && defined(SCM_CREDENTIALS) && defined(__linux__) && \
    !defined(                                                                  \
        LDCORN_PORTABLE) /* both libcs show accept4 exactly where they show SCM_CREDENTIALS */
    fd = accept4(listener, (struct sockaddr *)from, n, SOCK_CLOEXEC | SOCK_NONBLOCK);
#else
    fd = accept(listener, (struct sockaddr *)from, n);
    if (fd >= 0) fd = ldc_net_checked(fd);
#if !defined(__linux__)
    if (fd >= 0 && from->ss_family != AF_UNIX) { /* elsewhere not inherited from the listener */
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
#endif
#endif
    return fd;
}

/* Clients speak first: Linux can hand over a connection together with its request, which spares a
   poll() and a read that finds nothing. A silent one comes a second later. */
static void ldc_net_defer(const ldc_addr *a, int fd) {
#if defined(TCP_DEFER_ACCEPT) && !defined(LDCORN_PORTABLE)
    int seconds = 1;
    if (a->u.any.sa_family != AF_UNIX)
        setsockopt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &seconds, sizeof seconds);
#else
    (void)a;
    (void)fd;
#endif
}

/* A peer that is gone without a word is noticed within a minute or two. */
static void ldc_net_keepalive(int fd) {
    int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
#if defined(TCP_KEEPIDLE) && defined(TCP_KEEPINTVL) && defined(TCP_KEEPCNT)
    int idle = 30, gap = 10, tries = 3;
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &gap, sizeof gap);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &tries, sizeof tries);
#endif
}

static bool ldc_net_pipe(int fd[2]) {
    if (pipe(fd) < 0) return false;
    if (fcntl(fd[0], F_SETFD, FD_CLOEXEC) == 0 && fcntl(fd[1], F_SETFD, FD_CLOEXEC) == 0)
        return true;
    close(fd[0]);
    close(fd[1]);
    return false;
}

/* A leftover of a dead owner may go; a living one is EADDRINUSE. */
static bool ldc_net_unlink_stale(const ldc_addr *a) {
    struct stat st;
    int fd, r, e;
    if (lstat(a->u.un.sun_path, &st) < 0) return errno == ENOENT;
    errno = EADDRINUSE;
    if (!S_ISSOCK(st.st_mode)) return false;
    fd = ldc_net_socket(AF_UNIX);
    if (fd < 0) return false;
    r = connect(fd, &a->u.any, a->len);
    e = errno;
    close(fd);
    errno = EADDRINUSE;
    if (r == 0 || e != ECONNREFUSED) return false;
    return unlink(a->u.un.sun_path) == 0;
}

/* Its file gets mode and group as it is made: what is done by name afterwards could be led to another
   file by whoever owns the directory. Where making it so does not help (no root, BSD), its group is
   changed without following a link. */
static bool ldc_net_bind_file(int fd, const ldc_addr *a) {
    mode_t old = umask(a->mode ? 0777 & ~(mode_t)a->mode : 0022);
    gid_t gid = getegid();
    bool lent = a->grouped && geteuid() == 0 && setegid(a->gid) == 0;
    bool ok = bind(fd, &a->u.any, a->len) == 0;
    int e = errno;
    struct stat st;
    if (lent && setegid(gid) < 0) ok = false;
    umask(old);
    errno = e;
    if (!ok || !a->grouped) return ok;
    return lstat(a->u.un.sun_path, &st) == 0 &&
           (st.st_gid == a->gid || lchown(a->u.un.sun_path, (uid_t)-1, a->gid) == 0);
}

/* A bound, listening socket or -1 and errno. */
static int ldc_net_listen(const ldc_addr *a, int backlog) {
    int fd, on = 1, e;
    if (a->u.any.sa_family == AF_UNIX && !ldc_net_unlink_stale(a)) return -1;
    fd = ldc_net_socket(a->u.any.sa_family);
    if (fd < 0) return -1;
    if (a->u.any.sa_family != AF_UNIX) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (a->u.any.sa_family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    if (a->u.any.sa_family == AF_UNIX) {
        if (ldc_net_bind_file(fd, a) && listen(fd, backlog) == 0) return fd;
    } else if (bind(fd, &a->u.any, a->len) == 0 && listen(fd, backlog) == 0) {
        return fd;
    }
    e = errno;
    close(fd);
    errno = e;
    return -1;
}

/* For good: whoever could go back has not gone. Only async-signal-safe calls. */
static bool ldc_net_become(const ldc_user *u) {
    if (!u->set) return true;
    if (setgroups((uint16_t)u->n, u->groups) < 0 || setgid(u->gid) < 0 || setuid(u->uid) < 0)
        return false;
    errno = EPERM;
    return u->uid == 0 || setuid(0) < 0;
}

/* Who called listen() on the other side of a unix socket. */
static bool ldc_net_peer_is(int fd, uid_t uid) {
#ifdef SO_PEERCRED
    struct {
        pid_t pid;
        uid_t uid;
        gid_t gid;
    } who;
    socklen_t n = sizeof who;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &n) == 0 && n == sizeof who &&
           who.uid == uid;
#else
    (void)fd, (void)uid;
    return false;
#endif
}

static bool ldc_net_listens(int fd) {
    int listens = 0;
    socklen_t n = sizeof listens;
    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &n) == 0 && listens;
}

/* A listening socket that was there before us: a copy, so that it can go and come back. -1 and
   errno. */
static int ldc_net_inherit(int fd) {
    int copy;
    errno = ENOTCONN;
    if (fd < 0 || !ldc_net_listens(fd) || !ldc_net_flags(fd)) return -1;
    do copy = fcntl(fd, F_DUPFD, 3);
    while (copy < 0 && errno == EINTR);
    return copy < 0 || ldc_net_flags(copy) ? copy : (close(copy), -1);
}

/* Bytes that the kernel keeps because the peer did not take them, -1 where nobody tells. */
static int64_t ldc_net_unsent(int fd) {
#if defined(TIOCOUTQ) && defined(__linux__) && !defined(LDCORN_PORTABLE)
    int n;
    if (ioctl(fd, TIOCOUTQ, &n) == 0) return n;
#endif
    (void)fd;
    return -1;
}

/* @loop -------------------------------------------------------------------------------------
   The poll set in two tiers and the heap of timers. Busy descriptors are polled every turn. Idle
   ones are cold: polled now and then, or, once there are many and the system has epoll or kqueue,
   looked at by one such descriptor that stands in the set itself. Invariants: nothing moves
   during dispatch; an entry's watch lives at least to the end of the turn; there is always room
   for one entry and one timer per open watch, so that neither can fail later. */

static bool ldc_loop_grow(ldcorn *l, void **p, uint32_t *cap, uint32_t need, size_t each) {
    uint32_t to = *cap ? *cap : 32;
    void *q;
    if (need <= *cap) return true;
    while (to < need) to *= 2;
    q = ldc_mem_resize(&l->mem, *p, *cap * each, to * each);
    if (q == NULL) return false;
    *p = q;
    *cap = to;
    return true;
}

static bool ldc_loop_reserve_watch(ldcorn *l) {
    ldc_loop *o = &l->loop;
    uint32_t n = o->watches + 1;
    return ldc_loop_grow(l, (void **)&o->set, &o->cap, n, sizeof *o->set) &&
           ldc_loop_grow(l, (void **)&o->who, &o->who_cap, n, sizeof *o->who) &&
           ldc_loop_grow(l, (void **)&o->dirty, &o->dirty_cap, n, sizeof *o->dirty);
}

static bool ldc_loop_reserve_timer(ldcorn *l) {
    return ldc_loop_grow(l, (void **)&l->loop.heap, &l->loop.due_cap, l->loop.timers + 1,
                         sizeof *l->loop.heap);
}

static void ldc_loop_dirty(ldcorn *l, ldc_watch *w) {
    if (w->dirty) return;
    w->dirty = true;
    l->loop.dirty[l->loop.dirties++] = w;
}

/* --- the cold tier behind epoll or kqueue: four calls that differ --- */

#ifndef LDCORN_COLD
#define LDCORN_COLD 64 /* so many cold ones make it worth it */
#endif
#ifndef LDCORN_READY
#define LDCORN_READY 256 /* events taken from epoll or kqueue at a time */
#endif

typedef struct ldc_ready {
    ldc_watch *watch;
    short revents; /* as poll() has them */
} ldc_ready;

#if defined(LDC_EPOLL)

static int ldc_loop_deep_open(void) { return epoll_create1(EPOLL_CLOEXEC); }

static bool ldc_loop_deep_add(int deep, ldc_watch *w) {
    struct epoll_event e;
    memset(&e, 0, sizeof e);
    e.events = (uint32_t)(unsigned short)w->want; /* the same bits as poll's */
    e.data.ptr = w;
    return epoll_ctl(deep, EPOLL_CTL_ADD, w->fd, &e) == 0;
}

static void ldc_loop_deep_drop(int deep, const ldc_watch *w) {
    struct epoll_event e; /* kernels before 2.6.9 wanted one */
    memset(&e, 0, sizeof e);
    epoll_ctl(deep, EPOLL_CTL_DEL, w->fd, &e);
}

static int ldc_loop_deep_look(int deep, ldc_ready *ready) {
    struct epoll_event e[LDCORN_READY];
    int n;
    do n = epoll_wait(deep, e, LDCORN_READY, 0);
    while (n < 0 && errno == EINTR);
    for (int i = 0; i < n; i++) {
        ready[i].watch = (ldc_watch *)e[i].data.ptr;
        ready[i].revents = (short)e[i].events;
    }
    return n;
}

#elif defined(LDC_KQUEUE)

/* One filter for each watch: an end comes as EV_EOF with both. Who waits for both or for neither,
   an end alone, is left to poll(). */
static bool ldc_loop_deep_change(int deep, const ldc_watch *w, bool add) {
    struct kevent e; /* its fields have other types on each system */
    memset(&e, 0, sizeof e);
    e.ident = (uintptr_t)w->fd;
    e.filter = EVFILT_READ;
    if (w->deep_out) e.filter = EVFILT_WRITE;
    e.flags = EV_DELETE;
    if (add) e.flags = EV_ADD;
    memcpy(&e.udata, &w, sizeof e.udata);
    return kevent(deep, &e, 1, NULL, 0, NULL) == 0 || errno == EINTR; /* then it is done too */
}

static int ldc_loop_deep_open(void) {
    int fd = kqueue(); /* no fork() inherits it */
    if (fd < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) == 0) return fd;
    close(fd);
    return -1;
}

static bool ldc_loop_deep_add(int deep, ldc_watch *w) {
    w->deep_out = w->want == POLLOUT;
    return (w->deep_out || (w->want & ~LDC_RDHUP) == POLLIN) && ldc_loop_deep_change(deep, w, true);
}

static void ldc_loop_deep_drop(int deep, const ldc_watch *w) {
    ldc_loop_deep_change(deep, w, false);
}

static int ldc_loop_deep_look(int deep, ldc_ready *ready) {
    struct kevent e[LDCORN_READY];
    struct timespec now;
    int n;
    memset(&now, 0, sizeof now);
    do n = kevent(deep, NULL, 0, e, LDCORN_READY, &now);
    while (n < 0 && errno == EINTR);
    for (int i = 0; i < n; i++) {
        memcpy(&ready[i].watch, &e[i].udata, sizeof ready[i].watch);
        ready[i].revents = ready[i].watch->deep_out ? POLLOUT : POLLIN;
    }
    return n;
}

#else

static int ldc_loop_deep_open(void) {
    errno = ENOSYS;
    return -1;
}

static bool ldc_loop_deep_add(int deep, ldc_watch *w) {
    (void)deep;
    (void)w;
    return false;
}

static void ldc_loop_deep_drop(int deep, const ldc_watch *w) {
    (void)deep;
    (void)w;
}

static int ldc_loop_deep_look(int deep, ldc_ready *ready) {
    (void)deep;
    (void)ready;
    return 0;
}

#endif

/* Hands a cold watch over. False: it has to be polled. */
static bool ldc_loop_sink(ldc_loop *o, ldc_watch *w) {
    if (!o->deep_on || w->want == 0 || w->deep) return true;
    w->asked = w->want;
    w->deep = ldc_loop_deep_add(o->deep.fd, w);
    return w->deep;
}

/* Takes it back, before its descriptor is closed too: a child that was just forked may hold a copy,
   and then closing ours does not end the interest. */
static void ldc_loop_raise(ldc_loop *o, ldc_watch *w) {
    if (w->deep) ldc_loop_deep_drop(o->deep.fd, w);
    w->deep = false;
}

/* Takes the descriptor into the set. False without memory: it stays the caller's. */
static bool ldc_loop_open(ldcorn *l, ldc_watch *w, int fd, ldc_kind kind, short want) {
    if (!ldc_loop_reserve_watch(l)) return false;
    memset(w, 0, sizeof *w);
    w->fd = fd;
    w->kind = (uint8_t)kind;
    w->want = want;
    w->hot = true;
    w->busy = l->now;
    l->loop.watches++;
    ldc_loop_dirty(l, w);
    return true;
}

/* Marks; the entry goes and the descriptor is closed at the end of the turn. */
static void ldc_loop_close(ldcorn *l, ldc_watch *w) {
    if (w->dead) return;
    w->dead = true;
    w->want = 0;
    if (w->listed) l->loop.set[w->at].fd = ~w->fd;
    ldc_loop_dirty(l, w);
}

static void ldc_loop_want(ldcorn *l, ldc_watch *w, short want) {
    if (w->dead || w->want == want) return;
    w->want = want;
    if (w->listed) {
        l->loop.set[w->at].events = want;
        l->loop.set[w->at].fd = want ? w->fd : ~w->fd;
    }
    if (w->deep) { /* it may be as before when the turn ends */
        ldc_loop_dirty(l, w);
        return;
    }
    if (want == 0) return;
    w->busy = l->now;
    if (w->hot) return;
    w->hot = true;
    ldc_loop_dirty(l, w);
}

static void ldc_loop_progress(ldc_watch *w) { w->spin = 0; }

static void ldc_loop_swap(ldc_loop *o, uint32_t a, uint32_t b) {
    struct pollfd p = o->set[a];
    ldc_watch *w = o->who[a];
    if (a == b) return;
    o->set[a] = o->set[b];
    o->who[a] = o->who[b];
    o->set[b] = p;
    o->who[b] = w;
    o->who[a]->at = a;
    o->who[b]->at = b;
}

static void ldc_loop_add(ldc_loop *o, ldc_watch *w) {
    uint32_t i = o->n++;
    o->set[i].fd = w->want ? w->fd : ~w->fd;
    o->set[i].events = w->want;
    o->set[i].revents = 0;
    o->who[i] = w;
    w->at = i;
    w->listed = true;
}

static void ldc_loop_heat(ldc_loop *o, ldc_watch *w) {
    if (w->hot) ldc_loop_raise(o, w);
    if (w->hot && w->at >= o->hot)
        ldc_loop_swap(o, w->at, o->hot++);
    else if (!w->hot && w->at < o->hot)
        ldc_loop_swap(o, w->at, --o->hot);
}

static void ldc_loop_remove(ldcorn *l, ldc_watch *w) {
    ldc_loop *o = &l->loop;
    ldc_loop_raise(o, w);
    if (w->listed) {
        w->hot = false;
        ldc_loop_heat(o, w);
        ldc_loop_swap(o, w->at, o->n - 1);
        o->n--;
        w->listed = false;
    }
    if (w->fd >= 0)
        close(w->fd); /* EINTR: the descriptor is gone all the same on every POSIX here */
    w->fd = -1;
    o->watches--;
}

/* Many are cold: from now on epoll or kqueue looks at them. */
static void ldc_loop_deepen(ldcorn *l) {
    ldc_loop *o = &l->loop;
    int fd = ldc_loop_deep_open();
    o->deep_tried = fd >= 0 || (errno != EMFILE && errno != ENFILE && errno != ENOMEM);
    if (fd < 0) return;
    o->deep_on = ldc_loop_open(l, &o->deep, fd, LDC_KIND_DEEP, POLLIN);
    if (!o->deep_on) {
        close(fd);
        return;
    }
    for (uint32_t i = o->hot; i < o->n; i++) { /* who cannot sink is polled again and again */
        ldc_watch *w = o->who[i];
        if (!ldc_loop_sink(o, w)) {
            w->hot = true;
            w->busy = l->now;
            ldc_loop_dirty(l, w);
        }
    }
}

/* The one place where entries are added, moved and removed. */
static void ldc_loop_settle(ldcorn *l) {
    ldc_loop *o = &l->loop;
    for (uint32_t i = 0; i < o->dirties; i++) {
        ldc_watch *w = o->dirty[i];
        w->dirty = false;
        if (w->dead) {
            ldc_loop_remove(l, w);
            continue;
        }
        if (!w->listed) ldc_loop_add(o, w);
        if (w->deep && w->want != w->asked) w->hot = true;
        if (w->hot) w->busy = l->now;
        ldc_loop_heat(o, w);
    }
    o->dirties = 0;
    if (l->now - o->swept < 10000) return;
    o->swept = l->now;
    for (uint32_t i = o->hot; i-- > 0;) {
        ldc_watch *w = o->who[i];
        if (l->now - w->busy < 10000 || w == &o->deep) continue;
        w->hot = false;
        if (ldc_loop_sink(o, w)) {
            ldc_loop_heat(o, w);
            continue;
        }
        w->hot = true;
        w->busy = l->now;
    }
    if (!o->deep_tried && o->n - o->hot > LDCORN_COLD) ldc_loop_deepen(l);
}

/* --- timers: a heap whose entries may be too early, never too late --- */

static void ldc_loop_place(ldc_loop *o, uint32_t i, ldc_due d) {
    o->heap[i] = d;
    d.timer->at = i + 1;
}

static void ldc_loop_up(ldc_loop *o, uint32_t i) {
    ldc_due d = o->heap[i];
    while (i && o->heap[(i - 1) / 2].key > d.key) {
        ldc_loop_place(o, i, o->heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    ldc_loop_place(o, i, d);
}

static void ldc_loop_down(ldc_loop *o, uint32_t i) {
    ldc_due d = o->heap[i];
    for (;;) {
        uint32_t c = 2 * i + 1;
        if (c >= o->due) break;
        if (c + 1 < o->due && o->heap[c + 1].key < o->heap[c].key) c++;
        if (o->heap[c].key >= d.key) break;
        ldc_loop_place(o, i, o->heap[c]);
        i = c;
    }
    ldc_loop_place(o, i, d);
}

/* due 0 disarms. Moving a deadline later costs nothing: the entry is corrected when it comes. */
static void ldc_loop_timer(ldcorn *l, ldc_timer *t, uint64_t due) {
    ldc_loop *o = &l->loop;
    t->due = due;
    if (due == 0 || (t->at && o->heap[t->at - 1].key <= due)) return;
    if (t->at == 0) {
        o->heap[o->due].timer = t;
        t->at = ++o->due;
    }
    o->heap[t->at - 1].key = due;
    ldc_loop_up(o, t->at - 1);
}

static void ldc_loop_forget(ldcorn *l, ldc_timer *t) {
    ldc_loop *o = &l->loop;
    uint32_t i = t->at;
    t->due = 0;
    t->at = 0;
    if (i-- == 0) return;
    if (i == --o->due) return;
    ldc_loop_place(o, i, o->heap[o->due]);
    ldc_loop_up(o, i);
    ldc_loop_down(o, o->heap[i].timer->at - 1);
}

/* The next timer that is really due, taken out of the heap, or NULL. */
static ldc_timer *ldc_loop_due(ldcorn *l, uint64_t by) {
    ldc_loop *o = &l->loop;
    while (o->due && o->heap[0].key <= by) {
        ldc_timer *t = o->heap[0].timer;
        if (t->due > by) {
            o->heap[0].key = t->due;
            ldc_loop_down(o, 0);
            continue;
        }
        if (t->due == 0) {
            ldc_loop_forget(l, t);
            continue;
        }
        ldc_loop_forget(l, t);
        return t;
    }
    return NULL;
}

static int ldc_loop_timeout(const ldcorn *l, int most) {
    const ldc_loop *o = &l->loop;
    uint64_t ms;
    if (o->due == 0) return most;
    if (o->heap[0].key <= l->now) return 0;
    ms = (o->heap[0].key - l->now + 999) / 1000;
    return most >= 0 && ms > (uint64_t)most ? most : ms > 60000 ? 60000 : (int)ms;
}

/* This second, made once in it. */
static ldc_str ldc_loop_date(ldcorn *l) {
    uint64_t second = l->wall / 1000;
    if (l->dated == second) return ldc_util_str(l->date, 29);
    l->dated = second;
    return ldc_util_date((time_t)second, l->date);
}

static uint64_t ldc_loop_after(const ldcorn *l, int64_t ms) {
    return ms < 0 ? 0 : l->now + (uint64_t)ms * 1000;
}

/* Descriptors or memory ran out: what had to wait is tried again soon. */
static void ldc_loop_lean(ldcorn *l) {
    l->lean = true;
    l->retry_at = l->now + 50000;
}

/* How many entries poll() has to see: where another looks at the cold ones, the hot ones alone. */
static uint32_t ldc_loop_polls(const ldc_loop *o) {
    return o->deep_on && o->deep.listed ? o->hot : o->n;
}

/* Waits. The busy prefix is polled every turn; the whole set when its time has come or the
   prefix is quiet: a look at an idle descriptor costs 0.1 to 0.2 us, too much for every turn. */
static int ldc_loop_wait(ldcorn *l, int timeout) {
    ldc_loop *o = &l->loop;
    uint64_t every = o->full_cost * 10 > 1000 ? o->full_cost * 10 : 1000, before;
    int n = 0;
    if (o->deep_on && o->deep.listed) { /* the cold ones are told of by one of the hot ones */
        o->polled = ldc_loop_polls(o);
        return poll(o->set, (nfds_t)o->hot, timeout);
    }
    if (o->n - o->hot > 64 && o->hot && !o->quiet && l->now - o->full_at < every) {
        int left = (int)((every - (l->now - o->full_at)) / 1000) + 1;
        o->polled = o->hot;
        n = poll(o->set, (nfds_t)o->hot, timeout >= 0 && timeout < left ? timeout : left);
        o->quiet = n == 0;
        if (n != 0 || timeout == 0) return n;
    }
    before = ldc_util_now();
    o->polled = o->n;
    if (o->n - o->hot > 64) { /* how dear is a look: only then does the second tier pay */
        n = poll(o->set, (nfds_t)o->n, 0);
        o->full_cost = ldc_util_now() - before;
    }
    if (n == 0) n = poll(o->set, (nfds_t)o->n, timeout);
    o->full_at = ldc_util_now();
    o->quiet = n == 0;
    return n;
}

/* @relay ------------------------------------------------------------------------------------
   Moves body bytes one way: decodes the source's framing, encodes the sink's, writes at once,
   keeps what the sink did not take. On Linux long bodies by length go through a pipe and are not
   looked at. Knows a flow and a descriptor, not who is behind them. */

static size_t ldc_relay_waiting(const ldc_flow *f) {
    return f->head.len - f->sent + ldc_buf_size(&f->buf);
}

static ssize_t ldc_relay_send(int fd, struct iovec *v, int n) {
    struct msghdr m;
    ssize_t w;
    memset(&m, 0, sizeof m);
    m.msg_iov = v;
    m.msg_iovlen = (uint8_t)n; /* int here, size_t there */
    do w = sendmsg(fd, &m, LDC_SENDFLAGS);
    while (w < 0 && errno == EINTR);
    if (w < 0 && ldc_util_again()) return 0;
    return w < 0 ? LDC_GONE : w;
}

static struct iovec ldc_relay_piece(const char *p, size_t n) {
    struct iovec v;
    v.iov_base = (void *)(uintptr_t)p;
    v.iov_len = n;
    return v;
}

/* Writes what waits, at most LDC_ONCE of a body: a kernel takes megabytes in one call, for
   milliseconds. Bytes written, or LDC_GONE. */
static ssize_t ldc_relay_flush(ldcorn *l, ldc_flow *f, int fd) {
    struct iovec v[2];
    int n = 0;
    ssize_t w;
    size_t head = f->head.len - f->sent, body = ldc_buf_size(&f->buf);
    if (body > LDC_ONCE) body = LDC_ONCE;
    if (head) v[n++] = ldc_relay_piece(f->head.p + f->sent, head);
    if (ldc_buf_size(&f->buf)) v[n++] = ldc_relay_piece(ldc_buf_at(&f->buf), body);
    if (n == 0) return 0;
    w = ldc_relay_send(fd, v, n);
    if (w <= 0) return w;
    if ((size_t)w < head) {
        f->sent += (uint32_t)w;
        return w;
    }
    f->sent = f->head.len;
    if ((size_t)w > head) ldc_buf_drop(&l->mem, &f->buf, (size_t)w - head);
    return w;
}

/* Sends the pieces behind what waits already; keeps the rest. */
static ssize_t ldc_relay_emit(ldcorn *l, ldc_flow *f, int fd, struct iovec *v, int n) {
    ssize_t w = 0;
    size_t skip;
    if (fd >= 0 && ldc_buf_size(&f->buf) == 0) { /* straight from the read buffer, no copy */
        struct iovec all[5];
        size_t head = f->head.len - f->sent;
        int m = 0;
        if (head) all[m++] = ldc_relay_piece(f->head.p + f->sent, head);
        for (int i = 0; i < n; i++) all[m++] = v[i];
        if (m) w = ldc_relay_send(fd, all, m);
        if (w < 0) return w;
        skip = (size_t)w < head ? (size_t)w : head;
        f->sent += (uint32_t)skip;
        skip = (size_t)w - skip;
    } else {
        skip = 0;
    }
    for (int i = 0; i < n; i++) {
        size_t cut = skip < v[i].iov_len ? skip : v[i].iov_len;
        skip -= cut;
        if (!ldc_buf_add(&l->mem, &f->buf, (const char *)v[i].iov_base + cut, v[i].iov_len - cut))
            return LDC_NOMEM;
    }
    return w;
}

/* --- long bodies from socket to socket --- */

static void ldc_relay_pipe_close(ldcorn *l) {
    if (l->pipe[0] >= 0) close(l->pipe[0]);
    if (l->pipe[1] >= 0) close(l->pipe[1]);
    l->pipe[0] = l->pipe[1] = -1;
}

#if defined(SPLICE_F_MOVE) && !defined(LDCORN_PORTABLE)

/* One pipe for all, empty between its uses, made when first needed. What it is for: tools/bench of
   this and of a build with LDCORN_PORTABLE, which copies, gave 0.34 and 0.67 of HAProxy's processor
   time for answers of 10 MiB, 0.51 and 0.81 for POSTs of 1 MiB, and 0.69 and 0.81 for answers of
   64 KiB; there only because little of the body is read together with the head. */
static bool ldc_relay_pipe(ldcorn *l) {
    int fd[2];
    if (l->unspliced) return false;
    if (l->pipe[0] >= 0) return true;
    if (!ldc_net_pipe(fd)) return false;
    l->pipe[0] = fd[0];
    l->pipe[1] = fd[1];
    fcntl(l->pipe[1], F_SETPIPE_SZ, LDC_PIPE); /* refused: the usual size does, too */
    return true;
}

static ssize_t ldc_relay_splice(ldcorn *l, int from, int to, size_t n) {
    ssize_t r;
    do r = splice(from, NULL, to, NULL, n, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    while (r < 0 && errno == EINTR);
    if (r < 0 && (errno == EINVAL || errno == ENOSYS)) { /* by reading and writing, then */
        l->unspliced = true;
        errno = EAGAIN;
    }
    return r;
}

/* What the sink did not take of n bytes in the pipe comes back to wait as usual, or is dropped: in
   the pipe it would be sent to whoever is next. */
static int ldc_relay_unpipe(ldcorn *l, ldc_flow *f, size_t n, bool keep) {
    bool room = keep && ldc_buf_room(&l->mem, &f->buf, n);
    while (n) {
        char *to = room ? f->buf.p + f->buf.len : l->scratch;
        ssize_t r = ldc_util_read(l->pipe[0], to, room || n < LDC_SCRATCH ? n : LDC_SCRATCH);
        if (r <= 0) { /* cannot be; a pipe whose content is not known serves nobody */
            ldc_relay_pipe_close(l);
            return LDC_GONE;
        }
        if (room) f->buf.len += (uint32_t)r;
        n -= (size_t)r;
    }
    return keep && !room ? LDC_NOMEM : 0;
}

/* Out of the pipe what the sink takes of *n bytes. There is no MSG_NOSIGNAL for splice(), and what
   SIGPIPE does is the host's to say: this thread does not hear of one that is ours. */
static ssize_t ldc_relay_pour(ldcorn *l, int to, size_t *n) {
    static const struct timespec now = {0, 0};
    sigset_t mine, old;
    ssize_t w = 0;
    int error;
    sigemptyset(&mine);
    sigaddset(&mine, SIGPIPE);
    sigprocmask(SIG_BLOCK, &mine, &old);
    while (*n && (w = ldc_relay_splice(l, l->pipe[0], to, *n)) > 0) *n -= (size_t)w;
    error = errno;
    if (w < 0 && error == EPIPE)
        while (sigtimedwait(&mine, NULL, &now) < 0 && errno == EINTR) continue;
    sigprocmask(SIG_SETMASK, &old, NULL);
    errno = error;
    return w;
}

/* Is so much to come, by length and with nothing waiting, that no byte needs our eyes? */
static bool ldc_relay_long(ldcorn *l, const ldc_flow *f, int to) {
    return f->left >= LDC_LONG && f->in == LDC_FRAME_LENGTH && f->out == LDC_FRAME_LENGTH &&
           to >= 0 && !f->discard && ldc_relay_waiting(f) == 0 && ldc_relay_pipe(l);
}

/* Moves what is there, up to LDC_SCRATCH bytes. *got as recv() has it: bytes, 0 at the end, -1 and
   errno. Returns as ldc_relay_push() does. */
static int ldc_relay_move(ldcorn *l, ldc_flow *f, int from, int to, ssize_t *got) {
    size_t n = f->left < LDC_SCRATCH ? (size_t)f->left : LDC_SCRATCH;
    ssize_t w = 0;
    *got = ldc_relay_splice(l, from, l->pipe[1], n);
    if (*got <= 0) return 0;
    n = (size_t)*got;
    f->left -= n;
    f->bytes += n;
    f->end = f->left == 0;
    w = ldc_relay_pour(l, to, &n);
    if (n == 0) return 0;
    if (w == 0 || ldc_util_again()) return ldc_relay_unpipe(l, f, n, true);
    ldc_relay_unpipe(l, f, n, false);
    return LDC_GONE;
}

#else

static bool ldc_relay_pipe(ldcorn *l) {
    (void)l;
    return false;
}

static bool ldc_relay_long(ldcorn *l, const ldc_flow *f, int to) {
    (void)l, (void)f, (void)to;
    return false;
}

static int ldc_relay_move(ldcorn *l, ldc_flow *f, int from, int to, ssize_t *got) {
    (void)l, (void)f, (void)from, (void)to;
    *got = 0;
    return 0;
}

#endif

/* Takes the source's bytes p[0..n): *used of them belong to this body. Decoding is in place.
   `last`: the source has ended, which completes a body that runs until then. 0, LDC_BAD for
   broken framing, LDC_GONE when the sink failed, LDC_NOMEM. */
static int ldc_relay_push(ldcorn *l, ldc_flow *f, char *p, size_t n, bool last, int fd,
                          size_t *used) {
    struct iovec v[4];
    char size[20];
    size_t body = n, digits;
    ptrdiff_t k;
    int m = 0;
    ssize_t w;
    *used = n;
    switch (f->in) {
    case LDC_FRAME_NONE: body = *used = 0; break;
    case LDC_FRAME_LENGTH:
        if (n > f->left) body = *used = (size_t)f->left;
        f->left -= body;
        f->end = f->left == 0;
        break;
    case LDC_FRAME_CHUNKED:
        k = ldc_chunk_decode(&f->chunk, p, n, &body);
        if (k < 0) return LDC_BAD;
        *used = (size_t)k;
        f->end = f->chunk.state == LDC_CHUNK_DONE;
        break;
    default: f->end = last; break;
    }
    f->bytes += body;
    if (f->discard) return 0;
    if (f->out == LDC_FRAME_CHUNKED && body) {
        digits = ldc_util_hexadecimal(body, size);
        memcpy(size + digits, "\r\n", 2);
        v[m++] = ldc_relay_piece(size, digits + 2);
    }
    if (body) v[m++] = ldc_relay_piece(p, body);
    if (f->out == LDC_FRAME_CHUNKED && body)
        v[m++] = ldc_relay_piece(f->end ? "\r\n0\r\n\r\n" : "\r\n", f->end ? 7 : 2);
    else if (f->out == LDC_FRAME_CHUNKED && f->end)
        v[m++] = ldc_relay_piece("0\r\n\r\n", 5);
    w = ldc_relay_emit(l, f, fd, v, m);
    return w < 0 ? (int)w : 0;
}

static void ldc_relay_free(ldcorn *l, ldc_flow *f) {
    ldc_buf_free(&l->mem, &f->head);
    ldc_buf_free(&l->mem, &f->buf);
    memset(f, 0, sizeof *f);
}

/* @group ------------------------------------------------------------------------------------
   Slots, choice, queue. The only place where a slot is taken or given back and where a request
   enters or leaves a line. Invariants: a worker's in_flight is the number of its connections
   that hold a slot; nobody waits while a slot is free; arrival order is kept. */

static void ldc_up_start_or_requeue(ldcorn *l, ldc_exchange *e, ldc_worker *w, bool *starved);

/* Is there room for one more request inside? What counts is the address, whatever led there. */
static bool ldc_group_slot(const ldc_worker *w) {
    int64_t limit = w->group->conf->s.max_req_per_worker;
    if (w->dial) return w->parked != NULL;
    return limit < 0 || (w->place ? w->place->inside : w->in_flight) < limit;
}

/* An upgrade reserves its place among the tunnels at the start. */
static bool ldc_group_takes(const ldc_worker *w, bool upgrade) {
    int64_t tunnels = w->group->conf->s.max_tunnels_per_worker;
    return w->state == LDC_PROC_READY && !w->candidate && !w->replaced && !w->held && !w->paused &&
           ldc_group_slot(w) && !(w->place && w->place->checks) &&
           (!upgrade || tunnels < 0 ||
            (w->place ? w->place->tunnels : w->tunnels + w->upgrades) < tunnels);
}

/* An upgrade begins or ends, or what has become a tunnel. */
static void ldc_group_upgrades(ldc_worker *w, int more) {
    w->upgrades += more;
    if (w->place) w->place->tunnels += more;
}

static void ldc_group_touch_all(ldc_worker *w);

static void ldc_group_tunnels(ldc_worker *w, int more) {
    w->tunnels += more;
    if (w->place) w->place->tunnels += more;
    ldc_group_touch_all(w);
}

/* --- places: the addresses of workers that somebody else runs. One that leaves a list and comes
   back, in this group or in another, is the same machine with the same requests inside. --- */

static ldc_place *ldc_group_place(ldcorn *l, const ldc_addr *a) {
    ldc_place *p = l->places;
    while (p && !ldc_conf_same_addr(&p->addr, a)) p = p->next;
    if (p == NULL) {
        p = (ldc_place *)ldc_mem_zero(&l->mem, sizeof *p);
        if (p == NULL) return NULL;
        p->addr = *a;
        p->addr.text = NULL; /* it may go before this does */
        p->next = l->places;
        l->places = p;
    }
    p->workers++;
    return p;
}

static void ldc_group_unplace(ldcorn *l, ldc_place *p, const ldc_worker *w) {
    ldc_place **at = &l->places;
    if (p == NULL) return;
    for (ldc_worker **o = &p->first; *o; o = &(*o)->next_placed) {
        if (*o != w) continue;
        *o = w->next_placed;
        break;
    }
    if (w) p->checks -= w->wants;
    if (--p->workers > 0) return;
    LDCORN_ASSERT(p->inside == 0);
    while (*at != p) at = &(*at)->next;
    *at = p->next;
    ldc_mem_free(&l->mem, p, sizeof *p);
}

/* least: the fewest inside, ties to the longest idle. lifo: the one freed last. round: the next in
   the order of indexes. */
static bool ldc_group_better(const ldc_group *g, const ldc_worker *a, const ldc_worker *b) {
    if (g->conf->balance == LDC_LIFO) return a->idle_since > b->idle_since;
    if (g->conf->balance == LDC_ROUND) {
        bool a_next = a->index > g->turn, b_next = b->index > g->turn;
        return a_next != b_next ? a_next : a->index < b->index;
    }
    if (a->in_flight != b->in_flight) return a->in_flight < b->in_flight;
    return a->idle_since < b->idle_since;
}

/* A check of a worker that is not ready waits for a slot of its address, or waits no more. Until it
   has one nobody else gets one, so that requests of others at that address cannot keep it out. */
static void ldc_group_want(ldcorn *l, ldc_worker *w, bool wants) {
    if (w->wants == wants) return;
    w->wants = wants;
    w->place->checks += wants ? 1 : -1;
    ldc_group_touch_all(w);
    l->look = l->look || !wants;
}

/* A slot of that address has come free. */
static void ldc_group_wanted(ldcorn *l, const ldc_place *p) {
    for (ldc_worker *w = p->checks ? p->first : NULL; w; w = w->next_placed) {
        if (w->wants) ldc_loop_timer(l, &w->timer, l->now);
    }
}

/* --- the rank --- */

static ldc_worker *ldc_group_winner(const ldc_group *g, ldc_worker *a, ldc_worker *b) {
    if (a == NULL || b == NULL) return a ? a : b;
    return g->conf->balance != LDC_ROUND && ldc_group_better(g, b, a) ? b : a;
}

/* What decides about the worker has changed. */
static void ldc_group_touch(ldc_worker *w) {
    const ldc_rank *r = &w->group->rank;
    int at = r->room + w->leaf;
    if (r->n == 0 || r->epoch != w->group->epoch) return; /* it will be made anew */
    r->node[at] = ldc_group_takes(w, false) ? w : NULL;
    while ((at /= 2) > 0) {
        ldc_worker *best = ldc_group_winner(w->group, r->node[2 * at], r->node[2 * at + 1]);
        if (r->node[at] == best && best != w) return;
        r->node[at] = best;
    }
}

static void ldc_group_touch_all(ldc_worker *w) { /* and those that share its address */
    ldc_group_touch(w);
    if (w->place == NULL || !w->place->ranked || w->place->workers < 2) return;
    for (ldc_worker *o = w->place->first; o; o = o->next_placed) ldc_group_touch(o);
}

static int ldc_group_rank_order(const void *x, const void *y) { /* for balance = round */
    const ldc_worker *a = *(ldc_worker *const *)x, *b = *(ldc_worker *const *)y;
    if (a->index != b->index) return a->index < b->index ? -1 : 1;
    return a->leaf < b->leaf ? -1 : a->leaf > b->leaf;
}

static void ldc_group_rank_free(ldcorn *l, ldc_rank *r) {
    ldc_mem_free(&l->mem, r->leaf, (size_t)r->room * 3 * sizeof *r->leaf);
    memset(r, 0, sizeof *r);
}

/* Workers have come, gone or changed their state. Few are looked through instead: n stays 0, as it
   does without memory. */
static void ldc_group_rank(ldcorn *l, ldc_group *g) {
    ldc_rank *r = &g->rank;
    int n = 0, room = 1;
    if (r->epoch == g->epoch) return;
    r->n = 0;
    r->epoch = g->epoch;
    for (const ldc_worker *w = g->workers; w; w = w->next) n++;
    if (n <= LDC_FEW) return;
    while (room < n) room *= 2;
    if (room != r->room) {
        ldc_group_rank_free(l, r);
        r->leaf = (ldc_worker **)ldc_mem_zero(&l->mem, (size_t)room * 3 * sizeof *r->leaf);
        if (r->leaf == NULL) return;
        r->epoch = g->epoch;
        r->room = room;
        r->node = r->leaf + room;
    }
    for (ldc_worker *w = g->workers; w; w = w->next) {
        w->leaf = r->n;
        if (w->place) w->place->ranked = true;
        r->leaf[r->n++] = w;
    }
    if (g->conf->balance == LDC_ROUND)
        qsort(r->leaf, (size_t)n, sizeof *r->leaf, ldc_group_rank_order);
    for (int i = 0; i < room; i++) {
        if (i < n) r->leaf[i]->leaf = i;
        r->node[room + i] = i < n && ldc_group_takes(r->leaf[i], false) ? r->leaf[i] : NULL;
    }
    for (int i = room - 1; i > 0; i--)
        r->node[i] = ldc_group_winner(g, r->node[2 * i], r->node[2 * i + 1]);
}

/* balance = round: the first behind the one that had its turn, or the first of all. */
static ldc_worker *ldc_group_rank_next(const ldc_group *g) {
    const ldc_rank *r = &g->rank;
    int low = 0, high = r->n, at;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (r->leaf[middle]->index <= g->turn)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == r->n) return r->node[1];
    at = r->room + low;
    if (r->node[at]) return r->node[at];
    for (; at > 1; at /= 2) {
        if (at % 2 == 0 && r->node[at + 1]) return r->node[at + 1];
    }
    return r->node[1];
}

/* Does the worker keep its keys? One that is full, starting or in back-off does; down, failed or
   retired ones lose theirs, and no others move. */
static bool ldc_group_keeps(const ldc_worker *w) {
    return !w->candidate && !w->replaced && !w->paused && !w->relieves &&
           w->state != LDC_PROC_DOWN && w->state != LDC_PROC_FAILED &&
           w->state != LDC_PROC_DRAINING && w->state != LDC_PROC_GONE;
}

/* Workers have changed: keys may belong to others now, and those may be free. */
static void ldc_group_moved(ldcorn *l, ldc_group *g) {
    g->epoch++;
    l->look = l->look || g->queued > 0;
}

static void ldc_group_keepers_free(ldcorn *l, ldc_keepers *k) {
    ldc_mem_free(&l->mem, k->hash, (size_t)k->room * 16 + LDC_SEEN * sizeof *k->seen);
    memset(k, 0, sizeof *k);
}

/* False: there is no memory for them. */
static bool ldc_group_keepers(ldcorn *l, ldc_group *g) {
    ldc_keepers *k = &g->keepers;
    int n = 0;
    if (k->hash && k->epoch == g->epoch) return true;
    for (const ldc_worker *w = g->workers; w; w = w->next) n += ldc_group_keeps(w);
    if (k->hash == NULL || n > k->room || n < k->room / 4) {
        int room = n + n / 2;
        ldc_group_keepers_free(l, k);
        k->hash = (uint64_t *)ldc_mem_resize(&l->mem, NULL, 0,
                                             (size_t)room * 16 + LDC_SEEN * sizeof *k->seen);
        if (k->hash == NULL) return false;
        k->room = room;
        k->worker = (ldc_worker **)(void *)(k->hash + room);
        k->seen = (ldc_keeper *)(void *)(k->hash + 2 * room);
    }
    k->n = 0;
    k->epoch = g->epoch;
    memset(k->seen, 0, LDC_SEEN * sizeof *k->seen);
    for (ldc_worker *w = g->workers; w; w = w->next) {
        if (!ldc_group_keeps(w)) continue;
        k->hash[k->n] = ldc_util_mix(w->identity);
        k->worker[k->n++] = w;
    }
    return true;
}

/* The worker that a key belongs to: the highest of its scores with each of them (rendezvous
   hashing), so that a worker that comes or goes moves only its own share. NULL: there is none. */
static ldc_worker *ldc_group_rendezvous(const ldc_keepers *k, uint64_t hash) {
    ldc_keeper *seen = &k->seen[hash % LDC_SEEN];
    uint64_t most = 0;
    int best = 0;
    if (seen->worker && seen->hash == hash) return seen->worker;
    for (int i = 0; i < k->n; i++) { /* both are mixed: the upper bits of a product are, too */
        uint64_t score = (hash ^ k->hash[i]) * 0x9E3779B97F4A7C15ULL;
        if (score <= most) continue;
        most = score;
        best = i;
    }
    seen->hash = hash;
    seen->worker = k->n ? k->worker[best] : NULL;
    return seen->worker;
}

static ldc_worker *ldc_group_owner(ldcorn *l, ldc_group *g, ldc_exchange *e) {
    if (e->owner_at == g->epoch) return e->owner;
    if (!ldc_group_keepers(l, g)) return NULL; /* asked again at the next look */
    e->owner = ldc_group_rendezvous(&g->keepers, ldc_util_mix(e->hash));
    e->owner_at = g->epoch;
    return e->owner;
}

static ldc_worker *ldc_group_best(const ldc_group *g, bool upgrade) {
    ldc_worker *best = NULL;
    for (ldc_worker *w = g->workers; w; w = w->next) {
        if (ldc_group_takes(w, upgrade) && (best == NULL || ldc_group_better(g, w, best))) best = w;
    }
    return best;
}

static ldc_worker *ldc_group_choose(ldcorn *l, ldc_group *g, ldc_exchange *e) {
    ldc_worker *best;
    if (g->paused) return NULL;
    if (e->hashed) {
        best = ldc_group_owner(l, g, e);
        return best && ldc_group_takes(best, e->upgrade) ? best : NULL;
    }
    ldc_group_rank(l, g);
    if (g->rank.n == 0) return ldc_group_best(g, e->upgrade);
    best = g->conf->balance == LDC_ROUND ? ldc_group_rank_next(g) : g->rank.node[1];
    LDCORN_ASSERT(best == ldc_group_best(g, false));
    if (best && e->upgrade && !ldc_group_takes(best, true)) return ldc_group_best(g, true);
    return best;
}

static int ldc_group_inside(const ldc_group *g) {
    int n = 0;
    for (const ldc_worker *w = g->workers; w; w = w->next) n += w->in_flight;
    return n;
}

/* Is anybody there? Who dials in is, while a connection takes requests. */
static bool ldc_group_staffed(const ldc_worker *w) { return !w->dial || w->conns > w->tunnels; }

static int ldc_group_ready(const ldc_group *g) {
    int n = 0;
    for (const ldc_worker *w = g->workers; w; w = w->next)
        n += w->state == LDC_PROC_READY && !w->candidate && !w->replaced && !w->paused &&
             ldc_group_staffed(w);
    return n;
}

/* Slots of the ready workers, 0 where there is no limit. */
static int64_t ldc_group_slots(const ldc_group *g) {
    int64_t n = 0;
    for (const ldc_worker *w = g->workers; w && g->conf->source == LDC_FROM_DIAL; w = w->next)
        n += w->conns - w->tunnels;
    if (g->conf->source == LDC_FROM_DIAL) return n;
    return g->conf->limited ? ldc_group_ready(g) * g->conf->s.max_req_per_worker : 0;
}

/* Will the worker take requests before `by` (0: no deadline)? */
static bool ldc_group_promises(const ldc_worker *w, uint64_t by) {
    if (w->candidate || (w->replaced && !w->respawn) || w->paused) return false;
    if (w->state == LDC_PROC_READY || w->state == LDC_PROC_STARTING ||
        w->state == LDC_PROC_STOPPING)
        return true;
    return (w->state == LDC_PROC_BACKOFF || w->state == LDC_PROC_DOWN) &&
           (by == 0 || w->probe_at <= by);
}

/* Will somebody take this request (NULL: any) before `by`? A paused group will be resumed. */
static bool ldc_group_hope(ldcorn *l, ldc_group *g, ldc_exchange *e, uint64_t by) {
    if (g->paused) return true;
    if (e && e->hashed) {
        const ldc_worker *w = ldc_group_owner(l, g, e);
        return w && ldc_group_promises(w, by);
    }
    for (const ldc_worker *w = g->workers; w; w = w->next) {
        if (ldc_group_promises(w, by)) return true;
    }
    return false;
}

/* --- groups by name: there is one of each --- */

static ldc_group **ldc_group_named(ldcorn *l, const char *name) {
    uint64_t hash = ldc_util_mix(ldc_util_fnv(name, strlen(name), 0));
    ldc_group **at = &l->named[hash % LDC_NAMES];
    while (*at && strcmp((*at)->name, name) != 0) at = &(*at)->alike;
    return at;
}

static ldc_group *ldc_group_find(ldcorn *l, const char *name) { return *ldc_group_named(l, name); }

/* --- limits per client: a table of the clients seen last, keyed by a seeded hash. An entry that
   nobody is inside of and whose bucket is full again says nothing and leaves first. --- */

static uint64_t ldc_group_key(const ldcorn *l, const char *kind, ldc_str value) {
    return ldc_util_mix(ldc_util_fnv(value.p, value.n, ldc_util_fnv(kind, 1, l->id_seed)));
}

static void ldc_group_share_unlink(ldc_shares *t, ldc_share *s) {
    ldc_share **at = &t->slot[s->key % LDC_SHARE_SLOTS];
    while (*at != s) at = &(*at)->next;
    *at = s->next;
    *(s->older ? &s->older->newer : &t->old) = s->newer;
    *(s->newer ? &s->newer->older : &t->young) = s->older;
    t->n--;
}

static ldc_share *ldc_group_share_new(ldcorn *l, ldc_shares *t) {
    ldc_share *s = t->n < LDC_SHARES ? NULL : t->old;
    int looked = 0;
    if (t->slot == NULL)
        t->slot = (ldc_share **)ldc_mem_zero(&l->mem, LDC_SHARE_SLOTS * sizeof *t->slot);
    if (t->slot == NULL) return NULL;
    while (s && (s->inside || s->full_at > l->now) && ++looked < 64) s = s->newer;
    if (t->n >= LDC_SHARES) { /* none at rest among the oldest: one that only loses its bucket */
        if (looked == 64)
            for (s = t->old; s && s->inside; s = s->newer) continue;
        if (s) ldc_group_share_unlink(t, s);
        return s;
    }
    return (ldc_share *)ldc_mem_resize(&l->mem, NULL, 0, sizeof *s);
}

/* The entry of a client, made where it is new; NULL: no memory, or nobody can leave. */
static ldc_share *ldc_group_share(ldcorn *l, ldc_group *g, uint64_t key) {
    ldc_shares *t = &g->shares;
    ldc_share *s = t->slot ? t->slot[key % LDC_SHARE_SLOTS] : NULL;
    uint64_t full_at = 0;
    int64_t inside = 0;
    while (s && s->key != key) s = s->next;
    if (s) {
        full_at = s->full_at;
        inside = s->inside;
        ldc_group_share_unlink(t, s);
    } else if ((s = ldc_group_share_new(l, t)) == NULL) {
        return NULL;
    }
    s->key = key;
    s->full_at = full_at;
    s->inside = inside;
    s->next = t->slot[key % LDC_SHARE_SLOTS];
    t->slot[key % LDC_SHARE_SLOTS] = s;
    s->newer = NULL;
    s->older = t->young;
    *(t->young ? &t->young->newer : &t->old) = s;
    t->young = s;
    t->n++;
    return s;
}

static void ldc_group_shares_free(ldcorn *l, ldc_shares *t) {
    while (t->old) {
        ldc_share *s = t->old;
        t->old = s->newer;
        ldc_mem_free(&l->mem, s, sizeof *s);
    }
    ldc_mem_free(&l->mem, t->slot, LDC_SHARE_SLOTS * sizeof *t->slot);
    memset(t, 0, sizeof *t);
}

/* A token bucket as one number: the time at which it is full again. A request moves it by its
   price; it may lie `burst` prices ahead. */
static bool ldc_group_rate(ldcorn *l, ldc_exchange *e, ldc_str key, bool named) {
    const ldc_rate *rate = &e->group->conf->rate;
    ldc_share *s = ldc_group_share(l, e->group, ldc_group_key(l, named ? "h" : "r", key));
    uint64_t at, most = rate->each * rate->burst;
    if (s == NULL) return true;
    at = (s->full_at > l->now ? s->full_at : l->now) + rate->each;
    if (at > l->now + most) {
        e->retry_after = (int)((at - l->now - most + 999999) / 1000000);
        return false;
    }
    s->full_at = at;
    return true;
}

static bool ldc_group_client(ldcorn *l, ldc_exchange *e, ldc_str address) {
    ldc_share *s = ldc_group_share(l, e->group, ldc_group_key(l, "c", address));
    if (s == NULL) return true;
    if (s->inside >= e->group->conf->s.max_req_per_client) {
        e->retry_after = 1;
        return false;
    }
    s->inside++;
    e->share = s;
    return true;
}

static void ldc_group_unshare(ldc_exchange *e) {
    if (e->share) e->share->inside--;
    e->share = NULL;
}

/* --- buffer_memory: an eighth is for heads (@client), half is divided among the groups as their
   guarantee, the rest goes to whoever comes first. A client's part is reserved before it is
   read, so no client and no group can use up another's. --- */

static uint64_t ldc_group_guarantee(const ldcorn *l) {
    return (uint64_t)l->conf->s.buffer_memory / 2 /
           (uint64_t)(l->conf->groups ? l->conf->groups : 1);
}

static uint64_t ldc_group_shared(const ldcorn *l) {
    return (uint64_t)l->conf->s.buffer_memory / 8 * 3;
}

/* What a group can have at most. */
static uint64_t ldc_group_memory(const ldcorn *l) {
    return ldc_group_guarantee(l) + ldc_group_shared(l);
}

static uint64_t ldc_group_beyond(const ldc_group *g, uint64_t own) {
    return g->held > own ? g->held - own : 0;
}

/* Sets what `e` holds to n bytes. False: there is not that much, nothing has changed. A quarter is
   for small amounts only, so that large ones, promised by a head alone, never shut them out. */
static bool ldc_group_hold(ldcorn *l, ldc_exchange *e, uint64_t n) {
    uint64_t own = ldc_group_guarantee(l), shared;
    ldc_group *g = e->group;
    if (own != l->beyond_own) { /* a reload has changed it */
        l->beyond_own = own;
        l->beyond = 0;
        for (const ldc_group *o = l->groups; o; o = o->next) l->beyond += ldc_group_beyond(o, own);
    }
    shared = l->beyond - ldc_group_beyond(g, own);
    if (n > e->held) {
        uint64_t more = g->held - e->held + n;
        if (n > LDC_COLLECT) more += ldc_group_memory(l) / 4;
        if (more > own && shared + more - own > ldc_group_shared(l)) return false;
    } else if (n < e->held) {
        l->freed = true;
    }
    g->held = g->held - e->held + n;
    e->held = n;
    l->beyond = shared + ldc_group_beyond(g, own);
    return true;
}

/* Gives back what is not needed any more: bytes that wait, beyond what anybody may have. */
static void ldc_group_settle(ldcorn *l, ldc_exchange *e) {
    size_t body = e->collect && !e->sent ? ldc_buf_size(&e->req.buf) : 0;
    size_t answer = ldc_relay_waiting(&e->res);
    uint64_t need = body + (answer > LDC_AHEAD ? answer : 0);
    if (need < e->held) ldc_group_hold(l, e, need);
}

static void ldc_group_lack(ldcorn *l, ldc_exchange *e) { /* in line for memory */
    ldc_group *g = e->group;
    e->memory = true;
    l->lacking++;
    e->behind = NULL;
    e->ahead = g->lack_end;
    *(g->lack_end ? &g->lack_end->behind : &g->lack) = e;
    g->lack_end = e;
}

static void ldc_group_unlack(ldcorn *l, ldc_exchange *e) {
    ldc_group *g = e->group;
    if (!e->memory) return;
    l->lacking--;
    *(e->ahead ? &e->ahead->behind : &g->lack) = e->behind;
    *(e->behind ? &e->behind->ahead : &g->lack_end) = e->ahead;
    e->ahead = e->behind = NULL;
    e->memory = false;
}

/* The longest waiter of all groups for whom there is memory now, NULL if there is none. */
static ldc_exchange *ldc_group_fed(ldcorn *l) {
    uint64_t tried = 0;
    for (;;) {
        ldc_exchange *e = NULL;
        for (ldc_group *g = l->groups; g; g = g->next) {
            if (g->lack && g->lack->queued >= tried && (e == NULL || g->lack->queued < e->queued))
                e = g->lack;
        }
        if (e == NULL) return NULL;
        if (ldc_group_hold(l, e, e->collect)) {
            ldc_group_unlack(l, e);
            return e;
        }
        tried = e->queued + 1;
    }
}

/* For a request or, without an exchange, for a health check, which drained and paused workers get
   too. */
static void ldc_group_take(ldc_up *u) {
    LDCORN_ASSERT(!u->slot && (u->worker->dial ||
                               (u->exchange ? ldc_group_takes(u->worker, u->exchange->upgrade)
                                            : ldc_group_slot(u->worker))));
    u->slot = true;
    u->worker->in_flight++;
    if (u->worker->place) u->worker->place->inside++;
    if (u->exchange) u->worker->group->turn = u->worker->index;
    u->upgrade = u->exchange && u->exchange->upgrade;
    ldc_group_upgrades(u->worker, u->upgrade);
    ldc_group_touch_all(u->worker);
}

/* `forced`: the worker may still be at it (the two exceptions, and close where it was asked). */
static void ldc_group_give(ldcorn *l, ldc_up *u, bool forced) {
    ldc_worker *w = u->worker;
    if (!u->slot) return;
    u->slot = false;
    w->in_flight--;
    if (w->place) w->place->inside--;
    if (w->place) ldc_group_wanted(l, w->place);
    if (w->place && w->place->workers > 1 && l->waiting > 0)
        l->look = true; /* others may wait for the same address */
    ldc_group_upgrades(w, -u->upgrade);
    u->upgrade = false;
    w->idle_since = l->now;
    ldc_group_touch_all(w);
    if (forced && w->group->conf->limited) w->group->forced++;
    if (w->in_flight == 0 && w->state == LDC_PROC_DRAINING) l->upset = true; /* a roll may go on */
    if (w->in_flight == 0 || w->state == LDC_PROC_DRAINING) ldc_proc_idle(l, w);
    ldc_group_next(l, w->group);
}

static void ldc_group_push(ldcorn *l, ldc_group *g, ldc_exchange *e, bool front) {
    LDCORN_ASSERT(!e->waiting);
    e->ahead = e->behind = NULL;
    if (g->head == NULL)
        g->head = g->tail = e;
    else if (front) {
        e->behind = g->head;
        g->head->ahead = e;
        g->head = e;
    } else {
        e->ahead = g->tail;
        g->tail->behind = e;
        g->tail = e;
    }
    e->waiting = true;
    g->queued++;
    l->waiting++;
    g->upgrades += e->upgrade;
}

static void ldc_group_pop(ldcorn *l, ldc_exchange *e) {
    ldc_group *g = e->group;
    if (!e->waiting) return;
    if (e->ahead)
        e->ahead->behind = e->behind;
    else
        g->head = e->behind;
    if (e->behind)
        e->behind->ahead = e->ahead;
    else
        g->tail = e->ahead;
    e->ahead = e->behind = NULL;
    e->waiting = false;
    g->queued--;
    l->waiting--;
    g->upgrades -= e->upgrade;
}

/* The oldest waiter that a worker can take now, and that worker. An upgrade for which there is no
   tunnel left lets the requests behind it pass, and so does one that waits for its own worker. */
static ldc_exchange *ldc_group_first(ldcorn *l, ldc_group *g, ldc_worker **w) {
    ldc_exchange *e = g->head;
    if (e == NULL) return NULL;
    *w = ldc_group_choose(l, g, e);
    if (*w) return e;
    if (g->conf->balance == LDC_HASH) {
        while (e && (*w = ldc_group_choose(l, g, e)) == NULL) e = e->behind;
        return e;
    }
    if (!e->upgrade || g->upgrades == g->queued) return NULL;
    while (e && e->upgrade) e = e->behind;
    *w = e ? ldc_group_choose(l, g, e) : NULL;
    return *w ? e : NULL;
}

/* Gives free slots to the oldest waiters, in this turn. A start that fails at once comes back
   here through a give; the flag makes that a turn of this loop, not a recursion. */
static void ldc_group_next(ldcorn *l, ldc_group *g) {
    bool starved = false;
    ldc_exchange *e;
    ldc_worker *w = NULL;
    if (g->starting) return;
    g->starting = true;
    while (!starved && (e = ldc_group_first(l, g, &w)) != NULL) {
        ldc_group_pop(l, e);
        ldc_up_start_or_requeue(l, e, w, &starved);
    }
    g->starting = false;
}

/* After a worker was lost: whoever cannot be served before the deadline hears it now. A refusal
   may change the line, so the next look begins at its head. */
static void ldc_group_review(ldcorn *l, ldc_group *g) {
    ldc_exchange *e = g->head;
    while (e) {
        if (ldc_group_hope(l, g, e, e->queue_by)) {
            e = e->behind;
            continue;
        }
        ldc_client_refuse(l, e, LDC_WHY_NO_WORKER);
        e = g->head;
    }
}

/* ceil(length x mean / slots) in 1 .. 60 seconds; the end of the back-off where none is ready. */
static int ldc_group_retry_after(const ldcorn *l, const ldc_group *g) {
    int64_t slots = ldc_group_slots(g);
    uint64_t s = 1;
    if (ldc_group_ready(g) == 0) {
        for (const ldc_worker *w = g->workers; w; w = w->next) {
            if (w->probe_at > l->now && (w->state == LDC_PROC_BACKOFF || w->state == LDC_PROC_DOWN))
                s = (w->probe_at - l->now + 999999) / 1000000;
        }
    } else if (slots > 0) {
        s = ((uint64_t)g->queued * g->mean / (uint64_t)slots + 999999) / 1000000;
    }
    return s < 1 ? 1 : s > 60 ? 60 : (int)s;
}

static void ldc_group_refused(ldcorn *l, ldc_group *g, ldc_why why) {
    g->refused[why]++;
    if (l->report_at == 0) l->report_at = l->now;
}

/* A worker for a newcomer: nobody may wait for the same. */
static ldc_worker *ldc_group_free(ldcorn *l, ldc_group *g, ldc_exchange *e) {
    ldc_worker *w = NULL;
    if (g->conf->balance == LDC_HASH) {
        if ((w = ldc_group_choose(l, g, e)) == NULL) return NULL;
        for (ldc_exchange *o = g->head; o; o = o->behind) {
            if (o->hashed != e->hashed || (o->hashed && ldc_group_owner(l, g, o) != w)) continue;
            if (e->upgrade || !o->upgrade) return NULL;
        }
        return w;
    }
    if (e->upgrade ? g->queued > 0 : g->queued > g->upgrades) return NULL;
    return ldc_group_choose(l, g, e);
}

/* What the group says to a request before any of its body is asked for, and again when it comes
   in line. */
static ldc_why ldc_group_admits(ldcorn *l, ldc_exchange *e) {
    ldc_group *g = e->group;
    int64_t waiting = g->queued;
    e->queued = l->now;
    e->queue_by = ldc_loop_after(l, g->conf->s.queue_timeout);
    if (!ldc_group_hope(l, g, e, e->queue_by)) return LDC_WHY_NO_WORKER;
    if (g->conf->s.max_tunnels_per_worker >= 0) /* those that wait for a tunnel are no one's way */
        waiting = e->upgrade ? g->upgrades : g->queued - g->upgrades;
    if (waiting >= g->conf->s.queue && !ldc_group_free(l, g, e))
        return LDC_WHY_FULL; /* queue = 0 refuses at once */
    return LDC_WHY_NONE;
}

/* Into a worker, or in line, or refused. */
static void ldc_group_submit(ldcorn *l, ldc_exchange *e) {
    ldc_group *g = e->group;
    ldc_why why = ldc_group_admits(l, e);
    ldc_worker *w;
    bool starved = false;
    if (why) {
        ldc_client_refuse(l, e, why);
        return;
    }
    if ((w = ldc_group_free(l, g, e)) != NULL) {
        ldc_up_start_or_requeue(l, e, w, &starved);
        return;
    }
    ldc_group_push(l, g, e, false);
    ldc_client_update(l, e->client);
}

/* "ml: 13 requests refused with 503 in 10s: queue full (...)" */
static void ldc_group_say(ldcorn *l, ldc_group *g, ldc_why why, bool summed, const char *detail) {
    uint64_t n = g->refused[why] - g->refused_said[why];
    if (n == 0) return;
    ldc_log_say(&l->log, LDCORN_LOG_WARN, "%s: %llu request%s refused with %d%s: %s (%s)", g->name,
                (unsigned long long)n, n == 1 ? "" : "s", ldc_log_reasons[why].status,
                summed ? " in 10s" : "", ldc_log_reasons[why].text, detail);
    g->refused_said[why] = g->refused[why];
}

/* The limit that a refusal is about: key, value, and how things stand. Empty: none of the group's. */
static void ldc_group_detail(const ldcorn *l, const ldc_group *g, ldc_why why, char *out,
                             size_t room) {
    const ldcorn_group_desc *s = &g->conf->s;
    char busy[100], a[24], b[24];
    out[0] = 0;
    snprintf(busy, sizeof busy, "%d of %lld slots busy, mean %s per request", ldc_group_inside(g),
             (long long)ldc_group_slots(g), ldc_util_span(g->mean / 1000, b));
    if (why == LDC_WHY_FULL)
        snprintf(out, room, "queue = %lld, oldest waits %s, %s", (long long)s->queue,
                 ldc_util_span(g->head ? (l->now - g->head->queued) / 1000 : 0, a), busy);
    else if (why == LDC_WHY_TIMEOUT)
        snprintf(out, room, "queue_timeout = %s, %d waiting, %s",
                 ldc_util_span((uint64_t)s->queue_timeout, a), g->queued, busy);
    else if (why == LDC_WHY_NO_WORKER && g->conf->source == LDC_FROM_PROCESSES)
        snprintf(out, room, "workers = %lld", (long long)s->workers);
    else if (why == LDC_WHY_NO_WORKER && g->conf->source == LDC_FROM_DIAL)
        snprintf(out, room, "dial_in: nobody takes requests at %s", g->conf->dial.text);
    else if (why == LDC_WHY_NO_WORKER)
        snprintf(out, room, "upstream%s: none can be reached",
                 g->conf->dynamic ? " = dynamic" : "");
    else if (why == LDC_WHY_MEMORY)
        snprintf(out, room, "buffer_memory = %lldK, this group holds %lluK",
                 (long long)l->conf->s.buffer_memory / 1024, (unsigned long long)g->held / 1024);
    else if (why == LDC_WHY_CLIENT_LIMIT)
        snprintf(out, room, "max_req_per_client = %lld", (long long)s->max_req_per_client);
    else if (why == LDC_WHY_RATE)
        snprintf(out, room, "rate = %s", s->rate && s->rate[0] ? s->rate[0] : "none");
}

/* One line per group, limit and ten seconds, with the key to change; the first at once. False:
   there is more to say later. */
static bool ldc_group_report(ldcorn *l, ldc_group *g) {
    static const ldc_why whys[] = {LDC_WHY_FULL,   LDC_WHY_TIMEOUT,      LDC_WHY_NO_WORKER,
                                   LDC_WHY_MEMORY, LDC_WHY_CLIENT_LIMIT, LDC_WHY_RATE};
    char text[240];
    bool summed = g->said_at && l->now - g->said_at < 11000000, any = false;
    for (size_t i = 0; i < LDC_LEN(whys); i++)
        any = any || g->refused[whys[i]] != g->refused_said[whys[i]];
    if (!any) return true;
    if (g->said_at && l->now - g->said_at < 10000000) return false;
    g->said_at = l->now;
    for (size_t i = 0; i < LDC_LEN(whys); i++) {
        ldc_group_detail(l, g, whys[i], text, sizeof text);
        ldc_group_say(l, g, whys[i], summed, text);
    }
    return true;
}

static void ldc_group_measure(ldc_histogram *h, uint64_t us) {
    static const uint32_t edges[LDC_BUCKETS - 1] = {1000,    5000,     10000,    25000,   50000,
                                                    100000,  250000,   500000,   1000000, 2500000,
                                                    5000000, 10000000, 30000000, 60000000};
    int i = 0;
    while (i < LDC_BUCKETS - 1 && us > edges[i]) i++;
    h->bucket[i]++;
    h->sum += us;
    h->count++;
}

/* @up ---------------------------------------------------------------------------------------
   One connection to a worker: opened or reused, the request sent, the answer read. Owns the
   connection and, when the client is gone, the exchange (an orphan). */

static void ldc_up_set(ldc_up *u, ldc_up_state to) {
    LDCORN_ASSERT(u->state == to || (ldc_up_rows[u->state].next & (1u << to)));
    u->state = (uint8_t)to;
    ldc_loop_progress(&u->watch);
}

static void ldc_up_unpark(ldc_up *u) {
    if (u->prev_parked == NULL) return;
    *u->prev_parked = u->next_parked;
    if (u->next_parked)
        u->next_parked->prev_parked = u->prev_parked;
    else
        u->worker->parked_end = u->prev_parked;
    u->prev_parked = NULL;
    u->next_parked = NULL;
    u->worker->parked_count--;
    if (u->worker->dial) ldc_group_touch(u->worker);
}

/* Marks it dead. The end of our side is visible to the worker at once, so that a limited worker
   never has more open connections than its limit; the descriptor itself goes with the turn. */
static void ldc_up_close(ldcorn *l, ldc_up *u) {
    bool tunnel = u->tunnel_slot, idle;
    if (u->state == LDC_UP_DEAD) return;
    ldc_up_unpark(u);
    if (tunnel) {
        u->tunnel_slot = false;
        ldc_group_tunnels(u->worker, -1);
        l->look = l->look || u->worker->group->upgrades > 0 ||
                  (u->worker->place && u->worker->place->workers > 1 && l->waiting > 0);
    }
    if (u->worker->probe == u) u->worker->probe = NULL;
    ldc_up_set(u, LDC_UP_DEAD);
    shutdown(u->watch.fd, SHUT_RDWR);
    ldc_loop_close(l, &u->watch);
    ldc_loop_forget(l, &u->timer);
    u->worker->conns--;
    l->dials -= u->worker->dial;
    *u->prev = u->next;
    if (u->next) u->next->prev = u->prev;
    u->prev = NULL;
    u->next = l->dead_ups;
    l->dead_ups = u;
    idle = u->worker->in_flight == 0 || (tunnel && u->worker->state == LDC_PROC_DRAINING);
    if (u->worker->tunnels == 0 && idle) ldc_proc_idle(l, u->worker);
}

/* Is the worker to answer, because it gets no more of the request, or to take what waits for it? The
   gap between its steps is bounded. */
static bool ldc_up_owes(const ldc_up *u) {
    const ldc_exchange *e = u->exchange;
    return u->pushing || (u->reading && (e->sent || u->half || e->req.discard));
}

/* Nothing more is sent: what is left of the request cannot be completed, or is not wanted. From here
   on the worker's time runs. */
static void ldc_up_half(ldcorn *l, ldc_up *u, bool tell) {
    ldc_exchange *e = u->exchange;
    u->half = true;
    u->gap = l->now;
    e->req.discard = true;
    ldc_buf_free(&l->mem, &e->req.buf);
    if (tell) shutdown(u->watch.fd, SHUT_WR);
}

/* Since when: a connect that had to wait has a time-out of its own. */
static uint64_t ldc_up_inside(const ldc_exchange *e) {
    return e->connected > e->started ? e->connected : e->started;
}

static void ldc_up_rearm(ldcorn *l, ldc_up *u) {
    ldc_exchange *e = u->exchange;
    const ldcorn_group_desc *s = &u->worker->group->conf->s;
    uint64_t due = u->by, t;
    if (u->state == LDC_UP_PARKED)
        due = u->worker->dial ? 0 : ldc_loop_after(l, s->worker_keepalive);
    if (u->state == LDC_UP_BUSY && e && u->by == 0) {
        if (s->run_timeout >= 0) {
            t = ldc_up_inside(e) + (uint64_t)s->run_timeout * 1000;
            if (due == 0 || t < due) due = t;
        }
        if (s->response_timeout >= 0 && ldc_up_owes(u)) {
            t = u->gap + (uint64_t)s->response_timeout * 1000;
            if (due == 0 || t < due) due = t;
        }
    }
    ldc_loop_timer(l, &u->timer, due);
}

/* May more be read ahead of the client? 64K always; in a limited group up to response_buffer as
   far as memory goes, so that the slot is free early, and then not before half of it has gone. */
static bool ldc_up_room(ldcorn *l, const ldc_up *u) {
    ldc_exchange *e = u->exchange;
    size_t waiting = ldc_relay_waiting(&e->res);
    uint64_t most = (uint64_t)e->group->conf->s.response_buffer, body;
    if (waiting < LDC_AHEAD) return true;
    if (!e->group->conf->limited || u->state != LDC_UP_BUSY || waiting + LDC_SCRATCH > most)
        return false;
    if (!u->reading && waiting > most / 2) return false;
    body = e->collect && !e->sent ? ldc_buf_size(&e->req.buf) : 0;
    if (body + waiting + LDC_SCRATCH <= e->held) return true;
    return ldc_group_hold(l, e, body + waiting + LDC_SCRATCH);
}

static void ldc_up_update(ldcorn *l, ldc_up *u) {
    ldc_exchange *e = u->exchange;
    bool reading = true, pushing;
    short want = 0;
    if (u->state == LDC_UP_DEAD) return;
    if (e && !e->res.discard) reading = ldc_up_room(l, u);
    if (u->state == LDC_UP_CONNECT)
        want = u->connected ? POLLOUT : 0;
    else if (reading && !(u->state == LDC_UP_TUNNEL && e && e->res.end))
        want = POLLIN;
    if (e && u->state != LDC_UP_CONNECT && ldc_relay_waiting(&e->req) && !u->half)
        want = (short)(want | POLLOUT);
    pushing = (want & POLLOUT) != 0 && u->state == LDC_UP_BUSY;
    if ((reading && !u->reading) || (pushing && !u->pushing)) u->gap = l->now; /* it stood still */
    u->reading = reading;
    u->pushing = pushing;
    ldc_loop_want(l, &u->watch, want);
    ldc_up_rearm(l, u);
}

static ldc_up *ldc_up_new(ldcorn *l, ldc_worker *w, int fd) {
    ldc_up *u = (ldc_up *)l->spare_up;
    if (u)
        memcpy(&l->spare_up, u, sizeof(void *));
    else
        u = (ldc_up *)ldc_mem_resize(&l->mem, NULL, 0, sizeof *u);
    if (u == NULL) return NULL;
    memset(u, 0, sizeof *u);
    if (!ldc_loop_reserve_timer(l) || !ldc_loop_open(l, &u->watch, fd, LDC_KIND_UP, 0)) {
        memcpy(u, &l->spare_up, sizeof(void *));
        l->spare_up = u;
        return NULL;
    }
    l->loop.timers++;
    u->timer.kind = LDC_TIMER_UP;
    u->worker = w;
    u->state = LDC_UP_CONNECT;
    u->opened = l->now;
    u->next = w->ups;
    u->prev = &w->ups;
    if (w->ups) w->ups->prev = &u->next;
    w->ups = u;
    w->conns++;
    l->dials += w->dial;
    return u;
}

/* Its socket lies where it may put a link to any other, which we could open as root. */
static bool ldc_up_right_peer(const ldc_up *u) {
    const ldc_worker *w = u->worker;
    if (w->foreign || !w->as->user.set || w->as->transport != LDC_BY_SOCKET) return true;
    errno = EPERM;
    return ldc_net_peer_is(u->watch.fd, w->as->user.uid);
}

/* connect() once more or for the first time. 1 connected, 0 under way or busy, -1 refused. */
static int ldc_up_connect(ldc_up *u) {
    int r;
    do r = connect(u->watch.fd, &u->worker->addr.u.any, u->worker->addr.len);
    while (r < 0 && errno == EINTR);
    if (r == 0 || errno == EISCONN) return ldc_up_right_peer(u) ? 1 : -1;
    u->connected = errno == EINPROGRESS || errno == EALREADY; /* else: a full backlog, try again */
    return errno == EINPROGRESS || errno == EALREADY || errno == EAGAIN ? 0 : -1;
}

/* A parked connection is used only if it is quiet: an end means discard, bytes mean discard. What is
   safe is replayed once, so for that it is enough that its last answer ended in this turn with a
   short read, or that the last poll() saw it silent. For the rest that may be too old: the request
   can have come behind it (accepted, read in two pieces, told by epoll, let in by the host). */
static bool ldc_up_quiet(ldcorn *l, ldc_up *u, bool safe) {
    char byte;
    ssize_t n;
    if (safe && u->quiet == l->turn) return true;
    if (safe && u->watch.listed && u->watch.at < l->loop.polled && (u->watch.want & POLLIN) &&
        u->parked < l->now && u->quiet + 1 < l->turn)
        if (l->loop.set[u->watch.at].revents == 0) return true;
    n = ldc_util_recv(u->watch.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return n < 0 && ldc_util_again();
}

static ldc_up *ldc_up_reuse(ldcorn *l, ldc_worker *w, const ldc_exchange *e) {
    ldc_up *u;
    while ((u = w->parked) != NULL) {
        bool old = !e->safe && l->now - u->parked > 200000;
        if ((w->dial || (!e->fresh && !old)) && ldc_up_quiet(l, u, e->safe)) {
            ldc_up_unpark(u);
            u->reused = true;
            return u;
        }
        if ((e->fresh || old) && !w->group->conf->limited && !w->dial) return NULL;
        ldc_up_close(l, u); /* stale, or in the way of a fresh one under a limit */
    }
    return NULL;
}

static void ldc_up_failed(ldcorn *l, ldc_up *u, ldc_why why);
static void ldc_up_flush(ldcorn *l, ldc_up *u);
static void ldc_up_readable(ldcorn *l, ldc_up *u);

static void ldc_up_attach(ldcorn *l, ldc_up *u, ldc_exchange *e) {
    ldc_worker *w = u->worker;
    u->exchange = e;
    e->up = u;
    e->worker_index = w->index;
    e->worker_pid = w->pid;
    e->tries++;
    if (e->started == 0) ldc_group_measure(&w->group->wait, l->now - e->queued);
    e->started = l->now;
    u->by = 0;
    u->gap = l->now;
    ldc_group_take(u);
}

/* Hands the request to worker `w`. Without a descriptor or memory it goes back to the head of
   the line and *starved says to try again later. */
static void ldc_up_start_or_requeue(ldcorn *l, ldc_exchange *e, ldc_worker *w, bool *starved) {
    ldc_up *u = ldc_up_reuse(l, w, e);
    int r = 1;
    if (u == NULL && w->dial) { /* they had all gone: it waits for the next one */
        ldc_group_push(l, e->group, e, true);
        ldc_client_update(l, e->client);
        return;
    }
    if (u == NULL) {
        int fd = ldc_net_socket(w->addr.u.any.sa_family);
        u = fd < 0 ? NULL : ldc_up_new(l, w, fd);
        if (u == NULL) {
            if (fd >= 0) close(fd);
            ldc_group_push(l, e->group, e, true);
            *starved = true;
            ldc_loop_lean(l);
            ldc_client_update(l, e->client);
            return;
        }
        r = ldc_up_connect(u);
    }
    ldc_up_attach(l, u, e);
    ldc_client_update(l, e->client);
    if (r < 0) {
        ldc_up_failed(l, u, LDC_WHY_CONNECT);
        return;
    }
    if (r == 0) { /* EAGAIN from a unix socket is a full backlog: busy, tried again, not down */
        u->by = l->now + (u->connected ? (uint64_t)w->group->conf->s.connect_timeout * 1000 : 5000);
        ldc_up_update(l, u);
        return;
    }
    u->connected = true;
    ldc_up_set(u, LDC_UP_BUSY);
    e->connected = l->now;
    ldc_up_flush(l, u);
}

static void ldc_up_detach(ldc_up *u) {
    ldc_exchange *e = u->exchange;
    u->exchange = NULL;
    if (e) e->up = NULL;
}

/* Lets go of the exchange; an orphan ends with it. */
static void ldc_up_release(ldcorn *l, ldc_up *u) {
    ldc_exchange *e = u->exchange;
    ldc_up_detach(u);
    if (e && e->client == NULL) {
        e->group->orphans--;
        ldc_client_exchange_free(l, e);
    }
}

/* Back to the head of the line with its first deadline, for another worker or connection. */
static void ldc_up_again(ldcorn *l, ldc_up *u) {
    ldc_exchange *e = u->exchange;
    ldc_group *g = e->group;
    e->req.sent = 0;
    e->sent = e->connected = 0;
    ldc_up_detach(u);
    g->starting = true; /* the slot given back belongs to this request */
    ldc_up_close(l, u);
    ldc_group_give(l, u, false);
    g->starting = false;
    if (!ldc_group_hope(l, g, e, e->queue_by)) {
        ldc_client_refuse(l, e, LDC_WHY_NO_WORKER);
        ldc_group_next(l, g);
        return;
    }
    g->retries++;
    ldc_group_push(l, g, e, true);
    ldc_client_update(l, e->client);
    ldc_group_next(l, g);
}

/* Nobody listens to this worker any more, and what it still does is unknown: in a limited group it
   gets our end and up to a second to end its own. */
static void ldc_up_deafen(ldcorn *l, ldc_up *u) {
    ldc_up_release(l, u);
    if (!u->worker->group->conf->limited || !u->slot) {
        ldc_up_close(l, u);
        ldc_group_give(l, u, false);
        return;
    }
    u->deaf = u->half = true;
    u->by = l->now + 1000000;
    ldc_buf_free(&l->mem, &u->in);
    shutdown(u->watch.fd, SHUT_WR);
    ldc_up_update(l, u);
}

/* The connection failed under its exchange. What may be sent again is: a request of which no
   byte can have reached the worker, and once a safe one on a reused connection. */
static void ldc_up_failed(ldcorn *l, ldc_up *u, ldc_why why) {
    ldc_exchange *e = u->exchange;
    ldc_group *g = u->worker->group;
    bool untouched = e && e->req.sent == 0, answered = e && (e->first || u->line || u->in.p);
    if (why == LDC_WHY_CONNECT) snprintf(l->what, sizeof l->what, "connect: %s", strerror(errno));
    g->errors[why == LDC_WHY_CONNECT ? LDC_ERROR_CONNECT : LDC_ERROR_RESET]++;
    if (why == LDC_WHY_RESET && e && !u->orphaned) ldc_proc_lost(l, u->worker, e);
    if (why == LDC_WHY_RESET && !answered) ldc_proc_hold(l, u->worker);
    if (why == LDC_WHY_CONNECT) ldc_proc_event_down(l, u->worker);
    if (e && e->client && !answered && !u->orphaned) {
        if (untouched && (u->worker->dial || e->tries <= g->conf->s.retries)) {
            ldc_up_again(l, u);
            return;
        }
        if (u->reused && e->safe && e->req.in == LDC_FRAME_NONE && !e->replayed) {
            e->replayed = e->fresh = true;
            ldc_up_again(l, u);
            return;
        }
    }
    if (e && e->client) {
        ldc_up_detach(u);
        ldc_client_refuse(l, e, why);
    }
    if (why == LDC_WHY_MEMORY) {
        ldc_up_deafen(l, u);
        return;
    }
    ldc_up_release(l, u);
    ldc_up_close(l, u);
    ldc_group_give(l, u, u->half);
}

/* The client is gone or has had its answer while the worker works on. In a limited group the
   slot stays until the worker is done, so the connection stays open and is read to its end. */
static void ldc_up_orphan(ldcorn *l, ldc_up *u, ldc_why why) {
    ldc_exchange *e = u->exchange;
    if (e->client) e->client->exchange = NULL;
    e->client = NULL;
    e->res.discard = true;
    e->group->orphans++;
    u->orphaned = why;
    ldc_buf_free(&l->mem, &e->res.buf);
    ldc_group_settle(l, e);
    if (u->state == LDC_UP_CONNECT) { /* nothing was sent */
        ldc_up_release(l, u);
        ldc_up_close(l, u);
        ldc_group_give(l, u, false);
        return;
    }
    if (!e->req.end && !u->half) ldc_up_half(l, u, true);
    ldc_up_update(l, u);
}

/* The client of `e` left. `close` in the group's terms ends the connection, else an orphan. */
static void ldc_up_abandon(ldcorn *l, ldc_exchange *e, ldc_why why, bool close_it) {
    ldc_up *u = e->up;
    if (u == NULL) return;
    if (u->state == LDC_UP_TUNNEL || close_it) {
        e->client = NULL;
        e->group->orphans++;
        ldc_up_release(l, u);
        ldc_up_close(l, u);
        ldc_group_give(l, u, true);
        return;
    }
    ldc_up_orphan(l, u, why);
}

/* Broken answers: 502 if nothing was sent, else a cut. */
static void ldc_up_protocol(ldcorn *l, ldc_up *u, const char *what) {
    ldc_exchange *e = u->exchange;
    ldc_worker *w = u->worker;
    w->group->errors[LDC_ERROR_PROTOCOL]++;
    if (e && e->client) {
        snprintf(l->what, sizeof l->what, "%s", what);
        ldc_up_detach(u);
        ldc_client_refuse(l, e, LDC_WHY_PROTOCOL);
    } else {
        ldc_log_say(&l->log, LDCORN_LOG_WARN, "%s.%d (pid %ld): broken answer, to nobody: %s",
                    w->group->name, w->index, (long)w->pid, what);
    }
    ldc_up_deafen(l, u);
}

static void ldc_up_park(ldcorn *l, ldc_up *u, bool quiet) {
    ldc_worker *w = u->worker;
    ldc_up_set(u, LDC_UP_PARKED);
    u->parked = l->now;
    u->quiet = quiet ? l->turn : 0;
    u->line = 0;
    u->by = 0;
    if (w->parked == NULL) w->parked_end = &w->parked;
    u->prev_parked = w->dial ? w->parked_end : &w->parked; /* whoever dialled waits in line */
    u->next_parked = *u->prev_parked;
    if (u->next_parked)
        u->next_parked->prev_parked = &u->next_parked;
    else
        w->parked_end = &u->next_parked;
    *u->prev_parked = u;
    w->parked_count++;
    if (w->dial) ldc_group_touch(w);
    ldc_up_update(l, u);
}

/* The last byte of the answer was read: the slot is free, whatever the client still takes. */
static void ldc_up_finish(ldcorn *l, ldc_up *u, bool clean, bool quiet) {
    ldc_exchange *e = u->exchange;
    ldc_worker *w = u->worker;
    ldc_group *g = w->group;
    uint64_t took = l->now - e->started;
    bool whole = e->req.end && ldc_relay_waiting(&e->req) == 0 && !u->half;
    e->answered = l->now;
    w->served++;
    if (w->due_served && w->served >= w->due_served) {
        w->due_served = 0;
        w->due = l->recycle = true;
        w->why_due = "recycle";
    }
    w->answered_at = l->now;
    g->mean = g->mean ? g->mean - g->mean / 8 + took / 8 : took;
    ldc_group_measure(&g->worker, took);
    if (!e->req.end) e->keep = false; /* answered before the body was in */
    ldc_buf_free(&l->mem, &u->in);
    ldc_up_detach(u);
    u->orphaned = LDC_WHY_NONE;
    if (clean && whole && !u->deaf && w->state == LDC_PROC_READY && !w->replaced &&
        w->pid == (w->foreign ? 0 : e->worker_pid) && (w->dial || g->conf->s.worker_keepalive != 0))
        ldc_up_park(l, u, quiet);
    else
        ldc_up_close(l, u);
    if (e->client)
        ldc_client_answered(l, e);
    else {
        g->orphans--;
        ldc_client_exchange_free(l, e);
    }
    ldc_group_give(l, u, false);
}

/* --- the answer --- */

static int ldc_up_client_fd(const ldc_exchange *e) {
    return e->client && !e->res.discard ? e->client->watch.fd : -1;
}

/* 1xx: passed to clients that know them (RFC 9110 15.2), never more than a few. */
static bool ldc_up_interim(ldcorn *l, ldc_up *u) {
    ldc_exchange *e = u->exchange;
    if (++e->interim > LDC_INTERIM) {
        ldc_up_protocol(l, u, "endless 1xx");
        return false;
    }
    if (e->http10 || e->res.discard) return true;
    if (!ldc_http_write_response(&l->mem, &e->res.buf, &l->head, LDC_FRAME_NONE, NULL, LDC_S(""))) {
        ldc_up_failed(l, u, LDC_WHY_MEMORY);
        return false;
    }
    if (ldc_relay_flush(l, &e->res, e->client->watch.fd) < 0)
        ldc_client_dead(l, e->client);
    else if (ldc_relay_waiting(&e->res)) /* no answer may follow for long */
        ldc_client_update(l, e->client);
    return u->exchange == e;
}

static bool ldc_up_upgraded(ldcorn *l, ldc_up *u) {
    ldc_exchange *e = u->exchange;
    ldc_str asked = ldc_client_field(e, "Upgrade"),
            got = ldc_http_value(&l->head, LDC_FIELD_UPGRADE);
    if (!e->upgrade || !l->head.upgrade || got.n != asked.n ||
        strncasecmp(got.p, asked.p, got.n) != 0) {
        ldc_up_protocol(l, u, "101 that was not asked for");
        return false;
    }
    ldc_group_unshare(e); /* max_req_per_client counts requests */
    if (e->res.discard) { /* nobody is there to talk to it */
        ldc_up_release(l, u);
        ldc_up_close(l, u);
        ldc_group_give(l, u, false);
        return false;
    }
    if (!ldc_http_write_response(&l->mem, &e->res.buf, &l->head, LDC_FRAME_NONE, NULL, LDC_S(""))) {
        ldc_up_failed(l, u, LDC_WHY_MEMORY);
        return false;
    }
    e->status = 101;
    e->got_head = true;
    e->res.in = e->res.out = e->req.in = e->req.out = LDC_FRAME_TUNNEL;
    e->req.end = false;
    u->tunnel_slot = true;
    ldc_group_tunnels(u->worker, 1);
    ldc_up_set(u, LDC_UP_TUNNEL);
    ldc_client_tunnel(l, e);
    if (u->state != LDC_UP_TUNNEL) return false; /* it ended in there, its slot was given back */
    ldc_group_give(l, u, false);                 /* the slot moves from requests to tunnels */
    return true;
}

/* The final head. The client gets it together with the first body bytes, in one write. */
static bool ldc_up_final(ldcorn *l, ldc_up *u) {
    ldc_exchange *e = u->exchange;
    ldc_head *h = &l->head;
    const char *connection = NULL;
    e->status = h->status;
    e->res.in = (uint8_t)h->frame;
    e->res.left = h->length;
    e->res.end = h->frame == LDC_FRAME_NONE;
    u->worker->longs = h->frame == LDC_FRAME_LENGTH && h->length >= LDC_LONG;
    u->line = 0;
    u->keep = h->minor == 1 && !h->close && h->frame != LDC_FRAME_EOF;
    if (e->res.discard) return true;
    e->res.out = e->res.in;
    if (h->frame == LDC_FRAME_EOF && !e->http10) e->res.out = LDC_FRAME_CHUNKED;
    if (h->frame == LDC_FRAME_CHUNKED && e->http10) e->res.out = LDC_FRAME_EOF; /* RFC 9112 7.1 */
    if (e->res.out == LDC_FRAME_EOF || !e->req.end || l->life != LDC_LIFE_RUN) e->keep = false;
    if (!e->keep)
        connection = "close";
    else if (e->http10)
        connection = "keep-alive";
    /* behind an interim answer that the client did not take yet */
    if (!ldc_http_write_response(&l->mem, ldc_buf_size(&e->res.buf) ? &e->res.buf : &e->res.head, h,
                                 (ldc_frame)e->res.out, connection, ldc_loop_date(l))) {
        ldc_up_failed(l, u, LDC_WHY_MEMORY);
        return false;
    }
    e->got_head = true;
    return true;
}

/* Which rule its head broke: `size` as ldc_http_end says. */
static void ldc_up_malformed(ldcorn *l, ldc_up *u, ptrdiff_t size, const char *p, size_t n) {
    char what[sizeof l->what];
    bool http = n < 5 || memcmp(p, "HTTP/", 5) == 0;
    if (!http)
        ldc_http_fault(&l->head, "its answer does not begin with HTTP/", p, n);
    else if (size == LDC_BAD)
        ldc_http_fault(&l->head, "a line of its head ends in LF without CR", p + u->line,
                       n - u->line);
    else if (size < 0 || size > l->conf->s.max_header * 2)
        ldc_http_fault(&l->head, "its head is longer than twice max_header", p, n);
    ldc_up_protocol(l, u, ldc_http_describe(&l->head, what, sizeof what));
}

/* One head at p. Bytes used, LDC_MORE, or LDC_GONE when the exchange is over. */
static ptrdiff_t ldc_up_head(ldcorn *l, ldc_up *u, const char *p, size_t n) {
    ldc_exchange *e = u->exchange;
    ptrdiff_t size = ldc_http_end(p, n, &u->line);
    if (e->first == 0) e->first = l->now;
    if (size == LDC_MORE && n < (size_t)l->conf->s.max_header * 2) {
        if (n >= 5 && memcmp(p, "HTTP/", 5) != 0)
            size = LDC_BAD;
        else
            return LDC_MORE;
    }
    if (size < 0 || size > l->conf->s.max_header * 2 ||
        !ldc_http_response(&l->head, p, (size_t)size, e->head_only)) {
        ldc_up_malformed(l, u, size, p, n);
        return LDC_GONE;
    }
    u->line = 0;
    if (l->head.status == 101) return ldc_up_upgraded(l, u) ? size : LDC_GONE;
    if (l->head.status < 200) return ldc_up_interim(l, u) ? size : LDC_GONE;
    return ldc_up_final(l, u) ? size : LDC_GONE;
}

/* Bytes of the answer went on with the result `r`. True if the connection goes on with it. `exact`:
   none came behind its end; `quiet`: nothing more waits. */
static bool ldc_up_passed(ldcorn *l, ldc_up *u, int r, bool exact, bool quiet) {
    ldc_exchange *e = u->exchange;
    if (r < 0 && e->client) { /* the client cannot be written to, or no memory for what waits */
        ldc_client_dead(l, e->client);
        if (u->exchange != e) return false;
    }
    if (u->state == LDC_UP_TUNNEL) {
        if (e->client) ldc_client_update(l, e->client);
        return true;
    }
    if (!e->res.end) {
        if (e->client)
            ldc_client_update(l, e->client);
        else
            ldc_up_update(l, u);
        return true;
    }
    ldc_up_finish(l, u, u->keep && exact, quiet); /* surplus bytes: never reused */
    return false;
}

/* Bytes from the worker at p[0..n). `quiet`: the read was short, so nothing more waits. True if
   the connection goes on with this exchange; bytes not used are kept in u->in. */
static bool ldc_up_bytes(ldcorn *l, ldc_up *u, char *p, size_t n, bool quiet, size_t *used) {
    ldc_exchange *e = u->exchange;
    size_t k;
    int r;
    *used = 0;
    while (e->status < 200 && u->state != LDC_UP_TUNNEL) {
        ptrdiff_t size = ldc_up_head(l, u, p + *used, n - *used);
        if (size == LDC_MORE) return true;
        if (size < 0) return false;
        *used += (size_t)size;
    }
    r = ldc_relay_push(l, &e->res, p + *used, n - *used, false, ldc_up_client_fd(e), &k);
    *used += k;
    if (r == LDC_BAD) {
        ldc_up_protocol(l, u, "broken chunk framing");
        return false;
    }
    return ldc_up_passed(l, u, r, *used == n, quiet);
}

/* The worker ended its side, orderly or not. */
static void ldc_up_ended(ldcorn *l, ldc_up *u, bool reset) {
    ldc_exchange *e = u->exchange;
    size_t used;
    int r;
    if (e == NULL) { /* parked, or deaf: the slot comes back because the worker ended */
        ldc_up_close(l, u);
        ldc_group_give(l, u, u->half);
        return;
    }
    if (e->status >= 200 && e->res.in == LDC_FRAME_EOF && !reset) {
        r = ldc_relay_push(l, &e->res, NULL, 0, true, ldc_up_client_fd(e), &used);
        ldc_up_passed(l, u, r, false, false);
        return;
    }
    ldc_up_failed(l, u, LDC_WHY_RESET);
}

static void ldc_up_tunnel_end(ldcorn *l, ldc_up *u) {
    ldc_exchange *e = u->exchange;
    e->res.end = true;
    if (e->client) ldc_client_update(l, e->client);
}

/* --- a long body, unseen --- */

static bool ldc_up_glances(ldcorn *l, const ldc_up *u) {
    return u->state == LDC_UP_BUSY && u->worker->longs && u->exchange &&
           u->exchange->status < 200 && ldc_relay_pipe(l);
}

static bool ldc_up_moves(ldcorn *l, const ldc_up *u) {
    return u->state == LDC_UP_BUSY && u->exchange && u->in.p == NULL &&
           ldc_relay_long(l, &u->exchange->res, ldc_up_client_fd(u->exchange));
}

/* False: recv() has to look, which gets past urgent data where splice() stops. */
static bool ldc_up_move(ldcorn *l, ldc_up *u) {
    ldc_exchange *e = u->exchange;
    ssize_t n;
    int r = ldc_relay_move(l, &e->res, u->watch.fd, ldc_up_client_fd(e), &n);
    if (n <= 0) return false;
    ldc_loop_progress(&u->watch);
    u->gap = l->now;
    ldc_up_passed(l, u, r, true, false);
    return true;
}

static void ldc_up_readable(ldcorn *l, ldc_up *u) {
    bool kept = u->in.p != NULL;
    size_t room = ldc_up_glances(l, u) ? LDC_GLANCE : LDC_SCRATCH, used = 0;
    char *to = l->scratch;
    ssize_t n;
    if (ldc_up_moves(l, u) && ldc_up_move(l, u)) return;
    if (kept) { /* part of a head is waiting: read behind it */
        room = 16384;
        if (!ldc_buf_room(&l->mem, &u->in, room)) {
            ldc_up_failed(l, u, LDC_WHY_MEMORY);
            return;
        }
        to = u->in.p + u->in.len;
    }
    n = ldc_util_recv(u->watch.fd, to, room, 0);
    if (n < 0 && ldc_util_again()) return;
    if (n > 0) {
        ldc_loop_progress(&u->watch);
        u->gap = l->now;
        if (u->exchange == NULL && !u->deaf && !u->probe)
            n = 0; /* bytes on a parked connection */
        else if (u->deaf || u->exchange == NULL)
            return;
    }
    if (n <= 0 && u->state == LDC_UP_TUNNEL && n == 0)
        ldc_up_tunnel_end(l, u);
    else if (n <= 0)
        ldc_up_ended(l, u, n < 0);
    if (n <= 0) return;
    if (kept) {
        u->in.len += (uint32_t)n;
        if (ldc_up_bytes(l, u, ldc_buf_at(&u->in), ldc_buf_size(&u->in), (size_t)n < room, &used) &&
            u->in.p)
            ldc_buf_drop(&l->mem, &u->in, used);
    } else if (ldc_up_bytes(l, u, to, (size_t)n, (size_t)n < room, &used) && used < (size_t)n) {
        if (!ldc_buf_add(&l->mem, &u->in, to + used, (size_t)n - used))
            ldc_up_failed(l, u, LDC_WHY_MEMORY);
    } else if (n == LDC_GLANCE && ldc_up_moves(l, u)) {
        ldc_up_move(l, u);
    }
}

/* Writes what the worker takes. When it takes no more, what it has to say is still read. */
static void ldc_up_flush(ldcorn *l, ldc_up *u) {
    ldc_exchange *e = u->exchange;
    ssize_t w = e && !u->half ? ldc_relay_flush(l, &e->req, u->watch.fd) : 0;
    if (e == NULL) return;
    if (w == LDC_GONE) {
        char peek;
        ssize_t n = ldc_util_recv(u->watch.fd, &peek, 1, MSG_PEEK | MSG_DONTWAIT);
        if (n <= 0) {
            ldc_up_failed(l, u, LDC_WHY_RESET);
            return;
        }
        ldc_up_half(l, u, false); /* an early answer is waiting; our side has ended */
    } else if (w > 0) {
        u->gap = l->now;
        ldc_loop_progress(&u->watch);
    }
    if (e->req.end && e->sent == 0 && ldc_relay_waiting(&e->req) == 0) {
        e->sent = u->gap = l->now;
        if (e->held) ldc_group_settle(l, e);
    }
    if (u->state == LDC_UP_TUNNEL && e->req.end && !e->req.shut &&
        ldc_relay_waiting(&e->req) == 0) {
        e->req.shut = true;
        shutdown(u->watch.fd, SHUT_WR);
    }
    if (e->client)
        ldc_client_update(l, e->client);
    else
        ldc_up_update(l, u);
}

static void ldc_up_connecting(ldcorn *l, ldc_up *u, short revents) {
    int failed = 0, r = 1;
    socklen_t n = sizeof failed;
    if (u->connected) {
        if (getsockopt(u->watch.fd, SOL_SOCKET, SO_ERROR, &failed, &n) < 0) failed = errno;
        if (failed == 0 && !(revents & POLLOUT)) return;
        r = failed ? -1 : 1;
    } else {
        r = ldc_up_connect(u);
    }
    if (r == 0) return;
    if (r < 0) {
        if (failed) errno = failed;
        if (u->probe)
            ldc_proc_probed(l, u, false, strerror(errno));
        else
            ldc_up_failed(l, u, LDC_WHY_CONNECT);
        return;
    }
    u->connected = true;
    if (u->probe) {
        ldc_proc_probed(l, u, true, NULL);
        return;
    }
    ldc_up_set(u, LDC_UP_BUSY);
    u->by = 0;
    u->exchange->connected = l->now;
    ldc_up_flush(l, u);
}

static void ldc_up_event(ldcorn *l, ldc_up *u, short revents) {
    if (u->state == LDC_UP_CONNECT) {
        ldc_up_connecting(l, u, revents);
        return;
    }
    if (u->probe) {
        if (u->watch.want & POLLOUT)
            ldc_proc_probe_send(l, u);
        else
            ldc_proc_probe_readable(l, u);
        return;
    }
    if (revents & POLLOUT) ldc_up_flush(l, u);
    if (u->state != LDC_UP_DEAD && (revents & (POLLIN | POLLHUP | POLLERR))) {
        if ((u->watch.want & POLLIN) || u->state == LDC_UP_PARKED)
            ldc_up_readable(l, u);
        else if (revents &
                 (POLLHUP | POLLERR)) { /* gone while we did not read: what waits is still sent */
            if (u->exchange && u->exchange->res.buf.p)
                ldc_loop_want(l, &u->watch, 0);
            else
                ldc_up_readable(l, u);
        }
    }
}

/* --- dial_in: workers connect to us and serve on that connection --- */

static bool ldc_up_may_dial(const ldc_gconf *g, const struct sockaddr_storage *from) {
    unsigned char ip[16];
    memset(ip, 0, sizeof ip);
    if (from->ss_family == AF_INET)
        memcpy(ip, &((const struct sockaddr_in *)(const void *)from)->sin_addr, 4);
    else if (from->ss_family == AF_INET6)
        memcpy(ip, &((const struct sockaddr_in6 *)(const void *)from)->sin6_addr, 16);
    else
        return true; /* who may open the socket's file */
    if (g->dial_allow.n == 0) return ldc_conf_loopback(&g->dial);
    return ldc_conf_listed(g->dial_allow.p, g->dial_allow.n, from->ss_family, ip);
}

static void ldc_up_turned_away(ldcorn *l, ldc_group *g, const struct sockaddr_storage *from,
                               const char *why) {
    char ip[INET6_ADDRSTRLEN] = "a unix peer";
    if (g->dial_said && l->now - g->dial_said < 10000000) return;
    g->dial_said = l->now;
    if (from->ss_family == AF_INET)
        inet_ntop(AF_INET, &((const struct sockaddr_in *)(const void *)from)->sin_addr, ip,
                  sizeof ip);
    else if (from->ss_family == AF_INET6)
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)(const void *)from)->sin6_addr, ip,
                  sizeof ip);
    ldc_log_say(&l->log, LDCORN_LOG_WARN, "%s: a worker that dialled in was turned away: %s (%s)",
                g->name, why, ip);
}

static bool ldc_up_dialled_one(ldcorn *l, ldc_worker *w, int fd,
                               const struct sockaddr_storage *from) {
    ldc_group *g = w->group;
    const char *why = !ldc_up_may_dial(g->conf, from)  ? "its address is not in `dial_allow`"
                      : w->conns >= g->conf->s.workers ? "there are `workers` of them already"
                      : l->dials >= l->dials_max
                          ? "a third of the descriptors is for those who dial in (ulimit -n)"
                          : NULL;
    ldc_up *u = why ? NULL : ldc_up_new(l, w, fd);
    if (why) ldc_up_turned_away(l, g, from, why);
    if (u == NULL) {
        close(fd);
        return why != NULL;
    }
    ldc_net_keepalive(fd);
    u->connected = true;
    ldc_up_set(u, LDC_UP_BUSY);
    ldc_up_park(l, u, false);
    return true;
}

static ldc_worker *ldc_up_dialled_at(ldcorn *l, const ldc_addr *a) {
    for (ldc_group *g = l->groups; g; g = g->next) {
        if (g->hidden || g->removed || g->conf->source != LDC_FROM_DIAL ||
            !ldc_conf_same_addr(&g->conf->dial, a))
            continue;
        for (ldc_worker *w = g->workers; w; w = w->next) {
            if (w->dial && !w->replaced && !w->candidate) return w;
        }
    }
    return NULL;
}

static void ldc_up_dialled(ldcorn *l, ldc_listener *s) {
    ldc_worker *w = ldc_up_dialled_at(l, &s->addr);
    for (int i = 0; i < LDC_ACCEPTS; i++) {
        struct sockaddr_storage from;
        socklen_t n;
        int fd = ldc_net_accept(s->watch.fd, &from, &n);
        if (fd < 0 && errno == EINTR) continue;
        if (fd < 0 && ldc_util_again()) break;
        if (fd < 0) {
            ldc_client_accept_failed(l, s);
            if (s->watch.want == 0) break;
            continue;
        }
        ldc_loop_progress(&s->watch);
        if (n < sizeof(sa_family_t)) from.ss_family = AF_UNIX;
        if (w == NULL)
            close(fd);
        else if (!ldc_up_dialled_one(l, w, fd, &from))
            break;
    }
    if (w) {
        l->upset = true; /* its first connection makes the group ready */
        ldc_group_next(l, w->group);
    }
}

/* Too late: the client hears 504 (or a cut), and the group says what becomes of the worker. */
static void ldc_up_late(ldcorn *l, ldc_up *u, ldc_why why) {
    ldc_exchange *e = u->exchange;
    ldc_worker *w = u->worker;
    const ldc_gconf *g = w->group->conf;
    int64_t again = why == LDC_WHY_RUN_TIMEOUT ? g->s.run_timeout : g->s.response_timeout;
    bool orphan = e->client == NULL;
    w->group->errors[LDC_ERROR_TIMEOUT]++;
    if (!orphan) { /* the answer is the client's, the work stays the worker's */
        ldc_exchange *answer = ldc_client_split(l, e);
        e->group->orphans++;
        e->res.discard = true;
        ldc_buf_free(&l->mem, &e->res.buf);
        ldc_group_settle(l, e);
        if (answer) ldc_client_refuse(l, answer, why);
    }
    if (g->on_timeout == LDC_CLOSE) {
        ldc_up_release(l, u);
        ldc_up_close(l, u);
        ldc_group_give(l, u, true);
        return;
    }
    u->orphaned = why;
    u->by = l->now + (uint64_t)(again > 30000 ? again : 30000) * 1000;
    if (!e->req.end && !u->half) ldc_up_half(l, u, true);
    ldc_up_update(l, u);
    if (g->on_timeout == LDC_RESTART) ldc_proc_replace(l, w, "timeout");
    if (w->state == LDC_PROC_DRAINING) ldc_proc_idle(l, w); /* one less that it waits for */
}

/* An orphan that still holds its slot after the same time again. */
static void ldc_up_overdue(ldcorn *l, ldc_up *u) {
    ldc_worker *w = u->worker;
    if (u->deaf) { /* a broken answer: a second was its time */
        ldc_up_close(l, u);
        ldc_group_give(l, u, true);
        return;
    }
    u->by = l->now + 30000000;
    ldc_loop_timer(l, &u->timer, u->by);
    if (w->foreign) {
        ldc_log_say(&l->log, LDCORN_LOG_WARN,
                    "%s.%d (%s): a request past its time-out still holds its slot", w->group->name,
                    w->index, w->addr.text);
    } else {
        ldc_log_say(&l->log, LDCORN_LOG_WARN,
                    "%s.%d (pid %ld): stuck in a request past its time-out, restarting it",
                    w->group->name, w->index, (long)w->pid);
        if (w->state == LDC_PROC_DRAINING) w->drain_by = w->tunnel_by = l->now;
        if (w->state == LDC_PROC_DRAINING) ldc_proc_idle(l, w);
        ldc_proc_replace(l, w, "timeout");
    }
}

static void ldc_up_timer(ldcorn *l, ldc_up *u) {
    const ldcorn_group_desc *s = &u->worker->group->conf->s;
    ldc_exchange *e = u->exchange;
    if (u->probe && u->worker->state == LDC_PROC_READY) {
        ldc_proc_check_late(l, u->worker, u);
    } else if (u->probe) {
        ldc_proc_probed(l, u, u->passed, "no answer in time");
    } else if (u->state == LDC_UP_PARKED) {
        ldc_up_close(l, u);
    } else if (u->state == LDC_UP_CONNECT) {
        if (l->now - u->opened >= (uint64_t)s->connect_timeout * 1000 || u->connected) {
            errno = ETIMEDOUT;
            ldc_up_failed(l, u, LDC_WHY_CONNECT);
            return;
        }
        u->by = l->now + 5000;
        ldc_up_connecting(l, u, 0);
        if (u->state == LDC_UP_CONNECT) ldc_up_update(l, u);
    } else if (e == NULL || u->by) {
        if (u->by && u->by <= l->now)
            ldc_up_overdue(l, u);
        else
            ldc_up_rearm(l, u);
    } else if (s->run_timeout >= 0 &&
               ldc_up_inside(e) + (uint64_t)s->run_timeout * 1000 <= l->now) {
        ldc_up_late(l, u, LDC_WHY_RUN_TIMEOUT);
    } else if (ldc_up_owes(u) && s->response_timeout >= 0 &&
               u->gap + (uint64_t)s->response_timeout * 1000 <= l->now) {
        ldc_up_late(l, u, LDC_WHY_RESPONSE_TIMEOUT);
    } else {
        ldc_up_rearm(l, u);
    }
}

/* @client -----------------------------------------------------------------------------------
   One accepted connection: heads in, answers out, keep-alive, our own answers, the access
   record. Owns the connection, its unused input, and the exchange while a client is there. */

static const short ldc_client_leave = LDC_LEAVE ? LDC_LEAVE : POLLIN;

static void ldc_client_pause(ldcorn *l, bool pause) {
    if (l->paused == pause) return;
    l->paused = pause;
    for (ldc_listener *s = l->listeners; s; s = s->next) {
        if (s->admin || (s->dial && pause && !l->lean))
            continue; /* too many clients, not workers */
        ldc_loop_want(l, &s->watch, pause ? 0 : POLLIN);
    }
}

static ldc_client_line *ldc_client_line_of(ldcorn *l, const ldc_client *c) {
    if (c->admin)
        return c->state == LDC_CLIENT_IDLE || c->state == LDC_CLIENT_HEAD ? &l->admin_idle : NULL;
    if (c->state == LDC_CLIENT_IDLE) return &l->idle;
    return c->state == LDC_CLIENT_HEAD && c->head_bytes ? &l->heads : NULL;
}

static void ldc_client_line_add(ldc_client_line *line, ldc_client *c) {
    c->older = line->young;
    *(line->young ? &line->young->newer : &line->old) = c;
    line->young = c;
}

static void ldc_client_unline(ldcorn *l, ldc_client *c) {
    ldc_client_line *line = ldc_client_line_of(l, c);
    if (line == NULL) return;
    *(c->older ? &c->older->newer : &line->old) = c->newer;
    *(c->newer ? &c->newer->older : &line->young) = c->older;
    c->older = c->newer = NULL;
    l->heads_bytes -= c->head_bytes;
    c->head_bytes = 0;
}

static void ldc_client_set(ldcorn *l, ldc_client *c, ldc_client_state to) {
    LDCORN_ASSERT(c->state == to || (ldc_client_rows[c->state].next & (1u << to)));
    if (c->state == to) return;
    ldc_client_unline(l, c);
    c->state = (uint8_t)to;
    c->since = l->now;
    ldc_loop_progress(&c->watch);
    if (c->admin) { /* one of those makes room for admin only */
        if (ldc_client_line_of(l, c)) ldc_client_line_add(&l->admin_idle, c);
        return;
    }
    if (to != LDC_CLIENT_IDLE) return;
    if (l->paused) ldc_client_pause(l, false); /* this one can make room, for a new client */
    ldc_client_line_add(&l->idle, c);
}

/* --- exchanges --- */

static ldc_exchange *ldc_client_exchange(ldcorn *l, ldc_client *c) {
    ldc_exchange *e = (ldc_exchange *)l->spare_exchange;
    if (e)
        memcpy(&l->spare_exchange, e, sizeof(void *));
    else
        e = (ldc_exchange *)ldc_mem_resize(&l->mem, NULL, 0, sizeof *e);
    if (e == NULL) return NULL;
    memset(e, 0, sizeof *e);
    e->client = c;
    e->conf = l->conf;
    e->conf->refs++;
    e->arrived = e->queued = l->now;
    e->wall = l->wall;
    e->worker_index = -1;
    e->next = l->exchanges;
    e->prev = &l->exchanges;
    if (l->exchanges) l->exchanges->prev = &e->next;
    l->exchanges = e;
    c->exchange = e;
    return e;
}

static void ldc_client_exchange_free(ldcorn *l, ldc_exchange *e) {
    if (e->group && e->group->removed) l->upset = true; /* it goes with its last request */
    ldc_group_unshare(e);
    ldc_admin_report_gone(l, e);
    if (e->held) ldc_group_hold(l, e, 0);
    ldc_relay_free(l, &e->req);
    ldc_relay_free(l, &e->res);
    ldc_conf_free(e->conf);
    *e->prev = e->next;
    if (e->next) e->next->prev = e->prev;
    memcpy(e, &l->spare_exchange, sizeof(void *));
    l->spare_exchange = e;
}

/* A field of the head as it went to the worker; the record is written from it. */
static ldc_str ldc_client_field(const ldc_exchange *e, const char *name) {
    const char *p = e->req.head.p ? e->req.head.p : "", *end = p + e->req.head.len;
    size_t n = strlen(name);
    while ((p = (const char *)memchr(p, '\n', (size_t)(end - p))) != NULL && ++p < end) {
        const char *lf;
        if ((size_t)(end - p) <= n || strncasecmp(p, name, n) != 0 || p[n] != ':') continue;
        lf = (const char *)memchr(p, '\r', (size_t)(end - p));
        return ldc_util_trim(ldc_util_str(p + n + 1, (size_t)(lf - p) - n - 1));
    }
    return ldc_util_str("", 0);
}

static ldc_str ldc_client_word(const ldc_exchange *e, int index) {
    const char *p = e->req.head.p ? e->req.head.p : "", *end = p + e->req.head.len, *blank;
    if (p == end) return ldc_util_str("", 0);
    blank = (const char *)memchr(p, ' ', (size_t)(end - p));
    if (index == 0) return ldc_util_str(p, (size_t)(blank - p));
    p = blank + 1;
    blank = (const char *)memchr(p, ' ', (size_t)(end - p));
    return ldc_util_str(p, (size_t)(blank - p));
}

static int ldc_client_ms(uint64_t from, uint64_t to) {
    return from && to > from ? (int)((to - from) / 1000) : 0;
}

typedef struct ldc_record { /* one access line */
    ldc_str method, prefix, target, host, agent, referer, group, reason, id;
    int status, recv, queue, connect, ttfb, total;
} ldc_record;

static void ldc_client_json_field(ldc_text *t, const char *name, ldc_str v) {
    ldc_text_fmt(t, ",\"%s\":", name);
    ldc_text_json(t, v);
}

static void ldc_client_record_json(ldc_text *t, const ldc_exchange *e, const ldc_record *r) {
    char stamp[40];
    ldc_util_stamp(e->wall, stamp);
    ldc_text_fmt(t, "{\"time\":\"%s\"", stamp);
    ldc_client_json_field(t, "id", r->id);
    ldc_client_json_field(t, "client", ldc_util_z(e->address));
    ldc_client_json_field(t, "method", r->method);
    ldc_client_json_field(t, "host", r->host);
    ldc_text_add(t, ",\"target\":\"");
    ldc_text_json_part(t, r->prefix);
    ldc_text_json_part(t, r->target);
    ldc_text_add(t, "\"");
    ldc_text_fmt(t, ",\"proto\":\"HTTP/1.%d\",\"status\":%d,\"bytes_in\":%llu,\"bytes_out\":%llu",
                 !e->http10, r->status, (unsigned long long)e->req.bytes,
                 (unsigned long long)e->res.bytes);
    ldc_client_json_field(t, "group", r->group);
    ldc_text_fmt(
        t,
        ",\"worker\":%d,\"pid\":%ld,\"recv_ms\":%d,\"queue_ms\":%d,\"connect_ms\":%d,\"ttfb_ms\":%d,\"total_ms\":%d",
        e->worker_index, (long)e->worker_pid, r->recv, r->queue, r->connect, r->ttfb, r->total);
    ldc_client_json_field(t, "reason", r->reason);
    ldc_client_json_field(t, "user_agent", r->agent);
    ldc_client_json_field(t, "referer", r->referer);
    ldc_text_add(t, "}\n");
}

/* Combined log format, then what it has no place for. */
static void ldc_client_record_text(ldc_text *t, const ldc_exchange *e, const ldc_record *r) {
    char stamp[40];
    time_t s = (time_t)(e->wall / 1000);
    struct tm tm;
    localtime_r(&s, &tm);
    strftime(stamp, sizeof stamp, "%d/%b/%Y:%H:%M:%S %z", &tm);
    ldc_text_fmt(t, "%s - - [%s] \"", e->address[0] ? e->address : "-", stamp);
    ldc_text_escape(t, r->method.n ? r->method : LDC_S("-"), true);
    ldc_text_add(t, " ");
    ldc_text_escape(t, r->prefix, true);
    ldc_text_escape(t, r->target.n ? r->target : LDC_S("-"), true);
    ldc_text_fmt(t, " HTTP/1.%d\" %d %llu \"", !e->http10, r->status,
                 (unsigned long long)e->res.bytes);
    ldc_text_escape(t, r->referer.n ? r->referer : LDC_S("-"), true);
    ldc_text_add(t, "\" \"");
    ldc_text_escape(t, r->agent.n ? r->agent : LDC_S("-"), true);
    ldc_text_add(t, "\" host=\"");
    ldc_text_escape(t, r->host, true);
    ldc_text_add(t, "\" id=");
    ldc_text_escape(t, r->id, true);
    ldc_text_fmt(
        t,
        " group=%.*s worker=%d pid=%ld bytes_in=%llu recv_ms=%d queue_ms=%d connect_ms=%d ttfb_ms=%d total_ms=%d reason=%.*s\n",
        r->group.n ? (int)r->group.n : 1, r->group.n ? r->group.p : "-", e->worker_index,
        (long)e->worker_pid, (unsigned long long)e->req.bytes, r->recv, r->queue, r->connect,
        r->ttfb, r->total, r->reason.n ? (int)r->reason.n : 1, r->reason.n ? r->reason.p : "-");
}

static void ldc_client_record(ldcorn *l, ldc_exchange *e) {
    ldc_record r;
    ldc_text t;
    if (l->log.access.fd < 0) return;
    r.method = ldc_client_word(e, 0);
    r.target = ldc_client_word(e, 1);
    r.prefix = e->stripped ? ldc_client_field(e, "X-Forwarded-Prefix") : ldc_util_str("", 0);
    r.host = ldc_client_field(e, "Host");
    r.agent = ldc_client_field(e, "User-Agent");
    r.referer = ldc_client_field(e, "Referer");
    r.id = ldc_client_field(e, "X-Request-Id");
    if (r.id.n == 0) r.id = ldc_util_z(e->id);
    r.group = ldc_util_z(e->group ? e->group->name : "");
    r.reason = ldc_util_z(ldc_log_reasons[e->why].word);
    r.status = e->status;
    r.recv = ldc_client_ms(e->received, e->arrived);
    r.queue = ldc_client_ms(e->queued, e->started ? e->started : e->group ? l->now : 0);
    r.connect = ldc_client_ms(e->started, e->connected);
    r.ttfb = ldc_client_ms(e->started, e->first);
    r.total = ldc_client_ms(e->arrived, l->now);
    ldc_text_init(&t, &l->mem);
    if (l->log.json)
        ldc_client_record_json(&t, e, &r);
    else
        ldc_client_record_text(&t, e, &r);
    if (!t.failed) ldc_log_write(&l->log, &l->log.access, t.p, t.n);
    ldc_text_free(&t);
}

static void ldc_client_tell(ldcorn *l, const ldc_exchange *e) {
    ldcorn_event v;
    if (l->desc.event == NULL) return;
    ldc_turn_event(l, &v, LDCORN_REQUEST_DONE, e->group ? e->group->name : "");
    v.text = ldc_log_reasons[e->why].word;
    v.id = e->id;
    v.client = e->address;
    v.status = e->status;
    v.worker = e->started ? e->worker_index : -1;
    v.pid = e->started ? (long)e->worker_pid : 0;
    v.total_ms = ldc_client_ms(e->arrived, l->now);
    v.queue_ms = e->group ? ldc_client_ms(e->queued, e->started ? e->started : l->now) : -1;
    v.worker_ms = e->started ? ldc_client_ms(e->started, l->now) : -1;
    l->desc.event(l->desc.event_user, &v);
}

/* The request is over for its client: counted and logged, once. */
static void ldc_client_log(ldcorn *l, ldc_exchange *e) {
    int class = e->status / 100;
    if (e->logged) return;
    e->logged = true;
    if (e->client && e->client->admin) return;
    l->bytes_in += e->req.head.len + e->req.bytes;
    l->bytes_out += e->res.head.len + e->res.bytes;
    if (e->group) {
        e->group->requests[class >= 1 && class <= 5 ? class : 0]++;
        ldc_group_measure(&e->group->total, l->now - e->arrived);
    }
    ldc_client_record(l, e);
    ldc_client_tell(l, e);
}

/* --- what failed: a line each, as the answer says little --- */

/* "312 of 4,096" */
static void ldc_client_progress(const ldc_flow *f, char out[64]) {
    unsigned long long n = (unsigned long long)f->bytes, left = (unsigned long long)f->left;
    if (f->in == LDC_FRAME_LENGTH)
        snprintf(out, 64, "%llu of %llu bytes", n, n + left);
    else
        snprintf(out, 64, "%llu bytes", n);
}

/* The worker's part of it. */
static void ldc_client_explain_worker(const ldcorn *l, const ldc_exchange *e, ldc_why why,
                                      char *out, size_t room) {
    const ldcorn_group_desc *s = &e->group->conf->s;
    char span[24], bytes[64];
    ldc_client_progress(&e->res, bytes);
    if (why == LDC_WHY_CONNECT || why == LDC_WHY_PROTOCOL)
        snprintf(out, room, "%s%s", l->what, e->tries > 1 ? ", after another try" : "");
    else if (why == LDC_WHY_RESET && e->got_head)
        snprintf(out, room, "the worker ended the connection after %s", bytes);
    else if (why == LDC_WHY_RESET)
        snprintf(out, room, "the worker ended the connection %s",
                 e->first ? "within the head of its answer" : "before it answered");
    else if (why == LDC_WHY_RUN_TIMEOUT)
        snprintf(out, room, "inside the worker for run_timeout = %s, %s of the answer came",
                 ldc_util_span((uint64_t)s->run_timeout, span), bytes);
    else
        snprintf(out, room,
                 "nothing from the worker for response_timeout = %s, %s of the answer came",
                 ldc_util_span((uint64_t)s->response_timeout, span), bytes);
}

static void ldc_client_explain(const ldcorn *l, const ldc_exchange *e, ldc_why why, char *out,
                               size_t room) {
    const ldcorn_desc *s = &e->conf->s;
    char span[24], bytes[64];
    ldc_client_progress(&e->req, bytes);
    out[0] = 0;
    if (e->group) ldc_group_detail(l, e->group, why, out, room);
    if (out[0]) return;
    if (e->group && why >= LDC_WHY_CONNECT && why <= LDC_WHY_RUN_TIMEOUT)
        ldc_client_explain_worker(l, e, why, out, room);
    else if (why == LDC_WHY_HEADER_TIMEOUT)
        snprintf(out, room, "its head is not whole after header_timeout = %s",
                 ldc_util_span((uint64_t)s->header_timeout, span));
    else if (why == LDC_WHY_BODY_TIMEOUT)
        snprintf(out, room, "nothing of its body for body_timeout = %s, %s came",
                 ldc_util_span((uint64_t)s->body_timeout, span), bytes);
    else if (why == LDC_WHY_SLOW)
        snprintf(out, room,
                 "below min_rate = %lld bytes a second, and what it holds is needed by others",
                 (long long)s->min_rate);
    else if (why == LDC_WHY_MAX_BODY && e->group)
        snprintf(out, room, "max_body = %s, its body has %s%llu bytes",
                 ldc_util_size((uint64_t)e->group->conf->s.max_body, span),
                 e->req.in == LDC_FRAME_LENGTH ? "" : "at least ",
                 (unsigned long long)e->req.bytes + (unsigned long long)e->req.left);
    else if (why == LDC_WHY_MAX_HEADER || why == LDC_WHY_TARGET)
        snprintf(out, room, "%s (max_header = %s, %d fields)",
                 l->head.fault ? l->head.fault : ldc_log_reasons[why].text,
                 ldc_util_size((uint64_t)s->max_header, span), (int)LDC_FIELDS);
    else if (why == LDC_WHY_SEND_TIMEOUT)
        snprintf(out, room, "the client took nothing for send_timeout = %s, %llu bytes wait for it",
                 ldc_util_span((uint64_t)s->send_timeout, span),
                 (unsigned long long)ldc_relay_waiting(&e->res));
    else if (why == LDC_WHY_REQUEST || why == LDC_WHY_HOST)
        ldc_http_describe(&l->head, out, room);
    if (out[0] == 0) snprintf(out, room, "%s", ldc_log_reasons[why].text);
}

/* "502 reset: GET /x from 192.0.2.1, web.0 (pid 4711), id 9f...: the worker ended ..." */
static void ldc_client_failed_line(ldcorn *l, const ldc_exchange *e, ldc_why why,
                                   ldcorn_level level) {
    const ldc_reason *r = &ldc_log_reasons[why];
    ldc_str target = ldc_client_word(e, 1);
    char what[400];
    ldc_text t;
    ldc_client_explain(l, e, why, what, sizeof what);
    ldc_text_init(&t, &l->mem);
    if (e->got_head || r->status == 0)
        ldc_text_fmt(&t, "cut in its %d, %s: ", e->status, r->word);
    else
        ldc_text_fmt(&t, "%d %s: ", r->status, r->word);
    if (target.n) ldc_text_escape(&t, ldc_client_word(e, 0), true);
    ldc_text_add(&t, target.n ? " " : "a request");
    if (e->stripped) ldc_text_escape(&t, ldc_client_field(e, "X-Forwarded-Prefix"), true);
    if (target.n > 1024) target.n = 1024;
    ldc_text_escape(&t, target, true);
    ldc_text_fmt(&t, " from %s", e->address[0] ? e->address : "a unix peer");
    if (e->group && e->started && e->worker_pid)
        ldc_text_fmt(&t, ", %s.%d (pid %ld)", e->group->name, e->worker_index, (long)e->worker_pid);
    else if (e->group && e->started)
        ldc_text_fmt(&t, ", %s.%d", e->group->name, e->worker_index);
    else if (e->group)
        ldc_text_fmt(&t, ", %s", e->group->name);
    ldc_text_fmt(&t, ", id %s: %s", e->id, what);
    if (!t.failed) ldc_log_line(&l->log, level, ldc_util_str(t.p, t.n));
    ldc_text_free(&t);
}

/* "web: 37 more requests failed: 30 full, 7 timeout". True: nothing is left to say. */
static bool ldc_client_failures_sum(ldcorn *l, const char *group, ldc_failures *f) {
    ldc_text t;
    int n = 0;
    if (f->mores == 0) return true;
    if (l->now - f->since < 1000000) return false;
    ldc_text_init(&t, &l->mem);
    ldc_text_fmt(&t, "%s%s%d more request%s failed:", group, group[0] ? ": " : "", f->mores,
                 f->mores == 1 ? "" : "s");
    for (int i = 0; i < LDC_WHYS; i++) {
        if (f->more[i])
            ldc_text_fmt(&t, "%s %u %s", n++ ? "," : "", (unsigned)f->more[i],
                         ldc_log_reasons[i].word);
    }
    if (!t.failed) ldc_log_line(&l->log, LDCORN_LOG_WARN, ldc_util_str(t.p, t.n));
    ldc_text_free(&t);
    memset(f, 0, sizeof *f);
    f->since = l->now;
    return true;
}

/* Refused or cut: counted, and told as far as anybody can read that much. */
static void ldc_client_failed(ldcorn *l, ldc_exchange *e, ldc_why why) {
    ldc_failures *f = e->group ? &e->group->failures : &l->failures;
    int status = ldc_log_reasons[why].status;
    bool cut = e->got_head || status == 0;
    bool theirs = why == LDC_WHY_TUNNEL_TIMEOUT || why == LDC_WHY_CLIENT_GONE;
    ldcorn_level level = (cut && !theirs) || status >= 500 ? LDCORN_LOG_WARN : LDCORN_LOG_INFO;
    if (e->failed || why == LDC_WHY_NONE || (e->client && e->client->admin)) return;
    e->failed = true;
    if (e->group)
        ldc_group_refused(l, e->group, why);
    else
        l->refusals[why]++;
    if (level > l->log.level) return;
    if (l->now - f->since >= 1000000) {
        ldc_client_failures_sum(l, e->group ? e->group->name : "", f);
        f->since = l->now;
        f->said = 0;
    }
    if (f->said++ < LDC_SAYS) {
        ldc_client_failed_line(l, e, why, level);
        return;
    }
    f->more[why]++;
    f->mores++;
    if (l->report_at == 0 || l->report_at > l->now + 1000000) l->report_at = l->now + 1000000;
}

/* --- endings --- */

static void ldc_client_admin_open(ldcorn *l) {
    l->admin_full = false;
    for (ldc_listener *s = l->listeners; s; s = s->next) {
        if (s->admin && !s->watch.dead) ldc_loop_want(l, &s->watch, POLLIN);
    }
}

static void ldc_client_bury(ldcorn *l, ldc_client *c) {
    if (c->state == LDC_CLIENT_DEAD) return;
    ldc_client_set(l, c, LDC_CLIENT_DEAD);
    ldc_loop_close(l, &c->watch);
    ldc_loop_forget(l, &c->timer);
    *c->prev = c->next;
    if (c->next) c->next->prev = c->prev;
    c->next = l->dead_clients;
    l->dead_clients = c;
    if (!c->admin)
        l->clients_count--;
    else if (l->admins-- >= LDC_ADMINS && l->admin_full)
        ldc_client_admin_open(l);
}

/* Lets go of the exchange; the worker's part may go on as an orphan. */
static void ldc_client_leave_exchange(ldcorn *l, ldc_client *c, ldc_why why) {
    ldc_exchange *e = c->exchange;
    ldc_up *u;
    if (e == NULL) return;
    c->exchange = NULL;
    if (e->waiting) ldc_group_pop(l, e);
    ldc_group_unlack(l, e);
    u = e->up;
    if (!e->logged) {
        if (e->why == LDC_WHY_NONE) e->why = why;
        if (why == LDC_WHY_CLIENT_GONE && e->status < 200 && u && u->state != LDC_UP_TUNNEL)
            e->status = 499;
        if (why == LDC_WHY_CLIENT_GONE && e->status == 0) e->status = 499;
        ldc_client_failed(l, e, why);
        ldc_client_log(l, e);
        if (e->status == 499) e->status = 0; /* an orphan's answer is still to be parsed */
    }
    e->client = NULL;
    if (u)
        ldc_up_abandon(l, e, why, e->group->conf->client_abort == LDC_CLOSE);
    else
        ldc_client_exchange_free(l, e);
}

/* An answer that is not whole must not look whole: towards an until-close reader only a reset
   tells (RFC 9112 8). */
static void ldc_client_spoil(const ldc_client *c, const ldc_exchange *e) {
    struct linger off;
    if (e->res.out != LDC_FRAME_EOF || (e->res.end && ldc_relay_waiting(&e->res) == 0)) return;
    off.l_onoff = 1;
    off.l_linger = 0;
    setsockopt(c->watch.fd, SOL_SOCKET, SO_LINGER, &off, sizeof off);
}

static void ldc_client_end(ldcorn *l, ldc_client *c, ldc_why why) {
    if (c->state == LDC_CLIENT_DEAD) return;
    if (c->exchange) ldc_client_spoil(c, c->exchange);
    ldc_client_leave_exchange(l, c, why);
    ldc_client_bury(l, c);
}

static void ldc_client_dead(ldcorn *l, ldc_client *c) { ldc_client_end(l, c, LDC_WHY_CLIENT_GONE); }

static void ldc_client_cut(ldcorn *l, ldc_client *c, ldc_why why) {
    ldc_exchange *e = c->exchange;
    if (e) e->why = why;
    ldc_client_end(l, c, why);
}

/* Our last word was written: the client gets two seconds to read it before the descriptor goes,
   because closing on unread input would reset the connection (RFC 9112 9.6). */
static void ldc_client_linger(ldcorn *l, ldc_client *c) {
    if (shutdown(c->watch.fd, SHUT_WR) < 0 || c->eof) {
        ldc_client_bury(l, c);
        return;
    }
    ldc_buf_free(&l->mem, &c->in);
    ldc_client_set(l, c, LDC_CLIENT_LINGER);
    ldc_loop_want(l, &c->watch, POLLIN);
    ldc_loop_timer(l, &c->timer, l->now + 2000000);
}

static void ldc_client_run(ldcorn *l, ldc_client *c) {
    if (c->runnable) return;
    c->runnable = true;
    c->next_runnable = NULL;
    *l->runnable_end = c;
    l->runnable_end = &c->next_runnable;
}

static void ldc_client_finish(ldcorn *l, ldc_client *c) {
    ldc_exchange *e = c->exchange;
    bool keep = e->keep && (l->life <= LDC_LIFE_LAME || c->admin) && !c->eof &&
                e->conf->s.keepalive_timeout != 0;
    bool clean = (e->last || c->eof) && e->req.end && c->in.p == NULL && e->why == LDC_WHY_NONE &&
                 (!e->upgrade || c->eof);
    ldc_client_log(l, e);
    c->exchange = NULL;
    LDCORN_ASSERT(e->up == NULL);
    ldc_client_exchange_free(l, e);
    if (keep) {
        c->line = 0;
        ldc_client_set(l, c, LDC_CLIENT_IDLE);
        ldc_loop_want(l, &c->watch, POLLIN);
        ldc_loop_timer(l, &c->timer, ldc_loop_after(l, l->conf->s.keepalive_timeout));
        if (c->in.p) ldc_client_run(l, c);
    } else if (clean && ldc_util_recv(c->watch.fd, l->scratch, LDC_SCRATCH, MSG_DONTWAIT) <= 0) {
        ldc_client_bury(l, c); /* closing over unread bytes would reset the answer */
    } else {
        ldc_client_linger(l, c);
    }
}

/* --- what an exchange's client waits for --- */

static void ldc_client_update_tunnel(ldcorn *l, ldc_client *c, ldc_exchange *e) {
    bool ended = e->res.end && ldc_relay_waiting(&e->res) == 0;
    short want = 0;
    if (ended && !e->res.shut) {
        e->res.shut = true;
        shutdown(c->watch.fd, SHUT_WR);
    }
    if (e->res.shut && e->req.shut) {
        ldc_client_end(l, c, LDC_WHY_NONE);
        return;
    }
    if (!e->req.end && ldc_relay_waiting(&e->req) < LDC_AHEAD) want = POLLIN;
    if (ldc_relay_waiting(&e->res)) want = (short)(want | POLLOUT);
    ldc_loop_want(l, &c->watch, want);
    ldc_loop_timer(l, &c->timer, ldc_loop_after(l, e->group->conf->s.tunnel_timeout));
    if (e->up) ldc_up_update(l, e->up);
}

static bool ldc_client_feed(ldcorn *l, ldc_client *c);

enum { LDC_PACE_WINDOW = 10000000, LDC_PACE_ASK = -2 }; /* microseconds; not asked yet */

static void ldc_client_owes(ldcorn *l, ldc_pace *p, bool owes, bool out) {
    if (!owes) {
        p->gap = 0;
    } else if (p->gap == 0) {
        p->gap = p->from = l->now;
        p->bytes = 0;
        p->taken = p->slow = 0;
        p->queue = out ? LDC_PACE_ASK : -1;
    }
}

static void ldc_client_moved(ldcorn *l, ldc_pace *p, size_t n) {
    if (p->gap) p->gap = l->now;
    p->bytes += n;
}

/* The earlier of `due` and the next time to look at this pace; 0 is never. */
static uint64_t ldc_client_pace_due(const ldcorn *l, const ldc_pace *p, int64_t gap, uint64_t due) {
    uint64_t t;
    if (p->gap == 0) return due;
    t = gap >= 0 ? p->gap + (uint64_t)gap * (p->queue == LDC_PACE_ASK ? 250 : 1000) : 0;
    if (l->conf->s.min_rate > 0 && (t == 0 || p->from + LDC_PACE_WINDOW < t))
        t = p->from + LDC_PACE_WINDOW;
    return due == 0 || (t && t < due) ? t : due;
}

/* Does its slowness cost somebody: a slot of a limited group, memory that others wait for, or the
   connection that a newcomer waits for? Else its time-outs alone judge it. */
static bool ldc_client_costs(const ldcorn *l, const ldc_exchange *e, bool out) {
    bool held = e->up && e->up->slot && e->group->conf->limited;
    return (held && (!out || !e->up->reading)) || l->lacking > 0 || l->paused;
}

/* Is it too slow? What the kernel holds for the client it has not taken: `out` is the descriptor
   to ask, -1 for the other direction. */
static ldc_why ldc_client_pace(ldcorn *l, const ldc_exchange *e, ldc_pace *p, int64_t gap, int out,
                               ldc_why late) {
    int64_t rate = l->conf->s.min_rate, queue, taken;
    if (p->gap == 0) return LDC_WHY_NONE;
    queue = out >= 0 ? ldc_net_unsent(out) : -1;
    if (p->queue == LDC_PACE_ASK) {
        p->queue = queue;
        p->from = l->now;
        p->bytes = 0;
    }
    taken = (int64_t)p->bytes;
    if (queue >= 0 && p->queue >= 0) taken += p->queue - queue;
    if (queue >= 0 && p->queue >= 0 && taken > p->taken) p->gap = l->now;
    p->taken = taken;
    if (gap >= 0 && p->gap + (uint64_t)gap * 1000 <= l->now) return late;
    if (rate <= 0 || p->from + LDC_PACE_WINDOW > l->now) return LDC_WHY_NONE;
    p->slow = taken < rate * (LDC_PACE_WINDOW / 1000000) ? taken + 1 : 0;
    if (p->slow && ldc_client_costs(l, e, out >= 0)) return LDC_WHY_SLOW;
    p->from = l->now;
    p->bytes = 0;
    p->taken = 0;
    p->queue = queue;
    return LDC_WHY_NONE;
}

/* While its body is collected, or waits for memory to be collected into. */
static void ldc_client_update_body(ldcorn *l, ldc_client *c, ldc_exchange *e) {
    short want = ldc_client_leave;
    uint64_t due = e->queue_by;
    ldc_client_set(l, c, LDC_CLIENT_BODY);
    ldc_client_owes(l, &e->in, !e->memory, false);
    if (e->memory) {
        if (!LDC_LEAVE && ldc_buf_size(&c->in) >= LDC_PIPELINE) want = 0;
    } else {
        want = ldc_relay_waiting(&e->res) ? POLLIN | POLLOUT : POLLIN;
        due = ldc_client_pace_due(l, &e->in, e->conf->s.body_timeout, 0);
    }
    ldc_loop_want(l, &c->watch, want);
    ldc_loop_timer(l, &c->timer, due);
}

static void ldc_client_update(ldcorn *l, ldc_client *c) {
    ldc_exchange *e = c ? c->exchange : NULL;
    const ldcorn_desc *s;
    short want = 0;
    bool reads;
    if (e == NULL || c->state == LDC_CLIENT_DEAD) return;
    if (e->collecting) {
        ldc_client_update_body(l, c, e);
        return;
    }
    if (e->waiting) {
        ldc_client_set(l, c, LDC_CLIENT_QUEUED);
        ldc_client_owes(l, &e->in, false, false); /* it is not asked for more meanwhile */
        ldc_loop_want(l, &c->watch,
                      LDC_LEAVE || ldc_buf_size(&c->in) < LDC_PIPELINE ? ldc_client_leave : 0);
        ldc_loop_timer(l, &c->timer, e->queue_by);
        return;
    }
    if (c->state == LDC_CLIENT_TUNNEL) {
        ldc_client_update_tunnel(l, c, e);
        return;
    }
    if (c->state == LDC_CLIENT_HEAD || c->state == LDC_CLIENT_BODY || c->state == LDC_CLIENT_QUEUED)
        ldc_client_set(l, c, LDC_CLIENT_ACTIVE);
    if (c->state != LDC_CLIENT_ACTIVE) return;
    if (c->in.p && !e->req.end && ldc_relay_waiting(&e->req) < LDC_AHEAD && !ldc_client_feed(l, c))
        return;
    s = &e->conf->s;
    reads = e->up && !e->req.end && !e->req.discard && ldc_relay_waiting(&e->req) < LDC_AHEAD;
    if (ldc_relay_waiting(&e->res)) want = POLLOUT;
    if (reads)
        want = (short)(want | POLLIN);
    else if (e->up && e->group->conf->client_abort == LDC_CLOSE && !c->eof &&
             (LDC_LEAVE || ldc_buf_size(&c->in) < LDC_PIPELINE))
        want = (short)(want | ldc_client_leave);
    if (want == 0 && e->up && l->life >= LDC_LIFE_DRAIN)
        want = POLLERR; /* a stop waits for the living: a reset is looked for */
    ldc_client_owes(l, &e->in, reads, false);
    ldc_client_owes(l, &e->out, ldc_relay_waiting(&e->res) > 0, true);
    ldc_loop_want(l, &c->watch, want);
    ldc_loop_timer(l, &c->timer,
                   ldc_client_pace_due(l, &e->in, s->body_timeout,
                                       ldc_client_pace_due(l, &e->out, s->send_timeout, 0)));
    if (e->up) ldc_up_update(l, e->up);
}

static void ldc_client_answered(ldcorn *l, ldc_exchange *e) {
    if (ldc_relay_waiting(&e->res) == 0)
        ldc_client_finish(l, e->client);
    else
        ldc_client_update(l, e->client);
}

static void ldc_client_tunnel(ldcorn *l, ldc_exchange *e) {
    ldc_client *c = e->client;
    ldc_up *u = e->up;
    size_t used;
    ldc_client_set(l, c, LDC_CLIENT_TUNNEL);
    if (c->in.p) { /* bytes behind the request waited for the final status */
        if (ldc_relay_push(l, &e->req, ldc_buf_at(&c->in), ldc_buf_size(&c->in), false, -1, &used) <
            0) {
            ldc_client_dead(l, c);
            return;
        }
        ldc_buf_free(&l->mem, &c->in);
        ldc_up_flush(l, u);
    }
    if (u->state == LDC_UP_TUNNEL) ldc_client_update(l, c); /* else it ended in there */
}

/* --- our own answers --- */

static void ldc_client_flush(ldcorn *l, ldc_client *c) {
    ldc_exchange *e = c->exchange;
    ssize_t w = ldc_relay_flush(l, &e->res, c->watch.fd);
    if (w == LDC_GONE) {
        ldc_client_dead(l, c);
        return;
    }
    if (w > 0) {
        ldc_client_moved(l, &e->out, (size_t)w);
        if (e->held) ldc_group_settle(l, e);
        ldc_loop_progress(&c->watch);
    }
    if (c->state == LDC_CLIENT_REPLY || (e->up == NULL && e->res.end)) {
        if (ldc_relay_waiting(&e->res) == 0) {
            ldc_client_finish(l, c);
            return;
        }
        ldc_loop_want(l, &c->watch, POLLOUT);
        ldc_loop_timer(l, &c->timer, ldc_loop_after(l, e->conf->s.send_timeout));
        return;
    }
    ldc_client_update(l, c);
}

static const char *ldc_client_phrase(int status) {
    static const struct {
        int status;
        const char *phrase;
    } known[] = {{200, "OK"},
                 {202, "Accepted"},
                 {400, "Bad Request"},
                 {401, "Unauthorized"},
                 {403, "Forbidden"},
                 {404, "Not Found"},
                 {405, "Method Not Allowed"},
                 {408, "Request Timeout"},
                 {409, "Conflict"},
                 {413, "Content Too Large"},
                 {414, "URI Too Long"},
                 {417, "Expectation Failed"},
                 {429, "Too Many Requests"},
                 {431, "Request Header Fields Too Large"},
                 {500, "Internal Server Error"},
                 {501, "Not Implemented"},
                 {502, "Bad Gateway"},
                 {503, "Service Unavailable"},
                 {504, "Gateway Timeout"},
                 {505, "HTTP Version Not Supported"},
                 {508, "Loop Detected"}};
    for (size_t i = 0; i < LDC_LEN(known); i++) {
        if (known[i].status == status) return known[i].phrase;
    }
    return "";
}

/* The head of a local answer with a body of `n` bytes. `extra` are whole field lines. */
static void ldc_client_reply_head(ldcorn *l, ldc_exchange *e, ldc_text *t, int status,
                                  const char *type, const char *extra, size_t n) {
    if (!e->req.end || e->conf->s.keepalive_timeout == 0) e->keep = false;
    if (l->life != LDC_LIFE_RUN && !e->client->admin) e->keep = false;
    e->status = status;
    ldc_text_init(t, &l->mem);
    ldc_text_fmt(t, "HTTP/1.1 %d %s\r\n", status, ldc_client_phrase(status));
    if (status != 204 && status != 304) /* a filter's: those have no body and no length */
        ldc_text_fmt(t, "Content-Type: %s\r\nContent-Length: %llu\r\n", type,
                     (unsigned long long)n);
    ldc_text_fmt(t, "Date: %s\r\n%s", ldc_loop_date(l).p, extra);
    if (e->id[0]) ldc_text_fmt(t, "X-Request-Id: %s\r\n", e->id);
    if (!e->keep)
        ldc_text_add(t, "Connection: close\r\n");
    else if (e->http10)
        ldc_text_add(t, "Connection: keep-alive\r\n");
    ldc_text_add(t, "\r\n");
}

/* A whole local answer, from `off` on in `t`, which it takes, into the exchange and on its way. */
static void ldc_client_reply_send(ldcorn *l, ldc_exchange *e, ldc_text *t, size_t off, size_t n) {
    ldc_buf interim = e->res.buf; /* part of a 1xx: our answer stands behind it */
    if (!e->got_head) memset(&e->res.buf, 0, sizeof e->res.buf);
    ldc_relay_free(l, &e->res);
    if (!e->got_head) e->res.buf = interim;
    e->res.bytes = e->head_only ? 0 : n;
    e->res.end = true;
    if (!ldc_buf_take(&l->mem, &e->res.buf, t, off)) {
        ldc_client_end(l, e->client, LDC_WHY_MEMORY);
        return;
    }
    ldc_client_set(l, e->client, LDC_CLIENT_REPLY);
    ldc_client_flush(l, e->client);
}

static void ldc_client_reply(ldcorn *l, ldc_exchange *e, int status, const char *type,
                             const char *extra, ldc_str body) {
    ldc_text t;
    ldc_client_reply_head(l, e, &t, status, type, extra, body.n);
    if (!e->head_only) ldc_text_put(&t, body.p, body.n);
    ldc_client_reply_send(l, e, &t, 0, body.n);
}

/* The same for a long body, which is not copied: it stands in `t`, which is taken, behind room for
   the head. */
static void ldc_client_reply_long(ldcorn *l, ldc_exchange *e, const char *type, const char *extra,
                                  ldc_text *t) {
    size_t n = t->n - LDC_REPLY_FRONT;
    ldc_text head;
    ldc_client_reply_head(l, e, &head, 200, type, extra, n);
    if (head.failed || head.n > LDC_REPLY_FRONT) {
        t->failed = true;
        head.n = 0;
    }
    if (head.n) memcpy(t->p + LDC_REPLY_FRONT - head.n, head.p, head.n);
    if (e->head_only) t->n = LDC_REPLY_FRONT;
    ldc_client_reply_send(l, e, t, LDC_REPLY_FRONT - head.n, n);
    ldc_text_free(&head);
}

static void ldc_client_refuse(ldcorn *l, ldc_exchange *e, ldc_why why) {
    const ldc_reason *r = &ldc_log_reasons[why];
    char body[320], extra[64] = "";
    if (e->waiting) ldc_group_pop(l, e);
    ldc_group_unlack(l, e);
    e->collecting = false;
    e->why = why;
    ldc_client_failed(l, e, why);
    if ((r->status >= 400 && r->status < 500 && why != LDC_WHY_ROUTE && why != LDC_WHY_DENIED &&
         why != LDC_WHY_TOKEN && r->status != 429) ||
        r->status == 501 || r->status == 505)
        e->keep = false;
    if ((e->got_head && (e->res.head.len == 0 || e->res.sent)) || r->status == 0) {
        ldc_client_cut(l, e->client, why);
        return;
    }
    if (r->status == 503 && e->group)
        snprintf(extra, sizeof extra, "Retry-After: %d\r\n", ldc_group_retry_after(l, e->group));
    if (r->status == 429) snprintf(extra, sizeof extra, "Retry-After: %d\r\n", e->retry_after);
    if (r->status == 405)
        snprintf(extra, sizeof extra, "Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n");
    snprintf(body, sizeof body, "%d %s (request %s)\n", r->status, r->text, e->id[0] ? e->id : "-");
    ldc_client_reply(l, e, r->status, "text/plain; charset=utf-8", extra, ldc_util_z(body));
}

/* --- who is it --- */

static bool ldc_client_trusted(const ldc_conf *conf, int family, const unsigned char *ip) {
    return ldc_conf_listed(conf->trusted, conf->trusteds, family, ip);
}

/* An element of X-Forwarded-For: an address, in brackets or not, with a port or without. Its family,
   0: it is none. */
static int ldc_client_element(ldc_str one, unsigned char ip[16], char out[INET6_ADDRSTRLEN]) {
    const char *colon = one.n ? (const char *)memchr(one.p, ':', one.n) : NULL;
    const char *close = one.n ? (const char *)memchr(one.p, ']', one.n) : NULL;
    const unsigned char *bytes = ip;
    ldc_str host = one, port = ldc_util_str("", 0);
    uint64_t n;
    int family;
    if (close && one.p[0] == '[') {
        host = ldc_util_str(one.p + 1, (size_t)(close - one.p) - 1);
        port = ldc_util_cut(one, host.n + 2);
        if (port.n && port.p[0] != ':') return 0;
    } else if (colon && memchr(colon + 1, ':', one.n - (size_t)(colon + 1 - one.p)) == NULL) {
        host.n = (size_t)(colon - one.p);
        port = ldc_util_cut(one, host.n);
    }
    if (port.n && !ldc_util_number(ldc_util_cut(port, 1), 65535, &n)) return 0;
    if (host.n == 0 || host.n >= INET6_ADDRSTRLEN) return 0;
    memcpy(out, host.p, host.n);
    out[host.n] = 0;
    family = strchr(out, ':') ? AF_INET6 : AF_INET;
    if (strlen(out) != host.n || inet_pton(family, out, ip) != 1) return 0;
    family = ldc_conf_unmapped(family, &bytes);
    memmove(ip, bytes, family == AF_INET ? 4 : 16);
    return inet_ntop(family, ip, out, INET6_ADDRSTRLEN) ? family : 0;
}

/* The rightmost X-Forwarded-For element that is not trusted, at most 32 back; a malformed one
   ends the walk. */
static void ldc_client_forwarded(const ldc_conf *conf, const ldc_head *h,
                                 char out[INET6_ADDRSTRLEN]) {
    unsigned char ip[16];
    int seen = 0;
    for (int i = h->count; i-- > 0;) {
        ldc_str rest = h->field[i].value;
        if (h->field[i].id != LDC_FIELD_XFF) continue;
        while (rest.n && seen++ < 32) {
            char text[INET6_ADDRSTRLEN];
            size_t from = rest.n;
            int family;
            while (from && rest.p[from - 1] != ',') from--;
            family = ldc_client_element(ldc_util_trim(ldc_util_cut(rest, from)), ip, text);
            rest.n = from ? from - 1 : 0;
            if (family == 0) return;
            memcpy(out, text, sizeof text);
            if (!ldc_client_trusted(conf, family, ip)) return;
        }
    }
}

static void ldc_client_make_id(ldcorn *l, char out[17]) {
    char digits[16];
    size_t n = ldc_util_hexadecimal(ldc_util_mix(l->id_seed + ++l->id_next * 0x9E3779B97F4A7C15ULL),
                                    digits);
    memset(out, '0', 16);
    memcpy(out + 16 - n, digits, n);
    out[16] = 0;
}

static void ldc_client_who(const ldc_client *c, ldc_exchange *e, const ldc_head *h) {
    e->trusted = ldc_client_trusted(e->conf, c->family, c->ip);
    memcpy(e->address, c->peer, sizeof e->address);
    if (e->trusted && ldc_http_get(h, LDC_FIELD_XFF)) ldc_client_forwarded(e->conf, h, e->address);
}

/* May a trusted peer's id stand everywhere as it is: in JSON, and in a log without quotes? */
static bool ldc_client_id(ldc_str id) {
    for (size_t i = 0; i < id.n; i++) {
        if (id.p[i] <= ' ' || id.p[i] > '~' || id.p[i] == '"' || id.p[i] == '\\') return false;
    }
    return id.n > 0;
}

/* The address at which it reached us. */
static void ldc_client_local(const ldc_client *c, char *out, size_t room) {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct sockaddr_un un;
    } here;
    socklen_t n = sizeof here;
    char ip[INET6_ADDRSTRLEN];
    bool six;
    snprintf(out, room, "localhost");
    if (c->family == AF_UNIX || getsockname(c->watch.fd, &here.any, &n) < 0) return;
    six = here.any.sa_family == AF_INET6;
    if (!six && here.any.sa_family != AF_INET) return;
    if (inet_ntop(here.any.sa_family, six ? (void *)&here.v6.sin6_addr : (void *)&here.v4.sin_addr,
                  ip, sizeof ip))
        snprintf(out, room, six ? "[%s]:%u" : "%s:%u", ip,
                 (unsigned)ntohs(six ? here.v6.sin6_port : here.v4.sin_port));
}

static bool ldc_client_prepare(ldcorn *l, ldc_client *c, ldc_exchange *e, ldc_head *h) {
    ldc_forward w;
    char local[INET6_ADDRSTRLEN + 16];
    ldc_str id = ldc_http_value(h, LDC_FIELD_REQUEST_ID);
    memset(&w, 0, sizeof w);
    w.trusted = e->trusted;
    w.client = ldc_util_z(e->address);
    w.proto = c->https ? LDC_S("https") : LDC_S("http");
    if (h->host.n == 0) { /* HTTP/1.0 */
        ldc_client_local(c, local, sizeof local);
        w.host = ldc_util_z(local);
    }
    if (!w.trusted && !l->untrusted_said && ldc_http_get(h, LDC_FIELD_XFF)) {
        l->untrusted_said = true;
        ldc_log_say(
            &l->log, LDCORN_LOG_WARN,
            "%s sends X-Forwarded-For and is not trusted; if it is your proxy, write: trusted_proxies = %s",
            c->peer[0] ? c->peer : "a unix peer", c->peer[0] ? c->peer : "unix");
    }
    if (w.trusted && id.n < sizeof e->id && ldc_client_id(id))
        snprintf(e->id, sizeof e->id, "%.*s", LDC_STR_ARG(id));
    else
        ldc_client_make_id(l, e->id);
    w.id = ldc_util_z(e->id);
    w.arrived = e->wall;
    w.keep = true;
    w.via = ldc_util_z(l->via);
    w.collects = e->collect != 0;
    w.more = l->more;
    return ldc_http_write_request(&l->mem, &e->req.head, h, &w, ldc_util_z(c->peer));
}

/* --- a request --- */

static void ldc_admin_request(ldcorn *l, ldc_exchange *e, const ldc_head *h);
static bool ldc_admin_ready(ldcorn *l, ldc_text *t);
static ptrdiff_t ldc_client_body(ldcorn *l, ldc_client *c, char *p, size_t n, int fd);

static ldc_group *ldc_client_group(ldcorn *l, const ldc_conf *conf, int index) {
    ldc_group *g = ldc_group_find(l, conf->group[index].name);
    return g && !g->hidden ? g : NULL;
}

/* How much of the body is collected before the line: never more than the group can reserve. */
static uint64_t ldc_client_collects(const ldcorn *l, const ldc_exchange *e) {
    uint64_t most = (uint64_t)e->group->conf->s.request_buffer;
    uint64_t all = ldc_group_memory(l) / 4 * 3;
    if (e->req.in == LDC_FRAME_LENGTH && e->req.left < most) most = e->req.left;
    return most < all ? most : all;
}

/* Who may ask, and how much at once. IPv6 counts by /64; unix peers have no address to count. */
static ldc_why ldc_client_limits(ldcorn *l, ldc_exchange *e, ldc_head *h) {
    const ldc_gconf *g = e->group->conf;
    unsigned char ip[16];
    int family = e->address[0] == 0 ? AF_UNIX : strchr(e->address, ':') ? AF_INET6 : AF_INET;
    ldc_str who, key;
    memset(ip, 0, sizeof ip);
    if (family != AF_UNIX) inet_pton(family, e->address, ip);
    if (ldc_conf_listed(g->deny.p, g->deny.n, family, ip)) return LDC_WHY_DENIED;
    if (g->allow.n && !ldc_conf_listed(g->allow.p, g->allow.n, family, ip)) return LDC_WHY_DENIED;
    who = key = ldc_util_str((const char *)ip, family == AF_INET6 && ip[0] ? 8 : 16);
    if (g->rate.each) {
        bool named = false;
        for (int i = 0; g->rate.header && i < h->count && !named; i++) {
            named = ldc_util_isnocase(h->field[i].name, g->rate.header);
            if (named) key = h->field[i].value;
        }
        if ((named || family != AF_UNIX) && !ldc_group_rate(l, e, key, named)) return LDC_WHY_RATE;
    }
    if (g->s.max_req_per_client >= 0 && family != AF_UNIX && !ldc_group_client(l, e, who))
        return LDC_WHY_CLIENT_LIMIT;
    return LDC_WHY_NONE;
}

/* What the head alone decides, before anything of the body is asked for. */
static ldc_why ldc_client_check(ldcorn *l, ldc_exchange *e, ldc_head *h) {
    const ldc_route *route = NULL;
    ldc_why why = ldc_route_find(e->conf, h, h->target, l->path_room, &route);
    int64_t most;
    int group;
    if (ldc_http_get(h, LDC_FIELD_VIA) && ldc_http_passed(h, ldc_util_z(l->via)))
        return LDC_WHY_LOOP; /* our own address stands behind a route */
    if (e->chosen && why == LDC_WHY_ROUTE) why = LDC_WHY_NONE;
    if (why == LDC_WHY_NONE && e->chosen < 0) why = LDC_WHY_ROUTE;
    if (why) return why;
    group = e->chosen ? e->chosen - 1 : route->group;
    e->group = ldc_client_group(l, e->conf, group);
    if (e->group == NULL) return LDC_WHY_NO_WORKER;
    if ((why = ldc_client_limits(l, e, h)) != LDC_WHY_NONE) return why;
    if (e->group->conf->balance == LDC_HASH)
        e->hashed = ldc_route_hash(h, &e->group->conf->hash, ldc_util_z(e->address), &e->hash);
    if (e->chosen == 0 && e->conf->group[group].s.strip_prefix) {
        ldc_str rest = ldc_route_strip(route, h->target);
        e->stripped = rest.n != h->target.n;
        if (e->stripped) h->prefix = route->text;
        if (e->stripped && ldc_route_climbs(rest, l->path_room)) return LDC_WHY_ESCAPE;
        h->target = rest;
    }
    most = e->group->conf->s.max_body;
    if (most >= 0 && h->frame == LDC_FRAME_LENGTH && h->length > (uint64_t)most)
        return LDC_WHY_MAX_BODY;
    if (e->group->conf->limited && !e->req.end) {
        e->collect_most = ldc_client_collects(l, e);
        e->collect = e->collect_most; /* a chunked body may be a small one */
        if (e->req.in == LDC_FRAME_CHUNKED && e->collect > LDC_COLLECT) e->collect = LDC_COLLECT;
    }
    return LDC_WHY_NONE;
}

static void ldc_client_body_framing(ldc_exchange *e, ldc_head *h) {
    if (h->frame == LDC_FRAME_LENGTH && h->length == 0) {
        e->req.in = LDC_FRAME_NONE;
    } else {
        e->req.in = (uint8_t)h->frame;
    }
    e->req.out = e->req.in;
    e->req.left = h->length;
    e->req.end = e->req.in == LDC_FRAME_NONE;
}

static void ldc_client_keep(ldcorn *l, ldc_client *c, const char *p, size_t n) {
    if (c->state == LDC_CLIENT_DEAD || c->state == LDC_CLIENT_LINGER || n == 0) return;
    if (!ldc_buf_add(&l->mem, &c->in, p, n)) ldc_client_end(l, c, LDC_WHY_MEMORY);
}

/* --- a body that is collected before a slot is taken: a slow upload never occupies a worker --- */

/* The moment of arrival, in the head too. */
static void ldc_client_stamp(ldcorn *l, ldc_exchange *e) {
    ldc_str was = ldc_client_field(e, "X-Request-Start");
    char digits[20];
    size_t n = ldc_util_decimal(e->wall, digits);
    if (was.n != n + 2 || memcmp(was.p + 2, digits, n) != 0) return; /* a trusted peer's */
    if (ldc_util_decimal(l->wall, digits) == n)
        memcpy(e->req.head.p + (was.p + 2 - e->req.head.p), digits, n);
    e->arrived = l->now;
    e->wall = l->wall;
}

/* A whole body goes by its length. Of a longer chunked one, the part that is here becomes the
   first chunk, its size standing behind the head. */
static bool ldc_client_reframe(ldcorn *l, ldc_exchange *e) {
    char size[20];
    size_t digits;
    if (e->req.in != LDC_FRAME_CHUNKED) return true;
    if (e->req.end) return ldc_http_relength(&l->mem, &e->req.head, e->req.bytes);
    e->req.out = LDC_FRAME_CHUNKED;
    digits = ldc_util_hexadecimal(ldc_buf_size(&e->req.buf), size);
    memcpy(size + digits, "\r\n", 2);
    return ldc_buf_add(&l->mem, &e->req.head, size, digits + 2) &&
           ldc_buf_add(&l->mem, &e->req.buf, "\r\n", 2);
}

/* A chunked body that is no small one: all that it may have, if there is so much now. If not, it
   streams from here: those that wait while they hold something would wait for each other. */
static void ldc_client_collect_more(ldcorn *l, ldc_exchange *e) {
    if (e->req.end || e->collect == e->collect_most || ldc_buf_size(&e->req.buf) < e->collect)
        return;
    if (e->group->lack == NULL && ldc_group_hold(l, e, e->collect_most))
        e->collect = e->collect_most;
}

static void ldc_client_collected(ldcorn *l, ldc_client *c) {
    ldc_exchange *e = c->exchange;
    ldc_client_collect_more(l, e);
    if (!e->req.end && ldc_buf_size(&e->req.buf) < e->collect) {
        ldc_client_update(l, c);
        return;
    }
    e->collecting = false;
    if (!ldc_client_reframe(l, e)) {
        ldc_client_end(l, c, LDC_WHY_MEMORY);
        return;
    }
    ldc_client_stamp(l, e);
    ldc_group_settle(l, e);
    ldc_group_submit(l, e);
}

/* Memory is reserved: the body may come (RFC 9110 10.1.1). */
static void ldc_client_collect_now(ldcorn *l, ldc_client *c, ldc_exchange *e) {
    static const char go[] = "HTTP/1.1 100 Continue\r\n\r\n";
    LDCORN_ASSERT(e->req.bytes == 0);
    if (e->expects && c->in.p == NULL) {
        if (!ldc_buf_add(&l->mem, &e->res.buf, go, sizeof go - 1) ||
            ldc_relay_flush(l, &e->res, c->watch.fd) < 0) {
            ldc_client_dead(l, c);
            return;
        }
    }
    if (e->req.in == LDC_FRAME_LENGTH && !ldc_buf_room(&l->mem, &e->req.buf, (size_t)e->collect)) {
        ldc_client_refuse(l, e, LDC_WHY_MEMORY); /* one piece of the right size, not doubled ones */
        return;
    }
    if (c->in.p && !ldc_client_feed(l, c)) return;
    ldc_client_collected(l, c);
}

static void ldc_client_collect(ldcorn *l, ldc_client *c, ldc_exchange *e) {
    ldc_why why = ldc_group_admits(l, e);
    if (why) {
        ldc_client_refuse(l, e, why);
        return;
    }
    e->req.out = LDC_FRAME_LENGTH; /* kept decoded until it is known how it goes on */
    e->collecting = true;
    if ((e->group->lack == NULL || e->collect <= LDC_COLLECT) && ldc_group_hold(l, e, e->collect)) {
        ldc_client_collect_now(l, c, e);
        return;
    }
    ldc_group_lack(l, e);
    ldc_client_update(l, c);
}

static void ldc_client_gather(ldcorn *l, ldc_client *c, char *p, size_t n) {
    ptrdiff_t used = ldc_client_body(l, c, p, n, -1);
    if (used < 0) return;
    if ((size_t)used < n) ldc_client_keep(l, c, p + used, n - (size_t)used);
    if (c->exchange) ldc_client_collected(l, c);
}

/* Buffer memory was given back: the bodies that waited for it, in the order in which they came. */
static void ldc_client_freed(ldcorn *l) {
    ldc_exchange *e;
    l->freed = false;
    while ((e = ldc_group_fed(l)) != NULL) ldc_client_collect_now(l, e->client, e);
}

/* ready_path: for balancers in front; before routing, never queued. */
static bool ldc_client_ready_path(ldcorn *l, ldc_exchange *e, ldc_head *h) {
    const char *mine = e->conf->s.ready_path,
               *mark = (const char *)memchr(h->target.p, '?', h->target.n);
    ldc_str path = h->target;
    ldc_text t;
    bool ready;
    if (mark) path.n = (size_t)(mark - path.p);
    if (mine == NULL || !ldc_util_is(path, mine)) return false;
    ldc_text_init(&t, &l->mem);
    ready = ldc_admin_ready(l, &t); /* whose names are nobody's business out there */
    ldc_text_free(&t);
    e->logged = true; /* not in the access log: balancers ask all the time */
    if (!ldc_client_prepare(l, e->client, e, h))
        ldc_client_end(l, e->client, LDC_WHY_MEMORY);
    else
        ldc_client_reply(l, e, ready ? 200 : 503, "text/plain; charset=utf-8", "",
                         ready ? LDC_S("ready\n") : LDC_S("not ready\n"));
    return true;
}

/* Shows the request to the host's filter. True: it goes on, in e->chosen if that is set. */
static bool ldc_client_filter(ldcorn *l, ldc_client *c, ldc_exchange *e, ldc_head *h,
                              struct ldc_filtered *f) {
    ldc_serve_call in;
    ldcorn_call call;
    ldc_str z;
    memset(&in, 0, sizeof in);
    memset(&call, 0, sizeof call);
    f->head = h;
    in.mem = &l->mem;
    in.head = h;
    in.filtered = f;
    call.internal = &in;
    call.client = e->address;
    call.body = "";
    memcpy(l->path_room, h->method.p, h->method.n); /* both are parts of one head, with a blank */
    l->path_room[h->method.n] = 0;
    call.method = l->path_room;
    z = ldc_util_str(l->path_room + h->method.n + 1, h->target.n);
    memcpy(l->path_room + h->method.n + 1, h->target.p, h->target.n);
    l->path_room[h->method.n + 1 + h->target.n] = 0;
    call.target = z.p;
    l->desc.filter(&call, l->desc.filter_user);
    for (int i = 0; call.group && i < e->conf->groups; i++) {
        if (strcmp(e->conf->group[i].name, call.group) == 0) e->chosen = i + 1;
    }
    if (call.group && e->chosen == 0) e->chosen = -1;
    if (e->chosen < 0 && !l->group_said)
        ldc_log_say(&l->log, LDCORN_LOG_ERROR,
                    "the filter chose group `%.64s`, which is not there: 404", call.group);
    l->group_said = l->group_said || e->chosen < 0;
    if (f->status == 0 && !f->lines.failed) return true;
    if (f->type.failed || f->body.failed || f->lines.failed || !ldc_client_prepare(l, c, e, h))
        ldc_client_end(l, c, LDC_WHY_MEMORY);
    else
        ldc_client_reply(l, e, f->status, f->type.p, "",
                         ldc_util_str(f->body.p ? f->body.p : "", f->body.n));
    return false;
}

/* https://host:8000, everybody's first mistake: said once for each of the peers seen last. */
static void ldc_client_tls(ldcorn *l, const ldc_client *c) {
    uint64_t key = ldc_util_fnv(c->peer, strlen(c->peer), 14695981039346656037ULL);
    char here[INET6_ADDRSTRLEN + 16];
    for (size_t i = 0; i < LDC_LEN(l->tls_said); i++) {
        if (l->tls_said[i] == key) return;
    }
    l->tls_said[l->tls_next++ % LDC_LEN(l->tls_said)] = key;
    ldc_client_local(c, here, sizeof here);
    ldc_log_say(
        &l->log, LDCORN_LOG_WARN,
        "%s: a TLS client on the plain address %s; put a terminator in front, or write http://",
        c->peer[0] ? c->peer : "a unix peer", here);
}

/* Filtered, routed, its head written. False: it is over. */
static bool ldc_client_prepared(ldcorn *l, ldc_client *c, ldc_exchange *e, ldc_head *h,
                                ldc_why *why) {
    struct ldc_filtered f;
    bool goes_on;
    if (l->desc.filter == NULL) {
        *why = ldc_client_check(l, e, h);
        if (ldc_client_prepare(l, c, e, h)) return true;
        ldc_client_end(l, c, LDC_WHY_MEMORY);
        return false;
    }
    memset(&f, 0, sizeof f);
    ldc_text_init(&f.type, &l->mem);
    ldc_text_init(&f.body, &l->mem);
    ldc_text_init(&f.lines, &l->mem);
    goes_on = ldc_client_filter(l, c, e, h, &f);
    if (goes_on) {
        *why = ldc_client_check(l, e, h);
        l->more = ldc_util_str(f.lines.p ? f.lines.p : "", f.lines.n);
        goes_on = ldc_client_prepare(l, c, e, h);
        if (!goes_on) ldc_client_end(l, c, LDC_WHY_MEMORY);
        l->more.n = 0;
    }
    ldc_text_free(&f.type);
    ldc_text_free(&f.body);
    ldc_text_free(&f.lines);
    return goes_on;
}

/* Of a head that is refused, what can be told of it: the request line, for the log, and whether it is
   a HEAD, whose answer has no body. */
static void ldc_client_first_line(ldcorn *l, ldc_exchange *e, const char *p, size_t n) {
    size_t most = n < 1024 ? n : 1024, end = 0, blank = 0;
    while (end < most && p[end] != '\r' && p[end] != '\n') end++;
    while (blank < end && p[blank] != ' ') blank++;
    e->head_only = ldc_util_is(ldc_util_str(p, blank), "HEAD");
    if (blank == end || blank + 1 == end || p[blank + 1] == ' ') return;
    if (ldc_buf_add(&l->mem, &e->req.head, p, end) &&
        ldc_buf_add(&l->mem, &e->req.head, " \r\n", 3))
        e->req.sent = e->req.head.len;
}

/* A head, or what there is of it, is refused. Its framing is unknown: nothing behind it is parsed. */
static void ldc_client_head_refused(ldcorn *l, ldc_client *c, ldc_why why, const char *p,
                                    size_t n) {
    ldc_exchange *e = ldc_client_exchange(l, c);
    if (e == NULL) {
        ldc_client_bury(l, c);
        return;
    }
    e->received = c->since;
    memcpy(e->address, c->peer, sizeof e->address);
    ldc_client_make_id(l, e->id);
    ldc_client_first_line(l, e, p, n);
    if (n && p[0] == 0x16) ldc_client_tls(l, c);
    ldc_client_refuse(l, e, why);
}

/* A whole head was parsed. */
static void ldc_client_head(ldcorn *l, ldc_client *c, ldc_head *h) {
    ldc_exchange *e = ldc_client_exchange(l, c);
    ldc_why why = LDC_WHY_NONE;
    if (e == NULL) {
        ldc_client_bury(l, c);
        return;
    }
    e->received = c->since; /* accept, or its first byte after keep-alive */
    c->first = false;
    c->blanks = 0;
    e->http10 = h->minor == 0;
    e->last = h->close || (h->minor == 0 && !h->keep_alive);
    e->keep = !e->last && e->conf->s.keepalive_timeout != 0;
    e->head_only = ldc_util_is(h->method, "HEAD");
    e->upgrade = ldc_http_upgrades(h);
    if (e->upgrade) e->keep = false; /* bytes behind it may be another protocol's */
    e->expects = h->minor && ldc_http_get(h, LDC_FIELD_EXPECT) != NULL;
    ldc_client_body_framing(e, h);
    e->safe = e->req.end &&
              (e->head_only || ldc_util_is(h->method, "GET") || ldc_util_is(h->method, "OPTIONS"));
    if (c->admin) {
        ldc_admin_request(l, e, h);
        return;
    }
    ldc_client_who(c, e, h);
    if (ldc_client_ready_path(l, e, h)) return;
    if (!ldc_client_prepared(l, c, e, h, &why)) return;
    if (why)
        ldc_client_refuse(l, e, why);
    else if (ldc_util_is(h->method, "OPTIONS") &&
             ldc_util_is(ldc_http_value(h, LDC_FIELD_MAX_FORWARDS), "0"))
        ldc_client_reply(l, e, 200, "text/plain", "", ldc_util_str("", 0)); /* RFC 9110 7.6.2 */
    else if (e->collect)
        ldc_client_collect(l, c, e);
    else if (c->in.p == NULL || e->req.end || ldc_client_feed(l, c))
        ldc_group_submit(l, e);
}

/* Old clients send CRLF behind a body; two are let pass (RFC 9112 2.2). */
static size_t ldc_client_blank(ldc_client *c, const char *p, size_t n) {
    size_t k = 0;
    if (c->line) return 0;
    for (; c->blanks < 2 && n - k >= 2 && p[k] == '\r' && p[k + 1] == '\n'; c->blanks++) k += 2;
    return k;
}

/* Looks for a head at p[0..n): LDC_MORE, or the bytes it takes and *why it is refused, which is as
   soon as it cannot become a request any more. */
static ptrdiff_t ldc_client_parse(ldcorn *l, ldc_client *c, const char *p, size_t n, ldc_why *why) {
    size_t most = (size_t)l->conf->s.max_header, seen = c->line;
    const char *lf = (const char *)memchr(p, '\n', n);
    size_t first = lf ? (size_t)(lf - p) : n; /* the request line */
    ptrdiff_t size = ldc_http_end(p, n, &c->line);
    l->head.fault = NULL;
    if (size == LDC_MORE && n < most) {
        *why = ldc_http_doubt(&l->head, p, n, seen, c->line);
        if (*why == LDC_WHY_NONE) return LDC_MORE;
    } else if (size == LDC_BAD) {
        *why = ldc_http_doubt(&l->head, p, first, 0, 0); /* a TLS hello has an LF somewhere, too */
        if (*why == LDC_WHY_NONE)
            ldc_http_fault(&l->head, "a line ends in LF without CR", p + c->line, n - c->line);
        *why = LDC_WHY_REQUEST;
    } else if (first >= most) {
        *why = LDC_WHY_TARGET;
    } else if (size == LDC_MORE || (size_t)size > most) {
        *why = LDC_WHY_MAX_HEADER;
    } else {
        *why = ldc_http_request_head(&l->head, p, (size_t)size, c->admin);
    }
    c->line = 0;
    return *why ? (ptrdiff_t)n : size; /* bytes behind a refused head are never parsed */
}

/* The answer for the client when the worker's part goes on without it: a second exchange, so
   that each side keeps its own framing. NULL: no memory, the client is gone. */
static ldc_exchange *ldc_client_split(ldcorn *l, ldc_exchange *e) {
    ldc_client *c = e->client;
    ldc_exchange *answer = ldc_client_exchange(l, c);
    bool ok = answer && ldc_buf_add(&l->mem, &answer->req.head, e->req.head.p, e->req.head.len);
    e->client = NULL;
    if (!ok) {
        if (answer) ldc_client_exchange_free(l, answer);
        c->exchange = NULL;
        ldc_client_spoil(c, e);
        ldc_client_bury(l, c);
        return NULL;
    }
    answer->req.sent = answer->req.head.len;
    answer->req.end = e->req.end;
    answer->req.bytes = e->req.bytes;
    answer->res.in = e->res.in;
    answer->res.out = e->res.out;
    answer->res.left = e->res.left;
    answer->res.bytes = e->res.bytes;
    if (!e->got_head) { /* the rest of a 1xx: our answer stands behind it */
        answer->res.buf = e->res.buf;
        memset(&e->res.buf, 0, sizeof e->res.buf);
    }
    answer->group = e->group;
    answer->received = e->received;
    answer->arrived = e->arrived;
    answer->queued = e->queued;
    answer->started = e->started;
    answer->connected = e->connected;
    answer->first = e->first;
    answer->wall = e->wall;
    answer->status = e->status;
    answer->worker_index = e->worker_index;
    answer->worker_pid = e->worker_pid;
    memcpy(answer->id, e->id, sizeof e->id);
    memcpy(answer->address, e->address, sizeof e->address);
    answer->http10 = e->http10;
    answer->head_only = e->head_only;
    answer->keep = e->keep;
    answer->last = e->last;
    answer->got_head = e->got_head;
    e->logged = true;
    return answer;
}

/* The client broke its request while a worker has part of it. */
static void ldc_client_refuse_inside(ldcorn *l, ldc_exchange *e, ldc_why why) {
    bool close_it = e->group->conf->client_abort == LDC_CLOSE;
    ldc_up *u = e->up;
    ldc_exchange *answer = e;
    e->req.end = e->keep = false;
    if (u) {
        answer = ldc_client_split(l, e);
        ldc_up_abandon(l, e, why, close_it);
    }
    if (answer) ldc_client_refuse(l, answer, why);
}

/* What became of body bytes on their way. False when the client is gone. That the worker takes no
   more is only noted: ldc_client_onward() draws the consequence, which may be the end of this
   exchange, when the bytes behind it have been kept. */
static bool ldc_client_passed(ldcorn *l, ldc_client *c, int r) {
    ldc_exchange *e = c->exchange;
    if (r == LDC_NOMEM) {
        ldc_client_end(l, c, LDC_WHY_MEMORY);
        return false;
    }
    if (r == LDC_GONE) {
        e->req.discard = true;
        if (e->up)
            e->up->gap = l->now; /* its time runs from here on; its answer, if any, decides */
    }
    return true;
}

/* Body bytes p[0..n) into the request's flow, to `fd` at once where it is not negative. Bytes
   used, or LDC_GONE when this exchange is over for the client. */
static ptrdiff_t ldc_client_body(ldcorn *l, ldc_client *c, char *p, size_t n, int fd) {
    ldc_exchange *e = c->exchange;
    int64_t most = e->group->conf->s.max_body;
    size_t used;
    int r = ldc_relay_push(l, &e->req, p, n, false, fd, &used);
    if (r == LDC_BAD ||
        (most >= 0 && e->req.in == LDC_FRAME_CHUNKED && e->req.bytes > (uint64_t)most)) {
        ldc_client_refuse_inside(l, e, r == LDC_BAD ? LDC_WHY_FRAMING : LDC_WHY_MAX_BODY);
        return LDC_GONE;
    }
    if (r < 0 && !ldc_client_passed(l, c, r)) return LDC_GONE;
    return (ptrdiff_t)used; /* what stands behind is the next request, whatever became of this */
}

/* Body bytes that waited in c->in. False when this exchange is over for the client. */
static bool ldc_client_feed(ldcorn *l, ldc_client *c) {
    ptrdiff_t used = ldc_client_body(l, c, ldc_buf_at(&c->in), ldc_buf_size(&c->in), -1);
    if (used < 0) return false;
    ldc_buf_drop(&l->mem, &c->in, (size_t)used);
    return true;
}

static void ldc_client_head_late(ldcorn *l, ldc_client *c, ldc_why why) {
    l->head.fault = NULL;
    ldc_client_head_refused(l, c, why, c->in.p ? ldc_buf_at(&c->in) : "", ldc_buf_size(&c->in));
}

/* Part of a head waits for its rest. An eighth of buffer_memory is for all of them; when that is
   full the oldest one hears that it is too slow. */
static void ldc_client_head_part(ldcorn *l, ldc_client *c) {
    if (c->state != LDC_CLIENT_HEAD || c->in.p == NULL || c->admin) return;
    if (c->head_bytes == 0) ldc_client_line_add(&l->heads, c);
    l->heads_bytes += c->in.cap - c->head_bytes;
    c->head_bytes = c->in.cap;
    while (l->heads_bytes > (uint64_t)l->conf->s.buffer_memory / 8 && l->heads.old)
        ldc_client_head_late(l, l->heads.old, LDC_WHY_SLOW);
}

/* ::ffff:a.b.c.d, of a socket for both, is a.b.c.d. */
static void ldc_client_address(ldc_client *c, int family, const unsigned char *ip) {
    c->family = (uint8_t)ldc_conf_unmapped(family, &ip);
    memset(c->ip, 0, sizeof c->ip);
    memcpy(c->ip, ip, c->family == AF_INET ? 4 : 16);
    c->peer[0] = 0;
    if (c->family != AF_UNIX) inet_ntop(c->family, c->ip, c->peer, sizeof c->peer);
}

/* What a balancer says before the first request: who its client is. It is believed, because only
   such balancers may reach an address that wants it. Bytes of it, LDC_MORE, LDC_BAD. */
static ptrdiff_t ldc_client_proxy(ldc_client *c, const char *p, size_t n) {
    ldc_proxied who;
    ptrdiff_t size = ldc_http_proxy(p, n, &who);
    if (size < 0) return size;
    c->proxy = false;
    if (who.family == AF_UNSPEC) return size; /* of the balancer itself, as for its checks */
    ldc_client_address(c, who.family, who.ip);
    return size;
}

static void ldc_client_rest(ldcorn *l, ldc_client *c);

/* Bytes in IDLE or HEAD. What stands behind the head is this request's body or the next request:
   it is kept before the head takes effect. */
static void ldc_client_input(ldcorn *l, ldc_client *c, char *p, size_t n) {
    ldc_buf in = c->in;
    ptrdiff_t size = LDC_MORE;
    ldc_why why = LDC_WHY_NONE;
    size_t blank;
    ptrdiff_t before;
    if (in.p && !ldc_buf_add(&l->mem, &in, p, n)) {
        ldc_client_bury(l, c);
        return;
    }
    memset(&c->in, 0, sizeof c->in);
    if (in.p) p = ldc_buf_at(&in), n = ldc_buf_size(&in);
    before = c->proxy ? ldc_client_proxy(c, p, n) : 0;
    blank = before >= 0 ? (size_t)before + ldc_client_blank(c, p + before, n - (size_t)before) : 0;
    l->head.fault = NULL;
    if (before == LDC_BAD) {
        size = (ptrdiff_t)n;
        why = LDC_WHY_PROXY;
    } else if (before >= 0 &&
               n > blank) { /* any byte, a lone CR too, begins a head: it has a time */
        if (c->state == LDC_CLIENT_IDLE) {
            ldc_client_set(l, c, LDC_CLIENT_HEAD);
            ldc_loop_timer(l, &c->timer, ldc_loop_after(l, l->conf->s.header_timeout));
        }
        size = ldc_client_parse(l, c, p + blank, n - blank, &why);
    }
    if (size == LDC_MORE && in.p) {
        c->in = in;
        if (blank) ldc_buf_drop(&l->mem, &c->in, blank);
    } else {
        bool more = size == LDC_MORE;
        if (more) size = 0;
        if (why == LDC_WHY_NONE) ldc_client_keep(l, c, p + blank + size, n - blank - (size_t)size);
        if (why) /* what should have been a PROXY header has no words of a request */
            ldc_client_head_refused(l, c, why, p + blank, before == LDC_BAD ? 0 : n - blank);
        else if (!more && c->state != LDC_CLIENT_DEAD)
            ldc_client_head(l, c, &l->head);
        ldc_buf_free(&l->mem, &in);
        if (!more) return;
    }
    if (c->state == LDC_CLIENT_HEAD && c->in.p == NULL && !c->first)
        ldc_client_rest(l, c);
    else
        ldc_client_head_part(l, c);
}

/* Nothing but empty lines came behind the last request: it is idle, as before. */
static void ldc_client_rest(ldcorn *l, ldc_client *c) {
    if (l->life > LDC_LIFE_LAME && !c->admin) { /* nothing is waited for any more */
        ldc_client_bury(l, c);
        return;
    }
    ldc_client_set(l, c, LDC_CLIENT_IDLE);
    ldc_loop_timer(l, &c->timer, ldc_loop_after(l, l->conf->s.keepalive_timeout));
}

/* Its FIN. While head or body is incomplete, or in the queue, it has left; while inside a worker
   it is a half-close under `wait` and a departure under `close`. */
static void ldc_client_fin(ldcorn *l, ldc_client *c) {
    ldc_exchange *e = c->exchange;
    c->eof = true;
    if (c->state == LDC_CLIENT_TUNNEL) {
        e->req.end = true;
        if (e->up) ldc_up_flush(l, e->up);
        return;
    }
    if (c->state == LDC_CLIENT_ACTIVE && e->req.end &&
        (e->up == NULL || e->group->conf->client_abort == LDC_WAIT)) {
        ldc_client_update(l, c);
        return;
    }
    if (c->state == LDC_CLIENT_REPLY) {
        ldc_loop_want(l, &c->watch, POLLOUT);
        return;
    }
    ldc_client_dead(l, c);
}

static void ldc_client_onward(ldcorn *l, ldc_client *c) {
    if (c->exchange && c->exchange->up && c->exchange->up->state != LDC_UP_CONNECT)
        ldc_up_flush(l, c->exchange->up);
    else if (c->exchange)
        ldc_client_update(l, c);
}

static void ldc_client_active(ldcorn *l, ldc_client *c, char *p, size_t n) {
    ldc_exchange *e = c->exchange;
    ldc_up *u = e->up;
    ptrdiff_t used;
    bool full = c->state == LDC_CLIENT_ACTIVE && ldc_relay_waiting(&e->req) >= LDC_AHEAD;
    if (e->req.end || c->in.p || u == NULL || full) { /* behind the request, or what waits */
        ldc_client_keep(l, c, p, n);
    } else {
        bool direct = (u->state == LDC_UP_BUSY || u->state == LDC_UP_TUNNEL) && !u->half;
        used = ldc_client_body(l, c, p, n, direct ? u->watch.fd : -1);
        if (used < 0) return;
        if ((size_t)used < n) ldc_client_keep(l, c, p + used, n - (size_t)used);
    }
    ldc_client_onward(l, c);
}

/* A long body, unseen. */
static bool ldc_client_moves(ldcorn *l, const ldc_client *c) {
    const ldc_exchange *e = c->exchange;
    return c->state == LDC_CLIENT_ACTIVE && e->up && e->up->state == LDC_UP_BUSY && !e->up->half &&
           c->in.p == NULL && ldc_relay_long(l, &e->req, e->up->watch.fd);
}

static ssize_t ldc_client_move(ldcorn *l, ldc_client *c) {
    ssize_t n;
    int r = ldc_relay_move(l, &c->exchange->req, c->watch.fd, c->exchange->up->watch.fd, &n);
    if (n <= 0) return n;
    ldc_loop_progress(&c->watch);
    ldc_client_moved(l, &c->exchange->in, (size_t)n);
    if (ldc_client_passed(l, c, r)) ldc_client_onward(l, c);
    return n;
}

static void ldc_client_readable(ldcorn *l, ldc_client *c) {
    ldc_exchange *e = c->exchange;
    size_t room = LDC_SCRATCH;
    ssize_t n;
    bool moved;
    if (c->state == LDC_CLIENT_BODY && e->collect - ldc_buf_size(&e->req.buf) < room)
        room = (size_t)(e->collect - ldc_buf_size(&e->req.buf));
    moved = ldc_client_moves(l, c) && (n = ldc_client_move(l, c)) > 0;
    if (!moved) /* recv() also gets past urgent data, where splice() stops */
        n = ldc_util_recv(c->watch.fd, l->scratch, room, 0);
    if (n < 0 && !ldc_util_again())
        ldc_client_dead(l, c);
    else if (n == 0)
        ldc_client_fin(l, c);
    if (n <= 0 || moved) return;
    ldc_loop_progress(&c->watch);
    if (c->state == LDC_CLIENT_LINGER) return; /* thrown away */
    if (e) ldc_client_moved(l, &e->in, (size_t)n);
    if (c->state == LDC_CLIENT_IDLE || c->state == LDC_CLIENT_HEAD)
        ldc_client_input(l, c, l->scratch, (size_t)n);
    else if (c->state == LDC_CLIENT_ACTIVE || c->state == LDC_CLIENT_TUNNEL)
        ldc_client_active(l, c, l->scratch, (size_t)n);
    else if (c->state == LDC_CLIENT_BODY && !e->memory)
        ldc_client_gather(l, c, l->scratch, (size_t)n);
    else {
        ldc_client_keep(l, c, l->scratch, (size_t)n);
        if (c->exchange) ldc_client_update(l, c);
    }
}

/* The next request was sent ahead. */
static void ldc_client_go_on(ldcorn *l, ldc_client *c) {
    ldc_buf in = c->in;
    memset(&c->in, 0, sizeof c->in);
    ldc_client_input(l, c, in.p + in.off, in.len - in.off);
    ldc_mem_give(&l->mem, in.p, in.cap);
}

/* An idle connection is to go, unless its next request has come by now. If it is idle all the same,
   it has been answered in here and stands at the end of the line. */
static void ldc_client_dismiss(ldcorn *l, ldc_client *c) {
    if (c->in.p)
        ldc_client_go_on(l, c);
    else
        ldc_client_readable(l, c);
    if (c->state == LDC_CLIENT_IDLE && c->in.p == NULL) ldc_client_bury(l, c);
}

/* The longest idle ones first, until `most` clients are left; nobody is looked at twice. */
static void ldc_client_dismiss_until(ldcorn *l, int most) {
    for (int n = l->clients_count; n > 0 && l->idle.old && l->clients_count > most; n--)
        ldc_client_dismiss(l, l->idle.old);
}

static void ldc_client_event(ldcorn *l, ldc_client *c, short revents) {
    if ((revents & POLLOUT) && c->exchange) ldc_client_flush(l, c);
    if (c->state == LDC_CLIENT_DEAD) return;
    if (revents & (POLLERR | POLLHUP | POLLNVAL)) {
        if (c->state == LDC_CLIENT_LINGER)
            ldc_client_bury(l, c);
        else if ((revents & POLLERR) || !(c->watch.want & POLLIN))
            ldc_client_dead(l, c);
        else
            ldc_client_readable(l, c);
    } else if (revents & POLLIN) {
        ldc_client_readable(l, c);
    } else if (LDC_RDHUP && (revents & LDC_RDHUP)) {
        ldc_client_fin(l, c); /* half of it has left: what that means depends on the state */
    }
}

static void ldc_client_timer(ldcorn *l, ldc_client *c) {
    ldc_exchange *e = c->exchange;
    ldc_why why;
    switch (c->state) {
    case LDC_CLIENT_HEAD: ldc_client_head_late(l, c, LDC_WHY_HEADER_TIMEOUT); break;
    case LDC_CLIENT_BODY:
        why = e->memory ? LDC_WHY_MEMORY
                        : ldc_client_pace(l, e, &e->in, e->conf->s.body_timeout, -1,
                                          LDC_WHY_BODY_TIMEOUT);
        if (why)
            ldc_client_refuse(l, e, why);
        else
            ldc_client_update(l, c);
        break;
    case LDC_CLIENT_QUEUED: ldc_client_refuse(l, e, LDC_WHY_TIMEOUT); break;
    case LDC_CLIENT_ACTIVE:
        if ((why = ldc_client_pace(l, e, &e->out, e->conf->s.send_timeout, c->watch.fd,
                                   LDC_WHY_SEND_TIMEOUT)) != LDC_WHY_NONE)
            ldc_client_cut(l, c, why);
        else if ((why = ldc_client_pace(l, e, &e->in, e->conf->s.body_timeout, -1,
                                        LDC_WHY_BODY_TIMEOUT)) != LDC_WHY_NONE)
            ldc_client_refuse_inside(l, e, why);
        else
            ldc_client_update(l, c);
        break;
    case LDC_CLIENT_TUNNEL: ldc_client_end(l, c, LDC_WHY_TUNNEL_TIMEOUT); break;
    case LDC_CLIENT_REPLY: ldc_client_end(l, c, LDC_WHY_SEND_TIMEOUT); break;
    case LDC_CLIENT_IDLE: ldc_client_dismiss(l, c); break;
    default: ldc_client_end(l, c, LDC_WHY_NONE); break; /* lingering long enough */
    }
}

/* --- accept --- */

static void ldc_client_peer(ldc_client *c, const struct sockaddr_storage *from) {
    c->family = (uint8_t)from->ss_family;
    if (from->ss_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)from;
        memcpy(c->ip, &v4->sin_addr, 4);
        inet_ntop(AF_INET, c->ip, c->peer, sizeof c->peer);
    } else if (from->ss_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)(const void *)from;
        ldc_client_address(c, AF_INET6, (const unsigned char *)&v6->sin6_addr);
    } else {
        c->family = AF_UNIX;
    }
}

static ldc_client *ldc_client_new(ldcorn *l, int fd) {
    ldc_client *c = (ldc_client *)l->spare_client;
    if (c)
        memcpy(&l->spare_client, c, sizeof(void *));
    else
        c = (ldc_client *)ldc_mem_resize(&l->mem, NULL, 0, sizeof *c);
    if (c == NULL) return NULL;
    memset(c, 0, sizeof *c);
    if (!ldc_loop_reserve_timer(l) || !ldc_loop_open(l, &c->watch, fd, LDC_KIND_CLIENT, POLLIN)) {
        memcpy(c, &l->spare_client, sizeof(void *));
        l->spare_client = c;
        return NULL;
    }
    l->loop.timers++;
    c->timer.kind = LDC_TIMER_CLIENT;
    c->state = LDC_CLIENT_HEAD;
    c->first = true;
    c->since = l->now;
    c->next = l->clients;
    c->prev = &l->clients;
    if (l->clients) l->clients->prev = &c->next;
    l->clients = c;
    return c;
}

/* One client less, if any is idle: the one that has been so longest. */
static void ldc_client_evict(ldcorn *l) { ldc_client_dismiss_until(l, l->clients_count - 1); }

/* As in a pace: 0, or the bytes of a head that is too slow, and one. */
static int64_t ldc_client_slow_head(const ldcorn *l, const ldc_client *c) {
    int64_t n = (int64_t)ldc_buf_size(&c->in), took = (int64_t)((l->now - c->since) / 1000000);
    if (c->admin || c->state != LDC_CLIENT_HEAD || l->now - c->since < LDC_PACE_WINDOW) return 0;
    return n < took * l->conf->s.min_rate ? n + 1 : 0;
}

/* A full house: of the unfinished clients that are below min_rate the slowest one goes, so that a
   newcomer is served instead of refused. It gets no time to read our last word. */
static bool ldc_client_shed(ldcorn *l) {
    ldc_client *worst = NULL;
    int64_t least = INT64_MAX;
    if (l->now - l->shed_at < 100000) return false;
    l->shed_at = l->now;
    for (ldc_client *c = l->clients; c; c = c->next) {
        const ldc_exchange *e = c->exchange;
        int64_t slow = e == NULL || c->admin       ? ldc_client_slow_head(l, c)
                       : e->out.gap && e->out.slow ? e->out.slow
                                                   : e->in.slow;
        if (slow == 0 || slow >= least || (e && e->in.gap == 0 && e->out.gap == 0)) continue;
        worst = c;
        least = slow;
    }
    if (worst == NULL) return false;
    if (worst->exchange == NULL)
        ldc_client_head_late(l, worst, LDC_WHY_SLOW);
    else if (worst->state == LDC_CLIENT_BODY)
        ldc_client_refuse(l, worst->exchange, LDC_WHY_SLOW);
    else if (worst->exchange->out.slow == 0)
        ldc_client_refuse_inside(l, worst->exchange, LDC_WHY_SLOW);
    else
        ldc_client_cut(l, worst, LDC_WHY_SLOW);
    ldc_client_end(l, worst, LDC_WHY_NONE);
    return true;
}

/* At the limit the longest idle keep-alive client makes room, or the slowest one; without one, accept
   pauses. It goes when another has come, and if its next request has come too, there is one above
   the limit. `comes`: somebody is at the door. */
static bool ldc_client_room(ldcorn *l, bool comes) {
    if (l->clients_count > l->conns_max) ldc_client_evict(l);
    if (l->clients_count < l->conns_max || (l->clients_count == l->conns_max && l->idle.old))
        return true;
    if (!comes) return false; /* whether somebody waits, poll() tells */
    if (ldc_client_shed(l) && l->clients_count < l->conns_max) return true;
    ldc_client_pause(l, true);
    return false;
}

/* So many at a time on admin: the one that has been silent longest makes room. If all wait for an
   answer, further ones wait in the backlog until one of them is gone. */
static bool ldc_client_admin_room(ldcorn *l, ldc_listener *s) {
    if (l->admins >= LDC_ADMINS && l->admin_idle.old) ldc_client_bury(l, l->admin_idle.old);
    if (l->admins < LDC_ADMINS) return true;
    ldc_loop_want(l, &s->watch, 0);
    l->admin_full = true;
    return false;
}

static void ldc_client_accept_failed(ldcorn *l, ldc_listener *s) {
    /* ECONNABORTED, EPROTO: the next one */
    if (errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM) return;
    if (!s->admin) ldc_client_evict(l); /* its descriptor is free at the end of the turn */
    ldc_loop_lean(l);
    if (s->admin || s->dial)
        ldc_loop_want(l, &s->watch, 0); /* until the next look at what is starved */
    else
        ldc_client_pause(l, true);
}

static void ldc_client_begin(ldcorn *l, const ldc_listener *s, ldc_client *c) {
    c->admin = s->admin;
    c->proxy = s->addr.proxy;
    c->https = s->addr.https;
    c->local = ldc_conf_loopback(&s->addr);
    if (c->admin) {
        l->admins++;
        ldc_client_line_add(&l->admin_idle, c);
    } else {
        l->accepted++;
        if (++l->clients_count > l->conns_max) ldc_client_evict(l);
    }
    ldc_loop_timer(l, &c->timer, ldc_loop_after(l, l->conf->s.header_timeout));
    ldc_client_readable(l, c); /* its request is often there already */
}

static void ldc_client_accept(ldcorn *l, ldc_listener *s) {
    for (int i = 0; i < LDC_ACCEPTS; i++) {
        struct sockaddr_storage from;
        socklen_t n;
        ldc_client *c;
        int fd;
        if (s->admin ? !ldc_client_admin_room(l, s) : !ldc_client_room(l, i == 0)) return;
        fd = ldc_net_accept(s->watch.fd, &from, &n);
        if (fd < 0 && errno == EINTR) continue;
        if (fd < 0 && ldc_util_again()) return;
        if (fd < 0) {
            ldc_client_accept_failed(l, s);
            if (l->paused || s->watch.want == 0) return;
            continue;
        }
        c = ldc_client_new(l, fd);
        if (c == NULL) {
            close(fd);
            return;
        }
        if (n < sizeof(sa_family_t)) from.ss_family = AF_UNIX;
        ldc_client_peer(c, &from);
        ldc_loop_progress(&s->watch);
        ldc_client_begin(l, s, c);
    }
}

/* @proc -------------------------------------------------------------------------------------
   Workers as processes: fork, readiness, restart with back-off, drain, stop; their output. Owns
   pids, log pipes, worker sockets. A table of state x event; the loop only waits and calls the
   cell. Knows no clients. */

extern char **environ;

typedef enum ldc_proc_event {
    LDC_EV_TIMER,
    LDC_EV_PASSED,
    LDC_EV_FAILED,
    LDC_EV_EXIT,
    LDC_EV_RETIRE,
    LDC_EV_IDLE,
    LDC_EV_COUNT
} ldc_proc_event;

static void ldc_proc_do(ldcorn *l, ldc_worker *w, ldc_proc_event event);
static void ldc_reload_candidate(ldcorn *l, ldc_worker *w, const char *why);

static void ldc_proc_set(ldcorn *l, ldc_worker *w, ldc_proc_state to) {
    LDCORN_ASSERT(w->state == to || (ldc_proc_rows[w->state].next & (1u << to)));
    ldc_group_want(l, w, false);
    w->state = (uint8_t)to;
    w->since = l->now;
    ldc_group_moved(l, w->group);
    l->upset = true;
    ldc_log_say(&l->log, LDCORN_LOG_DEBUG, "%s.%d (pid %ld): %s", w->group->name, w->index,
                (long)w->pid, ldc_proc_words[to]);
}

/* --- output --- */

static ldc_sink *ldc_proc_sink(ldcorn *l, ldc_worker *w) {
    if (strcmp(w->as->log_path, "stderr") == 0)
        return l->log.own.fd == 2 ? &l->log.own : &l->log.err;
    if (strcmp(w->as->log_path, "stdout") == 0)
        return l->log.access.fd == 1 ? &l->log.access : &l->log.out;
    return &w->out;
}

/* Its last lines, each behind its time: tenths of seconds since we began, in eight hexadecimal digits. */
static void ldc_proc_remember(const ldcorn *l, ldc_worker *w, const char *p, size_t n) {
    char at[LDC_TAIL_TIME + 1];
    if (n + LDC_TAIL_TIME + 1 > sizeof w->tail / 2) n = sizeof w->tail / 2 - LDC_TAIL_TIME - 1;
    while (w->tail_n + n + LDC_TAIL_TIME + 1 > sizeof w->tail) { /* the oldest line goes */
        char *lf = (char *)memchr(w->tail, '\n', w->tail_n);
        size_t cut = lf ? (size_t)(lf - w->tail) + 1 : w->tail_n;
        memmove(w->tail, w->tail + cut, w->tail_n - cut);
        w->tail_n -= cut;
        w->tail_old -= cut < w->tail_old ? cut : w->tail_old;
        w->tail_before -= cut < w->tail_before ? cut : w->tail_before;
    }
    snprintf(at, sizeof at, "%08x", (unsigned)((l->now - l->began) / 100000));
    memcpy(w->tail + w->tail_n, at, LDC_TAIL_TIME);
    memcpy(w->tail + w->tail_n + LDC_TAIL_TIME, p, n);
    w->tail_n += LDC_TAIL_TIME + n;
    w->tail[w->tail_n++] = '\n';
}

/* The next line of `*rest` and how many seconds ago it came. False: there is none. */
static bool ldc_proc_recall(const ldcorn *l, ldc_str *rest, ldc_str *line, unsigned *ago) {
    unsigned at = 0;
    const char *lf = rest->n ? (const char *)memchr(rest->p, '\n', rest->n) : NULL;
    if (lf == NULL || lf - rest->p < LDC_TAIL_TIME) return false;
    for (int i = 0; i < LDC_TAIL_TIME; i++) at = at << 4 | (unsigned)ldc_util_hex(rest->p[i]);
    *ago = ((unsigned)((l->now - l->began) / 100000) - at) / 10;
    *line = ldc_util_str(rest->p + LDC_TAIL_TIME, (size_t)(lf - rest->p) - LDC_TAIL_TIME);
    *rest = ldc_util_cut(*rest, (size_t)(lf - rest->p) + 1);
    return true;
}

/* `last`: nobody will see the line behind this one soon, so it is among the last words. */
static void ldc_proc_line(ldcorn *l, ldc_pipe *p, bool split, bool last) {
    ldc_worker *w = p->worker;
    ldc_sink *s = ldc_proc_sink(l, w);
    char stamp[48];
    ldc_text t;
    if (last) ldc_proc_remember(l, w, p->line, p->n);
    ldc_text_init(&t, &l->mem);
    if (l->log.hook.line && s != &w->out) { /* a host with a logger hears of everything there */
        ldc_text_fmt(&t, "%s.%d %ld ", w->group->name, w->index, (long)w->pid);
        ldc_text_escape(&t, ldc_util_str(p->line, p->n), false);
        ldc_log_line(&l->log, LDCORN_LOG_INFO, ldc_util_str(t.p ? t.p : "", t.n));
        t.n = 0;
    } else if (!ldc_log_room(s, p->n + 128)) {
        if (s->fd >= 0) s->dropped++; /* no work for what nobody will see */
    } else if (w->as->log_raw) {
        ldc_text_put(&t, p->line, p->n);
        if (!split) ldc_text_add(&t, "\n");
    } else {
        ldc_log_stamp(s, LDCORN_LOG_INFO, stamp);
        ldc_text_fmt(&t, "%s%s.%d %ld %s", s->stamps == LDC_STAMP_FULL ? stamp : "", w->group->name,
                     w->index, (long)w->pid, p->split ? "... " : "");
        ldc_text_escape(&t, ldc_util_str(p->line, p->n), false);
        ldc_text_add(&t, split ? " ...\n" : "\n");
    }
    if (!t.failed && t.n) ldc_log_write(&l->log, s, t.p, t.n);
    ldc_text_free(&t);
    p->split = split;
    p->n = 0;
}

static void ldc_proc_bytes(ldcorn *l, ldc_pipe *p, const char *data, size_t n) {
    while (n) {
        const char *lf = (const char *)memchr(data, '\n', n);
        size_t take = lf ? (size_t)(lf - data) : n, room = LDC_LOG_LINE - p->n;
        bool full = take > room;
        if (full) take = room;
        memcpy(p->line + p->n, data, take);
        p->n += take;
        data += take;
        n -= take;
        if (full)
            ldc_proc_line(l, p, true, n < LDC_TAIL);
        else if (lf) {
            if (p->n && p->line[p->n - 1] == '\r' && !p->worker->as->log_raw) p->n--;
            ldc_proc_line(l, p, false, n < LDC_TAIL);
            data++;
            n--;
        }
    }
}

static void ldc_proc_pipe_close(ldcorn *l, ldc_pipe *p) {
    if (!p->open) return;
    if (p->n) ldc_proc_line(l, p, false, true);
    ldc_mem_free(&l->mem, p->line, LDC_LOG_LINE);
    p->line = NULL;
    p->open = false;
    ldc_loop_close(l, &p->watch);
}

/* At most one read per turn, and a small one: whoever prints without end holds up nobody else. After
   the end everything that is left. */
static void ldc_proc_pipe_read(ldcorn *l, ldc_pipe *p, bool rest) {
    for (int i = 0; p->open && (i == 0 || (rest && i < 64)); i++) {
        ssize_t n = ldc_util_read(p->watch.fd, l->scratch, rest ? LDC_SCRATCH : LDC_PRINTS);
        if (n < 0 && ldc_util_again()) return;
        if (n <= 0) {
            ldc_proc_pipe_close(l, p);
            return;
        }
        ldc_loop_progress(&p->watch);
        ldc_proc_bytes(l, p, l->scratch, (size_t)n);
    }
}

/* Its own ones, the last ten of the last ten minutes; what is not of this moment says its age. */
static void ldc_proc_tail(const ldcorn *l, ldc_text *t, const ldc_worker *w) {
    ldc_str rest = ldc_util_str(w->tail + w->tail_old, w->tail_n - w->tail_old), line;
    char span[24];
    unsigned ago;
    int lines = 0, skip;
    for (size_t i = 0; i < rest.n; i++) lines += rest.p[i] == '\n';
    skip = lines > 10 ? lines - 10 : 0;
    while (ldc_proc_recall(l, &rest, &line, &ago)) {
        if (skip-- > 0 || ago > 600) continue;
        ldc_text_add(t, "\n    | ");
        if (ago) ldc_text_fmt(t, "(%s before) ", ldc_util_span((uint64_t)ago * 1000, span));
        ldc_text_escape(t, line, false);
    }
}

/* --- leftovers: a worker's process group is noted in runtime_dir with its start time, so that the
   next start finds what a killed ldcorn has left behind. Its leader dies with us on Linux; children
   of it do not. Only where /proc tells who somebody is. --- */

/* When a process that has not ended began, in the kernel's ticks since it booted, and its session;
   0: there is none. */
static uint64_t ldc_proc_began(long pid, long *session) {
    char path[64], text[1024], *p, state = 0;
    unsigned long long began = 0;
    long at = 0;
    snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    if (ldc_util_small(path, text, sizeof text) == 0) return 0;
    p = strrchr(text, ')'); /* a name may hold anything */
    if (p == NULL || sscanf(p + 1,
                            " %c %*d %*d %ld %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d "
                            "%*d %*d %llu",
                            &state, &at, &began) != 3)
        return 0;
    if (state == 'Z' || state == 'X') return 0; /* only its parent has not looked yet */
    if (session) *session = at;
    return began;
}

static void ldc_proc_note_path(const ldcorn *l, long pid, char *out, size_t room) {
    snprintf(out, room, "%s/pid-%ld", l->conf->s.runtime_dir, pid);
}

static void ldc_proc_note(ldcorn *l, ldc_worker *w) {
    char path[PATH_MAX + 32], text[80];
    uint64_t began = ldc_proc_began((long)w->pid, NULL);
    int fd, n;
    if (began == 0) return;
    ldc_proc_note_path(l, (long)w->pid, path, sizeof path);
    fd = ldc_util_open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return;
    n = snprintf(text, sizeof text, "%llu %s\n", (unsigned long long)began, l->via);
    if (ldc_util_write(fd, text, (size_t)n) == n) w->noted = w->pid;
    close(fd);
    if (w->noted != w->pid) unlink(path);
}

static void ldc_proc_unnote(ldcorn *l, ldc_worker *w) {
    char path[PATH_MAX + 32];
    if (w->noted == 0) return;
    ldc_proc_note_path(l, (long)w->noted, path, sizeof path);
    unlink(path);
    w->noted = 0;
}

/* Did that instance start it, or one of those above it? All of them have the word in their
   environment. */
static bool ldc_proc_marked(long pid, const char *run) {
    char path[64], text[65536], word[64];
    size_t n = (size_t)snprintf(word, sizeof word, "LDCORN_RUN=%s", run);
    size_t got;
    snprintf(path, sizeof path, "/proc/%ld/environ", pid);
    got = ldc_util_small(path, text, sizeof text);
    for (size_t i = 0; i < got; i += strlen(text + i) + 1) {
        if (strncmp(text + i, word, n) == 0 && text[i + n] == 0) return true;
    }
    return false;
}

/* Is it our own program? A function's children have the environment of their host in /proc, without
   that word. */
static bool ldc_proc_same_program(long pid) {
    char path[64];
    struct stat theirs, ours;
    snprintf(path, sizeof path, "/proc/%ld/exe", pid);
    return stat(path, &theirs) == 0 && stat("/proc/self/exe", &ours) == 0 &&
           theirs.st_dev == ours.st_dev && theirs.st_ino == ours.st_ino;
}

/* Ends the process group of a leader that began then; how many processes that were, at least. */
static int ldc_proc_end_left(long leader, uint64_t began, const char *run) {
    DIR *d;
    struct dirent *entry;
    int ended = 0;
    if (ldc_proc_began(leader, NULL) == began) {
        ended = kill((pid_t)-leader, SIGKILL) == 0;
        return ended;
    }
    if (ldc_proc_began(leader, NULL)) return 0; /* another process has its number, and session */
    d = opendir("/proc"); /* it is gone; who is left in its session, and has our mark? */
    while (d && (entry = readdir(d)) != NULL) {
        long pid = strtol(entry->d_name, NULL, 10), session = 0;
        if (pid > 1 && ldc_proc_began(pid, &session) >= began && session == leader &&
            (ldc_proc_marked(pid, run) || ldc_proc_same_program(pid)) &&
            kill((pid_t)pid, SIGKILL) == 0)
            ended++;
    }
    if (d) closedir(d);
    return ended;
}

/* `name`: a file that an earlier ldcorn left in our runtime_dir; `only`: none but that instance. */
static int ldc_proc_leftover(const char *path, const char *name, const char *only) {
    char text[80] = "", run[32];
    unsigned long long began = 0;
    uint64_t leader = 0;
    ssize_t n;
    int fd;
    if (strncmp(name, "pid-", 4) != 0 ||
        !ldc_util_number(ldc_util_z(name + 4), INT32_MAX, &leader) || leader < 2)
        return 0;
    fd = ldc_util_open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0);
    if (fd < 0) return 0;
    n = ldc_util_read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    if (sscanf(text, "%llu %31s", &began, run) != 2) began = 0;
    if (only && (began == 0 || strcmp(run, only) != 0)) return 0;
    unlink(path);
    return began ? ldc_proc_end_left((long)leader, began, run) : 0;
}

/* --- fork --- */

typedef struct ldc_spawn { /* everything a child needs, made before the fork */
    char **argv, **env;
    char *program;
    int in, out, err, listener, status; /* descriptors of the child, -1: none */
    bool follows; /* it dies with us: the forking thread is the one that lives as long as we do */
    ldc_worker *worker;
} ldc_spawn;

typedef struct ldc_exec_error {
    int step, error;
} ldc_exec_error;
static const char *const ldc_proc_steps[] = {"", "descriptors", "working directory", "exec",
                                             "user"};

static char *ldc_proc_fill(ldc_arena *a, const ldc_worker *w, const char *word, const char *port,
                           bool env) {
    ldc_text t;
    char *z;
    ldc_text_init(&t, a->mem);
    for (const char *p = word; *p; p++) {
        const char *end = *p == '{' ? strchr(p, '}') : NULL;
        if (p[0] == '{' && p[1] == '{' && (!env || ldc_conf_placeholder(p + 1) >= 0)) {
            ldc_text_add(&t, "{");
            p++;
        } else if (p[0] == '}' && p[1] == '}' && !env) {
            ldc_text_add(&t, "}");
            p++;
        } else if (end == NULL || (env && ldc_conf_placeholder(p) < 0)) {
            ldc_text_put(&t, p, 1);
        } else {
            ldc_str name = ldc_util_str(p + 1, (size_t)(end - p) - 1);
            if (ldc_util_is(name, "socket"))
                ldc_text_add(&t, w->path);
            else if (ldc_util_is(name, "port"))
                ldc_text_add(&t, port);
            else if (ldc_util_is(name, "fd"))
                ldc_text_add(&t, "3");
            else if (ldc_util_is(name, "app"))
                ldc_text_add(&t, w->as->s.app ? w->as->s.app : "");
            else if (ldc_util_is(name, "group"))
                ldc_text_add(&t, w->as->name);
            else if (ldc_util_is(name, "index"))
                ldc_text_fmt(&t, "%d", w->index);
            else
                ldc_text_fmt(&t, "%d", w->generation);
            p = end;
        }
    }
    z = t.failed ? NULL : ldc_arena_copy(a, t.p, t.n);
    ldc_text_free(&t);
    return z;
}

typedef struct ldc_env {
    ldc_arena *arena;
    char **list;
    int n, cap;
    bool failed;
} ldc_env;

/* NAME=value over what stood there before. */
static void ldc_proc_env_put(ldc_env *v, const char *pair) {
    size_t name = (size_t)(strchr(pair, '=') - pair) + 1;
    char *copy = ldc_arena_copy(v->arena, pair, strlen(pair));
    if (copy == NULL) v->failed = true;
    if (v->failed) return;
    for (int i = 0; i < v->n; i++) {
        if (strncmp(v->list[i], copy, name) == 0) {
            v->list[i] = copy;
            return;
        }
    }
    if (v->n < v->cap) v->list[v->n++] = copy;
}

static void ldc_proc_env_fmt(ldc_env *v, const char *format, ...) LDC_PRINTF(2, 3);
static void ldc_proc_env_fmt(ldc_env *v, const char *format, ...) {
    char pair[PATH_MAX + 64];
    va_list list;
    va_start(list, format);
    vsnprintf(pair, sizeof pair, format, list);
    va_end(list);
    ldc_proc_env_put(v, pair);
}

/* Is it one of the variables behind admin_token? */
static bool ldc_proc_secret(const ldc_conf *c, const char *pair) {
    ldc_str rest = ldc_util_z(c ? c->secret : NULL), name = ldc_util_str(pair, strcspn(pair, "="));
    while (rest.n) {
        size_t n = strcspn(rest.p, " ");
        if (ldc_util_same(ldc_util_str(rest.p, n), name)) return true;
        rest = ldc_util_cut(rest, n + 1 < rest.n ? n + 1 : rest.n);
    }
    return false;
}

static bool ldc_proc_env(ldc_arena *a, const ldc_worker *w, const char *port, const char *run,
                         ldc_spawn *s) {
    static const char *const ours[] = {"NOTIFY_SOCKET=", "WATCHDOG_", "LISTEN_", "LDCORN_"};
    ldc_env v;
    memset(&v, 0, sizeof v);
    v.arena = a;
    for (char **e = environ; e && *e; e++) v.cap++;
    for (const char *const *e = w->as->s.env; e && *e; e++) v.cap++;
    v.cap += 16;
    v.list = (char **)ldc_arena_take(a, (size_t)(v.cap + 1) * sizeof *v.list);
    if (v.list == NULL) return false;
    for (char **e = environ; e && *e; e++) {
        bool pass = strchr(*e, '=') != NULL && !ldc_proc_secret(w->conf, *e);
        for (size_t i = 0; i < LDC_LEN(ours); i++)
            pass = pass && strncmp(*e, ours[i], strlen(ours[i])) != 0;
        if (pass && v.n < v.cap) v.list[v.n++] = *e;
    }
    if (w->as->transport != LDC_BY_PORT)
        ldc_proc_env_put(&v, "FORWARDED_ALLOW_IPS=*"); /* only we can reach it */
    ldc_proc_env_put(&v, "PYTHONUNBUFFERED=1"); /* Python holds back what it prints into a pipe */
    if (w->as->user.set) {
        ldc_proc_env_fmt(&v, "HOME=%s", w->as->user.home);
        ldc_proc_env_fmt(&v, "USER=%s", w->as->user.name);
        ldc_proc_env_fmt(&v, "LOGNAME=%s", w->as->user.name);
    }
    ldc_proc_env_fmt(&v, "LDCORN_RUN=%s", run); /* ours, and so is whatever it starts */
    ldc_proc_env_fmt(&v, "LDCORN_GROUP=%s", w->as->name);
    ldc_proc_env_fmt(&v, "LDCORN_INDEX=%d", w->index);
    ldc_proc_env_fmt(&v, "LDCORN_GENERATION=%d", w->generation);
    if (w->as->transport == LDC_BY_SOCKET) ldc_proc_env_fmt(&v, "LDCORN_SOCKET=%s", w->path);
    if (w->as->transport == LDC_BY_PORT) ldc_proc_env_fmt(&v, "LDCORN_PORT=%s", port);
    if (w->as->transport == LDC_BY_FD) {
        ldc_proc_env_put(&v, "LDCORN_FD=3");
        ldc_proc_env_put(&v, "LISTEN_FDS=1");
        ldc_proc_env_put(&v,
                         "LISTEN_PID=0000000000"); /* the child writes its own number in place */
    }
    for (const char *const *e = w->as->s.env; e && *e; e++) {
        char *pair = ldc_proc_fill(a, w, *e, port, true);
        if (pair == NULL) return false;
        ldc_proc_env_put(&v, pair);
    }
    s->env = v.list;
    return !v.failed;
}

/* Where the program is: in the worker's PATH, seen from its directory. */
static char *ldc_proc_search(ldc_arena *a, const ldc_worker *w, char **env, const char *name) {
    const char *path = "/usr/local/bin:/usr/bin:/bin", *dir = w->as->s.dir;
    char full[PATH_MAX], seen[PATH_MAX * 2];
    if (strchr(name, '/')) return ldc_arena_copy(a, name, strlen(name));
    for (; *env; env++) {
        if (strncmp(*env, "PATH=", 5) == 0) path = *env + 5;
    }
    while (*path) {
        size_t n = strcspn(path, ":");
        struct stat st;
        snprintf(full, sizeof full, "%.*s%s%s", (int)n, path, n ? "/" : "./", name);
        if (full[0] == '/' || dir == NULL)
            snprintf(seen, sizeof seen, "%s", full);
        else
            snprintf(seen, sizeof seen, "%s/%s", dir, full);
        if (access(seen, X_OK) == 0 && stat(seen, &st) == 0 && S_ISREG(st.st_mode))
            return ldc_arena_copy(a, full, strlen(full));
        path += n;
        if (*path) path++;
    }
    errno = ENOENT;
    return NULL;
}

/* From here on only async-signal-safe calls, up to exec or the function. */
static void ldc_proc_child_fail(const ldc_spawn *s, int step) {
    ldc_exec_error e;
    ssize_t n;
    memset(&e, 0, sizeof e);
    e.step = step;
    e.error = errno;
    n = ldc_util_write(s->status, &e, sizeof e);
    (void)n; /* the parent then sees exit 127 alone */
    _exit(127);
}

static void ldc_proc_child_signals(void) {
    struct sigaction fresh;
    sigset_t none;
    memset(&fresh, 0, sizeof fresh);
    fresh.sa_handler = SIG_DFL;
    for (int i = 1; i < 65; i++) sigaction(i, &fresh, NULL); /* the real-time ones too */
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static void ldc_proc_child_close(int first) { /* it and all above */
    struct rlimit most;
    int top;
#if defined(__linux__) && defined(CLOSE_RANGE_CLOEXEC) && !defined(LDCORN_PORTABLE)
    if (close_range((unsigned)first, ~0U, 0) == 0) return;
#endif
    top =
        getrlimit(RLIMIT_NOFILE, &most) == 0 && most.rlim_cur < 65536 ? (int)most.rlim_cur : 65536;
    for (int fd = first; fd < top; fd++) close(fd);
}

/* 0, 1, 2, the listener as 3, the status pipe as 4, nothing else. */
static void ldc_proc_child_descriptors(ldc_spawn *s) {
    int from[5];
    from[0] = s->in;
    from[1] = s->out;
    from[2] = s->err;
    from[3] = s->listener;
    from[4] = s->status;
    for (int i = 0; i < 5; i++) {
        int was = from[i];
        if (was < 0) continue;
        from[i] = fcntl(was, F_DUPFD, 1024); /* out of the way of 0 to 4, and of the host's */
        if (from[i] < 0) from[i] = fcntl(was, F_DUPFD, 16);
        if (from[i] < 0) ldc_proc_child_fail(s, 1);
    }
    for (int i = 0; i < 5; i++) {
        if (from[i] < 0) {
            if (i > 2) close(i);
        } else if (!ldc_util_dup(from[i], i)) {
            ldc_proc_child_fail(s, 1);
        }
    }
    s->status = 4;
    fcntl(4, F_SETFD, FD_CLOEXEC);
    if (s->worker->as->function == NULL) ldc_proc_child_close(5);
}

/* The signal at a parent's death follows the thread that forked: only the first one ends with its
   process. For others there is a guard. */
static bool ldc_proc_main_thread(void) {
#ifdef __linux__
    char at[64]; /* "PROCESS/task/THREAD" */
    long process, thread;
    ssize_t n = readlink("/proc/thread-self", at, sizeof at - 1);
    if (n <= 0) return true;
    at[n] = 0;
    return sscanf(at, "%ld/task/%ld", &process, &thread) != 2 || process == thread;
#else
    return true;
#endif
}

/* A child of our own code that helps the loop: it has one pipe to it, as descriptor 3. */
static pid_t ldc_proc_helper(ldcorn *l, int *ours) {
    bool follows = l->running && ldc_proc_main_thread();
    int fd[2];
    sigset_t all, old;
    pid_t pid, parent = getpid();
    if (!ldc_net_pipe(fd)) return -1;
    sigfillset(&all); /* no handler of ours may run in the child */
    sigprocmask(SIG_SETMASK, &all, &old);
    pid = fork();
    if (pid == 0) {
        setsid();
        ldc_proc_child_signals();
        if (!ldc_util_dup(fd[1], 3)) _exit(127);
        ldc_proc_child_close(4);
#if defined(__linux__) && defined(PR_SET_PDEATHSIG)
        if (follows) prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) _exit(127);
#endif
        (void)parent, (void)follows;
        return 0;
    }
    sigprocmask(SIG_SETMASK, &old, NULL);
    close(fd[1]);
    if (pid < 0 || fcntl(fd[0], F_SETFL, fcntl(fd[0], F_GETFL) | O_NONBLOCK) < 0) {
        close(fd[0]);
        if (pid > 0) kill(pid, SIGKILL);
        return -1;
    }
    (void)l;
    *ours = fd[0];
    return pid;
}

/* The guard of a host whose loop is in another thread than its first: it waits until the pipe to us
   has no reader any more, which is our end, and then ends whom we have noted. */
static void ldc_proc_guard_main(ldcorn *l) {
    const char *dir = l->conf->s.runtime_dir;
    char path[PATH_MAX + 256];
    struct pollfd ours;
    struct dirent *entry;
    DIR *d;
    ours.fd = 3;
    ours.events = 0;
    while (poll(&ours, 1, -1) < 1) {
        if (errno != EINTR) _exit(1); /* the next start of a worker has a new one */
    }
    d = opendir(dir);
    while (d && (entry = readdir(d)) != NULL) {
        snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
        ldc_proc_leftover(path, entry->d_name, l->via);
    }
    _exit(0);
}

static void ldc_proc_guard(ldcorn *l) {
    pid_t pid;
    if (l->guard_pid > 0 && ldc_util_wait(l->guard_pid, NULL, WNOHANG) == 0) return;
    if (l->guard_pid > 0) close(l->guard_fd);
    pid = ldc_proc_helper(l, &l->guard_fd);
    if (pid == 0) ldc_proc_guard_main(l);
    l->guard_pid = pid > 0 ? pid : 0; /* without one the next start on runtime_dir ends them */
}

static void ldc_proc_unguard(ldcorn *l) {
    if (l->guard_pid <= 0) return;
    if (ldc_util_wait(l->guard_pid, NULL, WNOHANG) == 0) { /* the host has not waited for it */
        kill(l->guard_pid, SIGKILL);
        ldc_util_wait(l->guard_pid, NULL, 0);
    }
    close(l->guard_fd);
    l->guard_pid = 0;
}

static bool ldc_proc_kept(const ldcorn *l, int fd) {
    for (int i = 0; i < l->desc.keep_fd_count; i++) {
        if (l->desc.keep_fds[i] == fd) return true;
    }
    return false;
}

/* The host's descriptors, for its function in a child: those that it wants stay, the others lead
   nowhere from now on. Not closed: a FILE of the host may still name the number, and the next
   connection would be given it. */
static void ldc_proc_child_function(ldcorn *l, const ldc_spawn *s) {
    struct rlimit most;
    int top = 1024;
    if (getrlimit(RLIMIT_NOFILE, &most) == 0 && most.rlim_cur < 1024) top = (int)most.rlim_cur;
    for (int fd = 4; fd < top; fd++) {
        if (fd != s->status && ldc_proc_kept(l, fd)) continue;
        if (fcntl(fd, F_GETFD) >= 0 && !ldc_util_dup(0, fd)) close(fd); /* 0 is /dev/null */
    }
    for (int fd = top; fd < 65536 && l->desc.keep_fd_count; fd++) {
        if (!ldc_proc_kept(l, fd)) close(fd);
    }
    if (l->desc.keep_fd_count == 0) ldc_proc_child_close(top);
}

static void ldc_proc_child_pid(char **env) {
    char digits[20];
    size_t n = ldc_util_decimal((uint64_t)getpid(), digits);
    for (; *env; env++) {
        if (strncmp(*env, "LISTEN_PID=", 11) != 0) continue;
        memcpy(*env + 11, digits, n);
        (*env)[11 + n] = 0;
    }
}

static void ldc_proc_child(ldcorn *l, ldc_spawn *s, pid_t parent) {
    ldc_worker *w = s->worker;
    static char lines[BUFSIZ]; /* of this child */
    ldcorn_worker_info info;
    int listener = s->listener >= 0 ? 3 : -1, r;
    setsid();
    ldc_proc_child_signals();
    ldc_proc_child_descriptors(s);
    setrlimit(RLIMIT_NOFILE, &l->files);
    if (!ldc_net_become(&w->as->user)) ldc_proc_child_fail(s, 4); /* forgets the next: before it */
#if defined(__linux__) && defined(PR_SET_PDEATHSIG)
    if (s->follows) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) _exit(127); /* it died before we asked */
    }
#endif
    (void)parent;
    if (w->as->umask >= 0) umask((mode_t)w->as->umask);
    if (w->as->s.dir && chdir(w->as->s.dir) < 0) ldc_proc_child_fail(s, 2);
    if (w->as->function == NULL) {
        ldc_proc_child_pid(s->env);
        execve(s->program, s->argv, s->env);
        ldc_proc_child_fail(s, 3);
    }
    ldc_proc_child_function(l, s);
    environ = s->env;
    ldc_proc_child_pid(s->env);
    info.group = w->as->name;
    info.index = w->index;
    info.generation = w->generation;
    if (l->desc.after_fork) l->desc.after_fork(l->desc.after_fork_user, &info);
    setvbuf(stdout, lines, _IOLBF, sizeof lines); /* they reach the log as they are printed */
    r = w->as->function->function(listener, &info, w->as->function->user);
    fflush(stdout);
    fflush(stderr);
    _exit(r);
}

/* A reserved port: bound and kept, never listening, so that the worker can bind it too. */
static int ldc_proc_reserve(ldc_worker *w, char port[8]) {
    struct sockaddr_in a;
    socklen_t n = sizeof a;
    int fd = ldc_net_socket(AF_INET), on = 1;
    if (fd < 0) return -1;
    memset(&a, 0, sizeof a);
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&a, n) < 0 || getsockname(fd, (struct sockaddr *)&a, &n) < 0) {
        close(fd);
        return -1;
    }
    snprintf(port, 8, "%u", (unsigned)ntohs(a.sin_port));
    w->addr.len = sizeof w->addr.u.v4;
    w->addr.u.v4 = a;
    return fd;
}

/* In runtime_dir, which lets others through but not look once one of them has a directory in it. */
static bool ldc_proc_directory(ldcorn *l, const char *path, const ldc_user *u) {
    struct stat st;
    uid_t uid = u ? u->uid : geteuid();
    if (u && chmod(l->conf->s.runtime_dir, 0711) < 0) return false;
    if (mkdir(path, 0700) < 0 && errno != EEXIST) return false;
    if (lstat(path, &st) < 0) return false;
    errno = ENOTDIR;
    if (!S_ISDIR(st.st_mode)) return false;
    if (st.st_uid != uid && lchown(path, uid, u ? u->gid : getegid()) < 0) return false;
    return (st.st_mode & 0777) == 0700 || chmod(path, 0700) == 0;
}

/* Socket, port or listener for a new start. 0 or an errno. */
static int ldc_proc_transport(ldcorn *l, ldc_worker *w, ldc_spawn *s, char port[8]) {
    char path[PATH_MAX];
    if (w->as->transport == LDC_BY_PORT) {
        w->port_fd = ldc_proc_reserve(w, port);
        return w->port_fd < 0 ? errno : 0;
    }
    if (geteuid() == 0) { /* each user has a directory of its own for them, so do we */
        bool theirs = w->as->user.set && w->as->transport == LDC_BY_SOCKET;
        uid_t uid = theirs ? w->as->user.uid : 0;
        snprintf(path, sizeof path, "%s/uid-%ld", l->conf->s.runtime_dir, (long)uid);
        if (!ldc_proc_directory(l, path, theirs ? &w->as->user : NULL)) return errno;
        snprintf(path, sizeof path, "unix:%s/uid-%ld/%.16s.%d.%x", l->conf->s.runtime_dir,
                 (long)uid, w->group->name, w->index, ++l->serial);
    } else {
        snprintf(path, sizeof path, "unix:%s/%.16s.%d.%x", l->conf->s.runtime_dir, w->group->name,
                 w->index, ++l->serial);
    }
    if (ldc_conf_address(&w->addr, path)) return ENAMETOOLONG;
    w->addr.text = w->group->name;
    w->addr.mode = 0;
    w->path = (char *)ldc_mem_resize(&l->mem, NULL, 0, sizeof w->addr.u.un.sun_path);
    if (w->path == NULL) return ENOMEM;
    memcpy(w->path, w->addr.u.un.sun_path, sizeof w->addr.u.un.sun_path);
    if (w->as->transport == LDC_BY_FD) {
        s->listener = ldc_net_listen(&w->addr, (int)l->conf->s.backlog);
        if (s->listener < 0) return errno;
        fcntl(s->listener, F_SETFL,
              fcntl(s->listener, F_GETFL) & ~O_NONBLOCK); /* what servers expect */
    }
    return 0;
}

/* worker_log = PATH, with the rights of the user whose output goes there. */
static int ldc_proc_open_file(ldcorn *l, ldc_worker *w, const char *path) {
    const ldc_user *u = &w->as->user;
    gid_t gid = getegid();
    int e;
    if (!u->set) return ldc_log_open(&l->log, &w->out, path);
    if (setegid(u->gid) < 0 || seteuid(u->uid) < 0) {
        e = errno;
    } else {
        e = ldc_log_open(&l->log, &w->out, path);
    }
    if ((geteuid() != 0 && seteuid(0) < 0) || setegid(gid) < 0) {
        ldc_log_say(&l->log, LDCORN_LOG_ERROR, "cannot become root again: %s", strerror(errno));
        e = errno;
    }
    return e;
}

static int ldc_proc_open_log(ldcorn *l, ldc_worker *w, ldc_spawn *s, int ours[2]) {
    const char *path = w->as->log_path;
    int fd[2], *theirs[2];
    theirs[0] = &s->out;
    theirs[1] = &s->err;
    s->in = ldc_util_open("/dev/null", O_RDWR | O_CLOEXEC, 0);
    if (s->in < 0) return errno;
    if (strcmp(path, "inherit") == 0) {
        s->out = 1;
        s->err = 2;
        return 0;
    }
    if (strcmp(path, "off") == 0) {
        s->out = s->err = s->in;
        return 0;
    }
    if (strcmp(path, "stderr") != 0 && strcmp(path, "stdout") != 0 &&
        (w->out.path == NULL || strcmp(w->out.path, path) != 0)) { /* it may be another one now */
        int e = ldc_proc_open_file(l, w, path);
        if (e) return e;
    }
    for (int i = 0; i < 2; i++) {
        if (!ldc_net_pipe(fd)) return errno;
        ours[i] = fd[0];
        *theirs[i] = fd[1];
        fcntl(fd[0], F_SETFL,
              fcntl(fd[0], F_GETFL) | O_NONBLOCK); /* our end; theirs stays as it is */
    }
    return 0;
}

static int ldc_proc_prepare(ldcorn *l, ldc_arena *a, ldc_worker *w, ldc_spawn *s,
                            const char *port) {
    int n = 0;
    if (!ldc_proc_env(a, w, port, l->via, s)) return ENOMEM;
    if (w->as->function) return 0;
    while (w->as->argv[n]) n++;
    s->argv = (char **)ldc_arena_take(a, (size_t)(n + 1) * sizeof *s->argv);
    if (s->argv == NULL) return ENOMEM;
    for (int i = 0; i < n; i++) {
        s->argv[i] = ldc_proc_fill(a, w, w->as->argv[i], port, false);
        if (s->argv[i] == NULL) return ENOMEM;
    }
    s->program = ldc_proc_search(a, w, s->env, s->argv[0]);
    return s->program ? 0 : errno;
}

static void ldc_proc_watch_pipes(ldcorn *l, ldc_worker *w, int ours[2]) {
    for (int i = 0; i < 2; i++) {
        ldc_pipe *p = &w->pipe[i];
        if (ours[i] < 0) continue;
        memset(p, 0, sizeof *p);
        p->worker = w;
        p->line = (char *)ldc_mem_resize(&l->mem, NULL, 0, LDC_LOG_LINE);
        p->open = p->line && ldc_loop_open(l, &p->watch, ours[i], LDC_KIND_PIPE, POLLIN);
        if (p->open) continue;
        ldc_mem_free(&l->mem, p->line, LDC_LOG_LINE);
        close(ours[i]);
    }
}

static void ldc_proc_close_all(const int *fd, int n) {
    for (int i = 0; i < n; i++) {
        if (fd[i] > 2) close(fd[i]);
    }
}

/* What the host has printed is not printed again by a function. Only what is free: another thread may
   hold a stream for as long as it reads from it. */
static void ldc_proc_flush(void) {
    FILE *const streams[] = {stdout, stderr};
    for (int i = 0; i < 2; i++) {
        if (ftrylockfile(streams[i]) != 0) continue;
        fflush(streams[i]);
        funlockfile(streams[i]);
    }
}

/* 0 with w->pid, or an errno and *step. */
static int ldc_proc_fork(ldcorn *l, ldc_worker *w, const char **step) {
    ldc_arena arena;
    ldc_spawn s;
    char port[8] = "";
    int ours[2] = {-1, -1}, status[2] = {-1, -1}, failed, rest[4];
    sigset_t all, old;
    pid_t pid = -1, parent = getpid();
    memset(&s, 0, sizeof s);
    arena.mem = &l->mem;
    arena.head = NULL;
    s.in = s.out = s.err = s.listener = s.status = -1;
    s.worker = w;
    s.follows = ldc_proc_main_thread();
    if (!s.follows) ldc_proc_guard(l);
    *step = "socket";
    failed = ldc_proc_transport(l, w, &s, port);
    if (!failed) *step = "worker_log", failed = ldc_proc_open_log(l, w, &s, ours);
    if (!failed)
        *step = w->as->function ? "environment" : w->as->argv[0],
        failed = ldc_proc_prepare(l, &arena, w, &s, port);
    if (!failed && !ldc_net_pipe(status)) *step = "pipe", failed = errno;
    if (!failed) {
        s.status = status[1];
        fcntl(status[0], F_SETFL, fcntl(status[0], F_GETFL) | O_NONBLOCK);
        sigfillset(&all); /* no handler of ours may run in the child */
        if (w->as->function) ldc_proc_flush();
        sigprocmask(SIG_SETMASK, &all, &old);
        pid = fork();
        if (pid == 0) ldc_proc_child(l, &s, parent);
        if (pid < 0) *step = "fork", failed = errno;
        sigprocmask(SIG_SETMASK, &old, NULL);
    }
    rest[0] = s.in;
    rest[1] = s.out == s.in ? -1 : s.out;
    rest[2] = s.err == s.in ? -1 : s.err;
    rest[3] = s.listener; /* a copy here would keep its backlog alive after its death */
    ldc_proc_close_all(rest, 4);
    ldc_proc_close_all(&status[1], 1);
    ldc_arena_free(&arena);
    if (failed) {
        ldc_proc_close_all(ours, 2);
        ldc_proc_close_all(&status[0], 1);
        return failed;
    }
    w->pid = pid;
    ldc_proc_note(l, w);
    ldc_proc_watch_pipes(l, w, ours);
    w->exec.worker = w;
    w->exec.open = ldc_loop_open(l, &w->exec.watch, status[0], LDC_KIND_EXEC, POLLIN);
    if (!w->exec.open) close(status[0]);
    return 0;
}

/* --- what a start leaves behind --- */

/* Ends a check or probe. The slot that a check holds comes back with it: it is asked for nothing
   more, and the worker is on its way out. */
static void ldc_proc_unprobe(ldcorn *l, ldc_worker *w) {
    ldc_up *u = w->probe;
    if (u == NULL) return;
    ldc_up_close(l, u);
    ldc_group_give(l, u, true);
}

static void ldc_proc_clean(ldcorn *l, ldc_worker *w) {
    ldc_proc_unprobe(l, w);
    for (int i = 0; i < 2; i++) {
        if (w->pipe[i].open) ldc_proc_pipe_read(l, &w->pipe[i], true);
        ldc_proc_pipe_close(l, &w->pipe[i]);
    }
    if (w->exec.open) {
        w->exec.open = false;
        ldc_loop_close(l, &w->exec.watch);
    }
    if (w->port_fd >= 0) close(w->port_fd);
    w->port_fd = -1;
    ldc_proc_unnote(l, w);
    if (w->path) {
        unlink(w->path);
        ldc_mem_free(&l->mem, w->path, sizeof w->addr.u.un.sun_path);
        w->path = NULL;
    }
}

static void ldc_proc_timer_at(ldcorn *l, ldc_worker *w, uint64_t at) {
    ldc_loop_timer(l, &w->timer, at);
}

static double ldc_proc_seconds(uint64_t us) { return (double)us / 1e6; }

static const char *ldc_proc_command(const ldc_worker *w) {
    return w->as->function ? w->as->s.function
           : w->as->s.cmd  ? w->as->s.cmd
           : w->as->s.app  ? w->as->s.app
                           : "";
}

/* What ran where, and when it is tried again. */
static void ldc_proc_explain(ldc_text *t, const ldc_worker *w) {
    bool alone = w->as->function == NULL && w->as->s.cmd == NULL; /* `app` */
    char cwd[512] = ".";
    const ldc_origin *at = w->as->function ? &w->as->at : &w->as->cmd_at;
    if (w->as->s.dir == NULL && getcwd(cwd, sizeof cwd) == NULL) cwd[0] = '.', cwd[1] = 0;
    ldc_text_fmt(t, "\n    ran: %s%s%s   in: %s", alone ? "uvicorn " : "", ldc_proc_command(w),
                 alone ? " --uds {socket} --log-level warning" : "",
                 w->as->s.dir ? w->as->s.dir : cwd);
    if (at->file && at->line) ldc_text_fmt(t, "   (%s:%d)", at->file->name, at->line);
}

static void ldc_proc_routes(ldcorn *l, ldc_text *t, const ldc_group *g) {
    const char *const *r = g->conf->s.routes;
    (void)l;
    for (int i = 0; r && r[i]; i++)
        ldc_text_fmt(t, "%s%s", i == 0 ? "" : r[i + 1] ? ", " : " and ", r[i]);
}

static uint64_t ldc_proc_jitter(ldcorn *l, uint64_t n, unsigned percent) { /* +- so much */
    uint64_t r = ldc_util_mix(l->id_seed + ++l->id_next * 0x9E3779B97F4A7C15ULL);
    return n / 100 * (100 - percent) + r % (n / 50 * percent + 1);
}

/* Its place among those that were told: its own, or that of the one whose turn it is. */
static ldc_told *ldc_proc_told_at(ldc_group *g, uint64_t what) {
    for (size_t i = 0; i < LDC_LEN(g->told); i++) {
        if (g->told[i].what == what) return &g->told[i];
    }
    return &g->told[g->tells++ % LDC_LEN(g->told)];
}

/* What failed in the same way a moment ago, here or in another worker of the group, is told once a
   minute, and counted. The same are its exit and its last words, but for their numbers. */
static bool ldc_proc_news(ldcorn *l, const ldc_worker *w, bool early, ldc_text *t) {
    ldc_group *g = w->group;
    ldc_told *told;
    bool same;
    int former = 0;
    uint64_t h = ldc_util_fnv(w->last_exit, strlen(w->last_exit), early ? 1 : 2);
    ldc_str rest = ldc_util_str(w->tail + w->tail_old, w->tail_n - w->tail_old), line;
    unsigned ago;
    while (ldc_proc_recall(l, &rest, &line, &ago)) {
        for (size_t i = 0; i < line.n; i++) {
            if (!isxdigit((unsigned char)line.p[i])) h = ldc_util_fnv(&line.p[i], 1, h);
        }
    }
    told = ldc_proc_told_at(g, h);
    same = told->what == h && l->now - told->at < 60000000;
    if (w->state != LDC_PROC_FAILED && same && !(told->over && told->times < 3)) {
        told->more++;
        return false;
    }
    if (told->what == h && told->more)
        ldc_text_fmt(t, "\n    the same %d time%s more in the last %.0fs", told->more,
                     told->more == 1 ? "" : "s", ldc_proc_seconds(l->now - told->at));
    if (told->what == h) told->more = 0;
    for (size_t i = 0; i < LDC_LEN(g->told); i++) {
        former += g->told[i].more;
        g->told[i].more = 0;
    }
    if (former)
        ldc_text_fmt(t, "\n    before it other failures came %d more time%s", former,
                     former == 1 ? "" : "s");
    told->times = same ? told->times + 1 : 1;
    if (!same) told->at = l->now;
    told->what = h;
    told->early = early;
    told->over = false;
    return true;
}

/* One of them is ready: whoever fails to become it from now on fails anew, which is told again, but
   not again and again. */
static void ldc_proc_news_over(ldc_group *g) {
    for (size_t i = 0; i < LDC_LEN(g->told); i++) g->told[i].over = g->told[i].early;
}

/* Back to the next start, or for good after max_restarts. `what`: "exit 1 after 0.3s". */
static void ldc_proc_again(ldcorn *l, ldc_worker *w, const char *what, bool crash) {
    const ldcorn_group_desc *s = &w->group->conf->s;
    ldc_text t;
    bool early = !w->was_ready, brief = !w->was_ready || l->now - w->ready_at < 30000000;
    uint64_t pause = 0;
    if (crash && brief)
        w->failures++;
    else
        w->failures = crash ? 1 : 0;
    if (crash && !brief) w->failures = 1;
    for (int i = 0; crash && i < w->failures; i++) pause = pause ? pause * 2 : 100;
    if (pause > (uint64_t)s->backoff_max || w->failures > 40) pause = (uint64_t)s->backoff_max;
    w->pause = pause;
    w->probe_at = l->now + ldc_proc_jitter(l, pause * 1000, 20);
    if (w->candidate) {
        ldc_proc_set(l, w, LDC_PROC_FAILED);
        ldc_reload_candidate(l, w, w->last_exit);
        return;
    }
    if (crash && s->max_restarts >= 0 && w->failures > s->max_restarts)
        ldc_proc_set(l, w, LDC_PROC_FAILED);
    else
        ldc_proc_set(l, w, LDC_PROC_BACKOFF);
    ldc_text_init(&t, &l->mem);
    ldc_text_fmt(&t, "%s.%d (pid %ld) %s: %s", w->group->name, w->index, (long)w->pid,
                 early ? "ended before it was ready" : "ended", what);
    if (w->inside[0]) ldc_text_fmt(&t, "\n    inside: %s", w->inside);
    if (w->lost > 2) ldc_text_fmt(&t, " and %d more", w->lost - 2);
    ldc_proc_tail(l, &t, w);
    if (early && strncmp(what, "exit 0 ", 7) == 0)
        ldc_text_add(&t, "\n    it may have gone into the background: leave out -D, --daemon, "
                         "--daemonize and their like; php-fpm: -F; nginx: -g 'daemon off;'");
    if (early) ldc_proc_explain(&t, w);
    if (w->state == LDC_PROC_FAILED)
        ldc_text_fmt(&t,
                     "\n    given up after %d failed starts (max_restarts); a reload tries again",
                     w->failures);
    else if (crash)
        ldc_text_fmt(&t, "\n    next try in %.1fs", ldc_proc_seconds(w->probe_at - l->now));
    if (crash && ldc_group_ready(w->group) == 0) {
        ldc_text_add(&t, "; until one is ready requests to ");
        ldc_proc_routes(l, &t, w->group);
        ldc_text_add(&t, ldc_group_hope(l, w->group, NULL, ldc_loop_after(l, s->queue_timeout))
                             ? " wait up to queue_timeout"
                             : " get 503");
    }
    if (!t.failed && ldc_proc_news(l, w, early, &t))
        ldc_log_line(&l->log, crash ? LDCORN_LOG_ERROR : LDCORN_LOG_INFO, ldc_util_str(t.p, t.n));
    ldc_text_free(&t);
    w->pid = 0;
    if (w->state == LDC_PROC_BACKOFF) ldc_proc_timer_at(l, w, w->probe_at);
    ldc_group_review(l, w->group);
}

/* --- the cells of the table --- */

static void ldc_proc_nothing(ldcorn *l, ldc_worker *w) {
    (void)l;
    (void)w;
}

static void ldc_proc_gone(ldcorn *l, ldc_worker *w) {
    ldc_proc_clean(l, w);
    ldc_proc_set(l, w, LDC_PROC_GONE);
    ldc_loop_forget(l, &w->timer);
    while (w->parked) ldc_up_close(l, w->parked);
    w->replaced = true;
    if (w->group->newcomer == w) w->group->newcomer = NULL;
    for (ldc_worker *o = w->group->workers; o; o = o->next) {
        if (o->relieves == w) o->relieves = NULL;
        if (o->after != w) continue;
        o->after = NULL;
        ldc_proc_timer_at(l, o, l->now);
    }
}

/* The one that is to take over from `w`, NULL: nobody. */
static ldc_worker *ldc_proc_reliever(const ldc_worker *w) {
    for (ldc_worker *o = w->group->workers; o; o = o->next) {
        if (o->relieves == w && !o->replaced) return o;
    }
    return NULL;
}

/* One fork per turn: a fork is the longest thing that a turn can do. And not in the turn that
   closed the last one's pipes: their entries are still in the set. */
static void ldc_proc_start(ldcorn *l, ldc_worker *w) {
    const char *step = "";
    char what[256];
    int failed;
    bool closing = w->pipe[0].watch.dirty || w->pipe[1].watch.dirty || w->exec.watch.dirty;
    if (closing || l->forks++ > 0) {
        ldc_proc_timer_at(l, w, l->now + 1);
        return;
    }
    if (!w->candidate && w->as != w->group->conf) { /* each start takes what is configured now */
        ldc_conf_free(w->conf);
        w->conf = w->group->owner;
        w->conf->refs++;
        w->as = w->group->conf;
    }
    if (!w->candidate) w->generation = l->generation;
    ldc_proc_set(l, w, LDC_PROC_STARTING);
    w->started = l->now;
    w->held = w->refused = w->was_ready = w->asked = w->killed = false;
    w->awaited[0] = 0;
    w->say_at = l->now + 10000000;
    w->hold_again = 0;
    w->tail_before = w->tail_old;
    w->tail_old = w->tail_n;
    w->probe_fails = 0;
    w->pause = 10;
    if (w->last_exit[0]) w->group->restarts++;
    w->start_by = ldc_loop_after(l, w->as->s.start_timeout);
    failed = ldc_proc_fork(l, w, &step);
    if (failed) {
        ldc_proc_clean(l, w);
        snprintf(what, sizeof what, "%s: %s", step, strerror(failed));
        snprintf(w->last_exit, sizeof w->last_exit, "%.95s", what);
        w->last_exit_at = l->now;
        ldc_proc_again(l, w, what, true);
        return;
    }
    ldc_proc_timer_at(l, w, l->now + 10000);
}

static bool ldc_proc_asks_http(const ldc_worker *w) {
    return w->as->health_path || (!w->foreign && w->as->transport == LDC_BY_FD);
}

static void ldc_proc_probe_send(ldcorn *l, ldc_up *u) {
    ldc_worker *w = u->worker;
    char head[1024];
    int n;
    ssize_t sent;
    if (u->asked == 0) ldc_up_set(u, LDC_UP_BUSY);
    n = snprintf(head, sizeof head,
                 "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: ldcorn/" LDCORN_VERSION
                 "\r\nConnection: close\r\n\r\n",
                 w->as->health_path ? "GET" : "HEAD", w->as->health_path ? w->as->health_path : "/",
                 w->as->health_host ? w->as->health_host : "localhost");
    if (n < 0 || n >= (int)sizeof head) n = 0;
    do sent = send(u->watch.fd, head + u->asked, (size_t)n - u->asked, LDC_SENDFLAGS);
    while (sent < 0 && errno == EINTR);
    if (sent < 0 && !ldc_util_again()) {
        ldc_proc_probed(l, u, false, "cannot send to it");
        return;
    }
    if (sent > 0) u->asked = (uint16_t)(u->asked + sent);
    ldc_loop_want(l, &u->watch, u->asked < n ? POLLOUT : POLLIN);
}

/* Somebody else stands for the same address, and was answered by it what we would ask. */
static bool ldc_proc_known(const ldc_worker *w) {
    for (const ldc_worker *o = w->place->first; o; o = o->next_placed) {
        const char *path = o->as->health_path, *host = o->as->health_host;
        if (o != w && o->state == LDC_PROC_READY && path && strcmp(path, w->as->health_path) == 0 &&
            strcmp(host ? host : "", w->as->health_host ? w->as->health_host : "") == 0)
            return true;
    }
    return false;
}

/* A first check of an address with a limit, whose slots are all taken: by requests of others that
   stand for it, or from before it left the list and came back. True: it waits for one. */
static bool ldc_proc_crowded(ldcorn *l, ldc_worker *w) {
    bool full = w->place && w->as->health_path && !ldc_group_slot(w);
    bool known = full && ldc_proc_known(w);
    ldc_group_want(l, w, full && !known);
    if (!full) return false;
    snprintf(w->awaited, sizeof w->awaited, "as many requests inside as may be");
    if (known) {
        ldc_proc_do(l, w, LDC_EV_PASSED);
        return true;
    }
    if (w->start_by) w->start_by = ldc_loop_after(l, w->as->s.start_timeout);
    ldc_proc_timer_at(l, w, l->now + 1000000);
    return true;
}

static void ldc_proc_probe(ldcorn *l, ldc_worker *w) {
    int fd, r;
    ldc_up *u;
    if (w->probe) return;
    if (w->state != LDC_PROC_READY && ldc_proc_crowded(l, w)) return;
    fd = ldc_net_socket(w->addr.u.any.sa_family);
    u = fd < 0 ? NULL : ldc_up_new(l, w, fd);
    if (u == NULL) {
        if (fd >= 0) close(fd);
        ldc_proc_timer_at(l, w, l->now + 50000);
        return;
    }
    w->probe = u;
    u->probe = true;
    if (w->state == LDC_PROC_READY || (w->place && w->as->health_path)) ldc_group_take(u);
    u->by = l->now + (uint64_t)w->as->s.health_timeout * 1000;
    ldc_loop_timer(l, &u->timer, u->by);
    r = ldc_up_connect(u);
    if (r > 0) {
        u->connected = true;
        ldc_proc_probed(l, u, true, NULL);
    } else if (r == 0 && u->connected) {
        ldc_loop_want(l, &u->watch, POLLOUT);
    } else {
        ldc_proc_probed(l, u, false, strerror(errno));
    }
}

/* n bytes at p of the body of a check's answer. True: it has ended, or what comes is none. */
static bool ldc_proc_probe_body(ldc_up *u, char *p, size_t n) {
    size_t body;
    if (u->chunked)
        return ldc_chunk_decode(&u->chunk, p, n, &body) < 0 || u->chunk.state == LDC_CHUNK_DONE;
    if (n >= u->rest) return true;
    if (u->rest != UINT64_MAX) u->rest -= n;
    return false;
}

/* The worker is inside it until its last byte. */
static void ldc_proc_probe_rest(ldcorn *l, ldc_up *u) {
    ssize_t n = ldc_util_recv(u->watch.fd, l->scratch, LDC_SCRATCH, 0);
    if (n < 0 && ldc_util_again()) return;
    ldc_loop_progress(&u->watch);
    if (n > 0 && !ldc_proc_probe_body(u, l->scratch, (size_t)n)) return;
    ldc_proc_probed(l, u, true, NULL);
}

/* The final head of a check's answer takes `size` bytes of u->in. */
static void ldc_proc_probe_answered(ldcorn *l, ldc_up *u, size_t size) {
    size_t n = ldc_buf_size(&u->in) - size;
    char why[64];
    u->connected = u->reused = true; /* asked and answered */
    if (u->worker->as->health_path && (l->head.status < 200 || l->head.status > 399)) {
        snprintf(why, sizeof why, "health_path answered %d", l->head.status);
        ldc_proc_probed(l, u, false, why);
        return;
    }
    u->rest = l->head.frame == LDC_FRAME_NONE     ? 0
              : l->head.frame == LDC_FRAME_LENGTH ? l->head.length
                                                  : UINT64_MAX;
    u->chunked = l->head.frame == LDC_FRAME_CHUNKED;
    memset(&u->chunk, 0, sizeof u->chunk);
    if (!u->worker->group->conf->limited || ldc_proc_probe_body(u, ldc_buf_at(&u->in) + size, n)) {
        ldc_proc_probed(l, u, true, NULL);
        return;
    }
    u->passed = true;
    ldc_buf_free(&l->mem, &u->in);
}

/* One head after the other out of u->in; `ended`: nothing more comes. */
static void ldc_proc_probe_heads(ldcorn *l, ldc_up *u, bool ended) {
    for (;;) {
        size_t n = ldc_buf_size(&u->in);
        ptrdiff_t size = n ? ldc_http_end(ldc_buf_at(&u->in), n, &u->line) : LDC_MORE;
        if (size == LDC_MORE && !ended && n < (size_t)l->conf->s.max_header) return;
        if (size <= 0 || !ldc_http_response(&l->head, ldc_buf_at(&u->in), (size_t)size,
                                            u->worker->as->health_path == NULL)) {
            u->reused = !ended; /* an answer, too, if not one that anybody understands */
            ldc_proc_probed(l, u, false, ended ? "closed without an answer" : "broken answer");
            return;
        }
        if (l->head.status >= 200 || l->head.status == 101) {
            ldc_proc_probe_answered(l, u, (size_t)size);
            return;
        }
        if (++u->interim > LDC_INTERIM) { /* RFC 9110 15.2: the answer is to come */
            ldc_proc_probed(l, u, false, "endless 1xx");
            return;
        }
        ldc_buf_drop(&l->mem, &u->in, (size_t)size);
        u->line = 0;
    }
}

static void ldc_proc_probe_readable(ldcorn *l, ldc_up *u) {
    ssize_t n;
    if (u->passed) {
        ldc_proc_probe_rest(l, u);
        return;
    }
    if (!ldc_buf_room(&l->mem, &u->in, 4096)) return;
    n = ldc_util_recv(u->watch.fd, u->in.p + u->in.len, 4096, 0);
    if (n < 0 && ldc_util_again()) return;
    ldc_loop_progress(&u->watch);
    if (n > 0) u->in.len += (uint32_t)n;
    ldc_proc_probe_heads(l, u, n <= 0);
}

/* Does another user's process listen on its {port}? Requests would go to it. Where /proc tells. */
static bool ldc_proc_stranger(const ldc_worker *w, long *uid) {
    uid_t mine = w->as->user.set ? w->as->user.uid : geteuid();
    char line[256];
    unsigned address, port, state;
    FILE *f;
    bool found = false;
    if (w->foreign || w->as->transport != LDC_BY_PORT) return false;
    f = fopen("/proc/net/tcp", "re");
    while (f && !found && fgets(line, sizeof line, f)) {
        if (sscanf(line, " %*d: %8x:%4x %*8x:%*4x %2x %*x:%*x %*x:%*x %*x %ld", &address, &port,
                   &state, uid) == 4 &&
            state == 10 && port == ntohs(w->addr.u.v4.sin_port) &&
            (address == 0 || address == w->addr.u.v4.sin_addr.s_addr))
            found = (uid_t)*uid != mine;
    }
    if (f) fclose(f);
    return found;
}

/* A check that got no answer says nothing of a worker that has answered somebody since it began: it
   was busy. One that was answered counts as it was. */
static bool ldc_proc_saved(const ldc_worker *w, const ldc_up *check) {
    return w->state == LDC_PROC_READY && !check->reused && w->answered_at >= check->opened;
}

/* A probe came to its end; a connection that must also answer is asked first. */
static void ldc_proc_probed(ldcorn *l, ldc_up *u, bool passed, const char *why) {
    ldc_worker *w = u->worker;
    char stranger[80];
    long uid = 0;
    if (passed && ldc_proc_asks_http(w) && !u->reused) {
        ldc_proc_probe_send(l, u);
        return;
    }
    if (passed && w->state == LDC_PROC_STARTING && ldc_proc_stranger(w, &uid)) {
        snprintf(stranger, sizeof stranger, "a process of uid %ld listens on its port", uid);
        passed = false;
        why = stranger;
        ldc_log_say(&l->log, LDCORN_LOG_ERROR, "%s.%d (pid %ld): %s", w->group->name, w->index,
                    (long)w->pid, why);
    }
    ldc_up_close(l, u);
    ldc_group_give(l, u, !passed && l->now >= u->by);
    if (!passed && why)
        ldc_log_say(&l->log, LDCORN_LOG_DEBUG, "%s.%d: not ready: %s", w->group->name, w->index,
                    why);
    if (!passed && why) snprintf(w->awaited, sizeof w->awaited, "%.63s", why);
    if (!passed && !ldc_proc_saved(w, u)) w->probe_fails++;
    ldc_proc_do(l, w, passed ? LDC_EV_PASSED : LDC_EV_FAILED);
}

static void ldc_proc_stop(ldcorn *l, ldc_worker *w);

/* Where the worker was told to listen, and by which word of the configuration: "{port} in cmd". */
static void ldc_proc_told(const ldc_worker *w, char word[40]) {
    static const char *const names[] = {"{socket}", "{port}", "{fd}"};
    const char *name = names[w->as->transport];
    bool cmd = false;
    for (char *const *a = w->as->argv; a && *a && !cmd; a++) cmd = strstr(*a, name) != NULL;
    snprintf(word, 40, "%s in %s", name, cmd ? "cmd" : "env");
}

/* What a start waits for, after ten seconds, a minute, and then rarely. */
static void ldc_proc_awaits(ldcorn *l, ldc_worker *w) {
    uint64_t took = l->now - w->started;
    bool none = strcmp(w->awaited, strerror(ECONNREFUSED)) == 0 ||
                strcmp(w->awaited, strerror(ENOENT)) == 0;
    char told[40] = "", span[24], pid[24] = "";
    const char *where = w->foreign ? w->addr.text : w->path ? w->path : "its socket";
    const char *path = w->as->health_path;
    char port[32], what[480];
    w->say_at = l->now + (took < 30000000 ? 50000000 : 300000000);
    snprintf(port, sizeof port, "127.0.0.1:%u", (unsigned)ntohs(w->addr.u.v4.sin_port));
    if (!w->foreign) {
        if (w->as->transport == LDC_BY_PORT) where = port;
        ldc_proc_told(w, told);
        snprintf(pid, sizeof pid, "pid %ld, ", (long)w->pid);
    }
    if (none)
        snprintf(what, sizeof what, "nothing listens on %.120s yet%s%s%s", where,
                 told[0] ? "; " : "", told, told[0] ? " told it to" : "");
    else
        snprintf(what, sizeof what, "%s%.80s%s%s, from %.120s%s%s%s", path ? "GET " : "",
                 path ? path : "", path ? ": " : "", w->awaited[0] ? w->awaited : "no answer yet",
                 where, told[0] ? "; " : "", told, told[0] ? " told it to listen there" : "");
    ldc_log_say(&l->log, took < 30000000 ? LDCORN_LOG_INFO : LDCORN_LOG_WARN,
                "%s.%d: %s (%snot ready for %s)", w->group->name, w->index, what, pid,
                ldc_util_span(took / 1000000 * 1000, span));
}

static void ldc_proc_starting_timer(ldcorn *l, ldc_worker *w) {
    if (w->start_by && w->start_by <= l->now && w->candidate) {
        ldc_reload_candidate(l, w, "not ready within its `start_timeout`");
        return;
    }
    if (w->start_by && w->start_by <= l->now) {
        ldc_log_say(&l->log, LDCORN_LOG_ERROR,
                    "%s.%d (pid %ld): not ready after start_timeout, ending it", w->group->name,
                    w->index, (long)w->pid);
        w->why_stop = "timeout";
        ldc_proc_stop(l, w);
        return;
    }
    if (l->now >= w->say_at) ldc_proc_awaits(l, w);
    ldc_proc_probe(l, w);
}

/* It takes no connections: probed with growing pauses. */
static void ldc_proc_away(ldcorn *l, ldc_worker *w) {
    ldc_proc_set(l, w, LDC_PROC_DOWN);
    ldc_log_say(&l->log, LDCORN_LOG_WARN, "%s.%d%s%s%s: cannot be reached", w->group->name,
                w->index, w->foreign ? " (" : "", w->foreign ? w->addr.text : "",
                w->foreign ? ")" : "");
    ldc_proc_unprobe(l, w);
    while (w->parked) ldc_up_close(l, w->parked);
    w->pause = 100;
    w->probe_fails = 0;
    w->probe_at = l->now + 100000;
    ldc_proc_timer_at(l, w, w->probe_at);
}

/* A connect to it failed. Our own process is most likely dying, and then it keeps its keys: we hear
   of its end in a moment, or it is away after that. */
static void ldc_proc_event_down(ldcorn *l, ldc_worker *w) {
    if (w->state != LDC_PROC_READY) return;
    ldc_proc_hold(l, w);
    if (!w->held) {
        ldc_proc_away(l, w);
    } else if (!w->refused) {
        w->refused = true;
        ldc_proc_timer_at(l, w, l->now + 50000);
    }
}

static void ldc_proc_starting_failed(ldcorn *l, ldc_worker *w) {
    if (w->foreign) { /* somebody else starts it: looked for until it is there */
        ldc_proc_away(l, w);
        return;
    }
    uint64_t next = l->now + w->pause * 1000;
    w->pause = w->pause * 2 > 250 ? 250 : w->pause * 2;
    if (w->start_by && next > w->start_by) next = w->start_by;
    ldc_proc_timer_at(l, w, next);
}

/* --- health: checks of a ready worker --- */

static void ldc_proc_ready_timer_set(ldcorn *l, ldc_worker *w) {
    uint64_t due = w->check_at;
    if (w->held) return; /* its timer ends that first */
    if (w->due_at && (due == 0 || w->due_at < due)) due = w->due_at;
    ldc_loop_timer(l, &w->timer, due);
}

static void ldc_proc_check_after(ldcorn *l, ldc_worker *w, uint64_t from) {
    int64_t every = w->as->s.health_interval;
    w->check_at = every > 0 ? from + (uint64_t)every * 1000 : 0;
    ldc_proc_ready_timer_set(l, w);
}

/* On time, whatever traffic there is: a worker may answer that and yet say no. A check takes a slot,
   in a limited group a free one, and nobody who could have it waits while there is one. Parked
   connections go first there, because a server of one thread may sit on one. */
static void ldc_proc_check(ldcorn *l, ldc_worker *w) {
    uint64_t every = (uint64_t)w->as->s.health_interval * 1000;
    if (w->candidate) { /* it was looked at a moment ago, and its reload decides about it */
        ldc_proc_check_after(l, w, l->now);
        return;
    }
    if (!ldc_group_slot(w)) {
        w->check_at = l->now + (every < 1000000 ? every : 1000000);
        ldc_proc_ready_timer_set(l, w);
        return;
    }
    while (w->parked && w->group->conf->limited) ldc_up_close(l, w->parked);
    ldc_proc_probe(l, w);
}

static void ldc_proc_ready_timer(ldcorn *l, ldc_worker *w) {
    if (w->held) {
        w->held = false;
        ldc_group_touch(w);
        if (w->refused) {
            ldc_proc_away(l, w);
            return;
        }
        ldc_proc_ready_timer_set(l, w);
        ldc_group_next(l, w->group);
        return;
    }
    if (w->due_at && w->due_at <= l->now) {
        w->due_at = 0;
        w->due = l->recycle = true;
        w->why_due = "lifetime";
        ldc_proc_ready_timer_set(l, w);
    }
    if (w->check_at && w->check_at <= l->now && w->probe == NULL) ldc_proc_check(l, w);
}

static void ldc_proc_checked(ldcorn *l, ldc_worker *w) {
    w->probe_fails = 0;
    ldc_proc_check_after(l, w, l->now);
}

/* Replacing what is merely slow again and again would pile up processes: one at a time. */
static bool ldc_proc_predecessor(const ldc_worker *w) {
    for (const ldc_worker *o = w->group->workers; o; o = o->next) {
        if (o != w && o->index == w->index && o->replaced && o->state != LDC_PROC_GONE) return true;
    }
    return false;
}

static void ldc_proc_check_failed(ldcorn *l, ldc_worker *w) {
    if (w->probe_fails < w->as->s.health_fails) {
        ldc_proc_check_after(l, w, l->now);
        return;
    }
    if (!w->foreign && ldc_proc_predecessor(w)) { /* the one before it is still on its way out */
        ldc_proc_check_after(l, w, l->now);
        return;
    }
    ldc_log_say(&l->log, LDCORN_LOG_WARN, "%s.%d: %d health checks failed in a row, %s",
                w->group->name, w->index, w->probe_fails,
                w->foreign ? "nothing more is sent there until one passes" : "replacing it");
    if (w->foreign)
        ldc_proc_away(l, w);
    else
        ldc_proc_replace(l, w, "health");
}

/* A check without an answer in time has failed, but what it asked for may still be going on: its
   slot stays taken and it is waited for, each further time counting once more. */
static void ldc_proc_check_late(ldcorn *l, ldc_worker *w, ldc_up *u) {
    if (u->passed) { /* an answer without an end */
        ldc_up_close(l, u);
        ldc_group_give(l, u, true);
        ldc_proc_do(l, w, LDC_EV_PASSED);
        return;
    }
    bool saved = ldc_proc_saved(w, u);
    u->by = l->now + (uint64_t)w->as->s.health_timeout * 1000;
    u->opened = l->now; /* of the next time that is waited */
    ldc_loop_timer(l, &u->timer, u->by);
    if (saved) return;
    w->probe_fails++;
    ldc_log_say(&l->log, LDCORN_LOG_DEBUG, "%s.%d: health check: no answer in time", w->group->name,
                w->index);
    if (w->probe_fails >= w->as->s.health_fails) ldc_proc_check_failed(l, w);
}

/* Give or take a tenth, also of small numbers: workers started together must not end together. */
static uint64_t ldc_proc_tenth(ldcorn *l, uint64_t n) {
    uint64_t more = ldc_proc_jitter(l, n * 1000, 10) / 1000;
    return more ? more : 1;
}

/* What it was started for, it does now: the one before it goes. */
static void ldc_proc_relieve(ldcorn *l, ldc_worker *w) {
    ldc_worker *old = w->relieves;
    if (w->group->newcomer == w) w->group->newcomer = NULL;
    if (old == NULL) return;
    if (old->why_stop == NULL) old->why_stop = "reload";
    w->relieves = NULL;
    ldc_group_moved(l, w->group);
    if (!old->replaced) ldc_proc_do(l, old, LDC_EV_RETIRE);
}

static void ldc_proc_tell(const ldcorn *l, const ldc_worker *w, ldcorn_event_kind kind,
                          const char *text) {
    ldcorn_event v;
    if (l->desc.event == NULL) return;
    ldc_turn_event(l, &v, kind, w->group->name);
    v.text = text;
    v.worker = w->index;
    v.pid = (long)w->pid;
    l->desc.event(l->desc.event_user, &v);
}

static void ldc_proc_ready(ldcorn *l, ldc_worker *w) {
    bool back = w->state == LDC_PROC_DOWN;
    ldc_proc_set(l, w, LDC_PROC_READY);
    ldc_proc_news_over(w->group);
    w->held = w->refused = false;
    ldc_proc_check_after(l, w, l->now);
    if (!w->was_ready) {
        int64_t requests = w->as->s.recycle_requests, after = w->as->s.recycle_after;
        w->ready_at = l->now;
        ldc_proc_tell(l, w, LDCORN_WORKER_READY, "");
        w->due = false;
        if (w->foreign) requests = after = 0;
        w->due_served = requests > 0 ? w->served + ldc_proc_tenth(l, (uint64_t)requests) : 0;
        w->due_at = after > 0 ? l->now + ldc_proc_jitter(l, (uint64_t)after * 1000, 10) : 0;
        ldc_proc_ready_timer_set(l, w);
    }
    w->was_ready = true;
    w->idle_since = l->now;
    w->probe_fails = 0;
    if (back)
        ldc_log_say(&l->log, LDCORN_LOG_INFO, "%s.%d: takes connections again", w->group->name,
                    w->index);
    else if (l->ready_said && !w->candidate && w->foreign)
        ldc_log_say(&l->log, LDCORN_LOG_INFO, "%s.%d (%s): ready", w->group->name, w->index,
                    w->addr.text);
    else if (l->ready_said && !w->candidate)
        ldc_log_say(&l->log, LDCORN_LOG_INFO, "%s.%d (pid %ld) ready, %.1fs", w->group->name,
                    w->index, (long)w->pid, ldc_proc_seconds(l->now - w->started));
    if (!w->candidate) ldc_proc_relieve(l, w);
    ldc_group_next(l, w->group);
}

static void ldc_proc_down_failed(ldcorn *l, ldc_worker *w) {
    w->pause = w->pause * 2 > (uint64_t)w->as->s.backoff_max ? (uint64_t)w->as->s.backoff_max
                                                             : w->pause * 2;
    w->probe_at = l->now + w->pause * 1000;
    if (!w->foreign && w->probe_fails >= 3) {
        ldc_log_say(&l->log, LDCORN_LOG_WARN,
                    "%s.%d (pid %ld): alive but takes no connections, restarting it",
                    w->group->name, w->index, (long)w->pid);
        w->why_stop = "health";
        ldc_proc_stop(l, w);
        return;
    }
    ldc_proc_timer_at(l, w, w->probe_at);
    ldc_group_review(l, w->group);
}

/* A process that dies loses its connections a moment before its listener and before we hear of
   its end: what is sent to it in between is lost. So after an end without an answer it gets nothing
   new for 10 ms, and for 50 after a failed connect, which is as good as certain and costs others
   nothing; but not again within a second after that was for nothing, or a worker that merely drops
   connections could be kept from its other work. */
static void ldc_proc_hold(ldcorn *l, ldc_worker *w) {
    if (w->foreign || w->state != LDC_PROC_READY || l->now < w->hold_again) return;
    w->held = true;
    ldc_group_touch(w);
    w->hold_again = l->now + 1000000;
    ldc_proc_timer_at(l, w, l->now + 10000);
}

static int ldc_proc_live(const ldc_worker *w) { /* inside, without those already past their time */
    int n = 0;
    for (const ldc_up *u = w->ups; u; u = u->next)
        n += u->slot && (u->by == 0 || u->state == LDC_UP_CONNECT);
    return n;
}

static void ldc_proc_draining(ldcorn *l, ldc_worker *w) {
    uint64_t next = 0;
    bool inside = ldc_proc_live(w) > 0, late = w->drain_by && w->drain_by <= l->now;
    bool tunnels = w->tunnels > 0 && !(w->tunnel_by && w->tunnel_by <= l->now);
    if ((inside && !late) || tunnels) {
        if (inside && !late) next = w->drain_by;
        if (tunnels && w->tunnel_by && (next == 0 || w->tunnel_by < next)) next = w->tunnel_by;
        ldc_proc_timer_at(l, w, next);
        return;
    }
    if (!w->foreign)
        ldc_proc_stop(l, w);
    else if (w->in_flight == 0 || late)
        ldc_proc_gone(l, w);
}

static void ldc_proc_drain(ldcorn *l, ldc_worker *w) {
    ldc_proc_set(l, w, LDC_PROC_DRAINING);
    w->drain_by = ldc_loop_after(l, w->group->conf->s.drain_timeout);
    w->tunnel_by = ldc_loop_after(l, w->group->conf->s.tunnel_drain);
    ldc_proc_unprobe(l, w);
    while (w->parked) ldc_up_close(l, w->parked);
    if (w->state == LDC_PROC_DRAINING)
        ldc_proc_draining(l, w); /* the last close may have done it */
}

static void ldc_proc_stop(ldcorn *l, ldc_worker *w) {
    int sig = w->as->stop_signal;
    ldc_proc_unprobe(l, w);
    ldc_proc_set(l, w, LDC_PROC_STOPPING);
    w->asked = true;
    if (kill(w->pid, sig) < 0 && errno != ESRCH)
        ldc_log_say(&l->log, LDCORN_LOG_ERROR, "%s.%d: kill: %s", w->group->name, w->index,
                    strerror(errno));
    ldc_proc_timer_at(l, w,
                      l->life >= LDC_LIFE_STOP && l->stop_by && !w->as->stop_said
                          ? l->stop_by
                          : ldc_loop_after(l, w->as->s.stop_timeout));
}

static void ldc_proc_kill(ldcorn *l, ldc_worker *w) {
    char span[24];
    bool last = l->stop_by && l->now >= l->stop_by;
    if (!w->killed)
        ldc_log_say(
            &l->log, LDCORN_LOG_WARN, "%s.%d (pid %ld): still there after %s = %s, killed",
            w->group->name, w->index, (long)w->pid, last ? "shutdown_timeout" : "stop_timeout",
            ldc_util_span((uint64_t)(last ? l->conf->s.shutdown_timeout : w->as->s.stop_timeout),
                          span));
    w->killed = true;
    kill(-w->pid, SIGKILL);
    kill(w->pid, SIGKILL);
}

static void ldc_proc_stopping_timer(ldcorn *l, ldc_worker *w) {
    ldc_proc_kill(l, w);
    ldc_proc_timer_at(l, w, l->now + 1000000);
}

static void ldc_proc_retire_idle(ldcorn *l, ldc_worker *w) {
    w->replaced = true;
    ldc_proc_gone(l, w);
}

static void ldc_proc_retire_starting(ldcorn *l, ldc_worker *w) {
    w->replaced = true;
    if (w->pid)
        ldc_proc_stop(l, w);
    else
        ldc_proc_gone(l, w);
}

static void ldc_proc_retire_ready(ldcorn *l, ldc_worker *w) {
    w->replaced = true;
    ldc_proc_drain(l, w);
}

static void ldc_proc_retire_stopping(ldcorn *l, ldc_worker *w) {
    w->replaced = true;
    ldc_group_moved(l, w->group);
}

static void ldc_proc_count_exit(ldc_worker *w, const char *why) {
    for (size_t i = 0; i < LDC_LEN(ldc_exit_names); i++) {
        if (strcmp(ldc_exit_names[i], why) == 0) w->group->exits[i]++;
    }
}

/* A request ended with its worker, or (NULL) the worker did: its connections break a moment before we
   hear of its end. What was lost longer ago had another cause. */
static void ldc_proc_lost(ldcorn *l, ldc_worker *w, const ldc_exchange *e) {
    size_t used;
    char target[120];
    if (w->lost_at < w->started || l->now - w->lost_at > 1000000) w->inside[0] = 0, w->lost = 0;
    if (e == NULL) return;
    w->lost_at = l->now;
    if (w->lost++ >= 2) return;
    used = strlen(w->inside);
    snprintf(w->inside + used, sizeof w->inside - used, "%s%.*s %.60s, id %.32s", used ? "; " : "",
             LDC_STR_ARG(ldc_client_word(e, 0)),
             ldc_util_show(ldc_client_word(e, 1), target, sizeof target), e->id);
}

/* The leader ended and its group was killed: nothing is inside it any more. What its connections
   still hold is read by their own events. */
static void ldc_proc_exit(ldcorn *l, ldc_worker *w) {
    bool asked = w->asked, stopping = w->state == LDC_PROC_STOPPING;
    char what[160];
    ldc_proc_lost(l, w, NULL);
    for (ldc_up *u = w->ups, *next; u; u = next) {
        next = u->next;
        if (u->slot && u->exchange) ldc_proc_lost(l, w, u->exchange);
        if (u->slot) {
            u->slot = false;
            w->in_flight--;
            ldc_group_upgrades(w, -u->upgrade);
            u->upgrade = false;
        }
    }
    LDCORN_ASSERT(w->upgrades == 0);
    LDCORN_ASSERT(w->in_flight == 0);
    while (w->parked) ldc_up_close(l, w->parked);
    ldc_proc_count_exit(w, asked && w->why_stop ? w->why_stop : asked ? "stop" : "crash");
    ldc_proc_clean(l, w);
    snprintf(what, sizeof what, "%s after %.1fs", w->last_exit,
             ldc_proc_seconds(l->now - w->started));
    if (ldc_proc_reliever(w)) w->replaced = true;
    if (w->replaced || (stopping && w->candidate)) {
        ldc_log_say(&l->log, LDCORN_LOG_INFO, "%s.%d (pid %ld) ended: %s%s%s", w->group->name,
                    w->index, (long)w->pid, what, w->inside[0] ? "; inside: " : "", w->inside);
        w->pid = 0;
        ldc_proc_gone(l, w);
        return;
    }
    ldc_proc_again(l, w, what, !asked || !w->was_ready);
    ldc_group_next(l, w->group);
}

typedef void (*ldc_proc_cell)(ldcorn *, ldc_worker *);
static const ldc_proc_cell ldc_proc_table[LDC_PROC_COUNT][LDC_EV_COUNT] = {
    /*             TIMER                    PASSED             FAILED                    EXIT              RETIRE                     IDLE */
    /* STARTING */ {ldc_proc_starting_timer, ldc_proc_ready, ldc_proc_starting_failed,
                    ldc_proc_exit, ldc_proc_retire_starting, ldc_proc_nothing},
    /* READY    */
    {ldc_proc_ready_timer, ldc_proc_checked, ldc_proc_check_failed, ldc_proc_exit,
     ldc_proc_retire_ready, ldc_proc_nothing},
    /* DOWN     */
    {ldc_proc_probe, ldc_proc_ready, ldc_proc_down_failed, ldc_proc_exit, ldc_proc_retire_ready,
     ldc_proc_nothing},
    /* DRAINING */
    {ldc_proc_draining, ldc_proc_nothing, ldc_proc_nothing, ldc_proc_exit, ldc_proc_nothing,
     ldc_proc_draining},
    /* STOPPING */
    {ldc_proc_stopping_timer, ldc_proc_nothing, ldc_proc_nothing, ldc_proc_exit,
     ldc_proc_retire_stopping, ldc_proc_nothing},
    /* BACKOFF  */
    {ldc_proc_start, ldc_proc_nothing, ldc_proc_nothing, ldc_proc_nothing, ldc_proc_retire_idle,
     ldc_proc_nothing},
    /* FAILED   */
    {ldc_proc_nothing, ldc_proc_nothing, ldc_proc_nothing, ldc_proc_nothing, ldc_proc_retire_idle,
     ldc_proc_nothing},
    /* GONE     */
    {ldc_proc_nothing, ldc_proc_nothing, ldc_proc_nothing, ldc_proc_nothing, ldc_proc_nothing,
     ldc_proc_nothing},
};

static void ldc_proc_do(ldcorn *l, ldc_worker *w, ldc_proc_event event) {
    ldc_proc_table[w->state][event](l, w);
}

static void ldc_proc_idle(ldcorn *l, ldc_worker *w) { ldc_proc_do(l, w, LDC_EV_IDLE); }

/* --- exits --- */

static void ldc_proc_describe(ldc_worker *w, int status, bool known) {
    int sig = known && WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    const char *name = ldc_util_signame(sig);
    if (!known)
        snprintf(w->last_exit, sizeof w->last_exit, "ended, status unknown");
    else if (sig)
        snprintf(w->last_exit, sizeof w->last_exit, "killed by signal %d%s%s%s", sig,
                 name[0] ? " (SIG" : "", name, name[0] ? ")" : "");
    else
        snprintf(w->last_exit, sizeof w->last_exit, "exit %d", WEXITSTATUS(status));
}

static void ldc_proc_ended(ldcorn *l, ldc_worker *w, int status, bool known) {
    ldc_proc_describe(w, status, known);
    w->last_exit_at = l->now;
    if (w->exec.open) { /* why exec failed tells more than exit 127 */
        ldc_exec_error e;
        if (ldc_util_read(w->exec.watch.fd, &e, sizeof e) == (ssize_t)sizeof e && e.step > 0 &&
            e.step < (int)LDC_LEN(ldc_proc_steps))
            snprintf(w->last_exit, sizeof w->last_exit, "%s: %.60s", ldc_proc_steps[e.step],
                     strerror(e.error));
    }
    ldc_proc_tell(l, w, LDCORN_WORKER_EXITED, w->last_exit);
    ldc_proc_do(l, w, LDC_EV_EXIT);
}

/* Process 1 gets the orphans of its workers: they are in their process groups. What has left these
   cannot be told from the host's own children. Is there none of that group any more? */
static bool ldc_proc_reap_orphans(pid_t group) {
    siginfo_t any;
    int r;
    do {
        memset(&any, 0, sizeof any);
        r = waitid(P_PGID, (id_t)group, &any, WEXITED | WNOHANG | WNOWAIT);
        if (r == 0 && any.si_pid == group) return false; /* the worker: it has its own way to end */
        if (r == 0 && any.si_pid > 0) ldc_util_wait(any.si_pid, NULL, WNOHANG);
    } while (r == 0 && any.si_pid > 0);
    return r < 0;
}

/* The whole process group gets KILL before its leader is reaped: until then the number cannot
   belong to anybody else. */
static void ldc_proc_reap_one(ldcorn *l, ldc_worker *w) {
    siginfo_t info;
    int status = 0;
    pid_t r;
    memset(&info, 0, sizeof info);
    do r = waitid(P_PID, (id_t)w->pid, &info, WEXITED | WNOHANG | WNOWAIT);
    while (r < 0 && errno == EINTR);
    if (r < 0) {
        if (errno == ECHILD) ldc_proc_ended(l, w, 0, false);
        return;
    }
    if (info.si_pid != w->pid) {
        if (l->init) ldc_proc_reap_orphans(w->pid);
        return;
    }
    kill(-w->pid, SIGKILL);
    if (l->init) {
        if (l->left_n == (int)LDC_LEN(l->left)) l->left_n--;
        l->left[l->left_n++] = w->pid;
    }
    r = ldc_util_wait(w->pid, &status, 0);
    ldc_proc_ended(l, w, status, r > 0);
}

/* Ends a helper. Its corpse is fetched later: a slow disk may still hold it. */
static void ldc_proc_dismiss(ldcorn *l, pid_t *pid) {
    pid_t it = *pid;
    *pid = 0;
    if (it <= 0) return;
    kill(it, SIGKILL);
    if (l->dismissed_n < (int)LDC_LEN(l->dismissed))
        l->dismissed[l->dismissed_n++] = it;
    else
        ldc_util_wait(it, NULL, 0);
}

static void ldc_proc_reap(ldcorn *l) {
    l->child_noted = false;
    for (ldc_group *g = l->groups; g; g = g->next) {
        for (ldc_worker *w = g->workers, *next; w; w = next) {
            next = w->next;
            if (w->pid > 0) ldc_proc_reap_one(l, w);
        }
    }
    if (l->reload.resolver > 0 && ldc_util_wait(l->reload.resolver, NULL, WNOHANG) != 0)
        l->reload.resolver = 0;
    if (l->reload.watcher > 0 && ldc_util_wait(l->reload.watcher, NULL, WNOHANG) != 0)
        l->reload.watcher = -1; /* its pipe is closed by whoever waits for it */
    if (l->watcher_pid > 0 && ldc_util_wait(l->watcher_pid, NULL, WNOHANG) != 0) l->watcher_pid = 0;
    for (int i = l->dismissed_n; i-- > 0;) {
        if (ldc_util_wait(l->dismissed[i], NULL, WNOHANG) != 0)
            l->dismissed[i] = l->dismissed[--l->dismissed_n];
    }
    for (int i = l->left_n; i-- > 0;) {
        if (ldc_proc_reap_orphans(l->left[i])) l->left[i] = l->left[--l->left_n];
    }
    while (l->init && l->desc.reap_orphans && ldc_util_wait(-1, NULL, WNOHANG) > 0) {}
}

static void ldc_proc_exec_event(ldcorn *l, ldc_exec *x) {
    ldc_exec_error e;
    ssize_t n = ldc_util_read(x->watch.fd, &e, sizeof e);
    if (n < 0 && ldc_util_again()) return;
    if (n == (ssize_t)sizeof e) { /* kept for ldc_proc_ended: the exit follows at once */
        if (e.step > 0 && e.step < (int)LDC_LEN(ldc_proc_steps)) {
            char line[160];
            int k = snprintf(line, sizeof line, "ldcorn: %s: %s", ldc_proc_steps[e.step],
                             strerror(e.error));
            if (k > 0)
                ldc_proc_remember(l, x->worker, line,
                                  (size_t)k < sizeof line ? (size_t)k : sizeof line - 1);
        }
    }
    x->open = false;
    ldc_loop_close(l, &x->watch);
}

/* --- groups of workers --- */

/* What stays the same when a worker starts anew, or its list is put in another order. */
static uint64_t ldc_proc_identity(const ldc_worker *w) {
    const char *address = w->foreign ? w->addr.text : NULL;
    return address ? ldc_util_fnv(address, strlen(address), 14695981039346656037ULL)
                   : (uint64_t)w->index + 1;
}

/* A place for the index in the group's sums. */
static bool ldc_proc_indexes(ldcorn *l, ldc_group *g, int index) {
    size_t had = (size_t)g->indexes * sizeof *g->served, n = (size_t)index + 1;
    uint64_t *p;
    if (index < g->indexes) return true;
    p = (uint64_t *)ldc_mem_resize(&l->mem, g->served, had, n * sizeof *p);
    if (p == NULL) return false;
    memset(p + g->indexes, 0, n * sizeof *p - had);
    g->served = p;
    g->indexes = index + 1;
    return true;
}

/* What it has served so far stays with the index that it had: counters never fall. */
static void ldc_proc_book(ldc_worker *w) {
    w->group->served[w->index] += w->served - w->booked;
    w->booked = w->served;
}

static void ldc_proc_index(ldcorn *l, ldc_worker *w, int index) {
    if (index == w->index || !ldc_proc_indexes(l, w->group, index)) return;
    ldc_proc_book(w);
    w->index = index;
}

static ldc_worker *ldc_proc_new_at(ldcorn *l, ldc_group *g, ldc_conf *conf, const ldc_gconf *as,
                                   int index, const ldc_addr *address) {
    ldc_worker *w, **end = &g->workers;
    ldc_place *place = NULL;
    bool listed = as->source == LDC_FROM_LIST;
    if (!ldc_loop_reserve_timer(l) || !ldc_proc_indexes(l, g, index)) return NULL;
    if (listed) place = ldc_group_place(l, address ? address : &as->addr[index]);
    if (listed && place == NULL) return NULL;
    w = (ldc_worker *)ldc_mem_zero(&l->mem, sizeof *w);
    if (w == NULL) {
        ldc_group_unplace(l, place, NULL);
        return NULL;
    }
    l->loop.timers++;
    w->timer.kind = LDC_TIMER_WORKER;
    w->group = g;
    w->conf = conf;
    conf->refs++;
    w->as = as;
    w->index = index;
    w->generation = l->generation;
    w->port_fd = -1;
    w->out.fd = -1;
    w->state = LDC_PROC_BACKOFF;
    w->since = w->idle_since = l->now;
    w->probe_at = l->now;
    w->say_at = l->now + 10000000;
    while (*end) end = &(*end)->next;
    *end = w;
    if (as->source != LDC_FROM_PROCESSES) {
        w->foreign = true;
        w->dial = as->source == LDC_FROM_DIAL;
        w->addr = w->dial ? as->dial : address ? *address : as->addr[index];
        w->started = l->now;
        w->state = w->dial ? LDC_PROC_READY : LDC_PROC_STARTING;
    }
    w->place = place;
    if (place) {
        w->next_placed = place->first;
        place->first = w;
    }
    w->identity = ldc_proc_identity(w);
    ldc_group_moved(l, g);
    if (!w->dial) ldc_proc_timer_at(l, w, l->now);
    return w;
}

static ldc_worker *ldc_proc_new(ldcorn *l, ldc_group *g, ldc_conf *conf, const ldc_gconf *as,
                                int index) {
    return ldc_proc_new_at(l, g, conf, as, index, NULL);
}

/* How many workers `as` means for the group (NULL: a new one). What admin scaled holds until
   `workers` is edited. */
static int ldc_proc_wanted(const ldc_group *g, const ldc_gconf *as) {
    int n = 0;
    if (as->source == LDC_FROM_DIAL) return 1;               /* one object for all that dial in */
    if (as->source == LDC_FROM_LIST && g && g->conf == as) { /* who joined, without who quit */
        for (const ldc_worker *w = g->workers; w; w = w->next) n += !w->replaced && !w->candidate;
        return n;
    }
    if (as->source == LDC_FROM_LIST) return as->addrs;
    if (g && g->scaled && g->conf->s.workers == as->s.workers) return g->scaled;
    return (int)as->s.workers;
}

/* There is no memory for a worker that is wanted: again in a moment. */
static void ldc_proc_lacks(ldcorn *l, ldc_group *g) {
    g->lacks = true;
    ldc_loop_lean(l);
}

/* Of each index one goes at a time: the one before it, which did not end by itself and is waited for
   by nobody, has had its time. */
static void ldc_proc_hurry(ldcorn *l, const ldc_worker *w) {
    for (ldc_worker *o = w->group->workers; o; o = o->next) {
        if (o == w || o->index != w->index || o->state != LDC_PROC_STOPPING || o->killed) continue;
        o->killed = true;
        kill(-o->pid, SIGKILL);
        kill(o->pid, SIGKILL);
        ldc_log_say(&l->log, LDCORN_LOG_WARN,
                    "%s.%d (pid %ld): killed, its successor has to be replaced, too",
                    o->group->name, o->index, (long)o->pid);
    }
}

/* A worker that must go and come back, in its group's own way. `replace` starts the new one when
   the old one is gone. Else the new one starts now, and the old one goes when it is ready, or at
   once where it is of no use any more. A worker has one successor, whatever more happens to it. */
static bool ldc_proc_renew(ldcorn *l, ldc_worker *w, const char *why, bool useless) {
    ldc_worker *fresh;
    bool after = w->group->conf->reload == LDC_REPLACE;
    if (w->replaced || w->foreign || l->life > LDC_LIFE_LAME) return false;
    if (useless) ldc_proc_hurry(l, w);
    if (ldc_proc_reliever(w)) {
        if (!useless) return false;
        w->why_stop = why;
        ldc_proc_do(l, w, LDC_EV_RETIRE);
        return true;
    }
    fresh = ldc_proc_new(l, w->group, w->group->owner, w->group->conf, w->index);
    if (fresh == NULL && !useless) return false;
    if (fresh == NULL) { /* it goes, and is missed until there is memory again */
        w->why_stop = why;
        ldc_proc_do(l, w, LDC_EV_RETIRE);
        ldc_proc_lacks(l, w->group);
        return true;
    }
    fresh->restarts = w->restarts + 1;
    w->why_stop = why;
    l->upset = true;
    if (useless) memcpy(fresh->last_exit, w->last_exit, sizeof w->last_exit);
    if (after) {
        fresh->after = w;
        ldc_loop_timer(l, &fresh->timer, 0);
    } else if (!useless) {
        fresh->relieves = w;
    }
    if (after || useless) ldc_proc_do(l, w, LDC_EV_RETIRE);
    return true;
}

static void ldc_proc_replace(ldcorn *l, ldc_worker *w, const char *why) {
    ldc_proc_renew(l, w, why, true);
}

/* One per group at a time, and none while a reload starts workers of its own. */
static void ldc_proc_recycle(ldcorn *l, ldc_group *g) {
    ldc_worker *due = NULL;
    for (ldc_worker *w = g->workers; w; w = w->next) {
        if (w->relieves || w->after || w->candidate) return;
        if (w->due && !w->replaced && due == NULL) due = w;
    }
    if (due == NULL || g->rolling || g->removed) return;
    if (!ldc_proc_renew(l, due, due->why_due, false)) { /* no memory: again in a moment */
        if (l->life == LDC_LIFE_RUN) ldc_loop_lean(l);
        return;
    }
    due->due = false;
    ldc_log_say(&l->log, LDCORN_LOG_INFO, "%s.%d (pid %ld): recycled after %llu requests, %.0fs",
                g->name, due->index, (long)due->pid, (unsigned long long)due->served,
                ldc_proc_seconds(l->now - due->ready_at));
}

static void ldc_proc_free(ldcorn *l, ldc_worker *w) {
    ldc_proc_book(w);
    ldc_loop_forget(l, &w->timer);
    l->loop.timers--;
    ldc_log_close(&l->log, &w->out);
    ldc_conf_free(w->conf);
    ldc_group_unplace(l, w->place, w);
    ldc_group_moved(l, w->group);
    if (w->text) ldc_mem_free(&l->mem, w->text, strlen(w->text) + 1);
    ldc_mem_free(&l->mem, w, sizeof *w);
}

/* @reload -----------------------------------------------------------------------------------
   Generations: a new conf and candidate workers grow inside the living groups, which take
   nothing until the switch; an abandoned reload kills the candidates and frees the conf. Owns
   listeners and groups. */

static void ldc_admin_reloaded(ldcorn *l, uint32_t ticket, const char *what);
static void ldc_admin_in_vain(ldcorn *l, uint32_t ticket, const char *why);
static void ldc_admin_report_anew(ldcorn *l);
static void ldc_turn_notify_reload(ldcorn *l, bool begins);

static void ldc_reload_set(ldcorn *l, ldc_reload_state to) {
    LDCORN_ASSERT(ldc_reload_rows[l->reload.state].next & (1u << to));
    l->reload.state = (uint8_t)to;
}

static bool ldc_reload_busy(const ldcorn *l) {
    return l->reload.state == LDC_RELOAD_LOADING || l->reload.state == LDC_RELOAD_STARTING ||
           l->reload.state == LDC_RELOAD_SWITCHED;
}

/* Does the reload under way start or replace workers of this group? */
static bool ldc_reload_touches(const ldcorn *l, const ldc_group *g) {
    if (l->reload.state == LDC_RELOAD_SWITCHED) return g->rolling;
    for (const ldc_worker *w = g->workers; w; w = w->next) {
        if (w->candidate) return true;
    }
    return g->rolls;
}

/* --- listeners --- */

typedef enum ldc_door { LDC_DOOR_CLIENTS, LDC_DOOR_ADMIN, LDC_DOOR_DIAL } ldc_door;

static ldc_listener *ldc_reload_listener(ldcorn *l, const ldc_addr *a, ldc_door door) {
    for (ldc_listener *s = l->listeners; s; s = s->next) {
        if (!s->watch.dead && s->admin == (door == LDC_DOOR_ADMIN) &&
            s->dial == (door == LDC_DOOR_DIAL) && ldc_conf_same_addr(&s->addr, a))
            return s;
    }
    return NULL;
}

/* A number that is open now may be one of our own. */
static bool ldc_reload_was_there(const ldcorn *l, int fd) {
    return fd >= 0 && fd < LDC_INHERITED_MOST && (l->inherited[fd / 8] >> (fd % 8) & 1);
}

static int ldc_reload_bind(ldcorn *l, const ldc_addr *a, ldc_door door, int backlog) {
    ldc_listener *s;
    struct stat st;
    int fd, e;
    if (ldc_reload_listener(l, a, door)) return 0;
    errno = EBADF;
    fd = !a->inherited                           ? ldc_net_listen(a, backlog)
         : ldc_reload_was_there(l, a->inherited) ? ldc_net_inherit(a->inherited)
                                                 : -1;
    if (fd < 0) return errno;
    s = (ldc_listener *)ldc_mem_zero(&l->mem, sizeof *s);
    if (s == NULL || !ldc_loop_open(l, &s->watch, fd, LDC_KIND_LISTENER, POLLIN)) {
        e = ENOMEM;
        close(fd);
        ldc_mem_free(&l->mem, s, sizeof *s);
        return e;
    }
    if (door == LDC_DOOR_CLIENTS) ldc_net_defer(a, fd);
    s->addr = *a;
    s->addr.text = NULL;
    s->admin = door == LDC_DOOR_ADMIN;
    s->dial = door == LDC_DOOR_DIAL;
    s->fresh = true;
    s->next = l->listeners;
    l->listeners = s;
    if (a->u.any.sa_family == AF_UNIX && !a->inherited && lstat(a->u.un.sun_path, &st) == 0) {
        s->device = st.st_dev;
        s->inode = st.st_ino;
    }
    return 0;
}

/* The path goes only if it is still ours: a successor may have bound it again. */
static void ldc_reload_unlisten(ldcorn *l, ldc_listener *s) {
    struct stat st;
    if (s->addr.u.any.sa_family == AF_UNIX && s->inode && lstat(s->addr.u.un.sun_path, &st) == 0 &&
        st.st_dev == s->device && st.st_ino == s->inode)
        unlink(s->addr.u.un.sun_path);
    ldc_loop_close(l, &s->watch);
}

static const char *ldc_reload_listen_error(const ldc_addr *a, int e) {
    if (e == EADDRINUSE) return "address already in use";
    if (a == NULL || !a->inherited) return strerror(e);
    return a->text[0] == 'f'
               ? "no inherited listening socket has this number"
               : "systemd has passed no such socket (LISTEN_FDS); it needs a .socket unit";
}

static bool ldc_reload_below(const ldc_addr *a, const char *dir) {
    size_t n = dir ? strlen(dir) : 0;
    return n && a->u.any.sa_family == AF_UNIX && strncmp(a->u.un.sun_path, dir, n) == 0 &&
           a->u.un.sun_path[n] == '/';
}

/* Every address of `conf` but sockets in directory `but` (NULL: none); on failure *bad is the one,
   and an errno. */
static int ldc_reload_listen(ldcorn *l, const ldc_conf *conf, const char *but,
                             const ldc_addr **bad) {
    for (int i = 0; i < conf->listens; i++) {
        int e = 0;
        *bad = &conf->listen[i];
        if (!ldc_reload_below(*bad, but))
            e = ldc_reload_bind(l, *bad, LDC_DOOR_CLIENTS, (int)conf->s.backlog);
        if (e) return e;
    }
    for (int i = 0; i < conf->groups; i++) {
        int e = 0;
        *bad = &conf->group[i].dial;
        if (conf->group[i].source == LDC_FROM_DIAL && !ldc_reload_below(*bad, but))
            e = ldc_reload_bind(l, *bad, LDC_DOOR_DIAL, (int)conf->s.backlog);
        if (e) return e;
    }
    for (int i = 0; i < conf->admins; i++) {
        int e = 0;
        *bad = &conf->admin[i];
        if (!ldc_reload_below(*bad, but)) e = ldc_reload_bind(l, *bad, LDC_DOOR_ADMIN, 128);
        if (e) return e;
    }
    return 0;
}

static void ldc_reload_settle_listeners(ldcorn *l, bool switched) {
    for (ldc_listener *s = l->listeners; s; s = s->next) {
        s->keep = !switched ? !s->fresh : false;
        for (int i = 0; switched && s->dial && i < l->conf->groups; i++)
            s->keep = s->keep || (l->conf->group[i].source == LDC_FROM_DIAL &&
                                  ldc_conf_same_addr(&s->addr, &l->conf->group[i].dial));
        for (int i = 0; switched && !s->admin && !s->dial && i < l->conf->listens; i++) {
            if (!ldc_conf_same_addr(&s->addr, &l->conf->listen[i])) continue;
            s->keep = true;
            s->addr.proxy = l->conf->listen[i].proxy;
            s->addr.https = l->conf->listen[i].https;
        }
        for (int i = 0; switched && s->admin && i < l->conf->admins; i++)
            s->keep = s->keep || ldc_conf_same_addr(&s->addr, &l->conf->admin[i]);
        s->fresh = false;
        if (!s->keep && !s->watch.dead) {
            if (switched && !s->dial)
                ldc_client_accept(l, s); /* who is already in its backlog is still served */
            ldc_reload_unlisten(l, s);
        }
    }
}

/* --- descriptors: who gets how many --- */

enum { LDC_OWN_FILES = 32, LDC_WORKER_FILES = 8 };

typedef struct ldc_files {
    int64_t all;     /* -1: as many as are wanted */
    int64_t wanted;  /* for connections to workers: so many for each, and those that dial in */
    int64_t workers; /* what they get: at most half, or no client would come in */
    int64_t dials;   /* of them */
    int64_t clients;
} ldc_files;

static ldc_files ldc_reload_files(const ldc_conf *c, rlim_t limit) {
    ldc_files f;
    memset(&f, 0, sizeof f);
    f.all = limit == RLIM_INFINITY || limit > INT32_MAX ? -1 : (int64_t)limit;
    for (int i = 0; i < c->groups; i++) {
        const ldc_gconf *g = &c->group[i];
        *(g->source == LDC_FROM_DIAL ? &f.dials : &f.wanted) +=
            g->source == LDC_FROM_DIAL ? g->s.workers : LDC_WORKER_FILES * ldc_proc_wanted(NULL, g);
    }
    if (f.all >= 0 && f.dials > f.all / 3) f.dials = f.all / 3;
    f.wanted += f.dials;
    f.workers = f.wanted;
    if (f.all >= 0 && f.workers > (f.all - LDC_OWN_FILES) / 2)
        f.workers = (f.all - LDC_OWN_FILES) / 2;
    f.clients = c->s.max_conns;
    if (f.clients <= 0) f.clients = f.all < 0 ? 65536 : (f.all - f.workers - LDC_OWN_FILES) * 2 / 3;
    if (f.clients < 8 && c->s.max_conns <= 0) f.clients = 8;
    return f;
}

/* What is wrong with that, in a line with the arithmetic; false: nothing. */
static bool ldc_reload_few(const ldc_conf *c, const ldc_files *f, char *out, size_t room) {
    if (f->all < 0) return false;
    if (c->s.max_conns > 0 && c->s.max_conns > f->all - LDC_OWN_FILES) {
        snprintf(out, room,
                 "`max_conns = %lld` is more than the %lld descriptors of this process (ulimit -n)",
                 (long long)c->s.max_conns, (long long)f->all);
        return true;
    }
    if (c->s.max_conns > 0 || (f->workers == f->wanted && f->clients >= 64)) return false;
    snprintf(out, room,
             "`max_conns` comes out as %lld: of %lld descriptors (ulimit -n) %lld are ours, "
             "connections to workers want %lld (%d for each worker and address) and get %lld, and "
             "clients have two thirds of the rest; raise the limit, or write max_conns",
             (long long)f->clients, (long long)f->all, (long long)LDC_OWN_FILES,
             (long long)f->wanted, (int)LDC_WORKER_FILES, (long long)f->workers);
    return true;
}

static void ldc_reload_limits(ldcorn *l) {
    struct rlimit now;
    ldc_files f;
    char text[400];
    if (getrlimit(RLIMIT_NOFILE, &now) < 0) now.rlim_cur = 1024;
    f = ldc_reload_files(l->conf, now.rlim_cur);
    l->dials_max = (int)f.dials;
    l->conns_max = f.clients > 1 << 24 ? 1 << 24 : (int)f.clients;
    if (ldc_reload_few(l->conf, &f, text, sizeof text)) ldc_text_fmt(&l->warned, "%s\n", text);
}

/* What was found while there was no log to say it in. */
static void ldc_reload_warned(ldcorn *l) {
    ldc_text *t = &l->warned;
    while (t->n && t->p[t->n - 1] == '\n') t->n--;
    if (t->n) ldc_log_line(&l->log, LDCORN_LOG_WARN, ldc_util_str(t->p, t->n));
    ldc_text_free(t);
}

static void ldc_reload_logs(ldcorn *l) {
    const ldcorn_desc *s = &l->conf->s;
    int e;
    for (int i = 0; i < 4; i++) {
        if (strcmp(ldc_log_names[i], s->log_level) == 0) l->log.level = (ldcorn_level)i;
    }
    l->log.json = strcmp(s->log_format, "json") == 0;
    e = ldc_log_open(&l->log, &l->log.own, s->log);
    if (e) ldc_log_say(&l->log, LDCORN_LOG_ERROR, "cannot open log %s: %s", s->log, strerror(e));
    e = ldc_log_open(&l->log, &l->log.access, s->access_log);
    if (e)
        ldc_log_say(&l->log, LDCORN_LOG_ERROR, "cannot open access_log %s: %s", s->access_log,
                    strerror(e));
}

/* --- groups --- */

static void ldc_reload_own(ldc_group *g, ldc_conf *conf, const ldc_gconf *as) {
    conf->refs++;
    if (g->owner) ldc_conf_free(g->owner);
    g->owner = conf;
    g->conf = as;
}

static ldc_group *ldc_reload_group(ldcorn *l, ldc_conf *conf, const ldc_gconf *as) {
    ldc_group *g = (ldc_group *)ldc_mem_zero(&l->mem, sizeof *g), **end = &l->groups;
    size_t n = strlen(as->name) + 1;
    if (g == NULL) return NULL;
    g->name = (char *)ldc_mem_resize(&l->mem, NULL, 0, n);
    if (g->name == NULL) {
        ldc_mem_free(&l->mem, g, sizeof *g);
        return NULL;
    }
    memcpy(g->name, as->name, n);
    *ldc_group_named(l, g->name) = g; /* behind the last of its slot */
    g->hidden = true;
    ldc_reload_own(g, conf, as);
    while (*end) end = &(*end)->next;
    *end = g;
    return g;
}

static void ldc_reload_free_group(ldcorn *l, ldc_group *g) {
    ldc_group_rank_free(l, &g->rank);
    ldc_group_keepers_free(l, &g->keepers);
    *ldc_group_named(l, g->name) = g->alike;
    ldc_admin_report_anew(l);
    ldc_mem_free(&l->mem, g->name, strlen(g->name) + 1);
    ldc_mem_free(&l->mem, g->quit, (size_t)g->quits * sizeof *g->quit);
    ldc_mem_free(&l->mem, g->served, (size_t)g->indexes * sizeof *g->served);
    ldc_group_shares_free(l, &g->shares);
    ldc_conf_free(g->owner);
    ldc_mem_free(&l->mem, g, sizeof *g);
}

static bool ldc_reload_same_text(const char *a, const char *b) {
    return a == b || (a && b && strcmp(a, b) == 0);
}

static bool ldc_reload_same_words(const char *const *x, const char *const *y) {
    while (x && y && *x && *y && strcmp(*x, *y) == 0) x++, y++;
    return !(x && *x) && !(y && *y);
}

/* Does the edit change what runs? */
static bool ldc_reload_changed(const ldc_gconf *a, const ldc_gconf *b) {
    if (a->source != b->source || !ldc_reload_same_text(a->s.cmd, b->s.cmd) ||
        !ldc_reload_same_text(a->s.app, b->s.app) ||
        !ldc_reload_same_text(a->s.function, b->s.function) ||
        !ldc_reload_same_text(a->s.dir, b->s.dir) || !ldc_reload_same_text(a->s.user, b->s.user) ||
        a->umask != b->umask)
        return true;
    return !ldc_reload_same_words(a->s.env, b->s.env);
}

/* Candidates for one group; false without memory. */
static bool ldc_reload_candidates(ldcorn *l, ldc_conf *conf, const ldc_gconf *as, int *count) {
    ldc_group *g = ldc_group_find(l, as->name);
    bool fresh = g == NULL || g->removed, changed = g && ldc_reload_changed(g->conf, as), wants;
    int n = ldc_proc_wanted(fresh ? NULL : g, as);
    if (l->reload.only && g != l->reload.only) return true;
    if (g == NULL) g = ldc_reload_group(l, conf, as);
    if (g == NULL) return false;
    wants = fresh || l->reload.only != NULL ||
            (as->source == LDC_FROM_PROCESSES && as->reload != LDC_OFF &&
             (!l->reload.keep || changed)) ||
            as->source != g->conf->source;
    if (!wants) {
        if (changed && as->source == LDC_FROM_PROCESSES)
            ldc_log_say(
                &l->log, LDCORN_LOG_WARN,
                "%s: `cmd` or what belongs to it changed; with `reload = off` each worker takes it at its next start",
                g->name);
        return true;
    }
    if (!fresh && as->source == LDC_FROM_PROCESSES &&
        g->conf->source == LDC_FROM_PROCESSES) { /* the rest is rolled after the switch */
        g->rolls = as->reload == LDC_ROLLING || as->reload == LDC_REPLACE;
        if (as->reload == LDC_ROLLING) n = 1;
        if (as->reload == LDC_REPLACE) n = 0;
    }
    for (int i = 0; i < n; i++) {
        ldc_worker *w = ldc_proc_new(l, g, conf, as, i);
        if (w == NULL) return false;
        w->candidate = true;
        w->generation = l->generation + 1;
        (*count)++;
    }
    return true;
}

static void ldc_reload_retire(ldcorn *l, ldc_worker *w, const char *why) {
    w->why_stop = why;
    w->candidate = false;
    ldc_group_moved(l, w->group);
    ldc_proc_do(l, w, LDC_EV_RETIRE);
}

static ldc_worker *ldc_reload_at_index(ldc_group *g, int index) {
    for (ldc_worker *w = g->workers; w; w = w->next) {
        if (w->index == index && !w->replaced && !w->candidate && w->state != LDC_PROC_GONE)
            return w;
    }
    return NULL;
}

/* A worker that stays gets the present configuration. */
static void ldc_reload_keep(ldc_group *g, ldc_worker *w) {
    ldc_conf_free(w->conf);
    w->conf = g->owner;
    w->conf->refs++;
    w->as = g->conf;
    if (w->dial) w->addr = g->conf->dial;
}

static bool ldc_reload_quit(const ldc_group *g, const ldc_addr *a) {
    for (int i = 0; i < g->quits; i++) {
        if (ldc_conf_same_addr(&g->quit[i], a)) return true;
    }
    return false;
}

/* Addresses stay with their worker; a changed list retires and adds what differs. `edited`: what
   admin joined and took out is forgotten. */
static void ldc_reload_addresses(ldcorn *l, ldc_group *g, bool edited) {
    const ldc_gconf *as = g->conf;
    for (ldc_worker *w = g->workers; w; w = w->next) {
        bool stays = false;
        if (w->replaced) continue;
        for (int i = 0; i < as->addrs && !stays; i++) {
            if (!ldc_conf_same_addr(&as->addr[i], &w->addr) || ldc_reload_quit(g, &w->addr))
                continue;
            stays = true;
            ldc_reload_keep(g, w);
            w->joined = false;
            w->addr.text = as->addr[i].text;
            ldc_proc_index(l, w, i);
            w->identity = ldc_proc_identity(w);
        }
        if (!stays && w->joined && !edited)
            ldc_reload_keep(g, w);
        else if (!stays)
            ldc_reload_retire(l, w, "scale");
    }
    for (int i = 0; i < as->addrs; i++) {
        bool there = ldc_reload_quit(g, &as->addr[i]);
        for (ldc_worker *w = g->workers; w; w = w->next)
            there = there || (!w->replaced && ldc_conf_same_addr(&as->addr[i], &w->addr));
        if (!there && ldc_proc_new(l, g, g->owner, as, i) == NULL) ldc_proc_lacks(l, g);
    }
    for (ldc_worker *w = g->workers; w; w = w->next) { /* the listed ones have the first indexes */
        int free_one = as->addrs;
        if (!w->joined || w->replaced || w->index >= as->addrs) continue;
        while (ldc_reload_at_index(g, free_one)) free_one++;
        ldc_proc_index(l, w, free_one);
    }
    ldc_group_moved(l, g);
}

/* As many workers as are wanted: the surplus goes, the highest index first; what is missing comes;
   who was given up is tried again. */
static void ldc_reload_fill(ldcorn *l, ldc_group *g) {
    int wanted = ldc_proc_wanted(g, g->conf);
    for (int i = g->indexes; i-- > 0;) {
        for (ldc_worker *w = g->workers; w; w = w->next) {
            if (w->index != i || w->replaced || w->candidate) continue;
            if (i >= wanted) {
                ldc_reload_retire(l, w, "scale");
            } else if (w->state == LDC_PROC_FAILED) {
                w->failures = 0;
                ldc_proc_set(l, w, LDC_PROC_BACKOFF);
                ldc_proc_timer_at(l, w, l->now);
            }
        }
    }
    for (int i = 0; i < wanted; i++) {
        if (ldc_reload_at_index(g, i) == NULL && ldc_proc_new(l, g, g->owner, g->conf, i) == NULL)
            ldc_proc_lacks(l, g);
    }
}

/* Those that there was no memory for. */
static void ldc_reload_again(ldcorn *l, ldc_group *g) {
    bool leaving = false;
    if (!g->lacks || g->hidden || g->removed) return;
    for (const ldc_worker *w = g->workers; w; w = w->next)
        leaving = leaving || (w->replaced && w->state != LDC_PROC_GONE);
    if (leaving && g->conf->reload == LDC_REPLACE) { /* never two at once */
        ldc_loop_lean(l);
        return;
    }
    g->lacks = false;
    if (g->conf->source == LDC_FROM_LIST)
        ldc_reload_addresses(l, g, false);
    else
        ldc_reload_fill(l, g);
}

/* The newest generation older than `than` of which a worker drains; 0: there is none. What counts is
   what went together: workers are started again one by one, in different generations. */
static int ldc_reload_older(const ldc_group *g, int than) {
    int found = 0;
    for (const ldc_worker *w = g->workers; w; w = w->next)
        if (w->state == LDC_PROC_DRAINING && w->retired < than && w->retired > found)
            found = w->retired;
    return found;
}

/* At most two old generations drain: a third ends the oldest. */
static void ldc_reload_third(ldcorn *l, ldc_group *g) {
    int third = ldc_reload_older(g, ldc_reload_older(g, ldc_reload_older(g, INT_MAX)));
    for (ldc_worker *w = g->workers, *next; w; w = next) {
        next = w->next;
        if (w->state != LDC_PROC_DRAINING || w->retired == 0 || w->retired > third) continue;
        w->drain_by = w->tunnel_by = l->now;
        ldc_proc_draining(l, w);
    }
}

/* What admin took out of the list is forgotten. */
static void ldc_reload_unquit(ldcorn *l, ldc_group *g) {
    ldc_mem_free(&l->mem, g->quit, (size_t)g->quits * sizeof *g->quit);
    g->quit = NULL;
    g->quits = 0;
}

/* The switch for one group. Candidates take over: each of its own index in a group that rolls, all
   of them together in the others. */
static void ldc_reload_apply(ldcorn *l, ldc_group *g, ldc_conf *conf, const ldc_gconf *as) {
    bool swapped = false, edited = !ldc_reload_same_words(g->conf->s.upstream, as->s.upstream);
    if (g->conf->s.workers != as->s.workers) g->scaled = 0;
    if (edited) ldc_reload_unquit(l, g);
    ldc_reload_own(g, conf, as);
    g->hidden = g->removed = false;
    g->rolling = g->rolls;
    g->rolls = false;
    ldc_group_moved(l, g);
    for (ldc_worker *w = g->workers; w; w = w->next)
        swapped = swapped || (w->candidate && !g->rolling);
    for (ldc_worker *w = g->workers; w; w = w->next) {
        if (w->candidate && g->rolling) {
            ldc_worker *now = ldc_reload_at_index(g, w->index);
            ldc_worker *other = now ? ldc_proc_reliever(now) : NULL;
            if (other && other != w) ldc_reload_retire(l, other, "reload"); /* ours is newer */
            w->relieves = now;
            if (now) now->rolled = l->generation;
        }
        if (w->candidate) {
            w->candidate = false;
            ldc_group_moved(l, g); /* again: what was retired above had others look */
            if (g->rolling) ldc_proc_relieve(l, w);
        } else if (swapped && !w->replaced) {
            w->retired = l->generation;
            ldc_reload_retire(l, w, "reload");
        }
    }
    ldc_reload_third(l, g);
    for (ldc_worker *w = g->workers; w && as->source == LDC_FROM_DIAL; w = w->next) {
        if (w->dial && !w->replaced) ldc_reload_keep(g, w);
    }
    if (!swapped && as->source == LDC_FROM_LIST)
        ldc_reload_addresses(l, g, edited);
    else if (!swapped && as->source == LDC_FROM_PROCESSES)
        ldc_reload_fill(l, g);
    ldc_group_next(l, g);
}

static void ldc_reload_end(ldcorn *l, const char *result) {
    ldc_reload *r = &l->reload;
    char what[80] = "reload";
    double took = ldc_proc_seconds(l->now - r->began);
    const char *why;
    ldc_text t;
    ldc_text_init(&t, &l->mem);
    for (size_t i = 0; i < r->error.n; i++) { /* in the log its lines stand under the first */
        ldc_text_put(&t, r->error.p + i, 1);
        if (r->error.p[i] == '\n' &&
            (!ldc_util_starts(ldc_util_str(r->error.p + i + 1, r->error.n - i - 1), "    ") ||
             r->error.p[i + 5] == ' ')) /* five: below a line of a file */
            ldc_text_add(&t, "    ");
    }
    why = t.p ? t.p : "";
    if (r->only) snprintf(what, sizeof what, "restart of %s", r->only->name);
    r->took = (l->now - r->began) / 1000;
    r->at = l->wall;
    snprintf(r->result, sizeof r->result, "%s", result);
    if (result[0] == 'o') {
        r->ok++;
        ldc_log_say(&l->log, LDCORN_LOG_INFO, "%s done after %.1fs: generation %d", what, took,
                    l->generation);
    } else if (result[0] == 'p') {
        r->partials++;
        ldc_log_say(&l->log, LDCORN_LOG_ERROR,
                    "%s partial after %.1fs: generation %d is in force, but\n    %s", what, took,
                    l->generation, why);
    } else {
        r->failed++;
        ldc_log_say(
            &l->log, LDCORN_LOG_ERROR,
            "%s failed after %.1fs, nothing changed: generation %d goes on with the old %s\n    %s",
            what, took, l->generation, r->only ? "workers" : "code and file", why);
    }
    ldc_text_free(&t);
    if (l->desc.event) {
        ldcorn_event v;
        ldc_turn_event(l, &v, LDCORN_RELOADED, r->only ? r->only->name : "");
        v.text = r->result;
        l->desc.event(l->desc.event_user, &v);
    }
    if (r->only == NULL && l->life == LDC_LIFE_RUN) ldc_turn_notify_reload(l, false);
    r->only = NULL;
    ldc_admin_reloaded(l, r->ticket, what);
    l->upset = true;
}

static void ldc_reload_note(ldc_text *t, const char *why, size_t n) {
    while (n && why[n - 1] == '\n') n--;
    ldc_text_put(t, why, n);
}

static void ldc_reload_unresolve(ldcorn *l);
static void ldc_reload_unwatch_next(ldcorn *l);
static bool ldc_reload_watcher(ldcorn *l, const ldc_conf *c, pid_t *pid, int *fd);

static void ldc_reload_undo(ldcorn *l, const char *why, size_t n) {
    ldc_reload *r = &l->reload;
    ldc_text_free(&r->error);
    ldc_reload_note(&r->error, why, n);
    ldc_reload_unresolve(l);
    ldc_reload_unwatch_next(l);
    ldc_reload_set(l, LDC_RELOAD_UNDONE);
    l->upset = true; /* removed groups that it wanted back go now */
    for (ldc_group *g = l->groups; g; g = g->next) {
        g->rolls = false;
        if (g->hidden) g->removed = true;
        for (ldc_worker *w = g->workers; w; w = w->next) {
            if (w->candidate) ldc_reload_retire(l, w, "reload");
        }
    }
    ldc_reload_settle_listeners(l, false);
    ldc_conf_free(r->conf);
    r->conf = NULL;
    ldc_reload_end(l, "failed");
}

/* It takes nothing new and serves its queue: what held that up ends here, and nobody could lift it
   any more. */
static void ldc_reload_removed(ldcorn *l, ldc_group *g) {
    if (g->ticket) ldc_admin_in_vain(l, g->ticket, "the group was removed by a reload");
    g->ticket = 0;
    g->changed = g->lacks = false;
    g->scaled = 0; /* one that comes back while this one drains begins as it is written */
    ldc_reload_unquit(l, g);
    if (!g->paused) return;
    g->paused = false;
    ldc_log_say(&l->log, LDCORN_LOG_INFO, "%s: resumed, because it is removed", g->name);
    ldc_group_next(l, g);
}

static void ldc_reload_switch(ldcorn *l) {
    ldc_conf *old = l->conf, *conf = l->reload.conf;
    ldc_group *only = l->reload.only;
    ldc_reload_set(l, LDC_RELOAD_SWITCHED);
    ldc_text_free(&l->reload.error);
    l->reload.partial = false;
    l->conf = conf;
    l->reload.conf = NULL;
    l->generation++;
    ldc_admin_report_anew(l);
    for (ldc_group *g = only ? NULL : l->groups; g; g = g->next) g->removed = true;
    for (int i = conf->groups; i-- > 0;) { /* backwards, each to the front: the order of the file */
        ldc_group *g = ldc_group_find(l, conf->group[i].name), **at = &l->groups;
        LDCORN_ASSERT(g != NULL);
        if (g == NULL || (only && g != only)) continue;
        if (only == NULL) {
            while (*at != g) at = &(*at)->next;
            *at = g->next;
            g->next = l->groups;
            l->groups = g;
        }
        ldc_reload_apply(l, g, conf, &conf->group[i]);
    }
    for (ldc_group *g = only ? NULL : l->groups; g; g = g->next) {
        if (g->removed) ldc_reload_removed(l, g);
    }
    if (only == NULL) {
        ldc_reload_limits(l);
        ldc_reload_logs(l);
        ldc_reload_warned(l);
        ldc_reload_settle_listeners(l, true);
    }
    ldc_conf_free(old);
    if (only == NULL) l->watch_due = true;
    l->upset = true; /* ldc_reload_roll goes on */
}

/* A newcomer did not start: the group keeps its other old workers. Where the old one has gone
   already, its place is tried again with back-off. */
static void ldc_reload_stuck(ldcorn *l, ldc_group *g, ldc_worker *w) {
    ldc_text t;
    ldc_text_init(&t, &l->mem);
    ldc_text_fmt(&t, "%s.%d did not become ready, the rest of [%s] stays as it is: %s", g->name,
                 w->index, g->name, w->last_exit);
    ldc_proc_tail(l, &t, w);
    if (l->reload.error.n) ldc_text_add(&l->reload.error, "\n");
    ldc_reload_note(&l->reload.error, t.p ? t.p : "", t.n);
    ldc_text_free(&t);
    l->reload.partial = true;
    g->rolling = false;
    g->newcomer = NULL;
    if (w->relieves && !w->relieves->replaced) ldc_reload_retire(l, w, "reload");
}

/* Is one of those that this roll has replaced still at work? Tunnels alone hold up nothing. */
static bool ldc_reload_leaving(const ldcorn *l, const ldc_group *g) {
    for (const ldc_worker *w = g->workers; w; w = w->next) {
        if (w->rolled == l->generation && w->pid > 0 &&
            !(w->state == LDC_PROC_DRAINING && w->in_flight == 0))
            return true;
    }
    return false;
}

/* The next step of a group that rolls: one newcomer at a time, and none while the one before it has
   not gone. */
static void ldc_reload_roll(ldcorn *l, ldc_group *g) {
    ldc_worker *old = NULL, *w = g->newcomer, *other;
    if (w && w->failures > 0) {
        ldc_reload_stuck(l, g, w);
        return;
    }
    if (w || ldc_reload_leaving(l, g)) return;
    for (ldc_worker *o = g->workers; o; o = o->next) {
        if (!o->replaced && o->state != LDC_PROC_GONE && o->generation < l->generation &&
            (old == NULL || o->index < old->index))
            old = o;
    }
    if (old == NULL || l->life != LDC_LIFE_RUN) {
        g->rolling = false;
        return;
    }
    other = ldc_proc_reliever(old); /* of a recycling, say: it will do if its code is the new one */
    if (other && other->generation < l->generation) {
        ldc_reload_retire(l, other, "reload");
        other = NULL;
    }
    if (other == NULL && !ldc_proc_renew(l, old, "reload", false)) {
        ldc_loop_lean(l); /* no memory: again in a moment */
        return;
    }
    old->rolled = l->generation;
    for (w = g->workers; w; w = w->next) {
        if ((w->relieves == old || w->after == old) && !w->replaced) g->newcomer = w;
    }
    if (g->newcomer == NULL) /* the old one was gone at once */
        g->newcomer = ldc_reload_at_index(g, old->index);
}

static void ldc_reload_rolled(ldcorn *l) {
    bool all = true;
    for (ldc_group *g = l->groups; g; g = g->next) {
        if (g->rolling) ldc_reload_roll(l, g);
        all = all && !g->rolling;
    }
    if (!all) return;
    ldc_reload_set(l, LDC_RELOAD_DONE);
    ldc_reload_end(l, l->reload.partial ? "partial" : "ok");
}

/* A candidate ended or could not start: everything is undone. */
static void ldc_reload_candidate(ldcorn *l, ldc_worker *w, const char *what) {
    ldc_text t;
    if (l->reload.state != LDC_RELOAD_STARTING) return;
    ldc_text_init(&t, &l->mem);
    ldc_text_fmt(&t, "%s.%d (pid %ld) %s%s", w->group->name, w->index, (long)w->pid,
                 w->state == LDC_PROC_STARTING ? "" : "ended before it was ready: ", what);
    ldc_proc_tail(l, &t, w);
    ldc_proc_explain(&t, w);
    if (w->state != LDC_PROC_STARTING) w->pid = 0;
    ldc_reload_undo(l, t.p ? t.p : "out of memory", t.p ? t.n : 13);
    ldc_text_free(&t);
}

/* --- names: getaddrinfo may take its time, so a child asks and the loop goes on --- */

typedef struct ldc_named { /* one address, or why there is none; the last one has group = -1 */
    int group, at;
    socklen_t len;
    char why[64];
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } u;
} ldc_named;

enum { LDC_NAMES_SECONDS = 5 };

static int ldc_reload_names(const ldc_conf *c) {
    int n = 0;
    for (int i = 0; i < c->groups; i++) n += c->group[i].names;
    return n;
}

static void ldc_reload_ask(const ldc_addr *a, ldc_named *n) {
    struct addrinfo hint, *found = NULL;
    const char *colon = strrchr(a->text, ':');
    char host[256];
    int e;
    snprintf(host, sizeof host, "%.*s", (int)(colon - a->text), a->text);
    memset(&hint, 0, sizeof hint);
    hint.ai_family = AF_UNSPEC;
    hint.ai_socktype = SOCK_STREAM;
    e = getaddrinfo(host, colon + 1, &hint, &found);
    if (e) {
        snprintf(n->why, sizeof n->why, "%s", gai_strerror(e));
        if (ldc_util_write(3, n, sizeof *n) != (ssize_t)sizeof *n) _exit(1);
    }
    for (struct addrinfo *f = found; f; f = f->ai_next) {
        if (f->ai_addrlen > sizeof n->u) continue;
        n->len = f->ai_addrlen;
        memcpy(&n->u, f->ai_addr, f->ai_addrlen);
        if (ldc_util_write(3, n, sizeof *n) != (ssize_t)sizeof *n) _exit(1);
    }
    if (found) freeaddrinfo(found);
}

/* The child: records of a size that a pipe never tears. */
static void ldc_reload_ask_all(const ldc_conf *c) {
    ldc_named n;
    alarm(LDC_NAMES_SECONDS); /* ends it, and the end of its pipe is our deadline */
    for (int i = 0; i < c->groups; i++) {
        for (int k = 0; k < c->group[i].addrs; k++) {
            if (c->group[i].addr[k].u.any.sa_family != AF_UNSPEC) continue;
            memset(&n, 0, sizeof n);
            n.group = i;
            n.at = k;
            ldc_reload_ask(&c->group[i].addr[k], &n);
        }
    }
    memset(&n, 0, sizeof n);
    n.group = -1;
    if (ldc_util_write(3, &n, sizeof n) != (ssize_t)sizeof n) _exit(1);
    _exit(0);
}

static bool ldc_reload_numeric(ldc_conf *c, const ldc_named *n, ldc_addr *a) {
    char ip[INET6_ADDRSTRLEN], text[INET6_ADDRSTRLEN + 16];
    bool six = n->u.any.sa_family == AF_INET6;
    memset(&a->u, 0, sizeof a->u);
    memcpy(&a->u, &n->u, n->len);
    a->len = n->len;
    if (!inet_ntop(n->u.any.sa_family,
                   six ? (const void *)&n->u.v6.sin6_addr : (const void *)&n->u.v4.sin_addr, ip,
                   sizeof ip))
        return false;
    snprintf(text, sizeof text, six ? "[%s]:%u" : "%s:%u", ip,
             (unsigned)ntohs(six ? n->u.v6.sin6_port : n->u.v4.sin_port));
    a->text = ldc_arena_copy(&c->arena, text, strlen(text));
    return a->text != NULL;
}

/* One group's list anew: every name is replaced by all its addresses, each of them once. */
static bool ldc_reload_replace_names(ldc_conf *c, int group, const ldc_named *said, size_t count) {
    ldc_gconf *g = &c->group[group];
    ldc_addr *list =
        (ldc_addr *)ldc_arena_take(&c->arena, (count + (size_t)g->addrs) * sizeof *list);
    int n = 0;
    if (list == NULL) return false;
    for (int k = 0; k < g->addrs; k++) {
        if (g->addr[k].u.any.sa_family != AF_UNSPEC) {
            list[n++] = g->addr[k];
            continue;
        }
        for (size_t i = 0; i < count; i++) {
            bool again = false;
            if (said[i].group != group || said[i].at != k) continue;
            list[n].at = g->addr[k].at;
            list[n].mode = 0;
            if (!ldc_reload_numeric(c, &said[i], &list[n])) return false;
            for (int j = 0; j < n; j++) again = again || ldc_conf_same_addr(&list[j], &list[n]);
            if (!again) n++;
        }
    }
    g->addr = list;
    g->addrs = n;
    g->names = 0;
    return true;
}

/* The child was not done in time. It takes the names in order, so it hung at the first left out. */
static void ldc_reload_nameless(const ldc_conf *c, const ldc_named *said, size_t count,
                                ldc_text *error) {
    for (int i = 0; i < c->groups; i++) {
        for (int k = 0; k < c->group[i].addrs; k++) {
            const ldc_addr *a = &c->group[i].addr[k];
            bool heard = a->u.any.sa_family != AF_UNSPEC;
            char text[400];
            for (size_t n = 0; n < count; n++)
                heard = heard || (said[n].group == i && said[n].at == k);
            if (heard) continue;
            snprintf(text, sizeof text, "`%.200s` was not resolved within %ds", a->text,
                     LDC_NAMES_SECONDS);
            ldc_conf_note(error, &a->at, text, "see to the resolver, or write its address");
            return;
        }
    }
    ldc_text_add(error, "the child that resolves names ended too early\n");
}

/* Puts what the child said into the configuration that waits for it. False and *error. */
static bool ldc_reload_named(ldc_conf *c, const ldc_text *t, ldc_text *error) {
    size_t count = t->n / sizeof(ldc_named);
    const ldc_named *said = (const ldc_named *)(const void *)t->p;
    for (size_t i = 0; i < count; i++) {
        if (said[i].group >= 0 && said[i].len == 0) {
            const ldc_addr *a = &c->group[said[i].group].addr[said[i].at];
            char text[400];
            snprintf(text, sizeof text, "cannot resolve `%.200s`: %.63s", a->text, said[i].why);
            ldc_conf_note(error, &a->at, text, "check the name, or write its address");
        }
    }
    if (error->n) return false;
    if (t->failed) {
        ldc_text_add(error, "out of memory\n");
        return false;
    }
    if (count == 0 || said[count - 1].group != -1) {
        ldc_reload_nameless(c, said, count, error);
        return false;
    }
    for (int i = 0; i < c->groups; i++) {
        if (c->group[i].names && !ldc_reload_replace_names(c, i, said, count - 1)) {
            ldc_text_add(error, "out of memory\n");
            return false;
        }
    }
    return true;
}

/* 1 more may come, 0 it has ended. */
static int ldc_reload_hear(ldc_text *t, int fd) {
    ldc_named block[8];
    for (;;) {
        ssize_t n = ldc_util_read(fd, block, sizeof block);
        if (n < 0 && ldc_util_again()) return 1;
        if (n <= 0) return 0;
        ldc_text_put(t, (const char *)block, (size_t)n);
    }
}

/* At the start nothing is served yet, so we wait. */
static bool ldc_reload_resolve(ldcorn *l, ldc_conf *c, ldc_text *error) {
    ldc_text said;
    struct pollfd p;
    pid_t pid;
    bool ok;
    if (ldc_reload_names(c) == 0) return true;
    memset(&p, 0, sizeof p);
    pid = ldc_proc_helper(l, &p.fd);
    if (pid == 0) ldc_reload_ask_all(c);
    if (pid < 0) {
        ldc_text_fmt(error, "cannot start a child that resolves names: %s\n", strerror(errno));
        return false;
    }
    ldc_text_init(&said, &l->mem);
    p.events = POLLIN;
    while (ldc_reload_hear(&said, p.fd)) {
        int r = poll(&p, 1, LDC_NAMES_SECONDS * 1000 + 1000);
        if (r == 0 || (r < 0 && errno != EINTR)) break;
    }
    close(p.fd);
    kill(pid, SIGKILL);
    ldc_util_wait(pid, NULL, 0);
    ok = ldc_reload_named(c, &said, error);
    ldc_text_free(&said);
    return ok;
}

static void ldc_reload_unresolve(ldcorn *l) { /* nobody waits for the child any more */
    if (!l->reload.asking) return;
    l->reload.asking = false;
    ldc_loop_close(l, &l->reload.names);
    ldc_text_free(&l->reload.said);
    ldc_proc_dismiss(l, &l->reload.resolver);
}

static bool ldc_reload_room(ldcorn *l, const ldc_conf *conf) {
    size_t n = (size_t)conf->s.max_header;
    char *p;
    if (n <= l->path_cap) return true;
    p = (char *)ldc_mem_resize(&l->mem, l->path_room, l->path_cap, n);
    if (p == NULL) return false;
    l->path_room = p;
    l->path_cap = n;
    return true;
}

/* The file is read and its names are known: addresses are bound, candidates start. */
static void ldc_reload_load(ldcorn *l) {
    ldc_reload *r = &l->reload;
    const ldc_addr *bad = NULL;
    char text[PATH_MAX + 128];
    int e, count = 0;
    bool ok = true;
    e = ldc_reload_listen(l, r->conf, NULL, &bad);
    if (e) {
        ldc_text note;
        ldc_text_init(&note, &l->mem);
        snprintf(text, sizeof text, "cannot listen on %s: %s", bad->text,
                 ldc_reload_listen_error(bad, e));
        ldc_conf_note(&note, &bad->at, text, "the old addresses stay");
        ldc_reload_undo(l, note.p ? note.p : text, note.p ? note.n : strlen(text));
        ldc_text_free(&note);
        return;
    }
    if (!ldc_reload_watcher(l, r->conf, &r->watcher, &r->watch_fd)) r->watcher = 0;
    for (int i = 0; i < r->conf->groups && ok; i++)
        ok = ldc_reload_candidates(l, r->conf, &r->conf->group[i], &count);
    if (!ok || !ldc_reload_room(l, r->conf)) {
        ldc_reload_undo(l, "out of memory", 13);
        return;
    }
    ldc_reload_set(l, LDC_RELOAD_STARTING);
    l->upset = true;
}

static void ldc_reload_look_up(ldcorn *l) {
    ldc_reload *r = &l->reload;
    int fd = -1;
    ldc_text_init(&r->said, &l->mem);
    r->resolver = ldc_proc_helper(l, &fd);
    if (r->resolver == 0) ldc_reload_ask_all(r->conf);
    r->asking = r->resolver > 0 && ldc_loop_open(l, &r->names, fd, LDC_KIND_NAMES, POLLIN);
    if (!r->asking) {
        if (fd >= 0) close(fd);
        ldc_reload_undo(l, "cannot start a child that resolves names", 40);
    }
}

static void ldc_reload_answered(ldcorn *l) { /* or its time is up */
    ldc_reload *r = &l->reload;
    ldc_text error;
    bool ok;
    ldc_text_init(&error, &l->mem);
    ok = ldc_reload_named(r->conf, &r->said, &error);
    ldc_reload_unresolve(l);
    if (ok)
        ldc_reload_load(l);
    else
        ldc_reload_undo(l, error.p ? error.p : "out of memory", error.p ? error.n : 13);
    ldc_text_free(&error);
}

static void ldc_reload_heard(ldcorn *l) {
    ldc_loop_progress(&l->reload.names);
    if (!ldc_reload_hear(&l->reload.said, l->reload.names.fd)) ldc_reload_answered(l);
}

/* What a running process cannot change. True: the reload is over. */
static bool ldc_reload_fixed(ldcorn *l, int id, const char *now, const char *before) {
    ldc_reload *r = &l->reload;
    const char *name = ldc_conf_keys[id].name;
    ldc_text note;
    char text[80];
    if (now == before || (now && before && strcmp(now, before) == 0)) return false;
    ldc_text_init(&note, &l->mem);
    snprintf(text, sizeof text, "`%s` cannot change at a reload", name);
    ldc_conf_note(&note, ldc_conf_at(r->conf->globals, id), text, "restart ldcorn");
    ldc_reload_undo(l, note.p ? note.p : "", note.n);
    ldc_text_free(&note);
    return true;
}

/* No other one may begin now. Dirty: the last one's pipe is still to be closed. */
static bool ldc_reload_waits(const ldcorn *l) {
    return ldc_reload_busy(l) || l->reload.names.dirty;
}

/* The number that a reload has which is asked for now: whoever waits for its result knows it by that. */
static uint32_t ldc_reload_ticket(const ldcorn *l) {
    return l->reload.again ? l->reload.again_ticket : l->reload.tickets + 1;
}

static void ldc_reload_start(ldcorn *l, bool keep, uint32_t ticket) {
    ldc_reload *r = &l->reload;
    ldcorn_error error;
    if (l->life != LDC_LIFE_RUN) return;
    ldc_reload_set(l, LDC_RELOAD_LOADING);
    r->ticket = ticket;
    r->began = l->now;
    r->keep = keep;
    ldc_turn_notify_reload(l, true);
    r->conf = ldc_conf_read(&l->mem, &l->desc, &l->home, &error, NULL);
    if (r->conf == NULL) {
        char *last = strstr(error.text, ", nothing started");
        if (last) memcpy(last, ", nothing changed", 17);
        ldc_reload_undo(l, error.text, strlen(error.text));
        return;
    }
    if (ldc_reload_fixed(l, LDC_KEY_runtime_dir, r->conf->s.runtime_dir, l->conf->s.runtime_dir) ||
        ldc_reload_fixed(l, LDC_KEY_pid_file, r->conf->s.pid_file, l->conf->s.pid_file) ||
        ldc_reload_fixed(l, LDC_KEY_run_as, r->conf->s.run_as, l->conf->s.run_as))
        return;
    if (ldc_reload_names(r->conf)) {
        ldc_reload_look_up(l);
        return;
    }
    ldc_reload_load(l);
}

/* At most one is under way, and one more may wait for it. */
static void ldc_reload_begin(ldcorn *l, bool keep) {
    ldc_reload *r = &l->reload;
    if (!ldc_reload_waits(l)) {
        ldc_reload_start(l, keep, ++r->tickets);
        return;
    }
    l->upset = true;
    if (!r->again) r->again_ticket = ++r->tickets;
    r->again_keep = r->again ? r->again_keep && keep : keep;
    r->again = true;
}

/* As ldc_reload_ticket, of a restart of the group. */
static uint32_t ldc_reload_restart_ticket(const ldcorn *l, const ldc_group *g) {
    return g->ticket ? g->ticket : l->reload.tickets + 1;
}

/* New workers for one group, in its own way, with the configuration in force; when that can be, if a
   reload is under way. */
static void ldc_reload_restart(ldcorn *l, ldc_group *g) {
    ldc_reload *r = &l->reload;
    int count = 0;
    bool ok = true;
    if (g->ticket == 0) g->ticket = ++r->tickets;
    if (ldc_reload_waits(l)) {
        g->changed = l->upset = true;
        return;
    }
    if (l->life != LDC_LIFE_RUN) return;
    ldc_reload_set(l, LDC_RELOAD_LOADING);
    r->ticket = g->ticket;
    g->ticket = 0;
    r->began = l->now;
    r->keep = false;
    r->only = g;
    r->conf = l->conf;
    r->conf->refs++;
    for (int i = 0; i < r->conf->groups && ok; i++)
        ok = ldc_reload_candidates(l, r->conf, &r->conf->group[i], &count);
    if (!ok) {
        ldc_reload_undo(l, "out of memory", 13);
        return;
    }
    ldc_reload_set(l, LDC_RELOAD_STARTING);
    l->upset = true;
}

/* --- watch: a child looks at the files, so that a slow disk never holds up the loop --- */

enum { LDC_WATCH_MS = 300, LDC_WATCH_DEPTH = 32, LDC_WATCH_OWN = 64, LDC_WATCH_FILES = 200000 };

typedef struct ldc_changed {
    int group;
    char path[240];
} ldc_changed;

typedef struct ldc_inode {
    dev_t device;
    ino_t inode;
} ldc_inode;

typedef struct ldc_scan { /* what a look at all files of a group came to */
    uint64_t sum, newest;
    char path[240];
    ldc_inode above[LDC_WATCH_DEPTH]; /* directories on the way: a link may lead back */
    ldc_inode own[LDC_WATCH_OWN];     /* our logs and the workers' */
    int owns, left;                   /* files that may still be looked at */
} ldc_scan;

static bool ldc_reload_among(const ldc_inode *list, int n, const struct stat *st) {
    for (int i = 0; i < n; i++) {
        if (list[i].device == st->st_dev && list[i].inode == st->st_ino) return true;
    }
    return false;
}

static void ldc_reload_own_log(ldc_scan *scan, int fd, const char *path) {
    struct stat st;
    if (scan->owns == LDC_WATCH_OWN || (path ? stat(path, &st) : fstat(fd, &st)) < 0) return;
    scan->own[scan->owns].device = st.st_dev;
    scan->own[scan->owns++].inode = st.st_ino;
}

/* What editors and interpreters leave beside the files that count. */
static bool ldc_reload_unwatched(const char *name) {
    static const char *const ends[] = {"~", ".pyc", ".swp", ".tmp"};
    size_t n = strlen(name);
    if (name[0] == '.' || strcmp(name, "__pycache__") == 0 || strcmp(name, "node_modules") == 0)
        return true;
    for (size_t i = 0; i < LDC_LEN(ends); i++) {
        size_t k = strlen(ends[i]);
        if (n > k && strcmp(name + n - k, ends[i]) == 0) return true;
    }
    return false;
}

static void ldc_reload_scan(ldc_scan *scan, const char *path, int depth) {
    struct stat st;
    struct dirent *entry;
    DIR *d;
    uint64_t what[4], at;
    if (scan->left-- <= 0 || stat(path, &st) < 0 || ldc_reload_among(scan->own, scan->owns, &st) ||
        (S_ISDIR(st.st_mode) && ldc_reload_among(scan->above, depth, &st)))
        return;
    at = (uint64_t)st.st_mtime * 1000000000U;
#if defined(__APPLE__)
    at += (uint64_t)st.st_mtimespec.tv_nsec;
#elif defined(st_mtime) /* POSIX 2008 has it in nanoseconds */
    at += (uint64_t)st.st_mtim.tv_nsec;
#endif
    if (S_ISDIR(st.st_mode)) {
        d = depth < LDC_WATCH_DEPTH ? opendir(path) : NULL;
        if (d) {
            scan->above[depth].device = st.st_dev;
            scan->above[depth].inode = st.st_ino;
        }
        while (d && (entry = readdir(d)) != NULL) {
            char below[PATH_MAX];
            if (ldc_reload_unwatched(entry->d_name)) continue;
            if (snprintf(below, sizeof below, "%s/%s", path, entry->d_name) < (int)sizeof below)
                ldc_reload_scan(scan, below, depth + 1);
        }
        if (d) closedir(d);
        return;
    }
    what[0] = at;
    what[1] = (uint64_t)st.st_size;
    what[2] = (uint64_t)st.st_ino;
    what[3] = ldc_util_fnv(path, strlen(path), 14695981039346656037ULL);
    scan->sum += ldc_util_fnv(what, sizeof what, 14695981039346656037ULL); /* in any order */
    if (at < scan->newest) return;
    scan->newest = at;
    snprintf(scan->path, sizeof scan->path, "%.*s", (int)sizeof scan->path - 1, path);
}

/* Each line of a log in a watched directory would be a change, which is logged. */
static ldc_scan ldc_reload_look(const ldc_conf *c, const ldc_gconf *g) {
    ldc_scan scan;
    memset(&scan, 0, sizeof scan);
    scan.left = g->s.watch ? LDC_WATCH_FILES : 0;
    for (int fd = 1; fd < 3 && scan.left; fd++) ldc_reload_own_log(&scan, fd, NULL);
    if (scan.left) ldc_reload_own_log(&scan, -1, c->s.log);
    if (scan.left) ldc_reload_own_log(&scan, -1, c->s.access_log);
    for (int i = 0; i < c->groups && scan.left; i++)
        ldc_reload_own_log(&scan, -1, c->group[i].log_path);
    for (const char *const *path = g->s.watch; path && *path; path++)
        ldc_reload_scan(&scan, *path, 0);
    return scan;
}

/* The child: tells of a change when two looks at it agree, so that it is complete. */
static void ldc_reload_watch_all(const ldc_conf *c, pid_t parent) {
    uint64_t *known = (uint64_t *)calloc((size_t)c->groups * 2, sizeof *known), *last;
    struct timespec pause;
    if (known == NULL) _exit(1);
    last = known + c->groups;
    for (int i = 0; i < c->groups; i++) known[i] = last[i] = ldc_reload_look(c, &c->group[i]).sum;
    for (;;) {
        memset(&pause, 0, sizeof pause);
        pause.tv_nsec = LDC_WATCH_MS * 1000000L;
        nanosleep(&pause, NULL);
        if (getppid() != parent) _exit(0);
        for (int i = 0; i < c->groups; i++) {
            ldc_scan scan;
            ldc_changed change;
            if (c->group[i].s.watch == NULL) continue;
            scan = ldc_reload_look(c, &c->group[i]);
            if (scan.sum != known[i] && scan.sum == last[i]) {
                memset(&change, 0, sizeof change);
                change.group = i;
                snprintf(change.path, sizeof change.path, "%s", scan.path);
                known[i] = scan.sum;
                if (ldc_util_write(3, &change, sizeof change) != (ssize_t)sizeof change) _exit(0);
            }
            last[i] = scan.sum;
        }
    }
}

/* A child that watches what `c` names, if it names something. False: it cannot be had. */
static bool ldc_reload_watcher(ldcorn *l, const ldc_conf *c, pid_t *pid, int *fd) {
    bool any = false;
    pid_t parent = getpid();
    *pid = 0;
    for (int i = 0; i < c->groups; i++) any = any || c->group[i].s.watch;
    if (!any || l->life != LDC_LIFE_RUN) return true;
    *pid = ldc_proc_helper(l, fd);
    if (*pid == 0) ldc_reload_watch_all(c, parent);
    return *pid > 0;
}

static void ldc_reload_unwatch(ldcorn *l) {
    if (!l->watching) return;
    l->watching = false;
    ldc_loop_close(l, &l->watcher);
    ldc_proc_dismiss(l, &l->watcher_pid);
}

/* The one that a reload has started is not needed. */
static void ldc_reload_unwatch_next(ldcorn *l) {
    if (l->reload.watcher) close(l->reload.watch_fd);
    ldc_proc_dismiss(l, &l->reload.watcher);
}

/* After each switch by the child that was started before it. The old pipe is closed by the end of
   the turn. */
static void ldc_reload_watch(ldcorn *l) {
    int fd = l->reload.watch_fd;
    bool ok = true;
    ldc_reload_unwatch(l);
    if (l->watcher.dirty) return;
    l->watch_due = false;
    l->watcher_pid = l->reload.watcher;
    l->reload.watcher = 0;
    if (l->watcher_pid == 0) ok = ldc_reload_watcher(l, l->conf, &l->watcher_pid, &fd);
    if (ok && l->watcher_pid == 0) return;
    l->watching = ok && ldc_loop_open(l, &l->watcher, fd, LDC_KIND_WATCHER, POLLIN);
    if (l->watching) return;
    if (ok) close(fd);
    ldc_proc_dismiss(l, &l->watcher_pid);
    ldc_log_say(&l->log, LDCORN_LOG_ERROR, "cannot start the child that watches files: %s",
                strerror(errno));
}

static void ldc_reload_changes(ldcorn *l) {
    ldc_changed change;
    ssize_t n;
    for (;;) {
        n = ldc_util_read(l->watcher.fd, &change, sizeof change);
        if (n < 0 && ldc_util_again()) return;
        if (n != (ssize_t)sizeof change) break;
        ldc_loop_progress(&l->watcher);
        for (ldc_group *g = l->groups; g; g = g->next) {
            if (g->hidden || g->conf != &l->conf->group[change.group]) continue;
            g->changed = l->upset = true;
            ldc_log_say(&l->log, LDCORN_LOG_INFO, "%s: %.*s changed", g->name,
                        (int)sizeof change.path, change.path);
        }
    }
    ldc_log_say(&l->log, LDCORN_LOG_WARN,
                "the child that watches files has ended; a reload starts it again");
    ldc_reload_unwatch(l);
}

/* Called when some worker changed its state. */
static void ldc_reload_advance(ldcorn *l) {
    if (l->reload.state == LDC_RELOAD_STARTING) {
        bool all = true;
        for (ldc_group *g = l->groups; g; g = g->next) {
            for (ldc_worker *w = g->workers; w; w = w->next)
                all = all && (!w->candidate || w->state == LDC_PROC_READY ||
                              (w->foreign && w->state != LDC_PROC_STARTING));
        }
        if (all) ldc_reload_switch(l);
    }
    if (l->reload.state == LDC_RELOAD_SWITCHED) {
        ldc_reload_rolled(l);
    } else if (l->reload.again && !ldc_reload_waits(l)) {
        l->reload.again = false;
        ldc_reload_start(l, l->reload.again_keep, l->reload.again_ticket);
    }
    for (ldc_group *g = l->groups; g && !ldc_reload_waits(l); g = g->next) {
        if (!g->changed) continue;
        g->changed = false;
        if (!g->removed) ldc_reload_restart(l, g);
    }
}

/* Removed groups take nothing new, serve their queue, and go when nothing is left of them and no
   reload wants them back. */
static void ldc_reload_sweep(ldcorn *l) {
    for (ldc_group **at = &l->groups; *at;) {
        ldc_group *g = *at;
        bool used = g->queued > 0;
        const ldc_conf *next = l->reload.conf;
        if (!g->removed) {
            at = &g->next;
            continue;
        }
        for (ldc_exchange *e = l->exchanges; e; e = e->next)
            used = used || (e->group == g && e->collecting);
        for (ldc_worker *w = g->workers; w && !used; w = w->next) {
            if (!w->replaced && !w->candidate) ldc_reload_retire(l, w, "reload");
        }
        for (ldc_exchange *e = l->exchanges; e; e = e->next) used = used || e->group == g;
        g->rolling = false;
        if (used || g->workers || (next && ldc_conf_find(next, ldc_util_z(g->name)))) {
            at = &g->next;
            continue;
        }
        *at = g->next;
        ldc_reload_free_group(l, g);
    }
}

/* @admin ------------------------------------------------------------------------------------
   Status, metrics, control. Answers are built whole and sent like any other local answer. Owns
   nothing. */

static void ldc_admin_routes_json(ldcorn *l, ldc_text *t, const ldc_group *g) {
    int n = 0;
    ldc_text_add(t, "[");
    for (int i = 0; i < l->conf->routes; i++) {
        if (strcmp(l->conf->group[l->conf->route[i].group].name, g->name) != 0) continue;
        if (n++) ldc_text_add(t, ",");
        ldc_text_json(t, ldc_util_z(l->conf->route[i].said));
    }
    ldc_text_add(t, "]");
}

/* Resident bytes of a process, 0 where nobody tells. */
static uint64_t ldc_admin_rss(pid_t pid) {
    uint64_t pages = 0;
#ifdef __linux__
    char path[64], text[128];
    char *blank;
    snprintf(path, sizeof path, "/proc/%ld/statm", (long)pid);
    if (pid <= 0 || ldc_util_small(path, text, sizeof text) == 0) return 0;
    blank = strchr(text, ' ');
    if (blank) pages = strtoull(blank + 1, NULL, 10);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
#else
    (void)pid;
    return pages;
#endif
}

/* Upper edge in ms of the bucket that holds the p-th part of all. */
static double ldc_admin_percentile(const ldc_histogram *h, double p) {
    static const double edges[LDC_BUCKETS] = {1,    5,    10,   25,    50,    100,   250,  500,
                                              1000, 2500, 5000, 10000, 30000, 60000, 60000};
    uint64_t seen = 0, want = (uint64_t)((double)h->count * p);
    for (int i = 0; i < LDC_BUCKETS; i++) {
        seen += h->bucket[i];
        if (seen > want) return edges[i];
    }
    return 0;
}

static void ldc_admin_latency(ldc_text *t, const char *name, const ldc_histogram *h,
                              const char *after) {
    ldc_text_fmt(
        t, "\"%s\":{\"count\":%llu,\"sum_ms\":%.3f,\"mean_ms\":%.3f,\"p50_ms\":%g,\"p99_ms\":%g}%s",
        name, (unsigned long long)h->count, (double)h->sum / 1000,
        h->count ? (double)h->sum / (double)h->count / 1000 : 0.0, ldc_admin_percentile(h, .5),
        ldc_admin_percentile(h, .99), after);
}

/* As it is shown: without a connection nobody who dials in is ready. */
static ldc_proc_state ldc_admin_state(const ldc_worker *w) {
    bool away = w->state == LDC_PROC_READY && !ldc_group_staffed(w);
    return w->candidate || away ? LDC_PROC_STARTING : (ldc_proc_state)w->state;
}

static void ldc_admin_worker(ldcorn *l, ldc_text *t, const ldc_worker *w) {
    size_t from = w->tail_old < w->tail_n ? w->tail_old : w->tail_before;
    ldc_str rest = ldc_util_str(w->tail + from, w->tail_n - from), line; /* or what was last */
    char span[24];
    unsigned ago;
    ldc_text_fmt(
        t,
        "{\"index\":%d,\"pid\":%ld,\"state\":\"%s\",\"paused\":%s,\"generation\":%d,\"in_flight\":%d,\"tunnels\":%d,\"connections\":%d,\"served\":%llu,\"rss\":%llu,\"uptime\":%.3f,\"since\":%.3f,\"last_exit\":",
        w->index, (long)w->pid, ldc_proc_words[ldc_admin_state(w)], w->paused ? "true" : "false",
        w->generation, w->in_flight, w->tunnels, w->conns, (unsigned long long)w->served,
        (unsigned long long)ldc_admin_rss(w->pid),
        w->pid || w->foreign ? ldc_proc_seconds(l->now - w->started) : 0.0,
        ldc_proc_seconds(l->now - w->since));
    if (w->last_exit[0])
        ldc_text_json(t, ldc_util_z(w->last_exit));
    else
        ldc_text_add(t, "null");
    if (w->last_exit_at)
        ldc_text_fmt(t, ",\"last_exit_ago\":%.3f", ldc_proc_seconds(l->now - w->last_exit_at));
    ldc_text_add(t, ",\"last_inside\":");
    ldc_text_json(t, ldc_util_z(w->inside));
    ldc_text_add(t, ",\"last_lines\":\"");
    while (ldc_proc_recall(l, &rest, &line, &ago)) {
        if (ago) ldc_text_fmt(t, "(%s ago) ", ldc_util_span((uint64_t)ago * 1000, span));
        ldc_text_json_part(t, line);
        ldc_text_add(t, "\\n");
    }
    ldc_text_add(t, "\"");
    if (w->foreign) {
        ldc_text_add(t, ",\"address\":");
        ldc_text_json(t, ldc_util_z(w->addr.text));
    }
    ldc_text_add(t, "}");
}

static const ldc_why ldc_admin_refusals[] = {
    LDC_WHY_FULL, LDC_WHY_TIMEOUT,      LDC_WHY_CLIENT_GONE, LDC_WHY_NO_WORKER,
    LDC_WHY_RATE, LDC_WHY_CLIENT_LIMIT, LDC_WHY_MEMORY,      LDC_WHY_SLOW};

/* Of statuses; 600 and more are `other`. */
static const char *const ldc_admin_classes[] = {"other", "1xx", "2xx", "3xx", "4xx", "5xx"};

/* How many of each reason, those that occurred. Neighbours in the table may have one word. */
static void ldc_admin_failures(ldc_text *t, const uint64_t *count) {
    int n = 0;
    ldc_text_add(t, "{");
    for (int i = 1; i < LDC_WHYS; i++) {
        uint64_t sum = count[i];
        if (i + 1 < LDC_WHYS && strcmp(ldc_log_reasons[i].word, ldc_log_reasons[i + 1].word) == 0)
            sum += count[++i];
        if (sum)
            ldc_text_fmt(t, "%s\"%s\":%llu", n++ ? "," : "", ldc_log_reasons[i].word,
                         (unsigned long long)sum);
    }
    ldc_text_add(t, "}");
}

static void ldc_admin_group(ldcorn *l, ldc_text *t, const ldc_group *g) {
    int n = 0;
    ldc_text_add(t, "{\"name\":");
    ldc_text_json(t, ldc_util_z(g->name));
    ldc_text_add(t, ",\"routes\":");
    ldc_admin_routes_json(l, t, g);
    ldc_text_fmt(t, ",\"source\":\"%s\"",
                 g->conf->source == LDC_FROM_DIAL   ? "dial_in"
                 : g->conf->source == LDC_FROM_LIST ? "upstream"
                                                    : "processes");
    ldc_text_fmt(t, ",\"queue\":{\"len\":%d,\"cap\":%lld,\"oldest_ms\":%llu,\"timeout_ms\":%lld}",
                 g->queued, (long long)g->conf->s.queue,
                 (unsigned long long)(g->head ? (l->now - g->head->queued) / 1000 : 0),
                 (long long)g->conf->s.queue_timeout);
    ldc_text_fmt(t, ",\"in_flight\":%d,\"slots\":%lld,\"orphans\":%d,\"limit\":%lld,\"refused\":{",
                 ldc_group_inside(g), (long long)ldc_group_slots(g), g->orphans,
                 (long long)(g->conf->source == LDC_FROM_DIAL ? 1
                             : g->conf->limited               ? g->conf->s.max_req_per_worker
                                                              : 0));
    for (size_t i = 0; i < LDC_LEN(ldc_admin_refusals); i++)
        ldc_text_fmt(t, "%s\"%s\":%llu", i ? "," : "", ldc_log_reasons[ldc_admin_refusals[i]].word,
                     (unsigned long long)g->refused[ldc_admin_refusals[i]]);
    ldc_text_add(t, "},\"failures\":");
    ldc_admin_failures(t, g->refused);
    ldc_text_fmt(t, ",\"restarts\":%llu,\"paused\":%s,\"balance\":\"%s\",\"workers_wanted\":%d",
                 (unsigned long long)g->restarts, g->paused ? "true" : "false", g->conf->s.balance,
                 ldc_proc_wanted(g, g->conf));
    ldc_text_add(t, ",\"requests\":{");
    for (int i = 0; i < 6; i++)
        ldc_text_fmt(t, "%s\"%s\":%llu", i ? "," : "", ldc_admin_classes[i],
                     (unsigned long long)g->requests[i]);
    ldc_text_add(t, "},\"latency\":{");
    ldc_admin_latency(t, "total", &g->total, ",");
    ldc_admin_latency(t, "queue", &g->wait, ",");
    ldc_admin_latency(t, "worker", &g->worker, "},\"workers\":[");
    for (const ldc_worker *w = g->workers; w; w = w->next) {
        if (w->state == LDC_PROC_GONE) continue;
        if (n++) ldc_text_add(t, ",");
        ldc_admin_worker(l, t, w);
    }
    ldc_text_add(t, "]}");
}

static double ldc_admin_cpu(void) { /* seconds of processor that this process has used */
    struct rusage u;
    if (getrusage(RUSAGE_SELF, &u) < 0) return 0;
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void ldc_admin_server(ldcorn *l, ldc_text *t) {
    const ldc_reload *r = &l->reload;
    int idle = 0;
    for (const ldc_client *c = l->idle.old; c; c = c->newer) idle++;
    ldc_text_fmt(
        t,
        "{\"version\":\"%s\",\"pid\":%ld,\"generation\":%d,\"uptime\":%.3f,\"stopping\":%s,\"clients\":{\"open\":%d,\"idle\":%d,\"limit\":%d},\"accepted\":%llu,\"last_reload\":",
        LDCORN_VERSION, (long)getpid(), l->generation, ldc_proc_seconds(l->now - l->began),
        l->life == LDC_LIFE_RUN ? "false" : "true", l->clients_count, idle, l->conns_max,
        (unsigned long long)l->accepted);
    if (r->result[0]) {
        ldc_text_fmt(t, "{\"result\":\"%s\",\"error\":", r->result);
        if (strcmp(r->result, "ok") != 0)
            ldc_text_json(t, ldc_util_str(r->error.p, r->error.n));
        else
            ldc_text_add(t, "null");
        ldc_text_fmt(t, ",\"at\":%llu,\"ms\":%llu}", (unsigned long long)r->at,
                     (unsigned long long)r->took);
    } else {
        ldc_text_add(t, "null");
    }
    ldc_text_add(t, ",\"failures\":");
    ldc_admin_failures(t, l->refusals);
    ldc_text_fmt(t,
                 ",\"log_dropped\":{\"lines\":%llu,\"why\":", (unsigned long long)l->log.dropped);
    ldc_text_json(t, ldc_util_z(l->log.dropped == 0 ? ""
                                : l->log.error      ? strerror(l->log.error)
                                                    : "the target was too slow"));
    ldc_text_fmt(t, "},\"cpu\":%.3f,\"reloading\":%s,\"groups\":[", ldc_admin_cpu(),
                 ldc_reload_busy(l) ? "true" : "false");
}

/* The part of /status for a group; NULL: what stands before the first. False: there is no such part. */
static bool ldc_admin_status(ldcorn *l, ldc_text *t, int part, const ldc_group *g) {
    if (part > 0) {
        if (part == 1 && g == NULL) ldc_text_add(t, "]}\n");
        return part == 1 && g == NULL;
    }
    if (g == NULL) {
        ldc_admin_server(l, t);
        return true;
    }
    if (t->p[t->n - 1] != '[') ldc_text_add(t, ",");
    ldc_admin_group(l, t, g);
    return true;
}

static const char *ldc_admin_phase(const ldc_exchange *e) {
    if (e->client == NULL) return "orphan";
    if (e->waiting) return "queued";
    if (e->client->state == LDC_CLIENT_TUNNEL) return "tunnel";
    if (e->up == NULL) return "sending";
    return e->up->state == LDC_UP_CONNECT ? "connect" : e->got_head ? "answer" : "worker";
}

static void ldc_admin_requests(ldcorn *l, ldc_text *t) {
    int n = 0;
    ldc_text_add(t, "[");
    for (const ldc_exchange *e = l->exchanges; e; e = e->next) {
        if (e->client && e->client->admin) continue;
        ldc_text_fmt(t, "%s{\"id\":\"%s\",\"group\":", n++ ? "," : "", e->id);
        ldc_text_json(t, ldc_util_z(e->group ? e->group->name : ""));
        ldc_text_fmt(t, ",\"worker\":%d,\"pid\":%ld,\"phase\":\"%s\",\"age_ms\":%llu,\"client\":",
                     e->worker_index, (long)e->worker_pid, ldc_admin_phase(e),
                     (unsigned long long)((l->now - e->arrived) / 1000));
        ldc_text_json(t, ldc_util_z(e->address));
        ldc_text_add(t, ",\"method\":");
        ldc_text_json(t, ldc_client_word(e, 0));
        ldc_text_add(t, ",\"target\":");
        ldc_text_json(t, ldc_client_word(e, 1));
        ldc_text_add(t, "}");
    }
    ldc_text_add(t, "]\n");
}

/* --- metrics (Prometheus text format) --- */

static void ldc_admin_type(ldc_text *t, const char *name, const char *type, const char *help) {
    ldc_text_fmt(t, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

typedef struct ldc_times { /* a histogram per group */
    const char *name, *help;
    size_t offset;
} ldc_times;

static const ldc_times ldc_admin_times[] = {
    {"ldcorn_request_seconds", "whole time of a request", offsetof(ldc_group, total)},
    {"ldcorn_worker_seconds", "time inside the worker", offsetof(ldc_group, worker)},
    {"ldcorn_queue_seconds", "time in the queue", offsetof(ldc_group, wait)}};

static void ldc_admin_histogram(ldc_text *t, const ldc_times *of, const ldc_group *g) {
    static const char *const edges[LDC_BUCKETS] = {"0.001", "0.005", "0.01", "0.025", "0.05",
                                                   "0.1",   "0.25",  "0.5",  "1",     "2.5",
                                                   "5",     "10",    "30",   "60",    "+Inf"};
    const ldc_histogram *h =
        (const ldc_histogram *)(const void *)((const char *)g + (g ? of->offset : 0));
    uint64_t sum = 0;
    if (g == NULL) {
        ldc_admin_type(t, of->name, "histogram", of->help);
        return;
    }
    for (int i = 0; i < LDC_BUCKETS; i++) {
        sum += h->bucket[i];
        ldc_text_fmt(t, "%s_bucket{group=\"%s\",le=\"%s\"} %llu\n", of->name, g->name, edges[i],
                     (unsigned long long)sum);
    }
    ldc_text_fmt(t, "%s_sum{group=\"%s\"} %.6f\n%s_count{group=\"%s\"} %llu\n", of->name, g->name,
                 (double)h->sum / 1e6, of->name, g->name, (unsigned long long)h->count);
}

static void ldc_admin_gauge(ldc_text *t, const char *name, const char *type, const char *help,
                            double value) {
    ldc_admin_type(t, name, type, help);
    ldc_text_fmt(t, "%s %.17g\n", name, value);
}

static int64_t ldc_admin_tunnels(const ldc_group *g) {
    int64_t n = 0;
    for (const ldc_worker *w = g->workers; w; w = w->next) n += w->tunnels;
    return n;
}

typedef struct ldc_figure { /* one number per group */
    const char *name, *type, *help;
    int64_t (*value)(const ldc_group *);
} ldc_figure;

static int64_t ldc_admin_queued(const ldc_group *g) { return g->queued; }
static int64_t ldc_admin_cap(const ldc_group *g) { return g->conf->s.queue; }
static int64_t ldc_admin_forced(const ldc_group *g) { return (int64_t)g->forced; }
static int64_t ldc_admin_inside(const ldc_group *g) { return ldc_group_inside(g); }
static int64_t ldc_admin_orphans(const ldc_group *g) { return g->orphans; }
static int64_t ldc_admin_retries(const ldc_group *g) { return (int64_t)g->retries; }

static const ldc_figure ldc_admin_figures[] = {
    {"ldcorn_queue_length", "gauge", "requests waiting", ldc_admin_queued},
    {"ldcorn_queue_limit", "gauge", "requests that may wait", ldc_admin_cap},
    {"ldcorn_slots", "gauge", "requests that fit into the ready workers, 0 without a limit",
     ldc_group_slots},
    {"ldcorn_slots_forced_total", "counter",
     "slots given back before the worker was known to be done", ldc_admin_forced},
    {"ldcorn_in_flight", "gauge", "requests inside workers", ldc_admin_inside},
    {"ldcorn_orphans", "gauge", "requests inside workers whose client is gone", ldc_admin_orphans},
    {"ldcorn_tunnels", "gauge", "upgraded connections", ldc_admin_tunnels},
    {"ldcorn_retries_total", "counter", "requests sent again", ldc_admin_retries}};

/* --- counters with a label each --- */

static void ldc_admin_by_class(ldc_text *t, const ldc_group *g) {
    for (int i = 0; i < 6; i++)
        ldc_text_fmt(t, "ldcorn_requests_total{group=\"%s\",class=\"%s\"} %llu\n", g->name,
                     ldc_admin_classes[i], (unsigned long long)g->requests[i]);
}

static void ldc_admin_by_refusal(ldc_text *t, const ldc_group *g) {
    for (size_t i = 0; i < LDC_LEN(ldc_admin_refusals); i++)
        ldc_text_fmt(t, "ldcorn_refused_total{group=\"%s\",reason=\"%s\"} %llu\n", g->name,
                     ldc_log_reasons[ldc_admin_refusals[i]].word,
                     (unsigned long long)g->refused[ldc_admin_refusals[i]]);
}

static void ldc_admin_by_error(ldc_text *t, const ldc_group *g) {
    static const char *const kinds[] = {"connect", "reset", "timeout", "protocol"};
    for (int i = 0; i < 4; i++)
        ldc_text_fmt(t, "ldcorn_worker_errors_total{group=\"%s\",kind=\"%s\"} %llu\n", g->name,
                     kinds[i], (unsigned long long)g->errors[i]);
}

static void ldc_admin_by_exit(ldc_text *t, const ldc_group *g) {
    for (size_t i = 0; i < LDC_LEN(ldc_exit_names); i++)
        ldc_text_fmt(t, "ldcorn_worker_exits_total{group=\"%s\",reason=\"%s\"} %llu\n", g->name,
                     ldc_exit_names[i], (unsigned long long)g->exits[i]);
}

static void ldc_admin_by_state(ldc_text *t, const ldc_group *g) {
    int n[LDC_PROC_COUNT] = {0};
    for (const ldc_worker *w = g->workers; w; w = w->next) n[ldc_admin_state(w)]++;
    for (int i = 0; i < LDC_PROC_GONE; i++)
        ldc_text_fmt(t, "ldcorn_workers{group=\"%s\",state=\"%s\"} %d\n", g->name,
                     ldc_proc_words[i], n[i]);
}

typedef struct ldc_labelled {
    const char *name, *type, *help;
    void (*values)(ldc_text *, const ldc_group *);
} ldc_labelled;

static const ldc_labelled ldc_admin_labelled[] = {
    {"ldcorn_requests_total", "counter", "requests answered, by class of status",
     ldc_admin_by_class},
    {"ldcorn_refused_total", "counter", "requests that ldcorn refused, or whose client left",
     ldc_admin_by_refusal},
    {"ldcorn_worker_errors_total", "counter", "what went wrong between ldcorn and workers",
     ldc_admin_by_error},
    {"ldcorn_worker_exits_total", "counter", "workers that ended, and why", ldc_admin_by_exit},
    {"ldcorn_workers", "gauge", "workers by state", ldc_admin_by_state}};

/* Per index the sum over generations, so that counters never fall at a reload. */
static void ldc_admin_workers(ldcorn *l, ldc_text *t, int what, const ldc_group *g) {
    static const char *const names[] = {"ldcorn_worker_in_flight", "ldcorn_worker_served_total",
                                        "ldcorn_worker_rss_bytes"};
    static const char *const helps[] = {"requests inside", "requests answered", "resident memory"};
    size_t size = (size_t)(g ? g->indexes : 0) * sizeof(uint64_t);
    uint64_t *sum;
    if (g == NULL) ldc_admin_type(t, names[what], what == 1 ? "counter" : "gauge", helps[what]);
    if (size == 0) return;
    sum = (uint64_t *)ldc_mem_zero(&l->mem, size);
    if (sum == NULL) {
        t->failed = true;
        return;
    }
    if (what == 1) memcpy(sum, g->served, size);
    for (const ldc_worker *w = g->workers; w; w = w->next) {
        if (w->state == LDC_PROC_GONE || w->index >= g->indexes) continue;
        sum[w->index] += what == 0   ? (uint64_t)w->in_flight
                         : what == 1 ? w->served - w->booked
                                     : ldc_admin_rss(w->pid);
    }
    for (int i = 0; i < g->indexes; i++)
        ldc_text_fmt(t, "%s{group=\"%s\",index=\"%d\"} %llu\n", names[what], g->name, i,
                     (unsigned long long)sum[i]);
    ldc_mem_free(&l->mem, sum, size);
}

static void ldc_admin_totals(ldcorn *l, ldc_text *t) {
    int states[LDC_CLIENT_COUNT] = {0};
    for (const ldc_client *c = l->clients; c; c = c->next) states[c->state]++;
    ldc_admin_type(t, "ldcorn_connections", "gauge", "client connections by state");
    for (int i = 0; i < LDC_CLIENT_DEAD; i++) {
        char word[16];
        size_t n = 0;
        for (const char *p = ldc_client_rows[i].name; *p && n < 15; p++)
            word[n++] = (char)ldc_util_lower(*p);
        word[n] = 0;
        ldc_text_fmt(t, "ldcorn_connections{state=\"%s\"} %d\n", word, states[i]);
    }
    ldc_admin_gauge(t, "ldcorn_accepted_total", "counter", "client connections accepted",
                    (double)l->accepted);
    ldc_admin_type(t, "ldcorn_bytes_total", "counter", "body bytes from and to clients");
    ldc_text_fmt(
        t,
        "ldcorn_bytes_total{direction=\"in\"} %llu\nldcorn_bytes_total{direction=\"out\"} %llu\n",
        (unsigned long long)l->bytes_in, (unsigned long long)l->bytes_out);
    ldc_admin_gauge(t, "ldcorn_buffer_bytes", "gauge", "memory in buffers",
                    (double)l->mem.in_buffers);
    ldc_admin_gauge(t, "ldcorn_log_dropped_total", "counter", "log lines that no target took",
                    (double)l->log.dropped);
    ldc_admin_type(t, "ldcorn_reloads_total", "counter", "reloads by result");
    ldc_text_fmt(
        t,
        "ldcorn_reloads_total{result=\"ok\"} %llu\nldcorn_reloads_total{result=\"failed\"} %llu\nldcorn_reloads_total{result=\"partial\"} %llu\n",
        (unsigned long long)l->reload.ok, (unsigned long long)l->reload.failed,
        (unsigned long long)l->reload.partials);
    ldc_admin_gauge(t, "ldcorn_generation", "gauge", "number of the configuration in force",
                    l->generation);
    ldc_admin_gauge(t, "ldcorn_start_time_seconds", "gauge", "when ldcorn started, Unix time",
                    (double)(l->wall - (l->now - l->began) / 1000) / 1000);
    ldc_admin_type(t, "ldcorn_info", "gauge", "version");
    ldc_text_add(t, "ldcorn_info{version=\"" LDCORN_VERSION "\"} 1\n");
}

/* A metric per part, for a group or (NULL) its first lines; the last one is of the whole. False:
   there is no such part. */
static bool ldc_admin_metrics(ldcorn *l, ldc_text *t, int part, const ldc_group *g) {
    int labelled = (int)LDC_LEN(ldc_admin_labelled), times = (int)LDC_LEN(ldc_admin_times),
        figures = (int)LDC_LEN(ldc_admin_figures);
    if (part < labelled) {
        const ldc_labelled *f = &ldc_admin_labelled[part];
        if (g)
            f->values(t, g);
        else
            ldc_admin_type(t, f->name, f->type, f->help);
        return true;
    }
    if ((part -= labelled) < times) {
        ldc_admin_histogram(t, &ldc_admin_times[part], g);
        return true;
    }
    if ((part -= times) < figures) {
        const ldc_figure *f = &ldc_admin_figures[part];
        if (g)
            ldc_text_fmt(t, "%s{group=\"%s\"} %lld\n", f->name, g->name, (long long)f->value(g));
        else
            ldc_admin_type(t, f->name, f->type, f->help);
        return true;
    }
    if ((part -= figures) < 3) {
        ldc_admin_workers(l, t, part, g);
        return true;
    }
    if (part == 3 && g == NULL) ldc_admin_totals(l, t);
    return part == 3 && g == NULL;
}

/* --- who may ask --- */

/* Names of groups that are not ready; 200 only if there is none and we are not stopping. */
static bool ldc_admin_ready(ldcorn *l, ldc_text *t) {
    bool ready = l->life == LDC_LIFE_RUN && !l->stop_asked && l->stops == 0;
    if (!ready) ldc_text_add(t, "stopping\n");
    for (const ldc_group *g = l->groups; g; g = g->next) {
        if (g->hidden || g->removed || g->conf->s.optional || ldc_group_ready(g)) continue;
        ldc_text_fmt(t, "%s\n", g->name);
        ready = false;
    }
    if (ready) ldc_text_add(t, "ready\n");
    return ready;
}

/* Web pages and rebound names must not reach in: Host is an address or localhost. */
static bool ldc_admin_host(ldc_str host) {
    char text[64];
    unsigned char ip[16];
    size_t n = host.n;
    if (n && host.p[0] == '[') {
        const char *close = (const char *)memchr(host.p, ']', n);
        if (close == NULL || (size_t)(close - host.p) > sizeof text) return false;
        snprintf(text, sizeof text, "%.*s", (int)(close - host.p) - 1, host.p + 1);
        return inet_pton(AF_INET6, text, ip) == 1;
    }
    for (size_t i = 0; i < host.n; i++) {
        if (host.p[i] == ':') n = i;
    }
    if (n >= sizeof text) return false;
    snprintf(text, sizeof text, "%.*s", (int)n, host.n ? host.p : "");
    return strcasecmp(text, "localhost") == 0 || inet_pton(AF_INET, text, ip) == 1;
}

static bool ldc_admin_same_origin(ldc_str origin, ldc_str host) {
    if (ldc_util_starts(origin, "http://")) return ldc_util_same(ldc_util_cut(origin, 7), host);
    return false;
}

static bool ldc_admin_token(const ldcorn *l, const ldc_head *h) {
    ldc_str given = ldc_http_value(h, LDC_FIELD_AUTHORIZATION),
            want = ldc_util_z(l->conf->s.admin_token);
    unsigned differ = 0;
    if (want.n == 0 || given.n != want.n + 7 || strncasecmp(given.p, "Bearer ", 7) != 0)
        return false;
    for (size_t i = 0; i < want.n; i++)
        differ |= (unsigned char)(given.p[7 + i] ^ want.p[i]); /* no early end to measure */
    return differ == 0;
}

/* `any`: probes and Prometheus come by service names, and learn nothing. *rule says which one a
   refused request broke. */
static ldc_why ldc_admin_allowed(ldcorn *l, const ldc_exchange *e, const ldc_head *h, bool changes,
                                 bool open, bool any, const char **rule) {
    const ldc_field *origin = ldc_http_get(h, LDC_FIELD_ORIGIN);
    const char *const *names = l->conf->s.admin_hosts;
    *rule = "its Origin is not what Host says: a web page of another site may not ask this";
    if (origin && !ldc_admin_same_origin(origin->value, h->host)) return LDC_WHY_DENIED;
    if (e->client->family == AF_UNIX) return LDC_WHY_NONE;
    *rule = "its Host is no address, not localhost and none of `admin_hosts`";
    if (!any && !ldc_admin_host(h->host) && !(names && ldc_route_host(names, h->host)))
        return LDC_WHY_DENIED;
    if (ldc_admin_token(l, h)) return LDC_WHY_NONE;
    *rule = l->conf->s.admin_token
                ? "write Authorization: Bearer TOKEN, with the one of `admin_token`"
                : "over TCP this needs `admin_token` in the configuration";
    if (changes) return LDC_WHY_TOKEN;
    return open || e->client->local ? LDC_WHY_NONE : LDC_WHY_TOKEN;
}

/* 401 and 403 say why: whoever operates this has to find out. */
static void ldc_admin_refuse(ldcorn *l, ldc_exchange *e, const ldc_head *h, ldc_why why,
                             const char *rule) {
    char body[400], host[120];
    snprintf(body, sizeof body, "%d %s: %s (Host: %s)\n", ldc_log_reasons[why].status,
             ldc_log_reasons[why].text, rule, ldc_util_show(h->host, host, sizeof host));
    e->why = why;
    ldc_client_reply(l, e, ldc_log_reasons[why].status, "text/plain; charset=utf-8",
                     why == LDC_WHY_TOKEN ? "WWW-Authenticate: Bearer\r\n" : "", ldc_util_z(body));
}

static void ldc_admin_answer(ldcorn *l, ldc_exchange *e, int status, const char *type,
                             ldc_text *t) {
    if (t->failed)
        ldc_client_refuse(l, e, LDC_WHY_MEMORY);
    else
        ldc_client_reply(l, e, status, type, "Cache-Control: no-store\r\n",
                         ldc_util_str(t->p ? t->p : "", t->n));
    ldc_text_free(t);
}

/* --- the page: one text with nothing from elsewhere, which asks for /status each second --- */

/* clang-format off */
static const char *const ldc_admin_page[] = {
    "<!doctype html><html lang='en'><meta charset='utf-8'><title>ldcorn</title>",
    "<meta name='viewport' content='width=device-width, initial-scale=1'>",
    "<style>",
    ":root { color-scheme: light dark; --back: #fff; --ink: #1d2430;",
    "  --dim: #586271; --blue: #2460b4; --green: #1b7a43; --amber: #8f5a00; --red: #b3261e; }",
    "@media (prefers-color-scheme: dark) { :root { --back: #151a20; --ink: #e2e6eb;",
    "  --dim: #9ba6b3; --blue: #78aefc; --green: #63cb8e; --amber: #e2ad52; --red: #ff8b81; } }",
    "* { box-sizing: border-box; margin: 0; }",
    "body { max-width: 75rem; margin: 0 auto; padding: .8rem; overflow-wrap: anywhere;",
    "  font: 15px/1.45 system-ui, sans-serif; font-variant-numeric: tabular-nums; }",
    "body, .note { background: var(--back); color: var(--ink); }",
    "h1, h2, dt + dd { font-size: 1.15rem; }",
    "section, .note { margin: 1rem 0; padding: .8rem; border: 1px solid #8886; }",
    ".note { border-color: var(--red); white-space: pre-wrap; }",
    "#lost { position: sticky; top: 0; }",
    "code, pre { font: 13px/1.4 ui-monospace, monospace; white-space: pre-wrap; }",
    "dt, dd + dd, table, details, footer { font-size: 13px; }",
    "dt, dd + dd, thead, summary, footer { color: var(--dim); }",
    "dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(6.2rem, 1fr));",
    "  gap: .7rem 1rem; margin: .7rem 0; }",
    ".charts { grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); }",
    "svg { display: block; width: 100%; height: 56px; border-bottom: 1px solid #8886; }",
    "path { fill: none; stroke: var(--blue); stroke-width: 2; vector-effect: non-scaling-stroke; }",
    ".wide { overflow-x: auto; } table { width: 100%; border-collapse: collapse; }",
    "th, td { padding: .2rem .1rem; text-align: right; font-weight: 400; white-space: nowrap; }",
    "th:nth-child(-n+3), td:nth-child(-n+3) { text-align: left; }",
    "tbody tr { border-top: 1px solid #8886; }",
    ".ready { color: var(--green); } .starting, a { color: var(--blue); }",
    ".warn { color: var(--amber); } .bad, .down, .backoff, .failed { color: var(--red); }",
    "</style>",
    "<h1>ldcorn</h1><noscript>This page needs JavaScript; GET /status says the same.</noscript>",
    "<div id='lost' class='note' role='alert' hidden></div>",
    "<div id='news' class='note' role='status' hidden></div>",
    "<main><dl id='top'></dl><div id='groups'></div></main>",
    "<footer>Rates and times: of five seconds; charts: of five minutes; the rest: since the start.",
    "<a href='status'>status</a>, <a href='requests'>requests</a>, <a href='metrics'>metrics</a>",
    "<template id='item'><div><dt></dt><dd></dd><dd></dd></div></template>",
    "<template id='chart'><div><dt></dt><dd></dd><dd></dd><dd><svg viewBox='0 0 300 56'",
    "  preserveAspectRatio='none' aria-hidden='true'><path /></svg></dd></div></template>",
    "<template id='group'><section><h2></h2><code></code> <b class='warn'></b><dl></dl>",
    "  <dl class='charts'></dl><div class='wide'><table><thead><tr><th>#<th>Pid<th>State",
    "  <th>For<th>Inside<th>Served<th>Memory<tbody></table></div><div></div></section></template>",
    "<template id='worker'><tr><th scope='row'><td><td><td><td><td><td></template>",
    "<template id='exit'><details><summary></summary><pre></pre></details></template>",
    "<script>",
    "const $ = id => document.getElementById(id), pasts = new Map(); // group: its points",
    "let since = 0; // when ldcorn was lost",
    "const num = n => n >= 0 ? (+n.toFixed(n < 10 ? 1 : 0)).toLocaleString('en') : '-';",
    "const ms = n => n < 999.5 ? num(n) + ' ms' : n >= 0 ? num(n / 1000) + ' s' : '-';",
    "const age = s => s < 100 ? ~~s + ' s' : s < 6e3 ? ~~(s / 60) + ' min' : ~~(s / 3600) + ' h';",
    "const clock = t => new Date(t).toLocaleTimeString();",
    "const join = (by, ...list) => list.filter(x => x).join(by);",
    "// What comes from outside is set as text or attribute, never as markup.",
    "const put = (e, text) => { if (e.textContent !== String(text)) e.textContent = text; };",
    "const note = (id, text) => { put($(id), text || ''), $(id).hidden = !text; };",
    "// A copy of the template for each of the list; what is there stays, and stays open.",
    "function each(parent, template, list, show) {",
    "  const have = parent.children, one = $(template).content.firstElementChild;",
    "  while (have.length > list.length) parent.lastElementChild.remove();",
    "  list.forEach((x, i) => show(have[i] || parent.appendChild(one.cloneNode(true)), x));",
    "}",
    "function item(e, [name, value, more, mood]) {",
    "  [name, value, more || ''].forEach((x, i) => put(e.children[i], x));",
    "  e.children[1].className = mood || '';",
    "}",
    "function chart(e, [name, show, past, key, more]) {",
    "  const now = past.at(-1), most = Math.max(...past.map(p => p[key] || 0));",
    "  const at = p => [300 + p.up - now.up, 54 - 51 * p[key] / Math.max(most, 1)];",
    "  const line = past.map((p, i) => !(p[key] >= 0) ? '' // not known: a gap",
    "    : (i && past[i - 1][key] >= 0 ? 'L' : 'M') + at(p).map(n => n.toFixed(1)));",
    "  e.querySelector('path').setAttribute('d', line.join(''));",
    "  item(e, [name, show(now[key]), join(', ', 'max ' + show(most), more)]);",
    "}",
    "function worker(e, w) {",
    "  [w.index, w.pid || w.address || '-', w.state + (w.paused ? ', drained' : ''), age(w.since),",
    "    w.in_flight + (w.tunnels ? ` + ${w.tunnels} open` : ''), num(w.served),",
    "    w.rss ? num(w.rss / 1048576) + ' MiB' : '-'].forEach((x, i) => put(e.children[i], x));",
    "  e.children[2].className = w.paused ? 'warn' : w.state;",
    "}",
    "function exit(e, w) {",
    "  e.hidden = !w.last_exit;",
    "  put(e.firstChild, `Worker ${w.index} ended ${age(w.last_exit_ago)} ago: ${w.last_exit}`);",
    "  put(e.lastChild, w.last_lines || 'No output is known.');",
    "}",
    "const mean = (now, then) => (now.sum_ms - then.sum_ms) / (now.count - then.count);",
    "// The points of the group and a new one; those of an earlier run or group of its name go.",
    "function remember(g, up) {",
    "  const l = g.latency, p = { up, l, queue: g.queue.len, count: l.total.count };",
    "  const old = pasts.get(g.name) || [], reset = old.some(o => o.up > up || o.count > p.count);",
    "  const past = reset ? [] : old.filter(o => !(o.up < up - 300)); // a gap has no `up`",
    "  const was = past.findLast(o => o.up <= up - 5) || past.find(o => o.l) || p;",
    "  p.worker = mean(l.worker, was.l.worker), p.wait = mean(l.queue, was.l.queue);",
    "  p.rate = (p.count - was.count) / (up - was.up);",
    "  past.push(p), pasts.set(g.name, past);",
    "  return past;",
    "}",
    "function group(e, [g, past]) {",
    "  const { latency: l, refused: no, workers_wanted: want } = g;",
    "  const q = g.queue, ready = g.workers.filter(w => w.state === 'ready' && !w.paused).length;",
    "  const [name, routes, flag, items, charts, table, exits] = e.children;",
    "  put(name, g.name), put(routes, g.routes.join('  ')), put(flag, g.paused ? 'paused' : '');",
    "  each(items, 'item', [",
    "    ['Workers', `${ready} of ${want}`, 'ready', ready < want && (ready ? 'warn' : 'bad')],",
    "    ['Inside', g.in_flight + (g.limit ? ' of ' + g.slots : ''), `${g.orphans} abandoned`],",
    "    ['Queue', `${q.len} of ${q.cap}`, ms(q.oldest_ms) + ' old', q.len * 2 > q.cap && 'warn'],",
    "    ['Refused', num(Object.values(no).reduce((a, b) => a + b) - no.client_gone),",
    "      `full ${no.full}, timeout ${no.timeout}, no worker ${no.no_worker}`],",
    "    ['Answers 5xx', num(g.requests['5xx']), '4xx ' + num(g.requests['4xx'])],",
    "    ['Restarts', num(g.restarts)]], item);",
    "  each(charts, 'chart', [",
    "    ['Queue length', num, past, 'queue'],",
    "    ['Requests a second', num, past, 'rate', num(l.total.count) + ' in all'],",
    "    ['Worker time', ms, past, 'worker', 'p99 to ' + ms(l.worker.p99_ms)],",
    "    ['Queue time', ms, past, 'wait', 'p99 to ' + ms(l.queue.p99_ms)]], chart);",
    "  each(table.querySelector('tbody'), 'worker', g.workers, worker);",
    "  each(exits, 'exit', g.workers, exit);",
    "}",
    "function show(s) {",
    "  const r = s.last_reload, bad = r && r.result !== 'ok';",
    "  note('news', join('\\n', s.stopping && 'ldcorn is stopping.', s.reloading && 'It reloads.',",
    "    bad && `Reload ${r.result} at ${clock(r.at)}:\\n${r.error}`));",
    "  each($('top'), 'item', [",
    "    ['Up', age(s.uptime), `${s.version}, pid ${s.pid}`],",
    "    ['Clients', num(s.clients.open), num(s.clients.limit) + ' at most'],",
    "    ['Last reload', r ? r.result : 'none', 'generation ' + s.generation, bad && 'bad']",
    "  ], item);",
    "  each($('groups'), 'group', s.groups.map(g => [g, remember(g, s.uptime)]), group);",
    "}",
    "async function turn() {",
    "  let s, why = 'Not reachable';",
    "  try {",
    "    const r = await fetch('status', { signal: AbortSignal.timeout(5000) });",
    "    if (r.ok) s = await r.json();",
    "    else why = r.status === 401 ? '401, a token is wanted' : `GET /status is ${r.status}`;",
    "  } catch { /* as why says */ }",
    "  setTimeout(turn, 1000);",
    "  if (!s && !since) pasts.forEach(past => past.push({})); // a gap in the lines",
    "  since = s ? 0 : since || Date.now();",
    "  note('lost', !s && `${why} since ${clock(since)}. Tried each second; below is the last.`);",
    "  document.title = s ? 'ldcorn' : '(!) ldcorn';",
    "  if (s) show(s);",
    "}",
    "turn();",
    "</script>"};
/* clang-format on */

static void ldc_admin_show(ldcorn *l, ldc_exchange *e) {
    ldc_text t;
    ldc_text_init(&t, &l->mem);
    for (size_t i = 0; i < LDC_LEN(ldc_admin_page); i++) {
        ldc_text_add(&t, ldc_admin_page[i]);
        ldc_text_add(&t, "\n");
    }
    if (t.failed)
        ldc_client_refuse(l, e, LDC_WHY_MEMORY);
    else
        ldc_client_reply(
            l, e, 200, "text/html; charset=utf-8",
            "Cache-Control: no-store\r\nContent-Security-Policy: default-src 'none'; "
            "style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n"
            "X-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\n"
            "Referrer-Policy: no-referrer\r\n",
            ldc_util_str(t.p ? t.p : "", t.n));
    ldc_text_free(&t);
}

typedef struct ldc_endpoint {
    const char *method, *path;
    bool changes;
    bool open; /* answered without a token anywhere */
    bool any;  /* and whatever Host says, or without one */
} ldc_endpoint;

enum {
    LDC_ADMIN_PAGE,
    LDC_ADMIN_STATUS,
    LDC_ADMIN_REQUESTS,
    LDC_ADMIN_SERVER,
    LDC_ADMIN_METRICS,
    LDC_ADMIN_HEALTHZ,
    LDC_ADMIN_READYZ,
    LDC_ADMIN_ROUTE,
    LDC_ADMIN_RELOAD,
    LDC_ADMIN_STOP
};
static const ldc_endpoint ldc_admin_endpoints[] = {
    {"GET", "/", false, true, false},          {"GET", "/status", false, false, false},
    {"GET", "/requests", false, false, false}, {"GET", "/server", false, true, true},
    {"GET", "/metrics", false, true, true},    {"GET", "/healthz", false, true, true},
    {"GET", "/readyz", false, true, true},     {"GET", "/route", false, false, false},
    {"POST", "/reload", true, false, false},   {"POST", "/stop", true, false, false}};

/* The client waits for the result of the reload with this number. */
static void ldc_admin_wait(ldcorn *l, ldc_exchange *e, uint32_t ticket) {
    e->awaits = ticket;
    ldc_client_set(l, e->client, LDC_CLIENT_WAIT);
    ldc_loop_want(l, &e->client->watch, ldc_client_leave);
    ldc_loop_timer(l, &e->client->timer, 0); /* candidates have start_timeout */
    e->why = LDC_WHY_NONE;
}

static void ldc_admin_reload(ldcorn *l, ldc_exchange *e, ldc_str query) {
    bool keep = ldc_util_is(query, "?processes=keep");
    ldc_text t;
    ldc_text_init(&t, &l->mem);
    if (query.n && !keep) {
        ldc_text_add(&t, "unknown query; write /reload or /reload?processes=keep\n");
        ldc_admin_answer(l, e, 400, "text/plain", &t);
        return;
    }
    if (l->life != LDC_LIFE_RUN) {
        ldc_client_refuse(l, e, LDC_WHY_STOPPING);
        return;
    }
    ldc_admin_wait(l, e, ldc_reload_ticket(l));
    ldc_reload_begin(l, keep);
}

/* What was waited for cannot be any more. */
static void ldc_admin_in_vain(ldcorn *l, uint32_t ticket, const char *why) {
    for (ldc_client *c = l->clients, *next; c; c = next) {
        ldc_text t;
        next = c->next;
        if (c->state != LDC_CLIENT_WAIT || c->exchange->awaits != ticket) continue;
        ldc_text_init(&t, &l->mem);
        ldc_text_fmt(&t, "%s\n", why);
        ldc_admin_answer(l, c->exchange, 409, "text/plain; charset=utf-8", &t);
    }
}

/* A reload came to its end: whoever asked for it hears the result. */
static void ldc_admin_reloaded(ldcorn *l, uint32_t ticket, const char *what) {
    for (ldc_client *c = l->clients, *next; c; c = next) {
        ldc_text t;
        bool ok = strcmp(l->reload.result, "ok") == 0;
        next = c->next;
        if (c->state != LDC_CLIENT_WAIT || c->exchange->awaits != ticket) continue;
        ldc_text_init(&t, &l->mem);
        ldc_text_fmt(&t,
                     ok ? "%s done: generation %d\n"
                     : strcmp(l->reload.result, "partial") == 0
                         ? "%s partial: generation %d is in force\n"
                         : "%s failed, nothing changed: generation %d goes on\n",
                     what, l->generation);
        if (!ok) ldc_text_put(&t, l->reload.error.p, l->reload.error.n);
        if (!ok) ldc_text_add(&t, "\n");
        ldc_admin_answer(l, c->exchange, ok ? 200 : 409, "text/plain; charset=utf-8", &t);
    }
}

/* --- GET /route: which group, and why --- */

/* The value of a query's word, decoded into `out`; false: it is not there or too long. */
static bool ldc_admin_word(ldc_str query, const char *name, char *out, size_t room) {
    ldc_str piece;
    size_t n = strlen(name), o = 0;
    if (query.n) query = ldc_util_cut(query, 1);
    while (ldc_route_piece(&query, '&', &piece)) {
        if (piece.n <= n || piece.p[n] != '=' || memcmp(piece.p, name, n) != 0) continue;
        piece = ldc_util_cut(piece, n + 1);
        for (size_t i = 0; i < piece.n;) {
            unsigned char c = ldc_route_byte(piece, &i, true);
            if (o + 1 >= room || c == 0) return false;
            out[o++] = (char)c;
        }
        out[o] = 0;
        return true;
    }
    return false;
}

static void ldc_admin_why(ldcorn *l, ldc_text *t, ldc_why why, const ldc_route *route) {
    int n = route && route->when ? (route->when->hosts != NULL) + route->when->match.n : 0;
    if (why == LDC_WHY_REQUEST)
        ldc_text_add(t, "refused: no target in the form of RFC 9112 3.2");
    else if (why == LDC_WHY_ESCAPE)
        ldc_text_add(t, "refused: an encoding that is none, %00, or out of the root");
    else if (why == LDC_WHY_PATH)
        ldc_text_add(t, "refused: servers read this path differently, and the readings choose "
                        "different groups");
    else if (why)
        ldc_text_add(t,
                     l->conf->routes ? "no route fits, and there is no *" : "there are no routes");
    else if (route->kind == LDC_MATCH_ALL)
        ldc_text_add(t, "no longer route fits");
    else
        ldc_text_fmt(t, "the longest route that fits%s",
                     route->kind == LDC_MATCH_EXACT ? ", exactly" : "");
    if (n && why == LDC_WHY_NONE)
        ldc_text_fmt(t, ", and its %d condition%s hold%s", n, n > 1 ? "s" : "", n > 1 ? "" : "s");
}

/* The fields of this request itself count, so that conditions can be tried. */
static bool ldc_admin_route(ldcorn *l, ldc_text *t, const ldc_head *asked, ldc_str query) {
    char target[4096], method[32] = "GET", room[4096];
    const ldc_route *route = NULL;
    ldc_head h = *asked;
    ldc_str host = ldc_util_str("", 0);
    ldc_text text;
    ldc_why why;
    if (!ldc_admin_word(query, "target", target, sizeof target)) {
        ldc_text_add(t, "write /route?method=M&target=T, T percent-encoded\n");
        return false;
    }
    ldc_admin_word(query, "method", method, sizeof method);
    h.method = ldc_util_z(method);
    h.target = ldc_util_z(target);
    why = h.target.n ? ldc_http_target(&h, &host) : LDC_WHY_REQUEST;
    if (host.n) h.host = host;
    if (why == LDC_WHY_NONE) why = ldc_route_find(l->conf, &h, h.target, room, &route);
    ldc_text_fmt(t, "{\"status\":%d,\"reason\":\"%s\",\"group\":",
                 why ? ldc_log_reasons[why].status : 200, ldc_log_reasons[why].word);
    if (why) route = NULL;
    if (route) ldc_text_json(t, ldc_util_z(l->conf->group[route->group].name));
    ldc_text_add(t, route ? ",\"route\":" : "null,\"route\":null,\"at\":null");
    if (route) ldc_text_json(t, ldc_util_z(route->said));
    if (route && route->at.file && route->at.line) {
        ldc_text_add(t, ",\"at\":\"");
        ldc_text_json_part(t, ldc_util_z(route->at.file->name));
        ldc_text_fmt(t, ":%d\"", route->at.line);
    } else if (route) {
        ldc_text_add(t, ",\"at\":null");
    }
    ldc_text_init(&text, &l->mem);
    ldc_admin_why(l, &text, why, route);
    ldc_text_add(t, ",\"why\":");
    ldc_text_json(t, ldc_util_str(text.p ? text.p : "", text.n));
    ldc_text_add(t, "}\n");
    ldc_text_free(&text);
    return true;
}

/* --- POST /groups/G/...: what can be done to a group and to one worker --- */

/* Answers that say what was not possible: 400, 404, 409. */
static int ldc_admin_say(ldc_text *t, int status, const char *format, ...) LDC_PRINTF(3, 4);
static int ldc_admin_say(ldc_text *t, int status, const char *format, ...) {
    char line[512];
    va_list list;
    va_start(list, format);
    vsnprintf(line, sizeof line, format, list);
    va_end(list);
    ldc_text_add(t, line);
    ldc_text_add(t, "\n");
    return status;
}

static int ldc_admin_scale(ldcorn *l, ldc_text *t, ldc_group *g, ldc_str query) {
    char word[16];
    uint64_t n = 0;
    if (!ldc_admin_word(query, "workers", word, sizeof word) ||
        !ldc_util_number(ldc_util_z(word), 4096, &n) || n == 0)
        return ldc_admin_say(t, 400,
                             "a group has 1 to 4096 workers: write /groups/%s/scale?workers=N, or "
                             "ldcornctl scale %s N",
                             g->name, g->name);
    if (g->conf->source != LDC_FROM_PROCESSES)
        return ldc_admin_say(t, 409, "%s has no processes of its own%s", g->name,
                             g->conf->source == LDC_FROM_LIST ? "; join or quit addresses" : "");
    if (ldc_reload_touches(l, g))
        return ldc_admin_say(t, 409, "%s is being reloaded; ask again", g->name);
    g->scaled = (int)n;
    ldc_reload_fill(l, g);
    l->upset = true;
    ldc_log_say(&l->log, LDCORN_LOG_INFO, "%s: scaled to %d workers", g->name, g->scaled);
    return ldc_admin_say(t, 200, "%s: %d workers", g->name, g->scaled);
}

static int ldc_admin_pause(ldcorn *l, ldc_text *t, ldc_group *g, bool pause) {
    g->paused = pause;
    ldc_log_say(&l->log, LDCORN_LOG_INFO, "%s: %s", g->name,
                pause ? "paused, requests wait" : "resumed");
    if (!pause) l->look = true;
    return ldc_admin_say(t, 200, "%s: %s", g->name, pause ? "paused" : "resumed");
}

static int ldc_admin_drain(ldcorn *l, ldc_text *t, ldc_worker *w, bool drain) {
    w->paused = drain;
    ldc_group_moved(l, w->group);
    while (drain && w->parked) ldc_up_close(l, w->parked);
    ldc_log_say(&l->log, LDCORN_LOG_INFO, "%s.%d: %s", w->group->name, w->index,
                drain ? "drained, it gets nothing new" : "resumed");
    if (drain)
        ldc_group_review(l, w->group);
    else
        ldc_group_next(l, w->group);
    return ldc_admin_say(t, 200, "%s.%d: %s", w->group->name, w->index,
                         drain ? "drained" : "resumed");
}

static int ldc_admin_restart(ldcorn *l, ldc_text *t, ldc_worker *w) {
    if (w->foreign)
        return ldc_admin_say(t, 409, "%s.%d is not a process of ours", w->group->name, w->index);
    if (w->relieves || w->after || ldc_proc_reliever(w))
        return ldc_admin_say(t, 409, "%s.%d is being replaced already", w->group->name, w->index);
    if (w->state == LDC_PROC_BACKOFF || w->state == LDC_PROC_FAILED) {
        w->failures = 0;
        ldc_proc_set(l, w, LDC_PROC_BACKOFF);
        ldc_proc_timer_at(l, w, l->now);
    } else if (!ldc_proc_renew(l, w, "reload", false)) {
        return ldc_admin_say(t, 409, "%s.%d cannot be restarted now", w->group->name, w->index);
    }
    return ldc_admin_say(t, 200, "%s.%d: restarting", w->group->name, w->index);
}

/* 0: the answer comes when it is done; without an exchange nobody waits for it. */
static int ldc_admin_group_do(ldcorn *l, ldc_exchange *e, ldc_text *t, ldc_group *g, ldc_str what,
                              ldc_str query) {
    if (ldc_util_is(what, "scale")) return ldc_admin_scale(l, t, g, query);
    if (ldc_util_is(what, "pause")) return ldc_admin_pause(l, t, g, true);
    if (ldc_util_is(what, "resume")) return ldc_admin_pause(l, t, g, false);
    if (!ldc_util_is(what, "restart"))
        return ldc_admin_say(t, 404, "a group takes scale, restart, pause and resume");
    if (g->conf->source != LDC_FROM_PROCESSES)
        return ldc_admin_say(t, 409, "%s has no processes of its own", g->name);
    if (e) ldc_admin_wait(l, e, ldc_reload_restart_ticket(l, g));
    ldc_reload_restart(l, g);
    return 0;
}

static int ldc_admin_worker_do(ldcorn *l, ldc_text *t, ldc_group *g, ldc_str rest) {
    ldc_str index = ldc_util_str("", 0);
    ldc_worker *w;
    uint64_t n = 0;
    ldc_route_piece(&rest, '/', &index);
    if (!ldc_util_number(index, 4095, &n) || (w = ldc_reload_at_index(g, (int)n)) == NULL)
        return ldc_admin_say(t, 404, "%s has no worker %.*s", g->name, LDC_STR_ARG(index));
    if (ldc_util_is(rest, "restart")) return ldc_admin_restart(l, t, w);
    if (ldc_util_is(rest, "drain")) return ldc_admin_drain(l, t, w, true);
    if (ldc_util_is(rest, "resume")) return ldc_admin_drain(l, t, w, false);
    return ldc_admin_say(t, 404, "a worker takes restart, drain and resume");
}

/* --- join and quit --- */

static bool ldc_admin_remember_quit(ldcorn *l, ldc_group *g, const ldc_addr *a) {
    size_t n = (size_t)g->quits * sizeof *g->quit;
    ldc_addr *more = (ldc_addr *)ldc_mem_resize(&l->mem, g->quit, n, n + sizeof *more);
    if (more == NULL) return false;
    g->quit = more;
    g->quit[g->quits] = *a;
    g->quit[g->quits++].text = NULL;
    return true;
}

static bool ldc_admin_listed(const ldc_group *g, const ldc_addr *a) {
    for (int i = 0; i < g->conf->addrs; i++) {
        if (ldc_conf_same_addr(&g->conf->addr[i], a)) return true;
    }
    return false;
}

static void ldc_admin_forget_quit(ldcorn *l, ldc_group *g, const ldc_addr *a) {
    size_t n = (size_t)g->quits * sizeof *g->quit;
    for (int i = 0; i < g->quits; i++) {
        if (!ldc_conf_same_addr(&g->quit[i], a)) continue;
        g->quit[i] = g->quit[g->quits - 1];
        g->quit = (ldc_addr *)ldc_mem_resize(&l->mem, g->quit, n, n - sizeof *g->quit);
        g->quits--;
        return;
    }
}

enum { LDC_ADMIN_JOINED = 4096 }; /* workers of one group */

/* The least one that no worker has; LDC_ADMIN_JOINED: none is left. */
static int ldc_admin_free_index(const ldc_group *g) {
    unsigned char used[LDC_ADMIN_JOINED];
    int i = 0;
    memset(used, 0, sizeof used);
    for (const ldc_worker *w = g->workers; w; w = w->next) {
        if (!w->replaced && w->index >= 0 && w->index < LDC_ADMIN_JOINED) used[w->index] = 1;
    }
    while (i < LDC_ADMIN_JOINED && used[i]) i++;
    return i;
}

static bool ldc_admin_join(ldcorn *l, ldc_group *g, ldc_addr *a, const char *text) {
    int index = ldc_admin_free_index(g);
    ldc_worker *w;
    size_t n = strlen(text) + 1;
    char *copy = (char *)ldc_mem_resize(&l->mem, NULL, 0, n);
    if (copy == NULL) return false;
    memcpy(copy, text, n);
    a->text = copy;
    w = ldc_proc_new_at(l, g, g->owner, g->conf, index, a);
    if (w == NULL) {
        ldc_mem_free(&l->mem, copy, n);
        return false;
    }
    w->joined = true;
    w->text = copy;
    ldc_admin_forget_quit(l, g, a);
    return true;
}

/* POST and DELETE /groups/G/workers?address=A. Holds until `upstream` is edited. */
static int ldc_admin_members(ldcorn *l, ldc_text *t, ldc_group *g, bool join, ldc_str query) {
    char text[160];
    ldc_addr a;
    const char *hint = "write ?address=host:port or unix:path";
    ldc_worker *w;
    memset(&a, 0, sizeof a);
    if (!ldc_admin_word(query, "address", text, sizeof text) ||
        (hint = ldc_conf_address(&a, text)) != NULL)
        return ldc_admin_say(t, 400, "not an address: %s", hint);
    if (!ldc_http_all(ldc_util_z(text), LDC_CHAR_TARGET) || ldc_conf_port_0(&a))
        return ldc_admin_say(t, 400, "not an address: a port from 1 on, no blanks");
    if (g->conf->source != LDC_FROM_LIST)
        return ldc_admin_say(t, 409, "%s is no `upstream` group", g->name);
    for (w = g->workers; w && (w->replaced || !ldc_conf_same_addr(&w->addr, &a));) w = w->next;
    if (join && w) return ldc_admin_say(t, 409, "%s is in %s already", text, g->name);
    if (join && ldc_admin_free_index(g) == LDC_ADMIN_JOINED)
        return ldc_admin_say(t, 409, "%s has %d workers, which is the most", g->name,
                             LDC_ADMIN_JOINED);
    if (!join && w == NULL) return ldc_admin_say(t, 404, "%s is not in %s", text, g->name);
    if (join ? !ldc_admin_join(l, g, &a, text)
             : ldc_admin_listed(g, &w->addr) && !ldc_admin_remember_quit(l, g, &w->addr))
        return ldc_admin_say(t, 503, "out of memory");
    if (!join) ldc_reload_retire(l, w, "scale");
    l->upset = true;
    ldc_log_say(&l->log, LDCORN_LOG_INFO, "%s: %s %s", g->name, text, join ? "joined" : "quit");
    return ldc_admin_say(t, 200, "%s: %s %s", g->name, text, join ? "joined" : "quits");
}

/* What /groups/NAME/PATH asks for, by a request or by a call of the host (e is NULL). `query`
   begins with its question mark. */
static int ldc_admin_ask(ldcorn *l, ldc_exchange *e, ldc_text *t, bool quit, ldc_str name,
                         ldc_str path, ldc_str query) {
    ldc_group *g = l->groups;
    while (g && (g->hidden || g->removed || !ldc_util_is(name, g->name))) g = g->next;
    if (g == NULL) return ldc_admin_say(t, 404, "there is no group `%.*s`", LDC_STR_ARG(name));
    if (l->life != LDC_LIFE_RUN) return ldc_admin_say(t, 409, "ldcorn is stopping");
    if (ldc_util_is(path, "workers")) return ldc_admin_members(l, t, g, !quit, query);
    if (ldc_util_starts(path, "workers/"))
        return ldc_admin_worker_do(l, t, g, ldc_util_cut(path, 8));
    return ldc_admin_group_do(l, e, t, g, path, query);
}

static void ldc_admin_groups(ldcorn *l, ldc_exchange *e, const ldc_head *h, ldc_str path,
                             ldc_str query) {
    const char *rule;
    ldc_why why = ldc_admin_allowed(l, e, h, true, false, false, &rule);
    ldc_text t;
    ldc_str name;
    int status;
    bool quit = ldc_util_is(h->method, "DELETE");
    if (why) {
        ldc_admin_refuse(l, e, h, why, rule);
        return;
    }
    path = ldc_util_cut(path, 8); /* "/groups/" */
    if (!ldc_route_piece(&path, '/', &name)) name = ldc_util_str("", 0);
    if (!ldc_util_is(h->method, "POST") && !(quit && ldc_util_is(path, "workers"))) {
        ldc_client_reply(l, e, 405, "text/plain", "Allow: POST\r\n", LDC_S("method not allowed\n"));
        return;
    }
    ldc_text_init(&t, &l->mem);
    status = ldc_admin_ask(l, e, &t, quit, name, path, query);
    if (status)
        ldc_admin_answer(l, e, status, "text/plain; charset=utf-8", &t);
    else
        ldc_text_free(&t);
}

/* --- long answers: made in pieces, so that no turn lasts longer for them. One at a time; its client
   waits, and so do those that ask meanwhile. --- */

static void ldc_admin_report_from(ldcorn *l, ldc_exchange *e) {
    static const char front[LDC_REPLY_FRONT];
    ldc_report *r = &l->report;
    ldc_text_free(&r->text);
    ldc_text_init(&r->text, &l->mem);
    ldc_text_put(&r->text, front, sizeof front);
    r->e = e;
    r->part = 0;
    r->begun = false;
}

/* Groups have changed: what is half written would show some twice, or not at all. */
static void ldc_admin_report_anew(ldcorn *l) {
    if (l->report.e) ldc_admin_report_from(l, l->report.e);
}

static void ldc_admin_report_gone(ldcorn *l, const ldc_exchange *e) {
    ldc_report *r = &l->report;
    if (e->asks == 0) return;
    l->reports--;
    if (r->e != e) return;
    ldc_text_free(&r->text);
    r->e = NULL;
}

/* One part, of one group. False: that was the last one. */
static bool ldc_admin_report_step(ldcorn *l) {
    ldc_report *r = &l->report;
    bool (*part)(ldcorn *, ldc_text *, int, const ldc_group *) =
        r->e->asks == LDC_ADMIN_STATUS ? ldc_admin_status : ldc_admin_metrics;
    if (!r->begun) {
        r->begun = true;
        r->group = l->groups;
        return part(l, &r->text, r->part, NULL);
    }
    while (r->group && r->group->hidden) r->group = r->group->next;
    if (r->group && part(l, &r->text, r->part, r->group)) {
        r->group = r->group->next;
        return true;
    }
    r->part++;
    r->begun = false;
    return true;
}

static void ldc_admin_report(ldcorn *l) {
    ldc_report *r = &l->report;
    uint64_t until = ldc_util_now() + LDC_SLICE;
    for (ldc_client *c = r->e ? NULL : l->clients; c && r->e == NULL; c = c->next) {
        if (c->state == LDC_CLIENT_WAIT && c->exchange->asks) ldc_admin_report_from(l, c->exchange);
    }
    while (r->e && !r->text.failed) {
        if (!ldc_admin_report_step(l)) break;
        if (ldc_util_now() >= until) return;
    }
    if (r->e) {
        ldc_exchange *e = r->e;
        ldc_text t = r->text;
        const char *type = e->asks == LDC_ADMIN_STATUS ? "application/json"
                                                       : "text/plain; version=0.0.4; charset=utf-8";
        ldc_text_init(&r->text, &l->mem);
        ldc_admin_report_gone(l, e);
        e->asks = 0;
        if (t.failed)
            ldc_client_refuse(l, e, LDC_WHY_MEMORY);
        else
            ldc_client_reply_long(l, e, type, "Cache-Control: no-store\r\n", &t);
        ldc_text_free(&t);
    }
}

static void ldc_admin_report_for(ldcorn *l, ldc_exchange *e, int what) {
    e->asks = (uint8_t)what;
    l->reports++;
    ldc_admin_wait(l, e, 0);
    if (l->report.e == NULL) ldc_admin_report_from(l, e);
}

static void ldc_admin_do(ldcorn *l, ldc_exchange *e, const ldc_head *h, int what, ldc_str query) {
    ldc_text t;
    const char *type = "text/plain; charset=utf-8";
    int status = 200;
    ldc_text_init(&t, &l->mem);
    switch (what) {
    case LDC_ADMIN_PAGE: ldc_admin_show(l, e); return;
    case LDC_ADMIN_STATUS:
    case LDC_ADMIN_METRICS: ldc_admin_report_for(l, e, what); return;
    case LDC_ADMIN_REQUESTS: ldc_admin_requests(l, &t), type = "application/json"; break;
    case LDC_ADMIN_READYZ: status = ldc_admin_ready(l, &t) ? 200 : 503; break;
    case LDC_ADMIN_ROUTE:
        if (ldc_admin_route(l, &t, h, query))
            type = "application/json";
        else
            status = 400;
        break;
    case LDC_ADMIN_RELOAD: ldc_admin_reload(l, e, query); return;
    case LDC_ADMIN_STOP:
        ldc_text_add(&t, "stopping\n");
        status = 202;
        l->stop_asked = 1;
        e->keep = false;
        break;
    default: ldc_text_add(&t, "ok\n"); break;
    }
    ldc_admin_answer(l, e, status, type, &t);
}

static void ldc_admin_request(ldcorn *l, ldc_exchange *e, const ldc_head *h) {
    ldc_str path = h->target, query = ldc_util_str("", 0);
    const char *mark = (const char *)memchr(path.p, '?', path.n);
    bool known = false, changes = false;
    ldc_client_make_id(l, e->id);
    if (mark) {
        query = ldc_util_cut(path, (size_t)(mark - path.p));
        path.n = (size_t)(mark - path.p);
    }
    if (ldc_util_starts(path, "/groups/")) {
        ldc_admin_groups(l, e, h, path, query);
        return;
    }
    for (size_t i = 0; i < LDC_LEN(ldc_admin_endpoints); i++) {
        const ldc_endpoint *p = &ldc_admin_endpoints[i];
        const char *rule;
        ldc_why why;
        if (!ldc_util_is(path, p->path)) continue;
        known = true;
        changes = p->changes;
        if (!ldc_util_is(h->method, p->method) && !(e->head_only && !p->changes)) continue;
        why = ldc_admin_allowed(l, e, h, p->changes, p->open, p->any, &rule);
        if (why)
            ldc_admin_refuse(l, e, h, why, rule);
        else
            ldc_admin_do(l, e, h, (int)i, query);
        return;
    }
    if (known)
        ldc_client_reply(l, e, 405, "text/plain",
                         changes ? "Allow: POST\r\n" : "Allow: GET, HEAD\r\n",
                         LDC_S("method not allowed\n"));
    else
        ldc_client_refuse(l, e, LDC_WHY_ROUTE);
}

/* @turn -------------------------------------------------------------------------------------
   One turn of the loop, the graceful stop, the burial, the audit. Read ldc_turn() first. */

enum {
    LDC_SIG_CHILD = 'c',
    LDC_SIG_HUP = 'h',
    LDC_SIG_USR1 = 'u',
    LDC_SIG_STOP = 't',
    LDC_SIG_QUIT = 'q',
    LDC_SIG_NOTHING = 'n'
};

static void ldc_turn_reopen(ldcorn *l) {
    ldc_sink *ours[2];
    int e;
    ours[0] = &l->log.own;
    ours[1] = &l->log.access;
    for (int i = 0; i < 2; i++) {
        e = ours[i]->path ? ldc_log_open(&l->log, ours[i], ours[i]->path) : 0;
        if (e)
            ldc_log_say(&l->log, LDCORN_LOG_ERROR, "cannot reopen %s: %s", ours[i]->path,
                        strerror(e));
    }
    for (ldc_group *g = l->groups; g; g = g->next) {
        for (ldc_worker *w = g->workers; w; w = w->next) {
            e = w->out.path ? ldc_proc_open_file(l, w, w->out.path) : 0;
            if (e)
                ldc_log_say(&l->log, LDCORN_LOG_ERROR, "%s.%d: cannot reopen worker_log %s: %s",
                            g->name, w->index, w->out.path, strerror(e));
        }
    }
    ldc_log_say(&l->log, LDCORN_LOG_INFO, "logs reopened");
}

/* A graceful stop; one at once, if that was asked for a second ago and more. What comes sooner is the
   same hand, or a parent that signals both us and our group. */
static void ldc_turn_ask(ldcorn *l) {
    if (l->stops == 0) {
        l->stops = 1;
        l->stop_at = l->now;
    } else if (l->now - l->stop_at >= 1000000) {
        l->stops = 2;
    }
}

static void ldc_turn_signals(ldcorn *l) {
    char bytes[64];
    ssize_t n;
    while ((n = ldc_util_read(l->signal.fd, bytes, sizeof bytes)) > 0) {
        ldc_loop_progress(&l->signal);
        for (ssize_t i = 0; i < n; i++) {
            if (bytes[i] == LDC_SIG_CHILD)
                l->child_noted = true;
            else if (bytes[i] == LDC_SIG_HUP)
                ldc_reload_begin(l, false);
            else if (bytes[i] == LDC_SIG_USR1)
                ldc_turn_reopen(l);
            else if (bytes[i] == LDC_SIG_STOP)
                ldc_turn_ask(l);
            else if (bytes[i] == LDC_SIG_NOTHING)
                ldc_log_say(&l->log, LDCORN_LOG_WARN,
                            "USR2 and TTIN do nothing here: HUP reloads, `ldcornctl scale` scales");
            else
                l->stops = 2;
        }
    }
}

static void ldc_turn_deep(ldcorn *l);

static void ldc_turn_dispatch(ldcorn *l, ldc_watch *w, short revents) {
    if (!w->hot && (!w->deep || w->busy >= l->loop.swept)) {
        w->hot = true;
        ldc_loop_dirty(l, w);
    }
    w->busy = l->now;
    switch (w->kind) {
    case LDC_KIND_SIGNAL: ldc_turn_signals(l); break;
    case LDC_KIND_LISTENER:
        if (((ldc_listener *)(void *)w)->dial)
            ldc_up_dialled(l, (ldc_listener *)(void *)w);
        else
            ldc_client_accept(l, (ldc_listener *)(void *)w);
        break;
    case LDC_KIND_CLIENT: ldc_client_event(l, (ldc_client *)(void *)w, revents); break;
    case LDC_KIND_UP: ldc_up_event(l, (ldc_up *)(void *)w, revents); break;
    case LDC_KIND_PIPE: ldc_proc_pipe_read(l, (ldc_pipe *)(void *)w, false); break;
    case LDC_KIND_NAMES: ldc_reload_heard(l); break;
    case LDC_KIND_WATCHER: ldc_reload_changes(l); break;
    case LDC_KIND_DEEP: ldc_turn_deep(l); break;
    default: ldc_proc_exec_event(l, (ldc_exec *)(void *)w); break;
    }
}

/* What epoll or kqueue found among the cold ones, all of it: no deadline is judged before. Who was
   found once may stay cold, and may be found twice here. */
static void ldc_turn_deep(ldcorn *l) {
    ldc_ready ready[LDCORN_READY];
    uint32_t looked = 0, all = l->loop.n - l->loop.hot;
    int n;
    ldc_loop_progress(&l->loop.deep);
    do {
        n = ldc_loop_deep_look(l->loop.deep.fd, ready);
        for (int i = 0; i < n; i++) {
            ldc_watch *w = ready[i].watch;
            if (!w->dead && w->want) ldc_turn_dispatch(l, w, ready[i].revents);
        }
        looked += LDCORN_READY;
    } while (n == LDCORN_READY && looked < all);
}

/* Ready for many turns without a byte or a change of state: our mistake or a peer's trick. It is
   told with all we know, and ended, so that the loop never burns. */
static void ldc_turn_spinning(ldcorn *l, ldc_watch *w, short revents) {
    if (++w->spin < LDC_SPIN || w->kind == LDC_KIND_LISTENER || w->kind == LDC_KIND_SIGNAL) return;
    w->spin = 0;
    ldc_log_say(
        &l->log, LDCORN_LOG_ERROR,
        "descriptor %d (kind %d) was ready %d times without progress (want %x, got %x): closed",
        w->fd, w->kind, LDC_SPIN, (unsigned)w->want, (unsigned)revents);
    if (w->kind == LDC_KIND_CLIENT) {
        ldc_client *c = (ldc_client *)(void *)w;
        ldc_log_say(&l->log, LDCORN_LOG_ERROR, "  client %s in %s", c->peer,
                    ldc_client_rows[c->state].name);
        ldc_client_end(l, c, LDC_WHY_SPIN);
    } else if (w->kind == LDC_KIND_UP) {
        ldc_up *u = (ldc_up *)(void *)w;
        ldc_log_say(&l->log, LDCORN_LOG_ERROR, "  worker connection to %s.%d in %s",
                    u->worker->group->name, u->worker->index, ldc_up_rows[u->state].name);
        if (u->exchange)
            ldc_up_failed(l, u, LDC_WHY_SPIN);
        else {
            ldc_up_close(l, u);
            ldc_group_give(l, u, true);
        }
    } else if (w->kind == LDC_KIND_PIPE) {
        ldc_proc_pipe_close(l, (ldc_pipe *)(void *)w);
    }
}

static void ldc_turn_events(ldcorn *l) {
    ldc_loop *o = &l->loop;
    for (uint32_t i = 0; i < o->polled; i++) {
        ldc_watch *w = o->who[i];
        short revents = o->set[i].revents;
        if (revents == 0 || w->dead || w->want == 0) continue;
        ldc_turn_dispatch(l, w, revents);
        if (!w->dead) ldc_turn_spinning(l, w, revents);
    }
}

static void ldc_turn_runnable(ldcorn *l) {
    ldc_client *c = l->runnable;
    l->runnable = NULL;
    l->runnable_end = &l->runnable;
    while (c) {
        ldc_client *next = c->next_runnable;
        c->runnable = false;
        if (c->state == LDC_CLIENT_IDLE && c->in.p) ldc_client_go_on(l, c);
        c = next;
    }
}

/* --- systemd: state as datagrams (sd_notify(3)), and its watchdog --- */

/* False: not now, its queue is full or there is no descriptor. */
static bool ldc_turn_tell(ldcorn *l, const char *state) {
    const char *where = l->running ? getenv("NOTIFY_SOCKET") : NULL;
    struct sockaddr_un to;
    size_t n = where ? strlen(where) : 0;
    int fd;
    bool full;
    ssize_t sent;
    if (n < 2 || n >= sizeof to.sun_path || (where[0] != '/' && where[0] != '@')) return true;
    memset(&to, 0, sizeof to);
    to.sun_family = AF_UNIX;
    memcpy(to.sun_path, where, n);
    if (where[0] == '@') to.sun_path[0] = 0; /* Linux's abstract names */
    fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    if (fd < 0) return false;
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    do
        sent = sendto(fd, state, strlen(state), MSG_DONTWAIT, (struct sockaddr *)&to,
                      (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n));
    while (sent < 0 && errno == EINTR);
    full = sent < 0 && (ldc_util_again() || errno == ENOBUFS);
    if (sent < 0 && !full)
        ldc_log_say(&l->log, LDCORN_LOG_DEBUG, "NOTIFY_SOCKET: %s", strerror(errno));
    close(fd);
    return !full;
}

/* What the manager could not take is kept for a later turn, unless there is something newer: a lost
   READY=1 would make it end us. */
static void ldc_turn_notify(ldcorn *l, const char *state) {
    if (ldc_turn_tell(l, state))
        l->untold[0] = 0;
    else if (state != l->untold)
        snprintf(l->untold, sizeof l->untold, "%s", state);
    l->tell_at = l->now + 100000;
}

/* What `systemctl status` shows: before we are ready what is waited for and why it fails, then what
   is in force, and that the last reload failed. */
static void ldc_turn_state(const ldcorn *l, char out[200]) {
    size_t n =
        (size_t)snprintf(out, 200, l->ready_said ? "generation %d, %d groups" : "waiting for",
                         l->generation, l->conf->groups);
    const char *why = "";
    if (l->ready_said && strcmp(l->reload.result, "failed") == 0)
        snprintf(out + n, 200 - n, "; the last reload failed: %.*s",
                 l->reload.error.p ? (int)strcspn(l->reload.error.p, "\n") : 0,
                 l->reload.error.p ? l->reload.error.p : "");
    for (const ldc_group *g = l->groups; g && !l->ready_said && n < 120; g = g->next) {
        if (g->hidden || g->said_ready || g->conf->s.optional) continue;
        n += (size_t)snprintf(out + n, 200 - n, " %.40s (%d of %d)", g->name, ldc_group_ready(g),
                              ldc_proc_wanted(g, g->conf));
        for (const ldc_worker *w = g->workers; w; w = w->next)
            if (w->last_exit[0] && !why[0]) why = w->last_exit;
    }
    if (why[0] && n < 200) snprintf(out + n, 200 - n, ": %.60s", why);
}

static void ldc_turn_notify_ready(ldcorn *l) {
    char text[224];
    ldc_turn_state(l, l->state);
    snprintf(text, sizeof text, "READY=1\nSTATUS=%s", l->state);
    ldc_turn_notify(l, text);
}

/* When it has changed. */
static void ldc_turn_notify_state(ldcorn *l) {
    char now[200], text[224];
    if (!l->running || l->life != LDC_LIFE_RUN || getenv("NOTIFY_SOCKET") == NULL) return;
    ldc_turn_state(l, now);
    if (strcmp(now, l->state) == 0 || ldc_reload_busy(l)) return;
    memcpy(l->state, now, sizeof now);
    snprintf(text, sizeof text, "STATUS=%s", now);
    ldc_turn_notify(l, text);
}

/* The manager reads the clock itself to tell this reload from an older one. */
static void ldc_turn_notify_reload(ldcorn *l, bool begins) {
    char text[96];
    if (!l->ready_said) return; /* still to come */
    if (!begins) {
        ldc_turn_notify_ready(l);
        return;
    }
    snprintf(text, sizeof text, "RELOADING=1\nMONOTONIC_USEC=%llu\nSTATUS=reloading",
             (unsigned long long)ldc_util_now());
    ldc_turn_notify(l, text);
}

static void ldc_turn_event(const ldcorn *l, ldcorn_event *v, ldcorn_event_kind kind,
                           const char *group) {
    memset(v, 0, sizeof *v);
    v->kind = kind;
    v->group = group;
    v->text = v->id = v->client = "";
    v->worker = -1;
    v->generation = l->generation;
    v->total_ms = v->queue_ms = v->worker_ms = -1;
}

static void ldc_turn_alive(ldcorn *l) {
    if (l->untold[0] && l->now >= l->tell_at) ldc_turn_notify(l, l->untold);
    if (l->alive_every == 0 || l->now < l->alive_at) return;
    l->alive_at = l->now + l->alive_every;
    ldc_turn_tell(l, "WATCHDOG=1");
}

/* --- the graceful stop --- */

static void ldc_turn_kill_all(ldcorn *l, bool late) {
    for (ldc_group *g = l->groups; g; g = g->next) {
        for (ldc_worker *w = g->workers; w; w = w->next) {
            if (w->pid <= 0) continue;
            w->replaced = w->asked = true;
            ldc_group_moved(l, g);
            if (!late) w->killed = true; /* nobody is surprised */
            ldc_proc_kill(l, w);
        }
    }
}

/* The stop begins. With lame_duck balancers first hear that we are not ready, and while they still
   send requests they are answered, each with `Connection: close`. */
static void ldc_turn_stopping(ldcorn *l) {
    int64_t all = l->conf->s.shutdown_timeout, lame = l->conf->s.lame_duck;
    l->stop_by = all < 0 ? 0 : l->now + (uint64_t)all * 1000;
    l->lame_by = lame > 0 ? l->now + (uint64_t)lame * 1000 : 0;
    l->life = LDC_LIFE_LAME;
    if (lame > 0)
        ldc_log_say(&l->log, LDCORN_LOG_INFO, "stopping: not ready, serving for %.1fs more",
                    (double)lame / 1000);
    else
        ldc_log_say(&l->log, LDCORN_LOG_INFO, "stopping");
    /* who waits for the reload after this; a report is written all the same */
    for (ldc_client *c = l->clients, *next; c; c = next) {
        next = c->next;
        if (c->state == LDC_CLIENT_WAIT && !c->exchange->asks)
            ldc_client_refuse(l, c->exchange, LDC_WHY_STOPPING);
    }
    l->reload.again = false;
    ldc_turn_notify(l, "STOPPING=1\nSTATUS=stopping");
    ldc_reload_unwatch(l);
    if (l->reload.state == LDC_RELOAD_SWITCHED)
        ldc_reload_rolled(l);
    else if (ldc_reload_busy(l))
        ldc_reload_undo(l, "stopped meanwhile", 17);
}

/* No new connections and no idle ones; what was asked is still answered. */
static void ldc_turn_drain(ldcorn *l) {
    l->life = LDC_LIFE_DRAIN;
    l->stop_say = l->now + 5000000;
    for (ldc_listener *s = l->listeners; s; s = s->next) {
        if (s->watch.dead || s->admin) continue;
        if (s->dial) continue;   /* what waits may still be served by whoever dials */
        ldc_client_accept(l, s); /* who is in the backlog has been promised an answer */
        ldc_reload_unlisten(l, s);
    }
    ldc_client_dismiss_until(l, 0); /* admin's are not among them */
    for (ldc_client *c = l->clients, *next; c; c = next) {
        next = c->next;
        if (c->state == LDC_CLIENT_ACTIVE) ldc_client_update(l, c);
    }
    for (ldc_group *g = l->groups; g;
         g = g->next) { /* who could only wait for a start is not kept */
        while (g->head && ldc_group_ready(g) == 0) ldc_client_refuse(l, g->head, LDC_WHY_STOPPING);
        if (g->paused) { /* nobody could resume it any more */
            g->paused = false;
            ldc_group_next(l, g);
        }
    }
}

static uint64_t ldc_turn_drain_end(const ldcorn *l) {
    int64_t longest = 0, third = l->conf->s.shutdown_timeout / 3;
    for (int i = 0; i < l->conf->groups; i++) {
        if (l->conf->group[i].source == LDC_FROM_PROCESSES &&
            l->conf->group[i].s.stop_timeout > longest)
            longest = l->conf->group[i].s.stop_timeout;
    }
    return l->stop_by - (uint64_t)(longest < third ? longest : third) * 1000;
}

/* Does a client wait? Tunnels are not waited for, nor what nobody waits for: an orphan ends with its
   worker, which has its own time. */
static bool ldc_turn_inside(const ldcorn *l) {
    for (const ldc_exchange *e = l->exchanges; e; e = e->next) {
        if (e->client && e->client->state != LDC_CLIENT_TUNNEL && !e->client->admin) return true;
    }
    return false;
}

static void ldc_turn_stop_workers(ldcorn *l) {
    l->life = LDC_LIFE_STOP;
    for (ldc_client *c = l->clients, *next; c; c = next) {
        next = c->next;
        if (c->state == LDC_CLIENT_QUEUED || c->state == LDC_CLIENT_BODY)
            ldc_client_refuse(l, c->exchange, LDC_WHY_STOPPING);
        else if (c->state == LDC_CLIENT_TUNNEL && c->exchange->up &&
                 !c->exchange->up->worker->foreign)
            continue; /* the application may say goodbye */
        else if (c->state != LDC_CLIENT_REPLY && c->state != LDC_CLIENT_LINGER && !c->admin)
            ldc_client_end(l, c, LDC_WHY_STOPPING);
    }
    for (ldc_group *g = l->groups; g; g = g->next) {
        for (ldc_worker *w = g->workers; w; w = w->next) {
            if (!w->replaced) ldc_reload_retire(l, w, "stop");
            if (w->state == LDC_PROC_DRAINING) {
                w->drain_by = w->tunnel_by = l->now;
                ldc_proc_draining(l, w);
            }
        }
    }
}

static bool ldc_turn_workers_left(const ldcorn *l) {
    for (const ldc_group *g = l->groups; g; g = g->next) {
        for (const ldc_worker *w = g->workers; w; w = w->next) {
            if (w->pid > 0) return true;
        }
    }
    return false;
}

static bool ldc_turn_flushing(const ldcorn *l) { /* last words of ended workers, last answers */
    for (const ldc_client *c = l->clients; c; c = c->next) {
        if (c->state == LDC_CLIENT_REPLY || (c->state == LDC_CLIENT_WAIT && c->exchange->asks))
            return true;
        if (c->state == LDC_CLIENT_TUNNEL &&
            !(c->exchange->res.end && ldc_relay_waiting(&c->exchange->res) == 0))
            return true;
    }
    return false;
}

/* A stop that takes its time says for what. */
static void ldc_turn_waits(ldcorn *l) {
    char span[24], target[120];
    int said = 0;
    l->stop_say = l->now + 30000000;
    for (const ldc_group *g = l->groups; g; g = g->next) {
        for (const ldc_worker *w = g->workers; w && said < LDC_SAYS; w = w->next) {
            const ldc_exchange *oldest = NULL;
            int n = 0;
            for (const ldc_up *u = w->ups; u; u = u->next) {
                const ldc_exchange *e = u->exchange;
                if (e == NULL || e->client == NULL || u->state == LDC_UP_TUNNEL) continue;
                n++;
                if (oldest == NULL || e->started < oldest->started) oldest = e;
            }
            if (oldest == NULL && (l->life < LDC_LIFE_STOP || w->pid <= 0)) continue;
            said++;
            if (oldest)
                ldc_log_say(&l->log, LDCORN_LOG_INFO,
                            "stopping: %d request%s inside %s.%d: %.*s %s for %s", n,
                            n == 1 ? "" : "s", g->name, w->index,
                            LDC_STR_ARG(ldc_client_word(oldest, 0)),
                            ldc_util_show(ldc_client_word(oldest, 1), target, sizeof target),
                            ldc_util_span((l->now - oldest->started) / 1000000 * 1000, span));
            else
                ldc_log_say(&l->log, LDCORN_LOG_INFO, "stopping: %s.%d (pid %ld) has not ended yet",
                            g->name, w->index, (long)w->pid);
        }
    }
}

static void ldc_turn_life(ldcorn *l) {
    int asked;
    uint64_t named_by = l->reload.began + 7000000; /* the child has a deadline of its own */
    if (l->stop_asked) ldc_turn_ask(l);
    l->stop_asked = 0;
    asked = l->stops;
    if (l->reload.asking && l->now >= named_by)
        ldc_reload_answered(l);
    else if (l->reload.asking && l->life == LDC_LIFE_RUN)
        ldc_loop_timer(l, &l->timer, named_by);
    if (asked && l->life == LDC_LIFE_RUN) ldc_turn_stopping(l);
    if (l->life == LDC_LIFE_LAME && (asked > 1 || l->now >= l->lame_by)) ldc_turn_drain(l);
    if (asked > 1 && l->life < LDC_LIFE_OVER && l->stops_seen <= 1) {
        ldc_log_say(&l->log, LDCORN_LOG_WARN, "stopping at once");
        if (l->life != LDC_LIFE_STOP) ldc_turn_stop_workers(l);
        ldc_turn_kill_all(l, false);
        l->child_noted = true;
    }
    l->stops_seen = asked;
    if (l->life >= LDC_LIFE_DRAIN && l->now >= l->stop_say) ldc_turn_waits(l);
    if (l->life == LDC_LIFE_DRAIN &&
        (!ldc_turn_inside(l) || (l->stop_by && l->now >= ldc_turn_drain_end(l))))
        ldc_turn_stop_workers(l);
    if (l->life == LDC_LIFE_STOP) {
        if (l->stop_by && l->now >= l->stop_by) ldc_turn_kill_all(l, true);
        if (!ldc_turn_workers_left(l) &&
            (!ldc_turn_flushing(l) || (l->stop_by && l->now >= l->stop_by)))
            l->life = LDC_LIFE_OVER;
    }
    if (l->life == LDC_LIFE_LAME || (l->life != LDC_LIFE_RUN && l->stop_by)) {
        uint64_t at = l->life == LDC_LIFE_DRAIN ? ldc_turn_drain_end(l) : l->stop_by;
        if (l->life == LDC_LIFE_LAME) at = l->lame_by;
        if (l->life > LDC_LIFE_LAME && l->stop_say < at) at = l->stop_say;
        ldc_loop_timer(l, &l->timer, at > l->now ? at : l->now + 100000);
    }
}

/* --- what every turn looks after --- */

static void ldc_turn_say_ready(ldcorn *l) {
    bool all = true;
    if (l->ready_said) return;
    for (ldc_group *g = l->groups; g; g = g->next) {
        int wanted = ldc_proc_wanted(g, g->conf), ready = ldc_group_ready(g), starting = 0;
        bool open = g->conf->source == LDC_FROM_DIAL || (wanted == 0 && g->conf->dynamic);
        for (const ldc_worker *w = g->workers; w; w = w->next)
            starting += w->state == LDC_PROC_STARTING;
        if (!g->said_ready && open) {
            g->said_ready = true;
            ldc_log_say(&l->log, LDCORN_LOG_INFO, "%s: waits for workers to %s%s", g->name,
                        g->conf->dynamic ? "join" : "dial in at ",
                        g->conf->dynamic ? "" : g->conf->dial.text);
        } else if (!g->said_ready && (ready >= wanted || (g->conf->addrs && starting == 0))) {
            g->said_ready = true;
            ldc_log_say(&l->log, LDCORN_LOG_INFO, "%s: %d of %d ready, %.1fs", g->name, ready,
                        wanted, ldc_proc_seconds(l->now - l->began));
        }
        all = all && (g->said_ready || g->conf->s.optional);
    }
    if (!all) return;
    l->ready_said = true;
    ldc_turn_notify_ready(l);
    if (l->running)
        ldc_log_say(&l->log, LDCORN_LOG_INFO,
                    "ready after %.1fs. Reload: kill -HUP %ld. Stop: Ctrl-C",
                    ldc_proc_seconds(l->now - l->began), (long)getpid());
    else
        ldc_log_say(&l->log, LDCORN_LOG_INFO, "ready after %.1fs",
                    ldc_proc_seconds(l->now - l->began));
}

/* Descriptors or memory ran out: try again a little later what had to wait. */
static void ldc_turn_starved(ldcorn *l) {
    if (!l->lean || l->now < l->retry_at) return;
    l->lean = false;
    l->upset = true;
    for (ldc_group *g = l->groups; g; g = g->next) {
        if (l->life == LDC_LIFE_RUN) ldc_reload_again(l, g);
        ldc_group_next(l, g);
    }
    if (l->paused && l->clients_count < l->conns_max) ldc_client_pause(l, false);
    for (ldc_listener *s = l->listeners; s; s = s->next)
        if (s->dial && !s->watch.dead) ldc_loop_want(l, &s->watch, POLLIN);
    if (!l->admin_full) ldc_client_admin_open(l);
}

/* At most once a second: it looks at every group. */
static void ldc_turn_reports(ldcorn *l) {
    bool more;
    if (l->report_at == 0 || l->now < l->report_at) return;
    more = !ldc_client_failures_sum(l, "", &l->failures);
    for (ldc_group *g = l->groups; g; g = g->next) {
        more = !ldc_client_failures_sum(l, g->name, &g->failures) || more;
        more = !ldc_group_report(l, g) || more;
    }
    l->report_at = more ? l->now + 1000000 : 0;
}

/* A deadline is over when poll() has looked after it, and what it found has been served: whatever
   came while we got no processor is in time. */
static void ldc_turn_timers(ldcorn *l) {
    ldc_timer *t;
    uint64_t by = l->seen < l->now ? l->seen : l->now;
    int most = 10000; /* a bound for one turn; the rest is due in the next */
    while (most-- > 0 && (t = ldc_loop_due(l, by)) != NULL) {
        if (t->kind == LDC_TIMER_CLIENT) {
            ldc_client *c = (ldc_client *)(void *)((char *)t - offsetof(ldc_client, timer));
            if (c->state != LDC_CLIENT_DEAD) ldc_client_timer(l, c);
        } else if (t->kind == LDC_TIMER_UP) {
            ldc_up *u = (ldc_up *)(void *)((char *)t - offsetof(ldc_up, timer));
            if (u->state != LDC_UP_DEAD) ldc_up_timer(l, u);
        } else if (t->kind == LDC_TIMER_WORKER) {
            ldc_proc_do(l, (ldc_worker *)(void *)((char *)t - offsetof(ldc_worker, timer)),
                        LDC_EV_TIMER);
        }
    }
}

/* --- burial --- */

static void ldc_turn_bury_workers(ldcorn *l) {
    for (ldc_group *g = l->groups; g; g = g->next) {
        for (ldc_worker **at = &g->workers; *at;) {
            ldc_worker *w = *at;
            if (w->state != LDC_PROC_GONE || w->ups || w->pipe[0].watch.dirty ||
                w->pipe[1].watch.dirty || w->exec.watch.dirty) {
                at = &w->next;
                continue;
            }
            *at = w->next;
            ldc_proc_free(l, w);
        }
    }
}

/* The one place where connections are freed. Their descriptors were closed by the settling of
   the set just before. */
static void ldc_turn_bury(ldcorn *l) {
    if ((l->dead_clients || l->dead_ups) && l->paused && l->clients_count < l->conns_max)
        ldc_client_pause(l, false);
    ldc_loop_settle(l);
    while (l->dead_clients) {
        ldc_client *c = l->dead_clients;
        l->dead_clients = c->next;
        ldc_buf_free(&l->mem, &c->in);
        l->loop.timers--;
        memcpy(c, &l->spare_client, sizeof(void *));
        l->spare_client = c;
    }
    while (l->dead_ups) {
        ldc_up *u = l->dead_ups;
        l->dead_ups = u->next;
        ldc_buf_free(&l->mem, &u->in);
        l->loop.timers--;
        memcpy(u, &l->spare_up, sizeof(void *));
        l->spare_up = u;
    }
    for (ldc_listener **at = &l->listeners; *at;) {
        ldc_listener *s = *at;
        if (!s->watch.dead) {
            at = &s->next;
            continue;
        }
        *at = s->next;
        ldc_mem_free(&l->mem, s, sizeof *s);
    }
    if (l->upset) {
        ldc_turn_bury_workers(l);
        ldc_reload_sweep(l);
    }
}

/* What comes free without a slot given back: the place of a tunnel, a key whose worker has changed. */
static void ldc_turn_lines(ldcorn *l) {
    l->look = false;
    for (ldc_group *g = l->groups; g; g = g->next) {
        if (g->head == NULL) continue;
        ldc_group_next(l, g);
        ldc_group_review(l, g); /* whoever is left may have nobody to wait for */
    }
    ldc_turn_bury(l);
}

/* --- audit: everything is counted again --- */
#ifdef LDCORN_AUDIT
/* Of each index at most one serves, or is to: the others are candidates, or on their way out, or
   wait for the one that is to relieve them. */
static void ldc_turn_audit_index(const ldc_group *g, const ldc_worker *w) {
    if (w->replaced || w->relieves || w->candidate || w->state == LDC_PROC_GONE) return;
    for (const ldc_worker *o = g->workers; o; o = o->next)
        LDCORN_ASSERT(o == w || o->index != w->index || o->replaced || o->relieves ||
                      o->candidate || o->state == LDC_PROC_GONE);
}

/* What a rank says of a worker is so: whoever changed that has told it. */
static void ldc_turn_audit_rank(const ldc_group *g) {
    const ldc_rank *r = &g->rank;
    for (int i = 0; i < r->n && r->epoch == g->epoch; i++)
        LDCORN_ASSERT(r->node[r->room + i] ==
                      (ldc_group_takes(r->leaf[i], false) ? r->leaf[i] : NULL));
}

static void ldc_turn_audit_group(ldcorn *l, ldc_group *g) {
    int waiting = 0, orphans = 0;
    ldc_worker *first = NULL;
    uint64_t held = 0;
    for (ldc_exchange *e = g->head; e; e = e->behind) {
        waiting++;
        LDCORN_ASSERT(e->waiting && e->group == g && e->client && e->up == NULL);
        LDCORN_ASSERT(e->behind ? e->behind->ahead == e : g->tail == e);
    }
    LDCORN_ASSERT(waiting == g->queued);
    LDCORN_ASSERT(ldc_group_first(l, g, &first) == NULL || l->lean || l->look);
    for (ldc_exchange *e = l->exchanges; e; e = e->next)
        orphans += e->group == g && e->client == NULL;
    LDCORN_ASSERT(orphans == g->orphans);
    for (ldc_exchange *e = l->exchanges; e; e = e->next) {
        held += e->group == g ? e->held : 0;
        LDCORN_ASSERT(e->group != g || !e->collecting || (e->client && !e->waiting && !e->up));
    }
    LDCORN_ASSERT(held == g->held);
    ldc_turn_audit_rank(g);
    for (ldc_worker *w = g->workers; w; w = w->next) {
        int slots = 0, tunnels = 0, conns = 0, parked = 0;
        for (ldc_up *u = w->ups; u; u = u->next) {
            conns++;
            slots += u->slot;
            tunnels += u->tunnel_slot;
            parked += u->state == LDC_UP_PARKED;
            LDCORN_ASSERT(u->worker == w && u->state != LDC_UP_DEAD);
            LDCORN_ASSERT(u->exchange == NULL || u->exchange->up == u);
            LDCORN_ASSERT(u->state != LDC_UP_PARKED || (u->exchange == NULL && !u->slot));
        }
        LDCORN_ASSERT(slots == w->in_flight && tunnels == w->tunnels && conns == w->conns &&
                      parked == w->parked_count);
        ldc_turn_audit_index(g, w);
    }
}

/* Slots belong to the address: all its workers together have so many taken. */
static void ldc_turn_audit_places(const ldcorn *l) {
    for (const ldc_place *p = l->places; p; p = p->next) {
        int workers = 0, inside = 0, tunnels = 0, checks = 0;
        for (const ldc_group *g = l->groups; g; g = g->next) {
            for (const ldc_worker *w = g->workers; w; w = w->next) {
                workers += w->place == p;
                checks += w->place == p && w->wants;
                inside += w->place == p ? w->in_flight : 0;
                tunnels += w->place == p ? w->tunnels + w->upgrades : 0;
            }
        }
        LDCORN_ASSERT(workers == p->workers && inside == p->inside && tunnels == p->tunnels &&
                      checks == p->checks);
    }
}

/* No connection may stand still for ever, but where the user wrote `none`. */
static void ldc_turn_audit_deadline(const ldcorn *l, const ldc_client *c) {
    const ldcorn_desc *s = c->exchange ? &c->exchange->conf->s : &l->conf->s;
    bool timed = c->state == LDC_CLIENT_IDLE     ? s->keepalive_timeout >= 0
                 : c->state == LDC_CLIENT_HEAD   ? s->header_timeout >= 0
                 : c->state == LDC_CLIENT_REPLY  ? s->send_timeout >= 0
                 : c->state == LDC_CLIENT_LINGER ? true
                 : c->state == LDC_CLIENT_QUEUED ? c->exchange->queue_by != 0
                                                 : false;
    LDCORN_ASSERT(!timed || c->timer.due);
}

static void ldc_turn_audit(ldcorn *l) {
    int dials = 0;
    uint32_t clients = 0;
    uint64_t heads = 0;
    for (ldc_client *c = l->clients; c; c = c->next) {
        clients += !c->admin;
        LDCORN_ASSERT(c->state != LDC_CLIENT_DEAD && !c->watch.dead);
        LDCORN_ASSERT(c->exchange == NULL || c->exchange->client == c);
        LDCORN_ASSERT((c->state == LDC_CLIENT_QUEUED) ==
                      (c->exchange != NULL && c->exchange->waiting));
        LDCORN_ASSERT((c->state == LDC_CLIENT_BODY) ==
                      (c->exchange != NULL && c->exchange->collecting));
        LDCORN_ASSERT(c->state != LDC_CLIENT_IDLE || c->in.p == NULL || c->runnable);
        ldc_turn_audit_deadline(l, c);
        heads += c->head_bytes;
        LDCORN_ASSERT(c->head_bytes == 0 || c->state == LDC_CLIENT_HEAD);
    }
    LDCORN_ASSERT((int)clients == l->clients_count && heads == l->heads_bytes);
    for (ldc_group *g = l->groups; g; g = g->next) {
        ldc_turn_audit_group(l, g);
        for (const ldc_worker *w = g->workers; w; w = w->next) dials += w->dial ? w->conns : 0;
    }
    LDCORN_ASSERT(dials == l->dials);
    ldc_turn_audit_places(l);
    for (int i = 0; i < l->conf->groups && l->life == LDC_LIFE_RUN; i++) {
        const ldc_group *g = ldc_group_find(l, l->conf->group[i].name);
        LDCORN_ASSERT(g && !g->removed && !g->hidden);
    }
    for (uint32_t i = 0; i < l->loop.n;
         i++) { /* each descriptor has one owner, each entry its watch */
        ldc_watch *w = l->loop.who[i];
        LDCORN_ASSERT(w->at == i && w->listed && !w->dead && w->hot == (i < l->loop.hot));
        LDCORN_ASSERT(l->loop.set[i].fd == (w->want ? w->fd : ~w->fd) &&
                      l->loop.set[i].events == w->want);
    }
    LDCORN_ASSERT(l->loop.n == l->loop.watches);
    for (uint32_t i = 0; i < l->loop.due; i++) LDCORN_ASSERT(l->loop.heap[i].timer->at == i + 1);
}
#endif

static void ldc_turn_clock(ldcorn *l) {
    l->now = ldc_util_now();
    l->wall = ldc_util_wall();
    l->turn++;
    l->forks = 0;
}

static int ldc_turn_patience(ldcorn *l, int most) {
    int ms = ldc_loop_timeout(l, most);
    if (l->runnable || l->child_noted || l->upset || l->recycle || l->watch_due || l->freed ||
        l->look || l->reports)
        return 0;
    if ((l->lean || !l->running) && (ms < 0 || ms > 50))
        ms = 50; /* no signals: children are asked */
    if ((l->report_at || l->paused) && (ms < 0 || ms > 1000)) ms = 1000;
    if (l->untold[0] && (ms < 0 || ms > 100)) ms = 100;
    if (l->alive_every) {
        int64_t left = l->alive_at > l->now ? (int64_t)(l->alive_at - l->now) / 1000 : 0;
        if (ms < 0 || left < ms) ms = left > 60000 ? 60000 : (int)left;
    }
    if ((l->log.own.used || l->log.access.used || l->log.err.used || l->log.out.used) &&
        (ms < 0 || ms > 20))
        ms = 20;
    if ((l->stop_asked || l->stops) && l->life == LDC_LIFE_RUN) ms = 0;
    return ms;
}

/* What poll() found is served, and what follows from it; 1 goes on, 0 stopped. */
static int ldc_turn_serve(ldcorn *l) {
    ldc_turn_events(l);
    ldc_turn_runnable(l);
    if (l->child_noted || !l->running) ldc_proc_reap(l);
    ldc_turn_timers(l);
    if (l->freed) ldc_client_freed(l);
    if (l->paused && !l->lean && l->now - l->shed_at >= 1000000 && ldc_client_shed(l))
        ldc_client_pause(l, false);
    ldc_turn_starved(l);
    l->upset = l->upset || l->life != LDC_LIFE_RUN;
    if (l->recycle || l->upset) {
        l->recycle = false;
        for (ldc_group *g = l->groups; g; g = g->next) ldc_proc_recycle(l, g);
    }
    if (l->upset) {
        l->upset = false;
        ldc_reload_advance(l);
        ldc_turn_say_ready(l);
        ldc_turn_notify_state(l);
        ldc_turn_bury(l);
        ldc_turn_bury_workers(l);
        ldc_reload_sweep(l);
    } else {
        ldc_turn_bury(l);
    }
    if (l->watch_due) ldc_reload_watch(l);
    ldc_turn_life(l);
    if (l->look) ldc_turn_lines(l);
    if (l->reports) ldc_admin_report(l);
    ldc_turn_reports(l);
    ldc_turn_alive(l);
#ifdef LDCORN_AUDIT
    ldc_turn_bury(l);
    ldc_turn_audit(l);
#endif
    ldc_log_settle(&l->log);
    return l->life == LDC_LIFE_OVER ? 0 : 1;
}

/* The whole machine on one page. */
static int ldc_turn(ldcorn *l, int timeout) {
    int n, wait;
    ldc_loop_settle(l); /* opened outside a turn */
    ldc_turn_clock(l);
    l->seen = l->now;
    wait = ldc_turn_patience(l, timeout);
    n = ldc_loop_wait(l, wait);
    if (n < 0 && errno != EINTR && errno != EAGAIN) return -1;
    if (n < 0) l->loop.polled = 0;
    if (n == 0 && wait > 0) l->seen += (uint64_t)wait * 1000; /* it looks once more at the end */
    ldc_turn_clock(l);
    return ldc_turn_serve(l);
}

/* @serve ------------------------------------------------------------------------------------
   A small HTTP/1.1 server for C workers, from the same parser and relay. One thread; a handler
   that takes its time holds up only its own process, which is what a group's limit is for. */

enum { LDC_SERVE_CONNS = 256, LDC_SERVE_BODY = 1 << 20 };

typedef struct ldc_serve_conn {
    int fd;
    char *in;
    size_t n, cap;
    ldc_text out;
    size_t sent;
    bool close, eof;
} ldc_serve_conn;

static void ldc_serve_end(ldc_mem *m, ldc_serve_conn *c) {
    close(c->fd);
    ldc_mem_free(m, c->in, c->cap);
    ldc_text_free(&c->out);
    memset(c, 0, sizeof *c);
    c->fd = -1;
}

/* The body behind the head, decoded in place. 1 complete with *used, 0 more, -1 broken. */
static int ldc_serve_body(const ldc_head *h, char *p, size_t n, size_t *size, size_t *used) {
    if (h->frame == LDC_FRAME_CHUNKED) {
        ldc_chunk k;
        char *copy = (char *)malloc(n + 1);
        ptrdiff_t r;
        if (copy == NULL) return -1;
        memcpy(copy, p, n);
        memset(&k, 0, sizeof k);
        r = ldc_chunk_decode(&k, copy, n, size);
        if (r >= 0 && k.state == LDC_CHUNK_DONE) memcpy(p, copy, *size);
        free(copy);
        if (r < 0 || *size > LDC_SERVE_BODY) return -1;
        *used = (size_t)r;
        return k.state == LDC_CHUNK_DONE;
    }
    *size = *used = (size_t)h->length;
    if (h->length > LDC_SERVE_BODY) return -1;
    return n >= h->length;
}

static void ldc_serve_call_handler(ldc_mem *m, ldc_serve_conn *c, ldc_head *h, const char *body,
                                   size_t size, ldcorn_handler handler, void *user) {
    ldc_serve_call in;
    ldcorn_call call;
    ldc_arena arena;
    ldc_str client;
    char next = body[size];
    arena.mem = m;
    arena.head = NULL;
    memset(&in, 0, sizeof in);
    in.mem = m;
    in.head = h;
    in.out = &c->out;
    in.head_only = ldc_util_is(h->method, "HEAD");
    in.close = h->close || (h->minor == 0 && !h->keep_alive);
    in.http10 = h->minor == 0;
    memset(&call, 0, sizeof call);
    client = ldc_http_value(h, LDC_FIELD_REAL_IP); /* written by ldcorn in front */
    call.client = ldc_arena_copy(&arena, client.p, client.n);
    call.method = ldc_arena_copy(&arena, h->method.p, h->method.n);
    call.target = ldc_arena_copy(&arena, h->target.p, h->target.n);
    call.body = body;
    call.body_size = size;
    call.internal = &in;
    ((char *)(uintptr_t)body)[size] = 0; /* there is room, and what stands there is put back */
    if (call.method && call.target && call.client) handler(&call, user);
    ((char *)(uintptr_t)body)[size] = next;
    if (!in.answered) ldcorn_reply(&call, 500, NULL, "no answer\n", 10);
    ldc_arena_free(&arena);
    c->close = c->close || in.close;
}

/* Our last word on this connection. */
static bool ldc_serve_refuse(ldc_serve_conn *c, const char *status) {
    ldc_text_fmt(&c->out, "HTTP/1.1 %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", status);
    c->close = true;
    c->n = 0;
    return true;
}

/* Every complete request in the buffer. False when the connection must end. */
static bool ldc_serve_requests(ldc_mem *m, ldc_serve_conn *c, ldc_head *h, ldcorn_handler handler,
                               void *user) {
    while (c->n && !c->close) {
        size_t line = 0, size = 0, used = 0;
        ptrdiff_t head = ldc_http_end(c->in, c->n, &line);
        int r;
        if (head == LDC_MORE) return c->n < 65536;
        if (head < 0 || ldc_http_request(h, c->in, (size_t)head))
            return ldc_serve_refuse(c, "400 Bad Request");
        r = ldc_serve_body(h, c->in + head, c->n - (size_t)head, &size, &used);
        if (r < 0) {
            fprintf(stderr,
                    "ldcorn_serve: a body over %d bytes, or a broken one: refused with 413\n",
                    (int)LDC_SERVE_BODY);
            return ldc_serve_refuse(c, "413 Content Too Large");
        }
        if (r == 0) {
            if (ldc_http_get(h, LDC_FIELD_EXPECT) && c->n == (size_t)head)
                ldc_text_add(&c->out, "HTTP/1.1 100 Continue\r\n\r\n");
            if (c->n < 65536 + LDC_SERVE_BODY + LDC_SERVE_BODY / 4) return true;
            fprintf(stderr, "ldcorn_serve: a body over %d bytes: refused with 413\n",
                    (int)LDC_SERVE_BODY);
            return ldc_serve_refuse(c, "413 Content Too Large");
        }
        ldc_serve_call_handler(m, c, h, c->in + head, size, handler, user);
        c->n -= (size_t)head + used;
        memmove(c->in, c->in + head + used, c->n);
    }
    return true;
}

/* Writes what waits. False: the connection is over, by an error or because all is said. */
static bool ldc_serve_flush(ldc_serve_conn *c) {
    while (c->sent < c->out.n) {
        ssize_t w = send(c->fd, c->out.p + c->sent, c->out.n - c->sent, LDC_SENDFLAGS);
        if (w < 0 && errno == EINTR) continue;
        if (w < 0) return ldc_util_again();
        c->sent += (size_t)w;
    }
    c->out.n = c->sent = 0;
    return !c->close && !c->out.failed;
}

static bool ldc_serve_read(ldc_mem *m, ldc_serve_conn *c, ldc_head *h, ldcorn_handler handler,
                           void *user) {
    ssize_t n;
    if (c->cap - c->n < 8192) {
        size_t cap = c->cap ? c->cap * 2 : 16384;
        char *p = (char *)ldc_mem_resize(m, c->in, c->cap, cap);
        if (p == NULL) return false;
        c->in = p;
        c->cap = cap;
    }
    n = ldc_util_recv(c->fd, c->in + c->n, c->cap - c->n - 1, 0); /* one for a terminator */
    if (n < 0) return ldc_util_again();
    if (n == 0) return false;
    c->n += (size_t)n;
    return ldc_serve_requests(m, c, h, handler, user) && ldc_serve_flush(c);
}

/* 0; 1 without descriptors, so that a moment later is soon enough; -1 the listener is broken. */
static int ldc_serve_accept(ldc_mem *m, int listen_fd, ldc_serve_conn *conns, int most) {
    for (int i = 0; i < most; i++) {
        struct sockaddr_storage from;
        socklen_t size;
        int fd;
        if (conns[i].fd >= 0) continue;
        fd = ldc_net_accept(listen_fd, &from, &size);
        if (fd < 0 && (errno == EBADF || errno == EINVAL || errno == ENOTSOCK)) return -1;
        if (fd < 0) /* Linux tells by accept() what happened to the connection on its way, too */
            return errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM;
        conns[i].fd = fd;
        ldc_text_init(&conns[i].out, m);
    }
    return 0;
}

/* How many at a time: poll() takes no more entries than there may be descriptors. */
static int ldc_serve_most(void) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) < 0 || files.rlim_cur > LDC_SERVE_CONNS)
        return LDC_SERVE_CONNS;
    return files.rlim_cur > 2 ? (int)files.rlim_cur - 1 : 1;
}

static int ldc_serve_loop(ldc_mem *m, int listen_fd, ldc_serve_conn *conns, struct pollfd *set,
                          ldc_head *h, ldcorn_handler handler, void *user) {
    int starved = 0, most = ldc_serve_most();
    for (;;) {
        int room = 0;
        for (int i = 0; i < most; i++) {
            set[i].fd = conns[i].fd;
            set[i].events = conns[i].out.n ? POLLOUT : POLLIN;
            room += conns[i].fd < 0;
        }
        set[most].fd = room && !starved ? listen_fd : -1;
        set[most].events = POLLIN;
        if (poll(set, (nfds_t)most + 1, starved ? 100 : -1) < 0) {
            if (errno != EINTR) return 1;
            continue;
        }
        for (int i = 0; i < most; i++) {
            bool keep = true;
            if (conns[i].fd < 0 || set[i].revents == 0) continue;
            if (set[i].revents & POLLOUT)
                keep = ldc_serve_flush(&conns[i]);
            else
                keep = ldc_serve_read(m, &conns[i], h, handler, user);
            if (!keep) ldc_serve_end(m, &conns[i]);
        }
        starved = set[most].revents ? ldc_serve_accept(m, listen_fd, conns, most) : 0;
        if (starved < 0) return 1;
    }
}

/* @public -----------------------------------------------------------------------------------
   Thin shells over the above: open, run, step, embed, stop. */

LDCORN_DEF const char *ldcorn_version(void) { return LDCORN_VERSION; }

/* --- what the instances of one process share: the pipes that a signal is written to, what stood there
   before, whose directories are taken. Behind a lock that is held for a few lines. --- */

enum { LDC_PUBLIC_INSTANCES = 64 };

static struct {
    volatile int busy;                       /* the lock */
    volatile int inside;                     /* threads in the handler */
    int running;                             /* instances with handlers */
    volatile int pipe[LDC_PUBLIC_INSTANCES]; /* write ends + 1, 0: none */
    struct sigaction old[16];
    struct {
        dev_t device;
        ino_t inode;
        bool taken;
    } dir[LDC_PUBLIC_INSTANCES];
    int opened; /* instances that have raised the limit of descriptors */
    int deaf;   /* instances for which SIGPIPE is ignored */
    struct sigaction old_pipe;
    struct rlimit files;
} ldc_public_all;

/* A handler in one thread and an instance in another: what was there before `n` was added. Other
   compilers have one thread. */
static int ldc_public_add(volatile int *at, int n) {
#if defined(__GNUC__) || defined(__clang__)
    return __sync_fetch_and_add(at, n);
#else
    *at += n;
    return *at - n;
#endif
}

static void ldc_public_hold(void) {
#if defined(__GNUC__) || defined(__clang__)
    while (__sync_lock_test_and_set(&ldc_public_all.busy, 1)) poll(NULL, 0, 1);
#endif
}

static void ldc_public_release(void) {
#if defined(__GNUC__) || defined(__clang__)
    __sync_lock_release(&ldc_public_all.busy);
#endif
}

static void ldc_public_mem(ldc_mem *m, const ldcorn_desc *desc) {
    memset(m, 0, sizeof *m);
    m->hook = desc->allocator;
    if (m->hook.resize == NULL) m->hook.resize = ldc_mem_default;
}

static void ldc_public_fail(ldcorn_error *error, int status, const ldc_origin *at,
                            const char *format, ...) LDC_PRINTF(4, 5);
static void ldc_public_fail(ldcorn_error *error, int status, const ldc_origin *at,
                            const char *format, ...) {
    va_list list;
    size_t n;
    memset(error, 0, sizeof *error);
    error->status = status;
    memcpy(error->text, "ldcorn: ", 8);
    va_start(list, format);
    vsnprintf(error->text + 8, sizeof error->text - 64, format, list);
    va_end(list);
    n = strlen(error->text);
    if (at && at->file && at->line) {
        error->line = at->line;
        error->column = at->column;
        snprintf(error->file, sizeof error->file, "%s", at->file->name);
        n += (size_t)snprintf(error->text + n, sizeof error->text - n, " (%s:%d)", at->file->name,
                              at->line);
        if (n >= sizeof error->text) n = sizeof error->text - 2;
    }
    snprintf(error->text + n, sizeof error->text - n, "\n");
}

static const char *ldc_public_copy(ldc_arena *a, const char *z, bool *ok) {
    const char *copy = z ? ldc_arena_copy(a, z, strlen(z)) : NULL;
    if (z && copy == NULL) *ok = false;
    return copy;
}

static const char *const *ldc_public_copy_list(ldc_arena *a, const char *const *list, bool *ok) {
    size_t n = 0;
    const char **copy;
    if (list == NULL) return NULL;
    while (list[n]) n++;
    copy = (const char **)ldc_arena_take(a, (n + 1) * sizeof *copy);
    for (size_t i = 0; copy && i < n; i++) copy[i] = ldc_public_copy(a, list[i], ok);
    if (copy == NULL) *ok = false;
    return copy;
}

static void ldc_public_copy_keys(ldc_arena *a, void *desc, int scope, bool *ok) {
    for (int i = 0; i < LDC_KEY_COUNT; i++) {
        const ldc_key *k = &ldc_conf_keys[i];
        char *field = (char *)desc + k->offset;
        if (k->scope != scope) continue;
        if (k->type == LDC_WORDS) {
            const char *const *list;
            memcpy(&list, field, sizeof list);
            list = ldc_public_copy_list(a, list, ok);
            memcpy(field, &list, sizeof list);
        } else if (k->type == LDC_TEXT || k->type == LDC_COMMAND) {
            const char *z;
            memcpy(&z, field, sizeof z);
            z = ldc_public_copy(a, z, ok);
            memcpy(field, &z, sizeof z);
        }
    }
}

/* The host may free what it gave us; a reload reads the desc again. */
static bool ldc_public_copy_desc(ldcorn *l, const ldcorn_desc *desc) {
    bool ok = true;
    ldcorn_group_desc *groups;
    l->desc = *desc;
    l->desc.file = ldc_public_copy(&l->host, desc->file, &ok);
    l->desc.set = ldc_public_copy_list(&l->host, desc->set, &ok);
    l->desc.command = ldc_public_copy_list(&l->host, desc->command, &ok);
    ldc_public_copy_keys(&l->host, &l->desc, LDC_SCOPE_GLOBAL, &ok);
    if (desc->group_count <= 0) return ok;
    groups =
        (ldcorn_group_desc *)ldc_arena_take(&l->host, (size_t)desc->group_count * sizeof *groups);
    if (groups == NULL) return false;
    if (desc->groups == NULL) return l->desc.groups = NULL, ok; /* told when it is read */
    memcpy(groups, desc->groups, (size_t)desc->group_count * sizeof *groups);
    for (int i = 0; i < desc->group_count; i++) {
        groups[i].name = ldc_public_copy(&l->host, desc->groups[i].name, &ok);
        ldc_public_copy_keys(&l->host, &groups[i], LDC_SCOPE_GROUP, &ok);
    }
    l->desc.groups = groups;
    return ok;
}

/* What a killed predecessor had just forked holds its listeners until it is dead, too: there is a
   second for that. */
static bool ldc_public_bind(ldcorn *l, ldcorn_error *error) {
    const ldc_addr *bad = NULL;
    uint64_t until = ldc_util_now() + 1000000;
    const char *why;
    int e;
    while ((e = ldc_reload_listen(l, l->conf, NULL, &bad)) == EADDRINUSE && ldc_util_now() < until)
        poll(NULL, 0, 20);
    why = ldc_reload_listen_error(bad, e);
    if (e == 0) {
        for (ldc_listener *s = l->listeners; s; s = s->next) s->fresh = false;
        return true;
    }
    ldc_public_fail(error, 1, &bad->at, "cannot listen on %s: %s", bad->text, why);
    return false;
}

/* We hold the lock, so the sockets in here belong to nobody that lives. */
static void ldc_public_sweep(ldcorn *l, const char *dir, bool deep) {
    DIR *d = opendir(dir);
    int ended;
    struct dirent *entry;
    struct stat st;
    char path[PATH_MAX + 256];
    if (d == NULL) return;
    while ((entry = readdir(d)) != NULL) {
        const char *name = entry->d_name;
        uint64_t uid;
        snprintf(path, sizeof path, "%s/%s", dir, name);
        if (lstat(path, &st) < 0) continue;
        if (S_ISDIR(st.st_mode)) {
            if (!deep || strncmp(name, "uid-", 4) != 0 ||
                !ldc_util_number(ldc_util_z(name + 4), UINT32_MAX, &uid) || uid != st.st_uid)
                continue;
            ldc_public_sweep(l, path, false);
            rmdir(path);
            continue;
        }
        if (deep && S_ISREG(st.st_mode) && (ended = ldc_proc_leftover(path, name, NULL)) > 0)
            ldc_text_fmt(
                &l->warned,
                "an earlier ldcorn left %d process%s of a worker behind (process group %s): "
                "ended\n",
                ended, ended == 1 ? "" : "es", name + 4);
        if (deep && !S_ISSOCK(st.st_mode)) continue; /* below, what workers have left goes too */
        l->made_dir =
            l->made_dir || getenv("RUNTIME_DIRECTORY") == NULL; /* a predecessor's leftover */
        unlink(path);
    }
    closedir(d);
}

/* Locks of fcntl() are the process's: what another instance of it has locked is known here. Looked at
   before the file is opened, since closing it would lift the lock. */
static bool ldc_public_claim(ldcorn *l, const struct stat *dir, ldcorn_error *error) {
    const char *path = l->conf->s.runtime_dir;
    bool taken = false;
    ldc_public_hold();
    for (int i = 0; i < LDC_PUBLIC_INSTANCES; i++)
        taken =
            taken || (ldc_public_all.dir[i].taken && ldc_public_all.dir[i].device == dir->st_dev &&
                      ldc_public_all.dir[i].inode == dir->st_ino);
    for (int i = 0; i < LDC_PUBLIC_INSTANCES && !taken && l->dir_at == 0; i++) {
        if (ldc_public_all.dir[i].taken) continue;
        ldc_public_all.dir[i].taken = true;
        ldc_public_all.dir[i].device = dir->st_dev;
        ldc_public_all.dir[i].inode = dir->st_ino;
        l->dir_at = i + 1;
    }
    ldc_public_release();
    if (taken)
        ldc_public_fail(error, 1, NULL,
                        "cannot use runtime_dir %s: another instance in this process (pid %ld) "
                        "does; give each its own",
                        path, (long)getpid());
    else if (l->dir_at == 0)
        ldc_public_fail(error, 1, NULL,
                        "cannot use runtime_dir %s: there are %d instances in this process, which "
                        "is the most",
                        path, LDC_PUBLIC_INSTANCES);
    return l->dir_at > 0;
}

static void ldc_public_unclaim(ldcorn *l) {
    if (l->dir_at == 0) return;
    ldc_public_hold();
    ldc_public_all.dir[l->dir_at - 1].taken = false;
    ldc_public_release();
}

/* A word as a shell reads it. */
static void ldc_public_word(ldc_text *t, const char *word) {
    bool plain = word[0] && word[0] != '-';
    for (const char *p = word; *p; p++)
        plain = plain && (isalnum((unsigned char)*p) || strchr("_./:@%+,-[]", *p));
    if (!plain) ldc_text_add(t, "'");
    for (const char *p = word; *p; p++) {
        if (*p == '\'')
            ldc_text_add(t, "'\\''");
        else
            ldc_text_put(t, p, 1);
    }
    if (!plain) ldc_text_add(t, "'");
}

/* Was it said by -o or a desc, where nobody finds it who looks into the file? */
static bool ldc_public_unwritten(const ldc_conf *c, int id) {
    const ldc_setting *said = &c->globals->said[id];
    return said->set && (said->at.file == NULL || ldc_conf_by_option(said->at.file));
}

/* The command that reaches us, as it can be typed where we were started. */
static void ldc_public_ctl(ldc_text *t, const ldc_conf *c, const char *command) {
    bool file = c->file && !ldc_public_unwritten(c, LDC_KEY_admin) &&
                !ldc_public_unwritten(c, LDC_KEY_runtime_dir);
    ldc_text_add(t, "ldcornctl ");
    if (file ? strcmp(c->file, "groups.ini") != 0 : c->admins > 0) {
        ldc_public_word(t, file ? c->file : c->admin[0].text);
        ldc_text_add(t, " ");
    }
    ldc_text_add(t, command);
}

/* 0700 and ours; a lock inside tells a living owner from a dead one. */
static bool ldc_public_runtime_dir(ldcorn *l, ldcorn_error *error) {
    const char *dir = l->conf->s.runtime_dir;
    ldc_text ctl;
    char path[PATH_MAX];
    struct stat st;
    struct flock lock;
    size_t n;
    if (mkdir(dir, 0700) == 0)
        l->made_dir = true;
    else if (errno != EEXIST) {
        ldc_public_fail(error, 1, NULL, "cannot make runtime_dir %s: %s", dir, strerror(errno));
        return false;
    }
    if (lstat(dir, &st) < 0 || !S_ISDIR(st.st_mode) || st.st_uid != geteuid()) {
        ldc_public_fail(error, 1, NULL, "runtime_dir %s is a link, no directory, or not ours", dir);
        return false;
    }
    if ((st.st_mode & 077) && chmod(dir, 0700) < 0) {
        ldc_public_fail(error, 1, NULL, "runtime_dir %s: %s", dir, strerror(errno));
        return false;
    }
    if (!ldc_public_claim(l, &st, error)) {
        l->made_dir = false;
        return false;
    }
    snprintf(path, sizeof path, "%s/lock", dir);
    l->lock = ldc_util_open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (l->lock < 0) {
        ldc_public_fail(error, 1, NULL, "cannot open %s: %s", path, strerror(errno));
        return false;
    }
    memset(&lock, 0, sizeof lock);
    lock.l_type = F_WRLCK;
    if (fcntl(l->lock, F_SETLK, &lock) == 0) {
        l->locked = true;
        ldc_public_sweep(l, dir, true);
        return true;
    }
    lock.l_type = F_WRLCK;
    lock.l_pid = 0;
    fcntl(l->lock, F_GETLK, &lock);
    if (ldc_public_bind(l, error))
        ldc_public_fail(error, 1, NULL, "cannot use runtime_dir %s: it is taken", dir);
    n = strlen(error->text);
    ldc_text_init(&ctl, &l->mem);
    ldc_public_ctl(&ctl, l->conf, "reload");
    snprintf(error->text + n, sizeof error->text - n,
             "  ldcorn pid %ld already runs with this file: `%s` or `kill -HUP %ld` reloads it\n",
             (long)lock.l_pid, ctl.p ? ctl.p : "ldcornctl reload", (long)lock.l_pid);
    ldc_text_free(&ctl);
    return false;
}

static void ldc_public_words(ldc_text *t, const char *before, const char *const *word) {
    if (word && *word && t->n) ldc_text_add(t, before);
    for (const char *const *w = word; w && *w; w++)
        ldc_text_fmt(t, "%s%s", w > word ? " " : "", *w);
}

/* "  ml      /predict /embed               2 workers, 1 request each, queue 64, wait 2m, run 2m" */
static void ldc_public_group_line(ldc_text *t, const ldc_gconf *g) {
    ldc_text routes;
    char queue[24] = "none", wait[24] = "none", run[24];
    int wanted = ldc_proc_wanted(NULL, g);
    if (g->s.queue != INT32_MAX) snprintf(queue, sizeof queue, "%lld", (long long)g->s.queue);
    if (g->s.queue_timeout >= 0) ldc_util_span((uint64_t)g->s.queue_timeout, wait);
    ldc_text_init(&routes, t->mem);
    ldc_public_words(&routes, "", g->s.routes);
    ldc_public_words(&routes, " of ", g->s.hosts);
    ldc_public_words(&routes, " with ", g->s.match);
    ldc_text_fmt(t, "  %-7s %-29s ", g->name, routes.p ? routes.p : "(no routes)");
    ldc_text_free(&routes);
    if (g->source == LDC_FROM_DIAL)
        ldc_text_fmt(t, "up to %lld workers dial in at %s", (long long)g->s.workers, g->dial.text);
    else
        ldc_text_fmt(t, "%d worker%s", wanted, wanted == 1 ? "" : "s");
    if (!g->limited)
        ldc_text_add(t, ", no limit");
    else if (g->source != LDC_FROM_DIAL)
        ldc_text_fmt(t, ", %lld request%s each", (long long)g->s.max_req_per_worker,
                     g->s.max_req_per_worker == 1 ? "" : "s");
    if (g->limited) ldc_text_fmt(t, ", queue %s, wait %s", queue, wait);
    if (g->s.run_timeout > 0)
        ldc_text_fmt(t, ", run %s", ldc_util_span((uint64_t)g->s.run_timeout, run));
    if (g->reload == LDC_OFF) ldc_text_add(t, ", kept on reload");
    ldc_text_add(t, "\n");
}

/* Groups in the order in which their routes are tried. */
static void ldc_public_group_lines(ldc_text *t, const ldc_conf *c) {
    for (int n = 0, shown = 0; n < c->routes + c->groups && shown < c->groups; n++) {
        int index = n < c->routes ? c->route[n].group : n - c->routes;
        bool before = false;
        for (int j = 0; j < n && j < c->routes; j++) before = before || c->route[j].group == index;
        if (before) continue;
        shown++;
        ldc_public_group_line(t, &c->group[index]);
    }
}

static void ldc_public_start_line(ldcorn *l) { /* for logs of one line each */
    const ldc_conf *c = l->conf;
    ldc_text t;
    ldc_text_init(&t, &l->mem);
    for (int i = 0; i < c->listens; i++) ldc_text_fmt(&t, " %s", c->listen[i].text);
    ldc_log_say(&l->log, LDCORN_LOG_INFO,
                "ldcorn " LDCORN_VERSION ", pid %ld%s%s, listen%s, admin %s", (long)getpid(),
                c->file ? ", " : "", c->file ? c->file : "", t.p ? t.p : "",
                c->admins ? c->admin[0].text : "off");
    ldc_text_free(&t);
}

static void ldc_public_start_text(ldcorn *l) {
    const ldc_conf *c = l->conf;
    ldc_text t;
    const char *where = c->group[0].log_path;
    if (l->log.level < LDCORN_LOG_INFO) return;
    if (l->log.json || l->log.hook.line) {
        ldc_public_start_line(l);
        return;
    }
    ldc_text_init(&t, &l->mem);
    ldc_text_fmt(&t, "ldcorn " LDCORN_VERSION ", pid %ld%s%s\n", (long)getpid(),
                 c->file ? ", " : "", c->file ? c->file : "");
    for (int i = 0; i < c->listens; i++) {
        const char *text = c->listen[i].text;
        ldc_text_fmt(&t, "  listen  %s%s%s\n",
                     c->listen[i].u.any.sa_family == AF_UNIX || c->listen[i].inherited ? ""
                     : c->listen[i].https                                              ? "https://"
                                                                                       : "http://",
                     text[0] == ':' ? "0.0.0.0" : "", text);
    }
    for (int i = 0; i < c->admins; i++) {
        bool file = c->admin[i].u.any.sa_family == AF_UNIX;
        ldc_text_fmt(&t, "  admin   %s%s%s", file ? "" : "http://", c->admin[i].text,
                     file ? "" : "/");
        if (i == 0) {
            ldc_text_add(&t, "        ");
            ldc_public_ctl(&t, c, "status");
        }
        ldc_text_add(&t, "\n");
    }
    if (c->admins == 0) ldc_text_add(&t, "  admin   off\n");
    ldc_public_group_lines(&t, c);
    for (int i = 1; i < c->groups; i++) {
        if (strcmp(c->group[i].log_path, where) != 0) where = "several targets";
    }
    ldc_text_fmt(&t, "  logs    workers to %s; access log %s%s\n", where, c->s.access_log,
                 strcmp(c->s.access_log, "off") == 0 ? " (access_log = stdout)" : "");
    if (!t.failed) ldc_log_write(&l->log, &l->log.own, t.p, t.n);
    ldc_text_free(&t);
}

/* The soft limit goes up to the hard one for as long as any instance is open. */
static void ldc_public_raise_files(ldcorn *l) {
    struct rlimit most;
    if (getrlimit(RLIMIT_NOFILE, &l->files) < 0) return;
    ldc_public_hold();
    if (ldc_public_all.opened++ == 0)
        ldc_public_all.files = l->files;
    else
        l->files = ldc_public_all.files; /* what it was before the first of us */
    ldc_public_release();
    l->raised = true;
    most = l->files;
    most.rlim_cur = most.rlim_max;
    setrlimit(RLIMIT_NOFILE, &most);
}

static void ldc_public_lower_files(ldcorn *l) {
    bool last;
    if (!l->raised) return;
    ldc_public_hold();
    last = --ldc_public_all.opened == 0;
    ldc_public_release();
    if (last) setrlimit(RLIMIT_NOFILE, &l->files);
}

static bool ldc_public_groups(ldcorn *l) {
    for (int i = 0; i < l->conf->groups; i++) {
        const ldc_gconf *as = &l->conf->group[i];
        ldc_group *g = ldc_reload_group(l, l->conf, as);
        if (g == NULL) return false;
        g->hidden = false;
        for (int w = 0; w < ldc_proc_wanted(NULL, as); w++) {
            if (ldc_proc_new(l, g, l->conf, as, w) == NULL) return false;
        }
    }
    return true;
}

static bool ldc_public_names(ldcorn *l, ldcorn_error *error) {
    ldc_text t;
    bool ok;
    ldc_text_init(&t, &l->mem);
    ok = ldc_reload_resolve(l, l->conf, &t);
    if (!ok) ldc_public_fail(error, 1, NULL, "%.*s", (int)(t.n ? t.n - 1 : 0), t.p ? t.p : "");
    ldc_text_free(&t);
    return ok;
}

static bool ldc_public_pid_file(ldcorn *l, ldcorn_error *error) {
    const char *path = l->conf->s.pid_file;
    char text[24];
    int n = snprintf(text, sizeof text, "%ld\n", (long)getpid());
    struct stat st;
    bool ok = false;
    if (path == NULL) return true;
    l->pid_fd = ldc_util_open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0644);
    if (l->pid_fd >= 0 && fstat(l->pid_fd, &st) == 0) {
        errno = EINVAL;
        ok = S_ISREG(st.st_mode) && ftruncate(l->pid_fd, 0) == 0 &&
             ldc_util_write(l->pid_fd, text, (size_t)n) == n;
    }
    if (!ok)
        ldc_public_fail(error, 1, ldc_conf_at(l->conf->globals, LDC_KEY_pid_file),
                        "cannot write pid_file %s: %s", path, strerror(errno));
    if (!ok && l->pid_fd >= 0) {
        close(l->pid_fd);
        l->pid_fd = -1;
    }
    return ok;
}

/* Removed if it is still the one that we wrote, or at least emptied: after run_as its directory
   may be somebody else's. */
static void ldc_public_unpid(ldcorn *l) {
    struct stat ours, there;
    const char *path = l->conf ? l->conf->s.pid_file : NULL;
    if (l->pid_fd < 0 || path == NULL) return;
    if (fstat(l->pid_fd, &ours) == 0 && lstat(path, &there) == 0 && ours.st_ino == there.st_ino &&
        ours.st_dev == there.st_dev && unlink(path) < 0 && ftruncate(l->pid_fd, 0) < 0)
        ldc_log_say(&l->log, LDCORN_LOG_WARN, "pid_file %s: %s", path, strerror(errno));
    close(l->pid_fd);
    l->pid_fd = -1;
}

/* run_as. Where root is needed, that is done: ports, pid_file, the directory itself. The rest, down
   to the lock in it, is made as who we are then, so that nothing in there can lead root astray. */
static bool ldc_public_become(ldcorn *l, ldcorn_error *error) {
    const ldc_user *u = &l->conf->run_as;
    const char *dir = l->conf->s.runtime_dir;
    const ldc_addr *bad = NULL;
    struct stat st;
    bool made = mkdir(dir, 0700) == 0;
    if (lstat(dir, &st) < 0 || !S_ISDIR(st.st_mode) || (st.st_uid != 0 && st.st_uid != u->uid)) {
        ldc_public_fail(error, 1, NULL, "runtime_dir %s is a link, no directory, or not ours", dir);
        return false;
    }
    l->made_dir = made;
    if (ldc_reload_listen(l, l->conf, dir, &bad) == 0) ldc_public_pid_file(l, error);
    for (const ldc_listener *s = l->listeners; s; s = s->next) {
        if (s->inode && lchown(s->addr.u.un.sun_path, u->uid, u->gid) < 0) {
            ldc_public_fail(error, 1, NULL, "%s: %s", s->addr.u.un.sun_path, strerror(errno));
            return false;
        }
    }
    if (st.st_uid == 0 && lchown(dir, u->uid, u->gid) < 0) {
        ldc_public_fail(error, 1, NULL, "runtime_dir %s: %s", dir, strerror(errno));
        return false;
    }
    if (!ldc_net_become(u)) {
        ldc_public_fail(error, 1, ldc_conf_at(l->conf->globals, LDC_KEY_run_as),
                        "cannot become %s: %s", u->name, strerror(errno));
        return false;
    }
    return true; /* who has the addresses is said by the lock, or by a second try */
}

static bool ldc_public_start(ldcorn *l, ldcorn_error *error) {
    int fd[2];
    if (l->conf->run_as.set && !ldc_public_become(l, error)) return false;
    if (!ldc_public_runtime_dir(l, error)) return false;
    ldc_public_raise_files(l);
    ldc_reload_limits(l);
    l->scratch = (char *)ldc_mem_resize(&l->mem, NULL, 0, LDC_SCRATCH);
    if (l->scratch == NULL || !ldc_reload_room(l, l->conf) || !ldc_loop_reserve_timer(l)) {
        ldc_public_fail(error, 1, NULL, "out of memory");
        return false;
    }
    l->loop.timers++;
    l->timer.kind = LDC_TIMER_LIFE;
    l->reserve = ldc_util_open("/dev/null", O_RDONLY | O_CLOEXEC, 0);
    if (!ldc_net_pipe(fd)) {
        ldc_public_fail(error, 1, NULL, "cannot make a pipe: %s", strerror(errno));
        return false;
    }
    l->signal_out = fd[1];
    if (!ldc_net_flags(fd[0]) || !ldc_net_flags(fd[1]) ||
        !ldc_loop_open(l, &l->signal, fd[0], LDC_KIND_SIGNAL, POLLIN)) {
        ldc_public_fail(error, 1, NULL, "cannot watch a pipe: %s", strerror(errno));
        close(fd[0]);
        return false;
    }
    if (!ldc_public_names(l, error) || !ldc_public_bind(l, error) ||
        (l->pid_fd < 0 && !ldc_public_pid_file(l, error)))
        return false;
    if (!ldc_public_groups(l)) {
        ldc_public_fail(error, 1, NULL, "out of memory");
        return false;
    }
    ldc_reload_logs(l);
    if ((l->log.own.fd < 0 && strcmp(l->conf->s.log, "off") != 0) ||
        (l->log.access.fd < 0 && strcmp(l->conf->s.access_log, "off") != 0)) {
        int id = l->log.own.fd < 0 && strcmp(l->conf->s.log, "off") != 0 ? LDC_KEY_log
                                                                         : LDC_KEY_access_log;
        ldc_public_fail(error, 1, ldc_conf_at(l->conf->globals, id), "cannot open %s %s",
                        ldc_conf_keys[id].name,
                        id == LDC_KEY_log ? l->conf->s.log : l->conf->s.access_log);
        return false;
    }
    ldc_public_start_text(l);
    ldc_reload_warned(l);
    l->upset = l->watch_due = true; /* the first turn looks at everything */
    return true;
}

LDCORN_DEF ldcorn *ldcorn_open(const ldcorn_desc *desc, ldcorn_error *error) {
    ldcorn_error unread;
    ldc_mem mem;
    ldcorn *l;
    bool ok = true;
    if (error == NULL) error = &unread;
    ldc_public_mem(&mem, desc);
    l = (ldcorn *)ldc_mem_zero(&mem, sizeof *l);
    if (l == NULL) {
        ldc_public_fail(error, 1, NULL, "out of memory");
        return NULL;
    }
    l->mem = mem;
    l->host.mem = l->log.mem = &l->mem;
    l->log.hook = desc->logger;
    l->log.own.fd = l->log.access.fd = -1;
    l->log.level = LDCORN_LOG_INFO;
    l->log.err.fd = 2;
    l->log.out.fd = 1;
    ldc_log_look(&l->log.err);
    ldc_log_look(&l->log.out);
    l->signal_out = l->reserve = l->lock = l->pipe[0] = l->pipe[1] = l->pid_fd = -1;
    for (int n = 3; n < LDC_INHERITED_MOST; n++) {
        if (ldc_net_listens(n)) l->inherited[n / 8] |= (unsigned char)(1 << n % 8);
    }
    l->signal.fd = -1;
    l->owner = getpid();
    l->seen = UINT64_MAX;
    l->generation = 1;
    l->runnable_end = &l->runnable;
    ldc_text_init(&l->warned, &l->mem);
    ldc_text_init(&l->reload.error, &l->mem);
    ldc_turn_clock(l);
    l->began = l->refusals_at = l->now;
    l->id_seed = l->now * 2654435761U ^ l->wall ^ (uint64_t)getpid() << 40;
    snprintf(l->via, sizeof l->via, "ldcorn-%08x", (unsigned)(ldc_util_mix(l->id_seed) >> 32));
    if (!ldc_public_copy_desc(l, desc))
        ldc_public_fail(error, 1, NULL, "out of memory");
    else {
        l->home = ldc_conf_home(&l->host);
        l->conf = ldc_conf_read(&l->mem, &l->desc, &l->home, error, &l->warned);
        if (l->conf && !l->conf->globals->said[LDC_KEY_runtime_dir].set)
            l->home.runtime_dir = ldc_public_copy(&l->host, l->conf->s.runtime_dir, &ok);
        if (!ok) ldc_public_fail(error, 1, NULL, "out of memory");
        if (ok && l->conf && ldc_public_start(l, error)) return l;
    }
    ldcorn_close(l);
    return NULL;
}

LDCORN_DEF int ldcorn_step(ldcorn *l, int timeout_ms) { return ldc_turn(l, timeout_ms); }

LDCORN_DEF int ldcorn_timeout(ldcorn *l) {
    ldc_loop_settle(l);
    ldc_turn_clock(l);
    l->seen = l->now;
    return ldc_turn_patience(l, -1);
}

LDCORN_DEF int ldcorn_collect(ldcorn *l, struct pollfd *set, int room) {
    int n;
    ldc_loop_settle(l);
    n = (int)ldc_loop_polls(&l->loop);
    if (n <= room) memcpy(set, l->loop.set, (size_t)n * sizeof *set);
    return n;
}

LDCORN_DEF int ldcorn_dispatch(ldcorn *l, const struct pollfd *set, int n) {
    ldc_turn_clock(l);
    l->loop.polled = 0;
    if (n ==
        (int)ldc_loop_polls(&l->loop)) { /* nothing was added or removed since ldcorn_collect */
        for (int i = 0; i < n; i++)
            l->loop.set[i].revents = set[i].fd == l->loop.set[i].fd ? set[i].revents : 0;
        l->loop.polled = (uint32_t)n;
    }
    n = ldc_turn_serve(l);
    l->seen = UINT64_MAX; /* of a host that does not ask for the time */
    return n;
}

LDCORN_DEF bool ldcorn_child(ldcorn *l, pid_t pid, int status) {
    for (ldc_group *g = l->groups; g; g = g->next) {
        for (ldc_worker *w = g->workers; w; w = w->next) {
            if (w->pid != pid) continue;
            kill(-pid, SIGKILL);
            ldc_proc_ended(l, w, status, true);
            return true;
        }
    }
    return false;
}

LDCORN_DEF void ldcorn_stop(ldcorn *l) {
    char byte = LDC_SIG_STOP;
    int saved = errno;
    if (ldc_util_write(l->signal_out, &byte, 1) < 0)
        l->stop_asked = 1; /* a full pipe wakes us anyway */
    errno = saved;
}

LDCORN_DEF int ldcorn_reload(ldcorn *l, ldcorn_error *error) {
    ldcorn_error unread;
    if (error == NULL) error = &unread;
    if (l->life != LDC_LIFE_RUN) {
        ldc_public_fail(error, 1, NULL, "is stopping");
        return -1;
    }
    ldc_reload_begin(l, false);
    return 0;
}

/* --- calls of a host --- */

static int ldc_public_do(ldcorn *l, const char *group, const char *path, const char *query,
                         ldcorn_error *error) {
    ldc_text t;
    int status;
    ldcorn_error unread;
    if (error == NULL) error = &unread;
    ldc_text_init(&t, &l->mem);
    ldc_turn_clock(l);
    status =
        ldc_admin_ask(l, NULL, &t, false, ldc_util_z(group), ldc_util_z(path), ldc_util_z(query));
    l->upset = true;
    if (status >= 400)
        ldc_public_fail(error, 1, NULL, "%.*s", (int)(t.n ? t.n - 1 : 0), t.p ? t.p : "");
    ldc_text_free(&t);
    return status < 400 ? 0 : -1;
}

/* `of_group` for worker -1, else `of_worker` for that one. */
static int ldc_public_one(ldcorn *l, const char *group, int worker, const char *of_group,
                          const char *of_worker, ldcorn_error *error) {
    char path[48];
    snprintf(path, sizeof path, "workers/%d/%s", worker, of_worker);
    return ldc_public_do(l, group, worker < 0 ? of_group : path, "", error);
}

LDCORN_DEF int ldcorn_scale(ldcorn *l, const char *group, int workers, ldcorn_error *error) {
    char query[32];
    snprintf(query, sizeof query, "?workers=%d", workers);
    return ldc_public_do(l, group, "scale", query, error);
}

LDCORN_DEF int ldcorn_restart(ldcorn *l, const char *group, int worker, ldcorn_error *error) {
    return ldc_public_one(l, group, worker, "restart", "restart", error);
}

LDCORN_DEF int ldcorn_pause(ldcorn *l, const char *group, int worker, ldcorn_error *error) {
    return ldc_public_one(l, group, worker, "pause", "drain", error);
}

LDCORN_DEF int ldcorn_resume(ldcorn *l, const char *group, int worker, ldcorn_error *error) {
    return ldc_public_one(l, group, worker, "resume", "resume", error);
}

static void ldc_public_handler(int sig) {
    int saved = errno;
    char byte = sig == SIGCHLD   ? LDC_SIG_CHILD
                : sig == SIGHUP  ? LDC_SIG_HUP
                : sig == SIGUSR1 ? LDC_SIG_USR1
                : sig == SIGQUIT ? LDC_SIG_QUIT
                : sig == SIGUSR2 ? LDC_SIG_NOTHING
                : sig == SIGTTIN ? LDC_SIG_NOTHING
                                 : LDC_SIG_STOP;
    ldc_public_add(&ldc_public_all.inside, 1);
    for (int i = 0; i < LDC_PUBLIC_INSTANCES; i++) {
        int fd = ldc_public_add(&ldc_public_all.pipe[i], 0) - 1;
        ssize_t n = fd >= 0 ? ldc_util_write(fd, &byte, 1) : 0;
        (void)n; /* a full pipe has enough bytes to wake the loop */
    }
    ldc_public_add(&ldc_public_all.inside, -1);
    errno = saved;
}

/* The last two mean something to other servers; by default they would end us, or stop us. */
static const int ldc_public_signals[] = {SIGTERM, SIGINT,  SIGQUIT, SIGHUP,
                                         SIGUSR1, SIGCHLD, SIGUSR2, SIGTTIN};

static uint64_t ldc_public_watchdog(void);

/* A place among those that signals are written to, from 1 on; 0: all are taken. */
static int ldc_public_pipe(int end) {
    for (int i = 0; i < LDC_PUBLIC_INSTANCES; i++) {
        if (ldc_public_add(&ldc_public_all.pipe[i], 0)) continue;
        ldc_public_add(&ldc_public_all.pipe[i], end);
        return i + 1;
    }
    return 0;
}

/* Handlers of ours, for all instances that run with signals; what stood there is put back by the last
   of them. SIGPIPE is ignored by all that run. */
static void ldc_public_handle(ldcorn *l) {
    struct sigaction ours, ignore;
    sigset_t mine;
    memset(&ours, 0, sizeof ours);
    ours.sa_handler = ldc_public_handler;
    ours.sa_flags = SA_RESTART;
    sigemptyset(&ours.sa_mask);
    memset(&ignore, 0, sizeof ignore);
    ignore.sa_handler = SIG_IGN;
    l->handlers = true;
    ldc_public_hold();
    if (ldc_public_all.deaf++ == 0) sigaction(SIGPIPE, &ignore, &ldc_public_all.old_pipe);
    ldc_public_release();
    sigprocmask(SIG_BLOCK, NULL, &l->old_mask);
    if (l->desc.no_signals) return;
    ldc_public_hold();
    l->pipe_at = ldc_public_pipe(l->signal_out + 1);
    sigemptyset(&mine); /* a parent may have left them blocked */
    for (size_t i = 0; i < LDC_LEN(ldc_public_signals); i++) {
        if (ldc_public_all.running == 0)
            sigaction(ldc_public_signals[i], &ours, &ldc_public_all.old[i]);
        sigaddset(&mine, ldc_public_signals[i]);
    }
    ldc_public_all.running++;
    ldc_public_release();
    sigprocmask(SIG_UNBLOCK, &mine, NULL);
}

LDCORN_DEF int ldcorn_run(ldcorn *l) {
    int r;
    if (!l->handlers) ldc_public_handle(l);
    l->running = l->pipe_at > 0; /* else children are asked for, as in other loops */
    l->init = l->running && getpid() == 1;
    if (l->running) l->alive_every = ldc_public_watchdog();
    do r = ldc_turn(l, -1);
    while (r > 0);
    l->running = false;
    if (r < 0)
        ldc_log_say(&l->log, LDCORN_LOG_ERROR, "poll: %s", strerror(errno));
    else
        ldc_log_say(&l->log, LDCORN_LOG_INFO, "stopped");
    return r < 0 ? 1 : 0;
}

/* Half of what systemd waits for a sign of life, microseconds. */
static uint64_t ldc_public_watchdog(void) {
    const char *us = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
    uint64_t n = 0;
    if (us == NULL || !ldc_util_number(ldc_util_z(us), (uint64_t)1 << 50, &n)) return 0;
    if (pid && strtol(pid, NULL, 10) != (long)getpid()) return 0;
    return n < 20000 ? 10000 : n / 2; /* nobody watches that closely */
}

/* No signal is written to our pipe from here on. */
static void ldc_public_unpipe(ldcorn *l) {
    int at = l->pipe_at - 1;
    if (at < 0) return;
    ldc_public_hold();
    ldc_public_add(&ldc_public_all.pipe[at], -l->signal_out - 1);
    ldc_public_release();
    while (ldc_public_add(&ldc_public_all.inside, 0) > 0) poll(NULL, 0, 1); /* it may be writing */
}

static void ldc_public_unhandle(ldcorn *l) {
    sigset_t blocked;
    if (!l->handlers) return;
    if (l->pipe_at) {
        ldc_public_hold();
        if (--ldc_public_all.running == 0) {
            for (size_t i = 0; i < LDC_LEN(ldc_public_signals); i++)
                sigaction(ldc_public_signals[i], &ldc_public_all.old[i], NULL);
        }
        ldc_public_release();
    }
    ldc_public_hold();
    if (--ldc_public_all.deaf == 0) sigaction(SIGPIPE, &ldc_public_all.old_pipe, NULL);
    ldc_public_release();
    sigemptyset(&blocked); /* not what the host has blocked since */
    for (size_t i = 0; i < LDC_LEN(ldc_public_signals); i++) {
        if (sigismember(&l->old_mask, ldc_public_signals[i]) == 1)
            sigaddset(&blocked, ldc_public_signals[i]);
    }
    sigprocmask(SIG_BLOCK, &blocked, NULL);
}

static void ldc_public_close_workers(ldcorn *l) {
    ldc_turn_kill_all(l, false);
    for (ldc_group *g = l->groups; g; g = g->next) {
        for (ldc_worker *w = g->workers; w; w = w->next) {
            if (w->pid > 0) ldc_util_wait(w->pid, NULL, 0);
            w->pid = 0;
            w->replaced = true;
            for (ldc_up *u = w->ups, *next; u; u = next) {
                next = u->next;
                if (u->exchange && u->exchange->client == NULL) ldc_up_release(l, u);
                if (u->slot && w->place) w->place->inside--;
                u->slot = false;
                ldc_up_close(l, u);
            }
            w->in_flight = 0;
            ldc_proc_clean(l, w);
            w->state = LDC_PROC_GONE;
        }
        g->removed = true;
    }
}

static void ldc_public_free_spares(ldcorn *l) {
    void **lists[3];
    size_t sizes[3] = {sizeof(ldc_client), sizeof(ldc_exchange), sizeof(ldc_up)};
    lists[0] = &l->spare_client;
    lists[1] = &l->spare_exchange;
    lists[2] = &l->spare_up;
    for (int i = 0; i < 3; i++) {
        while (*lists[i]) {
            void *p = *lists[i];
            memcpy(lists[i], p, sizeof(void *));
            ldc_mem_free(&l->mem, p, sizes[i]);
        }
    }
}

static void ldc_public_unlock(ldcorn *l) {
    char path[PATH_MAX];
    if (l->lock < 0) return;
    snprintf(path, sizeof path, "%s/lock", l->conf->s.runtime_dir);
    if (l->locked) { /* else another instance holds it */
        ldc_public_sweep(l, l->conf->s.runtime_dir, true);
        unlink(path);
    }
    close(l->lock);
    if (l->made_dir) rmdir(l->conf->s.runtime_dir);
}

static void ldc_public_shut(int *fd) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

static void ldc_public_mute(ldc_sink *s) {
    if (s->owned && s->fd >= 0) close(s->fd);
    s->fd = -1;
    s->used = 0;
}

/* We are in a fork of the process that opened it: processes, files, locks and connections are that
   one's. Copies of descriptors are closed, and what follows frees memory and can do nothing else. */
static void ldc_public_disown(ldcorn *l) {
    for (uint32_t i = 0; i < l->loop.n; i++) ldc_public_shut(&l->loop.who[i]->fd);
    for (uint32_t i = 0; i < l->loop.dirties; i++) ldc_public_shut(&l->loop.dirty[i]->fd);
    for (ldc_listener *s = l->listeners; s; s = s->next) s->inode = 0;
    for (ldc_group *g = l->groups; g; g = g->next) {
        for (ldc_worker *w = g->workers; w; w = w->next) {
            w->pid = w->noted = 0;
            ldc_public_shut(&w->port_fd);
            ldc_public_mute(&w->out);
            if (w->path) ldc_mem_free(&l->mem, w->path, sizeof w->addr.u.un.sun_path);
            w->path = NULL;
        }
    }
    ldc_public_mute(&l->log.own);
    ldc_public_mute(&l->log.access);
    l->log.err.fd = l->log.out.fd = -1;
    l->log.hook.line = NULL;
    l->desc.event = NULL;
    ldc_public_shut(&l->lock);
    ldc_public_shut(&l->pid_fd);
    l->made_dir = l->raised = l->handlers = false;
    l->dir_at = l->pipe_at = l->dismissed_n = 0;
    if (l->guard_pid > 0) close(l->guard_fd);
    l->watcher_pid = l->reload.resolver = l->reload.watcher = l->guard_pid = 0;
}

LDCORN_DEF void ldcorn_close(ldcorn *l) {
    ldc_mem mem;
    if (l == NULL) return;
    if (getpid() != l->owner) ldc_public_disown(l);
    l->life = LDC_LIFE_OVER;
    while (l->clients) ldc_client_end(l, l->clients, LDC_WHY_STOPPING);
    ldc_public_close_workers(l);
    ldc_reload_unresolve(l);
    ldc_reload_unwatch(l);
    ldc_reload_unwatch_next(l);
    ldc_proc_unguard(l);
    while (l->dismissed_n > 0) {
        ldc_util_wait(l->dismissed[l->dismissed_n - 1], NULL, 0);
        l->dismissed_n--;
    }
    for (ldc_listener *s = l->listeners; s; s = s->next) {
        if (!s->watch.dead) ldc_reload_unlisten(l, s);
    }
    if (l->signal.fd >= 0) ldc_loop_close(l, &l->signal);
    if (l->loop.deep_on) ldc_loop_close(l, &l->loop.deep);
    l->upset = true;
    ldc_turn_bury(l);
    ldc_turn_bury_workers(l);
    ldc_conf_free(l->reload.conf);
    l->reload.conf = NULL; /* it wants no group back any more */
    ldc_reload_sweep(l);
    LDCORN_ASSERT(l->groups == NULL);
    ldc_public_unpid(l);
    ldc_public_unlock(l);
    ldc_public_unclaim(l);
    ldc_public_lower_files(l);
    ldc_public_unpipe(l);
    if (l->signal_out >= 0) close(l->signal_out);
    if (l->reserve >= 0) close(l->reserve);
    ldc_relay_pipe_close(l);
    ldc_conf_free(l->conf);
    ldc_log_close(&l->log, &l->log.own);
    ldc_log_close(&l->log, &l->log.access);
    ldc_log_close(&l->log, &l->log.err);
    ldc_log_close(&l->log, &l->log.out);
    ldc_text_free(&l->warned);
    ldc_text_free(&l->reload.error);
    ldc_public_free_spares(l);
    ldc_mem_free(&l->mem, l->loop.set, l->loop.cap * sizeof *l->loop.set);
    ldc_mem_free(&l->mem, l->loop.who, l->loop.who_cap * sizeof *l->loop.who);
    ldc_mem_free(&l->mem, l->loop.dirty, l->loop.dirty_cap * sizeof *l->loop.dirty);
    ldc_mem_free(&l->mem, l->loop.heap, l->loop.due_cap * sizeof *l->loop.heap);
    ldc_mem_free(&l->mem, l->scratch, LDC_SCRATCH);
    ldc_mem_free(&l->mem, l->path_room, l->path_cap);
    ldc_arena_free(&l->host);
    ldc_mem_done(&l->mem);
    mem = l->mem;
    ldc_public_unhandle(l); /* last, so that a late signal finds a handler, not its default */
    ldc_mem_free(&mem, l, sizeof *l);
}

LDCORN_DEF bool ldcorn_group_at(const ldcorn *l, int index, ldcorn_group_info *info) {
    for (const ldc_group *g = l->groups; g; g = g->next) {
        if (g->hidden || index-- > 0) continue;
        memset(info, 0, sizeof *info);
        info->name = g->name;
        info->workers = ldc_proc_wanted(g, g->conf);
        info->ready = ldc_group_ready(g);
        info->inside = ldc_group_inside(g);
        info->slots = (int)ldc_group_slots(g);
        info->queued = g->queued;
        for (int i = 0; i < 6; i++) info->requests += g->requests[i];
        info->refused = g->refused[LDC_WHY_FULL] + g->refused[LDC_WHY_TIMEOUT] +
                        g->refused[LDC_WHY_NO_WORKER] + g->refused[LDC_WHY_RATE] +
                        g->refused[LDC_WHY_CLIENT_LIMIT] + g->refused[LDC_WHY_MEMORY] +
                        g->refused[LDC_WHY_SLOW];
        info->restarts = g->restarts;
        return true;
    }
    return false;
}

/* --- check and dump: no instance --- */

static int ldc_public_complain(ldc_text *t, const ldc_origin *at, const char *hint,
                               const char *format, ...) LDC_PRINTF(4, 5);
static int ldc_public_complain(ldc_text *t, const ldc_origin *at, const char *hint,
                               const char *format, ...) {
    char text[512];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    ldc_conf_note(t, at, text, hint);
    return 1;
}

/* Could a log be opened there? Looks, creates nothing. */
static int ldc_public_check_log(ldc_text *t, const ldc_origin *at, const char *key,
                                const char *path) {
    static const char *const words[] = {"stderr", "stdout", "off", "inherit"};
    char dir[PATH_MAX];
    char *slash;
    for (size_t i = 0; i < LDC_LEN(words); i++) {
        if (strcmp(path, words[i]) == 0) return 0;
    }
    if (access(path, W_OK) == 0) return 0;
    snprintf(dir, sizeof dir, "%s", path);
    slash = strrchr(dir, '/');
    if (slash) slash[slash == dir] = 0;
    if (errno == ENOENT && access(slash ? dir : ".", W_OK | X_OK) == 0) return 0;
    return ldc_public_complain(t, at, "make the directory, or correct the path",
                               "`%s`: cannot write %s: %s", key, path, strerror(errno));
}

/* May that user run it? Root may run what anybody may. */
static bool ldc_public_may_run(const ldc_user *u, const struct stat *st) {
    unsigned bit = 1;
    if (!u->set || u->uid == 0) return (st->st_mode & 0111) != 0;
    if (st->st_uid == u->uid) return (st->st_mode & 0100) != 0;
    if (st->st_gid == u->gid) bit = 8;
    for (int i = 0; i < u->n; i++) {
        if (u->groups[i] == st->st_gid) bit = 8;
    }
    return (st->st_mode & bit) != 0;
}

/* And reach it, through each directory on the way? */
static bool ldc_public_may_reach(const ldc_user *u, char *path) {
    struct stat st;
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        bool may;
        *slash = 0;
        may = stat(path, &st) == 0 && ldc_public_may_run(u, &st);
        *slash = '/';
        if (!may) return false;
    }
    return true;
}

/* Is the interpreter there that a script names in its first line? */
static bool ldc_public_interpreted(const char *path) {
    char line[256], *end;
    int fd = ldc_util_open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0);
    ssize_t n = fd < 0 ? -1 : ldc_util_read(fd, line, sizeof line - 1);
    if (fd >= 0) close(fd);
    if (n < 3 || line[0] != '#' || line[1] != '!') return true;
    line[n] = 0;
    end = line + 2 + strspn(line + 2, " \t");
    end[strcspn(end, " \t\r\n")] = 0;
    return end[0] != '/' || access(end, X_OK) == 0;
}

/* Would exec find it, seen from the worker's directory? */
static bool ldc_public_runs(const ldc_gconf *g, const char *program) {
    char path[PATH_MAX * 2];
    struct stat st;
    if (program[0] == '/' || g->s.dir == NULL)
        snprintf(path, sizeof path, "%s", program);
    else
        snprintf(path, sizeof path, "%s/%s", g->s.dir, program);
    return access(path, X_OK) == 0 && stat(path, &st) == 0 && S_ISREG(st.st_mode) &&
           ldc_public_may_run(&g->user, &st) && ldc_public_interpreted(path) &&
           (!g->user.set || g->user.uid == 0 || ldc_public_may_reach(&g->user, path));
}

/* Programs, directories and log paths, which a mere reading does not touch. */
static int ldc_public_check_group(ldc_mem *m, const ldc_gconf *g, ldc_text *t) {
    ldc_worker w;
    ldc_arena a;
    ldc_spawn s;
    struct stat st;
    int errors = 0;
    memset(&w, 0, sizeof w);
    memset(&s, 0, sizeof s);
    a.mem = m;
    a.head = NULL;
    w.as = g;
    w.path = (char *)(uintptr_t) "";
    if (g->s.dir && (stat(g->s.dir, &st) < 0 || !S_ISDIR(st.st_mode)))
        errors += ldc_public_complain(t, &g->dir_at, "make it, or correct the path",
                                      "`dir` of [%s] is no directory: %s", g->name, g->s.dir);
    errors += ldc_public_check_log(t, &g->log_at, "worker_log", g->log_path);
    if (g->argv && ldc_proc_env(&a, &w, "", "", &s)) {
        char *name = ldc_proc_fill(&a, &w, g->argv[0], "", false);
        char *found = name ? ldc_proc_search(&a, &w, s.env, name) : NULL;
        if (name && (found == NULL || !ldc_public_runs(g, found)))
            errors += ldc_public_complain(t, &g->cmd_at, "install it, or write its path",
                                          "[%s]: there is no program `%s`", g->name, name);
    }
    ldc_arena_free(&a);
    return errors;
}

static void ldc_public_warnings(const ldc_conf *c, ldc_text *t) {
    bool fallback = false;
    struct rlimit most;
    char text[400];
    if (getrlimit(RLIMIT_NOFILE, &most) == 0) {
        ldc_files f = ldc_reload_files(c, most.rlim_max);
        if (ldc_reload_few(c, &f, text, sizeof text))
            ldc_text_fmt(t, "%s: warning: %s\n", c->file ? c->file : "ldcorn", text);
    }
    for (int i = 0; i < c->routes; i++)
        fallback = fallback || c->route[i].kind == LDC_MATCH_ALL ||
                   (c->route[i].kind == LDC_MATCH_PREFIX && c->route[i].text.n == 1);
    if (!fallback && c->file)
        ldc_text_fmt(t, "%s: warning: no group has `*`: other paths get 404\n", c->file);
}

/* A reading for its own sake; what it needs beside it lies in `arena`. */
static ldc_conf *ldc_public_read(ldc_mem *m, ldc_arena *arena, const ldcorn_desc *desc,
                                 ldcorn_error *error, ldc_text *warnings) {
    ldc_home home;
    arena->mem = m;
    arena->head = NULL;
    home = ldc_conf_home(arena);
    return ldc_conf_read(m, desc, &home, error, warnings);
}

LDCORN_DEF int ldcorn_check(const ldcorn_desc *desc, ldcorn_error *error, ldcorn_error *warnings) {
    ldcorn_error unread;
    ldc_mem mem;
    ldc_arena arena;
    ldc_text said, errors;
    ldc_conf *c;
    int n = 0;
    if (error == NULL) error = &unread;
    ldc_public_mem(&mem, desc);
    ldc_text_init(&said, &mem);
    ldc_text_init(&errors, &mem);
    c = ldc_public_read(&mem, &arena, desc, error, &said);
    if (warnings) memset(warnings, 0, sizeof *warnings);
    if (c) {
        ldc_public_warnings(c, &said);
        n += ldc_public_check_log(&errors, ldc_conf_at(c->globals, LDC_KEY_log), "log", c->s.log);
        n += ldc_public_check_log(&errors, ldc_conf_at(c->globals, LDC_KEY_access_log),
                                  "access_log", c->s.access_log);
        for (int i = 0; i < c->groups; i++)
            n += ldc_public_check_group(&mem, &c->group[i], &errors);
        if (warnings && said.p) snprintf(warnings->text, sizeof warnings->text, "%s", said.p);
        if (n) {
            memset(error, 0, sizeof *error);
            error->status = 2;
            snprintf(error->text, sizeof error->text, "%s%s: %d error%s\n",
                     errors.p ? errors.p : "", c->file ? c->file : "ldcorn", n, n == 1 ? "" : "s");
        }
    }
    ldc_text_free(&said);
    ldc_text_free(&errors);
    n = c == NULL || n ? -1 : 0;
    ldc_conf_free(c);
    ldc_arena_free(&arena);
    return n;
}

LDCORN_DEF int ldcorn_dump(const ldcorn_desc *desc, int fd, ldcorn_error *error) {
    ldcorn_error unread;
    ldc_mem mem;
    ldc_arena arena;
    ldc_text t;
    ldc_conf *c;
    size_t sent = 0;
    if (error == NULL) error = &unread;
    ldc_public_mem(&mem, desc);
    ldc_text_init(&t, &mem);
    c = ldc_public_read(&mem, &arena, desc, error, NULL);
    if (c == NULL) {
        ldc_arena_free(&arena);
        return -1;
    }
    ldc_conf_dump(c, &t);
    while (sent < t.n) {
        ssize_t w = ldc_util_write(fd, t.p + sent, t.n - sent);
        if (w < 0) break;
        sent += (size_t)w;
    }
    if (t.failed || sent < t.n)
        ldc_public_fail(error, 1, NULL, "cannot write: %s", strerror(errno));
    ldc_conf_free(c);
    ldc_arena_free(&arena);
    fd = t.failed || sent < t.n ? -1 : 0;
    ldc_text_free(&t);
    return fd;
}

/* --- the server for C workers --- */

LDCORN_DEF int ldcorn_serve(int listen_fd, ldcorn_handler handler, void *user) {
    ldc_mem m;
    ldcorn_desc desc;
    ldc_serve_conn *conns;
    struct pollfd *set;
    ldc_head *head;
    int r = 1;
    memset(&desc, 0, sizeof desc);
    ldc_public_mem(&m, &desc);
    conns = (ldc_serve_conn *)ldc_mem_zero(&m, LDC_SERVE_CONNS * sizeof *conns);
    set = (struct pollfd *)ldc_mem_zero(&m, (LDC_SERVE_CONNS + 1) * sizeof *set);
    head = (ldc_head *)ldc_mem_zero(&m, sizeof *head);
    if (conns && set && head && ldc_net_flags(listen_fd)) {
        for (int i = 0; i < LDC_SERVE_CONNS; i++) conns[i].fd = -1;
        r = ldc_serve_loop(&m, listen_fd, conns, set, head, handler, user);
        for (int i = 0; i < LDC_SERVE_CONNS; i++) {
            if (conns[i].fd >= 0) ldc_serve_end(&m, &conns[i]);
        }
    }
    ldc_mem_free(&m, conns, LDC_SERVE_CONNS * sizeof *conns);
    ldc_mem_free(&m, set, (LDC_SERVE_CONNS + 1) * sizeof *set);
    ldc_mem_free(&m, head, sizeof *head);
    return r;
}

LDCORN_DEF int ldcorn_reply(ldcorn_call *call, int status, const char *type, const void *body,
                            size_t size) {
    ldc_serve_call *in = (ldc_serve_call *)(uintptr_t)call->internal;
    bool bare = status == 204 || status == 304 || status == 205; /* RFC 9110 15.3.5, .6, 15.4.5 */
    if (in->answered || status < 200 || status > 599 || (type && !ldc_http_text(ldc_util_z(type))))
        return -1;
    if (bare) size = 0;
    in->answered = true;
    if (in->filtered) {
        in->filtered->status = status;
        ldc_text_add(&in->filtered->type, type ? type : "text/plain; charset=utf-8");
        ldc_text_put(&in->filtered->body, (const char *)body, size);
        return in->filtered->body.failed || in->filtered->type.failed ? -1 : 0;
    }
    ldc_text_fmt(in->out, "HTTP/1.1 %d %s\r\n", status, ldc_client_phrase(status));
    if (status != 204 && status != 304)
        ldc_text_fmt(in->out, "Content-Type: %s\r\nContent-Length: %llu\r\n",
                     type ? type : "text/plain; charset=utf-8", (unsigned long long)size);
    ldc_text_fmt(in->out, "%s\r\n",
                 in->close    ? "Connection: close\r\n"
                 : in->http10 ? "Connection: keep-alive\r\n"
                              : "");
    if (!in->head_only) ldc_text_put(in->out, (const char *)body, size);
    return in->out->failed ? -1 : 0;
}

LDCORN_DEF int ldcorn_add_header(ldcorn_call *call, const char *name, const char *value) {
    const ldc_serve_call *in = (const ldc_serve_call *)call->internal;
    ldc_str n = ldc_util_z(name), v = ldc_util_z(value);
    uint8_t id = ldc_http_token(n) ? ldc_http_field_id(n) : LDC_FIELD_HOST;
    ldc_head *h = in->filtered ? in->filtered->head : NULL;
    if (h == NULL || !ldc_http_token(n) || !ldc_http_text(v) || ldc_util_trim(v).n != v.n ||
        (id && id != LDC_FIELD_USER_AGENT && id != LDC_FIELD_REFERER && id != LDC_FIELD_ORIGIN &&
         id != LDC_FIELD_AUTHORIZATION && id != LDC_FIELD_DATE))
        return -1;
    for (int i = 0; i < h->count; i++)
        h->field[i].drop = h->field[i].drop || ldc_util_isnocase(h->field[i].name, name);
    ldc_text_fmt(&in->filtered->lines, "%s: %s\r\n", name, value);
    return in->filtered->lines.failed ? -1 : 0;
}

LDCORN_DEF int ldcorn_header(const ldcorn_call *call, const char *name, char *out, size_t room) {
    const ldc_serve_call *in = (const ldc_serve_call *)call->internal;
    for (int i = 0; i < in->head->count; i++) {
        const ldc_field *f = &in->head->field[i];
        if (!ldc_util_isnocase(f->name, name)) continue;
        if (room) {
            size_t n = f->value.n < room ? f->value.n : room - 1;
            memcpy(out, f->value.p, n);
            out[n] = 0;
        }
        return (int)f->value.n;
    }
    return -1;
}

#endif /* LDCORN_IMPLEMENTED */
#endif /* LDCORN_IMPLEMENTATION */

/* @licence -----------------------------------------------------------------------------------
   MIT License

   Copyright (c) 2026 the ldcorn authors

   Permission is hereby granted, free of charge, to any person obtaining a copy of this software
   and associated documentation files (the "Software"), to deal in the Software without
   restriction, including without limitation the rights to use, copy, modify, merge, publish,
   distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the
   Software is furnished to do so, subject to the following conditions:

   The above copyright notice and this permission notice shall be included in all copies or
   substantial portions of the Software.

   THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING
   BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
   NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM,
   DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
   OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE. */
