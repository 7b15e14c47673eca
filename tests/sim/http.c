/* HTTP/1 as the oracle reads it, at both ends: strict, byte by byte, and nobody else's code. */

enum { HEAD_MOST = 3000 };
typedef enum frame { F_NONE, F_LENGTH, F_CHUNKED, F_END, F_TUNNEL } frame;
enum { H_HEAD, H_BODY, H_SIZE, H_DATA, H_DATA_END, H_LAST, H_DONE, H_TUNNEL };

typedef struct reader { /* of one message after the other in one direction */
    bool response, head_only, http10_peer; /* set by the owner before each answer */
    bool any; /* the body is not ours: anything goes */
    int state;
    char head[HEAD_MOST];
    size_t n;
    /* of the head: */
    int status, minor;
    char method[16], target[256], reason[64];
    uint32_t tag; /* of our own field */
    bool has_tag, close, keep_alive, upgrade, has_date, expect, has_length, has_te;
    int hosts;
    frame frame;
    uint64_t left, body; /* still to come; bytes of body so far */
    char line[40];
    size_t line_n;
    const char *broken; /* what is wrong with it */
    char what[160];
} reader;

/* What a body holds, byte `i` of the one with this number: each has its own. */
static char pattern[131072];
static void pattern_init(void) {
    rng r = {4711};
    for (size_t i = 0; i < 65536; i++) pattern[i] = (char)('a' + (int)(rng_next(&r) % 26));
    memcpy(pattern + 65536, pattern, 65536); /* it goes round */
}
static const char *pattern_at(uint32_t number, uint64_t i, size_t *n) {
    size_t from = (size_t)((number * (uint64_t)7919 + i) & 65535);
    *n = sizeof pattern - from;
    return pattern + from;
}
static bool pattern_is(uint32_t number, uint64_t i, const char *p, size_t n) {
    while (n) {
        size_t k;
        const char *want = pattern_at(number, i, &k);
        if (k > n) k = n;
        if (memcmp(p, want, k) != 0) return false;
        p += k;
        i += k;
        n -= k;
    }
    return true;
}
static void pattern_copy(uint32_t number, uint64_t i, char *p, size_t n) {
    while (n) {
        size_t k;
        const char *from = pattern_at(number, i, &k);
        if (k > n) k = n;
        memcpy(p, from, k);
        p += k;
        i += k;
        n -= k;
    }
}

static void reader_next(reader *r) { /* what comes now is another message */
    r->state = H_HEAD;
    r->n = 0;
}

static bool broken(reader *r, const char *what) {
    if (r->broken == NULL) {
        r->broken = what;
        snprintf(r->what, sizeof r->what, "%.60s", r->head);
        for (char *z = r->what; *z; z++)
            if (*z < ' ') *z = '~';
    }
    return false;
}

static bool field(reader *r, char *name, char *value) {
    if (strcasecmp(name, "content-length") == 0) {
        char *stop;
        if (r->has_length) return broken(r, "two lengths");
        r->has_length = true;
        r->left = strtoull(value, &stop, 10);
        if (*stop || !isdigit((unsigned char)*value)) return broken(r, "length is no number");
    } else if (strcasecmp(name, "transfer-encoding") == 0) {
        if (r->has_te || strcasecmp(value, "chunked") != 0) return broken(r, "transfer-encoding");
        r->has_te = true;
    } else if (strcasecmp(name, "connection") == 0) {
        if (strcasestr(value, "close")) r->close = true;
        if (strcasestr(value, "keep-alive")) r->keep_alive = true;
        if (strcasestr(value, "upgrade")) r->upgrade = true;
    } else if (strcasecmp(name, "host") == 0) {
        r->hosts++;
    } else if (strcasecmp(name, "expect") == 0) {
        r->expect = true;
    } else if (strcasecmp(name, "date") == 0) {
        r->has_date = true;
    } else if (strcasecmp(name, "x-sim") == 0) {
        r->has_tag = true;
        r->tag = (uint32_t)strtoul(value, NULL, 10);
    }
    return true;
}

static bool first_line(reader *r, char *line) {
    char version[16] = "", *rest;
    if (r->response) {
        if (strncmp(line, "HTTP/1.1 ", 9) != 0 || strlen(line) < 13 || line[12] != ' ')
            return broken(r, "status line");
        r->status = (int)strtol(line + 9, &rest, 10);
        snprintf(r->reason, sizeof r->reason, "%.63s", line + 13);
        r->minor = 1;
        return true;
    }
    if (sscanf(line, "%15s %255s %15s", r->method, r->target, version) != 3 ||
        strcmp(version, "HTTP/1.1") != 0)
        return broken(r, "request line");
    return true;
}

