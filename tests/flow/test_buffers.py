"""Bodies collected before a slot is taken, answers taken ahead of slow clients, the memory for both, and
what becomes of clients that are too slow (README: Buffers)."""
import contextlib, os, re, time

import pytest
from harness import AutoWorker, FakeWorker, Proxy, answer, head, upstream_config, wait_for
from procs import metric

OK = answer(b'ok')
MIB = 1 << 20


@contextlib.contextmanager
def pair(top='', group='', limit='max_req_per_worker = 1\n', unix=False):
    with FakeWorker(unix) as worker, Proxy(upstream_config(worker.address, top, limit + group)) as proxy:
        yield proxy, worker


def rss(proxy, field='VmRSS'):
    with open('/proc/%d/status' % proxy.pid) as f:
        return int(re.search(field + r':\s+(\d+)', f.read()).group(1)) * 1024


def post(length, path='/', extra=()):
    return head('POST', path, [('Content-Length', str(length))] + list(extra))


def chunk(data):
    return b'%x\r\n%s\r\n' % (len(data), data)


# --- collecting ---

def test_a_slow_upload_takes_no_slot():
    with pair() as (proxy, worker), proxy.connect() as slow, proxy.connect() as other:
        slow.send(post(10) + b'12345')
        other.send(head('GET', '/other'))
        request, conn = worker.one(OK)
        assert request.target == '/other' and other.read_response().body == b'ok'
        slow.send(b'67890')
        request, conn = worker.one(OK) if conn.eof() else (conn.read_request(), conn.send(OK))
        assert request.body == b'1234567890' and slow.read_response().body == b'ok'


def test_a_chunked_body_that_fits_goes_by_its_length():
    with pair() as (proxy, worker), proxy.connect() as c:
        c.send(head('POST', '/', [('Transfer-Encoding', 'chunked')]) + chunk(b'abc'))
        c.send(chunk(b'defg;') + b'0\r\nTrailer: x\r\n\r\n')
        request, _ = worker.one(OK)
        assert request.body == b'abcdefg;' and request.get('content-length') == '8'
        assert request.get('transfer-encoding') is None
        assert c.read_response().body == b'ok'


def test_an_empty_chunked_body_is_a_length_of_0():
    with pair() as (proxy, worker), proxy.connect() as c:
        c.send(head('POST', '/', [('Transfer-Encoding', 'chunked')]) + b'0\r\n\r\n')
        request, _ = worker.one(OK)
        assert request.body == b'' and request.get('content-length') == '0'
        assert c.read_response().body == b'ok'


@pytest.mark.parametrize('size', [4095, 4096, 4097, 10000, 300000])
@pytest.mark.parametrize('chunked', [False, True])
def test_a_longer_body_streams_behind_what_was_collected(size, chunked):
    body = os.urandom(size)
    with pair(group='request_buffer = 4K\n') as (proxy, worker), proxy.connect() as c:
        if chunked:
            c.send(head('POST', '/', [('Transfer-Encoding', 'chunked')]) +
                   b''.join(chunk(body[at:at + 1000]) for at in range(0, size, 1000)) + b'0\r\n\r\n')
        else:
            c.send(post(size) + body)
        request, conn = worker.one(OK)
        assert request.body == body
        by_length = request.get('content-length') == str(size)
        assert by_length if not chunked or size <= 4096 else not by_length or size < 65536
        assert c.read_response().body == b'ok'
        c.send(head('GET', '/next'))
        assert conn.read_request().target == '/next'
        conn.send(OK)
        assert c.read_response().body == b'ok'


def test_request_buffer_0_streams_at_once():
    with pair(group='request_buffer = 0\n') as (proxy, worker), proxy.connect() as c:
        c.send(post(10) + b'12345')
        conn = worker.accept()
        assert conn.read_until(b'12345')
        c.send(b'67890')
        assert conn.read_exact(5) == b'67890'
        conn.close()


def test_a_group_without_a_limit_streams_at_once():
    with pair(limit='') as (proxy, worker), proxy.connect() as c:
        c.send(post(10) + b'12345')
        assert worker.accept().read_until(b'12345')


def test_100_continue_is_ours_while_we_collect():
    with pair() as (proxy, worker), proxy.connect() as c:
        c.send(post(3, extra=[('Expect', '100-continue')]))
        assert c.read_until(b'\r\n\r\n') == b'HTTP/1.1 100 Continue\r\n\r\n'
        assert worker.no_connection()
        c.send(b'abc')
        request, _ = worker.one(OK)
        assert request.body == b'abc' and request.get('expect') is None
        r = c.read_response()
        assert r.body == b'ok' and not r.interim


