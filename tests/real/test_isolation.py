"""Routes as workers see them: a handler of one group's routes never runs in a process of another group.

Every application has the handlers of all groups, so it is up to ldcorn alone which of them can run where. The
servers read a path in their own ways: what ldcorn matches and what the application matches are not the same text.
"""
import collections, json

import pytest
from harness import Client, Proxy
from needs import need

GROUPS = {'web': '*', 'api': '/api', 'ml': '/api/ml', 'predict': '/predict'}

FASTAPI = '''
import os
from fastapi import FastAPI

app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)


def add(name, *paths):
    async def handler(rest: str = ""):
        return {"group": os.environ["LDCORN_GROUP"], "handler": name}
    for path in paths:
        app.add_api_route(path, handler)


add("ml", "/api/ml", "/api/ml/{rest:path}")
add("api", "/api", "/api/{rest:path}")
add("predict", "/predict", "/predict/{rest:path}")
add("web", "/{rest:path}")
'''
# RESOLVE=1: as servers do that merge slashes and remove dot segments before they look for a handler.
WSGI = '''
import json, os, posixpath, re

HANDLERS = (("ml", "/api/ml"), ("api", "/api"), ("predict", "/predict"))


def app(environ, start_response):
    path = environ["PATH_INFO"]
    if os.environ.get("RESOLVE"):
        path = environ.get("HTTP_X_ORIGINAL_URL", environ.get("HTTP_X_REWRITE_URL", path))
        path = posixpath.normpath(re.sub("/+", "/", path))
    name = next((n for n, p in HANDLERS if path == p or path.startswith(p + "/")), "web")
    out = json.dumps({"group": os.environ["LDCORN_GROUP"], "handler": name}).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(out)))])
    return [out]
'''
# The URL standard: dot segments go, a backslash is a slash, runs of slashes stay, and two in front name a host.
NODE = '''
const http = require('http')
const handlers = [['ml', '/api/ml'], ['api', '/api'], ['predict', '/predict']]
http.createServer((req, res) => {
  let path
  try {
    path = decodeURIComponent(new URL(req.url, 'http://x').pathname)
  } catch (e) {
    res.writeHead(400, {'Content-Length': 0})
    return res.end()
  }
  const found = handlers.find(([n, p]) => path === p || path.startsWith(p + '/'))
  const out = JSON.stringify({group: process.env.LDCORN_GROUP, handler: found ? found[0] : 'web'})
  res.writeHead(200, {'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(out)})
  res.end(out)
}).listen(process.env.PORT)
'''
FILES = {'asgi.py': FASTAPI, 'wsgi.py': WSGI, 'app.js': NODE}

# name: command line, and what has to be installed
SERVERS = {
    'uvicorn-fastapi': ('uvicorn asgi:app --uds {socket} --log-level warning', 'uvicorn', 'fastapi'),
    'gunicorn-wsgi': ('gunicorn wsgi:app -b unix:{socket}', 'gunicorn'),
    'gunicorn-resolves': ('env RESOLVE=1 gunicorn wsgi:app -b unix:{socket}', 'gunicorn'),
    'node-url': ('env PORT={socket} node app.js', 'node'),
}

# What all of them agree about: group and handler. Without these a test in which nothing is answered would pass.
PLAIN = {'/': 'web', '/x': 'web', '/api': 'api', '/api/x': 'api', '/api/mlx': 'api', '/api/ml': 'ml', '/api/ml/z': 'ml',
         '/predict': 'predict', '/predict/': 'predict', '/predict/y': 'predict', '/predict?x': 'predict',
         '/predicts': 'web', '/x?/../predict': 'web', 'http://h/predict/y': 'predict', 'http://predict/': 'web',
         '/api/ml/z?/../../x': 'ml'}

