"""Ends everything that `up` started, whatever state it is in: also after a part was killed, or `up` gave up halfway.

Nothing here asks the node itself. Containers are found by the bundles that containerd keeps on disk, the processes in
them by their cgroup, mounts by where they are.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import processes
from settings import *

BUNDLES = RUN / "containerd" / "state" / "io.containerd.runtime.v2.task" / "k8s.io"


def down() -> None:
    # Without warning: nothing of what they know is kept. The kubelet first, or it starts again what is ended below;
    # containerd after the containers, or its shims report to nobody.
    for name in sorted(processes.names(), key=lambda name: name != "kubelet"):
        if name != "containerd":
            processes.stop(name, force=True)
    specs = _specs()
    for root in cgroup_roots():
        for pid in _members(root):
            processes.kill(pid)
    for pid in _shims():
        processes.kill(pid)
    processes.wait(lambda: not _shims() and not any(_members(root) for root in cgroup_roots()), 10)
    processes.stop("containerd", force=True)
    for bundle, spec in specs.items():
        _forget(bundle, spec)
    for target in _mounts():
        subprocess.run(["umount", "--lazy", target], capture_output=True)
    for root in cgroup_roots():
        _remove_cgroup(root)
    _dangling_logs()
    if Path(f"/var/run/netns/{NETNS}").exists():
        subprocess.run(["ip", "netns", "delete", NETNS], capture_output=True)
    if left := leftovers():
        sys.exit("the node is down, but this is left: " + "; ".join(left))


def leftovers() -> list[str]:
    """What should not be there any more."""
    left = [f"process {name}" for name in processes.names() if processes.running(name)]
    left += [f"shim {pid}" for pid in _shims()]
    left += [f"process {pid} in {root}" for root in cgroup_roots() for pid in _members(root)]
    left += [f"mount {target}" for target in _mounts()]
    left += [f"cgroup {root}" for root in cgroup_roots() if root.exists()]
    if Path(f"/var/run/netns/{NETNS}").exists():
        left.append(f"network namespace {NETNS}")
    return left


def cgroup_roots() -> list[Path]:
    """The node's own cgroup, in each hierarchy that there is (one with cgroups v2)."""
    base = Path("/sys/fs/cgroup")
    if (base / "cgroup.controllers").exists():
        return [base / NETNS]
    # Version 1: a folder per controller, some of them links to another one.
    hierarchies = {folder.resolve() for folder in base.iterdir() if (folder / "cgroup.procs").exists()}
    return sorted(folder / NETNS for folder in hierarchies)


def _specs() -> dict[Path, dict]:
    """What each container was made of, by its bundle; containerd takes bundles away while we look."""
    specs = {}
    for bundle in BUNDLES.glob("*"):
        try:
            specs[bundle] = json.loads((bundle / "config.json").read_text())
        except (OSError, ValueError):
            continue
    return specs


def _cgroups(root: Path) -> list[Path]:
    """The cgroup and all below it, the deepest first.

    Not `rglob`: that raises where a folder goes between its being listed and its being read, and these do.
    """
    return [Path(folder) for folder, _, _ in os.walk(root, topdown=False)]


def _members(root: Path) -> set[int]:
    pids = set()
    for folder in _cgroups(root):
        try:
            pids.update(map(int, (folder / "cgroup.procs").read_text().split()))
        except OSError:
            # The cgroup went while we looked.
            continue
    return pids


def _remove_cgroup(root: Path) -> None:
    """A cgroup is removed as an empty folder, though it shows files; the deepest first."""
    for folder in _cgroups(root):
        _rmdir(folder)


def _rmdir(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        # Gone already, or still in use: what is left is reported at the end.
        pass


def _shims() -> list[int]:
    """The processes that hold containers for our containerd: each names its socket."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "shim" in words[0] and str(CONTAINERD_SOCKET) in words:
            found.append(int(process.name))
    return found


def _forget(bundle: Path, spec: dict) -> None:
    """Takes away what a container left outside of our folder: its shim's socket and its pod's network namespace."""
    address = bundle / "address"
    if address.exists():
        Path(address.read_text().removeprefix("unix://")).unlink(missing_ok=True)
    for namespace in spec.get("linux", {}).get("namespaces", []):
        path = namespace.get("path", "")
        if namespace["type"] == "network" and "/netns/cni-" in path and Path(path).exists():
            subprocess.run(["umount", "--lazy", path], capture_output=True)
            Path(path).unlink(missing_ok=True)


def _mounts() -> list[str]:
    """What is mounted below our folder, the deepest first."""
    with open("/proc/self/mountinfo") as file:
        # Spaces in a path are written as \040.
        targets = [line.split()[4].encode().decode("unicode_escape") for line in file]
    return sorted((target for target in targets if target.startswith(f"{RUN}/")), reverse=True)


def _dangling_logs() -> None:
    """The kubelet links each container's log from a folder that cannot be chosen."""
    folder = Path("/var/log/containers")
    for link in folder.glob("*.log") if folder.exists() else []:
        if link.is_symlink() and os.readlink(link).startswith(f"{RUN}/"):
            link.unlink()
