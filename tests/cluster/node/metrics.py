"""The metrics that a HorizontalPodAutoscaler reads, in all three kinds, with the values that a test has written.

An aggregated API as metrics-server and the Prometheus adapter are: the API server passes requests for these groups on
to this program. Values come from RUN/metrics/NAMESPACE.json, read anew for each request:

  {"pods":     {"cpu": {"": "150m"}, "memory": {"": "20Mi"}, "http_requests": {"": "10", "app-5c9f": "90"}},
   "objects":  {"requests": "400"},
   "external": {"queue_length": "30"}}

A pod's value is that of the longest beginning of its name; "" is for all the others. `cpu` and `memory` are what the
resource metrics are made of. What is not written there is not known, as of a metrics server that has gone.
"""

import base64
import json
import ssl
import sys
import urllib.parse
import urllib.request
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from settings import *

RESOURCE = "metrics.k8s.io/v1beta1"
CUSTOM = "custom.metrics.k8s.io/v1beta2"
EXTERNAL = "external.metrics.k8s.io/v1beta1"
VALUES = RUN / "metrics"


class Unknown(Exception):
    """There is no such metric."""


def answer(path: str, query: dict[str, list[str]]) -> dict:
    """What is served at a path."""
    selector = query.get("labelSelector", [""])[0]
    match path.strip("/").split("/"):
        case ["apis", group, version]:
            about = {"groupVersion": f"{group}/{version}", "resources": []}
            return {"kind": "APIResourceList", "apiVersion": "v1"} | about
        case ["apis", "metrics.k8s.io", _, "namespaces", namespace, "pods"]:
            items = [resource(pod, namespace) for pod in pods(namespace, selector)]
            return {"kind": "PodMetricsList", "apiVersion": RESOURCE, "metadata": {}, "items": [i for i in items if i]}
        case ["apis", "custom.metrics.k8s.io", _, "namespaces", namespace, "pods", "*", name]:
            known = values(namespace, "pods", name)
            names = [pod["metadata"]["name"] for pod in pods(namespace, selector)]
            items = [custom("Pod", namespace, pod, name, for_pod(known, pod)) for pod in names]
            return {"kind": "MetricValueList", "apiVersion": CUSTOM, "metadata": {}, "items": [i for i in items if i]}
        case ["apis", "custom.metrics.k8s.io", _, "namespaces", namespace, kind, object_name, name]:
            items = [custom(kind, namespace, object_name, name, values(namespace, "objects", name))]
            return {"kind": "MetricValueList", "apiVersion": CUSTOM, "metadata": {}, "items": items}
        case ["apis", "external.metrics.k8s.io", _, "namespaces", namespace, name]:
            value = values(namespace, "external", name)
            item = {"metricName": name, "metricLabels": {}, "timestamp": now(), "value": value}
            return {"kind": "ExternalMetricValueList", "apiVersion": EXTERNAL, "metadata": {}, "items": [item]}
    raise Unknown


def resource(pod: dict, namespace: str) -> dict | None:
    name = pod["metadata"]["name"]
    usage = {}
    for kind in ("cpu", "memory"):
        try:
            usage[kind] = for_pod(values(namespace, "pods", kind), name)
        except Unknown:
            pass
    if not usage.get("cpu"):
        return None
    containers = [{"name": container["name"], "usage": usage} for container in pod["spec"]["containers"]]
    about = {"name": name, "namespace": namespace, "labels": pod["metadata"].get("labels", {})}
    return {"metadata": about, "timestamp": now(), "window": "5s", "containers": containers}


def custom(kind: str, namespace: str, about: str, name: str, value: str | None) -> dict | None:
    described = {"kind": kind, "namespace": namespace, "name": about, "apiVersion": "/v1"}
    item = {"describedObject": described, "metric": {"name": name}, "timestamp": now(), "windowSeconds": 5}
    return item | {"value": value} if value is not None else None


def values(namespace: str, kind: str, name: str):
    try:
        return json.loads((VALUES / f"{namespace}.json").read_text())[kind][name]
    except (FileNotFoundError, KeyError, json.JSONDecodeError) as error:
        raise Unknown from error


def for_pod(known: dict[str, str], pod: str) -> str | None:
    beginnings = [beginning for beginning in known if pod.startswith(beginning)]
    return known[max(beginnings, key=len)] if beginnings else None


def pods(namespace: str, selector: str) -> list[dict]:
    """The running pods, asked of the API server: it alone knows what a selector selects."""
    query = urllib.parse.urlencode({"labelSelector": selector, "fieldSelector": "status.phase=Running"})
    account = json.loads((CONFIG / "admin.kubeconfig").read_text())
    request = urllib.request.Request(f"{API_URL}/api/v1/namespaces/{namespace}/pods?{query}")
    request.add_header("Authorization", f"Bearer {account['users'][0]['user']['token']}")
    request.add_header("User-Agent", "wade-cluster-metrics")
    context = ssl.create_default_context(cafile=PKI / "ca.crt")
    with urllib.request.urlopen(request, context=context, timeout=5) as response:
        return json.load(response)["items"]


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def failure(code: int, message: str) -> dict:
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        try:
            status, body = 200, answer(urllib.parse.unquote(url.path), urllib.parse.parse_qs(url.query))
        except Unknown:
            status, body = 404, failure(404, "there is no such metric")
        except OSError as error:
            status, body = 503, failure(503, str(error))
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_) -> None:
        pass


def objects() -> list[dict]:
    """What tells the API server of this program: a Service without pods, and the three groups behind it."""
    name, namespace, port = "metrics", "kube-system", 443
    about = {"name": name, "namespace": namespace}
    found = [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": about,
            "spec": {"ports": [{"name": "https", "port": port}]},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": about | {"labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "ports": [{"name": "https", "port": METRICS_PORT, "protocol": "TCP"}],
            "endpoints": [{"addresses": [NODE_IP], "conditions": {"ready": True}}],
        },
    ]
    authority = base64.b64encode((PKI / "ca.crt").read_bytes()).decode()
    for api in (RESOURCE, CUSTOM, EXTERNAL):
        group, version = api.split("/")
        spec = {"group": group, "version": version, "groupPriorityMinimum": 100, "versionPriority": 100}
        spec |= {"service": about | {"port": port}, "caBundle": authority}
        about_api = {"name": f"{version}.{group}"}
        kind = {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService"}
        found.append(kind | {"metadata": about_api, "spec": spec})
    return found


if __name__ == "__main__":
    VALUES.mkdir(exist_ok=True)
    server = ThreadingHTTPServer((NODE_IP, METRICS_PORT), Handler)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(PKI / "metrics.crt", PKI / "metrics.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    print("serving", file=sys.stderr, flush=True)
    server.serve_forever()
