// Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2,
// 3", SC 2011), so that an element's draw depends on its position alone.
#include "vm.h"

namespace binade {
namespace BINADE_ISA {

struct Key {
  uint32_t words[4];
};

/// words[4 i + w] = word w of the block with counter (counters[i], key.words[2], key.words[3] ^ stream), for i < count.
static void philoxBlocks(const Key& key, uint32_t stream, const uint64_t* counters, int64_t count, uint32_t* words) {
  const uint32_t counter2 = key.words[2], counter3 = key.words[3] ^ stream;
  for (int64_t i = 0; i < count; ++i) {
    uint32_t x0 = static_cast<uint32_t>(counters[i]), x1 = static_cast<uint32_t>(counters[i] >> 32);
    uint32_t x2 = counter2, x3 = counter3, k0 = key.words[0], k1 = key.words[1];
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
      const uint64_t product0 = uint64_t{0xD2511F53u} * x0;
      const uint64_t product1 = uint64_t{0xCD9E8D57u} * x2;
      x0 = static_cast<uint32_t>(product1 >> 32) ^ x1 ^ k0;
      x1 = static_cast<uint32_t>(product1);
      x2 = static_cast<uint32_t>(product0 >> 32) ^ x3 ^ k1;
      x3 = static_cast<uint32_t>(product0);
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    words[4 * i] = x0;
    words[4 * i + 1] = x1;
    words[4 * i + 2] = x2;
    words[4 * i + 3] = x3;
  }
}

static inline float uniformOf(uint32_t word) { return static_cast<float>(static_cast<int32_t>(word >> 8)) * 0x1p-24f; }

void drawUniform(const void* keyWords, uint32_t stream, int64_t position, int64_t stride, float* lanes, int64_t count) {
  alignas(64) uint64_t counters[kBlockLanes];
  alignas(64) uint32_t words[4 * kBlockLanes];
  Key key;
  __builtin_memcpy(&key, keyWords, sizeof key);
  if (stride == 1) {
    const int64_t first = position >> 2;
    const int64_t blocks = ((position + count - 1) >> 2) - first + 1;
    for (int64_t i = 0; i < blocks; ++i) counters[i] = static_cast<uint64_t>(first + i);
    philoxBlocks(key, stream, counters, blocks, words);
    const uint32_t* drawn = words + (position & 3);
    for (int64_t i = 0; i < count; ++i) lanes[i] = uniformOf(drawn[i]);
    return;
  }
  for (int64_t i = 0; i < count; ++i) counters[i] = static_cast<uint64_t>((position + i * stride) >> 2);
  philoxBlocks(key, stream, counters, count, words);
  for (int64_t i = 0; i < count; ++i) lanes[i] = uniformOf(words[4 * i + ((position + i * stride) & 3)]);
}

}  // namespace BINADE_ISA
}  // namespace binade
