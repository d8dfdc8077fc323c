"""Problem sizes and random inputs of the scans, shared by the tests and the benchmarks of every face."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SCAN_INPUTS = ("x", "delta", "A", "B", "C", "D")
DEFORM_INPUTS = ("x", "offset", "weight", "delta", "A", "B", "C", "D")


@dataclass(frozen=True)
class Case:
    """One size; L = height · width. ``reach`` is the standard deviation of the offsets, in pixels."""

    name: str
    batch: int
    height: int
    width: int
    channels: int
    states: int
    groups: int = 1
    points: int = 9
    reach: float = 1.5

    @property
    def length(self) -> int:
        """Tokens of an image."""
        return self.height * self.width

    @property
    def updates(self) -> int:
        """State updates, tokens · channels · states: what times are divided by."""
        return self.batch * self.length * self.channels * self.states

    @property
    def deform(self) -> tuple[int, int, int]:
        """The arguments of the deformable scan that are no arrays."""
        return self.height, self.width, self.points

    def inputs(self, rng: np.random.Generator, hard: bool = False, geometric: bool = False) -> dict[str, np.ndarray]:
        """float32 inputs by name, as a trained block has them.

        ``hard``: Δ = softplus(4·randn), from ~0 to ~15. ``geometric``: A = -(n + 1) a, as blocks begin training with.
        """
        b, length, d, n = self.batch, self.length, self.channels, self.states
        total = self.groups * self.points
        delta = 4 * rng.standard_normal((b, length, d)) if hard else 1.5 * rng.standard_normal((b, length, d)) - 3
        arrays = {
            "x": rng.standard_normal((b, length, d)),
            "offset": self.reach * rng.standard_normal((b, length, 2 * total)),
            "weight": rng.standard_normal((b, length, total)) / 3,
            "delta": delta,
            "A": -np.arange(1, n + 1) * rng.uniform(0.5, 1.5, (d, 1 if geometric else n)),
            "B": rng.standard_normal((b, length, n)),
            "C": rng.standard_normal((b, length, n)),
            "D": rng.standard_normal(d),
        }
        return {name: np.ascontiguousarray(a, np.float32) for name, a in arrays.items()}


#: Sizes that a kernel gets wrong first: no or one token, one channel, partial vectors, groups of every width.
ODD_CASES = (
    Case("empty", 2, 0, 5, 8, 4),
    Case("one_token", 1, 1, 1, 8, 1, 1, 1),
    Case("one_channel", 3, 4, 3, 1, 8),
    Case("no_full_vector", 2, 5, 3, 7, 3, 7, 25),
    Case("partial_groups", 3, 3, 7, 20, 5, 4),
    Case("tile_and_rest", 2, 6, 5, 70, 4, 2),
    Case("many_states", 1, 4, 4, 24, 33, 3),
    Case("one_row", 1, 1, 19, 40, 8, 5),
    Case("far_outside", 2, 4, 4, 16, 4, 2, 9, 1e6),
)

#: The blocks of DF-Mamba that scan: edge at 128² (8x8 and 4x4 tokens), base at 256² (16x16 and 8x8).
NETWORK_CASES = (
    Case("edge_stage3", 1, 8, 8, 128, 8, 4),
    Case("edge_stage5", 1, 4, 4, 256, 8, 8),
    Case("paper_d160", 1, 16, 16, 160, 8),
    Case("base_stage3", 1, 16, 16, 320, 8, 10),
    Case("base_stage5", 1, 8, 8, 640, 8, 20),
    Case("long_n16", 1, 32, 32, 128, 16, 4),
)

#: What the kernels are measured on besides: the issue's N = 16, VMamba's stages, S3C's channel scan of few channels.
FURTHER_CASES = (
    Case("paper_d160_n16", 1, 16, 16, 160, 16),
    Case("vmamba_stage1", 1, 56, 56, 96, 16),
    Case("vmamba_stage4", 1, 7, 7, 768, 16),
    Case("s3c_channels", 1, 128, 128, 32, 16),
)
