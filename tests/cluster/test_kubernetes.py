"""The manifests of cluster/kubernetes: rendered, valid, and with every setting where it belongs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from pcace_dist.cli.main import build_parser
from pcace_dist.config.job import read_job
from pcace_dist.executors.ray_metrics import metric_names
from tests.cluster import crds
from tests.cluster.manifests import (
    KUBERNETES,
    OVERLAYS,
    ROOT,
    kustomize,
    objects,
    only,
    render,
    rendered,
    settings,
)

CRDS = Path(os.environ.get("PCACE_KUBERAY_CRDS", ROOT.parent / "shared" / "ray" / "kuberay-1.7.0"))
NO_CRDS = f"KubeRay's CRDs are not at {CRDS} (PCACE_KUBERAY_CRDS names another folder)"
KUBERNETES_VERSION = "1.33"
OF_OPERATORS = {"ray.io/v1", "monitoring.coreos.com/v1"}

Json = dict[str, Any]


@pytest.mark.skipif(kustomize() is None, reason="neither kustomize nor kubectl is on the path")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_checked_here_is_what_kustomize_makes(overlay: str) -> None:
    assert list(yaml.safe_load_all(render(KUBERNETES / overlay))) == list(yaml.safe_load_all(rendered(overlay))), (
        "render anew: python -m tests.cluster.manifests"
    )


@pytest.mark.skipif(not CRDS.is_dir(), reason=NO_CRDS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kinds_of_kuberay_fit_its_crds(overlay: str) -> None:
    schemas = crds.schemas(CRDS)
    assert not [problem for one in objects(overlay) for problem in crds.problems(one, schemas)]


@pytest.mark.skipif(not CRDS.is_dir(), reason=NO_CRDS)
def test_the_check_against_the_crds_finds_mistakes() -> None:
    schemas = crds.schemas(CRDS)
    job = only("rank", "RayJob")
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplica"] = 8
    job["spec"]["backoffLimit"] = "3"
    found = sorted(crds.problems(job, schemas))
    assert len(found) == 2
    assert "backoffLimit" in found[0]
    assert "maxReplica" in found[1]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kinds_of_kubernetes_itself_are_valid(overlay: str) -> None:
    for one in objects(overlay):
        if one["apiVersion"] not in OF_OPERATORS:
            kubernetes_validate.validate(one, KUBERNETES_VERSION, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nothing_is_left_to_be_set(overlay: str) -> None:
    assert "SET-BY-SETTINGS" not in rendered(overlay)
    assert {one["metadata"]["namespace"] for one in objects(overlay)} == {"pcace"}


def clusters() -> list[tuple[str, Json]]:
    return [
        ("development", only("development", "RayCluster")["spec"]),
        ("rank", only("rank", "RayJob")["spec"]["rayClusterSpec"]),
        ("schedule", only("schedule", "RayJob")["spec"]["rayClusterSpec"]),
        ("schedule-kuberay", only("schedule-kuberay", "RayCronJob")["spec"]["jobTemplate"]["rayClusterSpec"]),
    ]


def test_the_cluster_is_the_same_everywhere() -> None:
    (_, first), *others = clusters()
    assert all(other == first for _, other in others)


def test_every_setting_is_where_it_belongs() -> None:
    wanted, (_, cluster) = settings(), clusters()[0]
    head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    (group,) = cluster["workerGroupSpecs"]
    worker = group["template"]["spec"]["containers"][0]
    assert cluster["rayVersion"] == wanted["rayVersion"]
    assert {head["image"], worker["image"], cluster["autoscalerOptions"]["image"]} == {wanted["image"]}
    assert group["maxReplicas"] == wanted["workers"]["most"]
    assert group["rayStartParams"] == {"num-cpus": wanted["workers"]["cpu"], "num-gpus": wanted["workers"]["gpu"]}
    for kind in ("requests", "limits"):
        assert worker["resources"][kind] == {
            "cpu": wanted["workers"]["cpu"],
            "memory": wanted["workers"]["memory"],
            "nvidia.com/gpu": wanted["workers"]["gpu"],
        }
        assert head["resources"][kind] == wanted["head"]
    job = only("rank", "RayJob")["spec"]
    assert (job["backoffLimit"], job["activeDeadlineSeconds"]) == (wanted["retries"], wanted["longestSeconds"])
    assert job["submitterPodTemplate"]["spec"]["containers"][0]["image"] == wanted["image"]
    cron = only("schedule", "CronJob")["spec"]
    assert (cron["schedule"], cron["timeZone"]) == (wanted["schedule"], wanted["timeZone"])
    assert cron["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["image"] == wanted["image"]
    assert only("schedule-kuberay", "RayCronJob")["spec"]["schedule"] == wanted["schedule"]
    account = only("rank", "ServiceAccount", "pcace")
    assert account["metadata"]["annotations"] == {"eks.amazonaws.com/role-arn": wanted["s3Role"]}


@pytest.mark.skipif(kustomize() is None, reason="neither kustomize nor kubectl is on the path")
def test_a_changed_setting_reaches_every_manifest(tmp_path: Path) -> None:
    shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    path = tmp_path / "kubernetes" / "settings" / "settings.yaml"
    path.write_text(path.read_text().replace(settings()["image"], "mine/pcace:7").replace("most: 8 ", "most: 31 "))
    for overlay in ("development", "rank", "schedule", "schedule-kuberay"):
        text = render(tmp_path / "kubernetes" / overlay)
        assert settings()["image"] not in text
        assert "maxReplicas: 31" in text


def test_the_versions_are_those_of_the_package() -> None:
    import ray

    assert settings()["rayVersion"] == ray.__version__


@pytest.mark.parametrize(("overlay", "cluster"), clusters())
def test_pods_have_no_rights_and_no_keys(overlay: str, cluster: Json) -> None:
    pods = [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    for pod in pods:
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"]["runAsNonRoot"] is True
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert not [one for one in container["env"] if "KEY" in one["name"] or "SECRET" in one["name"]]
    assert cluster["authOptions"] == {"mode": "token"}
    assert pods[1]["automountServiceAccountToken"] is False


def test_a_reclaimed_worker_has_the_time_to_flush() -> None:
    _, cluster = clusters()[0]
    pod = cluster["workerGroupSpecs"][0]["template"]["spec"]
    command = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert command[:3] == ["python", "/opt/pcace/cluster/drain.py", "now"]
    assert int(command[-1]) < pod["terminationGracePeriodSeconds"]


def test_the_head_runs_no_worker_and_is_not_on_spot() -> None:
    _, cluster = clusters()[0]
    head = cluster["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    terms = head["template"]["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert all(one["operator"] == "NotIn" for term in terms["nodeSelectorTerms"] for one in term["matchExpressions"])
    assert "tolerations" not in head["template"]["spec"]


def entrypoints() -> list[str]:
    specs = [only("rank", "RayJob")["spec"], only("schedule", "RayJob")["spec"]]
    specs.append(only("schedule-kuberay", "RayCronJob")["spec"]["jobTemplate"])
    return [one["entrypoint"] for one in specs]


@pytest.mark.parametrize("entrypoint", entrypoints())
def test_entrypoints_are_commands_of_this_package(entrypoint: str) -> None:
    python, script, *arguments = entrypoint.split()
    path = Path(script)
    assert python == "python"
    assert path.parent == Path("/opt/pcace/jobs")
    assert (ROOT / "jobs" / path.name).is_file()
    parsed = build_parser().parse_args([path.stem, *arguments])
    assert parsed.job == "/etc/pcace/job.yaml"


def test_the_mounted_job_file_is_one_that_fits_the_cluster() -> None:
    job = read_job(only("rank", "ConfigMap")["data"]["job.yaml"])
    wanted = settings()["workers"]
    assert job.workers.max <= wanted["most"]
    assert job.workers.gpus == float(wanted["gpu"])
    assert job.workers.cpus <= float(wanted["cpu"])


# -- monitoring

USED = re.compile(r"\bray_pcace_\w+")


def test_the_dashboard_shows_metrics_that_the_service_has() -> None:
    dashboard = json.loads((KUBERNETES / "monitoring" / "dashboard.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    used = {name for text in asked for name in USED.findall(text)}
    assert used == set(metric_names())  # all of them, and no other
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert "ray_pcace_images_total" in dashboard["templating"]["list"][1]["definition"]
    specs = only("monitoring", "ConfigMap")
    assert json.loads(specs["data"]["dashboard.json"]) == dashboard
    assert specs["metadata"]["labels"] == {"grafana_dashboard": "1"}


def rules() -> list[Json]:
    return [rule for group in only("monitoring", "PrometheusRule")["spec"]["groups"] for rule in group["rules"]]


def test_alerts_ask_for_metrics_that_the_service_has() -> None:
    assert {name for rule in rules() for name in USED.findall(rule["expr"])} <= set(metric_names())


def test_the_runbook_says_what_every_alert_means() -> None:
    runbook = (ROOT / "docs" / "monitoring.md").read_text()
    assert {f"### {rule['alert']}" for rule in rules()} == set(re.findall(r"^### Pcace\w+", runbook, re.M))


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not on the path")
def test_prometheus_takes_the_alerts(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(only("monitoring", "PrometheusRule")["spec"]))
    subprocess.run(["promtool", "check", "rules", str(tmp_path / "rules.yaml")], check=True, capture_output=True)


def test_prometheus_is_led_to_the_pods_of_ray() -> None:
    monitor = only("monitoring", "PodMonitor")["spec"]
    wanted = monitor["selector"]["matchLabels"].items()
    _, cluster = clusters()[0]
    head = cluster["headGroupSpec"]["template"]
    assert wanted <= head["metadata"]["labels"].items()
    ports = {port["name"] for port in head["spec"]["containers"][0]["ports"]}
    assert {endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]} <= ports
