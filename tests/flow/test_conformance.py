"""Every rule about messages as bytes, at both ends: what is refused reaches no worker, what is passed
is compared with what the worker saw and what the client got, to the last byte.

Requests stand in tests/wire.py, answers below. Behind each message an innocent one follows: its
arrival proves where the one before ended, and that nothing else went to the worker.
"""
from collections import namedtuple
import re, select, socket

import pytest
from harness import DATE, TIMEOUT, FakeWorker, Proxy, upstream_config
import wire
from wire import C, E, G, H, LISTEN, P, REQUESTS, SMUGGLED, seen

D = DATE.encode()
OK = b'HTTP/1.1 200 OK\r\n' + D + b'X-W: 1\r\nContent-Length: 2\r\n\r\nok'
LAST = b'HTTP/1.1 200 OK\r\n' + D + b'Content-Length: 4\r\nConnection: close\r\n\r\nlast'      # leaves nothing in the pool
PHRASES = {400: 'Bad Request', 405: 'Method Not Allowed', 413: 'Content Too Large', 414: 'URI Too Long',
           417: 'Expectation Failed', 431: 'Request Header Fields Too Large', 501: 'Not Implemented',
           502: 'Bad Gateway', 505: 'HTTP Version Not Supported'}

PSEUDONYM = re.compile(rb' ldcorn-[0-9a-f]{8}(?=[,\r])')        # of this instance, in Via (RFC 9110 7.6.3)


def ids(table):
    return [re.sub(r'[^!-~]+', '_', '%s-%s' % row[:2]) for row in table]


def rows(table):
    return [pytest.param(row, id=name) for row, name in zip(table, ids(table))]


def chosen(table, *names):
    """Some of the rows, by rule or name; each word must choose one at least."""
    for name in names:
        assert any(name in row[:2] for row in table), name
    return rows([row for row in table if row.rule in names or row.name in names])


def deliver(stream, data, how='whole'):
    """In one write, or byte by byte. The peer may refuse in the middle."""
    try:
        if how == 'whole':
            stream.sock.sendall(data)
            return
        stream.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(len(data)):
            stream.sock.send(data[i:i + 1])
    except (BrokenPipeError, ConnectionResetError):
        pass


def generated(data):
    """With placeholders for what differs from run to run."""
    data = re.sub(rb'(?i)(X-Request-Id: )[0-9a-f]+(?=\r\n)', rb'\1{id}', data)
    return re.sub(rb'(X-Request-Start: )t=\d{13}(?=\r\n)', rb'\1{start}', data)


def refusal(data, status, connection='Connection: close\r\n'):
    """An answer of ldcorn's own, to its last byte: True, or what is wrong."""
    allow = 'Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n' if status == 405 else ''
    text = r'%d [A-Za-z0-9 ,.\'-]+ \(request (?P<id>[0-9a-f]+)\)\n' % status
    pattern = (r'HTTP/1\.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: (?P<n>\d+)\r\n'
               r'Date: [A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT\r\n%sX-Request-Id: (?P<same>[0-9a-f]+)\r\n%s\r\n(?P<body>%s)' % (status, PHRASES[status], allow, connection, text))
    m = re.fullmatch(pattern.encode(), data)
    if not m:
        return 'not the refusal with %d: %r' % (status, data)
    return (m['id'] == m['same'] and len(m['body']) == int(m['n'])) or 'inconsistent: %r' % data


def next_at(fake):
    """The next request at the worker as (head, body, chunked, connection); chunks must be canonical."""
    conn = fake.accept()
    req = conn.read_request()
    chunked = req.get('transfer-encoding') is not None
    if chunked:
        framing = b''.join(b'%x\r\n' % n + req.body[sum(req.chunks[:i]):][:n] + E for i, n in enumerate(req.chunks))
        assert req.raw[len(req.head):] == framing + b'0\r\n\r\n', req.raw
    assert conn.buf == b'', 'bytes behind the request'
    return generated(req.head), req.body, chunked, conn


def after(proxy, client, conn=None):
    """An innocent request is the next thing that the worker sees, on the given connection if there is one."""
    client.send(b'GET /after HTTP/1.1\r\nHost: a\r\n\r\n')
    conn = conn or proxy.fake.accept()
    req = conn.read_request()
    assert req.raw.startswith(b'GET /after HTTP/1.1\r\nHost: a\r\n'), 'something else reached the worker: %r' % req.raw
    assert proxy.fake.no_connection(0), 'and something more'
    conn.send(LAST)
    got = client.read_response()
    assert got.raw == b'HTTP/1.1 200 OK\r\n' + D + b'Content-Length: 4\r\n\r\nlast' and client.buf == b''
    conn.close()


def started(top, groups):
    """A proxy before a worker that the test plays."""
    fake = FakeWorker()
    proxy = Proxy(upstream_config(fake.address, 'trusted_proxies = none\nheader_timeout = 60s\n' + top, groups.replace('{worker}', fake.address)))
    proxy.fake = fake
    return proxy


