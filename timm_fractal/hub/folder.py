"""Exports a checkpoint of trained weights to a folder that timm loads."""

import contextlib
import dataclasses
import io
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import timm
import timm.data
import torch
import yaml
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file

from .._timm_private import save_config
from .._utils.atomic import exclusive_lock
from .._utils.files import sha256
from .._utils.messages import listed
from .._version import __version__
from ..data import create
from ..data.base import VALIDATION_SPLITS
from ..spec import parse_name
from . import architecture, checkpoint, origin, values
from .checkpoint import Checkpoint, Tensors
from .manifest import HUB_FILE, SOURCES, Weights
from .model_card import CURVES, FIELDS, card
from .origin import CONFIG, Origin

#: The files of an exported folder. The last three are optional.
FILES = (HUB_FILE, CONFIG, 'README.md', 'train_args.yaml', 'ifs.json', CURVES)

#: License if none is given.
LICENSE = 'unknown'

#: Storage formats of weights; timm loads them into a model of any dtype.
DTYPES = {'float32': torch.float32, 'float16': torch.float16, 'bfloat16': torch.bfloat16}

# Arguments common to timm models. Weights whose model needs any others cannot be named by architecture and tag.
_ORDINARY = {'num_classes', 'in_chans', 'img_size', 'global_pool'}

# Tensor file formats that can contain code.
_UNSAFE = ('.bin', '.ckpt', '.pickle', '.pkl', '.pt', '.pth', '.tar')

# Temporary folder, or lock, within the destination; a killed process leaves it behind.
_UNFINISHED = '.export-'


def export_weights(
    path: str | Path,
    dest: str | Path | None = None,
    *,
    use_ema: bool | None = None,
    head: bool = True,
    tag: str | None = None,
    license: str = LICENSE,
    recipe: str | None = None,
    hardware: str | None = None,
    dtype: str | None = None,
    results: Iterable[str] = (),
    curves: str | Path | None = None,
    label_names: str | Path | None = None,
) -> Path:
    """Export a checkpoint of train.py as a folder that timm loads with ``local-dir:``, and from the Hub.

    Args:
        path: ``last.pth.tar`` and the like; or a safetensors file or bare state dict with ``args.yaml`` in the same
            folder.
        dest: The folder, by default ``<architecture>.<tag>`` in the current folder.
        use_ema: Export the EMA weights; by default if there are any.
        head: Keep the head for the classes of the training.
        tag: Name of the weights, by default after the data set: ``fractal1_1k``, ``fractals10_1k``.
        license: SPDX identifier of the license of the weights.
        recipe: Training recipe, for the model card.
        hardware: Training hardware, for the model card.
        dtype: ``float16`` or ``bfloat16`` halve the size of ``float32``; by default unchanged.
        results: Measurements, each ``'name=value'``, for the model card.
        curves: A PNG file, for instance of accuracy during fine-tuning, for the model card.
        label_names: Names of the classes: a folder of images with a subfolder per class, such as ``my_images/train``,
            or a text file with a name per line. timm's inference.py and transformers show them.

    Returns:
        The folder.

    Raises:
        ValueError: The checkpoint is damaged, refused, or does not fit its architecture; a weight is too large for
            ``dtype``; ``curves`` is not a PNG file.
        FileExistsError: The folder contains other files.
        OSError: It cannot be read or written.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f'dtype must be one of {", ".join(DTYPES)}, got {dtype!r}')
    picture = None if curves is None else _read_png(Path(curves))
    found = checkpoint.read(Path(path), use_ema)
    if 'model' not in found.args:
        raise ValueError(f'{path} has no training arguments: put the args.yaml of the training in the same folder')
    said = {'recipe': recipe, 'hardware': hardware, 'stored_as': dtype, 'results': _results(results)}
    labels = None if label_names is None else _read_label_names(Path(label_names))
    tag = tag or _default_tag(found)
    return _write(found, dest, tag, license, said, head, dtype=dtype, picture=picture, label_names=labels)


def convert(
    path: str | Path,
    dest: str | Path | None = None,
    *,
    head: bool = True,
    tag: str | None = None,
    license: str = LICENSE,
    results: Iterable[str] = (),
) -> Path:
    """Convert a ``.pth`` file released by the authors of 1p-frac, OFDB or FractalDB into a folder that timm loads.

    The file has tensors with timm's names under the key ``model``, or is a bare state dict. The architecture is
    inferred from their shapes; mean and standard deviation of the input are 0.5, as in all pre-training by these
    authors.

    Args:
        path: The file.
        dest: The folder, by default ``<architecture>.<tag>`` in the current folder.
        head: Keep the head for the classes of the training.
        tag: Name of the weights, by default that of the file.
        license: SPDX identifier of the file's license, in lower case.
        results: Measurements, each ``'name=value'``, for the model card.

    Returns:
        The folder.

    Raises:
        ValueError: The file is damaged, refused, or of an unknown architecture.
        OSError: It cannot be read or written.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such file')
    content = checkpoint.unpickle(path)
    weights = content if checkpoint.is_bare(content) else content.get('model')
    if weights is None:
        hint = ': for a checkpoint of train.py, use export-weights' if 'state_dict' in content else ''
        raise ValueError(f"{path}: no 'model' in this file, it has: {listed(content)}{hint}")
    tensors = checkpoint.check_tensors(path, weights)
    name, classes = architecture.recognize(path, tensors)
    args = {'model': name, 'num_classes': classes, 'mean': [0.5] * 3, 'std': [0.5] * 3}
    provenance = {'converted_from': path.name, 'sha256_of_original': sha256(path), 'results': _results(results)}
    tag = tag or re.sub(r'[^a-z0-9]+', '_', path.name.partition('.')[0].lower()).strip('_')
    return _write(Checkpoint(path, tensors, args), dest, tag, license, provenance, head, trained_here=False)