def test_no_100_for_a_body_that_is_there():
    with pair() as (proxy, worker), proxy.connect() as c:
        c.send(post(3, extra=[('Expect', '100-continue')]) + b'abc')
        assert worker.one(OK)[0].body == b'abc'
        r = c.read_response()
        assert r.body == b'ok' and not r.interim


def test_refusals_that_need_only_the_head_come_before_the_100():
    with pair(group='max_body = 10\n') as (proxy, worker), proxy.connect() as c:
        c.send(post(11, extra=[('Expect', '100-continue')]))
        r = c.read_response()
        assert r.status == 413 and not r.interim


def test_a_full_queue_is_told_before_the_100():
    with pair(group='queue = 0\n') as (proxy, worker), proxy.connect() as busy, proxy.connect() as c:
        busy.send(head('GET', '/'))
        _, conn = worker.one()
        c.send(post(3, extra=[('Expect', '100-continue')]))
        r = c.read_response()
        assert r.status == 503 and not r.interim
        conn.send(OK)


def test_order_is_that_of_complete_bodies():
    with pair() as (proxy, worker), proxy.connect() as busy, proxy.connect() as a, proxy.connect() as b:
        busy.send(head('GET', '/busy'))
        _, conn = worker.one()
        a.send(post(2, '/a') + b'x')
        wait_for(lambda: metric(proxy, 'ldcorn_connections', state='body') == 1)
        b.send(head('GET', '/b'))
        wait_for(lambda: proxy.group('web')['queue']['len'] == 1)
        a.send(b'y')
        wait_for(lambda: proxy.group('web')['queue']['len'] == 2)
        conn.send(OK)
        assert conn.read_request().target == '/b'
        conn.send(OK)
        # a POST takes a connection that has just been used
        again = conn.read_request()
        assert (again.target, again.body) == ('/a', b'xy')
        conn.send(OK)
        assert [x.read_response().status for x in (busy, a, b)] == [200] * 3


@pytest.mark.parametrize('how', ['fin', 'rst'])
def test_a_client_that_leaves_while_it_is_collected(how):
    with pair() as (proxy, worker), proxy.connect() as c:
        c.send(post(10) + b'123')
        wait_for(lambda: metric(proxy, 'ldcorn_connections', state='body') == 1)
        c.fin() if how == 'fin' else c.rst()
        record = proxy.wait_access(lambda r: r['status'] == 499)
        assert record['reason'] == 'client_gone' and record['worker'] == -1
        assert worker.no_connection()


def test_broken_chunks_are_refused_before_a_worker_is_asked():
    with pair() as (proxy, worker), proxy.connect() as c:
        c.send(head('POST', '/', [('Transfer-Encoding', 'chunked')]) + b'3\r\nabcX')
        r = c.read_response()
        assert r.status == 400 and c.eof() and worker.no_connection()


def test_max_body_of_a_chunked_body_that_is_collected():
    with pair(group='max_body = 5\n') as (proxy, worker), proxy.connect() as c:
        c.send(head('POST', '/', [('Transfer-Encoding', 'chunked')]) + chunk(b'abc') + chunk(b'def'))
        assert c.read_response().status == 413 and c.eof() and worker.no_connection()


def test_what_is_sent_ahead_of_a_collected_body_is_the_next_request():
    with pair() as (proxy, worker), proxy.connect() as c:
        c.send(post(3) + b'ab')
        wait_for(lambda: metric(proxy, 'ldcorn_connections', state='body') == 1)
        c.send(b'c' + head('GET', '/second'))
        request, conn = worker.one(OK)
        assert request.body == b'abc'
        assert c.read_response().body == b'ok'
        assert conn.read_request().target == '/second'
        conn.send(OK)
        assert c.read_response().body == b'ok'


def test_arrival_is_the_moment_at_which_the_body_was_there():
    with pair() as (proxy, worker), proxy.connect() as c:
        c.send(post(2) + b'a')
        wait_for(lambda: metric(proxy, 'ldcorn_connections', state='body') == 1)
        before = time.time() * 1000
        c.send(b'b')
        request, _ = worker.one(OK)
        assert int(request.get('x-request-start')[2:]) >= int(before)
        assert c.read_response().status == 200


# --- answers ahead of slow clients ---

def test_the_slot_is_free_when_the_answer_was_read_whatever_the_client_takes():
    size = 6 * MIB
    with pair(group='response_buffer = 8M\n') as (proxy, worker), proxy.connect() as slow, \
            proxy.connect() as other:
        slow.send(head('GET', '/slow'))
        _, conn = worker.one()
        conn.send(answer(b'x' * size))
        other.send(head('GET', '/other'))
        assert conn.read_request().target == '/other'
        conn.send(OK)
        assert other.read_response().body == b'ok'
        assert slow.read_response().body == b'x' * size


