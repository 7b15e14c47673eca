/* The parts of ldcorn.h that need no socket: the head parser, the chunk decoder, the route table,
   numbers with units. Whole, and cut at each place where a network may cut.
   cc tests/unit/test_http.c -o build/unit && build/unit */
#define LDCORN_IMPLEMENTATION
#include "../../ldcorn.h"

static int passed, failed;

/* One case. Only what fails is named. */
static void expect(bool ok, const char *what, const char *text) {
    if (ok) {
        passed++;
        return;
    }
    failed++;
    printf("FAIL %s: ", what);
    for (; *text; text++) {
        if (*text == '\r')
            printf("\\r");
        else if (*text == '\n')
            printf("\\n");
        else if (*text < ' ' || *text == 0x7f)
            printf("\\x%02x", (unsigned)(unsigned char)*text);
        else
            putchar(*text);
    }
    putchar('\n');
}

/* A copy that ends where its block ends, so that a sanitizer sees a byte read behind it. */
static char *exactly(const char *p, size_t n) {
    char *copy = (char *)malloc(n ? n : 1);
    if (copy == NULL) exit(1);
    if (n) memcpy(copy, p, n);
    return copy;
}

/* --- where a head ends --- */

/* What ldc_http_end says of p[0..n) that comes in two pieces, each of them at its own address. */
static ptrdiff_t end_in_two(const char *p, size_t n, size_t cut) {
    size_t line = 0;
    char *piece = exactly(p, cut);
    ptrdiff_t r = ldc_http_end(piece, cut, &line);
    free(piece);
    if (r != LDC_MORE) return r;
    piece = exactly(p, n);
    r = ldc_http_end(piece, n, &line);
    free(piece);
    return r;
}

static ptrdiff_t end_byte_by_byte(const char *p, size_t n) {
    size_t line = 0;
    ptrdiff_t r = LDC_MORE;
    for (size_t i = 0; i <= n && r == LDC_MORE; i++) r = ldc_http_end(p, i, &line);
    return r;
}

static void end_is(const char *text, ptrdiff_t want) {
    size_t n = strlen(text);
    bool ok = true;
    for (size_t cut = 0; cut <= n; cut++) ok = ok && end_in_two(text, n, cut) == want;
    expect(ok, "end of the head, cut in two anywhere", text);
    expect(end_byte_by_byte(text, n) == want, "end of the head, byte by byte", text);
}

