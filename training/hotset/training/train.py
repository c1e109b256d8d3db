"""From trace logs to a registered challenger: the whole of a training, engine and store aside."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hotset.predictor.model import MODEL_FILE, ReuseModel
from hotset.predictor.recipe import TREES, lightgbm_params
from hotset.training import registry
from hotset.training.card import make_model
from hotset.training.device_heads import build_device_rows, fit_device_heads
from hotset.training.engines import Job, Params, make_engine
from hotset.training.files import make_folder, replace_folder, scratch_folder
from hotset.training.flavor import add_mlmodel
from hotset.training.judgement import Judgement, judge_booster
from hotset.training.logs import Log, data_fingerprint, open_logs
from hotset.training.options import TrainOptions
from hotset.training.rows import Report, TrainingRows, build_rows
from hotset.training.split import Split, split_logs
from hotset.training.store import Store, open_store
from hotset.training.tracking import MODEL_FOLDER, RunRecord, RunRef, log_run
from hotset.training.use_head import build_use_rows, fit_use_head

PLOTS_FOLDER = "plots"
MANY_ROWS = 4_000_000


@dataclass(frozen=True)
class TrainResult:
    """What a training made: `folder` holds model text and card; `version` is registered as challenger."""

    folder: Path
    model: ReuseModel
    version: registry.Version
    run: RunRef
    metrics: dict[str, float]
    logs: tuple[Log, ...]
    split: Split
    seconds: float

    def as_dict(self) -> dict[str, object]:
        """The summary, for JSON."""
        return {
            "model": str(self.folder.absolute()),
            "version": self.version.number,
            "model_version": self.model.card.version,
            "metrics": self.metrics,
            "split": self.split.description,
            "mlflow_run": self.run.as_dict(),
            "seconds": round(self.seconds, 3),
        }


def silent(stage: str, done: int, total: int) -> None:
    """A `Report` that tells nobody."""


def train(
    logs: Sequence[Path], out: Path, options: TrainOptions | None = None, *, report: Report = silent
) -> TrainResult:
    """Train on trace logs, write the model below `out`, record the run and register the challenger.

    With the local engine the same logs and options give the same model text. Raises TrainingError, TraceError
    or RegistryError for what a user can mend.
    """
    options, start, began = options or TrainOptions(), time.monotonic(), int(time.time())
    # A wrong log or store should be reported before minutes of work, not after.
    opened = open_logs(logs)
    store = open_store(options.tracking_uri)
    registry.check_name(options.name)
    split = split_logs(opened, kind=options.split, held_out=options.held_out, seed=options.seed)
    make_folder(out)
    with scratch_folder(out, "rows") as scratch:
        rows = build_rows(opened, split, scratch, max_rows=options.rows, seed=options.seed, report=report)
        engine, job = make_engine(options.engine), _job(options, rows.train.rows)
        booster = engine.fit(rows.train, job, report)
        judgement = judge_booster(booster, rows, options.seed)
        lookahead = build_use_rows(opened, split, scratch, fraction=rows.fraction, seed=options.seed, report=report)
        use = fit_use_head(lookahead, engine, job, report) if lookahead else None
        on_device = build_device_rows(opened, split, scratch, fraction=rows.fraction, seed=options.seed, report=report)
        device = fit_device_heads(on_device, engine, job, report) if on_device else None
    model = make_model(booster, rows, judgement, job.params, use, device, trained=began)
    folder = replace_folder(out / MODEL_FOLDER, lambda fresh: _save_model(model, fresh))
    replace_folder(out / PLOTS_FOLDER, judgement.save)
    report("recording", 0, 1)
    run, version = _record(store, out, model, opened, rows, judgement, options)
    report("recording", 1, 1)
    seconds = time.monotonic() - start
    return TrainResult(folder, model, version, run, model.card.metrics, tuple(opened), split, seconds)


def _job(options: TrainOptions, rows: int) -> Job:
    return Job(
        params=booster_params(options, rows),
        trees=options.trees or TREES,
        scheduler=options.scheduler,
        workers=options.workers,
    )


def booster_params(options: TrainOptions, rows: int) -> Params:
    """LightGBM's parameters: the recipe's, and what many rows need.

    Histograms by column give the same trees for any number of threads. By row they are a third faster where
    the rows no longer fit the caches, and the trees are the same for the same number of threads only.
    """
    params = lightgbm_params(seed=options.seed, threads=options.threads)
    # LightGBM finds bin borders on a sample; half its default gives the same trees' quality sooner.
    params |= {"bin_construct_sample_cnt": 100_000}
    if rows > MANY_ROWS:
        params |= {"force_col_wise": False, "force_row_wise": True}
    return params


def _save_model(model: ReuseModel, folder: Path) -> None:
    model.save(folder)
    add_mlmodel(folder, MODEL_FILE)


def _record(
    store: Store,
    out: Path,
    model: ReuseModel,
    logs: Sequence[Log],
    rows: TrainingRows,
    judgement: Judgement,
    options: TrainOptions,
) -> tuple[RunRef, registry.Version]:
    """Note the run, register its model folder as a new version, and point `challenger` at it."""
    record = RunRecord(
        folders={name: out / name for name in (MODEL_FOLDER, PLOTS_FOLDER)},
        params=_params(options, rows),
        metrics=model.card.metrics,
        curves=judgement.curves,
        logs=logs,
        tags={
            "data.fingerprint": data_fingerprint(logs),
            "hotset.model": model.card.version,
            "hotset.split": rows.split,
            "hotset.device_sha256": model.card.device_sha256,
        },
    )
    run = log_run(store, options.experiment, f"{options.name}-{model.card.version[:8]}", record)
    version = registry.register(
        options.name, run.model_source(MODEL_FOLDER), run.run_id, model.card.metrics, store=store.uri
    )
    registry.set_challenger(version, store=store.uri)
    return run, version


def _params(options: TrainOptions, rows: TrainingRows) -> dict[str, object]:
    told = {key: value for key, value in asdict(options).items() if key != "tracking_uri"}
    lightgbm = booster_params(options, rows.train.rows)
    facts = {"fraction": rows.fraction, "train_rows": rows.train.rows, "held_out_rows": rows.held_out.rows}
    return told | {f"lightgbm.{key}": value for key, value in lightgbm.items()} | facts
