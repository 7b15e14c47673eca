#!/usr/bin/env python3
"""Mixed load on the real binary, while workers are killed and steered, and the configuration is reloaded.

    tests/soak.py [--requests N] [--clients N] [--kills N] [--reloads N] [--steers N] [--gap SECONDS] [--seed N]

Afterwards: every byte was right; no request failed but those that a killed worker can explain; no
worker ever had more inside than its limit; memory did not grow between a fifth of the run and its
end; all slots and descriptors are free again; no report of a sanitizer or of the audit. It means
most with LDCORN_BIN naming a build with both.
"""
import argparse, contextlib, io, os, random, re, signal, statistics, subprocess, sys, tempfile
import threading, time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
# a small quarantine: what is freed and kept in it must not look like growth
os.environ.setdefault('ASAN_OPTIONS', 'detect_leaks=1:quarantine_size_mb=2:'
                      'thread_local_quarantine_size_kb=64:malloc_context_size=12')
os.environ.setdefault('UBSAN_OPTIONS', 'print_stacktrace=1')
from harness import BIN, REPO, Proxy, wait_for  # noqa: E402  (the harness copies the environment)
import procs  # noqa: E402

CONFIG = '''
access_log = {dir}/access
worker_log = stderr
queue_timeout = 1m

# exact: the workers themselves say when it is not
[one]
routes = /one
cmd = %(upstream)s -l 1 {socket}
workers = 3
max_req_per_worker = 1

[many]
routes = *
cmd = %(upstream)s {socket}
workers = 2

[tcp]
routes = /tcp
cmd = %(upstream)s -l 4 {port}
workers = 2
max_req_per_worker = 4

# its clients have their 504 while the worker goes on, which keeps the slot
[late]
routes = /late
cmd = %(upstream)s -l 2 {socket}
workers = 2
max_req_per_worker = 2
response_timeout = 15ms

# keys of workers that are drained, recycled, restarted, more and fewer
[keyed]
routes = /keyed
cmd = %(upstream)s -l 2 {socket}
workers = 4
max_req_per_worker = 2
max_tunnels_per_worker = 1
balance = hash
hash_key = path:3
recycle_requests = 1000
'''
GROUPS = {'/one': 'one', '/many': 'many', '/tcp': 'tcp', '/late': 'late', '/keyed': 'keyed'}
EXPLAINED_FOR = 2.0      # seconds after a kill in which its group may fail


def say(text):
    print(text, file=sys.__stdout__, flush=True)


def compile_tools(dir):
    out = []
    for name in ('tools/upstream.c', 'tests/load.c'):
        out.append(os.path.join(dir, os.path.basename(name)[:-2]))
        subprocess.run([os.environ.get('CC', 'cc'), '-O2', '-std=gnu99', os.path.join(REPO, name), '-o', out[-1]],
                       check=True)
    return out


def rss_kib(pid):
    with open('/proc/%d/status' % pid) as f:
        return int(re.search(r'VmRSS:\s+(\d+)', f.read()).group(1))


def descriptors(pid):
    """But those that are made once, when first needed: epoll's, and pipes with both ends here (splice, signals)."""
    out = list(procs.descriptors(pid).values())
    return sorted(d for d in out if d != 'anon_inode:[eventpoll]' and not (d.startswith('pipe:') and out.count(d) == 2))


class Load:
    """tests/load.c, its progress and its failures as they come."""

    def __init__(self, binary, proxy, args):
        self.requests, self.done, self.failures, self.result = args.requests, 0, [], None
        self.proc = subprocess.Popen([binary, '-c', str(args.clients), '-n', str(args.requests), '-s', str(args.seed),
                                      str(proxy.port), *GROUPS], stdout=subprocess.PIPE, text=True)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        for line in self.proc.stdout:
            word, *rest = line.rstrip().split(' ', 5)
            if word == 'at':
                self.done = int(rest[0])
            elif word == 'fail':
                self.failures.append((int(rest[0]) / 1000, rest[1], int(rest[2]), rest[3], rest[4]))
            elif word == 'end':
                self.result = [int(n) for n in rest]

    def fraction(self):
        return self.done / self.requests

    def running(self):
        return self.thread.is_alive()

    def end(self):
        self.proc.kill()
        self.proc.wait()


