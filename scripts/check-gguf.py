"""Holds the GGUF file of `llmbs export --gguf` against the Hugging Face folder beside it.

    python scripts/check-gguf.py FOLDER

FOLDER/model.gguf is read with llama.cpp's own Python package: metadata, vocabulary, names, shapes and values have to
be those of FOLDER/initial. Where the package xllamacpp is there, which has llama.cpp inside, that loads the file, too:
token ids of texts with item tokens, and the log-probabilities of the next token, have to be those of transformers.
Exit code 1 where anything differs. Needs Python 3.11, gguf and safetensors; torch and transformers for the second
part; scripts/check-hf.sh makes all of it."""
import argparse
import importlib
import json
import os
import pathlib
import sys
import urllib.request

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import gguf
import numpy
from safetensors import safe_open

# What rounding may change: of a value by f16, of the largest of 32 values by q8_0.
F16, Q8_0 = 2.0**-10, 1 / 127
# How far llama.cpp's distribution of the next token may be from that of the weights before rounding, in nats, by the
# file's type. llama.cpp rounds what it multiplies the weights by, too.
DIVERGENCE = {"f16": 1e-3, "q8_0": 0.05}
PARTS = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}
faults = []


def check(holds, what):
    print(f"{'ok   ' if holds else 'WRONG'} {what}")
    if not holds:
        faults.append(what)


def hf_name(name):
    fixed = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    name = name.removesuffix(".weight")
    if name in fixed:
        return fixed[name] + ".weight"
    _, layer, part = name.split(".")
    return f"model.layers.{layer}.{PARTS[part]}.weight"


def permuted(weight, heads):
    """As llama.cpp's converter orders the rows of queries and keys."""
    rows = weight.shape[0]
    return weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def weights(folder):
    with safe_open(folder / "initial/model.safetensors", "np") as file:
        return {name: file.get_tensor(name).astype(numpy.float32) for name in file.keys()}


def metadata(reader, config):
    found = {key: field.contents() for key, field in reader.fields.items()}
    heads = config["num_attention_heads"]
    expected = {
        "general.architecture": "llama", "general.quantization_version": 2,
        "llama.block_count": config["num_hidden_layers"], "llama.context_length": config["max_position_embeddings"],
        "llama.embedding_length": config["hidden_size"], "llama.feed_forward_length": config["intermediate_size"],
        "llama.attention.head_count": heads, "llama.attention.head_count_kv": config["num_key_value_heads"],
        "llama.rope.dimension_count": config["head_dim"], "llama.vocab_size": config["vocab_size"],
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.eos_token_id": numpy.ravel(config["eos_token_id"])[0],
    }
    wrong = {key: found.get(key) for key, value in expected.items() if found.get(key) != value}
    check(not wrong, f"{len(expected)} keys {wrong or ''}")
    for key, name in [("llama.rope.freq_base", "rope_theta"),
                      ("llama.attention.layer_norm_rms_epsilon", "rms_norm_eps")]:
        check(numpy.float32(config[name]) == found[key], f"{key} {found[key]:g}")
    return found


def vocabulary(found, folder):
    file = json.loads((folder / "initial/tokenizer.json").read_text())
    ids = dict(file["model"]["vocab"])
    added = {token["content"]: token for token in file["added_tokens"]}
    ids |= {name: token["id"] for name, token in added.items()}
    tokens, kinds = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"]
    wrong = [name for name, id in ids.items() if tokens[id] != name]
    check(not wrong, f"{len(tokens)} tokens by their ids {wrong[:3] or ''}")
    kind = {True: 3, False: 4}
    wrong = [name for name, token in added.items() if kinds[token["id"]] != kind[token["special"]]]
    check(not wrong, f"{len(added)} added tokens, special ones as control {wrong[:3] or ''}")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in file["model"]["merges"]]
    check(found["tokenizer.ggml.merges"] == merges, f"{len(merges)} merges, as {found['tokenizer.ggml.pre']}")


