/* As if other threads of the host held every lock that there is while workers are forked: what
   runs in the child before exec is async-signal-safe. The linker hands us the calls that are not
   (--wrap); in another process than the one that began they end it with 99. kinds_forks FILE: until
   two workers are ready. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "../../ldcorn.h"

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void __real_free(void *p);
char *__real_getenv(const char *name);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void __wrap_free(void *p);
char *__wrap_getenv(const char *name);

static pid_t ours;

static void safe(const char *what) {
    if (ours == 0 || getpid() == ours) return;
    if (write(2, "NOT SAFE: ", 10) + write(2, what, strlen(what)) + write(2, "\n", 1) > 0)
        _exit(99);
}

void *__wrap_malloc(size_t n) { return safe("malloc"), __real_malloc(n); }
void *__wrap_calloc(size_t n, size_t size) { return safe("calloc"), __real_calloc(n, size); }
void *__wrap_realloc(void *p, size_t n) { return safe("realloc"), __real_realloc(p, n); }
void __wrap_free(void *p) { safe("free"), __real_free(p); }
char *__wrap_getenv(const char *name) { return safe("getenv"), __real_getenv(name); }

static int ready, failed;

static void event(void *user, const ldcorn_event *e) {
    (void)user;
    ready += e->kind == LDCORN_WORKER_READY;
    failed += e->kind == LDCORN_WORKER_EXITED && strstr(e->text, "99");
}

int main(int argc, char **argv) {
    static ldcorn_error error;
    ldcorn_desc desc;
    ldcorn *l;
    if (argc != 2) return 2;
    ours = getpid();
    memset(&desc, 0, sizeof desc);
    desc.file = argv[1];
    desc.event = event;
    l = ldcorn_open(&desc, &error);
    if (l == NULL) return fputs(error.text, stderr), 1;
    while (ready < 2 && failed == 0 && ldcorn_step(l, 10) > 0) continue;
    ldcorn_close(l);
    printf("ready %d, failed %d\n", ready, failed);
    return 0;
}