def test_what_is_read_ahead_is_bounded():
    with pair(group='response_buffer = 1M\n', unix=True) as (proxy, worker), proxy.connect() as slow:      # TCP may hold 32M
        slow.send(head('GET', '/slow'))
        _, conn = worker.one()
        conn.send(b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n' % (50 * MIB))
        before = rss(proxy)
        sent = conn.send_some(b'x' * (50 * MIB), 0.5)
        assert sent < 24 * MIB, 'kernel buffers and one more MiB'
        assert rss(proxy) - before < 6 * MIB
        assert 0 < metric(proxy, 'ldcorn_buffer_bytes') <= 4 * MIB
        conn.close()


def test_an_upload_to_a_worker_that_does_not_read_is_bounded():
    with pair(group='max_body = none\n') as (proxy, worker), proxy.connect() as c:
        before = rss(proxy)
        c.send(post(300 * MIB))
        sent = c.send_some(b'x' * (64 * MIB), 0.5)
        conn = worker.accept()
        sent += c.send_some(b'x' * (64 * MIB), 0.5)
        assert sent < 48 * MIB
        assert rss(proxy) - before < 8 * MIB
        assert metric(proxy, 'ldcorn_buffer_bytes') <= 4 * MIB
        conn.close()


# --- memory ---

def held(proxy):
    return metric(proxy, 'ldcorn_connections', state='body')


SMALL = 'buffer_memory = 1M\n'       # one group: 512K of its own and 384K of the rest


def test_without_memory_a_body_waits_in_order_and_is_not_asked_for():
    with pair(SMALL, 'request_buffer = 512K\n') as (proxy, worker), contextlib.ExitStack() as stack:
        first = stack.enter_context(proxy.connect())
        first.send(post(500000) + b'x')
        wait_for(lambda: held(proxy) == 1)
        second = stack.enter_context(proxy.connect())
        second.send(post(450000, '/second', [('Expect', '100-continue')]))
        wait_for(lambda: held(proxy) == 2)
        third = stack.enter_context(proxy.connect())
        third.send(post(70000, '/third', [('Expect', '100-continue')]))
        wait_for(lambda: held(proxy) == 3)
        assert second.silent() and third.silent(0.01), 'no 100 before there is memory; nobody overtakes'
        small = stack.enter_context(proxy.connect())
        small.send(post(1000, '/small') + b'y' * 1000)
        request, conn = worker.one(OK)
        assert request.target == '/small' and small.read_response().status == 200, 'a quarter is for small bodies'
        first.send(b'x' * 499999)
        request, _ = worker.one(OK) if conn.eof() else (conn.read_request(), conn.send(OK))     # a POST takes no old connection
        assert request.target == '/'
        assert first.read_response().status == 200
        for c in (second, third):
            assert c.read_until(b'\r\n\r\n').startswith(b'HTTP/1.1 100 ')
        assert worker.no_connection(0.01)


def test_waiting_for_memory_ends_with_queue_timeout():
    with pair(SMALL, 'request_buffer = 512K\nqueue_timeout = 300ms\n') as (proxy, worker), \
            proxy.connect() as first, proxy.connect() as second:
        first.send(post(900000) + b'x')
        wait_for(lambda: held(proxy) == 1)
        second.send(post(500000) + b'x')
        r = second.read_response()
        assert r.status == 503 and r.get('retry-after')
        assert proxy.wait_access(lambda r: r['status'] == 503)['reason'] == 'memory'
        assert metric(proxy, 'ldcorn_refused_total', group='web', reason='memory') == 1


def test_a_group_cannot_use_up_the_part_of_another():
    with FakeWorker() as a, FakeWorker() as b:
        config = upstream_config(a.address, SMALL, 'max_req_per_worker = 1\nrequest_buffer = 300K\n', '/a')
        config += '[b]\nroutes = *\nupstream = %s\nmax_req_per_worker = 1\n' % b.address
        with Proxy(config) as proxy, contextlib.ExitStack() as stack:
            for _ in range(6):
                c = stack.enter_context(proxy.connect())
                c.send(post(300000, '/a') + b'x')
            wait_for(lambda: held(proxy) == 6)
            other = stack.enter_context(proxy.connect())
            other.send(post(200000, '/b') + b'y' * 200000)
            assert b.one(OK)[0].body == b'y' * 200000
            assert other.read_response().status == 200


def test_all_memory_comes_back():
    with pair(SMALL, 'request_buffer = 256K\nresponse_buffer = 512K\n') as (proxy, worker):
        for how in ('whole', 'fin', 'rst', 'refused'):
            for _ in range(8):
                with proxy.connect() as c:
                    c.send(post(200000) + b'x' * 1000)
                    wait_for(lambda: held(proxy) == 1)
                    if how == 'whole':
                        c.send(b'x' * 199000)
                        worker.one(OK)[1].close()
                        assert c.read_response().status == 200
                    elif how == 'refused':
                        c.send(b'x')
                    else:
                        c.rst() if how == 'rst' else c.fin()
                        wait_for(lambda: held(proxy) == 0)
                wait_for(lambda: held(proxy) == 0)
        wait_for(lambda: metric(proxy, 'ldcorn_buffer_bytes') < 70000)


def test_a_request_buffer_larger_than_the_memory_is_no_dead_end():
    with pair(SMALL, 'request_buffer = 16M\n') as (proxy, worker), proxy.connect() as c:
        c.send(post(2 * MIB) + b'x' * (2 * MIB))
        assert len(worker.one(OK)[0].body) == 2 * MIB
        assert c.read_response().status == 200


def test_chunked_bodies_without_memory_for_all_of_them_stream():
    """They begin with 64K; those that waited for more while they hold it would wait for each other."""
    with AutoWorker(lambda r, c: answer(str(len(r.body)))) as worker, contextlib.ExitStack() as stack, \
            Proxy(upstream_config(worker.address, SMALL, 'max_req_per_worker = 1\nrequest_buffer = 512K\n')) as proxy:
        clients = [stack.enter_context(proxy.connect()) for _ in range(4)]
        for c in clients:
            c.send(head('POST', '/', [('Transfer-Encoding', 'chunked')]) + chunk(b'x' * 60000))
        wait_for(lambda: held(proxy) == 4)
        for c in clients:
            c.send(chunk(b'x' * 240000) + b'0\r\n\r\n')
        assert [c.read_response().body for c in clients] == [b'300000'] * 4


def test_unfinished_heads_have_an_eighth_and_the_oldest_leaves():
    with pair('buffer_memory = 1M\nheader_timeout = 1m\n') as (proxy, worker), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(proxy.connect()) for _ in range(40)]
        for i, c in enumerate(clients):       # each keeps 8K of the 128K
            c.send(b'GET / HTTP/1.1\r\nHost: h\r\nX: ' + b'y' * 6000)
            wait_for(lambda i=i: metric(proxy, 'ldcorn_accepted_total') >= i + 1)
        r = clients[0].read_response()
        assert r.status == 408 and clients[0].eof()
        assert proxy.wait_access(lambda r: r['status'] == 408)['reason'] == 'slow'
        clients[-1].send(b'\r\n\r\n')
        worker.one(OK)
        assert clients[-1].read_response().status == 200


