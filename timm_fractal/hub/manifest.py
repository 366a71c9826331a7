"""Published weights: reads the manifest, and finds, verifies and loads the files.

A file is searched for in this order, and its sha256 is compared with the manifest before any tensor is read:

1. ``TIMM_FRACTAL_WEIGHTS``: a folder with ``<architecture>.<tag>.safetensors``, or the URL of a server with such files
(``https://...``), which are cached in torch.hub's cache;
2. the wheel;
3. the Hugging Face Hub, at the manifest's revision; huggingface_hub's HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE apply.
"""

import base64
import dataclasses
import errno
import http.client
import json
import logging
import os
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._utils.atomic import atomic_write, check_regular
from .._utils.files import sha256
from .._utils.messages import redacted
from .values import MAPPING, TEXT, check, check_values, integer, matching

if TYPE_CHECKING:
    import torch

_logger = logging.getLogger(__name__)

#: The manifest; weights in the wheel are in the same folder.
MANIFEST = Path(__file__).resolve().parent / 'pretrained' / 'manifest.json'

#: The largest file in the wheel, in bytes.
MAX_SHIPPED = 15_000_000

#: Environment variable with a folder or server of weights that is searched first.
SOURCE = 'TIMM_FRACTAL_WEIGHTS'

#: Timeout for a read from a server, in seconds.
READ_TIMEOUT = 30.0

#: Name of the weights in an exported folder or a published repository.
HUB_FILE = 'model.safetensors'

#: Keys of a pretrained_cfg that locate weights, or name code that loads them.
SOURCES = ('source', 'file', 'url', 'hf_hub_id', 'hf_hub_filename', 'state_dict', 'custom_load')

_RULES = {
    'name': matching('[^.]+[.].+', 'architecture.tag'),
    'sha256': matching('[0-9a-f]{64}', '64 hexadecimal digits'),
    'size': integer(1, 10**12),
    'pretrained_cfg': MAPPING,
    'license': TEXT,
    'provenance': MAPPING,
}
_PLACES = {
    'file': matching(r'\w[^/\\]*', 'the name of a file in the folder of the manifest'),
    'hf_hub_id': TEXT,
    'revision': TEXT,
}


@dataclasses.dataclass(frozen=True)
class Weights:
    """An entry of the manifest.

    Attributes:
        name: Architecture and tag, ``'test_vit.fractal1_1k'``.
        sha256: Of the safetensors file.
        size: Of the safetensors file in bytes.
        pretrained_cfg: timm's configuration of the model's input and head: input size, mean, std, number of classes,
            ...
        license: SPDX identifier in lower case, as on the Hub.
        provenance: How it was trained: data set, base IFS, samples seen, versions, hardware, loss, results, ...
        file: Name of the file in the manifest's folder, if it is in the wheel.
        hf_hub_id: ``'owner/name'`` on the Hub, if it is published.
        revision: Commit on the Hub.
    """

    name: str
    sha256: str
    size: int
    pretrained_cfg: dict[str, Any]
    license: str
    provenance: dict[str, Any]
    file: str | None = None
    hf_hub_id: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        place = str(self.name)[:100]
        check(place, vars(self), _RULES, required=True)
        check(place, vars(self), _PLACES)
        check_values(place, self.pretrained_cfg)
        if not self.file and not self.hf_hub_id:
            raise ValueError(f'{self.name}: file or hf_hub_id must be given')

    @property
    def architecture(self) -> str:
        """Name of the architecture in timm."""
        return self.name.partition('.')[0]

    @property
    def tag(self) -> str:
        """Part of the name after the first dot."""
        return self.name.partition('.')[2]

    def to_json(self) -> dict[str, Any]:
        """Return the entry's value in the manifest, where its name is the key."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k != 'name' and v is not None}


def manifest(path: str | Path | None = None) -> dict[str, Weights]:
    """Read the manifest, by default the one of this package.

    Raises:
        ValueError: It is damaged; the message says where.
    """
    path = MANIFEST if path is None else Path(path)
    check_regular(path)
    try:
        return {name: Weights(name, **entry) for name, entry in json.loads(path.read_bytes()).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f'{path} is not a manifest of weights, or is damaged ({error})') from error


def add(entry: Weights, weights: Path, path: str | Path) -> Weights:
    """Add an entry to a manifest, and its file to the folder of the manifest.

    An entry of the same name is replaced; the manifest is created if it does not exist. Weights too large for the wheel
    are listed by their place on the Hub instead, with the entry that `publish` returns.

    Returns:
        The entry with the name of the file.

    Raises:
        ValueError: The file is too large for the wheel, or does not match the entry.
    """
    path = Path(path)
    if path.resolve() == MANIFEST and entry.size > MAX_SHIPPED:
        words = f'weights in the wheel must have at most {MAX_SHIPPED:,} bytes, got {entry.size:,}'
        advice = f'publish the folder, and add the entry that timm-fractal publish --manifest prints to {path}'
        raise ValueError(f'{weights}: {words}: {advice}')
    name = f'{entry.name}.safetensors'
    entry = dataclasses.replace(entry, file=name)
    entries = (manifest(path) if path.exists() else {}) | {entry.name: entry}
    path.parent.mkdir(parents=True, exist_ok=True)
    check_file(weights, entry)
    # In the folder of the manifest itself, not of a link to it.
    with atomic_write(path.resolve().with_name(name)) as temporary:
        shutil.copyfile(weights, temporary)
    with atomic_write(path) as temporary:
        content = {name: entries[name].to_json() for name in sorted(entries)}
        temporary.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
    return entry


def check_file(path: Path, entry: Weights) -> None:
    """Raise a ValueError if the size or the sha256 of a file differs from the manifest's."""
    words = f'{path} is damaged, or not the weights {entry.name}'
    # Compared before reading, since the file may be huge.
    found = path.stat().st_size
    if found != entry.size:
        raise ValueError(f'{words}: it has {found:,} bytes instead of {entry.size:,}; delete it and try again')
    digest = sha256(path)
    if digest != entry.sha256:
        raise ValueError(f'{words}: its sha256 is {digest} instead of {entry.sha256}; delete it and try again')