def kill_one(proxy, dice):
    """A worker of a group that has another ready one. -> (when, group) or None."""
    groups = [(g['name'], [w for w in g['workers'] if w['state'] == 'ready']) for g in proxy.status()['groups']]
    groups = [(name, ready) for name, ready in groups if len(ready) > 1]
    if not groups:
        return None
    name, ready = dice.choice(groups)
    when = time.monotonic()
    try:
        os.kill(dice.choice(ready)['pid'], signal.SIGKILL)
    except ProcessLookupError:                   # a reload was faster
        return None
    return when, name


def steer(proxy, dice):
    """Something that ldcornctl can do and no client may notice. -> what takes it back, or None."""
    workers = [w['index'] for w in proxy.group('keyed')['workers']]
    path, back = dice.choice([('keyed/workers/%d/drain', 'keyed/workers/%d/resume'), ('keyed/workers/%d/restart', None),
                              ('keyed/restart', None), ('keyed/scale?workers=%d' % dice.randint(3, 6), None),
                              ('keyed/pause', 'keyed/resume'), ('one/pause', 'one/resume'), ('many/restart', None)])
    path, back = [p and '/groups/' + (p % index if '%d' in p else p) for index in [dice.choice(workers)] for p in (path, back)]
    code, _, text = proxy.admin('POST', path)
    assert code in (200, 202, 404, 409), (path, code, text)      # that worker is gone, a reload is under way
    return back if code < 300 else None


def drive(proxy, load, args):
    """Kills, steering and reloads, spread over the run; memory as it goes. -> kills, samples [(fraction, KiB)]."""
    dice = random.Random(args.seed)
    todo = sorted([((i + 0.5) / args.kills, 'kill') for i in range(args.kills)] +
                  [((i + 1) / (args.reloads + 1), 'reload') for i in range(args.reloads)] +
                  [((i + 0.3) / args.steers, 'steer') for i in range(args.steers)])
    kills, samples = [], []
    last_reload, stuck_at, stuck_since, back = 0.0, -1, time.monotonic(), None
    while load.running():
        time.sleep(0.1)
        assert proxy.alive(), 'ldcorn ended with %s' % proxy.proc.returncode
        samples.append((load.fraction(), rss_kib(proxy.pid)))
        if load.done != stuck_at:
            stuck_at, stuck_since = load.done, time.monotonic()
        assert time.monotonic() < stuck_since + 90, 'no progress for 90 s'
        if back:
            proxy.admin('POST', back)
            back = None
        if todo and load.fraction() >= todo[0][0]:
            what = todo[0][1]
            if what == 'kill':
                kill = kill_one(proxy, dice)
                if kill:
                    kills.append(kill)
                    todo.pop(0)
            elif what == 'steer':
                back = steer(proxy, dice)
                todo.pop(0)
            elif time.monotonic() > last_reload + args.gap:
                proxy.signal(signal.SIGHUP)
                last_reload = time.monotonic()
                todo.pop(0)
    return kills, samples


def unexplained(failures, kills):
    """An answer of a worker that only its end ends (`eof`) looks whole to everybody when the worker is killed."""
    def explained(when, kind, status, group, text):
        return (kind == 'cut' or (kind == 'status' and status == 502) or (kind == 'wrong' and '&eof' in text)) and any(
            name == GROUPS.get(group) and at - 0.1 <= when <= at + EXPLAINED_FOR for at, name in kills)
    return [f for f in failures if not explained(*f)]


def check_memory(samples):
    early = [kib for at, kib in samples if 0.2 <= at <= 0.3] or [kib for at, kib in samples if at <= 0.5]
    late = [kib for at, kib in samples if at >= 0.9]
    if not early or not late:
        return say('  memory    too short a run to say')
    early, late = statistics.median(early), statistics.median(late)
    say('  memory    %.1f MiB at a fifth of the run, %.1f MiB at its end' % (early / 1024, late / 1024))
    assert late <= early * 1.1 + 2048, 'memory grew from %d to %d KiB' % (early, late)


