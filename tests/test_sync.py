"""Which experiment a name means."""

from catsdogs.commands import sync
from catsdogs.commands.sync import Experiment
from catsdogs.stage import UserError

import pytest


def test_of_several_experiments_of_a_name_that_of_head_is_meant(monkeypatch):
    experiments = [
        Experiment("twice", "a1", "older"),
        Experiment("twice", "b1", "head"),
        Experiment("once", "a2", "older"),
        Experiment("lost", "a3", "older"),
        Experiment("lost", "c3", "oldest"),
    ]
    monkeypatch.setattr(sync, "git", lambda *_: "head")
    assert sync.choose("twice", experiments) == experiments[1]
    assert sync.choose("once", experiments) == experiments[2]
    assert sync.choose("nobody", experiments) is None
    with pytest.raises(UserError, match="lost is of several commits, older, oldest: `git check"):
        sync.choose("lost", experiments)
