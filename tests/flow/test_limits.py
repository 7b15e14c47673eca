"""Who may ask, and how much: allow, deny, rate, max_req_per_client, ready_path."""
import contextlib, signal

import pytest
from harness import AutoWorker, Client, FakeWorker, Proxy, answer, cli, head, upstream_config, wait_for
from procs import metric

OK = answer(b'ok')


@contextlib.contextmanager
def pair(group='', top='', kind=AutoWorker):
    with kind() as worker, Proxy(upstream_config(worker.address, top, group)) as proxy:
        yield proxy, worker


def via(address, path='/', extra=()):
    return head('GET', path, [('X-Forwarded-For', address)] + list(extra))


def passes(proxy, data):
    with proxy.connect() as c:
        c.send(data)
        return c.read_response().status == 200


def refused(proxy, data):
    with proxy.connect() as c:
        c.send(data)
        return c.read_response()


TRUST = 'trusted_proxies = 127.0.0.1\n'


def test_allow_and_deny():
    with pair('allow = 10.0.0.0/8 2001:db8::/32\ndeny = 10.1.0.0/16\n', TRUST) as (proxy, worker):
        for good in ('10.0.0.1', '10.255.0.1', '2001:db8::7', '::ffff:10.2.3.4'):
            assert passes(proxy, via(good)), good
        for bad in ('10.1.2.3', '11.0.0.1', '2001:db9::1', '::ffff:10.1.0.1'):
            r = refused(proxy, via(bad))
            assert r.status == 403 and r.get('connection') is None, bad
        assert refused(proxy, head('GET', '/')).status == 403, 'the peer itself'
        assert proxy.wait_access(lambda r: r['status'] == 403)['reason'] == 'denied'


def test_deny_alone_and_an_untrusted_claim():
    with pair('deny = 127.0.0.1\n', 'trusted_proxies = none\n') as (proxy, worker):
        assert refused(proxy, via('10.0.0.1')).status == 403
        assert worker.served == 0


def test_unix_peers_in_lists():
    with AutoWorker() as worker:
        config = upstream_config(worker.address, 'listen = unix:{dir}/s\n', 'allow = unix\n')
        with Proxy(config) as proxy:
            with Client('unix:%s/s' % proxy.dir) as c:
                c.send(head('GET', '/'))
                assert c.read_response().status == 200
            assert refused(proxy, head('GET', '/')).status == 403


def test_rate_with_burst():
    with pair('rate = 1/m burst=3\n') as (proxy, worker):
        with proxy.connect() as c:
            for _ in range(3):
                c.send(head('GET', '/'))
                assert c.read_response().status == 200
            for _ in range(2):
                c.send(head('GET', '/'))
                r = c.read_response()
                assert r.status == 429 and 1 <= int(r.get('retry-after')) <= 60
                assert r.get('connection') is None, 'the connection goes on'
        assert proxy.wait_access(lambda r: r['status'] == 429)['reason'] == 'rate'
        assert metric(proxy, 'ldcorn_refused_total', reason='rate') == 2
        proxy.wait_log(r'web: \d+ requests? refused with 429.*rate = 1/m')


def test_rate_refills():
    with pair('rate = 1/s burst=1\n') as (proxy, worker):
        assert passes(proxy, head('GET', '/'))
        assert refused(proxy, head('GET', '/')).status == 429
        wait_for(lambda: passes(proxy, head('GET', '/')), 5)


def test_rate_by_address_and_by_64():
    with pair('rate = 1/m\n', TRUST) as (proxy, worker):
        assert passes(proxy, via('10.0.0.1'))
        assert passes(proxy, via('10.0.0.2'))
        assert refused(proxy, via('10.0.0.1')).status == 429
        assert passes(proxy, via('2001:db8:1:2::1'))
        assert refused(proxy, via('2001:db8:1:2:ffff::9')).status == 429
        assert passes(proxy, via('2001:db8:1:3::1'))


def test_rate_by_header():
    with pair('rate = 1/m key=header:X-Key\n') as (proxy, worker):
        one, two = (head('GET', '/', [('X-Key', k)]) for k in ('one', 'two'))
        assert passes(proxy, one) and passes(proxy, two)
        assert refused(proxy, one).status == refused(proxy, two).status == 429
        assert passes(proxy, head('GET', '/')), 'without the field the address counts'
        assert refused(proxy, head('GET', '/')).status == 429


