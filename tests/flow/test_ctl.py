"""tools/ldcornctl against the real binary: where it finds the admin address, each command, each refusal."""
import importlib.machinery, importlib.util, json, os, re, shutil, signal, socket, subprocess, sys, threading, time

import pytest
from harness import (BIN, REPO, AutoWorker, FakeWorker, Finished, Proxy, _environ, answer, cli, free_port, head, make_dir,
                     script, wait_for)
from procs import Before, Own, alive, counter, wait_gone
from test_life import inside, queued, web

CTL = os.path.join(REPO, 'tools', 'ldcornctl')


def ctl(*args, env=None, cwd='/', timeout=60, program=CTL, **kw):
    if not env and not kw:                           # where nothing depends on how Python starts
        done = script(program, *map(str, args), cwd=cwd, timeout=timeout)
        assert 'ldcornctl", line' not in done.err, done.err
        return done
    done = subprocess.run([sys.executable, program] + [str(a) for a in args], cwd=cwd, env=_environ(env), timeout=timeout,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kw)
    assert 'ldcornctl", line' not in done.stderr, done.stderr
    return Finished(done.returncode, done.stdout, done.stderr)


def good(p, *args, **kw):
    done = ctl(p.config_path, *args, **kw)
    assert done.status == 0, done
    return done.out


def bad(p, *args, status=1, **kw):
    """What it says on stderr."""
    done = ctl(p.config_path, *args, **kw)
    assert done.status == status and not done.out, done
    return done.err


class Held:
    """A request that is inside its worker until `done`: the end of its body is not sent yet."""

    def __init__(self, p, target='/echo', headers=()):
        self.client = p.connect()
        self.client.send(head('POST', target, dict(headers, **{'Content-Length': '2'})) + b'o')

    def done(self):
        r = self.client.send(b'k').read_response()
        self.client.close()
        assert (r.status, r.body) == (200, b'ok'), r
        return True


class Running(threading.Thread):
    """A command that takes its time."""

    def __init__(self, p, *args):
        super().__init__(daemon=True)
        self.args, self.done = (p.config_path,) + args, None
        self.start()

    def run(self):
        self.done = ctl(*self.args)

    def result(self):
        self.join(30)
        assert self.done, 'still running'
        return self.done


# --- where the admin address is ---

GROUP = '[web]\nroutes = *\nupstream = 127.0.0.1:1\n'
PLACES = {
    'default': '',
    'admin': 'admin = unix:/tmp/a-b.sock\n',
    'dots': 'admin = unix:/tmp/../tmp/./a\n',
    'tcp': 'admin = 127.0.0.1:1\n',
    'runtime_dir': 'runtime_dir = /tmp/ldcorn-none\n',
    'both': 'runtime_dir = /tmp/ldcorn-none\nadmin = unix:/tmp/ldcorn-other\n',
    'variable': 'admin = unix:${PLACE}/${OTHER:-or}/$${x}${EMPTY:-no}.sock\n',
    'comment': '# admin = unix:/wrong\n; admin = unix:/wrong\n  admin=unix:/tmp/ldcorn-right\n',
    'continued': 'admin = unix:/tmp/\\\nldcorn-right\n',
    'comment is not continued': '# a \\\nadmin = unix:/tmp/ldcorn-right\n',
    'windows': '\ufeffadmin = unix:/tmp/ldcorn-\\\r\nright\r\nqueue = 3\r\n',
    'included': 'include = more/${MORE:-other}.ini\n',
    'included first': 'include = more/third.ini\nadmin = unix:/tmp/ldcorn-right\n',
    'include in a value': 'log = include\nadmin = unix:/tmp/ldcorn-right\n',
}
FILES = {'more/other.ini': 'backlog = 9\nadmin = unix:/tmp/ldcorn-included\n',
         'more/third.ini': 'backlog = 9\n[third]\nroutes = /third\nupstream = 127.0.0.1:1\n'}