static void test_end(void) {
    end_is("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 27);
    end_is("GET / HTTP/1.1\r\n\r\n", 18);
    end_is("GET / HTTP/1.1\r\nHost: a\r\n\r\nbody\n\n\r\n\r\n", 27);
    end_is("\r\n", 2);
    end_is("", LDC_MORE);
    end_is("GET / HTTP/1.1", LDC_MORE);
    end_is("GET / HTTP/1.1\r\nHost: a\r\n", LDC_MORE);
    end_is("GET / HTTP/1.1\r\nHost: a\r\n\r", LDC_MORE);
    end_is("GET / HTTP/1.1\nHost: a\r\n\r\n", LDC_BAD);
    end_is("GET / HTTP/1.1\r\nHost: a\n\r\n", LDC_BAD);
    end_is("GET / HTTP/1.1\r\nHost: a\r\n\n", LDC_BAD);
    end_is("\n", LDC_BAD);
}

/* --- requests --- */

static ldc_head head;

/* Parses exactly the head of `text`; the bytes stay until the next call. */
static ldc_why request(const char *text) {
    static char *copy;
    size_t line = 0, n = strlen(text);
    ptrdiff_t size = ldc_http_end(text, n, &line);
    free(copy);
    copy = NULL;
    if (size < 0) return LDC_WHY_REQUEST;
    copy = exactly(text, (size_t)size);
    memset(&head, 0x55, sizeof head);
    return ldc_http_request(&head, copy, (size_t)size);
}

static void refused(const char *text, ldc_why why) {
    expect(request(text) == why, "request", text);
}

/* With a good Host behind it. */
static void line_is(const char *line, ldc_why why) {
    char text[512];
    snprintf(text, sizeof text, "%s\r\nHost: a\r\n\r\n", line);
    refused(text, why);
}

static void fields_are(const char *fields, ldc_why why) {
    char text[512];
    snprintf(text, sizeof text, "POST / HTTP/1.1\r\nHost: a\r\n%s\r\n", fields);
    refused(text, why);
}

static void host_is(const char *host, bool good) {
    char text[512];
    snprintf(text, sizeof text, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", host);
    refused(text, good ? LDC_WHY_NONE : LDC_WHY_HOST);
}

static void test_request_line(void) {
    static const char *const bad[] = {"GET",
                                      "GET /",
                                      "GET  / HTTP/1.1",
                                      "GET / HTTP/1.1 ",
                                      " GET / HTTP/1.1",
                                      "GET /a b HTTP/1.1",
                                      "G(T / HTTP/1.1",
                                      "GET\t/ HTTP/1.1",
                                      "GET / http/1.1",
                                      "GET / HTTP/1",
                                      "GET / HTTP/1.11",
                                      "GET / HTTP/1,1",
                                      "GET / HTTP/a.1",
                                      "GET /#x HTTP/1.1",
                                      "GET /\x01 HTTP/1.1",
                                      "GET /\xc3\xa4 HTTP/1.1",
                                      "GET a HTTP/1.1",
                                      "GET * HTTP/1.1",
                                      "GET ftp://a/ HTTP/1.1",
                                      "GET http:///x HTTP/1.1",
                                      "GET http://u:p@a/ HTTP/1.1",
                                      "GET / HTTP/1.1\r",
                                      "GET  HTTP/1.1"};
    line_is("GET / HTTP/1.1", LDC_WHY_NONE);
    expect(ldc_util_is(head.method, "GET") && ldc_util_is(head.target, "/") && head.minor == 1,
           "parts", "/");
    line_is("purge /a?b=c%20d&e HTTP/1.0", LDC_WHY_NONE);
    expect(ldc_util_is(head.method, "purge") && ldc_util_is(head.target, "/a?b=c%20d&e") &&
               head.minor == 0,
           "parts", "/a?b=c%20d&e");
    line_is("GET / HTTP/1.9", LDC_WHY_NONE);
    expect(head.minor == 1, "a higher minor version is ours", "1.9");
    line_is("OPTIONS * HTTP/1.1", LDC_WHY_NONE);
    line_is("GET http://b:81/x?y HTTP/1.1", LDC_WHY_NONE);
    expect(ldc_util_is(head.host, "b:81") && ldc_util_is(head.target, "/x?y"), "absolute",
           "http://b:81/x?y");
    line_is("GET HTTPS://b HTTP/1.1", LDC_WHY_NONE);
    expect(ldc_util_is(head.host, "b") && ldc_util_is(head.target, "/"), "absolute", "HTTPS://b");
    line_is("GET / HTTP/2.0", LDC_WHY_VERSION);
    line_is("GET / HTTP/0.9", LDC_WHY_VERSION);
    line_is("CONNECT a:80 HTTP/1.1", LDC_WHY_METHOD);
    line_is("TRACE / HTTP/1.1", LDC_WHY_METHOD);
    for (size_t i = 0; i < LDC_LEN(bad); i++) line_is(bad[i], LDC_WHY_REQUEST);
}

static void test_host(void) {
    static const char *const good[] = {"a",
                                       "a.b",
                                       "a:80",
                                       "a:",
                                       "127.0.0.1:8000",
                                       "[::1]",
                                       "[::1]:80",
                                       "a_b",
                                       "[fe80::1%eth0]",
                                       "[fe80::1%25eth0]:80"};
    static const char *const bad[] = {
        "",      "a b",  "a/b",  "a@b",        "a:b",           "a:65536",
        "a:1:2", "[",    "[]",   "[::1",       "[::1]80",       "[g]",
        ":80",   "a\"b", "[%e]", "[fe80::1%e", "[fe80::1%e f]", "[fe80::1%e/f]"};
    for (size_t i = 0; i < LDC_LEN(good); i++) host_is(good[i], true);
    for (size_t i = 0; i < LDC_LEN(bad); i++) host_is(bad[i], false);
    refused("GET / HTTP/1.1\r\n\r\n", LDC_WHY_HOST);
    refused("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", LDC_WHY_HOST);
    refused("GET / HTTP/1.0\r\n\r\n", LDC_WHY_NONE);
    refused("GET http://b/ HTTP/1.1\r\n\r\n", LDC_WHY_HOST);
}

static void test_fields(void) {
    static const char *const bad[] = {"a\r\n",       "a : b\r\n",      ": b\r\n",
                                      " a: b\r\n",   "a: b\r\n c\r\n", "a: b\r\n\tc\r\n",
                                      "a: \x01\r\n", "a: \x7f\r\n",    "a: b\rc\r\n",
                                      "a(: b\r\n",   "a\t: b\r\n",     "\xc3\xa4: b\r\n"};
    fields_are("A:b\r\nC:  d \t\r\nE:\r\nF: \xc3\xa4\r\n", LDC_WHY_NONE);
    expect(head.count == 5 && ldc_util_is(head.field[1].value, "b") &&
               ldc_util_is(head.field[2].value, "d") && head.field[3].value.n == 0 &&
               ldc_util_is(head.field[4].value, "\xc3\xa4"),
           "values", "A C E F");
    for (size_t i = 0; i < LDC_LEN(bad); i++) fields_are(bad[i], LDC_WHY_REQUEST);
    fields_are("Connection: close, x-a\r\nX-A: 1\r\nX-B: 2\r\nKeep-Alive: 3\r\nProxy-Foo: 4\r\n",
               LDC_WHY_NONE);
    expect(head.close && !head.keep_alive && head.field[2].drop && !head.field[3].drop &&
               head.field[4].drop && head.field[5].drop,
           "hop by hop", "Connection: close, x-a");
    fields_are("Connection: host, Keep-Alive, Upgrade\r\n", LDC_WHY_NONE);
    expect(!head.field[0].drop && head.keep_alive && head.upgrade, "Host is never one hop's",
           "Connection: host");
    fields_are("Connection: a b\r\n", LDC_WHY_REQUEST);
    fields_are("Expect: 100-Continue\r\n", LDC_WHY_NONE);
    fields_are("Expect: 200-ok\r\n", LDC_WHY_EXPECT);
}

/* Values are looked at eight bytes at a time: each byte at each place of values of each length. */
static void test_values(void) {
    char text[24];
    bool ok = true;
    for (size_t n = 1; n < sizeof text; n++) {
        for (size_t at = 0; at < n; at++) {
            for (int c = 0; c < 256; c++) {
                char *copy;
                memset(text, c % 2 ? 'a' : 0xe4, n); /* beside it something below 0x80, or above */
                text[at] = (char)c;
                copy = exactly(text, n);
                ok = ok && ldc_http_text(ldc_util_str(copy, n)) ==
                               (c == '\t' || (c >= 0x20 && c != 0x7f));
                free(copy);
            }
        }
    }
    expect(ok, "values", "one byte that may not be in them");
    for (size_t i = 0; i < LDC_LEN(ldc_http_known); i++) {
        ldc_str name = ldc_util_str(ldc_http_known[i].text, ldc_http_known[i].n);
        expect(ldc_http_field_id(name) == i + 1, "known field", name.p);
        expect(ldc_http_field_id(ldc_util_cut(name, 1)) != i + 1, "cut field", name.p);
    }
}

static void test_count(void) {
    char text[4096] = "GET / HTTP/1.1\r\nHost: a\r\n";
    for (int i = 1; i < LDC_FIELDS; i++) strcat(text, "a: b\r\n");
    strcat(text, "\r\n");
    expect(request(text) == LDC_WHY_NONE && head.count == LDC_FIELDS, "fields",
           "as many as allowed");
    strcpy(text + strlen(text) - 2, "a: b\r\n\r\n");
    expect(request(text) == LDC_WHY_MAX_HEADER, "fields", "one too many");
}

static void test_framing(void) {
    static const char *const bad[] = {
        "Content-Length: 1\r\nContent-Length: 1\r\n",
        "Content-Length: 1, 1\r\n",
        "Content-Length: +1\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 0x1\r\n",
        "Content-Length:\r\n",
        "Content-Length: 1 1\r\n",
        "Content-Length: 9223372036854775808\r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding:\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: chunked;q=1\r\n"};
    fields_are("", LDC_WHY_NONE);
    expect(head.frame == LDC_FRAME_NONE && !head.has_length, "no body", "POST");
    fields_are("Content-Length: 0\r\n", LDC_WHY_NONE);
    expect(head.frame == LDC_FRAME_LENGTH && head.length == 0 && head.has_length, "length", "0");
    fields_are("Content-Length: 0012\r\n", LDC_WHY_NONE);
    expect(head.frame == LDC_FRAME_LENGTH && head.length == 12, "length", "0012");
    fields_are("Content-Length: 9223372036854775807\r\n", LDC_WHY_NONE);
    expect(head.length == (uint64_t)INT64_MAX, "length", "9223372036854775807");
    fields_are("Transfer-Encoding: Chunked\r\n", LDC_WHY_NONE);
    expect(head.frame == LDC_FRAME_CHUNKED, "chunked", "Chunked");
    fields_are("Transfer-Encoding: gzip\r\n", LDC_WHY_CODING);
    refused("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", LDC_WHY_FRAMING);
    for (size_t i = 0; i < LDC_LEN(bad); i++) fields_are(bad[i], LDC_WHY_FRAMING);
}

/* No head, however it is cut short or changed in one byte, makes the parser read elsewhere. */
static void test_mutations(void) {
    static const char good[] = "GET /a?b HTTP/1.1\r\nHost: a:80\r\nConnection: close, x\r\nX: y\r\n"
                               "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n";
    static const char with[] = {0,   '\t', '\n', '\r', ' ',        '"',       ',',
                                ':', '@',  '[',  'z',  (char)0x80, (char)0xff};
    char text[sizeof good];
    size_t n = sizeof good - 1;
    int done = 0;
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < sizeof with; k++) {
            size_t line = 0;
            ptrdiff_t size;
            char *copy;
            memcpy(text, good, sizeof good);
            text[i] = with[k];
            size = ldc_http_end(text, n, &line);
            if (size < 0) continue;
            copy = exactly(text, (size_t)size);
            ldc_http_request(&head, copy, (size_t)size);
            ldc_http_response(&head, copy, (size_t)size, false);
            free(copy);
            done++;
        }
    }
    expect(done > 1000, "mutations", good);
}

