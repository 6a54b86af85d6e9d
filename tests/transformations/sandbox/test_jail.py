"""The jail: all layers on this kernel, refusal where one is missing, and hostile code right inside of it."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import mainstem
from mainstem.transformations.sandbox.process import probe_layers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the jail is Linux's")

SOURCE = str(Path(mainstem.__file__).parents[1])
LAYERS = {"no_new_privs", "no_capabilities", "landlock", "seccomp", "rlimits"}

JAILED = """
import ctypes, errno, mmap, os, resource, signal, socket, sys, threading
from pathlib import Path
from mainstem.transformations.sandbox.jail import Jail, Limits
mmap_ = mmap.mmap
other = socket.socketpair()
cell = Jail()
cell.enter(keep_fds=())
layers = cell.seal(Limits(memory_bytes=32 << 20))
assert not layers.missing, layers
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

def refused(attempt):
    try:
        attempt()
    except (PermissionError, MemoryError):
        return
    except ValueError as error:  # setrlimit's words for EPERM
        assert "not allowed" in str(error)
        return
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES, errno.EBADF, errno.EMFILE, errno.ENOMEM):
            return
        raise
    raise AssertionError("it worked")

def syscall(*arguments):
    if libc.syscall(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")
"""

ATTEMPTS = {
    "read a file": "refused(lambda: open('/etc/passwd'))",
    "read the own environment": "refused(lambda: open('/proc/self/environ'))",
    "write a file": "refused(lambda: open('/tmp/mainstem-jail', 'w'))",
    "list a folder": "refused(lambda: os.listdir('/'))",
    "open by a raw call": "refused(lambda: syscall(257, -100, b'/etc/passwd', 0))",
    "openat2": "refused(lambda: syscall(437, -100, b'/etc/passwd', 0, 24))",
    "io_uring": "refused(lambda: syscall(425, 8, 0))",
    "memfd": "refused(lambda: syscall(319, b'x', 0))",
    "socket": "refused(lambda: socket.socket())",
    "datagram": "refused(lambda: socket.socket(type=socket.SOCK_DGRAM))",
    "unix socket": "refused(lambda: socket.socket(socket.AF_UNIX))",
    "a descriptor that was open": "refused(lambda: other[0].send(b'x'))",
    "fork": "refused(os.fork)",
    "clone3": "refused(lambda: syscall(435, 0, 0))",
    "a thread": """
try:
    threading.Thread(target=print).start()
except RuntimeError:
    pass
else:
    raise AssertionError("it worked")
""",
    "exec": "refused(lambda: os.execv('/bin/true', ['true']))",
    "ptrace": "refused(lambda: syscall(101, 16, os.getpid(), 0, 0))",
    "memory of others": "refused(lambda: syscall(310, 1, 0, 0, 0, 0, 0))",
    "kill the parent": "refused(lambda: os.kill(os.getpid() - 1, signal.SIGKILL))",
    "signal by pidfd": "refused(lambda: syscall(434, 1, 0))",
    "root by setuid": "refused(lambda: os.setresuid(0, 0, 0))",
    "mount": "refused(lambda: syscall(165, 0, 0, 0, 0, 0))",
    "namespaces": "refused(lambda: syscall(272, 0x10000000))",
    "bpf": "refused(lambda: syscall(321, 0, 0, 0))",
    "keys": "refused(lambda: syscall(250, 0, 0))",
    "raise the limits": "refused(lambda: resource.setrlimit(resource.RLIMIT_DATA, (1 << 40, 1 << 40)))",
    "another filter": "refused(lambda: syscall(317, 1, 0, 0))",
    "prctl": "refused(lambda: syscall(157, 4, 1, 0, 0, 0))",
    "terminal": "refused(lambda: syscall(16, 0, 0x5412, b'x'))",
    "memory": "refused(lambda: bytearray(64 << 20))",
    "memory that is executable": "refused(lambda: mmap_(-1, 4096, prot=7))",
}


def _run(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": SOURCE},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_all_layers_hold_here() -> None:
    layers = probe_layers()
    assert set(layers.holding) == LAYERS
    assert layers.missing == ()
    assert layers.landlock_abi >= 1


@pytest.mark.parametrize("name", ATTEMPTS)
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86-64")
def test_attempt(name: str) -> None:
    ended = _run(f"{JAILED}\n{ATTEMPTS[name]}\nos.write(1, b'refused')\nos._exit(0)")
    assert ended.stdout == "refused", ended.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_all_layers_hold_for_somebody_who_is_not_root() -> None:
    ended = _run("""
import os
import mainstem.transformations.sandbox.jail as jail
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
jail.main()
""")
    assert '"missing":[]' in ended.stdout, ended.stdout + ended.stderr


def test_the_process_dies_with_its_parent() -> None:
    """The jailed grandchild's end of the pipe closes when its parent is killed."""
    jailed = textwrap.dedent("""
        import os, time
        from mainstem.transformations.sandbox.jail import Jail, Limits
        cell = Jail()
        cell.enter(keep_fds=(1,))
        cell.seal(Limits(memory_bytes=1 << 25))
        os.write(1, b"jailed")
        while True:
            time.sleep(1)
    """)
    parent = textwrap.dedent(f"""
        import subprocess, sys, os, signal
        child = subprocess.Popen([sys.executable, "-c", {jailed!r}], stdout=subprocess.PIPE)
        assert child.stdout.read(6) == b"jailed"
        os.write(1, b"x")
        signal.pause()
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", parent],
        env={"PYTHONPATH": SOURCE},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        assert process.stdout.read(1) == b"x"
        process.kill()
        process.wait()
        # The jailed one holds standard error until the kernel ends it; its end is the end of the file.
        assert process.stderr.read() == b""


@pytest.mark.parametrize("allowed", [False, True])
def test_a_kernel_without_a_layer_is_refused_unless_the_operator_allows_it(allowed: bool) -> None:
    """A filter that answers ENOSYS to Landlock makes this kernel an old one, for a process and its children."""
    ended = _run(
        textwrap.dedent(f"""
            import asyncio, errno, seccompy
            rules = seccompy.Filter()
            for name in ("landlock_create_ruleset", "landlock_restrict_self"):
                rules.errno(name, errno.ENOSYS)
            rules.load()
            from mainstem.transformations.base import Given, SandboxUnavailable
            from mainstem.transformations.sandbox.process import probe_layers
            from mainstem.transformations.sandbox.runtime import SandboxRuntime
            from mainstem.workspace.model import Transformation
            print(probe_layers().missing)
            async def main():
                runtime = SandboxRuntime(allow_weak_sandbox={allowed})
                code = "export const transformEvent = (event) => event"
                transformation = Transformation(id="t@1", name="t", version="1", kind="javascript", code=code)
                try:
                    print(await runtime.run(transformation, [Given({{"n": 1}}, {{}}, "s", 0)]))
                except SandboxUnavailable as error:
                    print("unavailable:", error)
                await runtime.close()
            asyncio.run(main())
        """)
    )
    assert "landlock (Function not implemented)" in ended.stdout, ended.stderr
    if allowed:
        assert "Kept" in ended.stdout
        assert "WEAK" in ended.stderr
    else:
        assert "unavailable: the sandbox can't start: this machine lacks landlock" in ended.stdout
