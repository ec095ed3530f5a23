"""Servers as processes of their own: started on cores of their own, looked at in ``/proc``, ended with all their children."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
_STOP_SECONDS = 10.0
_TOLD = 8192
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_CONTROLLER = Path("/sys/fs/cgroup/cpu")
_PERIOD = 10_000
"""Microseconds, in which a process that is held may compute for its share."""


def pin(pid: int, cores: Collection[int]) -> None:
    """Keeps a process on ``cores``, and what it starts from now on; with none named, or a system that can't, it stays where it is."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(pid, cores)


def written(command: Sequence[str], cores: Collection[int], data: bytes = b"") -> bytes:
    """What a command writes that is given ``data``. Raises :class:`subprocess.CalledProcessError` when it fails."""
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        pin(process.pid, cores)
        found, _ = process.communicate(data)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return found


def free_port() -> int:
    """A port of the loopback interface that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


class Running:
    """A started command. What it writes goes to ``log``."""

    def __init__(
        self, command: Sequence[str], log: Path, *, environment: Mapping[str, str] | None = None, cores: Collection[int] = ()
    ) -> None:
        self.log = log
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._process.pid
        pin(self.pid, cores)

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def said(self) -> str:
        """The last lines that it wrote."""
        with self.log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TOLD))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-15:])

    def pids(self) -> list[int]:
        """All its processes: those of its session."""
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and _fields(int(name))[3:4] == [str(self.pid)]]

    def children(self) -> list[int]:
        """The processes that it has started itself, oldest first."""
        started = {pid: int(fields[19]) for pid in self.pids() if (fields := _fields(pid)) and int(fields[1]) == self.pid}
        return sorted(started, key=lambda pid: (started[pid], pid))

    def memory(self) -> dict[int, float]:
        """Resident MiB by process."""
        return {pid: int(fields[21]) * _PAGE / 2**20 for pid in self.pids() if (fields := _fields(pid))}

    def cpu(self) -> float:
        """Seconds that its living processes have computed."""
        return sum((int(fields[11]) + int(fields[12])) / _TICKS for pid in self.pids() if (fields := _fields(pid)))

    def stop(self) -> None:
        """Ends it, and what is left of its session."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()


def _fields(pid: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` behind the name (which may hold blanks); none when the process is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
    return [] if fields[0] == "Z" else fields


@contextlib.contextmanager
def held(pids: Collection[int], share: float) -> Iterator[bool]:
    """Lets each of these processes have ``share`` of a core: ``False`` where the kernel, or who may not, lets nobody do that.

    By the bandwidth control of Linux's cpu controller, in a group for each (cgroup v1, which root may make).
    """
    groups = [_CONTROLLER / f"benchmark-{os.getpid()}-{pid}" for pid in pids]
    try:
        for pid, group in zip(pids, groups, strict=True):
            group.mkdir()
            (group / "cpu.cfs_period_us").write_text(str(_PERIOD))
            (group / "cpu.cfs_quota_us").write_text(str(round(_PERIOD * share)))
            (group / "cgroup.procs").write_text(str(pid))
        holds = True
    except OSError:
        holds = False
    try:
        yield holds
    finally:
        for pid, group in zip(pids, groups, strict=True):
            with contextlib.suppress(OSError):
                (_CONTROLLER / "cgroup.procs").write_text(str(pid))
            with contextlib.suppress(OSError):
                group.rmdir()


@contextlib.contextmanager
def started_provider(folder: Path, cores: Collection[int], *options: str) -> Iterator[tuple[str, Running]]:
    """A provider's address and process; ``options`` as ``python -m benchmarks.gateway.provider --help`` has them."""
    running = Running([sys.executable, "-m", "benchmarks.gateway.provider", *options], folder / "provider.log", cores=cores)
    try:
        yield _address(running), running
    finally:
        running.stop()


def _address(running: Running) -> str:
    while not running.ended:
        written = running.log.read_text()
        if written.endswith("\n"):
            return written.strip()
        time.sleep(0.01)
    raise RuntimeError(f"the provider ended:\n{running.said()}")
