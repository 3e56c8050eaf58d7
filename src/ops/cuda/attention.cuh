// Attention over packed rows (Dao, 2023): tiles of 32 queries by 32 keys, whose scores never leave the chip.
//
// Of each row `rows` has six numbers: where its own keys begin and end, its queries, and its context among `segments`,
// pairs of where one begins and ends. `last` has for each query the last of its row's own keys that it sees. Keys
// marked in `private_keys`, which may be missing, are seen by the query at their own place alone. `tiles` has pairs: a
// row, and which of its queries (or own keys) is the tile's first.

#define TILE 32
#define TILE_THREADS 128
// A thread has 4 queries (or keys) by every 16th column.
#define COLUMNS 16
#define HELD 4

struct RowOf {
    whole own, own_end, queries, queries_end, segments, segments_end;
    __device__ RowOf(const id* rows, id row) {
        rows += 6 * (whole)row;
        own = rows[0], own_end = rows[1], queries = rows[2], queries_end = rows[3];
        segments = rows[4], segments_end = rows[5];
    }
};

// Lines `first` to `end` of one head, `factor` times, in shared memory; zeros beyond.
template <int WIDTH>
__device__ inline void load_tile(
    real* to, const real* from, whole first, whole end, whole stride, whole dim, real factor
) {
    for (int line = threadIdx.x / LANES; line < TILE; line += TILE_THREADS / LANES) {
        for (int column = threadIdx.x % LANES; column < WIDTH; column += LANES) {
            const bool there = first + line < end && column < dim;
            to[line * (WIDTH + 1) + column] = there ? from[(first + line) * stride + column] * factor : (real)0;
        }
    }
}

// The products of the thread's four lines of `a` with its two lines of `b`.
template <int WIDTH>
__device__ inline void multiply_lines(real out[HELD][2], const real* a, const real* b) {
    const int line = threadIdx.x / COLUMNS * HELD, other = threadIdx.x % COLUMNS;
    for (int i = 0; i < HELD; i++) out[i][0] = out[i][1] = 0;
#pragma unroll 8
    for (int d = 0; d < WIDTH; d++) {
        const real b0 = b[other * (WIDTH + 1) + d], b1 = b[(other + COLUMNS) * (WIDTH + 1) + d];
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            const real value = a[(line + i) * (WIDTH + 1) + d];
            out[i][0] += value * b0;
            out[i][1] += value * b1;
        }
    }
}

// Adds the product of `weights` (TILE x TILE) and `lines` to what the thread holds.
template <int WIDTH>
__device__ inline void add_product(real out[HELD][WIDTH / COLUMNS], const real* weights, const real* lines) {
    const int line = threadIdx.x / COLUMNS * HELD, column = threadIdx.x % COLUMNS;
#pragma unroll 4
    for (int k = 0; k < TILE; k++) {
        real weight[HELD];
#pragma unroll
        for (int i = 0; i < HELD; i++) weight[i] = weights[(line + i) * (TILE + 1) + k];
#pragma unroll
        for (int j = 0; j < WIDTH / COLUMNS; j++) {
            const real value = lines[k * (WIDTH + 1) + column + j * COLUMNS];
#pragma unroll
            for (int i = 0; i < HELD; i++) out[i][j] += weight[i] * value;
        }
    }
}

template <int WIDTH>
__device__ inline void store_lines(
    real* to, real held[HELD][WIDTH / COLUMNS], whole first, whole end, whole stride, whole dim, real factor
) {
    const int line = threadIdx.x / COLUMNS * HELD, column = threadIdx.x % COLUMNS;
    for (int i = 0; i < HELD; i++) {
        if (first + line + i >= end) continue;
        for (int j = 0; j < WIDTH / COLUMNS; j++) {
            const int at = column + j * COLUMNS;
            if (at < dim) to[(first + line + i) * stride + at] = held[i][j] * factor;
        }
    }
}

__device__ inline bool sees(whole key, whole place, whole last, const id* private_keys) {
    return place <= last && (!private_keys || !private_keys[key] || place == last);
}

extern __shared__ real shared[];

