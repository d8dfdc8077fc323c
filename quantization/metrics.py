"""Metrics of landmarks and of detection, in plain numpy.

n samples, J = 21 joints. Joints in metres unless said; errors come back in the unit of the input.
"""

from __future__ import annotations

import numpy as np

from edge_hands.hands import FINGERS


def joint_errors(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Distances (n, J) between joints (n, J, 2 or 3)."""
    return np.linalg.norm(np.asarray(predicted, np.float64) - truth, axis=-1)


def procrustes(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """``predicted`` (n, J, 3) under the similarity that best fits ``truth``: rotation without reflection, scale, shift.

    Least squares after Umeyama (1991). A prediction that is a single point goes to the truth's centroid.
    """
    p, t = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    center = t.mean(1, keepdims=True)
    p, t = p - p.mean(1, keepdims=True), t - center
    u, s, vt = np.linalg.svd(p.transpose(0, 2, 1) @ t)
    sign = np.ones_like(s)
    sign[:, -1] = np.sign(np.linalg.det(u @ vt))
    spread = np.maximum((p**2).sum((1, 2)), 1e-18)
    scale = (s * sign).sum(1) / spread
    return scale[:, None, None] * (p @ (u * sign[:, None]) @ vt) + center


def pa_errors(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Distances (n, J) after Procrustes alignment of each hand."""
    return joint_errors(procrustes(predicted, truth), truth)


def per_finger(errors: np.ndarray) -> dict[str, float]:
    """Mean of errors (n, J) for the wrist and each finger."""
    means = {"wrist": float(errors[:, 0].mean())}
    return means | {f: float(errors[:, 1 + 4 * i : 5 + 4 * i].mean()) for i, f in enumerate(FINGERS)}


def landmark_metrics(outputs: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> dict:
    """Metrics of a landmark model over n crops.

    ``outputs``: joints_uv (n, J, 2) in [0, 1], joints_xyz (n, J, 3) m, presence (n,), handedness (n,), confidence
    (n, J), and perhaps mirrored (n,), the handedness of the crops' mirror images. ``truth``: uv, xyz, present, handed
    as ``data.augment.CropBatches`` makes them. Percent are of the crop's side, px256 pixels of a 256 crop, mm after
    alignment to the true metres. ``side_accuracy`` is how often handedness and mirrored stand in the right order.
    """
    outputs, finite = _finite(outputs)
    hand = truth["present"] > 0.5
    percent = joint_errors(outputs["joints_uv"][hand], truth["uv"][hand]) * 100
    mm = pa_errors(outputs["joints_xyz"][hand], truth["xyz"][hand]) * 1000
    close = percent < 5
    side = {}
    if "mirrored" in outputs:
        right = (outputs["handedness"] > outputs["mirrored"]) == (truth["handed"] > 0.5)
        side["side_accuracy"] = float(right[hand].mean())
    return {
        "crops": len(hand),
        "hands": int(hand.sum()),
        "finite": finite,
        "error_2d_percent": float(percent.mean()),
        "error_2d_percent_median": float(np.median(percent)),
        "error_2d_px256": float(percent.mean() * 2.56),
        "pa_mpjpe_mm": float(mm.mean()),
        "pa_mpjpe_mm_median": float(np.median(mm.mean(1))),
        "pa_mpjpe_mm_p90": float(np.percentile(mm.mean(1), 90)),
        "joints_within_5_percent": float(close.mean()),
        "confidence_accuracy": float(((outputs["confidence"][hand] > 0.5) == close).mean()),
        "presence_accuracy": float(((outputs["presence"] > 0.5) == hand).mean()),
        "handedness_accuracy": float(((outputs["handedness"][hand] > 0.5) == (truth["handed"][hand] > 0.5)).mean()),
        **side,
        "fingers_2d_percent": per_finger(percent),
        "fingers_mm": per_finger(mm),
    }


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union (n, m) of boxes (n, 4) and (m, 4), x0 y0 x1 y1."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(-1)
    area_a, area_b = (np.clip(x[:, 2:] - x[:, :2], 0, None).prod(-1) for x in (a, b))
    return common / np.maximum(area_a[:, None] + area_b[None] - common, 1e-12)


def match(scores: np.ndarray, boxes: np.ndarray, truth: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """For each prediction the index of the true box that it takes, or -1: best scores first, each truth once."""
    taken = np.full(len(scores), -1)
    overlaps = iou(boxes, truth)
    for i in np.argsort(-scores, kind="stable"):
        if overlaps.shape[1] and overlaps[i].max() >= threshold:
            taken[i] = overlaps[i].argmax()
            overlaps[:, taken[i]] = -1
    return taken


def average_precision(scores: np.ndarray, hits: np.ndarray, total: int) -> float:
    """Area under the precision-recall curve (every point) of predictions over all images; ``total`` true objects."""
    if not total or not len(scores):
        return 0.0
    hits = np.asarray(hits, bool)[np.argsort(-np.asarray(scores), kind="stable")]
    found = np.cumsum(hits)
    precision = found / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(precision[hits].sum() / total)


def angle_between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Unsigned angle in degrees between directions (..., 2)."""
    cross = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return np.rad2deg(np.abs(np.arctan2(cross, (a * b).sum(-1))))


def detections(outputs: dict[str, np.ndarray], index: int, floor: float = 0.05, overlap: float = 0.5) -> np.ndarray:
    """Cells (k,) of image ``index`` that are local maxima over ``floor`` and survive box NMS, best first."""
    scores = outputs["scores"][index]
    side = round(len(scores) ** 0.5)
    padded = np.pad(scores.reshape(side, side), 1, constant_values=-1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).max((2, 3)).reshape(-1)
    cells = np.flatnonzero((scores >= windows) & (scores >= floor))
    cells = cells[np.argsort(-scores[cells], kind="stable")]
    boxes, kept = outputs["boxes"][index, cells], []
    for i in range(len(cells)):
        if not kept or iou(boxes[i : i + 1], boxes[kept]).max() < overlap:
            kept.append(i)
    return cells[kept]


def detector_metrics(outputs: dict[str, np.ndarray], truth: dict[str, np.ndarray], threshold: float = 0.4) -> dict:
    """Metrics of a detector over n frames.

    ``outputs``: scores (n, N), boxes (n, N, 4), points (n, N, 2, 2), sides (n, N), centers (n, N, 2), handedness
    (n, N). ``truth`` as ``data.frames.FrameBatches`` makes it. Average precision is at IoU 0.5 of the joints' boxes;
    recall and precision at score ``threshold``; errors are of found hands: of the aligned crop's centre and side in
    percent of the true side, of its up direction in degrees.
    """
    outputs, finite = _finite(outputs)
    scores, hits, pairs, total = [], [], [], 0
    for i in range(len(truth["valid"])):
        real = np.flatnonzero(truth["valid"][i] > 0.5)
        unclear = truth["boxes"][i][truth["ignore"][i] > 0.5]
        cells = detections(outputs, i)
        taken = match(outputs["scores"][i, cells], outputs["boxes"][i, cells], truth["boxes"][i, real])
        total += len(real)
        for cell, target in zip(cells, taken):
            if target < 0 and len(unclear) and iou(outputs["boxes"][i, cell][None], unclear).max() > 0.3:
                continue
            scores.append(outputs["scores"][i, cell])
            hits.append(target >= 0)
            if target >= 0 and scores[-1] >= threshold:
                pairs.append((i, cell, real[target]))
    scores, hits = np.array(scores), np.array(hits, bool)
    confident = scores >= threshold
    found = {
        "frames": len(truth["valid"]),
        "hands": total,
        "finite": finite,
        "average_precision": average_precision(scores, hits, total),
        "recall": float(hits[confident].sum() / max(total, 1)),
        "precision": float(hits[confident].mean()) if confident.any() else 0.0,
    }
    if not pairs:
        return found
    image, cell, hand = np.array(pairs).T
    side = truth["sides"][image, hand]
    center = joint_errors(outputs["centers"][image, cell], truth["centers"][image, hand]) / side * 100
    size = np.abs(outputs["sides"][image, cell] / side - 1) * 100
    seen, real = outputs["points"][image, cell], truth["points"][image, hand]
    angle = angle_between(seen[:, 1] - seen[:, 0], real[:, 1] - real[:, 0])
    right = (outputs["handedness"][image, cell] > 0.5) == (truth["right"][image, hand] > 0.5)
    return found | {
        "handedness_accuracy": float(right.mean()),
        "center_error_percent": float(center.mean()),
        "side_error_percent": float(size.mean()),
        "up_angle_degrees": float(angle.mean()),
        "up_angle_degrees_median": float(np.median(angle)),
        "up_angle_degrees_p90": float(np.percentile(angle, 90)),
    }


def _finite(outputs: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], float]:
    """The outputs with 0 for what is not finite, which counts as wrong, and the share of samples that were finite."""
    good = np.all([np.isfinite(o).reshape(len(o), -1).all(1) for o in outputs.values()], axis=0)
    return {name: np.nan_to_num(o, nan=0.0, posinf=0.0, neginf=0.0) for name, o in outputs.items()}, float(good.mean())
