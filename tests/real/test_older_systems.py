"""What four older systems did, one test for each thing, as their users would write it for ldcorn.

The Python ldcorn (groups of uvicorn workers), POTHEAD (a hub that workers dial), Rip Server2 (one request at a
time in the worker freed last) and Load distributer (four FastAPI servers in turn, and sticky items).
"""
import base64, collections, contextlib, fcntl, hashlib, json, os, re, selectors, shlex, signal, socket, subprocess, sys
import threading, time

import pytest
import machine
from harness import REPO, AutoWorker, Client, FakeWorker, Proxy, answer, cli, free_port, head, make_dir, upstream_config, wait_for
from needs import Load, hup, need, pids
from procs import Before, Own, alive, counter, cpu_seconds, metric, wait_gone
from test_fastapi import story

CTL = os.path.join(REPO, 'tools', 'ldcornctl')


def inside(p, n, group=0):
    p.wait_status(lambda s: s['groups'][group]['in_flight'] == n)


def queued(p, n, group=0):
    p.wait_status(lambda s: s['groups'][group]['queue']['len'] == n)


def held(p, target, headers=()):
    """A request that stays inside its worker until `let`: the last byte of its body is not sent yet."""
    return p.connect().send(head('POST', target, dict(headers, **{'Content-Length': '2', 'X-Ask': 'echo'})) + b'o')


def let(client):
    with client:
        r = client.send(b'k').read_response()
    assert (r.status, r.body) == (200, b'ok'), r


class Busy(Load):
    """Clients that have had answers before what happens inside the `with`, and have some behind it."""

    def some(self):
        n = len(self.answers)
        wait_for(lambda: self.failures or len(self.answers) > n + 2 * len(self.threads), what='answers')

    def __enter__(self):
        super().__enter__()
        self.some()
        return self

    def __exit__(self, kind, *more):
        try:
            if kind is None:
                self.some()
        finally:
            super().__exit__(kind, *more)


def failed_reload(p):
    p.signal(signal.SIGHUP)
    p.wait_status(lambda s: s['last_reload'] and s['last_reload']['result'] == 'failed')


def ctl(p, *args):
    return subprocess.run([sys.executable, CTL, p.config_path] + list(args), stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)


# --- the Python ldcorn ---

def test_python_ldcorn_longest_prefix_ties_by_file_order_and_star_fallback():
    one = '[one]\nroutes = /same /tie*\nmatch = header:X-One\ncmd = %s\n' % counter()
    two = '[two]\nroutes = /same /tie*\nmatch = header:X-Two\ncmd = %s\n' % counter()
    rest = '[deep]\nroutes = /api/v2*\ncmd = %s\n[api]\nroutes = /api*\ncmd = %s\n[rest]\nroutes = *\ncmd = %s\n' % ((counter(),) * 3)
    with Own(one + two + rest) as p:
        def group(target, *fields):
            with p.connect() as c:
                r = c.ask('GET', target, [('X-Ask', 'info')] + [(f, '1') for f in fields])
            assert r.status == 200, r
            return json.loads(r.body)['env']['LDCORN_GROUP']
        for target, want in {'/api': 'api', '/apix': 'api', '/api/v1': 'api', '/api/v2': 'deep', '/api/v2/x?y=/': 'deep',
                             '/api/v22': 'deep', '/': 'rest', '/ap': 'rest', '/same': 'rest'}.items():
            assert group(target) == want, target
        both = ('X-One', 'X-Two')
        assert [group('/same', *both), group('/ties', *both), group('/same', 'X-Two')] == ['one', 'one', 'two']
        p.edit((one + two, two + one))
        hup(p)
        assert [group('/same', *both), group('/ties', *both), group('/same', 'X-One')] == ['two', 'two', 'one']
        p.edit(('routes = *', 'routes = /rest'))
        hup(p)
        with p.connect() as c:
            assert c.ask('GET', '/nowhere').status == 404


def test_python_ldcorn_max_req_per_worker_requests_wait_in_their_group_no_failover():
    """One inside, three in line, the next refused; four idle workers of the other group get none of them."""
    text = ('[one]\nroutes = /one\nmax_req_per_worker = 1\nqueue = 3\nrequest_buffer = 0\ncmd = %s\n'
            '[idle]\nroutes = *\nworkers = 4\ncmd = %s\n' % (counter(), counter()))
    with Own(text) as p:
        clients = [held(p, '/one/0')]
        inside(p, 1)
        for n in (1, 2, 3):
            clients.append(held(p, '/one/%d' % n))
            queued(p, n)
        with p.connect() as c:
            r = c.ask('GET', '/one/4')
            assert r.status == 503 and int(r.get('retry-after')) >= 1
            assert c.ask('GET', '/other').status == 200
        for n, c in enumerate(clients):
            assert p.group('one')['queue']['len'] == 3 - n and p.group('one')['in_flight'] == 1
            let(c)
            queued(p, max(0, 2 - n))
        pid, = p.pids('one')
        seen = [(who, most, target) for who, most, _, target in p.requests() if target.startswith('/one')]
        assert seen == [(pid, 1, '/one/%d' % n) for n in range(4)], 'in order of arrival, one at a time, in its group'


ASGI = '''
import json, os
held = 0

async def app(scope, receive, send):
    global held
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return
            held += 1
            await send({"type": "websocket.send", "text": "%d %d" % (os.getpid(), held)})
    held += scope["method"] == "POST"
    fields = {k.decode(): v.decode() for k, v in scope["headers"]}
    out = json.dumps({"pid": os.getpid(), "held": held, "group": os.environ["LDCORN_GROUP"], "fields": fields}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(out)).encode())]})
    await send({"type": "http.response.body", "body": out})
'''


def app(text, **kw):
    return Proxy(text, files={'main.py': ASGI}, env={'PYTHONDONTWRITEBYTECODE': '1'}, start_timeout=60, **kw)


def test_python_ldcorn_instances_of_an_app_are_uvicorn_workers_on_unix_sockets():
    """Its ldconfig.py, translated, runs; the old names say what they are called now."""
    need('uvicorn')
    port = free_port()
    folder = make_dir({'ldconfig.py': 'from ldcorn.config import LdConfig, WorkerGroup\n'
                       'config = LdConfig(bind="127.0.0.1:%d", workers=[\n'
                       '    WorkerGroup(name="web", app="main:app", instances=2, routes=["*"]),\n'
                       '    WorkerGroup(name="one", app="main:app", routes=["/one"], max_req_per_worker=1)])\n' % port})
    try:
        text = subprocess.run([sys.executable, os.path.join(REPO, 'tools', 'ldconfig2ini.py'), 'ldconfig.py'], cwd=folder,
                              stdout=subprocess.PIPE, check=True, timeout=30, text=True).stdout
    finally:
        os.unlink(folder + '/ldconfig.py')
        os.rmdir(folder)
    with app(text, port=port) as p:
        web, one = pids(p, 'web'), pids(p, 'one')
        assert len(web) == 2 and len(one) == 1
        for pid in web | one:
            with open('/proc/%d/cmdline' % pid) as f:
                words = f.read().split('\0')
            assert any(w.endswith('uvicorn') for w in words) and 'main:app' in words
            assert words[words.index('--uds') + 1].startswith(p.dir + '/run/')
        with p.connect() as c:
            said = [json.loads(c.ask('GET', '/').body) for _ in range(8)]
            assert {s['pid'] for s in said} == web and {s['group'] for s in said} == {'web'}
            assert json.loads(c.ask('GET', '/one/x').body)['pid'] in one
    for old, new in (('instances = 2', 'workers'), ('max_restarts_on_crash = 3', 'max_restarts'),
                     ('restart_backoff_on_crash = 2', 'backoff_max'), ('reload_on_sighup = off', 'reload')):
        run = cli('-t', 'groups.ini', config='[web]\nroutes = *\ncmd = true {socket}\n%s\n' % old)
        assert run.status == 2 and '`%s`' % new in run.err, run


