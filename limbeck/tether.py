"""Tie a program's life to that of the process that starts it, then become that program.

Run as a script, first of all in the new process:  python -I -S tether.py PARENT_PID PROGRAM [ARGUMENT ...]
On Linux the kernel then sends SIGTERM when the thread that started it ends, however it ended. A script,
because running Python between fork and exec can deadlock in a process with threads. Imports nothing of ours.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def tie_to(parent_pid: int) -> None:
    """Ask for SIGTERM when the parent ends, and end now if it has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent_pid:
        sys.exit("the parent process has ended")


if __name__ == "__main__":
    tie_to(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
