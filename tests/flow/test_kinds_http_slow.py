"""`min_rate`: a slow client is judged where its slowness costs somebody; else the two time-outs alone judge it.

A rate is an average over ten seconds, so each scene takes a little longer. All of them run at once; a test waits for
its own.
"""
import contextlib, re, threading, time

import pytest
from harness import AutoWorker, Proxy, answer, head, upstream_config, wait_for
from procs import metric

pytestmark = pytest.mark.slow
MIB = 1 << 20
WINDOW = 10.0
LONG = WINDOW + 2.5                     # so long is slow what must be let pass
OK = answer(b'ok')


def post(target, length, *fields):
    return head('POST', target, [('Content-Length', str(length))] + list(fields))


def chunk(data):
    return b'%x\r\n%s\r\n' % (len(data), data)


def drip(c, rate, seconds):
    """Send `rate` bytes a second for so long, or until an answer or the end comes; how many went."""
    sent, end = 0, time.monotonic() + seconds
    start = time.monotonic()
    while time.monotonic() < end:
        due = int((time.monotonic() - start) * rate) - sent
        if due > 0:
            try:
                c.sock.send(b'x' * due)
            except OSError:
                break
            sent += due
        if not c.silent(0.1):           # its pace is what is tested
            break
    return sent


def sizes(request, conn):
    """A worker: says how long the body was, or sends as much as is asked for."""
    if request.target.endswith('/big'):
        return answer(b'y' * (24 * MIB))
    return answer(b'%d' % len(request.body))


class Slow:
    """One scene with its own clients; `parts` run side by side, each result under its name."""

    def __init__(self, scene):
        self.results, self.scene = {}, scene
        self.thread = threading.Thread(target=self._run, args=('all', scene), daemon=True)
        self.thread.start()

    def _run(self, name, work, *args):
        try:
            self.results[name] = work(self, *args)
        except BaseException as e:      # told by the test that asks for it
            self.results[name] = e

    def side_by_side(self, **parts):
        threads = [threading.Thread(target=self._run, args=(name, work), daemon=True) for name, work in parts.items()]
        for t in threads:
            t.start()
        for t in threads:
            t.join(90)

    def get(self, name='all'):
        self.thread.join(120)
        assert not self.thread.is_alive()
        for key in ('all', name):
            if isinstance(self.results.get(key), BaseException):
                raise self.results[key]
        return self.results.get(name)


# --- where it costs nobody, and where a slot is held ---

GROUPS = '''
[collected]
routes = /collected
upstream = {worker}
max_req_per_worker = 1
response_buffer = 64M
[then]
routes = /then
upstream = {worker}
max_req_per_worker = 1
request_buffer = 4K
[body]
routes = /body
upstream = {worker}
max_req_per_worker = 1
request_buffer = 4K
[stream]
routes = /stream
upstream = {worker}
max_req_per_worker = 1
request_buffer = 0
[answer]
routes = /answer
upstream = {worker}
max_req_per_worker = 1
response_buffer = 64K
'''


