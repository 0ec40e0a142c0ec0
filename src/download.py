"""Stage `download`: bring the photographs of `data.source` into one archive.

In: the drawn sample, a public archive, Kaggle, a path or a URL.
Out: `data/raw/images.zip`, with `cat/…` and `dog/…`, the files' bytes as they came;
`metrics/download.json`.
"""

from pathlib import Path
from typing import Annotated

from catsdogs import layout, params, stage
from catsdogs.data import archives, downloads, sample
from catsdogs.data.archives import Limits, Stored
from catsdogs.data.downloads import Remote
from catsdogs.files import digest, write_json, write_zip
from catsdogs.layout import CLASSES
from catsdogs.models import weights
from catsdogs.stage import UserError

from pydantic import Field

MICROSOFT = Remote(
    "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/"
    "kagglecatsanddogs_5340.zip",
    "sha256:b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9",
)


class Data(params.Section):
    source: Annotated[str, Field(min_length=1)]
    sample_images: Annotated[params.Whole, Field(ge=20, le=1_000_000, multiple_of=2)]
    sample_seed: params.Seed
    max_file_mb: Annotated[params.Positive, Field(le=1e6)]
    max_total_gb: Annotated[params.Positive, Field(le=1e6)]


def main() -> None:
    data = params.load("data", Data)
    # Only a later stage needs the weights. A machine without network should fail now, not then.
    weights.locate(params.load_text("train_inception.weights"))
    if data.source == "sample":
        source, stored = layout.ARCHIVE, draw(data)
    else:
        source = locate(data.source)
        limits = Limits(int(data.max_file_mb * 1e6), int(data.max_total_gb * 1e9))
        stored = archives.store(source, layout.ARCHIVE, limits)
    report(data.source, source if source.is_file() else layout.ARCHIVE, stored)


def draw(data: Data) -> Stored:
    """Draw the sample, half of it cats."""
    write_zip(layout.ARCHIVE, sample.sample(data.sample_images, data.sample_seed))
    return Stored(dict.fromkeys(CLASSES, data.sample_images // 2), [])


def locate(source: str) -> Path:
    """Return the local path of a source. Download it if necessary.

    Raises:
        UserError: it is no known word, path or URL, or cannot be downloaded.
    """
    if source == "microsoft":
        return downloads.fetch(MICROSOFT)
    if source == "kaggle":
        return downloads.fetch_kaggle()
    if source.startswith(("http://", "https://")):
        return downloads.fetch(Remote(source))
    path = layout.resolve(source)
    if not path.exists():
        raise UserError(
            f"data.source is {source!r}: neither sample, microsoft, kaggle, a URL nor a path that "
            f"exists (looked for {path})"
        )
    return path


def report(source: str, hashed: Path, stored: Stored) -> None:
    # Of a path or URL only the name: the rest says where this machine has it, not what it is.
    named = source in ("sample", "microsoft", "kaggle")
    name = source if named else Path(source.partition("?")[0]).name
    write_json(
        layout.metrics("download"),
        {
            "source": name,
            "sha256": digest(hashed, "sha256"),
            "images": stored.images,
            "left_out": {"count": len(stored.left_out), "first": stored.left_out[:10]},
        },
    )
    counts = ", ".join(f"{count:,} {kind}s" for kind, count in stored.images.items())
    print(f"{name}: {counts}; {len(stored.left_out):,} other files left out")


if __name__ == "__main__":
    stage.run(main)
