import bz2
import gzip
import io
import lzma
import os
import re
import subprocess
import sys
import tarfile
import zipfile

from catsdogs.data.archives import (
    IMAGE_SUFFIXES,
    Damaged,
    Limits,
    Stored,
    store,
    stored_name,
)
from catsdogs.data.images import FORMATS
from catsdogs.stage import UserError

import numpy as np
import pytest
from conftest import photo
from PIL import Image

LIMITS = Limits(file=10**6, total=10**7)
KAGGLE = {"train/cat.0.jpg": photo(0), "train/dog.0.jpg": photo(1), "train/cat.1.jpg": photo(2)}
KINDS = ((0, "cat"), (1, "dog"))
MICROSOFT = {
    "PetImages/Cat/0.jpg": photo(0),
    "PetImages/Dog/0.jpg": photo(1),
    "PetImages/Cat/Thumbs.db": b"not an image",
    "readme[1].txt": b"read me",
}


def pack(path, files):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    elif path.suffix in (".tar", ".gz", ".bz2", ".xz"):
        mode = "w" if path.suffix == ".tar" else f"w:{path.suffix[1:]}"
        with tarfile.open(path, mode) as archive:
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    else:
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    return path


def read(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz", "folder"])
def test_both_layouts_in_every_container(tmp_path, name):
    stored = store(pack(tmp_path / name, KAGGLE), tmp_path / "out.zip", LIMITS)
    assert stored.images == {"cat": 2, "dog": 1}
    assert read(tmp_path / "out.zip") == {
        "cat/cat.0.jpg": photo(0),
        "cat/cat.1.jpg": photo(2),
        "dog/dog.0.jpg": photo(1),
    }
    other = tmp_path / "other"
    other.mkdir()
    stored = store(pack(other / name, MICROSOFT), tmp_path / "out.zip", LIMITS)
    assert read(tmp_path / "out.zip") == {"cat/0.jpg": photo(0), "dog/0.jpg": photo(1)}
    assert stored.left_out == ["PetImages/Cat/Thumbs.db", "readme[1].txt"]


def test_folders_with_backslashes_are_not_files_that_are_left_out(tmp_path):
    names = {name.replace("/", "\\"): content for name, content in MICROSOFT.items()}
    files = {"PetImages\\": b"", "PetImages\\Cat\\": b"", **names}
    stored = store(pack(tmp_path / "windows.zip", files), tmp_path / "out.zip", LIMITS)
    assert stored.images == {"cat": 1, "dog": 1}
    assert [name.rpartition("\\")[2] for name in stored.left_out] == ["Thumbs.db", "readme[1].txt"]


def test_the_bytes_do_not_depend_on_the_container_or_its_order(tmp_path):
    store(pack(tmp_path / "a.zip", KAGGLE), tmp_path / "one.zip", LIMITS)
    shuffled = dict(reversed(KAGGLE.items()))
    store(pack(tmp_path / "b.tar.gz", shuffled), tmp_path / "two.zip", LIMITS)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("train/cat.0.jpg", "cat/cat.0.jpg"),
        ("dogs-vs-cats/train/dog.7.JPG", "dog/dog.7.JPG"),
        ("cats/a/b.png", "cat/a/b.png"),
        ("Cat/dog.1.jpg", "cat/dog.1.jpg"),
        ("cats/dogs/1.jpg", "dog/1.jpg"),
        ("1.jpg", None),
        ("catalogue.jpg", None),
        ("Cat/Thumbs.db", None),
        ("__MACOSX/train/._cat.0.jpg", None),
    ],
)
def test_where_a_file_belongs(name, where):
    assert stored_name(name) == where


