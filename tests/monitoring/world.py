"""Something to look at: PostgreSQL, a control plane, an operator, a sidecar that it leads, load on it, and Prometheus."""

import base64
import http.client
import json
import os
import ssl
import subprocess
import urllib.parse
import urllib.request

from lab import postgres, process, wire

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
USER, PASSWORD, DATABASE = "app", "the-password-of-this-test", "orders"
SHOP = "shop"
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get(port, path):
    with _direct.open(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return answer.read().decode()


class World:
    """Started by the constructor; process.end_all() ends it."""

    def __init__(self, binary):
        self.binary = binary
        self.folder = process.folder("monitoring")
        self.postgres = postgres.Postgres(self.folder)
        admin = self.postgres.admin()
        admin.query(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'")
        admin.query(f"CREATE DATABASE {DATABASE} OWNER {USER}")
        admin.close()
        self.cluster = f"{self.folder}/cluster"
        self.cluster_process = process.Process(
            "the control plane", [f"{ROOT}/tests/cluster/up", "--control-plane", "--foreground", self.cluster], f"{self.folder}/cluster.log"
        )
        process.wait_for(lambda: os.path.exists(f"{self.cluster}/ready"), "the control plane", 60, self.cluster_process)
        self.ports = {name: process.free_port() for name in ("clients", "sidecar", "operator", "stream", "webhook")}
        self.prepare()
        self.start_operator()
        self.start_sidecar()
        self.start_load()

    def kubectl(self, *args, given=None):
        command = [f"{ROOT}/tests/cluster/kubectl", "--cluster", self.cluster, *args]
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"kubectl {' '.join(args)}: {done.stderr}")
        return done.stdout

    def apply(self, *objects):
        self.kubectl("apply", "--server-side", "-f", "-", given=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def policy(self, name, port, size):
        """A policy for the pod; `port` is its database's."""
        spec = {
            "selector": {"matchLabels": {"app": "orders"}},
            "database": {
                "host": "127.0.0.1",
                "port": port,
                "name": name,
                "credentials": {"secretName": "orders-db"},
                "tls": {"mode": "Disable"},
            },
            "pool": {"size": size, "maxOverflow": 4},
            "health": {"interval": "1s", "timeout": "500ms", "failureThreshold": 2},
            "listen": {"port": self.ports["clients"], "socket": self.folder},
        }
        return {
            "apiVersion": "poolkeeper.dev/v1alpha1",
            "kind": "DbPoolPolicy",
            "metadata": {"name": name, "namespace": SHOP},
            "spec": spec,
        }

    def prepare(self):
        """What is shipped, a namespace, two policies (nobody answers for the second's database) and their pod."""
        for shipped in ("deploy/namespace.yaml", "crds", "deploy/rbac.yaml", "deploy/services.yaml"):
            self.kubectl("apply", "--server-side", "-f", f"{ROOT}/{shipped}")
        self.kubectl("wait", "--for=condition=Established", "crd/dbpoolpolicies.poolkeeper.dev", "--timeout=30s")
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "orders-1", "namespace": SHOP, "labels": {"app": "orders", "poolkeeper.dev/injected": "1"}},
            "spec": {"serviceAccountName": "app", "containers": [{"name": "app", "image": "app"}]},
        }
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SHOP}})
        self.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "app", "namespace": SHOP}})
        self.apply(pod, self.policy(DATABASE, self.postgres.port, 6), self.policy("audit", process.free_port(), 5))

    def start_operator(self):
        listen = [f"--{name}=127.0.0.1:{self.ports[port]}" for name, port in (("stream", "stream"), ("http", "operator"), ("webhook", "webhook"))]
        argv = [self.binary, "operator", "--kubeconfig", f"{self.cluster}/kubeconfig", "--name", "127.0.0.1", "--image", "poolkeeper:test"]
        self.operator = process.Process("the operator", argv + listen, f"{self.folder}/operator.log")
        leads = lambda: "poolkeeper_operator_leading 1" in self.try_get("operator", "/metrics")  # noqa: E731
        process.wait_for(leads, "the operator to lead", 60, self.operator)

    def start_sidecar(self):
        """As injection would have it run, with the token of its pod."""
        home = process.folder("pod")
        os.makedirs(f"{home}/secrets/orders-db")
        uid = self.kubectl("-n", SHOP, "get", "pod", "orders-1", "-o", "jsonpath={.metadata.uid}")
        bound = ["--bound-object-kind=Pod", "--bound-object-name=orders-1", f"--bound-object-uid={uid}"]
        token = self.kubectl("-n", SHOP, "create", "token", "app", "--audience=poolkeeper", *bound)
        authority = self.kubectl("-n", "poolkeeper", "get", "secret", "poolkeeper-ca", "-o", r"jsonpath={.data.ca\.crt}")
        files = {"secrets/orders-db/username": USER, "secrets/orders-db/password": PASSWORD, "token": token.strip()}
        files["ca.crt"] = base64.b64decode(authority).decode()
        for name, text in files.items():
            with open(f"{home}/{name}", "w") as out:
                out.write(text)
        argv = [self.binary, "sidecar", "--operator", f"https://127.0.0.1:{self.ports['stream']}", "--operator-ca", f"{home}/ca.crt"]
        argv += ["--token", f"{home}/token", "--state-dir", f"{home}/state", "--secrets-dir", f"{home}/secrets", "--socket-dir", self.folder]
        argv += ["--listen", f"127.0.0.1:{self.ports['clients']}", "--http", f"127.0.0.1:{self.ports['sidecar']}"]
        self.sidecar = process.Process("the sidecar", argv, f"{self.folder}/sidecar.log")
        serves = lambda: DATABASE in self.try_get("sidecar", "/api/health") and self.try_get("sidecar", "/readyz") == "ready\n"  # noqa: E731
        process.wait_for(serves, "the sidecar to serve", 30, self.sidecar)

    def start_load(self):
        """Seven clients of ten that may have a connection, a listener that keeps one, and a login that is refused."""
        with open(f"{self.folder}/load.sql", "w") as out:
            out.write("\\set ms random(8, 30)\nSELECT pg_sleep(:ms / 1000.0);\n")
        argv = [self.postgres.program("pgbench"), "-n", "-f", f"{self.folder}/load.sql", "-c", "7", "-T", "600", "-M", "prepared"]
        argv += ["-h", "127.0.0.1", "-p", self.ports["clients"], "-U", USER, DATABASE]
        env = {**os.environ, "PGPASSWORD": PASSWORD, "PGAPPNAME": "checkout <i>&amp;"}
        self.load = process.Process("pgbench", argv, f"{self.folder}/load.log", env=env)
        self.listener = wire.Connection(
            "127.0.0.1", self.ports["clients"], USER, DATABASE, PASSWORD, application_name="invoices"
        )
        self.listener.query("LISTEN invoices")
        try:
            wire.Connection("127.0.0.1", self.ports["clients"], USER, DATABASE, "wrong").close()
        except wire.ServerError:
            pass

    def change(self, size):
        """The policy with another size, and the webhooks' word on it."""
        changed = self.policy(DATABASE, self.postgres.port, size)
        self.apply(changed)
        review = {
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {
                "uid": "1",
                "kind": {"group": "poolkeeper.dev", "version": "v1alpha1", "kind": "DbPoolPolicy"},
                "resource": {"group": "poolkeeper.dev", "version": "v1alpha1", "resource": "dbpoolpolicies"},
                "operation": "UPDATE",
                "userInfo": {},
                "namespace": SHOP,
                "name": DATABASE,
                "object": changed,
            },
        }
        trusting = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection("127.0.0.1", self.ports["webhook"], timeout=5, context=trusting)
        connection.request("POST", "/validate", json.dumps(review), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise RuntimeError(f"the webhook answered {answer.status}: {answer.read()}")

    def try_get(self, which, path):
        try:
            return get(self.ports[which], path)
        except OSError:
            return ""

    def status(self):
        return json.loads(get(self.ports["sidecar"], "/status"))


class Prometheus:
    """Scrapes sidecar and operator each second, with the labels that a PodMonitor would give them, and has the shipped rules."""

    def __init__(self, folder, world):
        self.port = process.free_port()
        home = process.folder("prometheus")
        target = lambda port, **labels: {"targets": [f"127.0.0.1:{port}"], "labels": labels}  # noqa: E731
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [f"{ROOT}/charts/poolkeeper/files/alerts/*.yaml"],
            "scrape_configs": [
                {"job_name": "shop/poolkeeper", "static_configs": [target(world.ports["sidecar"], namespace=SHOP, pod="orders-1")]},
                {
                    "job_name": "poolkeeper/operator",
                    "static_configs": [target(world.ports["operator"], namespace="poolkeeper", pod="operator-1")],
                },
            ],
        }
        with open(f"{home}/prometheus.json", "w") as out:
            json.dump(config, out)
        argv = [f"{folder}/prometheus", f"--config.file={home}/prometheus.json", f"--storage.tsdb.path={home}/data"]
        argv += [f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"]
        self.process = process.Process("Prometheus", argv, f"{home}/prometheus.log")
        ready = lambda: self.has_data("sum(up) == 2") and self.has_data("poolkeeper_operator_leading")  # noqa: E731
        process.wait_for(ready, "Prometheus to scrape both", 30, self.process)
        world.change(7)

    def get(self, what, **query):
        return json.loads(get(self.port, f"/api/v1/{what}?{urllib.parse.urlencode(query)}"))["data"]

    def has_data(self, query):
        """Whether an instant query has a result that is a number."""
        try:
            result = self.get("query", query=query)["result"]
        except OSError:
            return False
        return any(sample["value"][1] != "NaN" for sample in result)
