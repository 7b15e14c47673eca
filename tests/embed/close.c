/* Closes in the middle of a reload whose new worker is not ready: `close FILE`, where the worker of the second
   generation takes for ever to begin. Every byte comes back (the leak checker looks). */
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "../../ldcorn.h"

static void answer(ldcorn_call *call, void *user) {
    (void)user;
    ldcorn_reply(call, 200, NULL, "ok", 2);
}

static int work(int fd, const ldcorn_worker_info *who, void *user) {
    if (who->generation > 1) pause();
    return ldcorn_serve(fd, answer, user);
}

int main(int argc, char **argv) {
    static const ldcorn_function_desc functions[] = {{"work", work, NULL}};
    static ldcorn_error error;
    ldcorn_desc desc;
    ldcorn *l;
    memset(&desc, 0, sizeof desc);
    desc.file = argc > 1 ? argv[1] : NULL;
    desc.functions = functions;
    desc.function_count = 1;
    desc.no_signals = true;
    l = ldcorn_open(&desc, &error);
    if (l == NULL) return fputs(error.text, stderr), 1;
    for (int i = 0; i < 50; i++) ldcorn_step(l, 10);
    if (ldcorn_reload(l, &error)) return fputs(error.text, stderr), 2;
    for (int i = 0; i < 20; i++) ldcorn_step(l, 10);
    ldcorn_close(l);
    puts("closed");
    return 0;
}
