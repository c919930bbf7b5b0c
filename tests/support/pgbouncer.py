"""PgBouncer in transaction mode in front of a test server."""

import shutil
import subprocess
import tempfile
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
    assert PROGRAM is not None
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
    process = subprocess.Popen(
        [PROGRAM, "-q", str(folder / "pgbouncer.ini")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **permissions.run_as(account),
    )
    try:
        until_blocking(lambda: answers(port) or process.poll() is not None, "pgbouncer listens")
        assert process.poll() is None, (folder / "pgbouncer.log").read_text()
        yield replace(
            targets, runtime=replace(runtime, hosts=("127.0.0.1",), ports=(port,), tls="disable"), pooled=True
        )
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)
