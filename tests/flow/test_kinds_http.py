"""What servers and clients in the field send, as whole kinds: answers that have no body whatever their fields say,
statuses above 599, refusals of HEAD, paths, chunk extensions, hosts, prefixes, addresses, limits of answers.

All is raw bytes at both ends. What must stay refused stands beside what must pass.
"""
import contextlib, os, re, urllib.parse

import pytest
from harness import DATE, REPO, AutoWorker, Client, FakeWorker, Proxy, answer, head, upstream_config, wait_for
from procs import Before, metric

D = DATE.encode()
E = b'\r\n'
H = b'Host: a\r\n'
G = b'GET / HTTP/1.1\r\n' + H + E
OK = b'HTTP/1.1 200 OK\r\n' + D + b'Content-Length: 2\r\n\r\nok'
C = b'POST / HTTP/1.1\r\n' + H + b'Transfer-Encoding: chunked\r\n\r\n'
TRUST = 'trusted_proxies = 127.0.0.1 10.0.0.0/8 2001:db8::/32\n'


def started(top='', group='worker_keepalive = 60s\n', routes='*', more=''):
    fake = FakeWorker()
    proxy = Proxy(upstream_config(fake.address, top, group, routes) + more.replace('{worker}', fake.address))
    proxy.fake = fake
    return proxy


def fresh(proxy):
    """Nothing of the test before is left at the worker."""
    proxy.fake.drain()
    yield proxy
    while proxy.fake._conns:
        proxy.fake._conns.pop().close()


@pytest.fixture(scope='module')
def _pool():
    p = started()
    with p.fake, p:
        yield p


@pytest.fixture
def pool(_pool):
    """Worker connections are kept."""
    yield from fresh(_pool)


@pytest.fixture(scope='module')
def _chain():
    p = started(TRUST, 'worker_keepalive = 0\n')
    with p.fake, p:
        yield p


@pytest.fixture
def chain(_chain):
    """Behind trusted proxies, one request per worker connection."""
    yield from fresh(_chain)


def deliver(stream, data, how='whole'):
    try:
        for i in range(len(data) if how == 'bytes' else 0):
            stream.sock.send(data[i:i + 1])
        if how == 'whole':
            stream.sock.sendall(data)
    except OSError:
        pass                                            # cut off or refused in the middle


def next_request(proxy, conn):
    """The next one, on the connection that served before or on a new one."""
    wait_for(lambda: not conn.silent(0) or not proxy.fake.no_connection(0), what='the next request')
    request = None
    if not conn.silent(0):
        with contextlib.suppress(ConnectionError):
            request = conn.read_request()
    if request is None:
        conn = proxy.fake.accept()
        request = conn.read_request()
    return request, conn


def goes_on(proxy, client, conn):
    """The client's connection is as good as before: its next request gets its own answer."""
    client.send(b'GET /after HTTP/1.1\r\n' + H + E)
    request, conn = next_request(proxy, conn)
    assert request.target == '/after'
    conn.send(b'HTTP/1.1 200 OK\r\n' + D + b'Content-Length: 5\r\n\r\nafter')
    r = client.read_response()
    assert (r.status, r.body, client.buf) == (200, b'after', b'')


# --- answers that end at their empty line, whatever their fields (RFC 9112 6.3) ---

BODYLESS = {'204': ('GET', 204, b'HTTP/1.1 204 No Content\r\n'), '304': ('GET', 304, b'HTTP/1.1 304 Not Modified\r\n'),
            'HEAD': ('HEAD', 200, b'HTTP/1.1 200 OK\r\n'), 'HEAD-404': ('HEAD', 404, b'HTTP/1.1 404 Not Found\r\n'),
            'POST-204': ('POST', 204, b'HTTP/1.1 204 No Content\r\n')}
CHUNKED, LENGTH = b'Transfer-Encoding: chunked\r\n', b'Content-Length: 5\r\n'
FIELDS = {'coding': CHUNKED, 'length': LENGTH, 'both': CHUNKED + LENGTH, 'both-length-first': LENGTH + CHUNKED,
          'coding-named-in-Connection': b'Connection: transfer-encoding\r\n' + CHUNKED, 'neither': b''}
BEHIND = {'nothing': b'', 'chunks': b'5\r\nhello\r\n0\r\n\r\n', 'last-chunk': b'0\r\n\r\n', 'bytes': b'hello',
          'answer': OK}

COMBINED = [(k, f, b, how) for k in BODYLESS for f in FIELDS for b in BEHIND for how in ('whole', 'bytes')
            if how == 'whole' or (f in ('coding', 'both') and b in ('nothing', 'chunks'))]


def ask(method):
    return head(method, '/', {'Host': 'a'}, b'x' if method == 'POST' else None)


