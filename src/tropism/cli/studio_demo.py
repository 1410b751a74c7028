"""``tropism demo studio``: the studio on a study that learns from whoever opens it.

A tinytalk study whose teacher is a person, and beside its pairs clips of a half-cheetah that is learning to run. The
clips can be judged while the language model is trained and while its policy improves; nothing is fitted on them.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from tropism.study.study import Study

RECIPE = "tinytalk"
SETTINGS = (
    "study.name=studio demo",
    "feedback.teacher=person",
    "feedback.queries_per_round=40",
    "feedback.enough=0.75",  # the others are there to be judged while the policy trains
    "evaluation.prompts=200",
)
CLIPS, CLIP_STEPS, TRAINING_STEPS = 12, 50, 80_000
GOAL = "Run forward, fast and steadily."
CLIPS_POLICY = "a half-cheetah that learns to run"
LATER = 1
"""Clips come after the pairs of the round."""


def demo_studio(folder: Path, settings: Sequence[str], port: int) -> None:
    """Make the study or go on with it, open the studio on it, run it, and stay open until Ctrl-C.

    Errors: ConfigError for a port that is taken; InterruptedRun for SIGTERM.
    """
    from tropism.errors import ConfigError, InterruptedRun
    from tropism.study.study import Study

    if (folder / "study.toml").exists():
        typer.echo(f"going on with the study in {folder}")
        study = Study.open(folder)
    else:
        study = Study.create(folder, recipe=RECIPE, overrides=[*SETTINGS, *settings])
    if study.config.feedback.teacher != "person":
        raise ConfigError(
            f"the study in {folder} has teacher = {study.config.feedback.teacher!r}, and this demo asks people",
            "choose another folder",
        )
    try:
        with study:
            film(study)
            _open(study, port)
    except InterruptedRun as error:
        if error.exit_code != 128 + signal.SIGINT:
            raise
    except KeyboardInterrupt:  # while it was starting, or twice
        typer.echo()
    typer.echo(f"stopped; every answer is kept, and `tropism demo studio {folder}` goes on")


def film(study: Study) -> None:
    """Put the clips into the study's queue, where they are not there yet."""
    from tropism.control.config import EnvironmentSection
    from tropism.control.ppo import PpoSettings
    from tropism.control.showing import Shelf, show_learning
    from tropism.feedback.events import FeedbackLog
    from tropism.feedback.queue import Queue
    from tropism.runtime.memory import tune

    log = FeedbackLog(study.database)
    asked = list(log.queries(round=0).values())
    if not asked:
        tune(1, study.config.runtime.tune_memory, study.config.runtime.passive_wait)
        typer.echo("training a half-cheetah for a moment, to have clips of it …")
        settings = PpoSettings(normalise_observations=True, log_std=-1.0, gamma=0.98)
        asked = show_learning(
            Shelf(log, study.artifacts, CLIPS_POLICY), EnvironmentSection(id="HalfCheetah-v5").spec(), settings,
            steps=TRAINING_STEPS, count=CLIPS, length=CLIP_STEPS, goal=GOAL, seed=study.config.study.seed,
        )  # fmt: skip
    Queue(study.database).want([query.id for query in asked], 1, priority=LATER)


def _open(study: Study, port: int) -> None:
    """The studio, the study's run beside it, and then the studio alone until it is stopped."""
    from tropism.runtime.interrupts import StopRequest
    from tropism.studio.serving import beside
    from tropism.studio.settings import StudioSettings

    with beside(study.folder, StudioSettings(solo=True, port=port), typer.echo):
        typer.echo("open that address: clips are there now, pairs of answers in a minute; Ctrl-C ends it")
        _learn(study)
        typer.echo("the study is finished; the studio stays open until Ctrl-C")
        with StopRequest() as stop:
            while not stop.requested():
                stop.sleep(3600.0)
            raise stop.error("with the study finished")


def _learn(study: Study) -> None:
    from tropism.cli.show import progress
    from tropism.cli.tables import print_results

    with progress() as sink:
        study.run(progress=sink)
    written = study.report()
    print_results(study.folder)
    typer.echo(f"report: {written}")