# Raw targets, by what could be read in two ways in them.
TARGETS = {
    'encoded': '/api%2fml/z /api%2Fml/z /api/ml%2fz /api/%6dl/z /api/ml%2F /%70redict/y /%70%72%65%64%69%63%74 '
               '/%50redict %2fpredict /api/%6d%6c',
    'dots': '/predict/../x /%2e%2e/ /x/%2e%2e/predict /predict/./y /predict/. /predict/.. /predict/.%2e/x '
            '/predict/%2E./x /api/ml/.. /api/ml/../ml/z /api/ml/../x /api/x/../ml /api/ml/x/../../y /./predict '
            '/%2e/predict /api/./ml/z /api/%2e/ml/z /. /.. /x/../../predict /x/../predict /predict/.../y /predict/..x '
            '/predict./y /predict... /predict/x/../y',
    'encoded slashes and dots': '/predict%2f..%2fx /predict%2f%2e%2e%2fx /api/ml/..%2f.. /api/ml/..%2f..%2fpredict '
                                '/.%2fpredict /x%2f..%2fpredict /api/x%2f..%2fml /api%2fml%2f..%2fx '
                                '/%2e%2e%2fpredict',
    'slashes and dots': '/.//predict /..//predict /x/..//predict /predict/..//x //../predict /x//../predict '
                        '/predict//../x //..//predict /api//../predict /predict//./y',
    'slashes inside': '/predict//y /predict// /predict/%2fy /api/ml//z /api/x//ml //x //x//y',
    'delimiters': '/predict;a=b /predict;/y /;/predict /predict%3b/y /api/ml;x /api/ml%3bx/z /api;/ml/z /api/;/ml '
                  '/predict%3fx /predict%3f/y /x%3f/predict /predict%23x /predict#x /predict#/../x /x#/predict '
                  '/predict:80/y /predict@h/y /predict+y /predict* /* /predict%26/y',
    'encoded twice': '/predict/%252e%252e/x /%252e%252e/predict /%2570redict /api%252fml/z /predict%252f..%252fx '
                     '/x/%252e%252e/predict /x/%25252e%25252e/predict',
    'not UTF-8': '/predict/%c0%ae%c0%ae/x /x/%c0%ae%c0%ae/predict /predict%c0%af..%c0%afx /%c0%afpredict '
                 '/predict/%e0%80%ae%e0%80%ae/x /x/%c0%ae%c0%ae%c0%afpredict /predict%ff',
    'Unicode': '/predict%ef%bc%8fy /x/%ef%bc%8e%ef%bc%8e/predict /predict/%ef%bc%8e%ef%bc%8e/x /predict%e2%80%8b '
               '/%ef%bb%bfpredict /x/%u002e%u002e/predict /predict%u002fy /predict%c2%85 /predict%e2%80%a8',
    'blanks and controls': '/predict%20 /predict%20/y /%20predict /predict%09 /predict%0d /predict%0d%0a/y /%0apredict '
                           '/predict%7f /predict%1f/y /predict\t /pre\tdict /predict\x0b /predict\x7f /predict\xff '
                           '/pr\xe9dict /predict%0a/y /pre%0adict',
    'broken escapes': '/predict%00 /predict%00/y /%00/predict /x%00/../predict /predict% /predict%2 /predict%zz '
                      '/predict%2/y /predict%%32%66y',
    'case': '/PREDICT /Predict/y /API/ml /api/ML',
    'absolute': 'http://h/predict/../x http://h/x/%2e%2e/predict http://h http://h?/predict http://h/?/predict '
                'HTTP://h/predict https://h/api%2fml http:///predict http://u@h/predict http://h\\predict '
                'http://h#/predict http:/predict /http://h/predict ftp://h/predict x predict ?/predict '
                'http://h/api/ml/..%2f..',
    'backslashes, encoded': '/predict%5cy /predict%5c..%5cx /x/..%5cpredict /%5c../predict /%5cpredict \\predict',
    # Readings that only some servers have. Where one still crosses: see KNOWN.
    'slash runs': '/api//ml/z /api/%2fml/z /api%2f/ml /api%2f%2fml /api///ml //api/ml //api//ml //predict ///predict '
                  '/%2fpredict /%2f%2fpredict http://h//predict',
    'two slashes in front': '//h/predict //h/api/ml ///h/api/ml /\\h/predict',
    'dots after slash runs': '/x/../predict//../ /x/../predict//.. /x/../predict//../y /api/x/../ml//../z',
    'backslashes': '/predict\\y /x\\..\\predict /predict\\..\\x /x/..\\predict /api\\ml /\\predict',
    'a line feed at the end': '/predict%0a /api%0a /api/ml%0a /predict/%0a /predict%0A?x',
}
TARGETS = {kind: text.split(' ') for kind, text in TARGETS.items()}
TARGETS['asterisk'] = ['*']

