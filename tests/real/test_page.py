"""The status page in a real browser: what it shows, that it stays live, and that nothing from outside gets in."""
import http.server, json, os, re, signal, threading

import pytest
import machine
from harness import Client, cli, free_port, head, wait_for
from needs import need
from procs import Own, counter

TOKEN = 's3cret'
SECONDS = 20                  # a poll each second, on a machine that may be busy
HOSTILE = ('<script>window.pwned=1</script><img src=x onerror="window.pwned=1"><svg onload=window.pwned=1>'
           '"\'`${window.pwned=1}&lt;b&gt;</pre></details></td><iframe src=//example.test>')

# What the page says, by group; a view per group with its figures, charts and workers.
READ = '''
const text = e => e.textContent, all = (e, what) => [...e.querySelectorAll(what)];
const items = e => Object.fromEntries(all(e, ':scope > dl > div').map(d =>
  [text(d.children[0]), [text(d.children[1]), text(d.children[2]), d.children[1].className]]));
const note = id => { const e = document.getElementById(id); return e.hidden ? '' : text(e); };
const groups = {};
for (const s of all(document, 'section')) groups[text(s.querySelector('h2'))] = {
  items: items(s), routes: text(s.querySelector('code')), flag: text(s.querySelector('b')),
  lines: Object.fromEntries(all(s, '.charts > div').map(d =>
    [text(d.children[0]), d.querySelector('path').getAttribute('d') || ''])),
  rows: all(s, 'tbody > tr').map(r => [...r.children].map(text)),
  exits: all(s, 'details').filter(e => !e.hidden).map(e => all(e, 'summary, pre').map(text)) };
return { groups, top: items(document.querySelector('main')), lost: note('lost'), news: note('news'),
  title: document.title };
'''
# The worst contrast of a text with what is behind it, as WCAG counts it.
CONTRAST = '''
const channels = c => c.match(/[0-9.]+/g).map(Number);
const light = c => channels(c).slice(0, 3).map(v => v / 255).map(
  v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4).reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0);
const back = e => { const c = getComputedStyle(e).backgroundColor, [,,, a = 1] = channels(c); return a ? c : back(e.parentElement); };
let worst = [99, ''];
for (const e of document.querySelectorAll('body *')) {
  if (!e.offsetParent || ![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
  const [a, b] = [light(getComputedStyle(e).color), light(back(e))], ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  if (ratio < worst[0]) worst = [ratio, e.tagName + ' ' + e.textContent];
}
return worst;
'''


class Page(Own):
    """A proxy whose admin address a browser can reach."""

    def __init__(self, groups, top='', **kw):
        address = '127.0.0.1:%d' % free_port()
        self.url = 'http://%s/' % address
        super().__init__(groups, 'admin_token = %s\n%s' % (TOKEN, top), args=('-o', 'admin=' + address), **kw)
        self.admin_address = address

    def do(self, path):
        code, _, body = self.admin('POST', path, TOKEN)
        assert code == 200, body