def plain(scene):
    """With all defaults but the groups'."""
    with contextlib.ExitStack() as stack:
        config = upstream_config(stack.enter_context(AutoWorker(sizes)).address)
        for section in re.split(r'(?=\[)', GROUPS)[1:]:             # an address has its slots for all groups
            config += section.replace('{worker}', stack.enter_context(AutoWorker(sizes)).address)
        p = stack.enter_context(Proxy(config))

        def upload(target, rate, then=b''):
            def run(_):
                n = int(rate * LONG) + 200 + len(then)
                with p.connect(30) as c:
                    c.send(post(target, n))
                    sent = drip(c, rate, LONG)
                    if c.silent(0):
                        c.send(b'x' * (n - sent))
                    r = c.read_response()
                    return r.status, r.body, str(n).encode(), c.eof() if r.status != 200 else None
            return run

        def paused_upload(target):
            def run(_):
                with p.connect(30) as c:
                    c.send(head('POST', target, {'Transfer-Encoding': 'chunked'}) + chunk(b'a\n'))
                    c.silent(LONG)
                    if c.silent(0):
                        c.send(chunk(b'b\n') + b'0\r\n\r\n')
                    r = c.read_response()
                    return r.status, r.body
            return run

        def paused_reader(target):
            def run(_):
                with p.connect(30) as c:
                    c.send(head('GET', target))
                    time.sleep(WINDOW * 2 + 2)       # what the kernels hold makes the first ten seconds fast ones
                    r = c.read_response()
                    return r.status, len(r.body), r.complete
            return run

        def in_a_slot(target, ask):
            """A slow one, and somebody who waits for its slot."""
            def run(_):
                start = time.monotonic()
                with p.connect(30) as c, p.connect(30) as behind:
                    c.send(ask)
                    wait_for(lambda: p.worker(target[1:])['in_flight'] == 1, what='it in its slot')
                    behind.send(head('GET', target + '/behind'))
                    if b'GET' in ask[:4]:
                        r = behind.read_response()
                    else:
                        drip(c, 100, WINDOW * 2)
                        r = c.read_response(), behind.read_response()
                    took = time.monotonic() - start
                    return r, took
            return run
        scene.side_by_side(
            drip=upload('/drip', 100), drop=upload('/drop', 2), pause=paused_upload('/pause'),
            reader=paused_reader('/reader/big'),
            collected=upload('/collected', 100), collected_pause=paused_upload('/collected/pause'),
            collected_reader=paused_reader('/collected/big'),
            then=upload('/then', 100, b'x' * 200000), body=in_a_slot('/body', post('/body/slow', 100000) + b'x' * 5000),
            stream=in_a_slot('/stream', post('/stream/slow', 100000) + b'x'),
            answer=in_a_slot('/answer', head('GET', '/answer/big')))
        scene.reasons = {r['target']: (r['status'], r['reason']) for r in p.access()}
        scene.rest = p.status()


def off(scene):
    """min_rate = 0: nobody is judged, in a slot and in a full house neither."""
    with AutoWorker(sizes) as w, Proxy(upstream_config(w.address, 'min_rate = 0\nmax_conns = 2\n',
                                                       'max_req_per_worker = 2\nrequest_buffer = 0\n')) as p:
        with p.connect(30) as a, p.connect(30) as b:
            a.send(post('/a', 1000))
            b.send(post('/b', 1000))
            t = threading.Thread(target=drip, args=(b, 5, LONG))
            t.start()
            sent = drip(a, 5, LONG - 1.5)
            assert a.silent(0) and b.silent(0)
            with p.connect(30) as c:
                c.send(head('GET', '/new'))
                assert c.silent(1.0), 'all connections are taken, and nobody is slow'
                t.join()
                a.send(b'x' * (1000 - sent))
                assert a.read_response().status == 200
                assert c.read_response().status == 200


# --- a full house ---

def gone(c):
    """408 or a cut: its connection is wanted, and what it still sends may be in the way of a last word."""
    data = c.read_all()
    assert data == b'' or data.startswith(b'HTTP/1.1 408 '), data


