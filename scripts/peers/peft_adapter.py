"""Writes a LoRA of PEFT's own for the model in a Hugging Face folder, drawn and not trained: B is not zero, ranks and
strengths differ by layer. `python peft_adapter.py MODEL OUT`"""
import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

torch.manual_seed(1)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
config = LoraConfig(r=4, lora_alpha=2, lora_dropout=0.1, use_rslora=True, task_type="CAUSAL_LM",
                    target_modules=["q_proj", "v_proj", "o_proj", "down_proj"], init_lora_weights=False,
                    rank_pattern={"o_proj": 2}, alpha_pattern={"layers.1.mlp.down_proj": 4})
get_peft_model(model, config).save_pretrained(sys.argv[2])
