"""From the first signal to the last: stopping, reloading, rolling back, reopening."""
import contextlib, json, os, re, signal, threading, time

import pytest
from harness import AutoWorker, Client, Proxy, answer, free_port, head, wait_for
from procs import Own, alive, counter, metric, samples, wait_gone
from test_config import WHEN

WEB = '[web]\nroutes = *\n'


def web(*options, group=''):
    return WEB + 'cmd = %s\n%s' % (counter('{socket}', *options), group)


def hup(p, result='ok'):
    """A reload by signal, waited for. -> the status after it."""
    before = p.status()
    p.signal(signal.SIGHUP)
    p.wait_status(lambda s: s['last_reload'] and s['last_reload'] != before['last_reload'], 30)     # many starts take time
    status = p.status()
    assert status['last_reload']['result'] == result, status['last_reload']
    return status


def reload(p, query=''):
    """A reload by request that must succeed."""
    code, _, body = p.admin('POST', '/reload' + query)
    assert code == 200, body
    return p.status()


def inside(p, n, group=0):
    p.wait_status(lambda s: sum(w['in_flight'] for w in s['groups'][group]['workers']) == n)


def queued(p, n, group=0):
    p.wait_status(lambda s: s['groups'][group]['queue']['len'] == n)


def refused(p):
    try:
        Client(p.address).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:              # it was closed under this very connect: look again
        return False


def upgrade(p, target='/ws'):
    c = p.connect().send(head('GET', target, {'Connection': 'Upgrade', 'Upgrade': 'websocket', 'X-Ask': 'ws'}))
    assert c.read_response().status == 101
    return echoed(c)


def echoed(c):
    c.send(b'ping')
    assert c.read_exact(4) == b'ping'
    return c


# --- stopping ---

@pytest.mark.parametrize('sig', [signal.SIGTERM, signal.SIGINT])
def test_a_graceful_stop(sig):
    """What is inside or in line is answered, what is idle is closed, nobody new is taken."""
    with Own(web(group='max_req_per_worker = 1\n')) as p:
        pid, = p.pids()
        idle = p.connect()
        assert idle.ask('GET', '/').status == 200
        first = p.connect().send(head('GET', '/gate?file=%s/go' % p.dir))
        inside(p, 1)
        second = p.connect().send(head('GET', '/sleep?ms=100'))
        queued(p, 1)
        p.signal(sig)
        assert idle.eof()
        wait_for(lambda: refused(p))
        p.touch('go')
        for c in (first, second):
            r = c.read_response()
            assert (r.status, r.body) == (200, b'%d' % pid) and c.eof()
        assert p.wait_exit() == 0 and p.signals(pid) == [('SIGTERM', 0)] and not alive(pid)


def test_shutdown_timeout():
    """It contains everything: drain, stop signals, and what ignores them."""
    with Own(web('--stubborn', group='stop_timeout = 10s\n'), top='shutdown_timeout = 1s\n') as p:
        pid, = p.pids()
        hang = p.connect().send(head('POST', '/hang', body=b''))
        inside(p, 1)
        start = time.monotonic()
        p.signal(signal.SIGTERM)
        assert p.wait_exit() == 0 and 0.4 < time.monotonic() - start < 2.5
        assert not alive(pid)
        try:
            assert hang.read_response().status in (502, 503, 504)
        except ConnectionError:
            pass


@pytest.mark.parametrize('signals', [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT),
                                     (signal.SIGTERM, signal.SIGINT), (signal.SIGQUIT,)])
def test_at_once(signals):
    with Own(web('--stubborn', group='stop_timeout = 10s\n')) as p:
        pid, = p.pids()
        hang = p.connect().send(head('POST', '/hang', body=b''))
        inside(p, 1)
        for n, sig in enumerate(signals):
            p.signal(sig)
            if n == 0 and len(signals) == 2:
                wait_for(lambda: refused(p))
                time.sleep(1)                    # two within a second are one
                assert p.alive()
        start = time.monotonic()
        assert p.wait_exit() == 0 and time.monotonic() - start < 2
        assert not alive(pid)
        hang.close()


