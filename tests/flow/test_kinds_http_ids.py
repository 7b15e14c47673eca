"""A request's id is one text wherever it is told, and no text that comes from outside says in a log what is not so."""
import json, re, subprocess, sys

import pytest
from harness import (CC, PLAIN, REPO, AutoWorker, Client, FakeWorker, Proxy, answer, built, free_port, head,
                     upstream_config, wait_for)
from procs import Before, Own

OK = answer(b'ok')
UUID = '6ba7b810-9dad-11d1-80b4-00c04fd430c8'
IDS = {'short': 'x', '32': 'a1' * 16, '33': 'a' * 33, 'uuid': UUID,
       'amazon': 'Root=1-67891233-abcdef012345678912345678', 'base64': 'bG9uZyBpZA+/w==', '64': '0123456789abcdef' * 4,
       '128': 'Z' * 127 + 'z', 'path': 'a/b:c,d;e@f'}


def ids(table):
    return pytest.mark.parametrize('given', table.values(), ids=list(table))


def text_config(address, top='', group=''):
    return upstream_config(address, top, group).replace('log_format = json\n', 'log_format = text\n')


@pytest.fixture(scope='module', params=['json', 'text'])
def logged(request):
    """A proxy that trusts its peer, and a group that answers 502 to everything."""
    with FakeWorker() as w:
        text = upstream_config(w.address, 'trusted_proxies = 127.0.0.1\n', 'worker_keepalive = 0\n')
        text += '[none]\nroutes = /none\nupstream = %s\ndeny = 127.0.0.1\n' % w.address
        with Proxy(text.replace('log_format = json', 'log_format = ' + request.param)) as p:
            p.fake, p.form = w, request.param
            yield p


def record(p, part):
    """The access line with that text in it."""
    return wait_for(lambda: next((r for r in p.access() if part in json.dumps(r)), None),
                    what='access record with ' + part)


def id_in(p, r):
    return r['id'] if p.form == 'json' else re.search(r' id=(\S*)', r['line'])[1]


# --- one id everywhere ---

@ids(IDS)
def test_the_id_of_a_trusted_peer_is_the_one_in_the_log(logged, given):
    target = '/log/' + re.sub(r'\W', '-', given)
    with logged.connect() as c:
        c.send(head('GET', target, {'X-Request-Id': given}))
        assert logged.fake.one(OK)[0].get('x-request-id') == given
        assert c.read_response().status == 200
    assert id_in(logged, record(logged, target)) == given


@ids(IDS)
def test_the_id_of_a_trusted_peer_is_the_one_in_our_own_answers(logged, given):
    """Of what no group takes on, and of what a worker has seen."""
    with logged.connect() as c:
        r = c.ask('GET', '/none/' + re.sub(r'\W', '-', given), {'X-Request-Id': given})
        assert r.status == 403 and r.get('x-request-id') == given and given in r.body.decode()
        c.send(head('POST', '/seen/' + re.sub(r'\W', '-', given), {'X-Request-Id': given}, b'x'))
        request, conn = logged.fake.one()
        conn.close()
        assert request.get('x-request-id') == given
        r = c.read_response()
        assert r.status == 502 and r.get('x-request-id') == given and given in r.body.decode()
    assert id_in(logged, record(logged, '/seen/' + re.sub(r'\W', '-', given))) == given


@ids(IDS)
def test_the_id_of_a_trusted_peer_is_the_one_of_requests(given):
    """Inside a worker and in the queue."""
    with Before('max_req_per_worker = 1\n', 'trusted_proxies = 127.0.0.1\n') as b:
        b.send('/first', headers={'X-Request-Id': given})
        b.worker.one()
        b.send('/second', headers={'X-Request-Id': given})
        b.queued(1)
        found = json.loads(b.proxy.admin('GET', '/requests')[2])
        found = found if isinstance(found, list) else found['requests']
        assert [r['id'] for r in found] == [given] * 2


