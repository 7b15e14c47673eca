"""Workers replaced one after the other: rolling and replace reloads, recycling, and what admin does to groups and workers."""
import json, os, signal, time

import pytest
from harness import head, wait_for
from procs import Own, alive, counter, metric, wait_gone
from test_life import Load, hup, inside, queued, upgrade, web


def most_alive(p, old, until):
    """The most processes at once, and the fewest ready ones, while `until` is not true."""
    most, fewest = 0, 1000
    while not until():
        most = max(most, sum(alive(pid) for pid in p.starts()))
        fewest = min(fewest, len(p.pids()))
    return most, fewest


def post(p, path, code=200):
    got, _, body = p.admin('POST', path)
    assert got == code, (path, got, body)
    return body.decode()


# --- reload = rolling, replace ---

@pytest.mark.parametrize('way, peak', [('rolling', 5), ('replace', 4)])
def test_one_after_the_other(way, peak):
    """rolling: one new ready, one old retired (peak N+1). replace: one old gone, then one new (peak N). No request is lost."""
    with Own(web('--tag=old', group='workers = 4\nreload = %s\n' % way)) as p:
        old = p.pids()
        p.edit(('--tag=old', '--tag=new'))
        with Load(p, ('/',)) as load:
            p.signal(signal.SIGHUP)
            most, fewest = most_alive(p, old, lambda: (p.status()['last_reload'] or {}).get('result'))
        assert not load.failed, load.failed[:5]
        assert p.status()['last_reload']['result'] == 'ok' and most <= peak and fewest >= (4 if way == 'rolling' else 3)
        wait_gone(*old)
        assert len(set(p.pids())) == 4 and not set(p.pids()) & set(old) and p.get('/tag') == 'new'
        assert len(p.starts()) == 8


def test_replace_waits_for_what_is_inside_and_requests_wait_in_the_queue():
    with Own(web(group='reload = replace\nmax_req_per_worker = 1\n')) as p:
        old, = p.pids()
        with p.connect() as a, p.connect() as b:
            a.send(head('GET', '/gate?file=%s/go' % p.dir))
            inside(p, 1)
            p.signal(signal.SIGHUP)
            wait_for(lambda: p.group('web')['workers'][0]['state'] == 'draining')
            b.send(head('GET', '/'))
            queued(p, 1)
            assert len(p.starts()) == 1, 'never two at once'
            p.touch('go')
            assert a.read_response().body == b'%d' % old
            fresh = int(b.read_response().body)
        assert fresh != old and p.starts() == [old, fresh]


@pytest.mark.parametrize('way', ['rolling', 'replace'])
def test_a_failure_stops_the_roll(way):
    """The group keeps its other old workers; the reload is partial and says why."""
    with Own(web('--fail-if={dir}/bad', group='workers = 3\nbackoff_max = 200ms\nreload = %s\n' % way)) as p:
        old = p.pids()
        if way == 'replace':
            p.touch('bad')
        else:       # the first newcomer is looked at before the switch: later ones fail
            p.edit(('{dir}/bad', '{dir}/bad --hold-listen={dir}/go'))
            p.signal(signal.SIGHUP)
            wait_for(lambda: len(p.starts()) == 4)
            p.touch('bad')
            p.touch('go')
        if way == 'replace':
            p.signal(signal.SIGHUP)
        p.wait_status(lambda s: s['last_reload'])
        last = p.status()['last_reload']
        assert last['result'] == 'partial' and "No module named 'torch'" in last['error'], last
        assert metric(p, 'ldcorn_reloads_total', result='partial') == 1
        assert set(p.pids()) & set(old) == set(old[1:]), 'the old ones that were not touched serve on'
        p.wait_log(r'error reload partial after .*: generation 2 is in force, but\n    web\.[01] did not become ready')
        os.unlink(p.dir + '/bad')
        p.wait_status(lambda s: len(p.pids()) == 3)
        code, _, _ = p.admin('POST', '/reload')
        assert code == 200 and not set(p.pids()) & set(old)


