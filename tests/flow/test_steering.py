"""Reload, restart, recycling, join and quit, watching and dialling in, one while another is under way."""
import os, re, resource, signal, socket, subprocess, sys, time

import pytest
from harness import AutoWorker, Client, Proxy, WorkerConn, cli, free_port, head, wait_for
from test_dial import Hub, OK

# Ready after as many seconds as the file `slow` says; /s/N answers after N seconds, /s/gate when the file `go` is there.
WORKER = r'''
import os, socket, sys, threading, time
if os.path.exists('slow'):
    time.sleep(float(open('slow').read()))
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen(64)
def serve(c):
    f = c.makefile('rb')
    while True:
        first = line = f.readline()
        while line not in (b'\r\n', b''):
            line = f.readline()
        if not line:
            return
        target = first.split()[1].decode()
        while target == '/s/gate' and not os.path.exists('go'):
            time.sleep(0.005)
        if target.startswith('/s/') and target != '/s/gate':
            time.sleep(float(target[3:]))
        c.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok')
while True:
    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
'''
TOP = 'listen = {listen}\nadmin = {admin}\n'
CMD = 'cmd = %s worker.py {socket}\nstop_timeout = 1s\n' % sys.executable
FILES = {'worker.py': WORKER, 'slow': '0', 'src/a': '1'}


def slow(p, seconds):
    with open(p.dir + '/slow.new', 'w') as f:
        f.write(str(seconds))
    os.rename(p.dir + '/slow.new', p.dir + '/slow')       # nobody reads an empty one


def go(p):
    open(p.dir + '/go', 'w').close()


def children(p):
    out = subprocess.run(['ps', '--ppid', str(p.pid), '-o', 'pid=,stat=,args='], stdout=subprocess.PIPE).stdout
    return [line.split(None, 2) for line in out.decode().splitlines()]


@pytest.mark.parametrize('how', ['restart', 'recycle'])
def test_a_rolling_reload_while_a_worker_is_replaced(how):
    """The newcomer of a recycling or of `restart` is still starting when a faster one of the reload is ready."""
    group = '[g]\nroutes = *\nreload = rolling\n' + CMD + ('recycle_requests = 2\n' if how == 'recycle' else '')
    with Proxy(TOP + group, files=FILES) as p:
        slow(p, 1)
        if how == 'restart':
            assert p.admin('POST', '/groups/g/workers/0/restart')[0] == 200
        else:
            with p.connect() as c:
                for _ in range(4):
                    assert c.ask('GET', '/').status == 200
            p.wait_log('recycled')
        wait_for(lambda: len([k for k in children(p) if 'worker.py' in k[2]]) == 2)
        time.sleep(0.3)                               # it has read `slow`
        slow(p, 0)
        p.signal(signal.SIGHUP)
        p.wait_status(lambda s: s['generation'] == 2 and not s['reloading'], 6)
        p.wait_status(lambda s: len(s['groups'][0]['workers']) == 1, 6)


@pytest.mark.parametrize('how', ['/reload?processes=keep', '/groups/b/restart'])
def test_only_old_generations_of_the_group_itself_end_the_oldest(how):
    with Proxy(TOP + '[a]\nroutes = /s\n' + CMD + '[b]\nroutes = /b\n' + CMD, files=FILES) as p, p.connect() as c, p.connect() as d:
        c.send(head('POST', '/s/gate', body=b''))
        d.send(head('POST', '/s/gate', body=b''))
        p.wait_status(lambda s: s['groups'][0]['in_flight'] == 2)
        assert p.admin('POST', '/reload')[0] == 200
        for path in (how, how, how, '/reload?processes=keep'):
            assert p.admin('POST', path)[0] == 200
        assert [w['generation'] for w in p.group('a')['workers'] if w['state'] == 'draining'] == [1]
        go(p)
        assert d.read_response().status == 200 and c.read_response().status == 200


def test_a_third_old_generation_ends_the_oldest():
    with Proxy(TOP + '[a]\nroutes = *\n' + CMD, files=FILES) as p:
        clients = []
        for i in range(4):
            clients.append(p.connect().send(head('POST', '/s/4', body=b'')))
            p.wait_status(lambda s: s['groups'][0]['in_flight'] == i + 1 or i == 3)
            assert p.admin('POST', '/reload')[0] == 200
        p.wait_status(lambda s: len({w['generation'] for w in s['groups'][0]['workers'] if w['state'] == 'draining'}) == 2, 2)
        for c in clients:
            c.close()


