"""examples/dial_worker.c between a hub and servers that the test plays. With sanitizers where the hub has them."""
import fcntl, os, re, signal, socket, subprocess, tempfile, threading, time

import pytest
from harness import BIN, REPO, TIMEOUT, AutoWorker, FakeWorker, Proxy, answer, complaints, free_port, head, readable, request, wait_for
from procs import children, descriptors

OK = answer('ok')
BIG = bytes(i % 251 for i in range(10 << 20))


def built():
    """build/dial_worker, or build/dial_worker-asan beside a hub with sanitizers."""
    target = 'build/dial_worker' + ('-asan' if 'asan' in os.path.basename(BIN) else '')
    with open(os.path.join(tempfile.gettempdir(), 'ldcorn-dial-%d.lock' % os.getuid()), 'w') as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        subprocess.run(['make', '-s', target], cwd=REPO, check=True)
    return os.path.join(REPO, target)


class Hub(Proxy):
    def __init__(self, group='', top='', **kw):
        self.dial = '127.0.0.1:%d' % free_port()
        super().__init__('listen = {listen}\nadmin = {admin}\naccess_log = {dir}/access\n%s[hub]\nroutes = *\ndial_in = %s\n%s'
                         % (top, self.dial, group), **kw)

    def figure(self, name):
        g = self.group('hub')
        return g['queue']['len'] if name == 'queued' else g[name]

    def wait(self, **figures):
        wait_for(lambda: all(self.figure(n) == v for n, v in figures.items()), what=figures)

    def send(self, target='/', method='GET', **kw):
        return self.connect().send(head(method, target, **kw))


