"""The command `catsdogs`: its arguments, its help, its errors, and the table of experiments."""

import importlib
import inspect
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

from catsdogs import stage
from catsdogs.commands import cli, experiments, programs, search, verify
from catsdogs.stage import UserError

import pytest
import yaml
from conftest import REPOSITORY

COMMANDS = {
    "predict": {
        "predict a.jpg b.jpg --model basic": (("a.jpg", "b.jpg"), "basic", False),
        "predict --json https://example.org/a.jpg -": (
            ("https://example.org/a.jpg", "-"),
            None,
            True,
        ),
    },
    "demo": {"demo": (7860,), "demo --port 0": (0,)},
    "sync": {"sync": ((),), "sync HEAD wide": (("HEAD", "wide"),)},
    "champion": {"champion": ()},
    "experiments": {"experiments": ()},
    "search": {
        "search train_basic a=1,2": (
            search.Search("train_basic", ("a=1,2",), 1, 4000, "val_accuracy"),
            20,
            "",
            "origin",
        ),
        "search --jobs 2 train_basic a=1,2 --trials 5 b=[1],[2] --tuning=7 --metric val_loss": (
            search.Search("train_basic", ("a=1,2", "b=[1],[2]"), 2, 7, "val_loss"),
            5,
            "",
            "origin",
        ),
        "search train_basic a=1 --storage sqlite:///a.db --remote team": (
            search.Search("train_basic", ("a=1",), 1, 4000, "val_accuracy"),
            20,
            "sqlite:///a.db",
            "team",
        ),
    },
    "preset": {"preset": (None,), "preset better": ("better",)},
    "results": {
        "results one two": (("one", "two"), Path("docs/results")),
        "results one --folder mine": (("one",), Path("mine")),
    },
    "verify": {"verify": ()},
    "deps": {"deps": ()},
    "plots-page": {"plots-page": ()},
}


@pytest.fixture
def command(monkeypatch, capsys):
    """Run `catsdogs`; return its status and what it printed to either stream."""
    monkeypatch.setattr(stage, "_handle_signals", lambda _: None)

    def run(line):
        monkeypatch.setattr(sys, "argv", ["/usr/bin/catsdogs", *line.split()])
        try:
            cli.main()
            status = 0
        except SystemExit as error:
            status = error.code
        return status, *capsys.readouterr()

    return run


def module(name):
    return importlib.import_module(f"catsdogs.commands.{name.replace('-', '_')}")


def test_the_help_names_every_subcommand(command):
    status, out, _ = command("--help")
    assert status == 0
    listed = out.partition("Commands:\n")[2].splitlines()
    assert {line.split()[0] for line in listed} == set(COMMANDS)
    for name in COMMANDS:
        status, out, _ = command(f"{name} --help")
        assert (status, out.splitlines()[0].split()[:3]) == (0, ["Usage:", "catsdogs", name])


@pytest.mark.parametrize(
    ("line", "expected"),
    [(line, expected) for lines in COMMANDS.values() for line, expected in lines.items()],
)
def test_arguments_arrive(monkeypatch, command, line, expected):
    name = next(name for name in COMMANDS if line in COMMANDS[name])
    signature, calls = inspect.signature(module(name).main), []
    monkeypatch.setattr(module(name), "main", lambda *given: calls.append(given))
    assert command(line) == (0, "", "")
    assert calls == [expected]
    signature.bind(*expected)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("", "Missing command"),
        ("nothing", "No such command 'nothing'"),
        ("predict", "Missing argument 'PHOTOS...'"),
        ("sync --all", "No such option '--all'"),
        ("champion me", "unexpected extra argument (me)"),
        ("search train_basic", "Missing argument 'SPACE...'"),
        ("search train_basic a=1,2 --trials 0", "0 is not in the range"),
        ("search train_basic a=1,2 --jobs two", "'two' is not a valid integer"),
        ("search train_basic a=1,2 --metric f1", "'f1' is not one of 'val_accuracy', 'val_loss'"),
    ],
)
def test_wrong_arguments_are_one_line_and_status_2(command, line, problem):
    status, out, err = command(line)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ") and problem in err
    assert f"See `{' '.join(['catsdogs', *line.split()[:1]])}" in err or line == "nothing"


def test_a_users_error_is_one_line_and_an_error_of_the_code_is_not_hidden(monkeypatch, command):
    def fail():
        raise error

    monkeypatch.setattr(module("champion"), "main", fail)
    error = UserError("nobody is here")
    assert command("champion")[0] == "error: nobody is here", "which Python prints, with status 1"
    error = ValueError("a mistake")
    with pytest.raises(ValueError, match="a mistake"):
        command("champion")


def test_the_installed_command_is_this_one():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"catsdogs": f"{cli.__name__}:{cli.main.__name__}"}


@pytest.mark.parametrize("printed", [1, 100_000])
def test_a_reader_who_has_seen_enough_ends_a_command_quietly(printed):
    """As `| head -1` does: while the command prints, or when Python flushes at its end."""
    code = "from catsdogs.commands import cli, predict\n"
    code += f"predict.main = lambda *_: [print('a line') for _ in range({printed})]\n"
    code += "import sys; sys.argv = ['catsdogs', 'predict', 'a.jpg']; cli.main()"
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY / "src",
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, b"")


