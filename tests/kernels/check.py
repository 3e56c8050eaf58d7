"""Checks the kernels of src/ops/cuda on a machine without a GPU: runs them in f64, thread by thread on a processor, and
holds them against plain formulas.

    python3 tests/kernels/check.py

Needs a C++ compiler (CXX, c++). Where there is a GPU, the operations around them are checked on it as well
(scripts/gpu-check.sh)."""
import ctypes
import math
import os
import pathlib
import random
import re
import struct
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
KERNELS = ROOT / "src/ops/cuda"
NONE = 0
draws = random.Random(1)


def compiled(folder):
    """The kernels as a library, with a way in that takes a kernel by its number."""
    source = (KERNELS / "kernels.cu").read_text()
    source = source.replace('#include "attention.cuh"', (KERNELS / "attention.cuh").read_text())
    # The emulator has it.
    source = source.replace("extern __shared__ real shared[];", "")
    compiler = os.environ.get("CXX", "c++")
    flags = ["-std=c++17", "-Dreal=double", f"-I{ROOT / 'tests/kernels'}"]
    plain = folder / "plain.cpp"
    plain.write_text('#include "emulator.h"\n' + source)
    text = subprocess.run([compiler, *flags, "-E", "-P", plain], check=True, capture_output=True, text=True).stdout
    names, entries = [], []
    for name, parameters in re.findall(r'extern "C" void (\w+)\(([^)]*)\)', text):
        types = [" ".join(p.split()[:-1]) for p in parameters.split(",")]
        values = ", ".join(f"argument<{kind}>(words[{i}])" for i, kind in enumerate(types))
        entries.append(f"static void enter_{name}(const uint64_t* words) {{ {name}({values}); }}\n")
        names.append(name)
    table = ", ".join(f"enter_{name}" for name in names)
    whole = folder / "kernels.cpp"
    whole.write_text(
        '#include "emulator.h"\n' + source + "".join(entries)
        + f"static void (*const entries[])(const uint64_t*) = {{{table}}};\n"
        + 'extern "C" void go_backwards() { backwards = true; }\n'
        + 'extern "C" void launch(unsigned number, const unsigned* sizes, const uint64_t* words) {\n'
        + "    run_kernel(entries[number], sizes, words);\n}\n"
    )
    library = folder / "kernels.so"
    subprocess.run([compiler, *flags, "-O1", "-w", "-fPIC", "-shared", "-o", library, whole], check=True)
    return ctypes.CDLL(str(library)), {name: i for i, name in enumerate(names)}


def reals(values):
    return (ctypes.c_double * len(values))(*values)


def ids(values):
    return (ctypes.c_uint32 * max(1, len(values)))(*values)


def drawn(count):
    return reals([draws.gauss(0, 1) for _ in range(count)])


def unwritten(count):
    return reals([math.nan] * count)


def launch(name, grid, threads, *arguments):
    words = []
    for argument in arguments:
        if isinstance(argument, ctypes.Array):
            words.append(ctypes.addressof(argument))
        elif isinstance(argument, float):
            words.append(struct.unpack("<Q", struct.pack("<d", argument))[0])
        else:
            words.append(argument & (2**64 - 1))
    LIBRARY.launch(NUMBERS[name], (ctypes.c_uint32 * 3)(*grid, threads), (ctypes.c_uint64 * len(words))(*words))
    CALLED.add(name)


def same(what, found, right):
    assert len(found) == len(right), what
    for i, (a, b) in enumerate(zip(found, right)):
        # NaN is equal to nothing.
        assert abs(a - b) <= 1e-11 * max(1.0, abs(b)), f"{what}, element {i}: {a}, not {b}"