@pytest.fixture
def folder():
    path = make_dir(FILES)
    os.chmod(path, 0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def place(folder, text, env=None, program=CTL, binary=BIN, **kw):
    """The admin address, as ldcorn says it and as ldcornctl looks for it."""
    with open(folder + '/groups.ini', 'w', encoding='utf-8', newline='') as f:
        f.write(text + GROUP)
    env = dict({'PLACE': '/tmp/ld-x', 'EMPTY': ''}, **env or {})
    there = subprocess.run([binary, '-T', 'groups.ini'], cwd=folder, env=_environ(env), text=True,
                           stdout=subprocess.PIPE, **kw).stdout
    said = re.search(r'(?m)^admin = (.*?)(?: +#.*)?$', there).group(1)
    done = ctl('groups.ini', 'status', cwd=folder, env=env, program=program, **kw)
    assert done.status == 1, done
    found = re.match(r'ldcornctl: cannot reach ldcorn at (.*): ', done.err)
    assert found, done
    assert 'groups.ini' in done.err and 'running' in done.err
    return said, found.group(1)


@pytest.mark.parametrize('name', PLACES)
def test_it_looks_where_ldcorn_listens(folder, name):
    said, found = place(folder, PLACES[name])
    assert said == found


# Several addresses: a socket is taken, wherever it stands.
LISTS = {
    'beside': 'admin = unix:/tmp/ldcorn-right 127.0.0.1:1\n', 'behind': 'admin = 127.0.0.1:1 unix:/tmp/ldcorn-right\n',
    'repeated': 'admin = 127.0.0.1:1\nbacklog = 5\nadmin = unix:/tmp/ldcorn-right\n',
    'included': 'admin = 127.0.0.1:1\ninclude = more/right.ini\n', 'quoted': 'admin = 127.0.0.1:1 "unix:/tmp/ldcorn-right"\n',
    'variable': 'admin = 127.0.0.1:1 unix:${PLACE:-/no}\n'}


@pytest.mark.parametrize('name', LISTS)
def test_of_several_addresses_it_takes_the_socket(folder, name):
    os.makedirs(folder + '/more', exist_ok=True)
    with open(folder + '/more/right.ini', 'w') as f:
        f.write('admin = unix:/tmp/ldcorn-right\n')
    with open(folder + '/groups.ini', 'w') as f:
        f.write(LISTS[name] + GROUP)
    done = ctl('groups.ini', 'status', cwd=folder, env={'PLACE': '/tmp/ldcorn-right'})
    assert done.status == 1 and 'cannot reach ldcorn at unix:/tmp/ldcorn-right:' in done.err, done
    checked = cli('-t', 'groups.ini', cwd=folder, env={'PLACE': '/tmp/ldcorn-right'})
    assert checked.status == 0, checked


@pytest.mark.parametrize('env', [{}, {'RUNTIME_DIRECTORY': '/tmp/ldcorn-given'}, {'XDG_RUNTIME_DIR': '/tmp/ldcorn-xdg'},
                                 {'RUNTIME_DIRECTORY': '', 'XDG_RUNTIME_DIR': ''}], ids=str)
@pytest.mark.parametrize('user', [None, pytest.param('nobody', marks=pytest.mark.needs('root'))])
def test_the_default_place(folder, env, user):
    """It depends on the user, two variables and the path of the file as it is written."""
    kw = {'program': CTL}
    if user:                                 # who may not be allowed to look where these lie
        kw = {'user': user, 'program': shutil.copy(CTL, folder)}
    said, found = place(folder, '', env, binary=shutil.copy(BIN, folder) if user else BIN, **kw)
    assert said == found
    os.symlink(folder, folder + '/link')
    at = {'groups.ini': folder + '/link', folder + '/link/groups.ini': '/', 'link/groups.ini': folder}
    places = set()
    for path, cwd in at.items():             # the same path, through the link, from three directories
        done = ctl(path, 'status', cwd=cwd, env=dict(env, PWD=cwd), **kw)
        places.add(re.search(r'at unix:(\S+)/admin\.sock', done.err).group(1))
        there = subprocess.run([shutil.copy(BIN, folder) if user else BIN, '-T', path], cwd=cwd, env=_environ(dict(env, PWD=cwd)),
                               text=True, stdout=subprocess.PIPE, user=user).stdout
        places.add(re.search(r'(?m)^runtime_dir = (\S+)', there).group(1))
    assert len(places) == 1 and (places == {found[5:-11]}) == bool(env.get('RUNTIME_DIRECTORY'))
    done = ctl('groups.ini', 'status', cwd=folder, env=dict(env, PWD='/'), **kw)
    assert found in done.err, 'a PWD that is another directory counts for nothing'


def test_without_a_file():
    """$LDCORN_CONFIG, else groups.ini in the working directory."""
    with Own(web()) as p:
        assert ctl('ready', cwd=p.dir).status == 0
        assert ctl('ready', env={'LDCORN_CONFIG': p.config_path}).status == 0
        done = ctl('ready', cwd=p.dir, env={'LDCORN_CONFIG': '/nonexistent/x.ini'})
        assert done.status == 1 and 'cannot read /nonexistent/x.ini: No such file' in done.err


BY_ADDRESS = 'listen = {listen}\nadmin = %s\n[web]\nroutes = *\nupstream = %s\n'


@pytest.mark.parametrize('admin, addresses', [
    ('127.0.0.1', ('127.0.0.1:%d', ':%d', 'http://127.0.0.1:%d', '0.0.0.0:%d')),
    pytest.param('127.0.0.1', ('localhost:%d', 'http://localhost:%d/'), marks=pytest.mark.needs('localhost')),
    ('::1', ('[::1]:%d', 'http://[::1]:%d'))], ids=['IPv4', 'localhost', 'IPv6'])
def test_an_address_instead_of_a_file(admin, addresses):
    port = free_port(admin)
    with AutoWorker() as w, Proxy(BY_ADDRESS % (('[%s]:%d' if ':' in admin else '%s:%d') % (admin, port), w.address)):
        for address in addresses:
            assert ctl(address % port, 'ready').out == 'ready\n', address


def test_a_socket_instead_of_a_file():
    with AutoWorker() as w, Proxy(BY_ADDRESS % ('{admin}', w.address)) as p:
        assert ctl(p.admin_address, 'ready').out == 'ready\n'
        done = ctl('unix:admin.sock', 'status', cwd=p.dir)
        assert done.status == 0 and done.out.startswith('ldcorn ')


# --- what it cannot reach, and what is not right ---

def test_nobody_there(folder):
    done = ctl('unix:/nonexistent/admin.sock', 'status')
    assert done.status == 1 and 'cannot reach ldcorn at unix:/nonexistent/admin.sock' in done.err
    assert 'start message says `admin`' in done.err
    port = free_port()
    done = ctl(':%d' % port, 'reload')
    assert done.status == 1 and 'Connection refused' in done.err
    with open(folder + '/x.ini', 'w') as f:
        f.write('admin = unix:%s/stale\n%s' % (folder, GROUP))
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(folder + '/stale')
    done = ctl(folder + '/x.ini', 'stop')
    assert done.status == 1 and 'Connection refused' in done.err and 'is ldcorn running with %s/x.ini?' % folder in done.err
    done = ctl('unix:' + 'x' * 200, 'status')
    assert done.status == 1 and 'cannot reach' in done.err


@pytest.mark.needs('root')
def test_somebody_elses():
    with Own(web()) as p:
        os.chmod(p.dir, 0o755)
        done = ctl(p.admin_address, 'status', user='nobody', program=shutil.copy(CTL, p.dir))
        assert done.status == 1 and 'belongs to another user' in done.err and 'root' in done.err


def test_no_such_file():
    done = ctl('/nonexistent/groups.ini', 'status')
    assert done.status == 1 and 'cannot read /nonexistent/groups.ini: No such file' in done.err
    done = ctl('status', cwd='/nonexistent' if os.path.isdir('/nonexistent') else '/proc')
    assert done.status == 1 and 'cannot read groups.ini' in done.err and 'admin address' in done.err


@pytest.mark.parametrize('top, says', [
    ('admin = off\n', 'admin = off'), ('admin = unix:${LDT_UNSET}\n', '$LDT_UNSET is not set'),
    ('include = nothing.ini\n', 'nothing.ini: No such file')])
def test_a_file_that_does_not_say_where(folder, top, says):
    with open(folder + '/x.ini', 'w') as f:
        f.write(top + GROUP)
    done = ctl(folder + '/x.ini', 'status')
    assert done.status == 1 and says in done.err and not done.out


def test_what_is_not_http(folder):
    """Something else listens there, or nobody answers."""
    with FakeWorker() as w:
        running = threading.Thread(target=lambda: w.accept().send(b'SSH-2.0-x\r\n').close(), daemon=True)
        running.start()
        done = ctl(w.address, 'status')
        assert done.status == 1 and 'cannot reach ldcorn' in done.err
        running.join()
        running = threading.Thread(target=lambda: w.accept().close(), daemon=True)
        running.start()
        done = ctl(w.address, 'status')
        assert done.status == 1 and 'cannot reach ldcorn' in done.err
        running.join()
        began = time.monotonic()
        done = ctl(w.address, 'reload', '--timeout', '300ms')
        assert done.status == 1 and 'no answer from %s within 0.3s' % w.address in done.err
        assert time.monotonic() - began < 8


@pytest.mark.parametrize('args, says', [
    ((), 'COMMAND'), (('stauts',), 'status'), (('groups.ini', 'frobnicate'), 'frobnicate'), (('scale', 'web'), 'N'),
    (('scale', 'web', 'many'), 'many'), (('scale', 'web', '1', '2'), '2'), (('restart',), 'GROUP[.INDEX]'),
    (('restart', 'web.x'), 'web.x'), (('drain', 'web'), 'not a worker, like'), (('resume', '.1'), '.1'),
    (('pause',), 'GROUP'), (('join', 'web'), 'ADDRESS'), (('quit', 'web'), 'ADDRESS'), (('route', 'GET'), 'PATH'),
    (('route', 'GET', '/', 'nofield'), 'NAME:VALUE'), (('status', '--keep'), '--keep'), (('reload', '--json'), '--json'),
    (('reload', '--timeout', '5'), '30s'), (('stop', '--timeout'), '--timeout'), (('--frob', 'status'), '--frob'),
    (('status', '--frob'), '--frob'), (('http://a b', 'status'), 'not an address'),
    (('http://127.0.0.1:99999', 'status'), 'not an address')], ids=str)
def test_usage(folder, args, says):
    with open(folder + '/groups.ini', 'w') as f:
        f.write('admin = unix:/nonexistent\n' + GROUP)
    done = ctl(*args, cwd=folder)
    assert done.status == 2 and not done.out and says in done.err, done
    assert 'ldcornctl' in done.err


def test_help():
    done = ctl('--help')
    assert done.status == 0
    for name in 'status requests ready reload stop scale restart pause drain resume join quit route'.split():
        assert re.search(r'(?m)^    %s +\S' % name, done.out), name
        assert ctl(name, '-h').status == 0
    assert 'LDCORN_CONFIG' in done.out and 'LDCORN_TOKEN' in done.out


def test_version():
    with open(REPO + '/ldcorn.h') as f:
        version = re.search(r'#define LDCORN_VERSION "([^"]+)"', f.read()).group(1)
    done = ctl('--version')
    assert (done.status, done.out) == (0, 'ldcornctl %s\n' % version)


# --- tokens ---

class Tcp(Proxy):
    def __init__(self, top=''):
        self.tcp, self.fake = '127.0.0.1:%d' % free_port(), AutoWorker()
        super().__init__('listen = {listen}\nadmin = %s\n%s\n[web]\nroutes = *\nupstream = %s\n'
                         % (self.tcp, top, self.fake.address))

    def __exit__(self, *exc):
        try:
            super().__exit__(*exc)
        finally:
            self.fake.close()


def test_the_token():
    """From the file or from the environment, which wins; reading on loopback needs none."""
    with Tcp('admin_token = s3cret') as p:
        assert ctl(p.config_path, 'reload').status == 0
        assert ctl(p.tcp, 'reload', env={'LDCORN_TOKEN': 's3cret'}).status == 0
        generation = p_generation(p)
        for args, env, says in (((p.tcp,), None, 'and none is known'), ((p.tcp,), {'LDCORN_TOKEN': 'x'}, 'not this one'),
                                ((p.config_path,), {'LDCORN_TOKEN': 'x'}, 'not this one')):
            for command in (('reload',), ('stop',), ('pause', 'web'), ('quit', 'web', p.fake.address)):
                done = ctl(*args, *command, env=env)
                assert done.status == 1 and 'wants its admin_token' in done.err and says in done.err, done
                assert '$LDCORN_TOKEN' in done.err and 's3cret' not in done.err
        assert ctl(p.tcp, 'status').status == ctl(p.tcp, 'ready').status == 0 and p_generation(p) == generation


def p_generation(p):
    return json.loads(ctl(p.tcp, 'status', '--json').out)['generation']


def test_no_token_at_all():
    """The file has none: that is what is missing, not one of ours."""
    with Tcp() as p:
        for command in ('stop', 'reload'):
            done = ctl(p.config_path, command)
            assert done.status == 1 and 'groups.ini has none' in done.err and 'write `admin_token = ' in done.err and p.alive(), done
            assert 'instead of the address' not in done.err
        assert ctl(p.config_path, 'status').status == ctl(p.config_path, 'ready').status == 0


def test_a_token_that_is_not_known_here():
    """What only looks does not need it; what changes something says which variable is missing."""
    with Tcp('admin_token = ${LDT_TOKEN:-s3cret}') as p:
        p.write_config(p.config_text.replace(':-s3cret', ''))
        assert ctl(p.config_path, 'status').status == ctl(p.config_path, 'ready').status == 0
        done = ctl(p.config_path, 'reload')
        assert done.status == 1 and '$LDT_TOKEN is not set' in done.err and '$LDCORN_TOKEN' in done.err, done
        p.write_config(p.config_text.replace('${LDT_TOKEN}', '${LDT_TOKEN:-s3cret}'))
        assert ctl(p.config_path, 'reload', env={'LDT_TOKEN': 's3cret'}).status == 0


def test_a_socket_needs_no_token():
    with Own(web(), top='admin_token = ${LDT_TOKEN}\n', env={'LDT_TOKEN': 's3cret'}) as p:
        assert 'generation 2' in good(p, 'reload') and good(p, 'ready') == 'ready\n'


# --- what is seen ---

def rows(out, first):
    """The table whose first column has this title: [{title: cell}] by columns."""
    lines = out.split('\n')
    at = next(i for i, line in enumerate(lines) if line.startswith(first))
    spans = [(m.start(), m.group()) for m in re.finditer(r'\S+(?: \S+)*', lines[at])]
    found = []
    for line in lines[at + 1:]:
        if not line or line.startswith('!'):
            break
        cells = [line[a:b].strip() for (a, _), b in zip(spans, [a for a, _ in spans[1:]] + [None])]
        found.append(dict(zip([name for _, name in spans], cells)))
    return found


ABOUT = r'<1ms|~\d+ms|~[\d.]+s|>1m'


def test_quantiles_are_about():
    """Between the edges of a bucket nothing is known: what is shown lies there, and says that it is no measurement."""
    with AutoWorker(lambda r, c: time.sleep(0.6) or answer(b'x')) as w, Own('[web]\nroutes = *\nupstream = %s\n' % w.address) as p:
        assert rows(good(p, 'status'), 'GROUP')[0]['WORK p50'] == '-'
        p.get('/')
        row, = rows(good(p, 'status'), 'GROUP')
        assert row['WORK p50'] == '~750ms' and re.fullmatch(ABOUT, row['p99']), row


def loaded():
    """The tool as a module."""
    loader = importlib.machinery.SourceFileLoader('ldcornctl', CTL)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader('ldcornctl', loader))
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