// A block a tile of queries and head; `totals` gets the logarithm of the summed exponentials, (tokens, heads).
template <int WIDTH>
__device__ inline void attend(
    real* out, real* totals, const real* q, const real* k, const real* v, const id* tiles, const id* rows,
    const id* last, const id* segments, const id* private_keys, whole heads, whole group, whole dim
) {
    real *queries = shared, *keys = queries + TILE * (WIDTH + 1), *values = keys + TILE * (WIDTH + 1);
    real* scores = values + TILE * (WIDTH + 1);
    __shared__ real most[TILE], sums[TILE], fading[TILE];
    const RowOf row(rows, tiles[2 * blockIdx.x]);
    const whole head = blockIdx.y, kv_heads = heads / group, kv_head = head / group;
    const whole first = row.queries + tiles[2 * blockIdx.x + 1];
    const whole end = first + TILE < row.queries_end ? first + TILE : row.queries_end;
    const int lane = threadIdx.x % LANES, line = threadIdx.x / COLUMNS * HELD, column = threadIdx.x % COLUMNS;
    load_tile<WIDTH>(queries, q + head * dim, first, end, heads * dim, dim, 1 / sqrt((real)dim));
    if (threadIdx.x < TILE) most[threadIdx.x] = -INFINITY, sums[threadIdx.x] = 0;
    real held[HELD][WIDTH / COLUMNS] = {};
    for (whole segment = row.segments; segment <= row.segments_end; segment++) {
        const bool own = segment == row.segments_end;
        const whole begin = own ? row.own : segments[2 * segment];
        const whole stop = own ? row.own + last[end - 1] + 1 : segments[2 * segment + 1];
        for (whole key = begin; key < stop; key += TILE) {
            __syncthreads();
            load_tile<WIDTH>(keys, k + kv_head * dim, key, stop, kv_heads * dim, dim, 1);
            load_tile<WIDTH>(values, v + kv_head * dim, key, stop, kv_heads * dim, dim, 1);
            __syncthreads();
            real products[HELD][2];
            multiply_lines<WIDTH>(products, queries, keys);
            for (int i = 0; i < HELD; i++) {
                for (int j = 0; j < 2; j++) {
                    const whole query = first + line + i, at = key + column + j * COLUMNS;
                    bool visible = query < end && at < stop;
                    if (visible && own) visible = sees(at, at - row.own, last[query], private_keys);
                    if (visible && !own) visible = !private_keys || !private_keys[at];
                    scores[(line + i) * (TILE + 1) + column + j * COLUMNS] = visible ? products[i][j] : -INFINITY;
                }
            }
            __syncthreads();
            for (int i = threadIdx.x / LANES; i < TILE; i += TILE_THREADS / LANES) {
                const real score = scores[i * (TILE + 1) + lane], before = most[i];
                const real top = warp_max(score), now = top > before ? top : before;
                const real weight = score == -INFINITY ? (real)0 : exp(score - now);
                const real sum = warp_sum(weight);
                __syncwarp();
                scores[i * (TILE + 1) + lane] = weight;
                if (lane == 0) {
                    fading[i] = before == -INFINITY ? (real)0 : exp(before - now);
                    sums[i] = sums[i] * fading[i] + sum;
                    most[i] = now;
                }
            }
            __syncthreads();
            for (int i = 0; i < HELD; i++) {
                for (int j = 0; j < WIDTH / COLUMNS; j++) held[i][j] *= fading[line + i];
            }
            add_product<WIDTH>(held, scores, values);
        }
    }
    __syncthreads();
    for (int i = 0; i < HELD; i++) {
        for (int j = 0; j < WIDTH / COLUMNS; j++) held[i][j] /= sums[line + i];
    }
    store_lines<WIDTH>(out + head * dim, held, first, end, heads * dim, dim, 1);
    if (totals && threadIdx.x < TILE && first + threadIdx.x < end) {
        totals[(first + threadIdx.x) * heads + head] = most[threadIdx.x] + log(sums[threadIdx.x]);
    }
}

// What each query's gradient and output have in common, (tokens, heads): a warp each.
KERNEL attention_common(real* common, const real* out, const real* grad, whole lines, whole dim) {
    const whole i = thread() / LANES;
    if (i >= lines) return;
    real sum = 0;
    for (whole d = threadIdx.x % LANES; d < dim; d += LANES) sum += out[i * dim + d] * grad[i * dim + d];
    sum = warp_sum(sum);
    if (threadIdx.x % LANES == 0) common[i] = sum;
}

