"""Workers that dial in, names of upstream workers, and groups that workers join and quit."""
import os, re, signal, socket, subprocess, sys

import pytest
from harness import AutoWorker, FakeWorker, Proxy, WorkerConn, answer, cli, free_port, head, wait_for

OK = answer('ok')


class Hub(Proxy):
    """A proxy with one group that workers dial."""

    def __init__(self, group='', tcp=False, top='', routes='*', **kw):
        self.where = '127.0.0.1:%d' % free_port() if tcp else 'unix:{dir}/hub'
        super().__init__('listen = {listen}\nadmin = {admin}\naccess_log = {dir}/access\n%s[hub]\nroutes = %s\ndial_in = %s\n%s'
                         % (top, routes, self.where, group), **kw)
        self.where = self.where.replace('{dir}', self.dir)

    def dial(self):
        if self.where.startswith('unix:'):
            s = socket.socket(socket.AF_UNIX)
            s.connect(self.where[5:])
        else:
            host, port = self.where.rsplit(':', 1)
            s = socket.create_connection((host, int(port)))
        s.settimeout(10)
        return WorkerConn(s)

    def slots(self, n):
        self.wait_status(lambda s: s['groups'][0]['slots'] == n)

    def send(self, target='/', method='GET', **kw):
        return self.connect().send(head(method, target, **kw))

    def queued(self, n):
        self.wait_status(lambda s: s['groups'][0]['queue']['len'] == n)


@pytest.mark.parametrize('tcp', [False, True])
def test_each_connection_is_a_slot(tcp):
    """More jobs than slots: they wait in order, and a connection that was answered takes the next."""
    with Hub(tcp=tcp) as p:
        workers = [p.dial(), p.dial()]
        p.slots(2)
        clients = []
        for i in range(5):
            clients.append(p.send('/%d' % i))
            p.wait_status(lambda s: s['groups'][0]['in_flight'] + s['groups'][0]['queue']['len'] == i + 1)
        p.queued(3)
        order = []
        for n, turn in enumerate((0, 1, 0, 1, 0)):
            order.append(workers[turn].read_request().target)
            workers[turn].send(OK)
            p.queued(max(0, 2 - n))
        assert sorted(order[:2]) == ['/0', '/1'] and order[2:] == ['/2', '/3', '/4']
        assert all(c.read_response().body == b'ok' for c in clients)
        assert p.group('hub')['slots'] == 2
        for w in workers:
            w.close()
        p.slots(0)


def test_requests_wait_in_order_while_nobody_has_dialled():
    with Hub() as p:
        assert p.admin('GET', '/readyz')[0] == 503
        clients = []
        for i in range(4):
            clients.append(p.send('/%d' % i))
            p.queued(i + 1)
        with p.dial() as w:
            for i in range(4):
                assert w.read_request().target == '/%d' % i
                w.send(OK)
            assert all(c.read_response().status == 200 for c in clients) and p.admin('GET', '/readyz')[0] == 200


def test_nobody_dials_within_queue_timeout():
    with Hub('queue_timeout = 300ms\n') as p, p.send() as c:
        r = c.read_response()
        assert r.status == 503 and p.wait_access(lambda r: True)['line'].endswith(' reason=timeout')


def test_the_longest_idle_connection_is_next():
    with Hub() as p:
        workers = []
        for n in range(3):
            workers.append(p.dial())
            p.slots(n + 1)
        for turn in (0, 1, 2, 0, 1, 2):
            with p.send('/') as c:
                workers[turn].read_request()
                workers[turn].send(OK)
                assert c.read_response().status == 200


@pytest.mark.parametrize('last', [answer('ok', headers=[('Connection', 'close')]), b'HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok',
                                  b'HTTP/1.1 200 OK\r\n\r\nok'])
def test_one_shot_workers(last):
    """An answer that ends the connection ends the slot."""
    with Hub() as p:
        for _ in range(3):
            with p.dial() as w, p.send('/') as c:
                assert w.read_request().target == '/'
                w.send(last)
                if b'Content-Length' not in last:
                    w.close()
                assert c.read_response().body == b'ok'
                if b'Content-Length' in last:
                    assert w.eof()
            p.slots(0)