def test_the_clients_remembered_are_bounded():
    """Memory does not grow with the number of addresses; the newest ones are still counted."""
    with pair('rate = 1/m\n', TRUST) as (proxy, worker), proxy.connect() as c:
        ask = lambda n: via('10.%d.%d.%d' % (n >> 16 & 255, n >> 8 & 255, n & 255))
        for n in range(0, 20000, 50):
            c.send(b''.join(ask(i) for i in range(n, n + 50)))
            for _ in range(50):
                assert c.read_response().status == 200
        assert refused(proxy, ask(19999)).status == 429
        assert passes(proxy, ask(0)), 'long forgotten'


def test_max_req_per_client():
    with pair('max_req_per_worker = 1\nmax_req_per_client = 2\n', TRUST, FakeWorker) as (proxy, worker), \
            contextlib.ExitStack() as stack:
        a, b, c, d = (stack.enter_context(proxy.connect()) for _ in range(4))
        a.send(via('10.0.0.1', '/a'))
        _, conn = worker.one()
        b.send(via('10.0.0.1', '/b'))
        wait_for(lambda: proxy.group('web')['queue']['len'] == 1)
        c.send(via('10.0.0.1', '/c'))
        r = c.read_response()
        assert r.status == 429 and r.get('retry-after')
        d.send(via('10.0.0.2', '/d'))
        wait_for(lambda: proxy.group('web')['queue']['len'] == 2)
        for path in ('/b', '/d'):
            conn.send(OK)
            assert conn.read_request().target == path
        conn.send(OK)
        assert [x.read_response().status for x in (a, b, d)] == [200] * 3
        c.send(via('10.0.0.1', '/again'))
        assert conn.read_request().target == '/again'
        conn.send(OK)
        assert c.read_response().status == 200
        assert proxy.wait_access(lambda r: r['status'] == 429)['reason'] == 'client_limit'


def test_a_share_is_kept_until_the_worker_is_done():
    """Leaving and asking again is no way around the limit."""
    with pair('max_req_per_worker = 2\nmax_req_per_client = 1\n', kind=FakeWorker) as (proxy, worker):
        with proxy.connect() as a:
            a.send(head('GET', '/a'))
            _, conn = worker.one()
            a.rst()
        assert refused(proxy, head('GET', '/b')).status == 429
        conn.send(OK)
        wait_for(lambda: metric(proxy, 'ldcorn_in_flight') == 0)
        with proxy.connect() as c:
            c.send(head('GET', '/c'))
            assert conn.read_request().target == '/c'
            conn.send(OK)
            assert c.read_response().status == 200


def test_shares_survive_reloads():
    with pair('max_req_per_client = 1\n', kind=FakeWorker) as (proxy, worker), proxy.connect() as a:
        a.send(head('GET', '/a'))
        _, conn = worker.one()
        proxy.signal(signal.SIGHUP)
        proxy.wait_status(lambda s: s['generation'] == 2)
        assert refused(proxy, head('GET', '/b')).status == 429
        conn.send(OK)
        assert a.read_response().status == 200
        a.send(head('GET', '/c'))
        assert conn.read_request().target == '/c'
        conn.send(OK)
        assert a.read_response().status == 200


def test_ready_path():
    with FakeWorker() as worker:
        with Proxy(upstream_config(worker.address, 'ready_path = /-/ready\n')) as proxy:
            with proxy.connect() as c:
                for target in ('/-/ready', '/-/ready?x=1'):
                    c.send(head('GET', target))
                    assert c.read_response().status == 200
                c.send(head('HEAD', '/-/ready'))
                r = c.read_response('HEAD')
                assert r.status == 200 and r.body == b''
            worker.stop_listening()
            with proxy.connect() as c:
                c.send(head('GET', '/x'))        # finds it gone
                wait_for(lambda: refused(proxy, head('GET', '/-/ready')).status == 503)
            assert refused(proxy, head('GET', '/-/ready')).body == b'not ready\n'


@pytest.mark.parametrize('line,said', [
    ('rate = 10', 'rate'), ('rate = 0/s', 'rate'), ('rate = 10/h', 'rate'), ('rate = burst=3', 'rate'),
    ('rate = 10/s burst=0', 'rate'), ('rate = 10/s key=cookie:x', 'rate'), ('allow = 300.1.1.1', 'network'),
    ('deny = 10.0.0.0/33', 'network'), ('max_req_per_client = -5', 'max_req_per_client')])
def test_errors(line, said):
    r = cli('-t', 'groups.ini', config='[web]\nroutes = *\nupstream = 127.0.0.1:1\n%s\n' % line)
    assert r.status == 2 and ':4:' in r.err and said in r.err
