// Gated convolutions on a CPU that compute the winners from the live inputs, and nothing else.
//
// Nothing is gathered: a weight is addressed, by winner and input, where it lies. Maps lie in planes
// with zeros around them. In such a plane a tap of the kernel is one offset in memory, and pixels
// that are neighbours, across the ends of rows too, are one vector. A tile of up to 4 winners times
// some vectors of pixels stays in registers while all live inputs and taps pass by (`multiply`).
// What the tile makes of the zeros between two rows is overwritten with zeros again.
//
// No PyTorch in here: pointers in, pointers out, see native.py. All numbers are float32.
#include "planes.cpp"

#include <array>
#include <cstring>
#include <utility>

constexpr int WINNERS = 4;           // of a tile, at most
constexpr int TILES = 32;            // that pass over the same pixels, at most
constexpr int AHEAD = 8;             // inputs whose weights are asked for before their turn
constexpr int64_t STEPS = 16;        // that a tile takes before it is the next one's turn, at most
constexpr int64_t FIRST = 32000;     // bytes of inputs and weights that a first-level cache keeps
constexpr int64_t SECOND = 1 << 18;  // bytes of maps that a second-level cache keeps
struct Input {  // a live input: its map, and where its weights are among those of a winner
  const float* map;
  int64_t column;
};
struct Tile {  // neighbouring winners of an image that read the same inputs, from `live` to `end`
  int64_t image, first, winners, live, end;
};

// Add to J maps of sums, `plane` apart, what some inputs give in P vectors of pixels; start: from
// 0. It is all the time that matters: J * P multiply-adds for J weights and P vectors loaded. ONE: of
// a kernel with a single tap.
template <int J, int P, bool ONE>
static void multiply(const Input* in, const Input* end, int64_t q, const float* const* weights,
                     const int64_t* taps, int64_t count, bool start, int64_t plane, float* sums) {
  Vec sum[J][P] = {};
  const float* w[J];
  for (int j = 0; j < J; ++j) w[j] = weights[j];
  for (; in < end; ++in) {
    const float* x = in->map + q;
    const int64_t column = in->column, end_of_taps = column + (ONE ? 1 : count);
    for (int j = 0; j < J && !ONE; ++j) __builtin_prefetch(w[j] + in[AHEAD].column);
#pragma GCC unroll 1
    for (int64_t t = column; t < end_of_taps; ++t) {
      const float* tap = ONE ? x : x + taps[t - column];
      Vec v[P];
#pragma GCC unroll 12
      for (int p = 0; p < P; ++p) v[p] = *(const Vec*)(tap + p * LANES);
#pragma GCC unroll 4
      for (int j = 0; j < J; ++j)
#pragma GCC unroll 12
        for (int p = 0; p < P; ++p) sum[j][p] += w[j][t] * v[p];
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < J; ++j)
#pragma GCC unroll 12
    for (int p = 0; p < P; ++p) {
      Vec* const at = (Vec*)(sums + j * plane + p * LANES);
      *at = start ? sum[j][p] : *at + sum[j][p];
    }
}
using Multiply = decltype(&multiply<1, 1, true>);
template <bool ONE, int... I>  // of every size that a tile can have
static std::array<Multiply, sizeof...(I)> kernels(std::integer_sequence<int, I...>) {
  return {multiply<I / WIDEST + 1, std::min(I % WIDEST + 1, VECTORS[I / WIDEST + 1]), ONE>...};
}
using Sizes = std::make_integer_sequence<int, WINNERS * WIDEST>;
static const auto OF_ONE_TAP = kernels<true>(Sizes()), OF_TAPS = kernels<false>(Sizes());

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

// out = bias + x table of one image, in the columns from, …, to - 1; x [width] are the inputs
// `rows`, null: all. A 0 costs nothing; returns how many multiplications the others took.
static int64_t product(const float* table, const float* bias, const float* x, const int64_t* rows,
                       int64_t width, int64_t c_out, int64_t from, int64_t to, float* out) {
  int64_t live = 0;
  for (int64_t o = from; o < to; ++o) out[o] = bias ? bias[o] : 0;
  for (int64_t j = 0; j < width; ++j) {
    const float factor = x[j], *row = table + (rows ? rows[j] : j) * c_out;
    if (factor == 0) continue;
    ++live;
#pragma omp simd
    for (int64_t o = from; o < to; ++o) out[o] += factor * row[o];
  }
  return live * (to - from);
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
      const int64_t *channel = y.channels + i * y.k + j, group = *channel / each;
      for (winners = 1; winners < WINNERS && j + winners < y.k; ++winners)
        if (channel[winners] / each != group) break;
      const int64_t* live = &starts[i * conv.groups + group];
      tiles.push_back({i, j, winners, live[0], live[1]});
    }
  return tiles;
}