/* --- responses --- */

static bool response(const char *text, bool head_only) {
    static char *copy;
    size_t n = strlen(text);
    free(copy);
    copy = exactly(text, n);
    return ldc_http_response(&head, copy, n, head_only);
}

static void frame_is(const char *text, bool head_only, ldc_frame frame) {
    expect(response(text, head_only) && head.frame == frame, "response", text);
}

static void test_response(void) {
    static const char *const bad[] = {
        "HTTP/1.1 99 x\r\n\r\n",
        "HTTP/1.1 20 x\r\n\r\n",
        "HTTP/1.1 2000 x\r\n\r\n",
        "HTTP/2.0 200 x\r\n\r\n",
        "HTTP/1.1  200 x\r\n\r\n",
        "http/1.1 200 x\r\n\r\n",
        "HTTP/1.1 200 \x01\r\n\r\n",
        "HTTP/1.1 200 x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 x\r\na b\r\n\r\n",
        "HTTP/1.1\r\n\r\n",
        "\r\n\r\n"};
    frame_is("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", false, LDC_FRAME_LENGTH);
    expect(head.status == 200 && ldc_util_is(head.reason, "OK") && head.length == 3, "parts",
           "200 OK");
    frame_is("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", true, LDC_FRAME_NONE);
    frame_is("HTTP/1.1 200\r\n\r\n", false, LDC_FRAME_EOF);
    frame_is("HTTP/1.0 200 \r\n\r\n", false, LDC_FRAME_EOF);
    frame_is("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false, LDC_FRAME_CHUNKED);
    frame_is("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, LDC_FRAME_NONE);
    frame_is("HTTP/1.1 204 x\r\nContent-Length: 5\r\n\r\n", false, LDC_FRAME_NONE);
    frame_is("HTTP/1.1 304 x\r\nContent-Length: 5\r\n\r\n", false, LDC_FRAME_NONE);
    frame_is("HTTP/1.1 100 Continue\r\n\r\n", false, LDC_FRAME_NONE);
    frame_is("HTTP/1.1 204 x\r\nTransfer-Encoding: chunked\r\n\r\n", false, LDC_FRAME_NONE);
    frame_is("HTTP/1.1 103 x\r\nTransfer-Encoding: chunked\r\n\r\n", false, LDC_FRAME_NONE);
    frame_is("HTTP/1.1 304 x\r\nTransfer-Encoding: chunked\r\n\r\n", false, LDC_FRAME_NONE);
    frame_is("HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n", true, LDC_FRAME_NONE);
    frame_is("HTTP/1.1 600 x\r\nContent-Length: 3\r\n\r\n", false, LDC_FRAME_LENGTH);
    frame_is("HTTP/1.1 999 x\r\n\r\n", false, LDC_FRAME_EOF);
    for (size_t i = 0; i < LDC_LEN(bad); i++) expect(!response(bad[i], false), "response", bad[i]);
}

/* --- chunks --- */

/* Decodes text in pieces of `step` bytes (0: `cut`, then the rest). Bytes used or LDC_BAD. */
static ptrdiff_t decode(const char *text, size_t step, size_t cut, char *out, size_t *bytes,
                        bool *done) {
    ldc_chunk k;
    size_t at = 0, n = strlen(text);
    memset(&k, 0, sizeof k);
    *bytes = 0;
    while (at < n && k.state != LDC_CHUNK_DONE) {
        size_t m = step ? step : at < cut ? cut : n - at, got = 0;
        char *piece;
        ptrdiff_t r;
        if (m > n - at) m = n - at;
        piece = exactly(text + at, m);
        r = ldc_chunk_decode(&k, piece, m, &got);
        if (r >= 0) memcpy(out + *bytes, piece, got);
        free(piece);
        if (r < 0) return r;
        *bytes += got;
        at += (size_t)r;
        if ((size_t)r < m) break;
    }
    *done = k.state == LDC_CHUNK_DONE;
    return (ptrdiff_t)at;
}

/* `body`: what comes out; `rest`: what stays behind the end. NULL body: refused. */
static void chunks_are(const char *text, const char *body, size_t rest, bool ends) {
    static char out[65536];
    size_t n = strlen(text), bytes = 0;
    bool done = false, ok = true;
    for (size_t step = 0; step < 2; step++) {
        for (size_t cut = 0; cut <= (step ? 0 : n); cut++) {
            ptrdiff_t r = decode(text, step, cut, out, &bytes, &done);
            if (body == NULL)
                ok = ok && r == LDC_BAD;
            else
                ok = ok && r == (ptrdiff_t)(n - rest) && done == ends && bytes == strlen(body) &&
                     memcmp(out, body, bytes) == 0;
        }
        expect(ok, step ? "chunks, byte by byte" : "chunks, whole and cut in two anywhere", text);
    }
}

static void test_chunks(void) {
    static const char *const bad[] = {"\r\n",
                                      "g\r\n",
                                      "-1\r\n",
                                      "+1\r\n",
                                      " 1\r\n",
                                      "0x1\r\n",
                                      "1 \r\na\r\n",
                                      "1\na\r\n",
                                      "1\r\nab\r\n",
                                      "1\r\na\n",
                                      "1\r\na\rb",
                                      "1;a=\"\r\n",
                                      "1;a\x01\r\n",
                                      "1;a\nb\r\n",
                                      "8000000000000000\r\n",
                                      "10000000000000000\r\n",
                                      "00000000000000001\r\na",
                                      "0\r\na\r\n\r\n",
                                      "0\r\n: b\r\n\r\n",
                                      "0\r\na : b\r\n\r\n",
                                      "0\r\na: b\n",
                                      "0\r\na: \x01\r\n",
                                      "0\r\n\rx",
                                      "0\n\r\n",
                                      "1;\r\r\na"};
    chunks_are("5\r\nhello\r\n0\r\n\r\n", "hello", 0, true);
    chunks_are("5\r\nhello\r\n6\r\n world\r\n0\r\n\r\nGET / HTTP/1.1\r\n", "hello world", 16, true);
    chunks_are("A\r\n0123456789\r\n0a\r\n0123456789\r\n0000\r\n\r\n", "01234567890123456789", 0,
               true);
    chunks_are("0\r\n\r\n", "", 0, true);
    chunks_are("3;a=b;c=\"d;\\\"\r\\\n\"\r\nabc\r\n", NULL, 0, false);
    chunks_are("3;a=b;c=\"d; \\\" e\"\r\nabc\r\n0;last\r\n\r\n", "abc", 0, true);
    chunks_are("3 ;a\r\nabc\r\n", "abc", 0, false);
    chunks_are("3\t ; a = \"b\" ; c\r\nabc\r\n0 ;d\r\n\r\n", "abc", 0, true);
    chunks_are("3 a\r\nabc\r\n", NULL, 0, false);
    chunks_are("3 \r\nabc\r\n", NULL, 0, false);
    chunks_are("3\t\r\nabc\r\n", NULL, 0, false);
    chunks_are("3 3;a\r\nabc\r\n", NULL, 0, false);
    chunks_are("1\r\na\r\n0\r\nX: y\r\nZ:\r\n\r\n", "a", 0, true);
    chunks_are("5\r\nhel", "hel", 0, false);
    chunks_are("5\r\nhello\r", "hello", 0, false);
    chunks_are("1\r\na\r\n0\r\n\r", "a", 0, false);
    for (size_t i = 0; i < LDC_LEN(bad); i++) chunks_are(bad[i], NULL, 0, false);
}

/* `count` times `piece` behind `begin`. */
static bool decodes(const char *begin, const char *piece, int count) {
    static char out[65536];
    size_t n = strlen(piece), bytes = 0, at = strlen(begin);
    char *text = (char *)malloc(at + n * (size_t)count + 1);
    bool done, ok;
    if (text == NULL) exit(1);
    memcpy(text, begin, at + 1);
    for (int i = 0; i < count; i++, at += n) memcpy(text + at, piece, n + 1);
    ok = decode(text, strlen(text), 0, out, &bytes, &done) >= 0;
    free(text);
    return ok;
}

static void test_chunk_limits(void) {
    expect(decodes("1;", "x", LDC_EXTENSION / 2), "extension", "within one line");
    expect(decodes("1", " ", LDC_EXTENSION / 2), "extension", "blanks before it, within one line");
    expect(!decodes("1", " ", LDC_EXTENSION + 1), "extension", "blanks before it, too many");
    expect(!decodes("1;", "x", LDC_EXTENSION + 1), "extension", "too long a line");
    expect(!decodes("", "1;xxxxxxxxxxxxxxx\r\na\r\n", LDC_EXTENSIONS / 16 + 1), "extensions",
           "too many in a body");
    expect(decodes("0\r\n", "a: b\r\n", 100), "trailers", "few");
    expect(!decodes("0\r\n", "a: b\r\n", LDC_TRAILER / 6 + 2), "trailers", "too many");
}

/* --- routes --- */

/* Index of the group that gets `target`, -1 for none, -2 where the path is refused. */
static int group_of(const ldc_conf *c, const char *target) {
    const ldc_route *found = NULL;
    char *copy = exactly(target, strlen(target)), *room = exactly(target, strlen(target));
    ldc_why why = ldc_route_find(c, NULL, ldc_util_str(copy, strlen(target)), room, &found);
    free(copy);
    free(room);
    return why == LDC_WHY_PATH || why == LDC_WHY_ESCAPE ? -2 : why == LDC_WHY_ROUTE ? -1 : found->group;
}

static void routed(const ldc_conf *c, const char *target, int group) {
    expect(group_of(c, target) == group, "route", target);
}

static ldc_conf *routes(ldc_mem *m, const char *const *const *words, int n) {
    ldc_home home;
    static ldcorn_error error;
    static const char *const upstream[] = {"127.0.0.1:1", NULL};
    static const char *const names[] = {"g0", "g1", "g2", "g3", "g4"};
    ldcorn_group_desc groups[5];
    ldcorn_desc desc;
    ldc_conf *c;
    memset(groups, 0, sizeof groups);
    memset(&desc, 0, sizeof desc);
    for (int i = 0; i < n; i++) {
        groups[i].name = names[i];
        groups[i].upstream = upstream;
        groups[i].routes = words[i];
    }
    desc.groups = groups;
    desc.group_count = n;
    ldc_public_mem(m, &desc);
    memset(&home, 0, sizeof home);
    c = ldc_conf_read(m, &desc, &home, &error, NULL);
    if (c == NULL) fputs(error.text, stdout);
    return c;
}

static void test_routes(void) {
    static const char *const all[] = {"*", NULL}, *const a[] = {"/a", "/long/er", NULL};
    static const char *const exact[] = {"=/a/x", "=/e", NULL}, *const string[] = {"/s*", "/a/s*",
                                                                                  NULL};
    static const char *const deeper[] = {"/a/b/", NULL};
    static const char *const *const words[] = {all, a, exact, string, deeper};
    static const struct {
        const char *target;
        int group;
    } table[] = {{"/", 0},          {"/b", 0},
                 {"/a", 1},         {"/a/", 1},
                 {"/a/y", 1},       {"/ab", 0},
                 {"/a?x", 1},       {"/a?/../b", 1},
                 {"/a/x", 2},       {"/a/x/", 1},
                 {"/a/x?q", 2},     {"/a/xy", 1},
                 {"/e", 2},         {"/e/", 0},
                 {"/ef", 0},        {"/s", 3},
                 {"/suffix", 3},    {"/s/t", 3},
                 {"/a/s", 3},       {"/a/st/u", 3},
                 {"/a/b", 4},       {"/a/b/", 4},
                 {"/a/b/c", 4},     {"/a/bc", 1},
                 {"/A", 0},         {"/long/er/x", 1},
                 {"/long", 0},      {"/%61", 1},
                 {"/%61/%78", 2},   {"/a%2fb", 4},
                 {"/a%2Fx", 2},     {"//a", 1},
                 {"///a//b", 4},    {"/a//x", 2},
                 {"/a/..", -2},     {"/a/../b", -2},
                 {"/b/../a", -2},   {"/a/%2e%2e/b", -2},
                 {"/a/%2e./b", -2}, {"/a/./y", 1},
                 {"/a/y/..", 1},    {"/a/y/../z", 1},
                 {"/a/.hidden", 1}, {"/a/..x", 1},
                 {"/b/./c", 0},     {"/..", -2},
                 {"/../a", -2},     {"/b/../../a", -2},
                 {"/b/c/../..", 0}, {"/.", 0},
                 {"/./", 0},        {"/%", -2},
                 {"/%4", -2},       {"/%4?", -2},
                 {"/%zz", -2},      {"/%00", -2},
                 {"/a%", -2},       {"/a%00b", -2},
                 {"/%25", 0},       {"/a?%zz", 1},
                 {"?x", 0},         {"*", 0},
                 {"/a/b/../x", -2}, {"/a/b/./c", 4},
                 {"/b%0a", 0},      {"/a%0d", 0},
                 {"/a/%0D%0A", 1},  {"/a/%09", 1},
                 {"/a/%7f", 1},     {"/a/%0a/../../..", -2}};
    ldc_mem m;
    ldc_conf *c = routes(&m, words, 5);
    expect(c != NULL, "routes", "are read");
    for (size_t i = 0; c && i < LDC_LEN(table); i++) routed(c, table[i].target, table[i].group);
    ldc_conf_free(c);
    c = routes(&m, words + 1, 2);
    expect(c != NULL, "routes", "without a fallback");
    if (c) {
        routed(c, "/a/b", 0);
        routed(c, "/", -1);
        routed(c, "/b", -1);
        routed(c, "*", -1);
        routed(c, "/b/../c", -1);
    }
    ldc_conf_free(c);
}

/* --- numbers with units, as ldcorn_dump says them --- */

static char dumped[65536];

static bool dump(const char *setting) {
    static ldcorn_error error;
    static const char *const upstream[] = {"127.0.0.1:1", NULL}, *const all[] = {"*", NULL};
    const char *set[2] = {setting, NULL};
    ldcorn_group_desc group;
    ldcorn_desc desc;
    FILE *f = tmpfile();
    size_t n = 0;
    bool ok;
    if (f == NULL) return false;
    memset(&group, 0, sizeof group);
    memset(&desc, 0, sizeof desc);
    group.name = "g";
    group.upstream = upstream;
    group.routes = all;
    desc.groups = &group;
    desc.group_count = 1;
    desc.set = set;
    ok = ldcorn_dump(&desc, fileno(f), &error) == 0;
    rewind(f);
    n = fread(dumped, 1, sizeof dumped - 1, f);
    dumped[n] = 0;
    fclose(f);
    return ok;
}

/* `line` as it stands in the dump, NULL: refused. */
static void number_is(const char *setting, const char *line) {
    char want[128];
    bool ok = dump(setting);
    snprintf(want, sizeof want, "\n%s\n", line ? line : "");
    expect(line ? ok && strstr(dumped, want) : !ok, "number", setting);
}

static void test_numbers(void) {
    static const char *const bad[] = {"g.queue_timeout=5",
                                      "g.queue_timeout=5 s",
                                      "g.queue_timeout=5sec",
                                      "g.queue_timeout=-5s",
                                      "g.queue_timeout=1.5s",
                                      "g.queue_timeout=s",
                                      "g.queue_timeout=",
                                      "g.queue_timeout=5S",
                                      "g.queue_timeout=99999999999999999999s",
                                      "g.queue_timeout=9999999999999d",
                                      "g.max_body=1k",
                                      "g.max_body=1KB",
                                      "g.max_body=1.5M",
                                      "g.max_body=0x10",
                                      "g.max_body=1s",
                                      "g.max_body=-1",
                                      "g.max_body=99999999999G",
                                      "g.queue=1K",
                                      "g.queue=4x",
                                      "g.queue=+4",
                                      "header_timeout=10",
                                      "max_header=1MB",
                                      "g.workers=1.0"};
    number_is("g.queue_timeout=250ms", "queue_timeout = 250ms");
    number_is("g.queue_timeout=90s", "queue_timeout = 90s");
    number_is("g.queue_timeout=60s", "queue_timeout = 1m");
    number_is("g.queue_timeout=2h", "queue_timeout = 2h");
    number_is("g.tunnel_timeout=3d", "tunnel_timeout = 3d");
    number_is("g.queue_timeout=none", "queue_timeout = none");
    number_is("g.max_body=64K", "max_body = 64K");
    number_is("g.max_body=1G", "max_body = 1G");
    number_is("g.max_body=1000", "max_body = 1000");
    number_is("g.max_body=none", "max_body = none");
    number_is("g.queue=7", "queue = 7");
    number_is("g.queue=0", "queue = 0");
    number_is("header_timeout=3s", "header_timeout = 3s");
    number_is("max_header=16K", "max_header = 16K");
    for (size_t i = 0; i < LDC_LEN(bad); i++) number_is(bad[i], NULL);
}

/* --- what a balancer may send first --- */

typedef struct proxied {
    ptrdiff_t size;
    ldc_proxied who;
} proxied;

/* What is said of p[0..n): the same with anything behind it, LDC_MORE for each shorter part of what is
   taken. What is refused may be refused early, and is then refused for good. */
static proxied proxy(const char *p, size_t n, bool *even) {
    static const char behind[] = "GET / HTTP/1.1\r\n\r\nPROXY \r\n\r\n\0\r\nQUIT\n";
    proxied whole, part;
    char *copy = exactly(p, n), more[5000];
    bool bad = false;
    whole.size = ldc_http_proxy(copy, n, &whole.who);
    free(copy);
    for (size_t cut = 0; cut < n; cut++) {
        ptrdiff_t want = whole.size > 0 && cut >= (size_t)whole.size ? whole.size
                         : bad                                       ? LDC_BAD
                                                                     : LDC_MORE;
        copy = exactly(p, cut);
        part.size = ldc_http_proxy(copy, cut, &part.who);
        free(copy);
        if (part.size == LDC_BAD && whole.size == LDC_BAD) bad = true, want = LDC_BAD;
        *even = *even && part.size == want;
    }
    if (whole.size == LDC_MORE || n + sizeof behind > sizeof more) return whole;
    memcpy(more, p, n);
    memcpy(more + n, behind, sizeof behind);
    copy = exactly(more, n + sizeof behind);
    part.size = ldc_http_proxy(copy, n + sizeof behind, &part.who);
    free(copy);
    *even = *even && part.size == whole.size;
    return whole;
}

/* `want`: how many bytes of it, LDC_MORE, LDC_BAD; `client`: the address that it says, NULL: none. */
static void proxy_is(const char *text, size_t n, ptrdiff_t want, int family, const char *client,
                     const char *what) {
    bool even = true;
    char said[INET6_ADDRSTRLEN] = "";
    proxied got = proxy(text, n, &even);
    expect(got.size == want, what, text);
    expect(even, "PROXY cut anywhere", text);
    if (want <= 0) return;
    if (client) inet_ntop(family, got.who.ip, said, sizeof said);
    expect(got.who.family == family && (!client || strcmp(said, client) == 0), "who it is", text);
}

static void proxy_line(const char *text, int family, const char *client) {
    proxy_is(text, strlen(text), (ptrdiff_t)strlen(text), family, client, "PROXY v1");
}

/* v2 in p, which has room: -> its length. `size` is what the header says, body the bytes that come. */
static size_t proxy_v2(char *p, int command, int family, size_t size, const char *body, size_t n) {
    memcpy(p, "\r\n\r\n\0\r\nQUIT\n", 12);
    p[12] = (char)command;
    p[13] = (char)family;
    p[14] = (char)(size >> 8);
    p[15] = (char)(size & 255);
    memset(p + 16, 'x', size);
    if (n) memcpy(p + 16, body, n);
    return 16 + size;
}

static void test_proxy(void) {
    static const char *const bad[] = {"PROXY\r\n",
                                      "PROXY \r\n",
                                      "PROXY  \r\n",
                                      "PROXY TCP4\r\n",
                                      "PROXY TCP4 1.2.3.4\r\n",
                                      "PROXY TCP4 1.2.3.4 5.6.7.8\r\n",
                                      "PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
                                      "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
                                      "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n",
                                      "PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n",
                                      "PROXY TCP4\t1.2.3.4 5.6.7.8 1 2\r\n",
                                      "PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
                                      "PROXY TCP4 1.2.3.4 5.6.7.8 -1 2\r\n",
                                      "PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
                                      "PROXY TCP4 1.2.3.4 5.6.7.8 x 2\r\n",
                                      "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
                                      "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\r\n",
                                      "PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n",
                                      "PROXY TCP4 1.2.3.256 5.6.7.8 1 2\r\n",
                                      "PROXY TCP4 1.2.3.4 5.6.7 1 2\r\n",
                                      "PROXY TCP4 ::1 ::1 1 2\r\n",
                                      "PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
                                      "PROXY TCP6 ::1%lo ::1 1 2\r\n",
                                      "PROXY TCP6 [::1] [::1] 1 2\r\n",
                                      "PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
                                      "PROXY tcp4 1.2.3.4 5.6.7.8 1 2\r\n",
                                      "PROXY UNKNOWNS\r\n",
                                      "PROXY UNKNOW\r\n",
                                      "proxy UNKNOWN\r\n",
                                      "PROXYUNKNOWN\r\n",
                                      "PROXX",
                                      "GET / HTTP/1.1\r\n\r\n",
                                      "\n",
                                      "\r\n\r\nG",
                                      "\r\n\n",
                                      "PUT / HTTP/1.1\r\nHost: a\r\n\r\n"};
    static const int commands[] = {0x00, 0x01, 0x10, 0x11, 0x22, 0x2f, 0x31, 0x12, 0xf1, 0x01};
    static const char v4[] = "\1\2\3\4\5\6\7\10\0\1\0\2",
                      v6[] = "\x20\1\xd\xb8\0\0\0\0\0\0\0\0\0\0\0\7";
    char p[4200], line[160];
    proxy_line("PROXY TCP4 1.2.3.4 5.6.7.8 1 65535\r\n", AF_INET, "1.2.3.4");
    proxy_line("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", AF_INET,
               "255.255.255.255");
    proxy_line("PROXY TCP6 2001:db8::7 ::1 1 2\r\n", AF_INET6, "2001:db8::7");
    proxy_line("PROXY UNKNOWN\r\n", AF_UNSPEC, NULL);
    proxy_line("PROXY UNKNOWN anything, at all  1 2\r\n", AF_UNSPEC, NULL);
    for (size_t i = 0; i < LDC_LEN(bad); i++)
        proxy_is(bad[i], strlen(bad[i]), LDC_BAD, 0, NULL, "PROXY that is refused");
    proxy_is("PROXY TCP4 1.2.3.4\0 5.6.7.8 1 2\r\n", 34, LDC_BAD, 0, NULL, "PROXY with a 0 in it");
    proxy_is("", 0, LDC_MORE, 0, NULL, "PROXY, nothing");
    snprintf(line, sizeof line, "PROXY UNKNOWN %091d\r\n", 0); /* 107, the longest */
    proxy_is(line, 107, 107, AF_UNSPEC, NULL, "PROXY, the longest line");
    snprintf(line, sizeof line, "PROXY UNKNOWN %092d\r\n", 0);
    proxy_is(line, 108, LDC_BAD, 0, NULL, "PROXY, a line too long");
    proxy_is(line, 106, LDC_MORE, 0, NULL, "PROXY, a long line");

    proxy_is(p, proxy_v2(p, 0x21, 0x11, 12, v4, 12), 28, AF_INET, "1.2.3.4", "PROXY v2");
    proxy_is(p, proxy_v2(p, 0x21, 0x11, 40, v4, 12), 56, AF_INET, "1.2.3.4", "v2 and TLVs");
    proxy_is(p, proxy_v2(p, 0x21, 0x21, 36, v6, 16), 52, AF_INET6, "2001:db8::7", "v2 of IPv6");
    proxy_is(p, proxy_v2(p, 0x21, 0x21, 99, v6, 16), 115, AF_INET6, "2001:db8::7",
             "v2 of IPv6 and TLVs");
    proxy_is(p, proxy_v2(p, 0x21, 0x31, 216, "/a", 3), 232, AF_UNIX, NULL, "v2 of a unix peer");
    proxy_is(p, proxy_v2(p, 0x21, 0x31, 220, "/a", 3), 236, AF_UNIX, NULL,
             "v2 of a unix peer and TLVs");
    proxy_is(p, proxy_v2(p, 0x20, 0x00, 0, "", 0), 16, AF_UNSPEC, NULL, "LOCAL");
    proxy_is(p, proxy_v2(p, 0x20, 0x11, 12, v4, 12), 28, AF_UNSPEC, NULL, "LOCAL with an address");
    proxy_is(p, proxy_v2(p, 0x20, 0xff, 3, "", 0), 19, AF_UNSPEC, NULL, "LOCAL of any family");
    proxy_is(p, proxy_v2(p, 0x21, 0x00, 7, "", 0), 23, AF_UNSPEC, NULL, "UNSPEC");
    proxy_is(p, proxy_v2(p, 0x21, 0x11, LDC_PROXY_MOST, v4, 12), 16 + LDC_PROXY_MOST, AF_INET,
             "1.2.3.4", "v2 of the most");
    proxy_is(p, proxy_v2(p, 0x21, 0x11, LDC_PROXY_MOST + 1, v4, 12), LDC_BAD, 0, NULL,
             "v2 too long");
    proxy_is(p, proxy_v2(p, 0x21, 0x11, 11, v4, 11), LDC_BAD, 0, NULL,
             "v2 without room for its ports");
    proxy_is(p, proxy_v2(p, 0x21, 0x21, 35, v6, 16), LDC_BAD, 0, NULL, "v2 of IPv6 too short");
    proxy_is(p, proxy_v2(p, 0x21, 0x31, 215, "/a", 3), LDC_BAD, 0, NULL,
             "v2 of a unix peer too short");
    proxy_is(p, proxy_v2(p, 0x21, 0x12, 12, v4, 12), LDC_BAD, 0, NULL, "v2 of a datagram");
    proxy_is(p, proxy_v2(p, 0x21, 0x41, 12, v4, 12), LDC_BAD, 0, NULL, "v2 of an unknown family");
    for (size_t i = 0; i < LDC_LEN(commands); i++)
        proxy_is(p, proxy_v2(p, commands[i], 0x11, 12, v4, 12), LDC_BAD, 0, NULL,
                 "v2 of another version or command");
    for (size_t i = 0; i < 12; i++) {
        proxy_v2(p, 0x21, 0x11, 12, v4, 12);
        p[i] ^= 1;
        proxy_is(p, 28, LDC_BAD, 0, NULL, "another mark");
    }
}

/* Whatever comes, no byte behind it is read, and no more is taken than there is. */
static void test_proxy_mutations(void) {
    static const char *const from[] = {"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
                                       "PROXY TCP6 2001:db8::7 ::1 80 65535\r\n",
                                       "PROXY UNKNOWN a b\r\n"};
    static const char odd[] = " \r\n\0:.PROXYTCP46UNKNOWN0159af\x21\x20\x11\xff";
    bool ok = true;
    uint64_t seed = 88172645463325252u;
    char p[300];
    for (int round = 0; round < 60000; round++) {
        size_t n;
        ldc_proxied who;
        ptrdiff_t got;
        char *copy;
        if (round % 4 == 3) {
            n = proxy_v2(p, 0x20 | (round >> 2 & 1), (round >> 3 & 3) << 4 | 1,
                         (size_t)(round >> 4) % 256, "", 0);
        } else {
            n = strlen(from[round % 4]);
            memcpy(p, from[round % 4], n);
        }
        for (int k = round % 5; k >= 0; k--) {
            size_t at;
            seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
            at = (size_t)(seed >> 8) % n;
            if (seed % 5 == 0 && n > 1)
                memmove(p + at, p + at + 1, --n - at);
            else if (seed % 5 == 1)
                n = at + 1;
            else
                p[at] = seed % 5 == 2 ? (char)(seed >> 40) : odd[(seed >> 40) % sizeof odd];
        }
        copy = exactly(p, n);
        got = ldc_http_proxy(copy, n, &who);
        free(copy);
        ok = ok && (got == LDC_MORE || got == LDC_BAD || (got >= 15 && got <= (ptrdiff_t)n));
        ok = ok && (who.family == AF_UNSPEC || got > 0 || got == LDC_BAD);
    }
    expect(ok, "PROXY", "mutations");
}

int main(void) {
    test_end();
    test_request_line();
    test_host();
    test_fields();
    test_values();
    test_count();
    test_framing();
    test_mutations();
    test_response();
    test_chunks();
    test_chunk_limits();
    test_routes();
    test_numbers();
    test_proxy();
    test_proxy_mutations();
    printf("unit http: %d passed, %d failed\n", passed, failed);
    return failed != 0;
}
