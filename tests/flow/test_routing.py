"""Which group gets a request: the documented table, every form of route, ties, and what is refused."""
import pytest
from harness import AutoWorker, Proxy, answer


def groups(workers, *sections):
    """Config text for (name, routes) pairs, one worker each."""
    return 'listen = {listen}\nadmin = {admin}\n' + ''.join(
        '[%s]\nroutes = %s\nupstream = %s\n' % (name, routes, w.address) for (name, routes), w in zip(sections, workers))


class Setup:
    """A proxy whose groups each have a worker that answers with the group's name and the target it saw."""

    def __init__(self, *sections):
        self.workers = [AutoWorker(lambda r, c, n=name: answer('%s %s' % (n, r.target))) for name, _ in sections]
        self.proxy = Proxy(groups(self.workers, *sections))

    def close(self):
        self.proxy.__exit__(None, None, None)
        for w in self.workers:
            w.close()

    def ask(self, target, method='GET'):
        """-> the group's name (with the target checked to be unchanged), or the status that refused it."""
        before = sum(len(w.requests) for w in self.workers)
        with self.proxy.connect() as c:
            r = c.ask(method, target)
        if r.status != 200:
            assert sum(len(w.requests) for w in self.workers) == before, 'a refused request reached a worker'
            return r.status
        name, seen = r.body.decode('latin-1').split(' ', 1)
        assert seen == target, 'the worker gets the client\'s bytes unchanged'
        return name


def fixture(*sections):
    @pytest.fixture(scope='module')
    def setup():
        s = Setup(*sections)
        yield s
        s.close()
    return setup


table = fixture(('api', '/api'), ('ml', '/api/ml'), ('rest', '*'))
# In the worst order: what must win stands last.
forms = fixture(('rest', '*'), ('slash', '/deep'), ('deeper', '/deep/er'), ('plain', '/img*'), ('seg', '/imgs/big'),
                ('pre', '/same'), ('exact', '=/same'), ('only', '=/only'), ('two', '/two1 /two2'),
                ('dup', '/first'), ('dup2', '/first'))
strict = fixture(('a', '/a'), ('b', '=/b'))
root = fixture(('root', '/'), ('a', '/a'))


@pytest.mark.parametrize('target, want', [
    ('/apix', 'rest'), ('/API', 'rest'), ('/api;v=1', 'rest'),
    ('/%61pi/y', 'api'), ('//api/y', 'api'),
    ('/api//ml/z', 'ml'), ('/api/ml%2fz', 'ml'), ('/api%2fml/z', 'ml'), ('/api%2Fml/z', 'ml'),
    ('/api/../x', 400), ('/api/%2e%2e/x', 400), ('/x/%2e%2e/api/ml', 400),
    ('/x/../y', 'rest'), ('/api/./y', 'api'),
    # the same rules, further
    ('/', 'rest'), ('/api', 'api'), ('/api/', 'api'), ('/api?x=1', 'api'), ('/api/ml', 'ml'), ('/api/mlx', 'api'),
    ('/api/ml?../../x', 'ml'), ('/api?a=/../..&b=%zz', 'api'), ('/%41PI', 'rest'), ('///api///', 'api'),
    ('/api%2f', 'api'), ('/%2fapi', 'api'), ('/api/x/../y', 'api'), ('/api/ml/../y', 400), ('/api/ml/.', 'ml'),
    ('/./api', 400), ('/api/.', 'api'), ('/api/...', 'api'), ('/api/..x', 'api'), ('/api/%2e', 'api'),
    ('/api/%2E%2E/x', 400), ('/api/.%2e/x', 400), ('/api%2f..%2fx', 400), ('/api/%252e%252e/x', 'api'),
    ('/..', 400), ('/../api', 400), ('/x/../../y', 400), ('/%2e%2e', 400), ('/api/../../x', 400), ('/x/..', 'rest'),
    ('/%', 400), ('/api/%z', 400), ('/api/%zz', 400), ('/api/%2', 400), ('/api/%00', 400), ('/%c3%a4', 'rest'),
])
def test_table(table, target, want):
    assert table.ask(target) == want


@pytest.mark.parametrize('target, want', [
    ('/deep', 'slash'), ('/deep/x', 'slash'), ('/deep/er', 'deeper'), ('/deep/er/x', 'deeper'), ('/deep/erx', 'slash'),
    ('/deeper', 'rest'),
    ('/img', 'plain'), ('/imgx', 'plain'), ('/img/x', 'plain'), ('/imgs/x', 'plain'), ('/imgs/big', 'seg'),
    ('/imgs/big/x', 'seg'), ('/imgs/bigger', 'plain'), ('/im', 'rest'),
    ('/same', 'exact'), ('/same?q', 'exact'), ('/%73ame', 'exact'), ('/same/x', 'pre'), ('/samex', 'rest'),
    ('/only', 'only'), ('/only/x', 'rest'), ('/onlyx', 'rest'), ('/only?x=1', 'only'),
    ('/two1', 'two'), ('/two2/x', 'two'), ('/two3', 'rest'),
    ('/first', 'dup'), ('/first/x', 'dup'),
])
def test_forms(forms, target, want):
    assert forms.ask(target) == want


def test_duplicates_are_warned_about_once_with_both_lines(forms):
    # The sections have three lines each, below two global ones.
    lines = [2 + 3 * i + 2 for i, name in enumerate('rest slash deeper plain seg pre exact only two dup dup2'.split())
             if name.startswith('dup')]
    found = [l for l in forms.proxy.log().splitlines() if '/first' in l and 'groups.ini:%d' % lines[1] in l]
    assert len(found) == 1 and str(lines[0]) in found[0], forms.proxy.log()


@pytest.mark.parametrize('target, want', [('/a', 'a'), ('/b', 'b'), ('/b/x', 404), ('/', 404), ('/c', 404),
                                          ('/a/../c', 400), ('/c/../d', 404)])
def test_without_a_fallback(strict, target, want):
    assert strict.ask(target) == want


@pytest.mark.parametrize('target, want', [('/', 'root'), ('/x', 'root'), ('/a', 'a'), ('/ax', 'root')])
def test_a_slash_takes_all(root, target, want):
    assert root.ask(target) == want


def test_options_star(table, strict):
    assert table.ask('*', 'OPTIONS') == 'rest'
    assert strict.ask('*', 'OPTIONS') == 404
    assert table.ask('*', 'GET') == 400


def test_a_404_leaves_the_connection_usable(strict):
    with strict.proxy.connect() as c:
        r = c.ask('GET', '/nothing')
        assert r.status == 404 and r.complete and r.get('x-request-id') and r.body.count(b'\n') <= 1
        assert c.ask('GET', '/a').body == b'a /a'


def test_absolute_form_is_routed_by_its_path(table):
    with table.proxy.connect() as c:
        assert c.ask('GET', 'http://elsewhere.example/api/ml/x').body == b'ml /api/ml/x'


def test_a_refused_path_says_why_in_the_access_log():
    w = AutoWorker()
    with w, Proxy('listen = {listen}\nadmin = {admin}\naccess_log = {dir}/access\nlog_format = json\n'
                  '[a]\nroutes = /a\nupstream = %s\n[b]\nroutes = *\nupstream = %s\n' % (w.address, w.address)) as p:
        with p.connect() as c:
            assert c.ask('GET', '/a/../x').status == 400
        assert p.wait_access(lambda r: r['status'] == 400)['reason'] == 'path'
        assert not w.requests
