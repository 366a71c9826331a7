"""Uploads a folder of weights to the Hub."""

import contextlib
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from .._utils.files import sha256
from .._version import __version__
from . import values
from .client import call_hub
from .folder import FILES, check, entry_of
from .manifest import HUB_FILE
from .model_card import published


class Published(NamedTuple):
    """Result of `publish`.

    Attributes:
        url: Address of the weights; empty after a dry run.
        entry: Their manifest entry; without a location after a dry run.
        unchecked: Why a dry run could not validate the model card with the Hub; empty if it could.
    """

    url: str
    entry: dict[str, Any]
    unchecked: str = ''


def publish(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    create_pr: bool = False,
    revision: str | None = None,
    dry_run: bool = False,
) -> Published:
    """Upload an exported folder to the Hub, download it again, and compare.

    All checks, including the Hub's validation of the model card, run before a repository is created.

    Running it again completes an interrupted upload, and changes nothing if nothing has changed. The token comes from
    HF_TOKEN or ``hf auth login``.

    Args:
        folder: Written by `export_weights` or `convert`; not modified. The uploaded model card names the repository
            instead of the folder.
        repo_id: ``'owner/name'``; created if necessary.
        private: Create a private repository.
        create_pr: Open a pull request instead of committing.
        revision: Branch to commit to; created if necessary.
        dry_run: Check everything, upload nothing. The model card is validated if the Hub can be reached.

    Returns:
        Address and manifest entry of the weights.

    Raises:
        ValueError: The folder cannot be published, see `check`, the Hub refuses its model card, or an argument is
            invalid.
        OSError: The Hub refuses or cannot be reached; the message says what to do.
    """
    from huggingface_hub import HfApi, ModelCard, get_token

    folder = Path(folder)
    _check_repo_id(repo_id)
    if create_pr and revision is not None:
        words = f'a pull request always targets the main branch: leave out --create-pr or --revision {revision}'
        raise ValueError(words)
    check(folder)
    if not dry_run and get_token() is None:
        raise PermissionError('no token for the Hub: run `hf auth login`, or set HF_TOKEN to one with write access')
    what, unchecked = f'publishing to {repo_id}', ''
    card = published(values.text(folder / 'README.md'), repo_id)
    try:
        call_hub(what, ModelCard(card, ignore_metadata_errors=True).validate)
    except ValueError as error:
        raise ValueError(f'{folder / "README.md"}: the Hub rejects the front matter: {_words(error)}') from error
    except OSError as error:
        if not dry_run:
            raise
        unchecked = str(error)
    if dry_run:
        return Published('', _entry(folder), unchecked)
    api = HfApi(library_name='timm-fractal', library_version=__version__)
    if not create_pr:
        # A pull request needs an existing repository.
        call_hub(what, api.create_repo, repo_id, private=private or None, exist_ok=True)
    if revision is not None:
        call_hub(what, api.create_branch, repo_id, branch=revision, exist_ok=True)
    info = _upload(api, what, folder, card, repo_id, create_pr, revision)
    return Published(info.pr_url or info.commit_url, _entry(folder, hf_hub_id=repo_id, revision=info.oid))


def _upload(api: Any, what: str, folder: Path, card: str, repo_id: str, create_pr: bool, revision: str | None) -> Any:
    """Upload the files of a folder with this card, download them, and compare."""
    from huggingface_hub import hf_hub_download

    # A copy, so that the folder can also be published elsewhere.
    with tempfile.TemporaryDirectory() as staging, tempfile.TemporaryDirectory() as cache:
        files = [file for file in FILES if (folder / file).is_file()]
        for file in files:
            shutil.copyfile(folder / file, Path(staging, file))
        Path(staging, 'README.md').write_text(card, encoding='utf-8')
        target: dict[str, Any] = dict(repo_id=repo_id, create_pr=create_pr, revision=revision)
        message = f'Weights, exported by timm-fractal {__version__}'
        info = call_hub(what, api.upload_folder, folder_path=staging, commit_message=message, **target)
        for file in files:
            options = dict(revision=info.oid, cache_dir=cache)
            uploaded = Path(call_hub(f'checking {file} in {repo_id}', hf_hub_download, repo_id, file, **options))
            if sha256(uploaded) != sha256(Path(staging, file)):
                raise OSError(f'{repo_id}: {file} came back from the Hub with a different sha256: publish it again')
    return info


def _words(answer: ValueError) -> str:
    """Extract the messages from an error response of the Hub: JSON or text."""
    text = str(answer)
    with contextlib.suppress(ValueError, KeyError, TypeError):
        text = '; '.join(str(error['message']) for error in json.loads(text)['errors'])
    return ' '.join(text.split())[:1000]


def _check_repo_id(repo_id: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo_id)
        # The Hub is stricter than its client.
        if not re.fullmatch(r'[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9_.-]+', repo_id):
            raise HFValidationError
    except HFValidationError:
        rule = 'owner/name, letters, digits, "_", "-" and ".", at most 96'
        raise ValueError(f'repo_id must be {rule}, got {repo_id[:100]!r}') from None


def _entry(folder: Path, **place: Any) -> dict[str, Any]:
    """Return a manifest entry; empty if the model cannot be named by a tag."""
    try:
        entry = entry_of(folder, **(place or {'file': HUB_FILE}))
    except ValueError:
        return {}
    return {entry.name: {k: v for k, v in entry.to_json().items() if place or k != 'file'}}
