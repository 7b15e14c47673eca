/* The system: descriptors, streams, listeners, pipes, files, poll() and epoll, the clock, fork().
   What POSIX and Linux promise is kept to the letter; what they merely do most of the time is not.
   ldcorn comes in through the sys_ functions (seam.h), actors through the end_ functions. */

/* --- objects --- */

enum { STREAM, LISTENER, PIPE_READ, PIPE_WRITE, REGULAR, NOWHERE, DEEP, FRESH_SOCKET };
enum { GOT_BYTES = 1, GOT_ROOM = 2, GOT_END = 4, GOT_RESET = 8 };

typedef struct ring { /* bytes on their way, at most `most` */
    char *p;
    size_t off, n, cap, most;
} ring;

typedef void (*notify_fn)(end *e, int what);

/* One end of a stream. What is written here is read at the peer. */
struct end {
    end *peer;
    ring in;
    bool unix_family, fin_in, shut_rd, shut_wr, closed, reset, connecting;
    int err;               /* told by the next call, once */
    bool ours;             /* ldcorn holds it */
    uint64_t in_all, read; /* bytes that came, that were read */
    uint64_t read_call;    /* the number of the call that read last */
    uint64_t accepted_at;
    notify_fn notify;      /* of an actor */
    void *actor;
    struct sockaddr_storage me, you;
    socklen_t me_len, you_len;
    end *next_all;
};

typedef struct listener {
    char key[128]; /* of the address */
    bool unix_family;
    int backlog, waiting;
    end *queue[256];
    bool listening, closed;
    uint64_t inode;
    void (*arrived)(struct listener *); /* an actor accepts; NULL: ldcorn does */
    void *actor;
    struct listener *next;
} listener;

typedef struct tube {
    ring bytes;
    int readers, writers;
    struct tube *next_all;
} tube;

typedef struct watched {
    int fd;
    uint32_t events;
    epoll_data_t data;
    struct file *f;
} watched;

typedef struct deep {
    watched *w;
    int n, cap, from; /* who was told of comes last the next time */
} deep;

typedef struct file {
    int type, refs, family, flags; /* flags: O_NONBLOCK */
    union {
        end *e;
        listener *l;
        tube *t;
        deep *d;
        struct node *node;
    } u;
    uint64_t at;        /* of a regular file */
    int lies;           /* said to be ready, and was not */
    listener *reserved; /* bound and not listening */
    const char *text;
    size_t text_n;
} file;

typedef struct slot {
    file *f;
    bool cloexec;
} slot;

enum { MOST_FDS = 512 };

typedef struct process { /* what a fork() copies */
    slot fd[MOST_FDS];
    int top; /* all above are free */
    struct sigaction act[65];
    pid_t pid;
} process;

enum { DIRECTORY, SOCKET_FILE, PLAIN_FILE };

typedef struct node { /* a name in the file system */
    char path[128];
    int type;
    unsigned mode;
    uid_t uid;
    uint64_t inode;
    const char *text; /* of a plain file that can be read */
    size_t n;
    bool gone;
    struct node *next;
} node;

typedef struct kernel {
    process self, child; /* ldcorn; its child between fork() and exec() */
    process *cur;
    jmp_buf fork_return;
    pid_t forked, next_pid;
    proc *newborn;
    end *ends;
    tube *tubes;
    listener *listeners;
    node *nodes;
    uint64_t inodes;
    int fd_limit;
    uid_t uid;
    size_t sock_room, pipe_room;
    bool tcp_at_once; /* a TCP connect is done when it returns */
    bool no_deep, no_splice;
    uint64_t changed; /* something that poll() sees */
    bool interrupted;
    uint64_t call; /* number of the present system call */
    uint64_t cost; /* of a turn, microseconds */
    unsigned next_port;
    uint64_t connect_waits; /* when a connect was last not done at once */
    uint64_t stood_at;      /* when it last went on after getting no processor */
    uint64_t config_read; /* how often the configuration was opened */
    char *config;         /* its text now */
    bool config_missing;
    uint64_t wake_by; /* step mode: poll() returns at once when this is reached */
    bool wake;
} kernel;

static kernel K;

/* What the kernel tells the world (main.c, worker.c). */
static void world_turn(void);
static void world_config_read(void);
static proc *proc_born(pid_t pid);
static int proc_exec(proc *p, const char *program, char *const *argv, char *const *env);
static void proc_exit(proc *p, int status);
static bool proc_signal(pid_t pid, int sig);
static pid_t proc_wait(pid_t pid, int *status, int flags);
static bool program_exists(const char *path);

static void changed(void) { K.changed++; }

/* --- calls and their faults --- */

enum { MOST_CALLS = 60000 };

static void call(void) {
    K.call++;
    if (++S.calls > S.calls_max) S.calls_max = S.calls;
    if (S.calls > MOST_CALLS) fail("turn without end", "%d system calls in one turn", MOST_CALLS);
}

static bool bad(unsigned of_thousand, int error) {
    if (S.healed || !chance(of_thousand)) return false;
    errno = error;
    return true;
}

static bool interrupted(void) { return K.cur == &K.self && bad(S.bad.eintr, EINTR); }

/* --- rings --- */

static size_t ring_room(const ring *r) { return r->most - r->n; }

static void ring_put(ring *r, const char *p, size_t n) {
    if (r->off + r->n + n > r->cap) {
        if (r->n + n > r->cap) {
            size_t cap = r->cap ? r->cap : 256;
            char *q;
            while (cap < r->n + n) cap *= 2;
            q = (char *)malloc(cap);
            if (q == NULL) abort();
            if (r->n) memcpy(q, r->p + r->off, r->n);
            free(r->p);
            r->p = q;
            r->cap = cap;
        } else {
            memmove(r->p, r->p + r->off, r->n);
        }
        r->off = 0;
    }
    memcpy(r->p + r->off + r->n, p, n);
    r->n += n;
}

static void ring_peek(const ring *r, char *p, size_t n) {
    if (n) memcpy(p, r->p + r->off, n);
}

static void ring_drop(ring *r, size_t n) {
    r->off += n;
    r->n -= n;
    if (r->n == 0) r->off = 0;
}

