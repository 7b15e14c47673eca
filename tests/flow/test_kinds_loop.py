"""Requests that come back to where they were, and limits that come out smaller than anybody would want, unsaid."""
import contextlib, re, resource, shutil, subprocess

import pytest
from harness import BIN, AutoWorker, Proxy, _environ, free_port, head, make_dir, upstream_config, wait_for

SHORT = 'max_conns = 60\n'
TIMES = 'run_timeout = 3s\nqueue_timeout = 3s\n'


def front(address, top='', group='', **kw):
    return Proxy(upstream_config(address, SHORT + top, TIMES + group), stop_timeout=10, **kw)


def up(p):
    """It takes connections, whatever it thinks of where they lead."""
    p.wait_log('listen|ready')

    def taken():
        with contextlib.suppress(OSError):
            p.connect(1).close()
            return p.status()
    wait_for(taken)


def pseudonym(worker):
    """How the last proxy before it calls itself."""
    via = [part for value in worker.requests[-1].all('via') for part in value.split(',')]
    return via[-1].split()[1]


def loops(p, target='/', **kw):
    with p.connect(6) as c:
        r = c.ask('GET', target, **kw)
    assert r.status == 508, r
    p.wait_access(lambda a: a.get('target') == target and a['status'] == 508 and a['reason'] == 'loop')
    return r


@pytest.mark.parametrize('group', ['', 'max_req_per_worker = 1\n', 'max_req_per_worker = 2\n'])
def test_a_group_that_leads_back_here(group):
    with front('{listen}', group=group, wait=False) as p:
        up(p)
        r = loops(p)
        assert b'loop' in r.body.lower() or r.get('x-request-id')
        wait_for(lambda: p.status()['clients']['open'] <= 2, what='nothing goes round any more')
        assert p.status()['accepted'] < 12, 'once round is enough'


def test_a_loop_of_two():
    """Neither of them sees itself at once; one of them must see it."""
    ports = free_port(), free_port()
    with contextlib.ExitStack() as stack:
        a, b = (stack.enter_context(front('127.0.0.1:%d' % ports[1 - i], port=ports[i], wait=False)) for i in range(2))
        for p in (a, b):
            up(p)
        with a.connect(6) as c:
            assert c.ask('GET', '/').status == 508
        wait_for(lambda: 'loop' in [r['reason'] for p in (a, b) for r in p.access()])
        assert a.status()['accepted'] + b.status()['accepted'] < 24


def test_two_in_a_row_are_no_loop():
    with AutoWorker() as worker, front(worker.address) as back, front('127.0.0.1:%d' % back.port) as p:
        with p.connect() as c:
            assert c.ask('GET', '/').status == 200
        names = [part.split()[1] for value in worker.requests[-1].all('via') for part in value.split(',')]
        assert len(names) == len(set(names)) == 2, 'each has a name of its own'


def test_another_group_of_the_same_instance_is_a_loop_too():
    """/a leads to /b of the same instance by a detour: the request is here twice."""
    with AutoWorker() as worker, front('{listen}', group=behind(worker), wait=False) as p:
        up(p)
        loops(p, '/else')
        with p.connect() as c:
            assert c.ask('GET', '/b').status == 200


def behind(worker):
    return '[b]\nroutes = /b\nupstream = %s\n' % worker.address


@pytest.mark.parametrize('via', ['1.1 {}', '1.0 {}', 'HTTP/1.1 {}', '1.0 fred, 1.1 {}', '1.1 {}, 1.0 fred',
                                 '1.1 {} (a comment)', '1.0 fred (x, y), 1.1 {}', ' ,1.1  {} '])
def test_its_own_name_in_via(via):
    with AutoWorker() as worker, front(worker.address) as p:
        with p.connect() as c:
            assert c.ask('GET', '/').status == 200
        name = pseudonym(worker)
        loops(p, '/again', headers={'Via': via.format(name)})
        assert len(worker.requests) == 1
        with p.connect() as c:               # in a field of its own, and the connection goes on
            r = c.ask('GET', '/', [('Via', '1.0 fred'), ('Via', via.format(name))])
            assert r.status == 508
            if 'close' not in (r.get('connection') or ''):
                assert c.ask('GET', '/').status == 200