class Browser:
    """Chromium; all that it asked for and all that its console said is looked at when the test ends."""

    def __init__(self):
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
        options = webdriver.ChromeOptions()
        options.binary_location = '/usr/bin/chromium'
        for name in ('headless=new', 'no-sandbox', 'disable-dev-shm-usage', 'no-first-run', 'disable-gpu',
                     'disable-background-networking', 'disable-component-update', 'disable-sync', 'lang=en-US',
                     'host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1'):
            options.add_argument('--' + name)
        options.set_capability('goog:loggingPrefs', {'browser': 'ALL', 'performance': 'ALL'})
        self.driver = webdriver.Chrome(service=Service('/usr/bin/chromedriver'), options=options)

    def open(self, url):
        self.logs()
        self.url = url
        self.driver.get(url)

    def js(self, text):
        return self.driver.execute_script(text)

    def read(self):
        return self.js(READ)

    def see(self, predicate, timeout=SECONDS):
        """The page as soon as the predicate holds of it; what is not there yet is not an error."""
        last = [None]

        def look():
            last[0] = self.read()
            try:
                return predicate(last[0])
            except (KeyError, IndexError, ValueError):
                return False
        try:
            wait_for(look, timeout)
        except AssertionError:
            raise AssertionError('not seen: %s' % json.dumps(last[0], indent=1)) from None
        return last[0]

    def screen(self, width, height=900, dark=False):
        cdp = self.driver.execute_cdp_cmd
        cdp('Emulation.setDeviceMetricsOverride', {'width': width, 'height': height, 'deviceScaleFactor': 1,
                                                   'mobile': width < 800})
        cdp('Emulation.setEmulatedMedia', {'features': [{'name': 'prefers-color-scheme',
                                                         'value': 'dark' if dark else 'light'}]})

    def logs(self):
        """(console, addresses asked) since the last call."""
        console = [e['level'] + ' ' + e['message'] for e in self.driver.get_log('browser')]
        events = [json.loads(e['message'])['message'] for e in self.driver.get_log('performance')]
        return console, {e['params']['request']['url'] for e in events if e['method'] == 'Network.requestWillBeSent'}

    def check(self, allowed=None):
        console, asked = self.logs()
        assert asked == {self.url, self.url + 'status'}, asked
        assert not [line for line in console if not (allowed and re.search(allowed, line))], console
        assert self.js('return [window.pwned || 0, document.querySelectorAll('
                       '"main script, main img, main iframe, main svg[onload]").length]') == [0, 0]


@pytest.fixture(scope='module')
def started():
    need('selenium', 'chromium', 'chromedriver')
    try:
        browser = Browser()
    except Exception:
        machine.need('chromium')                     # it does not start here, whatever it is told to show
        raise
    yield browser
    browser.driver.quit()


@pytest.fixture
def browser(started):
    started.screen(1280)
    yield started
    started.driver.get('about:blank')                # it asks no more


def one_group(options='', **kw):
    return Page('[web]\nroutes = *\ncmd = %s\n%s' % (counter(), options), **kw)


# --- the answer itself ---

def test_the_answer():
    with one_group() as p:
        with Client(p.admin_address) as c:
            r = c.ask('GET', '/', {'Host': 'localhost'})
            assert r.status == 200 and r.get('content-type') == 'text/html; charset=utf-8'
            empty = c.ask('HEAD', '/', {'Host': 'localhost'})
            assert empty.status == 200 and empty.get('content-length') == str(len(r.body))
            assert c.ask('POST', '/', {'Host': 'localhost'}, b'').status == 405
            assert c.ask('GET', '/', {'Host': 'example.test'}).status == 403
        rules = dict(rule.split(' ', 1) for rule in r.get('content-security-policy').split('; '))
        assert rules == {'default-src': "'none'", 'style-src': "'unsafe-inline'", 'script-src': "'unsafe-inline'",
                         'connect-src': "'self'", 'frame-ancestors': "'none'", 'base-uri': "'none'",
                         'form-action': "'none'"}
        assert {n: r.get(n) for n in ('x-content-type-options', 'x-frame-options', 'referrer-policy', 'cache-control')} == {
            'x-content-type-options': 'nosniff', 'x-frame-options': 'DENY', 'referrer-policy': 'no-referrer',
            'cache-control': 'no-store'}
        text = r.body.decode('ascii')
        assert 'innerHTML' not in text and not re.search(r'https?://(?!www\.w3\.org/)', text)


# --- what it shows ---

