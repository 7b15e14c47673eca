"""The limit is the address's own: whatever happens to the line in which it stands, what is inside it counts."""
import contextlib

import pytest
from harness import FakeWorker, Proxy, answer, head, wait_for

OK = answer(b'ok')
TOP = 'listen = {listen}\nadmin = {admin}\nqueue_timeout = 20s\ndrain_timeout = 20s\n'
SPARE = '127.0.0.1:1'                        # nobody listens there, ever
UPGRADE = [('Connection', 'Upgrade'), ('Upgrade', 'test')]
SWITCHED = b'HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: test\r\n\r\n'


def pool(addresses, keys='', name='pool', limit='max_req_per_worker = 1\n', routes='*'):
    return '[%s]\nroutes = %s\nupstream = %s\n%s%s' % (name, routes, addresses, limit, keys)


def other(addresses='dynamic', limit='max_req_per_worker = 1\n'):
    return pool(addresses, '', 'other', limit, '/other')


class Held:
    """A proxy before one worker, and a client whose request is inside it."""

    def __init__(self, keys='', address=None, unix=False, top=TOP):
        self.worker, self.keys, self.clients, self.top = FakeWorker(unix=unix), keys, [], top
        self.address = (address or '%s') % self.worker.address.rpartition(':')[2] if address else self.worker.address
        self.text = self.pool(self.address)
        self.proxy = Proxy(top + self.text + other(), stop_timeout=5)

    def pool(self, addresses, **kw):
        return pool(addresses, self.keys, **kw)

    def __enter__(self):
        self.proxy.wait_status(lambda s: any(w['state'] == 'ready' for w in s['groups'][0]['workers']))
        return self

    def __exit__(self, *exc):
        for end in self.clients + [self.worker]:
            end.close()
        self.proxy.__exit__(*exc)

    def send(self, target='/', headers=()):
        self.clients.append(self.proxy.connect())
        return self.clients[-1].send(head('GET', target, headers))

    def first(self, headers=()):
        """-> (the client's end, the worker's)."""
        client = self.send('/first', headers)
        request, conn = self.worker.one()
        assert request.target == '/first'
        return client, conn

    def reload(self, *groups):
        self.proxy.write_config(self.top + ''.join(groups))
        code, _, body = self.proxy.admin('POST', '/reload')
        assert code == 200, body

    def change(self, method, group='pool'):
        code, _, body = self.proxy.admin(method, '/groups/%s/workers?address=%s' % (group, self.address))
        assert code == 200, body

    def away(self):
        self.change('DELETE')
        wait_for(lambda: not [w for w in self.proxy.group('pool')['workers'] if w['state'] == 'ready'])

    def ready(self, group='pool'):
        wait_for(lambda: [w for w in self.proxy.group(group)['workers'] if w['state'] == 'ready'], what='it is back')

    def not_before(self, conn, target='/', data=OK):
        """A second request reaches the worker when what is inside has ended by `conn`, and not before."""
        client = self.send(target)
        assert self.worker.no_connection(0.4) and conn.silent(0), 'two inside a worker that may have one'
        conn.send(data)
        self.next(client, conn)

    def next(self, client, conn):
        """What waited comes by the connection that has become free, or by a new one."""
        request = None
        wait_for(lambda: not self.worker.no_connection(0) or not conn.silent(0), what='the second request')
        if self.worker.no_connection(0):
            request = conn.read_request()
            conn.send(OK) if request else conn.close()
        if request is None:
            self.worker.one(OK)
        assert client.read_response().status == 200


# --- how it leaves and comes back; -> what the second request asks for ---

def quit_and_join(h):
    h.away()
    h.change('POST')


def quit_and_join_thrice(h):
    for _ in range(3):
        quit_and_join(h)


def edited_twice(h):
    h.reload(h.pool(SPARE), other())
    h.reload(h.pool(h.address), other())


def edited_twice_by_keep(h):
    for addresses in (SPARE, h.address + ' ' + SPARE):
        h.proxy.write_config(h.top + h.pool(addresses) + other())
        assert h.proxy.admin('POST', '/reload?processes=keep')[0] == 200


def quit_and_edited(h):
    h.away()
    h.reload(h.pool(h.address + ' ' + SPARE), other())


def edited_away_and_joined(h):
    h.reload(h.pool(SPARE), other())
    h.change('POST')


