"""The manifests of cluster/kubernetes, rendered: by kustomize where it is to be had, else as they were rendered last.

python -m tests.cluster.manifests        renders all overlays anew into tests/cluster/rendered/
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "cluster" / "kubernetes"
RENDERED = Path(__file__).parent / "rendered"
OVERLAYS = ("development", "rank", "schedule", "schedule-kuberay", "monitoring")

Json = dict[str, Any]


def kustomize() -> list[str] | None:
    """The command that renders, if there is one on this machine."""
    for command in (["kustomize", "build"], ["kubectl", "kustomize"]):
        if shutil.which(command[0]):
            return command
    return None


def render(overlay: Path) -> str:
    """What kustomize makes of an overlay. Raises CalledProcessError with its complaint on stderr."""
    command = kustomize()
    assert command is not None
    done = subprocess.run([*command, str(overlay)], capture_output=True, text=True, check=True, timeout=120)
    return done.stdout


def rendered(overlay: str) -> str:
    """What was rendered last."""
    return (RENDERED / f"{overlay}.yaml").read_text()


def objects(overlay: str) -> list[Json]:
    """All objects of an overlay."""
    return [document for document in yaml.safe_load_all(rendered(overlay)) if document]


def only(overlay: str, kind: str, name: str | None = None) -> Json:
    """The one object of a kind (and name) of an overlay."""
    (manifest,) = [
        manifest_object
        for manifest_object in objects(overlay)
        if manifest_object["kind"] == kind and name in (None, manifest_object["metadata"]["name"])
    ]
    return manifest


def settings() -> Json:
    """What settings.yaml says."""
    content: Json = yaml.safe_load((KUBERNETES / "settings" / "settings.yaml").read_text())["spec"]
    return content


if __name__ == "__main__":
    RENDERED.mkdir(exist_ok=True)
    for name in OVERLAYS:
        (RENDERED / f"{name}.yaml").write_text(render(KUBERNETES / name))
