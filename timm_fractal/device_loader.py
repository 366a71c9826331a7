"""Data loading and augmentation on the device, behind timm's loader interface.

All images are on the device in stored form, fractals bit-packed (33 MB for 1,000 classes). A batch is a list of image
numbers: there are no worker processes and no PIL images, and only parameters are copied. Several batches are augmented
at once (a mega-batch), which takes hardly longer than a single one.
"""

import inspect
import itertools
import logging
import math
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import BatchSampler, DistributedSampler, Sampler, SequentialSampler, Subset

from ._timm_private import find
from ._utils import device as _device
from ._utils.device import Batch, Upload, prefetch, to_device
from ._utils.indices import check_indices
from .augment.batch import record_output
from .augment.erasing import Erase, EraseParams
from .augment.mixup import Mix, MixParams, check_even
from .augment.policy import refuse
from .augment.reference import unpack as unpack_bits
from .augment.transforms import Evaluate, Train, create_augment, normalize
from .data.base import SyntheticDataset
from .fractal.canvas import unpack

_logger = logging.getLogger(__name__)

# Images per mega-batch, which consists of at least one batch. On the CPU they should fit into the cache; on a GPU more
# images take hardly longer, as long as they fit into memory.
_AT_ONCE = {'cpu': 32}
_AT_ONCE_GPU = 2048
_BYTES_AT_ONCE = 2**29
# Enough images to sample crops and operations of all kinds.
_COMPILED_WITH = 64

# Arguments of timm's factory about worker processes, which are ignored.
_IGNORED = frozenset(
    {'num_workers', 'pin_memory', 'persistent_workers', 'worker_seeding', 'use_prefetcher', 'use_multi_epochs_loader'}
)
# Options of train.py for arguments that are not supported.
_REFUSED = {'re_split': '--resplit', 'num_aug_splits': '--aug-splits', 'tf_preprocessing': '--tf-preprocessing'}
# Arguments about batches of varying size, and their names in timm's sampler.
_SCHEDULE_OPTIONS = {
    'batch_size_choices': 'batch_sizes',
    'batch_choice_weights': 'choice_weights',
    'batch_choice_seed': 'seed',
    'batch_choice_schedule': 'choice_schedule',
    'batch_schedule_epochs': 'schedule_epochs',
    'batch_schedule_spread': 'schedule_spread',
    'batch_schedule_random_mix': 'schedule_random_mix',
    'num_batches': 'num_batches',
}


class ShuffleSampler(Sampler[int]):
    """Shuffles all samples; the order depends only on seed and epoch, so a resumed run sees the same one.

    Examples:
        >>> sampler = ShuffleSampler(range(5), seed=1)
        >>> first = list(sampler)
        >>> sampler.set_epoch(1)
        >>> sorted(sampler) == sorted(first), list(sampler) == first
        (True, False)
    """

    def __init__(self, dataset: Sized, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines the order."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        yield from torch.randperm(len(self.dataset), generator=_generator(self.seed, self.epoch)).tolist()

    def __len__(self) -> int:
        return len(self.dataset)


def _generator(*key: int) -> torch.Generator:
    seed = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed & np.uint64(2**63 - 1)))


