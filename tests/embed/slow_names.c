/* The program with a resolver that hangs while the file named by SLOW_NAMES is there; else each name is
   127.0.0.1. */
#define _GNU_SOURCE
#include <netdb.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

static int slow_getaddrinfo(const char *host, const char *service, const struct addrinfo *hint, struct addrinfo **found) {
    const char *mark = getenv("SLOW_NAMES");
    (void)host;
    while (mark && access(mark, F_OK) == 0) {
        if (getenv("SLOW_STOPS")) raise(SIGSTOP);
        pause();
    }
    return getaddrinfo("127.0.0.1", service, hint, found);
}

#define getaddrinfo slow_getaddrinfo
#include "../../examples/main.c"
