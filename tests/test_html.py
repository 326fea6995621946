"""The one page of all results: complete, self-contained, small, and its links lead somewhere."""

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

import inpaintlib
from inpaintlib import ROOT, BadInput
from inpaintlib.__main__ import main
from inpaintlib.harness import claims, html, sweep

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """What a page holds: its words, the ids, links and pictures in it, and tags that are not closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.text, self.ids, self.links, self.pictures, self.tags, self.open = "", [], [], [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.add(tag)
        self.open += [] if tag in VOID else [tag]
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if "href" in given else []
        self.pictures += [given] if tag == "img" else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += f"{data} "


def decoded(picture: dict) -> Image.Image:
    kind, data = picture["src"].split(";base64,")
    return Image.open(io.BytesIO(base64.b64decode(data)), formats=[kind.removeprefix("data:image/").upper()])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The results of the repository, in a folder of their own."""
    folder = tmp_path_factory.mktemp("results")
    for path in (ROOT / "results").iterdir():
        if path.name != "report.html":
            (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture
def page(results, monkeypatch):
    monkeypatch.setattr(inpaintlib, "RESULTS", results)
    if not (results / "report.html").exists():
        assert html.write() == results / "report.html"
    return Page((results / "report.html").read_text())


def test_every_claim_is_there_with_its_verdict(page):
    rows = claims.shown(claims.read())
    words = set(page.text.split())
    assert len(rows) > 300
    assert set(rows["id"]) <= words
    for verdict, count in rows["verdict"].value_counts().items():
        assert page.text.count(verdict) > count
    for table in (ROOT / "results").glob("*/table.csv"):
        assert set(" ".join(map(str, pd.read_csv(table)["preset"])).split()) & words


def test_all_pictures_of_the_reported_presets_are_in_the_page_and_gifs_move(page, results):
    folders = [results / "photos_masks_metrics" / "figures"]
    for study in claims.studies():
        folders += [results / study / "figures", results / study / "figures" / sweep.reported(study)]
    files = [path for folder in folders for path in folder.glob("*.*") if path.suffix in html.KINDS]
    assert len(page.pictures) == len(files) > 30
    for picture in page.pictures:
        with decoded(picture) as image:
            assert image.size == (int(picture["width"]), int(picture["height"]))
            assert (getattr(image, "n_frames", 1) > 1) == picture["src"].startswith("data:image/gif")
            image.load()
    assert sum(picture["src"].startswith("data:image/gif") for picture in page.pictures) >= 5


def test_pictures_stand_where_the_notebook_makes_them():
    files = {name: Path(name) for name in ("a.png", "b_faces.png", "b_demo.png", "c.gif", "ab.png")}
    cells = [("markdown", "## First"), ("code", 'save("c.gif"); save(f"b_{name}.png")'), ("markdown", "Then [a](b)"),
             ("code", 'save("a.png")'), ("code", 'save("a.png")')]  # fmt: skip
    left, first, c, faces, demo, then, a = html._figures(files, cells)
    assert [path.stem for path in (left, c, faces, demo, a)] == ["ab", "c", "b_faces", "b_demo", "a"]
    assert "<strong>First</strong>" in first
    assert "Then a" in then


def test_the_page_needs_nothing_else_and_its_links_resolve(page, results):
    assert page.links
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert len(set(page.ids)) == len(page.ids)
    assert all(picture["src"].startswith("data:image/") for picture in page.pictures)
    assert page.open == []
    assert not page.tags & {"script", "link", "iframe", "object", "video"}
    text = (results / "report.html").read_text()
    assert not [word for word in ("url(", "@import", "http://", "https://") if word in text]
    assert "width=device-width" in text
    assert (results / "report.html").stat().st_size < 15e6


def test_a_page_without_room_names_the_largest_pictures(page, results, monkeypatch, tmp_path):
    (tmp_path / "photos_masks_metrics").symlink_to(results / "photos_masks_metrics")
    monkeypatch.setattr(inpaintlib, "RESULTS", tmp_path)
    monkeypatch.setattr(html, "LIMIT", html.SPARE + 500_000)
    small = Page(html.write().read_text())
    assert "no room for the picture photos_masks_metrics/figures/simple_fills.jpg." in small.text
    assert len(small.pictures) == 2
    assert (tmp_path / "report.html").stat().st_size < 1_000_000


def test_results_without_anything_and_a_report_of_nothing_are_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(inpaintlib, "RESULTS", tmp_path)
    with pytest.raises(BadInput, match="there is nothing to report yet; make it with make study, or "):
        html.write()
    assert not list(tmp_path.iterdir())
    assert main(["report"]) == 2
    assert capsys.readouterr().err == (
        "inpaintlib: report: name a study, or all; --html writes one page of all that was reported\n"
    )


def test_the_command_prints_the_scoreboard_and_the_path(page, results, monkeypatch, capsys):
    monkeypatch.setattr(html, "write", lambda: results / "report.html")
    assert main(["report", "--html"]) == 0
    assert capsys.readouterr().out == f"{claims.scoreboard_text(claims.read())}\n\n{results / 'report.html'}\n"
