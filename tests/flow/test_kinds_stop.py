"""The end: for whom a stop waits and for whom not, how much time a worker has for what it still does, and what a second
signal means."""
import contextlib, re, select, signal, time

import pytest
from harness import Client, FakeWorker, Proxy, answer, cli, head, upstream_config, wait_for
from procs import Own, alive, counter, wait_gone
from test_life import hup, inside, refused, upgrade, web

OK = answer(b'ok')
LIMIT = 'max_req_per_worker = 1\n'


def stops(p, within, more=None):
    """A graceful stop that ends in so many seconds. -> how long it took"""
    start = time.monotonic()
    p.signal(signal.SIGTERM)
    if more:
        more()
    assert p.wait_exit(within) == 0
    return time.monotonic() - start


# --- nobody waits for it ---

@pytest.mark.parametrize('group, how', [(LIMIT, 'gone'), (LIMIT + 'run_timeout = 300ms\n', 'late'),
                                        (LIMIT + 'response_timeout = 300ms\n', 'late'),
                                        ('client_abort = wait\n', 'gone'),
                                        ('run_timeout = 300ms\non_timeout = wait\n', 'late')])
def test_a_stop_does_not_wait_for_an_upstream_that_nobody_waits_for(group, how):
    with FakeWorker() as worker, Proxy(upstream_config(worker.address, '', group)) as p, p.connect() as c:
        c.send(head('GET', '/'))
        conn = worker.one()[1]
        if how == 'gone':
            c.rst()
        else:
            assert c.read_response().status == 504
        stops(p, 4)
        conn.close()


def test_a_stop_waits_for_the_living_and_not_for_the_orphan_beside_them():
    with FakeWorker() as a, FakeWorker() as b:
        text = upstream_config(a.address, '', LIMIT) + '[b]\nroutes = /b\nupstream = %s\n%s' % (b.address, LIMIT)
        with Proxy(text) as p, p.connect() as gone, p.connect() as c, p.connect() as line:
            gone.send(head('GET', '/'))
            held = a.one()[1]
            gone.rst()
            c.send(head('GET', '/b/1'))
            conn = b.one()[1]
            line.send(head('GET', '/b/2'))
            wait_for(lambda: p.group('b')['queue']['len'] == 1)

            def answered():
                wait_for(lambda: refused(p))
                time.sleep(0.5)
                assert p.alive(), 'two wait for their answers'
                conn.send(OK)
                assert c.read_response().status == 200
                conn.close()
                b.one(OK)
                assert line.read_response().status == 200
            stops(p, 5, answered)
            held.close()


def test_a_client_that_leaves_during_the_stop_is_not_waited_for():
    with FakeWorker() as worker, Proxy(upstream_config(worker.address, '', LIMIT)) as p, p.connect() as c:
        c.send(head('GET', '/'))
        conn = worker.one()[1]

        def leaves():
            wait_for(lambda: refused(p))
            assert p.alive()
            c.rst()
        stops(p, 4, leaves)
        conn.close()


@pytest.mark.parametrize('how', ['gone', 'late'])
def test_own_workers_get_their_signal_when_no_client_waits_and_finish_by_themselves(how):
    """What goes on inside is nobody's any more; whether it is worth finishing the worker knows."""
    group = LIMIT + ('run_timeout = 200ms\n' if how == 'late' else '')
    with Own(web('--finish', group=group)) as p, p.connect() as c:
        pid, = p.pids()
        c.send(head('POST', '/sleep?ms=3000', body=b''))
        inside(p, 1)
        wait_for(p.requests, what='the worker knows of it')
        if how == 'late':
            assert c.read_response().status == 504
        else:
            c.rst()
        stops(p, 8)
        assert p.signals(pid) == [('SIGTERM', 1)], 'the signal comes at once'
        assert [pid, 'FINISHED'] in p.counted(), 'and is followed by what the worker makes of it'


