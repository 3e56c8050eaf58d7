"""Times steps of TIGER with Hugging Face's T5 in PyTorch: the speed that `llmbs baseline tiger` is held against.

    tiger_torch.py INTER.json [STEPS] [THREADS]

INTER.json maps users to item ids in time order; the last two items of each are left out, as in llmbs. Every item after a
user's first is a target, after the 20 items before it; three codes of 256 an item are drawn at random. Sizes and batches
are those of llmbs' defaults: 256 targets, histories padded to the longest. The last line is the median of the seconds of
a step, and the training targets a second."""
import json
import random
import statistics
import sys
import time

import torch
from transformers import T5Config, T5ForConditionalGeneration

HISTORY, BATCH, LEVELS, CODES = 20, 256, 3, 256
START, PAD = LEVELS * CODES, LEVELS * CODES + 1


def main():
    path = sys.argv[1]
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 20
    torch.set_num_threads(int(sys.argv[3]) if len(sys.argv) > 3 else torch.get_num_threads())
    torch.manual_seed(1)
    random.seed(1)
    sequences = [items[:-2] for items in json.load(open(path)).values()]
    num_items = 1 + max(max(items) for items in sequences if items)
    codes = torch.randint(0, CODES, (num_items, LEVELS)) + CODES * torch.arange(LEVELS)
    lessons = [(items[max(0, at - HISTORY):at], items[at]) for items in sequences for at in range(1, len(items))]
    random.shuffle(lessons)
    config = T5Config(
        vocab_size=PAD + 1, d_model=128, d_kv=32, d_ff=512, num_layers=2, num_heads=4, dropout_rate=0.1,
        decoder_start_token_id=START, pad_token_id=PAD, eos_token_id=None)
    model = T5ForConditionalGeneration(config).train()
    adam = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
    seconds = []
    for step in range(steps):
        start = time.perf_counter()
        batch = lessons[step * BATCH % (len(lessons) - BATCH):][:BATCH]
        longest = max(len(history) for history, _ in batch) * LEVELS
        tokens = torch.full((len(batch), longest), PAD)
        for row, (history, _) in zip(tokens, batch):
            row[:len(history) * LEVELS] = codes[history].flatten()
        labels = codes[[target for _, target in batch]]
        loss = model(input_ids=tokens, attention_mask=(tokens != PAD).long(), labels=labels).loss
        adam.zero_grad()
        loss.backward()
        adam.step()
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    print(f"tiger: loss {loss.item():.4f}, {median:.3f} s a step, {BATCH / median:.0f} targets/s")


if __name__ == "__main__":
    main()