def test_rolling_is_undone_when_its_first_newcomer_fails():
    with Own(web('--fail-if={dir}/bad', group='workers = 3\nreload = rolling\n')) as p:
        old = p.pids()
        p.touch('bad')
        hup(p, 'failed')
        assert p.pids() == old and p.status()['generation'] == 1


def test_a_reload_during_a_roll_waits_for_it():
    with Own(web(group='workers = 3\nreload = rolling\n')) as p:
        p.signal(signal.SIGHUP)
        wait_for(lambda: p.status()['generation'] == 2)
        code, _, body = p.admin('POST', '/reload')
        assert code == 200 and p.status()['generation'] == 3, body
        assert all(w['generation'] == 3 for w in p.group('web')['workers'] if w['state'] == 'ready')


def test_a_stop_during_a_roll():
    with Own(web('--hold-listen={dir}/go', group='workers = 3\nreload = replace\n'), files={'go': ''}) as p:
        os.unlink(p.dir + '/go')
        p.signal(signal.SIGHUP)
        wait_for(lambda: len(p.starts()) == 4)
        p.stop()
        assert p.log().rstrip().endswith('stopped')


def test_swap_rolling_and_replace_in_one_reload():
    groups = ''.join('[%s]\nroutes = /%s\nworkers = 2\nreload = %s\ncmd = %s\n' % (w, w, w, counter()) for w in ('swap', 'rolling', 'replace', 'off'))
    with Own(groups) as p:
        before = {g: p.pids(g) for g in ('swap', 'rolling', 'replace', 'off')}
        with Load(p, ('/swap', '/rolling', '/replace', '/off')) as load:
            hup(p)
        assert not load.failed, load.failed[:5]
        for g, pids in before.items():
            assert (p.pids(g) == pids) == (g == 'off') and len(p.pids(g)) == 2
            assert (set(p.pids(g)) & set(pids) == set()) == (g != 'off')


# --- recycling ---

@pytest.mark.parametrize('way', ['swap', 'rolling', 'replace', 'off'])
def test_recycle_requests(way):
    """Each worker serves about so many; nothing is lost and they go one at a time."""
    with Own(web(group='workers = 2\nrecycle_requests = 100\nreload = %s\n' % way)) as p:
        with p.connect() as c:
            while len(p.starts()) < 7:
                assert c.ask('GET', '/').status == 200
        p.wait_status(lambda s: len(p.pids()) == 2)
        served = {}
        for pid, _, _, _ in p.requests():
            served[pid] = served.get(pid, 0) + 1
        ended = [n for pid, n in served.items() if pid not in p.pids()]
        assert len(ended) >= 4 and all(n >= 89 for n in ended), served
        wait_for(lambda: metric(p, 'ldcorn_worker_exits_total', reason='recycle') >= len(ended), what='their ends')
        assert metric(p, 'ldcorn_worker_exits_total', reason='crash') == 0
        p.wait_log(r'info  web\.\d \(pid \d+\): recycled after \d+ requests')


def test_recycle_after():
    with Own(web(group='recycle_after = 300ms\n')) as p:
        first, = p.pids()
        with Load(p, ('/',)) as load:
            wait_for(lambda: len(p.starts()) >= 4)
        assert not load.failed, load.failed[:5]
        wait_gone(first)
        wait_for(lambda: metric(p, 'ldcorn_worker_exits_total', reason='lifetime') >= 2, what='their ends')


def test_recycling_while_the_newcomer_does_not_start_keeps_the_old_one():
    with Own(web('--fail-if={dir}/bad', group='recycle_requests = 10\nbackoff_max = 100ms\n')) as p:
        pid, = p.pids()
        p.touch('bad')
        with p.connect() as c:
            for _ in range(40):
                assert c.ask('GET', '/').body == b'%d' % pid
        wait_for(lambda: len(p.starts()) >= 3)
        assert p.get('/') == str(pid)
        os.unlink(p.dir + '/bad')
        wait_for(lambda: p.get('/') != str(pid))
        wait_gone(pid)


