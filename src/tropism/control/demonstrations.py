"""Demonstrations: episodes of an expert, as arrays, as an artifact folder, and as feedback events.

An episode knows the seed of the environment that it was played in, so it can be played again; ``replay`` checks that.
True rewards are kept where they are known and read by nothing that learns: they say how good the expert was.

Left out: demonstrations without actions, demonstrations of several environments in one folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tropism.control.agent import Actor
from tropism.control.networks import Floats
from tropism.environments.making import EnvironmentSpec
from tropism.environments.stepping import Environments
from tropism.errors import ContractError, DataError
from tropism.feedback.records import Answer, Candidate, Judgement, Provenance, Query, Split, Task
from tropism.runtime.checkpoints import load_tensors, save_tensors
from tropism.runtime.seeding import derive

_ARRAYS = ("observations", "actions", "successors", "rewards", "times")


@dataclass(frozen=True)
class Episode:
    """L steps of one episode, all of them or a subsample."""

    observations: Floats
    """``[L, D]``, as the environment gave them."""
    actions: Floats
    """``[L, A]`` within the space's bounds, or ``[L]`` numbers of categories from 0."""
    successors: Floats
    """``[L, D]``: what followed each step, in a subsample too."""
    times: NDArray[np.int64]
    """``[L]``: which steps of the episode these are."""
    length: int
    """Steps of the whole episode."""
    terminated: bool
    """The episode ended by itself and not at its limit."""
    rewards: Floats | None = None
    """``[L]`` true rewards, where known."""
    returned: float | None = None
    """The true return of the whole episode, where known."""
    seed: int | None = None
    """Of the ``Environments`` that played it; None where it came from elsewhere."""

    def __post_init__(self) -> None:
        n, seen = len(self.times), self.observations
        if not n or seen.ndim != 2 or seen.shape[0] != n or self.successors.shape != seen.shape:
            raise DataError(
                f"an episode of {n} steps with observations {seen.shape} and successors {self.successors.shape}",
                "give at least one step, and [L, D] of both",
            )
        if len(self.actions) != n or (self.rewards is not None and self.rewards.shape != (n,)):
            raise DataError(f"an episode of {n} steps with actions {self.actions.shape}", "give one for each step")
        for name in _ARRAYS:
            array = getattr(self, name)
            if array is not None and not np.isfinite(array).all():
                raise DataError(f"{name} of an episode hold numbers that are not finite", "leave such episodes out")
        if (np.diff(self.times) <= 0).any() or self.times[0] < 0 or self.times[-1] >= self.length:
            raise DataError(
                f"steps {self.times[0]} to {self.times[-1]} of an episode of {self.length}, or not in order",
                "times rise from 0 and end before the episode's length",
            )

    def subsampled(self, every: int, offset: int = 0) -> Episode:
        """Steps ``offset``, ``offset + every``, … only. Errors: DataError where none is left."""
        if every < 1 or not 0 <= offset < len(self.times):
            raise DataError(
                f"every {every} steps from step {offset} of {len(self.times)}", "give a smaller offset, and every >= 1"
            )
        cut = slice(offset, None, every)
        return replace(
            self,
            observations=self.observations[cut],
            actions=self.actions[cut],
            successors=self.successors[cut],
            times=self.times[cut],
            rewards=None if self.rewards is None else self.rewards[cut],
        )


@dataclass(frozen=True)
class Demonstrations:
    """Episodes in one environment, and where they come from."""

    environment: EnvironmentSpec
    episodes: tuple[Episode, ...]
    about: Mapping[str, Any] = field(default_factory=dict)
    """JSON: who the expert is, how it was sampled."""

    def __post_init__(self) -> None:
        if not self.episodes:
            raise DataError("demonstrations without an episode", "give at least one")
        kinds = {(e.observations.shape[1], e.actions.shape[1:]) for e in self.episodes}
        if len(kinds) > 1:
            raise DataError(f"episodes of {len(kinds)} kinds of observations or actions", "keep environments apart")

    @property
    def steps(self) -> int:
        """Steps of all episodes together, after any subsampling."""
        return sum(len(e.times) for e in self.episodes)

    @property
    def returns(self) -> list[float]:
        """True returns of the episodes that know theirs."""
        return [e.returned for e in self.episodes if e.returned is not None]

    def subsampled(self, every: int, offset: int = 0) -> Demonstrations:
        """Every n-th step of each episode."""
        return replace(self, episodes=tuple(e.subsampled(every, offset) for e in self.episodes))

    def joined(self, name: str) -> Floats:
        """``observations``, ``actions`` or ``successors`` of all episodes, one after the other."""
        return np.concatenate([getattr(e, name) for e in self.episodes])