@pytest.mark.parametrize('kind, fields, behind, how', COMBINED)
def test_an_answer_without_a_body_ends_at_its_empty_line(pool, kind, fields, behind, how):
    """node, uvicorn, hypercorn and aiohttp send a coding with 204 when an application copies fields. What stands behind
    is nobody's answer: it ends the worker's connection, and the client never sees it."""
    method, status, line = BODYLESS[kind]
    with pool.connect() as c:
        c.send(ask(method))
        _, conn = pool.fake.one()
        deliver(conn, line + D + b'X: y\r\n' + FIELDS[fields] + E + BEHIND[behind], how)
        r = c.read_response(method)
        assert r.status == status and r.get('x') == 'y'
        assert r.get('transfer-encoding') is None and r.get('connection') is None
        if status == 204:
            assert r.get('content-length') is None
        if BEHIND[behind]:
            assert conn.eof(), 'never used again'
        goes_on(pool, c, conn)


@pytest.mark.parametrize('fields', [b'Transfer-Encoding: gzip, chunked\r\n', b'Transfer-Encoding: gzip\r\n',
                                    CHUNKED + CHUNKED,
                                    b'transfer-encoding: CHUNKED\r\n', b'Transfer-Encoding: identity\r\n'])
def test_a_204_ends_there_with_any_coding(pool, fields):
    with pool.connect() as c:
        c.send(G)
        _, conn = pool.fake.one(b'HTTP/1.1 204 No Content\r\n' + D + fields + E)
        r = c.read_response()
        assert r.status == 204 and r.get('transfer-encoding') is None and r.get('content-length') is None
        goes_on(pool, c, conn)


@pytest.mark.parametrize('kind', ['204', '304', 'HEAD'])
def test_what_comes_later_behind_an_answer_without_a_body_is_nobodys(pool, kind):
    """The last chunk of a 204 in a segment of its own: it meets a parked connection."""
    method, status, line = BODYLESS[kind]
    with pool.connect() as c:
        c.send(ask(method))
        _, conn = pool.fake.one(line + D + CHUNKED + E)
        assert c.read_response(method).status == status
        deliver(conn, b'0\r\n\r\n')
        goes_on(pool, c, conn)


@pytest.mark.parametrize('version', [b'HTTP/1.0', b'HTTP/1.1'])
def test_a_coding_with_204_to_an_old_client_or_from_an_old_server(pool, version):
    """Neither has a use for the field, and neither is there a body to be misread."""
    with pool.connect() as c:
        c.send(b'GET / HTTP/1.0\r\n' + H + E)
        _, conn = pool.fake.one(version + b' 204 No Content\r\n' + D + CHUNKED + E)
        r = c.read_response()
        assert r.status == 204 and r.get('transfer-encoding') is None and c.eof()


@pytest.mark.parametrize('fields', ['coding', 'length', 'both', 'both-length-first'])
@pytest.mark.parametrize('status', [b'100 Continue', b'102 Processing', b'103 Early Hints', b'199 Own'])
@pytest.mark.parametrize('how', ['whole', 'bytes'])
def test_an_interim_answer_ends_at_its_empty_line(pool, status, fields, how):
    with pool.connect() as c:
        c.send(G)
        _, conn = pool.fake.one()
        deliver(conn, b'HTTP/1.1 ' + status + b'\r\nX: y\r\n' + FIELDS[fields] + E + OK, how)
        r = c.read_response()
        assert (r.status, r.body) == (200, b'ok')
        interim, = r.interim
        assert interim.status == int(status[:3]) and interim.names() == ['x']
        goes_on(pool, c, conn)


@pytest.mark.parametrize('fields', ['coding', 'length', 'both'])
@pytest.mark.parametrize('behind', ['chunks', 'last-chunk', 'bytes'])
def test_a_body_behind_an_interim_answer_is_no_answer(pool, fields, behind):
    """It stands where a status line must: 502, the worker's connection is over, the client's is not."""
    with pool.connect() as c:
        c.send(G)
        _, conn = pool.fake.one(b'HTTP/1.1 103 Early Hints\r\n' + FIELDS[fields] + E + BEHIND[behind] + OK)
        r = c.read_response()
        assert r.status == 502 and r.complete and all(i.status == 103 and i.names() == [] for i in r.interim)
        assert conn.eof()
        goes_on(pool, c, conn)


@pytest.mark.parametrize('kind', ['204', 'HEAD'])
def test_a_body_behind_an_answer_without_one_gives_the_slot_back(kind):
    method, status, line = BODYLESS[kind]
    with Before('max_req_per_worker = 1\n') as b:
        c = b.send('/', method)
        _, conn = b.worker.one(line + D + CHUNKED + E + BEHIND['chunks'])
        assert c.read_response(method).status == status
        second = b.send('/second')
        assert conn.eof()
        conn.close()
        assert b.worker.one(OK)[0].target == '/second' and second.read_response().body == b'ok'


# --- statuses ---

