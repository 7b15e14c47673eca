"""What cannot become a request is refused when it is seen, not when the time for its head is over; and what still can
become one is waited for, however little of it has come."""
import re, socket, time

import pytest
from harness import Client, FakeWorker, Proxy, answer, free_port, head, upstream_config, wait_for

OK = answer(b'ok')
H = b'Host: a\r\n'
SOON = 4.0                              # of a header_timeout of 60 s; a busy machine may need some of it

# What TLS clients begin with: record type 22, a version, a length, hello (1).
HELLO = (b'\x16\x03\x01\x00\x75\x01\x00\x00\x71\x03\x03' + bytes(range(0x40, 0x60)) + b'\x20' + bytes(32) +
         b'\x00\x02\x13\x01\x01\x00' + bytes(38))

# No later byte makes a request of these.
NEVER = [
    ('TLS hello', HELLO), ('TLS hello, its record head alone', HELLO[:5]),
    ('TLS hello of SSL 3', HELLO.replace(b'\x03\x01', b'\x03\x00', 1)),
    ('SSL 2 hello', b'\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10'), ('TLS alert', b'\x15\x03\x01\x00\x02\x02\x28'),
    ('NUL', b'\0'), ('NULs', bytes(40)), ('NUL in the method', b'GE\0T'), ('NUL in the target', b'GET /a\0b'),
    ('NUL behind an empty line', b'\r\n\0'),
    ('JSON', b'{'), ('JSON-RPC', b'{"jsonrpc":"2.0"}'), ('array', b'[1]'), ('markup', b'<?xml version="1.0"?>'),
    ('quote', b'"GET"'),
    ('SSH', b'SSH-2.0-OpenSSH_9.6\r\n'), ('SSH without CR', b'SSH-2.0-x\n'), ('SMTP', b'EHLO mail.example\r\n'),
    ('FTP', b'USER anonymous\r\n'),
    ('Redis', b'*1\r\n$4\r\nPING\r\n'), ('memcached', b'stats\r\n'), ('SOCKS 5', b'\x05\x01\x00'),
    ('SOCKS 4', b'\x04\x01\x00\x50\x7f\x00\x00\x01'),
    ('PostgreSQL', b'\x00\x00\x00\x08\x04\xd2\x16\x2f'), ('RDP', b'\x03\x00\x00\x13\x0e\xe0'),
    ('MQTT', b'\x10\x10\x00\x04MQTT'), ('PROXY line', b'PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n'),
    ('PROXY v2', b'\r\n\r\n\x00\r\nQUIT\n'), ('byte order mark', b'\xef\xbb\xbfGET'), ('high byte', b'\xc3'),
    ('ESC', b'\x1b[A'),
    ('blank', b' GET'), ('tab', b'\tGET'), ('blank line with a blank', b' \r\n'), ('colon', b':'),
    ('slash', b'/ HTTP/1.1'), ('at sign', b'@'), ('LF', b'\n'), ('LF behind CRLF', b'\r\n\n'),
    ('CR in the method', b'GE\rT'), ('CR behind the method', b'GET\r/'), ('two CRs', b'\r\r'),
    ('third empty line', b'\r\n\r\n\r\n'), ('tab in the line', b'GET\t/'),
    # a request line whose end has come
    ('method alone', b'GET\r\n'), ('method and target', b'GET /\r\n'),
    ('no version, fields follow', b'GET /\r\nHost: a\r\n'), ('four words', b'GET / HTTP/1.1 x\r\n'),
    ('two blanks', b'GET  / HTTP/1.1\r\n'), ('blank last', b'GET / HTTP/1.1 \r\n'), ('HTTP/1', b'GET / HTTP/1\r\n'),
    ('http/1.1', b'GET / http/1.1\r\n'),
    ('bad method', b'G(T / HTTP/1.1\r\n'), ('disguised method', b'get / HTTP/1.1\r\n'),
    ('fragment', b'GET /#a HTTP/1.1\r\n'), ('no slash', b'GET a HTTP/1.1\r\n'),
    ('star with GET', b'GET * HTTP/1.1\r\n'), ('userinfo', b'GET http://u@a/ HTTP/1.1\r\n'),
    ('answer', b'HTTP/1.1 200 OK\r\n'), ('bare LF', b'GET / HTTP/1.1\n'),
    ('bare CR', b'GET / HTTP/1.1\rHost: a'), ('word', b'hello\r\n'), ('RTSP', b'OPTIONS rtsp://a/ RTSP/1.0\r\n'),
    ('behind an empty line', b'\r\nhello\r\n'),
    ('HTTP/2.0', b'GET / HTTP/2.0\r\n'), ('preface of HTTP/2', b'PRI * HTTP/2.0\r\n'),
    ('CONNECT', b'CONNECT a:443 HTTP/1.1\r\n'), ('TRACE', b'TRACE / HTTP/1.1\r\n')]
