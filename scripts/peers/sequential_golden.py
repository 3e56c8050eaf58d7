"""Writes what recommenders over item ids give for weights drawn here, by PyTorch's own layers: a second implementation
that `src/model/sequential` is held to.

    sequential_golden.py OUT

OUT is a folder: `NAME.safetensors` of each has the weights by the names that llmbs knows, and `scores`, (3, 9), after
the histories below; that of s3rec `loss`, too, of the puzzle below. Needs torch and safetensors."""
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

ITEMS, USERS = 9, 3
# Of users 2, 0 and 1.
HISTORIES = [[1, 2, 3, 4, 1], [6], [8, 0, 8]]
OF_USERS = [2, 0, 1]


def draw(*shape):
    return torch.randn(*shape) * 0.5


def norm(weights, name, x):
    return functional.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-5)


def with_norm(weights, name, width):
    weights[f"{name}.weight"], weights[f"{name}.bias"] = 1 + draw(width), draw(width)


def with_affine(weights, name, out, inputs):
    weights[f"{name}.weight"], weights[f"{name}.bias"] = draw(out, inputs), draw(out)


def affine(weights, name, x):
    return functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def gru4rec():
    """Two layers of nn.GRU; its gates are in the order reset, update, new, as ours are."""
    dim, hidden = 4, 6
    weights = {"items": draw(ITEMS, dim)}
    gru = nn.GRU(dim, hidden, num_layers=2, batch_first=True)
    with torch.no_grad():
        for i in range(2):
            for ours, theirs in [("input", "ih"), ("state", "hh")]:
                with_affine(weights, f"layers.{i}.{ours}", 3 * hidden, dim if (i, ours) == (0, "input") else hidden)
                getattr(gru, f"weight_{theirs}_l{i}").copy_(weights[f"layers.{i}.{ours}.weight"])
                getattr(gru, f"bias_{theirs}_l{i}").copy_(weights[f"layers.{i}.{ours}.bias"])
    with_affine(weights, "output", dim, hidden)
    rows = []
    for history in HISTORIES:
        states, _ = gru(weights["items"][history][None])
        rows.append(affine(weights, "output", states[0, -1]) @ weights["items"].T)
    return weights, torch.stack(rows)


def last(history, table, width):
    """The embeddings of the last items, zeros before them: (width, dim)."""
    x = torch.zeros(width, table.shape[1])
    kept = history[-width:]
    x[width - len(kept):] = table[kept]
    return x


def caser():
    """Convolutions by nn.functional.conv2d over an image of (history, dim)."""
    dim, width, horizontal, vertical = 4, 3, 2, 2
    weights = {"items": draw(ITEMS, dim), "users": draw(USERS, dim)}
    for height in range(1, width + 1):
        with_affine(weights, f"horizontal.{height}", horizontal, height * dim)
    with_affine(weights, "vertical", vertical, width)
    with_affine(weights, "hidden", dim, horizontal * width + vertical * dim)
    with_affine(weights, "output", ITEMS, 2 * dim)
    rows = []
    for user, history in zip(OF_USERS, HISTORIES):
        image = last(history, weights["items"], width)[None, None]
        found = []
        for height in range(1, width + 1):
            kernel = weights[f"horizontal.{height}.weight"].view(horizontal, 1, height, dim)
            answers = functional.conv2d(image, kernel, weights[f"horizontal.{height}.bias"]).relu().squeeze(3)
            found.append(functional.max_pool1d(answers, answers.shape[2]).flatten())
        kernel = weights["vertical.weight"].view(vertical, 1, width, 1)
        sums = functional.conv2d(image, kernel, weights["vertical.bias"])  # (1, vertical, 1, dim)
        found.append(sums[0, :, 0].T.flatten())
        z = affine(weights, "hidden", torch.cat(found)).relu()
        rows.append(affine(weights, "output", torch.cat([z, weights["users"][user]])))
    return weights, torch.stack(rows)


def hgn():
    dim, width = 4, 3
    weights = {
        "items": draw(ITEMS, dim), "users": draw(USERS, dim), "feature.item": draw(dim, dim),
        "feature.user": draw(dim, dim), "feature.bias": draw(dim), "instance.item": draw(1, dim),
        "instance.user": draw(width, dim)}
    with_affine(weights, "output", ITEMS, dim)
    rows = []
    for user, history in zip(OF_USERS, HISTORIES):
        user, kept = weights["users"][user], history[-width:]
        x = last(history, weights["items"], width)
        gate = torch.sigmoid(x @ weights["feature.item"].T + weights["feature.user"] @ user + weights["feature.bias"])
        features = x * gate
        gate = torch.sigmoid(features @ weights["instance.item"][0] + weights["instance.user"] @ user)
        gate[:width - len(kept)] = 0
        state = user + (features * gate[:, None]).sum(0) / gate.sum() + x.sum(0)
        rows.append(affine(weights, "output", state))
    return weights, torch.stack(rows)