def attention(rows, heads, kv_heads, dim, keys, private=(), both_ways=False, trained=True):
    """`rows`: (first query, end), (first own key, end), context."""
    tokens, group = rows[-1][0][1], heads // kv_heads
    q, k, v, grad = drawn(tokens * heads * dim), drawn(keys * kv_heads * dim), drawn(keys * kv_heads * dim), drawn(
        tokens * heads * dim
    )
    last, row_of, sees, numbers, segments = [], [], [], [], []
    query_tiles, key_tiles = [], []
    for i, ((start, end), (own, own_end), context) in enumerate(rows):
        numbers += [own, own_end, start, end, len(segments) // 2]
        segments += [edge for part in context for edge in part]
        numbers.append(len(segments) // 2)
        for at in range(end - start):
            place = own_end - own - 1 if both_ways else own_end - own - (end - start) + at
            last.append(place)
            row_of.append(i)
            seen = [key for part in context for key in range(*part) if key not in private]
            sees.append(seen + [
                own + other for other in range(place + 1) if own + other not in private or other == place
            ])
        query_tiles += [n for first in range(0, end - start, 32) for n in (i, first)]
        key_tiles += [n for first in range(0, own_end - own, 32) for n in (i, first)]
    out, totals = [0.0] * (tokens * heads * dim), [0.0] * (tokens * heads)
    common = [0.0] * (tokens * heads)
    q_grad, k_grad, v_grad = [0.0] * len(q), [0.0] * len(k), [0.0] * len(v)
    for token in range(tokens):
        for head in range(heads):
            line = (token * heads + head) * dim
            of_key = [(key * kv_heads + head // group) * dim for key in sees[token]]
            scores = [sum(q[line + d] * k[at + d] for d in range(dim)) / math.sqrt(dim) for at in of_key]
            top = max(scores)
            total = top + math.log(sum(math.exp(score - top) for score in scores))
            weights = [math.exp(score - total) for score in scores]
            for d in range(dim):
                out[line + d] = sum(weight * v[at + d] for weight, at in zip(weights, of_key))
            both = sum(out[line + d] * grad[line + d] for d in range(dim))
            totals[token * heads + head], common[token * heads + head] = total, both
            for weight, at in zip(weights, of_key):
                change = weight * (sum(grad[line + d] * v[at + d] for d in range(dim)) - both) / math.sqrt(dim)
                for d in range(dim):
                    q_grad[line + d] += change * k[at + d]
                    k_grad[at + d] += change * q[line + d]
                    v_grad[at + d] += weight * grad[line + d]
    flags = ids([int(key in private) for key in range(keys)]) if private else NONE
    tiles, shape = len(query_tiles) // 2, (heads, group, dim)
    numbers, segments, last, row_of = ids(numbers), ids(segments), ids(last), ids(row_of)
    query_tiles, key_tiles = ids(query_tiles), ids(key_tiles)
    warps = -(-tokens * heads // 4)
    found = unwritten(len(out))
    launch("attention_few", (warps, 1), 128, found, q, k, v, row_of, numbers, last, segments, flags, tokens, *shape)
    same("attention of few queries", found, out)
    for width in (64, 128):
        found, kept = unwritten(len(out)), unwritten(len(totals))
        seen = (query_tiles, numbers, last, segments, flags)
        launch(f"attention_{width}", (tiles, heads), 128, found, kept, q, k, v, *seen, *shape)
        same("attention", found, out)
        same("totals", kept, totals)
        if not trained:
            continue
        shared = unwritten(len(common))
        launch("attention_common", (warps, 1), 128, shared, found, grad, tokens * heads, dim)
        same("common", shared, common)
        inputs, seen = (q, k, v, grad, kept, shared), (numbers, last, flags)
        of_q = unwritten(len(q))
        launch(f"attention_queries_{width}", (tiles, heads), 128, of_q, *inputs, query_tiles, *seen, *shape)
        same("gradient of queries", of_q, q_grad)
        # Keys that nobody sees have no tile.
        of_k, of_v = reals([0.0] * len(k)), reals([0.0] * len(v))
        grid = (len(key_tiles) // 2, kv_heads)
        launch(f"attention_keys_{width}", grid, 128, of_k, of_v, *inputs, key_tiles, *seen, *shape)
        same("gradient of keys", of_k, k_grad)
        same("gradient of values", of_v, v_grad)


def check_attention():
    attention([((0, 5), (0, 5), [])], 1, 1, 3, 5)
    attention([((0, 3), (0, 3), []), ((3, 4), (3, 4), []), ((4, 8), (4, 8), [])], 4, 2, 5, 8)
    # Longer than a tile.
    attention([((0, 67), (0, 67), []), ((67, 69), (67, 69), [])], 2, 1, 2, 69)
    attention([((0, 5), (0, 5), []), ((5, 9), (5, 9), [])], 4, 2, 3, 9, private={1, 4, 7})
    attention([((0, 5), (0, 5), []), ((5, 40), (5, 40), [])], 2, 1, 2, 40, both_ways=True)
    attention([((0, 4), (0, 2), []), ((4, 5), (2, 5), []), ((5, 40), (6, 9), [])], 4, 2, 3, 9, both_ways=True)
    # Queries at the last keys alone.
    attention([((0, 1), (4, 5), []), ((1, 36), (11, 46), [])], 2, 1, 33, 46, private=set(range(1, 46, 3)))
    # Earlier keys that rows share.
    beams = [((0, 1), (9, 10), [(0, 4), (5, 6)]), ((1, 2), (10, 11), [(0, 4), (7, 8)]), ((2, 4), (4, 6), [])]
    attention(beams, 4, 2, 5, 12, private={1}, trained=False)
    long = [((0, 2), (90, 92), [(0, 70), (71, 73)]), ((2, 40), (100, 140), [(0, 70)])]
    attention(long, 2, 1, 5, 140, private=set(range(3, 140, 5)), trained=False)


def check_rms_norm():
    rows, hidden, eps, size = 40, 37, 1e-5, 16
    x, weight, grad = drawn(rows * hidden), drawn(hidden), drawn(rows * hidden)
    right, x_right, w_right, scales_right = [], [], [0.0] * hidden, []
    for row in range(rows):
        of_x, of_g = x[row * hidden:][:hidden], grad[row * hidden:][:hidden]
        scale = 1 / math.sqrt(sum(value * value for value in of_x) / hidden + eps)
        scales_right.append(scale)
        right += [value * scale * w for value, w in zip(of_x, weight)]
        pull = sum(w * g * value for w, g, value in zip(weight, of_g, of_x)) * scale * scale / hidden
        x_right += [scale * (w * g - value * pull) for w, g, value in zip(weight, of_g, of_x)]
        for i in range(hidden):
            w_right[i] += of_g[i] * of_x[i] * scale
    y, x_grad, scales = unwritten(len(x)), unwritten(len(x)), unwritten(rows)
    launch("rms_norm", (rows, 1), 64, y, x, weight, eps, hidden)
    same("rms_norm", y, right)
    launch("rms_norm_backward", (rows, 1), 64, x_grad, scales, x, weight, grad, eps, hidden)
    same("gradient through rms_norm", x_grad, x_right)
    launch("rms_norm_backward", (rows, 1), 64, NONE, scales, x, weight, grad, eps, hidden)
    same("scales", scales, scales_right)
    parts, count, w_grad = unwritten(3 * hidden), -(-rows // size), unwritten(hidden)
    launch("rms_norm_weight", (count, 2), 256, parts, x, grad, scales, rows, size, hidden)
    launch("sum_rows", (2, 1), 256, w_grad, parts, count, hidden)
    same("gradient of a norm's weight", w_grad, w_right)


def check_elements():
    tokens, heads, half = 5, 3, 4
    x, cosines, sines = drawn(tokens * heads * 2 * half), drawn(tokens * half), drawn(tokens * half)
    for direction in (1.0, -1.0):
        right = [0.0] * len(x)
        for head in range(tokens * heads):
            for at in range(half):
                cosine, sine = cosines[head // heads * half + at], sines[head // heads * half + at] * direction
                first, second = x[2 * half * head + at], x[2 * half * head + half + at]
                right[2 * half * head + at] = first * cosine - second * sine
                right[2 * half * head + half + at] = second * cosine + first * sine
        y = unwritten(len(x))
        launch("rope", (1, 1), 256, y, x, cosines, sines, direction, heads, half, len(x) // 2)
        same("rope", y, right)
    count = 300
    gate, up, grad = drawn(count), drawn(count), drawn(count)
    sigmoids = [1 / (1 + math.exp(-g)) for g in gate]
    y, gate_grad, up_grad = unwritten(count), unwritten(count), unwritten(count)
    launch("swiglu", (2, 1), 256, y, gate, up, count)
    same("swiglu", y, [g * s * u for g, s, u in zip(gate, sigmoids, up)])
    launch("swiglu_backward", (2, 1), 256, gate_grad, up_grad, gate, up, grad, count)
    same("gradient of gate", gate_grad, [d * u * s * (1 + g * (1 - s)) for d, u, s, g in zip(grad, up, sigmoids, gate)])
    same("gradient of up", up_grad, [d * g * s for d, g, s in zip(grad, gate, sigmoids)])
    key, threshold, mask = 0xD1290B2688B4A2B3, int(0.3 * 2**53), 2**64 - 1
    right = []
    for i, value in enumerate(gate):
        z = (key + (i + 1) * 0x9E3779B97F4A7C15) & mask
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        right.append(value * 2.5 if (z ^ (z >> 31)) >> 11 >= threshold else 0.0)
    launch("dropout", (2, 1), 256, y, gate, key, threshold, 2.5, count)
    same("dropout", y, right)


def check_tables_and_losses():
    hidden = 40
    grad, order, total = drawn(5 * hidden), [0, 2, 4, 1, 3], reals([0.0] * (9 * hidden))
    launch("embedding_backward", (2, 2), 256, total, grad, ids([3, 7]), ids([0, 3, 5]), ids(order), hidden)
    right = [0.0] * len(total)
    for row, lines in ((3, order[:3]), (7, order[3:])):
        for i in range(hidden):
            right[row * hidden + i] = sum(grad[line * hidden + i] for line in lines)
    same("gradient of a table", total, right)
    rows, count, targets = 4, 301, [0, 5, 300, 7]
    logits = reals([10 * draws.gauss(0, 1) for _ in range(rows * count)])
    of_rows = [logits[row * count:][:count] for row in range(rows)]
    sums = [max(row) + math.log(sum(math.exp(value - max(row)) for value in row)) for row in of_rows]
    losses, found, out = unwritten(rows), unwritten(rows), unwritten(rows * count)
    launch("log_sum_exp_rows", (rows, 1), 256, found, logits, count)
    same("log_sum_exp_rows", found, sums)
    launch("log_softmax_rows", (rows, 1), 256, out, logits, count)
    same("log_softmax_rows", out, [value - total for row, total in zip(of_rows, sums) for value in row])
    launch("row_losses", (rows, 1), 256, losses, logits, ids(targets), count)
    same("row_losses", losses, [total - row[t] for total, row, t in zip(sums, of_rows, targets)])
    grad = drawn(rows)
    right = [
        g * (math.exp(value - total) - (i == target))
        for g, row, total, target in zip(grad, of_rows, sums, targets) for i, value in enumerate(row)
    ]
    launch("row_gradients", (rows, 1), 256, logits, ids(targets), losses, grad, count)
    same("row_gradients", logits, right)


def check_optimizer():
    count, scale, betas, rate, decay, eps, corrections = 300, 0.5, (0.9, 0.99), 1e-2, 0.1, 1e-8, (0.3, 0.4)
    values, first, grad = drawn(count), drawn(count), drawn(count)
    second = reals([value * value for value in drawn(count)])
    right = []
    for p, m, v, g in zip(values, first, second, grad):
        m, v = betas[0] * m + (1 - betas[0]) * scale * g, betas[1] * v + (1 - betas[1]) * (scale * g) ** 2
        change = m / corrections[0] / (math.sqrt(v / corrections[1]) + eps) + decay * p
        right.append((p - rate * change, m, v))
    numbers = (scale, *betas, rate, decay, eps, *corrections)
    launch("adamw", (2, 1), 256, values, first, second, grad, *numbers, count)
    for what, found, part in zip(("values", "first moments", "second moments"), (values, first, second), zip(*right)):
        same(what, found, part)
    parts = unwritten(4)
    launch("squares", (4, 1), 64, parts, grad, count)
    same("squares", [sum(parts)], [sum(g * g for g in grad)])


with tempfile.TemporaryDirectory() as folder:
    LIBRARY, NUMBERS = compiled(pathlib.Path(folder))
    CALLED = set()
    checks = (check_attention, check_rms_norm, check_elements, check_tables_and_losses, check_optimizer)
    for check in checks:
        check()
    LIBRARY.go_backwards()
    for check in checks:
        check()
    missed = set(NUMBERS) - CALLED
    if missed:
        sys.exit(f"kernels without a check: {', '.join(sorted(missed))}")
    print(f"{len(NUMBERS)} kernels equal their formulas")
