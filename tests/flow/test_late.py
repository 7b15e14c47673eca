"""The proxy gets no processor until a time-out is over: what came before it ran again counts as in time."""
import signal, threading, time

import pytest
from harness import answer, head, wait_for
from procs import Before, metric

pytestmark = pytest.mark.whole      # it all comes with the first look
OK = answer(b'ok')
LONG = 1.3                   # of time-outs of a second, which begin before the proxy is stopped
BODY = b'0123456789'
POST = head('POST', '/x', [('Content-Length', '10')])
GET = head('GET', '/x')
SWITCH = b'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n'


class Late(Before):
    def stopped(self, *steps):
        """What is done while the proxy stands still, and its time-outs go by."""
        self.proxy.freeze()
        for step, *args in steps:
            step(*args)
        time.sleep(LONG)
        self.proxy.signal(signal.SIGCONT)

    def client(self, data):
        c = self.proxy.connect().send(data)
        self.clients.append(c)
        return c

    def asked(self, data=GET):
        """-> client, the connection at the worker that has its request."""
        return self.client(data), self.worker.one()[1]


def test_header_timeout():
    with Late(top='header_timeout = 1s\n') as p:
        c = p.client(GET[:-4])
        wait_for(lambda: metric(p.proxy, 'ldcorn_connections', state='head') == 1)      # the one that asks waits
        p.stopped((c.send, GET[-4:]))
        assert p.worker.one(OK)[0].target == '/x'
        assert c.read_response().body == b'ok'


@pytest.mark.parametrize('collected', [False, True])
def test_body_timeout(collected):
    with Late('max_req_per_worker = 1\nrequest_buffer = %s\n' % ('64K' if collected else '0'),
              top='body_timeout = 1s\n') as p:
        c = p.client(POST + BODY[:3])
        conn = None if collected else p.worker.accept()
        if collected:
            wait_for(lambda: metric(p.proxy, 'ldcorn_connections', state='body') == 1)
        else:
            conn.read_head(), conn.read_exact(3)
        p.stopped((c.send, BODY[3:]))
        if collected:
            assert p.worker.one(OK)[0].body == BODY
        else:
            assert conn.read_exact(7) == BODY[3:]
            conn.send(OK)
        assert c.read_response().body == b'ok'


@pytest.mark.parametrize('name', ['response_timeout', 'run_timeout'])
@pytest.mark.parametrize('sent', [0, 20, len(OK) - 1])
def test_worker_time_outs(name, sent):
    with Late('max_req_per_worker = 1\n%s = 1s\n' % name) as p:
        c, conn = p.asked()
        conn.send(OK[:sent])
        if sent > 30:
            c.peek_until(b'\r\n\r\n')
        p.stopped((conn.send, OK[sent:]))
        r = c.read_response()
        assert r.complete and r.body == b'ok'


def test_queue_timeout():
    """The slot became free while nobody looked."""
    with Late('max_req_per_worker = 1\nqueue_timeout = 1s\n') as p:
        c, conn = p.asked()
        waits = p.client(head('GET', '/waits'))
        p.queued(1)
        p.stopped((conn.send, OK))
        assert c.read_response().body == b'ok'
        assert p.next(conn, OK)[0].target == '/waits'
        assert waits.read_response().body == b'ok'


def test_keepalive_timeout():
    with Late(top='keepalive_timeout = 1s\n') as p:
        c, conn = p.asked()
        conn.send(OK)
        assert c.read_response().body == b'ok'
        p.stopped((c.send, head('GET', '/next')))
        assert p.next(conn, OK)[0].target == '/next'
        assert c.read_response().body == b'ok'


@pytest.mark.parametrize('end', ['client', 'worker'])
def test_tunnel_timeout(end):
    with Late('max_req_per_worker = 1\ntunnel_timeout = 1s\n') as p:
        c, conn = p.asked(head('GET', '/x', [('Connection', 'Upgrade'), ('Upgrade', 'websocket')]))
        conn.send(SWITCH)
        assert c.read_until(b'\r\n\r\n').startswith(b'HTTP/1.1 101 ')
        here, there = (c, conn) if end == 'client' else (conn, c)
        p.stopped((here.send, BODY))
        assert there.read_exact(len(BODY)) == BODY


def test_send_timeout():
    """The client reads again; it had stopped for less than the time."""
    size = 64 << 20                                  # more than all sockets between them hold
    with Late('max_req_per_worker = 1\n', top='send_timeout = 1s\n') as p:
        c, conn = p.asked()
        data = b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n' % size + bytes(size)
        sent = conn.send_some(data, 0.1)
        assert sent < len(data)
        got = []

        def take():                                      # all that is on its way, or TCP would not ask for more
            while not c.silent(0.05):
                got.append(len(c.recv_some()))
        p.stopped((take,))
        rest = threading.Thread(target=conn.send, args=(data[sent:],))
        rest.start()
        assert c.read_exact(len(data) - sum(got)) == bytes(len(data) - sum(got))
        rest.join()
