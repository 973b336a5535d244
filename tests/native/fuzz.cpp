// Random calls of both CPU operators, right and wrong ones: fuzz ITERATIONS SEED.
//
// What must happen is decided here, independently of the library: a valid call gives the reference's output, an invalid
// one an error whose text begins with the name of an offending input or attribute, with nothing written. Prints how
// often each outcome occurred.

#include <algorithm>
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "mock_runtime.h"
#include "reference.h"

extern "C" const char* dsa_ops_instruction_set();

namespace {

using namespace dsa::mock;
using dsa::abi::ElementType;
using Shape = std::vector<std::int64_t>;
using Names = std::set<std::string>;

constexpr ElementType kF32 = dsa::abi::kFloat32, kF16 = dsa::abi::kFloat16, kInt = dsa::abi::kInt32;
constexpr auto kDouble = static_cast<ElementType>(11);
constexpr std::int64_t kMaxHeadDim = 4096;

const std::vector<std::string> kAttentionInputs = {"query",      "key",        "value",   "key_pool",
                                                   "value_pool", "slot_table", "slot_age"};
const std::vector<std::string> kWriteInputs = {"frame", "pool", "slot"};

class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}
  std::int64_t Between(std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(engine_);
  }
  bool OneIn(int n) { return Between(1, n) == 1; }
  double Real(double low, double high) { return std::uniform_real_distribution<double>(low, high)(engine_); }
  template <typename T>
  T Any(const std::vector<T>& from) {
    return from[static_cast<std::size_t>(Between(0, static_cast<std::int64_t>(from.size()) - 1))];
  }

 private:
  std::mt19937_64 engine_;
};

struct Sizes {
  std::int64_t B, T, H, D, S, W;
};

struct Call {
  std::string op;
  std::vector<ElementType> declared;  // decides which operator is taken
  std::vector<Tensor> inputs;
  Attributes attributes;
  bool bound = false;  // the output is bound memory; that of the pool for PagedFrameWrite
  Order order = Order::kForward;
};

// ---------------------------------------------------------------------------------------------- calls

Sizes RandomSizes(Random& random) {
  Sizes sizes{random.Between(1, 3), random.Between(1, 12), random.Between(1, 3),
              random.Between(1, 20), random.Between(0, 5), random.Between(0, 6)};
  if (random.OneIn(10)) sizes.D = random.Any<std::int64_t>({24, 32, 33, 48, 64, 100});
  if (random.OneIn(25)) sizes.T = random.Any<std::int64_t>({16, 63, 64, 65, 130});
  if (random.OneIn(60)) sizes = {2, 65, 2, 64, 3, 2};  // enough work to be worth several threads
  if (random.OneIn(25)) {
    std::int64_t* any = random.Any<std::int64_t*>({&sizes.B, &sizes.T, &sizes.H, &sizes.D, &sizes.S, &sizes.W});
    *any = random.Any<std::int64_t>({0, 0, 1LL << 31, 1LL << 40, 1LL << 62});
    if (random.OneIn(3)) sizes.B = sizes.S = 0, sizes.T = sizes.H = sizes.D = 1LL << 31;
    if (random.OneIn(4)) sizes = {1, 1, 1, random.Between(kMaxHeadDim, kMaxHeadDim + 1), 1, 1};
  }
  return sizes;
}

Tensor RandomFloats(Random& random, ElementType type, const Shape& shape) {
  Tensor tensor = MakeTensor(type, shape);
  if (!tensor.block) return tensor;
  for (std::int64_t i = 0; i < Elements(type, shape); ++i) Set(tensor, i, random.Real(-1, 1));
  return tensor;
}

Tensor RandomInts(Random& random, const Shape& shape, std::int64_t low, std::int64_t high) {
  Tensor tensor = MakeTensor(kInt, shape);
  if (!tensor.block) return tensor;
  for (std::int64_t i = 0; i < Elements(kInt, shape); ++i) {
    tensor.as<std::int32_t>()[i] = static_cast<std::int32_t>(random.Between(low, high));
  }
  return tensor;
}

Tensor RandomTensor(Random& random, ElementType type, const Shape& shape) {
  return type == kInt ? RandomInts(random, shape, -1, 0) : RandomFloats(random, type, shape);
}