class DeviceLoader:
    """Loader that timm's ``create_loader`` returns for a data set with ``loader=device`` in its name.

    It has the interface of timm's ``PrefetchLoader``: a length, ``dataset``, ``sampler``, ``batch_sampler`` and
    ``mixup_enabled``. It yields normalized images (B, channels, H, W) and labels (B,) or mixed targets (B, classes) on
    the device.

    Parameters depend on ``seed``, the epoch, and the number of previous passes over that epoch. The epoch is the
    sampler's, see ``set_epoch``; if it is never set, only the passes matter.

    Args:
        dataset: The images; all of them are copied to the device.
        augments: The transforms; with several, the batch sampler chooses one for each batch.
        batch_sampler: Yields batches of sample indices, or of pairs of a sample index and the index of a transform.
        mean: For `normalize`, one per channel.
        std: For `normalize`.
        device: Device of the images and all computation.
        img_dtype: Floating-point type of the images.
        mix: Mixup and cutmix, or None.
        erase: Random erasing, or None.
        seed: The seed of the run.
        redraw: Whether training samples are rendered anew, with fresh noise in every batch; for `Fractal1`.

    Raises:
        ValueError: The data set transforms its labels, has only some of its images, or images with other channels.

    Examples:
        >>> from timm_fractal import Fractal1
        >>> dataset = Fractal1('fractal1/classes=10,size=64,points=5000')
        >>> loader = create_device_loader(dataset, 32, batch_size=4, is_training=True, device='cpu')
        >>> images, labels = next(iter(loader))
        >>> len(loader), images.shape, labels.dtype
        (2, torch.Size([4, 3, 32, 32]), torch.int64)
    """

    def __init__(
        self,
        dataset: SyntheticDataset | Subset[Any],
        augments: Sequence[Train | Evaluate],
        batch_sampler: Any,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        img_dtype: torch.dtype = torch.float32,
        mix: Mix | None = None,
        erase: Erase | None = None,
        seed: int = 0,
        redraw: bool = False,
    ) -> None:
        self.dataset = dataset
        self._images, self._indices = unwrap(dataset)
        images = self._images
        if images.target_transform is not None:
            refuse('target_transform', images.target_transform, 'only None is')
        if images.only is not None:
            refuse('only', images.only, 'only None is: use a Subset of all images')
        self.augments = tuple(augments)
        self.batch_sampler = batch_sampler
        self.mean, self.std = mean, std
        self.device = device
        self.img_dtype = img_dtype
        self.mix = mix
        self.erase = erase
        self.seed = seed
        #: All images: (images, rows, row bytes) if bit-packed, else (images, C, H, W); None with redraw.
        self._table: Any = None if redraw else _table(images, device)
        room = 0 if self._table is None else self._table.numel()
        _logger.info(
            '%s, %s split: device loader on %s, %s',
            images.spec,
            images.split,
            device,
            'each sample is rendered anew' if redraw else f'{images.num_images} images take {room / 2**20:.0f} MB',
        )
        self._levels = torch.from_numpy(unpack(np.arange(256, dtype=np.uint8)[:, None], 8)).to(device)
        #: Channels, height and width of an image before augmentation.
        self._shape: tuple[int, ...] = (1, images.spec.size, images.spec.size)
        if self._table is not None and not images.spec.is_packed:
            self._shape = tuple(self._table.shape[1:])
        if self._shape[0] not in (1, len(mean)):
            words = f'images have {self._shape[0]} channels, but the model has in_chans={len(mean)}'
            raise ValueError(f'{images.spec}: {words}: use --in-chans {self._shape[0]}, or --input-img-mode L for gray')
        all_levels = torch.arange(256, dtype=torch.uint8, device=device).view(1, 1, 16, 16)
        self._normalized = normalize(all_levels, mean, std, img_dtype).view(len(mean), 256)
        most = _BYTES_AT_ONCE
        if device.type == 'cuda':
            # A mega-batch takes about three times the bytes of its images before resizing.
            most = min(most, _device.free_bytes(device) // 8)
        #: Maximum number of images in a mega-batch, unless a single batch is larger.
        self.at_once = min(_AT_ONCE.get(device.type, _AT_ONCE_GPU), most // math.prod(self._shape))
        #: The last epoch, and the number of previous passes over it.
        self._passed = -1, 0
        if hasattr(self.sampler, 'set_epoch'):
            # In a single process, train.py of timm 1.0.20 and older sets the epoch on the data set instead of the
            # sampler.
            told: Any = dataset
            told.set_epoch = self.sampler.set_epoch
        if device.type == 'cuda':
            self._compile()

    def _compile(self) -> None:
        """Check and compile the kernels before training, with a complete mega-batch."""
        numbers = np.arange(_COMPILED_WITH) % self._images.num_images
        for augment in self.augments:
            for _ in self._make(augment, numbers, [_COMPILED_WITH], _generator(0)):
                pass

    @property
    def sampler(self) -> Any:
        """The sampler, which determines the order; it has ``set_epoch`` in training."""
        return self.batch_sampler.sampler

    @property
    def mixup_enabled(self) -> bool:
        """Whether batches are mixed; setting it has no effect without mixup."""
        return self.mix is not None and bool(self.mix.collate.mixup_enabled)

    @mixup_enabled.setter
    def mixup_enabled(self, enabled: bool) -> None:
        if self.mix is not None:
            self.mix.collate.mixup_enabled = enabled

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Batch]:
        epoch = getattr(self.sampler, 'epoch', 0)
        self._passed = epoch, self._passed[1] + 1 if self._passed[0] == epoch else 0
        batches = self.make_batches(_generator(self.seed, *self._passed))
        yield from batches if self.device.type == 'cpu' else prefetch(batches, self.device)

    def make_batches(self, generator: torch.Generator) -> Iterator[Batch]:
        """Yield the batches of an epoch without prefetching, with parameters from a CPU generator."""
        for choice, group in self._groups():
            numbers = np.fromiter(itertools.chain.from_iterable(group), np.int64)
            if self._indices is not None:
                numbers = self._indices[numbers]
            numbers %= self._images.num_images
            yield from self._make(self.augments[choice], numbers, [len(batch) for batch in group], generator)

    def _make(
        self,
        augment: Train | Evaluate,
        numbers: npt.NDArray[np.int64],
        sizes: list[int],
        generator: torch.Generator,
    ) -> Iterable[Batch]:
        """Sample the parameters of a mega-batch, then apply them."""
        count, _, height, width = shape = len(numbers), *self._shape
        kernels, is_packed = augment.kernels(self.device, shape), self._images.spec.is_packed
        # None to use the table.
        images = self._images.redraw(numbers, generator, self.device) if self._table is None else None
        params = augment.make_params(count, height, width, generator)
        mixed = erased = None
        if self.mix is not None:
            for size in sizes:
                check_even(size)
            mixed = [self.mix.make_params(*augment.size, generator) for _ in sizes]
        if self.erase is not None:
            erased = self.erase.make_params(count, *augment.size, generator)
        labels = numbers % self._images.num_classes
        if kernels is None:
            index = to_device(numbers, self.device)
            if images is None and is_packed:
                images = unpack_bits(self._table, index, self._levels)[..., :width]
            elif images is None:
                images = self._table.index_select(0, index)
            images = augment.apply(images, params)
            return self._by_torch(images, to_device(labels, self.device), sizes, mixed, erased)

        upload = Upload()
        place = upload.add(numbers)
        is_direct = images is None and not is_packed
        run, rows = augment.record(upload, params, numbers if is_direct else np.arange(count), shape)
        mode = self.erase.mode if self.erase else 'const'
        output = record_output(upload, rows, labels, sizes, self.mix, mixed, mode, erased)
        upload.send(self.device)
        with _device.on(self.device):
            if is_direct:
                images = self._table
            elif images is None:
                images = kernels.unpack(self._table, upload[place], self._levels)[..., :width]
            images = run(kernels, images)
        return output(kernels, images, self._normalized)

    def _groups(self) -> Iterator[tuple[int, list[list[int]]]]:
        """Yield the batches of each mega-batch, with the index of their transform."""
        group: list[list[int]] = []
        last, count = 0, 0
        for batch in self.batch_sampler:
            choice = 0
            if isinstance(batch[0], tuple):
                choice, batch = batch[0][1], [index for index, _ in batch]
            if group and (choice != last or count + len(batch) > self.at_once):
                yield last, group
                group, count = [], 0
            group.append(batch)
            last, count = choice, count + len(batch)
        if group:
            yield last, group

    def _by_torch(
        self,
        images: Tensor,
        labels: Tensor,
        sizes: list[int],
        mixed: list[MixParams] | None,
        erased: EraseParams | None,
    ) -> Iterable[Batch]:
        """Mix, normalize and erase a mega-batch."""
        targets: Sequence[Tensor] = torch.split(labels, sizes)
        if self.mix is not None and mixed is not None:
            parts, targets = zip(*map(self.mix.apply, torch.split(images, sizes), targets, mixed))
            images = torch.cat(parts)
        images = normalize(images, self.mean, self.std, self.img_dtype)
        if self.erase is not None and erased is not None:
            images = self.erase.apply(images, erased)
        return zip(torch.split(images, sizes), targets)

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.dataset!r}, batches={len(self)}, device={str(self.device)!r})'


