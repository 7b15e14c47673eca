"""What the log says of each failed request, with which time, how often; what admin says, and a start and a stop."""
import contextlib, datetime, json, os, pty, re, select, shlex, signal, subprocess, time

import pytest
from harness import BIN, REPO, AutoWorker, Client, Proxy, answer, cli, free_port, head, make_dir, upstream_config, wait_for
from procs import Before, Own, counter, metric
from test_admin import Tcp
from test_kinds_config import Placed, read, release
from test_watch import Manager

WEB = '[web]\nroutes = *\n'
CLOCK = r'\d\d:\d\d:\d\d'
TEXT = ('-o', 'log_format=text')                # the helpers of the tests have JSON
STAMP = r'\d{4}-\d\d-\d\d[T ]%s[.,]\d{3} ?(?:[+-]\d\d:?\d\d|Z|UTC)' % CLOCK         # date, milliseconds, zone


def web(transport='{socket}', *options, group=''):
    return WEB + 'cmd = %s\n%s' % (counter(transport, *options), group)


def lines_with(text, *words):
    return [line for line in text.splitlines() if all(word in line for word in words)]


def told(p, *words):
    """The one line of the own log that has all these words."""
    wait_for(lambda: lines_with(p.log(), *words), what='a line with %s in\n%s' % (words, p.log()))
    found = lines_with(p.log(), *words)
    assert len(found) == 1, found
    return found[0]


def level(line):
    return re.match(r'.*?\b(error|warn|info|debug)\b', line).group(1)


# --- one line for each request that failed or was refused ---

# What a client sends, the status it gets, the reason word, keys of the group.
REFUSED = {
    'request': (b'GET /x HTTP/1.1\r\nHost: a\r\nNo colon\r\n\r\n', 400, ''),
    'host': (b'GET /x HTTP/1.1\r\n\r\n', 400, ''),
    'framing': (b'POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx', 400, ''),
    'path': (b'GET /x%zz HTTP/1.1\r\nHost: a\r\n\r\n', 400, ''),
    'max_body': (head('POST', '/x', {'Content-Length': '101'}), 413, 'max_body = 100\n'),
    'target': (head('GET', '/' + 'x' * 40000), 414, ''),
    'max_header': (head('GET', '/x', {'X-Long': 'x' * 40000}), 431, ''),
    'expect': (head('POST', '/x', {'Expect': 'tea', 'Content-Length': '0'}), 417, ''),
    'version': (b'GET /x HTTP/2.5\r\nHost: a\r\n\r\n', 505, ''),
    'denied': (head('GET', '/x'), 403, 'deny = 127.0.0.0/8\n'),
    'route': (head('GET', '/nowhere'), 404, ''), 'header_timeout': (b'GET /x HTT', 408, ''),
    'body_timeout': (head('POST', '/x', {'Content-Length': '3'}), 408, 'max_req_per_worker = 1\n'),
    'rate': (head('GET', '/x'), 429, 'rate = 1/m\n')}
ROUTED = ('max_body', 'denied', 'body_timeout', 'rate')              # to a group, before they were refused


@pytest.mark.parametrize('reason', REFUSED)
def test_a_refused_request_leaves_one_line(reason):
    """Who, what, why: what the answer does not say."""
    data, status, group = REFUSED[reason]
    with AutoWorker() as w:
        top = 'header_timeout = 300ms\nbody_timeout = 300ms\n'
        with Proxy(upstream_config(w.address, top, group, '/x'), args=TEXT) as p, p.connect() as c:
            if reason == 'rate':
                assert c.ask('GET', '/x').status == 200
            r = c.send(data).read_response()
            assert r.status == status, r
            line = told(p, r.get('x-request-id'))
            for word in ('127.0.0.1', str(status), reason):
                assert re.search(r'(?<![\w.])%s(?![\w.])' % re.escape(word), line), (word, line)
            if reason not in ('request', 'header_timeout', 'target', 'version', 'host', 'max_header'):
                assert re.search(r'(GET|POST) /(x|nowhere)', line), line
            if reason in ROUTED:
                assert re.search(r'\bweb\b', line), line
            assert level(line) == ('warn' if status >= 500 else 'info'), line


def answers(data, close=True):
    def play(b, client):
        req, conn = b.worker.one(data)
        if close:
            conn.close()
        return req
    return play


def silence(b, client):
    return b.worker.one()[0]


def half(b, client):
    conn = b.worker.accept()
    req = conn.read_head()
    conn.close()
    return req


def bad_chunk(b, client):
    req, conn = b.worker.one(CHUNKED + b'5\r\nhello\r\n')
    client.peek_until(b'hello')
    conn.send(b'5\r\nhelloXX')
    return req


HEAD = b'HTTP/1.1 200 OK\r\nContent-Length: 4096\r\n\r\n'
CHUNKED = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n'
# What the worker does; status (None: the answer had begun), reason, what the line says in words.
BROKEN = {
    'ends': (answers(None), 502, 'reset', r'ended the connection'),
    'ends in its head': (answers(b'HTTP/1.1 20'), 502, 'reset', r'ended the connection'),
    'no http': (answers(b'SSH-2.0-x\r\n\r\n'), 502, 'protocol', r'SSH-2\.0|invalid|malformed|status line'),
    'two lengths': (answers(b'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx'), 502, 'protocol',
                    r'[Ll]ength|invalid'),
    'silence': (silence, 504, 'response_timeout', r'response_timeout|300 ?ms|0\.3 ?s'),
    'cut': (answers(HEAD + b'x' * 312), None, 'reset', r'312 of 4,?096 bytes'),
    'cut without a byte': (answers(HEAD), None, 'reset', r'\b0 of 4,?096 bytes|before'),
    'cut between chunks': (answers(CHUNKED + b'5\r\nhello\r\n'), None, 'reset', r'ended the connection'),
    'bad chunk': (bad_chunk, None, 'protocol', r'chunk'),
    'stall': (answers(HEAD + b'x' * 312, close=False), None, 'response_timeout', r'312 of 4,?096 bytes'),
}


