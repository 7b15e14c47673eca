"""Slots, the line before them, and what becomes of requests whose client or worker does not keep still."""
import asyncio, collections, os, random, re, signal, socket, struct, threading, time

import pytest
from harness import AutoWorker, FakeWorker, Proxy, answer, cli, free_port, head, upstream_config, wait_for
from procs import Before, Own, counter, cpu_seconds, metric

OK = answer(b'ok')
CLOSE = answer(b'ok', headers=[('Connection', 'close')])
LIMIT = 'max_req_per_worker = 1\n'
SOAK = float(os.environ.get('SOAK', '1'))


def leave(client, how):
    client.rst() if how == 'rst' else client.close()


# --- exactness ---

class Storm:
    """Many clients that mostly behave, and killed workers."""

    def __init__(self, proxy, requests, seed=1, clients=40, kill_each=0.5):
        self.proxy, self.left, self.clients, self.kill_each = proxy, requests, clients, kill_each
        self.dice, self.seen, self.kills, self.id = random.Random(seed), collections.Counter(), 0, 0

    def run(self):
        asyncio.run(self._run())

    async def _run(self):
        killer = asyncio.create_task(self._kill())
        try:
            await asyncio.gather(*(self._client() for _ in range(self.clients)))
        finally:
            killer.cancel()

    async def _kill(self):
        while True:
            await asyncio.sleep(self.kill_each)
            pids = await asyncio.to_thread(self.proxy.pids)
            if pids:
                os.kill(self.dice.choice(pids), signal.SIGKILL)
                self.kills += 1

    async def _client(self):
        conn = None
        kinds = [getattr(self, name) for name, weight in
                 (('_get', 66), ('_post', 14), ('_fin', 8), ('_rst', 8), ('_half', 3), ('_late', 1))
                 for _ in range(weight)]
        while self.left > 0:
            self.left -= 1
            self.id += 1
            id = self.id
            conn = conn or await asyncio.open_connection('127.0.0.1', self.proxy.port)
            if not await self.dice.choice(kinds)(conn, id):
                conn[1].close()
                conn = None

    async def _ask(self, conn, data, kind):
        """-> True when the connection can be used again."""
        reader, writer = conn
        writer.write(data)
        head = await asyncio.wait_for(reader.readuntil(b'\r\n\r\n'), 30)
        status = int(head[9:12])
        body = await reader.readexactly(int(re.search(rb'(?i)\r\ncontent-length: (\d+)', head).group(1)))
        self.seen[kind, status] += 1
        if status == 200 and kind == 'post':
            assert body == data.partition(b'\r\n\r\n')[2]
        return b'\r\nconnection: close' not in head.lower()

    def _get(self, conn, id):
        return self._ask(conn, head('GET', '/sleep?ms=%d&id=%d' % (self.dice.randrange(4), id)), 'get')

    def _post(self, conn, id):
        return self._ask(conn, head('POST', '/echo?id=%d' % id, body=b'b' * self.dice.randrange(5000)), 'post')

    def _late(self, conn, id):
        return self._ask(conn, head('GET', '/sleep?ms=300&id=%d' % id), 'late')

    async def _abort(self, conn, data, kind):
        conn[1].write(data)
        await asyncio.sleep(self.dice.random() * 0.012)
        self.seen[kind, 'left'] += 1

    async def _fin(self, conn, id):
        await self._abort(conn, head('GET', '/sleep?ms=5&id=%d' % id), 'fin')

    async def _rst(self, conn, id):
        conn[1].get_extra_info('socket').setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        await self._abort(conn, head('POST', '/sleep?ms=5&id=%d' % id, body=b'x' * 100), 'rst')

    async def _half(self, conn, id):
        await self._abort(conn, head('POST', '/sleep?ms=1&id=%d' % id, body=b'x' * 3000)[:-500], 'half')


