import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor

import split
from catsdogs import layout, params
from catsdogs.data.augmentation import Augmentation
from catsdogs.data.batches import FixedBatches, PixelReader, TrainingBatches, read_subset
from catsdogs.data.images import decode
from catsdogs.files import read_csv, write_zip
from catsdogs.stage import UserError

import numpy as np
import pytest
import yaml
from conftest import REPOSITORY, photo


@pytest.fixture
def run_split(tmp_path, monkeypatch):
    """Run the stage on an archive of the given files; return its tables and metrics."""

    def run(files, source="sample", classes=("cat", "dog"), rows=split.SHARD, **changes):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(split, "SHARD", rows)
        values = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
        values["split"] |= {"image_size": 16, **changes}
        values["data"] |= {"source": source, "classes": list(classes)}
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
        archive = tmp_path / "data/raw/images.zip"
        write_zip(archive, [(name, lambda name=name: files[name]) for name in sorted(files)])
        # Such small images are too small for the trainings.
        monkeypatch.setattr(params, "check", lambda: None)
        split.main()
        folder = tmp_path / "data/split"
        tables = {path.stem: read_csv(path) for path in folder.glob("*.csv")}
        return tables, json.loads((tmp_path / "metrics/split.json").read_text())

    return run


def pictures(count, first=0):
    return {
        f"{kind}/{number}.jpg": photo(2 * (first + number) + (kind == "dog"))
        for number in range(count)
        for kind in ("cat", "dog")
    }


def names(table):
    return [line["name"] for line in table]


def labels(table):
    return [int(line["label"]) for line in table]


def test_counts_are_exact_and_balanced(run_split):
    tables, metrics = run_split(pictures(20), train=20, validation=10)
    assert (metrics["train"], metrics["validation"]) == (20, 10)
    for side, count in (("train", 20), ("validation", 10)):
        assert len(tables[side]) == count
        assert sum(labels(tables[side])) == count // 2
        for line in tables[side]:
            assert line["name"].startswith(("cat", "dog")[int(line["label"])])
    assert not set(names(tables["train"])) & set(names(tables["validation"]))


def test_labels_are_the_positions_of_the_classes(run_split):
    tables, _ = run_split(pictures(20), classes=("dog", "cat"), train=20, validation=10)
    for line in tables["train"] + tables["validation"]:
        assert line["name"].startswith(("dog", "cat")[int(line["label"])])
    with pytest.raises(UserError, match=r"images\.zip has the class cat: run `dvc repro`"):
        run_split(pictures(20), classes=("wolf", "dog"))


def test_fewer_images_shrink_both_sides_in_proportion(run_split, capsys):
    tables, metrics = run_split(pictures(25), train=20000, validation=5000)
    assert (len(tables["train"]), len(tables["validation"])) == (40, 10)
    assert metrics["asked"] == {"train": 20000, "validation": 5000, "tuning": 0}
    assert "fewer than the 20,000 and 5,000 asked for" in capsys.readouterr().out


@pytest.mark.parametrize(("per_class", "train", "validation"), [(15, 24, 6), (5, 8, 2)])
def test_shrinking_loses_nothing_to_rounding(run_split, per_class, train, validation):
    _, metrics = run_split(pictures(per_class))
    assert (metrics["train"], metrics["validation"]) == (train, validation)


def test_the_smaller_class_decides(run_split):
    files = pictures(25)
    for number in range(15):
        del files[f"dog/{number}.jpg"]
    tables, _ = run_split(files, train=20000, validation=5000)
    assert sorted(labels(tables["train"])) == [0] * 8 + [1] * 8
    assert sorted(labels(tables["validation"])) == [0] * 2 + [1] * 2


