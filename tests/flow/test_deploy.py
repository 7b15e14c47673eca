"""What stands around ldcorn where it is deployed: balancers in front, sockets that somebody else holds,
users that it becomes, and an end that others see coming."""
import contextlib, json, os, pwd, re, shutil, signal, socket, stat, struct, subprocess, sys, time

import pytest
import machine
from harness import BIN, AutoWorker, Client, Proxy, _environ, answer, cli, free_port, head, make_dir, wait_for
from procs import COUNTER, Own, counter, descriptors, wait_gone
from test_life import refused

WEB = '[web]\nroutes = *\n'
GET = head('GET', '/')


def show(request, conn):
    """An answer that says what reached the worker."""
    return answer(json.dumps([request.target] + [[n.lower(), v] for n, v in request.headers]))


def seen(response):
    """-> {lower-case name: value} of what reached the worker."""
    assert response.status == 200, response
    return dict(json.loads(response.body)[1:])


# --- the PROXY protocol ---

MARK = b'\r\n\r\n\0\r\nQUIT\n'
TLVS = b'\x01\0\2h2' + b'\x02\0\x07example' + b'\x04\0\x08' + b'\0' * 8


def v1(family='TCP4', source='192.0.2.7', destination='192.0.2.1', ports='4711 443'):
    return ('PROXY %s %s %s %s\r\n' % (family, source, destination, ports)).encode()


def v2(source=None, tlvs=b'', command=0x21, family=None, size=None):
    """`source`: an address, a path, or None for UNSPEC."""
    if source is None:
        kind, body = 0, b''
    elif source.startswith('/'):
        kind, body = 0x31, source.encode().ljust(108, b'\0') + b'/run/balancer'.ljust(108, b'\0')
    else:
        af = socket.AF_INET6 if ':' in source else socket.AF_INET
        address = socket.inet_pton(af, source)
        kind, body = 0x21 if ':' in source else 0x11, address + address + struct.pack('!HH', 4711, 443)
    body += tlvs
    return MARK + struct.pack('!BBH', command, kind if family is None else family, len(body) if size is None else size) + body


# name: (bytes, the client's address; '' of a unix peer; None: as without it)
HEADERS = {
    'v1-tcp4': (v1(), '192.0.2.7'),
    'v1-tcp6': (v1('TCP6', '2001:db8::7', '2001:db8::1'), '2001:db8::7'),
    'v1-tcp6-long': (v1('TCP6', *['2001:0db8:' + '1234:' * 5 + '0007'] * 2, '65535 65535'), '2001:db8:1234:1234:1234:1234:1234:7'),
    'v1-unknown': (b'PROXY UNKNOWN\r\n', None),
    'v1-unknown-text': (v1('UNKNOWN'), None),
    'v2-inet': (v2('192.0.2.7'), '192.0.2.7'),
    'v2-inet-tlvs': (v2('192.0.2.7', TLVS), '192.0.2.7'),
    'v2-inet6': (v2('2001:db8::7'), '2001:db8::7'),
    'v2-inet6-tlvs': (v2('2001:db8::7', TLVS), '2001:db8::7'),
    'v2-unix': (v2('/run/app'), ''),
    'v2-unix-tlvs': (v2('/run/app', TLVS), ''),
    'v2-local': (v2(None, command=0x20), None),
    'v2-local-inet-tlvs': (v2('192.0.2.7', TLVS, command=0x20), None),
    'v2-unspec': (v2(), None),
    'v2-unspec-tlvs': (v2(None, TLVS), None)}

REFUSED = {
    'no header': GET,
    'no header, P': b'POST / HTTP/1.1\r\nHost: a\r\n\r\n',
    'an empty line and no header': b'\r\n' + GET,
    'two empty lines and no header': b'\r\n\r\n' + GET,
    'TLS': b'\x16\3\1\2\0\1\0\1\xfc\3\3',
    'small letters': v1().lower(),
    'UDP4': v1('UDP4'),
    'a family that there is not': v1('TCP5'),
    'UNKNOWN and more': b'PROXY UNKNOWNS\r\n',
    'an IPv6 address in TCP4': v1('TCP4', '2001:db8::7', '2001:db8::1'),
    'an IPv4 address in TCP6': v1('TCP6'),
    'an address too short': v1(source='192.0.2'),
    'a number in it too large': v1(source='192.0.2.256'),
    'a name': v1(source='localhost'),
    'a bad destination': v1(destination='-'),
    'no ports': v1(ports='').replace(b' \r', b'\r'),
    'one port': v1(ports='1'),
    'three ports': v1(ports='1 2 3'),
    'a port too large': v1(ports='65536 1'),
    'a destination port too large': v1(ports='1 65536'),
    'a negative port': v1(ports='-1 1'),
    'a port with a sign': v1(ports='1 +1'),
    'two blanks': v1(source=' 192.0.2.7'),
    'a blank at the end': v1(ports='1 2 '),
    'a tab': v1(source='\t192.0.2.7'),
    'no CR': v1().replace(b'\r', b''),
    'CR CR': v1().replace(b'\r', b'\r\r'),
    'too long': b'PROXY UNKNOWN ' + b'x' * 92 + b'\r\n',
    'too long, without an end': b'PROXY UNKNOWN ' + b'x' * 200,
    'version 1 in v2': v2('192.0.2.7', command=0x11),
    'version 3 in v2': v2('192.0.2.7', command=0x31),
    'command 2': v2('192.0.2.7', command=0x22),
    'command 15': v2('192.0.2.7', command=0x2f),
    'a datagram in v2': v2('192.0.2.7', family=0x12),
    'no protocol in v2': v2('192.0.2.7', family=0x10),
    'family 4 in v2': v2('192.0.2.7', family=0x41),
    'too short for inet': v2('192.0.2.7')[:14] + b'\0\x0b' + b'x' * 11,
    'too short for inet6': v2('192.0.2.7', family=0x21),
    'too short for unix': v2('192.0.2.7', TLVS, family=0x31),
    'nothing in it': v2(None, family=0x11),
    'too long in v2': v2('192.0.2.7', b'x' * 4085),
    'the mark, cut and gone on otherwise': MARK[:11] + b'x' + v2('192.0.2.7')[12:]}


class Front:
    """A proxy with a listener of each kind, before a worker that shows what it got."""

    def __init__(self, top='', group=''):
        self.worker = AutoWorker(show)
        self.plain, self.https, self.both = (('127.0.0.1', free_port()) for _ in range(3))
        up = 'upstream = %s\n' % self.worker.address
        self.proxy = Proxy(
            'listen = {listen} proxy 127.0.0.1:%d 127.0.0.1:%d https 127.0.0.1:%d https proxy unix:{dir}/u mode=0600 proxy\n'
            'admin = {admin}\naccess_log = {dir}/access\nlog_format = json\n' % (self.plain[1], self.https[1], self.both[1])
            + (top or 'trusted_proxies = 10.0.0.0/8 2001:db8:1::/48\n') + WEB + up + group
            + '[allowed]\nroutes = /allowed\nallow = 192.0.2.0/24 unix\n' + up
            + '[denied]\nroutes = /denied\ndeny = 192.0.2.7 2001:db8::/32 unix\n' + up
            + '[rate]\nroutes = /rate\nrate = 1/m burst=1\n' + up)
        self.unix = 'unix:%s/u' % self.proxy.dir
        self.control = Client(self.proxy.admin_address)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.control.close()
        try:
            self.proxy.__exit__(*exc)
        finally:
            self.worker.close()

    def connect(self, address=None):
        return Client(address or self.proxy.address)

    def turn(self):
        """Whatever was sent before is read now: the loop has been round."""
        for _ in range(2):
            assert self.control.ask('GET', '/server').status == 200

    def ask(self, before, target='/', headers=(), address=None):
        with self.connect(address) as c:
            c.send(before)
            return c.ask('GET', target, headers)

    def record(self, target):
        return self.proxy.wait_access(lambda r: r['target'] == target)

    def answered(self, response):
        return self.proxy.wait_access(lambda r: r['id'] == response.get('x-request-id'))


@pytest.fixture(scope='module')
def front():
    with Front() as f:
        yield f


def is_client(fields, address, peer='127.0.0.1'):
    """What the worker was told about its client."""
    address = peer if address is None else address
    assert fields.get('x-real-ip') == fields.get('x-forwarded-for') == (address or None), fields


