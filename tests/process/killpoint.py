"""Kills a forked process as it enters its n-th system call, in any of its threads (ptrace(2))."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable

TRACEME, SYSCALL, SETOPTIONS, GET_SYSCALL_INFO = 0, 24, 0x4200, 0x420E
TRACESYSGOOD, TRACECLONE, EXITKILL = 1, 8, 0x100000
WALL = 0x40000000
ENTRY = 1  # PTRACE_SYSCALL_INFO_ENTRY
SYSCALL_STOP = signal.SIGTRAP | 0x80

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


class _Info(ctypes.Structure):
    """struct ptrace_syscall_info, linux/ptrace.h, as far as it is of use here."""

    _fields_ = [
        ("op", ctypes.c_uint8),
        ("pad", ctypes.c_uint8 * 3),
        ("arch", ctypes.c_uint32),
        ("instruction", ctypes.c_uint64),
        ("stack", ctypes.c_uint64),
        ("number", ctypes.c_uint64),
        ("rest", ctypes.c_uint64 * 8),
    ]


def _ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> int:
    result: int = _libc.ptrace(request, pid, address, data)
    if result == -1:
        raise OSError(ctypes.get_errno(), f"ptrace {request:#x}")
    return result


def run(action: Callable[[], None], kill_at: int) -> bool:
    """Fork, run `action`, and kill at system call number `kill_at` (1 = the first); False when it ended before that.

    Raises AssertionError when the action fails by itself.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setpgid(0, 0)
            _ptrace(TRACEME, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            action()
            code = 0
        finally:
            os._exit(code)
    os.waitpid(pid, WALL)
    _ptrace(SETOPTIONS, pid, 0, TRACESYSGOOD | TRACECLONE | EXITKILL)
    _ptrace(SYSCALL, pid)
    return _follow(pid, kill_at)


def _follow(pid: int, kill_at: int) -> bool:
    calls, killed = 0, False
    while True:
        # The group holds the threads too, and nobody else's children.
        tid, status = os.waitpid(-pid, WALL)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            if tid != pid:
                continue
            assert killed or os.waitstatus_to_exitcode(status) == 0, f"the action ended with {status:#x}"
            return killed
        number = os.WSTOPSIG(status)
        if number == SYSCALL_STOP and _enters(tid):
            calls += 1
            if calls == kill_at:
                killed = True
                os.kill(pid, signal.SIGKILL)
                continue
        ours = number in (SYSCALL_STOP, signal.SIGTRAP, signal.SIGSTOP)
        try:
            _ptrace(SYSCALL, tid, 0, 0 if ours else number)
        except ProcessLookupError:
            continue


def _enters(tid: int) -> bool:
    info = _Info()
    try:
        _ptrace(GET_SYSCALL_INFO, tid, ctypes.sizeof(info), ctypes.addressof(info))
    except ProcessLookupError:
        return False
    return bool(info.op == ENTRY)
