/* One scenario again and again, each time with another allocation that fails: the n-th, and the
   `burst` - 1 behind it, for n = first, first + stride, ... until a run needs fewer than n.

       nth_alloc DIR upstream|function BURST FIRST STRIDE

   Whatever fails: no crash, no exit, no answer that looks whole and is not; once memory is there
   again a fresh request is served; after ldcorn_close every byte is back. DIR is an empty directory. */
#define LDCORN_IMPLEMENTATION
#include "../../ldcorn.h"

#define CHECK(x, ...)                                                         \
    do {                                                                      \
        if (!(x)) {                                                           \
            fprintf(stderr, "FAIL n=%ld line %d: %s: ", target, __LINE__, #x); \
            fprintf(stderr, __VA_ARGS__);                                     \
            fprintf(stderr, "\n%s", said);                                    \
            abort();                                                          \
        }                                                                     \
    } while (0)

static long target, burst, calls, failed, live;
static bool armed, reloaded;
static pid_t self;
static char said[16384]; /* the log of this run */
static const char *dir;
static pid_t children[2];

/* --- the allocator: counts, fails when asked, and checks what it is told --- */

typedef union block {
    struct {
        size_t size;
        uint32_t magic;
    } h;
    long double aligned;
} block;

static void *resize(void *user, void *p, size_t old_size, size_t new_size) {
    block *b = p ? (block *)p - 1 : NULL;
    (void)user;
    if (b) CHECK(b->h.magic == 0x1dc0a11c && b->h.size == old_size, "%zu, not %zu", b->h.size, old_size);
    if (p == NULL) CHECK(old_size == 0, "%zu", old_size);
    if (new_size == 0) {
        if (b == NULL) return NULL;
        live -= (long)old_size;
        b->h.magic = 0;
        free(b);
        return NULL;
    }
    if (armed && getpid() == self && new_size > old_size) {
        calls++;
        if (calls >= target && calls < target + burst) {
            failed++;
            return NULL;
        }
    }
    b = (block *)realloc(b, sizeof *b + new_size);
    CHECK(b, "really out of memory");
    b->h.size = new_size;
    b->h.magic = 0x1dc0a11c;
    live += (long)new_size - (long)old_size;
    return b + 1;
}

static void line(void *user, ldcorn_level level, const char *text, size_t n) {
    size_t used = strlen(said);
    (void)user, (void)level;
    if (n + used + 2 < sizeof said) snprintf(said + used, sizeof said - used, "%.*s\n", (int)n, text);
    if (strstr(said, "eload")) reloaded = true;
}

/* --- workers --- */

static void answer(ldcorn_call *call, void *user) {
    (void)user;
    if (call->body_size)
        ldcorn_reply(call, 200, NULL, call->body, call->body_size);
    else
        ldcorn_reply(call, 200, NULL, "plain", 5);
}

static int work(int fd, const ldcorn_worker_info *who, void *user) {
    (void)who, (void)user;
    return ldcorn_serve(fd, answer, NULL);
}

static int listener(const char *name) {
    struct sockaddr_un at;
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    memset(&at, 0, sizeof at);
    at.sun_family = AF_UNIX;
    snprintf(at.sun_path, sizeof at.sun_path, "%s/%s", dir, name);
    CHECK(bind(fd, (struct sockaddr *)&at, sizeof at) == 0 && listen(fd, 64) == 0, "%s", strerror(errno));
    return fd;
}

/* One connection at a time: 101 and an echo where an upgrade is asked for, else a chunked answer. */
static void raw(int fd) {
    static const char yes[] = "HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    static const char chunks[] = "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
                                 "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    for (;;) {
        char in[8192];
        size_t n = 0;
        ssize_t r = 0;
        int c = accept(fd, NULL, NULL);
        if (c < 0) continue;
        in[0] = 0;
        while (n < sizeof in - 1 && !strstr(in, "\r\n\r\n") && (r = read(c, in + n, sizeof in - 1 - n)) > 0) {
            n += (size_t)r;
            in[n] = 0;
        }
        if (strstr(in, "pgrade: echo")) {
            if (write(c, yes, sizeof yes - 1) < 0) r = 0;
            while (r > 0 && (r = read(c, in, sizeof in)) > 0)
                if (write(c, in, (size_t)r) != r) break;
        } else if (r > 0 && write(c, chunks, sizeof chunks - 1) > 0) {
            shutdown(c, SHUT_WR);
            while (read(c, in, sizeof in) > 0) continue;
        }
        close(c);
    }
}

static pid_t child(const char *name, bool serve) {
    int fd = listener(name);
    pid_t pid = fork();
    CHECK(pid >= 0, "fork");
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        signal(SIGPIPE, SIG_IGN);
        if (serve)
            ldcorn_serve(fd, answer, NULL);
        else
            raw(fd);
        _exit(0);
    }
    close(fd);
    return pid;
}