@pytest.mark.parametrize('name', HEADERS)
def test_a_proxy_header_whole(front, name):
    """Before the request and in one write with it; what it says is in the access log."""
    before, address = HEADERS[name]
    is_client(seen(front.ask(before)), address)
    with front.connect() as c:
        c.send(before + head('GET', '/whole/' + name))
        is_client(seen(c.read_response()), address)
        is_client(seen(c.ask('GET', '/again')), address)         # one header, and then requests
    assert front.record('/whole/' + name)['client'] == ('127.0.0.1' if address is None else address)


@pytest.mark.parametrize('name', HEADERS)
def test_a_proxy_header_cut_at_each_byte(front, name):
    before, address = HEADERS[name]
    for cut in range(1, len(before)):
        with front.connect() as c:
            c.send(before[:cut])
            front.turn()
            c.send(before[cut:] + GET)
            is_client(seen(c.read_response()), address)
    with front.connect() as c:
        for n in range(len(before)):
            c.send(before[n:n + 1])
            front.turn()
        assert c.silent(0.02)
        for byte in GET:
            c.send(bytes([byte]))
        is_client(seen(c.read_response()), address)


@pytest.mark.parametrize('name', REFUSED)
def test_what_is_no_proxy_header(front, name):
    served = front.worker.served
    with front.connect() as c:
        c.send(REFUSED[name] + GET)
        r = c.read_response()
        assert r.status == 400 and r.get('connection') == 'close' and r.get('x-request-id') in r.body.decode()
        assert c.eof() and 'PROXY' in r.body.decode()
    record = front.answered(r)
    assert (record['reason'], record['status'], record['client'], record['worker'], record['target']) == \
        ('proxy', 400, '127.0.0.1', -1, '')
    assert front.worker.served == served


@pytest.mark.parametrize('first', ['v1-tcp4', 'v1-unknown', 'v2-inet', 'v2-local', 'v2-unix-tlvs'])
@pytest.mark.parametrize('second', ['v1-tcp4', 'v1-unknown', 'v2-inet', 'v2-local'])
def test_a_second_proxy_header_is_a_malformed_request(front, first, second):
    with front.connect() as c:
        r = c.send(HEADERS[first][0] + HEADERS[second][0] + GET).read_response()
        assert r.status == 400 and c.eof()
    record = front.answered(r)
    assert record['reason'] == 'request'
    assert record['client'] == ('127.0.0.1' if HEADERS[first][1] is None else HEADERS[first][1])


def test_a_proxy_header_later_is_a_malformed_request(front):
    with front.connect() as c:
        c.send(v1())
        assert c.ask('GET', '/').status == 200
        c.send(v1() + GET)
        assert c.read_response().status == 400 and c.eof()


def test_a_proxy_header_and_then_something_else(front):
    """Behind it everything is as it is without: empty lines, a body, requests in one write, an old version."""
    with front.connect() as c:
        c.send(v2('192.0.2.7') + b'\r\n\r\n' + head('POST', '/a', body=b'body') + head('GET', '/b'))
        for target in ('/a', '/b'):
            r = c.read_response()
            assert json.loads(r.body)[0] == target
            is_client(seen(r), '192.0.2.7')
    with front.connect() as c:
        c.send(v1() + b'GET / HTTP/1.0\r\n\r\n')
        fields = seen(c.read_response())
        is_client(fields, '192.0.2.7')
        assert fields['host'] == '127.0.0.1:%d' % front.proxy.port
    with front.connect(front.unix) as c:
        c.send(v1() + b'GET / HTTP/1.0\r\n\r\n')
        fields = seen(c.read_response())
        is_client(fields, '192.0.2.7')
        assert fields['host'] == 'localhost'
    for name in ('v1-unknown', 'v2-local', 'v2-unspec'):
        is_client(seen(front.ask(HEADERS[name][0], address=front.unix)), '')


def test_an_end_in_a_proxy_header(front):
    """A balancer's check: it may end after, or in the middle of, what it says first. Nothing is said about it."""
    assert front.ask(v1(), '/before').status == 200
    front.record('/before')
    n = len(front.proxy.access())
    for data in (v2(None, command=0x20), v1()[:9], MARK[:12], b''):
        with front.connect() as c:
            c.send(data).fin()
            assert c.read_all() in (b'',), data
        with front.connect() as c:
            c.send(data).rst()
    assert front.ask(v1(), '/after').status == 200
    front.record('/after')
    assert [r['target'] for r in front.proxy.access()[n:] if r['status'] != 499] == ['/after']


def test_a_proxy_header_larger_than_a_head_may_be():
    with Front('max_header = 1K\ntrusted_proxies = none\n') as f:
        before = v2('192.0.2.7', b'x' * 4084)
        is_client(seen(f.ask(before)), '192.0.2.7')
        for cut in (1, 15, 16, 1023, 1024, 1025, 4096, len(before) - 1):
            with f.connect() as c:
                c.send(before[:cut])
                f.turn()
                c.send(before[cut:] + GET)
                is_client(seen(c.read_response()), '192.0.2.7')
        with f.connect() as c:
            c.send(before + b'GET /' + b'x' * 1100 + b' HTTP/1.1\r\nHost: a\r\n\r\n')
            assert c.read_response().status == 414


@pytest.mark.parametrize('sent', [b'', b'PROXY', v1()[:-1], MARK, v2('192.0.2.7')[:-1], v1(), v1() + GET[:-1]], ids=range(7))
def test_header_timeout_of_a_proxy_header(sent, slow):
    start = time.monotonic()             # before the connection, with which its time begins
    with slow.connect(slow.unix) as c:
        c.send(sent)
        r = c.read_response()
        assert r.status == 408 and c.eof() and 0.55 < time.monotonic() - start < 5
    record = slow.answered(r)
    assert record['reason'] == 'header_timeout'
    assert record['client'] == ('192.0.2.7' if sent.startswith(v1()) else '')


@pytest.fixture(scope='module')
def slow():
    with Front('header_timeout = 600ms\n') as f:
        yield f


def test_a_listener_with_and_one_without(front):
    """Beside each other: the one knows nothing of the other."""
    is_client(seen(front.ask(v1())), '192.0.2.7')
    is_client(seen(front.ask(b'', address=front.plain)), None)
    assert front.ask(v1(), address=front.plain).status == 400
    front.proxy.wait_access(lambda r: r['reason'] == 'request')
    assert front.ask(b'').status == 400
    is_client(seen(front.ask(v1(), address=front.unix)), '192.0.2.7')
    is_client(seen(front.ask(v2('/x'), address=front.unix)), '')


@pytest.mark.parametrize('target, before, status', [
    ('/allowed', v1(), 200), ('/allowed', v2('192.0.2.255'), 200), ('/allowed', v1(source='198.51.100.1'), 403),
    ('/allowed', v2('2001:db8::7'), 403), ('/allowed', v2('/x'), 200), ('/allowed', v2(), 403),
    ('/allowed', v2('::ffff:192.0.2.9'), 200),
    ('/denied', v1(), 403), ('/denied', v1(source='192.0.2.8'), 200), ('/denied', v2('2001:db8::7'), 403),
    ('/denied', v2('2001:db9::7'), 200), ('/denied', v2('/x'), 403), ('/denied', v2(None, command=0x20), 200),
    ('/denied', v2('::ffff:192.0.2.7'), 403)], ids=lambda v: '-' if isinstance(v, bytes) else str(v))
def test_allow_and_deny_by_the_address_that_is_said(front, target, before, status):
    assert front.ask(before, target).status == status


def test_trust_by_the_address_that_is_said(front):
    """trusted_proxies means the address that the header says, wherever the connection comes from."""
    sends = [('X-Forwarded-For', '198.51.100.9'), ('X-Forwarded-Proto', 'https'), ('X-Request-Id', 'abc')]
    for before, peer in ((v1(source='10.1.2.3'), '10.1.2.3'), (v2('10.1.2.3'), '10.1.2.3'), (v2('2001:db8:1::1'), '2001:db8:1::1')):
        fields = seen(front.ask(before, headers=sends))
        assert fields['x-real-ip'] == '198.51.100.9' and fields['x-forwarded-proto'] == 'https' and fields['x-request-id'] == 'abc'
        assert fields['x-forwarded-for'] == '198.51.100.9, ' + peer
    for before in (v1(), v2('2001:db8:2::1'), v2('/x'), v2()):
        fields = seen(front.ask(before, headers=sends))
        assert '198.51.100.9' not in fields.get('x-forwarded-for', '')
        assert fields['x-forwarded-proto'] == 'http' and fields['x-request-id'] != 'abc'


