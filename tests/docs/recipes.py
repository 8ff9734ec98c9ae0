"""What each page is given to run here: small data in the place of the reader's, a server in the place of S3."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.docs.runner import Recipe
from tests.servers import moto_server, s3_client


@contextlib.contextmanager
def s3() -> Iterator[dict[str, str]]:
    """moto's server with an empty s3://bucket."""
    with moto_server() as endpoint:
        s3_client(endpoint).create_bucket(Bucket="bucket")
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
        yield keys | {"AWS_ENDPOINT_URL": endpoint}


NETWORK = """
import torch

model = torch.nn.Sequential()
model.layer4 = torch.nn.Sequential()
model.layer4.add_module("0", torch.nn.Sequential())
model.layer4[0].conv2 = torch.nn.Conv2d(1, 4, 3)
model.head = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 6 * 6, 2))
noise = torch.Generator().manual_seed(0)
dataset = [(torch.randn(1, 8, 8, generator=noise), row % 2) for row in range(256)]
"""
DIGIT = """
import pyarrow.parquet as pq

open("digit.png", "wb").write(pq.read_table("examples/mnist/data/part-00000.parquet")["image"][17].as_py()["bytes"])
"""
RESNET = 'pcace init --factory torchvision:resnet18 --kwargs "{num_classes: 2}" --weights random --data photos'
SMALL = "--set model.input.resize=36 --set model.input.crop=32"  # pixels: a hundredth of the time
A_WHILE = "timeout --preserve-status -s INT 40"  # Ctrl-C after so many seconds: a busy machine needs 15 to start
OF_GROUPS = f"{SMALL} --set group_by=label --set statistics.keep_codes=true"
PAGE = "runs/mnist --group 3 --no-synthesis"
MNIST_TWICE = "pcace rank examples/mnist/job.yaml --set compute.seed=1 --set output=runs/mnist-2 --top 1"
EVALUATION = {"evaluate runs/resnet18": "evaluate runs/mnist --layer conv3 --group 3 --draws 5"}

ESTIMATE = {"pcace estimate": "tests/commands/test_estimate.py; it measures the start of a Ray"}