def full_of_uploads(scene):
    """Four connections: two below min_rate, one above, one whose request is inside a worker."""
    hold = threading.Event()

    def worker(request, conn):
        if '/hold' in request.target:
            hold.wait(60)
        return sizes(request, conn)
    top = 'max_conns = 4\nbody_timeout = 60s\nheader_timeout = 60s\n'
    with AutoWorker(worker) as w, Proxy(upstream_config(w.address, top)) as p, contextlib.ExitStack() as stack:
        stack.callback(hold.set)
        connect = lambda: stack.enter_context(p.connect(30))
        fast, slow, slowest, inside = (connect() for _ in range(4))
        for c, name in ((fast, 'fast'), (slow, 'slow'), (slowest, 'slowest')):
            c.send(post('/' + name, 10_000_000))
        inside.send(head('GET', '/hold/inside'))
        stop = threading.Event()
        stack.callback(stop.set)

        def feed(c, rate):
            with contextlib.suppress(OSError, ValueError):       # the scene is over
                while not stop.is_set() and c.silent(0):
                    drip(c, rate, 0.5)
        for c, rate in ((fast, 3000), (slow, 100), (slowest, 5)):
            threading.Thread(target=feed, args=(c, rate), daemon=True).start()
        time.sleep(WINDOW + 1.5)        # long enough to know the average of each
        assert all(c.silent(0) for c in (fast, slow, slowest, inside)), 'while nobody comes nobody goes'
        first = connect()
        first.send(head('GET', '/hold/first'))
        gone(slowest)
        wait_for(lambda: any(q.target == '/hold/first' for q in w.requests), what='the newcomer at the worker')
        assert all(c.silent(0) for c in (fast, slow, inside))
        second = connect()
        second.send(head('GET', '/hold/second'))
        gone(slow)
        wait_for(lambda: any(q.target == '/hold/second' for q in w.requests), what='the second one at the worker')
        third = connect()
        third.send(head('GET', '/third'))
        assert third.silent(1.0) and fast.silent(0) and inside.silent(0), 'who is not slow stays, however full it is'
        hold.set()
        assert inside.read_response().status == first.read_response().status == second.read_response().status == 200
        assert third.read_response().status == 200
        assert fast.silent(0)
        reasons = {r['target']: (r['status'], r['reason']) for r in p.access()}
        assert reasons['/slowest'] == reasons['/slow'] == (408, 'slow')
        fast.close()


def full_of_readers(scene):
    """Two that take nothing of their answers."""
    top = 'max_conns = 2\nsend_timeout = 60s\n'
    with AutoWorker(sizes) as w, Proxy(upstream_config(w.address, top)) as p, p.connect(30) as a, p.connect(30) as b:
        a.send(head('GET', '/a/big'))
        b.send(head('GET', '/b/big'))
        time.sleep(WINDOW * 2 + 1.5)    # they stand still; what the kernels hold was taken in the first ten seconds
        assert not [r for r in p.access() if r['target'].endswith('/big')], 'while nobody comes nobody goes'
        with p.connect(30) as c:
            assert c.ask('GET', '/new').status == 200
        went = [r for r in p.access() if r['target'].endswith('/big')]
        assert [(r['status'], r['reason']) for r in went] == [(200, 'slow')], 'one for one'
        sent = {'/a/big': a, '/b/big': b}
        assert not sent.pop(went[0]['target']).read_response().complete
        (stays,) = sent.values()
        assert stays.read_response().complete


def full_of_heads(scene):
    """Heads that come byte by byte, and a newcomer that is there before anybody's rate is known."""
    top = 'max_conns = 3\nheader_timeout = 60s\n'
    with AutoWorker(sizes) as w, Proxy(upstream_config(w.address, top)) as p, contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(p.connect(30)) for _ in range(3)]
        stop = threading.Event()
        stack.callback(stop.set)

        def feed(c):
            with contextlib.suppress(OSError, ValueError):       # the scene is over
                while not stop.is_set() and c.silent(0):
                    drip(c, 5, 0.5)
        for c in crowd:
            c.send(b'GET / HTTP/1.1\r\nHost: a\r\nX: ')
            threading.Thread(target=feed, args=(c,), daemon=True).start()
        wait_for(lambda: metric(p, 'ldcorn_accepted_total') >= 3)
        with p.connect(WINDOW * 2) as c:
            assert c.ask('GET', '/new').status == 200
        assert sum(x.silent(0) for x in crowd) == 2, 'one for one'


# --- memory that has run out ---

