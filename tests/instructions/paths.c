/* The ways of a request in ldcorn's own instructions: what the kernel does is not among them, so a
   count is the same at each run and shows changes that no clock can. tests/instructions/run counts
   under callgrind; without it this program only checks that each way works.

   Some are single functions; the others are a whole instance, its clients and its worker in one
   process on unix sockets. Only what ldcorn does is collected, and the clock is ours. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static int our_clock(clockid_t which, struct timespec *t);
#define clock_gettime our_clock
#define LDCORN_IMPLEMENTATION
#include "../../ldcorn.h"
#undef clock_gettime
#include <valgrind/callgrind.h>

enum { CLIENTS = 8, GROUPS = 50, BODY = 65536, CHUNK = 8000, BYTES = 2 * BODY };

static const char small[] = "GET /b/128 HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\r\n";
static const char browser[] =
    "GET /some/path?with=a&query=string HTTP/1.1\r\nHost: www.example.com\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/120.0.0.0 Safari/537.36\r\n"
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n"
    "Accept-Language: en-US,en;q=0.9,de;q=0.8\r\nAccept-Encoding: gzip, deflate, br\r\n"
    "Cache-Control: max-age=0\r\nCookie: session=0123456789abcdef0123456789abcdef; theme=dark; "
    "consent=yes; _ga=GA1.2.1234567890.1700000000\r\n"
    "Referer: https://www.example.com/some/path/to/a/page?with=a&query=string\r\n"
    "Sec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Site: same-origin\r\n"
    "Upgrade-Insecure-Requests: 1\r\nDNT: 1\r\nSec-CH-UA-Platform: \"Linux\"\r\n"
    "Connection: keep-alive\r\n\r\n";
static const char answer_head[] = "HTTP/1.1 200 OK\r\nServer: upstream\r\nContent-Type: "
                                  "application/octet-stream\r\nContent-Length: %d\r\n\r\n";

static char answer[BYTES];
static size_t answer_size;

static void need(bool ok, const char *what) {
    if (ok) return;
    fprintf(stderr, "paths: does not work: %s (errno %s)\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_us = 1000000000;

static int our_clock(clockid_t which, struct timespec *t) {
    uint64_t us = now_us + (which == CLOCK_REALTIME ? 1700000000000000ULL : 0);
    t->tv_sec = (time_t)(us / 1000000);
    t->tv_nsec = (long)(us % 1000000) * 1000;
    return 0;
}

/* Runs `once` a few times first: buffers and lists have their size then. The dump's name says how
   many times are in it. */
static void count(const char *name, void (*once)(void), int times) {
    char text[80];
    for (int i = 0; i < 3; i++) once();
    CALLGRIND_ZERO_STATS;
    for (int i = 0; i < times; i++) once();
    snprintf(text, sizeof text, "%s %d", name, times);
    CALLGRIND_DUMP_STATS_AT(text);
    puts(name);
}

/* --- single functions --- */

static ldc_mem mem;
static ldc_head head;
static ldc_buf out;

static void request_head(const char *text, size_t n) {
    ldc_forward w;
    size_t line = 0;
    memset(&w, 0, sizeof w);
    w.client = LDC_S("127.0.0.1");
    w.proto = LDC_S("http");
    w.host = LDC_S("localhost");
    w.id = LDC_S("0123456789abcdef");
    w.arrived = 1700000000000ULL;
    w.keep = true;
    CALLGRIND_TOGGLE_COLLECT;
    need(ldc_http_end(text, n, &line) == (ptrdiff_t)n, "head's end");
    need(ldc_http_request(&head, text, n) == LDC_WHY_NONE, "request");
    need(ldc_http_write_request(&mem, &out, &head, &w, w.client), "request written");
    CALLGRIND_TOGGLE_COLLECT;
    ldc_buf_free(&mem, &out);
}

static void request_small(void) { request_head(small, sizeof small - 1); }
static void request_browser(void) { request_head(browser, sizeof browser - 1); }

static void response_head(void) {
    char text[256];
    size_t n = (size_t)snprintf(text, sizeof text, answer_head, 128), line = 0;
    CALLGRIND_TOGGLE_COLLECT;
    need(ldc_http_end(text, n, &line) == (ptrdiff_t)n, "head's end");
    need(ldc_http_response(&head, text, n, false), "response");
    need(ldc_http_write_response(&mem, &out, &head, head.frame, NULL, LDC_S("")), "response written");
    CALLGRIND_TOGGLE_COLLECT;
    ldc_buf_free(&mem, &out);
}

static size_t chunked_body(char *to) {
    size_t n = 0;
    for (int left = BODY; left > 0; left -= CHUNK) {
        int k = left < CHUNK ? left : CHUNK;
        n += (size_t)sprintf(to + n, "%x\r\n", (unsigned)k);
        memset(to + n, 'x', (size_t)k);
        n += (size_t)k;
        n += (size_t)sprintf(to + n, "\r\n");
    }
    return n + (size_t)sprintf(to + n, "0\r\n\r\n");
}

