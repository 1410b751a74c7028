"""A reward model that reads the text itself: it needs no language model and fits in seconds on a CPU.

Preference learning with a Gaussian process (Chu and Ghahramani 2005; for arguments Simpson and Gurevych 2018): a score
is a function drawn from a process whose covariance says which texts are alike,

    k(x, y) = a₁ s·s′/S + a₂ r(s, s′) + a₃ g·g′ + a₄ r(s, s′) r(t, t′),    r(u, v) = exp(−|u − v|² / (2 w² dim))

with surface features s, n-grams g and topics t (``lexical_features``). The last term lets what makes a text good
depend on what it is about. Beside it the length has a weight of its own. Scores are φ(x)·w with φ(x)·φ(y) ≈ k(x, y),
exact for up to ``LANDMARKS`` train candidates and Nyström's approximation (Williams and Seeger 2001) beyond;
``lexical_fit.fit_lexical`` finds the most probable w.

Left out: n-grams of the prompt (words that completion and prompt share are counted), and the process's own
uncertainty (members of the ensemble differ by the tasks they were fitted on).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tropism.errors import DataError, StoreError
from tropism.language.lexical_features import CHUNK, SURFACE, Counted, LexicalFeatures, Read, cut
from tropism.language.reward_text import Answered, Reader
from tropism.runtime.seeding import permutation

LANDMARKS = 1000
READ_FOR_STATISTICS = 4000
"""Train candidates that vocabulary, means and topics are learned from, if there are more."""
LINEAR, SURFACE_SHARE, GRAMS, JOINT = 0.06, 0.1, 0.2, 0.3
"""a₁ … a₄. Settled on held-out topics of one corpus of arguments; accuracy hardly depends on them."""
LENGTH = SURFACE.index("characters")
"""The feature whose linear effect is free from the start: how long a text is matters to nearly every judge, and with
few judgements a prior that holds it back costs more than anything else that a text shows can bring."""
TOPIC_WIDTH = 0.7
"""w of the topics; that of the surface features is 1."""
WEIGHTS, CONFIG = "lexical.safetensors", "lexical.json"
VERSION = 1


@dataclass(frozen=True)
class Basis:
    """From features to φ: landmarks and what their covariances are multiplied by."""

    landmarks: Read
    whiten: Tensor
    """``[m, r]``: φ(x) = [k(x, landmarks) · whiten − centre, length of x]."""
    centre: Tensor
    """``[r]``: mean of the former over the landmarks; a score's level means nothing."""

    @classmethod
    def of(cls, landmarks: Read) -> Basis:
        """φ that reproduces the covariances of the landmarks."""
        gram = covariance(landmarks, landmarks)
        values, vectors = torch.linalg.eigh(gram)
        kept = values > 1e-5 * values[-1]
        whiten = vectors[:, kept] / values[kept].sqrt()
        return cls(landmarks, whiten, (gram @ whiten).mean(0))

    def phi(self, read: Read) -> Tensor:
        """``[n, r + 1]``, fp64."""
        like = covariance(read, self.landmarks) @ self.whiten - self.centre
        return torch.cat([like, read.surface[:, [LENGTH]]], 1)


def covariance(x: Read, y: Read) -> Tensor:
    """k ``[n, m]``."""
    alike = _alike(x.surface, y.surface, 1.0)
    linear = LINEAR * (x.surface @ y.surface.T) / len(SURFACE) + GRAMS * (x.grams @ y.grams.T)
    return linear + alike * (SURFACE_SHARE + JOINT * _alike(x.topics, y.topics, TOPIC_WIDTH))


def _alike(u: Tensor, v: Tensor, width: float) -> Tensor:
    square = (u.square().sum(1)[:, None] + v.square().sum(1)[None] - 2 * u @ v.T).clamp(min=0)
    return torch.exp(-square / (2 * width**2 * max(1, u.shape[1])))


class LexicalScores(nn.Module):
    """Scores of N candidates that were read once: the ``ScoreModel`` that fitting sees.

    ``w`` ``[E, r]`` are the only parameters, on a scale where their prior is a standard normal.
    """

    def __init__(self, basis: Basis, phi: Tensor, members: int) -> None:
        super().__init__()
        self.basis, self.phi, self.members = basis, phi, members
        self.w = nn.Parameter(torch.zeros(members, phi.shape[1], dtype=phi.dtype))

    def score(self, index: Tensor) -> Tensor:
        """Scores ``[E, n]`` of candidates ``index`` ``[n]``."""
        return self.w @ self.phi[index].T


