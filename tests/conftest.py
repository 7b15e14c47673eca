"""Its presence puts this folder on the import path, so that every test can `import harness`."""
import contextlib, faulthandler, os, signal, threading, time

import pytest
from _pytest.runner import runtestprotocol
import machine, variants
from harness import complaints

LIMIT = 300         # seconds for one test with all its fixtures, many times what the longest takes on a slow machine
GRACE = 60          # ... and then for its end
RUNNER = os.environ.get('PYTEST_XDIST_WORKER', 'main')
AT_WORK = os.environ.get('LDCORN_AT_WORK')       # a folder in which each runner names its test


class Standstill(threading.Thread):
    """How long this machine gave us no processor: the lateness of a thread that only sleeps. On a shared one it can be
    seconds, in which each deadline goes by and nobody can keep it."""

    def __init__(self):
        super().__init__(daemon=True)
        self.seconds = 0.0                           # all in all
        self.start()

    def run(self):
        while True:
            start = time.monotonic()
            time.sleep(0.02)
            late = time.monotonic() - start - 0.02
            if late > 0.2:
                self.seconds += late


standstill = Standstill()


def pytest_addoption(parser):
    parser.addoption('--variant', choices=list(variants.VARIANTS), help='what concerns that build: tests/variants.py')


def pytest_configure(config):
    config.addinivalue_line('markers', 'slow: takes ten seconds or more')
    config.addinivalue_line('markers', 'whole: right only where a socket takes and gives at once what it can')
    config.addinivalue_line('markers', 'shaky: asks build/ldcorn-shaky for a certain trouble (tests/shaky.c)')
    config.addinivalue_line('markers', 'needs(NAME, ...): skipped where the machine lacks one (tests/machine.py)')


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    if config.getoption('--variant'):
        kept = variants.chosen(items, config.getoption('--variant'))
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept
    items[:] = in_turn(items, int(os.environ.get('PYTEST_XDIST_WORKER_COUNT', 1)))


def in_turn(items, runners):
    """The slow ones begin first, spread over the runners: xdist hands each of them the n-th part of a quarter to begin
    with, in this order, and one that got them all would end long after the others. A file that is slow as a whole stays
    together: what its tests share is made once."""
    slow, rest, units = [[] for _ in range(runners)], [], {}
    for item in items:
        module = item.getparent(pytest.Module)
        if item.get_closest_marker('slow'):
            units.setdefault(module if module.get_closest_marker('slow') else item, []).append(item)
        else:
            rest.append(item)
    for unit in sorted(units.values(), key=len, reverse=True):
        min(slow, key=len).extend(unit)
    out, share = [], max(len(items) // runners // 4, 2)
    for first in slow:
        more = max(share - len(first), 0)
        out += first + rest[:more]
        rest = rest[more:]
    return out + rest


def pytest_runtest_setup(item):
    for mark in item.iter_markers('needs'):
        machine.need(*mark.args)


# --- what takes too long ---

class Limit:
    """A test that does not end is a failed one, by its name: first where it stands, then, where it swallows that, with
    its runner. Time in which the machine stood still is not counted."""

    def __init__(self, nodeid):
        self.nodeid, self.over, self.stood = nodeid, False, standstill.seconds

    def __enter__(self):
        signal.signal(signal.SIGALRM, self.alarm)
        signal.alarm(LIMIT)

    def __exit__(self, *_):
        signal.alarm(0)

    def alarm(self, *_):
        stood, self.stood = standstill.seconds - self.stood, standstill.seconds
        if stood >= 1:
            return signal.alarm(int(stood))
        if self.over:
            with open(os.path.join(AT_WORK, RUNNER + '.hung') if AT_WORK else os.devnull, 'a') as f:
                f.write('%s: not done in %d seconds, nor ended in %d more\n' % (self.nodeid, LIMIT, GRACE))
                f.flush()
                faulthandler.dump_traceback(file=f)
            os._exit(70)
        self.over = True
        signal.alarm(GRACE)
        pytest.fail('not done in %d seconds' % LIMIT)


@contextlib.contextmanager
def at_work(nodeid):
    """Its name stands in a file as long as it runs: tests/run says what was running when it had to cut a part."""
    if not AT_WORK:
        yield
        return
    path = os.path.join(AT_WORK, RUNNER)
    with open(path, 'w') as f:
        f.write(nodeid)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


# --- what fails because the machine stood still ---

def broken(report):
    """A failed assertion of the program or a sanitizer's word, wherever it stands: no clock has to do with that."""
    return complaints(report.longreprtext + report.capstdout + report.capstderr)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    """What fails while the machine stands still for half a second and more has said nothing about the program: its
    time-outs were over before it could run. Such a test is done again, with all its fixtures new, and named at the end.
    All other failures stand at once."""
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    again = []
    with at_work(item.nodeid):
        while True:
            before, limit = standstill.seconds, Limit(item.nodeid)
            with limit:
                reports = runtestprotocol(item, log=False, nextitem=nextitem)
            stood = standstill.seconds - before
            failed = next((r for r in reports if r.failed), None)
            if not failed or limit.over or any(map(broken, reports)) or stood < 0.5 or len(again) == 3:
                break
            again.append('%.1f s (%s)' % (stood, failed.longreprtext.strip().rpartition('\n')[2]))
            ended = pytest.CallInfo.from_call(lambda: item.session._setupstate.teardown_exact(None), 'teardown')
            if ended.excinfo:
                reports.append(item.ihook.pytest_runtest_makereport(item=item, call=ended))
                break
    for report in reports:
        if again:
            report.user_properties.append(('stood_still', again))
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_terminal_summary(terminalreporter):
    for report in terminalreporter.stats.get('skipped', []):
        terminalreporter.write_line('SKIP %s: %s' % (report.nodeid, report.longrepr[2]))
    for reports in terminalreporter.stats.values():
        for report in reports:
            again = dict(getattr(report, 'user_properties', ())).get('stood_still')
            if again and report.when == 'call':
                terminalreporter.write_line('AGAIN %s: the machine stood still for %s'
                                            % (report.nodeid, ', '.join(again)))
