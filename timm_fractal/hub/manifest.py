"""Published weights: the manifest, where each file comes from, and its check against the manifest.

A file is looked for in this order, and its sha256 compared with the manifest's before any tensor is read:

1. ``TIMM_FRACTAL_WEIGHTS``: a folder with ``<architecture>.<tag>.safetensors`` in it, or the address of a server that
   has such files (``https://...``), which are then kept in torch.hub's cache;
2. the wheel;
3. the Hugging Face Hub, at the manifest's revision. HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE are huggingface_hub's.
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
from .values import check_values

if TYPE_CHECKING:
    import torch

_logger = logging.getLogger(__name__)

#: The manifest; the files in the wheel lie beside it.
MANIFEST = Path(__file__).parent / 'pretrained' / 'manifest.json'

#: Environment variable: a folder or a server of weights that is looked at first.
SOURCE = 'TIMM_FRACTAL_WEIGHTS'

#: Seconds to wait for a server's next word.
READ_TIMEOUT = 30.0

#: What a published repository calls its weights.
HUB_FILE = 'model.safetensors'


_TEXT, _MAPPING = (str, 'text'), (dict, 'names and values')
_PLACES = ('file', 'hf_hub_id', 'revision')
_KINDS: dict[str, tuple[type, str]] = {
    'name': _TEXT,
    'sha256': _TEXT,
    'size': (int, 'a whole number'),
    'pretrained_cfg': _MAPPING,
    'license': _TEXT,
    'provenance': _MAPPING,
    **dict.fromkeys(_PLACES, _TEXT),
}


@dataclasses.dataclass(frozen=True)
class Weights:
    """One entry of the manifest.

    Attributes:
        name: Architecture and tag, ``'test_vit.fractal1_1k'``.
        sha256: Of the safetensors file.
        size: Of the safetensors file, in bytes.
        pretrained_cfg: Input and head of the model in timm's terms: input size, mean, std, number of classes, ...
        license: SPDX identifier, in lower case as the Hub writes it.
        provenance: How it was trained: data set, base IFS, samples seen, versions, hardware, loss, results, ...
        file: Name beside the manifest, if the wheel has it.
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
        for field, (kind, words) in _KINDS.items():
            value = getattr(self, field)
            if type(value) is not kind and not (value is None and field in _PLACES):
                raise ValueError(f'{str(self.name)[:100]}: {field} must be {words}, got {str(value)[:100]!r}')
        if self.size < 1:
            raise ValueError(f'{self.name}: size must be at least 1 byte, got {self.size}')
        check_values(self.name, self.pretrained_cfg)
        architecture, dot, tag = self.name.partition('.')
        if not (architecture and dot and tag):
            raise ValueError(f'name must be architecture.tag, got {self.name!r}')
        if len(self.sha256) != 64 or set(self.sha256) - set('0123456789abcdef'):
            raise ValueError(f'{self.name}: sha256 must be 64 hexadecimal digits, got {self.sha256!r}')
        if self.file is not None and Path(self.file).name != self.file:
            raise ValueError(f'{self.name}: file must be a name beside the manifest, got {self.file!r}')
        if not self.file and not self.hf_hub_id:
            raise ValueError(f'{self.name}: file or hf_hub_id must say where the weights are, got neither')

    @property
    def architecture(self) -> str:
        """timm's name of the architecture."""
        return self.name.partition('.')[0]

    @property
    def tag(self) -> str:
        """What follows the first dot of the name."""
        return self.name.partition('.')[2]

    def to_json(self) -> dict[str, Any]:
        """The entry as the manifest has it, under its name."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k != 'name' and v is not None}


def manifest(path: str | Path | None = None) -> dict[str, Weights]:
    """Read the manifest, by default the one of this package.

    Raises:
        ValueError: It is damaged; the message says where.

    Examples:
        >>> all(entry.sha256 for entry in manifest().values())
        True
    """
    path = MANIFEST if path is None else Path(path)
    check_regular(path)
    try:
        return {name: Weights(name, **entry) for name, entry in json.loads(path.read_bytes()).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f'{path} is not a manifest of weights, or damaged ({error})') from error


def add(entry: Weights, weights: Path, path: str | Path) -> Weights:
    """Add an entry to a manifest, and the file it speaks of to the folder of the manifest.

    Args:
        entry: The entry; an existing one of the same name is replaced.
        weights: The safetensors file.
        path: The manifest; it need not exist yet.

    Returns:
        The entry as it is in the manifest now, with the name of the file.
    """
    path = Path(path)
    entry = dataclasses.replace(entry, file=f'{entry.name}.safetensors')
    entries = (manifest(path) if path.exists() else {}) | {entry.name: entry}
    path.parent.mkdir(parents=True, exist_ok=True)
    check_file(weights, entry)
    # Beside the manifest itself, not beside a link to it.
    with atomic_write(path.resolve().with_name(f'{entry.name}.safetensors')) as temporary:
        shutil.copyfile(weights, temporary)
    with atomic_write(path) as temporary:
        content = {name: entries[name].to_json() for name in sorted(entries)}
        temporary.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
    return entry


def check_file(path: Path, entry: Weights) -> None:
    """Compare the size and the sha256 of a file with the manifest's.

    Raises:
        ValueError: It is another file, or damaged.
    """
    words = f'{path} is damaged, or not the weights {entry.name}'
    # Before it is read: it may be of any size.
    found = path.stat().st_size
    if found != entry.size:
        raise ValueError(f'{words}: it has {found:,} bytes and must have {entry.size:,}; delete it and try again')
    digest = sha256(path)
    if digest != entry.sha256:
        raise ValueError(f'{words}: its sha256 is {digest} and must be {entry.sha256}; delete it and try again')


def load(entry: Weights, cache_dir: str | Path | None = None) -> 'dict[str, torch.Tensor]':
    """Find weights, check them, and read their tensors.

    Args:
        entry: From the manifest.
        cache_dir: Where downloads are kept, in place of the cache of the Hub's client or of torch.hub.

    Raises:
        ValueError: The file that was found is not the one of the manifest.
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
        f'folder that has {entry.name}.safetensors'
    )


