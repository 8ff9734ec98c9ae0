"""The files for `ray up`: taken by Ray's own validation, and its scheduler starts from them what they promise."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "cluster" / "ray-up"
FILES = sorted(path.name for path in FOLDER.glob("*.yaml"))
CLOUDS = ["aws.yaml", "gcp.yaml"]

Json = dict[str, Any]


def load(name: str) -> Json:
    content: Json = yaml.safe_load((FOLDER / name).read_text())
    return content


def test_there_is_a_file_for_each_kind_of_cluster() -> None:
    assert FILES == ["aws.yaml", "gcp.yaml", "machine.yaml", "on-premise.yaml"]


@pytest.mark.parametrize("name", FILES)
def test_ray_takes_the_file(name: str) -> None:
    validate_config(prepare_config(load(name)))


@pytest.mark.parametrize("name", FILES)
def test_no_keys_are_in_the_file(name: str) -> None:
    text = (FOLDER / name).read_text()
    assert not re.search(r"AKIA|aws_(access|secret)|SECRET_ACCESS|PRIVATE KEY", text, re.I)


@pytest.mark.parametrize("name", FILES)
def test_the_cluster_asks_for_its_token_and_hides_its_dashboard(name: str) -> None:
    config = load(name)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("RAY_AUTH_MODE=token" in command for command in config["setup_commands"])
    assert all("--dashboard-host=127.0.0.1" in one for one in config["head_start_ray_commands"] if "--head" in one)


@pytest.mark.parametrize("name", FILES)
def test_the_package_is_installed_from_the_wheel_that_make_builds(name: str) -> None:
    config = load(name)
    assert config["file_mounts"]["~/pcace"] == "dist"
    assert any("-c ~/pcace/constraints.txt ~/pcace/pcace_dist-*.whl" in one for one in config["setup_commands"])
    assert "dist/constraints.txt" in (ROOT / "Makefile").read_text()


def wanted(config: Json, workers: int, lacking: tuple[str, ...] = ()) -> Json:
    """Nodes that Ray's autoscaler would start for so many workers with a GPU each, after some could not be had."""
    types = {
        name: NodeTypeConfig(
            name=name,
            min_worker_nodes=one.get("min_workers", 0),
            max_worker_nodes=one.get("max_workers", 0),
            priority=one.get("priority", 0),
            resources=one["resources"],
        )
        for name, one in prepare_config(config)["available_node_types"].items()
    }
    demand = [ResourceRequestUtil.make({"CPU": 4.0, "GPU": 1.0}) for _ in range(workers)]
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=types,
        max_num_nodes=config["max_workers"] + 1,
        resource_requests=ResourceRequestUtil.group_by_count(demand),
        cloud_resource_availabilities={name: 0.0 for name in lacking},
        recoverable_resource_availabilities={name: 0.0 for name in lacking},
    )
    reply = ResourceDemandScheduler().schedule(request)
    return {one.instance_type: one.count for one in reply.to_launch}


@pytest.mark.parametrize("name", CLOUDS)
def test_spot_machines_come_first(name: str) -> None:
    assert wanted(load(name), 3) == {"worker_spot": 3}


@pytest.mark.parametrize("name", CLOUDS)
def test_machines_on_demand_come_where_there_is_no_spot(name: str) -> None:
    assert wanted(load(name), 3, lacking=("worker_spot",))["worker_on_demand"] == 2


@pytest.mark.parametrize("name", CLOUDS)
def test_the_autoscaler_that_knows_priorities_is_switched_on(name: str) -> None:
    (start,) = [one for one in load(name)["head_start_ray_commands"] if "--head" in one]
    assert "RAY_enable_autoscaler_v2=1 ray start" in start


@pytest.mark.parametrize("name", CLOUDS)
def test_the_head_runs_no_worker_and_groups_go_down_to_none(name: str) -> None:
    config = load(name)
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0}
    assert {one.get("min_workers", 0) for one in types.values()} == {0}
    assert config["idle_timeout_minutes"] <= 10


def test_spot_and_on_demand_differ_in_nothing_else() -> None:
    types = load("aws.yaml")["available_node_types"]
    spot, other = types["worker_spot"]["node_config"], types["worker_on_demand"]["node_config"]
    assert spot.pop("InstanceMarketOptions") == {"MarketType": "spot"}
    assert spot == other
    types = load("gcp.yaml")["available_node_types"]
    spot, other = types["worker_spot"]["node_config"], types["worker_on_demand"]["node_config"]
    assert spot.pop("scheduling")["provisioningModel"] == "SPOT"
    other.pop("scheduling")
    assert spot == other


def test_workers_on_aws_reach_the_bucket_by_role_alone() -> None:
    types = load("aws.yaml")["available_node_types"]
    for node in types.values():
        assert node["node_config"]["IamInstanceProfile"]["Name"].startswith("pcace-")
        assert node["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