KNOWN = {
    ('slash runs', 'uvicorn-fastapi'): 'matched with slashes merged only; the server does not merge them',
    ('slash runs', 'gunicorn-wsgi'): 'matched with slashes merged only; the server does not merge them',
    ('slash runs', 'node-url'): 'matched with slashes merged only; the server does not merge them',
    ('two slashes in front', 'node-url'): 'the URL standard reads //h/predict as host h, path /predict',
}

# Fields by which some server or framework lets a request name another path.
FIELDS = [(name, value) for name, value in (
    ('SCRIPT_NAME', '/x'), ('Script-Name', '/x'), ('X-Script-Name', '/x'), ('X-Original-URL', '/predict'),
    ('X-Rewrite-URL', '/predict'), ('X_Original_URL', '/predict'), ('X-Forwarded-Prefix', '/x'),
    ('X-Forwarded-Uri', '/predict'), ('X-Forwarded-Path', '/predict'), ('PATH_INFO', '/predict'),
    ('RAW_URI', '/predict'), ('REQUEST_URI', '/predict'))]

Answer = collections.namedtuple('Answer', 'status group handler')


def ask(proxy, target, *fields):
    with Client(proxy.address) as c:
        r = c.ask('OPTIONS' if target == '*' else 'GET', target, fields)
    if r.status != 200:
        return Answer(r.status, None, None)
    said = json.loads(r.body)
    return Answer(200, said['group'], said['handler'])


@pytest.fixture(scope='module', params=SERVERS)
def seen(request):
    """(server, {(target, fields): answer}): everything is asked once and looked at in several tests."""
    command, *needed = SERVERS[request.param]
    need(*needed)
    config = 'trusted_proxies = none\ncmd = %s\n' % command
    config += ''.join('[%s]\nroutes = %s\n' % group for group in GROUPS.items())
    with Proxy(config, files=FILES, env={'PYTHONDONTWRITEBYTECODE': '1'}, start_timeout=60) as p:
        asked = [(target,) for target in [*PLAIN, *sum(TARGETS.values(), [])]]
        asked += [('/x/predict', field) for field in FIELDS]
        return request.param, {key: ask(p, *key) for key in asked}


def crossings(answers):
    """What is wrong, in lines: a handler outside its group, or an answer that is neither that nor a refusal."""
    out = []
    for (target, *fields), a in answers:
        if a.status == 200 and a.group != a.handler:
            out.append('%r%s: the handler of %s ran in %s' % (target, fields or '', a.handler, a.group))
        elif a.status not in (200, 400, 404):
            out.append('%r%s: %d' % (target, fields or '', a.status))
    return out


def of_kind(answers, kind):
    return [((target,), answers[target,]) for target in TARGETS[kind]]


def test_plain_paths(seen):
    answers = seen[1]
    assert {target: answers[target,] for target in PLAIN} == {t: Answer(200, name, name) for t, name in PLAIN.items()}


def test_isolation(seen):
    server, answers = seen
    kinds = [kind for kind in TARGETS if (kind, server) not in KNOWN]
    wrong = crossings(pair for kind in kinds for pair in of_kind(answers, kind))
    assert not wrong, '\n'.join(wrong)


def test_fields_that_name_a_path(seen):
    answers = seen[1]
    wrong = crossings((key, a) for key, a in answers.items() if len(key) > 1)
    assert not wrong, '\n'.join(wrong)


@pytest.mark.parametrize('seen, kind', [(server, kind) for kind, server in KNOWN], indirect=['seen'])
def test_known_to_cross(seen, kind):
    """Runs of slashes are matched merged, which is what most servers and the README say; a server that does
    not merge them runs another handler. A row that no longer crosses leaves KNOWN."""
    assert crossings(of_kind(seen[1], kind))
