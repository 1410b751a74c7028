"""Chat templates: applied once, the token boundary kept, and refused where they would change the prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import GenerationConfig, PreTrainedTokenizerFast

from fixtures import BOS, EOS, FP32, llama, policy_of, trainer_of, word_tokenizer
from tropism.engine.chat import chat_mode, set_chat
from tropism.engine.generation import Sampling
from tropism.errors import DataError, ModelError
from tropism.feedback.records import Task
from tropism.language.policy import LanguagePolicy
from tropism.language.rollouts import sample_candidates
from tropism.language.sft import SftSettings, encode_examples, fine_tune
from tropism.runtime.stage import StageRun

TURNS = (
    "{{ '<bos> ' }}{% for m in messages %}{{ {'user': 'w51', 'assistant': 'w52', 'system': 'w53'}[m['role']] }} "
    "{{ m['content'] }} <eos> w54 {% endfor %}{% if add_generation_prompt %}w52 {% endif %}"
)
"""<bos> w53 system <eos> w54 w51 user <eos> w54 w52 answer <eos> w54: the turn ends with EOS and a word behind it."""
CHAT = {"prompt": "user: w1 w2", "messages": [{"role": "user", "content": "w1 w2"}]}
USER, ANSWER, SYSTEM, AFTER = 55, 56, 57, 58


def chatty(template: str | None = TURNS, mode: Any = "auto", model: Any = None) -> LanguagePolicy:
    tokenizer = word_tokenizer()
    set_chat(tokenizer, mode, template)
    return LanguagePolicy(llama() if model is None else model, tokenizer, frozenset({EOS}))


def test_messages_go_through_the_template_once_with_one_bos() -> None:
    policy = chatty()
    assert policy.encode_task(CHAT) == [BOS, USER, 5, 6, EOS, AFTER, ANSWER]
    ends = TemplateProcessing(single="<bos> $A <eos>", special_tokens=[("<bos>", BOS), ("<eos>", EOS)])
    policy.tokenizer.backend_tokenizer.post_processor = ends  # a tokenizer that wraps every text
    assert policy.encode_task(CHAT) == [BOS, USER, 5, 6, EOS, AFTER, ANSWER]
    assert policy.encode_completion("w3", payload=CHAT) == [7, EOS]


def test_what_is_no_chat_stays_as_it_was() -> None:
    plain = {"prompt": "w1 w2"}
    for policy in (chatty(), chatty(None), chatty(mode="never")):
        assert policy.encode_task(plain) == policy.encode_prompt("w1 w2") == [5, 6]
        assert policy.encode_completion("w3", payload=plain) == policy.encode_completion("w3") == [7, EOS]
        assert policy.example("w1", "w2") == policy.example({"prompt": "w1"}, "w2")


def test_always_makes_a_plain_prompt_a_users_message_and_never_shows_messages_as_text() -> None:
    assert chatty(mode="always").encode_task({"prompt": "w1 w2"}) == chatty().encode_task(CHAT)
    assert chatty(mode="always").encode_task(CHAT) == chatty().encode_task(CHAT)
    assert chatty(mode="never").encode_task(CHAT) == chatty().encode_prompt("user: w1 w2")


def test_an_answer_is_what_the_template_writes_behind_the_prompt_up_to_its_end() -> None:
    policy = chatty()
    assert policy.encode_completion("w3 w4", payload=CHAT) == [7, 8, EOS]  # not the word behind it
    assert policy.encode_completion("w3 w4", ended=False, payload=CHAT) == [7, 8]
    assert policy.encode_completion("", payload=CHAT) == [EOS]
    assert policy.encode_completion("", ended=False, payload=CHAT) == []


def test_a_turn_without_an_end_of_sequence_gets_one() -> None:
    policy = chatty(TURNS.replace("<eos> w54", "w54"))
    assert policy.encode_completion("w3", payload=CHAT) == [7, AFTER, EOS]
    assert policy.encode_completion("w3", ended=False, payload=CHAT) == [7]


def test_every_eos_id_ends_the_turn() -> None:
    """A model whose turns end with a token of their own (as Gemma's and Llama 3's do): the suffix ends there."""
    policy = LanguagePolicy(llama(), chatty(TURNS.replace("<eos>", "w59 <eos>")).tokenizer, frozenset({EOS, 63}))
    assert policy.encode_completion("w3", payload=CHAT) == [7, 63]


def test_several_turns_and_a_turn_that_goes_on() -> None:
    messages = [
        {"role": "system", "content": "w9"},
        {"role": "user", "content": "w1"},
        {"role": "assistant", "content": "w2"},
    ]
    policy = chatty()
    asked = policy.encode_task({"prompt": "", "messages": [*messages, {"role": "user", "content": "w3"}]})
    assert asked[:5] == [BOS, SYSTEM, 13, EOS, AFTER]
    assert asked[-1] == ANSWER
    begun = {"prompt": "", "messages": messages}  # the last message is the assistant's: its turn stays open
    assert policy.encode_task(begun)[-2:] == [ANSWER, 6]
    assert policy.encode_completion(" w3", payload=begun) == [7, EOS]


def test_trap_20_a_template_that_changes_the_prompt_is_refused() -> None:
    thinks = TURNS.replace("w52 {% endif %}", "w52 w40 {% endif %}")  # opens a thought that the history does not show
    with pytest.raises(DataError, match=r"changes the prompt .*'40 ' becomes '3") as caught:
        chatty(thinks).encode_completion("w3", payload=CHAT)
    assert "model.chat_template" in caught.value.fix


def test_trap_20_a_token_across_the_boundary_is_not_merged() -> None:
    """Encoded as a whole, prompt and answer would share a token; the answer keeps to what is sampled behind a
    prompt."""
    policy = chatty(
        TURNS.replace("w52 {% endif %}", "w5{% endif %}").replace("'assistant': 'w52'", "'assistant': 'w5'")
    )
    policy.tokenizer.chat_template = policy.tokenizer.chat_template.replace(" {{ m['content'] }}", "{{ m['content'] }}")
    payload = {"prompt": "", "messages": [{"role": "user", "content": " w1"}]}
    prompt = policy.encode_task(payload)
    assert prompt[-1] == 9  # w5
    assert policy.encode_completion("2", payload=payload) == [3, EOS]  # "2" is unknown; merged it would be w52
    assert policy.encode_task(payload) == prompt


def test_merged_tokens_inside_the_answer_are_those_of_the_whole() -> None:
    """Where the boundary is kept, the answer has the ids that the whole conversation gives it."""
    policy = chatty()
    policy.tokenizer.add_tokens([AddedToken("w3 w4", normalized=False)])
    whole = policy.tokenizer.apply_chat_template(
        [*CHAT["messages"], {"role": "assistant", "content": "w3 w4"}],
        tokenize=False,  # type: ignore[misc]
    )
    ids = policy.tokenizer(whole, add_special_tokens=False)["input_ids"]
    made = policy.encode_task(CHAT) + policy.encode_completion("w3 w4", payload=CHAT)
    assert made == ids[: len(made)]
    assert made[-2] == 64


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BRACKETS = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token if loop.first }}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)


def merging(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer as models have them: byte-level BPE, or BPE on words that carry their space."""
    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    byte_level = kind == "bytes"
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False) if byte_level else pre_tokenizers.Metaspace()
    inner.decoder = decoders.ByteLevel() if byte_level else decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if byte_level else ["\n", "[", "/", "]"],
        show_progress=False,
    )
    inner.train_from_iterator(["how are you user assistant fine thanks INST"] * 9, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["bytes", "spaces"])
