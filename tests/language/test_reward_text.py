"""What reward models read: exact ids beside a policy of the same tokenizer, text in their own form beside any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from reward_cases import given
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

from encoders import ENCODERS, pair_tokenizer, save_encoder
from fixtures import EOS, FP32, llama, policy_of, word_tokenizer
from tropism.engine.classifiers import load_classifier
from tropism.engine.generation import Generation
from tropism.engine.models import save_policy
from tropism.errors import ModelError, StoreError
from tropism.feedback.records import Task
from tropism.language.classifier_reward import ClassifierNetwork
from tropism.language.policy import LanguagePolicy
from tropism.language.reward_network import LearnedReward
from tropism.language.reward_text import Answered, Encoded, PairReader, TurnReader, WholeReader, shares_ids

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} {% if m['role'] == 'assistant' %}<eos> <nl> "
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant> {% endif %}"
)
CHAT = [{"role": "user", "content": "w1 w2"}]


def other_tokenizer(template: str | None = None) -> PreTrainedTokenizerFast:
    """The same words as ``word_tokenizer``'s under other ids, with marks for a chat."""
    words = ["<eos>", "<pad>", "<unk>", "<bos>", "<user>", "<assistant>", "<nl>", *(f"w{i}" for i in range(59, -1, -1))]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )
    made.chat_template = template
    return made


def other(template: str | None = None) -> LanguagePolicy:
    return LanguagePolicy(llama(vocab_size=67, eos_token_id=0), other_tokenizer(template), frozenset({0}))


def words(tokenizer: PreTrainedTokenizerFast, encoded: Encoded, row: int = 0) -> tuple[str, str]:
    return tuple(
        " ".join(tokenizer.convert_ids_to_tokens(ids)) for ids in (encoded.prompts[row], encoded.completions[row])
    )  # type: ignore[return-value]


def row(text: str = "w3 w4", ended: bool = True, **payload: Any) -> Answered:
    """A completion that a policy with the word tokenizer sampled."""
    ids = word_tokenizer()(text, add_special_tokens=False)["input_ids"]
    return Answered({"prompt": "w1 w2", **payload}, text, ended, [5, 6], [*ids, EOS] if ended else ids)


def test_ids_of_another_tokenizer_are_never_read() -> None:
    """Put back: the same numbers are other words."""
    reader = TurnReader(other())
    assert words(reader.tokenizer, reader.read([row()], 64, exact=False)) == ("w1 w2", "w3 w4 <eos>")
    wrong = words(reader.tokenizer, reader.read([row()], 64, exact=True))
    assert wrong != ("w1 w2", "w3 w4 <eos>")


def test_an_answer_that_was_cut_shows_no_end() -> None:
    for reader in (TurnReader(other()), WholeReader(other())):
        for ended, said in ((False, "w3 w4"), (True, "w3 w4 <eos>")):
            assert words(reader.tokenizer, reader.read([row(" w3 w4", ended)], 64, exact=False)) == ("w1 w2", said)
    endless = WholeReader(other(), end=False).read([row(" w3 w4")], 64, exact=False)
    assert words(other_tokenizer(), endless) == ("w1 w2", "w3 w4")


def test_messages_are_rendered_by_the_reward_models_own_template() -> None:
    turns = TurnReader(other(TEMPLATE)).read([row(messages=CHAT), row(ended=False, messages=CHAT)], 64, exact=False)
    assert words(other_tokenizer(), turns) == ("<user> w1 w2 <assistant>", "w3 w4 <eos>")
    assert words(other_tokenizer(), turns, 1) == ("<user> w1 w2 <assistant>", "w3 w4")
    assert words(other_tokenizer(), TurnReader(other()).read([row(messages=CHAT)], 64, False)) == (
        "w1 w2",
        "w3 w4 <eos>",
    )