def test_a_stop_does_not_wait_for_tunnels():
    with Own(web()) as p:
        c = upgrade(p)
        start = time.monotonic()
        p.signal(signal.SIGTERM)
        assert c.read_all() == b'bye', 'the application says goodbye'
        assert p.wait_exit() == 0 and time.monotonic() - start < 5


def test_stop_while_workers_start():
    with Own(web('--hold-listen={dir}/never'), top='shutdown_timeout = 1s\n', wait=False).up() as p:
        pid = wait_for(p.starts)[0]
        waits = p.connect().send(head('GET', '/'))
        queued(p, 1)
        start = time.monotonic()
        p.signal(signal.SIGTERM)
        assert p.wait_exit() == 0 and not alive(pid) and time.monotonic() - start < 2.5
        waits.close()


# --- a reload under load ---

class Load:
    """Clients that keep their connection and clients that make a new one for each request; every
    answer must be right, and no kept connection may be closed."""

    def __init__(self, p, paths):
        self.p, self.count, self.failed, self.stopping = p, 0, [], threading.Event()
        self.threads = [threading.Thread(target=self._run, args=(path, kept))
                        for path in paths for kept in (True, True, False)]

    def __enter__(self):
        for t in self.threads:
            t.start()
        wait_for(lambda: self.count > 3 * len(self.threads))
        return self

    def __exit__(self, *_):
        self.stopping.set()
        for t in self.threads:
            t.join()

    def _run(self, path, kept):
        c, n = None, 0
        try:
            while not self.stopping.is_set():
                c = c or self.p.connect()
                n += 1
                if n % 2:
                    r = c.ask('GET', path + '?ms=3', {'X-Ask': 'sleep'})
                else:
                    r = c.ask('POST', path, {'X-Ask': 'echo'}, b'%d' % n * 100)
                if r.status != 200 or not r.complete or (n % 2 == 0 and r.body != b'%d' % n * 100):
                    self.failed.append((path, kept, repr(r)))
                if kept and 'close' in (r.get('connection') or ''):
                    self.failed.append((path, 'not kept'))
                if not kept:
                    c = c.close()
                self.count += 1
        except Exception as e:
            self.failed.append((path, kept, n, repr(e)))


@pytest.mark.slow
def test_twenty_reloads_under_load():
    groups = ('[one]\nroutes = /one\ncmd = %s\nmax_req_per_worker = 1\n[web]\nroutes = *\ncmd = %s\nworkers = 2\n'
              % (counter(), counter('{port}')))
    with Own(groups) as p:
        first = p.pids('one') + p.pids('web')
        generation = p.status()['generation']
        with Load(p, ('/one', '/web')) as load:
            for n in range(20):
                status = hup(p)
                assert status['generation'] == generation + n + 1
                count = load.count
                wait_for(lambda: load.count > count + 10)
        assert not load.failed, load.failed[:5]
        last = p.pids('one') + p.pids('web')
        assert len(last) == 3 and not set(first) & set(last)
        wait_gone(*[pid for pid in p.starts() if pid not in last])
        assert all(count == 0 for _, count in p.signals()), 'a stop signal came while requests were inside'
        assert max(n for pid, n, _, target in p.requests() if target.startswith('/one')) == 1
        assert metric(p, 'ldcorn_reloads_total', result='ok') == 20
        assert metric(p, 'ldcorn_generation') == generation + 20
        assert metric(p, 'ldcorn_worker_exits_total', reason='crash') == 0


def test_swap_is_one_switch():
    """All new, all ready, then none of the old: two versions never serve the same group together."""
    with Own(web('--tag=old', group='workers = 3\n')) as p:
        p.edit(('--tag=old', '--tag=new'))
        seen, stop = [], threading.Event()

        def watch():
            with p.connect() as c:
                while not stop.is_set():
                    seen.append(c.ask('GET', '/tag').body)
        t = threading.Thread(target=watch)
        t.start()
        wait_for(lambda: seen, what='the first answer')
        hup(p)
        n = len(seen)
        wait_for(lambda: len(seen) > n + 20)
        stop.set()
        t.join()
        assert b'old' in seen and b'new' in seen and seen == sorted(seen, reverse=True)


