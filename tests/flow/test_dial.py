"""Workers that dial in, names of upstream workers, and groups that workers join and quit."""
import contextlib, os, re, signal, socket, subprocess, sys, time

import pytest
import harness
from harness import TIMEOUT, AutoWorker, FakeWorker, Proxy, Stream, WorkerConn, answer, cli, free_port, head, wait_for
from procs import metric, wait_gone

OK = answer('ok')


class Hub(Proxy):
    """A proxy with one group that workers dial."""

    def __init__(self, group='', tcp=False, top='', routes='*', **kw):
        self.where = '127.0.0.1:%d' % free_port() if tcp else 'unix:{dir}/hub'
        super().__init__('listen = {listen}\nadmin = {admin}\naccess_log = {dir}/access\n%s[hub]\nroutes = %s\ndial_in = %s\n%s'
                         % (top, routes, self.where, group), **kw)
        self.where = self.where.replace('{dir}', self.dir)

    def dial(self):
        if self.where.startswith('unix:'):
            s = socket.socket(socket.AF_UNIX)
            s.connect(self.where[5:])
        else:
            host, port = self.where.rsplit(':', 1)
            s = socket.create_connection((host, int(port)))
        s.settimeout(10)
        return WorkerConn(s)

    def slots(self, n):
        self.wait_status(lambda s: s['groups'][0]['slots'] == n)

    def send(self, target='/', method='GET', **kw):
        return self.connect().send(head(method, target, **kw))

    def queued(self, n):
        self.wait_status(lambda s: s['groups'][0]['queue']['len'] == n)


def test_a_worker_is_shown_as_ready_while_it_has_a_connection():
    def shown():
        w, = p.group('hub')['workers']
        assert {k: metric(p, 'ldcorn_workers', state=k) for k in ('ready', 'starting')} == {'ready': w['state'] == 'ready', 'starting': w['state'] != 'ready'}
        return w['state']
    with Hub() as p:
        assert shown() == 'starting' and p.group('hub')['source'] == 'dial_in'
        with p.dial():
            p.slots(1)
            assert shown() == 'ready'
        p.slots(0)
        assert shown() == 'starting'


@pytest.mark.parametrize('tcp', [False, True])
def test_each_connection_is_a_slot(tcp):
    """More jobs than slots: they wait in order, and a connection that was answered takes the next."""
    with Hub(tcp=tcp) as p:
        workers = [p.dial(), p.dial()]
        p.slots(2)
        clients = []
        for i in range(5):
            clients.append(p.send('/%d' % i))
            p.wait_status(lambda s: s['groups'][0]['in_flight'] + s['groups'][0]['queue']['len'] == i + 1)
        p.queued(3)
        order = []
        for n, turn in enumerate((0, 1, 0, 1, 0)):
            order.append(workers[turn].read_request().target)
            workers[turn].send(OK)
            p.queued(max(0, 2 - n))
        assert sorted(order[:2]) == ['/0', '/1'] and order[2:] == ['/2', '/3', '/4']
        assert all(c.read_response().body == b'ok' for c in clients)
        assert p.group('hub')['slots'] == 2
        for w in workers:
            w.close()
        p.slots(0)


def test_requests_wait_in_order_while_nobody_has_dialled():
    with Hub() as p:
        assert p.admin('GET', '/readyz')[0] == 503
        clients = []
        for i in range(4):
            clients.append(p.send('/%d' % i))
            p.queued(i + 1)
        with p.dial() as w:
            for i in range(4):
                assert w.read_request().target == '/%d' % i
                w.send(OK)
            assert all(c.read_response().status == 200 for c in clients) and p.admin('GET', '/readyz')[0] == 200


def test_nobody_dials_within_queue_timeout():
    with Hub('queue_timeout = 300ms\n') as p, p.send() as c:
        r = c.read_response()
        assert r.status == 503 and p.wait_access(lambda r: True)['line'].endswith(' reason=timeout')


def test_the_longest_idle_connection_is_next():
    with Hub() as p:
        workers = []
        for n in range(3):
            workers.append(p.dial())
            p.slots(n + 1)
        for turn in (0, 1, 2, 0, 1, 2):
            with p.send('/') as c:
                workers[turn].read_request()
                workers[turn].send(OK)
                assert c.read_response().status == 200


@pytest.mark.parametrize('last', [answer('ok', headers=[('Connection', 'close')]), b'HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok',
                                  b'HTTP/1.1 200 OK\r\n\r\nok'])
def test_one_shot_workers(last):
    """An answer that ends the connection ends the slot."""
    with Hub() as p:
        for _ in range(3):
            with p.dial() as w, p.send('/') as c:
                assert w.read_request().target == '/'
                w.send(last)
                if b'Content-Length' not in last:
                    w.close()
                assert c.read_response().body == b'ok'
                if b'Content-Length' in last:
                    assert w.eof()
            p.slots(0)


