"""Processes of our own: what they are started with, when they count as ready, how they end, what they say."""
import json, os, re, resource, signal, stat, subprocess, sys, threading, time

import pytest
import machine
from harness import Client, cli, head, wait_for
from procs import Own, alive, counter, metric, wait_gone
from test_config import WHEN

WEB = '[web]\nroutes = *\n'


def web(transport='{socket}', *options, group=''):
    return WEB + 'cmd = %s\n%s' % (counter(transport, *options), group)


# --- what a worker is started with ---

@pytest.fixture(scope='module')
def started():
    """One worker of each transport; what it was given is asked for by several tests."""
    groups = ''.join('[%s]\nroutes = /%s\ncmd = %s\n' % (name, name, counter(
        prefix + '{%s}' % name, '--tag={app}+{group}+{index}+{generation}+{{x}}')) +
        'app = main:app\n' for name, prefix in (('socket', ''), ('port', ''), ('fd', 'fd:')))
    env = {'PYTHONUNBUFFERED': None, 'NOTIFY_SOCKET': '/nowhere', 'WATCHDOG_USEC': '1000000', 'WATCHDOG_PID': '1',
           'LISTEN_FDNAMES': 'a:b', 'KEPT': 'as it was'}
    with Own(groups, env=env) as p:
        yield p


@pytest.mark.parametrize('name', ['socket', 'port', 'fd'])
def test_transport(started, name):
    said = started.info('/' + name)
    env, where = said['env'], said['argv'][-1]
    assert said['pid'] == started.pids(name)[0]
    if name == 'socket':
        assert env['LDCORN_SOCKET'] == where and stat.S_ISSOCK(os.stat(where).st_mode)
        assert len(where) < 100 and where.startswith(started.dir + '/run/')
    elif name == 'port':
        assert env['LDCORN_PORT'] == where
        with Client('127.0.0.1:' + where) as c:
            assert c.ask('GET', '/').status == 200
    else:
        assert where == 'fd:3' and env['LDCORN_FD'] == '3'
        assert env['LISTEN_FDS'] == '1' and env['LISTEN_PID'] == str(said['pid'])
    assert {'LDCORN_SOCKET', 'LDCORN_PORT', 'LDCORN_FD'} & set(env) == {'LDCORN_' + name.upper()}


@pytest.mark.parametrize('name', ['socket', 'port', 'fd'])
def test_placeholders_and_environment(started, name):
    said = started.info('/' + name)
    env, generation = said['env'], started.status()['generation']
    assert said['argv'][0] == '--tag=main:app+%s+0+%d+{x}' % (name, generation)
    assert (env['LDCORN_GROUP'], env['LDCORN_INDEX'], env['LDCORN_GENERATION']) == (name, '0', str(generation))
    assert env['PYTHONUNBUFFERED'] and env['KEPT'] == 'as it was' and env['COUNTER_LOG']
    if name == 'socket':
        assert env['FORWARDED_ALLOW_IPS'] == '*'
    ours = {'NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID', 'LISTEN_FDNAMES'}
    assert not ours & set(env) and (name == 'fd' or not {'LISTEN_FDS', 'LISTEN_PID'} & set(env))


@pytest.mark.parametrize('name', ['socket', 'port', 'fd'])
def test_no_descriptor_but_its_own(started, name):
    """Also in a worker that is started while clients and other workers are connected."""
    for n in range(2):
        said = started.info('/' + name)
        assert said['started']['fds'] == [0, 1, 2] + [3] * (name == 'fd')
        assert said['started']['sid'] == said['started']['pgid'] == said['pid'], 'a session of its own'
        if n == 0:
            clients = [started.connect().send(head('GET', '/' + other)) for other in ('socket', 'port', 'fd')]
            for c in clients:
                assert c.read_response().status == 200
            os.kill(said['pid'], signal.SIGKILL)
            started.wait_status(lambda s: said['pid'] not in started.pids(name) and started.pids(name))
    with started.connect() as c:
        assert c.ask('GET', '/' + name).status == 200


