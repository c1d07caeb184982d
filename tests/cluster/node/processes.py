"""Starting and ending processes in the node's network namespace, and nobody else's.

A process is remembered by its id and the moment it started, so that an id which the kernel has given to somebody else
in the meantime is left alone. Its command line is remembered too: it can be started again as it was.
"""

import json
import os
import signal
import subprocess
import sys
import time

from settings import *


def enter() -> list[str]:
    """What goes before a command that is to run in the namespace.

    Not `ip netns exec`: that mounts /sys anew, and kubelet and runc no longer find the cgroups.
    """
    return ["nsenter", f"--net=/var/run/netns/{NETNS}"]


def start(name: str, argv: list, env: dict | None = None) -> None:
    command = {"argv": [str(word) for word in argv], "env": env or {}}
    (PIDS / f"{name}.json").write_text(json.dumps(command, indent=1))
    restart(name)


def restart(name: str) -> None:
    """Starts `name` as it was started before, unless it runs."""
    recipe = PIDS / f"{name}.json"
    if not recipe.exists():
        sys.exit(f"nothing called {name} was ever started here; there are: {' '.join(names())}")
    if running(name):
        return
    command = json.loads(recipe.read_text())
    with open(LOGS / f"{name}.log", "ab") as log:
        process = subprocess.Popen(
            enter() + command["argv"],
            cwd=RUN,
            env=os.environ | command["env"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # Of its own session: a Ctrl-C at the terminal is for the tests, the node is ended by `down`.
            start_new_session=True,
        )
    (PIDS / f"{name}.pid").write_text(f"{process.pid} {_born(process.pid)}\n")


def names() -> list[str]:
    return sorted(file.stem for file in PIDS.glob("*.json")) if PIDS.exists() else []


def running(name: str) -> int | None:
    """Its process id, if it runs and is the one that was started."""
    try:
        pid, born = (PIDS / f"{name}.pid").read_text().split()
    except FileNotFoundError:
        return None
    return int(pid) if _born(int(pid)) == born else None


def stop(name: str, force: bool = False, patience: float = 10) -> None:
    """Ends it and waits until it has gone; harder if it does not go, or at once if forced."""
    pid = running(name)
    if pid is None:
        return
    _signal(pid, signal.SIGKILL if force else signal.SIGTERM)
    if not wait(lambda: running(name) is None, patience):
        _signal(pid, signal.SIGKILL)
        wait(lambda: running(name) is None, patience)
    (PIDS / f"{name}.pid").unlink(missing_ok=True)


def wait(ready, seconds: float, every: float = 0.1) -> bool:
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True


def kill(pid: int) -> None:
    _signal(pid, signal.SIGKILL)


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _born(pid: int) -> str | None:
    """When the process started, in the kernel's ticks; nothing for one that has ended and only waits to be reaped."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            # The command's name stands in parentheses and may hold anything, a parenthesis too.
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    try:
        # A child of ours that has ended stays a zombie until it is asked for.
        if fields[0] == "Z":
            os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass
    return None if fields[0] in "ZX" else fields[19]
