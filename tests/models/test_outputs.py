"""Which part of what a model returns are its outputs: the only one that can be, the usual one, or the one named."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput

from pcace_dist.errors import ModelError
from pcace_dist.models.outputs import ChooseOutput, as_matrix, choose_output

LOGITS = torch.rand(3, 5)
EMBEDDING = torch.rand(3, 12)
MAPS = torch.rand(3, 4, 8, 8)
Pair = namedtuple("Pair", ["embedding", "scores"])
Named = namedtuple("Named", ["logits", "aux_logits"])


@dataclass
class Fields:
    hidden: Tensor
    logits: Tensor
    loss: Tensor | None = None


@dataclass
class Heads:
    one: Tensor
    other: Tensor


@pytest.mark.parametrize(
    "outputs",
    [
        LOGITS,
        {"logits": LOGITS},
        {"logits": LOGITS, "pooled": EMBEDDING},
        OrderedDict(out=LOGITS, aux=EMBEDDING),
        (LOGITS, None),
        (LOGITS,),
        [MAPS, LOGITS],
        {"scores": LOGITS, "maps": MAPS},
        Fields(EMBEDDING, LOGITS),
        Named(LOGITS, EMBEDDING),
        ({"scores": LOGITS}, MAPS),
        (LOGITS, torch.zeros(3, 2, dtype=torch.int64)),
    ],
)
def test_the_only_one_or_the_usual_one_is_taken(outputs: object) -> None:
    assert torch.equal(as_matrix(outputs), LOGITS)


def test_one_value_an_image_is_one_output() -> None:
    assert as_matrix(LOGITS[:, 0]).shape == (3, 1)


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        (
            (EMBEDDING, LOGITS),
            r"returns 0: \(3, 12\), 1: \(3, 5\); say which are its outputs, for example model.output: 1$",
        ),
        ({"a": EMBEDDING, "b": LOGITS}, r"returns a: \(3, 12\), b: \(3, 5\); say which"),
        (Heads(EMBEDDING, LOGITS), r"one: \(3, 12\), other: \(3, 5\); say which"),
        (({"x": EMBEDDING}, [LOGITS]), r"0.x: \(3, 12\), 1.0: \(3, 5\); say which"),
        (Pair(EMBEDDING, LOGITS), r"embedding: \(3, 12\), scores: \(3, 5\); say which"),
        (
            {"boxes": MAPS.long()},
            r"returns dict with boxes: \(3, 4, 8, 8\), not a tensor of .*; wrap it: class Wrapped",
        ),
        (SimpleNamespace(logits=LOGITS), r"returns SimpleNamespace, not a tensor of .*; wrap it: class Wrapped"),
        (None, "returns NoneType, not a tensor"),
        ([], "returns list, not a tensor"),
        (LOGITS.reshape(3, 5, 1), r"of shape \(3, 5, 1\), not real values of shape \(images, outputs\)"),
        (LOGITS.sum(), r"of shape \(\)"),
        (LOGITS.to(torch.complex64), r"returns torch\.complex64"),
    ],
)
def test_none_or_several_is_a_question(outputs: object, words: str) -> None:
    with pytest.raises(ModelError, match=rf"^model\.factory: the model .*{words}") as caught:
        as_matrix(outputs)
    assert "\n" not in str(caught.value)


class Returns(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(2, 5)

    def forward(self, x: Tensor) -> object:
        logits = self.read(x)
        return {
            "embedding": x,
            "heads": [logits, -logits],
            "pair": Pair(x, logits),
            "probe.head": logits,
            "last": {"only": logits},
        }


class Pairs(Returns):
    def forward(self, x: Tensor) -> object:
        return Pair(x, self.read(x))


@pytest.mark.parametrize("which", ["heads.0", "pair.scores", "pair.1", "2.1", "probe.head", "last.only"])
def test_a_part_is_chosen_by_its_name_or_index_also_in_copies(which: str) -> None:
    model = choose_output(Returns(), which)
    for chosen in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(as_matrix(chosen(torch.ones(3, 2))), model.get_submodule("read")(torch.ones(3, 2)))


def test_an_index_chooses_of_a_tuple() -> None:
    assert as_matrix(choose_output(Pairs(), 1)(torch.ones(3, 2))).shape == (3, 5)


def test_a_part_that_holds_one_output_is_it_and_one_that_holds_two_is_a_question() -> None:
    assert as_matrix(choose_output(Returns(), "last")(torch.ones(3, 2))).shape == (3, 5)
    with pytest.raises(ModelError, match=r"returns heads.0: \(3, 5\), heads.1: \(3, 5\); .* model.output: heads.1$"):
        choose_output(Returns(), "heads")(torch.ones(3, 2))


@pytest.mark.parametrize(("which", "example"), [("score", "pair.scores"), ("heads.2", "heads.1"), (7, "last.only")])
def test_a_part_that_is_not_there_is_refused_with_shapes_and_a_line_to_write(which: str | int, example: str) -> None:
    there = (
        r"embedding: \(3, 2\), heads.0: \(3, 5\), heads.1: \(3, 5\), pair.embedding: \(3, 2\), pair.scores: \(3, 5\),"
    )
    with pytest.raises(
        ModelError, match=rf"model.output {which}: the model returns no such part; there are: {there}"
    ) as caught:
        choose_output(Returns(), which)(torch.ones(3, 2))
    assert str(caught.value).endswith(f"for example model.output: {example}")


def test_a_tensor_has_no_parts() -> None:
    with pytest.raises(ModelError, match="no such part; it returns a tensor alone; leave the key out"):
        choose_output(nn.Linear(2, 5), "logits")(torch.ones(3, 2))


def test_what_a_transformer_returns_is_chosen_by_name_or_index() -> None:
    """A ModelOutput is a mapping, a dataclass and, by index, a tuple."""
    maps, pooled = torch.rand(3, 17, 8), torch.rand(3, 8)
    output = BaseModelOutputWithPooling(last_hidden_state=maps, pooler_output=pooled)
    assert torch.equal(as_matrix(output), pooled)
    assert torch.equal(as_matrix(ImageClassifierOutput(logits=LOGITS, hidden_states=(maps, maps))), LOGITS)
    for which in ("pooler_output", 1):
        chosen = ChooseOutput(which)(nn.Identity(), (), output)
        assert isinstance(chosen, Tensor) and torch.equal(chosen, pooled)
