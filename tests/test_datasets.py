"""Datasets: official layouts and splits, copies used in place, and what is said when something is not right."""

import io
import os
import shutil
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from torchvision.datasets import utils

import inpaintlib
from inpaintlib import BadInput
from inpaintlib.data import datasets
from inpaintlib.files import read_json
from tests.conftest import meanwhile


def jpeg(value=0):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 0, 0)).save(file, "JPEG")
    return file.getvalue()


def make(path, ids):
    """A folder of tiny photos, or a zip of them if ``path`` ends in .zip; every photo another grey."""
    if path.suffix == ".zip":
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            for number, id in enumerate(ids):
                archive.writestr(id, jpeg(number))
    else:
        for number, id in enumerate(ids):
            (path / id).parent.mkdir(parents=True, exist_ok=True)
            (path / id).write_bytes(jpeg(number))
    return path


TINY = [
    "tiny-imagenet-200/train/n01443537/images/n01443537_0.JPEG",
    "tiny-imagenet-200/train/n01629819/images/n01629819_0.JPEG",
    "tiny-imagenet-200/val/images/val_0.JPEG",
    "tiny-imagenet-200/test/images/test_0.JPEG",
]


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    monkeypatch.setattr(inpaintlib, "DATA", tmp_path / "data")
    return tmp_path / "data"


PARIS = datasets.REGISTRY["paris_streetview"].folders


@pytest.mark.parametrize(("folders", "splits"), [
    (datasets.FOLDERS, dict(zip(TINY, ["train", "train", "validation", "test"], strict=True))),
    (datasets.FOLDERS, {"c.JPEG": "other", "train/n1/a.JPEG": "train", "val/b.JPEG": "test"}),  # no other test folder
    (datasets.FOLDERS, {"test/train/b.jpg": "test", "train/test/a.jpg": "train"}),  # the outermost folder decides
    (datasets.FOLDERS, {"train/a.jpg": None, "train/b.jpg": None}),  # one split alone is none
    (PARIS, {"e/paris_eval_corrupted/1.png": "corrupted", "e/paris_eval_gt/1.png": "test",
             "paris_train_original/1.JPG": "train"}),
])  # fmt: skip
@pytest.mark.parametrize("name", ["archive.zip", "folder"])
def test_official_splits_of_zip_and_folder(tmp_path, name, folders, splits):
    path = make(tmp_path / name, splits)
    assert datasets.members(path, folders) == [(splits[id], id) for id in sorted(splits)]
    assert datasets.read(path, list(splits)[1]) == jpeg(1)


@pytest.mark.parametrize("where", ["in the zip", "beside the zip", "beside the folder"])
def test_celeba_partition(tmp_path, where):
    ids = [f"img_align_celeba/{n:06}.jpg" for n in (1, 2, 3)]
    partition = "000001.jpg 2\n000002.jpg 0\n000003.jpg 1\n"
    path = make(tmp_path / ("celeba.zip" if "zip" in where else "celeba"), ids)
    if where == "in the zip":
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(datasets.PARTITION, partition)
    else:
        (tmp_path / datasets.PARTITION).write_text(partition)
    assert [split for split, _ in datasets.members(path)] == ["test", "train", "validation"]


def test_other_files_are_not_photos(tmp_path):
    ids = ["a.jpg", "b.PNG", "notes.txt", "__MACOSX/a.jpg", "x/._a.jpg", ".cache/c.jpg"]
    for path in (make(tmp_path / "folder", ids), make(tmp_path / "archive.zip", ids)):
        assert [id for _, id in datasets.members(path)] == ["a.jpg", "b.PNG"]


def test_split_by_content_is_one_in_ten():
    splits = [datasets.split_by_content(str(n).encode()) for n in range(10_000)]
    assert abs(splits.count("test") - 1000) < 4 * 30  # 4 standard deviations of a binomial count
    assert splits.count("test") + splits.count("train") == 10_000


