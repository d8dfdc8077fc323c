"""Draws hands and solid things with moderngl (EGL; Mesa's llvmpipe where there is no GPU): colour and depth.

Camera space is x right, y down, z forward in metres; image rows go down, so row 0 of the buffer is the top.
Shading is linear: skin (tone, atlas, grain) or paint times the panorama's diffuse light plus one direct light that
casts shadows from a depth map of its own, with a highlight; the buffer holds sRGB.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_hands.errors import DataError
from edge_hands.quantization.data.synthetic.skin import Skin

_SHADOW_SIZE = 160
_VERTEX = """#version 330
in vec3 position; in vec3 normal; in vec2 uv; in vec2 material;
out vec3 n; out vec3 p; out vec2 t; out vec2 m; out vec3 s;
uniform mat4 projection; uniform mat4 shadow_projection;
void main() {
    gl_Position = projection * vec4(position, 1);
    n = normal; p = position; t = uv; m = material;
    s = (shadow_projection * vec4(position + normalize(normal) * .0012, 1)).xyz * .5 + .5;
}
"""
_LIGHT = """#version 330
in vec3 n; in vec3 p; in vec2 t; in vec2 m; in vec3 s;
layout(location = 0) out vec4 color; layout(location = 1) out float depth;
uniform vec3 sh[9]; uniform mat3 world; uniform vec3 direct; uniform vec3 direct_color;
uniform sampler2DShadow shadow; uniform sampler2D grain;
vec3 diffuse(vec3 d) {
    return sh[0] + sh[1]*d.x + sh[2]*d.y + sh[3]*d.z + sh[4]*d.x*d.y + sh[5]*d.y*d.z + sh[6]*(3.*d.z*d.z - 1.)
         + sh[7]*d.x*d.z + sh[8]*(d.x*d.x - d.y*d.y);
}
vec3 bumped(vec3 normal, float height) {  // Mikkelsen 2010: a normal from a height's derivatives in the picture
    vec3 dx = dFdx(p), dy = dFdy(p), r1 = cross(dy, normal), r2 = cross(normal, dx);
    float det = dot(dx, r1);
    vec3 gradient = sign(det) * (dFdx(height) * r1 + dFdy(height) * r2);
    return normalize(abs(det) * normal - gradient);
}
float lit() {  // four filtered taps of the shadow map
    float soft = 0.;
    for (int i = 0; i < 2; i++) soft += texture(shadow, vec3(s.xy + (float(i) - .5) * vec2(.008, .008), s.z - .004));
    return soft * .5;
}
void shade(vec3 albedo, vec3 normal, float wrap, float shine, float exponent) {
    float facing = max((dot(normal, direct) + wrap) / (1. + wrap), 0.) * lit();
    vec3 light = max(diffuse(world * normal), vec3(.02)) + direct_color * facing;
    float highlight = shine * facing * pow(max(dot(normal, normalize(direct + normalize(-p))), 0.), exponent);
    vec3 linear = max(albedo, vec3(.008)) * light + direct_color * highlight;
    color = vec4(pow(clamp(linear, 0., 1.), vec3(1. / 2.2)), 1.);
    depth = p.z;
}
"""
# material = (palm, metres up the arm); atlas channels: crease, vein, nail, flush.
_SKIN = (
    _LIGHT
    + """
uniform sampler2D atlas; uniform vec3 back; uniform vec3 palm; uniform vec3 nail; uniform vec3 cloth[2];
uniform vec4 weave; uniform vec4 detail; uniform vec4 mottle; uniform vec2 offset; uniform vec3 gloss;
uniform float sleeve;
void main() {
    vec4 a = texture(atlas, t) * step(t.x, 1.5);
    vec4 g = texture(grain, t * mottle.w + offset) - .5;
    vec3 albedo, normal = normalize(n);
    float shine = gloss.x, wrap = .25;
    if (m.y > sleeve) {
        albedo = mix(cloth[0], cloth[1], smoothstep(-.2, .2, sin(dot(weave.xy, t) + weave.w))) * (1. + g.b * .3);
        normal = bumped(normal, .004 * g.g); shine = 0.; wrap = 0.;
    } else {
        albedo = mix(back, palm, smoothstep(-.3, .5, m.x));
        albedo *= 1. + mottle.x * g.r * vec3(1., 1.5, 1.6) + mottle.y * g.g * vec3(.8, 1.2, 1.2) + mottle.z * g.b;
        albedo *= mix(vec3(1.), vec3(1.04, .80, .76), a.a * detail.z);
        albedo *= mix(vec3(1.), vec3(.84, .95, 1.), a.g * detail.y);
        albedo *= mix(vec3(1.), vec3(.52, .36, .32), a.r * detail.x);
        albedo = mix(albedo, nail * (1. - .4 * a.r), a.b * step(.01, detail.x));
        shine += gloss.z * a.b;
        normal = bumped(normal, detail.w * (.0006 * g.g + .0005 * a.g * detail.y - .0011 * a.r));
    }
    shade(albedo, normal, wrap, shine, gloss.y);
}
"""
)
_PAINT = (
    _LIGHT
    + """
