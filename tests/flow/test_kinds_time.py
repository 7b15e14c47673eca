"""What is waited for has its time, whatever else goes on: answers that stall, queues of groups that are removed, and
health checks, which are neither silenced by traffic nor upset by what an operator does."""
import contextlib, os, socket, threading, time

import pytest
from harness import AutoWorker, FakeWorker, Proxy, answer, head, upstream_config, wait_for
from procs import Own, wait_gone
from test_life import queued, web

OK = answer(b'ok')
BEGUN = b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc'


def cut(c, within=4):
    """What was begun ends in time, and not as if it were whole."""
    start = time.monotonic()
    data = c.read_all(within)
    assert data.startswith(b'HTTP/1.1 200 ') and data.endswith(b'abc') or data.startswith(b'HTTP/1.1 504 '), data
    return time.monotonic() - start


# --- an answer that has begun and stalls, while the request is not through ---

@pytest.mark.parametrize('group', ['', 'max_req_per_worker = 1\nrequest_buffer = 0\n', 'client_abort = wait\n'])
@pytest.mark.parametrize('after', [0, 0.6])
@pytest.mark.parametrize('deaf', ['read', 'nothing'])
def test_a_worker_that_stalls_behind_the_beginning_of_its_answer(group, after, deaf):
    """It has begun to answer before the body was through, reads no more (or could, and does not), and says no more."""
    with FakeWorker(unix=True) as worker, \
            Proxy(upstream_config(worker.address, '', 'response_timeout = 500ms\n' + group), stop_timeout=5) as p, \
            p.connect() as c:
        body = b'x' * 4000000
        c.send(head('POST', '/', {'Content-Length': str(len(body))}))
        if not after:
            c.send_some(body[:100000])
        conn = worker.accept()
        conn.read_head()
        conn.send(BEGUN)
        if deaf == 'read':
            conn.sock.shutdown(socket.SHUT_RD)
        c.peek_until(b'abc')
        if after:
            time.sleep(after)                # the body comes later than the time-out that was missed
        with contextlib.suppress(ConnectionError, BrokenPipeError):
            c.send_some(body[100000 if not after else 0:], 0.2)
        cut(c)
        conn.close()


@pytest.mark.parametrize('group', ['', 'max_req_per_worker = 1\nrequest_buffer = 0\n'])
@pytest.mark.parametrize('key', ['response_timeout', 'run_timeout'])
def test_so_it_is_when_the_body_comes_in_small_pieces(group, key):
    """Each of them moves something: that is no sign of life of the worker."""
    with FakeWorker(unix=True) as worker, \
            Proxy(upstream_config(worker.address, '', '%s = 500ms\non_timeout = wait\n%s' % (key, group)),
                  stop_timeout=5) as p, p.connect() as c:
        c.send(head('POST', '/', {'Content-Length': '10000'}))
        conn = worker.accept()
        conn.read_head()
        conn.send(BEGUN)
        conn.sock.shutdown(socket.SHUT_RD)
        c.peek_until(b'abc')
        end = time.monotonic() + 4
        with contextlib.suppress(ConnectionError, BrokenPipeError):
            while not c.ended and c.silent(0.1):
                assert time.monotonic() < end, 'response time-out missed'
                c.send(b'x')
        conn.close()


def test_so_it_is_with_a_chunked_body():
    with FakeWorker(unix=True) as worker, \
            Proxy(upstream_config(worker.address, '', 'response_timeout = 500ms\n'), stop_timeout=5) as p, \
            p.connect() as c:
        c.send(head('POST', '/', {'Transfer-Encoding': 'chunked'}))
        conn = worker.accept()
        conn.read_head()
        conn.send(BEGUN)
        conn.sock.shutdown(socket.SHUT_RD)
        c.peek_until(b'abc')
        time.sleep(0.6)
        with contextlib.suppress(ConnectionError, BrokenPipeError):
            c.send(b'5\r\nhello\r\n')
        cut(c)
        conn.close()


# --- a paused group that is removed ---

PAUSED = '[kept]\nroutes = /kept\nupstream = 127.0.0.1:1\n'


