"""Input that is made to do harm, or is nonsense: every failure is one of ours, nothing runs."""

import copy
import gzip
import io
import re
import stat
import tarfile
import tracemalloc
import zipfile

from catsdogs import params
from catsdogs.data.archives import Limits, store
from catsdogs.models import saved
from catsdogs.stage import UserError

import pytest
import yaml
from conftest import REPOSITORY, photo
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_archives import KAGGLE, LIMITS, pack, read
from test_params import SECTIONS

NAMES = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["cat", "dogs", "..", ".", "C:", "~", "__MACOSX", "a\\b", "", "É", "E\u0301"]),
)
PATHS = st.builds(
    lambda parts, ending: "/".join(parts) + ending,
    st.lists(NAMES, min_size=1, max_size=4),
    st.sampled_from([".jpg", ".PNG", "", "/", ".txt"]),
)
CONTENTS = st.one_of(st.binary(max_size=50), st.sampled_from([b"", bytes(2000), photo(1)]))
ENTRIES = st.lists(st.tuples(PATHS, CONTENTS, st.integers(0, 7)), max_size=6)
SPOTS = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=4)
SMALL = Limits(file=1500, total=4000)


def spoilt(content, spots):
    content = bytearray(content)
    for place, value in spots:
        content[place % len(content)] = value
    return bytes(content)


def as_zip(entries):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content, kind in entries:
            entry = zipfile.ZipInfo(name or "x")
            entry.compress_type = zipfile.ZIP_DEFLATED if kind & 1 else zipfile.ZIP_STORED
            entry.external_attr = (stat.S_IFLNK if kind == 7 else 0o644) << 16
            archive.writestr(entry, content)
    return stream.getvalue()


def as_tar(entries):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", errors="surrogateescape") as archive:
        for name, content, kind in entries:
            entry = tarfile.TarInfo(name.replace("\0", ""))
            entry.type = [tarfile.REGTYPE] * 5 + [
                tarfile.SYMTYPE,
                tarfile.CHRTYPE,
                tarfile.DIRTYPE,
            ]
            entry.type = entry.type[kind]
            entry.size = len(content) if entry.type == tarfile.REGTYPE else 0
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning")  # zipfile's, of duplicate names
@settings(max_examples=500, deadline=None)
@given(pack=st.sampled_from([as_zip, as_tar]), entries=ENTRIES, spots=SPOTS)
# A name that begins with NUL in the directory, so that it is empty to zipfile.
@example(pack=as_zip, entries=[("0000/0000.jpg", b"", 0)], spots=[(48821, 0)])
def test_any_archive_is_stored_or_refused(tmp_path_factory, pack, entries, spots):
    folder = tmp_path_factory.getbasetemp()
    source, target = folder / "fuzz.bin", folder / "fuzz-out.zip"
    target.unlink(missing_ok=True)
    try:
        content = pack(entries)
    except (UnicodeEncodeError, ValueError):  # a name that not even an attacker can pack
        return
    source.write_bytes(spoilt(content, spots))
    try:
        stored = store(source, target, SMALL)
    except UserError as error:
        assert str(source) in str(error)
        assert not target.exists()
    else:
        files = read(target)
        assert sum(stored.images.values()) == len(files)
        assert all(re.match("(cat|dog)/", name) for name in files)
        assert not any(".." in name.split("/") for name in files)
        assert sum(map(len, files.values())) <= SMALL.total
    assert not list(folder.glob(".part-*"))


PARAMS = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), section=st.sampled_from(sorted(SECTIONS)))
def test_any_parameters_are_read_or_refused(tmp_path_factory, data, section):
    """A valid file in which some keys of a section are changed, are missing or are new."""
    values = copy.deepcopy(PARAMS)
    known = st.sampled_from(sorted(values[section])) | st.text(max_size=8) | st.integers()
    changes = data.draw(st.dictionaries(known, VALUES, min_size=1, max_size=3))
    values[section] |= changes
    for key in data.draw(st.lists(known, max_size=1)):
        values[section].pop(key, None)
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    text = yaml.safe_dump({section: values[section]}, allow_unicode=True)
    path.write_text(text, encoding="utf-8")
    load(section, path)


@settings(max_examples=500, deadline=None)
@given(
    text=st.binary(max_size=200)
    | st.text(alphabet="[]{}:-&*!|>#%@`'\"\n\t ,?=<01.e~xaN", max_size=80).map(str.encode)
    | st.text(max_size=80).map(lambda text: text.encode("utf-8", "surrogatepass")),
    within=st.booleans(),
)
def test_any_text_is_read_or_refused(tmp_path_factory, text, within):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(b"compare: " + text if within else text)
    load("compare", path)


