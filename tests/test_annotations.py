"""Masks, boxes and points in `RandomShape`, against torchvision and the definitions of the maps."""

import math
import pickle

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from tests.test_shape import NAMES, ORACLES, ROUNDING, draw
from timm_fractal.shape import WARPS, RandomShape, annotations
from timm_fractal.shape.annotations import warp_boxes, warp_mask, warp_points

SIZE = HEIGHT, WIDTH = 120, 160
HALF = np.array([WIDTH, HEIGHT]) / 2
needs_key_points = pytest.mark.skipif(not hasattr(tv_tensors, 'KeyPoints'), reason='torchvision before 0.23')
needs_rotated_boxes = pytest.mark.skipif(
    'XYXYXYXY' not in tv_tensors.BoundingBoxFormat.__members__, reason='torchvision before 0.23'
)

BOXES = torch.tensor([[20.0, 30, 60, 80], [70, 10, 150, 50], [100, 60, 101, 118], [0, 0, 160, 120], [40, 40, 40, 40]])
POINTS = torch.tensor([[[20.0, 30], [80, 60], [100.5, 7]], [[33, 100], [140, 90], [81, 62]]])
LABELS = torch.from_numpy(np.random.default_rng(0).integers(0, 9, (2, HEIGHT // 8, WIDTH // 8))).repeat_interleave(8, 1)
MASKS = LABELS.repeat_interleave(8, 2)


def boxes_of(data=BOXES, form='XYXY', **more):
    return tv_tensors.BoundingBoxes(data, format=form, canvas_size=SIZE, **more)


def converted(boxes, form):
    return functional.convert_bounding_box_format(boxes, new_format=tv_tensors.BoundingBoxFormat[form])


def shown(name, params, points):
    """Return the image positions, in pixels, shown at points of the canvas, by the definition of the map."""
    places = [ORACLES[name](params[name], *(point / HALF - 1)) for point in np.asarray(points).reshape(-1, 2)]
    return (np.array(places).reshape(np.shape(points)) + 1) * HALF


def field(name, params, finer=1):
    """Return the image positions of the centers of canvas pixels, or of parts of them, as used for images."""
    warp = WARPS[name]
    steps = warp._positions(warp._values(params, 1), finer * HEIGHT, finer * WIDTH, SIZE[::-1], torch.device('cpu'))
    return steps[0].permute(1, 2, 0).numpy() / 64 + HALF


def fixed(monkeypatch, name, params, **options):
    """Return a `RandomShape` with fixed parameters."""
    monkeypatch.setattr(type(WARPS[name]), 'make_params', lambda self, rng, magnitude: params)
    return RandomShape(name, **options)


def agree(ours, theirs):
    """Check equality, except for positions between two pixels, which may be rounded either way."""
    assert type(ours) is type(theirs) and ours.dtype == theirs.dtype and ours.shape == theirs.shape
    assert (ours != theirs).float().mean() < 0.01


# Against torchvision, where it has the same operation.


def affine_record(angle, shift, scale):
    """Convert torchvision's parameters, which map the image to the canvas, about the center, in pixels."""
    turn = math.radians(angle)
    back = np.linalg.inv(scale * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]))
    matrix, offset = back * HALF / HALF[:, None] - np.eye(2), -back @ shift / HALF
    return {'affine': [*matrix[0], offset[0], *matrix[1], offset[1]]}


AFFINE = ((15.0, [10, -5], 1.1), (-70.0, [0, 3], 0.8), (0.0, [100, 40], 1.0))


@pytest.mark.parametrize('angle, shift, scale', AFFINE)
def test_affine_is_that_of_torchvision(monkeypatch, angle, shift, scale):
    transform = fixed(monkeypatch, 'affine', affine_record(angle, shift, scale), mask_fill=3)
    arguments = dict(angle=angle, translate=shift, scale=scale, shear=[0.0, 0.0])
    mask, boxes = transform(tv_tensors.Mask(MASKS), boxes_of())
    agree(mask, functional.affine(tv_tensors.Mask(MASKS), **arguments, fill=3))
    torch.testing.assert_close(boxes, functional.affine(boxes_of(), **arguments), rtol=0, atol=1e-3)
    if hasattr(tv_tensors, 'KeyPoints'):
        points = tv_tensors.KeyPoints(POINTS, canvas_size=SIZE)
        torch.testing.assert_close(transform(points), functional.affine(points, **arguments), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    'places', [[[10, -6], [150, 5], [165, 110], [-9, 130]], [[-30, 0], [160, 20], [120, 120], [20, 90]]]
)
def test_homography_is_that_of_torchvision(monkeypatch, places):
    corners = [[0, 0], [WIDTH, 0], [WIDTH, HEIGHT], [0, HEIGHT]]
    moved = ((np.array(places) - corners) / HALF).flatten().tolist()
    transform = fixed(monkeypatch, 'homography', {'homography': moved})
    arguments = dict(startpoints=places, endpoints=corners)
    mask, boxes = transform(tv_tensors.Mask(MASKS), boxes_of())
    agree(mask, functional.perspective(tv_tensors.Mask(MASKS), **arguments, fill=0))
    torch.testing.assert_close(boxes, functional.perspective(boxes_of(), **arguments), rtol=0, atol=0.01)
    if hasattr(tv_tensors, 'KeyPoints'):
        points = tv_tensors.KeyPoints(POINTS, canvas_size=SIZE)
        torch.testing.assert_close(transform(points), functional.perspective(points, **arguments), rtol=0, atol=0.01)


@pytest.mark.parametrize('name', ['elastic', 'polynomial'])
def test_smooth_fields_are_those_of_torchvision(monkeypatch, name):
    """torchvision applies the inverse displacement to boxes and points, which is only close for weak warps."""
    middles = np.stack(np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5), axis=-1)

    def displacement(params):
        return torch.from_numpy((field(name, params) - middles) / HALF)[None].float()

    strong, weak = draw(name, 0.3, 1), draw(name, 0.03, 1)
    mask = fixed(monkeypatch, name, strong, mask_fill=3)(tv_tensors.Mask(MASKS))
    agree(mask, functional.elastic(tv_tensors.Mask(MASKS), displacement(strong), fill=3))
    boxes = fixed(monkeypatch, name, weak)(boxes_of(BOXES[:3]))
    theirs = functional.elastic(boxes_of(BOXES[:3]), displacement(weak))
    torch.testing.assert_close(boxes, theirs, rtol=0, atol=1.5)
    if hasattr(tv_tensors, 'KeyPoints'):
        points = tv_tensors.KeyPoints(POINTS, canvas_size=SIZE)
        theirs = functional.elastic(points, displacement(weak))
        torch.testing.assert_close(RandomShape(name)(points), theirs, rtol=0, atol=1)


