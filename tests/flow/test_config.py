"""The configuration file and the command line: what is read, what is refused, and in which words."""
import os, re, signal, socket, time

import pytest
from harness import AutoWorker, Proxy, cli, free_port, request

# What stands before a line: in a file date, milliseconds and zone.
WHEN = r'(?:\d{4}-\d\d-\d\d[T ])?\d\d:\d\d:\d\d(?:[.,]\d{3} ?(?:[+-]\d\d:?\d\d|Z|UTC))?'
UP = 'upstream = 127.0.0.1:9\n'             # an address that nobody serves; nothing here connects to it
WEB = '[web]\nroutes = *\n' + UP


def check(config, *args, **kw):
    return cli(*args, '-t', 'groups.ini', config=config, **kw)


def accepted(config, **kw):
    run = check(config, **kw)
    assert run.status == 0, run
    return run


def refused(config, line, column=None, **kw):
    """-> the text; there must be an error at that place, and the caret under that column."""
    run = check(config, **kw)
    text = run.out + run.err
    assert run.status == 2, run
    match = re.search(r'^groups\.ini:%d:%s: .*\n +%d \| .*\n +\| ( *)\^' % (line, column or r'\d+', line), text, re.M)
    assert match, 'no error at %s:%s in\n%s' % (line, column, text)
    if column:
        assert len(match.group(1)) == column - 1, text
    return text


UNITS = {'ms': 1, 's': 1000, 'm': 60000, 'h': 3600000, 'd': 86400000}
SIZES = {'': 1, 'K': 1 << 10, 'M': 1 << 20, 'G': 1 << 30}


def plain(value):
    """'90s' and '1500ms' as milliseconds, '64K' as bytes, so that a test does not depend on the unit chosen."""
    if re.fullmatch(r'\d+(ms|[smhd])', value):
        return int(re.sub(r'\D', '', value)) * UNITS[re.sub(r'\d', '', value)]
    if re.fullmatch(r'\d+[KMG]?', value):
        return int(re.sub(r'\D', '', value)) * SIZES[re.sub(r'\d', '', value)]
    return value


def effective(config, *args, **kw):
    """-T as {(section or '', key): value}, origins cut off; a repeated key's values are joined."""
    run = cli(*args, '-T', 'groups.ini', config=config, **kw)
    assert run.status == 0, run
    section, out = '', {}
    for line in run.out.splitlines():
        if m := re.match(r'\[([\w-]+)\]', line):
            section = m.group(1)
        elif m := re.match(r'([a-z_]+) *= *(.*?)(?:\s+[#;].*)?$', line):
            key, value = (section, m.group(1)), m.group(2)
            out[key] = out[key] + ' ' + value if key in out else value
    return out


# --- errors, byte for byte ---

def test_two_errors_byte_for_byte():
    config = ('listen = 127.0.0.1:0\napp = main:app\n\n[web]\nroutes = *\n\n[ml]\nroutes = /ml\n'
              'queue_timout = 2m\nstart_timeout = 90\n')
    run = cli('groups.ini', config=config)
    assert run.status == 2
    assert run.err == (
        'groups.ini:9:1: unknown key `queue_timout` in [ml]\n'
        '   9 | queue_timout = 2m\n'
        '     | ^~~~~~~~~~~~ did you mean `queue_timeout`?\n'
        'groups.ini:10:17: `start_timeout` needs a unit\n'
        '  10 | start_timeout = 90\n'
        '     |                 ^~ write 90s (ms, s, m, h, d)\n'
        'groups.ini: 2 errors, nothing started\n')


def test_all_errors_come_in_one_run():
    config = 'lissten = :1\nlog_level = loud\n[web]\nroutes = *\nqueue = many\nmax_body = 3X\n' + UP
    run = cli('groups.ini', config=config)
    assert run.status == 2
    assert sorted(re.findall(r'^groups\.ini:(\d+):', run.err, re.M)) == ['1', '2', '5', '6']
    assert run.err.endswith('groups.ini: 4 errors, nothing started\n')