def paused_and_removed(p, keep, targets=('/1', '/2', '/3')):
    assert p.admin('POST', '/groups/web/pause')[0] == 200
    clients = [p.connect().send(head('GET', t)) for t in targets]
    wait_for(lambda: p.group('web')['queue']['len'] == len(clients))
    p.write_config(keep)
    assert p.admin('POST', '/reload', timeout=10)[0] == 200
    return clients


TOP = 'listen = {listen}\nadmin = {admin}\nenv = COUNTER_LOG={dir}/counted\n'


@pytest.mark.parametrize('limit', ['', 'max_req_per_worker = 1\n'])
@pytest.mark.parametrize('reload', ['swap', 'rolling', 'replace'])
def test_a_paused_group_of_processes_that_is_removed_serves_its_queue(limit, reload):
    group = 'workers = 2\nreload = %s\n%s' % (reload, limit)
    with Own(web(group=group) + PAUSED, stop_timeout=10) as p:
        old = p.pids()
        for c in paused_and_removed(p, TOP + PAUSED):
            assert c.read_response().status == 200
        wait_gone(*old)
        wait_for(lambda: [g['name'] for g in p.status()['groups']] == ['kept'], what='it is gone')


def test_a_paused_group_of_addresses_that_is_removed_serves_its_queue():
    with AutoWorker() as worker, Proxy(upstream_config(worker.address) + PAUSED, stop_timeout=5) as p:
        for c in paused_and_removed(p, TOP + PAUSED):
            assert c.read_response().status == 200
        wait_for(lambda: [g['name'] for g in p.status()['groups']] == ['kept'])


def test_a_paused_group_that_is_removed_serves_who_is_still_sending():
    """A request was decided for the group before it was removed; its body comes after."""
    with AutoWorker() as worker, \
            Proxy(upstream_config(worker.address, '', 'max_req_per_worker = 1\n') + PAUSED, stop_timeout=5) as p, \
            p.connect() as c:
        c.send(head('POST', '/late', {'Content-Length': '5'}) + b'he')
        for other in paused_and_removed(p, TOP + PAUSED, ('/1',)):
            assert other.read_response().status == 200
        c.send(b'llo')
        assert c.read_response().status == 200


def test_a_paused_group_that_is_removed_and_written_again_is_a_new_one():
    with AutoWorker() as worker, Proxy(upstream_config(worker.address) + PAUSED, stop_timeout=5) as p:
        text = p.config_text
        for c in paused_and_removed(p, TOP + PAUSED):
            assert c.read_response().status == 200
        p.write_config(text)
        assert p.admin('POST', '/reload')[0] == 200
        with p.connect() as c:
            assert c.ask('GET', '/').status == 200
        assert p.group('web')['paused'] is False


def test_the_queue_of_a_paused_group_is_answered_at_a_stop():
    """A stop is the removal of all groups: what is in line is served, as in any other."""
    with AutoWorker() as worker, Proxy(upstream_config(worker.address), stop_timeout=10) as p:
        assert p.admin('POST', '/groups/web/pause')[0] == 200
        clients = [p.connect().send(head('GET', '/')) for _ in range(3)]
        queued(p, 3)
        p.signal(15)
        for c in clients:
            assert c.read_response().status == 200
        assert p.wait_exit(5) == 0


# --- health checks beside pause and drain ---

QUICK = 'health_path = /health\nhealth_interval = 50ms\nhealth_timeout = 300ms\nhealth_fails = 2\n'


@contextlib.contextmanager
def checked(group='', workers=1):
    """Workers whose health is in the test's hands."""
    health = {'answer': answer(b''), 'asked': 0, 'others': 0}

    def serve(request, conn):
        if request.target == '/health':
            health['asked'] += 1
            return health['answer'] if not callable(health['answer']) else health['answer'](conn)
        health['others'] += 1
        return OK
    keys = ''.join(line + '\n' for line in QUICK.splitlines() if line.split(' ')[0] not in group) + group
    with contextlib.ExitStack() as stack:
        all_ = [stack.enter_context(AutoWorker(serve)) for _ in range(workers)]
        p = stack.enter_context(Proxy(upstream_config(' '.join(w.address for w in all_), '', keys), stop_timeout=5))
        yield p, health


def more(health, n=4):
    """So many further checks have come."""
    asked = health['asked']
    wait_for(lambda: health['asked'] >= asked + n, what='more checks')


