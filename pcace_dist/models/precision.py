"""In which precision and memory layout a model runs: chosen by what the machine has, never by timing.

A timed choice could fall differently in two runs of one job, and with it the bits of the ranking. So `auto` looks at
facts only: the device, its instructions, the number of the model's parameters, and whether it has depthwise
convolutions. Knows no data sets and no Ray.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from pcace_dist.errors import ModelError

log = logging.getLogger(__name__)

AUTO, FLOAT32, BFLOAT16 = "auto", "float32", "bfloat16"
CONTIGUOUS, CHANNELS_LAST = "contiguous", "channels-last"
FEW_PARAMETERS = 250_000  # below, calls and memory take the time: products that are faster gain nothing (measured)
DTYPES = {FLOAT32: torch.float32, BFLOAT16: torch.bfloat16}


@dataclass(frozen=True)
class Numerics:
    """The arithmetic of a forward pass; part of the numeric class. precision: float32 or bfloat16."""

    precision: str = FLOAT32
    layout: str = CONTIGUOUS

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.precision]

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.layout == CHANNELS_LAST else torch.contiguous_format


def choose_numerics(asked: str, device: torch.device, model: nn.Module) -> Numerics:
    """What `compute.precision` (auto, float32 or bfloat16) means on this machine for this model.

    auto: bfloat16 where the device multiplies it in hardware, the model has more than a few parameters, and no
    depthwise convolutions: with the few weights of each of their filters rounding does not average out.
    The layout is always channels-last: no convolution measured was slower in it.
    """
    fast = has_fast_bfloat16(device)
    if asked == AUTO:
        parameters = sum(parameter.numel() for parameter in model.parameters())
        asked = BFLOAT16 if fast and parameters >= FEW_PARAMETERS and not has_depthwise(model) else FLOAT32
    elif asked == BFLOAT16 and not fast:
        log.warning(
            "compute.precision bfloat16: this %s has no instructions for it and will be slow; float32 or auto would do",
            "processor" if device.type == "cpu" else "device",
        )
    return Numerics(asked, CHANNELS_LAST)


def has_depthwise(model: nn.Module) -> bool:
    """Whether some convolution of the model sees one channel only with each of its filters, of several channels."""
    return any(isinstance(part, _ConvNd) and part.groups == part.in_channels > 1 for part in model.modules())


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware: AMX or AVX512_BF16 on processors, tensor cores on GPUs."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and _processor_has_bfloat16()


def _processor_has_bfloat16() -> bool:
    asked = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return any(known() for known in asked if known is not None)


def prepared(model: nn.Module, device: torch.device, numerics: Numerics) -> nn.Module:
    """The model as it runs: on the device, in the precision and layout. bfloat16 is a copy; the weights stay as loaded.

    Batch norm keeps its parameters and statistics in float32: it costs nothing and brings rankings closer to float32's.

    Raises ModelError for a model that cannot be copied.
    """
    if numerics.precision == FLOAT32:
        return _laid_out(model.to(device), numerics.memory_format)
    try:
        rounded = copy.deepcopy(model)
    except Exception as error:
        raise ModelError(
            f"compute.precision {numerics.precision}: the model cannot be copied ({type(error).__name__}); "
            "use compute.precision: float32"
        ) from error
    _laid_out(rounded.to(device, numerics.dtype), numerics.memory_format)
    for loaded, part in zip(model.modules(), rounded.modules(), strict=True):
        if isinstance(loaded, _BatchNorm):
            part.to(torch.float32).load_state_dict(loaded.state_dict())
    return rounded


def _laid_out(model: nn.Module, layout: torch.memory_format) -> nn.Module:
    """The model with its weights of four axes in a memory format.

    nn.Module.to does not take a model that has weights of five: they have no channels-last.
    """
    tensors = [*model.parameters(), *model.buffers()]
    if all(tensor.dim() != 5 for tensor in tensors):
        return model.to(memory_format=layout)
    for tensor in tensors:
        if tensor.dim() == 4:
            tensor.data = tensor.data.to(memory_format=layout)
    return model
