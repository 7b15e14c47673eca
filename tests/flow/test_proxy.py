"""One request and its answer on their way through, seen byte by byte from both ends."""
import array, contextlib, fcntl, hashlib, os, re, signal, socket, termios, threading, time

import pytest
from harness import (AutoWorker, Client, FakeWorker, Proxy, answer, free_port, head, request, upstream_config,
                     wait_for)
from procs import metric

OK = answer(b'ok')
CHUNKED = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n'
# What the proxy itself writes on the way to a worker. X-Request-Start and Via are checked by their form.
OWN = {'x-forwarded-for', 'x-forwarded-proto', 'x-forwarded-host', 'x-real-ip', 'x-request-id', 'x-request-start',
       'via', 'connection'}


def foreign(message):
    """The fields that came from the other end."""
    return [(n, v) for n, v in message.headers if n.lower() not in OWN]


class Pair:
    """A worker in the test's hands and a proxy before it."""

    def __init__(self, top='', group='', unix=False, **kw):
        self.worker = FakeWorker(unix=unix)
        self.proxy = Proxy(upstream_config(self.worker.address, top, group), **kw)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        try:
            self.proxy.__exit__(*exc)
        finally:
            self.worker.close()

    def connect(self):
        return self.proxy.connect()

    def start(self, data, client=None):
        """Send bytes from a (new) client and meet them at the worker: -> (client, request head, worker's end)."""
        c = (client or self.connect()).send(data)
        conn = self.worker.accept()
        return c, conn.read_head(), conn


_shared = {}


@pytest.fixture(scope='module', autouse=True)
def _end_of_shared():
    yield
    for pair in _shared.values():
        pair.__exit__(None, None, None)
    _shared.clear()


def shared(top='', group=''):
    """A fixture: one Pair for all its tests, each of which begins with an empty worker. Nothing is
    parked between requests, so every one comes on a connection of its own."""
    @pytest.fixture
    def fixture():
        if (top, group) not in _shared:
            _shared[top, group] = Pair(top, 'worker_keepalive = 0\n' + group)
        _shared[top, group].worker.drain()
        return _shared[top, group]
    return fixture


pair = shared()
chain = shared('trusted_proxies = 127.0.0.1 10.0.0.0/8 2001:db8::/32\n')
limited = shared('max_header = 4K\n', 'max_body = 1000\n')
# Times that a busy machine does not pass by itself between two steps of a test.
hasty = shared('header_timeout = 1s\nbody_timeout = 1s\nkeepalive_timeout = 1s\nsend_timeout = 1s\n', 'response_timeout = 1s\n')


# --- keep-alive ---

KEPT = 'worker_keepalive = 60s\n'                # so long that no busy machine ends it between two steps of a test


def test_keepalive_on_both_sides():
    with Pair(group=KEPT) as p, p.connect() as c:
        c.send(head('GET', '/0'))
        req, conn = p.worker.one(OK)
        assert c.read_response().raw == OK and req.target == '/0' and req.version == 'HTTP/1.1'
        for n in range(1, 20):
            c.send(head('POST', '/%d' % n, body=b'x' * n) if n % 2 else head('GET', '/%d' % n))
            req = conn.read_request()
            assert req.target == '/%d' % n and req.body == (b'x' * n if n % 2 else b'')
            conn.send(answer(b'answer %d' % n))
            assert c.read_response().raw == answer(b'answer %d' % n)
        assert p.worker.no_connection(0.05)


def test_worker_connections_are_shared_by_clients():
    with Pair(group=KEPT) as p:
        with p.connect() as c:
            c.send(head('GET', '/'))
            _, conn = p.worker.one(OK)
            c.read_response()
        with p.connect() as c:
            c.send(head('GET', '/again'))
            assert conn.read_request().target == '/again'
            conn.send(OK)
            assert c.read_response().body == b'ok'


def test_parked_worker_connection_is_closed_in_time():
    with Pair(group='worker_keepalive = 200ms\n') as p, p.connect() as c:
        c.send(head('GET', '/'))
        start = time.monotonic()                 # before the answer, with which its time begins
        _, conn = p.worker.one(OK)
        c.read_response()
        assert conn.eof() and 0.15 < time.monotonic() - start < 5


def test_worker_keepalive_0_is_one_request_each(pair):
    with pair.connect() as c:
        for _ in range(2):
            c.send(head('GET', '/'))
            req, conn = pair.worker.one(OK)
            assert c.read_response().raw == OK
            assert conn.eof()


@pytest.mark.parametrize('data', [
    b'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok',
    b'HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 2\r\n\r\nok',
    b'HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok'])
def test_worker_that_closes_is_not_reused_and_the_client_is_kept(data):
    with Pair() as p, p.connect() as c:
        for _ in range(2):
            c.send(head('GET', '/'))
            _, conn = p.worker.one(data)
            r = c.read_response()
            assert (r.version, r.status, r.body, r.complete) == ('HTTP/1.1', 200, b'ok', True)
            assert 'close' not in (r.get('connection') or '').lower()
            assert conn.eof()


def test_client_that_wants_to_close(pair):
    with pair.connect() as c:
        c.send(head('GET', '/', {'Connection': 'close'}))
        pair.worker.one(OK)
        r = c.read_response()
        assert r.body == b'ok' and r.get('connection').lower() == 'close' and c.eof()


def test_pipelining(pair):
    with pair.connect() as c:
        c.send(head('GET', '/1') + head('POST', '/2', body=b'body of 2') + head('GET', '/3'))
        conns = []
        for n, body in ((1, b''), (2, b'body of 2'), (3, b'')):
            req, conn = pair.worker.one()
            assert (req.target, req.body) == ('/%d' % n, body)
            assert pair.worker.no_connection(0.05), 'the next one waits for this one\'s answer'
            conn.send(answer(b'%d' % n))
            conns.append(conn)
        assert [c.read_response().body for _ in range(3)] == [b'1', b'2', b'3']


def test_many_pipelined_requests_in_one_write():
    with AutoWorker(lambda r, c: answer(r.target)) as w, Proxy(upstream_config(w.address)) as p, p.connect() as c:
        c.send(b''.join(head('GET', '/%d' % n) for n in range(300)))
        assert [c.read_response().body for _ in range(300)] == [b'/%d' % n for n in range(300)]
        assert w.max_inside == 1


