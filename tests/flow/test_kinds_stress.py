"""All that changes workers, at once and in any order: the limits hold, an index has one process that serves, whatever
was asked is answered, and afterwards everything comes to rest."""
import contextlib, os, random, signal, threading, time

import pytest
from harness import AutoWorker, Timeout, answer, head, wait_for
from procs import Own, alive, at_rest, counter, one_per_index

SECONDS = 5.0
LIMIT = {'swap': 1, 'roll': 2, 'repl': 1, 'off': 1, 'free': None, 'extra': 1}
LATE = 'run_timeout = 400ms\non_timeout = restart\n'
KEYS = {'swap': 'reload = swap\nworkers = 2\nrecycle_requests = 40\n' + LATE,
        'roll': 'reload = rolling\nworkers = 2\nrecycle_requests = 60\n' + LATE,
        'repl': 'reload = replace\nworkers = 1\nrecycle_requests = 50\n' + LATE,
        'off': 'reload = off\nworkers = 1\nrecycle_requests = 30\n',
        'free': 'reload = rolling\nworkers = 2\nhealth_path = /health\nhealth_interval = 100ms\nhealth_timeout = 2s\n'
                'health_fails = 2\n',
        'extra': 'reload = swap\nworkers = 1\n' + LATE}
PEAK = 3                                     # more workers than this no group is scaled to
EVERY = 'backoff_max = 300ms\nqueue_timeout = 8s\nstop_timeout = 2s\ndrain_timeout = 3s\ntunnel_drain = 1s\n' \
        'tunnel_timeout = 5s\n'


