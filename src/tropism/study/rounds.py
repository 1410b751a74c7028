"""The loop: base → (collect → reward → improve → evaluate → decide) × rounds.

The reference is the base policy in every round. A round starts from the policy promoted last, asks for feedback on that
policy's own outputs, and fits the reward model anew on all feedback so far.

Left out: rounds that overlap (asking about the next policy while this one is evaluated).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from sqlalchemy.engine import Connection

from tropism.data.manifest import digest_of
from tropism.errors import ContractError
from tropism.feedback.events import FeedbackLog
from tropism.feedback.records import Split
from tropism.feedback.teachers import DEMONSTRATOR, Standard
from tropism.runtime.seeding import derive
from tropism.runtime.stage import Made, StageRun
from tropism.store import lineage
from tropism.study.collect import Collector, Expecting
from tropism.study.config import Config
from tropism.study.drift import drift_of
from tropism.study.online import StudyAsker
from tropism.study.protocol import Domain, OnlineDomain
from tropism.study.stages import Done, Plan, StageRunner, lineage_id

SPLITS_OF_EVERY_ROUND: tuple[Split, ...] = ("train", "test")


@dataclass(frozen=True)
class Node:
    """A policy or a reward model: its id in the lineage, and the stage that made it."""

    id: str
    made: Done
    output: str

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.made.path(self.output)

    @property
    def digest(self) -> str:
        """Its content address."""
        return self.made.folders[self.output]

    @property
    def input(self) -> dict[str, str]:
        """What it is as another stage's input."""
        return {"id": self.id, "digest": self.digest}