@pytest.mark.parametrize(
    ("classes", "name", "where"),
    [
        (("wolf", "fox"), "a/b/Wolves/1.jpg", "wolf/1.jpg"),
        (("wolf", "fox"), "FOXES/c/1.jpg", "fox/c/1.jpg"),
        (("wolf", "fox"), "wolf_0.jpg", "wolf/wolf_0.jpg"),
        (("wolf", "fox"), "Fox (12).png", "fox/Fox (12).png"),
        (("wolf", "fox"), "fox-a.jpg", "fox/fox-a.jpg"),
        (("wolf", "fox"), "fox7.jpg", "fox/fox7.jpg"),
        (("wolf", "fox"), "foxes.7.jpg", "fox/foxes.7.jpg"),
        (("wolf", "fox"), "foxglove_7.jpg", None),
        (("wolf", "fox"), "cat.0.jpg", None),
        (("wolf", "fox"), "Cats/fox.0.jpg", "fox/fox.0.jpg"),
        (("Wolves", "Foxes"), "wolf/1.jpg", "Wolves/1.jpg"),
        (("Wolves", "Foxes"), "fox_1.jpg", "Foxes/fox_1.jpg"),
        (("cat", "caterpillar"), "caterpillar.0.jpg", "caterpillar/caterpillar.0.jpg"),
        (("cat", "caterpillar"), "cat.0.jpg", "cat/cat.0.jpg"),
        (("cat", "caterpillar"), "Caterpillars/cat.0.jpg", "caterpillar/cat.0.jpg"),
        (("dog", "hot dog"), "Hot_Dogs/1.jpg", "hot dog/1.jpg"),
        (("hot", "hot dog"), "hot-dog_1.jpg", "hot dog/hot-dog_1.jpg"),
        (("hot dog", "hot"), "hot_1.jpg", "hot/hot_1.jpg"),
        (("type 1", "type 12"), "type12.jpg", None),
        (("type 1", "type 12"), "type_12_3.jpg", "type 12/type_12_3.jpg"),
        (("type 1", "type 12"), "type_1_23.jpg", "type 1/type_1_23.jpg"),
        (("type 1", "type 2"), "type_12.jpg", None),
        (("0", "1"), "train/1/0.jpg", "1/0.jpg"),
        (("man", "woman"), "women/1.jpg", "woman/1.jpg"),
        (("man", "woman"), "Men/1.jpg", "man/1.jpg"),
        (("puppy", "kitten"), "puppies/1.jpg", "puppy/1.jpg"),
        (("hündin", "кошка"), "Hu\u0308ndin/1.jpg", "hündin/1.jpg"),
        (("hündin", "кошка"), "КОШКА.1.jpg", "кошка/КОШКА.1.jpg"),
    ],
)
def test_where_a_file_of_other_classes_belongs(classes, name, where):
    assert stored_name(name, classes) == where


