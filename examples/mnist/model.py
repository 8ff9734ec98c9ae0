"""The example's network: three convolutional layers of 8, 16 and 32 channels, one linear layer, 10 logits.

Your own model needs no more than this: a function that returns a torch.nn.Module, named in the job file as
`factory: examples.mnist.model:mnist_cnn`. The weights are filled in from `model.weights`.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def mnist_cnn() -> nn.Module:
    """A small network for MNIST: images (n, 1, 28, 28), normalised as in job.yaml, to logits (n, 10)."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 8, kernel_size=5),  # maps 24 x 24
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(8, 16, kernel_size=3),  # maps 10 x 10
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            conv3=nn.Conv2d(16, 32, kernel_size=3),  # maps 3 x 3
            relu3=nn.ReLU(),
            flatten=nn.Flatten(),
            classify=nn.Linear(32 * 3 * 3, 10),
        )
    )