class Loop:
    """One study's loop, over the stages that ``runner`` makes durable."""

    def __init__(self, config: Config, domain: Domain, runner: StageRunner) -> None:
        self.config, self.domain, self.runner = config, domain, runner
        self.online = cast(OnlineDomain, domain) if hasattr(domain, "learn") else None
        self.log = FeedbackLog(runner.database)
        self.file = config.feedback.file
        self.data: dict[str, str] = dict(getattr(domain, "data_digests", dict)())
        if self.learns_reward and self.file is not None and self.file.exists():
            self.data["feedback.file"] = digest_of(self.file)
        self.collector = Collector(config, domain, self.log, self.file, runner.stop)

    @property
    def learns_reward(self) -> bool:
        """Whether feedback is collected and a reward model fitted; else the domain's own reward is all there is."""
        return self.config.loop.fit_reward and bool(getattr(self.domain, "learns_reward", True))

    def stages(self) -> Iterator[str]:
        """Do the study's stages one by one; yields each one's name when it is durable."""
        policy = reference = self.base()
        yield "base"
        reward: Node | None = None
        first: Done | None = None
        for round_ in range(1, self.config.study.rounds + 1):
            if self.online is not None:
                improved, reward, first = self.learn(round_, policy, reference, reward, first)
                yield f"improve-{round_}"
                verdict = self.evaluate(round_, improved, reference, policy, reward)
                yield f"evaluate-{round_}"
                policy = self.decide(round_, improved, policy, verdict)
                yield f"decide-{round_}"
                continue
            if self.learns_reward:
                collected = self.collect(round_, policy, reward, first)
                first = first or collected
                yield f"collect-{round_}"
                reward = self.reward(round_, policy, reference, collected, reward)
                yield f"reward-{round_}"
            improved = self.improve(round_, policy, reference, reward)
            yield f"improve-{round_}"
            verdict = self.evaluate(round_, improved, reference, policy, reward)
            yield f"evaluate-{round_}"
            policy = self.decide(round_, improved, policy, verdict)
            yield f"decide-{round_}"

    def check(self) -> None:
        """Refuse what would fail hours later: a split without tasks, feedback that cannot be used."""
        for split in SPLITS_OF_EVERY_ROUND:
            self.domain.tasks(split, 1, 0)
        if self.learns_reward and self.online is None:
            self.collector.check()

    def base(self) -> Node:
        """Make or load the starting policy, which stays the reference."""

        def record(connection: Connection, done: Done) -> None:
            node = _node("policy", done)
            lineage.record_policy(connection, node.id, node.digest, 0, None, None, None, "reference", done.values)
            lineage.set_policy_status(connection, node.id, "reference")

        done = self.runner.run(self._plan("base", 0, {"data": self.data}), self.domain.initial_policy, record)
        self._take_in_demonstrations()
        return _node("policy", done)

    def _take_in_demonstrations(self) -> None:
        """What a domain was shown to start from goes into the log; ids are digests, so doing it again adds nothing."""
        shown = getattr(self.domain, "demonstrations", None)
        rows = [] if shown is None else shown(self.runner.artifacts.put)
        if not rows:
            return
        self.log.register_teacher(DEMONSTRATOR, "import")
        tasks, candidates, queries, _ = zip(*rows, strict=True)
        self.log.put(tasks, candidates, queries)
        self.log.append_many([(query, DEMONSTRATOR, answer) for _, _, query, answer in rows], origin="data")

    def collect(self, round_: int, policy: Node, reward: Node | None, first: Done | None) -> Done:
        """Ask teachers about the current policy's outputs, then freeze all feedback so far. An oracle's ratings are
        measured as in the ``first`` collection, so that they can rise."""
        asks = reward if self.config.feedback.selection == "disagreement" else None
        inputs = {"policy": policy.input, "reward": _input(asks), "file": self.data.get("feedback.file")}
        measured = first.values.get("standard") if first is not None else None
        standard = None if measured is None else Standard(**measured)
        if standard is not None and self.collector.rates():
            inputs["standard"] = measured

        def work(run: StageRun) -> Made:
            by = asks.path if asks else None
            return self.collector.collect(run, round_, policy.path, policy.id, by, standard, _expecting(reward))

        return self.runner.run(self._plan("collect", round_, inputs), work)

    def reward(self, round_: int, policy: Node, reference: Node, collected: Done, before: Node | None) -> Node:
        """Fit the reward model on the frozen feedback; the one before is asked about the fresh part first (drift)."""
        event_set = collected.values["event_set"]
        inputs = {
            "policy": policy.input,
            "reference": reference.input,
            "event_set": event_set,
            "before": _input(before),
        }

        def work(run: StageRun) -> Made:
            judgements = self.collector.frozen(event_set)
            fresh = [j for j in judgements if j.query.round == round_]
            drift = drift_of(self.domain, before.path, before.made.values, fresh, run) if before is not None else {}
            if drift:
                run.log(0, {f"drift/{name}": float(value) for name, value in drift.items()})
            made = self.domain.fit_reward(policy.path, reference.path, judgements, run)
            return Made(made.folders, {**made.values, "drift": drift})

        def record(connection: Connection, done: Done) -> None:
            node = _node("reward", done)
            lineage.record_reward_model(
                connection, node.id, node.digest, round_, event_set, done.values, base_policy_id=policy.id
            )

        return _node("reward", self.runner.run(self._plan("reward", round_, inputs), work, record))

    def learn(
        self, round_: int, policy: Node, reference: Node, before: Node | None, first: Done | None
    ) -> tuple[Node, Node, Done]:
        """Of an online domain: ask, fit and improve side by side, in one stage. Returns the policy, the reward, and the
        first round's stage, which has what an oracle's ratings are measured by."""
        assert self.online is not None
        domain, measured = self.online, None if first is None else first.values.get("standard")
        standard = None if measured is None else Standard(**measured)
        inputs = {"policy": policy.input, "reference": reference.input, "before": _input(before), "standard": measured}

        def work(run: StageRun) -> Made:
            asker = StudyAsker(
                self.config, self.log, self.runner.artifacts, run, self.runner.stop, round_, policy.id, standard
            )
            made = domain.learn(policy.path, reference.path, before.path if before else None, asker, run)
            self.log.seal(force=True)
            event_set = self.log.freeze(judgement.event_id for judgement in asker.judgements())
            found = {} if asker.standard is None else {"standard": asdict(asker.standard)}
            return Made(made.folders, {**made.values, "event_set": event_set, **found})

        def record(connection: Connection, done: Done) -> None:
            improved, reward = _node("policy", done), _node("reward", done)
            event_set = done.values["event_set"]
            lineage.record_reward_model(
                connection, reward.id, reward.digest, round_, event_set, done.values, base_policy_id=policy.id
            )
            lineage.record_policy(
                connection, improved.id, improved.digest, round_, policy.id, reference.id, reward.id, "candidate",
                done.values,
            )  # fmt: skip

        done = self.runner.run(self._plan("improve", round_, inputs), work, record)
        return _node("policy", done), _node("reward", done), first or done

    def improve(self, round_: int, policy: Node, reference: Node, reward: Node | None) -> Node:
        """Improve the promoted policy against the reward, on its leash to the reference."""
        inputs = {"policy": policy.input, "reference": reference.input, "reward": _input(reward)}

        def work(run: StageRun) -> Made:
            return self.domain.improve(policy.path, reference.path, reward.path if reward else None, run)

        def record(connection: Connection, done: Done) -> None:
            node, shaped_by = _node("policy", done), reward.id if reward else None
            lineage.record_policy(
                connection, node.id, node.digest, round_, policy.id, reference.id, shaped_by, "candidate", done.values
            )

        return _node("policy", self.runner.run(self._plan("improve", round_, inputs), work, record))

    def evaluate(self, round_: int, improved: Node, reference: Node, before: Node, reward: Node | None) -> Done:
        """Evaluate the new policy on test tasks, against the reference and against the policy before."""
        previous = before if before.id != reference.id else None
        inputs = {"policy": improved.input, "reference": reference.input, "reward": _input(reward)}

        def work(run: StageRun) -> Made:
            made = self.domain.evaluate(
                improved.path,
                improved.id,
                reference.path,
                previous.path if previous else None,
                reward.path if reward else None,
                run,
            )
            if not isinstance(made.values.get("promote"), bool):
                raise ContractError(
                    f"the evaluation of domain {self.domain.name} gave promote = {made.values.get('promote')!r}",
                    "return a bool in Made.values['promote']",
                )
            return made

        def record(connection: Connection, done: Done) -> None:
            lineage.record_evaluation(connection, lineage_id("evaluation", done.key), improved.id, round_, done.values)

        return self.runner.run(self._plan("evaluate", round_, {**inputs, "previous": _input(previous)}), work, record)

    def decide(self, round_: int, improved: Node, before: Node, verdict: Done) -> Node:
        """Keep the new policy, or roll back to the one before."""
        always = self.config.loop.promotion == "always"
        promoted = bool(verdict.values["promote"]) or always
        reasons = [str(reason) for reason in verdict.values.get("reasons", [])]
        inputs = {"policy": improved.input, "before": before.input, "promote": verdict.values["promote"]}

        def work(run: StageRun) -> Made:
            run.log(0, {"decide/promoted": float(promoted)})
            kept = improved.id if promoted else before.id
            return Made(values={"promoted": promoted, "reasons": reasons, "policy": kept})

        def record(connection: Connection, done: Done) -> None:
            lineage.set_policy_status(connection, improved.id, "promoted" if promoted else "rejected")

        self.runner.run(self._plan("decide", round_, inputs), work, record)
        return improved if promoted else before

    def _plan(self, kind: str, round_: int, inputs: Mapping[str, Any]) -> Plan:
        seed = derive(self.config.study.seed, kind, round_)
        code = getattr(self.domain, "code_digests", None)
        if code is not None and (called := dict(code(kind))):
            inputs = {**inputs, "code": called}
        return Plan(kind, round_, inputs, stage_settings(self.config, kind), seed)


