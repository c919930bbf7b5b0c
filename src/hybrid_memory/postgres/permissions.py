"""Who runs the embedded server: the user itself, or, because Postgres refuses root, an account of its own."""

import os
import pwd
import stat
import subprocess
from pathlib import Path
from typing import Any

from hybrid_memory.errors import ConfigurationError

Account = pwd.struct_passwd
_NAME = "pgserver"


def server_account(directory: Path) -> Account | None:
    """Make `directory` ready for the server; the account to run it as when we are root, else None.

    The directory is private to its user (0700). For root's own account the group may pass through it (0710), and the
    folders above it are opened for passing (not for reading) where that is missing.
    """
    try:
        for one in (directory.parent, directory):
            one.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.geteuid() != 0:
            directory.chmod(0o700)
            return None
    except OSError as error:
        raise ConfigurationError(
            f"{directory} cannot be used ({error.strerror}): "
            "set HYBRID_MEMORY_DATA_DIR to a directory of this user's own"
        ) from error
    account = _account()
    os.chown(directory, account.pw_uid, account.pw_gid)
    directory.chmod(0o700)
    _let_pass(directory.parent, account)
    return account


def let_run(program: Path, account: Account | None) -> None:
    """Let the account run `program` and read the files it was installed with."""
    if account is None:
        return
    _let_pass(program.parent, account)
    for one in (program.parents[1], *program.parents[1].rglob("*")):
        mode = stat.S_IMODE(one.lstat().st_mode)
        wanted = mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0)
        if mode != wanted and not one.is_symlink():
            one.chmod(wanted)


def give(path: Path, account: Account | None) -> None:
    """Make the account the owner; refuse a path that somebody else has made."""
    if path.is_symlink() or path.stat().st_uid not in (
        os.geteuid(),
        account.pw_uid if account else os.geteuid(),
    ):
        raise ConfigurationError(f"{path} belongs to another user; remove it or set TMPDIR to a private directory")
    if account is not None:
        os.chown(path, account.pw_uid, account.pw_gid)
    path.chmod(0o700)


def run_as(account: Account | None) -> dict[str, Any]:
    """Keywords of `subprocess.run`."""
    if account is None:
        return {"start_new_session": True}
    return {"start_new_session": True, "user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def environment() -> dict[str, str]:
    """The environment of Postgres' programs: none of the variables that would make them connect elsewhere."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


def _account() -> Account:
    try:
        return pwd.getpwnam(_NAME)
    except KeyError:
        pass
    try:
        subprocess.run(["useradd", "--system", "--no-create-home", _NAME], check=True, capture_output=True)  # noqa: S607 - found on root's path
        return pwd.getpwnam(_NAME)
    except (OSError, subprocess.SubprocessError, KeyError) as error:
        raise ConfigurationError(
            f"Postgres refuses to run as root, and the account {_NAME!r} for it could not be made: "
            f"run as another user, make the account (useradd {_NAME}), or set DATABASE_URL"
        ) from error


def _let_pass(folder: Path, account: Account) -> None:
    """Add the right to pass through `folder` and those above it where the account has none."""
    for one in (folder, *folder.parents):
        status = one.stat()
        owner_passes = status.st_uid == account.pw_uid and status.st_mode & stat.S_IXUSR
        group_passes = status.st_gid == account.pw_gid and status.st_mode & stat.S_IXGRP
        if not (status.st_mode & stat.S_IXOTH or owner_passes or group_passes):
            one.chmod(stat.S_IMODE(status.st_mode) | stat.S_IXOTH)
