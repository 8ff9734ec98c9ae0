"""A network of one layer whose channels are known: some provably see traffic, some the colour of the sky.

The scenes' colours make this certain (examples/street/scene.py): only tail lights are far more red than green, and only
the sky is far more blue than red, at any time of the day. So a channel that passes only such a difference sees vehicles
and never the sky, or the sky and never a vehicle: its maps stay the same, bit by bit, when the other is redrawn. There
are also channels for trees (at a crown's edge they see a little of the sky behind). All other channels are random. The
positions of the planted channels are random too; `planted_channels` returns them.

    model: {factory: "examples.street.planted:planted_cnn", kwargs: {seed: 3}, weights: factory}
    layers: [seen]
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from examples.street.train import MEAN, STD

CHANNELS = 32
EACH = 4  # channels of every planted kind
KERNEL = 3
POOLED = 4  # maps of 8 x 8 for pictures of 64 x 64
LAYER = "seen"
TRAFFIC, SKY, TREES = "traffic", "sky", "trees"
LETS_THROUGH: Mapping[str, tuple[tuple[float, float, float], tuple[float, ...]]] = {
    # a difference of colours, and for each channel of the kind a threshold in grey levels
    TRAFFIC: ((1, -1, 0), (80, 90, 100, 110)),
    SKY: ((-1, 0, 1), (20, 25, 30, 35)),
    TREES: ((-0.5, 1, -0.5), (16, 18, 20, 22)),
}


def planted_channels(seed: int) -> dict[str, list[int]]:
    """The planted channels of each kind."""
    places = torch.randperm(CHANNELS, generator=torch.Generator().manual_seed(seed)).tolist()
    return {kind: sorted(places[EACH * i : EACH * (i + 1)]) for i, kind in enumerate(LETS_THROUGH)}


def planted_cnn(seed: int = 0) -> nn.Module:
    """Pictures (n, 3, H, W), normalised as in job.yaml, to the sum of what the planted traffic channels see (n, 1)."""
    look = nn.Conv2d(3, CHANNELS, KERNEL, stride=2, padding=1)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        look.reset_parameters()
        for kind, channels in planted_channels(seed).items():
            difference, thresholds = LETS_THROUGH[kind]
            for channel, threshold in zip(channels, thresholds, strict=True):
                _plant(look, channel, torch.tensor(difference), threshold / 255)
    predict = nn.Linear(CHANNELS, 1)
    with torch.no_grad():
        predict.weight.zero_()
        predict.weight[:, planted_channels(seed)[TRAFFIC]] = 1.0
        predict.bias.zero_()
    return nn.Sequential(
        OrderedDict(
            look=look,
            relu=nn.ReLU(),  # removes everything below the threshold
            seen=nn.AvgPool2d(POOLED),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            predict=predict,
        )
    ).eval()


def _plant(look: nn.Conv2d, channel: int, difference: Tensor, threshold: float) -> None:
    """The channel becomes the difference of a pixel's colours (0 to 1) minus the threshold."""
    scale, shift = torch.tensor(STD), torch.tensor(MEAN)
    assert look.bias is not None
    look.weight[channel] = 0
    look.weight[channel, :, KERNEL // 2, KERNEL // 2] = difference * scale
    look.bias[channel] = (difference * shift).sum() - threshold
