"""The registry of Windows as texts; on other systems it is empty."""

from __future__ import annotations

import sys

_MOST = 512

if sys.platform == "win32":
    import winreg

    def values(key: str) -> dict[str, str]:
        """Values of a key below HKEY_LOCAL_MACHINE: numbers in decimal, bytes in hexadecimal."""
        found: dict[str, str] = {}
        try:
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, key) as opened:
                for index in range(min(winreg.QueryInfoKey(opened)[1], _MOST)):
                    name, value, _ = winreg.EnumValue(opened, index)
                    found[name] = value.hex() if isinstance(value, bytes) else str(value)
        except OSError:
            pass
        return found

    def keys(key: str) -> list[str]:
        """Names of the keys below it."""
        try:
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, key) as opened:
                return [winreg.EnumKey(opened, index) for index in range(min(winreg.QueryInfoKey(opened)[0], _MOST))]
        except OSError:
            return []

else:

    def values(key: str) -> dict[str, str]:
        return {}

    def keys(key: str) -> list[str]:
        return []