def _results(texts: Iterable[str]) -> dict[str, str]:
    pairs = [text.partition('=') for text in texts]
    for name, equals, value in pairs:
        if not (name and equals and value):
            raise ValueError(f'a result must be name=value, got {name + equals + value!r}')
    return {name.strip(): value.strip() for name, _, value in pairs}


def _dataset(args: dict[str, Any]) -> Any:
    """Return the specification of a training's data set; None if it is not one of ours."""
    try:
        return parse_name(str(args.get('dataset')))
    except ValueError:
        return None


def _dataset_name(args: dict[str, Any]) -> str:
    """Return the name of a training's data set that is not ours, without its location."""
    return str(values.shareable({'dataset': args.get('dataset') or 'images in a folder'})['dataset'])


def _default_tag(found: Checkpoint) -> str:
    spec = _dataset(found.args)
    if spec is None:
        name = _dataset_name(found.args)
        raise ValueError(f'--tag must be given: it has a default for data sets of timm-fractal only, not for {name}')
    classes = f'{spec.classes // 1000}k' if spec.classes % 1000 == 0 else str(spec.classes)
    # Weights from several base fractals need a different tag.
    if (fractals := getattr(spec, 'fractals', 1)) > 1:
        return f'fractals{fractals}_{classes}'
    return f'{spec.type}{getattr(spec, "atoms", 0) or ""}_{classes}'


def _provenance(found: Checkpoint, start: Origin) -> dict[str, Any]:
    """Return the provenance recorded in a checkpoint."""
    spec = _dataset(found.args)
    return {
        'dataset': _dataset_name(found.args) if spec is None else spec.provenance,
        'started_from': _started_from(found.args, start),
        'samples': found.samples,
        'epochs': found.epochs,
        'loss': f'{found.loss:.4g}, not of the EMA' if found.ema and found.loss is not None else found.loss,
        'metric': found.metric,
        'weights': 'EMA' if found.ema else 'as trained',
        'exported_with': {name: metadata.version(name) for name in ('timm', 'torch')} | {'timm-fractal': __version__},
    }


def _started_from(args: dict[str, Any], start: Origin) -> dict[str, Any] | None:
    """Describe the initial weights of a training, with their data set if known."""
    told = values.shareable(args)
    if file := told.get('initial_checkpoint') or (args.get('pretrained') and told.get('pretrained_path')):
        return {'weights': file}
    if not args.get('pretrained'):
        return None
    name, hub_id = start.name, start.hub_id
    # Without a tag, timm uses the default one.
    if name == start.architecture and (cfg := timm.get_pretrained_cfg(name)) is not None:
        name, hub_id = f'{name}.{cfg.tag}', cfg.hf_hub_id
    # A revision is not part of a name on the Hub.
    hub_id = hub_id and hub_id.partition('@')[0]
    said = {'weights': name, 'hub_id': hub_id, 'dataset': start.provenance.get('dataset')}
    return {key: value for key, value in said.items() if isinstance(value, str)}


