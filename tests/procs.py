"""What the tests of queues and processes share: proxies before counting workers, and ways to look at both."""
import contextlib, json, os, re, signal, subprocess, sys

from harness import FakeWorker, Proxy, Timeout, head, upstream_config, wait_for

COUNTER = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'workers', 'counter.py')


def counter(transport='{socket}', *options):
    """The command line of tests/workers/counter.py."""
    return ' '.join((sys.executable, '-S', COUNTER) + options + (transport,))


class Own(Proxy):
    """A proxy before processes of its own; the counting ones note what they do in {dir}/counted."""
    killed = False

    def __init__(self, groups, top='', **kw):
        super().__init__('listen = {listen}\nadmin = {admin}\naccess_log = {dir}/access\n'
                         'env = COUNTER_LOG={dir}/counted\n' + top + groups, **kw)

    def up(self):
        """Wait until it answers on `admin`, whatever its workers do."""
        def answers():
            try:
                return self.admin('GET', '/healthz')[0] == 200
            except OSError:
                assert self.alive(), self.log()
        wait_for(answers, what='an answer on admin')
        return self

    def again(self):
        """Start once more what has ended, in the same directory."""
        assert not self.alive()
        self.killed |= self.proc.returncode < 0
        with open(self.log_path, 'ab') as log:
            self.proc = self.popen(self.command, cwd=self.dir, stderr=log, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL)
        self.pid = self.proc.pid
        return self.up()

    def get(self, target, ask=None):
        """The text of a 200. `ask` names what the worker shall do where the target is for the router."""
        with self.connect() as c:
            r = c.ask('GET', target, {'X-Ask': ask} if ask else {})
        assert r.status == 200, r
        return r.body.decode()

    def info(self, target='/'):
        """What the counting worker behind that target says about itself."""
        return json.loads(self.get(target, 'info'))

    def __exit__(self, kind, *more):
        if kind and self.alive():
            self.signal(signal.SIGQUIT)              # the test has failed: no graceful end
        started = self.starts()
        try:
            super().__exit__(kind, *more)
        finally:
            if self.killed or self.proc.returncode < 0:          # its workers die of that, but nobody waited for them
                with contextlib.suppress(Timeout):
                    wait_for(lambda: not self._left(started))
            left = self._left(started)
            for pid in left:
                os.kill(pid, signal.SIGKILL)
        assert not left, 'workers are left behind: %s' % left

    def _left(self, started):
        return [pid for pid in started if alive(pid) and self._ours(pid)]

    def _ours(self, pid):
        """Numbers come again: is this one still what we started?"""
        try:
            with open('/proc/%d/environ' % pid, 'rb') as f:
                return ('COUNTER_LOG=%s/' % self.dir).encode() in f.read()
        except OSError:
            return False

    def counted(self):
        """The lines of {dir}/counted as lists of words; the first word is a pid, as a number."""
        try:
            with open(self.dir + '/counted') as f:
                lines = f.read().split('\n')[:-1]
        except FileNotFoundError:
            return []
        return [[int(pid)] + words for pid, *words in (line.split(' ') for line in lines)]

    def requests(self):
        """[(pid, inside, method, target)] of what reached a worker."""
        return [(pid, int(words[0]), words[1], words[2]) for pid, *words in self.counted() if words[0].isdigit()]

    def signals(self, pid=None):
        """[(signal, inside)], of one process or of all."""
        return [(words[0], int(words[1])) for p, *words in self.counted()
                if words[0].startswith('SIG') and pid in (None, p)]

    def starts(self):
        return [pid for pid, *words in self.counted() if words == ['START']]

    def pids(self, group=0):
        """The processes of a group that take requests, by index."""
        group = self.status()['groups'][group] if isinstance(group, int) else self.group(group)
        return [w['pid'] for w in group['workers'] if w['state'] == 'ready']

    def touch(self, name):
        with open(os.path.join(self.dir, name), 'w'):
            pass

    def edit(self, *changes):
        """Rewrite the configuration; each change is (old, new), and old must be there."""
        text = self.config_text
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        self.write_config(text)