def is_address(source: str) -> bool:
    """Whether `SOURCE` names a server, and not a folder."""
    return source.lower().startswith(('http://', 'https://'))


def _find_at_source(entry: Weights, cache_dir: str | Path | None) -> Path | None:
    source = os.environ.get(SOURCE, '')
    if not source:
        return None
    if is_address(source):
        # A query, a signature say, stays behind the path.
        address, question, query = source.partition('?')
        try:
            return _download(f'{address.rstrip("/")}/{entry.name}.safetensors{question}{query}', entry, cache_dir)
        except _NotThere:
            return None
    try:
        folder = Path(source).expanduser()
        is_folder = folder.is_dir()
    except (RuntimeError, ValueError) as error:
        raise NotADirectoryError(f'{SOURCE} must be a folder, got {redacted(source)[:200]!r} ({error})') from error
    if not is_folder:
        raise NotADirectoryError(
            f'{SOURCE} must be a folder, or start with http:// or https://, got {redacted(source)[:200]!r}'
        )
    path = folder / f'{entry.name}.safetensors'
    return path if path.is_file() else None


def _download(url: str, entry: Weights, cache_dir: str | Path | None) -> Path:
    """Download the file behind an address."""
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
                raise _NotThere from None
            raise ConnectionError(f'{entry.name}: {where} answers {error.code} {error.reason}') from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            # Of a disk that is full the system's own words are best.
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            reason = str(getattr(error, 'reason', error) or type(error).__name__)[:200]
            # Some messages repeat a part of the address, and a password with it.
            reason = type(error).__name__ if '@' in reason else reason.replace(url, where)
            words = f'{entry.name}: {where} cannot be reached or read ({reason}); {SOURCE} names it'
            raise ConnectionError(words) from None
        try:
            check_file(temporary, entry)
        except ValueError as error:
            raise ValueError(f'{where} is damaged, or not the weights {entry.name}: {error}') from error
    return path


class _NotThere(Exception):
    """A server does not have a file."""


def _fetch(url: str, path: Path, size: int) -> None:
    """Download an address to a file, with limits of size and time."""
    # At least 100 kB a second, however small its pieces are.
    end = time.monotonic() + READ_TIMEOUT + size / 1e5
    parts = urllib.parse.urlsplit(url)
    user, at, host = parts.netloc.rpartition('@')
    request = urllib.request.Request(urllib.parse.urlunsplit((parts.scheme, host, parts.path, parts.query, '')))
    if at:
        token = base64.b64encode(urllib.parse.unquote(user).encode()).decode()
        # Not passed on when the server redirects.
        request.add_unredirected_header('Authorization', f'Basic {token}')
    with urllib.request.urlopen(request, timeout=READ_TIMEOUT) as answer, open(path, 'wb') as file:
        left = size + 1
        while left > 0 and (part := answer.read1(min(left, 2**20))):
            file.write(part)
            left -= len(part)
            if time.monotonic() > end:
                raise TimeoutError(f'only {size + 1 - left:,} of {size:,} bytes came in time')


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
