"""Requests as bytes, and what becomes of each: the table of tests/flow/test_conformance.py, which
tests/real/test_differential.py sends through other proxies too.

`rule` is the section of the RFC or the family of attacks. A refused one has a status. A passed one
has the bytes that the worker must see, built by `seen`; `end` says whether the client's connection
is over behind the answer.
"""
from collections import namedtuple

Case = namedtuple('Case', 'rule name sent status worker end')

H = b'Host: a\r\n'
G = b'GET / HTTP/1.1\r\n' + H
P = b'POST / HTTP/1.1\r\n' + H
C = P + b'Transfer-Encoding: chunked\r\n\r\n'
E = b'\r\n'
SMUGGLED = b'GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n'
LISTEN = '{listen}'                     # the proxy's own address, known when it runs


def no(rule, name, status, sent):
    return Case(rule, name, sent, status, (), True)


def yes(rule, name, sent, *worker, end=False):
    return Case(rule, name, sent, 0, worker, end)


def seen(line, *fields, host='a', forwarded='', via='1.1 ldcorn', length=None, body=b'', chunked=False, upgrade=None):
    """The request that a worker sees: (head, body, chunked). `forwarded`: X-Forwarded-Host, if not `host`."""
    if forwarded == '':
        forwarded = host
    if body and length is None and not chunked:
        length = len(body)
    lines = [line + ' HTTP/1.1', 'Host: ' + host] + list(fields)
    lines += ['X-Forwarded-For: 127.0.0.1', 'X-Forwarded-Proto: http']
    lines += ['X-Forwarded-Host: ' + forwarded] if forwarded else []
    lines += ['X-Real-IP: 127.0.0.1', 'X-Request-Id: {id}', 'X-Request-Start: {start}', 'Via: ' + via]
    lines += ['Content-Length: %d' % length] if length is not None else []
    lines += ['Transfer-Encoding: chunked'] if chunked else []
    lines += ['Connection: upgrade', 'Upgrade: ' + upgrade] if upgrade else []
    return ('\r\n'.join(lines) + '\r\n\r\n').encode('latin-1'), body, chunked


def get(*fields, **more):
    return seen('GET /', *fields, **more)


def post(*fields, **more):
    return seen('POST /', *fields, **more)


def length(value, body=b'hello'):
    return P + b'Content-Length: ' + value + b'\r\n\r\n' + body


def coding(lines, body=b'5\r\nhello\r\n0\r\n\r\n'):
    return P + lines + b'\r\n\r\n' + body


def line(bytes_):
    return bytes_ + E + H + E


HELLO = post(body=b'hello', chunked=True)
OVERLAP = b'0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n'