STATUS = {'HTTP/2.0': 505, 'preface of HTTP/2': 505, 'CONNECT': 405, 'TRACE': 405}

# The same of a field line: nothing behind it mends it.
FIELDS = [('no colon', b'foo\r\n'), ('blank before the colon', b'X : 1\r\n'), ('empty name', b': 1\r\n'),
          ('fold', b'X: a\r\n b\r\n'), ('bracket in a name', b'X(: 1\r\n'),
          ('NUL in a name', b'X\0: 1\r\n'), ('NUL in a value', b'X: a\0b\r\n'), ('control byte in a value', b'X: a\x01\r\n'),
          ('bare LF', b'X: a\n'), ('bare CR', b'X: a\rb\r\n'), ('blank first', b' X: a\r\n')]


@pytest.fixture(scope='module')
def patient():
    """Nothing ends by itself within a minute."""
    with FakeWorker() as w, Proxy(upstream_config(w.address, 'header_timeout = 60s\nkeepalive_timeout = 60s\n',
                                                  'worker_keepalive = 0\n')) as p:
        p.fake = w
        yield p


@pytest.fixture(scope='module')
def patient_admin():
    """Admin on a port, as the page wants it."""
    port = free_port()
    config = upstream_config('{w}', 'header_timeout = 60s\n').replace('{admin}', '127.0.0.1:%d' % port)
    with FakeWorker() as w, Proxy(config.replace('{w}', w.address)) as p:
        p.admin_address = '127.0.0.1:%d' % port
        yield p


def send_bytes(c, data):
    try:
        for i in range(len(data)):
            c.sock.send(data[i:i + 1])
    except OSError:
        pass                            # refused in the middle, as it should be


def deliver(c, data):
    try:
        c.sock.sendall(data)
    except OSError:
        pass                            # it may end before it has read all


def is_refused(c, sent, status, how='whole'):
    """Answered and ended at once, though the client says nothing more and leaves its end open."""
    start = time.monotonic()
    if how == 'bytes':
        send_bytes(c, sent)
    else:
        c.send(sent)
    c.timeout = SOON
    r = c.read_response()
    assert r.status == status and r.complete and r.get('connection').lower() == 'close'
    assert c.eof() and not c.was_reset
    assert time.monotonic() - start < SOON * 2
    return r


def rows(table):
    return pytest.mark.parametrize('name, sent', table, ids=[row[0] for row in table])


@pytest.mark.parametrize('how', ['whole', 'bytes'])
@rows(NEVER)
def test_what_cannot_become_a_request_is_refused_at_once(patient, name, sent, how):
    with patient.connect() as c:
        is_refused(c, sent, STATUS.get(name, 400), how)
    assert patient.fake.no_connection(0)


@pytest.mark.parametrize('how', ['whole', 'bytes'])
@rows(FIELDS)
def test_a_field_line_that_cannot_become_one_is_refused_at_once(patient, name, sent, how):
    """nginx and HAProxy do not wait for the rest of such a head either."""
    with patient.connect() as c:
        is_refused(c, b'GET / HTTP/1.1\r\n' + H + sent, 400, how)
    assert patient.fake.no_connection(0)


@rows([row for row in NEVER if row[0] in ('TLS hello', 'NUL', 'JSON', 'SSH', 'method and target', 'blank', 'LF')])
def test_it_is_refused_at_once_behind_a_request_too(patient, name, sent):
    """On a connection that is kept, and sent ahead while the worker is busy."""
    with patient.connect() as c:
        c.send(head('GET', '/first'))
        patient.fake.one(OK)
        assert c.read_response().body == b'ok'
        is_refused(c, sent, 400)
    with patient.connect() as c:
        c.send(head('GET', '/first') + sent)
        patient.fake.one(OK)
        assert c.read_response().body == b'ok'
        is_refused(c, b'', 400)


