"""Every server and every client as people run them: it starts, answers, is replaced under load, stops."""
import json, os, signal, subprocess

import pytest
from harness import Proxy, wait_for
from needs import Load, ask, gone, hup, need, pids

ASGI = '''
import json, os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    if scope["path"] == "/big":
        out = b"0123456789abcdef" * 65536
    elif scope["path"] == "/echo":
        out = body
    else:
        fields = {k.decode(): v.decode() for k, v in scope["headers"]}
        out = json.dumps({"pid": os.getpid(), "method": scope["method"], "path": scope["path"], "length": len(body),
                          "for": fields.get("x-forwarded-for")}).encode()
    await send({"type": "http.response.start", "status": 200,
                "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(out)).encode())]})
    await send({"type": "http.response.body", "body": out})
'''
WSGI = '''
import json, os

def app(environ, start_response):
    body = environ["wsgi.input"].read()
    if environ["PATH_INFO"] == "/big":
        out = b"0123456789abcdef" * 65536
    elif environ["PATH_INFO"] == "/echo":
        out = body
    else:
        out = json.dumps({"pid": os.getpid(), "method": environ["REQUEST_METHOD"], "path": environ["PATH_INFO"],
                          "length": len(body), "for": environ.get("HTTP_X_FORWARDED_FOR")}).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(out)))])
    return [out]
'''
NODE = '''
const http = require('http')
http.createServer((req, res) => {
  const parts = []
  req.on('data', d => parts.push(d))
  req.on('end', () => {
    const body = Buffer.concat(parts)
    let out = Buffer.from(JSON.stringify({pid: process.pid, method: req.method, path: req.url, length: body.length,
                                          for: req.headers['x-forwarded-for']}))
    if (req.url === '/big') out = Buffer.alloc(1 << 20, '0123456789abcdef')
    if (req.url === '/echo') out = body
    res.writeHead(200, {'Content-Type': 'application/json', 'Content-Length': out.length})
    res.end(out)
  })
}).listen(process.env.FD ? {fd: +process.env.FD} : process.env.PORT)
'''
FILES = {'asgi.py': ASGI, 'wsgi.py': WSGI, 'app.js': NODE}
BIG = b'0123456789abcdef' * 65536

# name: command line, and what has to be installed. Debian's own Python, whichever comes first in PATH.
SERVERS = {
    'uvicorn-socket': ('uvicorn asgi:app --uds {socket} --log-level warning', 'uvicorn'),
    'uvicorn-port': ('uvicorn asgi:app --port {port} --log-level warning', 'uvicorn'),
    'uvicorn-fd': ('uvicorn asgi:app --fd {fd} --log-level warning', 'uvicorn'),
    'gunicorn-socket': ('gunicorn wsgi:app -b unix:{socket}', 'gunicorn'),
    'gunicorn-port': ('gunicorn wsgi:app -b 127.0.0.1:{port}', 'gunicorn'),
    # It takes the socket from LISTEN_FDS by itself; told about it a second time it fails on the closed number.
    'gunicorn-fd': ('env UNUSED={fd} gunicorn wsgi:app', 'gunicorn'),
    'gunicorn-fd-bind': ('env -u LISTEN_FDS gunicorn wsgi:app -b fd://{fd}', 'gunicorn'),
    'gunicorn-uvicorn': ('gunicorn -k uvicorn.workers.UvicornWorker asgi:app -b unix:{socket}', 'gunicorn', 'uvicorn'),
    'hypercorn-socket': ('/usr/bin/python3 -m hypercorn asgi:app -b unix:{socket}', 'hypercorn'),
    'hypercorn-port': ('/usr/bin/python3 -m hypercorn asgi:app -b 127.0.0.1:{port}', 'hypercorn'),
    'hypercorn-fd': ('/usr/bin/python3 -m hypercorn asgi:app -b fd://{fd}', 'hypercorn'),
    'node-socket': ('env PORT={socket} node app.js', 'node'),
    'node-port': ('env PORT={port} node app.js', 'node'),
    'node-fd': ('env FD={fd} node app.js', 'node'),
}


def serve(name, workers=2, group=''):
    command, *needed = SERVERS[name]
    need(*needed)
    # node has no end of its own for TERM that waits; ldcorn drains before it sends one
    return Proxy('[all]\nroutes = *\ncmd = %s\nworkers = %d\n%s' % (command, workers, group), files=FILES,
                 env={'PYTHONDONTWRITEBYTECODE': '1'}, start_timeout=60)