def test_workers_of_different_ages_are_one_old_generation():
    """Restarted one by one between reloads of another group, and replaced together: nobody is cut as a third."""
    with Own(web(group='workers = 3\nmax_req_per_worker = 1\n') + '[other]\nroutes = /other\ncmd = %s\n' % counter()) as p:
        for index in (1, 2):
            old = p.pids('web')
            assert p.admin('POST', '/groups/other/restart')[0] == 200
            assert p.admin('POST', '/groups/web/workers/%d/restart' % index)[0] in (200, 202)
            wait_for(lambda: len(p.pids('web')) == 3 and p.pids('web') != old)
        assert len({w['generation'] for w in p.group('web')['workers'] if w['state'] == 'ready'}) == 3
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(p.connect()).send(head('GET', '/gate?file=%s/go' % p.dir)) for _ in range(3)]
            p.wait_status(lambda s: sum(w['in_flight'] for w in s['groups'][0]['workers']) == 3)
            hup(p)
            p.touch('go')
            assert [c.read_response().status for c in clients] == [200] * 3


def test_candidates_take_nothing_before_all_are_ready():
    with Own(web('--tag=old', '--hold-listen={dir}/go'), files={'go': ''}) as p:
        old, = p.pids()
        os.unlink(p.dir + '/go')
        p.signal(signal.SIGHUP)
        wait_for(lambda: len(p.starts()) == 2)
        assert all(p.get('/') == str(old) for _ in range(5))
        p.touch('go')
        wait_for(lambda: p.get('/') != str(old))


# --- reload = off ---

def test_reload_off_keeps_the_process():
    groups = '[live]\nroutes = /live\ncmd = %s\nreload = off\n[web]\nroutes = *\ncmd = %s\n' % (counter(), counter())
    with Own(groups) as p:
        live, other = p.pids('live'), p.pids('web')
        c = upgrade(p, '/live')
        hup(p)
        assert p.pids('live') == live and p.pids('web') != other
        echoed(c)
        p.edit(('reload = off', 'reload = off\nworkers = 3'))
        hup(p)
        p.wait_status(lambda s: len(p.pids('live')) == 3)
        three = p.pids('live')
        assert three[0] == live[0]
        p.edit(('workers = 3', 'workers = 2'))
        hup(p)
        wait_gone(three[2])                       # the highest index leaves
        assert p.pids('live') == three[:2]
        p.edit(('workers = 2', ''))
        reload(p)
        wait_gone(three[1])
        assert p.pids('live') == live
        echoed(c)


def test_reload_off_takes_its_command_at_the_next_start():
    with Own(web('--tag=old', group='reload = off\n')) as p:
        pid, = p.pids()
        p.edit(('--tag=old', '--tag=new'))
        hup(p)
        assert p.get('/tag') == 'old' and p.pids() == [pid]
        p.wait_log(r'warn .*web.*cmd')
        os.kill(pid, signal.SIGKILL)
        p.wait_status(lambda s: p.pids() not in ([], [pid]))
        assert p.get('/tag') == 'new'


def test_reload_off_takes_limits_and_routes_at_once():
    with Own(web(group='reload = off\nmax_req_per_worker = 1\n')) as p:
        pid, = p.pids()
        clients = [p.connect().send(head('GET', '/gate?file=%s/go&n=%d' % (p.dir, n))) for n in range(3)]
        inside(p, 1)
        queued(p, 2)
        p.edit(('max_req_per_worker = 1', 'max_req_per_worker = 2'), ('routes = *', 'routes = / /more'))
        hup(p)
        inside(p, 2)
        queued(p, 1)
        assert p.group('web')['routes'] and '/more' in json.dumps(p.group('web')['routes'])
        wait_for(lambda: len(p.requests()) == 2, what='both of them in the worker')
        p.touch('go')
        assert [c.read_response().body for c in clients] == [b'%d' % pid] * 3
        assert max(n for _, n, _, _ in p.requests()) == 2