@pytest.mark.parametrize('buckets, p, text', [
    ([(.001, 0), (.005, 0), (1, 0)], .5, '-'), ([], .5, '-'), ([(.001, 9), (.005, 9)], .5, '<1ms'), ([(.5, 0), (1, 100), (2.5, 100)], .5, '~750ms'),
    ([(.5, 0), (1, 100), (2.5, 100)], 1, '~1.0s'), ([(1, 0), (2.5, 2), (5, 2)], .5, '~1.8s'), ([(10, 1), (30, 99), (60, 100)], .5, '~20s'),
    ([(60, 1), (float('inf'), 100)], .99, '>1m'), ([(.001, 50), (.005, 50), (.01, 100)], .75, '~7ms')])
def test_a_quantile_from_buckets(buckets, p, text):
    assert loaded().quantile(buckets, p) == text and re.fullmatch(ABOUT + '|-', text)


def test_who_has_just_been_asked_for_is_starting():
    """Its own end is what puts a worker into back-off; one that replaces another has that one's last words at most."""
    state = loaded().state
    assert state({'state': 'backoff', 'last_exit': None}) == state({'state': 'backoff', 'last_exit': 'exit 1'}) == 'starting'
    assert state({'state': 'backoff', 'last_exit': 'exit 1', 'last_exit_ago': 0.1}) == 'backoff'
    assert [state({'state': s, 'last_exit': None}) for s in ('ready', 'starting', 'failed', 'down')] == ['ready', 'starting', 'failed', 'down']


