"""The library in a host's own poll loop."""
import os, subprocess
from harness import Client, free_port, head

SOURCE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'embed', 'embed.c')


def test_two_instances_in_one_poll_loop(tmp_path):
    """collect, timeout, dispatch, stop, hooks; every byte that the allocator gave comes back."""
    binary = str(tmp_path / 'embed')
    subprocess.run(['cc', '-O1', '-g', '-Wall', '-Wextra', '-DLDCORN_AUDIT', SOURCE, '-o', binary], check=True)
    ports = free_port(), free_port()
    p = subprocess.Popen([binary] + ['127.0.0.1:%d' % n for n in ports], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert p.stdout.readline() == b'open\n'
        for port, name in zip(ports, (b'one', b'two')):
            with Client(('127.0.0.1', port)) as c:
                for _ in range(3):
                    c.send(head('GET', '/'))
                    assert c.read_response().body == name
                c.send(head('POST', '/', body=b'said'))
                assert c.read_response().body == b'said'
        out, _ = p.communicate(timeout=20)
        assert (p.returncode, out) == (0, b'one 4\n')
    finally:
        if p.poll() is None:
            p.kill()
