"""A balancer in front that passes TCP on and says who its client is: Debian's HAProxy with the PROXY protocol."""
import contextlib, csv, json, shutil, socket, subprocess

import pytest
import machine
from harness import AutoWorker, Client, Proxy, answer, free_port, make_dir, wait_for
from needs import need

# A check is late after its interval: on a busy machine three in a row would take the server away in the middle of a test.
CONFIG = '''
global
    nbthread 1
    stats socket {dir}/stats
defaults
    mode tcp
    timeout connect 5s
    timeout client 10s
    timeout server 10s
{sections}'''
SECTION = '''
frontend {name}
    bind 127.0.0.1:{port}
    {six}
    bind {dir}/{name}.sock
    default_backend {name}
backend {name}
    option httpchk GET /ready
    server one {server} {options} check inter 100ms rise 1 fall 1000
'''
SIX = None if machine.lacks('ipv6') else '::1'
WAYS = {'v1': 'send-proxy', 'v2': 'send-proxy-v2', 'v2-options': 'send-proxy-v2 proxy-v2-options unique-id,crc32c', 'unix': 'send-proxy-v2'}


def show(request, conn):
    return answer(json.dumps({n.lower(): v for n, v in request.headers}))


class Balanced:
    def __init__(self):
        need('haproxy')
        self.worker, self.dir, self.ports = AutoWorker(show), make_dir(), {name: free_port(SIX or '127.0.0.1') for name in WAYS}
        with contextlib.ExitStack() as stack:
            stack.callback(self.worker.close)
            stack.callback(shutil.rmtree, self.dir)
            self.proxy = stack.enter_context(Proxy(
                'listen = {listen} proxy unix:{dir}/public proxy https\nadmin = {admin}\naccess_log = {dir}/access\nlog_format = json\n'
                'trusted_proxies = none\nready_path = /ready\n[web]\nroutes = *\nupstream = %s\n' % self.worker.address))
            server = {'unix': 'unix@%s/public' % self.proxy.dir}
            sections = ''.join(SECTION.format(name=name, port=self.ports[name], dir=self.dir, options=options,
                                              six='bind [::1]:%d' % self.ports[name] if SIX else '',
                                              server=server.get(name, '127.0.0.1:%d' % self.proxy.port))
                               for name, options in WAYS.items())
            with open(self.dir + '/conf', 'w') as f:
                f.write(CONFIG.format(dir=self.dir, sections=sections))
            with open(self.dir + '/log', 'wb') as log:
                self.haproxy = subprocess.Popen(['haproxy', '-db', '-f', self.dir + '/conf'], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            stack.callback(self.end)
            wait_for(self.up, 20, 'all servers up')
            self.stack = stack.pop_all()

    def up(self):
        """All checks have passed, which begin with a header too."""
        assert self.haproxy.poll() is None, open(self.dir + '/log').read()
        try:
            with socket.socket(socket.AF_UNIX) as s:
                s.settimeout(5)
                s.connect(self.dir + '/stats')
                s.sendall(b'show stat\n')
                text = b''.join(iter(lambda: s.recv(65536), b'')).decode()
        except OSError:
            return False
        rows = list(csv.DictReader(text.lstrip('# ').splitlines()))
        return [r['check_status'] for r in rows if r['svname'] == 'one'] == ['L7OK'] * len(WAYS)

    def end(self):
        self.haproxy.terminate()
        self.haproxy.wait(20)


@pytest.fixture(scope='module')
def balanced():
    b = Balanced()
    with b.stack:
        yield b


@pytest.mark.parametrize('address', ['127.0.0.1', pytest.param('::1', marks=pytest.mark.needs('ipv6')), None])
@pytest.mark.parametrize('way', WAYS)
def test_the_client_of_a_balancer(balanced, way, address):
    """Its address reaches the worker and the access log, over IPv4, IPv6 and from a unix socket; bodies pass."""
    where = 'unix:%s/%s.sock' % (balanced.dir, way) if address is None else (address, balanced.ports[way])
    with Client(where) as c:
        for n in range(3):
            target = '/%s/%s/%d' % (way, address, n)
            r = c.ask('POST', target, {'X-Forwarded-For': '192.0.2.1'}, b'x' * 100000 * n)
            assert r.status == 200, r
            fields = json.loads(r.body)
            if address:
                assert fields['x-forwarded-for'] == fields['x-real-ip'] == address
            assert fields['x-forwarded-proto'] == ('https' if way == 'unix' else 'http')
            record = balanced.proxy.wait_access(lambda r: r['target'] == target)
            assert address in (None, record['client']) and record['bytes_in'] >= 100000 * n


def test_without_a_balancer_nobody_gets_in(balanced):
    with balanced.proxy.connect() as c:
        assert c.ask('GET', '/').status == 400 and c.eof()


@pytest.mark.parametrize('way', WAYS)
def test_many_connections(balanced, way):
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(('127.0.0.1', balanced.ports[way]))) for _ in range(30)]
        for c in clients:
            c.send(b'GET / HTTP/1.1\r\nHost: a\r\n\r\n')
        for c in clients:
            assert json.loads(c.read_response().body)['x-real-ip'] == '127.0.0.1'