def test_unused_images_are_said_and_counted(run_split, capsys):
    files = pictures(40)
    for number in range(30):
        del files[f"dog/{number}.jpg"]
    _, metrics = run_split(files)
    assert metrics["used"] == {"cat": 10, "dog": 10}
    assert metrics["unused"] == {"cat": 30, "dog": 0}
    assert "30 cat images go unused: every side has as many" in capsys.readouterr().out
    _, metrics = run_split(pictures(20), train=20, validation=10, tuning=4)
    assert metrics["unused"] == {"cat": 5, "dog": 5}
    assert "5 cat and 5 dog images go unused" in capsys.readouterr().out
    _, metrics = run_split(pictures(15), train=20, validation=10)
    assert metrics["unused"] == {"cat": 0, "dog": 0}
    assert "unused" not in capsys.readouterr().out


def test_the_same_seed_draws_the_same_and_another_does_not(run_split):
    draws = [names(run_split(pictures(20), seed=seed)[0]["validation"]) for seed in (1, 1, 2)]
    assert draws[0] == draws[1]
    assert set(draws[0]) != set(draws[2])


@pytest.mark.parametrize("seed", range(6))
def test_copies_stay_on_one_side(run_split, seed):
    files = pictures(20)
    for number in range(8):  # copies, and copies of copies, also under the other class's name
        files[f"cat/copy{number}.jpg"] = files[f"cat/{number}.jpg"]
        files[f"dog/copy{number}.jpg"] = files[f"cat/{number // 2}.jpg"]
    tables, metrics = run_split(files, train=24, validation=8, seed=seed)
    assert metrics["exact_copies"] == 16
    assert metrics["duplicate_groups"] == 8
    sides = [{files[name] for name in names(tables[side])} for side in ("train", "validation")]
    assert not sides[0] & sides[1]
    assert len(sides[1]) == len(tables["validation"]) == 8, "validation images are distinct"


def test_copies_stay_together_where_there_is_nothing_else(run_split):
    files = pictures(10)
    files |= {name.replace(".", "copy."): content for name, content in files.items()}
    tables, _ = run_split(files, train=24, validation=8)
    sides = [{files[name] for name in names(tables[side])} for side in ("train", "validation")]
    assert not sides[0] & sides[1]
    assert len(tables["validation"]) == 8


@pytest.mark.parametrize("seed", (1, 2))
def test_tuning_images_judge_in_place_of_the_validation_images(run_split, capsys, seed):
    plain, metrics = run_split(pictures(20), train=20, validation=10, seed=seed)
    assert (metrics["tuning"], metrics["judged_by"]) == (0, "validation")
    tables, metrics = run_split(pictures(20), train=20, validation=10, tuning=6, seed=seed)
    counts = [metrics[side] for side in ("train", "tuning", "validation")]
    assert (counts, metrics["judged_by"]) == ([14, 6, 10], "tuning")
    assert "6 tuning images judge; the validation images are set aside" in capsys.readouterr().out
    train, judging = tables["train"], tables["validation"]
    assert [labels(table).count(1) for table in (train, judging)] == [7, 3]
    assert sorted(names(train) + names(judging)) == sorted(names(plain["train"]))
    again, _ = run_split(pictures(20), train=20, validation=10, tuning=6, seed=seed)
    assert again == tables


@pytest.mark.parametrize("seed", range(6))
def test_copies_leak_neither_to_tuning_nor_from_validation(run_split, seed):
    files = pictures(20)
    for number in range(8):
        files[f"cat/copy{number}.jpg"] = files[f"cat/{number}.jpg"]
        files[f"dog/copy{number}.jpg"] = files[f"dog/{number}.jpg"]
    kinds = {"train": 36, "validation": 20, "seed": seed}
    plain, _ = run_split(files, **kinds)
    tables, metrics = run_split(files, **kinds, tuning=24)
    assert [metrics[side] for side in ("train", "tuning", "validation")] == [12, 24, 20]
    train, tuning, validation = (
        {files[name] for name in names(table)}
        for table in (tables["train"], tables["validation"], plain["validation"])
    )
    assert not train & tuning and not (train | tuning) & validation
    assert len(tuning) < 24, "some copies are drawn, together"


