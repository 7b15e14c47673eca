"""ldcorn.h in somebody else's program: what holds in any host (tests/embed/kinds_*.c).

The hosts are built plain where the binary under test is build/ldcorn, else with sanitizers and audit; with threads
under ThreadSanitizer, too. LDCORN_HOST=plain, asan or tsan says it for all. """
import contextlib, fcntl, hashlib, os, re, select, shutil, signal, subprocess, time

import pytest
import machine
from harness import (BIN, COMPLAINT, REPO, TIMEOUT, Client, Timeout, _environ, free_port, head, make_dir, readable,
                     wait_for)
from procs import Own, alive, counter, wait_gone

CC = os.environ.get('CC') or 'cc'
HEADER = os.path.join(REPO, 'ldcorn.h')
EMBED = os.path.join(REPO, 'tests', 'embed')
BUILT = os.path.join(REPO, 'build', 'hosts')
KEEPS = re.search(r'\bkeep_fds\b', open(HEADER).read()) is not None
FLAVOUR = os.environ.get('LDCORN_HOST') or ('plain' if os.path.basename(BIN) == 'ldcorn' else 'asan')
FLAGS = {
    'plain': ['-O1', '-DLDCORN_AUDIT'],
    'asan': ['-O0', '-fsanitize=address,undefined', '-fno-sanitize-recover=all', '-DLDCORN_AUDIT', '-DLDCORN_POLL_ONLY',
             '-DLDCORN_PORTABLE'],
    'tsan': ['-O1', '-fsanitize=thread'],
}


# --- building ---

def cc(target, *args):
    """Written beside and moved into place, by whichever of several runners comes first."""
    if not os.path.exists(target):
        os.makedirs(BUILT, exist_ok=True)
        with open(os.path.join(BUILT, 'lock'), 'w') as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not os.path.exists(target):
                subprocess.run([CC, '-std=c99', '-D_GNU_SOURCE', '-g', '-Wall', '-Wextra', '-pthread', *args,
                                '-o', target + '.new'], check=True)
                os.rename(target + '.new', target)
    return target


_pattern = []


def pattern():
    """What this compiler takes to fill locals that nobody has set."""
    if not _pattern:
        flag = '-ftrivial-auto-var-init=pattern'
        takes = subprocess.run([CC, flag, '-fsyntax-only', '-x', 'c', '/dev/null'], stderr=subprocess.DEVNULL)
        _pattern.append([flag] if takes.returncode == 0 else [])
    return _pattern[0]


def build(name, flavour=None, more=(), unset=()):
    """tests/embed/NAME.c with the implementation in a file of its own; named by what it is made from."""
    flavour = flavour or FLAVOUR
    flags = FLAGS[flavour] + list(unset)
    if flavour != 'plain':
        machine.need(flavour)
    if KEEPS:
        flags = flags + ['-DHAVE_KEEP_FDS']
    sources = [os.path.join(EMBED, n) for n in ('kinds_lib.c', name + '.c')]
    marks = []
    for files, given in ((sources[:1], flags), (sources, flags + list(more))):
        mark = hashlib.sha1(repr([CC] + given).encode())
        for path in [HEADER] + files:
            with open(path, 'rb') as f:
                mark.update(f.read())
        marks.append(mark.hexdigest()[:12])
    lib = cc('%s/lib-%s-%s.o' % (BUILT, flavour, marks[0]), *flags, '-c', sources[0])
    return cc('%s/%s-%s-%s' % (BUILT, name, flavour, marks[1]), *flags, *more, sources[1], lib)


# --- running ---