static void ring_free(ring *r) {
    free(r->p);
    memset(r, 0, sizeof *r);
}

/* --- ends of streams --- */

static end *end_new(bool unix_family) {
    end *e = (end *)take(sizeof *e);
    e->unix_family = unix_family;
    e->in.most = K.sock_room;
    e->next_all = K.ends;
    K.ends = e;
    return e;
}

static void end_tell(end *e, int what) {
    if (e->ours) changed();
    if (e->notify && !e->closed) e->notify(e, what);
}

static void end_join(end *a, end *b) {
    a->peer = b;
    b->peer = a;
}

/* The connection is gone under both. */
static void end_torn(end *e, int err) {
    if (e == NULL || e->closed || e->reset) return;
    e->reset = true;
    e->err = err;
    end_tell(e, GOT_RESET);
}

/* Bytes taken, or -1 and errno. */
static ssize_t end_write(end *e, const char *p, size_t n) {
    end *to = e->peer;
    if (e->err) {
        errno = e->err;
        e->err = 0;
        changed();
        return -1;
    }
    if (e->shut_wr || e->reset || to == NULL || (to->closed && e->unix_family) ||
        (to->shut_rd && e->unix_family)) {
        errno = EPIPE;
        return -1;
    }
    if (to->closed) { /* TCP takes it, and the answer to it is a reset */
        end_torn(e, EPIPE);
        return (ssize_t)n;
    }
    if (to->shut_rd) return (ssize_t)n; /* taken and thrown away */
    if (ring_room(&to->in) == 0 && n) {
        errno = EAGAIN;
        return -1;
    }
    if (n > ring_room(&to->in)) n = ring_room(&to->in);
    ring_put(&to->in, p, n);
    to->in_all += n;
    if (n) end_tell(to, GOT_BYTES);
    return (ssize_t)n;
}

/* Bytes, 0 at the end, -1 and errno. */
static ssize_t end_read(end *e, char *p, size_t n, bool peek) {
    if (e->in.n && !e->shut_rd) {
        bool full = ring_room(&e->in) == 0;
        if (n > e->in.n) n = e->in.n;
        ring_peek(&e->in, p, n);
        if (peek) return (ssize_t)n;
        ring_drop(&e->in, n);
        e->read += n;
        e->read_call = K.call;
        if (e->ours) changed();
        if (e->peer && (full || e->peer->notify)) end_tell(e->peer, GOT_ROOM);
        return (ssize_t)n;
    }
    if (e->err) {
        errno = e->err;
        if (!peek) e->err = 0;
        changed();
        return -1;
    }
    if (e->fin_in || e->shut_rd || e->reset) return 0;
    errno = EAGAIN;
    return -1;
}

static void end_shutdown(end *e, int how) {
    if (how != SHUT_WR) e->shut_rd = true; /* first: whoever hears of the end sees both */
    if (how != SHUT_RD && !e->shut_wr) {
        e->shut_wr = true;
        if (e->peer && !e->peer->fin_in && !e->reset) {
            e->peer->fin_in = true;
            end_tell(e->peer, GOT_END);
        }
    }
    changed();
}

static void end_close(end *e, bool hard) {
    bool unread = e->in.n > 0, was_shut = e->shut_wr;
    end *to = e->peer;
    if (e->closed) return;
    e->closed = e->shut_wr = e->shut_rd = true;
    ring_free(&e->in);
    e->in.most = 0;
    changed();
    if (to == NULL || to->closed || e->reset) return;
    if (hard || unread)
        end_torn(to, ECONNRESET);
    else if (!was_shut && !to->fin_in) {
        to->fin_in = true;
        end_tell(to, GOT_END);
    } else {
        end_tell(to, GOT_ROOM); /* whoever waits for room hears of it */
    }
}

static short end_ready(const end *e) {
    const end *to = e->peer;
    short r = 0;
    bool in_ended = e->fin_in || e->shut_rd || e->reset;
    if (e->connecting) return 0;
    if (e->err) r |= POLLERR | POLLIN | POLLOUT;
    if (e->reset || (in_ended && e->shut_wr) || (e->unix_family && to && to->closed)) r |= POLLHUP;
    if (e->in.n || in_ended) r |= POLLIN;
    if (in_ended) r |= POLLRDHUP;
    if (e->shut_wr || e->reset || to == NULL || to->closed || to->shut_rd || ring_room(&to->in))
        r |= POLLOUT;
    return r;
}

/* --- addresses and listeners --- */

static bool address_key(const struct sockaddr *a, socklen_t n, char key[128]) {
    if (a->sa_family == AF_UNIX) {
        const struct sockaddr_un *u = (const struct sockaddr_un *)(const void *)a;
        snprintf(key, 128, "unix:%s", u->sun_path);
        (void)n;
    } else if (a->sa_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)a;
        uint32_t ip = ntohl(v4->sin_addr.s_addr);
        snprintf(key, 128, "%u.%u.%u.%u:%u", ip >> 24, ip >> 16 & 255, ip >> 8 & 255, ip & 255,
                 (unsigned)ntohs(v4->sin_port));
    } else {
        return false;
    }
    return true;
}

static listener *listener_find(const char *key) {
    for (listener *l = K.listeners; l; l = l->next) {
        if (!l->closed && l->listening && strcmp(l->key, key) == 0) return l;
    }
    return NULL;
}

static bool listener_bound(const char *key) { /* also if it does not listen */
    for (listener *l = K.listeners; l; l = l->next) {
        if (!l->closed && strcmp(l->key, key) == 0) return true;
    }
    return false;
}

static listener *listener_new(const char *key, int backlog) {
    listener *l = (listener *)take(sizeof *l);
    snprintf(l->key, sizeof l->key, "%s", key);
    l->unix_family = strncmp(key, "unix:", 5) == 0;
    l->backlog = backlog > 255 ? 255 : backlog < 1 ? 1 : backlog;
    l->next = K.listeners;
    K.listeners = l;
    return l;
}

static void listener_close(listener *l) {
    if (l->closed) return;
    l->closed = true;
    l->listening = false;
    for (int i = 0; i < l->waiting; i++) { /* whoever was in the backlog is reset */
        end *e = l->queue[i];
        end_close(e, true);
    }
    l->waiting = 0;
    changed();
}