def test_one_error_is_counted_in_the_singular():
    run = cli('groups.ini', config='nonsense = 1\n' + WEB)
    assert run.status == 2 and run.err.endswith('groups.ini: 1 error, nothing started\n')


def test_unknown_key_that_is_near_nothing_gets_no_guess():
    text = refused('zzqqxxyy = 1\n' + WEB, 1, 1)
    assert 'unknown key `zzqqxxyy`' in text and 'did you mean' not in text


@pytest.mark.parametrize('old, new', [
    ('instances', 'workers'), ('reload_on_sighup', 'reload'), ('max_restarts_on_crash', 'max_restarts'),
    ('restart_backoff_on_crash', 'backoff_max'), ('limit_concurrency', 'max_req_per_worker'), ('threads', 'max_req_per_worker'),
    ('use_backend', 'routes')])
def test_names_of_older_systems_are_translated(old, new):
    assert '`%s`' % new in refused('[web]\nroutes = *\n%s%s = 1\n' % (UP, old), 4, 1)


def test_bind_of_older_systems_is_listen():
    assert '`listen`' in refused('bind = 127.0.0.1:8000\n' + WEB, 1, 1)


# --- grammar ---

def test_comments_blank_lines_bom_and_crlf():
    config = ('\ufeff# a comment\r\n; another\r\n\r\n  listen  =  127.0.0.1:8123  \r\n[web]\r\nroutes = /a /b\r\n'
              'upstream = 127.0.0.1:9\r\nqueue=7\r\nmax_req_per_worker = 1\r\n')
    got = effective(config)
    assert got['', 'listen'] == '127.0.0.1:8123'
    assert got['web', 'routes'] == '/a /b' and got['web', 'queue'] == '7'


def test_no_newline_at_the_end():
    assert effective('[web]\nroutes = *\nupstream = 127.0.0.1:9')['web', 'upstream'] == '127.0.0.1:9'


def test_continuation():
    assert effective('[web]\nroutes = /a \\\n  /b \\\n  /c\n' + UP)['web', 'routes'] == '/a /b /c'


def test_continuation_keeps_line_numbers_right():
    refused('[web]\nroutes = /a \\\n  /b\nqueue = x\n' + UP, 4, 9)


def test_hash_in_a_value_is_kept_and_warned_about():
    run = accepted('[web]\nroutes = *\ncmd = true {socket} #2\n')
    assert re.search(r'groups\.ini:3(:\d+)?: ', run.err + run.out), run


@pytest.mark.parametrize('text, line', [
    ('routes\n', 1), ('= 5\n', 1), ('[web\nroutes = *\n', 1), ('[we b]\nroutes = *\n', 1), ('[]\nroutes = *\n', 1),
    ('[web]\nroutes = *\nqueue =\n', 3), ('[web]\nroutes = *\nqueue 5\n', 3)])
def test_lines_that_are_nothing(text, line):
    refused(text + (UP if '[web]' in text else WEB), line)


def test_nul_byte_in_the_file():
    run = check('[web]\nroutes = *\nupstream = 127.0.0.1:9\0\n')
    assert run.status == 2, run


def test_a_file_without_a_group():
    run = check('listen = 127.0.0.1:0\n')
    assert run.status == 2 and 'group' in run.err, run


def test_a_group_with_nothing_to_run():
    assert check('[web]\nroutes = *\n').status == 2


def test_a_group_with_two_things_to_run():
    assert check('[web]\nroutes = *\ncmd = true {socket}\n' + UP).status == 2


def test_repeated_scalar_names_both_lines():
    text = refused('[web]\nroutes = *\nqueue = 1\n' + UP + 'queue = 2\n', 5)
    assert re.search(r'\b(line )?3\b', re.sub(r'(?m)^ .*', '', text)), text


def test_repeated_list_adds_up():
    assert effective('[web]\nroutes = /a\nroutes = /b /c\n' + UP)['web', 'routes'] == '/a /b /c'


