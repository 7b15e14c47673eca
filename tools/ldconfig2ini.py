#!/usr/bin/env python3
"""Turns the ldconfig.py of the Python ldcorn (0.1) into a groups.ini, on stdout.

usage: ldconfig2ini.py [--uvicorn COMMAND] ldconfig.py >groups.ini

The Python ldcorn need not be installed. Its configuration is a Python module that leaves an LdConfig in
the variable `config`; it is run here as there, with its own directory first in sys.path:

    from ldcorn.config import LdConfig, WorkerGroup
    config = LdConfig(bind='127.0.0.1:8000', workers=[WorkerGroup(name='web', app='main:app'), ...])

How the two come about does not matter: arguments by place or by name, loops, functions, variables of the
environment, other modules, attributes set later, dataclasses.replace(). What a value was computed from is
said in a comment, because only its present value is written. LdConfig takes bind and workers. WorkerGroup
takes name, app, instances, max_req_per_worker, routes, reload_on_sighup, uvicorn_log_level,
max_restarts_on_crash and restart_backoff_on_crash. Other arguments become comments. No other part of the
ldcorn package is there: what imports one, and whatever the Python ldcorn would refuse, is an error with
its line. What differs between the two programs is said in comments where it matters.

--uvicorn: what starts the workers, such as '/srv/app/.venv/bin/python -m uvicorn'; default `uvicorn`.
Exit status: 0 written, 1 not understood, 2 wrong usage.
"""
import argparse, ast, contextlib, dataclasses, os, re, shlex, socket, sys, traceback, types


class Wrong(Exception):
    pass


# --- the Python ldcorn's side ---

def caller():
    """File and line outside of this program and of the machinery of classes."""
    frame = sys._getframe(1)
    while frame and frame.f_code.co_filename in (__file__, dataclasses.__file__, '<string>'):
        frame = frame.f_back
    return (frame.f_code.co_filename, frame.f_lineno) if frame else ('?', 0)


def recorded(cls):
    """A dataclass whose objects also know where they were made, and arguments that it does not know."""
    made = cls.__init__
    known = [f.name for f in dataclasses.fields(cls)]

    def init(self, *args, **kw):
        unknown = {k: kw.pop(k) for k in list(kw) if k not in known}
        made(self, *args, **kw)
        self.__dict__.update(unknown)
        self.made_at = caller()
    cls.__init__ = init
    return cls


@recorded
@dataclasses.dataclass
class WorkerGroup:
    name: str
    app: str
    instances: int = 1
    max_req_per_worker: int = 0
    routes: list = dataclasses.field(default_factory=lambda: ['*'])
    reload_on_sighup: bool = True
    uvicorn_log_level: str = 'info'
    max_restarts_on_crash: int = 3
    restart_backoff_on_crash: float = 2.0


@recorded
@dataclasses.dataclass
class LdConfig:
    bind: str = '0.0.0.0:8000'
    workers: list = dataclasses.field(default_factory=list)


def load(path):
    """Run the module; -> its LdConfig and its source."""
    try:
        with open(path, 'rb') as f:
            source = f.read()
    except OSError as e:
        raise Wrong('cannot read %s: %s' % (path, e.strerror)) from None
    package, config = types.ModuleType('ldcorn'), types.ModuleType('ldcorn.config')
    package.__path__, package.config = [], config
    for where in (package, config):
        where.LdConfig, where.WorkerGroup = LdConfig, WorkerGroup
    module = types.ModuleType('ldcorn_user_config')
    module.__file__ = os.path.abspath(path)
    sys.modules.update({'ldcorn': package, 'ldcorn.config': config, module.__name__: module})
    sys.path.insert(0, os.path.dirname(module.__file__))
    try:
        with contextlib.redirect_stdout(sys.stderr):         # what it prints is not part of the result
            exec(compile(source, path, 'exec', dont_inherit=True), module.__dict__)
    except SyntaxError as e:
        raise Wrong('%s:%s: %s' % (e.filename, e.lineno, e.msg)) from None
    except (Exception, SystemExit) as e:
        lines = [f.lineno for f in traceback.extract_tb(e.__traceback__) if f.filename == path]
        raise Wrong('%s:%s: %s: %s%s' % (
            path, lines[-1] if lines else 0, type(e).__name__, e, '\n  install it here, or take it out of a copy'
            if isinstance(e, ImportError) else '')) from None
    if not isinstance(getattr(module, 'config', None), LdConfig):
        raise Wrong('%s: it does not leave an LdConfig in the variable `config`' % path)
    return module.config, source.decode('utf-8-sig', 'replace')