Call RandomAttention(Random& random) {
  const Sizes n = RandomSizes(random);
  Call call{"PagedFrameAttention", {}, {}, {}, random.OneIn(2), Order::kForward};
  const ElementType type = random.OneIn(3) ? kF16 : kF32, pool = type == kF32 && random.OneIn(3) ? kF16 : type;
  call.declared = {type, type, type, pool, pool, kInt, kInt};
  for (int i = 0; i < 3; ++i) call.inputs.push_back(RandomFloats(random, type, {n.B, n.T, n.H, n.D}));
  for (int i = 0; i < 2; ++i) call.inputs.push_back(RandomFloats(random, pool, {n.S, n.T, n.H, n.D}));
  call.inputs.push_back(RandomInts(random, {n.B, n.W}, -1, std::clamp<std::int64_t>(n.S, 0, 9) - 1));
  call.inputs.push_back(RandomInts(random, {n.B, n.W}, 0, 12));
  const Tensor &table = call.inputs[5], &age = call.inputs[6];
  for (std::int64_t i = 0; age.block && i < n.B * n.W; ++i) {
    std::int32_t& one = age.as<std::int32_t>()[i];
    if (random.OneIn(10)) one = random.Any<std::int32_t>({0, 63, 64, 65, 1000, 1000000, INT_MAX});
    if (table.as<std::int32_t>()[i] < 0 && random.OneIn(2)) one = random.Any<std::int32_t>({-1, INT_MIN, INT_MAX});
  }
  const std::int64_t dims = random.OneIn(3) ? 0 : 2 * random.Between(0, std::min(n.D, kMaxHeadDim) / 2);
  call.attributes.ints["temporal_dims"] = dims;
  call.attributes.floats["scale"] = random.OneIn(20) ? FLT_MIN : static_cast<float>(random.Real(0.01, 1));
  call.attributes.floats["theta"] =
      random.OneIn(20) ? random.Any<float>({FLT_MAX, FLT_MIN, FLT_TRUE_MIN, 1.0f})
                       : static_cast<float>(std::pow(10, random.Real(-0.3, 6)));
  return call;
}

Call RandomWrite(Random& random) {
  const Sizes n = RandomSizes(random);
  Call call{"PagedFrameWrite", {}, {}, {}, random.OneIn(2), Order::kForward};
  const ElementType type = random.OneIn(2) ? kF16 : kF32;
  call.declared = {type, type, kInt};
  call.inputs.push_back(RandomFloats(random, type, {n.B, n.T, n.H, n.D}));
  call.inputs.push_back(RandomFloats(random, type, {n.S, n.T, n.H, n.D}));
  call.inputs.push_back(RandomInts(random, {n.B}, -1, -1));
  Tensor& slot = call.inputs.back();
  for (std::int64_t b = 0; slot.block && b < n.B && b < n.S; ++b) {
    if (!random.OneIn(4)) slot.as<std::int32_t>()[b] = static_cast<std::int32_t>(n.S - 1 - b);  // all different
  }
  return call;
}

// ---------------------------------------------------------------------------------------------- damage

void DamageShape(Random& random, Tensor& tensor) {
  Shape shape = tensor.shape;
  if (random.OneIn(3)) {
    shape.resize(static_cast<std::size_t>(random.Between(0, 6)), random.Between(0, 2));
  } else if (!shape.empty()) {
    std::int64_t& dim = random.Any<std::int64_t*>({&shape.front(), &shape.back(), &shape[shape.size() / 2]})[0];
    dim = random.Any<std::int64_t>({0, 1, dim + 1, dim + 2, 1LL << 32, 1LL << 61, INT64_MAX - 9});
  }
  tensor = RandomTensor(random, tensor.type, shape);
}

