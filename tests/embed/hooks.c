/* A host program with a filter and an event callback, which does as its standard input says:
   scale G N, restart G I, pause G I, resume G I (I -1: the group), or end. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../../ldcorn.h"

static void event(void *user, const ldcorn_event *e) {
    static const char *const kinds[] = {"ready", "exited", "reloaded", "request"};
    (void)user;
    printf("%s group=%s worker=%d status=%d text=%s id=%d client=%s times=%d%d%d\n", kinds[e->kind],
           e->group, e->worker, e->status, e->text, e->id[0] != 0, e->client, e->total_ms >= 0,
           e->queue_ms >= 0, e->worker_ms >= 0);
    fflush(stdout);
}

static void filter(ldcorn_call *call, void *user) {
    static const char *const never[] = {
        "Host", "content-length", "Connection", "X-Forwarded-For", "a b", "",
        "Via",  "Keep-Alive",     "Upgrade"};
    char pick[32];
    if (strcmp(call->target, "/teapot?now") == 0 && strcmp(call->method, "BREW") == 0)
        ldcorn_reply(call, 418, NULL, "short and stout", 15);
    if (strcmp(call->target, "/empty") == 0) ldcorn_reply(call, 204, "text/x", "", 0);
    if (strcmp(call->target, "/none") == 0) ldcorn_reply(call, 204, NULL, "body", 4);
    if (strcmp(call->target, "/same") == 0) ldcorn_reply(call, 304, NULL, "body", 4);
    if (strcmp(call->target, "/wrong") == 0 &&
        (ldcorn_reply(call, 100, NULL, "", 0) == 0 || ldcorn_reply(call, 1000, NULL, "", 0) == 0 ||
         ldcorn_reply(call, 0, NULL, "", 0) == 0))
        abort();
    if (ldcorn_header(call, "x-pick", pick, sizeof pick) > 0)
        call->group = strcmp(pick, "b") ? "c" : "b";
    for (size_t i = 0; i < sizeof never / sizeof *never; i++) {
        if (ldcorn_add_header(call, never[i], "x") == 0) abort();
    }
    if (ldcorn_add_header(call, "X-A", "b\r\nc: d") == 0 ||
        ldcorn_add_header(call, "X-A", " b") == 0)
        abort();
    if (ldcorn_add_header(call, "X-User", (const char *)user) != 0) abort();
    if (ldcorn_add_header(call, "X-Client", call->client) != 0) abort();
}

static void answer(ldcorn_call *call, void *user) {
    char text[256], who[64] = "-", client[64] = "-";
    ldcorn_header(call, "X-User", who, sizeof who);
    ldcorn_header(call, "X-Client", client, sizeof client);
    if (ldcorn_add_header(call, "X-A", "b") == 0) abort(); /* for filters only */
    snprintf(text, sizeof text, "%s %s %s", (const char *)user, who, client);
    ldcorn_reply(call, 200, NULL, text, strlen(text));
}

static int serve(int fd, const ldcorn_worker_info *who, void *user) {
    (void)user;
    return ldcorn_serve(fd, answer, (void *)(uintptr_t)who->group);
}

static int run(ldcorn *l, char *line) {
    char what[16], group[16];
    int n;
    ldcorn_error error;
    int r = -1;
    if (sscanf(line, "%15s %15s %d", what, group, &n) != 3) return 1;
    error.text[0] = 0;
    if (strcmp(what, "scale") == 0) r = ldcorn_scale(l, group, n, &error);
    if (strcmp(what, "restart") == 0) r = ldcorn_restart(l, group, n, &error);
    if (strcmp(what, "pause") == 0) r = ldcorn_pause(l, group, n, &error);
    if (strcmp(what, "resume") == 0) r = ldcorn_resume(l, group, n, &error);
    printf("did %s %d %s%s", what, r, error.text, r ? "" : "\n");
    fflush(stdout);
    return 0;
}

int main(int argc, char **argv) {
    static const char *const all[] = {"*", NULL}, *const none[] = {"/b", NULL};
    static const ldcorn_function_desc function = {"serve", serve, NULL};
    const char *listen[2] = {NULL, NULL};
    ldcorn_group_desc groups[2];
    ldcorn_desc desc;
    ldcorn_error error;
    char line[256];
    ldcorn *l;
    if (argc != 2) return 2;
    listen[0] = argv[1];
    memset(groups, 0, sizeof groups);
    memset(&desc, 0, sizeof desc);
    groups[0].name = "a";
    groups[1].name = "b";
    groups[0].function = groups[1].function = "serve";
    groups[0].routes = all;
    groups[1].routes = none;
    desc.groups = groups;
    desc.group_count = 2;
    desc.functions = &function;
    desc.function_count = 1;
    desc.listen = listen;
    desc.admin = (const char *const[]){"off", NULL};
    desc.log_level = "error";
    desc.event = event;
    desc.filter = filter;
    desc.filter_user = (void *)(uintptr_t) "ada";
    l = ldcorn_open(&desc, &error);
    if (l == NULL) {
        fputs(error.text, stderr);
        return 1;
    }
    for (;;) {
        struct pollfd in = {0, POLLIN, 0};
        if (ldcorn_step(l, 20) <= 0) break;
        if (poll(&in, 1, 0) == 1 && (fgets(line, sizeof line, stdin) == NULL || run(l, line)))
            ldcorn_stop(l);
    }
    ldcorn_close(l);
    return 0;
}