static void chunks(void) {
    static char text[BYTES];
    size_t n = chunked_body(text), bytes;
    ptrdiff_t used;
    ldc_chunk k;
    memset(&k, 0, sizeof k);
    CALLGRIND_TOGGLE_COLLECT;
    used = ldc_chunk_decode(&k, text, n, &bytes);
    CALLGRIND_TOGGLE_COLLECT;
    need(used == (ptrdiff_t)n && bytes == BODY && k.state == LDC_CHUNK_DONE, "chunks");
}

/* --- an instance --- */

typedef struct peer {
    int fd;
    bool busy;  /* a client's request is on its way */
    size_t got; /* bytes of its answer */
} peer;

static ldcorn *l;
static char folder[64], path_main[96], path_up[96];
static int listener;
static peer client[CLIENTS], worker;

static void leave_folder(void) {
    char name[96];
    unlink(path_up + 5);
    unlink(path_main + 5);
    snprintf(name, sizeof name, "%s/run/lock", folder);
    unlink(name);
    snprintf(name, sizeof name, "%s/run", folder);
    rmdir(name);
    rmdir(folder);
}

static int unix_socket(const char *path, struct sockaddr_un *a) {
    memset(a, 0, sizeof *a);
    a->sun_family = AF_UNIX;
    strcpy(a->sun_path, path + 5);
    return socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

static void set_up(void) {
    struct sockaddr_un a;
    strcpy(folder, "/tmp/ldcorn-paths-XXXXXX");
    need(mkdtemp(folder) != NULL, "a temporary folder");
    atexit(leave_folder);
    snprintf(path_main, sizeof path_main, "unix:%s/main", folder);
    snprintf(path_up, sizeof path_up, "unix:%s/up", folder);
    listener = unix_socket(path_up, &a);
    need(bind(listener, (struct sockaddr *)&a, sizeof a) == 0 && listen(listener, 64) == 0, "listen");
    worker.fd = -1;
    for (int i = 0; i < CLIENTS; i++) client[i].fd = -1;
}

/* One turn, collected. Time goes on by as much as a turn may take. */
static void step(void) {
    now_us += 50;
    CALLGRIND_TOGGLE_COLLECT;
    ldcorn_step(l, 0);
    CALLGRIND_TOGGLE_COLLECT;
}

static void step_apart(void) {
    now_us += 50;
    ldcorn_step(l, 0);
}

/* Looks whether the worker accepts end at once; the connection that stays is the worker's. */
static void accept_worker(void) {
    int fd;
    char byte;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        if (recv(fd, &byte, 1, MSG_PEEK) == 0) {
            close(fd);
            continue;
        }
        if (worker.fd >= 0) close(worker.fd);
        worker.fd = fd;
    }
}

/* Has the worker got a request? All of them come in one piece here. */
static bool asked(void) {
    char text[4096];
    ssize_t n;
    accept_worker();
    n = worker.fd < 0 ? -1 : recv(worker.fd, text, sizeof text, 0);
    return n > 4 && memcmp(text + n - 4, "\r\n\r\n", 4) == 0;
}

static void connect_client(peer *p) {
    struct sockaddr_un a;
    p->fd = unix_socket(path_main, &a);
    need(connect(p->fd, (struct sockaddr *)&a, sizeof a) == 0, "connect");
}

static void ask(peer *p) {
    if (p->fd < 0) connect_client(p);
    need(send(p->fd, small, sizeof small - 1, MSG_NOSIGNAL) > 0, "send");
    p->busy = true;
}

static void read_answer(peer *p) {
    static char text[BYTES];
    ssize_t n;
    while ((n = recv(p->fd, text, sizeof text, 0)) > 0) {
        need(p->got || (n > 17 && memcmp(text, "HTTP/1.1 200 OK\r\n", 17) == 0), "answer");
        p->got += (size_t)n;
    }
}

static void give_answer(void) {
    need(send(worker.fd, answer, answer_size, MSG_NOSIGNAL) == (ssize_t)answer_size, "answer sent");
}

static void answer_is(int size) {
    answer_size = (size_t)sprintf(answer, answer_head, size);
    memset(answer + answer_size, 'x', (size_t)size);
    answer_size += (size_t)size;
}

