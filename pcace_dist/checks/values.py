"""The range of values that the model is given, after mean and std."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pcace_dist.checks.finding import NOTE, WARNING, Finding

SCALE = 255
FAR = 20.0  # a normalised value beyond this is no usual input
NARROW = 0.02  # as is a standard deviation below this where the pixels' own is not
DARK = 0.01  # standard deviation of pixels, 0 to 1, below which images show nothing
WHAT = "model.input"


def finding_of(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Finding:
    """images: uint8 or, of mode tensor, float32 (n, C, H, W); mean, std: of model.input. A warning where the values are
    no usual input."""
    are_tensors = images.is_floating_point()
    pixels = images.float() if are_tensors else images.float().div(SCALE)
    deviation = float(pixels.std())
    shape = (1, -1, 1, 1)
    values = (pixels - pixels.new_tensor(mean).view(shape)) / pixels.new_tensor(std).view(shape)
    lowest, highest = float(values.min()), float(values.max())
    centre, width = float(values.mean()), float(values.std())
    said = (
        f"the model gets values from {lowest:.3g} to {highest:.3g}, mean {centre:.2g}, standard deviation {width:.2g}"
    )
    figures = {"min": lowest, "max": highest, "mean": centre, "std": width}
    figures = {name: round(value, 4) for name, value in figures.items()}
    if not are_tensors and (max(mean) > 1 or max(std) > 2):
        scaled = ", ".join(f"{value / SCALE:.3g}" for value in mean), ", ".join(f"{value / SCALE:.3g}" for value in std)
        write = f"pixels are divided by 255 first: write mean: [{scaled[0]}], std: [{scaled[1]}]"
        return Finding(WARNING, WHAT, f"{said}: mean and std seem to be those of pixels from 0 to 255", write, figures)
    if max(abs(lowest), abs(highest)) > FAR:
        write = "write the mean and std that the model was trained with, or model.input: auto"
        return Finding(WARNING, WHAT, f"{said}: most models expect values within 5 of 0", write, figures)
    if deviation < DARK:
        return Finding(WARNING, WHAT, f"{said}: the images are almost all of one colour", "look at the data", figures)
    if width < NARROW:
        write = "write the mean and std that the model was trained with, or model.input: auto"
        return Finding(WARNING, WHAT, f"{said}: almost constant", write, figures)
    return Finding(NOTE, WHAT, said, "", figures)
