"""A contextual bandit as a domain: the whole loop in about a second, and a guard against a loop that grows
language-shaped. A context x has utilities U·x; a policy is softmax(W·x); a reward model is an ensemble of V·x.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel
from safetensors.numpy import load_file, save_file

from tropism.feedback.records import Candidate, Judgement, Provenance, Split, Task
from tropism.runtime.seeding import derive, permutation, uniform
from tropism.runtime.stage import Made, StageRun
from tropism.study.drift import ordered_pairs

Array = np.ndarray


class World(BaseModel):
    arms: int = 5
    dimension: int = 4


class Improve(BaseModel):
    steps: int = 40
    batch: int = 32
    learning_rate: float = 0.5
    kl_coef: float = 0.1
    checkpoint_every: int = 4


class BanditConfig(BaseModel):
    world: World = World()
    improve: Improve = Improve()


def noise(seed: int, *shape: int) -> Array:
    return uniform(seed, np.arange(np.prod(shape)), 0).reshape(shape) * 2 - 1


def softmax(logits: Array) -> Array:
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def write(folder: Path, **arrays: Array) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, folder / "model.safetensors")


def read(folder: Path) -> Mapping[str, Array]:
    return load_file(folder / "model.safetensors")


def contexts(tasks: Sequence[Task]) -> Array:
    return np.array([t.payload["context"] for t in tasks])


def decided(j: Judgement) -> list[tuple[int | None, int | None]]:
    """(winner, loser) slots of a judgement; None is the arm of utility 0."""
    value = j.value
    if value["kind"] == "label":
        return [(0, None) if value["good"] else (None, 0)]
    if value["kind"] == "rating":
        side = 2 * value["score"] - sum(value["scale"])
        return [] if side == 0 else [(0, None) if side > 0 else (None, 0)]
    return [(a, b) if t else (b, a) for a, b, t in ordered_pairs(j) if t != 0.5]


class BanditDomain:
    """Implements ``tropism.study.protocol.Domain``."""

    name = "bandit"
    config_class = BanditConfig
    stage_sections: Mapping[str, Sequence[str]] = dict.fromkeys(("base", "collect", "reward", "evaluate"), ("world",))

    def __init__(self, config: BanditConfig) -> None:
        self.config, self.shape = config, (config.world.arms, config.world.dimension)
        self.utility = noise(7, *self.shape) * 2

    def initial_policy(self, run: StageRun) -> Made:
        write(run.folder / "policy", w=noise(run.seed, *self.shape) * 0.1)
        return Made({"policy": run.folder / "policy"}, {"arms": self.config.world.arms})

    def tasks(self, split: Split, count: int, seed: int) -> list[Task]:
        x = noise(derive(seed, split), count, self.shape[1])
        return [Task(split, {"context": [float(v) for v in row]}) for row in x]

    def rollout(
        self, policy: Path, policy_id: str, tasks: Sequence[Task], k: int, seed: int, run: StageRun
    ) -> list[list[Candidate]]:
        p = softmax(contexts(tasks) @ read(policy)["w"].T).cumsum(1)
        u = uniform(seed, np.arange(len(tasks))[:, None], np.arange(k)[None])
        arms = (u[:, :, None] > p[:, None, :-1]).sum(-1)
        by = Provenance(policy_id, seed=seed)
        return [[Candidate(t.id, "arm", {"arm": int(a)}, by) for a in row] for t, row in zip(tasks, arms, strict=True)]

    def _take(self, table: Array, candidates: Sequence[Sequence[Candidate]]) -> Array:
        arms = np.array([[c.content["arm"] for c in row] for row in candidates])
        return np.take_along_axis(table, arms.reshape(*([1] * (table.ndim - 2)), *arms.shape), -1)

    def gold(self, tasks: Sequence[Task], candidates: Sequence[Sequence[Candidate]]) -> Array:
        return self._take(contexts(tasks) @ self.utility.T, candidates)

    def step_gold(self, tasks: Sequence[Task], candidates: Sequence[Sequence[Candidate]]) -> list[list[list[float]]]:
        """The utility of an arm, context coordinate by coordinate."""
        return [
            [(self.utility[c.content["arm"]] * x).tolist() for c in row]
            for x, row in zip(contexts(tasks), candidates, strict=True)
        ]

    def score_members(
        self, reward: Path, tasks: Sequence[Task], candidates: Sequence[Sequence[Candidate]], run: StageRun
    ) -> Array:
        v = read(reward)["v"]
        return np.stack([self._take(contexts(tasks) @ m.T, candidates) for m in v])

    def score(
        self, reward: Path, tasks: Sequence[Task], candidates: Sequence[Sequence[Candidate]], run: StageRun
    ) -> Array:
        return self.score_members(reward, tasks, candidates, run).mean(0)

    def fit_reward(self, policy: Path, reference: Path, judgements: Sequence[Judgement], run: StageRun) -> Made:
        """Bradley-Terry by gradient ascent, three members on three halves of the train pairs. A label or a rating is a
        comparison with an arm of utility 0."""
        nothing = self.shape[0]
        rows = [
            (j.task, [nothing if s is None else j.candidates[s].content["arm"] for s in pair])
            for j in judgements
            for pair in decided(j)
        ]
        x = contexts([task for task, _ in rows])
        won, lost = (np.array([arms[i] for _, arms in rows]) for i in (0, 1))
        train = np.array([task.split == "train" for task, _ in rows])
        v = np.zeros((3, nothing + 1, self.shape[1]))
        for m in range(3):
            keep = train & (uniform(run.seed, np.arange(len(rows)), m) < 0.7)
            for step in range(40):
                run.progress.update("fit", step, 40)
                margin = ((v[m, won] - v[m, lost]) * x).sum(1)
                g = (keep / (1 + np.exp(margin)))[:, None] * x
                np.add.at(v[m], won, g * 4 / keep.sum())
                np.add.at(v[m], lost, -g * 4 / keep.sum())
                v[m, nothing] = 0
        right = ((v.mean(0)[won] - v.mean(0)[lost]) * x).sum(1) > 0
        write(run.folder / "reward", v=v[:, :nothing])
        run.log(0, {"reward/accuracy_validation": float(right[~train].mean())})
        return Made({"reward": run.folder / "reward"}, {"assessment": {"accuracy": float(right[~train].mean())}})

    def improve(self, policy: Path, reference: Path, reward: Path | None, run: StageRun) -> Made:
        """Exact policy gradient of E[r] − β KL(π‖π_ref) with momentum; a checkpoint every few steps."""
        s, ref, w = self.config.improve, read(reference)["w"], read(policy)["w"].copy()
        v, momentum, start = self.utility if reward is None else read(reward)["v"].mean(0), np.zeros(self.shape), 0
        if found := run.latest_checkpoint("improve"):
            start, folder, _ = found
            w, momentum = (read(folder)[name].copy() for name in ("w", "m"))
        for step in range(start, s.steps):
            run.check_stop()
            x = contexts(self.tasks("train", s.batch, derive(run.seed, step)))
            pi, pi_ref = softmax(x @ w.T), softmax(x @ ref.T)
            kl = (pi * np.log(pi / pi_ref)).sum(1)
            a = x @ v.T - s.kl_coef * np.log(pi / pi_ref)
            momentum = 0.9 * momentum + ((pi * (a - (pi * a).sum(1, keepdims=True))).T @ x) / s.batch
            w += s.learning_rate * 0.1 * momentum
            run.log(step, {"ppo/score_mean": float((pi * (x @ v.T)).sum(1).mean()), "kl/ref_k1": float(kl.mean())})
            run.progress.update("improve", step + 1, s.steps)
            if (step + 1) % s.checkpoint_every == 0:
                run.checkpoint("improve", step + 1, lambda f, w=w, m=momentum: write(f, w=w, m=m))
        write(run.folder / "policy", w=w)
        with run.making("rollouts") as folder:
            (folder / "rollouts.jsonl").write_text(json.dumps({"step": s.steps, "w": w.tolist()}) + "\n")
        return Made({"policy": run.folder / "policy", "rollouts": run.folder / "rollouts"}, {"steps": s.steps})

    def evaluate(
        self, policy: Path, policy_id: str, reference: Path, previous: Path | None, reward: Path | None, run: StageRun
    ) -> Made:
        x = contexts(self.tasks("test", 200, 0))
        gold = {
            name: float((softmax(x @ read(f)["w"].T) * (x @ self.utility.T)).sum(1).mean())
            for name, f in {"policy": policy, "reference": reference, "previous": previous or reference}.items()
        }
        run.log(0, {"evaluation/gold_mean": gold["policy"]})
        with run.making("samples") as folder:
            order = permutation(len(x), run.seed, 0)[:3]
            (folder / "samples.jsonl").write_text("".join(json.dumps({"context": list(x[i])}) + "\n" for i in order))
        better = gold["policy"] >= gold["previous"] - 0.05
        values = {"metrics": gold, "kept": {}, "promote": better, "reasons": [] if better else ["gold fell"]}
        return Made({"samples": run.folder / "samples"}, values)

    def describe(self, candidate: Candidate) -> Mapping[str, object]:
        return {"arm": candidate.content["arm"]}