def test_defaults_above_the_first_section():
    got = effective('queue = 7\nmax_req_per_worker = 2\nupstream = 127.0.0.1:9\n'
                    '[a]\nroutes = /a\n[b]\nroutes = /b\nqueue = 9\nupstream = 127.0.0.1:10 127.0.0.1:11\n'
                    '[c]\nroutes = /c\ncmd = run {socket}\n')
    assert [got[g, 'queue'] for g in 'abc'] == ['7', '9', '7']
    assert got['a', 'upstream'] == '127.0.0.1:9'
    assert got['b', 'upstream'] == '127.0.0.1:10 127.0.0.1:11', 'a list of the group replaces the default'
    assert got['c', 'cmd'] == 'run {socket}' and got.get(('c', 'upstream'), 'none') in ('none', '', '-')


def test_a_cmd_keeps_the_default_app():
    got = effective('app = main:app\n[web]\nroutes = *\ncmd = server {app} {socket}\n')
    assert got['web', 'app'] == 'main:app' and got['web', 'cmd'] == 'server {app} {socket}'


def test_routes_above_the_first_section_are_an_error():
    refused('routes = *\n' + WEB, 1, 1)


def test_global_key_in_a_group_is_an_error():
    refused(WEB + 'max_conns = 5\n', 4, 1)


def test_env_merges():
    got = effective('env = A=1 B=2\n[web]\nroutes = *\ncmd = x {socket}\nenv = B=3 C=4\n')['web', 'env']
    assert sorted(got.split()) == ['A=1', 'B=3', 'C=4']


# --- ${VAR} ---

def test_variables():
    got = effective('[web]\nroutes = ${A} /x${B:-y}/${C:-} /$${D}\nupstream = 127.0.0.1:${P:-9}\n',
                    env={'A': '/a', 'B': None, 'C': '', 'P': '77'})
    assert got['web', 'routes'] == '/a /xy/ /${D}' and got['web', 'upstream'] == '127.0.0.1:77'


def test_unset_variable_without_a_default():
    assert 'NOT_SET_HERE' in refused('[web]\nroutes = /${NOT_SET_HERE}\n' + UP, 2, 10, env={'NOT_SET_HERE': None})


def test_variables_expand_after_the_split_into_words():
    # Were it before, the value would become two routes instead of one that is wrong.
    refused('[web]\nroutes = /a ${TWO}\n' + UP, 2, 13, env={'TWO': 'b /c'})


@pytest.mark.parametrize('value', ['${A', '${}', '${1-}', '${A B}'])
def test_malformed_variables(value):
    assert check('[web]\nroutes = /x\ncmd = run %s {socket}\n' % value, env={'A': 'a'}).status == 2


# --- include ---

def test_include_is_relative_to_the_including_file():
    files = {'sub/main.ini': 'include = more/extra.ini\n' + WEB, 'sub/more/extra.ini': 'queue_timeout = 77s\n'}
    run = cli('-T', 'sub/main.ini', files=files)
    assert run.status == 0 and re.search(r'(?m)^queue_timeout *= *77s', run.out), run


def test_groups_may_stand_in_an_included_file():
    run = cli('-T', 'groups.ini', config='include = b.ini\n' + WEB, files={'b.ini': '[b]\nroutes = /b\n' + UP})
    assert run.status == 0 and '[b]' in run.out and '[web]' in run.out, run


@pytest.mark.parametrize('config, line', [
    (WEB + 'include = b.ini\n', 4),                 # below the first section
    ('include = missing.ini\n' + WEB, 1),
    ('include = *.ini\n' + WEB, 1)])                # no globs
def test_include_errors(config, line):
    refused(config, line, files={'b.ini': '\n'})


def test_include_is_one_level_deep():
    run = check('include = b.ini\n' + WEB, files={'b.ini': '\ninclude = c.ini\n', 'c.ini': ''})
    assert run.status == 2 and re.search(r'^b\.ini:2:\d+: ', run.err, re.M), run


def test_an_error_in_an_included_file_names_that_file():
    run = check('include = b.ini\n' + WEB, files={'b.ini': '\nnonsense = 1\n'})
    assert run.status == 2 and re.search(r'^b\.ini:2:1: unknown key `nonsense`', run.err, re.M), run


# --- types ---

