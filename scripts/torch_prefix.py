"""Times training on sequence recommendation as LC-Rec lays it out: one padded row for each (history, next item),
batches of similar length, Hugging Face Llama of the shape `tiny` on the CPU.

Args: INTER.json f32|bf16 BATCH STEPS INSTRUCTION_TOKENS; prints targets a second."""
import json
import random
import sys
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

path, bf16 = sys.argv[1], sys.argv[2] == "bf16"
batch, steps, instruction = map(int, sys.argv[3:6])
TOKENS, HISTORY = 4, 20
torch.manual_seed(0)
rows = []
for items in json.load(open(path)).values():
    # The last two are for validation and test; the first has no history.
    rows += [instruction + TOKENS * min(HISTORY, i) + TOKENS for i in range(1, len(items) - 2)]
rows.sort()
batches = [rows[i : i + batch] for i in range(0, len(rows) - batch + 1, batch)]
random.Random(0).shuffle(batches)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=4096, hidden_size=256, intermediate_size=688, num_hidden_layers=6, num_attention_heads=4,
    num_key_value_heads=4, tie_word_embeddings=False))
model.train()
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.01)


def step(lengths):
    width = max(lengths)
    ids = torch.randint(0, 4000, (len(lengths), width))
    mask = torch.tensor([[1] * n + [0] * (width - n) for n in lengths])
    labels = torch.full_like(ids, -100)
    for row, n in enumerate(lengths):
        labels[row, n - TOKENS : n] = ids[row, n - TOKENS : n]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


step(batches[-1])
start = time.time()
for lengths in batches[:steps]:
    step(lengths)
seconds = time.time() - start
mean = sum(map(sum, batches[:steps])) / (batch * steps)
print(f"prefix {sys.argv[2]} {batch * steps / seconds:.1f} targets/s, {mean:.1f} tokens a row")
