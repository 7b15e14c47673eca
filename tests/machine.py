#!/usr/bin/python3
"""What this machine can do, found out by trying: each kind of test asks here before it relies on something.

    tests/machine.py                      what it lacks of all this, and why
    tests/machine.py emulator NAME CC     what runs the programs that compiler CC makes (i686, s390x, powerpc): `env`
                                          for nothing, or the name of an emulator; 1 and the reason when nothing does

A missing package is not asked for here (tools/deps; a failure where CI=true). What the kernel, the container or the
user does not allow has a substitute or is skipped with the reason, everywhere.

    LDCORN_LACKS="ipv6 leaks ..."         pretends that these are not there
"""
import contextlib, functools, os, pwd, resource, shutil, socket, subprocess, sys, tempfile

OUTPUT = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT}
PROBES = {}


def probe(f):
    """Its name without the underscore is what it looks for; it returns or raises why that is not there, or nothing."""
    PROBES[f.__name__.strip('_').replace('_', '-')] = f
    return f


def first_line(data):
    return next((line.strip() for line in data.decode('utf-8', 'replace').splitlines() if line.strip()), 'nothing said')


def tried(command, timeout=60, **kw):
    """Why it does not end well, or None."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, timeout=timeout, **OUTPUT, **kw)
    if done.returncode:
        return '%s: status %d, %s' % (os.path.basename(command[0]), done.returncode, first_line(done.stdout))


class Compiled:
    """A program of a few lines, as long as the `with` lasts."""

    def __init__(self, cc, source, *options):
        self.command, self.source = cc.split() + list(options), source

    def __enter__(self):
        self.dir = tempfile.mkdtemp(prefix='ldm-', dir='build' if os.path.isdir('build') else None)
        path = os.path.abspath(os.path.join(self.dir, 'tiny'))
        subprocess.run(self.command + ['-x', 'c', '-', '-o', path], input=self.source.encode(), **OUTPUT)
        return path

    def __exit__(self, *_):
        shutil.rmtree(self.dir, ignore_errors=True)


# --- network ---

@probe
def ipv6():
    with socket.socket(socket.AF_INET6) as s, socket.socket(socket.AF_INET6) as c:
        s.bind(('::1', 0))
        s.listen(1)
        c.settimeout(5)
        c.connect(s.getsockname())


@probe
def dual_stack():
    """One socket of IPv6 that takes IPv4, too; the loopback address ::1 is not asked for."""
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as s, socket.socket() as c:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        s.bind(('::ffff:127.0.0.1', 0))
        s.listen(1)
        c.settimeout(5)
        c.connect(('127.0.0.1', s.getsockname()[1]))


@probe
def localhost():
    found = {a[4][0] for a in socket.getaddrinfo('localhost', 80, socket.AF_INET, socket.SOCK_STREAM)}
    return None if found == {'127.0.0.1'} else 'localhost is %s here' % ' '.join(sorted(found))


@probe
def unknown_names():
    """A name that nobody has is soon known to be none; there are resolvers that find all, and some that are silent."""
    code = 'import socket\nsocket.getaddrinfo("no-such-host.invalid", 80)'
    try:
        if not tried([sys.executable, '-S', '-c', code], timeout=5):
            return 'the resolver finds no-such-host.invalid'
    except subprocess.TimeoutExpired:
        return 'the resolver does not answer'


@probe
def low_ports():
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for port in range(1023, 900, -1):
            try:
                return s.bind(('127.61.0.1', port))
            except OSError as e:
                why = e
    return 'ports below 1024: %s' % why


# --- users ---

@probe
def root():
    """Root that may become anybody, and give away files: in a container or a user namespace not each root may."""
    if os.geteuid() != 0:
        return 'not root'
    missing = [n for n in ('nobody', 'www-data') if not known(n)]
    if missing:
        return 'there is no user ' + missing[0]
    with tempfile.NamedTemporaryFile() as f:
        for uid, gid in ((65534, 65534), (33, 33), (12345, 12345), (23456, 34567)):
            os.chown(f.name, uid, gid)
            try:
                why = tried(['true'], user=uid, group=gid, extra_groups=[gid])
            except subprocess.SubprocessError as e:
                why = str(e)
            if why:
                return 'root may not become %d: %s' % (uid, why)


def known(name):
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


# --- files and processes ---

@probe
def dev_full():
    try:
        with open('/dev/full', 'w') as f:
            f.write('x')
    except OSError as e:
        return None if e.errno == 28 else '/dev/full: %s' % e.strerror
    return '/dev/full takes what is written'


@probe
def affinity():
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(mine)})
    os.sched_setaffinity(0, mine)


@probe
def prlimit():
    p = subprocess.Popen(['cat'], stdin=subprocess.PIPE)
    try:
        resource.prlimit(p.pid, resource.RLIMIT_FSIZE, resource.prlimit(p.pid, resource.RLIMIT_FSIZE))
    finally:
        p.communicate()


# --- tools ---

CC = os.environ.get('CC') or 'cc'
SAN = ['-g', '-fsanitize=address,undefined', '-fno-sanitize-recover=all']
TINY = '''#include <stdlib.h>
static void *volatile p;
int main(int n, char **v) {
    p = malloc(99);
    if (n < 2) free(p);
    p = NULL;
    return v[0] == NULL;
}
'''


def asan_env(leaks):
    return dict(os.environ, ASAN_OPTIONS='detect_leaks=%d:exitcode=23' % leaks)


def sanitizers(prefix=()):
    """Does a program with sanitizers run, begun with `prefix`? Not where addresses are spread too widely for them, or
    where memory may not be promised that nobody uses. A compiler without them is not asked: the build will say so."""
    with Compiled(CC, TINY, *SAN) as path:
        if not os.path.exists(path):
            return None
        for _ in range(8):                             # where it begins is chosen anew each time
            why = tried(list(prefix) + [path], env=asan_env(0))
            if why:
                return why


@functools.lru_cache(None)
def static_sanitizers():
    """The options that put them into the program, where the compiler has such: it starts in half of the time."""
    options = ['-static-libasan', '-static-libubsan']
    with Compiled(CC, TINY, '-Werror', *SAN, *options) as path:
        return options if os.path.exists(path) and not tried([path], env=asan_env(0)) else []


@probe
def asan():
    return sanitizers()


@probe
def asan_in_order():
    """With addresses that are not chosen at random."""
    return sanitizers(('setarch', '-R')) if shutil.which('setarch') else 'setarch is not there'


@probe
def tsan():
    """ThreadSanitizer: the same of addresses; a compiler without it is not asked."""
    with Compiled(CC, TINY, '-g', '-fsanitize=thread') as path:
        if os.path.exists(path):
            return next(filter(None, (tried([path]) for _ in range(8))), None)


@probe
def leaks():
    """Who looks for leaks stops the program with ptrace, which not each container allows."""
    with Compiled(CC, TINY, *SAN) as path:
        if not os.path.exists(path):
            return None
        prefix = () if not lacks('asan') else ('setarch', '-R')
        why = tried([*prefix, path], env=asan_env(1))
        if why:
            return why
        return 'a leak is not found' if not tried([*prefix, path, 'leak'], env=asan_env(1)) else None


@probe
def valgrind():
    return tried(['valgrind', '--tool=none', '-q', 'true']) if shutil.which('valgrind') else None


@probe
def chromium():
    """Without its sandbox and without /dev/shm; what it needs beside them is found out by a start."""
    command = ['chromium', '--headless=new', '--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu', '--no-first-run']
    return tried(command + ['--dump-dom', 'about:blank'], timeout=120) if shutil.which('chromium') else None


EMULATORS = {'i686': 'qemu-i386', 's390x': 'qemu-s390x', 'powerpc': 'qemu-ppc'}


def emulator(name, cc):
    """-> (what runs it, or None; why not)"""
    with Compiled(cc, '#include <stdio.h>\nint main(void) { return puts("runs") < 0; }\n', '-static') as path:
        if not os.path.exists(path):
            return None, '%s makes no program' % cc
        why = []
        for command in (['env'], [EMULATORS[name]]):
            if command[0] in pretended() or (command == ['env'] and name in pretended()):
                why.append('%s pretends to be missing' % command[0])
                continue
            try:                                        # without env: that would have a shell read it
                done = subprocess.run([c for c in command if c != 'env'] + [path], stdin=subprocess.DEVNULL, timeout=60,
                                      **OUTPUT)
                if done.returncode == 0 and done.stdout == b'runs\n':
                    return command[0], None
                why.append('%s: status %d, %s' % (command[0], done.returncode, first_line(done.stdout)))
            except OSError as e:
                why.append('%s: %s' % ('the kernel' if command == ['env'] else command[0], e.strerror))
        return None, '; '.join(why)


# --- asking ---

def pretended():
    return os.environ.get('LDCORN_LACKS', '').replace(',', ' ').split()


@functools.lru_cache(None)
def lacks(name):
    """Why it is not there, or None."""
    if name in pretended():
        return 'as if it were not there (LDCORN_LACKS)'
    try:
        return PROBES[name]()
    except (OSError, ValueError, subprocess.SubprocessError) as e:
        return '%s' % (getattr(e, 'strerror', None) or e)


def need(*names):
    """Skips the test that asks, with the reason, where one is not there."""
    import pytest
    for name in names:
        why = lacks(name)
        if why:
            pytest.skip('this machine lacks %s: %s' % (name, why))


@contextlib.contextmanager
def descriptors(n, least=None):
    """This process, and what it starts, may have n. -> how many: where no more are allowed, as few as `least`."""
    import pytest
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 'descriptors' in pretended():
        hard = min(hard, 1024)
    for most in (n, min(n, hard)):                   # root may have more than the limit
        try:
            if 'descriptors' in pretended() and most > hard:
                continue
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, max(most, hard)))
            break
        except (OSError, ValueError):
            pass
    if most < (least or n):
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        pytest.skip('this machine lacks descriptors: %d where %d are needed' % (most, least or n))
    try:
        yield most
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def main(words):
    if words[:1] == ['emulator'] and len(words) == 3:
        found, why = emulator(*words[1:])
        print(found or why)
        return not found
    if words:
        sys.exit(__doc__)
    missing = [(name, lacks(name)) for name in PROBES if lacks(name)]
    for name, why in missing:
        print('%s: %s' % (name, why))
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