def test_fewer_images_shrink_tuning_in_proportion(run_split):
    tables, metrics = run_split(pictures(25), tuning=4000)
    assert (len(tables["train"]), len(tables["validation"])) == (32, 8)
    assert metrics["validation"] == 10
    assert metrics["asked"] == {"train": 20000, "validation": 5000, "tuning": 4000}


@pytest.mark.parametrize(
    ("tuning", "problem"),
    [
        (3, "split.tuning is 3 but should be a multiple of 2"),
        (-2, "split.tuning is -2 but should be greater than or equal to 0"),
        (2, "50 usable images in data/raw/images.zip are too few for split.tuning"),
    ],
)
def test_tuning_that_cannot_be_drawn_is_one_line(run_split, tuning, problem):
    with pytest.raises(UserError, match=problem):
        run_split(pictures(25), tuning=tuning)


def test_the_conditions_of_drawn_images_go_with_them(run_split, tmp_path):
    """And those of photographs stay the same, whatever the section `rehearsal` says."""
    run_split(pictures(20))
    asked = yaml.safe_load((REPOSITORY / "params.yaml").read_text())["rehearsal"]
    assert json.loads((tmp_path / layout.REHEARSAL).read_text()) == asked
    run_split(pictures(20), source="photographs.zip")
    assert (tmp_path / layout.REHEARSAL).read_text() == "null\n"


def test_broken_images_are_left_out_with_their_reason(run_split):
    files = pictures(10)
    files["cat/0.jpg"] = b""
    files["dog/3.jpg"] = b"text"
    files["dog/4.jpg"] = photo(99, (200, 200))[:1500]
    tables, metrics = run_split(files)
    assert metrics["rejected"] == 3
    reasons = {line["name"]: line["reason"] for line in tables["rejected"]}
    assert reasons["cat/0.jpg"] == "the file is empty"
    assert reasons["dog/3.jpg"] == "not an image in a known format"
    assert reasons["dog/4.jpg"].startswith("damaged: image file is truncated")
    assert not set(reasons) & set(names(tables["train"]) + names(tables["validation"]))


def test_too_few_images_are_one_line(run_split, tmp_path):
    files = pictures(3) | {"cat/0.jpg": b"", "cat/1.jpg": b""}
    with pytest.raises(UserError, match=r"4 usable images in data/raw/images.zip are too few"):
        run_split(files)
    left = sorted(path.name for path in (tmp_path / "data/split").iterdir())
    assert left == ["rejected.csv"], "which the message speaks of, and nothing else"


def test_rows_point_at_the_pixels(run_split, tmp_path):
    tables, _ = run_split(pictures(10), train=8, validation=4)
    path = tmp_path / "data/split/images/00000.npy"
    pixels = np.load(path)
    assert pixels.shape == (20, 16, 16, 3)
    np.save(tmp_path / "saved.npy", pixels)
    assert path.read_bytes() == (tmp_path / "saved.npy").read_bytes(), "as NumPy itself writes it"
    with zipfile.ZipFile(tmp_path / "data/raw/images.zip") as archive:
        for line in tables["train"] + tables["validation"]:
            expected = decode(archive.read(line["name"]), 16, "bilinear", 100)
            assert np.array_equal(pixels[int(line["row"])], expected)


def read_shards():
    return {path.name: path.read_bytes() for path in sorted(layout.PIXELS.iterdir())}


def read_batches():
    """Return the bytes of two passes of the training, and one of the validation."""
    ranges = {"width_shift": 0.2, "height_shift": 0.2, "shear": 12, "zoom": 0.2, "rotation": 9}
    changes = Augmentation(**ranges, horizontal_flip=True, fill_mode="nearest")
    pixels = PixelReader(layout.PIXELS)
    training = TrainingBatches(pixels, read_subset(layout.TRAIN), 8, 1, changes)
    validation = FixedBatches(pixels, read_subset(layout.VALIDATION), 8)
    batches = [training(step) for step in range(8)]
    batches += [validation(step) for step in range(len(validation))]
    return [array.tobytes() for batch in batches for array in batch]


