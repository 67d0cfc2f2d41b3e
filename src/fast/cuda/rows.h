// Attention between its products: a row of scores of each stream becomes a row of probabilities, and a gradient goes
// back. One thread takes a row, and reads and writes no other's, so that a compiler for GPUs and one for CPUs take the same
// text: rows.cpp runs it row by row, where tests hold it to libtorch's operations in float64.
//
//   sum:     f = sum of x_s
//   concat:  f = W [x_1, ...] + b
//   gate:    f = sum of a_s x_s,  a = softmax over s of (w2 relu(W1 x_s + b1) + b2)
//   p = softmax(scale f + mask)
//
// L is the most keys of a row, S the most streams (attributes, items, positions), F the fusion. A GPU's program is compiled
// for L keys and S streams exactly, so that arrays of short rows are registers; on the CPU `Rows` says how many there are.
#pragma once
#ifdef __CUDACC__
#define DIF_SR_DEVICE __device__ __forceinline__
#define DIF_SR_SIZES(all) constexpr int l = L, s = S
#else
#include <cmath>
#define DIF_SR_DEVICE inline
#define DIF_SR_SIZES(all) const int l = all.l, s = all.s
#endif

namespace dif_sr {

enum Fusion { SUM = 0, CONCAT = 1, GATE = 2 };

// Scores [B, heads, Q, L], wherever their elements are.
template <typename T> struct Map {
    const T *data;
    long long stride[4];
};

// All rows of a layer, [B, heads, Q] of them.
template <typename T, int S> struct Rows {
    long long rows;
    int heads, queries, l, s;
    T scale;
    Map<T> maps[S];
    Map<T> mask;
    // Of the fusion: gate W1 [l, l], b1 [l], w2 [l], b2 [1]; concat W [l, s * l], b [l].
    const T *weight, *bias, *energy, *energy_bias;
    T *probs; // [rows, l]
    // Backward alone.
    const T *dprobs; // [rows, l]
    T *dmaps;        // [s, rows, l]
    // What the gradients of the fusion's parameters are sums over rows of. Gate: [rows * s, 2 l + 1], by hidden units before
    // relu, by w2, by b2; and the scores x, [rows * s, l]. Concat: [rows, l], by f; and x, [rows, s * l].
    T *dfusion, *stacked;
};

template <typename T> DIF_SR_DEVICE T exponential(T x) {
#ifndef __CUDACC__
    using std::exp;
#endif
    return exp(x);
}

// exp(x) / sum of exp(x), in place.
template <typename T> DIF_SR_DEVICE void softmax(T *x, int n) {
    T top = x[0], sum = 0;
    for (int i = 1; i < n; ++i) top = x[i] > top ? x[i] : top;
    for (int i = 0; i < n; ++i) sum += x[i] = exponential(x[i] - top);
    for (int i = 0; i < n; ++i) x[i] /= sum;
}

// Where a row of a map begins.
template <typename T> DIF_SR_DEVICE const T *row_of(const Map<T> &map, long long row, int heads, int queries) {
    const long long i = row % queries, h = row / queries % heads, b = row / queries / heads;
    return map.data + b * map.stride[0] + h * map.stride[1] + i * map.stride[2];
}

// A row while it is computed.
template <typename T, int L, int S> struct Row {
    T x[S][L];      // scores
    T hidden[S][L]; // of the gate: relu(W1 x + b1)
    T share[S];     // of the gate: a
    T fused[L];     // f
};

template <typename T, int L, int S, int F>
DIF_SR_DEVICE void fuse(Row<T, L, S> &row, long long r, const Rows<T, S> &all) {
    DIF_SR_SIZES(all);
    for (int k = 0; k < s; ++k) {
        const T *map = row_of(all.maps[k], r, all.heads, all.queries);
        for (int j = 0; j < l; ++j) row.x[k][j] = map[j * all.maps[k].stride[3]];
    }
    if (F == GATE) {
        for (int k = 0; k < s; ++k) {
            T energy = all.energy_bias[0];
            for (int o = 0; o < l; ++o) {
                T z = all.bias[o];
                for (int j = 0; j < l; ++j) z += all.weight[o * l + j] * row.x[k][j];
                row.hidden[k][o] = z > 0 ? z : T(0);
                energy += all.energy[o] * row.hidden[k][o];
            }
            row.share[k] = energy;
        }
        softmax(row.share, s);
    }
    for (int j = 0; j < l; ++j) {
        T f = F == CONCAT ? all.bias[j] : T(0);
        for (int k = 0; k < s; ++k) {
            if (F == SUM) f += row.x[k][j];
            if (F == GATE) f += row.share[k] * row.x[k][j];
            if (F == CONCAT) {
                const T *w = all.weight + (long long)j * s * l + k * l;
                for (int i = 0; i < l; ++i) f += w[i] * row.x[k][i];
            }
        }
        row.fused[j] = f;
    }
}

template <typename T, int L, int S, int F> DIF_SR_DEVICE void forward(long long r, const Rows<T, S> &all) {
    DIF_SR_SIZES(all);
    Row<T, L, S> row;
    fuse<T, L, S, F>(row, r, all);
    const T *mask = row_of(all.mask, r, all.heads, all.queries);
    for (int j = 0; j < l; ++j) row.fused[j] = row.fused[j] * all.scale + mask[j * all.mask.stride[3]];
    softmax(row.fused, l);
    for (int j = 0; j < l; ++j) all.probs[r * l + j] = row.fused[j];
    (void)s;
}

// Of one stream under gate: what the softmax over streams gives it, then what its perceptron does.
template <typename T, int L, int S>
DIF_SR_DEVICE void backward_gate(const Row<T, L, S> &row, const T *df, T denergy, int k, long long r, const Rows<T, S> &all) {
    DIF_SR_SIZES(all);
    T *dfusion = all.dfusion + (r * s + k) * (2 * l + 1), *stacked = all.stacked + (r * s + k) * l;
    for (int o = 0; o < l; ++o) {
        dfusion[o] = row.hidden[k][o] > 0 ? denergy * all.energy[o] : T(0);
        dfusion[l + o] = denergy * row.hidden[k][o];
        stacked[o] = row.x[k][o];
    }
    dfusion[2 * l] = denergy;
    T *dx = all.dmaps + (k * all.rows + r) * l;
    for (int j = 0; j < l; ++j) {
        T d = row.share[k] * df[j];
        for (int o = 0; o < l; ++o) d += all.weight[o * l + j] * dfusion[o];
        dx[j] = d;
    }
}

template <typename T, int L, int S, int F> DIF_SR_DEVICE void backward(long long r, const Rows<T, S> &all) {
    DIF_SR_SIZES(all);
    Row<T, L, S> row;
    fuse<T, L, S, F>(row, r, all);
    const T *p = all.probs + r * l, *dp = all.dprobs + r * l;
    T df[L], along = 0;
    for (int j = 0; j < l; ++j) along += p[j] * dp[j];
    for (int j = 0; j < l; ++j) df[j] = p[j] * (dp[j] - along) * all.scale;
    if (F == GATE) {
        T dshare[S], mean = 0;
        for (int k = 0; k < s; ++k) {
            dshare[k] = 0;
            for (int j = 0; j < l; ++j) dshare[k] += df[j] * row.x[k][j];
            mean += row.share[k] * dshare[k];
        }
        for (int k = 0; k < s; ++k) backward_gate(row, df, row.share[k] * (dshare[k] - mean), k, r, all);
        return;
    }
    for (int k = 0; k < s; ++k) {
        T *dx = all.dmaps + (k * all.rows + r) * l;
        for (int j = 0; j < l; ++j) {
            T d = F == SUM ? df[j] : T(0);
            if (F == CONCAT) {
                for (int o = 0; o < l; ++o) d += all.weight[(long long)o * s * l + k * l + j] * df[o];
                all.stacked[r * s * l + k * l + j] = row.x[k][j];
            }
            dx[j] = d;
        }
    }
    if (F == CONCAT) {
        for (int j = 0; j < l; ++j) all.dfusion[r * l + j] = df[j];
    }
}

} // namespace dif_sr

// A GPU's kernels, a thread for each row, compiled while the program runs: with NUMBER, KEYS, STREAMS and FUSION.
#ifdef __CUDACC__
extern "C" __global__ void rows_forward(const dif_sr::Rows<NUMBER, STREAMS> all) {
    const long long r = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (r < all.rows) dif_sr::forward<NUMBER, KEYS, STREAMS, FUSION>(r, all);
}

extern "C" __global__ void rows_backward(const dif_sr::Rows<NUMBER, STREAMS> all) {
    const long long r = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (r < all.rows) dif_sr::backward<NUMBER, KEYS, STREAMS, FUSION>(r, all);
}
#endif