@dataclass(frozen=True)
class PythonExpert:
    """A Python function as an ``Actor``: from observations ``[N, D]`` to actions."""

    function: Callable[[Floats], Floats]

    def act(self, observations: Floats, seed: int | None = None) -> Floats:
        """What the function says; it has no randomness of ours."""
        return np.asarray(self.function(observations), np.float32)


def demonstrate(
    expert: Actor,
    spec: EnvironmentSpec,
    episodes: int,
    seed: int,
    sample: bool = False,
    about: Mapping[str, Any] | None = None,
) -> Demonstrations:
    """Whole episodes of an expert (a policy from ``load_policy(...).actor``, an agent, a ``PythonExpert``).

    ``sample``: draw its actions instead of taking their mode. Each episode has an environment of its own, so that its
    seed alone says how it went. Errors: DataError for an environment that never ends an episode.
    """
    found = []
    for number in range(episodes):
        environments = Environments(spec, 1, derive(seed, "demonstration", number))
        try:
            found.append(_play(environments, _acting(expert, derive(seed, "expert", number) if sample else None)))
        finally:
            environments.close()
    return Demonstrations(spec, tuple(found), {"sampled": sample, **(about or {})})


def _acting(expert: Actor, seed: int | None) -> Callable[[Floats, int], Floats]:
    return lambda seen, t: expert.act(seen, None if seed is None else derive(seed, t))


def replay(demonstrations: Demonstrations, number: int) -> Episode:
    """Play a demonstrated episode again, by its seed and actions; returns what happened this time.

    Errors: DataError for an episode without a seed, or subsampled; ContractError if it went another way.
    """
    old = demonstrations.episodes[number]
    if old.seed is None or len(old.times) != old.length:
        raise DataError(f"episode {number} has no seed, or not all of its steps", "replay whole episodes made here")
    environments = Environments(demonstrations.environment, 1, old.seed)
    try:
        new = _play(environments, lambda seen, t: old.actions[t : t + 1], old.length)
    finally:
        environments.close()
    if not np.array_equal(new.successors, old.successors):
        raise ContractError(
            f"episode {number} of {demonstrations.environment.id} went another way when it was played again",
            "the environment, or its version, is another one, or depends on more than seed and actions",
        )
    return new


def _play(environments: Environments, choose: Callable[[Floats, int], Floats], limit: int | None = None) -> Episode:
    """The first episode of one environment; ``choose``: actions ``[1, …]`` at observations ``[1, D]`` and a time."""
    e = environments
    if not e.horizon and limit is None:
        raise DataError(f"{e.spec.id} has no time limit, so an expert may go on for ever", "set environment.steps")
    rows: dict[str, list[Any]] = {name: [] for name in _ARRAYS[:4]}
    ended, terminated = False, False
    while not ended and (limit is None or len(rows["rewards"]) < limit):
        rows["observations"].append(e.observations[0].copy())
        actions = np.asarray(choose(e.observations, len(rows["rewards"])), np.float32)
        step = e.step(actions)
        rows["actions"].append(actions[0] if e.discrete else np.clip(actions[0], e.low, e.high))
        rows["successors"].append(step.successors[0])
        rows["rewards"].append(step.rewards[0])
        terminated = bool(step.terminated[0])
        ended = terminated or bool(step.truncated[0])
    kinds = {"observations": e.observations.dtype, "successors": e.observations.dtype}
    arrays = {name: np.array(values, kinds.get(name, np.float32)) for name, values in rows.items()}
    length = len(arrays["rewards"])
    total = float(np.sum(arrays["rewards"], dtype=np.float64))
    return Episode(**arrays, times=np.arange(length), length=length, terminated=terminated, returned=total, seed=e.seed)


def check_fit(demonstrations: Demonstrations, environments: Environments) -> None:
    """Demonstrations can teach an agent in these environments. Errors: DataError naming what does not match."""
    first, e = demonstrations.episodes[0], environments
    acted = () if e.discrete else (e.actions,)
    if first.observations.shape[1] != e.observation_size or first.actions.shape[1:] != acted:
        raise DataError(
            f"demonstrations with observations of {first.observations.shape[1]} numbers and actions "
            f"{first.actions.shape[1:]} for {e.spec.id}, which has {e.observation_size} and {acted}",
            "use demonstrations of the same environment",
        )
    if e.discrete:
        actions = demonstrations.joined("actions")
        if (actions != np.floor(actions)).any() or actions.min() < 0 or actions.max() >= e.actions:
            raise DataError(
                f"actions from {actions.min():g} to {actions.max():g} for {e.actions} categories",
                f"number them 0 to {e.actions - 1}",
            )


