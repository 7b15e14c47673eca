"""Which group by host, header, cookie, query and method; paths without their prefix; which worker of a group."""
import collections, os, re, signal, time

import pytest

from harness import AutoWorker, FakeWorker, Proxy, answer, cli, head, upstream_config, wait_for
from procs import Own, alive, counter


def echo(name):
    return AutoWorker(lambda r, c: answer('%s %s' % (name, r.target)))


def check(config):
    return cli('-t', 'groups.ini', config=config)


class Groups:
    """A proxy of groups, each a dict of keys; every worker answers with its group's name and the target it saw."""

    def __init__(self, **groups):
        self.workers = {name: echo(name) for name in groups}
        self.proxy = Proxy('listen = {listen}\nadmin = {admin}\n' + ''.join(
            '[%s]\nupstream = %s\n%s' % (name, self.workers[name].address, ''.join('%s = %s\n' % k for k in keys.items()))
            for name, keys in groups.items()))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.proxy.__exit__(None, None, None)
        for w in self.workers.values():
            w.close()

    def ask(self, target='/', host='h', headers=(), method='GET'):
        with self.proxy.connect() as c:
            c.send(b'%s %s HTTP/1.1\r\nHost: %s\r\n%s\r\n' % (
                method.encode(), target.encode(), host.encode(), b''.join(b'%s: %s\r\n' % (k.encode(), v.encode()) for k, v in headers)))
            r = c.read_response(method)
        return r.body.decode().split(' ')[0] if r.status == 200 else r.status


@pytest.fixture(scope='module')
def hosts():
    with Groups(any={'routes': '*'}, a={'routes': '*', 'hosts': 'a.com b.com'}, sub={'routes': '*', 'hosts': '*.a.com'},
                api={'routes': '/api', 'hosts': 'a.com'}, six={'routes': '/', 'hosts': '[::1]'}) as g:
        yield g


@pytest.mark.parametrize('host, target, want', [
    ('a.com', '/', 'a'), ('A.COM', '/', 'a'), ('b.com:8080', '/', 'a'), ('a.com.', '/', 'a'), ('x.a.com', '/', 'sub'),
    ('y.x.a.com', '/', 'sub'), ('xa.com', '/', 'any'), ('.a.com', '/', 'any'), ('c.com', '/', 'any'),
    ('a.com', '/api/x', 'api'), ('b.com', '/api/x', 'a'), ('x.a.com', '/api', 'sub'), ('[::1]:80', '/', 'six'),
    ('[::1]', '/', 'six'), ('[::2]', '/', 'any')])
def test_hosts(hosts, host, target, want):
    assert hosts.ask(target, host) == want


def test_no_group_for_a_host_is_404():
    with Groups(a={'routes': '*', 'hosts': 'a.com'}) as g:
        assert (g.ask(host='a.com'), g.ask(host='b.com')) == ('a', 404)


@pytest.fixture(scope='module')
def terms():
    with Groups(rest={'routes': '*'}, beta={'routes': '*', 'match': 'header:X-Beta'},
                one={'routes': '*', 'match': 'header:X-Version=1'}, both={'routes': '*', 'match': 'header:X-Version=1 method:POST'},
                crumb={'routes': '/c', 'match': 'cookie:canary=yes'}, any_crumb={'routes': '/c', 'match': 'cookie:user'},
                q={'routes': '/q', 'match': 'query:v=a1b'},
                flag={'routes': '/q', 'match': 'query:flag'}, put={'routes': '/m', 'match': 'method:PUT'},
                longer={'routes': '/c/d'}) as g:
        yield g