@pytest.mark.parametrize('limited', [False, True], ids=['no limit', 'limit'])
@pytest.mark.parametrize('name', BROKEN)
def test_a_request_that_failed_leaves_one_line(name, limited):
    """At the default level, a warning: with the worker, and what happened in words."""
    play, status, reason, words = BROKEN[name]
    with Before('response_timeout = 300ms\n' + 'max_req_per_worker = 1\n' * limited, args=TEXT) as b:
        client = b.send('/thing?q=1', 'POST', b'body')
        req = play(b, client)
        r = client.read_response()
        assert r.status == (status or 200) and r.complete == bool(status), r
        line = told(b.proxy, req.get('x-request-id'))
        assert level(line) == 'warn', line
        for word in ('127.0.0.1', 'POST /thing?q=1', 'web', reason, str(status or 200)):
            assert word in line, (word, line)
        assert re.search(words, line), line
        assert b.worker.address in line or 'web.0' in line, line


def test_the_line_names_the_process():
    with Own(web()) as p, p.connect() as c:
        pid, = p.pids()
        r = c.ask('POST', '/exit?code=3', body=b'')
        assert r.status == 502
        line = told(p, r.get('x-request-id'), 'POST /exit?code=3', '502')
        assert 'web.0' in line and re.search(r'\b%d\b' % pid, line) and level(line) == 'warn', line


def test_overload_leaves_lines():
    with Before('max_req_per_worker = 1\nqueue = 1\nqueue_timeout = 400ms\n', args=TEXT) as b:
        b.send('/inside')
        b.worker.one()
        waits = b.send('/waits')
        b.queued(1)
        with b.proxy.connect() as c:
            r = c.ask('GET', '/full')
        assert r.status == 503
        line = told(b.proxy, r.get('x-request-id'))
        assert level(line) == 'warn' and re.search(r'\bfull\b', line) and 'GET /full' in line, line
        assert re.search(r'queue = 1\b', b.proxy.log()), 'the limit and its present value'
        r = waits.read_response()
        line = told(b.proxy, r.get('x-request-id'))
        assert r.status == 503 and level(line) == 'warn' and re.search(r'\btimeout\b', line), line


def test_nobody_there_leaves_a_line():
    with Proxy(upstream_config('127.0.0.1:%d' % free_port(), 'shutdown_timeout = 1s\n', 'queue_timeout = 200ms\n'),
               args=TEXT, wait=False) as p:
        p.wait_log('logs ')
        with wait_for(lambda: dialled(p)) as c:
            r = c.ask('GET', '/lost')
            assert r.status in (502, 503)
            line = told(p, r.get('x-request-id'))
            assert level(line) == 'warn' and re.search(r'no_worker|connect|timeout', line) and 'GET /lost' in line, line


def dialled(p):
    with contextlib.suppress(OSError):
        return p.connect()


def test_a_client_that_left_leaves_a_line():
    with Before('', args=TEXT) as b:
        client = b.send('/left')
        req, conn = b.worker.one()
        client.rst()
        line = told(b.proxy, req.get('x-request-id'))
        assert 'client_gone' in line and 'GET /left' in line and '499' in line and level(line) == 'info', line


def test_what_went_well_leaves_none():
    with AutoWorker(lambda r, c: answer(b'x', '404 Not Found' if 'no' in r.target else '200 OK')) as w:
        with Proxy(upstream_config(w.address)) as p, p.connect() as c:
            for target in ('/fine', '/no'):
                c.ask('GET', target)
                p.wait_access(lambda r: r['target'] == target)
            p.status()
            assert '/fine' not in p.log() and '/no' not in p.log()


@pytest.mark.parametrize('named, seen', [('error', []), ('warn', ['/dead']), ('info', ['/dead', '/big'])])
def test_the_level_of_the_log_counts(named, seen):
    with Before('max_body = 1\n', top='log_level = %s\n' % named, args=TEXT, wait=named == 'info') as b:
        wait_for(lambda: dialled(b.proxy)).close()
        b.proxy.wait_status(lambda s: s['groups'][0]['workers'][0]['state'] == 'ready')
        c = b.send('/dead', 'POST', b'x')
        b.worker.one()[1].close()
        assert c.read_response().status == 502 and b.send('/big', 'POST', b'xx').read_response().status == 413
        wait_for(lambda: len(b.proxy.access()) >= 2)
        b.proxy.status()
        assert [t for t in ('/dead', '/big') if 'POST ' + t in b.proxy.log()] == seen, b.proxy.log()


def test_the_json_log_has_the_same():
    with Before('') as b:                            # whose log is of JSON lines
        c = b.send('/dead"', 'POST', b'x')
        req, conn = b.worker.one()
        conn.close()
        assert c.read_response().status == 502
        said = json.loads(told(b.proxy, req.get('x-request-id')))
        assert said['level'] == 'warn' and all(w in json.dumps(said) for w in ('127.0.0.1', '/dead', 'reset', '502',
                                                                               'web')), said


def test_many_are_summed_with_the_counts_per_reason():
    """Ten lines a second and group; of the rest the numbers. Nothing is lost between the two."""
    with AutoWorker() as w:
        config = ('listen = {listen}\nadmin = {admin}\n[shut]\nroutes = /shut\ndeny = 127.0.0.0/8\nupstream = %s\n'
                  '[web]\nroutes = *\nmax_body = 1\nupstream = %s\n' % (w.address, w.address))
        with Proxy(config) as p, p.connect() as c:
            began = time.monotonic()
            for _ in range(60):
                assert c.ask('GET', '/shut').status == 403
            took = time.monotonic() - began
            for _ in range(3):
                with p.connect() as other:
                    assert other.send(head('POST', '/big', {'Content-Length': '2'})).read_response().status == 413

            def complete():
                single = len(lines_with(p.log(), 'GET /shut'))
                sums = [line for line in lines_with(p.log(), 'shut') if 'GET /shut' not in line and 'routes' not in line]
                pairs = re.findall(r'(\d+) (?:x )?(?:denied|not allowed)|(?:denied|not allowed)\D{0,3}(\d+)', str(sums))
                rest = sum(int(n) for pair in pairs for n in pair if n)
                return single + rest == 60 and single
            single = wait_for(complete, 13, 'one line or one count for each in\n' + p.log())
            assert single <= 10 * (int(took) + 2), single
            assert len(lines_with(p.log(), 'POST /big')) == 3, 'another group has its own ten'