@pytest.mark.slow
@pytest.mark.parametrize('limit', [1, 3])
def test_exact(limit):
    """Whatever clients and workers do, a worker never sees more than its limit, and no slot is lost."""
    group = ('[web]\nroutes = *\ncmd = %s\nworkers = 4\nmax_req_per_worker = %d\nqueue_timeout = 20s\n'
             'response_timeout = 150ms\nbackoff_max = 200ms\nretries = 1\n' % (counter(), limit))
    with Own(group) as p:
        storm = Storm(p, int(10_000 * SOAK), seed=limit)
        storm.run()
        p.wait_status(lambda s: all(w['in_flight'] == 0 and w['state'] == 'ready' for w in s['groups'][0]['workers'])
                      and s['groups'][0]['queue']['len'] == 0)
        assert metric(p, 'ldcorn_orphans') == 0 and metric(p, 'ldcorn_in_flight') == 0
        reached = p.requests()
        print(storm.kills, 'kills', dict(storm.seen))
    assert max(inside for _, inside, _, _ in reached) == limit
    times = collections.Counter(target for _, _, method, target in reached if method == 'POST')
    assert max(times.values()) == 1, 'a POST was sent twice: %s' % times.most_common(3)
    times = collections.Counter(target for _, _, method, target in reached if method == 'GET')
    assert max(times.values()) <= 2, 'a GET was replayed more than once: %s' % times.most_common(3)
    assert {status for _, status in storm.seen} <= {200, 502, 504, 'left'}
    assert storm.kills and storm.seen['late', 504] and storm.seen['get', 200] and storm.seen['post', 200]


def test_phantom_slot():
    """A slot whose client has gone stays taken until the worker is done, and dead requests never run."""
    with AutoWorker(lambda r, c: (time.sleep(2), OK)[1]) as fin, AutoWorker(lambda r, c: (time.sleep(2), OK)[1]) as rst:
        config = 'listen = {listen}\nadmin = {admin}\nmax_req_per_worker = 1\n' + ''.join(
            '[%s]\nroutes = /%s\nupstream = %s\n' % (name, name, w.address) for name, w in (('fin', fin), ('rst', rst)))
        with Proxy(config) as p:
            took = {}

            def scene(how):
                start = time.monotonic()

                def at(seconds):                            # this scene is about moments
                    time.sleep(max(0, start + seconds - time.monotonic()))
                first = p.connect().send(head('GET', '/%s/first' % how))
                p.wait_status(lambda s: any(w['in_flight'] for g in s['groups'] if g['name'] == how for w in g['workers']))
                dead = [first] + [p.connect().send(head('GET', '/%s/dead' % how)) for _ in range(5)]
                at(0.2)
                for c in dead:
                    leave(c, how)
                at(1.5)
                with p.connect() as c:
                    assert c.ask('GET', '/%s/live' % how).body == b'ok'
                took[how] = time.monotonic() - start
            threads = [threading.Thread(target=scene, args=(how,)) for how in ('fin', 'rst')]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
        for how, worker in (('fin', fin), ('rst', rst)):
            assert worker.max_inside == 1
            assert [r.target for r in worker.requests] == ['/%s/first' % how, '/%s/live' % how]
            assert 3.9 < took[how] < 5.9, took               # two runs; one of the dead would make it 6


def test_a_limited_worker_has_no_more_connections_than_its_limit():
    with Before() as b, b.proxy.connect() as c:
        c.send(head('GET', '/1'))
        _, parked = b.worker.one(OK)
        assert c.read_response().status == 200
        time.sleep(0.25)                     # a parked connection this old is not for a POST any more
        c.send(head('POST', '/2', body=b''))
        req, conn = b.worker.one(OK)
        assert req.target == '/2' and parked.eof(0), 'the old connection is closed before the new one is made'
        assert c.read_response().status == 200


# --- the line ---

