/* The reader of configurations: any text is accepted or refused, nothing leaks, and what
   ldcorn_dump writes is a file that says the same. A first line `!N` lets the N-th allocation
   fail; what stands behind a line `---` is the file that `include` finds. */
#define _GNU_SOURCE 1
#include <stdio.h>

static FILE *fuzz_open(const char *path, const char *mode);
#define fopen fuzz_open
#include "fuzz.h"
#undef fopen

/* 1: values that ldcorn_dump is known to write so that they read back otherwise are left out: words
   with blanks or quotes, `${`, a backslash at the end, queue = none, durations over a minute that are
   no whole seconds or more than 2^31 of them. */
#ifndef KNOWN_DUMP
#define KNOWN_DUMP 1
#endif

static const char *text[2]; /* main.ini, and whatever it includes */
static size_t length[2];

static FILE *fuzz_open(const char *path, const char *mode) {
    int i = strcmp(path, "main.ini") == 0 ? 0 : 1;
    errno = ENOENT;
    if (text[i] == NULL) return NULL;
    if (length[i] == 0) return fopen("/dev/null", mode); /* fmemopen may refuse no bytes */
    return fmemopen((void *)(uintptr_t)text[i], length[i], mode);
}

static int serve(int fd, const ldcorn_worker_info *who, void *user) {
    (void)fd, (void)who, (void)user;
    return 0;
}

static const ldcorn_function_desc functions[] = {{"hello", serve, NULL}};
static ldcorn_desc desc;

typedef struct reading {
    ldc_mem m;
    ldc_conf *c;
    char *dump; /* without the comments that tell where each value was said */
    size_t n;
} reading;

static void read_it(reading *r) {
    static ldcorn_error error;
    static const ldc_home home;
    ldc_text t, warnings;
    memset(r, 0, sizeof *r);
    ldc_public_mem(&r->m, &desc);
    ldc_text_init(&t, &r->m);
    ldc_text_init(&warnings, &r->m);
    memset(&error, 0, sizeof error);
    r->c = ldc_conf_read(&r->m, &desc, &home, &error, &warnings);
    if (r->c == NULL) CHECK(error.status == 2 && error.text[0]);
    if (r->c) ldc_conf_dump(r->c, &t);
    if (r->c && !t.failed) r->dump = fuzz_copy(t.p, t.n + 1);
    for (char *p = t.p, *end; r->dump && p < t.p + t.n; p = end) {
        char *lf = (char *)memchr(p, '\n', (size_t)(t.p + t.n - p));
        CHECK(lf != NULL);
        end = lf + 1;
        if (*p == '#') continue;
        memcpy(r->dump + r->n, p, (size_t)(end - p));
        r->n += (size_t)(end - p);
    }
    ldc_text_free(&t);
    ldc_text_free(&warnings);
}

static void forget(reading *r) {
    ldc_conf_free(r->c);
    ldc_mem_done(&r->m);
    free(r->dump);
}

/* --- is it the same configuration? --- */

static bool same_text(const char *a, const char *b) {
    if (a == NULL || b == NULL) return (a == NULL || a[0] == 0) && (b == NULL || b[0] == 0);
    return strcmp(a, b) == 0;
}

static bool same_value(const ldc_key *k, const char *a, const char *b) {
    int64_t n, m;
    const char *x, *y;
    const char *const *list, *const *other;
    a += k->offset;
    b += k->offset;
    if (k->type == LDC_WORDS) {
        memcpy(&list, a, sizeof list);
        memcpy(&other, b, sizeof other);
        for (; list && other && *list && *other; list++, other++) {
            if (strcmp(*list, *other) != 0) return false;
        }
        return (list == NULL || *list == NULL) && (other == NULL || *other == NULL);
    }
    if (k->type == LDC_TEXT || k->type == LDC_COMMAND) {
        memcpy(&x, a, sizeof x);
        memcpy(&y, b, sizeof y);
        return strcmp(k->name, "admin_token") == 0 || same_text(x, y);
    }
    if (k->type == LDC_BOOL) return *a == *b;
    memcpy(&n, a, sizeof n);
    memcpy(&m, b, sizeof m);
    return n == m;
}

static void same_section(const ldc_section *a, const ldc_section *b, int scope) {
    for (int i = 0; i < LDC_KEY_COUNT; i++) {
        const ldc_key *k = &ldc_conf_keys[i];
        bool global = scope == LDC_SCOPE_GLOBAL, same;
        if (k->scope != scope) continue;
        same = same_value(k, global ? (char *)a->global : (char *)a->group,
                          global ? (char *)b->global : (char *)b->group);
        if (!same) fprintf(stderr, "another value after reading the dump: %s\n", k->name);
        CHECK(same);
    }
}