def test_a_socket_path_is_new_for_each_start():
    with Own(web()) as p:
        first = p.info()
        os.kill(first['pid'], signal.SIGKILL)
        p.wait_status(lambda s: first['pid'] not in p.pids() and p.pids())
        second = p.info()['env']['LDCORN_SOCKET']
        assert second != first['env']['LDCORN_SOCKET']
        wait_for(lambda: not os.path.exists(first['env']['LDCORN_SOCKET']), what='the old path to be removed')


def test_signals_mask_and_limits_of_a_worker():
    """Default handlers, an empty mask, the descriptor limit that ldcorn itself was started with."""
    def preexec():
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2, signal.SIGWINCH])
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    script = 'cat /proc/self/status > {dir}/st; ulimit -n > {dir}/nofile; exec %s' % counter('"$0"')
    with Own(WEB + "cmd = /bin/sh -c '%s' {socket}\n" % script, preexec=preexec) as p:
        with open(p.dir + '/st') as f:
            st = dict(line.split(':\t', 1) for line in f.read().splitlines() if ':\t' in line)
        ours = ~(3 << 31)                       # 32 and 33 belong to the C library: nobody can set them
        assert [int(st[k], 16) & ours for k in ('SigBlk', 'SigIgn', 'SigCgt')] == [0, 0, 0]
        with open(p.dir + '/nofile') as f:
            assert f.read() == '300\n'


def test_dir_env_and_the_search_for_the_program(tmp_path):
    """The program is looked for in the worker's PATH, from `dir`; words are split like a shell does, without one."""
    (tmp_path / 'bin').mkdir()
    script = tmp_path / 'bin' / 'server'
    script.write_text('#!/bin/sh\nexec %s "$@"\n' % counter(''))
    script.chmod(0o755)
    config = ('dir = %s\nenv = A=default B=default\n'
              '[path]\nroutes = /path\nenv = PATH=%s/bin:/usr/bin:/bin B=own C=c D=${FROM:-no}\n'
              "cmd = server --tag 'one word' \"a \\\" b\" a\\ b $HOME;x '' {socket}\n"
              '[relative]\nroutes = *\ncmd = bin/server {socket}\n' % (tmp_path, tmp_path))
    with Own(config, env={'FROM': 'outside'}) as p:
        said = p.info('/path')
        assert said['argv'][:-1] == ['--tag', 'one word', 'a " b', 'a b', '$HOME;x', '']
        assert said['cwd'] == p.info('/x')['cwd'] == str(tmp_path)
        assert [said['env'][k] for k in 'ABCD'] == ['default', 'own', 'c', 'outside']
        assert p.info('/x')['env']['B'] == 'default' and 'C' not in p.info('/x')['env']


def test_env_wins_over_what_is_set_for_python():
    with Own(web(group='env = FORWARDED_ALLOW_IPS=10.0.0.1 PYTHONUNBUFFERED=\n')) as p:
        env = p.info()['env']
        assert env['FORWARDED_ALLOW_IPS'] == '10.0.0.1' and env['PYTHONUNBUFFERED'] == ''




def test_index_of_each_worker():
    with Own(web('{socket}', '--tag={index}', group='workers = 3\n')) as p:
        assert {p.get('/tag') for _ in range(9)} == {'0', '1', '2'}
        assert [w['index'] for w in p.group('web')['workers']] == [0, 1, 2]


# --- ready ---

@pytest.mark.parametrize('transport', ['{socket}', '{port}', 'fd:{fd}'])
@pytest.mark.parametrize('hold', ['bind', 'listen'])
def test_ready_is_never_assumed(transport, hold):
    """A socket that is there, or bound, is not a worker that answers: requests wait, and none is lost."""
    with Own(web(transport, '--hold-%s={dir}/go' % hold), wait=False).up() as p:
        clients = [p.connect().send(head('GET', '/%d' % n)) for n in range(5)]
        p.wait_status(lambda s: s['groups'][0]['queue']['len'] == 5)
        wait_for(p.starts)
        assert p.worker('web')['state'] == 'starting' and p.admin('GET', '/readyz')[0] == 503
        assert clients[0].silent(0.15)
        p.touch('go')
        assert [c.read_response().status for c in clients] == [200] * 5
        assert p.worker('web')['state'] == 'ready' and p.admin('GET', '/readyz')[0] == 200