def test_the_id_survives_what_parts_client_and_worker():
    """A 504 that leaves its request inside, and a body that breaks while a worker has its beginning."""
    with Before('max_req_per_worker = 1\nrequest_buffer = 0\nresponse_timeout = 300ms\n',
                'trusted_proxies = 127.0.0.1\n') as b:
        c = b.send('/late', headers={'X-Request-Id': UUID})
        _, conn = b.worker.one()
        r = c.read_response()
        assert r.status == 504 and r.get('x-request-id') == UUID and UUID in r.body.decode()
        found = json.loads(b.proxy.admin('GET', '/requests')[2])
        found = found if isinstance(found, list) else found['requests']
        assert [x['id'] for x in found] == [UUID], 'the orphan'
        assert b.record('/late')['id'] == UUID
        conn.send(OK)
        c = b.send('/broken', 'POST', headers={'X-Request-Id': UUID + '2', 'Transfer-Encoding': 'chunked'})
        conn = conn if not conn.eof(1) else b.worker.accept()
        conn.read_head()
        c.send(b'x\r\n')
        r = c.read_response()
        assert r.status == 400 and r.get('x-request-id') == UUID + '2'
        assert b.record('/broken')['id'] == UUID + '2'


@pytest.mark.parametrize('given', ['', 'a b', '"', 'a\\b', 'x' * 129, 'x' * 5000, 'caf\xe9', 'a\tb', '<b>', '\x80\x9b',
                                   "'"])
def test_an_id_that_is_odd_is_still_one(given):
    """Whether it passes or a new one is made: what the worker sees is what everybody else says."""
    with FakeWorker() as w, Proxy(upstream_config(w.address, 'trusted_proxies = 127.0.0.1\n',
                                                  'worker_keepalive = 0\n')) as p, p.connect() as c:
        c.send(head('POST', '/odd', {'X-Request-Id': given}, b'x'))
        request, conn = w.one()
        found = json.loads(p.admin('GET', '/requests')[2])
        conn.close()
        r = c.read_response()
        assert r.status == 502
        seen = request.get('x-request-id')
        assert seen, 'a request has an id'
        assert r.get('x-request-id') == seen
        if all(ch < '\x7f' for ch in seen):
            found = found if isinstance(found, list) else found['requests']
            assert [x['id'] for x in found] == [seen]
            assert p.wait_access(lambda r: r['target'] == '/odd')['id'] == seen


def test_two_ids_are_one():
    with FakeWorker() as w, Proxy(upstream_config(w.address, 'trusted_proxies = 127.0.0.1\n',
                                                  'worker_keepalive = 0\n')) as p, p.connect() as c:
        c.send(head('POST', '/twice', [('X-Request-Id', UUID), ('X-Request-Id', 'other')], b'x'))
        request, conn = w.one()
        conn.close()
        seen = request.get('x-request-id')                       # exactly one line
        assert c.read_response().get('x-request-id') == seen
        assert p.wait_access(lambda r: r['target'] == '/twice')['id'] == seen


def test_nobody_else_names_a_request():
    with FakeWorker() as w, Proxy(upstream_config(w.address, 'trusted_proxies = none\n',
                                                  'worker_keepalive = 0\n')) as p, p.connect() as c:
        c.send(head('POST', '/untrusted', {'X-Request-Id': UUID}, b'x'))
        request, conn = w.one()
        conn.close()
        assert request.get('x-request-id') != UUID
        assert c.read_response().get('x-request-id') == request.get('x-request-id')


HOST = r'''
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include "ldcorn.h"

static void event(void *user, const ldcorn_event *e) {
    (void)user;
    if (e->kind == LDCORN_WORKER_READY) puts("ready");
    if (e->kind == LDCORN_REQUEST_DONE) printf("%d %s\n", e->status, e->id);
    fflush(stdout);
}

int main(int argc, char **argv) {
    const char *set[4] = {NULL, NULL, NULL, NULL};
    const char *listen[2] = {NULL, NULL};
    const char *trusted[] = {"127.0.0.1", NULL}, *all[] = {"*", NULL}, *off[] = {"off", NULL}, *upstream[] = {NULL, NULL};
    ldcorn_group_desc group;
    ldcorn_desc desc;
    ldcorn_error error;
    ldcorn *l;
    if (argc != 3) return 2;
    memset(&group, 0, sizeof group);
    memset(&desc, 0, sizeof desc);
    listen[0] = argv[1];
    upstream[0] = argv[2];
    group.name = "web";
    group.routes = all;
    group.upstream = upstream;
    desc.groups = &group;
    desc.group_count = 1;
    desc.listen = listen;
    desc.set = set;
    desc.trusted_proxies = trusted;
    desc.admin = off;
    desc.log_level = "error";
    desc.event = event;
    l = ldcorn_open(&desc, &error);
    if (l == NULL) {
        fputs(error.text, stderr);
        return 1;
    }
    for (;;) {
        struct pollfd in = {0, POLLIN, 0};
        if (ldcorn_step(l, 20) <= 0) break;
        if (poll(&in, 1, 0) == 1) ldcorn_stop(l);
    }
    ldcorn_close(l);
    return 0;
}
'''