uniform vec3 colors[2]; uniform vec4 weave; uniform vec3 gloss;
void main() {
    vec4 g = texture(grain, t * 1.7 + weave.zw) - .5;
    vec3 albedo = mix(colors[0], colors[1], smoothstep(-.1, .1, sin(dot(weave.xy, t) + weave.z)));
    shade(albedo * (1. + gloss.z * (g.g + g.b)), normalize(n), 0., gloss.x, gloss.y);
}
"""
)
_PICTURE = (
    _LIGHT
    + """
uniform sampler2D picture; uniform vec3 tint; uniform vec3 gloss;
void main() {
    vec4 g = texture(grain, t * 5.) - .5;
    vec3 albedo = pow(texture(picture, t).rgb, vec3(2.2)) * tint;
    shade(albedo * (1. + gloss.z * (g.r + g.b)), normalize(n), .25, gloss.x, gloss.y);
}
"""
)
_SHADOW_VERTEX = """#version 330
in vec3 position; uniform mat4 shadow_projection;
void main() { gl_Position = shadow_projection * vec4(position, 1); }
"""


@dataclass(frozen=True)
class Paint:
    """Appearance of a solid: two linear ``colors`` (2, 3), ``weave`` (4,) of their stripes, ``gloss`` (strength,
    exponent, grain)."""

    colors: np.ndarray
    weave: np.ndarray
    gloss: np.ndarray


@dataclass(frozen=True)
class Picture:
    """Appearance of a surface with a texture: ``number`` of the renderer's pictures, linear ``tint`` (3,), ``gloss``
    (strength, exponent, grain)."""

    number: int
    tint: np.ndarray
    gloss: np.ndarray


@dataclass(frozen=True)
class Solid:
    """Something to draw, in camera space: (V, 3) ``vertices`` and ``normals``, ``uv`` and ``material`` (V, 2), faces
    (F, 3) counter-clockwise from outside (clockwise where ``mirrored``), and how it looks."""

    vertices: np.ndarray
    normals: np.ndarray
    uv: np.ndarray
    material: np.ndarray
    faces: np.ndarray
    look: Skin | Paint | Picture
    mirrored: bool = False


@dataclass(frozen=True)
class Light:
    """``sh`` (9, 3) diffuse coefficients in world axes, ``world`` (3, 3) camera -> world, one direct light."""

    sh: np.ndarray
    world: np.ndarray
    direct: np.ndarray
    direct_color: np.ndarray
    shadows: bool = True


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
    context.enable(moderngl.DEPTH_TEST | moderngl.CULL_FACE)
    return context


class Renderer:
    """An off-screen target of ``size * supersample`` pixels; ``atlases`` and ``grain`` are the skin's maps,
    ``pictures`` (H, W, 3) uint8 sRGB what a ``Picture`` may show."""

    def __init__(
        self,
        size: int,
        atlases: list[np.ndarray],
        grain: np.ndarray,
        supersample: int = 2,
        pictures: Sequence[np.ndarray] = (),
    ):
        gl = self._gl = _context()
        self.pixels = size * supersample
        self._programs = {
            Skin: gl.program(vertex_shader=_VERTEX, fragment_shader=_SKIN),
            Paint: gl.program(vertex_shader=_VERTEX, fragment_shader=_PAINT),
            Picture: gl.program(vertex_shader=_VERTEX, fragment_shader=_PICTURE),
        }
        self._shadow_program = gl.program(vertex_shader=_SHADOW_VERTEX, fragment_shader="#version 330\nvoid main() {}")
        shape = (self.pixels, self.pixels)
        self._color = gl.texture(shape, 4)
        self._depth = gl.texture(shape, 1, dtype="f4")
        self._target = gl.framebuffer([self._color, self._depth], gl.depth_renderbuffer(shape))
        self._shadow = gl.depth_texture((_SHADOW_SIZE, _SHADOW_SIZE))
        self._shadow.compare_func = "<="
        self._shadow.repeat_x = self._shadow.repeat_y = False
        self._shadow_target = gl.framebuffer(depth_attachment=self._shadow)
        self._atlases = [self._texture(a) for a in atlases]
        self._grain = self._texture(grain)
        self._pictures = [self._texture(picture) for picture in pictures]
        self._meshes: dict[tuple, tuple] = {}

    def _texture(self, image: np.ndarray):
        texture = self._gl.texture(image.shape[1::-1], image.shape[2], np.ascontiguousarray(image).tobytes())
        texture.build_mipmaps()
        return texture

    def render(self, camera: Camera, solids: list[Solid], light: Light) -> tuple[np.ndarray, np.ndarray]:
        """Colour (S, S, 3) uint8 sRGB and depth (S, S) float32 metres, 0 where nothing is.

        Shadows fall within a sphere round the first solid.
        """
        ready = [(solid, *self._upload(slot, solid)) for slot, solid in enumerate(solids)]
        shadow = _shadow_matrix(solids[0].vertices, light.direct) if solids else np.eye(4)
        self._shadow_target.use()
        self._shadow_target.clear(depth=1.0)
        self._shadow_program["shadow_projection"].write(shadow.T.astype("f4").tobytes())
        for solid, _, shape in ready if light.shadows else ():
            self._gl.front_face = "cw" if solid.mirrored else "ccw"  # far sides only: lit skin cannot shade itself
            shape.render()
        self._target.use()
        self._target.clear(0.0, 0.0, 0.0, 0.0)
        for solid, painted, _ in ready:
            # The picture's first row is at the bottom of OpenGL's, which turns faces round.
            self._gl.front_face = "ccw" if solid.mirrored else "cw"
            self._set(solid.look, camera, light, shadow)
            painted.render()
        color = np.frombuffer(self._color.read(), np.uint8).reshape(self.pixels, self.pixels, 4)
        depth = np.frombuffer(self._depth.read(), np.float32).reshape(self.pixels, self.pixels)
        return color[:, :, :3], depth

    def _upload(self, slot: int, solid: Solid) -> tuple:
        key = (slot, type(solid.look), id(solid.faces), len(solid.vertices))
        if key not in self._meshes:
            buffer = self._gl.buffer(reserve=len(solid.vertices) * 40)
            index = self._gl.buffer(np.ascontiguousarray(solid.faces, np.int32).tobytes())
            names = ("position", "normal", "uv", "material")
            painted = self._gl.vertex_array(
                self._programs[type(solid.look)], [(buffer, "3f 3f 2f 2f", *names)], index, skip_errors=True
            )
            shape = self._gl.vertex_array(self._shadow_program, [(buffer, "3f 28x", "position")], index)
            self._meshes[key] = (buffer, painted, shape, solid.faces)  # keeps the faces: their id is the key
        buffer, painted, shape, _ = self._meshes[key]
        buffer.write(np.hstack([solid.vertices, solid.normals, solid.uv, solid.material]).astype("f4").tobytes())
        return painted, shape

    def _set(self, look: Skin | Paint | Picture, camera: Camera, light: Light, shadow: np.ndarray) -> None:
        program = self._programs[type(look)]
        uniforms = {
            "projection": camera.clip_matrix().T,
            "shadow_projection": shadow.T,
            "sh": light.sh,
            "world": light.world.T,
            "direct": light.direct,
            "direct_color": light.direct_color,
            "gloss": look.gloss,
        }
        if isinstance(look, Picture):
            uniforms["tint"] = look.tint
            self._pictures[look.number].use(2)
            program["picture"].value = 2
        else:
            uniforms["weave"] = look.weave
        if isinstance(look, Skin):
            names = ("back", "palm", "nail", "cloth", "detail", "mottle", "offset")
            uniforms |= {name: getattr(look, name) for name in names} | {"sleeve": np.float32(look.sleeve)}
            self._atlases[look.atlas].use(2)
            program["atlas"].value = 2
        elif isinstance(look, Paint):
            uniforms["colors"] = look.colors
        for name, value in uniforms.items():
            program[name].write(np.ascontiguousarray(value, "f4").tobytes())
        self._shadow.use(0)
        self._grain.use(1)
        program["shadow"].value, program["grain"].value = 0, 1


def _shadow_matrix(vertices: np.ndarray, direct: np.ndarray) -> np.ndarray:
    """(4, 4) orthographic projection from the light onto a box round ``vertices``; ``direct`` points to the light."""
    center, z = vertices.mean(0), -direct
    side = np.cross(z, [0.0, 1.0, 0.1])
    x = side / np.linalg.norm(side)
    rotation = np.stack([x, np.cross(z, x), z])
    reach = min(float(np.linalg.norm(vertices - center, axis=1).max()), 0.22) * 1.05
    matrix = np.eye(4)
    matrix[:3, :3] = rotation / reach
    matrix[:3, 3] = -matrix[:3, :3] @ center
    matrix[2] *= 0.5  # what lies nearer to the light than the hand still casts its shadow
    return matrix