@pytest.mark.parametrize('host', ['', ' host=example.test'])
def test_health_path(host):
    config = web('{socket}', '--hold-health={dir}/go', group='health_path = /health%s\n' % host)
    with Own(config, wait=False).up() as p, p.connect() as c:
        c.send(head('GET', '/1'))
        wait_for(lambda: any(words[0] == 'HEALTH' for _, *words in p.counted()))
        assert p.worker('web')['state'] == 'starting' and c.silent(0.1)
        p.touch('go')
        assert c.read_response().status == 200
        hosts = {words[1] for _, *words in p.counted() if words[0] == 'HEALTH'}
        assert hosts == {'example.test' if host else 'localhost'}


def test_health_path_that_redirects_is_well_and_one_that_is_missing_is_not(tmp_path):
    """2xx and 3xx count."""
    script = tmp_path / 'w.py'
    script.write_text('''import socket, sys
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(9)
while True:
    c = s.accept()[0]; c.recv(9999)
    c.sendall(b"HTTP/1.1 %s x\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n" % sys.argv[2].encode()); c.close()
''')
    config = 'health_path = /h\n' + ''.join(
        '[g%s]\nroutes = /%s\ncmd = %s -S %s {socket} %s\n' % (s, s, sys.executable, script, s) for s in ('301', '404'))
    with Own(config + 'start_timeout = 400ms\n', wait=False).up() as p:
        p.wait_status(lambda s: [w['state'] for g in s['groups'] for w in g['workers']] == ['ready', 'backoff'])


def test_start_timeout():
    with Own(web('{socket}', '--hold-listen={dir}/go', group='start_timeout = 1s\n'), wait=False).up() as p:
        first = wait_for(p.starts)[0]
        wait_gone(first)
        wait_for(lambda: len(p.starts()) >= 2, what='another try')
        p.wait_log(r'web\.0.*%d' % first)
        with p.connect().send(head('GET', '/')) as c:
            p.touch('go')
            assert c.read_response().status == 200


# --- ends ---

def test_kill_9_under_load():
    """Only what was inside fails, with 502; other groups see nothing; the worker is back after its back-off."""
    groups = ('backoff_max = 200ms\n[hurt]\nroutes = /hurt\ncmd = %s\nmax_req_per_worker = 2\n[fine]\nroutes = *\ncmd = %s\n'
              % (counter(), counter()))
    with Own(groups) as p:
        seen, stop, killed = {'/hurt': [], '/fine': []}, threading.Event(), []

        def client(path):
            with p.connect() as c:
                while not stop.is_set():
                    try:
                        seen[path].append(c.ask('POST', path + '?ms=5', {'X-Ask': 'sleep'}, b'x').status)
                    except Exception as e:
                        return seen[path].append(repr(e))
        threads = [threading.Thread(target=client, args=(path,)) for path in ('/hurt', '/fine') for _ in range(5)]
        for t in threads:
            t.start()
        try:
            for _ in range(3):
                old, = p.pids('hurt')
                n = len(seen['/hurt'])
                wait_for(lambda: len(seen['/hurt']) > n + 5)
                start = time.monotonic()
                os.kill(old, signal.SIGKILL)
                killed.append(old)
                p.wait_status(lambda s: p.pids('hurt') not in ([], [old]))
                assert time.monotonic() - start < 6, 'not after a long back-off'
                assert p.get('/hurt')
        finally:
            stop.set()
            for t in threads:
                t.join()
        assert set(seen['/fine']) == {200} and set(seen['/hurt']) <= {200, 502}
        failed = wait_for(lambda: [r for r in p.access() if r['status'] == '502'])
        assert len(failed) == seen['/hurt'].count(502) <= 3 * 5, 'a kill costs a client one request at most'
        assert all(int(re.search(r'\bpid=(\d+)', r['line']).group(1)) in killed for r in failed)
        assert metric(p, 'ldcorn_worker_exits_total', group='hurt', reason='crash') == 3
        assert metric(p, 'ldcorn_worker_exits_total', group='fine') == 0


