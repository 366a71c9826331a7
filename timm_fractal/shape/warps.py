"""Shape augmentation: affine, projective, elastic and polynomial warps of images.

`Warp.make_params` samples a few parameters, `Warp.apply` warps PIL images and tensors with them. Positions are relative
to the image: (u, v) is (-1, -1) at its top left corner (not at the center of the pixel there) and (1, 1) at its bottom
right corner, so 1 is half the width or height. Every warp maps the canvas to the image: the pixel at (u, v) shows the
image at (X(u, v), Y(u, v)), interpolated bilinearly, or the fill value if that is outside of [-1, 1]^2. Positions are
rounded to 1/64 pixel and computed from numbers of few bits, so that sums and products are exact in any order: warped
bytes are the same on every machine and device.

X and Y are the identity plus the sampled parameters, each of which is ``magnitude * U(-1, 1)`` (half of that for
polynomials). Degenerate warps are then shrunk: all parameters are multiplied by 0.9 until the map does not turn inside
out or stretch any part of the image to more than three times its length, at least a third of the canvas (of 17 x 17
points) shows the image, and the center of the image is on the canvas.

Only ``random()`` of the generators is used, and parameters follow from it by multiplication and rounding alone: the
same seed gives the same parameters everywhere.
"""

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn import functional

from .._utils.device import to_device
from .._utils.lazy import numba_kernels

Array = npt.NDArray[np.float64]
#: Record of a warp: its name and its parameters, ready for JSON.
Params = dict[str, list[float]]
AnyParams = Params | Sequence[Params] | Array
Size = int | Sequence[int] | None
Fill = float | Sequence[float]
ImageT = TypeVar('ImageT', Image.Image, torch.Tensor)

#: Maximum magnitude of all warps.
MAX_MAGNITUDE = 1.0

# Warps are checked at the corners of `_CELLS` x `_CELLS` cells.
_CELLS = 16
_CORNERS = np.linspace(-1, 1, _CELLS + 1)
_IDENTITY_AT_CORNERS = np.stack(np.meshgrid(_CORNERS, _CORNERS))
# Indices of the corners of every fourth row (or column) of cells, alternating upper and lower.
_SOME_CORNERS = [corner for cell in range(0, _CELLS, 4) for corner in (cell, cell + 1)]
# Minimum size of a cell's image in any direction, relative to the cell; below it the picture is smeared.
_MIN_LENGTH = 1 / 3
# Minimum fraction of corners that show the image; counted in pixels, it can be as low as a quarter.
_MIN_COVERED_CORNERS = 1 / 3
_SHRINK = 0.9
# Warps checked together; they should fit into the cache.
_AT_ONCE = 64
# Decimals of a record; the sixth is a thousandth of a pixel in an image of 2,000 pixels.
_DECIMALS = 6

# Pixels are sampled at multiples of 1 / 64 pixel: bilinear weights then have 12 bits, and weighted bytes are exact in
# single precision.
_STEP_BITS = 6
_STEPS = 2**_STEP_BITS
# Binary places of the factors of positions; the error is 1 / 1,000 pixel in 512.
_BITS = 18

# Newton's method takes three to eight steps.
_MOST_STEPS = 20
_DIFFERENCE = 1e-6
# Minimum divisor in the inverse of a projective map.
_HORIZON = 1e-4

_MODES = ('L', 'RGB')


