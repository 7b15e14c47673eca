"""Crowds that are slow, idle or silent, and what they cost the others: nothing."""
import fcntl, os, resource, selectors, socket, time

import pytest
import machine
from harness import AutoWorker, Proxy, answer, head, upstream_config, wait_for
from procs import cpu_seconds, metric

OK = answer(b'ok')
START = b'GET / HTTP/1.1\r\nHost: t\r\nX: '


@pytest.fixture(scope='module', autouse=True)
def _descriptors():
    """This process holds the other end of every connection."""
    with machine.descriptors(8192, 3600) as most:
        yield most


class Crowd:
    """Plain sockets: thousands of Clients would cost more than what is measured."""

    def __init__(self, proxy, n, data=b''):
        self.socks = []
        for _ in range(n):
            s = socket.create_connection(proxy.address, 10)
            high = socket.socket(fileno=fcntl.fcntl(s, fcntl.F_DUPFD, 2000))     # select() takes those below 1024
            s.close()
            high.settimeout(10)
            if data:
                high.sendall(data)
            self.socks.append(high)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for s in self.socks:
            s.close()

    def say(self, data):
        for s in self.socks:
            try:
                s.sendall(data)
            except OSError:
                pass

    def ends(self, seconds):
        """{socket: what came before its end}, of all that end in time."""
        got, done = {s: b'' for s in self.socks}, {}
        with selectors.DefaultSelector() as sel:
            for s in self.socks:
                sel.register(s, selectors.EVENT_READ)
            end = time.monotonic() + seconds
            while len(done) < len(got) and time.monotonic() < end:
                for key, _ in sel.select(0.1):
                    s = key.fileobj
                    try:
                        data = s.recv(65536)
                    except ConnectionResetError:
                        data = b''
                    got[s] += data
                    if not data:
                        done[s] = got[s]
                        sel.unregister(s)
        return done


def served_one(s):
    data = b''
    while b' 200 ' not in data:
        data += s.recv(4096) or pytest.fail('ended after %r' % data)


