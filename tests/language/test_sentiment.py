"""The sentiment world on small corpora made here, in the format of the real ones."""

from __future__ import annotations

import random
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tropism.engine.models import load_policy
from tropism.errors import ConfigError, DataError
from tropism.feedback.records import Judgement
from tropism.feedback.values import parse_value, slot_names
from tropism.language.sft import encode_examples
from tropism.language.worlds.base import ModelSettings
from tropism.language.worlds.sentiment import SentimentWorld, pretraining_windows
from tropism.language.worlds.sentiment_data import read_corpus
from tropism.language.worlds.sentiment_judge import SentimentJudge, centred_threshold
from tropism.reward.dataset import RewardData
from tropism.study.study import Study

GOOD = ["great", "superb", "moving", "brilliant", "tender", "charming"]
BAD = ["dull", "awful", "clumsy", "tedious", "lifeless", "boring"]
OTHER = ["the", "film", "a", "story", "of", "two", "men", "who", "go", "to", "sea", ",", "its", "plot"]


def _text(draw: random.Random, words: int, positive: bool) -> str:
    opinion = GOOD if positive else BAD
    return " ".join(draw.choice(opinion if draw.random() < 0.2 else OTHER) for _ in range(words))


def make_data(folder: Path, reviews: int = 60, sentences: int = 60) -> Path:
    """Both zips with ``reviews`` and ``sentences`` of each label."""
    draw = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "movie_reviews.zip", "w") as archive:
        for label in ("neg", "pos"):
            for i in range(reviews):
                lines = [_text(draw, 12, label == "pos") for _ in range(10)]
                archive.writestr(f"movie_reviews/{label}/cv{i:03d}.txt", " \n".join(lines))
    with zipfile.ZipFile(folder / "sentence_polarity.zip", "w") as archive:
        for label in ("neg", "pos"):
            lines = [_text(draw, 15, label == "pos") for _ in range(sentences)]
            body = "\n".join([*lines, lines[0], " "]) + " caf\xe9\n"
            archive.writestr(f"sentence_polarity/rt-polarity.{label}", body.encode("latin-1"))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "sentiment")


@pytest.fixture(scope="module")
def world(data: Path) -> SentimentWorld:
    return SentimentWorld(data)


def test_corpus_keeps_every_text_once_with_its_label(data: Path) -> None:
    corpus = read_corpus(data)
    assert len(corpus.reviews) == 120
    assert sum(r.positive for r in corpus.reviews) == 60
    assert len(corpus.sentences) == 121  # the doubled first lines are dropped, and so is one of the two "café"
    assert all(any(w in GOOD for w in s.text.split()) <= s.positive for s in corpus.sentences)
    assert len({s.text for s in corpus.sentences}) == 121
    assert {r.split for r in corpus.reviews} == {"train", "validation", "test"}


def test_corpus_is_found_from_above_and_addressed_by_content(data: Path) -> None:
    assert read_corpus(data.parent).digest == read_corpus(data).digest


def test_a_change_of_one_label_changes_the_digest(data: Path, tmp_path: Path) -> None:
    other = make_data(tmp_path / "d", sentences=59)
    assert read_corpus(other).digest != read_corpus(data).digest


def _broken(folder: Path, case: str) -> Path:
    if case == "no folder":
        return folder / "missing"
    make_data(folder, 2, 2)
    if case == "no zip":
        (folder / "sentence_polarity.zip").unlink()
    elif case == "neither zip":
        for path in folder.iterdir():
            path.unlink()
    elif case == "no zip file":
        (folder / "movie_reviews.zip").write_bytes(b"not a zip")
    else:
        with zipfile.ZipFile(folder / "sentence_polarity.zip", "w") as archive:
            archive.writestr("other.txt", "x")
    return folder