def test_no_worker_is_signalled_while_one_of_its_clients_waits():
    slow = '[slow]\nroutes = /slow\ncmd = %s\n' % counter('{socket}', '--finish')
    with Own(web('--finish') + slow) as p, p.connect() as c:
        pids = {g: p.pids(g)[0] for g in ('web', 'slow')}
        c.send(head('GET', '/slow?file=%s/go' % p.dir, {'X-Ask': 'gate'}))
        inside(p, 1, 1)

        def answered():
            wait_for(lambda: refused(p))
            assert not p.signals(pids['slow'])
            p.touch('go')
            assert c.read_response().status == 200
        stops(p, 5, answered)
        assert p.signals(pids['slow']) == [('SIGTERM', 0)]


# --- work behind the answer ---

WORK = 6500                                  # ms; more than the five seconds that it once had


@pytest.mark.slow
@pytest.mark.parametrize('how', ['reload', 'stop'])
def test_work_behind_the_answer_is_finished(how):
    """A background task of a web framework: the worker has answered, and ends by itself when it is done."""
    with Own(web('--finish')) as p:
        old, = p.pids()
        p.get('/after?ms=%d' % WORK)
        start = time.monotonic()
        if how == 'stop':
            stops(p, 15)
        else:
            hup(p)
        wait_gone(old, timeout=15)
        assert time.monotonic() - start > 4 and [old, 'FINISHED'] in p.counted()
        assert [old, 'AFTER', '/after?ms=%d' % WORK] in p.counted()


def test_the_default_is_said():
    r = cli('-T', 'groups.ini', config='[a]\nroutes = *\ncmd = true {socket}\n')
    assert r.status == 0 and re.search(r'(?m)^\s*stop_timeout = 30s\b', r.out), r


def test_who_is_killed_at_a_reload_is_told_which_key_and_how_long():
    with Own(web('--stubborn', group='stop_timeout = 300ms\n')) as p:
        old, = p.pids()
        hup(p)
        p.wait_log(r'web\.0.*\bstop_timeout\b.*\b(300ms|0\.3 ?s)')
        wait_gone(old)


@pytest.mark.parametrize('how', ['restart', 'scale'])
def test_so_it_is_for_any_other_reason(how):
    with Own(web('--stubborn', group='stop_timeout = 300ms\nworkers = 2\n')) as p:
        old = {w['index']: w['pid'] for w in p.group('web')['workers']}
        path = 'workers/1/restart' if how == 'restart' else 'scale?workers=1'
        assert p.admin('POST', '/groups/web/' + path)[0] == 200
        p.wait_log(r'web\.1.*\bstop_timeout\b.*\b(300ms|0\.3 ?s)')
        wait_gone(old[1])


def test_at_a_stop_there_is_time_until_shutdown_timeout_is_over():
    """And who is killed then is told that key and its value."""
    with Own(web('--stubborn'), top='shutdown_timeout = 1500ms\n') as p:
        pid, = p.pids()
        took = stops(p, 5)
        assert 1.2 < took and not alive(pid)
        assert re.search(r'web\.0.*\bshutdown_timeout\b.*\b1(500ms|\.5 ?s)', p.log()), p.log()


@pytest.mark.parametrize('asked', ['once', 'twice'])
def test_an_answer_that_a_stop_cuts_does_not_look_whole(asked):
    """Its end would be that of the connection, so only a reset tells (RFC 9112 8)."""
    with FakeWorker() as worker, Proxy(upstream_config(worker.address, 'shutdown_timeout = 1s\n', '')) as p, p.connect() as c:
        c.send(b'GET / HTTP/1.0\r\n\r\n')
        conn = worker.one()[1].send(b'HTTP/1.1 200 OK\r\n\r\nhalf')
        c.read_until(b'half')
        p.signal(signal.SIGTERM)
        if asked == 'twice':
            p.wait_log('stopping')
            p.signal(signal.SIGTERM)
        p.wait_exit(5)
        c.read_all()
        assert c.was_reset
        conn.close()


