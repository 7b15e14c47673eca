"""The fault matrix: who breaks off x how x where x framing, in a group with one slot.

Each cell says what the other end gets, which reason the access log has, and that the one slot came
back exactly once. Cells that are missing because they make no sense:

- a worker that drips at accept: nothing is due from it there; its first byte is in the head.
- a client that drips at accept: likewise; its first byte is in the head.
- a request until close, as a framing: HTTP has none.
- a worker that closes by FIN in an answer until close: that is how such an answer ends well. The
  cell is `test_until_close_ends_well`.
- framings of a client at accept: it has not said a byte, so all of them are one cell.
- a client in its answer by tunnel: after the 101 there is only the tunnel, the cell `body`.
"""
import contextlib, itertools, threading, time

import pytest
from harness import BIN, AutoWorker, Proxy, Timeout, answer, head, upstream_config
from procs import Before, metric

OK = answer(b'ok')
TOP = 'header_timeout = 1s\nbody_timeout = 1s\nsend_timeout = 1s\nkeepalive_timeout = 5s\n'
GROUP = ('max_req_per_worker = 1\nrequest_buffer = 0\nworker_keepalive = 0\nretries = 0\nresponse_timeout = 1s\n'
         'tunnel_timeout = 1s\nqueue_timeout = 8s\n')
PATIENT = GROUP.replace('response_timeout = 1s', 'response_timeout = 30s')       # the client's time-out, and no other
KINDS = ['fin', 'rst', 'hang', 'drip']
GAP = 0.01                        # between dripped bytes: far below each time-out, a message of them above it