def test_groups_workers_and_their_numbers(browser):
    groups = ('[ml]\nroutes = /predict /embed\ncmd = %s\nworkers = 2\nmax_req_per_worker = 1\nqueue = 8\n'
              '[web]\nroutes = *\ncmd = %s\nworkers = 3\n' % (counter(), counter('{socket}', '--hold-health={dir}/never')))
    with Page(groups) as p, p.connect() as c:
        browser.open(p.url)
        page = browser.see(lambda s: len(s['groups']['web']['rows']) == 3)
        assert list(page['groups']) == ['ml', 'web'] and page['title'] == 'ldcorn'
        assert not page['lost'] and not page['news']
        ml, web = page['groups']['ml'], page['groups']['web']
        assert (sorted(ml['routes'].split()), web['routes']) == (['/embed', '/predict'], '*')
        assert ml['items']['Workers'] == ['2 of 2', 'ready', ''] and web['items']['Workers'][0] == '3 of 3'
        assert ml['items']['Inside'][0] == '0 of 2' and web['items']['Inside'][0] == '0'
        assert ml['items']['Queue'] == ['0 of 8', '0 ms old', '']
        assert ml['items']['Refused'][0] == ml['items']['Restarts'][0] == '0'
        for group in (ml, web):
            have = p.group('ml' if group is ml else 'web')['workers']
            assert [r[:3] for r in group['rows']] == [[str(w['index']), str(w['pid']), w['state']] for w in have]
            assert all(re.fullmatch(r'\d+(\.\d)? MiB', r[6]) for r in group['rows']), group['rows']
            assert not group['exits']
        assert page['top']['Up'][1] == '%s, pid %d' % (p.status()['version'], p.pid)

        for n in range(40):
            assert c.ask('GET', '/embed?ms=20', {'X-Ask': 'sleep'}).status == 200
        assert c.ask('GET', '/', {'X-Ask': 'health'}).status == 503
        page = browser.see(lambda s: s['groups']['ml']['items']['Requests a second'][1].endswith(', 40 in all') and
                           s['groups']['web']['items']['Answers 5xx'][0] == '1' and
                           s['groups']['ml']['items']['Requests a second'][0] not in '0-')
        ml = page['groups']['ml']
        assert sum(int(r[5]) for r in ml['rows']) == 40
        value, unit = ml['items']['Worker time'][0].split()
        assert unit == 'ms' and 20 <= float(value) < 500
        shown = {name: re.sub(r'[\d.]+ m?s|[\d.]+', 'N', ml['items'][name][1]) for name in ml['lines']}
        assert shown == {'Queue length': 'max N', 'Requests a second': 'max N, N in all',
                         'Worker time': 'max N, pN to N', 'Queue time': 'max N, pN to N'}
        assert all(re.fullmatch(r'(M[\d.]+,[\d.]+(L[\d.]+,[\d.]+)*)+', d) for d in ml['lines'].values()), ml['lines']
        assert browser.js('return [mean({count: 200, sum_ms: 3000}, {count: 100, sum_ms: 1000}), '
                          'num(mean({count: 7, sum_ms: 1}, {count: 7, sum_ms: 1}))]') == [20, '-']
        assert browser.js('return document.querySelectorAll("thead th, tbody th[scope=row]").length') == 2 * 7 + 5
        # After five seconds without a request the rate is back at nothing, and the times are not known.
        browser.see(lambda s: s['groups']['ml']['items']['Requests a second'][0] == '0' and
                    s['groups']['ml']['items']['Worker time'][0] == '-')
        browser.check()


def test_a_queue_that_fills(browser):
    with one_group('max_req_per_worker = 1\nqueue = 4\nqueue_timeout = 5m\n') as p:
        browser.open(p.url)
        browser.see(lambda s: s['groups']['web']['items']['Queue'] == ['0 of 4', '0 ms old', ''])
        p.do('/groups/web/pause')
        clients = [p.connect().send(head('GET', '/x')) for _ in range(3)]
        page = browser.see(lambda s: s['groups']['web']['items']['Queue'][0] == '3 of 4')
        assert page['groups']['web']['flag'] == 'paused'
        value, more, mood = page['groups']['web']['items']['Queue']
        assert re.fullmatch(r'[\d.]+ m?s old', more) and mood == 'warn'
        clients.append(p.connect().send(head('GET', '/x')))
        browser.see(lambda s: s['groups']['web']['items']['Queue'][0] == '4 of 4')
        with p.connect() as c:
            assert c.ask('GET', '/').status == 503
        page = browser.see(lambda s: s['groups']['web']['items']['Refused'][:2] == [
            '1', 'full 1, timeout 0, no worker 0'])
        assert page['groups']['web']['items']['Queue length'][:2] == ['4', 'max 4']
        p.do('/groups/web/resume')
        assert [c.read_response().status for c in clients] == [200] * 4
        page = browser.see(lambda s: s['groups']['web']['items']['Queue'] == ['0 of 4', '0 ms old', ''])
        assert not page['groups']['web']['flag'] and page['groups']['web']['items']['Queue length'][:2] == ['0', 'max 4']
        for c in clients:
            c.close()
        browser.check()


