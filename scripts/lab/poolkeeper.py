"""A Poolkeeper sidecar with a policy file and a secrets folder of its own."""

import json
import os
import time
import urllib.error
import urllib.request

from . import process

_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever http_proxy says


def yaml(value, indent=0):
    """Block YAML of nested dicts of scalars, as a person would write it."""
    lines = []
    for key, item in value.items():
        if isinstance(item, dict):
            lines.append(" " * indent + f"{key}:")
            lines.append(yaml(item, indent + 2))
        else:
            text = json.dumps(item) if isinstance(item, (bool, int)) or ": " in str(item) else str(item)
            lines.append(" " * indent + f"{key}: {text}")
    return "\n".join(lines)


def replace_file(path, text, mode=0o644):
    """Writes beside and renames over: what an editor, a deploy tool and a person with `mv` do. Returns the time just before
    the rename (time.time())."""
    beside = f"{path}.new"
    with open(beside, "w") as out:
        out.write(text)
    os.chmod(beside, mode)
    now = time.time()
    os.rename(beside, path)
    return now


def name_of(database):
    """A name for its policy and Secret, which may not have everything that a database's name may."""
    return database.replace("_", "-").lower()


class Poolkeeper:
    """Started by the constructor, ended by stop(). `also` names more databases to serve, with the same settings; `certificate` (tls.crt and
    tls.key, PEM) is for its clients; `ready`: whether to wait
    until it is."""

    def __init__(self, binary, folder, postgres, database, user, password, spec, workers=1, also=(), certificate=None, ready=True):
        self.folder = folder
        self.port = process.free_port()
        self.http = process.free_port()
        self.policies = f"{folder}/policies"
        os.makedirs(self.policies, exist_ok=True)
        self.policy = f"{self.policies}/policy.yaml"
        self.secrets = f"{folder}/secrets"
        secret = name_of(database)
        self.secret = f"{self.secrets}/{secret}"
        os.makedirs(self.secret, exist_ok=True)
        self.write_secret("username", user)
        self.write_secret("password", password)
        for key, value in (certificate or {}).items():
            self.write_secret(key, value)
        self.spec = {
            "database": {
                "host": "127.0.0.1",
                "port": postgres.port,
                "name": database,
                "credentials": {"secretName": secret},
                "tls": {"mode": "Disable"},
            },
            **spec,
            "listen": {"port": self.port, "socket": folder, **spec.get("listen", {})},
        }
        self.save(self.spec)
        for name in also:
            another = {**self.spec, "database": {**self.spec["database"], "name": name}}
            replace_file(f"{self.policies}/{name}.yaml", self.text(another) + "\n")
        argv = [binary, "sidecar", "--policy", self.policies if also else self.policy, "--secrets-dir", self.secrets]
        argv += ["--http", f"127.0.0.1:{self.http}", "--workers", workers]
        self.process = process.Process("Poolkeeper", argv, f"{folder}/poolkeeper.log")
        self.pid = self.process.pid
        if ready:
            process.wait_for(self.ready, "Poolkeeper to be ready", process=self.process, pause=0.005)

    def text(self, spec):
        name = name_of(spec["database"]["name"])
        return yaml(
            {"apiVersion": "poolkeeper.dev/v1alpha1", "kind": "DbPoolPolicy", "metadata": {"name": name}, "spec": spec}
        )

    def save(self, spec):
        """Saves the policy by rename; the time of the rename."""
        self.spec = spec
        return replace_file(self.policy, self.text(spec) + "\n")

    def change(self, **sections):
        """Saves the policy with some fields of some sections of `spec` changed: change(pool={"size": 5}). Scalars replace."""
        spec = {**self.spec}
        for name, fields in sections.items():
            spec[name] = {**spec.get(name, {}), **fields} if isinstance(fields, dict) else fields
        return self.save(spec)

    def write_secret(self, key, value):
        return replace_file(f"{self.secret}/{key}", value, 0o600)

    def get(self, path):
        """The body and HTTP status of one of its endpoints."""
        try:
            with _direct.open(f"http://127.0.0.1:{self.http}{path}", timeout=2) as answer:
                return answer.read().decode(), answer.status
        except urllib.error.HTTPError as refusal:
            return refusal.read().decode(), refusal.code

    def ready(self):
        try:
            return self.get("/readyz")[1] == 200
        except OSError:
            return False

    def status(self):
        return json.loads(self.get("/status")[0])

    def stop(self):
        return self.process.stop()
