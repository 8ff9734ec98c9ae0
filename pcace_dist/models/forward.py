"""The one place where a batch goes through the model: padding, normalising, tapping.

Measured on CPUs: with a last batch of another size, logits change in their last bits. So every batch is padded to the
same size. `numeric_class` records what else the bits depend on. Knows no data sets and no Ray.
"""

from __future__ import annotations

import inspect
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import PIL
import torch
from torch import Tensor, nn

from pcace_dist.errors import ModelError, PcaceError
from pcace_dist.models.device import is_out_of_memory, to_device
from pcace_dist.models.effects.gradients import Found, PlaceGradients, Target
from pcace_dist.models.effects.places import Place, PlaceTap, tap_name
from pcace_dist.models.inputs import Normalise
from pcace_dist.models.outputs import as_matrix, wrapper
from pcace_dist.models.precision import Numerics, convert_model
from pcace_dist.models.tap import LayerTap, Receive
from pcace_dist.statistics.effects.positions import block_sums
from pcace_dist.statistics.loops.compiled import version as compiler
from pcace_dist.vision import torchvision

TOKENS = "input_ids"  # the first argument of a model for text, or for text and images

NumericClass: TypeAlias = dict[str, str | int]  # everything that the bits of results depend on, by name


class Forward:
    """Runs `model` on batches of at most `batch_size` images and passes on the maps of `layers`.

    mean, std: from model.input, one value for each image channel. places: by layer, where its effect is taken from
    (places.py). `self.model` is the model that runs: `model` itself,
    moved to `device`, or a copy of it in bfloat16.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device | str,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        layers: Sequence[str],
        numerics: Numerics = Numerics(),  # noqa: B008 (frozen)
        places: Mapping[str, Place] | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch size {batch_size}: must be at least 1")
        self.device = torch.device(device)
        self.numerics = numerics
        self.model = convert_model(model, self.device, numerics)
        self.batch_size = batch_size
        self.layers = tuple(layers)
        self.places = dict(places or {})
        self._normalise = Normalise(mean, std, self.device)

    @torch.inference_mode()
    def __call__(self, images: Tensor, receive: Receive | None = None) -> Tensor:
        """Outputs (n, O) of images uint8 (n, C, H, W), n from 1 to the batch size; on the device.

        A batch that is not full is padded with its last row; the outputs of the padding are dropped.
        `receive(layer, maps (batch size, C, D), shape)` is called during the pass, inside inference mode (see
        LayerTap). It gets the padding too: what is computed from a row must not depend on how many rows there are.
        Where a layer has a place, it is also called with `tap_name(layer)` and the maps there, summed over blocks. With
        None, the model runs without a tap.
        Raises ModelError where the model does not accept such images or returns no outputs.
        """
        rows = len(images)
        if not 1 <= rows <= self.batch_size:
            raise ValueError(f"{rows} images: this pass takes 1 to {self.batch_size}")
        padded = self._input(images)
        if receive is None:
            outputs = as_matrix(self._run(padded))
        else:
            guarded = _Guarded(receive)
            with LayerTap(self.model, self.layers, guarded), PlaceTap(self.model, self.places, guarded.blocks):
                outputs = as_matrix(self._run(padded, guarded))
        if len(outputs) != self.batch_size:
            raise ModelError(
                f"model.factory: the model returns outputs of shape {tuple(outputs.shape)} for a batch of "
                f"{self.batch_size} images; its first axis must be the image"
            )
        return outputs[:rows]

    def with_gradients(
        self, images: Tensor, receive: Receive, targets: Sequence[Target], means: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor], list[Found]]:
        """The same pass with a backward pass for each target: outputs (n, O), and of the whole batch, its padding
        included, the maps (B, C, D) at each layer's place and each target's gradients there.

        `receive` gets the layers' own maps. means: by layer (C, D); with them gradients are means along a path
        (gradients.py). Raises what the model or its backward pass raises.
        """
        gradients = PlaceGradients(self.model, self.places)
        padded = self._input(images)
        with LayerTap(self.model, self.layers, _detached(receive)):
            outputs, maps, found = gradients(padded, targets)
        if means is not None:
            _, _, found = gradients.along_path(padded, targets, means)
        return outputs[: len(images)], maps, found

    def without(self, images: Tensor, layer: str, channels: Sequence[int], mean: Tensor) -> Tensor:
        """Outputs (n, O) where these channels have the mean map (C, D) at the layer's place in place of their own."""
        gradients = PlaceGradients(self.model, self.places)
        return gradients.without(self._input(images), layer, channels, mean)[: len(images)]

    def _input(self, images: Tensor) -> Tensor:
        """The model's input: padded on the device, normalised in float32, then in its precision and layout."""
        batch = self._normalise(_padded(to_device(images, self.device), self.batch_size))
        layout = self.numerics.memory_format if batch.dim() == 4 else torch.contiguous_format
        return batch.to(self.numerics.dtype).contiguous(memory_format=layout)

    def _run(self, batch: Tensor, guarded: _Guarded | None = None) -> object:
        try:
            return self.model(batch)
        except (PcaceError, torch.AcceleratorError):
            raise
        except Exception as error:
            if is_out_of_memory(error) or (guarded is not None and guarded.failed):
                raise
            raise refuses_images(self.model, tuple(batch.shape), error) from error


