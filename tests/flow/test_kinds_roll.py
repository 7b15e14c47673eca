"""One worker, one successor: whatever asks for a replacement while another one is under way, an index has one process
that serves and at most one that is to take its place; and what one group waits for holds up no other."""
import contextlib, os, signal, threading, time

import pytest
from harness import Client, Timeout, head, wait_for
from procs import Own, alive, at_rest, counter, one_per_index, wait_gone
from test_life import inside, upgrade

OTHER = '[other]\nroutes = /other\ncmd = %s\n' % counter()


def web(group='', *options):
    """[web]: the process of index N listens when {dir}/goN is there."""
    cmd = counter('{socket}', '--hold-listen={dir}/go{index}', *options)
    return '[web]\nroutes = *\ncmd = %s\n%s\n' % (cmd, group) + OTHER


def hup(p):
    """A reload by signal that must end well, and soon."""
    before = p.status()['last_reload']
    p.signal(signal.SIGHUP)
    wait_for(lambda: p.status()['last_reload'] != before, what='the end of the reload')
    assert p.status()['last_reload']['result'] == 'ok', p.status()['last_reload']


class Asked:
    """Requests to admin whose answers take their time."""

    def __init__(self, p):
        self.p, self.answers, self.threads = p, [], []

    def post(self, path):
        def run():
            self.answers.append((path,) + self.p.admin('POST', path, timeout=30)[::2])
        self.threads.append(threading.Thread(target=run, daemon=True))
        self.threads[-1].start()

    def all(self, timeout=15):
        for t in self.threads:
            t.join(timeout)
            if t.is_alive():
                raise Timeout('admin has not answered; %r' % self.answers)
        return self.answers


def looked(p, name='web'):
    """A look at the group, which must always hold what it promises."""
    group = p.group(name)
    one_per_index(group)
    return group


def rests(p, n=1, name='web', timeout=15):
    wait_for(lambda: at_rest(looked(p, name), n), timeout, '%d workers of %s, and nothing under way' % (n, name))
    group = p.group(name)
    assert sorted(w['index'] for w in group['workers']) == list(range(n)), group['workers']
    return [w['pid'] for w in group['workers']]


def coming(p, index=0, n=1):
    """Wait for a process that is on its way to become that worker. -> its pid"""
    def look():
        return [w['pid'] for w in p.group('web')['workers']
                if w['index'] == index and w['state'] == 'starting' and w['pid']]
    return wait_for(lambda: len(look()) >= n and look(), what='a successor')[0]


# --- what replaces a worker first; its successor is held ---

def by_admin(p, asked):
    assert p.admin('POST', '/groups/web/workers/0/restart')[0] == 200


def by_recycling(p, asked):
    with p.connect() as c:
        for _ in range(40):
            assert c.ask('GET', '/').status == 200


def by_reload(p, asked):
    p.signal(signal.SIGHUP)


def by_group(p, asked):
    asked.post('/groups/web/restart')


def by_watch(p, asked):
    with open(p.dir + '/src/app', 'w') as f:
        f.write(str(time.monotonic()))


FIRST = {'admin': (by_admin, ''), 'recycling': (by_recycling, 'recycle_requests = 30\n'), 'reload': (by_reload, ''),
         'rolling': (by_reload, 'reload = rolling\n'), 'group': (by_group, ''),
         'watch': (by_watch, 'watch = {dir}/src\n')}


# --- and what asks for one more while that is so ---

def late(p, asked, old):
    with p.connect() as c:
        assert c.ask('POST', '/hang', body=b'').status == 504


def sick(p, asked, old):
    os.unlink(p.dir + '/well')
    with contextlib.suppress(Timeout):
        wait_for(lambda: not alive(old), 2)
    p.touch('well')


def crash(p, asked, old):
    os.kill(old, signal.SIGKILL)
    wait_gone(old)


def restart(p, asked, old):
    for _ in range(3):
        assert p.admin('POST', '/groups/web/workers/0/restart')[0] in (200, 409)


def scale(p, asked, old):
    p.touch('go1')
    for n in (2, 1, 2, 1):
        assert p.admin('POST', '/groups/web/scale?workers=%d' % n)[0] in (200, 409)


