// CUDA's words for one processor thread: the threads of a block are coroutines that stop where they wait for each other.
// Blocks run one after another, so that what they share may be static.
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

struct Three {
    unsigned x, y, z;
};
static Three threadIdx, blockIdx, blockDim, gridDim;

#define __device__
#define __global__
#define __shared__ static

using std::exp;
using std::log;
using std::sqrt;

enum Waits { NOTHING, WARP, BLOCK, ENDED };

struct Coroutine {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(128 << 10);
    Waits waits = NOTHING;
};
static std::vector<Coroutine> coroutines;
static ucontext_t scheduler;
static unsigned running;
// The last thread of a block goes first.
static bool backwards;
static real lanes[32][32];
// What a launch asks for in bytes; as on a GPU it means nothing when a block begins.
static real shared[1 << 16];

static void wait_for(Waits what) {
    coroutines[running].waits = what;
    swapcontext(&coroutines[running].context, &scheduler);
}
inline void __syncthreads() { wait_for(BLOCK); }
inline void __syncwarp() { wait_for(WARP); }
inline real __shfl_sync(unsigned, real value, int from) {
    const unsigned warp = threadIdx.x / 32;
    lanes[warp][threadIdx.x % 32] = value;
    __syncwarp();
    value = lanes[warp][from];
    __syncwarp();
    return value;
}
inline real __shfl_xor_sync(unsigned all, real value, int gap) {
    return __shfl_sync(all, value, (threadIdx.x % 32) ^ gap);
}

static void (*kernel)(const uint64_t*);
static const uint64_t* arguments;
static void run_thread() {
    kernel(arguments);
    wait_for(ENDED);
}

// Lets those go on from `first` to `end` that wait for `what`, if all do that have not ended.
static bool release(unsigned first, unsigned end, Waits what) {
    bool any = false;
    for (unsigned i = first; i < end; i++) {
        if (coroutines[i].waits != what && coroutines[i].waits != ENDED) return false;
        any |= coroutines[i].waits == what;
    }
    for (unsigned i = first; any && i < end; i++) {
        if (coroutines[i].waits == what) coroutines[i].waits = NOTHING;
    }
    return any;
}

// A warp goes as far as it can before the next begins: a barrier of the block that is not there, or not for all, shows in
// one order or the other.
static void run_warp(unsigned first, unsigned count) {
    const unsigned end = first + 32 < count ? first + 32 : count;
    do {
        for (unsigned i = first; i < end; i++) {
            running = backwards ? first + end - 1 - i : i;
            if (coroutines[running].waits != NOTHING) continue;
            threadIdx = {running, 0, 0};
            swapcontext(&scheduler, &coroutines[running].context);
        }
    } while (release(first, end, WARP));
}

static void run_block() {
    for (real& value : shared) value = NAN;
    const unsigned count = blockDim.x;
    for (unsigned i = 0; i < count; i++) {
        Coroutine& one = coroutines[i];
        getcontext(&one.context);
        one.context.uc_stack = {one.stack.data(), 0, one.stack.size()};
        one.context.uc_link = &scheduler;
        one.waits = NOTHING;
        makecontext(&one.context, run_thread, 0);
    }
    const unsigned warps = (count + 31) / 32;
    do {
        for (unsigned i = 0; i < warps; i++) run_warp((backwards ? warps - 1 - i : i) * 32, count);
    } while (release(0, count, BLOCK));
    for (const Coroutine& one : coroutines) {
        if (one.waits == ENDED) continue;
        fprintf(stderr, "threads of a block wait for each other at different places\n");
        exit(1);
    }
}

static void run_kernel(void (*which)(const uint64_t*), const unsigned sizes[3], const uint64_t* words) {
    kernel = which, arguments = words;
    gridDim = {sizes[0], sizes[1], 1}, blockDim = {sizes[2], 1, 1};
    coroutines.resize(sizes[2]);
    for (unsigned y = 0; y < sizes[1]; y++) {
        for (unsigned x = 0; x < sizes[0]; x++) {
            blockIdx = {x, y, 0};
            run_block();
        }
    }
}

template <typename T>
static T argument(uint64_t word) {
    T value;
    static_assert(sizeof(T) == 8, "every parameter is 8 bytes wide");
    memcpy(&value, &word, 8);
    return value;
}
