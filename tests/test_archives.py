import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

from catsdogs.data.archives import Limits, store, stored_name
from catsdogs.stage import UserError

import numpy as np
import pytest
from conftest import photo

LIMITS = Limits(file=10**6, total=10**7)
KAGGLE = {"train/cat.0.jpg": photo(0), "train/dog.0.jpg": photo(1), "train/cat.1.jpg": photo(2)}
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
    ("files", "said"),
    [
        ({"train/cat.0.jpg": b"1"}, "no image of a dog"),
        ({"train/dog.0.jpg": b"1"}, "no image of a cat"),
        ({}, "no image of a cat"),
        ({**KAGGLE, "../cat.9.jpg": b"1"}, "'../cat.9.jpg' points outside"),
        ({**KAGGLE, "a/../../cat.9.jpg": b"1"}, "points outside"),
        ({**KAGGLE, "/etc/cat.9.jpg": b"1"}, "'/etc/cat.9.jpg' points outside"),
        ({**KAGGLE, "other/cat.0.jpg": b"1"}, "would both be cat/cat.0.jpg"),
        ({**KAGGLE, "cat.9.jpg": bytes(10**6 + 1)}, "more than data.max_file_mb"),
        ({**KAGGLE, **{f"cat.{i}.jpg": bytes(10**6) for i in range(10, 20)}}, "max_total_gb"),
    ],
)
@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_unsafe_or_useless_archives_end_in_one_line(tmp_path, files, said, name):
    source = pack(tmp_path / name, files)
    with pytest.raises(UserError) as error:
        store(source, tmp_path / "out.zip", LIMITS)
    assert said in str(error.value)
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


def test_names_as_windows_packers_write_them(tmp_path):
    files = {name.replace("/", "\\"): content for name, content in MICROSOFT.items()}
    stored = store(pack(tmp_path / "a.tar", files), tmp_path / "out.zip", LIMITS)
    assert stored.images == {"cat": 1, "dog": 1}


def test_something_else_than_an_archive(tmp_path):
    source = tmp_path / "a.zip"
    source.write_text("<html>not found</html>")
    with pytest.raises(UserError, match="neither a zip, a tar nor a folder"):
        store(source, tmp_path / "out.zip", LIMITS)