@pytest.mark.parametrize('status', [599, 600, 601, 666, 700, 799, 888, 999])
@pytest.mark.parametrize('framing', ['length', 'chunked', 'HEAD', 'close'])
def test_a_status_above_599_passes_as_it_is(pool, status, framing):
    """node, gunicorn, hypercorn and puma serve them."""
    sent = {'length': b'Content-Length: 2\r\n\r\nok',
            'chunked': b'Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n',
            'HEAD': b'Content-Length: 2\r\n\r\n', 'close': b'\r\nok'}[framing]
    method = 'HEAD' if framing == 'HEAD' else 'GET'
    target = '/%d/%s' % (status, framing)
    with pool.connect() as c:
        before = metric(pool, 'ldcorn_requests_total')
        c.send(head(method, target))
        _, conn = pool.fake.one(b'HTTP/1.1 %d Own Words\r\n' % status + D + sent)
        if framing == 'close':
            conn.fin()
        r = c.read_response(method)
        assert (r.status, r.reason, r.complete) == (status, 'Own Words', True)
        assert r.body == (b'' if method == 'HEAD' else b'ok')
        goes_on(pool, c, conn)
        record = pool.wait_access(lambda r: r['target'] == target)
        assert (record['status'], record['reason']) == (status, '')
        wait_for(lambda: metric(pool, 'ldcorn_requests_total') >= before + 2, what='both to be counted')


@pytest.mark.parametrize('status', [b'000', b'001', b'099', b'60', b'6000', b'6x0', b'-600', b'+600'])
def test_what_is_no_status_stays_refused(pool, status):
    with pool.connect() as c:
        c.send(G)
        _, conn = pool.fake.one(b'HTTP/1.1 ' + status + b' x\r\nContent-Length: 2\r\n\r\nok')
        assert c.read_response().status == 502
        goes_on(pool, c, conn)


# --- no answer of our own to HEAD has a body ---

HEADS = [('no Host', 400, b'HEAD / HTTP/1.1\r\nX: 1\r\n\r\n'), ('two Hosts', 400, b'HEAD / HTTP/1.1\r\n' + H + H + E),
         ('bad Host', 400, b'HEAD / HTTP/1.1\r\nHost: a b\r\n\r\n'),
         ('bad Host in 1.0', 400, b'HEAD / HTTP/1.0\r\nHost: a/b\r\n\r\n'),
         ('two lengths', 400, b'HEAD / HTTP/1.1\r\n' + H + b'Content-Length: 0\r\nContent-Length: 0\r\n\r\n'),
         ('length and coding', 400,
          b'HEAD / HTTP/1.1\r\n' + H + b'Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'),
         ('bad length', 400, b'HEAD / HTTP/1.1\r\n' + H + b'Content-Length: x\r\n\r\n'),
         ('coding', 501, b'HEAD / HTTP/1.1\r\n' + H + b'Transfer-Encoding: gzip\r\n\r\n'),
         ('expectation', 417, b'HEAD / HTTP/1.1\r\n' + H + b'Expect: x\r\n\r\n'),
         ('version', 505, b'HEAD / HTTP/2.0\r\n' + H + E), ('bad version', 400, b'HEAD / http/1.1\r\n' + H + E),
         ('long target', 414, b'HEAD /' + b'x' * 40000 + b' HTTP/1.1\r\n' + H + E),
         ('long fields', 431, b'HEAD / HTTP/1.1\r\n' + H + (b'X: ' + b'y' * 1000 + E) * 40 + E),
         ('many fields', 431, b'HEAD / HTTP/1.1\r\n' + H + b'X: y\r\n' * 100 + E),
         ('malformed field', 400, b'HEAD / HTTP/1.1\r\n' + H + b'foo\r\n\r\n'),
         ('fold', 400, b'HEAD / HTTP/1.1\r\n' + H + b'X: y\r\n z\r\n\r\n'),
         ('bare LF in a field', 400, b'HEAD / HTTP/1.1\r\n' + H + b'X: y\n\r\n'),
         ('bare LF', 400, b'HEAD / HTTP/1.1\n' + H + E),
         ('Connection', 400, b'HEAD / HTTP/1.1\r\n' + H + b'Connection: a b\r\n\r\n'),
         ('word too many', 400, b'HEAD / HTTP/1.1 x\r\n' + H + E), ('bad target', 400, b'HEAD a HTTP/1.1\r\n' + H + E),
         ('fragment', 400, b'HEAD /#x HTTP/1.1\r\n' + H + E),
         ('userinfo', 400, b'HEAD http://u@a/ HTTP/1.1\r\n' + H + E),
         ('bad percent', 400, b'HEAD /%zz HTTP/1.1\r\n' + H + E),
         ('above the root', 400, b'HEAD /.. HTTP/1.1\r\n' + H + E),
         ('too large', 413, b'HEAD / HTTP/1.1\r\n' + H + b'Content-Length: 999999999999\r\n\r\n'),
         ('behind an empty line', 400, b'\r\nHEAD / HTTP/1.1\r\nX: 1\r\n\r\n')]


def refused_head(proxy, sent, status, how='whole', address=None):
    with (address or proxy.connect()) as c:
        deliver(c, sent, how)
        data = c.read_all()
        top, end, body = data.partition(b'\r\n\r\n')
        assert end and top.startswith(b'HTTP/1.1 %d ' % status), data[:300]
        assert body == b'', 'an answer to HEAD has no body'
        assert b'transfer-encoding' not in top.lower() and not c.was_reset
    return top


