/* What the fuzz targets share. A target is one file: it includes this one and defines
   LLVMFuzzerTestOneInput. With clang's libFuzzer it looks for new inputs (make fuzz), with
   replay.c it replays those of tests/fuzz/corpus (tests/run fuzz). */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#ifndef LDCORN_AUDIT
#define LDCORN_AUDIT
#endif
#define LDCORN_IMPLEMENTATION
#include "../../ldcorn.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Ends the run: the input in hand is a find. */
static void fuzz_check(bool ok, const char *what, const char *file, int line) {
    if (ok) return;
    fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, what);
    abort();
}
#define CHECK(x) fuzz_check((x), #x, __FILE__, __LINE__)

/* A copy that ends where its block ends, so that a sanitizer sees a byte read behind it. */
static char *fuzz_copy(const void *p, size_t n) LDC_UNUSED;
static char *fuzz_copy(const void *p, size_t n) {
    char *copy = (char *)malloc(n ? n : 1);
    if (copy == NULL) exit(1);
    if (n) memcpy(copy, p, n);
    return copy;
}

/* A number that comes with the input: from its last bytes, so that texts stay readable. */
static size_t fuzz_number(const uint8_t *data, size_t size, size_t below) LDC_UNUSED;
static size_t fuzz_number(const uint8_t *data, size_t size, size_t below) {
    size_t n = size ? data[size - 1] : 0;
    if (size > 1) n += (size_t)data[size - 2] << 8;
    return below ? n % below : 0;
}

/* --- an allocator that knows what it gave: sizes must come back right, nothing may stay --- */

static long fuzz_blocks;    /* handed out */
static long fuzz_fail = -1; /* so many more succeed, then one fails; -1: none fails */

typedef union fuzz_block {
    size_t size;
    char align[16];
} fuzz_block;

static void *fuzz_resize(void *user, void *p, size_t old_size, size_t new_size) LDC_UNUSED;
static void *fuzz_resize(void *user, void *p, size_t old_size, size_t new_size) {
    fuzz_block *b = p ? (fuzz_block *)p - 1 : NULL, *moved;
    (void)user;
    CHECK(old_size == (b ? b->size : 0));
    if (new_size == 0) {
        fuzz_blocks -= b != NULL;
        free(b);
        return NULL;
    }
    if (fuzz_fail >= 0 && fuzz_fail-- == 0) return NULL;
    moved = (fuzz_block *)malloc(sizeof *moved + new_size); /* always elsewhere */
    if (moved == NULL) exit(1);
    memset(moved + 1, 0xA5, new_size);
    if (b) memcpy(moved + 1, b + 1, old_size < new_size ? old_size : new_size);
    moved->size = new_size;
    fuzz_blocks += b == NULL;
    free(b);
    return moved + 1;
}

static void fuzz_mem(ldc_mem *m) LDC_UNUSED;
static void fuzz_mem(ldc_mem *m) {
    ldcorn_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.allocator.resize = fuzz_resize;
    ldc_public_mem(m, &desc);
}

/* --- heads: two readings of one text must say the same --- */

static bool fuzz_same_str(ldc_str a, const char *from_a, ldc_str b, const char *from_b,
                          size_t n) LDC_UNUSED;
static bool fuzz_same_str(ldc_str a, const char *from_a, ldc_str b, const char *from_b, size_t n) {
    bool inside = a.p >= from_a && a.p <= from_a + n;
    if (a.n != b.n) return false;
    return inside && a.n ? a.p - from_a == b.p - from_b : ldc_util_same(a, b);
}

static void fuzz_same_fields(const ldc_head *a, const char *from_a, const ldc_head *b,
                             const char *from_b) LDC_UNUSED;
static void fuzz_same_fields(const ldc_head *a, const char *from_a, const ldc_head *b,
                             const char *from_b) {
    CHECK(a->size == b->size && a->minor == b->minor && a->count == b->count);
    CHECK(a->frame == b->frame && a->length == b->length && a->has_length == b->has_length);
    CHECK(a->close == b->close && a->keep_alive == b->keep_alive && a->upgrade == b->upgrade);
    CHECK(memcmp(a->at, b->at, sizeof a->at) == 0);
    for (int i = 0; i < a->count; i++) {
        const ldc_field *f = &a->field[i], *g = &b->field[i];
        CHECK(fuzz_same_str(f->name, from_a, g->name, from_b, a->size));
        CHECK(fuzz_same_str(f->value, from_a, g->value, from_b, a->size));
        CHECK(f->end - from_a == g->end - from_b && f->id == g->id && f->drop == g->drop);
    }
}

/* Where the head of p[0..n) ends: whole, in two pieces at their own addresses, byte by byte. */
static ptrdiff_t fuzz_end(const uint8_t *p, size_t n, size_t cut) LDC_UNUSED;
static ptrdiff_t fuzz_end(const uint8_t *p, size_t n, size_t cut) {
    size_t whole_line = 0, line = 0;
    char *copy = fuzz_copy(p, n), *piece;
    ptrdiff_t whole = ldc_http_end(copy, n, &whole_line), r;
    piece = fuzz_copy(p, cut);
    r = ldc_http_end(piece, cut, &line);
    free(piece);
    if (r == LDC_MORE) r = ldc_http_end(copy, n, &line);
    CHECK(r == whole);
    CHECK(whole != LDC_MORE || line == whole_line);
    r = LDC_MORE;
    line = 0;
    for (size_t i = 0; i <= n && r == LDC_MORE; i++) r = ldc_http_end(copy, i, &line);
    CHECK(r == whole);
    free(copy);
    CHECK(whole == LDC_MORE || whole == LDC_BAD || (whole >= 2 && (size_t)whole <= n));
    return whole;
}