def load(section, path):
    try:
        params.load(section, SECTIONS[section], path)
    except UserError as error:
        assert str(path) in str(error)
        assert len(str(error)) < 2000


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "!!python/object/apply:os.system ['touch /tmp/catsdogs-was-here']",
        "compare: !!python/name:os.system",
        "a: &a [x, x, x, x, x, x, x, x]\n"
        + "".join(
            f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}]\n"
            for a, b in zip("abcdefg", "bcdefgh", strict=True)
        ),
        "compare: {significance: &a [*a]}",
    ],
)
def test_yaml_that_is_made_to_do_harm(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        params.load("compare", SECTIONS["compare"], path)
    assert len(str(error.value)) < 1000


def test_yaml_is_loaded_safely_everywhere():
    for path in (REPOSITORY / "src").rglob("*.py"):
        calls = re.findall(r"yaml\.(\w*load\w*(?:\(.*_Loader)?)", path.read_text())
        assert set(calls) <= {"safe_load", "load(text, _Loader"}, path
    assert issubclass(params._Loader, yaml.SafeLoader)


def test_names_in_other_alphabets(tmp_path):
    names = ["Cat/кошка.jpg", "Cat/猫.jpg", "Dog/Hündchen 1.jpg", "Dog/كلب.jpg", "Dog/🐶.jpg"]
    for kind in ("a.zip", "a.tar"):
        files = {name: name.encode() for name in names}
        stored = store(pack(tmp_path / kind, files), tmp_path / "o.zip", LIMITS)
        assert stored.images == {"cat": 2, "dog": 3}
        assert {f"{name.lower()[:4]}{name[4:]}" for name in names} == set(read(tmp_path / "o.zip"))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("other", ["Cat/1.jpg", "cat/1.jpg", "cats/./1.jpg", "Cat//1.jpg"])
@pytest.mark.parametrize("equal", [True, False])
def test_names_that_collide(tmp_path, other, equal):
    """Equal files are stored once, and none of different ones is lost."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number, name in enumerate(("Cat/1.jpg", other, "Cat\\1.jpg", "Dog/1.jpg")):
            archive.writestr(name, "cat" if equal and number < 3 else str(number))
    stored = store(tmp_path / "a.zip", tmp_path / "out.zip", LIMITS)
    files = read(tmp_path / "out.zip")
    assert len(set(files.values())) == len(files) == (2 if equal else 4)
    assert len(stored.copies) == (2 if equal else 0)
    assert all(name.startswith(("cat/", "dog/")) for name in files)


def test_names_that_collide_whatever_is_done(tmp_path):
    """Somebody knows how an image would be renamed, and has another of that name."""
    files = {"Cat/é.jpg": b"1", "Cat/e\u0301.jpg": b"2", "Dog/1.jpg": b"3"}
    store(pack(tmp_path / "a.zip", files), tmp_path / "out.zip", LIMITS)
    renamed = [name for name in read(tmp_path / "out.zip") if name.startswith("cat/")]
    assert all(re.fullmatch(r"cat/é-[0-9a-f]{32}\.jpg", name) for name in renamed)
    files[renamed[0]] = b"4"
    with pytest.raises(UserError, match="would both be cat/"):
        store(pack(tmp_path / "b.zip", files), tmp_path / "out.zip", LIMITS)


def test_a_link_in_a_zip(tmp_path):
    source = pack(tmp_path / "a.zip", KAGGLE)
    with zipfile.ZipFile(source, "a") as archive:
        entry = zipfile.ZipInfo("train/cat.9.jpg")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(UserError, match=r"'train/cat\.9\.jpg' is a link or a device"):
        store(source, tmp_path / "out.zip", LIMITS)


def claim_size(path, name, size):
    """Write another size into a zip's two headers of a file."""
    content = bytearray(path.read_bytes())
    for signature, name_offset, size_offset in ((b"PK\x03\x04", 30, 22), (b"PK\x01\x02", 46, 24)):
        place = content.find(signature)
        while content[place + name_offset :][: len(name)] != name.encode():
            place = content.find(signature, place + 1)
        content[place + size_offset : place + size_offset + 4] = size.to_bytes(4, "little")
    path.write_bytes(content)


def test_a_zip_that_claims_more_than_it_has(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in KAGGLE.items():
            archive.writestr(name, content)
    claim_size(tmp_path / "a.zip", "train/dog.0.jpg", 5000)
    with pytest.raises(UserError, match=r"damaged .*does not have the 5,000 bytes"):
        store(tmp_path / "a.zip", tmp_path / "out.zip", LIMITS)


def test_bombs(tmp_path):
    """A kilobyte that would become gigabytes: the bound holds before it is unpacked."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat.1.jpg", bytes(50_000_000))
        archive.writestr("dog.1.jpg", b"1")
    with pytest.raises(UserError, match=r"cat.1.jpg has 50,000,000 bytes, .*data.max_file_mb"):
        store(tmp_path / "a.zip", tmp_path / "out.zip", LIMITS)
    # One that lies about its size is read no further than what it claims.
    claim_size(tmp_path / "a.zip", "cat.1.jpg", 1000)
    tracemalloc.start()
    with pytest.raises(UserError, match=r"is damaged"):
        store(tmp_path / "a.zip", tmp_path / "out.zip", LIMITS)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    assert not (tmp_path / "out.zip").exists()


def header(name, kind=tarfile.REGTYPE, size=0):
    """A tar's header that claims anything."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.size = kind, size
    return entry.tobuf(tarfile.GNU_FORMAT)


def record(key, value):
    """A line of a pax header, with its length before it."""
    line = f" {key}={value}\n"
    length = len(line) + next(n for n in range(1, 9) if len(str(len(line) + n)) == n)
    return f"{length}{line}".encode()


def described(records, name="dog.1.jpg"):
    body = b"".join(record(*each) for each in records)
    return header("x", tarfile.XHDTYPE, len(body)) + body + bytes(-len(body) % 512) + header(name)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (header("x", tarfile.XHDTYPE, 1 << 60), "a header of 1,152,921,504,606,846,976 bytes"),
        (header("x", tarfile.GNUTYPE_LONGNAME, 1 << 60), "a header of 1,152,921"),
        (header("x", tarfile.XHDTYPE, 20_000_000) + bytes(20_000_000), "a header of 20,000,000"),
        (header("x", tarfile.XGLTYPE) * 5000, "is damaged"),  # one describes the next
        (header("readme.txt", size=-1024), "is damaged"),  # back to its own beginning
        (described([("size", -1024)]), "is damaged"),
        (described([("size", 1 << 60)]), "data.max_total_gb"),
        (described([("GNU.sparse.map", "x,y"), ("GNU.sparse.size", 9)]), "is damaged"),
        (described([("path", "dog.1.jpg" * 10_000)]), "a name has 90,000 characters"),
        (header("readme.txt", size=20_000_000) + bytes(20_000_000), "data.max_total_gb"),
        (bytes(20_000_000), "data.max_total_gb"),  # behind the end
    ],
)
@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_a_tar_that_is_made_to_do_harm(tmp_path, content, said, suffix):
    """It claims or becomes gigabytes, or never ends: no more is read than the limits allow."""
    source = tmp_path / f"a.{suffix}"
    content = header("cat.1.jpg") + content
    source.write_bytes(gzip.compress(content) if suffix == "tar.gz" else content)
    tracemalloc.start()
    with pytest.raises(UserError, match=said):
        store(source, tmp_path / "out.zip", LIMITS)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


def test_more_entries_than_a_plain_zip_can_hold(tmp_path):
    names = [f"train/{kind}.{number}.jpg" for kind in ("cat", "dog") for number in range(33_000)]
    files = {name: name.encode() for name in names}
    stored = store(pack(tmp_path / "a.zip", files), tmp_path / "out.zip", LIMITS)
    assert stored.images == {"cat": 33_000, "dog": 33_000}


@pytest.mark.parametrize("name", ["a.keras", "a.h5"])
def test_a_model_file_runs_no_code(tensorflow, tmp_path, name):
    import keras

    trace = tmp_path / "was here"
    harm = eval(f"lambda x: (open({str(trace)!r}, 'w').close(), x)[1]")
    keras.Sequential([keras.Input((2,)), keras.layers.Lambda(harm)]).save(tmp_path / name)
    trace.unlink(missing_ok=True)
    with pytest.raises(UserError, match="is not a model that Keras can load"):
        saved.load(tmp_path / name)
    assert not trace.exists()


def test_the_user_interface_listens_on_this_machine_alone():
    (command,) = re.findall(r"mlflow. ui (.*)", (REPOSITORY / "Makefile").read_text())
    assert "--host 127.0.0.1" in command