// A block a tile of queries and head, of rows without context.
template <int WIDTH>
__device__ inline void attend_backward_queries(
    real* q_grad, const real* q, const real* k, const real* v, const real* grad, const real* totals,
    const real* common, const id* tiles, const id* rows, const id* last, const id* private_keys, whole heads,
    whole group, whole dim
) {
    real *queries = shared, *grads = queries + TILE * (WIDTH + 1), *keys = grads + TILE * (WIDTH + 1);
    real *values = keys + TILE * (WIDTH + 1), *scores = values + TILE * (WIDTH + 1);
    const RowOf row(rows, tiles[2 * blockIdx.x]);
    const whole head = blockIdx.y, kv_heads = heads / group, kv_head = head / group;
    const whole first = row.queries + tiles[2 * blockIdx.x + 1];
    const whole end = first + TILE < row.queries_end ? first + TILE : row.queries_end;
    const int line = threadIdx.x / COLUMNS * HELD, column = threadIdx.x % COLUMNS;
    const real scale = 1 / sqrt((real)dim);
    load_tile<WIDTH>(queries, q + head * dim, first, end, heads * dim, dim, scale);
    load_tile<WIDTH>(grads, grad + head * dim, first, end, heads * dim, dim, 1);
    real held[HELD][WIDTH / COLUMNS] = {};
    const whole stop = row.own + last[end - 1] + 1;
    for (whole key = row.own; key < stop; key += TILE) {
        __syncthreads();
        load_tile<WIDTH>(keys, k + kv_head * dim, key, stop, kv_heads * dim, dim, 1);
        load_tile<WIDTH>(values, v + kv_head * dim, key, stop, kv_heads * dim, dim, 1);
        __syncthreads();
        real products[HELD][2], changes[HELD][2];
        multiply_lines<WIDTH>(products, queries, keys);
        multiply_lines<WIDTH>(changes, grads, values);
        for (int i = 0; i < HELD; i++) {
            const whole query = first + line + i;
            for (int j = 0; j < 2; j++) {
                const whole at = key + column + j * COLUMNS;
                const bool visible = query < end && at < stop && sees(at, at - row.own, last[query], private_keys);
                real change = 0;
                if (visible) {
                    const real weight = exp(products[i][j] - totals[query * heads + head]);
                    change = weight * (changes[i][j] - common[query * heads + head]);
                }
                scores[(line + i) * (TILE + 1) + column + j * COLUMNS] = change;
            }
        }
        __syncthreads();
        add_product<WIDTH>(held, scores, keys);
    }
    store_lines<WIDTH>(q_grad + head * dim, held, first, end, heads * dim, dim, scale);
}

// A block a tile of keys and key-value head, of rows without context.
template <int WIDTH>
__device__ inline void attend_backward_keys(
    real* k_grad, real* v_grad, const real* q, const real* k, const real* v, const real* grad, const real* totals,
    const real* common, const id* tiles, const id* rows, const id* last, const id* private_keys, whole heads,
    whole group, whole dim
) {
    real *queries = shared, *grads = queries + TILE * (WIDTH + 1), *keys = grads + TILE * (WIDTH + 1);
    real *values = keys + TILE * (WIDTH + 1), *weights = values + TILE * (WIDTH + 1);
    real* scores = weights + TILE * (TILE + 1);
    const RowOf row(rows, tiles[2 * blockIdx.x]);
    const whole kv_head = blockIdx.y, kv_heads = heads / group;
    const whole place = tiles[2 * blockIdx.x + 1], first = row.own + place;
    const whole end = first + TILE < row.own_end ? first + TILE : row.own_end;
    const int line = threadIdx.x / COLUMNS * HELD, column = threadIdx.x % COLUMNS;
    load_tile<WIDTH>(keys, k + kv_head * dim, first, end, kv_heads * dim, dim, 1);
    load_tile<WIDTH>(values, v + kv_head * dim, first, end, kv_heads * dim, dim, 1);
    real of_keys[HELD][WIDTH / COLUMNS] = {}, of_values[HELD][WIDTH / COLUMNS] = {};
    for (whole head = kv_head * group; head < (kv_head + 1) * group; head++) {
        for (whole query = row.queries; query < row.queries_end; query += TILE) {
            const whole stop = query + TILE < row.queries_end ? query + TILE : row.queries_end;
            if (last[stop - 1] < place) continue;
            __syncthreads();
            load_tile<WIDTH>(queries, q + head * dim, query, stop, heads * dim, dim, 1 / sqrt((real)dim));
            load_tile<WIDTH>(grads, grad + head * dim, query, stop, heads * dim, dim, 1);
            __syncthreads();
            real products[HELD][2], changes[HELD][2];
            multiply_lines<WIDTH>(products, keys, queries);
            multiply_lines<WIDTH>(changes, values, grads);
            for (int i = 0; i < HELD; i++) {
                const whole key = first + line + i;
                for (int j = 0; j < 2; j++) {
                    const whole at = query + column + j * COLUMNS;
                    const bool visible = at < stop && key < end && sees(key, key - row.own, last[at], private_keys);
                    real weight = 0, change = 0;
                    if (visible) {
                        weight = exp(products[i][j] - totals[at * heads + head]);
                        change = weight * (changes[i][j] - common[at * heads + head]);
                    }
                    weights[(line + i) * (TILE + 1) + column + j * COLUMNS] = weight;
                    scores[(line + i) * (TILE + 1) + column + j * COLUMNS] = change;
                }
            }
            __syncthreads();
            add_product<WIDTH>(of_values, weights, grads);
            add_product<WIDTH>(of_keys, scores, queries);
        }
    }
    store_lines<WIDTH>(k_grad + kv_head * dim, of_keys, first, end, kv_heads * dim, dim, 1);
    store_lines<WIDTH>(v_grad + kv_head * dim, of_values, first, end, kv_heads * dim, dim, 1);
}

