"""Files whose change restarts a group, and what a service manager is told."""
import os, re, signal, socket, time

import pytest
from harness import cli, wait_for
from procs import Own, cpu_seconds, counter, wait_gone
from test_life import hup, web


def source(p, name='src/app.py', text=None):
    path = os.path.join(p.dir, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'w') as f:
        f.write(text or str(time.monotonic()))
    return path


def watched(group='', options=()):
    return web(*options, group='watch = {dir}/src\n' + group) + '[other]\nroutes = /other\ncmd = %s\n' % counter()


def settled(p):
    """The child has looked once: it is there, and a scan period is over."""
    time.sleep(0.7)


@pytest.mark.parametrize('way', ['swap', 'rolling', 'replace', 'off'])
def test_a_changed_file_restarts_its_group(way):
    with Own(watched('reload = %s\n' % way), files={'src/app.py': 'x'}) as p:
        (old,), other = p.pids('web'), p.pids('other')
        settled(p)
        source(p)
        wait_gone(old)
        p.wait_log(r'info  web: .*/src/app\.py changed')
        p.wait_log('info  restart of web done after')
        assert p.pids('other') == other and len(p.pids('web')) == 1 and len(p.starts()) == 3


@pytest.mark.parametrize('change', ['new', 'removed', 'deep', 'renamed'])
def test_what_counts_as_a_change(change):
    with Own(watched(), files={'src/app.py': 'x', 'src/a/b/c.py': 'y'}) as p:
        old, = p.pids('web')
        settled(p)
        {'new': lambda: source(p, 'src/new.py'), 'removed': lambda: os.unlink(p.dir + '/src/app.py'),
         'deep': lambda: source(p, 'src/a/b/c.py'), 'renamed': lambda: os.rename(p.dir + '/src/app.py', p.dir + '/src/b.py')}[change]()
        wait_gone(old)


def test_what_does_not_count():
    with Own(watched(), files={'src/app.py': 'x'}) as p:
        old = p.pids('web')
        settled(p)
        for name in ('src/.hidden', 'src/__pycache__/app.pyc', 'src/app.py~', 'src/app.pyc', 'src/.app.py.swp', 'src/node_modules/x.js', 'elsewhere.py'):
            source(p, name)
        settled(p)
        settled(p)
        assert p.pids('web') == old and 'changed' not in p.log()


def test_its_own_logs_do_not_count():
    """In a watched directory each line of the log would be a restart, of which the next line tells."""
    with Own(watched('worker_log = {dir}/src/said\n', ('--say=hello',)), top='log = {dir}/src/own.log\n', files={'src/app.py': 'x'},
             wait=False) as p:
        p.up()
        p.wait_status(lambda s: all(w['state'] == 'ready' for g in s['groups'] for w in g['workers']))
        settled(p)
        for what in ('pause', 'resume'):
            assert p.admin('POST', '/groups/web/' + what)[0] == 200
            settled(p)
        settled(p)
        assert p.status()['generation'] == 1
        with open(p.dir + '/src/own.log') as f:
            assert 'changed' not in f.read()


@pytest.mark.parametrize('before_the_end', [0.1, 0.3])
def test_a_change_at_the_end_of_a_reload_counts(before_the_end):
    """The new workers have read the old file: a watcher that begins with the switch must not take the new one for known."""
    with Own(watched(options=('--hold-listen={dir}/go',)), files={'src/app.py': 'x', 'go': ''}) as p:
        settled(p)
        os.unlink(p.dir + '/go')
        before, started = p.status()['last_reload'], len(p.starts())
        p.signal(signal.SIGHUP)
        wait_for(lambda: len(p.starts()) > started, what='a new worker')
        settled(p)
        source(p)
        time.sleep(before_the_end)
        p.touch('go')
        p.wait_status(lambda s: s['last_reload'] != before)
        p.wait_log(r'info  web: .*/src/app\.py changed')
        p.wait_log('info  restart of web done after')


def test_a_watched_path_that_is_not_there_gets_a_warning():
    run = cli('-t', 'groups.ini', config='[web]\nroutes = *\ncmd = %s\nwatch = . nowhere\n' % counter())
    assert run.status == 0 and 'groups.ini:4:11: warning: ' in run.err and 'nowhere' in run.err, run


def test_a_broken_change_keeps_the_old_workers_and_the_next_one_is_tried():
    with Own(watched(options=('--fail-if={dir}/bad',)), files={'src/app.py': 'x'}) as p:
        old, = p.pids('web')
        settled(p)
        open(p.dir + '/bad', 'w').close()
        source(p)
        p.wait_log('error restart of web failed after')
        assert p.pids('web') == [old] and p.get('/') == str(old)
        os.unlink(p.dir + '/bad')
        source(p)
        wait_gone(old)
        assert len(p.pids('web')) == 1


