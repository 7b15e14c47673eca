"""What the program shows of itself: the admin address, its logs, its words at the start and at failures."""
import contextlib, json, os, re, signal, stat, subprocess, time

import pytest
from harness import AutoWorker, Client, Proxy, answer, cli, free_port, head, upstream_config, wait_for
from procs import Before, Own, counter, metric
from test_config import WHEN

OK = answer(b'ok')
WEB = '[web]\nroutes = *\n'


@pytest.fixture(scope='module')
def p():
    """Two groups, one with a limit, that have answered something."""
    with AutoWorker(lambda r, c: answer(b'x', '404 No' if 'no' in r.target else '200 OK')) as w:
        config = ('listen = {listen}\nadmin = {admin}\naccess_log = {dir}/access\n'
                  '[ml]\nroutes = /predict /embed\nupstream = %s\nmax_req_per_worker = 2\nqueue = 64\n'
                  '[web]\nroutes = *\ncmd = %s\nworkers = 2\n' % (w.address, counter()))
        with Proxy(config) as p, p.connect() as c:
            for target, status in (('/predict', 200), ('/embed?no', 404), ('/', 200), ('/x', 200)):
                assert c.ask('GET', target).status == status
            yield p


def shape(value, **types):
    """The fields are there and of these types; None in a tuple allows null."""
    for name, kind in types.items():
        assert name in value, '%s is missing in %s' % (name, sorted(value))
        kinds = kind if isinstance(kind, tuple) else (kind,)
        assert (None in kinds and value[name] is None) or \
            isinstance(value[name], tuple(k for k in kinds if k)), (name, value[name])


# --- what can be read ---

def test_server_and_healthz(p):
    code, fields, body = p.admin('GET', '/server')
    assert (code, body.strip()) == (200, b'ok')
    assert p.admin('GET', '/healthz')[0] == 200


def test_readyz():
    with Own('[one]\nroutes = /one\ncmd = %s\n[web]\nroutes = *\ncmd = %s\n'
             % (counter('{socket}', '--hold-listen={dir}/go'), counter()), wait=False).up() as p:
        p.wait_status(lambda s: p.pids('web'))
        code, _, body = p.admin('GET', '/readyz')
        assert code == 503 and b'one' in body and b'web' not in body
        assert p.admin('GET', '/healthz')[0] == 200
        p.touch('go')
        p.wait_status(lambda s: p.pids('one'))
        assert p.admin('GET', '/readyz')[0] == 200


def test_readyz_while_stopping():
    with Own(WEB + 'cmd = %s\n' % counter()) as p, p.connect() as c:
        admin = Client(p.admin_address)
        assert admin.ask('GET', '/readyz').status == 200
        c.send(head('GET', '/gate?file=%s/go' % p.dir))
        p.wait_status(lambda s: s['groups'][0]['workers'][0]['in_flight'] == 1)
        p.signal(signal.SIGTERM)
        with contextlib.suppress(ConnectionError):        # an admin address that is closed is not ready either
            assert wait_for(lambda: (lambda r: r.status != 200 and r)(admin.ask('GET', '/readyz'))).status == 503
        p.touch('go')
        assert c.read_response().status == 200
        admin.close()


def test_status(p):
    code, fields, body = p.admin('GET', '/status')
    assert code == 200 and fields['content-type'].startswith('application/json')
    s = json.loads(body)
    shape(s, version=str, pid=int, generation=int, uptime=(int, float), last_reload=(dict, None), groups=list)
    assert re.fullmatch(r'\d+\.\d+\.\d+', s['version']) and s['pid'] == p.pid
    assert [g['name'] for g in s['groups']] == ['ml', 'web']
    for g in s['groups']:
        shape(g, name=str, routes=list, queue=dict, latency=dict, workers=list)
        shape(g['queue'], len=int, cap=(int, None), oldest_ms=(int, float, None))
        assert len(g['workers']) == {'ml': 1, 'web': 2}[g['name']]
        for i, w in enumerate(g['workers']):
            shape(w, index=int, pid=(int, None), state=str, in_flight=int, tunnels=int, served=int,
                  rss=(int, None), uptime=(int, float), last_exit=(dict, str, None))
            assert w['index'] == i and w['state'] == 'ready' and w['in_flight'] == 0
    ml, web = s['groups']
    assert ml['routes'] == ['/predict', '/embed'] and web['routes'] == ['*'] and ml['queue']['cap'] == 64
    assert ml['workers'][0]['served'] == 2 and sum(w['served'] for w in web['workers']) == 2
    assert not ml['workers'][0]['pid'] and all(os.path.exists('/proc/%d' % w['pid']) for w in web['workers'])


