#!/usr/bin/python3
"""A worker that counts what is inside it, and misbehaves when asked.

    counter.py [--option[=value] ...] PATH | PORT | fd:N

A request is inside from its complete head until just before the last byte of its answer is written;
it stays inside when its peer has gone, as in any server that goes on computing. Each one is a line
`PID INSIDE METHOD TARGET` in the file that $COUNTER_LOG names, each signal `PID SIGNAL INSIDE`.

Options, FILE being one that appears later:
    --hold-bind=FILE  --hold-listen=FILE    wait for it before bind(), before listen()
    --hold-health=FILE                      /health answers 503 until it is there
    --fail-if=FILE                          end like a program with a missing module when it is there
    --say=TEXT                              a line on stderr at the start
    --stubborn                              signals are noted, nothing else
    --exit0                                 a signal ends with exit 0, not with death by that signal
    --finish                                a signal ends it with exit 0 when nothing is inside and nothing left to do
    --grandchild                            a child in the same process group
Other options are for /info to show. The field `X-Ask: NAME` asks for /NAME whatever the target is.

The tests start thousands of these: what takes long to import is imported where it is needed, and of
`socket`, `signal` and `threading` it uses the parts in C, which halves the time of a start.
"""
import os
import sys

STARTED = {'fds': sorted(int(n) for n in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + n)),
           'sid': os.getsid(0), 'pgid': os.getpgid(0)}

import _signal as signal, _socket as socket, _thread as thread
import resource, select, time