def test_answer_of_a_worker_that_answers_and_ends():
    with Own(web(group='backoff_max = 100ms\n')) as p, p.connect() as c:
        for size in (1, 100_000, 1, 100_000):
            pids = p.pids()
            r = c.ask('GET', '/last?size=%d' % size)
            assert r.status == 200 and r.complete and len(r.body) == size
            p.wait_status(lambda s: p.pids() not in ([], pids))


@pytest.mark.parametrize('target,words', [('/exit?code=3', ('exit', '3')), ('/kill?signal=9', ('signal', '9')),
                                          ('/crash', ('signal', '6')), ('/exit?code=0', ('exit', '0'))])
def test_what_an_end_leaves_behind(target, words):
    """How it ended, after how long, and its last lines: in the log and in the status."""
    with Own(web()) as p:
        p.get('/print?text=famous+last+words')
        pid, = p.pids()
        with p.connect() as c:
            assert c.ask('POST', target, body=b'').status == 502
        said = json.dumps(p.wait_status(lambda s: s['groups'][0]['workers'][0]['last_exit'])['groups'][0]['workers'][0])
        for text in words + ('famous last words',):
            assert text in said
        line = p.wait_log(r'.*web\.0 \(pid %d\).*%s.*%s.*' % ((pid,) + words)).group(0)
        assert re.search(r'\d+(\.\d+)?\s?(ms|s)\b', line), 'its uptime is in ' + line
        p.wait_log(r'^    \|.* famous last words$')
        p.wait_status(lambda s: p.pids())


def test_back_off_doubles_up_to_its_end():
    config = web('{socket}', '--fail-if={dir}/bad', group='backoff_max = 700ms\n')
    with Own(config, files={'bad': ''}, wait=False).up() as p:
        began = []                                   # when each one was started; the log tells the first alone
        wait_for(lambda: began.extend([time.monotonic()] * (len(p.starts()) - len(began))) or len(began) >= 7, 20)
        pauses = [b - a for a, b in zip(began, began[1:])]
        for pause, ideal in zip(pauses, (0.1, 0.2, 0.4, 0.7, 0.7, 0.7)):
            assert pause > ideal * 0.8 - 0.05, pauses                  # the start of an interpreter comes on top
        said = float(re.search(r'next try in (\d+\.\d+)s', p.log()).group(1))
        assert 0.1 * 0.8 - 0.051 <= said <= 0.1 * 1.2 + 0.051
        assert sum(pauses) < 8, 'it does not double for ever'
        os.unlink(p.dir + '/bad')
        p.wait_status(lambda s: p.pids())
        assert p.get('/')


def test_max_restarts():
    """After so many starts that failed the group is given up: 503 at once, until a reload."""
    config = web('{socket}', '--fail-if={dir}/bad', group='max_restarts = 2\nbackoff_max = 100ms\n')
    with Own(config, files={'bad': ''}, wait=False).up() as p:
        waiting = p.connect().send(head('GET', '/waits'))
        p.wait_status(lambda s: s['groups'][0]['workers'][0]['state'] == 'failed')
        assert waiting.read_response().status == 503, 'nobody waits for what does not come'
        assert len(p.starts()) in (2, 3)
        with p.connect() as c:
            start = time.monotonic()
            assert c.ask('GET', '/now').status == 503 and time.monotonic() - start < 2
        assert 'no_worker' in p.wait_access(lambda r: '/now' in r['request'])['line']
        os.unlink(p.dir + '/bad')
        assert p.admin('POST', '/reload')[0] == 200
        assert p.get('/') and p.worker('web')['state'] == 'ready'


def test_503_now_when_the_back_off_ends_after_queue_timeout():
    config = web('{socket}', '--fail-if={dir}/bad', group='queue_timeout = 60ms\n')
    with Own(config, files={'bad': ''}, wait=False).up() as p:
        wait_for(lambda: len(p.starts()) >= 4)
        with p.connect() as c:
            r = c.ask('GET', '/now')
            assert r.status == 503 and 1 <= int(r.get('retry-after')) <= 60


