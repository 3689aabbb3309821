"""What the devices that runs are planned for can do, by their data sheets."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU: its memory, and its dense matrix rates in TFLOP/s."""

    gib: float
    """As its driver reports it; a little less than its data sheet's."""
    bf16: float
    tf32: float
    fp32: float

    def peak(self, precision: str) -> float:
        """TFLOP/s at a stage's precision; fp32 is TF32 where torch has been allowed that."""
        if precision == "bf16":
            return self.bf16
        return self.fp32 if torch.get_float32_matmul_precision() == "highest" else self.tf32


DEVICES = {
    "a100": Device(gib=79.1, bf16=312.0, tf32=156.0, fp32=19.5),
    "h100": Device(gib=79.1, bf16=989.4, tf32=494.7, fp32=66.9),
    "h200": Device(gib=139.7, bf16=989.4, tf32=494.7, fp32=66.9),
}
"""SXM boards, the A100 that of 80 GB (NVIDIA's data sheets of A100, H100 and H200, without sparsity)."""


def named(name: str) -> Device | None:
    """The device of a name as the driver gives it, such as `NVIDIA A100-SXM4-80GB`; None if not known.

    The H100 and H200 on PCIe cards (`PCIe`, `NVL`) are slower than the table says, and count as not known.
    """
    if ("H100" in name or "H200" in name) and ("PCIe" in name or "NVL" in name):
        return None
    return next((device for key, device in DEVICES.items() if key.upper() in name), None)