def test_fetch_uses_a_source_in_place_and_remembers_it(tmp_path, data):
    path = make(tmp_path / "elsewhere" / "subset.zip", TINY)
    with pytest.raises(BadInput, match="python -m inpaintlib fetch tiny_imagenet gets it"):
        datasets.locate("tiny_imagenet")
    assert datasets.fetch("tiny_imagenet", path) == path
    assert datasets.locate("tiny_imagenet") == path
    assert read_json(data / "sources.json") == {"tiny_imagenet": str(path)}
    assert [file.name for file in data.iterdir()] == ["sources.json"]
    path.unlink()
    with pytest.raises(BadInput, match=r"subset\.zip, which is gone"):
        datasets.locate("tiny_imagenet")


def test_sources_that_two_give_at_once_are_both_remembered(tmp_path, data):
    path, sources = make(tmp_path / "subset.zip", TINY), data / "sources.json"
    meanwhile(sources, lambda: datasets.fetch("tiny_imagenet", path), lambda: sources.write_text('{"celeba": "/c"}'))
    assert read_json(sources) == {"celeba": "/c", "tiny_imagenet": str(path)}


@pytest.mark.parametrize("official", ["UTKFace.zip", "UTKFace"])
def test_an_official_name_in_data_is_used_in_place(data, official):
    make(data / official, ["UTKFace/1_0_0_1.jpg"])
    assert datasets.fetch("utkface") == datasets.locate("utkface") == data / official


def test_fetch_downloads_with_the_published_checksum(data, monkeypatch):
    def download(url, path, md5):
        assert (url, md5) == ("http://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de")
        return make(path, TINY)

    monkeypatch.setattr(datasets, "download", download)
    assert datasets.fetch("tiny_imagenet") == data / "tiny-imagenet-200.zip"


def test_celeba_comes_by_torchvision(data, monkeypatch):
    def download(file_id, root, filename, md5):
        if filename == "img_align_celeba.zip":
            assert md5 == "00d2c5bc6d35e252742224ab0c1e8fcb"
            make(Path(root) / filename, ["img_align_celeba/000001.jpg", "img_align_celeba/000002.jpg"])
        else:
            (Path(root) / filename).write_text("000001.jpg 0\n000002.jpg 2\n")

    monkeypatch.setattr(utils, "download_file_from_google_drive", download)
    path = datasets.fetch("celeba")
    assert path == datasets.locate("celeba") == data / "celeba" / "img_align_celeba.zip"


def test_celeba_without_its_download_says_what_to_put_where(data, monkeypatch):
    def no_gdown(*args):
        raise ModuleNotFoundError("No module named 'gdown'")

    monkeypatch.setattr(utils, "download_file_from_google_drive", no_gdown)
    with pytest.raises(BadInput, match=rf"No module named 'gdown'.*put it at {data}/celeba/img_align_celeba\.zip"):
        datasets.fetch("celeba")


@pytest.mark.parametrize("name", ["imagenet", "places2", "paris_streetview", "utkface", "nvidia_masks_test"])
def test_what_only_its_owners_give_says_where_to_ask(name):
    for action in (datasets.fetch, datasets.locate):
        with pytest.raises(BadInput, match=f"https?://.*fetch {name} --source FOLDER_OR_ZIP"):
            action(name)


@pytest.mark.parametrize(("action", "name", "message"), [
    (datasets.fetch, "celba", r"no dataset 'celba': did you mean 'celeba'\?.*demo, tiny_imagenet"),
    (datasets.check, "dmeo", "no dataset 'dmeo': did you mean 'demo'"),
    (datasets.locate, "xyzzy", "no dataset 'xyzzy': choose one of"),
    (datasets.locate, "/nope/photos", "no folder or zip of photos at /nope/photos"),
    (datasets.check, "celeba", "celeba is not here"),
])  # fmt: skip
def test_unknown_and_missing_datasets(action, name, message):
    with pytest.raises(BadInput, match=message):
        action(name)


