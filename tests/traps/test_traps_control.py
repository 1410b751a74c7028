"""One test for each trap of control and its rewards, 24 to 38, on the paths that a study takes.

Every test says in its first line what was put back to see it fail. Longer tests of the same lie beside the code, in
``control``, ``environments``, ``reward`` and ``feedback``.
"""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import control_fixtures as fixed
import numpy as np
import pytest
import torch
from control_fixtures import ASKED, CHUNK, COUNT, LENGTH, TIME, learner, paid, ppo, sac, two_threads, walk

from tropism.control.config import ControlConfig, EnvironmentSection
from tropism.control.domain import STARTS_SEED, ControlDomain
from tropism.control.evaluate import evaluate
from tropism.control.fit_reward import fit_reward
from tropism.control.policy import load_policy
from tropism.control.ppo import PpoSettings
from tropism.control.preferences import PreferenceSection
from tropism.control.queries import choose
from tropism.control.questions import segment_folder
from tropism.control.reward_network import SegmentEnsemble, SegmentScores, freeze
from tropism.control.rollouts import Steps, advantages, collect
from tropism.environments.clips import ClipCache
from tropism.environments.making import EnvironmentSpec
from tropism.environments.rendering import Painter, View
from tropism.environments.segments import Chunk, Segment
from tropism.errors import ConfigError, DataError
from tropism.feedback.asking import MemoryAsker
from tropism.feedback.oracles import Oracle
from tropism.jobs import control_train
from tropism.jobs.config import resolve
from tropism.objectives.q_learning import td_targets
from tropism.reward.assessment import assess_scores
from tropism.reward.dataset import RewardData
from tropism.reward.likelihood import Links, evidence_nll, take_rows
from tropism.runtime.seeding import derive
from tropism.settings.recipes import recipe_values, recipes
from tropism.study.report.charts import short
from tropism.study.report.data import gather
from tropism.study.report.page import render
from tropism.study.report.verdict import verdict
from tropism.study.study import Study

ONCE = ASKED.model_copy(update={"initial_share": 1.0})
ANY_LENGTH = ASKED.model_copy(update={"allow_variable_horizon": True})


@pytest.fixture(autouse=True)
def watch() -> fixed.Watch:
    """What the environments of this test note."""
    return fixed.WATCH.clear()


def test_trap_24_ties_are_kept_and_pull_nothing_from_equality() -> None:
    """Put back: ties dropped or told as wins in ``RewardData``, left out in ``fit_reward``, told as 0.6; each fails."""
    made = fixed.asked_once(learner(MemoryAsker(Oracle(equal_within=0.8)), labels=120, preferences=ONCE))
    judged = made.questions.known().judgements
    tied = torch.tensor([j.value["choice"] == "tie" for j in judged])
    assert 0.2 < tied.float().mean() < 0.6
    data = RewardData.from_judgements(judged)
    assert len(data.choices) == len(judged) == made.answered == 120
    assert torch.equal((data.choices.target == 0.5).all(1), tied)

    features = made.questions.features(data.candidates)
    even = SegmentEnsemble(made.shape, 2, (8,), "partial_return", 0)
    with torch.no_grad():
        even.reward.weights[-1].zero_()  # every score is 0

    def gradient(rows: torch.Tensor) -> float:
        chosen = take_rows(data, rows.nonzero()[:, 0])
        loss = evidence_nll(SegmentScores(even, features), Links(2, data), chosen, 1.0, lapse=0.1).sum()
        return max(float(g.abs().max()) for g in torch.autograd.grad(loss, list(even.parameters())))

    assert gradient(tied) < 1e-5
    assert gradient(~tied) > 1.0

    def apart(rows: torch.Tensor) -> float:
        """How far tied pairs lie apart, to a reward that was fitted on some of the answers."""
        some, settings = data.of_tasks(rows), fixed.FITTED.model_copy(update={"bootstrap": False})
        fitted, _ = fit_reward(some, features, made.questions.steps(), made.shape, None, settings, 0)
        scores = fitted.segment_members(features).mean(0)[data.choices.index]
        return float((scores[tied, 0] - scores[tied, 1]).abs().mean())

    assert apart(torch.ones_like(tied)) < 0.9 * apart(~tied)


