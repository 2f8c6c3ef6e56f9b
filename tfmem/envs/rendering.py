"""First-person frames by ray casting: a pinhole camera, meshes with a colour per face, Embree for the hits. No GL.

World axes: x east, y north, z up. A yaw of 0 looks east, pi / 2 north; the camera is level. Pixel (r, c) of an S x S
frame, row 0 at the top, sees along

    d = forward + (c + 1/2 - S/2) / f right - (r + 1/2 - S/2) / f up ,    f = S / (2 tan(field of view / 2)) ,

so a point at depth z along `forward`, x to the right and y up lies at column S/2 + f x / z and row S/2 - f y / z.
A face with normal n shows its colour times a shade, 1 where it is level, fading with distance into the haze:

    shade = (2 + n . sun) / (2 + up . sun)
    pixel = haze + exp(-distance / visibility) (colour shade - haze)

A ray that hits nothing shows the sky, from the haze's colour at the horizon to SKY above. Not specified (the
papers show pictures alone); we use this. numpy, trimesh and embreex only.
"""

import numpy as np
import trimesh
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene

from tfmem.validation import check_above_zero, check_integer, check_range

SUN = np.array([-0.8, -0.4, 0.4472])  # unit vector towards it: walls of each direction look different
HAZE = np.array([205, 222, 238], np.float32)
SKY = np.array([62, 120, 200], np.float32)
FAR = 1000.0  # reach of endless planes, and height from which maps are seen
SAMPLES = 2