def test_a_standard_library_handler_serves_a_dialled_socket():
    """A WSGI application behind wsgiref's own request handler, unchanged."""
    script = '''
import socket, sys
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

def app(environ, start_response):
    body = environ['wsgi.input'].read(int(environ.get('CONTENT_LENGTH') or 0))
    start_response('200 OK', [('Content-Type', 'text/plain'), ('Content-Length', str(len(body) + len(environ['PATH_INFO'])))])
    return [environ['PATH_INFO'].encode(), body]

class Quiet(WSGIRequestHandler):
    def log_message(self, *a):
        pass

server = WSGIServer(('127.0.0.1', 0), Quiet)      # for the environment only, it never accepts
server.set_app(app)
while True:
    s = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
    if s.recv(1, socket.MSG_PEEK):
        Quiet(s, ('127.0.0.1', 0), server)
    s.close()
'''
    with Hub(tcp=True) as p:
        worker = subprocess.Popen([sys.executable, '-c', script, p.where.rsplit(':', 1)[1]])
        try:
            for i in range(30):
                with p.connect() as c:
                    r = c.ask('POST', '/p%d' % i, body=b'x' * i)
                    assert r.status == 200 and r.body == b'/p%d' % i + b'x' * i
        finally:
            worker.kill()
            worker.wait()


def test_a_connection_that_is_lost_before_a_byte_was_sent():
    """Closed while idle: nothing is sent there, the request waits for the next one."""
    with Hub() as p:
        gone = [p.dial() for _ in range(3)]
        p.slots(3)
        for w in gone:
            w.close()
        with p.send('/') as c, p.dial() as w:
            assert w.read_request().target == '/'
            w.send(OK)
            assert c.read_response().status == 200


@pytest.mark.parametrize('method, status', [('GET', 200), ('HEAD', 200), ('POST', 502)])
@pytest.mark.parametrize('how', ['fin', 'rst'])
def test_a_connection_that_is_lost_with_a_request_on_it(method, status, how):
    """Safe requests go back to the head of the line once, others get 502."""
    with Hub() as p, p.dial() as first:
        p.slots(1)
        c = p.send('/lost', method, **(dict(body=b'x') if method == 'POST' else {}))
        assert first.read_request().target == '/lost'
        behind = p.send('/behind')
        p.queued(1)
        first.rst() if how == 'rst' else first.close()
        p.slots(0)
        p.queued(2 if status == 200 else 1)
        with p.dial() as w:
            if status == 200:
                assert w.read_request().target == '/lost'
                w.send(answer('' if method == 'HEAD' else 'ok'))
            assert w.read_request().target == '/behind'
            w.send(OK)
            assert c.read_response(method).status == status and behind.read_response().status == 200


def test_a_safe_request_goes_back_only_once():
    with Hub() as p, p.dial() as a:
        with p.send('/') as c:
            a.read_request()
            a.close()
            p.slots(0)
            with p.dial() as b:
                b.read_request()
            r = c.read_response()
            assert r.status == 502