class Runner:
    """The program, its log awaited as an event. Ends by TERM with status 0, unless the test ended it."""

    def __init__(self, hub, *args, wait=None):
        self.hub, self.text, self.status = hub, b'', 0
        self.proc = subprocess.Popen([built(), hub.dial if isinstance(hub, Hub) else hub] + list(args),
                                     stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        if wait is not None:
            hub.wait(slots=wait)

    def _read(self):
        for line in self.proc.stderr:
            self.text += line

    def log(self, regex):
        return wait_for(lambda: re.search(regex, self.text.decode()), what='%s in %r' % (regex, self.text))

    def term(self):
        self.proc.send_signal(signal.SIGTERM)

    def term_taken(self):
        """TERM, and wait until it has closed the pipe that tells the slots: a second one before would be the same one."""
        before = len(descriptors(self.proc.pid))
        self.term()
        wait_for(lambda: len(descriptors(self.proc.pid)) < before, what='the end of a pipe')

    def slots(self):
        return children(self.proc.pid)

    def hub_socket(self):
        """The one socket of the one slot while no request runs; the same one means that it was kept."""
        slot, = self.slots()

        def alone():
            names = [to for to in descriptors(slot).values() if to.startswith('socket:')]
            return names[0] if len(names) == 1 else None
        return wait_for(alone, what='one socket')

    def ended(self, status=0):
        self.status = None
        assert self.proc.wait(TIMEOUT) == status

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        children = self.slots() if self.proc.poll() is None else []
        self.term()
        try:
            self.proc.wait(TIMEOUT if kind is None else 1)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()
            for pid in children:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        self.reader.join(TIMEOUT)
        print(self.text.decode())
        if kind is None:
            assert self.status is None or self.proc.returncode == self.status
            assert not complaints(self.text.decode()), self.text.decode()


@pytest.mark.parametrize('unix', [False, True])
def test_one_slot_serves_many_requests_in_order(unix):
    """Down one and the same connection, and one after the other."""
    with FakeWorker(unix) as s, Hub() as p, Runner(p, '--to', s.address, wait=1) as w:
        dialled = w.hub_socket()
        clients = [p.send('/0')]
        first, conn = s.one()
        for i in range(1, 12):
            clients.append(p.send('/%d' % i))
            p.wait(queued=i)
        assert first.target == '/0' and s.no_connection()
        conn.send(answer('/0'))
        for i, c in enumerate(clients):
            if i:
                r, conn = s.one(answer('/%d' % i))
                assert r.target == '/%d' % i
            assert c.read_response().body == b'/%d' % i
        assert w.hub_socket() == dialled


def test_more_jobs_than_slots_wait():
    with FakeWorker() as s, Hub() as p, Runner(p, '--to', s.address, '--slots', '3', wait=3):
        clients = [p.send('/') for _ in range(5)]
        inside = [s.one()[1] for _ in range(3)]
        p.wait(in_flight=3, queued=2)
        assert s.no_connection()
        inside[1].send(OK)
        s.one(OK)
        s.one(OK)
        inside[0].send(OK)
        inside[2].send(OK)
        assert all(c.read_response().body == b'ok' for c in clients)


def test_the_request_as_the_server_sees_it():
    """The hub's head, for a connection that carries this request alone."""
    with FakeWorker() as s, Hub() as p, Runner(p, '--to', s.address):
        with p.send('/a?b=c', 'PUT', headers={'Host': 'x.y', 'Cookie': 'a=b'}, body=b'12345') as c:
            r, _ = s.one(OK)
            assert (r.method, r.target, r.body) == ('PUT', '/a?b=c', b'12345')
            assert r.get('host') == 'x.y' and r.get('cookie') == 'a=b' and r.get('connection') == 'close'
            assert re.fullmatch(r'1\.1 ldcorn-[0-9a-f]{8}', r.get('via')) and r.get('x-forwarded-host') == 'x.y' and r.get('content-length') == '5'
            assert c.read_response().body == b'ok'


@pytest.mark.parametrize('method, raw, status, body', [
    ('HEAD', b'HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n', 200, b''),
    ('GET', b'HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n', 204, b''),
    ('GET', b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nContent-Length: 9\r\n\r\n', 304, b''),
    ('GET', b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n', 200, b''),
    ('GET', b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nT: u\r\n\r\n', 200, b'hello!'),
    ('GET', b'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok', 200, b'ok'),
    ('GET', b'HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok', 200, b'ok')])
def test_answers_that_keep_the_slot(method, raw, status, body):
    """Whole, and in two pieces cut at any place."""
    with FakeWorker() as s, Hub() as p, Runner(p, '--to', s.address, wait=1) as w:
        dialled = w.hub_socket()
        for cut in [None] + list(range(1, len(raw), 5)):
            with p.send('/', method) as c:
                conn = s.one(raw[:cut])[1]
                if cut:
                    time.sleep(0.001)
                    conn.send(raw[cut:])
                r = c.read_response(method)
                assert (r.status, r.body, r.complete) == (status, body, True)
                assert method != 'HEAD' or r.get('content-length') == '77'
            conn.close()
        assert w.hub_socket() == dialled


def test_an_answer_that_ends_with_its_connection():
    with FakeWorker() as s, Hub() as p, Runner(p, '--to', s.address):
        for _ in range(3):
            with p.send('/') as c:
                s.one(b'HTTP/1.1 200 OK\r\n\r\nup to the end')[1].close()
                assert c.read_response().body == b'up to the end'


@pytest.mark.parametrize('raw', [b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhal', b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhal',
                                 b'HTTP/1.1 200 OK\r\n\r\nhal'])
def test_an_answer_that_is_cut_stays_cut(raw):
    with FakeWorker() as s, Hub() as p, Runner(p, '--to', s.address, wait=1):
        with p.send('/') as c:
            conn = s.one(raw)[1]
            c.peek_until(b'hal')
            conn.rst()
            r = c.read_response()
            assert r.status == 200 and not r.complete
        with p.send('/') as c:
            s.one(OK)
            assert c.read_response().body == b'ok'


@pytest.mark.parametrize('raw', [b'', b'HTTP/1.1 200', b'SSH-2.0-x\r\n\r\n', b'HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n',
                                 b'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab'])
def test_a_server_without_a_proper_answer(raw):
    with FakeWorker() as s, Hub() as p, Runner(p, '--to', s.address):
        with p.send('/', 'POST', body=b'x') as c:
            s.one(raw)[1].close()
            r = c.read_response()
            assert r.status == 502 and b"worker's server" in r.body
        with p.send('/') as c:
            s.one(OK)
            assert c.read_response().status == 200


def test_the_server_is_down_and_comes_back():
    """502 to that request; the slot waits before it takes the next."""
    port = free_port()
    with Hub() as p, Runner(p, '--to', '127.0.0.1:%d' % port, wait=1) as w:
        with p.send('/', 'POST', body=b'y' * 300000) as c:
            r = c.read_response()
            assert r.status == 502 and b'cannot reach its server' in r.body
        w.log('127.0.0.1:%d: Connection refused' % port)
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(('127.0.0.1', port))
        server.listen(5)
        with p.send('/') as c, server:
            conn = server.accept()[0]
            with conn:
                conn.recv(65536)
                conn.sendall(OK)
                assert c.read_response().body == b'ok'


def test_bodies_of_10_megabytes_both_ways():
    chunked = b''.join(b'%x\r\n%s\r\n' % (len(BIG[i:i + 70000]), BIG[i:i + 70000]) for i in range(0, len(BIG), 70000)) + b'0\r\n\r\n'
    length = answer(BIG)

    def serve(r, c):
        assert r.method != 'POST' or r.body == BIG
        return length if r.target == '/length' else b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n' + chunked
    with AutoWorker(serve) as s, Hub() as p, Runner(p, '--to', s.address, wait=1):
        with p.connect() as c:
            for target in ('/length', '/chunked'):
                assert c.ask('GET', target).body == BIG
                assert c.ask('POST', target, body=BIG).body == BIG
                c.send(head('POST', target, {'Transfer-Encoding': 'chunked'}) + chunked)
                assert c.read_response().body == BIG
        assert not s.errors


def rss(pid):
    with open('/proc/%d/status' % pid) as f:
        return int(re.search(r'VmRSS:\s+(\d+)', f.read()).group(1))


def test_back_pressure_both_ways():
    """A reader that does not read stops the writer: the runner holds one piece, not the body."""
    with FakeWorker(unix=True) as s, Hub('request_buffer = 0\nresponse_buffer = 64K\nclient_abort = close\nmax_body = none\n') as p:
        with Runner(p, '--to', s.address, wait=1) as w:
            slot, = w.slots()
            before = rss(slot)
            with p.connect() as c:
                c.send(head('POST', '/', {'Content-Length': str(1 << 30)}))
                conn = s.accept()
                conn.read_head()
                sent = c.send_some(bytes(128 << 20), 0.5)
                assert sent < 100 << 20              # two pairs of TCP sockets, each of which may hold 32M and 4M to send
            conn.close()
            with p.send('/') as c:
                conn = s.accept()
                conn.read_request()
                conn.send(b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n' % (1 << 30))
                assert conn.send_some(bytes(128 << 20), 0.5) < 100 << 20
                assert rss(slot) - before < 8192 or 'asan' in BIN
            conn.close()
            with p.send('/') as c:
                s.one(OK)
                assert c.read_response().body == b'ok'


def test_an_answer_before_the_end_of_the_request():
    """413 while the body still comes: it arrives, whatever was on its way."""
    with FakeWorker() as s, Hub('request_buffer = 0\nmax_body = none\n') as p, Runner(p, '--to', s.address):
        for _ in range(3):
            with p.connect() as c:
                c.send(head('POST', '/', {'Content-Length': str(50 << 20)}) + bytes(200000))
                conn = s.accept()
                conn.read_head()
                conn.send(answer('no', '413 Content Too Large', [('Connection', 'close')]))
                conn.close()
                r = c.read_response()
                assert r.status == 413 and r.body == b'no'


def test_the_end_of_an_early_answer_is_not_overtaken():
    """A hub that goes on sending gets it, not a reset."""
    with FakeWorker() as s, FakeWorker() as hub, Runner(hub.address, '--to', s.address):
        h = hub.accept_bare()
        h.send(head('POST', '/', {'Content-Length': str(50 << 20)}))
        conn = s.accept()
        conn.read_head()
        conn.send(answer('no', '413 Content Too Large')).close()
        for _ in range(4):
            time.sleep(0.05)
            h.send(bytes(100000))
        got = h.read_all()
        assert got.startswith(b'HTTP/1.1 413') and b'\r\nConnection: close\r\n' in got and got.endswith(b'no') and not h.was_reset


def test_a_server_that_stops_reading_can_still_answer():
    with FakeWorker(unix=True) as s, Hub('request_buffer = 0\nmax_body = none\n') as p, Runner(p, '--to', s.address), p.connect() as c:
        c.send(head('POST', '/', {'Content-Length': str(1 << 20)}))
        conn = s.accept()
        conn.read_head()
        conn.sock.shutdown(socket.SHUT_RD)
        c.send(bytes(200000))
        time.sleep(0.1)
        conn.send(OK)
        c.send(bytes((1 << 20) - 200000))
        assert c.read_response().body == b'ok'


def test_a_client_that_leaves():
    """The hub ends the connection (client_abort = close): so ends the one to the server."""
    with FakeWorker() as s, Hub('client_abort = close\n') as p, Runner(p, '--to', s.address):
        with p.send('/'):
            conn = s.one()[1]
        assert conn.eof(TIMEOUT)
        with p.send('/') as c:
            s.one(OK)
            assert c.read_response().body == b'ok'


def test_websockets():
    with FakeWorker() as s, Hub() as p, Runner(p, '--to', s.address, wait=1):
        with p.send('/ws', headers={'Connection': 'Upgrade', 'Upgrade': 'websocket', 'Sec-WebSocket-Key': 'k'}) as c:
            r, conn = s.one(b'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX: y\r\n\r\nhello')
            assert r.get('upgrade') == 'websocket' and r.get('connection') == 'upgrade' and r.get('sec-websocket-key') == 'k'
            r = c.read_response()
            assert r.status == 101 and r.get('x') == 'y' and c.read_exact(5) == b'hello'
            threading.Thread(target=lambda: c.send(BIG), daemon=True).start()
            assert conn.read_exact(len(BIG)) == BIG
            conn.send(BIG)
            assert c.read_exact(len(BIG)) == BIG
            conn.close()
            assert c.eof(TIMEOUT)
        with p.send('/') as c:                       # and the slot is back
            s.one(OK)
            assert c.read_response().body == b'ok'


def test_the_hub_restarts():
    with AutoWorker() as s, Hub() as p:
        with Runner(p, '--to', s.address, '--slots', '2', wait=2) as w:
            p.stop()
            w.log('Connection refused; trying again')
            with Hub(port=p.port) as again:
                again.write_config(again.config_text.replace(again.dial, p.dial))
                assert again.admin('POST', '/reload')[0] == 200
                again.wait(slots=2)
                assert request(again, 'GET', '/').body == b'ok'
                w.log('dial_worker [12]: %s: connected' % p.dial)
        assert p.status is not None


def test_the_hub_turns_it_away():
    """It says so once and comes back, but not in a tight loop."""
    listener = socket.socket()
    listener.bind(('127.0.0.1', 0))
    listener.listen(50)
    listener.settimeout(TIMEOUT)
    with listener, Runner('127.0.0.1:%d' % listener.getsockname()[1], '--demo') as w:
        start = time.monotonic()
        for _ in range(5):
            listener.accept()[0].close()
        assert time.monotonic() - start > 0.05 + 0.1 + 0.2 + 0.4
        w.log('closed before a request came')
        assert w.text.decode().count('closed before a request came') == 1


@pytest.mark.parametrize('sig', [signal.SIGTERM, signal.SIGINT])
def test_term_finishes_the_running_request(sig):
    """Also when a supervisor signals all of its processes. What waits at the hub is for others."""
    with FakeWorker() as s, Hub() as p, Runner(p, '--to', s.address, '--slots', '2', wait=2) as w:
        clients = [p.send('/running', 'POST', body=b'x')]
        conn = s.one()[1]
        for pid in w.slots() + [w.proc.pid]:
            os.kill(pid, sig)
        p.wait(slots=1)
        clients.append(p.send('/waits', 'POST', body=b'x'))
        p.wait(queued=1)
        conn.send(OK)
        r = clients[0].read_response()
        assert r.status == 200
        w.ended(0)
        assert p.figure('queued') == 1
        with Runner(p, '--to', s.address):
            s.one(OK)
            assert clients[1].read_response().status == 200


def test_term_in_the_middle_of_an_answer_under_load():
    """Its head is out, so the hub sends the next one down at once: that is answered too."""
    with FakeWorker() as s, Hub() as p, Runner(p, '--to', s.address, wait=1) as w:
        first = p.send('/1', 'POST', body=b'x')
        conn = s.one(OK[:-1])[1]
        second = p.send('/2', 'POST', body=b'x')
        p.wait(queued=1)
        first.peek_until(b'o')
        w.term_taken()
        conn.send(OK[-1:])
        assert first.read_response().body == b'ok'
        s.one(OK)
        assert second.read_response().body == b'ok'
        w.ended(0)


def test_a_second_term_ends_it_at_once():
    with FakeWorker() as s, Hub() as p, Runner(p, '--to', s.address, wait=1) as w, p.send('/', 'POST', body=b'x') as c:
        s.one()
        w.term_taken()
        p.wait(in_flight=1)
        w.term()
        w.ended(1)
        assert c.read_response().status == 502


def test_tunnels_are_not_waited_for():
    with FakeWorker() as s, Hub() as p, Runner(p, '--to', s.address, wait=1) as w:
        with p.send('/ws', headers={'Connection': 'Upgrade', 'Upgrade': 'websocket'}) as c:
            s.one(b'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n')
            assert c.read_response().status == 101
            w.term()
            w.ended(0)
            assert c.eof(TIMEOUT)


@pytest.mark.parametrize('method, status', [('GET', 200), ('POST', 502)])
def test_a_slot_killed_in_the_middle_of_a_request(method, status):
    """What is safe goes to the slot that is started in its place; the rest is 502. The runner lives."""
    with FakeWorker() as s, Hub() as p, Runner(p, '--to', s.address, wait=1) as w:
        with p.send('/', method) as c:
            conn = s.one()[1]
            slot, = w.slots()
            os.kill(slot, signal.SIGKILL)
            assert conn.eof(TIMEOUT)
            w.log('slot 1 ended by signal 9')
            if status == 200:
                s.one(OK)
            assert c.read_response().status == status
        p.wait(slots=1)
        with p.send('/') as c:
            s.one(OK)
            assert c.read_response().status == 200


def test_the_first_process_killed():
    """Its slots finish what they run and end."""
    with FakeWorker() as s, Hub() as p, Runner(p, '--to', s.address, wait=1) as w, p.send('/') as c:
        conn = s.one()[1]
        w.status = None
        w.proc.kill()
        w.proc.wait()
        conn.send(OK)
        assert c.read_response().body == b'ok'
        p.wait(slots=0)
        w.reader.join(TIMEOUT)
        assert not w.reader.is_alive()               # nobody has its stderr any more


def test_the_c_function():
    with Hub() as p, Runner(p, '--demo', '--slots', '2', wait=2):
        for i in range(20):
            r = request(p, 'POST', '/x', body=b'z' * i)
            assert r.status == 200 and re.match(rb'POST /x with %d bytes, from slot [12], pid \d+\n' % i, r.body)
        start = time.monotonic()
        clients = [p.send('/slow') for _ in range(2)]
        assert {re.search(rb'slot (\d)', c.read_response().body).group(1) for c in clients} == {b'1', b'2'}
        assert 0.9 < time.monotonic() - start < 1.9
        assert request(p, 'HEAD', '/').status == 200
        assert request(p, 'POST', '/', body=bytes(900000)).body.startswith(b'POST / with 900000 bytes')


def test_the_c_function_finishes():
    with Hub() as p, Runner(p, '--demo', wait=1) as w, p.send('/slow') as c:
        p.wait(in_flight=1)
        w.term()
        assert c.read_response().status == 200
        w.ended(0)


class Machine:
    """/proc/stat of a machine with two processors, of which `idle` are idle, or none when somebody comes to `door`."""

    def __init__(self, path, idle):
        self.path, self.idle, self.door, self.ended, self.ticks = path, idle, None, False, [0, 0]
        self._write()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _write(self):
        with open(self.path + '.new', 'w') as f:
            busy, idle = self.ticks
            f.write('cpu  %d 0 0 %d 0 0 0 0 0 0\ncpu0 1 1 1 1 1\ncpu1 1 1 1 1 1\nintr 5\n' % (busy, idle))
        os.rename(self.path + '.new', self.path)

    def _run(self):
        while not self.ended:
            if self.door and readable([self.door], 0):
                self.idle, self.door = 0, None
            self.ticks[0] += round(100 * (2 - self.idle))
            self.ticks[1] += round(100 * self.idle)
            self._write()
            time.sleep(0.02)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended = True
        self.thread.join()


def test_idle_processors(tmp_path):
    """It dials only while there are as many as asked for, and an idle connection is given up."""
    with AutoWorker() as s, Hub() as p, Machine(str(tmp_path / 'stat'), 0.5) as m:
        with Runner(p, '--to', s.address, '--idle-cpus', '1', '--stat', m.path):
            with p.send('/', 'POST', body=b'x') as c:
                time.sleep(0.7)
                assert p.figure('slots') == 0 and p.figure('queued') == 1 and s.served == 0
                m.idle = 1.5
                assert c.read_response().body == b'ok'
            p.wait(slots=1)
            m.idle = 0.2
            p.wait(slots=0)
            m.idle = 2
            p.wait(slots=1)
            assert request(p, 'GET', '/').body == b'ok'


def test_idle_processors_are_looked_at_anew_before_each_request(tmp_path):
    """Four slots, five jobs that take a processor each: as many run as there are processors."""
    with FakeWorker() as s, Hub() as p, Machine(str(tmp_path / 'stat'), 0) as m:
        def one_more(idle):                          # and nobody else is let through before the test goes on
            m.door, m.idle = s.sock, idle
            wait_for(lambda: m.door is None)
            return s.one()[1]
        with Runner(p, '--to', s.address, '--slots', '4', '--idle-cpus', '0.9', '--stat', m.path):
            clients = [p.send('/') for _ in range(5)]
            first = one_more(2)
            second = one_more(1)
            assert s.no_connection(0.6)
            p.wait(slots=2, queued=3)
            first.send(OK)
            assert s.no_connection(0.6)              # that the slot is free again does not count
            third = one_more(1)
            assert s.no_connection(0.6)
            p.wait(slots=2, queued=2)
            m.idle = 2
            for conn in (second, third, s.one()[1], s.one()[1]):
                conn.send(OK)
            assert all(c.read_response().body == b'ok' for c in clients)


def test_idle_processors_of_this_machine():
    """The real figure: no machine has this many."""
    with AutoWorker() as s, Hub('queue_timeout = 1s\n') as p, Runner(p, '--to', s.address, '--idle-cpus', '4096') as w:
        assert request(p, 'GET', '/').status == 503
        w.log(r'waits until 4096 processors are idle, now \d+\.\d are\n')
    with AutoWorker() as s, Hub() as p, Runner(p, '--to', s.address, '--idle-cpus', '0'):
        assert request(p, 'GET', '/').status == 200


@pytest.mark.parametrize('args, hint', [
    ([], 'HUB is missing'), (['nowhere'], 'not host:port'), (['h:0', '--demo'], 'not host:port'), (['h:99999', '--demo'], 'not host:port'),
    (['[::1:5', '--demo'], 'not host:port'), (['unix:', '--demo'], 'not host:port'), (['unix:' + 'x' * 200, '--demo'], 'not host:port'),
    (['h:1'], 'one of these'), (['h:1', '--demo', '--to', 'h:2'], 'one of these'), (['h:1', 'h:2', '--demo'], 'more than one'),
    (['h:1', '--to'], 'without its value'), (['h:1', '--to', 'x'], 'not host:port'), (['h:1', '--demo', '--slots', '0'], '1 to 1024'),
    (['h:1', '--demo', '--slots', '2x'], '1 to 1024'), (['h:1', '--demo', '--slots', '1.5'], '1 to 1024'),
    (['h:1', '--demo', '--idle-cpus', 'all'], 'takes a number'), (['h:1', '--demo', '--what', '1'], 'unknown option: `--what`')])
def test_wrong_usage(args, hint):
    done = subprocess.run([built()] + args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, timeout=TIMEOUT)
    assert done.returncode == 2 and hint in done.stderr and 'usage: ' in done.stderr and done.stdout == ''


def test_help_and_version():
    for option, text in (('-h', 'usage: dial_worker HUB'), ('-v', 'dial_worker 0.')):
        done = subprocess.run([built(), option], stdout=subprocess.PIPE, universal_newlines=True, timeout=TIMEOUT)
        assert done.returncode == 0 and done.stdout.startswith(text)
