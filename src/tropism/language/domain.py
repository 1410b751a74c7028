"""The language domain: what a study does with language models, as the domain protocol says it.

Each method is one stage's work and reads like a list; the parts are in the files beside this one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from tropism.digests import digest_file, digest_folder
from tropism.engine.adapters import base_of
from tropism.engine.chat import read_template
from tropism.engine.generation import Sampling
from tropism.engine.models import context_length, hub_commit
from tropism.errors import ConfigError, DataError
from tropism.feedback.records import Candidate, Judgement, Split, Task
from tropism.language.config import LanguageConfig
from tropism.language.evaluate import Evaluator, check_kept
from tropism.language.fit_reward import ScaleSet, fit_learned_reward
from tropism.language.leash import leashed, trainable
from tropism.language.policy import ActorCritic, LanguagePolicy
from tropism.language.policy_card import base_card, improved_card
from tropism.language.ppo import PpoTrainer
from tropism.language.reward_network import LearnedReward
from tropism.language.rewards import FunctionReward, RewardSource, RewardSum
from tropism.language.rollouts import sample_candidates
from tropism.language.sft import fine_tune
from tropism.language.worlds import load_world
from tropism.monitoring.overoptimisation import detect
from tropism.runtime.precision import resolve_precision
from tropism.runtime.seeding import derive
from tropism.runtime.stage import Made, StageRun
from tropism.settings.functions import function_digest, load_function

FROZEN = 0
"""Seed of the test prompts: the same in every round and every study of a world."""


class LanguageDomain:
    """Language models on a text world."""

    name = "language"
    config_class = LanguageConfig
    stage_sections: ClassVar[dict[str, list[str]]] = {
        "base": ["world", "model", "sft", "lora"],
        "collect": ["world", "sampling"],
        "reward": ["world", "sampling", "reward"],
        "improve": ["world", "sft", "lora", "sampling", "reward", "ppo"],
        "evaluate": ["world", "sampling", "evaluation"],
    }
    """The sections that each kind of stage depends on: a change elsewhere leaves it done."""
    path_settings: ClassVar[dict[str, str]] = {
        "model.path": "model",
        "model.chat_template": "file",
        "reward.base": "model",
        "world.data": "file",
        "world.prompts": "file",
        "world.demonstrations": "file",
        "world.gold": "function",
        "reward.functions": "functions",
    }
    """The settings that are paths, and of what (``settings.paths.PathKind``)."""

    def __init__(self, config: LanguageConfig) -> None:
        self.config = config
        self.world = load_world(config.world)
        self.precision = resolve_precision(config.runtime.precision)
        # at once: a function that is not there must not come to light after the reward model was fitted
        self.functions: list[RewardSource] = [
            FunctionReward(f, w, load_function(f)) for f, w in config.reward.functions.items()
        ]
        if not config.reward.learned and not self.functions:
            raise ConfigError(
                "reward.learned = false, and reward.functions is empty: there is no reward",
                'name one: reward.functions = { "file.py:function" = 1.0 }',
            )
        if config.lora.rank and config.lora.save == "adapter" and config.model.path is None:
            raise ConfigError(
                'lora.save = "adapter", but the world makes the model, which is kept nowhere as a base',
                'set model.path to a folder or hub name, or lora.save = "merged"',
            )
        if config.evaluation.keep:
            check_kept(self.world, config.evaluation.keep, self.world.tasks("test", 64, FROZEN))

    @property
    def learns_reward(self) -> bool:
        """Whether feedback is collected and a reward model fitted, or Python functions are the whole reward."""
        return self.config.reward.learned

    def data_digests(self) -> dict[str, str]:
        """Digests of the files and folders of the user that the study reads."""
        world, model = self.config.world, self.config.model
        places = {
            "world.data": world.data,
            "world.prompts": world.prompts,
            "world.demonstrations": world.demonstrations,
        }
        places |= {"model.path": model.path, "model.chat_template": model.chat_template}
        if model.path is not None and (base := base_of(Path(model.path))) is not None:
            places["model.path, its base"] = base
        found = {name: Path(place) for name, place in places.items() if place is not None and Path(place).exists()}
        return {name: digest_folder(p) if p.is_dir() else digest_file(p) for name, p in found.items()}

    def code_digests(self, kind: str) -> dict[str, str]:
        """Digests of the user's Python files whose functions a kind of stage calls, and of the model that it alone
        reads."""
        rewards, gold = self.config.reward.functions, self.config.world.gold
        found: dict[str, str] = {}
        if kind in ("improve", "evaluate"):
            found = {f"reward.functions {Path(f).name}": function_digest(f) for f in rewards}
        if gold is not None and kind in ("collect", "reward", "improve", "evaluate"):
            found["world.gold"] = function_digest(gold)
        base = self.config.reward.base
        if kind == "reward" and base is not None and Path(base).is_dir():
            found["reward.base"] = digest_folder(Path(base))
        return found

    def recorded_feedback(self, kind: str, split: Split, count: int, seed: int) -> Sequence[Any]:
        """Judgements that came with the world's data (``study.protocol.Recorded``); ConfigError where it has none."""
        recorded = getattr(self.world, "recorded_feedback", None)
        if recorded is None:
            raise ConfigError(
                f'feedback.teacher = "import", and world {self.world.name} has no feedback of its own',
                'set feedback.file = "PATH.jsonl"',
            )
        return recorded(kind, split, count, seed)

    def initial_policy(self, run: StageRun) -> Made:
        """Load the model, or make and pretrain one; then SFT on the world's demonstrations."""
        values: dict[str, Any] = {"precision": self.precision.name}
        origin = self._origin()
        if self.config.model.path is not None:
            policy = LanguagePolicy.load(self.config.model.path)
            # a hub name says nothing of the weights behind it on that day; a folder has a digest among the inputs
            if commit := hub_commit(self.config.model.path):
                values["model_commit"] = commit
        else:
            with run.making("untrained") as folder:
                self.world.build(folder, self.config.model, run.seed)
            policy = LanguagePolicy.load(run.folder / "untrained")
            for phase in self.world.curriculum(run.seed):
                values[phase.name] = fine_tune(
                    policy.model, policy.tokenizer, phase.examples, phase.settings, run, phase.name
                )
        template = self.config.model.chat_template
        if template is not None or self.config.model.chat is not None:
            policy = policy.with_chat(self.config.model.chat, None if template is None else read_template(template))
        self._check_lengths(policy)
        shown = self.world.demonstrations(self.config.sft.demonstrations, derive(run.seed, "demonstrations"))
        if shown:
            policy = trainable(policy, self.config.lora, derive(run.seed, "lora"), self.config.model.path)
            examples = [policy.example(prompt, completion) for prompt, completion in shown]
            values["sft"] = fine_tune(policy.model, policy.tokenizer, examples, self.config.sft, run, "sft")
        with run.making("policy") as folder:
            card = base_card(self.config, run.name, origin, values)
            policy.save(folder, {"stage": run.name, "base": origin, **values}, card, adapters=self.config.lora)
        return Made({"policy": run.folder / "policy"}, values)

    def split_of(self, prompt: str) -> Split | None:
        """The split of a prompt that is among the world's; None where the world does not know it."""
        known = getattr(self.world, "known_split", None)
        return None if known is None else known(prompt)

    def tasks(self, split: Split, count: int, seed: int) -> list[Task]:
        """Tasks of the world."""
        return self.world.tasks(split, count, seed)

    def rollout(
        self, policy: Path, policy_id: str, tasks: Sequence[Task], k: int, seed: int, run: StageRun
    ) -> list[list[Candidate]]:
        """K sampled completions for each task."""
        loaded = LanguagePolicy.load(policy)
        return sample_candidates(loaded, policy_id, tasks, k, self.sampling(loaded), seed, self.precision, run)

    def gold(self, tasks: Sequence[Task], candidates: Sequence[Sequence[Candidate]]) -> NDArray[np.float64] | None:
        """The world's true utilities, or None where it has none."""
        table = [
            [self.world.gold(t, str(c.content["text"])) for c in row] for t, row in zip(tasks, candidates, strict=True)
        ]
        if any(u is None for row in table for u in row):
            return None
        return np.array(table, dtype=np.float64)

    def fit_reward(self, policy: Path, reference: Path, judgements: Sequence[Judgement], run: StageRun) -> Made:
        """Fit the reward model, freeze its scale on samples of the reference, assess it; and a judge beside it."""
        tokenizer, samples = self._scale_samples(reference, run)
        return fit_learned_reward(
            self.config.reward.base or reference,
            judgements,
            self.config.reward,
            self.precision,
            run,
            policy=tokenizer,
            scale_set=samples,
            gold=self._gold_of,
        )

    def _scale_samples(self, reference: Path, run: StageRun) -> tuple[PreTrainedTokenizerBase, ScaleSet]:
        """The reference's tokenizer, and samples of it; its model is out of memory before the fit begins."""
        policy = LanguagePolicy.load(reference)
        tasks = self.tasks("train", self.config.reward.scale_samples, derive(run.seed, "scale-tasks"))
        seed = derive(run.seed, "scale")
        rows = sample_candidates(policy, "reference", tasks, 1, self.sampling(policy), seed, self.precision)
        return policy.tokenizer, (tasks, rows)

    def score(
        self, reward: Path, tasks: Sequence[Task], candidates: Sequence[Sequence[Candidate]], run: StageRun
    ) -> NDArray[np.float64]:
        """Scores ``[N, K]`` of a fitted reward folder."""
        learned = LearnedReward.load(reward)
        scores = learned.score_candidates(tasks, candidates).double().numpy()
        if learned.rows_cut:
            run.log(0, {"reward/rows_cut": float(learned.rows_cut)})
        return scores

    def score_members(
        self, reward: Path, tasks: Sequence[Task], candidates: Sequence[Sequence[Candidate]], run: StageRun
    ) -> NDArray[np.float64]:
        """Standardised scores ``[E, N, K]`` of each ensemble member, for choosing queries by disagreement."""
        learned = LearnedReward.load(reward)
        if learned.network.members < 2:
            raise ConfigError(
                "queries are chosen by the reward ensemble's disagreement, and one member disagrees with nobody",
                'set reward.members = 3 or more, or feedback.selection = "random"',
            )
        return learned.score_candidates_by_member(tasks, candidates).double().numpy()

    def improve(self, policy: Path, reference: Path, reward: Path | None, run: StageRun) -> Made:
        """PPO from ``policy``, leashed to ``reference``."""
        settings, lora = self.config.ppo, self.config.lora
        start, leash = leashed(
            LanguagePolicy.load(policy), LanguagePolicy.load(reference), lora, derive(run.seed, "lora"),
            self.config.model.path,
        )  # fmt: skip
        actor = ActorCritic(start.model, settings.value_trunk)  # a fresh critic: the old one valued another reward
        demonstrations = (
            self.world.demonstrations(self.config.sft.demonstrations, derive(run.seed, "ptx"))
            if settings.ptx_coef
            else []
        )
        has_gold = self.world.gold(self.tasks("train", 1, run.seed)[0], "") is not None
        trainer = PpoTrainer(
            policy=start,
            reference=leash,
            actor=actor,
            rewards=self.rewards(reward, start),
            tasks=self.tasks("train", settings.prompts, derive(run.seed, "prompts")),
            settings=settings,
            sampling=self.sampling(start),
            precision=self.precision,
            run=run,
            demonstrations=[start.pair(prompt, completion) for prompt, completion in demonstrations],
            probe=self._gold_of_texts if has_gold else None,
        )
        last = trainer.train()
        values = {"steps": trainer.state.step, "rollbacks": trainer.state.rollbacks, "last": last}
        values["overoptimisation"] = overoptimisation(trainer.state.history)
        with run.making("policy") as folder:
            card = improved_card(self.config, run.name, self._origin(), values, len(trainer.tasks))
            start.save(folder, {"stage": run.name, "steps": trainer.state.step}, card, adapters=lora)
        return Made({"policy": run.folder / "policy", "rollouts": run.folder / "rollouts"}, values)

    def rewards(self, reward: Path | None, policy: LanguagePolicy) -> RewardSum:
        """The learned reward and the Python functions of the configuration, summed, for completions of ``policy``."""
        settings = self.config.reward
        sources = list(self.functions)
        if reward is not None:
            sources.insert(0, LearnedReward.load(reward, settings.weight).beside(policy.tokenizer))
        if not sources:
            raise ConfigError("there is no reward", "fit one (loop.fit_reward = true) or name reward.functions")
        return RewardSum(sources, settings.missing_end_penalty, settings.clip)

    def evaluate(
        self, policy: Path, policy_id: str, reference: Path, previous: Path | None, reward: Path | None, run: StageRun
    ) -> Made:
        """Sample all policies on test prompts and compare them."""
        settings = self.config.evaluation
        tasks = self.tasks("test", settings.prompts, FROZEN)
        policies = {"policy": LanguagePolicy.load(policy), "reference": LanguagePolicy.load(reference)}
        if previous is not None:
            policies["previous"] = LanguagePolicy.load(previous)
        judges: dict[str, RewardSource] = {f"reward_{f.name}": f for f in self.functions}
        tokenizer = policies["policy"].tokenizer
        if reward is not None:
            judges["proxy"] = LearnedReward.load(reward).beside(tokenizer)
        if reward is not None and (reward / "judge").is_dir():
            judges["judge"] = LearnedReward.load(reward / "judge").beside(tokenizer)
        evaluator = Evaluator(self.world, settings, self.sampling(policies["policy"]), self.precision, run)
        return evaluator.compare(policies, tasks, judges)

    def describe(self, candidate: Candidate) -> Mapping[str, Any]:
        """A text candidate's text and how it ended."""
        return {"text": candidate.content["text"], "stop": candidate.content.get("stop", "")}

    def sampling(self, policy: LanguagePolicy) -> Sampling:
        """How this study samples from a policy."""
        s = self.config.sampling
        return Sampling(s.max_new_tokens, policy.eos, s.temperature)

    def _origin(self) -> str:
        """The name of what the first policy was made from; no path, which says where a study stands."""
        path = self.config.model.path
        return self.world.name if path is None else Path(path).name if Path(path).exists() else path

    def _check_lengths(self, policy: LanguagePolicy) -> None:
        """DataError for the first prompt of a user's file that leaves no room to answer, before anything is trained;
        ModelError where it is a chat and there is no template."""
        room = context_length(policy.model) - self.config.sampling.max_new_tokens
        for payload in self._own_payloads():
            if (tokens := len(policy.encode_task(payload))) > room:
                raise DataError(
                    f"prompt {payload['prompt']!r:.60} has {tokens} tokens; with sampling.max_new_tokens = "
                    f"{self.config.sampling.max_new_tokens} it leaves the context of {context_length(policy.model)}",
                    "shorten the prompt, lower sampling.max_new_tokens, or take a model with a longer context",
                )

    def _own_payloads(self) -> list[Mapping[str, Any]]:
        """The payloads of all tasks of a world that has a file of prompts, by their prompts."""
        count = len(getattr(self.world, "prompts", ()))
        found: list[Mapping[str, Any]] = []
        splits: tuple[Split, ...] = ("train", "validation", "test") if count else ()
        for split in splits:
            try:
                found += [t.payload for t in self.world.tasks(split, count, FROZEN)]
            except DataError:  # a split without prompts: whoever needs one says so
                continue
        return sorted(found, key=lambda payload: str(payload["prompt"]))

    def _gold_of(self, pairs: Sequence[tuple[Task, Candidate]]) -> list[float] | None:
        found = [self.world.gold(t, str(c.content["text"])) for t, c in pairs]
        return None if any(u is None for u in found) else [float(u) for u in found if u is not None]

    def _gold_of_texts(self, tasks: Sequence[Task], texts: Sequence[str]) -> list[float]:
        return [float(self.world.gold(t, x) or 0.0) for t, x in zip(tasks, texts, strict=True)]


def overoptimisation(history: Sequence[Sequence[float | None]]) -> dict[str, Any] | None:
    """Whether gold fell while the learned score rose (see ``monitoring``); None without gold or with too few steps."""
    known = np.array([row for row in history if row[2] is not None], dtype=np.float64).reshape(-1, 3)
    if not len(known):
        return None
    verdict = detect(kl=known[:, 0], proxy=known[:, 1], gold=known[:, 2])
    return None if verdict is None else verdict.as_json()
