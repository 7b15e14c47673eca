"""Its presence puts this folder on the import path, so that every test can `import harness`."""
import os, threading, time

import pytest
from _pytest.runner import runtestprotocol
from harness import complaints


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


def pytest_configure(config):
    config.addinivalue_line('markers', 'slow: takes ten seconds or more')
    config.addinivalue_line('markers', 'whole: right only where a socket takes and gives at once what it can')
    config.addinivalue_line('markers', 'shaky: asks build/ldcorn-shaky for a certain trouble (tests/shaky.c)')


def pytest_collection_modifyitems(items):
    """The slow ones begin first, spread over the runners: xdist hands each of them a sixteenth to begin with (with
    four), in this order, and one that got them all would end long after the others."""
    runners = int(os.environ.get('PYTEST_XDIST_WORKER_COUNT', 1))
    slow = [item for item in items if item.get_closest_marker('slow')]
    items[:] = [item for item in items if not item.get_closest_marker('slow')]
    share = max(len(items) // runners // 4, 2)
    for i, item in enumerate(slow):
        items.insert(i % runners * share + i // runners, item)


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
    while True:
        before = standstill.seconds
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        stood = standstill.seconds - before
        if not any(r.failed for r in reports) or any(map(broken, reports)) or stood < 0.5 or len(again) == 3:
            break
        failed = next(r for r in reports if r.failed)
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
    for reports in terminalreporter.stats.values():
        for report in reports:
            again = dict(getattr(report, 'user_properties', ())).get('stood_still')
            if again and report.when == 'call':
                terminalreporter.write_line('AGAIN %s: the machine stood still for %s' % (report.nodeid, ', '.join(again)))