def idle_again(proxy):
    def idle():
        status = proxy.status()
        busy = ['%s.%s: %d inside, %d tunnels' % (g['name'], w['index'], w['in_flight'], w['tunnels'])
                for g in status['groups'] for w in g['workers'] if w['in_flight'] or w['tunnels']]
        busy += ['%s: %d queued' % (g['name'], g['queue']['len']) for g in status['groups'] if g['queue']['len']]
        idle.busy = busy
        return not busy
    try:
        wait_for(idle, 30, 'all slots free')
    except AssertionError:
        raise AssertionError('not free again: ' + '; '.join(idle.busy)) from None


def run(proxy, load_binary, args):
    before = descriptors(proxy.pid)
    start = time.monotonic()
    load = Load(load_binary, proxy, args)
    try:
        kills, samples = drive(proxy, load, args)
    finally:
        load.end()
    assert load.result, 'the load generator ended early'
    seconds = time.monotonic() - start
    good, failed, abandoned = load.result
    say('  requests  %d right, %d abandoned by us, %d failed, %d/s; %d kills, %d reloads, %d steered'
        % (good, abandoned, failed, (good + failed + abandoned) / seconds, len(kills), args.reloads, args.steers))
    bad = unexplained(load.failures, kills)
    if bad:
        with open(proxy.access_path, errors='replace') as f:
            say(''.join([line for line in f if ' 502 ' in line or ' 503 ' in line][-30:]))
        say('kills: %s' % kills)
        raise AssertionError('%d failures that no kill explains:\n%s' % (len(bad), '\n'.join(map(str, bad[:10]))))
    assert failed <= len(kills) * args.clients * 6, 'more failures than the kills can have caused'
    assert 'over the limit' not in proxy.log(), re.search(r'.*over the limit.*', proxy.log()).group(0)
    check_memory(samples)
    wait_for(lambda: proxy.admin('POST', '/groups/keyed/scale?workers=4')[0] < 300)    # each has its pipes
    idle_again(proxy)
    try:
        wait_for(lambda: len(descriptors(proxy.pid)) <= len(before), 30)
    except AssertionError:
        now = descriptors(proxy.pid)
        raise AssertionError('descriptors: %d before, %d after: %s' % (len(before), len(now), now))
    say('  after     all slots free, %d descriptors as before' % len(before))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--requests', type=int, default=50000)
    parser.add_argument('--clients', type=int, default=64)
    parser.add_argument('--kills', type=int, help='one for each 8,000 requests')
    parser.add_argument('--reloads', type=int, help='one for each 8,000 requests')
    parser.add_argument('--steers', type=int, help='one for each 2,000 requests')
    parser.add_argument('--gap', type=float, default=1.0, help='least time between reloads: with a smaller one a third '
                        'old generation may end the oldest before a slow client has its answer, and that cut counts')
    parser.add_argument('--seed', type=int, default=int(time.time()) % 100000)
    args = parser.parse_args()
    for name, every in (('kills', 8000), ('reloads', 8000), ('steers', 2000)):
        if getattr(args, name) is None:
            setattr(args, name, max(1, args.requests // every))
    say('soak: %s, %d requests of %d clients, seed %d' % (os.path.relpath(BIN), args.requests, args.clients, args.seed))
    shown = io.StringIO()        # the harness prints the log at the end: only a failure wants it
    with tempfile.TemporaryDirectory(prefix='ldsoak-', dir='/tmp') as dir:
        upstream, load_binary = compile_tools(dir)
        try:
            with contextlib.redirect_stdout(shown), Proxy(CONFIG % dict(upstream=upstream)) as proxy:
                run(proxy, load_binary, args)
                proxy.stop()
        except BaseException as e:
            log = shown.getvalue().splitlines()
            say('\n'.join(log[:100] + ['...'] * (len(log) > 300) + log[100:][-200:]))
            say('soak: FAILED (seed %d): %s' % (args.seed, e))
            if not isinstance(e, AssertionError):
                raise
            return 1
    say('soak: passed')
    return 0


if __name__ == '__main__':
    sys.exit(main())