def again(p, asked, old):
    asked.post('/reload')


SECOND = {'time-out': (late, 'run_timeout = 300ms\non_timeout = restart\nmax_req_per_worker = 2\n'),
          'health': (sick, 'health_path = /health\nhealth_interval = 100ms\nhealth_timeout = 1s\nhealth_fails = 2\n'),
          'crash': (crash, ''), 'restart': (restart, ''), 'scale': (scale, ''), 'reload': (again, '')}


@pytest.mark.parametrize('first, second', [(f, s) for f in ('admin', 'recycling') for s in SECOND] +
                         [(f, s) for f in ('reload', 'rolling') for s in ('time-out', 'health', 'crash')] +
                         [('group', 'time-out'), ('group', 'restart'), ('watch', 'crash'), ('watch', 'health')])
def test_two_reasons_to_replace_a_worker_make_one_successor(first, second):
    text = web(FIRST[first][1] + SECOND[second][1], '--hold-health={dir}/well')
    with Own(text, files={'go0': '', 'well': '', 'src/app': 'x'}, stop_timeout=10) as p:
        asked = Asked(p)
        old, = p.pids('web')
        if first == 'watch':
            time.sleep(0.7)                          # it has looked once: there is nothing to see that by
        os.unlink(p.dir + '/go0')
        FIRST[first][0](p, asked)
        coming(p)
        SECOND[second][0](p, asked, old)
        looked(p)
        p.touch('go0')
        for path, code, body in asked.all():
            assert code in (200, 409), (path, code, body)
        now, = rests(p)
        wait_gone(*[pid for pid in p.starts() if pid != now and pid not in p.pids('other')])
        assert p.admin('POST', '/reload', timeout=15)[0] == 200
        assert p.admin('POST', '/groups/other/scale?workers=2')[0] == 200
        rests(p, 2, 'other')
        assert rests(p) != [now]


@pytest.mark.parametrize('second', ['time-out', 'health'])
def test_round_after_round_leaves_one_worker_and_its_slots(second):
    with Own(web('reload = rolling\n' + SECOND['time-out'][1] + SECOND['health'][1], '--hold-health={dir}/well'),
             files={'go0': '', 'well': ''}, stop_timeout=10) as p:
        for _ in range(5):
            old, = rests(p)
            os.unlink(p.dir + '/go0')
            by_admin(p, None)
            coming(p)
            SECOND[second][0](p, None, old)
            p.touch('go0')
            wait_gone(old)
        rests(p)
        assert p.group('web')['slots'] == 2 and len(p.starts()) <= 13
        hup(p)
        rests(p)


@pytest.mark.parametrize('second', ['time-out', 'health', 'crash', 'restart'])
def test_a_roll_ends_when_its_old_worker_is_replaced_otherwise(second):
    """The second of two is held on its way: its old one is of the old generation still when it goes for that reason."""
    with Own(web('workers = 2\nreload = rolling\n' + SECOND[second][1], '--hold-health={dir}/well'),
             files={'go0': '', 'go1': '', 'well': ''}, stop_timeout=10) as p:
        asked = Asked(p)
        old = {w['index']: w['pid'] for w in p.group('web')['workers']}
        os.unlink(p.dir + '/go1')
        asked.post('/reload')
        coming(p, 1)
        if second == 'restart':
            assert p.admin('POST', '/groups/web/workers/1/restart')[0] in (200, 409)
        elif second == 'time-out':
            clients = [p.connect().send(head('POST', '/hang', body=b'')) for _ in range(2)]        # one in each
            for c in clients:
                assert c.read_response().status == 504
        else:
            SECOND[second][0](p, asked, old[1])
        looked(p)
        p.touch('go1')
        for path, code, body in asked.all():
            assert code == 200, (path, code, body)
        new = rests(p, 2)
        assert not set(new) & set(old.values())
        assert p.admin('POST', '/groups/web/scale?workers=1')[0] == 200
        rests(p, 1)
        hup(p)