def tensors(reader, config, expected):
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    names, kinds, furthest = set(), {}, 0.0
    for tensor in reader.tensors:
        name = hf_name(tensor.name)
        names.add(name)
        found = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(expected[name].shape)
        weight = expected[name]
        part = tensor.name.split(".")[2] if tensor.name.startswith("blk.") else ""
        weight = permuted(weight, heads[part]) if part in heads else weight
        kinds[tensor.tensor_type.name] = kinds.get(tensor.tensor_type.name, 0) + 1
        if tensor.tensor_type.name == "Q8_0":
            blocks = numpy.abs(weight.reshape(-1, 32)).max(1, keepdims=True)
            bound = numpy.broadcast_to(blocks * Q8_0, (blocks.size, 32)).reshape(weight.shape)
        else:
            bound = numpy.abs(weight) * (0 if tensor.tensor_type.name == "F32" else F16) + 1e-7
        furthest = max(furthest, float((numpy.abs(found - weight) / (bound + 1e-30)).max()))
    check(names == set(expected), f"{len(names)} tensors: {kinds}")
    check(furthest <= 1, f"values at most {furthest:.2f} of what rounding may change")


def in_llama_cpp(path, folder, kind):
    """Ids and log-probabilities by llama.cpp itself."""
    try:
        import xllamacpp
    except ImportError:
        print("     not tried in llama.cpp: xllamacpp is not installed")
        return
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    first_instruction = importlib.import_module("compare-hf-beam").first_instruction
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.port, params.warmup = str(path), 512, 0, False
    params.n_parallel, params.verbosity = 1, 0
    server = xllamacpp.Server(params)

    def ask(what, **request):
        body = json.dumps(request).encode()
        made = urllib.request.Request(f"{server.listening_address}/{what}", body, {"Content-Type": "application/json"})
        return json.load(urllib.request.urlopen(made))

    tokenizer = AutoTokenizer.from_pretrained(folder / "initial")
    model = AutoModelForCausalLM.from_pretrained(folder / "initial", dtype=torch.float32).eval()
    items = json.loads((folder / "index/index.json").read_text())
    history = "".join(token for item in ["3", "14", "15"] for token in items[item])
    texts = [first_instruction(folder) + history, f"What is {''.join(items['0'])}?", f"{history} and then?\n\nHair",
             "A soap, 3.50: it's crème brûlée  for 12"]
    ids = [ask("tokenize", content=text, add_special=True)["tokens"] for text in texts]
    check(ids == [tokenizer(text)["input_ids"] for text in texts], f"llama.cpp: ids of {len(texts)} texts")
    furthest, forced = 0.0, tokenizer.convert_tokens_to_ids(items["0"][0])
    for row in ids:
        # Nothing is told where the text ends or half a letter is written: an item token is forced. What is told are
        # probabilities before that.
        answer = ask("completion", prompt=row, n_predict=1, n_probs=model.config.vocab_size, temperature=0.0,
                     logit_bias=[[forced, 1000.0]])
        found = answer["completion_probabilities"][0]["top_logprobs"]
        with torch.no_grad():
            expected = model(torch.tensor([row])).logits[0, -1].log_softmax(-1)
        ours = torch.full_like(expected, -torch.inf)
        for one in found:
            ours[one["id"]] = one["logprob"]
        # Probabilities that f32 has no number for are missing.
        furthest = max(furthest, (expected.exp() * (expected - ours.clamp(min=-100))).sum().item())
        print(f"     next token {ours.argmax()}, by torch {expected.argmax()}; its probability "
              f"{ours.exp().max():.4f}, by torch {expected.exp().max():.4f}")
    check(furthest < DIVERGENCE[kind], f"llama.cpp: the next token's distribution, at most {furthest:.1e} nats apart")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, metavar="FOLDER")
    folder = parser.parse_args().folder
    path = folder / "model.gguf"
    reader = gguf.GGUFReader(path)
    config = json.loads((folder / "initial/config.json").read_text())
    found = metadata(reader, config)
    kind = {1: "f16", 7: "q8_0"}[found["general.file_type"]]
    print(f"{path}: {kind}, {path.stat().st_size} bytes")
    vocabulary(found, folder)
    tensors(reader, config, weights(folder))
    in_llama_cpp(path, folder, kind)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