# --- slow clients ---

def drip(client, data, each, seconds):
    end, at = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        try:
            client.sock.send(data[at:at + 1])
        except OSError:
            return
        at += 1
        time.sleep(each)        # the client's pace is what is tested


@pytest.mark.slow
@pytest.mark.parametrize('group', ['request_buffer = 0\n', 'request_buffer = 4K\n'])
def test_min_rate_of_a_body(group):
    """One that holds a slot: it streams, or it is longer than what is collected."""
    with pair('min_rate = 1K\n', group) as (proxy, worker), proxy.connect() as c:
        c.send(post(100000) + b'x' * 5000)
        assert worker.accept().read_head().target == '/'
        drip(c, b'x' * 1000, 0.1, 10.5)
        r = c.read_response()
        assert r.status == 408 and c.eof()
        record = proxy.wait_access(lambda r: r['status'] == 408)
        assert record['reason'] == 'slow'


@pytest.mark.slow
def test_a_body_faster_than_min_rate_goes_through():
    with pair('min_rate = 100\n', 'request_buffer = 0\n') as (proxy, worker), proxy.connect() as c:
        c.send(post(2401))
        for _ in range(24):
            c.send(b'x' * 100)          # 200 bytes per second for 12 seconds
            time.sleep(0.5)
        c.send(b'x')
        assert len(worker.one(OK)[0].body) == 2401
        assert c.read_response().status == 200


@pytest.mark.slow
def test_min_rate_of_a_reader():
    with pair('min_rate = 64K\nsend_timeout = 4s\n', 'response_buffer = 256K\n') as (proxy, worker), \
            proxy.connect() as c:
        c.send(head('GET', '/'))
        _, conn = worker.one()
        conn.send(b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n' % (64 * MIB))
        conn.send_some(b'x' * (64 * MIB), 0.3)
        end, got = time.monotonic() + 20, 0
        while not proxy.access() and time.monotonic() < end:
            got += len(c.sock.recv(20000))
            time.sleep(1)
        assert proxy.access()[0]['reason'] in ('slow', 'send_timeout')
        assert got + len(c.read_all()) < 64 * MIB
