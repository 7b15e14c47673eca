"""What stands around ldcorn where it is deployed: balancers in front, sockets that somebody else holds,
users that it becomes, and an end that others see coming."""
import contextlib, json, os, pwd, re, shutil, signal, socket, stat, struct, subprocess, sys, time

import pytest
from harness import (BIN, STOP_TIMEOUT, AutoWorker, Client, Proxy, _environ, answer, cli, free_port, head, make_dir, wait_for)
from procs import COUNTER, Own, alive, counter, wait_gone

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
    served, n = front.worker.served, len(front.proxy.access())
    with front.connect() as c:
        c.send(REFUSED[name] + GET)
        r = c.read_response()
        assert r.status == 400 and r.get('connection') == 'close' and r.get('x-request-id') in r.body.decode()
        assert c.eof() and 'PROXY' in r.body.decode()
    record = front.proxy.wait_access(lambda r: front.proxy.access().index(r) >= n)
    assert (record['reason'], record['status'], record['client'], record['worker'], record['target']) == \
        ('proxy', 400, '127.0.0.1', -1, '')
    assert front.worker.served == served


@pytest.mark.parametrize('first', ['v1-tcp4', 'v1-unknown', 'v2-inet', 'v2-local', 'v2-unix-tlvs'])
@pytest.mark.parametrize('second', ['v1-tcp4', 'v1-unknown', 'v2-inet', 'v2-local'])
def test_a_second_proxy_header_is_a_malformed_request(front, first, second):
    n = len(front.proxy.access())
    with front.connect() as c:
        c.send(HEADERS[first][0] + HEADERS[second][0] + GET)
        assert c.read_response().status == 400 and c.eof()
    record = front.proxy.wait_access(lambda r: front.proxy.access().index(r) >= n)
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
    n = len(slow.proxy.access())
    with slow.connect(slow.unix) as c:
        start = time.monotonic()
        c.send(sent)
        r = c.read_response()
        assert r.status == 408 and c.eof() and 0.25 < time.monotonic() - start < 5
    record = slow.proxy.wait_access(lambda r: slow.proxy.access().index(r) >= n)
    assert record['reason'] == 'header_timeout'
    assert record['client'] == ('192.0.2.7' if sent.startswith(v1()) else '')


@pytest.fixture(scope='module')
def slow():
    with Front('header_timeout = 300ms\n') as f:
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
    ('admin = 127.0.0.1:1 proxy\n', 9, ['`admin` does not take'])])
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
