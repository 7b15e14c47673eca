/* Two instances that run in two threads: two_runs LISTEN1 LISTEN2 UPSTREAM. A line on standard input
   ends and closes the first one, another the second. */
#define LDCORN_IMPLEMENTATION
#include "../../ldcorn.h"
#include <pthread.h>

static ldcorn *make(const char *at, const char *worker) {
    static const char *const all[] = {"*", NULL};
    const char *listen[2] = {NULL, NULL}, *upstream[2] = {NULL, NULL};
    ldcorn_group_desc group;
    ldcorn_desc desc;
    ldcorn_error error;
    ldcorn *l;
    memset(&group, 0, sizeof group);
    memset(&desc, 0, sizeof desc);
    listen[0] = at;
    upstream[0] = worker;
    group.name = "a";
    group.upstream = upstream;
    group.routes = all;
    desc.groups = &group;
    desc.group_count = 1;
    desc.listen = listen;
    desc.admin = (const char *const[]){"off", NULL};
    desc.no_signals = true;
    l = ldcorn_open(&desc, &error);
    if (l == NULL) {
        fputs(error.text, stderr);
        exit(1);
    }
    return l;
}

static void *run(void *l) {
    ldcorn_run((ldcorn *)l);
    return NULL;
}

int main(int argc, char **argv) {
    pthread_t thread[2];
    ldcorn *l[2];
    if (argc != 4) return 2;
    for (int i = 0; i < 2; i++) l[i] = make(argv[1 + i], argv[3]);
    for (int i = 0; i < 2; i++) {
        pthread_create(&thread[i], NULL, run, l[i]);
        usleep(200000); /* the first one's SIGPIPE is put away first */
    }
    puts("runs");
    for (int i = 0; i < 2; i++) {
        fflush(stdout);
        getchar();
        ldcorn_stop(l[i]);
        pthread_join(thread[i], NULL);
        ldcorn_close(l[i]);
        puts("closed");
    }
    return 0;
}
