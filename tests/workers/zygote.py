"""Runs Python scripts without starting Python for each: one process that has imported what takes long forks for every
run (harness.script). Its standard input is a socket; a message is {argv, cwd, env} with three descriptors, which are
stdout and stderr of the script and a pipe for its pid and its exit status."""
import argparse, difflib, http.client, io, json, os, re, runpy, shlex, signal, socket, sys, time  # noqa: F401
import traceback, urllib.parse  # noqa: F401


def script(argv, cwd, env, out, err):
    """As `python3 argv[0] ...` does it. -> the exit status"""
    null = os.open('/dev/null', os.O_RDONLY)
    for n, fd in enumerate((null, out, err)):
        os.dup2(fd, n)
    os.closerange(3, max(null, out, err) + 1)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv, sys.path[0] = argv, os.path.dirname(os.path.abspath(argv[0]))
    sys.stdin, sys.stdout, sys.stderr = open(0), io.TextIOWrapper(open(1, 'wb'), 'utf-8', 'surrogateescape'), \
        io.TextIOWrapper(open(2, 'wb'), 'utf-8', 'backslashreplace', line_buffering=True)
    status = 0
    try:
        runpy.run_path(argv[0], run_name='__main__')
    except SystemExit as e:
        status = e.code if isinstance(e.code, int) else int(e.code is not None)
        if isinstance(e.code, str):
            print(e.code, file=sys.stderr)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def main():
    sock = socket.socket(fileno=os.dup(0))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        data, fds, _, _ = socket.recv_fds(sock, 1 << 20, 3)
        if not data:
            return
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            sock.close()
            out, err, told = fds
            pid = os.fork()
            if pid == 0:
                os.close(told)
                os._exit(script(out=out, err=err, **json.loads(data)) & 255)
            os.write(told, b'%d ' % pid)
            os.write(told, b'%d' % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            os._exit(0)
        for fd in fds:
            os.close(fd)


main()