def test_a_removed_group_goes_after_its_queue():
    with AutoWorker() as o:
        rest = TOP + '[o]\nroutes = /o\nupstream = %s\nhealth_interval = none\n' % o.address
        with Proxy(rest + '[g]\nroutes = *\nmax_req_per_worker = 1\nhealth_interval = none\n' + CMD, files=FILES) as p:
            with p.connect() as c, p.connect() as d:
                c.send(head('GET', '/s/gate'))
                d.send(head('GET', '/s/gate'))
                p.wait_status(lambda s: s['groups'][1]['queue']['len'] == 1)
                p.write_config(rest)
                assert p.admin('POST', '/reload')[0] == 200
                go(p)
                assert c.read_response().status == 200 and d.read_response().status == 200
            wait_for(lambda: len(p.status()['groups']) == 1 and not children(p), 5)


def test_a_removed_group_of_dialled_workers_goes_after_its_queue():
    with Hub() as p, p.dial() as w:
        p.slots(1)
        c, d = p.send('/1'), None
        w.read_request()
        d = p.send('/2')
        p.queued(1)
        p.write_config(TOP + '[o]\nroutes = /o\nupstream = dynamic\n')
        assert p.admin('POST', '/reload')[0] == 200
        for client in (c, d):
            w.send(OK)
            assert client.read_response().status == 200
            if client is c:
                w.read_request()
        assert w.eof(3)


def ready(p):
    return sorted(w['address'] for w in p.group('pool')['workers'] if w['state'] == 'ready')


def test_who_quit_joined_and_quit_again_stays_away():
    with AutoWorker() as a, AutoWorker() as b, Proxy(TOP + '[pool]\nroutes = *\nupstream = %s %s\n' % (a.address, b.address)) as p:
        for method in ('DELETE', 'POST', 'DELETE'):
            assert p.admin(method, '/groups/pool/workers?address=' + a.address)[0] == 200
        wait_for(lambda: ready(p) == [b.address])
        assert p.admin('POST', '/reload')[0] == 200
        time.sleep(0.2)
        wait_for(lambda: ready(p) == [b.address])


def test_an_edit_forgets_who_quit_whatever_was_edited():
    with AutoWorker() as a, AutoWorker() as b:
        text = TOP + '[pool]\nroutes = *\nupstream = %s %s\n' % (a.address, b.address)
        both = sorted([a.address, b.address])
        with Proxy(text) as p:
            assert p.admin('DELETE', '/groups/pool/workers?address=' + a.address)[0] == 200
            for edit in (TOP + '[pool]\nroutes = *\ndial_in = unix:{dir}/d\n', text, text):
                p.write_config(edit)
                assert p.admin('POST', '/reload')[0] == 200
            wait_for(lambda: ready(p) == both)


# --- watch ---

WATCH = TOP + '[g]\nroutes = *\nwatch = src\n' + CMD


def test_no_reload_leaves_a_dead_child():
    with Proxy(WATCH, files=FILES) as p:
        for _ in range(5):
            assert p.admin('POST', '/reload')[0] == 200
        wait_for(lambda: len([k for k in children(p) if 'worker.py' in k[2] and k[1][0] != 'Z']) == 1)
        wait_for(lambda: not [k for k in children(p) if k[1][0] == 'Z'], 3)


def test_links_that_lead_in_circles_do_not_end_the_watching():
    with Proxy(WATCH, files=FILES) as p:
        for name in ('one', 'two'):
            os.symlink('.', p.dir + '/src/' + name)
        assert p.admin('POST', '/reload')[0] == 200
        time.sleep(1)
        with open(p.dir + '/src/a', 'w') as f:
            f.write('changed')
        p.wait_log('restart of g done')


def test_a_change_just_before_the_switch_is_not_lost():
    """The new workers had read the old file; the reload ends before two looks at the new one agreed."""
    with Proxy(WATCH, files=FILES) as p:
        time.sleep(0.7)
        slow(p, 1)
        p.signal(signal.SIGHUP)
        time.sleep(0.7)
        slow(p, 0)
        with open(p.dir + '/src/a', 'w') as f:
            f.write('changed')
        p.wait_log('reload done')
        p.wait_log('restart of g done')


# --- descriptors ---

def cpu(p):
    with open('/proc/%d/stat' % p.pid) as f:
        fields = f.read().rsplit(') ', 1)[1].split()
    return int(fields[11]) + int(fields[12])


def files(n):
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (n, n))