def test_the_default_of_trust_goes_by_the_address_that_is_said():
    """All listeners are local: loopback is trusted, but those whom the balancer names are not."""
    worker = AutoWorker(show)
    with contextlib.closing(worker), Proxy('listen = {listen} proxy\nadmin = {admin}\n' + WEB + 'upstream = ' + worker.address) as p:
        for before, trusted in ((v1(), False), (v2('127.0.0.1'), True), (v2(None, command=0x20), True)):
            with Client(p.address) as c:
                fields = seen(c.send(before).ask('GET', '/', {'X-Forwarded-For': '198.51.100.9'}))
                assert (fields['x-real-ip'] == '198.51.100.9') == trusted


def test_rate_by_the_address_that_is_said(front):
    for before in (v1(source='192.0.2.50'), v2('192.0.2.51'), v2('2001:db8::50')):
        assert [front.ask(before, '/rate').status for _ in range(2)] == [200, 429]
    assert front.ask(v2('2001:db8::51'), '/rate').status == 429, 'by /64'
    assert [front.ask(v2('/x'), '/rate').status for _ in range(3)] == [200] * 3
    assert front.ask(v1(source='192.0.2.52'), '/rate').status == 200


def test_max_req_per_client_by_the_address_that_is_said(tmp_path):
    with Own('[web]\nroutes = *\nmax_req_per_client = 1\ncmd = %s\n' % counter()) as p:
        p.edit(('listen = {listen}\n', 'listen = {listen} proxy\n'))
        assert p.admin('POST', '/reload?processes=keep')[0] == 200
        gate = str(tmp_path / 'gate')
        with p.connect() as first, p.connect() as second, p.connect() as third:
            first.send(v1() + head('GET', '/gate?file=' + gate))
            p.wait_status(lambda s: s['groups'][0]['workers'][0]['in_flight'] == 1)
            assert second.send(v2('192.0.2.7')).ask('GET', '/').status == 429
            assert third.send(v2('192.0.2.8')).ask('GET', '/').status == 200
            open(gate, 'w').close()
            assert first.read_response().status == 200


def test_https(front):
    sends = {'X-Forwarded-Proto': 'other'}
    assert seen(front.ask(b'', address=front.plain, headers=sends))['x-forwarded-proto'] == 'http'
    assert seen(front.ask(b'', address=front.https))['x-forwarded-proto'] == 'https'
    assert seen(front.ask(b'', address=front.https, headers=sends))['x-forwarded-proto'] == 'https'
    assert seen(front.ask(v1(), address=front.both, headers=sends))['x-forwarded-proto'] == 'https'
    assert seen(front.ask(v1(source='10.0.0.1'), address=front.both))['x-forwarded-proto'] == 'https'
    assert seen(front.ask(v1(source='10.0.0.1'), address=front.both, headers=sends))['x-forwarded-proto'] == 'other'
    assert front.ask(b'', address=front.both).status == 400


def test_words_of_an_address_change_at_a_reload():
    """New connections follow; those that are there go on as they began, and nothing is lost."""
    with Own(WEB + 'cmd = %s\n' % counter(), 'trusted_proxies = none\n') as p:
        def words(new):
            p.write_config(re.sub('listen = {listen}.*', 'listen = {listen} ' + new, p.config_text))
            assert p.admin('POST', '/reload?processes=keep')[0] == 200

        def fields(c):
            return json.loads(c.ask('GET', '/info').body)['fields']
        with contextlib.ExitStack() as stack:
            def new():
                return stack.enter_context(p.connect())
            plain, late = new(), new()
            assert fields(plain)['x-real-ip'] == '127.0.0.1'
            late.send(b'GET /info HTT')
            words('proxy https')
            half, said = new().send(v1()[:10]), new().send(v1())
            assert fields(plain)['x-forwarded-proto'] == 'http'
            is_client(json.loads(late.send(b'P/1.1\r\nHost: a\r\n\r\n').read_response().body)['fields'], None)
            assert fields(said)['x-real-ip'] == '192.0.2.7'
            got = fields(new().send(v1()))
            assert (got['x-real-ip'], got['x-forwarded-proto']) == ('192.0.2.7', 'https')
            assert new().send(GET).read_response().status == 400
            words('')
            assert new().send(v1() + GET).read_response().status == 400
            got = fields(new())
            assert (got['x-real-ip'], got['x-forwarded-proto']) == ('127.0.0.1', 'http')
            got = fields(half.send(v1()[10:]))
            assert (got['x-real-ip'], got['x-forwarded-proto']) == ('192.0.2.7', 'https')
            assert fields(said)['x-real-ip'] == '192.0.2.7' and fields(plain)['x-real-ip'] == '127.0.0.1'
            words('https')
            got = fields(new())
            assert (got['x-real-ip'], got['x-forwarded-proto']) == ('127.0.0.1', 'https')


@pytest.mark.parametrize('words', ['{listen} proxy {listen}', '{listen} {listen} proxy', '{listen} https {listen}'])
def test_an_address_twice(words):
    run = cli('-t', 'groups.ini', config='listen = %s\n[web]\nroutes = *\nupstream = 127.0.0.1:1\n' %
              words.replace('{listen}', '127.0.0.1:8123'))
    assert run.status == 2 and re.search(r'groups\.ini:1:\d+: `listen` says `127\.0\.0\.1:8123` twice', run.err), run.err


def place(config, line, column, *words, env=None, status=2, args=('groups.ini',)):
    """There must be an error at that place, with these words in it."""
    run = cli(*args, config=config, env=env)
    assert run.status == status, run
    assert re.search(r'^groups\.ini:%d:%s: ' % (line, column), run.err, re.M), run.err
    for word in words:
        assert word in run.err, (word, run.err)
    return run.err


UP = WEB + 'upstream = 127.0.0.1:9\n'


@pytest.mark.parametrize('config, column, words', [
    ('listen = proxy\n', 10, ['`listen` does not take `proxy`', 'write it behind an address']),
    ('listen = https :1\n', 10, ['`listen` does not take `https`']),
    ('listen = :1 prox\n', 13, ['`listen` does not take `prox`']),
    ('listen = :1 PROXY\n', 13, ['`listen` does not take `PROXY`']),
    ('listen = fd:\n', 10, ['write fd:3']), ('listen = fd:x\n', 10, ['write fd:3']), ('listen = fd:-3\n', 10, ['write fd:3']),
    ('listen = fd:0\n', 10, ['write fd:3']), ('listen = fd:2\n', 10, ['write fd:3']), ('listen = fd:3x\n', 10, ['write fd:3']),
    ('listen = fd:99999999999\n', 10, ['write fd:3']),
    ('listen = systemd:\n', 10, ['FileDescriptorName']), ('listen = systemdx\n', 10, ['does not take `systemdx`']),
    ('admin = fd:3\n', 9, ['`admin` does not take']), ('admin = systemd\n', 9, ['`admin` does not take']),
    ('admin = 127.0.0.1:1 proxy\n', 21, ['`admin` does not take'])])
def test_wrong_words_of_an_address(config, column, words):
    place(config + UP, 1, column, *words)
    run = cli('-t', 'groups.ini', config=config + UP)
    assert run.status == 2 and words[0] in run.err + run.out


def test_words_of_an_address_in_the_effective_configuration():
    line = 'listen = 127.0.0.1:1 proxy https unix:/x mode=0660 https fd:7 proxy systemd:web https\n'
    run = cli('-T', 'groups.ini', config=line + UP)
    assert run.status == 0, run
    assert re.search(r'^listen = 127.0.0.1:1 proxy https,? unix:/x mode=0660 https,? fd:7 proxy,? systemd:web https', run.out, re.M), run.out
    assert cli('-t', 'groups.ini', config=line + UP).status == 0, 'it binds nothing'


# --- sockets that somebody else holds ---

