/* ldcorn_serve() alone, on the unix socket that is named: /N answers with N bytes, after 50 ms where the
   target ends in `slow`. `serve PATH [FILES]`: FILES is the limit of descriptors. */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include "../../ldcorn.h"

static char body[1 << 22];

static void answer(ldcorn_call *call, void *user) {
    size_t n = strtoul(call->target + 1, NULL, 10);
    (void)user;
    if (strstr(call->target, "slow")) poll(NULL, 0, 50);
    ldcorn_reply(call, 200, NULL, body, n < sizeof body ? n : sizeof body);
}

int main(int argc, char **argv) {
    struct sockaddr_un at;
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    memset(body, 'x', sizeof body);
    memset(&at, 0, sizeof at);
    at.sun_family = AF_UNIX;
    snprintf(at.sun_path, sizeof at.sun_path, "%s", argc > 1 ? argv[1] : "");
    if (argc > 2) {
        struct rlimit files;
        files.rlim_cur = files.rlim_max = (rlim_t)atoi(argv[2]);
        setrlimit(RLIMIT_NOFILE, &files);
    }
    signal(SIGPIPE, SIG_IGN);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) < 0 || listen(fd, 64) < 0) return 1;
    puts("open");
    fflush(stdout);
    return ldcorn_serve(fd, answer, NULL);
}
