"""Draw docs/images/board.png: the page of the reference results, as a reader sees it first.

python docs/scripts/board.py        needs Chromium, and playwright of the extra `dev`
"""

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).parent.parent / "images" / "board.png"
QUESTION = "#task=speed&pattern=CC&n=2048&mem=64"  # which for causal cross attention, at 2,048 tokens, within 64 MiB?


def main() -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("chromium is not on the PATH: install it, as in `apt-get install chromium`")
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-c", "from cab.cli import app; app()", "report", "--reference", "--out", folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1400, "height": 780})
            page.goto(f"{(Path(folder) / 'index.html').as_uri()}{QUESTION}")
            page.get_by_role("table").first.wait_for()
            page.screenshot(path=PICTURE)


if __name__ == "__main__":
    main()
