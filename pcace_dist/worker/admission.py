"""Admission: a worker shows that it computes what the pilot computed, before it is given units.

The pilot keeps a few of its rows with their codes and outputs. Every worker computes them again on arrival; that
catches other weights, another factory, another instruction set (docs/protocol.md). `exact: strict` admits
only workers of the plan's numeric class that give the same bits; `exact: off` admits any and reports the share of
codes that differ. Pure but for the forward pass; no Ray, no store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load, save
from torch import Tensor

from pcace_dist.errors import PcaceError

if TYPE_CHECKING:
    from pcace_dist.models.forward import Forward
    from pcace_dist.models.tap import Receive
    from pcace_dist.statistics.plan import LayerPlan

CHECK_ROWS = 32

NumericClass = Mapping[str, str | int]


class NotAdmitted(PcaceError):
    """A worker computes something else than the pilot did; with `exact: strict` it gets no units."""


@dataclass(frozen=True)
class Admission:
    """What an admitted worker is: its numeric class, and the share of the check's codes that it computes
    differently."""

    numeric_class: dict[str, str | int]
    differing: float


@dataclass(frozen=True, eq=False)
class CheckRows:
    """Rows of the pilot: images uint8 (n, C, H, W), outputs (n, O), and by layer the codes uint8 (n, C, p)."""

    images: Tensor
    outputs: Tensor
    codes: Mapping[str, Tensor]

    @classmethod
    def compute(
        cls,
        images: Tensor,
        forward: Callable[[Tensor, Receive], Tensor],
        layers: Mapping[str, LayerPlan],
        batch_size: int,
    ) -> CheckRows:
        """Forward the images, in as many passes as the batch's size takes, and encode their maps."""
        codes: dict[str, list[Tensor]] = {name: [] for name in layers}
        outputs: list[Tensor] = []
        for part in torch.split(images, batch_size):

            def receive(name: str, maps: Tensor, _: tuple[int, ...], rows: int = len(part)) -> None:
                if name not in layers:  # maps that effects are taken from
                    return
                codes[name].append(layers[name].encode(*layers[name].project(maps)).codes[:rows].cpu())

            outputs.append(forward(part, receive).cpu().clone())
        return cls(images, torch.cat(outputs), {name: torch.cat(parts) for name, parts in codes.items()})

    def first(self, rows: int) -> CheckRows:
        """The first `rows` of them; all where there are fewer."""
        codes = {name: layer[:rows] for name, layer in self.codes.items()}
        return CheckRows(self.images[:rows], self.outputs[:rows], codes)

    def to_bytes(self) -> bytes:
        tensors = {"images": self.images.contiguous(), "outputs": self.outputs.contiguous()}
        data: bytes = save(tensors | {f"codes.{name}": codes.contiguous() for name, codes in self.codes.items()})
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> CheckRows:
        tensors = load(data)
        codes = {name.removeprefix("codes."): codes for name, codes in tensors.items() if name.startswith("codes.")}
        return cls(tensors["images"], tensors["outputs"], codes)

    def admit(
        self,
        forward: Forward,
        layers: Mapping[str, LayerPlan],
        *,
        own_class: NumericClass,
        plan_class: NumericClass,
        exact: str,
    ) -> Admission:
        """Compute the rows again and compare. Raises NotAdmitted with `exact` strict where anything differs."""
        recomputed = CheckRows.compute(self.images, forward, layers, forward.batch_size)
        total = sum(codes.numel() for codes in self.codes.values())
        differing = sum(int((recomputed.codes[name] != codes).sum()) for name, codes in self.codes.items())
        admission = Admission(dict(own_class), differing / max(1, total))
        if exact == "strict":
            differing_keys = sorted(
                key for key in {*own_class, *plan_class} if own_class.get(key) != plan_class.get(key)
            )
            if differing_keys:
                key = differing_keys[0]
                raise NotAdmitted(
                    f"compute.exact strict: this worker's {key} is {own_class.get(key)}, the plan's "
                    f"{plan_class.get(key)}; use machines of one kind or compute.exact: off"
                )
            if differing or not torch.equal(recomputed.outputs, self.outputs):
                raise NotAdmitted(
                    f"compute.exact strict: this worker computes {differing} of {total} check codes differently; is "
                    "the model the same on every node?"
                )
        return admission
