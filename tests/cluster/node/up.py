"""Brings the node up: its own network, Kubernetes with real containers, Contour with Envoy, and Prometheus.

Everything listens inside one network namespace and keeps its state in one fresh folder.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import time

from down import cgroup_roots
from metrics import objects as metrics_objects
from processes import enter, running, start, wait
from settings import *

# Who speaks to the API server, and as what. Contour is given everything: its own roles are not what is tested.
USERS = {
    "admin": ("admin", "system:masters"),
    "kubelet": (f"system:node:{NODE}", "system:nodes"),
    "scheduler": ("system:kube-scheduler", ""),
    "controllers": ("system:kube-controller-manager", ""),
    "proxy": ("system:kube-proxy", ""),
    "contour": ("contour", "system:masters"),
}


def up() -> None:
    begun = time.monotonic()
    shutil.rmtree(RUN, ignore_errors=True)
    for folder in (LOGS, PIDS, PKI, CONFIG):
        folder.mkdir(parents=True)
    network()
    certificates()
    accounts()
    api_server()
    containers()
    controllers()
    edge()
    prometheus()
    metrics()
    ready()
    environment()
    print(f"the node is up after {time.monotonic() - begun:.0f} s: {ENV_FILE}", file=sys.stderr)


def network() -> None:
    """A namespace with the node's address. The kernel may have no dummy device, so a veth pair carries it."""
    ip("netns", "add", NETNS)
    inside = ["-n", NETNS]
    ip(*inside, "link", "set", "lo", "up")
    ip(*inside, "link", "add", "node0", "type", "veth", "peer", "name", "node0-peer")
    ip(*inside, "link", "set", "node0-peer", "up")
    ip(*inside, "addr", "add", f"{NODE_IP}/24", "dev", "node0")
    ip(*inside, "link", "set", "node0", "up")
    # Nobody answers there. Without a route an address of a Service is unreachable before kube-proxy can rewrite it.
    ip(*inside, "route", "add", "default", "via", GATEWAY_IP, "dev", "node0")
    run(enter() + ["sysctl", "-qw", "net.ipv4.ip_forward=1"])
    # What kube-proxy has not rewritten gets an answer of its own, at once, that no pod and no Service gives.
    refuse = ["iptables", "-A", "OUTPUT", "-d", SERVICE_CIDR, "-j", "REJECT", "--reject-with", "icmp-net-unreachable"]
    run(enter() + refuse)


def certificates() -> None:
    """One authority for the API server, one for the aggregation layer, and the key that signs account tokens."""
    for name in ("ca", "front-proxy-ca"):
        openssl_request(name, f"/CN={name}", "basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign")
    names = ["localhost", NODE, "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    addresses = ["127.0.0.1", NODE_IP, API_SERVICE_IP]
    alternatives = ",".join([f"DNS:{name}" for name in names] + [f"IP:{address}" for address in addresses])
    openssl_request("apiserver", "/CN=kube-apiserver", f"subjectAltName={alternatives}", signer="ca")
    openssl_request("metrics", "/CN=metrics", "subjectAltName=DNS:metrics.kube-system.svc", signer="ca")
    openssl_request("front-proxy", "/CN=front-proxy", "extendedKeyUsage=clientAuth", signer="front-proxy-ca")
    run(["openssl", "genpkey", "-quiet", *EC, "-out", PKI / "accounts.key"])
    run(["openssl", "pkey", "-in", PKI / "accounts.key", "-pubout", "-out", PKI / "accounts.pub"])


EC = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]


def openssl_request(name: str, subject: str, *extensions: str, signer: str | None = None) -> None:
    run(["openssl", "genpkey", *EC, "-out", PKI / f"{name}.key"])
    argv = ["openssl", "req", "-x509", "-new", "-days", "30", "-key", PKI / f"{name}.key", "-subj", subject]
    for extension in extensions:
        argv += ["-addext", extension]
    if signer:
        argv += ["-addext", "basicConstraints=critical,CA:FALSE"]
        argv += ["-CA", PKI / f"{signer}.crt", "-CAkey", PKI / f"{signer}.key"]
    run([*argv, "-out", PKI / f"{name}.crt"])