@pytest.mark.parametrize('group', ['', 'reload = replace\n', 'reload = rolling\n'])
def test_two_requests_that_run_too_long_replace_their_worker_once(group):
    with Own(web(SECOND['time-out'][1] + group), files={'go0': ''}, stop_timeout=10) as p:
        old, = p.pids('web')
        clients = [p.connect().send(head('POST', '/hang', body=b'')) for _ in range(2)]
        for c in clients:
            assert c.read_response().status == 504
        wait_gone(old)
        new, = rests(p)
        assert len(p.starts()) == 3 and p.get('/') == str(new)


def test_who_was_retired_while_its_successor_starts_is_not_missed():
    """The successor's death then is that of the only one: it is tried again, by one process."""
    with Own(web(SECOND['time-out'][1] + 'backoff_max = 200ms\n'), files={'go0': ''}, stop_timeout=10) as p:
        old, = p.pids('web')
        os.unlink(p.dir + '/go0')
        by_admin(p, None)
        fresh = coming(p)
        late(p, None, old)
        wait_gone(old)
        os.kill(fresh, signal.SIGKILL)
        wait_for(lambda: looked(p)['workers'] and coming(p) != fresh)
        p.touch('go0')
        rests(p)
        assert p.get('/')


def test_a_roll_waits_for_what_it_started_and_not_for_a_count():
    """One that was replaced before it still has a request inside: that is not the roll's business."""
    with Own(web('workers = 2\nreload = rolling\nmax_req_per_worker = 1\ndrain_timeout = 60s\n'),
             files={'go0': '', 'go1': ''}, stop_timeout=10) as p:
        with p.connect() as c:
            c.send(head('GET', '/gate?file=%s/open' % p.dir))
            inside(p, 1)
            index = next(w['index'] for w in p.group('web')['workers'] if w['in_flight'])
            assert p.admin('POST', '/groups/web/workers/%d/restart' % index)[0] == 200
            wait_for(lambda: any(w['state'] == 'draining' for w in looked(p)['workers']) and len(p.pids('web')) == 2)
            before = p.pids('web')
            hup(p)
            assert not set(before) & set(p.pids('web'))
            p.touch('open')
            assert c.read_response().status == 200
        rests(p, 2)


# --- a roll and its tunnels, a roll and the others ---

def tunnels(p, n=2):
    """One in each worker."""
    found = [upgrade(p) for _ in range(n)]
    wait_for(lambda: sorted(w['tunnels'] for w in p.group('web')['workers']) == [1] * n)
    return found


def echo(c):
    c.send(b'again')
    assert c.read_exact(5) == b'again'


@pytest.mark.parametrize('limit', ['', 'max_req_per_worker = 1\n'])
def test_tunnels_do_not_hold_up_a_roll(limit):
    with Own(web('workers = 2\nreload = rolling\n' + limit), files={'go0': '', 'go1': ''}, stop_timeout=10) as p:
        old = p.pids('web')
        with contextlib.ExitStack() as stack:
            both = [stack.enter_context(c) for c in tunnels(p)]
            hup(p)
            assert not set(old) & set(p.pids('web')) and len(p.pids('web')) == 2
            for c in both:
                echo(c)                              # they have their tunnel_drain all the same
            assert all(map(alive, old))
        wait_gone(*old)
        rests(p, 2)


def test_a_request_beside_a_tunnel_holds_a_roll_up_and_the_tunnel_then_does_not():
    with Own(web('workers = 2\nreload = rolling\n'), files={'go0': '', 'go1': ''}, stop_timeout=10) as p, \
            contextlib.ExitStack() as stack:
        old = p.pids('web')
        both = [stack.enter_context(c) for c in tunnels(p)]
        slow = [stack.enter_context(p.connect()).send(head('GET', '/gate?file=%s/open' % p.dir)) for _ in range(2)]
        inside(p, 2)
        asked = Asked(p)
        asked.post('/reload')
        wait_for(lambda: any(w['state'] == 'draining' for w in looked(p)['workers']))
        p.touch('open')
        assert [c.read_response().status for c in slow] == [200, 200]
        assert [code for _, code, _ in asked.all()] == [200]
        assert not set(old) & set(p.pids('web')) and all(map(alive, old))
        for c in both:
            echo(c)