void Damage(Random& random, Call& call) {
  const auto input = static_cast<std::size_t>(random.Between(0, call.inputs.size() - 1));
  const std::int64_t kind = random.Between(0, 5);
  Tensor& tensor = call.inputs[input];
  if (kind == 0) {
    DamageShape(random, tensor);
  } else if (kind == 1) {
    const auto type = random.Any<ElementType>({kF32, kF16, kInt, kDouble, dsa::abi::kBFloat16});
    tensor = RandomTensor(random, type, tensor.shape);
  } else if (kind == 2 && call.op == "PagedFrameAttention") {
    const float bad = random.Any<float>({NAN, INFINITY, -INFINITY, 0.0f, -1.0f});
    call.attributes.floats[random.OneIn(2) ? "scale" : "theta"] = bad;
  } else if (kind == 3 && call.op == "PagedFrameAttention") {
    call.attributes.ints["temporal_dims"] =
        random.Any<std::int64_t>({-2, -1, 1, 3, 2, 22, 4096, 4098, INT_MAX, 1LL << 32, INT64_MIN, INT64_MAX});
  } else if (kind == 4 && call.op == "PagedFrameAttention" && random.OneIn(3)) {
    const std::string name = random.Any<std::string>({"scale", "theta", "temporal_dims"});
    call.attributes.floats.erase(name);
    call.attributes.ints.erase(name);
  } else {
    Tensor& table = random.OneIn(3) ? call.inputs.back() : call.inputs[call.inputs.size() == 7 ? 5 : 2];
    const std::int64_t entries = table.block && table.type == kInt ? Elements(kInt, table.shape) : 0;
    if (entries == 0) return;
    std::int32_t* entry = table.as<std::int32_t>() + random.Between(0, entries - 1);
    *entry = random.Any<std::int32_t>({-2, -1, 0, 1, 4, 5, 6, 100, INT_MIN, INT_MAX, table.as<std::int32_t>()[0]});
  }
  if (kind <= 1 && call.inputs.size() == 7 && (input == 3 || input == 5)) {
    call.inputs[input + 1] = RandomTensor(random, tensor.type, tensor.shape);  // wrong, but in accord
  }
}

// ---------------------------------------------------------------------------------------------- what is valid

bool SameDims(const Tensor& a, const Tensor& b, std::size_t from) {
  return std::equal(a.shape.begin() + from, a.shape.end(), b.shape.begin() + from, b.shape.end());
}

bool Filled(const Tensor& tensor) {
  return std::all_of(tensor.shape.begin(), tensor.shape.end(), [](std::int64_t dim) { return dim > 0; });
}

// Inputs of another rank, and those too large to have data.
Names BadRanks(const Call& call, const std::vector<std::string>& names, const std::vector<std::size_t>& ranks) {
  Names bad;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const Tensor& tensor = call.inputs[i];
    if (tensor.shape.size() != ranks[i] || (!tensor.block && Elements(tensor.type, tensor.shape) != 0)) {
      bad.insert(names[i]);
    }
  }
  return bad;
}

Names BadAttributes(const Call& call) {
  Names bad;
  if (call.op != "PagedFrameAttention") return bad;
  const auto& floats = call.attributes.floats;
  const auto& ints = call.attributes.ints;
  if (!floats.count("scale") || !std::isfinite(floats.at("scale")) || floats.at("scale") <= 0) bad.insert("scale");
  if (!floats.count("theta") || !std::isfinite(floats.at("theta")) || floats.at("theta") <= 0) bad.insert("theta");
  const std::int64_t dims = ints.count("temporal_dims") ? ints.at("temporal_dims") : -1;
  if (dims < 0 || dims % 2 != 0 || dims > kMaxHeadDim) bad.insert("temporal_dims");
  return bad;
}

Names BadAttentionInputs(const Call& call) {
  Names bad = BadRanks(call, kAttentionInputs, {4, 4, 4, 4, 4, 2, 2});
  if (!bad.empty()) return bad;
  const auto& in = call.inputs;
  const Tensor &query = in[0], &key_pool = in[3], &value_pool = in[4], &table = in[5], &age = in[6];
  if (!Filled(query) || query.shape[3] > kMaxHeadDim) bad.insert("query");
  if (query.type != kF32 && query.type != kF16) bad.insert("query");
  if (call.attributes.ints.at("temporal_dims") > query.shape[3]) bad.insert("temporal_dims");
  for (std::size_t i : {1, 2}) {
    if (!SameDims(in[i], query, 0) || in[i].type != query.type) bad.insert(kAttentionInputs[i]);
  }
  const bool pool_type = key_pool.type == query.type || (key_pool.type == kF16 && query.type == kF32);
  if (!SameDims(key_pool, query, 1) || !pool_type) bad.insert("key_pool");
  if (!SameDims(value_pool, key_pool, 0) || value_pool.type != key_pool.type) bad.insert("value_pool");
  if (table.shape[0] != query.shape[0] || table.type != kInt) bad.insert("slot_table");
  if (!SameDims(age, table, 0) || age.type != kInt) bad.insert("slot_age");
  if (!bad.empty()) return bad;
  for (std::int64_t i = 0; i < table.shape[0] * table.shape[1]; ++i) {
    const std::int32_t slot = table.as<std::int32_t>()[i];
    if (slot < -1 || slot >= key_pool.shape[0]) bad.insert("slot_table");
    if (slot >= 0 && age.as<std::int32_t>()[i] < 0) bad.insert("slot_age");
  }
  return bad;
}