class Held:
    """Listening sockets that the test holds, as systemd does: ldcorn gets them as 3, 4 ..."""

    def __init__(self, *kinds):
        self.dir, self.socks = make_dir(), []
        for kind in kinds or ('tcp',):
            if kind == 'tcp':
                s = socket.create_server(('127.0.0.1', 0), backlog=64)
            elif kind == 'dual':                      # what ListenStream=8000 means, but on loopback alone
                machine.need('dual-stack')
                s = socket.socket(socket.AF_INET6)
                s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                s.bind(('::ffff:127.0.0.1', 0))
                s.listen(64)
            elif kind == 'unix':
                s = socket.socket(socket.AF_UNIX)
                s.bind('%s/s%d' % (self.dir, len(self.socks)))
                s.listen(64)
            elif kind == 'datagram':
                s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                s.bind(('127.0.0.1', 0))
            else:
                s = socket.socket()                   # bound, and nothing more
                s.bind(('127.0.0.1', 0))
            self.socks.append(s)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for s in self.socks:
            s.close()
        shutil.rmtree(self.dir)

    def address(self, n=0):
        if self.socks[n].family == socket.AF_UNIX:
            return 'unix:' + self.socks[n].getsockname()
        return '127.0.0.1', self.socks[n].getsockname()[1]

    def popen(self, **how):
        return lambda command, **kw: subprocess.Popen(self.before(command, **how), pass_fds=[s.fileno() for s in self.socks], **kw)

    def before(self, command, systemd=False, names=None, fds=None, pid=None):
        env = {'LISTEN_PID': str(pid or ''), 'LISTEN_FDS': str(len(self.socks) if fds is None else fds)} if systemd else {}
        if names is not None:
            env['LISTEN_FDNAMES'] = names
        return [sys.executable, '-S', '-c', GIVE, json.dumps([s.fileno() for s in self.socks]), json.dumps(env)] + command


# Numbers from 3 on, not close-on-exec, and in LISTEN_PID the number of the process that begins.
GIVE = '''import fcntl, json, os, sys
fds, env = json.loads(sys.argv[1]), json.loads(sys.argv[2])
high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 200) for fd in fds]
for fd in fds:
    os.close(fd)
for n, fd in enumerate(high):
    os.dup2(fd, 3 + n)
    os.close(fd)
if env.get('LISTEN_PID') == '':
    env['LISTEN_PID'] = str(os.getpid())
os.environ.update(env)
os.execv(sys.argv[3], sys.argv[3:])'''


class Given(Own):
    """One that is started with the sockets of `held`. `how`: as systemd does, see Held.before."""

    def __init__(self, held, listen, groups=None, top='', how=None, **kw):
        self.held = held
        Proxy.__init__(self, 'listen = %s\nadmin = {admin}\naccess_log = {dir}/access\nenv = COUNTER_LOG={dir}/counted\n%s%s'
                       % (listen, top, groups or WEB + 'cmd = %s\n' % counter()), popen=held.popen(**(how or {})), **kw)

    def at(self, n=0):
        return Client(self.held.address(n))

    def get(self, target='/', n=0):
        with self.at(n) as c:
            r = c.ask('GET', target)
        assert r.status == 200, r
        return r.body.decode()


SYSTEMD = {'systemd': True}


def reload(p, query='', status=200):
    code, _, body = p.admin('POST', '/reload' + query)
    assert code == status, body
    return body.decode()


def test_inherited_sockets():
    """They work through reloads, no worker sees them, and what is not ours stays where it is at the end."""
    with Held('tcp', 'unix') as held:
        with Given(held, 'fd:3 fd:4 https') as p:
            for round in range(3):
                said = json.loads(p.get('/info'))
                assert said['started']['fds'] == [0, 1, 2] and not [k for k in said['env'] if k.startswith('LISTEN_')]
                assert said['fields']['x-forwarded-proto'] == 'http' and said['fields']['x-real-ip'] == '127.0.0.1'
                said = json.loads(p.get('/info', 1))
                assert said['fields']['x-forwarded-proto'] == 'https' and 'x-real-ip' not in said['fields']
                reload(p, '?processes=keep' if round else '')
            assert '  listen  fd:3\n' in p.log() and '  listen  fd:4\n' in p.log()
            p.stop()
        assert os.path.exists(held.address(1)[5:])
        with Client(held.address()) as c:
            held.socks[0].settimeout(5)
            held.socks[0].accept()[0].close()
            assert c.eof(), 'it listens still'


def test_an_inherited_socket_for_workers_with_fd():
    with Held('tcp') as held, Given(held, 'fd:3', WEB + 'cmd = %s\n' % counter('fd:{fd}')) as p:
        said = json.loads(p.get('/info'))
        assert said['started']['fds'] == [0, 1, 2, 3] and said['env']['LISTEN_FDS'] == '1'
        assert said['env']['LISTEN_PID'] == str(said['pid']) and 'LISTEN_FDNAMES' not in said['env']


@pytest.mark.parametrize('kinds, n', [((), 3), (('tcp',), 4), (('tcp',), 1023), (('datagram',), 3), (('bound',), 3)])
def test_a_number_that_is_no_listening_socket(kinds, n):
    held = Held(*(kinds or ('tcp',)))
    with held:
        command = [BIN, '-o', 'runtime_dir=%s/run' % held.dir, 'groups.ini']
        with open(held.dir + '/groups.ini', 'w') as f:
            f.write('listen = 127.0.0.1:0 fd:%d\n' % n + UP)
        with open(held.dir + '/err', 'w+') as err:
            p = held.popen()(command, cwd=held.dir, env=_environ(None), stderr=err) if kinds else \
                subprocess.Popen(command, cwd=held.dir, env=_environ(None), stderr=err)
            assert p.wait(20) == 1
            err.seek(0)
            text = err.read()
        assert re.search(r'^ldcorn: cannot listen on fd:%d: no inherited listening socket has this number \(groups\.ini:1\)$' % n, text, re.M), text
        assert not os.path.exists(held.dir + '/run')


def test_the_sockets_of_systemd():
    with Held('tcp', 'unix', 'tcp') as held, Given(held, 'systemd https', how=SYSTEMD) as p:
        for round in range(2):
            for n in range(3):
                said = json.loads(p.get('/info', n))
                assert said['fields']['x-forwarded-proto'] == 'https', 'the word is for all of them'
                assert said['started']['fds'] == [0, 1, 2] and not [k for k in said['env'] if k.startswith('LISTEN_')]
            reload(p)
        p.stop()
        assert os.path.exists(held.address(1)[5:])


def test_sockets_of_systemd_by_name():
    with Held('tcp', 'unix', 'tcp', 'tcp') as held, \
            Given(held, 'systemd:web systemd:tls https', how=dict(SYSTEMD, names='web:tls:other:web')) as p:
        assert [json.loads(p.get('/info', n))['fields']['x-forwarded-proto'] for n in (0, 1, 3)] == ['http', 'https', 'http']
        with p.at(2) as c:
            c.send(GET)
            assert c.silent(0.1), 'nobody has asked for it'
            p.edit(('systemd:tls', 'systemd:other proxy systemd:tls'))
            reload(p)
            assert c.read_response().status == 400
        with p.at(2) as c:
            assert json.loads(c.send(v1()).ask('GET', '/info').body)['fields']['x-real-ip'] == '192.0.2.7'


@pytest.mark.parametrize('how, listen', [
    (None, 'systemd'), (dict(SYSTEMD, pid=1), 'systemd'), (dict(SYSTEMD, fds=0), 'systemd'), (dict(SYSTEMD, fds='x'), 'systemd'),
    (dict(SYSTEMD, fds=-1), 'systemd'), (dict(SYSTEMD, fds=99999), 'systemd'), (dict(SYSTEMD, pid='x'), 'systemd'),
    (dict(SYSTEMD, names='web'), 'systemd:app'), (SYSTEMD, 'systemd:web'), (dict(SYSTEMD, names=''), 'systemd:web'),
    (dict(SYSTEMD, fds=2), 'systemd')])
def test_no_socket_of_systemd(how, listen):
    with Held('tcp') as held:
        with open(held.dir + '/groups.ini', 'w') as f:
            f.write('\n  listen = %s\n' % listen + UP)
        with open(held.dir + '/err', 'w+') as err:
            p = held.popen(**(how or {}))([BIN, '-o', 'runtime_dir=%s/run' % held.dir, 'groups.ini'], cwd=held.dir,
                                         env=_environ(None), stderr=err)
            assert p.wait(20) == 1
            err.seek(0)
            text = err.read()
        assert re.search(r'^ldcorn: cannot listen on %s: .*LISTEN_FDS.*\.socket.* \(groups\.ini:2\)$' % listen, text, re.M), text
        assert not os.path.exists(held.dir + '/run')