def test_a_whole_conversation_is_what_plain_transformers_renders() -> None:
    """With all that the template writes behind the answer, whether it comes as text or as ids."""
    reader = WholeReader(other(TEMPLATE))
    asked = [row(messages=CHAT), row(ended=False, messages=CHAT), row(text="", ended=False, messages=CHAT)]
    encoded = reader.read(asked, 64, exact=False)
    plain = reader.tokenizer.apply_chat_template(
        [*CHAT, {"role": "assistant", "content": "w3 w4"}], tokenize=True, return_dict=False
    )
    assert [*encoded.prompts[0], *encoded.completions[0]] == plain
    assert words(other_tokenizer(), encoded) == ("<user> w1 w2 <assistant>", "w3 w4 <eos> <nl>")
    assert words(other_tokenizer(), encoded, 1) == ("<user> w1 w2 <assistant>", "w3 w4")
    assert words(other_tokenizer(), encoded, 2) == ("<user> w1 w2 <assistant>", "")
    ids = Answered({"prompt": "", "messages": CHAT}, "", True, encoded.prompts[0], encoded.completions[0][:-1])
    assert reader.read([ids], 64, exact=True).completions == encoded.completions[:1]


def test_an_answer_that_goes_on_stays_one_turn() -> None:
    begun = [*CHAT, {"role": "assistant", "content": "w9"}]
    encoded = WholeReader(other(TEMPLATE)).read([row(text="w3", messages=begun)], 64, exact=False)
    assert "".join(words(other_tokenizer(), encoded)).count("<assistant>") == 1


def test_a_plain_text_is_encoded_whole_and_ended_once() -> None:
    """A token that spans the boundary is one token, as in plain transformers; one EOS, whatever the tokenizer adds."""
    vocabulary = {w: i for i, w in enumerate(["<pad>", "<bos>", "<eos>", "a", "b", "ab"])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "b")]))
    merging = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")
    rules = LanguagePolicy(llama(vocab_size=6), merging, frozenset({EOS}))
    asked = Answered({"prompt": "ba"}, "ba", True)
    whole, turns = WholeReader(rules).read([asked], 64, False), TurnReader(rules).read([asked], 64, False)
    assert [*whole.prompts[0], *whole.completions[0]] == [4, 5, 3, EOS]
    assert (turns.prompts, turns.completions) == ([[4, 3]], [[4, 3, EOS]])
    ending = WholeReader(rules).read([Answered({"prompt": "ba"}, "ba<eos>", True)], 64, False)
    assert [*ending.prompts[0], *ending.completions[0]] == [4, 5, 3, EOS]


def test_whether_ids_are_shared_is_told_by_vocabulary_ends_and_template() -> None:
    one, more = word_tokenizer(), word_tokenizer("<eos>")
    more.name_or_path = "somebody/else"
    more.add_special_tokens({"pad_token": "<|pad|>"})
    assert shares_ids(one, more)
    assert not shares_ids(more, one)  # ids that the reward model does not know
    assert not shares_ids(one, other_tokenizer())
    chat = word_tokenizer()
    chat.chat_template = TEMPLATE
    assert not shares_ids(one, chat)
    ends = word_tokenizer()
    ends.eos_token = "w9"
    assert not shares_ids(one, ends)


@pytest.mark.parametrize("style", ["bert", "roberta", "plain"])
def test_pairs_are_joined_as_the_encoders_tokenizer_joins_them(style: str) -> None:
    tokenizer = pair_tokenizer(style)
    for prompt, text in (("v1 v2", "v3"), ("", "v3"), ("v1", ""), ("", "")):
        encoded = PairReader(tokenizer).read([Answered({"prompt": prompt}, text, True)], 64, exact=False)
        plain = tokenizer(prompt, text)
        assert [*encoded.prompts[0], *encoded.completions[0]] == plain["input_ids"]
        if "token_type_ids" in plain:
            types = plain["token_type_ids"]
            assert len(encoded.prompts[0]) == (types.index(1) if any(types) else len(types))


