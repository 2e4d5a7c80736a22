// Gated convolutions on a CPU that compute the winners from the live inputs, and nothing else.
//
// Nothing is gathered: a weight is addressed, by winner and input, where it lies. Maps lie in planes
// with zeros around them. In such a plane a tap of the kernel is one offset in memory, and pixels
// that are neighbours, across the ends of rows too, are one vector. A tile of up to 4 winners times
// some vectors of pixels stays in registers while all live inputs and taps pass by (`multiply`).
// What the tile makes of the zeros between two rows is overwritten with zeros again.
//
// No PyTorch in here: pointers in, pointers out, see native.py. All numbers are float32.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#if defined(__AVX512F__)
constexpr int LANES = 16, WIDEST = 12;           // floats in a vector; vectors in a tile, at most
constexpr int VECTORS[] = {0, 12, 12, 8, 6};     // of a tile with so many winners: 32 registers
#elif defined(__AVX__)
constexpr int LANES = 8, WIDEST = 8;
constexpr int VECTORS[] = {0, 8, 6, 4, 3};       // 16 registers: 12 sums, 3 inputs, a weight
#else
constexpr int LANES = 4, WIDEST = 8;             // ARM has 32, and SSE 16
constexpr int VECTORS[] = {0, 8, 8, 6, 4};
#endif
constexpr int WINNERS = 4;        // of a tile, at most
constexpr int AHEAD = 8;          // inputs whose weights are asked for before they are multiplied
constexpr int64_t CACHE = 65536;  // floats of inputs that fit half a second-level cache
constexpr int64_t TASK = 131072;  // multiplications that are worth handing to a thread
typedef float Vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t Mask __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

extern "C" {
struct Maps {  // [n, k, h, w] with these strides; the pixels of a row are neighbours
  float* data;
  int64_t n, k, h, w, image, plane, pitch;
  int64_t border;     // 1: a pixel of zeros lies around each map, in rows of `pitch`; else 0
  float* s;           // [2, n, k]: mean |x|, which is 0 of an empty map; mean of the positive part
  int64_t* channels;  // [n, k] which channels they are, ascending; null: all
};
struct Conv {
  const float *weight, *shift;  // [c_out, c_in / groups, rows, columns], [c_out]
  const float *table, *bias;    // of the predictor: [c_in, c_out], [c_out]
  const float* ratio;           // [c_out], what gates are multiplied by; null: 1
  int64_t c_out, c_in, groups, relu;
  float cap;  // of the positive part: 6 for ReLU6, else infinity
  int64_t kernel[2], stride[2], pad[2], dilation[2];  // of rows and of columns
};
typedef void (*Start)(void (*)(void*), void*, unsigned, unsigned);
}

static Start start_threads = nullptr;  // GOMP_parallel of the OpenMP runtime that PyTorch uses

// f(0), …, f(count - 1), on several threads if all together is enough work for them.
template <class F>
static void parallel(int64_t count, int64_t work, int64_t threads, const F& f) {
  threads = std::min({threads, count, 1 + work / TASK});
  if (threads < 2 || !start_threads) {
    for (int64_t i = 0; i < count; ++i) f(i);
    return;
  }
  struct Job { const F* f; int64_t count, step; std::atomic<int64_t> next; };
  Job job{&f, count, std::max<int64_t>(1, count / (16 * threads)), {0}};
  start_threads([](void* data) {  // every thread takes what is next until nothing is left
    Job& job = *static_cast<Job*>(data);
    for (int64_t i; (i = job.next.fetch_add(job.step)) < job.count;)
      for (int64_t end = std::min(i + job.step, job.count); i < end; ++i) (*job.f)(i);
  }, &job, unsigned(threads), 0);
}

struct Input {  // a live input: its map, and where its weights are among those of a winner
  const float* map;
  int64_t column;
};
struct Tile {  // neighbouring winners of an image that read the same inputs, from `live` to `end`
  int64_t image, first, winners, live, end;
};

