"""Times an epoch of recommenders over item ids in PyTorch: the speed that `llmbs baseline` is held against.

    sequential_torch.py INTER.json NAME [EPOCHS] [THREADS]

INTER.json maps users to item ids in time order; the last two items of each are left out, as in llmbs. NAME is gru4rec,
caser, hgn, sasrec, bert4rec, fdsa or s3rec, of which the pre-training is timed: what follows is a sasrec. Sizes, loss (a
softmax over the step's targets and 64 items drawn) and batches are those of llmbs at a width of 64 (--set baseline.NAME.dim=64): 256 sequences, here padded
to the longest; caser and hgn see the places that are asked alone. Attributes are drawn at random, six an item of as many
as the texts of Amazon Beauty have. The last line is the median of the seconds of an epoch, and the training targets a
second, of pre-training the sequences."""
import json
import random
import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional

HISTORY, BATCH, NEGATIVES, DIM, RECENT = 50, 256, 64, 64, 5
ATTRIBUTES, OF_AN_ITEM = 3639, 6


class Gru4Rec(nn.Module):
    def __init__(self, num_items, _):
        super().__init__()
        self.items = nn.Embedding(num_items + 2, DIM)
        self.gru = nn.GRU(DIM, 128, batch_first=True)
        self.output = nn.Linear(128, DIM)

    def forward(self, rows, _, asked):
        return self.output(self.gru(functional.dropout(self.items(rows), 0.3))[0][asked])


def recent(rows, users, asked):
    """The last items at the places that are asked, and whose they are: (places, RECENT), (places)."""
    last = functional.pad(rows, (RECENT - 1, 0)).unfold(1, RECENT, 1)
    return last[asked], users[:, None].expand_as(rows)[asked]


class Caser(nn.Module):
    def __init__(self, num_items, num_users):
        super().__init__()
        self.table = nn.Embedding(num_items + 2, DIM, padding_idx=0)
        self.users = nn.Embedding(num_users, DIM)
        self.horizontal = nn.ModuleList(nn.Conv2d(1, 16, (h, DIM)) for h in range(1, RECENT + 1))
        self.vertical = nn.Conv2d(1, 4, (RECENT, 1))
        self.hidden = nn.Linear(16 * RECENT + 4 * DIM, DIM)
        self.items = nn.Embedding(num_items + 2, 2 * DIM)

    def forward(self, rows, users, asked):
        last, users = recent(rows, users, asked)
        x = self.table(last)[:, None]
        found = [layer(x).relu().squeeze(3).amax(2) for layer in self.horizontal]
        found.append(self.vertical(x).flatten(1))
        found = self.hidden(functional.dropout(torch.cat(found, 1), 0.5)).relu()
        return torch.cat([found, self.users(users)], 1)


class Hgn(nn.Module):
    def __init__(self, num_items, num_users):
        super().__init__()
        self.table = nn.Embedding(num_items + 2, DIM, padding_idx=0)
        self.users = nn.Embedding(num_users, DIM)
        self.of_items, self.of_user = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM, bias=False)
        self.instance, self.instance_user = nn.Linear(DIM, 1, bias=False), nn.Linear(DIM, RECENT, bias=False)
        self.items = nn.Embedding(num_items + 2, DIM)

    def forward(self, rows, users, asked):
        last, users = recent(rows, users, asked)
        user = self.users(users)
        x = functional.dropout(self.table(last), 0.3)
        features = x * torch.sigmoid(self.of_items(x) + self.of_user(user)[:, None])
        gate = torch.sigmoid(self.instance(features).squeeze(2) + self.instance_user(user)) * (last > 0)
        chosen = (features * gate[..., None]).sum(1) / gate.sum(1, keepdim=True).clamp(min=1e-9)
        return user + chosen + x.sum(1)


def encoder(blocks, norm_first, activation):
    layer = nn.TransformerEncoderLayer(DIM, 2, 256, 0.3, activation, batch_first=True, norm_first=norm_first)
    return nn.TransformerEncoder(layer, blocks, enable_nested_tensor=False)