def test_long_pairs_lose_the_left_of_the_prompt_and_then_the_answers_right() -> None:
    tokenizer = pair_tokenizer()
    prompt, text = " ".join(f"v{i}" for i in range(10)), " ".join(f"v{i}" for i in range(20, 26))

    def cut(context: int) -> tuple[str, str]:
        encoded = PairReader(tokenizer).read([Answered({"prompt": prompt}, text, True)], context, exact=False)
        assert encoded.cut == (context < 19)
        return words(tokenizer, encoded)

    assert cut(19) == (f"[CLS] {prompt} [SEP]", f"{text} [SEP]")
    assert cut(12) == ("[CLS] v7 v8 v9 [SEP]", f"{text} [SEP]")
    assert cut(7) == ("[CLS] [SEP]", "v20 v21 v22 v23 [SEP]")


def test_a_cut_prompt_keeps_its_first_token_if_every_text_begins_with_it() -> None:
    def cut(prompt: list[int], completion: list[int], context: int) -> tuple[list[int], list[int], int]:
        encoded = Encoded(start=1)
        encoded.add(prompt, completion, context)
        return encoded.prompts[0], encoded.completions[0], encoded.cut

    assert cut([1, 5, 6, 7], [8, 2], 6) == ([1, 5, 6, 7], [8, 2], 0)
    assert cut([1, 5, 6, 7], [8, 2], 5) == ([1, 6, 7], [8, 2], 1)
    assert cut([5, 6, 7], [8, 2], 4) == ([6, 7], [8, 2], 1)
    assert cut([1, 5, 6], [8, 9, 9, 2], 4) == ([1], [8, 9, 9], 1)
    assert cut([5, 6], [8, 9, 9, 2], 4) == ([6], [8, 9, 9], 1)


def test_an_encoder_reads_text_whatever_the_policy(tmp_path: Path) -> None:
    network = ClassifierNetwork(load_classifier(save_encoder("bert", tmp_path)), FP32)
    reward = LearnedReward(network, None).beside(pair_tokenizer())
    sampled, typed = row(text="v3 v4"), Answered({"prompt": "w1 w2"}, "v3 v4", True)
    assert torch.equal(reward.member_scores([sampled]), reward.member_scores([typed]))


def rollout_of(policy: LanguagePolicy, texts: list[str]) -> tuple[list[Task], Generation, list[str]]:
    """A rollout of a policy with the word tokenizer; the last completion was cut."""
    completions = [policy.encode_completion(t, ended=i < len(texts) - 1) for i, t in enumerate(texts)]
    stops = ["eos"] * (len(texts) - 1) + ["length"]
    tasks = [Task("train", {"prompt": f"w{i} w{i + 1}", "messages": CHAT}) for i in range(len(texts))]
    prompts = [policy.encode_prompt(str(t.payload["prompt"])) for t in tasks]
    return tasks, Generation(prompts, completions, [[0.0] * len(c) for c in completions], stops, "v"), texts


@pytest.mark.parametrize("template", [None, TEMPLATE], ids=["plain", "chat"])
def test_a_policy_of_another_tokenizer_is_paid_for_its_text(tmp_path: Path, template: str | None) -> None:
    """Through PPO's door and the candidates' door alike. Put back: its ids are read, and mean other words."""
    rules = other(template)
    save_policy(rules.model, rules.tokenizer, tmp_path)
    network = ClassifierNetwork(load_classifier(tmp_path, seed=1), FP32)
    policy = policy_of(llama())
    tasks, generation, texts = rollout_of(policy, ["w3 w4", "w30", "w5 w6 w7", "w8"])
    unscaled = LearnedReward(network, None, exact=True)
    beside = unscaled.beside(policy.tokenizer)
    assert not beside.exact
    rows = [Answered(t.payload, x, i < 3) for i, (t, x) in enumerate(zip(tasks, texts, strict=True))]
    reward = beside.frozen_on(rows, "themselves")
    expected = reward.combine(reward.member_scores(rows))
    torch.testing.assert_close(reward(tasks, generation, texts), expected, atol=1e-5, rtol=1e-5)
    stops = [{"stop": s} for s in generation.stops]
    candidates = [[given(x, c, **s)] for x, c, s in zip(texts, generation.completions, stops, strict=True)]
    torch.testing.assert_close(reward.score_candidates(tasks, candidates)[:, 0], expected, atol=1e-5, rtol=1e-5)
    by_ids = unscaled.frozen_on(rows, "themselves")(tasks, generation, texts)
    assert (by_ids - expected).abs().max() > 0.1