def test_python_ldcorn_sighup_starts_new_workers_swaps_and_lets_the_old_ones_finish():
    with Own('[web]\nroutes = *\nworkers = 2\ncmd = %s\n' % counter('{socket}', '--tag=old')) as p:
        old = p.pids()
        waits = held(p, '/held')
        inside(p, 1)
        p.edit(('--tag=old', '--tag=new'))
        with Busy(p, '/', clients=4) as load:
            hup(p)
            wait_for(lambda: set(p.pids()).isdisjoint(old))
            assert p.get('/tag') == 'new'
        load.check()
        let(waits)
        holder, = [pid for pid, _, _, target in p.requests() if target == '/held']
        assert holder in old, 'what was inside was finished where it had begun'
        wait_gone(*old)
        assert not [count for _, count in p.signals() if count], 'stop signals come when nothing is inside'


def test_python_ldcorn_sighup_is_rolled_back_when_a_new_worker_fails():
    good, bad = ('[%s]\nroutes = %s\ncmd = %s\n' % (name, route, counter('{socket}', '--fail-if={dir}/' + name))
                 for name, route in (('good', '*'), ('bad', '/bad')))
    with Own(good + bad) as p:
        before = p.pids('good') + p.pids('bad')
        p.touch('bad')
        p.edit(('routes = *', 'routes = * /new'))
        with Busy(p, '/bad', clients=4) as load:
            failed_reload(p)
        load.check()
        assert p.pids('good') + p.pids('bad') == before and p.status()['generation'] == 1
        assert '/new' not in json.dumps(p.group('good')['routes'])
        wait_gone(*[pid for pid in p.starts() if pid not in before])
        assert "No module named 'torch'" in p.status()['last_reload']['error']
        os.unlink(p.dir + '/bad')
        hup(p)
        assert not set(p.pids('good') + p.pids('bad')) & set(before)


def test_python_ldcorn_reload_on_sighup_false_takes_routes_and_limits_and_1_to_4_keeps_the_1():
    text = '[live]\nroutes = /live\nreload = off\nworkers = 1\nmax_req_per_worker = 1\nrequest_buffer = 0\ncmd = %s\n' % counter()
    with Own(text + '[web]\nroutes = *\ncmd = %s\n' % counter()) as p:
        (one,), other = p.pids('live'), p.pids('web')
        first, second = held(p, '/live/1'), None
        inside(p, 1)
        second = held(p, '/live/2')
        queued(p, 1)
        p.edit(('routes = /live', 'routes = /live /more'), ('max_req_per_worker = 1', 'max_req_per_worker = 2'))
        hup(p)
        inside(p, 2)                                 # the new limit, in the same process
        assert p.pids('live') == [one] and not set(p.pids('web')) & set(other)
        let(first)
        let(second)
        assert p.get('/more') == str(one)
        p.edit(('workers = 1', 'workers = 4'))
        hup(p)
        p.wait_status(lambda s: len(p.pids('live')) == 4)
        four = p.pids('live')
        assert four[0] == one
        hup(p)
        assert p.pids('live') == four
        p.edit(('workers = 4', 'workers = 1'))
        hup(p)
        wait_gone(*four[1:])
        assert p.pids('live') == [one] and p.get('/live') == str(one)


def test_python_ldcorn_crashed_workers_are_revived():
    with Own('[web]\nroutes = *\nworkers = 2\ncmd = %s\n' % counter()) as p:
        first = p.pids()
        with Busy(p, '/', clients=4) as load:
            with p.connect() as c:
                assert c.ask('POST', '/crash', body=b'').status == 502, 'what was inside is lost, and only that'
            p.wait_status(lambda s: len(p.starts()) == 3 and len(p.pids()) == 2)
        assert len(set(first) & set(p.pids())) == 1 and metric(p, 'ldcorn_worker_exits_total', reason='crash') == 1
        lost = [f for f in load.failures if f != 'the connection was not kept']
        assert len(lost) <= 4 and all(getattr(f, 'status', None) == 502 for f in lost), lost


STAMPED = "/bin/sh -c 'date +%%s.%%N >>{dir}/starts; %s'"


def pauses(p):
    """Between the starts of a worker with a STAMPED command. A log line of each there is not: the same is told once."""
    at = []
    with contextlib.suppress(FileNotFoundError), open(p.dir + '/starts') as f:
        at += [float(line) for line in f if line.endswith('\n')]
    return [b - a for a, b in zip(at, at[1:])]


def test_python_ldcorn_max_restarts_on_crash_and_restart_backoff_on_crash():
    """Given up after so many starts that failed; 503 then, other groups serve; a reload tries again."""
    text = '[bad]\nroutes = /bad\nmax_restarts = 2\nbackoff_max = 150ms\ncmd = %s\n[web]\nroutes = *\ncmd = %s\n'
    bad = STAMPED % ('exec ' + counter('{socket}', '--fail-if={dir}/bad'))
    with Own(text % (bad, counter()), files={'bad': ''}, wait=False).up() as p:
        p.wait_status(lambda s: s['groups'][0]['workers'][0]['state'] == 'failed')
        assert len(pauses(p)) == 2 and all(t >= 0.1 * 0.8 for t in pauses(p)), pauses(p)
        p.wait_log(r'given up after \d failed starts \(max_restarts\)')
        with p.connect() as c:
            assert c.ask('GET', '/bad').status == 503 and c.ask('GET', '/').status == 200
        started = len(p.starts())
        os.unlink(p.dir + '/bad')
        hup(p)
        assert p.get('/bad') and p.worker('bad')['state'] == 'ready' and len(p.starts()) == started + 2


