/* Routes: the first line of the input is a table of them, the rest a target. What a worker may
   make of a path (decode it, merge its slashes, resolve its dots) never changes its group. */
#include "fuzz.h"

static ldc_route table[16];
static int by_text[16], room[16];
static ldc_size sizes[16];
static ldc_conf conf;
static bool odd; /* it has a reading more, which may only refuse it */
static char said[1024];

static void read_table(const char *p, size_t n) {
    char *word, *rest = said;
    memset(&conf, 0, sizeof conf);
    memset(table, 0, sizeof table);
    conf.route = table;
    if (n >= sizeof said) n = sizeof said - 1;
    memcpy(said, p, n);
    said[n] = 0;
    while (conf.routes < (int)LDC_LEN(table) && (word = strtok_r(rest, " ", &rest)) != NULL) {
        ldc_route *t = &table[conf.routes];
        t->group = conf.routes / 2; /* every second one shares a group */
        t->order = conf.routes % 2;
        if (ldc_conf_route(t, word)) conf.routes++;
    }
    qsort(table, (size_t)conf.routes, sizeof *table, ldc_conf_route_order);
    conf.by_text = by_text;
    conf.size = sizes;
    ldc_conf_route_index(&conf, room);
}

/* The group of `target` as bytes at their own address, -1 none, -2 refused. */
static int find(const char *p, size_t n) {
    const ldc_route *found = NULL;
    char *copy = fuzz_copy(p, n), *room = fuzz_copy(p, n);
    ldc_why why = ldc_route_find(&conf, NULL, ldc_util_str(copy, n), room, &found);
    free(copy);
    free(room);
    if (why == LDC_WHY_ESCAPE) why = LDC_WHY_PATH;
    CHECK(why == LDC_WHY_NONE || why == LDC_WHY_PATH || why == LDC_WHY_ROUTE);
    CHECK((why == LDC_WHY_NONE) == (found != NULL) || why == LDC_WHY_PATH);
    return why == LDC_WHY_PATH ? -2 : why == LDC_WHY_ROUTE ? -1 : found->group;
}

/* By the rules of the README, looking at each route: the longest text, exact before the others. */
static int expected(ldc_str path) {
    const ldc_route *best = NULL;
    for (int i = 0; i < conf.routes; i++) {
        const ldc_route *t = &table[i];
        size_t n = t->text.n;
        bool fits = t->kind == LDC_MATCH_ALL ||
                    (path.n >= n && memcmp(path.p, t->text.p, n) == 0 &&
                     (t->kind == LDC_MATCH_STRING || path.n == n ||
                      (t->kind == LDC_MATCH_PREFIX && (n == 1 || path.p[n] == '/'))));
        if (!fits) continue;
        if (best == NULL || n > best->text.n || (n == best->text.n && t->kind < best->kind) ||
            (n == best->text.n && t->kind == best->kind && t->group < best->group))
            best = t;
    }
    return best ? best->group : -1;
}

/* The path of `target` spelt otherwise: each byte as %XX, each slash twice, a query behind it. */
static void same_spelt_otherwise(const char *path, size_t n, int group, bool dots) {
    int found;
    char *other = (char *)malloc(n * 6 + 8);
    size_t o = 0;
    if (other == NULL) exit(1);
    for (size_t i = 0; i < n; i++) {
        if (i == 0)
            other[o++] = path[i];
        else
            o += (size_t)sprintf(other + o, "%%%02X", (unsigned)(unsigned char)path[i]);
    }
    CHECK(find(other, o) == group);
    memcpy(other + o, "?/../%", 6);
    CHECK(find(other, o + 6) == group);
    for (size_t i = o = 0; i < n; i++) {
        if (path[i] == '%' || path[i] == '?')
            o += (size_t)sprintf(other + o, "%%%02x", (unsigned)(unsigned char)path[i]);
        else
            other[o++] = path[i];
        if (path[i] == '/') other[o++] = '/';
    }
    found = find(other, o); /* dots behind runs of slashes have one reading more */
    CHECK(found == group || (dots && found == -2));
    free(other);
}

/* Resolving leaves nothing to resolve, and the result is no longer and still begins with /. */
static ptrdiff_t resolve(const char *path, size_t n, char **out) {
    char *once = fuzz_copy(path, n), *twice;
    ptrdiff_t r = ldc_http_resolve(once, n), again;
    *out = once;
    if (r < 0) return r;
    CHECK(r >= 1 && (size_t)r <= n && once[0] == '/');
    twice = fuzz_copy(once, (size_t)r);
    again = ldc_http_resolve(twice, (size_t)r);
    CHECK(again == r && memcmp(once, twice, (size_t)r) == 0);
    free(twice);
    for (ptrdiff_t i = 0; i < r; i++) { /* no segment is . or .. */
        ptrdiff_t end = i + 1;
        if (once[i] != '/') continue;
        while (end < r && once[end] != '/') end++;
        CHECK(!(end - i == 2 && once[i + 1] == '.'));
        CHECK(!(end - i == 3 && once[i + 1] == '.' && once[i + 2] == '.'));
    }
    return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *text = (const char *)data;
    const char *lf = size ? (const char *)memchr(text, '\n', size) : NULL;
    size_t n = lf ? size - (size_t)(lf + 1 - text) : 0, o;
    const char *target = lf ? lf + 1 : text;
    char *path, *copy, *resolved;
    bool dots;
    ldc_reading r;
    ptrdiff_t m;
    int group, plain;
    if (lf == NULL || n == 0 || n > 4096 || (target[0] != '/' && target[0] != '?' && target[0] != '*'))
        return 0;
    if (target[0] == '*' && n > 1) return 0; /* no target in origin form */
    read_table(text, (size_t)(lf - text));
    odd = false;
    group = find(target, n);
    if (target[0] != '/') {
        CHECK(target[0] == '*' || group == find("/", 1));
        return 0;
    }
    path = fuzz_copy(target, n);
    copy = fuzz_copy(target, n);
    memset(&r, 0, sizeof r);
    m = ldc_route_decode(ldc_util_str(copy, n), path, &r);
    dots = r.dots;
    odd = r.back || (r.runs && r.dots);
    free(copy);
    if (m < 0) {
        CHECK(group == -2);
        free(path);
        return 0;
    }
    o = (size_t)m;
    CHECK(o >= 1 && o <= n && path[0] == '/' && memmem(path, o, "//", 2) == NULL);
    for (size_t i = 0; i < o; i++) CHECK((unsigned char)path[i] >= 0x20 && path[i] != 0x7f);
    plain = expected(ldc_util_str(path, o));
    m = resolve(path, o, &resolved);
    if (!dots) {
        CHECK(m == (ptrdiff_t)o && memcmp(path, resolved, o) == 0);
        CHECK(group == plain || (odd && group == -2));
    } else if (m < 0) {
        CHECK(group == -2);
    } else {
        int other = expected(ldc_util_str(resolved, (size_t)m));
        CHECK(group == (plain == other ? plain : -2) || (odd && group == -2));
    }
    if (!odd) same_spelt_otherwise(path, o, group, dots);
    free(resolved);
    free(path);
    return 0;
}
