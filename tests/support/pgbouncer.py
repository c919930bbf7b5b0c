"""PgBouncer in transaction mode in front of a test server."""

import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from hybrid_memory.postgres import permissions
from hybrid_memory.postgres.target import Targets
from tests.support.ports import answers, free_port
from tests.support.servers import Server
from tests.support.waiting import until_blocking

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")


def version() -> tuple[int, ...]:
    """Of the installed one; named prepared statements work from 1.21 on."""
    assert PROGRAM is not None
    said = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(map(int, said.split()[1].split(".")))


@contextmanager
def pgbouncer(server: Server, targets: Targets, *, sessions: int, ignore: str = "") -> Iterator[Targets]:
    """The runtime role goes through a pooler that shares `sessions` of the server; the others connect directly.

    `ignore` names startup parameters that the pooler takes without a word.
    """
    account = server.embedded._account
    folder = Path(tempfile.mkdtemp(prefix="hm-pgbouncer-"))
    port = free_port()
    runtime = targets.runtime
    (folder / "users.txt").write_text(f'"{runtime.user}" ""\n')
    (folder / "pgbouncer.ini").write_text(
        f"""\
[databases]
* = host={runtime.hosts[0]} port={runtime.ports[0]}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users.txt
pool_mode = transaction
default_pool_size = {sessions}
max_client_conn = 200
logfile = {folder}/pgbouncer.log
{f"ignore_startup_parameters = {ignore}" if ignore else ""}
"""
    )
    if account is not None:
        for path in (folder, *folder.iterdir()):
            shutil.chown(path, account.pw_uid, account.pw_gid)
    pooler = _Pooler(folder, account)
    try:
        until_blocking(lambda: answers(port) or not pooler.alive, "pgbouncer listens")
        assert pooler.alive, (folder / "pgbouncer.log").read_text()
        pooler.keep()
        yield replace(
            targets, runtime=replace(runtime, hosts=("127.0.0.1",), ports=(port,), tls="disable"), pooled=True
        )
    finally:
        pooler.stop()
        shutil.rmtree(folder)


class _Pooler:
    """A process that is started again when it ends by itself, as an init system does.

    1.18 gives up ("bad client state") where a client goes away at the moment in which one of its calls is cancelled,
    which faults at random come to sooner or later.
    """

    def __init__(self, folder: Path, account: permissions.Account | None) -> None:
        self._folder = folder
        self._account = account
        self._stopping = threading.Event()
        self._changing = threading.Lock()
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._process = self._start()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def keep(self) -> None:
        """Start it again from now on whenever it has ended."""
        self._keeper.start()

    def stop(self) -> None:
        """End it for good."""
        with self._changing:
            self._stopping.set()
            self._process.kill()
        self._process.wait()
        if self._keeper.ident is not None:
            self._keeper.join()

    def _start(self) -> "subprocess.Popen[bytes]":
        assert PROGRAM is not None
        return subprocess.Popen(
            [PROGRAM, "-q", str(self._folder / "pgbouncer.ini")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **permissions.run_as(self._account),
        )

    def _keep(self) -> None:
        while not self._stopping.is_set():
            self._process.wait()
            with self._changing:
                if not self._stopping.wait(0.1):
                    self._process = self._start()