def test_the_id_of_a_trusted_peer_is_the_one_of_the_hosts_events(tmp_path):
    """desc.event: the whole id, of an answer that passed and of one of our own."""
    source, binary = tmp_path / 'ids.c', str(tmp_path / 'ids')
    source.write_text(HOST)
    subprocess.run([*CC, *PLAIN, '-Werror', '-I', REPO, str(source), built('embed/kinds_lib.c', *PLAIN, '-c'),
                    '-o', binary], check=True)
    port = free_port()
    with FakeWorker() as w:
        p = subprocess.Popen([binary, '127.0.0.1:%d' % port, w.address], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             text=True)
        try:
            assert p.stdout.readline() == 'ready\n'
            for given in IDS.values():
                with Client(('127.0.0.1', port)) as c:
                    c.send(head('POST', '/', {'X-Request-Id': given}, b'x'))
                    w.one(answer(b'ok', headers=[('Connection', 'close')]))
                    assert c.read_response().status == 200
                    assert p.stdout.readline() == '200 %s\n' % given
                    c.send(head('POST', '/', {'X-Request-Id': given}, b'x'))
                    w.one()[1].close()
                    assert c.read_response().status == 502
                    assert p.stdout.readline() == '502 %s\n' % given
        finally:
            p.stdin.close()
            p.wait(20)
            p.stdout.close()


# --- the text log ---

FORGED = {'a field': 'x reason=none worker=9', 'a line': 'x" 200 5 "-" "-" id=y', 'a quote': 'x"y',
          'a backslash': 'a\\x41', 'blanks': ' a  b ', 'a tab': 'a\tid=b',
          'high bytes': 'a\x80\x9b31m\xa0', 'C1 in UTF-8': 'a\xc2\x80\xc2\x9b31m\xc2\x9f', 'an equals sign': 'id=other'}


@pytest.fixture(scope='module')
def text():
    with AutoWorker() as w, Proxy(text_config(w.address, 'trusted_proxies = 127.0.0.1\n',
                                              'worker_keepalive = 0\n')) as p:
        p.auto = w
        yield p


def line_of(p, target):
    wait_for(lambda: any(target in r['line'] for r in p.access()), what='the line of ' + target)
    with open(p.access_path, 'rb') as f:
        found = [line for line in f.read().split(b'\n') if target.encode() in line]
    assert len(found) == 1
    return found[0]


# What stands unquoted behind the combined format's parts, in its order.
TAIL = re.compile(rb' host="[^"]*" id=([^ "]*) group=(\S+) worker=(-?\d+) pid=(\d+) bytes_in=\d+ recv_ms=-?\d+ '
                  rb'queue_ms=-?\d+ connect_ms=-?\d+ ttfb_ms=-?\d+ total_ms=-?\d+ reason=(\S+)$')


@pytest.mark.parametrize('name', FORGED)
@pytest.mark.parametrize('field', ['X-Request-Id', 'User-Agent', 'Referer'])
def test_no_value_forges_a_field_of_the_text_log(text, field, name):
    target = '/forge/%s/%s' % (field, re.sub(r'\W', '-', name))
    with text.connect() as c:
        assert c.ask('GET', target, {field: FORGED[name]}).status == 200
    line = line_of(text, target)
    tail = TAIL.search(line)
    assert tail, line
    assert (tail[2], tail[3], tail[5]) == (b'web', b'0', b'-')
    assert line.count(b' reason=') - (field != 'X-Request-Id' and name == 'a field') == 1
    assert line.count(b'"') == 8, 'request, referer, agent and host: %r' % line
    assert not re.search(rb'[\x00-\x08\x0a-\x1f\x7f]', line) and b'\t' not in tail[1]


