"""The jail: what a sandbox process takes from itself before it touches user code.

Called in the child by `child.py` in two steps: `enter` before threads exist (Landlock holds for the calling thread and
those it starts later), `seal` once the last thread runs (from then on none can be started). Each layer stands
alone, so a kernel without one keeps the others:

| layer | what it takes away | needs |
|---|---|---|
| `no_new_privs` | privileges by exec; allows the next ones without root | Linux 3.5 |
| `no_capabilities` | what root may do; not its uid, so that the parent can end it | any |
| `landlock` | all files; TCP (ABI 4); signals and abstract sockets outside (ABI 6) | Linux 5.13 |
| `seccomp` | every system call that is not listed: no open, socket, exec, fork, ptrace, kill | Linux 3.17 |
| `rlimits` | memory, file sizes, core dumps, descriptors, CPU time of its life | any |

Sources: https://docs.kernel.org/userspace-api/landlock.html, https://docs.kernel.org/userspace-api/seccomp_filter.html,
prctl(2), capset(2), getrlimit(2).
"""

import ctypes
import errno
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import msgspec
import seccompy

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38

# The same numbers on every architecture.
_SYS_LANDLOCK_CREATE_RULESET: Final = 444
_SYS_LANDLOCK_RESTRICT_SELF: Final = 446
_LANDLOCK_VERSION: Final = 1
# Rights by the ABI that brought them: files (execute … make symlinks, refer, truncate, ioctl), TCP, scopes.
_FILE_RIGHTS: Final = ((1, (1 << 13) - 1), (2, 1 << 13), (3, 1 << 14), (5, 1 << 15))
_NET_RIGHTS: Final = ((4, 0b11),)
_SCOPES: Final = ((6, 0b11),)

_CAPABILITY_VERSION_3: Final = 0x20080522
_PROT_EXEC: Final = 4

SYSCALLS: Final = (
    # memory (mmap and mprotect: see `seal`)
    "brk", "munmap", "mremap", "madvise",
    # the threads that are there: wait, wake, give way, end
    "futex", "sched_yield", "nanosleep", "clock_nanosleep", "rt_sigprocmask", "rt_sigreturn", "sigaltstack",
    "restart_syscall", "exit", "exit_group", "gettid", "getpid", "membarrier", "rseq",
    # time and chance
    "clock_gettime", "clock_getres", "gettimeofday", "getrandom", "getrusage",
    # the descriptors that are left: the socket to the parent, and what the host keeps
    "read", "write", "recvfrom", "sendto", "close", "epoll_wait", "epoll_pwait", "epoll_ctl",
)  # fmt: skip
"""What CPython and V8 need once they are started. Any other fails with EPERM."""


class Limits(msgspec.Struct, frozen=True):
    """Of one process."""

    memory_bytes: int
    """Data on top of what the process has when it is limited (RLIMIT_DATA)."""
    cpu_s: int = 24 * 3600
    """Of its whole life. The parent ends it long before; this is for a parent that hangs."""


class Layers(msgspec.Struct, frozen=True):
    """Which layers hold in this process, or would on this machine."""

    holding: tuple[str, ...]
    missing: tuple[str, ...]
    """Each with the reason in brackets."""
    landlock_abi: int = 0
    """0: none. Below 4 TCP is left to seccomp, which takes it as well."""


