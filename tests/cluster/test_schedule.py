"""The plain CronJob's script against an API server that answers as Kubernetes does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest

from cluster.kubernetes.schedule import create_rayjob
from tests.cluster import crds
from tests.cluster.manifests import only
from tests.cluster.test_kubernetes import CRDS, NO_CRDS

Json = dict[str, Any]
PATH = "/apis/ray.io/v1/namespaces/pcace/rayjobs"


class ApiServer(BaseHTTPRequestHandler):
    """Get, list by label and create, for the one namespace; wants the token; fills in names."""

    jobs: ClassVar[dict[str, Json]]

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if self.headers["Authorization"] != "Bearer token":
            return self._answer(401, {"message": "Unauthorized"})
        if url.path == PATH:
            key, _, value = parse_qs(url.query)["labelSelector"][0].partition("=")
            found = [job for job in self.jobs.values() if job["metadata"].get("labels", {}).get(key) == value]
            return self._answer(200, {"items": found})
        job = self.jobs.get(url.path.removeprefix(PATH + "/"))
        return self._answer(404, {"message": "not found"}) if job is None else self._answer(200, job)

    def do_POST(self) -> None:
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = f"{job['metadata']['generateName']}{len(self.jobs)}"
        job["metadata"]["name"] = name
        self.jobs[name] = job
        self._answer(201, job)

    def _answer(self, code: int, value: Json) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())

    def log_message(self, *_: object) -> None:
        return None


@pytest.fixture
def server() -> Iterator[tuple[str, dict[str, Json]]]:
    template = only("schedule", "RayJob")
    template["metadata"] |= {"resourceVersion": "7", "uid": "u"}
    template["status"] = {"jobDeploymentStatus": "Suspended"}
    handler = type("Handler", (ApiServer,), {"jobs": {"pcace": template}})
    running = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}", handler.jobs  # type: ignore[attr-defined]
    running.shutdown()
    thread.join()
    running.server_close()


def tick(url: str, token: str = "token") -> int:
    return create_rayjob.main(["pcace"], create_rayjob.Api(url, "pcace", token))


def test_every_tick_makes_a_job_of_its_own(server: tuple[str, dict[str, Json]]) -> None:
    url, jobs = server
    assert tick(url) == 0
    (first,) = set(jobs) - {"pcace"}
    jobs[first]["status"] = {"jobDeploymentStatus": "Complete"}
    assert tick(url) == 0
    assert len(jobs) == 3


@pytest.mark.parametrize("status", [None, "Initializing", "Running", "Retrying"])
def test_a_tick_while_the_last_job_is_at_work_makes_none(
    server: tuple[str, dict[str, Json]], status: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    url, jobs = server
    assert tick(url) == 0
    (first,) = set(jobs) - {"pcace"}
    jobs[first]["status"] = {} if status is None else {"jobDeploymentStatus": status}
    assert tick(url) == 0
    assert len(jobs) == 2
    assert "still at work" in capsys.readouterr().out


def test_a_failed_job_does_not_stop_the_schedule(server: tuple[str, dict[str, Json]]) -> None:
    url, jobs = server
    assert tick(url) == 0
    (first,) = set(jobs) - {"pcace"}
    jobs[first]["status"] = {"jobDeploymentStatus": "Failed"}
    assert tick(url) == 0
    assert len(jobs) == 3


def test_the_job_is_the_template_at_work(server: tuple[str, dict[str, Json]]) -> None:
    url, jobs = server
    tick(url)
    (name,) = set(jobs) - {"pcace"}
    made, template = jobs[name], only("schedule", "RayJob")
    assert template["spec"].pop("suspend") is True
    assert made["spec"] == template["spec"]
    assert set(made["metadata"]) == {"name", "generateName", "labels"}
    assert "status" not in made


@pytest.mark.skipif(not CRDS.is_dir(), reason=NO_CRDS)
def test_the_job_fits_kuberays_crd(server: tuple[str, dict[str, Json]]) -> None:
    url, jobs = server
    tick(url)
    (name,) = set(jobs) - {"pcace"}
    assert not list(crds.problems(jobs[name], crds.schemas(CRDS)))


def test_a_refusal_is_one_line_and_a_failure(
    server: tuple[str, dict[str, Json]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert tick(server[0], token="wrong") == 1
    assert "401" in capsys.readouterr().err


def test_the_pod_may_do_what_the_script_does_and_nothing_else() -> None:
    (rule,) = only("schedule", "Role")["rules"]
    assert rule == {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["get", "list", "create"]}
    pod = only("schedule", "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == only("schedule", "RoleBinding")["subjects"][0]["name"]
    assert pod["containers"][0]["command"][1:] == ["/etc/pcace-schedule/create_rayjob.py", "pcace"]
