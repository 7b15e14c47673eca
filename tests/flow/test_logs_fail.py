"""Log targets that fail or do not read: the proxy goes on, and what is lost is lost in whole lines and counted."""
import json, os, re, resource, select, signal, sys, time

import pytest
import machine
from harness import AutoWorker, Proxy, head, wait_for
from procs import cpu_seconds
from test_config import WHEN

CONFIG = 'listen = {listen}\nadmin = {admin}\n%s[web]\nroutes = *\nupstream = %s\n'


def ask(p, n, size=0):
    """n requests on one connection, each with a line of `size` bytes more in the access log."""
    with p.connect() as c:
        for i in range(n):
            assert c.ask('GET', '/%d' % i, {'User-Agent': 'x' * size}).body == b'ok'


def lively(p, n=50, size=0):
    """It serves, answers on admin, and does not spin."""
    start = time.monotonic()
    ask(p, n, size)
    assert p.status()['pid'] == p.pid
    before = cpu_seconds(p.pid)
    end = time.monotonic() + 0.3
    while time.monotonic() < end:                    # idle
        select.select([], [], [], 0.05)
    assert cpu_seconds(p.pid) - before < 0.1
    assert time.monotonic() - start < 8


def counted(text):
    """The sum of what the notes say was lost."""
    return sum(int(n.replace(',', '')) for n in re.findall(r'(\d[\d,]*) (?:log )?lines? dropped', text))


# --- a disk that is full ---

@pytest.mark.needs('dev-full')
@pytest.mark.parametrize('key', ['access_log', 'log'])
@pytest.mark.parametrize('form', ['text', 'json'])
def test_a_full_disk(key, form):
    """/dev/full takes nothing, ever."""
    with AutoWorker() as w, Proxy(CONFIG % ('%s = /dev/full\nlog_format = %s\n' % (key, form), w.address),
                                  wait=key != 'log') as p:
        up(p)
        lively(p)
        if key == 'access_log':
            assert len(p.log()) < 4000, 'the loss is not told once per line'


def up(p):
    def answers():
        try:
            return p.admin('GET', '/readyz')[0] == 200
        except OSError:
            assert p.alive()
    wait_for(answers, what='ready')


LIMIT = 60_000


def small_files():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, resource.RLIM_INFINITY))


def fill(path):
    with open(path, 'rb') as f:
        return f.read()


