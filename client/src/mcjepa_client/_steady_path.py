"""The smooth path that a steady camera would have taken.

Each frame is moved to the average of where the frames around it see the scene, weighted by a Gaussian.
Source: Matsushita et al., "Full-Frame Video Stabilization with Motion Inpainting" (PAMI 2006).

Convention: z = x + i y is a place relative to the centre of the frame, px, and z -> a z + b a motion: a is
rotation and scale, b the shift.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from mcjepa_client._camera import CameraMotion

Floats = NDArray[np.float64]
Motions = tuple[NDArray[np.complex128], NDArray[np.complex128]]  # (N,) a and (N,) b
Size = tuple[int, int]  # height, width

_CUT = 0.15  # with fewer inliers two frames have no camera motion in common: a cut
_HALVINGS = 20  # of the strength, so that it is exact to a millionth


def smooth(motions: Sequence[CameraMotion], size: Size, sigma: float) -> Motions:
    """For each of N frames, the motion that takes it to the average of its neighbours in the same shot.

    `motions` are the N - 1 between the frames, `sigma` is the Gaussian's standard deviation in frames.
    """
    a, b = _from_matrices(np.stack([motion.matrix for motion in motions]), size)
    cuts = [index + 1 for index, motion in enumerate(motions) if motion.inliers < _CUT]
    shots = [
        _smooth_shot((a[start : end - 1], b[start : end - 1]), sigma)
        for start, end in pairwise([0, *cuts, len(motions) + 1])
    ]
    return np.concatenate([a for a, _ in shots]), np.concatenate([b for _, b in shots])


def _smooth_shot(motions: Motions, sigma: float) -> Motions:
    """The same for n frames without a cut, from the n - 1 motions between them."""
    frames = len(motions[0]) + 1
    here: Motions = np.ones(frames, complex), np.zeros(frames, complex)
    if frames == 1:
        return here
    weights = _gaussian(sigma)
    radius = len(weights) // 2
    # Beyond the ends the camera moves as it does before them, so that a pan is not pulled back to its middle.
    a, b = (np.pad(values, radius, mode="symmetric") for values in motions)
    total = [weights[radius] * values for values in here]
    ahead = behind = here
    for k in range(radius):
        on, back = slice(radius + k, radius + k + frames), slice(radius - k - 1, radius - k - 1 + frames)
        ahead = a[on] * ahead[0], a[on] * ahead[1] + b[on]
        behind = behind[0] / a[back], (behind[1] - b[back]) / a[back]
        total = [t + weights[radius + k + 1] * (f + g) for t, f, g in zip(total, ahead, behind, strict=True)]
    return total[0], total[1]


def damp(steadying: Motions, size: Size, least: float, sigma: float) -> Motions:
    """Less of it around frames of which less than `least` would be kept, fading in and out over `sigma`."""
    if (kept(steadying, size) >= least).all():
        return steadying
    weak, strong = np.zeros(len(steadying[0])), np.ones(len(steadying[0]))
    for _ in range(_HALVINGS):
        middle = (weak + strong) / 2
        fits = kept(_weaken(steadying, middle), size) >= least
        weak, strong = np.where(fits, middle, weak), np.where(fits, strong, middle)
    return _weaken(steadying, _fade(np.where(strong == 1, 1.0, weak), sigma))


def _weaken(steadying: Motions, strength: Floats) -> Motions:
    a, b = steadying
    return 1 + strength * (a - 1), strength * b


def _fade(strength: Floats, sigma: float) -> Floats:
    """A smooth curve that is nowhere above `strength`: the average of the least values around."""
    weights = _gaussian(sigma)
    radius = len(weights) // 2
    least = sliding_window_view(np.pad(strength, radius, mode="edge"), len(weights)).min(axis=1)
    return np.convolve(np.pad(least, radius, mode="edge"), weights, mode="valid")


def _gaussian(sigma: float) -> Floats:
    """Weights from -3 sigma to 3 sigma whose sum is 1."""
    radius = int(np.ceil(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return np.asarray(weights / weights.sum())


def kept(steadying: Motions, size: Size) -> Floats:
    """(N,) sides of the largest centred part without empty borders, relative to the frame's: 0 to 1."""
    a, b = steadying
    half = (np.array(size[::-1]) - 1) / 2  # x, y
    corners = np.array([1, -1])[:, None] * half[0] + 1j * np.array([1, -1]) * half[1]
    # A corner of the part, s * corner, comes from s * direction + origin of the frame: how far may s go?
    direction, origin = corners.reshape(4, 1) / a, -b / a  # (4, N), (N,)
    limits = [np.ones(len(a))]
    for part, extent in ((np.real, half[0]), (np.imag, half[1])):
        slope, offset = part(direction), part(origin)
        room = extent - np.sign(slope) * offset
        limits.append((room / np.maximum(np.abs(slope), 1e-12)).min(axis=0))
    return np.asarray(np.clip(np.min(limits, axis=0), 0, 1))


def _from_matrices(matrices: Floats, size: Size) -> Motions:
    """(N, 2, 3) matrices of rotation, scale and shift, px from the corner, as motions about the centre."""
    centre = _centre(size)
    a = matrices[:, 0, 0] + 1j * matrices[:, 1, 0]
    return a, a * centre + matrices[:, 0, 2] + 1j * matrices[:, 1, 2] - centre


def to_matrices(motions: Motions, size: Size, zoom: float) -> Floats:
    """The other way about, with a magnification after each motion: (N, 2, 3)."""
    centre = _centre(size)
    a, b = (zoom * values for values in motions)
    shift = centre + b - a * centre
    return np.stack([a.real, -a.imag, shift.real, a.imag, a.real, shift.imag], axis=1).reshape(-1, 2, 3)


def _centre(size: Size) -> complex:
    height, width = size
    return complex(width - 1, height - 1) / 2
