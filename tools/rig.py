"""What tools/bench starts: processes in a temporary directory, and the proxies, configured alike."""
import collections, ctypes, http.client, os, re, shutil, signal, socket, subprocess, sys, tempfile, time

CPUS = sorted(os.sched_getaffinity(0))
PROXY_CPU, LOAD_CPU = {CPUS[0]}, {CPUS[-1]}
LIBC = ctypes.CDLL(None)

# --- processes ---


class Rig:
    """A temporary directory and the processes in it; all of them are gone when it is left."""

    def __enter__(self):
        self.dir, self.procs = tempfile.mkdtemp(prefix='ldbench-', dir='/tmp'), []
        return self

    def __exit__(self, *_):
        for p in reversed(self.procs):
            self.end(p)
        shutil.rmtree(self.dir, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.dir, name)

    def write(self, name, text):
        with open(self.path(name), 'w') as f:
            f.write(text)
        return self.path(name)

    def start(self, command, cpus=None, log=None, stdout=None, **more):
        def child():
            LIBC.prctl(1, signal.SIGKILL)        # die with the bench
            if cpus:
                os.sched_setaffinity(0, cpus)
        with open(log or self.path('log'), 'ab') as out:
            p = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout or out, stderr=out,
                                 preexec_fn=child, **more)
        self.procs.append(p)
        return p

    def end(self, p):
        if p not in self.procs:
            return
        self.procs.remove(p)
        if p.poll() is None:
            family = tree(p.pid)
            p.send_signal(signal.SIGTERM)
            try:
                p.wait(5)
            except subprocess.TimeoutExpired:
                for pid in family:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
                p.wait()
        if p.stdout:
            p.stdout.close()

    def log(self):
        try:
            with open(self.path('log'), errors='replace') as f:
                return f.read()
        except FileNotFoundError:
            return ''


def tree(pid):
    """A process and all below it."""
    try:
        with open('/proc/%d/task/%d/children' % (pid, pid)) as f:
            return [pid] + [p for child in f.read().split() for p in tree(int(child))]
    except OSError:
        return [pid]


def cpu_seconds(pids):
    """User and system time, from the scheduler's own count where it is to be had: stat has ticks of 10 ms."""
    total = 0.0
    for pid in pids:
        with open('/proc/%d/schedstat' % pid) as f:
            ns = int(f.read().split()[0])
        if not ns:
            with open('/proc/%d/stat' % pid) as f:
                fields = f.read().rpartition(')')[2].split()
            ns = (int(fields[11]) + int(fields[12])) * 10**9 // os.sysconf('SC_CLK_TCK')
        total += ns / 1e9
    return total


def peak_rss(pids):
    """MiB, each process's own peak."""
    total = 0
    for pid in pids:
        with open('/proc/%d/status' % pid) as f:
            total += int(re.search(r'VmHWM:\s+(\d+)', f.read()).group(1))
    return total / 1024


def private_bytes(pids):
    """Memory that nobody else has mapped. What the kernel keeps for sockets is not in it."""
    total = 0
    for pid in pids:
        with open('/proc/%d/smaps_rollup' % pid) as f:
            total += sum(int(n) for n in re.findall(r'Private_(?:Clean|Dirty):\s+(\d+)', f.read()))
    return total * 1024


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def fetch(port, target, method='GET', body=None):
    c = http.client.HTTPConnection('127.0.0.1', port, timeout=10)
    try:
        c.request(method, target, body)
        r = c.getresponse()
        return r.status, len(r.read())
    finally:
        c.close()


def wait_answer(rig, proc, port, target, length=None):
    """Until it answers rightly: a proxy that answers fast but wrongly must not win."""
    end = time.monotonic() + 20
    while True:
        try:
            seen = fetch(port, target)
            if seen[0] == 200:
                assert length is None or seen[1] == length, '%d bytes instead of %d' % (seen[1], length)
                return
        except (OSError, http.client.HTTPException) as e:
            seen = e
        if time.monotonic() > end or proc.poll() is not None:
            sys.exit('bench: %s does not answer (%s)\n%s' % (proc.args[0], seen, rig.log()))
        time.sleep(0.05)


def wait_unix(path):
    end = time.monotonic() + 5
    while not os.path.exists(path):
        assert time.monotonic() < end, path
        time.sleep(0.01)


# --- the systems, configured alike: upstreams kept alive, no access log, X-Forwarded-For, no copy to
#     disk, idle clients kept for an hour ---

# What is served below a route (None: everything else) by which addresses. `limit` requests inside each
# of them, None for any number; `queue` more may wait.
Pool = collections.namedtuple('Pool', 'route upstreams limit queue')
# What a workload asks of the configurations beside that.
Needs = collections.namedtuple('Needs', 'idle upgrade', defaults=(0, False))


