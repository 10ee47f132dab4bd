"""An export on a model hub: one commit with the files that were written, and no others of the folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ...errors import ExportError, one_line


def push(folder: Path, files: Iterable[str], repository: str, *, public: bool) -> str:
    """Upload the files to OWNER/NAME, which is created, private unless ``public``, if it does not exist.

    Returns the address of the commit. Raises ExportError; nothing of the folder is changed.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    hub = HfApi()
    try:
        hub.create_repo(repository, private=not public, exist_ok=True)
        commit = hub.create_commit(
            repository,
            [CommitOperationAdd(file, folder / file) for file in files],
            commit_message=f"dfusion export {folder.name}",
        )
    except Exception as error:  # of the Hub's library, its transport and the network: many kinds
        raise ExportError(
            f"export: {folder} is written, and could not be pushed to {repository}: {one_line(error)}.",
            f"{remedy(error)} Then run the same command again with --force.",
        ) from error
    return str(commit.commit_url)


def remedy(error: Exception) -> str:
    """What to do about it."""
    from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, OfflineModeIsEnabled):
        return "Unset HF_HUB_OFFLINE."
    if isinstance(error, LocalTokenNotFoundError) or status == 401:
        return "Log in with 'hf auth login', with a token that may write."
    if status == 403:
        return "This token may not write there: take another with 'hf auth login', or another repository."
    if isinstance(error, HFValidationError):
        return "Choose another name for the repository."
    return "Look at the network, and at HF_ENDPOINT if it is set."
