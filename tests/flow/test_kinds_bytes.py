"""Bytes that are kept have a deadline, however few they are: half an empty line begins a head like any other byte.
And no loop may wait for one connection to go: room is made, and a stop ends, whatever a client has sent."""
import contextlib, resource, signal, threading, time

import pytest
from harness import AutoWorker, Client, Proxy, Timeout, answer, head, upstream_config, wait_for

SHORT = 'header_timeout = 300ms\nkeepalive_timeout = 300ms\n'
LONG = 'header_timeout = 60s\nkeepalive_timeout = 60s\n'
FULL = 'max_conns = 4\n'


@contextlib.contextmanager
def front(top=SHORT, group='', handler=None, **kw):
    with AutoWorker(handler) as worker, \
            Proxy(upstream_config(worker.address, top, group), stop_timeout=5, **kw) as proxy:
        proxy.go = threading.Event()
        yield proxy


def asked(proxy, behind=b'', target='/', method='GET', **kw):
    """A connection on which a request was answered, and what stands behind it."""
    c = proxy.connect()
    c.send(head(method, target, **kw) + behind)
    c.read_response(method)
    return c


def ended(c, timeout=3):
    """The connection ends in time, with or without a word why."""
    data = c.read_all(timeout)
    assert not data or data[:13] in (b'HTTP/1.1 408 ', b'HTTP/1.1 400 '), data


def serves(proxy):
    with proxy.connect(3) as c:
        assert c.ask('GET', '/').status == 200


# --- each of these is the beginning of a head, and has its time ---

LEFT = {
    'on an idle connection': lambda p: asked(p).send(b'\r'),
    'in one piece with a request': lambda p: asked(p, b'\r'),
    'behind an empty line': lambda p: asked(p).send(b'\r\n\r'),
    'behind the other half': lambda p: asked(p, b'\r').send(b'\n').send(b'\r'),
    'behind a body': lambda p: asked(p, b'\r', method='POST', body=b'x' * 100),
    'behind a chunked body': lambda p: asked(p, b'0\r\n\r\n\r', method='POST',
                                              headers={'Transfer-Encoding': 'chunked'}),
    'behind HEAD': lambda p: asked(p, b'\r', method='HEAD'),
    'behind an answer of our own': lambda p: asked(p, b'\r', target='/nobody'),
    'behind HTTP/1.0': lambda p: asked(p, b'\r', version='HTTP/1.0', headers={'Connection': 'keep-alive'}),
}


@pytest.mark.parametrize('where', LEFT)
def test_a_lone_cr_has_a_deadline(where):
    with AutoWorker() as worker, \
            Proxy(upstream_config(worker.address, SHORT, routes='=/'), stop_timeout=5) as proxy:
        ended(LEFT[where](proxy))
        serves(proxy)


def test_a_lone_cr_that_came_while_the_request_was_inside():
    go = threading.Event()

    def serve(request, conn):
        assert request.target != '/slow' or go.wait(5)
        return answer(b'ok')
    with front(handler=serve) as proxy, proxy.connect() as c:
        c.send(head('GET', '/slow')).send(b'\r')
        proxy.wait_status(lambda s: s['groups'][0]['in_flight'] == 1)
        go.set()
        assert c.read_response().status == 200
        ended(c)


def test_a_lone_cr_behind_two_requests_at_once():
    with front() as proxy, proxy.connect() as c:
        c.send(head('GET', '/1') + head('GET', '/2') + b'\r')
        assert c.read_response().status == c.read_response().status == 200
        ended(c)


def test_a_lone_cr_behind_a_balancers_word():
    with AutoWorker() as worker:
        text = upstream_config(worker.address, SHORT).replace('listen = {listen}', 'listen = {listen} proxy')
        with Proxy(text, stop_timeout=5) as proxy, proxy.connect() as c:
            c.send(b'PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n' + head('GET', '/') + b'\r')
            assert c.read_response().status == 200
            ended(c)


def test_a_lone_cr_on_admin():
    with front() as proxy, Client(proxy.admin_address) as c:
        assert c.ask('GET', '/server', {'Host': 'localhost'}).status == 200
        ended(c.send(b'\r'))
        assert proxy.status()