class _LandlockRules(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _CapabilityHead(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilityData(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


class Jail:
    """One jail around this process. Made before anything of it is applied: it reads what it needs from files."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.syscall.restype = ctypes.c_long
        self._holding: list[str] = []
        self._missing: list[str] = []
        self._abi = 0
        # Looks for libc, which may fork a compiler: before the jail or never.
        self._seccomp = sys.platform == "linux" and seccompy.supported()
        self._status = _open_status()

    def enter(self, *, keep_fds: Iterable[int]) -> None:
        """Give up files, sockets, privileges and all descriptors but `keep_fds`. Threads may still be started."""
        _close_all_but({*keep_fds, self._status})  # first: /proc/self is root's once we can't be dumped
        self._try("no_new_privs", self._take_privileges)
        self._try("no_capabilities", self._take_capabilities)
        self._try("landlock", self._take_files)

    def seal(self, limits: Limits, *, also: Iterable[str] = (), executable_memory: bool = False) -> Layers:
        """Limit memory and give up all system calls but `SYSCALLS` and `also`, for all threads that run.

        Args:
            limits: on top of what the process uses by now.
            also: system calls besides `SYSCALLS`.
            executable_memory: whether memory may become executable (a compiler at run time, as V8 has).
        """
        self._try("rlimits", lambda: self._limit(limits))
        self._try("seccomp", lambda: self._take_syscalls(also, executable_memory))
        return Layers(tuple(self._holding), tuple(self._missing), self._abi)

    def _try(self, layer: str, apply: Callable[[], None]) -> None:
        try:
            apply()
        except OSError as error:
            self._missing.append(f"{layer} ({error.strerror or error})")
        else:
            self._holding.append(layer)

    def _take_privileges(self) -> None:
        self._check(self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
        self._check(self._libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))
        self._check(self._libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))

    def _take_capabilities(self) -> None:
        head = _CapabilityHead(_CAPABILITY_VERSION_3, 0)
        self._check(self._libc.capset(ctypes.byref(head), (_CapabilityData * 2)()))

    def _take_files(self) -> None:
        version = (None, 0, _LANDLOCK_VERSION)
        abi = self._check(self._libc.syscall(_SYS_LANDLOCK_CREATE_RULESET, *version))
        rules = _LandlockRules(_rights(_FILE_RIGHTS, abi), _rights(_NET_RIGHTS, abi), _rights(_SCOPES, abi))
        # Older kernels know a shorter struct, and accept a longer one whose rest is zero.
        ruleset = self._check(
            self._libc.syscall(_SYS_LANDLOCK_CREATE_RULESET, ctypes.byref(rules), ctypes.sizeof(rules), 0)
        )
        try:
            self._check(self._libc.syscall(_SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0))
        finally:
            os.close(ruleset)
        self._abi = abi

    def _limit(self, limits: Limits) -> None:
        data = _data_bytes(self._status) + limits.memory_bytes
        os.close(self._status)
        for what, most in (
            (resource.RLIMIT_DATA, data),
            (resource.RLIMIT_CPU, limits.cpu_s),
            (resource.RLIMIT_FSIZE, 0),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_NPROC, 0),
            (resource.RLIMIT_NOFILE, 0),
            (resource.RLIMIT_MEMLOCK, 0),
            (resource.RLIMIT_MSGQUEUE, 0),
        ):
            try:
                resource.setrlimit(what, (most, most))
            except ValueError as error:  # above the hard limit that we were started with
                _, hard = resource.getrlimit(what)
                if hard == resource.RLIM_INFINITY or hard > most:
                    raise OSError(errno.EINVAL, str(error)) from None

    def _take_syscalls(self, also: Iterable[str], executable_memory: bool) -> None:
        if not self._seccomp:
            raise OSError(errno.ENOSYS, "the kernel was built without it")
        rules = seccompy.Filter(int(seccompy.Action.ERRNO) | errno.EPERM, flags=seccompy.FilterFlag.TSYNC)
        for name in (*SYSCALLS, *also):
            _allow(rules, name)
        for name in ("mmap", "mprotect"):
            _allow(rules, name, None if executable_memory else ((2, 6, 0, _PROT_EXEC),))
        try:
            rules.load()
        except seccompy.SeccompError as error:
            raise OSError(error.errno, f"refused: {error}") from None

    def _check(self, answer: Any) -> int:
        if answer < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return int(answer)


def _allow(rules: seccompy.Filter, name: str, args: Any = None) -> None:
    try:
        rules.allow(name, args=args)
    except (ValueError, seccompy.UnsupportedError):
        # This architecture has no such call (arm64: no epoll_wait): nothing to allow.
        return


def _rights(table: tuple[tuple[int, int], ...], abi: int) -> int:
    return sum(bits for since, bits in table if abi >= since)


def _open_status() -> int:
    try:
        return os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1


def _data_bytes(status: int) -> int:
    """What RLIMIT_DATA counts of this process by now."""
    if status < 0:
        raise OSError(errno.ENOENT, "no /proc to read the memory in use from")
    os.lseek(status, 0, os.SEEK_SET)
    for line in os.read(status, 65536).splitlines():
        if line.startswith(b"VmData:"):
            return int(line.split()[1]) * 1024
    raise OSError(errno.ENOENT, "/proc/self/status has no VmData")


def _close_all_but(keep: set[int]) -> None:
    last = 2  # the standard ones lead to /dev/null
    for fd in sorted(fd for fd in keep if fd > last):
        os.closerange(last + 1, fd)
        last = fd
    # The table is as long as the hard limit says, which may be a thousand million: what is listed is open.
    open_now = [int(path.name) for path in Path("/proc/self/fd").iterdir()]
    for fd in open_now:
        if fd > last:
            try:
                os.close(fd)
            except OSError as error:
                if error.errno != errno.EBADF:  # the listing's own is closed by now
                    raise


def main() -> None:
    """Try every layer on this process and write as JSON which hold: what `process.probe_layers` runs."""
    cell = Jail()
    cell.enter(keep_fds=())
    layers = cell.seal(Limits(memory_bytes=64 * 1024**2))
    os.write(1, msgspec.json.encode(layers))
    os._exit(0)


if __name__ == "__main__":
    main()