def removed_and_written_again(h):
    h.reload(other())
    h.reload(h.pool(h.address), other())


def renamed(h):
    h.reload(h.pool(h.address, name='fresh'), other())


def renamed_twice(h):
    h.reload(h.pool(h.address, name='fresh'), other())
    h.reload(h.pool(h.address), other())


def dial_in_between(h):
    h.reload('[pool]\nroutes = *\ndial_in = unix:{dir}/dial\n', other())
    h.reload(h.pool(h.address), other())


def no_limit_in_between(h):
    h.reload(h.pool(SPARE, limit=''), other())
    h.reload(h.pool(h.address), other())


def moved_to_another_group(h):
    h.reload(h.pool(SPARE), other(h.address))
    return '/other'


def quit_here_and_joined_there(h):
    h.away()
    h.change('POST', 'other')
    h.ready('other')
    return '/other'


def quit_here_and_joined_there_and_back(h):
    h.away()
    h.change('POST', 'other')
    h.ready('other')
    h.change('DELETE', 'other')
    h.change('POST')


WAYS = [quit_and_join, quit_and_join_thrice, edited_twice, edited_twice_by_keep, quit_and_edited,
        edited_away_and_joined, removed_and_written_again, renamed, renamed_twice, dial_in_between, no_limit_in_between,
        moved_to_another_group, quit_here_and_joined_there, quit_here_and_joined_there_and_back]


@pytest.mark.parametrize('way', WAYS, ids=lambda w: w.__name__)
def test_what_is_inside_counts_when_its_address_comes_back(way):
    with Held() as h:
        client, conn = h.first()
        target = way(h) or '/'
        h.not_before(conn, target)
        assert client.read_response().status == 200


def test_a_check_of_an_address_that_comes_back_waits_for_a_slot():
    """The first one: it is a request like others. Then it comes before whoever waits."""
    with FakeWorker() as w, Proxy(TOP + pool(w.address, 'health_path = /health\nhealth_interval = none\n'), stop_timeout=5,
                                  wait=False) as p:
        assert w.one(OK)[0].target == '/health'
        p.wait_status(lambda s: s['groups'][0]['workers'][0]['state'] == 'ready')
        with p.connect() as first, p.connect() as second:
            first.send(head('GET', '/first'))
            _, conn = w.one()
            for method in ('DELETE', 'POST'):
                assert p.admin(method, '/groups/pool/workers?address=' + w.address)[0] == 200
            second.send(head('GET', '/second'))
            assert w.no_connection(0.4) and conn.silent(0), 'beside the request that is inside'
            conn.send(OK)
            conn.close()
            assert first.read_response().status == 200
            assert w.one(OK)[0].target == '/health'
            assert w.one(OK)[0].target == '/second' and second.read_response().status == 200


def test_so_it_is_on_a_unix_socket():
    with Held(unix=True) as h:
        client, conn = h.first()
        quit_and_join(h)
        h.not_before(conn)
        assert client.read_response().status == 200


def by_name(h):
    h.reload(h.pool(SPARE), other())
    h.reload(h.pool('localhost:' + h.address.rpartition(':')[2]), other())


def by_name_that_is_resolved_anew(h):
    h.reload(h.pool(SPARE), other())
    h.reload(h.pool(h.address), other())


def by_number(h):
    h.reload(h.pool(SPARE), other())
    h.reload(h.pool('127.0.0.1:' + h.address.rpartition(':')[2]), other())


@pytest.mark.parametrize('start, way', [(None, by_name), ('localhost:%s', by_name_that_is_resolved_anew),
                                        ('localhost:%s', by_number)], ids=['a name', 'anew', 'a number'])
def test_so_it_is_by_whatever_name(start, way):
    with Held(address=start) as h:
        client, conn = h.first()
        way(h)
        h.not_before(conn)
        assert client.read_response().status == 200


# --- what counts as inside ---

@pytest.mark.parametrize('way', [quit_and_join, removed_and_written_again], ids=lambda w: w.__name__)
def test_a_request_whose_client_is_gone_counts(way):
    with Held() as h:
        client, conn = h.first()
        client.rst()
        way(h)
        h.not_before(conn)


@pytest.mark.parametrize('way', [quit_and_join, removed_and_written_again], ids=lambda w: w.__name__)
def test_a_request_that_has_had_its_504_counts(way):
    with Held('run_timeout = 300ms\n') as h:
        client, conn = h.first()
        assert client.read_response().status == 504
        way(h)
        late = h.send()                      # has its own time, which begins inside
        assert h.worker.no_connection(0.4) and conn.silent(0)
        conn.send(OK)
        h.next(late, conn)