def test_bytes_from_an_idle_worker_close_it():
    with Hub() as p, p.dial() as w:
        p.slots(1)
        w.send(b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n')
        assert w.eof()
        p.slots(0)


# --- workers that are cut off, at each byte ---

LATE = 5.0               # seconds, for what a cut brings about; no time-out of the proxy is as short
MANY = 100               # cuts at once
BODY = b'0123456789abcdef'
KINDS = {'post': ('POST', BODY), 'get': ('GET', None), 'get-with-body': ('GET', BODY)}
ANSWERS = {
    'length': answer('done'),
    'chunked': b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ndon\r\n1\r\ne\r\n0\r\n\r\n',
    'until-close': b'HTTP/1.1 200 OK\r\nServer: t\r\n\r\ndone',
    'hints': b'HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n' + answer('done')}
HOWS = ['fin', 'rst', 'unix', 'kill']
# Its processes dial, say so, read and send what their line tells, say so, and wait for their end.
KILLED = r"""
import os, signal, socket, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
ended, ours = os.pipe()
for i, line in enumerate(sys.stdin):
    n, data = int(line.split()[0]), bytes.fromhex(line[line.index(' '):])
    if os.fork() == 0:
        os.close(ours)
        s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
        os.write(1, b'%d dialled\n' % os.getpid())
        seen = b'-'
        while seen and len(seen) < int(sys.argv[3]):
            seen = s.recv(65536, socket.MSG_PEEK)
        if seen:
            while n:
                n -= len(s.recv(n))
            s.sendall(data)
            os.write(1, b'%d %d %d %s\n' % (os.getpid(), i, len(seen), seen.split()[1]))
            os.read(ended, 1)
        os._exit(0)
"""


def request_size(kind):
    """Bytes of such a request when a worker gets it. Its path has seven, whatever its number."""
    method, body = KINDS[kind]
    with Hub(tcp=True) as p, p.dial() as w, p.send('/000000', method, **({} if body is None else {'body': body})) as c:
        size = len(w.read_request().raw)
        w.send(OK)
        assert c.read_response().status == 200
        return size


class Cuts:
    """Workers that have dialled. Each has a pair: how many bytes it reads, and what it answers before its end."""

    def __init__(self, hub, how, pairs, size):
        self.how, self.pairs, self.size, self.script = how, pairs, size, None
        if how == 'kill':
            host, port = hub.where.rsplit(':', 1)
            ours, theirs = socket.socketpair()
            with theirs:
                self.script = subprocess.Popen([sys.executable, '-S', '-c', KILLED, host, port, str(size)],
                                               stdin=subprocess.PIPE, stdout=theirs)
            self.said, self.dialled, self.took = Stream(ours), [], []
            self.script.stdin.write(b''.join(b'%d %s\n' % (n, data.hex().encode()) for n, data in pairs))
            self.script.stdin.flush()
            self._listen(self.dialled)
        else:
            self.socks = [hub.dial().sock for _ in pairs]

    def _listen(self, told):
        """Until each process has told that."""
        while len(told) < len(self.pairs):
            line = self.said.read_until(b'\n').split()
            (self.dialled if line[1:] == [b'dialled'] else self.took).append(line)

    def take(self):
        """Each reads and sends its part. -> {path of its request: its pair}; nobody gets more than one."""
        taken = {}
        if self.script:
            self._listen(self.took)
        for i in range(len(self.pairs)):
            if self.script:
                i, size, path = int(self.took[i][1]), int(self.took[i][2]), self.took[i][3]
            else:
                sock, (n, data) = self.socks[i], self.pairs[i]
                path, size = self._read(sock, n)
                sock.sendall(data)
            assert size == self.size and path not in taken
            taken[path.decode()] = self.pairs[i]
        return taken

    def _read(self, sock, n):
        seen = wait_for(lambda: (lambda all: len(all) >= self.size and all)(sock.recv(65536, socket.MSG_PEEK)))
        assert n == 0 or sock.recv(n) == seen[:n]
        return seen.split()[1], len(seen)

    def cut(self):
        if self.script:
            pids = [int(line[0]) for line in self.dialled]
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            wait_gone(*pids)
        for sock in [] if self.script else self.socks:
            if self.how == 'fin':
                sock.shutdown(socket.SHUT_WR)                # a close would be a reset where bytes are unread
            elif self.how == 'rst':
                WorkerConn(sock).rst()
            else:
                sock.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self.script:
            self.script.stdin.close()                        # whoever is left of them ends with it
            self.said.close()
            assert self.script.wait(TIMEOUT) == 0
            return
        for sock, (n, _) in zip(self.socks, self.pairs):
            if kind is None and self.how == 'fin':           # it can still read: nothing more came down there
                rest = WorkerConn(sock)
                assert len(rest.read_all(LATE)) == self.size - n and not rest.was_reset
            sock.close()


class Cut(Hub):
    """A hub that counts how often workers were given each request, and how often one had all of it. One worker
    more is busy all the time and notices nothing."""

    def __init__(self, how, group='', **kw):
        super().__init__('queue_timeout = 2m\nresponse_timeout = 10m\n' + group, how != 'unix', 'log_format = json\n', **kw)
        self.how, self.begun, self.ran, self.told, self.number = how, {}, {}, {}, 0

    def __enter__(self):
        super().__enter__()
        self.busy, (self.held, self.holder) = self.dial(), self.ask('POST', body=b'busy')
        assert self.busy.read_request().target == self.held
        self.stands(0, 0, 0)
        return self

    def __exit__(self, kind, *more):
        try:
            with self.busy, self.holder:
                if kind is None:
                    assert self.busy.silent(0) and self.holder.silent(0)
                    self.busy.send(answer(self.held))
                    self.answered(self.held, self.holder)
                    self.stands(0, -1, 0)
                    self.logged()
        finally:
            super().__exit__(kind, *more)

    def count(self, path, whole=True):
        self.begun[path] = self.begun.get(path, 0) + 1
        self.ran[path] = self.ran.get(path, 0) + whole

    def ask(self, method, **kw):
        """-> (the path of its own, the client)."""
        self.number += 1
        path = '/%06d' % self.number
        return path, self.send(path, method, **kw)

    def state(self):
        g = self.group('hub')
        return g['slots'], g['in_flight'], g['queue']['len'], g['orphans'], g['refused'], g['restarts']

    def stands(self, slots, inside, waiting):
        """Wait for these figures, to which the busy worker's are added."""
        self.wait_status(lambda s: [(g['slots'], g['in_flight'], g['queue']['len']) for g in s['groups']]
                         == [(slots + 1, inside + 1, waiting)], LATE)

    def serve(self, worker):
        """The next request whole, answered with its path, which is the result."""
        r = worker.read_request()
        self.count(r.target)
        worker.send(answer(r.target))
        return r.target

    def answered(self, path, client):
        """Its answer is that of a worker that was not cut."""
        client.timeout = LATE
        r = client.read_response()
        assert (r.status, r.complete, r.body) == (200, True, path.encode()), (path, r)

    def wave(self, kind, pairs, size, twice=False):
        """All of that at once, then whoever was cut is asked to be elsewhere, or is told what has happened."""
        method, body = KINDS[kind]
        before, repeats = self.state(), metric(self, 'ldcorn_retries_total')
        with contextlib.ExitStack() as stack:
            workers = stack.enter_context(Cuts(self, self.how, pairs, size))
            self.stands(len(pairs), 0, 0)
            clients = dict(self.ask(method, **({} if body is None else {'body': body})) for _ in pairs)
            for c in clients.values():
                stack.enter_context(c)
            self.stands(len(pairs), len(pairs), 0)
            later, last = self.ask('POST', body=b'later')
            stack.enter_context(last)
            self.stands(len(pairs), len(pairs), 1)
            taken = workers.take()
            assert taken.keys() == clients.keys()
            for path, (n, _) in taken.items():
                self.count(path, n == size)
            again = {path for path, (_, data) in taken.items() if kind == 'get' and not data}
            start = time.monotonic()
            workers.cut()
            on = [path for path in clients if path not in again and self.check(path, clients[path], taken[path][1])]
            self.stands(0, 0, len(again) + 1)
            assert time.monotonic() - start < LATE
            assert all(clients[path].silent(0) for path in again) and last.silent(0)
            if twice:
                on += self.cut_again(clients, again, pairs, size)
            with self.dial() as good:
                if not twice:                                # they stand before whoever has come behind them
                    assert {self.serve(good) for _ in again} == again
                    for path in again:
                        self.answered(path, clients[path])
                    on += again
                assert self.serve(good) == later
                self.answered(later, last)
                fresh = {path: self.next(clients[path]) for path in on}
                served = {self.serve(good) for _ in on}
                assert served == set(fresh.values())
                for path, new in fresh.items():
                    self.answered(new, clients[path])
                assert good.silent(0), good.recv_some()
            self.stands(0, 0, 0)
            for path in clients:
                assert self.begun[path] == (2 if path in again else 1), path
                assert self.ran[path] <= 1 or path in again, path
            assert {self.begun[path] for path in [later, *fresh.values()]} == {1}
            assert self.state() == before
            assert metric(self, 'ldcorn_retries_total') == repeats + len(again), self.access()[-len(pairs):]

    def cut_again(self, clients, again, pairs, size):
        """A request goes back once: of those that are cut where they were sent anew nobody is left."""
        with Cuts(self, self.how, pairs, size) as workers:
            taken = workers.take()
            assert taken.keys() == again
            for path, (n, _) in taken.items():
                self.count(path, n == size)
            workers.cut()
            on = [path for path in again if self.check(path, clients[path], b'')]
            self.stands(0, 0, 1)
        return on

    def next(self, client):
        """One more request on the same connection; its path."""
        self.number += 1
        client.send(head('GET', '/%06d' % self.number))
        return '/%06d' % self.number

    def check(self, path, client, data):
        """What the client is told of a worker that was cut when it had sent `data`. -> may it go on?"""
        client.timeout = LATE
        r = client.read_response()
        parts = data.split(b'\r\n\r\n', 2)
        assert [i.status for i in r.interim] == ([103] if b' 103 ' in parts[0] and parts[1:] else [])
        if r.interim:
            parts = parts[1:]
        if len(parts) == 1:                                  # no head of an answer: nothing of it is passed on
            assert (r.status, r.complete) == (502, True) and b'worker ended the connection' in r.body, (data, r)
            self.told[path] = (502, 'reset')
            return True
        whole = b'Server: ' in parts[0] and self.how != 'rst'
        body = parts[1] if b'chunked' not in parts[0] else b'done'
        assert r.status == 200 and r.complete == whole and b'done'.startswith(r.body.split(b'\r')[0]), (data, r)
        assert (r.body == body or b'chunked' in parts[0]) and (whole or client.eof(LATE)), (data, r)
        self.told[path] = (200, '' if whole else 'reset')
        return whole

    def logged(self):
        """One line for each, and it says what the client was told."""
        records = wait_for(lambda: (lambda all: len(all) >= self.number and all)(self.access()), LATE)
        assert len(records) == self.number == len({r['target'] for r in records})
        got = {r['target']: (r['status'], r['reason']) for r in records}
        assert not [(path, self.told.get(path, (200, '')), got[path]) for path in got
                    if got[path] != self.told.get(path, (200, ''))]


def pieces(all):
    return [all[i:i + MANY] for i in range(0, len(all), MANY)]


@pytest.mark.parametrize('kind, how', [(k, h) for k in KINDS for h in HOWS if (k, h) != ('get-with-body', 'kill')])
def test_a_worker_is_cut_at_each_byte_of_a_request(kind, how):
    """All of it was sent, so it may have run: a POST is never sent again, a GET without a body once."""
    size = request_size(kind)
    with Cut(how) as p:
        for part in pieces([(n, b'') for n in range(size + 1)]):
            p.wave(kind, part, size)
            if kind == 'get' and how != 'kill':
                p.wave(kind, part, size, twice=True)


@pytest.mark.whole                                    # what the client could not take yet is not waited for
@pytest.mark.parametrize('how', HOWS)
@pytest.mark.parametrize('kind', ['post', 'get'])
def test_a_worker_is_cut_at_each_byte_of_an_answer(kind, how):
    """An answer that has begun is not asked for again: 502 until its head is whole, from there on it is cut."""
    size = request_size(kind)
    with Cut(how) as p:
        all = [(size, full[:m]) for name, full in ANSWERS.items()
               for m in range(1, len(full) + (name == 'until-close'))]
        for part in pieces(all):
            p.wave(kind, part, size)


@pytest.mark.parametrize('how', HOWS[:3])
def test_a_worker_is_cut_at_each_byte_that_was_sent(how):
    """A body that is passed on as it comes: its client has sent so much of it and no more."""
    with Cut(how, 'request_buffer = 0\n') as p:
        start = request_size('post') - len(BODY)
        for k in range(len(BODY)):
            with Cuts(p, how, [(start + k, b'')], start + k) as workers, p.connect() as c:
                p.stands(1, 0, 0)
                p.number += 1
                path = '/%06d' % p.number
                c.send(head('POST', path, body=BODY)[:k - len(BODY)])
                assert list(workers.take()) == [path]
                workers.cut()
                p.check(path, c, b'')
                assert c.eof(LATE), 'what is left of the body is not waited for'
                p.stands(0, 0, 0)
        with p.dial() as w:
            path, c = p.ask('POST', body=BODY)
            assert p.serve(w) == path
            p.answered(path, c)
        p.stands(0, 0, 0)


@pytest.mark.parametrize('how', HOWS)
def test_connections_that_ended_before_a_byte_was_sent(how):
    """Of those that end while idle nobody loses a request, be it found in the turn in which the requests come."""
    with Cut(how) as p:
        with Cuts(p, how, 40 * [(1, b'')], 1) as gone, p.dial() as good:
            p.stands(41, 0, 0)
            p.signal(signal.SIGSTOP)
            gone.cut()
            clients = dict(p.ask('POST', body=BODY) for _ in range(40))
            p.signal(signal.SIGCONT)
            assert {p.serve(good) for _ in clients} == set(clients)
            for path, c in clients.items():
                p.answered(path, c)
                assert p.begun[path] == 1
            p.stands(1, 0, 0)
        p.stands(0, 0, 0)
        assert metric(p, 'ldcorn_retries_total') == 0


@pytest.mark.parametrize('how', ['close', 'rst', 'unix'])
def test_a_connection_that_ends_with_its_answer(how):
    """What waits is not sent down a connection that ended before a byte of it was sent."""
    with Cut(how) as p:
        for _ in range(5):
            size = request_size('post')
            with Cuts(p, how, [(size, b'')], size) as gone:
                p.stands(1, 0, 0)
                first, c = p.ask('POST', body=BODY)
                gone.take()
                path, next = p.ask('POST', body=BODY)
                p.stands(1, 1, 1)
                p.signal(signal.SIGSTOP)
                gone.socks[0].sendall(answer(first))
                gone.cut()
                p.signal(signal.SIGCONT)
                p.answered(first, c)
                with p.dial() as good:
                    wait_for(lambda: not next.silent(0) or not good.silent(0))
                    assert next.silent(0), 'nothing but its end stood behind that answer, and yet it was sent there'
                    assert p.serve(good) == path
                    p.answered(path, next)
                p.stands(0, 0, 0)


def test_most_connections():
    with Hub('workers = 2\n') as p:
        kept = [p.dial(), p.dial()]
        p.slots(2)
        with p.dial() as third:
            assert third.eof()
        p.wait_log(r'warn  hub: a worker that dialled in was turned away: there are `workers` of them already')
        kept[0].close()
        p.slots(1)
        with p.dial():
            p.slots(2)


def test_dial_allow():
    port = free_port()
    text = 'listen = {listen}\nadmin = {admin}\n[hub]\nroutes = *\ndial_in = 0.0.0.0:%d\ndial_allow = %s\n'
    with Proxy(text % (port, '10.0.0.0/8')) as p, socket.create_connection(('127.0.0.1', port)) as s:
        assert s.recv(1) == b''
        p.wait_log(r'turned away: its address is not in `dial_allow`.*127\.0\.0\.1')
    with Proxy(text % (port, '127.0.0.0/8')) as p, socket.create_connection(('127.0.0.1', port)):
        p.wait_status(lambda s: s['groups'][0]['slots'] == 1)


def test_the_socket_file_has_a_mode():
    with Hub() as p:
        assert os.stat(p.where[5:]).st_mode & 0o777 == 0o600
    with Proxy('listen = {listen}\nadmin = {admin}\n[hub]\nroutes = *\ndial_in = unix:{dir}/hub mode=0660\n') as p:
        assert os.stat(p.dir + '/hub').st_mode & 0o777 == 0o660


def test_connections_survive_a_reload():
    with Hub() as p, p.dial() as idle, p.dial() as busy:
        p.slots(2)
        c = p.send('/x')
        w, other = wait_for(lambda: next(([w, o] for w, o in ((idle, busy), (busy, idle)) if not w.silent(0.01)), None))
        w.read_request()
        p.write_config(p.config_text.replace('[hub]\n', '[hub]\nqueue = 5\n').replace('routes = *', 'routes = / /y'))
        assert p.admin('POST', '/reload')[0] == 200
        w.send(OK)
        assert c.read_response().status == 200 and p.group('hub')['slots'] == 2 and p.group('hub')['queue']['cap'] == 5
        with p.send('/y') as c:
            other.read_request()
            other.send(OK)
            assert c.read_response().status == 200


def test_a_reload_that_moves_or_removes_the_address():
    with Hub(tcp=True) as p, p.dial() as old:
        p.slots(1)
        port = free_port()
        before = p.where
        p.write_config(p.config_text.replace(before, '127.0.0.1:%d' % port))
        assert p.admin('POST', '/reload')[0] == 200
        p.slots(1)                                       # who is there stays
        with pytest.raises(ConnectionRefusedError):
            p.dial()
        p.where = '127.0.0.1:%d' % port
        with p.dial():
            p.slots(2)
        p.write_config(p.config_text.replace('[hub]', '[other]').replace('dial_in = ' + before, 'upstream = 127.0.0.1:1'))
        assert p.admin('POST', '/reload')[0] == 200
        assert old.eof()


def test_a_stop_serves_what_is_inside_and_closes_idle_ones():
    with Hub() as p, p.dial() as a, p.dial() as b:
        p.slots(2)
        c = p.send('/')
        w, other = wait_for(lambda: next(([w, o] for w, o in ((a, b), (b, a)) if not w.silent(0.01)), None))
        w.read_request()
        p.signal(signal.SIGTERM)
        p.wait_log('stopping')
        w.send(OK)
        assert c.read_response().status == 200 and other.eof() and w.eof()
        p.wait_exit()


def test_upgrades_over_a_dialled_connection():
    with Hub() as p, p.dial() as w:
        p.slots(1)
        c = p.send('/ws', headers={'Connection': 'Upgrade', 'Upgrade': 'websocket'})
        w.read_request()
        w.send(b'HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello')
        assert c.read_response().status == 101 and c.read_exact(5) == b'hello'
        c.send(b'ping')
        assert w.read_exact(4) == b'ping'
        p.slots(0)
        c.close()
        assert w.eof()


def test_run_timeout_and_a_client_that_leaves():
    """After 504 the slot stays with the worker until it answers; then it is free again."""
    with Hub('run_timeout = 1s\n') as p, p.dial() as w:       # in which the second one is answered
        with p.send('/') as c:
            w.read_request()
            assert c.read_response().status == 504
        with p.send('/next') as c:
            p.queued(1)
            w.send(OK)
            assert w.read_request().target == '/next'
            w.send(OK)
            assert c.read_response().status == 200


@pytest.mark.parametrize('lines, hint', [
    ('dial_in = 0.0.0.0:9\n', 'dial_allow'), ('dial_in = unix:/tmp/x\nmax_req_per_worker = 1\n', 'does not go with `dial_in`'),
    ('dial_in = unix:/tmp/x\nhealth_path = /h\n', 'does not go with'), ('dial_in = unix:/tmp/x\nbalance = hash\n', 'no index'),
    ('dial_in = unix:/tmp/x\ncmd = true {socket}\n', 'twice what to run'), ('dial_in = unix:/tmp/x\non_timeout = restart\n', 'processes of our own'),
    ('dial_in = 127.0.0.1:1 127.0.0.1:2\n', 'one address'), ('dial_in = nowhere\n', 'host:port'),
    ('dial_in = unix:/tmp/x\ndial_allow = everybody\n', 'not a network'),
    ('dial_in = unix:/tmp/x\n[b]\nroutes = /b\ndial_in = unix:/tmp/x\n', 'dials in at')])
def test_what_is_refused(lines, hint):
    run = cli('-t', 'groups.ini', config='[a]\nroutes = *\n' + lines)
    assert run.status == 2 and hint in run.err and re.search(r'^groups\.ini:\d+:\d+: ', run.err, re.M), run


# --- names ---

@pytest.mark.needs('unknown-names')
def test_names_are_resolved_at_the_start_and_at_each_reload():
    name = socket.gethostname()
    try:
        ip = socket.gethostbyname(name)
    except OSError:
        pytest.skip('this machine does not know its own name')
    with AutoWorker(lambda r, c: OK) as a, AutoWorker(lambda r, c: answer('b')) as b:
        ports = [w.address.rsplit(':', 1)[1] for w in (a, b)]
        if ip != '127.0.0.1':
            pytest.skip('its name is not loopback')
        with Proxy('listen = {listen}\nadmin = {admin}\n[web]\nroutes = *\nupstream = %s:%s\n' % (name, ports[0])) as p:
            with p.connect() as c:
                assert c.ask('GET', '/').body == b'ok'
            assert [w['address'] for w in p.group('web')['workers']] == ['127.0.0.1:' + ports[0]]
            p.write_config(p.config_text.replace(name + ':' + ports[0], '%s:%s %s:%s 127.0.0.1:%s' % (name, ports[1], name, ports[1], ports[1])))
            assert p.admin('POST', '/reload')[0] == 200
            p.wait_status(lambda s: [w['address'] for w in s['groups'][0]['workers']] == ['127.0.0.1:' + ports[1]])
            with p.connect() as c:
                assert c.ask('GET', '/').body == b'b'
            p.write_config(p.config_text.replace(name + ':' + ports[1], 'no-such-host.invalid:80', 1))
            code, _, body = p.admin('POST', '/reload')
            assert code == 409 and b'cannot resolve `no-such-host.invalid:80`' in body and b'groups.ini:5:12' in body, body
            with p.connect() as c:
                assert c.ask('GET', '/').body == b'b'
            for _ in range(5):
                p.signal(signal.SIGHUP)
            p.wait_status(lambda s: not s['reloading'])
            assert p.alive()


@pytest.mark.needs('unknown-names')
def test_a_name_that_is_not_known_at_the_start():
    run = cli('groups.ini', config='[web]\nroutes = *\nupstream = no-such-host.invalid:80\n')
    assert run.status == 1 and 'groups.ini:3:12: cannot resolve `no-such-host.invalid:80`' in run.err, run


class Slow:
    """The program with a resolver that hangs while {dir}/slow is there. `stops`: its child is stopped and cannot even end."""

    def __init__(self, tmp_path, monkeypatch, stops):
        monkeypatch.setattr(harness, 'BIN', harness.built('embed/slow_names.c', '-O1', '-g', '-DLDCORN_AUDIT'))
        self.mark = tmp_path / 'slow'
        self.env = {'SLOW_NAMES': str(self.mark)}
        if stops:
            self.env['SLOW_STOPS'] = 'yes'


@pytest.mark.slow
@pytest.mark.parametrize('stops', [False, True])
def test_a_resolver_that_hangs(tmp_path, monkeypatch, stops):
    """It ends a reload and a start with the place of the name; meanwhile requests are served."""
    slow = Slow(tmp_path, monkeypatch, stops)
    with AutoWorker(lambda r, c: OK) as a:
        port = a.address.rsplit(':', 1)[1]
        config = 'listen = {listen}\nadmin = {admin}\n[web]\nroutes = *\nupstream = 127.0.0.1:%s there:%s\n' % (port, port)
        with Proxy(config, env=slow.env) as p, p.connect() as c:
            slow.mark.touch()
            p.signal(signal.SIGHUP)
            p.wait_status(lambda s: s['reloading'])
            while p.status()['reloading']:
                assert c.ask('GET', '/').body == b'ok'
            last = p.status()['last_reload']
            assert last['result'] == 'failed' and 'groups.ini:5:28: `there:%s` was not resolved within 5s' % port in last['error'], last
            slow.mark.unlink()
            p.signal(signal.SIGHUP)
            p.wait_status(lambda s: s['last_reload']['result'] == 'ok')
            assert c.ask('GET', '/').body == b'ok'
        slow.mark.touch()
        run = cli('groups.ini', config='[web]\nroutes = *\nupstream = there:80\n', env=slow.env)
        assert run.status == 1 and 'groups.ini:3:12: `there:80` was not resolved within 5s' in run.err, run


def test_mistyped_addresses_are_no_names():
    for text in ('1.2.3:80', '1.2.3.4.5:80', 'a b:80'.split()[0], 'host:0', 'host:http', '-:80', 'a/b:80'):
        run = cli('-t', 'groups.ini', config='[web]\nroutes = *\nupstream = %s\n' % text)
        assert run.status == 2, (text, run)


# --- dynamic groups, join and quit ---

def do(p, method, address, code=200, group='pool'):
    got, _, body = p.admin(method, '/groups/%s/workers?address=%s' % (group, address))
    assert got == code, (got, body)
    return body.decode()


def addresses(p):
    return [w['address'] for w in p.group('pool')['workers'] if w['state'] == 'ready']


def pool(upstream='dynamic'):
    return Proxy('listen = {listen}\nadmin = {admin}\n[pool]\nroutes = *\nupstream = %s\n' % upstream)


def test_join_and_quit():
    with AutoWorker(lambda r, c: answer('a')) as a, AutoWorker(lambda r, c: answer('b'), unix=True) as b, pool() as p:
        with p.connect() as c:
            assert c.ask('GET', '/').status == 503
        do(p, 'POST', a.address)
        p.wait_status(lambda s: addresses(p) == [a.address])
        do(p, 'POST', b.address)
        p.wait_status(lambda s: addresses(p) == [a.address, b.address])
        assert 'pid 0' not in p.log(), 'it has no process'
        with p.connect() as c:
            assert {c.ask('GET', '/').body for _ in range(8)} == {b'a', b'b'}
        assert p.admin('POST', '/reload')[0] == 200
        assert addresses(p) == [a.address, b.address], 'what joined stays at a reload'
        do(p, 'DELETE', a.address)
        p.wait_status(lambda s: addresses(p) == [b.address])
        with p.connect() as c:
            assert {c.ask('GET', '/').body for _ in range(4)} == {b'b'}


def test_quit_holds_until_the_list_is_edited():
    with AutoWorker(lambda r, c: answer('a')) as a, AutoWorker(lambda r, c: answer('b')) as b, pool('%s %s' % (a.address, b.address)) as p:
        do(p, 'DELETE', a.address)
        p.wait_status(lambda s: addresses(p) == [b.address])
        assert p.admin('POST', '/reload')[0] == 200
        assert addresses(p) == [b.address]
        p.write_config(p.config_text.replace(a.address + ' ' + b.address, b.address + ' ' + a.address))
        assert p.admin('POST', '/reload')[0] == 200
        p.wait_status(lambda s: sorted(addresses(p)) == sorted([a.address, b.address]))
        do(p, 'DELETE', a.address)
        do(p, 'POST', a.address)
        p.wait_status(lambda s: len(addresses(p)) == 2)


def test_quit_finishes_what_is_inside():
    with FakeWorker() as w, pool(w.address) as p:
        with p.connect() as c:
            c.send(head('GET', '/'))
            _, conn = w.one()
            do(p, 'DELETE', w.address)
            conn.send(OK)
            assert c.read_response().status == 200
        p.wait_status(lambda s: s['groups'][0]['workers'] == [])


def test_join_and_quit_errors():
    with AutoWorker(lambda r, c: OK) as w, Proxy(
            'listen = {listen}\nadmin = {admin}\n[pool]\nroutes = *\nupstream = %s\n[own]\nroutes = /own\ndial_in = unix:{dir}/d\n' % w.address) as p:
        assert 'already' in do(p, 'POST', w.address, 409)
        assert 'not in' in do(p, 'DELETE', '127.0.0.1:1', 404)
        assert 'not an address' in do(p, 'POST', 'nowhere', 400) and 'not an address' in do(p, 'POST', '', 400)
        assert 'no `upstream`' in do(p, 'POST', '127.0.0.1:1', 409, 'own')
        assert p.admin('DELETE', '/groups/pool/pause')[0] == 405