def _ifs_codes(found: Checkpoint, num_classes: int) -> Any:
    """Compute the IFS codes of a training; None for other data sets.

    Raises:
        ValueError: The head has fewer outputs than the data set has classes.
    """
    spec = _dataset(found.args)
    source = str(found.args.get('data_dir') or found.args.get('data') or '')
    # A data set read from files, which are not available here, is not determined by its name.
    if spec is None or spec.reads != 'codes' or (source and (spec.reads_folders or Path(source).suffix)):
        return None
    if spec.classes > num_classes:
        words = f'{spec} has {spec.classes} classes, but num_classes is {num_classes}'
        raise ValueError(f'{found.path}: {words}: these weights cannot have been trained on it')
    # IFS codes do not depend on the canvas; a small one is faster.
    small = dataclasses.replace(spec.on_reference_canvas(), cache='none')
    dataset: Any = create(small.name())
    return dataclasses.replace(dataset.codes, name=str(spec))


def _write(
    found: Checkpoint,
    dest: str | Path | None,
    tag: str,
    license: str,
    provenance: dict[str, Any],
    head: bool,
    trained_here: bool = True,
    dtype: str | None = None,
    picture: bytes | None = None,
    label_names: list[str] | None = None,
) -> Path:
    valid, words = values.TAG
    if not valid(tag):
        raise ValueError(f'tag must be {words}, got {tag!r}')
    license = license.lower()
    if not re.fullmatch(r'[a-z0-9][a-z0-9.+-]{0,63}', license):
        raise ValueError(f'license must be an SPDX identifier such as apache-2.0, or other, got {license!r}')
    start = origin.find(str(found.args['model']))
    model, model_args, options = architecture.fit(found.path, found.args, start, found.tensors)
    config = timm.data.resolve_data_config(found.args, model=model)  # type: ignore[attr-defined,no-untyped-call]
    codes = None
    if trained_here:
        codes = _ifs_codes(found, model.num_classes)
        provenance = _provenance(found, start) | provenance
        if codes is not None and len(codes.bases) == 1:
            provenance['base'] = codes.bases[0].tolist()
    provenance = {key: value for key, value in provenance.items() if value not in (None, {})}
    if not head:
        model = architecture.on_meta(architecture.build, found.args, start, num_classes=0, **options)
    if label_names is not None and len(label_names) != model.num_classes:
        words = f'must have one name per output, which are {model.num_classes}, got {len(label_names)}'
        raise ValueError(f'label_names {words}')
    stored = _stored_as(found.path, {name: found.tensors[name] for name in model.state_dict()}, dtype)
    cfg = {key: model.pretrained_cfg.get(key) for key in ('pool_size', 'first_conv', 'classifier')}
    # Whether timm builds this architecture for a fixed size; the model itself may accept others.
    cfg['fixed_input_size'] = getattr(timm.get_pretrained_cfg(start.architecture), 'fixed_input_size', False)
    cfg |= dict(config, num_classes=model.num_classes, license=license, architecture=start.architecture, tag=tag)
    model.pretrained_cfg = cfg
    name = f'{start.architecture}.{tag}'
    dest = Path(name if dest is None else dest)
    with _staged(dest) as folder:
        more = {} if label_names is None else {'label_names': label_names}
        save_config(model, folder / CONFIG, model_args, provenance=provenance, **more)
        try:
            save_file(stored, folder / HUB_FILE, {'format': 'pt'})
        except SafetensorError as error:
            # safetensors reports a full disk this way.
            raise OSError(f'{dest}: the weights cannot be written ({error})') from error
        # safetensors makes files readable by the owner only.
        shutil.copymode(folder / CONFIG, folder / HUB_FILE)
        text = card(name, cfg, provenance, picture is not None, folder=dest.absolute().name)
        (folder / 'README.md').write_text(text, encoding='utf-8')
        if picture is not None:
            (folder / CURVES).write_bytes(picture)
        if trained_here:
            args = values.shareable(found.args | {'model': start.name})
            (folder / 'train_args.yaml').write_text(yaml.safe_dump(args), encoding='utf-8')
        if codes is not None:
            codes.save(folder / 'ifs.json')
    return dest


