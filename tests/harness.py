"""Both ends of the proxy in a test's hands: the real binary, raw clients, scripted workers.

Nothing here sleeps where an event can be awaited, and nothing uses a fixed port or path,
so that any number of test runs may share a machine.
"""
import fcntl, hashlib, json, os, random, re, select, shutil, signal, socket, struct, subprocess
import sys, tempfile, threading, time

import machine

REPO = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BIN = os.path.abspath(os.environ.get('LDCORN_BIN') or os.path.join(REPO, 'build', 'ldcorn'))
TIMEOUT = 10.0            # of everything that waits, unless a call says otherwise
STOP_TIMEOUT = 30.0
CC = (os.environ.get('CC') or 'cc').split()
# Of hosts without sanitizers: the same in all files, so that the implementation is compiled once for them.
PLAIN = ('-O0', '-g', '-Wall', '-Wextra', '-DLDCORN_AUDIT')
# A failed assertion of ours, of libc, what sanitizers say; a path or a worker may contain the words alone.
COMPLAINT = re.compile(r"ldcorn\.h:\d+: assert failed: |\bAssertion (`|failed)|: runtime error: |"
                       r"==\d+==(ERROR: |WARNING: )?\w+Sanitizer|\b\w+Sanitizer:( |DEADLYSIGNAL)")


class Timeout(AssertionError):
    """Something awaited did not happen: a failed test, not a broken one."""


def complaints(text):
    """The lines in which the program says that it is broken."""
    return [line for line in text.splitlines() if COMPLAINT.search(line)]


def wait_for(predicate, timeout=TIMEOUT, what='condition'):
    """Poll each 5 ms until the predicate is true; its value is the result."""
    end = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > end:
            raise Timeout('not within %.1f s: %s' % (timeout, what))
        time.sleep(0.005)