def refuses_images(model: nn.Module, shape: tuple[int, ...], error: Exception) -> ModelError:
    """What to say where `model` raised `error` on a batch of this shape (B, C, H, W)."""
    text = next(iter(str(error).strip().splitlines()), "")
    return ModelError(
        f"model.factory: the model fails on images of shape {shape[1:]}: {type(error).__name__}: {text}; "
        f"{_would_do(model)}"
    )


def _would_do(model: nn.Module) -> str:
    parameters = inspect.signature(model.forward).parameters.values()
    names = [one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
    needed = [one.name for one in parameters if one.name in names and one.default is one.empty]
    if len(needed) > 1 or names[:1] == [TOKENS]:
        return f"its forward takes {', '.join(needed or names[:2])}: {wrapper('calls it with these')}"
    return "see model.input (mode, resize, crop) and model.kwargs"


def _detached(receive: Receive) -> Receive:
    """What is computed of maps must not enter the graph."""

    def without_graph(name: str, maps: Tensor, shape: tuple[int, ...]) -> None:
        with torch.no_grad():
            receive(name, maps.detach(), shape)

    return without_graph


class _Guarded:
    """Calls `receive`; remembers whether an error came from it or from the model."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.failed = False

    def __call__(self, name: str, maps: Tensor, shape: tuple[int, ...]) -> None:
        try:
            self._receive(name, maps, shape)
        except BaseException:
            self.failed = True
            raise

    def blocks(self, layer: str, maps: Tensor, shape: tuple[int, ...]) -> None:
        """Maps from which an effect is taken."""
        self(tap_name(layer), block_sums(maps, shape), shape)


def _padded(images: Tensor, size: int) -> Tensor:
    missing = size - len(images)
    return images if missing == 0 else torch.cat([images, images[-1:].expand(missing, *images.shape[1:])])


def numeric_class(
    device: torch.device | str, *, numerics: Numerics, batch_size: int, threads: int, decode: str = "cpu"
) -> NumericClass:
    """Everything besides plan and image that the bits of activations and outputs depend on: equal classes, equal bits.

    `decode`: cpu or gpu. There is an entry only for gpu, because plans of earlier versions have none.
    """
    torch_device = torch.device(device)
    entries: NumericClass = {
        "device": torch_device.type,
        "model": torch.cuda.get_device_name(torch_device) if torch_device.type == "cuda" else cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "pillow": PIL.__version__,
        "precision": numerics.precision,
        "layout": numerics.layout,
        "batch": batch_size,
        "threads": threads,
    }
    if torch_device.type == "cpu":
        entries["tap"] = compiler()
    if torch_device.type == "cuda":
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        entries |= {"cuda": str(torch.version.cuda), "cudnn": int(cudnn or 0)}
    if decode != "cpu":
        entries["decode"] = decode
    return entries


def cpu_model() -> str:
    """The name of the CPU, from the system."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    model_names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return model_names[0] if model_names else platform.processor() or platform.machine()
