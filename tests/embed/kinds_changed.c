/* What of the host is another after an instance than before: kinds_changed HOW LISTEN DIR. HOW is
   run, step, failed (the second open of one address) or nested: two instances, of which the first
   ends first. */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include "../../ldcorn.h"

extern char **environ;

typedef struct seen {
    struct rlimit files;
    sigset_t mask;
    struct sigaction action[32];
    char dir[1024];
    unsigned long env;
    mode_t mask_of_files;
    int descriptors;
} seen;

static void host_handler(int sig) { (void)sig; }

static void look(seen *s) {
    memset(s, 0, sizeof *s);
    getrlimit(RLIMIT_NOFILE, &s->files);
    pthread_sigmask(SIG_SETMASK, NULL, &s->mask);
    for (int sig = 1; sig < 32; sig++) sigaction(sig, NULL, &s->action[sig]);
    if (getcwd(s->dir, sizeof s->dir) == NULL) exit(9);
    for (char **e = environ; *e; e++) {
        for (const char *p = *e; *p; p++) s->env = s->env * 31 + (unsigned char)*p;
    }
    s->mask_of_files = umask(0);
    umask(s->mask_of_files);
    for (int fd = 0; fd < 1024; fd++) s->descriptors += fcntl(fd, F_GETFD) >= 0;
}

static void compare(const seen *a, const seen *b) {
    const int flags = SA_RESTART | SA_SIGINFO | SA_NOCLDSTOP | SA_NOCLDWAIT;
    if (a->files.rlim_cur != b->files.rlim_cur || a->files.rlim_max != b->files.rlim_max)
        printf("descriptor limit %llu, was %llu\n", (unsigned long long)b->files.rlim_cur,
               (unsigned long long)a->files.rlim_cur);
    for (int sig = 1; sig < 32; sig++) {
        if (sigismember(&a->mask, sig) != sigismember(&b->mask, sig))
            printf("mask of signal %d\n", sig);
        if (a->action[sig].sa_handler != b->action[sig].sa_handler ||
            ((a->action[sig].sa_flags ^ b->action[sig].sa_flags) & flags))
            printf("handler of signal %d\n", sig);
    }
    if (strcmp(a->dir, b->dir) != 0) printf("working directory\n");
    if (a->env != b->env) printf("environment\n");
    if (a->mask_of_files != b->mask_of_files) printf("umask\n");
    if (a->descriptors != b->descriptors)
        printf("descriptors %d, were %d\n", b->descriptors, a->descriptors);
}

static void answer(ldcorn_call *call, void *user) {
    (void)user;
    ldcorn_reply(call, 200, NULL, "ok", 2);
}

static int serve(int fd, const ldcorn_worker_info *who, void *user) {
    (void)who;
    return ldcorn_serve(fd, answer, user);
}

static void stop_when_ready(void *user, const ldcorn_event *e) {
    ldcorn **l = (ldcorn **)user;
    if (e->kind == LDCORN_WORKER_READY) ldcorn_stop(*l);
}

static ldcorn *instances[2];

static ldcorn *open_one(int i, const char *listen_at, const char *dir) {
    static const ldcorn_function_desc functions[] = {{"serve", serve, NULL}};
    static const char *const all[] = {"*", NULL};
    const char *listen[2] = {NULL, NULL};
    char path[1024];
    ldcorn_group_desc group;
    ldcorn_desc desc;
    static ldcorn_error error;
    memset(&group, 0, sizeof group);
    memset(&desc, 0, sizeof desc);
    snprintf(path, sizeof path, "%s%d", dir, i);
    group.name = "web";
    group.function = "serve";
    group.routes = all;
    listen[0] = listen_at;
    desc.listen = listen;
    desc.runtime_dir = path;
    desc.groups = &group;
    desc.group_count = 1;
    desc.functions = functions;
    desc.function_count = 1;
    desc.event = stop_when_ready;
    desc.event_user = &instances[i];
    desc.log_level = "error";
    return instances[i] = ldcorn_open(&desc, &error);
}

static int live(const char *how, const char *listen, const char *dir) {
    struct rlimit during;
    char other[300];
    ldcorn *l = open_one(0, listen, dir);
    snprintf(other, sizeof other, "%.290s2", listen);
    if (l == NULL) return 1;
    if (strcmp(how, "failed") == 0) {
        if (open_one(1, listen, dir)) return 2;
    } else if (strcmp(how, "nested") == 0) {
        if (open_one(1, other, dir) == NULL) return 3;
        ldcorn_close(l);
        l = instances[1];
        getrlimit(RLIMIT_NOFILE, &during);
        if (during.rlim_cur != during.rlim_max) puts("the limit of the one that lives is gone");
    }
    if (strcmp(how, "run") == 0 && ldcorn_run(l)) return 4;
    while (strcmp(how, "run") != 0 && ldcorn_step(l, 10) > 0) continue;
    ldcorn_close(l);
    return 0;
}

int main(int argc, char **argv) {
    seen before, after;
    struct sigaction own;
    struct rlimit files;
    sigset_t odd;
    if (argc != 4) return 2;
    memset(&own, 0, sizeof own);
    own.sa_handler = host_handler;
    sigaction(SIGTERM, &own, NULL);
    sigaction(SIGCHLD, &own, NULL);
    sigaction(SIGPIPE, &own, NULL);
    sigemptyset(&odd);
    sigaddset(&odd, SIGUSR1);
    sigaddset(&odd, SIGCHLD);
    sigaddset(&odd, SIGALRM);
    pthread_sigmask(SIG_SETMASK, &odd, NULL);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = 200;
    setrlimit(RLIMIT_NOFILE, &files);
    umask(027);
    look(&before);
    if (live(argv[1], argv[2], argv[3])) return 3;
    look(&after);
    compare(&before, &after);
    puts("compared");
    return 0;
}
