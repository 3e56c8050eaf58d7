"""Writes what Hugging Face's T5 gives for weights drawn here: a second implementation that `src/model/sequential/tiger`
is held to.

    tiger_golden.py OUT

OUT is a file: the weights by their names; `scores`, (3, 9), the log-probability of every item's codes after each of
the histories below; `logits`, (3, 3, 18), where the first item is written; `gradient`, that of the embeddings under
the mean loss of items 4, 0 and 7; `buckets.encoder` and `buckets.decoder`, the classes of the ways -150 to 150 from a
query to a key. Needs torch, transformers and safetensors."""
import sys

import torch
from safetensors.torch import save_file
from transformers import T5Config, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention

# Of each item, at levels of 4, 3 and 5 codes.
CODES = [[0, 0, 0], [0, 0, 1], [1, 2, 4], [3, 1, 2], [2, 2, 2], [2, 0, 3], [1, 2, 0], [3, 0, 4], [0, 1, 1]]
FIRST = [0, 4, 7]
START, USER_TOKENS = 12, 5
# Of users 7, 1 and nobody; the second is longer than the rest, and shows ways of more than 32 tokens.
HISTORIES = [[1, 2, 3, 4, 1], [6, 2, 0, 8, 5, 5, 7, 1, 3, 4, 2, 6], [8]]
OF_USERS = [7, 1, None]
TARGETS = [4, 0, 7]


def spelt(item):
    return [first + code for first, code in zip(FIRST, CODES[item])]


def main():
    torch.manual_seed(7)
    config = T5Config(
        vocab_size=START + 1 + USER_TOKENS, d_model=8, d_kv=3, d_ff=10, num_layers=2, num_heads=2, dropout_rate=0.0,
        decoder_start_token_id=START, pad_token_id=START, eos_token_id=None)
    model = T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(torch.randn(value.shape) * 0.5 + (1 if "norm" in name else 0))

    def read(user, items):
        tokens = [token for item in items for token in spelt(item)]
        return torch.tensor([([] if user is None else [START + 1 + user % USER_TOKENS]) + tokens])

    def logits(history, item):
        """One after the other, so that nothing is padded."""
        written = torch.tensor([[START] + spelt(item)[:-1]])
        return model(input_ids=history, decoder_input_ids=written).logits[0]

    histories = [read(user, items) for user, items in zip(OF_USERS, HISTORIES)]
    scores = []
    for history in histories:
        of_items = (logits(history, item).log_softmax(-1) for item in range(len(CODES)))
        scores.append(torch.stack([p[range(3), spelt(item)].sum() for item, p in enumerate(of_items)]))
    losses = [model(input_ids=history, labels=torch.tensor([spelt(item)])).loss
              for history, item in zip(histories, TARGETS)]
    torch.stack(losses).mean().backward()

    ways = torch.arange(-150, 151)
    buckets = {f"buckets.{name}": T5Attention._relative_position_bucket(ways, bidirectional, 32, 128).int()
               for name, bidirectional in [("encoder", True), ("decoder", False)]}
    tensors = {name: value.detach().contiguous() for name, value in model.named_parameters()}
    save_file({**tensors, **buckets, "scores": torch.stack(scores).detach(),
               "logits": torch.stack([logits(history, 0) for history in histories]).detach(),
               "gradient": model.shared.weight.grad.contiguous()}, sys.argv[1])


if __name__ == "__main__":
    main()