class Before:
    """A proxy before workers that the test plays."""

    def __init__(self, group='max_req_per_worker = 1\n', top='', workers=1, unix=False, **kw):
        self.workers = [FakeWorker(unix=unix) for _ in range(workers)]
        self.worker, self.clients = self.workers[0], []
        self.proxy = Proxy(upstream_config(' '.join(w.address for w in self.workers), top, group), **kw)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for end in self.clients + self.workers:      # first, or the proxy would wait for what is inside
            end.close()
        self.proxy.__exit__(*exc)

    def send(self, target, method='GET', body=None, headers=()):
        """A new client with one request on its way."""
        client = self.proxy.connect()
        self.clients.append(client)                  # a client that nobody holds would be closed
        return client.send(head(method, target, headers, body))

    def next(self, conn, data=None):
        """The next request, wherever it comes: on the connection that served before, or on a new one.
        -> (request, connection)."""
        wait_for(lambda: not conn.silent(0) or not self.worker.no_connection(0), what='the next request')
        req = conn.read_request() if not conn.silent(0) else None
        if req is None:
            return self.worker.one(data)
        if data:
            conn.send(data)
        return req, conn

    def queued(self, n):
        """Wait until n requests are in line."""
        self.proxy.wait_status(lambda s: s['groups'][0]['queue']['len'] == n)

    def inside(self, n):
        """Wait until n slots are taken."""
        self.proxy.wait_status(lambda s: sum(w['in_flight'] for w in s['groups'][0]['workers']) == n)

    def record(self, target):
        return self.proxy.wait_access(lambda r: r['target'] == target)


def alive(pid):
    """Is any thread of it running? A zombie is not. Its sockets are closed with its last thread, which may outlive the first."""
    try:
        for task in os.listdir('/proc/%d/task' % pid):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError), open('/proc/%d/task/%s/stat' % (pid, task)) as f:
                if f.read().rsplit(')', 1)[1].split()[0] not in 'ZX':
                    return True
    except (FileNotFoundError, ProcessLookupError):
        pass
    return False


def wait_gone(*pids, timeout=10):
    wait_for(lambda: not any(alive(p) for p in pids), timeout, 'the end of %s' % (pids,))


def descriptors(pid):
    """{number: what it leads to}, without those closed while we look."""
    found = {}
    for n in os.listdir('/proc/%d/fd' % pid):
        with contextlib.suppress(FileNotFoundError):
            found[int(n)] = os.readlink('/proc/%d/fd/%s' % (pid, n))
    return found


def children(pid):
    try:
        with open('/proc/%d/task/%d/children' % (pid, pid)) as f:
            return [int(p) for p in f.read().split()]
    except FileNotFoundError:                        # a kernel without that file: each process knows its parent
        assert os.path.exists('/proc/%d' % pid)
    found = []
    for other in filter(str.isdigit, os.listdir('/proc')):
        with contextlib.suppress(OSError), open('/proc/%s/stat' % other) as f:
            if int(f.read().rpartition(')')[2].split()[1]) == pid:
                found.append(int(other))
    return sorted(found)


def cpu_seconds(pid):
    with open('/proc/%d/stat' % pid) as f:
        fields = f.read().rsplit(')', 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def samples(proxy):
    """/metrics as [(name, {label: value}, number)]."""
    code, _, body = proxy.admin('GET', '/metrics')
    assert code == 200
    out = []
    for line in body.decode().splitlines():
        if line and not line.startswith('#'):
            m = re.fullmatch(r'([a-z_]+)(?:\{(.*)\})? (\S+)', line)
            out.append((m.group(1), dict(re.findall(r'(\w+)="([^"]*)"', m.group(2) or '')), float(m.group(3))))
    return out


def metric(proxy, name, **labels):
    """The sum of the samples that have these labels."""
    return sum(v for n, have, v in samples(proxy) if n == name and labels.items() <= have.items())


def one_per_index(group, most=1):
    """A group of /status: per index one process serves, and besides it at most `most` of each generation are on their
    way to take its place (a reload tries its own while what serves may have to be started again). -> how many serve."""
    ready, coming = {}, {}
    for w in group['workers']:
        if w['state'] == 'ready':
            ready.setdefault(w['index'], []).append(w['pid'])
        elif w['state'] == 'starting':
            coming.setdefault((w['index'], w['generation']), []).append(w['pid'])
    for what, limit in ((ready, 1), (coming, most)):
        for index, pids in what.items():
            assert len(pids) <= limit, '%s.%s has %s: %s' % (group['name'], index, pids, group['workers'])
    return len(ready)


def at_rest(group, n):
    """So many workers serve, each the only one of its index, and nothing is inside, in line, on its way or leaving."""
    return (one_per_index(group) == n == len(group['workers']) and group['queue']['len'] == 0 and
            all(w['in_flight'] == 0 for w in group['workers']))