@pytest.mark.parametrize('headers, target, method, want', [
    ([], '/', 'GET', 'rest'), ([('X-Beta', '')], '/', 'GET', 'beta'), ([('x-beta', 'anything')], '/', 'GET', 'beta'),
    ([('X-Version', '1')], '/', 'GET', 'one'), ([('X-Version', '2')], '/', 'GET', 'rest'),
    ([('X-Version', '2'), ('X-Version', '1')], '/', 'GET', 'one'), ([('X-Version', '1')], '/', 'POST', 'both'),
    ([('Cookie', 'a=b; canary=yes; c=d')], '/c', 'GET', 'crumb'), ([('Cookie', 'canary=no')], '/c', 'GET', 'rest'),
    ([('Cookie', 'Canary=yes')], '/c', 'GET', 'rest'), ([('Cookie', 'xcanary=yes')], '/c', 'GET', 'rest'),
    ([('Cookie', 'a=1'), ('Cookie', 'user=u')], '/c/x', 'GET', 'any_crumb'), ([('Cookie', 'canary=yes')], '/c/d', 'GET', 'longer'),
    ([], '/q?v=a1b', 'GET', 'q'), ([], '/q?x=1&v=a%31b', 'GET', 'q'), ([], '/q?v=a1bc', 'GET', 'rest'), ([], '/q?v=', 'GET', 'rest'),
    ([], '/q?v=no&v=a1b', 'GET', 'q'), ([], '/q?flag', 'GET', 'flag'), ([], '/q?flag=&x', 'GET', 'flag'), ([], '/q?flags', 'GET', 'rest'),
    ([], '/q/v=a1b', 'GET', 'rest'), ([], '/m', 'PUT', 'put'), ([], '/m', 'GET', 'rest')])
def test_match(terms, headers, target, method, want):
    assert terms.ask(target, headers=headers, method=method) == want


def test_more_conditions_come_first_whatever_the_order_in_the_file():
    keys = [('none', {}), ('one', {'match': 'header:A'}), ('two', {'match': 'header:A header:B'}), ('three', {'match': 'header:A header:B', 'hosts': 'h'})]
    for order in (keys, keys[::-1]):
        with Groups(**{name: dict(more, routes='/x') for name, more in order}) as g:
            assert [g.ask('/x', headers=[(n, '1') for n in names]) for names in ('', 'A', 'AB')] == ['none', 'one', 'three']
            assert g.ask('/x', host='other', headers=[('A', '1'), ('B', '1')]) == 'two'


# --- strip_prefix ---

@pytest.mark.parametrize('target, seen, prefix', [
    ('/api/x', '/x', '/api'), ('/api', '/', '/api'), ('/api/', '/', '/api'), ('/api?a=b', '/?a=b', '/api'), ('/api/x?a=/api', '/x?a=/api', '/api'),
    ('/%61pi/%62', '/%62', '/api'), ('/api%2fx', '/x', '/api'), ('/exact', '/', '/exact'),
    ('/other', '/other', None), ('/', '/', None)])
def test_strip_prefix(target, seen, prefix):
    with FakeWorker() as w:
        text = upstream_config(w.address, group='strip_prefix = on\n', routes='/api =/exact *')
        with Proxy(text) as p, p.connect() as c:
            c.send(head('GET', target, [('X-Forwarded-Prefix', '/forged')] if prefix else []))
            request, conn = w.one(answer('ok'))
            assert request.target == seen and request.get('x-forwarded-prefix') == ('/forged' + prefix if prefix else None)
            assert c.read_response().status == 200
            logged = p.wait_access(lambda r: True)['target']
            assert logged == ('/forged' if prefix else '') + (prefix or '') + seen


def test_strip_prefix_from_a_peer_that_is_not_trusted():
    with FakeWorker() as w, Proxy(upstream_config(w.address, top='trusted_proxies = none\n', group='strip_prefix = on\n', routes='/a')) as p, p.connect() as c:
        c.send(head('GET', '/a/b', [('X-Forwarded-Prefix', '/forged')]))
        assert w.one(answer('ok'))[0].get('x-forwarded-prefix') == '/a'


@pytest.mark.parametrize('key, value, hint', [
    ('hosts', 'a.com:80', 'without a port'), ('hosts', '*', 'a.com'), ('hosts', 'a.*.com', 'a.com'), ('match', 'header', 'header:N'),
    ('match', 'path:1=x', 'header:N'), ('match', 'cookie:', 'header:N'), ('hash_key', 'header:N=V', 'header:N'), ('hash_key', 'path:0', 'path:N'),
    ('hash_key', 'method:GET', 'addr'), ('balance', 'best', 'least, lifo, round, hash'), ('workers', 'many', 'number')])
