"""Times an epoch of recommenders over item ids in PyTorch: the speed that `llmbs baseline` is held against.

    sequential_torch.py INTER.json NAME [EPOCHS] [THREADS]

INTER.json maps users to item ids in time order; the last two items of each are left out, as in llmbs. NAME is gru4rec,
caser, hgn, sasrec, bert4rec or fdsa. Sizes, loss (a softmax over the step's targets and 64 items drawn) and batches are
those of llmbs' defaults: 256 sequences, here padded to the longest; caser and hgn see the places that are asked alone.
Attributes of fdsa are drawn at random, six an item. The last line is the median of the seconds of an epoch, and the
training targets a second."""
import json
import random
import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional

HISTORY, BATCH, NEGATIVES, DIM, RECENT = 50, 256, 64, 64, 5
ATTRIBUTES, OF_AN_ITEM = 1000, 6


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


NETWORKS = {
    "gru4rec": Gru4Rec, "caser": Caser, "hgn": Hgn, "sasrec": SasRec, "bert4rec": Bert4Rec, "fdsa": Fdsa}


def batch_of(sequences, users, name, mask):
    """Rows with item i as i + 1, zeros before them; targets where there are any, else zeros."""
    asked = [sequences[user][-(HISTORY + 1):] for user in users]
    longest = max(map(len, asked)) - (name != "bert4rec")
    rows, targets = torch.zeros(2, len(users), longest, dtype=torch.long)
    for at, items in enumerate(asked):
        items = torch.tensor(items) + 1
        if name == "bert4rec":
            hidden = torch.rand(len(items)) < 0.3
            hidden[-1] |= not hidden.any()
            rows[at, -len(items):] = torch.where(hidden, mask, items)
            targets[at, -len(items):] = torch.where(hidden, items, 0)
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
            states = network(rows, torch.tensor(users), targets > 0)
            own = targets[targets > 0]
            drawn = torch.randint(1, num_items + 1, (NEGATIVES,))
            candidates, places = torch.unique(torch.cat([own, drawn]), return_inverse=True)
            scores = states @ network.items(candidates).T
            loss = functional.cross_entropy(scores, places[:len(own)])
            adam.zero_grad()
            loss.backward()
            adam.step()
            count += len(own)
        seconds.append(time.perf_counter() - start)
        print(f"epoch {epoch + 1}: loss {loss.item():.4f}, {seconds[-1]:.1f} s")
    median = statistics.median(seconds)
    print(f"{name}: {median:.2f} s an epoch, {count / median:.0f} targets/s")


if __name__ == "__main__":
    main()
