"""Its presence puts this folder on the import path, so that every test can `import harness`."""
import os


def pytest_configure(config):
    config.addinivalue_line('markers', 'slow: takes ten seconds or more')


def pytest_collection_modifyitems(items):
    """The slow ones begin first, spread over the runners: xdist hands each of them a sixteenth to begin with (with
    four), in this order, and one that got them all would end long after the others."""
    runners = int(os.environ.get('PYTEST_XDIST_WORKER_COUNT', 1))
    slow = [item for item in items if item.get_closest_marker('slow')]
    items[:] = [item for item in items if not item.get_closest_marker('slow')]
    share = max(len(items) // runners // 4, 2)
    for i, item in enumerate(slow):
        items.insert(i % runners * share + i // runners, item)