@pytest.mark.parametrize(
    ("case", "named"),
    [
        ("no folder", "missing"),
        ("no zip", "sentence_polarity.zip"),
        ("neither zip", "movie_reviews.zip"),
        ("no zip file", "movie_reviews.zip"),
        ("other content", "rt-polarity.neg"),
    ],
)
def test_broken_data_names_the_path_and_the_fix(tmp_path: Path, case: str, named: str) -> None:
    with pytest.raises(DataError) as error:
        read_corpus(_broken(tmp_path / "d", case))
    assert named in error.value.problem
    assert str(tmp_path) in error.value.problem
    assert "nltk_data" in error.value.fix


def test_a_world_without_data_says_how_to_give_it() -> None:
    with pytest.raises(ConfigError, match=r"world\.data"):
        SentimentWorld(None)


def test_held_out_reviews_are_never_trained_on(world: SentimentWorld) -> None:
    seen = " ".join(pretraining_windows(world.corpus, 3))
    for text in (*world.corpus.reviews_of("test"), *world.corpus.sentences_of("validation")):
        words = text.text.split()
        assert " ".join(words[:12]) not in seen
    train = world.corpus.sentences_of("train")[0].text.split()
    assert " ".join(train[2:8]) in seen  # the check can find what is there


def test_openings_are_held_out_and_repeatable(world: SentimentWorld) -> None:
    train, test = world.tasks("train", 1000, 0), world.tasks("test", 1000, 0)
    assert not {t.payload["prompt"] for t in train} & {t.payload["prompt"] for t in test}
    assert [t.id for t in world.tasks("test", 1000, 0)] == [t.id for t in test]
    assert [t.id for t in world.tasks("test", 1000, 1)] != [t.id for t in test]
    assert all(4 <= len(t.payload["prompt"].split()) <= 8 for t in train)
    assert len(world.tasks("train", 5, 0)) == 5


def test_pairs_prefer_the_sentence_that_people_called_positive(world: SentimentWorld) -> None:
    label = {s.text: s.positive for s in world.corpus.sentences}
    rows = world.recorded_feedback("comparison", "train", 1000, 0)
    used = [c.content["text"] for r in rows for c in r.candidates]
    assert len(rows) > 35
    assert len(used) == len(set(used))
    for row in rows:
        value = parse_value("comparison", row.answer.value or {}, slot_names("comparison", 2))
        chosen = row.candidates["ab".index(value.choice)]
        other = row.candidates["ba".index(value.choice)]
        assert label[str(chosen.content["text"])] is True
        assert label[str(other.content["text"])] is False
        assert row.task.split == "train"
    assert {(r.answer.value or {})["choice"] for r in rows} == {"a", "b"}
    assert rows == world.recorded_feedback("comparison", "train", 1000, 0)


def test_ratings_are_people_s_labels(world: SentimentWorld) -> None:
    label = {s.text: s.positive for s in world.corpus.sentences_of("validation")}
    rows = world.recorded_feedback("rating", "validation", 7, 0)
    assert len(rows) == min(7, len(label))
    for row in rows:
        value: Mapping[str, object] = row.answer.value or {}
        parse_value("rating", value, slot_names("rating", 1))
        assert value["score"] == int(label[str(row.candidates[0].content["text"])])


def test_feedback_of_the_test_split_is_refused(world: SentimentWorld) -> None:
    with pytest.raises(ConfigError, match="test"):
        world.recorded_feedback("comparison", "test", 1, 0)


@pytest.mark.parametrize("kind", ["comparison", "rating"])
def test_reward_models_take_both_kinds_of_feedback(world: SentimentWorld, kind: str) -> None:
    judgements = [
        Judgement(f"e{i}", "people", r.query, r.task, r.candidates, r.answer.value or {})
        for split in ("train", "validation")
        for i, r in enumerate(world.recorded_feedback(kind, split, 1000, 0))  # type: ignore[arg-type]
    ]
    data = RewardData.from_judgements(judgements)
    assert len(data) == len(judgements)
    assert not data.dropped
    assert len(data.fold(train=False)) > 0


def test_import_rows_say_what_was_chosen(world: SentimentWorld) -> None:
    label = {s.text: s.positive for s in world.corpus.sentences}
    for row in world.import_rows("train", 20, 0):
        assert label[row["chosen"]]
        assert not label[row["rejected"]]
        assert row["prompt"]