def handshake(p, target, headers=()):
    c = p.connect()
    key = base64.b64encode(os.urandom(16)).decode()
    c.send(head('GET', target, dict(headers, **{'Connection': 'Upgrade', 'Upgrade': 'websocket', 'Sec-WebSocket-Version': '13',
                                                'Sec-WebSocket-Key': key})))
    r = c.read_response()
    assert r.status == 101, r
    accept = hashlib.sha1((key + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11').encode()).digest()
    assert r.get('sec-websocket-accept') == base64.b64encode(accept).decode()
    return c


def ws_ask(c, text):
    """One masked text frame and its answer."""
    mask, data = os.urandom(4), text.encode()
    c.send(bytes([0x81, 0x80 | len(data)]) + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(data)))
    first, length = c.read_exact(2)
    assert first == 0x81 and length < 126
    return c.read_exact(length).decode()


def test_python_ldcorn_websockets_and_state_in_memory_are_pinned_to_one_worker():
    """A group of one that reloads leave alone: all sockets and all requests see the same memory."""
    need('uvicorn', 'websockets')
    with app('app = main:app\n[live]\nroutes = /ws /state\nreload = off\n[web]\nroutes = *\nworkers = 2\n') as p:
        (live,), web = pids(p, 'live'), pids(p, 'web')
        sockets = [handshake(p, '/ws') for _ in range(5)]
        seen = []
        for turn in range(2):
            for c in sockets:
                seen.append(ws_ask(c, 'x'))
                with p.connect() as plain:
                    said = json.loads(plain.ask('POST', '/state', body=b'').body)
                    seen.append('%d %d' % (said['pid'], said['held']))
            hup(p, 60)
        assert seen == ['%d %d' % (live, n) for n in range(1, 21)] and not pids(p, 'web') & web
        for c in sockets:
            c.close()


def test_python_ldcorn_sessions_are_pinned_by_a_hash_of_their_cookie():
    """More than one worker with state in memory: requests and sockets of a session meet in one of them."""
    with Own('[live]\nroutes = *\nworkers = 3\nbalance = hash\nhash_key = cookie:session\ncmd = %s\n' % counter()) as p:
        def ask(session, target, **more):
            return p.connect().send(head('GET', target, dict(more, Cookie='session=' + session)))
        places, sockets = {}, collections.Counter()
        for n in range(30):
            with ask(str(n), '/') as c:
                places[n] = int(c.read_response().body)
        tunnels = []
        for n in range(30):
            with ask(str(n), '/again') as c:
                assert int(c.read_response().body) == places[n]
            tunnels.append(ask(str(n), '/ws', Connection='Upgrade', Upgrade='websocket'))
            assert tunnels[-1].read_response().status == 101
            sockets[places[n]] += 1
        assert set(places.values()) == set(p.pids())
        assert {w['pid']: w['tunnels'] for w in p.group('live')['workers']} == sockets
        for c in tunnels:
            c.close()


def test_python_ldcorn_keeps_client_connections_and_sets_x_forwarded_for():
    with Own('[web]\nroutes = *\ncmd = %s\n' % counter()) as p, p.connect() as c:
        for _ in range(20):
            r = c.ask('GET', '/info', {'X-Forwarded-For': '9.8.7.6'})
            assert 'close' not in (r.get('connection') or '').lower()
        fields = json.loads(r.body)['fields']
        assert fields['x-forwarded-for'] == '9.8.7.6, 127.0.0.1' and fields['x-forwarded-proto'] == 'http'
        assert fields['x-real-ip'] == '9.8.7.6' and fields['x-forwarded-host'] == fields['host'] == 'test'
        p.edit(('[web]', 'trusted_proxies = none\n[web]'))
        hup(p)
        assert json.loads(c.ask('GET', '/info', {'X-Forwarded-For': '9.8.7.6'}).body)['fields']['x-forwarded-for'] == '127.0.0.1'
        assert metric(p, 'ldcorn_accepted_total') == 1


def test_python_ldcorn_listen_changes_at_a_reload():
    with Own('[web]\nroutes = *\ncmd = %s\n' % counter()) as p, p.connect() as kept:
        assert kept.ask('GET', '/').status == 200
        port = free_port()
        p.edit(('listen = {listen}', 'listen = 127.0.0.1:%d' % port))
        hup(p)
        with Client(('127.0.0.1', port)) as c:
            assert c.ask('GET', '/').status == 200
        with pytest.raises(ConnectionRefusedError):
            p.connect()
        p.address = ('127.0.0.1', port)
        assert p.get('/')


@pytest.mark.parametrize('way, most', [('swap', 6), ('rolling', 4), ('replace', 3)])
def test_python_ldcorn_memory_at_a_reload(way, most):
    """swap needs room for twice as many workers, rolling for one more, replace for none more."""
    with Own('[web]\nroutes = *\nworkers = 3\nreload = %s\ncmd = %s\n' % (way, counter())) as p:
        old, peak, result = p.pids(), 0, None
        with Busy(p, '/', clients=4) as load:
            p.signal(signal.SIGHUP)
            while result != 'ok':
                status = p.status()
                result = (status['last_reload'] or {}).get('result')
                taking = sum(w['state'] in ('starting', 'ready') for w in status['groups'][0]['workers'])
                # Of rolling only these: the next one starts while the last one is still on its way out.
                peak = max(peak, taking if way == 'rolling' else sum(alive(pid) for pid in p.starts()))
        load.check()
        wait_gone(*old)
        assert peak <= most and len(set(p.pids()) - set(old)) == 3 and len(p.starts()) == 6


def test_python_ldcorn_memory_at_a_rolling_reload_while_old_workers_finish():
    """"never more than one too many" also when each old worker has something to finish."""
    with Own('[web]\nroutes = *\nworkers = 3\nreload = rolling\ncmd = %s\n' % counter()) as p:
        old, waits, peak = p.pids(), [], 0
        for n in range(3):
            waits.append(held(p, '/%d' % n))
            inside(p, n + 1)
        wait_for(lambda: {pid for pid, _, _, _ in p.requests()} == set(old))
        p.signal(signal.SIGHUP)
        end = time.monotonic() + 2
        while peak <= 4 and time.monotonic() < end:
            peak = max(peak, sum(alive(pid) for pid in p.starts()))
        for c in waits:
            let(c)
        p.wait_status(lambda s: s['last_reload'] and s['last_reload']['result'] == 'ok')
        wait_gone(*old)
        assert peak <= 4, peak


def test_python_ldcorn_successor_routes_by_header_and_cookie():
    text = ('[beta]\nroutes = *\nmatch = header:X-Beta=yes\ncmd = %s\n[canary]\nroutes = /shop\nmatch = cookie:canary\ncmd = %s\n'
            '[both]\nroutes = /shop\nmatch = cookie:canary header:X-Beta=yes\ncmd = %s\n[web]\nroutes = *\ncmd = %s\n' % ((counter(),) * 4))
    beta, cookie = ('X-Beta', 'yes'), ('Cookie', 'a=b; canary=1')
    with Own(text) as p, p.connect() as c:
        for target, fields, want in (('/', [], 'web'), ('/', [beta], 'beta'), ('/', [('X-Beta', 'no')], 'web'), ('/shop', [], 'web'),
                                     ('/shop', [cookie], 'canary'), ('/shop/x', [cookie, beta], 'both'), ('/', [cookie], 'web'),
                                     ('/shop', [beta], 'beta')):
            r = c.ask('GET', target, fields + [('X-Ask', 'info')])
            assert json.loads(r.body)['env']['LDCORN_GROUP'] == want, (target, fields)
        done = ctl(p, 'route', 'GET', '/shop/x', 'Cookie:canary=1')
        assert done.returncode == 0 and 'canary' in done.stdout, done


def test_python_ldcorn_systemd_exec_reload(tmp_path):
    """The unit's own ExecReload, against a program that was told where its manager listens."""
    with open(os.path.join(REPO, 'tools', 'ldcorn.service')) as f:
        unit = dict(re.findall(r'(?m)^(\w+)=(.*)$', f.read()))
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(tmp_path / 'notify'))
    manager.settimeout(20)

    def told():                                  # more than how a start goes on
        said = {'STATUS': ''}
        while set(said) == {'STATUS'}:
            said = dict(line.split('=', 1) for line in manager.recv(4096).decode().split('\n'))
        return said
    text = '[web]\nroutes = *\ncmd = %s\n' % counter('{socket}', '--fail-if={dir}/bad')
    with manager, Own(text, env={'NOTIFY_SOCKET': str(tmp_path / 'notify')}) as p:
        assert unit['Type'] == 'notify' and told()['READY'] == '1'
        program, config, *rest = shlex.split(unit['ExecReload'])
        assert os.path.basename(program) == 'ldcornctl' and config == shlex.split(unit['ExecStart'])[1]
        command, old = [sys.executable, CTL, p.config_path] + rest, p.pids()
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
        assert done.returncode == 0 and p.status()['generation'] == 2 and not set(p.pids()) & set(old), done
        assert 'RELOADING' in told() and told()['READY'] == '1'
        p.touch('bad')
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
        assert done.returncode == 1 and 'torch' in done.stdout and p.status()['generation'] == 2, done
        assert p.get('/')