def test_a_program_that_cannot_run_is_reported(tmp_path):
    """The group fails, with its reason, and the others serve."""
    (tmp_path / 'plain').write_text('no program')
    groups = ('[missing]\nroutes = /a\ncmd = /nowhere/prog {socket}\n'
              '[denied]\nroutes = /b\ncmd = %s/plain {socket}\n'
              '[homeless]\nroutes = /c\ncmd = %s\ndir = /nowhere/dir\n'
              '[unfound]\nroutes = /d\ncmd = no-such-program-here {socket}\n'
              '[fine]\nroutes = *\ncmd = %s\n' % (tmp_path, counter(), counter()))
    with Own(groups, wait=False).up() as p:
        assert p.get('/')
        for name, what, why in (('missing', '/nowhere/prog', 'No such file'), ('denied', 'plain', 'Permission denied'),
                                ('homeless', '/nowhere/dir', 'No such file'), ('unfound', 'no-such-program-here', '')):
            text = p.wait_log(r'error %s\.0.*(\n    .*)*' % name).group(0)
            assert what in text and why.lower() in text.lower() and 'groups.ini:' in text, text
        assert p.group('missing')['workers'][0]['state'] in ('backoff', 'starting')


def test_a_missing_program_is_an_error_of_the_test_run():
    run = cli('-t', 'groups.ini', config=WEB + 'cmd = /nowhere/prog {socket}\n')
    assert run.status == 2 and '/nowhere/prog' in run.out + run.err


@pytest.mark.parametrize('how', ['killed', 'reloaded', 'stopped'])
def test_a_process_group_goes_with_its_leader(how):
    with Own(web('{socket}', '--grandchild')) as p:
        said = p.info()
        assert alive(said['grandchild'])
        try:
            if how == 'killed':
                os.kill(said['pid'], signal.SIGKILL)
            elif how == 'reloaded':
                p.signal(signal.SIGHUP)
            else:
                p.stop()
            wait_gone(said['pid'], said['grandchild'])
        finally:
            if alive(said['grandchild']):
                os.kill(said['grandchild'], signal.SIGKILL)


def test_workers_end_with_the_parent():
    with Own(web(group='workers = 2\n'), expect_status=-signal.SIGKILL) as p:
        pids = p.pids()
        p.signal(signal.SIGKILL)
        p.wait_exit()
        wait_gone(*pids)


def test_nobody_is_left_after_a_stop():
    with Own(web(group='workers = 3\n')) as p:
        pids = p.pids()
        p.stop()
        assert len(pids) == 3 and not any(alive(pid) for pid in pids)


# --- the stop signal ---

@pytest.mark.parametrize('name', ['TERM', 'INT', 'QUIT', 'USR2'])
@pytest.mark.parametrize('option', ['--exit0', '--dies'])
def test_stop_signal(name, option):
    """Ending by the signal that we sent is as clean as exit 0."""
    with Own(web('{socket}', option, group='stop_signal = %s\n' % name)) as p:
        old, = p.pids()
        assert p.admin('POST', '/reload')[0] == 200
        wait_gone(old)
        assert p.signals(old) == [('SIG' + name, 0)] and p.pids() not in ([], [old])
        wait_for(lambda: metric(p, 'ldcorn_worker_exits_total', reason='reload') == 1)
        assert metric(p, 'ldcorn_worker_exits_total', reason='crash') == 0
        assert not re.search(r'(?m)^%s (error|warn)' % WHEN, p.log()), 'nothing to complain about'


def test_kill_after_stop_timeout():
    with Own(web('{socket}', '--stubborn', '--grandchild', group='stop_timeout = 1s\n')) as p:
        said = p.info()
        p.signal(signal.SIGHUP)
        wait_for(lambda: p.signals(said['pid']))
        start = time.monotonic()
        wait_gone(said['pid'], said['grandchild'])
        assert 0.5 < time.monotonic() - start < 4       # from when we read of the signal, some time behind it
        assert p.signals(said['pid']) == [('SIGTERM', 0)]