@pytest.mark.parametrize('name', SERVERS)
def test_server(name):
    with serve(name) as p:
        first = pids(p, 'all')
        assert len(first) == 2

        with p.connect() as c:                   # one client connection, whatever the server does with its own
            for method, target, body in (('GET', '/a', None), ('GET', '/b?x=1', None), ('POST', '/c', b'y' * 300000),
                                         ('PUT', '/d', b''), ('DELETE', '/e', None)):
                r = c.ask(method, target, body=body)
                assert r.status == 200, r
                said = json.loads(r.body)
                assert (said['method'], said['length'], said['for']) == (method, len(body or b''), '127.0.0.1'), said
            c.send(b'POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n'
                   b'5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n')
            assert c.read_response().body == b'hello world'
            r = c.ask('HEAD', '/a')
            assert r.status == 200 and not r.body and int(r.get('content-length')) > 0
            assert c.ask('GET', '/big').body == BIG

        with Load(p, '/') as load:
            for _ in range(2):
                hup(p, 60)
        load.check()
        wait_for(lambda: all(gone(pid) for pid in first), 20, 'the end of the first workers')
        last = pids(p, 'all')
        assert len(last) == 2 and not first & last
        p.stop()
        wait_for(lambda: all(gone(pid) for pid in last), 5, 'the end of the last workers')


@pytest.mark.parametrize('name', ['uvicorn-socket', 'gunicorn-socket', 'hypercorn-socket', 'node-socket'])
def test_limited(name):
    """A limit of one: all answered, in servers that keep connections and in those that do not."""
    with serve(name, group='max_req_per_worker = 1') as p:
        with Load(p, '/', clients=16, pause=0) as load:
            hup(p, 60)
        load.check()


@pytest.mark.parametrize('name', ['uvicorn-fd', 'gunicorn-socket', 'node-port'])
def test_killed(name):
    """A worker that is killed is there again, under a new process, and others were there all the time."""
    with serve(name) as p:
        first = pids(p, 'all')
        victim = min(first)
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: len(pids(p, 'all') - {victim}) == 2, 20, 'a new worker')
        assert first - {victim} < pids(p, 'all')
        assert ask(p, 'GET', '/').status == 200


# --- clients ---

@pytest.fixture(scope='module')
def url():
    with serve('uvicorn-socket') as p:
        yield 'http://127.0.0.1:%d' % p.port


def run(*command, stdin=b''):
    r = subprocess.run(command, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
    assert r.returncode == 0, r
    return r.stdout, r.stderr.decode()


def test_curl(url):
    need('curl')
    out, trace = run('curl', '-sv', url + '/a', url + '/b')
    assert out.count(b'"pid"') == 2 and 'Re-using existing connection' in trace, trace
    assert run('curl', '-s', '--http1.0', url + '/big')[0] == BIG
    big = BIG * 3                                # from 1 MiB on curl asks first: Expect: 100-continue
    out, trace = run('curl', '-sv', '--expect100-timeout', '50', '--data-binary', '@-', url + '/echo', stdin=big)
    assert out == big and '100 Continue' in trace
    assert run('curl', '-s', '-T', '-', url + '/echo', stdin=big)[0] == big       # chunked
    out, trace = run('curl', '-sv', '--http2', url + '/a')       # asks to upgrade to h2c: to be ignored
    assert json.loads(out)['path'] == '/a' and '101 Switching' not in trace
    assert run('curl', '-sI', url + '/a')[0].startswith(b'HTTP/1.1 200')


def parts():
    for i in range(1, 20):                       # an empty part would be the last chunk
        yield BIG[:i * 1000]


WHOLE = b''.join(parts())


def test_requests(url):
    need('requests')
    import requests
    with requests.Session() as s:
        for _ in range(20):
            assert s.get(url + '/a').json()['path'] == '/a'
        assert s.post(url + '/echo', json={'x': 1}).json() == {'x': 1}
        assert s.post(url + '/echo', data=parts()).content == WHOLE
        assert b''.join(s.get(url + '/big', stream=True).iter_content(1000)) == BIG
        assert s.post(url + '/echo', files={'f': BIG}).content.count(BIG) == 1


def test_httpx(url):
    need('httpx')
    import httpx
    with httpx.Client(timeout=60) as s:
        for _ in range(20):
            assert s.get(url + '/a').json()['path'] == '/a'
        assert s.post(url + '/echo', json={'x': 1}).json() == {'x': 1}
        assert s.post(url + '/echo', content=parts()).content == WHOLE
        with s.stream('GET', url + '/big') as r:
            assert b''.join(r.iter_bytes()) == BIG


def test_aiohttp(url):
    need('aiohttp')
    import aiohttp, asyncio

    async def many():
        async def chunks():
            for part in parts():
                yield part
        async with aiohttp.ClientSession() as s:
            async def one(i):
                async with s.get('%s/%d' % (url, i)) as r:
                    assert r.status == 200 and (await r.json())['path'] == '/%d' % i
            await asyncio.gather(*(one(i) for i in range(200)))
            async with s.post(url + '/echo', data=chunks()) as r:
                assert await r.read() == WHOLE
            async with s.get(url + '/big') as r:
                assert await r.read() == BIG
    asyncio.run(many())