def served(p, path, n=20, most=1.0):
    """n requests on new connections within `most` seconds each; a busy machine may hold up a few of them."""
    took = []
    for _ in range(n):
        start = time.monotonic()
        with p.connect() as c:
            assert c.ask('GET', path).body == b'ok'
        took.append(time.monotonic() - start)
    assert sorted(took)[n * 3 // 4] < most, (path, took)


def quiet(p, seconds=1.0, share=0.15):
    """Nothing is to be done, so nothing is: CPU as a share of one core."""
    time.sleep(0.1)                                      # what was sent last
    before = cpu_seconds(p.pid)
    start = time.monotonic()
    time.sleep(seconds)                                  # the window itself
    used = (cpu_seconds(p.pid) - before) / (time.monotonic() - start)
    assert used < share, 'idle, and %.0f %% of a core' % (100 * used)


def connections(p):
    return len(os.listdir('/proc/%d/fd' % p.pid))


def memory(p):
    with open('/proc/%d/status' % p.pid) as f:
        return next(int(line.split()[1]) << 10 for line in f if line.startswith('VmRSS'))


def two_groups(w, top=''):
    return upstream_config(w.address, top, routes='/slow', group='max_req_per_worker = 4\n') + \
        '[fast]\nroutes = *\nupstream = %s\n' % w.address


def test_slow_headers():
    """A byte now and then: 408 when the time for the head is over, however lively they are."""
    with AutoWorker() as w, Proxy(two_groups(w, 'header_timeout = 2s\n')) as p:
        start = time.monotonic()
        with Crowd(p, 500, START) as crowd:
            wait_for(lambda: connections(p) > 500)
            for _ in range(5):
                crowd.say(b'x')
                served(p, '/slow', 4)
                served(p, '/other', 4)
            done = crowd.ends(8)
            assert len(done) == 500 and all(data.startswith(b'HTTP/1.1 408 ') for data in done.values())
            assert 1.5 < time.monotonic() - start
            served(p, '/slow', 4)
        assert all(r.target in ('/slow', '/other') for r in w.requests)
        wait_for(lambda: connections(p) < 60)


def test_slow_uploads():
    """1,024 uploads of 255 KB that stall take no slot: everybody else is served, memory stays bounded, CPU idle."""
    size = 255_000
    with AutoWorker() as w, Proxy(two_groups(w, 'body_timeout = 60s\n')) as p:
        served(p, '/other', 2)
        before = memory(p)
        start = head('POST', '/slow/up', {'Content-Length': str(size)}) + b'x' * 4000
        with Crowd(p, 1024, start) as crowd:
            wait_for(lambda: metric(p, 'ldcorn_connections', state='body') == 1024)
            for s in crowd.socks:                        # as much of the rest as the kernels hold
                s.setblocking(False)
                try:
                    s.send(b'x' * (size - 4001))
                except BlockingIOError:
                    pass
            served(p, '/other')
            quiet(p)
            # a group of two: a quarter of the 256M is its own, and it may have the 96M of everybody
            assert metric(p, 'ldcorn_buffer_bytes') < 256 << 20
            assert memory(p) - before < 256 << 20
            assert p.group('web')['workers'][0]['in_flight'] == 0 and w.max_inside <= 5
            served(p, '/slow')
            served(p, '/other')
        wait_for(lambda: metric(p, 'ldcorn_connections', state='body') == 0)
        served(p, '/slow', 2)


# --- more clients than descriptors ---

def few():
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


@pytest.fixture
def poor():
    with AutoWorker() as w, Proxy(upstream_config(w.address, 'max_conns = 1000\n'), preexec=few) as p:
        p.w = w
        yield p


def test_200_clients_on_64_descriptors(poor):
    with Crowd(poor, 200, START) as crowd:
        wait_for(lambda: connections(poor) >= 60, what='all descriptors in use')
        quiet(poor)
        for s in crowd.socks:
            s.close()
        start = time.monotonic()
        served(poor, '/', 1)
        assert time.monotonic() - start < 1, 'resources were free for a second'
        served(poor, '/')
    assert metric(poor, 'ldcorn_in_flight') == 0


def test_idle_clients_make_room(poor):
    """A house full of idle keep-alive clients does not shut new ones out."""
    crowd = []
    try:
        for n in range(200):
            c = poor.connect(2)
            crowd.append(c)
            assert c.ask('GET', '/').body == b'ok', n
        open_now = [c for c in crowd if c.silent(0)]
        assert len(open_now) > 20 and open_now == crowd[-len(open_now):], 'the longest idle ones were closed'
        quiet(poor)
        served(poor, '/', 10)
    finally:
        for c in crowd:
            c.close()


def test_idle_clients_make_room_by_default():
    """The same with the `max_conns` that follows from the limit."""
    with AutoWorker() as w, Proxy(upstream_config(w.address), preexec=few) as p:
        with Crowd(p, 100) as crowd:
            for s in crowd.socks:
                s.settimeout(2)
                s.sendall(head('GET', '/'))
                served_one(s)
            served(p, '/', 10)
            quiet(p, 0.5)


# --- thousands that do nothing ---

def test_thousands_of_idle_and_half_open_connections():
    with machine.descriptors(8192, 5500):
        thousands()


def thousands():
    with AutoWorker() as w, Proxy(two_groups(w, 'header_timeout = 60s\nmax_conns = 6000\n')) as p:
        with Crowd(p, 1000) as silent, Crowd(p, 1000, b'GET / HTT') as begun, Crowd(p, 1000) as idle:
            for s in idle.socks:
                s.sendall(head('GET', '/'))
                served_one(s)
            wait_for(lambda: connections(p) > 3000)
            quiet(p)
            served(p, '/slow')
            served(p, '/other')
            for s in begun.socks[::7]:
                s.sendall(b'P/1.1\r\nHost: t\r\n\r\n')
                served_one(s)
            quiet(p, 0.5)
            assert silent.socks[0].fileno() >= 0
        wait_for(lambda: connections(p) < 60)


# --- peers that never read ---

def test_clients_that_never_read():
    """Each holds what is read ahead for it, and no more; then it is cut."""
    size = 8 << 20

    def big(r, c):
        return answer(b'x' * size) if r.target == '/slow/big' else OK
    with AutoWorker(big) as w, Proxy(two_groups(w, 'send_timeout = 2500ms\n').replace(
            'max_req_per_worker = 4', 'max_req_per_worker = 100')) as p:
        before = memory(p)
        with Crowd(p, 40, head('GET', '/slow/big')) as crowd:
            p.wait_status(lambda s: s['groups'][0]['workers'][0]['in_flight'] == 40)
            served(p, '/other')
            quiet(p)
            assert metric(p, 'ldcorn_buffer_bytes') <= 40 * (2 << 20)
            assert memory(p) - before < 160 << 20        # a sanitizer keeps what was freed for a while
            cut = [r for r in (p.wait_access(lambda r: r['reason'] == 'send_timeout'),) if r]
            assert cut and cut[0]['status'] == 200
            wait_for(lambda: sum(r['reason'] == 'send_timeout' for r in p.access()) == 40)
            done = crowd.ends(30)
            assert len(done) == 40 and all(0 < len(data) < size for data in done.values())
        p.wait_status(lambda s: s['groups'][0]['workers'][0]['in_flight'] == 0)


def moves(p):
    """Are requests still answered?"""
    before = metric(p, 'ldcorn_requests_total')
    time.sleep(0.3)
    return metric(p, 'ldcorn_requests_total') != before


def test_clients_that_never_read_pipelined_answers():
    """Requests without end, and nobody takes the answers."""
    with AutoWorker() as w, Proxy(two_groups(w, 'send_timeout = 60s\n')) as p:
        before = memory(p)
        with p.connect() as c:
            c.send_some(head('GET', '/other') * 400_000, 0.5)
            served(p, '/other')
            assert metric(p, 'ldcorn_buffer_bytes') < 1 << 20
            assert memory(p) - before < 72 << 20         # a sanitizer keeps what was freed for a while
            wait_for(lambda: not moves(p) and not moves(p), 60)      # until the kernels hold all they take
            quiet(p, 0.5)


def test_a_worker_that_never_reads():
    size = 32 << 20
    with socket.socket() as deaf:
        deaf.bind(('127.0.0.1', 0))
        deaf.listen(512)
        config = upstream_config('127.0.0.1:%d' % deaf.getsockname()[1], 'body_timeout = 60s\nshutdown_timeout = 1s\n')
        with AutoWorker() as w, Proxy(config.replace('routes = *', 'routes = /deaf') +
                                      '[fast]\nroutes = *\nupstream = %s\n' % w.address) as p:
            before = memory(p)
            with Crowd(p, 4, head('POST', '/deaf', {'Content-Length': str(size)})) as crowd:
                for s in crowd.socks:
                    s.setblocking(False)
                sent = {s: 0 for s in crowd.socks}
                still = time.monotonic()
                while time.monotonic() - still < 0.3:    # until nobody takes a byte
                    for s in crowd.socks:
                        try:
                            sent[s] += s.send(b'x' * 65536)
                            still = time.monotonic()
                        except BlockingIOError:
                            pass
                assert all(n < size for n in sent.values())
                served(p, '/fast')
                quiet(p)
                assert memory(p) - before < 72 << 20