def stage_settings(config: Config, kind: str) -> dict[str, Any]:
    """The part of the configuration that a kind of stage depends on."""
    if kind == "decide":
        return {"loop": config.values["loop"]}
    own = [name for name in config.values if name not in ("study", "feedback", "loop", "runtime")]
    sections = getattr(config.domain_class, "stage_sections", {}).get(kind, own)
    settings = {name: config.values[name] for name in sections}
    if kind == "collect" or (kind == "improve" and hasattr(config.domain_class, "learn")):
        # how long people are waited for is no part of what they are asked
        waiting = ("wait_hours", "enough")
        settings["feedback"] = {k: v for k, v in config.values["feedback"].items() if k not in waiting}
    if kind == "base":
        settings["study"] = {"domain": config.study.domain}
    settings["runtime"] = {"precision": config.runtime.precision}
    return settings


def _node(output: str, done: Done) -> Node:
    if output not in done.folders:
        raise ContractError(
            f"stage {done.name} made the folders {sorted(done.folders)}, but not {output!r}",
            f"return Made(folders={{{output!r}: PATH, …}})",
        )
    return Node(lineage_id(output, done.key), done, output)


def _expecting(reward: Node | None) -> Expecting | None:
    """The reward model of the round before, if its assessment says how its gaps become logits of votes. It is no input
    of the stage: what it expects decides how many people are asked, not what is made of their answers."""
    found: Any = None if reward is None else reward.made.values
    for name in ("assessment", "validation", "temperature"):
        found = found.get(name) if isinstance(found, Mapping) else None
    if reward is None or not isinstance(found, int | float) or not found > 0:
        return None
    return Expecting(reward.path, reward.id, float(found))


def _input(node: Node | None) -> dict[str, str] | None:
    return None if node is None else node.input
