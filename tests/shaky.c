/* A system that keeps POSIX to the letter and does nobody a favour: reads and writes do less than
   was asked, any call that may be interrupted is, sockets have no room, poll() says ready when they
   are not, and connections are gone before accept() returns them. Linked to the program with
   -Wl,--wrap=NAME for each CALL below (see the Makefile); its clients and workers must not notice.

       SHAKY=N        so many of a thousand calls have each kind of trouble; 30 without it
       SHAKY_SEED=N   which ones
       SHAKY_LOSES=X  no memory for a sendmsg() of exactly these bytes

   What a real system never does is not done here: EAGAIN while a stream has bytes to read, a pipe
   that tears what is shorter than 512 bytes, a regular file that has no room now. Linux. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static uint64_t state;
static unsigned of_thousand;

static unsigned draw(void) { /* xorshift64 */
    if (state == 0) {
        const char *seed = getenv("SHAKY_SEED"), *n = getenv("SHAKY");
        state = (seed ? strtoull(seed, NULL, 10) : (uint64_t)getpid()) * 0x9e3779b97f4a7c15u | 1;
        of_thousand = n ? (unsigned)strtoul(n, NULL, 10) : 30;
    }
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (unsigned)(state >> 33);
}

static bool now(void) { return draw() % 1000 < of_thousand; }

static bool fails(int error) {
    if (!now()) return false;
    errno = error;
    return true;
}

static size_t less(size_t n) { return n > 1 && now() ? 1 + draw() % (n - 1) : n; }

enum { OTHER, PIPE, STREAM };

static int kind_of(int fd) {
    struct stat st;
    int type = SOCK_STREAM, saved = errno;
    socklen_t n = sizeof type;
    bool known = fstat(fd, &st) == 0;
    if (known && S_ISSOCK(st.st_mode)) getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n);
    errno = saved;
    if (known && S_ISSOCK(st.st_mode)) return type == SOCK_STREAM ? STREAM : OTHER;
    return known && S_ISFIFO(st.st_mode) ? PIPE : OTHER;
}

static bool waits(int fd) {
    int saved = errno, flags = fcntl(fd, F_GETFL);
    errno = saved;
    return flags >= 0 && !(flags & O_NONBLOCK);
}

/* How much of n bytes goes through at a time. */
static size_t part(int fd, size_t n) {
    int kind = kind_of(fd);
    return kind == STREAM || (kind == PIPE && n > 512) ? less(n) : n;
}

static bool no_room(int fd, size_t n) {
    int kind = kind_of(fd);
    return (kind == STREAM || (kind == PIPE && n > 512)) && !waits(fd) && fails(EAGAIN);
}

/* clang-format off */
#define CALL(type, name, args) type __real_##name args; type __wrap_##name args; type __wrap_##name args
/* clang-format on */

CALL(ssize_t, recv, (int fd, void *p, size_t n, int flags)) {
    if (fails(EINTR)) return -1;
    return __real_recv(fd, p, part(fd, n), flags);
}

CALL(ssize_t, read, (int fd, void *p, size_t n)) {
    if (fails(EINTR)) return -1;
    return __real_read(fd, p, part(fd, n));
}

CALL(ssize_t, send, (int fd, const void *p, size_t n, int flags)) {
    if (fails(EINTR) || no_room(fd, n)) return -1;
    return __real_send(fd, p, part(fd, n), flags);
}

CALL(ssize_t, write, (int fd, const void *p, size_t n)) {
    if (fails(EINTR) || no_room(fd, n)) return -1;
    return __real_write(fd, p, part(fd, n));
}

CALL(ssize_t, sendto,
     (int fd, const void *p, size_t n, int flags, const struct sockaddr *to, socklen_t size)) {
    if (fails(EINTR)) return -1;
    return __real_sendto(fd, p, n, flags, to, size);
}

static bool lost(const struct msghdr *m) {
    const char *text = getenv("SHAKY_LOSES");
    return text && m->msg_iovlen == 1 && m->msg_iov[0].iov_len == strlen(text) &&
           memcmp(m->msg_iov[0].iov_base, text, strlen(text)) == 0;
}

