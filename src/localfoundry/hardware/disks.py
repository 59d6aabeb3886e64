"""Disks that could hold models: where they are mounted, what is free, of what kind they are.

The kind comes from the kernel's view of the device below all layers (partition, encryption, volume). The disk of a
virtual machine is "unknown": what it says of itself is about the pretence, not about the disk behind it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from localfoundry.hardware.machine import Disk, DiskKind
from localfoundry.hardware.readings import Readings, whole

_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "glusterfs", "lustre", "9p", "fuse.sshfs",
                      "fuse.rclone", "beegfs", "virtiofs", "drvfs"})  # fmt: skip
_WITHOUT_DEVICE = frozenset({"overlay", "zfs", "bcachefs"})
_VIRTUAL = re.compile(r"\b(QEMU|VMware|Msft|VBOX|Virtual|Google|Amazon Elastic Block Store)\b", re.IGNORECASE)
_NOT_FOR_MODELS = re.compile(r"/(boot|snap|efi|etc|usr|var/lib/docker|run/credentials|recovery)(/|$)")
_MOST = 32
_DEEPEST = 4  # a partition in a volume in an encrypted partition on a disk


class _Mount(NamedTuple):
    device: str  # major:minor
    source: str
    mount: str
    kind: str


def linux(readings: Readings) -> tuple[Disk, ...]:
    """From /proc/self/mountinfo, each device once, at its shortest path."""
    found: dict[str, _Mount] = {}
    for mount in mounts(readings.text("/proc/self/mountinfo") or ""):
        network = mount.kind in _NETWORK
        if not (network or mount.kind in _WITHOUT_DEVICE or mount.source.startswith("/dev/")):
            continue
        if mount.source.startswith("/dev/loop") or (_NOT_FOR_MODELS.match(mount.mount)):
            continue
        if mount.kind == "overlay" and mount.mount != "/":
            continue
        key = mount.device if mount.kind == "overlay" else mount.source
        if key not in found or len(mount.mount) < len(found[key].mount):
            found[key] = mount
    chosen = sorted(found.values(), key=lambda m: m.mount)[:_MOST]
    return tuple(_disk(readings, mount) for mount in chosen)


def mounts(text: str) -> list[_Mount]:
    """The lines of mountinfo: `22 27 0:21 / /proc rw shared:5 - proc proc rw`; damaged ones are passed over."""
    found = []
    for line in text.splitlines():
        before, dash, after = line.partition(" - ")
        left, right = before.split(" "), after.split(" ")
        if dash and len(left) >= 6 and len(right) >= 2 and left[4].startswith("/"):
            found.append(_Mount(left[2], _unescaped(right[1]), _unescaped(left[4])[:400], right[0]))
    return found


def _unescaped(text: str) -> str:
    """Blanks in paths are written as `\\040`."""
    return re.sub(r"\\([0-3][0-7]{2})", lambda found: chr(int(found[1], 8)), text)


def _disk(readings: Readings, mount: _Mount) -> Disk:
    if mount.kind in _NETWORK:
        return Disk(mount.mount, "network")  # without its size: to ask can hang for minutes while the server is away
    total, free = readings.space(mount.mount) or (None, None)
    return Disk(mount.mount, _kind(readings, mount), total, free)


def _kind(readings: Readings, mount: _Mount) -> DiskKind:
    name = mount.source.removeprefix("/dev/")
    folder = f"/sys/class/block/{name}" if "/" not in name else f"/sys/dev/block/{mount.device}"
    kinds = _kinds(readings, folder, _DEEPEST) if mount.source.startswith("/dev/") else set()
    return kinds.pop() if len(kinds) == 1 else "unknown"


def _kinds(readings: Readings, folder: str, depth: int) -> set[DiskKind]:
    """Kinds of all disks that the device lies on."""
    below = readings.names(f"{folder}/slaves")
    if below and depth:
        return set().union(*(_kinds(readings, f"/sys/class/block/{name}", depth - 1) for name in below[:16]))
    whole_disk = f"{folder}/.." if readings.text(f"{folder}/partition") else folder
    name = (readings.text(f"{folder}/uevent") or "").partition("DEVNAME=")[2].split("\n")[0] or folder.rpartition("/")[
        2
    ]
    told = " ".join(readings.text(f"{whole_disk}/device/{what}") or "" for what in ("vendor", "model"))
    if name.startswith(("vd", "xvd", "zd", "zram", "ram", "nbd", "rbd")) or _VIRTUAL.search(told):
        return {"unknown"}
    if name.startswith("mmcblk"):
        return {"card"}
    rotational = whole(readings.text(f"{whole_disk}/queue/rotational"), most=1)
    if rotational is None:
        return {"unknown"}
    if name.startswith("nvme"):
        return {"nvme"}
    return {"hdd"} if rotational else {"ssd"}


def elsewhere(readings: Readings) -> tuple[Disk, ...]:
    """macOS and Windows: what is mounted and how large; the kind only where it is a network drive."""
    disks = []
    for mount, options in readings.partitions()[:_MOST]:
        words = options.split(",")
        if "cdrom" in words or (mount.startswith("/System/Volumes/") and mount != "/System/Volumes/Data"):
            continue
        if "remote" in words:
            disks.append(Disk(mount[:400], "network"))
            continue
        total, free = readings.space(mount) or (None, None)
        disks.append(Disk(mount[:400], "unknown", total, free))
    return tuple(disks)