static end *listener_accept(listener *l) {
    end *e;
    if (l->waiting == 0) return NULL;
    e = l->queue[0];
    memmove(l->queue, l->queue + 1, (size_t)--l->waiting * sizeof *l->queue);
    changed();
    return e;
}

/* 0, or an errno: EAGAIN for a full backlog. `mine` gets a peer that waits to be accepted. */
static int listener_connect(const char *key, end *mine) {
    listener *l = listener_find(key);
    end *theirs;
    if (l == NULL) return ECONNREFUSED;
    if (l->waiting >= l->backlog) return EAGAIN;
    theirs = end_new(l->unix_family);
    theirs->ours = l->arrived == NULL;
    theirs->you = mine->me;
    theirs->you_len = mine->me_len;
    theirs->me = mine->you;
    theirs->me_len = mine->you_len;
    end_join(mine, theirs);
    l->queue[l->waiting++] = theirs;
    changed();
    return 0;
}

/* --- names of files --- */

static node *node_find(const char *path) {
    for (node *n = K.nodes; n; n = n->next) {
        if (!n->gone && strcmp(n->path, path) == 0) return n;
    }
    return NULL;
}

static node *node_make(const char *path, int type, unsigned mode) {
    node *n = (node *)take(sizeof *n);
    snprintf(n->path, sizeof n->path, "%s", path);
    n->type = type;
    n->mode = mode;
    n->uid = K.uid;
    n->inode = ++K.inodes;
    n->next = K.nodes;
    K.nodes = n;
    return n;
}

static bool node_inside(const node *n, const char *dir) {
    size_t k = strlen(dir);
    return !n->gone && strncmp(n->path, dir, k) == 0 && n->path[k] == '/' &&
           strchr(n->path + k + 1, '/') == NULL;
}

/* --- descriptors --- */

static void file_drop(file *f) {
    if (--f->refs > 0) return;
    switch (f->type) {
    case STREAM: end_close(f->u.e, false); break;
    case LISTENER: listener_close(f->u.l); break;
    case PIPE_READ: f->u.t->readers--; break;
    case PIPE_WRITE: f->u.t->writers--; break;
    default: break;
    }
    if (f->reserved) listener_close(f->reserved);
    changed();
}

static file *file_new(int type) {
    file *f = (file *)take(sizeof *f);
    f->type = type;
    f->refs = 0;
    return f;
}

static int fd_take_from(process *p, file *f, bool cloexec, int least) {
    int most = p == &K.self ? K.fd_limit : MOST_FDS;
    for (int i = least; i < most; i++) {
        if (p->fd[i].f) continue;
        p->fd[i].f = f;
        p->fd[i].cloexec = cloexec;
        f->refs++;
        if (i >= p->top) p->top = i + 1;
        return i;
    }
    errno = EMFILE;
    return -1;
}

static int fd_take(file *f, bool cloexec) { return fd_take_from(K.cur, f, cloexec, 0); }

static file *fd_file(int fd) {
    if (fd < 0 || fd >= MOST_FDS || K.cur->fd[fd].f == NULL) {
        errno = EBADF;
        return NULL;
    }
    return K.cur->fd[fd].f;
}

static void fd_drop(process *p, int fd) {
    file *f = p->fd[fd].f;
    p->fd[fd].f = NULL;
    if (f) file_drop(f);
}

/* --- calls on descriptors --- */

static int sys_close(int fd) {
    file *f;
    call();
    f = fd_file(fd);
    if (f == NULL) {
        if (K.cur == &K.self) fail("close of a closed descriptor", "close(%d)", fd);
        return -1;
    }
    fd_drop(K.cur, fd);
    return interrupted() ? -1 : 0; /* gone all the same, as on Linux */
}

static int sys_socket(int family, int type, int protocol) {
    file *f;
    int fd;
    (void)protocol;
    call();
    if (K.cur == &K.self && (bad(S.bad.files, EMFILE))) return -1;
    if (!(type & SOCK_STREAM) || (type & 15) != SOCK_STREAM) {
        errno = EPROTONOSUPPORT;
        return -1;
    }
    f = file_new(FRESH_SOCKET);
    f->family = family;
    if (type & SOCK_NONBLOCK) f->flags = O_NONBLOCK;
    fd = fd_take(f, (type & SOCK_CLOEXEC) != 0);
    return fd;
}

static int sys_bind(int fd, const struct sockaddr *a, socklen_t n) {
    struct sockaddr_storage named;
    char key[128];
    file *f;
    call();
    if ((f = fd_file(fd)) == NULL) return -1;
    memset(&named, 0, sizeof named);
    memcpy(&named, a, n);
    if (a->sa_family == AF_INET && ((const struct sockaddr_in *)(const void *)a)->sin_port == 0)
        ((struct sockaddr_in *)(void *)&named)->sin_port = htons((uint16_t)(40000 + K.next_port++));
    address_key((struct sockaddr *)&named, n, key);
    if (listener_bound(key) || (a->sa_family == AF_UNIX && node_find(key + 5))) {
        errno = EADDRINUSE;
        return -1;
    }
    f->reserved = listener_new(key, 1);
    if (a->sa_family == AF_UNIX) {
        node *made = node_make(key + 5, SOCKET_FILE, 0600);
        f->reserved->inode = made->inode;
    }
    f->reserved->actor = NULL;
    f->text = NULL;
    return 0;
}

static int sys_listen(int fd, int backlog) {
    file *f;
    call();
    if ((f = fd_file(fd)) == NULL) return -1;
    if (f->reserved == NULL) {
        errno = EINVAL;
        return -1;
    }
    f->type = LISTENER;
    f->u.l = f->reserved;
    f->reserved = NULL;
    f->u.l->listening = true;
    f->u.l->backlog = backlog > 255 ? 255 : backlog < 1 ? 1 : backlog;
    changed();
    return 0;
}

