"""Reads checkpoints of training scripts without running code in them."""

import argparse
import contextlib
import csv
import dataclasses
import json
import math
import pickle
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from timm.models import clean_state_dict

from .._utils.atomic import check_regular
from .._utils.messages import listed
from ..spec import MAX_SAMPLES, parse_name
from .values import check, integer, plain_arguments, text

Tensors = dict[str, torch.Tensor]
Shapes = dict[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Contents of a checkpoint.

    Attributes:
        path: The file.
        tensors: The weights, under timm's names.
        args: train.py's arguments; empty if unknown.
        epochs: Number of epochs trained, if known.
        ema: Whether ``tensors`` are the EMA weights.
        loss: Mean training loss of the last epoch, if ``summary.csv`` is in the same folder.
        metric: train.py's validation metric of these weights, such as ``'top1 35'``, if known.
    """

    path: Path
    tensors: Tensors
    args: dict[str, Any]
    epochs: int | None = None
    ema: bool = False
    loss: float | None = None
    metric: str | None = None

    @property
    def samples(self) -> int | None:
        """Number of samples seen, computed from the arguments; the last, incomplete batch of an epoch is dropped."""
        try:
            spec: Any = parse_name(self.args['dataset'])
            rounds, length = self.args.get('epoch_repeats') or 0, self.args.get('train_num_samples')
            length = int((length or spec.num_classes * spec.num_instances) * max(1.0, rounds))
            batch = self.args['batch_size'] * (self.args.get('world_size') or 1)
        except (KeyError, ValueError, AttributeError, TypeError):
            return None
        return None if self.epochs is None else self.epochs * (length // batch * batch)


def read(path: Path, use_ema: bool | None = None) -> Checkpoint:
    """Read a checkpoint of train.py, or a safetensors file.

    Args:
        path: ``*.pth.tar`` and the like, or ``*.safetensors``. The training arguments come from the checkpoint, the
            metadata ``train_args`` of the safetensors file, or ``args.yaml`` in the same folder.
        use_ema: Read the EMA weights; by default if there are any.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, contains code, or lacks the requested weights.
    """
    if path.is_dir():
        raise FileNotFoundError(f'{path}: is a folder: give a file in it, such as last.pth.tar')
    check_regular(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such file')
    if path.suffix == '.safetensors':
        if use_ema:
            raise ValueError(f'{path}: --use-ema cannot be used with a safetensors file, which has one set of weights')
        with _open_safetensors(path) as file:
            tensors = check_tensors(path, {name: file.get_tensor(name) for name in file.keys()})
            return Checkpoint(path, tensors, _args_in_metadata(path, file.metadata() or {}) or _read_args_yaml(path))
    content = unpickle(path)
    if is_bare(content):
        # Written by timm's avg_checkpoints.py and clean_checkpoint.py.
        if use_ema:
            raise ValueError(f'{path}: --use-ema cannot be used with a bare state dict, which is one set of weights')
        return Checkpoint(path, check_tensors(path, content), _read_args_yaml(path))
    has_ema = bool(content.get('state_dict_ema'))
    is_ema = has_ema if use_ema is None else use_ema
    key = 'state_dict_ema' if is_ema else 'state_dict'
    if not content.get(key):
        hint = ': for a file released by the authors of a method, use convert' if 'model' in content else ''
        raise ValueError(f'{path}: no {key!r} in this checkpoint, it has: {listed(content)}{hint}')
    args = content.get('args')
    args = plain_arguments(path, vars(args)) if isinstance(args, argparse.Namespace) else _read_args_yaml(path)
    check(path, content, dict.fromkeys(('epoch', 'version'), integer(0, MAX_SAMPLES)))
    epochs = content.get('epoch')
    if epochs is not None:
        epochs += (content.get('version') or 1) > 1
    loss = _read_train_loss(path, epochs)
    metric = _metric(content, args) if is_ema == has_ema else None
    return Checkpoint(path, check_tensors(path, content[key]), args, epochs, is_ema, loss, metric)


def _metric(content: dict[str, Any], args: dict[str, Any]) -> str | None:
    """Return the validation metric of a checkpoint; without a validation split train.py stores the training loss."""
    value, name = content.get('metric'), args.get('eval_metric')
    if not isinstance(value, (int, float)) or not isinstance(name, str) or not math.isfinite(value):
        return None
    # With --model-ema-force-cpu, train.py does not evaluate the EMA weights.
    return f'{name} {value:.4g}' if args.get('val_split') and not args.get('model_ema_force_cpu') else None


def is_bare(content: dict[Any, Any]) -> bool:
    """Return whether the contents of a checkpoint are a bare state dict."""
    return bool(content) and all(isinstance(value, torch.Tensor) for value in content.values())


def unpickle(path: Path) -> dict[str, Any]:
    """Load a file saved by torch as data only: files with code are refused without running any."""
    _check_archive(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            # Sparse tensors are refused below.
            warnings.filterwarnings('ignore', 'Validating sparse', UserWarning)
            content = torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        names: list[str] = []
        # torch 2.5 lacks this function, and it raises if the file is not in torch's format.
        with contextlib.suppress(Exception):
            names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        words = f'it calls {listed(names)}' if names else 'it was not written by torch, or is damaged'
        raise ValueError(f'{path} is refused: {words}. Only tensors and plain values are allowed') from error
    except (OSError, MemoryError):
        raise
    except Exception as error:
        # torch's reader raises many types of errors for damaged files.
        words = f'{type(error).__name__}: {_first_line(error)}'
        raise ValueError(f'{path} is damaged, or not a checkpoint of torch ({words})') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path}: a checkpoint must be a dict, got {type(content).__name__}')
    return content


def _check_archive(path: Path) -> None:
    """Verify the CRC-32 of an archive's members, which torch does not."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            # torch does not compress, so reading is bounded by the size of the file.
            packed = [member.filename for member in archive.infolist() if member.compress_type != zipfile.ZIP_STORED]
            damaged = packed[0] if packed else archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise ValueError(f'{path} is damaged ({_first_line(error)}): copy it again') from error
    if damaged is not None:
        rule = 'is compressed, which torch never does' if packed else 'has a wrong CRC-32'
        raise ValueError(f'{path} is damaged: {damaged[:100]!r} in it {rule}; copy it again')


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def check_tensors(path: Path, tensors: Any) -> Tensors:
    """Check that all values are plain tensors, and strip the prefixes of wrappers."""
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise ValueError(f'{path}: the weights must be a dict of tensors, got {type(tensors).__name__}')
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise ValueError(f'{path}: tensor names must be strings, got {str(name)[:100]!r}')
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            raise ValueError(f'{path}: {name[:100]!r} must be a plain tensor, not sparse, quantized or without data')
    cleaned: Tensors = clean_state_dict(tensors)
    # The auxiliary statistics of --split-bn are used in training only.
    return {name: tensor for name, tensor in cleaned.items() if '.aux_bn.' not in name}


@contextlib.contextmanager
def _open_safetensors(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework='pt') as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f'{path} is truncated, or not a safetensors file ({error})') from error


