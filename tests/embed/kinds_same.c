/* Two instances of one process that are told to use one place: kinds_same LISTEN FILE DIR LISTEN
   FILE DIR, where - stands for NULL. The first one runs by steps; lines on standard input: `second`
   opens the other one and tells what came of it, `first` closes the first one, `end`. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "../../ldcorn.h"

static void event(void *user, const ldcorn_event *e) {
    if (e->kind == LDCORN_WORKER_READY) printf("%s ready %ld\n", (const char *)user, e->pid);
    if (e->kind == LDCORN_WORKER_EXITED) printf("%s exited %ld\n", (const char *)user, e->pid);
    fflush(stdout);
}

static void answer(ldcorn_call *call, void *user) {
    (void)user;
    ldcorn_reply(call, 200, NULL, "ok", 2);
}

static int serve(int fd, const ldcorn_worker_info *who, void *user) {
    (void)who;
    return ldcorn_serve(fd, answer, user);
}

static const char *or_null(const char *z) { return strcmp(z, "-") ? z : NULL; }

static ldcorn *open_one(const char *name, char **argv) {
    static const ldcorn_function_desc functions[] = {{"serve", serve, NULL}};
    static const char *const all[] = {"*", NULL};
    static ldcorn_error error;
    const char *set[4];
    char listen[256], dir[1024];
    int n = 0;
    ldcorn_group_desc group;
    ldcorn_desc desc;
    ldcorn *l;
    memset(&group, 0, sizeof group);
    memset(&desc, 0, sizeof desc);
    group.name = "web";
    group.function = "serve";
    group.routes = all;
    snprintf(listen, sizeof listen, "listen=%s", argv[0]);
    snprintf(dir, sizeof dir, "runtime_dir=%s", argv[2]);
    set[n++] = listen;
    if (or_null(argv[2])) set[n++] = dir;
    set[n] = NULL;
    desc.set = set;
    desc.file = or_null(argv[1]);
    if (desc.file == NULL) {
        desc.groups = &group;
        desc.group_count = 1;
    }
    desc.functions = functions;
    desc.function_count = 1;
    desc.event = event;
    desc.event_user = (void *)(uintptr_t)name;
    memset(&error, 0, sizeof error);
    l = ldcorn_open(&desc, &error);
    for (char *p = error.text; *p; p++) {
        if (*p == '\n') *p = '\t';
    }
    printf("%s %s %d %s\n", name, l ? "open" : "refused", error.status, l ? "" : error.text);
    fflush(stdout);
    return l;
}

int main(int argc, char **argv) {
    ldcorn *l[2] = {NULL, NULL};
    char text[64];
    bool end = false;
    if (argc != 7) return 2;
    l[0] = open_one("first", argv + 1);
    if (l[0] == NULL) return 1;
    while (!end) {
        struct pollfd in = {0, POLLIN, 0};
        for (int i = 0; i < 2; i++) {
            if (l[i] && ldcorn_step(l[i], 5) <= 0) return 3;
        }
        if (poll(&in, 1, l[0] || l[1] ? 0 : -1) != 1) continue;
        if (fgets(text, sizeof text, stdin) == NULL || strcmp(text, "end\n") == 0) end = true;
        if (strcmp(text, "second\n") == 0 && l[1] == NULL) l[1] = open_one("second", argv + 4);
        if (strcmp(text, "first\n") == 0) {
            ldcorn_close(l[0]);
            l[0] = NULL;
            printf("first closed\n");
            fflush(stdout);
        }
    }
    ldcorn_close(l[0]);
    ldcorn_close(l[1]);
    return 0;
}
