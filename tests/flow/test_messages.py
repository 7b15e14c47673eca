"""What is refused, what is passed on and how, and what counts as the end: at both ends, row by row.

Each refused message is followed by another, innocent one on the same connection, which nobody may
ever see: that is what request smuggling would look like. All tables are also run byte by byte.
"""
import email.utils, os, re, resource, signal, time

import pytest
from harness import AutoWorker, FakeWorker, Proxy, answer, head, upstream_config, wait_for

OK = answer(b'ok')
SMUGGLED = b'GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n'
H = b'Host: a\r\n'
G = b'GET / HTTP/1.1\r\n' + H
P = b'POST / HTTP/1.1\r\n' + H
C = P + b'Transfer-Encoding: chunked\r\n\r\n'
END = b'\r\n'


def ids(table):
    return [re.sub(r'[^ -~]', '?', row[0]) for row in table]


# --- requests ---

REFUSED = [
    # line ends
    ('bare LF after the request line', 400, b'GET / HTTP/1.1\n' + H + END),
    ('bare LF after a field', 400, b'GET / HTTP/1.1\r\nHost: a\n\r\n'),
    ('bare LF as the empty line', 400, G + b'\n'),
    ('bare LF everywhere', 400, b'GET / HTTP/1.1\nHost: a\n\n'),
    ('bare CR in a value', 400, G + b'X: a\rb\r\n\r\n'),
    ('bare CR before CRLF', 400, G + b'X: a\r\r\n\r\n'),
    ('bare CR in the request line', 400, b'GET /\rx HTTP/1.1\r\n' + H + END),
    ('three empty lines first', 400, b'\r\n\r\n\r\n' + G + END),
    ('LF first', 400, b'\n' + G + END),
    # the request line
    ('leading blank', 400, b' GET / HTTP/1.1\r\n' + H + END),
    ('leading tab', 400, b'\tGET / HTTP/1.1\r\n' + H + END),
    ('two blanks after the method', 400, b'GET  / HTTP/1.1\r\n' + H + END),
    ('two blanks after the target', 400, b'GET /  HTTP/1.1\r\n' + H + END),
    ('trailing blank', 400, b'GET / HTTP/1.1 \r\n' + H + END),
    ('tabs', 400, b'GET\t/\tHTTP/1.1\r\n' + H + END),
    ('method is no token', 400, b'G(T / HTTP/1.1\r\n' + H + END),
    ('no method', 400, b' / HTTP/1.1\r\n' + H + END),
    ('no target', 400, b'GET HTTP/1.1\r\n' + H + END),
    ('empty target', 400, b'GET  HTTP/1.1\r\n' + H + END),
    ('no version', 400, b'GET /\r\n' + H + END),
    ('blank in the target', 400, b'GET /a b HTTP/1.1\r\n' + H + END),
    ('DEL in the target', 400, b'GET /\x7f HTTP/1.1\r\n' + H + END),
    ('NUL in the target', 400, b'GET /\0 HTTP/1.1\r\n' + H + END),
    ('byte over 0x7f in the target', 400, b'GET /\xc3\xa4 HTTP/1.1\r\n' + H + END),
    ('HTTP/1', 400, b'GET / HTTP/1\r\n' + H + END),
    ('HTTP/1.', 400, b'GET / HTTP/1.\r\n' + H + END),
    ('HTTP/1.10', 400, b'GET / HTTP/1.10\r\n' + H + END),
    ('HTTP/01.1', 400, b'GET / HTTP/01.1\r\n' + H + END),
    ('http/1.1', 400, b'GET / http/1.1\r\n' + H + END),
    ('HTTPS/1.1', 400, b'GET / HTTPS/1.1\r\n' + H + END),
    ('HTTP/1.x', 400, b'GET / HTTP/1.x\r\n' + H + END),
    ('HTTP/2.0', 505, b'GET / HTTP/2.0\r\n' + H + END),
    ('HTTP/0.9', 505, b'GET / HTTP/0.9\r\n' + H + END),
    ('HTTP/9.9', 505, b'GET / HTTP/9.9\r\n' + H + END),
    ('TLS hello', 400, b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03' + bytes(64) + b'\r\n\r\n'),
    # targets
    ('fragment', 400, b'GET /a#b HTTP/1.1\r\n' + H + END),
    ('above the root', 400, b'GET /.. HTTP/1.1\r\n' + H + END),
    ('above the root, encoded', 400, b'GET /a/%2e%2e/%2e%2e/b HTTP/1.1\r\n' + H + END),
    ('bad percent', 400, b'GET /%zz HTTP/1.1\r\n' + H + END),
    ('cut percent', 400, b'GET /%4 HTTP/1.1\r\n' + H + END),
    ('encoded NUL', 400, b'GET /%00 HTTP/1.1\r\n' + H + END),
    ('no slash', 400, b'GET a HTTP/1.1\r\n' + H + END),
    ('star with GET', 400, b'GET * HTTP/1.1\r\n' + H + END),
    ('authority form with GET', 400, b'GET a:80 HTTP/1.1\r\n' + H + END),
    ('absolute form with userinfo', 400, b'GET http://u@a/ HTTP/1.1\r\n' + H + END),
    ('absolute form with userinfo and password', 400, b'GET http://u:p@a/ HTTP/1.1\r\n' + H + END),
    ('absolute form of another scheme', 400, b'GET ftp://a/ HTTP/1.1\r\n' + H + END),
    ('absolute form without a host', 400, b'GET http:///x HTTP/1.1\r\n' + H + END),
    ('absolute form with nothing', 400, b'GET http:// HTTP/1.1\r\n' + H + END),
    ('absolute form with a bad port', 400, b'GET http://a:8x/ HTTP/1.1\r\n' + H + END),
    ('absolute form with one slash', 400, b'GET http:/a/ HTTP/1.1\r\n' + H + END),
    ('CONNECT', 405, b'CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n'),
    ('TRACE', 405, b'TRACE / HTTP/1.1\r\n' + H + END),
    # fields
    ('blank before the colon', 400, G + b'X : 1\r\n\r\n'),
    ('tab before the colon', 400, G + b'X\t: 1\r\n\r\n'),
    ('blank in a name', 400, G + b'X Y: 1\r\n\r\n'),
    ('empty name', 400, G + b': 1\r\n\r\n'),
    ('no colon', 400, G + b'foo\r\n\r\n'),
    ('NUL in a name', 400, G + b'X\0: 1\r\n\r\n'),
    ('bracket in a name', 400, G + b'X(: 1\r\n\r\n'),
    ('high byte in a name', 400, G + b'\xc3\xa4: 1\r\n\r\n'),
    ('NUL in a value', 400, G + b'X: a\0b\r\n\r\n'),
    ('control byte in a value', 400, G + b'X: a\x01b\r\n\r\n'),
    ('ESC in a value', 400, G + b'X: \x1b[31m\r\n\r\n'),
    ('DEL in a value', 400, G + b'X: a\x7f\r\n\r\n'),
    ('folded line', 400, G + b'X: a\r\n b\r\n\r\n'),
    ('folded with a tab', 400, G + b'X: a\r\n\tb\r\n\r\n'),
    ('folded length', 400, P + b'Content-Length:\r\n 5\r\n\r\nhello'),
    ('first field line with a leading blank', 400, b'GET / HTTP/1.1\r\n Host: a\r\n\r\n'),
    # Host
    ('no Host', 400, b'GET / HTTP/1.1\r\nX: 1\r\n\r\n'),
    ('two Hosts', 400, G + b'Host: b\r\n\r\n'),
    ('two equal Hosts', 400, G + H + END),
    ('Host with a blank', 400, b'GET / HTTP/1.1\r\nHost: a b\r\n\r\n'),
    ('Host with a slash', 400, b'GET / HTTP/1.1\r\nHost: a/b\r\n\r\n'),
    ('Host with userinfo', 400, b'GET / HTTP/1.1\r\nHost: u@a\r\n\r\n'),
    ('Host list', 400, b'GET / HTTP/1.1\r\nHost: a, b\r\n\r\n'),
    ('Host with a bad port', 400, b'GET / HTTP/1.1\r\nHost: a:8x\r\n\r\n'),
    ('Host with an open bracket', 400, b'GET / HTTP/1.1\r\nHost: [::1\r\n\r\n'),
    ('Host with a query', 400, b'GET / HTTP/1.1\r\nHost: a?b\r\n\r\n'),
    ('two Hosts in 1.0', 400, b'GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n'),
    # Content-Length
    ('length with a plus', 400, P + b'Content-Length: +5\r\n\r\nhello'),
    ('length with a minus', 400, P + b'Content-Length: -5\r\n\r\nhello'),
    ('length in hex', 400, P + b'Content-Length: 0x5\r\n\r\nhello'),
    ('length with an underscore', 400, P + b'Content-Length: 1_0\r\n\r\nhellohello'),
    ('length with a point', 400, P + b'Content-Length: 5.0\r\n\r\nhello'),
    ('length with a blank inside', 400, P + b'Content-Length: 5 5\r\n\r\nhello'),
    ('length list', 400, P + b'Content-Length: 5, 5\r\n\r\nhello'),
    ('empty length', 400, P + b'Content-Length: \r\n\r\nhello'),
    ('length with a semicolon', 400, P + b'Content-Length: 5;\r\n\r\nhello'),
    ('length in high digits', 400, P + b'Content-Length: \xd9\xa5\r\n\r\nhello'),
    ('length of 20 digits', 400, P + b'Content-Length: 00000000000000000005\r\n\r\nhello'),
    ('length 2^63', 400, P + b'Content-Length: 9223372036854775808\r\n\r\nhello'),
    ('length 2^64+5', 400, P + b'Content-Length: 18446744073709551621\r\n\r\nhello'),
    ('two equal lengths', 400, P + b'Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello'),
    ('two lengths', 400, P + b'Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello'),
    ('length of 2^63-1 is only too much', 413, P + b'Content-Length: 9223372036854775807\r\n\r\n'),
    # Transfer-Encoding
    ('coding gzip', 501, P + b'Transfer-Encoding: gzip\r\n\r\n'),
    ('coding identity', 501, P + b'Transfer-Encoding: identity\r\n\r\n'),
    ('coding xchunked', 501, P + b'Transfer-Encoding: xchunked\r\n\r\n'),
    ('coding gzip, chunked', 400, P + b'Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n'),
    ('coding chunked, chunked', 400, P + b'Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n'),
    ('coding with a comma', 400, P + b'Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n'),
    ('coding with a parameter', 400, P + b'Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n'),
    ('empty coding', 400, P + b'Transfer-Encoding: \r\n\r\n0\r\n\r\n'),
    ('quoted coding', 400, P + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n'),
    ('coding behind a control byte', 400, P + b'Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n'),
    ('two codings', 400, P + b'Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'),
    ('two codings, one unknown', 400, P + b'Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n'),
    ('coding and length', 400, P + b'Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n'),
    ('length and coding', 400, P + b'Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'),
    ('coding in 1.0', 400, b'POST / HTTP/1.0\r\n' + H + b'Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n'),
    # Expect
    ('expectation unknown', 417, P + b'Expect: 200-ok\r\nContent-Length: 0\r\n\r\n'),
    ('expectation list', 417, P + b'Expect: 100-continue, x\r\nContent-Length: 0\r\n\r\n'),
    # limits
    ('request line too long', 414, b'GET /' + b'x' * 40000 + b' HTTP/1.1\r\n' + H + END),
    ('fields too long', 431, G + (b'X: ' + b'y' * 1000 + b'\r\n') * 40 + END),
    ('too many fields', 431, G + b'X: y\r\n' * 100 + END),
]

# The head of these is fine, so the worker may have seen it; it must not see a complete request.
REFUSED_CHUNKS = [
    ('size with a plus', C + b'+5\r\nhello\r\n0\r\n\r\n'),
    ('size with a minus', C + b'-5\r\nhello\r\n0\r\n\r\n'),
    ('size with 0x', C + b'0x5\r\nhello\r\n0\r\n\r\n'),
    ('size with an underscore', C + b'0_5\r\nhello\r\n0\r\n\r\n'),
    ('size behind a blank', C + b' 5\r\nhello\r\n0\r\n\r\n'),
    ('size before a blank', C + b'5 \r\nhello\r\n0\r\n\r\n'),
    ('size before a tab', C + b'5\t\r\nhello\r\n0\r\n\r\n'),
    ('size before a blank and no semicolon', C + b'5 a=b\r\nhello\r\n0\r\n\r\n'),
    ('no size', C + b'\r\nhello\r\n0\r\n\r\n'),
    ('only an extension', C + b';a=b\r\nhello\r\n0\r\n\r\n'),
    ('size is no hex', C + b'g\r\nhello\r\n0\r\n\r\n'),
    ('size of 17 digits', C + b'00000000000000005\r\nhello\r\n0\r\n\r\n'),
    ('size 2^63', C + b'8000000000000000\r\nhello\r\n0\r\n\r\n'),
    ('size 2^64-1', C + b'ffffffffffffffff\r\nhello\r\n0\r\n\r\n'),
    ('bare LF after the size', C + b'5\nhello\r\n0\r\n\r\n'),
    ('bare CR after the size', C + b'5\rhello\r\n0\r\n\r\n'),
    ('bare LF after the data', C + b'5\r\nhello\n0\r\n\r\n'),
    ('bare LF after the last size', C + b'5\r\nhello\r\n0\n\r\n'),
    ('bare LF as the end', C + b'5\r\nhello\r\n0\r\n\n'),
    ('data longer than its size', C + b'4\r\nhello\r\n0\r\n\r\n'),
    ('data shorter than its size', C + b'7\r\nhello\r\n0\r\n\r\n'),
    ('control byte in an extension', C + b'5;a=\x01\r\nhello\r\n0\r\n\r\n'),
    ('NUL in an extension', C + b'5;a="\0"\r\nhello\r\n0\r\n\r\n'),
    ('bare LF in an extension', C + b'5;a=b\nhello\r\n0\r\n\r\n'),
    ('open quote in an extension', C + b'5;a="b\r\nhello\r\n0\r\n\r\n'),
    ('high byte in an extension token', C + b'5;\xc3=b\r\nhello\r\n0\r\n\r\n'),
    ('extension over 256 bytes', C + b'5;a=' + b'b' * 300 + b'\r\nhello\r\n0\r\n\r\n'),
    ('extensions over 16 kB in all', C + (b'1;a=' + b'b' * 200 + b'\r\nx\r\n') * 100 + b'0\r\n\r\n'),
    ('trailer without a colon', C + b'0\r\nfoo\r\n\r\n'),
    ('trailer with a blank name', C + b'0\r\nX : y\r\n\r\n'),
    ('trailer folded', C + b'0\r\nX: y\r\n z\r\n\r\n'),
    ('trailer with a NUL', C + b'0\r\nX: \0\r\n\r\n'),
    ('trailer with a bare LF', C + b'0\r\nX: y\n\r\n'),
    ('trailers over 8 kB', C + b'0\r\n' + (b'X: ' + b'y' * 500 + b'\r\n') * 20 + END),
]

# name, bytes, request line at the worker, body there, fields there {name: value, None: absent}
PASSED = [
    ('plain', G + END, 'GET / HTTP/1.1', b'', {'Host': 'a'}),
    ('two empty lines first', b'\r\n\r\n' + G + END, 'GET / HTTP/1.1', b'', {}),
    ('own method', b'FROB / HTTP/1.1\r\n' + H + END, 'FROB / HTTP/1.1', b'', {}),
    ('lower case method', b'purge / HTTP/1.1\r\n' + H + END, 'purge / HTTP/1.1', b'', {}),
    ('higher minor version', b'GET / HTTP/1.9\r\n' + H + END, 'GET / HTTP/1.1', b'', {}),
    ('HTTP/1.0', b'GET / HTTP/1.0\r\n' + H + END, 'GET / HTTP/1.1', b'', {'Host': 'a'}),
    ('HTTP/1.0 without Host', b'GET / HTTP/1.0\r\n\r\n', 'GET / HTTP/1.1', b'', {}),
    ('odd but valid target', b"GET /a|b^\"`{}\\<>[]@!$&'()*+,;=~:?a?b/[] HTTP/1.1\r\n" + H + END,
     "GET /a|b^\"`{}\\<>[]@!$&'()*+,;=~:?a?b/[] HTTP/1.1", b'', {}),
    ('percent in the query is the app\'s business', b'GET /?a=%zz HTTP/1.1\r\n' + H + END, 'GET /?a=%zz HTTP/1.1', b'', {}),
    ('absolute form', b'GET http://b.example:81/x?y HTTP/1.1\r\n' + H + END, 'GET /x?y HTTP/1.1', b'', {'Host': 'b.example:81'}),
    ('absolute form, upper case, https', b'GET HTTPS://b/x HTTP/1.1\r\n' + H + END, 'GET /x HTTP/1.1', b'', {'Host': 'b'}),
    ('absolute form without a path', b'GET http://b HTTP/1.1\r\n' + H + END, 'GET / HTTP/1.1', b'', {'Host': 'b'}),
    ('absolute form, query only', b'GET http://b?q HTTP/1.1\r\n' + H + END, 'GET /?q HTTP/1.1', b'', {'Host': 'b'}),
    ('absolute form in 1.0 without Host', b'GET http://b/x HTTP/1.0\r\n\r\n', 'GET /x HTTP/1.1', b'', {'Host': 'b'}),
    ('host with port', b'GET / HTTP/1.1\r\nHost: a.example:8080\r\n\r\n', 'GET / HTTP/1.1', b'', {'Host': 'a.example:8080'}),
    ('host in brackets', b'GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n', 'GET / HTTP/1.1', b'', {'Host': '[::1]:80'}),
    ('field names in any case', b'POST / HTTP/1.1\r\nhOST: a\r\ncONTENT-lENGTH: 5\r\n\r\nhello', 'POST / HTTP/1.1', b'hello',
     {'Host': 'a', 'Content-Length': '5'}),
    ('no blank and many blanks around a value', G + b'X:1\r\nY: \t 2 \t \r\nZ:\r\n\r\n', 'GET / HTTP/1.1', b'',
     {'X': '1', 'Y': '2', 'Z': ''}),
    ('bytes over 0x7f and tab in a value', G + b'X: \xff\xc3\xa4\tb\r\n\r\n', 'GET / HTTP/1.1', b'', {'X': '\xff\xc3\xa4\tb'}),
    ('all token bytes in a name', G + b"!#$%&'*+-.^`|~09: y\r\n\r\n", 'GET / HTTP/1.1', b'', {"!#$%&'*+-.^`|~09": 'y'}),
    ('names with _', G + b'X_Y: 1\r\nContent_Length: 5\r\nX-Y: 2\r\n\r\n', 'GET / HTTP/1.1', b'',
     {'X_Y': None, 'Content_Length': None, 'X-Y': '2'}),
    ('leading zeros in the length', P + b'Content-Length: 0000000000000000005\r\n\r\nhello', 'POST / HTTP/1.1', b'hello',
     {'Content-Length': '5'}),
    ('blanks around the length', P + b'Content-Length: \t5 \r\n\r\nhello', 'POST / HTTP/1.1', b'hello', {'Content-Length': '5'}),
    ('GET with a body', G + b'Content-Length: 5\r\n\r\nhello', 'GET / HTTP/1.1', b'hello', {'Content-Length': '5'}),
    ('POST without a length', P + END, 'POST / HTTP/1.1', b'', {}),
    ('chunked', C + b'5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n', 'POST / HTTP/1.1', b'hello world', {'Content-Length': None}),
    ('coding in any case', P + b'transfer-encoding: CHUNKED\r\n\r\n5\r\nhello\r\n0\r\n\r\n', 'POST / HTTP/1.1', b'hello', {}),
    ('chunk sizes with zeros and in upper case', C + b'000000000000000A\r\nhellohello\r\n00\r\n\r\n', 'POST / HTTP/1.1', b'hellohello', {}),
    ('chunk extensions', C + b'5;a;b=c;d="e \\" f"\r\nhello\r\n0;last\r\n\r\n', 'POST / HTTP/1.1', b'hello', {}),
    ('blanks around the semicolon of an extension', C + b'5 ; a = b\r\nhello\r\n0\t;last\r\n\r\n', 'POST / HTTP/1.1', b'hello', {}),
    ('trailers are dropped', C + b'5\r\nhello\r\n0\r\nX-Late: 1\r\nContent-Length: 7\r\nHost: b\r\n\r\n', 'POST / HTTP/1.1', b'hello',
     {'X-Late': None, 'Host': 'a', 'Content-Length': None}),
    ('Connection cannot name what is ours', P + b'Connection: host, content-length, x-forwarded-for, X-Gone, close\r\nX-Gone: 1\r\n'
     b'Content-Length: 5\r\n\r\nhello', 'POST / HTTP/1.1', b'hello',
     {'X-Gone': None, 'Host': 'a', 'Content-Length': '5', 'X-Forwarded-For': '127.0.0.1'}),
    ('Connection cannot name the coding', P + b'Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n',
     'POST / HTTP/1.1', b'hello', {}),
    ('Connection over two lines', G + b'Connection: X-A\r\nConnection: X-B\r\nX-A: 1\r\nX-B: 2\r\nX-C: 3\r\n\r\n', 'GET / HTTP/1.1', b'',
     {'X-A': None, 'X-B': None, 'X-C': '3'}),
    ('hop-by-hop fields', G + b'Keep-Alive: x\r\nProxy-Connection: x\r\nProxy-Foo: x\r\nTE: trailers\r\nTrailer: X\r\nProxy: x\r\n\r\n',
     'GET / HTTP/1.1', b'', {n: None for n in ('Keep-Alive', 'Proxy-Connection', 'Proxy-Foo', 'TE', 'Trailer', 'Proxy')}),
    ('h2c is stripped', G + b'Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n', 'GET / HTTP/1.1', b'',
     {'Upgrade': None, 'HTTP2-Settings': None}),
    ('HTTP2-Settings not named', G + b'Connection: Upgrade\r\nUpgrade: H2C\r\nHTTP2-Settings: AAMAAABk\r\n\r\n', 'GET / HTTP/1.1', b'',
     {'Upgrade': None, 'HTTP2-Settings': None}),
    ('upgrade', G + b'Connection: upgrade\r\nUpgrade: websocket\r\n\r\n', 'GET / HTTP/1.1', b'', {'Upgrade': 'websocket'}),
    ('upgrade with length 0', G + b'Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n', 'GET / HTTP/1.1', b'',
     {'Upgrade': 'websocket'}),
    ('upgrade not named', G + b'Upgrade: websocket\r\n\r\n', 'GET / HTTP/1.1', b'', {'Upgrade': None}),
    ('upgrade with POST', P + b'Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n', 'POST / HTTP/1.1', b'', {'Upgrade': None}),
    ('upgrade with a body', G + b'Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\nhello', 'GET / HTTP/1.1', b'hello',
     {'Upgrade': None}),
    ('upgrade with a chunked body', G + b'Connection: upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
     'GET / HTTP/1.1', b'', {'Upgrade': None}),
    ('upgrade in 1.0', b'GET / HTTP/1.0\r\n' + H + b'Connection: upgrade\r\nUpgrade: websocket\r\n\r\n', 'GET / HTTP/1.1', b'', {'Upgrade': None}),
    ('Expect in 1.0', b'POST / HTTP/1.0\r\n' + H + b'Expect: what\r\nContent-Length: 5\r\n\r\nhello', 'POST / HTTP/1.1', b'hello', {'Expect': None}),
    ('Max-Forwards on OPTIONS', b'OPTIONS / HTTP/1.1\r\n' + H + b'Max-Forwards: 5\r\n\r\n', 'OPTIONS / HTTP/1.1', b'', {'Max-Forwards': '4'}),
    ('Max-Forwards on GET', G + b'Max-Forwards: 0\r\n\r\n', 'GET / HTTP/1.1', b'', {'Max-Forwards': '0'}),
    ('spoofed addresses', G + b'Forwarded: for=1.2.3.4\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Foo: x\r\nX-Real-IP: 1.2.3.4\r\n'
     b'X-Original-URL: /\r\nX-Rewrite-URL: /\r\n\r\n', 'GET / HTTP/1.1', b'',
     {'Forwarded': None, 'X-Forwarded-For': '127.0.0.1', 'X-Forwarded-Foo': None, 'X-Real-IP': '127.0.0.1',
      'X-Original-URL': None, 'X-Rewrite-URL': None}),
]


@pytest.fixture(scope='module')
def echo():
    """A proxy that trusts nobody, before a worker that remembers what it saw."""
    with AutoWorker() as w, Proxy(upstream_config(w.address, 'trusted_proxies = none\n', 'worker_keepalive = 0\n')) as p:
        p.auto = w
        yield p


def deliver(client, data, how):
    if how == 'whole' or len(data) > 3000:           # of a long one only the length is of interest
        client.send(data)
        return
    try:
        for i in range(len(data)):
            client.sock.send(data[i:i + 1])
    except (BrokenPipeError, ConnectionResetError):
        pass                                        # refused in the middle, as it should be


def refused(proxy, data, how, statuses):
    """One answer with that status, the end, and neither this nor the smuggled request at the worker."""
    proxy.auto.requests.clear()
    with proxy.connect() as c:
        deliver(c, data + SMUGGLED, how)
        r = c.read_response()
        assert r.status in statuses and r.complete, r
        assert r.get('connection').lower() == 'close' and r.get('x-request-id')
        assert c.read_all() == b'', 'exactly one answer'
    # One more request through the same loop is the proof that the one before is over at the worker too.
    with proxy.connect() as c:
        assert c.ask('GET', '/after').status == 200
    assert [q.target for q in proxy.auto.requests] == ['/after'], proxy.auto.requests


@pytest.mark.parametrize('how', ['whole', 'bytes'])
@pytest.mark.parametrize('name, status, data', REFUSED, ids=ids(REFUSED))
def test_refused(echo, name, status, data, how):
    refused(echo, data, how, (status,))


@pytest.mark.parametrize('how', ['whole', 'bytes'])
@pytest.mark.parametrize('name, data', REFUSED_CHUNKS, ids=ids(REFUSED_CHUNKS))
def test_refused_chunks(echo, name, data, how):
    refused(echo, data, how, (400, 431) if name.startswith('trailers over') else (400,))


@pytest.mark.parametrize('how', ['whole', 'bytes'])
@pytest.mark.parametrize('name, data, line, body, fields', PASSED, ids=ids(PASSED))
def test_passed(echo, name, data, line, body, fields, how):
    echo.auto.requests.clear()
    with echo.connect() as c:
        deliver(c, data, how)
        assert c.read_response(data.split(b' ')[0].decode().strip()).status == 200
    req, = echo.auto.requests
    assert req.raw.startswith(line.encode('latin-1') + b'\r\n') and req.body == body
    for key, value in fields.items():
        assert req.get(key) == value, (key, req.headers)
    assert b'\n' not in req.head.replace(b'\r\n', b'') and b'\r' not in req.head.replace(b'\r\n', b'')


def test_max_forwards_0_on_options_is_answered_here(echo):
    echo.auto.requests.clear()
    with echo.connect() as c:
        r = c.ask('OPTIONS', '/', {'Max-Forwards': '0'})
        assert r.status in (200, 204) and not echo.auto.requests


@pytest.mark.parametrize('name, data, line, body, fields', PASSED, ids=ids(PASSED))
def test_passed_requests_end_where_they_end(echo, name, data, line, body, fields):
    """Another one behind each on the same connection is seen as exactly one more, or (1.0, upgrade) not at all."""
    echo.auto.requests.clear()
    with echo.connect() as c:
        c.send(data + b'GET /behind HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')
        c.read_all()
    targets = [q.target for q in echo.auto.requests]
    one_only = b' HTTP/1.0\r\n' in data or fields.get('Upgrade') or b'close' in data
    assert targets[1:] == ([] if one_only else ['/behind'])
    assert echo.auto.requests[0].body == body


def test_empty_lines_between_requests(echo):
    with echo.connect() as c:
        c.send((b'POST /a HTTP/1.1\r\n' + H + b'Content-Length: 1\r\n\r\nx' + b'\r\n\r\n') * 3 + G + END)
        assert [c.read_response().status for _ in range(4)] == [200] * 4
        c.send(b'\r\n\r\n\r\n' + G + END)
        assert c.read_response().status == 400 and c.eof()


# --- answers ---

A = b'HTTP/1.1 200 OK\r\n'
AC = A + b'Transfer-Encoding: chunked\r\n\r\n'

BAD_ANSWERS = [
    ('not HTTP', b'hello world\r\n\r\n'),
    ('HTTP/0.9', b'<html></html>'),
    ('bare LF', b'HTTP/1.1 200 OK\nContent-Length: 2\n\nok'),
    ('bare LF after a field', A + b'Content-Length: 2\n\r\nok'),
    ('bare LF as the empty line', A + b'Content-Length: 2\r\n\nok'),
    ('bare CR in a value', A + b'X: a\rb\r\nContent-Length: 2\r\n\r\nok'),
    ('HTTP/2.0', b'HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok'),
    ('HTTP/0.9 status line', b'HTTP/0.9 200 OK\r\nContent-Length: 2\r\n\r\nok'),
    ('lower case version', b'http/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'),
    ('status of two digits', b'HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok'),
    ('status of four digits', b'HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok'),
    ('status 099', b'HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nok'),
    ('status in letters', b'HTTP/1.1 abc OK\r\nContent-Length: 2\r\n\r\nok'),
    ('two blanks before the status', b'HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nok'),
    ('control byte in the reason', b'HTTP/1.1 200 O\x01K\r\nContent-Length: 2\r\n\r\nok'),
    ('leading blank', b' ' + OK),
    ('name with a blank', A + b'X : 1\r\nContent-Length: 2\r\n\r\nok'),
    ('empty name', A + b': 1\r\nContent-Length: 2\r\n\r\nok'),
    ('no colon', A + b'foo\r\nContent-Length: 2\r\n\r\nok'),
    ('NUL in a value', A + b'X: \0\r\nContent-Length: 2\r\n\r\nok'),
    ('folded line', A + b'X: a\r\n b\r\nContent-Length: 2\r\n\r\nok'),
    ('length with a plus', A + b'Content-Length: +2\r\n\r\nok'),
    ('length in hex', A + b'Content-Length: 0x2\r\n\r\nok'),
    ('length list', A + b'Content-Length: 2, 2\r\n\r\nok'),
    ('empty length', A + b'Content-Length:\r\n\r\nok'),
    ('negative length', A + b'Content-Length: -2\r\n\r\nok'),
    ('length of 20 digits', A + b'Content-Length: 00000000000000000002\r\n\r\nok'),
    ('length 2^63', A + b'Content-Length: 9223372036854775808\r\n\r\nok'),
    ('two equal lengths', A + b'Content-Length: 2\r\nContent-Length: 2\r\n\r\nok'),
    ('two lengths', A + b'Content-Length: 2\r\nContent-Length: 3\r\n\r\nok'),
    ('length and coding', A + b'Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n'),
    ('coding gzip', A + b'Transfer-Encoding: gzip\r\n\r\nok'),
    ('coding list', A + b'Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n'),
    ('coding twice', A + b'Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'),
    ('coding with a parameter', A + b'Transfer-Encoding: chunked;x\r\n\r\n0\r\n\r\n'),
    ('coding in 1.0', b'HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'),
    ('101 that nobody asked for', b'HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n'),
    ('17 interim answers', b'HTTP/1.1 102 Processing\r\n\r\n' * 17 + OK),
    ('bad interim answer', b'HTTP/1.1 103 Hints\r\nX : 1\r\n\r\n' + OK),
    ('head too long', A + (b'X: ' + b'y' * 1000 + b'\r\n') * 70 + b'\r\n'),
]

# The head is fine; what follows the first good chunk is not.
BAD_CHUNKS = [(name, data[len(C):]) for name, data in REFUSED_CHUNKS] + [('cut in the size', b'5'), ('cut in the data', b'5\r\nhel')]


@pytest.fixture(scope='module')
def scripted():
    with FakeWorker() as w, Proxy(upstream_config(w.address, '', 'worker_keepalive = 0\n')) as p:
        p.fake = w
        yield p


@pytest.fixture
def script(scripted):
    scripted.fake.drain()
    return scripted


@pytest.mark.parametrize('how', ['whole', 'bytes'])
@pytest.mark.parametrize('name, data', BAD_ANSWERS, ids=ids(BAD_ANSWERS))
def test_bad_answers_are_502(script, name, data, how):
    with script.connect() as c:
        c.send(head('POST', '/' + name.replace(' ', '-'), body=b''))
        _, conn = script.fake.one()
        deliver(conn, data, how)
        try:
            conn.fin()
        except OSError:
            pass                                    # cut off already
        r = c.read_response()
        assert r.status == 502 and r.complete and r.get('x-request-id')
        assert b'ok' not in r.body and all(i.status == 102 for i in r.interim)
    record = script.wait_access(lambda a: a['target'] == '/' + name.replace(' ', '-'))
    assert record['reason']


@pytest.mark.parametrize('how', ['at once', 'later'])
@pytest.mark.parametrize('name, data', BAD_CHUNKS, ids=ids(BAD_CHUNKS))
def test_bad_chunks_cut_the_answer(script, name, data, how):
    """It never looks complete: no last chunk, and the end of the connection."""
    with script.connect() as c:
        c.send(head('GET', '/'))
        first = AC + b'5\r\nfirst\r\n'
        _, conn = script.fake.one(first if how == 'later' else first + data)
        if how == 'later':
            c.peek_until(b'first')
            conn.send(data)
        try:
            conn.fin()
        except OSError:
            pass
        r = c.read_response()
        if r.status == 502 and how == 'at once':
            return
        assert r.status == 200 and not r.complete and c.eof()


def test_16_interim_answers_are_passed(script):
    with script.connect() as c:
        c.send(head('GET', '/'))
        script.fake.one(b'HTTP/1.1 102 Processing\r\n\r\n' * 16 + OK)
        r = c.read_response()
        assert len(r.interim) == 16 and r.body == b'ok'


@pytest.mark.parametrize('data, body', [
    (b'HTTP/1.3 200 OK\r\nContent-Length: 2\r\n\r\nok', b'ok'),
    (A + b'Content-Length: 0000000000000000002\r\n\r\nok', b'ok'),
    (A + b'content-length:2\r\n\r\nok', b'ok'),
    (A + b'Transfer-Encoding: CHUNKED\r\n\r\n2;a="b"\r\nok\r\n0;z\r\nX: dropped\r\n\r\n', b'ok'),
    (A + b'Content-Length: 0\r\n\r\n', b''),
    (b'HTTP/1.1 404 Not\tFound \xc3\xa4\r\nContent-Length: 2\r\n\r\nok', b'ok'),
    (b'HTTP/1.1 599 x\r\nContent-Length: 2\r\n\r\nok', b'ok')])
@pytest.mark.parametrize('how', ['whole', 'bytes'])
def test_answers_that_are_fine(script, data, body, how):
    with script.connect() as c:
        for _ in range(2):                          # the client's connection goes on
            c.send(head('GET', '/'))
            _, conn = script.fake.one()
            deliver(conn, data, how)
            r = c.read_response()
            assert r.complete and r.body == body and r.version == 'HTTP/1.1' and r.trailers in ((), [])
            assert r.status == int(data[9:12]) and b'dropped' not in r.raw and b'a="b"' not in r.raw


def test_101_for_another_protocol_than_asked(script):
    with script.connect() as c:
        c.send(head('GET', '/', {'Connection': 'upgrade', 'Upgrade': 'websocket'}))
        script.fake.one(b'HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\nPRI')
        assert c.read_response().status == 502


# --- Date (RFC 9110 6.6.1) ---

def is_now(response):
    """Its one Date is that of this second, give or take a few."""
    return abs(email.utils.parsedate_to_datetime(response.get('date')).timestamp() - time.time()) < 5


@pytest.mark.parametrize('method', ['GET', 'HEAD'])
@pytest.mark.parametrize('data', [
    A + b'Content-Length: 0\r\n\r\n', A + b'Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n', b'HTTP/1.1 204 No Content\r\n\r\n',
    b'HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n', b'HTTP/1.0 500 x\r\nContent-Length: 0\r\n\r\n', A + b'\r\n',
    A + b'Connection: date\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 0\r\n\r\n'])
def test_an_answer_without_a_date_gets_one(script, method, data):
    with script.connect() as c:
        c.send(head(method, '/'))
        script.fake.one(data)[1].fin()
        assert is_now(c.read_response(method))


def test_an_answer_with_a_date_keeps_it(script):
    with script.connect() as c:
        c.send(head('GET', '/'))
        script.fake.one(A + b'dAtE: whenever\r\nContent-Length: 0\r\n\r\n')
        assert c.read_response().head == A + b'dAtE: whenever\r\nContent-Length: 0\r\n\r\n'


def test_interim_answers_get_no_date(script):
    with script.connect() as c:
        c.send(head('GET', '/'))
        script.fake.one(b'HTTP/1.1 103 Hints\r\nLink: </a>\r\n\r\n' + A + b'Content-Length: 0\r\n\r\n')
        answer = c.read_response()
        assert answer.interim[0].names() == ['link'] and is_now(answer)
    with script.connect() as c:
        c.send(b'GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n')
        script.fake.one(b'HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n')
        assert c.read_until(b'\r\n\r\n') == b'HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n'


def test_our_own_answers_have_a_date(script):
    with script.connect() as c:
        c.send(b'GET / HTTP/1.1\r\n\r\n')
        answer = c.read_response()
        assert answer.status == 400 and is_now(answer)
    assert abs(email.utils.parsedate_to_datetime(script.admin('GET', '/status')[1]['date']).timestamp() - time.time()) < 5


# --- worker connections in the pool ---

class Pooled:
    """A proxy with one parked worker connection."""

    def __init__(self, group=''):
        self.worker = FakeWorker()
        self.proxy = Proxy(upstream_config(self.worker.address, group='worker_keepalive = 20s\n' + group))

    def __enter__(self):
        self.client = self.proxy.connect()
        return self

    def __exit__(self, *exc):
        try:
            self.client.close()
            self.proxy.__exit__(*exc)
        finally:
            self.worker.close()

    def park(self):
        self.client.send(head('GET', '/first'))
        _, conn = self.worker.one(OK)
        assert self.client.read_response().raw == OK
        return conn


@pytest.mark.parametrize('method', ['GET', 'HEAD', 'OPTIONS'])
def test_a_safe_request_is_replayed_once_after_a_reused_connection_failed(method):
    with Pooled() as p:
        conn = p.park()
        p.client.send(head(method, '/again'))
        assert conn.read_request().target == '/again'
        conn.close()                                    # seen it, said nothing
        req, second = p.worker.one(OK if method != 'HEAD' else A + b'Content-Length: 2\r\n\r\n')
        assert (req.method, req.target) == (method, '/again')
        assert p.client.read_response(method).status == 200


def test_a_replay_happens_only_once():
    with Pooled() as p:
        conn = p.park()
        p.client.send(head('GET', '/again'))
        conn.read_request()
        conn.close()
        p.worker.one()[1].close()
        assert p.client.read_response().status == 502
        assert p.worker.no_connection()


@pytest.mark.parametrize('group, cut', [('', 5), ('', 30), ('max_req_per_worker = 1\n', 30), ('max_req_per_worker = 1\n', -1)])
def test_an_end_that_comes_between_two_pieces_of_a_request_is_seen(group, cut):
    """The poll() that told of the first piece saw the parked connection open; what is not replayed needs a newer look."""
    with Pooled(group) as p:
        for _ in range(20):
            conn = p.park()
            request = head('POST', '/pieces', body=b'x' * 50)
            p.client.send(request[:cut])
            p.proxy.signal(signal.SIGSTOP)
            conn.close()
            p.client.send(request[cut:])
            p.proxy.signal(signal.SIGCONT)
            assert p.worker.one(answer(b'ok', headers=[('Connection', 'close')]))[0].target == '/pieces'
            assert p.client.read_response().status == 200


def test_bytes_behind_the_last_answer_are_not_answered_by_a_reset():
    """It is the proxy that does not go on, and a client that sends ahead cannot know: a reset might reach it before it has
    read its answer (RFC 9112 9.6)."""
    with FakeWorker() as w, Proxy(upstream_config(w.address, 'keepalive_timeout = 0\n')) as p, p.connect() as c:
        c.send(head('GET', '/'))
        w.one(OK)
        assert c.read_response().body == b'ok' and c.eof()
        for _ in range(3):                              # behind a reset the second one is a broken pipe
            c.sock.sendall(head('GET', '/behind'))
        assert w.no_connection(0.1)


CHUNKS = head('POST', '/x', [('Transfer-Encoding', 'chunked')]) + b'5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n'


@pytest.mark.parametrize('group', ['', 'max_req_per_worker = 1\n'])
@pytest.mark.parametrize('request_', [head('POST', '/x', body=b'x' * 50), CHUNKS], ids=['length', 'chunks'])
@pytest.mark.parametrize('behind', [1, 3])
@pytest.mark.parametrize('end', ['close', 'rst'])
def test_what_is_behind_a_body_outlives_its_worker(group, request_, behind, end):
    """The body's last byte and the next requests come in one read, and the write to the worker fails. Where the proxy
    looks at the worker first, the request is over before it is whole, and so is its connection."""
    kept = 0
    with Pooled(group + 'request_buffer = 0\n') as p:
        for _ in range(10):
            p.client.send(request_[:-12])
            conn = p.worker.accept()
            conn.read_head(), conn.read_exact(8)
            p.proxy.freeze()
            getattr(conn, end)()
            p.client.send(request_[-12:] + head('GET', '/behind') * behind)
            p.proxy.signal(signal.SIGCONT)
            r = p.client.read_response()
            assert r.status == 502
            if ('Connection', 'close') in r.headers:
                p.client.close()
                p.client = p.proxy.connect()
                continue
            kept += 1
            for _ in range(behind):
                assert p.worker.one(answer(b'ok', headers=[('Connection', 'close')]))[0].target == '/behind'
                assert p.client.read_response().body == b'ok'
    assert kept


@pytest.mark.parametrize('request_', [head('POST', '/once', body=b''), head('DELETE', '/once'), head('PUT', '/once', body=b'x'),
                                      head('GET', '/once', body=b'x')])
def test_nothing_else_is_ever_sent_twice(request_):
    with Pooled() as p:
        conn = p.park()
        p.client.send(request_)                         # at once: the parked connection is young
        wait_for(lambda: not conn.silent(0) or not p.worker.no_connection(0), what='the request')
        if conn.silent(0) or conn.eof():
            conn = p.worker.accept()                    # a fresh one is as good
        req = conn.read_request()
        assert req.target == '/once'
        conn.close()
        assert p.client.read_response().status == 502
        assert p.worker.no_connection()


def test_no_replay_after_the_first_byte_of_an_answer():
    with Pooled() as p:
        conn = p.park()
        p.client.send(head('GET', '/again'))
        conn.read_request()
        conn.send(b'H').close()
        assert p.client.read_response().status == 502
        assert p.worker.no_connection()


def test_unsafe_methods_take_a_fresh_connection_if_the_parked_one_is_old():
    with Pooled() as p:
        parked = p.park()
        end = time.monotonic() + 0.3
        wait_for(lambda: time.monotonic() > end, what='the parked connection to grow old')
        p.client.send(head('POST', '/new', body=b'x'))
        req, _ = p.worker.one(OK)
        assert req.target == '/new' and p.client.read_response().raw == OK
        assert parked.silent(0.05) or parked.eof(), 'no byte of it went to the old one'


@pytest.mark.parametrize('what', ['end', 'reset', 'bytes', 'a whole answer'])
def test_a_parked_connection_that_says_something_is_thrown_away(what):
    with Pooled() as p:
        parked = p.park()
        if what == 'end':
            parked.fin()
        elif what == 'reset':
            parked.rst()
        else:
            parked.send(b'x' if what == 'bytes' else answer(b'poison'))
        p.client.send(head('POST', '/clean', body=b'x'))
        req, _ = p.worker.one(answer(b'clean'))
        assert req.target == '/clean' and p.client.read_response().body == b'clean'


def test_not_reused_before_the_request_was_sent_whole():
    with Pooled() as p:
        p.client.send(b'POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf')
        conn = p.worker.accept()
        conn.read_head()
        conn.send(OK)
        assert p.client.read_response().body == b'ok' and p.client.eof()
        assert conn.read_exact(4) == b'half' and conn.eof()


# --- the client's end ---

def records(proxy, target):
    return proxy.wait_access(lambda r: r['target'] == target)


@pytest.mark.parametrize('end', ['fin', 'rst'])
def test_a_client_that_leaves_in_its_head(script, end):
    with script.connect() as c:
        c.send(b'GET /part HTTP/1.1\r\nHos')
        getattr(c, end)()
        if end == 'fin':
            data = c.read_all()
            assert data == b'' or data.startswith(b'HTTP/1.1 400')
    assert script.fake.no_connection(0.05)


@pytest.mark.parametrize('end', ['fin', 'rst'])
def test_a_client_that_leaves_in_its_body(script, end):
    c = script.connect().send(b'POST /part HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf')
    conn = script.fake.accept()
    conn.read_head()
    getattr(c, end)()
    assert conn.read_all() == b'half', 'the worker\'s request ends, cut'
    c.close()


@pytest.mark.parametrize('end', ['close', 'rst', 'fin'])
def test_a_queued_client_that_leaves_is_dropped_at_once(end):
    group = 'max_req_per_worker = 1\nworker_keepalive = 0\n'
    with FakeWorker() as w, Proxy(upstream_config(w.address, group=group)) as p:
        first = p.connect().send(head('GET', '/first'))
        _, conn = w.one()
        leaver = p.connect().send(head('GET', '/leaver'))
        p.wait_status(lambda s: s['groups'][0]['queue']['len'] == 1)
        last = p.connect().send(head('GET', '/last'))
        p.wait_status(lambda s: s['groups'][0]['queue']['len'] == 2)
        getattr(leaver, end)()
        p.wait_status(lambda s: s['groups'][0]['queue']['len'] == 1)
        record = records(p, '/leaver')
        assert record['status'] == 499 and record['reason']
        conn.send(OK)
        assert first.read_response().raw == OK
        assert w.one(OK)[0].target == '/last' and last.read_response().raw == OK
        assert w.no_connection(0.05)


def test_a_fin_behind_unread_bytes_is_seen_in_the_queue():
    group = 'max_req_per_worker = 1\nworker_keepalive = 0\n'
    with FakeWorker() as w, Proxy(upstream_config(w.address, group=group)) as p:
        first = p.connect().send(head('GET', '/first'))
        _, conn = w.one()
        leaver = p.connect().send(head('GET', '/leaver') + head('GET', '/pipelined'))
        p.wait_status(lambda s: s['groups'][0]['queue']['len'] == 1)
        leaver.close()
        p.wait_status(lambda s: s['groups'][0]['queue']['len'] == 0)
        conn.send(OK)
        assert first.read_response().raw == OK and w.no_connection(0.05)


def test_under_wait_a_fin_is_a_half_close():
    group = 'max_req_per_worker = 1\nworker_keepalive = 0\nclient_abort = wait\n'
    with FakeWorker() as w, Proxy(upstream_config(w.address, group=group)) as p:
        c = p.connect().send(head('GET', '/half'))
        _, conn = w.one()
        c.fin()
        before = cpu_seconds(p.pid)
        assert conn.silent(0.4)
        assert cpu_seconds(p.pid) - before < 0.2, 'it spins on the readable end'
        conn.send(OK)
        assert c.read_response().raw.endswith(b'ok') and c.eof()


def cpu_seconds(pid):
    with open('/proc/%d/stat' % pid) as f:
        fields = f.read().rsplit(')', 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


@pytest.mark.parametrize('end', ['fin', 'close', 'rst'])
def test_under_close_an_end_is_a_departure(script, end):
    c = script.connect().send(head('GET', '/gone-' + end))
    _, conn = script.fake.one()
    getattr(c, end)()
    assert conn.eof(), 'an unlimited group closes the worker\'s connection at once'
    assert records(script, '/gone-' + end)['status'] == 499
    c.close()


@pytest.mark.parametrize('end', ['close', 'rst'])
def test_under_wait_the_slot_of_a_client_that_is_gone_stays_taken(end):
    group = 'max_req_per_worker = 1\nworker_keepalive = 0\n'
    with FakeWorker() as w, Proxy(upstream_config(w.address, group=group)) as p:
        c = p.connect().send(head('GET', '/gone'))
        _, conn = w.one()
        getattr(c, end)()
        with p.connect() as second:
            second.send(head('GET', '/second'))
            assert w.no_connection(0.2) and conn.silent(0.05), 'neither closed nor counted as free'
            conn.send(OK)
            assert w.one(OK)[0].target == '/second' and second.read_response().raw == OK


# --- running out ---

def few_descriptors():
    resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))


@pytest.fixture
def poor():
    """A proxy with 48 descriptors, and more clients than that: each holds one with half a head, so
    that none can be closed to make room."""
    with AutoWorker() as w, Proxy(upstream_config(w.address, 'max_conns = 1000\n', 'worker_keepalive = 0\n'),
                                  preexec=few_descriptors) as p:
        p.held = [p.connect() for _ in range(100)]
        for c in p.held:
            c.send(b'GET / HTT')
        wait_for(lambda: len(os.listdir('/proc/%d/fd' % p.pid)) >= 40, what='the descriptors to be used up')
        yield p
        for c in p.held:
            c.close()


REST = b'P/1.1\r\nHost: a\r\nConnection: close\r\n\r\n'


def test_out_of_descriptors_does_not_spin(poor):
    before = cpu_seconds(poor.pid)
    assert poor.held[-1].silent(0.5)
    assert cpu_seconds(poor.pid) - before < 0.25


def test_out_of_descriptors_accepting_goes_on_when_some_are_free(poor):
    for c in poor.held[:80]:
        c.close()
    for c in poor.held[80:]:
        c.send(REST)
    assert [c.read_response().status for c in poor.held[80:]] == [200] * 20
    assert poor.status()['pid'] == poor.pid


def test_out_of_descriptors_a_failed_socket_is_tried_again(poor):
    first = poor.held[0].send(REST)                     # accepted long ago; there is none for the worker's side
    first.silent(0.2)
    for c in poor.held[1:]:
        c.close()
    assert first.read_response().status == 200


def test_a_worker_that_leaves_right_behind_its_101():
    """Bytes that waited for the final status meet a connection that is gone."""
    for _ in range(5):
        with FakeWorker(unix=True) as w, Proxy(upstream_config(w.address)) as p, p.connect() as c:
            c.send(b'GET / HTTP/1.1\r\nHost: t\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nabc')
            conn = w.accept()
            conn.read_head()
            conn.send(b'HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n')
            conn.close()
            c.read_all()                            # the 101 may still come, then the end
            assert p.status()['pid'] == p.pid
