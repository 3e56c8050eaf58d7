"""Times Hugging Face's beam search of width 20 over a random catalogue of 12,101 items of four tokens.

    torch_generate.py tiny|smollm2 f32|bf16 BATCH PROMPT

`generate` is kept to the items by `prefix_allowed_tokens_fn`. Every user has another prompt. One user is
searched for first and does not count."""
import random
import sys

import torch

import peer

# As in src/bench/generate.rs: four levels of 256 codes, and prompts of the tokens before the first item token.
ITEMS, LEVELS, CODES, FIRST_ITEM_TOKEN, BEAM = 12_101, 4, 256, 1000, 20


def catalogue():
    """Which tokens may follow every beginning of an item."""
    draw, items = random.Random(0), set()
    while len(items) < ITEMS:
        items.add(tuple(FIRST_ITEM_TOKEN + CODES * level + draw.randrange(CODES) for level in range(LEVELS)))
    children = {}
    for item in items:
        for end in range(LEVELS):
            children.setdefault(item[:end], set()).add(item[end])
    return {beginning: sorted(tokens) for beginning, tokens in children.items()}


def search(model, children, prompts):
    length = prompts.shape[1]
    return model.generate(
        input_ids=prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=LEVELS,
        num_beams=BEAM,
        num_return_sequences=BEAM,
        do_sample=False,
        length_penalty=0.0,
        eos_token_id=None,
        pad_token_id=0,
        prefix_allowed_tokens_fn=lambda _, ids: children[tuple(ids[length:].tolist())],
    )


def main():
    shape, dtype = sys.argv[1:3]
    batch, length = map(int, sys.argv[3:5])
    model, children = peer.llama(shape).eval(), catalogue()
    if dtype == "bf16":
        model = model.to(torch.bfloat16)
    # An item ends with its last token: there is no end of sequence to wait for.
    model.generation_config.eos_token_id = None
    prompts = torch.randint(0, FIRST_ITEM_TOKEN, (batch, length), device=peer.DEVICE)
    with torch.inference_mode():
        search(model, children, prompts[:1])
        start = peer.now()
        search(model, children, prompts)
        seconds = peer.now() - start
    print(f"generate {shape} {dtype} beam {BEAM}, batch {batch}, prompt {length}: {batch / seconds:.2f} users/s, "
          f"{peer.peak()}")


main()