static int sys_getsockname(int fd, struct sockaddr *a, socklen_t *n) {
    file *f;
    struct sockaddr_in v4;
    const char *key = NULL, *colon;
    call();
    if ((f = fd_file(fd)) == NULL) return -1;
    memset(&v4, 0, sizeof v4);
    v4.sin_family = AF_INET;
    v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (f->reserved) key = f->reserved->key;
    if (f->type == LISTENER) key = f->u.l->key;
    if (key && (colon = strrchr(key, ':')) != NULL)
        v4.sin_port = htons((uint16_t)strtoul(colon + 1, NULL, 10));
    if (f->type == STREAM) {
        socklen_t k = f->u.e->me_len < *n ? f->u.e->me_len : *n;
        memcpy(a, &f->u.e->me, k);
        *n = f->u.e->me_len;
        return 0;
    }
    memcpy(a, &v4, *n < sizeof v4 ? *n : sizeof v4);
    *n = sizeof v4;
    return 0;
}

static int accept_any(int fd, struct sockaddr *a, socklen_t *n, int flags) {
    file *f, *g;
    end *e;
    int got;
    call();
    if ((f = fd_file(fd)) == NULL) return -1;
    if (f->type != LISTENER) {
        errno = EINVAL;
        return -1;
    }
    if (interrupted() || bad(S.bad.aborted, coin() ? ECONNABORTED : EPROTO)) return -1;
    if (f->u.l->waiting == 0) {
        errno = EAGAIN;
        return -1;
    }
    if (bad(S.bad.files, coin() ? EMFILE : ENFILE)) return -1;
    g = file_new(STREAM);
    if (flags & SOCK_NONBLOCK) g->flags = O_NONBLOCK;
    got = fd_take(g, (flags & SOCK_CLOEXEC) != 0);
    if (got < 0) return -1;
    e = listener_accept(f->u.l);
    g->u.e = e;
    e->ours = true;
    e->accepted_at = S.now;
    if (e->unix_family) {
        sa_family_t family = AF_UNIX;
        memcpy(a, &family, sizeof family);
        *n = sizeof family;
    } else {
        socklen_t k = e->you_len < *n ? e->you_len : *n;
        memcpy(a, &e->you, k);
        *n = e->you_len;
    }
    return got;
}

static int sys_accept4(int fd, struct sockaddr *a, socklen_t *n, int flags) {
    return accept_any(fd, a, n, flags);
}
static int sys_accept(int fd, struct sockaddr *a, socklen_t *n) { return accept_any(fd, a, n, 0); }

typedef struct dialling {
    end *e;
    char key[128];
} dialling;

static void connect_done(void *who) {
    dialling *d = (dialling *)who;
    int err;
    if (d->e->closed) return;
    err = listener_connect(d->key, d->e);
    if (err == EAGAIN) { /* TCP: the SYN is lost and comes again */
        in(1 * SEC, connect_done, d);
        return;
    }
    d->e->connecting = false;
    if (err) {
        d->e->reset = true;
        d->e->err = err;
    } else {
        listener *l = listener_find(d->key);
        if (l && l->arrived) l->arrived(l);
    }
    changed();
}

static int sys_connect(int fd, const struct sockaddr *a, socklen_t n) {
    file *f;
    end *e;
    char key[128];
    int err;
    listener *l;
    call();
    if ((f = fd_file(fd)) == NULL) return -1;
    if (f->type == STREAM) {
        errno = f->u.e->connecting ? EALREADY : EISCONN;
        return -1;
    }
    address_key(a, n, key);
    if (a->sa_family == AF_UNIX && node_find(key + 5) == NULL) {
        errno = ENOENT;
        return -1;
    }
    e = end_new(a->sa_family == AF_UNIX);
    e->ours = true;
    memcpy(&e->you, a, n < sizeof e->you ? n : sizeof e->you);
    e->you_len = n;
    l = listener_find(key);
    if (a->sa_family != AF_UNIX && (!K.tcp_at_once || (l && l->waiting >= l->backlog))) {
        dialling *d = (dialling *)take(sizeof *d);
        d->e = e;
        snprintf(d->key, sizeof d->key, "%s", key);
        f->type = STREAM;
        f->u.e = e;
        e->connecting = true;
        in(below(3) ? below(200) : below(50 * MS), connect_done, d);
        K.connect_waits = S.now;
        errno = EINPROGRESS;
        return -1;
    }
    err = listener_connect(key, e);
    if (err) {
        K.connect_waits = S.now;
        errno = err;
        return -1;
    }
    f->type = STREAM;
    f->u.e = e;
    l = listener_find(key);
    if (l && l->arrived) l->arrived(l);
    return interrupted() ? -1 : 0; /* it is made all the same: the next try says EISCONN */
}

static size_t less(size_t n) {
    return n > 1 && !S.healed && chance(S.bad.shorts) ? 1 + (size_t)below(n - 1) : n;
}

static end *stream_of(int fd) {
    file *f = fd_file(fd);
    if (f == NULL) return NULL;
    if (f->type != STREAM || f->u.e->connecting) {
        errno = ENOTCONN;
        return NULL;
    }
    return f->u.e;
}

static ssize_t sys_recv(int fd, void *p, size_t n, int flags) {
    end *e;
    call();
    if ((e = stream_of(fd)) == NULL || interrupted()) return -1;
    return end_read(e, (char *)p, less(n), (flags & MSG_PEEK) != 0);
}

static ssize_t tube_read(tube *t, char *p, size_t n) {
    if (n > t->bytes.n) n = t->bytes.n;
    if (n) {
        ring_peek(&t->bytes, p, n);
        ring_drop(&t->bytes, n);
        changed();
        return (ssize_t)n;
    }
    if (t->writers == 0) return 0;
    errno = EAGAIN;
    return -1;
}

static ssize_t tube_write(tube *t, const char *p, size_t n) {
    size_t room = ring_room(&t->bytes);
    if (t->readers == 0) {
        errno = EPIPE;
        return -1;
    }
    if (room == 0 || (n <= 512 && n > room)) {
        errno = EAGAIN;
        return -1;
    }
    if (n > room) n = room;
    ring_put(&t->bytes, p, n);
    changed();
    return (ssize_t)n;
}

