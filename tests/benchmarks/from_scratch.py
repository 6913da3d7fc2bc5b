"""Train a T5 from scratch on DialogSum with `fine_tune`, and compare it with published scores.

This checks the whole training path. In the DialogSum paper's own ROUGE, averaged over three
references, its Transformer trained from scratch scores 35.91 / 8.74 / 33.50 and its LEAD-3
27.50 / 6.81 / 27.31 (Chen et al. 2021, table 4).

    python tests/benchmarks/from_scratch.py path/to/dialogsum --epochs 30

Measured so far, in the same ROUGE:

- A random T5 after 5 epochs (100 seconds on a shared H200): 22.9 / 4.3 / 24.5, against
  26.9 / 6.3 / 26.7 for lead-2. It learned the form of a summary and little of the dialogue.
- The layers of the small world's T5 with a new vocabulary (2.0 million parameters), on two CPU
  cores without AMX:

      python tests/benchmarks/from_scratch.py path/to/dialogsum --body utils/offline/t5 \\
          --vocabulary 4000 --batch-size 32 --learning-rate 2e-3 --precision fp32 --epochs 4.1

  24.5 / 5.0 / 26.3 after 24 minutes. Another 3.5 epochs (12 minutes) from that checkpoint, passed
  as --body, give 26.6 / 5.6 / 27.9. In rouge_score's ROUGE-1 this differs from lead-2 by -0.3
  points [-1.4, 0.8], and in ROUGE-L by 1.2 points [0.3, 2.2]. The validation score was still
  rising. An earlier script with the same steps ran the first part.
"""

import argparse
import io

import pandas as pd
import sentencepiece
import torch
from datasets import Dataset
from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

from utils.data import drop_near_duplicates, first_rows, group_references, load_dialogsum
from utils.finetuning import fine_tune
from utils.generation import generate
from utils.models import load_model
from utils.results import interval_table, judge, percent
from utils.rouge import compare, human_agreement, lead, paper_rouge_scores, rouge_scores

TEMPLATE = "{dialogue}"  # a model trained on one task needs no instruction


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset")
    parser.add_argument("--train-dialogues", type=int, help="(default: all)")
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--body", help="folder of a trained T5 whose layers to start from")
    parser.add_argument("--d-model", type=int, default=512)
    parser.add_argument("--layers", type=int, default=3, help="in the encoder, and in the decoder")
    parser.add_argument("--vocabulary", type=int, default=8000, help="subwords")
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--precision", default="auto", help="fp32 is as fast for a small model")
    parser.add_argument("--output-dir", default="out/from_scratch")
    parser.add_argument("--resume", action="store_true")
    return parser.parse_args()


def make_tokenizer(texts: list[str], size: int) -> T5Tokenizer:
    """Train a Unigram tokenizer of subwords in which each speaker tag is one token."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=written,
        vocab_size=size,
        user_defined_symbols=[f"#Person{n}#" for n in range(1, 8)],
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        max_sentence_length=20_000,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    vocabulary = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(len(pieces))]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, additional_special_tokens=[])


def untrained(tokenizer: T5Tokenizer, d_model: int, layers: int) -> T5ForConditionalGeneration:
    """Make a T5 with random weights."""
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=d_model,
        d_kv=64,
        d_ff=2 * d_model,
        num_layers=layers,
        num_heads=d_model // 64,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    return T5ForConditionalGeneration(config)


@torch.no_grad()
def with_vocabulary(folder: str, tokenizer: T5Tokenizer) -> T5ForConditionalGeneration:
    """Load a trained T5 and give it the vocabulary of another tokenizer.

    The embedding of a new piece is the mean of the old pieces that spell it (Gee et al. 2022, Fast
    Vocabulary Transfer).
    """
    body, old_tokenizer = load_model(folder, "cpu")
    old = body.get_input_embeddings().weight.clone()
    new = old.mean(dim=0).repeat(len(tokenizer), 1)  # for pieces that cannot be spelled
    for number, piece in enumerate(tokenizer.convert_ids_to_tokens(range(len(tokenizer)))):
        if piece in (tokenizer.pad_token, tokenizer.eos_token):
            new[number] = old[number]
            continue
        spelled = old_tokenizer(piece.replace("▁", " "), add_special_tokens=False)["input_ids"]
        if known := [i for i in spelled if i != old_tokenizer.unk_token_id]:
            new[number] = old[known].mean(dim=0)
    body.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    body.get_input_embeddings().weight.copy_(new)
    assert body.get_output_embeddings().weight is body.get_input_embeddings().weight
    return body


def print_scores(texts: dict[str, list[str]], test: Dataset) -> None:
    """Print the scores of two systems, `from scratch` and `lead-2`, and three examples."""
    dialogues, references = list(test["dialogue"]), list(test["summaries"])
    scores = {
        name: pd.concat([rouge_scores(t, references), paper_rouge_scores(t, references)], axis=1)
        for name, t in texts.items()
    }
    table = interval_table(scores | {"human": human_agreement(references)})
    print(percent(table).to_string())
    print(percent(compare(scores["from scratch"], scores["lead-2"])).to_string())
    print(judge(texts["from scratch"], references, dialogues).mean().round(3).to_string())
    for dialogue, text, summaries in zip(
        dialogues[:3], texts["from scratch"][:3], references[:3], strict=True
    ):
        print(f"{dialogue}\n→ {text}\n= {summaries[0]}\n")


def main() -> None:
    """Train, score the summaries of the test split, and print the scores."""
    options = arguments()
    dataset = load_dialogsum(options.dataset)
    train = first_rows(dataset["train"], options.train_dialogues)
    validation = first_rows(drop_near_duplicates(dataset["validation"], dataset["train"]), 100)
    tokenizer = make_tokenizer([*train["dialogue"], *train["summary"]], options.vocabulary)
    torch.manual_seed(0)
    if options.body:
        model = with_vocabulary(options.body, tokenizer)
    else:
        model = untrained(tokenizer, options.d_model, options.layers)
    model.cpu_speedups = True  # as on a model that `load_model` returns
    print(f"{model.num_parameters():,} parameters, vocabulary {len(tokenizer):,}")
    print(f"{len(train):,} train dialogues")
    result = fine_tune(
        model,
        tokenizer,
        train,
        validation,
        "full",
        options.output_dir,
        template=TEMPLATE,
        precision=options.precision,
        max_prompt_tokens=512,
        max_new_tokens=64,
        resume=options.resume,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        logging_steps=100,
    )
    history = result.history.dropna(subset="eval_rouge1")
    print(history[["epoch", "eval_rouge1", "eval_rouge2"]].to_string(index=False))
    print(f"{result.seconds:.0f} s of training")
    test = group_references(dataset["test"])
    prompts = [TEMPLATE.replace("{dialogue}", dialogue) for dialogue in test["dialogue"]]
    summaries = generate(result.model, tokenizer, prompts, max_new_tokens=64)
    leads = [lead(dialogue, 2) for dialogue in test["dialogue"]]
    print_scores({"from scratch": summaries, "lead-2": leads}, test)


if __name__ == "__main__":
    main()
