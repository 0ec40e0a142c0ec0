"""Stage `download`: bring the photographs of `data.source` into one archive.

In: the drawn sample, a public archive, Kaggle, a path or a URL.
Out: `data/raw/images.zip`, with a folder for each class, the files' bytes as they came;
`metrics/download.json`.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from catsdogs import layout, params, stage
from catsdogs.data import archives, downloads, sample
from catsdogs.data.archives import Limits, Stored
from catsdogs.data.downloads import Remote
from catsdogs.files import digest, write_json, write_zip
from catsdogs.models import weights
from catsdogs.stage import UserError

from pydantic import Field

MICROSOFT = Remote(
    "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/"
    "kagglecatsanddogs_5340.zip",
    "sha256:b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9",
)
NAMED = ("sample", "microsoft", "kaggle")


class Data(params.Section):
    classes: list[Any]  # as `params.load_classes` reads them
    source: Annotated[str, Field(min_length=1)]
    sample_images: Annotated[params.Whole, Field(ge=20, le=1_000_000, multiple_of=2)]
    sample_seed: params.Seed
    max_file_mb: Annotated[params.Positive, Field(le=1e6)]
    max_total_gb: Annotated[params.Positive, Field(le=1e6)]

    def conflicts(self, name: str, sections: Mapping[str, Any]) -> Iterator[str]:
        if self.source in NAMED and sorted(map(str, self.classes)) != [*layout.CATS_AND_DOGS]:
            yield (
                f"{name}.source {self.source} holds the classes cat and dog, but {name}.classes "
                f"has {' and '.join(map(str, self.classes))}: set it to [cat, dog], or give "
                f"{name}.source the path or URL of their images"
            )


def main() -> None:
    params.check()
    data, classes = params.load("data", Data), params.load_classes()
    # Only a later stage needs the weights. A machine without network should fail now, not then.
    weights.locate(params.load_text("train_inception.weights"))
    if data.source == "sample":
        source, stored = layout.ARCHIVE, draw(data)
    else:
        source = locate(data.source)
        limits = Limits(int(data.max_file_mb * 1e6), int(data.max_total_gb * 1e9))
        try:
            stored = archives.store(source, layout.ARCHIVE, limits, classes)
        except archives.Damaged as error:
            if source != layout.resolve(data.source):  # it was downloaded
                source.unlink(missing_ok=True)
                raise UserError(f"{error} (it is deleted: the next run downloads it)") from None
            raise
    report(data.source, source if source.is_file() else layout.ARCHIVE, stored)


def draw(data: Data) -> Stored:
    """Draw the sample, half of it cats."""
    write_zip(layout.ARCHIVE, sample.sample(data.sample_images, data.sample_seed))
    return Stored(dict.fromkeys(layout.CATS_AND_DOGS, data.sample_images // 2), [], [], [], [])


def locate(source: str) -> Path:
    """Return the local path of a source. Download it if necessary.

    Raises:
        UserError: it is no known word, path or URL, or cannot be downloaded.
    """
    if source == "microsoft":
        return downloads.fetch(MICROSOFT)
    if source == "kaggle":
        return downloads.fetch_kaggle()
    scheme, colon, _ = source.partition("://")
    if scheme.casefold() in ("http", "https") and colon:
        downloads.refuse_secrets(source)
        return downloads.fetch(Remote(source, problem=archives.problem))
    if colon:
        raise UserError(
            f"data.source begins with {scheme}://, but only http and https are known: download it "
            "by other means, and give its path"
        )
    path = layout.resolve(source)
    if not path.exists():
        raise UserError(
            f"data.source is {source!r}: neither sample, microsoft, kaggle, a URL nor a path that "
            f"exists (looked for {path})"
        )
    return path


def report(source: str, hashed: Path, stored: Stored) -> None:
    # Of a path or URL only the name: the rest says where this machine has it, not what it is.
    name = source if source in NAMED else Path(re.split("[?#]", source)[0]).name
    lists = {key: value for key, value in stored._asdict().items() if key != "images"}
    write_json(
        layout.metrics("download"),
        {
            "source": name,
            "sha256": digest(hashed, "sha256"),
            "images": stored.images,
            **{key: {"count": len(each), "first": each[:10]} for key, each in lists.items()},
        },
    )
    counts = " and ".join(f"{count:,} {kind}" for kind, count in stored.images.items())
    others = archives.suffixes(stored.left_out)
    print(f"{name}: {counts} images; {len(stored.left_out):,} other files left out", end="")
    print(f" ({others})" if others else "")
    for files, said in (
        (stored.copies, "files left out as copies of files in another folder"),
        (
            stored.contradictions,
            "images have the bytes of one of the other class: look at them",
        ),
        (stored.renamed, "images keep their folders in their names, which others have, too"),
    ):
        if files:
            print(f"{len(files):,} {said}: {', '.join(files[:3])}{', …' if files[3:] else ''}")


if __name__ == "__main__":
    stage.run(main)
