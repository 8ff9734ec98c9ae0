"""`pcace pack` as a submitted job, from a folder into a store and from a store into another; in a private namespace.

Run by `namespace.run_scenario` as `submitted FOLDER`: FOLDER/train holds the images, FOLDER/alone what a pack in one
process has made of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import boto3

from tests.faults.submitting import submitted, working_dir
from tests.servers import moto_server, s3_environment

BUCKET = "imagenet"
OPTIONS = ("--verify", "decode", "--shard-rows", "12")


def stored(endpoint: str, below: str) -> dict[str, bytes]:
    """Objects of the bucket below a prefix."""
    client = boto3.client("s3", endpoint_url=endpoint)
    listed = client.list_objects_v2(Bucket=BUCKET, Prefix=below).get("Contents", [])
    return {
        item["Key"].removeprefix(below): client.get_object(Bucket=BUCKET, Key=item["Key"])["Body"].read()
        for item in listed
    }


def put_images(endpoint: str, folder: Path) -> None:
    client = boto3.client("s3", endpoint_url=endpoint)
    for path in sorted(folder.rglob("*.JPEG")):
        client.upload_file(str(path), BUCKET, f"raw/{path.relative_to(folder)}")


def is_the_pack(packed: dict[str, bytes], alone: Path) -> None:
    """The same shards, byte for byte, and the same list of damaged files."""
    shards = {path.name: path.read_bytes() for path in alone.glob("*.parquet")}
    assert len(shards) > 5
    assert {name: data for name, data in packed.items() if name.endswith(".parquet")} == shards
    assert packed["_bad_files.json"] == (alone / "_bad_files.json").read_bytes()
    assert json.loads(packed["_pack.json"])["complete"] is True


def packed(clean: Path, source: str, dest: str, *, code: int = 0) -> str:
    """What the job of one pack said. The store's settings reach the driver and all workers as the job's environment."""
    variables = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    runtime = json.dumps({"env_vars": variables})
    command = ("python", "jobs/pack.py", source, dest, *OPTIONS)
    done = submitted(clean, *command, options=("--runtime-env-json", runtime))
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def run(folder: Path) -> None:
    clean = working_dir(folder)
    subprocess.run(["ray", "get-auth-token", "--generate"], check=True, capture_output=True, timeout=60)
    start = ["ray", "start", "--head", "--num-cpus=2", "--object-store-memory=200000000", "--disable-usage-stats"]
    subprocess.run(start, check=True, capture_output=True, timeout=120)
    with moto_server() as endpoint:
        os.environ.update({k: v for k, v in s3_environment(endpoint).items() if k.startswith("AWS_")})
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=BUCKET)
        put_images(endpoint, folder / "train")
        packed(clean, str(folder / "train"), f"s3://{BUCKET}/from-disk")
        is_the_pack(stored(endpoint, "from-disk/"), folder / "alone")
        packed(clean, f"s3://{BUCKET}/raw", f"s3://{BUCKET}/from-store")
        is_the_pack(stored(endpoint, "from-store/"), folder / "alone")
        assert "no such" in packed(clean, f"s3://{BUCKET}/nothing", f"s3://{BUCKET}/gone", code=1)
        assert not stored(endpoint, "gone/")
    subprocess.run(["ray", "stop", "--force"], capture_output=True, timeout=60)


if __name__ == "__main__":
    assert sys.argv[1] == "submitted", sys.argv
    run(Path(sys.argv[2]))