def no_memory(scene):
    """One upload holds all that its group can have, and stands still; another waits for it."""
    config = upstream_config('{w}', 'buffer_memory = 2M\nbody_timeout = 60s\n',
                             'max_req_per_worker = 1\nrequest_buffer = 16M\nqueue_timeout = 60s\n')
    with AutoWorker(sizes) as w, Proxy(config.replace('{w}',
                                                      w.address)) as p, p.connect(40) as first, p.connect(40) as second:
        first.send(post('/first', 8 * MIB) + b'x' * 100000)
        wait_for(lambda: metric(p, 'ldcorn_connections', state='body') == 1)
        start = time.monotonic()
        second.send(head('POST', '/second', {'Content-Length': str(MIB), 'Expect': '100-continue'}))
        r = first.read_response()
        assert r.status == 408 and first.eof() and time.monotonic() - start < WINDOW * 2.5
        assert second.read_until(b'\r\n\r\n').startswith(b'HTTP/1.1 100 ')
        second.send(b'x' * MIB)
        assert second.read_response().body == str(MIB).encode()
        assert p.wait_access(lambda r: r['target'] == '/first')['reason'] == 'slow'


SCENES = {f.__name__: f for f in (plain, off, full_of_uploads, full_of_readers, full_of_heads, no_memory)}


@pytest.fixture(scope='module')
def scenes():
    started = {name: Slow(f) for name, f in SCENES.items()}
    yield started
    for scene in started.values():
        scene.thread.join(120)


@pytest.mark.parametrize('name', ['drip', 'drop', 'collected'])
def test_a_slow_body_that_costs_nobody_arrives(scenes, name):
    """100 bytes a second, or two, in a group without a limit; collected before a slot is taken in one that has one."""
    status, body, n, _ = scenes['plain'].get(name)
    assert (status, body) == (200, n)


@pytest.mark.parametrize('name', ['pause', 'collected_pause'])
def test_a_body_with_a_pause_arrives(scenes, name):
    """(echo a; sleep 13; echo b) | curl -T -"""
    assert scenes['plain'].get(name) == (200, b'4')


@pytest.mark.parametrize('name', ['reader', 'collected_reader'])
def test_a_reader_that_pauses_gets_its_answer(scenes, name):
    """Nobody waits for what it holds: no slot is taken, or it is free since the answer was read ahead."""
    assert scenes['plain'].get(name) == (200, 24 * MIB, True)


def test_what_was_slow_before_it_held_a_slot_does_not_count(scenes):
    """Collected slowly, then sent on at once: only the time in the slot is judged."""
    status, body, n, _ = scenes['plain'].get('then')
    assert (status, body) == (200, n)


@pytest.mark.parametrize('name', ['body', 'stream'])
def test_a_slow_body_does_not_keep_a_slot(scenes, name):
    (r, behind), took = scenes['plain'].get(name)
    assert r.status == 408 and behind.status == 200 and WINDOW - 1 < took < WINDOW * 2
    assert scenes['plain'].reasons['/%s/slow' % name] == (408, 'slow')


def test_a_slow_reader_does_not_keep_a_slot(scenes):
    behind, took = scenes['plain'].get('answer')
    assert behind.status == 200 and WINDOW - 1 < took < WINDOW * 2
    assert scenes['plain'].reasons['/answer/big'] == (200, 'slow')


def test_min_rate_0_judges_nobody(scenes):
    scenes['off'].get()


@pytest.mark.whole
def test_a_full_house_sheds_its_slowest_upload_for_a_newcomer(scenes):
    scenes['full_of_uploads'].get()


@pytest.mark.whole     # one newcomer is one only where accept() takes it when it is there
def test_a_full_house_sheds_a_reader_that_takes_nothing(scenes):
    scenes['full_of_readers'].get()


@pytest.mark.whole
def test_a_full_house_sheds_a_head_that_does_not_end(scenes):
    scenes['full_of_heads'].get()


def test_without_memory_a_slow_body_makes_room(scenes):
    scenes['no_memory'].get()
