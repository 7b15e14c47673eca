/* kqueue as macOS and the BSDs have it, of epoll: so much of it as ldcorn.h uses. With it the code for
   those systems runs where the tests run; that it compiles and links there is tests/strict's concern.

   Kept as there: one knote for each descriptor and filter, which goes when the descriptor is closed;
   EV_ADD of one that exists changes it, EV_DELETE of none is ENOENT; an end is EV_EOF with either
   filter; errors of changes are the call's where no events are asked for. */
#ifndef SYS_EVENT_H
#define SYS_EVENT_H

#include <errno.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <time.h>

#define EVFILT_READ (-1)
#define EVFILT_WRITE (-2)
#define EV_ADD 0x0001
#define EV_DELETE 0x0002
#define EV_EOF 0x8000

struct kevent {
    uintptr_t ident;
    int16_t filter;
    uint16_t flags;
    uint32_t fflags;
    intptr_t data;
    void *udata;
};

static struct { /* of one kqueue in this process, by descriptor */
    uint32_t events;
    void *udata[2]; /* reads, writes */
} kqueue_notes[65536];

static int kqueue(void) { return epoll_create1(EPOLL_CLOEXEC); }

static int kqueue_change(int kq, const struct kevent *k) {
    uint32_t bit = k->filter == EVFILT_READ ? EPOLLIN | EPOLLRDHUP : EPOLLOUT, had;
    struct epoll_event e = {0, {0}};
    int fd = (int)k->ident;
    if (k->ident >= sizeof kqueue_notes / sizeof *kqueue_notes) {
        errno = EBADF;
        return -1;
    }
    e.data.fd = fd;
    e.events = had = kqueue_notes[fd].events;
    if (had && epoll_ctl(kq, EPOLL_CTL_MOD, fd, &e) < 0) /* it was closed: so are its knotes */
        had = kqueue_notes[fd].events = 0;
    e.events = k->flags & EV_DELETE ? had & ~bit : had | bit;
    if ((k->flags & EV_DELETE) && !(had & bit)) {
        errno = ENOENT;
        return -1;
    }
    if (epoll_ctl(kq, had == 0 ? EPOLL_CTL_ADD : e.events ? EPOLL_CTL_MOD : EPOLL_CTL_DEL, fd, &e) < 0)
        return -1;
    kqueue_notes[fd].events = e.events;
    kqueue_notes[fd].udata[k->filter == EVFILT_WRITE] = k->udata;
    return 0;
}

static int kqueue_put(struct kevent *out, int fd, int16_t filter, uint32_t events) {
    out->ident = (uintptr_t)fd;
    out->filter = filter;
    out->flags = events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR) ? EV_EOF : 0;
    out->fflags = 0;
    out->data = 0;
    out->udata = kqueue_notes[fd].udata[filter == EVFILT_WRITE];
    return 1;
}

static int kevent(int kq, const struct kevent *changes, int n, struct kevent *out, int most,
                  const struct timespec *timeout) {
    struct epoll_event e[256];
    int given = 0, found;
    for (int i = 0; i < n; i++) {
        if (kqueue_change(kq, &changes[i]) < 0) return -1;
    }
    if (most == 0) return 0;
    if (most > 256) most = 256;
    found = epoll_wait(kq, e, (most + 1) / 2, timeout ? (int)(timeout->tv_sec * 1000 + timeout->tv_nsec / 1000000) : -1);
    for (int i = 0; i < found; i++) {
        int fd = e[i].data.fd;
        uint32_t has = kqueue_notes[fd].events, got = e[i].events, end = EPOLLHUP | EPOLLERR;
        if ((has & EPOLLIN) && (got & (EPOLLIN | EPOLLRDHUP | end)))
            given += kqueue_put(&out[given], fd, EVFILT_READ, got);
        if ((has & EPOLLOUT) && (got & (EPOLLOUT | end)))
            given += kqueue_put(&out[given], fd, EVFILT_WRITE, got);
    }
    return found < 0 ? -1 : given;
}

#endif
