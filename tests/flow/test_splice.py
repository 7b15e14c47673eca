"""Long bodies that go from socket to socket unseen: what the splice must not change."""
import socket, subprocess, threading

import pytest
from harness import Client, FakeWorker, Proxy, built, free_port, head, upstream_config

LONG = 300000


def urgent(s):
    """One byte out of band, which recv() skips and splice() does not get past, and what follows it."""
    s.sock.send(b'!', socket.MSG_OOB)
    s.send(b'b' * 50000)


def test_urgent_byte_in_a_long_request_body():
    with FakeWorker() as w, Proxy(upstream_config(w.address)) as p, p.connect() as c:
        c.send(head('POST', '/', [('Content-Length', str(LONG))]) + b'a' * 100000)
        k = w.accept()
        k.read_head()
        assert k.read_exact(100000) == b'a' * 100000
        urgent(c)
        assert k.read_exact(50000, 3) == b'b' * 50000
        assert 'without progress' not in p.log()


def test_urgent_byte_in_a_long_answer():
    with FakeWorker() as w, Proxy(upstream_config(w.address)) as p, p.connect() as c:
        c.send(head('GET', '/'))
        k = w.accept()
        k.read_head()
        k.send(b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n' % LONG + b'a' * 100000)
        c.read_until(b'\r\n\r\n')
        assert c.read_exact(100000) == b'a' * 100000
        urgent(k)
        assert c.read_exact(50000, 3) == b'b' * 50000
        assert 'without progress' not in p.log()


@pytest.mark.parametrize('size', [32768, 36864, 131072, 131072 + 4096, 300000])
@pytest.mark.parametrize('limit', ['', 'max_req_per_worker = 1'])
def test_surplus_behind_a_long_answer_reaches_nobody(size, limit):
    """The next one in line is started in the turn in which the long body ended."""
    with FakeWorker() as w, Proxy(upstream_config(w.address, group=limit)) as p, \
            p.connect() as c, p.connect() as d:
        c.send(head('GET', '/first'))
        k = w.accept()
        k.read_head()
        if limit:
            d.send(head('GET', '/next'))
            assert k.silent(0.05)
        k.send(b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n' % size + b'a' * size
               + b'HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON')
        assert c.read_response().body == b'a' * size
        if not limit:
            d.send(head('GET', '/next'))
        k = w.accept()
        assert k.read_head().target == '/next'
        k.send(b'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine')
        assert d.read_response().body == b'fine'


def test_another_instances_end_leaves_no_deadly_sigpipe():
    """Two ldcorn_run() in two threads: the first one's ldcorn_close() puts SIGPIPE back."""
    binary = built('embed/two_runs.c', '-std=gnu99', '-O1', '-g', '-pthread')
    with FakeWorker(unix=True) as w:
        ports = free_port(), free_port()
        p = subprocess.Popen([binary] + ['127.0.0.1:%d' % n for n in ports] + [w.address],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            assert p.stdout.readline() == b'runs\n'
            p.stdin.write(b'\n')
            p.stdin.flush()
            assert p.stdout.readline() == b'closed\n'
            for _ in range(40):                       # each: a worker that goes in the midst of an upload
                with Client(('127.0.0.1', ports[1])) as c:
                    c.send(head('POST', '/x', [('Content-Length', '30000000')]))
                    k = w.accept()
                    k.read_head()

                    def push():
                        try:
                            c.sock.sendall(b'a' * 3000000)
                        except OSError:
                            pass
                    t = threading.Thread(target=push)
                    t.start()
                    k.recv_some()
                    k.close()
                    t.join()
                assert p.poll() is None, p.returncode
            p.stdin.write(b'\n')
            p.stdin.flush()
            assert p.wait(10) == 0
        finally:
            if p.poll() is None:
                p.kill()
                p.wait()
            p.stdin.close()
            p.stdout.close()