# --- roll-back ---

def unchanged(p, before, pids):
    """Nothing has changed, and nothing was left behind."""
    status = p.status()
    assert status['generation'] == before['generation'] and p.pids('good') == pids[:1] and p.pids('web') == pids[1:]
    assert status['last_reload']['result'] == 'failed' and status['last_reload']['error']
    wait_gone(*[pid for pid in p.starts() if pid not in pids])
    assert p.get('/good') == str(pids[0]) and p.get('/') == str(pids[1])


GOOD = '[good]\nroutes = /good\ncmd = %s\n' % counter()


@pytest.mark.parametrize('way', ['hup', 'post'])
def test_a_broken_application_is_rolled_back(way):
    with Own(GOOD + web('--fail-if={dir}/bad')) as p:
        pids, before = p.pids('good') + p.pids('web'), p.status()
        p.touch('bad')
        with Load(p, ('/good', '/web')) as load:
            if way == 'hup':
                hup(p, 'failed')
            else:
                code, _, body = p.admin('POST', '/reload')
                assert code == 409
                assert re.search(r"web\.0 \(pid \d+\) ended before it was ready: exit 1", body.decode())
                assert "ModuleNotFoundError: No module named 'torch'" in body.decode()
        assert not load.failed, load.failed[:5]
        unchanged(p, before, pids)
        assert re.search(
            r'(?m)^%s error reload failed after \d+\.\ds, nothing changed: generation %d goes on with '
            r'the old code and file\n    web\.0 \(pid \d+\) ended before it was ready: exit 1\n'
            r"(    \| .*\n)*    \| ModuleNotFoundError: No module named 'torch'$" % (WHEN, before['generation']), p.log()), p.log()
        assert "No module named 'torch'" in p.status()['last_reload']['error']
        assert metric(p, 'ldcorn_reloads_total', result='failed') == 1
        os.unlink(p.dir + '/bad')
        assert reload(p)['generation'] == before['generation'] + 1 and p.pids('web') != pids[1:]


def test_a_missing_program_is_rolled_back():
    with Own(GOOD + web()) as p:
        pids, before = p.pids('good') + p.pids('web'), p.status()
        p.edit((web(), WEB + 'cmd = /nowhere/prog {socket}\n'))
        code, _, body = p.admin('POST', '/reload')
        line = p.config_text.split('\n').index('cmd = /nowhere/prog {socket}') + 1
        assert code == 409 and b'/nowhere/prog' in body and b'groups.ini:%d' % line in body, body
        unchanged(p, before, pids)


@pytest.mark.parametrize('broken', ['queue_timout = 1s', 'queue_timeout = 1', 'queue 7', 'runtime_dir = /elsewhere'])
def test_a_configuration_with_an_error_is_rolled_back(broken):
    with Own(GOOD + web(), top='runtime_dir = {dir}/run\n') as p:
        pids, before = p.pids('good') + p.pids('web'), p.status()
        if 'runtime' in broken:
            p.edit(('runtime_dir = {dir}/run', broken))
        else:
            p.write_config(p.config_text + broken + '\n')
        line = p.config_text.split('\n').index(broken) + 1
        for way in ('post', 'hup'):
            if way == 'post':
                code, _, body = p.admin('POST', '/reload')
                assert code == 409 and b'groups.ini:%d:' % line in body, body
            else:
                hup(p, 'failed')
            unchanged(p, before, pids)
        assert 'groups.ini:%d:' % line in p.log()
        assert len(p.starts()) == 2


def test_a_candidate_that_is_never_ready_is_rolled_back():
    with Own(GOOD + web('--hold-listen={dir}/go', group='start_timeout = 1s\n'), files={'go': ''}) as p:
        pids, before = p.pids('good') + p.pids('web'), p.status()
        os.unlink(p.dir + '/go')
        code, _, body = p.admin('POST', '/reload')
        assert code == 409 and b'web.0' in body and b'start_timeout' in body, body
        unchanged(p, before, pids)