@pytest.fixture(scope='module')
def separate():
    """One request per worker connection. Under /collect a body is collected before it is sent on."""
    p = started('', 'worker_keepalive = 0\n[collects]\nroutes = /collect\nupstream = {worker}\nmax_req_per_worker = 1\nworker_keepalive = 0\n')
    with p.fake, p:
        yield p


@pytest.fixture(scope='module')
def pooled():
    """Worker connections are kept and used again."""
    p = started('', 'worker_keepalive = 60s\n')
    with p.fake, p:
        yield p


def fresh(proxy):
    """For one test: nothing of the one before is left, whatever became of it."""
    proxy.fake.drain()
    yield proxy
    while proxy.fake._conns:
        proxy.fake._conns.pop().close()


@pytest.fixture
def proxy(separate):
    yield from fresh(separate)


# --- requests ---

REFUSED = [case for case in REQUESTS if case.status]
PASSED = [case for case in REQUESTS if not case.status]
COLLECTED = [case._replace(sent=case.sent.replace(b'POST / ', b'POST /collect ', 1)) for case in REQUESTS if case.sent.startswith(C)]


def is_refused(proxy, case, how, behind=SMUGGLED, cut=False):
    """One answer, read whole although more was sent, the end, and nothing at the worker (or, with `cut`,
    nothing whole)."""
    with proxy.connect() as c:
        deliver(c, case.sent + behind, how)
        if not cut:
            ready = select.select([c.sock, proxy.fake.sock], [], [], TIMEOUT)[0]
            assert proxy.fake.sock not in ready, 'it reached the worker'
        assert refusal(c.read_all(), case.status) is True and not c.was_reset
    if cut and not proxy.fake.no_connection(0):
        with proxy.fake.accept() as conn, pytest.raises(ConnectionError):
            conn.read_request()
    with proxy.connect() as c:
        after(proxy, c)


def is_passed(proxy, case, how):
    with proxy.connect() as c:
        deliver(c, case.sent, how)
        for head, body, chunked in case.worker:
            got = next_at(proxy.fake)
            assert PSEUDONYM.sub(b' ldcorn', got[0]) == head.replace(LISTEN.encode(), b'127.0.0.1:%d' % proxy.port)
            assert got[1:3] == (body, chunked)
            head_only = head.startswith(b'HEAD ')
            got[3].send(OK[:-2] if head_only else OK)
            answer = c.read_until(E * 2) + (b'' if head_only else c.read_exact(2))
            connection = b''
            if case.end:
                connection = b'Connection: close\r\n'
            elif b'Via: 1.0' in head and case.sent.startswith(b'GET / HTTP/1.0'):
                connection = b'Connection: keep-alive\r\n'
            assert answer == b'HTTP/1.1 200 OK\r\n' + D + b'X-W: 1\r\nContent-Length: 2\r\n' + connection + E + (b'' if head_only else b'ok')
            assert got[3].eof(), 'one request per connection'
        if case.end:
            assert c.read_all() == b'' and not c.was_reset
        else:
            after(proxy, c)
    if case.end:
        with proxy.connect() as c:
            after(proxy, c)


@pytest.mark.parametrize('case', rows([c for c in REFUSED if c not in wire.BAD_CHUNKS]))
def test_refused(proxy, case):
    is_refused(proxy, case, 'whole')


@pytest.mark.parametrize('case', rows(wire.BAD_CHUNKS))
def test_refused_in_the_body(proxy, case):
    is_refused(proxy, case, 'whole', cut=True)


@pytest.mark.parametrize('case', rows([c for c in COLLECTED if c.status]))
def test_refused_in_the_body_while_it_is_collected(proxy, case):
    is_refused(proxy, case, 'whole')


@pytest.mark.parametrize('case', rows(PASSED))
def test_passed(proxy, case):
    is_passed(proxy, case, 'whole')


@pytest.mark.parametrize('case', rows([c for c in COLLECTED if not c.status and len(c.worker) == 1]))
def test_passed_when_it_is_collected(proxy, case):
    """Chunks go on as one body with its length."""
    is_passed(proxy, case._replace(worker=(seen('POST /collect', body=case.worker[0][1], length=len(case.worker[0][1])),)), 'whole')


@pytest.mark.parametrize('case', chosen(
    REFUSED, 'two blanks behind the method', 'CR CR LF behind it', 'three empty lines first', 'bare CR first', 'preface of HTTP/2',
    'above the root, encoded', 'two equal', 'blank before the colon', 'bare CR in a value', 'hidden field behind a bare LF',
    'folded with nothing', 'length with a plus', 'two equal lengths', 'coding gzip', 'coding behind a vertical tab', 'length first',
    'length that covers a request', 'coding first', 'coding in 1.0', 'expectation list', 'LF CR', 'bare CR as the empty line'))
def test_refused_byte_by_byte(proxy, case):
    is_refused(proxy, case, 'bytes')