@contextlib.contextmanager
def _staged(dest: Path) -> Iterator[Path]:
    """Yield a temporary folder, whose files then replace those of the export at ``dest``, if any.

    Raises:
        FileExistsError: The destination contains anything that is not an export.
    """
    is_new = not dest.exists()
    if not is_new and not dest.is_dir():
        raise FileExistsError(f'{dest} is a file: the destination must be a folder')
    found = {path.name for path in dest.glob('*')}
    unfinished = {name for name in found if name.startswith(_UNFINISHED)}
    parts = set(FILES) if unfinished or found >= {HUB_FILE, CONFIG} else set()
    for name in sorted(found - unfinished - parts):
        raise FileExistsError(f'{dest} contains {name!r}, which is not part of an export: choose another destination')
    dest.mkdir(parents=True, exist_ok=True)
    try:
        with exclusive_lock(dest):
            for killed in dest.glob(f'{_UNFINISHED}*'):
                shutil.rmtree(killed, ignore_errors=True)
            # On the same disk, so that files appear atomically.
            with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=dest) as temporary:
                yield Path(temporary)
                for file in FILES:
                    if Path(temporary, file).exists():
                        os.replace(Path(temporary, file), dest / file)
                    else:
                        (dest / file).unlink(missing_ok=True)
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):
                dest.rmdir()
        raise


def _read_label_names(path: Path) -> list[str]:
    """Read class names from the subfolders of a folder of images, in timm's order, or from the lines of a file."""
    if path.is_dir():
        # The folder of the training images, or that above; timm would search it for "valid", which may be a class.
        if (path / 'train').is_dir() and any((path / name).is_dir() for name in VALIDATION_SPLITS):
            path /= 'train'
        images: Any = timm.data.create_dataset('', str(path), search_split=False)  # type: ignore[attr-defined]
        classes: dict[str, int] = images.reader.class_to_idx
        return sorted(classes, key=lambda name: classes[name])
    return [line.strip() for line in values.text(path).splitlines() if line.strip()]


def _read_png(path: Path) -> bytes:
    values.refuse_large(path)
    content = path.read_bytes()
    try:
        # Checks format and completeness without decoding.
        with Image.open(io.BytesIO(content), formats=['PNG']) as image:
            image.verify()
    except Exception as error:
        # Pillow raises many types of errors for damaged files.
        raise ValueError(f'{path} is not a PNG file, or is damaged ({error})'[:300]) from error
    return content


def _stored_as(path: Path, tensors: Tensors, dtype: str | None) -> Tensors:
    """Convert weights to ``dtype``, if given, and make them contiguous and independent.

    Raises:
        ValueError: A weight is NaN, or too large for the dtype.
    """
    stored: Tensors = {}
    places: set[int] = set()
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            if tensor.isnan().any():
                raise ValueError(f'{path}: {name} has NaN values: use an earlier checkpoint')
            cast = tensor if dtype is None else tensor.to(DTYPES[dtype])
            if not torch.equal(cast.isfinite(), tensor.isfinite()):
                raise ValueError(f'{path}: {name} has values too large for {dtype}: store the weights as bfloat16')
            tensor = cast
        # Shared weights are stored under each of their names: timm requires all of them.
        place = tensor.untyped_storage().data_ptr()
        stored[name] = (tensor.clone() if place in places else tensor).contiguous()
        places.add(place)
    return stored


def entry_of(folder: str | Path, **place: Any) -> Weights:
    """Make a manifest entry for an exported folder.

    Args:
        folder: Written by `export_weights` or `convert`.
        place: Location of the weights: ``file``, or ``hf_hub_id`` and ``revision``.

    Raises:
        ValueError: The folder is damaged, or its model cannot be named by architecture and tag alone.
    """
    folder = Path(folder)
    weights, config = folder / HUB_FILE, _read_config(folder)
    name, cfg = config['architecture'], config['pretrained_cfg'] | {'num_classes': config['num_classes']}
    tag, license = cfg.pop('tag'), cfg.pop('license', 'unknown')
    model_args = config.get('model_args') or {}
    extra = sorted(model_args.keys() - _ORDINARY)
    size = {'img_size': tuple(cfg['input_size'][-2:])} if cfg.get('fixed_input_size') else {}
    plain = dict(num_classes=cfg['num_classes'], in_chans=cfg['input_size'][0], **size)
    model = architecture.on_meta(timm.create_model, name, **plain)
    if not extra:
        architecture.refuse_differences(weights, name, model, checkpoint.shapes(weights))
        own, default = (
            reference_output(timm.create_model(name, True, {**cfg, 'file': str(weights)}, **plain | more))
            for more in (architecture.architecture_options(name, model_args, f'{folder / CONFIG}: model_args'), {})
        )
        extra = sorted(model_args.keys() - plain.keys()) if own != default else []
    if extra:
        words = f'a tag needs the default architecture, but this model differs in {", ".join(extra)}'
        raise ValueError(f'{folder}: {words}: load it with hf-hub: or local-dir:')
    provenance = {**config.get('provenance', {}), 'reference_output': default}
    return Weights(f'{name}.{tag}', sha256(weights), weights.stat().st_size, cfg, license, provenance, **place)