def accounts() -> None:
    """A token and a kubeconfig for each of the users."""
    tokens = []
    for name, (user, groups) in USERS.items():
        token = secrets.token_hex(16)
        tokens.append(f'{token},{user},{name},"{groups}"\n')
        config(
            f"{name}.kubeconfig",
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [
                    {"name": NETNS, "cluster": {"server": API_URL, "certificate-authority": str(PKI / "ca.crt")}}
                ],
                "users": [{"name": name, "user": {"token": token}}],
                "contexts": [{"name": NETNS, "context": {"cluster": NETNS, "user": name}}],
                "current-context": NETNS,
            },
        )
    (CONFIG / "tokens.csv").write_text("".join(tokens))


def api_server() -> None:
    client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
    start(
        "etcd",
        [BIN / "etcd", "--data-dir", RUN / "etcd", "--initial-cluster", f"default={peer}", "--log-level", "warn"]
        + ["--listen-client-urls", client, "--advertise-client-urls", client]
        + ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        # The state outlives no power cut, and need not: a sync for each write is what makes a small machine slow.
        + ["--unsafe-no-fsync"],
    )
    config(
        "audit.yaml",
        {
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            # One line for each request, when it is over: tests count them by user agent.
            "omitStages": ["RequestReceived", "ResponseStarted"],
            "rules": [
                {"level": "None", "users": ["system:apiserver"]},
                {"level": "None", "nonResourceURLs": ["/readyz*", "/livez*", "/healthz*"]},
                {"level": "Metadata"},
            ],
        },
    )
    flags = {
        "etcd-servers": client,
        "cert-dir": RUN / "apiserver",
        # Pods reach it by the node's address, programs on the node by 127.0.0.1.
        "bind-address": "0.0.0.0",
        "advertise-address": NODE_IP,
        "secure-port": "6443",
        "tls-cert-file": PKI / "apiserver.crt",
        "tls-private-key-file": PKI / "apiserver.key",
        "client-ca-file": PKI / "ca.crt",
        "token-auth-file": CONFIG / "tokens.csv",
        "authorization-mode": "Node,RBAC",
        "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
        "service-account-signing-key-file": PKI / "accounts.key",
        "service-account-key-file": PKI / "accounts.pub",
        "service-cluster-ip-range": SERVICE_CIDR,
        "enable-admission-plugins": "NodeRestriction",
        "allow-privileged": "true",
        "profiling": "false",
        # Aggregated APIs: tests serve metrics for the autoscaler from their own process.
        "enable-aggregator-routing": "true",
        "requestheader-client-ca-file": PKI / "front-proxy-ca.crt",
        "requestheader-allowed-names": "front-proxy",
        "requestheader-username-headers": "X-Remote-User",
        "requestheader-group-headers": "X-Remote-Group",
        "requestheader-extra-headers-prefix": "X-Remote-Extra-",
        "proxy-client-cert-file": PKI / "front-proxy.crt",
        "proxy-client-key-file": PKI / "front-proxy.key",
        # The hold for changes made by others; served as v1 and without a gate from 1.36 on.
        "feature-gates": "MutatingAdmissionPolicy=true",
        "runtime-config": "admissionregistration.k8s.io/v1beta1=true",
        "audit-policy-file": CONFIG / "audit.yaml",
        "audit-log-path": RUN / "audit.log",
        # One file that is never rotated away under a test that reads it.
        "audit-log-maxsize": "4000",
        "kubelet-preferred-address-types": "InternalIP",
    }
    start("apiserver", command("kube-apiserver", flags))