RECIPES: dict[str, Recipe] = {
    "README.md": Recipe(
        given=("examples", "photos"),
        before="""mv photos/china photos/cat && mv photos/flower photos/dog && cp photos/cat/china-0000.jpg cat.jpg
export MLFLOW_TRACKING_URI=sqlite:///mlflow.db""",
        instead={
            "'{weights: DEFAULT}' --data": "'{num_classes: 2}' --weights random --output runs/resnet18 --data",
            "pcace rank job.yaml  ": f"pcace rank job.yaml {OF_GROUPS} ",
            "pcace rank job.yaml --from-codes": f"pcace rank job.yaml {SMALL} --from-codes",
            "group_by=borough": "group_by=class",
            "runs/monday runs/sunday": "runs/resnet18 runs/resnet18",
            "evaluate runs/resnet18": "evaluate runs/resnet18 --layer layer4.1.conv2 --group cat --draws 3",
            "pcace rerank job.yaml": f"pcace rerank job.yaml {SMALL} --set output=runs/weekly",
            "pcace report runs/resnet18  ": "pcace report runs/resnet18 --no-synthesis ",
            "pcace serve runs --open  ": f"{A_WHILE} pcace serve runs --port 0",
        },
        skipped={
            "make demo": "`make setup` would install: tests/install",
            "pip install": "tests/install",
            "pipx install": "tests/install",
            ". .venv/bin/activate": "the commands are found already",
            **ESTIMATE,
        },
    ),
    "docs/codes.md": Recipe(given=("mnist",), check="assert codes.shape[:2] == (5000, 32) and codes.dtype == np.uint8"),
    "docs/explain.md": Recipe(
        given=("mnist",),
        before=f"python -c '{DIGIT}'",
    ),
    "docs/comparison.md": Recipe(
        given=("mnist",),
        before="cp examples/mnist/job.yaml job.yaml",
        instead={
            "runs/monday runs/sunday": "runs/mnist runs/mnist",
            "rerank job.yaml": "rerank job.yaml --set group_by=null --set output=runs/weekly",
            **EVALUATION,
        },
    ),
    "docs/concepts.md": Recipe(given=("examples",)),
    "docs/export.md": Recipe(
        given=("mnist",),
        before="export WANDB_MODE=offline",
        instead={"http://localhost:5000": "sqlite:///mlflow.db"},
        skipped={
            "import fiftyone": "FiftyOne is not among the tests' packages; tests/commands/export reads its format"
        },
        server=s3,
    ),
    "docs/first-hour.md": Recipe(
        given=("photos",),
        before="""python -c '
import torch, torchvision
torch.manual_seed(0)
torch.save(torchvision.models.resnet18(num_classes=2).state_dict(), "places.pt")'""",
        instead={
            "pcace rank job.yaml": f"pcace rank job.yaml {SMALL}",
            "pcace report runs/job  ": "pcace report runs/job --no-synthesis",
        },
    ),
    "docs/models.md": Recipe(
        given=("photos",),
        before=RESNET,
        names="import torch\nfrom torch import nn",
        check="assert issubclass(Wrapped, nn.Module)",
    ),
    "docs/nightly.md": Recipe(given=("examples",)),
    "docs/many-classes.md": Recipe(given=("examples",)),
    "docs/monitoring.md": Recipe(
        given=("mnist",), instead={"pcace serve runs --open  ": f"{A_WHILE} pcace serve runs --port 0"}
    ),
    "docs/operations.md": Recipe(given=("mnist",)),
    "docs/others.md": Recipe(
        given=("mnist",),
        before="cp examples/mnist/job.yaml job.yaml",
        instead={
            **EVALUATION,
            "report runs/resnet18": "report runs/mnist --no-synthesis",
            "--from-codes runs/resnet18": "--from-codes runs/mnist",
            "{column: has_stripes}'": "{column: label}' --set group_by=null",
        },
    ),
    "docs/outputs.md": Recipe(
        given=("mnist",), check="assert codes.shape[1:] == (32, 5) and len(codes) == len(column) > 256"
    ),
    "docs/overlap.md": Recipe(given=("mnist",), check="assert 1 <= len(likely) <= 5 and len(table) == 56"),
    "docs/protocol.md": Recipe(given=("mnist",)),
    "docs/pruning.md": Recipe(
        given=("mnist",),
        check="images = torch.zeros(2, 1, 28, 28)\nassert model(images).shape == smaller(images).shape == (2, 10)",
    ),
    "docs/python.md": Recipe(
        names=NETWORK, check='assert set(run.ranking()["layer"].to_pylist()) == {"layer4.0.conv2"}'
    ),
    "docs/report.md": Recipe(
        given=("mnist",),
        before=f"{MNIST_TWICE}\nprintf 'a bright square\\nnothing but noise\\n' > words.txt",
        instead={
            "report runs/mnist  ": "report runs/mnist --group 3 --top 3",
            "runs/resnet18 --top 10 --layers 'layer4.*'": f"{PAGE} --top 10 --layers conv3",
            "s3://bucket/today --against s3://bucket/yesterday": f"{PAGE} --against runs/mnist-2",
            "runs/street --labels mymodels": f"{PAGE} --labels tests.reporting.image_text",
        },
        check="assert callable(similarity)",
    ),
    "docs/s3.md": Recipe(
        given=("examples",), instead={"export AWS_DEFAULT_REGION=eu-central-1": "test -n $AWS_ENDPOINT_URL"}, server=s3
    ),
    "docs/reliability.md": Recipe(
        given=("examples",),
        instead={"job.yaml       # kill -9": "job.yaml & sleep 12; kill -9 $! || true    # kill -9"},
    ),
    "docs/segmentation.md": Recipe(given=("examples",)),
    "docs/slow.md": Recipe(given=("mnist",), skipped=ESTIMATE),
    "docs/small-data.md": Recipe(given=("examples",)),
    "docs/serve.md": Recipe(
        given=("mnist",),
        instead={
            "pcace serve runs --open   ": f"{A_WHILE} pcace serve runs --port 0",
            "pcace serve s3://bucket/runs --port 9000": f"{A_WHILE} pcace serve s3://bucket/runs --port 0",
        },
        skipped={"pip install": "tests/install"},
        server=s3,
    ),
    "docs/tells-and-does.md": Recipe(
        given=("mnist",), instead={"evaluate runs/mnist": "evaluate runs/mnist --layer conv3 --group 3 --draws 5"}
    ),
    "docs/what-intervals-mean.md": Recipe(given=("mnist",)),
    "docs/vit.md": Recipe(given=("vit",)),
    "docs/why-it-works.md": Recipe(
        check="assert abs(scores.pearson).max() < 0.1 and scores.score[0] > 0.97 and scores.score[1] < 0.2"
    ),
}
"""Page -> what it is given."""

CLUSTER = "needs machines: tests/cluster/test_docs.py holds its commands, tests/cluster/test_submit.py submits jobs"
NOT_RUN: dict[str, str] = {
    "cluster/README.md": CLUSTER,
    "docs/data.md": "has no blocks",
    "docs/estimate.md": "tests/commands/test_estimate.py runs it",
    "docs/mistakes.md": "tests/cli/test_mistakes.py runs every line of its tables",
    "docs/cluster-security.md": "has no blocks",
    "docs/packing.md": "has no blocks",
    "docs/questions.md": "has no blocks",
    "docs/ray-cluster.md": CLUSTER,
    "docs/scale.md": "tests/commands/test_estimate.py runs `pcace estimate`",
    "examples/README.md": "has no blocks",
    "examples/imagenet/README.md": "tests/examples/test_imagenet.py runs all that `make imagenet` does",
    "examples/mnist/README.md": "tests/examples/test_mnist.py runs all that `make mnist` does",
    "examples/mnist/figures/README.md": "has no blocks",
    "examples/own_model/README.md": "tests/examples/test_own_model.py runs its jobs",
    "examples/street/README.md": "tests/examples/test_street.py runs all that `make street` does",
}
"""Page -> why no recipe runs it."""