@pytest.mark.parametrize('workers', [1, 2])
def test_first_come_first_served(workers):
    with Before(workers=workers) as b:
        clients = [b.send('/%d' % n) for n in range(workers)]
        conns = [w.one()[1] for w in b.workers]
        for n in range(15):
            clients.append(b.send('/%d' % (workers + n)))
            b.queued(n + 1)
        for n in range(workers, len(clients)):
            w = random.randrange(workers)
            conns[w].send(CLOSE)
            req, conns[w] = b.workers[w].one()
            assert req.target == '/%d' % n
        for conn in conns:
            conn.send(CLOSE)
        assert all(c.read_response().status == 200 for c in clients)
        b.queued(0)
        b.inside(0)


def test_arrival_is_when_the_head_is_complete():
    with Before() as b:
        b.send('/0')
        _, conn = b.worker.one()
        late = b.proxy.connect().send(head('GET', '/late')[:-1])
        with b.send('/early') as early:
            b.queued(1)
            late.send(b'\n')
            b.queued(2)
            conn.send(CLOSE)
            assert b.worker.one(CLOSE)[0].target == '/early' and b.worker.one(CLOSE)[0].target == '/late'
            assert early.read_response().status == late.read_response().status == 200


def test_a_full_queue_is_503_at_once():
    with Before(LIMIT + 'queue = 2\n') as b:
        waiting = [b.send('/inside')]
        _, conn = b.worker.one()
        waiting += [b.send('/1'), b.send('/2')]
        b.queued(2)
        with b.proxy.connect() as c:
            r = c.ask('GET', '/3', {'X-Request-Id': 'abc-123'})
            assert r.status == 503 and 1 <= int(r.get('retry-after')) <= 60
            assert r.get('content-type').startswith('text/plain')
            assert r.body.count(b'\n') <= 1 and r.get('x-request-id').encode() in r.body
            assert c.ask('GET', '/4').status == 503, 'the connection is kept'
        assert [(b.record('/%d' % n)['status'], b.record('/%d' % n)['reason']) for n in (3, 4)] == [(503, 'full')] * 2
        assert metric(b.proxy, 'ldcorn_refused_total', reason='full') == 2
        assert metric(b.proxy, 'ldcorn_queue_length') == 2 and metric(b.proxy, 'ldcorn_queue_limit') == 2
        conn.send(OK)
        for _ in range(2):
            _, conn = b.next(conn, OK)
        assert [c.read_response().status for c in waiting] == [200] * 3


def test_a_full_queue_refuses_before_the_body():
    with Before(LIMIT + 'queue = 0\n') as b:
        b.send('/inside')
        b.worker.one()
        with b.proxy.connect() as c:
            c.send('POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n')
            r = c.read_response()
            assert r.status == 503 and not r.interim


def test_queue_0_refuses_when_busy_and_only_then():
    with Before(LIMIT + 'queue = 0\n') as b:
        with b.send('/1') as one, b.proxy.connect() as two:
            _, conn = b.worker.one()
            assert two.ask('GET', '/2').status == 503
            conn.send(OK)
            assert one.read_response().status == 200
            two.send(head('GET', '/3'))
            assert conn.read_request().target == '/3'
            conn.send(OK)
            assert two.read_response().status == 200


def test_queue_timeout():
    with Before(LIMIT + 'queue_timeout = 250ms\n') as b:
        with b.send('/1') as first, b.send('/2') as second:
            _, conn = b.worker.one()
            start = time.monotonic()
            r = second.read_response()
            assert r.status == 503 and r.get('retry-after') and time.monotonic() - start < 2
            record = b.record('/2')
            assert record['reason'] == 'timeout' and record['status'] == 503 and 240 <= record['queue_ms'] < 2000
            assert metric(b.proxy, 'ldcorn_refused_total', reason='timeout') == 1
            conn.send(OK)
            assert first.read_response().status == 200
            assert conn.silent(0.1) and b.worker.no_connection(0.1), 'it is never run'


