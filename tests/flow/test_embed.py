"""The library in a host's own poll loop."""
import subprocess, time

import pytest
from harness import PLAIN, Client, built, free_port, head, wait_for
from procs import cpu_seconds, descriptors

SAN = '-O0 -g -Wall -Wextra -fsanitize=address,undefined -DLDCORN_AUDIT'.split()


def test_two_instances_in_one_poll_loop():
    """collect, timeout, dispatch, stop, hooks; every byte that the allocator gave comes back."""
    binary = built('embed/embed.c', *PLAIN, library=True)
    ports = free_port(), free_port()
    p = subprocess.Popen([binary] + ['127.0.0.1:%d' % n for n in ports], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert p.stdout.readline() == b'open\n'
        for port, name in zip(ports, (b'one', b'two')):
            with Client(('127.0.0.1', port)) as c:
                for _ in range(3):
                    c.send(head('GET', '/'))
                    assert c.read_response().body == name
                c.send(head('POST', '/', body=b'said'))
                assert c.read_response().body == b'said'
        out, _ = p.communicate(timeout=20)
        assert (p.returncode, out) == (0, b'one 4\n')
    finally:
        if p.poll() is None:
            p.kill()


class Host:
    """tests/embed/hooks.c: its answers and events as lines."""

    def __init__(self):
        binary = built('embed/hooks.c', *SAN, library=True)
        self.port = free_port()
        self.p = subprocess.Popen([binary, '127.0.0.1:%d' % self.port], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.seen = []

    def next(self, start):
        """The next line that begins so; those before it are kept."""
        while True:
            line = self.p.stdout.readline()
            assert line, self.seen
            self.seen.append(line.strip())
            if line.startswith(start):
                return line.strip()

    def do(self, what):
        self.p.stdin.write(what + '\n')
        self.p.stdin.flush()
        return self.next('did ')

    def end(self):
        out, _ = self.p.communicate(timeout=20)
        assert self.p.returncode == 0
        return out

    def kill(self):
        if self.p.poll() is None:
            self.p.kill()
            self.p.wait()
        self.p.stdin.close()
        self.p.stdout.close()


def test_filter_events_and_control_by_the_host():
    h = Host()
    try:
        assert {h.next('ready group=')[:22] for _ in range(2)} == {'ready group=a worker=0', 'ready group=b worker=0'}
        with Client(('127.0.0.1', h.port)) as c:
            def ask(method, path, *fields):
                return c.send(head(method, path, fields)).read_response(method)
            # Its fields come in place of the client's own.
            assert ask('GET', '/', ('X-User', 'root'), ('x-user', 'root')).body == b'a ada 127.0.0.1'
            assert h.next('request') == 'request group=a worker=0 status=200 text= id=1 client=127.0.0.1 times=111'
            r = ask('BREW', '/teapot?now')
            assert (r.status, r.body, r.get('content-type')) == (418, b'short and stout', 'text/plain; charset=utf-8')
            assert h.next('request') == 'request group= worker=-1 status=418 text= id=1 client=127.0.0.1 times=100'
            assert ask('GET', '/empty').status == 204
            assert ask('GET', '/', ('X-Pick', 'b')).body.startswith(b'b ada')
            assert ask('GET', '/b').body.startswith(b'b ada')
            r = ask('GET', '/', ('X-Pick', 'nobody'))
            assert r.status == 404 and h.next('request group= worker=-1 status=404 text=route')
            assert ask('GET', '/%2e%2e/b/../../c', ('X-Pick', 'b')).status == 400        # a choice makes no path good

            assert h.do('scale a 2') == 'did scale 0'
            assert h.next('ready group=a worker=1')
            assert h.do('scale a 0').startswith('did scale -1 ') and 'no group `z`' in h.do('pause z -1')
            assert 'no worker 7' in h.do('restart a 7') and h.do('restart a 1') == 'did restart 0'
            assert h.next('ready group=a worker=1') and h.next('exited group=a worker=1')
            assert h.do('restart b -1') == 'did restart 0'
            assert h.next('reloaded group=b').endswith('times=000')
        with Client(('127.0.0.1', h.port)) as c:
            assert h.do('pause a -1') == 'did pause 0'
            c.send(head('GET', '/'))
            assert c.silent()
            assert h.do('resume a -1') == 'did resume 0'
            assert c.read_response().body.startswith(b'a ada')
            assert h.do('pause a 0') == 'did pause 0' and h.do('resume a 0') == 'did resume 0'
        h.end()
    finally:
        h.kill()


def test_answers_of_a_filter_that_have_no_body():
    """204 and 304 end with their head, and 204 names no length (RFC 9110 8.6): what stood behind it would be
    taken for the next answer. What is no final status is refused."""
    h = Host()
    try:
        for _ in range(2):
            h.next('ready group=')
        for target, status in ('/none', 204), ('/same', 304), ('/empty', 204):
            with Client(('127.0.0.1', h.port)) as c:
                c.send(head('GET', target) + head('GET', '/'))
                r = c.read_response()
                assert r.status == status
                assert status != 204 or r.get('content-length') is None
                assert c.read_response().body.startswith(b'a ada')
        with Client(('127.0.0.1', h.port)) as c:
            assert c.ask('GET', '/wrong').status == 200
        h.end()
    finally:
        h.kill()


def test_a_close_in_the_middle_of_a_reload(tmp_path):
    (tmp_path / 'g.ini').write_text('listen = unix:%s/l\nadmin = off\nruntime_dir = %s/run\n[a]\nroutes = *\nfunction = work\n[b]\nroutes = /b\n'
                                    'upstream = unix:%s/nobody\noptional = on\n' % (tmp_path, tmp_path, tmp_path))
    binary = built('embed/close.c', *SAN, library=True)
    done = subprocess.run([binary, tmp_path / 'g.ini'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stdout) == (0, b'closed\n') and b'eload' not in done.stderr.replace(b'Reload: ', b''), done.stderr.decode()


# --- ldcorn_serve ---

@pytest.fixture(scope='module')
def serve(tmp_path_factory):
    """Starts tests/embed/serve.c."""
    folder = tmp_path_factory.mktemp('serve')
    binary = built('embed/serve.c', *SAN, library=True)
    return lambda *args: Serve(binary, folder, *args)


class Serve:
    number = 0

    def __init__(self, binary, folder, *args):
        Serve.number += 1
        self.path = str(folder / ('s%d' % Serve.number))
        self.p = subprocess.Popen([binary, self.path, *args], stdout=subprocess.PIPE)
        assert self.p.stdout.readline() == b'open\n'

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.p.kill()
        self.p.communicate()

    def dial(self):
        return Client('unix:' + self.path)

    def sockets(self):
        return sum(to.startswith('socket:') for to in descriptors(self.p.pid).values())

    def rests(self):
        """It waits in the kernel, and takes no processor to do it."""
        before = cpu_seconds(self.p.pid)
        time.sleep(0.3)
        return cpu_seconds(self.p.pid) - before < 0.1


@pytest.mark.parametrize('connection', [(), (('Connection', 'close'),)])
@pytest.mark.parametrize('target', ['/5-slow', '/3000000-slow', '/3000000'])
def test_serve_lets_go_of_a_peer_that_left(serve, target, connection):
    """Before its answer, or in the middle of it; `close` asks for the end of the connection, not for its life."""
    with serve() as s:
        for _ in range(3):
            c = s.dial().send(head('GET', target, connection))
            if 'slow' not in target:
                c.read_until(b'xxx')
            c.close()
        wait_for(lambda: s.sockets() == 1)
        assert s.rests()
        with s.dial() as c:
            assert c.ask('GET', '/4').body == b'xxxx'


def test_serve_ends_a_connection_when_all_is_said(serve):
    with serve() as s, s.dial() as c:
        c.send(head('GET', '/7') + head('GET', '/3000000', (('Connection', 'close'),)) + head('GET', '/8'))
        assert len(c.read_response().body) == 7
        time.sleep(0.05)                                    # its second answer fills the socket
        assert len(c.read_response().body) == 3000000 and c.eof()


def test_serve_without_descriptors_waits(serve):
    with serve('12') as s:
        held = [s.dial() for _ in range(20)]
        wait_for(lambda: s.sockets() > 5)
        assert s.rests()
        for c in held[:15]:
            c.close()
        assert held[-1].ask('GET', '/3').body == b'xxx'
        for c in held:
            c.close()