def test_other_names_in_via_are_others():
    with AutoWorker() as worker, front(worker.address) as p, p.connect() as c:
        assert c.ask('GET', '/').status == 200
        name = pseudonym(worker)
        assert name != 'ldcorn', 'a name that all instances share is no pseudonym of this one'
        for via in ('1.1 ldcorn', '1.1 x' + name, '1.1 %sx' % name, '1.1 other (%s)' % name, '1.1 ' + name[:-1],
                    name, '', '1.1'):
            assert c.ask('GET', '/', {'Via': via}).status == 200, via


def test_the_name_stays_over_a_reload():
    """A request that went out before it comes back after it."""
    with AutoWorker() as worker, front(worker.address) as p:
        with p.connect() as c:
            assert c.ask('GET', '/').status == 200
            name = pseudonym(worker)
            assert p.admin('POST', '/reload')[0] == 200
            assert c.ask('GET', '/').status == 200
        assert pseudonym(worker) == name
        loops(p, '/again', headers={'Via': '1.1 ' + name})


def test_a_request_with_a_body_is_refused_before_its_body():
    with AutoWorker() as worker, front(worker.address) as p, p.connect() as c:
        assert c.ask('GET', '/').status == 200
        via = '1.1 ' + pseudonym(worker)
        c.send(head('POST', '/', {'Via': via, 'Content-Length': '1000', 'Expect': '100-continue'}))
        r = c.read_response()
        assert r.status == 508 and not r.interim


# --- descriptors and max_conns ---

def run(config, files, args=('groups.ini',), wait=None):
    """What it says where only so many descriptors may be had."""
    path = make_dir()
    try:
        with open(path + '/groups.ini', 'w') as f:
            f.write(config.replace('{dir}', path).replace('{port}', str(free_port())))
        command = [BIN, '-o', 'runtime_dir=%s/run' % path, '-o', 'admin=unix:%s/a' % path] + list(args)
        limit = (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)))
        p = subprocess.Popen(command, cwd=path, env=_environ({}), preexec_fn=limit, text=True,
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if wait is None:
            return p.communicate(timeout=20)[0], p.returncode
        out = ''
        for line in p.stdout:
            out += line
            if re.search(wait, line):
                p.terminate()
        return out, p.wait(20)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def addresses(n, name='pool'):
    return '[%s]\nroutes = /%s\nupstream = %s\n' % (name, name, ' '.join('127.0.0.1:%d' % (i + 1) for i in range(n)))


WORKERS = ''.join('[g%d]\nroutes = /g%d\nworkers = 20\ncmd = true {socket}\n' % (i, i) for i in range(2))
LISTEN = 'listen = 127.0.0.1:{port}\n'


@pytest.mark.parametrize('config', [addresses(60), WORKERS, ''.join(addresses(10, 'p%d' % i) for i in range(5))],
                         ids=['addresses', 'processes', 'groups'])
@pytest.mark.parametrize('how', ['-t', 'start'])
def test_max_conns_that_comes_out_tiny_is_said_with_its_arithmetic(config, how):
    """The descriptors that there are, what takes them, what is left for clients, and which key or limit to raise."""
    if how == '-t':
        out, status = run(LISTEN + config, 256, ('-t', 'groups.ini'))
        assert status == 0, out
    else:
        out, status = run(LISTEN + config, 256, wait=r'max_conns|ready|ended before')
    line = next((text for text in out.splitlines() if 'max_conns' in text), None)
    assert line and re.search(r'\b256\b', out), out
    assert re.search(r'max_conns\D{0,40}\b\d{1,2}\b|\b\d{1,2}\b.{0,60}max_conns', out), 'what it comes out as: ' + out
    assert 'warn' in out.lower(), out


def test_max_conns_that_was_written_needs_no_warning():
    out, status = run(LISTEN + 'max_conns = 20\n' + addresses(20), 256, ('-t', 'groups.ini'))
    assert status == 0 and not re.search(r'(?i)warn.*max_conns', out), out


def test_enough_descriptors_need_no_warning():
    out, status = run(LISTEN + addresses(60), 20000, ('-t', 'groups.ini'))
    assert status == 0 and 'max_conns' not in out, out


def test_a_reload_that_makes_it_tiny_says_so():
    with Proxy('listen = {listen}\nadmin = {admin}\n' + addresses(1), wait=False, stop_timeout=5,
               preexec=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))) as p:
        p.wait_log('ready')
        assert 'max_conns' not in p.log()
        p.write_config('listen = {listen}\nadmin = {admin}\n' + addresses(60))
        assert p.admin('POST', '/reload')[0] == 200
        p.wait_log('max_conns', 5)