/* --- the instance --- */

static void configure(bool functions, bool second) {
    char path[256];
    FILE *f;
    snprintf(path, sizeof path, "%s/groups.ini", dir);
    f = fopen(path, "w");
    CHECK(f, "%s", path);
    fprintf(f, "listen = unix:%s/l%s%s%s\nadmin = off\nruntime_dir = %s/run\naccess_log = /dev/null\n", dir,
            second ? " unix:" : "", second ? dir : "", second ? "/l2" : "", dir);
    fprintf(f, "queue_timeout = 5s\nbackoff_max = 100ms\nstop_timeout = 1s\nenv = A=b C=d\n");
    if (functions)
        fprintf(f, "[a]\nroutes = *\nfunction = work\nmax_req_per_worker = 2\n");
    else
        fprintf(f, "[a]\nroutes = *\nupstream = unix:%s/a\nmax_req_per_worker = 2\n", dir);
    fprintf(f, "[b]\nroutes = /raw =/b /c*\nupstream = unix:%s/b\n", dir);
    if (second) fprintf(f, "[c]\nroutes = /new\nupstream = unix:%s/b\n", dir);
    fclose(f);
}

static ldcorn *open_it(void) {
    static const ldcorn_function_desc functions[] = {{"work", work, NULL}};
    static char path[256];
    static ldcorn_error error;
    ldcorn_desc desc;
    ldcorn *l;
    memset(&desc, 0, sizeof desc);
    snprintf(path, sizeof path, "%s/groups.ini", dir);
    desc.file = path;
    desc.functions = functions;
    desc.function_count = 1;
    desc.allocator.resize = resize;
    desc.logger.line = line;
    error.text[0] = 0;
    l = ldcorn_open(&desc, &error);
    CHECK(l || error.text[0], "a failure says why");
    return l;
}

