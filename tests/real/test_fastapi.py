"""examples/fastapi as it stands: one application, and what blocks in it hurts nobody else."""
import asyncio, json, os, threading, time

import pytest
from harness import REPO, Client, Proxy, free_port
from needs import Load, ask, hup, need, pids

APP = os.path.join(REPO, 'examples', 'fastapi')


def story(config=None):
    need('uvicorn', 'fastapi', 'websockets')
    with open(os.path.join(APP, 'groups.ini')) as f:
        text = config or f.read()
    port = free_port()
    return Proxy(text, port=port, start_timeout=60,
                 env={'LISTEN': '127.0.0.1:%d' % port, 'APP_DIR': APP, 'PYTHONDONTWRITEBYTECODE': '1'})


def test_blocked_workers_stay_alone():
    """Twenty clients block /ml-pipeline, each for one to three seconds; the fast endpoint does not notice."""
    with story() as p:
        answers = []

        def block():
            answers.append(ask(p, 'GET', '/ml-pipeline', timeout=120))
        start = time.monotonic()
        blockers = [threading.Thread(target=block) for _ in range(20)]
        for t in blockers:
            t.start()
        with Load(p, '/', clients=4, pause=0.02) as load:
            for t in blockers:
                t.join(120)
        took = time.monotonic() - start

        load.check()
        seconds = sorted(seconds for seconds, _ in load.answers)
        slow = seconds[len(seconds) * 99 // 100]            # the machine may stand still for one or two
        assert slow < 0.9, 'fast requests took %.3f s: they waited for a blocked worker' % slow
        assert [r.status for r in answers] == [200] * 20, answers
        bodies = [json.loads(r.body) for r in answers]
        by_pid = {}
        for b in bodies:
            by_pid[b['pid']] = by_pid.get(b['pid'], 0) + b['slept']
        assert set(by_pid) == pids(p, 'ml')
        # One at a time in each worker, and no worker idle while somebody waited.
        between = took - max(by_pid.values())               # on their way, all in all
        assert -0.01 <= between < 2
        assert abs(by_pid.popitem()[1] - by_pid.popitem()[1]) < 3.1 + between


def test_counter_in_memory():
    """One process counts: no gap, no repeat, across a reload that replaces all other workers."""
    with story() as p:
        live, web = pids(p, 'live'), pids(p, 'web')
        seen = []

        def count():
            with p.connect() as c:
                for _ in range(50):
                    seen.append(json.loads(c.ask('POST', '/counter', body=b'').body))
        threads = [threading.Thread(target=count) for _ in range(8)]
        for t in threads:
            t.start()
        hup(p)
        for t in threads:
            t.join()
        assert sorted(s['counter'] for s in seen) == list(range(1, 401))
        assert {s['pid'] for s in seen} == live == pids(p, 'live')
        assert not web & pids(p, 'web')


def test_websocket_stays_open():
    """Opened before everything else, it keeps echoing while workers block and a reload goes through."""
    need('websockets')
    import websockets

    async def talk(p, steps):
        async with websockets.connect('ws://127.0.0.1:%d/ws' % p.port) as ws:
            for i, step in enumerate(steps):
                done = asyncio.get_running_loop().run_in_executor(None, step)
                while not done.done():
                    text = 'message %d %s' % (i, 'x' * 2000)
                    await ws.send(text)
                    assert await asyncio.wait_for(ws.recv(), 5) == text
                    await asyncio.sleep(0.02)
                await done
    with story() as p:
        blocked = [threading.Thread(target=ask, args=(p, 'GET', '/ml-pipeline?least=1&most=1')) for _ in range(4)]
        asyncio.run(talk(p, [lambda: [t.start() for t in blocked], lambda: hup(p), lambda: [t.join() for t in blocked],
                             lambda: hup(p)]))
        p.wait_status(lambda s: not any(w['tunnels'] for g in s['groups'] for w in g['workers']))


def read_events(p, n, target):
    """-> seconds that each event was on its way."""
    late, last = [], None
    with Client(p.address, 30) as c:
        c.send('GET %s HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n' % target)
        head = c.read_until(b'\r\n\r\n')
        assert head.startswith(b'HTTP/1.1 200') and b'text/event-stream' in head
        for i in range(n):
            assert c.read_until(b'id: ').endswith(b'id: ')
            assert int(c.read_until(b'\n')) == i
            assert c.read_exact(6) == b'data: '
            late.append(time.time() - float(c.read_until(b'\n\n')))
        last = c.read_until(b'0\r\n\r\n')        # the end of the answer, and the connection is still good
        assert last.endswith(b'\r\n0\r\n\r\n')
        assert c.ask('GET', '/').status == 200
    return late


def test_events_arrive_as_sent():
    with story() as p:
        late = read_events(p, 10, '/events?n=10&every=0.3')
        assert max(late) < 1.3, late             # the last is sent 2.7 s after the first


def test_events_of_a_drained_worker():
    """A stream that runs while its worker is replaced is finished by the old one."""
    with story('app = main:app\nlisten = ${LISTEN}\ndir = ${APP_DIR}\n[all]\nroutes = *\n') as p:
        old = pids(p, 'all')
        late = []
        reader = threading.Thread(target=lambda: late.extend(read_events(p, 20, '/events?n=20&every=0.15')))
        reader.start()
        p.wait_status(lambda s: s['groups'][0]['in_flight'] == 1)
        hup(p)
        assert json.loads(ask(p, 'GET', '/').body)['pid'] not in old
        reader.join(30)
        assert len(late) == 20 and max(late) < 1.5, late


@pytest.mark.parametrize('reloads', [5])
def test_reload_loses_nothing(reloads):
    with story() as p:
        seen = [pids(p, 'web')]
        with Load(p, '/') as load:
            for _ in range(reloads):
                hup(p)
                seen.append(pids(p, 'web'))
        load.check()
        for before, after in zip(seen, seen[1:]):
            assert len(after) == 2 and not before & after
        assert {json.loads(r.body)['pid'] for _, r in load.answers} >= set.union(*seen[1:-1])