@pytest.mark.parametrize('how', ['fin', 'rst', 'fin behind bytes', 'rst with a body'])
def test_a_leaver_in_the_line_is_dropped(how):
    with Before() as b:
        with b.send('/1') as first:
            _, conn = b.worker.one()
            leaver = b.send('/leaver', 'POST', b'x' * 3000) if 'body' in how else b.send('/leaver')
            b.queued(1)
            stays = b.send('/stays')
            b.queued(2)
            if 'bytes' in how:
                leaver.send(b'GET /pipelined HTTP/1.1\r\n')
            leave(leaver, how[:3])
            b.queued(1)
            record = b.record('/leaver')
            assert record['status'] == 499 and record['reason'] == 'client_gone'
            conn.send(CLOSE)
            assert b.worker.one(CLOSE)[0].target == '/stays'
            assert first.read_response().status == stays.read_response().status == 200
            assert b.worker.no_connection(0.1)
        assert metric(b.proxy, 'ldcorn_refused_total', reason='client_gone') == 1


# --- a client that leaves its request inside a worker ---

@pytest.mark.parametrize('how', ['fin', 'rst'])
def test_client_abort_wait_keeps_the_slot(how):
    """The default of a limited group: the answer is read to its end and thrown away."""
    with Before() as b:
        gone = b.send('/gone')
        _, conn = b.worker.one()
        leave(gone, how)
        with b.send('/next') as c:
            b.queued(1)
            assert conn.silent() and b.worker.no_connection(0.05)
            b.inside(1)
            conn.send(answer(b'x' * 100_000)[:-1])
            assert conn.silent(0.05) and b.worker.no_connection(0.05)
            conn.send(b'x')
            assert b.next(conn, OK)[0].target == '/next', 'the last byte frees the slot'
            assert c.read_response().status == 200
        b.inside(0)
        assert metric(b.proxy, 'ldcorn_slots_forced_total') == 0


def test_the_end_of_the_workers_connection_frees_the_slot_too():
    with Before() as b:
        gone = b.send('/gone')
        _, conn = b.worker.one()
        gone.rst()
        with b.send('/next') as c:
            b.queued(1)
            conn.close()
            assert b.worker.one(OK)[0].target == '/next' and c.read_response().status == 200
        b.inside(0)
        assert metric(b.proxy, 'ldcorn_slots_forced_total') == 0


def test_a_half_close_inside_gets_its_answer():
    with Before() as b, b.send('/') as c:
        _, conn = b.worker.one()
        c.fin()
        before = cpu_seconds(b.proxy.pid)
        assert conn.silent(0.4)
        assert cpu_seconds(b.proxy.pid) - before < 0.2, 'it spins on the readable end'
        conn.send(OK)
        r = c.read_response()
        assert (r.status, r.body) == (200, b'ok')


@pytest.mark.parametrize('how', ['fin', 'rst'])
@pytest.mark.parametrize('group', ['', LIMIT + 'client_abort = close\n'])
def test_client_abort_close(group, how):
    """The default without a limit. In a limited group it is a slot that was forced free."""
    with Before(group) as b:
        gone = b.send('/gone')
        _, conn = b.worker.one()
        leave(gone, how)
        assert conn.eof()
        assert b.record('/gone')['status'] == 499
        with b.send('/next') as c:
            assert b.worker.one(OK)[0].target == '/next' and c.read_response().status == 200
        b.inside(0)
        assert metric(b.proxy, 'ldcorn_slots_forced_total') == bool(group)
        if group:
            assert re.search(r'(?i)warn.*client_abort', b.proxy.log()), 'what it costs is said at the start'


def test_client_abort_wait_without_a_limit():
    with Before('client_abort = wait\n') as b:
        gone = b.send('/gone')
        _, conn = b.worker.one()
        gone.rst()
        assert conn.silent()
        conn.send(OK)
        b.inside(0)
        with b.send('/next') as c:
            assert b.next(conn, OK)[0].target == '/next' and c.read_response().status == 200