def shapes(path: Path) -> Shapes:
    """Return the names and shapes of the tensors in a safetensors file."""
    with _open_safetensors(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}


def _args_in_metadata(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    try:
        return plain_arguments(path, json.loads(metadata.get('train_args', '{}')))
    except (ValueError, RecursionError) as error:
        words = f"{path}: the metadata 'train_args' must be a JSON object of arguments of train.py ({error})"
        raise ValueError(words) from error


def _read_args_yaml(path: Path) -> dict[str, Any]:
    file = path.with_name('args.yaml')
    if not file.is_file():
        return {}
    try:
        content = yaml.safe_load(text(file))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f'{file} is not a YAML file of plain values ({_first_line(error)})') from error
    return plain_arguments(file, content)


def _read_train_loss(path: Path, epochs: int | None) -> float | None:
    file = path.with_name('summary.csv')
    if epochs is None or not file.is_file():
        return None
    try:
        losses = {row.get('epoch'): row.get('train_loss') for row in csv.DictReader(text(file).splitlines())}
        loss = float(losses.get(str(epochs - 1)) or math.nan)
    except (csv.Error, ValueError, TypeError) as error:
        words = f'{file} is not a summary of train.py ({_first_line(error)}): correct or remove it'
        raise ValueError(words) from error
    return loss if math.isfinite(loss) else None