def test_a_killed_worker_and_what_it_said(browser):
    """Its last words, a route and an error of a reload are text, whatever stands in them."""
    route = '/<img/src=x/onerror=window.pwned=1>'
    with Page('[web]\nroutes = * %s\ncmd = %s\nworkers = 2\n' % (route, counter())) as p:
        browser.open(p.url)
        page = browser.see(lambda s: len(s['groups']['web']['rows']) == 2)
        assert route in page['groups']['web']['routes']
        victim = p.info()['pid']
        p.get('/x?hex=' + HOSTILE.encode().hex(), 'print')
        said = p.wait_status(lambda s: any(HOSTILE in w['last_lines'] for w in s['groups'][0]['workers']))
        pid = next(w['pid'] for w in said['groups'][0]['workers'] if HOSTILE in w['last_lines'])
        assert pid in p.pids() and victim in p.pids()
        browser.js('window.polls = performance.getEntriesByType("resource").length')
        wait_for(lambda: browser.js('return performance.getEntriesByType("resource").length > window.polls + 1'), SECONDS)
        os.kill(pid, signal.SIGKILL)
        page = browser.see(lambda s: s['groups']['web']['exits'] and s['groups']['web']['items']['Workers'][0] == '2 of 2'
                           and s['groups']['web']['items']['Restarts'][0] == '1')
        (summary, lines), = page['groups']['web']['exits']
        assert re.fullmatch(r'Worker \d ended \d+ s ago: killed by signal 9 \(SIGKILL\).*', summary)
        assert HOSTILE in lines
        browser.js('document.querySelector("details:not([hidden])").open = true')
        browser.see(lambda s: s['groups']['web']['exits'][0][0] != summary)      # a later turn: it stays open
        assert browser.js('return document.querySelectorAll("details[open]:not([hidden])").length') == 1
        assert str(pid) not in [r[1] for r in page['groups']['web']['rows']]

        p.write_config('<script>window.pwned=1</script> = 1\n' + p.config_text)
        code, _, body = p.admin('POST', '/reload', TOKEN)
        assert code == 409
        page = browser.see(lambda s: s['news'])
        assert page['news'].startswith('Reload failed at ') and '<script>window.pwned=1</script>' in page['news']
        assert page['top']['Last reload'][0] == 'failed' and page['top']['Last reload'][2] == 'bad'
        browser.check()


def test_it_comes_back_with_ldcorn(browser):
    with one_group() as p:
        browser.open(p.url)
        browser.see(lambda s: s['groups']['web']['items']['Workers'][0] == '1 of 1')
        for _ in range(3):
            p.get('/')
        old = p.pid
        browser.see(lambda s: s['groups']['web']['items']['Requests a second'][1].endswith(', 3 in all'))
        p.stop()
        page = browser.see(lambda s: s['lost'])
        assert re.match(r'Not reachable since \d+:\d\d:\d\d', page['lost']) and page['title'] == '(!) ldcorn'
        assert page['groups']['web']['items']['Requests a second'][1].endswith(', 3 in all')     # what was known last stays
        p.again()
        page = browser.see(lambda s: not s['lost'] and s['top']['Up'][1].endswith(', pid %d' % p.pid)
                           and s['groups']['web']['items']['Workers'][0] == '1 of 1')
        assert p.pid != old and page['title'] == 'ldcorn'
        p.get('/')
        # What was counted before is no part of the new numbers.
        page = browser.see(lambda s: s['groups']['web']['items']['Requests a second'][1].endswith(', 1 in all'))
        assert all(d.count('M') <= 1 and '-' not in d for d in page['groups']['web']['lines'].values())
        browser.check(r'/status - Failed to load resource: net::ERR_')


