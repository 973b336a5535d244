// One call of each operator as plain data: validated sizes and borrowed pointers. All tensors are dense and row-major.
// B batch, T tokens of a frame, H heads, D head width, S pool slots, W window.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dsa {

enum class Type : int { kFloat32, kFloat16, kBFloat16 };

constexpr std::size_t SizeOf(Type type) { return type == Type::kFloat32 ? 4 : 2; }

// output = softmax over this frame's keys and those of the filled slots, as dsa_runtime/ops/reference.py.
struct FrameAttention {
  std::int64_t batch, tokens, heads, head_dim, slots, window;
  float scale;         // of the scores
  int temporal_dims;   // even, 0..D: leading dimensions of the query that are rotated by a slot's age
  float theta;
  Type type;           // of query, key, value and output
  Type pool_type;      // of the pools: `type`, or kFloat16 beside kFloat32
  const void *query, *key, *value;         // [B, T, H, D]
  const void *key_pool, *value_pool;       // [S, T, H, D]
  const std::int32_t *slot_table, *slot_age;  // [B, W]; a slot of -1 is empty. In the kernel's memory: host or device
  void* output;                            // [B, T, H, D]
};

// pool[slot[b]] = frame[b] for every b with slot[b] >= 0.
struct FrameWrite {
  std::int64_t batch, frame_elements, slots;  // B, T * H * D, S
  Type type;                                  // of frame and pool
  const void* frame;                          // [B, T, H, D]
  const std::int32_t* slot;                   // [B]; -1 writes nothing. In the kernel's memory: host or device
  void* pool;                                 // [S, T, H, D]
};

}  // namespace dsa
