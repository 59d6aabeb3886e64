"""How fast main memory can be read: a probe of at most 0.3 s.

Generating a token reads every active weight once, so this is what bounds its speed. The probe has as many threads as
the machine has cores compare the two halves of buffers larger than the last cache, which are equal, by the C library's
`memcmp`: it loads every line of both and stores nothing, and ctypes lets go of the interpreter's lock meanwhile. No
compiler and no array library is wanted for that.

    bytes_per_s = sum over threads of bytes read / seconds by the clock, in the best of three windows
    share       = mean over threads of seconds that the thread had the processor / seconds by the clock

What the machine can do lies between bytes_per_s and bytes_per_s / share; at rest they are one. On the project's
reference machine (38 to 43 GB/s by earlier means) the probe says 31 to 34 GB/s at rest and up to 48, and a C program
with AVX-512 and four streams, run at the same time, 27 to 42: a virtual machine's memory is its neighbours' too. One
stream per thread (`memchr`) reached a fifth less, and pages of 4 kB a tenth. On C libraries whose `memcmp` is not
vectorised (musl) it says too little.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
import threading
import time
from typing import NamedTuple

from localfoundry.hardware.machine import Bandwidth, Cpu, MemoryFacts
from localfoundry.units import format_bytes

LEAST_AVAILABLE = 10**9  # below it the probe would push out what others need
UNDISTURBED = 0.8  # the share from which on a measurement is good enough to be kept
_FILL_S, _WINDOW_S, _WINDOWS = 0.16, 0.025, 3
_BARRIER_S = 2.0
_LEAST_BUFFER, _MOST_BUFFER = 64 * 2**20, 2**31
_UNKNOWN_CACHE = 16 * 2**20  # assumed of a processor that does not tell, so as not to take it for memory
_TIMES_CACHE = 8  # a cache as large may be behind each core of a virtual machine, which sees one
_PIECE = 4 * 2**20  # filled at once: so late the end of the time for filling is noticed
_PASS = 8 * 2**20  # of each half, read at once; shorter ones would have threads wait for the interpreter's lock
_MOST_THREADS = 64
_HOW = "memcmp of buffers larger than the last cache; bytes read / seconds, summed over threads"


class _Window(NamedTuple):
    """What one thread did in one window."""

    bytes_read: int
    processor_s: float
    clock_s: float


def measure(cpu: Cpu, memory: MemoryFacts) -> tuple[Bandwidth | None, str | None]:
    """The bandwidth, and words on what is wrong with it or why there is none."""
    available = memory.available_bytes
    if available is None:
        return None, "the memory bandwidth was not measured: how much memory is available is not known"
    if available < LEAST_AVAILABLE:
        return None, (f"the memory bandwidth was not measured: {format_bytes(available)} of memory are available, and "
                      f"the probe wants {format_bytes(LEAST_AVAILABLE)} so as not to disturb")  # fmt: skip
    threads = _threads(cpu)
    wanted = min(max(_TIMES_CACHE * (cpu.cache_bytes or 0), _LEAST_BUFFER), _MOST_BUFFER, available // 4)
    try:
        found = _run(threads, wanted // threads)
    except (OSError, AttributeError, RuntimeError, threading.BrokenBarrierError) as exc:
        return None, f"the memory bandwidth was not measured: {exc or type(exc).__name__}"
    return judged(found, cpu.cache_bytes or _UNKNOWN_CACHE)


def judged(found: Bandwidth, cache_bytes: int) -> tuple[Bandwidth | None, str | None]:
    """The measurement, and what there is to doubt in it; none where a cache answered instead of the memory.

    A busy processor leaves so little time for filling that the buffer can fit the cache: such a probe once said
    34 GB/s with a quarter of the processor.
    """
    sizes = f"{format_bytes(found.buffer_bytes)}, and the last cache holds {format_bytes(cache_bytes)}"
    if found.buffer_bytes < cache_bytes:
        return None, f"the memory bandwidth was not measured: the probe had time to fill {sizes}"
    if found.share is not None and found.share < UNDISTURBED:
        return found, ("the memory may be faster than was measured: other programs were at work, and the probe had "
                       f"{found.share:.0%} of the processor; foundry hardware --probe measures again")  # fmt: skip
    if found.buffer_bytes < 2 * cache_bytes:
        return found, f"the memory may be slower than was measured: the probe had time to fill {sizes}"
    return found, None


def _threads(cpu: Cpu) -> int:
    counts = [n for n in (cpu.physical_cores or cpu.logical_cores, cpu.usable) if n]
    return max(1, min([*counts, _MOST_THREADS])) if counts else 1


def _run(threads: int, bytes_each: int) -> Bandwidth:
    readers = [_Reader(max(bytes_each, _PIECE)) for _ in range(threads)]
    barrier = threading.Barrier(threads)
    workers = [threading.Thread(target=reader.run, args=(barrier,), daemon=True) for reader in readers]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    failed = next((reader.failure for reader in readers if reader.failure), None)
    if failed is not None:
        raise failed
    rate, share = best([[reader.windows[number] for reader in readers] for number in range(_WINDOWS)])
    filled = sum(reader.filled for reader in readers)
    return Bandwidth(rate, threads, share, filled, round(time.time(), 1), _HOW)


def best(windows: list[list[_Window]]) -> tuple[float, float | None]:
    """Bytes per second, and the share, of the window with the most; no share where processor time is too coarse."""

    def rate(window: list[_Window]) -> float:
        return sum(one.bytes_read / one.clock_s for one in window)

    chosen = max(windows, key=rate)
    if time.get_clock_info("thread_time").resolution > _WINDOW_S / 30:
        return rate(chosen), None
    share = sum(min(one.processor_s / one.clock_s, 1.0) for one in chosen) / len(chosen)
    return rate(chosen), round(share, 3)


class _Reader:
    """One thread's part: a buffer of its own, filled and then read over and over."""

    def __init__(self, size: int) -> None:
        self._size = size - size % mmap.PAGESIZE
        self.filled = 0
        self.windows: list[_Window] = []
        self.failure: Exception | None = None

    def run(self, barrier: threading.Barrier) -> None:
        try:
            with mmap.mmap(-1, self._size) as memory:
                if hasattr(mmap, "MADV_HUGEPAGE"):
                    memory.madvise(mmap.MADV_HUGEPAGE)
                view = (ctypes.c_char * self._size).from_buffer(memory)
                try:
                    self._work(ctypes.addressof(view), barrier)
                finally:
                    del view  # a map with a view of it cannot be closed
        except (OSError, AttributeError, RuntimeError) as exc:
            self.failure = exc
            barrier.abort()

    def _work(self, address: int, barrier: threading.Barrier) -> None:
        compare = _memcmp()
        deadline = time.perf_counter() + _FILL_S
        while self.filled < self._size and time.perf_counter() < deadline:
            length = min(_PIECE, self._size - self.filled)
            ctypes.memset(address + self.filled, 1, length)  # untouched pages are all one page, and that in the cache
            self.filled += length
        for _ in range(_WINDOWS):
            barrier.wait(_BARRIER_S)
            self.windows.append(self._window(compare, address))

    def _window(self, compare: ctypes._NamedFuncPointer, address: int) -> _Window:
        started, processor = time.perf_counter(), time.thread_time()
        end, half, offset, done = started + _WINDOW_S, self.filled // 2, 0, 0
        while time.perf_counter() < end:
            length = min(_PASS, half - offset)
            compare(address + offset, address + half + offset, length)
            done += 2 * length
            offset = (offset + length) % half
        return _Window(done, time.thread_time() - processor, time.perf_counter() - started)


def _memcmp() -> ctypes._NamedFuncPointer:
    """`int memcmp(const void *, const void *, size_t)` of the C library; OSError or AttributeError without one."""
    library = ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None)
    function = library.memcmp
    function.restype = ctypes.c_int
    function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    return function