@pytest.mark.parametrize('how', ['whole', 'bytes'])
@pytest.mark.parametrize('name, status, sent', HEADS, ids=[row[0] for row in HEADS])
def test_a_refused_head_request_has_no_body(pool, name, status, sent, how):
    if how == 'bytes' and len(sent) > 3000:
        how = 'whole'
    refused_head(pool, sent, status, how)
    assert pool.fake.no_connection(0)


def test_a_head_request_that_is_late_has_no_body():
    """Its method was read long before the time for the rest was over."""
    with started('header_timeout = 1s\nbody_timeout = 1s\n') as p, p.fake:
        for sent in (b'HEAD / HTTP/1.1\r\n' + H, b'HEAD / HTTP/1.1\r\nHos',
                     b'HEAD / HTTP/1.1\r\n' + H + b'Content-Length: 5\r\n\r\nhe'):
            refused_head(p, sent, 408)


def test_a_head_request_that_is_refused_behind_its_head_has_no_body():
    with started('', 'deny = 127.0.0.1\n', '/denied',
                 '[other]\nroutes = /other\nupstream = {worker}\nqueue_timeout = 10s\n') as p, p.fake:
        for target, status in (('/denied', 403), ('/nowhere', 404)):
            with p.connect() as c:
                c.send(head('HEAD', target))
                assert c.read_response('HEAD').status == status
                c.send(head('HEAD', '/other'))              # what stood behind would be read as the next answer
                p.fake.one()[1].close()
                r = c.read_response('HEAD')
                if r.status != 502:
                    p.fake.one()[1].close()
                assert r.status == 502 and c.buf == b'' and c.silent(0.02)


@pytest.mark.parametrize('sent', [b'HEAD /status HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n',
                                  b'HEAD /status HTTP/1.1\r\nHost: a b\r\n\r\n',
                                  b'HEAD /status HTTP/2.0\r\nHost: localhost\r\n\r\n'])
def test_admin_has_no_body_for_a_refused_head_request_either(pool, sent):
    refused_head(pool, sent, 505 if b'2.0' in sent else 400, address=Client(pool.admin_address))


# --- paths ---

PASSING = ['/a%0Ab', '/a%0a', '/%0D%0A', '/a%0d%0ab/c', '/%09', '/a%09b', '/a%7Fb', '/%7f', '/api%0a', '/api/%0A',
           '/%0apredict', '/a%0d?x=%00', '/a%1bb', '/%01']


@pytest.mark.parametrize('target', PASSING)
def test_encoded_line_ends_and_blanks_are_the_apps_business(pool, target):
    """encodeURIComponent of two lines is an ordinary path segment."""
    with pool.connect() as c:
        c.send(head('GET', target))
        request, _ = pool.fake.one(OK)
        assert request.target == target and request.raw.startswith(b'GET ' + target.encode() + b' HTTP/1.1\r\n')
        assert c.read_response().status == 200
        record = pool.wait_access(lambda r: r['target'] == target)
        assert record['status'] == 200


def told(proxy, target):
    """Body of the 400 for a target, without its id."""
    with proxy.connect() as c:
        c.send(b'GET ' + target + b' HTTP/1.1\r\n' + H + E)
        r = c.read_response()
        assert r.status == 400 and r.complete, (target, r)
        return r.body.decode().replace(r.get('x-request-id'), '')


@pytest.fixture(scope='module')
def two_groups():
    p = started('', 'worker_keepalive = 0\n', '/a', '[rest]\nroutes = *\nupstream = {worker}\nworker_keepalive = 0\n')
    with p.fake, p:
        yield p


@pytest.mark.parametrize('target', ['/%', '/%4', '/%zz', '/a%2', '/%u002f', '/a/%g0', '/%00', '/a%00b', '/a/%00/../b',
                                    '/x?y'.replace('?y', '%2')])
def test_a_malformed_path_is_called_malformed(two_groups, target):
    """Two parsers do not differ about it: it is wrong for both."""
    text = told(two_groups, target.encode())
    assert 'two parsers' not in text and 'differently' not in text, text
    assert text != told(two_groups, b'/a/../b'), 'and that other fault has its own text'
    assert two_groups.fake.no_connection(0)


@pytest.mark.parametrize('target', ['/..', '/../a', '/a/../../b', '/%2e%2e', '/%2E./x', '/a%2f..%2f..%2fb',
                                    '/x%0a/../..', '/%0d/../../a'])
def test_what_climbs_stays_refused(two_groups, target):
    told(two_groups, target.encode())
    assert two_groups.fake.no_connection(0)


# --- blanks in chunk extensions (RFC 9112 7.1.1: BWS before and behind the semicolon) ---

BLANKS = [b'5 ;a=b', b'5 ; a = b', b'5\t;a', b'5 \t ;a', b'5;a ;b', b'5 ;a="x y" ; c', b'5 ;a = "b"', b'005 ;a',
          b'5; a', b'5 ;a;b ; c=d']