@pytest.mark.parametrize('case', chosen(
    REFUSED, 'chunk size of 17 digits', 'chunk size before a blank', 'bare LF behind the size', 'bare LF behind the data',
    'CR CR LF behind the size', 'bare LF in quotes', 'bare LF in the last one', 'two bytes that are none', 'bare LF as the end',
    'bare CR as the end', 'trailer folded', 'trailer that is a request'))
def test_refused_byte_by_byte_in_the_body(proxy, case):
    if case in wire.BAD_CHUNKS:
        is_refused(proxy, case, 'bytes', cut=True)


@pytest.mark.parametrize('case', chosen(
    PASSED, 'two empty lines first', 'absolute form with a query only', 'none in 1.0', 'X_Y beside X-Y', 'length with zeros first',
    'request in a body of GET', 'request in a chunk', 'coding between blanks and tabs', 'last chunk as data', 'several', 'CRLF as data',
    'trailer with a length', 'fields named on two lines', 'Via on two lines', 'as clients send it', 'three requests', 'behind trailers',
    'empty lines between', 'two in 1.0 with keep-alive', 'upgrade with a chunked body'))
def test_passed_byte_by_byte(proxy, case):
    is_passed(proxy, case, 'bytes')


@pytest.mark.parametrize('case', chosen(REFUSED, 'none', 'two equal lengths', 'length over max_body', 'longer than max_header', 'coding gzip'))
def test_the_answer_to_a_refused_request_survives_what_follows(proxy, case):
    """Half a megabyte that nobody reads is no reset: the end lingers."""
    is_refused(proxy, case, 'whole', b'x' * 300000)


def test_max_forwards_0_is_answered_here(proxy):
    with proxy.connect() as c:
        r = c.ask('OPTIONS', '*', {'Max-Forwards': '0'})
        assert r.status in (200, 204) and r.complete and r.body == b''
        after(proxy, c)


# --- answers ---

# parts: ((bytes from the worker, bytes that the client must have then), ...); then the worker does `fin`.
# client: 502, or how its connection goes on: 'keep', 'close', 'cut' (incomplete by its framing), 'reset'.
# worker: whether the worker's connection is used again.
Answer = namedtuple('Answer', 'rule name request parts fin client worker')
GET10 = b'GET / HTTP/1.0\r\n' + H + E
GET10K = b'GET / HTTP/1.0\r\n' + H + b'Connection: keep-alive\r\n\r\n'
HEAD = b'HEAD / HTTP/1.1\r\n' + H + E
WS = G + b'Connection: upgrade\r\nUpgrade: websocket\r\n\r\n'
A = b'HTTP/1.1 200 OK\r\n'
L2 = b'Content-Length: 2\r\n\r\nok'
CH = b'Transfer-Encoding: chunked\r\n\r\n'
CLOSE = b'Connection: close\r\n'


def dated(data):
    """With a date in each final answer: what becomes of one without is test_messages' concern."""
    return re.sub(rb'(HTTP/1\.\d [2-9]\d\d [^\r\n]*\r\n)(?!Date)', rb'\1' + D, data)


def good(rule, name, sent, got=None, client='keep', worker='reused', request=G + E, fin=None):
    return Answer(rule, name, request, ((dated(sent), dated(sent if got is None else got)),), fin, client, worker)


def bad(rule, name, sent, request=G + E, fin=None, before=b''):
    """`before`: interim answers that the client has got."""
    return Answer(rule, name, request, ((sent, before),), fin, 502, 'closed')


def cut(rule, name, first, got, then=b'', fin='fin', client='cut', request=G + E):
    """The client has `got` when the worker sends what breaks the answer."""
    first, got = dated(first), dated(got)
    return Answer(rule, name, request, ((first, got), (then, b'')) if then else ((first, got),), fin, client, 'closed')


ANSWERS = [bad('9112 4', 'status line: ' + name, line + E + L2) for name, line in [
    ('no HTTP', b'hello world'), ('blank first', b' HTTP/1.1 200 OK'), ('lower case', b'http/1.1 200 OK'), ('HTTP/2.0', b'HTTP/2.0 200 OK'),
    ('HTTP/0.9', b'HTTP/0.9 200 OK'), ('HTTP/1', b'HTTP/1 200 OK'), ('HTTP/1.10', b'HTTP/1.10 200 OK'), ('HTTP/11', b'HTTP/11 200 OK'), ('ICY', b'ICY 200 OK'),
    ('two blanks', b'HTTP/1.1  200 OK'), ('tab', b'HTTP/1.1\t200 OK'), ('two digits', b'HTTP/1.1 20 OK'), ('four digits', b'HTTP/1.1 2000 OK'),
    ('letters', b'HTTP/1.1 abc OK'), ('sign', b'HTTP/1.1 +20 OK'), ('099', b'HTTP/1.1 099 OK'), ('000', b'HTTP/1.1 000 OK'),
    ('no status', b'HTTP/1.1'), ('no status, blank', b'HTTP/1.1 '), ('letter behind the status', b'HTTP/1.1 200OK'),
    ('tab behind the status', b'HTTP/1.1 200\tOK'), ('control byte', b'HTTP/1.1 200 O\x01K'), ('NUL', b'HTTP/1.1 200 \0'), ('bare CR', b'HTTP/1.1 200 O\rK'),
    ('CR CR LF', b'HTTP/1.1 200 OK\r'), ('request', b'GET / HTTP/1.1'), ('empty line first', b'\r\nHTTP/1.1 200 OK')]]