@pytest.mark.parametrize('key, text, value', [
    ('queue_timeout', '250ms', 250), ('queue_timeout', '5s', 5000), ('queue_timeout', '2m', 120000),
    ('queue_timeout', '1h', 3600000), ('queue_timeout', '1d', 86400000), ('worker_keepalive', '0', 0),
    ('max_body', '64K', 65536), ('max_body', '8M', 8 << 20), ('max_body', '2G', 2 << 30), ('max_body', '1000', 1000),
    ('queue', '0', 0), ('queue', '5000', 5000), ('retries', '0', 0),
    ('max_body', 'none', 'none'), ('max_body', '0', 'none'), ('run_timeout', 'none', 'none'),
    ('max_req_per_worker', '0', 'none'), ('max_req_per_worker', 'none', 'none'), ('max_req_per_worker', '3', 3),
    ('client_abort', 'wait', 'wait'), ('on_timeout', 'close', 'close'), ('balance', 'least', 'least'),
    ('reload', 'off', 'off')])
def test_values(key, text, value):
    got = plain(effective(WEB + '%s = %s\n' % (key, text))['web', key])
    assert got == value or (value == 0 and got == '0')


def test_documented_defaults():
    got = effective(WEB)
    for key, value in {'backlog': 1024, 'header_timeout': 10000, 'body_timeout': 30000, 'send_timeout': 30000,
                       'keepalive_timeout': 75000, 'max_header': 32768, 'shutdown_timeout': 25000,
                       'log_level': 'info', 'log_format': 'text', 'access_log': 'off', 'log': 'stderr',
                       'listen': '127.0.0.1:8000'}.items():
        assert plain(got['', key]) == value, key
    for key, value in {'queue': 1024, 'queue_timeout': 30000, 'max_body': 64 << 20, 'max_req_per_worker': 'none',
                       'retries': 2, 'response_timeout': 60000, 'run_timeout': 'none', 'worker_keepalive': 1000,
                       'balance': 'least', 'start_timeout': 300000, 'backoff_max': 30000, 'stop_timeout': 30000,
                       'tunnel_drain': 300000, 'reload': 'swap', 'connect_timeout': 5000}.items():
        assert plain(got['web', key]) == value, key


def test_defaults_that_follow_other_keys():
    own = '[web]\nroutes = *\ncmd = run {socket}\nrun_timeout = 10m\nmax_req_per_worker = 1\n'
    got = effective(own)
    for key in ('queue_timeout', 'response_timeout', 'drain_timeout'):
        assert plain(got['web', key]) == 600000, key
    assert plain(got['web', 'connect_timeout']) == 1500
    assert (got['web', 'client_abort'], got['web', 'on_timeout']) == ('wait', 'wait')
    assert (effective(WEB)['web', 'client_abort'], effective(WEB)['web', 'on_timeout']) == ('close', 'close')


@pytest.mark.parametrize('key, value', [
    ('queue', 'x'), ('queue', '-1'), ('queue', '1.5'), ('queue', '5s'), ('queue', '99999999999999999999'),
    ('queue_timeout', '30'), ('queue_timeout', '5x'), ('queue_timeout', '-5s'), ('queue_timeout', '5 s'),
    ('queue_timeout', '99999999999999d'), ('queue_timeout', '1.5s'),
    ('max_body', '1X'), ('max_body', '-1'), ('max_body', '99999999999G'), ('max_body', 'K'),
    ('client_abort', 'maybe'), ('on_timeout', 'restart'), ('balance', 'best'), ('reload', 'sometimes'),
    ('routes', 'api'), ('routes', '=a')])
def test_bad_values_in_a_group(key, value):
    base = '[web]\n' + ('' if key == 'routes' else 'routes = *\n') + UP
    refused(base + '%s = %s\n' % (key, value), base.count('\n') + 1, len(key) + 4)