struct Work {  // what the tasks of a call have in common
  const Conv& conv;
  const Maps &x, &y;
  const float* pi;
  const Input* inputs;
  const int64_t* taps;
  const int32_t* inside;
  const int64_t* starts;  // of every step, the first of its pixels
  int64_t count, steps;
  int64_t rows, planes, high;  // see `bytes`

  // Of an input, for so many pixels: its rows apart, or all from the first to the last; its weights.
  int64_t bytes(int64_t pixels) const {
    return 4 * std::min(rows * (pixels + LANES), planes * pixels + high) + 64 * WINNERS;
  }

  // The sums of tiles that read the same inputs, for pixels from one step to another. A few inputs
  // at a time pass over a few steps and all winners: so a cache keeps them, and a tile's weights.
  void run(const Tile* from, const Tile* to, int64_t begin, int64_t end) const {
    const Input* const in = inputs + from->live;
    const int64_t live = from->end - from->live;
    for (int64_t first = begin, last; first < end; first = last) {
      last = std::min(first + STEPS, end);
      const int64_t all = live * bytes(starts[last] - starts[first]);
      const int64_t chunks = std::max<int64_t>(1, (all + FIRST - 1) / FIRST);
      for (int64_t c = 0; c < chunks; ++c)
        for (const Tile* tile = from; tile < to; ++tile)
          add(*tile, in + c * live / chunks, in + (c + 1) * live / chunks, first, last, c == 0);
    }
  }

  void add(const Tile& tile, const Input* in, const Input* to, int64_t first, int64_t last,
           bool start) const {
    const Multiply* const sizes = &(count > 1 ? OF_TAPS : OF_ONE_TAP)[(tile.winners - 1) * WIDEST];
    const int64_t* channel = y.channels + tile.image * y.k + tile.first;
    float* const sums = y.data + tile.image * y.image + tile.first * y.plane;
    const float* weights[WINNERS];
    for (int64_t j = 0; j < tile.winners; ++j)
      weights[j] = conv.weight + channel[j] * (conv.c_in / conv.groups * count);
    for (int64_t step = first, q; step < last; ++step) {
      q = starts[step];
      sizes[(starts[step + 1] - q) / LANES - 1](in, to, q, weights, taps, count, start, y.plane,
                                                sums + q);
    }
  }

  // Shift, gate, activation and zeros of a tile's block of pixels; its sums for the saliencies.
  void finish(const Tile& tile, int64_t block, int64_t blocks, float* parts) const {
    const int64_t from = starts[block * steps / blocks], to = starts[(block + 1) * steps / blocks];
    for (int64_t j = tile.first; j < tile.first + tile.winners; ++j) {
      const int64_t at = tile.image * y.k + j;
      float *const map = y.data + tile.image * y.image + j * y.plane, *const plane = map - y.pitch - 1;
      const float gate = pi ? pi[at] : 1, shift = conv.shift[y.channels[at]], cap = conv.cap;
      Vec all = {}, above = {};
      const auto pass = [&](auto relu) {
        for (int64_t q = from; q < to; q += LANES) {
          Vec v = (*(const Vec*)(map + q) + shift) * gate;
          v = (Vec)((Mask)v & *(const Mask*)(inside + q));
          Vec top = v < 0.f ? Vec{} : v;
          if (relu) top = top > cap ? Vec{} + cap : top;
          else all += v < 0.f ? -v : v;
          above += top;
          *(Vec*)(map + q) = relu ? top : v;
        }
      };
      if (conv.relu) pass(std::true_type());
      else pass(std::false_type());
      if (block == 0) std::fill(plane, map, 0.f);
      if (block == blocks - 1) std::fill(map + to, plane + y.plane, 0.f);
      const float positive = total(above);
      parts[at * blocks + block] = conv.relu ? positive : total(all);
      parts[(y.n * y.k + at) * blocks + block] = positive;
    }
  }
};