Names BadWriteInputs(const Call& call) {
  Names bad = BadRanks(call, kWriteInputs, {4, 4, 1});
  if (!bad.empty()) return bad;
  const Tensor &frame = call.inputs[0], &pool = call.inputs[1], &slot = call.inputs[2];
  if (!Filled(frame) || frame.type == kInt || frame.type == kDouble) bad.insert("frame");
  if (!SameDims(pool, frame, 1) || pool.type != frame.type) bad.insert("pool");
  if (slot.shape[0] != frame.shape[0] || slot.type != kInt) bad.insert("slot");
  if (!bad.empty()) return bad;
  std::set<std::int32_t> targets;
  for (std::int64_t b = 0; b < slot.shape[0]; ++b) {
    const std::int32_t target = slot.as<std::int32_t>()[b];
    if (target < -1 || target >= pool.shape[0] || (target >= 0 && !targets.insert(target).second)) bad.insert("slot");
  }
  return bad;
}

// ---------------------------------------------------------------------------------------------- what happens

std::string Describe(const Call& call) {
  std::string text = call.op;
  for (const Tensor& tensor : call.inputs) {
    text += "\n  type " + std::to_string(tensor.type) + " shape";
    for (std::int64_t dim : tensor.shape) text += " " + std::to_string(dim);
    for (std::int64_t i = 0; tensor.block && tensor.type == kInt && i < Elements(kInt, tensor.shape); ++i) {
      text += (i ? ", " : " : ") + std::to_string(tensor.as<std::int32_t>()[i]);
    }
  }
  for (const auto& [name, value] : call.attributes.floats) text += "\n  " + name + " = " + std::to_string(value);
  for (const auto& [name, value] : call.attributes.ints) text += "\n  " + name + " = " + std::to_string(value);
  return text;
}

std::string Bytes(const Tensor& tensor) {
  return tensor.block ? std::string(reinterpret_cast<const char*>(tensor.data()), tensor.bytes()) : "";
}

// The slots that no entry of the table points at, filled with NaN: whoever reads them shows it.
void PoisonUnused(Call& call) {
  const Tensor& table = call.inputs[5];
  const std::int64_t entries = table.shape[0] * table.shape[1];
  const std::int32_t* slots = table.as<std::int32_t>();
  for (Tensor* pool : {&call.inputs[3], &call.inputs[4]}) {
    const std::int64_t size = pool->shape[1] * pool->shape[2] * pool->shape[3];
    for (std::int64_t slot = 0; slot < pool->shape[0]; ++slot) {
      if (std::find(slots, slots + entries, slot) != slots + entries) continue;
      for (std::int64_t i = 0; i < size; ++i) Set(*pool, slot * size + i, NAN);
    }
  }
}

// What is wrong with a valid attention call's output; empty if nothing is.
std::string CheckAttention(const Call& call, const Tensor& output) {
  if (output.shape != call.inputs[0].shape || output.type != call.inputs[0].type) return "another shape or type";
  // A theta below 0.1 turns one bit of a power into a large part of a turn.
  const bool comparable = call.attributes.floats.at("theta") > 0.1f;
  // A score's rounding error grows with the number of its terms.
  const double terms = static_cast<double>(output.shape[3]);
  const double tolerance = output.type == kF32 ? 1e-5 * std::fmax(1, std::sqrt(terms / 256)) : 2e-3;
  const std::vector<double> expected = AttentionReference(call.inputs, call.attributes);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double got = Get(output, static_cast<std::int64_t>(i));
    if (std::isfinite(got) && (!comparable || std::fabs(got - expected[i]) <= tolerance)) continue;
    return "element " + std::to_string(i) + " is " + std::to_string(got) + ", not " + std::to_string(expected[i]);
  }
  return "";
}

