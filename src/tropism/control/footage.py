"""Clips of policies on the starts of an evaluation, for whoever looks at a report: before and after, side by side.

The episodes are played once more with simulator states recorded: the same environments, seeds and batch as in
``control.evaluate``, so what is seen is what was measured.

Left out: whole episodes; a clip shows the first seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tropism.control.agent import Actor
from tropism.control.evaluate import starts
from tropism.control.rollouts import Steps
from tropism.environments.clips import write_clip
from tropism.environments.making import EnvironmentSpec
from tropism.environments.rendering import Painter, View
from tropism.environments.segments import Chunk, Segment
from tropism.errors import ConfigError, TropismError

SECONDS = 5.0


def clip_name(policy: str, start: int) -> str:
    """The file of a policy's clip on a start, counted from 0."""
    return f"{policy}-{start + 1}.mp4"


def film(actors: Mapping[str, Actor], spec: EnvironmentSpec, episodes: int, seed: int, count: int, folder: Path) -> str:
    """Draw the first ``count`` starts of ``evaluate(actor, spec, episodes, seed)`` into ``folder``, as each actor plays
    them. Returns why that cannot be done here (nothing is written then), or an empty text."""
    made: list[Path] = []
    try:
        with _drawing(spec):
            painter = Painter(spec, View())
        with painter:
            steps = round(SECONDS * painter.rate * painter.stride)
            for name, actor in actors.items():
                for start, segment in enumerate(openings(actor, spec, episodes, seed, count, steps)):
                    made.append(folder / clip_name(name, start))
                    with _drawing(spec):
                        write_clip(painter.frames(segment), painter.rate, made[-1])
    except ConfigError as error:
        for path in made:
            path.unlink(missing_ok=True)
        return f"{error.problem} ({error.fix})"
    return ""


@contextmanager
def _drawing(spec: EnvironmentSpec) -> Iterator[None]:
    """Whatever is raised inside becomes a ConfigError: other people's code draws, and what hours of training have made
    is not lost for a picture."""
    try:
        yield
    except TropismError as error:
        raise ConfigError(error.problem, error.fix) from error
    except Exception as error:
        raise ConfigError(
            f"{type(error).__name__} while {spec.id} was drawn: {error}",
            "mend its render(), or set evaluation.clips = 0",
        ) from error


def openings(actor: Actor, spec: EnvironmentSpec, episodes: int, seed: int, count: int, steps: int) -> list[Segment]:
    """The first ``steps`` steps, or as many as the episode has, of the first ``count`` of these episodes (10 at most,
    as many as are played side by side)."""
    environments = starts(spec, episodes, seed, record_states=True)
    place, length = environments.place(), min(steps, environments.horizon or steps)
    played = Steps.room(environments, length)
    if any(state is None for state in environments.states):
        played.states = None  # its simulator has none that can be set: the painter plays the episode again
    for t in range(length):
        played.take(t, environments, actor.act(environments.observations, None))
    environments.close()
    chunk, found = Chunk(spec, played, place, ""), []
    for n in range(min(count, environments.count)):
        ends = played.ends[:, n]
        found.append(chunk.cut(0, n, int(ends.argmax()) + 1 if ends.any() else length))
    return found