def test_no_descriptor_for_whoever_dials_while_accept_pauses():
    with Hub(top='max_conns = 100\n', preexec=files(160)) as p:
        clients = [p.connect().send('GET / HT') for _ in range(110)]
        p.wait_status(lambda s: s['clients']['open'] >= 100)
        workers = [p.dial() for _ in range(100)]
        time.sleep(0.2)
        before = cpu(p)
        time.sleep(1)
        assert (cpu(p) - before) / os.sysconf('SC_CLK_TCK') < 0.2
        for one in clients + workers:
            one.close()


def test_whoever_dials_leaves_descriptors_to_clients():
    with Hub(preexec=files(300)) as p:
        workers = [p.dial() for _ in range(400)]
        time.sleep(0.3)
        with Client(p.admin_address, 3) as c:
            assert c.ask('GET', '/healthz', {'Host': 'localhost'}).status == 200
        for w in workers:
            w.close()


def test_the_default_of_dial_in_leaves_clients():
    with Hub(preexec=files(1024)) as p:
        assert p.status()['clients']['limit'] > 100


def test_idle_connections_do_not_shut_admin():
    port = free_port()
    with Proxy(TOP.replace('{admin}', '127.0.0.1:%d' % port) + '[g]\nroutes = *\nupstream = dynamic\n') as p:
        held = []
        for _ in range(128):
            c = Client(('127.0.0.1', port))
            assert c.ask('GET', '/server', {'Host': 'localhost'}).status == 200
            held.append(c)
        with Client(('127.0.0.1', port), 3) as c:
            assert c.ask('GET', '/healthz', {'Host': 'localhost'}).status == 200
        for c in held:
            c.close()


# --- join and quit ---

def join(p, address, method='POST'):
    return p.admin(method, '/groups/pool/workers?address=' + address)[::2]


@pytest.mark.parametrize('address', ['unix:/tmp/a%0ainfo%20forged', 'unix:/tmp/%1b[31m', '127.0.0.1:0', '[::1]:0', 'unix:/tmp/%C3%A4%20b'])
def test_addresses_that_do_not_join(address):
    with Proxy('listen = {listen}\nadmin = {admin}\n[pool]\nroutes = *\nupstream = dynamic\n') as p:
        code, body = join(p, address)
        assert code == 400 and b'not an address' in body
        assert 'forged' not in p.log() and p.group('pool')['workers'] == []


def test_workers_of_one_group_have_indexes_of_their_own():
    """A list that grows at a reload takes the first indexes; who had joined there gets another one."""
    text = 'listen = {listen}\nadmin = {admin}\n[pool]\nroutes = *\nupstream = dynamic %s\n'
    with AutoWorker() as a, AutoWorker() as b, AutoWorker() as c, Proxy(text % a.address) as p:
        assert join(p, b.address)[0] == 200
        p.write_config(p.config_text.replace('dynamic ' + a.address, 'dynamic %s %s' % (a.address, c.address)))
        assert p.admin('POST', '/reload')[0] == 200
        workers = p.group('pool')['workers']
        assert len({w['index'] for w in workers}) == len(workers), workers
        assert p.group('pool')['workers_wanted'] == len(workers)


# --- what a process is asked by others ---

@pytest.mark.parametrize('sig', [signal.SIGUSR2, signal.SIGTTIN])
def test_signals_that_mean_something_elsewhere(sig):
    with Proxy(TOP + '[g]\nroutes = *\n' + CMD, files=FILES) as p:
        p.signal(sig)
        p.wait_log('USR2 and TTIN do nothing here: HUP reloads')
        with p.connect() as c:
            assert c.ask('GET', '/').status == 200


@pytest.mark.parametrize('usec', ['1', '2', '1999'])
def test_a_watchdog_of_microseconds_does_not_burn(usec, tmp_path):
    with Proxy(TOP + '[g]\nroutes = *\n' + CMD, files=FILES, env={'WATCHDOG_USEC': usec}) as p:
        before = os.times().elapsed, p.status()['cpu']
        wait_for(lambda: os.times().elapsed - before[0] > 1)
        assert p.status()['cpu'] - before[1] < 0.6 * (os.times().elapsed - before[0])


@pytest.mark.parametrize('key', ['log', 'access_log'])
def test_a_log_that_cannot_be_opened(key):
    run = cli('groups.ini', config='listen = 127.0.0.1:%d\nruntime_dir = {dir}/run\n%s = {dir}/nowhere/log\n'
              '[g]\nroutes = *\nupstream = 127.0.0.1:1\n' % (free_port(), key))
    assert run.status == 1 and re.search(r'cannot open %s \S*/nowhere/log.*groups\.ini:3' % key, run.err), run.err