# Against the definitions of the maps.


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('magnitude', [0.1, 1.0])
def test_points_go_back_to_where_they_came_from(name, magnitude):
    rng = np.random.default_rng(3)
    for seed in range(4):
        params = draw(name, magnitude, seed)
        canvas = rng.uniform([0, 0], [WIDTH, HEIGHT], (20, 2))
        found = warp_points(WARPS[name], torch.from_numpy(shown(name, params, canvas)), params, SIZE)
        np.testing.assert_allclose(found, canvas, rtol=0, atol=1e-5)
        anywhere = rng.uniform([-0.3 * WIDTH, -0.3 * HEIGHT], [1.3 * WIDTH, 1.3 * HEIGHT], (60, 2))
        found = warp_points(WARPS[name], torch.from_numpy(anywhere), params, SIZE).numpy()
        assert np.isfinite(found).all()
        on_canvas = ((found >= 0) & (found <= (WIDTH, HEIGHT))).all(axis=1)
        np.testing.assert_allclose(shown(name, params, found[on_canvas]), anywhere[on_canvas], rtol=0, atol=1e-4)


def test_places_behind_the_horizon_stay_outside():
    """The left half of the image is compressed, with its vanishing point left of the image."""
    params = {'homography': [0.4, 0.4, 0.0, -0.6, 0.0, 0.6, 0.4, -0.4]}
    x = torch.tensor([[100.0, 60], [20, 60], [-100, 60], [-400, 60], [-4000, 60], [-4000, 4060]])
    found = warp_points(WARPS['homography'], x, params, SIZE)
    assert found[0, 0] > 0 and (found[1:].diff(dim=0)[:3, 0] <= 0).all() and (found[2:, 0] < 0).all()