def test_python_ldcorn_a_blocking_endpoint_in_one_group_leaves_the_others_alone():
    """The application of its benchmark: handlers that sleep in the event loop, and a fast endpoint beside them."""
    with story() as p:
        p.wait_status(lambda s: {g['name'] for g in s['groups']} == {'web', 'ml', 'live'})
        ml = next(i for i, g in enumerate(p.status()['groups']) if g['name'] == 'ml')
        blockers = [p.connect(60).send(head('GET', '/ml-pipeline?least=0.7&most=0.7')) for _ in range(4)]
        inside(p, 2, ml)
        took = []
        with p.connect() as c:
            while any(b.silent(0) for b in blockers):
                start = time.monotonic()
                r = c.ask('GET', '/')
                took.append(time.monotonic() - start)
                assert r.status == 200 and json.loads(r.body)['fast']
        assert len(took) > 20 and sorted(took)[len(took) // 2] < 0.3, (len(took), sorted(took)[-5:])
        for b in blockers:
            assert b.read_response().status == 200
            b.close()
        assert metric(p, 'ldcorn_refused_total') == 0


# --- POTHEAD ---

# A runner: N slots, each of which dials the hub, serves one request there with the standard library, and dials again.
# While the file BUSY is there it dials nobody: somebody else needs this machine. A job runs until GO is there.
RUNNER = '''
import http.server, os, select, socket, sys, threading, time
where, slots, log, busy, go = sys.argv[1], int(sys.argv[2]), os.open(sys.argv[3], os.O_WRONLY | os.O_APPEND | os.O_CREAT), *sys.argv[4:6]
lock, running = threading.Lock(), 0

class Job(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        global running
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with lock:
            running += 1
            os.write(log, b"%s %d\\n" % (self.path.encode(), running))
        while not os.path.exists(go):
            time.sleep(0.005)
        with lock:
            running -= 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

def slot():
    while True:
        if os.path.exists(busy):
            time.sleep(0.01)
            continue
        s = socket.socket(socket.AF_UNIX)
        s.connect(where)
        while not select.select([s], [], [], 0.02)[0]:
            if os.path.exists(busy):
                break
        else:
            try:
                if s.recv(1, socket.MSG_PEEK):
                    Job(s, ("hub", 0), None)
            except OSError:
                pass
        s.close()

for _ in range(slots):
    threading.Thread(target=slot, daemon=True).start()
sys.stdin.read()
'''


class Hub(Proxy):
    """A hub, and runners that dial it; jobs wait for {dir}/go."""

    def __init__(self, group=''):
        super().__init__('[hub]\nroutes = *\ndial_in = unix:{dir}/hub\n' + group)
        self.runners, self.clients = [], []

    def run(self, slots):
        """A runner more; -> its process."""
        args = [sys.executable, '-S', '-c', RUNNER] + [self.dir + '/hub', str(slots), self.dir + '/jobs', self.dir + '/busy', self.dir + '/go']
        self.runners.append(subprocess.Popen(args, stdin=subprocess.PIPE))
        return self.runners[-1]

    def __exit__(self, *exc):
        for r in self.runners:
            r.kill()
            r.wait()
            r.stdin.close()
        for c in self.clients:
            c.close()
        super().__exit__(*exc)

    def slots(self, n):
        self.wait_status(lambda s: s['groups'][0]['slots'] == n)

    def job(self, n):
        self.clients.append(self.connect().send(head('POST', '/job/%d' % n, body=b'body of %d' % n)))

    def answers(self):
        return [c.read_response().body for c in self.clients] == [b'body of %d' % n for n in range(len(self.clients))]

    def touch(self, name):
        open(os.path.join(self.dir, name), 'w').close()

    def jobs(self):
        """[(path, how many ran in that runner then)] in the order in which they began."""
        with open(self.dir + '/jobs') as f:
            return [(line.split()[0], int(line.split()[1])) for line in f]


def test_pothead_workers_dial_the_hub_and_take_one_request_at_a_time():
    with Hub() as p:
        assert p.admin('GET', '/readyz')[0] == 503
        p.touch('go')
        p.run(1)
        p.slots(1)
        assert p.admin('GET', '/readyz')[0] == 200
        for n in range(30):
            p.job(n)
        assert p.answers()
        assert sorted(p.jobs()) == sorted(('/job/%d' % n, 1) for n in range(30))


def test_pothead_more_jobs_than_slots_wait_at_the_hub():
    """In order of arrival, before a worker is there at all and behind those that are busy."""
    with Hub() as p:
        for n in range(6):
            p.job(n)
            queued(p, n + 1)
        p.run(1)
        inside(p, 1)
        queued(p, 5)
        p.job(6)
        queued(p, 6)
        p.touch('go')
        assert p.answers() and [path for path, _ in p.jobs()] == ['/job/%d' % n for n in range(7)]


def test_pothead_runner_n_at_a_time():
    with Hub() as p:
        p.run(3)
        p.slots(3)
        for n in range(8):
            p.job(n)
        inside(p, 3)
        queued(p, 5)
        wait_for(lambda: len(p.jobs()) == 3)
        p.touch('go')
        assert p.answers()
        ran = p.jobs()
        assert max(n for _, n in ran) == 3 and len(ran) == 8
        p.run(2)
        p.slots(5)


def test_pothead_runner_only_while_processors_are_idle():
    """A runner that has something better to do hangs up; its jobs wait at the hub, or go to another one."""
    with Hub() as p:
        p.touch('go')
        p.run(2)
        p.slots(2)
        p.touch('busy')
        p.slots(0)
        for n in range(3):
            p.job(n)
            queued(p, n + 1)
        os.unlink(p.dir + '/busy')
        assert p.answers() and len(p.jobs()) == 3


def test_pothead_a_runner_that_dies_gives_its_place_to_another():
    with Hub() as p:
        first = p.run(1)
        p.job(0)
        p.job(1)
        inside(p, 1)
        queued(p, 1)
        first.kill()
        p.touch('go')
        p.run(1)
        bodies = sorted((c.read_response() for c in p.clients), key=lambda r: r.status)
        assert [r.status for r in bodies] == [200, 502], 'a POST that had begun is not run twice'


# --- Rip Server2 ---

class Four:
    """Four workers that the test plays, each with a number to answer."""

    def __init__(self, group, n=4, handler=None, top='', **kw):
        self.workers = [AutoWorker(handler or (lambda r, c, i=i: answer('w%d' % i))) for i in range(n)]
        self.proxy = Proxy(upstream_config(' '.join(w.address for w in self.workers), top, group), **kw)

    def __enter__(self):
        self.proxy.wait_status(lambda s: all(w['state'] == 'ready' for w in s['groups'][0]['workers']))
        return self.proxy, self.workers

    def __exit__(self, *exc):
        for w in self.workers:                       # first, or the proxy would wait for what is inside
            w.close()
        self.proxy.__exit__(*exc)


@pytest.fixture
def descriptors():
    """This process holds the other end of each waiting connection. -> how many may wait: 8192 unless the machine has a lower limit."""
    with machine.descriptors(17000, 3000) as most:
        yield min(8192, most // 2)


def test_rip_server2_lifo_single_in_flight_queue_of_8192_and_2_s(descriptors):
    """8192 wait and cost nothing, one more is refused; each slot that comes free takes the oldest; who waits 2 s gets 503."""
    full, permits = descriptors, threading.Semaphore(0)

    def gated(request, conn):
        if request.target != '/free':
            permits.acquire()
        return answer(request.target)
    group = 'balance = lifo\nmax_req_per_worker = 1\nqueue = %d\nqueue_timeout = 60s\n' % full
    front = Four(group, handler=gated, top='max_conns = %d\n' % (full + 100))
    front.proxy.stop_timeout = 60
    crowd, poller = [], selectors.DefaultSelector()

    def send(p):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(p.dir + '/front')
            s.sendall(head('GET', '/%d' % len(crowd)))
            high = socket.socket(fileno=fcntl.fcntl(s, fcntl.F_DUPFD_CLOEXEC, 1024))      # select() takes those below
        crowd.append(high)
        poller.register(high, selectors.EVENT_READ, len(crowd) - 1)
    with front as (p, workers):
        p.write_config(p.config_text.replace('{listen}', '{listen} unix:{dir}/front'))
        hup(p)
        try:
            for n in range(4):
                send(p)
                inside(p, n + 1)
            while len(crowd) < 64:
                send(p)
            queued(p, 60)
            while len(crowd) < full + 4:
                send(p)
            p.wait_status(lambda s: s['groups'][0]['queue']['len'] == full, 60)
            with p.connect() as c:
                assert c.ask('GET', '/over').status == 503
            assert p.wait_access(lambda r: r['target'] == '/over')['reason'] == 'full'
            before = cpu_seconds(p.pid)
            assert not poller.select(0.5)            # nobody polls: nothing to do is nothing done
            assert cpu_seconds(p.pid) - before < 0.2
            for _ in range(60):
                permits.release()
            queued(p, full - 60)
            answered = set()
            while len(answered) < 60:
                ready = poller.select(10)
                assert ready, len(answered)
                for key, _ in ready:
                    poller.unregister(key.fileobj)
                    assert key.fileobj.recv(4096).startswith(b'HTTP/1.1 200')
                    answered.add(key.data)
            assert max(answered) < 64, 'in order of arrival'
            assert [w.max_inside for w in workers] == [1] * 4
        finally:
            for s in crowd:
                s.close()
            for _ in range(full):
                permits.release()
        p.wait_status(lambda s: s['groups'][0]['queue']['len'] == s['groups'][0]['in_flight'] == 0, 60)
        with p.connect() as c:                       # the worker freed last is the one that is warm
            served = [w.served for w in workers]
            for _ in range(20):
                assert c.ask('GET', '/free').status == 200
            assert sorted(w.served - n for w, n in zip(workers, served)) == [0, 0, 0, 20]
        while permits.acquire(blocking=False):
            pass
        p.write_config(p.config_text.replace('queue_timeout = 60s', 'queue_timeout = 2s'))
        hup(p)
        clients = [p.connect().send(head('GET', '/in')) for _ in range(4)]
        inside(p, 4)
        with p.connect() as late:
            start = time.monotonic()
            assert late.ask('GET', '/late').status == 503 and 1.9 < time.monotonic() - start < 6
        record = p.wait_access(lambda r: r['target'] == '/late')
        assert record['reason'] == 'timeout' and record['queue_ms'] >= 1990
        for c in clients:
            permits.release()
        assert [c.read_response().status for c in clients] == [200] * 4
        assert [w.max_inside for w in workers] == [1] * 4 and not any(w.errors for w in workers)


def test_rip_server2_connect_200_ms():
    """A worker that does not take the connection: the kernel's backlog is full and it answers nothing."""
    with FakeWorker() as w, Proxy(upstream_config(w.address, group='connect_timeout = 200ms\nretries = 0\n')) as p:
        w.drain()
        w.sock.listen(0)
        crowd = []
        try:
            while not crowd or crowd[-1].connect_ex(w.sock.getsockname()) == 0:
                crowd.append(socket.socket())
                crowd[-1].settimeout(0.2)
            with p.connect() as c:
                start = time.monotonic()
                assert c.ask('GET', '/').status == 502 and 0.15 < time.monotonic() - start < 3
            record = p.wait_access(lambda r: r['target'] == '/')
            assert record['reason'] == 'connect' and metric(p, 'ldcorn_worker_errors_total', kind='connect') >= 1
        finally:
            for s in crowd:
                s.close()


def test_rip_server2_read_5_s_is_504_and_full_is_503():
    """The 5 s are one here. A worker that was late keeps its place until it has answered."""
    assert 'response_timeout = 5s' in cli('-T', 'groups.ini', config='[w]\nroutes = *\nupstream = :1\nresponse_timeout = 5s\n').out
    with Before('response_timeout = 1s\nmax_req_per_worker = 1\nqueue = 0\n') as b, b.proxy.connect() as other:
        start = time.monotonic()
        late = b.send('/late')
        _, conn = b.worker.one()
        assert other.ask('GET', '/full').status == 503
        assert late.read_response().status == 504 and time.monotonic() - start > 0.98
        assert other.ask('GET', '/still').status == 503
        conn.send(answer('too late'))
        b.inside(0)
        other.send(head('GET', '/free'))
        assert b.next(conn, answer('ok'))[0].target == '/free' and other.read_response().body == b'ok'
        assert {t: b.record(t)['reason'] for t in ('/late', '/full', '/still', '/free')} == {
            '/late': 'response_timeout', '/full': 'full', '/still': 'full', '/free': ''}


@pytest.mark.parametrize('retries', [0, 1])
def test_rip_server2_one_retry_on_another_worker(retries):
    """Only while no byte can have reached a worker, so no request runs twice."""
    with Four('balance = round\nretries = %d\n' % retries, n=2) as (p, workers):
        workers[0].close()
        with p.connect() as c:
            seen = [c.ask('POST', '/%d' % n, body=b'x').status for n in range(2)]
        assert sorted(seen) == ([200, 200] if retries else [200, 502])
        assert metric(p, 'ldcorn_retries_total') == retries
        assert len(workers[1].requests) == seen.count(200)


def test_rip_server2_failing_workers_are_removed_and_come_back():
    sick = set()

    def handler(i):
        return lambda r, c: answer('w%d' % i, '503 Sick' if r.target == '/health' and i in sick else '200 OK')
    with Four('balance = round\nhealth_path = /health\nhealth_interval = 50ms\nhealth_fails = 2\n', n=3) as (p, workers):
        for i, w in enumerate(workers):
            w.handler = handler(i)
        with p.connect() as c:
            assert {c.ask('GET', '/').body for _ in range(6)} == {b'w0', b'w1', b'w2'}
            sick.add(1)
            p.wait_status(lambda s: s['groups'][0]['workers'][1]['state'] == 'down')
            assert {c.ask('GET', '/').body for _ in range(9)} == {b'w0', b'w2'}
            sick.clear()
            p.wait_status(lambda s: s['groups'][0]['workers'][1]['state'] == 'ready')
            assert {c.ask('GET', '/').body for _ in range(9)} == {b'w0', b'w1', b'w2'}


def test_rip_server2_recycle_after_n_requests():
    with Own('[web]\nroutes = *\nworkers = 2\nmax_req_per_worker = 1\nrecycle_requests = 20\ncmd = %s\n' % counter()) as p:
        with p.connect() as c:
            while len(p.starts()) < 6:
                assert c.ask('GET', '/').status == 200
        p.wait_status(lambda s: len(p.pids()) == 2)
        served = collections.Counter(pid for pid, _, _, _ in p.requests())
        assert all(served[pid] >= 18 for pid in served if pid not in p.pids()), served
        wait_for(lambda: metric(p, 'ldcorn_worker_exits_total', reason='recycle') >= 2, what='the end of those replaced')
        assert metric(p, 'ldcorn_worker_exits_total', reason='crash') == 0


def test_rip_server2_exponential_back_off():
    cmd = STAMPED % ('test ! -e {dir}/bad || exit 1; exec ' + counter())
    with Own('[web]\nroutes = *\nbackoff_max = 300ms\ncmd = %s\n' % cmd, files={'bad': ''}, wait=False).up() as p:
        waits = p.connect().send(head('GET', '/'))
        wait_for(lambda: len(pauses(p)) >= 7)
        for took, ideal in zip(pauses(p), (0.1, 0.2, 0.3, 0.3, 0.3, 0.3, 0.3)):
            assert ideal * 0.8 <= took <= ideal * 1.2 + 1, 'doubled up to backoff_max: %s' % pauses(p)
        os.unlink(p.dir + '/bad')
        with waits:
            assert waits.read_response().status == 200, 'it waited for the next try'


def test_rip_server2_reload_none_process_and_module():
    """none: a reload leaves them alone. process: it replaces them. module: a changed file does, without a signal."""
    groups = (('none', 'reload = off\n'), ('process', 'reload = rolling\n'), ('module', 'reload = rolling\nwatch = {dir}/src\n'))
    text = ''.join('[%s]\nroutes = /%s\n%scmd = %s\n' % (name, name, more, counter()) for name, more in groups)
    with Own(text, files={'src/app.py': '0'}) as p:
        def now():
            return [p.pids(name) for name, _ in groups]
        before, n = now(), [0]
        hup(p)
        p.wait_status(lambda s: all(len(one) == 1 for one in now()))
        after = now()
        assert [a == b for a, b in zip(after, before)] == [True, False, False]

        def changed():
            """Longer each time, and again for a watcher that had not looked before the first one."""
            n[0] += 1
            if n[0] % 100 == 1:
                with open(p.dir + '/src/app.py', 'a') as f:
                    f.write('%d\n' % n[0])
            return not alive(after[2][0])
        wait_for(changed, 20)
        p.wait_log(r'info  module: .*/src/app\.py changed')
        p.wait_status(lambda s: len(now()[2]) == 1)
        assert now()[:2] == after[:2] and now()[2] != after[2]


def test_rip_server2_join_and_quit():
    with AutoWorker(lambda r, c: answer('a')) as a, AutoWorker(lambda r, c: answer('b')) as b, \
            Proxy('listen = {listen}\nadmin = {admin}\n[pool]\nroutes = *\nupstream = dynamic\nbalance = round\n') as p:
        def workers(*wanted):
            p.wait_status(lambda s: [w['address'] for w in s['groups'][0]['workers'] if w['state'] == 'ready'] == list(wanted))
        with p.connect() as c:
            assert c.ask('GET', '/').status == 503
            assert ctl(p, 'join', 'pool', a.address).returncode == 0
            workers(a.address)
            assert c.ask('GET', '/').body == b'a'
            assert p.admin('POST', '/groups/pool/workers?address=' + b.address)[0] == 200
            workers(a.address, b.address)
            assert {c.ask('GET', '/').body for _ in range(4)} == {b'a', b'b'}
            hup(p)
            assert ctl(p, 'quit', 'pool', a.address).returncode == 0
            workers(b.address)
            assert {c.ask('GET', '/').body for _ in range(4)} == {b'b'}


def test_rip_server2_nobody_has_joined_yet():
    """The log says why a request was refused, with a key that can be changed."""
    with Proxy('[pool]\nroutes = *\nupstream = dynamic\n') as p, p.connect() as c:
        assert c.ask('GET', '/').status == 503
        assert 'workers =' not in p.wait_log('pool: 1 request refused with 503: .*').group(0)


def test_rip_server2_status_and_server():
    """On the admin address; for those in front, ready_path says it on the public one."""
    with Four('max_req_per_worker = 1\n', top='ready_path = /server\n') as (p, workers), p.connect() as c:
        assert p.admin('GET', '/server')[2].strip() == b'ok'
        for _ in range(3):
            assert c.ask('GET', '/').status == 200
        group, = p.status()['groups']
        assert group['name'] == 'web' and group['routes'] and [w['state'] for w in group['workers']] == ['ready'] * 4
        assert sum(w['served'] for w in group['workers']) == 3 and group['queue']['len'] == 0 and group['queue']['cap'] == 1024
        assert {w['address'] for w in group['workers']} == {w.address for w in workers}
        done = ctl(p, 'status')
        assert done.returncode == 0 and 'web' in done.stdout and '4/4' in done.stdout, done
        assert c.ask('GET', '/server').status == 200
        for w in workers:
            w.close()
        clients = [p.connect().send(head('GET', '/')) for _ in range(4)]       # they find that nobody is there
        wait_for(lambda: c.ask('GET', '/server').status == 503)
        for other in clients:
            other.close()
        assert not any(r.target == '/server' for w in workers for r in w.requests)


def test_rip_server2_access_log_json_or_human():
    with Four('', n=1) as (p, workers), p.connect() as c:
        c.ask('GET', '/one?x=1', {'User-Agent': 'curl/7', 'Referer': 'http://r/'})
        record = p.wait_access(lambda r: r['target'] == '/one?x=1')
        assert (record['status'], record['method'], record['group'], record['worker'], record['reason']) == (200, 'GET', 'web', 0, '')
        assert record['user_agent'] == 'curl/7' and record['bytes_out'] > 0 and record['total_ms'] >= record['queue_ms'] >= 0
        p.write_config(p.config_text.replace('log_format = json', 'log_format = text'))
        hup(p)
        c.ask('GET', '/two', {'User-Agent': 'curl/7', 'Referer': 'http://r/'})
        record = p.wait_access(lambda r: r.get('request') == 'GET /two HTTP/1.1')
        assert (record['client'], record['status'], record['user_agent'], record['referer']) == ('127.0.0.1', '200', 'curl/7', 'http://r/')
        assert 'group=web' in record['rest'] and 'total_ms=' in record['rest']


def test_rip_server2_flags_and_environment_variables_for_each_setting():
    text = 'listen = ${RIP_LISTEN:-{listen}}\n[web]\nroutes = *\nupstream = %s\nqueue = ${RIP_QUEUE:-8192}\nbalance = ${RIP_POLICY:-lifo}\n'
    with AutoWorker() as w:
        for env, args, cap, balance in (({}, (), 8192, 'lifo'), ({'RIP_QUEUE': '7', 'RIP_POLICY': 'round'}, (), 7, 'round'),
                                        ({'RIP_QUEUE': '7'}, ('-o', 'web.queue=9', '-o', 'balance=least'), 9, 'least')):
            with Proxy(text % w.address, env=env, args=args) as p, p.connect() as c:
                group = p.group('web')
                assert (group['queue']['cap'], group['balance']) == (cap, balance) and c.ask('GET', '/').status == 200
    config = '[web]\nroutes = *\nupstream = 127.0.0.1:1\n'
    plain = cli('-T', 'groups.ini', config=config).out
    top, group = (re.findall(r'(?m)^(\w+) = (.+)$', part) for part in plain.split('\n[web]\n'))
    assert len(top) > 10 and len(group) > 25
    top.append(('admin', 'off'))
    group = [(key, value) for key, value in group if key not in ('upstream', 'routes', 'workers')]
    given = [word for key, value in top for word in ('-o', '%s=%s' % (key, value))]
    given += [word for key, value in group for word in ('-o', 'web.%s=%s' % (key, value))]
    run = cli(*given, '-T', 'groups.ini', config=config)
    assert run.status == 0, run
    for key, value in top[:-1] + group:
        if key != 'admin':
            assert re.search(r'(?m)^# -o.*\n%s = %s$' % (key, re.escape(value)), run.out), (key, run.out)


def test_rip_server2_a_long_file_of_other_settings_is_reported_to_its_end():
    """As many errors as fit, whole, and how many there are."""
    text = ''.join('setting_of_another_system_%d = 1\n' % n for n in range(100))
    run = cli('-t', 'groups.ini', config=text + '[web]\nroutes = *\nupstream = 127.0.0.1:1\n')
    assert run.status == 2 and 'setting_of_another_system_0`' in run.err
    assert run.err.endswith('\n... and more, which do not fit here\ngroups.ini: 100 errors, nothing started\n')


@pytest.mark.needs('affinity')
def test_rip_server2_workers_auto():
    """w:auto: one for each processor that this process may use."""
    def only_one():
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    text = '[web]\nroutes = *\nworkers = auto\ncmd = %s\n' % counter()
    with Own(text) as p:
        assert 1 <= len(p.pids()) == p.group('web')['workers_wanted'] <= len(os.sched_getaffinity(0))
    with Own(text, preexec=only_one) as p:
        assert len(p.pids()) == p.group('web')['workers_wanted'] == 1


# --- Load distributer ---

ITEMS = '''
import asyncio, hashlib, os
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse

app, items, pid = FastAPI(), {}, os.getpid()
sick, waiting, enough = False, 0, None


@app.get("/health")
async def health():
    return Response(status_code=503 if sick else 200)


@app.post("/sick/{yes}")
async def become(yes: int):
    global sick
    sick = bool(yes)


@app.get("/together/{n}")
async def together(n: int):
    """Answered when n of them are inside this server."""
    global waiting, enough
    enough = enough or asyncio.Event()
    waiting += 1
    if waiting == n:
        enough.set()
    await asyncio.wait_for(enough.wait(), 20)
    return {"pid": pid, "inside": waiting}


@app.post("/items/")
async def create(item_id: int, request: Request):
    items[item_id] = await request.json()
    return {"pid": pid}


@app.get("/items/{item_id}")
async def read(item_id: int):
    if item_id not in items:
        raise HTTPException(404)
    return {"pid": pid, "item": items[item_id]}


@app.put("/items/{item_id}")
async def update(item_id: int, request: Request):
    if item_id not in items:
        raise HTTPException(404)
    items[item_id] = await request.json()
    return {"pid": pid, "item": items[item_id]}


@app.api_route("/{rest:path}", methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def anything(rest: str, request: Request):
    body = await request.body()
    out = JSONResponse({"pid": pid, "method": request.method, "target": str(request.url.path) + "?" + request.url.query,
                        "fields": request.headers.items(), "length": len(body), "sha": hashlib.sha256(body).hexdigest()},
                       status_code=int(request.query_params.get("status", 200)))
    out.headers.append("Set-Cookie", "a=1")
    out.headers.append("Set-Cookie", "b=2")
    return out
'''


class Servers:
    """Four FastAPI servers that somebody else runs: on the ports 8000 to 8003 where these are free, else on others."""

    def __init__(self):
        self.dir, self.processes = make_dir({'items.py': ITEMS}), []
        try:
            if not (self._free() and self._start(range(8000, 8004))):
                assert self._start([free_port() for _ in range(4)]), 'uvicorn does not start'
        except BaseException:
            self.close()
            raise

    def _free(self):
        for port in range(8000, 8004):
            with socket.socket() as s:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    s.bind(('127.0.0.1', port))
                except OSError:
                    return False
        return True

    def _start(self, ports):
        env = dict(os.environ, PYTHONDONTWRITEBYTECODE='1')
        self.ports = list(ports)
        self.processes = [subprocess.Popen(['uvicorn', 'items:app', '--port', str(port), '--log-level', 'warning', '--no-access-log'],
                                           cwd=self.dir, env=env, stdin=subprocess.DEVNULL) for port in self.ports]
        try:
            for process, port in zip(self.processes, self.ports):
                wait_for(lambda: process.poll() is not None or self._is(process, port), 40, 'a server on %d' % port)
            if all(process.poll() is None for process in self.processes):
                return True
        except BaseException:
            self._kill()
            raise
        self._kill()
        return False

    def _is(self, process, port):
        """Ours, and not one that came between."""
        try:
            with Client(('127.0.0.1', port)) as c:
                return json.loads(c.ask('GET', '/hello').body)['pid'] == process.pid
        except OSError:
            return False

    def _kill(self):
        for process in self.processes:
            process.kill()
            process.wait()

    def close(self):
        self._kill()
        os.unlink(self.dir + '/items.py')
        os.rmdir(self.dir)

    def addresses(self):
        return ['127.0.0.1:%d' % port for port in self.ports]

    def pids(self):
        return [process.pid for process in self.processes]

    def direct(self, n, method, target):
        with Client(('127.0.0.1', self.ports[n])) as c:
            return c.ask(method, target, body=b'' if method == 'POST' else None)


@pytest.fixture(scope='module')
def servers():
    need('uvicorn', 'fastapi')
    s = Servers()
    yield s
    s.close()


def distributor(servers, group, top=''):
    p = Proxy('%s[servers]\nroutes = *\nupstream = %s\n%s' % (top, ' '.join(servers.addresses()), group))
    p.wait_status(lambda s: [w['state'] for w in s['groups'][0]['workers']] == ['ready'] * 4)
    return p


def crowd(n, client):
    """n clients at once, each in a thread of its own that connects first; what they return."""
    out, problems = [None] * n, []

    def run(i):
        try:
            out[i] = client(i)
        except BaseException as e:
            problems.append((i, repr(e)))
    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert not problems, problems[:5]
    assert not any(t.is_alive() for t in threads)
    return out


def test_load_distributer_round_robin_over_four_fastapi_servers_100_concurrent_clients(servers):
    """All hundred are inside at once, twenty-five in each server; one after the other they go round."""
    with distributor(servers, 'balance = round\n') as p:
        with p.connect() as c:
            seen = [json.loads(c.ask('GET', '/x').body)['pid'] for _ in range(12)]
        start = servers.pids().index(seen[0])
        assert seen == [servers.pids()[(start + n) % 4] for n in range(12)]

        def client(i):
            with p.connect(60) as c:
                r = c.ask('GET', '/together/25')
            assert r.status == 200, r
            return json.loads(r.body)
        said = crowd(100, client)
        assert collections.Counter(s['pid'] for s in said) == {pid: 25 for pid in servers.pids()}
        assert {s['inside'] for s in said} == {25}


def test_load_distributer_all_methods_headers_and_bodies_preserved_100_concurrent_clients(servers):
    with distributor(servers, 'balance = round\n') as p:
        def client(i):
            with p.connect(60) as c:
                for n, method in enumerate(('GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS')):
                    body = bytes([(i + k) % 256 for k in range(i * 37)]) * 5 if method in ('POST', 'PUT', 'PATCH', 'DELETE') else None
                    target = '/some/%d/path?who=%d&status=%d&u=%%C3%%A9' % (n, i, 200 + n % 2)
                    fields = [('Host', 'shop.example:81'), ('X-One', 'a b\t"c"'), ('X-Two', '1'), ('X-Two', '2'), ('Accept', '*/*'),
                              ('Cookie', 's=%d' % i), ('Authorization', 'Basic eDp5'), ('User-Agent', 'client/%d' % i)]
                    r = c.ask(method, target, fields, body)
                    assert r.status == 200 + n % 2 and r.all('set-cookie') == ['a=1', 'b=2'], r
                    if method == 'HEAD':
                        continue
                    said = json.loads(r.body)
                    assert (said['method'], said['target']) == (method, target)
                    assert (said['length'], said['sha']) == (len(body or b''), hashlib.sha256(body or b'').hexdigest())
                    got = [tuple(f) for f in said['fields']]
                    assert [(k, v) for k, v in got if k in {n.lower() for n, _ in fields}] == [(k.lower(), v) for k, v in fields]
                    assert dict(got)['x-forwarded-for'] == '127.0.0.1'
        crowd(100, client)
        assert metric(p, 'ldcorn_requests_total', **{'class': '2xx'}) == 700


def test_load_distributer_sticky_items_100_concurrent_clients(servers):
    """POST /items/?item_id=1 goes to some server, GET and PUT /items/1 to the same one: no other has the item."""
    with distributor(servers, 'balance = hash\nhash_key = query:item_id path:2\n') as p:
        def client(i):
            with p.connect(60) as c:
                places = set()
                for method, target, want in (('POST', '/items/?item_id=%d', None), ('GET', '/items/%d', 'first'),
                                             ('PUT', '/items/%d', 'second'), ('GET', '/items/%d?x=1', 'second')):
                    item = {'POST': {'v': 'first', 'i': i}, 'PUT': {'v': 'second', 'i': i}}.get(method)
                    r = c.ask(method, target % i, {'Content-Type': 'application/json'}, item and json.dumps(item))
                    assert r.status == 200, (method, r)
                    said = json.loads(r.body)
                    assert want is None or said['item'] == {'v': want, 'i': i}, said
                    places.add(said['pid'])
            assert len(places) == 1, places
            return places.pop()
        assert set(crowd(100, client)) == set(servers.pids()), 'items spread over all'


def test_load_distributer_health_checks_and_metrics(servers):
    group = 'balance = round\nhealth_path = /health\nhealth_interval = 100ms\nhealth_fails = 2\n'
    with distributor(servers, group) as p, p.connect() as c:
        def asked(n):
            return {json.loads(c.ask('GET', '/x').body)['pid'] for _ in range(n)}
        assert asked(8) == set(servers.pids())
        try:
            servers.direct(2, 'POST', '/sick/1')
            p.wait_status(lambda s: s['groups'][0]['workers'][2]['state'] == 'down')
            assert asked(9) == set(servers.pids()) - {servers.pids()[2]} and metric(p, 'ldcorn_workers', state='down') == 1
        finally:
            servers.direct(2, 'POST', '/sick/0')
        p.wait_status(lambda s: s['groups'][0]['workers'][2]['state'] == 'ready')
        assert asked(8) == set(servers.pids())
        assert metric(p, 'ldcorn_requests_total', group='servers', **{'class': '2xx'}) == 25
        assert metric(p, 'ldcorn_worker_served_total', group='servers') >= 25
        assert metric(p, 'ldcorn_request_seconds_count', group='servers') == 25
        assert metric(p, 'ldcorn_workers', state='ready') == 4


def test_load_distributer_rate_limiting(servers):
    with distributor(servers, 'balance = round\nrate = 1/m burst=3 key=header:X-User\n') as p, p.connect() as c:
        seen = [c.ask('GET', '/x', {'X-User': 'one'}) for _ in range(6)]
        assert [r.status for r in seen] == [200] * 3 + [429] * 3 and 1 <= int(seen[-1].get('retry-after')) <= 60
        assert c.ask('GET', '/x', {'X-User': 'two'}).status == 200
        assert metric(p, 'ldcorn_refused_total', reason='rate') == 3


def test_load_distributer_discovery(servers):
    """Servers say themselves that they are there, and that they go."""
    with Proxy('[servers]\nroutes = *\nupstream = dynamic\nbalance = round\n') as p:
        for n, address in enumerate(servers.addresses()):
            assert p.admin('POST', '/groups/servers/workers?address=' + address)[0] == 200
            p.wait_status(lambda s: [w['state'] for w in s['groups'][0]['workers']] == ['ready'] * (n + 1))
        with p.connect() as c:
            assert {json.loads(c.ask('GET', '/x').body)['pid'] for _ in range(8)} == set(servers.pids())
            for address in servers.addresses()[:2]:
                assert p.admin('DELETE', '/groups/servers/workers?address=' + address)[0] == 200
            p.wait_status(lambda s: len(s['groups'][0]['workers']) == 2)
            assert {json.loads(c.ask('GET', '/x').body)['pid'] for _ in range(8)} == set(servers.pids()[2:])
