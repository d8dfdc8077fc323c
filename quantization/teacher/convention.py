"""From the joints that the teacher means to the joints that the project means (order T).

Both have 21 joints of the same names at somewhat different places: the data sets' wrist lies deeper in the arm, tips
lie at other depths of the finger. A corrected joint is an affine combination of the teacher's joints plus a share of
its palm's normal, so the correction turns, scales and mirrors with the hand; ridge regression towards "no correction"
keeps it small where there is nothing to learn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_hands.hands import MIDDLE_MCP, NUM_JOINTS, WRIST, skeleton_length
from edge_hands.quantization.metrics import procrustes

_INDEX_MCP, _LITTLE_MCP = 5, 17


@dataclass(frozen=True)
class Convention:
    """``uv`` and ``xyz`` (22, 21): weights of the teacher's joints and of its palm normal for each joint of T."""

    uv: np.ndarray
    xyz: np.ndarray

    @classmethod
    def fit(cls, found: dict, truth: dict, ridge: float = 1e-3) -> Convention:
        """Fit on n hands: ``found`` and ``truth`` hold uv (n, 21, 2) pixels and xyz (n, 21, 3) metres.

        The 3-D part is fitted to the truth under the similarity that lays it on the teacher's joints.
        """
        basis = _basis(found["uv"], found["xyz"])
        uv = _solve(basis["uv"], (truth["uv"] - found["uv"]) / basis["scale"], ridge)
        aligned = _laid_on(truth["xyz"], found["xyz"])
        xyz = np.zeros((NUM_JOINTS + 1, NUM_JOINTS))
        for _ in range(5):  # the correction moves the hand that the truth is laid on
            xyz = _solve(basis["xyz"], (aligned - found["xyz"]) / basis["length"], ridge)
            aligned = _laid_on(truth["xyz"], found["xyz"] + _apply(basis["xyz"], xyz) * basis["length"])
        return cls(uv, xyz)

    def __call__(self, uv: np.ndarray, xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The teacher's uv (n, 21, 2) and xyz (n, 21, 3) -> the same in the project's convention."""
        basis = _basis(uv, xyz)
        return (
            uv + _apply(basis["uv"], self.uv) * basis["scale"],
            xyz + _apply(basis["xyz"], self.xyz) * basis["length"],
        )


def pixels_per_metre(uv: np.ndarray, xyz: np.ndarray) -> np.ndarray:
    """Scale (n,) that best lays the x and y of xyz (n, 21, 3) on uv (n, 21, 2), both from their centroids."""
    a, b = xyz[..., :2] - xyz[..., :2].mean(1, keepdims=True), uv - uv.mean(1, keepdims=True)
    return (a * b).sum((1, 2)) / np.maximum((a * a).sum((1, 2)), 1e-12)


def lifted(uv: np.ndarray, xyz: np.ndarray) -> np.ndarray:
    """xyz (n, 21, 3) with x and y taken from uv (n, 21, 2), the wrist at the origin: nearer the truth in the plane."""
    flat = (uv - uv[:, :1]) / pixels_per_metre(uv, xyz)[:, None, None]
    return np.concatenate([flat, xyz[..., 2:] - xyz[:, :1, 2:]], -1)


def _laid_on(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """``truth`` turned and shifted onto ``found``, at the size of its skeleton: least squares would shrink it."""
    aligned = procrustes(truth, found)
    center = aligned.mean(1, keepdims=True)
    size = skeleton_length(found) / np.maximum(skeleton_length(aligned), 1e-9)
    return center + (aligned - center) * size[:, None, None]


def _basis(uv: np.ndarray, xyz: np.ndarray) -> dict[str, np.ndarray]:
    """Joints from the wrist and the palm normal as the last row, in skeleton lengths: uv (n, 22, 2), xyz (n, 22, 3)."""
    length = skeleton_length(xyz)[:, None, None]
    local = (xyz - xyz[:, :1]) / length
    normal = np.cross(local[:, _INDEX_MCP], local[:, _LITTLE_MCP])
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-9)
    normal = (normal * np.linalg.norm(local[:, MIDDLE_MCP] - local[:, WRIST], axis=-1)[:, None])[:, None]
    scale = pixels_per_metre(uv, xyz)[:, None, None] * length
    flat = (uv - uv[:, :1]) / scale
    return {
        "uv": np.concatenate([flat, normal[..., :2]], 1),
        "xyz": np.concatenate([local, normal], 1),
        "scale": scale,
        "length": length,
    }


def _solve(basis: np.ndarray, delta: np.ndarray, ridge: float) -> np.ndarray:
    """Weights (22, 21) of ``basis`` (n, 22, d) for ``delta`` (n, 21, d), by reweighted least squares.

    The teacher is far off for some joints (hidden ones), which say nothing about its convention: a joint whose rest is
    over the median counts the less for it.
    """
    weights = np.zeros((NUM_JOINTS + 1, NUM_JOINTS))
    for _ in range(6):
        rest = np.linalg.norm(delta - _apply(basis, weights), axis=-1)  # (n, 21)
        trust = 1 / np.maximum(rest / np.maximum(np.median(rest, 0), 1e-9), 1.0) ** 2
        for joint in range(NUM_JOINTS):
            a = (basis * np.sqrt(trust[:, joint, None, None])).transpose(0, 2, 1).reshape(-1, NUM_JOINTS + 1)
            b = (delta[:, joint] * np.sqrt(trust[:, joint, None])).reshape(-1)
            gram = a.T @ a
            weights[:, joint] = np.linalg.solve(gram + ridge * np.trace(gram) / len(gram) * np.eye(len(gram)), a.T @ b)
    return weights


def _apply(basis: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.einsum("nkd,kj->njd", basis, weights)
