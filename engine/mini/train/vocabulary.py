"""Makes the small CLIP tokenizer: byte-level BPE in which every word of the vocabulary is one token.

python -m engine.mini.train.vocabulary engine/mini/weights/tokenizer
"""

import argparse
import itertools
import json
from pathlib import Path

from engine.mini.architecture import CONTEXT_LENGTH
from engine.mini.captions import FILLERS, WORDS

BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def byte_alphabet() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in byte order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    extra = iter(range(256, 512))
    return [chr(b) if b in printable else chr(next(extra)) for b in range(256)]


def split_words(words: tuple[str, ...]) -> list[str]:
    """Words as CLIP's pre-tokenizer cuts them: letters run together, digits and signs stand alone."""
    pieces: list[str] = []
    for word in words:
        run = ""
        for char in word.lower():
            if char.isalpha():
                run += char
                continue
            pieces += [run, char] if run else [char]
            run = ""
        pieces += [run] if run else []
    return list(dict.fromkeys(pieces))


def merges_for(words: list[str]) -> list[tuple[str, str]]:
    """Merge rules, in rank order, after which every word is a single token.

    Greedy: the pair that most unfinished words contain goes next. All words see every rule, so no rule can break one.
    """
    states = [[*w[:-1], w[-1] + "</w>"] for w in words]
    rules: list[tuple[str, str]] = []
    while True:
        counts: dict[tuple[str, str], int] = {}
        for state in states:
            for pair in itertools.pairwise(state):
                counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            return rules
        best = max(counts, key=lambda pair: (counts[pair], pair))
        rules.append(best)
        states = [_merged(state, best) for state in states]


def _merged(state: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for piece in state:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return out


def write_tokenizer(folder: Path) -> None:
    """vocab.json, merges.txt and tokenizer_config.json of a CLIPTokenizer."""
    rules = merges_for(split_words(WORDS + FILLERS))
    alphabet = byte_alphabet()
    tokens = [*alphabet, *(a + "</w>" for a in alphabet), *("".join(rule) for rule in rules), BOS, EOS]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(
        json.dumps({t: i for i, t in enumerate(dict.fromkeys(tokens))}, ensure_ascii=False)
    )
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in rules))
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "bos_token": BOS,
        "eos_token": EOS,
        "unk_token": EOS,
        "pad_token": EOS,
        "model_max_length": CONTEXT_LENGTH,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1))


def main() -> None:
    """Command line, see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    write_tokenizer(parser.parse_args().folder)


if __name__ == "__main__":
    main()