// Heads of up to `WIDTH` values.
#define ATTENTION(WIDTH)                                                                                               \
    KERNEL attention_##WIDTH(                                                                                          \
        real* out, real* totals, const real* q, const real* k, const real* v, const id* tiles, const id* rows,         \
        const id* last, const id* segments, const id* private_keys, whole heads, whole group, whole dim                \
    ) {                                                                                                                \
        attend<WIDTH>(out, totals, q, k, v, tiles, rows, last, segments, private_keys, heads, group, dim);             \
    }                                                                                                                  \
    KERNEL attention_queries_##WIDTH(                                                                                  \
        real* q_grad, const real* q, const real* k, const real* v, const real* grad, const real* totals,               \
        const real* common, const id* tiles, const id* rows, const id* last, const id* private_keys, whole heads,      \
        whole group, whole dim                                                                                         \
    ) {                                                                                                                \
        attend_backward_queries<WIDTH>(                                                                                \
            q_grad, q, k, v, grad, totals, common, tiles, rows, last, private_keys, heads, group, dim                  \
        );                                                                                                             \
    }                                                                                                                  \
    KERNEL attention_keys_##WIDTH(                                                                                     \
        real* k_grad, real* v_grad, const real* q, const real* k, const real* v, const real* grad,                     \
        const real* totals, const real* common, const id* tiles, const id* rows, const id* last,                       \
        const id* private_keys, whole heads, whole group, whole dim                                                    \
    ) {                                                                                                                \
        attend_backward_keys<WIDTH>(                                                                                   \
            k_grad, v_grad, q, k, v, grad, totals, common, tiles, rows, last, private_keys, heads, group, dim          \
        );                                                                                                             \
    }

ATTENTION(64)
ATTENTION(128)

// For rows of few queries, the beams of a search: a warp each query and head, by 32 keys at a time, a lane each.
KERNEL attention_few(
    real* out, const real* q, const real* k, const real* v, const id* row_of, const id* rows, const id* last,
    const id* segments, const id* private_keys, whole tokens, whole heads, whole group, whole dim
) {
    __shared__ real queries[4][128];
    const whole i = thread() / LANES;
    if (i >= tokens * heads) return;
    const int lane = threadIdx.x % LANES;
    real* query = queries[threadIdx.x / LANES];
    const whole token = i / heads, kv_heads = heads / group, kv_head = i % heads / group;
    const real scale = 1 / sqrt((real)dim);
    for (whole d = lane; d < dim; d += LANES) query[d] = q[i * dim + d] * scale;
    __syncwarp();
    const RowOf row(rows, row_of[token]);
    real most = -INFINITY, sum = 0, held[4] = {};
    for (whole segment = row.segments; segment <= row.segments_end; segment++) {
        const bool own = segment == row.segments_end;
        const whole begin = own ? row.own : segments[2 * segment];
        const whole stop = own ? row.own + last[token] + 1 : segments[2 * segment + 1];
        for (whole first = begin; first < stop; first += LANES) {
            const whole key = first + lane;
            bool visible = key < stop;
            if (visible && own) visible = sees(key, key - row.own, last[token], private_keys);
            if (visible && !own) visible = !private_keys || !private_keys[key];
            real score = -INFINITY;
            if (visible) {
                const real* at = k + (key * kv_heads + kv_head) * dim;
                score = 0;
                whole d = 0;
                for (; d + 4 <= dim; d += 4) {
                    score += query[d] * at[d] + query[d + 1] * at[d + 1] + query[d + 2] * at[d + 2] +
                             query[d + 3] * at[d + 3];
                }
                for (; d < dim; d++) score += query[d] * at[d];
            }
            const real top = warp_max(score), now = top > most ? top : most;
            if (now == -INFINITY) continue;
            const real weight = score == -INFINITY ? (real)0 : exp(score - now);
            const real fading = most == -INFINITY ? (real)0 : exp(most - now);
            sum = sum * fading + warp_sum(weight);
            most = now;
            for (int j = 0; j < 4; j++) held[j] *= fading;
            const int there = stop - first < LANES ? stop - first : LANES;
            for (int other = 0; other < there; other++) {
                const real share = __shfl_sync(ALL_LANES, weight, other);
                const real* at = v + ((first + other) * kv_heads + kv_head) * dim;
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    if (lane + j * LANES < dim) held[j] += share * at[lane + j * LANES];
                }
            }
        }
    }
    for (int j = 0; j < 4; j++) {
        if (lane + j * LANES < dim) out[i * dim + lane + j * LANES] = held[j] / sum;
    }
}
