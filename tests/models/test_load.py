"""Models are built and filled from data alone; every mistake is one line that names key, value and what would do."""

from __future__ import annotations

import io
import os
import re
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from pcace_dist.errors import JobError, ModelError
from pcace_dist.models.load import load_model, weights_digest

FACTORY = "tests.models.factories:small"
Read = Callable[[str], bytes]


def build(
    factory: str = FACTORY, weights: str = "random", *, seed: int = 0, data: bytes | None = None, **kwargs: Any
) -> nn.Module:
    """load_model, with `data` as the content of the weights file."""

    def read(path: str) -> bytes:
        if data is None:
            raise FileNotFoundError(f"{path}: no such file")
        return data

    return load_model(factory, kwargs, weights, seed=seed, read=read)


def saved(state: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def small_state(seed: int = 7) -> dict[str, Tensor]:
    return build(seed=seed).state_dict()


def refuses(
    words: str, factory: str = FACTORY, weights: str = "random", *, data: bytes | None = None, **kwargs: Any
) -> None:
    """Loading fails with one line in which `words` is found."""
    with pytest.raises(ModelError, match=words) as error:
        build(factory, weights, data=data, **kwargs)
    assert "\n" not in str(error.value)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Writes a module of its own onto the Python path."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, text: str) -> None:
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    yield write


# -- what works


def test_a_model_is_in_eval_mode_without_gradients_in_float32() -> None:
    model = build("tests.models.factories:double")
    assert not model.training
    assert all(not p.requires_grad and p.dtype == torch.float32 for p in model.parameters())


def test_random_weights_follow_the_seed_and_leave_the_callers_random_state() -> None:
    before = torch.get_rng_state()
    first, again, other = (weights_digest(build(seed=seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert torch.equal(before, torch.get_rng_state())


def test_threads_that_draw_at_the_same_time_draw_the_same_weights(module: Callable[[str, str], None]) -> None:
    body = "    first = nn.Linear(3, 3)\n    time.sleep(0.05)\n    return nn.Sequential(first, nn.Linear(3, 3))\n"
    module("slow", f"import time\nfrom torch import nn\ndef net():\n{body}")
    with ThreadPoolExecutor(4) as pool:
        digests = set(pool.map(lambda _: weights_digest(build("slow:net")), range(4)))
    assert len(digests) == 1


def test_factory_weights_are_what_the_factory_brings() -> None:
    model = build("tests.models.factories:trained", "factory")
    assert bool((model.get_parameter("fc.weight") == 3).all())


def test_kwargs_reach_the_factory() -> None:
    assert build(classes=4).get_parameter("fc.weight").shape == (4, 3)
    assert build("torchvision:squeezenet1_1", num_classes=5).get_submodule("classifier.1").out_channels == 5


def test_torchvision_brings_no_weights_of_its_own_or_of_a_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_download(*_: object, **__: object) -> None:
        raise AssertionError("download")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", no_download)
    assert isinstance(build("torchvision:lraspp_mobilenet_v3_large", num_classes=2), nn.Module)


def test_torchvision_default_weights_are_asked_for_by_the_word_factory(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: dict[str, object] = {}

    def get_model(name: str, **kwargs: object) -> nn.Module:
        arguments.update(kwargs, name=name)
        return nn.Linear(1, 1)

    monkeypatch.setattr("torchvision.models.get_model", get_model)
    build("torchvision:resnet18", "factory")
    assert arguments == {"name": "resnet18", "weights": "DEFAULT"}


@pytest.mark.parametrize(
    "path, wrap",
    [
        ("w.pt", saved),
        ("w.pth", lambda state: saved({"state_dict": state, "epoch": 3})),
        ("w.pt", lambda state: saved({"model": state})),
        ("w.ckpt", lambda state: saved({f"module.{name}": tensor for name, tensor in state.items()})),
        ("s3://bucket/w.safetensors", save_safetensors),
    ],
)
def test_state_dicts_are_found_in_their_usual_places(path: str, wrap: Callable[[Mapping[str, Tensor]], bytes]) -> None:
    model = build(weights=path, data=wrap(small_state()))
    assert weights_digest(model) == weights_digest(build(seed=7)) != weights_digest(build())


def test_counters_of_batch_norm_may_be_missing() -> None:
    state = small_state()
    counters = [name for name in state if name.endswith("num_batches_tracked")]
    assert counters
    for name in counters:
        del state[name]
    build(weights="w.safetensors", data=save_safetensors(state))
    build(weights="w.pt", data=saved(state))


def test_versions_of_modules_are_taken_from_the_file_or_for_todays() -> None:
    """torchvision's MNASNet refuses a state dict without version."""
    state = build("torchvision:mnasnet0_5").state_dict()
    for path, data in (("w.pt", saved(state)), ("w.safetensors", save_safetensors(dict(state)))):
        loaded = build("torchvision:mnasnet0_5", path, data=data, seed=1)
        assert weights_digest(loaded) == weights_digest(build("torchvision:mnasnet0_5"))


# -- the digest


def test_the_digest_depends_on_every_value_name_shape_and_dtype() -> None:
    def of(**tensors: Tensor) -> str:
        model = nn.Module()
        for name, tensor in tensors.items():
            model.register_buffer(name, tensor)
        return weights_digest(model)

    base = of(a=torch.zeros(4), b=torch.ones(2))
    assert base == of(b=torch.ones(2), a=torch.zeros(4))
    last = torch.ones(2)
    last[1] = torch.nextafter(last[1], torch.tensor(2.0))
    changed = [
        of(a=torch.zeros(4), b=last),
        of(a=torch.zeros(4), c=torch.ones(2)),
        of(a=torch.zeros(2, 2), b=torch.ones(2)),
        of(a=torch.zeros(4, dtype=torch.int32), b=torch.ones(2)),
        of(a=torch.zeros(4)),
    ]
    assert len({base, *changed}) == 6


def test_the_digest_is_stable() -> None:
    """A known answer: the digest is part of the job's fingerprint and must not drift between versions."""
    model = nn.Module()
    model.register_parameter("w", nn.Parameter(torch.arange(3, dtype=torch.float32)))
    model.register_buffer("n", torch.tensor(5))
    assert weights_digest(model) == "2cc957a6d668ac557e4ef4c9b21c6520"


def quantised(scale: float) -> nn.Module:
    """Whose packed weights are neither parameters nor buffers."""
    linear: Any = torch.ao.nn.quantized.Linear(3, 2)  # type: ignore[no-untyped-call]
    linear.set_weight_bias(torch.quantize_per_tensor(torch.ones(2, 3), scale, 0, torch.qint8), torch.zeros(2))
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 3, 3, bias=False), fc=linear))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_packed_weights_count_in_the_digest() -> None:
    models = [quantised(scale) for scale in (0.1, 0.1, 0.3)]  # 1 is stored as 10 or 3 steps
    for model in models:
        nn.init.ones_(model.get_parameter("conv.weight"))
    first, again, other = (weights_digest(model) for model in models)
    assert first == again != other


class Renaming(nn.Linear):
    """Writes a state dict with names of its own."""

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}kernel"] = self.weight


def test_a_state_dict_with_other_names_changes_nothing() -> None:
    plain, renaming = nn.Linear(2, 2), Renaming(2, 2)
    with torch.no_grad():
        for network in (plain, renaming):
            network.weight.fill_(1)
            network.bias.fill_(2)
    assert weights_digest(plain) == weights_digest(renaming)


# -- the factory


@pytest.mark.parametrize(
    "factory, words",
    [
        (
            "torchvision:resnet118",
            r"^model\.factory torchvision:resnet118: torchvision \S+ has no model 'resnet118'; nearest: .*resnet18",
        ),
        ("resnet18", r"^model\.factory resnet18: write torchvision:NAME or module:function"),
        (":small", "write torchvision:NAME or module:function"),
        ("tests.models.factories:smal", r"tests\.models\.factories has no 'smal'; nearest: small"),
        (
            "tests.models.factoris:small",
            r"there is no module 'tests\.models\.factoris' on the Python path; nearest: factories",
        ),
        ("torchvison.models:resnet18", r"there is no module 'torchvison' on the Python path; nearest: torchvision"),
        ("tests.models.factories:NUMBER", "NUMBER is an int, not a function"),
        ("tests.models.factories:nothing", r"returned None, not a torch\.nn\.Module"),
        ("tests.models.factories:class_itself", r"returned a type, not a torch\.nn\.Module"),
        ("tests.models.factories:raising", "raised RuntimeError: no such variant; see model.kwargs"),
        ("tests.models.factories:lazy", "fc.weight is lazy: its shape is not known yet"),
        ("tests.models.factories:meta", "fc.weight is on the meta device: its value is not known yet"),
    ],
)
def test_a_factory_that_cannot_be_used_is_named(factory: str, words: str) -> None:
    refuses(words, factory)


def test_an_unknown_keyword_names_model_kwargs() -> None:
    refuses(r"raised TypeError: .*unexpected keyword argument 'clases'; see model\.kwargs {'clases': 3}", clases=3)


def test_a_module_that_is_missing_is_told_from_one_that_fails(module: Callable[[str, str], None]) -> None:
    module("pcace_needs", "import no_such_library_of_ours\n")
    module("pcace_wrong", "def f(:\n")
    module("pcace_exits", "raise SystemExit(3)\n")
    refuses(
        "importing pcace_needs failed: it needs module 'no_such_library_of_ours', which is not installed",
        "pcace_needs:f",
    )
    refuses("importing pcace_wrong failed: SyntaxError", "pcace_wrong:f")
    refuses("importing pcace_exits failed: SystemExit: 3", "pcace_exits:f")


# -- the weights


def test_a_weights_file_that_is_not_there_is_named() -> None:
    refuses(r"^model\.weights runs/w\.pt: no such file$", weights="runs/w.pt")


@pytest.mark.parametrize(
    "error, words",
    [
        (PermissionError(13, "Permission denied"), "cannot be read: Permission denied"),
        (OSError("w.pt: access denied (403)"), r"^model\.weights w\.pt: cannot be read: access denied \(403\)$"),
    ],
)
def test_a_weights_file_that_cannot_be_read_says_why(error: OSError, words: str) -> None:
    def read(_: str) -> bytes:
        raise error

    with pytest.raises(ModelError, match=words):
        load_model(FACTORY, {}, "w.pt", seed=0, read=read)


def test_an_error_of_the_storage_that_is_ours_stays_as_it_is() -> None:
    def read(path: str) -> bytes:
        raise JobError(f"{path}: names no bucket")

    with pytest.raises(JobError, match="names no bucket"):
        load_model(FACTORY, {}, "s3:///w.pt", seed=0, read=read)


@pytest.mark.parametrize(
    "weights, words",
    [
        ("randm", "is neither random, factory nor a file .*nearest: random"),
        ("w.onnx", r"is neither .*\.safetensors, \.pt"),
    ],
)
def test_weights_of_an_unknown_kind_say_which_there_are(weights: str, words: str) -> None:
    refuses(words, weights=weights)


def torchscript() -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "path, data, words",
    [
        ("w.safetensors", lambda: b"", "is not a safetensors file, or is cut short"),
        ("w.safetensors", lambda: save_safetensors(small_state())[:-1], "is not a safetensors file, or is cut short"),
        ("w.safetensors", lambda: saved(small_state()), "is not a safetensors file"),
        ("w.pt", lambda: b"", "is not a PyTorch file, or is damaged or cut short"),
        ("w.pt", lambda: b"hello", "is not a PyTorch file, or is damaged or cut short"),
        ("w.pt", lambda: saved(small_state())[:600], "is not a PyTorch file, or is damaged or cut short"),
        ("w.pt", torchscript, "is a TorchScript archive, not a state dict; save a state dict"),
        (
            "w.pt",
            lambda: saved(build()),
            r"holds more than tensors \(\S+\), and code from a file is never run; save a state dict",
        ),
        ("w.pt", lambda: saved([1, 2]), "holds a list, not a state dict"),
        ("w.pt", lambda: saved({"epoch": 3}), "is not a state dict: entry 'epoch' is an int, not a tensor"),
    ],
)
def test_files_that_hold_no_state_dict_say_what_they_are(path: str, data: Callable[[], bytes], words: str) -> None:
    refuses(rf"^model\.weights {path}: {words}", weights=path, data=data())


