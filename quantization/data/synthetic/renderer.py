"""Draws posed hands with moderngl (EGL; Mesa's llvmpipe where there is no GPU): colour and depth in one pass.

Camera space is x right, y down, z forward in metres; image rows go down, so row 0 of the buffer is the top.
Shading is linear: skin (tone, mottling, palm, nails) times the panorama's diffuse light plus one direct light
with a highlight; the buffer holds sRGB.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from edge_hands.errors import DataError

_VERTEX = """#version 330
in vec3 position; in vec3 normal; in vec3 rest; in vec3 material;
out vec3 n; out vec3 p; out vec3 q; out vec3 m;
uniform mat4 projection;
void main() { gl_Position = projection * vec4(position, 1); n = normal; p = position; q = rest; m = material; }
"""

# m = (palm, nail, metres up the arm). Waves are a cheap solid texture in rest space: it sticks to the skin.
_FRAGMENT = """#version 330
in vec3 n; in vec3 p; in vec3 q; in vec3 m;
layout(location = 0) out vec4 color; layout(location = 1) out float depth;
uniform vec3 skin; uniform vec3 palm; uniform vec3 nail; uniform vec3 cloth[2];
uniform vec4 wave[8]; uniform vec3 wave_color[8]; uniform vec4 weave; uniform float sleeve;
uniform vec3 sh[9]; uniform mat3 world; uniform vec3 direct; uniform vec3 direct_color; uniform vec3 gloss;
vec3 diffuse(vec3 d) {
    return sh[0] + sh[1]*d.x + sh[2]*d.y + sh[3]*d.z + sh[4]*d.x*d.y + sh[5]*d.y*d.z + sh[6]*(3.*d.z*d.z - 1.)
         + sh[7]*d.x*d.z + sh[8]*(d.x*d.x - d.y*d.y);
}
void main() {
    vec3 normal = normalize(n), view = normalize(-p);
    if (dot(normal, view) < 0.) normal = -normal;
    vec3 albedo = mix(skin, palm, smoothstep(-.3, .5, m.x));
    for (int i = 0; i < 8; i++) albedo += skin * wave_color[i] * sin(dot(wave[i].xyz, q) + wave[i].w);
    albedo = mix(albedo, nail, m.y);
    float shine = gloss.x + .15 * m.y * gloss.z;
    if (m.z > sleeve) {
        albedo = mix(cloth[0], cloth[1], smoothstep(-.2, .2, sin(dot(weave.xyz, q) + weave.w)));
        shine = 0.;
    }
    // Light wraps round skin a little (subsurface scattering).
    float facing = max((dot(normal, direct) + .25) / 1.25, 0.);
    vec3 light = max(diffuse(world * normal), vec3(0.02)) + direct_color * facing;
    float highlight = shine * pow(max(dot(normal, normalize(direct + view)), 0.), gloss.y);
    vec3 linear = max(albedo, vec3(.01)) * light + direct_color * highlight;
    color = vec4(pow(clamp(linear, 0., 1.), vec3(1. / 2.2)), 1.);
    depth = p.z;
}
"""


@dataclass(frozen=True)
class Look:
    """Everything of a hand's appearance that the shader needs; colours are linear RGB."""

    skin: np.ndarray
    palm: np.ndarray
    nail: np.ndarray
    cloth: np.ndarray  # (2, 3)
    wave: np.ndarray  # (8, 4) direction / wavelength and phase
    wave_color: np.ndarray  # (8, 3)
    weave: np.ndarray  # (4,)
    sleeve: float  # metres from the wrist; large: none
    gloss: np.ndarray  # strength, exponent, nail polish


@dataclass(frozen=True)
class Light:
    """``sh`` (9, 3) diffuse coefficients in world axes, ``world`` (3, 3) camera -> world, one direct light."""

    sh: np.ndarray
    world: np.ndarray
    direct: np.ndarray
    direct_color: np.ndarray