@pytest.mark.parametrize('cut', [1, 2, 3, 5, 6, 11, 60])
def test_a_hello_in_two_pieces_is_refused_at_once(patient, cut):
    with patient.connect() as c:
        c.send(HELLO[:cut])
        if cut > 5:
            c.silent(0.05)
        send_bytes(c, HELLO[cut:])
        is_refused(c, b'', 400)


@rows([row for row in NEVER if row[0] in ('TLS hello', 'JSON', 'SSH', 'method and target')])
def test_admin_refuses_it_at_once(patient_admin, name, sent):
    with Client(patient_admin.admin_address) as c:
        is_refused(c, sent, 400)


@rows([row for row in NEVER if row[0] in ('TLS hello', 'JSON', 'SSH', 'NUL', 'method and target')])
def test_an_address_that_wants_the_proxy_protocol_refuses_it_at_once(name, sent):
    """In place of the PROXY line and behind it."""
    config = upstream_config('127.0.0.1:1', 'header_timeout = 60s\n').replace('{listen}', '{listen} proxy')
    with Proxy(config) as p:
        with p.connect() as c:
            is_refused(c, sent, 400)
        with p.connect() as c:
            is_refused(c, b'PROXY TCP4 192.0.2.1 127.0.0.1 4000 80\r\n' + sent, 400)


# --- what the log says to everybody's first mistake ---

def tls_lines(p):
    return [line for line in p.log().splitlines() if re.search(r'\bTLS\b', line)]


def from_peer(p, ip):
    s = socket.socket()
    s.bind((ip, 0))
    s.settimeout(10)
    s.connect(p.address)
    s.sendall(HELLO)
    got = b''
    while True:
        data = s.recv(4096)
        if not data:
            break
        got += data
    s.close()
    assert got.startswith(b'HTTP/1.1 400 ')


def test_the_log_says_once_per_peer_that_a_tls_client_came():
    """With the address that is a plain one, and what to do."""
    with FakeWorker() as w, Proxy(upstream_config(w.address, 'header_timeout = 60s\n')) as p:
        from_peer(p, '127.0.0.1')
        line, = wait_for(lambda: tls_lines(p), what='a line about TLS')
        assert '127.0.0.1:%d' % p.port in line and re.search(r'(?i)terminat|in front', line), line
        for _ in range(5):
            from_peer(p, '127.0.0.1')
        assert len(tls_lines(p)) == 1
        from_peer(p, '127.0.0.9')
        wait_for(lambda: len(tls_lines(p)) == 2, what='a line about another peer')
        assert any('127.0.0.9' in line for line in tls_lines(p))
        from_peer(p, '127.0.0.9')
        from_peer(p, '127.0.0.1')
        with p.connect() as c:
            c.send(b'{')
            assert c.read_response().status == 400
        assert len(tls_lines(p)) == 2


def test_many_peers_with_tls_do_not_fill_the_log():
    """The memory for who was told is bounded, and so is the log."""
    with FakeWorker() as w, Proxy(upstream_config(w.address, 'header_timeout = 60s\n')) as p:
        for n in range(1, 251):
            from_peer(p, '127.0.1.%d' % n)
        wait_for(lambda: any('127.0.1.250' in line for line in tls_lines(p)), what='the last line written')
        assert 1 <= len(tls_lines(p)) <= 250
        before = len(tls_lines(p))
        from_peer(p, '127.0.1.250')
        assert len(tls_lines(p)) <= before + 1


# --- what may still become a request is waited for ---

