"""What a file means where it lies, what -t knows of a start, and what is said to who writes it as elsewhere."""
import contextlib, json, os, re, shutil, signal, stat, subprocess, sys

import pytest
from harness import (BIN, CC, PLAIN, REPO, Client, Finished, Proxy, _environ, built, cli, free_port, make_dir,
                     request, wait_for)
from procs import Own, counter
from test_config import UP, WEB, accepted, check, effective, refused
from test_ctl import ctl

root = pytest.mark.needs('root')


# --- where the file lies: names that nobody wrote, links that are swapped ---

class Placed(Proxy):
    """The binary with its own defaults of `admin` and `runtime_dir`, started in some directory. `{dir}` in arguments
    and files is the test's own directory, `@LISTEN@` its address."""

    def __init__(self, *args, folder=None, cwd='', env=None, wait=True):
        self.dir = folder or make_dir()
        os.chmod(self.dir, 0o755)
        self.port = free_port()
        self.address = ('127.0.0.1', self.port)
        self.expect_status, self.stop_timeout = 0, 30
        self.config_path = self.dir + '/groups.ini'
        self.log_path, self.access_path = self.dir + '/log-%d' % self.port, self.dir + '/access'
        self.cwd = os.path.join(self.dir, cwd)
        self.env = dict({'COUNTER_LOG': self.dir + '/counted', 'PWD': self.cwd}, **env or {})
        if os.geteuid() != 0:
            self.env.setdefault('XDG_RUNTIME_DIR', self.dir)
        with open(self.log_path, 'ab') as log:
            self.proc = subprocess.Popen(
                [BIN, '-o', 'listen=127.0.0.1:%d' % self.port] + [a.replace('{dir}', self.dir) for a in args],
                cwd=self.cwd, env=_environ(self.env), stderr=log, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        self.pid = self.proc.pid
        try:
            if wait:
                self.wait_log('ready after')
            self.runtime = wait_for(lambda: self.says_runtime(), what='the address of admin in the start text')
        except BaseException:
            self._kill()
            print(self.log())
            raise
        self.admin_address = 'unix:%s/admin.sock' % self.runtime

    def says_runtime(self):
        m = re.search(r'unix:(/\S+)/admin\.sock', self.log())
        return m and m.group(1)

    def __exit__(self, *exc):
        try:
            super().__exit__(*exc)
        finally:
            assert self.runtime.startswith('/run/ldcorn-' if os.geteuid() == 0 else self.dir)
            shutil.rmtree(self.runtime, ignore_errors=True)

    def hup(self):
        """-> the line that says how the reload ended."""
        before = len(self.log())
        self.signal(signal.SIGHUP)
        return self.wait_log(r'^.*reload (done|failed).*(\n    .*)*', after=before).group(0)

    def tag(self):
        return request(self, 'GET', '/tag').body.decode()

    def ctl(self, *args, cwd=None):
        where = os.path.join(self.dir, cwd or '')
        return ctl(*args, cwd=where, env=dict(self.env, PWD=where))


def release(tag, more=''):
    return '%s[web]\nroutes = *\ncmd = %s\n' % (more, counter('{socket}', '--tag=' + tag))


def link(target, path):
    """As `ln -sfn` and kubelet do it: in one step."""
    os.symlink(target, path + '.new')
    os.rename(path + '.new', path)


# how the link stands, the file as it is written, the swap
SWAPS = {
    'directory': ({'current': 'releases/1'}, 'current/groups.ini', {'current': 'releases/2'}),
    'file': ({'groups.ini': 'releases/1/groups.ini'}, 'groups.ini', {'groups.ini': 'releases/2/groups.ini'}),
    'configmap': ({'conf/..data': '../releases/1', 'conf/groups.ini': '..data/groups.ini'}, 'conf/groups.ini',
                  {'conf/..data': '../releases/2'}),
    'absolute': ({'current': '{dir}/releases/1'}, '{dir}/current/groups.ini', {'current': '{dir}/releases/2'}),
}


@contextlib.contextmanager
def placed(swap, **kw):
    """-> the process started with that file, and a function that swaps the link."""
    before, written, after = SWAPS[swap]
    folder = make_dir({'releases/1/groups.ini': release('one'), 'releases/2/groups.ini': release('two'), 'conf/x': ''})

    def swapped(links):
        for path, target in links.items():
            link(target.replace('{dir}', folder), os.path.join(folder, path))
    swapped(before)
    with Placed(written, folder=folder, **kw) as p:
        p.written = written.replace('{dir}', folder)
        yield p, lambda: swapped(after)


@pytest.mark.parametrize('gone', [False, True], ids=['kept', 'removed'])
@pytest.mark.parametrize('swap', SWAPS)
def test_a_file_behind_a_link_that_is_swapped_is_reloaded(swap, gone):
    """The default of runtime_dir is what it was at the start: nobody has edited it. The old release may be gone."""
    with placed(swap) as (p, do):
        assert p.tag() == 'one'
        do()
        if gone:
            shutil.rmtree(p.dir + '/releases/1')
        assert 'generation 2' in p.hup() and p.tag() == 'two'
        assert 'generation 3' in p.hup(), 'and again'
        assert p.says_runtime() == p.runtime and os.path.exists(p.runtime + '/admin.sock')


@pytest.mark.parametrize('swap', SWAPS)
def test_ldcornctl_finds_it_behind_a_link_that_was_swapped(swap):
    """By the path as it is written, from wherever, before the reload and behind it."""
    with placed(swap) as (p, do):
        full = os.path.join(p.dir, p.written)
        for step in (lambda: None, do, p.hup):
            step()
            for done in (p.ctl(p.written, 'ready'), p.ctl(full, 'ready', cwd='/'),
                         p.ctl(os.path.basename(full), 'ready', cwd=os.path.dirname(full))):
                assert (done.status, done.out) == (0, 'ready\n'), (step, done)
        assert p.ctl(p.written, 'reload').status == 0


def test_two_files_behind_one_link_are_two_instances():
    """What is written differently is another instance, wherever it leads."""
    with placed('directory') as (p, _):
        with Placed('releases/2/groups.ini', folder=p.dir) as other:
            link('releases/2', p.dir + '/current')
            assert other.runtime != p.runtime
            for at, one in ((p.written, p), ('releases/2/groups.ini', other)):
                assert json.loads(p.ctl(at, 'status', '--json').out)['pid'] == one.pid
            other.stop()
            assert p.ctl('releases/2/groups.ini', 'ready').status == 1 and p.ctl(p.written, 'ready').status == 0


def test_who_writes_runtime_dir_edits_it():
    """What stays is what nobody wrote."""
    with Placed('groups.ini', folder=make_dir({'groups.ini': release('one')})) as p:
        with open(p.config_path, 'w') as f:
            f.write('runtime_dir = %s/other\n' % p.dir + release('two'))
        said = p.hup()
        assert 'failed' in said and 'runtime_dir' in said and p.tag() == 'one'
        with open(p.config_path, 'w') as f:
            f.write(release('two'))
        assert 'done' in p.hup() and p.tag() == 'two'


def test_a_command_without_a_file_is_reloaded_by_hup():
    """As its start text says."""
    with Placed('--', *counter('{socket}').split()) as p:
        pid = request(p, 'GET', '/').body
        assert re.search(r'kill -HUP %d' % p.pid, p.log())
        for generation in (2, 3):
            assert 'generation %d' % generation in p.hup()
        assert request(p, 'GET', '/').body != pid


HOST = r'''
#include <stdio.h>
#include <string.h>
#include "%s/ldcorn.h"
int main(int argc, char **argv) {
    static const char *all[] = {"*", NULL};
    const char *listen[] = {argv[1], NULL}, *up[] = {argv[2], NULL};
    ldcorn_group_desc group;
    ldcorn_desc desc;
    ldcorn_error error;
    ldcorn *l;
    memset(&group, 0, sizeof group);
    memset(&desc, 0, sizeof desc);
    group.name = "inner";
    group.upstream = up;
    group.routes = all;
    desc.groups = &group;
    desc.group_count = 1;
    desc.listen = listen;
    %s
    l = ldcorn_open(&desc, &error);
    if (l == NULL) {
        fputs(error.text, stderr);
        return error.status;
    }
    for (int i = 0; i < 2; i++) {
        if (ldcorn_reload(l, &error)) {
            fputs(error.text, stderr);
            return 9;
        }
        for (int turn = 0; turn < 20; turn++) ldcorn_step(l, 10);
    }
    ldcorn_close(l);
    return 0;
}
'''


def host(tmp_path, what, *args):
    """A host program, run to its end."""
    (tmp_path / 'host.c').write_text(HOST % (REPO, what))
    subprocess.run([*CC, *PLAIN, str(tmp_path / 'host.c'), built('embed/kinds_lib.c', *PLAIN, '-c'),
                    '-o', str(tmp_path / 'host')], check=True)
    p = subprocess.run([str(tmp_path / 'host')] + list(args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                       timeout=20, env=_environ({'XDG_RUNTIME_DIR': str(tmp_path)}))
    return Finished(p.returncode, p.stdout, p.stderr)


def test_a_host_without_a_file_reloads(tmp_path):
    """ldcorn_reload says at once what is wrong with the configuration: nothing is."""
    run = host(tmp_path, '', '127.0.0.1:%d' % free_port(), '127.0.0.1:1')
    assert run.status == 0 and 'reload failed' not in run.err and 'runtime_dir' not in run.err, run


# --- started inside a link ---

SERVER = '#!/bin/sh\nexec %s "$@"\n' % counter('')
HERE = '[web]\nroutes = *\ncmd = ./server --tag=%s {socket}\nworker_log = out.log\n'


@contextlib.contextmanager
def inside(pwd='{dir}/current', config=HERE):
    folder = make_dir({'releases/%d/%s' % (n, name): text for n, tag in ((1, 'one'), (2, 'two'))
                       for name, text in (('groups.ini', config % tag), ('server', SERVER))})
    for n in (1, 2):
        os.chmod(folder + '/releases/%d/server' % n, 0o755)
    link('releases/1', folder + '/current')
    with Placed('groups.ini', folder=folder, cwd='current', env={'PWD': pwd.replace('{dir}', folder)}) as p:
        yield p


def info(p):
    return json.loads(request(p, 'GET', '/info').body)


def test_started_inside_a_link_a_reload_takes_what_it_leads_to_now():
    """The file, the program, the worker's directory and its log: all relative names follow $PWD."""
    with inside() as p:
        assert info(p)['argv'][0] == '--tag=one' and info(p)['cwd'] == p.dir + '/releases/1'
        link('releases/2', p.dir + '/current')
        assert 'generation 2' in p.hup()
        said = info(p)
        assert said['argv'][0] == '--tag=two' and said['cwd'] == p.dir + '/releases/2'
        request(p, 'GET', '/print?text=hello')
        wait_for(lambda: 'hello' in read(p.dir + '/releases/2/out.log'))
        shutil.rmtree(p.dir + '/releases/1')
        assert 'generation 3' in p.hup() and info(p)['argv'][0] == '--tag=two'
        assert p.ctl('groups.ini', 'ready', cwd='current').status == 0


def test_a_dir_is_relative_to_the_link_too():
    config = '[web]\nroutes = *\ndir = .\nenv = WHICH=%s\ncmd = ./server {socket}\n'
    with inside(config=config) as p:
        link('releases/2', p.dir + '/current')
        assert 'generation 2' in p.hup()
        assert (info(p)['env']['WHICH'], info(p)['cwd']) == ('two', p.dir + '/releases/2')


@pytest.mark.parametrize('pwd', ['/', '{dir}', '{dir}/nothing', 'current', ''])
def test_a_pwd_that_is_another_directory_counts_for_nothing(pwd):
    """A supervisor may hand on its own: what counts is where we are."""
    with inside(pwd) as p:
        assert info(p)['argv'][0] == '--tag=one' and 'generation 2' in p.hup()
        assert info(p)['argv'][0] == '--tag=one' and info(p)['cwd'] == p.dir + '/releases/1'


def read(path):
    try:
        with open(path, errors='replace') as f:
            return f.read()
    except FileNotFoundError:
        return ''


# --- programs: what exec would find ---

def script(text='exit 0'):
    return '#!/bin/sh\n%s\n' % text


def programs():
    """Own directory, a worker's directory, one in the worker's PATH."""
    path = make_dir({'here/run': script(), 'app/venv/bin/serve': script(), 'app/venv/bin/plain': script(),
                     'app/venv/bin/lost': '#!/no/such/python3\n', 'app/venv/bin/dir/x': '', 'bin/only-there': script(),
                     'shut/serve': script()})
    for name in ('here/run', 'app/venv/bin/serve', 'app/venv/bin/lost', 'bin/only-there', 'shut/serve'):
        os.chmod(os.path.join(path, name), 0o755)
    os.chmod(path, 0o755)
    os.chmod(path + '/shut', 0o700)
    return path


@pytest.fixture(scope='module')
def tree():
    path = programs()
    yield path
    shutil.rmtree(path)


def tried(tree, config, *args, env=None):
    """`ldcorn -t` beside those directories."""
    with open(tree + '/groups.ini', 'w') as f:
        f.write(config.replace('{dir}', tree))
    return cli(*(args or ('-t', 'groups.ini')), cwd=tree, env=env)


OWN = '[web]\nroutes = *\n'


@pytest.mark.parametrize('config', [
    'dir = app\ncmd = ./venv/bin/serve main:app {socket}\n', 'dir = {dir}/app\ncmd = venv/bin/serve {socket}\n',
    'cmd = app/venv/bin/serve {socket}\n', 'cmd = {dir}/app/venv/bin/serve {socket}\n',
    'cmd = ${HOME}/app/venv/bin/serve {socket}\n',
    'env = PATH={dir}/bin\ncmd = only-there {socket}\n', 'dir = app\nenv = PATH=venv/bin\ncmd = serve {socket}\n',
    'dir = bin\nenv = PATH=:/nowhere\ncmd = only-there {socket}\n', 'cmd = true {socket}\n'])
def test_a_program_that_is_there(tree, config):
    """In the worker's directory, with the worker's PATH: nothing to say."""
    run = tried(tree, OWN + config, env={'HOME': tree})
    assert (run.status, run.err) == (0, ''), run


@pytest.mark.parametrize('config', [
    'dir = here\ncmd = ./venv/bin/serve main:app {socket}\n', 'dir = app\ncmd = app/venv/bin/serve {socket}\n',
    'cmd = ./venv/bin/uvicorn {socket}\n', 'dir = app\ncmd = venv/bin/plain {socket}\n',
    'dir = app\ncmd = venv/bin/dir {socket}\n',
    'dir = app\ncmd = venv/bin/lost {socket}\n', 'cmd = {dir}/app/venv/bin/lost {socket}\n',
    'cmd = only-there {socket}\n', 'env = PATH={dir}/bin\ncmd = true {socket}\n',
    'env = PATH={dir}/nothing\ncmd = true {socket}\n',
    'dir = app\nenv = PATH=venv/bin\ncmd = plain {socket}\n', 'env = PATH={dir}/here\napp = main:app\n',
    'cmd = {dir}/here {socket}\n', 'cmd = "" {socket}\n'])
def test_a_program_that_exec_would_not_find(tree, config):
    """Not there, no program, without its interpreter, not in this PATH: an error at the line of cmd or app."""
    line = next(i for i, text in enumerate((OWN + config).split('\n'), 1) if text.startswith(('cmd', 'app')))
    run = tried(tree, OWN + config)
    assert run.status == 2 and re.search(r'^groups\.ini:%d:\d+: ' % line, run.err, re.M), run


def test_the_path_of_all_groups_counts(tree):
    run = tried(tree, 'env = PATH={dir}/bin\n' + OWN
                + 'cmd = only-there {socket}\nenv = A=1\n[two]\nroutes = /two\ncmd = true {socket}\n')
    assert run.status == 2 and 'groups.ini:8:' in run.err and 'groups.ini:4:' not in run.err, run


@root
def test_a_program_that_the_user_of_the_group_may_not_run(tree):
    """Root finds everything; the worker is somebody else."""
    run = tried(tree, OWN + 'cmd = {dir}/shut/serve {socket}\n')
    assert run.status == 0, run
    run = tried(tree, OWN + 'user = nobody\ncmd = {dir}/shut/serve {socket}\n')
    assert run.status == 2 and 'groups.ini:4:' in run.err, run


# What people write who think of a shell, and what the remedy must name.
HABITS = {
    'tilde': ('~/venv/bin/uvicorn main:app {socket}', r'\$\{HOME\}|absolute|whole path'),
    'tilde user': ('~www/bin/serve {socket}', r'\$\{HOME\}|absolute|whole path|home'),
    'home': ('$HOME/venv/bin/uvicorn {socket}', r'\$\{HOME\}'),
    'variable': ('$VENV/bin/uvicorn {socket}', r'\$\{VENV\}|\$\{'),
    'cd': ('cd app && uvicorn main:app {socket}', r'`?dir\b'),
    'source': ('source venv/bin/activate {socket}', r'venv/bin|PATH'),
    'dot': ('. venv/bin/activate {socket}', r'venv/bin|PATH'),
    'exec': ('exec true {socket}', r'\bexec\b.*|without'),
    'assignment': ('WORKERS=1 true {socket}', r'env = WORKERS=1|`?env\b'),
    'export': ('export A=1; true {socket}', r'`?env\b'),
    'tilde later': ('true ~/config.toml {socket}', r'\$\{HOME\}|absolute|whole path'),
    'home later': ('true $HOME/config.toml {socket}', r'\$\{HOME\}'),
    'output': ('true {socket} > web.log', r'worker_log|sh -c'),
    'output and errors': ('true {socket} >> web.log 2>&1', r'worker_log|sh -c'),
    'glued': ('true {socket} >web.log', r'worker_log|sh -c'),
    'input': ('true {socket} < in', r'sh -c'),
    'pipe': ('true {socket} | tee log', r'sh -c'),
    'background': ('true {socket} &', r'foreground|background|leave|remove|without|sh -c'),
    'and': ('true && true {socket}', r'sh -c'),
    'or': ('true {socket} || true', r'sh -c'),
    'semicolon': ('true ; true {socket}', r'sh -c'),
    'glued semicolon': ('true; true {socket}', r'sh -c'),
    'substitution': ('true {socket} --threads $(nproc)', r'sh -c'),
}


@pytest.mark.parametrize('name', HABITS)
def test_shell_habits_get_the_remedy_at_t(tree, name):
    command, remedy = HABITS[name]
    run = tried(tree, OWN + 'cmd = %s\n' % command)
    at = re.search(r'(?m)^groups\.ini:3(:\d+)?: .*(\n +.*)*', run.err)
    assert at and re.search(remedy, at.group(0)), run
    assert re.search(r'\bshell\b|\bcd\b|source|\bexec\b|env', at.group(0)), run


STUMBLES = {
    'daemon': ('cmd = /bin/true --daemon {socket}', 'stay in the foreground'),
    'gunicorn -w': ('cmd = gunicorn -w 4 -b unix:{socket} main:app', 'workers = 4'),
    'gunicorn -D': ('cmd = gunicorn -D -b unix:{socket} main:app', 'stay in the foreground'),
    'app with options': ('app = main:app --workers 4', 'for options'),
    'comment behind a value': ('workers = 2 # two\ncmd = /bin/true {socket}', 'a comment has a line of its own'),
}


@pytest.mark.parametrize('name', STUMBLES)
def test_what_newcomers_write_gets_the_remedy(tmp_path, name):
    text, remedy = STUMBLES[name]
    (tmp_path / 'g.ini').write_text('[web]\nroutes = *\n%s\n' % text)
    said = cli('-t', str(tmp_path / 'g.ini'))
    place = [line for line in (said.out + said.err).splitlines() if re.match(r'.*g\.ini:3:\d+: ', line)]
    assert len(place) >= 1 and remedy in said.out + said.err, said.out + said.err
    if name.startswith('comment'):
        assert len(place) == 1, 'one error for one value'


def test_a_regular_expression_gets_a_route_that_can_be_written(tmp_path):
    (tmp_path / 'g.ini').write_text('[web]\nroutes = ^/x$\ncmd = /bin/true {socket}\n')
    said = cli('-t', str(tmp_path / 'g.ini'))
    assert re.search(r'write =/x(\s|$)', said.out + said.err), said.out + said.err


@pytest.mark.parametrize('name', HABITS)
def test_shell_habits_get_the_remedy_at_the_start(tree, name):
    """Who does not ask -t reads the same, before or beside what the worker says."""
    command, remedy = HABITS[name]
    folder = make_dir({'groups.ini': OWN + 'cmd = %s\nbackoff_max = 30s\n' % command})
    log = folder + '/log'
    with open(log, 'wb') as err:
        p = subprocess.Popen([BIN, '-o', 'listen=127.0.0.1:%d' % free_port(), '-o', 'admin=off', '-o',
                              'runtime_dir=%s/run' % folder,
                              'groups.ini'], cwd=folder, stdin=subprocess.DEVNULL, stdout=err, stderr=err,
                             env=_environ(None))
    try:
        wait_for(lambda: re.search(remedy, said(log)) or p.poll() is not None, what='the remedy in:\n' + read(log))
        assert re.search(remedy, said(log)), read(log)
    finally:
        p.terminate()
        p.wait(20)
        shutil.rmtree(folder)


def said(log):
    """Without the lines that repeat what was written."""
    return re.sub(r'(?m)^ +\d+ \|.*$|^    ran: .*$|^  logs .*$', '', read(log))


@pytest.mark.parametrize('command', [
    "/bin/sh -c 'cd / && exec true > /dev/null 2>&1 & wait; true | cat' {socket}",
    'true --url http://x/?a=1&b=2 {socket}',
    "true --filter 'a > b; c' {socket}", 'true --cost 5$ {socket}', 'true --backup=a~ {socket}', 'true a=b {socket}',
    'true --re "^a|b$" {socket}', 'true "~/x" \'$HOME\' {socket}', 'true -x "&" {socket}'])
def test_no_habit_is_seen_where_there_is_none(tree, command):
    """A real shell, quoted words, signs inside words."""
    run = tried(tree, OWN + 'cmd = %s\n' % command)
    assert (run.status, run.err) == (0, ''), run


# --- lists and routes ---

def told(config, line, *args):
    """An error or a warning at that line; -> its text and whether it is an error."""
    run = check(config, *args)
    m = re.search(r'(?m)^groups\.ini:%d(:\d+)?: .*(\n +.*)*' % line, run.err)
    assert m, run
    return m.group(0), run.status == 2


@pytest.mark.parametrize('key, value', [
    ('routes', '/predict, /embed'), ('routes', '/predict,'), ('routes', '/a*, /b'), ('routes', '=/a, =/b'),
    ('routes', '/a , /b'),
    ('hosts', 'a.com, b.com'), ('hosts', '*.a.com, b.com'), ('allow', '10.0.0.0/8, 127.0.0.1'),
    ('deny', '10.0.0.1, unix'),
    ('match', 'method:GET, header:X'), ('match', 'header:X=1, cookie:y'), ('match', 'query:a, query:b'),
    ('upstream', '127.0.0.1:9, 127.0.0.1:10'), ('upstream', 'unix:/tmp/a, unix:/tmp/b'),
    ('hash_key', 'header:X, addr'), ('rate', '5/s, burst=3')])
def test_a_comma_behind_a_word_of_a_list_is_an_error(key, value):
    """It would be part of the word: a route that fits nothing, silently."""
    base = '[web]\n' + ('' if key == 'routes' else 'routes = *\n') + ('' if key == 'upstream' else UP) + \
        ('balance = hash\n' if key == 'hash_key' else '')
    text = refused(base + '%s = %s\n' % (key, value), base.count('\n') + 1)
    assert re.search(r'comma|blank', text), text


@pytest.mark.parametrize('key, value', [
    ('listen', '127.0.0.1:8000, 127.0.0.1:8001'), ('listen', 'unix:/tmp/a, 127.0.0.1:8001'),
    ('trusted_proxies', '10.0.0.0/8, 127.0.0.1')])
def test_a_comma_in_a_list_above_the_groups_is_an_error(key, value):
    assert re.search(r'comma|blank', refused('%s = %s\n%s' % (key, value, WEB), 1))


def test_a_comma_in_a_dial_list_is_an_error():
    text = refused('[web]\nroutes = *\ndial_in = 127.0.0.1:9\ndial_allow = 10.0.0.1, 10.0.0.2\n', 4)
    assert re.search(r'comma|blank', text)


def test_a_comma_in_an_override_is_an_error():
    run = check(WEB, '-o', 'web.routes=/a, /b')
    assert run.status == 2 and re.search(r'comma|blank', run.err), run


def test_commas_that_are_meant():
    """Inside a word, in a value of env, in a command."""
    run = accepted('[web]\nroutes = *\ncmd = true --hosts a, b {socket}\nenv = LIST=a,b\n')
    assert not run.err, run


# A route, what to write instead, and whether a request could ever find it.
ODD = {
    '/items/{id}': (r'`?/items\b', None), '/items/{id}/parts': (r'`?/items\b', None),
    '/a/{path:path}': (r'`?/a\b', None),
    '/api/:id': (r'`?/api\b', None), '/api/:id/x': (r'`?/api\b', None), '/a/<id>': (r'`?/a\b', None),
    '/a/<int:id>': (r'`?/a\b', None), '=/items/{id}': (r'`?/items\b', None),
    '/%61pi': (r'`?/api\b', None), '/caf%C3%A9': ('café', None), '/a%2Fb': (r'`?/a/b\b', None),
    '/%61pi*': (r'`?/api\*', None),
    '/api/../x': (r'`?/x\b', True), '/../x': (r'`?/x\b', True), '/./x': (r'`?/x\b', None), '/api/..': (r'`?/', True),
    '/a?b': (r'query:b', None), '/a?b=1': (r'query:b=1', None), '=/a?b': (r'query:b', None),
    '/a/*/b': (r'`?/a\b', True), '/a**': (r'/a\*', True), '/a/.*': (r'/a', None), '/a$': (r'=/a', None),
    '/a,/b': (r'/a /b', None),
}


@pytest.mark.parametrize('route', ODD)
def test_a_route_that_no_request_finds_is_told_with_what_to_write(route):
    """What can never fit is an error, what hardly can is a warning."""
    remedy, never = ODD[route]
    text, error = told('[web]\nroutes = * %s\n%s' % (route, UP), 2)
    hint = text.split('\n', 1)[1] if '\n' in text else text
    assert re.search(remedy, re.sub(r'(?m)^ +\d+ \|.*$', '', hint) + text.split(':', 3)[-1].replace(route, '')), text
    assert error or not never, 'it can never fit: ' + text


@pytest.mark.parametrize('route', [
    '/', '/a', '/a*', '=/a', '/v1.0', '/~user', '/@name', '/a;v=1', '/things:cancel', '/a..b', '/.well-known', '/café',
    '/a-b_c',
    '/...', '/a+b', '/a!', '/a(b)'])
def test_routes_that_are_right(route):
    run = accepted('[web]\nroutes = * %s\n%s' % (route, UP))
    assert not run.err, run


def test_conditions_that_exclude_each_other_are_told():
    """All must hold: no request has two methods."""
    told(WEB + 'match = method:GET method:POST\n', 4)
    told(WEB + 'match = method:get\n', 4)
    assert not accepted(WEB + 'match = method:GET header:X=1\n[b]\nroutes = *\n' + UP).err


# --- placeholders in env ---

READS = "cmd = /bin/sh -c 'exec %s \"$WHERE\"'\n" % counter('')


@pytest.mark.parametrize('where, name', [('{port}', 'PORT'), ('{socket}', 'SOCKET'), ('fd:{fd}', 'FD')])
def test_env_says_where_to_listen(where, name):
    """PORT={port} with a command that reads it, as the twelve factors have it."""
    with Own(OWN + READS + 'env = WHERE=%s TAG={group}.{index}+{generation}\n' % where) as p:
        env = p.info()['env']
        assert env['WHERE'] == where.replace('{%s}' % name.lower(), env['LDCORN_' + name])
        assert env['TAG'] == 'web.0+1'
        old, = p.pids()
        assert p.admin('POST', '/reload?processes=keep')[0] == 200
        assert p.pids() == [old], 'nothing was edited'
        assert p.admin('POST', '/reload')[0] == 200 and p.info()['env']['TAG'] == 'web.0+3'


def test_env_for_all_groups_says_where_to_listen():
    config = 'env = WHERE={port}\n[a]\nroutes = /a\n%s[web]\nroutes = *\nworkers = 2\n%s' % (READS, READS)
    with Own(config) as p:
        assert len(p.pids('web')) == 2 and p.info('/a')['env']['WHERE'] == p.info('/a')['env']['LDCORN_PORT']


def test_env_and_cmd_name_the_same_port():
    with Own(OWN + 'cmd = %s\nenv = PORT={port} URL=http://127.0.0.1:{port}/\n' % counter('{port}')) as p:
        said = p.info()
        assert said['env']['PORT'] == said['argv'][-1] == said['env']['LDCORN_PORT']
        assert said['env']['URL'] == 'http://127.0.0.1:%s/' % said['env']['PORT']


def test_env_and_cmd_of_two_transports_are_an_error():
    for cmd, env in (('{socket}', '{port}'), ('{port}', '{fd}')):
        run = check(OWN + 'cmd = true %s\nenv = X=%s\n' % (cmd, env))
        assert run.status == 2 and re.search(r'groups\.ini:[34]:', run.err), run


def test_placeholders_of_env_are_printed_as_they_are_written():
    got = effective(OWN + 'cmd = true\nenv = PORT={port}\n')
    assert got['web', 'env'] == 'PORT={port}' and got['web', 'cmd'] == 'true'
    accepted(OWN + 'cmd = true\nenv = PORT={port}\n')
    refused(OWN + 'cmd = true\nenv = PORT=5\n', 3)


# --- keys of others ---

LEFT_OUT = {
    'tls': r'terminator|nginx|HAProxy|Caddy|https', 'ssl_certificate': r'terminator|nginx|HAProxy|Caddy|https',
    'ssl_certificate_key': r'terminator|nginx|HAProxy|Caddy|https', 'certfile': r'terminator|nginx|HAProxy|Caddy|https',
    'gzip': r'', 'root': r'', 'http2': r'', 'basic_auth': r'', 'cors': r'', 'redirect': r'',
    'ssl': r'terminator|nginx|HAProxy|Caddy|https'}


@pytest.mark.parametrize('key', LEFT_OUT)
@pytest.mark.parametrize('top', [False, True], ids=['in a group', 'above'])
def test_what_is_left_out_says_so_and_what_to_use(key, top):
    config = '%s = x\n%s' % (key, WEB) if top else WEB + '%s = x\n' % key
    text = refused(config, 1 if top else 4, 1)
    m = re.search(r'left out: \S.{8,}', text)
    assert m and re.search(LEFT_OUT[key], m.group(0)), text
    assert 'did you mean' not in text


def test_error_page_is_no_unknown_thing():
    text = refused('error_page = 502 /x.html\n' + WEB, 1, 1)
    assert re.search(r'left out: |`error_pages`', text), text


@pytest.mark.parametrize('key, wrong', [
    ('startsecs', 'start_timeout'), ('option', 'optional'), ('add_header', 'max_header'), ('venv', '`env`'),
    ('preload', 'reload'),
    ('sticky', 'hash_key`$'), ('preload_app', 'reload'), ('proxy_set_header', 'max_header')])
def test_keys_that_mean_something_else_elsewhere_mislead_nobody(key, wrong):
    """A guess by spelling, or a name that means another thing there."""
    text = refused(WEB + '%s = 5\n' % key, 4, 1)
    assert not re.search(r'(did you mean|is called) .*%s' % wrong, text, re.M), text


def test_sticky_is_two_keys():
    assert re.search(r'balance = hash', refused(WEB + 'sticky = on\n', 4, 1))


@pytest.mark.parametrize('key, value', [
    ('upstream', 'http://127.0.0.1:80'), ('upstream', 'https://127.0.0.1/'), ('upstream', 'http://app:8000/path'),
    ('upstream', 'tcp://127.0.0.1:1'),
    ('upstream', 'ws://127.0.0.1:80'), ('listen', 'http://127.0.0.1:8000'), ('listen', 'tcp://0.0.0.0:8000'),
    ('dial_in', 'http://127.0.0.1:7')])
def test_a_scheme_is_what_is_wrong_with_an_address(key, value):
    config = '%s = %s\n%s' % (key, value, WEB) if key == 'listen' else '[web]\nroutes = *\n%s = %s\n' % (key, value)
    line = 1 if key == 'listen' else 3
    text = refused(config, line, len(key) + 4)
    scheme = value.split('//')[0] + '//'
    rest = re.sub(r'(?m)^ +\d+ \|.*$', '', text).replace(value, '')
    assert scheme in rest or 'scheme' in rest, text
    if value.startswith('http:') and '/path' not in value:
        assert value[7:] in rest, 'what to write: ' + text


# --- where a fault is ---

@pytest.mark.parametrize('first, second', [
    ('cmd = true {socket}', UP.strip()), (UP.strip(), 'cmd = true {socket}'), (UP.strip(), 'app = main:app'),
    ('app = main:app', UP.strip()),
    (UP.strip(), 'dial_in = unix:/tmp/x'), ('dial_in = unix:/tmp/x', 'cmd = true {socket}'),
    ('cmd = true {socket}', 'function = f')])
def test_the_caret_stands_at_the_second_thing_to_run(first, second):
    """... and the text names the line of the first."""
    text = refused('[web]\n%s\nroutes = *\n%s\n' % (first, second), 4, 1)
    assert re.search(r'\bline 2\b|groups\.ini:2\b', text), text
    assert text.count('groups.ini:4') == 1 and '1 error' in text, text


def test_a_default_thing_to_run_is_no_second_one():
    assert effective('upstream = 127.0.0.1:9\n[web]\nroutes = *\ncmd = true {socket}\n')['web',
                                                                                         'cmd'] == 'true {socket}'


@pytest.mark.parametrize('override, word', [
    ('web.queue=x', 'queue'), ('nonsense=1', 'nonsense'), ('web.nonsense=1', 'nonsense'), ('web.routes=api', 'routes'),
    ('log_format=xml', 'log_format'), ('listen=nowhere', 'listen'), ('web.balance=best', 'balance'),
    ('nogroup.queue=1', 'nogroup'),
    ('web.start_timeout=90', 'start_timeout'), ('header_timeout=10', 'header_timeout'),
    ('web.on_timeout=restart', 'on_timeout')])
def test_a_fault_of_an_override_is_reported_as_one(override, word):
    """Nothing in the file is wrong: it is not named as the place, nor counted as the one with errors."""
    run = check(WEB, '-o', override)
    assert run.status == 2 and re.search(r'(?m)^(ldcorn: )?`?-o.*%s' % word, run.err), run
    assert not re.search(r'(?m)^groups\.ini:', run.err), run
    assert override in run.err, 'as it was given'


@pytest.mark.parametrize('what, words', [
    ('group.balance = "best";', ('inner', 'balance', 'best')), ('group.reload = "sometimes";', ('inner', 'reload')),
    ('group.routes = &listen[0];', ('inner', 'routes')), ('group.cmd = "true {socket}";', ('inner', 'cmd', 'upstream')),
    ('desc.log_format = "xml";', ('log_format', 'xml')), ('group.on_timeout = "restart";', ('inner', 'on_timeout'))])
def test_a_fault_of_a_desc_has_group_and_field(tmp_path, what, words):
    run = host(tmp_path, what, '127.0.0.1:%d' % free_port(), '127.0.0.1:1')
    assert run.status == 2 and all(word in run.err for word in words), run
    assert not re.search(r'(?m)^:|\(null\)|^default', run.err), run


# --- keys that do nothing ---

LIMITED = 'max_req_per_worker = 1\n'
TRUE = 'cmd = true {socket}\n'


@pytest.mark.parametrize('config, line, words', [
    (WEB + 'request_buffer = 1M\n', 4, ('request_buffer', 'max_req_per_worker')),
    (OWN + TRUE + 'request_buffer = 64K\n', 4, ('request_buffer', 'max_req_per_worker', 'chunked|uwsgi|wsgiref')),
    (OWN + TRUE + 'app = main:app\n', 4, ('app', r'\{app\}')),
    (OWN + 'app = main:app\n' + TRUE, 3, ('app', r'\{app\}')),
    (OWN + 'cmd = true {socket} --workers 4\n', 3, ('workers = 4|`workers`',)),
    (OWN + 'cmd = true {socket} --workers=4\n', 3, ('workers = 4|`workers`',)),
    (WEB + 'hash_key = header:X\n', 4, ('hash_key', 'balance = hash')),
    (WEB + 'response_buffer = 2M\n', 4, ('response_buffer',)),
    (WEB + 'dir = /\n', 4, ('dir',)), (WEB + 'env = A=1\n', 4, ('env',)), (WEB + 'stop_signal = INT\n', 4,
                                                                           ('stop_signal',)),
    (WEB + 'workers = 4\n', 4, ('workers',)), (WEB + 'recycle_requests = 5\n', 4, ('recycle_requests',)),
    (WEB + 'max_restarts = 5\n', 4, ('max_restarts',)), (WEB + 'worker_log = off\n', 4, ('worker_log',)),
    (OWN + TRUE + 'queue = 5\n', 4, ('queue', 'max_req_per_worker'))])
def test_a_key_that_does_nothing_is_warned_about(config, line, words):
    text, error = told(config, line)
    assert not error and all(re.search(word, text) for word in words), text


@pytest.mark.parametrize('config', [
    'request_buffer = 64K\n' + WEB, 'env = A=1\ndir = /\nstop_timeout = 9s\n' + WEB, WEB + LIMITED
    + 'request_buffer = 64K\nqueue = 5\n',
    OWN + 'app = main:app\ncmd = true {app} {socket}\n', 'app = main:app\n' + OWN + TRUE, WEB
    + 'balance = hash\nhash_key = header:X\n',
    OWN + 'cmd = true {socket} --workers 1\n', OWN + TRUE + 'workers = 4\n', OWN + TRUE
    + 'env = A=1\nstop_timeout = 9s\n'])
def test_a_key_that_does_something_is_not(config):
    """Nor a default for all groups, which some may not need."""
    assert not accepted(config).err


# --- what others on the machine could do ---

@root
def test_a_unix_listener_has_group_and_mode():
    with Own('[web]\nroutes = *\ncmd = %s\n' % counter(), top='listen = unix:{dir}/s group=daemon mode=0660\n') as p:
        import grp
        st = os.stat(p.dir + '/s')
        assert (stat.S_IMODE(st.st_mode), st.st_gid) == (0o660, grp.getgrnam('daemon').gr_gid)
        with Client('unix:%s/s' % p.dir) as c:
            assert c.ask('GET', '/').status == 200


def test_a_group_that_is_not_there_is_an_error():
    text = refused('listen = unix:/tmp/ldt-none group=no-such-group\n' + WEB, 1)
    assert 'no-such-group' in re.sub(r'(?m)^ +\d+ \|.*$', '', text)
    refused('listen = 127.0.0.1:8000 group=daemon\n' + WEB, 1)


PRELOAD = r'''
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
/* The owner of the directory, who is quick: behind each bind a link stands where the socket was. */
int bind(int fd, const struct sockaddr *a, socklen_t n) {
    int (*real)(int, const struct sockaddr *, socklen_t);
    int r;
    *(void **)&real = dlsym(RTLD_NEXT, "bind");
    r = real(fd, a, n);
    if (r == 0 && a->sa_family == AF_UNIX && strstr(((const struct sockaddr_un *)a)->sun_path, "theirs")) {
        char path[200];
        int e = errno;
        snprintf(path, sizeof path, "%s", ((const struct sockaddr_un *)a)->sun_path);
        unlink(path);
        if (symlink(getenv("VICTIM"), path)) perror("symlink");
        errno = e;
    }
    return r;
}
'''


@pytest.fixture(scope='module')
def quick(tmp_path_factory):
    """-> a library that plays the owner of a directory."""
    path = tmp_path_factory.mktemp('quick')
    (path / 'quick.c').write_text(PRELOAD)
    subprocess.run(['cc', '-shared', '-fPIC', str(path / 'quick.c'), '-o', str(path / 'quick.so'), '-ldl'], check=True)
    return str(path / 'quick.so')


@root
@pytest.mark.parametrize('key', ['listen = unix:{dir}/theirs/s mode=0666',
                                 'listen = unix:{dir}/theirs/s group=daemon mode=0660',
                                 'admin = unix:{dir}/theirs/s', 'dial_in = unix:{dir}/theirs/s mode=0666'],
                         ids=['listen', 'listen group', 'admin', 'dial_in'])
def test_no_link_behind_bind_is_followed(quick, key):
    """The directory's owner may put one there: mode and group of what it leads to stay."""
    folder = make_dir({'victim': 'x', 'theirs/x': ''})
    victim = folder + '/victim'
    os.chmod(victim, 0o604)
    os.chmod(folder, 0o755)
    os.chown(folder + '/theirs', 65534, 65534)
    before = os.stat(victim)
    top, group = (key, UP) if 'dial_in' not in key else ('', key)
    config = ('%s\n[web]\nroutes = *\n%s\n' % (top, group)).replace('{dir}', folder)
    try:
        with open(folder + '/groups.ini', 'w') as f:
            f.write(config)
        extra = [a for k in ('listen=127.0.0.1:%d' % free_port(), 'admin=unix:%s/a' % folder)
                 if k.split('=')[0] not in top
                 for a in ('-o', k)]
        with open(folder + '/log', 'wb') as log:
            p = subprocess.Popen([BIN, '-o', 'runtime_dir=%s/run' % folder] + extra + ['groups.ini'], cwd=folder,
                                 stdout=log, stderr=log,
                                 stdin=subprocess.DEVNULL, env=_environ({'LD_PRELOAD': quick, 'VICTIM': victim,
                                                                         'ASAN_OPTIONS': 'verify_asan_link_order=0'}))
        try:
            wait_for(lambda: os.path.islink(folder + '/theirs/s') or p.poll() is not None)
            assert os.path.islink(folder + '/theirs/s'), read(folder + '/log')
            wait_for(lambda: p.poll() is not None or re.search('logs  |ready after|listen', read(folder + '/log')))
        finally:
            p.terminate()
            p.wait(20)
        after = os.stat(victim)
        assert [oct(s.st_mode) for s in (after, before)] == [oct(before.st_mode)] * 2
        assert (after.st_gid, after.st_uid) == (before.st_gid, before.st_uid)
    finally:
        shutil.rmtree(folder)


def theirs(link_to='victim', **files):
    """A directory of ours with one of nobody's in it, where a link leads to our file."""
    folder = make_dir(dict({'victim': 'ours\n', 'secret/x': '', 'theirs/x': ''}, **files))
    os.chmod(folder, 0o755)
    os.chmod(folder + '/secret', 0o700)
    os.symlink(folder + '/' + link_to, folder + '/theirs/link')
    os.symlink(folder + '/secret', folder + '/theirs/sub')
    for name in ('theirs', 'theirs/link', 'theirs/sub'):
        os.chown(folder + '/' + name, 65534, 65534, follow_symlinks=False)
    return folder


KEYS = {'log': 'log = %s\n', 'access_log': 'access_log = %s\n', 'worker_log': 'worker_log = %s\n',
        'worker_log raw': 'worker_log = %s raw\n',
        'pid_file': 'pid_file = %s\n'}


class Logging(Own):
    """Own processes that write into a place of somebody else."""

    def __init__(self, folder, key, where, group='', **kw):
        self.theirs = folder
        super().__init__('[web]\nroutes = *\ncmd = %s\n%s' % (counter(), group), top=KEYS[key] % where, wait=False,
                         **kw)

    def write_config(self, text):
        super().write_config(text.replace('access_log = {dir}/access\n', '', 'access_log' in text.split('env = ')[1]))

    def talk(self):
        """A request, its line in the access log, and a line of the worker; nothing where the start was refused."""
        def up():
            with contextlib.suppress(OSError):
                w = self.status()['groups'][0]['workers'][0]
                return w['state'] == 'ready' or w['last_exit']         # before its first start it is in back-off, too
        wait_for(lambda: not self.alive() or up(), what='a worker that is ready or was refused its log, or an end')
        if self.alive() and self.pids():
            self.get('/print?text=said')


def ended(p):
    """A start that is refused is well, too."""
    if not p.alive():
        p.expect_status = p.proc.returncode
        assert p.expect_status in (1, 2), p.log()


@root
@pytest.mark.parametrize('where', ['theirs/link', 'theirs/sub/new.log'], ids=['link', 'directory'])
@pytest.mark.parametrize('key', KEYS)
def test_a_link_that_another_user_made_is_never_followed(key, where):
    """As root we would write wherever it leads: the file there stays as it is, and none is made."""
    folder = theirs()
    try:
        with Logging(folder, key, folder + '/' + where) as p:
            p.talk()
            if p.alive():
                p.signal(signal.SIGUSR1)
                p.talk()
            ended(p)
        assert read(folder + '/victim') == 'ours\n' and os.listdir(folder + '/secret') == ['x']
        assert re.search(r'link|another user|nobody|symbolic', p.log() or 'link'), p.log()
    finally:
        shutil.rmtree(folder)


@root
@pytest.mark.parametrize('key', [key for key in KEYS if key != 'pid_file'])
def test_a_link_that_comes_later_is_not_followed_when_logs_are_opened_again(key):
    folder = theirs()
    try:
        with Logging(folder, key, folder + '/theirs/web.log') as p:
            p.talk()
            wait_for(lambda: read(folder + '/theirs/web.log'))
            os.unlink(folder + '/theirs/web.log')
            os.symlink(folder + '/victim', folder + '/theirs/web.log')
            os.chown(folder + '/theirs/web.log', 65534, 65534, follow_symlinks=False)
            p.signal(signal.SIGUSR1)
            p.status()
            p.talk()
            assert p.admin('POST', '/reload')[0] in (200, 409)
            p.talk()
        assert read(folder + '/victim') == 'ours\n'
    finally:
        shutil.rmtree(folder)


@root
@pytest.mark.parametrize('key', [key for key in KEYS if key != 'pid_file'])
def test_a_link_of_our_own_is_followed(key):
    """In a directory where nobody else could have made it."""
    folder = make_dir({'other/x': ''})
    os.chmod(folder, 0o755)
    os.symlink(folder + '/other/web.log', folder + '/web.log')
    try:
        with Logging(folder, key, folder + '/web.log') as p:
            p.talk()
            wait_for(lambda: read(folder + '/other/web.log'))
    finally:
        shutil.rmtree(folder)


@root
def test_the_log_of_a_group_is_opened_with_the_rights_of_its_user():
    """It belongs to that user, and where that user may not write there is none."""
    folder = theirs()
    try:
        with Logging(folder, 'worker_log', folder + '/theirs/web.log', 'user = nobody\n') as p:
            os.chmod(p.dir, 0o777)
            for _ in range(2):                   # and when logs are opened again
                wait_for(lambda: os.path.exists(folder + '/theirs/web.log'))
                assert os.stat(folder + '/theirs/web.log').st_uid == 65534
                os.rename(folder + '/theirs/web.log', folder + '/theirs/web.log.1')
                p.signal(signal.SIGUSR1)
            wait_for(lambda: os.path.exists(folder + '/theirs/web.log'))
            assert os.stat(folder + '/theirs/web.log').st_uid == 65534
        with Logging(folder, 'worker_log', folder + '/secret/web.log', 'user = nobody\n') as p:
            os.chmod(p.dir, 0o777)
            wait_for(lambda: not p.alive() or 'secret/web.log' in p.log())
            ended(p)
        assert not os.path.exists(folder + '/secret/web.log')
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize('value', ['${ADMIN_SECRET}', '${ADMIN_SECRET:-other}', 'a-${ADMIN_SECRET}-b',
                                   '${FIRST}${ADMIN_SECRET}'])
@pytest.mark.parametrize('how', ['file', 'include', 'override'])
def test_the_variable_behind_admin_token_is_in_no_worker(value, how):
    """Who can read a worker's environment could steer all the others. What has nothing to do with it stays."""
    top = {'file': 'admin_token = %s\n' % value, 'include': 'include = token.ini\n', 'override': ''}[how]
    args = ['-o', 'admin_token=' + value] if how == 'override' else []
    with Own(OWN + 'cmd = %s\n' % counter(), top=top, args=args, files={'token.ini': 'admin_token = %s\n' % value},
             env={'ADMIN_SECRET': 's3cret', 'FIRST': '1', 'OTHER_SECRET': 'kept'}) as p:
        for _ in range(2):
            said = p.info()
            assert said['env']['OTHER_SECRET'] == 'kept' and 'ADMIN_SECRET' not in said['env']
            assert 's3cret' not in said['env'].values()
            with open('/proc/%d/environ' % said['pid'], 'rb') as f:
                assert b's3cret' not in f.read()
            assert p.admin('POST', '/reload')[0] == 200


FOREIGN = r'''
import os, socket, sys, time
port = int(sys.argv[1])
if os.fork() == 0:
    os.setuid(65534)                             # somebody else, who was quicker
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(('127.0.0.1', port))
    s.listen()
    while True:
        c = s.accept()[0]
        c.recv(1000)
        c.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen')
        c.close()
time.sleep(600)
'''


@root
@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='asks /proc for the owner of a listener')
def test_a_listener_of_another_user_at_port_is_noticed():
    """Requests would go to whoever was quicker at that port."""
    with Own(OWN + 'cmd = %s -S foreign.py {port}\nbackoff_max = 30s\n' % sys.executable,
             files={'foreign.py': FOREIGN}, wait=False).up() as p:
        p.wait_log(r'web\.0.*(another user|uid 65534|nobody)', 8)
        with open('/proc/%d/cmdline' % p.pid) as f:
            assert f.read()
