"""What ldcorn leaves behind when it is killed: the next start on that runtime_dir ends it, and nothing else."""
import contextlib, os, re, signal, subprocess, time

import pytest
from harness import wait_for
from procs import Own, alive, counter, wait_gone
from test_life import hup

DEEP = "sh -c '%s; true' "                   # its shell dies with ldcorn, and what the shell has started does not


def deep(*options, group=''):
    return '[web]\nroutes = *\ncmd = %s\n%s' % (DEEP % counter('{socket}', *options), group)


def killed(p):
    """ldcorn is gone, as after kill -9 or by the kernel for want of memory."""
    p.signal(signal.SIGKILL)
    p.proc.wait()


class Leftovers(Own):
    """What a failed test leaves behind must not live on either."""

    def __exit__(self, *exc):
        self.killed = True
        try:
            super().__exit__(*exc)
        finally:
            for pid in self.family:
                if alive(pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

    family = ()

    def seen(self):
        """All processes of its workers' groups; they are to be gone later."""
        groups = set()
        for pid in self.starts():
            with contextlib.suppress(ProcessLookupError):
                groups.add(os.getpgid(pid))
        self.family = sorted(set(self.family) | {pid for pid, group in processes() if group in groups})
        return self.family


def processes():
    found = []
    for name in os.listdir('/proc'):
        if name.isdigit():
            with contextlib.suppress(OSError):
                with open('/proc/%s/stat' % name) as f:
                    found.append((int(name), int(f.read().rsplit(')', 1)[1].split()[2])))
    return found


def lives_on(*pids):
    time.sleep(0.3)                              # time enough to die of its parent's death
    assert all(map(alive, pids)), 'it did not outlive ldcorn: this test shows nothing'


def started_again(p, *left, timeout=10):
    """The next start: it ends what is left, says so, and serves with workers of its own."""
    mark = len(p.log())
    before = p.starts()
    p.again()
    wait_for(lambda: len(p.starts()) > len(before), timeout, 'a new worker')
    assert not any(alive(pid) for pid in left), 'before it starts new ones'
    text = p.log()[mark:]
    assert re.search(r'(?i)(left|previous|earlier|killed|leftover)', text) and 'web' in text, text
    wait_for(lambda: len(p.pids()) == len([w for w in p.group('web')['workers']]) and p.pids(), 15)
    assert p.get('/')
    assert not set(p.pids()) & set(left)
    return text


@pytest.mark.parametrize('options', [(), ('--stubborn',)])
def test_a_worker_behind_a_shell(options):
    with Leftovers(deep(*options)) as p:
        worker, = p.starts()
        p.seen()
        killed(p)
        lives_on(worker)
        started_again(p, worker)


def test_a_child_of_a_worker():
    """As those of gunicorn's, which hold memory and a GPU."""
    with Leftovers('[web]\nroutes = *\nworkers = 2\ncmd = %s\n' % counter('{socket}', '--grandchild')) as p:
        with contextlib.suppress(Exception):
            wait_for(lambda: len(p.seen()) >= 4)
        children = [pid for pid in p.family if pid not in p.starts()]
        assert len(children) == 2
        killed(p)
        wait_gone(*p.starts())
        lives_on(*children)
        started_again(p, *children)


def test_all_of_several_groups_and_generations():
    """Of a group that is not in the file any more, too."""
    other = '[other]\nroutes = /other\ncmd = %s\n' % (DEEP % counter())
    with Leftovers(deep(group='workers = 2\nreload = rolling\ndrain_timeout = 60s\n') + other) as p, p.connect() as c:
        c.send(b'GET /hang HTTP/1.1\r\nHost: a\r\n\r\n')
        p.wait_status(lambda s: s['groups'][0]['in_flight'] == 1)
        p.signal(signal.SIGHUP)
        wait_for(lambda: len(p.starts()) >= 5)
        p.wait_status(lambda s: all(w['state'] == 'ready' or w['in_flight'] for g in s['groups'] for w in g['workers']))
        p.seen()
        left = [pid for pid in p.starts() if alive(pid)]
        killed(p)
        lives_on(*left)
        p.edit((other, ''))
        started_again(p, *left)


def test_one_that_was_still_starting():
    with Leftovers(deep('--hold-listen={dir}/go'), wait=False) as p:
        p.up()
        worker = wait_for(p.starts)[0]
        p.seen()
        killed(p)
        lives_on(worker)
        p.touch('go')
        started_again(p, worker)


def test_time_after_time():
    """Also what the second one leaves, and the third start has nothing to say of the first."""
    with Leftovers(deep()) as p:
        for _ in range(3):
            left = [pid for pid in p.starts() if alive(pid)]
            assert len(left) == 1
            p.seen()
            killed(p)
            lives_on(*left)
            started_again(p, *left)


def test_the_socket_and_the_port_are_free_again():
    with Leftovers('[web]\nroutes = *\ncmd = %s\n' % (DEEP % counter('{port}'))) as p:
        worker, = p.starts()
        p.seen()
        killed(p)
        lives_on(worker)
        started_again(p, worker)


def test_after_a_clean_end_there_is_nothing_to_end_nor_to_say():
    with Leftovers(deep()) as p:
        worker, = p.starts()
        killed(p)
        lives_on(worker)
        started_again(p, worker)
        hup(p)
        p.stop()
        mark = len(p.log())
        p.again()
        p.wait_log('ready after', after=mark)
        assert not re.search(r'(?i)leftover|left behind|left by|previous', p.log()[mark:]), p.log()[mark:]


def as_process(pid, argv, tries=200):
    """A process with that very number, and a group and session of its own. None: it cannot be had here.

    The numbers go on from where they were: those of a moment ago belong to other tests, which may still end them.
    """
    for _ in range(tries):
        try:
            with open('/proc/sys/kernel/ns_last_pid', 'r+') as f:
                last = f.read()
                f.seek(0)
                f.write(str(pid - 1))
                f.flush()
                child = subprocess.Popen(argv, start_new_session=True)
                f.seek(0)
                f.write(last.strip())
        except OSError:
            return None
        if child.pid == pid:
            return child
        child.kill()
        child.wait()
    return None


def test_another_process_that_has_the_number_now_is_left_alone():
    """What is ended is what was started, not whoever has its number: here somebody's else, beside a true leftover."""
    with Leftovers(deep(group='workers = 2\n')) as p:
        leaders = [w['pid'] for w in p.group('web')['workers']]
        workers = p.starts()
        groups = {pid: os.getpgid(pid) for pid in workers}
        p.seen()
        killed(p)
        wait_gone(*leaders)
        gone, left = workers
        for pid, group in processes():
            if group == groups[gone]:
                os.kill(pid, signal.SIGKILL)
        wait_gone(gone)
        wait_for(lambda: not os.path.exists('/proc/%d' % groups[gone]), what='its number is free')
        stranger = as_process(groups[gone], ['sleep', '60'])
        if stranger is None:
            pytest.skip('no process with a given number can be had here (ns_last_pid)')
        try:
            lives_on(left)
            started_again(p, left)
            assert stranger.poll() is None, 'it was no worker of ours'
        finally:
            stranger.kill()
            stranger.wait()


def test_what_another_instance_has_started_is_left_alone():
    with Leftovers(deep()) as p, Own('[web]\nroutes = *\ncmd = %s\n' % counter()) as q:
        worker, = p.starts()
        p.seen()
        killed(p)
        lives_on(worker)
        theirs = q.pids()
        started_again(p, worker)
        assert q.pids() == theirs and q.get('/') == str(theirs[0])


def test_a_second_start_beside_a_living_one_ends_nothing():
    """It is refused, and what runs there is no leftover."""
    with Leftovers(deep()) as p:
        worker, = p.starts()
        killed(p)
        lives_on(worker)
        started_again(p, worker)
        pids = p.pids()
        with open(os.devnull, 'w') as null:
            second = subprocess.run(p.command, cwd=p.dir, stdout=null, stderr=null, timeout=20)
        assert second.returncode == 1
        assert p.pids() == pids and p.get('/')
