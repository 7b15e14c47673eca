"""Which tests run with which build. All of them run with build/ldcorn. The other builds change something, and run what
that concerns:

asan    Sanitizers, audit and the portable paths concern all that it does: nearly everything, also what takes long. A
        part where many tests go the same way through the program, or most of the time goes to starts, to ldcornctl and
        to workers; none where it only reads what the converter wrote, or where programs of tests/embed have sanitizers
        of their own and are the same ones beside build/ldcorn. Hosts of kinds_host have them here alone.
real-asan   The same build beside servers and clients as they are installed: a part, for the bytes that they send are in
        tests/flow as well. Not the admin page, whose tests are about a browser.
epoll   Idle connections are behind epoll from the first one on: of clients and workers that are kept, are many, leave
        while nothing is asked, wait for their turn, or carry a tunnel. With sanitizers and audit it also has what only
        Linux has (accept4, splice, close_range, TIOCOUTQ), so there is a part of whatever moves bytes or starts
        processes.
kqueue  Four calls of the same tier are others: idle connections in numbers, and a part of what epoll has.
shaky   Calls are interrupted, take and give less, and say ready when nothing is: a part of each file that does I/O.

The last three leave out where the program only reads its configuration, where it is not the one under test (programs of
tests/embed, the converter, ldcornctl), and what takes long for a reason that they do not change. WHOLE=1 tests/run
flow-epoll runs all with such a build.
"""
import os, re

# file: of so many tests one, of so many parameters of a test one; 0: none; '': of files that are not named
ASAN = dict(dict.fromkeys('alloc embed ldconfig2ini'.split(), 0), **{
    'kinds_host': 2, 'dial': 2, 'dial_worker': 2, 'process': 2, 'match': 2, 'config': 2, 'kinds_time': 2,
    'kinds_config': 3, 'kinds_log': 3, 'deploy': 3, 'ctl': 4, '': 1})
REAL_ASAN = {'page': 0, 'servers': 2, '': 3}
NONE = dict.fromkeys('alloc config ctl embed ldconfig2ini routing kinds_config kinds_host'.split(), 0)
EPOLL = dict(NONE, **{
    'slow': 1, 'late': 1, 'proxy': 1, 'buffers': 1, 'splice': 1, 'health': 1, 'queue': 2, 'dial': 2, 'dial_worker': 2,
    'limits': 2, 'promises': 2, 'faults': 3, 'admin': 3, 'life': 4, 'match': 4, 'steering': 4, '': 6})
KQUEUE = {'slow': 1, 'proxy': 3, 'late': 3, 'queue': 4, 'dial': 4, 'dial_worker': 4, 'buffers': 4, 'promises': 4,
          'limits': 4, '': 0}
SHAKY = dict(NONE, **{
    'splice': 1, 'proxy': 2, 'buffers': 2, 'health': 2, 'logs_fail': 2, 'late': 2, 'dial': 3, 'dial_worker': 3,
    'faults': 3, 'limits': 3, 'roll': 6, 'deploy': 6, '': 4})
VARIANTS = {'asan': ASAN, 'real-asan': REAL_ASAN, 'epoll': EPOLL, 'kqueue': KQUEUE, 'shaky': SHAKY}
LONG = re.compile('test_(a_post_never_runs_twice|exact|twenty_reloads_under_load|a_resolver_that_hangs|names_are_resolved|'
                  'a_name_that_is_not_known|another_instances_end)')


def chosen(items, name):
    """Those of a variant, always the same; what is made for a variant stays in any case."""
    shares, seen, found = VARIANTS[name], {}, []
    for item in items:
        file = os.path.basename(item.location[0])[len('test_'):-len('.py')]
        share = shares.get(file, shares[''])
        function = item.name.partition('[')[0]
        among = (file, function) if '[' in item.name else (file,)
        n = seen[among] = seen.get(among, -1) + 1
        wanted = 'asan' in name if LONG.match(function) else share and n % share == 0
        if item.get_closest_marker(name) or wanted:
            found.append(item)
    return found