def check(c):
    """What the Python ldcorn checks, and what it would fail with later."""
    def need(truth, at, text, *values):
        if not truth:
            raise Wrong('%s:%d: ' % at + text % values)
    need(isinstance(c.bind, str) and re.fullmatch(r'[^:\s]*:\d{1,5}', c.bind), c.made_at,
         'bind is %r; it must be like 127.0.0.1:8000', c.bind)
    need(isinstance(c.workers, (list, tuple)) and c.workers, c.made_at, 'workers must be a list with a WorkerGroup')
    seen = set()
    for g in c.workers:
        need(isinstance(g, WorkerGroup), c.made_at, 'in workers there is %r, which is no WorkerGroup', g)
        need(isinstance(g.name, str) and re.fullmatch(r'[a-zA-Z0-9_-]{1,63}', g.name), g.made_at,
             'name is %r; 1 to 63 letters, digits, - and _ are allowed', g.name)
        need(g.name not in seen, g.made_at, 'a second group with the name %r', g.name)
        seen.add(g.name)
        need(isinstance(g.app, str) and g.app.strip() and '\n' not in g.app, g.made_at,
             'app is %r; it must be like main:app', g.app)
        for key, least in (('instances', 1), ('max_req_per_worker', None), ('max_restarts_on_crash', None)):
            value = getattr(g, key)
            need(type(value) is int and (least is None or value >= least), g.made_at, '%s is %r; it must be a number%s',
                 key, value, '' if least is None else ' from %d on' % least)
        need(isinstance(g.restart_backoff_on_crash, (int, float)) and abs(g.restart_backoff_on_crash) < 1e6, g.made_at,
             'restart_backoff_on_crash is %r; it must be a number of seconds', g.restart_backoff_on_crash)
        need(isinstance(g.routes, list) and g.routes and all(isinstance(r, str) and r for r in g.routes), g.made_at,
             'routes is %r; it must be a list of paths', g.routes)
        need(isinstance(g.uvicorn_log_level, str), g.made_at, 'uvicorn_log_level is %r; it must be a word',
             g.uvicorn_log_level)


def computed(source, path):
    """{line of a call: {argument: its text}} of arguments that are not written as constants."""
    names = {'LdConfig': LdConfig, 'WorkerGroup': WorkerGroup}
    out = {}
    for node in ast.walk(ast.parse(source, path)):
        name = getattr(node, 'func', None)
        name = getattr(name, 'id', None) or getattr(name, 'attr', None)
        if not isinstance(node, ast.Call) or name not in names:
            continue
        fields = [f.name for f in dataclasses.fields(names[name])]
        given = dict(zip(fields, node.args), **{k.arg: k.value for k in node.keywords if k.arg})
        for key, value in given.items():
            try:
                ast.literal_eval(value)
            except ValueError:
                text = ast.get_source_segment(source, value) or ''
                if key != 'workers' and not isinstance(value, ast.Starred):
                    out.setdefault(node.lineno, {})[key] = ' '.join(text.split())
    return out


# --- the other side ---

def literal(text):
    """A value as it stands: `${` is not a variable."""
    return text.replace('${', '$${')


def word(text):
    if re.search(r'[\s"\']', text):
        text = '"%s"' % text if '"' not in text else "'%s'" % text
    return literal(text)