def test_what_is_refused(key, value, hint):
    run = check('[web]\nroutes = *\nupstream = 127.0.0.1:1\nbalance = hash\n%s = %s\n' % (key, value) if key != 'balance'
                else '[web]\nroutes = *\nupstream = 127.0.0.1:1\n%s = %s\n' % (key, value))
    assert run.status == 2 and hint in run.err and re.search(r':\d+:\d+: ', run.err), run


def test_strip_prefix_cannot_take_a_string_off():
    run = check('[web]\nroutes = /a*\nupstream = 127.0.0.1:1\nstrip_prefix = on\n')
    assert run.status == 2 and '/a*' in run.err, run


@pytest.mark.parametrize('key', ['hosts', 'match', 'routes'])
def test_no_defaults_for_all_groups(key):
    run = check('%s = /a\n[web]\nroutes = *\nupstream = 127.0.0.1:1\n' % key)
    assert run.status == 2 and 'move it into a group' in run.err


def test_the_same_route_under_other_conditions_is_no_double():
    text = '[a]\nroutes = /x\nupstream = 127.0.0.1:1\nhosts = a.com\n[b]\nroutes = /x\nupstream = 127.0.0.1:1\n[c]\nroutes = *\nupstream = 127.0.0.1:1\n'
    assert 'twice' not in check(text).err and 'twice' in check(text.replace('hosts = a.com\n', '')).err


# --- balance ---

def pool(n, group, unix=False):
    workers = [echo('w%d' % i) for i in range(n)]
    text = 'listen = {listen}\nadmin = {admin}\n[web]\nroutes = *\nupstream = %s\n%s' % (' '.join(w.address for w in workers), group)
    return workers, Proxy(text)


class Pool:
    def __init__(self, n, group):
        self.workers, self.proxy = pool(n, group)
        self.proxy.wait_status(lambda s: all(w['state'] == 'ready' for w in s['groups'][0]['workers']))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.proxy.__exit__(None, None, None)
        for w in self.workers:
            w.close()

    def ask(self, target='/', headers=(), method='GET'):
        with self.proxy.connect() as c:
            c.send(head(method, target, headers))
            return c.read_response().body.decode().split(' ')[0]


def test_lifo_takes_the_worker_freed_last():
    with Pool(4, 'balance = lifo\nmax_req_per_worker = 1\n') as p:
        first = p.ask()
        assert {p.ask() for _ in range(20)} == {first}


def test_round_takes_one_after_the_other():
    with Pool(4, 'balance = round\n') as p:
        seen = [p.ask() for _ in range(12)]
        start = int(seen[0][1])
        assert seen == ['w%d' % ((start + i) % 4) for i in range(12)]


def test_round_passes_over_one_that_is_full():
    with Pool(3, 'balance = round\nmax_req_per_worker = 1\n') as p:
        p.workers[1].handler = lambda r, c: (time.sleep(0.5), answer('w1 slow'))[1]
        seen = [p.ask() for _ in range(3)]
        assert sorted(seen) == ['w0', 'w1', 'w2']


def test_hash_by_key_lists_meets_the_same_worker():
    """POST /items/?item_id=7 and GET /items/7 go to the same worker; keys spread over all."""
    with Pool(4, 'balance = hash\nhash_key = query:item_id path:2\n') as p:
        places = {}
        for i in range(60):
            places[i] = p.ask('/items/?item_id=%d' % i, method='POST')
            assert p.ask('/items/%d' % i) == places[i] == p.ask('/items/%d' % i, method='PUT')
        assert len(set(places.values())) == 4 and max(collections.Counter(places.values()).values()) < 35
        assert p.ask('/items/%31') == places[1]


@pytest.mark.parametrize('key, requests', [
    ('header:X-User', lambda k: dict(headers=[('X-User', k)])), ('cookie:session', lambda k: dict(headers=[('Cookie', 'a=b; session=' + k)])),
    ('addr', lambda k: dict(headers=[('X-Forwarded-For', '9.9.9.' + k)]))])
