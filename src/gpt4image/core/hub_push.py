"""Upload of a folder to the Hugging Face Hub."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from gpt4image.core.errors import ConfigError, PushError, causes, first_line
from gpt4image.core.options import PushOptions

TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


def hub_token(repo: str) -> str:
    """Return the token for a push to a repository, from the environment and nowhere else.

    Raises:
        ConfigError: the name is no repository's, or no token is set.
    """
    if not REPOSITORY.fullmatch(repo):
        raise ConfigError(
            f"{repo!r} is no repository of the Hub: write USER/NAME, from letters, digits, -, _ and dots."
        )
    token = next(filter(None, (os.environ.get(name, "").strip() for name in TOKEN_VARIABLES)), None)
    if token is None:
        raise ConfigError(
            f"A push to {repo} needs a token with the right to write, and {TOKEN_VARIABLES[0]} is not set: make one in "
            f"your settings on the Hub, then export {TOKEN_VARIABLES[0]}=..."
        )
    return token


def push_folder(
    folder: Path, options: PushOptions, *, kind: Literal["model", "dataset"], old: Sequence[str]
) -> str | None:
    """Upload a folder as one commit, after making the repository if need be; nothing if no repository is named.

    Args:
        folder: the folder, of which everything is uploaded.
        options: the repository, and whether to make it private. One that is public already is then left alone.
        kind: what the folder holds.
        old: patterns of files in the repository that an earlier push may have left and that this one replaces.

    Returns:
        Address of the repository.

    Raises:
        ConfigError: there is no token, or the name is no repository's.
        PushError: there is no network, no right to write, or the repository is public and should not be.
    """
    if options.push is None:
        return None
    repo, private, token = options.push, options.private, hub_token(options.push)
    from huggingface_hub import HfApi

    api = HfApi(token=token, library_name="gpt4image")
    try:
        place = str(api.create_repo(repo, repo_type=kind, private=private or None, exist_ok=True))
        public = private and not api.repo_info(repo, repo_type=kind).private
        if not public:
            api.upload_folder(
                repo_id=repo,
                repo_type=kind,
                folder_path=folder,
                commit_message="Upload by gpt4image",
                delete_patterns=list(old),
            )
    except Exception as error:  # each version and each way of upload has its own
        raise PushError(f"{repo}: {_reason(error, repo).replace(token, '[key]')} {folder} is kept.") from None
    if public:
        raise PushError(f"{repo} is public already; nothing was pushed. Make it private on the Hub, or name another.")
    return place


def _reason(error: Exception, repo: str) -> str:
    """Say why a push failed, and what to do about it."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    errors = list(causes(error))
    if any(isinstance(cause, OfflineModeIsEnabled) for cause in errors):
        return "HF_HUB_OFFLINE forbids all access to the Hub. Unset it to push."
    statuses = [getattr(getattr(cause, "response", None), "status_code", None) for cause in errors]
    status = next((status for status in statuses if status), None)
    if status == 401:
        return "the Hub does not know this token. Check it, or make a new one in your settings on the Hub."
    if status == 403:
        user = repo.partition("/")[0]
        return f"this token has no right to write there. Use one of {user} that has, or name a repository of yours."
    # The library of Xet calls an answer it does not expect a lost connection, and says its status in the text only.
    unanswered = status is None and "HTTP status" not in str(errors[-1])
    if unanswered and any("Connect" in type(cause).__name__ or "Timeout" in type(cause).__name__ for cause in errors):
        return (
            f"the Hub cannot be reached ({first_line(errors[-1])}). Check the network and HF_ENDPOINT, and push again."
        )
    return f"the push failed ({first_line(errors[-1])}). Push again: what has arrived is not sent twice."
