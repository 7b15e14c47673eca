/* One instance from a file, in each way in which a host can run it: kinds_host FILE [WORD ...]

   run quiet step loop thread   ldcorn_run (default), the same with no_signals, ldcorn_step, an own
                                poll loop; thread: the first turns in a thread that then ends
   filter                       X-Pick names the group, /filtered is answered: what a call says
   logger                       each call of it is a line `log LEVEL LENGTH KIND TEXT`
   early                        reads and checks only: `checked RESULT` and what it warned of
   files                        a host's files on 4 and 40 with bytes that are not written yet
   unflushed                    the same for standard output, which is a pipe here
   child                        forks a child of the host's own that ends with 7; waited for later
   atexit                       ldcorn_close is what exit() does
   keep=FD                      one descriptor that function workers keep (with HAVE_KEEP_FDS)

   Lines on standard input, in step, loop and thread: `close`, `exit` (in a forked child, whose end
   is awaited), `reload`, `info`, `stop`. All that happens is a line on standard output. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "../../ldcorn.h"

static ldcorn *instance;
static FILE *files[2];
static bool stopping, seen_ready;

/* Not by stdio: what is in the buffers is what the tests look at. */
static void say(const char *format, ...) {
    char line[16384];
    size_t n, at = 0;
    va_list list;
    va_start(list, format);
    vsnprintf(line, sizeof line - 1, format, list);
    va_end(list);
    n = strlen(line);
    for (size_t i = 0; i < n; i++) {
        if (line[i] == '\n') line[i] = '\t';
    }
    line[n++] = '\n';
    while (at < n) {
        ssize_t w = write(1, line + at, n - at);
        if (w < 0) _exit(98);
        at += (size_t)w;
    }
}

static void event(void *user, const ldcorn_event *e) {
    (void)user;
    if (e->kind == LDCORN_WORKER_READY) say("ready %s %ld", e->group, e->pid);
    if (e->kind == LDCORN_WORKER_EXITED) say("exited %s %ld %s", e->group, e->pid, e->text);
    if (e->kind == LDCORN_RELOADED) say("reloaded %s", e->text);
    seen_ready = seen_ready || e->kind == LDCORN_WORKER_READY;
}

static void line(void *user, ldcorn_level level, const char *text, size_t n) {
    (void)user;
    say("log %d %zu %s %.*s", (int)level, n,
        text[n]                   ? "endless"
        : memchr(text, '\n', n) ? "several"
                                  : "one",
        (int)n, text);
}

static const char *shown(const char *z) { return z ? z : "(null)"; }

/* All that a call says, each string measured; the field X-Long in three rooms. */
static size_t describe(const ldcorn_call *call, char *out, size_t room) {
    static char all[70000], some[100];
    int whole, cut, none;
    memset(all, '!', sizeof all);
    memset(some, '!', sizeof some);
    whole = ldcorn_header(call, "X-Long", all, sizeof all);
    cut = ldcorn_header(call, "X-Long", some, sizeof some);
    none = ldcorn_header(call, "X-Long", NULL, 0);
    return (size_t)snprintf(
        out, room,
        "method=%s target=%zu client=%s group=%s body=%zu size=%zu "
        "long=%d,%d,%d copied=%zu cut=%zu",
        shown(call->method), call->target ? strlen(call->target) : 0, shown(call->client),
        shown(call->group), call->body ? strlen(call->body) : 0, call->body_size, whole, cut, none,
        whole < 0 ? 0 : strlen(all), cut < 0 ? 0 : strlen(some));
}

static void filter(ldcorn_call *call, void *user) {
    static char text[1024], pick[64];
    (void)user;
    if (strncmp(call->target, "/filtered", 9) == 0)
        ldcorn_reply(call, 200, NULL, text, describe(call, text, sizeof text));
    if (ldcorn_header(call, "X-Pick", pick, sizeof pick) > 0) call->group = pick;
}

static size_t descriptors(char *out, size_t room) {
    size_t n = 0;
    for (int fd = 0; fd < 1024 && n + 300 < room; fd++) {
        char name[64], to[256];
        ssize_t k;
        snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
        k = readlink(name, to, sizeof to - 1);
        if (k > 0) n += (size_t)snprintf(out + n, room - n, "%d %.*s\n", fd, (int)k, to);
    }
    return n;
}