def test_a_restart_loses_nobody_who_waits():
    """Whoever connects while no ldcorn runs waits in the backlog that systemd holds."""
    with Held('tcp', 'unix') as held, Given(held, 'systemd', how=SYSTEMD) as p, contextlib.ExitStack() as stack:
        first = p.get()
        p.stop()
        waiting = [stack.enter_context(p.at(n % 2)).send(head('GET', '/%d' % n)) for n in range(20)]
        p.again()
        for c in waiting:
            assert c.read_response().status == 200
        assert p.get() != first
        p.signal(signal.SIGKILL)
        p.wait_exit()
        waiting = [stack.enter_context(p.at(n % 2)).send(head('GET', '/%d' % n)) for n in range(20)]
        p.again()
        for c in waiting:
            assert c.read_response().status == 200


def test_a_reload_that_fails_keeps_inherited_sockets():
    with Held('tcp', 'tcp') as held, Given(held, 'fd:3') as p:
        p.get()
        good = p.config_text
        p.edit(('fd:3', 'fd:3 fd:4'), ('cmd = ', 'start_timeout = 5s\ncmd = false '))
        reload(p, status=409)
        p.write_config(good.replace('fd:3', 'fd:3 fd:4'))
        reload(p)
        assert p.get(n=1)


def test_an_inherited_socket_goes_and_comes_back():
    with Held('tcp', 'tcp') as held, Given(held, 'systemd:a systemd:b', how=dict(SYSTEMD, names='a:b')) as p:
        p.edit(('systemd:a systemd:b', 'systemd:a'))
        reload(p)
        with p.at(1) as c:
            c.send(GET)
            p.edit(('systemd:a', 'systemd:a systemd:b'))
            reload(p)
            assert c.read_response().status == 200


def test_a_number_of_our_own():
    """Not inherited: the admin socket, which would be open to everybody."""
    with Own(WEB + 'cmd = %s\n' % counter()) as p:
        fd, = [n for n, to in descriptors(p.pid).items() if admin_socket(to)]
        p.edit(('listen = {listen}\n', 'listen = {listen} fd:%s\n' % fd))
        text = reload(p, status=409)
        assert re.search(r'groups.ini:1:\d+: .*fd:%s' % fd, text)
        assert p.admin('GET', '/status')[0] == 200


def admin_socket(link):
    with open('/proc/net/unix') as f:
        return any(link == 'socket:[%s]' % line.split()[6] and line.endswith('/admin.sock\n') and line.split()[3] == '00010000'
                   for line in f if line.endswith('/admin.sock\n'))


def test_a_number_of_our_own_comes_and_goes():
    with Own(WEB + 'cmd = %s\n' % counter()) as p:
        fd, = [n for n, to in descriptors(p.pid).items() if admin_socket(to)]
        for new in ('{listen} fd:%s' % fd, '{listen}'):
            p.write_config(re.sub('listen = .*', 'listen = ' + new, p.config_text))
            p.admin('POST', '/reload?processes=keep')
        with contextlib.suppress(ConnectionError):
            assert p.admin('GET', '/healthz')[0] == 200
            return
        pytest.fail('admin is gone')


def test_an_ipv4_client_of_a_dual_stack_socket():
    """ListenStream=8000 is one socket for both."""
    with Held('dual') as held, Given(held, 'systemd', how=SYSTEMD) as p:
        assert json.loads(p.get('/info'))['fields']['x-real-ip'] == '127.0.0.1'


def test_trust_and_loopback_of_a_dual_stack_socket():
    with Held('dual') as held, Given(held, 'systemd', top='trusted_proxies = 127.0.0.1\n', how=SYSTEMD) as p:
        with p.at() as c:
            r = c.ask('GET', '/info', {'X-Forwarded-For': '192.0.2.9'})
        assert json.loads(r.body)['fields']['x-real-ip'] == '192.0.2.9'


# --- lame_duck ---

LAME = 'lame_duck = %s\nready_path = /ready\n'


def ready(p):
    with p.connect() as c:
        return p.admin('GET', '/readyz')[0], c.ask('GET', '/ready').status


def test_a_lame_duck_serves():
    """Not ready at once; requests on old and new connections are answered, and connections end."""
    with Own(WEB + 'workers = 2\ncmd = %s\n' % counter(), LAME % '4s') as p, p.connect() as old, p.connect() as half, p.connect() as idle:
        assert ready(p) == (200, 200)
        for c in (old, half, idle):
            assert c.ask('GET', '/').get('connection') is None
        half.send(GET[:-2])
        inside = p.connect().send(head('GET', '/gate?file=%s/go' % p.dir))
        p.wait_status(lambda s: sum(w['in_flight'] for w in s['groups'][0]['workers']) == 1)
        start, n = time.monotonic(), len(p.log())
        p.signal(signal.SIGTERM)
        p.wait_log(r'stopping: not ready, serving for 4\.0s more', after=n)
        p.touch('go')                                # an answer that began before would not say that the connection ends
        assert ready(p) == (503, 503)
        assert b'stopping' in p.admin('GET', '/readyz')[2] and p.status()['stopping'] is True
        assert p.admin('POST', '/reload')[0] in (409, 503)
        for c in (old, half.send(b'\r\n'), p.connect(), inside):
            r = c.read_response() if c in (half, inside) else c.ask('GET', '/')
            assert r.status == 200 and r.get('connection') == 'close' and c.eof()
            c.close()
        pids = p.pids()
        with p.connect() as c:
            c.send(head('GET', '/kill'))
            assert c.read_response().status == 502
        p.wait_status(lambda s: len(p.pids()) == 2 and p.pids() != pids), 'what crashes comes back'
        assert int(p.get('/')) in p.pids()
        assert time.monotonic() - start < 4 and idle.silent(0), 'all that in its time'
        assert p.wait_exit() == 0 and 3.9 < time.monotonic() - start < 8
        assert idle.eof()


@pytest.mark.parametrize('top', ['shutdown_timeout = none\n', ''])
def test_a_lame_duck_ends(top):
    """When its time is over all goes on as without it; a request that is inside is answered then."""
    with Own(WEB + 'cmd = %s\n' % counter(), LAME % '1s' + top) as p, p.connect() as c:
        c.send(head('GET', '/gate?file=%s/go' % p.dir))
        p.wait_status(lambda s: s['groups'][0]['workers'][0]['in_flight'] == 1)
        start = time.monotonic()
        assert p.admin('POST', '/stop')[0] == 202
        p.wait_log('stopping: not ready')
        assert ready(p) == (503, 503)
        wait_for(lambda: refused(p))
        assert 0.95 < time.monotonic() - start < 8 and p.alive()
        p.touch('go')
        assert c.read_response().status == 200 and c.eof()
        assert p.wait_exit() == 0 and time.monotonic() - start < 5


def test_shutdown_timeout_contains_lame_duck():
    with Own(WEB + 'cmd = %s\n' % counter('{socket}', '--stubborn'), LAME % '400ms' + 'shutdown_timeout = 1s\n') as p, p.connect() as c:
        c.send(head('GET', '/hang'))
        p.wait_status(lambda s: s['groups'][0]['workers'][0]['in_flight'] == 1)
        start = time.monotonic()
        p.signal(signal.SIGTERM)
        assert p.wait_exit() == 0 and 0.4 < time.monotonic() - start < 2.5


