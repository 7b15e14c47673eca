/* What a host may leave out by mistake: kinds_null CASE LISTEN DIR. Prints what the calls returned;
   never a crash. */
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include "../../ldcorn.h"

static int serve(int fd, const ldcorn_worker_info *who, void *user) {
    (void)fd, (void)who, (void)user;
    return 0;
}

static const char *const star[] = {"*", NULL};
static ldcorn_function_desc functions[2];
static ldcorn_group_desc group;
static ldcorn_desc desc;
static ldcorn_error error;

static void spoil(const char *what) {
    if (strcmp(what, "groups") == 0) desc.groups = NULL;
    if (strcmp(what, "functions") == 0) desc.functions = NULL;
    if (strcmp(what, "function") == 0) functions[0].function = NULL;
    if (strcmp(what, "unused-function") == 0) functions[1].name = "other";
    if (strcmp(what, "function-name") == 0) functions[0].name = NULL;
    if (strcmp(what, "name") == 0) group.name = NULL;
    if (strcmp(what, "empty-name") == 0) group.name = "";
    if (strcmp(what, "group-count") == 0) desc.group_count = -1;
    if (strcmp(what, "function-count") == 0) desc.function_count = -1;
    if (strcmp(what, "least-count") == 0) desc.group_count = INT_MIN;
    if (strcmp(what, "two-functions") == 0) {
        functions[1] = functions[0];
        desc.function_count = 2;
    }
    if (strcmp(what, "unused-function") == 0) desc.function_count = 2;
}

static int without_error(const char *what) {
    static const ldcorn_desc nothing;
    ldcorn *l;
    int r = 0;
    if (strcmp(what, "error-open") == 0) return ldcorn_open(&nothing, NULL) == NULL;
    if (strcmp(what, "error-check") == 0) return ldcorn_check(&nothing, NULL, NULL) == -1;
    if (strcmp(what, "error-dump") == 0) return ldcorn_dump(&nothing, 1, NULL) == -1;
    l = ldcorn_open(&desc, NULL);
    if (l == NULL) return 0;
    if (strcmp(what, "error-scale") == 0) r = ldcorn_scale(l, "nobody", 1, NULL) == -1;
    if (strcmp(what, "error-restart") == 0) r = ldcorn_restart(l, "nobody", -1, NULL) == -1;
    if (strcmp(what, "error-pause") == 0) r = ldcorn_pause(l, "nobody", -1, NULL) == -1;
    if (strcmp(what, "error-resume") == 0) r = ldcorn_resume(l, "web", 99, NULL) == -1;
    if (strcmp(what, "error-group") == 0) r = ldcorn_scale(l, NULL, 1, &error) == -1;
    if (strcmp(what, "error-reload") == 0) {
        ldcorn_stop(l);
        while (ldcorn_step(l, 10) > 0) continue;
        r = ldcorn_reload(l, NULL) == -1;
    }
    ldcorn_close(l);
    return r;
}

int main(int argc, char **argv) {
    const char *what = argc > 3 ? argv[1] : "";
    const char *listen[2] = {NULL, NULL};
    ldcorn *l;
    int checked;
    functions[0].name = "serve";
    functions[0].function = serve;
    group.name = "web";
    group.function = "serve";
    group.routes = star;
    desc.groups = &group;
    desc.group_count = 1;
    desc.functions = functions;
    desc.function_count = 1;
    listen[0] = argc > 3 ? argv[2] : NULL;
    desc.listen = listen;
    desc.runtime_dir = argc > 3 ? argv[3] : NULL;
    desc.log_level = "error";
    if (strncmp(what, "error-", 6) == 0) return printf("%d\n", without_error(what)) < 0;
    spoil(what);
    checked = ldcorn_check(&desc, &error, NULL);
    memset(&error, 0, sizeof error);
    l = ldcorn_open(&desc, &error);
    printf("%d %s %d %s\n", checked, l ? "open" : "refused", error.status, error.text);
    ldcorn_close(l);
    return 0;
}
