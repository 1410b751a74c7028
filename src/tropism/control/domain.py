"""The control domain as a study sees it: agents in Gymnasium environments that learn from compared segments.

It learns *online* (``study/protocol.py``): asking, fitting and training are one stage, in which they go on side by
side. A round starts from the policy and the reward of the round before, and fits on all feedback so far.

Left out: tasks with goals of their own; every question is about one environment.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from tropism.control.agent import Agent
from tropism.control.algorithms import ALGORITHMS
from tropism.control.behaviour_cloning import clone
from tropism.control.config import ControlConfig
from tropism.control.coverage import coverage
from tropism.control.demonstrations import (
    Demonstrations,
    check_fit,
    feedback_rows,
    load_demonstrations,
    save_demonstrations,
)
from tropism.control.evaluate import Returns, evaluate, random_returns
from tropism.control.footage import clip_name, film
from tropism.control.policy import load_policy, save_policy
from tropism.control.ppo import Ppo
from tropism.control.preferences import PreferenceLearner
from tropism.control.reward_network import load_reward
from tropism.digests import digest_folder
from tropism.environments.fixed_horizon import require_fixed_horizon
from tropism.errors import ConfigError, DataError
from tropism.evaluation.intervals import Interval, bootstrap_mean, bootstrap_paired
from tropism.feedback.asking import Asker
from tropism.feedback.records import Answer, Candidate, Query, Split, Task
from tropism.feedback.teachers import DEMONSTRATOR
from tropism.reward.assessment import assess
from tropism.reward.dataset import RewardData
from tropism.runtime.checkpoints import Pace, load_state, save_state
from tropism.runtime.seeding import derive
from tropism.runtime.stage import Made, StageRun
from tropism.settings.paths import PathKind

ACTIVITY = "learn"
RANDOM_EPISODES = 20
STARTS_SEED = 0
"""One seed for every evaluation: all rounds, and studies of other seeds, are judged on the same starts."""
WORDS = {
    "about": "episodes",
    "reference": "untrained policy",
    "short": "Untrained",
    "over": "the untrained policy",
    "items": "starts",
}
"""What a report calls things here (``study/report/words.py``)."""
STARTED_WORDS = WORDS | {"reference": "policy at the start", "short": "Start", "over": "the policy at the start"}


Measure = Literal["true_return", "learned_return"]


class ControlDomain:
    """Implements ``tropism.study.protocol.OnlineDomain``."""

    name = "control"
    config_class = ControlConfig
    stage_sections: ClassVar[Mapping[str, Sequence[str]]] = {
        "base": ("environment", "agent", *ALGORITHMS, "demonstrations"),
        "improve": ("environment", "agent", *ALGORITHMS, "preferences", "reward"),
        "evaluate": ("environment", "evaluation"),
    }

    threads: ClassVar[int] = 1  # a second one that small networks wait for makes them many times slower
    path_settings: ClassVar[Mapping[str, PathKind]] = {
        "environment.reward": "function",
        "environment.wrapper": "function",
        "demonstrations.folder": "file",
        "agent.start": "file",
    }

    def __init__(self, config: ControlConfig) -> None:
        self.config, self.spec = config, config.environment.spec()
        config.feedback.asking()
        if not config.preferences.allow_variable_horizon:
            require_fixed_horizon(self.spec)

    def data_digests(self) -> Mapping[str, str]:
        """Digests of what the first policy is made from. Errors: DataError for a folder that is not there."""
        folders = {"agent.start": self.config.agent.start, "demonstrations.folder": self.config.demonstrations.folder}
        return {name: digest_folder(folder) for name, folder in folders.items() if folder is not None}

    def demonstrations(self, keep: Callable[[Path], str]) -> list[tuple[Task, Candidate, Query, Answer]]:
        """The demonstrated episodes as rows for the log; ``keep`` stores a folder."""
        if self.config.demonstrations.folder is None:
            return []
        shown = load_demonstrations(self.config.demonstrations.folder)
        artifacts = []
        for episode in shown.episodes:
            with tempfile.TemporaryDirectory() as folder:
                save_demonstrations(Path(folder), replace(shown, episodes=(episode,)))
                artifacts.append(keep(Path(folder)))
        return feedback_rows(shown, artifacts, DEMONSTRATOR, "train")

    def code_digests(self, kind: str) -> Mapping[str, str]:
        """Digests of the user's reward and wrapper, which every stage plays by."""
        return self.config.environment.code_digests()

    def initial_policy(self, run: StageRun) -> Made:
        """An untrained policy. Values: the environment's spaces, what random actions are worth, the report's words."""
        agent, start, shown = self._agent(run.seed), self.config.agent.start, self.config.demonstrations.folder
        self.config.begin(agent)
        if shown is not None:
            self._clone(agent, load_demonstrations(shown), run)
        words = WORDS if start is None and shown is None else STARTED_WORDS
        with run.making("policy") as folder:
            save_policy(folder, agent.policy(), self.spec, {"role": words["reference"]})
        chance = random_returns(self.spec, RANDOM_EPISODES, derive(run.seed, "random"))
        e = agent.environments
        values = {"observations": e.observation_size, "actions": e.actions, "discrete": e.discrete}
        values |= {"horizon": e.horizon, "random_return": chance.mean, "words": words}
        e.close()
        return Made({"policy": run.folder / "policy"}, values)

    def tasks(self, split: Split, count: int, seed: int) -> list[Task]:
        """Starts of episodes, by number."""
        return [Task(split, {"environment": self.spec.id, "start": derive(seed, split, i)}) for i in range(count)]

    def learn(self, policy: Path, reference: Path, reward: Path | None, asker: Asker, run: StageRun) -> Made:
        """One round: see ``study.protocol.OnlineDomain``. Folders: ``policy``, ``reward``, ``rollouts``."""
        learner = self._learner(policy, reward, asker, run)
        found = run.latest_checkpoint(ACTIVITY)
        if found is not None:
            learner.restore(*load_state(found[1], mapped=lambda name: name.startswith("agent.")))
        number, pace = 0 if found is None else found[0], Pace(self.config.agent.checkpoint_seconds)

        def save() -> None:
            nonlocal number
            number += 1
            with pace.saving():
                tensors, meta = learner.state()
                run.checkpoint(ACTIVITY, number, partial(save_state, tensors=tensors, meta=meta))

        learner.before_waiting = save
        while not learner.finished:
            _, metrics = learner.step()
            steps = learner.agent.environments.steps
            run.log(learner.turns, metrics)
            note = f"{learner.answered} answers, true return {learner.recent_return:.4g}"
            if learner.waited:
                note += f", {learner.waited} steps not charged while people had yet to answer"
            run.progress.update(ACTIVITY, steps, learner.total + learner.waited, note)
            stop = run.stop_requested()
            if stop or pace.due:
                save()
            if stop:
                run.check_stop()
        return self._hand_over(learner, run)

    def evaluate(
        self, policy: Path, policy_id: str, reference: Path, previous: Path | None, reward: Path | None, run: StageRun
    ) -> Made:
        """True returns on the same starts for all policies; a round is promoted if it did not lose what was gained: of
        the true return, or where only people know what is wanted, of what the reward pays that was fitted on their
        answers. Values beside those of every domain: ``clips``, how many starts are shown and why not."""
        seed, settings = derive(STARTS_SEED, "starts"), self.config.evaluation
        actors = {
            name: load_policy(folder).actor
            for name, folder in {"policy": policy, "reference": reference, "previous": previous or reference}.items()
        }
        paying = None if reward is None or not self.config.only_people_know else load_reward(reward)
        played = {
            name: evaluate(actor, self.spec, settings.episodes, seed, reward=paying) for name, actor in actors.items()
        }
        chance = random_returns(self.spec, settings.episodes, seed, paying)
        metrics = _metrics(played, chance)
        if paying is not None:
            names = {"policy": "", "reference": "reference_", "previous": "previous_"}
            metrics |= {f"{names[who]}learned_return": float(r.learned.mean()) for who, r in played.items()}
        measure: Measure = "true_return" if paying is None else "learned_return"
        decided = _kept(measure, played, chance, settings.tolerance)
        run.log(0, {f"evaluation/{name}": value for name, value in metrics.items()})
        shown, why = min(settings.clips, settings.episodes), ""
        with run.making("samples") as folder:
            if shown:
                seen = {name: actors[name] for name in ("reference", "policy")}
                why = film(seen, self.spec, settings.episodes, seed, shown, folder)
            rows = [_sample(i, played, bool(i < shown and not why)) for i in range(settings.episodes)]
            (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        values = {"metrics": metrics, **decided, "clips": {"starts": shown, "why_none": why}}
        return Made({"samples": run.folder / "samples"}, values)

    def describe(self, candidate: Candidate) -> Mapping[str, Any]:
        """What a viewer may show: where the segment lies, never its true return."""
        shown = ("segment", "length", "artifact", "row")
        return {name: candidate.content[name] for name in shown if name in candidate.content}

    def _agent(self, seed: int, record_states: bool = False) -> Agent:
        return self.config.make(self.config.environment.copies(seed, record_states), derive(seed, "agent"))

    def _clone(self, agent: Agent, shown: Demonstrations, run: StageRun) -> None:
        """Start the agent from demonstrations. Errors: ConfigError for an agent without an actor to clone into."""
        if not isinstance(agent, Ppo):  # A2C and REINFORCE are, too
            raise ConfigError(
                f"{agent.name} cannot start from demonstrations", "use ppo, a2c or reinforce, or leave them out"
            )
        check_fit(shown, agent.environments)
        settings = self.config.demonstrations.cloning()
        observations, actions = shown.joined("observations"), shown.joined("actions")
        losses = clone(agent.actor, agent.normaliser, observations, actions, settings, derive(run.seed, "clone"))
        for step in range(0, len(losses), max(1, len(losses) // 100)):
            run.log(step, {"cloning/loss": float(losses[step])})

    def _learner(self, policy: Path, reward: Path | None, asker: Asker, run: StageRun) -> PreferenceLearner:
        c = self.config
        # people look at segments, and they are rendered from the simulator's states
        agent = self._agent(run.seed, record_states=not asker.answers_at_once)
        agent.begin_with(*load_policy(policy).description)
        learner = PreferenceLearner(
            agent, c.feedback.asking(), c.preferences, c.reward, asker, c.agent.steps, derive(run.seed, "preferences")
        )
        if reward is not None:
            learner.begin_with(load_reward(reward))
        return learner

    def _hand_over(self, learner: PreferenceLearner, run: StageRun) -> Made:
        reward = learner.reward
        if reward is None:
            raise DataError(
                f"no reward could be fitted on the {learner.answered} answers: none was on a train task",
                "ask for more (feedback.queries_per_round), or hold fewer out (feedback.validation_fraction)",
            )
        steps = learner.agent.environments.steps
        with run.making("policy") as folder:
            save_policy(folder, learner.agent.policy(), self.spec, {"steps": steps, "reward_version": reward.version})
        with run.making("reward") as folder:
            reward.save(folder)
        with run.making("rollouts") as folder:
            rows = [{"step": s, "true_return": r, "length": n} for s, r, n in learner.episodes]
            (folder / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        values: dict[str, Any] = {
            "steps": steps,
            "steps_not_charged": learner.waited,
            "turns": learner.turns,
            "asked": len(learner.questions.queries),
        }
        values |= {"answered": learner.answered, "reward_version": reward.version, "form": reward.ensemble.form}
        values["assessment"] = self._assessment(learner)
        values["coverage"] = coverage(learner.visited, learner.questions.judged())
        learner.agent.environments.close()
        return Made({name: run.folder / name for name in ("policy", "reward", "rollouts")}, values)

    def _assessment(self, learner: PreferenceLearner) -> dict[str, Any]:
        """The reward on the held-out answers, as judged and as the true returns would."""
        judgements = learner.questions.known().judgements
        data = RewardData.from_judgements(judgements)
        assert learner.reward is not None
        scores = learner.reward.segment_members(learner.questions.features(data.candidates)).mean(0)
        truth = np.array([c.content["true_return"] for c in data.candidates], np.float64)
        return assess(scores.numpy(), data, gold=truth, judgements=judgements).as_json()


def _metrics(played: Mapping[str, Returns], chance: Returns) -> dict[str, float]:
    own, first, before = (played[name] for name in ("policy", "reference", "previous"))
    found: dict[str, float] = {}
    for name, returns in (
        ("random_return", chance),
        ("true_return", own),
        ("reference_true_return", first),
        ("previous_true_return", before),
    ):
        found |= _with_ends(name, bootstrap_mean(returns.returns))
    for name, returns in (("", own), ("reference_", first), ("previous_", before)):
        found[f"{name}length"] = float(returns.lengths.mean())
    found |= _with_ends("gain", bootstrap_paired(own.returns, first.returns))
    found |= _with_ends("gain_previous", bootstrap_paired(own.returns, before.returns))
    wins = np.where(own.returns == first.returns, 0.5, own.returns > first.returns)
    return found | _with_ends("win_rate", bootstrap_mean(wins))


def _kept(measure: Measure, played: Mapping[str, Returns], chance: Returns, tolerance: float) -> dict[str, Any]:
    """Whether the policy keeps what the one before had gained over random actions, but for ``tolerance`` of it."""
    own, before, random = (
        float((r.returns if measure == "true_return" else r.learned).mean())
        for r in (played["policy"], played["previous"], chance)
    )
    floor = before - tolerance * max(abs(before - random), 1e-9)
    holds, said = own >= floor, "the true return" if measure == "true_return" else "what the learned reward pays"
    reasons = [] if holds else [f"{said} fell to {own:.4g}, below {floor:.4g}"]
    return {"kept": {measure: {"value": own, "floor": floor, "holds": holds}}, "promote": holds, "reasons": reasons}


def _with_ends(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _sample(i: int, played: Mapping[str, Returns], clips: bool) -> dict[str, Any]:
    """The i-th start: each policy's true return and steps there, and the file of its clip."""
    outputs: dict[str, dict[str, Any]] = {}
    for name, returns in played.items():
        steps = int(returns.lengths[i])
        outputs[name] = {"text": f"{steps} steps", "gold": float(returns.returns[i]), "steps": steps}
        if clips and name != "previous":
            outputs[name]["clip"] = clip_name(name, i)
    return {"prompt": f"start {i + 1}", "kind": "episode", "outputs": outputs}