def test_hash_keys(key, requests):
    with Pool(4, 'balance = hash\nhash_key = %s\n' % key) as p:
        places = [p.ask(**requests(str(k))) for k in range(40)]
        assert places == [p.ask(**requests(str(k))) for k in range(40)] and len(set(places)) == 4


def test_hash_without_its_key_is_least():
    with Pool(3, 'balance = hash\nhash_key = header:X\n') as p:
        assert {p.ask() for _ in range(9)} == {'w0', 'w1', 'w2'}


def test_hash_a_worker_that_is_away_moves_only_its_own_keys():
    with Pool(4, 'balance = hash\nhash_key = path:1\nbackoff_max = 100ms\n') as p:
        before = [p.ask('/%d' % k) for k in range(80)]
        address = p.workers[2].address
        p.workers[2].close()
        after = [p.ask('/%d' % k) for k in range(80)]
        assert [a for a, b in zip(after, before) if b != 'w2'] == [b for b in before if b != 'w2'] and 'w2' not in after
        assert len({a for a, b in zip(after, before) if b == 'w2'}) > 1, 'its keys spread over the others'


class Processes(Own):
    """Own processes behind balance = hash; a worker answers with its number."""

    def __init__(self, workers):
        super().__init__('[web]\nroutes = *\ncmd = %s\nworkers = %d\nbalance = hash\nhash_key = path:1\nbackoff_max = 100ms\nworker_keepalive = 0\n'
                         % (counter('{socket}'), workers))

    def places(self, keys=range(120)):
        """The index of the worker of each key."""
        with self.connect() as c:
            pids = {k: int(c.ask('GET', '/%d' % k).body) for k in keys}
        index = {w['pid']: w['index'] for w in self.group('web')['workers']}
        return [index[pids[k]] for k in keys]


def test_hash_no_restart_moves_a_key_and_a_scale_moves_its_share():
    with Processes(4) as p:
        before = p.places()
        assert set(before) == {0, 1, 2, 3}
        for path in ('/groups/web/restart', '/groups/web/workers/2/restart', '/reload'):
            old = set(p.pids())
            assert p.admin('POST', path)[0] in (200, 202), path
            wait_for(lambda: set(p.pids()) != old and len(p.pids()) == len(p.group('web')['workers']) == 4 and not p.status()['reloading'])
            assert p.places() == before, path
        assert p.admin('POST', '/groups/web/scale?workers=5')[0] in (200, 202)
        wait_for(lambda: len(p.pids()) == 5)
        wider = p.places()
        moved = [b for a, b in zip(before, wider) if a != b]
        assert set(moved) == {4} and 120 // 10 <= len(moved) <= 120 // 3, 'about one in five, all of them to the new one'
        assert p.admin('POST', '/groups/web/scale?workers=4')[0] in (200, 202)
        wait_for(lambda: len(p.group('web')['workers']) == 4)
        assert p.places() == before


def test_hash_a_key_waits_for_its_own_worker_that_died():
    """While it is dying, in back-off and starting: nobody else gets one of its keys. Unless it takes longer to die than
    the 10 ms for which it is waited for, which the log then says."""
    with Processes(3) as p:
        first, longer = p.places(), 0
        for n in range(40):
            key = next(k for k in range(n, 120) if first[k] == n % 3)
            pid = {w['index']: w['pid'] for w in p.group('web')['workers']}[n % 3]
            others, said = set(p.pids()) - {pid}, len(p.log())
            with p.connect() as c:
                os.kill(pid, signal.SIGKILL)
                time.sleep(n % 10 * 0.0002)                 # its listener is closed before its end is told
                r = c.ask('GET', '/%d' % key)
            away = re.search(r'web\.%d: cannot be reached' % (n % 3), p.log()[said:]) is not None
            longer += away
            assert r.status == 502 or int(r.body) not in others or away, (n, 'another worker got the key')
            wait_for(lambda: len(p.pids()) == 3 and pid not in p.pids())
        assert p.places() == first and longer < 5


