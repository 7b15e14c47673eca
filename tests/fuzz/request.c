/* Request heads: read whole, in two and byte by byte; what goes to a worker is the same request. */
#include "fuzz.h"

static ldc_head first, second, again;

static ldc_why parse(ldc_head *h, const char *p, size_t n, int fill) {
    memset(h, fill, sizeof *h);
    return ldc_http_request(h, p, n);
}

/* What the head says does not depend on what lies around it or lay in the ldc_head before. */
static ldc_why parse_twice(const char *p, size_t n) {
    static char room[70000];
    ldc_why why = parse(&first, p, n, 0x55);
    memset(room, '\n', sizeof room);
    memcpy(room + 3, p, n);
    CHECK(parse(&second, room + 3, n, 0xAA) == why);
    if (why) return why;
    fuzz_same_fields(&first, p, &second, room + 3);
    CHECK(fuzz_same_str(first.method, p, second.method, room + 3, n));
    CHECK(fuzz_same_str(first.target, p, second.target, room + 3, n));
    CHECK(fuzz_same_str(first.host, p, second.host, room + 3, n));
    CHECK(first.method.n && first.target.n && (first.host.n || first.minor == 0));
    CHECK(ldc_http_upgrades(&first) == ldc_http_upgrades(&second));
    return LDC_WHY_NONE;
}

/* Every end-to-end field once, in order; behind Host, before what we write ourselves. */
static void same_fields(const ldc_head *h) {
    int at = 1, once[LDC_FIELD_IDS] = {0};
    CHECK(again.field[0].id == LDC_FIELD_HOST);
    for (int i = 0; i < h->count; i++) {
        const ldc_field *f = &h->field[i], *g = &again.field[at];
        if (f->drop) continue;
        CHECK(at++ < again.count);
        CHECK(f->id == g->id && ldc_util_same(f->name, g->name) && ldc_util_same(f->value, g->value));
    }
    for (int i = 0; i < again.count; i++) {
        const ldc_field *f = &again.field[i];
        CHECK(memchr(f->name.p, '_', f->name.n) == NULL);
        if (i >= at) CHECK(f->id != LDC_FIELD_OTHER);
        once[f->id]++;
    }
    for (int id = LDC_FIELD_HOST; id <= LDC_FIELD_VIA; id++) {
        bool single = id <= LDC_FIELD_TRANSFER_ENCODING || id == LDC_FIELD_UPGRADE ||
                      id == LDC_FIELD_XFF || id == LDC_FIELD_REAL_IP ||
                      id == LDC_FIELD_REQUEST_ID || id == LDC_FIELD_VIA;
        CHECK(!single || once[id] <= 1);
    }
    CHECK(once[LDC_FIELD_VIA] == 1 && once[LDC_FIELD_TE] + once[LDC_FIELD_TRAILER] == 0);
}

/* Nothing that only a trusted peer may say has passed. */
static void nothing_claimed(const ldc_forward *w) {
    ldc_str start = ldc_http_value(&again, LDC_FIELD_REQUEST_START);
    CHECK(ldc_http_get(&again, LDC_FIELD_FORWARDED) == NULL);
    CHECK(ldc_http_get(&again, LDC_FIELD_ORIGINAL_URL) == NULL);
    CHECK(ldc_http_get(&again, LDC_FIELD_REWRITE_URL) == NULL);
    CHECK(ldc_util_same(ldc_http_value(&again, LDC_FIELD_XFP), w->proto));
    CHECK(ldc_util_same(ldc_http_value(&again, LDC_FIELD_REAL_IP), w->client));
    CHECK(ldc_util_same(ldc_http_value(&again, LDC_FIELD_REQUEST_ID), w->id));
    CHECK(start.n == 3 && memcmp(start.p, "t=7", 3) == 0);
    CHECK(ldc_http_times(&again, LDC_FIELD_XFP) == 1 &&
          ldc_http_times(&again, LDC_FIELD_XFH) <= 1 &&
          ldc_http_times(&again, LDC_FIELD_REQUEST_START) == 1);
}

static void forward(ldc_head *h, const ldc_forward *w, ldc_str peer) {
    ldc_mem m;
    ldc_buf b;
    size_t line = 0;
    bool upgrade = ldc_http_upgrades(h);
    fuzz_mem(&m);
    memset(&b, 0, sizeof b);
    CHECK(ldc_http_write_request(&m, &b, h, w, peer));
    CHECK(b.len <= h->size + (h->host.n ? h->host.n : w->host.n) * 2 + w->id.n + w->client.n +
                       peer.n + 512); /* the room that was asked for */
    CHECK(ldc_http_end(b.p, b.len, &line) == (ptrdiff_t)b.len);
    if (h->count <= LDC_FIELDS - 10) { /* we add up to ten */
        ldc_str target = again.target;
        CHECK(parse(&again, b.p, b.len, 0x33) == LDC_WHY_NONE);
        target = again.target;
        CHECK(ldc_util_same(again.method, h->method) && again.minor == 1);
        if (h->target.p[0] == '?') target = ldc_util_cut(target, 1);
        CHECK(again.target.p[0] == '/' || ldc_util_is(again.target, "*"));
        CHECK(ldc_util_same(target, h->target));
        CHECK(ldc_util_same(again.host, h->host.n ? h->host : w->host));
        CHECK(again.frame == h->frame && again.length == h->length);
        CHECK(again.upgrade == upgrade && again.close == (!w->keep && !upgrade));
        CHECK(!upgrade || ldc_util_same(ldc_http_value(&again, LDC_FIELD_UPGRADE),
                                        ldc_http_value(h, LDC_FIELD_UPGRADE)));
        same_fields(h);
        if (!w->trusted) nothing_claimed(w);
    }
    ldc_buf_free(&m, &b);
    ldc_mem_done(&m);
    CHECK(fuzz_blocks == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    unsigned options = size ? data[size - 1] : 0;
    ldc_forward w;
    ptrdiff_t n;
    char *head;
    if (size > 65536) return 0;
    n = fuzz_end(data, size, fuzz_number(data, size, size + 1));
    if (n < 0) return 0;
    head = fuzz_copy(data, (size_t)n);
    if (parse_twice(head, (size_t)n) == LDC_WHY_NONE) {
        memset(&w, 0, sizeof w);
        w.trusted = options & 1;
        w.keep = options & 2;
        w.client = options & 4 ? LDC_S("192.0.2.1") : LDC_S("");
        w.proto = LDC_S("http");
        w.host = LDC_S("localhost");
        w.id = LDC_S("0123456789abcdef");
        w.arrived = 7;
        forward(&first, &w, options & 8 ? LDC_S("2001:db8::1") : LDC_S(""));
    }
    free(head);
    return 0;
}
