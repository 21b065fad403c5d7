"""Policies on the Hugging Face hub: their addresses, downloads and uploads.

The package huggingface_hub does the work, and is imported when it is needed. It reads the user's
token, the address of the hub and the folder of its cache from the environment; nothing of metarl
sees the token.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metarl.config.trust import FLAG, names_code
from metarl.core.errors import CheckpointError, ConfigError, ResourceError, require_package
from metarl.core.machine.yaml_files import load_yaml
from metarl.runs import published
from metarl.runs.progress import heartbeat

PREFIX = "hf://"

CARD = "README.md"
"""File of the model card, which its owner may edit on the hub."""

FILM = "replay"
"""Name of the film without its suffix; the hub shows replay.mp4 beside the card."""

_PATTERNS = ["*.json", "*.jsonl", "*.yaml", "*.yml", "checkpoints/*.safetensors", "robot/*"]
"""Files that are downloaded: everything that a published policy consists of, and no code."""

_OWN_FOLDERS = ("checkpoints/", "evaluations/", "robot/", f"{FILM}.")
"""Beginnings of the files that a new upload replaces."""

_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)


@dataclass(frozen=True)
class Address:
    """Place of a policy on the hub.

    Attributes:
        repository: ORG/NAME.
        revision: A branch, tag or commit; "" is the newest.
    """

    repository: str
    revision: str = ""

    def __str__(self) -> str:
        return PREFIX + self.repository + (f"@{self.revision}" if self.revision else "")


def is_address(run: str | Path) -> bool:
    """Returns whether a run is named by its address on the hub."""
    return isinstance(run, str) and run.startswith(PREFIX)


def parse_address(text: str) -> Address:
    """Reads hf://ORG/NAME or hf://ORG/NAME@REVISION.

    Raises:
        ConfigError: The text has another form.
    """
    match = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)(?:@(\S+))?", text)
    if match is None:
        raise ConfigError(f"{text}: must be hf://ORG/NAME or hf://ORG/NAME@REVISION")
    return Address(match[1], match[2] or "")


def check_repository(name: str) -> None:
    """Checks the name of a repository.

    Raises:
        ConfigError: It is not ORG/NAME.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ConfigError(f"{name}: must be ORG/NAME, of letters, digits, '-', '_' and '.'")


# --- download -------------------------------------------------------------------------------------


def find_run(run: str | Path) -> Path:
    """Returns the folder of a run; one on the hub is downloaded first, if it is not in the cache.

    Args:
        run: A run folder, or hf://ORG/NAME[@REVISION].

    Raises:
        ConfigError: It is neither a path nor an address, the address has another form,
            or the policy needs code that the download does not bring.
        CheckpointError: There is no such policy, or the download is damaged.
        ResourceError: huggingface_hub is missing, or the hub cannot be reached.
    """
    if not isinstance(run, (str, Path)):
        raise ConfigError(f"run = {run!r:.100}: must be a run folder or hf://ORG/NAME[@REVISION]")
    if not is_address(run):
        return Path(run)
    address = parse_address(str(run))
    hub = require_package("huggingface_hub", "hub", str(address))
    with heartbeat(f"downloading {address}"), _name_failures(str(address)):
        options = {"revision": address.revision or None, "library_name": "metarl"}
        folder = hub.snapshot_download(address.repository, allow_patterns=_PATTERNS, **options)
    hint = f"load it again with: hf download {address.repository} --force-download"
    if published.read(Path(folder), hint) is None:
        raise CheckpointError(f"{address} is no policy of metarl: it has no {published.FILE}")
    _refuse_code(address, Path(folder))
    return Path(folder)


def _refuse_code(address: Address, folder: Path) -> None:
    """Refuses a policy whose settings name Python code, which loading it would import and run.

    Raises:
        ConfigError: Environment or learner is module:Class; the message has the folder.
    """
    settings = load_yaml(folder / "config.yaml")
    for key in ("env", "algo"):
        value = str(settings.get(key))
        if names_code(value):
            hint = f"if you trust that code and have it, load the folder {folder} with {FLAG}"
            raise ConfigError(f"{address}: its {key} is the code {value!r}; {hint}")


# --- upload ---------------------------------------------------------------------------------------


def upload(folder: Path, repository: str, *, private: bool = False) -> str:
    """Uploads the files of a folder in one commit, which replaces an older policy.

    Metadata that the owner has given to the card on the hub, such as a license, are kept.

    Args:
        folder: The files.
        repository: ORG/NAME; it is created if there is none.
        private: Create it private.

    Returns:
        The web address of the commit.

    Raises:
        ConfigError: The repository holds something else or is public where a private one is wanted.
        ResourceError: huggingface_hub is missing, or the hub cannot be reached or refuses.
    """
    hub = require_package("huggingface_hub", "hub", PREFIX + repository)
    api = hub.HfApi(library_name="metarl")
    with heartbeat(f"uploading to {PREFIX}{repository}"), _name_failures(PREFIX + repository):
        api.create_repo(repository, private=private or None, exist_ok=True)
        info = api.model_info(repository)
        names = {sibling.rfilename for sibling in info.siblings or ()}
        _check_existing(repository, names, is_public=private and not info.private)
        if CARD in names:
            card = Path(api.hf_hub_download(repository, CARD, revision=info.sha))
            _keep_front_matter(card.read_text(encoding="utf-8"), folder / CARD)
        files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
        stale = [n for n in sorted(names - set(files)) if n.startswith(_OWN_FOLDERS)]
        operations = [hub.CommitOperationAdd(n, str(path)) for n, path in sorted(files.items())]
        operations += [hub.CommitOperationDelete(name) for name in stale]
        message = "Upload a policy of metarl"
        options = {"commit_message": message, "parent_commit": info.sha}
        commit = api.create_commit(repository, operations, **options)
    return str(commit.commit_url)


def _check_existing(repository: str, names: set[str], *, is_public: bool) -> None:
    """Refuses repositories of something else, and public ones where a private one is wanted."""
    if names - {".gitattributes", CARD} and published.FILE not in names:
        hint = "choose another name"
        raise ConfigError(f"{repository} holds something else than a policy of metarl; {hint}")
    if is_public:
        hint = "make it private on the hub, or choose another name"
        raise ConfigError(f"--private: {repository} exists and is public; {hint}")


def _keep_front_matter(old: str, card: Path) -> None:
    """Puts the metadata of the card on the hub in place of those of the new card."""
    if match := _FRONT_MATTER.match(old):
        new = card.read_text(encoding="utf-8")
        card.write_text(match[0] + _FRONT_MATTER.sub("", new, count=1), encoding="utf-8")


@contextmanager
def _name_failures(where: str) -> Generator[None]:
    """Turns failures of huggingface_hub into errors of one line.

    Raises:
        ConfigError: The hub cannot have such a name.
        CheckpointError: There is no such repository or revision.
        ResourceError: The hub cannot be reached or refuses, or the disk does.
    """
    import httpx2
    from huggingface_hub import errors

    login = "log in with: hf auth login"
    try:
        yield
    except errors.HFValidationError as error:
        raise ConfigError(f"{where}: {_first_line(error)}") from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(f"{where}: there is none, or it is private; {login}") from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{where}: there is no such revision") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        hint = f"; {login}" if status in (401, 403) else ""
        raise ResourceError(f"{where}: the hub answers with status {status}{hint}") from error
    except (httpx2.HTTPError, OSError, RuntimeError, ValueError) as error:
        raise ResourceError(f"{where}: {_first_line(error)}") from error


def _first_line(error: Any) -> str:
    """Returns the first line of a message, or the name of an error without one."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
