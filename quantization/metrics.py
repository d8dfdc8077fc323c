"""Metrics of landmarks and of detection, in plain numpy.

n samples, J = 21 joints. Joints in metres unless said; errors come back in the unit of the input.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edge_hands.hands import FINGERS
from edge_hands.quantization.calibration import reliability


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


def landmark_metrics(outputs: dict[str, np.ndarray], truth: dict[str, np.ndarray], resamples: int = 0) -> dict:
    """Metrics of a landmark model over n crops.

    ``outputs``: joints_uv (n, J, 2) in [0, 1], joints_xyz (n, J, 3) m, presence (n,), handedness (n,), confidence
    (n, J), and perhaps mirrored (n,), the handedness of the crops' mirror images. ``truth``: uv, xyz, present, handed
    as ``data.augment.CropBatches`` makes them. Percent are of the crop's side, px256 pixels of a 256 crop, box percent
    of the longer side of the true joints' box, mm after alignment to the true metres. ``side_accuracy`` is how often
    handedness and mirrored stand in the right order. With ``resamples`` also ``intervals`` (see ``bootstrap``) and
    ``calibration``, the reliability of presence and of confidence, which promises a joint within 5 % of the side.
    """
    outputs, finite = _finite(outputs)
    hand = truth["present"] > 0.5
    percent = joint_errors(outputs["joints_uv"][hand], truth["uv"][hand]) * 100
    mm = pa_errors(outputs["joints_xyz"][hand], truth["xyz"][hand]) * 1000
    box = percent.mean(1) / np.ptp(truth["uv"][hand], axis=1).max(-1)
    close = percent < 5
    confidence = outputs["confidence"][hand]
    right = (outputs["handedness"][hand] > 0.5) == (truth["handed"][hand] > 0.5)
    samples = {  # per hand, or per crop: what is measured, and how it is summed up
        "error_2d_percent": (percent.mean(1), np.mean),
        "error_2d_px256": (percent.mean(1) * 2.56, np.mean),
        "error_2d_box_percent": (box, np.mean),
        "error_2d_box_percent_median": (box, np.median),
        "pa_mpjpe_mm": (mm.mean(1), np.mean),
        "pa_mpjpe_mm_median": (mm.mean(1), np.median),
        "pa_mpjpe_mm_p90": (mm.mean(1), _p90),
        "joints_within_5_percent": (close.mean(1), np.mean),
        "confidence_accuracy": (((confidence > 0.5) == close).mean(1), np.mean),
        "presence_accuracy": ((outputs["presence"] > 0.5) == hand, np.mean),
        "handedness_accuracy": (right, np.mean),
    }
    if "mirrored" in outputs:
        sides = (outputs["handedness"] > outputs["mirrored"]) == (truth["handed"] > 0.5)
        samples["side_accuracy"] = (sides[hand], np.mean)
    curves = {
        "confidence": reliability(confidence, close),
        "presence": reliability(outputs["presence"], hand),
    }
    return {
        "crops": len(hand),
        "hands": int(hand.sum()),
        "finite": finite,
        "error_2d_percent_median": float(np.median(percent)),
        **{name: float(statistic(values)) for name, (values, statistic) in samples.items()},
        **{f"{name}_calibration_error": curve["error"] for name, curve in curves.items()},
        "fingers_2d_percent": per_finger(percent),
        "fingers_mm": per_finger(mm),
        **({"intervals": bootstrap(samples, resamples), "calibration": curves} if resamples else {}),
    }


def bootstrap(samples: dict[str, tuple[np.ndarray, Callable]], resamples: int, level: float = 0.95) -> dict:
    """Percentile intervals [low, high] of statistics over independent samples, each resampled with replacement.

    ``samples``: name -> values (n,) and a statistic of such values. The seed is always the same, so the same values
    give the same interval, and values of the same n the same resamples. Efron & Tibshirani (1993), chapter 13.
    """
    intervals, tails = {}, [50 * (1 - level), 50 * (1 + level)]
    for name, (values, statistic) in samples.items():
        rng, values = np.random.default_rng(0), np.asarray(values, np.float64)
        if len(values):
            drawn = [statistic(values[rng.integers(0, len(values), len(values))]) for _ in range(resamples)]
            intervals[name] = np.percentile(drawn, tails).tolist()
    return intervals


def _p90(values: np.ndarray) -> np.ndarray:
    return np.percentile(values, 90)


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


def average_precision(scores: np.ndarray, hits: np.ndarray, total: int, weights: np.ndarray | None = None) -> float:
    """Area under the precision-recall curve (every point) of predictions over all images; ``total`` true objects.

    ``weights``: how often each prediction counts, once by default.
    """
    if not total or not len(scores):
        return 0.0
    order = np.argsort(-np.asarray(scores), kind="stable")
    weights = np.ones(len(order)) if weights is None else weights[order]
    hits = np.asarray(hits, bool)[order]
    precision = np.cumsum(weights * hits) / np.maximum(np.cumsum(weights), 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float((weights * precision)[hits].sum() / total)


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


def detector_metrics(
    outputs: dict[str, np.ndarray], truth: dict[str, np.ndarray], resamples: int = 0, threshold: float = 0.4
) -> dict:
    """Metrics of a detector over n frames.

    ``outputs``: scores (n, N), boxes (n, N, 4), points (n, N, 2, 2), sides (n, N), centers (n, N, 2), handedness
    (n, N). ``truth`` as ``data.frames.FrameBatches`` makes it. Average precision is at IoU 0.5 of the joints' boxes;
    recall and precision at score ``threshold``; errors are of found hands: of the aligned crop's centre and side in
    percent of the true side, of its up direction in degrees. With ``resamples`` also bootstrap ``intervals`` over the
    frames, and ``calibration``: how many of the detections of a score are hands.
    """
    outputs, finite = _finite(outputs)
    frames, scores, hits, pairs, hands = [], [], [], [], []
    for i in range(len(truth["valid"])):
        real = np.flatnonzero(truth["valid"][i] > 0.5)
        unclear = truth["boxes"][i][truth["ignore"][i] > 0.5]
        cells = detections(outputs, i)
        taken = match(outputs["scores"][i, cells], outputs["boxes"][i, cells], truth["boxes"][i, real])
        hands.append(len(real))
        for cell, target in zip(cells, taken):
            if target < 0 and len(unclear) and iou(outputs["boxes"][i, cell][None], unclear).max() > 0.3:
                continue
            frames.append(i)
            scores.append(outputs["scores"][i, cell])
            hits.append(target >= 0)
            if target >= 0 and scores[-1] >= threshold:
                pairs.append((i, cell, real[target]))
    frames, scores, hits, hands = np.array(frames, int), np.array(scores), np.array(hits, bool), np.array(hands)
    confident = scores >= threshold
    errors = _crop_errors(outputs, truth, np.array(pairs)) if pairs else {}

    def rates(times: np.ndarray) -> dict[str, float]:
        """The metrics when frame i counts ``times[i]`` times."""
        weights, total = times[frames], int((times * hands).sum())
        right, asked = (weights * (hits & confident)).sum(), (weights * confident).sum()
        paired = times[[i for i, _, _ in pairs]]
        total_paired = paired.sum() or np.nan
        return {
            "average_precision": average_precision(scores, hits, total, weights),
            "recall": float(right / max(total, 1)),
            "precision": float(right / max(asked, 1)),
            **{name: float((paired * e).sum() / total_paired) for name, e in errors.items()},
        }

    found = {"frames": len(hands), "hands": int(hands.sum()), "finite": finite, **rates(np.ones(len(hands)))}
    if errors:
        angle = errors["up_angle_degrees"]
        found["up_angle_degrees_median"] = float(np.median(angle))
        found["up_angle_degrees_p90"] = float(np.percentile(angle, 90))
    if resamples:
        rng, frequency = np.random.default_rng(0), np.full(len(hands), 1 / len(hands))
        drawn = [rates(times) for times in rng.multinomial(len(hands), frequency, resamples).astype(float)]
        tails = {name: np.nanpercentile([d[name] for d in drawn], (2.5, 97.5)).tolist() for name in drawn[0]}
        curve = reliability(scores, hits)
        found |= {"score_calibration_error": curve["error"], "intervals": tails, "calibration": {"score": curve}}
    return found


def _crop_errors(outputs: dict[str, np.ndarray], truth: dict[str, np.ndarray], pairs: np.ndarray) -> dict:
    """Errors (k,) of the aligned crops of found hands; ``pairs`` (k, 3) are frame, cell and true hand."""
    image, cell, hand = pairs.T
    side = truth["sides"][image, hand]
    seen, real = outputs["points"][image, cell], truth["points"][image, hand]
    right = (outputs["handedness"][image, cell] > 0.5) == (truth["right"][image, hand] > 0.5)
    return {
        "handedness_accuracy": right,
        "center_error_percent": joint_errors(outputs["centers"][image, cell], truth["centers"][image, hand])
        / side
        * 100,
        "side_error_percent": np.abs(outputs["sides"][image, cell] / side - 1) * 100,
        "up_angle_degrees": angle_between(seen[:, 1] - seen[:, 0], real[:, 1] - real[:, 0]),
    }


def _finite(outputs: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], float]:
    """The outputs with 0 for what is not finite, which counts as wrong, and the share of samples that were finite."""
    good = np.all([np.isfinite(o).reshape(len(o), -1).all(1) for o in outputs.values()], axis=0)
    return {name: np.nan_to_num(o, nan=0.0, posinf=0.0, neginf=0.0) for name, o in outputs.items()}, float(good.mean())