def containers() -> None:
    """containerd with the sample images. It needs no API server, so it starts while that one does."""
    (RUN / "cni").mkdir()
    config(
        "../cni/10-wade.conflist",
        {
            "cniVersion": "0.4.0",
            "name": "wade",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "cni0",
                    "isGateway": True,
                    "ipMasq": False,
                    "hairpinMode": True,
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": POD_CIDR}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                        "dataDir": str(RUN / "cni-addresses"),
                    },
                }
            ],
        },
    )
    (CONFIG / "containerd.toml").write_text(f"""version = 2
root = "{RUN}/containerd/root"
state = "{RUN}/containerd/state"
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{RUN}/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  # Without CAP_SYS_RESOURCE a process may not lower its score, and sandboxes end with "can't get final child's PID".
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{RUN}/cni"
""")
    start("containerd", ["containerd", "-c", CONFIG / "containerd.toml"])
    ctr = ["ctr", "-a", CONTAINERD_SOCKET, "-n", "k8s.io"]
    until("containerd answers", "containerd", lambda: succeeds([*ctr, "version"]))
    for archive in sorted(IMAGES.glob("*.tar")):
        run([*ctr, "images", "import", archive])


def controllers() -> None:
    until("the API server is ready", "apiserver", lambda: kubectl("get", "--raw", "/readyz").strip() == "ok", 90)
    # Each in place of its default: an idle cluster may be slow, these tests want to see the next round soon.
    flags = {
        "kubeconfig": CONFIG / "controllers.kubeconfig",
        "service-account-private-key-file": PKI / "accounts.key",
        "root-ca-file": PKI / "ca.crt",
        "use-service-account-credentials": "true",
        "leader-elect": "false",
        "bind-address": "127.0.0.1",
        "cluster-cidr": POD_CIDR,
        "allocate-node-cidrs": "false",
        "kube-api-qps": "200",
        "kube-api-burst": "400",
        # After an outage of the API server a busy machine's kubelet reports late. The only node called not ready is an
        # outage of everything, and of nothing that is tried here.
        "node-monitor-grace-period": "5m",
        "horizontal-pod-autoscaler-sync-period": "5s",
        "horizontal-pod-autoscaler-downscale-stabilization": "5s",
        "horizontal-pod-autoscaler-initial-readiness-delay": "1s",
        "horizontal-pod-autoscaler-cpu-initialization-period": "1s",
    }
    start("controllers", command("kube-controller-manager", flags))
    flags = {"kubeconfig": CONFIG / "scheduler.kubeconfig", "leader-elect": "false", "bind-address": "127.0.0.1"}
    start("scheduler", command("kube-scheduler", flags))
    kubelet()
    config(
        "kube-proxy.yaml",
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clientConnection": {"kubeconfig": str(CONFIG / "proxy.kubeconfig")},
            "clusterCIDR": POD_CIDR,
            "hostnameOverride": NODE,
            "bindAddress": NODE_IP,
            # The kernel may have no br_netfilter: then the answer of a pod to its neighbour on the bridge passes by
            # the rules that would turn the addresses back, unless it goes through the node.
            "iptables": {"masqueradeAll": True},
            # These limits are the whole machine's, and may not be ours to set.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        },
    )
    start("kube-proxy", [BIN / "kube-proxy", "--config", CONFIG / "kube-proxy.yaml"])


def kubelet() -> None:
    for root in cgroup_roots():
        root.mkdir(exist_ok=True)
    config(
        "kubelet.yaml",
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": NODE_IP,
            # The API server alone comes here, for logs and exec; there is nobody else in the namespace.
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
            "podLogsDir": str(RUN / "pod-logs"),
            "resolvConf": "/dev/null",
            "clusterDomain": "cluster.local",
            # Nobody answers there, but without it there is a warning at every pod.
            "clusterDNS": [DNS_IP],
            # A root of its own: a kubelet removes what it does not know below its root, and there may be another one.
            "cgroupRoot": f"/{NETNS}",
            "cgroupDriver": "cgroupfs",
            "cgroupsPerQOS": True,
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            "failCgroupV1": False,
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "maxPods": 250,
            "registryPullQPS": 0,
            "eventRecordQPS": 0,
            "serializeImagePulls": False,
        },
    )
    flags = {
        "config": CONFIG / "kubelet.yaml",
        "kubeconfig": CONFIG / "kubelet.kubeconfig",
        "node-ip": NODE_IP,
        "hostname-override": NODE,
        "root-dir": RUN / "kubelet",
        "cert-dir": RUN / "kubelet" / "pki",
    }
    start("kubelet", command("kubelet", flags))


