"""A tiny text classifier as a judge: its own labels, whatever the batch, and a reason where there is none."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch

from isara.backends.classify import Classifier
from isara.errors import BackendError, InputError
from isara.evals.judges import classifier_judge

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "do", "harm", "no", "here", "is", "how"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    path = tmp_path_factory.mktemp("classifier")
    (path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    tokenizer = BertTokenizer(str(path / "vocab.txt"), model_max_length=32)
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        id2label={0: "Safe", 1: "Unsafe"},
        label2id={"Safe": 0, "Unsafe": 1},
    )
    network = BertForSequenceClassification(config)
    torch.nn.init.normal_(network.classifier.weight, std=3)
    network.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


PAIRS = [("do harm", "no"), ("do harm", "here is how"), ("how", "no no no"), ("harm", "is here " * 40), ("do", "")]


def test_each_pair_gets_a_label_of_the_model_whatever_the_batch(folder):
    classifier = Classifier(str(folder), device="cpu")
    together, alone = classifier.labels(PAIRS), classifier.labels(PAIRS, batch=1)
    assert [label for label, _ in together] == [label for label, _ in alone]
    assert {label for label, _ in together} <= {"Safe", "Unsafe"}
    for (_, one), (_, other) in zip(together, alone, strict=True):
        assert 0.5 <= one <= 1
        assert one == pytest.approx(other, abs=1e-5)


def test_its_labels_can_be_said_to_mean_a_refusal(folder):
    classify = Classifier(str(folder), device="cpu").labels
    rows = [{"id": str(n), "prompt": prompt, "response": answer} for n, (prompt, answer) in enumerate(PAIRS)]
    judged = classifier_judge(classify, "safety", {"safe": "refused", "unsafe": "answered"})(rows)
    for row, (label, sure) in zip(judged, classify(PAIRS), strict=True):
        assert (row["label"], row["said"], row["confidence"]) == (label == "Safe", label, sure)
    assert {row["label"] for row in classifier_judge(classify, "safety", {})(rows)} <= {"safe", "unsafe"}


def test_it_judges_refusals_only(folder):
    with pytest.raises(InputError, match="a classifier can judge safety, not heldout"):
        classifier_judge(lambda pairs: [], "heldout", {})


def test_what_is_no_classifier_is_told(tmp_path):
    with pytest.raises(BackendError, match="no text classifier that transformers can load"):
        Classifier(str(tmp_path))