static size_t spawn(char *out, size_t room) {
    pid_t pid = fork();
    if (pid == 0) {
        for (int fd = 0; fd < 64; fd++) close(fd);
        for (;;) pause();
    }
    return (size_t)snprintf(out, room, "%ld", (long)pid);
}

static void answer(ldcorn_call *call, void *user) {
    static char text[65536];
    size_t n = (size_t)snprintf(text, sizeof text, "%ld", (long)getpid());
    (void)user;
    if (strncmp(call->target, "/call", 5) == 0) n = describe(call, text, sizeof text);
    if (strcmp(call->target, "/size") == 0)
        n = (size_t)snprintf(text, sizeof text, "%zu", call->body_size);
    if (strcmp(call->target, "/descriptors") == 0) n = descriptors(text, sizeof text);
    if (strcmp(call->target, "/spawn") == 0) n = spawn(text, sizeof text);
    if (strcmp(call->target, "/slow") == 0) poll(NULL, 0, 700);
    if (strcmp(call->target, "/files") == 0 && files[0]) {
        fputs("INTRUDER", files[0]);
        fputs("INTRUDER", files[1]);
    }
    if (strcmp(call->target, "/files") == 0) fflush(NULL);
    if (strcmp(call->target, "/print") == 0) {
        printf("to stdout\n");
        fprintf(stderr, "to stderr\n");
    }
    if (strcmp(call->target, "/exit") == 0) exit(3);
    ldcorn_reply(call, 200, NULL, text, n);
}

static int serve(int fd, const ldcorn_worker_info *who, void *user) {
    (void)who;
    return ldcorn_serve(fd, answer, user);
}

static int prints(int fd, const ldcorn_worker_info *who, void *user) {
    printf("it prints\nmore\n");
    fflush(stdout);
    return serve(fd, who, user);
}

/* Says some lines and ends before it is ready. */
static int fails(int fd, const ldcorn_worker_info *who, void *user) {
    (void)fd, (void)who, (void)user;
    fprintf(stderr, "first words\nmiddle words\nlast words\n");
    return 3;
}

static const ldcorn_function_desc functions[] = {
    {"serve", serve, NULL}, {"prints", prints, NULL}, {"fails", fails, NULL}};

static void at_exit(void) { ldcorn_close(instance); }