@pytest.mark.parametrize("family", ENCODERS)
def test_a_foreign_encoder_scores_as_in_plain_transformers(family: str, tmp_path: Path) -> None:
    save_encoder(family, tmp_path, labels=1)
    reward = LearnedReward.load(tmp_path, precision=FP32)
    assert reward.scale is None
    texts = [("v1 v2", "v3"), ("v5", "v6 v7 v8 v9"), ("v1 " * 20, "v3")]
    tasks = [Task("train", {"prompt": p}) for p, _ in texts]
    scores = reward.score_candidates(tasks, [[given(c)] for _, c in texts])[:, 0]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    with torch.no_grad():
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
        plain = model(**tokenizer(*zip(*texts, strict=True), padding=True, return_tensors="pt")).logits[:, 0]
    torch.testing.assert_close(scores, plain, atol=5e-6, rtol=5e-6)


def test_a_foreign_decoder_scores_as_in_plain_transformers(tmp_path: Path) -> None:
    rules = other(TEMPLATE)
    save_policy(rules.model, rules.tokenizer, tmp_path / "base")
    made = load_classifier(tmp_path / "base", seed=1)
    save_policy(made.model, made.tokenizer, tmp_path / "foreign")
    reward = LearnedReward.load(str(tmp_path / "foreign"), precision=FP32)
    task = Task("train", {"prompt": "shown", "messages": CHAT})
    scores = reward.score_candidates([task], [[given("w3 w4"), given("w5")]])[0]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "foreign")
    chats = [[*CHAT, {"role": "assistant", "content": text}] for text in ("w3 w4", "w5")]
    batch = tokenizer.apply_chat_template(chats, tokenize=True, padding=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "foreign").eval()
        plain = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
    torch.testing.assert_close(scores, plain, atol=5e-6, rtol=5e-6)


def test_a_foreign_model_is_saved_with_its_scale_and_read_the_same_way(tmp_path: Path) -> None:
    save_encoder("bert", tmp_path / "foreign", labels=3)
    with pytest.raises(ModelError, match=r"several outputs: 0 \(LABEL_0\), 1 \(LABEL_1\), 2 \(LABEL_2\)"):
        LearnedReward.load(tmp_path / "foreign")
    with pytest.raises(ModelError, match="no output 'good'"):
        LearnedReward.load(tmp_path / "foreign", label="good")
    named = LearnedReward.load(tmp_path / "foreign", label="LABEL_2", precision=FP32)
    rows = [Answered({"prompt": f"v{i}"}, f"v{2 * i} v3", True) for i in range(12)]
    assert torch.equal(
        named.member_scores(rows), LearnedReward.load(tmp_path / "foreign", label=2, precision=FP32).member_scores(rows)
    )
    frozen = named.frozen_on(rows, "twelve rows")
    scores = frozen.combine(frozen.member_scores(rows))
    assert float(scores.mean()) == pytest.approx(0, abs=1e-5)
    frozen.save(tmp_path / "ours", {})
    again = LearnedReward.load(tmp_path / "ours")
    assert torch.equal(again.combine(again.member_scores(rows)), scores)


def test_a_base_without_a_trained_head_is_no_reward_model(tmp_path: Path) -> None:
    save_encoder("roberta", tmp_path / "base")
    with pytest.raises(ModelError, match=r"no trained head \(classifier"):
        LearnedReward.load(tmp_path / "base")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match=r"no reward\.json and no config\.json"):
        LearnedReward.load(tmp_path / "empty")
    with pytest.raises(ModelError, match="there is no model folder"):
        LearnedReward.load(tmp_path / "nowhere")
