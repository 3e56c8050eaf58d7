// What runs on a GPU. This file is compiled twice, with `real` as float and as double; every parameter is 8 bytes wide:
// an address, a `whole` or a `double`. Sums run in an order that does not depend on timing.

typedef long long whole;
typedef unsigned long long word;
typedef unsigned int id;

#define KERNEL extern "C" __global__ void
#define LANES 32
#define ALL_LANES 0xffffffffu

__device__ inline real warp_sum(real value) {
    for (int gap = LANES / 2; gap > 0; gap /= 2) value += __shfl_xor_sync(ALL_LANES, value, gap);
    return value;
}

__device__ inline real warp_max(real value) {
    for (int gap = LANES / 2; gap > 0; gap /= 2) {
        const real other = __shfl_xor_sync(ALL_LANES, value, gap);
        value = other > value ? other : value;
    }
    return value;
}

// The sum over a block of whole warps, on all of its threads.
__device__ inline real block_sum(real value) {
    __shared__ real parts[LANES];
    const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    value = warp_sum(value);
    if (lane == 0) parts[warp] = value;
    __syncthreads();
    value = warp_sum(lane < blockDim.x / LANES ? parts[lane] : (real)0);
    __syncthreads();
    return value;
}

__device__ inline real block_max(real value) {
    __shared__ real parts[LANES];
    const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    value = warp_max(value);
    if (lane == 0) parts[warp] = value;
    __syncthreads();
    value = warp_max(lane < blockDim.x / LANES ? parts[lane] : parts[0]);
    __syncthreads();
    return value;
}

__device__ inline whole thread() { return (whole)blockIdx.x * blockDim.x + threadIdx.x; }

// ---------------------------------------------------------------------------------------------------------------------
// Root-mean-square normalisation: a block a row.

KERNEL rms_norm(real* y, const real* x, const real* weight, double eps, whole hidden) {
    x += blockIdx.x * hidden;
    y += blockIdx.x * hidden;
    real squares = 0;
    for (whole i = threadIdx.x; i < hidden; i += blockDim.x) squares += x[i] * x[i];
    const real scale = 1 / sqrt(block_sum(squares) / (real)hidden + (real)eps);
    for (whole i = threadIdx.x; i < hidden; i += blockDim.x) y[i] = x[i] * scale * weight[i];
}

// `scales` gets what each row was multiplied by; `x_grad` may be missing.
KERNEL rms_norm_backward(
    real* x_grad, real* scales, const real* x, const real* weight, const real* grad, double eps, whole hidden
) {
    x += blockIdx.x * hidden;
    grad += blockIdx.x * hidden;
    real squares = 0, product = 0;
    for (whole i = threadIdx.x; i < hidden; i += blockDim.x) {
        squares += x[i] * x[i];
        product += weight[i] * grad[i] * x[i];
    }
    const real scale = 1 / sqrt(block_sum(squares) / (real)hidden + (real)eps);
    const real pull = block_sum(product) * scale * scale / (real)hidden;
    if (threadIdx.x == 0) scales[blockIdx.x] = scale;
    if (!x_grad) return;
    x_grad += blockIdx.x * hidden;
    for (whole i = threadIdx.x; i < hidden; i += blockDim.x) x_grad[i] = scale * (weight[i] * grad[i] - x[i] * pull);
}

// The sum down a column of what `value` gives for each row, by eight warps that take every eighth row.
template <typename Value>
__device__ inline void column_sum(real* out, whole first, whole end, whole column, whole width, Value value) {
    __shared__ real parts[8][LANES];
    const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    real sum = 0;
    if (column < width) {
        for (whole row = first + warp; row < end; row += 8) sum += value(row);
    }
    parts[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && column < width) {
        for (int other = 1; other < 8; other++) sum += parts[other][lane];
        out[column] = sum;
    }
}

// Lines of `parts` hold the sums over `size` rows each.
KERNEL rms_norm_weight(
    real* parts, const real* x, const real* grad, const real* scales, whole rows, whole size, whole hidden
) {
    const whole column = (whole)blockIdx.y * LANES + threadIdx.x % LANES;
    const whole first = blockIdx.x * size, end = first + size < rows ? first + size : rows;
    column_sum(parts + blockIdx.x * hidden, first, end, column, hidden, [=](whole row) {
        return grad[row * hidden + column] * x[row * hidden + column] * scales[row];
    });
}

KERNEL sum_rows(real* out, const real* x, whole rows, whole width) {
    const whole column = (whole)blockIdx.x * LANES + threadIdx.x % LANES;
    column_sum(out, 0, rows, column, width, [=](whole row) { return x[row * width + column]; });
}

// ---------------------------------------------------------------------------------------------------------------------
// Element by element: a thread each.