def test_status_of_what_is_going_on():
    with Before('max_req_per_worker = 1\nqueue = 5\n') as b:
        b.send('/inside')
        b.worker.one()
        b.send('/waits')
        b.queued(1)
        wait_for(lambda: b.proxy.group('web')['queue']['oldest_ms'] > 20)
        g = b.proxy.group('web')
        assert g['queue']['len'] == 1 and g['queue']['cap'] == 5 and g['queue']['oldest_ms'] < 5000
        assert g['workers'][0]['in_flight'] == 1


def test_last_reload():
    with Own(WEB + 'cmd = %s\n' % counter()) as p:
        assert p.admin('POST', '/reload')[0] == 200
        last = p.status()['last_reload']
        shape(last, result=str, error=(str, None), at=(int, float, str), ms=(int, float))
        assert last['result'] == 'ok' and not last['error'] and 0 <= last['ms'] < 20_000
        p.write_config(p.config_text + 'wrong = 1\n')
        assert p.admin('POST', '/reload')[0] == 409
        last = p.status()['last_reload']
        assert last['result'] == 'failed' and 'wrong' in last['error']


def test_requests():
    with Before('max_req_per_worker = 1\n') as b:
        b.send('/first?a="b"\\', headers={'X-Request-Id': 'x'})
        b.worker.one()
        b.send('/second')
        b.queued(1)
        code, fields, body = b.proxy.admin('GET', '/requests')
        assert code == 200 and fields['content-type'].startswith('application/json')
        found = json.loads(body)
        found = found if isinstance(found, list) else found['requests']
        by_target = {r['target']: r for r in found}
        first, second = by_target['/first?a="b"\\'], by_target['/second']
        for r in (first, second):
            shape(r, group=str, phase=str, client=str, target=str, method=str)
            assert r['group'] == 'web' and r['client'].startswith('127.0.0.1')
            assert any(name.startswith('age') for name in r)
        assert first['worker'] == 0 and second['worker'] in (None, -1) and first['phase'] != second['phase']


NAMES = '''requests_total request_seconds worker_seconds queue_seconds queue_length queue_limit refused_total workers
slots slots_forced_total in_flight orphans tunnels retries_total worker_errors_total worker_exits_total
worker_in_flight worker_served_total worker_rss_bytes connections accepted_total bytes_total buffer_bytes
reloads_total generation start_time_seconds info'''.split()
BUCKETS = ['0.001', '0.005', '0.01', '0.025', '0.05', '0.1', '0.25', '0.5', '1', '2.5', '5', '10', '30', '60', '+Inf']
LABEL = r'[a-zA-Z_]\w*="(?:[^"\\\n]|\\[\\"n])*"'
SAMPLE = re.compile(r'([a-zA-Z_:][\w:]*)(?:\{(%s(?:,%s)*)\})? (-?\d+(?:\.\d+)?(?:e[+-]?\d+)?|NaN|[+-]Inf)' % (LABEL, LABEL))