ANSWERS += [bad('line terminators', name, sent) for name, sent in [
    ('bare LF behind the status line', b'HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nok'), ('bare LF behind a field', A + b'X: a\nContent-Length: 2\r\n\r\nok'),
    ('bare LF as the empty line', A + b'Content-Length: 2\r\n\nok'), ('bare LF everywhere', b'HTTP/1.1 200 OK\nContent-Length: 2\n\nok'),
    ('bare CR in a value', A + b'X: a\rb\r\n' + L2), ('CR CR LF behind a field', A + b'X: a\r\r\n' + L2)]]
ANSWERS += [bad('9112 5', name, A + lines + E + L2) for name, lines in [
    ('blank before the colon', b'X : 1'), ('tab before the colon', b'X\t: 1'), ('blank in a name', b'X Y: 1'), ('empty name', b': 1'), ('no colon', b'foo'),
    ('NUL in a name', b'X\0: 1'), ('high byte in a name', b'\xc3: 1'), ('NUL in a value', b'X: \0'), ('control byte in a value', b'X: \x01'),
    ('DEL in a value', b'X: \x7f'), ('folded line', b'X: a\r\n b'), ('folded with a tab', b'X: a\r\n\tb'), ('blank before the first field', b' X: a'),
    ('Connection of two words', b'Connection: a b'), ('second status line', b'HTTP/1.1 200 OK')]]
ANSWERS += [bad('9112 6.3', 'length ' + name, A + b'Content-Length: ' + value + b'\r\n\r\nok') for name, value in [
    ('with a plus', b'+2'), ('with a minus', b'-2'), ('of -1', b'-1'), ('in hex', b'0x2'), ('list of equals', b'2, 2'), ('list', b'2, 3'), ('empty', b''),
    ('of blanks', b'  '), ('with a blank inside', b'2 0'), ('in letters', b'two'), ('with a semicolon', b'2;'), ('of 20 digits', b'0' * 19 + b'2'),
    ('of 2^63', b'9223372036854775808'), ('of 2^64+2', b'18446744073709551618'), ('in high digits', b'\xd9\xa2')]]
ANSWERS += [bad('9112 6.3', name, sent) for name, sent in [
    ('two equal lengths', A + b'Content-Length: 2\r\n' + L2), ('two lengths', A + b'Content-Length: 3\r\n' + L2),
    ('length and coding', A + b'Content-Length: 2\r\n' + CH + b'2\r\nok\r\n0\r\n\r\n'), ('coding and length', A + b'Transfer-Encoding: chunked\r\n' + L2),
    ('bad length with 304', b'HTTP/1.1 304 Not Modified\r\nContent-Length: x\r\n\r\n')]]
ANSWERS += [bad('9112 6.1', 'coding ' + name, A + b'Transfer-Encoding: ' + value + b'\r\n\r\n2\r\nok\r\n0\r\n\r\n') for name, value in [
    ('gzip', b'gzip'), ('identity', b'identity'), ('list', b'gzip, chunked'), ('twice in a list', b'chunked, chunked'), ('with a comma', b'chunked,'),
    ('with a parameter', b'chunked;a'), ('empty', b''), ('behind a vertical tab', b'\x0bchunked'), ('in quotes', b'"chunked"'), ('xchunked', b'xchunked')]]
