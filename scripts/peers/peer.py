"""What the scripts of this folder share: the shapes of `llmbs bench`, the device, the clock and the memory.

They run on the GPU where PyTorch sees one, else on the CPU. CUDA_VISIBLE_DEVICES= keeps them on the CPU."""
import resource
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# The same as `Shape` in src/bench/mod.rs. SmolLM2-135M and Llama-7B have 1,024 item tokens
# more than their own vocabularies.
SHAPES = {
    "tiny": {
        "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 6,
        "num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": False,
    },
    "smollm2": {
        "vocab_size": 49152 + 1024, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
    },
    "llama7b": {
        "vocab_size": 32000 + 1024, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "tie_word_embeddings": False,
    },
}


def llama(shape):
    """A model of this shape with random weights, the same at every call."""
    torch.manual_seed(0)
    # On the device from the start: a processor takes minutes to draw 6.7 G values.
    with torch.device(DEVICE):
        return LlamaForCausalLM(LlamaConfig(max_position_embeddings=2048, **SHAPES[shape]))


def rounded(dtype):
    """Products in bf16 where that is asked for, over weights in f32."""
    return torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=dtype == "bf16")


def labelled(batch, length):
    """Random tokens, and labels on the second half of each row."""
    ids = torch.randint(0, 4000, (batch, length), device=DEVICE)
    labels = ids.clone()
    labels[:, : length // 2] = -100
    return {"input_ids": ids, "labels": labels}


def step(model, optimizer, dtype, clip=None, **inputs):
    """One optimiser step."""
    with rounded(dtype):
        loss = model(**inputs).loss
    loss.backward()
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def now():
    """Seconds, when the device has done everything asked of it."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(work, times):
    """Mean seconds of `work`, after one call that does not count."""
    work()
    start = now()
    for _ in range(times):
        work()
    return (now() - start) / times


def peak():
    """The most memory that was held: of the device, or resident of this process."""
    if DEVICE == "cuda":
        return f"peak {torch.cuda.max_memory_allocated()} bytes"
    return f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024} bytes"