def test_the_model_reads_any_text_and_trains_without_an_end(world: SentimentWorld, tmp_path: Path) -> None:
    world.build(tmp_path, ModelSettings(hidden_size=32, layers=1, heads=2, intermediate_size=64), seed=0)
    model, tokenizer = load_policy(tmp_path)
    text = "naïve £5 — 映画 great film"
    ids = tokenizer(text, add_special_tokens=True)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text
    phase = world.curriculum(0)[0]
    rows = encode_examples(phase.examples, tokenizer, tokenizer.eos_token_id, phase.settings.max_length)
    assert rows.skipped == rows.cut == 0
    assert all(t[0] == tokenizer.bos_token_id and tokenizer.eos_token_id not in t for t in rows.tokens)
    assert all(m[1:].all() and not m[0] for m in rows.trained)
    assert model.config.vocab_size == len(tokenizer)


def test_judge_agrees_with_scikit_learn(world: SentimentWorld) -> None:
    text_features = pytest.importorskip("sklearn.feature_extraction.text")
    linear = pytest.importorskip("sklearn.linear_model")
    texts, labels = [r.text for r in world.corpus.reviews], [r.positive for r in world.corpus.reviews]
    judge = SentimentJudge.fit(texts, labels, min_documents=4, l2=1e-3)
    vectors = text_features.TfidfVectorizer(
        tokenizer=str.split, token_pattern=None, ngram_range=(1, 2), min_df=4, sublinear_tf=True
    )
    rows = vectors.fit_transform(texts)
    oracle = linear.LogisticRegression(C=1 / (1e-3 * len(texts)), max_iter=2000, tol=1e-8).fit(rows, labels)
    probes = [s.text for s in world.corpus.sentences]
    expected = oracle.decision_function(vectors.transform(probes))
    assert np.allclose(judge.score(probes), expected, atol=0.02)
    assert np.corrcoef(judge.score(probes), [s.positive for s in world.corpus.sentences])[0, 1] > 0.8


def test_centred_threshold_halves_the_reference() -> None:
    scores = np.array([-3.0, -1.0, -0.5, 0.2])
    assert float((scores > centred_threshold(scores)).mean()) == 0.5
    with pytest.raises(DataError):
        centred_threshold(np.zeros(0))


def test_judge_refuses_labels_of_one_class() -> None:
    with pytest.raises(DataError, match="1 class"):
        SentimentJudge.fit(["a", "b"], [True, True])


def test_the_judge_is_not_fitted_on_test_reviews(data: Path, tmp_path: Path) -> None:
    world = SentimentWorld(data)
    before = world.judge.score(["a great film"])
    kept = tuple(r for r in world.corpus.reviews if r.split != "test")
    bare = SentimentJudge.fit([r.text for r in kept], [r.positive for r in kept])
    assert np.array_equal(bare.score(["a great film"]), before)


def test_a_kind_of_feedback_that_nobody_gave_is_refused(world: SentimentWorld) -> None:
    with pytest.raises(ConfigError, match="ranking"):
        world.recorded_feedback("ranking", "train", 1, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["comparison", "rating"])
def test_whole_loop_on_people_s_labels(data: Path, tmp_path: Path, kind: str) -> None:
    overrides = [
        f"feedback.kind={kind}",
        f'world.data="{data}"', "world.options.pretraining_steps=3", "world.options.vocabulary=400",
        "model.hidden_size=32", "model.layers=1", "model.heads=2", "model.intermediate_size=64", "reward.epochs=2",
        "reward.members=2", "reward.hidden=8", "reward.scale_samples=8", "ppo.steps=2", "ppo.batch_size=8",
        "ppo.mini_batch_size=8", "evaluation.prompts=8", "sampling.max_new_tokens=6",
    ]  # fmt: skip
    study = Study.create(tmp_path / "study", recipe="sentiment", overrides=overrides)
    study.run()
    status = study.status()
    assert status.finished
    assert sum(status.feedback.values()) > 0
    study.verify()