def built(source, *options, library=False):
    """The program that $CC makes of tests/SOURCE, or the object file with `-c`: made once for all runners and parts,
    anew when ldcorn.h or it is newer. `library`: linked with the implementation alone, which takes most of the time
    and is made once for all that have the same options."""
    objects = [built('embed/kinds_lib.c', *options, '-c')] if library else []
    source, folder = os.path.join(REPO, 'tests', source), os.path.join(REPO, 'build', 'programs')
    command = CC + list(options) + [source] + objects
    if any(o.startswith('-fsanitize=') for o in options):
        machine.need('asan')
        command += [] if '-c' in options else machine.static_sanitizers()
    name = os.path.splitext(os.path.basename(source))[0] + '-' + hashlib.sha1(repr(command).encode()).hexdigest()[:8]
    path = os.path.join(folder, name + ('.o' if '-c' in options else ''))
    os.makedirs(folder, exist_ok=True)
    with open(path + '.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        of = max(os.path.getmtime(p) for p in [source, os.path.join(REPO, 'ldcorn.h')] + objects)
        if not os.path.exists(path) or os.path.getmtime(path) <= of:
            subprocess.run(command + ['-o', path + '.new'], check=True)
            os.replace(path + '.new', path)
    return path


def readable(socks, timeout):
    """Those that have bytes or an end to read, awaited for `timeout`; any number of descriptors."""
    poll = select.poll()
    for sock in socks:
        poll.register(sock, select.POLLIN)
    found = {fd for fd, _ in poll.poll(max(timeout, 0) * 1000)}
    return [sock for sock in socks if sock.fileno() in found]


_given = set()


def free_port(host='127.0.0.1'):
    """A port below the ephemeral range, where no outgoing connection of another test can take it, and of this runner's
    share, so that no other one takes it before it is listened on."""
    if ':' in host:
        machine.need('ipv6')
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    runners = int(os.environ.get('PYTEST_XDIST_WORKER_COUNT', 1))
    first = 10000 + int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0')[2:])
    for _ in range(1000):
        port = random.SystemRandom().randrange(first, 32000, runners)
        if port in _given:
            continue
        with socket.socket(family, socket.SOCK_STREAM) as s:
            try:
                s.bind((host, port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise RuntimeError('no free port')


def _dial(address, timeout):
    """`address`: (host, port), 'unix:path' or 'host:port'."""
    if isinstance(address, str) and address.startswith('unix:'):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        s.settimeout(timeout)
        s.connect(address[5:])
        return s
    if isinstance(address, str):
        host, port = address.rsplit(':', 1)
        address = (host.strip('[]'), int(port))
    s = socket.create_connection(address, timeout)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s


def parse_head(head):
    """Bytes up to and with the empty line -> (first line, [(name, value)]), all text as latin-1."""
    lines = head.decode('latin-1').split('\r\n')
    fields = []
    for line in lines[1:]:
        if line:
            name, _, value = line.partition(':')
            fields.append((name, value.strip(' \t')))
    return lines[0], fields


class Message:
    """What a request and a response have in common."""
    headers, body, raw, head, trailers = (), b'', b'', b'', ()

    def get(self, name, default=None):
        """The one value of a field; more than one is a mistake of the sender."""
        values = self.all(name)
        assert len(values) <= 1, '%s came %d times: %r' % (name, len(values), values)
        return values[0] if values else default

    def all(self, name):
        return [v for n, v in self.headers if n.lower() == name.lower()]

    def names(self):
        return [n.lower() for n, _ in self.headers]


class Response(Message):
    status, reason, version = 0, '', ''
    complete = False      # ended by its own framing (or, for until-close, by a FIN)
    closed = False        # the end of the connection was seen while reading
    reset = False         # ... and it was a reset
    framing = 'none'      # none, length, chunked, close
    interim = ()          # the 1xx responses before this one
    chunks = ()           # sizes, as they came

    def __repr__(self):
        return '<%s %s %r%s>' % (self.status, self.reason, self.body[:200], '' if self.complete else ' CUT')


class Request(Message):
    method, target, version = '', '', ''

    def __repr__(self):
        return '<%s %s %r>' % (self.method, self.target, self.body[:200])


class Stream:
    """A socket with a buffer, every wait bounded."""

    def __init__(self, sock, timeout=TIMEOUT):
        self.sock, self.timeout, self.buf = sock, timeout, b''
        self.ended = self.was_reset = False
        sock.settimeout(timeout)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, data):
        if isinstance(data, str):
            data = data.encode('latin-1')
        try:
            self.sock.sendall(data)
        except socket.timeout:
            raise Timeout('the peer did not take %d bytes' % len(data)) from None
        return self

    def send_some(self, data, timeout=0.3):
        """Send until the peer takes no more for `timeout`; how much went."""
        sent = 0
        self.sock.settimeout(timeout)
        try:
            while sent < len(data):
                sent += self.sock.send(data[sent:sent + 65536])
        except socket.timeout:
            pass
        finally:
            self.sock.settimeout(self.timeout)
        return sent

    def _fill(self, timeout=None):
        """One receive into the buffer; False at the end of the stream."""
        if self.ended:
            return False
        wait = self.timeout if timeout is None else timeout
        if not readable([self.sock], wait):
            raise Timeout('no byte within %.1f s, buffer holds %r' % (wait, self.buf[-300:]))
        try:
            data = self.sock.recv(262144)
        except (ConnectionResetError, BrokenPipeError):
            self.was_reset, data = True, b''
        if not data:
            self.ended = True
            return False
        self.buf += data
        return True

    def recv_some(self, timeout=None):
        """What is there, or b'' at the end."""
        if not self.buf:
            self._fill(timeout)
        data, self.buf = self.buf, b''
        return data

    def read_exact(self, n, timeout=None):
        end = time.monotonic() + (self.timeout if timeout is None else timeout)
        parts, have = [self.buf], len(self.buf)         # joined once: bodies of many megabytes come here
        self.buf = b''
        try:
            while have < n:
                if not self._fill(end - time.monotonic()):
                    raise ConnectionError('ended after %d of %d bytes' % (have, n))
                parts.append(self.buf)
                have += len(self.buf)
                self.buf = b''
        finally:
            self.buf = b''.join(parts)
        data, self.buf = self.buf[:n], self.buf[n:]
        return data

    def read_until(self, mark, timeout=None):
        """Bytes up to and with the mark."""
        end = time.monotonic() + (self.timeout if timeout is None else timeout)
        while mark not in self.buf:
            if not self._fill(end - time.monotonic()):
                raise ConnectionError('ended before %r, after %r' % (mark, self.buf[-300:]))
        n = self.buf.index(mark) + len(mark)
        data, self.buf = self.buf[:n], self.buf[n:]
        return data

    def peek_until(self, mark, timeout=None):
        """Wait for the mark and leave everything in the buffer."""
        self.buf = self.read_until(mark, timeout) + self.buf

    def read_all(self, timeout=None):
        """Everything up to the end of the connection."""
        end = time.monotonic() + (self.timeout if timeout is None else timeout)
        parts = [self.buf]
        self.buf = b''
        while self._fill(end - time.monotonic()):
            parts.append(self.buf)
            self.buf = b''
        return b''.join(parts)

    def eof(self, timeout=None):
        """True when the peer ends the connection (FIN or RST) in time and nothing comes before that;
        False when bytes come instead, or time runs out."""
        if self.buf:
            return False
        try:
            return not self._fill(timeout)
        except Timeout:
            return False

    def silent(self, timeout=0.15):
        """True when neither a byte nor an end comes for that long."""
        return not self.buf and not self.ended and not readable([self.sock], timeout)

    def fin(self):
        self.sock.shutdown(socket.SHUT_WR)

    def rst(self):
        """Close with a reset instead of a FIN (on a unix socket: just close)."""
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        except OSError:
            pass
        self.sock.close()

    def close(self):
        self.sock.close()

    # Bodies. `take` below keeps what was consumed, so that `raw` is what was on the wire.

    def _chunked(self, took):
        """-> (body, chunk sizes, trailers, complete)."""
        body, sizes = [], []
        try:
            while True:
                line = self.read_until(b'\r\n')
                took.append(line)
                size = int(line.split(b';')[0].strip() or b'x', 16)
                if size == 0:
                    break
                data = self.read_exact(size)
                took.append(data)
                end = self.read_exact(2)
                took.append(end)
                assert end == b'\r\n', 'chunk of %d ends with %r' % (size, end)
                body.append(data)
                sizes.append(size)
            trailers = b''
            while True:
                line = self.read_until(b'\r\n')
                took.append(line)
                if line == b'\r\n':
                    break
                trailers += line
            return b''.join(body), sizes, parse_head(b'\r\n' + trailers)[1], True
        except ConnectionError:
            rest, self.buf = self.buf, b''
            took.append(rest)
            return b''.join(body) + rest, sizes, [], False


class Client(Stream):
    """A raw client. `address` as for a dial: (host, port), 'host:port', 'unix:path'."""

    def __init__(self, address, timeout=TIMEOUT):
        super().__init__(_dial(address, timeout), timeout)

    def read_response(self, method='GET'):
        interim = []
        while True:
            r = self._one_response(method)
            if 100 <= r.status < 200 and r.status != 101:
                interim.append(r)
                continue
            r.interim = interim
            return r

    def _one_response(self, method):
        r = Response()
        r.head = self.read_until(b'\r\n\r\n')
        took = [r.head]
        line, r.headers = parse_head(r.head)
        r.version, _, rest = line.partition(' ')
        code, _, r.reason = rest.partition(' ')
        assert re.fullmatch(r'HTTP/1\.[01]', r.version) and re.fullmatch(r'\d{3}', code), \
            'not a response: %r' % r.head[:200]
        r.status = int(code)
        length, coding = r.get('content-length'), r.get('transfer-encoding')
        assert length is None or coding is None, 'both lengths in %r' % r.head
        if method == 'HEAD' or r.status < 200 or r.status in (204, 304) or \
                (method == 'CONNECT' and r.status < 300):
            r.complete = True
        elif coding is not None:
            assert coding.lower() == 'chunked', r.head
            r.framing = 'chunked'
            r.body, r.chunks, r.trailers, r.complete = self._chunked(took)
        elif length is not None:
            r.framing = 'length'
            try:
                r.body = self.read_exact(int(length))
                r.complete = True
            except ConnectionError:
                r.body, self.buf = self.buf, b''
            took.append(r.body)
        else:
            r.framing = 'close'
            r.body = self.read_all()
            took.append(r.body)
            r.complete = not self.was_reset
        r.closed, r.reset, r.raw = self.ended, self.was_reset, b''.join(took)
        return r

    def ask(self, method, path, headers=(), body=None, version='HTTP/1.1'):
        """Send one request on this connection and read its answer."""
        self.send(head(method, path, headers, body, version))
        return self.read_response(method)


def head(method, path, headers=(), body=None, version='HTTP/1.1'):
    """The bytes of a request; Host and Content-Length are added where they are missing."""
    fields = list(headers.items() if isinstance(headers, dict) else headers)
    names = [n.lower() for n, _ in fields]
    if 'host' not in names:
        fields.insert(0, ('Host', 'test'))
    if body is not None and 'content-length' not in names and 'transfer-encoding' not in names:
        fields.append(('Content-Length', str(len(body))))
    lines = ['%s %s %s' % (method, path, version)] + ['%s: %s' % f for f in fields]
    if isinstance(body, str):
        body = body.encode()
    return ('\r\n'.join(lines) + '\r\n\r\n').encode('latin-1') + (body or b'')


def request(proxy, method, path, headers={}, body=None):
    """One request on a connection of its own. `proxy`: a Proxy, or anything that Client dials."""
    with (proxy.connect() if isinstance(proxy, Proxy) else Client(proxy)) as c:
        return c.ask(method, path, headers, body)


# --- workers ---

# What the workers of the tests send: ldcorn adds a line of its own to an answer without one.
DATE = 'Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n'


def answer(body=b'', status='200 OK', headers=()):
    """The bytes of an answer with Content-Length."""
    if isinstance(body, str):
        body = body.encode()
    fields = ''.join('%s: %s\r\n' % f for f in headers)
    return ('HTTP/1.1 %s\r\n%s%sContent-Length: %d\r\n\r\n' % (status, DATE, fields, len(body))).encode('latin-1') + body


class WorkerConn(Stream):
    """The worker's end of one connection from the proxy."""

    def read_head(self):
        """The head alone (None when the connection ends before a byte of it); see `read_request`."""
        if not self.buf and not self._fill():
            return None
        r = Request()
        r.head = r.raw = self.read_until(b'\r\n\r\n')
        line, r.headers = parse_head(r.head)
        r.method, r.target, r.version = line.split(' ')
        return r

    def read_request(self):
        """Head and body; a body that is cut raises ConnectionError."""
        r = self.read_head()
        if r is None:
            return None
        took = [r.head]
        if r.get('transfer-encoding') is not None:
            assert r.get('content-length') is None, r.head
            r.body, r.chunks, r.trailers, complete = self._chunked(took)
            if not complete:
                raise ConnectionError('request body cut after %d bytes' % len(r.body))
        elif r.get('content-length') is not None:
            r.body = self.read_exact(int(r.get('content-length')))
            took.append(r.body)
        r.raw = b''.join(took)
        return r


class _Listener:
    def __init__(self, unix=False, backlog=512):
        self.dir = None
        if unix:
            self.dir = tempfile.mkdtemp(prefix='ldw-', dir='/tmp')
            path = os.path.join(self.dir, 's')
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.bind(path)
            self.address = 'unix:' + path
        else:
            self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)     # so that a test can come back
            self.sock.bind(('127.0.0.1', free_port()))      # nobody else gets it when this worker is away for a while
            self.address = '127.0.0.1:%d' % self.sock.getsockname()[1]
        self.sock.listen(backlog)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.sock.close()
        if self.dir:
            shutil.rmtree(self.dir, ignore_errors=True)
            self.dir = None


class FakeWorker(_Listener):
    """A worker played by the test itself, without threads.

    `.address` goes into `upstream = `. A connection that ends without a byte is a readiness probe:
    `accept` passes over it and counts it in `.probes`.
    """

    def __init__(self, unix=False, backlog=512):
        super().__init__(unix, backlog)
        self.probes, self._waiting, self._conns, self.kept = 0, [], [], None

    def accept(self, timeout=TIMEOUT):
        """The next connection on which a request byte came."""
        conn = self._next(timeout)
        if conn is None:
            raise Timeout('no request reached the worker within %.1f s' % timeout)
        return conn

    def drain(self):
        """Forget what another test left behind."""
        while self._next(0) is not None:
            pass

    def no_connection(self, timeout=0.2):
        """True when no request comes for that long; the test's way to say 'it was never sent'."""
        conn = self._next(timeout)
        if conn is not None:
            self._waiting.insert(0, conn.sock)
        return conn is None

    def accept_bare(self, timeout=TIMEOUT):
        """The next connection, with or without a byte on it."""
        if self._waiting:
            sock = self._waiting.pop(0)
        else:
            if not readable([self.sock], timeout):
                raise Timeout('no connection within %.1f s' % timeout)
            sock = self.sock.accept()[0]
        return self._conn(sock)

    def _conn(self, sock):
        conn = WorkerConn(sock)
        self._conns.append(conn)
        return conn

    def _next(self, timeout):
        end = time.monotonic() + timeout
        while True:
            ready = readable([self.sock] + self._waiting, end - time.monotonic())
            if not ready:
                return None
            if self.sock in ready:
                self._waiting.append(self.sock.accept()[0])
                continue
            for sock in ready:
                try:
                    probe = not sock.recv(1, socket.MSG_PEEK)
                except ConnectionResetError:
                    probe = True
                self._waiting.remove(sock)
                if probe:
                    self.probes += 1
                    sock.close()
                else:
                    return self._conn(sock)

    def one(self, data=None, timeout=TIMEOUT):
        """Accept, read a whole request, answer with `data` if given: -> (request, connection)."""
        conn = self.accept(timeout)
        req = conn.read_request()
        if data is not None:
            conn.send(data)
        return req, conn

    def stop_listening(self):
        """From now on connects are refused; open connections stay."""
        for sock in self._waiting:
            sock.close()
        self._waiting = []
        where = self.sock.getsockname()
        self.sock.close()
        if self.sock.family == socket.AF_INET and self.kept is None:
            self.kept = socket.socket()                  # bound, not listening: nobody else is given this port meanwhile
            self.kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.kept.bind(where)

    def close(self):
        for conn in self._conns:
            conn.close()
        for sock in self._waiting + [self.kept] * bool(self.kept):
            sock.close()
        super().close()


class AutoWorker(_Listener):
    """A threaded worker: `handler(request, conn)` returns the (last) bytes of the answer, or None to
    have the connection closed after what it sent itself with `conn.send`.

    `.inside` counts from the first byte of a request and is counted down BEFORE the last byte of its
    answer is written, so that `.max_inside` is what a strict worker would see. A handler that writes
    the end of its answer itself calls `conn.leave()` before that.
    """

    def __init__(self, handler=None, unix=False):
        super().__init__(unix)
        self.handler = handler or (lambda request, conn: answer(b'ok'))
        self.lock = threading.Lock()
        self.inside = self.max_inside = self.served = self.connections = self.open = self.max_open = 0
        self.requests, self.errors, self._socks = [], [], set()
        self.closing = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                sock = self.sock.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock):
        conn = WorkerConn(sock, timeout=3600)
        state = {'in': False}

        def leave():
            with self.lock:
                if state['in']:
                    state['in'] = False
                    self.inside -= 1
        conn.leave = leave
        with self.lock:
            self._socks.add(sock)
            self.connections += 1
            self.open += 1
            self.max_open = max(self.max_open, self.open)
        try:
            while conn.buf or conn._fill():
                with self.lock:
                    state['in'] = True
                    self.inside += 1
                    self.max_inside = max(self.max_inside, self.inside)
                req = conn.read_request()
                with self.lock:
                    self.requests.append(req)
                data = self.handler(req, conn)
                leave()
                with self.lock:
                    self.served += 1
                if data is None:
                    break
                conn.send(data)
                if (req.get('connection') or '').lower() == 'close':
                    break
        except (ConnectionError, OSError, ValueError) as e:
            if not self.closing:
                self.errors.append(e)
        except Exception as e:                       # a handler's own mistake must not pass unseen
            self.errors.append(e)
            print('AutoWorker: %r' % e, file=sys.stderr)
        finally:
            leave()
            with self.lock:
                self.open -= 1
                self._socks.discard(sock)
            sock.close()

    def close(self):
        self.closing = True
        try:
            self.sock.shutdown(socket.SHUT_RDWR)     # wakes the accepting thread
        except OSError:
            pass
        with self.lock:
            socks = list(self._socks)
        for sock in socks:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        super().close()


