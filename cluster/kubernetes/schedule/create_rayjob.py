"""Creates a RayJob from a template (a suspended RayJob), unless an earlier one is still running.

    python create_rayjob.py TEMPLATE

Runs in a pod of a plain CronJob with the pod's service account (get, list and create rayjobs). Standard library only.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

Json = dict[str, Any]

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
LABEL = "pcace.dist/template"
OVER = {"Complete", "Failed", "ValidationFailed"}  # status.jobDeploymentStatus of a RayJob that has ended


class Api:
    """The RayJobs of one namespace."""

    def __init__(self, server: str, namespace: str, token: str, context: ssl.SSLContext | None = None) -> None:
        self._url = f"{server}/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._context = context

    @classmethod
    def of_this_pod(cls) -> Api:
        host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT_HTTPS"]
        account = {name: (ACCOUNT / name).read_text().strip() for name in ("namespace", "token")}
        context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
        return cls(f"https://{host}:{port}", account["namespace"], account["token"], context)

    def get(self, name: str) -> Json:
        return self._ask(f"{self._url}/{name}")

    def made_from(self, template: str) -> list[Json]:
        items: list[Json] = self._ask(f"{self._url}?labelSelector={LABEL}%3D{template}")["items"]
        return items

    def create(self, job: Json) -> Json:
        return self._ask(self._url, json.dumps(job).encode())

    def _ask(self, url: str, data: bytes | None = None) -> Json:
        request = urllib.request.Request(url, data, self._headers)
        with urllib.request.urlopen(request, timeout=30, context=self._context) as response:
            content: Json = json.load(response)
        return content


def job_from(template: Json) -> Json:
    """A RayJob like the template, not suspended, with a name that the server completes."""
    metadata = template["metadata"]
    spec = {key: value for key, value in template["spec"].items() if key not in ("suspend", "jobId")}
    return {
        "apiVersion": template["apiVersion"],
        "kind": template["kind"],
        "metadata": {
            "generateName": f"{metadata['name']}-",
            "labels": {**metadata.get("labels", {}), LABEL: metadata["name"]},
        },
        "spec": spec,
    }


def at_work(jobs: list[Json]) -> list[str]:
    """Names of the RayJobs that have not ended."""
    return [job["metadata"]["name"] for job in jobs if job.get("status", {}).get("jobDeploymentStatus", "") not in OVER]


def main(argv: list[str], api: Api | None = None) -> int:
    (name,) = argv
    api = api or Api.of_this_pod()
    try:
        busy = at_work(api.made_from(name))
        if busy:
            print(f"{busy[0]} is still at work: nothing is created")
            return 0
        print(f"created {api.create(job_from(api.get(name)))['metadata']['name']}")
    except urllib.error.HTTPError as error:
        print(f"{error.url}: {error.code} {error.read().decode(errors='replace')[:500]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