def test_a_request_byte_by_byte(pair):
    with pair.connect() as c:
        for byte in head('POST', '/slow', {'X-Y': 'z'}, b'body'):
            c.send(bytes([byte]))
        req, _ = pair.worker.one(OK)
        assert (req.target, req.get('x-y'), req.body) == ('/slow', 'z', b'body')
        assert c.read_response().body == b'ok'


def test_an_answer_byte_by_byte(pair):
    with pair.connect() as c:
        c.send(head('GET', '/'))
        _, conn = pair.worker.one()
        for byte in CHUNKED + b'5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n':
            conn.send(bytes([byte]))
        r = c.read_response()
        assert r.body == b'hello!' and r.complete


# --- bodies ---

def test_request_body_by_length_is_passed_as_it_comes(pair):
    c, req, conn = pair.start(b'PUT /f HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\nfirst')
    with c:
        assert req.get('content-length') == '10' and req.get('transfer-encoding') is None
        assert conn.read_exact(5) == b'first'
        assert conn.silent(0.05)
        c.send(b' rest')
        assert conn.read_exact(5) == b' rest'
        conn.send(OK)
        assert c.read_response().raw == OK


def test_chunked_request_body_is_passed_as_it_comes(pair):
    c, req, conn = pair.start(b'POST /f HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: Chunked\r\n\r\n5;ext="1"\r\nfirst\r\n')
    with c:
        assert req.get('transfer-encoding') == 'chunked' and req.get('content-length') is None
        assert conn.read_until(b'first') == b'5\r\nfirst', 'framing is written anew, without the extension'
        c.send(b'000A\r\nsecond par')
        conn.peek_until(b'second par')
        c.send(b'\r\n0\r\nTrailer-Field: dropped\r\n\r\n')
        assert conn.read_until(b'\r\n0\r\n\r\n').startswith(b'\r\n')
        conn.send(OK)
        assert c.read_response().raw == OK


@pytest.mark.parametrize('body, sent', [(b'', 'Content-Length: 0\r\n\r\n'), (b'abc', 'Content-Length: 0003\r\n\r\nabc')])
def test_small_lengths(pair, body, sent):
    with pair.connect() as c:
        c.send('POST / HTTP/1.1\r\nHost: t\r\n' + sent)
        req, _ = pair.worker.one(OK)
        assert req.body == body and req.get('content-length') == str(len(body))
        assert c.read_response().body == b'ok'


def test_large_bodies_arrive_unchanged_in_every_framing():
    data = os.urandom(1 << 20) * 6
    chunked = b''.join(b'%x\r\n%s\r\n' % (len(data[i:i + 70001]), data[i:i + 70001])
                       for i in range(0, len(data), 70001)) + b'0\r\n\r\n'

    def handler(req, conn):
        digest = ('X-Digest', hashlib.sha256(req.body).hexdigest())
        if req.target == '/length':
            return answer(data, headers=[digest])
        start = 'HTTP/1.1 200 OK\r\nX-Digest: %s\r\n' % digest[1]
        if req.target == '/chunked':
            return (start + 'Transfer-Encoding: chunked\r\n\r\n').encode() + chunked
        conn.send((start + '\r\n').encode() + data)
    want = hashlib.sha256(data).hexdigest()
    with AutoWorker(handler) as w, Proxy(upstream_config(w.address)) as p:
        for down in ('/length', '/chunked', '/close'):
            for fields, body in (((), data), ([('Transfer-Encoding', 'chunked')], chunked)):
                with p.connect() as c:
                    # Written from a thread: the answer may begin before the body is in.
                    t = threading.Thread(target=c.send, args=(head('POST', down, fields, body),))
                    t.start()
                    r = c.read_response()
                    t.join()
                assert r.complete and r.body == data and r.get('x-digest') == want, (down, fields)


