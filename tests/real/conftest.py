"""Real servers and clients. What is not installed is skipped aloud; under CI=true that is a failure."""


def pytest_terminal_summary(terminalreporter):
    for report in terminalreporter.stats.get('skipped', []):
        terminalreporter.write_line('SKIP %s: %s' % (report.nodeid, report.longrepr[2]), yellow=True)