class SasRec(nn.Module):
    BLOCKS = 2

    def __init__(self, num_items, _):
        super().__init__()
        self.items = nn.Embedding(num_items + 2, DIM)
        self.positions = nn.Parameter(torch.zeros(HISTORY + 1, DIM))
        self.encoder, self.norm = encoder(self.BLOCKS, True, "relu"), nn.LayerNorm(DIM)

    def encode(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        x = functional.dropout(x + self.positions[-x.shape[1]:], 0.5)
        return self.norm(self.encoder(x, mask=mask, is_causal=True))

    def forward(self, rows, _, asked):
        return self.encode(self.items(rows))[asked]


class Bert4Rec(nn.Module):
    def __init__(self, num_items, _):
        super().__init__()
        self.items = nn.Embedding(num_items + 2, DIM)
        self.positions = nn.Parameter(torch.zeros(HISTORY + 1, DIM))
        self.encoder, self.norm = encoder(2, False, "gelu"), nn.LayerNorm(DIM)
        self.output = nn.Linear(DIM, DIM)

    def forward(self, rows, _, asked):
        x = functional.dropout(self.norm(self.items(rows) + self.positions[-rows.shape[1]:]), 0.3)
        return functional.gelu(self.output(self.encoder(x, src_key_padding_mask=rows == 0)[asked]))


class Fdsa(SasRec):
    BLOCKS = 1

    def __init__(self, num_items, num_users):
        super().__init__(num_items, num_users)
        self.known = torch.randint(0, ATTRIBUTES, (num_items + 2, OF_AN_ITEM))
        self.attributes, self.weigh = nn.Embedding(ATTRIBUTES, DIM), nn.Linear(DIM, 1)
        self.second, self.second_norm = encoder(1, True, "relu"), nn.LayerNorm(DIM)
        self.output = nn.Linear(2 * DIM, DIM)

    def forward(self, rows, users, asked):
        own = self.attributes(self.known[rows])
        known = (self.weigh(own).softmax(2) * own).sum(2)
        mask = nn.Transformer.generate_square_subsequent_mask(rows.shape[1])
        known = functional.dropout(known + self.positions[-rows.shape[1]:], 0.5)
        known = self.second_norm(self.second(known, mask=mask, is_causal=True))[asked]
        return self.output(torch.cat([super().forward(rows, users, asked), known], 1))


class S3Rec(SasRec):
    def __init__(self, num_items, num_users):
        super().__init__(num_items, num_users)
        self.hidden = num_items + 1
        self.known = torch.randint(0, ATTRIBUTES, (num_items + 2, OF_AN_ITEM))
        self.attributes = nn.Embedding(ATTRIBUTES, DIM)
        self.between = nn.ModuleList(nn.Linear(DIM, DIM, bias=False) for _ in range(4))

    def both_ways(self, rows):
        x = functional.dropout(self.items(rows) + self.positions[-rows.shape[1]:], 0.5)
        return self.norm(self.encoder(x, src_key_padding_mask=rows == 0))

    def attributes_told(self, x, items, between):
        truth = torch.zeros(len(items), ATTRIBUTES).scatter_(1, self.known[items], 1)
        scores = between(x) @ self.attributes.weight.T
        return functional.binary_cross_entropy_with_logits(scores, truth, reduction="sum")

    def loss(self, rows):
        """The summed loss of padded rows: attributes, hidden items, their attributes, and a segment of each row."""
        there = rows > 0
        hidden = there & (torch.rand(rows.shape) < 0.2)
        hidden[:, -1] |= ~hidden.any(1)
        own, seen = rows[hidden], rows[there & ~hidden]
        states = self.both_ways(rows.masked_fill(hidden, self.hidden))[hidden]
        of_attributes, of_items, of_both, of_segments = self.between
        loss = 0.2 * self.attributes_told(self.items(seen), seen, of_attributes)
        loss = loss + self.attributes_told(states, own, of_both)
        others = torch.randint(1, self.hidden, own.shape)
        ahead = (of_items(states) * (self.items(own) - self.items(others))).sum(1)
        loss = loss - functional.logsigmoid(ahead).sum()
        lengths = there.sum(1)
        length = 1 + (torch.rand(len(rows)) * (lengths // 2)).long()
        first = rows.shape[1] - lengths + (torch.rand(len(rows)) * (lengths - length + 1)).long()
        at = torch.arange(rows.shape[1])
        segment = (at >= first[:, None]) & (at < (first + length)[:, None])
        drawn = torch.randint(1, self.hidden, rows.shape)
        hide = torch.full_like(rows, self.hidden)
        around = rows.masked_fill(segment, self.hidden)
        alone = [torch.where(segment, shown, hide) * there for shown in (rows, drawn)]
        around, own, other = (self.both_ways(view)[:, -1] for view in (around, *alone))
        return loss - 0.5 * functional.logsigmoid((of_segments(around) * (own - other)).sum(1)).sum()


NETWORKS = {
    "gru4rec": Gru4Rec, "caser": Caser, "hgn": Hgn, "sasrec": SasRec, "bert4rec": Bert4Rec, "fdsa": Fdsa,
    "s3rec": S3Rec}


def batch_of(sequences, users, name, mask):
    """Rows with item i as i + 1, zeros before them; targets where there are any, else zeros."""
    asked = [sequences[user][-(HISTORY + 1):] for user in users]
    longest = max(map(len, asked)) - (name not in ("bert4rec", "s3rec"))
    rows, targets = torch.zeros(2, len(users), longest, dtype=torch.long)
    for at, items in enumerate(asked):
        items = torch.tensor(items) + 1
        if name == "bert4rec":
            hidden = torch.rand(len(items)) < 0.3
            hidden[-1] |= not hidden.any()
            rows[at, -len(items):] = torch.where(hidden, mask, items)
            targets[at, -len(items):] = torch.where(hidden, items, 0)
        elif name == "s3rec":
            rows[at, -len(items):], targets[at, -len(items) + 1:] = items, items[1:]
        elif len(items) > 1:
            rows[at, -len(items) + 1:], targets[at, -len(items) + 1:] = items[:-1], items[1:]
    return rows, targets


def main():
    path, name = sys.argv[1:3]
    epochs = int(sys.argv[3]) if len(sys.argv) > 3 else 3
    torch.set_num_threads(int(sys.argv[4]) if len(sys.argv) > 4 else torch.get_num_threads())
    torch.manual_seed(1)
    random.seed(1)
    sequences = [items[:-2] for items in json.load(open(path)).values() if len(items) > 3]
    num_items = 1 + max(max(items) for items in sequences)
    network = NETWORKS[name](num_items, len(sequences)).train()
    adam = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    seconds, count = [], 0
    for epoch in range(epochs):
        order = list(range(len(sequences)))
        random.shuffle(order)
        start, count = time.perf_counter(), 0
        for first in range(0, len(order), BATCH):
            users = order[first:first + BATCH]
            rows, targets = batch_of(sequences, users, name, num_items + 1)
            own = targets[targets > 0]
            if name == "s3rec":
                loss = network.loss(rows) / len(own)
            else:
                states = network(rows, torch.tensor(users), targets > 0)
                drawn = torch.randint(1, num_items + 1, (NEGATIVES,))
                candidates, places = torch.unique(torch.cat([own, drawn]), return_inverse=True)
                scores = states @ network.items(candidates).T
                loss = functional.cross_entropy(scores, places[:len(own)])
            adam.zero_grad()
            loss.backward()
            adam.step()
            count += len(users) if name == "s3rec" else len(own)
        seconds.append(time.perf_counter() - start)
        print(f"epoch {epoch + 1}: loss {loss.item():.4f}, {seconds[-1]:.1f} s")
    median = statistics.median(seconds)
    print(f"{name}: {median:.2f} s an epoch, {count / median:.0f} {'sequences' if name == 's3rec' else 'targets'}/s")


if __name__ == "__main__":
    main()
