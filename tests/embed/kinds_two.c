/* Instances that open, run with default signals, and close, each in a thread of its own, all at
   once: kinds_two FILE FILE [FILE ...]. Lines on standard input: `stop I` asks one to end, `close
   I` lets its thread close it, `signal N` sends that signal to the process, `limits` tells the
   limit of descriptors.
   The host has handlers of its own, and an odd signal mask in each thread. */
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include "../../ldcorn.h"

enum { MOST = 8 };

typedef struct one {
    int index;
    const char *file;
    ldcorn *instance;
    bool may_close;
    pthread_t thread;
} one;

static one all[MOST];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t told = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t begin;

static void say(const char *format, ...) {
    char line[16384];
    size_t n;
    va_list list;
    va_start(list, format);
    vsnprintf(line, sizeof line - 1, format, list);
    va_end(list);
    n = strlen(line);
    for (size_t i = 0; i < n; i++) {
        if (line[i] == '\n') line[i] = '\t';
    }
    line[n++] = '\n';
    if (write(1, line, n) < 0) _exit(98);
}

static void host_handler(int sig) {
    const char *text = sig == SIGTERM ? "host TERM\n"
                       : sig == SIGHUP ? "host HUP\n"
                                       : "host other\n";
    if (write(1, text, strlen(text)) < 0) _exit(98);
}

static void event(void *user, const ldcorn_event *e) {
    const one *o = (const one *)user;
    if (e->kind == LDCORN_WORKER_READY) say("%d ready %ld", o->index, e->pid);
    if (e->kind == LDCORN_WORKER_EXITED) say("%d exited %ld", o->index, e->pid);
    if (e->kind == LDCORN_RELOADED) say("%d reloaded %s", o->index, e->text);
}

static void answer(ldcorn_call *call, void *user) {
    char text[32];
    (void)user;
    ldcorn_reply(call, 200, NULL, text, (size_t)snprintf(text, sizeof text, "%ld", (long)getpid()));
}

static int serve(int fd, const ldcorn_worker_info *who, void *user) {
    (void)who;
    return ldcorn_serve(fd, answer, user);
}

static const ldcorn_function_desc functions[] = {{"serve", serve, NULL}};

static bool same_mask(const sigset_t *a, const sigset_t *b) {
    for (int sig = 1; sig < 32; sig++) {
        if (sigismember(a, sig) != sigismember(b, sig)) return false;
    }
    return true;
}

static void *life(void *arg) {
    one *o = (one *)arg;
    ldcorn_desc desc;
    ldcorn_error error;
    ldcorn *l;
    sigset_t before, after;
    sigemptyset(&before); /* what a host may have blocked for reasons of its own */
    sigaddset(&before, SIGUSR1);
    sigaddset(&before, SIGWINCH);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    memset(&desc, 0, sizeof desc);
    desc.file = o->file;
    desc.functions = functions;
    desc.function_count = 1;
    desc.event = event;
    desc.event_user = o;
    pthread_barrier_wait(&begin);
    l = ldcorn_open(&desc, &error);
    if (l == NULL) {
        say("%d refused %d %s", o->index, error.status, error.text);
        return NULL;
    }
    pthread_mutex_lock(&lock);
    o->instance = l;
    pthread_mutex_unlock(&lock);
    say("%d open", o->index);
    say("%d stopped %d", o->index, ldcorn_run(l));
    pthread_mutex_lock(&lock);
    while (!o->may_close) pthread_cond_wait(&told, &lock);
    o->instance = NULL;
    pthread_mutex_unlock(&lock);
    ldcorn_close(l);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    say("%d closed, mask %s", o->index, same_mask(&before, &after) ? "as it was" : "changed");
    return NULL;
}

static void limits(void) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    say("limits %llu", (unsigned long long)files.rlim_cur);
}

static void command(const char *text, int n) {
    int i = -1;
    if (strcmp(text, "limits\n") == 0) limits();
    if (sscanf(text, "signal %d", &i) == 1) {
        kill(getpid(), i);
        return;
    }
    if ((sscanf(text, "stop %d", &i) != 1 && sscanf(text, "close %d", &i) != 1) || i < 0 || i >= n)
        return;
    pthread_mutex_lock(&lock);
    if (text[0] == 's' && all[i].instance) ldcorn_stop(all[i].instance);
    all[i].may_close = all[i].may_close || text[0] == 'c';
    pthread_cond_broadcast(&told);
    pthread_mutex_unlock(&lock);
}

int main(int argc, char **argv) {
    static char text[64];
    struct sigaction own;
    int n = argc - 1;
    if (n < 1 || n > MOST) return 2;
    memset(&own, 0, sizeof own);
    own.sa_handler = host_handler;
    own.sa_flags = SA_RESTART;
    sigaction(SIGTERM, &own, NULL);
    sigaction(SIGHUP, &own, NULL);
    pthread_barrier_init(&begin, NULL, (unsigned)n);
    limits();
    for (int i = 0; i < n; i++) {
        all[i].index = i;
        all[i].file = argv[1 + i];
        if (pthread_create(&all[i].thread, NULL, life, &all[i])) return 3;
    }
    while (fgets(text, sizeof text, stdin)) command(text, n);
    for (int i = 0; i < n; i++) {
        snprintf(text, sizeof text, "close %d", i);
        command(text, n);
        snprintf(text, sizeof text, "stop %d", i);
        command(text, n);
    }
    for (int i = 0; i < n; i++) pthread_join(all[i].thread, NULL);
    return 0;
}