def find(value, name):
    """All numbers of this name, wherever they are."""
    if isinstance(value, dict):
        return [v for k, v in value.items() if k == name
                and isinstance(v, int)] + [n for v in value.values() for n in find(v, name)]
    return [n for v in value for n in find(v, name)] if isinstance(value, list) else []


def test_status_has_the_counts_per_reason():
    with Before('deny = 10.0.0.0/8\nmax_body = 10\nresponse_timeout = 300ms\n') as b:
        for n in range(2):
            c = b.send('/dead', 'POST', b'x')
            b.worker.one()[1].close()
            assert c.read_response().status == 502
        c = b.send('/late', 'POST', b'x')
        b.worker.one()
        assert c.read_response().status == 504
        assert b.send('/big', 'POST', b'x' * 11).read_response().status == 413
        assert b.send('/%zz').read_response().status == 400
        s = b.proxy.status()
        group, = s['groups']
        assert {name: sum(find(group, name)) for name in ('reset', 'response_timeout', 'max_body')} == \
            {'reset': 2, 'response_timeout': 1, 'max_body': 1}, group
        assert sum(find(s, 'path')) == 1, 'without a group'


# --- times ---

@pytest.mark.parametrize('zone, name', [('<+0530>-5:30', r'\+05:?30'), ('UTC', r'Z|UTC|\+00:?00'),
                                        ('<-03>3', r'-03:?00')])
@pytest.mark.parametrize('where', ['log', 'stderr'])
def test_a_file_gets_date_milliseconds_and_zone(where, zone, name):
    with Own(web(), top='log = {dir}/own.log\n' if where == 'log' else '', env={'TZ': zone}, wait=False) as p:
        path = p.dir + ('/own.log' if where == 'log' else '/log')
        line = wait_for(lambda: re.search(r'(?m)^(.*) info  ready after', read(path))).group(1)
        assert re.fullmatch(STAMP, line) and re.search('(%s)$' % name, line), line
        day, clock = re.match(r'(\S{10})[T ](\S{8})', line).groups()
        said = datetime.datetime.fromisoformat(day + ' ' + clock).replace(tzinfo=datetime.timezone.utc).timestamp()
        away = {'<+0530>-5:30': 19800, 'UTC': 0, '<-03>3': -10800}[zone]
        assert abs(said - away - time.time()) < 60


def test_each_line_of_a_file_has_its_time():
    """Those that stand for themselves; what belongs to one is indented below it."""
    with Own(web(), wait=False) as p:
        p.wait_log('ready after')
        p.signal(signal.SIGHUP)
        p.wait_log('reload done')
        body = p.log().split('\n  logs ')[1].split('\n')[1:-1]
        assert body and all(re.match(STAMP + r' (error|warn |info |debug) |    ', line) for line in body), body


def on(make):
    """A Popen whose stderr (and environment) `make` chooses."""
    def popen(command, **kw):
        err, env = make(kw['stderr'])
        return subprocess.Popen(command, **dict(kw, stderr=err, env=dict(kw['env'], **env)))
    return popen


def test_a_terminal_gets_the_time():
    master, slave = pty.openpty()
    with Own(web(), wait=False, popen=on(lambda err: (slave, {}))) as p:
        os.close(slave)
        text = b''
        while b'ready after' not in text:
            assert select.select([master], [], [], 20)[0]
            text += os.read(master, 65536)
        line = re.search(r'(?m)^(.*) info  ready after', text.decode().replace('\r', '')).group(1)
        assert re.fullmatch(CLOCK, line), line
        p.up()
        p.admin('POST', '/stop')
        with contextlib.suppress(OSError):           # the end of the other side
            while os.read(master, 65536):
                pass
        p.wait_exit()
    os.close(master)


def journal(err):
    st = os.fstat(err.fileno())
    return err, {'JOURNAL_STREAM': '%d:%d' % (st.st_dev, st.st_ino)}


def test_the_journal_gets_priorities_and_no_times():
    """It has its own. What belongs to an error has the same priority on each of its lines."""
    config = web('{socket}', '--fail-if={dir}/bad') + '[two]\nroutes = /two\nqueue = 5\nupstream = 127.0.0.1:1\n'
    with Own(config, files={'bad': ''}, wait=False, popen=on(journal)).up() as p:
        p.wait_log('next try')
        text = p.log()
        assert not re.search(CLOCK, text), text
        assert re.search(r'(?m)^<3>.*web\.0 \(pid \d+\) ended before it was ready', text), text
        assert re.search(r"(?m)^<3> +\| ModuleNotFoundError", text), text
        p.signal(signal.SIGUSR1)
        p.wait_log(r'^<6>.*logs reopened')
        assert not re.search(r'(?m)^<\d>\s*(error|warn|info|debug)\b', p.log()), 'the level is said once'
        p.wait_log(r'^<4>.*two.*queue|^<4>.*queue')
        p.signal(signal.SIGQUIT)
        p.expect_status = p.wait_exit()


def test_who_prints_raw_into_the_journal_is_not_stamped():
    with Own(web(group='worker_log = stderr\n'), wait=False, popen=on(journal)) as p:
        p.wait_log('ready after')
        p.get('/print?text=plain')
        line = p.wait_log(r'^.*plain$').group(0)
        assert re.fullmatch(r'(<[67]>)?web\.0 \d+:? plain', line), line


def test_the_journal_of_somebody_else_changes_nothing():
    """JOURNAL_STREAM is inherited; it counts where it names this very stream."""
    with Own(web(), wait=False, popen=on(lambda err: (err, {'JOURNAL_STREAM': '1:1'}))) as p:
        p.wait_log('^%s info  ready after' % STAMP)
    with Own(web(), top='log = {dir}/own.log\n', wait=False, popen=on(journal)) as p:
        wait_for(lambda: re.search('(?m)^%s info  ready after' % STAMP, read(p.dir + '/own.log')))


