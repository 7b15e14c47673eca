/* A host program with its own poll loop: two instances, function workers, allocator and logger
   hooks, ldcorn_collect and ldcorn_dispatch. Stops when its standard input ends. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../../ldcorn.h"

static long in_use;
static int lines;

static void *counted(void *user, void *p, size_t old_size, size_t new_size) {
    (void)user;
    in_use += (long)new_size - (long)old_size;
    if (new_size) return realloc(p, new_size);
    free(p);
    return NULL;
}

static void line(void *user, ldcorn_level level, const char *text, size_t n) {
    (void)user, (void)level, (void)text, (void)n;
    lines++;
}

static void answer(ldcorn_call *call, void *user) {
    char agent[32] = "-";
    ldcorn_header(call, "user-agent", agent, sizeof agent);
    ldcorn_reply(call, 200, NULL, call->body_size ? call->body : (const char *)user,
                 call->body_size ? call->body_size : strlen((const char *)user));
}

static int serve(int fd, const ldcorn_worker_info *who, void *user) {
    (void)user;
    return ldcorn_serve(fd, answer, (void *)(uintptr_t)who->group);
}

static ldcorn *open_one(const char *name, const char *address) {
    static const char *const all[] = {"*", NULL};
    ldcorn_function_desc function = {"serve", serve, NULL};
    const char *listen[2] = {NULL, NULL};
    ldcorn_group_desc group;
    ldcorn_desc desc;
    ldcorn_error error;
    ldcorn *l;
    static ldcorn_function_desc kept;
    kept = function;
    listen[0] = address;
    memset(&group, 0, sizeof group);
    memset(&desc, 0, sizeof desc);
    group.name = name;
    group.function = "serve";
    group.routes = all;
    group.max_req_per_worker = 1;
    desc.groups = &group;
    desc.group_count = 1;
    desc.functions = &kept;
    desc.function_count = 1;
    desc.listen = listen;
    desc.admin = (const char *const[]){"off", NULL};
    desc.allocator.resize = counted;
    desc.logger.line = line;
    l = ldcorn_open(&desc, &error);
    if (l == NULL) fputs(error.text, stderr);
    return l;
}

int main(int argc, char **argv) {
    static struct pollfd set[256];
    ldcorn *l[2];
    ldcorn_group_info info;
    int stopped = 0;
    if (argc != 3) return 2;
    l[0] = open_one("one", argv[1]);
    l[1] = open_one("two", argv[2]);
    if (l[0] == NULL || l[1] == NULL) return 1;
    puts("open");
    fflush(stdout);
    while (stopped != 2) {
        int n = ldcorn_collect(l[0], set, 100), m = ldcorn_collect(l[1], set + n, 100);
        int a = ldcorn_timeout(l[0]), b = ldcorn_timeout(l[1]), wait = a < 0 || (b >= 0 && b < a) ? b : a;
        set[n + m].fd = stopped ? -1 : 0;
        set[n + m].events = POLLIN;
        if (poll(set, (nfds_t)(n + m + 1), wait) < 0 && errno != EINTR) return 1;
        if (set[n + m].revents) {
            set[n + m].revents = 0;
            stopped = 1;
            ldcorn_stop(l[0]);
            ldcorn_stop(l[1]);
        }
        a = ldcorn_dispatch(l[0], set, n);
        b = ldcorn_dispatch(l[1], set + n, m);
        if (a == 0 && b == 0) stopped = 2;
    }
    if (!ldcorn_group_at(l[0], 0, &info) || ldcorn_group_at(l[0], 1, &info)) return 3;
    printf("%s %llu\n", info.name, (unsigned long long)info.requests);
    ldcorn_close(l[0]);
    ldcorn_close(l[1]);
    return in_use != 0 || lines == 0 ? 4 : 0;
}
