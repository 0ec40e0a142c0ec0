"""Stage `train_basic`: the notebook's small CNN on the photographs as they are.

In: the split. Out: `models/train_basic.keras`; `plots/train_basic.csv` and the two figures of the
notebook beside it; `metrics/train_basic.json`.
"""

from catsdogs import networks, params, runtime, stage, training


class TrainBasic(params.Training):
    filters: params.Layers
    dense: params.Layers
    initializer: networks.Initializer


def main() -> None:
    settings, pinned = runtime.begin_training("train_basic", TrainBasic)
    batches, validation = training.open_batches(settings)
    size, filters, dense = batches.shape[0], settings.filters, settings.dense
    model = networks.cnn(size, filters, dense, settings.initializer)
    model.summary()
    with training.begin("train_basic", settings, pinned) as run:
        run.fit(model, batches, validation)
        run.write(model)


if __name__ == "__main__":
    stage.run(main)