def test_tunnels_in_old_workers_hold_up_neither_the_next_roll_nor_recycling():
    with Own(web('workers = 2\nreload = rolling\n'), files={'go0': '', 'go1': ''}, stop_timeout=10) as p, \
            contextlib.ExitStack() as stack:
        for _ in range(3):
            for c in tunnels_more(p):
                stack.enter_context(c)
            hup(p)
            looked(p)
        assert p.admin('POST', '/groups/web/workers/0/restart')[0] == 200


def tunnels_more(p):
    before = sum(w['tunnels'] for w in p.group('web')['workers'])
    found = [upgrade(p) for _ in range(2)]
    wait_for(lambda: sum(w['tunnels'] for w in p.group('web')['workers']) == before + 2)
    return found


UNDER_WAY = {
    'a roll whose newcomer does not start': ('reload = rolling\n', 'go1', by_reload),
    'a replacement whose newcomer does not start': ('reload = replace\n', 'go1', by_reload),
    'a restart of one group': ('', 'go1', by_group),
    'a rolling restart of one group': ('reload = rolling\n', 'go1', by_group),
}


@pytest.mark.parametrize('what', UNDER_WAY)
def test_other_groups_can_be_controlled_meanwhile(what):
    group, held, start = UNDER_WAY[what]
    with Own(web('workers = 2\n' + group), files={'go0': '', 'go1': ''}, stop_timeout=10) as p:
        asked = Asked(p)
        os.unlink(p.dir + '/' + held)
        start(p, asked)
        coming(p, 1)
        controlled(p)
        p.touch(held)
        asked.all()
        rests(p, 2)
        rests(p, 3, 'other')
        p.wait_status(lambda s: s['last_reload'] is None or s['last_reload']['result'] == 'ok')
        hup(p)


def controlled(p):
    """What is asked for [other] is done, and now."""
    old = p.pids('other')
    code, _, body = p.admin('POST', '/groups/other/scale?workers=3', timeout=5)
    assert code == 200, body
    rests(p, 3, 'other')
    code, _, body = p.admin('POST', '/groups/other/workers/0/restart', timeout=5)
    assert code == 200, body
    wait_gone(*old)
    rests(p, 3, 'other')


def test_other_groups_can_be_controlled_while_a_replacement_waits_for_tunnels():
    with Own(web('workers = 2\nreload = replace\n'), files={'go0': '', 'go1': ''}, stop_timeout=10) as p, \
            contextlib.ExitStack() as stack:
        for c in tunnels(p):
            stack.enter_context(c)
        p.signal(signal.SIGHUP)
        wait_for(lambda: any(w['state'] == 'draining' for w in looked(p)['workers']))
        controlled(p)


def test_other_groups_can_be_controlled_while_a_roll_waits_for_a_request():
    with Own(web('workers = 2\nreload = rolling\n'), files={'go0': '', 'go1': ''}, stop_timeout=10) as p, \
            p.connect() as c:
        c.send(head('GET', '/gate?file=%s/open' % p.dir))
        inside(p, 1)
        asked = Asked(p)
        asked.post('/reload')
        wait_for(lambda: any(w['state'] == 'draining' for w in looked(p)['workers']))
        controlled(p)
        p.touch('open')
        assert c.read_response().status == 200
        assert [code for _, code, _ in asked.all()] == [200]


def test_two_groups_can_be_restarted_at_once():
    """The second begins when the first is done, and each is answered when it is done itself."""
    with Own(web('workers = 2\n'), files={'go0': '', 'go1': ''}, stop_timeout=10) as p:
        asked = Asked(p)
        os.unlink(p.dir + '/go1')
        asked.post('/groups/web/restart')
        coming(p, 1)
        asked.post('/groups/other/restart')
        assert not asked.answers
        p.touch('go1')
        assert [code for _, code, _ in asked.all()] == [200, 200]
        rests(p, 2)


def test_a_group_can_be_restarted_while_another_rolls():
    with Own(web('workers = 2\nreload = rolling\n'), files={'go0': '', 'go1': ''}, stop_timeout=10) as p:
        asked, old = Asked(p), p.pids('other')
        os.unlink(p.dir + '/go1')
        asked.post('/reload')
        coming(p, 1)
        asked.post('/groups/other/restart')
        assert not asked.answers
        p.touch('go1')
        assert [code for _, code, _ in asked.all()] == [200, 200]
        assert not set(old) & set(p.pids('other'))