def test_an_address_in_use_is_rolled_back():
    """New listeners are bound before anything is started."""
    port = free_port()
    with Own(GOOD + web()) as p, Own(web(), port=port):
        pids, before = p.pids('good') + p.pids('web'), p.status()
        p.edit(('listen = {listen}', 'listen = {listen} 127.0.0.1:%d' % port))
        code, _, body = p.admin('POST', '/reload')
        assert code == 409 and b'%d' % port in body and b'in use' in body
        unchanged(p, before, pids)
        assert len(p.starts()) == 2


# --- what a reload carries over ---

def test_limits_and_routes_in_place():
    """processes=keep applies the file only."""
    with Own(web(group='max_req_per_worker = 1\n')) as p:
        pids = p.pids()
        def gate(name):
            return p.connect().send(head('GET', '/gate?file=%s/%s' % (p.dir, name)))
        clients = [gate('one') for _ in range(4)]
        inside(p, 1)
        queued(p, 3)
        p.edit(('max_req_per_worker = 1', 'max_req_per_worker = 3'))
        reload(p, '?processes=keep')
        inside(p, 3)
        queued(p, 1)
        p.touch('one')
        assert [c.read_response().status for c in clients] == [200] * 4
        assert p.pids() == pids and len(p.starts()) == 1
        p.edit(('max_req_per_worker = 3', 'max_req_per_worker = 1'))
        clients = [gate('two') for _ in range(3)]
        inside(p, 3)
        reload(p, '?processes=keep')
        clients += [p.connect().send(head('GET', '/after')) for _ in range(2)]
        queued(p, 2)
        p.touch('two')
        assert [c.read_response().status for c in clients] == [200] * 5
        assert all(n == 1 for _, n, _, target in p.requests() if target == '/after'), 'lower for new starts'


@pytest.mark.parametrize('change', ['cmd', 'env', 'dir'])
def test_processes_keep_replaces_what_runs_differently(change):
    with Own(GOOD + web('--tag=old', group='env = A=1\ndir = /tmp\n')) as p:
        good, old = p.pids('good'), p.pids('web')
        p.edit({'cmd': ('--tag=old', '--tag=new'), 'env': ('A=1', 'A=2'), 'dir': ('dir = /tmp', 'dir = /')}[change])
        reload(p, '?processes=keep')
        assert p.pids('good') == good and p.pids('web') != old
        said = p.info()
        assert {'cmd': said['argv'][0] == '--tag=new', 'env': said['env']['A'] == '2', 'dir': said['cwd'] == '/'}[change]


def test_the_line_is_carried_over():
    """What waits is served by the new workers, in its order, while the old one finishes its own."""
    with Own(web(group='max_req_per_worker = 1\n')) as p:
        old, = p.pids()
        first = p.connect().send(head('GET', '/gate?file=%s/go' % p.dir))
        inside(p, 1)
        waiting = []
        for n in range(4):
            waiting.append(p.connect().send(head('GET', '/sleep?ms=20&n=%d' % n)))
            queued(p, n + 1)
        hup(p)
        bodies = [c.read_response().body for c in waiting]
        assert len(set(bodies)) == 1 and bodies[0] != b'%d' % old
        order = [target for pid, _, _, target in p.requests() if pid != old]
        assert order == ['/sleep?ms=20&n=%d' % n for n in range(4)]
        assert first.silent(0), 'and the old one is not hurried'
        p.touch('go')
        assert first.read_response().body == b'%d' % old