def test_status():
    with Own('[ml]\nroutes = /ml\nmax_req_per_worker = 1\nqueue = 5\nworkers = 2\nrequest_buffer = 0\ncmd = %s\n'
             '[web]\nroutes = *\ncmd = %s\n' % (counter(), counter()), top='min_rate = 0\n') as p:
        held = []
        for n in (1, 2, 2):
            held.append(Held(p, '/ml', {'X-Ask': 'echo'}))
            inside(p, n)
        queued(p, 1)
        out = good(p, 'status')
        first, second = out.split('\n')[:2]
        assert re.fullmatch(r'ldcorn \d+\.\d+\.\d+  pid %d  up [\d.]+s  generation 1  no reload yet' % p.pid, first)
        assert re.fullmatch(r'clients 3 \(3 busy\)   (-|[\d.]+) req/s   5xx 0\.0 %   loop \d+ % busy', second), second
        ml, other = rows(out, 'GROUP')
        assert (ml['GROUP'], ml['WORKERS'], ml['INSIDE'], ml['QUEUE'], ml['REFUSED'], ml['RESTARTS']) == \
            ('ml', '2/2', '2/2', '1/5', '0', '0') and re.fullmatch(r'[\d.]+m?s!?', ml['OLDEST'])
        assert (other['GROUP'], other['WORKERS'], other['INSIDE'], other['QUEUE'], other['OLDEST'], other['WAIT p50']) == \
            ('web', '1/1', '0', '-', '-', '-')
        workers = rows(out, 'WORKER')
        assert [w['WORKER'] for w in workers] == ['ml.0', 'ml.1', 'web.0']
        assert [w['PID'] for w in workers] == [str(pid) for g in ('ml', 'web') for pid in p.pids({'ml': 0, 'web': 1}[g])]
        assert [w['STATE'] for w in workers] == ['ready'] * 3 and [w['LAST EXIT'] for w in workers] == ['-'] * 3
        assert [w['INSIDE'] for w in workers] == ['1/1', '1/1', '0'] and workers[2]['NOW'] == '-'
        assert re.fullmatch(r'[\d.]+m?s', workers[0]['NOW']) and re.fullmatch(r'[\d.]+M', workers[0]['RSS'])
        assert '\n!' not in out
        assert all([h.done() for h in held])
        s = json.loads(good(p, 'status', '--json'))
        assert s['pid'] == p.pid and [g['name'] for g in s['groups']] == ['ml', 'web']
        out = good(p, 'status')
        ml, _ = rows(out, 'GROUP')
        assert re.fullmatch(ABOUT, ml['WORK p50']) and re.fullmatch(ABOUT, ml['WAIT p50'])


def test_workers_that_dial_in():
    with Proxy('listen = {listen}\nadmin = {admin}\n[hub]\nroutes = *\ndial_in = unix:{dir}/hub\n') as p:
        assert '! hub: nobody has dialled in\n' in good(p, 'status') and ctl(p.config_path, 'ready').out == 'not ready: hub\n'
        with socket.socket(socket.AF_UNIX) as w, p.connect() as c:
            w.connect(p.dir + '/hub')
            p.wait_status(lambda s: s['groups'][0]['slots'] == 1)
            assert '\n!' not in good(p, 'status')
            c.send(head('GET', '/'))
            p.wait_status(lambda s: s['groups'][0]['in_flight'] == 1)
            out = good(p, 'status')
            assert rows(out, 'GROUP')[0]['INSIDE'] == rows(out, 'WORKER')[0]['INSIDE'] == '1/1'
            assert rows(out, 'WORKER')[0]['PID'] == 'unix:%s/hub' % p.dir
            w.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n')
            assert c.read_response().status == 200