@pytest.mark.parametrize('value, where, stamped', [
    ('{dir}/w.log', 'w.log', True), ('stderr', 'log', True), ('stdout', 'out', True),
    ('{dir}/w.log raw', 'w.log', False),
    ('stderr raw', 'log', False)])
def test_lines_of_workers_in_a_file_have_times(value, where, stamped):
    with Own(web(group='worker_log = %s\n' % value)) as p:
        p.get('/print?text=first')
        p.get('/print?text=second')
        line = r'(?m)^%s web\.0 %d:? second$' % (STAMP, p.pids()[0]) if stamped else r'(?m)^second$'
        wait_for(lambda: re.search(line, read(os.path.join(p.dir, where))), what='%s in\n%s'
                 % (line, read(os.path.join(p.dir, where))))


# --- the same again and again ---

FAILS = '#!/bin/sh\necho start >> "$COUNTER_LOG".fails\ncat why >&2\nexit 1\n'


def failing(why='ImportError: no module named torch', workers=4, groups=('web',), **kw):
    text = ''.join('[%s]\nroutes = %s\ncmd = /bin/sh fails.sh {socket}\nworkers = %d\nbackoff_max = 100ms\n'
                   'worker_log = {dir}/w.log\n'
                   % (name, '*' if name == 'web' else '/' + name, workers) for name in groups)
    return Own(text, files={'fails.sh': FAILS, 'why': why + '\n'}, wait=False, **kw)


def tries(p):
    return read(p.dir + '/counted.fails').count('start')


def blocks(p, words='ImportError'):
    return len(re.findall(r'(?m)^[^\n]*    \| .*%s' % words, p.log()))


def test_the_same_failure_is_told_once():
    """Four workers, and each of their tries, fail for one reason: one block, which says how they are tried again."""
    with failing().up() as p:
        wait_for(lambda: tries(p) >= 24, 20)
        assert blocks(p) == 1, p.log()
        assert len(p.log()) < 4000, 'nor something else for each'


def test_each_group_tells_its_own():
    with failing(workers=2, groups=('web', 'api')).up() as p:
        wait_for(lambda: tries(p) >= 16, 20)
        assert blocks(p) == 2, p.log()


def test_another_failure_is_told_at_once_with_the_count_of_the_former():
    with failing().up() as p:
        wait_for(lambda: tries(p) >= 20, 20)
        before = len(p.log())
        with open(p.dir + '/why.new', 'w') as f:
            f.write('SyntaxError: invalid syntax\n')
        os.rename(p.dir + '/why.new', p.dir + '/why')
        p.wait_log(r'    \| .*SyntaxError', after=before)
        so_far = tries(p)
        wait_for(lambda: tries(p) >= so_far + 12, 20)
        assert blocks(p, 'SyntaxError') == 1 and blocks(p) == 1, p.log()
        assert re.search(r'\b\d+ (more|times|further|other|starts|tries)|same', p.log()[before:]), p.log()[before:]


def test_two_failures_by_turns_are_told_once_each():
    script = FAILS.replace('cat why', 'test "$LDCORN_INDEX" = 0 && echo OneError || echo TwoError')
    with Own('[web]\nroutes = *\ncmd = /bin/sh fails.sh {socket}\nworkers = 2\nbackoff_max = 100ms\nworker_log = {dir}/w.log\n',
             files={'fails.sh': script}, wait=False).up() as p:
        wait_for(lambda: tries(p) >= 16, 20)
        assert blocks(p, 'OneError') == blocks(p, 'TwoError') == 1, p.log()


def test_a_failure_that_was_over_is_told_again():
    """Not the same any more: in between it was ready."""
    with Own(web('{socket}', '--fail-if={dir}/bad', group='backoff_max = 100ms\nworker_log = {dir}/w.log\n')) as p:
        for n in (1, 2):
            p.touch('bad')
            os.kill(p.pids()[0], signal.SIGKILL)
            wait_for(lambda: blocks(p, 'ModuleNotFoundError') >= n)
            os.unlink(p.dir + '/bad')
            p.wait_status(lambda s: s['groups'][0]['workers'][0]['state'] == 'ready'
                          and s['groups'][0]['workers'][0]['uptime'] > 0.3)


def test_systemd_hears_what_a_start_waits_for(tmp_path):
    m = Manager(tmp_path)
    with Own(web('{socket}', '--hold-listen={dir}/go'), env=m.env, wait=False).up() as p:
        said = status_of(m, r'web')
        assert 'READY' not in said and re.search(r'wait|start|0 of 1', said['STATUS']), said
        p.touch('go')
        while said.get('READY') != '1':
            said = m.next()


def status_of(m, words):
    """The first state whose STATUS has that."""
    while True:
        said = m.any()
        if re.search(words, said.get('STATUS', '')):
            return said


def test_systemd_hears_why_a_start_fails(tmp_path):
    m = Manager(tmp_path)
    with failing(env=m.env).up():
        said = status_of(m, r'ImportError|exit 1')
        assert 'web' in said['STATUS'] and 'READY' not in said


def test_systemd_hears_that_a_reload_failed(tmp_path):
    m = Manager(tmp_path)
    with Own(web(), env=m.env) as p:
        status_of(m, 'generation 1')
        p.write_config(p.config_text + 'frob = 1\n')
        p.signal(signal.SIGHUP)
        assert status_of(m, r'reload failed')['READY'] == '1'
        p.write_config(p.config_text.replace('frob = 1\n', ''))
        p.signal(signal.SIGHUP)
        said = status_of(m, r'generation 2')
        assert 'failed' not in said['STATUS']


# --- a worker that does not become ready ---