def save_demonstrations(folder: Path, demonstrations: Demonstrations) -> None:
    """Write an artifact into an existing folder: ``episodes.safetensors`` (all episodes joined), and
    ``demonstrations.json`` with the rest."""
    d = demonstrations
    tensors = {}
    for name in _ARRAYS:
        arrays = [getattr(e, name) for e in d.episodes]
        if any(a is None for a in arrays):  # rewards: known of all episodes, or kept of none
            continue
        tensors[name] = torch.from_numpy(np.concatenate(arrays))
    episodes = [
        {"steps": len(e.times), "length": e.length, "terminated": e.terminated, "returned": e.returned, "seed": e.seed}
        for e in d.episodes
    ]
    written = {"environment": d.environment.as_json(), "episodes": episodes, "about": dict(d.about)}
    save_tensors(folder / "episodes.safetensors", tensors)
    (folder / "demonstrations.json").write_text(json.dumps(written, indent=1, sort_keys=True) + "\n", "utf-8")


def load_demonstrations(folder: Path) -> Demonstrations:
    """Read what ``save_demonstrations`` wrote. Errors: DataError for a folder that holds none, or a damaged one."""
    try:
        read = json.loads((folder / "demonstrations.json").read_text("utf-8"))
        tensors = {name: t.numpy() for name, t in load_tensors(folder / "episodes.safetensors").items()}
        cuts = np.cumsum([e["steps"] for e in read["episodes"]])
        if not len(cuts) or any(len(a) != cuts[-1] for a in tensors.values()):
            raise DataError(f"{folder} holds arrays that do not match its episodes", "make the demonstrations anew")
        parts = {name: np.split(a, cuts[:-1]) for name, a in tensors.items()}
        episodes = [
            Episode(
                observations=parts["observations"][i],
                actions=parts["actions"][i],
                successors=parts["successors"][i],
                times=parts["times"][i],
                rewards=parts["rewards"][i] if "rewards" in parts else None,
                length=e["length"],
                terminated=e["terminated"],
                returned=e["returned"],
                seed=e["seed"],
            )
            for i, e in enumerate(read["episodes"])
        ]
        return Demonstrations(EnvironmentSpec(**read["environment"]), tuple(episodes), read["about"])
    except FileNotFoundError as error:
        raise DataError(f"{folder} holds no demonstrations: {error.filename} is missing", "name another") from error
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder} holds no demonstrations that can be read ({error!r})", "make them anew") from error


def feedback_rows(
    demonstrations: Demonstrations, artifacts: Sequence[str], source: str, split: Split, round: int = 0
) -> list[tuple[Task, Candidate, Query, Answer]]:
    """Rows for the feedback log, one quadruple an episode: the task is the environment's start, the candidate the
    episode, and the answer says that the teacher showed it.

    ``artifacts[i]``: digest of a folder that ``save_demonstrations`` wrote of episode i alone. ``source``: the policy
    or expert that acted. The true return is not in them: teachers and reward models read candidates. Errors: DataError.
    """
    d = demonstrations
    if len(artifacts) != len(d.episodes) or len(set(artifacts)) != len(artifacts):
        raise DataError(
            f"{len(set(artifacts))} artifacts for {len(d.episodes)} episodes", "store each episode as one of its own"
        )
    made = []
    for episode, artifact in zip(d.episodes, artifacts, strict=True):
        task = Task(split, {"environment": d.environment.as_json(), "seed": episode.seed})
        by = Provenance(source, dict(d.about), "environments", episode.seed or 0)
        content = {"artifact": artifact, "steps": len(episode.times), "length": episode.length}
        candidate = Candidate(task.id, "episode", content, by)
        query = Query(task.id, "demonstration", (candidate.id,), (0,), round)
        made.append((task, candidate, query, Answer({"kind": "demonstration", "artifact": artifact})))
    return made


def from_judgements(judgements: Iterable[Judgement], folder_of: Callable[[str], Path]) -> Demonstrations:
    """All demonstrated episodes among ``judgements``, in their order; ``folder_of`` finds an artifact by its digest
    (``ArtifactStore.path``). Errors: DataError where there is none, or where they are of several environments."""
    artifacts = [
        j.value["artifact"] for j in judgements if j.value["kind"] == "demonstration" and "artifact" in j.value
    ]
    shown = [load_demonstrations(folder_of(artifact)) for artifact in artifacts]
    if not shown:
        raise DataError("no judgement that shows an episode", "collect or import demonstrations first")
    for other in shown:
        if other.environment != shown[0].environment:
            raise DataError(
                f"demonstrations in {shown[0].environment} and in {other.environment}", "learn from one environment"
            )
    return Demonstrations(shown[0].environment, tuple(e for d in shown for e in d.episodes), {"artifacts": artifacts})