/* How an answer or a request ends (RFC 9112 6.3), and what must not be. */
static bool framing(reader *r) {
    if (r->has_te && r->has_length) return broken(r, "length and chunks");
    r->frame = r->has_te ? F_CHUNKED : r->has_length ? F_LENGTH : F_NONE;
    if (!r->response) {
        if (r->hosts != 1) return broken(r, "not one Host");
        if (r->frame == F_LENGTH && r->left == 0) r->frame = F_NONE;
        return true;
    }
    if (r->http10_peer && r->has_te) return broken(r, "chunks for HTTP/1.0");
    if (r->status < 200 && r->http10_peer) return broken(r, "1xx for HTTP/1.0");
    if (r->status < 200 && (r->has_te || r->has_length)) return broken(r, "1xx with framing");
    if (r->status == 204 && (r->has_te || r->has_length)) return broken(r, "204 with framing");
    if (r->status < 200 || r->status == 204 || r->status == 304 || r->head_only)
        r->frame = F_NONE;
    else if (r->frame == F_NONE)
        r->frame = F_END;
    else if (r->frame == F_LENGTH && r->left == 0)
        r->frame = F_NONE;
    if (r->status == 101) r->frame = F_TUNNEL;
    return true;
}

static bool head_done(reader *r) {
    char *line = r->head, *last = r->head + r->n - 2;
    r->head[r->n] = 0;
    r->status = r->hosts = 0;
    r->tag = 0;
    r->has_tag = r->close = r->keep_alive = r->upgrade = r->has_date = r->expect = false;
    r->has_length = r->has_te = false;
    r->left = r->body = 0;
    while (line < last) {
        char *crlf = strstr(line, "\r\n"), *colon;
        if (crlf == NULL || memchr(line, '\n', (size_t)(crlf - line)) ||
            memchr(line, '\r', (size_t)(crlf - line)))
            return broken(r, "bare CR or LF");
        *crlf = 0;
        if (line == r->head) {
            if (!first_line(r, line)) return false;
        } else {
            colon = strchr(line, ':');
            if (colon == NULL) return broken(r, "field without colon");
            *colon = 0;
            colon++;
            while (*colon == ' ' || *colon == '\t') colon++;
            if (!field(r, line, colon)) return false;
        }
        line = crlf + 2;
    }
    if (!framing(r)) return false;
    r->line_n = 0;
    r->state = r->frame == F_NONE      ? H_DONE
               : r->frame == F_CHUNKED ? H_SIZE
               : r->frame == F_TUNNEL  ? H_TUNNEL
                                       : H_BODY;
    return true;
}

/* A line of chunk framing is whole: CRLF has come. */
static bool chunk_line(reader *r) {
    char *stop;
    r->line[r->line_n] = 0;
    r->line_n = 0;
    if (r->state == H_DATA_END) {
        if (r->line[0]) return broken(r, "no CRLF behind a chunk");
        r->state = H_SIZE;
    } else if (r->state == H_LAST) {
        if (r->line[0]) return broken(r, "a trailer");
        r->state = H_DONE;
    } else {
        r->left = strtoull(r->line, &stop, 16);
        if (*stop || !isxdigit((unsigned char)r->line[0])) return broken(r, "chunk size");
        r->state = r->left ? H_DATA : H_LAST;
    }
    return true;
}

/* Bytes used. Stops behind a head and behind a body (state tells); body bytes are checked against
   the pattern of `number`. r->broken says what was wrong. */
static size_t reader_feed(reader *r, const char *p, size_t n, uint32_t number) {
    size_t i = 0;
    while (i < n && r->broken == NULL && r->state != H_DONE && r->state != H_TUNNEL) {
        if (r->state == H_HEAD) {
            if (r->n + 1 >= HEAD_MOST) {
                broken(r, "head too long");
                break;
            }
            r->head[r->n++] = p[i++];
            if (r->n >= 4 && memcmp(r->head + r->n - 4, "\r\n\r\n", 4) == 0) {
                head_done(r);
                return i;
            }
        } else if (r->state == H_BODY || r->state == H_DATA) {
            size_t k = n - i;
            if (r->frame != F_END && k > r->left) k = (size_t)r->left;
            if (!r->any && !pattern_is(number, r->body, p + i, k)) {
                broken(r, "bytes of another message");
                break;
            }
            i += k;
            r->body += k;
            if (r->frame == F_END) continue;
            r->left -= k;
            if (r->left == 0) r->state = r->state == H_BODY ? H_DONE : H_DATA_END;
        } else {
            char c = p[i++];
            if (c == '\n') {
                if (r->line_n == 0 || r->line[r->line_n - 1] != '\r') {
                    broken(r, "bare LF in chunks");
                    break;
                }
                r->line_n--;
                chunk_line(r);
            } else if (r->line_n + 1 < sizeof r->line) {
                r->line[r->line_n++] = c;
            } else {
                broken(r, "chunk line too long");
            }
        }
    }
    return i;
}