def test_the_old_one_dies_before_its_newcomer_is_ready():
    with Own(web('--hold-listen={dir}/go', group='recycle_requests = 5\n'), files={'go': ''}) as p:
        pid, = p.pids()
        os.unlink(p.dir + '/go')
        with p.connect() as c:
            for _ in range(8):
                assert c.ask('GET', '/').status == 200
        wait_for(lambda: len(p.starts()) == 2)
        os.kill(pid, signal.SIGKILL)
        wait_gone(pid)
        with p.connect() as c:
            c.send(head('GET', '/'))
            queued(p, 1)
            p.touch('go')
            assert int(c.read_response().body) == p.starts()[1]
        assert len(p.starts()) == 2, 'one takes its place, not two'


# --- scale, restart, pause, drain ---

def test_scale_keeps_who_is_there():
    with Own(web()) as p:
        first, = p.pids()
        assert '4 workers' in post(p, '/groups/web/scale?workers=4')
        p.wait_status(lambda s: len(p.pids()) == 4)
        four = p.pids()
        assert four[0] == first
        hup(p)                                       # holds until `workers` is edited
        assert len(p.pids()) == 4 and not set(p.pids()) & set(four)
        four = p.pids()
        post(p, '/groups/web/scale?workers=2')
        wait_gone(*four[2:])
        assert p.pids() == four[:2]
        p.edit(('[web]', '[web]\nworkers = 3'))
        hup(p)
        assert len(p.pids()) == 3
        assert metric(p, 'ldcorn_worker_exits_total', reason='scale') == 2


def test_scale_down_loses_nothing():
    with Own(web(group='workers = 4\n')) as p, Load(p, ('/', '/x')) as load:
        for n in (1, 4, 2, 3, 1):
            post(p, '/groups/web/scale?workers=%d' % n)
            p.wait_status(lambda s: len(p.pids()) == n)
    assert not load.failed, load.failed[:5]


@pytest.mark.parametrize('way', ['swap', 'rolling', 'replace', 'off'])
def test_restart_a_group(way):
    """New processes for that group alone, answered when they serve; the file is not read."""
    groups = web(group='workers = 2\nreload = %s\n' % way) + '[other]\nroutes = /other\ncmd = %s\n' % counter()
    with Own(groups) as p:
        old, other = p.pids('web'), p.pids('other')
        p.edit(('[web]', '[web]\nnonsense = 1'))
        with Load(p, ('/', '/other')) as load:
            assert 'generation 2' in post(p, '/groups/web/restart')
        assert not load.failed, load.failed[:5]
        assert p.pids('other') == other and not set(p.pids('web')) & set(old) and len(p.pids('web')) == 2
        p.wait_log(r'info  restart of web done after')


def test_restart_of_a_group_that_fails_changes_nothing():
    with Own(web('--fail-if={dir}/bad')) as p:
        old = p.pids()
        p.touch('bad')
        assert "No module named 'torch'" in post(p, '/groups/web/restart', 409)
        assert p.pids() == old


def test_restart_one_worker():
    with Own(web(group='workers = 3\n')) as p, Load(p, ('/',)) as load:
        old = p.pids()
        post(p, '/groups/web/workers/1/restart')
        wait_gone(old[1])
        p.wait_status(lambda s: len(p.pids()) == 3)
        assert {old[0], old[2]} < set(p.pids())
    assert not load.failed, load.failed[:5]


def test_restart_clears_failed():
    with Own(web('--fail-if={dir}/bad', group='max_restarts = 1\nbackoff_max = 100ms\n'), files={'bad': ''}, wait=False) as p:
        p.up()
        p.wait_status(lambda s: s['groups'][0]['workers'][0]['state'] == 'failed')
        os.unlink(p.dir + '/bad')
        post(p, '/groups/web/workers/0/restart')
        wait_for(lambda: p.pids())