def exposition(text):
    """Prometheus text by its strict grammar: -> {family: type}, [(name, {label: value}, number)]."""
    assert text.endswith('\n') and '\n\n' not in text
    types, found, last = {}, [], None
    for line in text[:-1].split('\n'):
        if m := re.fullmatch(r'# TYPE (ldcorn_[a-z_]+) (counter|gauge|histogram)', line):
            assert m.group(1) not in types, 'twice: ' + line
            types[m.group(1)] = m.group(2)
            last = m.group(1)
        elif not re.fullmatch(r'# HELP ldcorn_[a-z_]+ \S.*', line):
            m = SAMPLE.fullmatch(line)
            assert m, 'not a sample: %r' % line
            base = re.sub(r'_(bucket|sum|count)$', '', m.group(1)) if types.get(last) == 'histogram' else m.group(1)
            assert base == last, '%s stands below the type of %s' % (m.group(1), last)
            found.append((m.group(1), dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', m.group(2) or '')), float(m.group(3))))
    assert len({(n, tuple(sorted(labels.items()))) for n, labels, _ in found}) == len(found), 'a sample came twice'
    return types, found


def test_metrics(p):
    wait_for(lambda: metric(p, 'ldcorn_requests_total') == 4)
    code, fields, body = p.admin('GET', '/metrics')
    assert code == 200 and fields['content-type'].startswith('text/plain')
    types, found = exposition(body.decode())
    assert not {'ldcorn_' + n for n in NAMES} - set(types), 'missing'
    for name, kind in types.items():
        assert (kind == 'counter') == name.endswith('_total'), (name, kind)
        assert (kind == 'histogram') == (name in ('ldcorn_request_seconds', 'ldcorn_worker_seconds',
                                                  'ldcorn_queue_seconds')), (name, kind)

    def get(name, **labels):
        return [v for n, have, v in found if n == 'ldcorn_' + name and labels.items() <= have.items()]
    assert get('requests_total', group='ml', **{'class': '2xx'}) == get('requests_total', group='ml', **{'class': '4xx'}) == [1]
    assert sum(get('requests_total', group='web', **{'class': '2xx'})) == 2
    assert get('slots', group='ml') == [2] and get('queue_limit', group='ml') == [64]
    assert sum(get('workers', group='web', state='ready')) == 2 and sum(get('workers', group='web')) == 2
    assert sum(get('worker_served_total', group='web')) == 2 and len(get('worker_rss_bytes', group='web')) == 2
    assert min(get('worker_rss_bytes', group='web')) > 1e6
    assert abs(get('start_time_seconds')[0] - time.time()) < 600 and get('info') == [1]
    assert {labels['index'] for n, labels, _ in found if n == 'ldcorn_worker_in_flight' and labels['group'] == 'web'} == {'0', '1'}
    assert {labels['direction'] for n, labels, _ in found if n == 'ldcorn_bytes_total'} and sum(get('bytes_total')) > 100


@pytest.mark.parametrize('name', ['request_seconds', 'worker_seconds', 'queue_seconds'])
def test_histograms(p, name):
    _, found = exposition(p.admin('GET', '/metrics')[2].decode())
    buckets = [(labels['le'], v) for n, labels, v in found
               if n == 'ldcorn_%s_bucket' % name and labels['group'] == 'web']
    assert [le for le, _ in buckets] == BUCKETS
    values = [v for _, v in buckets]
    count, = [v for n, labels, v in found if n == 'ldcorn_%s_count' % name and labels['group'] == 'web']
    total, = [v for n, labels, v in found if n == 'ldcorn_%s_sum' % name and labels['group'] == 'web']
    assert values == sorted(values) and values[-1] == count and total >= 0
    assert name == 'queue_seconds' or count == 2


def test_metrics_of_refusals_and_errors_have_all_their_labels():
    """A rate needs the zero before the first one."""
    with Before() as b:
        _, found = exposition(b.proxy.admin('GET', '/metrics')[2].decode())
        for name, label, values in (('refused_total', 'reason', 'full timeout client_gone no_worker'),
                                    ('worker_errors_total', 'kind', 'connect reset timeout protocol')):
            have = {labels[label] for n, labels, _ in found if n == 'ldcorn_' + name}
            assert set(values.split()) <= have


@pytest.mark.parametrize('method,path,status', [
    ('GET', '/nothing', 404), ('POST', '/status', 405), ('GET', '/reload', 405), ('GET', '/stop', 405),
    ('DELETE', '/metrics', 405), ('GET', '/statusx', 404), ('POST', '/', 404)])
def test_what_admin_does_not_know(p, method, path, status):
    code, _, _ = p.admin(method, path)
    assert code == status or (path == '/' and code == 405)


def test_admin_head_and_keepalive(p):
    with Client(p.admin_address) as c:
        for _ in range(3):
            assert c.ask('GET', '/server').status == 200
        assert c.ask('HEAD', '/status').status == 200
        assert c.ask('GET', '/server').status == 200
        c.send(b'nonsense\r\n\r\n')
        assert c.read_response().status == 400 and c.eof()


# --- what changes something ---

def test_stop():
    with Own(WEB + 'cmd = %s\n' % counter()) as p, p.connect() as c:
        c.send(head('GET', '/gate?file=%s/go' % p.dir))
        p.wait_status(lambda s: s['groups'][0]['workers'][0]['in_flight'] == 1)
        assert p.admin('POST', '/stop')[0] == 202
        p.touch('go')
        assert c.read_response().status == 200 and p.wait_exit() == 0


def test_reload_waits_for_its_result():
    with Own(WEB + 'cmd = %s\n' % counter()) as p:
        old, = p.pids()
        code, _, body = p.admin('POST', '/reload')
        assert code == 200 and p.get('/') != str(old)


# --- who may ---

def test_a_unix_admin_is_private(p):
    path = p.admin_address[5:]
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def listening(sock):
    """A client, or None while the name is there and nobody listens behind it yet."""
    with contextlib.suppress(ConnectionRefusedError):
        return Client('unix:' + sock)


def test_admin_is_in_runtime_dir_by_default():
    with AutoWorker() as w:
        path = '/tmp/lda-%d' % free_port()
        config = 'listen = {listen}\nruntime_dir = %s\n[web]\nroutes = *\nupstream = %s\n' % (path, w.address)
        with Proxy(config) as p:
            p.stop()                         # the harness sets `admin` where a file does not: without that
            p.proc = subprocess.Popen([p.command[0], 'groups.ini'], cwd=p.dir)
            p.pid = p.proc.pid
            sock = wait_for(lambda: next((os.path.join(path, n) for n in (os.listdir(path) if os.path.isdir(path) else ())
                                          if stat.S_ISSOCK(os.stat(os.path.join(path, n)).st_mode)), None))
            with wait_for(lambda: listening(sock)) as c:
                assert c.ask('GET', '/server').status == 200
            assert stat.S_IMODE(os.stat(sock).st_mode) == 0o600
            p.stop()
            assert not os.path.exists(path)


def test_admin_off():
    with AutoWorker() as w:
        config = 'listen = {listen}\nadmin = off\n[web]\nroutes = *\nupstream = %s\n' % w.address
        with Proxy(config) as p:
            run = p.dir + '/run'
            assert not [n for n in os.listdir(run) if stat.S_ISSOCK(os.stat(os.path.join(run, n)).st_mode)]
            assert re.search(r'(?m)^  admin   off', p.log())


class Tcp(Proxy):
    def __init__(self, top='', **kw):
        self.tcp = ('127.0.0.1', free_port())
        self.fake = AutoWorker()
        super().__init__('listen = {listen}\nadmin = 127.0.0.1:%d\n%s\n[web]\nroutes = *\nupstream = %s\n'
                         % (self.tcp[1], top, self.fake.address), **kw)

    def __exit__(self, *exc):
        try:
            super().__exit__(*exc)
        finally:
            self.fake.close()

    def ask(self, method, path, token=None, **fields):
        fields = {n.replace('_', '-'): v for n, v in fields.items()}
        if token:
            fields['Authorization'] = token if ' ' in token else 'Bearer ' + token
        with Client(self.tcp) as c:
            return c.ask(method, path, dict({'Host': '127.0.0.1:%d' % self.tcp[1]}, **fields),
                         b'' if method == 'POST' else None).status


@pytest.fixture(scope='module')
def tcp():
    with Tcp('admin_token = s3cret-token') as p:
        yield p


READ = ['/status', '/requests', '/server', '/healthz', '/readyz', '/metrics']


@pytest.mark.parametrize('path', READ)
def test_reading_on_loopback_needs_no_token(tcp, path):
    assert tcp.ask('GET', path) == 200


@pytest.mark.parametrize('token,status', [
    (None, 401), ('wrong', 401), ('s3cret-toke', 401), ('s3cret-tokenx', 401), ('S3cret-token', 401),
    ('Basic s3cret-token', 401), ('Bearer  ', 401), ('s3cret-token', 200), ('bearer s3cret-token', 200)])
def test_changing_needs_the_token(tcp, token, status):
    before = tcp_generation(tcp)
    assert tcp.ask('POST', '/reload', token) == status
    assert (tcp_generation(tcp) != before) == (status == 200)


def tcp_generation(tcp):
    with Client(tcp.tcp) as c:
        return json.loads(c.ask('GET', '/status', {'Host': 'localhost'}).body)['generation']


def test_without_a_token_nobody_may_change_anything():
    with Tcp() as p:
        assert p.ask('POST', '/stop') == p.ask('POST', '/stop', 'x') == p.ask('POST', '/reload') == 401
        assert p.ask('GET', '/server') == 200 and p.alive()


def test_the_token_is_never_printed(tcp):
    assert 's3cret' not in tcp.log()
    assert all(b's3cret' not in Client(tcp.tcp).ask('GET', path, {'Host': 'localhost'}).raw for path in READ)
    config = 'admin = 127.0.0.1:%d\nadmin_token = s3cret-token\n%supstream = 127.0.0.1:9\n' % (free_port(), WEB)
    run = cli('-T', 'groups.ini', config=config)
    assert run.status == 0 and 'admin_token' in run.out and 's3cret' not in run.out + run.err


@pytest.mark.parametrize('host,well', [
    ('localhost', True), ('localhost:80', True), ('127.0.0.1', True), ('[::1]:8001', True), ('10.1.2.3:8001', True),
    ('LOCALHOST', True), ('evil.example', False), ('localhost.evil.example', False), ('127.0.0.1.evil.example', False),
    ('evil.example:8001', False)])
def test_host_must_be_an_address_or_localhost(tcp, host, well):
    """A web page that has its name resolved to this machine sends that name."""
    for path in ('/status', '/requests', '/'):
        status = tcp.ask('GET', path, Host=host)
        assert status == 200 if well else status in (400, 403, 421)


@pytest.mark.parametrize('origin,well', [('http://evil.example', False), ('null', False), ('http://localhost:1', False),
                                         ('same', True)])
def test_origin_must_be_the_host(tcp, origin, well):
    host = '127.0.0.1:%d' % tcp.tcp[1]
    origin = 'http://' + host if origin == 'same' else origin
    assert tcp.ask('GET', '/status', Origin=origin, Host=host) == (200 if well else 403)
    assert tcp.ask('POST', '/reload', 's3cret-token', Origin=origin, Host=host) == (200 if well else 403)


# --- the access log ---

FIELDS = '''time id client method host target proto status bytes_in bytes_out group worker pid recv_ms queue_ms
connect_ms ttfb_ms total_ms reason user_agent referer'''.split()


def test_access_log_json():
    with Before('max_req_per_worker = 1\n') as b:
        slow = b.send('/slow')
        _, conn = b.worker.one()
        c = b.send('/a?b=%22c', 'POST', b'12345', {'Host': 'example.test', 'User-Agent': 'a "quoted" \\ one', 'Referer': 'ä\tb'.encode().decode('latin-1')})
        b.queued(1)
        time.sleep(0.05)
        conn.send(OK)
        conn.read_request()
        conn.send(answer(b'x' * 1000, '404 Not Found'))
        assert slow.read_response().status == 200 and c.read_response().status == 404
        r = b.record('/a?b=%22c')
        assert not set(FIELDS) - set(r), 'missing'
        assert list(r) == FIELDS, 'in this order'
        assert (r['method'], r['host'], r['proto'], r['status'], r['group'], r['worker']) == \
            ('POST', 'example.test', 'HTTP/1.1', 404, 'web', 0)
        assert r['client'].startswith('127.0.0.1') and not r['reason'] and r['id']
        assert r['bytes_in'] >= 5 and r['bytes_out'] >= 1000
        assert r['user_agent'] == 'a "quoted" \\ one' and r['referer'] == 'ä\tb'
        assert 40 <= r['queue_ms'] <= r['total_ms'] < 5000 and r['ttfb_ms'] <= r['total_ms']
        assert re.match(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d', r['time'])


def test_access_log_text():
    """The combined format, and the timings behind it."""
    with AutoWorker() as w:
        config = 'listen = {listen}\nadmin = {admin}\naccess_log = {dir}/access\n[web]\nroutes = *\nupstream = %s\n' % w.address
        with Proxy(config) as p, p.connect() as c:
            c.ask('GET', '/x', {'User-Agent': 'say "hi"\\', 'Referer': 'http://r/'})
            r = p.wait_access(lambda r: True)
            assert re.fullmatch(
                r'127\.0\.0\.1 - - \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "GET /x HTTP/1\.1" 200 \d+ '
                r'"http://r/" "say (\\"|\\x22)hi(\\"|\\x22)(\\\\|\\x5[cC])" .*', r['line']), r['line']
            assert re.search(r'\d', r['line'].rsplit('"', 1)[1]), 'timings'
            assert 'web' in r['line'].rsplit('"', 1)[1]


def test_no_injection_into_the_access_log():
    with Before() as b:
        with b.proxy.connect() as c:
            c.send(b'GET / HTTP/1.1\r\nHost: x\r\nUser-Agent: a\x85\xe2\x80\xa8b\xff\r\n\r\n')
            b.worker.one(OK)
            assert c.read_response().status == 200
        b.record('/')
        with open(b.proxy.access_path, 'rb') as f:
            line, = f.read().decode('utf-8').split('\n')[:-1]
        assert json.loads(line)['user_agent'].startswith('a')


@pytest.mark.parametrize('where', ['stdout', 'stderr'])
def test_access_log_to_a_stream(where):
    with AutoWorker() as w:
        config = ('listen = {listen}\nadmin = {admin}\naccess_log = %s\n[web]\nroutes = *\nupstream = %s\n'
                  % (where, w.address))
        with Proxy(config) as p, p.connect() as c:
            c.ask('GET', '/findme')
            path = os.path.join(p.dir, {'stdout': 'out', 'stderr': 'log'}[where])
            wait_for(lambda: re.search(r'(?m)^127\.0\.0\.1 .*"GET /findme HTTP/1\.1" 200', open(path).read()))


def test_own_log_json():
    with AutoWorker() as w:
        with Proxy(upstream_config(w.address)) as p:
            lines = [json.loads(line) for line in p.log().splitlines() if line.startswith('{')]
            assert any('ready after' in json.dumps(line) for line in lines)
            assert all('time' in line and 'level' in line for line in lines)


@pytest.mark.parametrize('level,seen', [('error', False), ('warn', False), ('info', True), ('debug', True)])
def test_log_level(level, seen):
    with AutoWorker() as w:
        config = WEB + 'upstream = %s\n' % w.address
        with Own(config, top='log_level = %s\n' % level, wait=False).up() as p:
            p.wait_status(lambda s: s['groups'][0]['workers'][0]['state'] == 'ready')
            if seen:
                p.wait_log(r'^%s info ' % WHEN)
            else:
                p.stop()
                assert not re.search(r'(?m)^%s info ' % WHEN, p.log())


def test_refusals_are_summed_up():
    """Which limit, its present value, and the key to change."""
    with Before('max_req_per_worker = 1\nqueue = 1\n') as b:
        b.send('/inside')
        b.worker.one()
        b.send('/waits')
        b.queued(1)
        with b.proxy.connect() as c:
            for _ in range(30):
                assert c.ask('GET', '/').status == 503
        text = b.proxy.wait_log(r'web.*queue full.*queue = 1\b.*', timeout=14).group(0)
        assert re.search(r'oldest waits \d+(\.\d+)?m?s, 1 of 1 slots? busy', text), text
        assert len(re.findall('queue full', b.proxy.log())) <= 24, 'ten a second, and their sum'


# --- the words at the start and at a failure ---

def test_text_of_the_start():
    port = free_port()
    config = ('listen = {listen}\nadmin = 127.0.0.1:%d\n'
              '[ml]\nroutes = /predict /embed\ncmd = %s\nworkers = 2\nmax_req_per_worker = 1\nqueue = 64\n'
              'queue_timeout = 2m\nrun_timeout = 2m\n'
              '[live]\nroutes = /ws\ncmd = %s\nreload = off\n'
              '[web]\nroutes = *\ncmd = %s\nworkers = 4\n' % (port, counter(), counter(), counter()))
    with Proxy(config) as p:
        lines = p.log().splitlines()
        expected = [r'ldcorn \d+\.\d+\.\d+, pid %d, groups\.ini' % p.pid,
                    r'  listen  http://127\.0\.0\.1:%d' % p.port,
                    r'  admin   http://127\.0\.0\.1:%d/ .*' % port,
                    r'  ml      /predict /embed               2 workers, 1 request each, queue 64, wait 2m, run 2m',
                    r'  live    /ws                           1 worker, no limit, kept on reload',
                    r'  web     \*                             4 workers, no limit',
                    r'  logs    workers to stderr; access log off \(access_log = stdout\)']
        for line, pattern in zip(lines, expected):
            assert re.fullmatch(pattern, line), (line, pattern)
        rest = '\n'.join(lines[len(expected):])
        for pattern in (r'web: 4 of 4 ready, \d+\.\ds', r'ml: 2 of 2 ready, \d+\.\ds', r'live: 1 of 1 ready, \d+\.\ds',
                        r'ready after \d+\.\ds\. Reload: kill -HUP %d\. Stop: (Ctrl-C|kill %d)' % (p.pid, p.pid)):
            assert re.search(r'(?m)^%s info  %s$' % (WHEN, pattern), rest), (pattern, rest)
        assert re.fullmatch(r'.*ready after.*', lines[-1])


def test_text_of_a_worker_that_ends_before_it_is_ready():
    config = '[ml]\nroutes = /predict /embed\ncmd = %s\n' % counter('{socket}', '--fail-if={dir}/bad')
    with Own(config, files={'bad': ''}, wait=False).up() as p:
        p.wait_log('next try.*')
        line = p.config_text.split('\n').index(config.split('\n')[2]) + 1
        text = p.log()
        assert re.search(
            r"(?m)^%s error ml\.0 \(pid \d+\) ended before it was ready: exit 1 after \d+\.\ds\n"
            r"(    \| .*\n)*    \| ModuleNotFoundError: No module named 'torch'\n"
            r"    ran: \S+ .*   in: /\S+   \(groups\.ini:%d\)\n"
            r"    next try in \d\.\ds; until one is ready requests to /predict and /embed wait up to queue_timeout$" % (WHEN, line), text), text


def test_text_of_an_address_in_use():
    with AutoWorker() as w:
        config = 'listen = {listen}\nadmin = {admin}\n[web]\nroutes = *\nupstream = %s\n' % w.address
        with Proxy(config) as p:
            run = cli('groups.ini', config='listen = 127.0.0.1:%d\nruntime_dir = {dir}/run\n'
                      '[web]\nroutes = *\nupstream = %s\n' % (p.port, w.address))
            assert run.status == 1
            assert re.search(r'(?m)^ldcorn: cannot listen on 127\.0\.0\.1:%d: address already in use \(groups\.ini:1\)$'
                             % p.port, run.err), run


REFUSALS = 'full timeout client_gone no_worker rate client_limit memory slow'.split()


def test_status_counts_every_kind_of_refusal():
    with AutoWorker() as w, Proxy(upstream_config(w.address, group='rate = 1/m\n')) as p, p.connect() as c:
        assert [c.ask('GET', '/').status for _ in range(3)] == [200, 429, 429]
        refused = {k: n for k, n in p.group('web')['refused'].items() if k in REFUSALS}
        assert refused == {'full': 0, 'timeout': 0, 'client_gone': 0, 'no_worker': 0, 'rate': 2, 'client_limit': 0, 'memory': 0, 'slow': 0}
        assert {reason: metric(p, 'ldcorn_refused_total', reason=reason) for reason in refused} == refused
