"""What a test with real applications needs, and what several of them use."""
import importlib.util, os, shutil, signal, threading, time

import pytest
from harness import Client

PACKAGES = {'node': 'nodejs', 'fastapi': 'python3-fastapi', 'websockets': 'python3-websockets',
            'hypercorn': 'python3-hypercorn', 'haproxy': 'haproxy', 'requests': 'python3-requests', 'httpx': 'python3-httpx',
            'aiohttp': 'python3-aiohttp', 'nginx': 'nginx-light', 'selenium': 'python3-selenium',
            'chromedriver': 'chromium-driver'}


def need(*names):
    """Programs, or modules of this Python."""
    missing = [n for n in names if not shutil.which(n) and not importlib.util.find_spec(n)]
    if missing:
        text = 'not installed: apt-get install ' + ' '.join(PACKAGES.get(n, n) for n in missing)
        pytest.fail(text) if os.environ.get('CI') == 'true' else pytest.skip(text)


class Load:
    """Keep-alive clients that ask without a pause and note everything that is not a 200.

        with Load(proxy, '/') as load: ...
        load.check()
    """

    def __init__(self, proxy, target, clients=8, pause=0.002):
        self.proxy, self.target, self.pause = proxy, target, pause
        self.failures, self.answers, self.over = [], [], threading.Event()
        self.threads = [threading.Thread(target=self._client, daemon=True) for _ in range(clients)]

    def _client(self):
        try:
            with self.proxy.connect() as c:
                while not self.over.is_set():
                    start = time.monotonic()
                    r = c.ask('GET', self.target)
                    self.answers.append((time.monotonic() - start, r))
                    if r.status != 200 or not r.complete:
                        self.failures.append(r)
                    if (r.get('connection') or '').lower() == 'close':
                        self.failures.append('the connection was not kept')
                        return
                    time.sleep(self.pause)
        except Exception as e:
            self.failures.append(e)

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for t in self.threads:
            t.join(30)

    def check(self):
        assert not self.failures, '%d of %d: %r' % (len(self.failures), len(self.answers), self.failures[:5])
        assert len(self.answers) > len(self.threads)


def hup(proxy, timeout=30):
    """Reload by signal, until it is done."""
    before = proxy.status()['last_reload']
    proxy.signal(signal.SIGHUP)
    status = proxy.wait_status(lambda s: s['last_reload'] != before, timeout)
    assert status['last_reload']['result'] == 'ok', status['last_reload']


def pids(proxy, group):
    return {w['pid'] for w in proxy.group(group)['workers'] if w['state'] == 'ready'}


def gone(pid):
    """Ended; what is left of a process that its parent has not looked at yet counts as ended."""
    try:
        with open('/proc/%d/stat' % pid) as f:
            return f.read().rpartition(')')[2].split()[0] in 'ZX'
    except OSError:
        return True


def ask(proxy, method, target, body=None, headers=(), timeout=60):
    with Client(proxy.address, timeout) as c:
        return c.ask(method, target, headers, body)
