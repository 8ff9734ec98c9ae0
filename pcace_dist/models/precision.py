"""In which precision and memory layout a model runs. The choice depends on the machine, never on timing.

A timed choice could differ between two runs of one job, and then the bits of the ranking would differ. So `auto` uses
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
FEW_PARAMETERS = 250_000  # with fewer, calls and memory take the time, and faster products gain nothing (measured)
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


def choose_numerics(precision: str, device: torch.device, model: nn.Module) -> Numerics:
    """What `compute.precision` (auto, float32 or bfloat16) means on this machine for this model.

    auto: bfloat16 where the device multiplies it in hardware and the model has at least FEW_PARAMETERS and no depthwise
    convolutions: each of their filters has few weights, so that rounding errors do not average out.
    The layout is always channels-last: no measured convolution was slower in it.
    """
    fast = has_fast_bfloat16(device)
    if precision == AUTO:
        parameters = sum(parameter.numel() for parameter in model.parameters())
        precision = BFLOAT16 if fast and parameters >= FEW_PARAMETERS and not has_depthwise(model) else FLOAT32
    elif precision == BFLOAT16 and not fast:
        log.warning(
            "compute.precision bfloat16: this %s has no instructions for it and will be slow; float32 or auto would do",
            "processor" if device.type == "cpu" else "device",
        )
    return Numerics(precision, CHANNELS_LAST)


def has_depthwise(model: nn.Module) -> bool:
    """Whether the model has a depthwise convolution: several channels, and each filter sees only one of them."""
    return any(isinstance(part, _ConvNd) and part.groups == part.in_channels > 1 for part in model.modules())


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware: AMX or AVX512_BF16 on CPUs, tensor cores on GPUs."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and _processor_has_bfloat16()


def _processor_has_bfloat16() -> bool:
    checks = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return any(check() for check in checks if check is not None)


def convert_model(model: nn.Module, device: torch.device, numerics: Numerics) -> nn.Module:
    """The model that runs: on the device, in the precision and layout. For bfloat16 it is a copy; `model` keeps its
    float32 weights.

    Batch norm keeps its parameters and statistics in float32: this costs nothing, and rankings come closer to those in
    float32. Raises ModelError for a model that cannot be copied.
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
    """The model with its four-dimensional weights in a memory format.

    nn.Module.to refuses a model that also has five-dimensional weights: for these there is no channels-last.
    """
    tensors = [*model.parameters(), *model.buffers()]
    if all(tensor.dim() != 5 for tensor in tensors):
        return model.to(memory_format=layout)
    for tensor in tensors:
        if tensor.dim() == 4:
            tensor.data = tensor.data.to(memory_format=layout)
    return model
