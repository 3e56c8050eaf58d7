"""Times an optimiser step of Hugging Face's LlamaForCausalLM: forward, backward and AdamW, without clipping.

    torch_train.py tiny|smollm2 f32|bf16 BATCH SEQ STEPS

The loss falls on the second half of each row, as in `llmbs bench train`."""
import sys

import torch

import peer

shape, dtype = sys.argv[1:3]
batch, length, steps = map(int, sys.argv[3:6])
model = peer.llama(shape).train()
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.01)
inputs = peer.labelled(batch, length)
seconds = peer.timed(lambda: peer.step(model, optimizer, dtype, **inputs), steps)
print(f"train {shape} {dtype} {batch} x {length}: {batch * length / seconds:.0f} tok/s, "
      f"{seconds * 1000:.0f} ms/step, {peer.peak()}")
