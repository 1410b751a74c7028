"""The ``frozen`` reward network: small networks on features of a language model that itself does not move.

``TokenEnsemble`` reads, for every completion token t, the states h(t−1) and h(t) of the frozen reference and what it
thinks of the token (log p, how far below the most likely one, entropy: a wrong fact is a surprise where a right one
was sure), passes them through a small network per member, pools by mean and maximum over the completion, and ends in
one score. Left out: sum pooling, which policies exploit by length.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tropism.engine.batch import TokenBatch, by_tokens
from tropism.engine.scoring import hidden_states, states_at, states_before, token_scores
from tropism.engine.working import Working
from tropism.language.policy import LanguagePolicy
from tropism.language.reward_text import Answered, Encoded, TurnReader
from tropism.runtime.precision import Precision, resolve_precision
from tropism.runtime.seeding import generator

CHUNK = 4096
"""Most tokens of one forward."""
OPINIONS = 3
"""Scalars among a token's features: log p, log p − max log p, entropy."""


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
        """Features ``[tokens, F]``, row by row, and their mask ``[n, C]`` to scores ``[E, n]``."""
        n, width = mask.shape
        flat = (features - self.feature_mean) / self.feature_std
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
def token_features(trunk: Working, batch: TokenBatch) -> Tensor:
    """Features of the n completion tokens, fp32 ``[n, 2H + 3]``, row by row.

    [h(t−1), h(t)] of the frozen trunk, then what it thinks of the token: log p, log p − max log p, entropy.
    """
    with trunk.running():
        hidden = hidden_states(trunk.model, batch)
        targets = batch.packed_ids()[batch.completion_places]
        logprobs, entropy, below_top = token_scores(trunk.model, states_before(hidden, batch), targets)
    opinions = torch.stack([logprobs, below_top, entropy], -1)
    return torch.cat([states_before(hidden, batch).float(), states_at(hidden, batch).float(), opinions], -1)


class FrozenScores(nn.Module):
    """A ``TokenEnsemble`` over stored features of N candidates: the ``ScoreModel`` that fitting sees."""

    def __init__(self, ensemble: TokenEnsemble, trunk: Working, encoded: Encoded) -> None:
        super().__init__()
        self.ensemble, self.members = ensemble, ensemble.members
        pairs = zip(encoded.prompts, encoded.completions, strict=True)
        lengths = torch.tensor([len(p) + len(c) for p, c in pairs])
        groups = by_tokens(torch.arange(len(encoded)), lengths, CHUNK)
        rows = [token_features(trunk, encoded.batch(group.tolist())) for group in groups]
        self.lengths = torch.tensor([len(c) for c in encoded.completions])
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
        return self.ensemble(self.features[positions[mask]], mask)


class FrozenNetwork:
    """A ``TokenEnsemble`` with the language model whose features it reads (see ``reward_network.RewardNetwork``)."""

    kind = "frozen"

    def __init__(self, policy: LanguagePolicy, ensemble: TokenEnsemble, precision: Precision, context: int) -> None:
        self.policy, self.ensemble, self.precision, self.context = policy, ensemble, precision, context
        self.members, self.reader = ensemble.members, TurnReader(policy)
        self.trunk = Working(policy.model, precision)

    @torch.no_grad()
    def raw(self, rows: Sequence[Answered], exact: bool) -> tuple[Tensor, int]:
        """Scores ``[E, n]``, fp32, in eval mode, and how many rows were cut."""
        self.ensemble.eval()
        encoded = self.reader.read(rows, self.context, exact)
        return encoded.scores(self._score, CHUNK), encoded.cut

    def _score(self, batch: TokenBatch) -> Tensor:
        return self.ensemble(token_features(self.trunk, batch), batch.mask)

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the trunk into ``trunk/`` and the network beside it; returns what else loading needs."""
        self.policy.save(folder / "trunk", {"role": "reward trunk"})
        state = {k: v.clone().contiguous() for k, v in self.ensemble.state_dict().items()}
        save_file(state, folder / "reward.safetensors")
        return {"hidden": self.ensemble.w1.shape[-1], "precision": self.precision.name, "context": self.context}

    @classmethod
    def load(cls, folder: Path, config: Mapping[str, Any]) -> FrozenNetwork:
        """Read what :meth:`save` wrote."""
        state = load_file(folder / "reward.safetensors")
        ensemble = TokenEnsemble(state["feature_mean"].shape[0], config["members"], config["hidden"], 0.0, 0)
        ensemble.load_state_dict({k: v.clone() for k, v in state.items()})
        precision = resolve_precision(config["precision"])
        return cls(LanguagePolicy.load(folder / "trunk"), ensemble, precision, config["context"])