def edge() -> None:
    """Contour and Envoy as processes of the node: the one reads Gateways and routes, the other reaches the pods."""
    for file in sorted(CRDS.glob("*.yaml")):
        kubectl("create", "-f", str(file))
    kubectl("wait", "crd", "--all", "--for=condition=Established", "--timeout=30s")
    objects = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "gateway"}},
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "GatewayClass",
            "metadata": {"name": "contour"},
            "spec": {"controllerName": "projectcontour.io/gateway-controller"},
        },
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "Gateway",
            "metadata": {"name": "edge", "namespace": "gateway"},
            "spec": {
                "gatewayClassName": "contour",
                "listeners": [
                    {
                        "name": "http",
                        "protocol": "HTTP",
                        "port": GATEWAY_PORT,
                        "allowedRoutes": {"namespaces": {"from": "All"}},
                    }
                ],
            },
        },
    ]
    kubectl("create", "-f", "-", given=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    config("contour.yaml", {"gateway": {"gatewayRef": {"namespace": "gateway", "name": "edge"}}})
    xds = {"xds-address": "127.0.0.1", "xds-port": "8001"}
    flags = xds | {
        "config-path": CONFIG / "contour.yaml",
        "kubeconfig": CONFIG / "contour.kubeconfig",
        "ingress-status-address": NODE_IP,
        "health-address": "127.0.0.1",
        "http-address": "127.0.0.1",
        "stats-address": "127.0.0.1",
    }
    switches = ["--insecure", "--disable-leader-election"]
    # Only the standard channel's kinds are installed.
    switches += [f"--disable-feature={kind}" for kind in ("tlsroutes", "tcproutes", "backendtlspolicies")]
    start("contour", command("contour", flags, "serve") + switches)
    bootstrap = xds | {"xds-resource-version": "v3", "namespace": "gateway", "admin-address": RUN / "envoy-admin.sock"}
    run(command("contour", bootstrap, "bootstrap") + [CONFIG / "envoy.json"])
    flags = {"config-path": CONFIG / "envoy.json", "service-cluster": "gateway", "service-node": "edge"}
    flags |= {"log-level": "warning", "concurrency": "1"}
    # Unlike all the others it wants the values as words of their own.
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    start("envoy", [BIN / "envoy", *words, "--disable-hot-restart"])


def prometheus() -> None:
    """It scrapes what the tests write into the targets' folder: Debian's is built without the Kubernetes discovery."""
    (RUN / "prometheus" / "targets").mkdir(parents=True)
    config(
        "prometheus.yaml",
        {
            "global": {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "2s"},
            "scrape_configs": [
                {
                    "job_name": "pods",
                    "file_sd_configs": [
                        {"files": [str(RUN / "prometheus" / "targets" / "*.json")], "refresh_interval": "2s"}
                    ],
                }
            ],
        },
    )
    flags = {
        "config.file": CONFIG / "prometheus.yaml",
        "storage.tsdb.path": RUN / "prometheus" / "data",
        "web.listen-address": PROMETHEUS_URL.removeprefix("http://"),
        "log.level": "warn",
    }
    start("prometheus", ["prometheus", *(f"--{name}={value}" for name, value in flags.items())])


def metrics() -> None:
    """What autoscalers read, with the values that tests write."""
    start("metrics", [sys.executable, "-B", HERE / "metrics.py"])
    # A group that does not answer when it is announced is looked at again only after ten seconds.
    url = f"https://{NODE_IP}:{METRICS_PORT}/apis/metrics.k8s.io/v1beta1"
    until("the metrics are served", "metrics", lambda: fetch(url))
    kubectl("create", "-f", "-", given=json.dumps({"apiVersion": "v1", "kind": "List", "items": metrics_objects()}))


def ready() -> None:
    node = "{.status.conditions[?(@.type=='Ready')].status}"
    until("the node is Ready", "kubelet", lambda: kubectl("get", "node", NODE, "-o", f"jsonpath={node}") == "True")
    gateway = "{.status.conditions[?(@.type=='Accepted')].status}{.status.conditions[?(@.type=='Programmed')].status}"
    edge = ("get", "gateway", "edge", "-n", "gateway", "-o", f"jsonpath={gateway}")
    until("the Gateway is accepted and programmed", "contour", lambda: kubectl(*edge) == "TrueTrue")
    until("Envoy is ready", "envoy", lambda: fetch("http://127.0.0.1:8002/ready"))
    known = "{.items[?(@.spec.service.name=='metrics')].status.conditions[?(@.type=='Available')].status}"
    apis = ("get", "apiservices", "-o", f"jsonpath={known}")
    until("the metrics APIs are available", "metrics", lambda: kubectl(*apis) == "True True True")
    until("Prometheus is ready", "prometheus", lambda: fetch(f"{PROMETHEUS_URL}/-/ready"))


def environment() -> None:
    """What a test has to know; lines of a shell."""
    values = {
        "KUBECONFIG": CONFIG / "admin.kubeconfig",
        "WADE_CLUSTER_KUBECTL": BIN / "kubectl",
        "WADE_CLUSTER_NODE": HERE / "node",
        "WADE_CLUSTER_NETNS": NETNS,
        "WADE_CLUSTER_RUN": RUN,
        "WADE_CLUSTER_CACHE": CACHE,
        "WADE_CLUSTER_NODE_IP": NODE_IP,
        "WADE_CLUSTER_API": API_URL,
        "WADE_CLUSTER_ENVOY": f"127.0.0.1:{ENVOY_PORT}",
        "WADE_CLUSTER_ENVOY_ADMIN": RUN / "envoy-admin.sock",
        "WADE_CLUSTER_PROMETHEUS": PROMETHEUS_URL,
        "WADE_CLUSTER_TARGETS": RUN / "prometheus" / "targets",
        "WADE_CLUSTER_METRICS": RUN / "metrics",
        "WADE_CLUSTER_AUDIT_LOG": RUN / "audit.log",
        "WADE_CLUSTER_PIDS": PIDS,
        "WADE_CLUSTER_LOGS": LOGS,
        "WADE_CLUSTER_IMAGE": IMAGE,
    }
    ENV_FILE.write_text("".join(f"{key}='{value}'\n" for key, value in values.items()))


def config(name: str, content: dict) -> None:
    """Writes a config file. They are YAML by name, and JSON is YAML."""
    (CONFIG / name).write_text(json.dumps(content, indent=1) + "\n")


def command(program: str, flags: dict, *subcommand: str) -> list[str]:
    return [str(BIN / program), *subcommand, *(f"--{name}={value}" for name, value in flags.items())]


def kubectl(*words: str, given: str | None = None) -> str:
    """The output of kubectl as admin. A failure is empty output for `until`, and said at once for everything else."""
    argv = enter() + [str(BIN / "kubectl"), f"--kubeconfig={CONFIG / 'admin.kubeconfig'}", *words]
    done = subprocess.run(argv, input=given, capture_output=True, text=True)
    if done.returncode != 0 and words[0] != "get":
        sys.exit(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def fetch(url: str) -> bool:
    return succeeds(["curl", "-skf", "-m", "2", "-o", "/dev/null", url])


def succeeds(argv: list) -> bool:
    return subprocess.run(enter() + [str(word) for word in argv], capture_output=True).returncode == 0


def until(what: str, part: str, holds, seconds: float = 60) -> None:
    begun = time.monotonic()
    wait(lambda: holds() or not running(part), seconds, every=0.2)
    if not running(part) or not holds():
        log = (LOGS / f"{part}.log").read_text(errors="replace").splitlines()[-25:]
        took = f"after {time.monotonic() - begun:.0f} s"
        state = "runs" if running(part) else "has ended"
        sys.exit("\n".join([f"{took} it is still not so that {what}; {part} {state}, and its log ends:", *log]))


def ip(*words: str) -> None:
    run(["ip", *words])


def run(argv: list) -> None:
    argv = [str(word) for word in argv]
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        sys.exit(f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}")