def test_truncated_zip(tmp_path, data):
    path = make(tmp_path / "tiny.zip", TINY)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadInput, match=r"tiny\.zip is truncated or is not a zip"):
        datasets.fetch("tiny_imagenet", path)
    assert not (data / "sources.json").exists()


def test_an_official_archive_of_another_content_is_refused(data):
    path = make(data / "tiny-imagenet-200.zip", TINY)
    with pytest.raises(BadInput, match=r"tiny-imagenet-200\.zip has the wrong md5: expected 90528d.*delete it"):
        datasets.fetch("tiny_imagenet")
    assert path.exists()
    assert datasets.fetch("tiny_imagenet", path) == path  # a part of it, brought on purpose


def test_an_archive_that_cannot_be_read_is_not_called_truncated(tmp_path, monkeypatch):
    path = make(tmp_path / "tiny.zip", TINY)

    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(zipfile, "ZipFile", refuse)
    with pytest.raises(BadInput, match=r"tiny\.zip cannot be read \(Permission denied\)"):
        datasets.fetch("tiny_imagenet", path)


def odd_folders():
    """What may lie in a folder of photos, and what is said of it."""
    yield "a\nb.jpg", lambda path: path.touch(), r"photos: the file name 'a\\nb\.jpg' has a line break"
    yield os.fsdecode(b"\xff.jpg"), lambda path: path.touch(), r"'\\udcff\.jpg' has a line break or is not UTF-8"
    yield "pipe.jpg", os.mkfifo, r"pipe\.jpg is a pipe or a device, not a photo: remove it"
    yield "gone.jpg", lambda path: path.symlink_to("nowhere"), r"gone\.jpg' cannot be read \(No such file"
    yield "self.jpg", lambda path: path.symlink_to("self.jpg"), r"self\.jpg' cannot be read \(Too many levels"
    yield "circle", lambda path: path.symlink_to(path.parent), r"circle is a link to a folder that it lies in"


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX files")
@pytest.mark.parametrize(("name", "put", "message"), list(odd_folders()), ids=lambda x: None)
def test_odd_files_in_a_folder_are_named(tmp_path, name, put, message):
    folder = make(tmp_path / "photos", ["a/b.jpg", "c.jpg"])
    try:
        put(folder / name)
    except OSError:
        pytest.skip("this file system refuses such a name")
    with pytest.raises(BadInput, match=message):
        datasets.members(folder)


def test_links_to_photos_and_folders_are_followed_and_other_odd_files_ignored(tmp_path):
    folder = make(tmp_path / "photos", ["a/b.jpg"])
    (folder / "d").symlink_to("a")
    (folder / "e.jpg").symlink_to("a/b.jpg")
    (folder / ".#c.jpg").symlink_to("an editor's lock")
    os.mkfifo(folder / "pipe")
    assert [id for _, id in datasets.members(folder)] == ["a/b.jpg", "d/b.jpg", "e.jpg"]


def test_an_unreadable_subfolder_is_named(tmp_path, monkeypatch):
    folder = make(tmp_path / "photos", ["a/b.jpg"])
    scan = os.scandir

    def refuse(path):
        if Path(path).name == "a":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(BadInput, match=r"photos/a' cannot be read \(Permission denied\): repair it or move it away"):
        datasets.members(folder)


def test_prepared_photos_outlive_their_source(data):
    (data / "prepared" / "celeba-64-crop").mkdir(parents=True)
    (data / "prepared" / "celeba-64-crop" / "meta.json").touch()
    datasets.check("celeba")
    datasets.check("celeba", 64)
    for other in ((128, None), (64, 10)):
        with pytest.raises(BadInput, match="celeba is not here"):
            datasets.check("celeba", *other)


@pytest.mark.parametrize("content", ["[1]", '{"celeba": 1}'])
def test_damaged_sources_are_one_sentence(data, content):
    data.mkdir()
    (data / "sources.json").write_text(content)
    with pytest.raises(BadInput, match=r"sources\.json is no object of names and paths: delete it"):
        datasets.locate("celeba")