extern "C" {
// Numbers after the last map that may be read, though they count for nothing.
int64_t slack(int64_t pitch) { return (WIDEST + 2) * LANES + 2 * pitch; }

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

  const int64_t vectors = ((y->h - 1) * pitch + y->w + LANES - 1) / LANES;
  inside.assign(vectors * LANES, 0);
  for (int64_t r = 0; r < y->h; ++r) std::fill_n(inside.begin() + r * pitch, y->w, -1);
  int64_t macs = 0, widest = 1;  // multiplications that count; winners of the largest tile
  for (const Tile& tile : tiles) {
    macs += tile.winners * (tile.end - tile.live) * count * y->h * y->w;
    widest = std::max(widest, tile.winners);
  }
  // A task is some tiles and a block of pixels, in steps of a few vectors: few tiles for maps that a
  // cache keeps, few pixels for larger ones. How it is divided does not depend on the number of
  // threads: so sums are always of the same parts.
  const int64_t steps = (vectors + VECTORS[widest] - 1) / VECTORS[widest], all = tiles.size();
  const int64_t tasks = std::min<int64_t>(32, 1 + macs / (3 * TASK));
  const bool small = x->k * vectors * LANES * 4 <= SECOND;
  const int64_t parted = small ? (tasks + all - 1) / all : tasks * TILES / (all + TILES - 1);
  const int64_t blocks = std::min(steps, std::max<int64_t>(1, parted));
  const int64_t together = std::min<int64_t>(TILES, std::max<int64_t>(1, all * blocks / tasks));
  const int64_t strips = (all + together - 1) / together;
  std::vector<int64_t> begins;
  for (int64_t i = 0; i <= steps; ++i) begins.push_back(i * vectors / steps * LANES);
  std::vector<float> parts(2 * blocks * y->n * y->k);  // sums of |y| and of its positive part
  const int64_t across = layout.phases[1], rows = across * conv->kernel[0];
  const Work work{*conv, *x, *y, pi, inputs.data(), taps.data(), inside.data(), begins.data(),
                  count, steps, rows, across * layout.phases[0], rows * pitch};
  parallel(strips * blocks, macs, threads, [&](int64_t task) {
    const int64_t block = task / strips, first = task % strips * together;
    const Tile *from = &tiles[first], *to = from + std::min(together, all - first);
    for (const Tile* next; from < to; from = next) {  // those with the same inputs at a time
      for (next = from + 1; next < to && next->live == from->live && next->end == from->end;) ++next;
      work.run(from, next, block * steps / blocks, (block + 1) * steps / blocks);
    }
    for (from = &tiles[first]; from < to; ++from)
      work.finish(*from, block, blocks, parts.data());
  });
  for (int64_t i = 0; i < 2 * y->n * y->k; ++i) {
    double sum = 0;
    for (int64_t b = 0; b < blocks; ++b) sum += parts[i * blocks + b];
    y->s[i] = sum / (y->h * y->w);
  }
  return macs;
}

// Saliencies g [n, c_out], predicted from those of x.
void predict_all(const Conv* conv, const Maps* x, float* g, int64_t threads) {
  const int64_t c_out = conv->c_out, parts = (c_out + 63) / 64;
  parallel(x->n * parts, x->n * x->k * c_out, threads, [&](int64_t i) {
    const int64_t from = i % parts * 64, to = std::min(from + 64, c_out), image = i / parts;
    const int64_t* rows = x->channels ? x->channels + image * x->k : nullptr;
    float* out = g + image * c_out;
    product(conv->table, conv->bias, x->s + image * x->k, rows, x->k, c_out, from, to, out);
    for (int64_t o = from; o < to; ++o) out[o] = positive(out[o]);
  });
}

// The winners y->channels by saliencies g, and their gates pi [n, k].
void choose_all(const Conv* conv, const Maps* y, const float* g, float* pi, int64_t threads) {
  const int64_t c_out = conv->c_out, k = y->k;
  parallel(y->n, y->n * c_out * 16, threads, [&](int64_t i) {
    int64_t* winners = y->channels + i * k;
    choose(g + i * c_out, c_out, k, winners);
    for (int64_t j = 0; j < k; ++j)
      pi[i * k + j] = g[i * c_out + winners[j]] * (conv->ratio ? conv->ratio[winners[j]] : 1);
  });
}

// The whole layer: measure x if need be, predict, choose, convolve. Returns how many
// multiplications the convolution took.
int64_t layer(const Conv* conv, const Maps* x, const Maps* y, float* g, int64_t measured,
              int64_t ready, int64_t threads) {
  static thread_local std::vector<float> gates;
  gates.resize(y->n * y->k);
  float* const pi = gates.data();
  if (!measured) measure_all(x, threads);
  predict_all(conv, x, g, threads);
  choose_all(conv, y, g, pi, threads);
  return convolve(conv, x, y, pi, ready, threads);
}
}