static ssize_t sys_read(int fd, void *p, size_t n) {
    file *f;
    call();
    if ((f = fd_file(fd)) == NULL || interrupted()) return -1;
    if (f->type == PIPE_READ) return tube_read(f->u.t, (char *)p, n > 512 ? less(n) : n);
    if (f->type == STREAM) return end_read(f->u.e, (char *)p, less(n), false);
    return 0; /* a file that has nothing for us */
}

static ssize_t sys_write(int fd, const void *p, size_t n) {
    file *f;
    call();
    if ((f = fd_file(fd)) == NULL || interrupted()) return -1;
    if (f->type == PIPE_WRITE) return tube_write(f->u.t, (const char *)p, n);
    if (f->type == STREAM) return end_write(f->u.e, (const char *)p, n);
    return (ssize_t)n; /* logs */
}

static bool no_room(const end *e) {
    if (e->err || e->reset || e->shut_wr || !bad(S.bad.full, EAGAIN)) return false;
    K.connect_waits = S.now; /* a request may have begun, and nobody sees it yet */
    return true;
}

static ssize_t sys_send(int fd, const void *p, size_t n, int flags) {
    end *e;
    (void)flags;
    call();
    if ((e = stream_of(fd)) == NULL || interrupted()) return -1;
    if (no_room(e)) return -1;
    return end_write(e, (const char *)p, less(n));
}

static ssize_t sys_sendmsg(int fd, const struct msghdr *m, int flags) {
    size_t all = 0, want, done = 0;
    end *e;
    (void)flags;
    call();
    if ((e = stream_of(fd)) == NULL || interrupted()) return -1;
    if (no_room(e)) return -1;
    for (size_t i = 0; i < (size_t)m->msg_iovlen; i++) all += m->msg_iov[i].iov_len;
    want = less(all);
    for (size_t i = 0; i < (size_t)m->msg_iovlen && done < want; i++) {
        size_t n = m->msg_iov[i].iov_len < want - done ? m->msg_iov[i].iov_len : want - done;
        ssize_t w = n ? end_write(e, (const char *)m->msg_iov[i].iov_base, n) : 0;
        if (w < 0 && done == 0) return -1;
        if (w < 0) break;
        done += (size_t)w;
        if ((size_t)w < n) break;
    }
    return (ssize_t)done;
}

static ssize_t sys_splice(int from, loff_t *a, int to, loff_t *b, size_t n, unsigned flags) {
    static char room[65536];
    file *f, *g;
    ssize_t r;
    (void)a, (void)b, (void)flags;
    call();
    if ((f = fd_file(from)) == NULL || (g = fd_file(to)) == NULL || interrupted()) return -1;
    if (K.no_splice) {
        errno = EINVAL;
        return -1;
    }
    if (bad(S.bad.full, EAGAIN)) return -1;
    if (n > sizeof room) n = sizeof room;
    n = less(n);
    if (f->type == STREAM) {
        if (n > ring_room(&g->u.t->bytes)) n = ring_room(&g->u.t->bytes);
        if (n == 0) {
            errno = EAGAIN;
            return -1;
        }
        r = end_read(f->u.e, room, n, false);
        if (r > 0) ring_put(&g->u.t->bytes, room, (size_t)r);
        return r;
    }
    if (n > f->u.t->bytes.n) n = f->u.t->bytes.n;
    if (n == 0) {
        errno = EAGAIN;
        return -1;
    }
    ring_peek(&f->u.t->bytes, room, n);
    r = end_write(g->u.e, room, n);
    if (r > 0) ring_drop(&f->u.t->bytes, (size_t)r);
    return r;
}

static int sys_shutdown(int fd, int how) {
    file *f;
    call();
    if ((f = fd_file(fd)) == NULL) return -1;
    if (f->type != STREAM || f->u.e->connecting || f->u.e->reset || f->u.e->peer == NULL) {
        errno = ENOTCONN;
        return -1;
    }
    end_shutdown(f->u.e, how);
    return 0;
}

static int sys_setsockopt(int fd, int level, int name, const void *v, socklen_t n) {
    file *f;
    call();
    if ((f = fd_file(fd)) == NULL) return -1;
    if (level == SOL_SOCKET && name == SO_LINGER && f->type == STREAM) {
        struct linger off;
        memcpy(&off, v, n < sizeof off ? n : sizeof off);
        if (off.l_onoff && off.l_linger == 0 && !f->u.e->unix_family) end_close(f->u.e, true);
    }
    return 0;
}

static int sys_getsockopt(int fd, int level, int name, void *v, socklen_t *n) {
    int out = 0;
    file *f;
    if (level == SOL_SOCKET && name == SO_ACCEPTCONN && (fd >= MOST_FDS || !K.cur->fd[fd].f)) {
        errno = EBADF;
        return -1;
    }
    call();
    if ((f = fd_file(fd)) == NULL) return -1;
    if (name == SO_ERROR && f->type == STREAM) {
        out = f->u.e->err;
        f->u.e->err = 0;
        changed();
    } else if (name == SO_ACCEPTCONN) {
        out = f->type == LISTENER;
    } else {
        errno = ENOTSOCK;
        return -1;
    }
    if (*n > sizeof out) *n = sizeof out;
    memcpy(v, &out, *n);
    return 0;
}

static int sys_ioctl(int fd, unsigned long what, int *out) {
    end *e = stream_of(fd);
    call();
    if (e == NULL || what != TIOCOUTQ) return -1;
    *out = e->peer ? (int)e->peer->in.n : 0;
    return 0;
}

static int sys_pipe(int fd[2]) {
    tube *t;
    file *r, *w;
    int a, b;
    call();
    if (bad(S.bad.files, EMFILE)) return -1;
    t = (tube *)take(sizeof *t);
    r = file_new(PIPE_READ);
    w = file_new(PIPE_WRITE);
    r->u.t = w->u.t = t;
    t->bytes.most = K.pipe_room;
    t->readers = t->writers = 1;
    t->next_all = K.tubes;
    K.tubes = t;
    a = fd_take(r, false);
    if (a < 0) return -1;
    b = fd_take(w, false);
    if (b < 0) {
        fd_drop(K.cur, a);
        errno = EMFILE;
        return -1;
    }
    fd[0] = a; /* only now: a call that fails leaves the array alone */
    fd[1] = b;
    return 0;
}