def test_rates():
    """Requests per second and the share of 5xx are those of the last second."""
    with AutoWorker(lambda r, c: b'HTTP/1.1 %d x\r\nContent-Length: 0\r\n\r\n' % (500 if 'no' in r.target else 200)) as w:
        with Own('[web]\nroutes = *\nupstream = %s\n' % w.address) as p, p.connect() as c:
            stop = threading.Event()

            def load():
                while not stop.is_set():
                    c.ask('GET', '/no')
                    c.ask('GET', '/')
            running = threading.Thread(target=load, daemon=True)
            running.start()
            try:
                out = good(p, 'status')
            finally:
                stop.set()
                running.join()
            m = re.search(r'([\d.]+) req/s   5xx ([\d.]+) %', out)
            web_, = rows(out, 'GROUP')
            assert m and float(m.group(1)) > 1 and 25 < float(m.group(2)) < 75, out
            assert web_['REQ/S'] == m.group(1) and rows(out, 'WORKER')[0]['PID'] == w.address


def test_hints():
    with Own(web('--fail-if={dir}/bad', '--say=first\x1b[2J', group='workers = 2\nmax_req_per_worker = 1\nqueue = 1\n'
                 'max_restarts = 1\nbackoff_max = 100ms\n')) as p, p.connect() as c:
        good(p, 'pause', 'web')
        c.send(head('GET', '/'))
        queued(p, 1)
        out = good(p, 'status')
        assert '! web: paused; `ldcornctl resume web`' in out and '! web: the queue is full' in out
        assert '1/1' == rows(out, 'GROUP')[0]['QUEUE']
        good(p, 'resume', 'web')
        assert c.read_response().status == 200
        good(p, 'drain', 'web.1')
        assert '! web.1: drained by hand; `ldcornctl resume web.1`' in good(p, 'status')
        p.touch('bad')
        for pid in p.pids():
            os.kill(pid, signal.SIGKILL)
        p.wait_status(lambda s: all(w['state'] == 'failed' for w in s['groups'][0]['workers']))
        out = good(p, 'status')
        assert '! web: no worker takes requests' in out and '! web.0: given up after max_restarts; `ldcornctl restart web.0`' in out
        assert re.search(r"! web\.0: its last words: (\(\d+s ago\) )?ModuleNotFoundError: No module named 'torch'", out), out
        assert '\x1b' not in out
        assert rows(out, 'GROUP')[0]['WORKERS'] == '0/2' and rows(out, 'WORKER')[0]['STATE'] == 'failed'
        assert 'exit' in rows(out, 'WORKER')[0]['LAST EXIT']
        done = ctl(p.config_path, 'ready')
        assert (done.status, done.out) == (1, 'not ready: web\n')
        p.write_config(p.config_text + 'frob = 1\n')
        assert ctl(p.config_path, 'reload').status == 1
        out = good(p, 'status')
        assert re.search(r'last reload failed, [\d.]+m?s, [\d.]+s ago', out) and 'unknown key `frob`' in out


def test_requests():
    with Before('max_req_per_worker = 1\n') as b:
        assert good(b.proxy, 'requests') == 'no request in flight\n' and good(b.proxy, 'requests', '--json') == '[]\n'
        b.send('/first?a="b"')
        b.worker.one()
        b.send('/second', 'POST', b'x')
        b.queued(1)
        first, second = rows(good(b.proxy, 'requests'), 'GROUP')
        assert (first['GROUP'], first['WORKER'], first['PHASE'], first['CLIENT'], first['REQUEST']) == \
            ('web', 'web.0', 'worker', '127.0.0.1', 'GET /first?a="b"')
        assert (second['WORKER'], second['PHASE'], second['REQUEST']) == ('-', 'queued', 'POST /second')
        assert re.fullmatch(r'[\d.]+m?s', first['AGE'])
        found = json.loads(good(b.proxy, 'requests', '--json'))
        assert {r['target'] for r in found} == {'/first?a="b"', '/second'}


def test_ready():
    with Own('[one]\nroutes = /one\ncmd = %s\n[two]\nroutes = /two\ncmd = %s\n[web]\nroutes = *\ncmd = %s\n'
             % (counter('{socket}', '--hold-listen={dir}/go'), counter('{socket}', '--hold-listen={dir}/go'), counter()),
             wait=False).up() as p:
        p.wait_status(lambda s: p.pids('web'))
        done = ctl(p.config_path, 'ready')
        assert (done.status, done.out) == (1, 'not ready: one two\n')
        p.touch('go')
        p.wait_status(lambda s: p.pids('one') and p.pids('two'))
        assert good(p, 'ready') == 'ready\n'


ROUTES = '''[ml]
routes = /predict
match = header:X-Model=big
upstream = 127.0.0.1:1
[web]
routes = /
upstream = 127.0.0.1:1
[host]
routes = /only
hosts = a.example
upstream = 127.0.0.1:1
'''


@pytest.mark.parametrize('args, group, rest', [
    (('GET', '/predict/x', 'X-Model:big'), 'ml', r'route /predict, groups.ini:\d+\n  the longest route that fits'),
    (('GET', '/predict/x', 'x-model:  big'), 'ml', r'1 condition holds'),
    (('POST', '/predict/x'), 'web', r'route /, groups.ini:\d+\n'),
    (('GET', '/a b?c&d=e#%'), None, ''), (('GET', '/only', 'Host:a.example'), 'host', r'route /only'),
    (('GET', '/only'), 'web', ''), (('GET', '/x/../predict', 'X-Model:big'), None, r'400 \(path\): refused')])
def test_route(args, group, rest):
    with Proxy('listen = {listen}\nadmin = {admin}\n' + ROUTES, wait=False) as p:
        p.wait_log('admin')                      # the socket is there a moment before it is listened on
        done = ctl(p.config_path, 'route', *args)
        if group:
            assert done.status == 0 and done.out.startswith(group + ': ') and re.search(rest, done.out), done
        else:
            assert done.status == 1 and not done.out and re.search(rest, done.err), done