def test_a_standard_library_handler_serves_a_dialled_socket():
    """A WSGI application behind wsgiref's own request handler, unchanged."""
    script = '''
import socket, sys
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

def app(environ, start_response):
    body = environ['wsgi.input'].read(int(environ.get('CONTENT_LENGTH') or 0))
    start_response('200 OK', [('Content-Type', 'text/plain'), ('Content-Length', str(len(body) + len(environ['PATH_INFO'])))])
    return [environ['PATH_INFO'].encode(), body]

class Quiet(WSGIRequestHandler):
    def log_message(self, *a):
        pass

server = WSGIServer(('127.0.0.1', 0), Quiet)      # for the environment only, it never accepts
server.set_app(app)
while True:
    s = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
    if s.recv(1, socket.MSG_PEEK):
        Quiet(s, ('127.0.0.1', 0), server)
    s.close()
'''
    with Hub(tcp=True) as p:
        worker = subprocess.Popen([sys.executable, '-c', script, p.where.rsplit(':', 1)[1]])
        try:
            for i in range(30):
                with p.connect() as c:
                    r = c.ask('POST', '/p%d' % i, body=b'x' * i)
                    assert r.status == 200 and r.body == b'/p%d' % i + b'x' * i
        finally:
            worker.kill()
            worker.wait()


def test_a_connection_that_is_lost_before_a_byte_was_sent():
    """Closed while idle: nothing is sent there, the request waits for the next one."""
    with Hub() as p:
        gone = [p.dial() for _ in range(3)]
        p.slots(3)
        for w in gone:
            w.close()
        with p.send('/') as c, p.dial() as w:
            assert w.read_request().target == '/'
            w.send(OK)
            assert c.read_response().status == 200


@pytest.mark.parametrize('method, status', [('GET', 200), ('HEAD', 200), ('POST', 502)])
@pytest.mark.parametrize('how', ['fin', 'rst'])
def test_a_connection_that_is_lost_with_a_request_on_it(method, status, how):
    """Safe requests go back to the head of the line once, others get 502."""
    with Hub() as p, p.dial() as first:
        p.slots(1)
        c = p.send('/lost', method, **(dict(body=b'x') if method == 'POST' else {}))
        assert first.read_request().target == '/lost'
        behind = p.send('/behind')
        p.queued(1)
        first.rst() if how == 'rst' else first.close()
        p.slots(0)
        p.queued(2 if status == 200 else 1)
        with p.dial() as w:
            if status == 200:
                assert w.read_request().target == '/lost'
                w.send(answer('' if method == 'HEAD' else 'ok'))
            assert w.read_request().target == '/behind'
            w.send(OK)
            assert c.read_response(method).status == status and behind.read_response().status == 200


def test_a_safe_request_goes_back_only_once():
    with Hub() as p, p.dial() as a:
        with p.send('/') as c:
            a.read_request()
            a.close()
            p.slots(0)
            with p.dial() as b:
                b.read_request()
            r = c.read_response()
            assert r.status == 502