/* What a child of the host does that never asked for an instance. */
static void child_of_ours(ldcorn *l, const char *what) {
    int status = -1;
    pid_t pid = fork();
    if (pid == 0 && strcmp(what, "exit") == 0) exit(0); /* with `atexit` */
    if (pid == 0) {
        ldcorn_close(l);
        _exit(0);
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
    say("child %d", status);
}

static void command(ldcorn *l, const char *what) {
    ldcorn_error error;
    ldcorn_group_info info;
    if (strcmp(what, "close") == 0 || strcmp(what, "exit") == 0) child_of_ours(l, what);
    if (strcmp(what, "reload") == 0) say("reload %d", ldcorn_reload(l, &error));
    if (strcmp(what, "stop") == 0) ldcorn_stop(l);
    for (int i = 0; strcmp(what, "info") == 0 && ldcorn_group_at(l, i, &info); i++)
        say("info %s workers=%d ready=%d slots=%d refused=%llu requests=%llu", info.name,
            info.workers, info.ready, info.slots, (unsigned long long)info.refused,
            (unsigned long long)info.requests);
    if (strcmp(what, "info") == 0) say("info");
}

/* Whole lines that have come on standard input. */
static void commands(ldcorn *l) {
    static char text[256];
    static size_t n;
    struct pollfd in = {0, POLLIN, 0};
    char *lf;
    ssize_t r;
    if (stopping || poll(&in, 1, 0) != 1) return;
    r = read(0, text + n, sizeof text - 1 - n);
    if (r <= 0) {
        stopping = true;
        ldcorn_stop(l);
        return;
    }
    n += (size_t)r;
    text[n] = 0;
    while ((lf = strchr(text, '\n')) != NULL) {
        *lf = 0;
        command(l, text);
        n -= (size_t)(lf + 1 - text);
        memmove(text, lf + 1, n + 1);
    }
}

static int turn_of_own_loop(ldcorn *l) {
    static struct pollfd set[600];
    int n = ldcorn_collect(l, set, 600), ms = ldcorn_timeout(l);
    if (n > 600) return -1;
    if (poll(set, (nfds_t)n, ms < 0 || ms > 10 ? 10 : ms) < 0 && errno != EINTR) return -1;
    return ldcorn_dispatch(l, set, n);
}

static void *first_turns(void *l) {
    while (!seen_ready && ldcorn_step((ldcorn *)l, 10) > 0) continue;
    return NULL;
}

static int go(ldcorn *l, const char *mode) {
    pthread_t thread;
    int r = 1;
    if (strcmp(mode, "run") == 0 || strcmp(mode, "quiet") == 0) return ldcorn_run(l);
    if (strcmp(mode, "thread") == 0) {
        pthread_create(&thread, NULL, first_turns, l);
        pthread_join(thread, NULL);
        say("thread ended");
    }
    while (r > 0) {
        commands(l);
        r = strcmp(mode, "loop") ? ldcorn_step(l, 10) : turn_of_own_loop(l);
    }
    return r;
}

static void host_files(const char *where) {
    const int numbers[2] = {4, 40};
    for (int i = 0; i < 2; i++) {
        char path[512];
        int fd;
        snprintf(path, sizeof path, "%s.host%d", where, i);
        fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
        if (fd != numbers[i] && dup2(fd, numbers[i]) < 0) exit(9);
        if (fd != numbers[i]) close(fd);
        files[i] = fdopen(numbers[i], "w");
        fputs("UNWRITTEN", files[i]);
    }
}

static void not_there(int fd) { /* so that numbers are as in a program that nobody has prepared */
    for (; fd < 256; fd++) close(fd);
}

int main(int argc, char **argv) {
    static ldcorn_error error, warnings;
    ldcorn_desc desc;
    const char *mode = "run";
    pid_t own = 0;
    int status = 0, r, early = 0, unflushed = 0;
#ifdef HAVE_KEEP_FDS
    static int kept[1];
#endif
    if (argc < 2) return 2;
    memset(&desc, 0, sizeof desc);
    not_there(3);
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "filter") == 0) desc.filter = filter;
        if (strcmp(argv[i], "logger") == 0) desc.logger.line = line;
        if (strcmp(argv[i], "early") == 0) early = 1;
        if (strcmp(argv[i], "files") == 0) host_files(argv[1]);
        if (strcmp(argv[i], "unflushed") == 0) unflushed = 1;
        if (strcmp(argv[i], "atexit") == 0) atexit(at_exit);
        if (strcmp(argv[i], "child") == 0 && (own = fork()) == 0) _exit(7);
        if (strstr(" run quiet step loop thread ", argv[i])) mode = argv[i];
#ifdef HAVE_KEEP_FDS
        if (strncmp(argv[i], "keep=", 5) == 0) {
            kept[0] = atoi(argv[i] + 5);
            desc.keep_fds = kept;
            desc.keep_fd_count = 1;
        }
#endif
    }
    desc.file = argv[1];
    desc.functions = functions;
    desc.function_count = 3;
    desc.event = event;
    desc.no_signals = strcmp(mode, "run") != 0;
    if (early) {
        r = ldcorn_check(&desc, &error, &warnings);
        say("checked %d %s%s", r, r ? error.text : "", warnings.text);
        return 0;
    }
    if (unflushed) printf("HOST TEXT\n"); /* a pipe: it stays in the buffer */
    instance = ldcorn_open(&desc, &error);
    if (instance == NULL) {
        say("refused %d %s", error.status, error.text);
        return 1;
    }
    say("open");
    r = go(instance, mode);
    ldcorn_close(instance);
    instance = NULL;
    if (own) {
        pid_t got;
        do got = waitpid(own, &status, 0);
        while (got < 0 && errno == EINTR);
        say("own child %s %d", got == own ? "waited for" : "lost", WEXITSTATUS(status));
    }
    say("closed %d", r);
    return 0;
}