@pytest.mark.parametrize("text", ["1.jpg 3", "1.jpg", "a b c"])
def test_a_foreign_partition_file_is_named(tmp_path, text):
    folder = make(tmp_path / "celeba", ["1.jpg"])
    (folder / datasets.PARTITION).write_text(text)
    with pytest.raises(BadInput, match=r"partition\.txt has lines other than NAME\.jpg and 0, 1 or 2"):
        datasets.members(folder)


def test_the_wrong_archive_and_an_empty_one(tmp_path):
    with pytest.raises(BadInput, match=r"is not nvidia_masks_test: no photo in it has 'testing_mask_dataset/'"):
        datasets.fetch("nvidia_masks_test", make(tmp_path / "tiny.zip", TINY))
    with pytest.raises(BadInput, match="holds no photos"):
        datasets.fetch("utkface", make(tmp_path / "empty.zip", ["notes.txt"]))
    (tmp_path / "train.tar").write_bytes(b"")
    with pytest.raises(BadInput, match="unpack it"):
        datasets.fetch("imagenet", tmp_path / "train.tar")


def test_listing(data):
    make(data / "UTKFace", ["1.jpg", "2.jpg"])
    (data / "test_mask.zip").write_bytes(b"PK")
    rows = {row["name"]: row for row in datasets.listing()}
    assert list(rows) == list(datasets.REGISTRY)
    assert (rows["demo"]["state"], rows["demo"]["photos"]) == ("here", 102)
    assert (rows["utkface"]["photos"], rows["utkface"]["size"]) == (2, len(jpeg(0)) + len(jpeg(1)))
    assert (rows["celeba"]["state"], rows["celeba"]["photos"]) == ("not fetched", None)
    assert "truncated" in rows["nvidia_masks_test"]["state"]


def test_demo_is_split_by_photo_and_matches_its_manifest(tmp_path, monkeypatch):
    path = datasets.fetch("demo")
    splits = [split for split, _ in datasets.members(path)]
    assert (splits.count("train"), splits.count("test"), len(splits)) == (71, 31, 102)
    copy = tmp_path / "data" / "demo"
    shutil.copytree(path, copy)
    monkeypatch.setattr(datasets, "ROOT", tmp_path)
    photo = next((copy / "test").iterdir())
    photo.write_bytes(photo.read_bytes()[:-1])
    with pytest.raises(BadInput, match=f"{photo.name} is missing or is not the photo of manifest.csv"):
        datasets.fetch("demo")


def test_a_series_lies_in_one_split_and_every_photo_has_a_source():
    rows = datasets.manifest(datasets.locate("demo"))
    assert all(row["licence"] and row["credit"] and row["source"] and row["original_file"] for row in rows)
    splits = {(row["series"], row["file"].split("/")[0]) for row in rows if row["series"]}
    assert splits == {("reef", "train")}
    assert all((row["series"] == "reef") == ("reef-" in row["file"]) for row in rows)
    kodak = [row for row in rows if "Kodak" in row["source"]]
    assert [row["file"] for row in kodak] == [f"test/kodim{i:02}.jpg" for i in range(1, 25)]
    assert sum((datasets.locate("demo") / row["file"]).stat().st_size for row in kodak) < 3e6


def test_fingerprint_changes_with_the_source(tmp_path):
    folder = make(tmp_path / "photos", ["a.jpg", "b.jpg"])
    prints = {datasets.fingerprint(folder)}
    assert datasets.fingerprint(folder) in prints
    for change in (lambda: make(folder, ["a.jpg", "c/d.jpg"]), (folder / "b.jpg").unlink):
        change()
        assert datasets.fingerprint(folder) in prints  # as it was when this process first looked
        datasets.walked.cache_clear()
        assert datasets.fingerprint(folder) not in prints
        prints.add(datasets.fingerprint(folder))
