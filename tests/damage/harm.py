"""Ways of damaging a file, as a disk, a copy that broke off or a person would."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[Path, random.Random], None]


def flip(file: Path, position: int, bit: int) -> None:
    """Turn one bit over. The file is a new one, so that other names (hard links) of the old one keep their bytes."""
    data = bytearray(file.read_bytes())
    data[position] ^= 1 << bit
    put(file, bytes(data))


def put(file: Path, data: bytes) -> None:
    """Write other bytes under this name."""
    file.unlink()
    file.write_bytes(data)


def flip_any(file: Path, dice: random.Random) -> None:
    """Turn some bit over."""
    flip(file, dice.randrange(file.stat().st_size), dice.randrange(8))


def cut(file: Path, dice: random.Random) -> None:
    """Lose the end, or all."""
    put(file, file.read_bytes()[: dice.randrange(file.stat().st_size)])


def replace(file: Path, dice: random.Random) -> None:
    """Other bytes, as many of them."""
    put(file, dice.randbytes(file.stat().st_size))


def delete(file: Path, dice: random.Random) -> None:
    """Lose the file."""
    file.unlink()


def become_a_folder(file: Path, dice: random.Random) -> None:
    """A folder of that name instead."""
    file.unlink()
    file.mkdir()


def lose_the_target(file: Path, dice: random.Random) -> None:
    """A link into a cache from which the file is gone."""
    file.unlink()
    file.symlink_to("/nowhere/ab/cdef")


def hide_another(file: Path, dice: random.Random) -> None:
    """One more file beside it."""
    shutil.copy(file, file.with_name(f"{file.name}.1"))


ALL: tuple[Damage, ...] = (flip_any, cut, replace, delete, become_a_folder, lose_the_target, hide_another)


def swap(one: Path, other: Path) -> None:
    """Give two files each other's names."""
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)