def unwrap(dataset: Any) -> tuple[SyntheticDataset, npt.NDArray[np.int64] | None]:
    """Unwrap the data set in (nested) subsets, such as those of `torch.utils.data.random_split`.

    Returns:
        The data set, and the indices of the samples, nonnegative int64 of shape (samples,); None for all.
    """
    indices: npt.NDArray[np.int64] | None = None
    while isinstance(dataset, Subset):
        if type(dataset).__getitem__ is not Subset.__getitem__:
            refuse('dataset', dataset, 'only a plain Subset is: a subclass that changes samples would be ignored')
        own = check_indices(dataset.indices, len(dataset.dataset))  # type: ignore[arg-type]
        indices = own if indices is None else own[indices]
        dataset = dataset.dataset
    if not isinstance(dataset, SyntheticDataset):
        refuse('dataset', dataset, 'only a data set of timm_fractal or a Subset of one is')
    if indices is not None and not len(indices):
        raise ValueError('dataset must have at least one sample, got an empty Subset')
    return dataset, indices


def _table(dataset: SyntheticDataset, device: torch.device) -> Tensor:
    """Copy all images to the device, as `DeviceLoader` keeps them; color becomes gray with ``input_img_mode='L'``."""
    count = dataset.num_images
    in_gray = dataset.input_img_mode == 'L' and dataset.stored(0).shape[2:] == (3,)
    shape = dataset.stored(0).shape[: 2 if in_gray else None]
    try:
        table = torch.empty((count, *shape), dtype=torch.uint8, device=device)
    except (RuntimeError, MemoryError) as error:
        size = count * int(np.prod(shape)) / 2**30
        raise MemoryError(
            f'{dataset.spec}: {count:,} images of {size * 2**30 / count:,.0f} bytes, {size:,.1f} GB in total, do not '
            f'fit on {device}: use fewer classes or instances, or leave out loader=device'
        ) from error
    for start in range(0, count, 1024):
        part = dataset.stored_range(range(start, min(start + 1024, count)))
        if in_gray:
            part = np.stack([np.asarray(Image.fromarray(pixels).convert('L')) for pixels in part])
        table[start : start + len(part)] = torch.from_numpy(part)
    if dataset.spec.is_packed:
        return table
    return table[:, None] if table.ndim == 3 else table.permute(0, 3, 1, 2)