static void answer_is_chunked(void) {
    answer_size = (size_t)sprintf(answer, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    answer_size += chunked_body(answer + answer_size);
}

static void start(int groups, int limit) {
    static const char *const up[] = {path_up, NULL}, *const at[] = {path_main, NULL};
    static char names[GROUPS][8], routes[GROUPS][16];
    static const char *lists[GROUPS][2];
    static ldcorn_group_desc g[GROUPS];
    static ldcorn_error error;
    static char run[80];
    ldcorn_desc d;
    ldcorn_group_info info;
    memset(&d, 0, sizeof d);
    memset(g, 0, sizeof g);
    for (int i = 0; i < groups; i++) { /* the first one has all paths that no other has */
        snprintf(names[i], sizeof names[i], "g%02d", i);
        snprintf(routes[i], sizeof routes[i], i ? "/group/%02d" : "*", i);
        lists[i][0] = routes[i];
        g[i].name = names[i];
        g[i].routes = lists[i];
        g[i].upstream = up;
        g[i].max_req_per_worker = limit;
    }
    snprintf(run, sizeof run, "%s/run", folder);
    d.groups = g;
    d.group_count = groups;
    d.listen = at;
    d.admin = (const char *const[]){"off", NULL};
    d.runtime_dir = run;
    d.log = "off";
    l = ldcorn_open(&d, &error);
    if (l == NULL) fputs(error.text, stderr);
    need(l != NULL, "ldcorn_open");
    l->id_seed = 1;
    for (int i = 0; i < 100; i++) {
        bool all = true;
        step_apart();
        accept_worker();
        for (int k = 0; k < groups; k++) all = ldcorn_group_at(l, k, &info) && info.ready == 1 && all;
        if (all) return;
    }
    need(false, "workers ready");
}

static void end(void) {
    for (int i = 0; i < CLIENTS; i++) {
        if (client[i].fd >= 0) close(client[i].fd);
        client[i].fd = -1;
        client[i].busy = false;
    }
    if (worker.fd >= 0) close(worker.fd);
    worker.fd = -1;
    ldcorn_close(l);
}

static void until_asked(void) {
    for (int i = 0; i < 5; i++) {
        step();
        if (asked()) return;
    }
    need(false, "the worker is asked");
}

/* Its head and chunks are written anew and may be a little shorter. */
static void until_answered(peer *p) {
    size_t least = answer_size - 64;
    give_answer();
    for (int i = 0; i < 10 && p->got < least; i++) {
        step();
        read_answer(p);
    }
    need(p->got >= least, "the client has its answer");
    p->busy = false;
    p->got = 0;
}

static void exchange(void) {
    ask(&client[0]);
    until_asked();
    until_answered(&client[0]);
}

/* With its accept and its end. */
static void connection(void) {
    exchange();
    close(client[0].fd);
    client[0].fd = -1;
    step();
}

/* All clients wait but one, whose request is inside. It gets its answer and asks again; the head of
   the line goes in. The worker's limit is 1. */
static void hand_over(void) {
    static int turn;
    peer *p = &client[turn++ % CLIENTS];
    for (int i = 0; i < CLIENTS; i++) { /* the first time */
        if (client[i].busy) continue;
        ask(&client[i]);
        for (int k = 0; k < 2; k++) step_apart();
    }
    if (turn == 1) need(asked(), "the worker is asked");
    until_answered(p);
    need(asked(), "the next one is inside at once");
    ask(p);
    step();
    need(!asked(), "only one is inside");
}

static void route(void) {
    char room[64];
    const ldc_route *found = NULL;
    CALLGRIND_TOGGLE_COLLECT;
    ldc_route_find(l->conf, NULL, LDC_S("/group/25/some/thing?a=b"), room, &found);
    CALLGRIND_TOGGLE_COLLECT;
    need(found && found->group == 25, "route");
}

static void route_rest(void) {
    char room[64];
    const ldc_route *found = NULL;
    CALLGRIND_TOGGLE_COLLECT;
    ldc_route_find(l->conf, NULL, LDC_S("/other/some/thing?a=b"), room, &found);
    CALLGRIND_TOGGLE_COLLECT;
    need(found && found->group == 0, "route");
}

int main(void) {
    ldcorn_desc nothing;
    memset(&nothing, 0, sizeof nothing);
    ldc_public_mem(&mem, &nothing);
    set_up();
    count("request-head-small", request_small, 100);
    count("request-head-browser", request_browser, 100);
    count("response-head", response_head, 100);
    count("chunks-64k", chunks, 10);
    start(GROUPS, 0);
    count("route-of-50", route, 100);
    count("route-behind-50", route_rest, 100);
    end();
    start(1, 0);
    answer_is(128);
    count("exchange-small", exchange, 100);
    answer_is(BODY);
    count("exchange-64k", exchange, 20);
    answer_is_chunked();
    count("exchange-chunked-64k", exchange, 20);
    end();
    start(1, 0);
    answer_is(128);
    count("connection", connection, 100);
    end();
    start(1, 1);
    count("queue-hand-over", hand_over, 100);
    end();
    return 0;
}