class Host:
    """A host program in a directory of its own; what it says as lines, its stderr in a file."""

    def __init__(self, program, *args, files=None, env=None, before=(), folder=None):
        self.dir = folder or make_dir(files)
        self.keep = folder is not None
        self.err_path = os.path.join(self.dir, 'err%d' % time.monotonic_ns())
        env = dict({'TSAN_OPTIONS': 'die_after_fork=0:exitcode=66', 'ASAN_OPTIONS': 'detect_leaks=1'}, **(env or {}))
        with open(self.err_path, 'ab') as err:
            self.p = subprocess.Popen([*before, program] + [a.replace('{dir}', self.dir) for a in args], cwd=self.dir,
                                      env=_environ(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err)
        self.lines, self.buf, self.at, self.workers = [], b'', 0, []

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        left = self.workers + children(self.p.pid)
        if self.p.poll() is None:
            self.p.kill()
            self.p.wait()
        self.p.stdin.close()
        self.p.stdout.close()
        for pid in left:                             # a failed test leaves nobody behind
            with contextlib.suppress(OSError):
                if os.readlink('/proc/%d/cwd' % pid) == self.dir:
                    os.kill(pid, signal.SIGKILL)
        err = self.err()
        print('--- said ---\n%s\n--- stderr ---\n%s' % ('\n'.join(self.lines), err))
        if not self.keep:
            shutil.rmtree(self.dir, ignore_errors=True)
        if kind is None:
            bad = [line for line in err.splitlines() if COMPLAINT.search(line)]
            assert not bad, '\n'.join(bad[:20])

    def err(self):
        with open(self.err_path, encoding='utf-8', errors='replace') as f:
            return f.read()

    def _read(self, timeout):
        """One more piece of what it says; False at its end."""
        if not select.select([self.p.stdout], [], [], max(timeout, 0))[0]:
            raise Timeout('nothing more is said, after %s\n%s' % (self.lines[-20:], self.err()[-3000:]))
        data = os.read(self.p.stdout.fileno(), 65536)
        *whole, self.buf = (self.buf + data).split(b'\n')
        for line in whole:
            self.lines.append(line.decode('utf-8', 'replace'))
            ready = re.search(r'\bready (?:\w+ )?(\d+)$', self.lines[-1])
            if ready:
                self.workers.append(int(ready.group(1)))
        return bool(data)

    def next(self, regex, timeout=TIMEOUT):
        """The match in the next line that has one; those before it are passed over."""
        end = time.monotonic() + timeout
        while True:
            while self.at < len(self.lines):
                self.at += 1
                match = re.search(regex, self.lines[self.at - 1])
                if match:
                    return match
            if not self._read(end - time.monotonic()):
                raise AssertionError('ended with %s before it said %r: %s\n%s'
                                     % (self.p.wait(), regex, self.lines[-20:], self.err()[-3000:]))

    def all(self, *regexes):
        """Each of them in some line behind the last one that was looked at, in any order."""
        at, matches, furthest = self.at, [], self.at
        for regex in regexes:
            self.at = at
            matches.append(self.next(regex))
            furthest = max(furthest, self.at)
        self.at = furthest
        return matches

    def do(self, text, answer=None):
        self.p.stdin.write(text.encode() + b'\n')
        self.p.stdin.flush()
        return self.next(answer) if answer else None

    def end(self, timeout=20):
        """Its status and the rest of what it said, when its standard input has ended."""
        self.p.stdin.close()
        end = time.monotonic() + timeout
        while self._read(end - time.monotonic()):
            pass
        return self.p.wait(timeout)

    def said(self, regex):
        return [line for line in self.lines if re.search(regex, line)]


TOP = 'listen = 127.0.0.1:%d\nadmin = off\nruntime_dir = {dir}/run\n'
WEB = '[web]\nroutes = *\nfunction = serve\n'


class One(Host):
    """tests/embed/kinds_host.c with one configuration; ready unless `wait` is off."""

    def __init__(self, *words, config=WEB, top='', wait=True, folder=None, port=None, unset=(), **kw):
        self.port = port or free_port()
        path = folder or make_dir()
        self.write(config, top, path)
        super().__init__(build('kinds_host', unset=unset), '{dir}/g.ini', *words, folder=path, **kw)
        self.keep = folder is not None
        if wait:
            self.pid = int(self.next(r'^ready web (\d+)').group(1))

    def write(self, config, top='', path=None):
        with open((path or self.dir) + '/g.ini', 'w') as f:
            f.write((TOP % self.port + top + config).replace('{dir}', path or self.dir))

    def connect(self):
        return Client(('127.0.0.1', self.port))

    def ask(self, target, method='GET', headers=(), body=None):
        with self.connect() as c:
            return c.ask(method, target, headers, body)

    def worker_socket(self):
        """The way to its one function worker past ldcorn."""
        return next('unix:' + os.path.join(at, n) for at, _, names in os.walk(self.dir + '/run') for n in names
                    if n.startswith('web.0'))


def children(pid):
    """All that it has started, and what these have."""
    found = []
    with contextlib.suppress(OSError):
        for task in os.listdir('/proc/%d/task' % pid):
            with open('/proc/%d/task/%s/children' % (pid, task)) as f:
                found += [int(n) for n in f.read().split()]
    return found + [n for child in found for n in children(child)]


def zombie(pid):
    with contextlib.suppress(OSError), open('/proc/%d/stat' % pid) as f:
        return f.read().rsplit(')', 1)[1].split()[0] == 'Z'
    return False


# --- rule 1: instances in one process never disturb each other ---

class Threads(Host):
    def __init__(self, n=2, flavour=None):
        self.ports = [free_port() for _ in range(n)]
        files = {'%d.ini' % i: 'x' for i in range(n)}
        folder = make_dir(files)
        for i, port in enumerate(self.ports):
            with open('%s/%d.ini' % (folder, i), 'w') as f:
                f.write('listen = 127.0.0.1:%d\nadmin = off\nlog_level = error\nruntime_dir = %s/run%d\n%s'
                        % (port, folder, i, WEB))
        super().__init__(build('kinds_two', flavour), *['{dir}/%d.ini' % i for i in range(n)], folder=folder)
        self.keep = False
        self.limit = self.next(r'^limits (\d+)').group(1)
        self.pids = [int(m.group(1)) for m in self.all(*[r'^%d ready (\d+)' % i for i in range(n)])]

    def pid(self, i):
        with Client(('127.0.0.1', self.ports[i])) as c:
            return int(c.ask('GET', '/').body)


@pytest.fixture(params=sorted({FLAVOUR, 'tsan'} if 'LDCORN_HOST' not in os.environ else {FLAVOUR}))
def flavour(request):
    return request.param


def test_each_of_two_instances_gets_the_signals(flavour):
    with Threads(2, flavour) as h:
        h.do('signal %d' % signal.SIGHUP)
        h.all(r'^0 reloaded ok', r'^1 reloaded ok')
        h.do('signal %d' % signal.SIGTERM)
        h.all(r'^0 stopped 0', r'^1 stopped 0')
        assert h.end() == 0 and not h.said('^host')


def test_each_of_two_instances_reaps_its_own(flavour):
    """Whoever got SIGCHLD, both are told: neither keeps a corpse in place of a worker."""
    with Threads(2, flavour) as h:
        for i in 0, 1, 0:
            old = h.pid(i)
            os.kill(old, signal.SIGKILL)
            h.next(r'^%d exited %d' % (i, old))
            new = int(h.next(r'^%d ready (\d+)' % i).group(1))
            assert h.pid(i) == new and h.pid(1 - i) in h.workers
        assert h.end() == 0


@pytest.mark.parametrize('first', [0, 1])
def test_an_instance_that_ends_leaves_the_signals_to_the_other(flavour, first):
    """And the host's own handlers come back with the last one, whichever that is."""
    with Threads(2, flavour) as h:
        h.do('stop %d' % first, r'^%d stopped 0' % first)
        h.do('close %d' % first, r'^%d closed' % first)
        old = h.pid(1 - first)
        os.kill(old, signal.SIGKILL)
        h.next(r'^%d exited %d' % (1 - first, old))
        h.next(r'^%d ready' % (1 - first))
        h.do('signal %d' % signal.SIGHUP, r'^%d reloaded ok' % (1 - first))
        h.do('signal %d' % signal.SIGTERM, r'^%d stopped 0' % (1 - first))
        assert not h.said('^host')
        h.do('close %d' % (1 - first), r'^%d closed' % (1 - first))
        h.do('signal %d' % signal.SIGTERM, '^host TERM')
        h.do('signal %d' % signal.SIGHUP, '^host HUP')
        assert h.do('limits', r'^limits (\d+)').group(1) == h.limit
        assert h.end() == 0


def test_the_signal_mask_of_each_thread_is_as_it_was(flavour):
    with Threads(2, flavour) as h:
        assert h.end() == 0
        assert len(h.said('closed, mask as it was')) == 2


def test_five_instances_open_run_and_close_at_once(flavour):
    with Threads(5, flavour) as h:
        assert [h.pid(i) for i in range(5)] == h.pids
        h.do('signal %d' % signal.SIGHUP)
        h.all(*['^%d reloaded ok' % i for i in range(5)])
        assert h.end() == 0
        assert len(h.said('stopped 0')) == len(h.said('closed, mask')) == 5


class Same(Host):
    def __init__(self, how, folder=None, second=None):
        """Both in one place, which `how` names in one of the ways that there are."""
        self.ports = free_port(), free_port()
        path, env, dirs, files = folder or make_dir(), {}, ['{dir}/run'] * 2, ['-'] * 2
        with open(path + '/g.ini', 'w') as f:
            f.write('admin = off\n' + WEB)
        if how == 'file':
            files, dirs, env = ['{dir}/g.ini'] * 2, ['-'] * 2, {'XDG_RUNTIME_DIR': path}
        if how == 'environment':
            dirs, env = ['-'] * 2, {'RUNTIME_DIRECTORY': path + '/run'}
        if how == 'otherwise written':
            dirs[1] = '{dir}/./x/../run/'
            os.mkdir(path + '/x')
        if how == 'by a link':
            dirs[1] = '{dir}/link/run'
            os.symlink(path, path + '/link')
        args = [('127.0.0.1:%d' % self.ports[i], files[i], dirs[i]) for i in range(2)]
        super().__init__(build('kinds_same'), *args[0], *args[1], folder=path, env=env)
        self.keep = folder is not None
        self.how = how

    def ask(self, i=0):
        with Client(('127.0.0.1', self.ports[i])) as c:
            return c.ask('GET', '/').status

    def place(self):
        """The directory that both mean, with what is in it."""
        at = [self.dir + '/run'] if self.how != 'file' else \
            [d for d in (os.path.join(self.dir, n) for n in os.listdir(self.dir)) if os.path.isdir(d)]
        return sorted(os.path.join(where, n) for top in at for where, _, names in os.walk(top) for n in names)


PLACES = ['directory', 'environment', 'otherwise written', 'by a link']
ROOT = os.geteuid() == 0          # for whom the default directory is in /run


@pytest.mark.parametrize('how', PLACES + ['file'])
def test_a_second_instance_in_the_same_place_is_refused(how):
    """In one process locks of files do not tell: the second one took the directory, and swept it."""
    with Same(how) as h:
        worker = int(h.next(r'^first ready (\d+)').group(1))
        before = h.place()
        text = h.do('second', '^second (refused 1 .*|open.*)').group(1)
        assert text.startswith('refused') and 'pid %d' % h.p.pid in text and 'run' in text, text
        assert h.ask() == 200 and alive(worker) and h.place() == before and not h.said('exited')
        assert h.end() == 0


@pytest.mark.parametrize('how', PLACES + ['file'])
def test_a_place_is_free_when_its_instance_is_closed(how):
    with Same(how) as h:
        h.next('^first ready')
        h.do('second', '^second refused')
        h.do('first', '^first closed')
        h.do('second', '^second open')
        h.next('^second ready')
        assert h.ask(1) == 200
        assert h.end() == 0
        assert how == 'environment' or h.place() == []


def test_a_refused_instance_does_not_give_the_lock_away():
    """A process loses its locks on a file when it closes any descriptor of it."""
    with Same('directory') as h:
        h.next('^first ready')
        h.do('second', '^second refused')
        with Same('directory', h.dir) as other:
            text = other.next('^first (.*)').group(1)
            assert text.startswith('refused') and 'pid %d' % h.p.pid in text
        assert h.ask() == 200
        assert h.end() == 0


# --- rule 2: nothing of the host stays changed ---

@pytest.mark.parametrize('how', ['run', 'step', 'failed', 'nested'])
def test_a_host_is_after_an_instance_as_it_was_before(how):
    with Host(build('kinds_changed'), how, 'unix:{dir}/l', '{dir}/run') as h:
        assert h.end() == 0
        assert h.lines == ['compared']


def number_inside(pid):
    """Of a process in the innermost namespace that it is in."""
    with contextlib.suppress(OSError), open('/proc/%d/status' % pid) as f:
        return int(re.search(r'^NSpid:.*\b(\d+)$', f.read(), re.M).group(1))


def process_1():
    """The words that make a process the first one of a namespace, found out by trying."""
    for words in ['unshare', '-p', '-f', '--kill-child'], ['unshare', '-r', '-p', '-f', '--kill-child']:
        with contextlib.suppress(OSError):
            if subprocess.run(words + ['true'], stderr=subprocess.DEVNULL).returncode == 0:
                return words
    return None


@pytest.mark.parametrize('mode', ['run', 'step'])
def test_as_process_1_the_hosts_children_are_left_to_it(mode):
    """What nobody else can wait for is reaped (in ldcorn_run): the orphan of a worker."""
    words = process_1()
    if words is None:
        pytest.skip('unshare -p -f does not work here: no namespace of processes')
    orphan = '[cmd]\nroutes = /never\noptional = on\ncmd = sh -c "((sleep 0.2)&); exec sleep 1000" {socket}\n'
    with One(mode, 'child', before=words, config=WEB + orphan) as h:
        first, = children(h.p.pid)[:1]
        assert int(h.ask('/').body) == h.pid

        def command(pid):
            with contextlib.suppress(OSError), open('/proc/%d/cmdline' % pid, 'rb') as f:
                return f.read()
            return b''
        wait_for(lambda: not any(command(n).startswith(b'sleep\0000.2') for n in children(first)), what='its end')
        worker, = (n for n in children(first) if number_inside(n) == h.pid)
        os.kill(worker, signal.SIGKILL)                       # children are looked at
        h.next('^ready web')
        if mode == 'run':
            wait_for(lambda: len([n for n in children(first) if zombie(n)]) == 1, what='nobody but our own child')
        os.kill(first, signal.SIGTERM) if mode == 'run' else h.do('stop')
        h.next('^own child waited for 7')
        h.next('^closed 0')


# --- rule 3: a child of the host that it forked ---

@pytest.mark.parametrize('what', ['close', 'exit'])
@pytest.mark.parametrize('mode', ['step', 'loop'])
def test_a_forked_child_that_closes_touches_nothing_of_its_parents(mode, what):
    """Neither workers nor files nor connections; the lock stays held, the parent stops as ever."""
    with One(mode, 'atexit', top='listen = unix:{dir}/l\npid_file = {dir}/pid\n') as h:
        def files():
            return sorted(os.path.join(at, n) for at, dirs, names in os.walk(h.dir) for n in dirs + names
                          if 'err' not in n)
        before = files()
        idle = [h.connect() for _ in range(150)]
        for c in idle:
            assert c.ask('GET', '/').body == b'%d' % h.pid
        with h.connect() as slow:
            slow.send(head('GET', '/slow'))
            h.do(what, '^child 0$')
            assert slow.read_response().status == 200
        assert files() == before and alive(h.pid) and not h.said('^exited')
        for c in idle[::10]:
            assert c.ask('GET', '/').body == b'%d' % h.pid
        for c in idle:
            c.close()
        with Client('unix:%s/l' % h.dir) as c:
            assert c.ask('GET', '/').body == b'%d' % h.pid
        with One(mode, folder=h.dir, wait=False) as other:
            assert 'pid %d' % h.p.pid in other.next('^(refused.*|open)').group(1)
        h.do('stop', '^closed 0')
        assert h.end() == 0 and not os.path.exists(h.dir + '/run')


def test_a_worker_function_that_exits_closes_nothing():
    """exit() in a handler runs what the host has for its own end."""
    with One('step', 'atexit', config=WEB + 'workers = 2\n') as h:
        h.next('^ready web')
        with h.connect() as c:
            c.send(head('GET', '/exit'))
            h.next(r'^exited web \d+ .*3')
        h.next('^ready web')
        assert h.ask('/').status == 200 and len(h.said('^exited')) == 1
        assert h.end() == 0


# --- rule 4: workers end with their host ---

@pytest.mark.parametrize('mode', ['run', 'quiet', 'step', 'loop', 'thread'])
def test_workers_end_with_a_host_that_is_killed(mode):
    """A function, a command, and the helper that looks after `watch`."""
    other = ('[cmd]\nroutes = /never\noptional = on\ncmd = sh -c "echo > {dir}/runs; exec sleep 1000" {socket}\n'
             'watch = {dir}\n')
    with One(mode, config=WEB + other) as h:
        wait_for(lambda: os.path.exists(h.dir + '/runs'))
        mine = children(h.p.pid)
        h.workers += mine
        assert len(mine) >= 2
        h.p.kill()
        h.p.wait()
        wait_gone(*mine)


def test_workers_outlive_the_thread_that_forked_them():
    """The kernel's signal at a parent's end is about the thread that called fork()."""
    with One('thread') as h:
        h.next('^thread ended')
        for _ in range(3):
            assert int(h.ask('/').body) == h.pid
        time.sleep(0.1)                              # a signal would have come at once
        assert int(h.ask('/').body) == h.pid and not h.said('^exited')
        assert h.end() == 0


def test_what_a_killed_host_has_left_is_ended_by_the_next():
    """Grandchildren get no signal: they are found by what the directory says, before new workers start."""
    folder = make_dir()
    try:
        with One('run', folder=folder) as h:
            left = int(h.ask('/spawn').body)
            h.workers.append(left)
            h.p.kill()
            h.p.wait()
            wait_gone(h.pid)
            assert alive(left)
            with One('run', folder=folder, port=h.port) as again:
                assert not alive(left)
                wait_for(lambda: re.search(r'\b%d\b' % h.pid, again.err()), what='a line that names %d' % h.pid)
                again.p.send_signal(signal.SIGTERM)
                again.next('^closed 0')
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_what_the_killed_program_has_left_is_ended_by_the_next():
    command = 'sh -c "%s; true"' % counter('$0')
    with Own('[web]\nroutes = *\ncmd = %s {socket}\nmax_req_per_worker = 1\n' % command) as p:
        left = p.starts()
        p.proc.kill()
        p.proc.wait()
        p.killed = True
        again = len(p.log())
        assert alive(left[0])
        p.again()
        p.wait_log('ready after', after=again)
        assert not alive(left[0])
        assert len(p.starts()) == 2 and p.get('/')


def test_what_has_ended_by_itself_is_no_leftover():
    folder = make_dir()
    try:
        with One('run', folder=folder) as h:
            h.p.kill()
            h.p.wait()
            wait_gone(h.pid)
            with One('run', folder=folder, port=h.port) as again:
                assert not re.search(r'\b%d\b' % h.pid, again.err())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# --- rule 5: function workers ---

def test_a_hosts_files_are_not_open_in_a_worker():
    with One('step', 'files') as h:
        assert 'host0' not in h.ask('/descriptors').body.decode() and 'host1' not in h.ask('/descriptors').body.decode()
        assert h.end() == 0


@pytest.mark.parametrize('others', [0, 60])
def test_a_hosts_files_do_not_write_into_connections(others):
    """A FILE of the host's has the number 4, or 40, and bytes from before the fork: what is written to it, and
    fflush(NULL), reach no connection that has come to that number."""
    with One('step', 'files') as h:
        held = [Client(h.worker_socket()) for _ in range(others)]
        for c in held:
            assert c.ask('GET', '/').status == 200
        with Client(h.worker_socket()) as c:
            c.send(head('GET', '/files') + head('GET', '/'))
            for _ in range(2):
                assert c.read_response().body == b'%d' % h.pid
            assert c.silent() and not readable([o.sock for o in held], 0)
        for c in held:
            c.close()
        assert h.ask('/files').body == b'%d' % h.pid
        assert h.end() == 0
        with open(h.dir + '/g.ini.host0') as f:
            assert f.read() in ('', 'UNWRITTEN')     # the host's own bytes, once


def test_a_worker_keeps_the_descriptors_that_it_is_told_to_keep():
    if not KEEPS:
        pytest.skip('ldcorn.h has no keep_fds')
    with One('step', 'files', 'keep=40') as h:
        there = h.ask('/descriptors').body.decode()
        assert 'host1' in there and 'host0' not in there
        assert h.end() == 0


def test_what_a_worker_prints_is_told_line_by_line():
    """Into a pipe stdio holds back some thousand bytes, unless told otherwise."""
    with One('step', 'unflushed') as h:
        for _ in range(2):
            h.ask('/print')
        for words in 'to stdout', 'to stderr':
            wait_for(lambda: len(re.findall(r'(?m)^.*web\.0 .*\b%s$' % words, h.err())) == 2, what=words)
        assert alive(h.pid)
        assert h.end() == 0


@pytest.mark.parametrize('function', ['prints', 'serve'])
def test_output_of_the_host_is_not_printed_by_its_workers(function):
    with One('step', 'unflushed', config='[web]\nroutes = *\nworkers = 2\nfunction = %s\n' % function) as h:
        h.next('^ready web')
        h.ask('/files')                              # fflush(NULL)
        h.ask('/print')
        os.kill(h.pid, signal.SIGKILL)               # and once more for its successor
        h.next('^exited')
        h.next('^ready web')
        h.ask('/files')
        with h.connect() as c:
            c.send(head('GET', '/exit'))             # flushes, too
            h.next(r'^exited .*3')
        assert h.end() == 0
        assert 'HOST TEXT' not in h.err() and len(h.said('HOST TEXT')) == 1


WRAPPED = ('malloc', 'calloc', 'realloc', 'free', 'getenv')


@pytest.mark.parametrize('command', ['sleep 1000', '/nowhere/there', 'none-of-this-name'])
def test_between_fork_and_exec_only_what_is_safe(command):
    """In a process with threads some other one may have held the lock of the allocator when fork() was called."""
    if FLAVOUR == 'tsan':
        pytest.skip('ThreadSanitizer has its own malloc in the child')
    program = build('kinds_forks', None, ['-Wl,' + ','.join('--wrap=' + n for n in WRAPPED)])
    listening = counter() if command == 'sleep 1000' else command
    config = TOP % free_port() + WEB.replace('function = serve', 'workers = 2\ncmd = %s' % listening)
    if command != 'sleep 1000':
        config += 'max_restarts = 1\n[b]\nworkers = 2\nroutes = /b\ncmd = %s\n' % counter()
    path = make_dir()
    with open(path + '/g.ini', 'w') as f:
        f.write((config if '{socket}' in config.split('[b]')[0] else config.replace(command, command + ' {socket}', 1))
                .replace('{dir}', path))
    try:
        with Host(program, '{dir}/g.ini', folder=path) as h:
            h.next('^ready 2, failed 0')
            assert h.end() == 0 and 'NOT SAFE' not in h.err()
    finally:
        shutil.rmtree(path, ignore_errors=True)


# --- rule 6: a desc is checked as a file is ---

TYPES = {'INT': 'NUMBER', 'DURATION': 'NUMBER', 'SIZE': 'NUMBER', 'TEXT': 'TEXT', 'COMMAND': 'TEXT', 'WORDS': 'WORDS'}


def keys():
    """[(scope, name, type)] of the table of keys in ldcorn.h."""
    with open(HEADER) as f:
        found = re.findall(r'^ +X\((GLOBAL|GROUP), (\w+), (\w+),', f.read(), re.M)
    assert len(found) > 50, 'the table LDC_KEYS looks otherwise now'
    return found


NUMBERS = [(scope, name, kind) for scope, name, kind in keys() if TYPES.get(kind) == 'NUMBER']
IDS = ['%s%s' % ('web.' if scope == 'GROUP' else '', name) for scope, name, _ in NUMBERS]


@pytest.fixture(scope='module')
def desc():
    """ask(lines): whether a desc with these is taken, and the text."""
    fields = '\n'.join('%s(%s, %s)' % (scope, TYPES[kind], name) for scope, name, kind in keys() if kind in TYPES)
    where = os.path.join(BUILT, 'fields-' + hashlib.sha1(fields.encode()).hexdigest()[:12])
    os.makedirs(where, exist_ok=True)
    with open(where + '/new%d' % os.getpid(), 'w') as f:
        f.write(fields + '\n')
    os.rename(f.name, where + '/fields.h')
    with Host(build('kinds_desc', None, ['-I' + where])) as h:
        def ask(*lines, last='check'):
            out = []
            h.p.stdin.write(('\n'.join(lines + (last,)) + '\n').encode())
            h.p.stdin.flush()
            while not out or out[-1] != '.':
                out.append(h.next('^.*$').group())
            verdict = next(line for line in out if line in ('ok', 'error'))
            return verdict == 'ok', '\n'.join(line for line in out[:-1] if line != verdict)
        yield ask
        assert h.end() == 0


def full(scope, name):
    return 'web.' + name if scope == 'GROUP' else name


def names(text, scope, name):
    """Does an error name the field, and the group that it is in?"""
    return any(re.search(r'\b%s\b' % name, part) and (scope == 'GLOBAL' or re.search(r'\bweb\b', part))
               for part in text.splitlines())


@pytest.mark.parametrize('value', [-9, -4, -2**63, 2**63 - 1])
@pytest.mark.parametrize('scope, name, kind', NUMBERS, ids=IDS)
def test_a_number_of_a_desc_that_no_file_can_say_is_an_error(desc, scope, name, kind, value):
    taken, text = desc('number %s %d' % (full(scope, name), value))
    assert not taken and names(text, scope, name), text


def as_word(kind, value):
    return {-1: 'none', -2: '0', -3: 'auto'}.get(value) or ('%dms' if kind == 'DURATION' else '%d') % value


def dumped(text, scope, name):
    """What is in force by a dump, for that key of that group."""
    part = text.split('[web]')[1] if scope == 'GROUP' else text.split('[')[0]
    return re.findall(r'^#? ?%s\b.*' % name, part, re.M)


@pytest.mark.parametrize('scope, name, kind', NUMBERS, ids=IDS)
def test_a_number_of_a_desc_is_taken_as_the_key_of_its_name(desc, scope, name, kind):
    """The same values are refused, and what is taken is the same in force: none, 0, auto, small and large."""
    for value in (-1, -2, -3, 1, 1000, 2**20, 2**30, 2**31, 2**32, 2**40, 2**53, 2**62):
        key = full(scope, name)
        field, word = 'number %s %d' % (key, value), 'set %s=%s' % (key, as_word(kind, value))
        by_field, by_word = desc(field), desc(word)
        assert by_field[0] == by_word[0], (value, by_field, by_word)
        assert by_field[0] or names(by_field[1], scope, name), (value, by_field[1])
        if by_field[0]:
            shown = [dumped(desc(line, last='dump')[1], scope, name) for line in (field, word)]
            assert shown[0] == shown[1], (value, shown)


WRONG = [('web.balance', 'TEXT', 'quick'), ('web.reload', 'TEXT', 'never'), ('web.on_timeout', 'TEXT', 'cry'),
         ('web.client_abort', 'TEXT', 'cry'), ('web.stop_signal', 'TEXT', 'NOTHING'), ('web.umask', 'TEXT', '99'),
         ('web.user', 'TEXT', 'nobody-of-this-name'), ('web.function', 'TEXT', 'unknown'),
         ('web.rate', 'WORDS', 'often'),
         ('web.allow', 'WORDS', 'friends'), ('web.deny', 'WORDS', 'foes'), ('web.match', 'WORDS', 'all'),
         ('web.routes', 'WORDS', 'x'), ('web.hash_key', 'WORDS', 'luck'), ('web.health_path', 'WORDS', 'x'),
         ('web.env', 'WORDS', 'x'), ('web.hosts', 'WORDS', 'a/b'), ('log_format', 'TEXT', 'xml'),
         ('log_level', 'TEXT', 'loud'),
         ('listen', 'WORDS', 'x'), ('admin', 'WORDS', 'x'), ('trusted_proxies', 'WORDS', 'friends'),
         ('ready_path', 'TEXT', 'x')]


@pytest.mark.parametrize('field, kind, value', WRONG, ids=[w[0] for w in WRONG])
def test_a_wrong_word_of_a_desc_is_told_with_group_and_field(desc, field, kind, value):
    taken, text = desc('%s %s %s' % (kind.lower(), field, value))
    if taken and not desc('set %s=%s' % (field, value))[0]:
        pytest.fail('the key refuses what the field takes')
    if taken:
        pytest.skip('the key takes `%s`, too' % value)
    assert names(text, 'GROUP' if '.' in field else 'GLOBAL', field.split('.')[-1]), text


def test_all_errors_of_a_desc_are_told_at_once(desc):
    taken, text = desc('number web.run_timeout -9', 'number backlog -9', 'text web.balance quick',
                       'number web.queue %d' % 2**62)
    assert not taken and '4 errors' in text, text
    for scope, name in (('GROUP', 'run_timeout'), ('GLOBAL', 'backlog'), ('GROUP', 'balance'), ('GROUP', 'queue')):
        assert names(text, scope, name), (name, text)
    assert not re.search(r'\bfirst\b', text), text         # the group that is right


def test_two_groups_of_one_name_in_a_desc_are_an_error(desc):
    taken, text = desc('also')
    assert not taken and re.search(r'\bweb\b', text), text


def ini(tmp_path, text):
    path = tmp_path / 'g.ini'
    path.write_text(text)
    return 'file %s' % path


def test_keys_of_a_file_win_over_a_descs_group_one_by_one(desc, tmp_path):
    """Its other fields stay, the limit above all; a list of the file replaces the desc's."""
    taken, text = desc(ini(tmp_path, '[web]\nqueue = 5\nroutes = /file\n'), 'number web.max_req_per_worker 1',
                       'number web.queue 7', 'words web.routes /desc /more', 'number web.run_timeout 7000', last='dump')
    assert taken, text
    web = text.split('[web]')[1].split('\n[')[0]
    for line in 'function = serve', 'max_req_per_worker = 1', 'queue = 5', 'routes = /file', 'run_timeout = 7s':
        assert '\n%s\n' % line in web, (line, web)
    assert '/desc' not in web and text.count('[web]') == text.count('[first]') == 1


def test_set_wins_over_both(desc, tmp_path):
    taken, text = desc(ini(tmp_path, '[web]\nqueue = 5\nmax_req_per_worker = 2\n'), 'number web.queue 7',
                       'set web.queue=9', last='dump')
    assert taken and '\nqueue = 9\n' in text.split('[web]')[1], text


def test_what_the_file_says_to_run_replaces_what_the_desc_says(desc, tmp_path):
    """As a key of a group replaces a default of another kind: a file turns a function into a command."""
    taken, text = desc(ini(tmp_path, '[web]\ncmd = sleep {socket}\n'), 'number web.max_req_per_worker 1', last='dump')
    assert taken, text
    web = text.split('[web]')[1].split('\n[')[0]
    assert '\ncmd = sleep {socket}\n' in web and '\nfunction = ' not in web and '\nmax_req_per_worker = 1\n' in web


def test_defaults_of_a_file_are_below_the_fields_of_a_desc(desc, tmp_path):
    """They are for groups that say nothing themselves."""
    file = 'queue = 5\nmax_req_per_worker = 3\n[other]\nroutes = /o\nupstream = 127.0.0.1:9\n'
    taken, text = desc(ini(tmp_path, file), 'number web.max_req_per_worker 1', last='dump')
    assert taken, text
    web = text.split('[web]')[1].split('\n[')[0]
    assert '\nmax_req_per_worker = 1\n' in web and '\nqueue = 5\n' in web


REFUSED = ['groups', 'functions', 'function', 'unused-function', 'function-name', 'name', 'empty-name']


@pytest.mark.parametrize('case', REFUSED + ['group-count', 'function-count', 'least-count', 'two-functions'])
def test_what_a_host_has_left_out_is_an_error_and_no_crash(case):
    with Host(build('kinds_null'), case, 'unix:{dir}/l', '{dir}/run') as h:
        assert h.end() == 0, h.err()
        if case in REFUSED:
            assert h.lines[0].startswith('-1 refused 2 ') and len(h.lines[0]) > 20, h.lines


@pytest.mark.parametrize('case', ['open', 'check', 'dump', 'scale', 'restart', 'pause', 'resume', 'reload', 'group'])
def test_an_error_that_nobody_wants_is_not_written(case):
    """`error` NULL; for `group`, the name of the group."""
    with Host(build('kinds_null'), 'error-' + case, 'unix:{dir}/l', '{dir}/run') as h:
        assert h.end() == 0, h.err()
        assert h.lines == ['1']


# --- rule 7: what callbacks get ---

def called(response):
    assert response.status == 200, response
    found = re.fullmatch(r'method=(\S+) target=(\d+) client=(\S*) group=(\S*) body=(\d+) size=(\d+) '
                         r'long=(-?\d+),(-?\d+),(-?\d+) copied=(\d+) cut=(\d+)', response.body.decode())
    assert found, response.body
    return dict(zip(('method', 'target', 'client', 'group', 'body', 'size', 'whole', 'short', 'none', 'copied', 'cut'),
                    [int(x) if re.fullmatch(r'-?\d+', x) else x for x in found.groups()]))


@pytest.fixture(scope='module')
def one():
    with One('step', 'filter') as h:
        yield h
        assert h.end() == 0


def test_all_strings_of_a_call_are_set():
    """In a handler and in a filter; where the compiler can, a local that nobody has set is a pattern and no address."""
    with One('step', 'filter', unset=pattern()) as h:
        got = called(h.ask('/call'))
        assert got['method'] == 'GET' and got['target'] == 5 and got['size'] == got['body'] == 0
        assert got['client'] in ('', '(null)', '127.0.0.1') and got['group'] in ('', '(null)', 'web')
        got = called(h.ask('/filtered'))
        assert got['client'] == '127.0.0.1' and got['group'] == '(null)' and got['size'] == got['body'] == 0
        assert h.end() == 0


CHUNKED = head('POST', '/call', [('Transfer-Encoding', 'chunked')])


@pytest.mark.parametrize('first', [head('POST', '/call', body=b'abc'), CHUNKED + b'3\r\nabc\r\n0\r\n\r\n',
                                   CHUNKED + b'1\r\na\r\n2\r\nbc\r\n0\r\nTrailer: x\r\n\r\n',
                                   head('POST', '/call', body=b'')], ids=['length', 'chunked', 'chunks', 'empty'])
def test_a_body_is_terminated(one, first):
    """What stands behind it belongs to another request, whose target is no worse for it."""
    size = 0 if b'Content-Length: 0' in first else 3
    with Client(one.worker_socket()) as c:
        c.send(first + head('POST', '/call', body=b'12345') + head('GET', '/call'))
        got = [called(c.read_response()) for _ in range(3)]
    assert [(g['method'], g['target'], g['body'], g['size']) for g in got] == [
        ('POST', 5, size, size), ('POST', 5, 5, 5), ('GET', 5, 0, 0)]


@pytest.mark.parametrize('whole', [8192, 16384, 32768, 65536, 1 << 17, 1 << 20])
def test_a_body_that_fills_the_buffer_is_terminated(one, whole):
    """Head and body are as long as the room that they lie in, and a byte more and less."""
    for n in range(whole - 2, whole + 2):
        bytes_of_head = len(head('POST', '/call', [('Content-Length', str(n))]))
        body = min(n - bytes_of_head, 1 << 20)
        with Client(one.worker_socket()) as c:
            c.send(head('POST', '/call', body=b'x' * body))
            got = called(c.read_response())
        assert got['body'] == got['size'] == body


@pytest.mark.parametrize('where', ['/call', '/filtered'])
@pytest.mark.parametrize('n', [0, 1, 98, 99, 100, 4095, 4096, 4097, 6000, 20000])
def test_a_field_is_copied_as_far_as_there_is_room(one, where, n):
    """Room for 70,000, for 100, for none: its whole length is told each time."""
    got = called(one.ask(where, headers=[('X-Long', 'v' * n)]))
    assert (got['whole'], got['short'], got['none']) == (n, n, n)
    assert (got['copied'], got['cut']) == (n, min(n, 99))


def test_a_field_that_is_not_there(one):
    got = called(one.ask('/call'))
    assert (got['whole'], got['short'], got['none']) == (-1, -1, -1)


# Two warnings, last words of several lines.
TALK = WEB + ('queue = 7\n[bare]\nqueue = 7\nfunction = serve\n[bad]\nroutes = /bad\noptional = on\nfunction = fails\n'
              'max_restarts = 1\n')


def test_the_logger_gets_one_line_per_call():
    with One('step', 'logger', config=TALK) as h:
        h.next('log 0 .*bad')
        h.write(TALK.replace('queue = 7', 'queue = x').replace('= fails', '= nothing'))
        h.do('reload', 'reloaded failed')
        h.ask('/bad')
        assert h.end() == 0
        assert len(h.said('^log')) > 5 and not h.said(r'^log \d+ \d+ (several|endless)'), h.said('^log')
        for words in 'gets no requests', 'first words', 'middle words', 'last words', 'nothing':
            assert h.said('^log.*' + words), words
        assert not [line for line in h.said('^log') if not line.split(' ', 4)[4].strip()]


def test_nothing_is_said_on_stderr_where_there_is_a_logger():
    """Its own lines, what a reading warned of, failures; what workers print has `worker_log` for itself."""
    with One('step', 'logger', config='worker_log = off\n' + TALK) as h:
        h.next('log 0 .*bad')
        h.write(TALK.replace('queue = 7', 'queue = x'))
        h.do('reload', 'reloaded failed')
        for target in '/bad', '/', '/print':
            h.ask(target)
        assert h.end() == 0 and h.err() == ''


def test_lines_of_workers_go_to_the_logger_as_well():
    with One('step', 'logger') as h:
        h.ask('/print')
        h.next('^log .*web.*to stderr')
        assert h.end() == 0 and h.err() == '' and h.said('^log .*web.*to stdout')


# --- figures and warnings ---

def test_refusals_by_rate_are_counted():
    with One('step', config=WEB + 'rate = 1/m burst=1\n') as h:
        assert [h.ask('/').status for _ in range(3)] == [200, 429, 429]
        assert h.do('info', '^info web .* refused=(\\d+)').group(1) == '2'
        assert h.end() == 0


def test_refusals_by_client_are_counted():
    with One('step', config=WEB + 'max_req_per_client = 1\n') as h, h.connect() as slow:
        slow.send(head('GET', '/slow'))
        wait_for(lambda: h.ask('/').status == 429)
        slow.read_response()
        refused = int(h.do('info', '^info web .* refused=(\\d+)').group(1))
        assert refused == 1
        assert h.end() == 0


@pytest.mark.parametrize('how', ['early', 'step'])
def test_a_group_without_routes_is_no_matter_where_a_filter_chooses(how):
    config = '[web]\nfunction = serve\n'
    for words, warned in (('filter',), False), ((), True):
        with One(how, 'logger', *words, config=config, wait=False) as h:
            h.next('^checked' if how == 'early' else '^ready')
            assert h.end() == 0
            assert bool(h.said('gets no requests')) == warned


def test_a_filter_that_names_no_group_is_told_once():
    with One('step', 'filter', 'logger') as h:
        for _ in range(5):
            assert h.ask('/', headers=[('X-Pick', 'nobody')]).status == 404
        assert h.ask('/', headers=[('X-Pick', 'web')]).status == 200
        assert h.end() == 0
        assert len(h.said(r'^log 0 .*\bnobody\b')) == 1


def chunks(n):
    return b'%x\r\n' % n + b'x' * n + b'\r\n0\r\n\r\n'


@pytest.mark.parametrize('way', ['length', 'chunked', 'expect'])
@pytest.mark.parametrize('limit', [False, True])
def test_a_body_that_is_too_large_for_the_small_server_is_413(way, limit):
    """1 MiB is taken; more is told to the client, and in a line."""
    most = 1 << 20
    with One('step', config=WEB + ('max_req_per_worker = 1\n' if limit else '')) as h:
        def ask(n):
            with h.connect() as c:
                fields = [('Transfer-Encoding', 'chunked')] if way == 'chunked' else [('Content-Length', str(n))]
                if way == 'expect':
                    fields.append(('Expect', '100-continue'))
                c.send(head('POST', '/size', fields))
                with contextlib.suppress(OSError):   # an answer may come before its end
                    c.send_some(chunks(n) if way == 'chunked' else b'x' * n, 2)
                return c.read_response()
        assert ask(most).body == b'%d' % most
        before = len(h.err())
        for n in most + 1, 3 * most:
            assert ask(n).status == 413
        wait_for(lambda: re.search(r'web.*(413|1 ?MiB|1,?048,?576|large)', h.err()[before:]), what='a line about it')
        assert h.ask('/').body == b'%d' % h.pid and not h.said('^exited')
        assert h.end() == 0
