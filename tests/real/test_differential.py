"""The requests of tests/wire.py through nginx and HAProxy too. What ldcorn passes and one of them
refuses stands in a list with the reason; nothing else may."""
import re, shutil, subprocess, threading

import pytest
from harness import Client, Proxy, Timeout, _Listener, free_port, make_dir, upstream_config, wait_for
from needs import need
from wire import REQUESTS

NGINX = '''
daemon off;
master_process off;
worker_processes 1;
pid {dir}/pid;
error_log {dir}/log;
events { worker_connections 64; }
http {
    access_log off;
    client_body_temp_path {dir}/a;
    proxy_temp_path {dir}/b;
    fastcgi_temp_path {dir}/c;
    uwsgi_temp_path {dir}/d;
    scgi_temp_path {dir}/e;
    large_client_header_buffers 4 64k;
    client_max_body_size 64m;
    server {
        listen 127.0.0.1:{port};
        location / {
            proxy_pass http://{worker};
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header Connection close;
        }
    }
}
'''
HAPROXY = '''
global
    nbthread 1
    tune.bufsize 65536
    tune.http.maxhdr 500
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
    timeout http-request 5s
    timeout http-keep-alive 5s
frontend f
    bind 127.0.0.1:{port}
    default_backend b
backend b
    http-reuse never
    server w {worker}
'''
PROGRAMS = {'nginx': (NGINX, ['-p', '{dir}', '-c', '{dir}/conf']), 'haproxy': (HAPROXY, ['-db', '-f', '{dir}/conf'])}

# What ldcorn passes and another refuses, and why that is right.
TOKEN = 'nginx takes methods of A to Z, - and _; a method is a token, and which there are is for the worker to say'
STAR = 'nginx knows no OPTIONS *; RFC 9112 3.2.4 defines it'
TAB = 'nginx does not take a tab for a blank around a value; RFC 9112 5.1 does, and the worker gets none'
HOST = 'HAProxy wants Host to be what the target says; RFC 9112 3.2.2: the target counts, and the worker gets it as Host'
KEY = 'HAProxy wants Sec-WebSocket-Key with every Upgrade: websocket; that is for the worker, and where ldcorn strips ' \
      'Upgrade the worker sees a plain request'
KNOWN = {
    'nginx': {
        '9110 9.1: method of all token bytes': TOKEN,
        '9110 9.1: a method of its own in lower case': TOKEN,
        '9112 3.2.4: star with OPTIONS': STAR,
        '9110 7.6.2: Max-Forwards 1 on OPTIONS *': STAR,
        '9110 7.2: Host with blanks around it': TAB,
        '9112 6.3: length between blanks and tabs': TAB,
        '9112 6.1: coding between blanks and tabs': TAB,
    },
    'haproxy': {
        '9112 3.2.1: absolute form with a query only': 'HAProxy takes ?q for a part of the authority; RFC 3986 3.2 ends it there',
        'absolute form against Host: another host': HOST,
        'absolute form against Host: another port': HOST,
        'absolute form against Host: address in brackets': HOST,
        'absolute form against Host: forged X-Forwarded-Host': HOST,
        '9110 7.8: upgrade that is not taken': KEY,
        '9110 7.8: upgrade in a list of options': KEY,
        '9110 7.8: upgrade with length 0': KEY,
        '9110 7.8: upgrade list': KEY,
        '9110 7.8: upgrade with POST': KEY,
        '9110 7.8: upgrade with HEAD': KEY,
        '9110 7.8: upgrade in 1.0': KEY,
        'websocket smuggling: request behind an upgrade that is not taken': KEY,
        'websocket smuggling: wrong Sec-WebSocket-Version': KEY,
        'h2c upgrade: second in a list': KEY,
        'h2c upgrade: settings with websocket': KEY,
    },
}


