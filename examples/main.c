/* ldcorn: the whole program. Options, the configuration, run.
   cc examples/main.c -o ldcorn && ./ldcorn examples/groups.ini */
#define LDCORN_IMPLEMENTATION
#include "../ldcorn.h"

static const char usage[] =
    "usage: ldcorn [-o [group.]key=value ...] FILE      run the groups of FILE (or -c FILE)\n"
    "       ldcorn [-o key=value ...] -- CMD ...        run one group without a file\n"
    "       ldcorn -t FILE                              check FILE, programs and directories\n"
    "       ldcorn -T FILE                              print the effective configuration\n"
    "       ldcorn -v | -h                              version, this text; also --version, --help\n";

/* The demo's workers: what examples/groups.ini calls `function = hello` and `function = slow`. */
static void hello(ldcorn_call *call, void *user) {
    char text[160];
    const ldcorn_worker_info *who = (const ldcorn_worker_info *)user;
    int n = snprintf(text, sizeof text, "hello from %s.%d, pid %ld\n", who->group, who->index,
                     (long)getpid());
    ldcorn_reply(call, 200, NULL, text, (size_t)n);
}

static void slow(ldcorn_call *call, void *user) {
    struct timespec second = {1, 0};
    if (strcmp(call->method, "HEAD") != 0) nanosleep(&second, NULL); /* blocks its whole process */
    hello(call, user);
}

static int run_hello(int fd, const ldcorn_worker_info *who, void *user) {
    (void)user;
    return ldcorn_serve(fd, hello, (void *)(uintptr_t)who);
}

static int run_slow(int fd, const ldcorn_worker_info *who, void *user) {
    (void)user;
    return ldcorn_serve(fd, slow, (void *)(uintptr_t)who);
}

static const ldcorn_function_desc functions[] = {{"hello", run_hello, NULL},
                                                 {"slow", run_slow, NULL}};

static int fail(const char *text, int status) {
    fputs(text, stderr);
    return status;
}

int main(int argc, char **argv) {
    static ldcorn_error error, warnings;
    static const char *set[256];
    static char version[] = "-v", help[] = "-h";
    /* before ldcorn_run hears them they would end or stop us */
    static const int early[] = {SIGHUP, SIGUSR1, SIGUSR2, SIGTTIN};
    ldcorn_desc desc = {0};
    ldcorn *l;
    sigset_t all;
    int option, sets = 0, mode = 'c', status;
    desc.set = set;
    desc.reap_orphans = true; /* as process 1 of a container */
    desc.functions = functions;
    desc.function_count = 2;
    if (argc == 2 && strcmp(argv[1], "--version") == 0) argv[1] = version;
    if (argc == 2 && strcmp(argv[1], "--help") == 0) argv[1] = help;
    while ((option = getopt(argc, argv, "+c:t:T:o:vh")) != -1) {
        if (option == 'v') return printf("ldcorn %s\n", ldcorn_version()) < 0;
        if (option == 'h') return fputs(usage, stdout) < 0;
        if (option == '?') return fail(usage, 2);
        if (option == 'o' && sets == 255) return fail("ldcorn: more than 255 -o\n", 2);
        if (option == 'o')
            set[sets++] = optarg;
        else
            mode = option, desc.file = optarg;
    }
    if (optind < argc && strcmp(argv[optind - 1], "--") == 0 && desc.file == NULL) {
        desc.command = (const char *const *)(argv + optind);
    } else if (optind + 1 == argc && desc.file == NULL) {
        desc.file = argv[optind];
    } else if (optind < argc) {
        return fail(usage, 2);
    }
    if (desc.file == NULL && desc.command == NULL) return fail(usage, 2);
    if (mode == 'T') return ldcorn_dump(&desc, 1, &error) ? fail(error.text, error.status) : 0;
    if (mode == 't') {
        status = ldcorn_check(&desc, &error, &warnings) ? error.status : 0;
        fputs(warnings.text, stderr);
        return status ? fail(error.text, status) : printf("%s: ok\n", desc.file) < 0;
    }
    for (size_t i = 0; i < sizeof early / sizeof *early; i++) signal(early[i], SIG_IGN);
    l = ldcorn_open(&desc, &error);
    if (l == NULL) return fail(error.text, error.status);
    status = ldcorn_run(l);
    sigfillset(&all); /* a second Ctrl-C must not make another status of this end */
    sigprocmask(SIG_BLOCK, &all, NULL);
    ldcorn_close(l);
    return status;
}