@pytest.mark.parametrize('unix', (False, True))
def test_long_bodies_stay_apart_when_others_are_cut(unix):
    """Long bodies may pass through a pipe that all share: what one peer did not take is no other's."""
    size, turns = 3 << 20, 12

    def body(name):
        return (name.encode() * (size // len(name) + 1))[:size]

    def handler(req, conn):
        name = req.target[1:]
        return answer(body(name) if name.startswith('down') else str(req.body == body(name)).encode())

    def rude(p, n):
        for i in range(turns):
            with p.connect() as c:
                if i % 2:
                    c.send(head('GET', '/down-rude-%d-%d' % (n, i)))
                    c.read_exact(1 + i * 50000)
                else:
                    c.send(head('POST', '/up-rude', [], body('up-rude'))[:size // 2])
                c.rst()

    def steady(p, n, wrong):
        with p.connect() as c:
            for i in range(turns):
                name = '%s-steady-%d-%d' % ('up' if i % 2 else 'down', n, i)
                c.send(head('POST', '/' + name, [], body(name)) if i % 2 else head('GET', '/' + name))
                r = c.read_response()
                if not r.complete or r.body != (b'True' if i % 2 else body(name)):
                    wrong.append(name)

    wrong = []
    with AutoWorker(handler, unix=unix) as w, Proxy(upstream_config(w.address)) as p:
        threads = [threading.Thread(target=rude, args=(p, n)) for n in range(2)]
        threads += [threading.Thread(target=steady, args=(p, n, wrong)) for n in range(3)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert not wrong


def test_answer_until_close(pair):
    with pair.connect() as c:
        c.send(head('GET', '/'))
        _, conn = pair.worker.one(b'HTTP/1.1 200 OK\r\nX-A: b\r\n\r\nsome')
        conn.send(b' bytes')
        conn.close()
        r = c.read_response()
        assert (r.body, r.complete, r.get('x-a')) == (b'some bytes', True, 'b')


def test_chunked_answer_to_http_1_0_is_decoded(pair):
    with pair.connect() as c:
        c.send(b'GET / HTTP/1.0\r\nHost: t\r\n\r\n')
        pair.worker.one(CHUNKED + b'5\r\nhello\r\n0\r\nT: x\r\n\r\n')
        r = c.read_response()
        assert (r.framing, r.body, r.complete, r.version) == ('close', b'hello', True, 'HTTP/1.1')


def test_http_1_0_client_is_closed_after_the_answer(pair):
    with pair.connect() as c:
        c.send(b'GET /old HTTP/1.0\r\n\r\n')
        req, _ = pair.worker.one(OK)
        assert (req.version, req.target) == ('HTTP/1.1', '/old')
        assert c.read_response().body == b'ok' and c.eof()


def test_each_piece_of_an_answer_is_passed_at_once(pair):
    with pair.connect() as c:
        c.send(head('GET', '/events'))
        _, conn = pair.worker.one(b'HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n'
                                  b'Transfer-Encoding: chunked\r\n\r\n')
        assert b'text/event-stream' in c.read_until(b'\r\n\r\n')
        for n in range(5):
            conn.send(b'8\r\ndata: %d\n\r\n' % n)
            assert b'data: %d\n' % n in c.read_until(b'%d\n' % n)
        conn.send(b'0\r\n\r\n')
        assert c.read_until(b'0\r\n\r\n')


@pytest.mark.parametrize('start', [b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello', CHUNKED + b'5\r\nhello\r\n',
                                   CHUNKED + b'9\r\nhello', CHUNKED + b'5\r\nhello\r\n0\r\n'])
@pytest.mark.parametrize('end', ['close', 'rst'])
def test_an_answer_that_is_cut_looks_cut(pair, start, end):
    with pair.connect() as c:
        c.send(head('GET', '/'))
        _, conn = pair.worker.one(start)
        c.peek_until(b'hello')
        getattr(conn, end)()
        r = c.read_response()
        assert r.body.startswith(b'hello') and not r.complete and r.closed


def test_a_cut_answer_to_http_1_0_ends_with_a_reset(pair):
    with pair.connect() as c:
        c.send(b'GET / HTTP/1.0\r\n\r\n')
        _, conn = pair.worker.one(CHUNKED + b'5\r\nhello\r\n')
        assert c.read_until(b'hello').endswith(b'hello')
        conn.close()
        assert c.eof() and c.was_reset


@pytest.mark.parametrize('end', ['close', 'rst'])
@pytest.mark.parametrize('sent', [b'', b'HTTP/1.1 200 OK\r\nContent-Le'])
def test_worker_that_ends_before_its_head_is_a_502(pair, end, sent):
    with pair.connect() as c:
        c.send(head('POST', '/', body=b'x'))
        _, conn = pair.worker.one(sent)
        getattr(conn, end)()
        r = c.read_response()
        assert r.status == 502 and r.complete and r.get('x-request-id')


def test_back_pressure_from_a_client_that_does_not_read(pair):
    with pair.connect() as c:
        c.send(head('GET', '/'))
        size = 96 << 20                          # kernels may hold 32M for each receiver
        _, conn = pair.worker.one(b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n' % size)
        sent = conn.send_some(b'x' * size)
        assert sent < size // 4 * 3, 'the proxy reads what nobody takes'
        t = threading.Thread(target=conn.send, args=(b'x' * (size - sent),))
        t.start()
        r = c.read_response()
        t.join()
        assert r.complete and len(r.body) == size


def test_back_pressure_from_a_worker_that_does_not_read(pair):
    size = 60 << 20                              # of the 64M that max_body allows
    c, req, conn = pair.start(b'POST / HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n' % size)
    with c:
        sent = c.send_some(b'x' * size)
        assert sent < size // 4 * 3
        t = threading.Thread(target=c.send, args=(b'x' * (size - sent),))
        t.start()
        assert len(conn.read_exact(size, 30)) == size
        t.join()
        conn.send(OK)
        assert c.read_response().raw == OK


# --- answers without a body ---

@pytest.mark.parametrize('method, data', [
    ('HEAD', b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: 1\r\n\r\n'),
    ('HEAD', b'HTTP/1.1 200 OK\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n'),
    ('HEAD', b'HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\n'),
    ('GET', b'HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n'),
    ('GET', b'HTTP/1.1 304 Not Modified\r\nX-A: 1\r\nETag: "x"\r\n\r\n'),
    ('GET', b'HTTP/1.1 304 Not Modified\r\nX-A: 1\r\nContent-Length: 1234\r\n\r\n')])
def test_answers_without_a_body(method, data):
    with Pair(group=KEPT) as p, p.connect() as c:
        c.send(head(method, '/'))
        req, conn = p.worker.one(data)
        r = c.read_response(method)
        assert req.method == method and r.get('x-a') == '1' and r.body == b''
        if b'Content-Length' in data:
            assert r.get('content-length') == re.search(rb'Length: (\d+)', data).group(1).decode()
        # Both connections go on, so neither end waits for a body.
        c.send(head('GET', '/next'))
        assert conn.read_request().target == '/next'
        conn.send(OK)
        assert c.read_response().raw == OK


@pytest.mark.parametrize('method, data', [
    ('HEAD', b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello'),
    ('GET', b'HTTP/1.1 204 No Content\r\n\r\nhello'), ('GET', b'HTTP/1.1 304 Not Modified\r\n\r\nhello'),
    ('GET', OK + b'surplus'), ('GET', OK + OK), ('GET', CHUNKED + b'0\r\n\r\nX')])
def test_surplus_bytes_end_the_workers_connection(method, data):
    with Pair() as p, p.connect() as c:
        c.send(head(method, '/'))
        _, conn = p.worker.one(data)
        r = c.read_response(method)
        assert r.complete and b'hello' not in r.body and b'surplus' not in r.raw
        assert conn.eof()
        c.send(head('GET', '/next'))
        p.worker.one(answer(b'clean'))
        assert c.read_response().body == b'clean'


# --- 1xx and Expect ---

def test_early_hints_are_passed(pair):
    with pair.connect() as c:
        c.send(head('GET', '/'))
        _, conn = pair.worker.one(b'HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n')
        assert c.read_until(b'\r\n\r\n') == b'HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n'
        conn.send(b'HTTP/1.1 102 Processing\r\n\r\n' + OK)
        r = c.read_response()
        assert [i.status for i in r.interim] == [102] and r.body == b'ok'


LARGE = 'listen = unix:{dir}/c\nmax_header = 64K\n'


def unread(sock):
    """Bytes of a unix connection that the other end has not read."""
    n = array.array('i', [0])
    fcntl.ioctl(sock, termios.TIOCOUTQ, n)
    return n[0]


def large_hints(n):
    return n * (b'HTTP/1.1 103 Early Hints\r\nLink: </%s>\r\n\r\n' % (b'x' * 30_000))


def behind_large_hints(p):
    """A client that has not taken a byte of what is more than its socket holds. -> client, connection at the worker."""
    c = Client('unix:%s/c' % p.proxy.dir)
    c.send(head('GET', '/'))
    _, conn = p.worker.one(large_hints(10))
    wait_for(lambda: unread(conn.sock) == 0)
    return c, conn


def test_the_rest_of_a_1xx_does_not_wait_for_the_answer():
    with Pair(LARGE, unix=True) as p:
        c, conn = behind_large_hints(p)
        with c:
            for _ in range(10):
                assert c.read_until(b'\r\n\r\n') == large_hints(1)
            conn.send(OK)
            assert c.read_response().raw == OK


def test_our_own_answer_stands_behind_a_1xx():
    with Pair(LARGE, 'run_timeout = 1s\n', unix=True) as p:
        c, _ = behind_large_hints(p)
        with c:
            wait_for(lambda: metric(p.proxy, 'ldcorn_worker_errors_total', kind='timeout'))
            for _ in range(10):
                assert c.read_until(b'\r\n\r\n') == large_hints(1)
            assert c.read_response().status == 504


def test_no_1xx_to_http_1_0(pair):
    with pair.connect() as c:
        c.send(b'GET / HTTP/1.0\r\n\r\n')
        pair.worker.one(b'HTTP/1.1 103 Early Hints\r\n\r\n' + OK)
        r = c.read_response()
        assert r.status == 200 and r.interim == []


def test_expect_is_passed_on_and_answered_by_the_worker(pair):
    c, req, conn = pair.start(head('POST', '/', {'Expect': '100-continue', 'Content-Length': '4'}))
    with c:
        assert req.get('expect').lower() == '100-continue' and c.silent(0.05)
        conn.send(b'HTTP/1.1 100 Continue\r\n\r\n')
        assert c.read_until(b'\r\n\r\n') == b'HTTP/1.1 100 Continue\r\n\r\n'
        c.send(b'body')
        assert conn.read_exact(4) == b'body'
        conn.send(OK)
        assert c.read_response().raw == OK


def test_expect_refused_by_the_worker(pair):
    c, req, conn = pair.start(head('POST', '/', {'Expect': '100-continue', 'Content-Length': '4'}))
    with c:
        conn.send(answer(b'no', '403 Forbidden'))
        r = c.read_response()
        assert r.status == 403 and r.body == b'no' and r.interim == []
        assert c.eof() and conn.eof(), 'nobody can know whether the body still comes'


def test_http_1_0_expect_is_ignored(pair):
    c, req, conn = pair.start(b'POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\nbody')
    with c:
        assert req.get('expect') is None and conn.read_exact(4) == b'body'
        conn.send(OK)
        assert c.read_response().raw.endswith(b'ok')


def test_an_answer_before_the_body_is_in(pair):
    c, req, conn = pair.start(b'POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\n\r\nsome')
    with c:
        conn.send(answer(b'too much', '413 Payload Too Large'))
        r = c.read_response()
        assert r.status == 413 and r.body == b'too much'
        assert c.eof()
        conn.read_exact(4)
        assert conn.eof()


# --- upgrades ---

KEY = 'dGhlIHNhbXBsZSBub25jZQ=='
WS = {'Connection': 'Upgrade', 'Upgrade': 'websocket', 'Sec-WebSocket-Key': KEY}
SWITCH = b'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: y\r\n\r\n'


def tunnel(pair, early=b'', behind=b''):
    """A tunnel, with bytes of the client behind its request and of the worker behind its 101."""
    c, req, conn = pair.start(head('GET', '/ws', WS) + early)
    assert req.get('upgrade') == 'websocket' and 'upgrade' in req.get('connection').lower()
    assert req.get('sec-websocket-key') == KEY
    if early:
        assert conn.silent(0.1), 'bytes behind the request wait for the final status'
    conn.send(SWITCH + behind)
    r = c.read_response()
    assert r.status == 101 and r.get('upgrade') == 'websocket' and r.get('connection').lower() == 'upgrade'
    assert r.get('sec-websocket-accept') == 'y'
    return c, conn


def test_tunnel_carries_bytes_both_ways(pair):
    c, conn = tunnel(pair, early=b'client first', behind=b'worker first')
    with c:
        assert c.read_exact(12) == b'worker first' and conn.read_exact(12) == b'client first'
        for n in range(20):
            c.send(b'ping %02d' % n)
            assert conn.read_exact(7) == b'ping %02d' % n
            conn.send(b'\0\xff%02d' % n)
            assert c.read_exact(4) == b'\0\xff%02d' % n
        data = os.urandom(3 << 20)
        t = threading.Thread(target=conn.send, args=(data,))
        t.start()
        assert c.read_exact(len(data)) == data
        t.join()


def test_tunnel_ends_each_direction_on_its_own(pair):
    c, conn = tunnel(pair)
    with c:
        c.send(b'last words').fin()
        assert conn.read_all() == b'last words', 'the client\'s FIN arrives'
        conn.send(b'answer to them')
        assert c.read_exact(14) == b'answer to them'
        conn.close()
        assert c.eof()
    c, conn = tunnel(pair)
    with c:
        conn.send(b'bye').fin()
        assert c.read_all() == b'bye'
        c.send(b'still here')
        assert conn.read_exact(10) == b'still here'
        c.close()
        assert conn.eof()


@pytest.mark.parametrize('end', ['close', 'rst'])
def test_tunnel_whose_end_vanishes(pair, end):
    c, conn = tunnel(pair)
    getattr(c, end)()
    assert conn.eof()
    if end == 'close':
        conn.close()
    c, conn = tunnel(pair)
    with c:
        getattr(conn, end)()
        assert c.eof()


def test_upgrade_that_is_declined(pair):
    c, _, conn = pair.start(head('GET', '/ws', WS) + b'frames')
    with c:
        conn.send(answer(b'no', '426 Upgrade Required'))
        assert c.read_response().status == 426
        assert c.eof() and conn.read_all() == b'', 'the bytes behind are nobody\'s'


# --- fields ---

def test_hop_by_hop_fields_of_the_request(pair):
    with pair.connect() as c:
        c.send(head('POST', '/', [
            ('Host', 'a.example:81'), ('Connection', 'keep-alive, X-Hop, Host, Content-Length, X-Real-IP, X-Request-Id'),
            ('Keep-Alive', 'timeout=5'), ('X-Hop', '1'), ('x-HOP', '2'), ('Proxy-Connection', 'keep-alive'),
            ('Proxy-Authorization', 'Basic x'), ('TE', 'trailers'), ('Trailer', 'X'), ('Proxy', 'http://evil/'),
            ('Upgrade', 'websocket'), ('X_Under', 'score'), ('Content_Length', '9'), ('X-Stay', 'a'), ('x-stay', 'b'),
            ('X-Empty', ''), ('X-Utf', '\xc3\xa4'), ('X-Tab', 'a\tb'), ('Authorization', 'Basic y'),
            ('traceparent', '00-1-2-3')], b'body'))
        req, _ = pair.worker.one(OK)
        c.read_response()
        assert sorted(foreign(req)) == sorted([
            ('Host', 'a.example:81'), ('X-Stay', 'a'), ('x-stay', 'b'), ('X-Empty', ''), ('X-Utf', '\xc3\xa4'),
            ('X-Tab', 'a\tb'), ('Authorization', 'Basic y'), ('traceparent', '00-1-2-3'), ('Content-Length', '4')])
        assert req.body == b'body' and req.get('x-real-ip') == '127.0.0.1' and req.get('x-request-id')


def test_hop_by_hop_fields_of_the_answer(pair):
    with pair.connect() as c:
        c.send(head('GET', '/'))
        pair.worker.one(b'HTTP/1.1 299 Odd  Reason\r\nServer: w\r\nConnection: X-Hop, keep-alive, Content-Length\r\n'
                        b'Keep-Alive: timeout=5\r\nX-Hop: 1\r\nProxy-Connection: x\r\nTrailer: X\r\nSet-Cookie: a=1\r\n'
                        b'Set-Cookie: b=2\r\nX_Under: score\r\nDate: d\r\nX-Utf: \xc3\xa4\r\nContent-Length: 2\r\n\r\nok')
        r = c.read_response()
        assert (r.status, r.reason, r.body) == (299, 'Odd  Reason', b'ok')
        assert [f for f in r.headers if f[0].lower() != 'connection'] == [
            ('Server', 'w'), ('Set-Cookie', 'a=1'), ('Set-Cookie', 'b=2'), ('X_Under', 'score'), ('Date', 'd'),
            ('X-Utf', '\xc3\xa4'), ('Content-Length', '2')]


def test_an_empty_reason_is_passed(pair):
    with pair.connect() as c:
        c.send(head('GET', '/'))
        pair.worker.one(b'HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok')
        r = c.read_response()
        assert (r.status, r.reason, r.body) == (200, '', b'ok')


def fields_seen(pair, fields):
    with pair.connect() as c:
        c.send(head('GET', '/', fields))
        req, _ = pair.worker.one(OK)
        c.read_response()
        return req


def test_fields_to_the_worker(pair):
    before = time.time() * 1000
    req = fields_seen(pair, {'Host': 'shop.example:8080'})
    after = time.time() * 1000
    assert foreign(req) == [('Host', 'shop.example:8080')]
    assert req.get('x-forwarded-for') == '127.0.0.1' and req.get('x-real-ip') == '127.0.0.1'
    assert req.get('x-forwarded-proto') == 'http' and req.get('x-forwarded-host') == 'shop.example:8080'
    assert re.fullmatch(r'[0-9A-Za-z._-]{8,}', req.get('x-request-id'))
    start = int(re.fullmatch(r't=(\d+)', req.get('x-request-start')).group(1))
    assert before - 100 <= start <= after + 100
    assert re.fullmatch(r'1\.1 \S+', req.get('via'))


def test_request_ids_differ(pair):
    assert len({fields_seen(pair, {}).get('x-request-id') for _ in range(5)}) == 5


def test_http_1_0_gets_a_host_and_its_version_in_via(pair):
    with pair.connect() as c:
        c.send(b'GET / HTTP/1.0\r\n\r\n')
        req, _ = pair.worker.one(OK)
        assert req.get('host') == '127.0.0.1:%d' % pair.proxy.port and req.get('via').startswith('1.0 ')


def test_via_is_appended_to(pair):
    req = fields_seen(pair, {'Via': '1.0 fred, 1.1 p.example'})
    assert re.fullmatch(r'1\.0 fred, 1\.1 p\.example, 1\.1 \S+', ', '.join(req.all('via')))


SPOOFED = [('X-Forwarded-For', '203.0.113.9'), ('X-Forwarded-Proto', 'https'), ('X-Forwarded-Host', 'evil.example'),
           ('X-Forwarded-Port', '99'), ('X-Forwarded-Prefix', '/p'), ('X-Real-IP', '203.0.113.9'),
           ('X-Request-Id', 'given-id-1234'), ('X-Request-Start', 't=1'), ('Forwarded', 'for=203.0.113.9'),
           ('X-Original-URL', '/admin'), ('X-Rewrite-URL', '/admin')]


def test_peers_that_are_not_trusted_are_not_believed():
    with Pair('trusted_proxies = none\n', 'worker_keepalive = 0\n') as p:
        for _ in range(3):
            req = fields_seen(p, SPOOFED)
            assert foreign(req) == [('Host', 'test')]
            assert [req.get(n) for n in ('x-forwarded-for', 'x-real-ip', 'x-forwarded-proto', 'x-forwarded-host')] == \
                ['127.0.0.1', '127.0.0.1', 'http', 'test']
            assert req.get('x-request-id') != 'given-id-1234' and req.get('x-request-start') != 't=1'
        lines = [line for line in p.proxy.log().splitlines() if 'trusted_proxies' in line]
        assert len(lines) == 1 and '127.0.0.1' in lines[0], 'reported once, with the line to write'


def test_trusted_peers_are_believed(pair):
    """Loopback is trusted where all listeners are on it."""
    req = fields_seen(pair, SPOOFED)
    assert req.get('x-forwarded-for').replace(' ', '') == '203.0.113.9,127.0.0.1'
    assert [req.get(n) for n in ('x-real-ip', 'x-forwarded-proto', 'x-forwarded-host', 'x-request-id')] == \
        ['203.0.113.9', 'https', 'evil.example', 'given-id-1234']


@pytest.mark.parametrize('sent, client', [
    (None, '127.0.0.1'),
    ('198.51.100.1', '198.51.100.1'),
    ('1.1.1.1, 198.51.100.1', '198.51.100.1'),
    ('1.1.1.1, 198.51.100.1, 10.0.0.5', '198.51.100.1'),
    ('1.1.1.1,198.51.100.1 ,\t10.9.9.9,10.0.0.5', '198.51.100.1'),
    ('10.0.0.7, 10.0.0.5', '10.0.0.7'),
    ('1.1.1.1, junk, 10.0.0.5', '10.0.0.5'),                # a malformed element ends the walk
    ('1.1.1.1, junk', '127.0.0.1'),
    ('1.1.1.1, 1.2.3.256, 10.0.0.5', '10.0.0.5'),
    ('2001:db8:1::7', '2001:db8:1::7'), ('2a00::1, 2001:db8::2', '2a00::1'),
    ('1.1.1.1, ' + ', '.join(['10.0.0.1'] * 20), '1.1.1.1'),
    ('1.1.1.1, ' + ', '.join(['10.0.0.1'] * 32), '10.0.0.1'),   # at most 32 back
])
def test_client_address(chain, sent, client):
    req = fields_seen(chain, {'X-Forwarded-For': sent} if sent else {})
    assert req.get('x-real-ip') == client
    assert re.sub(r'\s', '', ','.join(req.all('x-forwarded-for'))).endswith('127.0.0.1')


def test_client_address_over_several_lines(chain):
    req = fields_seen(chain, [('X-Forwarded-For', '1.1.1.1, 198.51.100.1'), ('X-Forwarded-For', '10.0.0.5')])
    assert req.get('x-real-ip') == '198.51.100.1'


# --- listeners ---

@pytest.mark.parametrize('loopback', ['127.0.0.1', '::1'], ids=['IPv4', 'IPv6'])
def test_several_listeners(loopback):
    other, six = free_port(), free_port(loopback)
    shown = '[::1]' if ':' in loopback else loopback
    top = 'listen = 127.0.0.1:%d %s:%d\nlisten = unix:{dir}/pub.sock mode=0640\n' % (other, shown, six)
    with Pair(top, 'worker_keepalive = 0\n') as p:
        path = p.proxy.dir + '/pub.sock'
        assert os.stat(path).st_mode & 0o777 == 0o640
        for address, peer, host in ((p.proxy.address, '127.0.0.1', '127.0.0.1:%d' % p.proxy.port),
                                    (('127.0.0.1', other), '127.0.0.1', '127.0.0.1:%d' % other),
                                    ((loopback, six), loopback, '%s:%d' % (shown, six)), ('unix:' + path, None, 'localhost')):
            with Client(address) as c:
                c.send(b'GET /x HTTP/1.0\r\n\r\n')
                req, _ = p.worker.one(OK)
                assert c.read_response().body == b'ok'
                assert req.get('host') == host
                assert req.get('x-real-ip') == peer, 'a unix peer has no address'
        p.proxy.stop()
        assert not os.path.exists(path), 'what it made is removed at the end'


def test_worker_on_a_unix_socket():
    with Pair(unix=True) as p:
        with p.connect() as c:
            c.send(head('POST', '/', body=b'x' * 100000))
            req, _ = p.worker.one(OK)
            assert len(req.body) == 100000 and c.read_response().raw == OK


# --- limits ---

def refusal(pair, data, status):
    """The answer that refuses, after which the connection ends and nothing has reached the worker."""
    with pair.connect() as c:
        c.send(data)
        r = c.read_response()
        assert r.status == status and r.get('connection').lower() == 'close' and c.eof()
        assert pair.worker.no_connection(0.03)
        return r


def test_max_body_by_length(limited):
    with limited.connect() as c:
        c.send(head('POST', '/', body=b'x' * 1000))
        req, _ = limited.worker.one(OK)
        assert len(req.body) == 1000 and c.read_response().raw == OK
    refusal(limited, head('POST', '/', body=b'x' * 1001), 413)
    refusal(limited, head('POST', '/', {'Content-Length': '1001', 'Expect': '100-continue'}), 413)


def test_max_body_chunked(limited):
    with limited.connect() as c:
        c.send(head('POST', '/', {'Transfer-Encoding': 'chunked'}, b'3e8\r\n' + b'x' * 1000 + b'\r\n0\r\n\r\n'))
        limited.worker.one(OK)
        assert c.read_response().raw == OK
        c.send(head('POST', '/', {'Transfer-Encoding': 'chunked'}, b'3e8\r\n' + b'x' * 1000 + b'\r\n1\r\nx\r\n0\r\n\r\n'))
        assert c.read_response().status == 413 and c.eof()


def test_the_answer_to_a_huge_body_is_still_readable(limited):
    with limited.connect() as c:
        c.send(head('POST', '/', {'Content-Length': '3000000'}))
        c.send_some(b'x' * 300000)
        assert c.read_response().status == 413


def test_max_header(limited):
    fits = head('GET', '/', {'X': 'y' * 3900})
    with limited.connect() as c:
        c.send(fits)
        limited.worker.one(OK)
        assert c.read_response().raw == OK
    refusal(limited, head('GET', '/' + 'x' * 4200), 414)
    refusal(limited, head('GET', '/', {'X': 'y' * 4200}), 431)
    refusal(limited, head('GET', '/', {'X-%d' % i: 'y' * 100 for i in range(60)}), 431)


def test_at_most_100_fields(limited):
    with limited.connect() as c:
        c.send(head('GET', '/', {'X%d' % i: '' for i in range(99)}))
        limited.worker.one(OK)
        assert c.read_response().raw == OK
    refusal(limited, head('GET', '/', {'X%d' % i: '' for i in range(100)}), 431)


def test_the_head_of_an_answer_may_have_twice_that(limited):
    for size, status in ((7500, 200), (8400, 502)):
        with limited.connect() as c:
            c.send(head('GET', '/'))
            limited.worker.one(answer(b'ok', headers=[('X', 'y' * size)]))
            assert c.read_response().status == status


def test_max_conns_closes_the_longest_idle_to_admit_another():
    with Pair('max_conns = 2\n', 'worker_keepalive = 0\n') as p:
        clients = []
        for _ in range(2):
            c = p.connect().send(head('GET', '/'))
            p.worker.one(OK)
            c.read_response()
            clients.append(c)
        with p.connect() as third:
            third.send(head('GET', '/third'))
            assert p.worker.one(OK)[0].target == '/third'
            assert third.read_response().body == b'ok'
            assert clients[0].eof(), 'the longest idle one made room'
            assert clients[1].silent(0.05)


@pytest.mark.parametrize('others', [0, 1, 2, 5])
def test_max_conns_spares_an_idle_one_whose_next_request_has_come(others):
    """Whichever of the two is looked at first."""
    with Pair('max_conns = %d\n' % (others + 2), 'worker_keepalive = 0\n') as p:
        clients = []
        for _ in range(others + 2):
            c = p.connect().send(head('GET', '/'))
            p.worker.one(OK)
            c.read_response()
            clients.append(c)
        for c in clients[1:] * 3:                        # the first one is the longest idle, and looked at least often
            c.send(head('GET', '/'))
            p.worker.one(OK)
            c.read_response()
        p.proxy.signal(signal.SIGSTOP)                   # it finds both at once
        third = p.connect().send(head('GET', '/third'))
        clients[0].send(head('GET', '/next'))
        p.proxy.signal(signal.SIGCONT)
        for _ in range(2):
            p.worker.one(OK)
        assert clients[0].read_response().body == third.read_response().body == b'ok'
        assert clients[1].eof() and all(c.silent(0) for c in clients[2:])


def test_max_conns_pauses_accept_while_all_are_busy():
    with Pair('max_conns = 2\n', 'worker_keepalive = 0\n') as p:
        busy = [p.start(head('GET', '/busy')) for _ in range(2)]
        with p.connect() as third:
            third.send(head('GET', '/third'))
            assert p.worker.no_connection(0.2)
            busy[0][2].send(OK)
            assert busy[0][0].read_response().body == b'ok'
            assert p.worker.one(OK)[0].target == '/third'
            assert third.read_response().body == b'ok'
        busy[1][2].send(OK)


# --- times ---

def lasted(start, seconds):
    """Not before its time, and not absurdly later on a loaded machine. `start` is taken before what the time begins
    with is sent: the proxy may see it long before the test goes on."""
    took = time.monotonic() - start
    assert seconds * 0.9 <= took < seconds + 4, took


def reason_of(pair, status, target):
    return pair.proxy.wait_access(lambda r: r['status'] == status and r.get('target') == target)['reason']


def test_header_timeout_is_absolute(hasty):
    start = time.monotonic()
    with hasty.connect() as c:
        c.send(b'GET /slow-head HTTP/1.1\r\nHost: t\r\nX: ')
        while time.monotonic() - start < 3:           # a byte now and then does not extend it
            if not c.silent(0.05):
                break
            c.send(b'x')
        r = c.read_response()
        lasted(start, 1)
        assert r.status == 408 and r.get('connection').lower() == 'close' and c.eof()


def test_header_timeout_without_a_byte(hasty):
    start = time.monotonic()
    with hasty.connect() as c:
        data = c.read_all()
        lasted(start, 1)
        assert data == b'' or data.startswith(b'HTTP/1.1 408 ')


def test_body_timeout_is_a_gap(hasty):
    c, req, conn = hasty.start(b'POST /slow-body HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\n\r\n')
    with c:
        for _ in range(4):                             # 4 x 0.3 s is over the limit as a sum, under it as gaps
            assert c.silent(0.3)
            start = time.monotonic()
            c.send(b'x')
        r = c.read_response()
        lasted(start, 1)
        assert r.status == 408 and c.eof()
        conn.read_all()
    assert reason_of(hasty, 408, '/slow-body')


def test_keepalive_timeout_ends_without_a_word(hasty):
    with hasty.connect() as c:
        c.send(head('GET', '/'))
        start = time.monotonic()
        hasty.worker.one(OK)
        assert c.read_response().raw == OK
        assert c.read_all() == b''
        lasted(start, 1)


def test_keepalive_timeout_0_closes_after_each_answer():
    with Pair('keepalive_timeout = 0\n') as p, p.connect() as c:
        c.send(head('GET', '/'))
        p.worker.one(OK)
        r = c.read_response()
        assert r.body == b'ok' and c.eof()
        assert (r.get('connection') or '').lower() == 'close', 'the client is told'


def test_send_timeout(hasty):
    with hasty.connect() as c:
        c.send(head('GET', '/not-taken'))
        _, conn = hasty.worker.one(b'HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n')
        with contextlib.suppress(ConnectionError):     # the cut may come while the last wait is not over
            conn.send_some(b'x' * 64000000, 0.2)
        record = hasty.proxy.wait_access(lambda r: r.get('target') == '/not-taken')
        assert record['reason'] and record['status'] == 200
        r = c.read_response()
        assert not r.complete, 'a cut that the client can see'
        conn.ended = False
        wait_for(lambda: _gone(conn), what='the end of the worker\'s connection')


def _gone(conn):
    try:
        conn.sock.send(b'x')
        return False
    except OSError:
        return True


def test_response_timeout(hasty):
    start = time.monotonic()
    c, req, conn = hasty.start(head('GET', '/late'))
    with c:
        r = c.read_response()
        lasted(start, 1)
        assert r.status == 504 and r.complete and conn.eof()
    assert reason_of(hasty, 504, '/late')


def test_response_timeout_between_bytes_cuts_the_answer(hasty):
    with hasty.connect() as c:
        c.send(head('GET', '/stalls'))
        _, conn = hasty.worker.one(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n')
        for _ in range(4):                             # as above: more than the limit in all
            conn.silent(0.3)
            conn.send(b'x')
        start = time.monotonic()
        r = c.read_response()
        assert time.monotonic() - start < 4.5
        assert r.status == 200 and r.body == b'xxxx' and not r.complete


def test_run_timeout_is_absolute():
    with Pair(group='worker_keepalive = 0\nrun_timeout = 1500ms\nresponse_timeout = 1s\n') as p:
        with p.connect() as c:
            start = time.monotonic()
            c.send(head('GET', '/drip'))
            _, conn = p.worker.one(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n')
            while conn.silent(0.1):
                conn.send(b'x')
                assert time.monotonic() - start < 6
            assert 1.4 < time.monotonic() - start
            assert not c.read_response().complete
        start = time.monotonic()
        c, req, conn = p.start(head('GET', '/hints'))
        with c:
            while conn.silent(0.3):
                conn.send(b'HTTP/1.1 102 Processing\r\n\r\n')
                assert time.monotonic() - start < 6
            r = c.read_response()
            assert r.status == 504 and 1.4 < time.monotonic() - start
            assert r.interim and {i.status for i in r.interim} == {102}


def test_connect_timeout():
    """A full backlog, which the kernel answers with silence (TCP) or EAGAIN (unix)."""
    for unix in (False, True):
        with Pair(group='connect_timeout = 300ms\nretries = 0\n', unix=unix) as p:
            # Only now, so that the readiness probe got through. Linux takes a smaller backlog on a live listener.
            p.worker.drain()
            p.worker.sock.listen(0)
            fill = []
            family = socket.AF_UNIX if unix else socket.AF_INET
            target = p.worker.address[5:] if unix else p.worker.sock.getsockname()
            for _ in range(4):
                s = socket.socket(family)
                s.setblocking(False)
                try:
                    s.connect(target)
                except (BlockingIOError, OSError):
                    pass
                fill.append(s)
            with p.connect() as c:
                start = time.monotonic()
                c.send(head('GET', '/full'))
                r = c.read_response()
                lasted(start, 0.3)
                assert r.status in (502, 503, 504)
            assert reason_of(p, r.status, '/full')
            for s in fill:
                s.close()


# --- whom to ask ---

@pytest.mark.parametrize('method, body', [('GET', None), ('POST', b'x'), ('POST', b'x' * 300000)],
                         ids=['no body', 'a byte', 'a large body'])
def test_a_refused_connect_goes_to_another_worker(method, body):
    """Whatever the method: not a byte can have been seen."""
    with FakeWorker() as dead, FakeWorker() as other, Proxy(upstream_config(dead.address + ' ' + other.address)) as p:
        dead.stop_listening()
        for n in range(4):
            with p.connect() as c:
                c.send(head(method, '/%d' % n, body=body))
                req, _ = other.one(b'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok', timeout=3)
                assert (req.target, req.body) == ('/%d' % n, body or b'') and c.read_response().body == b'ok'


def test_least_in_flight_then_longest_idle():
    with FakeWorker() as a, FakeWorker() as b, Proxy(upstream_config(a.address + ' ' + b.address)) as p:
        workers = {a: 0, b: 0}
        for _ in range(6):                      # all busy: the load stays within one of each other
            p_client = p.connect().send(head('GET', '/'))
            w = wait_for(lambda: next((w for w in workers if not w.no_connection(0.02)), None))
            w._kept = getattr(w, '_kept', []) + [(p_client, w.accept())]
            workers[w] += 1
            assert abs(workers[a] - workers[b]) <= 1
        for w in workers:
            for c, conn in w._kept:
                conn.read_request()
                conn.send(OK)
                assert c.read_response().raw == OK


def test_no_ready_worker_waits_for_the_queue_timeout_then_503():
    port = free_port()
    with Proxy(upstream_config('127.0.0.1:%d' % port, group='queue_timeout = 300ms\n'), wait=False) as p:
        wait_for(lambda: _connects(p.address), what='the listener')
        start = time.monotonic()
        r = request(p, 'GET', '/nobody')
        assert r.status == 503 and time.monotonic() - start < 4.5
        assert 1 <= int(r.get('retry-after')) <= 60
        assert r.get('x-request-id') and r.get('x-request-id').encode() in r.body and r.body.count(b'\n') <= 1
        assert p.wait_access(lambda x: x['status'] == 503)['reason']


def _connects(address):
    try:
        socket.create_connection(address, 1).close()
        return True
    except OSError:
        return False


def test_a_downed_upstream_is_found_again():
    with AutoWorker() as w, Proxy(upstream_config(w.address, group='backoff_max = 300ms\nqueue_timeout = 8s\n')) as p:
        port = int(w.address.rsplit(':', 1)[1])
        assert request(p, 'GET', '/').status == 200
        w.close()
        with p.connect() as c:
            c.send(head('GET', '/waits'))
            assert c.silent(0.3), 'the next probe comes before its queue_timeout, so it waits'
            s = socket.socket()
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(('127.0.0.1', port))
            s.listen()
            s.settimeout(10)
            while True:                         # probes come first
                conn, _ = s.accept()
                conn.settimeout(10)
                data = conn.recv(4096)
                if data:
                    break
            assert data.startswith(b'GET /waits ')
            conn.sendall(OK)
            assert c.read_response().body == b'ok'
            conn.close()
            s.close()


def test_a_storm_of_connections_that_say_nothing_or_vanish(pair):
    socks = [pair.connect() for _ in range(100)]
    for i, c in enumerate(socks):
        if i % 3 == 0:
            c.rst()
        elif i % 3 == 1:
            c.send(b'GET / HT').close()
    with pair.connect() as c:
        c.send(head('GET', '/'))
        pair.worker.one(OK)
        assert c.read_response().raw == OK
    for c in socks:
        c.close()