AWAITED = {
    'sock': ('{socket}', ('--hold-bind={dir}/go',), '', r'sock\.0: .*(no|listen).*/run/\S+.*\{socket\}'),
    'bound': ('{socket}', ('--hold-listen={dir}/go',), '', r'bound\.0: .*(no|listen|refuse).*/run/\S+'),
    'port': ('{port}', ('--hold-bind={dir}/go',), '', r'port\.0: nothing listens on 127\.0\.0\.1:\d+.*\{port\}'),
    'fd': ('fd:{fd}', ('--hold-listen={dir}/go',), '', r'fd\.0: .*\{fd\}'),
    'env': ('"$PORT"', ('--hold-bind={dir}/go',), 'env = PORT={port}\n',
            r'env\.0: nothing listens on 127\.0\.0\.1:\d+.*\{port\}.*env'),
    'health': ('{socket}', ('--hold-health={dir}/go',), 'health_path = /health\n', r'health\.0: .*/health.*503'),
}


@pytest.fixture(scope='module')
def waiting():
    """A dozen seconds of workers that are not ready yet."""
    text = ''
    for name, (transport, options, more, _) in AWAITED.items():
        cmd = "/bin/sh -c 'exec %s'" % counter(transport, *options) if name == 'env' else counter(transport, *options)
        text += '[%s]\nroutes = /%s\ncmd = %s\n%s' % (name, name, cmd, more)
    began = time.monotonic()
    with Own(text, wait=False).up() as p:
        p.early = None
        wait_for(lambda: time.monotonic() - began > 8, 10)
        p.early = p.log()
        wait_for(lambda: all(re.search(r'(?m)\b%s\.0: .*$' % name, p.log()) for name in AWAITED)
                 or time.monotonic() - began > 13, 15)
        yield p
        p.touch('go')


@pytest.mark.slow
@pytest.mark.parametrize('name', AWAITED)
def test_what_a_worker_is_waited_for_is_said_after_ten_seconds(waiting, name):
    pattern = AWAITED[name][3]
    found = re.findall(r'(?m)^.*%s.*$' % pattern, waiting.log())
    assert len(found) == 1, waiting.log()
    assert not re.search(pattern, waiting.early), 'a slow start is none to talk about yet'
    if name == 'port':
        assert re.search(r'127\.0\.0\.1:(\d+)', found[0]).group(1) in open_port(waiting, name)


def open_port(p, name):
    """The command line of the worker, which was told."""
    with open('/proc/%d/cmdline' % p.worker(name)['pid']) as f:
        return f.read().split('\0')


@pytest.mark.parametrize('name, option, remedy', [
    ('gunicorn', '--daemon', r'--daemon'), ('gunicorn', '-D', r'-D\b'), ('uwsgi', '--daemonize=x', r'--daemonize'),
    ('php-fpm', '-D', r'-D\b|-F'), ('nginx', '', r'daemon off'), ('whatever', '', r'')])
def test_a_command_that_ends_well_before_it_is_ready_may_be_in_the_background(name, option, remedy):
    with Own(WEB + 'cmd = ./%s %s {socket}\n' % (name, option), files={name: '#!/bin/sh\nexit 0\n'}, wait=False,
             preexec=None, popen=executable(name)).up() as p:
        text = p.wait_log(r'(?m)^.*gone into the background.*(\n    .*)*').group(0)
        assert re.search(remedy, re.sub(r'(?m)^    ran: .*$', '', text)), text


def executable(name):
    def popen(command, **kw):
        os.chmod(os.path.join(kw['cwd'], name), 0o755)
        return subprocess.Popen(command, **kw)
    return popen


def test_other_ends_are_not_in_the_background():
    with Own(web('{socket}', '--fail-if={dir}/bad', group='backoff_max = 100ms\n')) as p, p.connect() as c:
        first, = p.pids()
        assert c.ask('POST', '/exit?code=0', body=b'').status == 502
        wait_for(lambda: p.pids() not in ([], [first]))
        p.touch('bad')
        with p.connect() as other:
            other.ask('POST', '/exit?code=1', body=b'')
        p.wait_log('ModuleNotFoundError')
        assert 'background' not in p.log()


# --- lines that are lost ---

NO_SPACE = r'No space left on device|ENOSPC|disk (is )?full|no space'


@pytest.mark.needs('dev-full')
@pytest.mark.parametrize('key', ['access_log', 'worker_log'])
def test_lines_lost_to_a_full_disk_name_it(key):
    """... in the log that still works, in /status and in /metrics. It is no slow reader."""
    top, group = ('access_log = /dev/full\n', '') if key == 'access_log' else ('', 'worker_log = /dev/full\n')
    with AutoWorker():
        config = 'listen = {listen}\nadmin = {admin}\n%s[web]\nroutes = *\ncmd = %s\n%s' % (top, counter(), group)
        with Proxy(config) as p, p.connect() as c:
            for n in range(5):
                assert c.ask('GET', '/print?text=hello').status == 200
            line = p.wait_log(r'^.*(%s).*$' % NO_SPACE).group(0)
            assert '/dev/full' in line or key in line, line
            assert 'too slow' not in p.log()
            assert metric(p, 'ldcorn_log_dropped_total') >= 1
            assert re.search(NO_SPACE + '|drop', json.dumps(p.status()))
            for n in range(300):
                c.ask('GET', '/')
            assert len(re.findall(NO_SPACE, p.log())) < 6, 'not one for each'


@pytest.mark.needs('dev-full')
def test_the_own_log_on_a_full_disk_is_told_where_something_works():
    with AutoWorker() as w:
        config = ('listen = {listen}\nadmin = {admin}\nlog = /dev/full\naccess_log = {dir}/access\n'
                  '[web]\nroutes = *\nupstream = %s\n' % w.address)
        with Proxy(config, wait=False) as p:
            wait_for(lambda: os.path.exists(p.admin_address[5:]))   # after the listener
            with wait_for(lambda: dialled(p)) as c:
                p.wait_status(lambda s: s['groups'][0]['workers'][0]['state'] == 'ready')
                assert c.ask('GET', '/').status == 200
            wait_for(lambda: re.search(NO_SPACE, p.log() + read(p.access_path)),
                     what='the reason in stderr or in the access log')
            assert metric(p, 'ldcorn_log_dropped_total') >= 1 and re.search(NO_SPACE + '|drop', json.dumps(p.status()))