class Storm:
    def __init__(self, seed, stack):
        self.seed, self.stack, self.random = seed, stack, random.Random(seed)
        self.over, self.errors, self.answers, self.asked, self.did = threading.Event(), [], [], [], []
        self.pool = [stack.enter_context(AutoWorker(self.pooled)) for _ in range(3)]
        self.workers, self.listed, self.extra = {'roll': 2, 'swap': 2}, list(self.pool), True
        self.p = stack.enter_context(Own(self.groups(), top=EVERY, files={'well': ''}, stop_timeout=15,
                                         start_timeout=30))
        self.top = self.p.config_text[:self.p.config_text.index('[swap]')]

    @staticmethod
    def pooled(request, conn):
        time.sleep(int(request.target.rpartition('=')[2]) / 1000)
        return answer(b'pool')

    def groups(self):
        text = ''
        for name, keys in KEYS.items():
            if name == 'extra' and not self.extra:
                continue
            if name in self.workers:
                keys = keys.replace('workers = 2', 'workers = %d' % self.workers[name])
            limit = 'max_req_per_worker = %d\n' % LIMIT[name] if LIMIT[name] else ''
            cmd = counter('{socket}', '--hold-health={dir}/well')
            text += '[%s]\nroutes = /%s\ncmd = %s\n%s%s' % (name, name, cmd, keys, limit)
        return text + '[pool]\nroutes = /pool\nupstream = %s\nmax_req_per_worker = 1\nrun_timeout = 150ms\n' % \
            ' '.join(w.address for w in self.listed)

    # --- traffic ---

    def traffic(self, number):
        dice, c = random.Random(self.seed * 100 + number), None
        while not self.over.is_set():
            group, what = dice.choice(list(LIMIT) + ['pool']), dice.random()
            try:
                c = c or self.p.connect(12)
                if group == 'pool':
                    c.send(head('GET', '/pool?ms=%d' % dice.choice((1, 5, 20, 300))))
                elif what < 0.04 and LATE in KEYS[group]:
                    c.send(head('POST', '/' + group, {'X-Ask': 'hang'}, b''))
                elif what < 0.08:
                    c.send(head('GET', '/' + group, {'X-Ask': 'ws', 'Connection': 'Upgrade', 'Upgrade': 'websocket'}))
                    if c.read_response().status == 101:
                        c.send(b'x').recv_some()
                    c = c.close()
                    continue
                else:
                    c.send(head('GET', '/%s?ms=%d' % (group, dice.choice((0, 2, 10, 50))), {'X-Ask': 'sleep'}))
                if what > 0.9:               # gone, whatever becomes of its request
                    c = c.rst()
                    continue
                r = c.read_response()
                if r.status not in (200, 404, 502, 503, 504) or r.status == 404 and group != 'extra':
                    self.errors.append((group, repr(r)))
                if r.closed or 'close' in (r.get('connection') or '') or r.version == 'HTTP/1.0':
                    c = c.close()
            except ConnectionError:          # cut: its worker was killed
                c = c and c.close()
            except Exception as e:
                self.errors.append((group, repr(e)))
                c = c and c.close()
        if c:
            c.close()

    # --- what is done ---

    def post(self, path, method='POST'):
        def run():
            try:
                self.answers.append((path,) + self.p.admin(method, path, timeout=25)[::2])
            except Exception as e:
                self.errors.append((path, repr(e)))
        self.did.append(path)
        self.asked.append(threading.Thread(target=run, daemon=True))
        self.asked[-1].start()

    def one(self):
        group = self.random.choice(list(LIMIT))
        worker = '/groups/%s/workers/%d/' % (group, self.random.randrange(PEAK))
        address = '/groups/pool/workers?address=' + self.random.choice(self.pool).address
        do = self.random.randrange(13)
        if do == 0:
            self.did.append('HUP')
            self.p.signal(signal.SIGHUP)
        elif do == 1:
            self.post('/reload' + self.random.choice(('', '?processes=keep')))
        elif do == 2:
            self.edit()
            self.post('/reload' + self.random.choice(('', '?processes=keep')))
        elif do in (3, 4):
            self.post(worker + 'restart')
        elif do == 5:
            self.post('/groups/%s/restart' % group)
        elif do == 6:
            self.post('/groups/%s/scale?workers=%d' % (group, self.random.randint(1, PEAK)))
        elif do == 7:
            self.post(worker + self.random.choice(('drain', 'resume', 'resume')))
        elif do == 8:
            group = self.random.choice((group, 'pool'))
            self.post('/groups/%s/%s' % (group, self.random.choice(('pause', 'resume', 'resume'))))
        elif do in (9, 10):
            self.post(address, self.random.choice(('POST', 'DELETE')))
        elif do == 11:
            self.kill(group)
        else:
            self.sick()

    def edit(self):
        self.workers = {'roll': self.random.randint(1, PEAK), 'swap': self.random.randint(1, PEAK)}
        self.listed = self.random.sample(self.pool, self.random.randint(1, 3))
        self.extra = self.random.random() < 0.5
        self.did.append('edit %s %d %s' % (self.workers, len(self.listed), self.extra))
        self.p.write_config(self.top + self.groups())

    def kill(self, group):
        with contextlib.suppress(StopIteration, ProcessLookupError):
            pid = self.random.choice([w['pid'] for w in self.p.group(group)['workers'] if w['pid']] or [0])
            if pid:
                self.did.append('kill %s' % group)
                os.kill(pid, signal.SIGKILL)

    def sick(self):
        self.did.append('sick')
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.p.dir + '/well')
        time.sleep(0.3)
        self.p.touch('well')

    # --- what must hold ---

    def look(self):
        for group in self.p.status()['groups']:
            if group['source'] == 'processes':
                one_per_index(group, 2)      # the one that was killed, and the one that a roll has begun
        assert all(w.max_inside <= 1 for w in self.pool), [w.max_inside for w in self.pool]

    def limits(self):
        for pid, inside, method, target in self.p.requests():
            limit = LIMIT.get(target[1:].partition('?')[0])
            assert limit is None or inside <= limit, (pid, inside, method, target)

    def settle(self):
        """Nothing is held back any more, all was answered, and each group comes to what was asked for."""
        for t in self.asked:
            t.join(25)
            if t.is_alive():
                raise Timeout('admin has not answered all of %s' % self.did[-30:])
        for group in self.p.status()['groups']:
            self.p.admin('POST', '/groups/%s/resume' % group['name'])
            for w in group['workers']:
                self.p.admin('POST', '/groups/%s/workers/%d/resume' % (group['name'], w['index']))
        for path, code, body in self.answers:
            assert code in (200, 404, 409), (path, code, body)
        self.wait_rest(30)
        known = {w['pid'] for g in self.p.status()['groups'] for w in g['workers'] if w['pid']}
        wait_for(lambda: {pid for pid in self.p.starts() if alive(pid)} == known, what='no process but %s' % known)

    def wait_rest(self, timeout):
        try:
            wait_for(self.rests, timeout)
        except Timeout:
            status = self.p.status()
            raise Timeout('no rest: reloading %s; %s' % (status['reloading'], '; '.join(
                '%s (wants %d, %d in line%s): %s' % (
                    g['name'], g['workers_wanted'], g['queue']['len'], ', paused' if g['paused'] else '', ' '.join(
                        '%d:%d:%s:%d+%d' % (w['index'], w['pid'], w['state'], w['in_flight'], w['tunnels'])
                        for w in g['workers'])) for g in status['groups']))) from None

    def rests(self):
        self.look()
        status = self.p.status()
        return not status['reloading'] and all(
            at_rest(g, g['workers_wanted']) if g['source'] == 'processes' else
            g['queue']['len'] == 0 and all(w['in_flight'] == 0 and w['state'] == 'ready' for w in g['workers'])
            for g in status['groups'])


@pytest.mark.slow
@pytest.mark.parametrize('seed', [2, 3, 4])
def test_a_storm_of_all_that_changes_workers(seed):
    print('seed', seed)
    with contextlib.ExitStack() as stack:
        storm = Storm(seed, stack)
        p = storm.p
        threads = [threading.Thread(target=storm.traffic, args=(n,), daemon=True) for n in range(4)]
        for t in threads:
            t.start()
        try:
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                storm.one()
                storm.look()
                time.sleep(storm.random.choice((0, 0.02, 0.1)))
        finally:
            storm.over.set()
            print('done:', '; '.join(storm.did))
        for t in threads:
            t.join(20)
            assert not t.is_alive(), 'a client waits for ever'
        storm.settle()
        storm.limits()
        assert not storm.errors, storm.errors[:5]
        assert not [e for w in storm.pool for e in w.errors if not isinstance(e, (ConnectionError, OSError))]
        code, _, body = p.admin('POST', '/reload', timeout=25)
        assert code == 200, body
        storm.wait_rest(20)
        for group in ('swap', 'roll', 'repl', 'off', 'free'):
            assert p.get('/' + group, 'sleep')
        storm.limits()
