"""Reward networks over a language model: small networks on a frozen trunk, or a fine-tuned copy with a head.

``TokenEnsemble`` reads, for every completion token t, the states h(t−1) and h(t) of the frozen reference and what it
thinks of the token (log p, how far below the most likely one, entropy: a wrong fact is a surprise where a right one
was sure), passes them through a small network per member, pools by mean and maximum over the completion, and ends in
one score. (Sum pooling is left out: policies exploit it by length.) ``FineTunedReward`` is the classic reward model:
the trunk itself learns, with a linear head on the last token. Both are ensembles and both meet
``reward.fitting.ScoreModel``.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from tropism.engine.batch import TokenBatch
from tropism.engine.generation import Generation
from tropism.engine.scoring import completion_scores, hidden_states, states_at, states_before
from tropism.errors import StoreError
from tropism.feedback.records import Candidate, Task
from tropism.language.policy import LanguagePolicy
from tropism.language.rewards import checked_scores
from tropism.reward.ensemble import FrozenScale
from tropism.runtime.precision import Precision, resolve_precision
from tropism.runtime.seeding import generator

NetworkKind = Literal["frozen", "full"]
CHUNK = 64
OPINIONS = 3
"""Scalars among a token's features: log p, log p − max log p, entropy."""


@dataclass
class Encoded:
    """Token ids of (prompt, completion) pairs; ``cut`` counts rows that lost something to fit the context:
    the prompt's left end first, then the completion's right."""

    prompts: list[list[int]]
    completions: list[list[int]]
    cut: int = 0

    @classmethod
    def of(cls, policy: LanguagePolicy, pairs: Sequence[tuple[Task, Candidate]], context: int) -> Encoded:
        """The exact ids a candidate was sampled with; texts without ids are encoded, with EOS."""
        made = cls([], [])
        for task, candidate in pairs:
            prompt = policy.encode_prompt(str(task.payload["prompt"]))
            given = candidate.content.get("tokens")
            ended = candidate.content.get("stop") != "length"  # a text cut at a limit has no end to show
            completion = list(given) if given else policy.encode_completion(str(candidate.content["text"]), ended)
            made.cut += len(prompt) + len(completion) > context
            completion = completion[: context - 1]
            made.prompts.append(prompt[max(0, len(prompt) + len(completion) - context) :])
            made.completions.append(completion)
        return made

    def __len__(self) -> int:
        return len(self.prompts)