@pytest.mark.parametrize('loopback', ['127.0.0.1', '::1'])
def test_route_of_a_host_by_tcp(loopback):
    """It is the Host of the request in question, not that of the request to admin."""
    text = ('[host]\nroutes = /only\nhosts = a.example *.b.example\nupstream = 127.0.0.1:1\n'
            '[web]\nroutes = *\nupstream = 127.0.0.1:1\n')
    address = ('[%s]:%d' if ':' in loopback else '%s:%d') % (loopback, free_port(loopback))
    with Proxy('listen = {listen}\nadmin = %s\n%s' % (address, text), wait=False) as p:
        p.wait_log('admin')
        for host, target, group in (
                ('a.example', '/only', 'host'), ('A.example.:80', '/only/x%20y?q=1', 'host'),
                ('x.b.example', '/only', 'host'), ('b.example', '/only', 'web'), ('a.example', '/other', 'web'),
                ('127.0.0.1', '/only', 'web'), ('[::1]:8000', '/only', 'web'),
                ('other', 'http://a.example/only', 'host')):
            done = ctl(address, 'route', 'GET', target, 'Host: ' + host)
            assert done.status == 0 and done.out.startswith(group + ': '), (host, target, done)
        assert ctl(address, 'route', 'OPTIONS', '*', 'host:a.example').out.startswith('web: ')
        for host in ('a b', 'a.example/only', 'x@a.example', ''):
            done = ctl(address, 'route', 'GET', '/only', 'Host:' + host)
            assert done.status == 1 and 'refused (400): 400 missing, repeated or invalid Host' in done.err, done
        done = ctl(address, 'route', 'GET', 'only', 'Host:a.example')
        assert done.status == 1 and '400 (request)' in done.err, done


def test_route_without_a_route():
    with Own('[web]\nroutes = /web\ncmd = %s\n' % counter()) as p:
        assert '404 (route): no route fits, and there is no *' in bad(p, 'route', 'GET', '/other')
        assert 'web: route /web, groups.ini:' in good(p, 'route', 'GET', '/web')
        bad(p, 'route', 'GET', '/web', 'X:a\nb', status=2)


# --- what changes something ---

def test_reload():
    with Own(web('--tag=old')) as p:
        old = p.pids()
        p.edit(('--tag=old', '--tag=new'))
        assert 'generation 2' in good(p, 'reload') and p.get('/tag') == 'new' and not set(p.pids()) & set(old)
        now = p.pids()
        assert 'generation 3' in good(p, 'reload', '--keep') and p.pids() == now
        p.edit(('--tag=new', '--tag=new --fail-if=/'))
        said = bad(p, 'reload')
        assert 'reload failed, nothing changed: generation 3 goes on' in said and "No module named 'torch'" in said
        assert p.pids() == now


def test_reload_that_takes_too_long():
    with Own(web()) as p:
        p.edit((counter(), counter('{socket}', '--hold-listen={dir}/go')))
        said = bad(p, 'reload', '--timeout', '500ms')
        assert 'no answer' in said and 'within 0.5s' in said
        p.touch('go')
        p.wait_status(lambda s: s['generation'] == 2)


def test_stop_waits_for_the_end():
    with Own(web()) as p:
        held = Held(p)
        inside(p, 1)
        running = Running(p, 'stop')
        p.wait_status(lambda s: s['stopping'])
        assert alive(p.pid) and not running.done and held.done()
        assert running.result().out == 'stopped\n' and not alive(p.pid) and p.wait_exit() == 0
        assert 'cannot reach' in bad(p, 'stop')


def test_stop_twice_is_no_stop_at_once():
    with Own(web()) as p:
        held = Held(p)
        inside(p, 1)
        said = bad(p, 'stop', '--timeout', '200ms')
        assert 'pid %d still runs after 0.2s' % p.pid in said and 'kill -QUIT %d' % p.pid in said
        assert '! it is stopping' in good(p, 'status')
        assert 'stopping' in bad(p, 'pause', 'web')
        assert 'still runs' in bad(p, 'stop', '--timeout', '200ms')
        assert p.alive() and held.done() and p.wait_exit() == 0


def test_stop_over_tcp():
    with Tcp('admin_token = s3cret') as p, p.connect() as c:
        p.fake.handler = lambda r, conn: time.sleep(1) or b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n'
        began = time.monotonic()
        c.send(head('GET', '/'))
        wait_for(lambda: p.fake.inside)
        assert ctl(p.config_path, 'stop').out == 'stopped\n'
        assert time.monotonic() - began > 0.9 and c.read_response().status == 200 and p.wait_exit() == 0


def test_stop_knows_a_fresh_process():
    """A supervisor may start the next one at once."""
    with Own(web()) as p:
        running = Running(p, 'stop')
        p.proc.wait()
        p.again()
        assert running.result().out == 'stopped\n' and p.alive()


def test_scale():
    with Own(web(group='workers = 2\n')) as p:
        old = p.pids()
        assert good(p, 'scale', 'web', 4) == 'web: 4 ready\n' and len(p.pids()) == 4 and p.pids()[:2] == old
        assert good(p, 'scale', 'web', 1) == 'web: 1 ready\n' and p.pids() == old[:1]
        assert [w['index'] for w in p.group('web')['workers']] == [0]
        assert rows(good(p, 'status'), 'GROUP')[0]['WORKERS'] == '1/1'
        assert 'ldcornctl scale web N' in bad(p, 'scale', 'web', 0)
        assert '1 to 4096' in bad(p, 'scale', 'web', 99999)


def test_scale_down_waits_for_what_is_inside():
    with Own(web(group='workers = 2\nmax_req_per_worker = 1\nrequest_buffer = 0\n'), top='min_rate = 0\n') as p:
        held = [Held(p), Held(p)]
        inside(p, 2)
        said = bad(p, 'scale', 'web', 1, '--timeout', '1s')          # time enough for the first answer
        assert 'not done within 1s' in said and 'status' in said
        running = Running(p, 'scale', 'web', '1')
        assert all([h.done() for h in held]) and running.result().out == 'web: 1 ready\n' and len(p.pids()) == 1


def test_what_goes_wrong_meanwhile_is_said():
    with Own(web('--fail-if={dir}/bad', group='backoff_max = 200ms\n')) as p:
        p.touch('bad')
        said = bad(p, 'scale', 'web', 2, '--timeout', '1500ms')
        assert re.search(r'web\.1 is backoff: exit \d+\n(  \| .*\n)*  \| ModuleNotFoundError', said), said
        running = Running(p, 'scale', 'web', '2')
        os.unlink(p.dir + '/bad')
        assert running.result().status == 0 and len(p.pids()) == 2


def serving(p, index):
    """The process that serves there: one that has ended is named beside it until it is buried."""
    return next(w['pid'] for w in p.group('web')['workers'] if w['index'] == index and w['state'] == 'ready')