static double clock_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int dial(const char *name) {
    struct sockaddr_un at;
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    memset(&at, 0, sizeof at);
    at.sun_family = AF_UNIX;
    snprintf(at.sun_path, sizeof at.sun_path, "%s/%s", dir, name);
    if (connect(fd, (struct sockaddr *)&at, sizeof at) < 0) {
        close(fd);
        return -1;
    }
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

typedef enum outcome { WHOLE, OWN, CUT } outcome;

/* Sends and turns the loop until `want` has come, a whole answer of ldcorn's own, or the end. */
static outcome talk(ldcorn *l, int fd, const char *data, size_t n, const char *want) {
    static char in[131072];
    size_t sent = 0, have = 0;
    double end = clock_now() + 20;
    in[0] = 0;
    if (fd < 0) return CUT;
    for (;;) {
        ssize_t r = sent < n ? send(fd, data + sent, n - sent, MSG_NOSIGNAL) : 0;
        char *body, *length;
        if (r > 0) sent += (size_t)r;
        CHECK(ldcorn_step(l, 2) == 1, "the loop ended");
        r = recv(fd, in + have, sizeof in - 1 - have, 0);
        if (r > 0) {
            have += (size_t)r;
            in[have] = 0;
        } else if (r < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            CHECK(clock_now() < end, "neither an answer nor an end, after %s", in);
            continue;
        }
        body = strstr(in, "\r\n\r\n");
        if (body && strncmp(in, "HTTP/1.1 5", 10) == 0) {
            length = strstr(in, "ontent-Length: ");
            CHECK(length, "%s", in);
            if (in + have >= body + 4 + atol(length + 15)) return OWN;
        } else if (have) {
            size_t most = have < 12 ? have : 12;
            CHECK(strncmp(in, *want == '1' ? "HTTP/1.1 101" : *want == 'e' ? want : "HTTP/1.1 200", most) == 0 ||
                      (have >= 10 && in[9] == '5') || have < 10,
                  "%s", in);
            size_t w = strlen(want);
            if (*want == '1' ? body != NULL
                             : (body || *want == 'e') && have >= w && memcmp(in + have - w, want, w) == 0)
                return WHOLE;
            if (body && (length = strstr(in, "ontent-Length: ")) != NULL && length < body)
                CHECK(in + have < body + 4 + atol(length + 15), "looks whole and is not: %s", in);
            if (body) CHECK(!strstr(body, "\r\n0\r\n\r\n"), "looks whole and is not: %s", in);
        }
        if (r <= 0) return CUT;
    }
}

static bool ready(ldcorn *l) {
    ldcorn_group_info info;
    for (int i = 0; ldcorn_group_at(l, i, &info); i++)
        if (info.ready < info.workers) return false;
    return true;
}

#define TALK(data, want) (outcome)(worst |= (int)talk(l, fd, data, sizeof data - 1, want))
#define AGAIN(name) (close(fd), fd = dial(name))

static char big[70000], big_want[65537];

/* -> 0 when everything was served. */
static int scenario(ldcorn *l) {
    int worst = 0, fd = dial("l"), two;
    if (TALK("GET / HTTP/1.1\r\nHost: a\r\nX-Some: field\r\n\r\n", "plain") == CUT) AGAIN("l");
    if (TALK("POST /p?q HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody", "body") == CUT) AGAIN("l");
    two = fd;
    fd = dial("l"); /* two at a time */
    TALK("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", "abcde");
    close(two);
    AGAIN("l");
    worst |= (int)talk(l, fd, big, strlen(big), big_want);
    AGAIN("l");
    if (TALK("GET /raw HTTP/1.1\r\nHost: a\r\n\r\n", "\r\n0\r\n\r\n") == CUT) AGAIN("l");
    if (fd >= 0 && send(fd, "GET / HTTP/1.1\r\nHo", 18, MSG_NOSIGNAL) > 0)
        for (int i = 0; i < 2; i++) CHECK(ldcorn_step(l, 1) == 1, "the loop ended");
    AGAIN("l");
    if (TALK("GET /raw HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n", "1") == WHOLE)
        TALK("echo echo", "echo echo");
    AGAIN("l");
    TALK("GET / HTTP/1.0\r\n\r\n", "plain");
    close(fd);
    return worst;
}

static void settle(ldcorn *l) {
    double end = clock_now() + 20;
    int fd;
    outcome got = CUT;
    armed = false;
    for (int i = 0; got != WHOLE && i < 50; i++) {
        static const char ask[] = "GET /fresh HTTP/1.1\r\nHost: a\r\n\r\n";
        fd = dial("l");
        got = talk(l, fd, ask, sizeof ask - 1, "plain");
        close(fd);
    }
    CHECK(got == WHOLE, "a fresh request is not served once memory is there");
    while (!ready(l)) {
        CHECK(ldcorn_step(l, 5) == 1 && clock_now() < end, "not all ready again");
    }
}

static bool run(bool functions) {
    ldcorn *l;
    ldcorn_error error;
    ldcorn_group_info info;
    double end = clock_now() + 20;
    int worst, r;
    said[0] = 0;
    calls = failed = 0;
    reloaded = false;
    configure(functions, false);
    armed = true;
    l = open_it();
    if (l == NULL) {
        CHECK(failed, "it did not open although nothing failed");
        armed = false;
        CHECK(live == 0, "%ld bytes are left after a failed open", live);
        return true;
    }
    while (!ready(l) && !failed) CHECK(ldcorn_step(l, 5) == 1 && clock_now() < end, "never ready");
    worst = scenario(l);
    CHECK(failed || worst == WHOLE, "nothing failed and yet something was not served");
    configure(functions, true);
    if (ldcorn_reload(l, &error) == 0) {
        double patience = clock_now() + 20;
        while (!reloaded && !ldcorn_group_at(l, 2, &info)) { /* nothing may say so: the line needs memory too */
            CHECK(ldcorn_step(l, 5) == 1, "the loop ended");
            if (failed && patience > clock_now() + 0.3) patience = clock_now() + 0.3;
            if (clock_now() < patience) continue;
            CHECK(failed, "the reload has no end");
            break;
        }
    }
    settle(l);
    ldcorn_stop(l);
    while ((r = ldcorn_step(l, 5)) == 1) CHECK(clock_now() < end + 20, "it does not stop");
    CHECK(r == 0, "stopped with %d", r);
    ldcorn_close(l);
    CHECK(live == 0, "%ld bytes are left", live);
    return failed > 0;
}

int main(int argc, char **argv) {
    long stride, n = 0, most = 0;
    bool functions;
    double start = clock_now();
    if (argc != 6) return 2;
    dir = argv[1];
    functions = strcmp(argv[2], "function") == 0;
    burst = atol(argv[3]);
    target = atol(argv[4]);
    stride = atol(argv[5]);
    self = getpid();
    signal(SIGPIPE, SIG_IGN);
    memset(big_want, 'b', sizeof big_want - 1);
    snprintf(big, sizeof big, "POST /big HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s",
             (int)sizeof big_want - 1, big_want);
    children[0] = child("a", true);
    children[1] = child("b", false);
    for (;; target += stride, n++) {
        double began = clock_now();
        bool more = run(functions);
        CHECK(clock_now() - began < 10, "it took %.1f s to come back", clock_now() - began);
        if (calls > most) most = calls;
        if (!more) break;
        CHECK(n < 5000, "no end");
    }
    for (int i = 0; i < 2; i++) {
        kill(children[i], SIGKILL);
        waitpid(children[i], NULL, 0);
    }
    printf("%ld runs, %ld allocations, %.1f s\n", n, most, clock_now() - start);
    return 0;
}
