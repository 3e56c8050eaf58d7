"""Times one optimiser step of a Hugging Face Llama of SmolLM2's shape with PEFT adapters of rank 8 on every
linear layer, on the CPU. Args: f32|bf16 BATCH SEQ STEPS"""
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

bf16, batch, seq, steps = sys.argv[1] == "bf16", *map(int, sys.argv[2:5])
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=49152 + 1024, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
    num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True))
model = get_peft_model(model, LoraConfig(r=8, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear"))
model.train()
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-5)
ids = torch.randint(0, 4000, (batch, seq))
labels = ids.clone()
labels[:, : seq // 2] = -100


def step():
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        loss = model(input_ids=ids, labels=labels).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


step()
start = time.time()
for _ in range(steps):
    step()
seconds = (time.time() - start) / steps
print(f"lora {sys.argv[1]} {batch} {seq} {batch * seq / seconds:.0f} tok/s, {seconds * 1000:.0f} ms/step")