@pytest.mark.parametrize('key, value', [
    ('log_format', 'xml'), ('log_level', 'loud'), ('listen', 'nowhere'), ('listen', '127.0.0.1:99999'),
    ('listen', '127.0.0.1:'), ('listen', '[::1:80'), ('listen', 'unix:'), ('listen', '127.0.0.1:80x'),
    ('trusted_proxies', '1.2.3.4/33'), ('trusted_proxies', '1.2.3'), ('trusted_proxies', '::1/129'),
    ('trusted_proxies', 'nobody'), ('max_conns', 'some'), ('backlog', '1K0'), ('header_timeout', '10')])
def test_bad_values_above_the_first_section(key, value):
    refused('%s = %s\n' % (key, value) + WEB, 1, len(key) + 4)


@pytest.mark.parametrize('value', ['run {foo}', 'run {socket', 'run "open', "run 'open"])
def test_bad_command_lines(value):
    refused('[web]\nroutes = *\ncmd = %s\n' % value, 3)


def test_bad_stop_signal():
    refused('[web]\nroutes = *\ncmd = true {socket}\nstop_signal = WHATEVER\n', 4, 15)


def test_close_on_timeout_is_an_error_in_a_limited_group_of_own_processes():
    base = '[web]\nroutes = *\ncmd = true {socket}\non_timeout = close\n'
    accepted(base)
    refused(base + 'max_req_per_worker = 1\n', 4)


def test_trusted_proxies():
    got = effective('trusted_proxies = 10.0.0.0/8 192.0.2.7 2001:db8::/32 unix\n' + WEB)['', 'trusted_proxies']
    assert [w.replace('/32', '', 1) if w.startswith('192') else w for w in got.split()] == \
        ['10.0.0.0/8', '192.0.2.7', '2001:db8::/32', 'unix']
    assert effective('trusted_proxies = none\n' + WEB)['', 'trusted_proxies'] == 'none'


# --- warnings ---

def warns(config, *words):
    run = accepted(config)
    for word in words:
        assert re.search(word, run.err + run.out), (word, run)


def test_queue_without_a_limit_warns():
    warns(WEB + 'queue = 5\n', r'groups\.ini:4', 'queue', 'max_req_per_worker')


def test_no_fallback_warns():
    warns('[web]\nroutes = /a\n' + UP, r'routes = \*|`\*`|\*')


def test_duplicate_routes_warn_with_both_lines():
    run = accepted('[a]\nroutes = /x\n%s[b]\nroutes = /x *\n%s' % (UP, UP))
    assert re.search(r'groups\.ini:5', run.err) and re.search(r'(groups\.ini:|line )2\b', run.err), run


# --- the command line ---

def test_version_and_help():
    run = cli('-v')
    assert run.status == 0 and re.match(r'ldcorn \d+\.\d+\.\d+', run.out), run
    run = cli('-h')
    assert run.status == 0 and all(o in run.out for o in ('-c', '-t', '-T', '-o', '-v', '-h', '--')), run


@pytest.mark.parametrize('args', [('-x', 'groups.ini'), ('-o',), ('-o', 'queue', 'groups.ini'), (),
                                  ('a.ini', 'b.ini'), ('--',), ('missing.ini',)])
def test_usage_errors(args):
    run = cli(*args, config=WEB)
    assert run.status == 2 and run.err, run


def test_a_missing_file_is_named():
    assert 'missing.ini' in cli('missing.ini').err


def test_the_file_by_option():
    assert 'groups.ini:1:1: unknown key' in cli('-c', 'groups.ini', config='nonsense = 1\n' + WEB).err


def test_check_says_nothing_bad_and_binds_nothing():
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        accepted('listen = 127.0.0.1:%d\n' % taken.getsockname()[1] + WEB)


@pytest.mark.parametrize('config, line', [
    ('[web]\nroutes = *\ncmd = no-such-program-anywhere {socket}\n', 3),
    ('[web]\nroutes = *\ncmd = true {socket}\ndir = /no/such/place\n', 4),
    ('log = /no/such/place/log\n' + WEB, 1),
    ('access_log = /no/such/place/log\n' + WEB, 1)])
def test_check_looks_at_programs_directories_and_logs(config, line):
    refused(config, line)