def load(entry: Weights, cache_dir: str | Path | None = None) -> 'dict[str, torch.Tensor]':
    """Find weights, verify them, and read their tensors.

    Downloads go to ``cache_dir`` instead of the cache of the Hub's client or torch.hub.

    Raises:
        ValueError: The file does not match the manifest.
        OSError: It cannot be found or read; the message says what to do.
    """
    from safetensors.torch import load_file

    for find in (_find_at_source, _find_in_wheel, _find_on_hub):
        path = find(entry, cache_dir)
        if path is not None:
            check_file(path, entry)
            tensors: dict[str, torch.Tensor] = load_file(path)
            _logger.info('%s: loaded from %s', entry.name, path)
            return tensors
    raise FileNotFoundError(
        f'{entry.name}: {entry.file} is missing in {MANIFEST.parent}: install timm-fractal again, or set {SOURCE} to a '
        f'folder with {entry.name}.safetensors'
    )


def is_address(source: str) -> bool:
    """Return whether a value of `SOURCE` is a URL rather than a folder."""
    return source.lower().startswith(('http://', 'https://'))


def _find_at_source(entry: Weights, cache_dir: str | Path | None) -> Path | None:
    source = os.environ.get(SOURCE, '')
    if not source:
        return None
    if is_address(source):
        # A query, such as a signature, stays after the path.
        address, question, query = source.partition('?')
        try:
            return _download(f'{address.rstrip("/")}/{entry.name}.safetensors{question}{query}', entry, cache_dir)
        except _NotFound:
            return None
    # With an unknown user name, expanduser returns the path unchanged.
    folder = Path(os.path.expanduser(source))
    if not os.path.isdir(folder):
        words = 'must be a folder, or start with http:// or https://'
        raise NotADirectoryError(f'{SOURCE} {words}, got {redacted(source)[:200]!r}')
    path = folder / f'{entry.name}.safetensors'
    return path if path.is_file() else None


def _download(url: str, entry: Weights, cache_dir: str | Path | None) -> Path:
    import torch

    where = redacted(url)
    folder = Path(cache_dir) if cache_dir else Path(torch.hub.get_dir()) / 'checkpoints'
    path = folder / f'{entry.name}-{entry.sha256[:8]}.safetensors'
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        try:
            _fetch(url, temporary, entry.size)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                raise _NotFound from None
            raise ConnectionError(f'{entry.name}: {where} answers {error.code} {error.reason}') from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            # For a full disk, the system's message is best.
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            reason = str(getattr(error, 'reason', error) or type(error).__name__)[:200]
            # Some messages contain part of the URL, including a password.
            reason = type(error).__name__ if '@' in reason else reason.replace(url, where)
            words = f'{entry.name}: {where} cannot be reached or read ({reason}); it is set in {SOURCE}'
            raise ConnectionError(words) from None
        try:
            check_file(temporary, entry)
        except ValueError as error:
            raise ValueError(f'{where} is damaged, or not the weights {entry.name}: {error}') from error
    return path


class _NotFound(Exception):
    """The server does not have the file."""


def _fetch(url: str, path: Path, size: int) -> None:
    """Download a URL to a file, limited in size and time."""
    # At least 100 kB per second on average, however small the pieces.
    end = time.monotonic() + READ_TIMEOUT + size / 1e5
    parts = urllib.parse.urlsplit(url)
    user, at, host = parts.netloc.rpartition('@')
    request = urllib.request.Request(urllib.parse.urlunsplit((parts.scheme, host, parts.path, parts.query, '')))
    if at:
        token = base64.b64encode(urllib.parse.unquote(user).encode()).decode()
        # Not sent to the target of a redirect.
        request.add_unredirected_header('Authorization', f'Basic {token}')
    with urllib.request.urlopen(request, timeout=READ_TIMEOUT) as answer, open(path, 'wb') as file:
        left = size + 1
        while left > 0 and (part := answer.read1(min(left, 2**20))):
            file.write(part)
            left -= len(part)
            if time.monotonic() > end:
                raise TimeoutError(f'only {size + 1 - left:,} of {size:,} bytes arrived in time')


def _find_in_wheel(entry: Weights, cache_dir: str | Path | None) -> Path | None:
    path = MANIFEST.parent / entry.file if entry.file else None
    return path if path is not None and path.is_file() else None


def _find_on_hub(entry: Weights, cache_dir: str | Path | None) -> Path | None:
    if entry.hf_hub_id is None:
        return None
    from huggingface_hub import hf_hub_download

    from .client import call_hub

    options = dict(revision=entry.revision, cache_dir=cache_dir)
    return Path(call_hub(f'{entry.name} ({entry.hf_hub_id})', hf_hub_download, entry.hf_hub_id, HUB_FILE, **options))