/* --- what ldcorn_dump cannot write yet; each of these goes when it can --- */

static bool odd_text(const char *z, bool word) {
    size_t n = z ? strlen(z) : 0;
    if (n == 0) return false; /* as not set */
    for (size_t i = 0; i < n; i++) {
        if ((unsigned char)z[i] < 0x20 || z[i] == 0x7f) return true; /* from the environment only */
    }
    if (z[0] == ' ' || z[n - 1] == ' ') return true;
    return KNOWN_DUMP && (z[n - 1] == '\\' || strstr(z, "${") || (word && strpbrk(z, " \t\"'")));
}

static bool odd_value(const ldc_key *k, const char *p) {
    int64_t n;
    const char *z;
    const char *const *list;
    p += k->offset;
    if (k->type == LDC_WORDS) {
        memcpy(&list, p, sizeof list);
        for (; list && *list; list++) {
            if (odd_text(*list, true) || (KNOWN_DUMP && **list == 0)) return true;
        }
        return false;
    }
    memcpy(&z, p, sizeof z);
    if (k->type == LDC_COMMAND) return z && z[0] && KNOWN_DUMP && z[strlen(z) - 1] == '\\';
    if (k->type == LDC_TEXT) return odd_text(z, false);
    memcpy(&n, p, sizeof n);
    if (!KNOWN_DUMP) return false;
    if (k->type == LDC_DURATION) return n > 60000 && (n % 1000 || n / 1000 > INT32_MAX);
    return k->type == LDC_INT && strcmp(k->name, "queue") == 0 && n == INT32_MAX;
}

static bool odd(const ldc_conf *c) {
    int i = 0;
    for (int id = 0; id < LDC_KEY_COUNT; id++) {
        const ldc_key *k = &ldc_conf_keys[id];
        if (k->scope == LDC_SCOPE_GLOBAL && odd_value(k, (const char *)c->globals->global)) return true;
        for (i = 0; k->scope == LDC_SCOPE_GROUP && i < c->groups; i++) {
            if (odd_value(k, (const char *)&c->group[i].s)) return true;
        }
    }
    return false;
}

static void read_again(const reading *first) {
    reading again;
    const ldc_section *a, *b;
    text[0] = first->dump;
    length[0] = first->n;
    text[1] = NULL;
    read_it(&again);
    if (again.c == NULL || again.n != first->n || memcmp(again.dump, first->dump, first->n) != 0)
        fprintf(stderr, "%.*s--- read again:\n%.*s", (int)first->n, first->dump, (int)again.n,
                again.c ? again.dump : "");
    CHECK(again.c != NULL);
    CHECK(again.n == first->n && memcmp(again.dump, first->dump, first->n) == 0);
    same_section(first->c->globals, again.c->globals, LDC_SCOPE_GLOBAL);
    for (a = first->c->sections, b = again.c->sections; a && b; a = a->next, b = b->next) {
        CHECK(strcmp(a->name, b->name) == 0);
        same_section(a, b, LDC_SCOPE_GROUP);
    }
    CHECK(a == NULL && b == NULL);
    forget(&again);
}

static void check(void) {
    static ldcorn_error error, warnings;
    memset(&error, 0, sizeof error);
    if (ldcorn_check(&desc, &error, &warnings) < 0) CHECK(error.status == 2 && error.text[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *p = (const char *)data, *mark;
    reading first;
    size_t n;
    long fail = -1;
    if (size > 1 && p[0] == '!') {
        const char *lf = (const char *)memchr(p, '\n', size);
        size_t used = lf ? (size_t)(lf - p) + 1 : size;
        for (fail = 0, n = 1; n < used && n < 7 && isdigit(data[n]); n++) fail = fail * 10 + (p[n] - '0');
        p += used;
        size -= used;
    }
    mark = (const char *)memmem(p, size, "\n---\n", 5);
    text[0] = p;
    length[0] = mark ? (size_t)(mark - p) + 1 : size;
    text[1] = mark ? mark + 5 : NULL;
    length[1] = mark ? size - (size_t)(mark + 5 - p) : 0;
    setenv("RUNTIME_DIRECTORY", "/run/fuzz", 1);
    setenv("FUZZ", "fuzzed value", 1);
    desc.file = "main.ini";
    desc.functions = functions;
    desc.function_count = 1;
    desc.allocator.resize = fuzz_resize;
    fuzz_fail = fail;
    read_it(&first);
    fuzz_fail = fail;
    check();
    fuzz_fail = -1;
    if (first.dump && !odd(first.c)) read_again(&first);
    forget(&first);
    CHECK(fuzz_blocks == 0);
    return 0;
}