# --- the proxy ---

def upstream_config(address, top='', group='', routes='*'):
    """One group, [web], before workers that the test plays. JSON access records in {dir}/access."""
    return ('listen = {listen}\nadmin = {admin}\naccess_log = {dir}/access\nlog_format = json\n%s\n'
            '[web]\nroutes = %s\nupstream = %s\n%s\n' % (top, routes, address, group))


def make_dir(files=None):
    """A private directory with a path short enough for sockets in it."""
    path = tempfile.mkdtemp(prefix='ldt-', dir='/tmp')
    for name, data in (files or {}).items():
        full = os.path.join(path, name)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, 'wb') as f:
            f.write(data if isinstance(data, bytes) else data.encode())
    return path


def _environ(env):
    out = dict(os.environ)
    # What belongs to the test's own supervisor must not leak into the program under test.
    for name in list(out):
        if name.startswith(('LISTEN_', 'WATCHDOG_', 'LDCORN_')) or \
                name in ('NOTIFY_SOCKET', 'RUNTIME_DIRECTORY', 'XDG_RUNTIME_DIR'):
            del out[name]
    for name, value in (env or {}).items():
        if value is None:
            out.pop(name, None)
        else:
            out[name] = value
    return out


class Finished:
    """What a run that ended by itself left behind."""

    def __init__(self, status, out, err):
        self.status, self.out, self.err = status, out, err

    def __repr__(self):
        return '<exit %d\n%s\n%s>' % (self.status, self.out, self.err)