def test_counters_of_an_upstream_stay_with_their_index():
    """Whatever becomes of the list: addresses that go, come, come back or stand in another order."""
    def served():
        return {labels['index']: int(n) for name, labels, n in samples(p) if name == 'ldcorn_worker_served_total'}
    with contextlib.ExitStack() as stack:
        at = [stack.enter_context(AutoWorker(lambda r, c: answer('ok'))).address for _ in range(4)]
        config = 'listen = {listen}\nadmin = {admin}\n[web]\nroutes = *\nbalance = round\nupstream = %s\n'
        p = stack.enter_context(Proxy(config % ' '.join(at[:2])))
        before, total = {}, 0
        for order in ([0, 1], [2, 0, 1, 3], [1, 3], [3, 1], [3, 1, 0], [2], [0, 1, 2, 3]):
            p.write_config(config % ' '.join(at[i] for i in order))
            assert p.admin('POST', '/reload?processes=keep')[0] == 200
            wait_for(lambda: [w['state'] for w in p.group('web')['workers']] == ['ready'] * len(order))
            now = served()
            assert all(now[i] >= n for i, n in before.items()) and sum(now.values()) == total, (order, before, now)
            with p.connect() as c:
                for _ in range(4 * len(order)):
                    assert c.ask('GET', '/').status == 200
            total += 4 * len(order)
            before = wait_for(lambda: (lambda now: sum(now.values()) == total and now)(served()))
        assert set(before) == {'0', '1', '2', '3'}


def test_counters_and_clients_are_carried_over():
    with Own(web(group='workers = 2\n')) as p, p.connect() as c:
        names = ('ldcorn_requests_total', 'ldcorn_accepted_total', 'ldcorn_request_seconds_count',
                 'ldcorn_worker_served_total', 'ldcorn_bytes_total')
        for _ in range(10):
            assert c.ask('GET', '/').status == 200
        before = {name: metric(p, name) for name in names}
        assert before['ldcorn_requests_total'] == before['ldcorn_worker_served_total'] == 10
        served = sum(w['served'] for w in p.group('web')['workers'])
        hup(p)
        after = {name: metric(p, name) for name in names}
        assert all(after[name] >= before[name] for name in names), (before, after)
        assert c.ask('GET', '/').status == 200 and not c.ended
        wait_for(lambda: metric(p, 'ldcorn_worker_served_total') == 11)
        assert served == 10


def test_groups_come_and_go():
    with Own(GOOD + web()) as p:
        good, = p.pids('good')
        c = p.connect().send(head('GET', '/good?ms=800', {'X-Ask': 'sleep'}))
        inside(p, 1)
        p.edit((GOOD, '[new]\nroutes = /new\ncmd = %s\n' % counter('{port}')))
        reload(p)
        assert [g['name'] for g in p.status()['groups'] if g['name'] != 'good'] == ['new', 'web']
        assert p.get('/new') == str(p.pids('new')[0])
        assert p.get('/good') == str(p.pids('web')[0]), 'its route is gone'
        assert c.read_response().body == b'%d' % good, 'its running request is not'
        wait_gone(good)
        p.wait_status(lambda s: [g['name'] for g in s['groups']] == ['new', 'web'])
        p.edit(('[new]\nroutes = /new', '[good]\nroutes = /good'))
        reload(p)
        assert p.get('/good') == str(p.pids('good')[0])


def test_drain_timeout():
    with Own(web(group='drain_timeout = 1s\n')) as p:
        old, = p.pids()
        hang = p.connect().send(head('POST', '/hang', body=b''))
        inside(p, 1)
        reload(p)
        start = time.monotonic()
        assert hang.silent(0.15) and p.get('/') != str(old)
        r = hang.read_response()
        assert r.status in (502, 504) and time.monotonic() - start < 3
        wait_gone(old)
        assert p.signals(old) == [('SIGTERM', 1)]


def test_tunnel_drain():
    """A tunnel in an old worker lives on; then the application is told, so that it can say goodbye."""
    with Own(web(group='tunnel_drain = 1500ms\ndrain_timeout = 100ms\n')) as p:
        old, = p.pids()
        c = upgrade(p)
        reload(p)
        start = time.monotonic()
        assert p.get('/') != str(old)
        echoed(c)
        assert c.silent(0.3)
        assert c.read_all() == b'bye' and 0.3 < time.monotonic() - start < 4
        wait_gone(old)


def test_an_old_worker_ends_with_its_last_tunnel():
    with Own(web()) as p:
        old, = p.pids()
        c = upgrade(p)
        reload(p)
        echoed(c)
        assert alive(old)
        c.close()
        wait_gone(old)