PADDED = [b'5 ', b'5\t', b'5 \t', b' 5;a', b'\t5;a', b'5 a', b'5 =b', b'5 5;a', b'5 "a"', b'5' + b' ' * 300 + b';a',
          b'5' + b'\t' * 300 + b';a', b'5 \x0b;a',
          b'5 \x0c;a', b'5\xa0;a']


def canonical(request):
    framing = b''.join(b'%x\r\n' % n + request.body[sum(request.chunks[:i]):][:n] + E for i,
                       n in enumerate(request.chunks))
    return request.raw[len(request.head):] == framing + b'0\r\n\r\n'


@pytest.mark.parametrize('how', ['whole', 'bytes'])
@pytest.mark.parametrize('size', BLANKS)
def test_blanks_around_a_semicolon_pass_re_encoded(pool, size, how):
    with pool.connect() as c:
        deliver(c, C + size + b'\r\nhello\r\n0 ; last\r\n\r\n', how)
        request, conn = pool.fake.one(OK)
        assert request.body == b'hello' and canonical(request), request.raw
        assert c.read_response().status == 200
        goes_on(pool, c, conn)


@pytest.mark.parametrize('size', BLANKS)
def test_blanks_around_a_semicolon_pass_in_answers(pool, size):
    with pool.connect() as c:
        c.send(G)
        _, conn = pool.fake.one(b'HTTP/1.1 200 OK\r\n' + D + CHUNKED + E + size + b'\r\nhello\r\n0\t;x\r\n\r\n')
        r = c.read_response()
        assert r.complete and r.raw == b'HTTP/1.1 200 OK\r\n' + D + CHUNKED + E + b'5\r\nhello\r\n0\r\n\r\n'
        goes_on(pool, c, conn)


@pytest.mark.parametrize('size', PADDED)
def test_padded_sizes_stay_refused(pool, size):
    for sent in (C + size + b'\r\nhello\r\n0\r\n\r\n', C + b'5\r\nhello\r\n' + size.replace(b'5', b'0') + b'\r\n\r\n'):
        with pool.connect() as c:
            deliver(c, sent)
            r = c.read_response()
            assert r.status == 400 and c.eof()


def test_blanks_count_as_extensions():
    """16 kB a body: blanks would be as good an amplifier as names."""
    with started('', '') as p, p.fake, p.connect() as c:
        deliver(c, C + (b'1' + b' ' * 240 + b';a\r\nx\r\n') * 80 + b'0\r\n\r\n')
        assert c.read_response().status == 400 and c.eof()


def test_blanks_around_a_semicolon_in_a_body_that_is_collected():
    with Before('max_req_per_worker = 1\n') as b, b.proxy.connect() as c:
        c.send(C + b'5 ; a = b\r\nhello\r\n0 ;z\r\n\r\n')
        request, _ = b.worker.one(OK)
        assert (request.body, request.get('content-length')) == (b'hello', '5')
        assert c.read_response().status == 200


# --- Host with a zone ---

@pytest.mark.parametrize('host', ['[fe80::1%eth0]', '[fe80::1%eth0]:8080', '[fe80::1%25eth0]', '[fe80::1%1]',
                                  '[fe80::1%en-0.1_x]:80', '[FE80::a%wlan0]'])
def test_a_host_with_a_zone_passes(chain, host):
    """nginx and HAProxy pass it; a browser at a link-local address sends it."""
    with chain.connect() as c:
        c.send(b'GET / HTTP/1.1\r\nHost: ' + host.encode() + b'\r\n\r\n')
        request, _ = chain.fake.one(OK)
        assert request.get('host') == request.get('x-forwarded-host') == host
        assert c.read_response().status == 200
    if '%25' in host:
        with chain.connect() as c:
            c.send(b'GET http://' + host.encode() + b'/x HTTP/1.1\r\nHost: a\r\n\r\n')
            request, _ = chain.fake.one(OK)
            assert (request.target, request.get('host')) == ('/x', host)


@pytest.mark.parametrize('host', ['[%eth0]', '[fe80::1%eth0', '[fe80::1%eth0]x', '[fe80::1%e th]', '[fe80::1%e/x]',
                                  '[fe80::1%"x"]', '[fe80::1%a]b]', '[1.2.3.4%eth0]',
                                  '[zz%eth0]', '[fe80::1%e@x]', '[fe80::1%a\\b]', '[fe80::1%a,b]', '[fe80::1%<a>]',
                                  '[fe80::1%' + 'a' * 300 + ']', 'fe80::1%eth0'])
def test_a_zone_is_no_way_around_the_rules_of_host(chain, host):
    with chain.connect() as c:
        c.send(b'GET / HTTP/1.1\r\nHost: ' + host.encode() + b'\r\n\r\n')
        assert c.read_response().status == 400 and c.eof()
    assert chain.fake.no_connection(0)


# --- strip_prefix ---

@pytest.fixture(scope='module')
def _stripped():
    p = started('', 'strip_prefix = on\nworker_keepalive = 0\n', '/api /deep/er =/exact *')
    with p.fake, p:
        yield p