def test_other_classes_are_stored(tmp_path):
    files = {"x/Wolves/1.jpg": photo(0), "x/Wolves/2.jpg": photo(1), "y/fox_1.jpg": photo(2)}
    source = pack(tmp_path / "a.zip", files | KAGGLE)
    stored = store(source, tmp_path / "out.zip", LIMITS, ("wolf", "fox"))
    assert (stored.images, stored.left_out) == ({"wolf": 2, "fox": 1}, sorted(KAGGLE))
    with pytest.raises(UserError, match=r"no image of the class lynx: .*named fox and lynx.*data"):
        store(source, tmp_path / "out.zip", LIMITS, ("fox", "lynx"))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"train/cat.0.jpg": b"1"}, "no image of the class dog"),
        ({"train/dog.0.jpg": b"1"}, "no image of the class cat"),
        ({}, "no image of the class cat"),
        ({**KAGGLE, "../cat.9.jpg": b"1"}, "'../cat.9.jpg' points outside"),
        ({**KAGGLE, "a/../../cat.9.jpg": b"1"}, "points outside"),
        ({**KAGGLE, "/etc/cat.9.jpg": b"1"}, "'/etc/cat.9.jpg' points outside"),
        (
            {"cats/0.heic": b"1", "dogs/1.jpg": b"2"},
            "no image of the class cat.*other files are 1 .heic; convert .* to JPEG",
        ),
        ({**KAGGLE, "cat.9.jpg": bytes(10**6 + 1)}, "more than data.max_file_mb"),
        ({**KAGGLE, **{f"cat.{i}.jpg": bytes(10**6) for i in range(10, 20)}}, "max_total_gb"),
    ],
)
@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_unsafe_or_useless_archives_end_in_one_line(tmp_path, files, said, name):
    source = pack(tmp_path / name, files)
    with pytest.raises(UserError) as error:
        store(source, tmp_path / "out.zip", LIMITS)
    assert re.search(said, str(error.value))
    assert str(source) in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_are_refused(tmp_path, kind):
    source = pack(tmp_path / "a.tar", KAGGLE)
    with tarfile.open(source, "a") as archive:
        entry = tarfile.TarInfo("train/cat.9.jpg")
        entry.type, entry.linkname = kind, "/etc/passwd"
        archive.addfile(entry)
    with pytest.raises(UserError, match="a link or a device"):
        store(source, tmp_path / "out.zip", LIMITS)


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_a_cut_off_archive(tmp_path, name):
    files = {
        f"train/{kind}.{i}.jpg": photo(i, (80, 80)) for i in range(9) for kind in ("cat", "dog")
    }
    source = pack(tmp_path / name, files)
    source.write_bytes(source.read_bytes()[: source.stat().st_size * 2 // 3])
    with pytest.raises(UserError, match=r"cut off|damaged"):
        store(source, tmp_path / "out.zip", LIMITS)
    assert not (tmp_path / "out.zip").exists()


def test_flipped_bytes_in_a_zip(tmp_path):
    source = pack(tmp_path / "a.zip", KAGGLE)
    content = bytearray(source.read_bytes())
    content[200] ^= 255
    source.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        store(source, tmp_path / "out.zip", LIMITS)
    assert not (tmp_path / "out.zip").exists()


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
def test_damage_anywhere_is_one_line_or_harmless(tmp_path, name):
    source = pack(tmp_path / name, KAGGLE)
    sound = source.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        content = bytearray(sound)
        for spot in rng.integers(len(content), size=3):
            content[spot] = rng.integers(256)
        source.write_bytes(content[: rng.integers(len(content) // 2, len(content) + 1)])
        try:
            store(source, tmp_path / "out.zip", LIMITS)
        except UserError as error:
            assert str(source) in str(error)
            assert not list(tmp_path.glob(".part-*"))


def test_damage_within_a_tar_is_not_taken_for_its_end(tmp_path):
    """Of the second file's header, whose predecessor is all right."""
    source = pack(tmp_path / "a.tar", KAGGLE)
    content = bytearray(source.read_bytes())
    place = content.rindex(b"train/cat.1.jpg")
    content[place] ^= 1
    source.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        store(source, tmp_path / "out.zip", LIMITS)


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tar.bz2", "a.tar.xz"])
def test_the_sum_at_the_end_of_a_compressed_tar_is_checked(tmp_path, name):
    """Even where what follows the last photograph is longer than a buffer."""
    source = pack(tmp_path / name, {**KAGGLE, "readme.txt": b""})
    opener = {"gz": gzip, "bz2": bz2, "xz": lzma}[name.rpartition(".")[2]]
    content = opener.compress(opener.decompress(source.read_bytes()) + bytes(1 << 20))
    source.write_bytes(content)
    store(source, tmp_path / "out.zip", LIMITS)
    spot = {"a.tar.gz": -8, "a.tar.bz2": -5, "a.tar.xz": -20}[name]
    source.write_bytes(content[:spot] + bytes([content[spot] ^ 255]) + content[spot + 1 :])
    with pytest.raises(UserError, match="damaged"):
        store(source, tmp_path / "out.zip", LIMITS)


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tar.bz2", "a.tar.xz"])
def test_a_tar_compressed_in_pieces(tmp_path, name):
    """As the parallel packers do it, such as pbzip2."""
    source = pack(tmp_path / name, KAGGLE)
    opener = {"gz": gzip, "bz2": bz2, "xz": lzma}[name.rpartition(".")[2]]
    plain = opener.decompress(source.read_bytes())
    pieces = [plain[start : start + 1000] for start in range(0, len(plain), 1000)]
    source.write_bytes(b"".join(map(opener.compress, pieces)))
    assert store(source, tmp_path / "out.zip", LIMITS).images == {"cat": 2, "dog": 1}


def test_an_encrypted_zip(tmp_path):
    source = pack(tmp_path / "a.zip", KAGGLE)
    content = bytearray(source.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.find(signature)
        while place >= 0:
            content[place + flags] |= 1
            place = content.find(signature, place + 1)
    source.write_bytes(content)
    with pytest.raises(UserError, match="is encrypted: unpack it"):
        store(source, tmp_path / "out.zip", LIMITS)


@pytest.mark.parametrize("method", [9, 93, 95, 98])
def test_a_zip_that_only_other_programs_unpack(tmp_path, method):
    """As Windows packs large folders: fetching it again would not help."""
    content = pack(tmp_path / "a.zip", KAGGLE).read_bytes()
    for start, where in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = re.compile(re.escape(start) + b"(.{%d}).." % (where - 4), re.DOTALL)
        content = at.sub(lambda found: found[0][:-2] + method.to_bytes(2, "little"), content)
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(UserError, match=f"method {method}, .*: unpack it and give") as error:
        store(tmp_path / "a.zip", tmp_path / "out.zip", LIMITS)
    assert not isinstance(error.value, Damaged)


def test_names_as_windows_packers_write_them(tmp_path):
    files = {name.replace("/", "\\"): content for name, content in MICROSOFT.items()}
    stored = store(pack(tmp_path / "a.tar", files), tmp_path / "out.zip", LIMITS)
    assert stored.images == {"cat": 1, "dog": 1}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty: fetch it again"),
        ("not found", "is neither a zip, a tar nor a folder"),
        ("\ufeff\n <!DOCTYPE html><html>sign in</html>", "is a web page, .* in a browser"),
        ('{"message": "Bad credentials"}', "is a text, perhaps a server's message"),
        (
            "version https://git-lfs.github.com/spec/v1\n",
            "is a pointer of Git LFS: run `git lfs pull`",
        ),
        ("Rar!\x1a\x07\0", "is a RAR archive: unpack it"),
        (
            "a tar.zst, a .dmg, …",
            "is neither a zip.*packed in another way, unpack it, and give the f",
        ),
    ],
)
@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "folder/a.zip"])
def test_something_else_than_an_archive(tmp_path, content, said, name):
    source = tmp_path / name
    source.parent.mkdir(exist_ok=True)
    source.write_text(content, encoding="utf-8")
    with pytest.raises(Damaged, match=f"{source} {said}"):
        store(source if name.startswith("a") else source.parent, tmp_path / "out.zip", LIMITS)


def stored_as(tmp_path, files, name="a.zip"):
    stored = store(pack(tmp_path / name, files), tmp_path / "out.zip", LIMITS)
    return stored, read(tmp_path / "out.zip")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "folder"])