REST = b' / HTTP/1.1\r\n' + H + b'\r\n'
BEGINNINGS = [b'G', b'GE', b'GET', b'GET ', b'GET /', b'GET /a?b', b'GET / ', b'GET / H', b'GET / HTTP/1.',
              b'GET / HTTP/1.1', b'GET / HTTP/1.1\r', b'GET / HTTP/1.1\r\n',
              b'GET / HTTP/1.1\r\nH', b'GET / HTTP/1.1\r\nHost', b'GET / HTTP/1.1\r\nHost: a',
              b'GET / HTTP/1.1\r\nHost: a\r', b'GET / HTTP/1.1\r\nHost: a\r\n',
              b'GET / HTTP/1.1\r\nHost: a\r\n\r', b'\r', b'\r\n', b'\r\n\r', b'\r\n\r\n', b'\r\nG', b'\r\n\r\nGET',
              b'GET http:', b'GET http://a', b'GET HTTPS://a/', b'OPTIONS *',
              b'GET / HTTP/1.9', b'GET / HTTP/1.0', b'P', b'PR', b'PRI', b'PROXY', b'PROXY ', b'SSH-2.0-x', b'HTTP',
              b"!#$%&'*+-.^_`|~09aZ", b'purge', b'M-SEARCH', b'HELO', b'stats', b'*']
COMPLETE = {b'GET http:': b'//a/ HTTP/1.1\r\n' + H + b'\r\n', b'GET http://a': b'/ HTTP/1.1\r\n' + H + b'\r\n',
            b'GET HTTPS://a/': b' HTTP/1.1\r\n' + H + b'\r\n',
            b'OPTIONS *': b' HTTP/1.1\r\n' + H + b'\r\n', b'GET / HTTP/1.9': b'\r\n' + H + b'\r\n',
            b'GET / HTTP/1.0': b'\r\n' + H + b'\r\n',
            b'PROXY ': b'/ HTTP/1.1\r\n' + H + b'\r\n', b'GET /a?b': b' HTTP/1.1\r\n' + H + b'\r\n'}


def rest_of(begun):
    if begun in COMPLETE:
        return COMPLETE[begun]
    plain = b'GET' + REST
    at = begun.lstrip(b'\r\n')
    if begun in (b'\r', b'\r\n\r'):
        return b'\n' + plain
    if plain.startswith(at):
        return plain[len(at):]
    return REST                         # a method of its own


@pytest.mark.parametrize('begun', BEGINNINGS)
def test_a_beginning_of_a_request_is_waited_for(patient, begun):
    with patient.connect() as c:
        c.send(begun)
        assert c.silent(0.1), 'refused too early: %r' % c.recv_some()
        send_bytes(c, rest_of(begun))
        request, _ = patient.fake.one(OK)
        assert request.get('host') == 'a'
        assert c.read_response().body == b'ok'


@pytest.mark.parametrize('begun', [b'P', b'PROXY', b'PROXY TCP4 1', b'PROXY TCP4 192.0.2.1 127.0.0.1 4000 80\r', b'\r',
                                   b'\r\n\r\n', b'\r\n\r\n\x00\r\nQUI', b'\r\n\r\n\x00\r\nQUIT\n\x21'])
def test_a_beginning_of_the_proxy_protocol_is_waited_for(begun):
    v2 = b'\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c' + bytes([192, 0, 2, 1, 127, 0, 0, 1, 15, 160, 0, 80])
    whole = v2 if begun[:1] == b'\r' else b'PROXY TCP4 192.0.2.1 127.0.0.1 4000 80\r\n'
    assert whole.startswith(begun)
    with FakeWorker() as w:
        config = upstream_config(w.address, 'header_timeout = 60s\n').replace('{listen}', '{listen} proxy')
        with Proxy(config) as p, p.connect() as c:
            c.send(begun)
            assert c.silent(0.1)
            c.send(whole[len(begun):] + head('GET', '/'))
            assert w.one(OK)[0].get('x-real-ip') == '192.0.2.1'
            assert c.read_response().body == b'ok'


def test_a_refusal_survives_what_the_client_sends_behind_it(patient):
    """A TLS client that is not told to stop, or an upload to a bad line: no reset eats the answer."""
    for sent in (HELLO, b'hello\r\n'):
        with patient.connect() as c:
            deliver(c, sent + b'x' * 300000)
            r = c.read_response()
            assert r.status in (400, 414, 431) and r.complete        # where all came in one piece
            assert c.eof() and not c.was_reset


def test_a_request_line_that_is_too_long_is_still_414(patient):
    with patient.connect() as c:
        c.send(b'GET /' + b'x' * 40000)
        assert c.read_response().status == 414
    with patient.connect() as c:
        c.send(b'G' * 40000)
        assert c.read_response().status == 414