@pytest.mark.parametrize(("template", "ends"), [(CHATML, "<|im_end|>"), (BRACKETS, "</s>")])
def test_prompt_and_answer_are_the_ids_of_the_whole_conversation(kind: str, template: str, ends: str) -> None:
    """Two templates in wide use, two kinds of tokenizers: what SFT trains is what the model's own template writes, and
    what a policy samples behind the prompt decodes to the answer."""
    tokenizer = merging(kind)
    policy = LanguagePolicy(llama(vocab_size=len(tokenizer)), tokenizer, frozenset({2})).with_chat("auto", template)
    payload = {"prompt": "", "messages": [{"role": "user", "content": "how are you"}]}
    asked, answered = policy.pair(payload, "fine thanks")
    given = [*payload["messages"], {"role": "assistant", "content": "fine thanks"}]  # type: ignore[misc]
    whole = tokenizer.apply_chat_template(given, tokenize=True)["input_ids"]
    assert [*asked, *answered] == whole[: len(asked) + len(answered)]
    assert tokenizer.convert_ids_to_tokens(answered[-1]) == ends
    assert answered[-1] in policy.eos
    assert policy.encode_completion("fine thanks", ended=False, payload=payload) == answered[:-1]
    assert policy.decode(answered).strip() == "fine thanks"
    assert whole.count(1) == (template == BRACKETS)


def test_messages_without_a_template_name_the_fix() -> None:
    with pytest.raises(ModelError, match="a chat of 1 messages, and the tokenizer has no chat template") as caught:
        chatty(None).encode_task(CHAT)
    assert "model.chat_template" in caught.value.fix


@pytest.mark.parametrize("messages", [["hello"], [{"role": "user"}], [{"content": "w1"}], "w1 w2", {"role": "user"}])
def test_messages_of_another_form_are_named(messages: Any) -> None:
    with pytest.raises(DataError, match="messages are"):
        chatty().encode_task({"prompt": "w1", "messages": messages})