// sums[j][p]: what J winners have of P vectors of pixels, over all inputs and taps. It is all the
// time that matters: J * P multiply-adds for J weights and P vectors that are loaded.
template <int J, int P>
static void multiply(const Input* in, const Input* end, int64_t q, const float* const* weights,
                     const int64_t* taps, int64_t count, Vec (*sums)[WIDEST]) {
  Vec sum[J][P] = {};
  for (; in < end; ++in) {
    const float* x = in->map + q;
    const float* w[J];
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) {
      w[j] = weights[j] + in->column;
      __builtin_prefetch(weights[j] + in[AHEAD].column);
    }
#pragma GCC unroll 1
    for (int64_t t = 0; t < count; ++t) {
      Vec v[P];
#pragma GCC unroll 12
      for (int p = 0; p < P; ++p) v[p] = *(const Vec*)(x + taps[t] + p * LANES);
#pragma GCC unroll 4
      for (int j = 0; j < J; ++j)
#pragma GCC unroll 12
        for (int p = 0; p < P; ++p) sum[j][p] += w[j][t] * v[p];
    }
  }
  for (int j = 0; j < J; ++j)
    for (int p = 0; p < P; ++p) sums[j][p] = sum[j][p];
}
using Multiply = decltype(&multiply<1, 1>);
template <int J, int... P>
static Multiply multiply_of(int vectors, std::integer_sequence<int, P...>) {
  static const Multiply table[] = {multiply<J, P + 1>...};
  return table[vectors - 1];
}
template <int J>
static Multiply multiply_of(int vectors) {
  return multiply_of<J>(vectors, std::make_integer_sequence<int, VECTORS[J]>());
}
static Multiply multiply_of(int64_t winners, int vectors) {
  switch (winners) {
    case 1: return multiply_of<1>(vectors);
    case 2: return multiply_of<2>(vectors);
    case 3: return multiply_of<3>(vectors);
    default: return multiply_of<4>(vectors);
  }
}

static float total(Vec v) {
  float sum = 0;
  for (int l = 0; l < LANES; ++l) sum += v[l];
  return sum;
}
static inline float positive(float v) { return v < 0 ? 0 : v; }  // NaN stays
static inline float larger(float a, float b) { return b > a || b != b ? b : a; }

// Mean |x| and mean positive part of map i, in rows of `pitch`.
static void measure(const Maps& x, int64_t i) {
  const float* map = x.data + i / x.k * x.image + i % x.k * x.plane;
  double all = 0, above = 0;
  for (int64_t r = 0; r < x.h; ++r, map += x.pitch) {
    float a = 0, b = 0;
#pragma omp simd reduction(+ : a, b)
    for (int64_t c = 0; c < x.w; ++c) a += std::abs(map[c]), b += positive(map[c]);
    all += a, above += b;
  }
  x.s[i] = all / (x.h * x.w), x.s[x.n * x.k + i] = above / (x.h * x.w);
}

// The k largest of |g|, among equals the lower index, ascending: `rank_channels` of wta.py.
static void choose(const float* g, int64_t channels, int64_t k, int64_t* winners) {
  static thread_local std::vector<uint64_t> keys, order;
  keys.resize(channels);
  for (int64_t i = 0; i < channels; ++i) {
    uint32_t bits;
    std::memcpy(&bits, g + i, 4);
    bits = std::min(bits & 0x7fffffffu, 0x7fc00000u);  // the magnitude; NaN is the largest
    keys[i] = uint64_t(~bits) << 32 | uint64_t(i);
  }
  order = keys;
  std::nth_element(order.begin(), order.begin() + (k - 1), order.end());
  const uint64_t last = order[k - 1];
  for (int64_t i = 0; i < channels; ++i)
    if (keys[i] <= last) *winners++ = i;
}

// out = bias + table^T x of n rows x [width], of the columns from, …, to - 1; 0 costs nothing.
static int64_t product(const float* table, const float* bias, const float* x, const int64_t* rows,
                       int64_t width, int64_t c_out, int64_t from, int64_t to, float* out) {
  int64_t live = 0;
  if (bias) std::copy(bias + from, bias + to, out + from);
  else std::fill(out + from, out + to, 0.f);
  for (int64_t j = 0; j < width; ++j) {
    const float factor = x[j], *row = table + (rows ? rows[j] : j) * c_out;
    if (factor == 0) continue;
    ++live;
#pragma omp simd
    for (int64_t o = from; o < to; ++o) out[o] += factor * row[o];
  }
  return live * (to - from);
}

