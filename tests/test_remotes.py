"""Data, models and experiments for a colleague: DVC's remotes, and a cache that is shared."""

import pytest
import servers

pytestmark = pytest.mark.slow

OUTPUTS = ("data", "models", "metrics", "plots")
CLEAN = "Data and pipelines are up to date."


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bucket") / "s3"
    with servers.started(servers.Bucket(folder, ["team"])) as bucket:
        yield bucket


@pytest.fixture
def dvc():
    """DVC with what it needs for S3, and the keys of the bucket."""
    program = str(servers.programs() / "python")

    def run(checkout, *arguments, check=True):
        return checkout.run(program, "-m", "dvc", *arguments, check=check, **servers.KEYS)

    return run


@pytest.fixture
def mine(made, tmp_path):
    """A checkout of one who has trained, with a Git server."""
    mine = made.copy(tmp_path / "mine")
    mine.git("init", "--quiet", "--bare", str(tmp_path / "origin.git"))
    mine.git("remote", "add", "origin", str(tmp_path / "origin.git"))
    return mine


def share(dvc, mine, remote, *options):
    """Do what the page says, up to the push of data."""
    dvc(mine, "remote", "add", "--default", "team", remote)
    if options:
        dvc(mine, "remote", "modify", "team", *options)
    mine.commit()
    mine.git("push", "--quiet", "origin", "HEAD")


def clone(mine, name):
    """A colleague's clone, which has nothing of what DVC keeps."""
    colleague = type(mine).__new__(type(mine))
    colleague.path = mine.path.with_name(name)
    mine.git("clone", "--quiet", str(mine.path.with_name("origin.git")), str(colleague.path))
    assert not (colleague.path / "models").exists()
    return colleague


def files(checkout):
    found = (path for name in OUTPUTS for path in (checkout.path / name).rglob("*"))
    return {path.relative_to(checkout.path): path.read_bytes() for path in found if path.is_file()}


def test_a_colleague_has_everything_without_training(bucket, dvc, mine):
    share(dvc, mine, "s3://team/all", "endpointurl", bucket.url)
    dvc(mine, "push")
    colleague = clone(mine, "colleague")
    dvc(colleague, "pull")
    assert files(colleague) == files(mine)
    assert CLEAN in dvc(colleague, "status").stdout
    # An experiment of one is no work for the other.
    dvc(mine, "exp", "run", "--name", "lower", "-S", "train_basic.learning_rate=0.01")
    dvc(mine, "exp", "push", "origin", "lower")
    assert "lower" in dvc(colleague, "exp", "list", "--all-commits", "origin").stdout
    dvc(colleague, "exp", "pull", "origin", "lower")
    dvc(colleague, "exp", "apply", "lower")
    assert files(colleague) == files(mine)
    assert CLEAN in dvc(colleague, "status").stdout
    assert "Running stage" not in dvc(colleague, "repro").stdout
    # Where the cache is shared, the other need not even know of it.
    neighbour = clone(mine, "neighbour")
    dvc(neighbour, "cache", "dir", "--local", str(mine.path / ".dvc" / "cache"))
    dvc(neighbour, "config", "--local", "cache.shared", "group")
    dvc(neighbour, "checkout")
    assert CLEAN in dvc(neighbour, "status").stdout
    said = dvc(neighbour, "exp", "run", "-S", "train_basic.learning_rate=0.01").stdout
    assert "Stage 'train_basic' is cached - skipping run" in said
    assert "Running stage 'train" not in said
    assert files(neighbour) == files(mine)


def test_a_folder_serves_too(dvc, mine, tmp_path):
    share(dvc, mine, str(tmp_path / "team"))
    dvc(mine, "push")
    colleague = clone(mine, "colleague")
    dvc(colleague, "pull")
    assert files(colleague) == files(mine)
    assert CLEAN in dvc(colleague, "status").stdout
    # With the whole cache there, the other need not know of what was trained.
    change = ("-S", "train_basic.learning_rate=0.01", "train_basic")
    dvc(mine, "exp", "run", *change)
    dvc(mine, "push", "--run-cache")
    mine.run("cp", "--recursive", "--update", ".dvc/cache/files", str(tmp_path / "team"))
    dvc(colleague, "fetch", "--run-cache")
    said = dvc(colleague, "exp", "run", "--pull", *change).stdout
    assert "Stage 'train_basic' is cached - skipping run" in said
    assert files(colleague) == files(mine)


@pytest.mark.parametrize("day", servers.S3_FAULTS)
def test_on_a_bad_day_dvc_says_why_and_loses_nothing(bucket, dvc, mine, day):
    share(dvc, mine, f"s3://team/{day}", "endpointurl", bucket.url)
    before = files(mine)
    with bucket.fault(*servers.S3_FAULTS[day]):
        said = dvc(mine, "push", check=False)
    assert said.returncode
    assert files(mine) == before
    assert servers.S3_FAULTS[day][2] in said.stderr or "(403)" in said.stderr
    dvc(mine, "push")
    colleague = clone(mine, "colleague")
    with bucket.fault("GET HEAD", *servers.S3_FAULTS[day][1:]):
        said = dvc(colleague, "pull", check=False)
    assert said.returncode
    dvc(colleague, "pull")
    assert files(colleague) == before


def test_a_bucket_that_is_away_is_named(dvc, mine):
    nowhere = f"http://127.0.0.1:{servers.free_port()}"
    share(dvc, mine, "s3://team/away", "endpointurl", nowhere)
    said = dvc(mine, "push", check=False)
    assert said.returncode
    assert f'Could not connect to the endpoint URL: "{nowhere}/team' in said.stderr
    assert CLEAN in dvc(mine, "status").stdout
