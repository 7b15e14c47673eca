"""Checks of ready workers, and places for tunnels."""
import contextlib, os, signal, time

import pytest
from harness import AutoWorker, FakeWorker, Proxy, answer, head, upstream_config, wait_for
from procs import Own, metric

OK = answer(b'ok')
QUICK = 'health_path = /health\nhealth_interval = 100ms\nhealth_timeout = 200ms\nhealth_fails = 2\n'
UPGRADE = [('Connection', 'upgrade'), ('Upgrade', 'test')]
SWITCHED = b'HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: test\r\n\r\n'


def state(proxy):
    return proxy.worker('web')['state']


@contextlib.contextmanager
def sick(group=QUICK, limit=''):
    """A worker whose health is in the test's hands."""
    health = {'status': '200 OK', 'asked': 0}

    def serve(request, conn):
        if request.target == '/health':
            health['asked'] += 1
            return answer(b'', health['status'])
        return OK
    with AutoWorker(serve) as worker, Proxy(upstream_config(worker.address, '', group + limit)) as proxy:
        yield proxy, worker, health


def passes(proxy, worker):
    """Its first checks are answered until it is ready: where the machine pauses, one may be too late."""
    while True:
        conn = worker.one()[1]
        with contextlib.suppress(ConnectionError):
            conn.send(OK)
        wait_for(lambda: state(proxy) == 'ready' or not worker.no_connection(0))
        if state(proxy) == 'ready':
            return


@pytest.mark.parametrize('limit', ['', 'max_req_per_worker = 1\n'])
def test_an_upstream_that_fails_its_checks_is_down_until_one_passes(limit):
    with sick(limit=limit) as (proxy, worker, health):
        wait_for(lambda: health['asked'] > 2)
        health['status'] = '503 Sick'
        wait_for(lambda: state(proxy) == 'down')
        proxy.wait_log('2 health checks failed in a row')
        with proxy.connect() as c:
            c.send(head('GET', '/'))         # waits: the next check may pass
            wait_for(lambda: proxy.group('web')['queue']['len'] == 1)
            health['status'] = '204 Well'
            assert c.read_response().status == 200
        assert state(proxy) == 'ready' and (not limit or worker.max_inside <= 1)


def test_checks_come_beside_traffic():
    """What passes for other paths must not hide that the check would fail."""
    with sick() as (proxy, worker, health):
        wait_for(lambda: health['asked'] > 1)
        asked = health['asked']
        with proxy.connect() as c:
            wait_for(lambda: (c.ask('GET', '/').status == 200, health['asked'] >= asked + 3)[1])


def test_health_interval_none_checks_only_at_the_start():
    with sick('health_path = /health\nhealth_interval = none\n') as (proxy, worker, health):
        asked = health['asked']
        assert asked >= 1
        time.sleep(0.3)          # nothing to await: nothing shall come
        assert health['asked'] == asked


def test_a_check_waits_for_a_free_slot_and_an_empty_queue():
    with FakeWorker() as worker:
        config = upstream_config(worker.address, '', 'max_req_per_worker = 1\n' + QUICK)
        with Proxy(config, wait=False) as proxy:
            passes(proxy, worker)
            with proxy.connect() as c:
                c.send(head('GET', '/work'))
                while True:
                    request, conn = worker.one()
                    if request.target == '/work':
                        break
                    conn.send(OK)
                    conn.close()
                assert worker.no_connection(0.5), 'the slot is taken'
                conn.send(OK)
                assert c.read_response().status == 200
            request, conn = worker.one(OK)
            assert request.target == '/health' and metric(proxy, 'ldcorn_slots_forced_total') == 0


def test_a_check_that_hangs_keeps_its_slot():
    """It is inside the worker: nothing else is sent there, and the answer frees it."""
    with FakeWorker() as worker:
        config = upstream_config(worker.address, '', 'max_req_per_worker = 1\nhealth_path = /h\n'
                                 'health_interval = 100ms\nhealth_timeout = 200ms\nhealth_fails = 100\n')
        with Proxy(config, wait=False) as proxy:
            passes(proxy, worker)
            _, check = worker.one()
            with proxy.connect() as c:
                c.send(head('GET', '/work'))
                wait_for(lambda: proxy.group('web')['queue']['len'] == 1)
                assert worker.no_connection(0.5)
                check.send(answer(b'', headers=[('Connection', 'close')]))
                request, conn = worker.one(OK)
                assert request.target == '/work' and c.read_response().status == 200


def test_a_process_that_stops_answering_is_replaced():
    config = '[web]\nroutes = *\nfunction = hello\n' + QUICK.replace('/health', '/')
    with Proxy('listen = {listen}\nadmin = {admin}\n' + config) as proxy:
        pid = proxy.worker('web')['pid']
        os.kill(pid, signal.SIGSTOP)
        proxy.wait_log('health checks failed in a row, replacing it')
        wait_for(lambda: any(w['state'] == 'ready' and w['pid'] != pid for w in proxy.group('web')['workers']))
        with proxy.connect() as c:
            assert c.ask('GET', '/').status == 200
        os.kill(pid, signal.SIGKILL)


def test_tunnels_have_a_limit_and_the_others_pass():
    with FakeWorker() as worker:
        config = upstream_config(worker.address, '', 'max_tunnels_per_worker = 1\n')
        with Proxy(config) as proxy, contextlib.ExitStack() as stack:
            first, second, plain = (stack.enter_context(proxy.connect()) for _ in range(3))
            first.send(head('GET', '/first', UPGRADE))
            _, tunnel = worker.one()
            second.send(head('GET', '/second', UPGRADE))
            wait_for(lambda: proxy.group('web')['queue']['len'] == 1)
            tunnel.send(SWITCHED)
            assert first.read_until(b'\r\n\r\n').startswith(b'HTTP/1.1 101')
            plain.send(head('GET', '/plain'))
            request, conn = worker.one(OK)
            assert request.target == '/plain' and plain.read_response().status == 200
            assert proxy.group('web')['queue']['len'] == 1
            tunnel.close()
            first.eof()
            first.close()
            request = conn.read_request() if conn.sock.recv(1, 2) else worker.one()[0]
            assert request.target == '/second'


def test_an_upgrade_that_is_refused_gives_its_place_back():
    with FakeWorker() as worker:
        config = upstream_config(worker.address, '', 'max_tunnels_per_worker = 1\n')
        with Proxy(config) as proxy:
            for _ in range(3):
                with proxy.connect() as c:
                    c.send(head('GET', '/', UPGRADE))
                    worker.one(answer(b'no', '403 Forbidden', headers=[('Connection', 'close')]))
                    assert c.read_response().status == 403


@pytest.mark.parametrize('end', ['fin', 'rst', 'worker'])
def test_the_place_of_a_tunnel_comes_back(end):
    with FakeWorker() as worker:
        config = upstream_config(worker.address, '', 'max_tunnels_per_worker = 1\nmax_req_per_worker = 1\n')
        with Proxy(config) as proxy:
            for _ in range(3):
                with proxy.connect() as c:
                    c.send(head('GET', '/', UPGRADE))
                    _, conn = worker.one(SWITCHED)
                    assert c.read_until(b'\r\n\r\n').startswith(b'HTTP/1.1 101')
                    if end == 'worker':
                        conn.close()
                    elif end == 'fin':
                        c.fin()
                        conn.eof()
                        conn.close()
                    else:
                        c.rst()
                wait_for(lambda: metric(proxy, 'ldcorn_tunnels') == 0)
