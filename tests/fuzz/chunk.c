/* The chunk decoder: in whatever pieces a body comes, the same bytes, end and errors; what we
   send on decodes to the same body. */
#include "fuzz.h"

typedef struct result {
    ldc_chunk k;
    ptrdiff_t used; /* or LDC_BAD */
    size_t n;
    char *out;
} result;

/* Pieces of `cut` bytes, then the rest; `every`: all of them of `cut` bytes. */
static result decode(const uint8_t *p, size_t n, size_t cut, bool every) {
    result r;
    size_t at = 0;
    bool first = true; /* its piece may be empty */
    memset(&r, 0, sizeof r);
    r.out = fuzz_copy(p, n);
    do {
        size_t m = every || first ? cut : n - at, got = 0;
        char *piece;
        ptrdiff_t used;
        first = false;
        if (m > n - at) m = n - at;
        piece = fuzz_copy(p + at, m);
        used = ldc_chunk_decode(&r.k, piece, m, &got);
        if (used == LDC_BAD) {
            free(piece);
            r.used = LDC_BAD;
            return r;
        }
        CHECK(used >= 0 && (size_t)used <= m && got <= (size_t)used);
        CHECK((size_t)used == m || r.k.state == LDC_CHUNK_DONE);
        memcpy(r.out + r.n, piece, got);
        free(piece);
        r.n += got;
        r.used += used;
        at += (size_t)used;
        if ((size_t)used < m) break;
    } while (at < n);
    return r;
}

static void same(const result *a, result b) {
    CHECK(a->used == b.used);
    if (a->used != LDC_BAD) {
        CHECK(a->n == b.n && memcmp(a->out, b.out, a->n) == 0);
        CHECK(a->k.state == b.k.state && a->k.left == b.k.left && a->k.extra == b.k.extra &&
              a->k.trailer == b.k.trailer && a->k.digits == b.k.digits);
    }
    free(b.out);
}

/* Through the relay, as a body passes: in chunks, out in chunks or as it is. */
static void relay(const uint8_t *p, size_t n, size_t cut, const result *want, ldc_frame out) {
    static ldcorn l;
    ldc_flow f;
    int r = 0;
    fuzz_mem(&l.mem);
    memset(&f, 0, sizeof f);
    f.in = LDC_FRAME_CHUNKED;
    f.out = (uint8_t)out;
    for (size_t at = 0; at < n && r == 0 && !f.end;) {
        size_t m = n - at < cut + 1 ? n - at : cut + 1, used = 0;
        char *piece = fuzz_copy(p + at, m);
        r = ldc_relay_push(&l, &f, piece, m, false, -1, &used);
        free(piece);
        at += used;
    }
    CHECK((r == LDC_BAD) == (want->used == LDC_BAD));
    if (r == 0) {
        size_t size = ldc_buf_size(&f.buf);
        CHECK(f.end == (want->k.state == LDC_CHUNK_DONE) && f.bytes == want->n);
        if (out == LDC_FRAME_CHUNKED) {
            result again = decode((uint8_t *)(f.buf.p ? ldc_buf_at(&f.buf) : ""), size, size, false);
            CHECK(again.used == (ptrdiff_t)size && again.n == want->n);
            CHECK(memcmp(again.out, want->out, want->n) == 0);
            CHECK((again.k.state == LDC_CHUNK_DONE) == f.end);
            free(again.out);
        } else {
            CHECK(size == want->n && (size == 0 || memcmp(ldc_buf_at(&f.buf), want->out, size) == 0));
        }
    }
    ldc_relay_free(&l, &f);
    ldc_mem_done(&l.mem);
    CHECK(fuzz_blocks == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    size_t cut = fuzz_number(data, size, size + 1);
    result whole;
    whole = decode(data, size, size, false);
    same(&whole, decode(data, size, 1, true));
    same(&whole, decode(data, size, cut, false));
    same(&whole, decode(data, size, cut % 7 + 1, true));
    relay(data, size, cut, &whole, LDC_FRAME_CHUNKED);
    relay(data, size, cut % 5, &whole, LDC_FRAME_EOF);
    free(whole.out);
    return 0;
}