def with_block(weights, name, dim, feed_forward):
    for part in ["query", "key", "value", "output"]:
        weights[f"{name}.attention.{part}.weight"] = draw(dim, dim)
    weights[f"{name}.feed-forward.up.weight"] = draw(feed_forward, dim)
    weights[f"{name}.feed-forward.down.weight"] = draw(dim, feed_forward)
    with_norm(weights, f"{name}.attention.norm", dim)
    with_norm(weights, f"{name}.feed-forward.norm", dim)


def heads(x, count):
    """(seq, dim) -> (count, seq, dim / count)"""
    return x.view(len(x), count, -1).transpose(0, 1)


def block(weights, name, x, count, is_causal=True):
    """Attention to what came before, or to all, and a feed-forward layer, norms before them."""
    h = norm(weights, f"{name}.attention.norm", x)
    query, key, value = (heads(h @ weights[f"{name}.attention.{p}.weight"].T, count) for p in ["query", "key", "value"])
    mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=is_causal)
    x = x + mixed.transpose(0, 1).reshape(x.shape) @ weights[f"{name}.attention.output.weight"].T
    h = norm(weights, f"{name}.feed-forward.norm", x)
    h = (h @ weights[f"{name}.feed-forward.up.weight"].T).relu()
    return x + h @ weights[f"{name}.feed-forward.down.weight"].T


def with_encoder(weights, dim, history):
    weights["positions"] = draw(history, dim)
    for i in range(2):
        with_block(weights, f"blocks.{i}", dim, 10)
    with_norm(weights, "norm", dim)


def encode(weights, items, is_causal=True):
    x = weights["items"][items] + weights["positions"][-len(items):]
    for i in range(2):
        x = block(weights, f"blocks.{i}", x, 2, is_causal)
    return norm(weights, "norm", x)


def sasrec():
    dim, history = 6, 5
    weights = {"items": draw(ITEMS, dim)}
    with_encoder(weights, dim, history)
    return weights, torch.stack([encode(weights, items)[-1] @ weights["items"].T for items in HISTORIES])


def bert4rec():
    """Blocks by nn.TransformerEncoderLayer, whose weights are set to ours."""
    dim, history, feed_forward = 6, 6, 10
    weights = {"items": draw(ITEMS + 1, dim), "positions": draw(history, dim), "bias": draw(ITEMS)}
    with_norm(weights, "norm", dim)
    layers = []
    for i in range(2):
        layer = nn.TransformerEncoderLayer(dim, 2, feed_forward, 0.0, activation="gelu", batch_first=True).eval()
        for part in ["query", "key", "value", "output"]:
            with_affine(weights, f"blocks.{i}.attention.{part}", dim, dim)
        with_affine(weights, f"blocks.{i}.feed-forward.up", feed_forward, dim)
        with_affine(weights, f"blocks.{i}.feed-forward.down", dim, feed_forward)
        with_norm(weights, f"blocks.{i}.attention.norm", dim)
        with_norm(weights, f"blocks.{i}.feed-forward.norm", dim)
        with torch.no_grad():
            for kind in ["weight", "bias"]:
                own = {p: weights[f"blocks.{i}.attention.{p}.{kind}"] for p in ["query", "key", "value", "output"]}
                getattr(layer.self_attn, f"in_proj_{kind}").copy_(torch.cat([own["query"], own["key"], own["value"]]))
                getattr(layer.self_attn.out_proj, kind).copy_(own["output"])
                for ours, theirs in [("feed-forward.up", layer.linear1), ("feed-forward.down", layer.linear2),
                                     ("attention.norm", layer.norm1), ("feed-forward.norm", layer.norm2)]:
                    getattr(theirs, kind).copy_(weights[f"blocks.{i}.{ours}.{kind}"])
        layers.append(layer)
    with_affine(weights, "output", dim, dim)
    rows = []
    for items in HISTORIES:
        asked = items + [ITEMS]
        x = norm(weights, "norm", weights["items"][asked] + weights["positions"][-len(asked):])[None]
        for layer in layers:
            x = layer(x)
        state = functional.gelu(affine(weights, "output", x[0, -1]))
        rows.append(state @ weights["items"][:ITEMS].T + weights["bias"])
    return weights, torch.stack(rows)