def test_many_shards_give_the_batches_that_one_gives(run_split):
    files = pictures(20)
    files["cat/3.jpg"] = b""  # which takes no row
    run_split(files, train=28, validation=10)
    tables = [path.read_bytes() for path in (layout.TRAIN, layout.VALIDATION)]
    batches, (whole,) = read_batches(), layout.PIXELS.iterdir()
    images = np.load(whole)
    for rows in (16, 5, 2):
        run_split(files, train=28, validation=10, rows=rows)
        assert read_batches() == batches
        assert [path.read_bytes() for path in (layout.TRAIN, layout.VALIDATION)] == tables
        shards = [np.load(layout.PIXELS / name) for name in read_shards()]
        assert list(read_shards()) == [f"{number:05}.npy" for number in range(len(shards))]
        assert 39 / rows < len(shards) < 4 * 39 / rows
        assert all(0 < len(shard) <= rows for shard in shards)
        assert np.array_equal(np.concatenate(shards), images)


def test_the_number_of_workers_changes_no_byte(run_split, monkeypatch):
    made = []
    for workers in (1, 3):
        monkeypatch.setattr("joblib.cpu_count", lambda workers=workers: workers)
        run_split(pictures(100), rows=64)
        made.append(read_shards())
    assert len(made[0]) > 3
    assert made[0] == made[1]


def test_nothing_stays_of_an_earlier_run_by_hand(run_split):
    run_split(pictures(20), rows=4)
    before = read_shards()
    (layout.PIXELS / "another").write_text("file")
    run_split(pictures(11), rows=4)
    kept = read_shards()
    assert len(kept) < len(before)
    assert list(kept) == [f"{number:05}.npy" for number in range(len(kept))]
    with pytest.raises(UserError, match="are too few"):
        run_split(pictures(1), rows=1)
    assert read_shards() == kept, "what fails leaves all as it was"


def test_a_split_that_is_killed_leaves_all_as_it_was(run_split, monkeypatch, tmp_path):
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("the killer reaches the process by a fork alone")
    run_split(pictures(11), rows=8)
    kept, headers = read_shards(), []

    def write_header(*arguments):
        if len(headers) == 5:  # of the third shard, before its images
            os.kill(os.getpid(), signal.SIGKILL)
        headers.append(arguments)
        written(*arguments)

    written = split.write_header
    with monkeypatch.context() as patch:
        patch.setattr(split, "write_header", write_header)
        fork = multiprocessing.get_context("fork")
        process = fork.Process(target=run_split, args=(pictures(20),), kwargs={"rows": 8})
        process.start()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    (left,) = (tmp_path / "data/split").glob(".part-*")
    assert len(list(left.iterdir())) == 3
    assert read_shards() == kept
    run_split(pictures(20), rows=8)
    assert not left.exists()
    assert len(PixelReader(layout.PIXELS)) == 40


def test_memory_has_no_image_that_is_written(tmp_path, monkeypatch):
    """What grows is the names and digests that the draw needs."""
    size = 32
    asked = split.Split(
        train=2,
        validation=2,
        tuning=0,
        image_size=size,
        interpolation="bilinear",
        max_megapixels=1,
        seed=0,
    )

    def draw(count):
        for number in range(count):
            pixels = np.zeros((size, size, 3), np.uint8)
            pixels.ravel()[:4] = list(number.to_bytes(4, "big"))
            yield f"cat/{number}.jpg", pixels

    peaks = []
    monkeypatch.setattr(split, "SHARD", 256)
    for count in (1_000, 4_000):
        monkeypatch.setattr(split, "decode_archive", lambda *_, count=count: draw(count))
        tracemalloc.start()
        pictures, _ = split.decode(asked, ("cat", "dog"), tmp_path / str(count))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(pictures) == count
    assert (peaks[1] - peaks[0]) / 3_000 < 500, "bytes an image, which itself has 3,072"


