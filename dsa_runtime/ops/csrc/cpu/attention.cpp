// Paged frame attention with queries in the lanes of vector registers.
//
// A task holds the queries of its block transposed, q[d][query]. A score is then a sum over d of vector(q[d]) times a
// key's scalar, and an output is a sum over keys of vector(probability) times a value's scalar: keys and values are
// read from the pool as they lie there, one broadcast each, never packed or copied, and the softmax runs along lanes
// without a single reduction across them. Keys come in chunks whose scores stay in the processor's near caches; a
// maximum and a running sum join the chunks (online softmax, arXiv 1805.02867).
//
// Compiled once per instruction set with DSA_ISA naming it. Nothing here may have external linkage but the kernel's
// own table: the linker merges inline functions of the same name, and one compiled for AVX-512 must not be what an
// older processor runs. So: no standard library beyond its C types, everything in an unnamed namespace.

#include "halves.h"
#include "kernel.h"
#include "vectors.h"

namespace dsa::cpu {
namespace {

constexpr int kBlockVectors = 64 / kLanes;  // at most 64 queries a task
constexpr int kChunkKeys = 128;
constexpr float kLog2E = 1.44269504088896340736f;
constexpr float kSlack = 20.0f;  // in powers of two: how far a score may exceed the maximum that is in use

std::int64_t Min(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// Where the keys and values of some tokens of one head lie: rows of D floats.
struct Piece {
  const float *keys, *values;
  std::int64_t stride;  // floats from one token's row to the next
  std::int64_t entry;   // of the tables, or kOwnFrame: how the query is rotated for them
  int count;
};

constexpr std::int64_t kOwnFrame = -1;

int Vectors(std::int64_t queries) { return static_cast<int>((queries + kLanes - 1) / kLanes); }
std::int64_t BlockQueries() { return kBlockVectors * kLanes; }
bool Widens(const FrameAttention& call) {
  return call.type == Type::kFloat16 || call.pool_type == Type::kFloat16;
}

// One task's buffers. `width` is the lanes of the block, padded to whole vectors.
class Block {
 public:
  Block(const FrameAttention& call, const Rotations& rotations, std::int64_t task, float* scratch)
      : call_(call), rotations_(rotations), dims_(call.head_dim), stride_(call.heads * call.head_dim) {
    const std::int64_t blocks = (call.tokens + BlockQueries() - 1) / BlockQueries();
    first_ = task % blocks * BlockQueries();
    head_ = task / blocks % call.heads;
    session_ = task / blocks / call.heads;
    queries_ = Min(BlockQueries(), call.tokens - first_);
    vectors_ = Vectors(queries_);
    width_ = vectors_ * kLanes;
    query_ = scratch;
    unrotated_ = query_ + dims_ * width_;
    output_ = unrotated_ + call.temporal_dims * width_;
    scores_ = output_ + dims_ * width_;
    maximum_ = scores_ + kChunkKeys * width_;
    highest_ = maximum_ + width_;
    sum_ = highest_ + width_;
    chunk_sum_ = sum_ + width_;
    wide_ = chunk_sum_ + width_;
  }

  static std::size_t ScratchFloats(const FrameAttention& call) {
    const std::int64_t width = Vectors(Min(BlockQueries(), call.tokens)) * kLanes;
    const std::int64_t rows = 2 * call.head_dim + call.temporal_dims + kChunkKeys + 4;
    const std::int64_t wide = Widens(call) ? 2 * kChunkKeys * call.head_dim : 0;
    return static_cast<std::size_t>(rows * width + wide);
  }

  void Run() {
    LoadQuery();
    for (std::int64_t i = 0; i < dims_ * width_; i += kLanes) At(output_ + i) = Vector{};
    for (int v = 0; v < vectors_; ++v) {
      At(maximum_ + v * kLanes) = At(highest_ + v * kLanes) = Vector{} - __builtin_inff();
      At(sum_ + v * kLanes) = At(chunk_sum_ + v * kLanes) = Vector{};
    }
    AttendTo(call_.key, call_.value, session_, call_.type);
    FinishChunk();
    for (std::int64_t w = 0; w < call_.window; ++w) {
      const std::int64_t entry = session_ * call_.window + w;
      if (call_.slot_table[entry] < 0) continue;
      RotateQuery(entry);
      AttendTo(call_.key_pool, call_.value_pool, call_.slot_table[entry], call_.pool_type);
    }
    if (filled_ > 0) FinishChunk();
    StoreOutput();
  }

 private:
  // Queries to lanes, scaled for a softmax in powers of two.
  void LoadQuery() {
    const float factor = call_.scale * kLog2E;
    const std::int64_t start = ((session_ * call_.tokens + first_) * call_.heads + head_) * dims_;
    for (int v = 0; v < vectors_; ++v) {
      const std::int64_t valid = Min(kLanes, queries_ - v * kLanes);
      std::int64_t d = 0;
      if (call_.type == Type::kFloat32) {
        const float* rows = static_cast<const float*>(call_.query) + start + v * kLanes * stride_;
        for (; d + kLanes <= dims_; d += kLanes) {
          Vector tile[kLanes];
          for (int i = 0; i < kLanes; ++i) {
            tile[i] = i < valid ? LoadUnaligned(rows + i * stride_ + d) * factor : Vector{};
          }
          Transpose(tile);
          for (int i = 0; i < kLanes; ++i) At(query_ + (d + i) * width_ + v * kLanes) = tile[i];
        }
      }
      for (; d < dims_; ++d) {
        for (int i = 0; i < kLanes; ++i) {
          const std::int64_t element = start + (v * kLanes + i) * stride_ + d;
          query_[d * width_ + v * kLanes + i] = i < valid ? Element(call_.query, element) * factor : 0.0f;
        }
      }
    }
    for (std::int64_t i = 0; i < call_.temporal_dims * width_; i += kLanes) At(unrotated_ + i) = At(query_ + i);
  }

  float Element(const void* tensor, std::int64_t index) const {
    return call_.type == Type::kFloat32 ? static_cast<const float*>(tensor)[index]
                                        : ToFloat(static_cast<const Half*>(tensor)[index]);
  }

  void RotateQuery(std::int64_t entry) {
    entry_ = entry;
    const std::int64_t half = call_.temporal_dims / 2;
    for (std::int64_t i = 0; i < half; ++i) {
      const float cosine = entry == kOwnFrame ? 1.0f : rotations_.cosine[entry * half + i];
      const float sine = entry == kOwnFrame ? 0.0f : rotations_.sine[entry * half + i];
      for (std::int64_t lane = 0; lane < width_; lane += kLanes) {
        const Vector x = At(unrotated_ + i * width_ + lane), y = At(unrotated_ + (i + half) * width_ + lane);
        At(query_ + i * width_ + lane) = x * cosine - y * sine;
        At(query_ + (i + half) * width_ + lane) = x * sine + y * cosine;
      }
    }
  }

  // Adds the scores of one frame's tokens, chunk by chunk; `frame` counts frames of T tokens in the tensors.
  void AttendTo(const void* keys, const void* values, std::int64_t frame, Type type) {
    for (std::int64_t token = 0; token < call_.tokens;) {
      if (filled_ == kChunkKeys) FinishChunk();
      const int count = static_cast<int>(Min(kChunkKeys - filled_, call_.tokens - token));
      const std::int64_t start = ((frame * call_.tokens + token) * call_.heads + head_) * dims_;
      Piece piece{static_cast<const float*>(keys) + start, static_cast<const float*>(values) + start, stride_, entry_,
                  count};
      if (type == Type::kFloat16) {
        float* wide_keys = wide_ + filled_ * dims_;
        float* wide_values = wide_keys + kChunkKeys * dims_;
        for (int i = 0; i < count; ++i) {
          Widen(static_cast<const Half*>(keys) + start + i * stride_, wide_keys + i * dims_, dims_);
          Widen(static_cast<const Half*>(values) + start + i * stride_, wide_values + i * dims_, dims_);
        }
        piece = {wide_keys, wide_values, dims_, entry_, count};
      }
      if (attended_) {
        AddScores<Scores::kProbabilities>(piece);
      } else {
        AddScores<Scores::kRaw>(piece);
      }
      pieces_[piece_count_++] = piece;
      token += count;
    }
  }

  // What a tile leaves in `scores_`: scores, or at once their probabilities, not yet divided by the sum. The latter
  // needs a maximum before the scores are known. That of the first chunk, the frame's own tokens, nearly always does:
  // it need not be exact, only near enough for 2^(score - maximum) to stay in range.
  enum class Scores { kRaw, kProbabilities };

  template <Scores kKind>
  void AddScores(const Piece& piece) {
    if (vectors_ % kTileVectors == 0) {
      ScoreKeys<kKind, kTileVectors>(piece);
    } else if (vectors_ % 2 == 0) {
      ScoreKeys<kKind, 2>(piece);
    } else {
      ScoreKeys<kKind, 1>(piece);
    }
    filled_ += piece.count;
  }

  template <Scores kKind, int kVectors>
  void ScoreKeys(const Piece& piece) {
    constexpr int kKeys = kVectors == 1 ? 8 : kTile / kVectors;
    int n = 0;
    for (; n + kKeys <= piece.count; n += kKeys) {
      if constexpr (kVectors == kTileVectors) Prefetch(piece, n + kKeys, n + 2 * kKeys);  // fewer queries: not worth it
      for (int v = 0; v < vectors_; v += kVectors) ScoreTile<kKind, kVectors, kKeys>(piece, n, v * kLanes);
    }
    for (; n < piece.count; ++n) {
      for (int v = 0; v < vectors_; v += kVectors) ScoreTile<kKind, kVectors, 1>(piece, n, v * kLanes);
    }
  }

  // The keys of one head lie a whole token apart, which the processor's own prefetching sees too late.
  void Prefetch(const Piece& piece, int first, int end) const {
    for (int n = first; n < end; ++n) {
      for (std::int64_t d = 0; d < dims_; d += 16) __builtin_prefetch(piece.keys + n * piece.stride + d);
    }
  }

  template <Scores kKind, int kVectors, int kKeys>
  void ScoreTile(const Piece& piece, int first, int lane) {
    const std::int64_t dims = dims_, width = width_, stride = piece.stride;
    const float* keys = piece.keys + first * stride;
    Vector score[kKeys][kVectors];
    DSA_UNROLL for (int n = 0; n < kKeys; ++n) {
      DSA_UNROLL for (int v = 0; v < kVectors; ++v) score[n][v] = Vector{};
    }
    const float* query = query_ + lane;
    for (std::int64_t d = 0; d < dims; ++d, query += width, ++keys) {
      Vector q[kVectors];
      DSA_UNROLL for (int v = 0; v < kVectors; ++v) q[v] = At(query + v * kLanes);
      DSA_UNROLL for (int n = 0; n < kKeys; ++n) {
        DSA_UNROLL for (int v = 0; v < kVectors; ++v) score[n][v] += q[v] * keys[n * stride];
      }
    }
    float* const scores = scores_ + (filled_ + first) * width + lane;
    DSA_UNROLL for (int v = 0; v < kVectors; ++v) {
      Vector highest = At(highest_ + lane + v * kLanes);
      DSA_UNROLL for (int n = 0; n < kKeys; ++n) highest = Max(highest, score[n][v]);
      At(highest_ + lane + v * kLanes) = highest;
      if constexpr (kKind == Scores::kRaw) {
        DSA_UNROLL for (int n = 0; n < kKeys; ++n) At(scores + n * width + v * kLanes) = score[n][v];
      } else {
        const Vector maximum = At(maximum_ + lane + v * kLanes);
        Vector sum = At(chunk_sum_ + lane + v * kLanes);
        DSA_UNROLL for (int n = 0; n < kKeys; ++n) {
          const Vector p = Exp2(score[n][v] - maximum);
          At(scores + n * width + v * kLanes) = p;
          sum += p;
        }
        At(chunk_sum_ + lane + v * kLanes) = sum;
      }
    }
  }

  // Adds the chunk's values, weighted by their probabilities, to the output.
  void FinishChunk() {
    if (!attended_) {
      Normalise();
    } else if (OutOfRange()) {
      ScoreAgain();
      Normalise();
    }
    for (std::int64_t lane = 0; lane < width_; lane += kLanes) {
      At(sum_ + lane) += At(chunk_sum_ + lane);
      At(chunk_sum_ + lane) = Vector{};
    }
    if (vectors_ % kTileVectors == 0) {
      WeighDims<kTileVectors>();
    } else if (vectors_ % 2 == 0) {
      WeighDims<2>();
    } else {
      WeighDims<1>();
    }
    attended_ = true;
    filled_ = piece_count_ = 0;
  }

  bool OutOfRange() const {
    Vector excess = Vector{} - __builtin_inff();
    for (std::int64_t lane = 0; lane < width_; lane += kLanes) {
      excess = Max(excess, At(highest_ + lane) - At(maximum_ + lane));
    }
    for (int i = 0; i < kLanes; ++i) {
      if (excess[i] > kSlack) return true;
    }
    return false;
  }

  void ScoreAgain() {
    const std::int64_t entry = entry_;
    filled_ = 0;
    for (int i = 0; i < piece_count_; ++i) {
      if (entry_ != pieces_[i].entry) RotateQuery(pieces_[i].entry);
      AddScores<Scores::kRaw>(pieces_[i]);
    }
    if (entry_ != entry) RotateQuery(entry);
  }

  // Raw scores to probabilities under a maximum that is exact again; what was added before is made to fit.
  void Normalise() {
    for (std::int64_t lane = 0; lane < width_; lane += kLanes) {
      const Vector maximum = At(highest_ + lane);
      Vector sum{};
      for (int n = 0; n < filled_; ++n) {
        Vector& score = At(scores_ + n * width_ + lane);
        score = Exp2(score - maximum);
        sum += score;
      }
      At(chunk_sum_ + lane) = sum;
      if (attended_) {
        const Vector fade = Exp2(At(maximum_ + lane) - maximum);
        At(sum_ + lane) *= fade;
        for (std::int64_t d = 0; d < dims_; ++d) At(output_ + d * width_ + lane) *= fade;
      }
      At(maximum_ + lane) = maximum;
    }
  }

  template <int kVectors>
  void WeighDims() {
    constexpr int kDims = kVectors == 1 ? 8 : kTile / kVectors;
    std::int64_t d = 0;
    for (; d + kDims <= dims_; d += kDims) {
      for (int v = 0; v < vectors_; v += kVectors) WeighTile<kVectors, kDims>(d, v * kLanes);
    }
    for (; d < dims_; ++d) {
      for (int v = 0; v < vectors_; v += kVectors) WeighTile<kVectors, 1>(d, v * kLanes);
    }
  }

  template <int kVectors, int kDims>
  void WeighTile(std::int64_t d, int lane) {
    const std::int64_t width = width_;
    float* const output = output_ + d * width + lane;
    Vector sum[kDims][kVectors];
    DSA_UNROLL for (int i = 0; i < kDims; ++i) {
      DSA_UNROLL for (int v = 0; v < kVectors; ++v) sum[i][v] = At(output + i * width + v * kLanes);
    }
    const float* probabilities = scores_ + lane;
    for (int piece = 0; piece < piece_count_; ++piece) {
      const std::int64_t stride = pieces_[piece].stride;
      const float* values = pieces_[piece].values + d;
      for (int n = pieces_[piece].count; n > 0; --n, values += stride, probabilities += width) {
        DSA_UNROLL for (int v = 0; v < kVectors; ++v) {
          const Vector p = At(probabilities + v * kLanes);
          DSA_UNROLL for (int i = 0; i < kDims; ++i) sum[i][v] += p * values[i];
        }
      }
    }
    DSA_UNROLL for (int i = 0; i < kDims; ++i) {
      DSA_UNROLL for (int v = 0; v < kVectors; ++v) At(output + i * width + v * kLanes) = sum[i][v];
    }
  }

  void StoreOutput() {
    const std::int64_t start = ((session_ * call_.tokens + first_) * call_.heads + head_) * dims_;
    for (int v = 0; v < vectors_; ++v) {
      const Vector factor = 1.0f / At(sum_ + v * kLanes);
      const std::int64_t valid = Min(kLanes, queries_ - v * kLanes);
      std::int64_t d = 0;
      if (call_.type == Type::kFloat32) {
        float* rows = static_cast<float*>(call_.output) + start + v * kLanes * stride_;
        for (; d + kLanes <= dims_; d += kLanes) {
          Vector tile[kLanes];
          for (int i = 0; i < kLanes; ++i) tile[i] = At(output_ + (d + i) * width_ + v * kLanes) * factor;
          Transpose(tile);
          for (int i = 0; i < valid; ++i) *reinterpret_cast<UnalignedVector*>(rows + i * stride_ + d) = tile[i];
        }
      }
      for (; d < dims_; ++d) {
        const Vector result = At(output_ + d * width_ + v * kLanes) * factor;
        for (int i = 0; i < valid; ++i) StoreElement(start + (v * kLanes + i) * stride_ + d, result[i]);
      }
    }
  }

  void StoreElement(std::int64_t index, float value) {
    if (call_.type == Type::kFloat32) {
      static_cast<float*>(call_.output)[index] = value;
    } else {
      static_cast<Half*>(call_.output)[index] = ToHalf(value);
    }
  }

  const FrameAttention& call_;
  const Rotations& rotations_;
  const std::int64_t dims_, stride_;
  std::int64_t first_, head_, session_, queries_, width_;
  int vectors_;
  // Rows of `width_` lanes.
  float* query_;      // [D], rotated for the slot at hand
  float* unrotated_;  // [temporal_dims]
  float* output_;     // [D], not yet divided by the sum
  float* scores_;     // [kChunkKeys], then probabilities
  float *maximum_, *highest_;  // what is subtracted from scores; the largest score
  float *sum_, *chunk_sum_;    // of the probabilities: finished chunks, and the one at hand
  float* wide_;       // [2, kChunkKeys, D]: keys and values of float16, widened
  Piece pieces_[kChunkKeys];
  int piece_count_ = 0, filled_ = 0;
  std::int64_t entry_ = kOwnFrame;  // what the query is rotated for
  bool attended_ = false;           // the first chunk is finished
};

std::int64_t Tasks(const FrameAttention& call) {
  return call.batch * call.heads * ((call.tokens + BlockQueries() - 1) / BlockQueries());
}

void Run(const FrameAttention& call, const Rotations& rotations, std::int64_t task, float* scratch) {
  Block(call, rotations, task, scratch).Run();
}

#define DSA_TEXT(name) DSA_QUOTE(name)
#define DSA_QUOTE(name) #name

}  // namespace

extern const Kernel DSA_ISA;
const Kernel DSA_ISA = {DSA_TEXT(DSA_ISA), Tasks, Block::ScratchFloats, Run};

}  // namespace dsa::cpu