def seconds(s):
    return '%ds' % s if s == int(s) else '%dms' % round(s * 1000)


def listen(c):
    host, _, port = c.bind.rpartition(':')
    notes = []
    if host and host != 'localhost' and not re.fullmatch(r'[\d.]+', host):
        try:
            address = socket.gethostbyname(host)
        except OSError:
            raise Wrong('%s:%d: bind: no address is known for %s; write its address' % (c.made_at + (host,))) from None
        notes.append('%s is %s here; names are not resolved' % (host, address))
        host = address
    if not (host == 'localhost' or host.startswith('127.')):
        notes += ['X-Forwarded-* of a proxy in front is believed only if its address is named here:',
                  'trusted_proxies = 10.0.0.2']
    return '%s:%s' % (host, port), notes


def routes(g, fallback):
    """-> words, comments. Paths were compared with str.startswith, after decoding and resolving dots."""
    words, notes = [], []
    for r in g.routes:
        if r == '*':
            if g is fallback:
                words.append('*')
            else:
                notes.append('`*` was in several groups: the last one, [%s], gets what no route takes' % fallback.name)
            continue
        if r.endswith('*') and r.count('*') == 1 and r.startswith('/'):
            notes.append('the `*` of %s was a plain character there and matched nothing' % r)
            r = r[:-1]
        elif r.endswith('/') and r != '/':
            notes.append('%s alone went to the fallback, it comes here now' % r)
        if not r.startswith('/') or re.search(r'[*?#\n]|//|(^|/)\.\.?(/|$)', r) or ('"' in r and "'" in r):
            notes.append('left out, no path ever began with it: %s' % r.encode('unicode_escape').decode())
        else:
            words.append('/' if r == '/' else word(r + '*'))
    return words, notes


def group(g, fallback, was):
    """-> [(key, value, comments)]"""
    def say(key, value, *notes):
        out.append((key, value, list(notes) + ['it was computed: ' + was[n] for n in NAMES.get(key, ()) if n in was]))
        if key == 'workers' and 'cpu_count' in was.get('instances', ''):
            out[-1][2].append('`workers = auto` goes by the processors')
    out = []
    say('app', literal(g.app.strip()))
    say('level', g.uvicorn_log_level)
    words, notes = routes(g, fallback)
    say('routes', ' '.join(words), *notes)
    say('workers', str(min(g.instances, MOST)),
        *(['there were %d instances; ldcorn takes at most %d' % (g.instances, MOST)] if g.instances > MOST else []))
    if g.max_req_per_worker > 0:
        say('max_req_per_worker', str(g.max_req_per_worker))
        say('max_tunnels_per_worker', str(g.max_req_per_worker),
            'WebSockets took the place of a request as long as they lasted; they are counted apart here')
        say('queue', 'none', 'any number waited for any time; ldcorn has 1024 and 30s where these lines are not there')
        say('queue_timeout', 'none')
    if not g.reload_on_sighup:
        say('reload', 'off')
    base, n = max(float(g.restart_backoff_on_crash), 0), max(g.max_restarts_on_crash, 0)
    pauses = [base * 2 ** i for i in range(min(n, 30))]
    longest, total, same, pause = max(pauses + [0.1]), 0.0, 0, 0.1
    while total < sum(pauses) and same < 1000:               # the first one 100 ms, each further one doubled
        total, same, pause = total + min(pause, longest), same + 1, pause * 2
    if n:
        say('backoff_max', seconds(longest))
    say('max_restarts', str(max(same, n)), *(
        ['restarts came after %s; the first pause is 100ms here, so this gives up after about the same time'
         % ' '.join(seconds(p) for p in pauses[:6])] if same > n else
        ['a worker that has lived for 30s is started again all the same'] if not n else []))
    for key, value in vars(g).items():
        if key not in KNOWN and key != 'made_at':
            say('', '', 'there is no equivalent for %s = %r' % (key, value))
    return out