def reference_output(model: Any) -> list[float]:
    """Compute the first 8 features of a model for a ramp from -1 to 1 as image.

    Stored in the manifest, they verify on any machine that the same weights were loaded.
    """
    size = model.pretrained_cfg['input_size']
    image = torch.linspace(-1, 1, math.prod(size)).reshape(1, *size)
    with torch.inference_mode():
        model = model.eval()
        features = model.forward_head(model.forward_features(image), pre_logits=True)
    return [round(float(value), 4) for value in features.flatten()[:8]]


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    missing = [name for name in FILES[:3] if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f'{folder} is not an exported folder, {", ".join(missing)} missing: see export-weights')
    config = origin.read_config(path)
    cfg = config['pretrained_cfg']
    values.check(path, cfg, {'tag': values.TAG}, required=True)
    # Only the keys of timm's own configuration files are allowed.
    unknown = sorted(set(cfg) - {field.name for field in dataclasses.fields(timm.models.PretrainedCfg)})
    if unknown:
        raise ValueError(f'{path}: unknown key {str(unknown[0])[:100]!r} in pretrained_cfg')
    # With these, timm would load the weights from somewhere else.
    elsewhere = [key for key in SOURCES if cfg.get(key)]
    if elsewhere:
        raise ValueError(f'{path}: pretrained_cfg must not have {elsewhere[0]!r}: the weights are in {HUB_FILE}')
    return config


def check(folder: str | Path) -> None:
    """Check that a folder can be published.

    Raises:
        FileNotFoundError: There is no such folder, or it is not an export.
        ValueError: A file is damaged or does not match the others, the card is incomplete, or there are files in a
            format that can contain code.
    """
    from huggingface_hub import ModelCard

    folder = Path(folder)
    for file in FILES:
        if (folder / file).is_symlink() or ((folder / file).exists() and not (folder / file).is_file()):
            raise ValueError(f'{folder / file} must be a regular file, not a link or a folder: copy the file there')
    unsafe = sorted(path.name for path in folder.glob('*') if path.suffix in _UNSAFE)
    if unsafe:
        raise ValueError(f'{folder} contains {unsafe[0]!r}: remove it, only safetensors are published')
    config = _read_config(folder)
    name, weights = config['architecture'], folder / HUB_FILE
    args = architecture.architecture_options(name, config.get('model_args') or {}, f'{folder / CONFIG}: model_args')
    try:
        model = architecture.on_meta(timm.create_model, name, **{'num_classes': config['num_classes']} | args)
    except Exception as error:
        # Constructors of models may raise anything.
        raise ValueError(f'{folder / CONFIG}: timm cannot build {name!r} ({error})') from error
    architecture.refuse_differences(weights, name, model, checkpoint.shapes(weights))
    path = folder / 'README.md'
    text = values.text(path)
    try:
        data = ModelCard(text, ignore_metadata_errors=True).data
    except Exception as error:
        # The YAML parser and the Hub's client may raise anything for malformed input.
        raise ValueError(f'{path}: the front matter is not valid for a model card ({error})'[:500]) from error
    missing = [field for field in FIELDS if not getattr(data, field, None)]
    if missing:
        raise ValueError(f'{path}: the front matter must have {", ".join(missing)}')
    for field in ('datasets', 'base_model'):
        named = getattr(data, field, None) or []
        for name in [named] if isinstance(named, str) else named:
            if not re.fullmatch(r'[A-Za-z0-9][\w.-]*(/[\w.-]+)?', str(name), re.ASCII):
                rule = 'must be names on the Hub, such as owner/name, or be left out'
                raise ValueError(f'{path}: {field} {rule}, got {str(name)[:100]!r}')