# What a client sends, by framing: (head, body).
REQUEST = {
    'http/1.0': ('POST {t} HTTP/1.0\r\nHost: t\r\nContent-Length: 10\r\n\r\n', b'0123456789'),
    'length': ('POST {t} HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\n', b'0123456789'),
    'chunked': ('POST {t} HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n', b'4\r\n0123\r\n6\r\n456789\r\n0\r\n\r\n'),
    'tunnel': ('GET {t} HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n', b'0123456789'),
}
ASKS = {'http/1.0': 'GET {t} HTTP/1.0\r\nHost: t\r\n\r\n', 'tunnel': REQUEST['tunnel'][0]}
ASK = 'GET {t} HTTP/1.1\r\nHost: t\r\n\r\n'
SWITCH = b'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n'
# What a worker sends, by framing: (head, body). `http/1.0` is a client of 1.0 before a chunked answer.
ANSWER = {
    'http/1.0': (b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n', b'4\r\n0123\r\n6\r\n456789\r\n0\r\n\r\n'),
    'length': (b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n', b'0123456789'),
    'chunked': (b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n', b'4\r\n0123\r\n6\r\n456789\r\n0\r\n\r\n'),
    'close': (b'HTTP/1.1 200 OK\r\nX-A: b\r\n\r\n', b'0123456789'),
    'tunnel': (SWITCH, b'0123456789'),
}


def pour(conn, size):
    """As much as is taken, until it is over."""
    with contextlib.suppress(OSError, Timeout):
        conn.send(b'x' * size)


class Scene(Before):
    """One worker with one slot, used by all cells in turn; each leaves it as it was."""

    def dial(self):
        client = self.proxy.connect()
        self.clients.append(client)
        return client

    def forced(self):
        return metric(self.proxy, 'ldcorn_slots_forced_total')

    def taken(self, conn, target):
        """The slot is taken: what comes now waits, and the worker hears nothing of it. -> the waiting client."""
        next = self.send(target + '/waits')
        self.queued(1)
        self.inside(1)
        assert self.worker.no_connection(0.02)
        return next

    def whole(self, target):
        """Everything is given back, once: one request at a time is served, not none and not two."""
        self.inside(0)
        self.queued(0)
        with self.send(target + '/1') as one:
            _, first = self.worker.one()
            with self.send(target + '/2') as two:
                self.queued(1)
                self.inside(1)
                assert self.worker.no_connection(0.01), 'two inside a worker for one'
                first.send(OK)
                assert one.read_response().body == b'ok'
                assert self.worker.one(OK)[0].target == target + '/2'
                assert two.read_response().body == b'ok'
        self.inside(0)
        assert metric(self.proxy, 'ldcorn_orphans') == metric(self.proxy, 'ldcorn_tunnels') == 0


_shared = {}


@pytest.fixture
def scene(request):
    group = getattr(request.function, 'group', GROUP)
    if group not in _shared:
        _shared[group] = Scene(group, TOP)
    s = _shared[group]
    s.worker.drain()
    yield s
    for end in s.clients + s.worker._conns:          # also of a test that failed half-way
        end.close()
    s.clients.clear()
    s.worker._conns.clear()


@pytest.fixture(scope='module', autouse=True)
def _end_of_shared():
    yield
    while _shared:
        _shared.popitem()[1].__exit__(None, None, None)


def name(*parts):
    return '/' + '-'.join(parts).replace('/', '')


def drip(stream, data):
    for i in range(len(data)):
        stream.send(data[i:i + 1])
        time.sleep(GAP)


def finish(end, kind):
    """FIN as a worker or a client that closes does it; everything before it was read."""
    end.rst() if kind == 'rst' else end.close()


# --- workers ---

def cut(r, framing):
    """What was begun is neither replaced nor ended well."""
    assert r.status == 200 and r.body.startswith(b'0123') and not r.complete and r.closed, r
    if framing in ('http/1.0', 'close'):
        assert r.framing == 'chunked' or r.reset, 'an end by FIN would look whole'


@pytest.mark.parametrize('framing', ['http/1.0', 'length', 'chunked', 'tunnel'])
@pytest.mark.parametrize('kind', ['fin', 'rst', 'hang'])
def test_worker_at_accept(scene, kind, framing):
    """It accepts and reads nothing."""
    target = name('worker-accept', kind, framing)
    start, body = REQUEST[framing]
    c = scene.dial().send(start.format(t=target).encode() + (b'' if framing == 'tunnel' else body))
    conn = scene.worker.accept()
    if kind == 'fin':
        conn.fin()
    elif kind == 'rst':
        conn.rst()
    r = c.read_response()
    record = scene.record(target)
    if kind == 'hang':
        assert (r.status, record['status'], record['reason']) == (504, 504, 'response_timeout')
        assert r.complete
        waits = scene.taken(conn, target)
        conn.close()
        scene.worker.one(OK)
        assert waits.read_response().status == 200
    else:
        assert (r.status, record['status'], record['reason']) == (502, 502, 'reset') and r.complete
    scene.whole(target)


@pytest.mark.parametrize('framing', list(ANSWER))
@pytest.mark.parametrize('kind', KINDS)
def test_worker_in_the_head(scene, kind, framing):
    target = name('worker-head', kind, framing)
    start, body = ANSWER[framing]
    c = scene.dial().send(ASKS.get(framing, ASK).format(t=target))
    _, conn = scene.worker.one()
    if kind == 'drip':
        drip(conn, start)
        conn.send(body)
        if framing in ('close', 'tunnel'):
            conn.close()
        served(c, framing)
        assert scene.record(target)['reason'] == ''
    else:
        conn.send(start[:-6])
        if kind != 'hang':
            finish(conn, kind)
        r = c.read_response()
        record = scene.record(target)
        if kind == 'hang':
            assert (r.status, record['status'], record['reason']) == (504, 504, 'response_timeout') and r.complete
            waits = scene.taken(conn, target)
            conn.close()
            scene.worker.one(OK)
            assert waits.read_response().status == 200
        else:
            assert (r.status, record['status'], record['reason']) == (502, 502, 'reset') and r.complete
    scene.whole(target)


def served(c, framing):
    """The whole answer, also where its end is the end of the connection."""
    r = c.read_response()
    if framing == 'tunnel':
        assert r.status == 101 and c.read_exact(10) == b'0123456789'
        c.close()
    else:
        assert (r.status, r.body, r.complete) == (200, b'0123456789', True)


@pytest.mark.parametrize('kind,framing', [k for k in itertools.product(KINDS, ANSWER) if k != ('fin', 'close')])
def test_worker_in_the_body(scene, kind, framing):
    target = name('worker-body', kind, framing)
    start, body = ANSWER[framing]
    c = scene.dial().send(ASKS.get(framing, ASK).format(t=target))
    _, conn = scene.worker.one(start)
    if kind == 'drip':
        drip(conn, body)
        if framing in ('close', 'tunnel'):
            conn.close()
        served(c, framing)
        assert scene.record(target)['reason'] == ''
        return scene.whole(target)
    conn.send(body[:7])
    if framing == 'tunnel':
        assert c.read_response().status == 101 and c.read_exact(7) == b'0123456'
        if kind != 'hang':
            finish(conn, kind)
        assert c.eof()
        record = scene.record(target) if kind == 'hang' else (c.close(), scene.record(target))[1]
        assert record['status'] == 101
        if kind == 'hang':
            assert record['reason'] == 'tunnel_timeout' and conn.eof()
        return scene.whole(target)
    c.peek_until(b'0123')
    if kind != 'hang':
        finish(conn, kind)
    cut(c.read_response(), framing)
    record = scene.record(target)
    assert record['status'] == 200
    assert record['reason'] == ('response_timeout' if kind == 'hang' else 'reset')
    if kind == 'hang':
        waits = scene.taken(conn, target)
        conn.close()
        scene.worker.one(OK)
        assert waits.read_response().status == 200
    scene.whole(target)


def test_until_close_ends_well(scene):
    c = scene.dial().send(ASK.format(t='/until-close'))
    _, conn = scene.worker.one(b''.join(ANSWER['close']))
    conn.close()
    served(c, 'close')
    assert scene.record('/until-close')['reason'] == ''
    scene.whole('/until-close')


# --- clients ---

@pytest.mark.parametrize('kind', ['fin', 'rst', 'hang'])
def test_client_at_accept(scene, kind):
    """Nobody was asked for anything, so nothing is logged but a time-out."""
    target, records = name('client-accept', kind), len(scene.proxy.access())
    c = scene.dial()
    start = time.monotonic()
    if kind == 'hang':
        data = c.read_all()
        assert 0.25 < time.monotonic() - start < 4
        assert data == b'' or data.startswith(b'HTTP/1.1 408 ')
    else:
        finish(c, kind)
    assert scene.worker.no_connection(0.05)
    new = scene.proxy.access()[records:]
    assert all(r['reason'] in ('header_timeout', 'client_gone') for r in new), new
    scene.whole(target)


@pytest.mark.parametrize('framing', list(REQUEST))
@pytest.mark.parametrize('kind', KINDS)
def test_client_in_the_head(scene, kind, framing):
    target = name('client-head', kind, framing)
    start, body = REQUEST[framing]
    start = start.format(t=target).encode()
    c = scene.dial()
    if kind == 'drip':
        c.send(start[:-10])                          # the time for the head is absolute
        drip(c, start[-10:])
        if framing != 'tunnel':
            c.send(body)
        req, conn = scene.worker.one(OK)
        assert req.target == target and c.read_response().body == b'ok'
        assert scene.record(target)['reason'] == ''
        return scene.whole(target)
    records = len(scene.proxy.access())
    c.send(start[:-7])
    if kind == 'hang':
        r = c.read_response()
        assert r.status == 408 and r.get('connection') == 'close' and c.eof()
        scene.proxy.wait_access(lambda r: r['reason'] == 'header_timeout' and r in scene.proxy.access()[records:])
    else:
        finish(c, kind)
    assert scene.worker.no_connection(0.05), 'half a head is nothing'
    assert all(r['reason'] in ('header_timeout', 'client_gone') and r['worker'] == -1
               for r in scene.proxy.access()[records:])
    scene.whole(target)


def test_client_in_the_head_drips_too_long(scene):
    """The time for the head is absolute."""
    start = REQUEST['length'][0].format(t='/drips').encode()
    c = scene.dial()
    with pytest.raises((ConnectionError, Timeout, AssertionError)):
        for i in range(len(start)):
            c.send(start[i:i + 1])
            assert c.silent(0.05)
    assert c.read_response().status == 408 and c.eof()
    assert scene.worker.no_connection(0)
    scene.whole('/drips')


@pytest.mark.parametrize('framing', ['http/1.0', 'length', 'chunked'])
@pytest.mark.parametrize('kind', KINDS + ['half'])
def test_client_in_the_body(scene, kind, framing):
    """The request can no longer be completed: the worker's side is half-closed, and its end is the end."""
    target = name('client-body', kind, framing)
    start, body = REQUEST[framing]
    start = start.format(t=target).encode()
    c = scene.dial().send(start)
    conn = scene.worker.accept()
    if kind == 'drip':
        drip(c, body)
        req = conn.read_request()
        assert req.body == b'0123456789'
        conn.send(OK)
        assert c.read_response().body == b'ok' and scene.record(target)['reason'] == ''
        return scene.whole(target)
    forced = scene.forced()
    c.send(body[:7])
    conn.read_head()
    conn.peek_until(b'0123')
    if kind == 'half':
        c.fin()
    elif kind != 'hang':
        finish(c, kind)
    if kind == 'hang':
        r = c.read_response()
        assert r.status == 408 and r.complete and r.get('connection') == 'close' and c.eof()
    elif kind == 'half':
        assert not c.read_all().startswith(b'HTTP/1.1 200')
    seen = conn.read_all()
    assert not seen.endswith(b'0\r\n\r\n') and len(seen) <= len(body), 'what is not whole has no clean end'
    record = scene.record(target)
    assert (record['status'], record['reason']) == ((408, 'body_timeout') if kind == 'hang' else (499, 'client_gone'))
    assert record['worker'] == 0
    waits = scene.taken(conn, target)
    conn.close()
    scene.worker.one(OK)
    assert waits.read_response().status == 200
    scene.whole(target)
    assert scene.forced() == forced + 1


@pytest.mark.parametrize('kind', KINDS)
def test_client_in_the_tunnel(scene, kind):
    target = name('client-tunnel', kind)
    start, body = REQUEST['tunnel']
    c = scene.dial().send(start.format(t=target))
    _, conn = scene.worker.one(SWITCH)
    assert c.read_response().status == 101
    if kind == 'drip':
        drip(c, body)
        assert conn.read_exact(10) == body
        c.close()
        assert conn.eof()
        conn.close()
    else:
        c.send(body[:7])
        assert conn.read_exact(7) == body[:7]
        if kind != 'hang':
            finish(c, kind)
        assert conn.eof()
        if kind == 'hang':
            assert c.eof()
        conn.close()
    record = scene.record(target)
    assert record['status'] == 101
    if kind == 'hang':
        assert record['reason'] == 'tunnel_timeout'
    elif kind != 'rst':
        assert record['reason'] == ''
    scene.whole(target)


@pytest.mark.parametrize('framing', ['http/1.0', 'length', 'chunked', 'close'])
@pytest.mark.parametrize('kind', KINDS)
def test_client_in_its_answer(scene, kind, framing):
    """FIN is a half-close; a reset makes an orphan; who does not read is cut; who reads slowly is served."""
    target = name('client-answer', kind, framing)
    c = scene.dial()
    c.send(ASKS.get(framing, ASK).format(t=target))
    _, conn = scene.worker.one()
    start, body = ANSWER[framing]
    if kind == 'drip':
        conn.send(start + body)
        if framing == 'close':
            conn.close()
        got = b''
        while not got.endswith(b'456789'):
            got += c.sock.recv(1)
        assert b'0123' in got and scene.record(target)['reason'] == ''
        return scene.whole(target)
    if kind == 'hang':
        size = 64 << 20
        start = start.replace(b'Length: 10', b'Length: %d' % size)
        if b'chunked' in start:
            start += b'%x\r\n' % size
        conn.send(start)
        pump = threading.Thread(target=pour, args=(conn, size))      # to the end: on a busy machine it is taken in pieces
        pump.start()
        record = scene.record(target)
        pump.join(30)
        assert record['reason'] == 'send_timeout' and record['status'] == 200
        assert not c.read_response().complete
        conn.close()
        return scene.whole(target)
    conn.send(start + body[:7])
    c.peek_until(b'0123')
    if kind == 'fin':
        c.fin()
        conn.send(body[7:])
        if framing == 'close':
            conn.close()
        served(c, framing)
        assert scene.record(target)['reason'] == ''
        return scene.whole(target)
    c.rst()
    late = body.index(b'89')
    conn.send(body[7:late])                          # a write fails, if nothing else tells
    record = scene.record(target)
    assert record['reason'] == 'client_gone' and record['status'] in (200, 499)
    waits = scene.taken(conn, target)
    conn.send(body[late:])
    if framing == 'close':
        conn.close()
    scene.worker.one(OK)
    assert waits.read_response().status == 200
    scene.whole(target)


test_client_in_its_answer.group = PATIENT


@pytest.mark.parametrize('begun', [False, True])
def test_a_reset_is_seen_at_the_next_write(begun):
    """While the worker says nothing and its answer is waited for, the client's end changes nothing and is not
    looked for; the next bytes for it find it gone, and the slot comes back when the answer ends."""
    with Before('max_req_per_worker = 1\nclient_abort = wait\n') as b:
        c = b.send('/gone')
        _, conn = b.worker.one(ANSWER['length'][0] + b'0123' if begun else None)
        if begun:
            c.peek_until(b'0123')
        c.rst()
        b.inside(1)
        conn.send(ANSWER['length'][1][4:] if begun else OK)
        assert b.proxy.wait_access(lambda r: r['target'] == '/gone')['reason'] == 'client_gone'
        b.inside(0)


# --- at each byte ---

BODY = {'length': ('Content-Length: 4\r\n\r\n', 'body'), 'chunked': ('Transfer-Encoding: chunked\r\n\r\n', '4\r\nbody\r\n0\r\n\r\n')}


def pair(framing):
    """(request, answer), short ones."""
    tail = ''.join(BODY[framing]).encode()
    return b'POST / HTTP/1.1\r\nHost: t\r\n' + tail, b'HTTP/1.1 200 OK\r\n' + tail


@pytest.mark.parametrize('framing', list(BODY))
@pytest.mark.parametrize('kind', ['fin', 'rst', 'half'])
def test_client_ends_at_each_byte(kind, framing):
    request, reply = pair(framing)
    with AutoWorker(lambda r, c: reply) as w, \
            Proxy(upstream_config(w.address, group='max_req_per_worker = 1\n')) as p:
        for n in range(len(request) + 1):
            with p.connect() as c:
                c.send(request[:n])
                if kind == 'half':
                    c.fin()
                    data = c.read_all()
                    assert data.startswith(b'HTTP/1.1 200') == (n == len(request)), (n, data)
                elif kind == 'rst':
                    c.rst()
            if n % 16 == 15 or n > len(request) - 3:
                with p.connect() as c:
                    assert c.ask('GET', '/').body == b'body'
        p.wait_status(lambda s: s['groups'][0]['workers'][0]['in_flight'] == 0)
        with p.connect() as c:
            assert c.ask('GET', '/').body == b'body'
        assert w.max_inside == 1
        whole = [r for r in w.requests if r.method == 'POST']
        assert all(r.body == b'body' for r in whole) and len(whole) <= 1, 'a cut request looked whole'
        assert metric(p, 'ldcorn_orphans') == metric(p, 'ldcorn_in_flight') == 0


@pytest.mark.whole                                    # what the client could not take yet is not waited for
@pytest.mark.parametrize('framing', list(BODY))
@pytest.mark.parametrize('kind', ['fin', 'rst', 'half'])
def test_worker_ends_at_each_byte(kind, framing):
    """A cut answer is a 502 until the proxy has its head, and looks cut from there on."""
    request, reply = pair(framing)
    begins = reply.index(b'\r\n\r\n') + 4
    with Before('max_req_per_worker = 1\nworker_keepalive = 0\n') as b:
        for n in range(len(reply) + 1):
            with b.proxy.connect() as c:
                c.send(request)
                _, conn = b.worker.one()
                conn.send(reply[:n])
                if kind == 'half':
                    conn.fin()
                else:
                    finish(conn, kind)
                if n == len(reply) and kind != 'rst':
                    r = c.read_response()
                    assert r.status == 200 and r.complete and r.body == b'body'
                else:
                    try:
                        r = c.read_response()
                    except ConnectionError:
                        assert n >= begins and kind == 'rst'        # cut before the head had been passed on
                        continue
                    assert r.status == 502 or (n >= begins and r.status == 200 and
                                               (r.complete is False or n == len(reply))), (n, r)
                    assert n >= begins or r.complete, 'an answer of our own is whole'
                conn.close()
        b.inside(0)
        with b.send('/last') as c:
            b.worker.one(OK)
            assert c.read_response().body == b'ok'
        b.inside(0)
        assert metric(b.proxy, 'ldcorn_orphans') == 0


# --- no memory for what is sent ---

@pytest.mark.shaky
@pytest.mark.skipif(not BIN.endswith('-shaky'), reason='needs build/ldcorn-shaky')
def test_an_answer_without_its_end_is_cut():
    """The last chunk is lost, so nothing may come behind it: it would be taken for a part of this answer."""
    with Before('', env={'SHAKY': '0', 'SHAKY_LOSES': '0\r\n\r\n'}) as p:
        with p.proxy.connect() as c:
            c.send(2 * head('GET', '/'))
            _, conn = p.worker.one(b'HTTP/1.1 200 OK\r\n\r\nsome')
            assert c.read_until(b'some\r\n').endswith(b'\r\n\r\n4\r\nsome\r\n')
            conn.close()
            assert c.read_all() == b''
        record = p.proxy.wait_access(lambda r: True)
        assert record['status'] == 200