@dataclass(frozen=True)
class Camera:
    """Pinhole camera of a square picture: focal length and principal point in (continuous) pixels."""

    focal: float
    center: tuple[float, float]
    size: int

    def project(self, points: np.ndarray) -> np.ndarray:
        """Camera-space points (..., 3) -> pixels (..., 2)."""
        return points[..., :2] / points[..., 2:] * self.focal + np.asarray(self.center)

    def clip_matrix(self, near: float = 0.03, far: float = 6.0) -> np.ndarray:
        """(4, 4) camera space -> OpenGL clip space with the first row of the picture at y = -1."""
        scale = 2 * self.focal / self.size
        cx, cy = (2 * c / self.size - 1 for c in self.center)
        return np.array(
            [
                [scale, 0, cx, 0],
                [0, scale, cy, 0],
                [0, 0, (far + near) / (far - near), -2 * far * near / (far - near)],
                [0, 0, 1, 0],
            ]
        )


@functools.cache
def _context():
    """The process's OpenGL context: objects of two contexts must not meet, so there is one."""
    import moderngl

    try:
        context = moderngl.create_context(standalone=True, backend="egl")
    except Exception as error:  # moderngl raises bare Exception
        raise DataError(
            f"No OpenGL through EGL on this machine ({error}). Install libegl1 and libgl1-mesa-dri, or a GPU driver."
        ) from error
    context.enable(moderngl.DEPTH_TEST)
    return context


class Renderer:
    """An off-screen target of ``size * supersample`` pixels for one mesh."""

    def __init__(self, size: int, faces: np.ndarray, vertices: int, supersample: int = 2):
        self._gl = _context()
        self.pixels = size * supersample
        self._program = self._gl.program(vertex_shader=_VERTEX, fragment_shader=_FRAGMENT)
        self._buffer = self._gl.buffer(reserve=vertices * 12 * 4)
        index = self._gl.buffer(np.ascontiguousarray(faces, np.int32).tobytes())
        names = ("position", "normal", "rest", "material")
        self._mesh = self._gl.vertex_array(self._program, [(self._buffer, "3f 3f 3f 3f", *names)], index)
        shape = (self.pixels, self.pixels)
        self._color = self._gl.texture(shape, 4)
        self._depth = self._gl.texture(shape, 1, dtype="f4")
        self._target = self._gl.framebuffer([self._color, self._depth], self._gl.depth_renderbuffer(shape))

    def begin(self) -> None:
        """Empty picture."""
        self._target.use()
        self._gl.clear(0.0, 0.0, 0.0, 0.0)

    def draw(self, camera: Camera, vertices, normals, rest, material, look: Look, light: Light) -> None:
        """Adds one hand; arrays (V, 3) in camera space (``rest``: rest space)."""
        self._buffer.write(np.hstack([vertices, normals, rest, material]).astype("f4").tobytes())
        uniforms = {
            "projection": camera.clip_matrix().T,
            "skin": look.skin,
            "palm": look.palm,
            "nail": look.nail,
            "cloth": look.cloth,
            "wave": look.wave,
            "wave_color": look.wave_color,
            "weave": look.weave,
            "sleeve": np.float32(look.sleeve),
            "gloss": look.gloss,
            "sh": light.sh,
            "world": light.world.T,
            "direct": light.direct,
            "direct_color": light.direct_color,
        }
        for name, value in uniforms.items():
            self._program[name].write(np.ascontiguousarray(value, "f4").tobytes())
        self._mesh.render()

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Colour (S, S, 3) uint8 sRGB and depth (S, S) float32 metres, 0 where nothing is."""
        color = np.frombuffer(self._color.read(), np.uint8).reshape(self.pixels, self.pixels, 4)
        depth = np.frombuffer(self._depth.read(), np.float32).reshape(self.pixels, self.pixels)
        return color[:, :, :3], depth
