"""What stands behind the hand, and what lights it: crops of CC0 panoramas, sharper pictures, plain patterns."""

from __future__ import annotations

import base64
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edge_hands.errors import DataError
from edge_hands.quantization.data.synthetic.people import draw_limb, draw_person
from edge_hands.quantization.data.synthetic.skin import skin_color

#: Pictures inside scikit-image without bare hands (the astronaut's portrait is a face to learn from).
_PICTURES = ("astronaut", "brick", "chelsea", "coffee", "coins", "grass", "gravel", "motorcycle_left", "rocket")


@dataclass(frozen=True)
class Panorama:
    """``image`` (H, W, 3) uint8 sRGB, row 0 up; ``irradiance`` (9, 3) SH coefficients of its light, mean 1."""

    image: np.ndarray
    irradiance: np.ndarray


@dataclass(frozen=True)
class BackgroundConfig:
    """Shares of the kinds of background (what is left of 1 is patterns) and what else lies about."""

    wall: float = 0.20  # plain, softly lit
    panorama: float = 0.30
    picture: float = 0.22
    shapes: float = 0.16  # sharp edges: shelves, stripes, tiles
    clutter: float = 1.0  # mean number of ellipses, bars, polygons
    skin: float = 0.18  # a face or an arm


class Backgrounds:
    """Panoramas of the npm package ``@pmndrs/assets`` (CC0), pictures of scikit-image, and patterns."""

    def __init__(self, assets: Path):
        folder = assets / "@pmndrs/assets/hdri"
        files = sorted(folder.glob("*.exr.js"))
        if not files:
            raise DataError(f"No panoramas in {folder}. Run `make assets` (npm) or pass --assets.")
        self.panoramas = [_read_panorama(path) for path in files]
        self.pictures = _read_pictures()

    def panorama_view(self, pano: Panorama, world: np.ndarray, fov: float, size: int) -> np.ndarray:
        """Perspective view (size, size, 3) of ``pano``; ``world`` (3, 3) camera -> world axes, ``fov`` radians."""
        reach = np.tan(fov / 2)
        axis = np.linspace(-reach, reach, size, dtype=np.float32)
        x, y = np.meshgrid(axis, axis)
        ray = np.stack([x, y, np.ones_like(x)], -1) @ world.T.astype(np.float32)
        height, width = pano.image.shape[:2]
        u = np.arctan2(ray[..., 0], ray[..., 2]) * (width / (2 * np.pi)) + width / 2
        v = np.arccos(-ray[..., 1] / np.linalg.norm(ray, axis=-1)) * (height / np.pi)
        return cv2.remap(
            pano.image, u.astype(np.float32), v.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
        )

    def sample(
        self, rng: np.random.Generator, pano: Panorama, world: np.ndarray, size: int, config: BackgroundConfig
    ) -> np.ndarray:
        """A background (size, size, 3) uint8 for a scene that ``pano`` lights."""
        kind = rng.random() - config.wall
        if kind < 0:
            image = _wall(rng, size)
        elif (kind := kind - config.panorama) < 0:
            image = self.panorama_view(pano, world, rng.uniform(0.6, 1.7), size)
        elif (kind := kind - config.picture) < 0:
            image = self._picture(rng, size)
        elif (kind := kind - config.shapes) < 0:
            image = _shapes(rng, size)
        else:
            image = _pattern(rng, size)
        gain = rng.uniform(0.6, 1.3) * rng.uniform(0.88, 1.12, 3)
        image = np.ascontiguousarray((image * gain + rng.uniform(-25, 25)).clip(0, 255).astype(np.uint8))
        for _ in range(rng.poisson(config.clutter)):
            draw_clutter(rng, image, skin_like=rng.random() < 0.3)
        if rng.random() < config.skin:
            draw_person(rng, image) if rng.random() < 0.6 else draw_limb(rng, image)
        if rng.random() < 0.4:
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 2.5))
        return image

    def _picture(self, rng: np.random.Generator, size: int) -> np.ndarray:
        picture = self.pictures[rng.integers(len(self.pictures))]
        side = int(np.exp(rng.uniform(np.log(70), np.log(min(picture.shape[:2]) - 1))))
        y, x = (int(rng.integers(n - side)) for n in picture.shape[:2])
        crop = cv2.resize(picture[y : y + side, x : x + side], (size, size), interpolation=cv2.INTER_LINEAR)
        return crop[:, ::-1] if rng.random() < 0.5 else crop


