"""Factories that the tests of loading name in model.factory: good ones and bad ones."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

NUMBER = 3


def small(classes: int = 2) -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(1, 3, 3),
            norm=nn.BatchNorm2d(3),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(3, classes),
        )
    )


def double() -> nn.Module:
    return small().double()


def trained() -> nn.Module:
    model = small()
    nn.init.constant_(model.get_parameter("fc.weight"), 3)
    return model


def lazy() -> nn.Module:
    return nn.Sequential(OrderedDict(fc=nn.LazyLinear(2)))


def meta() -> nn.Module:
    with torch.device("meta"):
        return nn.Sequential(OrderedDict(fc=nn.Linear(2, 2)))


def nothing() -> None:
    return None


def class_itself() -> type[nn.Module]:
    return nn.Linear


def raising() -> nn.Module:
    raise RuntimeError("no such variant")