LINES = [
    # the request line
    no('9112 3', 'blank first', 400, line(b' GET / HTTP/1.1')),
    no('9112 3', 'tab first', 400, line(b'\tGET / HTTP/1.1')),
    no('9112 3', 'two blanks behind the method', 400, line(b'GET  / HTTP/1.1')),
    no('9112 3', 'two blanks behind the target', 400, line(b'GET /  HTTP/1.1')),
    no('9112 3', 'blank last', 400, line(b'GET / HTTP/1.1 ')),
    no('9112 3', 'tab last', 400, line(b'GET / HTTP/1.1\t')),
    no('9112 3', 'tabs between', 400, line(b'GET\t/\tHTTP/1.1')),
    no('9112 3', 'vertical tabs between', 400, line(b'GET\x0b/\x0bHTTP/1.1')),
    no('9112 3', 'form feed for the second blank', 400, line(b'GET /\x0cHTTP/1.1')),
    no('9112 3', 'no-break spaces', 400, line(b'GET\xa0/\xa0HTTP/1.1')),
    no('9112 3', 'four words', 400, line(b'GET / /x HTTP/1.1')),
    no('9112 3', 'a second version', 400, line(b'GET / HTTP/1.1 HTTP/1.1')),
    no('9112 3', 'method alone', 400, line(b'GET')),
    no('9112 3', 'no target', 400, line(b'GET HTTP/1.1')),
    no('9112 3', 'no method', 400, line(b'/ HTTP/1.1')),
    no('9112 3', 'bare LF behind it', 400, b'GET / HTTP/1.1\n' + H + E),
    no('9112 3', 'bare CR behind it', 400, b'GET / HTTP/1.1\r' + H + E),
    no('9112 3', 'CR CR LF behind it', 400, b'GET / HTTP/1.1\r\r\n' + H + E),
    no('9112 3', 'LF CR behind it', 400, b'GET / HTTP/1.1\n\r' + H + E),
    no('9112 3', 'bare CR in the target', 400, line(b'GET /\rGET HTTP/1.1')),
    no('9112 3', 'NUL behind the method', 400, line(b'GET\0 / HTTP/1.1')),
    no('9112 3', 'answer sent as a request', 400, b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n'),
    no('9112 3', 'longer than max_header', 414, line(b'GET /' + b'x' * 33000 + b' HTTP/1.1')),
    no('9112 3', 'method longer than max_header', 414, line(b'G' * 33000 + b' / HTTP/1.1')),
    no('9112 2.2', 'three empty lines first', 400, E * 3 + G + E),
    no('9112 2.2', 'bare LF first', 400, b'\n' + G + E),
    no('9112 2.2', 'bare CR first', 400, b'\r' + G + E),
    no('9112 2.2', 'blank line with a blank first', 400, b' \r\n' + G + E),
    no('9112 2.2', 'byte order mark first', 400, b'\xef\xbb\xbf' + G + E),
    yes('9112 2.2', 'one empty line first', E + G + E, get()),
    yes('9112 2.2', 'two empty lines first', E * 2 + G + E, get()),
    # method
    no('9110 9.1', 'parenthesis in the method', 400, line(b'G(T / HTTP/1.1')),
    no('9110 9.1', 'colon in the method', 400, line(b'GET: / HTTP/1.1')),
    no('9110 9.1', 'quoted method', 400, line(b'"GET" / HTTP/1.1')),
    no('9110 9.1', 'high byte in the method', 400, line(b'G\xc9T / HTTP/1.1')),
    no('9110 9.1', 'control byte in the method', 400, line(b'GET\x01 / HTTP/1.1')),
    no('9110 9.1', 'at sign in the method', 400, line(b'@GET / HTTP/1.1')),
    yes('9110 9.1', 'method of all token bytes', line(b"!#$%&'*+-.^_`|~09aZ / HTTP/1.1"), seen("!#$%&'*+-.^_`|~09aZ /")),
    yes('9110 9.1', 'a method of its own in lower case', line(b'purge / HTTP/1.1'), seen('purge /')),
    *[no('9110 9.1', 'a disguised method: ' + m, 400, line(m.encode() + b' / HTTP/1.1')) for m in ('get', 'head', 'Head', 'pOST', 'trace', 'Connect', 'options')],
    yes('9110 9.1', 'unknown method', line(b'FROBNICATE / HTTP/1.1'), seen('FROBNICATE /')),
    yes('9110 9.3.2', 'HEAD', line(b'HEAD / HTTP/1.1'), seen('HEAD /')),
    yes('9110 9.3.5', 'DELETE with a body', b'DELETE / HTTP/1.1\r\n' + H + b'Content-Length: 2\r\n\r\nok', seen('DELETE /', body=b'ok')),
    no('9110 9.3.6', 'CONNECT in authority form', 405, b'CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n'),
    no('9110 9.3.6', 'CONNECT in origin form', 405, line(b'CONNECT / HTTP/1.1')),
    no('9110 9.3.6', 'CONNECT with a body', 405, b'CONNECT a:80 HTTP/1.1\r\n' + H + b'Content-Length: 5\r\n\r\nhello'),
    no('9110 9.3.8', 'TRACE', 405, line(b'TRACE / HTTP/1.1')),
    no('9110 9.3.8', 'TRACE with Max-Forwards 0', 405, b'TRACE / HTTP/1.1\r\n' + H + b'Max-Forwards: 0\r\n\r\n'),
    # version
    no('9112 2.3', 'none', 400, line(b'GET /')),
    no('9112 2.3', 'HTTP/1', 400, line(b'GET / HTTP/1')),
    no('9112 2.3', 'HTTP/1.', 400, line(b'GET / HTTP/1.')),
    no('9112 2.3', 'HTTP/.1', 400, line(b'GET / HTTP/.1')),
    no('9112 2.3', 'HTTP/1.10', 400, line(b'GET / HTTP/1.10')),
    no('9112 2.3', 'HTTP/01.1', 400, line(b'GET / HTTP/01.1')),
    no('9112 2.3', 'HTTP/1,1', 400, line(b'GET / HTTP/1,1')),
    no('9112 2.3', 'HTTP/+1.1', 400, line(b'GET / HTTP/+1.1')),
    no('9112 2.3', 'lower case', 400, line(b'GET / http/1.1')),
    no('9112 2.3', 'mixed case', 400, line(b'GET / Http/1.1')),
    no('9112 2.3', 'another protocol', 400, line(b'GET / HTTPS/1.1')),
    no('9112 2.3', 'letter for a digit', 400, line(b'GET / HTTP/1.x')),
    no('9112 2.3', 'blank behind the slash', 400, line(b'GET / HTTP/ 1.1')),
    no('9112 2.3', 'RTSP', 400, line(b'GET / RTSP/1.0')),
    no('9112 2.3', '0.9', 505, line(b'GET / HTTP/0.9')),
    no('9112 2.3', '2.0', 505, line(b'GET / HTTP/2.0')),
    no('9112 2.3', '3.0', 505, line(b'GET / HTTP/3.0')),
    no('9112 2.3', '9.9', 505, line(b'GET / HTTP/9.9')),
    no('9113 3.4', 'preface of HTTP/2', 505, b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'),
    yes('9110 2.5', 'higher minor version', line(b'GET / HTTP/1.2'), get()),
    yes('9110 2.5', 'highest minor version', line(b'GET / HTTP/1.9'), get()),
    yes('9112 2.3', '1.0', line(b'GET / HTTP/1.0'), get(via='1.0 ldcorn'), end=True),
    no('TLS on a plain port', 'client hello', 400, b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03' + bytes(64) + E * 2),
]

TARGETS = [
    yes('9112 3.2.1', 'origin form with a query', line(b'GET /a/b?c=d&e HTTP/1.1'), seen('GET /a/b?c=d&e')),
    yes('9112 3.2.1', 'bytes that a URI should quote', line(b'GET /a|b^"`{}\\<>[] HTTP/1.1'), seen('GET /a|b^"`{}\\<>[]')),
    yes('9112 3.2.1', 'two slashes first', line(b'GET //b.example/x HTTP/1.1'), seen('GET //b.example/x')),
    yes('9112 3.2.1', 'percent in the query is not ours', line(b'GET /?a=%zz HTTP/1.1'), seen('GET /?a=%zz')),
    yes('9112 3.2.1', 'dots within the root', line(b'GET /a/../b/./c HTTP/1.1'), seen('GET /a/../b/./c')),
    yes('9112 3.2.1', 'dots in the query', line(b'GET /?/../../.. HTTP/1.1'), seen('GET /?/../../..')),
    yes('9112 3.2.1', 'URL in the query', line(b'GET /?u=http://u@b/ HTTP/1.1'), seen('GET /?u=http://u@b/')),
    no('9112 3.2', 'fragment', 400, line(b'GET /a#b HTTP/1.1')),
    no('9112 3.2', 'fragment in the query', 400, line(b'GET /a?b#c HTTP/1.1')),
    no('9112 3.2', 'DEL', 400, line(b'GET /\x7f HTTP/1.1')),
    no('9112 3.2', 'NUL', 400, line(b'GET /\0 HTTP/1.1')),
    no('9112 3.2', 'control byte', 400, line(b'GET /\x1f HTTP/1.1')),
    no('9112 3.2', 'byte over 0x7f', 400, line(b'GET /\xc3\xa4 HTTP/1.1')),
    no('9112 3.2', 'byte over 0x7f in the query', 400, line(b'GET /?\xff HTTP/1.1')),
    no('9112 3.2', 'relative', 400, line(b'GET a HTTP/1.1')),
    no('9112 3.2', 'backslash first', 400, line(b'GET \\a HTTP/1.1')),
    no('9112 3.2', 'query alone', 400, line(b'GET ?a HTTP/1.1')),
    no('9112 3.2', 'semicolon first', 400, line(b'GET ;/a HTTP/1.1')),
    no('path confusion', 'above the root', 400, line(b'GET /.. HTTP/1.1')),
    no('path confusion', 'above the root behind a segment', 400, line(b'GET /a/../../b HTTP/1.1')),
    no('path confusion', 'above the root, encoded', 400, line(b'GET /%2e%2E/b HTTP/1.1')),
    no('path confusion', 'above the root, encoded slashes', 400, line(b'GET /a%2f..%2f..%2fb HTTP/1.1')),
    no('path confusion', 'percent without digits', 400, line(b'GET /%zz HTTP/1.1')),
    no('path confusion', 'percent at the end', 400, line(b'GET /% HTTP/1.1')),
    no('path confusion', 'percent with one digit', 400, line(b'GET /%4?a HTTP/1.1')),
    no('path confusion', 'wide percent', 400, line(b'GET /%u002f HTTP/1.1')),
    no('path confusion', 'encoded NUL', 400, line(b'GET /a%00.html HTTP/1.1')),
    yes('9112 3.2.2', 'absolute form', line(b'GET http://a/x?y HTTP/1.1'), seen('GET /x?y')),
    yes('9112 3.2.2', 'upper case https', line(b'GET HTTPS://a/x HTTP/1.1'), seen('GET /x')),
    yes('9112 3.2.2', 'without a path', line(b'GET http://a HTTP/1.1'), seen('GET /')),
    yes('9112 3.2.1', 'absolute form with a query only', line(b'GET http://a?q HTTP/1.1'), seen('GET /?q')),
    yes('9112 3.2.2', 'absolute form in 1.0 without Host', b'GET http://b/x HTTP/1.0\r\n\r\n',
        seen('GET /x', host='b', via='1.0 ldcorn'), end=True),
    yes('absolute form against Host', 'another host', line(b'GET http://b.example:81/x HTTP/1.1'), seen('GET /x', host='b.example:81')),
    yes('absolute form against Host', 'another port', line(b'GET http://a:8080/ HTTP/1.1'), seen('GET /', host='a:8080')),
    yes('absolute form against Host', 'address in brackets', line(b'GET http://[::1]:80/ HTTP/1.1'), seen('GET /', host='[::1]:80')),
    yes('absolute form against Host', 'forged X-Forwarded-Host', b'GET http://b/ HTTP/1.1\r\n' + H + b'X-Forwarded-Host: c\r\n\r\n', seen('GET /', host='b')),
    no('absolute form against Host', 'no Host in 1.1', 400, b'GET http://a/ HTTP/1.1\r\n\r\n'),
    no('absolute form against Host', 'two Hosts', 400, b'GET http://a/ HTTP/1.1\r\n' + H + b'Host: b\r\n\r\n'),
    no('absolute form against Host', 'bad Host', 400, b'GET http://a/ HTTP/1.1\r\nHost: a b\r\n\r\n'),
    no('absolute form against Host', 'userinfo', 400, line(b'GET http://a@b/ HTTP/1.1')),
    no('absolute form against Host', 'userinfo with a password', 400, line(b'GET http://a:80@b/ HTTP/1.1')),
    no('absolute form against Host', 'empty userinfo', 400, line(b'GET http://@a/ HTTP/1.1')),
    no('absolute form against Host', 'backslash in the authority', 400, line(b'GET http://a\\@b/ HTTP/1.1')),
    no('absolute form against Host', 'fragment in the authority', 400, line(b'GET http://a#@b/ HTTP/1.1')),
    no('9112 3.2.2', 'another scheme', 400, line(b'GET ftp://a/ HTTP/1.1')),
    no('9112 3.2.2', 'websocket scheme', 400, line(b'GET ws://a/ HTTP/1.1')),
    no('9112 3.2.2', 'no scheme', 400, line(b'GET ://a/ HTTP/1.1')),
    no('9112 3.2.2', 'file', 400, line(b'GET file:///etc/passwd HTTP/1.1')),
    no('9112 3.2.2', 'one slash', 400, line(b'GET http:/a/ HTTP/1.1')),
    no('9112 3.2.2', 'no host', 400, line(b'GET http:///x HTTP/1.1')),
    no('9112 3.2.2', 'nothing behind the scheme', 400, line(b'GET http:// HTTP/1.1')),
    no('9112 3.2.2', 'port alone', 400, line(b'GET http://:80/ HTTP/1.1')),
    no('9112 3.2.2', 'bad port', 400, line(b'GET http://a:8x/ HTTP/1.1')),
    no('9112 3.2.2', 'port over 65535', 400, line(b'GET http://a:65536/ HTTP/1.1')),
    no('9112 3.2.2', 'above the root', 400, line(b'GET http://a/../b HTTP/1.1')),
    no('9112 3.2.3', 'authority form with GET', 400, line(b'GET a:80 HTTP/1.1')),
    no('9112 3.2.4', 'star with GET', 400, line(b'GET * HTTP/1.1')),
    no('9112 3.2.4', 'star and more', 400, line(b'OPTIONS *x HTTP/1.1')),
    no('9112 3.2.4', 'slash and star behind a host', 400, line(b'OPTIONS a/* HTTP/1.1')),
    yes('9112 3.2.4', 'star with OPTIONS', line(b'OPTIONS * HTTP/1.1'), seen('OPTIONS *')),
    yes('9112 3.2.4', 'OPTIONS in absolute form with a path', line(b'OPTIONS http://a/ HTTP/1.1'), seen('OPTIONS /')),
    yes('9112 3.2.4', 'OPTIONS in absolute form without a path', line(b'OPTIONS http://a HTTP/1.1'), seen('OPTIONS *')),
]

HOSTS = [
    no('9112 3.2', 'none', 400, b'GET / HTTP/1.1\r\nX: 1\r\n\r\n'),
    no('9112 3.2', 'no field at all', 400, b'GET / HTTP/1.1\r\n\r\n'),
    no('9112 3.2', 'two', 400, G + b'Host: b\r\n\r\n'),
    no('9112 3.2', 'two equal', 400, G + H + E),
    no('9112 3.2', 'two in another case', 400, G + b'hOST: b\r\n\r\n'),
    no('9112 3.2', 'two in 1.0', 400, b'GET / HTTP/1.0\r\n' + H + H + E),
    no('9112 3.2', 'two, one of them empty', 400, G + b'Host:\r\n\r\n'),
    no('9112 3.2', 'two, one of them behind a control byte', 400, G + b'\x0bHost: b\r\n\r\n'),
] + [no('9110 7.2', 'Host ' + name, 400, b'GET / HTTP/1.1\r\nHost: ' + value + b'\r\n\r\n') for name, value in [
    ('empty', b''), ('with a blank', b'a b'), ('with a tab', b'a\tb'), ('with a slash', b'a/b'), ('with userinfo', b'u@a'),
    ('list', b'a, b'), ('with a scheme', b'http://a'), ('with a query', b'a?b'), ('with a fragment', b'a#b'),
    ('with a backslash', b'a\\b'), ('with a quote', b'"a"'), ('with markup', b'<a>'), ('with braces', b'{a}'),
    ('with a bad port', b'a:8x'), ('with a signed port', b'a:+80'), ('with a port over 65535', b'a:65536'),
    ('with two ports', b'a:80:81'), ('of a port alone', b':80'), ('with an open bracket', b'[::1'),
    ('with an empty bracket', b'[]'), ('with bytes behind the bracket', b'[::1]80'), ('with a zone and no address', b'[%eth0]'),
    ('without brackets around an address', b'::1'), ('with a high byte', b'\xc3\xa4'), ('with a NUL', b'a\0'), ('with an ESC', b'a\x1b'),
    ('of 300 bytes', b'a' * 300)]] + [
    yes('9110 7.2', 'Host with a port', b'GET / HTTP/1.1\r\nHost: a.example:8080\r\n\r\n', get(host='a.example:8080')),
    yes('9110 7.2', 'Host with an empty port', b'GET / HTTP/1.1\r\nHost: a:\r\n\r\n', get(host='a:')),
    yes('9110 7.2', 'Host in brackets', b'GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n', get(host='[2001:db8::1]:80')),
    yes('9110 7.2', 'Host in brackets with an IPv4 end', b'GET / HTTP/1.1\r\nHost: [::ffff:127.0.0.1]\r\n\r\n', get(host='[::ffff:127.0.0.1]')),
    yes('9110 7.2', 'Host with a zone', b'GET / HTTP/1.1\r\nHost: [fe80::1%eth0]\r\n\r\n', get(host='[fe80::1%eth0]')),
    yes('9110 7.2', 'Host as an address', b'GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n', get(host='127.0.0.1')),
    yes('9110 7.2', 'Host with blanks around it', b'GET / HTTP/1.1\r\nHost: \t a \t\r\n\r\n', get()),
    yes('9110 7.2', 'Host without a blank, not first', b'GET / HTTP/1.1\r\nX: 1\r\nHOST:a\r\n\r\n', get('X: 1')),
    yes('9112 3.2', 'none in 1.0', b'GET / HTTP/1.0\r\n\r\n', get(host=LISTEN, forwarded=None, via='1.0 ldcorn'), end=True),
    yes('9112 3.2', 'one in 1.0', b'GET / HTTP/1.0\r\nHost: b\r\n\r\n', get(host='b', via='1.0 ldcorn'), end=True),
    no('9110 7.2', 'bad Host in 1.0', 400, b'GET / HTTP/1.0\r\nHost: a/b\r\n\r\n'),
    no('9110 7.2', 'empty Host in 1.0', 400, b'GET / HTTP/1.0\r\nHost:\r\n\r\n'),
    no('9110 7.2', 'percent without digits', 400, b'GET / HTTP/1.1\r\nHost: a%zz\r\n\r\n'),
    no('9110 7.2', 'bracket that is no address', 400, b'GET / HTTP/1.1\r\nHost: [:::::]\r\n\r\n'),
    no('9110 7.2', 'bracket around a number', 400, b'GET / HTTP/1.1\r\nHost: [1]\r\n\r\n'),
]

FIELDS = [no('9112 5', name, 400, G + lines + E) for name, lines in [
    ('blank before the colon', b'X : 1\r\n'), ('tab before the colon', b'X\t: 1\r\n'), ('CR before the colon', b'X\r: 1\r\n'),
    ('blank in a name', b'X Y: 1\r\n'), ('empty name', b': 1\r\n'), ('colon alone', b':\r\n'), ('no colon', b'foo\r\n'),
    ('no colon with a high byte', b'\xff\r\n'), ('NUL in a name', b'X\0: 1\r\n'), ('NUL first', b'\0X: 1\r\n'),
    ('control byte in a name', b'X\x01: 1\r\n'), ('DEL in a name', b'X\x7f: 1\r\n'),
    ('parenthesis in a name', b'X(: 1\r\n'), ('comma in a name', b'X,Y: 1\r\n'), ('semicolon in a name', b'X;: 1\r\n'),
    ('slash in a name', b'X/Y: 1\r\n'), ('brackets in a name', b'X[]: 1\r\n'), ('quoted name', b'"X": 1\r\n'),
    ('at sign in a name', b'X@: 1\r\n'), ('equals sign in a name', b'X=: 1\r\n'), ('high byte in a name', b'\xc3\xa4: 1\r\n'),
    ('request line as a field', b'GET /smuggled HTTP/1.1\r\n')]]
FIELDS += [no('9110 5.5', name, 400, G + lines + E) for name, lines in [
    ('NUL in a value', b'X: a\0b\r\n'), ('NUL last', b'X: a\0\r\n'), ('control byte in a value', b'X: a\x01b\r\n'),
    ('backspace in a value', b'X: a\x08\r\n'), ('vertical tab in a value', b'X: a\x0bb\r\n'), ('form feed first', b'X:\x0ca\r\n'),
    ('ESC in a value', b'X: \x1b[31m\r\n'), ('DEL in a value', b'X: a\x7f\r\n'),
    ('bare CR in a value', b'X: a\rY: b\r\n'), ('bare CR alone', b'X: \r\r\n'), ('CR CR LF', b'X: a\r\r\n')]]
FIELDS += [no('line terminators', name, 400, sent) for name, sent in [
    ('bare LF behind a field', G + b'X: a\n' + E), ('bare LF before a field', G + b'X: a\nY: b\r\n' + E),
    ('bare LF as the empty line', G + b'\n'), ('bare LF twice', G + b'X: a\n\n'), ('bare LF everywhere', b'GET / HTTP/1.1\nHost: a\n\n'),
    ('LF CR', G + b'X: a\n\r\r\n'), ('CR LF CR CR LF', G + b'\r\r\n' + E), ('bare CR as the empty line', G + b'\rX: 1\r\n' + E),
    ('hidden field behind a bare LF', G + b'X: a\nTransfer-Encoding: chunked\r\n\r\n' + OVERLAP),
    ('hidden field behind a bare CR', G + b'X: a\rTransfer-Encoding: chunked\r\n\r\n' + OVERLAP)]]
FIELDS += [no('9112 5.2', name, 400, sent) for name, sent in [
    ('folded line', G + b'X: a\r\n b\r\n' + E), ('folded with a tab', G + b'X: a\r\n\tb\r\n' + E),
    ('folded with nothing', G + b'X: a\r\n \r\n' + E), ('first line with a blank', b'GET / HTTP/1.1\r\n Host: a\r\n\r\n'),
    ('first line with a tab', b'GET / HTTP/1.1\r\n\tHost: a\r\n\r\n'), ('folded Host', b'GET / HTTP/1.1\r\nHost:\r\n a\r\n\r\n'),
    ('folded length', P + b'Content-Length:\r\n 5\r\n\r\nhello'), ('folded coding', P + b'Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n'),
    ('length behind a fold', P + b'X: y\r\n Content-Length: 5\r\n\r\nhello')]]
FIELDS += [
    no('6585 5', 'one field over max_header', 431, G + b'X: ' + b'y' * 33000 + E * 2),
    no('6585 5', 'many fields over max_header', 431, G + (b'X: ' + b'y' * 1000 + E) * 33 + E),
    no('6585 5', 'one byte over max_header', 431, G + b'X: ' + b'y' * (32768 - len(G) - 6) + E * 2),
    no('6585 5', 'a name over max_header', 431, G + b'X' * 33000 + b': y' + E * 2),
    no('6585 5', '101 fields', 431, G + b'X: y\r\n' * 100 + E),
    yes('6585 5', '100 fields', G + b'X: y\r\n' * 99 + E, get(*['X: y'] * 99)),
    yes('6585 5', 'exactly max_header', G + b'X: ' + b'y' * (32768 - len(G) - 7) + E * 2, get('X: ' + 'y' * (32768 - len(G) - 7))),
    yes('9110 5.1', 'all token bytes in a name', G + b"!#$%&'*+-.^`|~09aZ: y\r\n\r\n", get("!#$%&'*+-.^`|~09aZ: y")),
    yes('9110 5.1', 'one letter, empty value', G + b'x:\r\n\r\n', get('x:')),
    yes('9110 5.3', 'equal names keep their order', G + b'X: 1\r\nY: 2\r\nX: 3\r\n\r\n', get('X: 1', 'Y: 2', 'X: 3')),
    yes('9110 5.5', 'bytes over 0x7f in a value', G + b'X: \xc3\xa4\xff\x80\r\n\r\n', get('X: \xc3\xa4\xff\x80')),
    yes('9110 5.5', 'tab in a value', G + b'X: a\tb\r\n\r\n', get('X: a\tb')),
    yes('9110 5.5', 'colons in a value', G + b'X: a:b: c\r\n\r\n', get('X: a:b: c')),
    yes('9112 5.1', 'no blank before a value', G + b'X:1\r\n\r\n', get('X: 1')),
    yes('9112 5.1', 'blanks and tabs around a value', G + b'X: \t 1 \t \r\n\r\n', get('X: 1')),
    yes('underscore twins', 'X_Y beside X-Y', G + b'X_Y: 1\r\nX-Y: 2\r\n\r\n', get('X-Y: 2')),
    yes('underscore twins', 'Content_Length', G + b'Content_Length: 5\r\n\r\n', get()),
    yes('underscore twins', 'Transfer_Encoding', G + b'Transfer_Encoding: chunked\r\n\r\n', get()),
    yes('underscore twins', 'Content_Length beside the length', P + b'Content_Length: 0\r\nContent-Length: 5\r\n\r\nhello', post(body=b'hello')),
    yes('underscore twins', 'X_Forwarded_For', G + b'X_Forwarded_For: 1.2.3.4\r\nX-Forwarded_For: 1.2.3.4\r\n\r\n', get()),
    yes('underscore twins', 'underscore alone', G + b'_: 1\r\n\r\n', get()),
    yes('underscore twins', 'underscore first', G + b'_Host: b\r\n\r\n', get()),
]

LENGTHS = [no('9112 6.3', 'length ' + name, 400, length(value)) for name, value in [
    ('with a plus', b'+5'), ('with a minus', b'-5'), ('of minus 0', b'-0'), ('in hex', b'0x5'), ('in octal', b'0o5'),
    ('with an exponent', b'5e0'), ('with an underscore', b'0_5'), ('with a point', b'5.0'), ('with a blank inside', b'5 5'),
    ('with a tab inside', b'5\t0'), ('with a semicolon', b'5;'), ('in quotes', b'"5"'), ('list of equals', b'5, 5'),
    ('list of equals without a blank', b'5,5'), ('list', b'5, 6'), ('with a comma last', b'5,'), ('with a comma first', b',5'),
    ('empty', b''), ('of blanks', b' \t '), ('in letters', b'five'), ('with a letter last', b'5a'), ('in high digits', b'\xd9\xa5'),
    ('with a no-break space', b'\xa05'), ('with a control byte', b'5\x01'), ('with a NUL', b'5\0'), ('with a vertical tab', b'\x0b5'),
    ('with a bare CR', b'5\r0'), ('of 20 digits', b'00000000000000000005'), ('of 2^63', b'9223372036854775808'),
    ('of 2^64', b'18446744073709551616'), ('of 2^64+5', b'18446744073709551621'), ('of 40 digits', b'9' * 40)]]
LENGTHS += [no('9112 6.3', name, 400, P + lines + b'\r\n\r\nhello') for name, lines in [
    ('two equal lengths', b'Content-Length: 5\r\nContent-Length: 5'), ('two lengths', b'Content-Length: 5\r\nContent-Length: 0'),
    ('two lengths in other cases', b'Content-Length: 5\r\ncONTENT-lENGTH: 5'),
    ('two lengths, one empty', b'Content-Length: 5\r\nContent-Length:'), ('two lengths far apart', b'Content-Length: 0\r\nX: y\r\nContent-Length: 5'),
    ('three lengths', b'Content-Length: 5\r\nContent-Length: 5\r\nContent-Length: 5')]]
LENGTHS += [
    no('9112 6.3', 'length of 2^63-1 is only too much', 413, length(b'9223372036854775807', b'')),
    no('9112 6.3', 'length over max_body', 413, length(b'67108865', b'')),
    no('9112 6.3', 'two lengths in 1.0', 400, b'POST / HTTP/1.0\r\n' + H + b'Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello'),
    no('9112 6.3', 'two lengths with GET', 400, G + b'Content-Length: 0\r\nContent-Length: 0\r\n\r\n'),
    yes('9112 6.3', 'length', length(b'5'), post(body=b'hello')),
    yes('9112 6.3', 'length of 0', length(b'0', b''), post(length=0)),
    yes('9112 6.3', 'length of 00', length(b'00', b''), post(length=0)),
    yes('9112 6.3', 'length with zeros first', length(b'0000000000000000005'), post(body=b'hello')),
    yes('9112 6.3', 'length that octal would shorten', length(b'010', b'0123456789'), post(body=b'0123456789')),
    yes('9112 6.3', 'length between blanks and tabs', length(b' \t5\t '), post(body=b'hello')),
    yes('9112 6.3', 'length without a blank', P + b'content-length:5\r\n\r\nhello', post(body=b'hello')),
    yes('9112 6.3', 'no length with POST', P + E, post()),
    yes('9112 6.3', 'length with GET', G + b'Content-Length: 5\r\n\r\nhello', get(body=b'hello')),
    yes('9112 6.3', 'length with HEAD', b'HEAD / HTTP/1.1\r\n' + H + b'Content-Length: 5\r\n\r\nhello', seen('HEAD /', body=b'hello')),
    yes('9112 6.3', 'length in 1.0', b'POST / HTTP/1.0\r\n' + H + b'Content-Length: 5\r\n\r\nhello', post(body=b'hello', via='1.0 ldcorn'), end=True),
    yes('9112 6.3', 'body of bytes that look like an end', length(b'8', b'\r\n\r\n0\r\n\r'), post(body=b'\r\n\r\n0\r\n\r')),
]

CODINGS = [no('9112 6.1', 'coding ' + name, 501, coding(b'Transfer-Encoding: ' + value)) for name, value in [
    ('gzip', b'gzip'), ('identity', b'identity'), ('xchunked', b'xchunked'), ('chunkedx', b'chunkedx'), ('chunk', b'chunk'),
    ('chunke', b'chunke'), ('deflate', b'deflate'), ('in single quotes', b"'chunked'"), ('with an underscore', b'chunked_'),
    ('1', b'1'), ('compress in upper case', b'COMPRESS')]]
CODINGS += [no('TE.TE', 'coding ' + name, 400, coding(b'Transfer-Encoding: ' + value)) for name, value in [
    ('list with gzip first', b'gzip, chunked'), ('list with gzip last', b'chunked, gzip'), ('list of identity and chunked', b'identity, chunked'),
    ('twice in a list', b'chunked, chunked'), ('with a comma last', b'chunked,'), ('with a comma first', b',chunked'),
    ('of a comma', b','), ('with a parameter', b'chunked;q=1'), ('with a semicolon', b'chunked;'), ('empty', b''), ('of blanks', b' \t '),
    ('in quotes', b'"chunked"'), ('of two words', b'chunked chunked'), ('behind a vertical tab', b'\x0bchunked'),
    ('before a vertical tab', b'chunked\x0b'), ('before a NUL', b'chunked\0'), ('with a bare CR', b'\rchunked'), ('behind a form feed', b'\x0cchunked'),
    ('behind a no-break space', b'\xa0chunked'), ('before a high byte', b'chunked\xff'), ('with a Kelvin sign', b'chun\xe2\x84\xaaed'),
    ('in brackets', b'[chunked]'), ('with a slash', b'chunked/1'), ('with an equals sign', b'=chunked')]]
CODINGS += [no('TE.TE', name, 400, coding(lines)) for name, lines in [
    ('two codings', b'Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked'),
    ('two codings, the second unknown', b'Transfer-Encoding: chunked\r\nTransfer-Encoding: x'),
    ('two codings, the first unknown', b'Transfer-Encoding: x\r\nTransfer-Encoding: chunked'),
    ('two codings, one empty', b'Transfer-Encoding: chunked\r\nTransfer-Encoding:'),
    ('two codings, one in another case', b'Transfer-Encoding: identity\r\ntransfer-encoding: chunked'),
    ('blank before its colon', b'Transfer-Encoding : chunked'), ('tab before its colon', b'Transfer-Encoding\t: chunked'),
    ('LF before its colon', b'Transfer-Encoding\n: chunked'), ('NUL in its name', b'Transfer-Encoding\0: chunked'),
    ('blank before its name', b' Transfer-Encoding: chunked'), ('behind a folded line', b'X: y\r\n Transfer-Encoding: chunked'),
    ('high byte in its name', b'Transfer\xadEncoding: chunked'), ('equals sign for its colon', b'Transfer-Encoding=chunked')]]
CODINGS += [
    no('CL.TE', 'length first', 400, P + b'Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG'),
    no('CL.TE', 'length that covers a request', 400, P + b'Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n' % len(OVERLAP) + OVERLAP),
    no('CL.TE', 'coding in any case', 400, P + b'Content-Length: 5\r\nTRANSFER-ENCODING: Chunked\r\n\r\n0\r\n\r\n'),
    no('CL.TE', 'with GET', 400, G + b'Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'),
    no('TE.CL', 'coding first', 400, P + b'Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\nGPOST / HTTP/1.1\r\n\r\n0\r\n\r\n'),
    no('TE.CL', 'length of 0', 400, P + b'Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n'),
    no('TE.CL', 'unknown coding', 400, P + b'Transfer-Encoding: x\r\nContent-Length: 5\r\n\r\nhello'),
    no('TE.CL', 'identity', 400, P + b'Transfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello'),
    no('TE.CL', 'bad length', 400, P + b'Transfer-Encoding: chunked\r\nContent-Length: x\r\n\r\n0\r\n\r\n'),
    no('TE.CL', 'equal lengths', 400, P + b'Transfer-Encoding: chunked\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n0\r\n\r\n'),
    no('CL.TE', 'coding named in Connection', 400, P + b'Connection: transfer-encoding\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'),
    no('9112 6.1', 'coding in 1.0', 400, b'POST / HTTP/1.0\r\n' + H + b'Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n'),
    no('9112 6.1', 'coding in 1.0 with keep-alive', 400, b'POST / HTTP/1.0\r\n' + H + b'Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'),
    no('9112 6.1', 'unknown coding in 1.0', 400, b'POST / HTTP/1.0\r\n' + H + b'Transfer-Encoding: gzip\r\n\r\n'),
    no('9112 6.1', 'coding and length in 1.0', 400, b'POST / HTTP/1.0\r\n' + H + b'Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'),
    yes('9112 6.1', 'coding in upper case', coding(b'TRANSFER-ENCODING: CHUNKED'), HELLO),
    yes('9112 6.1', 'coding between blanks and tabs', coding(b'Transfer-Encoding:\t chunked \t'), HELLO),
    yes('9112 6.1', 'coding without a blank', coding(b'Transfer-Encoding:chunked'), HELLO),
    yes('9112 6.1', 'coding with GET', G + b'Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n', get(body=b'hello', chunked=True)),
    yes('9112 6.1', 'coding in 1.9', b'POST / HTTP/1.9\r\n' + H + b'Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n', post(chunked=True)),
    yes('CL.TE', 'coding under another name', P + b'Content-Length: 5\r\nX-Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
        post('X-Transfer-Encoding: chunked', body=b'0\r\n\r\n')),
    yes('CL.0', 'request in a body of POST', P + b'Content-Length: %d\r\n\r\n' % len(SMUGGLED) + SMUGGLED, post(body=SMUGGLED)),
    yes('CL.0', 'request in a body of GET', G + b'Content-Length: %d\r\n\r\n' % len(SMUGGLED) + SMUGGLED, get(body=SMUGGLED)),
    yes('CL.0', 'request in a body of OPTIONS', b'OPTIONS / HTTP/1.1\r\n' + H + b'Content-Length: %d\r\n\r\n' % len(SMUGGLED) + SMUGGLED,
        seen('OPTIONS /', body=SMUGGLED)),
    yes('CL.0', 'request in a body of HEAD', b'HEAD / HTTP/1.1\r\n' + H + b'Content-Length: %d\r\n\r\n' % len(SMUGGLED) + SMUGGLED,
        seen('HEAD /', body=SMUGGLED)),
    yes('CL.0', 'request in a chunk', C + b'%x\r\n' % len(SMUGGLED) + SMUGGLED + b'\r\n0\r\n\r\n', post(body=SMUGGLED, chunked=True)),
    no('0.CL', 'blank before the colon of the length', 400, G + b'Content-Length : %d\r\n\r\n' % len(SMUGGLED) + SMUGGLED),
    no('0.CL', 'NUL in the name of the length', 400, G + b'Content-Length\0: %d\r\n\r\n' % len(SMUGGLED) + SMUGGLED),
    no('0.CL', 'length behind a fold', 400, G + b'Content-Length:\r\n %d\r\n\r\n' % len(SMUGGLED) + SMUGGLED),
    no('0.CL', 'blank before the name of the length', 400, G + b' Content-Length: %d\r\n\r\n' % len(SMUGGLED) + SMUGGLED),
    no('0.CL', 'form feed before the length', 400, G + b'Content-Length: \x0c%d\r\n\r\n' % len(SMUGGLED) + SMUGGLED),
    no('0.CL', 'length and Expect', 417, G + b'Content-Length: 5\r\nExpect: y 100-continue\r\n\r\nhello'),
    yes('0.CL', 'Content-Length named in Connection', P + b'Connection: content-length\r\nContent-Length: 5\r\n\r\nhello', post(body=b'hello')),
    yes('0.CL', 'length under another name', G + b'X-Content-Length: 5\r\n\r\n', get('X-Content-Length: 5')),
]

# Their head is fine, so that a group that streams may have sent it; a group that collects sends nothing.
BAD_CHUNKS = [no('9112 7.1', 'chunk size ' + name, 400, C + value + b'\r\nhello\r\n0\r\n\r\n') for name, value in [
    ('with a plus', b'+5'), ('with a minus', b'-5'), ('with 0x', b'0x5'), ('with 0X', b'0X5'), ('with h', b'5h'), ('with an underscore', b'0_5'),
    ('behind a blank', b' 5'), ('behind a tab', b'\t5'), ('before a blank', b'5 '), ('before a tab', b'5\t'), ('with a blank inside', b'0 5'),
    ('empty', b''), ('in no hex', b'g'), ('with a point', b'5.0'), ('with a comma', b'5,'), ('in quotes', b'"5"'), ('with a colon', b'5:'),
    ('of 17 digits', b'0' * 16 + b'5'), ('of 17 digits that wrap', b'1' + b'0' * 15 + b'5'), ('of 2^63', b'8' + b'0' * 15),
    ('of 2^64-1', b'f' * 16), ('with a NUL', b'5\0'), ('with a vertical tab', b'5\x0b'), ('with a high byte', b'5\xff'), ('in high digits', b'\xd9\xa5'),
    ('behind an empty line', b'\r\n5')]]
BAD_CHUNKS += [no('chunk extensions', name, 400, C + value + b'hello\r\n0\r\n\r\n') for name, value in [
    ('blank and no semicolon', b'5 a=b\r\n'), ('no size', b';a=b\r\n'), ('control byte', b'5;a=\x01\r\n'), ('NUL', b'5;\0\r\n'),
    ('NUL in quotes', b'5;a="\0"\r\n'), ('DEL in quotes', b'5;a="\x7f"\r\n'), ('bare LF', b'5;a=b\n'), ('bare LF behind the semicolon', b'5;\n'),
    ('bare CR', b'5;a\rb\r\n'), ('CR CR LF', b'5;a\r\r\n'), ('open quote', b'5;a="b\r\n'), ('bare LF in quotes', b'5;a="\n"\r\n'),
    ('CRLF in quotes', b'5;a="\r\n"\r\n'), ('bare LF behind a backslash', b'5;a="\\\n"\r\n'), ('high byte in a token', b'5;\xc3=b\r\n'),
    ('slash in a token', b'5;a/b\r\n'), ('at sign in a token', b'5;a@b\r\n'), ('over 256 bytes', b'5;' + b'a' * 256 + b'\r\n'),
    ('16 kB in one', b'5;' + b'a' * 16500 + b'\r\n')]]
BAD_CHUNKS += [no('chunk extensions', 'over 16 kB in all', 400, C + (b'1;' + b'a' * 250 + b'\r\nx\r\n') * 70 + b'0\r\n\r\n'),
               no('chunk extensions', 'bare LF in the last one', 400, C + b'0;a\n\r\n')]
BAD_CHUNKS += [no('chunk terminators', name, 400, C + value) for name, value in [
    ('bare LF behind the size', b'5\nhello\r\n0\r\n\r\n'), ('bare CR behind the size', b'5\rhello\r\n0\r\n\r\n'),
    ('CR CR LF behind the size', b'5\r\r\nhello\r\n0\r\n\r\n'), ('LF CR behind the size', b'5\n\rhello\r\n0\r\n\r\n'),
    ('bare LF behind the data', b'5\r\nhello\n0\r\n\r\n'), ('bare CR behind the data', b'5\r\nhello\r0\r\n\r\n'),
    ('LF CR behind the data', b'5\r\nhello\n\r0\r\n\r\n'), ('none behind the data', b'5\r\nhello0\r\n\r\n'),
    ('two bytes that are none', b'5\r\nhelloxx0\r\n\r\n'), ('empty line behind the data', b'5\r\nhello\r\n\r\n0\r\n\r\n'),
    ('blank behind the data', b'5\r\nhello \r\n0\r\n\r\n'), ('data longer than its size', b'4\r\nhello\r\n0\r\n\r\n'),
    ('bare LF behind the last size', b'0\n\r\n'), ('bare LF as the end', b'0\r\n\n'), ('bare LFs as the end', b'0\n\n'),
    ('bare CR as the end', b'0\r\n\rx'), ('blank before the end', b'0\r\n \r\n'), ('data shorter than its size', b'8\r\nhello\r\n0\r\n\r\nGET')]]
BAD_CHUNKS += [no('9112 7.1.2', 'trailer ' + name, 400, C + b'0\r\n' + value + E) for name, value in [
    ('without a colon', b'foo\r\n'), ('with a blank before its colon', b'X : y\r\n'), ('with an empty name', b': y\r\n'),
    ('folded', b'X: y\r\n z\r\n'), ('with a NUL', b'X: \0\r\n'), ('with a bare LF', b'X: y\n'), ('with a bare CR', b'X: y\rZ: 1\r\n'),
    ('with a high byte in its name', b'\xc3: y\r\n'), ('that is a request', b'GET /smuggled HTTP/1.1\r\nHost: a\r\n')]]
BAD_CHUNKS += [no('9112 7.1.2', 'trailers over 8 kB', 400, C + b'0\r\n' + (b'X: ' + b'y' * 500 + E) * 20 + E)]

CHUNKS = [yes('9112 7.1', name, C + value, post(body=body, chunked=True)) for name, value, body in [
    ('one chunk', b'5\r\nhello\r\n0\r\n\r\n', b'hello'), ('two chunks', b'5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n', b'hello world'),
    ('no chunk', b'0\r\n\r\n', b''), ('size in upper case', b'A\r\nhellohello\r\n0\r\n\r\n', b'hellohello'),
    ('size with zeros first', b'000000000000000a\r\nhellohello\r\n0\r\n\r\n', b'hellohello'),
    ('last size of 16 zeros', b'5\r\nhello\r\n' + b'0' * 16 + b'\r\n\r\n', b'hello'),
    ('CRLF as data', b'2\r\n\r\n\r\n0\r\n\r\n', b'\r\n'), ('last chunk as data', b'5\r\n0\r\n\r\n\r\n0\r\n\r\n', b'0\r\n\r\n')]]
CHUNKS += [yes('chunk extensions', name, C + value + b'hello\r\n0\r\n\r\n', HELLO) for name, value in [
    ('one', b'5;a=b\r\n'), ('without a value', b'5;a\r\n'), ('several', b'5;a;b=c;d="e f"\r\n'), ('escaped quote', b'5;a="\\""\r\n'),
    ('last chunk in quotes', b'5;a="0;"\r\n'), ('blanks around the equals sign', b'5;a = b\r\n'), ('blank before the semicolon', b'5 ;a=b\r\n'),
    ('blanks wherever the grammar has them', b'5\t ; a = b ;c\r\n'), ('of 256 bytes', b'5;' + b'a' * 255 + b'\r\n'),
    ('high byte in quotes', b'5;a="\xff"\r\n')]]
CHUNKS += [yes('9112 7.1.2', name, C + b'5\r\nhello\r\n0\r\n' + value + E, HELLO) for name, value in [
    ('trailer', b'X-Late: 1\r\n'), ('trailer with a length', b'Content-Length: 7\r\n'), ('trailer with a Host', b'Host: b\r\n'),
    ('trailer with a coding', b'Transfer-Encoding: chunked\r\n'), ('trailer with an address', b'X-Forwarded-For: 1.2.3.4\r\nForwarded: for=b\r\n'),
    ('trailer that closes', b'Connection: close\r\n'), ('trailer with an underscore', b'X_Y: 1\r\n'), ('trailer with an empty value', b'X:\r\n'),
    ('many trailers', b'X: y\r\n' * 200)]]
CHUNKS += [yes('chunk extensions', 'in the last chunk', C + b'5\r\nhello\r\n0;a=b\r\n\r\n', HELLO)]

HOPS = [
    no('9110 10.1.1', 'expectation unknown', 417, P + b'Expect: 200-ok\r\nContent-Length: 0\r\n\r\n'),
    no('9110 10.1.1', 'expectation list', 417, P + b'Expect: 100-continue, x\r\nContent-Length: 0\r\n\r\n'),
    no('9110 10.1.1', 'expectation twice', 417, P + b'Expect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n'),
    no('9110 10.1.1', 'expectation empty', 417, P + b'Expect:\r\nContent-Length: 0\r\n\r\n'),
    no('9110 10.1.1', 'expectation with a parameter', 417, P + b'Expect: 100-continue;a\r\nContent-Length: 0\r\n\r\n'),
    yes('9110 10.1.1', 'expectation', P + b'Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello', post('Expect: 100-continue', body=b'hello')),
    yes('9110 10.1.1', 'expectation in upper case', P + b'EXPECT: 100-CONTINUE\r\nContent-Length: 5\r\n\r\nhello',
        post('EXPECT: 100-CONTINUE', body=b'hello')),
    yes('9110 10.1.1', 'expectation in 1.0', b'POST / HTTP/1.0\r\n' + H + b'Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello',
        post(body=b'hello', via='1.0 ldcorn'), end=True),
    yes('9110 10.1.1', 'expectation unknown in 1.0', b'POST / HTTP/1.0\r\n' + H + b'Expect: x\r\nContent-Length: 5\r\n\r\nhello',
        post(body=b'hello', via='1.0 ldcorn'), end=True),
    yes('9110 7.6.2', 'Max-Forwards on OPTIONS', b'OPTIONS / HTTP/1.1\r\n' + H + b'Max-Forwards: 5\r\n\r\n', seen('OPTIONS /', 'Max-Forwards: 4')),
    yes('9110 7.6.2', 'Max-Forwards 1 on OPTIONS *', b'OPTIONS * HTTP/1.1\r\n' + H + b'Max-Forwards: 1\r\n\r\n', seen('OPTIONS *', 'Max-Forwards: 0')),
    yes('9110 7.6.2', 'Max-Forwards 0 on GET', G + b'Max-Forwards: 0\r\n\r\n', get('Max-Forwards: 0')),
    yes('9110 7.6.3', 'Via', G + b'Via: 1.1 front\r\n\r\n', get(via='1.1 front, 1.1 ldcorn')),
    yes('9110 7.6.3', 'Via on two lines', G + b'Via: 1.0 far\r\nX: y\r\nVia: 1.1 front\r\n\r\n', get('X: y', via='1.0 far, 1.1 front, 1.1 ldcorn')),
    yes('9110 7.6.3', 'Via named in Connection', G + b'Connection: via\r\nVia: 1.1 front\r\n\r\n', get(via='1.1 front, 1.1 ldcorn')),
    no('9110 7.6.1', 'Connection of two words', 400, G + b'Connection: a b\r\n\r\n'),
    no('9110 7.6.1', 'Connection in quotes', 400, G + b'Connection: "close"\r\n\r\n'),
    no('9110 7.6.1', 'Connection with a parameter', 400, G + b'Connection: close;a\r\n\r\n'),
    no('9110 7.6.1', 'Connection with a high byte', 400, G + b'Connection: close\xff\r\n\r\n'),
    yes('9110 7.6.1', 'Connection: close', G + b'Connection: close\r\n\r\n', get(), end=True),
    yes('9110 7.6.1', 'Connection: CLOSE in a list', G + b'Connection: x, CLOSE ,,y\r\n\r\n', get(), end=True),
    yes('9110 7.6.1', 'Connection: keep-alive', G + b'Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n\r\n', get()),
    yes('9110 7.6.1', 'Connection of commas', G + b'Connection: , ,\r\n\r\n', get()),
    yes('9110 7.6.1', 'fields named', G + b'X-A: 1\r\nConnection: x-a, X-B\r\nX-B: 2\r\nX-C: 3\r\nX-A: 4\r\n\r\n', get('X-C: 3')),
    yes('9110 7.6.1', 'fields named on two lines', G + b'Connection: x-a\r\nX-A: 1\r\nX-B: 2\r\nConnection: x-b\r\n\r\n', get()),
    yes('9110 7.6.1', 'Host named', G + b'Connection: host\r\n\r\n', get()),
    yes('9110 7.6.1', 'coding named', P + b'Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n', HELLO),
    yes('9110 7.6.1', 'our own fields named', G + b'Connection: x-forwarded-for, x-forwarded-proto, x-forwarded-host, x-real-ip, x-request-id, '
        b'x-request-start\r\n\r\n', get()),
    yes('9110 7.6.1', 'Expect named', P + b'Connection: expect\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello',
        post('Expect: 100-continue', body=b'hello')),
    yes('9110 7.6.1', 'Max-Forwards named on OPTIONS', b'OPTIONS / HTTP/1.1\r\n' + H + b'Connection: max-forwards\r\nMax-Forwards: 5\r\n\r\n',
        seen('OPTIONS /', 'Max-Forwards: 4')),
    yes('9110 7.6.1', 'hop-by-hop fields', G + b'Keep-Alive: x\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: x\r\nTE: trailers\r\n'
        b'Trailer: X\r\nX: y\r\n\r\n', get('X: y')),
    yes('httpoxy', 'Proxy', G + b'Proxy: http://evil/\r\n\r\n', get()),
    yes('httpoxy', 'PROXY in capitals', G + b'PROXY: http://evil/\r\nX: y\r\n\r\n', get('X: y')),
    yes('forged trust fields', 'X-Forwarded-For', G + b'X-Forwarded-For: 1.2.3.4\r\n\r\n', get()),
    yes('forged trust fields', 'X-Forwarded-For on two lines', G + b'X-Forwarded-For: 1.2.3.4\r\nx-forwarded-for: 5.6.7.8\r\n\r\n', get()),
    yes('forged trust fields', 'Forwarded', G + b'Forwarded: for=1.2.3.4;host=b\r\n\r\n', get()),
    yes('forged trust fields', 'X-Forwarded-Proto', G + b'X-Forwarded-Proto: https\r\n\r\n', get()),
    yes('forged trust fields', 'X-Forwarded-Host', G + b'X-Forwarded-Host: b\r\n\r\n', get()),
    yes('forged trust fields', 'X-Forwarded-anything', G + b'X-Forwarded-Prefix: /x\r\nx-forwarded-user: root\r\nX-FORWARDED-SSL: on\r\n\r\n', get()),
    yes('forged trust fields', 'X-Real-IP', G + b'X-Real-Ip: 1.2.3.4\r\n\r\n', get()),
    yes('forged trust fields', 'X-Request-Id', G + b'X-Request-Id: forged\r\n\r\n', get()),
    yes('forged trust fields', 'X-Request-Start', G + b'X-Request-Start: t=1\r\n\r\n', get()),
    yes('forged trust fields', 'X-Original-URL and X-Rewrite-URL', G + b'X-Original-URL: /admin\r\nX-Rewrite-URL: /admin\r\n\r\n', get()),
    yes('forged trust fields', 'none named in Connection comes back', G + b'X-Forwarded-For: 1.2.3.4\r\nConnection: x-forwarded-for\r\n\r\n', get()),
]

UPGRADES = [
    yes('9110 7.8', 'upgrade that is not taken', G + b'Connection: upgrade\r\nUpgrade: websocket\r\n\r\n', get(upgrade='websocket'), end=True),
    yes('9110 7.8', 'upgrade in a list of options', G + b'Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\n', get(upgrade='WebSocket'), end=True),
    yes('9110 7.8', 'upgrade with length 0', G + b'Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n',
        get(length=0, upgrade='websocket'), end=True),
    yes('9110 7.8', 'upgrade not named', G + b'Upgrade: websocket\r\n\r\n', get()),
    yes('9110 7.8', 'upgrade named, not there', G + b'Connection: upgrade\r\n\r\n', get()),
    yes('9110 7.8', 'upgrade empty', G + b'Connection: upgrade\r\nUpgrade:\r\n\r\n', get()),
    yes('9110 7.8', 'upgrade twice', G + b'Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: x\r\n\r\n', get()),
    yes('9110 7.8', 'upgrade list', G + b'Connection: upgrade\r\nUpgrade: websocket, x\r\n\r\n', get()),
    yes('9110 7.8', 'upgrade with POST', P + b'Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n', post(length=0)),
    yes('9110 7.8', 'upgrade with HEAD', b'HEAD / HTTP/1.1\r\n' + H + b'Connection: upgrade\r\nUpgrade: websocket\r\n\r\n', seen('HEAD /')),
    yes('9110 7.8', 'upgrade with a body', G + b'Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\nhello', get(body=b'hello')),
    yes('9110 7.8', 'upgrade with a chunked body', G + b'Connection: upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
        get(chunked=True)),
    yes('9110 7.8', 'upgrade in 1.0', b'GET / HTTP/1.0\r\n' + H + b'Connection: upgrade\r\nUpgrade: websocket\r\n\r\n', get(via='1.0 ldcorn'), end=True),
    yes('websocket smuggling', 'request behind an upgrade that is not taken', G + b'Connection: upgrade\r\nUpgrade: websocket\r\n\r\n' + SMUGGLED,
        get(upgrade='websocket'), end=True),
    yes('websocket smuggling', 'wrong Sec-WebSocket-Version', G + b'Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 777\r\n\r\n' + SMUGGLED,
        get('Sec-WebSocket-Version: 777', upgrade='websocket'), end=True),
    yes('h2c upgrade', 'as clients send it', G + b'Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n', get()),
    yes('h2c upgrade', 'settings not named', G + b'Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n', get()),
    yes('h2c upgrade', 'in upper case', G + b'Connection: UPGRADE\r\nUpgrade: H2C\r\n\r\n', get()),
    yes('h2c upgrade', 'second in a list', G + b'Connection: upgrade\r\nUpgrade: websocket, h2c\r\n\r\n', get()),
    yes('h2c upgrade', 'on a second line', G + b'Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n\r\n', get()),
    yes('h2c upgrade', 'settings with websocket', G + b'Connection: upgrade, http2-settings\r\nUpgrade: websocket\r\nHTTP2-Settings: AAMAAABk\r\n\r\n',
        get(upgrade='websocket'), end=True),
]

PIPELINES = [
    yes('pipelined leftovers', 'three requests', G + E + P + b'Content-Length: 5\r\n\r\nhello' + b'GET /c HTTP/1.1\r\n' + H + E,
        get(), post(body=b'hello'), seen('GET /c')),
    yes('pipelined leftovers', 'behind chunks', C + b'5\r\nhello\r\n0\r\n\r\n' + G + E, HELLO, get()),
    yes('pipelined leftovers', 'behind trailers', C + b'5\r\nhello\r\n0\r\nX: y\r\n\r\n' + G + E, HELLO, get()),
    yes('pipelined leftovers', 'empty lines between', P + b'Content-Length: 1\r\n\r\nx' + E * 2 + G + E, post(body=b'x'), get()),
    yes('pipelined leftovers', 'behind HEAD', b'HEAD / HTTP/1.1\r\n' + H + E + G + E, seen('HEAD /'), get()),
    yes('pipelined leftovers', 'body of POST that has no length', P + E + b'GET /b HTTP/1.1\r\n' + H + E, post(), seen('GET /b')),
    yes('pipelined leftovers', 'nothing behind close', G + b'Connection: close\r\n\r\n' + SMUGGLED, get(), end=True),
    yes('pipelined leftovers', 'nothing behind 1.0', b'GET / HTTP/1.0\r\n' + H + E + SMUGGLED, get(via='1.0 ldcorn'), end=True),
    yes('pipelined leftovers', 'two in 1.0 with keep-alive', (b'GET / HTTP/1.0\r\n' + H + b'Connection: keep-alive\r\n\r\n') * 2,
        get(via='1.0 ldcorn'), get(via='1.0 ldcorn')),
    yes('pipelined leftovers', 'close beats keep-alive', G + b'Connection: keep-alive, close\r\n\r\n' + SMUGGLED, get(), end=True),
    yes('pipelined leftovers', 'close beats keep-alive in 1.0', b'GET / HTTP/1.0\r\n' + H + b'Connection: close, keep-alive\r\n\r\n' + SMUGGLED,
        get(via='1.0 ldcorn'), end=True),
]

REQUESTS = LINES + TARGETS + HOSTS + FIELDS + LENGTHS + CODINGS + BAD_CHUNKS + CHUNKS + HOPS + UPGRADES + PIPELINES
