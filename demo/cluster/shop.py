"""The sample app in its pods, its policy, and what both say."""

import json
import subprocess
import threading
import time
import urllib.error
import urllib.request


class Kubectl:
    """kubectl for the demo's node."""

    def __init__(self, program, folder):
        self.base = [program, "kubectl", "--kubeconfig", f"{folder}/kubeconfig", "--cache-dir", f"{folder}/kubectl-cache"]

    def __call__(self, *arguments):
        """Runs it; what it printed. Its own words are the error."""
        done = subprocess.run([*self.base, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.strip() or f"kubectl {' '.join(arguments)} failed")
        return done.stdout

    def lines(self, *arguments):
        """What it prints for as long as it runs."""
        popen = subprocess.Popen([*self.base, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        yield from popen.stdout


WATCHED = (
    "{.metadata.generation} {.status.observedGeneration} {.status.pods.summary} {.status.pool.size}/{.status.pool.maxOverflow} "
    "{.status.conditions[?(@.type=='Programmed')].status}{\"\\n\"}"
)


def patch(pool):
    """kubectl's arguments for a change of the pool."""
    return ["patch", "dbpool", "orders", "-n", "shop", "--type=merge", "-p", json.dumps({"spec": {"pool": pool}})]


class Shop:
    def __init__(self, kubectl):
        self.kubectl = kubectl
        self.pods, self.addresses = [], []
        self.policy = {"generation": 0, "observed": 0, "pods": "", "size": "", "programmed": ""}

    def find(self):
        """Looks which pods there are, and watches the policy from here on."""
        pods = json.loads(self.kubectl("get", "pods", "-n", "shop", "-l", "app=orders", "-o", "json"))["items"]
        self.pods = [pod["metadata"]["name"] for pod in pods]
        self.addresses = [pod["status"]["podIP"] for pod in pods]
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self):
        while True:
            for line in self.kubectl.lines("get", "dbpool", "orders", "-n", "shop", "-w", "-o", f"jsonpath={WATCHED}"):
                fields = line.split(" ")
                if len(fields) == 5 and fields[0].isdigit():
                    generation, observed, pods, size, programmed = (field.strip() for field in fields)
                    observed = int(observed or 0)
                    self.policy = {
                        "generation": int(generation), "observed": observed, "pods": pods, "size": size, "programmed": programmed
                    }
            time.sleep(0.5)  # the API server closes watches now and then

    def programmed(self, generation):
        """Whether every pod has said that it runs this generation, or a later one."""
        now = self.policy
        return now["observed"] >= generation and now["generation"] == now["observed"] and now["programmed"] == "True"

    def counters(self):
        """What the app in all pods has counted."""
        sums = {"done": 0, "failed": 0, "tps": 0, "p50": 0.0, "p99": 0.0, "errors": []}
        for address in self.addresses:
            counted = json.loads(_get(f"http://{address}:8080/"))
            last = counted["last"]
            sums["done"] += counted["done"]
            sums["failed"] += counted["failed"]
            sums["tps"] += last.get("tps", 0)
            sums["errors"] += counted["errors"]
            for key in ("p50", "p99"):
                sums[key] = max(sums[key], last.get(key, 0))
        return sums

    def sample(self):
        return {**self.counters(), **self.policy}

    def change(self, pool):
        """Changes the policy as a user would; the new generation."""
        self.kubectl(*patch(pool))
        return int(self.kubectl("get", "dbpool", "orders", "-n", "shop", "-o", "jsonpath={.metadata.generation}"))

    def restarts(self):
        pods = json.loads(self.kubectl("get", "pods", "-n", "shop", "-o", "json"))["items"]
        statuses = [pod["status"] for pod in pods]
        containers = [c for s in statuses for c in s.get("containerStatuses", []) + s.get("initContainerStatuses", [])]
        return sum(container["restartCount"] for container in containers)


def _get(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.read()
    except urllib.error.URLError as error:
        raise RuntimeError(f"{url}: {error.reason}") from error