def test_trap_25_members_are_standardised_before_they_are_averaged_or_compared() -> None:
    """Put back: raw members averaged in ``FrozenScale.combine``, or compared in ``choose``; each fails."""
    made = fixed.asked_once(learner())
    loud = copy.deepcopy(made.reward.ensemble)
    with torch.no_grad():
        for last in (loud.reward.weights[-1], loud.reward.biases[-1], loud.reward.linear):
            last[0] *= 1000
    rewards = [freeze(copy.deepcopy(e), made.questions.steps(), 1) for e in (made.reward.ensemble, loud)]
    steps = made.pool.chunks[-1].steps
    quiet, loudly = (paid(reward, steps) for reward in rewards)  # type: ignore[arg-type]
    np.testing.assert_allclose(loudly, quiet, atol=1e-3)
    for how in ("disagreement", "entropy"):
        chosen = [
            choose(made.pool, range(3), 8, 2, how, 20, r, made.shape, np.random.default_rng(0))  # type: ignore[arg-type]
            for r in rewards
        ]
        for mine, other in zip(*(each.sides for each in chosen), strict=True):
            assert np.array_equal(mine, other)


def test_trap_26_a_state_earns_the_same_all_through_a_version() -> None:
    """Put back: a running normaliser in ``LearnedReward.__call__``; fails."""
    made, probes = learner(), dict[int, list[np.ndarray]]()
    states = np.linspace(-1, 1, 27, dtype=np.float32).reshape(9, 3)
    probe = states, np.zeros((9, 1), np.float32), states
    while not made.finished:
        steps, metrics = made.step()
        reward = made.reward
        assert reward is not None
        together = paid(reward, steps)
        assert metrics["ppo/reward_mean"] == pytest.approx(together.mean(), abs=1e-4)  # what the agent was paid
        alone = reward(steps.observations[7, :1], steps.actions[7, :1], steps.successors[7, :1])
        assert alone[0] == pytest.approx(together[7 * COUNT], abs=1e-4)
        probes.setdefault(reward.version, []).append(reward(*probe))
    assert len(probes) >= 3
    for version in probes.values():
        assert all(np.array_equal(version[0], later) for later in version)


def test_trap_27_nothing_in_the_ring_is_paid_by_an_old_reward() -> None:
    """Put back: ``Replay.relabel`` up to the cursor only, or a learner that tells no agent; each fails."""
    agent = sac(walk())
    made, wrapped, replay = learner(agent=agent, total=5000), set[int](), agent.replay
    while not made.finished:
        made.step()
        assert made.reward is not None
        held = [getattr(replay, name)[: replay.filled] for name in ("observations", "actions", "successors")]
        rows = [a.reshape(-1, a.shape[2]) for a in held]
        np.testing.assert_allclose(replay.rewards[: replay.filled].reshape(-1), made.reward(*rows), atol=1e-4)
        if replay.filled == replay.rows and replay.cursor > 0:
            wrapped.add(made.reward.version)
    assert len(wrapped) >= 3


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_trap_28_a_noisy_teacher_errs_as_often_whatever_a_reward_is_measured_in(scale: float) -> None:
    """Put back: the oracle's β in units of the raw reward, not of the spread: it errs in half, or never; fails."""
    made = learner(MemoryAsker(Oracle(rationality=1.0)), agent=ppo(walk(scale=scale)), labels=400, preferences=ONCE)
    judged = fixed.asked_once(made).questions.known().judgements
    returned = np.array([[c.content["true_return"] for c in j.candidates] for j in judged])
    gaps = returned[:, 0] - returned[:, 1]
    wrong = np.mean([(j.value["choice"] == "a") != (gap > 0) for j, gap in zip(judged, gaps, strict=True)])
    spread = np.sqrt(np.mean(gaps**2) / 2)  # the deviation within pairs
    expected = np.mean(1 / (1 + np.exp(np.abs(gaps) / spread)))
    assert 0.2 < expected < 0.4
    assert wrong == pytest.approx(expected, abs=0.07)


def test_trap_29_skips_cost_nothing_and_thresholds_hold_once() -> None:
    """Put back: the budget charged for skips, equality tried again on noisy utilities, skips on both; each fails."""
    oracle = fixed.Noted(Oracle(rationality=2.0, skip_below=-0.2, equal_within=0.3))
    made = fixed.asked_once(learner(MemoryAsker(oracle), labels=100, preferences=ONCE))
    ties = skips = 0
    for query, context, answer in oracle.noted:
        seen, measure = context.utilities[query.id], context.measure
        skipped = max(seen) < measure.center - 0.2 * measure.spread
        tied = abs(seen[0] - seen[1]) < 0.3 * context.spread
        assert (answer.value is None) == skipped
        assert skipped or (answer.value["choice"] == "tie") == tied  # type: ignore[index]
        skips, ties = skips + skipped, ties + (tied and not skipped)
    assert min(skips, ties) > 10
    assert made.answered == 100 == len(made.questions.queries) - skips


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, set[int]]:
    """A small study that says nothing of threads, and the numbers of them that its environments saw."""
    with two_threads():
        made = Study.create(tmp_path_factory.mktemp("control") / "study", overrides=fixed.SMALL_STUDY)
        made.run()
    return made, fixed.WATCH.threads