def test_lines_lost_to_a_reader_that_sleeps_name_that(tmp_path):
    os.mkfifo(str(tmp_path / 'fifo'))
    fd = os.open(str(tmp_path / 'fifo'), os.O_RDONLY | os.O_NONBLOCK)
    config = 'listen = {listen}\nadmin = {admin}\naccess_log = %s\n[web]\nroutes = *\nupstream = ' % (tmp_path / 'fifo')
    with AutoWorker() as w, Proxy(config + w.address + '\n') as p, p.connect() as c:
        for _ in range(250):
            assert c.ask('GET', '/', {'User-Agent': 'x' * 8000}).status == 200
        line = p.wait_log(r'^.*\bdropped.*$').group(0)
        assert str(tmp_path / 'fifo') in line or 'access_log' in line, line
        assert not re.search(NO_SPACE, line) and metric(p, 'ldcorn_log_dropped_total') >= 1
        os.close(fd)


# --- last words ---

def test_last_words_have_their_age_and_what_was_inside():
    with Own(web()) as p, p.connect() as c:
        p.get('/print?text=long+ago')
        wait_for(lambda: 'long ago' in p.log())
        time.sleep(1.1)                              # an age that can be told from none
        p.get('/print?text=just+now')
        wait_for(lambda: 'just now' in p.log())
        c.send(head('GET', '/crash?q=1', {'X-Ask': 'crash'}))
        text = p.wait_log(r'(?m)^.*web\.0 \(pid \d+\).*signal 6.*(\n    .*)+').group(0)
        r = c.read_response()
        assert r.status == 502 and re.search(r'SIGABRT', text), text
        old, new = (re.search(r'(?m)^    \|.*%s.*$' % words, text).group(0) for words in ('long ago', 'just now'))
        assert re.search(r'\b1\.\d ?s|\b1s|\b[23](\.\d)? ?s', old) and not re.search(r'\b1\.\d ?s', new), (old, new)
        inside = re.search(r'(?m)^    .*inside: (.*)$', text).group(1)
        assert 'GET /crash?q=1' in inside and r.get('x-request-id') in inside, text


def test_all_that_was_inside_is_named():
    """Who killed it is one of them."""
    with Own(web()) as p, p.connect() as a, p.connect() as b:
        for c, target in ((a, '/gate?file=%s/no' % p.dir), (b, '/hang')):
            c.send(head('GET', target))
        p.wait_status(lambda s: s['groups'][0]['workers'][0]['in_flight'] == 2)
        os.kill(p.pids()[0], signal.SIGSEGV)
        text = p.wait_log(r'(?m)^.*web\.0 \(pid \d+\).*SIGSEGV.*(\n    .*)+').group(0)
        assert 'GET /hang' in text and 'GET /gate' in text, text


def test_a_worker_does_not_speak_with_the_words_of_the_one_before():
    with Own(web(group='backoff_max = 100ms\n')) as p:
        p.get('/print?text=words+of+the+first')
        first, = p.pids()
        os.kill(first, signal.SIGKILL)
        p.wait_log(r'    \|.*words of the first')
        second, = wait_for(lambda: [pid for pid in p.pids() if pid != first])
        before = len(p.log())
        os.kill(second, signal.SIGKILL)
        p.wait_log(r'web\.0 \(pid %d\).*KILL' % second, after=before)
        wait_for(lambda: [pid for pid in p.pids() if pid not in (first, second)])
        assert 'words of the first' not in p.log()[before:]
        assert 'words of the first' not in p.worker('web')['last_lines']


@pytest.mark.parametrize('number, name', [(9, 'SIGKILL'), (11, 'SIGSEGV'), (10, 'SIGUSR1'), (31, 'SIGSYS'),
                                          (24, 'SIGXCPU')])
def test_signals_have_their_names(number, name):
    if signal.Signals(number).name != name:
        pytest.skip('another system')
    with Own(web()) as p:
        pid, = p.pids()
        os.kill(pid, number)
        s = p.wait_status(lambda s: s['groups'][0]['workers'][0]['last_exit'])
        assert name in s['groups'][0]['workers'][0]['last_exit']
        p.wait_log(r'web\.0 \(pid %d\).*%s' % (pid, name))


# --- one that prints without end ---

@pytest.mark.parametrize('where', ['off', 'stderr', '{dir}/w.log', '{dir}/w.log raw',
                                   pytest.param('/dev/full', marks=pytest.mark.needs('dev-full'))])
def test_a_worker_that_prints_without_end_does_not_slow_the_others(where):
    """What its output costs in a turn has a bound."""
    noise = "/bin/sh -c '(while [ ! -e {dir}/go ]; do sleep 0.02; done; exec yes noise) & exec %s'" % counter('"$0"')
    config = '[loud]\nroutes = /loud\ncmd = %s {socket}\nworker_log = %s\n' % (noise, where)
    with Own(config) as p, p.connect() as c:
        def used():                              # by the proxy, so that the machine's other work does not count
            with open('/proc/%d/schedstat' % p.pid) as f:
                return int(f.read().split()[0]) / 1e9

        def cost():
            """Of an answer that it gives itself; of the quicker ones, for which we had a processor at once."""
            times = []
            for _ in range(60):
                began = used()
                assert c.ask('GET', '/').status == 404
                times.append(used() - began)
            return sorted(times)[len(times) // 4]
        quiet = cost()
        p.touch('go')
        began = used()
        if where != 'off':
            wait_for(lambda: used() - began > 0.05, what='the noise')
        loud = cost()
        p.signal(signal.SIGQUIT)
        p.wait_exit()
        most = 0.005 if os.path.basename(BIN) == 'ldcorn' else 0.05          # with sanitizers and audit
        assert loud < most, '%.1f ms, and %.1f ms without' % (loud * 1000, quiet * 1000)


# --- files that change ---

def test_a_worker_log_that_a_reload_has_changed_is_taken_at_the_next_start():
    with Own('[web]\nroutes = *\nreload = off\nworker_log = {dir}/w1\ncmd = %s\n' % counter()) as p:
        pid, = p.pids()
        p.edit(('/w1\n', '/w2\n'))
        assert p.admin('POST', '/reload')[0] == 200
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: p.pids() not in ([], [pid]))
        p.get('/print?text=anew')
        wait_for(lambda: 'anew' in read(p.dir + '/w2'))
        os.rename(p.dir + '/w2', p.dir + '/w2.1')
        p.signal(signal.SIGUSR1)
        wait_for(lambda: os.path.exists(p.dir + '/w2'))
        assert not os.path.exists(p.dir + '/w1.1') and os.path.exists(p.dir + '/w1')


