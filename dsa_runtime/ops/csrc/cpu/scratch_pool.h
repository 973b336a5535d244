#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace dsa::cpu {

// Memory for tasks that run at the same time. Tasks come by the hundred per second and need some 100 KiB each, for
// which the allocator would go to the kernel every time.
class ScratchPool {
 public:
  // Held by a task while it runs.
  class Lease {
   public:
    Lease(ScratchPool& pool, std::size_t floats) : pool_(pool), block_(pool.Take(floats)) {}
    ~Lease() { pool_.GiveBack(std::move(block_)); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    float* data() const { return block_.data.get(); }

   private:
    ScratchPool& pool_;
    struct ScratchBlock {
      struct Free {
        void operator()(float* data) const { ::operator delete[](data, std::align_val_t{64}); }
      };
      std::unique_ptr<float[], Free> data;
      std::size_t floats = 0;
    } block_;
    friend class ScratchPool;
  };

 private:
  using Block = Lease::ScratchBlock;

  Block Take(std::size_t floats) {
    Block block;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!idle_.empty()) {
        block = std::move(idle_.back());
        idle_.pop_back();
      }
    }
    if (block.floats < floats) {
      block.data.reset(static_cast<float*>(::operator new[](floats * sizeof(float), std::align_val_t{64})));
      block.floats = floats;
    }
    return block;
  }

  void GiveBack(Block block) noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    try {
      idle_.push_back(std::move(block));
    } catch (const std::bad_alloc&) {
      // Then it is freed.
    }
  }

  std::mutex mutex_;
  std::vector<Block> idle_;
};

}  // namespace dsa::cpu