@pytest.fixture
def full():
    """A proxy whose access log has met the end of its disk in the middle of a line, and has room again."""
    machine.need('prlimit')
    with AutoWorker() as w, Proxy(CONFIG % ('access_log = {dir}/access\nlog_format = json\n', w.address),
                                  preexec=small_files) as p:
        p.sent = 120
        ask(p, p.sent, 1000)                             # about 1.4 kB each
        wait_for(lambda: os.path.getsize(p.access_path) >= LIMIT - 3000)
        assert os.path.getsize(p.access_path) <= LIMIT
        resource.prlimit(p.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        ask(p, 20)
        p.sent += 20
        wait_for(lambda: b'"target":"/19"' in fill(p.access_path)[LIMIT - 3000:])
        yield p


def test_a_disk_that_fills_has_whole_lines(full):
    lines = fill(full.access_path).split(b'\n')
    torn = [line for line in lines if line.startswith(b'{') and not line.endswith(b'}') or line.count(b'{"time"') > 1]
    assert not torn, torn


def test_a_disk_that_fills_is_counted(full):
    wait_for(lambda: 'dropped' in full.log() or b'dropped' in fill(full.access_path))
    got = len(re.findall(rb'(?m)^\{"time".*"target".*\}$', fill(full.access_path)))
    assert counted(full.log() + fill(full.access_path).decode()) == full.sent - got


# --- readers that do not read ---

class Fifo:
    """A named pipe whose reader holds it open. `read` empties it."""

    def __init__(self, path):
        os.mkfifo(path)
        self.path, self.fd, self.data = path, os.open(path, os.O_RDONLY | os.O_NONBLOCK), b''

    def read(self):
        """What there is now; b'' when there is nothing (or nobody)."""
        out = b''
        while True:
            try:
                data = os.read(self.fd, 1 << 16)
            except BlockingIOError:
                data = b''
            if not data:
                self.data += out
                return out
            out += data

    def close(self):
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


@pytest.fixture
def fifo(tmp_path):
    f = Fifo(str(tmp_path / 'fifo'))
    yield f
    f.close()


def lose(p, fifo, key='access', n=250):
    """More than the pipe and the ring hold, while nobody reads; then everything is read."""
    ask(p, n, 8000)                                      # 2 MB of lines
    lively(p, 10)
    fifo.read()
    wait_for(lambda: (fifo.read(), ask(p, 1), b'dropped' in fifo.data or 'dropped' in p.log())[2])
    wait_for(lambda: not fifo.read() and fifo.data.endswith(b'\n') and not select.select([fifo.fd], [], [], 0.1)[0])


def stalled(fifo, form):
    return 'access_log = %s\nlog_format = %s\n' % (fifo.path, form)


def test_a_reader_that_does_not_read(fifo):
    with AutoWorker() as w, Proxy(CONFIG % (stalled(fifo, 'text'), w.address)) as p:
        lose(p, fifo)
        served = w.served

        def told():
            """The records, when with the lost ones they are all: the last line comes a moment behind its answer."""
            fifo.read()
            *lines, rest = fifo.data.decode().split('\n')
            records = [line for line in lines if 'dropped' not in line]
            return not rest and len(records) + counted(fifo.data.decode() + p.log()) == served and records
        records = wait_for(told, what='a line or a loss for each request')
        assert all(re.match(r'127\.0\.0\.1 .*"GET /\d+ HTTP/1\.1" 200 .* total_ms=', line) for line in records), \
            [line for line in records if not line.startswith('127')][:3]
        assert len(records) < served


def test_a_reader_that_does_not_read_json(fifo):
    with AutoWorker() as w, Proxy(CONFIG % (stalled(fifo, 'json'), w.address)) as p:
        lose(p, fifo)
        for line in fifo.data.decode().splitlines():
            json.loads(line)


def test_a_reader_that_leaves(fifo):
    """EPIPE, and no SIGPIPE."""
    with AutoWorker() as w, Proxy(CONFIG % (stalled(fifo, 'text'), w.address)) as p:
        ask(p, 1)
        wait_for(fifo.read)
        fifo.close()
        lively(p)
        fifo.fd = os.open(fifo.path, os.O_RDONLY | os.O_NONBLOCK)
        fifo.data = b''
        wait_for(lambda: (ask(p, 1), fifo.read(), b'"GET /0 ' in fifo.data)[2])


def test_the_own_log_into_a_pipe_that_nobody_reads():
    """stderr is inherited: it must not become non-blocking for those who share it."""
    read, write = os.pipe()
    with AutoWorker() as w:
        p = Proxy(CONFIG % ('access_log = stderr\n', w.address), wait=False,
                  preexec=lambda: (os.dup2(write, 2), None)[1])
        with p:
            up(p)
            ask(p, 250, 8000)
            lively(p, 10)
            assert os.get_blocking(write)
        os.close(write)
        data = b''
        while True:
            more = os.read(read, 1 << 16)
            if not more:
                break
            data += more
    os.close(read)
    assert b'"GET /0 HTTP/1.1" 200' in data


def test_a_reader_that_is_not_there_yet(tmp_path):
    """Opening a fifo for writing waits for its reader: at the start ..."""
    path = str(tmp_path / 'fifo')
    os.mkfifo(path)
    with AutoWorker() as w:
        p = Proxy(CONFIG % ('access_log = %s\n' % path, w.address), wait=False)
        try:
            def answers_or_over():
                return not p.alive() or 'ready after' in p.log()
            wait_for(answers_or_over, 3, 'either an error or a start')
        except BaseException:
            p._kill()
            raise
        finally:
            if p.alive():
                p.stop()


def test_a_reader_that_is_gone_at_usr1(fifo):
    """... and when log files are opened again."""
    with AutoWorker() as w, Proxy(CONFIG % (stalled(fifo, 'text'), w.address)) as p:
        ask(p, 1)
        wait_for(fifo.read)
        fifo.close()
        p.signal(signal.SIGUSR1)
        try:
            for _ in range(3):
                assert p.admin('GET', '/healthz', timeout=1.5)[0] == 200
        finally:
            reader = os.open(fifo.path, os.O_RDONLY | os.O_NONBLOCK)        # lets go of it
            wait_for(lambda: p.status())
            os.close(reader)


# --- what workers print ---

TALKS = '''
import os, socket, sys, time
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen(64)
n = 0
while True:
    c, _ = s.accept()
    data = b''
    while b'\\r\\n\\r\\n' not in data:
        more = c.recv(65536)
        if not more:
            break
        data += more
    if not data:
        c.close()
        continue
    if data.startswith(b'GET /talk'):
        for _ in range(400):
            n += 1
            os.write(1, b'<%06d %s>\\n' % (n, b'x' * 3000))
    if data.startswith(b'GET /halves'):
        for _ in range(150):
            n += 1
            os.write(1, b'<%06d %s' % (n, b'x' * 3000))
            time.sleep(0.001)
            os.write(1, b'>\\n')
    c.sendall(b'HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: 2\\r\\n\\r\\nok')
    c.close()
'''


def pump(p, fifo):
    """Read what is held back for the target: it goes on with the proxy's turns."""
    idle = 0
    while idle < 4:
        idle = 0 if fifo.read() else idle + 1
        ask(p, 1)


def talker(target, raw=False, top=''):
    return Proxy('%s[web]\nroutes = *\ncmd = %s -S talks.py {socket}\nworker_log = %s%s\n'
                 % (top, sys.executable, target, ' raw' if raw else ''), files={'talks.py': TALKS})


@pytest.mark.needs('dev-full')
def test_worker_log_on_a_full_disk():
    with talker('/dev/full') as p:
        with p.connect() as c:
            assert c.ask('GET', '/talk').body == b'ok'
        lively(p)


@pytest.mark.parametrize('target', ['/talk', '/halves'])
@pytest.mark.parametrize('raw', [False, True], ids=['prefixed', 'raw'])
def test_worker_log_that_nobody_reads(fifo, raw, target):
    """The worker is not held up by it either, and no line is torn."""
    with talker(fifo.path, raw) as p:
        for _ in range(3):
            with p.connect() as c:
                assert c.ask('GET', target).body == b'ok'
        lively(p)
        pump(p, fifo)
        lines = [line for line in fifo.data.decode().split('\n') if line and 'dropped' not in line]
        good = re.compile(r'((%s )?web\.0 \d+ )?<\d{6} x{3000}>' % WHEN)
        assert 1 < len(lines) < 450
        assert all(good.fullmatch(line) for line in lines), [line[:40] for line in lines if not good.fullmatch(line)]


def test_worker_log_that_nobody_reads_is_counted(fifo):
    with talker(fifo.path) as p:
        for _ in range(3):
            with p.connect() as c:
                assert c.ask('GET', '/talk').body == b'ok'
        pump(p, fifo)
        have = len(re.findall(rb'(?m)<\d{6} x{3000}>$', fifo.data))
        assert have < 1200
        wait_for(lambda: (fifo.read(), counted(fifo.data.decode() + p.log()) == 1200 - have)[1], 2)