@pytest.fixture
def stripped(_stripped):
    yield from fresh(_stripped)


@pytest.mark.parametrize('target', ['/api/../x', '/api/..', '/api/../', '/api/%2e%2e/x', '/api/.%2E', '/api/..%2fx',
                                    '/api%2f..%2fx', '/api/a/../../x', '/api/./../x',
                                    '/api//../x', '/api/a//../../x', '//api/../x', '/api/..\\x', '/api/..%5cx',
                                    '/api/a\\..\\..\\x', '/api/..?x', '/%61pi/../x',
                                    '/deep/er/../x', '/deep/er/../../x', '/api/x/%2e%2e/%2e%2e/y', '/api/../api/x'])
def test_what_remains_behind_a_prefix_does_not_climb(stripped, target):
    """All of them lead into the same group, so nothing but the stripping makes them dangerous."""
    with stripped.connect() as c:
        c.send(b'GET ' + target.encode() + b' HTTP/1.1\r\n' + H + E)
        r = c.read_response() if stripped.fake.no_connection(0.05) else None
        assert r is not None, 'it reached the worker: %r' % stripped.fake.accept().read_head().head
        assert r.status == 400


@pytest.mark.parametrize('target, seen', [
    ('/api/a/../x', '/a/../x'), ('/api/...', '/...'), ('/api/..x', '/..x'), ('/api/./x', '/./x'),
    ('/api?/../..', '/?/../..'), ('/api/x?u=/../../', '/x?u=/../../'),
    ('/api/a/..', '/a/..'), ('/deep/er/x', '/x'), ('/api/%2e', '/%2e'), ('/other/../x', '/other/../x')])
def test_dots_that_stay_below_the_prefix_pass(stripped, target, seen):
    with stripped.connect() as c:
        c.send(b'GET ' + target.encode() + b' HTTP/1.1\r\n' + H + E)
        assert stripped.fake.one(OK)[0].target == seen
        assert c.read_response().status == 200


@pytest.mark.parametrize('target', ['/api//x', '/api///x', '//api//x', '/api//evil.example/..', '/api//', '/api//?x',
                                    '/deep/er//evil.example', '/exact//x', '/api/\\evil.example',
                                    '/api/%2fx', '/api%2f/x', '/api%2f%2fx'])
def test_what_remains_behind_a_prefix_never_begins_with_two_slashes(stripped, target):
    """An app that redirects to `path + '/'` would send the browser to another host."""
    with stripped.connect() as c:
        c.send(b'GET ' + target.encode() + b' HTTP/1.1\r\n' + H + E)
        wait_for(lambda: not c.silent(0) or not stripped.fake.no_connection(0), what='an answer or a request')
        if c.silent(0):
            request, _ = stripped.fake.one(OK)
            assert not re.match(r'/[/\\]', urllib.parse.unquote(request.target)), request.target
        assert c.read_response().status in (200, 400, 404)


# --- addresses ---

@pytest.mark.parametrize('sent, client', [
    ('192.0.2.7:5555', '192.0.2.7'), ('192.0.2.7:5555, 10.0.0.5:80', '192.0.2.7'),
    ('192.0.2.7:1,10.0.0.5:65535', '192.0.2.7'),
    ('[2001:4860::8]:443', '2001:4860::8'), ('[2001:4860::8]', '2001:4860::8'),
    ('1.1.1.1, [2001:4860::8]:443, [2001:db8::1]:80', '2001:4860::8'),
    ('::ffff:192.0.2.7', '192.0.2.7'), ('::FFFF:192.0.2.7', '192.0.2.7'), ('::ffff:c000:207', '192.0.2.7'),
    ('[::ffff:192.0.2.7]:5555', '192.0.2.7'),
    ('0:0:0:0:0:ffff:192.0.2.7', '192.0.2.7'), ('192.0.2.7, ::ffff:10.0.0.5', '192.0.2.7'),
    ('192.0.2.7, [::ffff:10.0.0.5]:1234', '192.0.2.7'),
    # as before
    ('192.0.2.7', '192.0.2.7'), ('2a00::1', '2a00::1'), ('2a00::1:80', '2a00::1:80'),
    # malformed: the walk ends
    ('1.1.1.1, 192.0.2.7:x, 10.0.0.5', '10.0.0.5'), ('1.1.1.1, 192.0.2.7:80:80, 10.0.0.5', '10.0.0.5'),
    ('1.1.1.1, [192.0.2.7:80, 10.0.0.5', '10.0.0.5'),
    ('1.1.1.1, [2a00::1, 10.0.0.5', '10.0.0.5'), ('1.1.1.1, [2a00::1]x, 10.0.0.5', '10.0.0.5'),
    ('1.1.1.1, [2a00::1]:x, 10.0.0.5', '10.0.0.5'),
    ('1.1.1.1, 2a00::1], 10.0.0.5', '10.0.0.5'), ('1.1.1.1, unknown, 10.0.0.5', '10.0.0.5'),
    ('1.1.1.1, 192.0.2.7:99999, 10.0.0.5', '10.0.0.5'),
    ('1.1.1.1, :80, 10.0.0.5', '10.0.0.5'), ('1.1.1.1, []:80, 10.0.0.5', '10.0.0.5')])