def test_a_body_that_cannot_be_completed():
    """It is past what is collected, so the worker has its beginning: half-closed, and the worker's end is the end."""
    with Before() as b, b.proxy.connect() as c:
        size = 6_000_000
        c.send(head('POST', '/big', {'Content-Length': str(size)}) + b'x' * 3_000_000)
        conn = b.worker.accept()
        conn.read_head()
        conn.read_exact(2_900_000)
        c.rst()
        assert len(conn.read_all()) <= 100_000
        with b.send('/next') as n:
            b.queued(1)
            b.inside(1)
            assert b.worker.no_connection(0.1)
            conn.close()
            assert b.worker.one(OK)[0].target == '/next' and n.read_response().status == 200
        wait_for(lambda: metric(b.proxy, 'ldcorn_slots_forced_total') == 1)


@pytest.mark.parametrize('ends', [True, False])
def test_an_answer_that_breaks_the_protocol(ends):
    """Half-closed; the slot is back at the end of the connection, or after a second."""
    with Before() as b, b.send('/') as c:
        start = time.monotonic()                            # its second begins with the answer, whenever we hear of it
        _, conn = b.worker.one(b'HTTP/1.1 20O OK\r\nContent-Length: 2\r\n\r\nok')
        r = c.read_response()
        assert r.status == 502 and b.record('/')['reason'] == 'protocol'
        with b.send('/next') as n:
            assert conn.eof()
            if ends:
                conn.close()
            assert b.worker.one(OK, timeout=3)[0].target == '/next' and n.read_response().status == 200
            assert ends or time.monotonic() - start > 0.8
        assert metric(b.proxy, 'ldcorn_worker_errors_total', kind='protocol') == 1
        wait_for(lambda: metric(b.proxy, 'ldcorn_slots_forced_total') == 1)


# --- a worker that is late ---

@pytest.mark.parametrize('key,reason', [('response_timeout', 'response_timeout'), ('run_timeout', 'run_timeout')])
def test_on_timeout_wait(key, reason):
    """The default of a limited group: 504 for the client, and the slot stays taken until the worker is done."""
    with Before(LIMIT + key + ' = 200ms\n') as b, b.send('/late') as c:
        _, conn = b.worker.one()
        start = time.monotonic()
        r = c.read_response()
        assert r.status == 504 and time.monotonic() - start < 2
        assert c.eof(0) or not r.get('connection'), 'the client knows whether it may go on'
        assert b.record('/late')['reason'] == reason
        assert metric(b.proxy, 'ldcorn_orphans') == 1
        with b.send('/next') as n:
            b.queued(1)
            assert conn.silent(0.1) and b.worker.no_connection(0.05)
            conn.send(OK)
            assert b.next(conn, OK)[0].target == '/next' and n.read_response().status == 200
        b.inside(0)
        assert metric(b.proxy, 'ldcorn_orphans') == metric(b.proxy, 'ldcorn_slots_forced_total') == 0


@pytest.mark.parametrize('group', ['', LIMIT + 'on_timeout = close\n'])
def test_on_timeout_close(group):
    with Before(group + 'response_timeout = 200ms\n') as b, b.send('/late') as c:
        _, conn = b.worker.one()
        assert c.read_response().status == 504 and conn.eof()
        with b.send('/next') as n:
            assert b.worker.one(OK)[0].target == '/next' and n.read_response().status == 200
        assert metric(b.proxy, 'ldcorn_slots_forced_total') == bool(group)
        assert metric(b.proxy, 'ldcorn_worker_errors_total', kind='timeout') == 1