PID = os.getpid()
OPT = dict(a[2:].partition('=')[::2] for a in sys.argv[1:] if a.startswith('--'))
WHERE = sys.argv[-1]
LOG = os.environ.get('COUNTER_LOG') and os.open(os.environ['COUNTER_LOG'],
                                                os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
lock = thread.RLock()
inside = most = behind = 0
tunnels = set()
NAMES = {getattr(signal, n): n for n in ('SIGTERM', 'SIGINT', 'SIGQUIT', 'SIGUSR2')}
grandchild = None


def note(*words):
    if LOG:
        os.write(LOG, (' '.join(map(str, (PID,) + words)) + '\n').encode())    # one write is never torn


def hold(name):
    while name in OPT and not os.path.exists(OPT[name]):
        time.sleep(0.005)


def on_signal(number, frame):
    note(NAMES[number], inside)
    if 'stubborn' in OPT:
        return
    for sock in list(tunnels):
        try:
            sock.sendall(b'bye')
        except OSError:
            pass
    if 'finish' in OPT:
        while inside or behind:
            time.sleep(0.005)
        note('FINISHED')
    if 'exit0' in OPT or 'finish' in OPT:
        os._exit(0)
    signal.signal(number, signal.SIG_DFL)
    os.kill(PID, number)


def parts(target):
    """Its path, and its query as {name: value}."""
    if target[:1] == '/' != target[1:2] and not any(c in target for c in '%+#'):
        path, _, query = target.partition('?')
        found = {}
        for name, _, value in (word.partition('=') for word in query.split('&')):
            if value:
                found.setdefault(name, value)
        return path, found
    from urllib.parse import parse_qs, urlsplit
    url = urlsplit(target)
    return url.path, {k: v[0] for k, v in parse_qs(url.query).items()}


class Request:
    def __init__(self, sock, head, rest):
        line, *fields = head.decode('latin-1').split('\r\n')
        self.sock, self.rest, self.inside = sock, rest, False
        self.method, self.target, _ = line.split(' ')
        self.fields = {n.lower(): v.strip() for n, _, v in (f.partition(':') for f in fields)}
        path, self.query = parts(self.target)
        self.path = '/' + self.fields.get('x-ask', path[1:])

    def number(self, name, default=0):
        return int(self.query.get(name, default))

    def enter(self):
        global inside, most
        with lock:
            inside += 1
            most = max(most, inside)
            self.inside = True
            note(inside, self.method, self.target)

    def leave(self):
        global inside
        with lock:
            inside -= self.inside
            self.inside = False

    def recv(self):
        data = self.sock.recv(262144)
        if not data:
            raise EOFError
        self.rest += data

    def line(self):
        while b'\r\n' not in self.rest:
            self.recv()
        line, _, self.rest = self.rest.partition(b'\r\n')
        return line

    def take(self, n):
        while len(self.rest) < n:
            self.recv()
        data, self.rest = self.rest[:n], self.rest[n:]
        return data

    def read_body(self):
        if self.fields.get('transfer-encoding') != 'chunked':
            return self.take(int(self.fields.get('content-length', 0)))
        body = b''
        while True:
            size = int(self.line(), 16)
            body += self.take(size)
            self.line()
            if not size:
                return body

    def answer(self, body=b'', status='200 OK'):
        if not isinstance(body, bytes):
            body = str(body).encode()
        head = 'HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n' % (status, len(body))
        self.leave()
        self.sock.sendall(head.encode() + body)


# --- what can be asked for ---

def get_sleep(r):
    time.sleep(r.number('ms') / 1000)
    r.answer(PID)


def get_drip(r):
    """n chunks of one byte, ms before each."""
    r.sock.sendall(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n')
    for _ in range(r.number('n')):
        time.sleep(r.number('ms') / 1000)
        r.sock.sendall(b'1\r\n.\r\n')
    r.leave()
    r.sock.sendall(b'0\r\n\r\n')


def get_gate(r):
    """Inside until the file of its query is there."""
    while not os.path.exists(r.query['file']):
        time.sleep(0.005)
    r.answer(PID)


def get_after(r):
    """Work that goes on behind the answer, as a background task does; AFTER is noted at its end."""
    global behind
    with lock:
        behind += 1
    r.answer(PID)
    time.sleep(r.number('ms') / 1000)
    note('AFTER', r.target)
    with lock:
        behind -= 1


def get_info(r):
    import json
    r.answer(json.dumps({'pid': PID, 'inside': inside, 'max': most, 'argv': sys.argv[1:], 'cwd': os.getcwd(),
                         'env': dict(os.environ), 'started': STARTED, 'fields': r.fields, 'grandchild': grandchild}))


def get_kill(r):
    os.kill(PID, r.number('signal', 9))
    time.sleep(60)


def get_last(r):
    """An answer, and the end of the process right behind it."""
    body = b'x' * r.number('size', 1)
    r.leave()
    r.sock.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n' % len(body) + body)
    os._exit(0)


def get_print(r):
    from urllib.parse import unquote_to_bytes
    text = unquote_to_bytes(r.query.get('hex') and bytes.fromhex(r.query['hex']) or r.query.get('text', ''))
    data = text * r.number('times', 1) + (b'' if 'torn' in r.query else b'\n')
    for _ in range(r.number('n', 1)):
        os.write(r.number('to', 2), data)
    r.answer()


def get_ws(r):
    r.leave()
    r.sock.sendall(b'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n')
    tunnels.add(r.sock)
    data = r.rest
    while True:
        r.sock.sendall(data)
        data = r.sock.recv(65536)
        if not data:
            raise EOFError


def get_health(r):
    held = 'hold-health' in OPT and not os.path.exists(OPT['hold-health'])
    note('HEALTH', r.fields.get('host'))
    r.answer(PID, '503 Not yet' if held else '200 OK')


PATHS = {'/sleep': get_sleep, '/drip': get_drip, '/gate': get_gate, '/after': get_after, '/info': get_info,
         '/kill': get_kill, '/last': get_last, '/print': get_print, '/ws': get_ws, '/health': get_health,
         '/inside': lambda r: r.answer('%d %d' % (inside, most)),
         '/crash': lambda r: os.abort(),
         '/exit': lambda r: os._exit(r.number('code')),
         '/hang': lambda r: time.sleep(600),
         '/gen': lambda r: r.answer(os.environ.get('LDCORN_GENERATION')),
         '/tag': lambda r: r.answer(OPT.get('tag', '')),
         '/echo': lambda r: r.answer(r.body)}


def serve(sock):
    rest, r = b'', None
    try:
        while True:
            while b'\r\n\r\n' not in rest:
                data = sock.recv(65536)
                if not data:
                    return
                rest += data
            head, _, rest = rest.partition(b'\r\n\r\n')
            r = Request(sock, head, rest)
            r.enter()
            r.body = r.read_body()
            PATHS.get(r.path, lambda r: r.answer(PID))(r)
            r.leave()
            rest = r.rest
            if r.fields.get('connection', '').lower() == 'close':
                return
    except (EOFError, OSError):
        pass
    finally:
        if r:
            r.leave()
        tunnels.discard(sock)
        sock.close()


def listen():
    hold('hold-bind')
    if WHERE.startswith('fd:'):
        sock = socket.socket(fileno=int(WHERE[3:]))
    elif '/' in WHERE:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(WHERE)
    else:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(('127.0.0.1', int(WHERE)))
    hold('hold-listen')
    sock.listen(1024)
    return sock


def accepted(sock):
    return socket.socket(fileno=sock._accept()[0])


def main():
    global grandchild
    awake, end = os.pipe()                # a signal that comes just before accept() would be looked at behind it
    os.set_blocking(end, False)
    signal.set_wakeup_fd(end)
    for s in NAMES:
        signal.signal(s, on_signal)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    fails = 'fail-if' in OPT and os.path.exists(OPT['fail-if'])      # before the note: who has read it may make that file
    note('START')
    if 'say' in OPT:
        print(OPT['say'], file=sys.stderr, flush=True)
    if fails:
        sys.exit("Traceback (most recent call last):\nModuleNotFoundError: No module named 'torch'")
    if 'grandchild' in OPT:
        grandchild = os.spawnlp(os.P_NOWAIT, 'sleep', 'sleep', '60')
    sock = listen()
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.register(awake, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == awake:
                os.read(awake, 512)
            else:
                thread.start_new_thread(serve, (accepted(sock),))


main()
