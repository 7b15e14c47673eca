/* Heads of answers: read whole, in two and byte by byte; the client gets the same answer. */
#include "fuzz.h"

static ldc_head first, second, again;

static bool parse(ldc_head *h, const char *p, size_t n, bool head_only, int fill) {
    memset(h, fill, sizeof *h);
    return ldc_http_response(h, p, n, head_only);
}

static bool parse_twice(const char *p, size_t n, bool head_only) {
    static char room[70000];
    bool ok = parse(&first, p, n, head_only, 0x55);
    memset(room, '\n', sizeof room);
    memcpy(room + 3, p, n);
    CHECK(parse(&second, room + 3, n, head_only, 0xAA) == ok);
    if (!ok) return false;
    fuzz_same_fields(&first, p, &second, room + 3);
    CHECK(first.status == second.status && first.status >= 100 && first.status <= 999);
    CHECK(fuzz_same_str(first.reason, p, second.reason, room + 3, n));
    CHECK(first.frame != LDC_FRAME_TUNNEL);
    CHECK(first.status >= 200 || first.frame == LDC_FRAME_NONE);
    return true;
}

/* Our own lines stand behind what passes: framing, Connection, Upgrade. */
static void same_fields(const ldc_head *h) {
    int at = 0;
    for (int i = 0; i < h->count; i++) {
        const ldc_field *f = &h->field[i], *g = &again.field[at];
        if (f->drop) continue;
        CHECK(at++ < again.count);
        CHECK(f->id == g->id && ldc_util_same(f->name, g->name) && ldc_util_same(f->value, g->value));
    }
    for (; at < again.count; at++) {
        unsigned id = again.field[at].id;
        CHECK(id == LDC_FIELD_CONTENT_LENGTH || id == LDC_FIELD_TRANSFER_ENCODING ||
              id == LDC_FIELD_CONNECTION || id == LDC_FIELD_UPGRADE || id == LDC_FIELD_DATE);
        CHECK(id != LDC_FIELD_DATE || (h->status >= 200 && !ldc_http_get(h, LDC_FIELD_DATE)));
    }
}

#define DATE "Sun, 06 Nov 1994 08:49:37 GMT"

static void forward(const ldc_head *h, bool head_only, bool http10, const char *connection) {
    ldc_mem m;
    ldc_buf b;
    size_t line = 0;
    ldc_frame out = h->frame;
    if (out == LDC_FRAME_EOF && !http10) out = LDC_FRAME_CHUNKED;
    if (out == LDC_FRAME_CHUNKED && http10) out = LDC_FRAME_EOF;
    fuzz_mem(&m);
    memset(&b, 0, sizeof b);
    CHECK(ldc_http_write_response(&m, &b, h, out, connection,
                                  h->status >= 200 ? LDC_S(DATE) : LDC_S("")));
    CHECK(b.len <= h->size + 256); /* the room that was asked for */
    CHECK(ldc_http_end(b.p, b.len, &line) == (ptrdiff_t)b.len);
    if (h->count <= LDC_FIELDS - 4) {
        CHECK(parse(&again, b.p, b.len, head_only, 0x33));
        CHECK(again.status == h->status && again.minor == 1);
        CHECK(ldc_util_same(again.reason, h->reason));
        CHECK(again.frame == out && again.has_length == h->has_length);
        CHECK(!h->has_length || again.length == h->length);
        CHECK(again.upgrade == (h->status == 101));
        CHECK(again.close == (h->status != 101 && connection && connection[0] == 'c'));
        CHECK(again.status < 200 || ldc_http_get(&again, LDC_FIELD_DATE)); /* RFC 9110 6.6.1 */
        same_fields(h);
    }
    ldc_buf_free(&m, &b);
    ldc_mem_done(&m);
    CHECK(fuzz_blocks == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    unsigned options = size ? data[size - 1] : 0;
    bool head_only = options & 1;
    ptrdiff_t n;
    char *head;
    if (size > 65536) return 0;
    n = fuzz_end(data, size, fuzz_number(data, size, size + 1));
    if (n < 0) return 0;
    head = fuzz_copy(data, (size_t)n);
    if (parse_twice(head, (size_t)n, head_only))
        forward(&first, head_only, options & 2,
                options & 4 ? "close" : options & 8 ? "keep-alive" : NULL);
    free(head);
    return 0;
}