def test_restart():
    with Own(web(group='workers = 2\n')) as p:
        a, b = p.pids()
        assert good(p, 'restart', 'web') == 'web: new and ready\n'
        assert not {a, b} & set(p.pids()) and len(p.pids()) == 2
        wait_gone(a, b)
        a, b = serving(p, 0), serving(p, 1)
        assert good(p, 'restart', 'web.1') == 'web.1: new and ready\n'
        assert a in p.pids() and b not in p.pids() and len(p.pids()) == 2


@pytest.mark.parametrize('way', ['rolling', 'replace'])
def test_restart_one_after_the_other(way):
    with Own(web(group='workers = 2\nreload = %s\n' % way)) as p:
        old = p.pids()
        good(p, 'restart', 'web')
        assert len(p.pids()) == 2 and not set(old) & set(p.pids())
        wait_gone(*old)
        now = [serving(p, 0), serving(p, 1)]
        good(p, 'restart', 'web.0')
        wait_gone(now[0])
        assert serving(p, 0) != now[0] and serving(p, 1) == now[1] and len(p.pids()) == 2


def test_restart_leaves_the_old_one_to_finish():
    with Own(web()) as p:
        old, = p.pids()
        held = Held(p)
        inside(p, 1)
        good(p, 'restart', 'web.0')
        assert alive(old) and p.pids() != [old] and held.done()
        wait_gone(old)


def test_restart_that_fails():
    with Own(web('--fail-if={dir}/bad', group='backoff_max = 100ms\n')) as p:
        old = p.pids()
        p.touch('bad')
        assert "No module named 'torch'" in bad(p, 'restart', 'web') and p.pids() == old
        said = bad(p, 'restart', 'web.0', '--timeout', '1s')
        assert "No module named 'torch'" in said and 'not done within 1s' in said, said
        assert p.pids() == old
        os.unlink(p.dir + '/bad')
        wait_for(lambda: p.pids() and p.pids() != old)


def test_restart_of_one_that_was_given_up():
    with Own(web('--fail-if={dir}/bad', group='max_restarts = 0\n')) as p:
        p.touch('bad')
        os.kill(p.pids()[0], signal.SIGKILL)
        p.wait_status(lambda s: s['groups'][0]['workers'][0]['state'] == 'failed')
        os.unlink(p.dir + '/bad')
        assert good(p, 'restart', 'web.0') == 'web.0: new and ready\n'
        assert p.get('/')


def test_pause_and_resume():
    with Own(web()) as p, p.connect() as c:
        assert 'web: paused' in good(p, 'pause', 'web') and p.group('web')['paused']
        c.send(head('GET', '/'))
        queued(p, 1)
        assert c.silent()
        assert good(p, 'resume', 'web') == 'web: takes requests again\n' and not p.group('web')['paused']
        assert c.read_response().status == 200


def test_drain_and_resume():
    with Own(web(group='workers = 2\nmax_req_per_worker = 1\nrequest_buffer = 0\n'), top='min_rate = 0\n') as p:
        held = Held(p)
        s = p.wait_status(lambda s: s['groups'][0]['in_flight'] == 1)
        index = next(w['index'] for w in s['groups'][0]['workers'] if w['in_flight'])
        at, other = 'web.%d' % index, p.worker('web', 1 - index)['pid']
        assert 'not done within 1s' in bad(p, 'drain', at, '--timeout', '1s')
        running = Running(p, 'drain', at)
        assert held.done()
        assert running.result().out.startswith(at + ': nothing inside, and nothing new until `ldcornctl resume ' + at)
        assert p.worker('web', index)['paused'] and p.worker('web', index)['in_flight'] == 0
        for _ in range(4):
            assert p.get('/') == str(other)
        assert good(p, 'resume', at) == at + ': takes requests again\n' and not p.worker('web', index)['paused']


def test_join_and_quit():
    with AutoWorker() as a, AutoWorker() as b, Own('[web]\nroutes = *\nupstream = %s\n' % a.address) as p:
        assert good(p, 'join', 'web', b.address) == 'web: %s is ready\n' % b.address
        assert {w['address'] for w in p.group('web')['workers']} == {a.address, b.address}
        assert good(p, 'quit', 'web', a.address) == 'web: %s is gone\n' % a.address
        assert p.get('/') == 'ok' and b.served == 1 and a.served == 0
        assert bad(p, 'join', 'web', 'no address') and bad(p, 'quit', 'web', a.address)
        assert [w['address'] for w in p.group('web')['workers']] == [b.address]


@pytest.mark.needs('localhost')
def test_an_address_in_another_spelling():
    with AutoWorker() as a, AutoWorker() as b, Own('[web]\nroutes = *\nupstream = %s\n' % a.address) as p, p.connect() as c:
        there = b.address.replace('127.0.0.1', 'localhost')
        assert good(p, 'join', 'web', there) == 'web: %s is ready\n' % there
        assert 'is in web already' in bad(p, 'join', 'web', b.address)
        b.handler = a.handler = lambda r, conn: time.sleep(1) or b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n'
        c.send(head('GET', '/'))
        p.wait_status(lambda s: s['groups'][0]['in_flight'] == 1)
        at = next(w for w in p.group('web')['workers'] if w['in_flight'])['address'].replace('localhost', '127.0.0.1')
        good(p, 'quit', 'web', at.replace('127.0.0.1', 'localhost'))
        assert len(p.group('web')['workers']) == 1 and not p.group('web')['in_flight'], 'it has not waited'
        assert c.read_response().status == 200


def test_join_waits_until_it_is_ready():
    port = free_port()
    with AutoWorker() as a, Own('[web]\nroutes = *\nupstream = %s\nbackoff_max = 100ms\n' % a.address) as p:
        said = bad(p, 'join', 'web', '127.0.0.1:%d' % port, '--timeout', '1s')
        assert 'not done within 1s' in said and 'web.1 is down: cannot reach 127.0.0.1:%d\n' % port in said, said
        done = ctl(p.config_path, 'quit', 'web', a.address)      # whose business the other one is not
        assert (done.status, done.err) == (0, ''), done


