"""Upload of a folder to the Hugging Face Hub."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from gpt4image.core.errors import ConfigError, PushError, causes, first_line
from gpt4image.core.hub import hub_progress
from gpt4image.core.options import PushOptions

TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


def hub_token(repo: str) -> str:
    """Return the token for a push to a repository; it is read from the environment only.

    Raises:
        ConfigError: the name is invalid, or no token is set.
    """
    if not REPOSITORY.fullmatch(repo):
        raise ConfigError(f"{repo!r} is not a repository name: write USER/NAME, with letters, digits, -, _ and dots.")
    token = next(filter(None, (os.environ.get(name, "").strip() for name in TOKEN_VARIABLES)), None)
    if token is None:
        raise ConfigError(
            f"A push to {repo} needs a token with write access, and {TOKEN_VARIABLES[0]} is not set: create one in "
            f"your settings on the Hub, then export {TOKEN_VARIABLES[0]}=..."
        )
    return token


def push_folder(
    folder: Path, options: PushOptions, *, kind: Literal["model", "dataset"], old: Sequence[str]
) -> str | None:
    """Upload a folder as one commit, creating the repository if necessary; do nothing if no repository is named.

    Args:
        folder: the folder; everything in it is uploaded.
        options: the repository, and whether to make it private. A repository that is already public is then left alone.
        kind: what the folder contains.
        old: patterns of files that an earlier push may have left in the repository; this one replaces them.

    Returns:
        Address of the repository.

    Raises:
        ConfigError: there is no token, or the name is invalid.
        PushError: there is no network or no write access, or the repository is public and should not be.
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
            with hub_progress():
                api.upload_folder(
                    repo_id=repo,
                    repo_type=kind,
                    folder_path=folder,
                    commit_message="Upload by gpt4image",
                    delete_patterns=list(old),
                )
    except Exception as error:  # errors differ by version and by way of uploading
        raise PushError(f"{repo}: {_reason(error, repo).replace(token, '[key]')} {folder} is kept.") from None
    if public:
        raise PushError(
            f"{repo} is already public; nothing was pushed. Make it private on the Hub, or name another one."
        )
    return place


def _reason(error: Exception, repo: str) -> str:
    """Say why a push failed, and what to do about it."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    errors = list(causes(error))
    if any(isinstance(cause, OfflineModeIsEnabled) for cause in errors):
        return "HF_HUB_OFFLINE blocks all access to the Hub. Unset it to push."
    statuses = [getattr(getattr(cause, "response", None), "status_code", None) for cause in errors]
    status = next((status for status in statuses if status), None)
    if status == 401:
        return "the Hub does not accept this token. Check it, or create a new one in your settings on the Hub."
    if status == 403:
        user = repo.partition("/")[0]
        return f"this token has no write access there. Use a token of {user} that does, or name a repository of yours."
    # The Xet library reports an unexpected response as a lost connection, with its status only in the text.
    unanswered = status is None and "HTTP status" not in str(errors[-1])
    if unanswered and any("Connect" in type(cause).__name__ or "Timeout" in type(cause).__name__ for cause in errors):
        return (
            f"the Hub cannot be reached ({first_line(errors[-1])}). Check the network and HF_ENDPOINT, and push again."
        )
    return f"the push failed ({first_line(errors[-1])}). Push again: files that have arrived are not sent twice."