// Pairs of every head turn by the angle of their token; `direction` -1 turns them back.
KERNEL rope(
    real* y, const real* x, const real* cosines, const real* sines, double direction, whole heads, whole half,
    whole pairs
) {
    const whole i = thread();
    if (i >= pairs) return;
    const whole at = i % half, head = i / half, angle = head / heads * half + at;
    const real first = x[2 * half * head + at], second = x[2 * half * head + half + at];
    const real cosine = cosines[angle], sine = sines[angle] * (real)direction;
    y[2 * half * head + at] = first * cosine - second * sine;
    y[2 * half * head + half + at] = second * cosine + first * sine;
}

KERNEL swiglu(real* y, const real* gate, const real* up, whole count) {
    const whole i = thread();
    if (i < count) y[i] = gate[i] / (1 + exp(-gate[i])) * up[i];
}

KERNEL swiglu_backward(
    real* gate_grad, real* up_grad, const real* gate, const real* up, const real* grad, whole count
) {
    const whole i = thread();
    if (i >= count) return;
    const real sigmoid = 1 / (1 + exp(-gate[i]));
    if (gate_grad) gate_grad[i] = grad[i] * up[i] * sigmoid * (1 + gate[i] * (1 - sigmoid));
    if (up_grad) up_grad[i] = grad[i] * gate[i] * sigmoid;
}

// The mask of the CPU's dropout: SplitMix64 of the element's counter.
KERNEL dropout(real* y, const real* x, word key, word threshold, double scale, whole count) {
    const whole i = thread();
    if (i >= count) return;
    word z = key + (word)(i + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    y[i] = (z >> 11) >= threshold ? x[i] * (real)scale : (real)0;
}

// ---------------------------------------------------------------------------------------------------------------------
// Tables and losses.

// The gradient of the rows `ids` of a table: the sum over the lines of `grad` that `order` names from `starts[i]` on.
KERNEL embedding_backward(
    real* total, const real* grad, const id* ids, const id* starts, const id* order, whole hidden
) {
    const whole column = (whole)blockIdx.y * LANES + threadIdx.x % LANES;
    real* out = total + ids[blockIdx.x] * hidden;
    column_sum(out, starts[blockIdx.x], starts[blockIdx.x + 1], column, hidden, [=](whole at) {
        return grad[order[at] * hidden + column];
    });
}

__device__ inline real log_sum_exp(const real* row, whole count) {
    real most = row[0];
    for (whole i = threadIdx.x; i < count; i += blockDim.x) most = row[i] > most ? row[i] : most;
    most = block_max(most);
    real total = 0;
    for (whole i = threadIdx.x; i < count; i += blockDim.x) total += exp(row[i] - most);
    return most + log(block_sum(total));
}

// A block a row.
KERNEL log_sum_exp_rows(real* out, const real* logits, whole count) {
    const real total = log_sum_exp(logits + blockIdx.x * count, count);
    if (threadIdx.x == 0) out[blockIdx.x] = total;
}

KERNEL log_softmax_rows(real* out, const real* logits, whole count) {
    logits += blockIdx.x * count;
    const real total = log_sum_exp(logits, count);
    for (whole i = threadIdx.x; i < count; i += blockDim.x) out[blockIdx.x * count + i] = logits[i] - total;
}

KERNEL row_losses(real* losses, const real* logits, const id* targets, whole count) {
    logits += blockIdx.x * count;
    const real total = log_sum_exp(logits, count);
    if (threadIdx.x == 0) losses[blockIdx.x] = total - logits[targets[blockIdx.x]];
}

// In the place of logits their gradients.
KERNEL row_gradients(real* logits, const id* targets, const real* losses, const real* grad, whole count) {
    logits += blockIdx.x * count;
    const id target = targets[blockIdx.x];
    const real total = losses[blockIdx.x] + logits[target], scale = grad[blockIdx.x];
    __syncthreads();
    for (whole i = threadIdx.x; i < count; i += blockDim.x) {
        logits[i] = scale * (exp(logits[i] - total) - (i == target ? (real)1 : (real)0));
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// AdamW, and the norm of gradients.

KERNEL adamw(
    real* values, real* first, real* second, const real* grad, double scale, double beta1, double beta2, double rate,
    double decay, double eps, double correction1, double correction2, whole count
) {
    const whole i = thread();
    if (i >= count) return;
    const real g = grad[i] * (real)scale, old = values[i];
    const real new1 = (real)beta1 * first[i] + (real)(1 - beta1) * g;
    const real new2 = (real)beta2 * second[i] + (real)(1 - beta2) * (g * g);
    const real root = sqrt(new2 * (real)(1 / correction2));
    values[i] = old - (real)rate * (new1 * (real)(1 / correction1) / (root + (real)eps) + (real)decay * old);
    first[i] = new1;
    second[i] = new2;
}

// A sum a block, over every `gridDim.x`-th part.
KERNEL squares(real* sums, const real* x, whole count) {
    real sum = 0;
    for (whole i = thread(); i < count; i += (whole)gridDim.x * blockDim.x) sum += x[i] * x[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

#include "attention.cuh"