ANSWERS += [
    bad('9112 6.1', 'coding twice', A + b'Transfer-Encoding: chunked\r\n' + CH + b'0\r\n\r\n'),
    bad('9112 6.1', 'coding in 1.0', b'HTTP/1.0 200 OK\r\n' + CH + b'0\r\n\r\n'),
    bad('6585 5', 'head without an end', A + (b'X: ' + b'y' * 1000 + E) * 70),
    bad('6585 5', 'one field without an end', A + b'X: ' + b'y' * 70000),
    bad('6585 5', 'more than 256 fields', A + D + b'X: y\r\n' * 255 + L2),
    bad('9110 15.2', 'more than 16 interim answers', b'HTTP/1.1 102 Processing\r\n\r\n' * 17 + OK, before=b'HTTP/1.1 102 Processing\r\n\r\n' * 16),
    bad('9110 15.2', 'bad interim answer', b'HTTP/1.1 103 Early Hints\r\nX : 1\r\n\r\n' + OK),
    bad('9110 15.2', 'bad answer behind an interim one', b'HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n' + A + b'X : 1\r\n' + L2,
        before=b'HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n'),
    bad('9110 15.2.2', '101 that nobody asked for', b'HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n'),
    bad('9110 15.2.2', '101 to POST', b'HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n',
        request=P + b'Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n'),
    bad('9110 15.2.2', '101 to 1.0', b'HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n',
        request=b'GET / HTTP/1.0\r\n' + H + b'Connection: upgrade, keep-alive\r\nUpgrade: websocket\r\n\r\n'),
    bad('9110 15.2.2', '101 to h2c', b'HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\nPRI', request=G + b'Connection: upgrade\r\nUpgrade: h2c\r\n\r\n'),
    bad('9112 8', 'end before a byte', b'', fin='fin'),
    bad('9112 8', 'reset before a byte', b'', fin='rst'),
    bad('9112 8', 'end in the status line', b'HTTP/1.1 2', fin='fin'),
    bad('9112 8', 'end in the fields', A + b'Content-Le', fin='fin'),
    bad('9112 8', 'end before the empty line', A + b'Content-Length: 2\r\n', fin='fin'),
    bad('9112 8', 'reset in the fields', A + b'Content-Le', fin='rst'),
    bad('9112 8', 'end behind an interim answer', b'HTTP/1.1 102 Processing\r\n\r\n', fin='fin', before=b'HTTP/1.1 102 Processing\r\n\r\n'),
    bad('9112 8', 'HTTP/0.9 page', b'<html>hello</html>', fin='fin'),
    bad('9112 8', 'bytes without a line', b'\x00\x01\x02\x03\x04\x05\x06\x07', fin='fin'),
]

# What is broken is seen by the client when it has the beginning.
CUT5, CHUNK5 = A + b'Content-Length: 10\r\n\r\nhello', A + CH + b'5\r\nhello\r\n'
ANSWERS += [
    cut('9112 8', 'end in a length', CUT5, CUT5),
    cut('9112 8', 'reset in a length', CUT5, CUT5, fin='rst'),
    cut('9112 8', 'end in a length to 1.0', CUT5, A + b'Content-Length: 10\r\nConnection: close\r\n\r\nhello', request=GET10),
    cut('9112 8', 'end at the last byte but one', A + b'Content-Length: 6\r\n\r\nhello', A + b'Content-Length: 6\r\n\r\nhello'),
    cut('9112 8', 'end behind a chunk', CHUNK5, CHUNK5),
    cut('9112 8', 'reset behind a chunk', CHUNK5, CHUNK5, fin='rst'),
    cut('9112 8', 'end in a chunk size', CHUNK5, CHUNK5, b'5'),
    cut('9112 8', 'end behind the last size', CHUNK5, CHUNK5, b'0\r\n'),
    cut('9112 8', 'end in a trailer', CHUNK5, CHUNK5, b'0\r\nX: y\r\n'),
    cut('9112 8', 'reset of an answer until close', A + b'\r\nhello', A + CH + b'5\r\nhello\r\n', fin='rst'),
    cut('9112 8', 'reset of an answer until close to 1.0', A + b'\r\nhello', A + CLOSE + b'\r\nhello', fin='rst', request=GET10, client='reset'),
    cut('9112 8', 'end behind a chunk to 1.0', CHUNK5, A + CLOSE + b'\r\nhello', request=GET10, client='reset'),
    cut('9112 7.1', 'bad chunk size to 1.0', CHUNK5, A + CLOSE + b'\r\nhello', b'x\r\n', None, request=GET10, client='reset'),
    cut('9112 7.1', 'bad chunk size to 1.0 with keep-alive', CHUNK5, A + CLOSE + b'\r\nhello', b'x\r\n', None, request=GET10K, client='reset'),
]
ANSWERS += [cut(case.rule, 'then ' + case.name, CHUNK5, CHUNK5, case.sent[len(C):], None if 'shorter' not in case.name else 'fin')
            for case in wire.BAD_CHUNKS if case.name.startswith(('chunk size of', 'chunk size with', 'chunk size before', 'trailer '))
            or case.rule == 'chunk terminators' or case.name in ('bare LF', 'open quote', 'over 256 bytes', 'bare LF in the last one')]