def test_a_second_set_beside_the_first(tmp_path, name):
    """Copies are stored once, whatever they are called; other files of one name stay apart."""
    files = {
        "PetImages/Cat/0.jpg": b"cat 0",
        "PetImages/Cat/1.jpg": b"cat 1",
        "PetImages/Dog/0.jpg": b"dog 0",
        "clean/Cat/0.jpg": b"cat 0",
        "clean/Cat/1.jpg": b"cat 1, better",
        "clean/Dog/first.jpg": b"dog 0",
    }
    stored, files = stored_as(tmp_path, files, name)
    assert files == {
        "cat/0.jpg": b"cat 0",
        "cat/PetImages/Cat/1.jpg": b"cat 1",
        "cat/clean/Cat/1.jpg": b"cat 1, better",
        "dog/0.jpg": b"dog 0",
    }
    assert stored == Stored(
        images={"cat": 3, "dog": 1},
        left_out=[],
        copies=["clean/Cat/0.jpg", "clean/Dog/first.jpg"],
        contradictions=[],
        renamed=["PetImages/Cat/1.jpg", "clean/Cat/1.jpg"],
    )


def test_the_order_within_an_archive_chooses_no_copy(tmp_path):
    files = {f"{folder}/cat.{i}.jpg": photo(i % 3) for folder in "bac" for i in range(5)}
    files |= {f"c/dog.{i}.jpg": photo(9 + i) for i in range(2)} | {"b/dog.0.jpg": photo(20)}
    assert stored_as(tmp_path, files) == stored_as(
        tmp_path, dict(reversed(files.items())), "b.zip"
    )


def test_equal_files_of_one_folder_stay_for_the_split_to_keep_together(tmp_path):
    """As in Kaggle's photographs, of which the notebook takes all 25,000."""
    stored, files = stored_as(tmp_path, KAGGLE | {"train/cat.7.jpg": photo(0)})
    assert sorted(files) == ["cat/cat.0.jpg", "cat/cat.1.jpg", "cat/cat.7.jpg", "dog/dog.0.jpg"]
    assert stored.copies == []


def test_a_file_in_both_classes_stays_and_is_counted(tmp_path):
    stored, files = stored_as(tmp_path, KAGGLE | {"b/dog.3.jpg": photo(2)})
    assert sorted(files) == ["cat/cat.0.jpg", "cat/cat.1.jpg", "dog/dog.0.jpg", "dog/dog.3.jpg"]
    assert stored.contradictions == ["b/dog.3.jpg", "train/cat.1.jpg"]


def test_empty_files_are_no_copies_of_each_other(tmp_path):
    """Microsoft's archive has an empty cat and an empty dog; the split says so."""
    empty = {"train/cat.9.jpg": b"", "train/dog.9.jpg": b"", "other/cat.8.jpg": b""}
    assert len(stored_as(tmp_path, KAGGLE | empty)[1]) == 6