@pytest.mark.parametrize('name', NAMES)
def test_masks_show_the_nearest_pixel(name):
    height, width = 19, 26
    mask = torch.arange(height * width).reshape(height, width)
    params = draw(name, 0.4, 2)
    got = warp_mask(WARPS[name], mask, params, -7).numpy()
    compared = 0
    for r in range(height):
        for c in range(width):
            x, y = ORACLES[name](params[name], (2 * c + 1) / width - 1, (2 * r + 1) / height - 1)
            column, row = (x + 1) / 2 * width, (y + 1) / 2 * height
            if min(abs(place - round(place)) for place in (column, row)) < ROUNDING:
                continue
            inside = 0 <= column < width and 0 <= row < height
            assert got[r, c] == (mask[int(row), int(column)] if inside else -7)
            compared += 1
    assert compared > 0.9 * mask.numel()


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('magnitude', [0.1, 0.5, 1.0])
def test_boxes_are_around_the_warped_outline(name, magnitude, monkeypatch):
    """The canvas is searched for the box at four positions per pixel."""
    params = draw(name, magnitude, 4)
    rows, columns = np.mgrid[0:HEIGHT:0.5, 0:WIDTH:0.5]
    canvas = np.stack([columns, rows], axis=-1) + 0.25
    places = field(name, params, finer=2)
    for box, got in zip(BOXES[:3], fixed(monkeypatch, name, params)(boxes_of())):
        inside = ((places >= box[:2].numpy()) & (places <= box[2:].numpy())).all(axis=-1)
        x0, y0, x1, y1 = got.tolist()
        assert 0 <= x0 <= x1 <= WIDTH and 0 <= y0 <= y1 <= HEIGHT
        if inside.any():
            seen = np.concatenate([canvas[inside].min(axis=0), canvas[inside].max(axis=0)])
            whole = warp_points(WARPS[name], box[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2), params, SIZE).numpy()
            if ((whole > 0) & (whole < (WIDTH, HEIGHT))).all():
                # Few positions show a thin box.
                np.testing.assert_allclose(got, seen, rtol=0, atol=2.5)
            assert x0 <= seen[0] + 0.3 and y0 <= seen[1] + 0.3 and x1 >= seen[2] - 0.3 and y1 >= seen[3] - 0.3


@needs_key_points
@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('magnitude', [0.1, 0.3, 0.6])
def test_a_point_stays_on_its_disc(name, magnitude):
    size, compared = 256, 0
    for seed in range(6):
        place = np.random.default_rng(seed).uniform(90, 166, 2)
        rows, columns = np.mgrid[0.5:size, 0.5:size]
        disc = torch.from_numpy(np.hypot(columns - place[0], rows - place[1]) < 6).float()[None]
        torch.manual_seed(seed)
        points = tv_tensors.KeyPoints(torch.tensor(place[None]).float(), canvas_size=(size, size))
        image, points = RandomShape(name, magnitude)(tv_tensors.Image(disc), points)
        x, y = points[0].tolist()
        if not 20 < min(x, y) <= max(x, y) < size - 20:
            continue
        weights = image[0].numpy() / image.sum().item()
        assert math.hypot((weights * columns).sum() - x, (weights * rows).sum() - y) < 1
        compared += 1
    assert compared >= 3


# Formats, shapes and types.


