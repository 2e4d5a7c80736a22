// What the kernel in native.cpp stands on: vectors, threads, and feature maps in planes; and what
// else is done with those: copying, measuring, pooling, adding.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#if defined(__AVX512F__)
constexpr int LANES = 16, REGISTERS = 32;  // floats in a vector, and vectors that are at hand
#elif defined(__AVX__)
constexpr int LANES = 8, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int LANES = 4, REGISTERS = 32;
#else
constexpr int LANES = 4, REGISTERS = 16;
#endif
// Vectors in a tile, at most, and of so many winners: J * P sums, P inputs and a weight have to fit.
constexpr int WIDEST = REGISTERS == 32 ? 12 : 8;
constexpr int VECTORS[] = {0, WIDEST, REGISTERS / 3, REGISTERS / 4 - 1, REGISTERS / 5};
typedef float Vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t Mask __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
constexpr int64_t TASK = 131072;  // operations that are worth handing to a thread

struct Conv {
  const float *weight, *shift;  // [c_out, c_in / groups, rows, columns], [c_out]
  const float *table, *bias;    // of the predictor: [c_in, c_out], [c_out]
  const float* ratio;           // [c_out], what gates are multiplied by; null: 1
  int64_t c_out, c_in, groups, relu;
  float cap;                                          // of the positive part: 6 for ReLU6
  int64_t kernel[2], stride[2], pad[2], dilation[2];  // of rows and of columns
};
struct Maps {  // [n, k, h, w] with these strides; the pixels of a row are neighbours
  float* data;
  int64_t n, k, h, w, image, plane, pitch;
  int64_t border;     // 1: zeros lie around each map, in rows of `pitch`; else 0
  float* s;           // [2, n, k]: mean |x|, which is 0 of an empty map; mean of the positive part
  int64_t* channels;  // [n, k] which channels they are, ascending; null: all
};
typedef void (*Start)(void (*)(void*), void*, unsigned, unsigned);
static Start start_threads = nullptr;  // GOMP_parallel of the OpenMP runtime that PyTorch uses

// f(0), …, f(count - 1), on several threads if all together is enough work for them.
template <class F>
static void parallel(int64_t count, int64_t work, int64_t threads, const F& f) {
  threads = std::min({threads, count, 1 + work / TASK});
  if (threads < 2 || !start_threads) {
    for (int64_t i = 0; i < count; ++i) f(i);
    return;
  }
  struct Job { const F& f; int64_t count, step; std::atomic<int64_t> next; };
  Job job{f, count, std::max<int64_t>(1, count / (16 * threads)), {0}};
  start_threads([](void* data) {  // every thread takes what is next until nothing is left
    Job& job = *static_cast<Job*>(data);
    for (int64_t i; (i = job.next.fetch_add(job.step)) < job.count;)
      for (int64_t end = std::min(i + job.step, job.count); i < end; ++i) job.f(i);
  }, &job, unsigned(threads), 0);
}

static float total(Vec v) {
  float sum = 0;
  for (int l = 0; l < LANES; ++l) sum += v[l];
  return sum;
}
static inline float positive(float v) { return v < 0 ? 0 : v; }  // NaN stays
static inline float larger(float a, float b) { return b > a || b != b ? b : a; }

// Mean |x| and mean positive part of map i: of one long row, as there are zeros between rows if
// there is anything.
static void measure(const Maps& x, int64_t i) {
  const float* map = x.data + i / x.k * x.image + i % x.k * x.plane;
  const int64_t length = (x.h - 1) * x.pitch + x.w;
  double all = 0, above = 0;
  for (int64_t from = 0; from < length; from += 4096) {  // so that no sum gets too long
    const int64_t to = std::min(from + 4096, length);
    float a = 0, b = 0;
#pragma omp simd reduction(+ : a, b)
    for (int64_t c = from; c < to; ++c) a += std::abs(map[c]), b += positive(map[c]);
    all += a, above += b;
  }
  x.s[i] = all / (x.h * x.w), x.s[x.n * x.k + i] = above / (x.h * x.w);
}

struct Layout {  // of a copied map: every phase (row mod stride, column mod stride) is a plane
  int64_t phases[2], pitch, size;
  Layout(const Conv& conv, const Maps& x, int64_t pitch) : pitch(pitch) {
    for (int i = 0; i < 2; ++i)
      phases[i] = std::min(conv.stride[i], (conv.kernel[i] - 1) * conv.dilation[i] + 1);
    size = (x.h + 2 * conv.pad[0] + conv.stride[0] - 1) / conv.stride[0] * pitch + LANES;
  }
  int64_t offset(const Conv& conv, int64_t row, int64_t column) const {
    const int64_t phase = row % conv.stride[0] * phases[1] + column % conv.stride[1];
    return phase * size + row / conv.stride[0] * pitch + column / conv.stride[1];
  }
};