class TokenEnsemble(nn.Module):
    """E small networks on features of completion tokens; everything is batched over members.

    ``width`` features F per token; scores of n completions are ``[E, n]``.
    """

    def __init__(self, width: int, members: int, hidden: int, dropout: float, seed: int) -> None:
        super().__init__()
        random = generator(seed, "token-ensemble")
        self.members, self.dropout = members, dropout

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=random) / math.sqrt(shape[-2]))

        self.w1, self.b1 = weight(members, width, hidden), nn.Parameter(torch.zeros(members, 1, hidden))
        with torch.no_grad():  # together the few opinions start as loud as the many states, or they are never heard
            self.w1[:, -OPINIONS:] *= math.sqrt((width - OPINIONS) / OPINIONS)
        self.w2, self.b2 = weight(members, 2 * hidden, hidden), nn.Parameter(torch.zeros(members, 1, hidden))
        self.out = nn.Parameter(torch.zeros(members, hidden, 1))
        self.feature_mean: Tensor
        self.feature_std: Tensor
        self.register_buffer("feature_mean", torch.zeros(width))
        self.register_buffer("feature_std", torch.ones(width))

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Features ``[n, C, F]`` and mask ``[n, C]`` to scores ``[E, n]``."""
        n, width = mask.shape
        flat = ((features - self.feature_mean) / self.feature_std)[mask]
        tokens = torch.nn.functional.gelu(torch.baddbmm(self.b1, flat.expand(self.members, -1, -1), self.w1))
        tokens = torch.nn.functional.dropout(tokens, self.dropout, self.training)
        grid = tokens.new_zeros(self.members, n, width, tokens.shape[-1])
        grid[:, mask] = tokens
        mean = grid.sum(2) / mask.sum(1).clamp(min=1)[None, :, None]
        peak = grid.masked_fill(~mask[None, :, :, None], -1e4).amax(2)
        peak = peak.masked_fill(~mask.any(1)[None, :, None], 0.0)  # an empty completion has no peak
        pooled = torch.cat([mean, peak], -1)
        pooled = torch.nn.functional.gelu(torch.baddbmm(self.b2, pooled, self.w2))
        return (pooled @ self.out).squeeze(-1)


@torch.no_grad()
def token_features(policy: LanguagePolicy, batch: TokenBatch, precision: Precision) -> Tensor:
    """Features of every completion token, fp32 ``[B, C, 2H + 3]``; padded entries are arbitrary.

    [h(t−1), h(t)] of the frozen trunk, then what it thinks of the token: log p, log p − max log p, entropy.
    """
    with precision.autocast():
        hidden = hidden_states(policy.model, batch)
        scores = completion_scores(policy.model, batch, hidden)
    opinions = torch.stack([scores.logprobs, scores.below_top, scores.entropy], -1)
    return torch.cat([states_before(hidden, batch).float(), states_at(hidden, batch).float(), opinions], -1)


class FrozenScores(nn.Module):
    """A ``TokenEnsemble`` over stored features of N candidates: the ``ScoreModel`` that fitting sees."""

    def __init__(self, ensemble: TokenEnsemble, policy: LanguagePolicy, encoded: Encoded, precision: Precision) -> None:
        super().__init__()
        self.ensemble, self.members = ensemble, ensemble.members
        rows: list[Tensor] = []
        for start in range(0, len(encoded), CHUNK):
            batch = TokenBatch.of(encoded.prompts[start : start + CHUNK], encoded.completions[start : start + CHUNK])
            features, lengths = token_features(policy, batch, precision), batch.completion_lengths.tolist()
            rows += [features[i, :length].clone() for i, length in enumerate(lengths)]
        self.lengths = torch.tensor([len(r) for r in rows])
        self.ends = self.lengths.cumsum(0)
        self.features = torch.cat(rows)

    def standardise(self, rows: Tensor) -> None:
        """Freeze the features' mean and deviation on the candidates ``rows`` (those that fitting may see)."""
        tokens = torch.cat(
            [self.features[int(self.ends[i] - self.lengths[i]) : int(self.ends[i])] for i in rows.tolist()]
        )
        self.ensemble.feature_mean.copy_(tokens.mean(0))
        self.ensemble.feature_std.copy_(tokens.std(0).clamp(min=1e-4))

    def score(self, index: Tensor) -> Tensor:
        """Scores ``[E, n]`` of candidates ``index`` ``[n]``."""
        lengths = self.lengths[index]
        mask = torch.arange(max(1, int(lengths.max())))[None, :] < lengths[:, None]
        positions = (self.ends[index] - lengths)[:, None] + torch.arange(mask.shape[1])[None, :]
        features = self.features[positions.clamp(max=len(self.features) - 1)]
        return self.ensemble(features, mask)


class FineTunedReward(nn.Module):
    """A trainable copy of the trunk with a linear head ``[H, E]`` on the last token of N encoded candidates."""

    def __init__(self, policy: LanguagePolicy, members: int, seed: int, precision: Precision) -> None:
        super().__init__()
        self.members, self.precision = members, precision
        self.trunk: PreTrainedModel = copy.deepcopy(policy.model)
        size = self.trunk.config.hidden_size
        self.head = nn.Parameter(torch.randn(size, members, generator=generator(seed, "reward-head")) / size)
        self.encoded = Encoded([], [])

    def forward(self, batch: TokenBatch) -> Tensor:
        """Scores ``[E, B]``."""
        with self.precision.autocast():
            hidden = hidden_states(self.trunk, batch)
        last = hidden[torch.arange(len(batch)), batch.lengths - 1].float()
        return (last @ self.head).T

    def score(self, index: Tensor) -> Tensor:
        """Scores ``[E, n]`` of candidates ``index`` ``[n]``."""
        rows = index.tolist()
        return self(TokenBatch.of([self.encoded.prompts[i] for i in rows], [self.encoded.completions[i] for i in rows]))