@pytest.mark.parametrize(
    "template", ["{% for m in %}", "{{ raise_exception('roles must alternate') }}", "{{ messages[0]['content'] + 1 }}"]
)
def test_a_template_that_fails_is_named_with_the_roles(template: str) -> None:
    with pytest.raises(DataError, match="the chat template refuses messages of the roles user"):
        chatty(template).encode_task(CHAT)


def test_a_template_cannot_reach_python() -> None:
    with pytest.raises(DataError):
        chatty("{{ messages.__class__.__mro__[1].__subclasses__() }}").encode_task(CHAT)


@pytest.mark.parametrize("mode", ["auto", "always", "never"])
def test_template_and_mode_are_saved_with_the_policy(tmp_path: Path, mode: Any) -> None:
    policy = chatty(mode=mode)
    policy.save(tmp_path / "m", {})
    loaded = LanguagePolicy.load(tmp_path / "m")
    assert chat_mode(loaded.tokenizer) == mode
    for payload in (CHAT, {"prompt": "w1"}):
        assert loaded.encode_task(payload) == policy.encode_task(payload)
    policy_of(llama()).save(tmp_path / "plain", {})
    assert "tropism_chat" not in (tmp_path / "plain" / "tokenizer_config.json").read_text()


def test_a_mode_that_does_not_exist_is_named() -> None:
    policy = chatty()
    policy.tokenizer.init_kwargs["tropism_chat"] = "often"
    with pytest.raises(ModelError, match="'often'"):
        policy.encode_task(CHAT)


def test_sft_trains_the_answer_alone(tmp_path: Path) -> None:
    policy = chatty(model=llama(scale=0.1))
    example = policy.example(CHAT, "w3 w4")
    rows = encode_examples([example, policy.example("w1", "w2")], policy.tokenizer, EOS, 64)
    assert rows.tokens[0].tolist() == [*policy.encode_task(CHAT), 7, 8, EOS]
    assert rows.tokens[0][rows.trained[0]].tolist() == [7, 8, EOS]
    assert rows.tokens[1][rows.trained[1]].tolist() == [6, EOS]
    settings = SftSettings(steps=30, batch_size=4, learning_rate=1e-2, warmup_steps=0)
    fine_tune(policy.model, policy.tokenizer, [example] * 4, settings, StageRun("s", tmp_path, 0))
    answers = sample_candidates(policy, "p", [Task("train", CHAT)], 1, Sampling(4, policy.eos, 0.0), 0, FP32)
    assert answers[0][0].content == {"text": "w3 w4", "tokens": [7, 8, EOS], "stop": "eos"}


def test_a_long_chat_loses_its_left_and_keeps_its_answer() -> None:
    policy = chatty()
    long = {"prompt": "", "messages": [{"role": "user", "content": "w1 " * 40}]}
    rows = encode_examples([policy.example(long, "w3")], policy.tokenizer, EOS, 16)
    assert rows.cut == 1
    assert rows.tokens[0].tolist() == [BOS, *([5] * 10), EOS, AFTER, ANSWER, 7, EOS]


def test_ppo_samples_behind_the_rendered_prompt(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, steps=1)
    set_chat(trainer.policy.tokenizer, "always", TURNS)
    trainer.tasks = [Task("train", {**CHAT, "number": i}) for i in range(16)]
    rollout = trainer.sample(list(trainer.tasks))
    assert rollout.generation.prompts == [[BOS, USER, 5, 6, EOS, AFTER, ANSWER]] * 16
    trainer.step()
    assert torch.isfinite(trainer.actor.value_head.weight).all()


def test_what_ends_a_turn_ends_a_completion(tmp_path: Path) -> None:
    """A template that closes turns with a special token of its own, which neither config nor tokenizer calls an EOS: it
    is one, after loading, and in the saved generation config, so that plain transformers stops there too."""
    tokenizer = word_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["w59"]})
    policy = LanguagePolicy(llama(), tokenizer, frozenset({EOS})).with_chat(None, TURNS.replace("<eos>", "w59"))
    assert policy.eos == {EOS, 63}
    assert policy.encode_completion("w3", payload=CHAT) == [7, 63]
    policy.save(tmp_path / "m", {})
    loaded = LanguagePolicy.load(tmp_path / "m")
    assert loaded.eos == {EOS, 63}
    assert GenerationConfig.from_pretrained(tmp_path / "m").eos_token_id == [EOS, 63]
    assert loaded.with_chat("never").eos == {EOS, 63}  # it was saved as one


@pytest.mark.parametrize(
    ("template", "mode"),
    [
        (TURNS, "auto"),  # ends with the EOS itself
        (TURNS.replace("<eos> w54", "w54"), "auto"),  # ends with an ordinary word
        ("{{ raise_exception('no') }}", "auto"),
        (TURNS.replace("<eos>", "<unk>"), "never"),
        (None, "auto"),
    ],
)
def test_only_a_special_token_behind_the_answer_ends_a_turn(template: str | None, mode: Any) -> None:
    assert policy_of(llama()).with_chat(mode, template).eos == {EOS}