def test_addresses_with_ports_and_mapped_ones(chain, sent, client):
    """Azure's gateway writes ports; a dual-stack proxy writes ::ffff:."""
    with chain.connect() as c:
        c.send(head('GET', '/' + re.sub(r'\W', '-', sent), {'X-Forwarded-For': sent}))
        request, _ = chain.fake.one(OK)
        assert request.get('x-real-ip') == client
        assert request.get('x-forwarded-for').endswith('127.0.0.1'), 'our peer is the last one, as ever'
        assert c.read_response().status == 200
    assert chain.wait_access(lambda r: r['target'] == request.target)['client'] == client


MAPPED = ['10.0.0.1', '10.0.0.1:5000', '::ffff:10.0.0.1', '[::ffff:10.0.0.1]:5000', '::ffff:a00:1']


def statuses(proxy, addresses, **more):
    found = []
    for address in addresses:
        with proxy.connect() as c:
            found.append(c.ask('GET', '/', {'X-Forwarded-For': address}).status)
    return found


@pytest.mark.parametrize('first', MAPPED)
def test_one_client_has_one_rate_however_its_address_is_written(first):
    with AutoWorker() as w, Proxy(upstream_config(w.address, 'trusted_proxies = 127.0.0.1\n', 'rate = 1/m\n')) as p:
        assert statuses(p, [first] + MAPPED) == [200] + [429] * len(MAPPED)
        assert statuses(p, ['10.0.0.2:5000', '::ffff:10.0.0.3']) == [200, 200], 'others are others'


def test_one_client_has_one_share_however_its_address_is_written():
    with Before('max_req_per_client = 1\n', TRUST.replace(' 10.0.0.0/8', '')) as b:
        first = b.send('/first', headers={'X-Forwarded-For': MAPPED[0]})
        _, conn = b.worker.one()
        assert statuses(b.proxy, MAPPED) == [429] * len(MAPPED)
        conn.send(OK)
        assert first.read_response().status == 200


def test_lists_mean_an_address_however_it_is_written():
    with AutoWorker() as w, Proxy(upstream_config(w.address, 'trusted_proxies = 127.0.0.1\n',
                                                  'allow = 10.0.0.0/24 192.0.2.1\ndeny = 10.0.0.9\n')) as p:
        assert statuses(p, MAPPED + ['[::ffff:192.0.2.1]:1', '192.0.2.1:1']) == [200] * 7
        assert statuses(p, ['10.0.0.9:1', '::ffff:10.0.0.9', '[::ffff:a00:9]:1', '192.0.2.2:80']) == [403] * 4


@pytest.mark.parametrize('key', ['allow', 'deny'])
def test_a_mapped_address_in_a_list_is_its_ipv4_address(key):
    with AutoWorker() as w, Proxy(upstream_config(w.address, 'trusted_proxies = ::ffff:127.0.0.1\n',
                                                  key + ' = ::ffff:10.0.0.1\n')) as p:
        hit, other = (200, 403) if key == 'allow' else (403, 200)
        assert statuses(p, MAPPED + ['10.0.0.2']) == [hit] * len(MAPPED) + [other]


def test_one_client_has_one_hash_however_its_address_is_written():
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(AutoWorker(lambda r, c, n=n: answer(b'%d' % n))) for n in range(4)]
        p = stack.enter_context(Proxy(upstream_config(' '.join(w.address for w in workers),
                                                      'trusted_proxies = 127.0.0.1\n', 'balance = hash\n')))
        for n in range(1, 9):
            went = set()
            for address in MAPPED:
                address = address.replace('10.0.0.1', '10.0.0.%d' % n).replace('a00:1', 'a00:%x' % n)
                with p.connect() as c:
                    went.add(c.ask('GET', '/', {'X-Forwarded-For': address}).body)
            assert len(went) == 1, n


# --- limits of an answer's head, and what the log says when one is passed ---

@contextlib.contextmanager
def answered(sent, top='', fin=False):
    """-> (the client's answer, the log so far as a function)."""
    with started(top, 'worker_keepalive = 0\n') as p, p.fake, p.connect() as c:
        c.send(head('GET', '/limits'))
        _, conn = p.fake.one()
        deliver(conn, sent)
        if fin:
            with contextlib.suppress(OSError):
                conn.fin()
        yield c.read_response(), p


def log_says(p, *patterns):
    """All of them in one of its lines."""
    wait_for(lambda: any(all(re.search(x, line) for x in patterns) for line in p.log().splitlines()), 5,
             'a line with %s in:\n%s' % (patterns, p.log()))


A = b'HTTP/1.1 200 OK\r\n' + D


@pytest.mark.parametrize('n', [100, 101, 200, 256])
def test_an_answer_may_have_256_fields(n):
    """Date and the length are two of them."""
    with answered(A + b''.join(b'X-%d: y\r\n' % i for i in range(n - 2)) + b'Content-Length: 2\r\n\r\nok') as (r, p):
        assert r.status == 200 and r.body == b'ok' and len(r.headers) == n
        assert [v for k, v in r.headers if k.startswith('X-')] == ['y'] * (n - 2)