@pytest.mark.parametrize('group', ['', 'max_req_per_worker = 3\n'])
def test_the_stop_signal_waits_for_what_is_inside(group):
    """Most servers lose running requests at TERM, so it comes when there are none."""
    with Own(web(group=group)) as p:
        old, = p.pids()
        clients = [p.connect().send(head('GET', '/gate?file=%s/go%d' % (p.dir, n))) for n in range(3)]
        p.wait_status(lambda s: s['groups'][0]['workers'][0]['in_flight'] == 3)
        assert p.admin('POST', '/reload')[0] == 200
        assert p.get('/') != str(old)
        for n, c in enumerate(clients):
            assert p.signals(old) == []
            p.touch('go%d' % n)
            assert c.read_response().body == b'%d' % old
        wait_gone(old)
        assert p.signals(old) == [('SIGTERM', 0)]


# --- what workers say ---

def test_output_is_prefixed_and_never_torn():
    with Own(web(group='workers = 2\n')) as p:
        pids = p.pids()
        threads = [threading.Thread(target=p.get, args=('/print?n=1500&times=90&text=%s&to=%d' % (c, to),))
                   for c, to in (('a', 1), ('b', 2), ('c', 1), ('d', 2))]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        pattern = re.compile(r'(?m)^(?:%s )?web\.([01]) (\d+):? (a{90}|b{90}|c{90}|d{90})$' % WHEN)
        wait_for(lambda: len(pattern.findall(p.log())) == 6000)
        assert {pids[int(i)] == int(pid) for i, pid, _ in pattern.findall(p.log())} == {True}


def test_long_lines_are_split_and_marked():
    with Own(web()) as p:
        pid, = p.pids()
        p.get('/print?text=x&times=20000')
        p.get('/print?text=end')
        p.wait_log(r'^(%s )?web\.0 \d+:? end$' % WHEN)
        lines = re.findall(r'(?m)^(?:%s )?web\.0 %d:? (.*xxx.*)$' % (WHEN, pid), p.log())
        assert sum(line.count('x') for line in lines) == 20000 and all(line.count('x') <= 8192 for line in lines)
        assert len(lines) == 3 and sum(line.strip('x') != '' for line in lines) >= 2, 'a split can be seen'


def whole(path):
    with open(path, 'rb') as f:
        return f.read()


def test_control_bytes_are_escaped():
    with Own(web()) as p:
        raw = b'<\x1b[31m\x07\x00\x08\r\x7f\xc3\xa4\t>'
        p.get('/print?hex=' + ''.join('%%%02x' % b for b in raw).encode().hex())
        line = wait_for(lambda: re.search(rb'(?m)^(?:%s )?web\.0 \d+:? <.*>$' % WHEN.encode(), whole(p.log_path))).group(0)
        assert not re.search(rb'[\x00-\x08\x0a-\x1f\x7f]', line) and b'[31m' in line
        assert b'\xc3\xa4' in line, 'text stays text'


def test_the_last_line_needs_no_newline():
    with Own(web()) as p:
        pid, = p.pids()
        p.get('/print?torn=1&text=unfinished')
        with p.connect() as c:
            c.ask('POST', '/exit?code=1', body=b'')
        p.wait_log(r'^(%s )?web\.0 %d:? unfinished$' % (WHEN, pid))


def read(path):
    try:
        with open(path) as f:
            return f.read()
    except FileNotFoundError:
        return ''


@pytest.mark.parametrize('value,where,line', [
    ('stderr', 'log', r'web\.0 \d+:? to %d'), ('stdout', 'out', r'web\.0 \d+:? to %d'),
    ('{dir}/w.log', 'w.log', r'web\.0 \d+:? to %d'), ('{dir}/w.log raw', 'w.log', r'to %d'),
    ('stderr raw', 'log', r'to %d'), ('inherit', None, r'to %d'), ('off', '', '')])
def test_worker_log(value, where, line):
    with Own(web(group='worker_log = %s\n' % value)) as p:
        p.get('/print?to=1&text=to+1')
        p.get('/print?to=2&text=to+2')
        for to in (1, 2):
            if where != '':
                path = os.path.join(p.dir, where or {1: 'out', 2: 'log'}[to])
                wait_for(lambda: re.search('(?m)^(%s )?%s$' % (WHEN, line % to), read(path)), what='%s in %s' % (to, where))
        places = [name for name in ('log', 'out', 'w.log') if re.search(r'to \d', read(os.path.join(p.dir, name)))]
        assert places == {'': [], None: ['log', 'out']}.get(where, [where])