class Camera:
    """A level pinhole camera.

    Args:
        size: S, side of the square frames, pixels.
        field_of_view: degrees from the left edge to the right one, between 1 and 179.

    Attributes:
        focal_length: f, in pixels.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(self, size=64, field_of_view=80.0):
        check_integer("size", size, 1)
        check_range("field_of_view", field_of_view, 1, 179)
        self.size, self.field_of_view = size, field_of_view
        self.focal_length = size / (2 * np.tan(np.radians(field_of_view) / 2))
        offset = (np.arange(size) + 0.5 - size / 2) / self.focal_length
        right, up = (a.ravel() for a in np.meshgrid(offset, -offset))
        forward, right, up = np.array([np.ones_like(up), right, up]) / np.sqrt(1 + right**2 + up**2)
        self._forward, self._right, self._up = (a.astype(np.float32) for a in (forward, right, up))
        height = np.sqrt(np.clip(up, 0, 1))[:, None]
        self.sky = (HAZE + height * (SKY - HAZE)).astype(np.float32)  # the same for every yaw

    def directions(self, yaws):
        """Unit directions [N, S * S, 3] float32 of the rays of cameras with these yaws (radians, [N])."""
        directions = np.empty([len(yaws), self._up.size, 3], np.float32)
        for rays, yaw in zip(directions, yaws, strict=True):
            cosine, sine = np.float32(np.cos(yaw)), np.float32(np.sin(yaw))
            rays[:, 0] = cosine * self._forward + sine * self._right
            rays[:, 1] = sine * self._forward - cosine * self._right
            rays[:, 2] = self._up
        return directions


class Scene:
    """Meshes from which frames are made; they never change, so that copies of a world share them.

    Args:
        meshes: list of `trimesh.Trimesh`; `mesh.visual.face_colors` are a mesh's colours.
        visibility: distance at which 1 / e of a colour is left.

    Attributes:
        colors: of the faces with their shade, float32 [F, 3], 0 to 255.

    Raises:
        ValueError: a visibility that is not positive.
    """

    def __init__(self, meshes, visibility):
        check_above_zero(visibility=visibility)
        self.visibility = visibility
        first = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])[:-1]
        vertices = np.concatenate([mesh.vertices for mesh in meshes], dtype=np.float32)
        faces = np.concatenate([mesh.faces + i for mesh, i in zip(meshes, first, strict=True)], dtype=np.int32)
        self._mesh = vertices, faces
        self._embree = _embree_scene(*self._mesh)
        shade = (2 + np.concatenate([mesh.face_normals for mesh in meshes]) @ SUN) / (2 + SUN[2])
        colors = np.concatenate([mesh.visual.face_colors[:, :3] for mesh in meshes])
        self.colors = np.clip(colors * shade[:, None], 0, 255).astype(np.float32)
        self._contrast = self.colors - HAZE
        self.colors.flags.writeable = False

    def __deepcopy__(self, memo):
        return self

    def __getstate__(self):
        return {**self.__dict__, "_embree": None}  # Embree's own memory cannot be pickled

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._embree = _embree_scene(*self._mesh)

    def cast(self, origins, directions):
        """The first face of the meshes on each ray, int32 [N], -1 for none, and the distance to it, float32 [N].

        Args:
            origins, directions: float32 [N, 3], directions of length one.
        """
        hits = self._embree.run(origins, directions, output=True)
        return hits["primID"], hits["tfar"]

    def render(self, camera, positions, yaws):
        """Render the views of cameras: uint8 [N, S, S, 3], RGB. All rays are cast in one call.

        Args:
            camera: a `Camera`.
            positions: of the cameras, [N, 3].
            yaws: their headings, radians, [N].
        """
        directions = camera.directions(yaws)
        rays = directions.shape[1]
        origins = np.repeat(np.asarray(positions, np.float32), rays, axis=0)
        faces, distances = self.cast(origins, directions.reshape(-1, 3))
        frames = np.take(self._contrast, faces, axis=0, mode="wrap")  # -1 gives any colour: the sky follows
        frames *= np.exp(distances * np.float32(-1 / self.visibility))[:, None]
        frames += HAZE
        frames = frames.reshape(len(yaws), rays, 3)
        np.copyto(frames, camera.sky, where=(faces < 0).reshape(len(yaws), rays, 1))
        return frames.astype(np.uint8).reshape(len(yaws), camera.size, camera.size, 3)

    def top_down(self, size, side):
        """The map: colours of the faces seen from straight above, without haze, uint8 [size, size, 3], RGB.

        North is up (row 0), west is left (column 0). A pixel is the mean of SAMPLES x SAMPLES points in it.

        Args:
            size: pixels of a side.
            side: length of a side in the world; its middle is at (0, 0).
        """
        place = ((np.arange(size * SAMPLES) + 0.5) / (size * SAMPLES) - 0.5) * side
        x, y = np.meshgrid(place, -place)
        origins = np.stack([x, y, np.full_like(x, FAR)], axis=-1).reshape(-1, 3).astype(np.float32)
        faces, _ = self.cast(origins, np.tile(np.float32([0, 0, -1]), [len(origins), 1]))
        colors = self.colors[faces].reshape(size, SAMPLES, size, SAMPLES, 3)
        return np.rint(colors.mean(axis=(1, 3))).astype(np.uint8)


def _embree_scene(vertices, faces):
    scene = EmbreeScene()
    TriangleMesh(scene, vertices, faces)
    return scene


_UNIT_BOX = trimesh.creation.box(bounds=[[0, 0, 0], [1, 1, 1]])


def boxes(lower, upper, colors):
    """A mesh of axis-parallel boxes: `trimesh.Trimesh`, 12 faces each, in their order.

    Args:
        lower, upper: corners, [N, 3].
        colors: uint8 [N, 3].
    """
    lower, upper = np.asarray(lower, float).reshape(-1, 1, 3), np.asarray(upper, float).reshape(-1, 1, 3)
    vertices = lower + _UNIT_BOX.vertices * (upper - lower)
    faces = _UNIT_BOX.faces + len(_UNIT_BOX.vertices) * np.arange(len(lower))[:, None, None]
    return mesh(vertices.reshape(-1, 3), faces.reshape(-1, 3), np.repeat(colors, len(_UNIT_BOX.faces), axis=0))


def rectangles(lower, upper, height, colors):
    """A mesh of level rectangles seen from above, two faces each.

    Args:
        lower, upper: corners, [N, 2].
        height: their z.
        colors: uint8 [N, 3].
    """
    (left, bottom), (right, top) = np.transpose(lower), np.transpose(upper)
    corners = [(left, bottom), (right, bottom), (right, top), (left, top)]
    vertices = np.stack([np.stack([x, y, np.full_like(x, height)], axis=-1) for x, y in corners], axis=1)
    faces = np.array([[0, 1, 2], [0, 2, 3]]) + 4 * np.arange(len(left))[:, None, None]
    return mesh(vertices.reshape(-1, 3), faces.reshape(-1, 3), np.repeat(colors, 2, axis=0))


def voxels(solid, colors, origin):
    """A mesh of unit cubes: their faces that no other cube covers, without those at the bottom of the grid.

    Args:
        solid: bool [X, Y, Z], True where a cube is; its axes are those of the world.
        colors: uint8 [X, Y, Z, 3].
        origin: corner of the grid with the least coordinates, [3].
    """
    vertices, shown = [], []
    for corners, step in zip(_SIDES, _STEPS, strict=True):
        beyond = np.pad(solid, 1)[tuple(slice(1 + s, 1 + s + n) for s, n in zip(step, solid.shape, strict=True))]
        seen = solid & ~beyond
        if step[2] < 0:
            seen[:, :, 0] = False
        places = np.argwhere(seen)
        vertices.append((places[:, None] + corners).reshape(-1, 3))
        shown.append(colors[seen])
    vertices, shown = np.concatenate(vertices) + np.asarray(origin, float), np.concatenate(shown)
    faces = np.array([[0, 1, 2], [0, 2, 3]]) + 4 * np.arange(len(shown))[:, None, None]
    return mesh(vertices, faces.reshape(-1, 3), np.repeat(shown, 2, axis=0))


# The six neighbours of a voxel, and the corners of the side towards each, counter-clockwise from outside.
_STEPS = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]
_SIDES = np.array(
    [
        [(1, 0, 0), (1, 1, 0), (1, 1, 1), (1, 0, 1)],
        [(0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0)],
        [(0, 1, 0), (0, 1, 1), (1, 1, 1), (1, 1, 0)],
        [(0, 0, 0), (1, 0, 0), (1, 0, 1), (0, 0, 1)],
        [(0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1)],
        [(0, 0, 0), (0, 1, 0), (1, 1, 0), (1, 0, 0)],
    ]
)


def mesh(vertices, faces, colors):
    """An unprocessed `trimesh.Trimesh`: vertices [V, 3], faces [F, 3] counter-clockwise outside, colours [F, 3]."""
    return trimesh.Trimesh(vertices, faces, face_colors=colors, process=False)
