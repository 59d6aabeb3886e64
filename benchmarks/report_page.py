"""The report of a comparison in a real browser: light, dark, on a phone of 360 pixels, and on paper, whole pages.

    python benchmarks/report_page.py OUT.html [--folder shots] [--chromium /usr/bin/chromium]

Needs Chromium, without a window and without a network. Fails where the page asks for anything outside itself, where it
is wider than the phone, or where dark is not dark; what it looks like is for people to see in the pictures it leaves.
"""

from __future__ import annotations

import argparse
import html
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

_QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
_LIGHT, _DARK = "--blink-settings=preferredColorScheme=1", "--blink-settings=preferredColorScheme=0"
_PHONE, _DESK = 360, 1100
_TALLEST = 16_000  # pixels of a picture; Chromium draws no taller one
# What a program inside finds; the page itself may run none, so its policy is taken out of this copy.
_PROBE = """<!doctype html><iframe id=f style="width:{width}px;height:800px;border:0" srcdoc="{page}"></iframe><script>
f.onload = () => {{ const d = f.contentDocument, s = f.contentWindow.getComputedStyle(d.body);
document.title = [d.documentElement.scrollWidth, d.documentElement.scrollHeight, s.backgroundColor, s.color,
f.contentWindow.performance.getEntriesByType('resource').length].join('|') }}</script>"""


def browser(chromium: str, *arguments: str) -> str:
    with tempfile.TemporaryDirectory() as profile:
        command = [chromium, *_QUIET, f"--user-data-dir={profile}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


class Laid(NamedTuple):
    """How a page was laid out in a given width: its size in pixels, colours, how many things it asked for."""

    width: int
    height: int
    background: str
    ink: str
    asked: int


def laid_out(chromium: str, whole: str, scheme: str, width: int, folder: Path) -> Laid:
    bare = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", whole)
    probe = folder / "probe.html"
    probe.write_text(_PROBE.format(width=width, page=html.escape(bare)), "utf-8")
    title = re.search(r"<title>(\d+\|.*?)</title>", browser(chromium, scheme, "--dump-dom", probe.as_uri()))
    probe.unlink()
    if title is None:
        sys.exit("the page was not laid out")
    wide, tall, background, ink, asked = title[1].split("|")
    return Laid(int(wide), min(int(tall), _TALLEST), background, ink, int(asked))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("page", type=Path)
    options.add_argument("--folder", type=Path, default=Path("shots"))
    options.add_argument("--chromium", default="chromium")
    given = options.parse_args()
    page, whole, folder = given.page.resolve(), given.page.read_text("utf-8"), given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for name, scheme in (("light", _LIGHT), ("dark", _DARK)):
        phone, desk = (laid_out(given.chromium, whole, scheme, width, folder) for width in (_PHONE, _DESK))
        print(f"{name}: {phone.width} of {_PHONE} pixels, {desk.ink} on {desk.background}, {desk.asked} requests")
        if phone.width > _PHONE or desk.width > _DESK or phone.asked or desk.asked:
            sys.exit(f"the page is {phone.width} and {desk.width} pixels wide, asks for {desk.asked} things outside")
        if (sum(map(int, re.findall(r"\d+", desk.background)[:3])) < 200) is not (name == "dark"):
            sys.exit(f"{name} has the background {desk.background}")
        size = f"--window-size={_DESK},{desk.height}"
        browser(given.chromium, scheme, size, f"--screenshot={folder / name}.png", page.as_uri())
        frame = folder / "frame.html"
        style = f"width:{_PHONE}px;height:{phone.height}px;border:0"
        frame.write_text(f'<body style="margin:0"><iframe src="{page.as_uri()}" style="{style}">', "utf-8")
        size = f"--window-size=500,{phone.height}"  # a window cannot be narrower
        browser(given.chromium, scheme, size, f"--screenshot={folder / name}-phone.png", frame.as_uri())
        frame.unlink()
    browser(given.chromium, "--no-pdf-header-footer", f"--print-to-pdf={folder / 'print.pdf'}", page.as_uri())
    print(f"pictures in {folder}")


if __name__ == "__main__":
    main()
