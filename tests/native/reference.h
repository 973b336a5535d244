// What the operators compute, in double and in the most obvious way, on the mock runtime's tensors.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "mock_runtime.h"

namespace dsa::mock {

inline double Get(const Tensor& tensor, std::int64_t index) {
  return tensor.type == abi::kFloat32 ? tensor.as<float>()[index] : tensor.as<_Float16>()[index];
}

inline void Set(Tensor& tensor, std::int64_t index, double value) {
  if (tensor.type == abi::kFloat32) tensor.as<float>()[index] = static_cast<float>(value);
  if (tensor.type == abi::kFloat16) tensor.as<_Float16>()[index] = static_cast<_Float16>(value);
}

// Inputs as PagedFrameAttention's, valid; the output's elements in order.
inline std::vector<double> AttentionReference(const std::vector<Tensor>& inputs, const Attributes& attributes) {
  const Tensor &query = inputs[0], &table = inputs[5], &age = inputs[6];
  const std::int64_t B = query.shape[0], T = query.shape[1], H = query.shape[2], D = query.shape[3];
  const std::int64_t W = table.shape[1], dims = attributes.ints.at("temporal_dims"), half = dims / 2;
  const double scale = attributes.floats.at("scale"), theta = attributes.floats.at("theta");
  std::vector<double> output, q(static_cast<std::size_t>(D));
  for (std::int64_t row = 0; row < B * T * H; ++row) {
    const std::int64_t b = row / H / T, h = row % H;
    std::vector<double> sums(static_cast<std::size_t>(D), 0.0);
    double largest = -INFINITY, total = 0;
    for (std::int64_t w = -1; w < W; ++w) {  // -1: this frame
      const std::int64_t slot = w < 0 ? b : table.as<std::int32_t>()[b * W + w];
      if (slot < 0) continue;
      for (std::int64_t d = 0; d < D; ++d) q[d] = Get(query, row * D + d);
      for (std::int64_t i = 0; w >= 0 && i < half; ++i) {
        const double angle = age.as<std::int32_t>()[b * W + w] * std::pow(theta, -2.0 * i / dims);
        const double x = q[i], y = q[i + half];
        q[i] = x * std::cos(angle) - y * std::sin(angle);
        q[i + half] = x * std::sin(angle) + y * std::cos(angle);
      }
      const Tensor &keys = inputs[w < 0 ? 1 : 3], &values = inputs[w < 0 ? 2 : 4];
      for (std::int64_t t = 0; t < T; ++t) {
        const std::int64_t start = ((slot * T + t) * H + h) * D;
        double score = 0;
        for (std::int64_t d = 0; d < D; ++d) score += q[d] * Get(keys, start + d);
        score *= scale;
        const double fade = score > largest ? std::exp(largest - score) : 1;
        largest = std::fmax(largest, score);
        const double weight = std::exp(score - largest);
        total = total * fade + weight;
        for (std::int64_t d = 0; d < D; ++d) sums[d] = sums[d] * fade + weight * Get(values, start + d);
      }
    }
    for (double sum : sums) output.push_back(sum / total);
  }
  return output;
}

}  // namespace dsa::mock
