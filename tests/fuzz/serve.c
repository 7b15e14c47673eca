/* The small server for C workers: the same answers whether requests come whole or in pieces, and
   each answer is a well-formed one. */
#include "fuzz.h"

static int calls;

static void handler(ldcorn_call *call, void *user) {
    char agent[8];
    int n = ldcorn_header(call, "user-agent", agent, sizeof agent);
    (void)user;
    calls++;
    CHECK(call->method[0] && call->target[0] && n >= -1);
    CHECK(n < 0 || strlen(agent) == (n < 8 ? (size_t)n : 7) || memchr(agent, 0, sizeof agent));
    if (strcmp(call->target, "/none") == 0) return;
    CHECK(ldcorn_reply(call, 200, NULL, call->body, call->body_size) == 0);
    CHECK(ldcorn_reply(call, 200, NULL, "x", 1) == -1);
}

/* What is answered when the bytes come in pieces of `step`. */
static char *answers(const uint8_t *p, size_t n, size_t step, size_t *size, bool *ok) {
    static ldc_head head;
    ldc_serve_conn c;
    ldc_mem m;
    char *out;
    size_t at = 0;
    fuzz_mem(&m);
    memset(&c, 0, sizeof c);
    c.fd = -1;
    ldc_text_init(&c.out, &m);
    c.in = (char *)malloc(n + 1);
    if (c.in == NULL) exit(1);
    *ok = true;
    while (at < n && *ok && !c.close) {
        size_t k = n - at < step ? n - at : step;
        memcpy(c.in + c.n, p + at, k);
        c.n += k;
        at += k;
        *ok = ldc_serve_requests(&m, &c, &head, handler, NULL);
    }
    free(c.in);
    out = fuzz_copy(c.out.p, c.out.n);
    *size = c.out.n;
    ldc_text_free(&c.out);
    CHECK(fuzz_blocks == 0);
    return out;
}

/* 100 Continue depends on when the body comes; everything else does not. */
static size_t without_continue(char *p, size_t n) {
    static const char line[] = "HTTP/1.1 100 Continue\r\n\r\n";
    char *found;
    while ((found = (char *)memmem(p, n, line, sizeof line - 1)) != NULL) {
        size_t at = (size_t)(found - p);
        n -= sizeof line - 1;
        memmove(found, found + sizeof line - 1, n - at);
    }
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static ldc_head head;
    size_t n, m, line = 0;
    bool ok, same;
    int before;
    char *whole, *pieces;
    if (size > 16384) return 0;
    calls = 0;
    whole = answers(data, size, size + 1, &n, &ok);
    before = calls;
    if (n) {
        ptrdiff_t end = ldc_http_end(whole, n, &line);
        CHECK(end > 0 && ldc_http_response(&head, whole, (size_t)end, false));
    }
    n = without_continue(whole, n);
    for (size_t step = 1; step < 60; step = step * 3 + fuzz_number(data, size, 3)) {
        calls = 0;
        pieces = answers(data, size, step, &m, &same);
        m = without_continue(pieces, m);
        CHECK(same == ok && calls == before && m == n && memcmp(whole, pieces, n) == 0);
        free(pieces);
    }
    free(whole);
    return 0;
}