class LexicalNetwork:
    """E fitted members that score any text (see ``reward_network.RewardNetwork``).

    The linear terms of k are folded into one weight per feature; the others keep the landmarks. ``tensors``:
    ``alpha`` ``[E, m]`` on the landmarks' ``landmark_surface`` ``[m, S]`` and ``landmark_topics`` ``[m, D]``,
    ``surface_weight`` ``[E, S]``, ``gram_weight`` ``[E, V]``, ``bias`` ``[E]``.
    """

    kind = "lexical"
    reader: Reader | None = None

    def __init__(self, features: LexicalFeatures, tensors: Mapping[str, Tensor]) -> None:
        self.features, self.tensors = features, dict(tensors)
        self.members = int(self.tensors["bias"].shape[0])

    @classmethod
    def of(cls, features: LexicalFeatures, scores: LexicalScores) -> LexicalNetwork:
        """The network with the present weights of ``scores``."""
        landmarks = scores.basis.landmarks
        w, length = scores.w.detach().split([scores.basis.whiten.shape[1], 1], 1)
        alpha = w @ scores.basis.whiten.T
        surface_weight = LINEAR / len(SURFACE) * alpha @ landmarks.surface
        surface_weight[:, [LENGTH]] += length
        return cls(
            features,
            {
                "alpha": alpha,
                "landmark_surface": landmarks.surface,
                "landmark_topics": landmarks.topics,
                "surface_weight": surface_weight,
                "gram_weight": GRAMS * alpha @ landmarks.grams,
                "bias": -w @ scores.basis.centre,
            },
        )

    @torch.no_grad()
    def score_texts(self, prompts: Sequence[str], completions: Sequence[str]) -> Tensor:
        """Raw scores ``[E, n]``, fp32, on the logit scale of comparisons."""
        parts = [torch.empty(self.members, 0)]
        for start in range(0, len(completions), CHUNK):
            counted = Counted.of(prompts[start : start + CHUNK], completions[start : start + CHUNK])
            parts.append(self._score(self.features.read(counted)).float())
        return torch.cat(parts, 1)

    def _score(self, read: Read) -> Tensor:
        held = self.tensors
        alike = _alike(read.surface, held["landmark_surface"], 1.0)
        alike = alike * (SURFACE_SHARE + JOINT * _alike(read.topics, held["landmark_topics"], TOPIC_WIDTH))
        linear = held["surface_weight"] @ read.surface.T + held["gram_weight"] @ read.grams.T
        return held["alpha"] @ alike.T + linear + held["bias"][:, None]

    def raw(self, rows: Sequence[Answered], exact: bool) -> tuple[Tensor, int]:
        """Scores ``[E, n]`` and how many texts were cut; ids are of no use here."""
        scores = self.score_texts([str(row.payload["prompt"]) for row in rows], [row.text for row in rows])
        return scores, sum(cut(row.text) for row in rows)

    def save(self, folder: Path) -> dict[str, Any]:
        """Write weights and features; returns what else loading needs (nothing but the version)."""
        folder.mkdir(parents=True, exist_ok=True)
        named = {f"features.{k}": v for k, v in self.features.tensors().items()} | self.tensors
        save_file({k: v.clone().contiguous() for k, v in named.items()}, folder / WEIGHTS)
        about = {"lexical": VERSION, "surface": list(SURFACE)}
        (folder / CONFIG).write_text(json.dumps(about, indent=1) + "\n")
        return {"lexical": VERSION}

    @classmethod
    def load(cls, folder: Path, config: Mapping[str, Any] | None = None) -> LexicalNetwork:
        """Read what :meth:`save` wrote; StoreError for another folder, or features of another version."""
        if not ((folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()):
            raise StoreError(f"{folder} has no {CONFIG} and {WEIGHTS}", "give the folder of a lexical reward model")
        about = json.loads((folder / CONFIG).read_text())
        if about.get("lexical") != VERSION or about.get("surface") != list(SURFACE):
            raise StoreError(
                f"{folder} reads features of version {about.get('lexical')}, this is version {VERSION}",
                "fit it again; that takes seconds",
            )
        state = {k: v.clone() for k, v in load_file(folder / WEIGHTS).items()}
        prefix = "features."
        features = LexicalFeatures(**{k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        return cls(features, {k: v for k, v in state.items() if not k.startswith(prefix)})


def count_rows(rows: Sequence[Answered]) -> Counted:
    """What is read of completions before any fit."""
    return Counted.of([str(row.payload["prompt"]) for row in rows], [row.text for row in rows])


def lexical_scores(
    counted: Counted, tasks: Sequence[int], train: Sequence[int], members: int, seed: int
) -> tuple[LexicalFeatures, LexicalScores]:
    """Features learned from the ``train`` rows (their numbers), and all candidates ready to be fitted.

    ``tasks``: the task of every row. Only texts are looked at, no judgement. DataError without train rows.
    """
    if not len(train):
        raise DataError(f"none of the {len(counted)} candidates is of a train task", "give judgements on train tasks")
    order = [train[i] for i in permutation(len(train), seed, 0).tolist()] if len(train) > LANDMARKS else list(train)
    sample, landmarks = order[:READ_FOR_STATISTICS], order[:LANDMARKS]
    features = LexicalFeatures.fit(counted.take(sample), [tasks[i] for i in sample], len(landmarks))
    basis = Basis.of(features.read(counted.take(landmarks)))
    chunks = [range(start, min(start + CHUNK, len(counted))) for start in range(0, len(counted), CHUNK)]
    phi = torch.cat([basis.phi(features.read(counted.take(rows))) for rows in chunks])
    return features, LexicalScores(basis, phi, members)
