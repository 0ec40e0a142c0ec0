"""The command `catsdogs`: its subcommands, their arguments and their help.

Click is here already, because DVC and MLflow need it. It takes options and arguments in any order,
which argparse does not. A subcommand imports its module when it runs, so that help is quick.
"""

import functools
import sys
from collections.abc import Callable
from pathlib import Path

from catsdogs import stage

import click


@click.group(
    no_args_is_help=False, context_settings={"max_content_width": 99, "show_default": True}
)
def app() -> None:
    """Commands that go with the pipeline. Run them from the repository's root."""


def main() -> None:
    """Run the subcommand that the arguments name; wrong arguments end it with status 2."""
    try:
        app(prog_name="catsdogs", standalone_mode=False)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "catsdogs"
        print(f"error: {error.format_message()} See `{command} --help`.", file=sys.stderr)
        sys.exit(error.exit_code)


def subcommand(advice: str) -> Callable[[Callable[..., None]], click.Command]:
    """Make a function a subcommand that ends like a stage; `advice` follows an interruption."""

    def register(function: Callable[..., None]) -> click.Command:
        @functools.wraps(function)
        def run(**values: object) -> None:
            stage.run(functools.partial(function, **values), advice)

        return app.command()(run)

    return register


@subcommand("the other photos were not looked at")
@click.argument(
    "photos",
    nargs=-1,
    required=True,
    help="Image files, folders of them, patterns such as 'pets/*.jpg', addresses (https://…), or "
    "`-` for the standard input.",
)
@click.option(
    "--model",
    metavar="NAME",
    help="A model that was trained here, such as `basic`; a .keras file that takes RGB pixels "
    "from 0 to 255 and gives one number (sigmoid or logit) or two (softmax or logits); or an "
    "address in MLflow, such as models:/catsdogs@champion.  "
    "[default: the last of evaluate.models in params.yaml]",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print a JSON object a line: file, class, the probability of the second class.",
)
def predict(photos: tuple[str, ...], model: str | None, as_json: bool) -> None:
    """Tell which class photos show: a cat or a dog, or those of data.classes in params.yaml.

    A photo that cannot be used is named on stderr, and the status is 1; the others are answered.
    """
    from catsdogs.commands import predict

    predict.main(photos, model, as_json)


@subcommand("the page is closed")
@click.option("--port", type=click.IntRange(0, 65535), default=7860, help="0 takes a free one.")
def demo(port: int) -> None:
    """Show a page on 127.0.0.1 that takes a photograph.

    It shows what the models say, how sure they are, and where they look.
    """
    from catsdogs.commands import demo

    demo.main(port)


@subcommand("what is recorded stays; the same command goes on from here")
@click.argument(
    "revisions", nargs=-1, help="Experiments of DVC, revisions of Git, or `workspace`."
)
def sync(revisions: tuple[str, ...]) -> None:
    """Record in MLflow what it lacks.

    Without REVISIONS: the workspace and all experiments of DVC. Trainings record themselves. This
    is for those that DVC took from its cache, for a clone, and for a time without MLflow.
    """
    from catsdogs.commands import sync

    sync.main(revisions)


@subcommand("the champion stays the same")
def champion() -> None:
    """Name the best model in MLflow's registry.

    Of all models that were evaluated on the images of the workspace, the one with the highest
    accuracy gets the alias `champion`.
    """
    from catsdogs.commands import champion

    champion.main()


@subcommand("nothing was changed")
def experiments() -> None:
    """List the experiments of this commit.

    Shows the accuracy of each model and the parameters that an experiment changed.
    """
    from catsdogs.commands import experiments

    experiments.main()


@subcommand("params.yaml is as it was")
@click.argument("name", required=False, help="A file of the folder presets, such as `better`.")
def preset(name: str | None) -> None:
    """Put the parameters of a preset into params.yaml.

    Without NAME: list the presets. Comments stay, and `git checkout params.yaml` takes it back.
    """
    from catsdogs.commands import preset

    preset.main(name)


@subcommand("DVC's queue finishes what it has; the same command goes on with the search")
@click.argument("training", metavar="STAGE", help="A training stage, such as train_basic.")
@click.argument(
    "space",
    nargs=-1,
    required=True,
    help="Parameters and where to look for them, such as train_basic.dense=[64],[128] "
    "or 'train_basic.learning_rate=tag(log,interval(1e-4,1e-2))'.",
)
@click.option("--trials", type=click.IntRange(1), default=20, help="How many in all.")
@click.option("--jobs", type=click.IntRange(1), default=1, help="How many at a time.")
@click.option("--tuning", default=4000, help="How many training images judge the trials.")
@click.option(
    "--metric",
    type=click.Choice(["val_accuracy", "val_loss"]),
    default="val_accuracy",
    help="What the trials are judged by.",
)
@click.option(
    "--storage",
    envvar="OPTUNA_STORAGE",
    default="",
    help="URL of a database from which several machines take trials of this same command.",
)
@click.option("--remote", default="origin", help="Git's remote that gets these trials.")
def search(
    training: str,
    space: tuple[str, ...],
    trials: int,
    jobs: int,
    tuning: int,
    metric: str,
    storage: str,
    remote: str,
) -> None:
    """Search for better parameters of a training STAGE.

    Every trial is an experiment of DVC. Optuna chooses its parameters, DVC's queue runs it.
    """
    from catsdogs.commands import search

    asked = search.Search(training, space, jobs, tuning, metric)
    search.main(asked, trials, storage, remote)


@subcommand("the results are as they were")
@click.argument("names", nargs=-1, required=True, metavar="EXPERIMENT...", help="Their names.")
@click.option("--folder", type=Path, default=Path("docs/results"), help="Where to.")
def results(names: tuple[str, ...], folder: Path) -> None:
    """Keep the results of experiments in Git.

    Writes how each experiment is run again and what its models reached (runs.json), their learning
    curves (curves.csv) and their predictions (predictions.csv.gz).
    """
    from catsdogs.commands import results

    results.main(names, folder)


@subcommand("nothing was verified")
def verify() -> None:
    """Rebuild the last commit in a clone and compare every output."""
    from catsdogs.commands import verify

    verify.main()


@subcommand("dvc.yaml is as it was")
def deps() -> None:
    """Write the modules that each stage imports into dvc.yaml."""
    from catsdogs.commands import deps

    deps.main()


@subcommand("run it again")
def plots_page() -> None:
    """Let `dvc plots` draw without the internet."""
    from catsdogs.commands import plots_page

    plots_page.main()