def test_trap_30_the_true_return_stands_beside_the_accuracy(study: tuple[Study, set[int]]) -> None:
    """Put back: no true return in the evaluation's metrics, or not in the report's verdict, or tiles; each fails."""
    facts = gather(study[0].folder)
    (row,) = facts.evaluated()
    (improved,) = [stage for stage in facts.stages if stage.activity == "improve"]
    actor = load_policy(study[0].artifacts.path(improved.folders["policy"])).actor
    played = evaluate(actor, walk(), 6, derive(STARTS_SEED, "starts"))
    assert row.metrics["true_return"] == pytest.approx(played.mean)
    assert row.metrics["true_return_low"] < played.mean < row.metrics["true_return_high"]
    assert f"its true return is {short(played.mean)} [" in verdict(facts)
    page = render(facts)
    assert "Held-out accuracy" in page
    assert f"→ {short(played.mean)}" in page  # from the untrained policy's


def test_trap_31_segments_are_equally_long_so_that_length_says_nothing() -> None:
    """Put back: no length-only baseline in ``assess_pairs``, or segments of any length side by side; each fails."""
    made = fixed.asked_once(learner(labels=80))
    judged = [j for j in made.questions.known().judgements if j.task.split == "validation"]
    shown = [c for j in judged for c in j.candidates]
    assert made.reward is not None
    scores = made.reward.segment_members(made.questions.features(shown)).mean(0).tolist()
    lengths = {c.id: c.content["length"] for c in shown}
    report = assess_scores(dict(zip(lengths, scores, strict=True)), judged, lengths).as_json()["validation"]
    assert report["length_only"]["value"] == 0.5
    assert report["over_length_only"] == pytest.approx(report["accuracy"]["value"] - 0.5)
    made.pool.length = LENGTH + 2
    longer = choose(made.pool, range(3), 2, 2, "random", 1, None, made.shape, np.random.default_rng(0))
    with pytest.raises(DataError, match=r"is \[7, 4\], others are \[5, 4\]"):
        made.questions.put(longer, "comparison", "train", 0)


def test_trap_32_no_segment_and_no_advantage_crosses_an_episodes_end(watch: fixed.Watch) -> None:
    """Put back: ``places`` blind to ends, Gymnasium's next-step autoreset, GAE carried across ends; each fails."""
    settings = PpoSettings(steps_per_environment=CHUNK, epochs=1, hidden=(16,), normalise_observations=True)
    agent = ppo(walk("variable", end=7), settings)
    made = learner(agent=agent, preferences=ANY_LENGTH)
    steps = [made.step()[0] for _ in range(3)]
    rows = made.pool.rows(made.pool.places(range(COUNT)))
    assert len(rows) > 100
    for seen in (rows.observations, rows.successors):
        assert (seen[..., fixed.TAG] == rows.observations[:, :1, fixed.TAG]).all()  # one episode
        assert (np.diff(seen[..., TIME], axis=1) == 1).all()
    for each in (*steps, *(chunk.steps for chunk in made.pool.chunks)):
        assert (each.successors[..., TIME] == each.observations[..., TIME] + 1).all()  # no step that is none
        assert (each.ends == (each.successors[..., TIME] == 7)).all()
    assert agent.normaliser.count == watch.steps - fixed.EXPLORED == 3 * CHUNK * COUNT
    assert agent.normaliser.mean[TIME] == pytest.approx(np.mean([s.observations[..., TIME] for s in steps]))
    chunk = made.pool.chunks[-1]
    last = int(np.flatnonzero(chunk.steps.ends[:, 0])[0])
    with pytest.raises(DataError, match="spans two episodes"):
        chunk.cut(last, 0, 2)

    rollout = collect(agent.actor, agent.environments, CHUNK, 0, agent.normaliser)
    ended = rollout.steps.ends[:, 0].argmax()
    later = rollout.steps.rewards.copy()
    later[ended + 1 :] += 100.0
    one, other = (advantages(agent.actor, rollout, r, 0.9, 0.95)[0][:, 0] for r in (rollout.steps.rewards, later))
    assert np.array_equal(one[: ended + 1], other[: ended + 1])
    assert (other[ended + 1 :] > one[ended + 1 :] + 50).all()