@pytest.mark.parametrize('sig', [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_lame_duck_is_hurried(sig):
    with Own(WEB + 'cmd = %s\n' % counter('{socket}', '--stubborn'), LAME % '20s') as p, p.connect() as c:
        c.send(head('GET', '/hang'))
        p.wait_status(lambda s: s['groups'][0]['workers'][0]['in_flight'] == 1)
        p.signal(signal.SIGTERM)
        p.wait_log('stopping: not ready')
        time.sleep(1.1)                  # two within a second are one
        start = time.monotonic()
        p.signal(sig)
        assert p.wait_exit() == 0 and time.monotonic() - start < 2


def test_a_lame_duck_is_hurried_by_admin():
    with Own(WEB + 'cmd = %s\n' % counter(), LAME % '20s') as p:
        assert p.admin('POST', '/stop')[0] == 202
        p.wait_log('stopping: not ready')
        assert p.get('/') and p.admin('GET', '/healthz')[0] == 200 and p.status()['stopping'] is True
        time.sleep(1.1)                  # two within a second are one
        start = time.monotonic()
        assert p.admin('POST', '/stop')[0] == 202
        assert p.wait_exit() == 0 and time.monotonic() - start < 2


@pytest.mark.parametrize('sig', [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP])
def test_no_signal_on_the_way_out_changes_the_status(sig):
    """Ctrl-C is pressed twice: the handlers are put back by then, and the process is still there."""
    for _ in range(5):
        with Own(WEB + 'cmd = %s\n' % counter()) as p:
            p.signal(signal.SIGTERM)
            p.wait_log('stopping')
            while p.proc.poll() is None:
                os.kill(p.pid, sig)
            assert p.proc.returncode == 0


def test_an_answer_that_had_begun_before_a_lame_duck():
    """It promised to keep the connection: the next answer is the one that says otherwise."""
    with Own(WEB + 'cmd = %s\n' % counter(), LAME % '3s') as p, p.connect() as c:
        c.send(head('GET', '/drip?n=3&ms=100'))
        c.peek_until(b'1\r\n.\r\n')
        p.signal(signal.SIGTERM)
        p.wait_log('stopping: not ready')
        r = c.read_response()
        p.signal(signal.SIGQUIT) if not c.silent(0.05) else None
        assert r.get('connection') is None and not c.ended and c.silent(0)
        r = c.ask('GET', '/')
        p.signal(signal.SIGQUIT)
        assert r.status == 200 and r.get('connection') == 'close'


def test_a_lame_duck_of_no_time():
    with Own(WEB + 'cmd = %s\n' % counter(), 'lame_duck = 0\n') as p:
        start = time.monotonic()
        p.stop()
        assert time.monotonic() - start < 1 and 'serving for' not in p.log()


@pytest.mark.parametrize('lame, whole', [('25s', None), ('26s', '26s'), ('1m', '30s'), ('1s', '0')])
def test_a_lame_duck_longer_than_the_stop(lame, whole):
    place('lame_duck = %s\n' % lame + ('shutdown_timeout = %s\n' % whole if whole else '') + UP, 1, 13,
          '`lame_duck`', 'shutdown_timeout')


def test_a_reload_of_lame_duck():
    """A reload changes it; one that is under way is undone when the stop begins."""
    with Own(WEB + 'cmd = %s\n' % counter(), LAME % '10s') as p:
        p.edit(('lame_duck = 10s', 'lame_duck = 300ms'), ('{socket}', '--hold-listen={dir}/never {socket}'))
        p.signal(signal.SIGHUP)
        p.wait_status(lambda s: any(g['workers'][1:] for g in s['groups']))
        start = time.monotonic()
        p.signal(signal.SIGTERM)
        p.wait_log('serving for 10.0s more')
        time.sleep(1.1)                  # two within a second are one
        p.signal(signal.SIGTERM)
        assert p.wait_exit() == 0 and time.monotonic() - start < 5


# --- pid_file ---

def test_pid_file():
    with Own(WEB + 'cmd = %s\n' % counter(), 'pid_file = {dir}/pid\n', files={'pid': 'what was here before, and is longer\n'}) as p:
        path = p.dir + '/pid'

        def right():
            with open(path) as f:
                return f.read() == '%d\n' % p.pid and stat.S_IMODE(os.stat(path).st_mode) == 0o644
        assert right()
        reload(p)
        good = p.config_text
        for old, new, line in (('{dir}/pid', '{dir}/other', 5), ('pid_file = {dir}/pid\n', '', None)):
            p.edit((old, new))
            text = reload(p, status=409)
            assert '`pid_file` cannot change at a reload' in text and (line is None or 'groups.ini:%d:' % line in text), text
            p.write_config(good)
        assert right() and not os.path.exists(p.dir + '/other')
        reload(p)
        p.stop()
        assert not os.path.exists(path)
        p.again()
        assert right()
        p.signal(signal.SIGKILL)
        p.wait_exit()
        assert os.path.exists(path)
        p.again()
        assert right(), 'what a dead one left is no obstacle'
        p.stop()
        assert not os.path.exists(path)


@pytest.mark.parametrize('what', ['missing', 'directory', 'fifo', 'link', 'dangling', 'socket', 'full'])
def test_a_pid_file_that_cannot_be_written(what, tmp_path):
    path, other = str(tmp_path / 'pid'), tmp_path / 'other'
    other.write_text('precious')
    if what == 'missing':
        path = str(tmp_path / 'no' / 'pid')
    elif what == 'directory':
        os.mkdir(path)
    elif what == 'fifo':
        os.mkfifo(path)
    elif what == 'link':
        os.symlink(str(other), path)
    elif what == 'dangling':
        os.symlink(str(tmp_path / 'nothing'), path)
    elif what == 'socket':
        socket.socket(socket.AF_UNIX).bind(path)
    else:
        machine.need('dev-full')
        path = '/dev/full'
    before = sorted(os.listdir(str(tmp_path)))
    run = cli('groups.ini', config='listen = 127.0.0.1:0\nruntime_dir = {dir}/run\npid_file = %s\n' % path + UP)
    assert run.status == 1 and re.search(r'^ldcorn: cannot write pid_file %s: .* \(groups\.ini:3\)$' % re.escape(path), run.err, re.M), run
    assert sorted(os.listdir(str(tmp_path))) == before and other.read_text() == 'precious'
    assert os.path.exists(path) or what in ('missing', 'dangling')


def test_the_pid_file_of_a_successor_stays():
    with Own(WEB + 'cmd = %s\n' % counter(), 'pid_file = {dir}/pid\n') as p:
        with open(p.dir + '/pid.new', 'w') as f:
            f.write('1\n')
        os.rename(p.dir + '/pid.new', p.dir + '/pid')
        p.stop()
        assert os.path.exists(p.dir + '/pid')


# --- umask ---

def who(pid):
    """-> (uid, gid, supplementary groups, umask) of a process; all four uids must be one."""
    with open('/proc/%d/status' % pid) as f:
        said = dict(line.split(':\t', 1) for line in f.read().splitlines() if ':\t' in line)
    uids, gids = ({int(n) for n in said[k].split()} for k in ('Uid', 'Gid'))
    assert len(uids) == len(gids) == 1, said
    return uids.pop(), gids.pop(), sorted(map(int, said['Groups'].split())), int(said['Umask'], 8)


@pytest.mark.parametrize('said, value', [('027', 0o27), ('0', 0), ('0177', 0o177), ('22', 0o22), (None, 0o35)])
def test_umask(said, value):
    groups = WEB + ('umask = %s\n' % said if said else '') + 'cmd = %s\n' % counter()
    with Own(groups, preexec=lambda: os.umask(0o35)) as p:
        assert who(p.pids()[0])[3] == value and who(p.pid)[3] == 0o35
        path = p.info()['env']['LDCORN_SOCKET']
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o777 & ~value


@pytest.mark.parametrize('value', ['x', '8', '1000', '-1', '0o22', '22 2', '0x12', '99999999999999999999'])
def test_wrong_umask(value):
    place(UP.replace('upstream = 127.0.0.1:9', 'cmd = true {socket}') + 'umask = %s\n' % value, 4, 9,
          '`umask` does not take', 'write an octal number')


@pytest.mark.parametrize('line', ['umask = 077\n', pytest.param('user = nobody\n', marks=pytest.mark.needs('root'))])
def test_umask_and_user_at_a_reload_that_keeps_processes(line):
    with Apps(WEB + 'cmd = {counter} {socket}\n') as p:
        before = who(p.pids()[0])
        p.edit((WEB, WEB + line))
        reload(p, '?processes=keep')
        p.wait_status(lambda s: p.pids())
        assert who(p.pids()[0]) != before


# --- user and run_as ---

root = pytest.mark.needs('root')
NOBODY, WWW = (machine.known(n) for n in ('nobody', 'www-data'))


class Apps(Own):
    """Its directory lets everybody through, and what workers need is in it."""

    def __init__(self, groups, top='', owner=None, **kw):
        with open(COUNTER) as f:
            files = {'counter.py': f.read(), 'counted': ''}

        def preexec():
            os.umask(0o22)
            os.chmod('.', 0o711)
            os.chmod('counted', 0o666)
            if owner:
                os.chown('.', owner.pw_uid, owner.pw_gid)
                os.chown('out', owner.pw_uid, owner.pw_gid)
        super().__init__(groups.replace('{counter}', sys.executable + ' -S {dir}/counter.py'), top, files=files, preexec=preexec, **kw)


def reaches(path, user):
    """Can that user connect there? A process of its own tries."""
    code = 'import socket, sys\ns = socket.socket(socket.AF_UNIX)\ntry:\n s.connect(sys.argv[1])\nexcept OSError:\n sys.exit(3)'
    run = subprocess.run([sys.executable, '-S', '-c', code, path], user=user.pw_uid, group=user.pw_gid, extra_groups=[], timeout=20)
    assert run.returncode in (0, 3)
    return run.returncode == 0


@root
@pytest.mark.parametrize('said, uid, gid, name', [
    ('nobody', 65534, 65534, 'nobody'), ('www-data', 33, 33, 'www-data'), ('nobody:www-data', 65534, 33, 'nobody'),
    ('33', 33, 33, 'www-data'), ('nobody:12345', 65534, 12345, 'nobody'), ('23456:34567', 23456, 34567, '23456'),
    ('root', 0, 0, 'root'), ('0:33', 0, 33, 'root')])
def test_user(said, uid, gid, name):
    """Who the workers are, in each way of reaching them; ldcorn stays root."""
    with Apps('user = %s\nenv = KEPT=1\n' % said +
              ''.join('[%s]\nroutes = /%s\ncmd = {counter} %s\n' % (n, n, t)
                      for n, t in (('socket', '{socket}'), ('port', '{port}'), ('fd', 'fd:{fd}')))) as p:
        for transport in ('socket', 'port', 'fd'):
            said_ = p.info('/' + transport)
            groups = os.getgrouplist(name, gid) if not name.isdigit() else [gid]
            assert who(said_['pid'])[:3] == (uid, gid, sorted(groups)) and said_['started']['fds'][:3] == [0, 1, 2]
            env = said_['env']
            home = pwd.getpwuid(uid).pw_dir if not name.isdigit() else '/'
            assert (env['USER'], env['LOGNAME'], env['HOME'], env['KEPT']) == (name, name, home, '1')
        assert who(p.pid)[0] == 0
        path = p.info('/socket')['env']['LDCORN_SOCKET']
        st = os.stat(os.path.dirname(path))
        assert path.startswith('%s/run/uid-%d/' % (p.dir, uid)) and (st.st_uid, stat.S_IMODE(st.st_mode)) == (uid, 0o700)
        p.stop()
        assert not os.path.exists(p.dir + '/run')


@root
def test_env_wins_over_the_user():
    with Apps(WEB + 'user = nobody\nenv = HOME=/elsewhere USER=me\ncmd = {counter} {socket}\n') as p:
        env = p.info()['env']
        assert (env['HOME'], env['USER'], env['LOGNAME']) == ('/elsewhere', 'me', 'nobody')


TWO = ''.join('[%s]\nroutes = /%s\n%scmd = {counter} --tag=%s {socket}\n' % (n, n, u, n)
              for n, u in (('one', 'user = nobody\n'), ('two', 'user = www-data\n')))


@root
def test_nobody_else_reaches_a_worker_of_a_user():
    """Each has a directory, closed to others even where the socket is open to all."""
    with Apps(TWO) as p:
        paths = [p.info(t)['env']['LDCORN_SOCKET'] for t in ('/one', '/two')]
        for path in paths:
            os.chmod(path, 0o777)
        assert [[reaches(path, u) for u in (NOBODY, WWW)] for path in paths] == [[True, False], [False, True]]
        assert not reaches(p.dir + '/admin.sock', NOBODY)
        for u in (NOBODY, WWW):
            code = 'import os, sys\ntry:\n os.listdir(sys.argv[1])\nexcept OSError:\n sys.exit(3)'
            assert subprocess.run([sys.executable, '-S', '-c', code, p.dir + '/run'], user=u.pw_uid).returncode == 3


@root
def test_nobody_reaches_a_worker_without_a_user_beside_one_with():
    """FORWARDED_ALLOW_IPS=* is right as long as only ldcorn can reach it; uvicorn makes its socket 0666."""
    with Apps(TWO.replace('user = www-data\n', 'umask = 0\n')) as p:
        path = p.info('/two')['env']['LDCORN_SOCKET']
        assert p.info('/two')['env']['FORWARDED_ALLOW_IPS'] == '*'
        assert not reaches(path, WWW)


@root
def test_a_link_in_the_place_of_a_socket():
    """The worker of a user must not reach by ldcorn what that user cannot reach."""
    with Apps(WEB + 'user = nobody\nworker_keepalive = 0\nhealth_interval = none\ncmd = {counter} {socket}\n') as p:
        path = p.info()['env']['LDCORN_SOCKET']
        assert not reaches(p.dir + '/admin.sock', NOBODY)
        code = 'import os, sys\nos.unlink(sys.argv[1])\nos.symlink(sys.argv[2], sys.argv[1])'
        subprocess.run([sys.executable, '-S', '-c', code, path, p.dir + '/admin.sock'], user='nobody', check=True, timeout=20)
        with p.connect() as c:
            r = c.ask('GET', '/status', {'Host': 'localhost'})
        assert r.status in (502, 503) or r.body.isdigit(), r        # a new worker of the group may have answered


def test_a_directory_of_somebody_else_in_runtime_dir():
    """/run/user has such names too."""
    with Own(WEB + 'cmd = %s\n' % counter()) as p:
        p.stop()
        os.makedirs(p.dir + '/run/1000')
        os.mkdir(p.dir + '/run/2empty')
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(p.dir + '/run/1000/bus')
        p.again()
        p.wait_status(lambda s: p.pids())
        assert os.listdir(p.dir + '/run/1000') == ['bus'] and os.path.isdir(p.dir + '/run/2empty')


@root
def test_what_a_user_leaves_is_gone_after_a_restart():
    with Apps(TWO) as p:
        olds = p.starts()
        p.signal(signal.SIGKILL)
        p.wait_exit()
        wait_gone(*olds)
        assert sorted(n for n in os.listdir(p.dir + '/run') if not n.startswith('pid-')) == ['lock', 'uid-33', 'uid-65534']
        assert os.listdir(p.dir + '/run/uid-33') and os.listdir(p.dir + '/run/uid-65534')
        p.again()
        p.wait_status(lambda s: all(g['workers'][0]['state'] == 'ready' for g in s['groups']))
        assert who(p.info('/one')['pid'])[0] == 65534
        assert [len(os.listdir(p.dir + '/run/' + n)) for n in ('uid-33', 'uid-65534')] == [1, 1]
        p.edit(('user = www-data\n', ''))
        reload(p)
        assert who(p.info('/two')['pid'])[0] == 0
        p.stop()
        assert not os.path.exists(p.dir + '/run') or os.listdir(p.dir + '/run') == []


@root
def test_a_file_beside_the_socket_of_a_user():
    with Apps(WEB + 'user = nobody\ncmd = /bin/sh -c \'touch "$$(dirname $$0)/left"; exec {counter} $$0\' {socket}\n'.replace('$$', '$')) as p:
        wait_for(lambda: os.path.exists(p.dir + '/run/uid-65534/left'))
        p.stop()
        assert not os.path.exists(p.dir + '/run')


@root
@pytest.mark.parametrize('transport', ['{socket}', '{port}', 'fd:{fd}'])
def test_user_changes_at_a_reload(transport):
    with Apps(WEB + '; user\ncmd = {counter} %s\n' % transport) as p:
        uids = []
        for now, new in ((None, 'nobody'), ('nobody', 'www-data'), ('www-data', '0'), ('0', None), (None, '33:0')):
            uids.append(who(p.info()['pid'])[0])
            p.edit(('user = %s\n' % now if now else '; user\n', 'user = %s\n' % new if new else '; user\n'))
            reload(p)
        assert uids == [0, 65534, 33, 0, 0] and who(p.info()['pid'])[:3] == (33, 0, sorted(os.getgrouplist('www-data', 0)))
        p.stop()
        assert not os.path.exists(p.dir + '/run')


@root
@pytest.mark.parametrize('key', ['user', 'run_as'])
def test_workers_of_a_user_end_with_the_parent(key):
    with Apps(WEB + ('user = nobody\n' if key == 'user' else '') + 'workers = 2\ncmd = {counter} --stubborn {socket}\n',
              'run_as = nobody\n' if key == 'run_as' else '', owner=NOBODY if key == 'run_as' else None,
              env=NO_LEAKS, expect_status=-9) as p:
        pids = p.pids()
        assert [who(pid)[0] for pid in pids] == [65534] * 2
        p.signal(signal.SIGKILL)
        p.wait_exit()
        wait_gone(*pids)


@pytest.mark.parametrize('key, prefix', [('run_as', ''), ('user', WEB + 'cmd = true {socket}\n')])
@pytest.mark.parametrize('value, words', [
    ('no-such-user', 'there is no user `no-such-user`'), ('nobody:no-such-group', 'there is no group `no-such-group`'),
    ('nobody:', 'there is no group'), (':nogroup', 'there is no user'), ('23456', 'there is no user `23456`'), ('-1', 'there is no user'),
('0x10:1', 'there is no user'), ('1:4294967295', 'there is no group'),
    ('nobody:nogroup:more', 'there is no group'), ('nobody nogroup', 'there is no user'), ('1 :1', 'there is no user')])
def test_wrong_users(key, prefix, value, words):
    config = prefix + '%s = %s\n' % (key, value) + ('' if prefix else UP)
    place(config, prefix.count('\n') + 1, r'\d+', words, 'write name, name:group or 1000:1000')


@root
@pytest.mark.parametrize('value', ['18446744073709551616:1', '12x:1', '1000.5:1', '1:12x', '1:4294967296', '4294967295:1',
                                   '4294967296:1', '4294967297:1'])
def test_users_that_are_no_numbers(value):
    config = WEB + 'user = %s\ncmd = true {socket}\n' % value
    run = cli('-t', 'groups.ini', config=config)
    assert run.status == 2 and 'there is no ' in run.err + run.out, run


@root
def test_run_as_cannot_change():
    with Apps(WEB + 'cmd = {counter} {socket}\n', 'run_as = nobody\n', owner=NOBODY, env=NO_LEAKS) as p:
        p.edit(('run_as = nobody', 'run_as = www-data'))
        assert 'cannot change at a reload' in reload(p, status=409)


@root
def test_user_and_run_as():
    place('run_as = nobody\n' + WEB + 'cmd = true {socket}\nuser = nobody\n', 5, 8, '`user` needs root, which `run_as` gives up', 'keep one')


NO_LEAKS = {'ASAN_OPTIONS': os.environ.get('ASAN_OPTIONS', '').replace('detect_leaks=1', 'detect_leaks=0')}


@root
@pytest.mark.parametrize('key', ['run_as', 'user'])
def test_not_root(key):
    """Somebody else is an error, oneself is not."""
    path = make_dir()
    try:
        os.chmod(path, 0o755)
        shutil.copy(BIN, path + '/ldcorn')
        for value, status in (('www-data', 2), ('nobody:www-data', 2), ('root', 2), ('nobody', 0), ('65534:65534', 0)):
            with open(path + '/groups.ini', 'w') as f:
                f.write(('run_as = %s\n' % value if key == 'run_as' else '') + WEB + 'cmd = true {socket}\n' + ('user = %s\n' % value if key == 'user' else ''))
            run = subprocess.run(['./ldcorn', '-t', 'groups.ini'], cwd=path, user='nobody', group='nogroup', extra_groups=[], timeout=20,
                                 env=_environ(NO_LEAKS), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            text = run.stderr.decode()
            assert run.returncode == status, text
            if status:
                assert '`%s = %s` needs root, and this is uid 65534' % (key, value) in text and 'start ldcorn as root' in text
    finally:
        shutil.rmtree(path)


# run_as: the directory belongs to that user, unless a test says otherwise.

@root
def test_run_as():
    """ldcorn and its workers, its files and sockets, and all that it does later on."""
    groups = WEB + 'cmd = {counter} {socket}\n[fd]\nroutes = /fd\ncmd = {counter} fd:{fd}\n[port]\nroutes = /port\ncmd = {counter} {port}\n'
    with Apps(groups, 'run_as = www-data\nlog = {dir}/own.log\npid_file = {dir}/pid\n', owner=WWW, env=NO_LEAKS, wait=False).up() as p:
        p.wait_status(lambda s: all(g['workers'][0]['state'] == 'ready' for g in s['groups']))
        assert who(p.pid)[:3] == (33, 33, [33])
        for target in ('/', '/fd', '/port'):
            assert who(p.info(target)['pid'])[:3] == (33, 33, [33])
        for name in ('own.log', 'access', 'run', 'run/lock', 'admin.sock'):
            assert os.stat(p.dir + '/' + name).st_uid == 33, name
        assert stat.S_IMODE(os.stat(p.dir + '/run').st_mode) == 0o700 and stat.S_IMODE(os.stat(p.dir + '/admin.sock').st_mode) == 0o600
        assert reaches(p.dir + '/admin.sock', WWW) and not reaches(p.dir + '/admin.sock', NOBODY)
        os.rename(p.dir + '/own.log', p.dir + '/own.1')
        os.rename(p.dir + '/access', p.dir + '/access.1')
        p.signal(signal.SIGUSR1)
        wait_for(lambda: os.path.exists(p.dir + '/own.log') and os.path.exists(p.dir + '/access'))
        assert os.stat(p.dir + '/own.log').st_uid == 33
        old = p.info()['pid']
        reload(p)
        assert p.info()['pid'] != old and who(p.info()['pid'])[0] == 33
        p.edit(('run_as = www-data', 'run_as = nobody'))
        assert 'groups.ini:5:' in reload(p, status=409)
        p.edit(('run_as = nobody', '; run_as'))
        assert 'cannot change at a reload' in reload(p, status=409)
        p.edit(('; run_as', 'run_as = www-data'))
        os.kill(p.info()['pid'], signal.SIGKILL)
        p.wait_status(lambda s: p.pids() and s['groups'][0]['workers'][0]['generation'] and 'KILL' in (s['groups'][0]['workers'][0]['last_exit'] or ''))
        assert p.get('/')
        p.stop()
        assert not os.path.exists(p.dir + '/run') and not os.path.exists(p.dir + '/pid') and not os.path.exists(p.dir + '/admin.sock')


def low_port():
    """One below 1024 that is free, on an address of loopback that nobody else uses."""
    machine.need('low-ports')
    for port in range(1023, 900, -1):
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(('127.61.%d.%d' % divmod(os.getpid() % 65000, 256), port))
                return s.getsockname()
            except OSError:
                continue
    pytest.skip('no port below 1024 is free')


@root
def test_run_as_binds_before():
    address = low_port()
    with Apps(WEB + 'cmd = {counter} {socket}\n', owner=NOBODY, top='run_as = nobody:www-data\n', env=NO_LEAKS,
              args=('-o', 'listen=%s:%d' % address)) as p:
        assert who(p.pid)[:3] == (65534, 33, sorted(os.getgrouplist('nobody', 33)))
        with Client(address) as c:
            assert c.ask('GET', '/').status == 200
        reload(p)
        with Client(address) as c:
            assert c.ask('GET', '/').status == 200


@root
@pytest.mark.parametrize('end', [signal.SIGTERM, signal.SIGKILL])
def test_run_as_starts_again(end):
    """The directory above belongs to root, as /run does: after an end, or a kill, it starts again."""
    with Apps(WEB + 'cmd = {counter} {socket}\n', 'run_as = nobody\n', env=NO_LEAKS, args=('-o', 'access_log=off')) as p:
        p.signal(end)
        p.wait_exit()
        p.again()
        p.wait_status(lambda s: p.pids())
        assert p.get('/')


@root
def test_run_as_leaves_what_root_has_to_remove():
    """In a directory of root it can remove nothing: pid_file is emptied, the rest is no hindrance at the next start."""
    with Apps(WEB + 'cmd = {counter} {socket}\n', 'run_as = nobody\npid_file = {dir}/pid\n', env=NO_LEAKS,
              args=('-o', 'listen=unix:{dir}/public', '-o', 'access_log=off')) as p:
        for _ in range(2):
            assert Client('unix:%s/public' % p.dir).ask('GET', '/').status == 200
            with open(p.dir + '/pid') as f:
                assert f.read() == '%d\n' % p.pid
            p.stop()
            assert os.path.getsize(p.dir + '/pid') == 0 and os.listdir(p.dir + '/run') == []
            p.again()
            p.wait_status(lambda s: p.pids())


@root
def test_run_as_and_a_second_instance():
    with Apps(WEB + 'cmd = {counter} {socket}\n', 'run_as = nobody\n', owner=NOBODY, env=NO_LEAKS) as p:
        run = subprocess.run(p.command, cwd=p.dir, stderr=subprocess.PIPE, timeout=20)
        assert run.returncode == 1 and b'ldcorn pid %d already runs' % p.pid in run.stderr
