"""Which layers a job ranks, and that `all` says what it leaves out where a network is not only convolutions."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import timm
from torch import nn
from torchvision.models import resnet18

from pcace_dist.config.job import Job, read_job
from pcace_dist.errors import ModelError
from pcace_dist.run.layers_of_job import NO_CONVOLUTION, layouts_of, ranked_layers
from tests.models.library_models import vit

PATCHES = "vit.embeddings.patch_embeddings.projection"


def asked(layers: str = "all", size: int = 32) -> Job:
    return read_job(f"""
    dataset: {{path: shards}}
    model: {{factory: "mynet:build", weights: random, input: {{crop: {size}}}}}
    layers: {layers}
    target: {{logit: predicted}}
    output: runs/x
    """)


def test_all_of_a_transformer_says_what_it_takes_and_what_it_leaves_out(capsys: pytest.CaptureFixture[str]) -> None:
    layers, left_out = ranked_layers(asked(), vit())
    assert layers == (PATCHES,)
    assert set(left_out.values()) == {NO_CONVOLUTION} and len(left_out) == 2 * 6
    line = capsys.readouterr().err
    assert (
        f"pcace: layers: all takes 1 convolution ({PATCHES}) and leaves out 12 linear layers on tokens or maps" in line
    )
    assert 'to rank some of these: layers: [all, "vit.layers.*.mlp.fc2"]' in line


def test_the_line_that_it_says_does_rank_them(capsys: pytest.CaptureFixture[str]) -> None:
    layers, left_out = ranked_layers(asked('[all, "vit.layers.*.mlp.fc2"]'), vit())
    assert layers == (PATCHES, "vit.layers.0.mlp.fc2", "vit.layers.1.mlp.fc2")
    assert len(left_out) == 10 and "vit.layers.0.mlp.fc2" not in left_out


def test_layers_that_are_named_leave_nothing_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert ranked_layers(asked('"vit.layers.*.mlp.fc1"'), vit())[1] == {}
    assert capsys.readouterr().err == ""


def test_the_head_of_a_cnn_is_no_layer_on_maps(capsys: pytest.CaptureFixture[str]) -> None:
    layers, left_out = ranked_layers(asked(size=64), resnet18())
    assert len(layers) == 20 and left_out == {} and capsys.readouterr().err == ""


def test_a_convnet_with_linear_layers_on_maps_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    layers, left_out = ranked_layers(asked(size=64), timm.create_model("convnext_atto", conv_mlp=False))
    assert len(layers) == 16 and len(left_out) == 24
    assert "all takes 16 convolutions (stem.0, " in capsys.readouterr().err


def test_without_a_convolution_all_is_refused_with_what_there_is() -> None:
    model = nn.Sequential(OrderedDict(flat=nn.Flatten(), one=nn.Linear(48, 3)))
    with pytest.raises(ModelError, match=r"layers 'all': is every convolution, and the model has none; .*: flat, one"):
        ranked_layers(asked(size=4), model)


def test_the_last_word_on_a_layout_counts() -> None:
    job = asked('[{name: "vit.layers.*.mlp", layout: BCL}, {name: vit.layers.1.mlp, layout: BNC}]')
    assert layouts_of(job, vit()) == {"vit.layers.0.mlp": "BCL", "vit.layers.1.mlp": "BNC"}