def test_a_report_that_was_asked_for_before_a_stop_is_told():
    groups = ''.join('[g%d]\nroutes = /%d\nupstream = 127.0.0.1:%d\n' % (n, n, 20000 + n) for n in range(300))
    with Proxy(groups, wait=False) as p, contextlib.ExitStack() as stack:
        p.wait_log('ready after')
        asking = [stack.enter_context(Client(p.admin_address)) for _ in range(30)]
        p.freeze()
        for n, c in enumerate(asking):
            c.send(head('GET', '/metrics' if n % 2 else '/status'))
        p.signal(signal.SIGCONT)
        select.select([c.sock for c in asking], [], [])
        p.signal(signal.SIGTERM)
        assert [c.read_response().status for c in asking] == [200] * 30
        assert p.wait_exit(10) == 0


# --- the second signal ---

def several(p, signals, pause):
    for n, sig in enumerate(signals):
        if n:
            time.sleep(pause)                # what is tested is time itself
        if p.alive():
            p.signal(sig)


@contextlib.contextmanager
def held(top='', *options):
    """A proxy with a request inside that ends when {dir}/go is there."""
    with Own(web(*options), top=top) as p, p.connect() as c:
        c.send(head('GET', '/gate?file=%s/go' % p.dir))
        inside(p, 1)
        yield p, c


TERM, INT, QUIT = signal.SIGTERM, signal.SIGINT, signal.SIGQUIT


@pytest.mark.parametrize('signals, pause', [((TERM, TERM), 0.0), ((TERM, TERM), 0.4), ((INT, INT), 0.4),
                                            ((INT, TERM), 0.4), ((TERM,) * 6, 0.1)])
@pytest.mark.parametrize('top', ['', 'lame_duck = 1500ms\n'], ids=['', 'lame duck'])
def test_stop_signals_within_a_second_are_one(signals, pause, top):
    with held(top) as (p, c):
        start = time.monotonic()
        several(p, signals, pause)
        time.sleep(0.3)                      # nothing shall happen
        assert p.alive() and c.silent(0)
        if top:
            assert time.monotonic() - start > 1.3 or not refused(p), 'the lame duck still serves'
        p.touch('go')
        r = c.read_response()
        assert r.status == 200 and r.complete
        assert p.wait_exit() == 0
        assert all(count == 0 for _, count in p.signals()) and 'at once' not in p.log()


@pytest.mark.parametrize('signals', [(TERM, TERM), (INT, INT), (TERM, INT)])
@pytest.mark.parametrize('top', ['', 'lame_duck = 20s\n'], ids=['', 'lame duck'])
def test_one_a_second_later_stops_at_once(signals, top):
    with held(top, '--stubborn') as (p, c):
        several(p, signals, 1.2)
        start = time.monotonic()
        if top:                              # it may end the lame duck alone, as a third one ends the rest
            time.sleep(1.2)
            if p.alive():
                p.signal(TERM)
        assert p.wait_exit(4) == 0 and time.monotonic() - start < 4


def test_the_third_of_a_nervous_hand_counts_when_its_second_is_over():
    with held('', '--stubborn') as (p, c):
        several(p, (TERM, TERM), 0.1)
        time.sleep(1.3)
        assert p.alive() and c.silent(0), 'two within a second are one'
        p.signal(TERM)
        assert p.wait_exit(3) == 0


def test_quit_is_at_once_whatever_came_before():
    with held('', '--stubborn') as (p, c):
        several(p, (TERM, TERM, QUIT), 0.05)
        assert p.wait_exit(3) == 0


def test_a_stop_by_admin_and_a_signal_within_a_second_are_one():
    with held() as (p, c):
        assert p.admin('POST', '/stop')[0] == 202
        p.signal(TERM)
        time.sleep(0.3)
        assert p.alive() and c.silent(0)
        p.touch('go')
        assert c.read_response().status == 200
        assert p.wait_exit() == 0


def test_a_tunnel_hears_its_goodbye_though_the_signal_came_twice():
    with Own(web()) as p:
        c = upgrade(p)
        several(p, (TERM, TERM), 0.05)
        assert c.read_all() == b'bye'
        assert p.wait_exit() == 0