def test_a_time_without_an_answer(browser):
    """The page goes on where it was, with a gap in the lines instead of a line across it."""
    with one_group() as p:
        browser.open(p.url)
        browser.see(lambda s: 'L' in s['groups']['web']['lines']['Queue length'])
        os.kill(p.pid, signal.SIGSTOP)
        try:
            browser.see(lambda s: s['lost'].startswith('Not reachable since '))
        finally:
            os.kill(p.pid, signal.SIGCONT)
        browser.see(lambda s: not s['lost'] and s['groups']['web']['lines']['Queue length'].count('M') == 2)
        browser.check(r'/status - Failed to load resource: ')


def test_a_token_that_is_wanted(browser):
    """As where `admin` is not on loopback: the page is answered, /status is not."""
    with one_group() as p:
        with Client(p.admin_address) as c:
            r = c.ask('GET', '/', {'Host': 'localhost'})

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == '/' else 401)
            for name in ('Content-Type', 'Content-Security-Policy'):
                self.send_header(name, r.get(name))
            self.end_headers()
            self.wfile.write(r.body if self.path == '/' else b'no')

        def log_message(self, *_):
            pass
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.open('http://127.0.0.1:%d/' % server.server_port)
        page = browser.see(lambda s: s['lost'])
        assert page['lost'].startswith('401, a token is wanted since ')
        browser.check(r'/status - Failed to load resource: .* 401 ')
        server.shutdown()


# --- how it looks ---

def test_phone_and_contrast(browser):
    """Nothing is wider than a phone, and every text can be read on what is behind it, light and dark."""
    long = '/tmp/' + 'a-long-name-' * 7 + '.sock'
    groups = ('[a-group-with-a-name-that-is-long-for-a-phone]\nroutes = %s\nupstream = unix:%s\noptional = on\n'
              '[web]\nroutes = *\ncmd = %s\nworkers = 2\nmax_req_per_worker = 1\nqueue = 2\nqueue_timeout = 5m\n'
              % (' '.join('/%d%s' % (i, 'x' * 60) for i in range(4)), long, counter()))
    with Page(groups) as p:
        browser.open(p.url)
        browser.screen(375)
        browser.see(lambda s: len(s['groups']) == 2)
        p.get('/x?times=300&text=wide', 'print')
        pid = p.info()['pid']
        os.kill(pid, signal.SIGKILL)
        p.do('/groups/web/pause')
        clients = [p.connect().send(head('GET', '/x')) for _ in range(2)]
        browser.see(lambda s: s['groups']['web']['exits'] and s['groups']['web']['flag'] and
                    s['groups']['web']['items']['Queue'][2] == 'warn')
        browser.js('document.querySelectorAll("details").forEach(e => e.open = true)')
        for width in (320, 375, 1280):
            for dark in (False, True):
                browser.screen(width, dark=dark)
                wide = browser.js('return [document.documentElement.scrollWidth, document.body.scrollWidth]')
                assert max(wide) <= width, (width, wide)
                ratio, where = browser.js(CONTRAST)
                assert ratio >= 4.5, (width, dark, ratio, where)
        # In a usual table of workers nothing has to be scrolled on a phone; `starting` is wider than `ready`.
        browser.screen(375)
        browser.see(lambda s: s['groups']['web']['items']['Workers'][0] == '2 of 2' and
                    [r[2] for r in s['groups']['web']['rows']] == ['ready', 'ready'])
        assert browser.js('return [...document.querySelectorAll(".wide")].map(e => e.scrollWidth - e.clientWidth)')[1] == 0
        p.do('/groups/web/resume')
        for c in clients:
            assert c.read_response().status == 200
            c.close()
        browser.check()