class Warp(ABC):
    """Base class of warps: maps from the canvas to the image. See `Affine`, `Homography`, `Elastic` and `Polynomial`.

    A map is given by the coefficients of two functions (three for a quotient), each a sum of products of a basis
    function of u and one of v. A dense grid of positions then takes two products with small matrices, on any device.
    """

    #: Name in `WARPS` and in the records.
    name: ClassVar[str]
    #: Number of parameters.
    count: ClassVar[int]
    #: Half the width of the interval that each parameter is sampled from, at magnitude 1.
    scale: ClassVar[float] = 1.0
    # Up to this magnitude no warp is degenerate, and the check, which takes longer than sampling, is skipped.
    _safe: ClassVar[float]

    def make_params(self, rng: np.random.Generator, magnitude: float) -> Params:
        """Sample a warp: each parameter is ``scale * magnitude * U(-1, 1)``, shrunk if the warp is degenerate.

        Args:
            rng: Source of randomness; ``rng.random(count)`` is called once for any magnitude.
            magnitude: Strength, 0 <= magnitude <= 1; 0 is the identity.

        Returns:
            A record that can be saved as JSON, ``{name: parameters}``.

        Raises:
            ValueError: ``magnitude`` is out of range.

        Examples:
            >>> rng = np.random.default_rng(0)
            >>> WARPS['affine'].make_params(rng, 0.1)
            {'affine': [0.027392, -0.046043, -0.091805, -0.096694, 0.062654, 0.082551]}
        """
        check_magnitude(magnitude)
        values = magnitude * self.scale * (2 * rng.random(self.count) - 1)
        if magnitude > self._safe:
            (values,) = self._shrunk(values[None])
        # Adding 0 turns -0.0 into 0.0.
        return {self.name: (values.round(_DECIMALS) + 0).tolist()}

    def sample(self, rng: np.random.Generator, magnitude: Array) -> Array:
        """Sample a warp for each of several images, much faster than one by one.

        Args:
            rng: Source of randomness; ``rng.random((B, count))`` is called once.
            magnitude: Strengths, from 0 to 1, shape (B,).

        Returns:
            Parameters for `apply`, shape (B, count), with the distribution of `make_params`.

        Raises:
            ValueError: A magnitude is out of range.

        Examples:
            >>> WARPS['elastic'].sample(np.random.default_rng(0), np.full(1000, 0.3)).shape
            (1000, 128)
        """
        check_magnitude(magnitude.min(initial=0))
        check_magnitude(magnitude.max(initial=0))
        values = magnitude[:, None] * self.scale * (2 * rng.random((len(magnitude), self.count)) - 1)
        unsafe = magnitude > self._safe
        values[unsafe] = self._shrunk(values[unsafe])
        return values.round(_DECIMALS) + 0

    def _shrunk(self, values: Array) -> Array:
        """Shrink degenerate warps until they are valid; takes and returns shape (B, count)."""
        values, pending = values.copy(), np.arange(len(values))
        while len(pending):
            parts = (pending[k : k + _AT_ONCE] for k in range(0, len(pending), _AT_ONCE))
            pending = np.concatenate([part[~self._are_valid(values[part])] for part in parts])
            values[pending] *= _SHRINK
        return values

    def apply(self, image: ImageT, params: AnyParams, size: Size = None, fill: Fill = 0) -> ImageT:
        """Warp an image, or a batch of images on their device.

        An image at least twice as wide or high as the result is first reduced by an integer factor (means of blocks of
        pixels), so that warping and resizing take one bilinear sampling with little aliasing. PIL images and uint8
        tensors give the same result, within 1 level if the image was reduced. Floating-point results are not rounded:
        scaled to 255, they differ from those of PIL images by at most 0.51 levels, or 1.2 if the image was reduced.

        Args:
            image: A PIL image of mode L or RGB, or a tensor of shape (B, C, H, W) or (C, H, W), uint8 or floating
                point of any range.
            params: A record from `make_params`; for a batch, one record for all images, a sequence of B records, or an
                array from `sample`.
            size: Height and width of the result in pixels, one number for a square; None for the size of the image.
            fill: Fill value outside the image, in its units: one number, or one per channel. For a gray image, three
                numbers are converted to luma (ITU-R 601, as in PIL).

        Returns:
            A new image of the same type, mode or dtype, and device. If all parameters are 0 and the size is the same,
            its values equal those of ``image``.

        Raises:
            ValueError: Another mode or shape, a record of another warp or length, a number of records that is not the
                batch size, or an invalid ``size`` or ``fill``.
            TypeError: ``image`` is neither a PIL image nor a uint8 or floating-point tensor.

        Examples:
            >>> image = Image.linear_gradient('L')
            >>> warp = Affine()
            >>> params = warp.make_params(np.random.default_rng(0), 0.2)
            >>> warp.apply(image, params, size=(96, 128)).size
            (128, 96)
            >>> batch = torch.rand(2, 3, 64, 64)
            >>> warp.apply(batch, [params, {'affine': [0.0] * 6}], fill=0.5).shape
            torch.Size([2, 3, 64, 64])
        """
        if isinstance(image, Image.Image):
            return self._apply_to_pil(image, params, size, fill)
        if not isinstance(image, torch.Tensor) or not (image.dtype == torch.uint8 or image.is_floating_point()):
            what = image.dtype if isinstance(image, torch.Tensor) else type(image).__name__
            raise TypeError(f'image must be a PIL image or a uint8 or floating point tensor, got {what}')
        if image.ndim not in (3, 4) or 0 in image.shape:
            raise ValueError(f'image must have shape (B, C, H, W) or (C, H, W), got {tuple(image.shape)}')
        batch = image if image.ndim == 4 else image[None]
        result = self._apply_to_batch(batch, params, size, fill)
        return result if image.ndim == 4 else result[0]

    def nearest(self, params: Params, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the image pixel that each pixel of a canvas of the same size shows; positions are those of `apply`.

        Returns:
            Indices into the flattened image, int64, and whether the pixel is inside the image, bool, both of shape
            (height * width,). Outside, the index is that of an edge pixel.

        Examples:
            >>> Affine().nearest({'affine': [0, 0, 1, 0, 0, 0]}, 1, 4)
            (tensor([2, 3, 3, 3]), tensor([ True,  True, False, False]))
        """
        have = width, height
        steps = self._positions(self._values(params, 1), height, width, have, torch.device('cpu'))[0].flatten(1)
        edges = _STEPS // 2 * torch.tensor(have, dtype=torch.float32)[:, None]
        column, row = torch.minimum((steps + edges).clamp_(min=0), 2 * edges - 1).div_(_STEPS).long()
        return row * width + column, (steps.abs() <= edges).all(dim=0)

    def locate(self, places: Array, params: Params) -> Array:
        """Return the canvas positions that show given image positions: the inverse of the map.

        Both are x and y, -1 and 1 at the edges, shape (..., 2). Positions that the canvas does not show map outside of
        it.

        Examples:
            >>> Affine().locate(np.array([[0.0, 0.0], [0.5, 1.0]]), {'affine': [1, 0, 0.5, 0, 0, 0]})
            array([[-0.25,  0.  ],
                   [ 0.  ,  1.  ]])
        """
        coefficients = self._coefficients(self._values(params, 1))[0]
        invert = self._invert_projective if coefficients.shape[-1] == 2 else self._invert_numerically
        return invert(coefficients, places.reshape(-1, 2).T).T.reshape(places.shape)

    def _apply_to_pil(self, image: Image.Image, params: AnyParams, size: Size, fill: Fill) -> Image.Image:
        check_mode(image)
        height, width = _size(size, image.height, image.width)
        values = self._values(params, 1)
        if not values.any() and (width, height) == image.size:
            return image.copy()
        factors = max(1, image.width // width), max(1, image.height // height)
        if factors != (1, 1):
            # PIL takes a fifth of the time of torch, which computes the mean in floating point.
            image = image.reduce(factors)
        pixels = np.asarray(image).reshape(image.height, image.width, -1)
        kernels = numba_kernels(f'{__package__}.warp_numba')
        if kernels is None:
            channels = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
            warped = self._sample(channels, values, height, width, fill)[0].permute(1, 2, 0).numpy()
        else:
            have, cpu = (image.width, image.height), torch.device('cpu')
            lines, columns, scale = (part.numpy() for part in self._fields(values, height, width, have, cpu))
            warped = np.empty((height, width, pixels.shape[2]), np.uint8)
            color = np.rint(np.broadcast_to(_fill(fill, pixels.shape[2], bytes_only=True), pixels.shape[2:]))
            kernels.warp(pixels, lines[0], columns.T.copy(), scale, _STEP_BITS, color.astype(np.uint8), warped)
        return Image.fromarray(warped[:, :, 0] if image.mode == 'L' else np.ascontiguousarray(warped))

    def _apply_to_batch(self, batch: torch.Tensor, params: AnyParams, size: Size, fill: Fill) -> torch.Tensor:
        height, width = _size(size, *batch.shape[-2:])
        values = self._values(params, len(batch))
        same = (values == 0).all(axis=1) & (batch.shape[-2:] == (height, width))
        if same.all():
            return batch.clone()
        factors = max(1, batch.shape[-2] // height), max(1, batch.shape[-1] // width)
        pixels = batch
        if factors != (1, 1):
            # As in PIL, an incomplete last block is the mean of the pixels it has.
            precise = batch.to(_precise(batch.dtype))
            pixels = functional.avg_pool2d(precise, factors, ceil_mode=True, count_include_pad=False)
            pixels = (pixels if batch.is_floating_point() else pixels + 0.5).to(batch.dtype)
        warped = self._sample(pixels, values, height, width, fill)
        if same.any():
            # Sampling at pixel centers may change the last bit.
            index = to_device(same.nonzero()[0], batch.device)
            warped = warped.index_copy(0, index, batch[index])
        return warped

    def _sample(self, pixels: torch.Tensor, values: Array, height: int, width: int, fill: Fill) -> torch.Tensor:
        """Warp pixels (B, C, h, w) -> (B, C, height, width), for values (B, count) or (1, count)."""
        precise, device = _precise(pixels.dtype), pixels.device
        # Width and height, in the order of X and Y.
        have = pixels.shape[-1], pixels.shape[-2]
        # Positions need double precision, which MPS lacks.
        where = torch.device('cpu') if device.type == 'mps' else device
        source = self._positions(values, height, width, have, where).to(device)

        def column(*numbers: float) -> torch.Tensor:
            return to_device(torch.tensor(numbers, dtype=torch.float32), device)[:, None, None]

        edges = column(*(_STEPS // 2 * n for n in have))
        # 1 inside and 0 outside, not booleans, for which torch takes several times as long.
        inside = (source.abs() - edges).amax(dim=1, keepdim=True).le_(0).to(precise)
        # Pad to powers of 2, so that positions relative to the size are exact in torch.
        room = [1 << (n - 1).bit_length() for n in have]
        missing = [more - n for more, n in zip(room, have)]
        if any(missing):
            middles = edges - _STEPS // 2
            source = torch.minimum(torch.maximum(source, -middles), middles)
            pixels = functional.pad(pixels, (0, missing[0], 0, missing[1]))
        scale = column(*(1 / (_STEPS // 2 * more) for more in room))
        offset = column(*(n / more - 1 for n, more in zip(have, room)))
        grid = torch.addcmul(offset, source, scale)
        grid = grid.permute(0, 2, 3, 1).to(precise).expand(len(pixels), -1, -1, -1)
        warped = functional.grid_sample(pixels.to(precise), grid, padding_mode='border', align_corners=False)
        filled = torch.tensor(_fill(fill, pixels.shape[1], pixels.dtype == torch.uint8), dtype=precise)
        color = to_device(filled, device)[:, None, None]
        # Exact, since the weights are 0 and 1.
        warped = torch.lerp(color, warped, inside)
        return (warped if pixels.is_floating_point() else warped.round_()).to(pixels.dtype)

    def _positions(
        self, values: Array, height: int, width: int, have: tuple[int, int], device: torch.device
    ) -> torch.Tensor:
        """Return the image positions of pixel centers, in steps from the image center: (B, 2, height, width).

        Integers in float32, `_STEPS` per pixel. The factors have so few bits that sums and products are exact in any
        order.
        """
        lines, columns, scale = self._fields(values, height, width, have, device)
        fields = lines @ columns.T
        if fields.shape[1] == 3:
            fields = fields[:, :2] / fields[:, 2:]
        return fields.mul_(scale[:, None, None]).round_().to(torch.float32)

    def _fields(
        self, values: Array, height: int, width: int, have: tuple[int, int], device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the factors of the positions, float64.

        These are the coefficients of each row's functions of u (B, 2 or 3, height, n), the basis functions at the
        column centers (width, n), and half the width and half the height of the image in steps.
        """
        coefficients = self._coefficients(values)
        if not np.isfinite(coefficients).all():
            raise ValueError(f'params must be finite and define a map, got {values.tolist()}')
        rows, columns = (_basis_of_pixels(type(self), n, str(device)) for n in (height, width))
        lines = _keep_bits(rows @ _keep_bits(to_device(coefficients, device), 24), _BITS)
        scale = to_device(torch.tensor([_STEPS // 2 * n for n in have], dtype=torch.float64), device)
        return lines, columns, scale

    def _values(self, params: AnyParams, batch: int) -> Array:
        """Return the parameters of one record for all images, shape (1, count), or of B records, shape (B, count)."""
        if isinstance(params, np.ndarray):
            if params.shape != (batch, self.count):
                raise ValueError(f'params must have shape {(batch, self.count)}, got {params.shape}')
            return params
        records = [params] if isinstance(params, Mapping) else list(params)
        if not isinstance(params, Mapping) and len(records) != batch:
            raise ValueError(f'params must be one record or one per image, {batch}, got {len(records)}')
        for record in records:
            if not isinstance(record, Mapping) or list(record) != [self.name] or len(record[self.name]) != self.count:
                raise ValueError(f'params must be {{{self.name!r}: [{self.count} numbers]}}, got {record}')
        return np.array([record[self.name] for record in records], dtype=np.float64)

    def _invert_projective(self, coefficients: Array, places: Array) -> Array:
        """Invert an affine or projective map: image positions (2, N) -> canvas positions (2, N)."""
        matrix = np.eye(3)
        matrix[: len(coefficients)] = np.stack(
            [coefficients[:, 0, 1], coefficients[:, 1, 0], coefficients[:, 0, 0]], axis=1
        )
        x, y, below = np.linalg.solve(matrix, np.vstack([places, np.ones_like(places[:1])]))
        # Points beyond the horizon stay far away in the same direction.
        found = np.stack([x, y]) / below.clip(_HORIZON)
        low, high = self._basis(np.array([-1.0, 1.0]))[:, 1]
        return 2 * (found - low) / (high - low) - 1  # type: ignore[no-any-return]

    def _invert_numerically(self, coefficients: Array, places: Array) -> Array:
        """Invert a map by Newton's method: image positions (2, N) -> canvas positions (2, N).

        Outside of the canvas, where a map need not be one-to-one, points move with the nearest canvas point.
        """
        basis = _basis_of_corners(type(self))
        corners = torch.from_numpy((basis @ coefficients @ basis.T).reshape(2, -1).T.copy())
        parts = np.array_split(places.T, places.shape[1] // 1024 + 1)
        nearest = torch.cat([torch.cdist(torch.from_numpy(part.copy()), corners).argmin(dim=1) for part in parts])
        points = _IDENTITY_AT_CORNERS.reshape(2, -1)[:, nearest.numpy()]
        for _ in range(_MOST_STEPS):
            inside = points.clip(-1, 1)
            u, v = (self._basis(t) for t in inside)
            more_u, more_v = (self._basis(t + _DIFFERENCE) for t in inside)
            rows = v @ coefficients
            missed = (rows * u).sum(axis=2) + points - inside - places
            beyond_u, beyond_v = points != inside
            slope_u = np.where(beyond_u, [[1], [0]], (rows * (more_u - u)).sum(axis=2) / _DIFFERENCE)
            slope_v = np.where(beyond_v, [[0], [1]], ((more_v - v) @ coefficients * u).sum(axis=2) / _DIFFERENCE)
            area = slope_u[0] * slope_v[1] - slope_u[1] * slope_v[0]
            area[np.abs(area) < 1e-3] = 1e-3
            step_u = (slope_v[1] * missed[0] - slope_v[0] * missed[1]) / area
            step_v = (slope_u[0] * missed[1] - slope_u[1] * missed[0]) / area
            step = np.stack([step_u, step_v])
            points = points - step
            # Each step squares the error.
            if (np.abs(step) < 1e-4).all():
                break
        return points

    @np.errstate(all='ignore')
    def _are_valid(self, values: Array) -> npt.NDArray[np.bool_]:
        """Return which warps (B, count) are not degenerate, as defined at the top of this module."""
        basis, coefficients = _basis_of_corners(type(self)), self._coefficients(values)
        # A sixteenth of the cells first, which is enough to reject most degenerate warps.
        few = basis[_SOME_CORNERS]
        corners = _divided(few @ coefficients @ few.T)
        valid = _are_cells_valid(*(corners[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)))
        (left,) = valid.nonzero()
        fields = _divided(basis @ coefficients[left] @ basis.T)
        before, after = slice(None, -1), slice(1, None)
        good = _are_cells_valid(*(fields[:, :, i, j] for i in (before, after) for j in (before, after)))
        covered = (np.abs(fields).max(1) <= 1).sum((1, 2))
        good &= covered >= _MIN_COVERED_CORNERS * (_CELLS + 1) ** 2
        # The center of the image is on the canvas if the edge of the canvas winds around it, as it does if no point
        # moves by 1, the distance of the edge.
        far = np.abs(fields - _IDENTITY_AT_CORNERS).max((1, 2, 3)) >= 1
        if (asked := good & far).any():
            z = fields[asked, 0] + 1j * fields[asked, 1]
            edge = np.concatenate([z[:, 0, :-1], z[:, :-1, -1], z[:, -1, :0:-1], z[:, ::-1, 0]], axis=1)
            good[asked] = np.angle(edge[:, 1:] * edge[:, :-1].conj()).sum(1) > np.pi
        valid[left] = good
        return valid

    @staticmethod
    @abstractmethod
    def _basis(t: Array) -> Array:
        """Evaluate the basis functions of one coordinate at t; returns shape (len(t), n)."""

    @abstractmethod
    def _coefficients(self, values: Array) -> Array:
        """Return the coefficients of X, Y and their common divisor, if any: (B, 2 or 3, n, n), the index of v first."""

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'


class Affine(Warp):
    """Affine maps with all six parameters perturbed, like the IFS codes of 1p-frac.

    ``X = (1 + a) u + b v + e`` and ``Y = c u + (1 + d) v + f``, where a, b, e, c, d, f (the order in the record) are
    ``magnitude * U(-1, 1)``. Shifts are at most magnitude * half the image; corners move by at most three times that.

    Examples:
        >>> shift = {'affine': [0, 0, 0.5, 0, 0, 0]}
        >>> pixels = torch.arange(8.0).reshape(1, 1, 8)
        >>> Affine().apply(pixels, shift, fill=-1)
        tensor([[[ 2.,  3.,  4.,  5.,  6.,  7., -1., -1.]]])
    """

    name = 'affine'
    count = 6
    _safe = 0.14

    @staticmethod
    def _basis(t: Array) -> Array:
        return np.stack([np.ones_like(t), t], axis=1)

    def _coefficients(self, values: Array) -> Array:
        result = np.zeros((len(values), 2, 2, 2))
        a, b, e, c, d, f = values.T
        result[:, 0, 0, 0], result[:, 0, 0, 1], result[:, 0, 1, 0] = e, 1 + a, b
        result[:, 1, 0, 0], result[:, 1, 0, 1], result[:, 1, 1, 0] = f, c, 1 + d
        return result


class Homography(Warp):
    """Projective maps: the corners of the canvas are displaced, and straight lines stay straight.

    The corner (-1, -1) shows the image at (-1 + dx, -1 + dy), and so on. The record is dx, dy of the top left, top
    right, bottom right and bottom left corner, each ``magnitude * U(-1, 1)``: at most magnitude * half the image.

    Examples:
        >>> Homography().make_params(np.random.default_rng(0), 0.0)
        {'homography': [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]}
    """

    name = 'homography'
    count = 8
    _safe = 0.2

    @staticmethod
    def _basis(t: Array) -> Array:
        # From 0 to 1: the map from the unit square to a quadrilateral has a simple closed form.
        return np.stack([np.ones_like(t), (t + 1) / 2], axis=1)

    @np.errstate(all='ignore')
    def _coefficients(self, values: Array) -> Array:
        # Heckbert, "Fundamentals of Texture Mapping and Image Warping" (1989), section 2.2.3.
        corners = values.reshape(-1, 4, 2) + np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
        p0, p1, p2, p3 = (corners[:, i].T for i in range(4))
        d1, d2, total = p1 - p2, p3 - p2, p0 - p1 + p2 - p3
        determinant = d1[0] * d2[1] - d2[0] * d1[1]
        g = (total[0] * d2[1] - d2[0] * total[1]) / determinant
        h = (d1[0] * total[1] - total[0] * d1[1]) / determinant
        result = np.zeros((len(values), 3, 2, 2))
        result[:, :2, 0, 0] = p0.T
        result[:, :2, 0, 1] = (p1 - p0 + g * p1).T
        result[:, :2, 1, 0] = (p3 - p0 + h * p3).T
        result[:, 2, 0, 0], result[:, 2, 0, 1], result[:, 2, 1, 0] = 1, g, h
        return result


class Elastic(Warp):
    """Smooth local displacements: a cubic B-spline on a lattice of 8 x 8 control points (free-form deformation).

    ``X = u + sum over i, j of dx[i, j] B_i(v) B_j(u)``, and Y alike, with B_i the uniform cubic B-spline around
    ``-1.4 + 0.4 i``. Every control point moves by ``magnitude * U(-1, 1)`` in x and y, so no point moves farther than
    magnitude * half the image; the mean is a third of that. The record is dx, row by row from the top, then dy. Above a
    magnitude of about 0.3, more and more warps are shrunk to avoid folds; above 0.5, warps do not get stronger.

    Examples:
        >>> params = Elastic().make_params(np.random.default_rng(0), 0.3)
        >>> Elastic().apply(Image.linear_gradient('L'), params).size
        (256, 256)
    """

    name = 'elastic'
    count = 128
    _safe = 0.1

    _POINTS: ClassVar[int] = 8
    _SPACING: ClassVar[float] = 0.4

    _PLACES: ClassVar[Array] = _SPACING * (np.arange(_POINTS, dtype=np.float64) - (_POINTS - 1) / 2)
    # The spline with undisplaced control points is the identity.
    _IDENTITY: ClassVar[Array] = np.stack(np.meshgrid(_PLACES, _PLACES))

    @staticmethod
    def _basis(t: Array) -> Array:
        x = np.abs(t[:, None] - Elastic._PLACES) / Elastic._SPACING
        near, far = 2 / 3 - x * x * (1 - x / 2), np.maximum(2 - x, 0) ** 3 / 6
        result: Array = np.where(x < 1, near, far)
        return result

    def _coefficients(self, values: Array) -> Array:
        return values.reshape(-1, *self._IDENTITY.shape) + self._IDENTITY


class Polynomial(Warp):
    """Polynomial maps of degree 3: bends and bulges of the whole image.

    ``X = u + sum over i + j <= 3 of p[i, j] v^i u^j``, and Y alike with q, each of the twenty coefficients
    ``magnitude * U(-1, 1) / 2``. No point moves farther than 5 * magnitude * half the image; in x and y, 0.3 *
    magnitude is typical of the center and 0.9 * magnitude of the corners. The record is p, with j varying fastest, then
    q. Above a magnitude of about 0.3, more and more warps are shrunk.

    Examples:
        >>> Polynomial().make_params(np.random.default_rng(0), 0.1)['polynomial'][:3]
        [0.013696, -0.023021, -0.045903]
    """

    name = 'polynomial'
    count = 20
    scale = 0.5
    _safe = 0.05

    _ROWS: ClassVar[list[int]] = [i for i in range(4) for _ in range(4 - i)]
    _COLUMNS: ClassVar[list[int]] = [j for i in range(4) for j in range(4 - i)]

    @staticmethod
    def _basis(t: Array) -> Array:
        return np.stack([np.ones_like(t), t, t * t, t * t * t], axis=1)

    def _coefficients(self, values: Array) -> Array:
        result = np.zeros((len(values), 2, 4, 4))
        result[:, :, self._ROWS, self._COLUMNS] = values.reshape(-1, 2, 10)
        result[:, 0, 0, 1] += 1
        result[:, 1, 1, 0] += 1
        return result


#: Warps by name.
WARPS: dict[str, Warp] = {warp.name: warp for warp in (Affine(), Homography(), Elastic(), Polynomial())}


@functools.lru_cache(maxsize=1024)
def _basis_of_pixels(warp: type[Warp], count: int, device: str) -> torch.Tensor:
    """Evaluate the basis functions at the centers of ``count`` pixels; returns shape (count, n)."""
    basis = torch.from_numpy(warp._basis((2 * np.arange(count) + 1) / count - 1))
    return _keep_bits(basis, _BITS).to(device)


def _keep_bits(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Round to ``bits`` binary places."""
    return torch.round(values * 2.0**bits) / 2.0**bits


@functools.cache
def _basis_of_corners(warp: type[Warp]) -> Array:
    return warp._basis(_CORNERS)


def _divided(fields: Array) -> Array:
    """Divide X and Y by their divisor, if any; NaN where it is not positive: where it changes sign, maps diverge."""
    if fields.shape[1] == 2:
        return fields
    return fields[:, :2] / np.where(fields[:, 2:] > 0, fields[:, 2:], np.nan)


def _are_cells_valid(top_left: Array, top_right: Array, low_left: Array, low_right: Array) -> npt.NDArray[np.bool_]:
    """Return for which maps no cell is torn, smeared or mirrored.

    The arguments are the images of the cells' corners, each of shape (B, 2, rows, columns).
    """
    # The diagonals of a cell are orthogonal and 8**0.5 / _CELLS long; the map's derivative takes them to those of the
    # cell's image.
    down, up = low_right - top_left, top_right - low_left
    area = up[:, 0] * down[:, 1] - up[:, 1] * down[:, 0]
    # Both singular values s, t of the derivative are at least m if s t >= m^2 and (s^2 - m^2) (t^2 - m^2) >= 0.
    # The area is negative where the image is mirrored.
    least = _MIN_LENGTH**2 * 8 / _CELLS**2
    squares = np.einsum('bxij,bxij->bij', up, up) + np.einsum('bxij,bxij->bij', down, down)
    valid = (area >= least) & (area * area + least * least >= least * squares)
    return valid.all((1, 2))  # type: ignore[no-any-return]


def _size(size: Size, height: int, width: int) -> tuple[int, int]:
    if size is None:
        return height, width
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(isinstance(n, int) and n >= 1 for n in pair):
        raise ValueError(f'size must be an integer of at least 1, or two of them, height and width, got {size!r}')
    return pair


def _precise(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype to compute in."""
    return torch.promote_types(dtype, torch.float32) if dtype.is_floating_point else torch.float32


def _fill(fill: Fill, channels: int, bytes_only: bool) -> list[float]:
    """Return one value for all channels, or one per channel."""
    values = [float(fill)] if isinstance(fill, (int, float)) else [float(value) for value in fill]
    if channels == 1 and len(values) == 3:
        values = [0.299 * values[0] + 0.587 * values[1] + 0.114 * values[2]]
    if len(values) not in (1, channels) or not all(map(math.isfinite, values)):
        raise ValueError(f'fill must be one finite number or one for each of {channels} channels, got {fill!r}')
    if bytes_only and not all(0 <= value <= 255 for value in values):
        raise ValueError(f'fill must be at least 0 and at most 255 for uint8 images, got {fill!r}')
    return values


def check_magnitude(magnitude: float) -> None:
    """Refuse a magnitude out of range."""
    if not 0 <= magnitude <= MAX_MAGNITUDE:
        raise ValueError(f'magnitude must be at least 0 and at most {MAX_MAGNITUDE:g}, got {magnitude}')


def check_mode(image: Image.Image) -> None:
    """Refuse modes other than L and RGB."""
    if image.mode not in _MODES:
        raise ValueError(f"image must have mode L or RGB, got {image.mode!r}: convert it with image.convert('RGB')")