def cli(*args, config=None, files=None, env=None, timeout=20, cwd=None):
    """Run the binary to its end in a directory of its own. `config` is written to groups.ini there
    ({dir} replaced), `{dir}` in arguments too; give the file's name in `args`."""
    path = cwd or make_dir(files)
    try:
        if config is not None:
            data = config if isinstance(config, bytes) else config.replace('{dir}', path).encode()
            with open(os.path.join(path, 'groups.ini'), 'wb') as f:
                f.write(data)
        p = subprocess.run([BIN] + [a.replace('{dir}', path) for a in args], cwd=path, env=_environ(env),
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           timeout=timeout)
        return Finished(p.returncode, p.stdout.decode('utf-8', 'replace'), p.stderr.decode('utf-8', 'replace'))
    finally:
        if cwd is None:
            shutil.rmtree(path, ignore_errors=True)


class Scripts:
    """Our end of tests/workers/zygote.py, which lives as long as this process."""

    def __init__(self):
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        with theirs:
            subprocess.Popen([sys.executable, os.path.join(REPO, 'tests', 'workers', 'zygote.py')], stdin=theirs,
                             stdout=subprocess.DEVNULL)

    def run(self, argv, cwd, env, timeout):
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            ours, theirs = os.pipe()
            with open(ours, 'rb', 0) as told:
                try:
                    socket.send_fds(self.sock, [json.dumps({'argv': argv, 'cwd': cwd, 'env': env}).encode()],
                                    [out.fileno(), err.fileno(), theirs])
                finally:
                    os.close(theirs)
                said, end = b'', time.monotonic() + timeout          # its pid, and at last its status
                while readable([told], end - time.monotonic()):
                    data = told.read(100)
                    said += data
                    if not data:
                        break
                else:
                    if said:
                        os.kill(int(said.split()[0]), signal.SIGKILL)
                    raise subprocess.TimeoutExpired(argv, timeout)
            out.seek(0)
            err.seek(0)
            return Finished(int(said.split()[1]), out.read().decode(), err.read().decode())