def test_overrides():
    got = effective('keepalive_timeout = 5s\nqueue = 3\n' + WEB + 'max_req_per_worker = 1\n',
                    '-o', 'keepalive_timeout=6s', '-o', 'web.queue=9', '-o', 'log_level=debug')
    assert (got['', 'keepalive_timeout'], got['web', 'queue'], got['', 'log_level']) == ('6s', '9', 'debug')


def test_bad_overrides_are_named():
    for override in ('nonsense=1', 'nogroup.queue=1', 'web.queue=x', 'web.listen=:1'):
        run = check(WEB, '-o', override)
        assert run.status == 2 and re.split('[.=]', override.replace('web.', ''))[0] in run.err, run


def test_effective_configuration_names_origins():
    run = cli('-o', 'web.retries=1', '-T', 'groups.ini', config='backlog = 5\n' + WEB)
    origins = {m.group(2): m.group(1) for m in re.finditer(r'(?m)^# (.*)\n([a-z_]+) = .*$', run.out)}
    assert [origins[k] for k in ('backlog', 'routes', 'max_header')] == ['groups.ini:1', 'groups.ini:3', 'default']
    assert '-o' in origins['retries'], run.out


def test_effective_configuration_can_be_read_again():
    first = cli('-T', 'groups.ini', config='env = A=1 B=2\n' + WEB + 'queue_timeout = 90s\nmax_body = 10K\n')
    again = cli('-T', 'groups.ini', config=first.out)
    lines = [sorted(line for line in run.out.splitlines() if not line.startswith('#')) for run in (first, again)]
    assert again.status == 0 and lines[0] == lines[1]       # sorted: what was set comes before what was not


def test_effective_configuration_hides_the_token():
    run = cli('-T', 'groups.ini', config='admin_token = tell-nobody\n' + WEB)
    assert run.status == 0 and 'tell-nobody' not in run.out + run.err


WORKER = '''
import http.server, os, socketserver, sys
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = repr({k: v for k, v in os.environ.items() if k in ('A', 'B')} | {'argv': sys.argv[2:]}).encode()
        self.send_response(200); self.send_header('Content-Length', str(len(body))); self.end_headers()
        self.wfile.write(body)
    do_HEAD = do_GET
    def log_message(self, *a): pass
    def address_string(self): return '-'
class S(socketserver.ThreadingMixIn, socketserver.UnixStreamServer): daemon_threads = True
S(sys.argv[1], H).serve_forever()
'''


def test_a_command_without_a_file():
    # Proxy gives a file as the last argument, which here is simply one more word of the command.
    with Proxy('', args=('--', '/usr/bin/python3', '{dir}/w.py', '{socket}'), files={'w.py': WORKER}) as p:
        assert request(p, 'GET', '/').body == b"{'argv': ['groups.ini']}"


def test_words_and_variables_reach_the_worker():
    config = ('[web]\nroutes = *\nenv = A=${X}\nenv = B=2\n'
              'cmd = /usr/bin/python3 {dir}/w.py {socket} "a b" \'c"d\' e\\ f {{g}} ${X} {group}.{index}\n')
    with Proxy(config, files={'w.py': WORKER}, env={'X': '1  2'}) as p:
        assert request(p, 'GET', '/').body == repr(
            {'A': '1  2', 'B': '2', 'argv': ['a b', 'c"d', 'e f', '{g}', '1  2', 'web.0']}).encode()


# --- starting ---

def test_address_in_use():
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = taken.getsockname()[1]
        run = cli('groups.ini', config='listen = 127.0.0.1:%d\nruntime_dir = {dir}/run\n' % port + WEB)
    assert run.status == 1
    assert 'ldcorn: cannot listen on 127.0.0.1:%d: address already in use (groups.ini:1)\n' % port in run.err, run


def test_an_address_that_becomes_free_in_a_moment():
    """As after kill -9: what the last one had just forked holds its listeners a little longer."""
    with AutoWorker() as w, socket.socket() as taken:
        port = free_port()
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(('127.0.0.1', port))
        taken.listen()
        with Proxy('[web]\nroutes = *\nupstream = %s\n' % w.address, port=port, wait=False) as p:
            time.sleep(0.2)                                 # it says nothing while it tries
            assert p.alive()
            taken.close()
            p.wait_log('ready after')
            assert request(p, 'GET', '/').status == 200


