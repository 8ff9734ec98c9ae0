"""Planted networks that misbehave: slow ones, so that a fault hits the middle of a run, and lethal ones.

Slowness is in a hook and changes no bit of any activation.
"""

from __future__ import annotations

import os
import time
from typing import Any

import torch
from torch import Tensor

from tests.planted import PlantedNetwork, planted_network

MARK = 255  # a grey level of the top left pixel that marks an image; see `cases.mark`
LETHAL = 254


def slow(seconds: float = 0.1) -> PlantedNetwork:
    """Takes `seconds` more for every batch."""
    network = planted_network()

    def wait(*_: Any) -> None:
        time.sleep(seconds)

    network.register_forward_pre_hook(wait)
    return network


def lethal(kill: bool = True) -> PlantedNetwork:
    """Infinite on marked images; ends its process, where `kill`, on the lethal one, which is infinite too."""
    network = planted_network()

    def look(_: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        corner = (inputs[0][:, 0, 0, 0] * 255).round()
        if kill and bool((corner == LETHAL).any()):
            os._exit(1)
        return torch.where((corner >= LETHAL)[:, None, None, None], torch.inf, output)

    network.read.register_forward_hook(look)
    return network