def test_listeners_come_and_go():
    with Own(web()) as p:
        kept = p.connect()
        assert kept.ask('GET', '/').status == 200
        other = free_port()
        p.edit(('listen = {listen}', 'listen = {listen} 127.0.0.1:%d' % other))
        reload(p)
        with Client(('127.0.0.1', other)) as c:
            assert c.ask('GET', '/').status == 200
        p.edit(('listen = {listen} 127.0.0.1:%d' % other, 'listen = 127.0.0.1:%d' % other))
        reload(p)
        wait_for(lambda: refused(p))
        with Client(('127.0.0.1', other)) as c:
            assert c.ask('GET', '/').status == 200
        kept.close()


def test_admin_stays_reachable_across_a_reload():
    with Own(web()) as p, Client(p.admin_address) as c:
        assert c.ask('GET', '/server').status == 200
        hup(p)
        assert c.ask('GET', '/server').status == 200 and p.admin('GET', '/server')[0] == 200


def test_a_reload_during_a_reload():
    """Both are answered, and the last file counts."""
    with Own(web('--tag=1', '--hold-listen={dir}/go'), files={'go': ''}) as p:
        os.unlink(p.dir + '/go')
        results = []
        t = threading.Thread(target=lambda: results.append(p.admin('POST', '/reload')[0]))
        t.start()
        wait_for(lambda: len(p.starts()) == 2)
        p.edit(('--tag=1', '--tag=2'))
        p.signal(signal.SIGHUP)
        p.touch('go')
        t.join()
        assert results == [200]
        wait_for(lambda: p.get('/tag') == '2')
        wait_gone(*[pid for pid in p.starts() if pid not in p.pids()])


def test_a_stop_during_a_reload():
    with Own(web('--hold-listen={dir}/go'), files={'go': ''}) as p:
        os.unlink(p.dir + '/go')
        p.signal(signal.SIGHUP)
        wait_for(lambda: len(p.starts()) == 2)
        p.signal(signal.SIGTERM)
        assert p.wait_exit(15) == 0 and not any(alive(pid) for pid in p.starts())


# --- logs ---

def test_usr1_reopens_logs():
    with Own(web(group='worker_log = {dir}/w.log\n'), top='log = {dir}/log\n') as p:
        names = ('log', 'access', 'w.log')
        p.get('/print?text=before')
        wait_for(lambda: all(os.path.getsize(os.path.join(p.dir, n)) for n in names))
        for n in names:
            os.rename(os.path.join(p.dir, n), os.path.join(p.dir, n + '.1'))
        p.get('/print?text=between')
        wait_for(lambda: 'between' in text(p, 'w.log.1') and 'between' in text(p, 'access.1'))
        assert not any(os.path.exists(os.path.join(p.dir, n)) for n in names)
        p.signal(signal.SIGUSR1)
        wait_for(lambda: all(os.path.exists(os.path.join(p.dir, n)) for n in names))
        p.get('/print?text=after')
        wait_for(lambda: 'after' in text(p, 'w.log') and 'after' in text(p, 'access'))
        assert 'after' not in text(p, 'w.log.1') + text(p, 'access.1')
        os.kill(p.pids()[0], signal.SIGKILL)
        p.wait_log(r'web\.0')


def text(p, name):
    with open(os.path.join(p.dir, name)) as f:
        return f.read()


def test_drain_timeout_holds_where_a_tunnel_was_open():
    """A tunnel that outlives drain_timeout and ends then does not keep a stuck request's worker."""
    with Own(web(group='max_req_per_worker = 4\ndrain_timeout = 300ms\nstop_timeout = 300ms\n')) as p:
        tunnel = upgrade(p)
        old, = p.pids()
        stuck = p.connect().send(head('GET', '/hang'))
        p.wait_status(lambda s: s['groups'][0]['workers'][0]['in_flight'] == 1)
        reload(p)
        time.sleep(0.6)                             # drain_timeout is over, the tunnel is not
        assert alive(old)
        tunnel.close()
        wait_for(lambda: not alive(old))
        stuck.close()