def test_dvc_moves_the_shards_that_changed(run_split, tmp_path):
    remote = tmp_path / "remote"

    def dvc(*words):
        environment = {name: value for name, value in os.environ.items() if "DVC" not in name}
        command = [sys.executable, "-m", "dvc", *words]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)

    def push(files):
        before = {path for path in remote.rglob("*") if path.is_file()}
        run_split(files, rows=32)
        dvc("add", str(layout.PIXELS))
        dvc("push")
        return [path for path in remote.rglob("*") if path.is_file() and path not in before]

    files = pictures(60)
    dvc("init", "--no-scm")
    dvc("remote", "add", "--default", "store", str(remote))
    push(files)
    assert len(read_shards()) > 5
    changed = files | {"dog/3.jpg": photo(99)}
    for change in (
        changed,
        changed | {"cat/0.jpeg": photo(98)},  # the first by name
        changed | {"cat/8.jpeg": photo(97)},
        changed | {"dog/99.jpg": photo(96)},
        changed | {"cat/5.jpg": b""},  # which takes no row
    ):
        new = push(change)
        assert len(new) == 2, "the shard with the image, and the list"
        assert sum(path.suffix == ".dir" for path in new) == 1
    assert not push(files)


def write_shards(folder, images, rows):
    for number, start in enumerate(range(0, len(images), rows)):
        np.save(folder / layout.shard_name(number), images[start : start + rows])


@pytest.mark.parametrize("rows", [50, 16, 25])
def test_the_reader_gives_the_rows_that_are_asked_for(tmp_path, rows):
    images = np.random.default_rng(0).integers(0, 256, (50, 30, 30, 3), np.uint8)
    write_shards(tmp_path, images, rows)
    reader = PixelReader(tmp_path)
    assert (len(reader), reader.shape) == (50, images.shape)
    assert np.array_equal(reader[[4, 0, 4]], images[[4, 0, 4]])
    assert reader[[]].shape == (0, 30, 30, 3)
    for row in (50, -1):
        with pytest.raises(IndexError):
            reader[[row]]
    orders = [np.random.default_rng(seed).permutation(50).repeat(20) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for order, read in zip(orders, pool.map(reader.__getitem__, orders), strict=True):
            assert np.array_equal(read, images[order]), "threads do not disturb each other"
    last = sorted(tmp_path.iterdir())[-1]
    with last.open("rb+") as file:
        file.truncate(last.stat().st_size - 1)
    with pytest.raises(EOFError, match=rf"{last.name} ends within row 49"):
        reader[[49]]


@pytest.mark.parametrize("other", [np.zeros((2, 4, 4, 3)), np.zeros((2, 4), np.uint8)])
@pytest.mark.parametrize("number", [0, 2])
def test_the_reader_refuses_another_array(tmp_path, other, number):
    write_shards(tmp_path, np.zeros((6, 4, 4, 3), np.uint8), 2)
    np.save(tmp_path / layout.shard_name(number), other)
    with pytest.raises(ValueError, match=f"{number}.npy is not an array of RGB images"):
        PixelReader(tmp_path)


def test_the_reader_refuses_shards_that_do_not_belong_together(tmp_path):
    for number, change in enumerate(
        (
            lambda folder: (folder / "00000.npy").unlink(),
            lambda folder: (folder / "00001.npy").unlink(),
            lambda folder: np.save(folder / "00002.npy", np.zeros((2, 5, 5, 3), np.uint8)),
            lambda folder: [path.unlink() for path in folder.iterdir()],
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        write_shards(folder, np.zeros((6, 4, 4, 3), np.uint8), 2)
        assert len(PixelReader(folder)) == 6
        change(folder)
        with pytest.raises(UserError, match="not as the stage `split` writes it: run `dvc repro`"):
            PixelReader(folder)