@pytest.mark.parametrize('n', [257, 300, 1000])
def test_an_answer_with_more_fields_is_told_with_the_limit(n):
    with answered(A + b'X: y\r\n' * (n - 2) + b'Content-Length: 2\r\n\r\nok') as (r, p):
        assert r.status == 502
        log_says(p, r'\b256\b', r'(?i)field')


def test_requests_still_have_100_fields_at_most(pool):
    with pool.connect() as c:
        c.send(b'GET / HTTP/1.1\r\n' + H + b'X: y\r\n' * 99 + E)
        pool.fake.one(OK)
        assert c.read_response().status == 200
    with pool.connect() as c:
        c.send(b'GET / HTTP/1.1\r\n' + H + b'X: y\r\n' * 100 + E)
        assert c.read_response().status == 431


@pytest.mark.parametrize('sent', [
    A + (b'X: ' + b'y' * 1000 + E) * 70, A + b'X: ' + b'y' * 70000, A.replace(b'OK', b'O' * 70000)],
    ids=['fields', 'field', 'phrase'])
def test_an_answer_whose_head_is_too_long_is_told_as_that(sent):
    with answered(sent) as (r, p):
        assert r.status == 502
        log_says(p, r'\b(64 ?K|65,?536|max_header)\b', r'(?i)long|large|over|more than|exceed|limit')


@pytest.mark.parametrize('line, first', [
    (b'X-Mark : 1', 'X-Mark :'), (b'Markedline', 'Markedline'), (b'X-Mark\xc3: 1', 'X-Mark'),
    (b'X-Mark: a\x01b', 'X-Mark: a'), (b' folded-mark', 'folded-mark'),
    (b'Content-Length: 2x', '2x'), (b'Transfer-Encoding: marked', 'marked')])
def test_a_malformed_line_of_an_answer_is_told_with_its_first_bytes(line, first):
    length = b'' if b'mark' not in line.lower() or b'Transfer' in line else b'Content-Length: 2\r\n'
    with answered(A + line + E + length + b'\r\nok') as (r, p):
        assert r.status == 502
        log_says(p, re.escape(first))


@pytest.mark.parametrize('sent, first', [(b'HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n', 'HTTP/2.0'),
                                         (b'hello marked world\r\n\r\n', 'hello marked'),
                                         (b'<html>marked</html>', '<html>'), (b'HTTP/1.1 20x OK\r\n\r\n', '20x'),
                                         (b'SSH-2.0-marked\r\n', 'SSH-2.0')])
def test_a_malformed_status_line_is_told_with_its_first_bytes(sent, first):
    with answered(sent, fin=True) as (r, p):
        assert r.status == 502
        log_says(p, re.escape(first))


def test_first_bytes_that_are_no_text_are_told_as_text():
    """A worker that speaks something else, and a log that is read in a terminal."""
    with answered(b'\x16\x03\x01\x1b[31m\x9b31m\r\n\r\n', fin=True) as (r, p):
        assert r.status == 502
        log_says(p, r'\\x16|\\u0016')
        with open(p.log_path, 'rb') as f:
            data = f.read()
        assert not re.search(rb'[\x00-\x08\x0b-\x1f\x7f-\x9f]', data), data


NAMED = r'(?i)\bbare LF\b|LF without (a )?CR|line feed|bare line ?feed'


@pytest.mark.parametrize('sent', [A.replace(E, b'\n') + b'Content-Length: 2\n\nok',
                                  A + b'X: y\nContent-Length: 2\r\n\r\nok', A + b'Content-Length: 2\r\n\nok',
                                  b'HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nok'],
                                  ids=['everywhere', 'field', 'empty line', 'status line'])
def test_a_bare_line_feed_of_an_answer_is_named(sent):
    with answered(sent) as (r, p):
        assert r.status == 502
        log_says(p, NAMED)


@pytest.mark.parametrize('sent', [b'GET / HTTP/1.1\nHost: a\n\n', b'GET / HTTP/1.1\r\nHost: a\n\r\n',
                                  b'GET / HTTP/1.1\r\nHost: a\r\n\n', b'GET / HTTP/1.1\n'],
                         ids=['everywhere', 'field', 'empty line', 'request line'])
def test_a_bare_line_feed_of_a_request_is_named(sent):
    """To the client, who can mend it, or in the log."""
    with started() as p, p.fake, p.connect() as c:
        c.send(sent)
        r = c.read_response()
        assert r.status == 400
        wait_for(lambda: re.search(NAMED, r.body.decode() + p.log()), 5, 'its name in:\n' + r.body.decode())


def test_the_limits_of_an_answer_are_in_the_readme():
    with open(os.path.join(REPO, 'README.md')) as f:
        text = f.read()
    assert re.search(r'256\D{0,30}field|field\D{0,30}\b256\b', text)