# --- commands as they can be typed ---

def typed(p, pattern, text=None):
    """The command that stands there, run by a shell where it was read: -> (status, output)."""
    command = re.search(pattern, text or p.log(), re.M).group(1).strip()
    assert shlex.split(command)[0] == 'ldcornctl', command
    run = subprocess.run(command, shell=True, cwd=p.cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                         timeout=60,
                         env=dict(p.env, PATH=REPO + '/tools:/usr/bin:/bin', PWD=p.cwd))
    return run.returncode, command + '\n' + run.stdout


STARTS = {
    'groups.ini': (('groups.ini',), ''), 'another name': (('other.ini',), ''), 'in a folder': (('conf/other.ini',), ''),
    'a blank': (('a b.ini',), ''), 'a sign': (("it's $x;.ini",), ''), 'absolute': (('{dir}/conf/other.ini',), ''),
    'admin in the file': (('other.ini',), 'admin = unix:{dir}/a.sock\n'),
    'tcp in the file': (('other.ini',), 'admin = 127.0.0.1:{port}\n'),
    'admin by -o': (('-o', 'admin=unix:{dir}/o.sock', 'groups.ini'), ''),
    'tcp by -o': (('-o', 'admin=127.0.0.1:{port}', 'other.ini'), ''),
    'runtime_dir by -o': (('-o', 'runtime_dir={dir}/rt', 'groups.ini'), ''),
    'no file': (('--',) + tuple(counter('{socket}').split()), '')}


class Typed(Placed):
    def says_runtime(self):
        return super().says_runtime() or ('ready after' in self.log() and '/run/ldcorn-none')

    def __exit__(self, *exc):
        if not self.runtime.startswith('/run/ldcorn-'):
            self.runtime = '/run/ldcorn-none'
        super().__exit__(*exc)


@pytest.mark.parametrize('name', STARTS)
def test_the_start_text_prints_a_command_that_can_be_typed(name):
    """With the file where it is not groups.ini, the address where the file does not say it, quotes where needed."""
    args, top = STARTS[name]
    port, folder = free_port(), make_dir({'conf/x': ''})
    fill = lambda text: text.replace('{dir}', folder).replace('{port}', str(port))
    if name != 'no file':
        with open(os.path.join(folder, fill(args[-1])), 'w') as f:
            f.write(fill(top) + release('x'))
    with Typed(*[a if name == 'no file' else fill(a) for a in args], folder=folder) as p:
        status, out = typed(p, r'(ldcornctl .*status.*?)$')
        assert status == 0 and '\nldcorn ' in out, out


@pytest.mark.parametrize('name', ['other.ini', 'a b.ini'])
def test_a_second_start_prints_a_command_that_can_be_typed(name):
    folder = make_dir({name: 'listen = 127.0.0.1:%d\n' % free_port() + release('x')})
    with Typed(name, folder=folder) as p:
        again = subprocess.run([p.proc.args[0], '-o', 'listen=127.0.0.1:%d' % p.port, name], cwd=folder, text=True,
                               env=dict(os.environ, **p.env),
                               stderr=subprocess.PIPE, timeout=20)
        assert again.returncode == 1 and 'pid %d already runs' % p.pid in again.stderr, again
        status, out = typed(p, r'`(ldcornctl .*?)`', again.stderr)
        assert status == 0 and 'generation 2' in out, out


def test_help_and_version_by_their_long_names():
    for long, short in (('--help', '-h'), ('--version', '-v')):
        run, same = cli(long), cli(short)
        assert (run.status, run.out, run.err) == (0, same.out, ''), run
    assert '--help' in cli('-h').out and '--version' in cli('-h').out
    with Placed('groups.ini', folder=make_dir({'groups.ini': '[web]\nroutes = *\ncmd = %s\n'
                                               % counter('{socket}', '--version')})) as p:
        assert p.tag() == '', 'behind the program they are its own'


# --- admin ---

def test_several_admin_addresses():
    """A page over TCP, and still a socket that needs no token."""
    with Tcp(' admin = unix:{dir}/second.sock\nadmin_token = s3cret') as p:
        assert p.ask('GET', '/status') == 200 and p.ask('POST',
                                                        '/reload') == 401 and p.ask('POST', '/reload', 's3cret') == 200
        with Client('unix:%s/second.sock' % p.dir) as c:
            assert c.ask('GET', '/status').status == 200 and c.ask('POST', '/reload', body=b'').status == 200
        assert os.stat(p.dir + '/second.sock').st_mode & 0o777 == 0o600
        assert re.search(r'(?m)^  admin .*127\.0\.0\.1:%d' % p.tcp[1],
                         p.log()) and 'second.sock' in p.log().split('  logs')[0]
        p.stop()
        assert not os.path.exists(p.dir + '/second.sock')


def test_admin_addresses_come_and_go_with_a_reload():
    with AutoWorker() as w, Proxy('listen = {listen}\nadmin = {admin}\n[web]\nroutes = *\nupstream = %s\n'
                                  % w.address) as p:
        port = free_port()
        p.write_config(p.config_text.replace('admin = {admin}', 'admin = {admin} 127.0.0.1:%d' % port))
        assert p.admin('POST', '/reload')[0] == 200
        with Client(('127.0.0.1', port)) as c:
            assert c.ask('GET', '/healthz').status == 200
        p.write_config(p.config_text.replace(' 127.0.0.1:%d' % port, ''))
        assert p.admin('POST', '/reload')[0] == 200 and p.admin('GET', '/healthz')[0] == 200
        with pytest.raises(OSError):
            wait_for(lambda: Client(('127.0.0.1', port)).close(), 2)