def clean(data):
    """No byte of C1 outside of UTF-8, none of its characters in UTF-8."""
    try:
        decoded = data.decode()
    except UnicodeDecodeError:
        decoded = data.decode('utf-8', 'surrogateescape')
    return not re.search('[\x00-\x08\x0b-\x1f\x7f-\x9f\udc80-\udc9f]', decoded)


C1 = [bytes([n]) for n in range(0x80, 0xa0)] + [b'\xc2' + bytes([n]) for n in range(0x80, 0xa0)] + [b'\xc3',
                                                                                                    b'\xe2\x82',
                                                                                                    b'\xff\x9b',
                                                                                                    b'\xe0\x9b\x9b',
                                                                                                    b'\xed\x9f',
                                                                                                    b'\xf0\x9b\x9b']


@pytest.mark.parametrize('field', ['X-Request-Id', 'User-Agent', 'Referer'])
@pytest.mark.parametrize('form', ['text', 'json'])
def test_control_bytes_of_c1_never_reach_a_terminal(field, form):
    """CSI is 0x9b in one byte; a terminal in UTF-8 takes U+009B for it, too."""
    config = text_config if form == 'text' else upstream_config
    with AutoWorker() as w, Proxy(config(w.address, 'trusted_proxies = 127.0.0.1\n')) as p, p.connect() as c:
        for i, bad in enumerate(C1):
            assert c.ask('GET', '/c1/%d' % i, {field: 'a' + bad.decode('latin-1') + '31mb'}).status == 200
        wait_for(lambda: len(p.access()) == len(C1))
        with open(p.access_path, 'rb') as f:
            for line in f.read().splitlines():
                assert clean(line), line


def test_text_that_is_no_control_stays_readable(text):
    with text.connect() as c:
        assert c.ask('GET', '/readable', {'User-Agent': 'k\xc3\xa4se \xe2\x82\xac \xe6\xbc\xa2'}).status == 200
    assert 'k\xe4se'.encode() in line_of(text, '/readable')


WORKER = r'''
import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen()
out = getattr(sys, sys.argv[2]).buffer
c1 = [bytes([n]) for n in range(0x80, 0xa0)]
for bad in c1 + [b'\xc2' + n for n in c1] + [b'\x1b', b'\x00', b'\x7f']:
    out.write(b'mark ' + bad + b'31m\n')
out.write('mark k\xe4se \u20ac\n'.encode())
out.write(b'marked end\n')
out.flush()
while True:
    c = s.accept()[0]
    if c.recv(65536):
        c.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok')
    c.close()
'''


@pytest.mark.parametrize('stream', ['stdout', 'stderr'])
def test_the_output_of_a_worker_has_none_either(stream):
    """Its lines stand in our log, and so does what it was told by a client."""
    config = 'listen = {listen}\nadmin = {admin}\n[web]\nroutes = *\ncmd = %s {dir}/w.py {socket} %s\n'
    with Proxy(config % (sys.executable, stream), files={'w.py': WORKER}) as p:
        p.wait_log('marked end')
        with open(p.log_path, 'rb') as f:
            lines = [line for line in f.read().splitlines() if b'mark' in line]
        assert len(lines) == 69
        for line in lines:
            assert clean(line), line
        assert any('k\xe4se'.encode() in line for line in lines), 'text stays text'


def test_the_last_words_of_a_worker_have_none_either():
    """They are told again when it ends, and in the answer to a reload."""
    script = "import sys; sys.stderr.buffer.write(b'last \\x9b31m \\xc2\\x9b31m \\x1b[31m words\\n'); sys.exit(3)"
    script = script.replace('\\', '\\\\').replace('"', '\\"')
    config = '[web]\nroutes = *\ncmd = %s -c "%s" {socket}\nmax_restarts = 1\n' % (sys.executable, script)
    with Own(config, wait=False) as p:
        p.up()
        wait_for(lambda: p.log().count('words') >= 2, what='its last words')
        with open(p.log_path, 'rb') as f:
            for line in f.read().splitlines():
                assert clean(line), line
        assert clean(p.admin('GET', '/status')[2])