@pytest.mark.parametrize('line, text', [
    ('max_tunnels_per_worker = 1', '`max_tunnels_per_worker` does not go with `dial_in`'),
    ('recycle_requests = 5', 'warning: recycling restarts processes of our own'),
    ('recycle_after = 5m', 'warning: recycling restarts processes of our own')])
def test_keys_that_need_processes(line, text):
    run = cli('-t', 'groups.ini', config='[hub]\nroutes = *\ndial_in = unix:{dir}/hub\n%s\n' % line)
    assert text in run.err + run.out and 'groups.ini:4:' in run.err + run.out, run


# --- a group that was removed and comes back before it is gone ---

def without(p, part, text):
    """The configuration without `part`, read; then with `text` in its place, and the reload is asked for."""
    whole = p.config_text
    p.write_config(whole.replace(part, ''))
    assert p.admin('POST', '/reload?processes=keep')[0] == 200
    p.write_config(whole.replace(part, text))
    p.signal(signal.SIGHUP)
    p.wait_status(lambda s: s['reloading'] or s['generation'] == 3 or s['last_reload']['result'] != 'ok')


BACK = '[f]\nroutes = /s\n' + CMD


def test_a_group_comes_back_while_its_old_self_ends():
    """Its old worker's request ends, and with it the old group would, while the reload waits for another one."""
    with Proxy(TOP + '[g]\nroutes = *\n' + CMD + BACK, files=FILES) as p, p.connect() as c, p.connect() as d:
        old = p.group('f')['workers'][0]['pid']
        c.send(head('GET', '/s/1'))
        p.wait_status(lambda s: [g['in_flight'] for g in s['groups'] if g['name'] == 'f'] == [1])
        slow(p, 2.5)
        without(p, BACK, BACK)
        assert c.read_response().status == 200
        wait_for(lambda: not os.path.exists('/proc/%d' % old))
        assert p.status()['reloading'], 'the old one ended before the reload did'
        p.wait_status(lambda s: s['last_reload']['result'] == 'ok' and s['generation'] == 3 and not s['reloading'])
        assert d.ask('GET', '/s/0').status == 200
        assert [w['state'] for w in p.group('f')['workers']] == ['ready'] and p.group('f')['workers'][0]['pid'] != old


def test_a_group_that_comes_back_broken_fails_the_reload():
    with Proxy(TOP + '[g]\nroutes = *\n' + CMD + BACK, files=FILES) as p, p.connect() as c, p.connect() as d:
        c.send(head('GET', '/s/1'))
        p.wait_status(lambda s: [g['in_flight'] for g in s['groups'] if g['name'] == 'f'] == [1])
        without(p, BACK, BACK.replace('worker.py', 'nothing.py'))
        p.wait_status(lambda s: s['last_reload']['result'] == 'failed')
        assert 'nothing.py' in p.status()['last_reload']['error'] and p.status()['generation'] == 2
        assert c.read_response().status == 200
        p.wait_status(lambda s: [g['name'] for g in s['groups']] == ['g'])
        assert d.ask('GET', '/s/0').status == 200, 'by the group that was there'


@pytest.mark.parametrize('inside', [False, True])
def test_a_dialled_group_comes_back_while_its_old_self_ends(inside):
    where = 'unix:{dir}/hub'
    back = '[f]\nroutes = /f\ndial_in = %s\n' % where
    with Proxy(TOP + '[g]\nroutes = *\n' + CMD + back, files=FILES) as p, p.connect() as c, p.connect() as d:
        def dial():
            s = socket.socket(socket.AF_UNIX)
            s.connect(p.dir + '/hub')
            s.settimeout(10)
            return WorkerConn(s)
        old = dial()
        if inside:
            c.send(head('GET', '/f/old'))
            assert old.read_request().target == '/f/old'
        slow(p, 1)
        without(p, back, back)
        p.wait_status(lambda s: s['last_reload']['result'] == 'ok' and s['generation'] == 3 and not s['reloading'])
        with dial() as fresh:
            if inside:
                old.send(OK)
                assert c.read_response().status == 200
                wait_for(lambda: len(p.group('f')['workers']) == 1)
            d.send(head('GET', '/f/new'))
            assert fresh.read_request().target == '/f/new'
            fresh.send(OK)
            assert d.read_response().status == 200
        old.close()