@pytest.mark.parametrize('limit', ['', 'max_req_per_worker = 1\n'])
@pytest.mark.parametrize('what', ['pause', 'workers/0/drain'])
def test_checks_of_a_worker_that_is_held_back(limit, what):
    """It gets no requests; that its checks pass or fail upsets nothing (the audit watches), and resuming is enough."""
    with checked(limit) as (p, health):
        assert p.admin('POST', '/groups/web/' + what)[0] == 200
        if not limit:                        # with one, a slot that nobody is given is none for a check either
            more(health, 3)
        health['answer'] = answer(b'', '503 Sick')
        time.sleep(0.3)                      # and what they do to its state is not the point here
        health['answer'] = answer(b'')
        wait_for(lambda: p.worker('web')['state'] == 'ready')
        assert p.admin('POST', '/groups/web/' + what.replace('pause', 'resume').replace('drain', 'resume'))[0] == 200
        with p.connect() as c:
            assert c.ask('GET', '/').status == 200


def test_checks_that_are_under_way_when_a_worker_is_held_back():
    go = threading.Event()

    def slow(conn):
        go.wait(5)
        return answer(b'')
    with checked() as (p, health):
        health['answer'] = slow
        more(health, 1)
        for what in ('workers/0/drain', 'workers/0/resume', 'pause', 'workers/0/drain'):
            assert p.admin('POST', '/groups/web/' + what)[0] == 200
        go.set()
        health['answer'] = answer(b'')
        wait_for(lambda: p.worker('web')['state'] == 'ready')
        more(health, 3)
        for what in ('workers/0/resume', 'resume'):
            assert p.admin('POST', '/groups/web/' + what)[0] == 200
        with p.connect() as c:
            assert c.ask('GET', '/').status == 200


def test_checks_of_own_processes_that_are_held_back():
    with Own(web('--hold-health={dir}/well', group='workers = 2\n' + QUICK), files={'well': ''}) as p:
        assert p.admin('POST', '/groups/web/workers/0/drain')[0] == 200
        n = len(p.counted())
        wait_for(lambda: len(p.counted()) > n + 6)
        os.unlink(p.dir + '/well')
        old = p.pids()
        wait_for(lambda: len(p.starts()) >= 4)
        p.touch('well')
        wait_gone(*old)
        p.wait_status(lambda s: len(p.pids()) == 2, 15)
        assert p.get('/')


# --- a check that passes ---