def test_off_beside_an_address_is_an_error():
    run = cli('-t', 'groups.ini', config='admin = 127.0.0.1:1 off\n[web]\nroutes = *\nupstream = 127.0.0.1:9\n')
    assert run.status == 2 and 'groups.ini:1:' in run.err
    run = cli('-t', 'groups.ini', config='admin = 127.0.0.1:1 127.0.0.1:1\n[web]\nroutes = *\nupstream = 127.0.0.1:9\n')
    assert 'groups.ini:1:' in run.err, 'twice the same'


@pytest.fixture(scope='module')
def tcp():
    with Tcp('admin_hosts = ldcorn.internal status.example\nadmin_token = s3cret') as p:
        yield p


@pytest.fixture(scope='module')
def plain():
    with Tcp('admin_token = s3cret') as p:
        yield p


@pytest.mark.parametrize('host', ['ldcorn.monitoring.svc:9000', 'evil.example', 'web',
                                  'ldcorn.monitoring.svc.cluster.local'])
@pytest.mark.parametrize('path, status', [('/healthz', 200), ('/readyz', 200), ('/server', 200), ('/metrics', 200),
                                          ('/status', 403), ('/', 403),
                                          ('/requests', 403)])
def test_probes_answer_to_any_host(plain, host, path, status):
    """Prometheus and kubelet come by a service's name; a page that was led here reads nothing worth having."""
    assert plain.ask('GET', path, Host=host) == status


@pytest.mark.parametrize('path', ['/healthz', '/readyz', '/server', '/metrics'])
@pytest.mark.parametrize('version', ['1.0', '1.1'])
def test_probes_answer_without_a_host(plain, path, version):
    with Client(plain.tcp) as c:
        assert c.send('GET %s HTTP/%s\r\n\r\n' % (path, version)).read_response().status == 200


def test_without_a_host_nothing_else_is_answered(plain):
    for path in ('/status', '/'):
        with Client(plain.tcp) as c:
            assert c.send('GET %s HTTP/1.1\r\n\r\n' % path).read_response().status in (400, 403)


@pytest.mark.parametrize('host, status', [('ldcorn.internal', 200), ('LDCORN.internal:8001', 200),
                                          ('status.example', 200), ('127.0.0.1', 200),
                                          ('localhost', 200), ('x.ldcorn.internal', 403),
                                          ('ldcorn.internal.evil.example', 403)])
def test_admin_hosts_are_names_of_admin(tcp, host, status):
    assert tcp.ask('GET', '/status', Host=host) == status
    assert tcp.ask('POST', '/reload', 's3cret', Host=host) == status
    if status == 200:
        assert tcp.ask('GET', '/status', Host=host, Origin='http://' + host) == 200
    assert tcp.ask('POST', '/reload', Host=host) in (401, 403)


def test_a_403_says_which_rule(plain):
    def body(**fields):
        with Client(plain.tcp) as c:
            r = c.ask('GET', '/status', dict({'Host': '127.0.0.1'}, **fields))
        assert r.status == 403
        return r.body.decode()
    host, origin = body(Host='evil.example'), body(Origin='http://evil.example')
    assert 'Host' in host and 'admin_hosts' in host and 'evil.example' in host
    assert 'Origin' in origin and host != origin


def test_ready_path_stays_out_of_the_access_log():
    """A balancer asks each second."""
    with AutoWorker() as w, Proxy(upstream_config(w.address, 'ready_path = /up\n')) as p, p.connect() as c:
        for method in ('GET', 'HEAD', 'GET'):
            assert c.ask(method, '/up').status == 200
        assert c.ask('GET', '/seen').status == 200
        p.wait_access(lambda r: r['target'] == '/seen')
        assert [r['target'] for r in p.access()] == ['/seen']
        c.send(head('GET', '/up'))
        p.signal(signal.SIGTERM)
        assert c.read_response().status in (200, 503)
        p.wait_exit()
        assert [r['target'] for r in p.access()] == ['/seen'] and '/up' not in p.log().split('ready after')[1]


# --- a stop that waits ---

@pytest.mark.slow
def test_a_stop_that_waits_says_for_what():
    """After five seconds: where it is, which, for how long."""
    groups = ''.join('[%s]\nroutes = %s\ncmd = %s\n' % (name, route, counter())
                     for name, route in (('web', '*'), ('api', '/api'), ('quiet', '/quiet')))
    with Own(groups) as p, p.connect() as a, p.connect() as b, p.connect() as c:
        for client, target in ((a, '/gate?file=%s/go' % p.dir), (b, '/gate?file=%s/go&n=2' % p.dir),
                               (c, '/api?file=%s/go' % p.dir)):
            client.send(head('GET', target, {'X-Ask': 'gate'}))
        p.wait_status(lambda s: sum(g['in_flight'] for g in s['groups']) == 3)
        p.signal(signal.SIGTERM)
        p.wait_log('stopping')
        began = time.monotonic()
        text = p.wait_log(r'(?m)^.*\b2 requests inside web\.0\b.*(\n    .*)*', 9).group(0)
        assert 4 < time.monotonic() - began < 8
        assert re.search(r'GET /gate\?file=\S+ for \d+(\.\d+)?s', text), text
        p.wait_log(r'\b1 request inside api\.0\b.*GET /api\?file')
        assert not re.search(r'inside quiet', p.log())
        p.touch('go')
        for client in (a, b, c):
            assert client.read_response().status == 200
        p.wait_exit()


@pytest.mark.slow
def test_a_stop_that_waits_for_a_worker_says_so():
    """Nothing is inside it, and it does not end."""
    with Own(web('{socket}', '--stubborn', group='stop_timeout = 8s\n')) as p:
        pid, = p.pids()
        p.signal(signal.SIGTERM)
        p.wait_log(r'web\.0.*\b%d\b.*(not ended|has not|does not|still|waits|end)' % pid, 7.5)
        p.wait_exit(20)


def test_a_stop_that_is_quick_says_nothing_more():
    with Own(web()) as p:
        p.stop()
        assert 'inside' not in p.log()