@pytest.mark.parametrize('name', NAMES)
def test_every_format_gives_the_same_box(name):
    params = draw(name, 0.3, 5)
    expected = warp_boxes(WARPS[name], boxes_of(), params)
    for form in ('XYXY', 'XYWH', 'CXCYWH'):
        boxes = warp_boxes(WARPS[name], converted(boxes_of(), form), params)
        assert boxes.format.value == form and boxes.canvas_size == SIZE
        torch.testing.assert_close(converted(boxes, 'XYXY'), expected, rtol=0, atol=1e-3)
        whole = warp_boxes(WARPS[name], converted(boxes_of(BOXES.int()), form), params)
        assert whole.dtype == torch.int32 and (converted(whole, 'XYXY') - expected).abs().max() <= 1.5
        half = warp_boxes(WARPS[name], converted(boxes_of(BOXES.half()), form), params)
        assert half.dtype == torch.float16 and (converted(half, 'XYXY') - expected).abs().max() <= 0.3


@needs_rotated_boxes
@pytest.mark.parametrize('form', ['CXCYWHR', 'XYWHR', 'XYXYXYXY'])
def test_rotated_boxes(form):
    boxes = converted(boxes_of([[80.0, 60, 50, 20, 20], [70, 50, 10, 40, -70], [75, 60, 30, 30, 0]], 'CXCYWHR'), form)
    for angle, shift, scale in AFFINE:
        ours = warp_boxes(WARPS['affine'], boxes, affine_record(angle, shift, scale))
        theirs = functional.affine(boxes, angle, shift, scale, [0.0, 0.0])
        torch.testing.assert_close(converted(ours, 'XYXYXYXY'), converted(theirs, 'XYXYXYXY'), rtol=0, atol=1e-3)
    # A sheared stick is a stick, whichever side is longer.
    sticks = converted(boxes_of([[80.0, 60, 90, 2, 0], [80, 60, 2, 90, 0]], 'CXCYWHR'), form)
    for shear in ([0, 0.3, 0, 0, 0, 0], [0, 0, 0, 0.3, 0, 0]):
        moved = converted(warp_boxes(WARPS['affine'], sticks, {'affine': shear}), 'CXCYWHR')
        assert moved[0, 3] < 5 and moved[1, 2] < 5
    for name in NAMES:
        params = draw(name, 0.2, 6)
        corners = converted(warp_boxes(WARPS[name], boxes, params), 'XYXYXYXY').reshape(-1, 4, 1, 2)
        outline = converted(boxes, 'XYXYXYXY').as_subclass(torch.Tensor).reshape(-1, 4, 1, 2)
        steps = torch.linspace(0, 1, 50)[:, None]
        moved = warp_points(WARPS[name], torch.lerp(outline, outline.roll(-1, 1), steps), params, SIZE)
        # No point is right of a side, and each side touches one.
        side = (corners.roll(-1, 1) - corners).as_subclass(torch.Tensor)
        side = side / side.norm(dim=-1, keepdim=True)
        off = moved.reshape(len(moved), 1, -1, 2) - corners.as_subclass(torch.Tensor)
        depth = (side[..., 0] * off[..., 1] - side[..., 1] * off[..., 0]).amin(dim=2)
        assert depth.abs().max() < 0.05, name


@pytest.mark.parametrize('name', NAMES)
def test_nothing_annotated(name):
    transform = RandomShape(name, 0.3)
    boxes = boxes_of(torch.zeros(0, 4), 'CXCYWH')
    image, got, masks = transform(Image.new('L', SIZE[::-1]), boxes, tv_tensors.Mask(torch.zeros(0, *SIZE)))
    assert got.shape == (0, 4) and got.format == boxes.format and masks.shape == (0, *SIZE)
    if hasattr(tv_tensors, 'KeyPoints'):
        points = tv_tensors.KeyPoints(torch.zeros(0, 17, 2), canvas_size=SIZE)
        assert transform(points).shape == (0, 17, 2)
        rotated = boxes_of(torch.zeros(0, 5), 'XYWHR')
        assert transform(rotated).shape == (0, 5)


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('dtype', [torch.uint8, torch.int64, torch.bool, torch.float32, torch.float64, torch.bfloat16])
def test_masks_keep_their_values(name, dtype):
    masks, params = MASKS.to(dtype), draw(name, 0.4, 7)
    got = warp_mask(WARPS[name], masks, params, 0)
    assert got.dtype == dtype and torch.equal(got, warp_mask(WARPS[name], MASKS, params, 0).to(dtype))
    many = torch.stack([masks, masks.flip(0), masks])
    assert torch.equal(warp_mask(WARPS[name], many, params, 1)[1, 0], warp_mask(WARPS[name], masks[1], params, 1))
    mask = tv_tensors.Mask(masks)
    torch.manual_seed(0)
    assert torch.equal(RandomShape(name, 0)(mask), masks)