EARLY = b'HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n'
PASSES = {'103 and 200 at once': [EARLY + answer(b'')],
          '100, 103 and 200 at once': [b'HTTP/1.1 100 Continue\r\n\r\n' + EARLY + answer(b'')],
          '103 and 200 with a body at once': [EARLY + answer(b'well')],
          'a chunked 200': [b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'],
          '103 and a chunked 200 at once': [EARLY + b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'],
          '103 and 204 at once': [EARLY + b'HTTP/1.1 204 No Content\r\n\r\n'],
          '103 and half of 200': [EARLY + answer(b'')[:10], answer(b'')[10:]], '103, then 200': [EARLY, answer(b'')]}


@pytest.mark.parametrize('what', PASSES)
@pytest.mark.parametrize('limit', ['', 'max_req_per_worker = 1\n'])
def test_a_check_passes_with_what_comes_before_it(what, limit):
    """And with the connection left open, as kept ones are."""
    with FakeWorker() as worker, \
            Proxy(upstream_config(worker.address, '', 'health_path = /h\nhealth_timeout = 2s\n' + limit),
                  wait=False, stop_timeout=5) as p:
        request, conn = worker.one()
        assert request.target == '/h'
        for part in PASSES[what]:
            conn.send(part)
            time.sleep(0.02)                 # two segments
        p.wait_log('ready after', 1.5)
        with p.connect() as c:
            c.send(head('GET', '/'))
            wait_for(lambda: not worker.no_connection(0) or not conn.silent(0))
            if conn.silent(0):
                worker.one(OK)
            else:
                if conn.read_request() is None:
                    worker.one(OK)
                else:
                    conn.send(OK)
            assert c.read_response().status == 200


def test_a_later_check_passes_so_too():
    with checked() as (p, health):
        health['answer'] = EARLY + answer(b'')
        more(health, 6)
        assert p.worker('web')['state'] == 'ready' and 'health checks failed' not in p.log()


# --- traffic and checks ---

class Traffic:
    """Clients that ask without a pause."""

    def __init__(self, p, n=2):
        self.p, self.over, self.statuses = p, threading.Event(), []
        self.threads = [threading.Thread(target=self.run, daemon=True) for _ in range(n)]

    def __enter__(self):
        for t in self.threads:
            t.start()
        wait_for(lambda: len(self.statuses) > 10)
        return self

    def __exit__(self, *_):
        self.over.set()
        for t in self.threads:
            t.join(20)

    def run(self):
        with contextlib.suppress(OSError, ConnectionError, AssertionError):
            with self.p.connect() as c:
                while not self.over.is_set():
                    self.statuses.append(c.ask('GET', '/').status)


@pytest.mark.parametrize('limit', ['', 'max_req_per_worker = 4\n', 'max_req_per_worker = 1\n'])
def test_a_check_that_says_no_counts_whatever_else_succeeds(limit):
    with checked('health_interval = 300ms\n' + limit) as (p, health), Traffic(p, 1 if '= 1' in limit else 2):
        health['answer'] = answer(b'', '503 Sick')
        wait_for(lambda: p.worker('web')['state'] == 'down', 5, 'it is down')
        p.wait_log('2 health checks failed in a row')


def test_of_two_the_sick_one_gets_nothing_more():
    sick = answer(b'', '503 Sick')
    with AutoWorker(lambda r, c: sick if r.target == '/health' and bad.is_set() else OK) as a, AutoWorker() as b:
        bad = threading.Event()
        with Proxy(upstream_config(a.address + ' ' + b.address, '', QUICK), stop_timeout=5) as p, Traffic(p) as traffic:
            bad.set()
            wait_for(lambda: p.worker('web', 0)['state'] == 'down', 5, 'it is down')
            n = len([r for r in a.requests if r.target == '/'])
            served = len(traffic.statuses)
            wait_for(lambda: len(traffic.statuses) > served + 50)
            assert len([r for r in a.requests if r.target == '/']) <= n + 2, 'what was on its way'
            bad.clear()
            wait_for(lambda: p.worker('web', 0)['state'] == 'ready')
        assert set(traffic.statuses) == {200}


@pytest.mark.parametrize('limit', ['', 'max_req_per_worker = 4\n'])
def test_a_process_of_ours_that_says_no_is_replaced_under_load(limit):
    group = 'reload = replace\n' + QUICK.replace('50ms', '300ms') + limit
    with Own(web('--hold-health={dir}/well', group=group), files={'well': ''}) as p:
        old, = p.pids()
        with Traffic(p):
            os.unlink(p.dir + '/well')
            p.wait_log('health checks failed in a row, replacing it', 5)
            p.touch('well')
            wait_gone(old)
            p.wait_status(lambda s: len(p.pids()) == 1, 15)


@pytest.mark.parametrize('limit', ['', 'max_req_per_worker = 4\n'])
def test_checks_are_sent_on_time_under_load(limit):
    with checked(limit) as (p, health), Traffic(p):
        asked = health['asked']
        wait_for(lambda: health['asked'] >= asked + 8, 4, 'a check each 50 ms')


def test_an_answer_saves_a_busy_worker_from_a_check_without_one():
    """All its threads are at work and the check waits for its turn: that is no fault."""
    def hangs(conn):
        time.sleep(0.8)
        return answer(b'')
    with checked('max_req_per_worker = 4\n') as (p, health), Traffic(p) as traffic:
        health['answer'] = hangs
        more(health, 3)
        assert p.worker('web')['state'] == 'ready' and 'health checks failed' not in p.log()
        assert set(traffic.statuses) == {200}


def test_a_no_is_not_forgotten_for_an_answer_in_between():
    """Two in a row mean two checks in a row, whatever requests were answered between them."""
    with checked('health_interval = 200ms\n') as (p, health), p.connect() as c:
        health['answer'] = answer(b'', '503 Sick')
        end = time.monotonic() + 5
        while p.worker('web')['state'] == 'ready':
            assert time.monotonic() < end, 'asked for ever'
            c.send(head('GET', '/'))
            wait_for(lambda: not c.silent(0.02) or p.worker('web')['state'] == 'down')
            c.recv_some(0) if not c.silent(0) else None
