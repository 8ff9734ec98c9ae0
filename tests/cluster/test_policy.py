"""A policy linter (checkov, in an environment of its own) finds nothing in the manifests that is not meant so.

It knows Kubernetes' own kinds: the pod templates inside Ray's are handed to it as pods.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.manifests import RENDERED

CHECKOV = "checkov>=3.2,<4"
MEANT = {
    "CKV_K8S_8": "KubeRay gives Ray's containers their probes",
    "CKV_K8S_9": "likewise",
    "CKV_K8S_15": "the image is named by its version, which is never built twice",
    "CKV_K8S_43": "settings/ names the image; who wants a digest writes one there",
    "CKV_K8S_22": "KubeRay's own volumes for Ray below /tmp were not tried with a read-only root; the image alone was",
    "CKV_K8S_38": "Ray's autoscaler on the head, and what makes RayJobs, ask Kubernetes; workers have no token",
    "CKV_K8S_40": "1000 is the user of Ray's images, whose files KubeRay shares",
}
"""Failed checks that stay, and why."""


def pods(part: Any, kind: str) -> Iterator[dict[str, Any]]:
    """Every pod template below a part of a document, as a pod. `kind`: of the document."""
    if isinstance(part, list):
        for one in part:
            yield from pods(one, kind)
    elif isinstance(part, dict):
        spec = part.get("spec")
        if isinstance(spec, dict) and "containers" in spec:
            metadata = {"name": f"of-{kind.lower()}", "namespace": "pcace", **part.get("metadata", {})}
            yield {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        for one in part.values():
            yield from pods(one, kind)


def as_pods(path: Path) -> list[dict[str, Any]]:
    """The pods of a rendered overlay, with all else that is Kubernetes' own."""
    documents = [one for one in yaml.safe_load_all(path.read_text()) if one]
    found = [pod for document in documents for pod in pods(document, document["kind"])]
    return found + [one for one in documents if "ray.io" not in one["apiVersion"] and one["kind"] != "CronJob"]


def test_templates_of_all_kinds_are_found() -> None:
    kinds = {document["metadata"]["name"] for path in RENDERED.glob("*.yaml") for document in as_pods(path)}
    assert {"of-rayjob", "of-raycluster", "of-cronjob"} <= kinds


@pytest.mark.cluster
def test_the_linter_finds_nothing_that_is_not_meant(tmp_path: Path) -> None:
    venv, there = tmp_path / "venv", tmp_path / "pods"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True, timeout=300)
    subprocess.run([venv / "bin/pip", "install", "--quiet", CHECKOV], check=True, timeout=900, stderr=subprocess.PIPE)
    there.mkdir()
    for path in RENDERED.glob("*.yaml"):
        (there / path.name).write_text(yaml.safe_dump_all(as_pods(path)))
    command: list[str | Path] = [venv / "bin/checkov", "-d", there]
    command += ["--framework", "kubernetes", "--output", "json", "--skip-download"]
    env = os.environ | {"LOG_LEVEL": "ERROR"}
    found = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=600, env=env).stdout)
    assert found["summary"]["passed"] > 500
    failed = {one["check_id"]: (one["check_name"], one["resource"]) for one in found["results"]["failed_checks"]}
    assert not {name: said for name, said in failed.items() if name not in MEANT}
    assert set(MEANT) <= set(failed), "what no longer fails is no longer to be excused"