_scripts = []


def script(*argv, cwd='/', env=None, timeout=60):
    """A Python script run to its end, without the start of Python, which takes longer than what most of them do."""
    if not _scripts:
        _scripts.append(Scripts())
    return _scripts[0].run(list(argv), cwd, _environ(env), timeout)


class Proxy:
    """The binary with a configuration of its own; see `__init__` for what is filled in.

    In `config_text` {listen}, {admin} and {dir} are replaced (and nothing else: `{socket}` and its
    like survive). What the text does not set is set by -o, so that no default touches the machine:
    listen, admin, runtime_dir.
    """

    def __init__(self, config_text, *, port=None, env=None, args=(), wait=True, files=None,
                 expect_status=0, start_timeout=20, stop_timeout=STOP_TIMEOUT, preexec=None, popen=subprocess.Popen):
        self.dir = make_dir(files)
        self.port = port or free_port()
        self.address = ('127.0.0.1', self.port)
        self.admin_address = 'unix:%s/admin.sock' % self.dir
        self.expect_status, self.stop_timeout, self.popen = expect_status, stop_timeout, popen
        self.config_path = os.path.join(self.dir, 'groups.ini')
        self.log_path = os.path.join(self.dir, 'log')
        self.access_path = os.path.join(self.dir, 'access')
        self.write_config(config_text)
        overrides = []
        for key, value in (('listen', '127.0.0.1:%d' % self.port), ('admin', self.admin_address),
                           ('runtime_dir', self.dir + '/run')):
            if not re.search(r'(?m)^[ \t]*%s[ \t]*=' % key, config_text):
                overrides += ['-o', '%s=%s' % (key, value)]
        self.command = [BIN] + overrides + [a.replace('{dir}', self.dir) for a in args] + ['groups.ini']
        with open(self.log_path, 'ab') as log, open(os.path.join(self.dir, 'out'), 'ab') as out:
            self.proc = popen(self.command, cwd=self.dir, env=_environ(env), stderr=log, stdout=out,
                              stdin=subprocess.DEVNULL, preexec_fn=preexec)
        self.pid = self.proc.pid
        if wait:
            try:
                self.wait_log(r'ready after', start_timeout)
            except BaseException:
                self._kill()
                shutil.rmtree(self.dir, ignore_errors=True)
                raise

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        problem = None
        try:
            problem = self._end()
        finally:
            text = self.log()
            print('--- log of pid %d ---\n%s' % (self.pid, text))     # pytest shows it on failure only
            shutil.rmtree(self.dir, ignore_errors=True)
        if kind is None:
            assert problem is None, problem
            bad = complaints(text)
            assert not bad, 'in the log: ' + '\n'.join(bad[:20])
        elif problem:
            print(problem)

    def _end(self):
        if self.proc.poll() is None:
            self.proc.send_signal(signal.SIGTERM)
            try:
                self.proc.wait(self.stop_timeout)
            except subprocess.TimeoutExpired:
                self._kill()
                return 'did not end within %.0f s of SIGTERM' % self.stop_timeout
        status = self.proc.returncode
        if status != self.expect_status:
            return 'exit status %s, expected %s' % (status, self.expect_status)

    def _kill(self):
        if self.proc.poll() is None:
            self.proc.kill()
        self.proc.wait()

    def stop(self):
        """Stop now, inside the `with`, and check the exit status."""
        problem = self._end()
        assert problem is None, problem

    def wait_exit(self, timeout=TIMEOUT):
        """The exit status of a process that is expected to end by itself."""
        try:
            return self.proc.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Timeout('still running after %.1f s' % timeout) from None

    def alive(self):
        return self.proc.poll() is None

    def freeze(self):
        """From here on it gets no processor, until SIGCONT."""
        self.signal(signal.SIGSTOP)
        with open('/proc/%d/stat' % self.pid) as f:
            wait_for(lambda: f.seek(0) or f.read().rpartition(')')[2].split()[0] == 'T')

    def signal(self, sig):
        self.proc.send_signal(sig)

    def write_config(self, text):
        self.config_text = text
        for mark, value in (('{listen}', '127.0.0.1:%d' % self.port), ('{admin}', self.admin_address),
                            ('{dir}', self.dir)):
            text = text.replace(mark, value)
        with open(self.config_path, 'w') as f:
            f.write(text)

    def log(self):
        try:
            with open(self.log_path, encoding='utf-8', errors='replace') as f:
                return f.read()
        except FileNotFoundError:
            return ''

    def wait_log(self, regex, timeout=TIMEOUT, after=0):
        """The match of `regex` in the log behind offset `after` (`len(proxy.log())` of an earlier moment)."""
        pattern = re.compile(regex, re.M)

        def look():
            over = not self.alive()              # asked first: what it wrote before its end is then there
            match = pattern.search(self.log(), after)
            if match is None and over:
                raise AssertionError('ended with %s before the log had %r:\n%s'
                                     % (self.proc.returncode, regex, self.log()))
            return match
        try:
            return wait_for(look, timeout)
        except Timeout:
            raise Timeout('no %r in the log within %.1f s:\n%s' % (regex, timeout, self.log())) from None

    def connect(self, timeout=TIMEOUT):
        return Client(self.address, timeout)

    def admin(self, method, path, token=None, timeout=60):
        """-> (status, {lower-case name: value}, body)."""
        fields = [('Host', 'localhost'), ('Connection', 'close')]
        if token:
            fields.append(('Authorization', 'Bearer ' + token))
        with Client(self.admin_address, timeout) as c:
            r = c.ask(method, path, fields, b'' if method in ('POST', 'PUT') else None)
        return r.status, {n.lower(): v for n, v in r.headers}, r.body

    def status(self):
        code, _, body = self.admin('GET', '/status')
        assert code == 200, (code, body)
        return json.loads(body)

    def group(self, name):
        return next(g for g in self.status()['groups'] if g['name'] == name)

    def worker(self, group, index=0):
        return next(w for w in self.group(group)['workers'] if w['index'] == index)

    def wait_status(self, predicate, timeout=TIMEOUT):
        """Poll /status until `predicate(status)` holds; -> that status."""
        last = [None]

        def look():
            last[0] = self.status()
            return predicate(last[0])
        try:
            wait_for(look, timeout)
        except Timeout:
            raise Timeout('/status not as expected within %.1f s: %s' % (timeout, json.dumps(last[0], indent=1))) from None
        return last[0]

    def access(self):
        """Records of `access_log = {dir}/access`: JSON lines as they are; text lines as a dict of the
        combined format's parts, the timings under 'rest', the line under 'line'."""
        try:
            with open(self.access_path, encoding='utf-8', errors='replace') as f:
                text = f.read()
        except FileNotFoundError:
            return []
        lines = text.split('\n')[:-1]            # what is behind the last newline is still being written
        return [_access_record(line) for line in lines]

    def wait_access(self, predicate, timeout=TIMEOUT):
        """The first record for which `predicate` holds; it is written after the answer, so it is awaited."""
        return wait_for(lambda: next((r for r in self.access() if predicate(r)), None), timeout,
                        'access record')


_COMBINED = re.compile(r'(?P<client>\S+) \S+ \S+ \[(?P<time>[^]]*)\] "(?P<request>[^"]*)" (?P<status>\S+) '
                       r'(?P<bytes_out>\S+) "(?P<referer>[^"]*)" "(?P<user_agent>[^"]*)"(?P<rest>.*)')


def _access_record(line):
    if line.startswith('{'):
        return json.loads(line)
    match = _COMBINED.match(line)
    record = match.groupdict() if match else {}
    record['line'] = line
    return record