// Column c of phase b is column c * stride + b of a padded row.
static void split(const float* __restrict line, int64_t stride, int64_t pitch, int64_t phases,
                  int64_t size, float* __restrict out) {
  for (int64_t b = 0; b < phases; ++b)
    if (stride == 2)  // the common case, so that it is vectorised
#pragma omp simd
      for (int64_t c = 0; c < pitch; ++c) out[b * size + c] = line[2 * c + b];
    else
      for (int64_t c = 0; c < pitch; ++c) out[b * size + c] = line[c * stride + b];
}

struct Layout {  // of a map copied with its padding; with a stride, phases become planes
  int64_t phases[2], pitch, size;
  Layout(const Conv& conv, const Maps& x, int64_t pitch) : pitch(pitch) {
    for (int i = 0; i < 2; ++i)
      phases[i] = std::min(conv.stride[i], (conv.kernel[i] - 1) * conv.dilation[i] + 1);
    size = (x.h + 2 * conv.pad[0] + conv.stride[0] - 1) / conv.stride[0] * pitch;
  }
  int64_t offset(const Conv& conv, int64_t row, int64_t column) const {
    const int64_t phase = row % conv.stride[0] * phases[1] + column % conv.stride[1];
    return phase * size + row / conv.stride[0] * pitch + column / conv.stride[1];
  }
};

// Copy a map with zeros around; at a stride s every phase (row mod s, column mod s) becomes a plane
// of its own, so that neighbours in a plane are neighbours of the output.
static void lay_out(const float* map, const Maps& x, const Conv& conv, const Layout& to, float* out) {
  static thread_local std::vector<float> line;
  line.assign(to.pitch * conv.stride[1] + to.phases[1], 0.f);
  for (int64_t a = 0; a < to.phases[0]; ++a) {
    float* row = out + a * to.phases[1] * to.size;
    for (int64_t r = a - conv.pad[0]; r < x.h + conv.pad[0]; r += conv.stride[0], row += to.pitch) {
      if (r < 0 || r >= x.h) {
        for (int64_t b = 0; b < to.phases[1]; ++b)
          std::fill_n(row + b * to.size, to.pitch, 0.f);
        continue;
      }
      std::memcpy(line.data() + conv.pad[1], map + r * x.pitch, x.w * sizeof(float));
      split(line.data(), conv.stride[1], to.pitch, to.phases[1], to.size, row);
    }
  }
}

// The live inputs of every image and group, and where each one's begin in the list.
static void find_live(const Conv& conv, const Maps& x, std::vector<Input>& inputs,
                      std::vector<int64_t>& starts) {
  const int64_t each = conv.c_in / conv.groups, taps = conv.kernel[0] * conv.kernel[1];
  for (int64_t i = 0; i < x.n; ++i) {
    int64_t group = 0;
    starts.push_back(inputs.size());
    for (int64_t j = 0; j < x.k; ++j) {
      const int64_t channel = x.channels ? x.channels[i * x.k + j] : j;
      for (; group < channel / each; ++group) starts.push_back(inputs.size());
      if (x.s[i * x.k + j] != 0)
        inputs.push_back({x.data + i * x.image + j * x.plane, channel % each * taps});
    }
    for (; group + 1 < conv.groups; ++group) starts.push_back(inputs.size());
  }
  starts.push_back(inputs.size());
}

static std::vector<Tile> tiles_of(const Conv& conv, const Maps& y, const std::vector<int64_t>& starts) {
  const int64_t each = conv.c_out / conv.groups;
  std::vector<Tile> tiles;
  for (int64_t i = 0; i < y.n; ++i)
    for (int64_t j = 0, winners; j < y.k; j += winners) {
      const int64_t* channel = y.channels + i * y.k + j;
      for (winners = 1; winners < WINNERS && j + winners < y.k; ++winners)
        if (channel[winners] / each != *channel / each) break;
      const int64_t* live = &starts[i * conv.groups + *channel / each];
      tiles.push_back({i, j, winners, live[0], live[1]});
    }
  return tiles;
}