class Trap:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        import os

        return os.system, (f"touch {self.mark}",)


def test_nothing_in_a_file_is_ever_executed(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    refuses(r"holds more than tensors \(\S*system\)", weights="w.pt", data=saved({"fc.weight": Trap(mark)}))
    assert not mark.exists()


def test_missing_and_unexpected_names_are_counted_and_the_first_few_named() -> None:
    state = small_state()
    for name in ("fc.weight", "fc.bias"):
        state[f"head.{name}"] = state.pop(name)
    refuses(
        rf"^model\.weights w\.pt: does not fit model\.factory {re.escape(FACTORY)}: "
        r"2 missing \(fc\.weight, fc\.bias\); 2 unexpected \(head\.fc\.weight, head\.fc\.bias\)$",
        weights="w.pt",
        data=saved(state),
    )
    refuses(
        r"7 missing \(conv\.weight, conv\.bias, norm\.weight and \d more\)",
        weights="w.safetensors",
        data=save_safetensors({"fc.bias": state["head.fc.bias"]}),
    )


def test_a_shape_that_differs_names_both_shapes_and_model_kwargs() -> None:
    refuses(
        r"does not fit .*: fc\.\w+ has shape \(2.*\), the model's is \(9.*\); see model\.kwargs",
        weights="w.pt",
        data=saved(small_state()),
        classes=9,
    )


def scripted() -> nn.Module:
    model: nn.Module = torch.jit.script(nn.Sequential(nn.Linear(2, 2)))
    return model


def nested_script() -> nn.Module:
    return nn.Sequential(nn.ReLU(), scripted())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("factory", ["scripted", "nested_script"])
def test_torchscript_is_refused(factory: str) -> None:
    with pytest.raises(ModelError, match="returned TorchScript, whose layers cannot be looked into"):
        build(f"tests.models.test_load:{factory}")


def compiled() -> nn.Module:
    inner: Any = torch.compile(nn.Linear(2, 3))
    model: Any = torch.compile(nn.Sequential(nn.Linear(2, 2), inner))
    assert isinstance(model, nn.Module)
    return model


def test_a_compiled_model_is_taken_as_it_was_before() -> None:
    model = build("tests.models.test_load:compiled")
    assert list(model.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert {type(part).__name__ for part in model.modules()} == {"Sequential", "Linear"}


def test_folders_come_first_while_the_factory_is_imported_and_last_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "import sys\nfrom torch import nn\ndef net():\n    return nn.Linear(sys.path.index({!r}) + 1, 1)\n"
    (tmp_path / "pcace_placed.py").write_text(text.format(str(tmp_path)))
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])  # as it is after another model
    for _ in range(2):
        model = load_model("pcace_placed:net", {}, "random", seed=0, read=lambda _: b"", python_path=(str(tmp_path),))
        assert model.get_parameter("weight").shape == (1, 1), "the factory runs with its folder first"
        assert sys.path.index(str(tmp_path)) == len(sys.path) - 1


def unsettling() -> nn.Module:
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("cpu")
    torch.set_grad_enabled(False)
    torch.use_deterministic_algorithms(True)
    os.chdir("/")
    return nn.Linear(2, 2)


def test_what_a_factory_changes_for_all_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = torch.get_default_dtype(), torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled()
    model = build("tests.models.test_load:unsettling")
    assert (torch.get_default_dtype(), torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled()) == before
    assert Path.cwd() == tmp_path
    assert next(model.parameters()).dtype == torch.float32