S103 = b'HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n'
HELLO = A + CH + b'5\r\nhello\r\n0\r\n\r\n'
ANSWERS += [
    good('9112 4', 'plain', OK),
    good('9112 4', 'empty phrase', b'HTTP/1.1 200 \r\n' + L2),
    good('9112 4', 'phrase with a tab and high bytes', b'HTTP/1.1 404 Not\tFound \xc3\xa4\r\n' + L2),
    *[good('9112 4', 'unknown status %d' % n, b'HTTP/1.1 %d x\r\n' % n + L2) for n in (599, 600, 999)],
    good('6585 5', '256 fields', A + b'X: y\r\n' * 254 + L2),
    good('9110 2.5', 'higher minor version', b'HTTP/1.3 200 OK\r\n' + L2, A + L2),
    good('9110 2.5', '1.0 with a length', b'HTTP/1.0 200 OK\r\n' + L2, A + L2, worker='closed'),
    good('9110 2.5', '1.0 with keep-alive', b'HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n' + L2, A + L2, worker='closed'),
    good('9110 5.5', 'bytes over 0x7f in a value', A + b'X: \xc3\xa4\xff\tb\r\n' + L2),
    good('9110 5.3', 'fields keep their order and case', A + b'set-cookie: a\r\nX: y\r\nSET-COOKIE: b\r\nServer: w\r\n' + L2),
    good('9110 5.1', 'underscores pass to clients', A + b'X_Y: 1\r\n' + L2),
    good('9112 5.1', 'blanks around a value', A + b'X:1\r\nY: \t 2 \t\r\n' + L2, A + b'X: 1\r\nY: 2\r\n' + L2),
    good('9112 6.3', 'length of 0', A + b'Content-Length: 0\r\n\r\n'),
    good('9112 6.3', 'length with zeros first', A + b'Content-Length: 0002\r\n\r\nok', A + L2),
    good('9112 6.3', 'length without a blank', A + b'content-length:2\r\n\r\nok', A + L2),
    good('9112 6.3', 'length is written behind the other fields', A + b'Content-Length: 2\r\nX: y\r\n\r\nok', A + b'X: y\r\n' + L2),
    good('9112 7.1', 'chunks', HELLO),
    good('9112 7.1', 'chunks with zeros and extensions', A + CH + b'0005;a="b"\r\nhello\r\n000;c\r\n\r\n', HELLO),
    good('9112 7.1', 'coding in upper case', A + b'TRANSFER-ENCODING: CHUNKED\r\n\r\n5\r\nhello\r\n0\r\n\r\n', HELLO),
    good('9112 7.1', 'no chunk', A + CH + b'0\r\n\r\n'),
    good('9112 7.1.2', 'trailers', A + CH + b'5\r\nhello\r\n0\r\nX: y\r\nContent-Length: 9\r\n\r\n', HELLO),
    good('9112 6.3', 'until close', b'HTTP/1.1 200 OK\r\n\r\nhello', A + CH + b'5\r\nhello\r\n', fin='end', worker='closed'),
    good('9112 6.3', 'until close with nothing', b'HTTP/1.1 200 OK\r\n\r\n', b'', fin='end', worker='closed'),
    good('9112 6.3', 'until close in 1.0', b'HTTP/1.0 200 OK\r\nX: y\r\n\r\nhello', A + b'X: y\r\n' + CH + b'5\r\nhello\r\n', fin='end', worker='closed'),
    good('9112 6.3', 'until close to 1.0', A + b'\r\nhello', A + CLOSE + b'\r\nhello', fin='fin', client='close', worker='closed', request=GET10),
    good('9112 6.3', 'until close to 1.0 with keep-alive', A + b'\r\nhello', A + CLOSE + b'\r\nhello', fin='fin', client='close', worker='closed', request=GET10K),
    good('9112 6.3', 'chunks to 1.0', A + CH + b'5\r\nhello\r\n3\r\n...\r\n0\r\nX: y\r\n\r\n', A + CLOSE + b'\r\nhello...', client='close', request=GET10),
    good('9112 6.3', 'chunks to 1.0 with keep-alive', HELLO, A + CLOSE + b'\r\nhello', client='close', request=GET10K),
    good('9112 6.3', 'length to 1.0', OK, OK.replace(b'\r\n\r\n', b'\r\nConnection: close\r\n\r\n'), client='close', request=GET10),
    good('9112 6.3', 'length to 1.0 with keep-alive', OK, OK.replace(b'\r\n\r\n', b'\r\nConnection: keep-alive\r\n\r\n'), request=GET10K),
    good('9112 9.6', 'Connection: close', A + CLOSE + L2, A + L2, worker='closed'),
    good('9112 9.6', 'Connection: x, CLOSE', A + b'Connection: x, CLOSE\r\n' + L2, A + L2, worker='closed'),
    good('9110 7.6.1', 'hop-by-hop fields', A + b'Connection: keep-alive, x-a\r\nKeep-Alive: timeout=5\r\nX-A: 1\r\nTrailer: X\r\nUpgrade: h2c\r\nTE: x\r\n'
         b'Proxy-Connection: x\r\n' + L2, A + L2),
    good('9110 7.6.1', 'lengths named in Connection', A + b'Connection: content-length\r\n' + L2, A + L2),
    good('9110 7.6.1', 'coding named in Connection', A + b'Connection: transfer-encoding\r\n' + CH + b'5\r\nhello\r\n0\r\n\r\n', HELLO),
    good('extra bytes', 'behind a length', A + L2 + b'!', A + L2, worker='closed'),
    good('extra bytes', 'an answer behind a length', A + L2 + OK, A + L2, worker='closed'),
    good('extra bytes', 'CRLF behind a length', A + L2 + E, A + L2, worker='closed'),
    good('extra bytes', 'behind length 0', A + b'Content-Length: 0\r\n\r\n' + OK, A + b'Content-Length: 0\r\n\r\n', worker='closed'),
    good('extra bytes', 'behind the last chunk', HELLO + b'0\r\n\r\n', HELLO, worker='closed'),
    good('extra bytes', 'an answer behind the last chunk', HELLO + OK, HELLO, worker='closed'),
    good('9112 6.3', 'HEAD', A + b'Content-Length: 99\r\n\r\n', request=HEAD),
    good('9112 6.3', 'HEAD with a coding', A + CH, A + E, request=HEAD),
    good('9112 6.3', 'HEAD without a length', A + b'X: y\r\n\r\n', request=HEAD),
    good('9112 6.3', 'HEAD with a body', A + L2, A + b'Content-Length: 2\r\n\r\n', request=HEAD, worker='closed'),
    good('9112 6.3', 'HEAD with chunks', HELLO, A + E, request=HEAD, worker='closed'),
    good('9112 6.3', '204', b'HTTP/1.1 204 No Content\r\nX: y\r\n\r\n'),
    good('9110 8.6', '204 with a length', b'HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n', b'HTTP/1.1 204 No Content\r\n\r\n'),
    good('9112 6.3', '204 with a body', b'HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok', b'HTTP/1.1 204 No Content\r\n\r\n', worker='closed'),
    good('9112 6.3', '204 with a coding', b'HTTP/1.1 204 No Content\r\n' + CH + b'0\r\n\r\n', b'HTTP/1.1 204 No Content\r\n\r\n', worker='closed'),
    good('9112 6.3', '204 with an answer behind it', b'HTTP/1.1 204 No Content\r\n\r\n' + OK, b'HTTP/1.1 204 No Content\r\n\r\n', worker='closed'),
    good('9112 6.3', '304', b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n'),
    good('9112 6.3', '304 with a length', b'HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n'),
    good('9112 6.3', '304 with a body', b'HTTP/1.1 304 Not Modified\r\n' + L2, b'HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n', worker='closed'),
    good('9110 15.2', '103', S103 + OK),
    good('9110 15.2', '103 and 100', S103 + b'HTTP/1.1 100 Continue\r\n\r\n' + OK),
    good('9110 15.2', '16 interim answers', b'HTTP/1.1 102 Processing\r\n\r\n' * 16 + OK),
    good('9110 15.2', 'unknown interim answer', b'HTTP/1.1 199 x\r\nX: y\r\n\r\n' + OK),
    good('9110 15.2', '103 with a length', b'HTTP/1.1 103 x\r\nContent-Length: 2\r\n\r\n' + OK, b'HTTP/1.1 103 x\r\n\r\n' + OK),
    good('9110 15.2', '103 with a coding', b'HTTP/1.1 103 x\r\n' + CH + OK, b'HTTP/1.1 103 x\r\n\r\n' + OK),
    good('9110 15.2', '103 with hop-by-hop fields', b'HTTP/1.1 103 x\r\nConnection: x-a\r\nX-A: 1\r\nKeep-Alive: 5\r\n\r\n' + OK, b'HTTP/1.1 103 x\r\n\r\n' + OK),
    good('9110 15.2', '103 to 1.0', S103 + OK, OK.replace(b'\r\n\r\n', b'\r\nConnection: close\r\n\r\n'), client='close', request=GET10),
    good('9110 15.2', '103 before HEAD', S103 + A + b'Content-Length: 9\r\n\r\n', request=HEAD),
    good('9110 7.8', 'upgrade not taken', OK, OK.replace(b'\r\n\r\n', b'\r\nConnection: close\r\n\r\n'), client='close', request=WS),
    good('9110 7.8', '426', b'HTTP/1.1 426 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n' + L2, b'HTTP/1.1 426 x\r\n' + L2),
    bad('9110 7.8', '101 for another protocol', b'HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n', request=WS),
    bad('9110 7.8', '101 without Upgrade', b'HTTP/1.1 101 S\r\nConnection: upgrade\r\n\r\n', request=WS),
    bad('9110 7.8', '101 without Connection', b'HTTP/1.1 101 S\r\nUpgrade: websocket\r\n\r\n', request=WS),
    bad('9110 7.8', '101 with a coding', b'HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n' + CH + b'0\r\n\r\n', request=WS),
]
# Without a byte at the client the end of the worker is what lets the answer go; with bytes it ends it.
CLOSED_BY_END = {'until close': b'0\r\n\r\n', 'until close in 1.0': b'0\r\n\r\n', 'until close with nothing': None}


@pytest.fixture
def pool(pooled):
    yield from fresh(pooled)


def do(conn, fin):
    if fin == 'rst':
        conn.rst()
    elif fin:
        try:
            conn.fin()
        except OSError:
            pass                            # cut off already


def is_answered(proxy, row, how):
    with proxy.connect() as c:
        c.send(row.request)
        conn = proxy.fake.accept()
        conn.read_request()
        for i, (sent, got) in enumerate(row.parts):
            deliver(conn, sent, how)
            if how == 'whole' or b'chunked\r\n' not in row.parts[0][1]:
                assert c.read_exact(len(got)) == got
            elif i == 0:                    # chunks go on as they come, so only what they carry is the same
                got_head, got_body, last = carried(got)
                head = c.read_until(E * 2)
                assert (head, read_chunks(c, len(got_body), last)) == (got_head, got_body)
        do(conn, row.fin)
        if row.fin == 'end':
            rest = CLOSED_BY_END[row.name]
            if rest is None:
                rest = dated(A) + CH + b'0\r\n\r\n'
            assert c.read_exact(len(rest)) == rest
        again = None
        if row.client == 502:
            connection = ''
            if row.request == WS:           # bytes behind it may be another protocol's
                connection = 'Connection: close\r\n'
            elif b'keep-alive' in row.request:
                connection = 'Connection: keep-alive\r\n'
            head = c.read_until(E * 2)
            data = head + c.read_exact(int(re.search(rb'Content-Length: (\d+)', head)[1]))
            assert refusal(data, 502, connection) is True
            if row.request == WS:
                assert c.read_all() == b''
            else:
                again = c
        elif row.client == 'keep':
            again = c
        else:
            rest = c.read_all()
            if row.client == 'cut' and how == 'bytes':
                assert b'0\r\n\r\n' not in rest and row.name.startswith('then')
            else:
                assert rest == b''
            if row.client != 'cut':
                assert c.was_reset == (row.client == 'reset')
        if row.worker == 'closed' and row.fin != 'rst':
            assert conn.eof(), 'never used again'
        if again:
            after(proxy, again, conn if row.worker == 'reused' else None)
    if not again:
        with proxy.connect() as c:
            after(proxy, c, conn if row.worker == 'reused' else None)


def carried(data):
    """Head, what the chunks carry, whether the last one is there."""
    head, _, rest = data.partition(E * 2)
    body, size = b'', 1
    while rest and size:
        text, _, rest = rest.partition(E)
        size = int(text, 16)
        body, rest = body + rest[:size], rest[size + 2:]
    return head + E * 2, body, size == 0


def read_chunks(c, n, last):
    """`n` bytes that came in canonical chunks, and the last chunk if it is due."""
    body, size = b'', 1
    while len(body) < n or (last and size):
        text = c.read_until(E)[:-2]
        size = int(text, 16)
        assert text == b'%x' % size
        body += c.read_exact(size)
        assert c.read_exact(2) == E
    return body


@pytest.mark.parametrize('row', rows(ANSWERS))
def test_answers(pool, row):
    is_answered(pool, row, 'whole')


@pytest.mark.parametrize('row', chosen(
    ANSWERS, 'status line: CR CR LF', 'status line: four digits', 'bare LF as the empty line', 'bare CR in a value', 'folded line',
    'length with a plus', 'length and coding', 'coding list', 'coding twice', 'bad answer behind an interim one', 'more than 16 interim answers',
    '101 that nobody asked for', 'then bare LF behind the data', 'then chunk size of 17 digits', 'then bare CR as the end',
    'end in the fields', 'plain', 'chunks', 'trailers', 'chunks to 1.0', 'length to 1.0 with keep-alive', '103 and 100', '103 to 1.0', 'HEAD with a coding',
    'hop-by-hop fields', '304 with a length'))
def test_answers_byte_by_byte(pool, row):
    is_answered(pool, row, 'bytes')


@pytest.mark.parametrize('sent', [
    pytest.param(G + CLOSE + E, id='close'), pytest.param(GET10, id='1.0'), pytest.param(WS, id='upgrade'),
    pytest.param(P + CLOSE + b'Content-Length: 5\r\n\r\nhello', id='close-POST')])
@pytest.mark.parametrize('behind', [SMUGGLED, E], ids=['request', 'CRLF'])
def test_bytes_behind_the_last_request_do_not_cost_its_answer(proxy, sent, behind):
    """They come while the worker is busy; closing on unread input would be a reset, and what the client
    did not read yet would be lost (RFC 9112 9.6)."""
    body = b'x' * 300000
    with proxy.connect() as c:
        c.send(sent)
        _, _, _, conn = next_at(proxy.fake)
        c.send(behind)
        conn.send(b'HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n' + body)
        assert conn.eof()
        data = c.read_all()
        assert data.endswith(E * 2 + body), 'cut after %d bytes' % len(data)
        assert not c.was_reset
        with proxy.connect() as another:
            after(proxy, another)


@pytest.mark.parametrize('sent', [b'', b'HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n'], ids=['end', 'another-protocol'])
def test_bytes_behind_an_upgrade_that_failed_are_never_a_request(proxy, sent):
    """The worker saw the upgrade, so they may be of the other protocol, and chosen by a third party."""
    with proxy.connect() as c:
        c.send(WS + SMUGGLED)
        _, _, _, conn = next_at(proxy.fake)
        conn.send(sent).close()
        ready = select.select([c.sock], [], [], TIMEOUT)[0]
        assert ready and c.read_until(E * 2).startswith(b'HTTP/1.1 502 ')
        with proxy.connect() as another:
            after(proxy, another)
        assert b'HTTP/1.1' not in c.read_all()