static int sys_dup2(int from, int to) {
    file *f;
    call();
    if ((f = fd_file(from)) == NULL) return -1;
    if (from == to) return to;
    f->refs++;
    if (K.cur->fd[to].f) fd_drop(K.cur, to);
    K.cur->fd[to].f = f;
    K.cur->fd[to].cloexec = false;
    if (to >= K.cur->top) K.cur->top = to + 1;
    return to;
}

static int sys_fcntl(int fd, int what, ...) {
    va_list list;
    file *f;
    long arg;
    call();
    if (what == F_SETLK || what == F_GETLK) return 0; /* nobody else is there */
    va_start(list, what);
    arg = va_arg(list, int);
    va_end(list);
    if ((f = fd_file(fd)) == NULL) return -1;
    switch (what) {
    case F_GETFL: return f->flags;
    case F_SETFL: f->flags = (int)arg; return 0;
    case F_SETFD: K.cur->fd[fd].cloexec = (arg & FD_CLOEXEC) != 0; return 0;
    case F_DUPFD: return fd_take_from(K.cur, f, false, (int)arg);
    case F_SETPIPE_SZ: errno = EPERM; return -1;
    default: errno = EINVAL; return -1;
    }
}

static int sys_close_range(unsigned first, unsigned last, int flags) {
    (void)last, (void)flags;
    for (int i = (int)first; i < K.cur->top; i++) {
        if (K.cur->fd[i].f) fd_drop(K.cur, i);
    }
    return 0;
}

/* --- files --- */

static int sys_open(const char *path, int flags, ...) {
    node *n = node_find(path);
    file *f;
    call();
    if (interrupted()) return -1;
    if (strcmp(path, "/dev/null") == 0) {
        if (bad(S.bad.files, EMFILE)) return -1;
        return fd_take(file_new(NOWHERE), (flags & O_CLOEXEC) != 0);
    }
    if (strcmp(path, "/sim/groups.ini") == 0) world_config_read();
    n = node_find(path);
    if (n == NULL && (flags & O_CREAT)) n = node_make(path, PLAIN_FILE, 0600);
    if (n == NULL) {
        errno = ENOENT;
        return -1;
    }
    f = file_new(REGULAR);
    f->u.node = n;
    f->text = n->text;
    f->text_n = n->n;
    return fd_take(f, (flags & O_CLOEXEC) != 0);
}

static void node_stat(const node *n, struct stat *st) {
    memset(st, 0, sizeof *st);
    st->st_mode = (mode_t)((n->type == DIRECTORY     ? S_IFDIR
                            : n->type == SOCKET_FILE ? S_IFSOCK
                                                     : S_IFREG) |
                           n->mode);
    st->st_uid = n->uid;
    st->st_ino = (ino_t)n->inode;
    st->st_size = (off_t)n->n;
    st->st_dev = 1;
}

static int sys_stat(const char *path, struct stat *st) {
    node *n = node_find(path);
    call();
    if (n == NULL && program_exists(path)) {
        memset(st, 0, sizeof *st);
        st->st_mode = S_IFREG | 0755;
        return 0;
    }
    if (n == NULL) {
        errno = ENOENT;
        return -1;
    }
    node_stat(n, st);
    return 0;
}

static int sys_fstat(int fd, struct stat *st) {
    file *f;
    call();
    if ((f = fd_file(fd)) == NULL) return -1;
    memset(st, 0, sizeof *st);
    if (f->type == REGULAR)
        node_stat(f->u.node, st);
    else
        st->st_mode = S_IFIFO | 0600;
    return 0;
}

static FILE *sys_fdopen(int fd, const char *how) {
    file *f = fd_file(fd);
    FILE *out;
    if (f == NULL) return NULL;
    out = f->text_n ? fmemopen((void *)(uintptr_t)f->text, f->text_n, how)
                    : fmemopen((void *)(uintptr_t) "\n", 1, how);
    fd_drop(K.cur, fd); /* the stream has it now, and no name for it */
    return out;
}

static int sys_unlink(const char *path) {
    node *n = node_find(path);
    call();
    if (n == NULL) {
        errno = ENOENT;
        return -1;
    }
    n->gone = true;
    for (listener *l = K.listeners; l; l = l->next) { /* it listens on, and nobody finds it */
        if (!l->closed && l->unix_family && strcmp(l->key + 5, path) == 0)
            snprintf(l->key, sizeof l->key, "unix:(unlinked)");
    }
    return 0;
}

static int sys_mkdir(const char *path, mode_t mode) {
    call();
    if (node_find(path)) {
        errno = EEXIST;
        return -1;
    }
    node_make(path, DIRECTORY, mode & 0777);
    return 0;
}

static int sys_rmdir(const char *path) {
    node *n = node_find(path);
    call();
    if (n == NULL) {
        errno = ENOENT;
        return -1;
    }
    for (node *o = K.nodes; o; o = o->next) {
        if (node_inside(o, path)) {
            errno = ENOTEMPTY;
            return -1;
        }
    }
    n->gone = true;
    return 0;
}

static int sys_chmod(const char *path, mode_t mode) {
    node *n = node_find(path);
    call();
    if (n == NULL) {
        errno = ENOENT;
        return -1;
    }
    n->mode = mode & 0777;
    return 0;
}

static int sys_access(const char *path, int how) {
    (void)how;
    call();
    if (node_find(path) || program_exists(path)) return 0;
    errno = ENOENT;
    return -1;
}

typedef struct sim_dir {
    char path[128];
    node *next;
    struct dirent entry;
} sim_dir;

static sim_dir *sys_opendir(const char *path) {
    sim_dir *d;
    node *n = node_find(path);
    call();
    if (n == NULL || n->type != DIRECTORY) {
        errno = ENOENT;
        return NULL;
    }
    d = (sim_dir *)take(sizeof *d);
    snprintf(d->path, sizeof d->path, "%s", path);
    d->next = K.nodes;
    return d;
}

static struct dirent *sys_readdir(sim_dir *d) {
    while (d->next) {
        node *n = d->next;
        d->next = n->next;
        if (!node_inside(n, d->path)) continue;
        snprintf(d->entry.d_name, sizeof d->entry.d_name, "%s", n->path + strlen(d->path) + 1);
        return &d->entry;
    }
    return NULL;
}

