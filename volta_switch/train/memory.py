"""What a run on the CPU does with memory that it has freed."""

from __future__ import annotations

import ctypes
import sys

# glibc's numbers of mallopt's parameters (malloc.h).
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, MMAP_MAX = -1, -2, -3, -4
KEEPING = {MMAP_MAX: 0, TRIM_THRESHOLD: -1, TOP_PAD: 64 * 2**20}
# As glibc adjusts them by itself in a process that allocates large blocks.
GIVING_BACK = {MMAP_MAX: 65536, MMAP_THRESHOLD: 32 * 2**20, TRIM_THRESHOLD: 64 * 2**20, TOP_PAD: 128 * 2**10}


def keep_freed_memory(keep: bool = True) -> bool:
    """Keeps freed memory in the process for what is allocated next; False gives it back to the system, as by default.

    Every step allocates the same activations and gradients anew. glibc maps large blocks from the system and gives them
    back, so that the system clears each of their pages again in every step; kept, they cost nothing. The memory needed
    at the peak is about the same (benchmarks/RESULTS.md has both).

    Returns:
        Whether the allocator could be told; only glibc's can.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL(None)
        mallopt = libc.mallopt
    except (OSError, AttributeError):  # another C library
        return False
    wanted = KEEPING if keep else GIVING_BACK
    told = all([mallopt(ctypes.c_int(name), ctypes.c_int(value)) for name, value in wanted.items()])
    if not keep:
        libc.malloc_trim(ctypes.c_size_t(0))
    return told