def test_the_advice_of_another_program_is_told_to_its_end():
    advice = "fatal: dubious ownership\nTo add an exception, call:\n\n\tgit config safe.directory"
    with pytest.raises(UserError) as error:
        programs.output("sh", "-c", f"echo noise >&2; printf '%s' '{advice}' >&2; exit 1")
    told = "dubious ownership To add an exception, call: git config safe.directory"
    assert str(error.value) == f"sh -c echo noise >&2; printf '%s' '{advice}' >&2; exit 1: {told}"


def test_only_a_page_is_cut_and_shows_it():
    assert stage.one_line("a\n b " * 100) == " ".join(["a b"] * 100)
    page = stage.one_line("word " * 1000)
    assert len(page) <= 2000 and page.endswith("word …")


def test_the_help_waits_for_no_large_package():
    code = "import sys; from catsdogs.commands import cli; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    shown = subprocess.run(
        command, cwd=REPOSITORY / "src", check=True, capture_output=True, text=True
    )
    large = {"tensorflow", "keras", "mlflow", "dvc", "optuna", "pandas", "numpy", "pydantic"}
    assert not large & set(shown.stdout.split())
    assert not any(name.startswith("catsdogs.tracking") for name in shown.stdout.split())


def test_verify_names_what_differs(monkeypatch, capsys, tmp_path):
    """The rebuild is played: an output comes out otherwise, one not at all, one that was not."""

    def lock(folder, **outputs):
        outs = [{"path": path, "md5": md5} for path, md5 in outputs.items()]
        (folder / "dvc.lock").write_text(yaml.safe_dump({"stages": {"one": {"outs": outs}}}))

    monkeypatch.chdir(tmp_path)
    lock(tmp_path, same="1", other="2", gone="3")
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "--quiet"], ["add", "."], [*identity, "commit", "-qm", "test"]):
        subprocess.run(["git", *command], check=True)
    monkeypatch.setattr(verify, "_rebuild", lambda clone: None)
    verify.main()
    assert capsys.readouterr().out.splitlines()[:-1] == [
        "identical  gone",
        "identical  other",
        "identical  same",
    ]
    lock(tmp_path, same="not committed")
    rebuilt = {"same": "1", "other": "0", "new": "4"}
    monkeypatch.setattr(verify, "_rebuild", lambda clone: lock(clone, **rebuilt))
    with pytest.raises(UserError, match=r"3 of 3 outputs differ from \w+'s .*: gone, new, other"):
        verify.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("changes that are not committed are left out")
    assert lines[1:] == [
        "DIFFERENT  gone",
        "DIFFERENT  new",
        "DIFFERENT  other",
        "identical  same",
    ]
    (tmp_path / "dvc.lock").unlink()
    subprocess.run(["git", *identity, "commit", "-qam", "none"], check=True)
    with pytest.raises(UserError, match=r"dvc\.lock has no outputs"):
        verify.main()


def state(name, parameters, accuracy):
    metrics = {f"train_{model}": {"accuracy": accuracy} for model in ("basic", "augmented")}
    return {
        "rev": "1234567890",
        "name": name,
        "data": {
            "timestamp": "2024-02-03T04:05:06",
            "params": {"params.yaml": {"data": parameters}},
            "metrics": {"metrics/evaluate.json": {"data": metrics}},
        },
    }


def test_experiments_of_every_kind(monkeypatch):
    parameters = {"train_basic": {"dense": [8, 8], "seed": 1}, "data": {"source": "sample"}}
    changed = {"train_basic": {"dense": [16], "seed": 1}, "data": {"source": "microsoft"}}
    queued = state("waits", changed, 0)
    queued["data"]["metrics"] = {}
    lost = {"rev": "abcdefghij", "name": None, "data": None}
    failed = state("failed", changed, 0.5)  # of which DVC shows what its commit has
    partial = state("partial", parameters, 0.5) | {"rev": "2345678901"}  # likewise
    commit = state(None, parameters, 0.5) | {
        "experiments": [
            {"revs": [queued], "executor": {"state": "queued"}},
            {"revs": [lost], "executor": {"state": "failed"}},
            {"revs": [failed], "executor": {"state": "failed"}},
            {"revs": [partial], "executor": {"state": "success"}},
            {"revs": [state("same", parameters, 0.25)], "executor": None},
        ]
    }
    mine = {"1234567890", "abcdefghij"}
    monkeypatch.setattr(experiments, "is_evaluated", mine.__contains__)
    models = ["train_basic", "train_augmented", "train_inception"]
    assert experiments.table([commit], models).splitlines() == [
        "experiment  created     basic   augmented  inception  parameters",
        "1234567     2024-02-03  0.5000  0.5000",
        "  waits     queued                                    train_basic.dense=[16]",
        "                                                      data.source=microsoft",
        "  abcdefg   failed",
        "  failed    failed                                    train_basic.dense=[16]",
        "                                                      data.source=microsoft",
        "  partial   2024-02-03",
        "  same      2024-02-03  0.2500  0.2500",
    ]
    assert experiments.table([commit], ["train_fourth"]).splitlines()[:2] == [
        "experiment  created     fourth  parameters",
        "1234567     2024-02-03",
    ]