def test_on_timeout_restart():
    """The worker is replaced; what else is inside it is finished first."""
    group = ('[web]\nroutes = *\ncmd = %s\nmax_req_per_worker = 2\nresponse_timeout = 800ms\non_timeout = restart\n'
             'stop_timeout = 500ms\n' % counter())          # much longer than what is between two drops
    with Own(group) as p, p.connect() as hang, p.connect() as drip:
        old, = p.pids()
        drip.send(head('GET', '/drip?n=24&ms=50'))
        p.wait_status(lambda s: s['groups'][0]['workers'][0]['in_flight'] == 1)
        hang.send(head('GET', '/hang'))
        assert hang.read_response().status == 504
        r = drip.read_response()
        assert r.status == 200 and r.complete and r.body == b'.' * 24
        p.wait_status(lambda s: [w['state'] for w in s['groups'][0]['workers']] == ['ready'] and
                      s['groups'][0]['workers'][0]['pid'] != old)
        with p.connect() as c:
            assert c.ask('GET', '/').body != b'%d' % old
        assert metric(p, 'ldcorn_worker_exits_total', reason='timeout') == 1


@pytest.mark.parametrize('group', ['upstream = 127.0.0.1:9\non_timeout = restart\n',
                                   'cmd = true {socket}\nmax_req_per_worker = 1\non_timeout = close\n'])
def test_on_timeout_that_cannot_be(group):
    run = cli('-t', 'groups.ini', config='[web]\nroutes = *\n' + group)
    assert run.status == 2 and 'on_timeout' in run.err + run.out