CALL(ssize_t, sendmsg, (int fd, const struct msghdr *m, int flags)) {
    struct msghdr some = *m;
    struct iovec v[8];
    size_t all = 0, want;
    for (size_t i = 0; i < m->msg_iovlen; i++) all += m->msg_iov[i].iov_len;
    if (lost(m)) {
        errno = ENOBUFS;
        return -1;
    }
    if (fails(EINTR) || no_room(fd, all)) return -1;
    want = part(fd, all);
    if (want == all || m->msg_iovlen > 8) return __real_sendmsg(fd, m, flags);
    some.msg_iov = v;
    for (some.msg_iovlen = 0; want; want -= v[some.msg_iovlen++].iov_len) {
        v[some.msg_iovlen] = m->msg_iov[some.msg_iovlen];
        if (v[some.msg_iovlen].iov_len > want) v[some.msg_iovlen].iov_len = want;
    }
    return __real_sendmsg(fd, &some, flags);
}

CALL(ssize_t, splice, (int in, loff_t *from, int out, loff_t *to, size_t n, unsigned int flags)) {
    if (fails(EINTR) || fails(EAGAIN)) return -1;
    return __real_splice(in, from, out, to, less(n), flags);
}

CALL(int, accept4, (int fd, struct sockaddr *from, socklen_t *n, int flags)) {
    if (fails(EINTR) || fails(EAGAIN) || fails(ECONNABORTED) || fails(EPROTO)) return -1;
    return __real_accept4(fd, from, n, flags);
}

CALL(int, accept, (int fd, struct sockaddr *from, socklen_t *n)) {
    if (fails(EINTR) || fails(EAGAIN) || fails(ECONNABORTED) || fails(EPROTO)) return -1;
    return __real_accept(fd, from, n);
}

/* Interrupted, or not done yet: it is being made all the same. */
CALL(int, connect, (int fd, const struct sockaddr *to, socklen_t n)) {
    int r = __real_connect(fd, to, n);
    if (r == 0 && !waits(fd) && (fails(EINTR) || (to->sa_family != AF_UNIX && fails(EINPROGRESS))))
        return -1;
    return r;
}

/* The descriptor is gone, as on Linux. */
CALL(int, close, (int fd)) {
    int r = __real_close(fd);
    return r == 0 && fails(EINTR) ? -1 : r;
}

CALL(int, poll, (struct pollfd * set, nfds_t n, int ms)) {
    int r;
    if (fails(EINTR)) { /* what stands in the set then is nobody's business */
        for (nfds_t i = 0; i < n; i++)
            set[i].revents = (short)(draw() & (POLLIN | POLLOUT | POLLHUP));
        return -1;
    }
    r = __real_poll(set, n, ms);
    if (r > 0 && now()) { /* ready, and then it is not */
        struct pollfd *p = &set[draw() % n];
        short more = (short)(p->events & (POLLIN | POLLOUT) & ~p->revents);
        if (p->fd >= 0 && more && !waits(p->fd)) {
            r += p->revents == 0;
            p->revents = (short)(p->revents | more);
        }
    }
    return r;
}

CALL(int, epoll_wait, (int fd, struct epoll_event *v, int n, int ms)) {
    if (fails(EINTR)) return -1;
    return __real_epoll_wait(fd, v, (int)less((size_t)n), ms);
}

CALL(pid_t, waitpid, (pid_t pid, int *status, int flags)) {
    if (fails(EINTR)) return -1;
    return __real_waitpid(pid, status, flags);
}

CALL(int, waitid, (idtype_t kind, id_t id, siginfo_t *info, int flags)) {
    if (fails(EINTR)) return -1;
    return __real_waitid(kind, id, info, flags);
}

CALL(int, open, (const char *path, int flags, mode_t mode)) {
    if (fails(EINTR)) return -1;
    return __real_open(path, flags, mode);
}

CALL(int, dup2, (int from, int to)) {
    if (fails(EINTR)) return -1;
    return __real_dup2(from, to);
}