def test_watching_costs_the_loop_nothing_and_ends_with_it():
    with Own(watched(), files={'src/%d.py' % n: 'x' for n in range(300)}) as p:
        before = cpu_seconds(p.pid)
        time.sleep(1)
        assert cpu_seconds(p.pid) - before < 0.3
        watcher = [int(pid) for pid in os.listdir('/proc') if pid.isdigit() and parent(pid) == p.pid and int(pid) not in p.starts()]
        assert len(watcher) == 1
        hup(p)
        wait_gone(watcher[0])                        # a reload may have other paths
        p.stop()


def parent(pid):
    try:
        with open('/proc/%s/stat' % pid) as f:
            return int(f.read().rsplit(')', 1)[1].split()[1])
    except (OSError, IndexError):
        return None


def test_the_watcher_dies_with_its_parent():
    with Own(watched(), files={'src/app.py': 'x'}) as p:
        children = [int(pid) for pid in os.listdir('/proc') if pid.isdigit() and parent(pid) == p.pid]
        assert len(children) == 3
        p.proc.kill()
        p.proc.wait()
        wait_gone(*children)
        p.again()


def test_watch_needs_processes_of_our_own():
    run = cli('-t', 'groups.ini', config='[web]\nroutes = *\nupstream = 127.0.0.1:1\nwatch = .\n')
    assert run.status == 2 and 'groups.ini:4:9' in run.err and 'has none' in run.err


# --- systemd ---

class Manager:
    """The receiving end of NOTIFY_SOCKET."""

    def __init__(self, tmp_path, abstract=False):
        self.name = '\0ldcorn-test-%d-%d' % (os.getpid(), time.monotonic_ns()) if abstract else str(tmp_path / 'notify')
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(self.name)
        self.sock.settimeout(10)
        self.env = {'NOTIFY_SOCKET': self.name.replace('\0', '@')}

    def any(self):
        return dict(line.split('=', 1) for line in self.sock.recv(4096).decode().split('\n'))

    def next(self):
        """The next that says more than how the start goes on."""
        said = self.any()
        while set(said) == {'STATUS'}:
            said = self.any()
        return said


@pytest.mark.parametrize('abstract', [False, True])
def test_ready_reloading_stopping(tmp_path, abstract):
    m = Manager(tmp_path, abstract)
    with Own(web(), env=m.env) as p:
        ready = m.next()
        assert ready['READY'] == '1' and 'generation 1' in ready['STATUS'] and p.info()['env'].get('NOTIFY_SOCKET') is None
        before = time.monotonic_ns() // 1000
        hup(p)
        reloading = m.next()
        assert reloading['RELOADING'] == '1' and before <= int(reloading['MONOTONIC_USEC']) <= time.monotonic_ns() // 1000
        assert m.next()['READY'] == '1'
        p.signal(signal.SIGTERM)
        assert m.next()['STOPPING'] == '1'
        p.wait_exit()


def test_ready_is_said_again_to_a_manager_without_room(tmp_path):
    m = Manager(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        other.connect(m.name)
        sent = 0
        with pytest.raises(BlockingIOError):
            while True:
                other.send(b'other=%d' % sent)
                sent += 1
        with Own(web(), env=m.env) as p:
            for i in range(sent):
                assert m.next() == {'other': str(i)}
            assert m.next()['READY'] == '1'
            p.signal(signal.SIGTERM)
            assert m.next()['STOPPING'] == '1'
            p.wait_exit()


def test_stopping_in_the_middle_of_a_reload_is_the_last_word(tmp_path):
    m = Manager(tmp_path)
    with Own(web('--hold-listen={dir}/go'), env=m.env, files={'go': ''}) as p:
        assert m.next()['READY'] == '1'
        os.unlink(p.dir + '/go')
        p.signal(signal.SIGHUP)
        assert m.next()['RELOADING'] == '1'
        p.signal(signal.SIGTERM)
        assert m.next()['STOPPING'] == '1'
        p.wait_exit()
        m.sock.settimeout(0)
        with pytest.raises(BlockingIOError):
            m.any()


def test_ready_is_said_when_all_groups_are_ready(tmp_path):
    m = Manager(tmp_path)
    with Own(web('--hold-listen={dir}/go'), env=m.env, wait=False) as p:
        p.up()
        m.sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            m.next()
        m.sock.settimeout(10)
        p.touch('go')
        assert m.next()['READY'] == '1'


def test_watchdog(tmp_path):
    m = Manager(tmp_path)
    with Own(web(), env=dict(m.env, WATCHDOG_USEC='400000')) as p:
        seen = [m.next() for _ in range(6)]
        assert sum('WATCHDOG' in s for s in seen) >= 4


def test_nobody_listens_there(tmp_path):
    with Own(web(), env={'NOTIFY_SOCKET': str(tmp_path / 'nothing')}) as p:
        assert p.get('/')
        hup(p)