@pytest.mark.parametrize("arguments", [{"end": 6}, {"cut": 6}])
def test_trap_33_termination_ends_the_return_and_truncation_bootstraps(arguments: dict[str, int]) -> None:
    """Put back: a value after a termination, or none after a truncation, in GAE or in the ring; each fails."""
    terminates, spec = "end" in arguments, walk("variable", **arguments)
    agent = ppo(spec)
    rollout = collect(agent.actor, agent.environments, CHUNK, 0, agent.normaliser)
    steps, values = rollout.steps, agent.actor.values(rollout.steps.successors.reshape(-1, 3)).reshape(CHUNK, COUNT)
    _, returns = advantages(agent.actor, rollout, steps.rewards, 0.9, 0.95)
    ends = steps.successors[..., TIME] == 6
    assert ends.sum() == CHUNK // 6 * COUNT
    assert np.abs(values[ends]).min() > 1e-3
    ahead = 0.0 if terminates else 0.9 * values
    np.testing.assert_allclose(returns[ends], (steps.rewards + ahead)[ends], rtol=1e-5)
    np.testing.assert_allclose(returns[-1], (steps.rewards + 0.9 * values)[-1], rtol=1e-5)  # the rollout's own end

    ring = sac(spec)
    ring.advance(None, 0.0)
    drawn = ring.replay.draw(np.random.default_rng(0), 500, 0.9)
    targets = td_targets(drawn.rewards, torch.full((500,), 100.0), drawn.terminated, drawn.discounts)
    over = (drawn.successors[:, TIME] == 6) & terminates
    torch.testing.assert_close(targets, drawn.rewards + torch.where(over, 0.0, 90.0))


