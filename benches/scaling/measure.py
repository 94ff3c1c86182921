#!/usr/bin/env python3
"""Measures on the cluster of deploy/dev-cluster what scaling.py plans with: what one sandbox costs the API server.

    deploy/dev-cluster/enter benches/scaling/measure.py [PODS]

Creates PODS (default 20) gVisor pods three times: one after another, 5 at once, 10 at once; watches them as a gateway does; and removes them. Prints what was counted, by the API server itself where it counts. No
gateway takes part. Needs kubectl on PATH and KUBECONFIG, which `enter` provides, and nobody else who uses the cluster.
"""

import collections
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time

NAMESPACE = "belljar-sandboxes"
IMAGE = os.environ.get("IMAGE", "belljar-test-busybox:latest")


def kubectl(*arguments, text=None, seconds=120):
    return subprocess.run(("kubectl", *arguments), input=text, capture_output=True, text=True, timeout=seconds, check=True).stdout


def pod(name):
    """As the launcher makes them, but for the agent: what runs is of no matter to the API server."""
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"belljar-measure": "1"},
                     "annotations": {"belljar/owner": "x" * 64, "belljar/expires": "2026-01-01T00:00:00Z"}},
        "spec": {
            "runtimeClassName": "gvisor", "restartPolicy": "Never", "activeDeadlineSeconds": 1800,
            "automountServiceAccountToken": False, "enableServiceLinks": False, "terminationGracePeriodSeconds": 1,
            "securityContext": {"runAsUser": 1000, "runAsGroup": 1000, "runAsNonRoot": True, "fsGroup": 1000,
                                "seccompProfile": {"type": "RuntimeDefault"}},
            "initContainers": [container("install", ["/bin/sh", "-c", "true"])],
            "containers": [container("sandbox", ["/bin/cat"]) | {"stdin": True}],
            "volumes": [{"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": size}}
                        for name, size in (("belljar", "8Mi"), ("home", "50Mi"), ("tmp", "10Mi"))],
        },
    }


def container(name, command):
    return {
        "name": name, "image": IMAGE, "imagePullPolicy": "Never", "command": command,
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "500m", "memory": "128Mi"}},
        "securityContext": {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "belljar", "mountPath": "/belljar"}, {"name": "home", "mountPath": "/home/sandbox"},
                         {"name": "tmp", "mountPath": "/tmp"}],
    }


class Watch:
    """One watch of the pods, as JSON: how many events, how many bytes, and when each pod ran."""

    def __init__(self):
        self.process = subprocess.Popen(
            ("kubectl", "get", "--raw", f"/api/v1/namespaces/{NAMESPACE}/pods?watch=true&labelSelector=belljar-measure%3D1&timeoutSeconds=1800"),
            stdout=subprocess.PIPE)
        self.events = self.bytes = 0
        self.running, self.gone = {}, {}
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            now = time.monotonic()
            self.events += 1
            self.bytes += len(line)
            event = json.loads(line)
            name = event["object"]["metadata"]["name"]
            if event["object"]["status"].get("phase") == "Running":
                self.running.setdefault(name, now)
            if event["type"] == "DELETED":
                self.gone[name] = now

    def wait_for(self, names, what, seconds=180):
        deadline = time.monotonic() + seconds
        while not set(names) <= set(what):
            if time.monotonic() > deadline:
                sys.exit(f"after {seconds} s: {sorted(set(names) - set(what))}")
            time.sleep(0.01)


def requests():
    """The API server's own count, by verb, resource and who wrote it."""
    counted = collections.Counter()
    for line in kubectl("get", "--raw", "/metrics").splitlines():
        if line.startswith("apiserver_request_total{"):
            label = dict(re.findall(r'(\w+)="([^"]*)"', line))
            if label["resource"] in ("pods", "events") and label["verb"] not in ("WATCH", "LIST", "CONNECT"):
                what = label["resource"] + ("/" + label["subresource"] if label["subresource"] else "")
                counted[label["verb"], what] += float(line.rsplit(" ", 1)[1])
    return counted


def cpu_seconds():
    for line in kubectl("get", "--raw", "/metrics").splitlines():
        if line.startswith("process_cpu_seconds_total "):
            return float(line.split()[1])
    return 0.0


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    watch = Watch()
    time.sleep(1)
    before, cpu, total = requests(), cpu_seconds(), 0
    print(f"{'at once':>8} {'pods':>5} {'created to Running, s':>24} {'pods a second':>14}")
    for at_once in (1, 5, 10):
        took, began = [], time.monotonic()
        for first in range(0, count, at_once):
            names = [f"measure-{at_once}-{first + n}" for n in range(min(at_once, count - first))]
            created = time.monotonic()
            text = json.dumps({"apiVersion": "v1", "kind": "List", "items": [pod(name) for name in names]})
            kubectl("create", "--validate=false", "-f", "-", text=text)
            watch.wait_for(names, watch.running)
            took += [watch.running[name] - created for name in names]
        lasted = time.monotonic() - began
        names = [f"measure-{at_once}-{n}" for n in range(count)]
        print(f"{at_once:>8} {count:>5} {statistics.median(took):>16.2f} p50 {max(took):.2f} max {count / lasted:>8.2f}")
        kubectl("delete", "pod", "--namespace", NAMESPACE, "--selector", "belljar-measure=1", "--wait=false", "--grace-period=0", "--force")
        watch.wait_for(names, watch.gone)
        time.sleep(15)
        total += count
    after = requests()
    cpu = cpu_seconds() - cpu
    writes = {key: after[key] - before[key] for key in sorted(after) if after[key] > before[key]}
    print(f"\nper pod, of {total}:")
    for (verb, what), number in writes.items():
        print(f"  {verb:<8} {what:<16} {number / total:6.2f}")
    print(f"  events of a watch         {watch.events / total:6.2f}")
    print(f"  bytes of a watch (JSON)   {watch.bytes / total:6.0f}")
    print(f"  CPU of the API server, s  {cpu / total:6.3f}  (with what it does anyway)")
    watch.process.kill()


if __name__ == "__main__":
    main()
