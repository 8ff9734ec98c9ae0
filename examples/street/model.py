"""The example's network: three convolutional layers, one hidden layer, one output: NO2 in micrograms per cubic metre.

Your own needs no more than this: a function that returns a torch.nn.Module whose output is (images,) or (images, n);
`target: {output: 0}` names the output.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def street_cnn(channels: tuple[int, int, int] = (16, 24, 24)) -> nn.Module:
    """Pictures (n, 3, H, W), normalised as in job.yaml, to NO2 (n, 1). Any H and W from 16 pixels."""
    first, second, third = channels
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, first, kernel_size=3, stride=2, padding=1),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(first, second, kernel_size=3, stride=2, padding=1),
            relu2=nn.ReLU(),
            conv3=nn.Conv2d(second, third, kernel_size=3, stride=2, padding=1),
            relu3=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            hidden=nn.Linear(third, 16),
            relu4=nn.ReLU(),
            predict=nn.Linear(16, 1),
        )
    )
