"""tools/ldconfig2ini.py: what the Python ldcorn's configuration becomes, and that ldcorn takes it."""
import os, re, shutil, subprocess, sys

import pytest
from harness import BIN, REPO, Finished, Proxy, _environ, free_port, make_dir, script

TOOL = os.path.join(REPO, 'tools', 'ldconfig2ini.py')
IMPORT = 'from ldcorn.config import LdConfig, WorkerGroup\n'


@pytest.fixture
def folder():
    path = make_dir({'bin/uvicorn': '#!/bin/sh\n'})
    os.chmod(path + '/bin/uvicorn', 0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def run(folder, text, *options, name='ldconfig.py', env=None):
    if text is not None:
        with open(os.path.join(folder, name), 'w') as f:
            f.write(text)
    if not env:
        done = script(TOOL, *options, name, cwd=folder, timeout=30)
        assert 'Traceback' not in done.err, done.err
        return done
    done = subprocess.run([sys.executable, TOOL, *options, name], cwd=folder, env=_environ(env), text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=30)
    assert 'Traceback' not in done.stderr, done.stderr
    return Finished(done.returncode, done.stdout, done.stderr)


def convert(folder, text, *options, warns='', **kw):
    """The result as {section: {key: value}} (None: above the first), its text, and what `ldcorn -t` says of it."""
    done = run(folder, text, *options, **kw)
    assert done.status == 0, done
    with open(folder + '/groups.ini', 'w') as f:
        f.write(done.out)
    env = _environ({'PATH': folder + '/bin:' + os.environ['PATH']})
    test = subprocess.run([BIN, '-t', 'groups.ini'], cwd=folder, env=env, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    assert test.returncode == 0, test.stdout + done.out
    said = test.stdout.replace('groups.ini: warning: no group has `*`: other paths get 404\n', '')
    said = re.sub(r'groups\.ini: warning: `max_conns` comes out as .*\n', '', said)     # this machine's descriptors
    assert ('warning' in said) == bool(warns) and warns in said, said
    found, section = {None: {}}, None
    for line in done.out.split('\n'):
        if line.startswith('['):
            section = line[1:-1]
            found[section] = {}
        elif line and not line.startswith('#'):
            key, _, value = line.partition(' = ')
            assert key not in found[section]
            found[section][key] = value
    return found, done.out


def config(groups, bind='bind="127.0.0.1:8000", '):
    return IMPORT + 'config = LdConfig(%sworkers=[%s])\n' % (bind, groups)


def group(**kw):
    return 'WorkerGroup(%s)' % ', '.join('%s=%r' % item for item in dict({'name': 'web', 'app': 'main:app'}, **kw).items())


# --- each setting ---

TWO = '''
from ldcorn.config import LdConfig, WorkerGroup

config = LdConfig(
    bind="127.0.0.1:8000",
    workers=[
        WorkerGroup(
            name="default",
            app="main:app",
            instances=3,
            max_req_per_worker=0,
            routes=["*"],
            reload_on_sighup=True,
            uvicorn_log_level="error",
            max_restarts_on_crash=3,
            restart_backoff_on_crash=2
        ),
        WorkerGroup(
            name="ml_heavy",
            app="main:app",
            instances=1,
            max_req_per_worker=100,
            routes=["/ml-pipeline", "/embed"],
            reload_on_sighup=False,
            uvicorn_log_level="error",
            max_restarts_on_crash=3,
            restart_backoff_on_crash=2
        )
    ]
)
'''


def test_a_usual_file(folder):
    found, text = convert(folder, TWO)
    top = found[None]
    assert top['listen'] == '127.0.0.1:8000' and top['app'] == 'main:app'
    assert top['cmd'] == 'uvicorn {app} --uds {socket} --log-level error' and top['backoff_max'] == '8s'
    assert found['default'] == {'routes': '*', 'workers': '3'}
    assert found['ml_heavy'] == {'routes': '/ml-pipeline* /embed*', 'workers': '1', 'max_req_per_worker': '100',
                                 'max_tunnels_per_worker': '100', 'queue': 'none', 'queue_timeout': 'none', 'reload': 'off'}
    assert [name for name in found if name] == ['default', 'ml_heavy']
    assert text.startswith('# From ldconfig.py, by ldconfig2ini.py') and 'trusted_proxies' not in text
    assert not re.search(r'[ \t]$', text, re.M) and max(map(len, text.split('\n'))) < 121


def test_what_was_not_limited_is_not(folder):
    found, text = convert(folder, config(group()))
    assert {k: found[None][k] for k in ('response_timeout', 'max_body', 'tunnel_timeout', 'drain_timeout')} == \
        dict.fromkeys(('response_timeout', 'max_body', 'tunnel_timeout', 'drain_timeout'), 'none')
    assert 'gives ldcorn\'s default' in text and 'queue' not in found['web']


def test_defaults(folder):
    found, text = convert(folder, IMPORT + 'config = LdConfig(workers=[WorkerGroup("web", "main:app")])\n')
    assert found[None]['listen'] == '0.0.0.0:8000' and '# trusted_proxies = ' in text
    assert found['web'] == {'app': 'main:app', 'cmd': 'uvicorn {app} --uds {socket} --log-level info', 'routes': '*',
                            'workers': '1', 'backoff_max': '8s', 'max_restarts': '8'}


@pytest.mark.parametrize('bind, listen, trust', [
    ('127.0.0.1:80', '127.0.0.1:80', False), ('localhost:8000', 'localhost:8000', False), (':8000', ':8000', True),
    ('0.0.0.0:1', '0.0.0.0:1', True), ('10.1.2.3:8000', '10.1.2.3:8000', True)])
def test_bind(folder, bind, listen, trust):
    found, text = convert(folder, config(group(), 'bind=%r, ' % bind))
    assert found[None]['listen'] == listen and ('# trusted_proxies = ' in text) == trust


def test_bind_to_a_name(folder):
    """A name that is known here becomes its address."""
    name = open('/proc/sys/kernel/hostname').read().strip()
    done = run(folder, config(group(), 'bind="%s:80", ' % name))
    if done.status == 0:
        assert re.search(r'# %s is ([\d.]+) here; names are not resolved\n(#.*\n)*listen = \1:80' % re.escape(name), done.out)
    done = run(folder, config(group(), 'bind="no.such.name.invalid:80", '))
    assert done.status == 1 and 'ldconfig.py:2: bind: no address is known for no.such.name.invalid' in done.err


@pytest.mark.parametrize('level, command', [
    ('warning', None), ('info', 'info'), ('trace', 'trace'), ('a b', "'a b'"), ('{x}', "'{{x}'"), ('${HOME}', "'$${{HOME}'")])
def test_log_level(folder, level, command):
    found, _ = convert(folder, config(group(uvicorn_log_level=level)))
    assert found['web'].get('cmd') == (command and 'uvicorn {app} --uds {socket} --log-level ' + command)
    if command:
        there = subprocess.run([BIN, '-T', 'groups.ini'], cwd=folder, stdout=subprocess.PIPE, text=True).stdout
        assert level.replace('{', '{{') in there.replace("'", '') or '$' in level


def test_uvicorn_of_a_virtualenv(folder):
    found, _ = convert(folder, config(group(uvicorn_log_level='warning')), '--uvicorn', '%s -m uvicorn' % sys.executable)
    assert found['web']['cmd'] == '%s -m uvicorn {app} --uds {socket} --log-level warning' % sys.executable


def test_groups_that_differ_say_so_themselves(folder):
    found, _ = convert(folder, config(group(name='a', app='one:app', routes=['/a'], uvicorn_log_level='warning') + ', ' +
                                      group(name='b', app='two:app', uvicorn_log_level='debug')))
    assert 'app' not in found[None] and 'cmd' not in found[None]
    assert found['a']['app'] == 'one:app' and 'cmd' not in found['a']
    assert found['b']['app'] == 'two:app' and found['b']['cmd'].endswith('--log-level debug')


@pytest.mark.parametrize('n, workers', [(4096, '4096'), (4097, '4096'), (10 ** 12, '4096')])
def test_more_workers_than_there_can_be(folder, n, workers):
    found, text = convert(folder, config(group(instances=n)))
    assert found['web']['workers'] == workers
    note = '# there were %d instances; ldcorn takes at most 4096\nworkers = 4096\n' % n
    assert (note in text) == (n > 4096) and text.count('instances') == (n > 4096)


@pytest.mark.parametrize('limit, said', [(0, None), (-3, None), (1, '1'), (50, '50')])
def test_max_req_per_worker(folder, limit, said):
    found, _ = convert(folder, config(group(max_req_per_worker=limit)))
    assert found['web'].get('max_req_per_worker') == found['web'].get('max_tunnels_per_worker') == said
    assert found['web'].get('queue') == found['web'].get('queue_timeout') == (said and 'none')


@pytest.mark.parametrize('n, backoff, longest, same', [
    (3, 2, '8s', 8), (1, 0.5, '500ms', 3), (5, 1, '16s', 9), (0, 2, None, 0), (-1, 2, None, 0), (2, 0, '100ms', 2),
    (1, 0.01, '100ms', 1)])
def test_restarts(folder, n, backoff, longest, same):
    """The pauses begin at 100 ms here: so many restarts that a worker is given up after as long."""
    found, text = convert(folder, config(group(max_restarts_on_crash=n, restart_backoff_on_crash=backoff)))
    assert found['web'].get('backoff_max') == longest and found['web']['max_restarts'] == str(same), text
    assert ('gives up after about the same time' in text) == (same > max(n, 0))


def test_reload(folder):
    found, _ = convert(folder, config(group(name='a', reload_on_sighup=False, routes=['/a']) + ',' + group(reload_on_sighup=True)))
    assert found['a']['reload'] == 'off' and 'reload' not in found['web'] and 'reload' not in found[None]


# --- routes ---

@pytest.mark.parametrize('there, here, note', [
    (['/ws', '/counter'], '/ws* /counter*', ''), (['/'], '/', ''), (['/a', '*'], '/a* *', ''),
    (['/a b'], '"/a b*"', ''), (["/it's"], '"/it\'s*"', ''), (['/x${HOME}'], '/x$${HOME}*', ''), (['/é'], '/é*', ''),
    (['/api/premium/*'], '/api/premium/*', 'the `*` of /api/premium/* was a plain character'),
    (['/ws/'], '/ws/*', '/ws/ alone went to the fallback'), (['/ok', 'api'], '/ok*', 'no path ever began with it: api'),
    (['/ok', '/a/../b'], '/ok*', '/a/../b'), (['/ok', '/a?b'], '/ok*', '/a?b'), (['/ok', '/*/x'], '/ok*', '/*/x'),
    (['/ok', '/a#b'], '/ok*', '/a#b'), (['/ok', '/a\nb'], '/ok*', '/a\\nb'), (['/ok', '//a'], '/ok*', '//a')], ids=str)
def test_routes(folder, there, here, note):
    found, text = convert(folder, config(group(routes=there)))
    assert found['web']['routes'] == here and note in text


def test_no_route_that_could_be_taken(folder):
    found, text = convert(folder, config(group(name='a', routes=['a']) + ', ' + group()), warns='[a] has no routes')
    assert 'routes' not in found['a'] and 'no path ever began with it: a' in text


def test_the_last_fallback_counts(folder):
    found, text = convert(folder, config(group(name='a') + ', ' + group(name='b', routes=['*', '/b']) + ', ' + group(name='c')),
                          warns='[a] has no routes')
    assert 'routes' not in found['a'] and found['b']['routes'] == '/b*' and found['c']['routes'] == '*'
    assert text.count('the last one, [c], gets') == 2


# Where the Python ldcorn sent such a path, by its own rule: str.startswith on the decoded and resolved path, longest first.
REAL = [('/ws', 'ws'), ('/wsx', 'ws'), ('/ws/deep', 'ws'), ('/w', 'web'), ('/', 'web'), ('/api/x', 'api'), ('/apix', 'api'),
        ('/api/ml/x', 'ml'), ('/api/mlx', 'ml'), ('/%77s', 'ws'), ('/tie', 'api'), ('/a%20b/c', 'api')]


def test_paths_go_where_they_went(folder):
    """The converted file, asked through the real program."""
    text = config(', '.join([group(name='api', routes=['/api', '/tie', '/a b']), group(name='ws', routes=['/ws', '/tie']),
                             group(name='ml', routes=['/api/ml']), group(routes=['*'])]))
    _, made = convert(folder, text, warns='stands twice')
    made = made.replace('listen = 127.0.0.1:8000', 'listen = {listen}\nadmin = {admin}')
    made = re.sub('(?m)^cmd = .*', 'cmd = %s {app} {socket}' % sys.executable, made)
    with Proxy(made, wait=False) as p:
        p.wait_log('admin')
        for path, name in REAL:
            from urllib.parse import quote
            code, _, body = p.admin('GET', '/route?target=' + quote(path, ''))
            assert code == 200 and ('"group":"%s"' % name).encode() in body, (path, body)
        p.proc.kill()
        p.proc.wait()
        p.expect_status = -9


def test_it_runs(folder):
    """With a real uvicorn, where there is one."""
    if not shutil.which('uvicorn'):
        pytest.skip('uvicorn is not there')
    port = free_port()
    _, made = convert(folder, config(group(instances=2, max_req_per_worker=3), 'bind="127.0.0.1:%d", ' % port))
    app = '''async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})
'''
    with Proxy(made, port=port, files={'main.py': app}, start_timeout=30) as p, p.connect() as c:
        assert c.ask('GET', '/').body == b'hello'


# --- Python ---

FORMS = {
    'by place': IMPORT + 'config = LdConfig("127.0.0.1:8000", [WorkerGroup("web", "main:app", 2, 5, ["/a"], False)])',
    'module': 'import ldcorn.config as c\nconfig = c.LdConfig(bind="127.0.0.1:8000", workers=[c.WorkerGroup(name="web", '
              'app="main:app", instances=2, max_req_per_worker=5, routes=["/a"], reload_on_sighup=False)])',
    'dotted': 'import ldcorn.config\nG = ldcorn.config.WorkerGroup\nconfig = ldcorn.config.LdConfig(bind="127.0.0.1:8000", '
              'workers=[G("web", "main:app", 2, 5, ["/a"], False)])',
    'package': 'from ldcorn import config as c\nconfig = c.LdConfig("127.0.0.1:8000", [c.WorkerGroup("web", "main:app", 2, 5, '
               '["/a"], False)])',
    'loop': IMPORT + 'groups = []\nfor n in (2,):\n    groups.append(WorkerGroup(name="web", app="main:app", instances=n, '
            'max_req_per_worker=5, routes=["/" + c for c in "a"], reload_on_sighup=not n))\n'
            'config = LdConfig(bind="127.0.0.1:8000", workers=groups)',
    'later': IMPORT + 'config = LdConfig(workers=[WorkerGroup("web", "x:app")])\nconfig.bind = "127.0.0.1:8000"\n'
             'w = config.workers[0]\nw.app, w.instances, w.max_req_per_worker = "main:app", 2, 5\nw.routes = ["/a"]\n'
             'w.reload_on_sighup = False',
    'replace': IMPORT + 'import dataclasses\nbase = WorkerGroup("base", "main:app", 1, 5, ["/a"], False)\n'
               'config = LdConfig("127.0.0.1:8000", [dataclasses.replace(base, name="web", instances=2)])',
    'derived': IMPORT + 'class Mine(WorkerGroup):\n    pass\n'
               'config = LdConfig("127.0.0.1:8000", [Mine("web", "main:app", 2, 5, ["/a"], False)])',
    'another file': 'from base import *\nconfig = LdConfig("127.0.0.1:8000", [make(2)])',
    'noisy': IMPORT + 'print("listen = oops")\nconfig = LdConfig("127.0.0.1:8000", [WorkerGroup("web", "main:app", 2, 5, ["/a"], '
             'False)])\nif __name__ == "__main__": raise SystemExit',
}


@pytest.mark.parametrize('form', FORMS)
def test_forms(folder, form):
    with open(folder + '/base.py', 'w') as f:
        f.write(IMPORT + 'def make(n):\n    return WorkerGroup("web", "main:app", n, 5, ["/a"], False)\n')
    found, text = convert(folder, FORMS[form] + '\n')
    assert found[None]['listen'] == '127.0.0.1:8000' and 'oops' not in text
    web = found['web']
    assert (web['app'], web['workers'], web['max_req_per_worker'], web['routes'], web['reload']) == \
        ('main:app', '2', '5', '/a*', 'off')


def test_from_elsewhere(folder):
    """Its own directory is the first place of imports, wherever it is called."""
    os.mkdir(folder + '/deep')
    with open(folder + '/deep/settings.py', 'w') as f:
        f.write('N = 7\n')
    found, text = convert(folder, IMPORT + 'import settings, os\nassert os.path.isabs(__file__)\n'
                          'config = LdConfig(workers=[WorkerGroup("web", "main:app", settings.N)])\n', name='deep/ld.py')
    assert found['web']['workers'] == '7' and '# it was computed: settings.N\nworkers = 7' in text


def test_computed_values_are_said(folder):
    _, text = convert(folder, IMPORT + 'import os\nN = 3\nconfig = LdConfig(bind="127.0.0.1:" + os.environ.get("PORT", "80"),\n'
                      '    workers=[WorkerGroup(name="web", app=os.environ["APP"], instances=os.cpu_count(),\n'
                      '        max_req_per_worker=N * 2,\n        routes=["/a"])])\n', env={'APP': 'some:app', 'PORT': '81'})
    for line in ('# it was computed: "127.0.0.1:" + os.environ.get("PORT", "80")\nlisten = 127.0.0.1:81',
                 '# it was computed: os.environ["APP"]\napp = some:app', '# it was computed: os.cpu_count()\n# `workers = auto`',
                 '# it was computed: N * 2\nmax_req_per_worker = 6'):
        assert line in text, text
    assert text.count('computed') == 4


def test_no_equivalent(folder):
    """Arguments of other versions, and attributes that somebody added."""
    _, text = convert(folder, IMPORT + 'config = LdConfig(workers=[WorkerGroup("web", "main:app", colour="red")], hooks=[1])\n'
                      'config.workers[0].note = "a\\nb"\n')
    assert "# there is no equivalent for colour = 'red'" in text and "# there is no equivalent for hooks = [1]" in text
    assert "# there is no equivalent for note = 'a\\nb'" in text


# --- what is refused, with its line ---

ERRORS = {
    'no config': ('x = 1\n', 'ldconfig.py: it does not leave an LdConfig in the variable `config`'),
    'another config': ('config = {"bind": ":8000"}\n', 'it does not leave an LdConfig'),
    'syntax': ('x = 1\nconfig = LdConfig(\n', 'ldconfig.py:2: '),
    'exception': (IMPORT + 'x = 1 // 0\n', 'ldconfig.py:2: ZeroDivisionError'),
    'exit': (IMPORT + '\nraise SystemExit(3)\n', 'ldconfig.py:3: SystemExit: 3'),
    'import': ('import os\nimport no_such_module_here\n', "ldconfig.py:2: ModuleNotFoundError: No module named 'no_such_module_here'"),
    'part of the package': ('from ldcorn.proxy import LdcornProxy\n', "ldconfig.py:1: ModuleNotFoundError: No module named 'ldcorn.proxy'"),
    'name of the package': ('from ldcorn.config import Nothing\n', 'ldconfig.py:1: ImportError: cannot import name'),
    'no name': (IMPORT + 'config = LdConfig(workers=[\n    WorkerGroup(app="a:b")])\n', 'ldconfig.py:3: TypeError'),
    'no groups': (config(''), 'ldconfig.py:2: workers must be a list'),
    'no group': (config('1'), 'ldconfig.py:2: in workers there is 1'),
    'bad name': (config(group(name='a b')), "ldconfig.py:2: name is 'a b'; 1 to 63 letters"),
    'long name': (config(group(name='a' * 64)), 'ldconfig.py:2: name is'),
    'twice': (config(group() + ',\n' + group()), "ldconfig.py:3: a second group with the name 'web'"),
    'bad app': (config(group(app='')), "ldconfig.py:2: app is ''"),
    'bad app 2': (config(group(app=None)), 'ldconfig.py:2: app is None'),
    'bad instances': (config(group(instances=0)), 'ldconfig.py:2: instances is 0; it must be a number from 1 on'),
    'bad instances 2': (config(group(instances='4')), "ldconfig.py:2: instances is '4'"),
    'bad limit': (config(group(max_req_per_worker=None)), 'ldconfig.py:2: max_req_per_worker is None; it must be a number'),
    'bad routes': (config(group(routes='/a')), "ldconfig.py:2: routes is '/a'; it must be a list of paths"),
    'empty route': (config(group(routes=['/a', ''])), 'ldconfig.py:2: routes is'),
    'bad bind': (config(group(), 'bind="8000", '), "ldconfig.py:2: bind is '8000'; it must be like 127.0.0.1:8000"),
    'bad bind 2': (config(group(), 'bind="[::1]:80", '), "ldconfig.py:2: bind is '[::1]:80'"),
    'bad level': (config(group(uvicorn_log_level=3)), 'ldconfig.py:2: uvicorn_log_level is 3'),
    'bad restarts': (config(group(max_restarts_on_crash=1.5)), 'ldconfig.py:2: max_restarts_on_crash is 1.5'),
    'endless backoff': (config('WorkerGroup("web", "a:b", restart_backoff_on_crash=float("inf"))'),
                        'ldconfig.py:2: restart_backoff_on_crash is inf'),
    'bad backoff': (config(group(restart_backoff_on_crash='2s')), "ldconfig.py:2: restart_backoff_on_crash is '2s'"),
}


@pytest.mark.parametrize('name', ERRORS)
def test_errors(folder, name):
    text, says = ERRORS[name]
    done = run(folder, text)
    assert done.status == 1 and not done.out and done.err.startswith('ldconfig2ini: ') and says in done.err, done


def test_usage(folder):
    assert run(folder, None, '--frob').status == 2
    done = run(folder, None, name='nothing.py')
    assert done.status == 1 and 'cannot read nothing.py: No such file' in done.err
    assert run(folder, None, '--help').out.startswith('usage: ldconfig2ini.py')