def nginx(rig, name, port, pools, needs):
    if any(p.limit for p in pools):
        return None                              # has a limit per server, but no queue
    upgrade = '''proxy_set_header Upgrade $http_upgrade;
                 proxy_set_header Connection $connection_upgrade;'''
    conf = rig.write(name + '.conf', '''
        daemon off; worker_processes 1; pid %(dir)s/%(name)s.pid; error_log stderr crit; %(user)s
        worker_rlimit_nofile 20000;
        events { worker_connections %(conns)d; }
        http {
            access_log off; client_max_body_size 0; keepalive_requests 1000000000; keepalive_timeout 1h;
            client_body_temp_path %(dir)s/body; proxy_temp_path %(dir)s/proxy;
            fastcgi_temp_path %(dir)s/f; uwsgi_temp_path %(dir)s/u; scgi_temp_path %(dir)s/s;
            map $http_upgrade $connection_upgrade { default upgrade; "" ""; }
            upstream u { %(servers)s keepalive 256; keepalive_requests 1000000000; }
            server {
                listen 127.0.0.1:%(port)d backlog=1024;
                location / {
                    proxy_pass http://u; proxy_http_version 1.1; %(connection)s
                    proxy_set_header Host $host;
                    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
                    proxy_request_buffering off; proxy_max_temp_file_size 0;
                }
            }
        }''' % dict(dir=rig.dir, name=name, port=port, conns=8192 + needs.idle,
                    servers=''.join('server %s;' % u for u in pools[0].upstreams),
                    connection=upgrade if needs.upgrade else 'proxy_set_header Connection "";',
                    user='user root;' if os.getuid() == 0 else ''))
    return ['nginx', '-e', 'stderr', '-c', conf]


def haproxy_backend(pool):
    servers = ('server u%d %s%s' % (i, u.replace('unix:', 'unix@'), ' maxconn %d' % pool.limit if pool.limit else '')
               for i, u in enumerate(pool.upstreams))
    return 'backend %s\n  balance leastconn\n  %s\n' % (pool.route or 'rest', '\n  '.join(servers))


def haproxy(rig, name, port, pools, needs, defer='', splice=''):
    rules = []
    for p in pools:
        if p.route:
            rules += ['acl is_%s path_beg /%s' % (p.route, p.route), 'use_backend %s if is_%s' % (p.route, p.route)]
            if p.queue is not None:
                rules.insert(-1, 'http-request deny deny_status 503 if is_%s { queue(%s) ge %d }'
                             % (p.route, p.route, p.queue))
    # From a quarter of its descriptors on it would no longer keep upstream connections: idle clients
    # would make it four times as dear, which nobody who has read its manual would leave so.
    many = 'no strict-limits\n  tune.pool-low-fd-ratio 80\n  tune.pool-high-fd-ratio 90' if needs.idle else ''
    conf = rig.write(name + '.cfg', '''
global
  nbthread 1
  maxconn %d
  %s
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout queue 1h
  timeout http-keep-alive 1h
  timeout tunnel 1h
  option forwardfor
  %s
  http-reuse always
frontend f
  bind 127.0.0.1:%d backlog 1024 %s
  %s
  default_backend rest
%s''' % (4000 + needs.idle, many, splice, port, defer, '\n  '.join(rules), ''.join(haproxy_backend(p) for p in pools)))
    return ['haproxy', '-db', '-f', conf]


def haproxy_defer(*where):
    return haproxy(*where, defer='defer-accept')


def haproxy_splice(*where):
    return haproxy(*where, splice='option splice-response')


def ldcorn_group(pool):
    lines = ['[%s]' % (pool.route or 'rest'), 'routes = %s' % ('/' + pool.route if pool.route else '*'),
             'upstream = ' + ' '.join(pool.upstreams)]
    if pool.limit:
        lines += ['max_req_per_worker = %d' % pool.limit, 'queue_timeout = 1h', 'response_timeout = 1h']
    if pool.queue is not None:
        lines.append('queue = %d' % pool.queue)
    return '\n'.join(lines) + '\n'


def ldcorn(rig, name, port, pools, needs):
    conf = rig.write(name + '.ini', '''
listen = 127.0.0.1:%d
runtime_dir = %s
log_level = warn
keepalive_timeout = 1h
%s''' % (port, rig.path('run-' + name), ''.join(ldcorn_group(p) for p in pools)))
    return [binary, conf]


binary = None                                    # of ldcorn; tools/bench sets it
SYSTEMS = {'ldcorn': ldcorn, 'haproxy': haproxy, 'haproxy again': haproxy, 'nginx': nginx}


def start_systems(rig, pools, target, length, needs=Needs(), systems=SYSTEMS, suffix=''):
    """-> {name: (process, port)}, for those that are installed and can do it."""
    out = {}
    for name, make in systems.items():
        port = free_port()
        command = make(rig, (name + suffix).replace(' ', '-').replace(',', ''), port, pools, needs)
        if command is None or not shutil.which(command[0]):
            continue
        p = rig.start(command, PROXY_CPU)
        wait_answer(rig, p, port, target, length)
        out[name + suffix] = p, port
    return out
