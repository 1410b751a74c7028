"""Learning from compared segments while the agent trains (Christiano et al. 2017).

Three things go on side by side: the agent acts and learns on what the reward pays; a schedule says when segments of
what it did are asked about; whenever there are new answers the reward is fitted again, on all of them, and the agent is
told. ``PreferenceLearner.step`` is one turn of it. With a teacher that answers at once it is synchronous and, with the
same seed, the same to the last bit. With people the agent goes on, unless told to wait; but steps that it takes while
they have yet to answer what is due are not charged to its training, so that a round does not end without them.

Left out: queries other than comparisons and ratings of one segment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from tropism.control.agent import Agent, State
from tropism.control.fit_reward import RewardSection, fit_reward
from tropism.control.queries import SegmentPool, Selection, choose
from tropism.control.questions import Kind, Questions, Tally
from tropism.control.reward_network import LearnedReward, SegmentEnsemble, Shape
from tropism.control.rollouts import RewardFunction, Steps
from tropism.control.schedule import LabelSchedule
from tropism.control.state_entropy import StateEntropy
from tropism.environments.fixed_horizon import require_fixed_horizon
from tropism.environments.images import numbers, numbers_size
from tropism.environments.segments import Chunk, check_length
from tropism.environments.stepping import Episode, Place
from tropism.errors import ConfigError, DataError
from tropism.feedback.asking import Asker
from tropism.feedback.records import Split
from tropism.reward.dataset import RewardData
from tropism.reward.ensemble import FrozenScale
from tropism.runtime.seeding import derive
from tropism.settings.sections import Section

RECENT = 20
"""Episodes over which the true return is shown."""
VISITED_PER_TURN, MOST_VISITED = 16, 20_000
MOST_WAVES = 8
"""Skips cost no budget: other segments are asked about instead, up to this many times what is due."""


@dataclass(frozen=True)
class Asking:
    """What is asked for in all: ``labels`` answers of a kind, about segments chosen somehow, a share of them held out
    (no reward is fitted on those, and the environments that they come from are not asked about otherwise)."""

    labels: int = 700
    kind: Kind = "comparison"
    selection: Selection = "random"
    validation_share: float = 0.1
    enough: float = 1.0
    """Of people: the share of what is due that they must have answered for the training to be charged on."""


class PreferenceSection(Section):
    """``[preferences]``: when segments are asked about, and which steps they are cut from."""

    segment_length: int = Field(50, ge=1)
    """Steps. 1 rates single steps, where the feedback is ratings."""
    initial_share: float = Field(0.25, gt=0, le=1)
    """Share of the labels that is asked about the untrained policy."""
    sessions: int = Field(20, ge=0)
    """How often more is asked while the agent trains."""
    schedule: Literal["hyperbolic", "constant"] = "hyperbolic"
    """How the label rate falls over the training: as 1/(0.2 + share of the steps done), or not at all."""
    oversample: int = Field(10, ge=1)
    """Random pairs from which one is chosen, where the choice is not random."""
    pool_chunks: int = Field(4, ge=1)
    """Chunks of steps from which segments are cut: the newest."""
    explore_chunks: int = Field(1, ge=1)
    """Chunks of steps by the untrained policy before the first questions."""
    pretrain_steps: int = Field(0, ge=0)
    """Steps of pre-training before the first questions, on the entropy of the states visited (Lee et al. 2021)."""
    wait: bool = False
    """Wait for people before going on; else the agent goes on while they judge, for nothing where they have yet to
    answer ``feedback.enough`` of what is due."""
    allow_variable_horizon: bool = False
    """Ask about environments whose episodes may end early, though their length tells how the agent does."""
    goal: str = "Which one does better?"
    """What people are told to judge by."""


class PreferenceLearner:
    """An agent, a reward and a teacher, joined. ``total`` environment steps, those of asking included."""

    def __init__(
        self,
        agent: Agent,
        asking: Asking,
        preferences: PreferenceSection,
        reward: RewardSection,
        asker: Asker,
        total: int,
        seed: int,
    ) -> None:
        self.agent, self.settings, self.reward_settings, self.total, self.seed = agent, preferences, reward, total, seed
        self.asking, environments = asking, agent.environments
        held_out = round(environments.count * asking.validation_share)
        self.held_out = max(1, held_out) if asking.validation_share else 0
        if self.held_out >= environments.count:
            raise ConfigError(
                f"{environments.count} environment, of which {self.held_out} would be held out",
                "raise environment.count, or hold none out",
            )
        if not preferences.allow_variable_horizon:
            require_fixed_horizon(environments.spec)
        check_length(preferences.segment_length, environments.horizon)
        self.shape = Shape.of(environments, reward.reads_successors)
        self.pool = SegmentPool(preferences.segment_length, preferences.pool_chunks)
        goal = preferences.goal
        self.questions = Questions(asker, self.shape, environments.spec, goal, derive(seed, "questions"))
        self.asker = asker
        self.reward: LearnedReward | None = None
        size, picture = environments.observation_size, environments.picture
        self.entropy = StateEntropy(size, picture)
        s, share = preferences, asking.validation_share if self.held_out else 0.0
        self.schedule = LabelSchedule(asking.labels, s.initial_share, s.sessions, s.schedule, share)
        self.before_waiting: Callable[[], None] = lambda: None
        """Called before people are waited for: a good moment for a checkpoint."""
        self.answered, self.sessions, self.turns, self.waited, self.explored = 0, 0, 0, 0, False
        self.turn_steps = 0
        self._adopted = False
        self.fitted_on, self.fitted = 0, ""
        """How many judgements the reward was fitted on; those looked at last, as a digest of their ids."""
        self.episodes: list[tuple[int, float, int]] = []
        """Finished episodes: (environment step, true return, length)."""
        self.visited = np.zeros((0, numbers_size(size, picture)), np.float32)
        """A thin sample of the states visited, ``[n, D]``; of pictures their thumbnails."""

    @property
    def done(self) -> float:
        """The share of all steps that lies behind; those taken while nobody had answered yet are not charged."""
        return min(1.0, (self.agent.environments.steps - self.waited) / self.total)

    @property
    def finished(self) -> bool:
        """All steps are taken."""
        return self.agent.environments.steps - self.waited >= self.total

    def step(self) -> tuple[Steps, dict[str, float]]:
        """One turn: 1 ask if it is time, 2 fit if there are new answers, 3 act and learn on the reward, 4 keep the
        steps for the next questions. Returns the agent's steps and metrics.

        Errors: DataError where nothing that was asked can be fitted on; what waiting for people raises.
        """
        metrics: dict[str, float] = {}
        if self.agent.environments.steps >= self.settings.pretrain_steps:
            if not self.explored:
                self._explore()
            self._ask()
            if self.ahead:
                self.asker.rest(lambda: self._fits() or not self.ahead)
            if self._fits():
                metrics |= self._fit()
        ahead = self.ahead or (not self.asker.answers_at_once and self._fits())  # more came while it was fitted
        paying: RewardFunction = self.reward or self.entropy
        before = self.agent.environments.place()
        steps, learned = self.agent.advance(paying, self.done)
        self.pool.chunks.append(self._chunk(steps, before))
        if self.reward is None:
            self.entropy.add(steps.observations)
        if ahead:
            self.waited += self.agent.environments.steps - before.steps
        self._remember(steps)
        self.turns += 1
        self.turn_steps = self.agent.environments.steps - before.steps
        known = {"preferences/labels": float(self.answered), "preferences/asked": float(len(self.questions.queries))}
        known |= {"preferences/sessions": float(self.sessions)}
        known |= {"environment/steps": float(self.agent.environments.steps)}
        if self.episodes:
            known["episode/true_return"] = self.recent_return
        return steps, metrics | learned | known

    @property
    def ahead(self) -> bool:
        """Whether people have yet to answer what training on is for: steps taken meanwhile are not charged."""
        if self.asker.answers_at_once or not self.questions.queries:
            return False
        tally = self._tally()
        # where nothing more can replace what they passed over, what there is must do
        lost = sum(missing for split, missing in self._missing(tally).items() if self._given_up(split))
        behind = self.schedule.behind(self._asked_by, self.asking.enough) - lost
        return self.reward is None or len(tally.settled) < behind

    @property
    def recent_return(self) -> float:
        """Mean true return of the newest episodes; 0 before any has ended."""
        newest = [returned for _, returned, _ in self.episodes[-RECENT:]]
        return sum(newest) / len(newest) if newest else 0.0

    def begin_with(self, reward: LearnedReward) -> None:
        """Start with the reward of an earlier round, and the answers that it was fitted on."""
        self.reward = reward

    def _remember(self, steps: Steps) -> None:
        at = self.agent.environments.steps
        self.episodes += [(at, f.returned, f.length) for f in self.agent.environments.take_finished()]
        length, count = steps.rewards.shape
        row = np.arange(min(VISITED_PER_TURN, length * count))
        # evenly over the chunk's steps, each of the next environment: every one is seen, in every part of an episode
        seen = numbers(steps.observations[row * length // len(row), (self.turns + row) % count], self.shape.picture)
        self.visited = np.concatenate([self.visited, seen])[-MOST_VISITED:]

    def _explore(self) -> None:
        """Steps of the policy as it is, without learning: what the first questions are about."""
        e = self.agent.environments
        length, self.explored = max(self.settings.segment_length * 2, 256), True
        for chunk in range(self.settings.explore_chunks):
            steps, before = Steps.room(e, length), e.place()
            for t in range(length):
                steps.take(t, e, self.agent.act(e.observations, derive(self.seed, "explore", chunk, t)))
            self.pool.chunks.append(self._chunk(steps, before))

    def _chunk(self, steps: Steps, before: Place) -> Chunk:
        return Chunk(self.agent.environments.spec, steps, before, self.asker.policy_id)

    def _ask(self) -> None:
        """Put what is due; where told to, wait for people, and put other questions for those they passed over."""
        people, wait = not self.asker.answers_at_once, self.settings.wait
        while self._put_what_is_due() or (people and wait and self._tally().open):
            if not (people and wait):
                break
            self.before_waiting()
            self.asker.wait()

    def _put_what_is_due(self) -> bool:
        """Ask for what is missing, on train and held-out segments, about other ones where some were skipped. Whether
        anything was asked. Errors: DataError where nothing that was asked can be fitted on."""
        if not self._adopted:
            self._adopted = True
            self.questions.adopt(self.asker.asked())
        asked, count = len(self.questions.queries), self.agent.environments.count
        parts: dict[Split, range] = {
            "train": range(count - self.held_out),
            "validation": range(count - self.held_out, count),
        }
        for split, missing in self._missing(self._tally()).items():
            waves = MOST_WAVES if self.asker.answers_at_once else 1
            for wave in range(waves if not self._given_up(split) else 0):
                if missing <= 0:
                    break
                missing -= self._put(split, parts[split], missing, wave)
        put = len(self.questions.queries) > asked
        self.sessions += put
        if not put or self.asker.answers_at_once:
            self._check_answers()
        return put

    def _due(self) -> dict[Split, int]:
        return self.schedule.by_split(self.schedule.due(self.schedule.passed(self._asked_by)))

    @property
    def _asked_by(self) -> float:
        """``done``, as the schedule sees it: before the last turn, whatever is still to be asked is due."""
        return self.done if self.done + self.turn_steps / self.total < 1 else 1.0

    def _missing(self, tally: Tally) -> dict[Split, int]:
        """How many questions are due that were not put yet, or are to be put elsewhere."""
        splits, due = self.questions.queries, self._due()
        return {s: max(0, n - sum(splits[id_] == s for id_ in tally.counted)) for s, n in due.items()}

    def _given_up(self, split: Split) -> bool:
        """Whether people have passed over so many questions that no others are put in their place."""
        asked = sum(put == split for put in self.questions.queries.values())
        return not self.asker.answers_at_once and asked >= MOST_WAVES * self._due()[split]

    def _put(self, split: Split, environments: range, budget: int, wave: int) -> int:
        """Ask ``budget`` questions about segments of ``environments``. Returns how many were answered at once."""
        random = np.random.Generator(np.random.Philox(derive(self.seed, "pairs", self.sessions, split, wave)))
        sides: Literal[1, 2] = 2 if self.asking.kind == "comparison" else 1
        how, oversample = self.asking.selection, self.settings.oversample
        chosen = choose(self.pool, environments, budget, sides, how, oversample, self.reward, self.shape, random)
        return self.questions.put(chosen, self.asking.kind, split, self.agent.environments.steps)

    def _check_answers(self) -> None:
        """Errors: DataError where there is nothing to fit on, and nothing more to come."""
        asked = self.questions.queries
        if self.reward is not None or not asked:
            return
        train = [id_ for id_, split in asked.items() if split == "train"]
        if not self._tally().counted.intersection(train):
            raise DataError(
                f"none of {len(train)} train questions was answered so that a reward could be fitted",
                "check feedback.oracle: does it skip everything? Of people: see what they skip or cannot judge",
            )

    def _tally(self) -> Tally:
        return self.questions.tally(self.asker.open())

    def _fits(self) -> bool:
        """Whether there are answers that the reward has not seen, or other ones. Of people, who answer one by one, a
        twentieth of those before is waited for, or the last one."""
        tally, known = self._tally(), self.questions.known()
        self.answered = len(tally.answered)
        few = 0 < len(known.judgements) - self.fitted_on < self.fitted_on // 20
        return not (few and tally.open) and self.fitted != known.digest

    def _fit(self) -> dict[str, float]:
        """Fit the reward again on all answers, and tell the agent; nothing where they say nothing."""
        known = self.questions.known()
        data, self.fitted = RewardData.from_judgements(known.judgements), known.digest
        if not len(data.fold(True)):
            return {}
        features = self.questions.features(data.candidates)
        self.reward, metrics = fit_reward(
            data, features, self.questions.steps(), self.shape, self.reward, self.reward_settings, self.seed
        )
        self.fitted_on = len(known.judgements)
        self.agent.reward_changed(self.reward)
        self.asker.publish(self.reward.save)
        return metrics

    def state(self) -> State:
        """All that the next ``step`` depends on."""
        tensors, meta = self.agent.state()
        asked, about = self.questions.state()
        joined = {f"agent.{k}": v for k, v in tensors.items()} | {f"questions.{k}": v for k, v in asked.items()}
        chunks = []
        for number, chunk in enumerate(self.pool.chunks):
            joined |= {f"pool.{number}.{k}": torch.from_numpy(getattr(chunk.steps, k)) for k in _ARRAYS}
            joined |= {f"played.{number}.{n}": torch.from_numpy(p) for n, p in enumerate(chunk.before.played)}
            episodes = [asdict(e) for e in chunk.before.episodes]
            chunks.append({"steps": chunk.before.steps, "episodes": episodes, "policy": chunk.policy})
        joined |= {f"entropy.{k}": v for k, v in self.entropy.state().items()}
        joined["visited"] = torch.from_numpy(self.visited)
        rest: dict[str, Any] = {
            "agent": meta, "questions": about, "chunks": chunks, "asker": self.asker.state(),
            "reward": None, "episodes": self.episodes, **{name: getattr(self, name) for name in _COUNTERS},
        }  # fmt: skip
        if self.reward is not None:
            joined |= {f"reward.{k}": v for k, v in self.reward.ensemble.state_dict().items()}
            r = self.reward
            rest["reward"] = {"version": r.version, "form": r.ensemble.form, "scale": asdict(r.scale)}
        return joined, rest

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Be what ``state`` said."""

        def part(name: str) -> dict[str, Tensor]:
            return {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}

        self.agent.restore(part("agent"), meta["agent"])
        self.questions.restore(part("questions"), meta["questions"])
        self.asker.restore(meta["asker"])
        self.entropy.load(part("entropy"))
        self.pool.chunks.clear()
        for number, about in enumerate(meta["chunks"]):
            arrays = {k: v.numpy() for k, v in part(f"pool.{number}").items()}
            played = part(f"played.{number}")
            episodes = [Episode(**e) for e in about["episodes"]]
            before = Place(about["steps"], episodes, [played[str(n)].numpy() for n in range(len(episodes))])
            # without simulator states: what is shown of these steps is played again
            steps = Steps(**arrays, states=None)
            self.pool.chunks.append(Chunk(self.agent.environments.spec, steps, before, about["policy"]))
        for name in _COUNTERS:
            setattr(self, name, meta.get(name, 0) if name == "turn_steps" else meta[name])  # older ones have none
        self.episodes = [(int(at), float(returned), int(length)) for at, returned, length in meta["episodes"]]
        self.visited = tensors["visited"].numpy()
        self.reward = None
        if (about := meta["reward"]) is not None:
            self.reward = self._stored_reward(part("reward"), about)

    def _stored_reward(self, tensors: dict[str, Tensor], about: Mapping[str, Any]) -> LearnedReward:
        s = self.reward_settings
        ensemble = SegmentEnsemble(self.shape, s.members, s.hidden, about["form"], 0)
        ensemble.load_state_dict(tensors)
        ensemble.eval().requires_grad_(False)
        scale = FrozenScale.from_json(about["scale"])
        return LearnedReward(ensemble, scale, about["version"], s.combination, s.weight)


_COUNTERS = ("answered", "sessions", "turns", "turn_steps", "waited", "explored", "fitted_on", "fitted")
_ARRAYS = ("observations", "actions", "successors", "rewards", "terminated", "truncated")
