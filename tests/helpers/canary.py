"""A search for a key in memory, for a process of its own: `python canary.py KEYFILE PID|others EXCEPT…`.

Prints, for each process in whose memory the key is, its number and how many copies it has. The tests themselves never
hold the key, or they would be found.
"""

import os
import sys
from pathlib import Path

_PIECE = 1 << 24


def copies(pid: int, needle: bytes) -> int:
    """How often the bytes are in the writable memory of a process; 0 for one that is gone or is the kernel's."""
    found = 0
    try:
        with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
            for line in maps:
                span, permissions, *_ = line.split()
                if not permissions.startswith("rw"):
                    continue
                start, end = (int(each, 16) for each in span.split("-"))
                held = b""
                for at in range(start, end, _PIECE):
                    try:
                        memory.seek(at)
                        data = held + memory.read(min(_PIECE, end - at))
                    except (OSError, ValueError, OverflowError):
                        break
                    found += data.count(needle)
                    held = data[len(data) - len(needle) + 1 :]
    except OSError:
        return found
    return found


def main() -> None:
    """See above."""
    needle = Path(sys.argv[1]).read_bytes()
    skipped = {os.getpid(), *map(int, sys.argv[3:])}
    pids = (
        [int(sys.argv[2])]
        if sys.argv[2] != "others"
        else [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    )
    for pid in pids:
        if pid not in skipped and (count := copies(pid, needle)):
            print(pid, count)


if __name__ == "__main__":
    main()