def draw_clutter(rng: np.random.Generator, image: np.ndarray, skin_like: bool, largest: float = 1.0) -> None:
    """One ellipse, bar or polygon drawn into ``image`` (S, S, 3) in place."""
    size = image.shape[0]
    tone = rng.uniform(0, 255) + rng.uniform(-130, 130, 3) * rng.random()
    color = skin_color(rng) * 255 * rng.uniform(0.5, 1.1) if skin_like else tone
    color = [int(c) for c in np.clip(color, 0, 255)]
    center, radius = rng.uniform(-0.1, 1.1, 2) * size, rng.uniform(0.04, 0.4) * size * largest
    kind = rng.random()
    if kind < 0.3:
        axes = int(radius) + 1, int(radius * rng.uniform(0.2, 1)) + 1
        cv2.ellipse(image, center.astype(int).tolist(), axes, rng.uniform(0, 180), 0, 360, color, -1, cv2.LINE_AA)
    elif kind < 0.65:
        turn = rng.uniform(0, np.pi)
        reach = np.array([np.cos(turn), np.sin(turn)]) * size
        ends = (center - reach).astype(int).tolist(), (center + reach).astype(int).tolist()
        cv2.line(image, *ends, color, int(rng.uniform(1, 0.12 * size * largest)) + 1, cv2.LINE_AA)
    else:
        turns = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 7)))
        corners = center + np.stack([np.cos(turns), np.sin(turns)], 1) * radius * rng.uniform(0.4, 1, (len(turns), 1))
        cv2.fillPoly(image, [corners.astype(np.int32)], color, cv2.LINE_AA)


