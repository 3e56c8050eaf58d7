"""Times an optimiser step of a Hugging Face Llama with PEFT adapters of rank 8 on every linear layer.

    torch_lora.py smollm2|llama7b f32|bf16 BATCH SEQ STEPS"""
import sys

import torch
from peft import LoraConfig, get_peft_model

import peer

shape, dtype = sys.argv[1:3]
batch, length, steps = map(int, sys.argv[3:6])
lora = LoraConfig(r=8, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear")
model = get_peft_model(peer.llama(shape), lora).train()
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-5)
inputs = peer.labelled(batch, length)
seconds = peer.timed(lambda: peer.step(model, optimizer, dtype, **inputs), steps)
print(f"lora {shape} {dtype} {batch} x {length}: {batch * length / seconds:.0f} tok/s, "
      f"{seconds * 1000:.0f} ms/step, {peer.peak()}")