def test_a_second_instance_names_the_first():
    with AutoWorker() as w, Proxy('listen = {listen}\nadmin = {admin}\nruntime_dir = {dir}/run\n'
                                  '[web]\nroutes = *\nupstream = %s\n' % w.address) as p:
        run = cli('groups.ini', cwd=p.dir)
        assert run.status == 1
        assert run.err == ('ldcorn: cannot listen on 127.0.0.1:%d: address already in use (groups.ini:1)\n'
                           '  ldcorn pid %d already runs with this file: `ldcornctl reload` or `kill -HUP %d` reloads it\n'
                           % (p.port, p.pid, p.pid))
        assert request(p, 'GET', '/').status == 200, 'the first goes on undisturbed'


def test_a_lock_left_by_a_killed_instance_is_no_obstacle():
    with AutoWorker() as w:
        config = 'listen = {listen}\nruntime_dir = {dir}/run\n[web]\nroutes = *\nupstream = %s\n' % w.address
        with Proxy(config, expect_status=-signal.SIGKILL) as first:
            first.signal(signal.SIGKILL)
            first.wait_exit()
            assert os.listdir(first.dir + '/run'), 'nothing was left, so nothing is tested'
            with Proxy(config.replace('{dir}', first.dir)) as second:
                assert request(second, 'GET', '/').status == 200


def test_runtime_dir_is_private_and_removed():
    with AutoWorker() as w, Proxy('listen = {listen}\nruntime_dir = {dir}/run\n[web]\nroutes = *\n'
                                  'upstream = %s\n' % w.address) as p:
        assert os.stat(p.dir + '/run').st_mode & 0o777 == 0o700
        p.stop()
        assert not os.path.exists(p.dir + '/run')


def test_runtime_dir_from_the_environment():
    with AutoWorker() as w:
        path = '/tmp/ldr-%d' % free_port()
        os.mkdir(path, 0o700)
        try:
            config = 'listen = 127.0.0.1:%d\n[web]\nroutes = *\nupstream = %s\n' % (free_port(), w.address)
            run = cli('-T', 'groups.ini', config=config, env={'RUNTIME_DIRECTORY': path})
            assert run.status == 0 and path in run.out, run
        finally:
            os.rmdir(path)


def test_runtime_dir_that_is_a_link_is_refused():
    path = '/tmp/ldr-%d' % free_port()
    os.mkdir(path, 0o700)
    os.symlink(path, path + 'l')
    try:
        run = cli('groups.ini', config='listen = 127.0.0.1:%d\nruntime_dir = %sl\n' % (free_port(), path) + WEB)
        assert run.status == 1 and path + 'l' in run.err, run
    finally:
        os.unlink(path + 'l')
        os.rmdir(path)


def test_start_text():
    with AutoWorker() as w:
        config = ('listen = {listen}\nadmin = {admin}\n[ml]\nroutes = /predict /embed\nupstream = %s\n'
                  'max_req_per_worker = 1\nqueue = 64\nqueue_timeout = 2m\nrun_timeout = 2m\n'
                  '[live]\nroutes = /ws\nupstream = %s\nreload = off\n'
                  '[web]\nroutes = *\nupstream = %s\n' % ((w.address,) * 3))
        with Proxy(config) as p:
            text = p.log()
            lines = text.splitlines()
            assert re.fullmatch(r'ldcorn \d+\.\d+\.\d+, pid %d, groups.ini' % p.pid, lines[0])
            assert lines[1] == '  listen  http://127.0.0.1:%d' % p.port
            assert lines[2].startswith('  admin   unix:%s/admin.sock' % p.dir)
            assert lines[3] == '  ml      /predict /embed               1 worker, 1 request each, queue 64, wait 2m, run 2m'
            assert lines[4] == '  live    /ws                           1 worker, no limit, kept on reload'
            assert lines[5] == '  web     *                             1 worker, no limit'
            assert lines[6] == '  logs    workers to stderr; access log off (access_log = stdout)'
            for name in ('ml', 'live', 'web'):
                assert re.search(r'(?m)^%s info  %s: 1 of 1 ready, \d+\.\ds$' % (WHEN, name), text), text
            assert re.search(r'(?m)^%s info  ready after \d+\.\ds\. Reload: kill -HUP %d\. '
                             r'Stop: (Ctrl-C|kill %d)$' % (WHEN, p.pid, p.pid), text), text


