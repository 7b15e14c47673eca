"""Every allocation fails once (tests/embed/nth_alloc.c): no crash, no leak, no lie, and service afterwards."""
import contextlib, os, re, shutil, signal, subprocess, tempfile

import pytest
from harness import built

SAN = '-O0 -g -fsanitize=address,undefined -fno-sanitize-recover=all -DLDCORN_AUDIT'.split()


@pytest.mark.slow
def test_the_nth_allocation_fails():
    """Alone and four in a row, before workers of somebody else and before own ones."""
    binary = built('embed/nth_alloc.c', *SAN, '-Wall', '-Wextra')
    running = []
    try:
        for workers in ('upstream', 'function'):
            for burst, stride in (('1', '1'), ('4', '3')):
                folder = tempfile.mkdtemp(prefix='ldt-', dir='/tmp')
                running.append((folder, subprocess.Popen([binary, folder, workers, burst, '1', stride],
                                                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)))
        for _, p in running:
            out, err = p.communicate(timeout=90)
            assert p.returncode == 0, err.decode('utf-8', 'replace')[-4000:]
            runs, allocations = map(int, re.match(rb'(\d+) runs, (\d+) allocations', out).groups())
            assert runs > 50 and allocations > 100
    finally:
        for folder, p in running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(p.pid, signal.SIGKILL)            # its workers too
            p.communicate()
            shutil.rmtree(folder, ignore_errors=True)