def test_what_masks_are_filled_with():
    away = {'affine': [0, 0, 2, 0, 0, 0]}
    for dtype, fill in ((torch.uint8, 255), (torch.bool, True), (torch.int64, -100), (torch.float32, 0.5)):
        got = warp_mask(WARPS['affine'], torch.zeros(2, 5, 5, dtype=dtype), away, fill)
        assert torch.equal(got, torch.full((2, 5, 5), fill, dtype=dtype))
    for dtype, fill in ((torch.uint8, -1), (torch.uint8, 256), (torch.bool, 255), (torch.int64, 0.5)):
        with pytest.raises(
            ValueError, match=f'mask_fill must be representable in the dtype of the mask, {dtype}, got {fill}'
        ):
            warp_mask(WARPS['affine'], torch.zeros(2, 5, 5, dtype=dtype), away, fill)
    for fill in (math.nan, math.inf, (1, 2), '0'):
        with pytest.raises(ValueError, match='mask_fill must be one finite number'):
            RandomShape(mask_fill=fill)


@needs_key_points
def test_points_of_every_shape():
    params = draw('elastic', 0.3, 8)
    flat = warp_points(WARPS['elastic'], POINTS.reshape(-1, 2), params, SIZE)
    assert torch.equal(warp_points(WARPS['elastic'], POINTS, params, SIZE), flat.reshape(POINTS.shape))
    whole = warp_points(WARPS['elastic'], POINTS.long(), params, SIZE)
    assert whole.dtype == torch.int64 and (whole - flat.reshape(POINTS.shape)).abs().max() <= 1.1
    # A joint without annotation.
    missing = POINTS.clone()
    missing[0, 1] = math.nan
    got = warp_points(WARPS['elastic'], missing, params, SIZE)
    assert got[0, 1].isnan().all() and torch.equal(got[1], flat.reshape(POINTS.shape)[1])


def test_points_of_many_are_those_of_one():
    many = torch.rand(3000, 2, dtype=torch.float64) * torch.tensor([WIDTH, HEIGHT])
    params = draw('polynomial', 0.5, 9)
    together = warp_points(WARPS['polynomial'], many, params, SIZE)
    alone = torch.stack([warp_points(WARPS['polynomial'], point, params, SIZE) for point in many[::300]])
    torch.testing.assert_close(together[::300], alone, rtol=0, atol=1e-6)


def test_boxes_that_leave_and_boxes_that_are_not_clamped():
    half_out = {'affine': [0, 0, -0.75, 0, 0, 0]}
    assert warp_boxes(WARPS['affine'], boxes_of(), half_out).tolist()[:2] == [[80, 30, 120, 80], [130, 10, 160, 50]]
    away = warp_boxes(WARPS['affine'], boxes_of(), {'affine': [0, 0, 2, 0, 0, 0]})
    assert (away[:, 0] == 0).all() and (away[:, 2] == 0).all()
    if hasattr(boxes_of(), 'clamping_mode'):
        free = warp_boxes(WARPS['affine'], boxes_of(clamping_mode=None), half_out)
        assert free[1].tolist() == [130, 10, 210, 50] and free.clamping_mode is None


# Samples.