def test_quit_waits_for_what_is_inside():
    with AutoWorker(lambda r, c: time.sleep(1) or b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n') as a, AutoWorker() as b:
        with Own('[web]\nroutes = *\nupstream = %s %s\n' % (a.address, b.address)) as p, p.connect() as c:
            c.send(head('GET', '/'))
            p.wait_status(lambda s: s['groups'][0]['in_flight'] == 1)
            at = next(w['address'] for w in p.group('web')['workers'] if w['in_flight'])
            good(p, 'quit', 'web', at)
            assert c.read_response().status == 200


UNKNOWN = [('scale', 'wob', '2'), ('restart', 'wob'), ('restart', 'wob.0'), ('pause', 'wob'), ('drain', 'wob.0'),
           ('resume', 'wob'), ('resume', 'wob.0'), ('join', 'wob', '127.0.0.1:1'), ('quit', 'wob', '127.0.0.1:1')]


@pytest.fixture(scope='module')
def two():
    """One group of processes, one of somebody else's."""
    with AutoWorker() as w, Own('[far]\nroutes = /far\nupstream = %s\n' % w.address + web()) as p:
        yield p


@pytest.mark.parametrize('args', UNKNOWN, ids=str)
def test_an_unknown_group(two, args):
    assert 'there is no group `wob`; did you mean `web`?' in bad(two, *args)
    assert 'there is no group `x`; there are: far web' in bad(two, *[args[0], args[1].replace('wob', 'x')] + list(args[2:]))


@pytest.mark.parametrize('command', ['restart', 'drain', 'resume'])
def test_an_unknown_worker(two, command):
    assert 'there is no worker web.7; there are: web.0' in bad(two, command, 'web.7')


@pytest.mark.parametrize('args', [('scale', 'far', '2'), ('restart', 'far'), ('restart', 'far.0'),
                                  ('join', 'web', '127.0.0.1:1'), ('quit', 'web', '127.0.0.1:1')], ids=str)
def test_what_is_not_possible(two, args):
    """ldcorn says why."""
    assert re.search(r'refused \(4\d\d\): \S+', bad(two, *args))
    assert len(two.pids('web')) == 1


def test_during_a_reload():
    with Own(web()) as p:
        p.edit((counter(), counter('{socket}', '--hold-listen={dir}/go')))
        running = Running(p, 'reload')
        p.wait_status(lambda s: s['reloading'])
        assert 'web is being reloaded' in bad(p, 'scale', 'web', '2')
        then = Running(p, 'restart', 'web')          # waits for its turn
        p.touch('go')
        assert running.result().status == 0 and then.result().status == 0


def test_a_reader_that_has_seen_enough():
    with Own(web()) as p:
        done = subprocess.run('"%s" "%s" "%s" status --json | head -c 1; exit ${PIPESTATUS[0]}'
                              % (sys.executable, CTL, p.config_path), shell=True, executable='/bin/bash',
                              env=_environ(None), stderr=subprocess.PIPE, text=True, stdout=subprocess.PIPE)
        assert done.stdout == '{' and not done.stderr


def test_interrupted():
    with Own(web('--hold-listen={dir}/go'), wait=False).up() as p:
        running = subprocess.Popen([sys.executable, CTL, p.config_path, 'scale', 'web', '2'], env=_environ(None),
                                   stderr=subprocess.PIPE, text=True)
        p.wait_status(lambda s: len(s['groups'][0]['workers']) == 2)
        running.send_signal(signal.SIGINT)
        said = running.communicate(timeout=20)[1]
        assert running.returncode == 130 and 'interrupted' in said and 'Traceback' not in said
        p.touch('go')


# --- what is installed ---

def test_install(folder):
    """Nothing but DESTDIR is touched; the unit has the paths of PREFIX."""
    if not os.path.exists(REPO + '/build/ldcorn'):
        pytest.skip('build/ldcorn is not built')
    subprocess.run(['make', '-s', '-C', REPO, '-o', 'build/ldcorn', 'install', 'DESTDIR=' + folder, 'PREFIX=/opt/x'], check=True)
    bin_ = folder + '/opt/x/bin/'
    assert os.access(bin_ + 'ldcorn', os.X_OK)
    done = subprocess.run([bin_ + 'ldcornctl', 'unix:/nonexistent', 'status'], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and 'cannot reach' in done.stderr
    assert os.access(folder + '/opt/x/share/ldcorn/ldconfig2ini.py', os.X_OK) and os.path.exists(folder + '/opt/x/include/ldcorn.h')
    with open(folder + '/opt/x/lib/systemd/system/ldcorn.service') as f:
        unit = f.read()
    assert 'ExecStart=/opt/x/bin/ldcorn ' in unit and 'ExecReload=/opt/x/bin/ldcornctl ' in unit and '/usr/local' not in \
        re.sub('(?m)^#.*$', '', unit)


def test_the_unit(folder):
    """systemd finds nothing wrong, and its times are longer than ours."""
    with open(REPO + '/tools/ldcorn.service') as f:
        unit = f.read()
    keys = dict(re.findall(r'(?m)^(\w+)=(.*)$', unit))
    assert keys['Type'] == 'notify' and keys['KillMode'] == 'mixed' and keys['OOMPolicy'] == 'continue'
    there = cli('-T', 'groups.ini', config=GROUP).out
    assert re.search(r'(?m)^shutdown_timeout = 25s', there) and keys['TimeoutStopSec'] == '30s'
    assert re.search(r'(?m)^start_timeout = 5m', there) and keys['ExecReload'].endswith(' --timeout 10m')
    if not shutil.which('systemd-analyze'):
        pytest.skip('systemd-analyze is not there')
    with open(folder + '/ldcorn.service', 'w') as f:          # what it names must be there
        f.write(unit.replace('/usr/local/bin/ldcornctl', CTL).replace('/usr/local/bin/ldcorn ', sys.executable + ' '))
    done = subprocess.run(['systemd-analyze', 'verify', folder + '/ldcorn.service'], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0 and 'ldcorn.service' not in done.stdout, done.stdout


@pytest.mark.parametrize('said', ['<html>', '{"groups":[1,null]}', '{"groups":[{}]}', '[' * 100000, '"\\ud800"'])
def test_somebody_else_at_the_address(said):
    """Another server, or a proxy on the way: one message, whatever it answers."""
    with AutoWorker(lambda r, c: answer(said)) as w:
        for command in (['status'], ['requests'], ['restart', 'g'], ['scale', 'g', '3'], ['stop'], ['join', 'g', '127.0.0.1:1']):
            done = ctl(w.address, *command)
            assert done.status == 1 and done.err.startswith('ldcornctl: '), (command, done)
