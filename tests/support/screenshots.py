"""The pictures of a report in docs/images, made anew: `python -m tests.support.screenshots`.

Runs the demonstration, makes the page of what it wrote, and photographs it. Needs playwright, Pillow and a Chromium.
"""

import contextlib
import shutil
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

from tests.support.places import REPOSITORY

IMAGES = REPOSITORY / "docs" / "images"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
_COLOURS = 128
"""So many are enough for a page, and the files are a third of the size."""
_WIDE = {"width": 1200, "height": 1490}
_PHONE = {"width": 400, "height": 860}
_TENSOR = "ir1_add_out"
"""Whose histogram is shown."""


def find_browser() -> str | None:
    """Return the path of a Chromium; None where there is none."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def demonstrate(folder: Path) -> Path:
    """Run the commands of the demonstration in a folder; return the page of what they wrote."""
    model, calib, evaluated = (REPOSITORY / "calib_data" / name for name in _SHIPPED)
    with contextlib.chdir(folder):
        for path in (model, calib, evaluated):
            (folder / path.name).symlink_to(path)
        _run("calibrate", model.name, "--data", calib.name, "-o", "digits.calib")
        _run(
            "quantize", model.name, "--calibration", "digits.calib", "-o", "digits.int8.onnx", "--json", "quantize.json"
        )
        _run(
            "eval", model.name, "digits.int8.onnx", "--data", evaluated.name, "--metric", "top1", "--max-drop", "1%",
            "--latency", "--json", "eval.json",
        )  # fmt: skip
        _run(
            "inspect", "digits.int8.onnx", "--float", model.name, "--data", calib.name, "--latency", "--json",
            "inspect.json",
        )  # fmt: skip
        _run("report", "quantize.json", "eval.json", "inspect.json", "digits.calib", "-o", "report.html")
    return folder / "report.html"


_SHIPPED = ("digits_cnn.onnx", "digits_calib.npz", "digits_eval.npz")


def _run(*words: str) -> None:
    from qtool.cli import main

    try:
        main([*words, "-q"])
    except SystemExit as done:
        assert done.code == 0, words


def _save(png: bytes, name: str) -> None:
    from PIL import Image

    picture = Image.open(BytesIO(png)).convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
    picture.save(IMAGES / name, optimize=True)


def photograph(page: Path, browser: Any) -> None:
    """Write the pictures of a page."""
    wide = browser.new_page(viewport=_WIDE, color_scheme="light")
    wide.goto(page.as_uri())
    _save(wide.screenshot(), "report.png")
    # what stays at the top of the window would lie over a part that is photographed by itself
    wide.evaluate("document.querySelector('nav').style.position = 'static'")
    _save(wide.locator("section[aria-labelledby='error']").screenshot(), "report-error.png")
    tensor = wide.locator("details", has=wide.locator("summary b", has_text=_TENSOR)).first
    tensor.locator("summary").click()
    _save(tensor.screenshot(), "report-values.png")
    phone = browser.new_page(viewport=_PHONE, device_scale_factor=1.5, color_scheme="dark")
    phone.goto(page.as_uri())
    _save(phone.screenshot(), "report-phone.png")


def main() -> None:
    """Make all pictures. Raises `SystemExit` where there is no browser."""
    from playwright.sync_api import sync_playwright

    path = find_browser()
    if path is None:
        raise SystemExit("there is no Chromium on this machine")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        photograph(demonstrate(Path(folder)), browser)
        browser.close()
    print(*sorted(path.name for path in IMAGES.iterdir()))


if __name__ == "__main__":
    main()
