"""Trains SASRec (Kang and McAuley, 2018) in PyTorch with a softmax over all items, and says what it is worth and
how long an epoch takes: a second implementation beside `llmbs baseline sasrec`.

    sasrec_torch.py INTER.json [EPOCHS] [DIM] [BLOCKS] [THREADS]

INTER.json maps users to item ids in time order. The last item of a user is the test target, the one before it the
validation target. All items are ranked, from a history of at most 20. The model of the best validation NDCG@10
counts. The last line is JSON: the test metrics with the user's own items ranked and without them."""
import json
import math
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

HISTORY, HEADS, BATCH, SCORED = 20, 2, 256, 1024
EMBEDDING_DROPOUT, DROPOUT = 0.4, 0.2
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.01
PAD = 0


class Block(nn.Module):
    """Attention to what came before, then a feed-forward layer; norms stand before the branches."""

    def __init__(self, dim):
        super().__init__()
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU(), nn.Dropout(DROPOUT), nn.Linear(4 * dim, dim))
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x):
        # (batch, seq, dim) -> three of (batch, heads, seq, head_dim)
        batch, seq, dim = x.shape
        parts = self.qkv(self.attention_norm(x)).view(batch, seq, 3, HEADS, dim // HEADS)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, dropout_p=DROPOUT if self.training else 0.0)
        x = x + self.dropout(self.out(mixed.transpose(1, 2).reshape(batch, seq, dim)))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class SasRec(nn.Module):
    """Scores items by the product of the last state and the item's embedding. Item i has row i + 1."""

    def __init__(self, num_items, dim, blocks):
        super().__init__()
        self.items = nn.Embedding(num_items + 1, dim, padding_idx=PAD)
        self.positions = nn.Parameter(torch.zeros(HISTORY, dim))
        self.dropout = nn.Dropout(EMBEDDING_DROPOUT)
        self.blocks = nn.Sequential(*(Block(dim) for _ in range(blocks)))
        self.norm = nn.LayerNorm(dim)
        nn.init.normal_(self.items.weight, std=0.02)
        with torch.no_grad():
            self.items.weight[PAD].zero_()

    def states(self, rows):
        """(batch, seq) of rows -> (batch, seq, dim)"""
        return self.norm(self.blocks(self.dropout(self.items(rows) + self.positions)))

    def scores(self, states):
        """A score for every item."""
        return states @ self.items.weight[1:].T


def padded(sequences):
    """The last items of each sequence as embedding rows, the newest last: (sequences, HISTORY)."""
    rows = torch.full((len(sequences), HISTORY), PAD)
    for row, sequence in zip(rows, sequences):
        kept = sequence[-HISTORY:]
        if kept:
            row[-len(kept):] = torch.tensor(kept) + 1
    return rows


def metrics(ranks):
    """Recall and NDCG of the ranks of the targets, from 1."""
    found = {}
    for k in (1, 5, 10, 20):
        inside = (ranks <= k).double()
        found[f"recall@{k}"] = inside.mean().item()
        found[f"ndcg@{k}"] = (inside / torch.log2(ranks.double() + 1)).mean().item()
    return found


@torch.inference_mode()
def evaluate(model, sequences, left_out, exclude_history):
    """Metrics of the item that stands `left_out` places from the end of each sequence."""
    model.eval()
    ranks = []
    for first in range(0, len(sequences), SCORED):
        group = sequences[first : first + SCORED]
        histories = [sequence[:-left_out] for sequence in group]
        targets = torch.tensor([sequence[-left_out] for sequence in group])[:, None]
        scores = model.scores(model.states(padded(histories))[:, -1])
        own = scores.gather(1, targets)
        if exclude_history:
            for row, history in zip(scores, histories):
                row[history] = -math.inf
        # Between equal scores, the smaller item comes first.
        before = (scores > own) | ((scores == own) & (torch.arange(scores.shape[1]) < targets))
        rank = before.sum(1) + 1
        if exclude_history:
            # A target that was taken before is not to be found under this rule.
            taken = [target in history for target, history in zip(targets.flatten().tolist(), histories)]
            rank[torch.tensor(taken)] = scores.shape[1] + 1
        ranks.append(rank)
    model.train()
    return metrics(torch.cat(ranks))


def main():
    given = dict(enumerate(map(int, sys.argv[2:])))
    epochs, dim, blocks, threads = (given.get(place, value) for place, value in enumerate((40, 128, 2, 2)))
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    users = [items for items in json.loads(Path(sys.argv[1]).read_text()).values() if len(items) >= 3]
    # Each item but the last two is a target once, from those before it.
    trained = [items[:-2] for items in users if len(items) >= 4]
    inputs, targets = padded([items[:-1] for items in trained]), padded([items[1:] for items in trained])
    model = SasRec(1 + max(map(max, users)), dim, blocks)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    best, best_epoch, kept = -1.0, 0, None
    for epoch in range(1, epochs + 1):
        start, total = time.perf_counter(), 0.0
        groups = torch.randperm(len(inputs)).split(BATCH)
        for group in groups:
            wanted = targets[group]
            labelled = wanted != PAD
            scores = model.scores(model.states(inputs[group])[labelled])
            loss = functional.cross_entropy(scores, wanted[labelled] - 1)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.item()
        seconds = time.perf_counter() - start
        valid = evaluate(model, users, 2, exclude_history=False)
        if valid["ndcg@10"] > best:
            best, best_epoch = valid["ndcg@10"], epoch
            kept = {name: value.clone() for name, value in model.state_dict().items()}
        print(f"epoch {epoch}: {seconds:.1f} s, loss {total / len(groups):.3f}, validation recall@10 "
              f"{valid['recall@10']:.4f}, ndcg@10 {valid['ndcg@10']:.4f} (best: epoch {best_epoch})", flush=True)
    model.load_state_dict(kept)
    print(json.dumps({
        "epoch": best_epoch,
        "metrics": evaluate(model, users, 1, exclude_history=False),
        "metrics_history_excluded": evaluate(model, users, 1, exclude_history=True),
    }))


main()