@dataclass
class LearnedReward:
    """A fitted reward model: scores on a frozen scale, usable as PPO's reward source and as a scorer of candidates."""

    kind: NetworkKind
    policy: LanguagePolicy
    network: TokenEnsemble | FineTunedReward
    scale: FrozenScale
    precision: Precision
    context: int
    pessimism: float = 0.0
    weight: float = 1.0
    name: str = field(default="learned")

    @torch.no_grad()
    def member_scores(self, encoded: Encoded) -> Tensor:
        """Raw scores ``[E, n]``, fp32, in eval mode."""
        self.network.eval()
        out = []
        order = sorted(range(len(encoded)), key=lambda i: (len(encoded.prompts[i]) + len(encoded.completions[i]), i))
        for start in range(0, len(order), CHUNK):
            rows = order[start : start + CHUNK]
            batch = TokenBatch.of([encoded.prompts[i] for i in rows], [encoded.completions[i] for i in rows])
            if isinstance(self.network, TokenEnsemble):
                out.append(self.network(token_features(self.policy, batch, self.precision), batch.mask))
            else:
                out.append(self.network(batch))
        back = torch.empty(len(order), dtype=torch.int64)
        back[torch.tensor(order)] = torch.arange(len(order))
        return torch.cat(out, 1)[:, back]

    def combine(self, raw: Tensor) -> Tensor:
        """Members standardised one by one, then mean − pessimism · variance, ``[n]``."""
        return self.scale.combine(raw, "pessimistic" if self.pessimism else "mean", self.pessimism)

    def __call__(self, tasks: Sequence[Task], generation: Generation, texts: Sequence[str]) -> Tensor:
        scores = self.combine(self.member_scores(Encoded(generation.prompts, generation.completions)))
        return checked_scores(scores.tolist(), len(texts), self.name, [str(t.payload["prompt"]) for t in tasks], texts)

    def score_candidates(self, tasks: Sequence[Task], candidates: Sequence[Sequence[Candidate]]) -> Tensor:
        """Scores ``[N, K]`` of candidates (every task has K)."""
        pairs = [(t, c) for t, row in zip(tasks, candidates, strict=True) for c in row]
        flat = self.combine(self.member_scores(Encoded.of(self.policy, pairs, self.context)))
        return flat.reshape(len(tasks), -1)

    def score_candidates_by_member(self, tasks: Sequence[Task], candidates: Sequence[Sequence[Candidate]]) -> Tensor:
        """Standardised scores of each member ``[E, N, K]``."""
        pairs = [(t, c) for t, row in zip(tasks, candidates, strict=True) for c in row]
        members = self.scale.members(self.member_scores(Encoded.of(self.policy, pairs, self.context)))
        return members.reshape(members.shape[0], len(tasks), -1)

    def save(self, folder: Path, about: dict[str, Any]) -> None:
        """Write trunk, network, scale and ``about`` into a folder."""
        trunk = self.network.trunk if isinstance(self.network, FineTunedReward) else self.policy.model
        LanguagePolicy(trunk, self.policy.tokenizer, self.policy.eos).save(folder / "trunk", {"role": "reward trunk"})
        state = (
            self.network.state_dict() if isinstance(self.network, TokenEnsemble) else {"head": self.network.head.data}
        )
        save_file({k: v.clone().contiguous() for k, v in state.items()}, folder / "reward.safetensors")
        hidden = self.network.w1.shape[-1] if isinstance(self.network, TokenEnsemble) else 0
        config = {
            "network": self.kind,
            "members": self.network.members,
            "hidden": hidden,
            "context": self.context,
            "pessimism": self.pessimism,
            "precision": self.precision.name,
            "about": about,
        }
        self.scale.save(folder / "scale.json")
        (folder / "reward.json").write_text(json.dumps(config, indent=1, sort_keys=True))

    @classmethod
    def load(cls, folder: Path, weight: float = 1.0) -> LearnedReward:
        """Read what :meth:`save` wrote; StoreError for a folder that is no reward model."""
        if not (folder / "reward.json").is_file():
            raise StoreError(f"{folder} has no reward.json", "give the folder of a fitted reward model")
        config = json.loads((folder / "reward.json").read_text())
        policy = LanguagePolicy.load(folder / "trunk")
        precision, state = resolve_precision(config["precision"]), load_file(folder / "reward.safetensors")
        network: TokenEnsemble | FineTunedReward
        if config["network"] == "frozen":
            width = state["feature_mean"].shape[0]
            network = TokenEnsemble(width, config["members"], config["hidden"], 0.0, 0)
            network.load_state_dict({k: v.clone() for k, v in state.items()})
        else:
            network = FineTunedReward(policy, config["members"], 0, precision)
            network.head.data.copy_(state["head"])
        scale = FrozenScale.load(folder / "scale.json")
        return cls(config["network"], policy, network, scale, precision, config["context"], config["pessimism"], weight)