def create_device_loader(
    dataset: SyntheticDataset | Subset[Any],
    input_size: int | Sequence[int],
    batch_size: int,
    is_training: bool = False,
    no_aug: bool = False,
    re_prob: float = 0.0,
    re_mode: str = 'const',
    re_count: int = 1,
    num_aug_repeats: int = 0,
    input_size_choices: Sequence[int | Sequence[int]] | None = None,
    mean: Sequence[float] = (0.485, 0.456, 0.406),
    std: Sequence[float] = (0.229, 0.224, 0.225),
    distributed: bool = False,
    collate_fn: Any = None,
    fp16: bool = False,
    img_dtype: torch.dtype | None = None,
    device: Any = 'cuda',
    **options: Any,
) -> DeviceLoader:
    """Create a `DeviceLoader` from the arguments of ``timm.data.create_loader``.

    Args:
        dataset: The data set, or a `torch.utils.data.Subset` of it.
        input_size: Height and width, or channels, height and width.
        batch_size: Samples per batch.
        is_training: Whether to shuffle, augment, and drop an incomplete last batch.
        no_aug: See `create_augment`.
        re_prob: Probability of random erasing.
        re_mode: See `Erase`.
        re_count: See `Erase`.
        num_aug_repeats: Number of repetitions of each sample across all processes; only with ``distributed``.
        input_size_choices: Input sizes that batches choose from, scheduled by timm; only for training.
        mean: Mean of the images, from 0 to 1.
        std: Standard deviation of the images.
        distributed: Whether this process gets only the samples of its rank.
        collate_fn: timm's ``FastCollateMixup``, or None.
        fp16: Deprecated name of ``img_dtype=torch.float16``.
        img_dtype: Floating-point type of the images.
        device: A torch device.
        options: Arguments of `create_augment`; of timm's ``ScheduledBatchSampler``, by their names in
            ``create_loader``; and of worker processes, which are ignored.
    """
    device = torch.device(device)
    if device.type == 'mps':
        refuse('device', 'mps', 'it lacks double precision; cpu and cuda are available')
    if device.type == 'cuda' and not torch.cuda.is_available():
        raise ValueError(f"device={str(device)!r}, timm's default, is not available: use device=torch.device('cpu')")
    known = _augment_options()
    for name, value in options.items():
        # Options of a newer timm are ignored if they are off.
        if value and name not in known | _IGNORED | _SCHEDULE_OPTIONS.keys():
            refuse(name, value, f'leave out {_REFUSED[name]}' if name in _REFUSED else 'leave it out')
    if collate_fn is not None and not isinstance(collate_fn, find('timm.data.mixup.Mixup')):
        refuse('collate_fn', collate_fn, "only timm's FastCollateMixup is")
    if num_aug_repeats and not (distributed and is_training):
        # As in timm.
        raise ValueError(
            f'num_aug_repeats={num_aug_repeats} (--aug-repeats) is only for training in several processes: leave it out'
        )
    channels = input_size[0] if not isinstance(input_size, int) and len(input_size) == 3 else len(mean)
    # timm's train.py seeds each rank differently.
    seed = torch.initial_seed() % 2**63
    sampler = _sampler(dataset, is_training, distributed, num_aug_repeats, seed)
    adapt = find('timm.data.loader.adapt_to_chs')
    mean, std = (adapt(tuple(values), channels) for values in (mean, std))
    sizes, batch_sampler = [input_size], BatchSampler(sampler, batch_size, drop_last=is_training)
    if input_size_choices is not None:
        if not is_training:
            refuse('input_size_choices', input_size_choices, 'only for training')
        sizes = list(input_size_choices)
        schedule = {name: options[key] for key, name in _SCHEDULE_OPTIONS.items() if key in options}
        schedule['batch_sizes'] = schedule.get('batch_sizes') or [batch_size] * len(sizes)
        if not sizes or len(sizes) != len(schedule['batch_sizes']):
            counts = f'{len(schedule["batch_sizes"])} and {len(sizes)}'
            raise ValueError(
                f'batch_size_choices and input_size_choices must be equally many, at least one: got {counts}'
            )
        scheduled = find('timm.data.scheduled_sampler.ScheduledBatchSampler')
        batch_sampler = scheduled(sampler, drop_last=True, **schedule)
    if is_training and not len(batch_sampler):
        raise ValueError(
            f'an epoch has {len(sampler)} samples, fewer than a batch of {batch_size}: use --epoch-repeats, or a '
            f'smaller --batch-size'
        )
    augment_options = {name: options[name] for name in known & options.keys()}
    augment_options |= dict(is_training=is_training, no_aug=no_aug, mean=mean)
    augments = [create_augment(size if isinstance(size, int) else size[-2:], **augment_options) for size in sizes]
    mix = None if collate_fn is None else Mix(collate_fn)
    erase = Erase(re_prob, re_mode, re_count, channels) if re_prob and is_training and not no_aug else None
    redraw = is_training and unwrap(dataset)[0].spec.redraws
    dtype = torch.float16 if fp16 else img_dtype or torch.float32
    return DeviceLoader(dataset, augments, batch_sampler, mean, std, device, dtype, mix, erase, seed, redraw)


def _sampler(dataset: Any, is_training: bool, distributed: bool, num_aug_repeats: int, seed: int) -> Any:
    if not is_training:
        # Both keep the order; ranks get every n-th sample.
        ordered = find('timm.data.distributed_sampler.OrderedDistributedSampler')
        return ordered(dataset) if distributed else SequentialSampler(dataset)
    if not distributed:
        return ShuffleSampler(dataset, seed)
    if num_aug_repeats:
        return find('timm.data.distributed_sampler.RepeatAugSampler')(dataset, num_repeats=num_aug_repeats)
    return DistributedSampler(dataset)


def _augment_options() -> set[str]:
    return {*inspect.signature(create_augment).parameters, *inspect.signature(Train).parameters}


def is_known(name: str) -> bool:
    """Return whether `create_device_loader` knows an argument of timm's ``create_loader``."""
    own = inspect.signature(create_device_loader).parameters.keys() - {'options'}
    return name in own | _augment_options() | _IGNORED | _REFUSED.keys() | _SCHEDULE_OPTIONS.keys()