@pytest.mark.parametrize('parts', [(b'\r', b'\n'), (b'\r\n',), (b'\r', b'\n\r', b'\n')])
def test_empty_lines_that_never_end_keep_nobody(parts):
    """They may stand before a request, but they are none: a connection is not kept by them for ever."""
    with front() as proxy, asked(proxy) as c:
        end = time.monotonic() + 3
        with contextlib.suppress(ConnectionError, Timeout, BrokenPipeError):
            while time.monotonic() < end and c.silent(0.05):
                for part in parts:
                    c.send(part)
        assert time.monotonic() < end, 'still open'


def test_a_request_may_come_behind_its_cr():
    """What is kept is the beginning of a head and no mistake: with the rest in time it is served."""
    with front(LONG + FULL) as proxy, contextlib.ExitStack() as stack:
        held = [stack.enter_context(asked(proxy, b'\r')) for _ in range(4)]
        for c in held:
            c.send(b'\n' + head('GET', '/'))
            assert c.read_response().status == 200
        serves(proxy)


# --- making room ---

@pytest.mark.parametrize('bytes_', [b'\r', b'\r\n\r'], ids=['CR', 'CR LF CR'])
def test_a_full_house_of_lone_crs_makes_room(bytes_):
    """Each has its deadline as part of a head: the newcomer is served when the first is over."""
    with front('header_timeout = 500ms\nkeepalive_timeout = 60s\n' + FULL) as proxy, contextlib.ExitStack() as stack:
        held = [stack.enter_context(asked(proxy).send(bytes_)) for _ in range(4)]
        serves(proxy)
        for c in held:
            ended(c)


def test_among_lone_crs_the_idle_one_makes_room():
    with front(LONG + FULL) as proxy, contextlib.ExitStack() as stack:
        held = [stack.enter_context(asked(proxy).send(b'\r')) for _ in range(3)]
        idle = stack.enter_context(asked(proxy))
        time.sleep(0.05)                     # each of those bytes is read: there is nothing to see them by
        serves(proxy)
        assert idle.eof()
        for c in held:
            assert c.silent(0)


def test_room_on_admin_behind_lone_crs():
    with front() as proxy, contextlib.ExitStack() as stack:
        for _ in range(140):                 # more than it holds
            c = stack.enter_context(Client(proxy.admin_address, 3))
            assert c.ask('GET', '/server', {'Host': 'localhost'}).status == 200
            c.send(b'\r')
        assert proxy.status()


def test_without_descriptors_a_lone_cr_makes_room_too():
    few = (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)))
    with front('header_timeout = 500ms\nkeepalive_timeout = 60s\nmax_conns = 1000\n', preexec=few) as proxy, \
            contextlib.ExitStack() as stack:
        for _ in range(70):
            c = stack.enter_context(proxy.connect(5))
            c.send(head('GET', '/'))
            assert c.read_response().status == 200
            c.send(b'\r')
        proxy.wait_status(lambda s: s['groups'][0]['in_flight'] == 0)


# --- a stop ---

@pytest.mark.parametrize('bytes_', [b'\r', b'\r\n\r'], ids=['CR', 'CR LF CR'])
@pytest.mark.parametrize('top', ['', 'lame_duck = 200ms\n'], ids=['', 'lame duck'])
def test_a_graceful_stop_does_not_wait_for_a_lone_cr(bytes_, top):
    with front(LONG + top) as proxy, asked(proxy).send(bytes_), asked(proxy), asked(proxy, bytes_):
        serves(proxy)
        start = time.monotonic()
        proxy.signal(signal.SIGTERM)
        assert proxy.wait_exit(4) == 0 and time.monotonic() - start < 4


def test_a_stop_with_a_lone_cr_on_admin():
    with front(LONG) as proxy, Client(proxy.admin_address) as c:
        assert c.ask('GET', '/server', {'Host': 'localhost'}).status == 200
        c.send(b'\r')
        proxy.signal(signal.SIGTERM)
        assert proxy.wait_exit(4) == 0