static int sys_closedir(sim_dir *d) {
    (void)d;
    return 0;
}

/* --- time --- */

static int sys_clock_gettime(clockid_t which, struct timespec *t) {
    uint64_t us = S.now + (which == CLOCK_REALTIME ? S.wall : 0);
    t->tv_sec = (time_t)(us / SEC);
    t->tv_nsec = (long)(us % SEC * 1000);
    return 0;
}

static time_t sys_time(time_t *t) {
    (void)t;
    return (time_t)((S.now + S.wall) / SEC);
}

/* --- poll() and epoll --- */

static short file_ready(const file *f) {
    short r = 0;
    switch (f->type) {
    case STREAM: return end_ready(f->u.e);
    case LISTENER: return f->u.l->waiting ? POLLIN : 0;
    case PIPE_READ:
        if (f->u.t->bytes.n) r |= POLLIN;
        if (f->u.t->writers == 0) r |= POLLHUP;
        return r;
    case PIPE_WRITE:
        if (ring_room(&f->u.t->bytes) >= 512) r |= POLLOUT;
        if (f->u.t->readers == 0) r |= POLLERR;
        return r;
    case DEEP:
        for (int i = 0; i < f->u.d->n; i++) {
            const watched *w = &f->u.d->w[i];
            if (file_ready(w->f) & (short)(w->events | POLLERR | POLLHUP)) return POLLIN;
        }
        return 0;
    case FRESH_SOCKET: return POLLOUT | POLLHUP;
    default: return POLLIN | POLLOUT;
    }
}

static int set_ready(struct pollfd *set, nfds_t n) {
    int ready = 0;
    for (nfds_t i = 0; i < n; i++) {
        file *f;
        set[i].revents = 0;
        if (set[i].fd < 0) continue;
        f = set[i].fd < MOST_FDS ? K.cur->fd[set[i].fd].f : NULL;
        if (f == NULL)
            set[i].revents = POLLNVAL;
        else
            set[i].revents = (short)(file_ready(f) & (set[i].events | POLLERR | POLLHUP));
        if (set[i].revents & POLLNVAL) fail("poll of a closed descriptor", "fd %d", set[i].fd);
        ready += set[i].revents != 0;
    }
    return ready;
}

/* Ready, and then it is not: of one descriptor that could take or give. */
static int spurious(struct pollfd *set, nfds_t n, int ready) {
    struct pollfd *p = &set[below(n)];
    file *f = p->fd >= 0 && p->fd < MOST_FDS ? K.cur->fd[p->fd].f : NULL;
    short more = (short)(p->events & (POLLIN | POLLOUT) & ~p->revents);
    if (f == NULL || !more || (f->type != STREAM && f->type != LISTENER)) return ready;
    if (f->type == STREAM && f->u.e->connecting) return ready;
    if (++f->lies > 50) return ready; /* who lies a hundred times in a row is given up, and that is another thing */
    ready += p->revents == 0;
    p->revents = (short)(p->revents | more);
    return ready;
}

enum { MOST_IDLE = 3000 };

static int sys_poll(struct pollfd *set, nfds_t n, int ms) {
    uint64_t until, seen = 0;
    int ready;
    bool turn = n > 1 || ms != 0; /* not a look at one log */
    if (!turn) {
        call();
        return set_ready(set, n);
    }
    S.turns++;
    S.calls = 0;
    world_turn();
    S.now += K.cost ? 1 + below(K.cost) : 0;
    if (++S.idle_polls > MOST_IDLE)
        fail("spinning", "%d turns in which nothing happened", MOST_IDLE);
    if (bad(S.bad.eintr, EINTR)) {
        for (nfds_t i = 0; i < n; i++) set[i].revents = (short)(below(2) ? POLLIN : 0);
        return -1;
    }
    until = ms < 0 ? UINT64_MAX : S.now + (uint64_t)ms * MS;
    K.interrupted = false;
    for (;;) {
        if (seen != K.changed + 1) {
            seen = K.changed + 1;
            ready = set_ready(set, n);
            if (ready || K.interrupted) break;
        }
        if (K.wake) {
            ready = 0;
            break;
        }
        if (S.events == 0 || S.heap[0].at > until) {
            if (ms < 0 && S.events == 0) fail("asleep for ever", "nothing can wake poll()");
            if (until > S.now) {
                S.now = until;
                if (ms > 0) S.idle_polls = 0;
            }
            ready = set_ready(set, n);
            break;
        }
        happen();
    }
    /* what else was to happen by now; and a machine that gives us no processor for a while */
    if (!S.healed && chance(S.bad.late_turn)) {
        uint64_t later = S.now + span(1, 2 * SEC);
        while (S.events && S.heap[0].at <= later) happen();
        if (later > S.now) S.now = later;
        K.stood_at = S.now;
        if (coin()) ready = set_ready(set, n); /* before poll() has looked, or behind it */
    }
    if (K.interrupted) {
        errno = EINTR;
        return -1;
    }
    if (ready && n && !S.healed && chance(S.bad.spurious)) ready = spurious(set, n, ready);
    return ready;
}

static int sys_epoll_create1(int flags) {
    file *f;
    call();
    if (K.no_deep) {
        errno = ENOSYS;
        return -1;
    }
    f = file_new(DEEP);
    f->u.d = (deep *)take(sizeof(deep));
    return fd_take(f, (flags & EPOLL_CLOEXEC) != 0);
}

static int sys_epoll_ctl(int fd, int what, int other, struct epoll_event *e) {
    file *f, *g;
    deep *d;
    call();
    if ((f = fd_file(fd)) == NULL || (g = fd_file(other)) == NULL) return -1;
    d = f->u.d;
    if (what == EPOLL_CTL_ADD) {
        if (bad(S.bad.files, ENOMEM)) return -1;
        if (d->n == d->cap) {
            watched *w = (watched *)take((size_t)(d->cap * 2 + 16) * sizeof *w);
            if (d->n) memcpy(w, d->w, (size_t)d->n * sizeof *w);
            d->w = w;
            d->cap = d->cap * 2 + 16;
        }
        d->w[d->n].fd = other;
        d->w[d->n].events = e->events;
        d->w[d->n].data = e->data;
        d->w[d->n++].f = g;
        changed();
        return 0;
    }
    for (int i = 0; i < d->n; i++) {
        if (d->w[i].fd != other || d->w[i].f != g) continue;
        d->w[i] = d->w[--d->n];
        changed();
        return 0;
    }
    errno = ENOENT;
    return -1;
}