def sample():
    image = Image.new('RGB', SIZE[::-1])
    ImageDraw.Draw(image).rectangle((40, 30, 99, 79), (255, 255, 255))
    mask = torch.from_numpy(np.asarray(image)[..., 0] > 0)
    return image, {
        'masks': tv_tensors.Mask(mask[None]),
        'boxes': boxes_of([[40, 30, 60, 50]], 'XYWH', dtype=torch.float32),
        'labels': torch.tensor([7]),
        'more': ['cat.jpg', 3, None, (tv_tensors.Image(mask[None].float()), torch.rand(4, 4))],
    }


@pytest.mark.parametrize('name', NAMES)
def test_one_geometry_for_all_parts_of_a_sample(name):
    before, target = sample()
    transform = pickle.loads(pickle.dumps(v2.Compose([RandomShape(name, 0.2), v2.SanitizeBoundingBoxes()])))
    torch.manual_seed(1)
    image, after = transform(before, target)
    assert isinstance(image, Image.Image) and list(after) == list(target)
    mask = after['masks'][0].numpy()
    gray = np.asarray(image)[..., 0].astype(float)
    other, plain = after['more'][3]
    assert np.abs(other[0].numpy() * 255 - gray).max() < 1
    assert not np.array_equal(mask, target['masks'][0]) and mask.any()
    # Where all neighbors are white or black, so is the mask.
    assert mask[gray == 255].all() and not mask[gray == 0].any()
    rows, columns = mask.nonzero()
    seen = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    np.testing.assert_allclose(converted(after['boxes'], 'XYXY')[0], seen, rtol=0, atol=1)
    assert after['labels'] == 7 and plain is target['more'][3][1]
    assert after['more'][:3] == ['cat.jpg', 3, None]


def test_plain_tensors_follow_the_rule_of_torchvision():
    first, second = torch.rand(3, 16, 16), torch.rand(3, 16, 16)
    mask = tv_tensors.Mask(torch.ones(16, 16, dtype=torch.uint8))
    torch.manual_seed(0)
    got = RandomShape('affine', 0.5)({'a': first, 'b': second, 'mask': mask, 'n': 4, 's': 'x'})
    assert not torch.equal(got['a'], first) and got['b'] is second and (got['n'], got['s']) == (4, 'x')
    # White shows where the canvas shows the image.
    assert torch.equal(got['mask'].bool(), got['a'].sum(dim=0) > 0)
    got = RandomShape('affine', 0.5)(first, tv_tensors.Image(second))
    assert got[0] is first and not torch.equal(got[1], second)


def test_a_pair_for_segmentation():
    image, _ = sample()
    pair = tv_tensors.Image(image), tv_tensors.Mask(Image.new('P', image.size, 5))
    torch.manual_seed(2)
    got = RandomShape('homography', 0.4, fill=90, mask_fill=255)(*pair)
    assert [type(part) for part in got] == [tv_tensors.Image, tv_tensors.Mask]
    assert got[1].dtype == torch.uint8 and set(got[1].unique().tolist()) == {5, 255}
    outside = (got[1][0] == 255).numpy()
    assert (got[0][:, outside] == 90).all()
    assert RandomShape(p=0)(*pair)[1] is pair[1]


def test_tv_tensors_of_others_pass():
    class Depth(tv_tensors.TVTensor):
        pass

    depth = torch.rand(4, 4).as_subclass(Depth)
    assert RandomShape(magnitude=1)(torch.rand(1, 4, 4), depth)[1] is depth


def test_the_outline_is_dense_enough(monkeypatch):
    """The claim in docs/shape.md, for 512 pixels."""
    boxes = tv_tensors.BoundingBoxes(4 * BOXES[:3], format='XYXY', canvas_size=(512, 640))
    for name in ('elastic', 'polynomial'):
        params = draw(name, 0.3, 1)
        coarse = warp_boxes(WARPS[name], boxes, params)
        with monkeypatch.context() as patch:
            patch.setattr(annotations, '_PER_SIDE', 256)
            fine = warp_boxes(WARPS[name], boxes, params)
        assert (fine - coarse).abs().max() < 0.5