extern "C" {
int64_t lanes() { return LANES; }
// Numbers after the last map that may be read, though they count for nothing.
int64_t slack(int64_t pitch) { return (WIDEST + 2) * LANES + 2 * pitch; }
void use_threads(Start start) { start_threads = start; }

void measure_all(const Maps* x, int64_t threads) {
  parallel(x->n * x->k, x->n * x->k * x->h * x->w, threads, [&](int64_t i) { measure(*x, i); });
}

// y [n, c_out] = bias + x [n, c_in] table; returns how many multiplications it took.
int64_t linear(const float* table, const float* bias, const float* x, float* y, int64_t n,
               int64_t c_in, int64_t c_out, int64_t threads) {
  const int64_t parts = (c_out + 63) / 64;
  std::atomic<int64_t> macs{0};
  parallel(n * parts, n * c_in * c_out, threads, [&](int64_t i) {
    const int64_t from = i % parts * 64, to = std::min(from + 64, c_out), image = i / parts;
    macs += product(table, bias, x + image * c_in, nullptr, c_in, c_out, from, to, y + image * c_out);
  });
  return macs;
}

// Who wins: saliencies g [n, c_out] from those of x, then y->channels, and their gates pi [n, k].
static void predict(const Conv* conv, const Maps* x, const Maps* y, float* g, float* pi, int64_t threads) {
  const int64_t c_out = conv->c_out, parts = (c_out + 63) / 64;
  parallel(x->n * parts, x->n * x->k * c_out, threads, [&](int64_t i) {
    const int64_t from = i % parts * 64, to = std::min(from + 64, c_out), image = i / parts;
    const int64_t* rows = x->channels ? x->channels + image * x->k : nullptr;
    float* out = g + image * c_out;
    product(conv->table, conv->bias, x->s + image * x->k, rows, x->k, c_out, from, to, out);
    for (int64_t o = from; o < to; ++o) out[o] = positive(out[o]);
  });
  parallel(x->n, x->n * c_out * 16, threads, [&](int64_t i) {
    int64_t* winners = y->channels + i * y->k;
    choose(g + i * c_out, c_out, y->k, winners);
    for (int64_t j = 0; j < y->k; ++j)
      pi[i * y->k + j] = g[i * c_out + winners[j]] * (conv->ratio ? conv->ratio[winners[j]] : 1);
  });
}

// y = pi * (W x + shift) of the winners y->channels, with zeros around, and its saliencies.
// pi [n, k] or null. ready: x is read where it lies, with the pitch of y; else its live maps are
// copied first. Returns how many multiplications the outputs took.
int64_t convolve(const Conv* conv, const Maps* x, const Maps* y, const float* pi, int64_t ready,
                 int64_t threads) {
  static thread_local std::vector<float> workspace;
  static thread_local std::vector<int32_t> inside;  // all bits set where a pixel is, else 0
  std::vector<Input> inputs;
  std::vector<int64_t> starts, taps;
  find_live(*conv, *x, inputs, starts);
  const std::vector<Tile> tiles = tiles_of(*conv, *y, starts);
  const int64_t count = conv->kernel[0] * conv->kernel[1], live = inputs.size(), pitch = y->pitch;
  const Layout layout(*conv, *x, pitch);
  for (int64_t a = 0; a < conv->kernel[0]; ++a)
    for (int64_t b = 0; b < conv->kernel[1]; ++b)
      taps.push_back(layout.offset(*conv, a * conv->dilation[0], b * conv->dilation[1]));
  if (ready) {
    for (Input& in : inputs) in.map -= conv->pad[0] * pitch + conv->pad[1];
  } else {
    const int64_t each = layout.phases[0] * layout.phases[1] * layout.size;
    workspace.resize(std::max<int64_t>(workspace.size(), live * each + slack(pitch)));
    float* const memory = workspace.data();
    parallel(live, 2 * live * each, threads, [&](int64_t m) {
      lay_out(inputs[m].map, *x, *conv, layout, memory + m * each);
      inputs[m].map = memory + m * each;
    });
  }
  inputs.resize(live + AHEAD, {nullptr, 0});

  const int64_t pixels = (y->h - 1) * pitch + y->w, vectors = (pixels + LANES - 1) / LANES;
  inside.assign(vectors * LANES, 0);
  for (int64_t r = 0; r < y->h; ++r) std::fill_n(inside.begin() + r * pitch, y->w, -1);
  const int32_t* const mask = inside.data();
  int64_t macs = 0, most = 1;  // multiplications that count; inputs of a tile
  for (const Tile& tile : tiles) {
    macs += tile.winners * (tile.end - tile.live) * count * y->h * y->w;
    most = std::max(most, tile.end - tile.live);
  }
  // Blocks of pixels: small enough that their inputs stay in a cache, and enough tasks for all.
  const int64_t fit = 1 + most * vectors * LANES / CACHE, tasks = 1 + macs / TASK;
  const int64_t some = int64_t(tiles.size()), wanted = std::max(fit, (tasks + some - 1) / some);
  const int64_t blocks = std::min(wanted, (vectors + WIDEST - 1) / WIDEST);
  std::vector<float> parts(2 * blocks * y->n * y->k);  // sums of |y| and of its positive part
  parallel(some * blocks, macs, threads, [&](int64_t task) {
    const int64_t block = task / some;
    const Tile& tile = tiles[task % some];
    const int64_t begin = block * vectors / blocks, end = (block + 1) * vectors / blocks;
    const int64_t at = tile.image * y->k + tile.first;
    const int64_t row = conv->c_in / conv->groups * count;
    const float* rows[WINNERS];
    for (int64_t j = 0; j < tile.winners; ++j) rows[j] = conv->weight + y->channels[at + j] * row;
    float* const out = y->data + tile.image * y->image + tile.first * y->plane;
    Vec sums[WINNERS][WIDEST], all[WINNERS] = {}, above[WINNERS] = {};
    const int64_t steps = (end - begin + VECTORS[tile.winners] - 1) / VECTORS[tile.winners];
    for (int64_t t = 0; t < steps; ++t) {
      const int64_t v0 = begin + t * (end - begin) / steps;
      const int64_t v1 = begin + (t + 1) * (end - begin) / steps;
      multiply_of(tile.winners, v1 - v0)(inputs.data() + tile.live, inputs.data() + tile.end,
                                         v0 * LANES, rows, taps.data(), count, sums);
      for (int64_t j = 0; j < tile.winners; ++j) {
        const float gate = pi ? pi[at + j] : 1, shift = conv->shift[y->channels[at + j]];
        for (int64_t p = v0; p < v1; ++p) {
          Vec v = (sums[j][p - v0] + shift) * gate;
          v = (Vec)((Mask)v & *(const Mask*)(mask + p * LANES));
          Vec top = v < 0.f ? Vec{} : v;
          top = top > conv->cap ? Vec{} + conv->cap : top;
          above[j] += top, all[j] += v < 0.f ? -v : v;
          *(Vec*)(out + j * y->plane + p * LANES) = conv->relu ? top : v;
        }
      }
    }
    for (int64_t j = 0; j < tile.winners; ++j) {
      float *const map = out + j * y->plane, *const plane = map - pitch - 1;
      if (block == 0) std::fill(plane, map, 0.f);
      if (block == blocks - 1) std::fill(map + vectors * LANES, plane + y->plane, 0.f);
      parts[2 * ((at + j) * blocks + block)] = total(conv->relu ? above[j] : all[j]);
      parts[2 * ((at + j) * blocks + block) + 1] = total(above[j]);
    }
  });
  for (int64_t i = 0; i < 2 * y->n * y->k; ++i) {
    double sum = 0;
    const int64_t side = i / (y->n * y->k), map = i % (y->n * y->k);
    for (int64_t b = 0; b < blocks; ++b) sum += parts[2 * (map * blocks + b) + side];
    y->s[i] = sum / (y->h * y->w);
  }
  return macs;
}

// Measure if need be, predict, select and convolve, all in one call.
int64_t layer(const Conv* conv, const Maps* x, const Maps* y, float* g, int64_t measured,
              int64_t ready, int64_t threads) {
  static thread_local std::vector<float> pi;
  pi.resize(y->n * y->k);
  if (!measured) measure_all(x, threads);
  predict(conv, x, y, g, pi.data(), threads);
  return convolve(conv, x, y, pi.data(), ready, threads);
}

// Max-pooling; y has the channels of x. window: kernel, stride and padding of rows and of columns.
void max_pool(const Maps* x, const Maps* y, const int64_t* window, int64_t threads) {
  const int64_t *kernel = window, *stride = window + 2, *pad = window + 4;
  parallel(x->n * x->k, x->n * x->k * x->h * x->w * 2, threads, [&](int64_t i) {
    static thread_local std::vector<float> tall;  // the largest of a few rows, column by column
    tall.assign(x->w + 2 * pad[1] + stride[1], -std::numeric_limits<float>::infinity());
    const float* const map = x->data + i / x->k * x->image + i % x->k * x->plane;
    float *const to = y->data + i / y->k * y->image + i % y->k * y->plane, *t = tall.data();
    std::fill_n(to - y->pitch - 1, y->plane, 0.f);
    for (int64_t r = 0; r < y->h; ++r) {
      const int64_t from = std::max<int64_t>(r * stride[0] - pad[0], 0);
      const int64_t end = std::min(r * stride[0] - pad[0] + kernel[0], x->h);
      float *row = t + pad[1], *put = to + r * y->pitch;
      std::copy_n(map + from * x->pitch, x->w, row);
      for (int64_t q = from + 1; q < end; ++q)
#pragma omp simd
        for (int64_t c = 0; c < x->w; ++c) row[c] = larger(row[c], map[q * x->pitch + c]);
      for (int64_t c = 0; c < y->w; ++c) put[c] = t[c * stride[1]];
      for (int64_t b = 1; b < kernel[1]; ++b)
#pragma omp simd
        for (int64_t c = 0; c < y->w; ++c) put[c] = larger(put[c], t[c * stride[1] + b]);
    }
    measure(*y, i);
  });
}

// a + b, or its positive part, of maps of different channels: y has all.
void add(const Maps* a, const Maps* b, const Maps* y, int64_t relu, int64_t threads) {
  std::vector<const float*> from(2 * y->n * y->k, nullptr);
  for (int side = 0; side < 2; ++side) {
    const Maps* x = side ? b : a;
    for (int64_t j = 0; j < x->n * x->k; ++j)
      from[2 * (j / x->k * y->k + (x->channels ? x->channels[j] : j % x->k)) + side] =
          x->data + j / x->k * x->image + j % x->k * x->plane;
  }
  parallel(y->n * y->k, y->n * y->k * y->h * y->w * 2, threads, [&](int64_t i) {
    float* const to = y->data + i / y->k * y->image + i % y->k * y->plane;
    std::fill(to - y->pitch - 1, to, 0.f);
    for (int64_t r = 0; r < y->h; ++r) {
      const float *u = from[2 * i] ? from[2 * i] + r * a->pitch : nullptr;
      const float *v = from[2 * i + 1] ? from[2 * i + 1] + r * b->pitch : nullptr;
      float* put = to + r * y->pitch;
      if (u && v) for (int64_t c = 0; c < y->w; ++c) put[c] = u[c] + v[c];
      else if (u || v) std::copy_n(u ? u : v, y->w, put);
      else std::fill_n(put, y->w, 0.f);
      if (relu) for (int64_t c = 0; c < y->w; ++c) put[c] = positive(put[c]);
      std::fill_n(put + y->w, y->pitch - y->w, 0.f);
    }
    std::fill(to + y->h * y->pitch, to - y->pitch - 1 + y->plane, 0.f);
    measure(*y, i);
  });
}
}