static int sys_epoll_wait(int fd, struct epoll_event *out, int most, int ms) {
    file *f;
    int n = 0;
    (void)ms;
    call();
    if ((f = fd_file(fd)) == NULL || interrupted()) return -1;
    for (int i = 0, from = f->u.d->from; i < f->u.d->n && n < most; i++) {
        int at = (from + i) % f->u.d->n;
        const watched *w = &f->u.d->w[at];
        short r = (short)(file_ready(w->f) & (short)(w->events | POLLERR | POLLHUP));
        if (r == 0) continue;
        out[n].events = (uint32_t)(unsigned short)r;
        out[n++].data = w->data;
        f->u.d->from = at + 1;
    }
    return n;
}

/* --- processes: the child's own code runs, up to exec() or _exit(), as vfork() would have it:
   with a copy of the descriptors and in the memory of its parent --- */

static jmp_buf *sys_fork_point(void) { return &K.fork_return; }

static int sys_fork_begin(void) { /* 0: there is a child, we are it */
    call();
    if (bad(S.bad.forks, coin() ? EAGAIN : ENOMEM)) return -1;
    K.child.top = K.self.top;
    for (int i = 0; i < K.self.top; i++) {
        K.child.fd[i] = K.self.fd[i];
        if (K.child.fd[i].f) K.child.fd[i].f->refs++;
    }
    memcpy(K.child.act, K.self.act, sizeof K.self.act);
    K.child.pid = K.next_pid++;
    K.newborn = proc_born(K.child.pid);
    K.cur = &K.child;
    return 0;
}

static pid_t sys_fork_end(void) { /* back in the parent */
    K.cur = &K.self;
    return K.forked;
}

static void child_gone(void) {
    for (int i = 0; i < K.child.top; i++) {
        if (K.child.fd[i].f) fd_drop(&K.child, i);
    }
    K.forked = K.child.pid;
    longjmp(K.fork_return, 1);
}

#define SYS_FORK()                         \
    (sys_fork_begin() < 0 ? (pid_t)-1      \
     : setjmp(*sys_fork_point()) == 0 ? (pid_t)0 : sys_fork_end())

static void sys__exit(int status) {
    if (K.cur != &K.child) fail("exit", "ldcorn ended itself with %d", status);
    proc_exit(K.newborn, status << 8);
    child_gone();
}

static int sys_execve(const char *program, char *const *argv, char *const *env) {
    int e = proc_exec(K.newborn, program, argv, env);
    if (e) {
        errno = e;
        return -1;
    }
    child_gone();
    return -1;
}

static pid_t sys_getpid(void) { return K.cur->pid; }
static pid_t sys_getppid(void) { return K.cur == &K.self ? 1 : K.self.pid; }

static int sys_kill(pid_t pid, int sig) {
    call();
    if (proc_signal(pid, sig)) return 0;
    errno = ESRCH;
    return -1;
}

static pid_t sys_waitpid(pid_t pid, int *status, int flags) {
    call();
    if (interrupted()) return -1;
    return proc_wait(pid, status, flags);
}

static int sys_waitid(idtype_t kind, id_t id, siginfo_t *info, int flags) {
    int status = 0;
    pid_t r;
    (void)kind;
    call();
    if (interrupted()) return -1;
    r = proc_wait((pid_t)id, &status, flags);
    if (r < 0) return -1;
    if (r > 0) info->si_pid = r;
    return 0;
}

static int sys_sigaction(int sig, const struct sigaction *a, struct sigaction *old) {
    if (sig < 1 || sig > 64) {
        errno = EINVAL;
        return -1;
    }
    if (old) *old = K.cur->act[sig];
    if (a) K.cur->act[sig] = *a;
    return 0;
}

/* A signal for ldcorn: its handler runs now, and poll() says so. */
static void signal_ldcorn(int sig) {
    process *was = K.cur;
    if (K.self.act[sig].sa_handler == SIG_DFL || K.self.act[sig].sa_handler == SIG_IGN) return;
    K.cur = &K.self;
    K.self.act[sig].sa_handler(sig);
    K.cur = was;
    K.interrupted = true;
    changed();
}

static int sys_sigprocmask(int how, const sigset_t *a, sigset_t *old) {
    (void)how, (void)a;
    if (old) sigemptyset(old);
    return 0;
}

static int sys_sigtimedwait(const sigset_t *s, siginfo_t *i, const struct timespec *t) {
    (void)s, (void)i, (void)t;
    errno = EAGAIN;
    return -1;
}

static int sys_getrlimit(int what, struct rlimit *r) {
    (void)what;
    r->rlim_cur = r->rlim_max = (rlim_t)K.fd_limit;
    return 0;
}

static int sys_setrlimit(int what, const struct rlimit *r) {
    (void)what, (void)r;
    return 0;
}

static char *sys_getenv(const char *name) {
    (void)name;
    return NULL;
}

static char *sim_environment[] = {(char *)(uintptr_t) "PATH=/bin", NULL};
static char **sim_environ = sim_environment;

static int sys_getrusage(int who, struct rusage *u) {
    (void)who;
    memset(u, 0, sizeof *u);
    return 0;
}

static char *sys_realpath(const char *path, char *real) {
    snprintf(real, 128, "%s", path);
    return real;
}

static char *sys_getcwd(char *p, size_t n) {
    snprintf(p, n, "/sim");
    return p;
}

static mode_t sys_umask(mode_t m) {
    (void)m;
    return 0022;
}

static int sys_nothing(void) { return 0; }

static void kernel_free(void) {
    for (end *e = K.ends; e; e = e->next_all) ring_free(&e->in);
    for (tube *t = K.tubes; t; t = t->next_all) ring_free(&t->bytes);
}
