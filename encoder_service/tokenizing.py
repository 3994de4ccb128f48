"""Text to token ids, as the model's own library does it, and to padded batches.

The Rust tokenizer is called directly: it releases the GIL and costs half of its Python wrapper.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer
from transformers import PreTrainedTokenizerBase

from shoal.errors import ConfigError

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """Token ids of one text, special tokens included; `truncated` where the text was cut."""

    ids: list[int]
    type_ids: list[int]
    truncated: bool

    @property
    def n_tokens(self) -> int:
        """Tokens that a forward pass sees."""
        return len(self.ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddedBatch:
    """Inputs of one pass, each (n, longest) int64; `token_type_ids` where the model reads them."""

    input_ids: Ids
    attention_mask: Ids
    token_type_ids: Ids | None


class TextTokenizer:
    """One tower's tokenizer, with its prompt, joining of titles, truncation and padding."""

    def __init__(
        self,
        pretrained: PreTrainedTokenizerBase,
        *,
        max_tokens: int,
        prompt: str,
        reads_type_ids: bool,
        titles_as_pairs: bool,
    ) -> None:
        if not pretrained.is_fast:
            raise ConfigError(
                f"{pretrained.name_or_path} has no fast tokenizer; save one with a tokenizer.json"
            )
        self._pad_id = pretrained.pad_token_id or 0
        self._pad_type_id = pretrained.pad_token_type_id
        self._pads_left = pretrained.padding_side == "left"
        self._prompt = prompt
        self._reads_type_ids = reads_type_ids
        self._titles_as_pairs = titles_as_pairs
        # a copy of its own: two towers may share a model and differ in their settings
        self._rust: Tokenizer = copy.deepcopy(pretrained.backend_tokenizer)
        self._rust.no_padding()
        self._rust.enable_truncation(max_tokens, direction=pretrained.truncation_side)

    def tokenize(
        self, texts: Sequence[str], titles: Sequence[str] | None = None
    ) -> list[TokenizedText]:
        """Tokens of each text; with titles, of "title text", or of the pair where a model wants it.

        An empty title is none: the text alone.
        """
        inputs = [self._input(text, title) for text, title in
                  zip(texts, titles or [""] * len(texts), strict=True)]  # fmt: skip
        return [_tokenized(encoding) for encoding in self._rust.encode_batch_fast(inputs)]

    def pad(self, batch: Sequence[TokenizedText]) -> PaddedBatch:
        """One rectangle of ids, as wide as the longest text of the batch."""
        width = max(len(text.ids) for text in batch)
        shape = (len(batch), width)
        input_ids = np.full(shape, self._pad_id, dtype=np.int64)
        attention_mask = np.zeros(shape, dtype=np.int64)
        type_ids = np.full(shape, self._pad_type_id, np.int64) if self._reads_type_ids else None
        for row, text in enumerate(batch):
            n_tokens = len(text.ids)
            span = slice(width - n_tokens, width) if self._pads_left else slice(0, n_tokens)
            input_ids[row, span] = text.ids
            attention_mask[row, span] = 1
            if type_ids is not None:
                type_ids[row, span] = text.type_ids
        return PaddedBatch(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=type_ids
        )

    def _input(self, text: str, title: str) -> str | tuple[str, str]:
        if title and self._titles_as_pairs:
            return self._prompt + title, text
        return f"{self._prompt}{title} {text}" if title else self._prompt + text


def _tokenized(encoding: Encoding) -> TokenizedText:
    return TokenizedText(encoding.ids, encoding.type_ids, bool(encoding.overflowing))
