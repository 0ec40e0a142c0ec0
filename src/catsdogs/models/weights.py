"""InceptionV3's weights file: found or downloaded, and checked."""

from pathlib import Path

from catsdogs.data.downloads import Remote, fetch
from catsdogs.layout import resolve
from catsdogs.stage import UserError

# Keras' own file; the address and the hash are those of keras/applications/inception_v3.py.
IMAGENET = Remote(
    "https://storage.googleapis.com/tensorflow/keras-applications/inception_v3/"
    "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
    "md5:bcbd6486424b2319ff4ef7d526e38f63",
)
RANDOM = "random"
PARAMETERS = 21_802_784  # of InceptionV3 without its top, as keras.Model.count_params counts them


def locate(weights: str) -> Path | None:
    """Return the path of the weights file, downloaded if need be, or None for an untrained trunk.

    Raises:
        UserError: the file is missing, cannot be downloaded, or is of another network.
    """
    if weights == RANDOM:
        return None
    if weights == "imagenet":
        return fetch(IMAGENET)
    path = resolve(weights)
    if not path.is_file():
        raise UserError(
            f"train_inception.weights is {weights!r}: neither imagenet, random nor a file "
            f"(looked for {path})"
        )
    _check(path)
    return path


def _check(path: Path) -> None:
    import h5py

    sizes: list[int] = []

    def note(_: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            sizes.append(item.size)

    try:
        with h5py.File(path) as file:
            file.visititems(note)
    except (OSError, RuntimeError, KeyError):
        raise UserError(f"{path} is damaged or not an HDF5 file of Keras' weights") from None
    if sum(sizes) != PARAMETERS:
        raise UserError(
            f"{path} holds {sum(sizes):,} parameters and InceptionV3 without its top has "
            f"{PARAMETERS:,}: it is of another network"
        )