def packed(files, suffix, tmp_path):
    return pack(tmp_path / f"inner{suffix}", files).read_bytes()


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
@pytest.mark.parametrize("name", ["a.zip", "a.tar.xz", "folder"])
def test_archives_in_an_archive(tmp_path, name, suffix):
    """As Kaggle packs all files of a competition."""
    unlabelled = {f"test1/{i}.jpg": photo(50 + i) for i in range(3)}
    fourth = packed(
        {"deepest.zip": packed({"cat.98.jpg": photo(98)}, ".zip", tmp_path)}, ".zip", tmp_path
    )
    deeper = packed({"cat.99.jpg": photo(99), "fourth.zip": fourth}, ".zip", tmp_path)
    files = {
        "sampleSubmission.csv": b"id,label",
        f"test1{suffix}": packed(unlabelled, suffix, tmp_path),
        f"train{suffix}": packed(KAGGLE | {"deeper.zip": deeper}, suffix, tmp_path),
        f"__MACOSX/._train{suffix}": b"no archive",
    }
    stored, files = stored_as(tmp_path, files, name)
    assert sorted(files) == ["cat/cat.0.jpg", "cat/cat.1.jpg", "cat/cat.99.jpg", "dog/dog.0.jpg"]
    assert stored.left_out == sorted(
        [
            f"__MACOSX/._train{suffix}",
            "sampleSubmission.csv",
            *(f"test1/test1/{i}.jpg" for i in range(3)),
            "train/deeper/fourth/deepest.zip",
        ]
    )


def test_an_archive_for_each_class(tmp_path):
    pets = {f"{kind}s.zip": packed({"1.jpg": photo(i)}, ".zip", tmp_path) for i, kind in KINDS}
    assert stored_as(tmp_path, pets, "folder")[0].images == {"cat": 1, "dog": 1}


def test_an_archive_in_an_archive_keeps_to_the_limits(tmp_path):
    large = packed({"readme.txt": bytes(6 * 10**6)}, ".zip", tmp_path)
    deeper = packed({"large.zip": large}, ".tar.gz", tmp_path)
    for suffix, content in ((".zip", large), (".tar.gz", deeper)):
        files = {f"{i}{suffix}": content for i in range(2)}
        with pytest.raises(UserError, match=r"data\.max_total_gb"):
            stored_as(tmp_path, KAGGLE | files, "b.zip")
    inner = packed({"../cat.9.jpg": b"1"}, ".zip", tmp_path)
    with pytest.raises(UserError, match=r"c\.zip/in\.zip: the entry .* points outside"):
        stored_as(tmp_path, KAGGLE | {"in.zip": inner}, "c.zip")


@pytest.mark.skipif(os.name == "nt", reason="links want rights there")
def test_links_in_a_folder_are_followed(tmp_path):
    """To class folders and to files, but not in circles."""
    pack(tmp_path / "store", {"x/1.jpg": photo(1), "x/2.jpg": photo(2), "y/1.jpg": photo(3)})
    source = tmp_path / "linked"
    (source / "dogs").mkdir(parents=True)
    (source / "cats").symlink_to(tmp_path / "store/x")
    (source / "dogs/7.jpg").symlink_to(tmp_path / "store/y/1.jpg")
    (tmp_path / "store/x/round").symlink_to(source)
    (source / ".#open.jpg").symlink_to("an editor's lock")
    store(source, tmp_path / "out.zip", LIMITS)
    assert read(tmp_path / "out.zip") == {
        "cat/1.jpg": photo(1),
        "cat/2.jpg": photo(2),
        "dog/7.jpg": photo(3),
    }
    (source / "dogs/8.jpg").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"dogs/8\.jpg is a link or a device"):
        store(source, tmp_path / "out.zip", LIMITS)
    (source / "dogs/8.jpg").unlink()
    os.mkfifo(source / "dogs/8.jpg")
    with pytest.raises(UserError, match=r"dogs/8\.jpg is a link or a device"):
        store(source, tmp_path / "out.zip", LIMITS)


def test_the_suffixes_are_those_of_the_formats():
    known = {suffix for suffix, kind in Image.EXTENSION.items() if kind in FORMATS}
    assert known == IMAGE_SUFFIXES
    assert {".jfif", ".jpe", ".avif", ".jp2", ".tga", ".ppm"} <= known


STORE = """
import sys, tracemalloc
from pathlib import Path
from catsdogs.data.archives import Limits, store
source = Path(sys.argv[1])
tracemalloc.start()
store(source, source.with_name("stored.zip"), Limits(10_000, 10**9))
print(tracemalloc.get_traced_memory()[1])
"""


def test_memory_has_no_photograph_that_is_written(tmp_path):
    """What grows is names, hashes and the directories of the source and of what is stored."""
    peaks = []
    for count in (500, 2_000):
        source = tmp_path / f"{count}.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for number in range(count):
                kind = ("cat", "dog")[number % 2]
                archive.writestr(f"train/{kind}.{number}.jpg", f"{number:4}" * 2_000)
        command = [sys.executable, "-c", STORE, source]  # other tests leave threads behind
        peaks.append(int(subprocess.run(command, check=True, capture_output=True).stdout))
    assert (peaks[1] - peaks[0]) / 1_500 < 4_000, "bytes a photograph, which itself has 8,000"
