"""The report of a comparison in a real browser: light, dark, on a phone of 360 pixels, and on paper.

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

_QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
_LIGHT, _DARK = "--blink-settings=preferredColorScheme=1", "--blink-settings=preferredColorScheme=0"
_PHONE = 360
# What a program inside finds; the page itself may run none, so its policy is taken out of this copy.
_PROBE = """<!doctype html><iframe id=f style="width:{width}px;height:800px;border:0" srcdoc="{page}"></iframe><script>
f.onload = () => {{ const d = f.contentDocument, s = f.contentWindow.getComputedStyle(d.body);
document.title = [d.documentElement.scrollWidth, s.backgroundColor, s.color,
f.contentWindow.performance.getEntriesByType('resource').length].join('|') }}</script>"""


def browser(chromium: str, *arguments: str) -> str:
    with tempfile.TemporaryDirectory() as profile:
        command = [chromium, *_QUIET, f"--user-data-dir={profile}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def found(chromium: str, whole: str, scheme: str, folder: Path) -> tuple[int, str, str, int]:
    """Width, background, colour of the text, and how many things the page asked for."""
    bare = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", whole)
    probe = folder / "probe.html"
    probe.write_text(_PROBE.format(width=_PHONE, page=html.escape(bare)), "utf-8")
    title = re.search(r"<title>(\d+\|.*?)</title>", browser(chromium, scheme, "--dump-dom", probe.as_uri()))
    probe.unlink()
    if title is None:
        sys.exit("the page was not laid out")
    width, background, ink, asked = title[1].split("|")
    return int(width), background, ink, int(asked)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("page", type=Path)
    options.add_argument("--folder", type=Path, default=Path("shots"))
    options.add_argument("--chromium", default="chromium")
    given = options.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    page, whole = given.page.resolve(), given.page.read_text("utf-8")
    for name, scheme in (("light", _LIGHT), ("dark", _DARK)):
        width, background, ink, asked = found(given.chromium, whole, scheme, given.folder)
        print(f"{name}: {width} of {_PHONE} pixels, {ink} on {background}, {asked} requests")
        if width > _PHONE or asked:
            sys.exit(f"the page is {width} pixels wide and asks for {asked} things outside itself")
        if (sum(map(int, re.findall(r"\d+", background)[:3])) < 200) is not (name == "dark"):
            sys.exit(f"{name} has the background {background}")
        shot = given.folder / f"{name}.png"
        browser(given.chromium, scheme, "--window-size=1100,1500", f"--screenshot={shot}", page.as_uri())
    frame = given.folder / "frame.html"
    inside = f'<body style="margin:0"><iframe src="{page.as_uri()}" style="width:{_PHONE}px;height:2600px;border:0">'
    frame.write_text(inside, "utf-8")
    shot = given.folder / "phone.png"
    browser(given.chromium, _LIGHT, "--window-size=500,2600", f"--screenshot={shot}", frame.as_uri())
    frame.unlink()
    browser(given.chromium, "--no-pdf-header-footer", f"--print-to-pdf={given.folder / 'print.pdf'}", page.as_uri())
    print(f"pictures in {given.folder}")


if __name__ == "__main__":
    main()