def test_pause_and_resume_a_group():
    """It keeps queueing, so that a deploy can hold it."""
    with Own(web()) as p:
        post(p, '/groups/web/pause')
        assert p.group('web')['paused'] is True
        clients = [p.connect().send(head('GET', '/%d' % n)) for n in range(5)]
        queued(p, 5)
        hup(p)
        queued(p, 5)
        assert not p.requests()
        post(p, '/groups/web/resume')
        assert [c.read_response().status for c in clients] == [200] * 5


def test_drain_and_resume_a_worker():
    with Own(web(group='workers = 2\nmax_req_per_worker = 1\n')) as p:
        pids = p.pids()
        post(p, '/groups/web/workers/0/drain')
        assert p.worker('web', 0)['paused'] is True
        assert {p.get('/') for _ in range(6)} == {str(pids[1])}
        post(p, '/groups/web/workers/1/drain')
        with p.connect() as c:
            assert c.ask('GET', '/').status == 503
        post(p, '/groups/web/workers/0/resume')
        assert p.get('/') == str(pids[0]) and p.pids() == pids


@pytest.mark.parametrize('path, code, text', [
    ('/groups/nobody/pause', 404, 'no group `nobody`'), ('/groups/web/dance', 404, 'scale, restart, pause'), ('/groups/web', 404, 'scale'),
    ('/groups/', 404, 'no group'), ('/groups/web/scale', 400, 'workers=N'), ('/groups/web/scale?workers=0', 400, '1 to 4096'),
    ('/groups/web/scale?workers=x', 400, 'workers=N'), ('/groups/web/workers/7/drain', 404, 'no worker 7'),
    ('/groups/web/workers/0/dance', 404, 'restart, drain'), ('/groups/web/workers/x/drain', 404, 'no worker x'),
    ('/groups/up/scale?workers=2', 409, 'no processes'), ('/groups/up/restart', 409, 'no processes'), ('/groups/up/workers/0/restart', 409, 'not a process')])
def test_what_cannot_be_done(path, code, text):
    with Own(web() + '[up]\nroutes = /up\nupstream = 127.0.0.1:1\n') as p:
        assert text in post(p, path, code)
        assert p.admin('GET', '/groups/web/pause')[0] == 405


# --- GET /route ---

def test_route_explains():
    groups = ('[web]\nroutes = *\ncmd = %s\n[ml]\nroutes = /predict =/one\nupstream = 127.0.0.1:1\n'
              '[beta]\nroutes = /predict\nmatch = header:X-Beta=1 method:POST\nhosts = a.com\nupstream = 127.0.0.1:1\n' % counter())
    with Own(groups) as p:
        def route(target, method='GET', **fields):
            from harness import Client
            with Client(p.admin_address) as c:
                r = c.ask('GET', '/route?method=%s&target=%s' % (method, target), dict({'Host': 'localhost'}, **fields))
            assert r.status == 200, r
            return json.loads(r.body)
        line = p.config_text.split('\n').index('routes = /predict =/one') + 1
        assert route('%2Fpredict%2Fx%3Fa=b') == {'status': 200, 'reason': '', 'group': 'ml', 'route': '/predict', 'at': 'groups.ini:%d' % line,
                                                 'why': 'the longest route that fits'}
        assert route('/one')['why'] == 'the longest route that fits, exactly'
        assert route('/else')['group'] == 'web' and route('/else')['why'] == 'no longer route fits'
        beta = route('http://a.com/predict', 'POST', **{'X-Beta': '1'})
        assert beta['group'] == 'beta' and '3 conditions hold' in beta['why']
        assert route('/predict', 'POST', **{'X-Beta': '1'})['group'] == 'ml'
        bad = route('/x/../predict')
        assert bad['status'] == 400 and bad['reason'] == 'path' and bad['group'] is None and 'differently' in bad['why']
        for target in ('/%25zz', '/..', '/%2500'):       # one reading, and it is none
            bad = route(target)
            assert bad['status'] == 400 and bad['reason'] == 'path' and 'different groups' not in bad['why'], bad
        assert p.admin('GET', '/route?method=GET')[0] == 400
