"""Gives freed memory back to the machine. Must not know what was freed."""

import ctypes


def give_back() -> None:
    """Have the C library return what it keeps of freed memory; nothing where it can't be asked.

    glibc keeps it: once a list of some MB has been freed, lists up to that size come from its heap
    (mallopt(3), M_MMAP_THRESHOLD), and a released version's heap stays, as large as the version.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own; musl has none
    if trim is not None:
        trim(0)