def _wall(rng: np.random.Generator, size: int) -> np.ndarray:
    """A plain surface: nearly white, grey, beige or any colour, unevenly lit, with a faint texture."""
    kind = rng.random()
    if kind < 0.6:
        color = rng.uniform(110, 255) + rng.normal(0, 8, 3)
    elif kind < 0.75:
        color = skin_color(rng) * 255 * rng.uniform(0.7, 1.1)  # wood, cardboard: skin-like
    elif kind < 0.85:
        color = np.full(3, rng.uniform(0, 60)) + rng.normal(0, 5, 3)
    else:
        color = rng.uniform(30, 230) + rng.uniform(-70, 70, 3) * rng.random()
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    slope, bow, spot = rng.normal(0, 0.12, 2), rng.normal(-0.05, 0.1), rng.normal(0, 0.4, 2)
    light = 1 + slope[0] * axis[None] + slope[1] * axis[:, None]
    light = light + bow * ((axis[None] - spot[0]) ** 2 + (axis[:, None] - spot[1]) ** 2)
    rough = rng.normal(0, rng.uniform(0, 0.03), (size // 2, size // 2)).astype(np.float32)
    light = light + cv2.resize(rough, (size, size))
    return (light[..., None] * color).clip(0, 255)


def _shapes(rng: np.random.Generator, size: int) -> np.ndarray:
    """Rectangles, stripes and circles with sharp edges and few colours, as of shelves, screens, tiles and clothes."""
    palette = rng.uniform(0, 255, (5, 1)) + rng.uniform(-110, 110, (5, 3)) * rng.random()
    image = np.empty((size, size, 3), np.float32)
    image[:] = palette[0]
    if rng.random() < 0.4:  # stripes or checks
        period = rng.uniform(4, 40)
        axis = np.arange(size)
        turn = rng.uniform(0, np.pi)
        wave = np.sin((axis[None] * np.cos(turn) + axis[:, None] * np.sin(turn)) * 2 * np.pi / period)
        if rng.random() < 0.5:
            wave = wave * np.sin((axis[None] * -np.sin(turn) + axis[:, None] * np.cos(turn)) * 2 * np.pi / period)
        image[wave > rng.uniform(-0.5, 0.5)] = palette[1]
    for _ in range(rng.integers(5, 40)):
        color = (palette[rng.integers(5)] * rng.uniform(0.6, 1.2)).tolist()
        x, y = rng.uniform(-0.1, 1, 2) * size
        w, h = np.exp(rng.uniform(np.log(2), np.log(size * 0.5), 2))
        if rng.random() < 0.75:
            cv2.rectangle(image, (int(x), int(y)), (int(x + w), int(y + h)), color, -1)
        else:
            cv2.circle(image, (int(x), int(y)), int(w / 2) + 1, color, int(rng.choice((-1, 2))), cv2.LINE_AA)
    turned = cv2.getRotationMatrix2D((size / 2, size / 2), rng.normal(0, 25), 1.35)
    return cv2.warpAffine(image, turned, (size, size), borderMode=cv2.BORDER_REFLECT)


def _pattern(rng: np.random.Generator, size: int) -> np.ndarray:
    cells = int(rng.integers(3, 24))
    grid = rng.integers(0, 256, (cells, cells, 3)).astype(np.uint8)
    how = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC)[rng.integers(3)]
    noise = cv2.resize(grid, (size, size), interpolation=how).astype(np.float32)
    tone = noise * 0.3 + noise.mean(2, keepdims=True) * 0.7 - 128
    return (rng.integers(0, 256, 3) + tone * rng.uniform(0.1, 1)).clip(0, 255).astype(np.uint8)


def _read_panorama(path: Path) -> Panorama:
    import OpenEXR

    encoded = re.search(r"base64,([^\"'`]*)", path.read_text())
    if encoded is None:
        raise DataError(f"{path} holds no base64 panorama: expected the format of @pmndrs/assets 1.7.")
    with tempfile.NamedTemporaryFile(suffix=".exr") as file:  # OpenEXR reads files only
        file.write(base64.b64decode(encoded.group(1)))
        file.flush()
        with OpenEXR.File(file.name) as exr:
            channels = exr.channels()
            raw = channels["RGB"].pixels if "RGB" in channels else np.stack([channels[c].pixels for c in "RGB"], -1)
            linear = np.nan_to_num(raw.astype(np.float32)).clip(0)
    linear = linear / (np.median(linear.mean(2)) + 1e-6) * 0.25
    tone = linear / (1 + 0.6 * linear)
    image = (np.clip(tone, 0, 1) ** (1 / 2.2) * 255).astype(np.uint8)
    return Panorama(image, _irradiance(np.minimum(linear, 8.0)))


def _irradiance(linear: np.ndarray) -> np.ndarray:
    """SH coefficients (9, 3) of diffuse light (Ramamoorthi and Hanrahan 2001), scaled to a mean of 1."""
    height, width = linear.shape[:2]
    theta = (np.arange(height) + 0.5) / height * np.pi
    phi = ((np.arange(width) + 0.5) / width - 0.5) * 2 * np.pi
    sin = np.sin(theta)[:, None]
    x, y, z = sin * np.sin(phi), np.broadcast_to(-np.cos(theta)[:, None], (height, width)), sin * np.cos(phi)
    basis = np.stack([np.ones_like(x), x, y, z, x * y, y * z, 3 * z * z - 1, x * z, x * x - y * y], -1)
    norms = np.array([0.282095, *[0.488603] * 3, *[1.092548] * 2, 0.315392, 1.092548, 0.546274])
    basis = basis * norms
    light = np.einsum("hwk,hwc->kc", basis * sin[..., None], linear) * (2 * np.pi / width) * (np.pi / height)
    cosine = np.array([np.pi, *[2 * np.pi / 3] * 3, *[np.pi / 4] * 5])
    coefficients = light * (cosine * norms)[:, None]
    return (coefficients / (coefficients[0].mean() + 1e-9)).astype(np.float32)


def _read_pictures() -> list[np.ndarray]:
    import skimage

    pictures = []
    for name in _PICTURES:
        files = sorted((Path(skimage.__file__).parent / "data").glob(f"{name}.*"))
        image = cv2.imread(str(files[0])) if files else None
        if image is None:
            raise DataError(f"scikit-image's picture {name!r} is missing: reinstall edge-hands[train].")
        zoom = 420 / min(image.shape[:2])
        pictures.append(cv2.resize(image[:, :, ::-1], None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA))
    return pictures