// Copy a map with its padding, so that neighbours in a plane are neighbours of the output. A row may
// be written too far: what follows is written later, or is not read.
static void lay_out(const float* map, const Maps& x, const Conv& conv, const Layout& to, float* out) {
  static thread_local std::vector<float> line;
  const int64_t stride = conv.stride[1], pad = conv.pad[1], size = to.size;
  const bool bordered = x.border && conv.pad[0] <= 1 && pad <= 1;  // then zeros are there already
  const int64_t whole = (to.pitch + LANES - 1) / LANES * LANES;
  line.assign(whole * stride + to.phases[1], 0.f);
  for (int64_t a = 0; a < to.phases[0]; ++a) {
    float* row = out + a * to.phases[1] * size;
    for (int64_t r = a - conv.pad[0]; r < x.h + conv.pad[0]; r += conv.stride[0], row += to.pitch) {
      const float* l = bordered ? map + r * x.pitch - pad : line.data();
      if (!bordered && (r < 0 || r >= x.h)) std::fill_n(line.begin() + pad, x.w, 0.f);
      else if (!bordered) std::copy_n(map + r * x.pitch, x.w, line.begin() + pad);
      if (stride == 2 && to.phases[1] == 2)  // the common case, so that it is vectorised
        for (int64_t v = 0; v < whole; v += LANES)
#pragma omp simd
          for (int64_t c = v; c < v + LANES; ++c) row[c] = l[2 * c], row[size + c] = l[2 * c + 1];
      else
        for (int64_t b = 0; b < to.phases[1]; ++b)
          for (int64_t c = 0; c < to.pitch; ++c) row[b * size + c] = l[c * stride + b];
    }
  }
}

extern "C" {
int64_t lanes() { return LANES; }
void use_threads(Start start) { start_threads = start; }

// Nothing but 12 * LANES multiply-adds a round, in 12 chains: what a core can do at most.
float peak(int64_t rounds) {
  Vec sums[12], a = Vec{} + 0.5f, b = Vec{} + 1.f;
  for (int i = 0; i < 12; ++i) sums[i] = Vec{} + float(i);  // else they would all be one
  for (; rounds > 0; --rounds) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) sums[i] = sums[i] * a + b;
  }
  for (Vec v : sums) a += v;
  return total(a);
}

void measure_all(const Maps* x, int64_t threads) {
  parallel(x->n * x->k, x->n * x->k * x->h * x->w, threads, [&](int64_t i) { measure(*x, i); });
}

// The saliencies of x, among zeros for the maps that are not there: out [n, total].
void spread(const Maps* x, float* out, int64_t total) {
  std::fill_n(out, x->n * total, 0.f);
  for (int64_t j = 0; j < x->n * x->k; ++j)
    out[j / x->k * total + (x->channels ? x->channels[j] : j % x->k)] = x->s[j];
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
      const auto across = [&](auto step) {
#pragma omp simd
        for (int64_t c = 0; c < y->w; ++c) put[c] = t[c * step];
        for (int64_t b = 1; b < kernel[1]; ++b)
#pragma omp simd
          for (int64_t c = 0; c < y->w; ++c) put[c] = larger(put[c], t[c * step + b]);
      };
      if (stride[1] == 2) across(std::integral_constant<int64_t, 2>());  // so it is vectorised
      else across(stride[1]);
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
  const bool same = a->pitch == y->pitch && b->pitch == y->pitch && a->border && b->border;
  const int64_t h = same ? 1 : y->h, w = same ? (y->h - 1) * y->pitch + y->w : y->w;  // a long row
  parallel(y->n * y->k, y->n * y->k * y->h * y->w * 2, threads, [&](int64_t i) {
    const float *u = from[2 * i], *v = from[2 * i + 1];
    float *const to = y->data + i / y->k * y->image + i % y->k * y->plane;
    float *const plane = to - y->pitch - 1, *end = plane;
    for (int64_t r = 0; r < h; ++r) {
      const float *p = u ? u + r * a->pitch : nullptr, *q = v ? v + r * b->pitch : nullptr;
      float* const put = to + r * y->pitch;
      std::fill(end, put, 0.f);
      end = put + w;
      if (u && v) for (int64_t c = 0; c < w; ++c) put[c] = p[c] + q[c];
      else if (u || v) std::copy_n(u ? p : q, w, put);
      else std::fill_n(put, w, 0.f);
      if (relu) for (int64_t c = 0; c < w; ++c) put[c] = positive(put[c]);
    }
    std::fill(end, plane + y->plane, 0.f);
    measure(*y, i);
  });
}
}