class Recorder(_Listener):
    """Reads each connection to its end and answers what is a whole request; knows nothing of rules."""

    def __init__(self):
        super().__init__()
        self.whole, self.lock = 0, threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                sock = self.sock.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock):
        data = b''
        sock.settimeout(20)
        try:
            while True:
                more = sock.recv(65536)
                if not more:
                    return
                data += more
                size = whole(data)
                if size:
                    with self.lock:
                        self.whole += 1
                    sock.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n')
                    return
        except OSError:
            pass
        finally:
            sock.close()


def whole(data):
    """Whether a request is there to its end; lengths as a simple server reads them."""
    head, end, body = data.partition(b'\r\n\r\n')
    if not end:
        return False
    fields = [line.partition(b':') for line in head.lower().split(b'\r\n')[1:]]
    fields = {name: value.strip() for name, _, value in fields}
    if b'chunked' in fields.get(b'transfer-encoding', b''):
        return body.endswith(b'\r\n\r\n') and re.search(rb'(^|\n)0\r\n', body) is not None      # trailers too
    return len(body) >= int(fields.get(b'content-length') or 0)


class Other:
    """Another proxy in front of a recorder."""

    def __init__(self, name):
        text, args = PROGRAMS[name]
        self.worker, self.dir, self.port = Recorder(), make_dir(), free_port()
        for mark, value in (('{dir}', self.dir), ('{port}', str(self.port)), ('{worker}', self.worker.address)):
            text = text.replace(mark, value)
            args = [a.replace(mark, value) for a in args]
        with open(self.dir + '/conf', 'w') as f:
            f.write(text)
        with open(self.dir + '/err', 'wb') as err:
            self.proc = subprocess.Popen([shutil.which(name)] + args, stdin=subprocess.DEVNULL, stdout=err, stderr=err)
        self.address = ('127.0.0.1', self.port)
        wait_for(self._up, 20, name + ' to listen')

    def _up(self):
        assert self.proc.poll() is None, open(self.dir + '/err').read()
        try:
            Client(self.address).close()
            return True
        except OSError:
            return False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.proc.terminate()
        try:
            self.proc.wait(10)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()
        self.worker.close()
        shutil.rmtree(self.dir, ignore_errors=True)


def passes(address, worker, sent):
    """Whether the first request reaches the worker whole. The answer comes behind that, so it is awaited."""
    before = worker.whole
    with Client(address, 3) as c:
        try:
            c.sock.sendall(sent)
            while not re.search(rb'^HTTP/1\.1 [2-5]', c.buf, re.M) and c._fill():
                pass                        # an interim answer comes before the worker has it all
        except (Timeout, OSError):
            pass                            # hangs, or ends without a word: not passed either
    return worker.whole > before


@pytest.fixture(scope='module')
def taken():
    """Names of the rows that ldcorn passes."""
    with Recorder() as worker, Proxy(upstream_config(worker.address, 'trusted_proxies = none\n', 'worker_keepalive = 0\n')) as p:
        yield {name(case) for case in REQUESTS if passes(p.address, worker, case.sent)}


def name(case):
    return '%s: %s' % (case.rule, case.name)


@pytest.mark.parametrize('program', sorted(PROGRAMS))
def test_what_others_refuse(taken, program):
    need(program)
    with Other(program) as other:
        assert passes(other.address, other.worker, b'GET / HTTP/1.1\r\nHost: a\r\n\r\n'), 'it refuses everything'
        refused = {name(case) for case in REQUESTS if name(case) in taken and not passes(other.address, other.worker, case.sent)}
    listed = set(KNOWN.get(program, {}))
    assert listed <= {name(case) for case in REQUESTS}, 'listed, but no row of the table: %s' % sorted(listed - {name(c) for c in REQUESTS})
    assert sorted(refused - listed) == [], 'passed by ldcorn, refused by %s' % program
    assert sorted(listed - refused) == [], 'listed, but %s passes it too or ldcorn refuses it' % program


def test_ldcorn_passes_what_the_table_says(taken):
    """The table and the recorder agree."""
    for case in REQUESTS:
        assert (name(case) in taken) == (not case.status), name(case)