def test_a_gap_in_the_answer():
    """`response_timeout` holds between bytes too; what has begun is cut, not replaced."""
    with Before('response_timeout = 1s\n') as b, b.send('/') as c:      # time enough to begin in
        _, conn = b.worker.one(b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab')
        r = c.read_response()
        assert r.status == 200 and r.body == b'ab' and not r.complete
        assert conn.eof() and b.record('/')['reason'] == 'response_timeout'


def test_run_timeout_is_the_whole_time():
    with Before('run_timeout = 1s\n') as b:
        start = time.monotonic()
        c = b.send('/')
        _, conn = b.worker.one(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n')
        while not conn.ended and time.monotonic() < start + 5:
            try:
                conn.send(b'1\r\n.\r\n')
            except ConnectionError:
                break
            if not conn.silent(0.05):
                break
        assert 0.9 < time.monotonic() - start < 3
        r = c.read_response()
        assert r.status == 200 and not r.complete and b.record('/')['reason'] == 'run_timeout'


# --- a worker that cannot be reached, or ends too early ---

def test_retry_on_another_worker_when_refused():
    """No byte was sent, so a POST may go to another worker as well."""
    with Before('', workers=2) as b:
        b.workers[0].stop_listening()
        for n in range(4):
            with b.send('/%d' % n, 'POST', b'body') as c:
                req, _ = b.workers[1].one(CLOSE)
                assert req.body == b'body' and c.read_response().status == 200
        assert metric(b.proxy, 'ldcorn_retries_total') >= 1
        b.proxy.wait_status(lambda s: [w['state'] for w in s['groups'][0]['workers']] == ['down', 'ready'])


def test_a_retry_goes_to_the_head_of_the_line():
    with Before(workers=2) as b:
        clients = [b.send('/a'), b.send('/b')]
        (_, one), (_, two) = b.workers[0].one(), b.workers[1].one()
        for n in range(3):
            clients.append(b.send('/%d' % n))
            b.queued(n + 1)
        b.workers[0].stop_listening()
        one.send(CLOSE)                                     # /0 is tried there, in vain
        b.proxy.wait_status(lambda s: s['groups'][0]['workers'][0]['state'] == 'down')
        b.queued(3)
        for n in range(3):
            two.send(CLOSE)
            req, two = b.workers[1].one()
            assert req.target == '/%d' % n
        two.send(CLOSE)
        assert all(c.read_response().status == 200 for c in clients)


def test_retries_0():
    with Before('retries = 0\n', workers=2) as b:
        b.workers[0].stop_listening()
        b.workers[1].stop_listening()
        with b.proxy.connect() as c:
            r = c.ask('GET', '/')
            assert r.status in (502, 503)
        assert b.record('/')['reason'] in ('connect', 'no_worker')
        assert metric(b.proxy, 'ldcorn_retries_total') == 0


def test_down_and_up_again():
    """A foreign worker that is away is probed; requests wait for the next probe if it comes in time."""
    port = free_port()

    def listen():
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(('127.0.0.1', port))
        sock.listen(16)
        worker.sock = sock
    with FakeWorker() as worker:
        worker.stop_listening()
        listen()
        with Proxy(upstream_config('127.0.0.1:%d' % port, group='backoff_max = 300ms\n')) as p:
            worker.stop_listening()
            with p.connect().send(head('GET', '/waits')) as c:
                p.wait_status(lambda s: s['groups'][0]['workers'][0]['state'] == 'down')
                p.wait_status(lambda s: s['groups'][0]['queue']['len'] == 1)
                listen()
                assert worker.one(OK)[0].target == '/waits' and c.read_response().status == 200
            assert p.worker('web')['state'] == 'ready'


def test_an_upstream_that_is_away_is_not_ready():
    """Readiness is never assumed: a connection must be accepted first."""
    address = '127.0.0.1:%d' % free_port()
    with Own('[web]\nroutes = *\nupstream = %s\n' % address, wait=False).up() as p:
        p.wait_status(lambda s: s['groups'][0]['workers'][0]['state'] == 'down')
        code, _, body = p.admin('GET', '/readyz')
        assert code == 503 and b'web' in body


def test_health_path_of_an_upstream():
    with FakeWorker() as w:
        with Proxy(upstream_config(w.address, group='health_path = /health\n'), wait=False) as p:
            for status in ('500 No', '404 No', '204 Well'):
                req, conn = w.one(answer(b'', status) if status[0] != '2' else b'HTTP/1.1 204 Well\r\n\r\n')
                assert (req.method, req.target, req.get('host')) == ('GET', '/health', 'localhost')
                if status[0] != '2':
                    assert p.admin('GET', '/readyz')[0] == 503
            p.wait_status(lambda s: s['groups'][0]['workers'][0]['state'] == 'ready')


def test_a_full_backlog_is_busy_not_down():
    """EAGAIN from a unix socket: tried again until `connect_timeout`."""
    with FakeWorker(unix=True, backlog=1) as w:
        with Proxy(upstream_config(w.address, group='connect_timeout = 5s\n')) as p:
            crowd = []
            while True:
                s = socket.socket(socket.AF_UNIX)
                s.setblocking(False)
                crowd.append(s)
                try:
                    s.connect(w.address[5:])
                except BlockingIOError:
                    break
            with p.connect().send(head('GET', '/')) as c:
                assert c.silent(0.2) and p.worker('web')['state'] == 'ready'
                for s in crowd:
                    s.close()
                assert w.one(OK)[0].target == '/' and c.read_response().status == 200


def test_connect_timeout():
    with FakeWorker(backlog=0) as w:
        with Proxy(upstream_config(w.address, group='connect_timeout = 300ms\nretries = 0\nqueue_timeout = 1s\n')) as p:
            w.drain()
            crowd = []
            while not crowd or crowd[-1].connect_ex(('127.0.0.1', int(w.address.split(':')[1]))) == 0:
                crowd.append(socket.socket())
                crowd[-1].settimeout(0.2)
            try:
                start = time.monotonic()
                with p.connect() as c:
                    r = c.ask('GET', '/')
                assert r.status in (502, 503, 504) and 0.25 < time.monotonic() - start < 3
                assert p.wait_access(lambda r: r['target'] == '/')['reason'] in ('connect_timeout', 'connect', 'no_worker')
            finally:
                for s in crowd:
                    s.close()


def reuse(b, c, method, body=None):
    """Get `/stale` onto a connection that has served before: -> the worker's end of it, the request read."""
    for _ in range(20):                    # a machine that pauses for 200 ms makes it too old for some methods
        c.send(head('GET', '/first'))
        _, conn = b.worker.one(OK)
        assert c.read_response().status == 200
        c.send(head(method, '/stale', body=body))
        wait_for(lambda: not conn.silent(0) or not b.worker.no_connection(0))
        req = conn.read_request()
        if req:
            assert req.target == '/stale'
            return conn
        b.worker.one(CLOSE)
        conn.close()
        c.read_response(method)
    raise AssertionError('no connection was reused')


@pytest.mark.parametrize('method', ['GET', 'HEAD', 'OPTIONS'])
@pytest.mark.parametrize('group', ['', LIMIT])
def test_replay_of_a_safe_request(group, method):
    """Once, and only when a reused connection ends before the first byte of the answer."""
    with Before(group) as b, b.proxy.connect() as c:
        conn = reuse(b, c, method)
        conn.close()
        again = b.worker.accept()
        assert again.read_request().target == '/stale'
        again.send(OK if method != 'HEAD' else b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n')
        assert c.read_response(method).status == 200
        b.inside(0)


def test_replay_happens_once():
    with Before() as b, b.proxy.connect() as c:
        reuse(b, c, 'GET').close()
        b.worker.one()[1].close()
        assert c.read_response().status == 502 and b.worker.no_connection(0.1)
        assert b.record('/stale')['reason'] == 'reset'
        assert metric(b.proxy, 'ldcorn_worker_errors_total', kind='reset') >= 1
        b.inside(0)


@pytest.mark.parametrize('method,body', [('POST', b'x'), ('POST', b''), ('DELETE', None), ('GET', b'body'),
                                         ('PUT', b'x'), ('PATCH', b'x')])
def test_no_replay_of_what_may_have_been_done(method, body):
    with Before() as b, b.proxy.connect() as c:
        reuse(b, c, method, body).close()
        assert c.read_response().status == 502 and b.worker.no_connection(0.1)


def test_no_replay_after_the_first_byte():
    with Before() as b, b.proxy.connect() as c:
        conn = reuse(b, c, 'GET')
        conn.send(b'HTTP')
        conn.close()
        assert c.read_response().status == 502 and b.worker.no_connection(0.1)


def test_no_replay_on_a_fresh_connection():
    with Before() as b, b.send('/') as c:
        b.worker.one()[1].close()
        assert c.read_response().status == 502 and b.worker.no_connection(0.1)
        assert b.record('/')['status'] == 502 and b.record('/')['reason'] == 'reset'


# --- whom to ask ---

def test_balance_least():
    """Fewest in flight; ties go to the one that has been idle for longest."""
    with Before('', workers=3) as b:
        held = []
        for n in range(3):
            held.append(b.send('/held'))
            b.inside(n + 1)
        conns = [w.one()[1] for w in b.workers]             # one each
        conns[1].send(CLOSE)
        b.inside(2)
        for _ in range(3):
            with b.send('/') as c:
                b.workers[1].one(CLOSE)
                assert c.read_response().status == 200
        for n in (0, 2):
            conns[n].send(CLOSE)
        b.inside(0)
        seen = []
        for n in range(9):
            with b.send('/') as c:
                turn = wait_for(lambda: next(([i] for i, w in enumerate(b.workers) if not w.no_connection(0)), None))[0]
                b.workers[turn].one(CLOSE)
                assert c.read_response().status == 200
                seen.append(turn)
        assert all(sorted(seen[i:i + 3]) == [0, 1, 2] for i in range(0, 9, 3)), seen
        assert seen[:3] == seen[3:6] == seen[6:]


def test_a_freed_slot_is_used_at_once_under_load():
    """No gap between requests: one comes d seconds after the other, whatever holds up a few of them."""
    began = []
    with AutoWorker(lambda r, c: (began.append(time.monotonic()), time.sleep(0.02), OK)[2]) as w:
        with Proxy(upstream_config(w.address, group=LIMIT)) as p:
            clients = [p.connect().send(head('GET', '/')) for _ in range(50)]
            assert all(c.read_response().status == 200 for c in clients)
            gaps = sorted(b - a for a, b in zip(began, began[1:]))
            assert gaps[len(gaps) // 2] < 0.02 * 3 and w.max_inside == 1