@pytest.mark.parametrize("algorithm", [ppo, sac])
def test_trap_33_a_reward_cannot_see_how_an_episode_ended(algorithm: Callable[[EnvironmentSpec], Any]) -> None:
    """Put back: successors blanked where an episode terminated, in ``Steps.paid`` or in ``Replay.add``; each fails."""

    def told(**arguments: int) -> tuple[list[list[np.ndarray]], Steps]:
        asked: list[list[np.ndarray]] = []

        def spy(*rows: np.ndarray) -> np.ndarray:
            asked.append([a.copy() for a in rows])
            return np.zeros(len(rows[0]), np.float32)

        return asked, algorithm(walk("variable", **arguments)).advance(spy, 0.0)[0]

    (ended, steps), (cut, _) = told(end=6), told(cut=6)
    assert len(ended) == len(cut)
    for one, other in zip(ended, cut, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert steps.terminated.any()
    for number, name in enumerate(("observations", "actions", "successors")):
        assert np.array_equal(np.concatenate([call[number] for call in ended]), steps.flat(name))
    assert learner().shape.width == 3 + 1  # what it saw and did, nothing else


def test_trap_34_the_horizon_is_fixed_or_asked_for_by_name() -> None:
    """Put back: a variable horizon by default, or taken without a word, or a fixed one that ends early; each fails."""
    assert ControlConfig().environment.horizon == "fixed"
    variable = ControlConfig(environment=EnvironmentSection(horizon="variable"))
    pole = EnvironmentSpec("CartPole-v1", horizon="variable", steps=60)
    for refused in (lambda: ControlDomain(variable), lambda: learner(agent=ppo(pole))):
        with pytest.raises(ConfigError, match=r'(?s)a variable horizon.*environment\.horizon = "fixed"'):
            refused()
    ControlDomain(variable.model_copy(update={"preferences": ANY_LENGTH}))

    def episodes(spec: EnvironmentSpec, asked: PreferenceSection) -> tuple[list[float], set[int]]:
        made = learner(agent=ppo(spec), total=2000, preferences=asked)
        while not made.finished:
            made.step()
        return [returned for _, returned, _ in made.episodes], {length for *_, length in made.episodes}

    returns, lengths = episodes(replace(pole, horizon="fixed"), ASKED)
    assert lengths == {60}
    assert min(returns) < 60  # poles fell, and that was paid for
    assert len(episodes(pole, ANY_LENGTH)[1]) > 5


def test_trap_35_every_step_counts_those_of_asking_too(watch: fixed.Watch) -> None:
    """Put back: ``_explore`` sets the count back, or training ends by the turns it was asked for; each fails."""
    made = learner(total=3000)
    while not made.finished:
        _, metrics = made.step()
        assert metrics["environment/steps"] == made.agent.environments.steps == watch.steps
        assert made.done == min(1.0, watch.steps / 3000)
    assert watch.steps == fixed.EXPLORED + made.turns * CHUNK * COUNT
    assert 3000 <= watch.steps < 3000 + CHUNK * COUNT


def test_trap_36_the_policy_acts_on_what_was_returned_last(watch: fixed.Watch) -> None:
    """Put back: an observation of the step before in ``collect``, of before the asking, or of before a reset; fails."""
    settings = PpoSettings(steps_per_environment=CHUNK, epochs=1, learning_rate=1e-9, hidden=(), log_std=-3.0)
    spec = EnvironmentSpec("TropismEcho-v0", horizon="fixed")
    agent = ppo(spec, settings)
    agent.actor.actor.layers(agent.actor.parts(agent.actor.params)[0])[0][0].fill_(1.0)  # it does what it sees
    made = learner(agent=agent)
    for _ in range(5):
        made.step()
    assert 0.05 < watch.farthest < 0.35  # seven deviations of its noise
    watch.farthest = 0.0
    evaluate(agent, spec, 5, 0)
    assert watch.farthest < 1e-5


def test_trap_37_small_networks_run_on_one_thread(study: tuple[Study, set[int]], tmp_path: Path) -> None:
    """Put back: torch's own number of threads in a control study, in a recipe, in ``control train``; each fails."""
    assert study[1] == {1}
    for name in [recipe.name for recipe in recipes() if recipe.name.startswith("control/")]:
        assert recipe_values(name)["runtime"]["threads"] == 1
    small = {"environment.id": "TropismWalk-v0", "agent.steps": 500, "evaluation.episodes": 2}
    with two_threads():
        control_train.run(resolve(control_train.ControlTrainConfig, small), tmp_path / "trained")
    assert fixed.WATCH.threads == {1}


def test_trap_38_only_what_is_asked_about_is_kept_and_drawn(watch: fixed.Watch, tmp_path: Path) -> None:
    """Put back: every segment of the pool kept, pictures drawn while it learns, or from the reset on; each fails."""
    (tmp_path / "kept").mkdir()
    made = learner(fixed.KeepingAsker(tmp_path / "kept"))
    for _ in range(3):
        made.step()
    asked = {c.id: c for j in made.questions.known().judgements for c in j.candidates}
    places = {segment_folder(tmp_path / "kept" / c.content["artifact"], c.content["row"]) for c in asked.values()}
    assert {path.parent for path in (tmp_path / "kept").rglob("segment.json")} == places
    assert watch.drawn == 0
    late = next(segment for place in sorted(places) if (segment := Segment.read(place)).start > 3)
    with ClipCache(tmp_path / "clips", View(48, 32)) as cache:
        assert cache.clip(late) == cache.clip(late)
    assert watch.drawn == len(late) == LENGTH


def test_trap_38_clips_show_stored_states() -> None:
    """Put back: the actions played again from the first state; the pictures of reversed states do not turn round."""
    pytest.importorskip("pygame")
    spec = EnvironmentSpec("Pendulum-v1", horizon="fixed")
    agent = ppo(spec, record_states=True)
    before = agent.environments.place()
    steps, _ = agent.advance(None, 0.0)
    segment = Chunk(spec, steps, before, "").cut(3, 1, 8)
    assert segment.states is not None
    with Painter(spec, View(48, 48)) as painter:
        frames = painter.frames(segment)
        backwards = painter.frames(replace(segment, states=segment.states[::-1]))
    assert not np.array_equal(frames[0], frames[-1])
    assert np.array_equal(backwards, frames[::-1])


def test_trap_38_mujoco_is_drawn_without_shadows_and_multisampling() -> None:
    """Put back: shadows on, or the model's own multisampling; each fails."""
    probe = "from tropism.environments import mujoco_setup as m, rendering as r; m.settle_drawing(); r.open_gl(32, 32)"
    if subprocess.run([sys.executable, "-c", probe], capture_output=True, timeout=120, check=False).returncode:
        pytest.skip("no OpenGL without a screen: scripts/egl.sh installs it on Debian")
    with Painter(EnvironmentSpec("InvertedPendulum-v5"), View(32, 32)) as painter:
        canvas: Any = painter._canvas
        assert canvas.draw().std() > 1
        flags = canvas._gl.mjtRndFlag
        assert not canvas._scene.flags[flags.mjRND_SHADOW]
        assert not canvas._scene.flags[flags.mjRND_REFLECTION]
        assert canvas._target.offSamples == 0
