"""Notebooks and the HTML report in a real browser, headless; skipped where there is no Chromium."""

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest

import inpaintlib
from inpaintlib import ROOT
from inpaintlib.harness import html

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium, the system's or else Playwright's own."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
    with sync_api.sync_playwright() as playwright:
        if not CHROMIUM and not os.path.exists(playwright.chromium.executable_path):
            pytest.skip("needs a browser: install Chromium, or python -m playwright install chromium")
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def lab(tmp_path):
    """JupyterLab with notebook 92, which fills by Telea alone, and a cell that fills two photos more: its address."""
    notebook = (ROOT / "notebooks" / "92_your_own_photo.ipynb").read_text()
    changed = re.sub(r'(methods: str = \\")[^"\\]+', r"\1telea", notebook)
    assert changed != notebook
    book = nbformat.reads(changed, as_version=4)
    photos = [str(ROOT / "data" / "demo" / "test" / f"kodim0{i}.jpg") for i in (1, 2)]
    more = f"inpaint.run({photos}, 'centre', ['mean_colour'], Path({str(tmp_path / 'more')!r}))"
    more = f"from pathlib import Path\nfrom inpaintlib import inpaint\n{more}"
    book.cells.append(nbformat.v4.new_code_cell(more))
    nbformat.write(book, tmp_path / "92.ipynb")
    options = ["--no-browser", "--allow-root", "--port=0", "--IdentityProvider.token=", "--LabApp.news_url=None",
               f"--ServerApp.root_dir={tmp_path}"]  # fmt: skip
    environment = os.environ | {"INPAINT_RESULTS": str(tmp_path / "results"), "PYTHONPATH": str(ROOT)}
    environment |= {f"JUPYTER_{kind}_DIR": str(tmp_path / kind) for kind in ("RUNTIME", "CONFIG")}
    whole = tmp_path / "settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    whole.parent.mkdir(parents=True)
    whole.write_text('{"windowingMode": "none"}')  # cells that are out of sight are on the page, too
    environment |= {"JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings")}
    log = tmp_path / "lab.log"
    with log.open("w") as file:
        server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], env=environment, stderr=file)
    try:
        for _ in range(600):
            if found := re.search(r"http://(?:localhost|127\.0\.0\.1):\d+/", log.read_text()):
                break
            time.sleep(0.1)
        urllib.request.urlopen(found[0] + "api", timeout=60).read()
        yield found[0]
    finally:
        server.terminate()
        server.wait(30)


@pytest.mark.slow
def test_a_stroke_on_the_canvas_of_notebook_92_brings_its_fill(browser, lab):
    page = browser.new_page(viewport={"width": 1400, "height": 1400})
    page.goto(f"{lab}lab/tree/92.ipynb")
    page.get_by_text(re.compile(r"Python 3.*\| Idle")).first.wait_for(timeout=120_000)
    page.locator(".lm-MenuBar-itemLabel", has_text=re.compile("^Run$")).click(timeout=60_000)
    page.locator(".lm-Menu-itemLabel", has_text=re.compile("^Run All Cells$")).click(timeout=60_000)
    saved = page.locator(".jp-OutputArea-output", has_text="Saved in results/your_own_photo: telea; 512 x 512 px each")
    saved.wait_for(state="attached", timeout=120_000)
    bar = page.locator(".jp-OutputArea-output", has_text=re.compile(r"100%\s*2/2\s*\["))
    bar.wait_for(state="attached", timeout=60_000)
    assert bar.locator("[class*=hprogress]").count() == 1
    canvas = page.locator(".jp-OutputArea-output canvas").first
    canvas.scroll_into_view_if_needed(timeout=60_000)
    shown = page.locator(".jp-OutputArea-output img.widget-image")
    before = shown.get_attribute("src", timeout=10_000)
    box = canvas.bounding_box()
    assert (box["width"], box["height"]) == (512, 512)
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 200, box["y"] + 150, steps=8)
    page.mouse.up()
    page.wait_for_function("before => document.querySelector('img.widget-image').src != before", arg=before,
                           timeout=60_000)  # fmt: skip
    sizes = shown.evaluate("image => image.decode().then(() => [image.naturalWidth, image.naturalHeight])")
    assert sizes == [2 * 256, 256 + 18]  # the photo with its hole, and its fill


@pytest.mark.parametrize(("width", "cell"), [(390, "block"), (1300, "table-cell")])
def test_the_page_of_all_results_loads_its_pictures_and_fits(browser, tmp_path, monkeypatch, width, cell):
    for name in ("partial_conv_losses", "claims.csv"):
        (tmp_path / name).symlink_to(ROOT / "results" / name)
    monkeypatch.setattr(inpaintlib, "RESULTS", tmp_path)
    page, asked = browser.new_page(viewport={"width": width, "height": 800}), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(html.write().as_uri())
    sizes = page.evaluate("""Promise.all([...document.images].map(async image => {
        image.loading = 'eager'; await image.decode(); return [image.naturalWidth, image.clientWidth] }))""")
    assert len(sizes) >= 9
    assert all(0 < shown <= min(natural, width) for natural, shown in sizes)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".claims td").first.evaluate("cell => getComputedStyle(cell).display") == cell
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    page.get_by_role("link", name="(partial_conv_losses)").click()
    assert page.get_by_role("heading", name="(partial_conv_losses)").bounding_box()["y"] < 100
    gif = page.locator("img[src^='data:image/gif']").first
    first, deadline = gif.screenshot(), time.monotonic() + 20
    while gif.screenshot() == first:
        assert time.monotonic() < deadline, "the GIF stands still"