def test_errors_stand_in_the_order_of_the_lines():
    """Whatever finds them: syntax, a value, a range, what a group lacks."""
    lines = '[web]', 'routes = *', 'workers = 0', 'queue = x', '[api]', 'routes = /api', 'cdm = y', '[bad'
    run = cli('-t', 'groups.ini', config='\n'.join(lines))
    assert run.status == 2
    assert [int(n) for n in re.findall(r'^groups\.ini:(\d+):\d+: ', run.err, re.M)] == [1, 3, 4, 5, 7, 8], run.err
    assert 'groups.ini: 6 errors' in run.err


FOR_ALL = 'max_req_per_worker = 1\nmax_tunnels_per_worker = 3\nhealth_path = /h\nwatch = {dir}\nbalance = hash\non_timeout = restart\n'
MIXED = '[dial]\nroutes = /d\ndial_in = unix:{dir}/d\n[list]\nroutes = /l\nupstream = 127.0.0.1:1\n[own]\nroutes = /o\ncmd = true {socket}\n'


def test_a_default_for_all_is_none_for_a_group_that_cannot_have_it():
    """And what is printed can be read again."""
    run = cli('-T', 'groups.ini', config=FOR_ALL + MIXED)
    assert run.status == 0, run.err
    parts = {name: dict(re.findall(r'^(\w+) = (.*)$', text, re.M))
             for name, text in re.findall(r'^\[(\w+)\]\n(.*?)(?=^\[|\Z)', run.out, re.M | re.S)}
    want = {'max_req_per_worker': ('none', '1', '1'), 'max_tunnels_per_worker': ('none', '3', '3'), 'health_path': (None, '/h', '/h'),
            'balance': ('least', 'hash', 'hash'), 'on_timeout': ('wait', 'wait', 'restart')}
    for key, values in want.items():
        assert tuple(parts[g].get(key) for g in ('dial', 'list', 'own')) == values, key
    assert 'watch' not in parts['dial'] and 'watch' not in parts['list'] and 'watch' in parts['own']
    again = cli('-T', 'groups.ini', config=run.out)
    assert (again.status, again.err) == (0, '')
    assert [l for l in again.out.splitlines() if l[:1] != '#'] == [l for l in run.out.splitlines() if l[:1] != '#']


def test_none_takes_a_default_back():
    run = cli('-T', 'groups.ini', config=FOR_ALL + MIXED.replace('unix:{dir}/d\n', 'unix:{dir}/d\nmax_req_per_worker = none\nhealth_path = none\nwatch = none\n')
              + 'watch = none\nhealth_path = none\n')
    assert (run.status, run.err) == (0, ''), run
    for line in ('dial_in = unix:{dir}/d\nmax_req_per_worker = 1\n', 'dial_in = unix:{dir}/d\nhealth_path = /h\n', 'upstream = 127.0.0.1:1\nwatch = /tmp\n',
                 'upstream = 127.0.0.1:1\non_timeout = restart\n', 'dial_in = unix:{dir}/d\nbalance = hash\n'):
        run = cli('-t', 'groups.ini', config='[a]\nroutes = *\n' + line)
        assert run.status == 2 and 'groups.ini:4:' in run.err, 'said in the group itself it is a mistake: %r' % (run,)


def test_printed_are_the_addresses_that_are_trusted():
    for listen, trusted in (('127.0.0.1:8000', '127.0.0.0/8 ::1 unix'), ('0.0.0.0:8000', 'none')):
        run = cli('-T', 'groups.ini', config='listen = %s\n' % listen + WEB)
        assert '# default\ntrusted_proxies = %s\n' % trusted in run.out