def test_a_flood_of_output_does_not_hold_up_others():
    groups = '[loud]\nroutes = /loud\ncmd = %s\nworker_log = {dir}/w.log\n[web]\nroutes = *\ncmd = %s\n' % (counter(), counter())
    with Own(groups) as p, p.connect() as loud, p.connect() as c:
        for floods in range(1, 6):                   # a pause of ours can be longer than one of them
            loud.send(head('GET', '/loud?n=40000&times=99&text=y', {'X-Ask': 'print'}))
            n = 0
            while loud.silent(0):
                assert c.ask('GET', '/').status == 200
                n += 1
            assert loud.read_response().status == 200
            if n >= 5:
                break
        assert n >= 5
        wait_for(lambda: read(p.dir + '/w.log').count('y') == floods * 40000 * 99)


# --- runtime_dir ---

def test_runtime_dir_is_private_and_removed():
    with Own(web()) as p:
        assert stat.S_IMODE(os.stat(p.dir + '/run').st_mode) == 0o700
        p.stop()
        assert not os.path.exists(p.dir + '/run')


def test_a_runtime_dir_of_somebody_else():
    with Own(web()) as p:
        p.stop()
        os.mkdir(p.dir + '/run', 0o700)
        if not machine.lacks('root'):                   # else it is ours
            os.chown(p.dir + '/run', 12345, -1)
            run = subprocess.run(p.command, cwd=p.dir, stderr=subprocess.PIPE, timeout=20)
            assert run.returncode == 1 and b'/run' in run.stderr
            os.chown(p.dir + '/run', 0, -1)
        p.again()
        p.stop()
        assert os.listdir(p.dir + '/run') == [], 'what it did not make stays'


def test_a_second_instance_names_the_first():
    with Own(web()) as p:
        run = subprocess.run(p.command, cwd=p.dir, stderr=subprocess.PIPE, timeout=20)
        assert run.returncode == 1
        text = run.stderr.decode()
        assert re.search(r'(?m)^  ldcorn pid %d already runs with this file: .*`kill -HUP %d` reloads it$' % (p.pid, p.pid), text), text
        assert p.get('/'), 'and the first goes on'


def test_a_dead_instance_is_no_obstacle():
    with Own(web()) as p:
        p.signal(signal.SIGKILL)
        p.wait_exit()
        p.again()
        p.wait_status(lambda s: s['pid'] == p.pid and p.pids())
        assert p.get('/')
        p.stop()
        assert not os.path.exists(p.dir + '/run')


CLOSES = r'''
import os, signal, socket, sys, time
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen(9)
def term(*_):                       # the listener first, then what is inside, then the end
    s.close()
    open('closed.%d' % os.getpid(), 'w').close()
    time.sleep(0.4)
    os._exit(0)
signal.signal(signal.SIGTERM, term)
while True:
    c, _ = s.accept()
    while c.recv(9999):
        c.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok')
        break
    c.close()
'''


@pytest.mark.parametrize('workers, retries', [(1, 1), (2, 2), (3, 3)])
def test_requests_wait_for_workers_that_closed_their_listener_and_live_on(workers, retries):
    """One try at each, not more: nothing was sent."""
    config = '[web]\nroutes = *\ncmd = %s closes.py {socket}\nworkers = %d\nretries = %d\nbackoff_max = 100ms\n' % (sys.executable, workers, retries)
    with Own(config, files={'closes.py': CLOSES}) as p:
        pids = p.pids()
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        for pid in pids:
            wait_for(lambda: os.path.exists('%s/closed.%d' % (p.dir, pid)), what='a closed listener')
        clients = [p.connect().send(head('POST', '/%d' % n, body=b'x')) for n in range(3)]
        assert [c.read_response().status for c in clients] == [200] * 3
        for c in clients:
            c.close()