def test_bytes_from_an_idle_worker_close_it():
    with Hub() as p, p.dial() as w:
        p.slots(1)
        w.send(b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n')
        assert w.eof()
        p.slots(0)


def test_a_worker_killed_at_each_byte():
    """Of the request it has read and of the answer it has sent: nothing is run twice, nothing hangs, and what cannot have been run is not lost."""
    full = b'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone'
    with Hub('client_abort = close\n') as p:
        with p.dial() as w, p.send('/job', 'POST', body=b'12345') as c:
            seen = w.read_until(b'12345')
            w.send(full)
            assert c.read_response().body == b'done'
        for n in range(0, len(seen), 7):            # killed after n bytes of the request
            with p.dial() as w, p.send('/job', 'POST', body=b'12345') as c:
                if n:
                    w.read_exact(n)
                else:
                    p.wait_status(lambda s: s['groups'][0]['in_flight'] == 1)
                w.rst()
                assert c.read_response().status == 502
            p.slots(0)
        for n in range(len(full)):                  # and after n bytes of the answer
            with p.dial() as w, p.send('/job', 'POST', body=b'12345') as c:
                w.read_until(b'12345')
                w.send(full[:n]).close()
                if n <= full.index(b'done') - 1 or n == full.index(b'done'):
                    r = c.read_response() if n < full.index(b'done') else None
                    assert r is None or r.status == 502
                if n >= full.index(b'done'):
                    got = c.read_all()
                    assert got.startswith(b'HTTP/1.1 200 ') and not got.endswith(b'done')
            p.slots(0)
        assert p.group('hub')['in_flight'] == 0 and p.group('hub')['queue']['len'] == 0


def test_most_connections():
    with Hub('workers = 2\n') as p:
        kept = [p.dial(), p.dial()]
        p.slots(2)
        with p.dial() as third:
            assert third.eof()
        p.wait_log(r'warn  hub: a worker that dialled in was turned away: there are `workers` of them already')
        kept[0].close()
        p.slots(1)
        with p.dial():
            p.slots(2)


def test_dial_allow():
    port = free_port()
    text = 'listen = {listen}\nadmin = {admin}\n[hub]\nroutes = *\ndial_in = 0.0.0.0:%d\ndial_allow = %s\n'
    with Proxy(text % (port, '10.0.0.0/8')) as p, socket.create_connection(('127.0.0.1', port)) as s:
        assert s.recv(1) == b''
        p.wait_log('turned away: its address is not in `dial_allow`')
    with Proxy(text % (port, '127.0.0.0/8')) as p, socket.create_connection(('127.0.0.1', port)):
        p.wait_status(lambda s: s['groups'][0]['slots'] == 1)


def test_the_socket_file_has_a_mode():
    with Hub() as p:
        assert os.stat(p.where[5:]).st_mode & 0o777 == 0o600
    with Proxy('listen = {listen}\nadmin = {admin}\n[hub]\nroutes = *\ndial_in = unix:{dir}/hub mode=0660\n') as p:
        assert os.stat(p.dir + '/hub').st_mode & 0o777 == 0o660


def test_connections_survive_a_reload():
    with Hub() as p, p.dial() as idle, p.dial() as busy:
        p.slots(2)
        c = p.send('/x')
        w, other = wait_for(lambda: next(([w, o] for w, o in ((idle, busy), (busy, idle)) if not w.silent(0.01)), None))
        w.read_request()
        p.write_config(p.config_text.replace('[hub]\n', '[hub]\nqueue = 5\n').replace('routes = *', 'routes = / /y'))
        assert p.admin('POST', '/reload')[0] == 200
        w.send(OK)
        assert c.read_response().status == 200 and p.group('hub')['slots'] == 2 and p.group('hub')['queue']['cap'] == 5
        with p.send('/y') as c:
            other.read_request()
            other.send(OK)
            assert c.read_response().status == 200


def test_a_reload_that_moves_or_removes_the_address():
    with Hub(tcp=True) as p, p.dial() as old:
        p.slots(1)
        port = free_port()
        before = p.where
        p.write_config(p.config_text.replace(before, '127.0.0.1:%d' % port))
        assert p.admin('POST', '/reload')[0] == 200
        p.slots(1)                                       # who is there stays
        with pytest.raises(ConnectionRefusedError):
            p.dial()
        p.where = '127.0.0.1:%d' % port
        with p.dial():
            p.slots(2)
        p.write_config(p.config_text.replace('[hub]', '[other]').replace('dial_in = ' + before, 'upstream = 127.0.0.1:1'))
        assert p.admin('POST', '/reload')[0] == 200
        assert old.eof()


def test_a_stop_serves_what_is_inside_and_closes_idle_ones():
    with Hub() as p, p.dial() as a, p.dial() as b:
        p.slots(2)
        c = p.send('/')
        w, other = wait_for(lambda: next(([w, o] for w, o in ((a, b), (b, a)) if not w.silent(0.01)), None))
        w.read_request()
        p.signal(signal.SIGTERM)
        p.wait_log('stopping')
        w.send(OK)
        assert c.read_response().status == 200 and other.eof() and w.eof()
        p.wait_exit()


def test_upgrades_over_a_dialled_connection():
    with Hub() as p, p.dial() as w:
        p.slots(1)
        c = p.send('/ws', headers={'Connection': 'Upgrade', 'Upgrade': 'websocket'})
        w.read_request()
        w.send(b'HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello')
        assert c.read_response().status == 101 and c.read_exact(5) == b'hello'
        c.send(b'ping')
        assert w.read_exact(4) == b'ping'
        p.slots(0)
        c.close()
        assert w.eof()


def test_run_timeout_and_a_client_that_leaves():
    """After 504 the slot stays with the worker until it answers; then it is free again."""
    with Hub('run_timeout = 300ms\n') as p, p.dial() as w:
        with p.send('/') as c:
            w.read_request()
            assert c.read_response().status == 504
        with p.send('/next') as c:
            p.queued(1)
            w.send(OK)
            assert w.read_request().target == '/next'
            w.send(OK)
            assert c.read_response().status == 200


@pytest.mark.parametrize('lines, hint', [
    ('dial_in = 0.0.0.0:9\n', 'dial_allow'), ('dial_in = unix:/tmp/x\nmax_req_per_worker = 1\n', 'does not go with `dial_in`'),
    ('dial_in = unix:/tmp/x\nhealth_path = /h\n', 'does not go with'), ('dial_in = unix:/tmp/x\nbalance = hash\n', 'no index'),
    ('dial_in = unix:/tmp/x\ncmd = true {socket}\n', 'twice what to run'), ('dial_in = unix:/tmp/x\non_timeout = restart\n', 'processes of our own'),
    ('dial_in = 127.0.0.1:1 127.0.0.1:2\n', 'one address'), ('dial_in = nowhere\n', 'host:port'),
    ('dial_in = unix:/tmp/x\ndial_allow = everybody\n', 'not a network'),
    ('dial_in = unix:/tmp/x\n[b]\nroutes = /b\ndial_in = unix:/tmp/x\n', 'dials in at')])
def test_what_is_refused(lines, hint):
    run = cli('-t', 'groups.ini', config='[a]\nroutes = *\n' + lines)
    assert run.status == 2 and hint in run.err and re.search(r'^groups\.ini:\d+:\d+: ', run.err, re.M), run


# --- names ---

def test_names_are_resolved_at_the_start_and_at_each_reload():
    name = socket.gethostname()
    try:
        ip = socket.gethostbyname(name)
    except OSError:
        pytest.skip('this machine does not know its own name')
    with AutoWorker(lambda r, c: OK) as a, AutoWorker(lambda r, c: answer('b')) as b:
        ports = [w.address.rsplit(':', 1)[1] for w in (a, b)]
        if ip != '127.0.0.1':
            pytest.skip('its name is not loopback')
        with Proxy('listen = {listen}\nadmin = {admin}\n[web]\nroutes = *\nupstream = %s:%s\n' % (name, ports[0])) as p:
            with p.connect() as c:
                assert c.ask('GET', '/').body == b'ok'
            assert [w['address'] for w in p.group('web')['workers']] == ['127.0.0.1:' + ports[0]]
            p.write_config(p.config_text.replace(name + ':' + ports[0], '%s:%s %s:%s 127.0.0.1:%s' % (name, ports[1], name, ports[1], ports[1])))
            assert p.admin('POST', '/reload')[0] == 200
            p.wait_status(lambda s: [w['address'] for w in s['groups'][0]['workers']] == ['127.0.0.1:' + ports[1]])
            with p.connect() as c:
                assert c.ask('GET', '/').body == b'b'
            p.write_config(p.config_text.replace(name + ':' + ports[1], 'no-such-host.invalid:80', 1))
            code, _, body = p.admin('POST', '/reload')
            assert code == 409 and b'cannot resolve `no-such-host.invalid:80`' in body and b'groups.ini:5:12' in body, body
            with p.connect() as c:
                assert c.ask('GET', '/').body == b'b'
            for _ in range(5):
                p.signal(signal.SIGHUP)
            p.wait_status(lambda s: not s['reloading'])
            assert p.alive()


def test_a_name_that_is_not_known_at_the_start():
    run = cli('groups.ini', config='[web]\nroutes = *\nupstream = no-such-host.invalid:80\n')
    assert run.status == 1 and 'groups.ini:3:12: cannot resolve `no-such-host.invalid:80`' in run.err, run


def test_mistyped_addresses_are_no_names():
    for text in ('1.2.3:80', '1.2.3.4.5:80', 'a b:80'.split()[0], 'host:0', 'host:http', '-:80', 'a/b:80'):
        run = cli('-t', 'groups.ini', config='[web]\nroutes = *\nupstream = %s\n' % text)
        assert run.status == 2, (text, run)


# --- dynamic groups, join and quit ---

def do(p, method, address, code=200, group='pool'):
    got, _, body = p.admin(method, '/groups/%s/workers?address=%s' % (group, address))
    assert got == code, (got, body)
    return body.decode()


def addresses(p):
    return [w['address'] for w in p.group('pool')['workers'] if w['state'] == 'ready']


def pool(upstream='dynamic'):
    return Proxy('listen = {listen}\nadmin = {admin}\n[pool]\nroutes = *\nupstream = %s\n' % upstream)


def test_join_and_quit():
    with AutoWorker(lambda r, c: answer('a')) as a, AutoWorker(lambda r, c: answer('b'), unix=True) as b, pool() as p:
        with p.connect() as c:
            assert c.ask('GET', '/').status == 503
        do(p, 'POST', a.address)
        p.wait_status(lambda s: addresses(p) == [a.address])
        do(p, 'POST', b.address)
        p.wait_status(lambda s: addresses(p) == [a.address, b.address])
        with p.connect() as c:
            assert {c.ask('GET', '/').body for _ in range(8)} == {b'a', b'b'}
        assert p.admin('POST', '/reload')[0] == 200
        assert addresses(p) == [a.address, b.address], 'what joined stays at a reload'
        do(p, 'DELETE', a.address)
        p.wait_status(lambda s: addresses(p) == [b.address])
        with p.connect() as c:
            assert {c.ask('GET', '/').body for _ in range(4)} == {b'b'}


def test_quit_holds_until_the_list_is_edited():
    with AutoWorker(lambda r, c: answer('a')) as a, AutoWorker(lambda r, c: answer('b')) as b, pool('%s %s' % (a.address, b.address)) as p:
        do(p, 'DELETE', a.address)
        p.wait_status(lambda s: addresses(p) == [b.address])
        assert p.admin('POST', '/reload')[0] == 200
        assert addresses(p) == [b.address]
        p.write_config(p.config_text.replace(a.address + ' ' + b.address, b.address + ' ' + a.address))
        assert p.admin('POST', '/reload')[0] == 200
        p.wait_status(lambda s: sorted(addresses(p)) == sorted([a.address, b.address]))
        do(p, 'DELETE', a.address)
        do(p, 'POST', a.address)
        p.wait_status(lambda s: len(addresses(p)) == 2)


def test_quit_finishes_what_is_inside():
    with FakeWorker() as w, pool(w.address) as p:
        with p.connect() as c:
            c.send(head('GET', '/'))
            _, conn = w.one()
            do(p, 'DELETE', w.address)
            conn.send(OK)
            assert c.read_response().status == 200
        p.wait_status(lambda s: s['groups'][0]['workers'] == [])


def test_join_and_quit_errors():
    with AutoWorker(lambda r, c: OK) as w, Proxy(
            'listen = {listen}\nadmin = {admin}\n[pool]\nroutes = *\nupstream = %s\n[own]\nroutes = /own\ndial_in = unix:{dir}/d\n' % w.address) as p:
        assert 'already' in do(p, 'POST', w.address, 409)
        assert 'not in' in do(p, 'DELETE', '127.0.0.1:1', 404)
        assert 'not an address' in do(p, 'POST', 'nowhere', 400) and 'not an address' in do(p, 'POST', '', 400)
        assert 'no `upstream`' in do(p, 'POST', '127.0.0.1:1', 409, 'own')
        assert p.admin('DELETE', '/groups/pool/pause')[0] == 405
