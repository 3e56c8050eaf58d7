"""Times training on sequence recommendation as LC-Rec lays it out: one padded row for each (history, next item),
in batches of similar length, by a Hugging Face Llama of the shape `tiny`.

    torch_prefix.py INTER.json f32|bf16 BATCH STEPS INSTRUCTION_TOKENS"""
import json
import random
import sys
from pathlib import Path

import torch

import peer

# Tokens of an item, and the most items of a history.
TOKENS, HISTORY = 4, 20

path, dtype = sys.argv[1:3]
batch, steps, instruction = map(int, sys.argv[3:6])
# Lengths of the rows. The last two items are for validation and test; the first has no history.
rows = sorted(
    instruction + TOKENS * min(HISTORY, place) + TOKENS
    for items in json.loads(Path(path).read_text()).values()
    for place in range(1, len(items) - 2)
)
batches = [rows[first : first + batch] for first in range(0, len(rows) - batch + 1, batch)]
random.Random(0).shuffle(batches)
model = peer.llama("tiny").train()
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.01)


def inputs(lengths):
    """Random tokens, padded, with labels on the item that ends each row."""
    places = torch.arange(max(lengths), device=peer.DEVICE)
    ends = torch.tensor(lengths, device=peer.DEVICE)[:, None]
    ids = torch.randint(0, 4000, (len(lengths), max(lengths)), device=peer.DEVICE)
    mask = places < ends
    return {
        "input_ids": ids,
        "attention_mask": mask.long(),
        "labels": ids.masked_fill(~mask | (places < ends - TOKENS), -100),
    }


peer.step(model, optimizer, dtype, clip=1.0, **inputs(batches[-1]))
start = peer.now()
for lengths in batches[:steps]:
    peer.step(model, optimizer, dtype, clip=1.0, **inputs(lengths))
seconds = peer.now() - start
mean = sum(map(sum, batches[:steps])) / (batch * steps)
print(f"prefix {dtype}: {batch * steps / seconds:.1f} targets/s, {mean:.1f} tokens a row, {peer.peak()}")
