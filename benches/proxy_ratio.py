#!/usr/bin/env python3
"""Our proxy beside haproxy on this machine: same backend, keep-alive HTTP/1.1, small answers, 95:5 weights.

Runs interleaved (ours, theirs, ours, ...), so that whatever else the machine does hits both; prints the medians and
the ratio of each pair. Goal: at least 0.7 of haproxy's throughput, at most 1.5 times its p99.
Usage: proxy_ratio.py <proxy_ratio program> [rounds] [seconds] [connections]
"""

import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HAPROXY = """
global
    nbthread {threads}
    maxconn 8192
defaults
    mode http
    timeout connect 2s
    timeout client 75s
    timeout server 60s
    timeout http-request 10s
    timeout http-keep-alive 75s
    option forwardfor
    http-reuse safe
frontend front
    bind 127.0.0.1:{port}
    default_backend back
backend back
    balance roundrobin
    server stable {backend} weight 190
    server canary {backend} weight 10
"""


def start(*command):
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline().strip()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port):
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    sys.exit("haproxy did not start listening")


def milliseconds(text):
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000}[unit]


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(address, pid, seconds, connections):
    before = cpu_seconds(pid)
    out = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", f"http://{address}/"],
        capture_output=True, text=True, check=True,
    ).stdout
    if "Non-2xx" in out or "Socket errors" in out:
        print(out)
    count = int(re.search(r"(\d+) requests in", out).group(1))
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1))
    p99 = milliseconds(re.search(r"^\s+99%\s+(\S+)", out, re.MULTILINE).group(1))
    return rate, p99, (cpu_seconds(pid) - before) / count * 1e6


def main():
    program = sys.argv[1]
    rounds, seconds, connections = (int(given) for given in (sys.argv[2:5] + ["7", "4", "32"][len(sys.argv) - 2:]))
    for tool in ("haproxy", "wrk"):
        if not shutil.which(tool):
            print(f"skipped: {tool} is not installed")
            return
    with tempfile.TemporaryDirectory() as folder:
        backend, backend_address = start(program, "backend")
        ours, our_address = start(program, "proxy", backend_address)
        port = free_port()
        config = os.path.join(folder, "haproxy.cfg")
        with open(config, "w") as file:
            file.write(HAPROXY.format(threads=os.cpu_count(), port=port, backend=backend_address))
        theirs = subprocess.Popen(["haproxy", "-q", "-db", "-f", config])
        try:
            wait_for(port)
            sides = {"wade": (our_address, ours.pid), "haproxy": (f"127.0.0.1:{port}", theirs.pid)}
            for address, pid in sides.values():
                run(address, pid, 1, connections)
            seen = {side: [] for side in sides}
            for turn in range(rounds):
                for side in sorted(sides, reverse=turn % 2 == 0):
                    seen[side].append(run(*sides[side], seconds, connections))
                pair = [seen[side][-1] for side in ("wade", "haproxy")]
                print(
                    f"round {turn + 1}: wade {pair[0][0]:7.0f}/s p99 {pair[0][1]:6.2f} ms {pair[0][2]:5.1f} us CPU"
                    f" | haproxy {pair[1][0]:7.0f}/s p99 {pair[1][1]:6.2f} ms {pair[1][2]:5.1f} us CPU",
                    flush=True,
                )
            pairs = list(zip(seen["wade"], seen["haproxy"]))
            ratio = [statistics.median(a[field] / b[field] for a, b in pairs) for field in range(3)]
            print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {connections} connections")
            for side in sides:
                medians = [statistics.median(one[field] for one in seen[side]) for field in range(3)]
                print(f"{side:8} median {medians[0]:.0f}/s, p99 {medians[1]:.2f} ms, {medians[2]:.1f} us CPU a request")
            print(f"ratio    throughput {ratio[0]:.2f} (goal >= 0.70), p99 {ratio[1]:.2f} (goal <= 1.50), CPU {ratio[2]:.2f}")
        finally:
            for process in (ours, backend, theirs):
                process.terminate()
                process.wait()


main()