# What is known of each item; of item 1 nothing.
ATTRIBUTES = [[0, 1], [], [2], [1], [0], [2, 0, 1], [1], [1, 2], [0]]


def fdsa():
    dim, history = 6, 5
    weights = {"items": draw(ITEMS, dim), "attributes": draw(4, dim)}
    with_affine(weights, "attention", 1, dim)
    for stream in ["of-items", "of-attributes"]:
        weights[f"{stream}.positions"] = draw(history, dim)
        with_block(weights, f"{stream}.blocks.0", dim, 10)
        with_norm(weights, f"{stream}.norm", dim)
    with_affine(weights, "output", dim, 2 * dim)
    rows = []
    for items in HISTORIES:
        known = []
        for item in items:
            own = weights["attributes"][ATTRIBUTES[item] or [3]]
            known.append(affine(weights, "attention", own).softmax(0).T @ own)
        states = []
        for stream, x in [("of-items", weights["items"][items]), ("of-attributes", torch.cat(known))]:
            x = block(weights, f"{stream}.blocks.0", x + weights[f"{stream}.positions"][-len(items):], 2)
            states.append(norm(weights, f"{stream}.norm", x)[-1])
        rows.append(affine(weights, "output", torch.cat(states)) @ weights["items"].T)
    return weights, torch.stack(rows)


# Two sequences of which items are hidden, the hidden ones with others in their place, what is seen, and the sequences
# without a segment, with it alone, and with another.
PUZZLE = {
    "rows": [[9, 2, 9], [9, 3]], "hidden": [[1, 4], [7]], "others": [[0, 5], [6]], "seen": [2, 3],
    "without_segments": [[1, 9, 9], [9, 3]], "segments": [[9, 2, 4], [7, 9]], "other_segments": [[9, 8, 0], [5, 9]]}


def s3rec():
    """The four losses of pre-training as the paper has them, by binary_cross_entropy_with_logits and logsigmoid."""
    dim, history = 6, 5
    weights = {"items": draw(ITEMS + 1, dim), "pretraining.attributes": draw(3, dim)}
    with_encoder(weights, dim, history)
    for name in ["attribute", "item", "item-attribute", "segment"]:
        weights[f"pretraining.{name}"] = draw(dim, dim)
    between = {name: weights[f"pretraining.{name}"] for name in ["attribute", "item", "item-attribute", "segment"]}

    def told(state, item, matrix):
        if not ATTRIBUTES[item]:
            return torch.zeros(())
        truth = torch.zeros(3)
        truth[ATTRIBUTES[item]] = 1
        scores = weights["pretraining.attributes"] @ (matrix @ state)
        return functional.binary_cross_entropy_with_logits(scores, truth, reduction="sum")

    def preferred(state, matrix, own, other):
        return -functional.logsigmoid((matrix @ state) @ own - (matrix @ state) @ other)

    loss = sum(0.2 * told(weights["items"][item], item, between["attribute"]) for item in PUZZLE["seen"])
    for row, hidden, others in zip(PUZZLE["rows"], PUZZLE["hidden"], PUZZLE["others"]):
        states = encode(weights, row, is_causal=False)[[at for at, item in enumerate(row) if item == ITEMS]]
        for state, own, other in zip(states, hidden, others):
            loss = loss + preferred(state, between["item"], weights["items"][own], weights["items"][other])
            loss = loss + told(state, own, between["item-attribute"])
    for around, own, other in zip(PUZZLE["without_segments"], PUZZLE["segments"], PUZZLE["other_segments"]):
        around, own, other = (encode(weights, row, is_causal=False)[-1] for row in [around, own, other])
        loss = loss + 0.5 * preferred(around, between["segment"], own, other)
    scores = torch.stack([encode(weights, items)[-1] @ weights["items"][:ITEMS].T for items in HISTORIES])
    return {**weights, "loss": loss / 2}, scores


def main():
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for network in [gru4rec, caser, hgn, sasrec, bert4rec, fdsa, s3rec]:
        torch.manual_seed(7)
        weights, scores = network()
        tensors = {name: value.contiguous() for name, value in weights.items()}
        save_file({**tensors, "scores": scores.detach().contiguous()}, out / f"{network.__name__}.safetensors")


if __name__ == "__main__":
    main()
