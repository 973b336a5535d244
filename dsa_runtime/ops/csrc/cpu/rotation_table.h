#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace dsa::cpu {

// Cosines and sines of the angles age * theta^(-2i / temporal_dims). In double, because an angle may be thousands of
// turns; those of small ages, which are almost all, are kept.
class RotationTable {
 public:
  RotationTable(int dims, float theta) : frequencies_(dims / 2) {
    for (int i = 0; i < dims / 2; ++i) frequencies_[i] = std::pow(static_cast<double>(theta), -2.0 * i / dims);
    kept_.resize(kKeptAges * Width());
    for (std::int32_t age = 0; age < kKeptAges; ++age) Compute(age, kept_.data() + age * Width());
  }

  // Cosines to `cosine`, sines to `sine`, dims / 2 values each.
  void Write(std::int32_t age, float* cosine, float* sine) const {
    const std::size_t half = frequencies_.size();
    if (half == 0) return;
    std::vector<float> computed;
    const float* row;
    if (age < kKeptAges) {
      row = kept_.data() + age * Width();
    } else {
      computed.resize(Width());
      Compute(age, computed.data());
      row = computed.data();
    }
    std::memcpy(cosine, row, half * sizeof(float));
    std::memcpy(sine, row + half, half * sizeof(float));
  }

 private:
  static constexpr std::int32_t kKeptAges = 64;

  std::size_t Width() const { return 2 * frequencies_.size(); }

  void Compute(std::int32_t age, float* row) const {
    const std::size_t half = frequencies_.size();
    for (std::size_t i = 0; i < half; ++i) {
      row[i] = static_cast<float>(std::cos(age * frequencies_[i]));
      row[half + i] = static_cast<float>(std::sin(age * frequencies_[i]));
    }
  }

  std::vector<double> frequencies_;
  std::vector<float> kept_;
};

}  // namespace dsa::cpu