def test_hash_keys_of_a_worker_that_takes_no_connections_go_elsewhere():
    """Once that is known, not when it is back or restarted."""
    with Processes(3) as p:
        key, pid = p.places().index(1), p.pids()[1]
        os.unlink(p.info('/%d' % key)['argv'][-1])
        assert int(p.get('/%d' % key)) in set(p.pids()) - {pid} and alive(pid)


def test_hash_keys_in_line_go_elsewhere_when_their_worker_is_drained():
    workers = [FakeWorker() for _ in range(2)]
    text = ('listen = {listen}\nadmin = {admin}\n[web]\nroutes = *\nupstream = %s\nbalance = hash\nhash_key = path:1\nmax_req_per_worker = 1\n'
            % ' '.join(w.address for w in workers))
    with Proxy(text) as p, p.connect() as first, p.connect() as second:
        first.send(head('GET', '/k'))
        own = wait_for(lambda: [i for i, w in enumerate(workers) if not w.no_connection(0.05)])[0]
        _, conn = workers[own].one()
        second.send(head('GET', '/k'))
        p.wait_status(lambda s: s['groups'][0]['queue']['len'] == 1)
        assert p.admin('POST', '/groups/web/workers/%d/drain' % own)[0] in (200, 202)
        workers[1 - own].one(answer('other'))
        assert second.read_response().body == b'other'
        conn.send(answer('own'))
        assert first.read_response().body == b'own'
    for w in workers:
        w.close()


def test_hash_waits_for_its_own_worker_while_others_are_free():
    workers = [FakeWorker() for _ in range(3)]
    text = ('listen = {listen}\nadmin = {admin}\n[web]\nroutes = *\nupstream = %s\nbalance = hash\nhash_key = path:1\nmax_req_per_worker = 1\n'
            % ' '.join(w.address for w in workers))
    with Proxy(text) as p:
        first = p.connect().send(head('GET', '/k'))
        own = wait_for(lambda: next(([w] for w in workers if not w.no_connection(0.05)), None))[0]
        request, conn = own.one()
        second = p.connect().send(head('GET', '/k'))
        p.wait_status(lambda s: s['groups'][0]['queue']['len'] == 1)
        served = None                       # a key of another worker passes the one that waits
        idle = [w for w in workers if w is not own]
        for k in range(1, 50):
            with p.connect().send(head('GET', '/%d' % k)) as c:
                wait_for(lambda: p.group('web')['queue']['len'] == 2 or any(not w.no_connection(0) for w in idle))
                hit = next((w for w in idle if not w.no_connection(0)), None)
                if hit:
                    hit.one(answer('other'))
                    served = c.read_response().body
                    break
            p.wait_status(lambda s: s['groups'][0]['queue']['len'] == 1)
        assert served == b'other'
        assert p.group('web')['queue']['len'] >= 1
        conn.send(answer('own'))
        assert first.read_response().body == b'own'
        assert conn.read_request().target == '/k'
        conn.send(answer('own again'))
        assert second.read_response().body == b'own again'
    for w in workers:
        w.close()


@pytest.mark.needs('affinity')
def test_workers_auto_is_what_the_process_may_use():
    config = '[web]\nroutes = *\ncmd = true {socket}\nworkers = auto\n'
    def count():
        return int(re.search(r'^workers = (\d+)$', cli('-T', 'groups.ini', config=config).out, re.M).group(1))
    mine = os.sched_getaffinity(0)
    assert 1 <= count() <= len(mine)
    os.sched_setaffinity(0, {min(mine)})
    try:
        assert count() == 1
    finally:
        os.sched_setaffinity(0, mine)


def test_the_table_at_the_start_shows_hosts_and_match():
    with Groups(web={'routes': '*'}, one={'routes': '/a /b', 'hosts': 'a.com *.b.com', 'match': 'header:X-A=1 method:GET'},
                two={'routes': '*', 'hosts': 'c.com'}) as g:
        log = g.proxy.log()
        for line in ('  one     /a /b of a.com *.b.com with header:X-A=1 method:GET 1 worker', '  two     * of c.com  ', '  web     *   '):
            assert '\n' + line in log, log