def test_a_request_whose_client_leaves_while_the_address_is_away_counts():
    with Held() as h:
        client, conn = h.first()
        h.away()
        client.rst()
        h.change('POST')
        h.not_before(conn)


@pytest.mark.parametrize('way', [quit_and_join, removed_and_written_again], ids=lambda w: w.__name__)
def test_a_request_that_outlives_drain_timeout_counts(way):
    """The address was given up with a request inside: that does not end the request."""
    with Held('drain_timeout = 200ms\n') as h:
        client, conn = h.first()
        if way is quit_and_join:
            h.change('DELETE')
            wait_for(lambda: not h.proxy.group('pool')['workers'], 3, 'it is given up')
            h.change('POST')
        else:
            h.reload(other())
            assert h.worker.no_connection(0.5)       # drain_timeout is over by then
            h.reload(h.pool(h.address), other())
        if conn.ended or not conn.silent(0):
            # Our closing does not end what runs there: only its own end does.
            second = h.send()
            assert h.worker.no_connection(0.4), 'two inside a worker that may have one'
            conn.close()
            h.worker.one(OK)
            assert second.read_response().status == 200
        else:
            h.not_before(conn)


def test_two_of_two_count():
    with Held() as h:
        h.reload(h.pool(h.address, limit='max_req_per_worker = 2\n'), other())
        first, conn = h.first()
        second = h.send('/second')
        _, conn2 = h.worker.one()
        h.change('DELETE')
        h.change('POST')
        third, fourth = h.send('/third'), h.send('/fourth')
        assert h.worker.no_connection(0.4)
        conn.send(OK)
        conn.close()
        request, conn3 = h.worker.one()
        assert request.target == '/third' and h.worker.no_connection(0.3)
        for c, end in ((conn2, second), (conn3, third)):
            c.send(OK)
            c.close()
            assert end.read_response().status == 200
        h.worker.one(OK)
        assert fourth.read_response().status == first.read_response().status == 200


def test_a_lowered_limit_counts_what_was_inside_before():
    with Held() as h:
        h.reload(h.pool(h.address, limit='max_req_per_worker = 2\n'), other())
        first, conn = h.first()
        second = h.send('/second')
        _, conn2 = h.worker.one()
        h.reload(h.pool(SPARE), other())
        h.reload(h.pool(h.address), other())
        third = h.send('/third')
        conn.send(OK)
        conn.close()
        assert h.worker.no_connection(0.4), 'one is inside still'
        conn2.send(OK)
        conn2.close()
        h.worker.one(OK)
        assert [c.read_response().status for c in (first, second, third)] == [200] * 3


def test_the_slot_is_whole_again_after_all_that():
    """Nothing is counted twice either: when all has ended one may be inside, again and again."""
    with Held() as h:
        client, conn = h.first()
        quit_and_join_thrice(h)
        conn.send(OK)
        conn.close()
        assert client.read_response().status == 200
        for n in range(3):
            client, (request, conn) = h.send('/%d' % n), h.worker.one()
            second = h.send('/more')
            assert h.worker.no_connection(0.15)
            conn.send(OK)
            conn.close()
            h.worker.one(OK)[1].close()
            assert client.read_response().status == second.read_response().status == 200


@pytest.mark.parametrize('way', [quit_and_join, edited_twice, removed_and_written_again], ids=lambda w: w.__name__)
def test_a_tunnel_counts_as_a_tunnel(way):
    """max_tunnels_per_worker is a limit of the address, too."""
    with Held('max_tunnels_per_worker = 1\ntunnel_drain = 20s\n') as h:
        client, conn = h.first(UPGRADE)
        conn.send(SWITCHED)
        assert client.read_response().status == 101
        way(h)
        second, plain = h.send('/second', UPGRADE), h.send('/plain')
        request, conn2 = h.worker.one(OK)
        assert request.target == '/plain' and plain.read_response().status == 200
        assert h.worker.no_connection(0.3) and conn2.silent(0), 'two tunnels where one may be'
        conn.close()
        client.close()                                   # each side ends its own half
        conn2.close()
        request, conn = h.worker.one(SWITCHED)
        assert request.target == '/second' and second.read_response().status == 101