NAMES = {'app': ('app', 'name'), 'level': ('uvicorn_log_level',), 'routes': ('routes',), 'workers': ('instances',),
         'max_req_per_worker': ('max_req_per_worker',), 'reload': ('reload_on_sighup',),
         'backoff_max': ('restart_backoff_on_crash',), 'max_restarts': ('max_restarts_on_crash',)}
MOST = 4096                                                  # what ldcorn takes as `workers`
KNOWN = [f.name for f in dataclasses.fields(WorkerGroup)]
ABOUT = '''\
From %s, by ldconfig2ini.py. Check it with `ldcorn -t`.
What is different for every group:
- A request goes to the worker with the fewest inside, not to the next in turn, and waits for any of them.
- A client that leaves gives back its place when the worker has answered, not before (client_abort).
- A path without a route gets 404, not 502; one that servers could read in two ways gets 400.
- uvicorn is the one in PATH: start ldcorn with the virtualenv active, or write its path into cmd.'''
UNBOUND = '''\
There were no limits of time and size behind the request head. These lines keep it so. Each one that you
remove gives ldcorn's default, which is safer: an answer may pause for 60s, a body has 64M at most, a
WebSocket may be idle for 1h, old workers have 1m for their last requests.'''


def write(c, source, path, uvicorn):
    lines, was = [], computed(source, path)

    def put(key, value, notes=()):
        lines.extend('# ' + re.sub(r'\s+', ' ', n) for n in notes)
        if key:
            lines.append('%s = %s' % (key, value))
    fallback = next((g for g in reversed(c.workers) if '*' in g.routes), None)
    said = {g.name: group(g, fallback, was.get(g.made_at[1], {}) if g.made_at[0] == path else {}) for g in c.workers}
    # What all groups say alike stands once, above them.
    common = [row for row in said[c.workers[0].name] if row[0] not in ('', 'routes', 'workers')
              and all(row in rows for rows in said.values()) and len(said) > 1]

    def rows(chosen):
        for key, value, notes in chosen:
            if key == 'level' and value == 'warning' and uvicorn == 'uvicorn':
                continue                                     # what `app` alone means
            if key == 'level':
                start, value = (literal(text.replace('{', '{{')) for text in (uvicorn, shlex.quote(value)))
                key, value = 'cmd', '%s {app} --uds {socket} --log-level %s' % (start, value)
            put(key if value else '', value, notes)
    for line in (ABOUT % path).split('\n'):
        lines.append('# ' + line)
    lines.append('')
    address, notes = listen(c)
    at = was.get(c.made_at[1], {}) if c.made_at[0] == path else {}
    put('listen', address, (['it was computed: ' + at['bind']] if 'bind' in at else []) + notes)
    for key, value in vars(c).items():
        if key not in ('bind', 'workers', 'made_at'):
            put('', '', ['there is no equivalent for %s = %r' % (key, value)])
    rows(common)
    lines.extend([''] + ['# ' + line for line in UNBOUND.split('\n')])
    for key in ('response_timeout', 'max_body', 'tunnel_timeout', 'drain_timeout'):
        put(key, 'none')
    for g in c.workers:
        lines.extend(['', '[%s]' % g.name])
        rows([row for row in said[g.name] if row not in common])
    return '\n'.join(lines) + '\n'


def main(argv):
    p = argparse.ArgumentParser('ldconfig2ini.py', description=__doc__.split('\n')[0], allow_abbrev=False)
    p.add_argument('--uvicorn', default='uvicorn', metavar='COMMAND', help='what starts the workers')
    p.add_argument('file', metavar='ldconfig.py')
    o = p.parse_args(argv)
    try:
        config, source = load(o.file)
        check(config)
        sys.stdout.write(write(config, source, o.file, o.uvicorn))
    except Wrong as e:
        print('ldconfig2ini: %s' % e, file=sys.stderr)
        return 1


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