std::string CheckWrite(const Call& call, const std::string& pool_before, const Tensor& output) {
  std::string expected = pool_before;
  const std::string frame = Bytes(call.inputs[0]);
  const std::int64_t batch = call.inputs[0].shape[0];
  const std::size_t size = batch ? frame.size() / static_cast<std::size_t>(batch) : 0;
  for (std::int64_t b = 0; b < batch; ++b) {
    const std::int32_t slot = call.inputs[2].as<std::int32_t>()[b];
    if (slot >= 0) expected.replace(slot * size, size, frame, b * size, size);
  }
  if (!call.bound && Bytes(call.inputs[1]) != pool_before) return "the input pool has changed";
  return Bytes(output) == expected ? "" : "the pool is not what it should be";
}

std::map<std::string, int> outcomes;

// Makes the call. Returns what is wrong with what happens; empty if nothing is.
std::string Try(const Registration& library, Call& call) {
  const dsa::abi::CustomOp* op = Find(library, call.op, call.declared);
  if (!op) return "the library lacks the operator";
  const bool attention = call.op == "PagedFrameAttention";
  const auto judge = [&](const std::string& error, const Names& bad) -> std::string {
    const std::string blamed = error.substr(0, error.find_first_of(":[ '"));
    ++outcomes[call.op + (bad.empty() ? " valid" : " invalid: " + blamed)];
    if (bad.empty()) return error.empty() ? "" : "refused: " + error;
    if (error.empty()) return "accepted in spite of " + *bad.begin();
    return bad.count(blamed) ? "" : "blamed on the wrong one: " + error + " (it is " + *bad.begin() + ")";
  };

  const Names bad_attributes = BadAttributes(call);
  const Kernel kernel(op, call.attributes);
  if (!kernel.error().empty() || !bad_attributes.empty()) return judge(kernel.error(), bad_attributes);

  const Names bad = attention ? BadAttentionInputs(call) : BadWriteInputs(call);
  if (attention && bad.empty()) PoisonUnused(call);
  const std::string pool_before = Bytes(call.inputs[1]);
  Tensor own;
  if (attention && call.bound && call.inputs[0].block) own = MakeTensor(call.inputs[0].type, call.inputs[0].shape);
  Tensor* output = !attention && call.bound ? &call.inputs[1] : &own;
  std::vector<const Tensor*> inputs;
  for (const Tensor& tensor : call.inputs) inputs.push_back(&tensor);
  const std::string error = kernel.Compute(inputs, output, call.order);

  std::string wrong = judge(error, bad);
  if (wrong.empty() && LiveObjects() != 0) wrong = "something was not released";
  if (!wrong.empty()) return wrong;
  if (error.empty()) return attention ? CheckAttention(call, *output) : CheckWrite(call, pool_before, *output);
  if (!attention && Bytes(call.inputs[1]) != pool_before) return "written to in spite of the error";
  const std::string left = Bytes(own);
  return left.find_first_not_of(static_cast<char>(kUntouched)) == std::string::npos ? "" : "output with an error";
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) return 2;
  const std::int64_t iterations = std::atoll(arguments[1]), seed = std::atoll(arguments[2]);
  const Registration library = Register();
  if (!library.error.empty()) return std::printf("%s\n", library.error.c_str()), 1;
  for (std::int64_t i = 0; i < iterations; ++i) {
    Random random(static_cast<std::uint64_t>(seed * 1000003 + i));
    Call call = random.OneIn(4) ? RandomWrite(random) : RandomAttention(random);
    call.order = random.OneIn(20) ? Order::kThreads : random.OneIn(2) ? Order::kForward : Order::kReverse;
    for (std::int64_t damage = random.Between(-2, 2); damage > 0; --damage) Damage(random, call);
    const std::string wrong = Try(library, call);
    if (!wrong.empty()) {
      std::printf("iteration %lld of seed %lld: %s\n%s\n", static_cast<long long>(i), static_cast<long long>(seed),
                  wrong.c_str(), Describe(call).c_str());
      return 1;
    }
  }
  std::printf("instruction set %s\n", dsa_ops_instruction_set());
  for (const auto& [outcome, times] : outcomes) std::printf("%d %s\n", times, outcome.c_str());
}
